//! Committed offsets: who may commit, what is kept, and what readers are told.
//!
//! An offset changes only through a record, and a member of an older generation never commits (correctness invariant 16).
//! Whether a topic exists is not asked here; the shell asks before.

use std::collections::BTreeMap;

use wire::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic, OffsetCommitResponse,
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use wire::messages::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteRequestTopic, OffsetDeleteResponse, OffsetDeleteResponsePartition,
    OffsetDeleteResponseTopic,
};
use wire::messages::offset_fetch::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics, OffsetFetchResponseGroup,
    OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
};
use wire::{
    ErrorCode, LeaderEpoch, Millis, Offset, PartitionId, ProducerEpoch, ProducerId, Response, Str, Uuid,
};

use super::consumer::CommitBy;
use super::records::Event;
use super::{Group, Groups, Now, Outcome, Refusal, State, Step, Token};

/// From this version on a commit to a group that is not there says so; before, that the generation is wrong.
const GROUP_NOT_FOUND_SINCE: i16 = 9;

/// What an offset's record takes besides its names and note: framing, versions, numbers.
const OFFSET_RECORD_BYTES: usize = 64;

/// What a group committed for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The next offset to read.
    pub offset: Offset,
    /// Epoch of the last record read, or [`LeaderEpoch::NONE`].
    pub leader_epoch: LeaderEpoch,
    /// The client's own note.
    pub metadata: Str,
    /// When it was committed.
    pub committed_at: Millis,
    /// When it expires, if the commit (before version 5) set its own retention.
    pub expires_at: Option<Millis>,
    /// The topic's id, or [`Uuid::ZERO`] when the client spoke of the topic by name only.
    pub topic_id: Uuid,
}

/// The offsets of one group: those that it has committed, or what is left of those that have expired.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Offsets<T = CommittedOffset> {
    by_topic: BTreeMap<Str, BTreeMap<PartitionId, T>>,
}

impl<T> Default for Offsets<T> {
    fn default() -> Self {
        Offsets { by_topic: BTreeMap::new() }
    }
}

impl<T> Offsets<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.by_topic.is_empty()
    }

    pub(super) fn get(&self, topic: &str, partition: PartitionId) -> Option<&T> {
        self.by_topic.get(topic)?.get(&partition)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Str, PartitionId, &T)> {
        let topics = self.by_topic.iter();
        topics.flat_map(|(topic, partitions)| {
            partitions.iter().map(move |(id, committed)| (topic, *id, committed))
        })
    }

    pub(super) fn put(&mut self, topic: Str, partition: PartitionId, offset: T) {
        let partitions = match self.by_topic.get_mut(&topic) {
            Some(partitions) => partitions,
            None => self.by_topic.entry(topic).or_default(),
        };
        partitions.insert(partition, offset);
    }

    pub(super) fn remove(&mut self, topic: &str, partition: PartitionId) {
        if let Some(partitions) = self.by_topic.get_mut(topic) {
            partitions.remove(&partition);
            if partitions.is_empty() {
                self.by_topic.remove(topic);
            }
        }
    }
}

impl Groups {
    /// Handles an OffsetCommit. Topics carry their names, also in the versions that speak of ids.
    pub fn commit_offsets(
        &mut self,
        token: Token,
        api_version: i16,
        request: &OffsetCommitRequest,
        now: impl Into<Now>,
    ) -> Outcome {
        let now = now.into();
        let allowed = self.check_commit(api_version, request);
        if allowed.is_ok() {
            self.commit_keeps_session(request, now);
        }
        self.commit(token, request, allowed, None, now)
    }

    /// Commits what is allowed, at once or when the producer's transaction is committed.
    pub(super) fn commit(
        &mut self,
        token: Token,
        request: &OffsetCommitRequest,
        allowed: Result<(), Refusal>,
        transaction: Option<(ProducerId, ProducerEpoch)>,
        now: Now,
    ) -> Outcome {
        let mut outcome = Outcome { transaction, ..Outcome::default() };
        let allowed = allowed.and_then(|()| self.check_size(request));
        // Copies, made once: what is kept must not hold the request's frame.
        let group = Str::copy_from(&request.group_id);
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let name = Str::copy_from(&topic.name);
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for partition in &topic.partitions {
                let kept = allowed.and_then(|()| self.check_metadata(partition));
                if kept.is_ok() {
                    let committed =
                        committed_offset(request.retention_time_ms, partition, topic.topic_id, now.wall);
                    let event = Event::OffsetCommitted {
                        group: group.clone(),
                        topic: name.clone(),
                        partition: PartitionId(partition.partition_index),
                        committed,
                    };
                    outcome.records.push(event.encode());
                    match transaction {
                        Some((producer, _)) => {
                            let put = self.pending.put(producer, event);
                            put.expect("offsets are what a transaction commits");
                        }
                        None => self.apply(event),
                    }
                }
                partitions.push(OffsetCommitResponsePartition {
                    partition_index: partition.partition_index,
                    error_code: kept.map_or_else(ErrorCode::from, |()| ErrorCode::NONE),
                });
            }
            topics.push(OffsetCommitResponseTopic {
                name: topic.name.clone(),
                topic_id: topic.topic_id,
                partitions,
            });
        }
        outcome
            .replies
            .push((token, Response::OffsetCommit(OffsetCommitResponse { topics, ..Default::default() })));
        outcome
    }

    fn check_commit(&self, api_version: i16, request: &OffsetCommitRequest) -> Result<(), Refusal> {
        let generation = request.generation_id_or_member_epoch;
        if let Some(group) = self.consumers.get(&request.group_id) {
            return group.check_commit(CommitBy::Request(api_version), request);
        }
        if self.share.contains(&request.group_id) {
            // Where a share group is the share coordinator keeps.
            return Err(Refusal::GroupNotFound);
        }
        match self.groups.get(&request.group_id) {
            Some(group) => {
                group.check_commit(&request.member_id, request.group_instance_id.as_deref(), generation)
            }
            // Who manages its own membership founds a group by committing.
            None if generation < 0 => Ok(()),
            None if api_version >= GROUP_NOT_FOUND_SINCE => Err(Refusal::GroupNotFound),
            None => Err(Refusal::IllegalGeneration),
        }
    }

    fn check_metadata(&self, partition: &OffsetCommitRequestPartition) -> Result<(), Refusal> {
        // Kafka counts UTF-16 units, of which there are never more than bytes.
        let max = self.config.offset_metadata_bytes_max;
        match &partition.committed_metadata {
            Some(metadata) if metadata.len() > max && metadata.encode_utf16().count() > max => {
                Err(Refusal::OffsetMetadataTooLarge)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Each offset is a record of its own, with the group's and the topic's names in it.
    fn check_size(&self, request: &OffsetCommitRequest) -> Result<(), Refusal> {
        let of_topic = |topic: &OffsetCommitRequestTopic| {
            let names = request.group_id.len() + topic.name.len();
            let metadata = |partition: &OffsetCommitRequestPartition| {
                partition.committed_metadata.as_deref().map_or(0, str::len)
            };
            topic.partitions.iter().map(|part| OFFSET_RECORD_BYTES + names + metadata(part)).sum::<usize>()
        };
        let bytes: usize = request.topics.iter().map(of_topic).sum();
        if bytes > self.config.record_bytes_max { Err(Refusal::CommitTooLarge) } else { Ok(()) }
    }

    fn commit_keeps_session(&mut self, request: &OffsetCommitRequest, now: Now) {
        let Groups { config, groups, timers, .. } = self;
        if let Some(group) = groups.get(&request.group_id)
            && matches!(group.state, State::Stable | State::PreparingRebalance(_))
        {
            group.restart_session(&request.member_id, &mut Step::new(config, timers, now));
        }
    }

    /// Handles an OffsetDelete.
    pub fn delete_offsets(&mut self, token: Token, request: &OffsetDeleteRequest) -> Outcome {
        let mut outcome = Outcome::default();
        let mut response = OffsetDeleteResponse::default();
        match self.check_delete(request) {
            Err(refusal) => response.error_code = refusal.into(),
            Ok(()) => {
                for topic in &request.topics {
                    response.topics.push(self.delete_topic_offsets(&request.group_id, topic, &mut outcome));
                }
            }
        }
        outcome.replies.push((token, Response::OffsetDelete(response)));
        outcome
    }

    fn check_delete(&self, request: &OffsetDeleteRequest) -> Result<(), Refusal> {
        if request.group_id.is_empty() {
            return Err(Refusal::InvalidGroupId);
        }
        if self.consumers.contains_key(&request.group_id) {
            return Ok(());
        }
        match self.groups.get(&request.group_id) {
            None => Err(Refusal::GroupNotFound),
            Some(group) if group.state != State::Empty && !group.uses_consumer_protocol() => {
                Err(Refusal::NonEmptyGroup)
            }
            Some(_) => Ok(()),
        }
    }

    fn delete_topic_offsets(
        &mut self,
        group_id: &Str,
        topic: &OffsetDeleteRequestTopic,
        outcome: &mut Outcome,
    ) -> OffsetDeleteResponseTopic {
        let subscribed = match self.consumers.get(group_id) {
            Some(group) => group.is_subscribed_to(&topic.name),
            None => self.groups.get(group_id).is_some_and(|group| group.is_subscribed_to(&topic.name)),
        };
        let error_code = if subscribed { Refusal::SubscribedToTopic.into() } else { ErrorCode::NONE };
        if !subscribed {
            let partitions = topic.partitions.iter().map(|partition| PartitionId(partition.partition_index));
            self.forget_offsets(
                group_id,
                partitions.map(|partition| (topic.name.clone(), partition)),
                outcome,
            );
        }
        let partitions = topic.partitions.iter().map(|partition| OffsetDeleteResponsePartition {
            partition_index: partition.partition_index,
            error_code,
        });
        OffsetDeleteResponseTopic { name: topic.name.clone(), partitions: partitions.collect() }
    }

    /// Forgets those of the given offsets that are there, or were until they expired.
    pub(super) fn forget_offsets(
        &mut self,
        group_id: &Str,
        partitions: impl Iterator<Item = (Str, PartitionId)>,
        outcome: &mut Outcome,
    ) {
        for (topic, partition) in partitions {
            let Some(group) = self.groups.get(group_id) else { return };
            if group.offsets.get(&topic, partition).is_some()
                || self.traces.get(group_id, &topic, partition).is_some()
            {
                let event = Event::OffsetForgotten { group: group.id.clone(), topic, partition };
                outcome.records.push(event.encode());
                self.apply(event);
            }
        }
    }

    /// Forgets what all groups committed for topics that were deleted.
    pub fn topics_deleted(&mut self, topics: &[Str]) -> Outcome {
        let mut outcome = Outcome::default();
        let ids: Vec<Str> = self.groups.keys().cloned().collect();
        for id in ids {
            let Some(group) = self.groups.get(&id) else { continue };
            let mut gone = Vec::new();
            for topic in topics {
                if let Some(partitions) = group.offsets.by_topic.get(topic) {
                    gone.extend(partitions.keys().map(|partition| (topic.clone(), *partition)));
                }
            }
            self.forget_offsets(&id, gone.into_iter(), &mut outcome);
        }
        self.forget_traces(|_, topic, _| topics.contains(topic), &mut outcome);
        outcome
    }

    /// Answers one group of an OffsetFetch (versions before 8 ask for one group outside the list). Topics carry their
    /// names, also in the versions that speak of ids; `None` asks for all. What was never committed has offset -1.
    ///
    /// Who requires stable offsets is not told of those that an open transaction may replace (KIP-447).
    /// `id_of` tells the id of the topic that has a name now: what was committed to an earlier topic of that name is no
    /// commit to this one.
    pub fn fetch_offsets(
        &self,
        request: &OffsetFetchRequestGroup,
        require_stable: bool,
        id_of: impl Fn(&str) -> Option<Uuid>,
    ) -> OffsetFetchResponseGroup {
        if let Some(Err(refusal)) =
            self.consumers.get(&request.group_id).map(|group| group.check_fetch(request))
        {
            return OffsetFetchResponseGroup {
                group_id: request.group_id.clone(),
                error_code: refusal.into(),
                ..Default::default()
            };
        }
        let group = self.groups.get(&request.group_id);
        let mut topics: Vec<_> = match &request.topics {
            Some(topics) => {
                topics.iter().map(|topic| fetch_topic(group, topic, id_of(&topic.name))).collect()
            }
            None => group.map(|group| fetch_all(group, id_of)).unwrap_or_default(),
        };
        if require_stable {
            self.withhold_unstable(&request.group_id, &mut topics);
        }
        OffsetFetchResponseGroup { group_id: request.group_id.clone(), topics, ..Default::default() }
    }

    fn withhold_unstable(&self, group_id: &str, topics: &mut [OffsetFetchResponseTopics]) {
        for topic in topics {
            for partition in &mut topic.partitions {
                let index = PartitionId(partition.partition_index);
                if self.pending.holds(group_id, &topic.name, index) {
                    *partition = OffsetFetchResponsePartitions {
                        error_code: ErrorCode::UNSTABLE_OFFSET_COMMIT,
                        ..never_committed(index)
                    };
                }
            }
        }
    }

    /// One committed offset, for lag and inspection.
    pub fn committed_offset(
        &self,
        group_id: &str,
        topic: &str,
        partition: PartitionId,
    ) -> Option<&CommittedOffset> {
        self.groups.get(group_id)?.offsets.get(topic, partition)
    }
}

impl Group {
    fn check_commit(
        &self,
        member_id: &str,
        instance_id: Option<&str>,
        generation: i32,
    ) -> Result<(), Refusal> {
        if generation < 0 && self.state == State::Empty {
            return Ok(());
        }
        if generation < 0 && member_id.is_empty() && instance_id.is_none() {
            // Nobody may move the offsets of a live group from outside.
            return Err(Refusal::UnknownMember);
        }
        self.check_member(member_id, instance_id)?;
        if generation != self.generation {
            return Err(Refusal::IllegalGeneration);
        }
        if self.state == State::CompletingRebalance {
            return Err(Refusal::RebalanceInProgress);
        }
        Ok(())
    }
}

fn committed_offset(
    retention_ms: i64,
    partition: &OffsetCommitRequestPartition,
    topic_id: Uuid,
    now: Millis,
) -> CommittedOffset {
    CommittedOffset {
        offset: Offset(partition.committed_offset),
        leader_epoch: LeaderEpoch(partition.committed_leader_epoch),
        metadata: partition.committed_metadata.as_deref().map(Str::copy_from).unwrap_or_default(),
        committed_at: now,
        expires_at: (retention_ms >= 0).then(|| Millis(now.0.saturating_add(retention_ms))),
        topic_id,
    }
}

impl CommittedOffset {
    /// Whether it was committed to the topic that has this id now; it counts where either id is not known.
    fn is_for(&self, current: Option<Uuid>) -> bool {
        self.topic_id.is_zero() || current.is_none_or(|current| current == self.topic_id)
    }
}

fn fetch_topic(
    group: Option<&Group>,
    topic: &OffsetFetchRequestTopics,
    current: Option<Uuid>,
) -> OffsetFetchResponseTopics {
    let partitions = topic.partition_indexes.iter().map(|&index| {
        let committed = group.and_then(|group| group.offsets.get(&topic.name, PartitionId(index)));
        let committed = committed.filter(|committed| committed.is_for(current));
        match committed {
            Some(committed) => fetched(PartitionId(index), committed),
            None => never_committed(PartitionId(index)),
        }
    });
    OffsetFetchResponseTopics {
        name: topic.name.clone(),
        topic_id: topic.topic_id,
        partitions: partitions.collect(),
    }
}

fn fetch_all(group: &Group, id_of: impl Fn(&str) -> Option<Uuid>) -> Vec<OffsetFetchResponseTopics> {
    let topics = group.offsets.by_topic.iter().map(|(name, partitions)| {
        let current = id_of(name);
        let partitions = partitions.iter().filter(|(_, committed)| committed.is_for(current));
        OffsetFetchResponseTopics {
            name: name.clone(),
            partitions: partitions.map(|(partition, committed)| fetched(*partition, committed)).collect(),
            ..Default::default()
        }
    });
    topics.filter(|topic| !topic.partitions.is_empty()).collect()
}

fn never_committed(partition: PartitionId) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions {
        partition_index: partition.0,
        committed_offset: -1,
        committed_leader_epoch: LeaderEpoch::NONE.0,
        metadata: Some(Str::default()),
        ..Default::default()
    }
}

fn fetched(partition: PartitionId, committed: &CommittedOffset) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions {
        partition_index: partition.0,
        committed_offset: committed.offset.0,
        committed_leader_epoch: committed.leader_epoch.0,
        metadata: Some(committed.metadata.clone()),
        ..Default::default()
    }
}
