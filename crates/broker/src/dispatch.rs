//! From a frame to the handler of its API.
//!
//! The match over requests is exhaustive: an API that decodes is served. A frame that cannot be decoded ends its
//! connection, and an API or a version that is not known is told so before it does; ApiVersions alone is answered
//! with what is known (KIP-511).

use std::convert::identity;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;
use wire::messages::fetch::FetchRequest;
use wire::messages::produce::ProduceRequest;
use wire::{
    ApiKey, Chunk, DecodeError, Decoder, ErrorCode, Frame, FrameTooLong, Request, RequestHeader, Response,
    Str,
};

use crate::authorize;
use crate::broker::Broker;
use crate::context::{ConnectionContext, RequestContext};
use crate::handler;
use crate::outbound::Reply;

/// A reply that is still to come.
pub(crate) type PendingReply = Pin<Box<dyn Future<Output = Result<Reply, DispatchError>> + Send>>;

/// How a request is answered.
pub(crate) enum Answer {
    /// The reply is here.
    Now(Reply),
    /// The records are appended, the reply comes when they are safe. Requests behind it may start.
    Produce(PendingReply),
    /// The request runs when those before it are answered, and those behind it wait for its reply.
    Alone(PendingReply),
    /// The client wants no reply (acks=0).
    None,
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
    #[error("records were refused and the client wants no replies (acks=0)")]
    RefusedWithoutReply,
    #[error("the answer to {api:?} is too long: {error}")]
    AnswerTooLong { api: ApiKey, error: FrameTooLong },
}

/// Starts a request. Runs on the connection's task and must not block.
pub(crate) fn dispatch(
    broker: &Arc<Broker>,
    connection: &Arc<ConnectionContext>,
    frame: Bytes,
) -> Result<Answer, DispatchError> {
    let mut decoder = Decoder::new(frame);
    let header = RequestHeader::decode(&mut decoder).map_err(DispatchError::Header)?;
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
    let pending = Pending { broker: Arc::clone(broker), context, correlation_id: header.correlation_id };
    if !authorize::is_allowed(&pending.context) {
        return Err(DispatchError::NotAllowed { api });
    }
    start(pending, request)
}

/// A request between its decoding and its reply.
struct Pending {
    broker: Arc<Broker>,
    context: RequestContext,
    correlation_id: i32,
}

impl Pending {
    fn frame(&self, response: &Response) -> Result<Frame, DispatchError> {
        let RequestContext { api, version, received, .. } = self.context;
        self.broker.metrics.request_done(api, received.elapsed());
        Frame::response(self.correlation_id, api, version, response)
            .map_err(|error| DispatchError::AnswerTooLong { api, error })
    }

    fn reply(&self, response: &Response) -> Result<Reply, DispatchError> {
        self.frame(response).map(Reply::from)
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
            let body = handle(Arc::clone(&self.broker), self.context.clone()).await;
            self.reply(&wrap(body))
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
            Answer::Now(pending.reply(&Response::ApiVersions(response))?)
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
        Request::FindCoordinator(request) => {
            pending.alone(|b, c| h::find_coordinator::handle(b, c, request), Response::FindCoordinator)
        }
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
        Ok(Reply::new(pending.frame(&Response::Fetch(response))?, batches))
    }))
}

fn start_produce(pending: Pending, request: ProduceRequest) -> Result<Answer, DispatchError> {
    let produced = handler::produce::append(&pending.broker, &pending.context, request);
    if !produced.wants_reply {
        // A client that hears nothing must not go on believing (Kafka closes the connection too).
        return if produced.has_refusals() {
            Err(DispatchError::RefusedWithoutReply)
        } else {
            Ok(Answer::None)
        };
    }
    if produced.is_safe() {
        return Ok(Answer::Produce(Box::pin(async move {
            pending.reply(&Response::Produce(produced.into_response()))
        })));
    }
    Ok(Answer::Produce(Box::pin(async move {
        let response = produced.acknowledged().await;
        pending.reply(&Response::Produce(response))
    })))
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
