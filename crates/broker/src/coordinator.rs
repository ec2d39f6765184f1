//! The group coordinator's shell: feeds requests to the pure state machine of their shard and its records to
//! `__consumer_offsets`.
//!
//! Invariant: a reply leaves only when every record that the shard produced before it is safe, so nobody is told of
//! a commit or a generation that a crash could undo. The machine is stepped under its shard's lock and never waits
//! there. When the log refuses, the shard answers nobody, drops its state and loads it from the log again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use state::group::{CoordinatorRecord, GroupConfig, Groups, Now, Outcome, Token};
use storage::Origin;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep};
use wire::records::{BatchBuilder, BatchOptions};
use wire::{ErrorCode, LeaderEpoch, Millis, Offset, PartitionId, Response};

use crate::blocking;
use crate::broker::stopped;
use crate::clock::Clock;
use crate::log_reader::LogReader;
use crate::partition::Partition;
use crate::waiting::ParkedProduce;

/// The topic that holds groups and their offsets.
pub(crate) const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// Records that leave together are one batch up to this size, and several from there on.
const BATCH_BYTES: usize = 1024 * 1024;
/// How long the clock task sleeps when no group has a deadline.
const TICK_MAX: Duration = Duration::from_secs(60);

/// All shards that this broker coordinates: those of the partitions that it leads.
pub(crate) struct GroupCoordinator {
    config: GroupConfig,
    clock: Arc<dyn Clock>,
    /// Where the ticks are counted from, so that deadlines do not move when the clock is set.
    began: Instant,
    /// By partition of `__consumer_offsets`; `None` where another broker leads. Empty until the topic exists.
    shards: ArcSwap<Vec<Option<Arc<Shard>>>>,
    /// Told when a shard has a deadline that may be earlier than the one slept for.
    earlier_deadline: Notify,
}

/// One partition of `__consumer_offsets` and the groups in it, for as long as this broker leads it in one epoch.
struct Shard {
    partition: Arc<Partition>,
    leader_epoch: LeaderEpoch,
    state: Mutex<ShardState>,
}

impl Shard {
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

enum ShardState {
    Loading,
    Active(Active),
    Failed,
}

impl ShardState {
    fn active(&mut self) -> Result<&mut Active, ErrorCode> {
        match self {
            ShardState::Active(active) => Ok(active),
            ShardState::Loading => Err(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS),
            ShardState::Failed => Err(ErrorCode::NOT_COORDINATOR),
        }
    }
}

struct Active {
    groups: Groups,
    parked: HashMap<Token, oneshot::Sender<Response>>,
    token_next: u64,
    /// End of the shard's last record: what has to be safe before the next reply leaves.
    written_end: Offset,
}

impl GroupCoordinator {
    pub(crate) fn new(config: GroupConfig, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(GroupCoordinator {
            config,
            clock,
            began: Instant::now(),
            shards: ArcSwap::default(),
            earlier_deadline: Notify::new(),
        })
    }

    /// Says how many partitions `__consumer_offsets` has.
    pub(crate) fn set_partition_count(&self, count: usize) {
        if self.shards.load().len() < count {
            self.shards.rcu(|current| {
                let mut shards = Vec::clone(current);
                shards.resize(count.max(shards.len()), None);
                shards
            });
        }
    }

    /// Looks after the groups of a partition from now on, in the epoch in which this broker leads it; loads them in the
    /// background.
    pub(crate) fn lead(self: &Arc<Self>, partition: Arc<Partition>) {
        let leader_epoch = partition.leader_epoch();
        let index = partition.id.partition;
        let shard = Arc::new(Shard { partition, leader_epoch, state: Mutex::new(ShardState::Loading) });
        self.replace(index, Some(Arc::clone(&shard)));
        let coordinator = Arc::clone(self);
        drop(blocking::start(move || coordinator.load(&shard)));
    }

    /// Another broker looks after the groups of a partition. When this returns nothing more is written for them here.
    pub(crate) fn resign(&self, index: PartitionId) {
        self.replace(index, None);
    }

    fn replace(&self, index: PartitionId, shard: Option<Arc<Shard>>) {
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

    /// The partition of `__consumer_offsets` that a group belongs to, once the topic exists.
    pub(crate) fn partition_of(&self, group_id: &str) -> Option<PartitionId> {
        let count = self.shards.load().len();
        (count > 0).then(|| partition_for(group_id, count))
    }

    /// Whether a group's shard is there to answer, or soon will be.
    pub(crate) fn serves(&self, group_id: &str) -> bool {
        self.shard_of(group_id).is_ok_and(|shard| !matches!(*shard.state.lock(), ShardState::Failed))
    }

    fn now(&self) -> Now {
        let ticks = i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX);
        Now { ticks: Millis(ticks), wall: self.clock.now() }
    }

    /// Steps the group's shard and waits for the reply.
    pub(crate) async fn run(
        self: &Arc<Self>,
        group_id: &str,
        step: impl FnOnce(&mut Groups, Token, Now) -> Outcome,
    ) -> Result<Response, ErrorCode> {
        let reply = self.step_shard(&self.shard_of(group_id)?, step)?;
        reply.await.map_err(|_dropped| ErrorCode::NOT_COORDINATOR)
    }

    /// Asks the group's shard something that it answers by itself, with the records that the answer stands on.
    pub(crate) async fn ask<Answer>(
        self: &Arc<Self>,
        group_id: &str,
        question: impl FnOnce(&mut Groups) -> (Vec<CoordinatorRecord>, Answer),
    ) -> Result<Answer, ErrorCode> {
        self.ask_shard(&self.shard_of(group_id)?, question).await
    }

    /// Asks every shard in turn; those that cannot be served have nothing to say.
    pub(crate) async fn ask_all<Answer>(
        self: &Arc<Self>,
        mut question: impl FnMut(&Groups) -> Answer,
    ) -> Result<Vec<Answer>, ErrorCode> {
        let mut answers = Vec::new();
        for shard in self.shards.load_full().iter().flatten() {
            match self.ask_shard(shard, |groups| (Vec::new(), question(groups))).await {
                Ok(answer) => answers.push(answer),
                Err(ErrorCode::NOT_COORDINATOR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(answers)
    }

    /// How many groups are in which state, over all shards that are loaded.
    pub(crate) fn states(&self) -> BTreeMap<&'static str, usize> {
        let mut states = BTreeMap::new();
        for shard in self.shards.load().iter().flatten() {
            let mut shard = shard.state.lock();
            let Ok(active) = shard.active() else { continue };
            for state in active.groups.states() {
                *states.entry(state).or_default() += 1;
            }
        }
        states
    }

    /// Drops offsets whose retention has passed, in all shards.
    pub(crate) fn expire_offsets(self: &Arc<Self>) {
        self.step_all(|groups, now| groups.expire_offsets(now.wall));
    }

    /// Drops the offsets of topics that are gone.
    pub(crate) fn topics_deleted(self: &Arc<Self>, topics: &[wire::Str]) {
        self.step_all(|groups, _now| groups.topics_deleted(topics));
    }

    /// Runs timeouts until `stop` turns true.
    pub(crate) async fn run_clock(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        loop {
            let now = self.now();
            let deadline = self.step_all(|groups, now| groups.tick(now));
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
    fn step_all(self: &Arc<Self>, mut step: impl FnMut(&mut Groups, Now) -> Outcome) -> Option<Millis> {
        let now = self.now();
        let mut earliest: Option<Millis> = None;
        for shard in self.shards.load_full().iter().flatten() {
            let mut state = shard.state.lock();
            let Ok(active) = state.active() else { continue };
            let outcome = step(&mut active.groups, now);
            let deadline = active.groups.next_deadline();
            if let Err(error) = self.carry_out(shard, &mut state, outcome, now.wall) {
                tracing::error!(partition = %shard.partition.id, ?error, "group records could not be written");
            }
            earliest = earliest.into_iter().chain(deadline).min();
        }
        earliest
    }

    fn shard_of(&self, group_id: &str) -> Result<Arc<Shard>, ErrorCode> {
        let partition = self.partition_of(group_id).ok_or(ErrorCode::COORDINATOR_NOT_AVAILABLE)?;
        let index = usize::try_from(partition.0).expect("partition ids are not negative");
        self.shards.load().get(index).cloned().flatten().ok_or(ErrorCode::NOT_COORDINATOR)
    }

    fn step_shard(
        self: &Arc<Self>,
        shard: &Arc<Shard>,
        step: impl FnOnce(&mut Groups, Token, Now) -> Outcome,
    ) -> Result<oneshot::Receiver<Response>, ErrorCode> {
        let now = self.now();
        let mut state = shard.state.lock();
        let active = state.active()?;
        let deadline_before = active.groups.next_deadline();
        let token = Token(active.token_next);
        active.token_next += 1;
        let (sender, receiver) = oneshot::channel();
        active.parked.insert(token, sender);
        let outcome = step(&mut active.groups, token, now);
        let deadline = active.groups.next_deadline();
        self.carry_out(shard, &mut state, outcome, now.wall)?;
        drop(state);
        let is_earlier =
            deadline.is_some_and(|deadline| deadline_before.is_none_or(|before| deadline < before));
        if is_earlier {
            self.earlier_deadline.notify_one();
        }
        Ok(receiver)
    }

    async fn ask_shard<Answer>(
        self: &Arc<Self>,
        shard: &Arc<Shard>,
        question: impl FnOnce(&mut Groups) -> (Vec<CoordinatorRecord>, Answer),
    ) -> Result<Answer, ErrorCode> {
        let (answer, required) = {
            let mut state = shard.state.lock();
            let (records, answer) = question(&mut state.active()?.groups);
            self.write(shard, &mut state, &records, self.clock.now())?;
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
        shard: &Arc<Shard>,
        state: &mut ShardState,
        outcome: Outcome,
        now: Millis,
    ) -> Result<(), ErrorCode> {
        self.write(shard, state, &outcome.records, now)?;
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
        shard: &Arc<Shard>,
        state: &mut ShardState,
        records: &[CoordinatorRecord],
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
            let mut batch = BatchBuilder::new(BatchOptions::default());
            for record in together {
                batch.append(now, Some(&record.key), record.value.as_deref(), &[]);
            }
            match shard.partition.append(batch.build(), now, Origin::Coordinator) {
                Ok(led) => state.active()?.written_end = led.appended.last_offset.plus(1),
                Err(error) => {
                    tracing::error!(partition = %shard.partition.id, %error, "group records were refused");
                    self.reload(shard, state);
                    return Err(ErrorCode::NOT_COORDINATOR);
                }
            }
        }
        Ok(())
    }

    /// Forgets what the shard believes: part of it is not in the log.
    fn reload(self: &Arc<Self>, shard: &Arc<Shard>, state: &mut ShardState) {
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
    fn load(&self, shard: &Shard) {
        let mut groups = Groups::new(self.config.clone());
        let partition = &shard.partition;
        let mut unreadable: u64 = 0;
        let upper = partition.log.log_end();
        let mut reader = LogReader::new(&partition.log, upper);
        let read = reader.for_each(|record| {
            let Some(key) = &record.key else { return };
            if let Err(error) = groups.load(key, record.value.as_deref()) {
                unreadable += 1;
                tracing::warn!(partition = %partition.id, offset = %record.offset, %error, "a group record was skipped");
            }
        });
        let mut state = shard.state.lock();
        if matches!(*state, ShardState::Failed) {
            // Resigned meanwhile.
            return;
        }
        *state = match read {
            Ok(()) => {
                groups.loaded(self.now());
                tracing::debug!(partition = %partition.id, groups = groups.len(), unreadable, "groups loaded");
                ShardState::Active(Active {
                    groups,
                    parked: HashMap::new(),
                    token_next: 0,
                    written_end: upper,
                })
            }
            Err(error) => {
                tracing::error!(partition = %partition.id, %error, "groups could not be loaded");
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
/// tool looks for the group.
pub(crate) fn partition_for(group_id: &str, partitions: usize) -> PartitionId {
    let hash =
        group_id.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
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
