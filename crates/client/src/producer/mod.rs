//! Sending records.
//!
//! [`Producer::send`] waits while `buffer.memory` is used up, so memory is bounded whatever the callers do; what
//! it returns tells where the record went once the replicas have it. Records of one partition are appended in
//! the order of sending and, with idempotence, exactly once however often a batch had to be sent.
//!
//! `queue` decides what goes into which batch, `sender` is the task that talks to the brokers.

mod queue;
mod sender;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use wire::{Millis, Offset, TopicPartition};

use crate::cluster::Cluster;
use crate::error::Error;
use crate::record::ProducerRecord;
use queue::Entry;
use sender::{Command, Sender};

/// Commands that wait for the sending task. Records are bounded by memory as well.
const COMMANDS_MAX: usize = 1024;

/// Sends records to topics.
pub struct Producer {
    cluster: Cluster,
    commands: mpsc::Sender<Command>,
    memory: Arc<Semaphore>,
    task: JoinHandle<()>,
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

/// Resolves when the record is delivered or given up. Dropping it does not take the record back.
#[must_use = "a record that nobody asks about may fail unnoticed"]
pub struct DeliveryHandle(oneshot::Receiver<Result<Delivery, Error>>);

impl Future for DeliveryHandle {
    type Output = Result<Delivery, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|answer| answer.unwrap_or(Err(Error::Closed)))
    }
}

impl Producer {
    /// Sends to this cluster, by its options. Must be called inside a tokio runtime.
    pub fn new(cluster: Cluster) -> Self {
        let (commands, queue) = mpsc::channel(COMMANDS_MAX);
        let memory = Arc::new(Semaphore::new(cluster.options().buffer_memory));
        let task = tokio::spawn(Sender::new(cluster.clone()).run(queue));
        Self { cluster, commands, memory, task }
    }

    /// Takes a record over; waits while the buffer is full.
    pub async fn send(&self, record: ProducerRecord) -> Result<DeliveryHandle, Error> {
        let options = self.cluster.options();
        let bytes = record.size();
        if bytes > options.request_bytes_max {
            return Err(Error::RecordTooLarge { bytes, bytes_max: options.request_bytes_max });
        }
        let permits = u32::try_from(bytes).expect("max.request.size fits 32 bits");
        let memory = Arc::clone(&self.memory).acquire_many_owned(permits).await;
        let timestamp = record.timestamp.unwrap_or_else(|| self.cluster.environment().now());
        let (reply, delivery) = oneshot::channel();
        let entry = Entry {
            record,
            bytes,
            timestamp,
            sent: tokio::time::Instant::now(),
            reply,
            _memory: memory.map_err(|_| Error::Closed)?,
        };
        self.commands.send(Command::Send(entry)).await.map_err(|_| Error::Closed)?;
        Ok(DeliveryHandle(delivery))
    }

    /// Sends what is waiting for more records at once, and returns when nothing is under way any more.
    pub async fn flush(&self) -> Result<(), Error> {
        let (reply, flushed) = oneshot::channel();
        self.commands.send(Command::Flush(reply)).await.map_err(|_| Error::Closed)?;
        flushed.await.map_err(|_| Error::Closed)
    }

    /// Sends what is left and ends. Each record is delivered or has failed after `delivery.timeout.ms`, so this
    /// never hangs.
    pub async fn close(self) {
        drop(self.commands);
        // The task ends by itself; it can only fail by a bug, which has been reported by then.
        let _ = self.task.await;
    }
}
