//! How much room partitions take on the brokers' disks.

use std::collections::BTreeMap;

use wire::messages::describe_log_dirs::{DescribableLogDirTopic, DescribeLogDirsRequest};
use wire::{BrokerId, ErrorCode, PartitionId, Str, TopicPartition};

use super::{Admin, outcome};
use crate::cluster::{Lane, Topics};
use crate::error::Error;

impl Admin {
    /// The bytes that each partition's log takes, as of the replica with most of them, compressed as it is; those alone that some broker
    /// tells. Every broker is asked once.
    pub async fn log_sizes(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, u64>, Error> {
        const DOING: &str = "asking for the sizes of logs";
        let mut topics: BTreeMap<Str, Vec<i32>> = BTreeMap::new();
        for partition in partitions {
            topics.entry(partition.topic.clone()).or_default().push(partition.partition.0);
        }
        let topics =
            topics.into_iter().map(|(topic, partitions)| DescribableLogDirTopic { topic, partitions });
        let topics: Vec<_> = topics.collect();
        let map = self.cluster.retrying(DOING, || self.cluster.refresh(Topics::None)).await?;
        let mut sizes = BTreeMap::new();
        for broker in map.brokers.iter().map(|broker| BrokerId(broker.node_id)) {
            let response = self
                .cluster
                .retrying(DOING, || async {
                    let request = DescribeLogDirsRequest { topics: Some(topics.clone()) };
                    let response = self.cluster.call(broker, Lane::Requests, request).await?;
                    outcome(response.error_code, DOING.to_owned(), None, response)
                })
                .await?;
            for dir in response.results.into_iter().filter(|dir| dir.error_code == ErrorCode::NONE) {
                for topic in dir.topics {
                    for described in topic.partitions.into_iter().filter(|described| !described.is_future_key)
                    {
                        let id = PartitionId(described.partition_index);
                        let size = sizes.entry(TopicPartition::new(topic.name.clone(), id)).or_insert(0);
                        *size = u64::try_from(described.partition_size).unwrap_or(0).max(*size);
                    }
                }
            }
        }
        Ok(sizes)
    }
}
