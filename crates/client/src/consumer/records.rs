//! Records in the application's hands, and how it says that it is done with them.

use std::fmt;
use std::ops::Deref;

use wire::{LeaderEpoch, Offset, TopicPartition, Uuid};

use super::positions::Watermarks;
use super::shared::{About, Receipt, State};
use crate::record::ConsumedRecord;

/// Records of one batch of one partition, in order, and the right to say that they are dealt with.
///
/// Only what was said to be done, without a hole from the last committed offset on, is ever committed. Dropped without
/// a word, by an early return or a panic, what is not done goes back: the partition is read from there again, in
/// order. At most `max.poll.records` come at once; there is always at least one.
pub struct Records {
    records: Vec<ConsumedRecord>,
    about: About,
    receipt: Receipt,
}

impl Records {
    pub(super) fn new(records: Vec<ConsumedRecord>, about: About, receipt: Receipt) -> Self {
        assert!(!records.is_empty(), "what holds nothing is not handed out");
        Self { records, about, receipt }
    }

    /// The partition they come from.
    pub fn partition(&self) -> &TopicPartition {
        self.receipt.partition()
    }

    /// The topic's id as of the fetch; zero where the broker is too old to tell. A topic that was deleted and created
    /// again has another.
    pub fn topic_id(&self) -> Uuid {
        self.about.topic_id
    }

    /// Where reading stood before these records: the first of them lies here or, behind records that are gone by
    /// compaction or are not to be seen, further on.
    pub fn position(&self) -> Offset {
        self.receipt.first()
    }

    /// Where reading goes on behind them: what to store once they are dealt with.
    pub fn next_offset(&self) -> Offset {
        self.receipt.next()
    }

    /// The first offset of the batch that they were written in. It lies before [`Records::position`] when reading began in
    /// the middle of the batch.
    pub fn base_offset(&self) -> Offset {
        self.about.base_offset
    }

    /// The epoch of the leader that wrote the batch.
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.about.leader_epoch
    }

    /// The ends of the partition as of the fetch that brought them.
    pub fn watermarks(&self) -> Watermarks {
        self.about.watermarks
    }

    /// They are dealt with, all of them.
    pub fn done(self) {
        self.receipt.done();
    }

    /// They are dealt with, up to and including the one at `offset`. The rest stays in hand.
    pub fn done_through(&mut self, offset: Offset) {
        // What lies behind the last record is not to be seen: it is done when the record is.
        let is_all = self.records.last().is_some_and(|last| offset >= last.offset);
        let through = if is_all { self.receipt.next() } else { offset.plus(1) };
        self.receipt.done_through(through);
    }

    /// Whether they are still this consumer's to deal with. Once not, acknowledging them changes nothing, and the sooner they
    /// are dropped the sooner their partition moves on.
    pub fn is_wanted(&self) -> bool {
        self.receipt.is_wanted()
    }

    pub(super) fn counts_in(&self, state: &State) -> bool {
        self.receipt.counts_in(state)
    }
}

impl Deref for Records {
    type Target = [ConsumedRecord];

    fn deref(&self) -> &[ConsumedRecord] {
        &self.records
    }
}

impl<'a> IntoIterator for &'a Records {
    type Item = &'a ConsumedRecord;
    type IntoIter = std::slice::Iter<'a, ConsumedRecord>;

    fn into_iter(self) -> Self::IntoIter {
        self.records.iter()
    }
}

impl IntoIterator for Records {
    type Item = Record;
    type IntoIter = Singles;

    /// The records one by one, each with an acknowledgement of its own. Those that are not taken go back.
    fn into_iter(mut self) -> Singles {
        let mut rest = Vec::with_capacity(self.records.len());
        // From behind, so that taking one off costs nothing.
        self.records.reverse();
        std::mem::swap(&mut rest, &mut self.records);
        Singles { rest, about: self.about, receipt: Some(self.receipt) }
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records")
            .field("partition", &format_args!("{}", self.partition()))
            .field("position", &self.position())
            .field("next_offset", &self.next_offset())
            .field("records", &self.records)
            .finish()
    }
}

/// The records of a [`Records`], one by one.
pub struct Singles {
    /// Last first.
    rest: Vec<ConsumedRecord>,
    about: About,
    receipt: Option<Receipt>,
}

impl Singles {
    /// Whether those that are left are still wanted, see [`Records::is_wanted`].
    pub(super) fn is_wanted(&self) -> bool {
        self.receipt.as_ref().is_none_or(Receipt::is_wanted)
    }
}

impl Iterator for Singles {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        let record = self.rest.pop()?;
        let receipt = match self.rest.last() {
            Some(next) => self.receipt.as_mut()?.split(next.offset),
            None => self.receipt.take()?,
        };
        Some(Record { record, about: self.about, receipt })
    }
}

/// One record and the right to say that it is dealt with, as [`Records`] for several.
pub struct Record {
    record: ConsumedRecord,
    about: About,
    receipt: Receipt,
}

impl Record {
    /// It is dealt with.
    pub fn done(self) {
        self.receipt.done();
    }

    /// The topic's id as of the fetch, see [`Records::topic_id`].
    pub fn topic_id(&self) -> Uuid {
        self.about.topic_id
    }

    /// Where reading stood before it.
    pub fn position(&self) -> Offset {
        self.receipt.first()
    }

    /// Where reading goes on behind it.
    pub fn next_offset(&self) -> Offset {
        self.receipt.next()
    }

    /// The first offset of the batch that it was written in.
    pub fn base_offset(&self) -> Offset {
        self.about.base_offset
    }

    /// The ends of the partition as of the fetch that brought it.
    pub fn watermarks(&self) -> Watermarks {
        self.about.watermarks
    }
}

impl Deref for Record {
    type Target = ConsumedRecord;

    fn deref(&self) -> &ConsumedRecord {
        &self.record
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.record.fmt(f)
    }
}
