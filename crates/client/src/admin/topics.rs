//! Topics: create, list, describe, delete, add partitions.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use wire::messages::create_partitions::{CreatePartitionsRequest, CreatePartitionsTopic};
use wire::messages::create_topics::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest};
use wire::messages::delete_topics::{DeleteTopicState, DeleteTopicsRequest};
use wire::messages::metadata::{MetadataResponse, MetadataResponseTopic};
use wire::{BrokerId, ErrorCode, LeaderEpoch, PartitionId, Str, Uuid};

use super::{Admin, Outcomes, outcome};
use crate::cluster::Topics;
use crate::error::Error;

/// A topic to be created.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTopic {
    /// Its name.
    pub name: Str,
    /// How many partitions; the broker's `num.partitions` when absent.
    pub partitions: Option<i32>,
    /// How many replicas of each; the broker's `default.replication.factor` when absent.
    pub replicas: Option<i16>,
    /// Settings that differ from the broker's.
    pub configs: Vec<(Str, Str)>,
}

/// A topic that was created.
#[derive(Debug, Clone, PartialEq)]
pub struct CreatedTopic {
    /// Its id, zero when the broker is too old to have ids.
    pub id: Uuid,
    /// How many partitions it got, when the broker says.
    pub partitions: Option<i32>,
    /// How many replicas each has, when the broker says.
    pub replicas: Option<i16>,
}

/// Whether to change anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Execution {
    /// Do it.
    Apply,
    /// Only say whether it could be done.
    Validate,
}

/// A topic.
#[derive(Debug, Clone, PartialEq)]
pub struct TopicInfo {
    /// Its name.
    pub name: Str,
    /// Its id.
    pub id: Uuid,
    /// Whether it belongs to the brokers themselves.
    pub is_internal: bool,
    /// In the order of their numbers.
    pub partitions: Vec<PartitionInfo>,
}

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq)]
pub struct PartitionInfo {
    /// Its number.
    pub id: PartitionId,
    /// Who leads it, if anyone does.
    pub leader: Option<BrokerId>,
    /// Since which election.
    pub leader_epoch: LeaderEpoch,
    /// Who keeps it.
    pub replicas: Vec<BrokerId>,
    /// Who keeps it and is up to date.
    pub in_sync: Vec<BrokerId>,
    /// Who keeps it and is not there.
    pub offline: Vec<BrokerId>,
    /// What is wrong with it.
    pub error: ErrorCode,
}

impl Admin {
    /// Creates topics.
    pub async fn create_topics(
        &self,
        topics: &[NewTopic],
        execution: Execution,
    ) -> Result<Outcomes<Str, CreatedTopic>, Error> {
        let creatable = topics.iter().map(|topic| CreatableTopic {
            name: topic.name.clone(),
            num_partitions: topic.partitions.unwrap_or(-1),
            replication_factor: topic.replicas.unwrap_or(-1),
            configs: topic
                .configs
                .iter()
                .map(|(name, value)| CreatableTopicConfig { name: name.clone(), value: Some(value.clone()) })
                .collect(),
            ..Default::default()
        });
        let request = CreateTopicsRequest {
            topics: creatable.collect(),
            timeout_ms: self.timeout_ms(),
            validate_only: execution == Execution::Validate,
        };
        let response = self
            .ask_controller("creating topics", request, |response| {
                response.topics.iter().map(|topic| topic.error_code).collect()
            })
            .await?;
        let outcomes = response.topics.into_iter().map(|topic| {
            let created = CreatedTopic {
                id: topic.topic_id,
                partitions: Some(topic.num_partitions).filter(|&partitions| partitions >= 0),
                replicas: Some(topic.replication_factor).filter(|&replicas| replicas >= 0),
            };
            let doing = format!("creating topic {}", topic.name);
            let created = outcome(topic.error_code, doing, topic.error_message.as_ref(), created);
            (topic.name, created)
        });
        Ok(outcomes.collect())
    }

    /// Deletes topics.
    pub async fn delete_topics(&self, names: &[Str]) -> Result<Outcomes<Str, ()>, Error> {
        // Versions from 6 on take structures, those before plain names; both forms are filled in.
        let state = |name: &Str| DeleteTopicState { name: Some(name.clone()), ..Default::default() };
        let request = DeleteTopicsRequest {
            topics: names.iter().map(state).collect(),
            topic_names: names.to_vec(),
            timeout_ms: self.timeout_ms(),
        };
        let response = self
            .ask_controller("deleting topics", request, |response| {
                response.responses.iter().map(|topic| topic.error_code).collect()
            })
            .await?;
        let outcomes = response.responses.into_iter().map(|topic| {
            let name = topic.name.unwrap_or_default();
            self.cluster.forget(&name);
            let doing = format!("deleting topic {name}");
            (name, outcome(topic.error_code, doing, topic.error_message.as_ref(), ()))
        });
        Ok(outcomes.collect())
    }

    /// Raises the number of partitions of topics to the given totals.
    pub async fn create_partitions(
        &self,
        totals: &[(Str, i32)],
        execution: Execution,
    ) -> Result<Outcomes<Str, ()>, Error> {
        let topic = |(name, count): &(Str, i32)| CreatePartitionsTopic {
            name: name.clone(),
            count: *count,
            // The brokers choose where the new ones are kept.
            assignments: None,
        };
        let request = CreatePartitionsRequest {
            topics: totals.iter().map(topic).collect(),
            timeout_ms: self.timeout_ms(),
            validate_only: execution == Execution::Validate,
        };
        let response = self
            .ask_controller("adding partitions", request, |response| {
                response.results.iter().map(|topic| topic.error_code).collect()
            })
            .await?;
        let outcomes = response.results.into_iter().map(|topic| {
            self.cluster.forget(&topic.name);
            let doing = format!("adding partitions to topic {}", topic.name);
            (topic.name, outcome(topic.error_code, doing, topic.error_message.as_ref(), ()))
        });
        Ok(outcomes.collect())
    }

    /// All topics, in the order of their names.
    pub async fn list_topics(&self) -> Result<Vec<TopicInfo>, Error> {
        let response = self
            .cluster
            .retrying("listing topics", || async { self.cluster.refresh(Topics::All).await })
            .await?;
        let mut topics: Vec<_> = response.topics.into_iter().filter_map(info).collect();
        topics.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(topics)
    }

    /// Waits until the brokers' map shows topics as they are expected to be after a change, for at most `timeout`;
    /// says whether it does. Changes are answered when they are decided, and brokers learn of them a moment later.
    pub async fn await_topics(
        &self,
        names: &[Str],
        timeout: Duration,
        is_expected: impl Fn(Option<&TopicInfo>) -> bool,
    ) -> Result<bool, Error> {
        let deadline = Instant::now() + timeout;
        loop {
            let shown = self.describe_topics(names).await?;
            if shown.iter().all(|(_, outcome)| is_expected(outcome.as_ref().ok())) {
                return Ok(true);
            }
            let next = Instant::now() + self.cluster.options().retry_backoff;
            if next > deadline {
                return Ok(false);
            }
            sleep_until(next).await;
        }
    }

    /// Describes topics, never creating any.
    pub async fn describe_topics(&self, names: &[Str]) -> Result<Outcomes<Str, TopicInfo>, Error> {
        let response: MetadataResponse = self
            .cluster
            .retrying("describing topics", || async { self.cluster.look_at(Topics::Named(names)).await })
            .await?;
        let outcomes = response.topics.into_iter().filter_map(|topic| {
            let name = topic.name.clone()?;
            let code = topic.error_code;
            let described = match code {
                ErrorCode::UNKNOWN_TOPIC_OR_PARTITION => Err(Error::UnknownTopic(name.to_string())),
                _ => outcome(code, format!("describing topic {name}"), None, info(topic)?),
            };
            Some((name, described))
        });
        Ok(outcomes.collect())
    }
}

fn info(topic: MetadataResponseTopic) -> Option<TopicInfo> {
    let brokers = |ids: Vec<i32>| ids.into_iter().map(BrokerId).collect();
    let mut partitions: Vec<_> = topic
        .partitions
        .into_iter()
        .map(|partition| PartitionInfo {
            id: PartitionId(partition.partition_index),
            leader: Some(BrokerId(partition.leader_id)).filter(|id| id.0 >= 0),
            leader_epoch: LeaderEpoch(partition.leader_epoch),
            replicas: brokers(partition.replica_nodes),
            in_sync: brokers(partition.isr_nodes),
            offline: brokers(partition.offline_replicas),
            error: partition.error_code,
        })
        .collect();
    partitions.sort_by_key(|partition| partition.id);
    Some(TopicInfo { name: topic.name?, id: topic.topic_id, is_internal: topic.is_internal, partitions })
}
