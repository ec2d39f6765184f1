//! A steady pulse: one record after the other at a fixed rate, the partitions in turn, and a line for each record that is
//! acknowledged or given up, until standard input ends. Brokers are killed and leaders moved under it.
//! A line is `ack PARTITION DUE DONE` or `error PARTITION DUE DONE REASON`, in microseconds since 1970. DUE is when the record
//! was to be sent, so that a client that is kept from sending cannot hide it. It never changes the client's own retries.

use crate::arguments::Arguments;
use crate::produce::{learn, payload};
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use std::io::{Read, Write, stdin, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// For what is under way when the pulse ends.
const DELIVERY_WAIT_MAX: Duration = Duration::from_secs(60);
const QUEUE_PAUSE: Duration = Duration::from_millis(1);

/// Writes down what becomes of each record; the opaque value is when it was due.
struct Told;

impl ClientContext for Told {}

impl ProducerContext for Told {
    type DeliveryOpaque = Box<u64>;

    fn delivery(&self, result: &DeliveryResult<'_>, due: Box<u64>) {
        let done = unix_micros();
        let mut out = stdout().lock();
        // Who reads this has ended when it cannot be written; standard input ends then too.
        let _ = match result {
            Ok(message) => writeln!(out, "ack {} {due} {done}", message.partition()),
            Err((error, message)) => writeln!(out, "error {} {due} {done} {error}", message.partition()),
        };
    }
}

pub fn pulse(arguments: &Arguments) -> Result<String, String> {
    let topic = arguments.text("topic")?;
    let partitions: u64 = arguments.number("partitions")?;
    let rate: u64 = arguments.number("rate")?;
    let value = payload(arguments.number("size")?);
    let mut config = arguments.client()?;
    config.set("acks", "all");
    let producer: ThreadedProducer<Told> = config.create_with_context(Told).map_err(|e| e.to_string())?;
    learn(producer.client(), topic)?;

    let is_over = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&is_over);
    thread::spawn(move || {
        // Nobody writes to it: what counts is its end.
        let _ = stdin().read_to_end(&mut Vec::new());
        over.store(true, Ordering::Relaxed);
    });

    let (begin, begin_micros) = (Instant::now(), unix_micros());
    let mut sent = 0;
    while !is_over.load(Ordering::Relaxed) {
        let due = Duration::from_micros(sent * 1_000_000 / rate);
        if let Some(wait) = due.checked_sub(begin.elapsed()) {
            thread::sleep(wait);
        }
        let due_micros = Box::new(begin_micros + due.as_micros() as u64);
        let mut record = BaseRecord::<(), [u8], _>::with_opaque_to(topic, due_micros)
            .partition((sent % partitions) as i32)
            .payload(&value[..]);
        while let Err((error, refused)) = producer.send(record) {
            if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
                return Err(error.to_string());
            }
            record = refused;
            thread::sleep(QUEUE_PAUSE);
        }
        sent += 1;
    }
    producer.flush(DELIVERY_WAIT_MAX).map_err(|e| e.to_string())?;
    Ok(format!("sent={sent}"))
}

fn unix_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    since.as_micros() as u64
}
