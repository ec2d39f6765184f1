//! The transaction coordinator: the shards of `__transaction_state` that this broker leads, and the way to those that others
//! lead.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use state::coordinator::{CoordinatorRecord, Now, Outcome, RecordError, Replayed};
use state::txn::{Marking, Producer, Protocol, Refusal, Transactions, TxnConfig};
use tokio::time::{Instant, sleep};
use wire::messages::add_partitions_to_txn::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use wire::{BrokerId, ErrorCode, LeaderEpoch, Millis, PartitionId, ProducerId, Str, TopicPartition};

use crate::broker::Broker;
use crate::coordinator::{Coordinator, Machine, partition_for};

/// The topic that holds transactional ids and their transactions.
pub(crate) const TRANSACTIONS_TOPIC: &str = "__transaction_state";

/// The transactions of this broker.
pub(crate) type TxnCoordinator = Coordinator<Transactions>;

/// How long a partition's leader asks the coordinator again while the last transaction is still being ended; the client does
/// afterwards.
const ENDING_WAIT: Duration = Duration::from_millis(500);
/// Between two questions.
const ENDING_PAUSE: Duration = Duration::from_millis(5);
/// How long another broker may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

impl Machine for Transactions {
    type Config = TxnConfig;
    type Effect = Marking;

    fn new(config: TxnConfig, leader_epoch: LeaderEpoch, load: u64) -> Self {
        Transactions::new(config, leader_epoch.0, load)
    }

    fn load(&mut self, replayed: Replayed<'_>) -> Result<(), RecordError> {
        Transactions::load(self, replayed)
    }

    fn loaded(&mut self, now: Now) {
        Transactions::loaded(self, now);
    }

    fn tick(&mut self, now: Now) -> Outcome {
        records_only(Transactions::tick(self, now))
    }

    fn next_deadline(&self) -> Option<Millis> {
        Transactions::next_deadline(self)
    }

    fn take_effects(&mut self) -> Vec<Marking> {
        self.take_markings()
    }
}

fn records_only(records: Vec<CoordinatorRecord>) -> Outcome {
    Outcome { records, ..Outcome::default() }
}

impl TxnCoordinator {
    /// Forgets transactional ids that nobody has used for long.
    pub(crate) fn expire_ids(self: &Arc<Self>) {
        self.step_all(|transactions, now| records_only(transactions.expire_ids(now.wall)));
    }

    /// Transactions that are not ended, over all shards that are loaded.
    pub(crate) fn open(&self) -> usize {
        let mut open = 0;
        self.look(|transactions| open += transactions.open());
        open
    }
}

/// A producer's question to its coordinator: do these partitions belong to its transaction, or shall they from now on.
#[derive(Clone, Debug)]
pub(crate) struct Joining {
    pub(crate) transactional_id: Str,
    pub(crate) producer: Producer,
    pub(crate) partitions: BTreeSet<TopicPartition>,
    /// With the first version of the protocol the client has named them itself.
    pub(crate) protocol: Protocol,
}

/// Partitions that do not belong to the transaction.
type Missing = BTreeSet<TopicPartition>;

impl Broker {
    /// Who coordinates a transactional id.
    fn transaction_coordinator(&self, transactional_id: &str) -> Result<BrokerId, ErrorCode> {
        let image = self.metadata.image();
        let topic = image.topic(TRANSACTIONS_TOPIC).ok_or(ErrorCode::COORDINATOR_NOT_AVAILABLE)?;
        let partition = topic.partition(partition_for(transactional_id, topic.partition_count()));
        partition.and_then(|partition| partition.leader).ok_or(ErrorCode::COORDINATOR_NOT_AVAILABLE)
    }

    /// Asks the coordinator. With the second version of the protocol a client begins the next transaction without waiting for
    /// the last one's markers: that wait is here.
    pub(crate) async fn join_transaction(self: &Arc<Self>, joining: Joining) -> Result<Missing, ErrorCode> {
        let deadline = Instant::now() + ENDING_WAIT;
        loop {
            match self.try_join_transaction(&joining).await {
                Err(ErrorCode::CONCURRENT_TRANSACTIONS)
                    if joining.protocol == Protocol::Second && Instant::now() < deadline =>
                {
                    sleep(ENDING_PAUSE).await;
                }
                answered => return answered,
            }
        }
    }

    async fn try_join_transaction(self: &Arc<Self>, joining: &Joining) -> Result<Missing, ErrorCode> {
        let coordinator = self.transaction_coordinator(&joining.transactional_id)?;
        if coordinator == self.node_id {
            return self.join_here(joining).await;
        }
        let address = self.metadata.quorum().peers().address_of(coordinator);
        let address = address.ok_or(ErrorCode::COORDINATOR_NOT_AVAILABLE)?;
        let answer = self.peers.ask(coordinator, &address, request(joining), ANSWER_MAX).await;
        let answer = answer.map_err(|error| {
            tracing::debug!(%error, node = %coordinator, "the transaction coordinator does not answer");
            ErrorCode::COORDINATOR_NOT_AVAILABLE
        })?;
        if !answer.error_code.is_ok() {
            return Err(answer.error_code);
        }
        let mut missing = Missing::new();
        for topic in answer.results_by_transaction.into_iter().flat_map(|result| result.topic_results) {
            for partition in topic.results_by_partition {
                match partition.partition_error_code {
                    ErrorCode::NONE => {}
                    ErrorCode::INVALID_TXN_STATE | ErrorCode::TRANSACTION_ABORTABLE => {
                        let index = PartitionId(partition.partition_index);
                        missing.insert(TopicPartition::new(topic.name.clone(), index));
                    }
                    error => return Err(error),
                }
            }
        }
        Ok(missing)
    }

    /// The coordinator's answer, where that is this broker.
    pub(crate) async fn join_here(self: &Arc<Self>, joining: &Joining) -> Result<Missing, ErrorCode> {
        let Joining { transactional_id: id, producer, partitions, protocol } = joining;
        if self.is_cut_off() {
            // Another broker may have ended by now what is open in this one's memory.
            return Err(ErrorCode::NOT_COORDINATOR);
        }
        let image = self.metadata.image();
        let is_known = |partition: &TopicPartition| {
            image.topic(&partition.topic).and_then(|topic| topic.partition(partition.partition)).is_some()
        };
        if !partitions.iter().all(is_known) {
            // What this broker has not heard of yet it would take for gone when the transaction ends.
            return Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        }
        let joined = self.transactions.ask(id, |transactions, now| {
            let (records, missing) = match protocol {
                Protocol::First => (Vec::new(), transactions.missing(id, *producer, partitions)),
                Protocol::Second => {
                    let (records, added) =
                        transactions.add_partitions(id, *producer, partitions, Protocol::Second, now);
                    (records, added.map(|()| Missing::new()))
                }
            };
            if missing.is_ok() {
                transactions.heard(id, None, now.wall);
            }
            (records, missing)
        });
        joined.await?.map_err(ErrorCode::from)
    }

    /// Asks a shard for what may take a producer id that nobody has: the controller is asked for one when it does.
    pub(crate) async fn with_fresh_id<Answer>(
        self: &Arc<Self>,
        transactional_id: &Str,
        mut question: impl FnMut(
            &mut Transactions,
            Option<ProducerId>,
            Now,
        ) -> (Vec<CoordinatorRecord>, Result<Answer, Refusal>),
    ) -> Result<Answer, ErrorCode> {
        let ask =
            self.transactions.ask(transactional_id, |transactions, now| question(transactions, None, now));
        match ask.await? {
            Err(Refusal::NeedsProducerId) => {
                let fresh = self.next_producer_id().await?;
                let ask = self
                    .transactions
                    .ask(transactional_id, |transactions, now| question(transactions, Some(fresh), now));
                ask.await?.map_err(ErrorCode::from)
            }
            answered => answered.map_err(ErrorCode::from),
        }
    }
}

fn request(joining: &Joining) -> AddPartitionsToTxnRequest {
    let transaction = AddPartitionsToTxnTransaction {
        transactional_id: joining.transactional_id.clone(),
        producer_id: joining.producer.id.0,
        producer_epoch: joining.producer.epoch.0,
        verify_only: joining.protocol == Protocol::First,
        topics: by_topic(&joining.partitions)
            .map(|(name, partitions)| AddPartitionsToTxnTopic { name, partitions })
            .collect(),
    };
    AddPartitionsToTxnRequest { transactions: vec![transaction], ..Default::default() }
}

/// Partitions that stand in order, under their topics.
pub(crate) fn by_topic<'a>(
    partitions: impl IntoIterator<Item = &'a TopicPartition>,
) -> impl Iterator<Item = (Str, Vec<i32>)> {
    let mut topics: Vec<(Str, Vec<i32>)> = Vec::new();
    for TopicPartition { topic, partition } in partitions {
        match topics.last_mut().filter(|(last, _)| last == topic) {
            Some((_, indexes)) => indexes.push(partition.0),
            None => topics.push((topic.clone(), vec![partition.0])),
        }
    }
    topics.into_iter()
}
