//! Settings kept in the metadata: of topics, of single brokers, of all brokers, of groups.
//!
//! Which keys exist and which values they take is not known here but in the settings table, which comes as
//! [`ConfigRules`]. A resource changes as a whole or not at all. One key has a meaning for partitions: whoever became eligible
//! under another `min.insync.replicas` may lack what is acknowledged under the new one, and is eligible no more.

use std::collections::{BTreeMap, BTreeSet};

use wire::messages::config_record::ConfigRecord;
use wire::messages::partition_change_record::PartitionChangeRecord;
use wire::{BrokerId, Str};

use super::topics::config_record;
use super::{Decision, Image, MetadataRecord, Mode, Refusal, Topic};

/// The key that decides how many must be in sync.
pub const MIN_ISR_KEY: &str = "min.insync.replicas";

/// What settings can belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceKind {
    /// A topic, by name.
    Topic,
    /// A broker, by id; with an empty name, all of them.
    Broker,
    /// A subscription to client metrics, by name (KIP-714).
    ClientMetrics,
    /// A consumer group, by id (KIP-848).
    Group,
}

impl ResourceKind {
    /// The kind's number in the protocol and in records.
    pub fn code(self) -> i8 {
        match self {
            ResourceKind::Topic => 2,
            ResourceKind::Broker => 4,
            ResourceKind::ClientMetrics => 16,
            ResourceKind::Group => 32,
        }
    }

    /// The kind with this number. Broker loggers (8) are not kept in the metadata.
    pub fn from_code(code: i8) -> Option<Self> {
        let kinds =
            [ResourceKind::Topic, ResourceKind::Broker, ResourceKind::ClientMetrics, ResourceKind::Group];
        kinds.into_iter().find(|kind| kind.code() == code)
    }
}

/// Something that settings belong to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConfigResource {
    /// Its kind.
    pub kind: ResourceKind,
    /// Its name; what that is depends on the kind.
    pub name: Str,
}

impl ConfigResource {
    /// A topic.
    pub fn topic(name: Str) -> Self {
        ConfigResource { kind: ResourceKind::Topic, name }
    }

    /// A group.
    pub fn group(name: Str) -> Self {
        ConfigResource { kind: ResourceKind::Group, name }
    }

    /// One broker.
    pub fn broker(id: BrokerId) -> Self {
        ConfigResource { kind: ResourceKind::Broker, name: Str::from(id.0.to_string()) }
    }

    /// All brokers that have no value of their own.
    pub fn cluster_default() -> Self {
        ConfigResource { kind: ResourceKind::Broker, name: Str::default() }
    }
}

/// The settings table, as far as decisions need it.
pub trait ConfigRules {
    /// Checks everything that would be set for a resource after a change. The error is for the user: key, value, what
    /// is allowed.
    fn check(&self, resource: &ConfigResource, values: &BTreeMap<Str, Str>) -> Result<(), String>;

    /// Whether a key holds a comma-separated list, to which values can be added and taken away.
    fn is_list(&self, kind: ResourceKind, key: &str) -> bool;

    /// What a list key holds when it is not set.
    fn list_default(&self, kind: ResourceKind, key: &str) -> Option<Str>;
}

/// What decisions about partitions have to know of a topic's settings.
pub trait TopicRules {
    /// The settings that hold for a topic now, those of the brokers included.
    fn rule(&self, image: &Image, topic: &Str) -> TopicRule;
}

/// Some settings of one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicRule {
    /// `min.insync.replicas`
    pub min_insync_replicas: usize,
    /// `unclean.leader.election.enable`
    pub unclean_election: bool,
    /// `flush.before.ack`
    pub flush_before_ack: bool,
}

impl TopicRule {
    /// How many have to be in sync for anything to be acknowledged, in a partition with this many replicas.
    pub fn isr_min(&self, replicas: usize) -> usize {
        self.min_insync_replicas.min(replicas).max(1)
    }
}

/// One change of one key (KIP-339).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigOp {
    /// Set it.
    Set(Str),
    /// Back to the default.
    Delete,
    /// Add values to a list.
    Append(Str),
    /// Take values from a list.
    Subtract(Str),
}

impl ConfigOp {
    /// The operation with this number in the protocol.
    pub fn from_wire(code: i8, key: &str, value: Option<Str>) -> Result<Self, Refusal> {
        let valued: fn(Str) -> ConfigOp = match code {
            0 => ConfigOp::Set,
            1 => return Ok(ConfigOp::Delete),
            2 => ConfigOp::Append,
            3 => ConfigOp::Subtract,
            _ => return Err(Refusal::InvalidRequest(format!("Unknown operation type {code}"))),
        };
        let value =
            value.ok_or_else(|| Refusal::InvalidRequest(format!("Null value not supported for : {key}")))?;
        Ok(valued(value))
    }
}

/// Changes of some keys of one resource; the others stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlterConfigs {
    /// The resource.
    pub resource: ConfigResource,
    /// Key by key.
    pub ops: Vec<(Str, ConfigOp)>,
}

/// All keys of one resource at once; others are unset (the older AlterConfigs).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplaceConfigs {
    /// The resource.
    pub resource: ConfigResource,
    /// Key by key.
    pub values: Vec<(Str, Str)>,
}

impl Image {
    /// Decides an IncrementalAlterConfigs request. One answer per resource, in the order of the request.
    pub fn alter_configs(
        &self,
        changes: &[AlterConfigs],
        mode: Mode,
        rules: &dyn ConfigRules,
    ) -> Decision<Vec<Result<(), Refusal>>> {
        let resources: Vec<&ConfigResource> = changes.iter().map(|change| &change.resource).collect();
        self.decide_configs(&resources, mode, rules, |index| {
            let AlterConfigs { resource, ops } = &changes[index];
            once_each_key(ops.iter().map(|(key, _)| key))?;
            let changed =
                ops.iter().map(|(key, op)| Ok((key.clone(), self.changed_value(resource, key, op, rules)?)));
            changed.collect()
        })
    }

    /// Decides an AlterConfigs request, likewise.
    pub fn replace_configs(
        &self,
        changes: &[ReplaceConfigs],
        mode: Mode,
        rules: &dyn ConfigRules,
    ) -> Decision<Vec<Result<(), Refusal>>> {
        let resources: Vec<&ConfigResource> = changes.iter().map(|change| &change.resource).collect();
        self.decide_configs(&resources, mode, rules, |index| {
            let ReplaceConfigs { resource, values } = &changes[index];
            once_each_key(values.iter().map(|(key, _)| key))?;
            let unset = self.configs(resource).map(|(key, _)| (key.clone(), None));
            let set = values.iter().map(|(key, value)| (key.clone(), Some(value.clone())));
            Ok(unset.chain(set).collect())
        })
    }

    /// Makes a controller's own `min.insync.replicas` that of the cluster, where the cluster has none. Eligibility stands on
    /// it: a leader that goes by a smaller one acknowledges what those who are eligible lack (KIP-966).
    pub fn settle_min_isr(&self, value: Str) -> Decision<()> {
        let resource = ConfigResource::cluster_default();
        if self.config(&resource, MIN_ISR_KEY).is_some() {
            return Decision { records: Vec::new(), reply: () };
        }
        let mut records = vec![config_record(&resource, Str::from(MIN_ISR_KEY), Some(value))];
        records.extend(self.no_longer_eligible(&records));
        Decision { records, reply: () }
    }

    fn decide_configs(
        &self,
        resources: &[&ConfigResource],
        mode: Mode,
        rules: &dyn ConfigRules,
        changed_keys: impl Fn(usize) -> Result<BTreeMap<Str, Option<Str>>, Refusal>,
    ) -> Decision<Vec<Result<(), Refusal>>> {
        let mut times: BTreeMap<&ConfigResource, usize> = BTreeMap::new();
        for resource in resources {
            *times.entry(resource).or_default() += 1;
        }
        let mut records = Vec::new();
        let mut reply = Vec::with_capacity(resources.len());
        for (index, resource) in resources.iter().enumerate() {
            let decided = if times[resource] > 1 {
                Err(Refusal::InvalidRequest("Each resource must appear at most once.".to_owned()))
            } else {
                changed_keys(index).and_then(|changed| self.config_records(resource, changed, rules))
            };
            reply.push(decided.map(|decided| records.extend(decided)));
        }
        records.extend(self.no_longer_eligible(&records));
        match mode {
            Mode::Apply => Decision { records, reply },
            Mode::ValidateOnly => Decision { records: Vec::new(), reply },
        }
    }

    fn config_records(
        &self,
        resource: &ConfigResource,
        changed: BTreeMap<Str, Option<Str>>,
        rules: &dyn ConfigRules,
    ) -> Result<Vec<MetadataRecord>, Refusal> {
        self.check_resource(resource)?;
        let mut after: BTreeMap<Str, Str> =
            self.configs(resource).map(|(key, value)| (key.clone(), value.clone())).collect();
        for (key, value) in &changed {
            match value {
                Some(value) => after.insert(key.clone(), value.clone()),
                None => after.remove(key),
            };
        }
        rules.check(resource, &after).map_err(Refusal::InvalidConfig)?;
        let differs = |key: &Str, value: &Option<Str>| self.config(resource, key) != value.as_ref();
        let changed = changed.into_iter().filter(|(key, value)| differs(key, value));
        Ok(changed.map(|(key, value)| config_record(resource, key, value)).collect())
    }

    /// Takes eligibility away where `min.insync.replicas` changes (KIP-966). Where nobody is in sync, nothing was
    /// acknowledged since under either value, and those who are eligible stay so.
    fn no_longer_eligible(&self, changes: &[MetadataRecord]) -> Vec<MetadataRecord> {
        let changed = changes.iter().filter_map(|change| match change {
            MetadataRecord::Config(resource, record) if &*record.name == MIN_ISR_KEY => Some(resource),
            _ => None,
        });
        let changed: BTreeSet<&ConfigResource> = changed.collect();
        if changed.is_empty() {
            return Vec::new();
        }
        let everywhere = changed.iter().any(|resource| resource.kind == ResourceKind::Broker);
        let is_changed = |topic: &&Topic| changed.contains(&ConfigResource::topic(topic.name.clone()));
        let topics = self.topics().filter(|topic| everywhere || is_changed(topic));
        let partitions = topics.flat_map(|topic| topic.partitions().map(|(id, of)| (topic.id, id, of)));
        let stale = partitions.filter(|(_, _, of)| !of.isr.is_empty() && !of.elr.is_empty());
        let records = stale.map(|(topic_id, id, _)| PartitionChangeRecord {
            partition_id: id.0,
            topic_id,
            eligible_leader_replicas: Some(Vec::new()),
            ..Default::default()
        });
        records.map(MetadataRecord::PartitionChange).collect()
    }

    fn check_resource(&self, resource: &ConfigResource) -> Result<(), Refusal> {
        match resource.kind {
            ResourceKind::Topic if self.topic(&resource.name).is_none() => {
                Err(Refusal::UnknownResource(resource.name.clone()))
            }
            ResourceKind::Broker if !resource.name.is_empty() => match resource.name.parse().map(BrokerId) {
                Ok(id) if self.broker(id).is_some() => Ok(()),
                Ok(id) => Err(Refusal::UnknownBroker(id)),
                Err(_) => {
                    let why = format!("Node id must be an integer, but it is: {}", resource.name);
                    Err(Refusal::InvalidRequest(why))
                }
            },
            ResourceKind::Topic
            | ResourceKind::Broker
            | ResourceKind::ClientMetrics
            | ResourceKind::Group => Ok(()),
        }
    }

    fn changed_value(
        &self,
        resource: &ConfigResource,
        key: &Str,
        op: &ConfigOp,
        rules: &dyn ConfigRules,
    ) -> Result<Option<Str>, Refusal> {
        let list = |verb: &str| {
            if !rules.is_list(resource.kind, key) {
                let why = format!("Can't {verb} to key {key} because its type is not LIST.");
                return Err(Refusal::InvalidConfig(why));
            }
            Ok(self
                .config(resource, key)
                .cloned()
                .or_else(|| rules.list_default(resource.kind, key))
                .unwrap_or_default())
        };
        match op {
            ConfigOp::Set(value) => Ok(Some(value.clone())),
            ConfigOp::Delete => Ok(None),
            ConfigOp::Append(added) => {
                let before = list("APPEND")?;
                let mut there = BTreeSet::new();
                let values = before.split(',').chain(added.split(','));
                let values = values.filter(|value| !value.is_empty() && there.insert(*value));
                Ok(Some(Str::from(values.collect::<Vec<_>>().join(","))))
            }
            ConfigOp::Subtract(removed) => {
                let before = list("SUBTRACT")?;
                let removed: BTreeSet<&str> = removed.split(',').collect();
                let kept = before.split(',').filter(|value| !value.is_empty() && !removed.contains(value));
                Ok(Some(Str::from(kept.collect::<Vec<_>>().join(","))))
            }
        }
    }
}

fn once_each_key<'a>(keys: impl Iterator<Item = &'a Str>) -> Result<(), Refusal> {
    let mut seen = BTreeSet::new();
    for key in keys {
        if !seen.insert(key) {
            return Err(Refusal::InvalidRequest("Error due to duplicate config keys".to_owned()));
        }
    }
    Ok(())
}

/// The resource that a record speaks of.
pub(super) fn resource_of(record: &ConfigRecord) -> Option<ConfigResource> {
    let kind = ResourceKind::from_code(record.resource_type)?;
    Some(ConfigResource { kind, name: Str::copy_from(&record.resource_name) })
}
