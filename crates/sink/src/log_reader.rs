//! Reads a partition forward up to an end that was looked up before, for those who compare.
//!
//! What nobody gets to see is passed; that the end is reached is told also where no record is left before it.

use std::time::Duration;

use client::{Cluster, Consumer, Records, Start};
use wire::{Offset, TopicPartition};

use crate::run::{CLOSE_MAX, RunError};

/// How often it is looked at how far what nobody gets to see was passed.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A partition that is read once.
pub(crate) struct LogReader {
    consumer: Consumer,
    partition: TopicPartition,
    /// Where it stands.
    at: Offset,
}

impl LogReader {
    /// Reads from `start` on, by the isolation of the cluster's options.
    pub(crate) fn new(
        cluster: &Cluster,
        partition: &TopicPartition,
        start: Offset,
    ) -> Result<Self, RunError> {
        let consumer = Consumer::new(cluster.clone());
        consumer.assign([(partition.clone(), Some(Start::Offset(start)))])?;
        Ok(Self { consumer, partition: partition.clone(), at: start })
    }

    /// The next records, while it stands before `end`; some of them may lie behind it. Nothing when it stands there.
    pub(crate) async fn next(&mut self, end: Offset) -> Result<Option<Records>, RunError> {
        while self.at < end {
            let records = tokio::select! {
                records = self.consumer.next() => records,
                () = tokio::time::sleep(LOOK_EVERY) => {
                    self.at = self.at.max(self.consumer.position(&self.partition).unwrap_or(self.at));
                    continue;
                }
            };
            let Some(records) = records.transpose()? else { break };
            self.at = records.next_offset();
            return Ok(Some(records));
        }
        Ok(None)
    }

    /// Ends.
    pub(crate) async fn close(self) {
        if let Err(error) = self.consumer.close(CLOSE_MAX).await {
            tracing::debug!(%error, "the consumer did not end in order");
        }
    }
}
