//! The group coordinator: the shards of `__consumer_offsets` that this broker leads.

use std::collections::BTreeMap;
use std::sync::Arc;

use state::coordinator::{Now, Outcome, RecordError, Replayed};
use state::group::{GroupConfig, Groups};
use wire::{LeaderEpoch, Millis, Str};

use crate::coordinator::{Coordinator, Machine};

/// The topic that holds groups and their offsets.
pub(crate) const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// The groups of this broker.
pub(crate) type GroupCoordinator = Coordinator<Groups>;

impl Machine for Groups {
    type Config = GroupConfig;
    type Effect = std::convert::Infallible;

    fn new(config: GroupConfig, _: LeaderEpoch, _: u64) -> Self {
        Groups::new(config)
    }

    fn load(&mut self, replayed: Replayed<'_>) -> Result<(), RecordError> {
        Groups::load(self, replayed)
    }

    fn loaded(&mut self, now: Now) {
        Groups::loaded(self, now);
    }

    fn tick(&mut self, now: Now) -> Outcome {
        Groups::tick(self, now)
    }

    fn next_deadline(&self) -> Option<Millis> {
        Groups::next_deadline(self)
    }

    fn take_effects(&mut self) -> Vec<Self::Effect> {
        Vec::new()
    }
}

impl GroupCoordinator {
    /// How many groups are in which state, over all shards that are loaded.
    pub(crate) fn states(&self) -> BTreeMap<&'static str, usize> {
        let mut states = BTreeMap::new();
        self.look(|groups| {
            for state in groups.states() {
                *states.entry(state).or_default() += 1;
            }
        });
        states
    }

    /// Drops offsets whose retention has passed, in all shards.
    pub(crate) fn expire_offsets(self: &Arc<Self>) {
        self.step_all(|groups, now| groups.expire_offsets(now.wall));
    }

    /// Drops the offsets of topics that are gone.
    pub(crate) fn topics_deleted(self: &Arc<Self>, topics: &[Str]) {
        self.step_all(|groups, _now| groups.topics_deleted(topics));
    }
}
