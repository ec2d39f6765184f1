//! The share state of one partition ("shard") of `__share_group_state`: of each share-partition, where it begins and which of
//! its records from there on were delivered, are done with, or were given up.
//!
//! Invariants: of two leaders of a partition only the one of the newer epoch can write, and only if it has read the state: what it
//! writes is what has changed since; what was written for another state than this, which has begun anew since, changes nothing;
//! within a state epoch nothing goes back, so that a write that comes late, behind newer ones of the same leader, undoes nothing;
//! what a snapshot and the updates after it say is the state.
//!
//! Of a share-partition with records that could not be read nothing is said, and nothing is let go of, before somebody has it begin
//! somewhere, or deletes it: whoever reads them later finds them.
//!
//! A snapshot is written with every so many updates. [`ShareStates::snapshot_all`] gives the shell what it takes to let go of all
//! records before: see there.

mod record;
mod refusal;

#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use wire::{LeaderEpoch, Millis, Offset, PartitionId, Str, Uuid};

pub use self::refusal::Refusal;
use super::Runs;
use crate::coordinator::{CoordinatorRecord, RecordError, Replayed};

/// Settings of the share coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareStateConfig {
    /// `share.coordinator.snapshot.update.records.per.snapshot`
    pub updates_per_snapshot: u32,
}

/// A partition as one group works on it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SharePartitionKey {
    /// The group.
    pub group: Str,
    /// The topic.
    pub topic: Uuid,
    /// The topic's partition.
    pub partition: PartitionId,
}

/// As FindCoordinator names it.
impl fmt::Display for SharePartitionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.group, self.topic, self.partition)
    }
}

impl SharePartitionKey {
    /// Reads what FindCoordinator names; a group may have colons in its name.
    pub fn parse(text: &str) -> Option<SharePartitionKey> {
        let (rest, partition) = text.rsplit_once(':')?;
        let (group, topic) = rest.rsplit_once(':')?;
        let partition: i32 = partition.parse().ok()?;
        let topic: Uuid = topic.parse().ok()?;
        let is_named = !group.is_empty() && partition >= 0 && !topic.is_zero();
        is_named.then(|| SharePartitionKey {
            group: Str::copy_from(group),
            topic,
            partition: PartitionId(partition),
        })
    }
}

/// What has become of a record, as far as that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryState {
    /// It can be delivered.
    Available,
    /// It is given up, and not in the dead-letter queue yet (KIP-1191).
    Archiving,
    /// A member has done with it what was to be done.
    Acknowledged,
    /// It is given up.
    Archived,
}

/// A record's state, and how often it was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// What has become of it.
    pub state: DeliveryState,
    /// How often it was delivered.
    pub count: i16,
}

impl Delivery {
    /// Whether this has come after the other: what is done with stays so, and deliveries only become more.
    fn is_further_than(&self, other: &Delivery) -> bool {
        let rank = |state| match state {
            DeliveryState::Available => 0,
            DeliveryState::Archiving => 1,
            DeliveryState::Acknowledged | DeliveryState::Archived => 2,
        };
        match rank(self.state).cmp(&rank(other.state)) {
            Ordering::Equal => rank(self.state) == 2 || self.count > other.count,
            order => order == Ordering::Greater,
        }
    }
}

/// The state of one share-partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareState {
    snapshot_epoch: i32,
    /// Goes up when the state begins anew.
    pub state_epoch: i32,
    /// The newest leader of the partition that has read it; none, while nobody has.
    pub leader_epoch: LeaderEpoch,
    /// All before is done with; `None` while nobody has settled where to begin.
    pub start: Option<Offset>,
    /// Records from there on that are done with; -1 where nobody has said.
    pub delivery_complete_count: i32,
    created_at: Millis,
    /// Records from there on of which something is known.
    pub deliveries: Runs<Delivery>,
    /// Updates since the snapshot.
    updates: u32,
}

/// What a partition's leader has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The state that it is about.
    pub state_epoch: i32,
    /// In which epoch it leads; -1 where it does not matter.
    pub leader_epoch: LeaderEpoch,
    /// Where the share-partition begins, where that has changed.
    pub start: Option<Offset>,
    /// Records from there on that are done with.
    pub delivery_complete_count: i32,
    /// What has become of records.
    pub deliveries: Runs<Delivery>,
}

/// Records to append, and what to answer once they are durable.
pub type Decided<Answer> = (Vec<CoordinatorRecord>, Result<Answer, Refusal>);

/// All share-partitions of one shard.
#[derive(Debug)]
pub struct ShareStates {
    config: ShareStateConfig,
    states: BTreeMap<SharePartitionKey, ShareState>,
    /// Those of which a record could not be read, until a snapshot or a tombstone comes after it.
    unreadable: BTreeSet<SharePartitionKey>,
    /// Records since the last time that all states were written anew.
    written: usize,
}

impl ShareStates {
    /// A shard that knows no share-partition.
    pub fn new(config: ShareStateConfig) -> Self {
        ShareStates { config, states: BTreeMap::new(), unreadable: BTreeSet::new(), written: 0 }
    }

    /// Number of share-partitions.
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// Replays one record of the partition. An error concerns this record alone: loading can go on without it.
    pub fn load(&mut self, replayed: Replayed<'_>) -> Result<(), RecordError> {
        let Replayed::Record { key, value } = replayed else { return Err(RecordError::NotInTransaction) };
        self.written += 1;
        match record::decode(key, value) {
            Ok(change) => self.apply(change),
            Err(error) => {
                self.unreadable.extend(record::key_of(key).map(|(_, key)| key));
                return Err(error);
            }
        }
        Ok(())
    }

    fn apply(&mut self, change: record::Change) {
        match change {
            record::Change::Snapshot(key, state) => {
                self.unreadable.remove(&key);
                self.states.insert(key, state);
            }
            record::Change::Update(key, update) => {
                // What was deleted since, or has a newer snapshot, has nothing to add to.
                let state = self.states.get_mut(&key);
                if let Some(state) = state.filter(|state| state.snapshot_epoch == update.snapshot_epoch) {
                    state.take(&update);
                }
            }
            record::Change::Deleted(key) => {
                self.unreadable.remove(&key);
                self.states.remove(&key);
            }
            record::Change::Nothing => {}
        }
    }

    /// A state begins, or begins anew in a higher epoch: at `start`, or where the partition's leader settles. That of epoch -1 is
    /// one that was lost: what is there stays, and is newer.
    pub fn initialize(
        &mut self,
        key: &SharePartitionKey,
        state_epoch: i32,
        start: Option<Offset>,
        now: Millis,
    ) -> Decided<()> {
        if let Err(refusal) = check(key) {
            return (Vec::new(), Err(refusal));
        }
        if (state_epoch < 0 || start.is_none()) && self.is_unreadable(key) {
            return (Vec::new(), Err(Refusal::Unreadable));
        }
        let before = self.states.get(key);
        match before {
            // Asked again, or somebody moved it meanwhile and nobody took note: it is there, and what has been delivered stays so.
            Some(before) if before.state_epoch >= state_epoch && start.is_none() => {
                return (Vec::new(), Ok(()));
            }
            Some(before) if before.state_epoch > state_epoch => {
                return (Vec::new(), Err(Refusal::FencedStateEpoch { known: before.state_epoch }));
            }
            Some(_) | None => {}
        }
        let state = ShareState {
            snapshot_epoch: before.map_or(0, |before| before.snapshot_epoch.saturating_add(1)),
            state_epoch: state_epoch.max(0),
            leader_epoch: before.map_or(LeaderEpoch::NONE, |before| before.leader_epoch),
            start,
            delivery_complete_count: if start.is_some() { 0 } else { -1 },
            created_at: now,
            deliveries: Runs::default(),
            updates: 0,
        };
        (vec![self.snapshot(key, state, now)], Ok(()))
    }

    /// What a leader of the partition begins with. It fences those before it.
    pub fn read(
        &mut self,
        key: &SharePartitionKey,
        leader_epoch: LeaderEpoch,
        now: Millis,
    ) -> Decided<ShareState> {
        let state = match self.known(key, leader_epoch) {
            Ok(state) => state,
            Err(refusal) => return (Vec::new(), Err(refusal)),
        };
        if leader_epoch <= state.leader_epoch {
            return (Vec::new(), Ok(state.clone()));
        }
        let write = Write {
            state_epoch: state.state_epoch,
            leader_epoch,
            start: None,
            delivery_complete_count: state.delivery_complete_count,
            deliveries: Runs::default(),
        };
        let record = self.store(key, &write, now);
        (vec![record], Ok(self.states[key].clone()))
    }

    /// A leader of the partition tells what has changed since it has read the state.
    pub fn write(&mut self, key: &SharePartitionKey, write: &Write, now: Millis) -> Decided<()> {
        let state = match self.known(key, write.leader_epoch) {
            Ok(state) => state,
            Err(refusal) => return (Vec::new(), Err(refusal)),
        };
        if write.state_epoch != -1 && write.state_epoch != state.state_epoch {
            return (Vec::new(), Err(Refusal::FencedStateEpoch { known: state.state_epoch }));
        }
        // What it has read was lost since: most of it would be missing.
        if write.leader_epoch > state.leader_epoch {
            return (Vec::new(), Err(Refusal::NotRead { leader: write.leader_epoch }));
        }
        (vec![self.store(key, write, now)], Ok(()))
    }

    /// What operators are told; nothing where there is no state.
    pub fn summary(
        &self,
        key: &SharePartitionKey,
        leader_epoch: LeaderEpoch,
    ) -> Result<Option<ShareState>, Refusal> {
        match self.known(key, leader_epoch) {
            Ok(state) => Ok(Some(state.clone())),
            Err(Refusal::Uninitialized) => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    /// Forgets a share-partition, if there is one.
    pub fn delete(&mut self, key: &SharePartitionKey) -> Decided<()> {
        if let Err(refusal) = check(key) {
            return (Vec::new(), Err(refusal));
        }
        let was_unreadable = self.unreadable.remove(key);
        let was_there = self.states.remove(key).is_some() || was_unreadable;
        let records: Vec<_> = was_there.then(|| record::tombstone(key)).into_iter().collect();
        self.written += records.len();
        (records, Ok(()))
    }

    /// Forgets the share-partitions of topics that are not there any more.
    pub fn forget_topics(&mut self, is_there: impl Fn(Uuid) -> bool) -> Vec<CoordinatorRecord> {
        let keys = self.states.keys().chain(&self.unreadable);
        let gone: Vec<_> = keys.filter(|key| !is_there(key.topic)).cloned().collect();
        gone.iter().flat_map(|key| self.delete(key).0).collect()
    }

    /// Writes every state anew, where that lets go of more than it writes: all records before these are worth nothing once these
    /// are durable. `None` says that it is not worth it yet.
    pub fn snapshot_all(&mut self, now: Millis) -> Option<Vec<CoordinatorRecord>> {
        let has_unreadable = self.unreadable.iter().any(|key| self.is_unreadable(key));
        if has_unreadable || self.written < 2 * self.states.len().max(1) {
            return None;
        }
        let states: Vec<_> = self.states.iter().map(|(key, state)| (key.clone(), state.clone())).collect();
        let records = states.into_iter().map(|(key, state)| {
            let snapshot_epoch = state.snapshot_epoch.saturating_add(1);
            self.snapshot(&key, ShareState { snapshot_epoch, updates: 0, ..state }, now)
        });
        let records: Vec<_> = records.collect();
        self.written = records.len();
        Some(records)
    }

    /// Whether there may be a state that could not be read.
    fn is_unreadable(&self, key: &SharePartitionKey) -> bool {
        self.unreadable.contains(key) && !self.states.contains_key(key)
    }

    fn known(&self, key: &SharePartitionKey, leader_epoch: LeaderEpoch) -> Result<&ShareState, Refusal> {
        check(key)?;
        if self.is_unreadable(key) {
            return Err(Refusal::Unreadable);
        }
        let state = self.states.get(key).ok_or(Refusal::Uninitialized)?;
        if leader_epoch != LeaderEpoch::NONE && leader_epoch < state.leader_epoch {
            return Err(Refusal::FencedLeaderEpoch { known: state.leader_epoch });
        }
        Ok(state)
    }

    /// Takes over what changed, and returns the record of it.
    fn store(&mut self, key: &SharePartitionKey, write: &Write, now: Millis) -> CoordinatorRecord {
        let state = self.states.get_mut(key).expect("what is written to is known");
        let update = record::Update {
            snapshot_epoch: state.snapshot_epoch,
            leader_epoch: write.leader_epoch,
            start: write.start,
            delivery_complete_count: write.delivery_complete_count,
            deliveries: write.deliveries.clone(),
        };
        if state.updates >= self.config.updates_per_snapshot {
            let mut state = state.clone();
            state.take(&update);
            state.snapshot_epoch = state.snapshot_epoch.saturating_add(1);
            state.updates = 0;
            return self.snapshot(key, state, now);
        }
        state.take(&update);
        self.written += 1;
        record::update(key, &update)
    }

    fn snapshot(&mut self, key: &SharePartitionKey, state: ShareState, now: Millis) -> CoordinatorRecord {
        let record = record::snapshot(key, &state, now);
        self.states.insert(owned(key), state);
        self.unreadable.remove(key);
        self.written += 1;
        record
    }
}

impl ShareState {
    /// A state of which nothing but its epoch is known.
    pub fn unsettled(state_epoch: i32) -> Self {
        ShareState {
            snapshot_epoch: 0,
            state_epoch,
            leader_epoch: LeaderEpoch(0),
            start: None,
            delivery_complete_count: -1,
            created_at: Millis(0),
            deliveries: Runs::default(),
            updates: 0,
        }
    }

    fn take(&mut self, update: &record::Update) {
        self.leader_epoch = self.leader_epoch.max(update.leader_epoch);
        // How many are done with is said of what lies from the start on.
        match update.start {
            Some(start) if self.start.is_some_and(|known| start < known) => {}
            Some(start) if self.start == Some(start) => {
                self.delivery_complete_count =
                    self.delivery_complete_count.max(update.delivery_complete_count);
            }
            Some(_) | None => self.delivery_complete_count = update.delivery_complete_count,
        }
        self.start = self.start.max(update.start);
        for run in update.deliveries.iter() {
            let before: Vec<_> = self
                .deliveries
                .within(run.first, run.last)
                .filter(|before| before.value.is_further_than(run.value))
                .map(|before| (before.first, before.last, *before.value))
                .collect();
            self.deliveries.set(run.first, run.last, *run.value);
            for (first, last, further) in before {
                self.deliveries.set(first, last, further);
            }
        }
        if let Some(start) = self.start {
            self.deliveries.forget_before(start);
        }
        self.updates += 1;
    }
}

fn check(key: &SharePartitionKey) -> Result<(), Refusal> {
    if key.group.is_empty() {
        return Err(Refusal::NoGroup);
    }
    if key.topic.is_zero() {
        return Err(Refusal::NoTopicId);
    }
    if key.partition.0 < 0 {
        return Err(Refusal::NegativePartition);
    }
    Ok(())
}

/// A copy that does not hold the request's frame.
fn owned(key: &SharePartitionKey) -> SharePartitionKey {
    SharePartitionKey { group: Str::copy_from(&key.group), ..key.clone() }
}
