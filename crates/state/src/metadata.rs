//! The cluster's metadata: topics, partitions, configs, quotas, brokers, producer ids, features.
//!
//! An [`Image`] is what the metadata records up to one offset say, and nothing else: the same records give the same image
//! on every broker. It is persistent (a clone shares everything with its original), so that readers hold one for as long
//! as they like. Decisions borrow an image and return records; only [`Image::apply`] changes one, and it cannot fail.

mod brokers;
mod fencing;
mod topics;
mod placement;
mod names;
mod partitions;
mod elections;
mod reassignments;
mod change;
mod configs;
mod quotas;
mod record;
mod snapshot;
mod refusal;

#[cfg(test)]
mod broker_tests;
#[cfg(test)]
mod config_tests;
#[cfg(test)]
mod history_tests;
#[cfg(test)]
mod partition_tests;
#[cfg(test)]
mod quota_tests;
#[cfg(test)]
mod record_tests;
#[cfg(test)]
mod safety_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod topic_tests;

use std::sync::Arc;

use rpds::RedBlackTreeMapSync;
use wire::messages::broker_registration_change_record::BrokerRegistrationChangeRecord;
use wire::messages::config_record::ConfigRecord;
use wire::messages::partition_change_record::PartitionChangeRecord;
use wire::messages::partition_record::PartitionRecord;
use wire::messages::register_broker_record::RegisterBrokerRecord;
use wire::messages::topic_record::TopicRecord;
use wire::{BrokerId, LeaderEpoch, PartitionId, ProducerId, Str, Uuid};

pub use self::brokers::{Broker, Endpoint, FeatureRange, ProducerIdBlock, RegisterBroker, Registered};
pub use self::change::Changes;
pub use self::configs::{
    AlterConfigs, ConfigOp, ConfigResource, ConfigRules, MIN_ISR_KEY, ReplaceConfigs, ResourceKind,
    TopicRule, TopicRules,
};
pub use self::elections::Election;
pub use self::fencing::OutOfService;
pub use self::names::check_topic_name;
pub use self::partitions::{AlterPartition, EPOCH_UNKNOWN};
pub use self::quotas::{
    AlterQuotas, ClientQuota, QuotaEntity, QuotaFilter, QuotaKey, QuotaName, QuotaSharing,
};
pub use self::reassignments::{Reassigned, Reassignment};
pub use self::record::{MetadataRecord, RecordError};
pub use self::refusal::{NameError, Refusal};
pub use self::topics::{
    CreatePartitions, CreateTopic, CreatedTopic, DeleteTopic, DeletedTopic, TopicDefaults,
};

/// Records to commit, and what to answer once they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision<R> {
    /// To be appended together, in this order.
    pub records: Vec<MetadataRecord>,
    /// The answer.
    pub reply: R,
}

/// Whether a command is to be carried out or only checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Return the records.
    Apply,
    /// Return the answer without the records (`validate_only`).
    ValidateOnly,
}

/// One partition: who has it, and who leads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// The leader, or `None` while nobody may lead.
    pub leader: Option<BrokerId>,
    /// Rises with every new leader.
    pub leader_epoch: LeaderEpoch,
    /// Rises with every change of the partition.
    pub partition_epoch: i32,
    /// All replicas, the preferred leader first; while a reassignment is under way, those to be removed come last.
    pub replicas: Arc<[BrokerId]>,
    /// Those in sync. Nobody, when the last of them was fenced.
    pub isr: Arc<[BrokerId]>,
    /// Replicas that a reassignment adds.
    pub adding: Arc<[BrokerId]>,
    /// Replicas that a reassignment takes away.
    pub removing: Arc<[BrokerId]>,
    /// Eligible leader replicas (KIP-966): out of sync, and yet sure to hold everything that was acknowledged, because
    /// since they left there were never enough in sync to acknowledge more.
    pub elr: Arc<[BrokerId]>,
    /// While nobody is in sync or eligible: who was last, and lost its copy or was unregistered.
    pub last_known_elr: Arc<[BrokerId]>,
}

/// One topic and its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: Str,
    /// Its id, never reused for another topic of the same name.
    pub id: Uuid,
    partitions: RedBlackTreeMapSync<PartitionId, Partition>,
}

impl Topic {
    /// Partitions by id.
    pub fn partitions(&self) -> impl Iterator<Item = (PartitionId, &Partition)> {
        self.partitions.iter().map(|(id, partition)| (*id, partition))
    }

    /// One partition.
    pub fn partition(&self, id: PartitionId) -> Option<&Partition> {
        self.partitions.get(&id)
    }

    /// Number of partitions; their ids are 0 up to this.
    pub fn partition_count(&self) -> usize {
        self.partitions.size()
    }

    /// Number of replicas of the first partition, which stands for all. What a reassignment takes away does not count.
    pub fn replication_factor(&self) -> usize {
        self.partitions
            .first()
            .map_or(0, |(_, partition)| partition.replicas.len() - partition.removing.len())
    }
}

/// The metadata of the cluster as of one record. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    topics: RedBlackTreeMapSync<Str, Topic>,
    names: RedBlackTreeMapSync<Uuid, Str>,
    /// Topics with '.' or '_' in their names, by the name in which the two are one.
    collisions: RedBlackTreeMapSync<Str, Str>,
    configs: RedBlackTreeMapSync<ConfigResource, RedBlackTreeMapSync<Str, Str>>,
    quotas: quotas::Quotas,
    brokers: RedBlackTreeMapSync<BrokerId, Arc<Broker>>,
    features: RedBlackTreeMapSync<Str, i16>,
    next_producer_id: ProducerId,
    partition_count: usize,
}

impl Default for Image {
    fn default() -> Self {
        Image {
            topics: RedBlackTreeMapSync::new_sync(),
            names: RedBlackTreeMapSync::new_sync(),
            collisions: RedBlackTreeMapSync::new_sync(),
            configs: RedBlackTreeMapSync::new_sync(),
            quotas: RedBlackTreeMapSync::new_sync(),
            brokers: RedBlackTreeMapSync::new_sync(),
            features: RedBlackTreeMapSync::new_sync(),
            next_producer_id: ProducerId(0),
            partition_count: 0,
        }
    }
}

impl Image {
    /// Topics by name.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topics.values()
    }

    /// Number of topics.
    pub fn topic_count(&self) -> usize {
        self.topics.size()
    }

    /// Number of partitions of all topics.
    pub fn partition_count(&self) -> usize {
        self.partition_count
    }

    /// A topic by its name.
    pub fn topic(&self, name: &str) -> Option<&Topic> {
        self.topics.get(name)
    }

    /// A topic by its id.
    pub fn topic_by_id(&self, id: Uuid) -> Option<&Topic> {
        self.topics.get(self.names.get(&id)?)
    }

    /// One partition of a topic.
    pub fn partition(&self, topic: &str, id: PartitionId) -> Option<&Partition> {
        self.topic(topic)?.partition(id)
    }

    /// Partitions of which a broker has a replica, by topic name and partition id. Looks at every partition.
    pub fn partitions_of(&self, broker: BrokerId) -> impl Iterator<Item = (&Topic, PartitionId, &Partition)> {
        self.all_partitions().filter(move |(_, _, partition)| partition.replicas.contains(&broker))
    }

    /// All partitions, likewise.
    pub(crate) fn all_partitions(&self) -> impl Iterator<Item = (&Topic, PartitionId, &Partition)> {
        self.topics().flat_map(|topic| topic.partitions().map(move |(id, partition)| (topic, id, partition)))
    }

    /// What was set for a resource, by key; defaults are not here.
    pub fn configs(&self, resource: &ConfigResource) -> impl Iterator<Item = (&Str, &Str)> {
        self.configs.get(resource).into_iter().flat_map(RedBlackTreeMapSync::iter)
    }

    /// One value that was set for a resource.
    pub fn config(&self, resource: &ConfigResource, key: &str) -> Option<&Str> {
        self.configs.get(resource)?.get(key)
    }

    /// Resources of a kind for which anything was set.
    pub fn configured(&self, kind: ResourceKind) -> impl Iterator<Item = &ConfigResource> {
        self.configs.keys().filter(move |resource| resource.kind == kind)
    }

    /// One value that was set for a group.
    pub fn group_config(&self, group: &str, key: &str) -> Option<&Str> {
        self.config(&ConfigResource::group(Str::copy_from(group)), key)
    }

    /// Registered brokers by id.
    pub fn brokers(&self) -> impl Iterator<Item = &Broker> {
        self.brokers.values().map(|broker| &**broker)
    }

    /// One registered broker.
    pub fn broker(&self, id: BrokerId) -> Option<&Broker> {
        self.brokers.get(&id).map(|broker| &**broker)
    }

    /// Finalized features and their levels.
    pub fn features(&self) -> impl Iterator<Item = (&Str, i16)> {
        self.features.iter().map(|(name, level)| (name, *level))
    }

    /// The first producer id that no broker has been given.
    pub fn next_producer_id(&self) -> ProducerId {
        self.next_producer_id
    }

    /// Takes over one committed record. That a record fits the image was decided before it was committed; one that does
    /// not is a bug.
    pub fn apply(&mut self, record: &MetadataRecord) {
        match record {
            MetadataRecord::Topic(record) => self.apply_topic(record),
            MetadataRecord::Partition(record) => self.apply_partition(record),
            MetadataRecord::RemoveTopic(record) => self.remove_topic(record.topic_id),
            MetadataRecord::Config(resource, record) => self.apply_config(resource, record),
            MetadataRecord::ClientQuota(entity, record) => self.apply_quota(entity, record),
            MetadataRecord::ProducerIds(record) => {
                assert!(
                    self.next_producer_id.0 <= record.next_producer_id,
                    "producer ids are given out once"
                );
                self.next_producer_id = ProducerId(record.next_producer_id);
            }
            MetadataRecord::FeatureLevel(record) if record.feature_level == 0 => {
                self.features.remove_mut(&record.name);
            }
            MetadataRecord::FeatureLevel(record) => {
                self.features.insert_mut(Str::copy_from(&record.name), record.feature_level);
            }
            MetadataRecord::RegisterBroker(record) => self.apply_registration(record),
            MetadataRecord::PartitionChange(record) => self.apply_partition_change(record),
            MetadataRecord::BrokerRegistrationChange(record) => self.apply_registration_change(record),
            MetadataRecord::UnregisterBroker(record) => {
                let was_there = self.brokers.remove_mut(&BrokerId(record.broker_id));
                assert!(was_there, "a broker is unregistered once");
            }
            MetadataRecord::NoOp(_) => {}
        }
        assert!(self.topics.size() == self.names.size());
    }

    fn apply_topic(&mut self, record: &TopicRecord) {
        let name = Str::copy_from(&record.name);
        assert!(!self.topics.contains_key(&name), "topic names are unique");
        assert!(!self.names.contains_key(&record.topic_id), "topic ids are unique");
        if let Some(normalized) = names::collision_key(&name) {
            self.collisions.insert_mut(normalized, name.clone());
        }
        self.names.insert_mut(record.topic_id, name.clone());
        let partitions = RedBlackTreeMapSync::new_sync();
        self.topics.insert_mut(name.clone(), Topic { name, id: record.topic_id, partitions });
    }

    fn apply_partition(&mut self, record: &PartitionRecord) {
        let name = self.names.get(&record.topic_id).expect("a partition's topic comes before it");
        let topic = self.topics.get_mut(name).expect("every name has its topic");
        let id = PartitionId(record.partition_id);
        let partition = Partition::from(record);
        partition.assert_sound();
        match topic.partitions.get(&id) {
            Some(before) => {
                assert!(before.leader_epoch <= partition.leader_epoch, "leader epochs never fall")
            }
            None => self.partition_count += 1,
        }
        topic.partitions.insert_mut(id, partition);
    }

    fn apply_partition_change(&mut self, record: &PartitionChangeRecord) {
        let name = self.names.get(&record.topic_id).expect("a partition's topic comes before it");
        let topic = self.topics.get_mut(name).expect("every name has its topic");
        let id = PartitionId(record.partition_id);
        let before = topic.partitions.get(&id).expect("a partition is made before it changes");
        let partition = before.changed_by(record);
        partition.assert_sound();
        assert!(before.leader_epoch <= partition.leader_epoch, "leader epochs never fall");
        topic.partitions.insert_mut(id, partition);
    }

    fn apply_registration(&mut self, record: &RegisterBrokerRecord) {
        let broker = Broker::from(record);
        let before = self.broker(broker.id).map_or(broker.epoch, |before| before.epoch);
        assert!(before <= broker.epoch, "broker epochs never fall");
        self.brokers.insert_mut(broker.id, Arc::new(broker));
    }

    fn apply_registration_change(&mut self, record: &BrokerRegistrationChangeRecord) {
        let before = self.broker(BrokerId(record.broker_id)).expect("a broker registers before it changes");
        let broker = before.changed_by(record);
        self.brokers.insert_mut(broker.id, Arc::new(broker));
    }

    /// A topic takes its partitions and configs with it.
    fn remove_topic(&mut self, id: Uuid) {
        let name = self.names.get(&id).expect("a topic is removed once").clone();
        let topic = self.topics.get(&name).expect("every name has its topic");
        self.partition_count -= topic.partition_count();
        self.names.remove_mut(&id);
        self.topics.remove_mut(&name);
        if let Some(normalized) = names::collision_key(&name)
            && self.collisions.get(&normalized) == Some(&name)
        {
            self.collisions.remove_mut(&normalized);
        }
        self.configs.remove_mut(&ConfigResource::topic(name));
    }

    fn apply_config(&mut self, resource: &ConfigResource, record: &ConfigRecord) {
        let mut values = self.configs.get(resource).cloned().unwrap_or_else(RedBlackTreeMapSync::new_sync);
        match &record.value {
            Some(value) => values.insert_mut(Str::copy_from(&record.name), Str::copy_from(value)),
            None => {
                values.remove_mut(&record.name);
            }
        }
        if values.is_empty() {
            self.configs.remove_mut(resource);
        } else {
            self.configs.insert_mut(resource.clone(), values);
        }
    }
}
