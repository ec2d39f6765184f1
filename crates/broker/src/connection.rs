//! One connection: frames in, replies out, in the order of the requests.
//!
//! Produce requests overlap: each is appended when it is read and waits for its acknowledgement while the next one
//! is read, so that pipelined writers share flushes. One whose records cannot be appended at once - a transaction begins with
//! them - keeps those behind it waiting until they are. Every other request runs alone, after those before it, as
//! Kafka runs them. Invariant: replies leave in the order in which their requests came.
//!
//! Back-pressure is the socket's: while replies cannot be written, too many produces wait, or a quota holds the client
//! back, nothing is read. A peer that is silent or does not read for `connections.max.idle.ms` is cut.

use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout};

use crate::broker::{Broker, stopped};
use crate::context::ConnectionContext;
use crate::dispatch::{self, Answer, DispatchError, PendingAppend, PendingReply};
use crate::inbound::{FrameSizeError, Inbound, Share};
use crate::outbound::{Outbound, Reply, WriteError};

/// Produces of one connection that may wait for acknowledgement before reading stops.
const PRODUCES_IN_FLIGHT_MAX: usize = 128;
/// How long a silent connection keeps a buffer larger than it needs.
const BUFFER_KEPT: Duration = Duration::from_secs(2);
/// Bytes that are read while a request keeps those behind it waiting.
const READ_AHEAD_BYTES_MAX: usize = 4 * 1024;
/// What a connection does before others get their turn: so many requests, or as much work in bytes.
const TURN_REQUESTS: usize = 32;
const TURN_BYTES: usize = 1024 * 1024;
/// How long requests in flight may still be answered once the broker stops, or the peer sends no more.
const LAST_REPLIES_MAX: Duration = Duration::from_millis(500);

/// Why a connection ended, other than by its peer closing it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error(transparent)]
    FrameSize(#[from] FrameSizeError),
    #[error(transparent)]
    Dispatch(#[from] DispatchError),
    #[error("idle for {}s (connections.max.idle.ms)", .0.as_secs())]
    Idle(Duration),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Socket(#[from] io::Error),
}

/// The bounds of one connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionLimits {
    pub(crate) frame_bytes_max: usize,
    pub(crate) idle_max: Duration,
}

/// A request whose reply has not been written.
enum InFlight {
    Ready(Option<Reply>),
    Produce(PendingReply),
    /// The last one: nothing starts behind it before its records are appended.
    Append(PendingAppend),
    Alone(PendingReply),
}

impl InFlight {
    /// Appends what is still to be appended, whatever waits before it. True when that has been done now.
    fn poll_append(&mut self, cx: &mut std::task::Context<'_>) -> Result<bool, DispatchError> {
        let InFlight::Append(append) = self else { return Ok(false) };
        let Poll::Ready(appended) = append.as_mut().poll(cx) else { return Ok(false) };
        *self = InFlight::Produce(appended?);
        Ok(true)
    }

    fn poll(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Result<Reply, DispatchError>> {
        match self {
            InFlight::Ready(reply) => Poll::Ready(Ok(reply.take().expect("a reply is taken once"))),
            InFlight::Produce(reply) | InFlight::Alone(reply) => reply.as_mut().poll(cx),
            InFlight::Append(_) => Poll::Pending,
        }
    }
}

/// Serves one connection until the peer closes it, it breaks a rule, or the broker stops.
pub(crate) async fn serve<S>(
    socket: S,
    context: ConnectionContext,
    broker: Arc<Broker>,
    limits: ConnectionLimits,
    stop: watch::Receiver<bool>,
) -> Result<(), ConnectionError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let context = Arc::new(context);
    let connection = Connection {
        socket,
        context: Arc::clone(&context),
        broker: Arc::clone(&broker),
        limits,
        inbound: Inbound::new(limits.frame_bytes_max),
        in_flight: VecDeque::new(),
        active: Instant::now(),
        turn_left: TURN_BYTES,
        room: Room::NotNeeded,
    };
    let ended = connection.run(stop).await;
    broker.share_connection_ended(&context);
    ended
}

struct Connection<S> {
    socket: S,
    context: Arc<ConnectionContext>,
    broker: Arc<Broker>,
    limits: ConnectionLimits,
    inbound: Inbound,
    in_flight: VecDeque<InFlight>,
    /// When a whole request came in or a reply went out.
    active: Instant,
    /// What is left of its turn, in bytes.
    turn_left: usize,
    /// The room for a large frame that is arriving.
    room: Room,
}

/// Room for a large frame, of the budget that all connections share.
enum Room {
    NotNeeded,
    Awaited(Pin<Box<dyn Future<Output = Share> + Send>>),
    Taken { _share: Share },
}

enum Event {
    Replies(Outbound),
    Received(usize),
    HasRoom(Share),
    TimerFired,
    Stop,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<(), ConnectionError> {
        loop {
            if self.turn_left == 0 {
                // Behind all others that have something to do: a greedy peer takes its turns like anybody.
                yield_now().await;
                self.turn_left = TURN_BYTES;
            } else {
                match self.next_event(&mut stop).await? {
                    Event::Replies(replies) => self.write(replies).await?,
                    // A peer may close its side and still read: what it asked for before is answered.
                    Event::Received(0) => return self.drain().await,
                    Event::Received(_) => {}
                    Event::HasRoom(share) => self.room = Room::Taken { _share: share },
                    Event::TimerFired => self.idle()?,
                    Event::Stop => return self.drain().await,
                }
            }
            if let Err(error) = self.start_requests() {
                // The requests before the one that ends the connection were sound, and their records may be stored.
                self.drain().await?;
                return Err(error);
            }
        }
    }

    async fn next_event(&mut self, stop: &mut watch::Receiver<bool>) -> Result<Event, ConnectionError> {
        let deadline = self.deadline();
        // While a request keeps the others waiting, a little is read on: that is how a peer is seen to go.
        let may_read = self.may_start() || self.inbound.len() < READ_AHEAD_BYTES_MAX;
        // Who reads nothing takes no room meanwhile, and brokers do not wait for what clients send.
        if matches!(self.room, Room::NotNeeded)
            && self.may_start()
            && !self.context.acts_for_cluster()
            && let Some(frame_bytes) = self.inbound.large_frame()
        {
            self.room = Room::Awaited(Box::pin(self.broker.inbound_budget.share(frame_bytes)));
        }
        let may_read = may_read && !matches!(self.room, Room::Awaited(_));
        let Connection { socket, inbound, in_flight, room, .. } = self;
        tokio::select! {
            biased;
            replies = ready_replies(in_flight), if !in_flight.is_empty() => Ok(Event::Replies(replies?)),
            // In a block of its own: no room is made for a read that is not wanted.
            received = async { socket.read_buf(&mut inbound.reserve()).await }, if may_read => {
                Ok(Event::Received(received?))
            }
            share = has_room(room) => Ok(Event::HasRoom(share)),
            () = stopped(stop) => Ok(Event::Stop),
            () = sleep_until(deadline) => Ok(Event::TimerFired),
        }
    }

    /// Starts every whole request that is in the buffer, as far as the ones in flight allow.
    fn start_requests(&mut self) -> Result<(), ConnectionError> {
        while self.turn_left > 0 && self.may_start() {
            let Some(frame) = self.inbound.next_frame()? else { break };
            self.room = Room::NotNeeded;
            self.active = Instant::now();
            self.turn_left = self.turn_left.saturating_sub(frame.len().max(TURN_BYTES / TURN_REQUESTS));
            match dispatch::dispatch(&self.broker, &self.context, frame)? {
                Answer::Now(reply) => self.in_flight.push_back(InFlight::Ready(Some(reply))),
                Answer::Produce(reply) => self.in_flight.push_back(InFlight::Produce(reply)),
                Answer::Append(append) => self.in_flight.push_back(InFlight::Append(append)),
                Answer::Alone(reply) => self.in_flight.push_back(InFlight::Alone(reply)),
                Answer::None => {}
            }
        }
        Ok(())
    }

    fn may_start(&self) -> bool {
        self.muted_until().is_none()
            && self.in_flight.len() < PRODUCES_IN_FLIGHT_MAX
            && !matches!(self.in_flight.back(), Some(InFlight::Append(_) | InFlight::Alone(_)))
    }

    /// Until when a quota holds the client back, if one does.
    fn muted_until(&self) -> Option<Instant> {
        let tick = self.context.muted_until()?;
        if self.broker.ticks() < tick {
            return Some(self.broker.moment_of(tick));
        }
        self.context.unmute(tick);
        None
    }

    /// When to look at an otherwise silent connection.
    fn deadline(&self) -> Instant {
        let wait = if self.inbound.is_oversized() { BUFFER_KEPT } else { self.limits.idle_max };
        let deadline = self.active + wait.min(self.limits.idle_max);
        self.muted_until().map_or(deadline, |until| deadline.min(until))
    }

    fn idle(&mut self) -> Result<(), ConnectionError> {
        self.inbound.shrink();
        if !self.in_flight.is_empty() {
            // The broker is what the peer waits for.
            self.active = Instant::now();
        } else if self.active.elapsed() >= self.limits.idle_max {
            return Err(ConnectionError::Idle(self.limits.idle_max));
        }
        Ok(())
    }

    /// Answers what is in flight, within bounds, and ends.
    async fn drain(mut self) -> Result<(), ConnectionError> {
        let answered = async {
            while !self.in_flight.is_empty() {
                let replies = ready_replies(&mut self.in_flight).await?;
                self.write(replies).await?;
            }
            Ok(())
        };
        timeout(LAST_REPLIES_MAX, answered).await.unwrap_or(Ok(()))
    }

    async fn write(&mut self, mut replies: Outbound) -> Result<(), ConnectionError> {
        replies.write_to(&mut self.socket, self.limits.idle_max).await?;
        self.active = Instant::now();
        Ok(())
    }
}

/// Waits for the room that is awaited, if any is.
async fn has_room(room: &mut Room) -> Share {
    match room {
        Room::Awaited(share) => share.await,
        Room::NotNeeded | Room::Taken { .. } => pending().await,
    }
}

/// Waits for the oldest reply; returns it and those behind it that are ready too, so that they leave together. Returns
/// nothing when the newest request no longer keeps others from starting.
async fn ready_replies(in_flight: &mut VecDeque<InFlight>) -> Result<Outbound, DispatchError> {
    let mut replies = Outbound::default();
    poll_fn(|cx| {
        let has_appended = match in_flight.back_mut() {
            Some(newest) => newest.poll_append(cx)?,
            None => false,
        };
        while let Some(oldest) = in_flight.front_mut() {
            let Poll::Ready(reply) = oldest.poll(cx) else { break };
            in_flight.pop_front();
            replies.push(reply?);
        }
        if replies.is_empty() && !has_appended { Poll::Pending } else { Poll::Ready(Ok(())) }
    })
    .await
    .map(|()| replies)
}
