//! What members of a consumer group tell each other through the coordinator, which does not read it.
//!
//! A version number, then the message in that version. Written in version 1, which every client understands
//! and which says what this member owned; read in whatever version comes, newer ones as the newest known.

use std::collections::BTreeMap;

use bytes::Bytes;
use wire::messages::consumer_protocol_assignment::{self, ConsumerProtocolAssignment};
use wire::messages::consumer_protocol_subscription::{self, ConsumerProtocolSubscription};
use wire::{DecodeError, Decoder, Encoder, Message, PartitionId, Str, TopicPartition};

const VERSION: i16 = 1;

pub(super) fn encode_subscription(topics: &[Str], owned: &[TopicPartition]) -> Bytes {
    let owned_partitions = by_topic(owned)
        .into_iter()
        .map(|(topic, partitions)| consumer_protocol_subscription::TopicPartition { topic, partitions });
    encode(&ConsumerProtocolSubscription {
        topics: topics.to_vec(),
        owned_partitions: owned_partitions.collect(),
        ..Default::default()
    })
}

/// The topics that a member subscribes to.
pub(super) fn decode_subscription(bytes: Bytes) -> Result<Vec<Str>, DecodeError> {
    decode(bytes).map(|subscription: ConsumerProtocolSubscription| subscription.topics)
}

pub(super) fn encode_assignment(partitions: &[TopicPartition]) -> Bytes {
    let assigned_partitions = by_topic(partitions)
        .into_iter()
        .map(|(topic, partitions)| consumer_protocol_assignment::TopicPartition { topic, partitions });
    encode(&ConsumerProtocolAssignment {
        assigned_partitions: assigned_partitions.collect(),
        ..Default::default()
    })
}

/// The partitions that a member got. No bytes at all are no partitions.
pub(crate) fn decode_assignment(bytes: Bytes) -> Result<Vec<TopicPartition>, DecodeError> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let assignment: ConsumerProtocolAssignment = decode(bytes)?;
    let partitions = assignment.assigned_partitions.into_iter().flat_map(|assigned| {
        let topic = assigned.topic;
        assigned.partitions.into_iter().map(move |id| TopicPartition::new(topic.clone(), PartitionId(id)))
    });
    Ok(partitions.collect())
}

fn by_topic(partitions: &[TopicPartition]) -> BTreeMap<Str, Vec<i32>> {
    let mut topics: BTreeMap<Str, Vec<i32>> = BTreeMap::new();
    for partition in partitions {
        topics.entry(partition.topic.clone()).or_default().push(partition.partition.0);
    }
    topics
}

fn encode(message: &impl Message) -> Bytes {
    let mut encoder = Encoder::new();
    encoder.int16(VERSION);
    message.encode(&mut encoder, VERSION);
    encoder.into_bytes()
}

fn decode<M: Message>(bytes: Bytes) -> Result<M, DecodeError> {
    let mut decoder = Decoder::new(bytes);
    let version = decoder.int16()?.clamp(*M::VERSIONS.start(), *M::VERSIONS.end());
    M::decode(&mut decoder, version)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use wire::{PartitionId, TopicPartition};

    use super::{decode_assignment, encode_assignment};

    #[test]
    fn an_assignment_comes_back_and_garbage_is_refused() {
        let partitions =
            vec![TopicPartition::new("a", PartitionId(0)), TopicPartition::new("b", PartitionId(2))];
        assert_eq!(decode_assignment(encode_assignment(&partitions)), Ok(partitions));
        assert_eq!(decode_assignment(Bytes::new()), Ok(Vec::new()));
        assert!(decode_assignment(Bytes::from_static(b"\0\x01\x7f\xff\xff\xff")).is_err());
    }
}
