//! Records of share groups in Kafka's own schemas.

use std::collections::BTreeMap;

use bytes::Bytes;
use wire::messages::share_group_current_member_assignment_key::ShareGroupCurrentMemberAssignmentKey;
use wire::messages::share_group_current_member_assignment_value::{
    ShareGroupCurrentMemberAssignmentValue, TopicPartitions,
};
use wire::messages::share_group_member_metadata_key::ShareGroupMemberMetadataKey;
use wire::messages::share_group_member_metadata_value::ShareGroupMemberMetadataValue;
use wire::messages::share_group_metadata_key::ShareGroupMetadataKey;
use wire::messages::share_group_metadata_value::ShareGroupMetadataValue;
use wire::messages::share_group_state_partition_metadata_key::ShareGroupStatePartitionMetadataKey;
use wire::messages::share_group_state_partition_metadata_value::{
    ShareGroupStatePartitionMetadataValue, TopicInfo, TopicPartitionsInfo,
};
use wire::messages::share_group_target_assignment_member_key::ShareGroupTargetAssignmentMemberKey;
use wire::messages::share_group_target_assignment_member_value::{
    ShareGroupTargetAssignmentMemberValue, TopicPartition,
};
use wire::messages::share_group_target_assignment_metadata_key::ShareGroupTargetAssignmentMetadataKey;
use wire::messages::share_group_target_assignment_metadata_value::ShareGroupTargetAssignmentMetadataValue;
use wire::{Decoder, Message, Millis, Str, Uuid};

use super::{About, Partitions, TopicState};
use crate::coordinator::{CoordinatorRecord, RecordError, prefixed, versioned};

const MEMBER: i16 = 10;
const GROUP: i16 = 11;
const TARGET_EPOCH: i16 = 12;
const TARGET: i16 = 13;
const CURRENT: i16 = 14;
const TOPICS: i16 = 15;
/// Keys and values have one version.
const VERSION: i16 = 0;

/// What one record says of a group; without a value it says that this is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ShareEvent {
    /// Epoch, and what stands for the topics.
    Group(Option<(i32, i64)>),
    Member(Str, Option<About>),
    /// The epoch that members were assigned their partitions for, and when.
    TargetEpoch(Option<(i32, Millis)>),
    Target(Str, Option<Partitions>),
    /// A member's epoch, the one before, and what it has.
    Current(Str, Option<(i32, i32, Partitions)>),
    /// Whose share state is there, or about to be.
    Topics(Option<BTreeMap<Uuid, TopicState>>),
}

impl ShareEvent {
    pub(super) fn is_tombstone(&self) -> bool {
        match self {
            ShareEvent::Group(value) => value.is_none(),
            ShareEvent::Member(_, value) => value.is_none(),
            ShareEvent::TargetEpoch(value) => value.is_none(),
            ShareEvent::Target(_, value) => value.is_none(),
            ShareEvent::Current(_, value) => value.is_none(),
            ShareEvent::Topics(value) => value.is_none(),
        }
    }

    pub(super) fn encode(&self, group: &Str) -> CoordinatorRecord {
        let group_id = group.clone();
        match self {
            ShareEvent::Group(value) => {
                let value =
                    value.map(|(epoch, metadata_hash)| ShareGroupMetadataValue { epoch, metadata_hash });
                record(GROUP, &ShareGroupMetadataKey { group_id }, value)
            }
            ShareEvent::Member(member_id, value) => {
                let key = ShareGroupMemberMetadataKey { group_id, member_id: member_id.clone() };
                let value = value.as_ref().map(|about| ShareGroupMemberMetadataValue {
                    rack_id: about.rack.clone(),
                    client_id: about.client_id.clone(),
                    client_host: about.client_host.clone(),
                    subscribed_topic_names: about.topics.iter().cloned().collect(),
                });
                record(MEMBER, &key, value)
            }
            ShareEvent::TargetEpoch(value) => {
                let value = value.map(|(assignment_epoch, at)| ShareGroupTargetAssignmentMetadataValue {
                    assignment_epoch,
                    assignment_timestamp: at.0,
                });
                record(TARGET_EPOCH, &ShareGroupTargetAssignmentMetadataKey { group_id }, value)
            }
            ShareEvent::Target(member_id, value) => {
                let key = ShareGroupTargetAssignmentMemberKey { group_id, member_id: member_id.clone() };
                let value = value.as_ref().map(|target| ShareGroupTargetAssignmentMemberValue {
                    topic_partitions: target
                        .iter()
                        .map(|(topic_id, indexes)| TopicPartition {
                            topic_id: *topic_id,
                            partitions: indexes.iter().copied().collect(),
                        })
                        .collect(),
                });
                record(TARGET, &key, value)
            }
            ShareEvent::Current(member_id, value) => {
                let key = ShareGroupCurrentMemberAssignmentKey { group_id, member_id: member_id.clone() };
                let value = value.as_ref().map(|(member_epoch, previous_member_epoch, assigned)| {
                    ShareGroupCurrentMemberAssignmentValue {
                        member_epoch: *member_epoch,
                        previous_member_epoch: *previous_member_epoch,
                        state: 0,
                        assigned_partitions: assigned
                            .iter()
                            .map(|(topic_id, indexes)| TopicPartitions {
                                topic_id: *topic_id,
                                partitions: indexes.iter().copied().collect(),
                            })
                            .collect(),
                    }
                });
                record(CURRENT, &key, value)
            }
            ShareEvent::Topics(value) => {
                let value = value.as_ref().map(|topics| {
                    let info = |indexes: fn(&TopicState) -> &std::collections::BTreeSet<i32>| {
                        let topics = topics.iter().filter(|(_, topic)| !indexes(topic).is_empty());
                        topics
                            .map(|(topic_id, topic)| TopicPartitionsInfo {
                                topic_id: *topic_id,
                                topic_name: topic.name.clone(),
                                partitions: indexes(topic).iter().copied().collect(),
                            })
                            .collect()
                    };
                    let deleting = topics.iter().filter(|(_, topic)| topic.is_deleting);
                    let deleting = deleting.map(|(topic_id, topic)| TopicInfo {
                        topic_id: *topic_id,
                        topic_name: topic.name.clone(),
                    });
                    ShareGroupStatePartitionMetadataValue {
                        initializing_topics: info(|topic| &topic.initializing),
                        initialized_topics: info(|topic| &topic.initialized),
                        deleting_topics: deleting.collect(),
                    }
                });
                record(TOPICS, &ShareGroupStatePartitionMetadataKey { group_id }, value)
            }
        }
    }
}

fn record<K: Message, V: Message>(kind: i16, key: &K, value: Option<V>) -> CoordinatorRecord {
    CoordinatorRecord {
        key: prefixed(kind, |e| key.encode(e, VERSION)),
        value: value.map(|value| prefixed(VERSION, |e| value.encode(e, VERSION))),
    }
}

/// Reads a record, if it is one of a share group.
pub(super) fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Option<(Str, ShareEvent)>, RecordError> {
    let mut d = Decoder::new(Bytes::copy_from_slice(key));
    let copy = Str::copy_from;
    let decoded = match d.int16()? {
        GROUP => {
            let key = ShareGroupMetadataKey::decode(&mut d, VERSION)?;
            let value: Option<ShareGroupMetadataValue> = value.map(versioned).transpose()?;
            let stored = value.map(|value| (value.epoch, value.metadata_hash));
            (copy(&key.group_id), ShareEvent::Group(stored))
        }
        MEMBER => {
            let key = ShareGroupMemberMetadataKey::decode(&mut d, VERSION)?;
            let value: Option<ShareGroupMemberMetadataValue> = value.map(versioned).transpose()?;
            let about = value.map(|value| About {
                rack: value.rack_id.as_deref().map(copy),
                client_id: copy(&value.client_id),
                client_host: copy(&value.client_host),
                topics: value.subscribed_topic_names.iter().map(|topic| copy(topic)).collect(),
            });
            (copy(&key.group_id), ShareEvent::Member(copy(&key.member_id), about))
        }
        TARGET_EPOCH => {
            let key = ShareGroupTargetAssignmentMetadataKey::decode(&mut d, VERSION)?;
            let value: Option<ShareGroupTargetAssignmentMetadataValue> = value.map(versioned).transpose()?;
            let stored = value.map(|value| (value.assignment_epoch, Millis(value.assignment_timestamp)));
            (copy(&key.group_id), ShareEvent::TargetEpoch(stored))
        }
        TARGET => {
            let key = ShareGroupTargetAssignmentMemberKey::decode(&mut d, VERSION)?;
            let value: Option<ShareGroupTargetAssignmentMemberValue> = value.map(versioned).transpose()?;
            let target = value.map(|value| {
                let topics = value.topic_partitions.into_iter();
                topics.map(|topic| (topic.topic_id, topic.partitions.into_iter().collect())).collect()
            });
            (copy(&key.group_id), ShareEvent::Target(copy(&key.member_id), target))
        }
        CURRENT => {
            let key = ShareGroupCurrentMemberAssignmentKey::decode(&mut d, VERSION)?;
            let value: Option<ShareGroupCurrentMemberAssignmentValue> = value.map(versioned).transpose()?;
            let current = value.map(|value| {
                let topics = value.assigned_partitions.into_iter();
                let assigned = topics.map(|topic| (topic.topic_id, topic.partitions.into_iter().collect()));
                (value.member_epoch, value.previous_member_epoch, assigned.collect())
            });
            (copy(&key.group_id), ShareEvent::Current(copy(&key.member_id), current))
        }
        TOPICS => {
            let key = ShareGroupStatePartitionMetadataKey::decode(&mut d, VERSION)?;
            let value: Option<ShareGroupStatePartitionMetadataValue> = value.map(versioned).transpose()?;
            (copy(&key.group_id), ShareEvent::Topics(value.map(topics_of)))
        }
        _ => return Ok(None),
    };
    Ok(Some(decoded))
}

fn topics_of(value: ShareGroupStatePartitionMetadataValue) -> BTreeMap<Uuid, TopicState> {
    let mut topics: BTreeMap<Uuid, TopicState> = BTreeMap::new();
    for info in value.initializing_topics {
        let topic = topics.entry(info.topic_id).or_default();
        topic.name = Str::copy_from(&info.topic_name);
        topic.initializing.extend(info.partitions);
    }
    for info in value.initialized_topics {
        let topic = topics.entry(info.topic_id).or_default();
        topic.name = Str::copy_from(&info.topic_name);
        topic.initialized.extend(info.partitions);
    }
    for info in value.deleting_topics {
        let name = Str::copy_from(&info.topic_name);
        topics.insert(info.topic_id, TopicState { name, is_deleting: true, ..TopicState::default() });
    }
    topics
}
