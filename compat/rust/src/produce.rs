//! Known records: the number of each is its value, and the rest of it by the number of partitions its partition.

use std::collections::VecDeque;
use std::time::Duration;

use clap::Args;
use client::{Delivery, DeliveryHandle, Error, Producer, ProducerRecord};
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
}

impl Produce {
    pub(crate) async fn run(&self) -> Result<(), Failure> {
        let producer = Producer::new(cluster(self.connection.options()?)?)?;
        let mut ended = Box::pin(input_ended());
        let end = self.records.map(|records| self.first + records);
        let mut unsettled: VecDeque<DeliveryHandle> = VecDeque::new();
        let topic = Str::copy_from(&self.connection.topic);
        let mut number = self.first;
        while end.is_none_or(|end| number < end) {
            let mut value = number.to_string();
            if value.len() < self.bytes {
                value.push(' ');
                value.extend(std::iter::repeat_n('.', self.bytes - value.len()));
            }
            let mut record = ProducerRecord::new(topic.clone(), value);
            record.partition = Some(PartitionId((number % self.partitions as u64) as i32));
            let handle = tokio::select! {
                biased;
                () = &mut ended, if end.is_none() => break,
                handle = producer.enqueue(record) => handle?,
            };
            unsettled.push_back(handle);
            number += 1;
            while unsettled.len() > UNSETTLED_MAX {
                settle(&mut unsettled).await?;
            }
        }
        while !unsettled.is_empty() {
            settle(&mut unsettled).await?;
        }
        producer.close(CLOSE_MAX).await?;
        say(format!("acknowledged {}", number - self.first));
        Ok(())
    }
}

/// The oldest is acknowledged; none has a reason to fail.
async fn settle(unsettled: &mut VecDeque<DeliveryHandle>) -> Result<Option<Delivery>, Error> {
    match unsettled.pop_front() {
        Some(handle) => handle.await.map(Some),
        None => Ok(None),
    }
}
