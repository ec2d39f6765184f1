//! What waits to go to one partition.
//!
//! Pure: records go in, batches come out, and `now` is an argument. A batch is numbered when it is first sent and
//! keeps its number however often it is sent again; it keeps its place until it is acknowledged or given up. New
//! batches go only while none waits to be sent again, and those that wait go one by one, in their order. So the
//! order holds through retries.
//!
//! A batch gets another number only after a broker refused the first in line as out of order: so it was not appended,
//! and neither was one behind it if the broker counts. Nothing else can be inferred from a failure, so nothing else
//! changes a number.
//!
//! A broker does not count a producer that it does not know: it takes any number from it. So the first batch goes
//! alone under an identity, at a broker, and after a while in which nothing was acknowledged, for brokers forget who
//! is idle: were a second one there first, the first could never follow. Where that happens nevertheless nothing is
//! doubled or reordered: before numbers change, those behind that an earlier try may have appended are asked about,
//! by sending them again as they were; and one that was overtaken fails.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use wire::records::{Batch as Parsed, BatchBuilder, BatchOptions, edit};
use wire::{BrokerId, Millis, ProducerEpoch, ProducerId, TopicPartition};

use super::outcome::{DeliveryHandle, Outcome, Promise};
use crate::error::Error;
use crate::options::{IDEMPOTENT_IN_FLIGHT_MAX, Options};
use crate::record::ProducerRecord;

/// Who numbers the batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) id: ProducerId,
    pub(super) epoch: ProducerEpoch,
}

/// Who numbered a batch, and the number of its first record.
pub(super) type Number = (Identity, i32);

/// Records that travel together.
pub(super) struct Batch {
    content: Content,
    pub(super) promise: Promise,
    pub(super) records: u32,
    /// When the first record was handed over.
    begun: Instant,
    is_full: bool,
    /// How often it was sent.
    pub(super) tries: u32,
    /// What the last try ended with.
    pub(super) trouble: Option<Error>,
    /// Whether a try ended in a way that does not rule out that it was appended.
    pub(super) may_be_appended: bool,
}

enum Content {
    Open(BatchBuilder),
    /// Compressed and numbered.
    Packed(Bytes, Option<Number>),
    /// Being worked on.
    Taken,
}

/// What batches are made with.
#[derive(Debug, Clone)]
pub(super) struct Making {
    pub(super) batch_bytes_max: usize,
    pub(super) options: BatchOptions,
    pub(super) memory: Arc<Semaphore>,
}

impl Making {
    pub(super) fn new(options: &Options, memory: Arc<Semaphore>) -> Self {
        let batch = BatchOptions {
            compression: options.compression_type,
            compression_level: options.compression_level(),
            is_transactional: options.transactional_id.is_some(),
            ..BatchOptions::default()
        };
        Self { batch_bytes_max: options.batch_size, options: batch, memory }
    }
}

impl Batch {
    fn new(partition: &TopicPartition, making: &Making, now: Instant) -> Self {
        Self {
            content: Content::Open(BatchBuilder::new(making.options.clone())),
            promise: Promise::new(partition.clone(), Arc::clone(&making.memory)),
            records: 0,
            begun: now,
            is_full: false,
            tries: 0,
            trouble: None,
            may_be_appended: false,
        }
    }

    fn has_room(&self, bytes: usize, making: &Making) -> bool {
        match &self.content {
            Content::Open(builder) => !self.is_full && builder.size() + bytes <= making.batch_bytes_max,
            Content::Packed(..) | Content::Taken => false,
        }
    }

    fn append(&mut self, record: &ProducerRecord, bytes: usize, timestamp: Millis) -> DeliveryHandle {
        let Content::Open(builder) = &mut self.content else { unreachable!("only an open batch has room") };
        let ProducerRecord { key, value, headers, .. } = record;
        builder.append(timestamp, key.as_deref(), value.as_deref(), headers);
        self.promise.hold(bytes);
        self.records += 1;
        DeliveryHandle::new(self.promise.outcome(), self.records - 1, timestamp)
    }

    /// The batch as it is sent, under this number. The first time it is compressed, which takes its time.
    pub(super) fn pack(&mut self, number: Option<Number>) -> Bytes {
        let bytes = match std::mem::replace(&mut self.content, Content::Taken) {
            Content::Open(mut builder) => {
                if let Some((identity, sequence)) = number {
                    builder.set_producer(identity.id, identity.epoch, sequence);
                }
                builder.build()
            }
            Content::Packed(bytes, as_before) if as_before == number => bytes,
            Content::Packed(bytes, _) => {
                let mut bytes = bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&*shared));
                let (identity, sequence) = number.expect("a batch that was numbered stays so");
                edit::set_producer(&mut bytes, identity.id, identity.epoch, sequence);
                bytes.freeze()
            }
            Content::Taken => unreachable!("a batch is packed by one at a time"),
        };
        self.content = Content::Packed(bytes.clone(), number);
        bytes
    }

    /// What it takes at most, uncompressed.
    pub(super) fn bytes(&self) -> usize {
        self.promise.bytes()
    }

    /// Two halves, for a broker that refused the whole.
    fn split(self, making: &Making) -> [Batch; 2] {
        let Content::Packed(bytes, _) = self.content else { unreachable!("it was sent") };
        let parsed = Parsed::parse(&bytes).expect("it was built here");
        let first = self.records / 2;
        let mut builders = [0, 1].map(|_| BatchBuilder::new(making.options.clone()));
        for (index, record) in parsed.records(usize::MAX).enumerate() {
            let record = record.expect("it was built here");
            let builder = &mut builders[usize::from(index >= first as usize)];
            builder.append(record.timestamp, record.key.as_deref(), record.value.as_deref(), &record.headers);
        }
        let [left, right] = builders;
        let [left_promise, right_promise] = self.promise.split(first);
        let half = |builder: BatchBuilder, promise| Batch {
            records: builder.len() as u32,
            content: Content::Open(builder),
            promise,
            begun: self.begun,
            is_full: true,
            tries: 0,
            trouble: None,
            may_be_appended: false,
        };
        [half(left, left_promise), half(right, right_promise)]
    }
}

/// A batch that was sent at least once.
struct Sent {
    ticket: u64,
    number: Option<Number>,
    begun: Instant,
    outcome: Arc<Outcome>,
    /// Waiting to be sent again; absent while it is with its request, as most are.
    batch: Option<Box<Batch>>,
    /// Whether one behind it was appended before it.
    is_overtaken: bool,
}

/// How long after an acknowledgement a broker is believed to know the producer still. Far less than brokers remember
/// producers (`producer.id.expiration.ms`), and long enough for a stream to keep five batches on their way.
const KNOWN_MAX: Duration = Duration::from_secs(10);

/// The queue of one partition.
pub(super) struct Queue {
    pub(super) partition: TopicPartition,
    /// In the order of their numbers.
    sent: VecDeque<Sent>,
    /// Not sent yet.
    fresh: VecDeque<Batch>,
    next_ticket: u64,
    identity: Option<Identity>,
    next_sequence: i32,
    /// When the broker last showed that it knows this identity in this partition.
    known: Option<Instant>,
    /// Numbers start again as soon as nothing is in flight.
    is_out_of_step: bool,
    not_before: Option<Instant>,
    /// Where the batches on their way are.
    pub(super) broker: Option<BrokerId>,
    /// Why nothing moves, if something is in the way.
    pub(super) trouble: Option<Error>,
    /// Since when the topic is another one of the same name, without this partition.
    pub(super) gone: Option<Instant>,
}

/// The bounds that a queue keeps to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) linger: Duration,
    pub(super) delivery_timeout: Duration,
    /// Batches of one partition on their way; 1 without numbers, because only numbers keep the order of more.
    pub(super) in_flight_max: usize,
}

/// What a queue wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Nothing: it is empty, or waits for what is on its way.
    Nothing,
    /// To be asked again then.
    Later(Instant),
    /// To send a batch.
    Send,
}

/// What a record did to its queue.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It joined others.
    Joined,
    /// It is the first of a batch.
    Began,
    /// The last batch had no room; it is the first of another.
    FilledOne,
}

/// A batch to be sent.
pub(super) struct Taken {
    pub(super) ticket: u64,
    pub(super) batch: Batch,
    pub(super) number: Option<Number>,
    /// Whether it is sent for the first time.
    pub(super) is_fresh: bool,
}

impl Queue {
    pub(super) fn new(partition: TopicPartition) -> Self {
        Self {
            partition,
            sent: VecDeque::new(),
            fresh: VecDeque::new(),
            next_ticket: 0,
            identity: None,
            next_sequence: 0,
            known: None,
            is_out_of_step: false,
            not_before: None,
            broker: None,
            trouble: None,
            gone: None,
        }
    }

    /// Adds a record.
    pub(super) fn push(
        &mut self,
        record: &ProducerRecord,
        bytes: usize,
        timestamp: Millis,
        making: &Making,
        now: Instant,
    ) -> (DeliveryHandle, Pushed) {
        if let Some(handle) = self.join(record, bytes, timestamp, making) {
            return (handle, Pushed::Joined);
        }
        let pushed = match self.fresh.back_mut() {
            Some(last) => {
                last.is_full = true;
                Pushed::FilledOne
            }
            None => Pushed::Began,
        };
        grow_by_one(&mut self.fresh);
        self.fresh.push_back(Batch::new(&self.partition, making, now));
        let last = self.fresh.back_mut().expect("there is one by now");
        (last.append(record, bytes, timestamp), pushed)
    }

    /// The same for a record that the last batch has room for, which needs no time; none if it has not.
    pub(super) fn join(
        &mut self,
        record: &ProducerRecord,
        bytes: usize,
        timestamp: Millis,
        making: &Making,
    ) -> Option<DeliveryHandle> {
        let last = self.fresh.back_mut().filter(|last| last.has_room(bytes, making))?;
        Some(last.append(record, bytes, timestamp))
    }

    /// Whether nothing waits and nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.sent.is_empty() && self.fresh.is_empty()
    }

    /// Whether a batch is on its way.
    pub(super) fn is_in_flight(&self) -> bool {
        self.sent.iter().any(|sent| sent.batch.is_none())
    }

    /// What to do with this queue now.
    pub(super) fn wish(&self, now: Instant, rules: &Rules) -> Wish {
        if self.is_out_of_step && self.is_in_flight() {
            return Wish::Nothing;
        }
        let ready = if self.sent.iter().any(|sent| sent.batch.is_some()) {
            // What is ahead of it decides what becomes of it.
            if self.sent.front().is_some_and(|first| first.batch.is_none()) {
                return Wish::Nothing;
            }
            now
        } else {
            let is_known = self.known.is_some_and(|known| now < known + KNOWN_MAX);
            let in_flight_max = if is_known { rules.in_flight_max } else { 1 };
            let Some(first) = self.fresh.front() else { return Wish::Nothing };
            if self.sent.len() >= in_flight_max {
                return Wish::Nothing;
            }
            let lingered = first.begun + rules.linger;
            if first.is_full || self.fresh.len() > 1 { now } else { lingered }
        };
        match ready.max(self.not_before.unwrap_or(now)) {
            at if at <= now => Wish::Send,
            at => Wish::Later(at),
        }
    }

    /// When the oldest record has waited too long.
    pub(super) fn expiry(&self, rules: &Rules) -> Option<Instant> {
        let begun = self
            .sent
            .iter()
            .find(|sent| !sent.is_settled())
            .map(|sent| sent.begun)
            .or_else(|| self.fresh.front().map(|batch| batch.begun));
        begun.map(|begun| begun + rules.delivery_timeout)
    }

    /// Gives up what has waited too long; tells with which error, if there was any.
    pub(super) fn expire(&mut self, now: Instant, rules: &Rules) -> Option<Error> {
        let timeout = rules.delivery_timeout;
        let is_late = |begun: Instant| begun + timeout <= now;
        let late = |last: Option<&Error>| Error::Timeout {
            doing: "delivering a record".to_owned(),
            after: timeout,
            last: last.cloned().map(Box::new),
        };
        let trouble = self.trouble.clone();
        let mut failed = None;
        self.sent.retain(|sent| {
            if !is_late(sent.begun) || sent.is_settled() {
                return true;
            }
            let (last, stays) = match &sent.batch {
                Some(batch) => (batch.trouble.as_ref().or(trouble.as_ref()), false),
                // It keeps its place until it lands, but nobody waits for it any more.
                None => (trouble.as_ref(), true),
            };
            let error = late(last);
            sent.outcome.settle(Err(error.clone()));
            failed = Some(error);
            stays
        });
        while self.fresh.front().is_some_and(|batch| is_late(batch.begun)) {
            let batch = self.fresh.pop_front().expect("it was looked at");
            let error = late(trouble.as_ref());
            batch.promise.settle(Err(error.clone()));
            failed = Some(error);
        }
        self.renumber_when_landed();
        failed
    }

    /// Takes the batch to be sent. `identity` numbers it, unless the partition still has an older one in use.
    pub(super) fn take(&mut self, identity: Option<Identity>) -> Taken {
        self.not_before = None;
        let again = match self.doubtful() {
            Some(at) if self.is_out_of_step => at,
            _ => 0,
        };
        if let Some(sent) = self.sent.get_mut(again)
            && let Some(batch) = sent.batch.take()
        {
            let mut batch = *batch;
            batch.tries += 1;
            return Taken { ticket: sent.ticket, batch, number: sent.number, is_fresh: false };
        }
        let mut batch = self.fresh.pop_front().expect("the queue wished to send");
        let_go_if_empty(&mut self.fresh);
        if self.sent.is_empty() && self.identity != identity {
            self.identity = identity;
            self.next_sequence = 0;
            self.known = None;
        }
        if self.sent.is_empty() {
            self.is_out_of_step = false;
        }
        let number = self.identity.map(|identity| (identity, self.next_sequence));
        self.next_sequence = plus(self.next_sequence, batch.records);
        batch.is_full = true;
        batch.tries += 1;
        let ticket = self.ticket();
        grow_by_one(&mut self.sent);
        self.sent.push_back(Sent {
            ticket,
            number,
            begun: batch.begun,
            outcome: batch.promise.outcome(),
            batch: None,
            is_overtaken: false,
        });
        Taken { ticket, batch, number, is_fresh: true }
    }

    /// Whether the batch is the first in line.
    pub(super) fn is_first(&self, ticket: u64) -> bool {
        self.sent.front().is_some_and(|first| first.ticket == ticket)
    }

    /// Whether its batches are to be numbered anew, and those that may be appended are asked about before.
    pub(super) fn is_out_of_step(&self) -> bool {
        self.is_out_of_step
    }

    /// Whether one behind the batch was appended before it.
    pub(super) fn is_overtaken(&self, ticket: u64) -> bool {
        self.sent[self.place_of(ticket)].is_overtaken
    }

    /// The batch was appended.
    pub(super) fn succeed(&mut self, ticket: u64, now: Instant) {
        let ahead = self.place_of(ticket);
        self.sent.iter_mut().take(ahead).for_each(|sent| sent.is_overtaken = true);
        let sent = self.remove(ticket);
        if sent.number.is_some_and(|(identity, _)| Some(identity) == self.identity) {
            self.known = Some(now);
        }
        self.trouble = None;
        self.not_before = None;
        self.renumber_when_landed();
    }

    /// The batches go to another broker, or to another topic of that name, which may not know the producer.
    pub(super) fn meet(&mut self) {
        self.known = None;
    }

    /// The batch is given up.
    pub(super) fn give_up(&mut self, ticket: u64) {
        self.remove(ticket);
        self.renumber_when_landed();
    }

    /// The batch is sent again in its turn, not before then.
    pub(super) fn retry(&mut self, ticket: u64, batch: Batch, not_before: Option<Instant>) {
        self.not_before = self.not_before.max(not_before);
        self.sent_mut(ticket).batch = Some(Box::new(batch));
        self.renumber_when_landed();
    }

    /// The batch was too large for the broker: its halves go in its place, under its numbers.
    pub(super) fn retry_in_halves(&mut self, ticket: u64, batch: Batch, making: &Making) {
        let at = self.place_of(ticket);
        let whole = self.sent.remove(at).expect("it was found");
        let mut number = whole.number;
        for (behind, half) in batch.split(making).into_iter().enumerate() {
            let ticket = self.ticket();
            let next = number.map(|(identity, sequence)| (identity, plus(sequence, half.records)));
            self.sent.insert(
                at + behind,
                Sent {
                    ticket,
                    number,
                    begun: half.begun,
                    outcome: half.promise.outcome(),
                    batch: Some(Box::new(half)),
                    is_overtaken: whole.is_overtaken,
                },
            );
            number = next;
        }
        self.renumber_when_landed();
    }

    /// The first in line is not what the broker expects, although all before it was appended or given up: so neither it
    /// nor one behind it was appended, and all start again under the next identity. Those behind of which a try was not
    /// answered are asked about first: a broker that did not count may have them.
    pub(super) fn lose_step(&mut self, ticket: u64, batch: Batch) {
        assert!(self.is_first(ticket), "only the first in line tells");
        self.is_out_of_step = true;
        self.retry(ticket, Batch { may_be_appended: false, ..batch }, None);
    }

    fn renumber_when_landed(&mut self) {
        if !self.is_out_of_step || self.is_in_flight() || self.doubtful().is_some() {
            return;
        }
        while let Some(sent) = self.sent.pop_back() {
            let batch = *sent.batch.expect("nothing is in flight");
            match sent.is_overtaken {
                false => self.fresh.push_front(batch),
                true => batch.promise.settle(Err(batch.trouble.clone().unwrap_or(Error::Closed))),
            }
        }
        self.identity = None;
    }

    /// The first that waits to be sent again and may be appended already.
    fn doubtful(&self) -> Option<usize> {
        self.sent.iter().position(|sent| sent.batch.as_ref().is_some_and(|batch| batch.may_be_appended))
    }

    /// Gives up all that is not on its way; tells whether any of it had a number.
    pub(super) fn drop_unsent(&mut self, error: &Error) -> bool {
        let before = self.sent.len();
        self.sent.retain(|sent| match &sent.batch {
            None => true,
            Some(batch) => {
                batch.promise.settle(Err(error.clone()));
                false
            }
        });
        self.fresh.drain(..).for_each(|batch| batch.promise.settle(Err(error.clone())));
        self.sent.len() < before
    }

    /// Nothing more joins the last batch; whose outcomes are open.
    pub(super) fn close_last(&mut self) -> impl Iterator<Item = Arc<Outcome>> {
        if let Some(last) = self.fresh.back_mut() {
            last.is_full = true;
        }
        let sent = self.sent.iter().map(|sent| Arc::clone(&sent.outcome));
        sent.chain(self.fresh.iter().map(|batch| batch.promise.outcome()))
    }

    fn ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    fn place_of(&self, ticket: u64) -> usize {
        let place = self.sent.iter().position(|sent| sent.ticket == ticket);
        place.expect("a batch keeps its place until it has landed")
    }

    fn sent_mut(&mut self, ticket: u64) -> &mut Sent {
        let at = self.place_of(ticket);
        &mut self.sent[at]
    }

    fn remove(&mut self, ticket: u64) -> Sent {
        let at = self.place_of(ticket);
        let sent = self.sent.remove(at).expect("it was found");
        let_go_if_empty(&mut self.sent);
        sent
    }
}

impl Sent {
    fn is_settled(&self) -> bool {
        self.outcome.is_settled()
    }
}

/// Room for one more and no more than that while there are few: most partitions have a batch at a time, of thousands of
/// partitions.
fn grow_by_one<T>(queue: &mut VecDeque<T>) {
    if queue.len() < IDEMPOTENT_IN_FLIGHT_MAX {
        queue.reserve_exact(1);
    }
}

/// No room while there is none: of thousands of partitions few have a batch at a time.
fn let_go_if_empty<T>(queue: &mut VecDeque<T>) {
    if queue.is_empty() {
        *queue = VecDeque::new();
    }
}

/// Sequences wrap to zero after the largest number.
fn plus(sequence: i32, records: u32) -> i32 {
    ((i64::from(sequence) + i64::from(records)) & 0x7fff_ffff) as i32
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::sync::Semaphore;
    use tokio::time::Instant;
    use wire::records::{Batch as Parsed, BatchOptions};
    use wire::{Millis, PartitionId, ProducerEpoch, ProducerId, TopicPartition};

    use super::super::outcome::Appended;
    use super::{Identity, Making, Pushed, Queue, Rules, Taken, Wish};
    use crate::error::Error;
    use crate::record::ProducerRecord;

    const LINGER: Duration = Duration::from_millis(5);
    const RULES: Rules =
        Rules { linger: LINGER, delivery_timeout: Duration::from_secs(120), in_flight_max: 5 };
    const FIRST: Option<Identity> = Some(Identity { id: ProducerId(7), epoch: ProducerEpoch(0) });
    const SECOND: Option<Identity> = Some(Identity { id: ProducerId(7), epoch: ProducerEpoch(1) });

    struct Scene {
        queue: Queue,
        making: Making,
        now: Instant,
    }

    impl Scene {
        fn new(batch_bytes_max: usize) -> Scene {
            let making = Making {
                batch_bytes_max,
                options: BatchOptions::default(),
                memory: Arc::new(Semaphore::new(1000)),
            };
            let queue = Queue::new(TopicPartition::new("t", PartitionId(0)));
            Scene { queue, making, now: Instant::now() }
        }

        fn push(&mut self, value: &'static str) -> Pushed {
            let record = ProducerRecord::new("t", value.as_bytes());
            let size = record.size();
            let (handle, pushed) = self.queue.push(&record, size, Millis(0), &self.making, self.now);
            drop(handle);
            pushed
        }

        /// Takes a batch and shows its values and number.
        fn take(&mut self, identity: Option<Identity>) -> (Taken, String) {
            if let Wish::Later(when) = self.queue.wish(self.now, &RULES) {
                self.now = when;
            }
            assert_eq!(self.queue.wish(self.now, &RULES), Wish::Send);
            let mut taken = self.queue.take(identity);
            let parsed = Parsed::parse(&taken.batch.pack(taken.number)).unwrap();
            parsed.verify_crc().unwrap();
            let header = parsed.header();
            let values: Vec<_> = parsed
                .records(usize::MAX)
                .map(|record| String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap())
                .collect();
            let number = format!("{}/{}", header.producer_epoch().0, header.base_sequence());
            (taken, format!("{} as {number}", values.join(",")))
        }

        fn succeed(&mut self, taken: Taken) {
            self.queue.succeed(taken.ticket, self.now);
            taken.batch.promise.settle(Ok(Appended::default()));
        }

        /// Has had its first batch acknowledged.
        fn known(mut self) -> Scene {
            self.push("first");
            let (first, _) = self.take(FIRST);
            self.succeed(first);
            self
        }
    }

    #[test]
    fn a_batch_waits_for_company_and_leaves_when_it_is_full() {
        let mut scene = Scene::new(140);
        assert_eq!(scene.queue.wish(scene.now, &RULES), Wish::Nothing);
        assert_eq!(scene.push("a"), Pushed::Began);
        assert_eq!(scene.queue.wish(scene.now, &RULES), Wish::Later(scene.now + LINGER));
        assert_eq!(scene.queue.wish(scene.now + LINGER, &RULES), Wish::Send);
        assert_eq!(scene.push("b"), Pushed::Joined);
        assert_eq!(scene.push("cccccccccccccccccccccccccccccccccccccccc"), Pushed::FilledOne);
        assert_eq!(scene.take(None).1, "a,b as -1/-1");
        assert_eq!(scene.queue.wish(scene.now + LINGER, &RULES), Wish::Nothing, "without numbers one goes");
    }

    #[test]
    fn the_first_batch_goes_alone_and_five_follow() {
        let mut scene = Scene::new(1);
        for value in ["a", "b", "c", "d", "e", "f", "g"] {
            scene.push(value);
        }
        let (first, shown) = scene.take(FIRST);
        assert_eq!(shown, "a as 0/0");
        assert_eq!(scene.queue.wish(scene.now, &RULES), Wish::Nothing, "the broker does not know us");
        scene.succeed(first);
        let shown: Vec<_> = (0..5).map(|_| scene.take(FIRST).1).collect();
        assert_eq!(shown, ["b as 0/1", "c as 0/2", "d as 0/3", "e as 0/4", "f as 0/5"]);
        assert_eq!(scene.queue.wish(scene.now, &RULES), Wish::Nothing);
    }

    #[test]
    fn batches_that_are_sent_again_keep_their_order_and_numbers() {
        let mut scene = Scene::new(1).known();
        for value in ["a", "b", "c"] {
            scene.push(value);
        }
        let (a, _) = scene.take(FIRST);
        let (b, _) = scene.take(FIRST);
        scene.queue.retry(b.ticket, b.batch, None);
        assert_eq!(scene.queue.wish(scene.now, &RULES), Wish::Nothing, "a is still to be heard of");
        let later = scene.now + LINGER;
        scene.queue.retry(a.ticket, a.batch, Some(later));
        assert_eq!(scene.queue.wish(scene.now, &RULES), Wish::Later(later));
        scene.now = later;
        let (a, shown) = scene.take(FIRST);
        assert_eq!(shown, "a as 0/1");
        assert_eq!(scene.queue.wish(scene.now, &RULES), Wish::Nothing, "b waits for a");
        scene.succeed(a);
        let (b, shown) = scene.take(FIRST);
        assert_eq!(shown, "b as 0/2");
        assert_eq!(scene.take(FIRST).1, "c as 0/3", "nothing waits any more");
        scene.succeed(b);
    }

    #[test]
    fn numbers_start_again_when_the_first_in_line_is_out_of_order() {
        let mut scene = Scene::new(1).known();
        for value in ["a", "b", "c"] {
            scene.push(value);
        }
        let (a, _) = scene.take(FIRST);
        let (b, _) = scene.take(FIRST);
        assert!(scene.queue.is_first(a.ticket) && !scene.queue.is_first(b.ticket));
        scene.queue.lose_step(a.ticket, a.batch);
        assert_eq!(scene.queue.wish(scene.now, &RULES), Wish::Nothing, "b is still to be heard of");
        scene.queue.retry(b.ticket, b.batch, None);
        let (a, shown) = scene.take(SECOND);
        assert_eq!(shown, "a as 1/0");
        assert_eq!(scene.queue.wish(scene.now, &RULES), Wish::Nothing, "the first of an epoch goes alone");
        scene.succeed(a);
        assert_eq!(scene.take(SECOND).1, "b as 1/1");
        assert_eq!(scene.take(SECOND).1, "c as 1/2");
    }

    #[test]
    fn another_partitions_trouble_changes_no_number_that_is_in_use() {
        let mut scene = Scene::new(1).known();
        scene.push("a");
        scene.push("b");
        let (a, _) = scene.take(FIRST);
        let (b, shown) = scene.take(SECOND);
        assert_eq!(shown, "b as 0/2");
        scene.succeed(a);
        scene.succeed(b);
        scene.push("c");
        assert_eq!(scene.take(SECOND).1, "c as 1/0");
    }

    #[test]
    fn halves_of_a_refused_batch_go_first_under_its_numbers() {
        let mut scene = Scene::new(1000).known();
        for value in ["a", "b", "c"] {
            scene.push(value);
        }
        scene.now += LINGER;
        let (whole, shown) = scene.take(FIRST);
        assert_eq!(shown, "a,b,c as 0/1");
        scene.push("d");
        scene.now += LINGER;
        scene.queue.retry_in_halves(whole.ticket, whole.batch, &scene.making.clone());
        let mut order = Vec::new();
        for _ in 0..3 {
            let (taken, shown) = scene.take(FIRST);
            order.push(shown);
            scene.succeed(taken);
        }
        assert_eq!(order, ["a as 0/1", "b,c as 0/2", "d as 0/4"]);
        assert!(scene.queue.is_idle());
    }

    #[test]
    fn what_waited_too_long_is_given_up_wherever_it_is() {
        let mut scene = Scene::new(1).known();
        for value in ["a", "b", "c"] {
            scene.push(value);
        }
        let (a, _) = scene.take(FIRST);
        let (b, _) = scene.take(FIRST);
        scene.queue.retry(b.ticket, b.batch, None);
        assert!(scene.queue.expire(scene.now, &RULES).is_none());
        scene.now += RULES.delivery_timeout;
        assert!(matches!(scene.queue.expire(scene.now, &RULES), Some(Error::Timeout { .. })));
        assert!(a.batch.promise.is_settled(), "nobody waits for it any more");
        assert!(!scene.queue.is_idle(), "but it is still on its way");
        assert!(scene.queue.expire(scene.now, &RULES).is_none());
        scene.queue.give_up(a.ticket);
        assert!(scene.queue.is_idle());
    }
}
