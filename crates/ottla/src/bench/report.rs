//! What a bench has found, as people and programs read it.

use serde_json::{Value, json};

use super::amount::Grouped;
use super::latency::Latencies;
use crate::failure::Failure;
use crate::output::{self, OutputArgs, Report, Style};

/// What was measured.
pub(super) struct Figures<'a> {
    /// Records acknowledged or read.
    pub(super) records: u64,
    pub(super) bytes: u64,
    /// From the first to the last of them.
    pub(super) seconds: f64,
    /// Times by what they are of; the picture is of the first.
    pub(super) times: Vec<(&'static str, &'a Latencies)>,
    /// What else is counted.
    pub(super) more: Vec<(&'static str, u64)>,
}

impl Figures<'_> {
    pub(super) fn print(&self, output: OutputArgs) -> Result<(), Failure> {
        match output.style() {
            Style::Json => output::print_json(&self.json()),
            Style::Table => output::print(&self.text()),
        }
    }

    fn rates(&self) -> (f64, f64) {
        let seconds = self.seconds.max(1e-6);
        (self.records as f64 / seconds, self.bytes as f64 / 1e6 / seconds)
    }

    fn json(&self) -> Value {
        let (records_per_second, mb_per_second) = self.rates();
        let mut page = json!({
            "records": self.records,
            "bytes": self.bytes,
            "seconds": self.seconds,
            "records_per_second": records_per_second,
            "mb_per_second": mb_per_second,
        });
        if let Some((_, first)) = self.times.first() {
            page["histogram"] = first.histogram();
        }
        for (time, latencies) in &self.times {
            let percentiles = latencies.figures().into_iter().map(|(name, ms)| (name.to_owned(), json!(ms)));
            page[format!("{time}_ms")] = Value::Object(percentiles.collect());
        }
        for (name, count) in &self.more {
            page[*name] = (*count).into();
        }
        page
    }

    fn text(&self) -> String {
        let (records_per_second, mb_per_second) = self.rates();
        let mut columns = vec!["records"];
        columns.extend(self.more.iter().map(|(name, _)| *name));
        columns.extend(["seconds", "records/s", "mb/s"]);
        let mut rates = Report::new(&columns);
        let mut row: Vec<Value> = vec![Grouped(self.records).to_string().into()];
        row.extend(self.more.iter().map(|(_, count)| Value::from(Grouped(*count).to_string())));
        row.push(format!("{:.2}", self.seconds).into());
        row.push(Grouped(records_per_second as u64).to_string().into());
        row.push(format!("{mb_per_second:.2}").into());
        rates.row(row);
        let mut text = rates.table();
        let Some((_, first)) = self.times.first() else { return text };
        let names: Vec<_> = first.figures().iter().map(|(name, _)| *name).collect();
        if names.is_empty() {
            return text;
        }
        let mut times = Report::new(&[&["ms"], names.as_slice()].concat());
        for (time, latencies) in &self.times {
            let mut row = vec![Value::from(*time)];
            row.extend(latencies.figures().iter().map(|(_, ms)| Value::from(format!("{ms:.2}"))));
            // Nothing was heard of that.
            row.resize(names.len() + 1, Value::Null);
            times.row(row);
        }
        text += &format!("\n{}\n{}", times.table(), first.picture());
        text
    }
}

/// The line that changes while it runs: how much so far, and how fast since the last look.
pub(super) struct Pulse {
    seconds: f64,
    records: u64,
    bytes: u64,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self { seconds: 0.0, records: 0, bytes: 0 }
    }

    pub(super) fn line(&mut self, seconds: f64, records: u64, bytes: u64, latencies: &Latencies) -> String {
        let passed = (seconds - self.seconds).max(1e-6);
        let records_per_second = (records - self.records) as f64 / passed;
        let mb_per_second = (bytes - self.bytes) as f64 / 1e6 / passed;
        *self = Self { seconds, records, bytes };
        let mut line = format!(
            "{seconds:.0} s: {} records, {}/s, {mb_per_second:.1} MB/s",
            Grouped(records),
            Grouped(records_per_second as u64)
        );
        if records > 0 {
            let [p50, p99] = [0.5, 0.99].map(|share| latencies.quantile_ms(share));
            line += &format!(", p50 {p50:.1} ms, p99 {p99:.1} ms");
        }
        line
    }
}
