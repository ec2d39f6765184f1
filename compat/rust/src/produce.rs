//! Known records: the number of each is its value, and the rest of it by the number of partitions its partition.

use std::fs::File;
use std::io::{LineWriter, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use client::{DeliveryHandle, Producer, ProducerRecord};
use tokio::sync::mpsc;
use wire::{PartitionId, Str};

use crate::{Connection, Failure, cluster, input_ended, say};

/// Under way at most.
const UNSETTLED_MAX: usize = 20_000;
const CLOSE_MAX: Duration = Duration::from_secs(120);

#[derive(Args)]
pub(crate) struct Produce {
    #[command(flatten)]
    connection: Connection,
    #[arg(long)]
    partitions: i32,
    /// The first number.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// How many; without it, until standard input ends.
    #[arg(long)]
    records: Option<u64>,
    /// As long as a value is made with dots.
    #[arg(long, default_value_t = 0)]
    bytes: usize,
    /// Values are JSON objects: `number`, `sequence` (the place in its partition) and `text` (the dots).
    #[arg(long)]
    json: bool,
    /// Writes a line `partition offset number` for each acknowledgement; the offset is -1 where it is not known.
    #[arg(long, value_name = "FILE")]
    acknowledged: Option<PathBuf>,
}

impl Produce {
    pub(crate) async fn run(&self) -> Result<(), Failure> {
        let producer = Producer::new(cluster(self.connection.options()?)?)?;
        let mut ended = Box::pin(input_ended());
        let end = self.records.map(|records| self.first + records);
        let (unsettled, queued) = mpsc::channel(UNSETTLED_MAX);
        let log = match &self.acknowledged {
            None => None,
            Some(path) => Some(LineWriter::new(File::options().create(true).append(true).open(path)?)),
        };
        let settled = tokio::spawn(settle(queued, log));
        let topic = Str::copy_from(&self.connection.topic);
        let mut number = self.first;
        while end.is_none_or(|end| number < end) {
            let mut record = ProducerRecord::new(topic.clone(), self.value(number));
            record.partition = Some(PartitionId((number % self.partitions as u64) as i32));
            let handle = tokio::select! {
                biased;
                () = &mut ended, if end.is_none() => break,
                handle = producer.enqueue(record) => handle?,
            };
            if unsettled.send((number, handle)).await.is_err() {
                // It says below what failed.
                break;
            }
            number += 1;
        }
        drop(unsettled);
        settled.await??;
        producer.close(CLOSE_MAX).await?;
        say(format!("acknowledged {}", number - self.first));
        Ok(())
    }

    fn value(&self, number: u64) -> String {
        let dots = |taken: usize| ".".repeat(self.bytes.saturating_sub(taken));
        if self.json {
            let begin =
                format!("{{\"number\":{number},\"sequence\":{},\"text\":\"", number / self.partitions as u64);
            let text = dots(begin.len() + 2);
            return begin + &text + "\"}";
        }
        let value = number.to_string();
        match value.len() < self.bytes {
            true => format!("{value} {}", dots(value.len() + 1)),
            false => value,
        }
    }
}

/// One after the other is acknowledged; none has a reason to fail.
async fn settle(
    mut queued: mpsc::Receiver<(u64, DeliveryHandle)>,
    mut log: Option<LineWriter<File>>,
) -> Result<(), Failure> {
    while let Some((number, handle)) = queued.recv().await {
        let delivery = handle.await?;
        if let Some(log) = &mut log {
            let offset = delivery.offset.map_or(-1, |offset| offset.0);
            writeln!(log, "{} {offset} {number}", delivery.partition.partition.0)?;
        }
    }
    Ok(())
}
