//! Records of `__consumer_offsets` in Kafka's own schemas, so that its tools read them.
//!
//! A key is its record type and the key's fields; a value is its version and the value's fields; no value is a
//! tombstone. What is written is what Apache Kafka 4.3 writes; what is read are all versions since 0.11.

use std::collections::BTreeSet;

use bytes::Bytes;
use wire::messages::consumer_group_member_metadata_key::ConsumerGroupMemberMetadataKey;
use wire::messages::consumer_group_metadata_key::ConsumerGroupMetadataKey;
use wire::messages::consumer_group_metadata_value::ConsumerGroupMetadataValue;
use wire::messages::consumer_group_target_assignment_member_value::{
    ConsumerGroupTargetAssignmentMemberValue, TopicPartition,
};
use wire::messages::consumer_group_target_assignment_metadata_value::ConsumerGroupTargetAssignmentMetadataValue;
use wire::messages::consumer_protocol_subscription::ConsumerProtocolSubscription;
use wire::messages::group_metadata_key::GroupMetadataKey;
use wire::messages::group_metadata_value::GroupMetadataValue;
use wire::messages::offset_commit_key::OffsetCommitKey;
use wire::messages::offset_commit_value::OffsetCommitValue;
use wire::{DecodeError, Decoder, LeaderEpoch, Message, Millis, Offset, PartitionId, Str};

use super::consumer::{ConsumerEvent, TopicIdPartition, by_topic};
use super::offsets::CommittedOffset;
use super::traces::ExpiredOffset;
use super::{CoordinatorRecord, RecordError};
use crate::coordinator::{prefixed, versioned};

/// The type of the two earliest schema versions of an offset's key, which are alike.
const OFFSET_COMMIT_LEGACY: i16 = 0;
const OFFSET_COMMIT: i16 = 1;
const GROUP_METADATA: i16 = 2;

const CONSUMER_METADATA: i16 = 3;
const CONSUMER_MEMBER: i16 = 5;
const CONSUMER_TARGET_EPOCH: i16 = 6;
const CONSUMER_TARGET: i16 = 7;
const CONSUMER_CURRENT: i16 = 8;

/// Keys have had one version since their type took the version's place.
const KEY_VERSION: i16 = 0;
const GROUP_METADATA_VALUE_VERSION: i16 = 3;
const OFFSET_COMMIT_VALUE_VERSION: i16 = 4;
/// The records of groups of the consumer protocol have one version, which grows by tags.
const CONSUMER_VALUE_VERSION: i16 = 0;
/// The only version that has room for a retention set by the client.
const OFFSET_COMMIT_VALUE_VERSION_WITH_EXPIRY: i16 = 1;

/// What one record says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Event {
    OffsetCommitted { group: Str, topic: Str, partition: PartitionId, committed: CommittedOffset },
    OffsetForgotten { group: Str, topic: Str, partition: PartitionId },
    OffsetExpired { group: Str, topic: Str, partition: PartitionId, expired: ExpiredOffset },
    GroupStored { group: Str, value: GroupMetadataValue },
    GroupForgotten { group: Str },
    Consumer { group: Str, event: ConsumerEvent },
}

impl Event {
    pub(super) fn encode(&self) -> CoordinatorRecord {
        match self {
            Event::OffsetCommitted { group, topic, partition, committed } => CoordinatorRecord {
                key: offset_key(group, topic, *partition),
                value: Some(offset_value(committed)),
            },
            Event::OffsetForgotten { group, topic, partition } => {
                CoordinatorRecord { key: offset_key(group, topic, *partition), value: None }
            }
            Event::OffsetExpired { group, topic, partition, expired } => CoordinatorRecord {
                key: offset_key(group, topic, *partition),
                value: Some(expired_value(expired)),
            },
            Event::GroupStored { group, value } => group_stored(group, value),
            Event::GroupForgotten { group } => CoordinatorRecord { key: group_key(group), value: None },
            Event::Consumer { group, event } => consumer_record(group, event),
        }
    }

    pub(super) fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Event, RecordError> {
        let mut key = Decoder::new(Bytes::copy_from_slice(key));
        match key.int16()? {
            OFFSET_COMMIT_LEGACY | OFFSET_COMMIT => {
                let OffsetCommitKey { group, topic, partition, .. } =
                    OffsetCommitKey::decode(&mut key, KEY_VERSION)?;
                let (group, topic, partition) =
                    (Str::copy_from(&group), Str::copy_from(&topic), PartitionId(partition));
                Ok(match value {
                    Some(value) => {
                        let value: OffsetCommitValue = versioned(value)?;
                        if value.expired_offset >= 0 {
                            let expired = expired_offset(&value);
                            return Ok(Event::OffsetExpired { group, topic, partition, expired });
                        }
                        Event::OffsetCommitted {
                            group,
                            topic,
                            partition,
                            committed: committed_offset(&value),
                        }
                    }
                    None => Event::OffsetForgotten { group, topic, partition },
                })
            }
            GROUP_METADATA => {
                let group = Str::copy_from(&GroupMetadataKey::decode(&mut key, KEY_VERSION)?.group);
                Ok(match value {
                    Some(value) => Event::GroupStored { group, value: versioned(value)? },
                    None => Event::GroupForgotten { group },
                })
            }
            other => Ok(decode_consumer(other, &mut key, value)?),
        }
    }
}

/// The record that holds a whole group.
pub(super) fn group_stored(group: &Str, value: &GroupMetadataValue) -> CoordinatorRecord {
    CoordinatorRecord {
        key: group_key(group),
        value: Some(prefixed(GROUP_METADATA_VALUE_VERSION, |e| {
            value.encode(e, GROUP_METADATA_VALUE_VERSION);
        })),
    }
}

/// A group as it is before anybody joined.
pub(super) fn empty_group(now: Millis) -> GroupMetadataValue {
    GroupMetadataValue { protocol: None, leader: None, current_state_timestamp: now.0, ..Default::default() }
}

/// Adds the topics of a consumer's subscription. Only what all versions begin with is read, so that a subscription from
/// the future is understood too.
pub(super) fn subscribed_topics(metadata: &Bytes, topics: &mut BTreeSet<Str>) -> Result<(), DecodeError> {
    let mut decoder = Decoder::new(metadata.clone());
    let _version = decoder.int16()?;
    let subscription = ConsumerProtocolSubscription::decode(&mut decoder, 0)?;
    for topic in &subscription.topics {
        if !topics.contains(topic) {
            topics.insert(Str::copy_from(topic));
        }
    }
    Ok(())
}

fn group_key(group: &Str) -> Bytes {
    let key = GroupMetadataKey { group: group.clone() };
    prefixed(GROUP_METADATA, |e| key.encode(e, KEY_VERSION))
}

fn offset_key(group: &Str, topic: &Str, partition: PartitionId) -> Bytes {
    let key = OffsetCommitKey { group: group.clone(), topic: topic.clone(), partition: partition.0 };
    prefixed(OFFSET_COMMIT, |e| key.encode(e, KEY_VERSION))
}

fn offset_value(committed: &CommittedOffset) -> Bytes {
    let version = match committed.expires_at {
        Some(_) => OFFSET_COMMIT_VALUE_VERSION_WITH_EXPIRY,
        None => OFFSET_COMMIT_VALUE_VERSION,
    };
    let value = OffsetCommitValue {
        offset: committed.offset.0,
        leader_epoch: committed.leader_epoch.0,
        metadata: committed.metadata.clone(),
        commit_timestamp: committed.committed_at.0,
        expire_timestamp: committed.expires_at.map_or(-1, |at| at.0),
        topic_id: committed.topic_id,
        expired_offset: -1,
    };
    prefixed(version, |e| value.encode(e, version))
}

/// What is left of an expired offset. Whoever does not know of this reads a commit of -1, which all take for none, and forgets it by
/// the retention of offsets.
fn expired_value(expired: &ExpiredOffset) -> Bytes {
    let value = OffsetCommitValue {
        offset: -1,
        commit_timestamp: expired.expired_at.0,
        topic_id: expired.topic_id,
        expired_offset: expired.offset.0,
        ..Default::default()
    };
    prefixed(OFFSET_COMMIT_VALUE_VERSION, |e| value.encode(e, OFFSET_COMMIT_VALUE_VERSION))
}

fn expired_offset(value: &OffsetCommitValue) -> ExpiredOffset {
    ExpiredOffset {
        offset: Offset(value.expired_offset),
        expired_at: Millis(value.commit_timestamp),
        topic_id: value.topic_id,
    }
}

fn committed_offset(value: &OffsetCommitValue) -> CommittedOffset {
    CommittedOffset {
        offset: Offset(value.offset),
        leader_epoch: LeaderEpoch(value.leader_epoch),
        metadata: Str::copy_from(&value.metadata),
        committed_at: Millis(value.commit_timestamp),
        expires_at: (value.expire_timestamp >= 0).then_some(Millis(value.expire_timestamp)),
        topic_id: value.topic_id,
    }
}

/// The record of one thing about a group of the consumer protocol.
fn consumer_record(group: &Str, event: &ConsumerEvent) -> CoordinatorRecord {
    let of_group = |record_type| {
        let key = ConsumerGroupMetadataKey { group_id: group.clone() };
        prefixed(record_type, |e| key.encode(e, KEY_VERSION))
    };
    let of_member = |record_type, member: &Str| {
        let key = ConsumerGroupMemberMetadataKey { group_id: group.clone(), member_id: member.clone() };
        prefixed(record_type, |e| key.encode(e, KEY_VERSION))
    };
    let (key, value) = match event {
        ConsumerEvent::Stored { epoch, metadata_hash } => {
            let value = ConsumerGroupMetadataValue { epoch: *epoch, metadata_hash: *metadata_hash };
            (of_group(CONSUMER_METADATA), Some(consumer_value(&value)))
        }
        ConsumerEvent::Forgotten => (of_group(CONSUMER_METADATA), None),
        ConsumerEvent::MemberStored { member, value } => {
            (of_member(CONSUMER_MEMBER, member), Some(consumer_value(value)))
        }
        ConsumerEvent::MemberForgotten { member } => (of_member(CONSUMER_MEMBER, member), None),
        ConsumerEvent::TargetEpochStored { epoch } => {
            let value =
                ConsumerGroupTargetAssignmentMetadataValue { assignment_epoch: *epoch, ..Default::default() };
            (of_group(CONSUMER_TARGET_EPOCH), Some(consumer_value(&value)))
        }
        ConsumerEvent::TargetEpochForgotten => (of_group(CONSUMER_TARGET_EPOCH), None),
        ConsumerEvent::TargetStored { member, partitions } => {
            (of_member(CONSUMER_TARGET, member), Some(consumer_value(&target_value(partitions))))
        }
        ConsumerEvent::TargetForgotten { member } => (of_member(CONSUMER_TARGET, member), None),
        ConsumerEvent::CurrentStored { member, value } => {
            (of_member(CONSUMER_CURRENT, member), Some(consumer_value(value)))
        }
        ConsumerEvent::CurrentForgotten { member } => (of_member(CONSUMER_CURRENT, member), None),
    };
    CoordinatorRecord { key, value }
}

fn consumer_value<M: Message>(value: &M) -> Bytes {
    prefixed(CONSUMER_VALUE_VERSION, |e| value.encode(e, CONSUMER_VALUE_VERSION))
}

fn target_value(partitions: &BTreeSet<TopicIdPartition>) -> ConsumerGroupTargetAssignmentMemberValue {
    let topics = by_topic(partitions.iter().map(|partition| (*partition, ()))).into_iter();
    let topic_partitions = topics.map(|(topic_id, partitions)| TopicPartition {
        topic_id,
        partitions: partitions.into_iter().map(|(id, ())| id).collect(),
    });
    ConsumerGroupTargetAssignmentMemberValue { topic_partitions: topic_partitions.collect() }
}

/// Reads a record of a group of the consumer protocol. The keys of a kind are alike: a group's, or a group's and a member's.
fn decode_consumer(record_type: i16, key: &mut Decoder, value: Option<&[u8]>) -> Result<Event, RecordError> {
    let (group, event) = match record_type {
        CONSUMER_METADATA | CONSUMER_TARGET_EPOCH => {
            let key = ConsumerGroupMetadataKey::decode(key, KEY_VERSION)?;
            let event = match (record_type, value) {
                (CONSUMER_METADATA, None) => ConsumerEvent::Forgotten,
                (CONSUMER_METADATA, Some(value)) => {
                    let ConsumerGroupMetadataValue { epoch, metadata_hash } = versioned(value)?;
                    ConsumerEvent::Stored { epoch, metadata_hash }
                }
                (_, None) => ConsumerEvent::TargetEpochForgotten,
                (_, Some(value)) => {
                    let value: ConsumerGroupTargetAssignmentMetadataValue = versioned(value)?;
                    ConsumerEvent::TargetEpochStored { epoch: value.assignment_epoch }
                }
            };
            (key.group_id, event)
        }
        CONSUMER_MEMBER | CONSUMER_TARGET | CONSUMER_CURRENT => {
            let key = ConsumerGroupMemberMetadataKey::decode(key, KEY_VERSION)?;
            let member = Str::copy_from(&key.member_id);
            let event = match (record_type, value) {
                (CONSUMER_MEMBER, None) => ConsumerEvent::MemberForgotten { member },
                (CONSUMER_MEMBER, Some(value)) => {
                    ConsumerEvent::MemberStored { member, value: versioned(value)? }
                }
                (CONSUMER_TARGET, None) => ConsumerEvent::TargetForgotten { member },
                (CONSUMER_TARGET, Some(value)) => {
                    ConsumerEvent::TargetStored { member, partitions: target(&versioned(value)?) }
                }
                (_, None) => ConsumerEvent::CurrentForgotten { member },
                (_, Some(value)) => ConsumerEvent::CurrentStored { member, value: versioned(value)? },
            };
            (key.group_id, event)
        }
        unknown => return Err(RecordError::UnknownType(unknown)),
    };
    Ok(Event::Consumer { group: Str::copy_from(&group), event })
}

fn target(value: &ConsumerGroupTargetAssignmentMemberValue) -> BTreeSet<TopicIdPartition> {
    let of_topic = |topic: &TopicPartition| {
        let id = topic.topic_id;
        topic.partitions.clone().into_iter().map(move |partition| (id, PartitionId(partition)))
    };
    value.topic_partitions.iter().flat_map(of_topic).collect()
}
