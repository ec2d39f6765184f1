//! The transactions of one partition ("shard") of `__transaction_state`: who may write under a transactional id, what belongs to
//! its transaction, and how that ends.
//!
//! Invariants: an epoch of a producer is given to one client only; a transaction that was decided (its Prepare record is in the
//! log) ends as decided, whoever coordinates it by then; the id takes no further transaction before every partition of the last
//! one has its marker. A transaction that is open for longer than its timeout is aborted, and its producer fenced.
//!
//! With the second version of the protocol (KIP-890) the epoch rises with every transaction, so that nothing that was sent in an
//! earlier one can be taken for part of the next. What the shell owes this module stands in [`crate::coordinator`]; besides, it
//! writes the markers that [`Transactions::take_markings`] asks for, once the records before them are durable.

mod list;
mod record;
mod refusal;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use wire::{Millis, ProducerEpoch, ProducerId, Str, TopicPartition};

pub use self::list::{Description, ListFilter, Listing, STATES};
pub use self::refusal::Refusal;
use crate::coordinator::{CoordinatorRecord, Now, RecordError, Replayed};

/// An epoch that no client is given: it fences whoever has the last one.
const EPOCH_MAX: i16 = i16::MAX;

/// Settings of the transaction coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnConfig {
    /// `transaction.max.timeout.ms`
    pub timeout_ms_max: i32,
    /// `transactional.id.expiration.ms`
    pub id_expiration_ms: i64,
}

/// Who writes, as a producer names itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Producer {
    /// Its id.
    pub id: ProducerId,
    /// Its epoch; a newer one fences it.
    pub epoch: ProducerEpoch,
}

/// Who asks for a transactional id, as operators are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// The name that it gives itself.
    pub id: Str,
    /// Where it asks from.
    pub host: Str,
}

/// What a coordinator has heard of a transactional id since it took over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The client that something was last done for.
    pub client: Option<Client>,
    /// When something was last done, also by way of a partition's leader or a group's coordinator.
    pub at: Millis,
}

/// How a client speaks of transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// It names partitions before it writes to them, and keeps its epoch from one transaction to the next.
    First,
    /// Partitions are added when they are written to, and each transaction has an epoch of its own (KIP-890).
    Second,
}

impl Protocol {
    /// The number of the feature `transaction.version`.
    pub fn level(self) -> i16 {
        match self {
            Protocol::First => 0,
            Protocol::Second => 2,
        }
    }
}

/// Where a transactional id stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No transaction yet under this epoch.
    Empty,
    Ongoing,
    /// Decided: markers are being written.
    Preparing(Decision),
    /// Every partition has its marker.
    Complete(Decision),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Commit,
    Abort,
}

impl Decision {
    fn of(commit: bool) -> Self {
        if commit { Decision::Commit } else { Decision::Abort }
    }
}

/// One transactional id.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Txn {
    producer: Producer,
    /// The producer id before the last change.
    previous_id: ProducerId,
    /// The id that the next transaction is written with, where the epochs of this one are used up.
    next_id: ProducerId,
    /// The epoch before the last one, where the client that had it may ask for the new one again. Not stored.
    last_epoch: ProducerEpoch,
    timeout_ms: i32,
    state: State,
    /// Those without a marker yet, of what belongs to the transaction.
    partitions: BTreeSet<TopicPartition>,
    started_at: Millis,
    updated_at: Millis,
    protocol: Protocol,
    /// When it is aborted, in ticks. Not stored.
    deadline: Option<Millis>,
    /// The markings of its decision that are under way. Not stored.
    marking: Option<MarkingNumber>,
    /// What was last heard of it. Not stored.
    heard: Option<Box<Heard>>,
}

/// Tells one decision's markings from those of every other, also of those that an earlier load of the shard began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MarkingNumber {
    load: u64,
    count: u64,
}

/// Markers to write: the end of a transaction, for each of its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marking {
    /// Whose transaction it is.
    pub transactional_id: Str,
    /// Which of all markings it is.
    pub number: MarkingNumber,
    /// The producer, in the epoch that the markers carry.
    pub producer: Producer,
    /// Whether it is committed.
    pub commit: bool,
    /// In which epoch the shard is led that decided it: markers of an older one are refused.
    pub coordinator_epoch: i32,
    /// How its client speaks of transactions.
    pub protocol: Protocol,
    /// Where the markers go.
    pub partitions: Vec<TopicPartition>,
}

/// Records to append, and what to answer once they are durable.
pub type Decided<Answer> = (Vec<CoordinatorRecord>, Result<Answer, Refusal>);

/// All transactional ids of one shard.
#[derive(Debug)]
pub struct Transactions {
    config: TxnConfig,
    coordinator_epoch: i32,
    marking_next: MarkingNumber,
    ids: BTreeMap<Str, Txn>,
    deadlines: BTreeSet<(Millis, Str)>,
    markings: Vec<Marking>,
}

/// What a change of one id comes to, before it is stored.
struct Change<'a> {
    id: &'a Str,
    txn: Txn,
    now: Now,
}

impl Transactions {
    /// A shard without transactional ids, led in this epoch. `load` is another number for each machine that the process makes.
    pub fn new(config: TxnConfig, coordinator_epoch: i32, load: u64) -> Self {
        Transactions {
            config,
            coordinator_epoch,
            marking_next: MarkingNumber { load, count: 0 },
            ids: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            markings: Vec::new(),
        }
    }

    /// Number of transactional ids.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Number of transactions that are not ended.
    pub fn open(&self) -> usize {
        self.ids.values().filter(|txn| matches!(txn.state, State::Ongoing | State::Preparing(_))).count()
    }

    /// Replays one record of the partition. An error concerns this record alone: loading can go on without it.
    pub fn load(&mut self, replayed: Replayed<'_>) -> Result<(), RecordError> {
        let Replayed::Record { key, value } = replayed else { return Err(RecordError::NotInTransaction) };
        match record::decode(key, value)? {
            (id, Some(txn)) => {
                self.ids.insert(id, txn);
            }
            (id, None) => {
                self.ids.remove(&id);
            }
        }
        Ok(())
    }

    /// Ends the replay: what was decided is carried out, and what is open gets what is left of its time.
    pub fn loaded(&mut self, now: Now) {
        for (id, txn) in &mut self.ids {
            match txn.state {
                State::Ongoing => {
                    let timeout = i64::from(txn.timeout_ms);
                    let left = timeout.saturating_sub(now.wall.since(txn.started_at)).clamp(0, timeout);
                    let deadline = now.plus(left);
                    txn.deadline = Some(deadline);
                    self.deadlines.insert((deadline, id.clone()));
                }
                State::Preparing(decision) => {
                    let number = self.marking_next.take();
                    txn.marking = Some(number);
                    self.markings.push(marking(id, txn, decision, (number, self.coordinator_epoch)));
                }
                State::Empty | State::Complete(_) => {}
            }
        }
    }

    /// Markers to write for what was decided since this was asked last.
    pub fn take_markings(&mut self) -> Vec<Marking> {
        std::mem::take(&mut self.markings)
    }

    /// When [`Transactions::tick`] has something to do next, in ticks.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Aborts the transactions that took too long, and fences their producers.
    pub fn tick(&mut self, now: Now) -> Vec<CoordinatorRecord> {
        let mut records = Vec::new();
        while let Some((deadline, id)) = self.deadlines.first().cloned() {
            if deadline > now.ticks {
                break;
            }
            self.fence(&id, now, &mut records);
        }
        records
    }

    /// Forgets the ids that nobody has used for `transactional.id.expiration.ms`.
    pub fn expire_ids(&mut self, now: Millis) -> Vec<CoordinatorRecord> {
        let is_silent = |txn: &Txn| now.since(txn.updated_at) >= self.config.id_expiration_ms;
        let is_idle = |txn: &Txn| matches!(txn.state, State::Empty | State::Complete(_));
        let expired: Vec<Str> = self
            .ids
            .iter()
            .filter(|(_, txn)| is_idle(txn) && is_silent(txn))
            .map(|(id, _)| id.clone())
            .collect();
        expired.into_iter().map(|id| self.forget(&id)).collect()
    }

    fn forget(&mut self, id: &Str) -> CoordinatorRecord {
        self.ids.remove(id);
        record::encode(id, None)
    }

    /// A client begins to write under a transactional id, or goes on after an error when it names the producer that it was
    /// (KIP-360). A transaction that another one left open is aborted first: the client is told to come again.
    ///
    /// `fresh` is a producer id that nobody has; without one, [`Refusal::NeedsProducerId`] says that it takes one.
    pub fn init_producer(
        &mut self,
        id: &Str,
        timeout_ms: i32,
        expected: Option<Producer>,
        fresh: Option<ProducerId>,
        now: Now,
    ) -> Decided<Producer> {
        match self.try_init(id, timeout_ms, expected, fresh, now) {
            Ok(Init::Now(change)) => {
                let producer = change.txn.producer;
                (vec![self.store(change)], Ok(producer))
            }
            Ok(Init::AbortFirst) => {
                let mut records = Vec::new();
                self.fence(id, now, &mut records);
                (records, Err(Refusal::ConcurrentTransactions))
            }
            Err(refusal) => (Vec::new(), Err(refusal)),
        }
    }

    fn try_init<'a>(
        &self,
        id: &'a Str,
        timeout_ms: i32,
        expected: Option<Producer>,
        fresh: Option<ProducerId>,
        now: Now,
    ) -> Result<Init<'a>, Refusal> {
        if id.is_empty() {
            return Err(Refusal::NoTransactionalId);
        }
        if timeout_ms <= 0 || timeout_ms > self.config.timeout_ms_max {
            return Err(Refusal::InvalidTimeout { max: self.config.timeout_ms_max });
        }
        let Some(txn) = self.ids.get(id) else {
            let producer = Producer { id: fresh.ok_or(Refusal::NeedsProducerId)?, epoch: ProducerEpoch(0) };
            return Ok(Init::Now(Change { id, txn: Txn::new(producer, timeout_ms, now.wall), now }));
        };
        let is_its_own = |expected: &Producer| {
            expected.id == txn.producer.id
                || txn.is_to_be(*expected)
                // It may never have heard of the id that came after its last epoch.
                || expected.id == txn.previous_id && is_used_up(expected.epoch)
        };
        if expected.as_ref().is_some_and(|expected| !is_its_own(expected)) {
            return Err(Refusal::ProducerFenced);
        }
        match txn.state {
            State::Preparing(_) => return Err(Refusal::ConcurrentTransactions),
            State::Ongoing => {
                // A transaction is open in the epoch of whoever began it.
                if expected.is_some_and(|expected| expected.epoch != txn.producer.epoch) {
                    return Err(Refusal::ProducerFenced);
                }
                return Ok(Init::AbortFirst);
            }
            State::Empty | State::Complete(_) => {}
        }
        let (epoch, last_epoch) = (txn.producer.epoch, txn.last_epoch);
        let (producer, last_epoch) = match expected {
            _ if is_used_up(epoch) && expected.is_none_or(|expected| expected.epoch == epoch) => {
                let id = fresh.ok_or(Refusal::NeedsProducerId)?;
                let last = if expected.is_some() { epoch } else { ProducerEpoch::NONE };
                (Producer { id, epoch: ProducerEpoch(0) }, last)
            }
            None => (txn.producer.next(), ProducerEpoch::NONE),
            Some(expected) if expected.id == txn.producer.id && expected.epoch == epoch => {
                (txn.producer.next(), epoch)
            }
            // It did not hear the answer.
            Some(expected) if expected.epoch == last_epoch => (txn.producer, last_epoch),
            Some(_) => return Err(Refusal::ProducerFenced),
        };
        let txn =
            Txn { previous_id: txn.producer.id, last_epoch, ..Txn::new(producer, timeout_ms, now.wall) };
        Ok(Init::Now(Change { id, txn, now }))
    }

    /// The producer writes to partitions: they belong to its transaction from now on, and begin one if there is none.
    pub fn add_partitions(
        &mut self,
        id: &Str,
        producer: Producer,
        partitions: &BTreeSet<TopicPartition>,
        protocol: Protocol,
        now: Now,
    ) -> Decided<()> {
        let txn = match self.its_txn(id, producer) {
            Ok(txn) => txn,
            Err(refusal) => return (Vec::new(), Err(refusal)),
        };
        let is_ongoing = txn.state == State::Ongoing;
        if is_ongoing && partitions.is_subset(&txn.partitions) {
            return (Vec::new(), Ok(()));
        }
        let mut txn = txn.clone();
        if !is_ongoing {
            txn.started_at = now.wall;
            txn.state = State::Ongoing;
            txn.partitions.clear();
        }
        txn.partitions.extend(partitions.iter().map(owned));
        txn.protocol = protocol;
        txn.previous_id = txn.producer.id;
        (vec![self.store(Change { id, txn, now })], Ok(()))
    }

    /// Which of the partitions do not belong to the producer's transaction (KIP-890).
    pub fn missing(
        &self,
        id: &str,
        producer: Producer,
        partitions: &BTreeSet<TopicPartition>,
    ) -> Result<BTreeSet<TopicPartition>, Refusal> {
        let txn = self.its_txn(id, producer)?;
        let is_ongoing = txn.state == State::Ongoing;
        let is_missing = |partition: &&TopicPartition| !is_ongoing || !txn.partitions.contains(*partition);
        Ok(partitions.iter().filter(is_missing).cloned().collect())
    }

    /// The id's transaction, if it takes more from this producer.
    fn its_txn(&self, id: &str, producer: Producer) -> Result<&Txn, Refusal> {
        if id.is_empty() {
            return Err(Refusal::NoTransactionalId);
        }
        let txn = self.ids.get(id).ok_or(Refusal::InvalidProducerIdMapping)?;
        if txn.is_to_be(producer) {
            return Err(Refusal::ConcurrentTransactions);
        }
        if txn.producer.id != producer.id {
            return Err(Refusal::InvalidProducerIdMapping);
        }
        if txn.producer.epoch != producer.epoch {
            return Err(Refusal::ProducerFenced);
        }
        if matches!(txn.state, State::Preparing(_)) {
            return Err(Refusal::ConcurrentTransactions);
        }
        Ok(txn)
    }

    /// Decides the producer's transaction. The answer is the producer that writes the next one.
    ///
    /// `fresh` is as in [`Transactions::init_producer`].
    pub fn end(
        &mut self,
        id: &Str,
        producer: Producer,
        commit: bool,
        protocol: Protocol,
        fresh: Option<ProducerId>,
        now: Now,
    ) -> Decided<Producer> {
        let decision = Decision::of(commit);
        let ending = match protocol {
            Protocol::First => self.check_end(id, producer, decision),
            Protocol::Second => self.check_end_with_epoch(id, producer, decision),
        };
        let txn = match ending {
            Ok(Ending::Already(next)) => return (Vec::new(), Ok(next)),
            Ok(Ending::Now(txn)) => txn.clone(),
            Err(refusal) => return (Vec::new(), Err(refusal)),
        };
        let next_id = match protocol {
            Protocol::Second if is_used_up(txn.producer.epoch) => match fresh {
                Some(fresh) => fresh,
                None => return (Vec::new(), Err(Refusal::NeedsProducerId)),
            },
            Protocol::First | Protocol::Second => ProducerId::NONE,
        };
        let mut prepared =
            Txn { state: State::Preparing(decision), previous_id: txn.producer.id, next_id, protocol, ..txn };
        if protocol == Protocol::Second {
            prepared.last_epoch = prepared.producer.epoch;
            prepared.producer = prepared.producer.next();
        }
        if !matches!(txn.state, State::Ongoing) {
            // An abort of what never began; it began now, then.
            prepared.started_at = now.wall;
            prepared.partitions.clear();
        }
        let next = prepared.next_producer();
        let mut records = Vec::new();
        self.prepare(Change { id, txn: prepared, now }, decision, &mut records);
        (records, Ok(next))
    }

    /// What the end of a transaction meets whose producer keeps its epoch.
    fn check_end(&self, id: &str, producer: Producer, decision: Decision) -> Result<Ending<'_>, Refusal> {
        if id.is_empty() {
            return Err(Refusal::NoTransactionalId);
        }
        let txn = self.ids.get(id).filter(|txn| txn.producer.id == producer.id);
        let txn = txn.ok_or(Refusal::InvalidProducerIdMapping)?;
        if txn.producer.epoch != producer.epoch {
            return Err(Refusal::ProducerFenced);
        }
        match txn.state {
            State::Ongoing => Ok(Ending::Now(txn)),
            State::Complete(done) if done == decision => Ok(Ending::Already(txn.producer)),
            State::Preparing(done) if done == decision => Err(Refusal::ConcurrentTransactions),
            State::Empty | State::Complete(_) | State::Preparing(_) => Err(Refusal::InvalidTxnState),
        }
    }

    /// What the end of a transaction meets that has an epoch of its own: the same epoch is the next transaction, the one before
    /// is a repetition of the last end.
    fn check_end_with_epoch(
        &self,
        id: &str,
        producer: Producer,
        decision: Decision,
    ) -> Result<Ending<'_>, Refusal> {
        if id.is_empty() {
            return Err(Refusal::NoTransactionalId);
        }
        let txn = self.ids.get(id).ok_or(Refusal::InvalidProducerIdMapping)?;
        if txn.is_to_be(producer) {
            // The next transaction is to end before the markers of this one are everywhere.
            return Err(Refusal::ConcurrentTransactions);
        }
        let is_after_last = txn.previous_id == producer.id
            && is_used_up(producer.epoch)
            && txn.producer.epoch == ProducerEpoch(0);
        if txn.producer.id != producer.id && !is_after_last {
            return Err(Refusal::InvalidProducerIdMapping);
        }
        let is_current = txn.producer == producer;
        // The last epoch is no client's: without an id to go on with it fences.
        let is_fencing = txn.producer.epoch.0 == EPOCH_MAX && txn.next_id == ProducerId::NONE;
        let is_after_mine =
            txn.producer.id == producer.id && txn.producer.epoch.0 == producer.epoch.0.saturating_add(1);
        let is_repeated = is_after_last || is_after_mine && !is_fencing;
        match txn.state {
            State::Ongoing if is_current => Ok(Ending::Now(txn)),
            State::Preparing(done) if is_repeated => match done == decision {
                true => Err(Refusal::ConcurrentTransactions),
                false => Err(Refusal::InvalidTxnState),
            },
            State::Complete(done) if is_repeated => match done == decision {
                true => Ok(Ending::Already(txn.producer)),
                false => Err(Refusal::InvalidTxnState),
            },
            State::Empty | State::Complete(_) if is_current => match decision {
                // The client does not know whether anything that it sent had begun one.
                Decision::Abort => Ok(Ending::Now(txn)),
                Decision::Commit => Err(Refusal::InvalidTxnState),
            },
            State::Empty | State::Ongoing | State::Preparing(_) | State::Complete(_) => {
                Err(Refusal::ProducerFenced)
            }
        }
    }

    /// Something was done for an id: for this client, or for one that a partition's leader or a group's coordinator asks for. Only
    /// operators are told; whoever coordinates the id next does not know it.
    pub fn heard(&mut self, id: &str, client: Option<&Client>, now: Millis) {
        let Some(txn) = self.ids.get_mut(id) else { return };
        let heard = txn.heard.get_or_insert_with(|| Box::new(Heard { client: None, at: now }));
        heard.at = now;
        if client.is_some() && heard.client.as_ref() != client {
            heard.client = client.cloned();
        }
    }

    /// Whether these markings are still wanted. Not when the transaction has ended, or others have taken their place.
    pub fn wants(&self, id: &str, number: MarkingNumber) -> bool {
        self.ids.get(id).is_some_and(|txn| txn.marking == Some(number))
    }

    /// Markers are written in these partitions, or they are gone. With the last one the transaction is complete.
    pub fn marked(
        &mut self,
        id: &Str,
        number: MarkingNumber,
        partitions: &[TopicPartition],
        now: Now,
    ) -> Vec<CoordinatorRecord> {
        let Some(txn) = self.ids.get_mut(id).filter(|txn| txn.marking == Some(number)) else {
            return Vec::new();
        };
        let State::Preparing(decision) = txn.state else { return Vec::new() };
        for partition in partitions {
            txn.partitions.remove(partition);
        }
        if !txn.partitions.is_empty() {
            return Vec::new();
        }
        let completed = txn.completed(decision);
        vec![self.store(Change { id, txn: completed, now })]
    }

    /// Aborts a transaction that nobody ends any more; whoever writes it still is fenced.
    fn fence(&mut self, id: &Str, now: Now, records: &mut Vec<CoordinatorRecord>) {
        let txn = self.ids.get(id).expect("whoever is fenced is there");
        assert!(txn.state == State::Ongoing, "only what is open is aborted");
        let fencing = match txn.protocol {
            Protocol::First => txn.producer.next(),
            // One more: the next epoch would be what its own end had come to.
            Protocol::Second => txn.producer.next().next(),
        };
        let fenced = Txn {
            producer: fencing,
            last_epoch: ProducerEpoch::NONE,
            state: State::Preparing(Decision::Abort),
            ..txn.clone()
        };
        self.prepare(Change { id, txn: fenced, now }, Decision::Abort, records);
    }

    /// Stores a decision, and the end with it where no partition has to be told.
    fn prepare(&mut self, change: Change<'_>, decision: Decision, records: &mut Vec<CoordinatorRecord>) {
        let Change { id, mut txn, now } = change;
        let completed = txn.partitions.is_empty().then(|| txn.completed(decision));
        if completed.is_none() {
            let number = self.marking_next.take();
            txn.marking = Some(number);
            self.markings.push(marking(id, &txn, decision, (number, self.coordinator_epoch)));
        }
        records.push(self.store(Change { id, txn, now }));
        if let Some(txn) = completed {
            records.push(self.store(Change { id, txn, now }));
        }
    }

    /// Takes a change over, and returns its record.
    fn store(&mut self, change: Change<'_>) -> CoordinatorRecord {
        let Change { id, mut txn, now } = change;
        txn.updated_at = now.wall;
        let before = self.ids.get(id).and_then(|before| before.deadline);
        txn.deadline = match txn.state {
            State::Ongoing => Some(before.unwrap_or_else(|| now.plus(i64::from(txn.timeout_ms)))),
            State::Empty | State::Preparing(_) | State::Complete(_) => None,
        };
        if let Some(before) = before.filter(|before| txn.deadline != Some(*before)) {
            self.deadlines.remove(&(before, id.clone()));
        }
        let key = Str::copy_from(id);
        if let Some(deadline) = txn.deadline {
            self.deadlines.insert((deadline, key.clone()));
        }
        let record = record::encode(id, Some(&txn));
        self.ids.insert(key, txn);
        record
    }
}

/// How a client's InitProducerId goes on.
enum Init<'a> {
    Now(Change<'a>),
    AbortFirst,
}

/// How a client's EndTxn goes on.
enum Ending<'a> {
    Now(&'a Txn),
    /// It was ended so before; the producer of the next transaction.
    Already(Producer),
}

impl Producer {
    /// The same producer in its next epoch. The last one fences, and is given to nobody.
    fn next(self) -> Producer {
        Producer { epoch: ProducerEpoch(self.epoch.0.saturating_add(1)), ..self }
    }
}

impl Txn {
    fn new(producer: Producer, timeout_ms: i32, now: Millis) -> Self {
        Txn {
            producer,
            previous_id: ProducerId::NONE,
            next_id: ProducerId::NONE,
            last_epoch: ProducerEpoch::NONE,
            timeout_ms,
            state: State::Empty,
            partitions: BTreeSet::new(),
            started_at: Millis(-1),
            updated_at: now,
            protocol: Protocol::First,
            deadline: None,
            marking: None,
            heard: None,
        }
    }

    /// Whether the producer is the one that writes the next transaction, while the last one is being ended.
    fn is_to_be(&self, producer: Producer) -> bool {
        matches!(self.state, State::Preparing(_)) && self.next_producer() == producer
    }

    /// Who writes the next transaction, once this one is complete.
    fn next_producer(&self) -> Producer {
        match self.next_id {
            ProducerId::NONE => self.producer,
            id => Producer { id, epoch: ProducerEpoch(0) },
        }
    }

    fn completed(&self, decision: Decision) -> Txn {
        Txn {
            producer: self.next_producer(),
            previous_id: self.producer.id,
            next_id: ProducerId::NONE,
            state: State::Complete(decision),
            partitions: BTreeSet::new(),
            marking: None,
            ..self.clone()
        }
    }
}

/// Whether a producer in this epoch has no other one that it could be given: one is left to fence it.
fn is_used_up(epoch: ProducerEpoch) -> bool {
    epoch.0 >= EPOCH_MAX - 1
}

impl MarkingNumber {
    fn take(&mut self) -> Self {
        let taken = *self;
        self.count += 1;
        taken
    }
}

fn marking(
    id: &Str,
    txn: &Txn,
    decision: Decision,
    (number, coordinator_epoch): (MarkingNumber, i32),
) -> Marking {
    Marking {
        transactional_id: id.clone(),
        number,
        producer: txn.producer,
        commit: decision == Decision::Commit,
        coordinator_epoch,
        protocol: txn.protocol,
        partitions: txn.partitions.iter().cloned().collect(),
    }
}

/// A copy that does not hold the request's frame.
fn owned(partition: &TopicPartition) -> TopicPartition {
    TopicPartition::new(Str::copy_from(&partition.topic), partition.partition)
}
