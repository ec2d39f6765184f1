//! End-to-end latency at a fixed rate: from the moment a record was due to be sent to the moment its consumer holds it, and
//! beside it to the moment at which it was acknowledged.
//! Producer and consumer share one process and one monotonic clock; a record carries its due time, so a stalled broker
//! cannot hide the records that it kept from being sent (coordinated omission). The first seconds are warm-up.
//! It never lowers the rate: a broker that does not hold it is reported with `held=0`.

use crate::arguments::Arguments;
use crate::consume::{assignment, consumer};
use crate::produce::{learn, payload};
use hdrhistogram::Histogram;
use rdkafka::ClientContext;
use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use std::sync::{Arc, Mutex};
use std::sync::mpsc::Receiver;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

const ARRIVAL_WAIT_MAX: Duration = Duration::from_secs(60);
const DUE_BYTES: usize = 8;
/// A rate counts as held when sending and receiving took at most this much longer than planned.
const OVERRUN_MAX: f64 = 1.02;

pub fn latency(arguments: &Arguments) -> Result<String, String> {
    let topic = arguments.text("topic")?;
    let partitions: i32 = arguments.number("partitions")?;
    let plan = Plan {
        size: arguments.number::<usize>("size")?.max(DUE_BYTES),
        rate: arguments.number("rate")?,
        warm_up: Duration::from_secs_f64(arguments.number_or("warm-up", 2.0)?),
        measured: Duration::from_secs_f64(arguments.number("seconds")?),
    };

    // The one departure from defaults: a sender who cares for latency does not linger.
    let mut config = arguments.client()?;
    config.set("acks", "all").set("linger.ms", "0");
    let latencies = Arc::new(Mutex::new(Histogram::new(3).map_err(|e| e.to_string())?));
    let context = Acknowledged { warm_up: plan.warm_up, latencies: Arc::clone(&latencies) };
    let producer: ThreadedProducer<Acknowledged> =
        config.create_with_context(context).map_err(|e| e.to_string())?;
    learn(producer.client(), topic)?;
    let consumer = consumer(arguments)?;
    learn(consumer.client(), topic)?;
    // The topic is fresh, so its start is its end; looking the end up instead could race with the first records.
    consumer.assign(&assignment(topic, partitions, Offset::Beginning)?).map_err(|e| e.to_string())?;

    let begin = Instant::now();
    let (sent_all, all_sent) = sync_channel(1);
    let reader = thread::spawn(move || read(&consumer, begin, &plan, &all_sent));
    let sending = send(&producer, topic, partitions, begin, &plan)?;
    sent_all.send(()).map_err(|e| e.to_string())?;
    producer.flush(ARRIVAL_WAIT_MAX).map_err(|e| e.to_string())?;
    let read = reader.join().map_err(|_| "the reader panicked".to_owned())??;

    let planned = (plan.warm_up + plan.measured).as_secs_f64();
    let held =
        sending.as_secs_f64() < planned * OVERRUN_MAX && read.last.as_secs_f64() < planned * OVERRUN_MAX;
    let ms = |micros: u64| micros as f64 / 1e3;
    let at = |quantile| ms(read.latencies.value_at_quantile(quantile));
    let acknowledged = latencies.lock().map_err(|_| "a delivery report panicked".to_owned())?;
    let acknowledged_at = |quantile| ms(acknowledged.value_at_quantile(quantile));
    Ok(format!(
        "records={} rate={} held={} p50_ms={:.3} p99_ms={:.3} p999_ms={:.3} max_ms={:.3} ack_p50_ms={:.3} ack_p99_ms={:.3}",
        read.latencies.len(),
        plan.rate,
        u8::from(held),
        at(0.5),
        at(0.99),
        at(0.999),
        ms(read.latencies.max()),
        acknowledged_at(0.5),
        acknowledged_at(0.99),
    ))
}

/// Hears of each record when it is acknowledged.
struct Acknowledged {
    warm_up: Duration,
    latencies: Arc<Mutex<Histogram<u64>>>,
}

/// When a record was due, and the clock that says so.
struct Due {
    begin: Instant,
    due: Duration,
}

impl ClientContext for Acknowledged {}

impl ProducerContext for Acknowledged {
    type DeliveryOpaque = Box<Due>;

    /// What fails never arrives, which the reader tells.
    fn delivery(&self, result: &DeliveryResult<'_>, sent: Box<Due>) {
        if result.is_ok() && sent.due >= self.warm_up {
            let micros = sent.begin.elapsed().saturating_sub(sent.due).as_micros() as u64;
            if let Ok(mut latencies) = self.latencies.lock() {
                // It grows with what it is given.
                let _ = latencies.record(micros);
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Plan {
    size: usize,
    rate: u64,
    warm_up: Duration,
    measured: Duration,
}

impl Plan {
    fn records(&self) -> u64 {
        ((self.warm_up + self.measured).as_secs_f64() * self.rate as f64) as u64
    }

    fn due(&self, n: u64) -> Duration {
        Duration::from_nanos((n as u128 * 1_000_000_000 / u128::from(self.rate)) as u64)
    }
}

struct Read {
    latencies: Histogram<u64>,
    /// When the last record arrived, counted from the begin.
    last: Duration,
}

fn send(
    producer: &ThreadedProducer<Acknowledged>,
    topic: &str,
    partitions: i32,
    begin: Instant,
    plan: &Plan,
) -> Result<Duration, String> {
    let mut value = payload(plan.size);
    for n in 0..plan.records() {
        let due = plan.due(n);
        if let Some(wait) = due.checked_sub(begin.elapsed()) {
            thread::sleep(wait);
        }
        value[..DUE_BYTES].copy_from_slice(&(due.as_nanos() as u64).to_be_bytes());
        let partition = (n % partitions as u64) as i32;
        let mut record = BaseRecord::<(), [u8], Box<Due>>::with_opaque_to(topic, Box::new(Due { begin, due }))
            .partition(partition)
            .payload(value.as_slice());
        while let Err((error, refused)) = producer.send(record) {
            if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
                return Err(error.to_string());
            }
            record = refused;
            thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(begin.elapsed())
}

fn read(
    consumer: &BaseConsumer,
    begin: Instant,
    plan: &Plan,
    all_sent: &Receiver<()>,
) -> Result<Read, String> {
    let mut latencies = Histogram::new(3).map_err(|e| e.to_string())?;
    let (mut seen, mut last, mut sent) = (0, Duration::ZERO, false);
    while seen < plan.records() {
        match consumer.poll(ARRIVAL_WAIT_MAX) {
            Some(Ok(message)) => {
                let now = begin.elapsed();
                let Some(due) = message.payload().and_then(|p| p.first_chunk()) else {
                    return Err("a record that this run did not send".to_owned());
                };
                let due = Duration::from_nanos(u64::from_be_bytes(*due));
                (seen, last) = (seen + 1, now);
                if due >= plan.warm_up {
                    let micros = now.saturating_sub(due).as_micros() as u64;
                    latencies.record(micros).map_err(|e| e.to_string())?;
                }
            }
            Some(Err(error)) => return Err(error.to_string()),
            None => {
                sent |= all_sent.try_recv().is_ok();
                if sent {
                    return Err(format!("{seen} of {} records arrived", plan.records()));
                }
            }
        }
    }
    Ok(Read { latencies, last })
}
