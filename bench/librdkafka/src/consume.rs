//! Every partition of a topic from its start, as fast as librdkafka reads, without a group.
//! The window runs from the assignment to the last expected record, so it holds the first fetches but no rebalance.
//! It never commits, and it fails when the records stop coming before all are read.

use crate::arguments::Arguments;
use crate::produce::learn;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use std::time::{Duration, Instant};

const SILENCE_MAX: Duration = Duration::from_secs(30);

pub fn consume(arguments: &Arguments) -> Result<String, String> {
    let topic = arguments.text("topic")?;
    let partitions: i32 = arguments.number("partitions")?;
    let expected: u64 = arguments.number("records")?;
    let consumer = consumer(arguments)?;
    learn(consumer.client(), topic)?;
    let assignment = assignment(topic, partitions, Offset::Beginning)?;

    let begin = Instant::now();
    consumer.assign(&assignment).map_err(|e| e.to_string())?;
    let (mut records, mut bytes) = (0_u64, 0_u64);
    while records < expected {
        match consumer.poll(SILENCE_MAX) {
            Some(Ok(message)) => {
                records += 1;
                bytes += message.payload_len() as u64;
            }
            Some(Err(error)) => return Err(error.to_string()),
            None => return Err(format!("{records} of {expected} records, then silence for {SILENCE_MAX:?}")),
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    Ok(format!(
        "records={records} bytes={bytes} seconds={seconds:.4} mb_per_s={:.2}",
        bytes as f64 / 1e6 / seconds
    ))
}

pub fn consumer(arguments: &Arguments) -> Result<BaseConsumer, String> {
    let mut config = arguments.client()?;
    config.set("group.id", "bench");
    config.set("enable.auto.commit", "false");
    config.create().map_err(|e| e.to_string())
}

pub fn assignment(topic: &str, partitions: i32, from: Offset) -> Result<TopicPartitionList, String> {
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition, from).map_err(|e| e.to_string())?;
    }
    Ok(list)
}
