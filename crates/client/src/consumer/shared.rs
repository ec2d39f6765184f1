//! What the application's handle and the driver both see, under one lock that is never held across an await.
//!
//! The driver fills a slot per partition, the handle empties it; so what is handed out, held and given back is known the
//! moment it happens. A slot that is being given up hands out nothing more. Fetched bytes stay packed until they are
//! handed out, and are counted per broker.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use wire::records::BatchError;
use wire::{BrokerId, LeaderEpoch, Offset, Str, TopicPartition, Uuid};

use super::fetched::{Fetched, Packed};
use super::ledger::{Handled, Ledger};
use super::positions::{Begin, Start, Watermarks};
use crate::error::Error;
use crate::record::ConsumedRecord;

/// The state, and who is to be woken when it changes.
pub(super) struct Shared {
    state: Mutex<State>,
    /// The driver has something to look at.
    pub(super) driver: Notify,
    /// Something that was in hand no longer is.
    pub(super) hands: Notify,
}

pub(super) struct State {
    pub(super) slots: BTreeMap<TopicPartition, Box<Slot>>,
    /// Partitions that may have something to hand out, in turn.
    ready: VecDeque<TopicPartition>,
    errors: VecDeque<Error>,
    waker: Option<Waker>,
    pub(super) wish: Wish,
    /// Counts the wishes.
    pub(super) wishes: u64,
    /// Who commits.
    pub(super) identity: Option<Identity>,
    /// When the application last asked for something or let go of something, or had nothing to do.
    last_active: Instant,
    /// The membership ended because the application did not ask; it begins again when it does.
    pub(super) is_expelled: bool,
    /// Nobody waits for records any more.
    pub(super) is_dropped: bool,
    /// Acknowledgements that came when they no longer counted, since they were last told.
    void: BTreeMap<TopicPartition, u64>,
    pub(super) resets: u64,
    /// Ids that are given out once: of assignments, positions and what is handed out.
    next_id: u64,
}

/// What the application wants to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wish {
    Nothing,
    /// What was assigned by name.
    Assigned,
    /// What the group hands out of these topics.
    Topics(Vec<Str>),
    /// What the group hands out of the topics that match.
    Pattern(String),
}

/// Who the group's coordinator takes this consumer for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) member_id: Str,
    /// The generation or, in the consumer protocol, the member's epoch; -1 outside of the group.
    pub(super) epoch: i32,
    /// Whether it stays as it is for now: not while joining.
    pub(super) is_settled: bool,
}

/// One partition that is read.
pub(super) struct Slot {
    /// Tells this assignment from a later one of the same partition.
    pub(super) assignment: u64,
    /// Tells this position from where the application sought or was taken later.
    pub(super) life: u64,
    pub(super) topic_id: Uuid,
    pub(super) standing: Standing,
    /// What its standing asks for is being looked up.
    pub(super) is_asked: bool,
    /// From when its position is known on.
    pub(super) ledger: Option<Ledger>,
    /// What is known to be committed.
    pub(super) committed: Option<Offset>,
    /// The next offset to hand out.
    pub(super) position: Offset,
    /// The next offset to fetch.
    pub(super) fetch_position: Offset,
    /// Of the last record before `fetch_position`.
    pub(super) leader_epoch: LeaderEpoch,
    /// The leader in whose log `leader_epoch` was last seen to be right.
    pub(super) validated: LeaderEpoch,
    buffer: VecDeque<Fetched>,
    /// Records of a batch of which the first are handed out.
    rest: Option<Rest>,
    buffered_bytes: usize,
    /// Who sent what is in the buffer.
    pub(super) source: BrokerId,
    pub(super) is_paused: bool,
    /// It is being given up: nothing more is handed out or fetched.
    pub(super) is_leaving: bool,
    is_ready: bool,
    pub(super) watermarks: Option<Watermarks>,
    /// A pause after an error.
    pub(super) not_before: Option<Instant>,
    /// A replica nearer than the leader, and until when to believe that (KIP-392).
    pub(super) preferred: Option<(BrokerId, Instant)>,
    /// Where a batch was damaged; the second time at the same place ends the reading.
    damaged_at: Option<Offset>,
    /// The application was told that the topic is not there.
    pub(super) is_told_missing: bool,
}

/// How far a partition is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Standing {
    /// The store of offsets is to be asked where to begin.
    Loading,
    /// The place is to be looked up.
    Seeking {
        start: Start,
        why: Option<Reset>,
    },
    /// The leader is another: it has to be asked whether its log has what was read (KIP-320).
    Validating,
    Reading,
    /// An error was told; nothing is read until the application seeks.
    Stopped,
}

/// A position that does not exist any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reset {
    pub(super) from: Offset,
    pub(super) cause: &'static str,
}

struct Rest {
    records: VecDeque<ConsumedRecord>,
    about: About,
    /// Behind the batch.
    next: Offset,
}

/// What the records of a batch have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct About {
    pub(super) topic_id: Uuid,
    pub(super) base_offset: Offset,
    pub(super) leader_epoch: LeaderEpoch,
    pub(super) watermarks: Watermarks,
}

/// What is handed out.
pub(super) enum Taken {
    Error(Error),
    Packed {
        receipt: Receipt,
        packed: Packed,
        about: About,
    },
    Records {
        receipt: Receipt,
        records: Vec<ConsumedRecord>,
        about: About,
    },
    /// Nothing is there now.
    Nothing,
    /// Nothing is read, so nothing will come.
    End,
}

impl Shared {
    pub(super) fn new() -> Self {
        let state = State {
            slots: BTreeMap::new(),
            ready: VecDeque::new(),
            errors: VecDeque::new(),
            waker: None,
            wish: Wish::Nothing,
            wishes: 0,
            identity: None,
            last_active: Instant::now(),
            is_expelled: false,
            is_dropped: false,
            void: BTreeMap::new(),
            resets: 0,
            next_id: 0,
        };
        Self { state: Mutex::new(state), driver: Notify::new(), hands: Notify::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next thing to hand out; without one, `waker` is woken when there is.
    pub(super) fn take(self: &Arc<Self>, records_max: usize, waker: &Waker) -> Taken {
        let mut state = self.lock();
        state.last_active = Instant::now();
        let taken = state.take(self, records_max);
        if let Taken::Nothing = taken {
            state.waker = Some(waker.clone());
        }
        if std::mem::take(&mut state.is_expelled) {
            // The application is back: so may the membership be.
            self.driver.notify_one();
        }
        taken
    }

    /// Waits until nothing of these partitions is in hand; false if that takes longer.
    pub(super) async fn hands_empty(&self, partitions: &BTreeSet<TopicPartition>, deadline: Instant) -> bool {
        loop {
            let changed = self.hands.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.lock().in_hand(partitions).is_empty() {
                return true;
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return self.lock().in_hand(partitions).is_empty();
            }
        }
    }
}

impl State {
    pub(super) fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Begins with a partition; without a place, the store of offsets is asked for it.
    pub(super) fn begin(&mut self, partition: TopicPartition, topic_id: Uuid, begin: Option<Begin>) {
        let mut slot = Slot {
            assignment: self.id(),
            life: 0,
            topic_id,
            standing: Standing::Loading,
            is_asked: false,
            ledger: None,
            committed: None,
            position: Offset::ZERO,
            fetch_position: Offset::ZERO,
            leader_epoch: LeaderEpoch::NONE,
            validated: LeaderEpoch::NONE,
            buffer: VecDeque::new(),
            rest: None,
            buffered_bytes: 0,
            source: BrokerId(-1),
            is_paused: false,
            is_leaving: false,
            is_ready: false,
            watermarks: None,
            not_before: None,
            preferred: None,
            damaged_at: None,
            is_told_missing: false,
        };
        slot.life = self.id();
        if let Some(begin) = begin {
            slot.go_to(begin);
        }
        self.slots.insert(partition, Box::new(slot));
    }

    /// Goes on elsewhere in a partition; false if it is not read.
    pub(super) fn seek(&mut self, partition: &TopicPartition, begin: Begin) -> bool {
        let life = self.id();
        let Some(slot) = self.slots.get_mut(partition) else { return false };
        slot.life = life;
        slot.go_to(begin);
        true
    }

    /// The position of a partition that has none, or one that does not exist any more, is to be looked up.
    pub(super) fn look_up(&mut self, partition: &TopicPartition, start: Start, why: Option<Reset>) {
        let life = self.id();
        if let Some(slot) = self.slots.get_mut(partition) {
            slot.life = life;
            slot.leave_place();
            slot.standing = Standing::Seeking { start, why };
        }
    }

    /// What is read no longer is, and whoever holds its records holds nothing that counts.
    pub(super) fn lose(&mut self, partitions: &BTreeSet<TopicPartition>) {
        self.slots.retain(|partition, _| !partitions.contains(partition));
    }

    pub(super) fn owned(&self) -> BTreeSet<TopicPartition> {
        self.slots.keys().cloned().collect()
    }

    /// Tells the application of a partition that is not read on until it seeks, or of the end of all.
    pub(super) fn tell(&mut self, error: Error) {
        self.errors.push_back(error);
        self.wake();
    }

    /// Nothing is read of this partition until the application seeks, and it is told why.
    pub(super) fn stop(&mut self, partition: &TopicPartition, reason: Error) {
        let life = self.id();
        if let Some(slot) = self.slots.get_mut(partition) {
            slot.life = life;
            slot.standing = Standing::Stopped;
            slot.is_asked = false;
            slot.clear();
            self.tell(Error::Stopped { partition: partition.clone(), reason: Box::new(reason) });
        }
    }

    /// Whoever waits looks again.
    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Partitions are being given up: what is in hand still counts, and what is not is left to whoever gets them next, so that
    /// it takes no room meanwhile.
    pub(super) fn leave(&mut self, partitions: &BTreeSet<TopicPartition>) {
        for partition in partitions {
            let id = self.id();
            if let Some(slot) = self.slots.get_mut(partition) {
                slot.pass_hidden(partition, id);
                slot.is_leaving = true;
                slot.rewind(slot.position);
            }
        }
    }

    /// Fetched bytes of a partition arrived.
    pub(super) fn put(&mut self, partition: &TopicPartition, fetched: Fetched, source: BrokerId) {
        let Some(slot) = self.slots.get_mut(partition) else { return };
        if let Some((end, leader_epoch)) = fetched.end() {
            slot.fetch_position = end.max(slot.fetch_position);
            slot.leader_epoch = leader_epoch;
        }
        slot.source = source;
        slot.buffered_bytes += fetched.bytes();
        // Most have one fetch waiting, of thousands of partitions: room for one more and no more than that while there are few.
        if slot.buffer.len() < 4 {
            slot.buffer.reserve_exact(1);
        }
        slot.buffer.push_back(fetched);
        self.make_ready(partition);
    }

    pub(super) fn pause(&mut self, partition: &TopicPartition, is_paused: bool) -> bool {
        let Some(slot) = self.slots.get_mut(partition) else { return false };
        slot.is_paused = is_paused;
        if is_paused {
            // What it has in store would leave no room to others of its broker.
            slot.rewind(slot.position);
        }
        self.make_ready(partition);
        true
    }

    fn make_ready(&mut self, partition: &TopicPartition) {
        if let Some(slot) = self.slots.get_mut(partition).filter(|slot| slot.has_something()) {
            if !std::mem::replace(&mut slot.is_ready, true) {
                self.ready.push_back(partition.clone());
            }
            self.wake();
        }
    }

    fn take(&mut self, shared: &Arc<Shared>, records_max: usize) -> Taken {
        if let Some(error) = self.errors.pop_front() {
            return Taken::Error(error);
        }
        while let Some(partition) = self.ready.pop_front() {
            let id = self.id();
            let Some(slot) = self.slots.get_mut(&partition) else { continue };
            slot.is_ready = false;
            if !slot.has_something() {
                continue;
            }
            let taken = slot.take(shared, &partition, id, records_max);
            self.make_ready(&partition);
            match taken {
                Some(Ok(taken)) => return taken,
                Some(Err((offset, error))) => {
                    self.damaged(&partition, offset, &error);
                    return self
                        .errors
                        .pop_front()
                        .map_or_else(|| self.take(shared, records_max), Taken::Error);
                }
                // A buffer was empty but for its end: fetching may go on.
                None => shared.driver.notify_one(),
            }
        }
        match self.wish {
            Wish::Nothing => Taken::End,
            _ => Taken::Nothing,
        }
    }

    /// A damaged batch is fetched once more; damaged again, it ends the partition's reading.
    pub(super) fn damaged(&mut self, partition: &TopicPartition, offset: Offset, error: &BatchError) {
        let life = self.id();
        let Some(slot) = self.slots.get_mut(partition) else { return };
        let problem = error.to_string();
        if slot.damaged_at.replace(offset) == Some(offset) {
            let partition_name = partition.to_string();
            let error = Error::CorruptRecords { partition: partition_name, offset: offset.0, problem };
            self.stop(partition, error);
        } else {
            tracing::warn!(%partition, %offset, problem, "a damaged batch is fetched again");
            slot.life = life;
            // What was asked about the life before is answered to nobody.
            slot.is_asked = false;
            slot.rewind(slot.position);
        }
    }

    /// Puts back what is more than may be handed out at once.
    pub(super) fn put_back(
        &mut self,
        receipt: &mut Receipt,
        records: &mut Vec<ConsumedRecord>,
        about: About,
        records_max: usize,
    ) {
        let Some(slot) = self.slots.get_mut(&receipt.partition) else { return };
        let Some(ledger) = &mut slot.ledger else { return };
        // Were it not the last that was handed out, the rest could not be handed out next.
        if slot.position != receipt.next || slot.rest.is_some() || slot.is_leaving {
            return;
        }
        let at = records[records_max].offset;
        ledger.split(receipt.id, receipt.first, at);
        if ledger.give_back(receipt.id, at).is_some() {
            slot.rest =
                Some(Rest { records: records.split_off(records_max).into(), about, next: receipt.next });
            slot.position = at;
            receipt.next = at;
            let partition = receipt.partition.clone();
            self.make_ready(&partition);
        }
    }

    // Acknowledging.

    fn done(&mut self, receipt: &Receipt, through: Offset) {
        self.last_active = Instant::now();
        let ledger = self.slots.get_mut(&receipt.partition).and_then(|slot| slot.ledger.as_mut());
        let counts = ledger.is_some_and(|ledger| ledger.done(receipt.id, receipt.first, through));
        if !counts {
            tracing::debug!(
                partition = %receipt.partition, first = %receipt.first, next = %through,
                "an acknowledgement came too late: the partition was lost, or its records are handed out again"
            );
            *self.void.entry(receipt.partition.clone()).or_default() += 1;
        }
    }

    fn give_back(&mut self, receipt: &Receipt) {
        self.last_active = Instant::now();
        let Some(slot) = self.slots.get_mut(&receipt.partition) else { return };
        let Some(ledger) = slot.ledger.as_mut() else { return };
        if let Some(offset) = ledger.give_back(receipt.id, receipt.first) {
            tracing::debug!(partition = %receipt.partition, %offset, "given back undone, to be handed out again");
            slot.rewind(offset);
        }
    }

    pub(super) fn take_void(&mut self) -> BTreeMap<TopicPartition, u64> {
        std::mem::take(&mut self.void)
    }

    /// What of these is in hand.
    pub(super) fn in_hand(&self, partitions: &BTreeSet<TopicPartition>) -> Vec<TopicPartition> {
        let is_held = |slot: &Slot| slot.ledger.as_ref().is_some_and(Ledger::is_in_hand);
        let held = self.slots.iter().filter(|(name, slot)| partitions.contains(*name) && is_held(slot));
        held.map(|(name, _)| name.clone()).collect()
    }

    /// What is done with and not committed yet, of these partitions or of all.
    pub(super) fn uncommitted(&self, of: Option<&BTreeSet<TopicPartition>>) -> Vec<Uncommitted> {
        let wanted = self.slots.iter().filter(|(name, _)| of.is_none_or(|of| of.contains(*name)));
        let uncommitted = wanted.filter_map(|(name, slot)| {
            let handled = slot.ledger.as_ref()?.handled();
            (slot.committed != Some(handled.next)).then(|| Uncommitted {
                partition: name.clone(),
                assignment: slot.assignment,
                handled,
            })
        });
        uncommitted.collect()
    }

    pub(super) fn committed(&mut self, committed: &Uncommitted) {
        let slot = self.slots.get_mut(&committed.partition);
        if let Some(slot) = slot.filter(|slot| slot.assignment == committed.assignment) {
            slot.committed = Some(committed.handled.next);
        }
    }

    // Time.

    /// Whether something waits for the application.
    fn is_busy(&self) -> bool {
        !self.errors.is_empty()
            || self
                .slots
                .values()
                .any(|slot| slot.has_something() || slot.ledger.as_ref().is_some_and(Ledger::is_in_hand))
    }

    /// For how long the application has left waiting what waits for it.
    pub(super) fn idle(&mut self) -> Duration {
        if !self.is_busy() {
            self.last_active = Instant::now();
        }
        self.last_active.elapsed()
    }
}

/// An acknowledged prefix.
#[derive(Debug, Clone)]
pub(super) struct Uncommitted {
    pub(super) partition: TopicPartition,
    assignment: u64,
    pub(super) handled: Handled,
}

impl Slot {
    fn go_to(&mut self, begin: Begin) {
        self.leave_place();
        self.not_before = None;
        self.damaged_at = None;
        match begin.start {
            Start::Offset(offset) => self.arrive(offset, begin.leader_epoch),
            start => self.standing = Standing::Seeking { start, why: None },
        }
    }

    fn leave_place(&mut self) {
        self.clear();
        self.is_asked = false;
        self.ledger = None;
        self.preferred = None;
    }

    /// The position is known.
    pub(super) fn arrive(&mut self, offset: Offset, leader_epoch: LeaderEpoch) {
        self.ledger = Some(Ledger::new(offset, leader_epoch));
        self.position = offset;
        self.fetch_position = offset;
        self.leader_epoch = leader_epoch;
        self.validated = LeaderEpoch::NONE;
        self.standing = Standing::Reading;
        self.is_asked = false;
    }

    /// What is next and not to be seen is done with when all before it is.
    fn pass_hidden(&mut self, partition: &TopicPartition, id: u64) {
        let (Some(ledger), None) = (self.ledger.as_mut(), &self.rest) else { return };
        while let Some(fetched) = self.buffer.front_mut() {
            let Some(next) = fetched.next(self.position) else {
                self.buffer.pop_front();
                continue;
            };
            let is_nothing = |packed: &Packed| {
                packed.unpack(partition, self.position).is_ok_and(|records| records.is_empty())
            };
            let Some(packed) = next.ok().filter(|packed| packed.is_hidden() && is_nothing(packed)) else {
                return;
            };
            ledger.hand_out(id, self.position, packed.next(), packed.leader_epoch());
            ledger.done(id, self.position, packed.next());
            self.position = packed.next();
        }
    }

    /// Goes back to what was handed out before; what lies in the buffer is fetched again.
    fn rewind(&mut self, offset: Offset) {
        self.clear();
        self.position = offset;
        self.fetch_position = offset;
    }

    fn clear(&mut self) {
        self.buffer.clear();
        self.buffered_bytes = 0;
        self.rest = None;
    }

    pub(super) fn buffered_bytes(&self) -> usize {
        self.buffered_bytes
    }

    fn has_something(&self) -> bool {
        let is_open = !self.is_paused && !self.is_leaving && self.standing != Standing::Stopped;
        is_open && (self.rest.is_some() || !self.buffer.is_empty())
    }

    /// The next batch, or what is left of one.
    fn take(
        &mut self,
        shared: &Arc<Shared>,
        partition: &TopicPartition,
        id: u64,
        records_max: usize,
    ) -> Option<Result<Taken, (Offset, BatchError)>> {
        let ledger = self.ledger.as_mut()?;
        let first = self.position;
        let mut receipt = |next: Offset, leader_epoch: LeaderEpoch| {
            ledger.hand_out(id, first, next, leader_epoch);
            Receipt { shared: Arc::clone(shared), partition: partition.clone(), id, first, next }
        };
        if let Some(mut rest) = self.rest.take() {
            let count = rest.records.len().min(records_max);
            let records: Vec<_> = rest.records.drain(..count).collect();
            let next = rest.records.front().map_or(rest.next, |record| record.offset);
            self.position = next;
            let about = rest.about;
            self.rest = Some(rest).filter(|rest| !rest.records.is_empty());
            let receipt = receipt(next, about.leader_epoch);
            return Some(Ok(Taken::Records { receipt, records, about }));
        }
        while let Some(fetched) = self.buffer.front_mut() {
            match fetched.next(first) {
                Some(Ok(packed)) => {
                    self.position = packed.next();
                    let about = About {
                        topic_id: self.topic_id,
                        base_offset: packed.base_offset(),
                        leader_epoch: packed.leader_epoch(),
                        watermarks: packed.watermarks,
                    };
                    let receipt = receipt(self.position, about.leader_epoch);
                    return Some(Ok(Taken::Packed { receipt, packed, about }));
                }
                Some(Err(error)) => return Some(Err((first, error))),
                None => {
                    self.buffered_bytes -= fetched.bytes();
                    self.buffer.pop_front();
                    if self.buffer.is_empty() {
                        self.buffer = VecDeque::new();
                    }
                    // There is room: the driver may fetch.
                    shared.driver.notify_one();
                }
            }
        }
        None
    }
}

/// That records are in hand. Dropped undone, it gives them back.
pub(super) struct Receipt {
    shared: Arc<Shared>,
    partition: TopicPartition,
    id: u64,
    first: Offset,
    next: Offset,
}

impl Receipt {
    pub(super) fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    pub(super) fn first(&self) -> Offset {
        self.first
    }

    pub(super) fn next(&self) -> Offset {
        self.next
    }

    pub(super) fn done(mut self) {
        let next = self.next;
        self.done_through(next);
    }

    /// What lies before `through` is done with.
    pub(super) fn done_through(&mut self, through: Offset) {
        let through = through.min(self.next);
        if through <= self.first {
            return;
        }
        self.shared.lock().done(self, through);
        self.first = through;
        self.shared.hands.notify_waiters();
    }

    /// Two receipts of what was one.
    pub(super) fn split(&mut self, at: Offset) -> Receipt {
        let mut state = self.shared.lock();
        let ledger = state.slots.get_mut(&self.partition).and_then(|slot| slot.ledger.as_mut());
        if let Some(ledger) = ledger {
            ledger.split(self.id, self.first, at);
        }
        drop(state);
        let first = std::mem::replace(&mut self.first, at);
        Receipt {
            shared: Arc::clone(&self.shared),
            partition: self.partition.clone(),
            id: self.id,
            first,
            next: at,
        }
    }

    /// Whether these records are still this consumer's, and nobody waits for them to be let go.
    pub(super) fn is_wanted(&self) -> bool {
        let state = self.shared.lock();
        let is_leaving = state.slots.get(&self.partition).is_some_and(|slot| slot.is_leaving);
        !is_leaving && self.counts_in(&state)
    }

    /// Whether acknowledging these records changes anything.
    pub(super) fn counts_in(&self, state: &State) -> bool {
        let ledger = state.slots.get(&self.partition).and_then(|slot| slot.ledger.as_ref());
        ledger.is_some_and(|ledger| ledger.counts(self.id, self.first))
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if self.first < self.next {
            self.shared.lock().give_back(self);
            self.shared.hands.notify_waiters();
            self.shared.driver.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Waker;

    use bytes::Bytes;
    use wire::records::{BatchBuilder, BatchOptions};
    use wire::{BrokerId, Millis, Offset, PartitionId, ProducerEpoch, ProducerId, TopicPartition, Uuid};

    use super::{Shared, Taken};
    use crate::consumer::fetched::Fetched;
    use crate::consumer::positions::{Begin, Watermarks};
    use crate::options::Isolation;

    /// A record of a transaction at an offset, or the end of the transaction.
    fn batch(at: i64, is_control: bool) -> Bytes {
        let mut builder = BatchBuilder::new(BatchOptions {
            base_offset: Offset(at),
            producer_id: ProducerId(1),
            producer_epoch: ProducerEpoch(0),
            base_sequence: if is_control { -1 } else { 0 },
            is_transactional: true,
            is_control,
            ..Default::default()
        });
        let key: Option<&[u8]> = is_control.then_some(&[0, 0, 0, 1]);
        builder.append(Millis(1), key, Some(b"value-"), &[]);
        builder.build()
    }

    fn fetched(batches: &[Bytes]) -> Fetched {
        let end = Offset(100);
        let watermarks = Watermarks { log_start: Offset(0), last_stable: end, high_watermark: end };
        Fetched::new(batches.concat().into(), watermarks, Vec::new(), Isolation::ReadCommitted)
    }

    #[test]
    fn a_partition_that_is_given_up_leaves_its_room_to_others_and_ends_behind_what_nobody_sees() {
        let shared = Arc::new(Shared::new());
        let partition = TopicPartition::new("t", PartitionId(0));
        shared.lock().begin(partition.clone(), Uuid::ZERO, Some(Begin::from(Offset(0))));
        let batches = [batch(0, false), batch(1, true), batch(2, true), batch(3, false)];
        shared.lock().put(&partition, fetched(&batches), BrokerId(1));
        let Taken::Packed { receipt, .. } = shared.take(10, Waker::noop()) else {
            panic!("a batch is to be had");
        };
        assert!(shared.lock().slots[&partition].buffered_bytes() > 0);

        shared.lock().leave(&[partition.clone()].into());
        let at = |shared: &Shared| {
            let state = shared.lock();
            let slot = &state.slots[&partition];
            let handled = slot.ledger.as_ref().map(|ledger| ledger.handled().next);
            (handled, slot.position, slot.buffered_bytes())
        };
        assert_eq!(at(&shared), (Some(Offset(0)), Offset(3), 0), "what is in hand is not done with");
        assert!(matches!(shared.take(10, Waker::noop()), Taken::End));
        receipt.done();
        assert_eq!(at(&shared).0, Some(Offset(3)), "behind the ends of the transactions");
    }
}
