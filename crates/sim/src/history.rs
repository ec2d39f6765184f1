//! What clients were told, and whether the logs agree with it in the end.
//!
//! Every value is written once. One that was acknowledged lies at its offset, for ever; one whose answer never came may lie
//! somewhere, once; nothing that a reader has seen is ever different or gone.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use parking_lot::Mutex;

/// A partition and an offset.
pub(crate) type Place = (i32, i64);

/// What a client wrote in one transaction: places, whose offsets are known where it was told, and values.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    pub(crate) name: String,
    pub(crate) values: Vec<((i32, Option<i64>), String)>,
}

/// What became of a transaction, as its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Committed,
    Aborted,
    NotKnown,
}

#[derive(Debug, Default)]
struct Events {
    acknowledged: BTreeMap<Place, String>,
    read: BTreeMap<Place, String>,
    committed: Option<i64>,
    transactions: Vec<(Transaction, Fate)>,
    /// How far readers have come.
    came_to: BTreeMap<i32, i64>,
    anomalies: Vec<String>,
    trace: String,
}

/// The record of one story. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct History(Arc<Mutex<Events>>);

impl History {
    /// Notes something that happened, for whoever reads the trace.
    pub(crate) fn note(&self, what: &str) {
        let at = turmoil::sim_elapsed().unwrap_or_default();
        self.note_at(at.as_millis(), what);
    }

    /// The same where the simulator itself acts.
    pub(crate) fn note_at(&self, millis: u128, what: &str) {
        tracing::info!(millis, "{what}");
        let _ = writeln!(self.0.lock().trace, "{millis:>7} {what}");
    }

    /// A value was acknowledged.
    pub(crate) fn acknowledged(&self, place: Place, value: &str) {
        self.note(&format!("acknowledged {value} at {}/{}", place.0, place.1));
        let mut events = self.0.lock();
        if let Some(other) = events.acknowledged.insert(place, value.to_owned()) {
            events.anomalies.push(format!("{other} and {value} were both acknowledged at {place:?}"));
        }
    }

    /// A reader was given a value.
    pub(crate) fn read(&self, place: Place, value: &str) {
        let mut events = self.0.lock();
        if let Some(before) = events.read.insert(place, value.to_owned())
            && before != value
        {
            events.anomalies.push(format!("{place:?} was {before}, and is {value}"));
        }
    }

    /// A reader of a partition has come so far.
    pub(crate) fn came_to(&self, partition: i32, offset: i64) {
        self.0.lock().came_to.insert(partition, offset);
    }

    /// A transaction is over for its client.
    pub(crate) fn transaction(&self, transaction: &Transaction, fate: Fate) {
        self.note(&format!(
            "transaction {} of {} values: {fate:?}",
            transaction.name,
            transaction.values.len()
        ));
        if fate == Fate::Committed {
            for ((partition, offset), value) in &transaction.values {
                let offset = offset.expect("nothing is committed that was not acknowledged");
                self.acknowledged((*partition, offset), value);
            }
        }
        self.0.lock().transactions.push((transaction.clone(), fate));
    }

    /// Compares what readers of committed records see in the end with all transactions, and with how far the source of what was
    /// copied from it is said to have been read.
    pub(crate) fn check_transactions(&self, seen: &BTreeMap<Place, String>, copied: i64) {
        let mut events = self.0.lock();
        let mut anomalies = Vec::new();
        let mut written: BTreeMap<&str, Place> =
            seen.iter().map(|(place, value)| (&**value, *place)).collect();
        let mut copies: BTreeMap<i64, &str> = BTreeMap::new();
        for (place, value) in seen {
            let came_to = events.came_to.get(&place.0).copied().unwrap_or(0);
            if place.1 < came_to && !events.read.contains_key(place) {
                anomalies.push(format!("a reader came to {came_to} and was not given {value} at {place:?}"));
            }
            let source = value.rsplit_once(':').and_then(|(_, source)| source.parse().ok());
            if let Some(source) = source
                && let Some(other) = copies.insert(source, value)
            {
                anomalies.push(format!("{other} and {value} are both committed copies of {source}"));
            }
        }
        for (Transaction { name, values }, fate) in &events.transactions {
            let there = values.iter().filter(|(_, value)| written.remove(&**value).is_some()).count();
            match fate {
                Fate::Aborted if there > 0 => {
                    anomalies.push(format!(
                        "{there} of {} values of {name}, which was aborted, are there",
                        values.len()
                    ));
                }
                Fate::Committed | Fate::NotKnown if ![0, values.len()].contains(&there) => {
                    anomalies.push(format!("{name} is torn: {there} of {} values are there", values.len()));
                }
                Fate::Committed if there == 0 && !values.is_empty() => {
                    anomalies.push(format!("{name} was committed, and nothing of it is there"));
                }
                Fate::Committed | Fate::NotKnown | Fate::Aborted => {}
            }
        }
        let unknown = written
            .into_iter()
            .map(|(value, place)| format!("nobody wrote {value}, which lies at {place:?}"));
        anomalies.extend(unknown);
        let missing = (0..copied).find(|source| !copies.contains_key(source));
        if let Some(missing) = missing {
            anomalies.push(format!(
                "the source was read up to {copied}, and nothing committed is a copy of {missing}"
            ));
        }
        if let Some((source, value)) = copies.range(copied..).next() {
            anomalies.push(format!(
                "{value} is committed, a copy of {source}, and the source was read up to {copied}"
            ));
        }
        events.anomalies.extend(anomalies);
    }

    /// A group's offset was acknowledged.
    pub(crate) fn committed(&self, offset: i64) {
        self.note(&format!("committed {offset}"));
        let mut events = self.0.lock();
        events.committed = events.committed.max(Some(offset));
    }

    /// A group's offset was asked for, after everything that was committed until `since`.
    pub(crate) fn offset_read(&self, offset: i64, since: Option<i64>) {
        if let Some(since) = since.filter(|since| offset < *since) {
            let message = format!("the group's offset is {offset} after {since} was acknowledged");
            self.0.lock().anomalies.push(message);
        }
    }

    /// The largest offset that was committed.
    pub(crate) fn last_committed(&self) -> Option<i64> {
        self.0.lock().committed
    }

    /// The offset after the last value of a partition that anybody was told of.
    pub(crate) fn end_of(&self, partition: i32) -> i64 {
        let events = self.0.lock();
        let last = |told: &BTreeMap<Place, String>| {
            let (&(_, offset), _) = told.range((partition, i64::MIN)..=(partition, i64::MAX)).next_back()?;
            Some(offset + 1)
        };
        last(&events.acknowledged).max(last(&events.read)).unwrap_or(0)
    }

    /// How many values were acknowledged.
    pub(crate) fn acknowledged_count(&self) -> usize {
        self.0.lock().acknowledged.len()
    }

    /// Compares what is in a replica of a partition in the end with everything before.
    pub(crate) fn compare(&self, replica: i32, partition: i32, found: &BTreeMap<i64, String>) {
        let mut events = self.0.lock();
        let mut anomalies = Vec::new();
        for (kind, told) in [("acknowledged", &events.acknowledged), ("read", &events.read)] {
            let here = told.range((partition, i64::MIN)..=(partition, i64::MAX));
            for ((_, offset), value) in here {
                match found.get(offset) {
                    Some(there) if there == value => {}
                    other => anomalies.push(format!(
                        "{value} was {kind} at {partition}/{offset}, and replica {replica} has {other:?}"
                    )),
                }
            }
        }
        let mut seen: BTreeMap<&str, i64> = BTreeMap::new();
        for (offset, value) in found {
            if let Some(before) = seen.insert(value, *offset) {
                anomalies.push(format!(
                    "{value} lies at {partition}/{before} and at {offset} of replica {replica}"
                ));
            }
        }
        events.anomalies.extend(anomalies);
    }

    /// What went wrong.
    pub(crate) fn anomalies(&self) -> Vec<String> {
        self.0.lock().anomalies.clone()
    }

    /// Adds what went wrong elsewhere.
    pub(crate) fn anomaly(&self, what: String) {
        self.0.lock().anomalies.push(what);
    }

    /// Everything that was noted.
    pub(crate) fn trace(&self) -> String {
        self.0.lock().trace.clone()
    }
}
