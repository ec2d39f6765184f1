//! Transactions, as operators see them (KIP-664): who has what open, and the abort of what nobody ends.

use std::collections::BTreeMap;

use wire::messages::describe_producers::{DescribeProducersRequest, TopicRequest};
use wire::messages::describe_transactions::DescribeTransactionsRequest;
use wire::messages::list_transactions::ListTransactionsRequest;
use wire::messages::write_txn_markers::{WritableTxnMarker, WritableTxnMarkerTopic, WriteTxnMarkersRequest};
use wire::{
    BrokerId, LeaderEpoch, Millis, Offset, PartitionId, ProducerEpoch, ProducerId, Str, TopicPartition,
};

use super::offsets::{at_leaders, by_topic};
use super::{Admin, Outcomes, outcome};
use crate::cluster::{Lane, Topics};
use crate::error::Error;

/// Which transactional ids are asked for; what is left empty asks for all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TransactionFilter {
    /// Kafka's names of states.
    pub states: Vec<Str>,
    /// Producer ids.
    pub producers: Vec<ProducerId>,
    /// Only those whose transaction has been open for longer, in milliseconds.
    pub open_for_ms: Option<i64>,
}

/// A transactional id in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionListing {
    /// The id.
    pub transactional_id: Str,
    /// The broker that coordinates it.
    pub coordinator: BrokerId,
    /// Who writes under it.
    pub producer_id: ProducerId,
    /// Kafka's name of its state.
    pub state: Str,
}

/// A transactional id and its transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionInfo {
    /// The id.
    pub transactional_id: Str,
    /// The broker that coordinates it.
    pub coordinator: BrokerId,
    /// Who writes under it.
    pub producer_id: ProducerId,
    /// Its epoch.
    pub producer_epoch: ProducerEpoch,
    /// Kafka's name of its state.
    pub state: Str,
    /// After how long it is aborted, in milliseconds.
    pub timeout_ms: i32,
    /// When the transaction began, if one has.
    pub started_at: Option<Millis>,
    /// What the client calls itself that the coordinator last did something for. Like the next two, it is known to Ottla's
    /// coordinators, and not right after they have taken over.
    pub client_id: Option<Str>,
    /// Where that client asked from.
    pub client_host: Option<Str>,
    /// When the coordinator last heard of the id.
    pub last_request: Option<Millis>,
    /// What it has written to and has not been told there how it ended.
    pub partitions: Vec<TopicPartition>,
}

/// A producer that a partition knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerInfo {
    /// Its id.
    pub producer_id: ProducerId,
    /// Its newest epoch.
    pub producer_epoch: ProducerEpoch,
    /// The sequence of its last record, -1 for none.
    pub last_sequence: i32,
    /// The timestamp of its last record, -1 for none.
    pub last_timestamp: Millis,
    /// The epoch of the coordinator that ended its last transaction, -1 for none.
    pub coordinator_epoch: i32,
    /// Where its open transaction begins.
    pub open_since: Option<Offset>,
}

impl Admin {
    /// The transactional ids that a filter lets through, in their order.
    pub async fn list_transactions(
        &self,
        filter: &TransactionFilter,
    ) -> Result<Vec<TransactionListing>, Error> {
        const DOING: &str = "listing transactions";
        let map = self.cluster.retrying(DOING, || self.cluster.refresh(Topics::None)).await?;
        let mut listed = Vec::new();
        for broker in map.brokers.iter().map(|broker| BrokerId(broker.node_id)) {
            let response = self
                .cluster
                .retrying(DOING, || async {
                    let request = ListTransactionsRequest {
                        state_filters: filter.states.clone(),
                        producer_id_filters: filter.producers.iter().map(|id| id.0).collect(),
                        duration_filter: filter.open_for_ms.unwrap_or(-1),
                        ..Default::default()
                    };
                    let response = self.cluster.call(broker, Lane::Requests, request).await?;
                    outcome(response.error_code, DOING.to_owned(), None, response)
                })
                .await?;
            if let Some(unknown) = response.unknown_state_filters.first() {
                return Err(Error::Protocol {
                    doing: DOING.to_owned(),
                    problem: format!("broker {broker} knows no state {unknown}"),
                });
            }
            listed.extend(response.transaction_states.into_iter().map(|state| TransactionListing {
                transactional_id: state.transactional_id,
                coordinator: broker,
                producer_id: ProducerId(state.producer_id),
                state: state.transaction_state,
            }));
        }
        listed.sort_by(|left, right| left.transactional_id.cmp(&right.transactional_id));
        Ok(listed)
    }

    /// Describes what was listed.
    pub async fn describe_transactions(
        &self,
        listed: &[TransactionListing],
    ) -> Outcomes<Str, TransactionInfo> {
        let mut described = Vec::with_capacity(listed.len());
        for listing in listed {
            described.push((listing.transactional_id.clone(), self.describe_transaction(listing).await));
        }
        described
    }

    async fn describe_transaction(&self, listing: &TransactionListing) -> Result<TransactionInfo, Error> {
        let doing = format!("describing transactional id {}", listing.transactional_id);
        let request =
            DescribeTransactionsRequest { transactional_ids: vec![listing.transactional_id.clone()] };
        let response = self.cluster.call(listing.coordinator, Lane::Requests, request).await?;
        let state = response.transaction_states.into_iter().next();
        let state = state.ok_or_else(|| Error::Protocol {
            doing: doing.clone(),
            problem: "it describes nothing".to_owned(),
        })?;
        outcome(state.error_code, doing, None, ())?;
        let partitions = state.topics.into_iter().flat_map(|topic| {
            let name = topic.topic;
            let partition = move |index| TopicPartition::new(name.clone(), PartitionId(index));
            topic.partitions.into_iter().map(partition)
        });
        Ok(TransactionInfo {
            transactional_id: state.transactional_id,
            coordinator: listing.coordinator,
            producer_id: ProducerId(state.producer_id),
            producer_epoch: ProducerEpoch(state.producer_epoch),
            state: state.transaction_state,
            timeout_ms: state.transaction_timeout_ms,
            started_at: Some(Millis(state.transaction_start_time_ms)).filter(|at| at.0 >= 0),
            client_id: state.client_id,
            client_host: state.client_host,
            last_request: Some(Millis(state.last_request_time_ms)).filter(|at| at.0 >= 0),
            partitions: partitions.collect(),
        })
    }

    /// The producers that partitions know, as their leaders do.
    pub async fn describe_producers(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<Outcomes<TopicPartition, Vec<ProducerInfo>>, Error> {
        let cluster = self.cluster.clone();
        let ask = move |broker: BrokerId, asked: Vec<(TopicPartition, LeaderEpoch)>| {
            let cluster = cluster.clone();
            let topics = by_topic(asked, |partition, _| partition.partition.0);
            let topics =
                topics.into_iter().map(|(name, partition_indexes)| TopicRequest { name, partition_indexes });
            let request = DescribeProducersRequest { topics: topics.collect() };
            async move {
                let response = cluster.call(broker, Lane::Requests, request).await?;
                let answers = response.topics.into_iter().flat_map(|topic| {
                    topic.partitions.into_iter().map(move |answer| {
                        let index = PartitionId(answer.partition_index);
                        let producers = answer.active_producers.into_iter().map(|state| ProducerInfo {
                            producer_id: ProducerId(state.producer_id),
                            producer_epoch: ProducerEpoch(
                                i16::try_from(state.producer_epoch).unwrap_or(i16::MAX),
                            ),
                            last_sequence: state.last_sequence,
                            last_timestamp: Millis(state.last_timestamp),
                            coordinator_epoch: state.coordinator_epoch,
                            open_since: Some(Offset(state.current_txn_start_offset))
                                .filter(|offset| offset.0 >= 0),
                        });
                        let partition = TopicPartition::new(topic.name.clone(), index);
                        (partition, answer.error_code, producers.collect())
                    })
                });
                Ok(answers.collect())
            }
        };
        at_leaders(&self.cluster, "describing producers", partitions.to_vec(), ask).await
    }

    /// Aborts what a producer has open in one partition, past its coordinator: for transactions that no coordinator knows any
    /// more.
    pub async fn abort_transaction(
        &self,
        partition: &TopicPartition,
        producer: &ProducerInfo,
    ) -> Result<(), Error> {
        let marker = WritableTxnMarker {
            producer_id: producer.producer_id.0,
            producer_epoch: producer.producer_epoch.0,
            transaction_result: false,
            // One that never ended a transaction is not fenced by it.
            coordinator_epoch: producer.coordinator_epoch.max(0),
            ..Default::default()
        };
        let cluster = self.cluster.clone();
        let ask = move |broker: BrokerId, asked: Vec<(TopicPartition, LeaderEpoch)>| {
            let cluster = cluster.clone();
            let topics = by_topic(asked, |partition, _| partition.partition.0);
            let topics = topics
                .into_iter()
                .map(|(name, partition_indexes)| WritableTxnMarkerTopic { name, partition_indexes });
            let marker = WritableTxnMarker { topics: topics.collect(), ..marker.clone() };
            let request = WriteTxnMarkersRequest { markers: vec![marker] };
            async move {
                let response = cluster.call(broker, Lane::Requests, request).await?;
                let topics = response.markers.into_iter().flat_map(|marker| marker.topics);
                let answers = topics.flat_map(|topic| {
                    topic.partitions.into_iter().map(move |answer| {
                        let index = PartitionId(answer.partition_index);
                        (TopicPartition::new(topic.name.clone(), index), answer.error_code, ())
                    })
                });
                Ok(answers.collect())
            }
        };
        let outcomes =
            at_leaders(&self.cluster, "aborting a transaction", vec![partition.clone()], ask).await?;
        let (_, aborted) = outcomes.into_iter().next().expect("one partition, one outcome");
        aborted
    }
}

/// The transactions that hold a partition's last stable offset, first the one that does now.
pub fn holding(producers: &[ProducerInfo]) -> Vec<&ProducerInfo> {
    let mut open: BTreeMap<Offset, &ProducerInfo> = BTreeMap::new();
    for producer in producers {
        if let Some(since) = producer.open_since {
            open.insert(since, producer);
        }
    }
    open.into_values().collect()
}
