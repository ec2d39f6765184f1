//! Metadata records as bytes, in the framing and schemas of Kafka's own metadata log.
//!
//! A value is: unsigned varint frame version (1), unsigned varint record type, unsigned varint schema version, and the
//! body. What cannot be applied later is refused here: a decoded record is one that [`super::Image::apply`] understands.

use bytes::Bytes;
use wire::messages::broker_registration_change_record::BrokerRegistrationChangeRecord;
use wire::messages::client_quota_record::ClientQuotaRecord;
use wire::messages::config_record::ConfigRecord;
use wire::messages::feature_level_record::FeatureLevelRecord;
use wire::messages::no_op_record::NoOpRecord;
use wire::messages::partition_change_record::PartitionChangeRecord;
use wire::messages::partition_record::PartitionRecord;
use wire::messages::producer_ids_record::ProducerIdsRecord;
use wire::messages::register_broker_record::RegisterBrokerRecord;
use wire::messages::remove_topic_record::RemoveTopicRecord;
use wire::messages::topic_record::TopicRecord;
use wire::messages::unregister_broker_record::UnregisterBrokerRecord;
use wire::{DecodeError, Decoder, Encoder, Message};

use super::configs::{ConfigResource, resource_of};
use super::quotas::{QuotaEntity, entity_of};

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
    /// A quota is set or removed.
    ClientQuota(QuotaEntity, ClientQuotaRecord),
    /// Producer ids below this one are given out.
    ProducerIds(ProducerIdsRecord),
    /// A feature is finalized at a level.
    FeatureLevel(FeatureLevelRecord),
    /// A broker as it is from now on.
    RegisterBroker(RegisterBrokerRecord),
    /// What of a partition is different from now on.
    PartitionChange(PartitionChangeRecord),
    /// A broker is fenced, let in again, or about to stop.
    BrokerRegistrationChange(BrokerRegistrationChangeRecord),
    /// A broker is gone for good.
    UnregisterBroker(UnregisterBrokerRecord),
    /// Nothing: it shows that a controller can still commit.
    NoOp(NoOpRecord),
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
    /// A quota of nobody, or one that is no number.
    #[error("metadata record of a quota: {0}")]
    InvalidQuota(String),
    /// More bytes than the schema has fields.
    #[error("metadata record has {0} bytes too many")]
    TrailingBytes(usize),
    /// The bytes are not what the schema says, or of a version from the future.
    #[error("metadata record does not decode: {0}")]
    Malformed(#[from] DecodeError),
}

// Record types: the schemas' api keys.
const REGISTER_BROKER: u32 = 0;
const UNREGISTER_BROKER: u32 = 1;
const TOPIC: u32 = 2;
const PARTITION: u32 = 3;
const CONFIG: u32 = 4;
const PARTITION_CHANGE: u32 = 5;
const REMOVE_TOPIC: u32 = 9;
const FEATURE_LEVEL: u32 = 12;
const CLIENT_QUOTA: u32 = 14;
const PRODUCER_IDS: u32 = 15;
const BROKER_REGISTRATION_CHANGE: u32 = 17;
const NO_OP: u32 = 20;

/// The version that knows data directories.
const REGISTER_BROKER_VERSION: i16 = 3;

/// The version that knows eligible leader replicas.
const PARTITION_ELR_VERSION: i16 = 2;

/// The version that knows data directories, and before it controlled shutdown.
const BROKER_REGISTRATION_CHANGE_VERSION: i16 = 2;

impl MetadataRecord {
    /// The record's value in the metadata log. It has no key.
    pub fn encode(&self) -> Bytes {
        match self {
            MetadataRecord::Topic(body) => framed(TOPIC, 0, body),
            MetadataRecord::Partition(body) => framed(PARTITION, partition_version(body), body),
            MetadataRecord::RemoveTopic(body) => framed(REMOVE_TOPIC, 0, body),
            MetadataRecord::Config(_, body) => framed(CONFIG, 0, body),
            MetadataRecord::ClientQuota(_, body) => framed(CLIENT_QUOTA, 0, body),
            MetadataRecord::ProducerIds(body) => framed(PRODUCER_IDS, 0, body),
            MetadataRecord::FeatureLevel(body) => framed(FEATURE_LEVEL, 0, body),
            MetadataRecord::RegisterBroker(body) => framed(REGISTER_BROKER, REGISTER_BROKER_VERSION, body),
            MetadataRecord::PartitionChange(body) => framed(PARTITION_CHANGE, PARTITION_ELR_VERSION, body),
            MetadataRecord::BrokerRegistrationChange(body) => {
                framed(BROKER_REGISTRATION_CHANGE, BROKER_REGISTRATION_CHANGE_VERSION, body)
            }
            MetadataRecord::UnregisterBroker(body) => framed(UNREGISTER_BROKER, 0, body),
            MetadataRecord::NoOp(body) => framed(NO_OP, 0, body),
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
            CLIENT_QUOTA => {
                let body = ClientQuotaRecord::decode(d, version)?;
                let entity = entity_of(&body).map_err(RecordError::InvalidQuota)?;
                MetadataRecord::ClientQuota(entity, body)
            }
            PRODUCER_IDS => MetadataRecord::ProducerIds(ProducerIdsRecord::decode(d, version)?),
            FEATURE_LEVEL => MetadataRecord::FeatureLevel(FeatureLevelRecord::decode(d, version)?),
            REGISTER_BROKER => MetadataRecord::RegisterBroker(RegisterBrokerRecord::decode(d, version)?),
            PARTITION_CHANGE => MetadataRecord::PartitionChange(PartitionChangeRecord::decode(d, version)?),
            BROKER_REGISTRATION_CHANGE => {
                let body = BrokerRegistrationChangeRecord::decode(d, version)?;
                MetadataRecord::BrokerRegistrationChange(body)
            }
            UNREGISTER_BROKER => {
                MetadataRecord::UnregisterBroker(UnregisterBrokerRecord::decode(d, version)?)
            }
            NO_OP => MetadataRecord::NoOp(NoOpRecord::decode(d, version)?),
            unknown => return Err(RecordError::UnknownType(unknown)),
        };
        match decoder.remaining() {
            0 => Ok(record),
            trailing => Err(RecordError::TrailingBytes(trailing)),
        }
    }
}

/// The oldest version that has room for everything in the record.
fn partition_version(record: &PartitionRecord) -> i16 {
    match record {
        PartitionRecord { eligible_leader_replicas: None, last_known_elr: None, directories, .. } => {
            i16::from(!directories.is_empty())
        }
        _ => PARTITION_ELR_VERSION,
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
