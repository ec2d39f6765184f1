//! An image as records, for a log that starts anew.
//!
//! Invariant: the records, applied to an empty image, give an equal one; their order is always the same for equal images.
//! They say nothing of how the image came about.

use wire::messages::feature_level_record::FeatureLevelRecord;
use wire::messages::partition_record::PartitionRecord;
use wire::messages::producer_ids_record::ProducerIdsRecord;
use wire::messages::register_broker_record::RegisterBrokerRecord;
use wire::messages::topic_record::TopicRecord;
use wire::{BrokerId, PartitionId, Str, Uuid};

use super::configs::{ConfigResource, ResourceKind};
use super::topics::config_record;
use super::{Image, MetadataRecord, Partition, Topic};

impl Image {
    /// Records that make this image out of [`Image::default`]: features, brokers, topics with their configs and
    /// partitions, other configs, quotas, producer ids.
    pub fn snapshot_records(&self) -> Vec<MetadataRecord> {
        let mut records = Vec::with_capacity(self.partition_count() + self.topic_count());
        records.extend(self.features().map(|(name, level)| {
            MetadataRecord::FeatureLevel(FeatureLevelRecord { name: name.clone(), feature_level: level })
        }));
        let brokers = self.brokers().map(RegisterBrokerRecord::from);
        records.extend(brokers.map(MetadataRecord::RegisterBroker));
        for topic in self.topics() {
            self.push_topic(topic, &mut records);
        }
        for resource in self.configs.keys().filter(|resource| resource.kind != ResourceKind::Topic) {
            self.push_configs(resource, &mut records);
        }
        self.push_quotas(&mut records);
        if self.next_producer_id.0 > 0 {
            records.push(MetadataRecord::ProducerIds(ProducerIdsRecord {
                broker_id: -1,
                broker_epoch: -1,
                next_producer_id: self.next_producer_id.0,
            }));
        }
        records
    }

    fn push_topic(&self, topic: &Topic, records: &mut Vec<MetadataRecord>) {
        records.push(MetadataRecord::Topic(TopicRecord { name: topic.name.clone(), topic_id: topic.id }));
        self.push_configs(&ConfigResource::topic(topic.name.clone()), records);
        let partitions = topic.partitions().map(|(id, partition)| partition_record(topic.id, id, partition));
        records.extend(partitions.map(MetadataRecord::Partition));
    }

    fn push_configs(&self, resource: &ConfigResource, records: &mut Vec<MetadataRecord>) {
        let set = |(key, value): (&Str, &Str)| config_record(resource, key.clone(), Some(value.clone()));
        records.extend(self.configs(resource).map(set));
    }
}

fn partition_record(topic_id: Uuid, id: PartitionId, partition: &Partition) -> PartitionRecord {
    let numbers = |ids: &[BrokerId]| ids.iter().map(|id| id.0).collect::<Vec<i32>>();
    let or_none = |ids: &[BrokerId]| (!ids.is_empty()).then(|| numbers(ids));
    let (elr, last_known_elr) = (or_none(&partition.elr), or_none(&partition.last_known_elr));
    // The version that has room for eligible replicas has a directory for each replica, too.
    let directories = if elr.is_some() || last_known_elr.is_some() { partition.replicas.len() } else { 0 };
    PartitionRecord {
        partition_id: id.0,
        topic_id,
        replicas: numbers(&partition.replicas),
        isr: numbers(&partition.isr),
        removing_replicas: numbers(&partition.removing),
        adding_replicas: numbers(&partition.adding),
        leader: partition.leader.map_or(-1, |leader| leader.0),
        leader_epoch: partition.leader_epoch.0,
        partition_epoch: partition.partition_epoch,
        directories: vec![Uuid::from_u128(0); directories],
        eligible_leader_replicas: elr,
        last_known_elr,
        ..Default::default()
    }
}
