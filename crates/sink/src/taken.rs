//! Partitions that another instance has taken hold of, and that the group has not taken from this one yet.
//!
//! It is for the group to say so too, and soon. If it does not, there are two instances that it takes for one.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use wire::TopicPartition;

use crate::run::RunError;

/// What was taken over, why, and when the group would have said that it is another's.
#[derive(Default)]
pub(crate) struct TakenOver {
    all: BTreeMap<TopicPartition, (RunError, Instant)>,
}

impl TakenOver {
    /// One that was taken over now, in a group that knows within so long.
    pub(crate) fn add(&mut self, name: &TopicPartition, why: RunError, within: Duration) {
        tracing::warn!(partition = %name, %why, "it is let go");
        self.all.insert(name.clone(), (why, Instant::now() + within));
    }

    /// The group has said what it is.
    pub(crate) fn remove(&mut self, name: &TopicPartition) {
        self.all.remove(name);
    }

    /// Whether it is one of them.
    pub(crate) fn contains(&self, name: &TopicPartition) -> bool {
        self.all.contains_key(name)
    }

    /// How long the first one is still waited for.
    pub(crate) fn wait(&self) -> Option<Duration> {
        let until = self.all.values().map(|(_, until)| *until).min()?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    /// Why one was taken over of which the group says nothing.
    pub(crate) fn over(&mut self) -> Option<RunError> {
        let now = Instant::now();
        let name = self.all.iter().find(|(_, (_, until))| *until <= now).map(|(name, _)| name.clone())?;
        self.all.remove(&name).map(|(why, _)| why)
    }
}
