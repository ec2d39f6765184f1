//! What waits to go to one partition.
//!
//! Pure: records go in, batches come out, and `now` is an argument. One batch of a partition is under way at a
//! time; it keeps its records until it is acknowledged, and its sequence number moves only then. So the order
//! holds through retries, and a number is never used for two different batches.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;
use wire::{Millis, ProducerEpoch, ProducerId};

use super::Delivery;
use crate::error::Error;
use crate::record::ProducerRecord;

/// A record, what it holds of the buffer, and who wants to know.
pub(super) struct Entry {
    pub(super) record: ProducerRecord,
    pub(super) bytes: usize,
    pub(super) timestamp: Millis,
    pub(super) sent: Instant,
    pub(super) reply: oneshot::Sender<Result<Delivery, Error>>,
    pub(super) _memory: OwnedSemaphorePermit,
}

/// Who numbers the batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) id: ProducerId,
    pub(super) epoch: ProducerEpoch,
}

/// Records that travel together.
pub(super) struct Batch {
    pub(super) entries: Vec<Entry>,
    bytes: usize,
    is_full: bool,
    /// A try ended without an answer, so the broker may have it.
    pub(super) is_uncertain: bool,
}

impl Batch {
    fn new(entry: Entry) -> Self {
        let bytes = entry.bytes;
        Self { entries: vec![entry], bytes, is_full: false, is_uncertain: false }
    }

    /// When the oldest record was handed over.
    pub(super) fn begun(&self) -> Instant {
        self.entries[0].sent
    }

    /// Two halves, for a broker that refused the whole.
    fn split(mut self) -> (Batch, Batch) {
        let second = self.entries.split_off(self.entries.len() / 2);
        let half = |entries: Vec<Entry>| {
            let bytes = entries.iter().map(|entry| entry.bytes).sum();
            Batch { entries, bytes, is_full: true, is_uncertain: false }
        };
        (half(self.entries), half(second))
    }
}

/// The queue of one partition.
#[derive(Default)]
pub(super) struct Queue {
    batches: VecDeque<Batch>,
    is_in_flight: bool,
    failures: u32,
    not_before: Option<Instant>,
    identity: Option<Identity>,
    next_sequence: i32,
}

/// What a queue wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Nothing: it is empty, or a batch is under way.
    Nothing,
    /// To be asked again then.
    Later(Instant),
    /// To send its first batch.
    Send,
}

/// Whether the record went into a batch that others are in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It did, or into the first batch.
    Joined,
    /// The last batch had no room.
    FilledOne,
}

impl Queue {
    /// Adds a record.
    pub(super) fn push(&mut self, entry: Entry, batch_bytes_max: usize) -> Pushed {
        match self.batches.back_mut() {
            Some(last) if !last.is_full && last.bytes + entry.bytes <= batch_bytes_max => {
                last.bytes += entry.bytes;
                last.entries.push(entry);
                Pushed::Joined
            }
            Some(last) => {
                last.is_full = true;
                self.batches.push_back(Batch::new(entry));
                Pushed::FilledOne
            }
            None => {
                self.batches.push_back(Batch::new(entry));
                Pushed::Joined
            }
        }
    }

    /// Whether nothing waits and nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.batches.is_empty() && !self.is_in_flight
    }

    /// What to do with this queue now, if batches wait `linger` for company.
    pub(super) fn wish(&self, now: Instant, linger: Duration) -> Wish {
        let Some(first) = self.batches.front().filter(|_| !self.is_in_flight) else { return Wish::Nothing };
        let lingered = match first.is_full || self.batches.len() > 1 || self.failures > 0 {
            true => now,
            false => first.begun() + linger,
        };
        match lingered.max(self.not_before.unwrap_or(now)) {
            at if at <= now => Wish::Send,
            at => Wish::Later(at),
        }
    }

    /// The first batch, if its oldest record has waited too long.
    pub(super) fn take_expired(&mut self, now: Instant, timeout: Duration) -> Option<Batch> {
        let first = self.batches.front().filter(|_| !self.is_in_flight)?;
        (first.begun() + timeout <= now).then(|| self.batches.pop_front()).flatten()
    }

    /// Takes the first batch to be sent, numbered by `identity` unless the partition still has an older one.
    pub(super) fn take(&mut self, identity: Option<Identity>) -> (Batch, Option<(Identity, i32)>) {
        assert!(!self.is_in_flight, "one batch at a time keeps the order");
        let mut batch = self.batches.pop_front().expect("the queue wished to send");
        batch.is_full = true;
        self.is_in_flight = true;
        let identity = identity.map(|current| *self.identity.get_or_insert(current));
        (batch, identity.map(|identity| (identity, self.next_sequence)))
    }

    /// The batch was appended.
    pub(super) fn succeed(&mut self, records: usize) {
        self.land();
        self.failures = 0;
        self.not_before = None;
        // Sequences wrap to zero after the largest number.
        self.next_sequence = ((i64::from(self.next_sequence) + records as i64) & 0x7fff_ffff) as i32;
    }

    /// The batch goes first again, not before then.
    pub(super) fn retry(&mut self, batch: Batch, not_before: Instant) {
        self.land();
        self.failures += 1;
        self.not_before = Some(not_before);
        self.batches.push_front(batch);
    }

    /// The batch was too large for the broker: its halves go first.
    pub(super) fn retry_in_halves(&mut self, batch: Batch) {
        self.land();
        let (first, second) = batch.split();
        self.batches.push_front(second);
        self.batches.push_front(first);
    }

    /// The batch was given up.
    pub(super) fn fail(&mut self) {
        self.land();
        self.failures = 0;
        self.not_before = None;
    }

    /// The broker's count and ours no longer agree: numbers start again under the next identity.
    pub(super) fn renumber(&mut self) {
        self.identity = None;
        self.next_sequence = 0;
    }

    pub(super) fn identity(&self) -> Option<Identity> {
        self.identity
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Puts off the first batch, which is not under way.
    pub(super) fn postpone(&mut self, until: Instant) {
        self.not_before = Some(until);
    }

    fn land(&mut self) {
        assert!(self.is_in_flight);
        self.is_in_flight = false;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::sync::{Semaphore, oneshot};
    use tokio::time::Instant;
    use wire::{Millis, ProducerEpoch, ProducerId};

    use super::{Entry, Identity, Pushed, Queue, Wish};
    use crate::record::ProducerRecord;

    const LINGER: Duration = Duration::from_millis(5);

    fn entry(value: &'static str, sent: Instant) -> Entry {
        let record = ProducerRecord::new("t", value.as_bytes());
        let memory = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        Entry {
            bytes: record.size(),
            record,
            timestamp: Millis(0),
            sent,
            reply: oneshot::channel().0,
            _memory: memory,
        }
    }

    fn values(batch: &super::Batch) -> String {
        let value = |entry: &Entry| String::from_utf8(entry.record.value.clone().unwrap().to_vec()).unwrap();
        batch.entries.iter().map(value).collect::<Vec<_>>().join(",")
    }

    #[test]
    fn a_batch_waits_for_company_and_leaves_when_it_is_full() {
        let now = Instant::now();
        let mut queue = Queue::default();
        assert_eq!(queue.wish(now, LINGER), Wish::Nothing);
        let two = 2 * entry("a", now).bytes;
        assert_eq!(queue.push(entry("a", now), two), Pushed::Joined);
        assert_eq!(queue.wish(now, LINGER), Wish::Later(now + LINGER));
        assert_eq!(queue.wish(now + LINGER, LINGER), Wish::Send);
        assert_eq!(queue.push(entry("b", now), two), Pushed::Joined);
        assert_eq!(queue.push(entry("c", now), two), Pushed::FilledOne);
        assert_eq!(queue.wish(now, LINGER), Wish::Send);
        let (batch, _) = queue.take(None);
        assert_eq!(values(&batch), "a,b");
        assert_eq!(queue.wish(now + LINGER, LINGER), Wish::Nothing, "one batch is under way");
    }

    #[test]
    fn a_batch_that_is_sent_again_keeps_its_place_and_its_number() {
        let now = Instant::now();
        let identity = Identity { id: ProducerId(7), epoch: ProducerEpoch(0) };
        let mut queue = Queue::default();
        queue.push(entry("a", now), 1);
        queue.push(entry("b", now), 1);
        let (batch, number) = queue.take(Some(identity));
        assert_eq!(number, Some((identity, 0)));
        queue.retry(batch, now + LINGER);
        assert_eq!(queue.wish(now, LINGER), Wish::Later(now + LINGER));
        let (batch, number) = queue.take(Some(identity));
        assert_eq!((values(&batch).as_str(), number), ("a", Some((identity, 0))));
        queue.succeed(1);
        let (batch, number) = queue.take(Some(identity));
        assert_eq!((values(&batch).as_str(), number), ("b", Some((identity, 1))));
    }

    #[test]
    fn numbers_start_again_under_a_new_epoch_when_a_batch_was_lost_sight_of() {
        let now = Instant::now();
        let first = Identity { id: ProducerId(7), epoch: ProducerEpoch(0) };
        let second = Identity { epoch: ProducerEpoch(1), ..first };
        let mut queue = Queue::default();
        queue.push(entry("a", now), 1);
        queue.push(entry("b", now), 1);
        queue.take(Some(first));
        queue.succeed(1);
        let (_, number) = queue.take(Some(second));
        assert_eq!(number, Some((first, 1)), "another partition's trouble changes nothing here");
        queue.fail();
        queue.renumber();
        queue.push(entry("c", now), 1);
        let (_, number) = queue.take(Some(second));
        assert_eq!(number, Some((second, 0)));
    }

    #[test]
    fn halves_of_a_refused_batch_go_first_and_in_order() {
        let now = Instant::now();
        let mut queue = Queue::default();
        for value in ["a", "b", "c"] {
            queue.push(entry(value, now), 1000);
        }
        let (batch, _) = queue.take(None);
        queue.push(entry("d", now), 1000);
        queue.retry_in_halves(batch);
        let mut order = Vec::new();
        for _ in 0..3 {
            order.push(values(&queue.take(None).0));
            queue.succeed(1);
        }
        assert_eq!(order, ["a", "b,c", "d"]);
        assert!(queue.is_idle());
    }

    #[test]
    fn what_waited_too_long_is_given_up_before_it_is_sent() {
        let now = Instant::now();
        let timeout = Duration::from_secs(120);
        let mut queue = Queue::default();
        queue.push(entry("a", now), 1000);
        assert!(queue.take_expired(now, timeout).is_none());
        assert!(queue.take_expired(now + timeout, timeout).is_some());
        assert!(queue.is_idle());
    }
}
