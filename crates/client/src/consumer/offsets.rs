//! Where reading begins: what the group committed, or what the reader keeps in a store of its own.
//!
//! A store is asked once for each assignment, before anything is fetched, and told when partitions go. An error stops
//! the partition that it is about and no other.

use wire::messages::offset_fetch::{OffsetFetchRequest, OffsetFetchRequestTopic};
use wire::{ErrorCode, LeaderEpoch, Offset, PartitionId, Str, TopicPartition, Uuid};

use std::collections::BTreeMap;

use super::positions::{Begin, Start};
use crate::cluster::{Cluster, Lane};
use crate::environment::BoxFuture;
use crate::error::Error;
use crate::options::Isolation;

/// A partition that was just assigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// The partition.
    pub partition: TopicPartition,
    /// The topic's id; zero where the broker is too old to tell.
    pub topic_id: Uuid,
    /// The group's generation or, in the consumer protocol, the member's epoch as of now; -1 without a group. It grows
    /// with every assignment of a partition to another member.
    pub epoch: i32,
}

/// Where to begin in partitions. Implemented by stores that keep offsets beside the results of reading;
/// [`CommittedOffsets`](crate::CommittedOffsets) is the group's own.
pub trait Offsets: Send + Sync + 'static {
    /// Where to begin in partitions that were just assigned, in their order. `None` where nothing is stored:
    /// `auto.offset.reset` decides then. An error of kind [`Retriable`](crate::ErrorKind::Retriable) is asked about
    /// again; any other stops that partition until the application seeks in it, while the others go on.
    fn load<'a>(&'a self, assigned: &'a [Assigned]) -> BoxFuture<'a, Vec<Result<Option<Begin>, Error>>>;

    /// These partitions are being given up in order: what was in hand is done with or was waited for long enough. Others
    /// may get them when this is over, so that it must not take long.
    fn revoked<'a>(&'a self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, ()> {
        let _ = partitions;
        Box::pin(async {})
    }

    /// These partitions are gone; others may have read on in them already.
    fn lost(&self, partitions: &[TopicPartition]) {
        let _ = partitions;
    }
}

/// What the group has committed, kept by its coordinator.
pub struct CommittedOffsets {
    cluster: Cluster,
    or_else: Option<Start>,
}

impl CommittedOffsets {
    /// Of the group `group.id`. Without a group, nothing is stored.
    pub fn new(cluster: Cluster) -> Self {
        Self { cluster, or_else: None }
    }

    /// Begins there where the group has committed nothing, instead of where `auto.offset.reset` says.
    pub fn or_else(self, start: Start) -> Self {
        Self { or_else: Some(start), ..self }
    }

    /// What the group has committed for these partitions.
    pub(super) async fn fetch(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, Result<Option<Begin>, Error>>, Error> {
        let options = self.cluster.options();
        let Some(group) = options.group_id.as_deref().map(Str::copy_from) else {
            return Ok(partitions.iter().map(|partition| (partition.clone(), Ok(None))).collect());
        };
        let doing = format!("reading the offsets of group {group}");
        let mut topics: BTreeMap<Str, Vec<i32>> = BTreeMap::new();
        for partition in partitions {
            topics.entry(partition.topic.clone()).or_default().push(partition.partition.0);
        }
        let topics = topics
            .into_iter()
            .map(|(name, partition_indexes)| OffsetFetchRequestTopic { name, partition_indexes });
        let request = OffsetFetchRequest {
            group_id: group.clone(),
            topics: Some(topics.collect()),
            // What a transaction may still take back is not a place to begin at.
            require_stable: options.isolation_level == Isolation::ReadCommitted,
            wants_expired: true,
            ..Default::default()
        };
        self.cluster
            .retrying(&doing, || async {
                let response =
                    self.cluster.call_coordinator(&group, Lane::Requests, request.clone()).await?;
                let mut found = BTreeMap::new();
                let codes = response.topics.iter().flat_map(|topic| &topic.partitions);
                let codes = std::iter::once(response.error_code).chain(codes.map(|part| part.error_code));
                for code in codes.filter(|code| !code.is_ok()) {
                    if matches!(code, ErrorCode::NOT_COORDINATOR | ErrorCode::COORDINATOR_NOT_AVAILABLE) {
                        self.cluster.forget_coordinator(&group);
                    }
                    let error = Error::kafka(code, doing.clone(), None);
                    if code.is_retriable() || code == response.error_code {
                        return Err(error);
                    }
                }
                for topic in response.topics {
                    for answer in topic.partitions {
                        let id = PartitionId(answer.partition_index);
                        let partition = TopicPartition::new(topic.name.clone(), id);
                        let begin = match answer.error_code {
                            ErrorCode::NONE => Ok((answer.committed_offset >= 0).then_some(Begin {
                                start: Start::Offset(Offset(answer.committed_offset)),
                                leader_epoch: LeaderEpoch(answer.committed_leader_epoch),
                            })),
                            code => Err(Error::kafka(code, format!("{doing} ({partition})"), None)),
                        };
                        if answer.expired_offset >= 0 && matches!(begin, Ok(None)) {
                            tracing::warn!(
                                %partition, offset = answer.expired_offset, expired_at_ms = answer.expired_at,
                                "what the group had committed has expired, reading on as if it had committed nothing"
                            );
                        }
                        found.insert(partition, begin);
                    }
                }
                Ok(found)
            })
            .await
    }
}

impl Offsets for CommittedOffsets {
    fn load<'a>(&'a self, assigned: &'a [Assigned]) -> BoxFuture<'a, Vec<Result<Option<Begin>, Error>>> {
        Box::pin(async move {
            let partitions: Vec<_> = assigned.iter().map(|assigned| assigned.partition.clone()).collect();
            let mut found = match self.fetch(&partitions).await {
                Ok(found) => found,
                Err(error) => return partitions.iter().map(|_| Err(error.clone())).collect(),
            };
            let begin = |partition: &TopicPartition| match found.remove(partition).unwrap_or(Ok(None)) {
                Ok(None) => Ok(self.or_else.map(Begin::from)),
                begin => begin,
            };
            partitions.iter().map(begin).collect()
        })
    }
}
