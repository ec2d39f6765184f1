//! Metadata records as bytes, in the framing and schemas of Kafka's own metadata log.
//!
//! A value is: unsigned varint frame version (1), unsigned varint record type, unsigned varint schema version, and the
//! body. What cannot be applied later is refused here: a decoded record is one that [`super::Image::apply`] understands.

use bytes::Bytes;
use wire::messages::config_record::ConfigRecord;
use wire::messages::feature_level_record::FeatureLevelRecord;
use wire::messages::partition_record::PartitionRecord;
use wire::messages::producer_ids_record::ProducerIdsRecord;
use wire::messages::register_broker_record::RegisterBrokerRecord;
use wire::messages::remove_topic_record::RemoveTopicRecord;
use wire::messages::topic_record::TopicRecord;
use wire::{DecodeError, Decoder, Encoder, Message};

use super::configs::{ConfigResource, resource_of};

const FRAME_VERSION: u32 = 1;

/// One change of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum MetadataRecord {
    /// A topic begins; its configs and partitions follow.
    Topic(TopicRecord),
    /// A partition as it is from now on.
    Partition(PartitionRecord),
    /// A topic ends.
    RemoveTopic(RemoveTopicRecord),
    /// A key of a resource is set or unset.
    Config(ConfigResource, ConfigRecord),
    /// Producer ids below this one are given out.
    ProducerIds(ProducerIdsRecord),
    /// A feature is finalized at a level.
    FeatureLevel(FeatureLevelRecord),
    /// A broker as it is from now on.
    RegisterBroker(RegisterBrokerRecord),
}

/// Why bytes are not a metadata record.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RecordError {
    /// Not Kafka's framing, or a later one.
    #[error("metadata record has unknown frame version {0}")]
    UnknownFrame(u32),
    /// A record of something that is not kept here.
    #[error("metadata record type {0} is not known")]
    UnknownType(u32),
    /// A setting of something that has none here.
    #[error("metadata record configures unknown resource type {0}")]
    UnknownResource(i8),
    /// More bytes than the schema has fields.
    #[error("metadata record has {0} bytes too many")]
    TrailingBytes(usize),
    /// The bytes are not what the schema says, or of a version from the future.
    #[error("metadata record does not decode: {0}")]
    Malformed(#[from] DecodeError),
}

// Record types: the schemas' api keys.
const REGISTER_BROKER: u32 = 0;
const TOPIC: u32 = 2;
const PARTITION: u32 = 3;
const CONFIG: u32 = 4;
const REMOVE_TOPIC: u32 = 9;
const FEATURE_LEVEL: u32 = 12;
const PRODUCER_IDS: u32 = 15;

/// The version that knows data directories.
const REGISTER_BROKER_VERSION: i16 = 3;

impl MetadataRecord {
    /// The record's value in the metadata log. It has no key.
    pub fn encode(&self) -> Bytes {
        match self {
            MetadataRecord::Topic(body) => framed(TOPIC, 0, body),
            MetadataRecord::Partition(body) => framed(PARTITION, 0, body),
            MetadataRecord::RemoveTopic(body) => framed(REMOVE_TOPIC, 0, body),
            MetadataRecord::Config(_, body) => framed(CONFIG, 0, body),
            MetadataRecord::ProducerIds(body) => framed(PRODUCER_IDS, 0, body),
            MetadataRecord::FeatureLevel(body) => framed(FEATURE_LEVEL, 0, body),
            MetadataRecord::RegisterBroker(body) => framed(REGISTER_BROKER, REGISTER_BROKER_VERSION, body),
        }
    }

    /// Reads what [`MetadataRecord::encode`] or Kafka wrote.
    pub fn decode(value: &Bytes) -> Result<Self, RecordError> {
        let mut decoder = Decoder::new(value.clone());
        let d = &mut decoder;
        let frame = d.unsigned_varint()?;
        if frame != FRAME_VERSION {
            return Err(RecordError::UnknownFrame(frame));
        }
        let record_type = d.unsigned_varint()?;
        let version = i16::try_from(d.unsigned_varint()?).unwrap_or(i16::MAX);
        let record = match record_type {
            TOPIC => MetadataRecord::Topic(TopicRecord::decode(d, version)?),
            PARTITION => MetadataRecord::Partition(PartitionRecord::decode(d, version)?),
            REMOVE_TOPIC => MetadataRecord::RemoveTopic(RemoveTopicRecord::decode(d, version)?),
            CONFIG => {
                let body = ConfigRecord::decode(d, version)?;
                let resource = resource_of(&body).ok_or(RecordError::UnknownResource(body.resource_type))?;
                MetadataRecord::Config(resource, body)
            }
            PRODUCER_IDS => MetadataRecord::ProducerIds(ProducerIdsRecord::decode(d, version)?),
            FEATURE_LEVEL => MetadataRecord::FeatureLevel(FeatureLevelRecord::decode(d, version)?),
            REGISTER_BROKER => MetadataRecord::RegisterBroker(RegisterBrokerRecord::decode(d, version)?),
            unknown => return Err(RecordError::UnknownType(unknown)),
        };
        match decoder.remaining() {
            0 => Ok(record),
            trailing => Err(RecordError::TrailingBytes(trailing)),
        }
    }
}

fn framed(record_type: u32, version: i16, body: &impl Message) -> Bytes {
    let mut encoder = Encoder::new();
    encoder.unsigned_varint(FRAME_VERSION);
    encoder.unsigned_varint(record_type);
    encoder.unsigned_varint(version as u32);
    body.encode(&mut encoder, version);
    encoder.into_bytes()
}
