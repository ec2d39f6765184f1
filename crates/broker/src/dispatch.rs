//! From a frame to the handler of its API.
//!
//! The match over requests is exhaustive: an API that decodes is served. A frame that cannot be decoded ends its
//! connection, and an API or a version that is not known is told so before it does; ApiVersions alone is answered
//! with what is known (KIP-511).

use std::convert::identity;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use state::metadata::QuotaKey;
use tokio::time::{Instant, sleep, timeout_at};
use wire::messages::fetch::FetchRequest;
use wire::messages::forward::{ForwardRequest, ForwardResponse};
use wire::messages::produce::ProduceRequest;
use wire::{
    ApiKey, Chunk, DecodeError, Decoder, ErrorCode, Frame, FrameTooLong, Request, RequestHeader, Response,
    Str,
};

use crate::authorize;
use crate::broker::Broker;
use crate::context::{ConnectionContext, RequestContext};
use crate::handler::verification::{Beginning, Verified};
use crate::outbound::Reply;
use crate::{controller, handler, quotas, topics};

/// A reply that is still to come.
pub(crate) type PendingReply = Pin<Box<dyn Future<Output = Result<Reply, DispatchError>> + Send>>;

/// A produce whose records are still to be appended; then its reply is still to come.
pub(crate) type PendingAppend = Pin<Box<dyn Future<Output = Result<PendingReply, DispatchError>> + Send>>;

/// How a request is answered.
pub(crate) enum Answer {
    /// The reply is here.
    Now(Reply),
    /// The records are appended, the reply comes when they are safe. Requests behind it may start.
    Produce(PendingReply),
    /// The records will be appended, after those of the requests before. Requests behind it start then.
    Append(PendingAppend),
    /// The request runs when those before it are answered, and those behind it wait for its reply.
    Alone(PendingReply),
    /// The client wants no reply (acks=0).
    None,
}

impl Answer {
    /// The reply, where the request runs by itself.
    async fn reply(self) -> Result<Option<Reply>, DispatchError> {
        match self {
            Answer::Now(reply) => Ok(Some(reply)),
            Answer::Produce(reply) | Answer::Alone(reply) => reply.await.map(Some),
            Answer::Append(append) => append.await?.await.map(Some),
            Answer::None => Ok(None),
        }
    }
}

/// A request that ends its connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DispatchError {
    #[error("a request header that cannot be decoded: {0}")]
    Header(DecodeError),
    #[error("{api:?} version {version} that cannot be decoded: {error}")]
    Body { api: ApiKey, version: i16, error: DecodeError },
    #[error("{api:?} is not allowed")]
    NotAllowed { api: ApiKey },
    #[error("records of a transaction came from a client that wants no replies (acks=0)")]
    TransactionWithoutReply,
    #[error("records were refused and the client wants no replies (acks=0)")]
    RefusedWithoutReply,
    #[error("the answer to {api:?} is too long: {error}")]
    AnswerTooLong { api: ApiKey, error: FrameTooLong },
    #[error("a request without a reply (API {0}) came before this broker was ready")]
    NotReady(i16),
    #[error("{api:?} was not answered by the controller: {reason}")]
    NoController { api: ApiKey, reason: String },
}

/// Wait before the controller is asked again that was not there.
const CONTROLLER_RETRY: Duration = Duration::from_millis(50);

/// Starts a request. Runs on the connection's task and must not block.
pub(crate) fn dispatch(
    broker: &Arc<Broker>,
    connection: &Arc<ConnectionContext>,
    frame: Bytes,
) -> Result<Answer, DispatchError> {
    let mut decoder = Decoder::new(frame.clone());
    let header = RequestHeader::decode(&mut decoder).map_err(DispatchError::Header)?;
    if !*broker.ready.borrow() && !is_answered_early(&header, decoder.rest()) {
        return Ok(once_ready(broker, connection, header.api_key, frame));
    }
    let known = ApiKey::from_code(header.api_key).filter(|api| api.versions().contains(&header.api_version));
    let Some(api) = known else {
        return Ok(unsupported(broker, &header));
    };
    let version = header.api_version;
    let request = Request::decode(api, version, decoder.rest()).map_err(|error| DispatchError::Body {
        api,
        version,
        error,
    })?;
    let context = RequestContext {
        connection: Arc::clone(connection),
        api,
        version,
        // A copy: a slice would keep the whole frame for as long as the request is answered.
        client_id: header.client_id.as_deref().map(Str::copy_from),
        received: Instant::now(),
    };
    let pending = Pending {
        broker: Arc::clone(broker),
        context,
        correlation_id: header.correlation_id,
        request_bytes: frame.len(),
    };
    if !authorize::is_allowed(&pending.context) {
        return Err(DispatchError::NotAllowed { api });
    }
    if is_for_controller(api) { Ok(at_controller(pending, request, frame)) } else { start(pending, request) }
}

/// Brokers are answered as soon as they can be: the others may need this one to become ready.
fn is_answered_early(header: &RequestHeader, body: Bytes) -> bool {
    match ApiKey::from_code(header.api_key) {
        Some(ApiKey::ApiVersions) => {
            let request = Request::decode(ApiKey::ApiVersions, header.api_version, body);
            matches!(request, Ok(Request::ApiVersions(request)) if &*request.client_software_name == client::SOFTWARE_NAME)
        }
        Some(api) => api.is_private(),
        None => false,
    }
}

/// Begins again when the broker is ready. Until then a client waits as if nobody had taken its connection yet.
fn once_ready(
    broker: &Arc<Broker>,
    connection: &Arc<ConnectionContext>,
    api_key: i16,
    frame: Bytes,
) -> Answer {
    let (broker, connection) = (Arc::clone(broker), Arc::clone(connection));
    Answer::Alone(Box::pin(async move {
        broker.until_ready().await;
        let reply = dispatch(&broker, &connection, frame)?.reply().await?;
        reply.ok_or(DispatchError::NotReady(api_key))
    }))
}

/// Changes of the metadata, and what only the controller knows.
fn is_for_controller(api: ApiKey) -> bool {
    matches!(
        api,
        ApiKey::CreateTopics
            | ApiKey::DeleteTopics
            | ApiKey::CreatePartitions
            | ApiKey::AlterConfigs
            | ApiKey::IncrementalAlterConfigs
            | ApiKey::AlterClientQuotas
            | ApiKey::ElectLeaders
            | ApiKey::AlterPartitionReassignments
            | ApiKey::DescribeQuorum
            | ApiKey::UnregisterBroker
            | ApiKey::AddRaftVoter
            | ApiKey::RemoveRaftVoter
    )
}

/// Has a request answered by the active controller, here or elsewhere.
fn at_controller(pending: Pending, request: Request, frame: Bytes) -> Answer {
    Answer::Alone(Box::pin(async move {
        let broker = Arc::clone(&pending.broker);
        let api = pending.context.api;
        let wait = broker.settings().broker().network.request_timeout;
        let deadline = pending.context.received + wait;
        loop {
            let steps_aside = matches!(&request, Request::RemoveRaftVoter(request)
                if handler::quorum_members::is_about(&broker, request));
            let reason = if !broker.metadata.quorum().is_active_controller() {
                match broker.forward(forwarded(&pending.context, &frame), wait).await {
                    Ok(answer) if answer.error_code.is_ok() => {
                        broker.relay_throttle(&pending.context, answer.throttle_time_ms);
                        let index = u64::try_from(answer.metadata_index).unwrap_or(0);
                        // What the client asks this broker next, it expects to see.
                        let _ = timeout_at(deadline, broker.replicas.wait_reconciled(index)).await;
                        return Ok(Frame { chunks: vec![Chunk::Bytes(answer.frame)] }.into());
                    }
                    Ok(answer) if answer.error_code == ErrorCode::NOT_CONTROLLER => {
                        "it is another now".to_owned()
                    }
                    Ok(answer) => {
                        let reason = format!("{:?}", answer.error_code);
                        return Err(DispatchError::NoController { api, reason });
                    }
                    Err(error) if error.is_before_sending() => error.to_string(),
                    // Perhaps it was done: the client is to look, and not to hear that it was not.
                    Err(error) => return Err(DispatchError::NoController { api, reason: error.to_string() }),
                }
            } else if steps_aside {
                broker.metadata.quorum().hand_over().await;
                "another has to lead first".to_owned()
            } else {
                let reply = start(pending, request)?.reply().await?;
                return Ok(reply.unwrap_or_else(|| unreachable!("only acks=0 wants no reply")));
            };
            if Instant::now() + CONTROLLER_RETRY >= deadline {
                return Err(DispatchError::NoController { api, reason });
            }
            sleep(CONTROLLER_RETRY).await;
        }
    }))
}

fn forwarded(context: &RequestContext, frame: &Bytes) -> ForwardRequest {
    let connection = &context.connection;
    ForwardRequest {
        frame: frame.clone(),
        client_host: Str::from(connection.peer.ip().to_string()),
        client_port: connection.peer.port(),
        principal: connection.principal.clone(),
        listener: connection.listener.clone(),
    }
}

/// Answers what another broker was asked by its client.
async fn answer_forwarded(
    broker: Arc<Broker>,
    context: RequestContext,
    request: ForwardRequest,
) -> ForwardResponse {
    let refused = |error_code| ForwardResponse { error_code, ..ForwardResponse::default() };
    let mut header = Decoder::new(request.frame.clone());
    let api = RequestHeader::decode(&mut header).ok().and_then(|header| ApiKey::from_code(header.api_key));
    if !api.is_some_and(is_for_controller) {
        return refused(ErrorCode::INVALID_REQUEST);
    }
    if !broker.metadata.quorum().is_active_controller() {
        return refused(ErrorCode::NOT_CONTROLLER);
    }
    let Ok(host) = request.client_host.parse() else { return refused(ErrorCode::INVALID_REQUEST) };
    let connection = Arc::new(ConnectionContext::new(
        Str::copy_from(&request.listener),
        Str::copy_from(&request.principal),
        SocketAddr::new(host, request.client_port),
        context.connection.local,
    ));
    let reply = match dispatch(&broker, &connection, request.frame) {
        Ok(answer) => answer.reply().await,
        Err(error) => Err(error),
    };
    match reply.map(|reply| reply.map(Reply::into_bytes)) {
        Ok(None) => refused(ErrorCode::INVALID_REQUEST),
        Ok(Some(frame)) => ForwardResponse {
            frame,
            metadata_index: i64::try_from(broker.metadata.quorum().applied()).unwrap_or(i64::MAX),
            controller_id: broker.node_id.0,
            throttle_time_ms: quotas::left_ms(connection.muted_until().map(|tick| broker.moment_of(tick))),
            ..ForwardResponse::default()
        },
        Err(error) => {
            tracing::debug!(%error, "a forwarded request was not answered");
            refused(ErrorCode::INVALID_REQUEST)
        }
    }
}

/// A request between its decoding and its reply.
struct Pending {
    broker: Arc<Broker>,
    context: RequestContext,
    correlation_id: i32,
    request_bytes: usize,
}

impl Pending {
    /// The answer as bytes, with what quotas make of it. How long the request was worked on is counted here, unless it was
    /// before.
    fn frame(&self, mut response: Response, busy: Option<Duration>) -> Result<Frame, DispatchError> {
        let RequestContext { api, version, received, .. } = self.context;
        self.broker.metrics.request_done(api, received.elapsed());
        self.broker.settle(&self.context, &mut response, busy);
        Frame::response(self.correlation_id, api, version, &response)
            .map_err(|error| DispatchError::AnswerTooLong { api, error })
    }

    fn reply(&self, response: Response, busy: Duration) -> Result<Reply, DispatchError> {
        self.frame(response, Some(busy)).map(Reply::from)
    }

    /// Runs a handler by itself. The handler starts when the requests before it are answered.
    fn alone<Handled, Body: 'static>(
        self,
        handle: impl FnOnce(Arc<Broker>, RequestContext) -> Handled + Send + 'static,
        wrap: fn(Body) -> Response,
    ) -> Answer
    where
        Handled: Future<Output = Body> + Send + 'static,
    {
        Answer::Alone(Box::pin(async move {
            let work = handle(Arc::clone(&self.broker), self.context.clone());
            let (body, busy) = self.broker.quotas.timed(work).await;
            self.reply(wrap(body), busy)
        }))
    }
}

/// One line an API.
fn start(pending: Pending, request: Request) -> Result<Answer, DispatchError> {
    use handler as h;
    let answer = match request {
        Request::Produce(request) => return start_produce(pending, request),
        Request::Fetch(request) => start_fetch(pending, request),
        Request::ApiVersions(request) => {
            let response = h::api_versions::handle(&pending.broker, &pending.context, &request);
            Answer::Now(pending.reply(Response::ApiVersions(response), Duration::ZERO)?)
        }
        Request::Metadata(request) => {
            pending.alone(|b, c| h::metadata::handle(b, c, request), Response::Metadata)
        }
        Request::CreateTopics(request) => {
            pending.alone(|b, c| h::create_topics::handle(b, c, request), Response::CreateTopics)
        }
        Request::DeleteTopics(request) => {
            pending.alone(|b, c| h::delete_topics::handle(b, c, request), Response::DeleteTopics)
        }
        Request::CreatePartitions(request) => {
            pending.alone(|b, c| h::create_partitions::handle(b, c, request), Response::CreatePartitions)
        }
        Request::DeleteRecords(request) => {
            pending.alone(|b, c| h::delete_records::handle(b, c, request), Response::DeleteRecords)
        }
        Request::DescribeConfigs(request) => {
            pending.alone(|b, c| h::describe_configs::handle(b, c, request), Response::DescribeConfigs)
        }
        Request::AlterConfigs(request) => {
            pending.alone(|b, c| h::alter_configs::handle(b, c, request), Response::AlterConfigs)
        }
        Request::IncrementalAlterConfigs(request) => pending.alone(
            |b, c| h::incremental_alter_configs::handle(b, c, request),
            Response::IncrementalAlterConfigs,
        ),
        Request::GetTelemetrySubscriptions(request) => pending
            .alone(|b, c| h::telemetry::subscriptions(b, c, request), Response::GetTelemetrySubscriptions),
        Request::PushTelemetry(request) => {
            pending.alone(|b, c| h::telemetry::push(b, c, request), Response::PushTelemetry)
        }
        Request::ListConfigResources(request) => pending
            .alone(|b, c| h::list_config_resources::handle(b, c, request), Response::ListConfigResources),
        Request::DescribeClientQuotas(request) => pending
            .alone(|b, c| h::describe_client_quotas::handle(b, c, request), Response::DescribeClientQuotas),
        Request::AlterClientQuotas(request) => {
            pending.alone(|b, c| h::alter_client_quotas::handle(b, c, request), Response::AlterClientQuotas)
        }
        Request::AlterReplicaLogDirs(request) => pending
            .alone(|b, c| h::alter_replica_log_dirs::handle(b, c, request), Response::AlterReplicaLogDirs),
        Request::DescribeLogDirs(request) => {
            pending.alone(|b, c| h::describe_log_dirs::handle(b, c, request), Response::DescribeLogDirs)
        }
        Request::DescribeCluster(request) => {
            pending.alone(|b, c| h::describe_cluster::handle(b, c, request), Response::DescribeCluster)
        }
        Request::DescribeTopicPartitions(request) => pending.alone(
            |b, c| h::describe_topic_partitions::handle(b, c, request),
            Response::DescribeTopicPartitions,
        ),
        Request::DescribeProducers(request) => {
            pending.alone(|b, c| h::describe_producers::handle(b, c, request), Response::DescribeProducers)
        }
        Request::ListOffsets(request) => {
            pending.alone(|b, c| h::list_offsets::handle(b, c, request), Response::ListOffsets)
        }
        Request::OffsetForLeaderEpoch(request) => pending
            .alone(|b, c| h::offset_for_leader_epoch::handle(b, c, request), Response::OffsetForLeaderEpoch),
        Request::InitProducerId(request) => {
            pending.alone(|b, c| h::init_producer_id::handle(b, c, request), Response::InitProducerId)
        }
        Request::AddPartitionsToTxn(request) => {
            pending.alone(|b, c| h::transactions::add_partitions(b, c, request), Response::AddPartitionsToTxn)
        }
        Request::AddOffsetsToTxn(request) => {
            pending.alone(|b, c| h::transactions::add_offsets(b, c, request), Response::AddOffsetsToTxn)
        }
        Request::EndTxn(request) => {
            pending.alone(|b, c| h::transactions::end(b, c, request), Response::EndTxn)
        }
        Request::WriteTxnMarkers(request) => {
            pending.alone(|b, c| h::write_txn_markers::handle(b, c, request), Response::WriteTxnMarkers)
        }
        Request::TxnOffsetCommit(request) => pending
            .alone(|b, c| h::group_offsets::commit_in_transaction(b, c, request), Response::TxnOffsetCommit),
        Request::DescribeTransactions(request) => {
            pending.alone(|b, c| h::transactions::describe(b, c, request), Response::DescribeTransactions)
        }
        Request::ListTransactions(request) => {
            pending.alone(|b, c| h::transactions::list(b, c, request), Response::ListTransactions)
        }
        Request::InitializeShareGroupState(request) => {
            pending.alone(|b, _| h::share_state::initialize(b, request), Response::InitializeShareGroupState)
        }
        Request::ReadShareGroupState(request) => {
            pending.alone(|b, _| h::share_state::read(b, request), Response::ReadShareGroupState)
        }
        Request::WriteShareGroupState(request) => {
            pending.alone(|b, _| h::share_state::write(b, request), Response::WriteShareGroupState)
        }
        Request::DeleteShareGroupState(request) => {
            pending.alone(|b, _| h::share_state::delete(b, request), Response::DeleteShareGroupState)
        }
        Request::ReadShareGroupStateSummary(request) => {
            pending.alone(|b, _| h::share_state::summary(b, request), Response::ReadShareGroupStateSummary)
        }
        Request::ShareGroupHeartbeat(request) => {
            pending.alone(|b, c| h::share_group::heartbeat(b, c, request), Response::ShareGroupHeartbeat)
        }
        Request::ShareGroupDescribe(request) => {
            pending.alone(|b, _| h::share_group::describe(b, request), Response::ShareGroupDescribe)
        }
        Request::DescribeShareGroupOffsets(request) => pending
            .alone(|b, _| h::share_group_offsets::describe(b, request), Response::DescribeShareGroupOffsets),
        Request::AlterShareGroupOffsets(request) => {
            pending.alone(|b, _| h::share_group_offsets::alter(b, request), Response::AlterShareGroupOffsets)
        }
        Request::DeleteShareGroupOffsets(request) => pending
            .alone(|b, _| h::share_group_offsets::delete(b, request), Response::DeleteShareGroupOffsets),
        Request::ShareFetch(request) => {
            pending.alone(|b, c| h::share_fetch::handle(b, c, request), Response::ShareFetch)
        }
        Request::ShareAcknowledge(request) => {
            pending.alone(|b, c| h::share_acknowledge::handle(b, c, request), Response::ShareAcknowledge)
        }
        Request::FindCoordinator(request) => {
            pending.alone(|b, c| h::find_coordinator::handle(b, c, request), Response::FindCoordinator)
        }
        Request::ElectLeaders(request) => {
            pending.alone(|b, c| h::elect_leaders::handle(b, c, request), Response::ElectLeaders)
        }
        Request::AlterPartitionReassignments(request) => pending.alone(
            |b, c| h::alter_partition_reassignments::handle(b, c, request),
            Response::AlterPartitionReassignments,
        ),
        Request::ListPartitionReassignments(request) => pending.alone(
            |b, c| h::list_partition_reassignments::handle(b, c, request),
            Response::ListPartitionReassignments,
        ),
        Request::DescribeQuorum(request) => {
            pending.alone(|b, c| h::describe_quorum::handle(b, c, request), Response::DescribeQuorum)
        }
        Request::UpdateFeatures(request) => {
            pending.alone(|b, c| h::update_features::handle(b, c, request), Response::UpdateFeatures)
        }
        Request::UnregisterBroker(request) => {
            pending.alone(|b, c| h::unregister_broker::handle(b, c, request), Response::UnregisterBroker)
        }
        Request::AddRaftVoter(request) => {
            pending.alone(|b, c| h::quorum_members::handle_add(b, c, request), Response::AddRaftVoter)
        }
        Request::RemoveRaftVoter(request) => {
            pending.alone(|b, c| h::quorum_members::handle_remove(b, c, request), Response::RemoveRaftVoter)
        }
        Request::QuorumMessages(request) => pending.alone(
            |b, _| async move { b.metadata.quorum().receive(request).await },
            Response::QuorumMessages,
        ),
        Request::RegisterBroker(request) => {
            pending.alone(|b, _| controller::register(b, request), Response::RegisterBroker)
        }
        Request::BrokerHeartbeat(request) => {
            pending.alone(|b, _| controller::heartbeat(b, request), Response::BrokerHeartbeat)
        }
        Request::AlterPartition(request) => {
            pending.alone(|b, _| controller::alter_partition(b, request), Response::AlterPartition)
        }
        Request::AllocateProducerIds(request) => {
            pending.alone(|b, _| controller::allocate_producer_ids(b, request), Response::AllocateProducerIds)
        }
        Request::AutoCreateTopics(request) => {
            pending.alone(|b, _| topics::auto_create(b, request), Response::AutoCreateTopics)
        }
        Request::AcknowledgeFlushed(request) => {
            pending.alone(|b, c| h::acknowledge_flushed::handle(b, c, request), Response::AcknowledgeFlushed)
        }
        Request::Forward(request) => pending.alone(|b, c| answer_forwarded(b, c, request), Response::Forward),
        Request::JoinGroup(request) => pending.alone(|b, c| h::group::join(b, c, request), identity),
        Request::SyncGroup(request) => pending.alone(|b, c| h::group::sync(b, c, request), identity),
        Request::Heartbeat(request) => pending.alone(|b, c| h::group::heartbeat(b, c, request), identity),
        Request::LeaveGroup(request) => pending.alone(|b, c| h::group::leave(b, c, request), identity),
        Request::OffsetCommit(request) => {
            pending.alone(|b, c| h::group_offsets::commit(b, c, request), identity)
        }
        Request::OffsetFetch(request) => {
            pending.alone(|b, c| h::group_offsets::fetch(b, c, request), Response::OffsetFetch)
        }
        Request::DescribeGroups(request) => {
            pending.alone(|b, c| h::group::describe(b, c, request), Response::DescribeGroups)
        }
        Request::ConsumerGroupHeartbeat(request) => {
            pending.alone(|b, c| h::consumer_group::heartbeat(b, c, request), identity)
        }
        Request::ConsumerGroupDescribe(request) => {
            pending.alone(|b, c| h::consumer_group::describe(b, c, request), Response::ConsumerGroupDescribe)
        }
        Request::ListGroups(request) => {
            pending.alone(|b, c| h::group::list(b, c, request), Response::ListGroups)
        }
        Request::DeleteGroups(request) => {
            pending.alone(|b, c| h::group::delete(b, c, request), Response::DeleteGroups)
        }
        Request::OffsetDelete(request) => {
            pending.alone(|b, c| h::group_offsets::delete(b, c, request), identity)
        }
    };
    Ok(answer)
}

/// A fetch's reply holds batches that are read as the socket takes them.
fn start_fetch(pending: Pending, request: FetchRequest) -> Answer {
    Answer::Alone(Box::pin(async move {
        let (broker, context) = (Arc::clone(&pending.broker), pending.context.clone());
        let (response, batches) = handler::fetch::handle(broker, context, request).await;
        Ok(Reply::new(pending.frame(Response::Fetch(response), None)?, batches))
    }))
}

fn start_produce(pending: Pending, request: ProduceRequest) -> Result<Answer, DispatchError> {
    let beginnings = handler::verification::beginnings(&pending.broker, &pending.context, &request);
    if !beginnings.is_empty() {
        return Ok(begin_transactions(pending, request, beginnings));
    }
    let began = Instant::now();
    let produced = handler::produce::append(&pending.broker, &pending.context, request, Verified::new());
    let busy = began.elapsed();
    // What is behind it waits from now on, not from its acknowledgement.
    let held_back =
        pending.broker.count_bytes(&pending.context, QuotaKey::ProducerByteRate, pending.request_bytes);
    if !produced.wants_reply {
        // A client that hears nothing must not go on believing (Kafka closes the connection too).
        return if produced.has_refusals() {
            Err(DispatchError::RefusedWithoutReply)
        } else {
            Ok(Answer::None)
        };
    }
    Ok(Answer::Produce(Box::pin(async move {
        let mut response = if produced.is_safe() {
            produced.into_response(&pending.broker)
        } else {
            produced.acknowledged(&pending.broker).await
        };
        response.throttle_time_ms = quotas::left_ms(held_back);
        pending.reply(Response::Produce(response), busy)
    })))
}

/// Asks the coordinator before the first batches of a transaction are appended. What the client sends behind them waits for that,
/// so that its order is kept, and not for the acknowledgement.
fn begin_transactions(pending: Pending, request: ProduceRequest, beginnings: Vec<Beginning>) -> Answer {
    Answer::Append(Box::pin(async move {
        let (broker, version) = (&pending.broker, pending.context.version);
        let id = request.transactional_id.clone().unwrap_or_default();
        let verified = handler::verification::verify(broker, version, &id, beginnings).await;
        let began = Instant::now();
        let produced = handler::produce::append(broker, &pending.context, request, verified);
        let busy = began.elapsed();
        let held_back =
            broker.count_bytes(&pending.context, QuotaKey::ProducerByteRate, pending.request_bytes);
        if !produced.wants_reply {
            return Err(DispatchError::TransactionWithoutReply);
        }
        let reply: PendingReply = Box::pin(async move {
            let mut response = produced.acknowledged(&pending.broker).await;
            response.throttle_time_ms = quotas::left_ms(held_back);
            pending.reply(Response::Produce(response), busy)
        });
        Ok(reply)
    }))
}

/// An API or version that this broker does not speak: said in the smallest way that any client can read.
fn unsupported(broker: &Broker, header: &RequestHeader) -> Answer {
    broker.metrics.unsupported_request();
    if header.api_key == ApiKey::ApiVersions.code() {
        let response = Response::ApiVersions(handler::api_versions::unsupported_version());
        let frame = Frame::response(header.correlation_id, ApiKey::ApiVersions, 0, &response);
        return Answer::Now(frame.expect("the table of APIs fits a frame").into());
    }
    let mut reply = Vec::with_capacity(10);
    reply.extend_from_slice(&6_i32.to_be_bytes());
    reply.extend_from_slice(&header.correlation_id.to_be_bytes());
    reply.extend_from_slice(&ErrorCode::UNSUPPORTED_VERSION.0.to_be_bytes());
    Answer::Now(Frame { chunks: vec![Chunk::Bytes(reply.into())] }.into())
}
