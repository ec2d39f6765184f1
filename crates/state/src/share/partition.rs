//! A partition as one group works on it: which records are with which member, and what has become of those before.
//!
//! Invariants: all records before the start offset are done with; nothing is known of those from the end offset on; of each record
//! in between exactly one thing is known. No record is delivered that lies so many offsets behind the start that they are more than
//! the group may have in flight, whatever has become of those in between: one slow record does not make this grow without end. A
//! record is with one member at a time, and for no longer than the lock lasts; it is delivered as often as the group allows, and
//! given up then. What is given up of a group with a dead-letter queue (KIP-1191) is not done with before it is there, or cannot be.
//!
//! What changes here counts at once. What must not be lost of it is taken away by [`SharePartition::take_write`] and written
//! elsewhere; whoever acknowledges is answered when that is done. If it cannot be written the machine is thrown away, and another
//! begins with what was: records are delivered again then.

mod refusal;

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod story_tests;

use wire::{LeaderEpoch, Millis, Offset, Str};

pub use self::refusal::Refusal;
use super::state::{Delivery, DeliveryState, ShareState, Write};
use super::{Run, Runs};

/// What a group may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareConfig {
    /// `group.share.record.lock.duration.ms`
    pub lock_ms: i64,
    /// `group.share.delivery.count.limit`
    pub delivery_count_max: i16,
    /// `group.share.partition.max.record.locks`: offsets between start and end.
    pub in_flight_max: i64,
    /// Whether what is given up goes to a dead-letter queue (`errors.deadletterqueue.topic.name`).
    pub has_dead_letters: bool,
}

/// What is known of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    /// It waits to be delivered, and was so often before.
    Available { count: i16 },
    /// It is with a member, up to a moment in ticks, for the `count`th time.
    Acquired { count: i16, member: Str, until: Millis },
    /// It is given up after so many deliveries, and not in the dead-letter queue yet.
    Archiving { count: i16, cause: Cause },
    /// It is done with.
    Acknowledged,
    /// It is given up, or there is no such record.
    Archived,
}

/// Why a record is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A member has rejected it.
    Rejected,
    /// It was delivered as often as the group allows.
    DeliveryLimit,
}

impl Cause {
    /// In Kafka's words, as they stand in the header of a dead letter.
    pub fn message(self) -> &'static str {
        match self {
            Cause::Rejected => "Offset rejected by client.",
            Cause::DeliveryLimit => "Offset delivery count exceeded the threshold.",
        }
    }
}

/// Records that are given up and go to the dead-letter queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetters {
    /// The first of them.
    pub first: Offset,
    /// The last of them.
    pub last: Offset,
    /// How often they were delivered.
    pub count: i16,
    /// Why they are given up.
    pub cause: Cause,
}

impl Known {
    fn is_done(&self) -> bool {
        matches!(self, Known::Acknowledged | Known::Archived)
    }

    fn is_with(&self, member: &str) -> bool {
        matches!(self, Known::Acquired { member: holder, .. } if **holder == *member)
    }
}

/// What a reader found in the log: offsets of one batch, or of neighbouring ones of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first offset.
    pub first: Offset,
    /// The last one.
    pub last: Offset,
    /// Whether there are records to deliver: not those of aborted transactions, and no markers.
    pub is_data: bool,
}

/// How many records a member wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// So many, and what else is in the last one's batch.
    WholeBatches(i64),
    /// So many (KIP-1206).
    AtMost(i64),
}

/// Records that a member was given.
pub type Acquired = Run<i16>;

/// What a member says of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledgement {
    /// There is no such record.
    Gap,
    /// It is done with.
    Accept,
    /// It shall be delivered again.
    Release,
    /// It is not to be delivered again.
    Reject,
    /// It takes longer (KIP-1222).
    Renew,
}

impl Acknowledgement {
    /// The acknowledgement with this number.
    pub fn from_number(number: i8) -> Option<Acknowledgement> {
        Some(match number {
            0 => Acknowledgement::Gap,
            1 => Acknowledgement::Accept,
            2 => Acknowledgement::Release,
            3 => Acknowledgement::Reject,
            4 => Acknowledgement::Renew,
            _ => return None,
        })
    }
}

/// What a member says of neighbouring records: one number for all of them, or one for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcknowledgedBatch {
    /// The first of them.
    pub first: Offset,
    /// The last of them.
    pub last: Offset,
    /// Kafka's numbers.
    pub types: Vec<i8>,
}

/// One partition as one group works on it.
#[derive(Clone, Debug)]
pub struct SharePartition {
    config: ShareConfig,
    state_epoch: i32,
    start: Offset,
    end: Offset,
    known: Runs<Known>,
    /// What is to be written of it.
    unsaved: Runs<()>,
    is_start_unsaved: bool,
    /// No lock ends before.
    deadline: Option<Millis>,
}

impl SharePartition {
    /// Begins with what is stored; `start` is where, for what has not been settled before.
    pub fn new(config: ShareConfig, stored: &ShareState, start: Offset) -> Self {
        let is_settled = stored.start.is_some();
        let start = stored.start.unwrap_or(start);
        let mut partition = SharePartition {
            config,
            state_epoch: stored.state_epoch,
            start,
            end: start,
            known: Runs::default(),
            unsaved: Runs::default(),
            is_start_unsaved: !is_settled,
            deadline: None,
        };
        for run in stored.deliveries.iter() {
            let first = run.first.max(start);
            if run.last < first {
                continue;
            }
            if first > partition.end {
                // Those were with members when nobody wrote it down.
                partition.learn(partition.end, first.plus(-1), Known::Available { count: 0 });
            }
            let known = match run.value.state {
                DeliveryState::Available => partition.released(run.value.count),
                // Why is not stored: Kafka takes it from the count, too.
                DeliveryState::Archiving => {
                    let count = run.value.count;
                    let is_spent = count >= config.delivery_count_max;
                    let cause = if is_spent { Cause::DeliveryLimit } else { Cause::Rejected };
                    Known::Archiving { count, cause }
                }
                DeliveryState::Acknowledged => Known::Acknowledged,
                DeliveryState::Archived => Known::Archived,
            };
            partition.learn(first, run.last, known);
        }
        partition.advance();
        partition
    }

    /// Goes by other settings from now on; locks that are held last as long as they were given for.
    pub fn set_config(&mut self, config: ShareConfig) {
        self.config = config;
    }

    /// All before is done with.
    pub fn start(&self) -> Offset {
        self.start
    }

    /// Nothing from here on was delivered.
    pub fn end(&self) -> Offset {
        self.end
    }

    /// The state that this is about.
    pub fn state_epoch(&self) -> i32 {
        self.state_epoch
    }

    /// Where to read what can be delivered next; `None` while as many records are in flight as may be.
    pub fn next_fetch_offset(&self) -> Option<Offset> {
        let available = self.known.iter().find(|run| matches!(run.value, Known::Available { .. }));
        match available {
            Some(run) => Some(run.first),
            None => (self.room() > 0).then_some(self.end),
        }
    }

    /// How many more records may be in flight. All count from the start on, done with or not, as in Kafka.
    fn room(&self) -> i64 {
        self.config.in_flight_max - self.end.since(self.start)
    }

    /// How many records are with members.
    pub fn acquired(&self) -> i64 {
        let acquired = self.known.iter().filter(|run| matches!(run.value, Known::Acquired { .. }));
        acquired.map(|run| run.len()).sum()
    }

    /// Gives a member records that were read from `from` on: `extents` are what lies there, in order and whole.
    pub fn acquire(
        &mut self,
        member: &str,
        from: Offset,
        extents: &[Extent],
        wanted: Wanted,
        now: Millis,
    ) -> Vec<Acquired> {
        let until = now.plus(self.config.lock_ms);
        let member = Str::copy_from(member);
        let mut acquired: Vec<Acquired> = Vec::new();
        let mut count = 0;
        let mut expected = from.max(self.start);
        for extent in extents {
            let is_enough = match wanted {
                Wanted::WholeBatches(max) | Wanted::AtMost(max) => count >= max,
            };
            let is_full = expected >= self.end && self.room() <= 0;
            if is_enough || is_full {
                break;
            }
            let (first, last) = (extent.first.max(self.start), extent.last);
            if expected < first {
                self.archive_available(expected, first.plus(-1));
            }
            if last < first {
                continue;
            }
            expected = last.plus(1);
            if !extent.is_data {
                self.archive_available(first, last);
                continue;
            }
            let left = match wanted {
                Wanted::WholeBatches(_) => i64::MAX,
                Wanted::AtMost(max) => max - count,
            };
            for run in self.available(first, last, left) {
                let known = Known::Acquired { count: run.value, member: member.clone(), until };
                self.learn(run.first, run.last, known);
                count += run.len();
                match acquired.last_mut().filter(|before| before.last.plus(1) == run.first) {
                    Some(before) if before.value == run.value => before.last = run.last,
                    _ => acquired.push(run),
                }
            }
            if self.end < expected {
                // The rest is for later.
                break;
            }
        }
        if !acquired.is_empty() {
            self.deadline = Some(self.deadline.map_or(until, |deadline| deadline.min(until)));
        }
        self.advance();
        acquired
    }

    /// What can be delivered of the offsets from `first` to `last`, at most `max` records, each with its new delivery count.
    fn available(&self, first: Offset, last: Offset, max: i64) -> Vec<Acquired> {
        let mut available = Vec::new();
        let mut left = max;
        for run in self.known.within(first, last) {
            let Known::Available { count } = *run.value else { continue };
            if left <= 0 {
                return available;
            }
            let last = run.last.min(run.first.plus(left.saturating_sub(1)));
            available.push(Run { first: run.first, last, value: count.saturating_add(1) });
            left -= run.len();
        }
        // What was never delivered is in flight from now on.
        let first = first.max(self.end);
        let left = left.min(self.room());
        if first <= last && left > 0 {
            let last = last.min(first.plus(left.saturating_sub(1)));
            available.push(Run { first, last, value: 1 });
        }
        available
    }

    /// There are no records to deliver there.
    fn archive_available(&mut self, first: Offset, last: Offset) {
        let gone: Vec<_> = self
            .known
            .within(first, last)
            .filter(|run| matches!(run.value, Known::Available { .. }))
            .map(|run| (run.first, run.last))
            .collect();
        for (first, last) in gone {
            self.learn(first, last, Known::Archived);
        }
        let first = first.max(self.end);
        if first <= last {
            self.learn(first, last, Known::Archived);
        }
    }

    /// A member says what has become of records that it was given: all of it counts, or nothing.
    pub fn acknowledge(
        &mut self,
        member: &str,
        batches: &[AcknowledgedBatch],
        now: Millis,
    ) -> Result<(), Refusal> {
        for (index, batch) in batches.iter().enumerate() {
            self.check(member, batch, batches.get(index.wrapping_sub(1)))?;
        }
        for batch in batches {
            let mut at = batch.first;
            for types in batch.types.chunk_by(|a, b| a == b) {
                let said = Acknowledgement::from_number(types[0]).expect("checked before");
                let last = match batch.types.len() {
                    1 => batch.last,
                    _ => at.plus(types.len() as i64 - 1),
                };
                self.take(at, last, said, now);
                at = last.plus(1);
            }
        }
        self.advance();
        Ok(())
    }

    fn check(
        &self,
        member: &str,
        batch: &AcknowledgedBatch,
        before: Option<&AcknowledgedBatch>,
    ) -> Result<(), Refusal> {
        let AcknowledgedBatch { first, last, ref types } = *batch;
        if first.0 < 0 || last < first {
            return Err(Refusal::NotARange { first, last });
        }
        if let Some(before) = before.filter(|before| first <= before.last) {
            return Err(Refusal::OutOfOrder { first, before: before.last });
        }
        let len = last.since(first).saturating_add(1);
        if types.len() != 1 && types.len() as i64 != len {
            return Err(Refusal::TypeCount { types: types.len(), offsets: len });
        }
        if let Some(unknown) = types.iter().find(|number| Acknowledgement::from_number(**number).is_none()) {
            return Err(Refusal::UnknownType(*unknown));
        }
        // What is before the start offset is done with, whatever anybody says.
        let mut expected = first.max(self.start);
        if last < expected {
            return Ok(());
        }
        for run in self.known.within(expected, last) {
            if run.first != expected || !run.value.is_with(member) {
                break;
            }
            expected = run.last.plus(1);
        }
        if expected <= last {
            return Err(Refusal::NotAcquired { offset: expected });
        }
        Ok(())
    }

    fn take(&mut self, first: Offset, last: Offset, said: Acknowledgement, now: Millis) {
        let first = first.max(self.start);
        if last < first {
            return;
        }
        let held: Vec<_> =
            self.known.within(first, last).map(|run| (run.first, run.last, run.value.clone())).collect();
        for (first, last, known) in held {
            let Known::Acquired { count, member, .. } = known else { unreachable!("checked before") };
            let known = match said {
                Acknowledgement::Gap => Known::Archived,
                Acknowledgement::Reject => self.given_up(count, Cause::Rejected),
                Acknowledgement::Accept => Known::Acknowledged,
                Acknowledgement::Release => self.released(count),
                Acknowledgement::Renew => {
                    // The lock that it has ends no later, so the deadline stands.
                    Known::Acquired { count, member, until: now.plus(self.config.lock_ms) }
                }
            };
            if said != Acknowledgement::Renew {
                self.unsaved.set(first, last, ());
            }
            self.learn(first, last, known);
        }
    }

    /// What becomes of a record that was delivered so often and is not done with.
    fn released(&self, count: i16) -> Known {
        match count >= self.config.delivery_count_max {
            true => self.given_up(count, Cause::DeliveryLimit),
            false => Known::Available { count },
        }
    }

    fn given_up(&self, count: i16, cause: Cause) -> Known {
        match self.config.has_dead_letters {
            true => Known::Archiving { count, cause },
            false => Known::Archived,
        }
    }

    /// The first records that go to the dead-letter queue next.
    pub fn dead_letters(&self) -> Option<DeadLetters> {
        self.known.iter().find_map(|run| match *run.value {
            Known::Archiving { count, cause } => {
                Some(DeadLetters { first: run.first, last: run.last, count, cause })
            }
            _ => None,
        })
    }

    /// These are in the dead-letter queue, or cannot be: they are done with.
    pub fn buried(&mut self, first: Offset, last: Offset) {
        let buried: Vec<_> = self
            .known
            .within(first, last)
            .filter(|run| matches!(run.value, Known::Archiving { .. }))
            .map(|run| (run.first, run.last))
            .collect();
        for (first, last) in buried {
            self.learn(first, last, Known::Archived);
            self.unsaved.set(first, last, ());
        }
        self.advance();
    }

    /// A member is gone: what it has is for others, as if it had not been delivered, as in Kafka: perhaps nobody has seen it. Says
    /// whether the member had anything.
    pub fn release(&mut self, member: &str) -> bool {
        self.release_where(
            |_, holder| **holder == *member,
            |_, count| Known::Available { count: count.saturating_sub(1) },
        )
    }

    /// Nothing ends before, in ticks.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.deadline
    }

    /// Locks that have lasted long enough end. Says whether any did.
    pub fn tick(&mut self, now: Millis) -> bool {
        if self.deadline.is_none_or(|deadline| deadline > now) {
            return false;
        }
        let has_ended = self.release_where(|until, _| until <= now, Self::released);
        let locks = self.known.iter().filter_map(|run| match run.value {
            Known::Acquired { until, .. } => Some(*until),
            _ => None,
        });
        self.deadline = locks.min();
        has_ended
    }

    fn release_where(
        &mut self,
        ends: impl Fn(Millis, &Str) -> bool,
        becomes: impl Fn(&Self, i16) -> Known,
    ) -> bool {
        let ended: Vec<_> = self
            .known
            .iter()
            .filter_map(|run| match run.value {
                Known::Acquired { count, member, until } if ends(*until, member) => {
                    Some((run.first, run.last, *count))
                }
                _ => None,
            })
            .collect();
        for (first, last, count) in &ended {
            self.learn(*first, *last, becomes(self, *count));
            self.unsaved.set(*first, *last, ());
        }
        self.advance();
        !ended.is_empty()
    }

    /// The log begins here: what was before is gone, also from those who have it.
    pub fn log_start_moved(&mut self, log_start: Offset) {
        if log_start > self.start {
            self.begin_at(log_start);
        }
    }

    fn begin_at(&mut self, start: Offset) {
        self.start = start;
        self.end = self.end.max(start);
        self.known.forget_before(start);
        self.unsaved.forget_before(start);
        self.is_start_unsaved = true;
        self.advance();
    }

    /// Whether there is anything to write.
    pub fn has_changed(&self) -> bool {
        !self.unsaved.is_empty() || self.is_start_unsaved
    }

    /// What is to be written since this was asked last, by the leader of this epoch.
    pub fn take_write(&mut self, leader_epoch: LeaderEpoch) -> Option<Write> {
        if !self.has_changed() {
            return None;
        }
        let unsaved = std::mem::take(&mut self.unsaved);
        self.is_start_unsaved = false;
        let mut deliveries = Runs::default();
        for changed in unsaved.iter() {
            for run in self.known.within(changed.first, changed.last) {
                deliveries.set(run.first, run.last, stored(run.value));
            }
        }
        let done = self.known.iter().filter(|run| run.value.is_done()).map(|run| run.len()).sum::<i64>();
        Some(Write {
            state_epoch: self.state_epoch,
            leader_epoch,
            start: Some(self.start),
            delivery_complete_count: i32::try_from(done).unwrap_or(i32::MAX),
            deliveries,
        })
    }

    fn learn(&mut self, first: Offset, last: Offset, known: Known) {
        self.known.set(first, last, known);
        self.end = self.end.max(last.plus(1));
    }

    /// Leaves behind what is done with at the front.
    fn advance(&mut self) {
        let front = self.known.iter().take_while(|run| run.value.is_done()).map(|run| run.last).last();
        if let Some(last) = front {
            self.begin_at(last.plus(1));
        }
        assert!(self.start <= self.end);
    }
}

/// What is stored of it: of a record that is with somebody again, what it was before.
fn stored(known: &Known) -> Delivery {
    match known {
        Known::Available { count } => Delivery { state: DeliveryState::Available, count: *count },
        Known::Acquired { count, .. } => Delivery { state: DeliveryState::Available, count: *count - 1 },
        Known::Archiving { count, .. } => Delivery { state: DeliveryState::Archiving, count: *count },
        Known::Acknowledged => Delivery { state: DeliveryState::Acknowledged, count: 0 },
        Known::Archived => Delivery { state: DeliveryState::Archived, count: 0 },
    }
}
