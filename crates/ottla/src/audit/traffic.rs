//! Records on their way between the audit and a cluster. Only this file knows the consumer and the producer.

use std::collections::HashMap;
use std::time::Duration;

use client::{
    Admin, Cluster, ConsumedRecord, Consumer, DeliveryHandle, Error, Producer, ProducerRecord, Start,
};
use tokio::time::timeout;
use wire::{Offset, Str, TopicPartition};

use crate::consume;
use crate::failure::Failure;

/// How long one look for records waits.
const POLL_WAIT: Duration = Duration::from_millis(200);

/// For what is left when the writing ends.
const CLOSE_MAX: Duration = Duration::from_secs(120);

/// Reads a topic.
pub(super) struct Reader {
    consumer: Consumer,
    /// Where each partition's reading ends that has not got there.
    ends: Option<HashMap<TopicPartition, Offset>>,
}

impl Reader {
    /// Reads all partitions from one place to another, or for ever. "The end" is where it is as of now.
    pub(super) async fn begin(
        cluster: &Cluster,
        topic: &Str,
        from: Start,
        to: Option<Start>,
    ) -> Result<Self, Failure> {
        let admin = Admin::new(cluster.clone());
        let partitions = consume::partitions(&admin, std::slice::from_ref(topic), &[]).await?;
        let ends = match to {
            Some(to) => Some(consume::ends(&admin, cluster, &partitions, to).await?),
            None => None,
        };
        let starts: Vec<_> = match from {
            Start::Latest => {
                let now = consume::ends(&admin, cluster, &partitions, Start::Latest).await?;
                now.into_iter().map(|(partition, offset)| (partition, Start::Offset(offset))).collect()
            }
            from => partitions.into_iter().map(|partition| (partition, from)).collect(),
        };
        let consumer = Consumer::new(cluster.clone());
        consumer.assign(starts.into_iter().map(|(partition, start)| (partition, Some(start))))?;
        Ok(Self { consumer, ends })
    }

    /// The next records, now and then none; nothing at the end. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<ConsumedRecord>>, Error> {
        if self.is_at_the_end() {
            return Ok(None);
        }
        let taken = match timeout(POLL_WAIT, self.consumer.next()).await {
            Ok(Some(taken)) => taken?,
            // Nothing came within the wait.
            Ok(None) | Err(_) => return Ok(Some(Vec::new())),
        };
        let end = self.ends.as_ref().map(|ends| ends.get(taken.partition()).copied().unwrap_or(Offset::ZERO));
        let is_asked_for = |record: &&ConsumedRecord| end.is_none_or(|end| record.offset < end);
        let records = taken.iter().filter(is_asked_for).cloned().collect();
        taken.done();
        Ok(Some(records))
    }

    fn is_at_the_end(&mut self) -> bool {
        let Some(ends) = &mut self.ends else { return false };
        let consumer = &self.consumer;
        ends.retain(|partition, end| {
            let is_there = consumer.position(partition).is_some_and(|position| position >= *end);
            if is_there {
                // It is assigned, so that it can be paused.
                let _ = consumer.pause([partition]);
            }
            !is_there
        });
        ends.is_empty()
    }
}

/// Writes to a topic.
pub(super) struct Writer(Producer);

impl Writer {
    pub(super) fn new(cluster: Cluster) -> Result<Self, Error> {
        Ok(Self(Producer::new(cluster)?))
    }

    /// Takes a record over, after waiting for room if need be. What it returns resolves when the record is there.
    pub(super) async fn send(&self, record: ProducerRecord) -> Result<DeliveryHandle, Error> {
        self.0.enqueue(record).await
    }

    /// Sends what is left.
    pub(super) async fn close(self) -> Result<(), Error> {
        self.0.close(CLOSE_MAX).await
    }
}
