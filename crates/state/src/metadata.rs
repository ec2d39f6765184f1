//! The cluster's metadata: topics, partitions, configs, brokers, producer ids, features.
//!
//! An [`Image`] is what the metadata records up to one offset say, and nothing else: the same records give the same image
//! on every broker. It is persistent (a clone shares everything with its original), so that readers hold one for as long
//! as they like. Decisions borrow an image and return records; only [`Image::apply`] changes one, and it cannot fail.

mod brokers;
mod configs;
mod names;
mod placement;
mod record;
mod refusal;
mod topics;

#[cfg(test)]
mod config_tests;
#[cfg(test)]
mod history_tests;
#[cfg(test)]
mod record_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod topic_tests;

use std::sync::Arc;

use rpds::RedBlackTreeMapSync;
use wire::messages::config_record::ConfigRecord;
use wire::messages::partition_record::PartitionRecord;
use wire::messages::topic_record::TopicRecord;
use wire::{BrokerId, LeaderEpoch, PartitionId, ProducerId, Str, Uuid};

pub use self::brokers::{Broker, Endpoint, FeatureRange, ProducerIdBlock, RegisterBroker};
pub use self::configs::{AlterConfigs, ConfigOp, ConfigResource, ConfigRules, ReplaceConfigs, ResourceKind};
pub use self::names::check_topic_name;
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
    /// All replicas, the preferred leader first.
    pub replicas: Arc<[BrokerId]>,
    /// Those in sync.
    pub isr: Arc<[BrokerId]>,
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

    /// Number of replicas of the first partition, which stands for all.
    pub fn replication_factor(&self) -> usize {
        self.partitions.first().map_or(0, |(_, partition)| partition.replicas.len())
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

    /// What was set for a resource, by key; defaults are not here.
    pub fn configs(&self, resource: &ConfigResource) -> impl Iterator<Item = (&Str, &Str)> {
        self.configs.get(resource).into_iter().flat_map(RedBlackTreeMapSync::iter)
    }

    /// One value that was set for a resource.
    pub fn config(&self, resource: &ConfigResource, key: &str) -> Option<&Str> {
        self.configs.get(resource)?.get(key)
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
            MetadataRecord::RegisterBroker(record) => {
                let broker = Broker::from(record);
                self.brokers.insert_mut(broker.id, Arc::new(broker));
            }
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
        let partition = Partition {
            leader: (record.leader >= 0).then_some(BrokerId(record.leader)),
            leader_epoch: LeaderEpoch(record.leader_epoch),
            partition_epoch: record.partition_epoch,
            replicas: record.replicas.iter().copied().map(BrokerId).collect(),
            isr: record.isr.iter().copied().map(BrokerId).collect(),
        };
        let id = PartitionId(record.partition_id);
        self.partition_count += usize::from(!topic.partitions.contains_key(&id));
        topic.partitions.insert_mut(id, partition);
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
