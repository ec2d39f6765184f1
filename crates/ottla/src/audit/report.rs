//! What an audit has found, as people and programs read it.

use client::ConsumedRecord;
use jiff::Timestamp;
use serde_json::{Value, json};
use wire::{Millis, Str};

use super::judge::{Beginning, Bounds, Finding, Judge, Judgement, Patience, Tally};
use super::stamp::{Carrier, Stamp};
use crate::failure::Failure;
use crate::output::{self, OutputArgs, Report, Style};

/// An audit of one topic that goes on.
pub(super) struct Audit {
    pub(super) topic: Str,
    pub(super) judge: Judge,
    carrier: Carrier,
    /// Stamps of other runs are passed over.
    run: Option<String>,
    unstamped: u64,
    unreadable: u64,
    /// What is wrong with the first stamp that could not be read.
    problem: Option<String>,
}

impl Audit {
    pub(super) fn new(
        topic: Str,
        carrier: Carrier,
        run: Option<String>,
        beginning: Beginning,
        bucket_ms: i64,
    ) -> Self {
        let judge = Judge::new(Bounds::default(), beginning, bucket_ms);
        Self { topic, judge, carrier, run, unstamped: 0, unreadable: 0, problem: None }
    }

    /// Takes in a record that was there to be read at this time; its stamp, if it is one of those that are followed.
    pub(super) fn take(&mut self, record: &ConsumedRecord, read: Millis) -> Option<Stamp> {
        match self.carrier.read(record) {
            Ok(Some(stamp)) => {
                if self.run.as_ref().is_some_and(|run| *run != stamp.run) {
                    return None;
                }
                self.judge.see(stamp.clone(), record.partition, record.offset, read);
                return Some(stamp);
            }
            Ok(None) => self.unstamped += 1,
            Err(problem) => {
                self.unreadable += 1;
                let at = || format!("partition {} offset {}: {problem}", record.partition, record.offset);
                self.problem.get_or_insert_with(at);
            }
        }
        None
    }

    /// Stamps that could not be read.
    pub(super) fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// How it stands, for a person who watches.
    pub(super) fn line(&self) -> String {
        self.judge.line()
    }

    /// Prints what was found, once nothing more comes; fails when that is not clean.
    pub(super) fn conclude(
        &self,
        output: OutputArgs,
        expected: Option<u64>,
        more: &[(&'static str, Value)],
    ) -> Result<(), Failure> {
        let judgement = self.judge.judgement(Patience::Over, expected);
        let seen = judgement.total.records + judgement.not_judged + self.unreadable;
        if seen == 0 && judgement.total.lost == 0 {
            let message =
                format!("no record of {} carries a stamp ({} without were read)", self.topic, self.unstamped);
            let advice =
                "see `ottla audit --help` for what a stamp is; --field names the JSON field that holds it";
            return Err(Failure::Failed { message, advice: Some(advice.to_owned()) });
        }
        let is_clean = judgement.is_clean() && self.unreadable == 0;
        match output.style() {
            Style::Json => output::print_json(&self.json(&judgement, is_clean, more))?,
            Style::Table => output::print(&self.text(&judgement, is_clean, more))?,
        }
        if is_clean { Ok(()) } else { Err(Failure::Reported) }
    }

    fn json(&self, judgement: &Judgement, is_clean: bool, more: &[(&'static str, Value)]) -> Value {
        let total = &judgement.total;
        let mut page = json!({
            "topic": self.topic.as_ref(),
            "clean": is_clean,
            "records": total.records,
            "runs": judgement.runs,
            "keys": judgement.keys,
            "lost": total.lost,
            "lost_at_the_end": judgement.lost_at_the_end,
            "doubled": total.doubled,
            "reordered": total.reordered,
            "not_judged": judgement.not_judged,
            "unreadable": self.unreadable,
            "unstamped": self.unstamped,
            "delay_ms": { "p50": delay(total, 0.5), "p99": delay(total, 0.99), "max": delay(total, 1.0) },
            "bucket_ms": judgement.bucket_ms,
            "buckets": buckets(judgement).json(),
            "findings": findings(judgement).json(),
            "findings_left_out": judgement.findings_left_out,
        });
        for (name, value) in more {
            page[*name] = value.clone();
        }
        page
    }

    fn text(&self, judgement: &Judgement, is_clean: bool, more: &[(&'static str, Value)]) -> String {
        let total = &judgement.total;
        let mut text = String::new();
        if !judgement.buckets.is_empty() {
            text += &format!("{}\n", buckets(judgement).table());
        }
        if !judgement.findings.is_empty() {
            text += &format!("{}\n", findings(judgement).table());
        }
        if judgement.findings_left_out > 0 {
            text += &format!("and {} more\n\n", judgement.findings_left_out);
        }
        text += &format!(
            "{} records of {} keys: {} lost, {} doubled, {} reordered",
            total.records, judgement.keys, total.lost, total.doubled, total.reordered
        );
        let others = [
            (judgement.lost_at_the_end, "of the lost were expected at the end"),
            (judgement.not_judged, "not judged: more keys or gaps than are kept"),
            (self.unreadable, "with a stamp that cannot be read"),
            (self.unstamped, "without a stamp"),
        ];
        for (count, what) in others.iter().filter(|(count, _)| *count > 0) {
            text += &format!(", {count} {what}");
        }
        text.push('\n');
        if let Some(problem) = &self.problem {
            text += &format!("{problem}\n");
        }
        for (name, value) in more {
            text += &format!("{}: {}\n", name.replace('_', " "), output::cell(value));
        }
        text += if is_clean {
            "every record came, once and in order\n"
        } else {
            "NOT every record came once and in order\n"
        };
        text
    }
}

fn buckets(judgement: &Judgement) -> Report {
    let columns = [
        "time",
        "partition",
        "records",
        "lost",
        "doubled",
        "reordered",
        "delay_p50_ms",
        "delay_p99_ms",
        "delay_max_ms",
    ];
    let mut report = Report::new(&columns);
    let mut rows: Vec<_> = judgement.buckets.iter().collect();
    rows.sort_by_key(|((partition, time), _)| (*time, *partition));
    for ((partition, begin), tally) in rows {
        report.row(vec![
            time(*begin),
            partition.0.into(),
            tally.records.into(),
            tally.lost.into(),
            tally.doubled.into(),
            tally.reordered.into(),
            delay(tally, 0.5),
            delay(tally, 0.99),
            delay(tally, 1.0),
        ]);
    }
    report
}

fn findings(judgement: &Judgement) -> Report {
    let mut report = Report::new(&["what", "run", "key", "sequence", "partition", "offset", "time"]);
    for Finding { what, run, key, sequences, partition, offset, time: at } in &judgement.findings {
        let sequence = match sequences {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        };
        report.row(vec![
            what.name().into(),
            if run.is_empty() { Value::Null } else { run.as_str().into() },
            key.as_str().into(),
            sequence.into(),
            partition.0.into(),
            offset.map_or(Value::Null, |offset| offset.0.into()),
            time(*at),
        ]);
    }
    report.without_empty(&["run", "offset"])
}

fn delay(tally: &Tally, quantile: f64) -> Value {
    match tally.delay.is_empty() {
        true => Value::Null,
        false if quantile >= 1.0 => tally.delay.max().into(),
        false => tally.delay.value_at_quantile(quantile).into(),
    }
}

fn time(at: Millis) -> Value {
    match Timestamp::from_millisecond(at.0) {
        Ok(time) => time.to_string().into(),
        // Nobody's clock shows that; the stamp does.
        Err(_) => at.0.into(),
    }
}
