//! What the product's own clients were told, and whether it fits together.
//!
//! The topic that is read has no holes: every offset below its end is a record. So a reader may begin, a group may commit and a
//! store may stand only where everything before was handled; that is looked at the moment it happens. The log itself is compared
//! in the end with what its producers sent and were told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::history::{History, Place};

/// Offsets of a partition, most of which follow one another from the first on.
#[derive(Clone, Debug, Default)]
pub(super) struct Offsets {
    floor: i64,
    above: BTreeSet<i64>,
}

impl Offsets {
    /// False if it was there already.
    pub(super) fn insert(&mut self, offset: i64) -> bool {
        if offset < self.floor || !self.above.insert(offset) {
            return false;
        }
        while self.above.remove(&self.floor) {
            self.floor += 1;
        }
        true
    }

    /// The first that is not there.
    pub(super) fn floor(&self) -> i64 {
        self.floor
    }
}

/// A record that was sent.
#[derive(Clone, Debug)]
struct Sent {
    partition: i32,
    /// Who sent it: one process of a producer.
    life: String,
    number: u64,
}

/// The copy of a stored position that the group's coordinator confirmed last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Confirmed {
    pub(super) copy: i64,
    /// How often it was decided to go back before.
    pub(super) decisions: u64,
    /// A copy up to here says nothing to whoever begins behind the last of these decisions.
    over: i64,
}

#[derive(Debug, Default)]
struct Events {
    sent: BTreeMap<String, Sent>,
    acknowledged: BTreeMap<String, (i32, Option<i64>)>,
    /// Records that a life holds, or has held.
    given: BTreeMap<(String, i32), BTreeSet<i64>>,
    /// What members of each role have handled.
    handled: BTreeMap<(&'static str, i32), Offsets>,
    /// The largest offset that a member was told is committed.
    committed: BTreeMap<(&'static str, i32), i64>,
    copies: BTreeMap<(&'static str, i32), Confirmed>,
}

/// The record of what clients of one story were told. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct ClientHistory {
    pub(super) history: History,
    events: Arc<Mutex<Events>>,
}

impl ClientHistory {
    pub(super) fn new(history: History) -> Self {
        ClientHistory { history, events: Arc::default() }
    }

    /// A record is handed to a producer.
    pub(super) fn sends(&self, life: &str, number: u64, partition: i32) -> String {
        let value = format!("{life}-{number}");
        let sent = Sent { partition, life: life.to_owned(), number };
        self.events.lock().sent.insert(value.clone(), sent);
        value
    }

    /// A producer was told that it is there, and mostly where.
    pub(super) fn acknowledged(&self, value: &str, partition: i32, offset: Option<i64>) {
        self.events.lock().acknowledged.insert(value.to_owned(), (partition, offset));
        match offset {
            Some(offset) => self.history.acknowledged((partition, offset), value),
            None => self.history.note(&format!("acknowledged {value} in {partition}")),
        }
    }

    /// A member is given records: nothing before them may be left out.
    pub(super) fn given(&self, role: &'static str, life: &str, at: Place, records: &[(i64, String)]) {
        let (partition, position) = at;
        for (offset, value) in records {
            self.history.read((partition, *offset), value);
        }
        let mut events = self.events.lock();
        let Events { given, handled, .. } = &mut *events;
        let handled = handled.entry((role, partition)).or_default();
        let given = given.entry((life.to_owned(), partition)).or_default();
        let first = records.first().map_or(position, |(offset, _)| *offset);
        let is_missed = |offset: &i64| !handled.above.contains(offset) && !given.contains(offset);
        let missed = (handled.floor..first).find(is_missed);
        given.extend(records.iter().map(|(offset, _)| *offset));
        let jump = records.windows(2).find(|pair| pair[1].0 != pair[0].0 + 1).map(|pair| pair[0].0);
        drop(events);
        if let Some(missed) = missed {
            self.history.anomaly(format!(
                "{life} of {role} is given {partition}/{first}, and nobody has handled {missed}"
            ));
        }
        if let Some(jump) = jump {
            self.history.anomaly(format!(
                "{life} of {role} is given a batch of {partition} that leaves out what follows {jump}"
            ));
        }
    }

    /// A member lets go of records undone.
    pub(super) fn drops(&self, life: &str, partition: i32, from: i64) {
        if let Some(given) = self.events.lock().given.get_mut(&(life.to_owned(), partition)) {
            given.split_off(&from);
        }
    }

    /// A member has handled a record.
    pub(super) fn handled(&self, role: &'static str, (partition, offset): Place) {
        self.events.lock().handled.entry((role, partition)).or_default().insert(offset);
    }

    /// How far everything is handled.
    pub(super) fn floor(&self, role: &'static str, partition: i32) -> i64 {
        self.events.lock().handled.get(&(role, partition)).map_or(0, Offsets::floor)
    }

    /// A group's offset is, or was a moment ago, this one; by its own commit or as its coordinator says.
    pub(super) fn committed(&self, role: &'static str, partition: i32, next: i64, is_told: bool) {
        let mut events = self.events.lock();
        let floor = events.handled.get(&(role, partition)).map_or(0, |handled| handled.floor);
        if is_told {
            let before = events.committed.entry((role, partition)).or_insert(0);
            *before = next.max(*before);
        }
        drop(events);
        if next > floor {
            self.history.anomaly(format!(
                "{role} has committed {next} for {partition}, and nobody has handled {floor}"
            ));
        }
    }

    /// The largest offset that a member was told is committed.
    pub(super) fn last_committed(&self, role: &'static str, partition: i32) -> i64 {
        self.events.lock().committed.get(&(role, partition)).copied().unwrap_or(0)
    }

    /// The coordinator confirmed the copy of a position.
    pub(super) fn copied(&self, role: &'static str, partition: i32, copy: i64) {
        let mut events = self.events.lock();
        let confirmed = events.copies.entry((role, partition)).or_default();
        if copy > confirmed.over {
            confirmed.copy = copy;
        }
    }

    /// Somebody goes on by decision, wherever that is: what was confirmed before is no measure any more.
    pub(super) fn decides(&self, role: &'static str, partition: i32) {
        self.chooses(role, partition, 0);
    }

    /// The same, and the store knows that copies up to `over` are of before.
    pub(super) fn chooses(&self, role: &'static str, partition: i32, over: i64) {
        let mut events = self.events.lock();
        let confirmed = events.copies.entry((role, partition)).or_default();
        let over = over.max(confirmed.over);
        *confirmed = Confirmed { copy: 0, decisions: confirmed.decisions + 1, over };
    }

    /// The copy of a position.
    pub(super) fn copy(&self, role: &'static str, partition: i32) -> Confirmed {
        self.events.lock().copies.get(&(role, partition)).copied().unwrap_or_default()
    }

    /// Compares what lies in the log in the end with what was sent and acknowledged.
    pub(super) fn check_log(&self, log: &BTreeMap<Place, String>) {
        let events = self.events.lock();
        let mut anomalies = Vec::new();
        let mut places: BTreeMap<&str, Place> = BTreeMap::new();
        let mut last: BTreeMap<(&str, i32), (u64, i64)> = BTreeMap::new();
        let mut ends: BTreeMap<i32, i64> = BTreeMap::new();
        for (place, value) in log {
            let end = ends.entry(place.0).or_insert(0);
            if *end != place.1 {
                anomalies.push(format!("{} is a hole in the log of {}", end, place.0));
            }
            *end = place.1 + 1;
            if let Some(other) = places.insert(value, *place) {
                anomalies.push(format!("{value} lies at {other:?} and at {place:?}"));
            }
            let Some(sent) = events.sent.get(value) else {
                anomalies.push(format!("nobody sent {value}, which lies at {place:?}"));
                continue;
            };
            if sent.partition != place.0 {
                anomalies.push(format!("{value} was sent to {}, and lies at {place:?}", sent.partition));
            }
            let before = last.insert((&sent.life, place.0), (sent.number, place.1));
            if let Some((number, offset)) = before.filter(|(number, _)| *number > sent.number) {
                anomalies.push(format!(
                    "{value} lies at {place:?} behind {}-{number} at {offset}, which was sent later",
                    sent.life
                ));
            }
        }
        for (value, (partition, offset)) in &events.acknowledged {
            match places.get(&**value) {
                None => anomalies.push(format!("{value} was acknowledged in {partition}, and is not there")),
                Some(place) if offset.is_some_and(|offset| (*partition, offset) != *place) => {
                    anomalies.push(format!(
                        "{value} was acknowledged at {partition}/{offset:?}, and lies at {place:?}"
                    ));
                }
                Some(_) => {}
            }
        }
        drop(events);
        anomalies.into_iter().for_each(|anomaly| self.history.anomaly(anomaly));
    }

    /// Compares the committed copies with the log: each of its records once, in order.
    pub(super) fn check_copies(&self, copies: &[(Place, String)], ends: &BTreeMap<i32, i64>) {
        let mut found: BTreeMap<i32, Vec<(i64, Place)>> = BTreeMap::new();
        for (place, value) in copies {
            let source = value.split_once('/').and_then(|(p, o)| Some((p.parse().ok()?, o.parse().ok()?)));
            match source {
                Some((partition, offset)) => {
                    found.entry(partition).or_default().push((offset, *place));
                }
                None => self.history.anomaly(format!("{value} at {place:?} is no copy")),
            }
        }
        for (partition, end) in ends {
            let copied = found.remove(partition).unwrap_or_default();
            let odd = copied.iter().zip(0..).find(|((offset, _), expected)| offset != expected);
            if let Some(((offset, place), expected)) = odd {
                self.history.anomaly(format!(
                    "of {partition} the copy of {offset} is committed at {place:?} where that of {expected} should follow"
                ));
            } else if i64::try_from(copied.len()) != Ok(*end) {
                self.history.anomaly(format!(
                    "{} of {end} records of {partition} have a committed copy",
                    copied.len()
                ));
            }
        }
    }

    /// Compares what is committed in the output of a line with the log: in each partition the same records in the same order.
    pub(super) fn check_output(&self, found: &[(Place, String)], log: &BTreeMap<Place, String>) {
        let mut written: BTreeMap<i32, Vec<(i64, &str)>> = BTreeMap::new();
        for ((partition, offset), value) in found {
            written.entry(*partition).or_default().push((*offset, value));
        }
        let mut expected: BTreeMap<i32, Vec<&str>> = BTreeMap::new();
        for ((partition, _), value) in log {
            expected.entry(*partition).or_default().push(value);
        }
        for (partition, expected) in &expected {
            let written = written.remove(partition).unwrap_or_default();
            let odd = written.iter().zip(expected).find(|((_, value), expected)| value != *expected);
            if let Some(((offset, value), expected)) = odd {
                self.history.anomaly(format!(
                    "the output of {partition} has {value} at {offset} where {expected} should follow"
                ));
            } else if written.len() != expected.len() {
                self.history.anomaly(format!(
                    "the output of {partition} has {} records, and its input {}",
                    written.len(),
                    expected.len()
                ));
            }
        }
        if let Some((partition, records)) = written.into_iter().next() {
            self.history.anomaly(format!("the output of {partition} has {records:?}, and its input nothing"));
        }
    }
}
