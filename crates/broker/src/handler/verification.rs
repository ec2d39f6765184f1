//! The first batch of a transaction in a partition: before it is appended, the coordinator says that the partition belongs to the
//! transaction, so that it will be told of the end (KIP-890).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use state::txn::{Producer, Protocol};
use wire::messages::produce::ProduceRequest;
use wire::records::BatchHeader;
use wire::{ErrorCode, LeaderEpoch, PartitionId, Str, TopicPartition};

use super::produce::{Refusal, topic_of};
use crate::broker::Broker;
use crate::context::RequestContext;
use crate::partition::{Partition, Verification};
use crate::transactions::Joining;

/// A partition belongs to the transaction when it is written to from this version on; before, the client has named it.
const IMPLICIT_VERSION_MIN: i16 = 12;
/// Clients know of transactions that have to be aborted from this version on.
const ABORTABLE_VERSION_MIN: i16 = 11;

/// An answer after which producers send again.
const NOT_KNOWN_YET: &str = "it cannot be said yet whether the partition belongs to the transaction";

/// What the coordinator says of the partitions that were to be asked about.
pub(crate) type Verified = HashMap<TopicPartition, Result<Verification, Refusal>>;

/// Who begins a transaction where.
pub(crate) struct Beginning {
    partition: Arc<Partition>,
    producer: Producer,
}

/// The partitions of a request in which its batches would begin a transaction.
pub(crate) fn beginnings(
    broker: &Broker,
    context: &RequestContext,
    request: &ProduceRequest,
) -> Vec<Beginning> {
    let mut beginnings = Vec::new();
    if request.transactional_id.is_none() {
        return beginnings;
    }
    let hosted = broker.partitions.load();
    for topic in &request.topic_data {
        let Some(here) = topic_of(&hosted, context, topic) else { continue };
        for data in &topic.partition_data {
            let Some(producer) = data.records.as_deref().and_then(|records| BatchHeader::parse(records).ok())
            else {
                continue;
            };
            let Some(producer) = transactional(&producer) else { continue };
            let Some(partition) = here.partition(PartitionId(data.index)) else { continue };
            if partition.check_leader(LeaderEpoch::NONE).is_ok() && partition.begins_transaction(producer) {
                beginnings.push(Beginning { partition: Arc::clone(partition), producer });
            }
        }
    }
    beginnings
}

/// The producer of a batch that belongs to a transaction.
pub(crate) fn transactional(header: &BatchHeader) -> Option<Producer> {
    let producer = Producer { id: header.producer_id(), epoch: header.producer_epoch() };
    header.attributes().is_transactional().then_some(producer)
}

/// Asks the coordinator.
pub(crate) async fn verify(
    broker: &Arc<Broker>,
    version: i16,
    transactional_id: &Str,
    beginnings: Vec<Beginning>,
) -> Verified {
    let protocol = match version {
        IMPLICIT_VERSION_MIN.. => Protocol::Second,
        _ => Protocol::First,
    };
    let mut verified = Verified::new();
    // A request is of one producer; should it not be, each is asked for.
    let mut left = beginnings;
    while let Some(producer) = left.first().map(|first| first.producer) {
        let (its, others): (Vec<_>, Vec<_>) =
            left.into_iter().partition(|beginning| beginning.producer == producer);
        left = others;
        let asked: Vec<_> = its.into_iter().map(|beginning| beginning.partition).collect();
        let asking = Asking { transactional_id, producer, protocol };
        verified.extend(ask(broker, asking, &asked).await.map(|(partition, outcome)| {
            let outcome = outcome.map_err(|error| match error {
                Some(error) => refusal(error),
                None => missing_error(version),
            });
            (partition, outcome)
        }));
    }
    verified
}

/// Who asks for partitions, and how.
#[derive(Clone, Copy)]
pub(crate) struct Asking<'a> {
    pub(crate) transactional_id: &'a Str,
    pub(crate) producer: Producer,
    pub(crate) protocol: Protocol,
}

/// Asks the coordinator whether partitions belong to the producer's transaction. An error is what it could not be asked for, or
/// nothing where it denies it.
pub(crate) async fn ask(
    broker: &Arc<Broker>,
    Asking { transactional_id, producer, protocol }: Asking<'_>,
    partitions: &[Arc<Partition>],
) -> impl Iterator<Item = (TopicPartition, Result<Verification, Option<ErrorCode>>)> {
    let begun: Vec<_> =
        partitions.iter().map(|partition| partition.begin_verification(producer, protocol)).collect();
    let named: BTreeSet<_> = partitions.iter().map(|partition| partition.id.clone()).collect();
    let transactional_id = Str::copy_from(transactional_id);
    let joining = Joining { transactional_id, producer, partitions: named, protocol };
    let joined = broker.join_transaction(joining).await;
    partitions.iter().zip(begun).map(move |(partition, verification)| {
        let outcome = match &joined {
            Ok(missing) if missing.contains(&partition.id) => Err(None),
            Ok(_) => Ok(verification),
            Err(error) => Err(Some(*error)),
        };
        (partition.id.clone(), outcome)
    })
}

/// What the producer is told whose transaction would begin where the coordinator was not asked about it: another broker led the
/// partition then, or another batch had begun the transaction. It is asked when the client comes again.
pub(crate) fn not_asked() -> Refusal {
    Refusal::new(ErrorCode::NOT_ENOUGH_REPLICAS, NOT_KNOWN_YET)
}

fn missing_error(version: i16) -> Refusal {
    let error = match version {
        ABORTABLE_VERSION_MIN.. => ErrorCode::TRANSACTION_ABORTABLE,
        _ => ErrorCode::INVALID_TXN_STATE,
    };
    Refusal::new(error, "the partition does not belong to the producer's transaction")
}

/// What the producer is told: what will be otherwise later is one of the errors that it asks again after.
fn refusal(error: ErrorCode) -> Refusal {
    match error {
        ErrorCode::CONCURRENT_TRANSACTIONS
        | ErrorCode::COORDINATOR_LOAD_IN_PROGRESS
        | ErrorCode::COORDINATOR_NOT_AVAILABLE
        | ErrorCode::NOT_COORDINATOR => Refusal::new(ErrorCode::NOT_ENOUGH_REPLICAS, NOT_KNOWN_YET),
        ErrorCode::PRODUCER_FENCED => {
            Refusal::new(ErrorCode::INVALID_PRODUCER_EPOCH, "a newer producer has the transactional id")
        }
        error => Refusal::from(error),
    }
}
