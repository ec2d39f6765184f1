//! Offsets of partitions: where they begin and end, what was written when, and deleting up to a place.
//!
//! All of them go to the partitions' leaders, one request per broker, and ask again only for those
//! partitions whose leader turned out to be another.

use std::collections::HashMap;

use wire::messages::delete_records::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic};
use wire::messages::list_offsets::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic, UnreadRecord,
};
use wire::messages::offset_for_leader_epoch::{
    OffsetForLeaderEpochRequest, OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use wire::{BrokerId, ErrorCode, LeaderEpoch, Millis, Offset, PartitionId, Str, TopicPartition};

use super::{Admin, Outcomes};
use crate::cluster::{Cluster, Lane, leader_gone};
use crate::error::{Error, ErrorKind};
use crate::options::Isolation;

/// Which offset of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetSpec {
    /// Of the oldest record.
    Earliest,
    /// Behind the newest record: the high watermark, or the last stable offset for those who read committed.
    Latest,
    /// Of the record with the greatest timestamp.
    MaxTimestamp,
    /// Of the first record written at or after this time; none when there is no such record.
    At(Millis),
    /// As [`OffsetSpec::Latest`], and what a reader has not read whose next offset is this one.
    Unread(Offset),
}

/// The first record that a reader has not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// The broker cannot say; Apache Kafka's cannot.
    Unknown,
    /// There is none: what follows are markers, or holes that compaction left.
    Nothing,
    /// It waits.
    Waiting {
        /// Where it is.
        offset: Offset,
        /// How long ago it was written, by its timestamp and the clock of its broker; unknown when it has no timestamp.
        age_ms: Option<i64>,
    },
}

impl Unread {
    /// What an answer of a broker says.
    pub fn told(record: &UnreadRecord, now: Millis) -> Self {
        match record.offset {
            ..0 => Self::Nothing,
            offset => Self::Waiting {
                offset: Offset(offset),
                age_ms: (record.timestamp >= 0).then(|| now.0.saturating_sub(record.timestamp).max(0)),
            },
        }
    }
}

impl OffsetSpec {
    fn timestamp(self) -> i64 {
        match self {
            Self::Latest | Self::Unread(_) => -1,
            Self::Earliest => -2,
            Self::MaxTimestamp => -3,
            Self::At(time) => time.0.max(0),
        }
    }

    fn unread_from(self) -> Vec<i64> {
        match self {
            Self::Unread(offset) => vec![offset.0],
            _ => Vec::new(),
        }
    }
}

/// An offset, when there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedOffset {
    /// The offset; absent when no record matches.
    pub offset: Option<Offset>,
    /// The timestamp of the record there, where a record was asked for.
    pub timestamp: Option<Millis>,
    /// The epoch of the leader that wrote it.
    pub leader_epoch: LeaderEpoch,
    /// The first record that is not read, where that was asked for.
    pub unread: Unread,
}

/// Partitions by the broker that leads them.
type ByLeader = HashMap<BrokerId, Vec<(TopicPartition, LeaderEpoch)>>;

impl Admin {
    /// One offset of each partition, in the order asked for.
    pub async fn list_offsets(
        &self,
        partitions: &[(TopicPartition, OffsetSpec)],
        isolation: Isolation,
    ) -> Result<Outcomes<TopicPartition, ListedOffset>, Error> {
        let specs: HashMap<_, _> = partitions.iter().cloned().collect();
        let names = partitions.iter().map(|(partition, _)| partition.clone()).collect();
        let cluster = self.cluster.clone();
        let ask = move |broker: BrokerId, asked: Vec<(TopicPartition, LeaderEpoch)>| {
            let cluster = cluster.clone();
            let topics = by_topic(asked, |partition, leader_epoch| ListOffsetsPartition {
                partition_index: partition.partition.0,
                current_leader_epoch: leader_epoch.0,
                timestamp: specs[partition].timestamp(),
                unread_from: specs[partition].unread_from(),
            });
            let topics = topics.into_iter().map(|(name, partitions)| ListOffsetsTopic { name, partitions });
            let request = ListOffsetsRequest {
                replica_id: -1,
                isolation_level: isolation.code(),
                topics: topics.collect(),
                ..Default::default()
            };
            async move {
                let response = cluster.call(broker, Lane::Requests, request).await?;
                let now = Millis(response.now);
                let answers = response.topics.into_iter().flat_map(|topic| {
                    topic.partitions.into_iter().map(move |answer| {
                        let partition =
                            TopicPartition::new(topic.name.clone(), PartitionId(answer.partition_index));
                        let listed = ListedOffset {
                            offset: Some(Offset(answer.offset)).filter(|offset| offset.0 >= 0),
                            timestamp: Some(Millis(answer.timestamp)).filter(|time| time.0 >= 0),
                            leader_epoch: LeaderEpoch(answer.leader_epoch),
                            unread: match answer.unread.first() {
                                Some(record) => Unread::told(record, now),
                                None => Unread::Unknown,
                            },
                        };
                        (partition, answer.error_code, listed)
                    })
                });
                Ok(answers.collect())
            }
        };
        at_leaders(&self.cluster, "listing offsets", names, ask).await
    }

    /// How far each partition's log goes in a leader epoch (KIP-320): the largest epoch in it that is at most the one asked about,
    /// and the offset where that ends. `None` of a log that has nothing of an epoch so new.
    pub async fn epoch_ends(
        &self,
        partitions: &[(TopicPartition, LeaderEpoch)],
    ) -> Result<Outcomes<TopicPartition, Option<(LeaderEpoch, Offset)>>, Error> {
        let epochs: HashMap<_, _> = partitions.iter().cloned().collect();
        let names = partitions.iter().map(|(partition, _)| partition.clone()).collect();
        let cluster = self.cluster.clone();
        let ask = move |broker: BrokerId, asked: Vec<(TopicPartition, LeaderEpoch)>| {
            let cluster = cluster.clone();
            let topics = by_topic(asked, |partition, current| OffsetForLeaderPartition {
                partition: partition.partition.0,
                current_leader_epoch: current.0,
                leader_epoch: epochs[partition].0,
            });
            let topics =
                topics.into_iter().map(|(topic, partitions)| OffsetForLeaderTopic { topic, partitions });
            let request = OffsetForLeaderEpochRequest { replica_id: -1, topics: topics.collect() };
            async move {
                let response = cluster.call(broker, Lane::Requests, request).await?;
                let answers = response.topics.into_iter().flat_map(|topic| {
                    topic.partitions.into_iter().map(move |answer| {
                        let id = PartitionId(answer.partition);
                        let partition = TopicPartition::new(topic.topic.clone(), id);
                        let is_known = answer.leader_epoch >= 0 && answer.end_offset >= 0;
                        let end = (LeaderEpoch(answer.leader_epoch), Offset(answer.end_offset));
                        (partition, answer.error_code, is_known.then_some(end))
                    })
                });
                Ok(answers.collect())
            }
        };
        at_leaders(&self.cluster, "asking about leader epochs", names, ask).await
    }

    /// Deletes what lies before the given offsets; tells where the partitions begin now.
    pub async fn delete_records(
        &self,
        before: &[(TopicPartition, Offset)],
    ) -> Result<Outcomes<TopicPartition, Offset>, Error> {
        let offsets: HashMap<_, _> = before.iter().cloned().collect();
        let names = before.iter().map(|(partition, _)| partition.clone()).collect();
        let (cluster, timeout_ms) = (self.cluster.clone(), self.timeout_ms());
        let ask = move |broker: BrokerId, asked: Vec<(TopicPartition, LeaderEpoch)>| {
            let cluster = cluster.clone();
            let topics = by_topic(asked, |partition, _| DeleteRecordsPartition {
                partition_index: partition.partition.0,
                offset: offsets[partition].0,
            });
            let topics = topics.into_iter().map(|(name, partitions)| DeleteRecordsTopic { name, partitions });
            let request = DeleteRecordsRequest { topics: topics.collect(), timeout_ms };
            async move {
                let response = cluster.call(broker, Lane::Requests, request).await?;
                let answers = response.topics.into_iter().flat_map(|topic| {
                    topic.partitions.into_iter().map(move |answer| {
                        let partition =
                            TopicPartition::new(topic.name.clone(), PartitionId(answer.partition_index));
                        (partition, answer.error_code, Offset(answer.low_watermark))
                    })
                });
                Ok(answers.collect())
            }
        };
        at_leaders(&self.cluster, "deleting records", names, ask).await
    }
}

pub(super) fn by_topic<P>(
    partitions: Vec<(TopicPartition, LeaderEpoch)>,
    entry: impl Fn(&TopicPartition, LeaderEpoch) -> P,
) -> HashMap<Str, Vec<P>> {
    let mut topics: HashMap<Str, Vec<P>> = HashMap::new();
    for (partition, leader_epoch) in partitions {
        topics.entry(partition.topic.clone()).or_default().push(entry(&partition, leader_epoch));
    }
    topics
}

/// Asks each partition's leader, and asks again about those that were led by another, until time is up for what is left.
pub(super) async fn at_leaders<T, F>(
    cluster: &Cluster,
    doing: &str,
    partitions: Vec<TopicPartition>,
    ask: impl Fn(BrokerId, Vec<(TopicPartition, LeaderEpoch)>) -> F,
) -> Result<Outcomes<TopicPartition, T>, Error>
where
    F: Future<Output = Result<Vec<(TopicPartition, ErrorCode, T)>, Error>> + Send + 'static,
    T: Send + 'static,
{
    let mut done: HashMap<TopicPartition, Result<T, Error>> = HashMap::new();
    let mut retry = cluster.retry(doing, cluster.options().default_api_timeout);
    let mut left = partitions.clone();
    loop {
        let mut last = None;
        let mut by_leader = ByLeader::new();
        for partition in &left {
            match leader_of(cluster, partition).await {
                Ok((broker, epoch)) => {
                    by_leader.entry(broker).or_default().push((partition.clone(), epoch));
                }
                Err(error) if error.kind() == ErrorKind::Retriable => last = Some(error),
                Err(error) => {
                    done.insert(partition.clone(), Err(error));
                }
            }
        }
        let mut asked = tokio::task::JoinSet::new();
        for (broker, partitions) in by_leader {
            asked.spawn(ask(broker, partitions));
        }
        while let Some(answer) = asked.join_next().await {
            match answer.expect("asking a broker does not panic").map_err(leader_gone) {
                Ok(answers) => {
                    for (partition, code, value) in answers {
                        if code.is_ok() {
                            done.insert(partition, Ok(value));
                            continue;
                        }
                        let error = Error::kafka(code, format!("{doing} of {partition}"), None);
                        match error.kind() {
                            ErrorKind::Retriable => last = Some(error),
                            _ => {
                                done.insert(partition, Err(error));
                            }
                        }
                    }
                }
                Err(error) if error.kind() == ErrorKind::Retriable => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        left.retain(|partition| !done.contains_key(partition));
        if left.is_empty() {
            let outcomes = partitions.into_iter().filter_map(|partition| {
                let outcome = done.remove(&partition)?;
                Some((partition, outcome))
            });
            return Ok(outcomes.collect());
        }
        left.iter().for_each(|partition| cluster.forget(&partition.topic));
        let error = last.unwrap_or_else(|| Error::Protocol {
            doing: doing.to_owned(),
            problem: format!("nothing is said about {}", left[0]),
        });
        if let Err(error) = retry.again(error).await {
            done.extend(left.drain(..).map(|partition| (partition, Err(error.clone()))));
        }
    }
}

async fn leader_of(cluster: &Cluster, partition: &TopicPartition) -> Result<(BrokerId, LeaderEpoch), Error> {
    let topic = cluster.topic(&partition.topic).await?;
    let Some(known) = topic.partition(partition.partition) else {
        return Err(Error::UnknownPartition {
            partition: partition.clone(),
            partitions: topic.partitions.len(),
        });
    };
    let leader = known.leader.ok_or_else(|| {
        Error::kafka(ErrorCode::LEADER_NOT_AVAILABLE, format!("looking up {partition}"), None)
    })?;
    Ok((leader.broker, leader.epoch))
}
