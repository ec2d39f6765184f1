//! The transaction APIs: each is a question to the pure state machine of the transactional id's shard.

use std::collections::BTreeSet;
use std::sync::Arc;

use regex::Regex;
use state::txn::{Client, Decided, Description, Heard, ListFilter, Producer, Protocol, STATES, Transactions};
use wire::messages::add_offsets_to_txn::{AddOffsetsToTxnRequest, AddOffsetsToTxnResponse};
use wire::messages::add_partitions_to_txn::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnRequest, AddPartitionsToTxnResponse,
    AddPartitionsToTxnResult, AddPartitionsToTxnTopic, AddPartitionsToTxnTopicResult,
    AddPartitionsToTxnTransaction,
};
use wire::messages::describe_transactions::{
    DescribeTransactionsRequest, DescribeTransactionsResponse, TopicData, TransactionState as Described,
};
use wire::messages::end_txn::{EndTxnRequest, EndTxnResponse};
use wire::messages::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};
use wire::messages::list_transactions::{
    ListTransactionsRequest, ListTransactionsResponse, TransactionState as Listed,
};
use wire::{ErrorCode, Millis, PartitionId, ProducerEpoch, ProducerId, Str, TopicPartition};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::coordinator::partition_for;
use crate::groups::OFFSETS_TOPIC;
use crate::transactions::{Joining, by_topic};

/// Clients know that a newer producer has fenced them from these versions on; before, their epoch is wrong (KIP-588).
const FENCED_VERSION_MIN: i16 = 2;
const FENCED_INIT_VERSION_MIN: i16 = 4;
/// Brokers ask about several transactions from this version on, clients in the versions before.
const BATCH_VERSION_MIN: i16 = 4;
/// Errors may ask for an abort from this version on (KIP-890).
const ABORTABLE_VERSION_MIN: i16 = 5;
/// Each transaction has an epoch of its own from this version on (KIP-890).
const OWN_EPOCH_VERSION_MIN: i16 = 5;
/// Regular expressions of ids may take so much, compiled.
const PATTERN_BYTES_MAX: usize = 1024 * 1024;

fn producer(id: i64, epoch: i16) -> Producer {
    Producer { id: ProducerId(id), epoch: ProducerEpoch(epoch) }
}

fn client_of(context: &RequestContext) -> Client {
    Client { id: context.client_id.clone().unwrap_or_default(), host: Str::from(context.client_host()) }
}

/// Remembers for whom something was done, where it was.
fn heard<Answer>(
    transactions: &mut Transactions,
    id: &Str,
    client: &Client,
    now: Millis,
    (records, answer): Decided<Answer>,
) -> Decided<Answer> {
    if answer.is_ok() {
        transactions.heard(id, Some(client), now);
    }
    (records, answer)
}

/// An error in the words that a client of this version knows.
fn known_to(error: ErrorCode, version: i16, fenced_version_min: i16) -> ErrorCode {
    match error {
        ErrorCode::PRODUCER_FENCED if version < fenced_version_min => ErrorCode::INVALID_PRODUCER_EPOCH,
        error => error,
    }
}

/// InitProducerId for a producer with a transactional id.
pub(super) async fn init_producer(
    broker: &Arc<Broker>,
    context: &RequestContext,
    id: &Str,
    request: &InitProducerIdRequest,
) -> InitProducerIdResponse {
    let given = producer(request.producer_id, request.producer_epoch);
    let expected = (given.id != ProducerId::NONE).then_some(given);
    let client = client_of(context);
    let begun = broker.with_fresh_id(id, |transactions, fresh, now| {
        let begun = transactions.init_producer(id, request.transaction_timeout_ms, expected, fresh, now);
        heard(transactions, id, &client, now.wall, begun)
    });
    match begun.await {
        Ok(Producer { id, epoch }) => {
            InitProducerIdResponse { producer_id: id.0, producer_epoch: epoch.0, ..Default::default() }
        }
        Err(error) => InitProducerIdResponse {
            error_code: known_to(error, context.version, FENCED_INIT_VERSION_MIN),
            producer_id: ProducerId::NONE.0,
            producer_epoch: ProducerEpoch::NONE.0,
            ..Default::default()
        },
    }
}

/// AddPartitionsToTxn, of a client or of other brokers.
pub(crate) async fn add_partitions(
    broker: Arc<Broker>,
    context: RequestContext,
    request: AddPartitionsToTxnRequest,
) -> AddPartitionsToTxnResponse {
    if context.version < BATCH_VERSION_MIN {
        let results_by_topic_v3_and_below = add_for_client(&broker, &context, request).await;
        return AddPartitionsToTxnResponse { results_by_topic_v3_and_below, ..Default::default() };
    }
    let mut results_by_transaction = Vec::with_capacity(request.transactions.len());
    for transaction in request.transactions {
        results_by_transaction.push(join(&broker, transaction, context.version).await);
    }
    AddPartitionsToTxnResponse { results_by_transaction, ..Default::default() }
}

async fn add_for_client(
    broker: &Arc<Broker>,
    context: &RequestContext,
    request: AddPartitionsToTxnRequest,
) -> Vec<AddPartitionsToTxnTopicResult> {
    let image = broker.metadata.image();
    let partitions = partitions(&request.v3_and_below_topics);
    let is_unknown = |partition: &TopicPartition| {
        image.topic(&partition.topic).and_then(|topic| topic.partition(partition.partition)).is_none()
    };
    if partitions.iter().any(is_unknown) {
        // All or nothing.
        return results(&request.v3_and_below_topics, |partition| match is_unknown(partition) {
            true => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
            false => ErrorCode::OPERATION_NOT_ATTEMPTED,
        });
    }
    let id = Str::copy_from(&request.v3_and_below_transactional_id);
    let producer = producer(request.v3_and_below_producer_id, request.v3_and_below_producer_epoch);
    let added = add(broker, context, &id, producer, &partitions).await;
    let error = known_to(added.err().unwrap_or(ErrorCode::NONE), context.version, FENCED_VERSION_MIN);
    results(&request.v3_and_below_topics, |_| error)
}

/// Adds what a client of the first protocol names.
async fn add(
    broker: &Arc<Broker>,
    context: &RequestContext,
    id: &Str,
    producer: Producer,
    partitions: &BTreeSet<TopicPartition>,
) -> Result<(), ErrorCode> {
    let client = client_of(context);
    let added = broker.transactions.ask(id, |transactions, now| {
        let added = transactions.add_partitions(id, producer, partitions, Protocol::First, now);
        heard(transactions, id, &client, now.wall, added)
    });
    added.await?.map_err(ErrorCode::from)
}

async fn join(
    broker: &Arc<Broker>,
    transaction: AddPartitionsToTxnTransaction,
    version: i16,
) -> AddPartitionsToTxnResult {
    let joining = Joining {
        transactional_id: Str::copy_from(&transaction.transactional_id),
        producer: producer(transaction.producer_id, transaction.producer_epoch),
        partitions: partitions(&transaction.topics),
        protocol: if transaction.verify_only { Protocol::First } else { Protocol::Second },
    };
    let missing_error = match version {
        ABORTABLE_VERSION_MIN.. => ErrorCode::TRANSACTION_ABORTABLE,
        _ => ErrorCode::INVALID_TXN_STATE,
    };
    let joined = broker.join_here(&joining).await;
    let topic_results = results(&transaction.topics, |partition| match &joined {
        Ok(missing) if missing.contains(partition) => missing_error,
        Ok(_) => ErrorCode::NONE,
        Err(error) => *error,
    });
    AddPartitionsToTxnResult { transactional_id: transaction.transactional_id, topic_results }
}

fn partitions(topics: &[AddPartitionsToTxnTopic]) -> BTreeSet<TopicPartition> {
    let named = topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(|index| TopicPartition::new(topic.name.clone(), PartitionId(*index)))
    });
    named.collect()
}

fn results(
    topics: &[AddPartitionsToTxnTopic],
    error_of: impl Fn(&TopicPartition) -> ErrorCode,
) -> Vec<AddPartitionsToTxnTopicResult> {
    let results = topics.iter().map(|topic| AddPartitionsToTxnTopicResult {
        name: topic.name.clone(),
        results_by_partition: topic
            .partitions
            .iter()
            .map(|index| AddPartitionsToTxnPartitionResult {
                partition_index: *index,
                partition_error_code: error_of(&TopicPartition::new(topic.name.clone(), PartitionId(*index))),
            })
            .collect(),
    });
    results.collect()
}

/// AddOffsetsToTxn: the partition that holds a group's offsets belongs to the transaction.
pub(crate) async fn add_offsets(
    broker: Arc<Broker>,
    context: RequestContext,
    request: AddOffsetsToTxnRequest,
) -> AddOffsetsToTxnResponse {
    let producer = producer(request.producer_id, request.producer_epoch);
    let added = match offsets_partition(&broker, &request.group_id).await {
        Ok(partition) => {
            let id = Str::copy_from(&request.transactional_id);
            add(&broker, &context, &id, producer, &BTreeSet::from([partition])).await
        }
        Err(error) => Err(error),
    };
    let error = added.err().unwrap_or(ErrorCode::NONE);
    AddOffsetsToTxnResponse {
        error_code: known_to(error, context.version, FENCED_VERSION_MIN),
        ..Default::default()
    }
}

async fn offsets_partition(broker: &Arc<Broker>, group_id: &str) -> Result<TopicPartition, ErrorCode> {
    if group_id.is_empty() {
        return Err(ErrorCode::INVALID_GROUP_ID);
    }
    broker.ensure_internal_topic(OFFSETS_TOPIC).await.map_err(|_| ErrorCode::COORDINATOR_NOT_AVAILABLE)?;
    let image = broker.metadata.image();
    let topic = image.topic(OFFSETS_TOPIC).ok_or(ErrorCode::COORDINATOR_NOT_AVAILABLE)?;
    Ok(TopicPartition::new(OFFSETS_TOPIC, partition_for(group_id, topic.partition_count())))
}

/// EndTxn: commits or aborts. The answer comes with the decision; the markers follow.
pub(crate) async fn end(
    broker: Arc<Broker>,
    context: RequestContext,
    request: EndTxnRequest,
) -> EndTxnResponse {
    let id = Str::copy_from(&request.transactional_id);
    let producer = producer(request.producer_id, request.producer_epoch);
    let protocol = match context.version {
        OWN_EPOCH_VERSION_MIN.. => Protocol::Second,
        _ => Protocol::First,
    };
    let client = client_of(&context);
    let ended = broker.with_fresh_id(&id, |transactions, fresh, now| {
        let ended = transactions.end(&id, producer, request.committed, protocol, fresh, now);
        heard(transactions, &id, &client, now.wall, ended)
    });
    match ended.await {
        Ok(next) => {
            EndTxnResponse { producer_id: next.id.0, producer_epoch: next.epoch.0, ..Default::default() }
        }
        Err(error) => EndTxnResponse {
            error_code: known_to(error, context.version, FENCED_VERSION_MIN),
            ..Default::default()
        },
    }
}

/// DescribeTransactions.
pub(crate) async fn describe(
    broker: Arc<Broker>,
    _: RequestContext,
    request: DescribeTransactionsRequest,
) -> DescribeTransactionsResponse {
    let mut seen = BTreeSet::new();
    let mut transaction_states = Vec::new();
    for id in request.transactional_ids.into_iter().filter(|id| seen.insert(id.clone())) {
        let described =
            broker.transactions.ask(&id, |transactions, _now| (Vec::new(), transactions.describe(&id))).await;
        let described = described.and_then(|described| described.map_err(ErrorCode::from));
        transaction_states.push(match described {
            Ok(Description { producer, state, timeout_ms, started_at, partitions, heard }) => Described {
                transactional_id: id,
                transaction_state: Str::from(state),
                transaction_timeout_ms: timeout_ms,
                transaction_start_time_ms: started_at.0,
                producer_id: producer.id.0,
                producer_epoch: producer.epoch.0,
                topics: by_topic(&partitions)
                    .map(|(topic, partitions)| TopicData { topic, partitions })
                    .collect(),
                last_request_time_ms: heard.as_ref().map_or(-1, |heard| heard.at.0),
                client_id: client(heard.as_ref()).map(|client| client.id.clone()),
                client_host: client(heard.as_ref()).map(|client| client.host.clone()),
                ..Default::default()
            },
            Err(error_code) => Described { transactional_id: id, error_code, ..Default::default() },
        });
    }
    DescribeTransactionsResponse { transaction_states, ..Default::default() }
}

/// The client that was heard of last, if the coordinator has heard of one.
fn client(heard: Option<&Heard>) -> Option<&Client> {
    heard?.client.as_ref()
}

/// ListTransactions: those of the shards that are here.
pub(crate) async fn list(
    broker: Arc<Broker>,
    _: RequestContext,
    request: ListTransactionsRequest,
) -> ListTransactionsResponse {
    let pattern = request.transactional_id_pattern.as_deref().filter(|pattern| !pattern.is_empty());
    let pattern = match pattern.map(compile).transpose() {
        Ok(pattern) => pattern,
        Err(error) => {
            tracing::debug!(%error, "transactions were asked for by an expression that is none");
            let error_code = ErrorCode::INVALID_REGULAR_EXPRESSION;
            return ListTransactionsResponse { error_code, ..Default::default() };
        }
    };
    let (states, unknown_state_filters): (Vec<_>, Vec<_>) =
        request.state_filters.into_iter().partition(|state| STATES.contains(&&**state));
    if states.is_empty() && !unknown_state_filters.is_empty() {
        return ListTransactionsResponse { unknown_state_filters, ..Default::default() };
    }
    let filter = ListFilter {
        states,
        producer_ids: request.producer_id_filters,
        open_for_ms: (request.duration_filter >= 0).then_some(request.duration_filter),
    };
    let now = broker.clock.now();
    let listed = match broker.transactions.ask_all(|transactions| transactions.list(&filter, now)).await {
        Ok(listed) => listed,
        Err(error_code) => return ListTransactionsResponse { error_code, ..Default::default() },
    };
    let wanted = listed
        .into_iter()
        .flatten()
        .filter(|listed| pattern.as_ref().is_none_or(|pattern| pattern.is_match(&listed.transactional_id)));
    let transaction_states = wanted.map(|listed| Listed {
        transactional_id: listed.transactional_id,
        producer_id: listed.producer.id.0,
        transaction_state: Str::from(listed.state),
    });
    ListTransactionsResponse {
        unknown_state_filters,
        transaction_states: transaction_states.collect(),
        ..Default::default()
    }
}

/// An expression that has to match as a whole. The engine is linear in the text, and the program bounded.
fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    regex::RegexBuilder::new(&format!("^(?:{pattern})$")).size_limit(PATTERN_BYTES_MAX).build()
}
