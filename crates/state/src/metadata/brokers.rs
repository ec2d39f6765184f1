//! Brokers of the cluster, what they finalized together, and the producer ids they hand out.
//!
//! A broker that starts anew gets a new epoch; whoever speaks with an older one is a former incarnation and is refused
//! (KIP-903). A producer id is given out once, also when the broker that got its block dies with most of it unused.

use wire::messages::feature_level_record::FeatureLevelRecord;
use wire::messages::producer_ids_record::ProducerIdsRecord;
use wire::messages::register_broker_record::{BrokerEndpoint, BrokerFeature, RegisterBrokerRecord};
use wire::{BrokerId, ProducerId, Str, Uuid};

use super::{Decision, Image, MetadataRecord, Refusal};

/// Producer ids in one block.
const PRODUCER_ID_BLOCK_SIZE: i64 = 1_000;

/// Where a broker listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Name of the listener.
    pub listener: Str,
    /// Host that clients are told.
    pub host: Str,
    /// Port that clients are told.
    pub port: u16,
    /// Kafka's number of the security protocol; 0 is plain text.
    pub security_protocol: i16,
}

/// Levels of a feature that a broker can work with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureRange {
    /// Name of the feature, such as `metadata.version`.
    pub name: Str,
    /// Lowest level.
    pub min: i16,
    /// Highest level.
    pub max: i16,
}

/// A registered broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// Its id.
    pub id: BrokerId,
    /// Which start of the process registered.
    pub incarnation_id: Uuid,
    /// Rises with every incarnation.
    pub epoch: i64,
    /// Where it listens.
    pub endpoints: Vec<Endpoint>,
    /// What it can work with.
    pub features: Vec<FeatureRange>,
    /// Where it stands.
    pub rack: Option<Str>,
    /// Not heard of, or not caught up: it gets no leadership and clients are not told of it.
    pub fenced: bool,
    /// About to leave.
    pub in_controlled_shutdown: bool,
}

impl Broker {
    /// Whether it may lead partitions.
    pub fn is_active(&self) -> bool {
        !self.fenced && !self.in_controlled_shutdown
    }
}

impl From<&RegisterBrokerRecord> for Broker {
    fn from(record: &RegisterBrokerRecord) -> Self {
        let endpoints = record.end_points.iter().map(|endpoint| Endpoint {
            listener: Str::copy_from(&endpoint.name),
            host: Str::copy_from(&endpoint.host),
            port: endpoint.port,
            security_protocol: endpoint.security_protocol,
        });
        let features = record.features.iter().map(|feature| FeatureRange {
            name: Str::copy_from(&feature.name),
            min: feature.min_supported_version,
            max: feature.max_supported_version,
        });
        Broker {
            id: BrokerId(record.broker_id),
            incarnation_id: record.incarnation_id,
            epoch: record.broker_epoch,
            endpoints: endpoints.collect(),
            features: features.collect(),
            rack: record.rack.as_deref().map(Str::copy_from),
            fenced: record.fenced,
            in_controlled_shutdown: record.in_controlled_shutdown,
        }
    }
}

/// A broker that starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterBroker {
    /// Its id.
    pub id: BrokerId,
    /// New for every start of the process.
    pub incarnation_id: Uuid,
    /// Where it listens.
    pub endpoints: Vec<Endpoint>,
    /// What it can work with.
    pub features: Vec<FeatureRange>,
    /// Where it stands.
    pub rack: Option<Str>,
    /// Ids of its data directories.
    pub log_dirs: Vec<Uuid>,
    /// Whether it has to prove itself before it may lead; a cluster of one has nobody to prove it to.
    pub fenced: bool,
}

/// Producer ids for one broker to hand out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerIdBlock {
    /// The first.
    pub first: ProducerId,
    /// How many.
    pub count: i32,
}

impl Image {
    /// Registers a broker and gives it its epoch: a new one for a new incarnation, the same for a repeated request.
    pub fn register_broker(&self, command: &RegisterBroker) -> Result<Decision<i64>, Refusal> {
        for (feature, level) in self.features() {
            let range = command.features.iter().find(|range| range.name == *feature);
            if !range.is_some_and(|range| (range.min..=range.max).contains(&level)) {
                return Err(Refusal::InvalidRequest(format!(
                    "Unable to register because the broker does not support finalized version {level} of {feature}."
                )));
            }
        }
        let existing = self.broker(command.id);
        let epoch = match existing {
            Some(broker) if broker.incarnation_id == command.incarnation_id => broker.epoch,
            Some(_) | None => self.brokers().map(|broker| broker.epoch).max().unwrap_or(0) + 1,
        };
        let end_points = command.endpoints.iter().map(|endpoint| BrokerEndpoint {
            name: endpoint.listener.clone(),
            host: endpoint.host.clone(),
            port: endpoint.port,
            security_protocol: endpoint.security_protocol,
        });
        let features = command.features.iter().map(|feature| BrokerFeature {
            name: feature.name.clone(),
            min_supported_version: feature.min,
            max_supported_version: feature.max,
        });
        let record = RegisterBrokerRecord {
            broker_id: command.id.0,
            incarnation_id: command.incarnation_id,
            broker_epoch: epoch,
            end_points: end_points.collect(),
            features: features.collect(),
            rack: command.rack.clone(),
            fenced: command.fenced,
            log_dirs: command.log_dirs.clone(),
            ..Default::default()
        };
        Ok(Decision { records: vec![MetadataRecord::RegisterBroker(record)], reply: epoch })
    }

    /// Gives a broker a block of producer ids.
    pub fn allocate_producer_ids(
        &self,
        id: BrokerId,
        epoch: i64,
    ) -> Result<Decision<ProducerIdBlock>, Refusal> {
        let broker = self.broker(id).ok_or(Refusal::UnknownBroker(id))?;
        if broker.epoch != epoch {
            return Err(Refusal::StaleBrokerEpoch { expected: broker.epoch, actual: epoch });
        }
        let first = self.next_producer_id;
        let next = first.0.checked_add(PRODUCER_ID_BLOCK_SIZE).ok_or(Refusal::ProducerIdsExhausted)?;
        let record = ProducerIdsRecord { broker_id: id.0, broker_epoch: epoch, next_producer_id: next };
        Ok(Decision {
            records: vec![MetadataRecord::ProducerIds(record)],
            reply: ProducerIdBlock { first, count: PRODUCER_ID_BLOCK_SIZE as i32 },
        })
    }

    /// Finalizes a feature at a level, or with level 0 takes it back.
    pub fn set_feature(&self, name: &str, level: i16) -> Decision<()> {
        let unchanged = self.features.get(name).copied().unwrap_or(0) == level;
        let record = FeatureLevelRecord { name: Str::copy_from(name), feature_level: level };
        let records = if unchanged { Vec::new() } else { vec![MetadataRecord::FeatureLevel(record)] };
        Decision { records, reply: () }
    }
}
