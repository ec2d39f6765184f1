//! Records, each at its time, and what became of them.
//!
//! A thread of its own hands records over, because timers of a runtime are too coarse for thousands of records a second; a
//! task hears of their delivery. A record's time counts from when it was due. At most `buffer.memory` is under way, so what
//! is kept here is bounded as well.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use client::{DeliveryHandle, Error, ErrorKind, Producer, ProducerRecord};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use wire::{PartitionId, Str};

use super::latency::Latencies;
use super::{Clock, Shared, lock};
use crate::failure::Failure;

/// Records handed over between two looks at the clock and the limits, where no rate is kept.
const CHUNK_RECORDS: usize = 64;
/// Chunks whose delivery nobody has heard of yet.
const CHUNKS_MAX: usize = 65_536;
/// Longer waits are the runtime's, up to this much before their end.
const FINE_WAIT: Duration = Duration::from_millis(3);
/// Values are cut from so much noise.
const NOISE_BYTES: usize = 256 * 1024;

/// What is to be sent.
pub(super) struct Plan {
    pub(super) topic: Str,
    /// In turn; none for the partitioner's choice.
    pub(super) partitions: Vec<PartitionId>,
    pub(super) values: Values,
    /// From one record to the next.
    pub(super) interval: Option<Duration>,
    pub(super) records_max: Option<u64>,
    pub(super) lasts: Option<Duration>,
    /// What is due before is not timed.
    pub(super) warm_up: Duration,
}

/// What a generator is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Send,
    /// Send nothing more, wait for what is under way.
    Finish,
    /// Wait for nothing.
    Abandon,
}

/// What became of the records so far.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) latencies: Latencies,
    pub(super) acknowledged: u64,
    pub(super) bytes: u64,
    pub(super) failed: u64,
    /// The first failure.
    pub(super) error: Option<Error>,
    /// When the last of them was heard of.
    pub(super) last: Duration,
}

/// A record under way.
struct Sent {
    due_micros: u64,
    bytes: u32,
    handle: DeliveryHandle,
}

/// Records on their way.
pub(super) struct Generator {
    orders: watch::Sender<Order>,
    pub(super) tally: Shared<Tally>,
    ended: oneshot::Receiver<Result<u64, Error>>,
    /// How many the thread handed over, once it has ended.
    sent: Option<Result<u64, Error>>,
    collecting: JoinHandle<()>,
}

impl Generator {
    pub(super) fn start(producer: Arc<Producer>, plan: Plan, clock: Clock) -> Result<Self, Failure> {
        let (orders, ordered) = watch::channel(Order::Send);
        let (chunks, received) = mpsc::channel(CHUNKS_MAX);
        let tally = Tally {
            latencies: Latencies::new(),
            acknowledged: 0,
            bytes: 0,
            failed: 0,
            error: None,
            last: Duration::ZERO,
        };
        let tally = Arc::new(std::sync::Mutex::new(tally));
        let warm_up_micros = super::micros(plan.warm_up);
        let collecting = tokio::spawn(collect(received, clock, warm_up_micros, Arc::clone(&tally)));
        let (end, ended) = oneshot::channel();
        let runtime = Handle::current();
        let work = move || {
            let sending = Sending { producer, plan, clock, chunks, ordered, chunk: Vec::new() };
            // Nobody listens when the bench has failed otherwise.
            let _ = end.send(runtime.block_on(sending.run()));
        };
        thread::Builder::new()
            .name("generator".to_owned())
            .spawn(work)
            .map_err(|error| Failure::failed(format!("cannot start: {error}")))?;
        Ok(Self { orders, tally, ended, sent: None, collecting })
    }

    pub(super) fn order(&self, order: Order) {
        self.orders.send_replace(order);
    }

    pub(super) fn was_told_to_end(&self) -> bool {
        *self.orders.borrow() != Order::Send
    }

    /// Waits until all is sent and heard of; how many records were handed over. May be dropped and called again until it
    /// has returned, and has to: the thread must not outlive the runtime.
    pub(super) async fn ended(&mut self) -> Result<u64, Error> {
        if self.sent.is_none() {
            self.sent = Some((&mut self.ended).await.unwrap_or(Err(Error::Closed)));
        }
        if *self.orders.borrow() == Order::Abandon {
            self.collecting.abort();
        }
        // It can only have been aborted.
        let _ = (&mut self.collecting).await;
        self.sent.take().unwrap_or(Err(Error::Closed))
    }
}

/// The thread's part.
struct Sending {
    producer: Arc<Producer>,
    plan: Plan,
    clock: Clock,
    chunks: mpsc::Sender<Vec<Sent>>,
    ordered: watch::Receiver<Order>,
    chunk: Vec<Sent>,
}

impl Sending {
    async fn run(mut self) -> Result<u64, Error> {
        let sent = self.send_all().await;
        self.pass_on().await;
        let Self { producer, mut ordered, .. } = self;
        tokio::select! {
            () = producer.flush() => {}
            _ = ordered.wait_for(|order| *order == Order::Abandon) => {}
        }
        sent
    }

    async fn send_all(&mut self) -> Result<u64, Error> {
        let lasts = self.plan.lasts.unwrap_or(Duration::MAX);
        let mut now = self.clock.passed();
        let mut number = 0;
        while self.plan.records_max.is_none_or(|max| number < max) {
            let due = match self.plan.interval {
                Some(interval) => Duration::from_nanos(
                    u64::try_from(interval.as_nanos().saturating_mul(u128::from(number))).unwrap_or(u64::MAX),
                ),
                None => now,
            };
            if due >= lasts {
                break;
            }
            if due > now {
                now = self.clock.passed();
            }
            if due > now {
                self.pass_on().await;
                if !self.wait_until(due.min(lasts)).await {
                    break;
                }
                now = self.clock.passed();
            }
            let Some(sent) = self.send(number, due).await? else { break };
            self.chunk.push(sent);
            number += 1;
            if self.chunk.len() >= CHUNK_RECORDS {
                self.pass_on().await;
                now = self.clock.passed();
                if *self.ordered.borrow() != Order::Send {
                    break;
                }
            }
        }
        Ok(number)
    }

    /// Hands a record over; nothing if the bench ends while the producer has no room.
    async fn send(&mut self, number: u64, due: Duration) -> Result<Option<Sent>, Error> {
        let due_micros = super::micros(due);
        let value = self.plan.values.next(number, due_micros);
        let bytes = value.len() as u32;
        let turn = self.plan.partitions.len().max(1) as u64;
        let record = ProducerRecord {
            partition: self.plan.partitions.get((number % turn) as usize).copied(),
            ..ProducerRecord::new(self.plan.topic.clone(), value)
        };
        tokio::select! {
            biased;
            handle = self.producer.enqueue(record) => Ok(Some(Sent { due_micros, bytes, handle: handle? })),
            _ = self.ordered.changed() => Ok(None),
        }
    }

    /// Lets the task hear of what was handed over.
    async fn pass_on(&mut self) {
        if !self.chunk.is_empty() {
            // At a steady rate there is one record in it each time.
            let next = Vec::with_capacity(self.chunk.len());
            // The task ends after this thread.
            let _ = self.chunks.send(std::mem::replace(&mut self.chunk, next)).await;
        }
    }

    /// False if the bench ends before.
    async fn wait_until(&mut self, due: Duration) -> bool {
        let left = || due.saturating_sub(self.clock.passed());
        if let Some(coarse) = left().checked_sub(FINE_WAIT) {
            tokio::select! {
                () = tokio::time::sleep(coarse) => {}
                _ = self.ordered.changed() => return false,
            }
        }
        // This thread is nobody else's.
        thread::sleep(left());
        *self.ordered.borrow() == Order::Send
    }
}

/// Hears of what was sent, in the order of sending.
async fn collect(
    mut chunks: mpsc::Receiver<Vec<Sent>>,
    clock: Clock,
    warm_up_micros: u64,
    tally: Shared<Tally>,
) {
    let mut heard = Vec::with_capacity(CHUNK_RECORDS);
    while let Some(chunk) = chunks.recv().await {
        let mut now = clock.passed();
        for Sent { due_micros, bytes, mut handle } in chunk {
            let mut is_over = true;
            let outcome = poll_fn(|context| {
                let polled = Pin::new(&mut handle).poll(context);
                is_over &= polled.is_ready();
                polled
            })
            .await;
            // Records of a batch are heard of together: only who was waited for was heard of just now.
            if !is_over {
                now = clock.passed();
            }
            heard.push((due_micros, bytes, now, outcome.err()));
        }
        let mut tally = lock(&tally);
        for (due_micros, bytes, now, error) in heard.drain(..) {
            tally.last = now;
            match error {
                None => {
                    tally.acknowledged += 1;
                    tally.bytes += u64::from(bytes);
                    if due_micros >= warm_up_micros {
                        tally.latencies.record(super::micros(now).saturating_sub(due_micros));
                    }
                }
                Some(error) => {
                    tally.failed += 1;
                    tally.error.get_or_insert(error);
                }
            }
        }
    }
}

/// What the records say.
pub(super) enum Values {
    /// Noise.
    Plain(Noise),
    /// Whose they are, when they were due, and noise.
    Stamped { run: u64, noise: Noise },
}

/// Bytes of a stamp.
pub(super) const STAMP_BYTES: usize = 16;

impl Values {
    fn next(&mut self, number: u64, due_micros: u64) -> Bytes {
        match self {
            Self::Plain(noise) => noise.cut(number, noise.bytes),
            Self::Stamped { run, noise } => {
                let mut value = Vec::with_capacity(noise.bytes);
                value.extend_from_slice(&run.to_be_bytes());
                value.extend_from_slice(&due_micros.to_be_bytes());
                value.extend_from_slice(&noise.cut(number, noise.bytes.saturating_sub(STAMP_BYTES)));
                value.into()
            }
        }
    }

    /// When a record of this run was due; nothing if it is another's.
    pub(super) fn due(run: u64, value: &[u8]) -> Option<u64> {
        let (own, rest) = value.split_first_chunk()?;
        (u64::from_be_bytes(*own) == run).then(|| rest.first_chunk().copied().map(u64::from_be_bytes))?
    }
}

/// Printable bytes without a pattern: the same in every run, and nothing that a codec could shrink to nothing.
pub(super) struct Noise {
    all: Bytes,
    /// Of a value.
    bytes: usize,
}

impl Noise {
    pub(super) fn new(bytes: usize) -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let all = (0..NOISE_BYTES + bytes).map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            b'!' + (state % 90) as u8
        });
        Self { all: all.collect(), bytes }
    }

    fn cut(&self, number: u64, bytes: usize) -> Bytes {
        // Neighbours have nothing in common.
        let at = (number.wrapping_mul(65_537) % NOISE_BYTES as u64) as usize;
        self.all.slice(at..at + bytes)
    }
}

/// Whether a failure says that going on is of no use.
pub(super) fn is_final(error: &Error) -> bool {
    error.kind() != ErrorKind::Retriable
}

#[cfg(test)]
mod tests {
    use super::{Noise, Values};

    #[test]
    fn a_stamp_is_read_by_its_own_run_alone() {
        let mut values = Values::Stamped { run: 7, noise: Noise::new(100) };
        let value = values.next(3, 1234);
        assert_eq!(value.len(), 100);
        assert_eq!(Values::due(7, &value), Some(1234));
        assert_eq!(Values::due(8, &value), None);
        assert_eq!(Values::due(7, b"short"), None);
        assert_ne!(values.next(4, 1234)[16..], value[16..]);
    }
}
