//! What members of a consumer group tell each other through the coordinator, which does not read it.
//!
//! A version number, then the message in that version; read in whatever version comes, newer ones as the newest known.

use std::collections::BTreeMap;

use bytes::Bytes;
use wire::messages::consumer_protocol_assignment::{self, ConsumerProtocolAssignment};
use wire::messages::consumer_protocol_subscription::{self, ConsumerProtocolSubscription};
use wire::{DecodeError, Decoder, Encoder, Message, PartitionId, Str, TopicPartition};

use crate::options::AssignmentStrategy;

/// With what a member owns (1), since which generation (2), and its rack (3).
const SUBSCRIPTION_VERSION: i16 = 3;
const ASSIGNMENT_VERSION: i16 = 1;

/// What a member wants to read, and reads now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subscription {
    pub(super) topics: Vec<Str>,
    pub(super) owned: Vec<TopicPartition>,
    /// Of the assignment that gave it what it owns; -1 if it does not say.
    pub(super) generation: i32,
    pub(super) rack: Option<Str>,
}

impl Subscription {
    pub(super) fn encode(&self, strategy: AssignmentStrategy) -> Bytes {
        let owned_partitions = by_topic(&self.owned)
            .into_iter()
            .map(|(topic, partitions)| consumer_protocol_subscription::TopicPartition { topic, partitions });
        // Members of before version 2 read the generation there.
        let is_sticky = strategy == AssignmentStrategy::CooperativeSticky;
        let user_data = is_sticky.then(|| Bytes::copy_from_slice(&self.generation.to_be_bytes()));
        let subscription = ConsumerProtocolSubscription {
            topics: self.topics.clone(),
            user_data,
            owned_partitions: owned_partitions.collect(),
            generation_id: self.generation,
            rack_id: self.rack.clone(),
        };
        encode(&subscription, SUBSCRIPTION_VERSION)
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let subscription: ConsumerProtocolSubscription = decode(bytes)?;
        let told = subscription.user_data.as_ref().and_then(|data| data.first_chunk());
        let generation = match subscription.generation_id {
            ..0 => told.map_or(-1, |generation| i32::from_be_bytes(*generation)),
            generation => generation,
        };
        let owned = subscription.owned_partitions.into_iter().flat_map(|owned| {
            let topic = owned.topic;
            owned.partitions.into_iter().map(move |id| TopicPartition::new(topic.clone(), PartitionId(id)))
        });
        Ok(Self {
            topics: subscription.topics,
            owned: owned.collect(),
            generation,
            rack: subscription.rack_id,
        })
    }
}

pub(super) fn encode_assignment(partitions: &[TopicPartition]) -> Bytes {
    let assigned_partitions = by_topic(partitions)
        .into_iter()
        .map(|(topic, partitions)| consumer_protocol_assignment::TopicPartition { topic, partitions });
    let assigned_partitions = assigned_partitions.collect();
    encode(&ConsumerProtocolAssignment { assigned_partitions, ..Default::default() }, ASSIGNMENT_VERSION)
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

fn encode(message: &impl Message, version: i16) -> Bytes {
    let mut encoder = Encoder::new();
    encoder.int16(version);
    message.encode(&mut encoder, version);
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

    use super::{Subscription, decode_assignment, encode_assignment};
    use crate::options::AssignmentStrategy;

    #[test]
    fn a_subscription_is_laid_out_as_kafkas_own_clients_lay_it_out() {
        let subscription = Subscription {
            topics: vec!["t".into()],
            owned: vec![TopicPartition::new("t", PartitionId(1))],
            generation: 5,
            rack: None,
        };
        let encoded = subscription.encode(AssignmentStrategy::CooperativeSticky);
        let expected: &[u8] = &[
            0, 3, // version
            0, 0, 0, 1, 0, 1, b't', // topics
            0, 0, 0, 4, 0, 0, 0, 5, // user data: the generation
            0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1, 0, 0, 0, 1, // owned
            0, 0, 0, 5, // generation
            0xff, 0xff, // no rack
        ];
        assert_eq!(&encoded[..], expected);
        assert_eq!(Subscription::decode(encoded), Ok(subscription));
        // What a member of version 1 says.
        let old: &[u8] = &[0, 1, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 7, 0, 0, 0, 0];
        assert_eq!(Subscription::decode(Bytes::from_static(old)).unwrap().generation, 7);
    }

    #[test]
    fn an_assignment_comes_back_and_garbage_is_refused() {
        let partitions =
            vec![TopicPartition::new("a", PartitionId(0)), TopicPartition::new("b", PartitionId(2))];
        assert_eq!(decode_assignment(encode_assignment(&partitions)), Ok(partitions));
        assert_eq!(decode_assignment(Bytes::new()), Ok(Vec::new()));
        assert!(decode_assignment(Bytes::from_static(b"\0\x01\x7f\xff\xff\xff")).is_err());
    }
}
