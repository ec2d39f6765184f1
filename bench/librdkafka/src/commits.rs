//! One producer that commits every so often: how much it gets through, and how long a commit takes.
//! The window runs from the first record handed over to the last commit. With a rate, records are due one by one, and a commit that
//! takes long is followed by those that were due meanwhile; without, they go as fast as librdkafka takes them. Without an interval there
//! are no transactions: the same producer, idempotent.

use crate::arguments::Arguments;
use crate::produce::{Failures, failed, learn, pause, payload, send};
use hdrhistogram::Histogram;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer};
use std::thread;
use std::time::{Duration, Instant};

/// For one transaction to end.
const END_WAIT_MAX: Duration = Duration::from_secs(60);
/// How many records are handed over between two looks at the clock.
const RECORDS_BETWEEN_LOOKS: u64 = 100;
const LOOK_AGAIN_AFTER: Duration = Duration::from_micros(500);
/// Commits before any counts: the coordinator's partition is opened, the JVM compiles.
const WARM_UP: Duration = Duration::from_secs(2);

pub fn commits(arguments: &Arguments) -> Result<String, String> {
    let topic = arguments.text("topic")?;
    let partitions: u64 = arguments.number("partitions")?;
    let measured = Duration::from_secs_f64(arguments.number("seconds")?);
    let interval = Duration::from_millis(arguments.number("commit-ms")?);
    let rate: u64 = arguments.number_or("rate", 0)?;
    let value = payload(arguments.number("size")?);

    let mut config = arguments.client()?;
    config.set("acks", "all").set("enable.idempotence", "true").set("delivery.report.only.error", "true");
    if !interval.is_zero() {
        config.set("transactional.id", topic);
    }
    let producer: BaseProducer<Failures> =
        config.create_with_context(Failures::default()).map_err(|e| e.to_string())?;
    learn(producer.client(), topic)?;
    if !interval.is_zero() {
        producer.init_transactions(END_WAIT_MAX).map_err(|e| e.to_string())?;
    }
    let mut load = Load { producer, topic, partitions, value, rate, begin: Instant::now(), sent: 0 };
    load.run(interval, WARM_UP)?;
    load.begin = Instant::now();
    load.sent = 0;
    let commits = load.run(interval, measured)?;

    let seconds = load.begin.elapsed().as_secs_f64();
    let bytes = load.sent * load.value.len() as u64;
    let ms = |quantile| commits.value_at_quantile(quantile) as f64 / 1e3;
    Ok(format!(
        "records={} seconds={seconds:.4} mb_per_s={:.2} commits={} commit_p50_ms={:.3} commit_p99_ms={:.3}",
        load.sent,
        bytes as f64 / 1e6 / seconds,
        commits.len(),
        ms(0.5),
        ms(0.99),
    ))
}

struct Load<'a> {
    producer: BaseProducer<Failures>,
    topic: &'a str,
    partitions: u64,
    value: Vec<u8>,
    /// Records per second; 0 is as many as go.
    rate: u64,
    begin: Instant,
    sent: u64,
}

impl Load<'_> {
    /// For so long, and to the end of the last transaction; how many microseconds each commit took.
    fn run(&mut self, interval: Duration, lasts: Duration) -> Result<Histogram<u64>, String> {
        let mut commits = Histogram::new(3).map_err(|e| e.to_string())?;
        if interval.is_zero() {
            self.send_for(lasts)?;
            self.deliver()?;
        }
        while !interval.is_zero() && self.begin.elapsed() < lasts {
            self.producer.begin_transaction().map_err(|e| e.to_string())?;
            self.send_for(interval)?;
            let ending = Instant::now();
            self.deliver()?;
            self.producer.commit_transaction(END_WAIT_MAX).map_err(|e| e.to_string())?;
            commits.record(ending.elapsed().as_micros() as u64).map_err(|e| e.to_string())?;
        }
        failed(&self.producer)?;
        Ok(commits)
    }

    /// Waits until nothing is under way. rdkafka's own waiting looks every 100 ms where only errors are reported.
    fn deliver(&self) -> Result<(), String> {
        let begin = Instant::now();
        loop {
            match self.producer.flush(Duration::ZERO) {
                Ok(()) => return Ok(()),
                Err(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut)) => {}
                Err(error) => return Err(error.to_string()),
            }
            if begin.elapsed() > END_WAIT_MAX {
                return Err("records are not acknowledged".to_owned());
            }
            pause(&self.producer, LOOK_AGAIN_AFTER);
        }
    }

    fn send_for(&mut self, lasts: Duration) -> Result<(), String> {
        let begin = Instant::now();
        while begin.elapsed() < lasts {
            let due = match self.rate {
                0 => self.sent + RECORDS_BETWEEN_LOOKS,
                rate => (self.begin.elapsed().as_secs_f64() * rate as f64) as u64,
            };
            for n in self.sent..due {
                send(&self.producer, self.topic, (n % self.partitions) as i32, &self.value)?;
            }
            self.sent = self.sent.max(due);
            self.producer.poll(Duration::ZERO);
            if self.rate > 0 {
                thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }
}
