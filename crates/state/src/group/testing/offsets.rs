//! Offsets in stories: `t-0=7` is what is committed of a partition.

use wire::Str;
use wire::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use wire::messages::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use wire::messages::offset_fetch::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};

use super::classic::member_id;
use super::{Args, World};

impl World {
    /// What is remembered of expired offsets, as for the topic id that is given.
    pub(super) fn traces(&self, args: &Args<'_>) -> Vec<String> {
        let current = args.topic_id();
        let traces = self.groups.expired_offsets(args.group(), |_| (!current.is_zero()).then_some(current));
        let told = traces.into_iter().map(|(topic, partition, expired)| {
            format!("{topic}-{partition} = {} until {}", expired.offset, expired.expired_at.0)
        });
        told.collect()
    }

    pub(super) fn fetch(&self, args: &Args<'_>) -> Vec<String> {
        let topics = args.partitions().into_iter().map(|(topic, partition)| OffsetFetchRequestTopics {
            name: topic,
            partition_indexes: vec![partition],
            topic_id: args.topic_id(),
        });
        let topics: Vec<_> = topics.collect();
        let request = OffsetFetchRequestGroup {
            group_id: Str::copy_from(args.group()),
            topics: (!topics.is_empty()).then_some(topics),
            ..Default::default()
        };
        let current = args.topic_id();
        let fetched = self.groups.fetch_offsets(&request, false, |_| (!current.is_zero()).then_some(current));
        let mut told = Vec::new();
        for topic in fetched.topics {
            for partition in topic.partitions {
                told.push(format!(
                    "{}-{} = {} epoch {} {:?}",
                    topic.name,
                    partition.partition_index,
                    partition.committed_offset,
                    partition.committed_leader_epoch,
                    partition.metadata.as_deref().unwrap_or("none"),
                ));
            }
        }
        told
    }
}

impl Args<'_> {
    pub(super) fn commit(&self) -> OffsetCommitRequest {
        let offsets = self.options.iter().filter(|(key, _)| is_topic_partition(key)).map(|(key, value)| {
            let (name, partition_index) = topic_partition(key);
            let partition = OffsetCommitRequestPartition {
                partition_index,
                committed_offset: value.parse().unwrap(),
                committed_leader_epoch: self.number("epoch", -1),
                committed_metadata: self.option("note").map(Str::copy_from),
            };
            OffsetCommitRequestTopic { name, topic_id: self.topic_id(), partitions: vec![partition] }
        });
        OffsetCommitRequest {
            group_id: self.group_id(),
            generation_id_or_member_epoch: self.number("gen", -1),
            member_id: self.option("member").map_or_else(|| member_id(self.first()), Str::copy_from),
            group_instance_id: self.instance(),
            retention_time_ms: self.number("retention", -1),
            topics: offsets.collect(),
        }
    }

    pub(super) fn delete_offsets(&self) -> OffsetDeleteRequest {
        let topics = self.partitions().into_iter().map(|(name, partition_index)| OffsetDeleteRequestTopic {
            name,
            partitions: vec![OffsetDeleteRequestPartition { partition_index }],
        });
        OffsetDeleteRequest { group_id: self.group_id(), topics: topics.collect() }
    }
}

pub(super) fn is_topic_partition(word: &str) -> bool {
    word.rsplit_once('-').is_some_and(|(_, partition)| partition.parse::<i32>().is_ok())
}

pub(super) fn topic_partition(word: &str) -> (Str, i32) {
    let (topic, partition) = word.rsplit_once('-').unwrap();
    (Str::copy_from(topic), partition.parse().unwrap())
}
