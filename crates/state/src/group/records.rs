//! Records of `__consumer_offsets` in Kafka's own schemas, so that its tools read them.
//!
//! A key is its record type and the key's fields; a value is its version and the value's fields; no value is a
//! tombstone. What is written is what Apache Kafka 4.3 writes; what is read are all versions since 0.11.

use std::collections::BTreeSet;

use bytes::Bytes;
use wire::messages::consumer_protocol_subscription::ConsumerProtocolSubscription;
use wire::messages::group_metadata_key::GroupMetadataKey;
use wire::messages::group_metadata_value::GroupMetadataValue;
use wire::messages::offset_commit_key::OffsetCommitKey;
use wire::messages::offset_commit_value::OffsetCommitValue;
use wire::{DecodeError, Decoder, LeaderEpoch, Message, Millis, Offset, PartitionId, Str};

use super::offsets::CommittedOffset;
use super::traces::ExpiredOffset;
use super::{CoordinatorRecord, RecordError};
use crate::coordinator::{prefixed, versioned};

/// The type of the two earliest schema versions of an offset's key, which are alike.
const OFFSET_COMMIT_LEGACY: i16 = 0;
const OFFSET_COMMIT: i16 = 1;
const GROUP_METADATA: i16 = 2;

/// Keys have had one version since their type took the version's place.
const KEY_VERSION: i16 = 0;
const GROUP_METADATA_VALUE_VERSION: i16 = 3;
const OFFSET_COMMIT_VALUE_VERSION: i16 = 4;
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
            unknown => Err(RecordError::UnknownType(unknown)),
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
