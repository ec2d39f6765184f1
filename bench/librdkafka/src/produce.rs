//! Records as fast as librdkafka sends them and the broker acknowledges them, with acks=all.
//! The window runs from the first record handed over to the last acknowledgement; partitions take turns record by record.
//! It never counts a record that was not acknowledged: any failed delivery fails the run.

use crate::arguments::Arguments;
use rdkafka::ClientContext;
use rdkafka::client::Client;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

const METADATA_WAIT_MAX: Duration = Duration::from_secs(30);
const DELIVERY_WAIT_MAX: Duration = Duration::from_secs(300);
/// How many records are handed over between two looks at the delivery reports.
const RECORDS_BETWEEN_POLLS: u64 = 1_000;
/// Wait before the next try at a full queue, which is far from empty by then.
const QUEUE_PAUSE: Duration = Duration::from_millis(1);

/// Counts what did not arrive; librdkafka is told to report nothing else.
#[derive(Default)]
pub struct Failures {
    count: AtomicU64,
}

impl ClientContext for Failures {}

impl ProducerContext for Failures {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, message)) = result
            && self.count.fetch_add(1, Ordering::Relaxed) == 0
        {
            eprintln!("delivery to {}-{}: {error}", message.topic(), message.partition());
        }
    }
}

pub fn produce(arguments: &Arguments) -> Result<String, String> {
    let topic = arguments.text("topic")?;
    let partitions: i32 = arguments.number("partitions")?;
    let records: u64 = arguments.number("records")?;
    let keys: Option<u64> = Some(arguments.number_or("keys", 0)?).filter(|keys| *keys > 0);
    let payload = payload(arguments.number("size")?);
    let producer = producer(arguments)?;
    learn(producer.client(), topic)?;

    let begin = Instant::now();
    for n in 0..records {
        let key = keys.map(|keys| (n % keys).to_be_bytes());
        send_with(&producer, topic, (n % partitions as u64) as i32, key.as_ref(), &payload)?;
        if n % RECORDS_BETWEEN_POLLS == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    finish(&producer)?;
    let seconds = begin.elapsed().as_secs_f64();
    let bytes = records * payload.len() as u64;
    Ok(format!(
        "records={records} bytes={bytes} seconds={seconds:.4} mb_per_s={:.2}",
        bytes as f64 / 1e6 / seconds
    ))
}

/// The same few records into every partition of many topics: what a restart has to look through.
pub fn fill(arguments: &Arguments) -> Result<String, String> {
    let topics = arguments.topics()?;
    let partitions: i32 = arguments.number("partitions")?;
    let records: u64 = arguments.number("records")?;
    let payload = payload(arguments.number("size")?);
    let producer = producer(arguments)?;
    for topic in &topics {
        for partition in 0..partitions {
            for _ in 0..records {
                send(&producer, topic, partition, &payload)?;
            }
            producer.poll(Duration::ZERO);
        }
    }
    finish(&producer)?;
    let written = topics.len() as u64 * partitions as u64 * records;
    Ok(format!("records={written} bytes={}", written * payload.len() as u64))
}

fn producer(arguments: &Arguments) -> Result<BaseProducer<Failures>, String> {
    let mut config: ClientConfig = arguments.client()?;
    config.set("acks", "all");
    config.set("delivery.report.only.error", "true");
    config.create_with_context(Failures::default()).map_err(|e| e.to_string())
}

pub fn send(
    producer: &BaseProducer<Failures>,
    topic: &str,
    partition: i32,
    payload: &[u8],
) -> Result<(), String> {
    send_with(producer, topic, partition, None, payload)
}

fn send_with(
    producer: &BaseProducer<Failures>,
    topic: &str,
    partition: i32,
    key: Option<&[u8; 8]>,
    payload: &[u8],
) -> Result<(), String> {
    let mut record = BaseRecord::<[u8; 8], [u8]>::to(topic).partition(partition).payload(payload);
    record.key = key;
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), refused)) => {
                record = refused;
                pause(producer, QUEUE_PAUSE);
            }
            Err((error, _)) => return Err(error.to_string()),
        }
    }
}

/// Leaves the processor to others for so long. rdkafka's own `poll` spins through the last millisecond of its timeout.
pub fn pause(producer: &BaseProducer<Failures>, lasts: Duration) {
    sleep(lasts);
    producer.poll(Duration::ZERO);
}

fn finish(producer: &BaseProducer<Failures>) -> Result<(), String> {
    producer.flush(DELIVERY_WAIT_MAX).map_err(|e| e.to_string())?;
    failed(producer)
}

/// An error if a record was not acknowledged.
pub fn failed(producer: &BaseProducer<Failures>) -> Result<(), String> {
    match producer.context().count.load(Ordering::Relaxed) {
        0 => Ok(()),
        failed => Err(format!("{failed} records were not acknowledged")),
    }
}

/// Fetches the topic's metadata, so that the measured window begins with a connected client.
pub fn learn<C: ClientContext>(client: &Client<C>, topic: &str) -> Result<(), String> {
    client.fetch_metadata(Some(topic), METADATA_WAIT_MAX).map(drop).map_err(|e| e.to_string())
}

/// Printable noise from a fixed generator: the same bytes in every run, and nothing that a codec could shrink to nothing.
pub fn payload(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..size)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            b'!' + (state % 90) as u8
        })
        .collect()
}
