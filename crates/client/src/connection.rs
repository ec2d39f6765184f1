//! One socket to one broker.
//!
//! Requests are pipelined: each waits only for its own answer, matched by correlation id. At most
//! `max.in.flight.requests.per.connection` wait at a time, and an answer longer than `receive.message.max.bytes`
//! or one that nobody waits for ends the connection. A request that runs into its deadline ends it too, because
//! the answers behind it are stuck; so does `connections.max.idle.ms` without any. A connection never reconnects:
//! whoever holds it opens another.

use std::collections::HashMap;
use std::io;
use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep_until, timeout_at};
use wire::messages::api_versions::ApiVersionsRequest;
use wire::{
    ApiKey, ApiRequest, DecodeError, Decoder, ErrorCode, Frame, Message, RequestHeader, ResponseHeader, Str,
};

use crate::api::Call;
use crate::environment::{Address, Environment, Socket};
use crate::error::Error;
use crate::options::Options;

/// How this client calls itself.
pub const SOFTWARE_NAME: &str = "ottla";

/// Why a connection is closed that nobody uses.
const IDLE: &str = "nobody used it for connections.max.idle.ms";

/// A connection to a broker, after the two agreed on versions. Clones share the socket.
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

struct Inner {
    address: Address,
    client_id: Str,
    /// Filled by the first exchange.
    agreed: Agreed,
    correlation_id: AtomicI32,
    in_flight: Arc<Semaphore>,
    outgoing: mpsc::Sender<Outgoing>,
    shared: Arc<Shared>,
}

/// What the other side said of itself.
#[derive(Default)]
struct Agreed {
    versions: HashMap<ApiKey, RangeInclusive<i16>>,
    /// The features that the cluster has turned on, and up to which level.
    features: HashMap<Str, i16>,
}

/// What callers and the task that owns the socket both see.
#[derive(Default)]
struct Shared {
    pending: Mutex<HashMap<i32, Pending>>,
    /// Why the connection is over and since when, once it is.
    closed: Mutex<Option<(Instant, String)>>,
    /// Wakes the task to end the connection.
    wake: Notify,
}

/// A request that waits for its answer.
struct Pending {
    reply: oneshot::Sender<Result<Bytes, Error>>,
    _in_flight: OwnedSemaphorePermit,
}

struct Outgoing {
    frame: Frame,
    /// `None` for a produce request with acks=0, which is never answered.
    pending: Option<(i32, Pending)>,
    /// Who waits for it to be written.
    written: Option<oneshot::Sender<()>>,
    _in_flight: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// Connects and agrees on versions, within `socket.connection.setup.timeout.ms`.
    ///
    /// # Errors
    /// [`Error::Connect`] when no socket could be opened; whatever the first exchange ends with.
    pub async fn open(
        environment: &dyn Environment,
        address: &Address,
        options: &Options,
    ) -> Result<Self, Error> {
        Self::open_within(environment, address, options, options.connect_timeout).await
    }

    /// The same within another time.
    pub(crate) async fn open_within(
        environment: &dyn Environment,
        address: &Address,
        options: &Options,
        timeout: Duration,
    ) -> Result<Self, Error> {
        let deadline = Instant::now() + timeout;
        let failed = |source| Error::Connect { address: address.clone(), source: Arc::new(source) };
        let socket = match timeout_at(deadline, environment.connect(address)).await {
            Ok(connected) => connected.map_err(failed)?,
            Err(_) => return Err(failed(io::ErrorKind::TimedOut.into())),
        };
        let mut connection = Self::start(socket, address, options);
        let agreed = connection.agree(deadline).await?;
        let inner = Arc::get_mut(&mut connection.inner).expect("nobody else has seen this connection yet");
        inner.agreed = agreed;
        Ok(connection)
    }

    fn start(socket: Box<dyn Socket>, address: &Address, options: &Options) -> Self {
        let (outgoing, queue) = mpsc::channel(options.in_flight_max);
        let shared = Arc::new(Shared::default());
        let task = Task {
            address: address.clone(),
            shared: Arc::clone(&shared),
            receive_bytes_max: options.receive_bytes_max,
            idle_max: options.connection_idle_max,
            used: Mutex::new(Instant::now()),
        };
        tokio::spawn(task.run(socket, queue));
        let inner = Inner {
            address: address.clone(),
            client_id: Str::copy_from(&options.client_id),
            agreed: Agreed::default(),
            correlation_id: AtomicI32::new(0),
            in_flight: Arc::new(Semaphore::new(options.in_flight_max)),
            outgoing,
            shared,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Asks for the broker's versions, in an older version if the broker knows none of ours (KIP-511).
    async fn agree(&self, deadline: Instant) -> Result<Agreed, Error> {
        let request = || ApiVersionsRequest {
            client_software_name: Str::from(SOFTWARE_NAME),
            client_software_version: Str::from(env!("CARGO_PKG_VERSION")),
        };
        let mut version = ApiVersionsRequest::VERSION_MAX;
        loop {
            let response = self.call_version(request(), version, deadline).await?;
            if response.error_code.is_ok() {
                let offered = response.api_keys.iter().filter_map(|offered| {
                    let api = ApiKey::from_code(offered.api_key)?;
                    let ours = api.versions();
                    let common =
                        offered.min_version.max(*ours.start())..=offered.max_version.min(*ours.end());
                    (!common.is_empty()).then_some((api, common))
                });
                let features = response.finalized_features.iter();
                let features = features.map(|feature| (feature.name.clone(), feature.max_version_level));
                return Ok(Agreed { versions: offered.collect(), features: features.collect() });
            }
            let code = ApiKey::ApiVersions.code();
            let known = response.api_keys.iter().find(|offered| offered.api_key == code);
            let older = known.map_or(0, |offered| offered.max_version).min(version - 1);
            if response.error_code != ErrorCode::UNSUPPORTED_VERSION || older < 0 {
                let doing = format!("asking {} for its versions", self.inner.address);
                return Err(Error::kafka(response.error_code, doing, None));
            }
            version = older;
        }
    }

    /// Where the connection leads to.
    pub fn address(&self) -> &Address {
        &self.inner.address
    }

    /// Whether the connection is over.
    pub fn is_closed(&self) -> bool {
        self.inner.outgoing.is_closed()
    }

    /// When the connection broke, if it did: one that was closed for idling has not.
    pub(crate) fn broken(&self) -> Option<Instant> {
        let closed = self.inner.shared.closed.lock().unwrap_or_else(PoisonError::into_inner);
        closed.as_ref().filter(|(_, reason)| reason != IDLE).map(|&(when, _)| when)
    }

    /// Waits until the connection is over.
    pub async fn closed(&self) {
        self.inner.outgoing.closed().await;
    }

    /// The newest version of an API that both sides speak, if there is one.
    pub(crate) fn version<C: Call>(&self) -> Result<i16, Error> {
        self.version_up_to::<C>(C::VERSION_MAX)
    }

    /// The same where a newer version would mean something else than the caller wants.
    pub(crate) fn version_up_to<C: Call>(&self, version_max: i16) -> Result<i16, Error> {
        let unsupported = || Error::Unsupported { address: self.inner.address.clone(), api: C::API.name() };
        let common = self.inner.agreed.versions.get(&C::API).ok_or_else(unsupported)?;
        let newest = C::VERSION_MAX.min(version_max).min(*common.end());
        if common.contains(&newest) { Ok(newest) } else { Err(unsupported()) }
    }

    /// Up to which level the cluster has turned a feature on; 0 if it does not know it (KIP-584).
    pub(crate) fn feature(&self, name: &str) -> i16 {
        self.inner.agreed.features.get(name).copied().unwrap_or(0)
    }

    /// Sends a request and waits for its answer until the deadline.
    pub(crate) async fn call<C: Call>(&self, request: C, deadline: Instant) -> Result<C::Response, Error> {
        let version = self.version::<C>()?;
        self.call_version(request, version, deadline).await
    }

    /// Hands a request over without waiting, in the order of the calls; what is returned waits for its answer until
    /// the deadline. Whoever calls this keeps count: more than `max.in.flight.requests.per.connection` are refused.
    pub(crate) fn submit<C: Call>(
        &self,
        request: C,
        version: i16,
        deadline: Instant,
    ) -> Result<Answer<C>, Error> {
        let (correlation_id, frame) = self.frame(request, version);
        let permit = Arc::clone(&self.inner.in_flight).try_acquire_owned().map_err(|_| self.lost())?;
        let (reply, received) = oneshot::channel();
        let pending = Some((correlation_id, Pending { reply, _in_flight: permit }));
        let outgoing = Outgoing { frame, pending, written: None, _in_flight: None };
        self.inner.outgoing.try_send(outgoing).map_err(|_| self.lost())?;
        let begun = Instant::now();
        Ok(Answer { connection: self.clone(), received, version, begun, deadline, request: PhantomData })
    }

    /// Sends a request that is not answered; returns when it is written.
    pub(crate) async fn send<C: Call>(
        &self,
        request: C,
        version: i16,
        deadline: Instant,
    ) -> Result<(), Error> {
        let (_, frame) = self.frame(request, version);
        let begun = Instant::now();
        let send = async {
            let permit = self.permit().await?;
            let (written, is_written) = oneshot::channel();
            let (written, _in_flight) = (Some(written), Some(permit));
            self.enqueue(Outgoing { frame, pending: None, written, _in_flight }).await?;
            is_written.await.map_err(|_| self.lost())
        };
        timeout_at(deadline, send).await.unwrap_or_else(|_| {
            self.close("a request could not be written in time");
            Err(self.timed_out(C::API, begun))
        })
    }

    /// Ends the connection: who waits for an answer hears why.
    pub(crate) fn close(&self, reason: &'static str) {
        self.inner.shared.close(reason);
    }

    /// Sends a request in a version that the caller knows the other side to speak, and waits for its answer until the
    /// deadline: what brokers say among themselves is not advertised.
    ///
    /// # Errors
    /// [`Error::Disconnected`], [`Error::Timeout`] after which the connection is over, or [`Error::Malformed`].
    pub async fn call_version<C: ApiRequest>(
        &self,
        request: C,
        version: i16,
        deadline: Instant,
    ) -> Result<C::Response, Error> {
        let (correlation_id, frame) = self.frame(request, version);
        let begun = Instant::now();
        let (reply, mut received) = oneshot::channel();
        let exchange = async {
            let permit = self.permit().await?;
            let pending = Some((correlation_id, Pending { reply, _in_flight: permit }));
            self.enqueue(Outgoing { frame, pending, written: None, _in_flight: None }).await?;
            (&mut received).await.unwrap_or_else(|_| Err(self.lost()))
        };
        let answer = timeout_at(deadline, exchange).await;
        self.answered::<C>(answer, version, begun)
    }

    fn answered<C: ApiRequest>(
        &self,
        answer: Result<Result<Bytes, Error>, Elapsed>,
        version: i16,
        begun: Instant,
    ) -> Result<C::Response, Error> {
        match answer {
            Ok(answer) => decode::<C>(version, answer?).map_err(|source| Error::Malformed {
                address: self.inner.address.clone(),
                api: C::API.name(),
                source,
            }),
            Err(_) => {
                // Answers come in order: behind one that is late, all are.
                self.inner.shared.close("a request was not answered in time");
                Err(self.timed_out(C::API, begun))
            }
        }
    }

    fn frame<C: ApiRequest>(&self, request: C, version: i16) -> (i32, Frame) {
        let correlation_id = self.inner.correlation_id.fetch_add(1, Ordering::Relaxed);
        let header = RequestHeader {
            api_key: C::API.code(),
            api_version: version,
            correlation_id,
            client_id: Some(self.inner.client_id.clone()),
        };
        (correlation_id, Frame::request(&header, &request.into()))
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, Error> {
        Arc::clone(&self.inner.in_flight).acquire_owned().await.map_err(|_| self.lost())
    }

    async fn enqueue(&self, outgoing: Outgoing) -> Result<(), Error> {
        self.inner.outgoing.send(outgoing).await.map_err(|_| self.lost())
    }

    fn lost(&self) -> Error {
        self.inner.shared.lost(&self.inner.address)
    }

    fn timed_out(&self, api: ApiKey, begun: Instant) -> Error {
        let doing = format!("waiting for {} to answer {}", self.inner.address, api.name());
        Error::Timeout { doing, after: begun.elapsed(), last: None }
    }
}

/// A request that was handed over and waits for its answer.
pub(crate) struct Answer<C> {
    connection: Connection,
    received: oneshot::Receiver<Result<Bytes, Error>>,
    version: i16,
    begun: Instant,
    deadline: Instant,
    request: PhantomData<fn(C)>,
}

impl<C: ApiRequest> Answer<C> {
    /// The answer, or why there is none. May be dropped and called again until it has returned.
    pub(crate) async fn get(&mut self) -> Result<C::Response, Error> {
        let answer = timeout_at(self.deadline, &mut self.received).await;
        let answer = answer.map(|received| received.unwrap_or_else(|_| Err(self.connection.lost())));
        self.connection.answered::<C>(answer, self.version, self.begun)
    }
}

impl Shared {
    fn pending(&self) -> std::sync::MutexGuard<'_, HashMap<i32, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lost(&self, address: &Address) -> Error {
        let reason = self.closed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let reason = reason.map_or_else(|| "it was closed".to_owned(), |(_, reason)| reason);
        Error::Disconnected { address: address.clone(), reason }
    }

    /// Keeps the first reason.
    fn close(&self, reason: impl Into<String>) {
        self.closed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert((Instant::now(), reason.into()));
        self.wake.notify_one();
    }
}

/// The task that owns the socket.
struct Task {
    address: Address,
    shared: Arc<Shared>,
    receive_bytes_max: usize,
    idle_max: Duration,
    /// When something was last sent or received.
    used: Mutex<Instant>,
}

impl Task {
    /// Runs until the socket breaks, a deadline passes or the last handle is dropped.
    async fn run(self, socket: Box<dyn Socket>, mut queue: mpsc::Receiver<Outgoing>) {
        let (reader, writer) = tokio::io::split(socket);
        let ended = tokio::select! {
            ended = self.read(reader) => ended,
            ended = self.write(writer, &mut queue) => ended,
            () = self.shared.wake.notified() => Ok(()),
            () = self.idle(), if !self.idle_max.is_zero() => {
                self.shared.close(IDLE);
                Ok(())
            }
        };
        if let Err(error) = ended {
            tracing::debug!(address = %self.address, %error, "connection lost");
            self.shared.close(error.to_string());
        }
        queue.close();
        // What is still queued was never sent; dropping it tells those who wait.
        while queue.try_recv().is_ok() {}
        let pending = std::mem::take(&mut *self.shared.pending());
        for waiting in pending.into_values() {
            // A caller that gave up no longer listens.
            let _ = waiting.reply.send(Err(self.shared.lost(&self.address)));
        }
    }

    /// Returns when nothing is under way and nothing was for as long as a connection may idle.
    async fn idle(&self) {
        loop {
            let until = *self.used.lock().unwrap_or_else(PoisonError::into_inner) + self.idle_max;
            if until > Instant::now() {
                sleep_until(until).await;
            } else if self.shared.pending().is_empty() {
                return;
            } else {
                self.touch();
            }
        }
    }

    fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    async fn write(
        &self,
        writer: impl AsyncWrite + Unpin,
        queue: &mut mpsc::Receiver<Outgoing>,
    ) -> io::Result<()> {
        let mut writer = BufWriter::with_capacity(16 * 1024, writer);
        let mut written = Vec::new();
        while let Some(mut outgoing) = queue.recv().await {
            // Whatever else is waiting goes out in the same write.
            loop {
                if let Some((correlation_id, pending)) = outgoing.pending.take() {
                    self.shared.pending().insert(correlation_id, pending);
                }
                for chunk in &outgoing.frame.chunks {
                    writer.write_all(chunk.bytes()).await?;
                }
                written.extend(outgoing.written.take());
                match queue.try_recv() {
                    Ok(next) => outgoing = next,
                    Err(_) => break,
                }
            }
            writer.flush().await?;
            for written in written.drain(..) {
                // A caller that gave up no longer listens.
                let _ = written.send(());
            }
            self.touch();
        }
        writer.shutdown().await
    }

    async fn read(&self, mut reader: impl AsyncRead + Unpin) -> io::Result<()> {
        let invalid = |problem: String| io::Error::new(io::ErrorKind::InvalidData, problem);
        loop {
            let length = match reader.read_i32().await {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(io::Error::new(error.kind(), "the broker closed it"));
                }
                Err(error) => return Err(error),
            };
            let length = usize::try_from(length)
                .ok()
                .filter(|&length| (4..=self.receive_bytes_max).contains(&length))
                .ok_or_else(|| {
                    let max = self.receive_bytes_max;
                    invalid(format!("an answer of {length} bytes; receive.message.max.bytes is {max}"))
                })?;
            let frame = read_frame(&mut reader, length).await?;
            let correlation_id = (&frame[..4]).get_i32();
            let Some(pending) = self.shared.pending().remove(&correlation_id) else {
                return Err(invalid(format!("an answer to request {correlation_id}, which nobody sent")));
            };
            let Pending { reply, _in_flight: permit } = pending;
            // Whoever is answered may send the next one.
            drop(permit);
            // A caller that gave up no longer listens.
            let _ = reply.send(Ok(frame));
            self.touch();
        }
    }
}

/// A length that lies costs a step: there is room for the rest when that has come.
async fn read_frame(reader: &mut (impl AsyncRead + Unpin), length: usize) -> io::Result<Bytes> {
    const STEP_BYTES_MAX: usize = 1024 * 1024;
    let mut frame = BytesMut::with_capacity(length.min(STEP_BYTES_MAX));
    let mut body = reader.take(length as u64);
    while frame.len() < length {
        if frame.len() == frame.capacity() {
            frame.reserve(length - frame.len());
        }
        if body.read_buf(&mut frame).await? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the broker closed it inside an answer",
            ));
        }
    }
    Ok(frame.freeze())
}

fn decode<C: ApiRequest>(version: i16, frame: Bytes) -> Result<C::Response, DecodeError> {
    let mut decoder = Decoder::new(frame);
    ResponseHeader::decode(&mut decoder, C::API, version)?;
    // A broker that does not know the version of an ApiVersions request answers in version 0 (KIP-511).
    let unsupported = ErrorCode::UNSUPPORTED_VERSION.0.to_be_bytes();
    let is_older = C::API == ApiKey::ApiVersions && decoder.rest().starts_with(&unsupported);
    C::Response::decode(&mut decoder, if is_older { 0 } else { version })
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;
    use std::time::Duration;

    use bytes::{Buf, Bytes, BytesMut};
    use expect_test::{Expect, expect};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::time::{Instant, timeout};
    use wire::messages::api_versions::{ApiVersion, ApiVersionsResponse};
    use wire::messages::metadata::{MetadataRequest, MetadataRequestTopic, MetadataResponse};
    use wire::{ApiKey, ErrorCode, Frame, Millis, Response};

    use super::Connection;
    use crate::environment::{Address, BoxFuture, Environment, Socket};
    use crate::error::Error;
    use crate::options::Options;

    /// A network with one broker on it, played by the test.
    struct Stage(Mutex<Option<DuplexStream>>);

    impl Environment for Stage {
        fn connect<'a>(&'a self, _: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Socket>>> {
            let stream = self.0.lock().unwrap().take();
            Box::pin(async move {
                let stream = stream.ok_or(io::ErrorKind::ConnectionRefused)?;
                Ok(Box::new(stream) as Box<dyn Socket>)
            })
        }

        fn now(&self) -> Millis {
            Millis(0)
        }

        fn random(&self) -> u64 {
            0
        }
    }

    /// The broker's side of the stream.
    struct Peer(DuplexStream);

    impl Peer {
        /// The next request's API, version and correlation id.
        async fn request(&mut self) -> (i16, i16, i32) {
            let length = self.0.read_i32().await.unwrap() as usize;
            let mut frame = BytesMut::zeroed(length);
            self.0.read_exact(&mut frame).await.unwrap();
            (frame.get_i16(), frame.get_i16(), frame.get_i32())
        }

        async fn answer(&mut self, correlation_id: i32, version: i16, response: Response) {
            let frame = Frame::response(correlation_id, response.api(), version, &response);
            self.0.write_all(&frame.unwrap().to_bytes()).await.unwrap();
        }

        async fn greet(&mut self) {
            let (_, version, correlation_id) = self.request().await;
            self.answer(correlation_id, version, versions(ErrorCode::NONE, 3)).await;
        }
    }

    fn versions(error_code: ErrorCode, api_versions_max: i16) -> Response {
        let offered =
            |api: ApiKey, max_version| ApiVersion { api_key: api.code(), max_version, ..Default::default() };
        let api_keys = vec![offered(ApiKey::ApiVersions, api_versions_max), offered(ApiKey::Metadata, 12)];
        ApiVersionsResponse { error_code, api_keys, ..Default::default() }.into()
    }

    fn metadata(cluster_id: &'static str) -> Response {
        MetadataResponse { cluster_id: Some(cluster_id.into()), ..Default::default() }.into()
    }

    async fn open(peer: impl AsyncFnOnce(&mut Peer)) -> (Result<Connection, Error>, Peer) {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let stage = Stage(Mutex::new(Some(ours)));
        let address: Address = "broker:9092".parse().unwrap();
        let mut options = Options::default();
        options.set("receive.message.max.bytes", "1000").unwrap();
        let mut theirs = Peer(theirs);
        let (connection, ()) = tokio::join!(Connection::open(&stage, &address, &options), peer(&mut theirs));
        (connection, theirs)
    }

    async fn ask(connection: &Connection) -> Result<String, Error> {
        let deadline = Instant::now() + Duration::from_secs(30);
        let response = connection.call(MetadataRequest::default(), deadline).await?;
        Ok(response.cluster_id.unwrap_or_default().to_string())
    }

    fn check(outcome: Result<String, Error>, expected: Expect) {
        expected.assert_eq(&outcome.unwrap_or_else(|error| error.to_string()));
    }

    #[tokio::test]
    async fn answers_find_their_requests_whatever_their_order() {
        let (connection, mut peer) = open(Peer::greet).await;
        let connection = connection.unwrap();
        let broker = async {
            let (_, version, first) = peer.request().await;
            let (_, _, second) = peer.request().await;
            peer.answer(second, version, metadata("second")).await;
            peer.answer(first, version, metadata("first")).await;
        };
        let (first, second, ()) = tokio::join!(ask(&connection), ask(&connection), broker);
        check(first, expect!["first"]);
        check(second, expect!["second"]);
    }

    #[tokio::test]
    async fn a_broker_that_knows_an_older_version_is_asked_in_that() {
        let (connection, mut peer) = open(async |peer: &mut Peer| {
            let (_, version, correlation_id) = peer.request().await;
            assert_eq!(version, 3);
            peer.answer(correlation_id, 0, versions(ErrorCode::UNSUPPORTED_VERSION, 1)).await;
            let (_, version, correlation_id) = peer.request().await;
            assert_eq!(version, 1);
            peer.answer(correlation_id, 1, versions(ErrorCode::NONE, 1)).await;
        })
        .await;
        let connection = connection.unwrap();
        let broker = async {
            let (_, version, correlation_id) = peer.request().await;
            peer.answer(correlation_id, version, metadata("old")).await;
        };
        let (answer, ()) = tokio::join!(ask(&connection), broker);
        check(answer, expect!["old"]);
    }

    #[tokio::test]
    async fn a_length_that_lies_ends_the_connection_and_takes_no_memory() {
        let (connection, mut peer) = open(Peer::greet).await;
        let connection = connection.unwrap();
        let broker = async {
            peer.request().await;
            peer.0.write_i32(i32::MAX).await.unwrap();
        };
        let (answer, ()) = tokio::join!(ask(&connection), broker);
        check(
            answer,
            expect![[
                "the connection to broker:9092 was lost: an answer of 2147483647 bytes; receive.message.max.bytes is 1000"
            ]],
        );
        assert!(connection.is_closed());
    }

    #[tokio::test]
    async fn every_request_under_way_hears_that_the_connection_is_lost() {
        let (connection, mut peer) = open(Peer::greet).await;
        let connection = connection.unwrap();
        let broker = async {
            peer.request().await;
            peer.request().await;
            drop(peer);
        };
        let (first, second, ()) = tokio::join!(ask(&connection), ask(&connection), broker);
        check(first, expect!["the connection to broker:9092 was lost: the broker closed it"]);
        check(second, expect!["the connection to broker:9092 was lost: the broker closed it"]);
        check(
            ask(&connection).await,
            expect!["the connection to broker:9092 was lost: the broker closed it"],
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_ends_the_connection_because_those_behind_it_are_stuck() {
        let (connection, mut peer) = open(Peer::greet).await;
        let connection = connection.unwrap();
        let (answer, _) = tokio::join!(ask(&connection), peer.request());
        check(answer, expect!["timed out after 30000 ms while waiting for broker:9092 to answer Metadata"]);
        check(
            ask(&connection).await,
            expect!["the connection to broker:9092 was lost: a request was not answered in time"],
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_nobody_uses_is_closed_and_one_that_waits_is_not() {
        let (connection, mut peer) = open(Peer::greet).await;
        let connection = connection.unwrap();
        let begun = Instant::now();
        let broker = async {
            let (_, version, correlation_id) = peer.request().await;
            tokio::time::sleep(Duration::from_secs(20)).await;
            peer.answer(correlation_id, version, metadata("late")).await;
        };
        let (answer, ()) = tokio::join!(ask(&connection), broker);
        check(answer, expect!["late"]);
        connection.closed().await;
        let idle = begun.elapsed();
        assert!((Duration::from_secs(20 + 540)..Duration::from_secs(20 + 541)).contains(&idle), "{idle:?}");
        check(
            ask(&connection).await,
            expect!["the connection to broker:9092 was lost: nobody used it for connections.max.idle.ms"],
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_answers_is_sent_when_it_is_written() {
        let (connection, mut peer) = open(Peer::greet).await;
        let connection = connection.unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        // More than the stream holds.
        let topic = MetadataRequestTopic { name: Some("x".repeat(1000).into()), ..Default::default() };
        let large = || MetadataRequest { topics: Some(vec![topic.clone(); 200]), ..Default::default() };
        let sending = connection.send(large(), 12, deadline);
        tokio::pin!(sending);
        assert!(timeout(Duration::from_secs(1), &mut sending).await.is_err(), "nobody has read it");
        let (sent, _) = tokio::join!(sending, peer.request());
        sent.unwrap();
        let broker = async { drop(peer) };
        let (sent, ()) = tokio::join!(connection.send(large(), 12, deadline), broker);
        assert!(matches!(sent, Err(Error::Disconnected { .. })), "{sent:?}");
    }

    #[tokio::test]
    async fn an_answer_that_cannot_be_read_is_that_requests_error() {
        let (connection, mut peer) = open(Peer::greet).await;
        let connection = connection.unwrap();
        let broker = async {
            let (_, _, correlation_id) = peer.request().await;
            let body = [&correlation_id.to_be_bytes()[..], b"\0\0\0\0\0\xff\xff\xff\x0f"].concat();
            peer.0.write_i32(body.len() as i32).await.unwrap();
            peer.0.write_all(&Bytes::from(body)).await.unwrap();
        };
        let (answer, ()) = tokio::join!(ask(&connection), broker);
        let answer = answer.unwrap_err().to_string();
        assert!(answer.starts_with("the answer of broker:9092 to Metadata cannot be read: "), "{answer}");
    }
}
