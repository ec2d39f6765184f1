//! Brokers of the cluster, what they finalized together, and the producer ids they hand out.
//!
//! A broker that starts anew gets a new epoch; whoever speaks with an older one is a former incarnation and is refused
//! (KIP-903). A producer id is given out once, also when the broker that got its block dies with most of it unused.

use std::collections::BTreeMap;

use wire::messages::feature_level_record::FeatureLevelRecord;
use wire::messages::producer_ids_record::ProducerIdsRecord;
use wire::messages::register_broker_record::{BrokerEndpoint, BrokerFeature, RegisterBrokerRecord};
use wire::{BrokerId, PartitionId, ProducerId, Str, Uuid};

use super::change::{Changes, Draft, Incumbent, Wanted};
use super::{Decision, Image, MetadataRecord, Refusal, TopicRules};

/// Producer ids in one block.
const PRODUCER_ID_BLOCK_SIZE: i64 = 1_000;

/// Data directories of one broker that are remembered without being there.
const LOG_DIRS_MAX: usize = 1_000;

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
    /// Ids of its data directories.
    pub log_dirs: Vec<Uuid>,
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
            log_dirs: record.log_dirs.clone(),
        }
    }
}

impl From<&Broker> for RegisterBrokerRecord {
    fn from(broker: &Broker) -> Self {
        let end_points = broker.endpoints.iter().map(|endpoint| BrokerEndpoint {
            name: endpoint.listener.clone(),
            host: endpoint.host.clone(),
            port: endpoint.port,
            security_protocol: endpoint.security_protocol,
        });
        let features = broker.features.iter().map(|feature| BrokerFeature {
            name: feature.name.clone(),
            min_supported_version: feature.min,
            max_supported_version: feature.max,
        });
        RegisterBrokerRecord {
            broker_id: broker.id.0,
            incarnation_id: broker.incarnation_id,
            broker_epoch: broker.epoch,
            end_points: end_points.collect(),
            features: features.collect(),
            rack: broker.rack.clone(),
            fenced: broker.fenced,
            in_controlled_shutdown: broker.in_controlled_shutdown,
            log_dirs: broker.log_dirs.clone(),
            ..Default::default()
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
    /// Ids of its data directories that can be read.
    pub log_dirs: Vec<Uuid>,
    /// Whether there are others that cannot be read just now: what was in them is not lost.
    pub has_offline_dirs: bool,
    /// Partitions that it found in directories which are not new, each with the directory's id.
    pub held: BTreeMap<(Uuid, PartitionId), Uuid>,
    /// Whether it has to prove itself before it may lead; a cluster of one has nobody to prove it to.
    pub fenced: bool,
    /// The epoch that it had when it last stopped in order; -1 after a crash (KIP-966).
    pub previous_epoch: i64,
}

impl RegisterBroker {
    fn registered_with(&self, epoch: i64, before: Option<&Broker>) -> Broker {
        let mut log_dirs = self.log_dirs.clone();
        if self.has_offline_dirs {
            // Remembered, so that it is noticed when they are gone for good.
            let known = before.iter().flat_map(|before| &before.log_dirs);
            let unread = known.filter(|dir| !self.log_dirs.contains(dir)).take(LOG_DIRS_MAX);
            log_dirs.extend(unread);
        }
        Broker {
            id: self.id,
            incarnation_id: self.incarnation_id,
            epoch,
            endpoints: self.endpoints.clone(),
            features: self.features.clone(),
            rack: self.rack.clone(),
            fenced: self.fenced,
            in_controlled_shutdown: false,
            log_dirs,
        }
    }
}

/// A broker that will be registered once the records are committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The epoch that it speaks with from then on.
    pub epoch: i64,
    /// What became of its partitions.
    pub changes: Changes,
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
    /// Registers a broker and gives it its epoch: for a new incarnation `epoch`, which is larger than all before; for a
    /// repeated request the same as before. `is_alive` says whether the incarnation that is registered was heard of lately.
    ///
    /// What its disks no longer hold it is not eligible for: when one of them is missing, everything that was not found on
    /// the others, whatever is only on one that was away the last time, and after an unclean stop whatever was acknowledged before it was flushed. Where it was the
    /// last to hold that, it stays: there is no better copy. Flushed topics lose nothing by a crash, as replicas vote with
    /// what they have flushed.
    pub fn register_broker(
        &self,
        command: &RegisterBroker,
        epoch: i64,
        is_alive: bool,
        rules: &dyn TopicRules,
    ) -> Result<Decision<Registered>, Refusal> {
        for (feature, level) in self.features() {
            let range = command.features.iter().find(|range| range.name == *feature);
            if !range.is_some_and(|range| (range.min..=range.max).contains(&level)) {
                return Err(Refusal::InvalidRequest(format!(
                    "Unable to register because the broker does not support finalized version {level} of {feature}."
                )));
            }
        }
        let id = command.id;
        let before = self.broker(id);
        if let Some(before) = before {
            if before.incarnation_id == command.incarnation_id {
                let reply = Registered { epoch: before.epoch, changes: Changes::default() };
                return Ok(Decision { records: Vec::new(), reply });
            }
            if is_alive {
                return Err(Refusal::DuplicateBroker(id));
            }
            assert!(epoch > before.epoch, "the epochs of a broker rise");
        }
        let missing = |before: &Broker| before.log_dirs.iter().any(|dir| !command.log_dirs.contains(dir));
        let other_disk = !command.has_offline_dirs && before.is_some_and(missing);
        let unclean = before.is_some_and(|before| before.epoch != command.previous_epoch);
        let mut draft = Draft::new(self, rules);
        draft.push(MetadataRecord::RegisterBroker((&command.registered_with(epoch, before)).into()));
        draft.change_each_named(
            |partition| partition.replicas.contains(&id),
            |key, partition, rule| {
                let wanted = Wanted::unchanged(partition);
                let is_lost = match command.held.get(&key) {
                    // The replica went on without a directory that was not there the last time.
                    Some(dir) => before.is_some_and(|before| !before.log_dirs.contains(dir)),
                    None => other_disk,
                };
                let held_by_others = partition.isr.iter().chain(&*partition.elr).any(|other| *other != id);
                if is_lost || (unclean && !rule.flush_before_ack && held_by_others) {
                    return Some(wanted.losing(id));
                }
                if command.fenced {
                    return Some(wanted.out_of_sync(id));
                }
                let incumbent = match partition.leader == Some(id) && partition.replicas.len() > 1 {
                    true => Incumbent::StartsAnew,
                    false => Incumbent::Stays,
                };
                Some(Wanted { incumbent, ..wanted })
            },
        );
        let Decision { records, reply: changes } = draft.decided();
        Ok(Decision { records, reply: Registered { epoch, changes } })
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
