//! Sending records.
//!
//! [`Producer::enqueue`] waits while `buffer.memory` is used up, so memory is bounded whatever the callers do; what
//! it returns tells where the record went once the replicas have it. Records of one partition are appended in
//! the order of sending and, with idempotence, exactly once however often a batch had to be sent.
//!
//! `accumulator` is where records become batches, `queue` decides which batch goes next, `sender` is the task that
//! sees to it, `link` its way to one broker, and `outcome` how callers hear of it; `transaction` binds records and
//! offsets together.

mod outcome;
mod pace;
mod queue;
mod transaction;
mod accumulator;
mod link;
mod sender;
#[cfg(test)]
mod stage;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};
use wire::{Millis, Offset, TopicPartition};

use crate::cluster::Cluster;
use crate::error::Error;
use crate::record::ProducerRecord;
use accumulator::Accumulator;
pub use outcome::DeliveryHandle;
use pace::Pace;
use queue::Making;
use sender::Sender;
pub use transaction::{ConsumerGroupMetadata, Transaction};

/// Sends records to topics. Shared by reference: callers in an `Arc` send side by side.
///
/// With idempotence, the default, up to five batches of a partition are on their way at a time and their order holds
/// through retries. Without, one is: Apache Kafka's producer reorders there unless
/// `max.in.flight.requests.per.connection` is 1, and this one never does. What a retry without idempotence may do is
/// append a batch twice.
///
/// Dropping a producer does not wait: what was sent is still delivered in the background, as long as the runtime
/// lives, and an open transaction is left to `transaction.timeout.ms`. [`Producer::close`] waits.
pub struct Producer {
    shared: Arc<Shared>,
    pace: Option<Mutex<Pace>>,
    /// One operation on transactions at a time.
    turn: tokio::sync::Mutex<()>,
    task: JoinHandle<()>,
}

/// What callers and the sending task both hold.
struct Shared {
    cluster: Cluster,
    memory: Arc<Semaphore>,
    accumulator: Mutex<Accumulator>,
    /// There is something for the task to look at.
    wake: Notify,
    /// Something that was under way no longer is.
    landed: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Accumulator> {
        self.accumulator.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a record went.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// The partition it was appended to.
    pub partition: TopicPartition,
    /// Its offset there; unknown with `acks=0`, and when an earlier try had already appended it.
    pub offset: Option<Offset>,
    /// The timestamp it has.
    pub timestamp: Millis,
}

impl Producer {
    /// Sends to this cluster, by its options. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Option`] when options contradict each other, for example `enable.idempotence=true` and `acks=1`.
    pub fn new(cluster: Cluster) -> Result<Self, Error> {
        let options = cluster.options();
        options.check_producer()?;
        let memory = Arc::new(Semaphore::new(options.buffer_memory));
        let making = Making::new(options, Arc::clone(&memory));
        let accumulator = Mutex::new(Accumulator::new(options, making));
        let pace = Pace::new(options.rate_records, options.rate_bytes).map(Mutex::new);
        let shared =
            Arc::new(Shared { cluster, memory, accumulator, wake: Notify::new(), landed: Notify::new() });
        let task = tokio::spawn(Sender::run(Arc::clone(&shared)));
        Ok(Self { shared, pace, turn: tokio::sync::Mutex::new(()), task })
    }

    /// Sends a record and waits until the replicas that `acks` names have it. Dropping this after the record was taken
    /// over does not take it back.
    ///
    /// # Errors
    /// As [`Producer::enqueue`]; and what ended the record's last try: [`Error::Timeout`] after `delivery.timeout.ms`, or
    /// the broker's refusal.
    pub async fn send(&self, record: ProducerRecord) -> Result<Delivery, Error> {
        self.enqueue(record).await?.await
    }

    /// Takes a record over and returns a handle that resolves when it is delivered. Waits while `buffer.memory` is
    /// used up or `producer.rate.*` asks for it, and for the topic's first lookup.
    ///
    /// # Errors
    /// [`Error::RecordTooLarge`]; [`Error::UnknownTopic`] and [`Error::UnknownPartition`]; [`Error::Timeout`] when the
    /// topic cannot be looked up within `default.api.timeout.ms`; [`Error::State`] on a transactional producer without
    /// an open transaction; [`Error::Closed`].
    pub async fn enqueue(&self, record: ProducerRecord) -> Result<DeliveryHandle, Error> {
        self.enqueue_in(record, None).await
    }

    /// The same as part of one transaction alone, if one is named.
    async fn enqueue_in(
        &self,
        record: ProducerRecord,
        transaction: Option<u64>,
    ) -> Result<DeliveryHandle, Error> {
        let Shared { cluster, memory, .. } = &*self.shared;
        let options = cluster.options();
        let bytes = record.size();
        if bytes > options.request_bytes_max {
            return Err(Error::RecordTooLarge { bytes, bytes_max: options.request_bytes_max });
        }
        if let Some(pace) = &self.pace {
            let now = Instant::now();
            let when = pace.lock().unwrap_or_else(PoisonError::into_inner).reserve(bytes, now);
            if when > now {
                sleep_until(when).await;
            }
        }
        let permits = u32::try_from(bytes).expect("max.request.size fits 32 bits");
        let memory = memory.acquire_many(permits).await.map_err(|_| Error::Closed)?;
        let timestamp = record.timestamp.unwrap_or_else(|| cluster.environment().now());
        let mut appended = self.shared.lock().append(cluster, &record, bytes, timestamp, transaction)?;
        if appended.is_none() {
            let version = cluster.metadata_version();
            let topic = cluster.topic(&record.topic).await?;
            let mut accumulator = self.shared.lock();
            accumulator.learn(&record.topic, &topic, version);
            appended = accumulator.append(cluster, &record, bytes, timestamp, transaction)?;
        }
        let queued = appended.expect("the topic is known by now");
        // From here on the batch holds them.
        memory.forget();
        if queued.wakes {
            self.shared.wake.notify_one();
        }
        Ok(queued.handle)
    }

    /// Sends at once what waits for company, and returns when every record that was taken over before is delivered or
    /// has failed, which their handles tell.
    pub async fn flush(&self) {
        let open = self.shared.lock().close_batches(Instant::now());
        self.shared.wake.notify_one();
        outcome::settled(open).await;
    }

    /// Delivers what is left, for so long at most, and ends. An open transaction is aborted.
    ///
    /// # Errors
    /// [`Error::Timeout`] when something is left then: its handles say [`Error::Closed`]. What aborting an open
    /// transaction ended with.
    pub async fn close(mut self, within: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + within;
        let outcome = self.wind_up(within).await;
        {
            let mut accumulator = self.shared.lock();
            accumulator.is_closing = true;
            accumulator.drop_unsent(&Error::Closed, Instant::now());
        }
        self.shared.wake.notify_one();
        if outcome.is_ok() {
            // It ends by itself when the last request is answered, whose records have their outcome already; it can only fail
            // by a bug, which has been reported by then.
            drop(timeout_at(deadline, &mut self.task).await);
        }
        self.task.abort();
        outcome
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.shared.lock().is_closing = true;
        self.shared.wake.notify_one();
    }
}
