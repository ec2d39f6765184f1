//! A client that sends a record every few milliseconds, partition by partition, and what it tells of each one: acknowledged or
//! given up, and when. Brokers are killed and leaders moved under it; the moments are on the clock that all processes share.
//! The client's settings are its defaults. It is ended with the value.

use super::figure::Series;
use super::options::Generator;
use super::tools::{Target, Workshop};
use crate::shell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub(crate) const RECORD_BYTES: u32 = 1024;

/// What became of one record. Moments are microseconds since 1970.
#[derive(Clone, Debug)]
pub(crate) struct Beat {
    pub(crate) partition: u32,
    /// When it was to be sent.
    pub(crate) due: u64,
    /// When the application heard of it.
    pub(crate) done: u64,
    pub(crate) error: Option<String>,
}

impl Beat {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(5, ' ');
        let verdict = words.next()?;
        let partition = words.next()?.parse().ok()?;
        let (due, done) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let error = match verdict {
            "ack" => None,
            "error" => Some(words.next().unwrap_or_default().to_owned()),
            _ => return None,
        };
        Some(Self { partition, due, done, error })
    }
}

#[derive(Default)]
struct Heard {
    beats: Mutex<Vec<Beat>>,
    changed: Condvar,
}

pub(crate) struct Pulse {
    client: Child,
    heard: Arc<Heard>,
    reader: Option<JoinHandle<()>>,
}

impl Pulse {
    /// `rate` is in records per second over all partitions.
    pub(crate) fn start(
        workshop: &Workshop,
        client: Generator,
        target: Target<'_>,
        rate: u32,
    ) -> Result<Self, String> {
        let mut command = match client {
            Generator::Librdkafka => workshop.on("pulse", target),
            Generator::Java => {
                let mut java = workshop.java_program("pulse");
                java.args(["--bootstrap", target.bootstrap, "--topic", target.topic]);
                java.args(["--partitions", &target.partitions.to_string()]);
                java
            }
        };
        command.args(["--size", &RECORD_BYTES.to_string(), "--rate", &rate.to_string()]);
        let log = shell::append(&workshop.scratch().join("pulse.log"))?;
        let mut client = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|e| format!("{}: {e}", shell::words(&command)))?;
        let told = client.stdout.take().expect("standard output was piped");
        let heard = Arc::new(Heard::default());
        let hearing = Arc::clone(&heard);
        let reader = thread::spawn(move || {
            for beat in BufReader::new(told).lines().map_while(Result::ok).filter_map(|l| Beat::parse(&l)) {
                hearing.beats.lock().unwrap_or_else(PoisonError::into_inner).push(beat);
                hearing.changed.notify_all();
            }
        });
        Ok(Self { client, heard, reader: Some(reader) })
    }

    /// How many beats there are: what comes later stands behind them.
    pub(crate) fn mark(&self) -> usize {
        self.heard.beats.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(crate) fn since(&self, mark: usize) -> Vec<Beat> {
        self.heard.beats.lock().unwrap_or_else(PoisonError::into_inner)[mark..].to_vec()
    }

    /// Waits until each of these partitions has acknowledged a record that was due at `moment` or later; gives for each when
    /// the first such record was acknowledged.
    pub(crate) fn wait_for_each(
        &mut self,
        partitions: &BTreeSet<u32>,
        mark: usize,
        moment: u64,
        wait_max: Duration,
    ) -> Result<BTreeMap<u32, u64>, String> {
        let deadline = shell::now() + wait_max;
        let mut first = BTreeMap::new();
        let mut beats = self.heard.beats.lock().unwrap_or_else(PoisonError::into_inner);
        let mut looked_at = mark;
        loop {
            for beat in &beats[looked_at..] {
                if beat.error.is_none() && beat.due >= moment && partitions.contains(&beat.partition) {
                    first.entry(beat.partition).or_insert(beat.done);
                }
            }
            looked_at = beats.len();
            if first.len() == partitions.len() {
                return Ok(first);
            }
            let left = deadline.saturating_duration_since(shell::now());
            if left.is_zero() {
                let silent: Vec<_> = partitions.iter().filter(|p| !first.contains_key(p)).collect();
                return Err(format!("no acknowledgement from the partitions {silent:?} for {wait_max:?}"));
            }
            if let Ok(Some(status)) = self.client.try_wait() {
                return Err(format!("the client has ended: {status}"));
            }
            let waited = self.heard.changed.wait_timeout(beats, left.min(Duration::from_secs(1)));
            beats = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Has the client deliver what is under way, and gives all that it ever told.
    pub(crate) fn end(mut self) -> Result<Vec<Beat>, String> {
        drop(self.client.stdin.take());
        let status = self.client.wait().map_err(|e| format!("the client of the pulse: {e}"))?;
        if let Some(reader) = self.reader.take() {
            reader.join().map_err(|_| "the reader of the pulse panicked".to_owned())?;
        }
        if status.success() { Ok(self.since(0)) } else { Err(format!("the client of the pulse: {status}")) }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

/// The longest time between two neighbouring acknowledgements of one of these partitions, in milliseconds.
pub(crate) fn longest_pause(beats: &[Beat], partitions: &BTreeSet<u32>) -> Option<f64> {
    let pause_of = |partition: &u32| {
        let mut done: Vec<u64> = beats
            .iter()
            .filter(|beat| beat.partition == *partition && beat.error.is_none())
            .map(|beat| beat.done)
            .collect();
        done.sort_unstable();
        done.windows(2).map(|pair| pair[1] - pair[0]).max()
    };
    partitions.iter().filter_map(pause_of).max().map(|micros| micros as f64 / 1e3)
}

/// How long each acknowledged record took from when it was due, in milliseconds; those due before `from` are left out.
pub(crate) fn latencies(beats: &[Beat], from: u64) -> Series {
    let counted = beats.iter().filter(|beat| beat.error.is_none() && beat.due >= from);
    Series(counted.map(|beat| beat.done.saturating_sub(beat.due) as f64 / 1e3).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beats(lines: &str) -> Vec<Beat> {
        lines.lines().map(|line| Beat::parse(line).expect("a line of a pulse")).collect()
    }

    #[test]
    fn a_pause_is_between_acknowledgements_of_one_partition() {
        let heard =
            beats("ack 0 0 1000\nack 1 0 1500\nerror 0 5000 9000 no leader\nack 0 9000 31000\nack 1 9 2000");
        assert_eq!(longest_pause(&heard, &BTreeSet::from([0, 1])), Some(30.0));
        assert_eq!(longest_pause(&heard, &BTreeSet::from([1])), Some(0.5));
        assert_eq!(longest_pause(&heard, &BTreeSet::from([2])), None);
        assert_eq!(heard[2].error.as_deref(), Some("no leader"));
    }

    #[test]
    fn a_record_is_counted_from_when_it_was_due() {
        let heard = beats("ack 0 0 1000\nack 0 2000 5000\nerror 0 2000 9000 x");
        assert_eq!(latencies(&heard, 1).0, vec![3.0]);
    }
}
