//! The coordinators' shell: feeds requests to the pure state machine of their shard and its records to the shard's partition of
//! a topic of the broker's own.
//!
//! Invariant: a reply leaves only when every record that the shard produced before it is safe, so nobody is told of
//! a commit or a generation that a crash could undo. The machine is stepped under its shard's lock and never waits
//! there. When the log refuses, the shard answers nobody, drops its state and loads it from the log again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use state::coordinator::{CoordinatorRecord, Now, Outcome, RecordError, Replayed, Token};
use state::txn::Producer;
use storage::Origin;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep};
use wire::records::{BatchBuilder, BatchOptions};
use wire::{ErrorCode, LeaderEpoch, Millis, Offset, PartitionId, ProducerEpoch, ProducerId, Response};

use crate::blocking;
use crate::broker::stopped;
use crate::clock::Clock;
use crate::log_reader::LogReader;
use crate::partition::{Marker, Partition, Verification};
use crate::waiting::ParkedProduce;

/// Records that leave together are one batch up to this size, and several from there on.
const BATCH_BYTES: usize = 1024 * 1024;
/// Wait before it is looked again whether enough replicas are in sync for what is to be done outside.
const EFFECTS_RETRY: Duration = Duration::from_millis(200);
/// How long the clock task sleeps when no group has a deadline.
const TICK_MAX: Duration = Duration::from_secs(60);

/// What a shard believes, and how that changes.
pub(crate) trait Machine: Sized + Send + 'static {
    /// Its settings.
    type Config: Clone + Send + Sync + 'static;
    /// What is to be done outside of the shard, once the records that ask for it are safe.
    type Effect: Send + 'static;

    /// A shard that knows nothing, led in this epoch.
    /// `load` is another number for each machine.
    fn new(config: Self::Config, leader_epoch: LeaderEpoch, load: u64) -> Self;
    /// Takes over what the partition holds, in order.
    fn load(&mut self, replayed: Replayed<'_>) -> Result<(), RecordError>;
    /// That was all.
    fn loaded(&mut self, now: Now);
    /// Does what is due.
    fn tick(&mut self, now: Now) -> Outcome;
    /// When something is due next, in ticks.
    fn next_deadline(&self) -> Option<Millis>;
    /// What is to be done outside since this was asked last.
    fn take_effects(&mut self) -> Vec<Self::Effect>;
}

/// All shards that this broker coordinates: those of the partitions that it leads.
pub(crate) struct Coordinator<M: Machine> {
    config: M::Config,
    clock: Arc<dyn Clock>,
    /// Where the ticks are counted from, so that deadlines do not move when the clock is set.
    began: Instant,
    /// By partition of the topic; `None` where another broker leads. Empty until the topic exists.
    shards: ArcSwap<Vec<Option<Arc<Shard<M>>>>>,
    /// Told when a shard has a deadline that may be earlier than the one slept for.
    earlier_deadline: Notify,
    /// Holds no more than the shards have under way.
    effects: mpsc::UnboundedSender<M::Effect>,
    loads: AtomicU64,
}

/// One partition of the topic and what is in it, for as long as this broker leads it in one epoch.
struct Shard<M> {
    partition: Arc<Partition>,
    leader_epoch: LeaderEpoch,
    state: Mutex<ShardState<M>>,
}

impl<M> Shard<M> {
    /// Whether everything below `required` is safe.
    fn is_safe(&self, required: Offset) -> bool {
        self.partition.is_safe(required, self.leader_epoch)
    }

    /// Waits for that; false if the log failed, or another broker leads it.
    async fn safe(&self, required: Offset) -> bool {
        let parked = ParkedProduce::new(1);
        self.partition.park_produce(required, self.leader_epoch, &parked, 0);
        parked.finished().await;
        parked.outcome(0) == Some(ErrorCode::NONE)
    }
}

enum ShardState<M> {
    Loading,
    Active(Active<M>),
    Failed,
}

impl<M> ShardState<M> {
    fn active(&mut self) -> Result<&mut Active<M>, ErrorCode> {
        match self {
            ShardState::Active(active) => Ok(active),
            ShardState::Loading => Err(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS),
            ShardState::Failed => Err(ErrorCode::NOT_COORDINATOR),
        }
    }
}

struct Active<M> {
    machine: M,
    parked: HashMap<Token, oneshot::Sender<Response>>,
    token_next: u64,
    /// End of the shard's last record: what has to be safe before the next reply leaves.
    written_end: Offset,
}

impl<M: Machine> Coordinator<M> {
    /// A coordinator without shards, and what its shards will want to be done.
    pub(crate) fn new(
        config: M::Config,
        clock: Arc<dyn Clock>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<M::Effect>) {
        let (effects, wanted) = mpsc::unbounded_channel();
        let coordinator = Coordinator {
            config,
            clock,
            began: Instant::now(),
            shards: ArcSwap::default(),
            earlier_deadline: Notify::new(),
            effects,
            loads: AtomicU64::new(0),
        };
        (Arc::new(coordinator), wanted)
    }

    /// Says how many partitions the topic has.
    pub(crate) fn set_partition_count(&self, count: usize) {
        if self.shards.load().len() < count {
            self.shards.rcu(|current| {
                let mut shards = Vec::clone(current);
                shards.resize(count.max(shards.len()), None);
                shards
            });
        }
    }

    /// Looks after a partition from now on, in the epoch in which this broker leads it; loads it in the background.
    pub(crate) fn lead(self: &Arc<Self>, partition: Arc<Partition>) {
        let leader_epoch = partition.leader_epoch();
        let index = partition.id.partition;
        let shard = Arc::new(Shard { partition, leader_epoch, state: Mutex::new(ShardState::Loading) });
        self.replace(index, Some(Arc::clone(&shard)));
        let coordinator = Arc::clone(self);
        drop(blocking::start(move || coordinator.load(&shard)));
    }

    /// Another broker looks after a partition. When this returns nothing more is written for it here.
    pub(crate) fn resign(&self, index: PartitionId) {
        self.replace(index, None);
    }

    fn replace(&self, index: PartitionId, shard: Option<Arc<Shard<M>>>) {
        let slot = usize::try_from(index.0).expect("partition ids are not negative");
        let mut before = None;
        self.shards.rcu(|current| {
            let mut shards = Vec::clone(current);
            shards.resize(shards.len().max(slot + 1), None);
            before = std::mem::replace(&mut shards[slot], shard.clone());
            shards
        });
        if let Some(before) = before {
            // Dropping the parked senders answers everybody with NOT_COORDINATOR.
            *before.state.lock() = ShardState::Failed;
        }
    }

    /// The partition of the topic that a key belongs to, once the topic exists.
    pub(crate) fn partition_of(&self, key: &str) -> Option<PartitionId> {
        let count = self.shards.load().len();
        (count > 0).then(|| partition_for(key, count))
    }

    /// Whether a key's shard is there to answer, or soon will be.
    pub(crate) fn serves(&self, key: &str) -> bool {
        self.shard_of(key).is_ok_and(|shard| !matches!(*shard.state.lock(), ShardState::Failed))
    }

    fn now(&self) -> Now {
        let ticks = i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX);
        Now { ticks: Millis(ticks), wall: self.clock.now() }
    }

    /// Steps the key's shard and waits for the reply.
    pub(crate) async fn run(
        self: &Arc<Self>,
        key: &str,
        step: impl FnOnce(&mut M, Token, Now) -> Outcome,
    ) -> Result<Response, ErrorCode> {
        let reply = self.step_shard(&self.shard_of(key)?, step)?;
        reply.await.map_err(|_dropped| ErrorCode::NOT_COORDINATOR)
    }

    /// The partition that holds the key's shard here.
    pub(crate) fn partition(&self, key: &str) -> Result<Arc<Partition>, ErrorCode> {
        Ok(Arc::clone(&self.shard_of(key)?.partition))
    }

    /// Steps the key's shard as part of a producer's transaction, and waits for the reply. Markers are written under the same
    /// lock, so the transaction is not ended in between.
    pub(crate) async fn run_in_transaction(
        self: &Arc<Self>,
        key: &str,
        producer: Producer,
        verification: Option<&Verification>,
        step: impl FnOnce(&mut M, Token, Now) -> Outcome,
    ) -> Result<Response, ErrorCode> {
        let shard = self.shard_of(key)?;
        let reply = {
            let mut state = shard.state.lock();
            shard.partition.check_transaction(producer, verification)?;
            self.step_locked(&shard, &mut state, step)?
        };
        reply.await.map_err(|_dropped| ErrorCode::NOT_COORDINATOR)
    }

    /// Asks the key's shard something that it answers by itself, with the records that the answer stands on.
    pub(crate) async fn ask<Answer>(
        self: &Arc<Self>,
        key: &str,
        question: impl FnOnce(&mut M, Now) -> (Vec<CoordinatorRecord>, Answer),
    ) -> Result<Answer, ErrorCode> {
        self.ask_shard(&self.shard_of(key)?, question).await
    }

    /// Asks every shard in turn; those that cannot be served have nothing to say.
    pub(crate) async fn ask_all<Answer>(
        self: &Arc<Self>,
        mut question: impl FnMut(&M) -> Answer,
    ) -> Result<Vec<Answer>, ErrorCode> {
        let mut answers = Vec::new();
        for shard in self.shards.load_full().iter().flatten() {
            match self.ask_shard(shard, |machine, _now| (Vec::new(), question(machine))).await {
                Ok(answer) => answers.push(answer),
                Err(ErrorCode::NOT_COORDINATOR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(answers)
    }

    /// Looks at every shard that is loaded.
    pub(crate) fn look(&self, mut see: impl FnMut(&M)) {
        for shard in self.shards.load().iter().flatten() {
            if let Ok(active) = shard.state.lock().active() {
                see(&active.machine);
            }
        }
    }

    /// Runs timeouts until `stop` turns true.
    pub(crate) async fn run_clock(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        loop {
            let now = self.now();
            let deadline = self.step_all(M::tick);
            let wait = deadline.map_or(TICK_MAX, |deadline| millis_until(deadline, now.ticks).min(TICK_MAX));
            tokio::select! {
                biased;
                () = sleep(wait) => {}
                () = self.earlier_deadline.notified() => {}
                () = stopped(&mut stop) => return,
            }
        }
    }

    /// Steps every active shard without a request; returns the earliest deadline that is left.
    pub(crate) fn step_all(self: &Arc<Self>, mut step: impl FnMut(&mut M, Now) -> Outcome) -> Option<Millis> {
        let now = self.now();
        let mut earliest: Option<Millis> = None;
        for shard in self.shards.load_full().iter().flatten() {
            let mut state = shard.state.lock();
            let Ok(active) = state.active() else { continue };
            let outcome = step(&mut active.machine, now);
            let deadline = active.machine.next_deadline();
            if let Err(error) = self.carry_out(shard, &mut state, outcome, now.wall) {
                tracing::error!(partition = %shard.partition.id, ?error, "a coordinator's records could not be written");
            }
            earliest = earliest.into_iter().chain(deadline).min();
        }
        earliest
    }

    fn shard_of(&self, key: &str) -> Result<Arc<Shard<M>>, ErrorCode> {
        let partition = self.partition_of(key).ok_or(ErrorCode::COORDINATOR_NOT_AVAILABLE)?;
        self.shard_at(partition).ok_or(ErrorCode::NOT_COORDINATOR)
    }

    fn shard_at(&self, partition: PartitionId) -> Option<Arc<Shard<M>>> {
        let index = usize::try_from(partition.0).expect("partition ids are not negative");
        self.shards.load().get(index).cloned().flatten()
    }

    /// Steps a machine; the clock's task is told if something is due earlier than before.
    fn step<T>(&self, machine: &mut M, now: Now, step: impl FnOnce(&mut M, Now) -> T) -> T {
        let before = machine.next_deadline();
        let stepped = step(machine, now);
        let deadline = machine.next_deadline();
        if deadline.is_some_and(|deadline| before.is_none_or(|before| deadline < before)) {
            self.earlier_deadline.notify_one();
        }
        stepped
    }

    fn step_shard(
        self: &Arc<Self>,
        shard: &Arc<Shard<M>>,
        step: impl FnOnce(&mut M, Token, Now) -> Outcome,
    ) -> Result<oneshot::Receiver<Response>, ErrorCode> {
        self.step_locked(shard, &mut shard.state.lock(), step)
    }

    fn step_locked(
        self: &Arc<Self>,
        shard: &Arc<Shard<M>>,
        state: &mut ShardState<M>,
        step: impl FnOnce(&mut M, Token, Now) -> Outcome,
    ) -> Result<oneshot::Receiver<Response>, ErrorCode> {
        let now = self.now();
        let active = state.active()?;
        let token = Token(active.token_next);
        active.token_next += 1;
        let (sender, receiver) = oneshot::channel();
        active.parked.insert(token, sender);
        let outcome = self.step(&mut active.machine, now, |machine, now| step(machine, token, now));
        self.carry_out(shard, state, outcome, now.wall)?;
        Ok(receiver)
    }

    async fn ask_shard<Answer>(
        self: &Arc<Self>,
        shard: &Arc<Shard<M>>,
        question: impl FnOnce(&mut M, Now) -> (Vec<CoordinatorRecord>, Answer),
    ) -> Result<Answer, ErrorCode> {
        let now = self.now();
        let (answer, required) = {
            let mut state = shard.state.lock();
            let (records, answer) = self.step(&mut state.active()?.machine, now, question);
            self.write(shard, &mut state, &records, None, now.wall)?;
            (answer, state.active()?.written_end)
        };
        if shard.is_safe(required) || shard.safe(required).await {
            return Ok(answer);
        }
        self.reload(shard, &mut shard.state.lock());
        Err(ErrorCode::NOT_COORDINATOR)
    }

    /// Writes an outcome's records and sends its replies when they are safe.
    fn carry_out(
        self: &Arc<Self>,
        shard: &Arc<Shard<M>>,
        state: &mut ShardState<M>,
        outcome: Outcome,
        now: Millis,
    ) -> Result<(), ErrorCode> {
        self.write(shard, state, &outcome.records, outcome.transaction, now)?;
        let active = state.active()?;
        let replies: Vec<_> = outcome
            .replies
            .into_iter()
            .filter_map(|(token, response)| Some((active.parked.remove(&token)?, response)))
            .collect();
        if replies.is_empty() {
            return Ok(());
        }
        if shard.is_safe(active.written_end) {
            deliver(replies);
            return Ok(());
        }
        let (coordinator, shard, required) = (Arc::clone(self), Arc::clone(shard), active.written_end);
        tokio::spawn(async move {
            if shard.safe(required).await {
                deliver(replies);
            } else {
                coordinator.reload(&shard, &mut shard.state.lock());
            }
        });
        Ok(())
    }

    /// Appends records to the shard's log. If the log refuses them, the shard starts over from what it holds.
    fn write(
        self: &Arc<Self>,
        shard: &Arc<Shard<M>>,
        state: &mut ShardState<M>,
        records: &[CoordinatorRecord],
        transaction: Option<(ProducerId, ProducerEpoch)>,
        now: Millis,
    ) -> Result<(), ErrorCode> {
        let bytes_of =
            |record: &CoordinatorRecord| record.key.len() + record.value.as_ref().map_or(0, Bytes::len);
        let mut rest = records;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fit = rest.iter().take_while(|record| {
                bytes += bytes_of(record);
                bytes <= BATCH_BYTES
            });
            let (together, later) = rest.split_at(fit.count().max(1));
            rest = later;
            let (producer_id, producer_epoch) =
                transaction.unwrap_or((ProducerId::NONE, ProducerEpoch::NONE));
            let is_transactional = transaction.is_some();
            let mut batch = BatchBuilder::new(BatchOptions {
                producer_id,
                producer_epoch,
                is_transactional,
                ..BatchOptions::default()
            });
            for record in together {
                batch.append(now, Some(&record.key), record.value.as_deref(), &[]);
            }
            match shard.partition.append(batch.build(), now, Origin::Coordinator) {
                Ok(led) => state.active()?.written_end = led.appended.last_offset.plus(1),
                Err(error) => {
                    tracing::error!(partition = %shard.partition.id, %error, "a coordinator's records were refused");
                    self.reload(shard, state);
                    return Err(ErrorCode::NOT_COORDINATOR);
                }
            }
        }
        self.begin_effects(shard, state.active()?);
        Ok(())
    }

    /// Has done what the shard wants to be done outside, once what asks for it is safe.
    fn begin_effects(self: &Arc<Self>, shard: &Arc<Shard<M>>, active: &mut Active<M>) {
        let effects = active.machine.take_effects();
        if effects.is_empty() {
            return;
        }
        let (sender, shard, required) = (self.effects.clone(), Arc::clone(shard), active.written_end);
        tokio::spawn(async move {
            // What they stand on is in the log, and will be safe when enough replicas are in sync again.
            while !shard.safe(required).await {
                let leads = shard.partition.check_leader(shard.leader_epoch).is_ok();
                if !leads || shard.partition.log.is_offline() {
                    // Another broker has them done.
                    return;
                }
                sleep(EFFECTS_RETRY).await;
            }
            for effect in effects {
                // Nobody takes them any more when the broker stops.
                let _ = sender.send(effect);
            }
        });
    }

    /// Has every shard write anew what it believes, where it wants to, and lets go of the records before. `anew` gives these
    /// records; they are all that the shard stands on.
    pub(crate) fn let_go_of_the_past(
        self: &Arc<Self>,
        mut anew: impl FnMut(&mut M, Now) -> Option<Vec<CoordinatorRecord>>,
    ) {
        let now = self.now();
        for shard in self.shards.load_full().iter().flatten() {
            let mut state = shard.state.lock();
            let Ok(active) = state.active() else { continue };
            let past = active.written_end;
            let Some(records) = anew(&mut active.machine, now) else { continue };
            if self.write(shard, &mut state, &records, None, now.wall).is_err() {
                continue;
            }
            let Ok(active) = state.active() else { continue };
            let (shard, required) = (Arc::clone(shard), active.written_end);
            tokio::spawn(async move {
                if shard.safe(required).await {
                    let done = blocking::start(move || {
                        if let Err(error) = shard.partition.log.advance_log_start(past) {
                            tracing::error!(partition = %shard.partition.id, %error, "a coordinator's old records could not be deleted");
                        }
                    });
                    // A panic is reported where it happens.
                    let _ = done.await;
                }
            });
        }
    }

    /// Writes the end of a producer's transaction into a shard's partition, where the shard's own records belong to it.
    pub(crate) fn write_marker(
        self: &Arc<Self>,
        index: PartitionId,
        marker: Marker,
    ) -> Result<(Arc<Partition>, LeaderEpoch, Offset), ErrorCode> {
        let shard = self.shard_at(index).ok_or(ErrorCode::NOT_LEADER_OR_FOLLOWER)?;
        let mut state = shard.state.lock();
        let active = state.active()?;
        let led = shard.partition.append_marker(marker, self.clock.now()).map_err(ErrorCode::from)?;
        let ended = Replayed::Ended { producer: marker.producer.id, commit: marker.commit };
        active.machine.load(ended).expect("the machine takes transactions");
        active.written_end = led.appended.last_offset.plus(1);
        Ok((Arc::clone(&shard.partition), led.leader_epoch, active.written_end))
    }

    /// Forgets what the shard believes: part of it is not in the log.
    fn reload(self: &Arc<Self>, shard: &Arc<Shard<M>>, state: &mut ShardState<M>) {
        if !matches!(state, ShardState::Active(_)) {
            return;
        }
        if shard.partition.check_leader(shard.leader_epoch).is_err() {
            // Another broker loads them.
            *state = ShardState::Failed;
            return;
        }
        // Dropping the parked senders answers everybody with NOT_COORDINATOR.
        *state = ShardState::Loading;
        let (coordinator, shard) = (Arc::clone(self), Arc::clone(shard));
        drop(blocking::start(move || coordinator.load(&shard)));
    }

    /// Rebuilds a shard's state from its log: all of it, also what is not safe yet, as replies that wait for that may
    /// still be given. Nothing is answered from it before it is safe. Blocks.
    fn load(self: &Arc<Self>, shard: &Arc<Shard<M>>) {
        let load = self.loads.fetch_add(1, Ordering::Relaxed);
        let mut machine = M::new(self.config.clone(), shard.leader_epoch, load);
        let partition = &shard.partition;
        let upper = partition.log.log_end();
        let mut reader = LogReader::new(&partition.log, upper);
        let read = reader.replay(|offset, replayed| {
            if let Err(error) = machine.load(replayed) {
                tracing::warn!(partition = %partition.id, %offset, %error, "a coordinator's record was skipped");
            }
        });
        let mut state = shard.state.lock();
        if matches!(*state, ShardState::Failed) {
            // Resigned meanwhile.
            return;
        }
        *state = match read {
            Ok(()) => {
                machine.loaded(self.now());
                tracing::debug!(partition = %partition.id, "a coordinator's partition is loaded");
                let mut active =
                    Active { machine, parked: HashMap::new(), token_next: 0, written_end: upper };
                self.begin_effects(shard, &mut active);
                ShardState::Active(active)
            }
            Err(error) => {
                tracing::error!(partition = %partition.id, %error, "a coordinator's partition could not be loaded");
                ShardState::Failed
            }
        };
        self.earlier_deadline.notify_one();
    }
}

fn deliver(replies: Vec<(oneshot::Sender<Response>, Response)>) {
    for (sender, response) in replies {
        // The client may be gone.
        let _ = sender.send(response);
    }
}

fn millis_until(deadline: Millis, now: Millis) -> Duration {
    Duration::from_millis(u64::try_from(deadline.0 - now.0).unwrap_or(0))
}

/// Java's `String.hashCode` over UTF-16 units, made positive, modulo the partitions: where every Kafka broker and
/// tool looks for a group or a transactional id.
pub(crate) fn partition_for(key: &str, partitions: usize) -> PartitionId {
    let hash =
        key.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    PartitionId((hash & i32::MAX) % i32::try_from(partitions).expect("a topic's partitions fit an i32"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_live_where_kafka_puts_them() {
        // Facts of Java: "my-group".hashCode() and "console-consumer-12345".hashCode(), & 0x7fffffff, % 50.
        assert_eq!(partition_for("", 50), PartitionId(0));
        assert_eq!(partition_for("a", 50), PartitionId(97 % 50));
        assert_eq!(partition_for("ab", 50), PartitionId((97 * 31 + 98) % 50));
    }
}
