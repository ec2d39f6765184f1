//! What is left of offsets that have expired: that there was one, which, and when it went.
//!
//! Without it, "never committed" and "committed but expired" would be one answer. A trace is a record under the offset's own key, so a
//! new commit takes its place, a tombstone ends it, and compaction keeps one at most. It never makes a group: a group without offsets
//! is forgotten as it is in Kafka, and is traced beyond that. Traces go by age, and the oldest when there are too many.

use std::collections::BTreeMap;

use wire::messages::consumer_protocol_assignment::ConsumerProtocolAssignment;
use wire::{Decoder, Message, Millis, Offset, PartitionId, Str, Uuid};

use super::offsets::{CommittedOffset, Offsets};
use super::records::Event;
use super::{Groups, Outcome};

/// Traces of one shard.
const TRACES_MAX: usize = 10_000;

/// An offset that has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpiredOffset {
    /// What was committed.
    pub offset: Offset,
    /// When it expired.
    pub expired_at: Millis,
    /// The topic's id, or [`Uuid::ZERO`] when it was not known.
    pub topic_id: Uuid,
}

/// The expired offsets of a shard.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Traces {
    by_group: BTreeMap<Str, Offsets<ExpiredOffset>>,
}

/// An offset's group, topic and partition.
type Place = (Str, Str, PartitionId);

impl Traces {
    pub(super) fn put(&mut self, group: Str, topic: Str, partition: PartitionId, expired: ExpiredOffset) {
        self.by_group.entry(group).or_default().put(topic, partition, expired);
    }

    pub(super) fn remove(&mut self, group: &str, topic: &str, partition: PartitionId) {
        if let Some(offsets) = self.by_group.get_mut(group) {
            offsets.remove(topic, partition);
            if offsets.is_empty() {
                self.by_group.remove(group);
            }
        }
    }

    pub(super) fn get(&self, group: &str, topic: &str, partition: PartitionId) -> Option<&ExpiredOffset> {
        self.by_group.get(group)?.get(topic, partition)
    }

    fn iter(&self) -> impl Iterator<Item = (&Str, &Str, PartitionId, &ExpiredOffset)> {
        self.by_group.iter().flat_map(|(group, offsets)| {
            offsets.iter().map(move |(topic, partition, expired)| (group, topic, partition, expired))
        })
    }

    /// Those that have been there for `retention_ms`, and the oldest of those that are too many.
    fn old(&self, now: Millis, retention_ms: i64, count_max: usize) -> Vec<Place> {
        let mut by_age: Vec<_> = self.iter().map(|trace| (trace.3.expired_at, trace)).collect();
        by_age.sort_by_key(|(expired_at, _)| *expired_at);
        let too_many = by_age.len().saturating_sub(count_max);
        let old = by_age
            .into_iter()
            .enumerate()
            .filter(|(at, (expired_at, _))| *at < too_many || now.since(*expired_at) >= retention_ms);
        old.map(|(_, (_, (group, topic, partition, _)))| (group.clone(), topic.clone(), partition)).collect()
    }
}

impl Groups {
    /// What is remembered of a group's expired offsets. `id_of` tells the id of the topic that has a name now.
    pub fn expired_offsets(
        &self,
        group_id: &str,
        id_of: impl Fn(&str) -> Option<Uuid>,
    ) -> Vec<(Str, PartitionId, ExpiredOffset)> {
        let Some(offsets) = self.traces.by_group.get(group_id) else { return Vec::new() };
        let of_this_topic = |topic: &str, expired: &ExpiredOffset| {
            expired.topic_id.is_zero() || id_of(topic).is_none_or(|current| current == expired.topic_id)
        };
        let offsets = offsets.iter().filter(|(topic, _, expired)| of_this_topic(topic, expired));
        offsets.map(|(topic, partition, expired)| (topic.clone(), partition, *expired)).collect()
    }

    /// Everything that any group has committed: group, topic, partition, offset.
    pub fn all_committed(&self) -> impl Iterator<Item = (&Str, &Str, PartitionId, &CommittedOffset)> {
        self.groups.values().flat_map(|group| {
            group
                .offsets
                .iter()
                .map(move |(topic, partition, committed)| (&group.id, topic, partition, committed))
        })
    }

    /// Everything that any group had committed until it expired.
    pub fn all_expired(&self) -> impl Iterator<Item = (&Str, &Str, PartitionId, &ExpiredOffset)> {
        self.traces.iter()
    }

    /// What the members of all groups of consumers are to read and have never committed anything for.
    pub fn all_never_committed(&self) -> Vec<Place> {
        let mut never = Vec::new();
        for group in self.groups.values().filter(|group| group.uses_consumer_protocol()) {
            for member in group.members.iter() {
                for (topic, partition) in assigned(&member.assignment) {
                    if group.offsets.get(&topic, partition).is_none()
                        && self.traces.get(&group.id, &topic, partition).is_none()
                    {
                        never.push((group.id.clone(), Str::copy_from(&topic), partition));
                    }
                }
            }
        }
        never
    }

    /// Lets offsets expire, and remembers them if that is wanted.
    pub(super) fn expire(
        &mut self,
        group_id: &Str,
        offsets: Vec<(Str, PartitionId)>,
        now: Millis,
        outcome: &mut Outcome,
    ) {
        for (topic, partition) in offsets {
            let Some(group) = self.groups.get(group_id) else { return };
            let Some(committed) = group.offsets.get(&topic, partition) else { continue };
            let group = group.id.clone();
            let event = if self.config.expired_retention_ms > 0 && committed.offset >= Offset::ZERO {
                let expired =
                    ExpiredOffset { offset: committed.offset, expired_at: now, topic_id: committed.topic_id };
                Event::OffsetExpired { group, topic, partition, expired }
            } else {
                Event::OffsetForgotten { group, topic, partition }
            };
            outcome.records.push(event.encode());
            self.apply(event);
        }
    }

    /// Forgets traces whose time is over.
    pub(super) fn forget_old_traces(&mut self, now: Millis, outcome: &mut Outcome) {
        let mut old = self.traces.old(now, self.config.expired_retention_ms, TRACES_MAX);
        // A transaction may be about to take its place, and a tombstone would come after that.
        old.retain(|(group, topic, partition)| !self.pending.holds(group, topic, *partition));
        self.forget(old, outcome);
    }

    /// Forgets the traces that are meant, by group, topic and partition.
    pub(super) fn forget_traces(
        &mut self,
        is_meant: impl Fn(&Str, &Str, PartitionId) -> bool,
        outcome: &mut Outcome,
    ) {
        let meant =
            self.traces.iter().filter(|(group, topic, partition, _)| is_meant(group, topic, *partition));
        let meant =
            meant.map(|(group, topic, partition, _)| (group.clone(), topic.clone(), partition)).collect();
        self.forget(meant, outcome);
    }

    fn forget(&mut self, traces: Vec<Place>, outcome: &mut Outcome) {
        for (group, topic, partition) in traces {
            let event = Event::OffsetForgotten { group, topic, partition };
            outcome.records.push(event.encode());
            self.apply(event);
        }
    }
}

/// The partitions of a consumer's assignment; none where it cannot be read.
fn assigned(assignment: &bytes::Bytes) -> Vec<(Str, PartitionId)> {
    let mut decoder = Decoder::new(assignment.clone());
    // Only what all versions begin with is read.
    let decoded = decoder.int16().and_then(|_version| ConsumerProtocolAssignment::decode(&mut decoder, 0));
    let topics = decoded.map(|assignment| assignment.assigned_partitions).unwrap_or_default();
    let partitions = topics.into_iter().flat_map(|topic| {
        let ids = topic.partitions.into_iter();
        ids.map(move |id| (topic.topic.clone(), PartitionId(id)))
    });
    partitions.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_traces_go_first() {
        let mut traces = Traces::default();
        for (partition, at) in [(0, 30), (1, 10), (2, 20)] {
            let expired = ExpiredOffset { offset: Offset(5), expired_at: Millis(at), topic_id: Uuid::ZERO };
            traces.put("g".into(), "t".into(), PartitionId(partition), expired);
        }
        let old = |now, retention, max| {
            let old = traces.old(Millis(now), retention, max);
            old.into_iter().map(|(_, _, partition)| partition.0).collect::<Vec<_>>()
        };
        assert_eq!(old(30, 100, 3), [0; 0]);
        assert_eq!(old(30, 10, 3), [1, 2]);
        assert_eq!(old(30, 100, 1), [1, 2]);
        assert_eq!(old(30, 100, 0), [1, 2, 0]);
    }
}
