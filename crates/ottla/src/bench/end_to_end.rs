//! `ottla bench end-to-end`: how long records take from when they were due until a consumer has them.
//!
//! Producer and consumer share one process and one monotonic clock, so no clock has to be trusted; a record carries its due
//! time. Records of others in the topic are passed over.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use client::{Admin, Consumer, Environment, Error, OffsetReset, Producer, Records, Start, TokioEnvironment};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::amount::Rate;
use super::generator::{Generator, Noise, Order, STAMP_BYTES, Values, is_final};
use super::latency::Latencies;
use super::produce::LoadArgs;
use super::report::{Figures, Pulse};
use super::{Clock, SHOW_EVERY, lock};
use crate::cluster::progress::Progress;
use crate::connect::ConnectArgs;
use crate::consume;
use crate::failure::Failure;
use crate::output::OutputArgs;
use crate::stop::Stop;

/// How long acknowledged records are waited for that nobody has read.
const ARRIVAL_MAX: Duration = Duration::from_secs(30);
/// For the ends of producer and consumer.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// Measure how long records take from being due until a consumer has them
#[derive(Debug, Args)]
#[command(after_help = "\
Records are produced at the rate and read by the same process, from all partitions, without a
group. The delay is from when a record was due, which it carries in its value, until it was handed
out; the latency is until it was acknowledged. Records go at once, linger.ms=0, unless -X says otherwise. Exit code 1 when a record was not
acknowledged, or was and did not come within 30 seconds.

Examples:
  ottla bench end-to-end orders                           # 1000 records/s for ten seconds
  ottla bench end-to-end orders --rate 20000 --size 1000 --duration 5m -p all
  ottla bench end-to-end orders --rate 100 -X linger.ms=5 -X fetch.min.bytes=10000 --format json")]
pub(crate) struct EndToEndArgs {
    #[command(flatten)]
    load: LoadArgs,
    /// Bytes of a record's value, of which 16 are a stamp
    #[arg(
        short, long, default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(STAMP_BYTES as i64..=100_000_000)
    )]
    size: u32,
    /// Records a second, such as 5000, or bytes a second, such as 10MB/s
    #[arg(long, value_name = "RATE", default_value = "1000", value_parser = Rate::parse)]
    rate: Rate,
}

/// What came.
struct Arrivals {
    run: u64,
    delays: Latencies,
    records: u64,
    bytes: u64,
    last: Duration,
}

impl Arrivals {
    fn take(&mut self, records: &Records, now: Duration) {
        for value in records.iter().filter_map(|record| record.value.as_ref()) {
            let Some(due) = Values::due(self.run, value) else { continue };
            self.records += 1;
            self.bytes += value.len() as u64;
            self.delays.record(super::micros(now).saturating_sub(due));
            self.last = now;
        }
    }
}

pub(super) async fn run(
    args: EndToEndArgs,
    output: OutputArgs,
    connect: &ConnectArgs,
) -> Result<(), Failure> {
    let size = args.size as usize;
    let set = |options: &mut client::Options| {
        options.linger = Duration::ZERO;
        options.auto_offset_reset = OffsetReset::Earliest;
    };
    let cluster = args.load.cluster(connect, set).await?;
    let run = TokioEnvironment.random();
    let values = Values::Stamped { run, noise: Noise::new(size) };
    let plan = args.load.plan(&cluster, values, size, Some(args.rate)).await?;
    let admin = Admin::new(cluster.clone());
    let partitions = consume::partitions(&admin, &[args.load.name()], &[]).await?;
    // Offsets, so that nothing is missed between here and the first fetch.
    let ends = consume::ends(&admin, &cluster, &partitions, Start::Latest).await?;
    let mut consumer = Consumer::new(cluster.clone());
    consumer.assign(ends.into_iter().map(|(partition, end)| (partition, Some(Start::Offset(end)))))?;
    let producer = Arc::new(Producer::new(cluster)?);
    let mut stop = Stop::listen(false)?;
    let progress = Progress::new();
    let clock = Clock::begin();
    let mut generator = Generator::start(Arc::clone(&producer), plan, clock)?;
    let mut arrivals = Arrivals { run, delays: Latencies::new(), records: 0, bytes: 0, last: Duration::ZERO };
    let outcome = watch(&mut consumer, &mut generator, &mut arrivals, &mut stop, &progress, clock).await;
    drop(progress);
    let (missing, failure) = {
        let tally = lock(&generator.tally);
        let missing = tally.acknowledged.saturating_sub(arrivals.records);
        let figures = Figures {
            records: arrivals.records,
            bytes: arrivals.bytes,
            seconds: arrivals.last.as_secs_f64(),
            times: vec![("delay", &arrivals.delays), ("latency", &tally.latencies)],
            more: vec![("acknowledged", tally.acknowledged), ("failed", tally.failed), ("missing", missing)],
        };
        if tally.acknowledged + tally.failed + arrivals.records > 0 {
            figures.print(output)?;
        }
        (missing, tally.error.clone())
    };
    // What they were given has been dealt with, or given up.
    let _ = consumer.close(CLOSE_MAX).await;
    if let Ok(producer) = Arc::try_unwrap(producer).map_err(drop) {
        let _ = producer.close(CLOSE_MAX).await;
    }
    let was_abandoned = outcome?;
    match failure {
        Some(error) => Err(error.into()),
        None if missing > 0 && !was_abandoned => Err(Failure::Reported),
        None => Ok(()),
    }
}

/// Reads until all that was acknowledged has come, or too much time has passed, or nobody wants to wait any more, which
/// it tells.
async fn watch(
    consumer: &mut Consumer,
    generator: &mut Generator,
    arrivals: &mut Arrivals,
    stop: &mut Stop,
    progress: &Progress,
    clock: Clock,
) -> Result<bool, Error> {
    let mut pulse = Pulse::new();
    let mut ticks = interval(SHOW_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // How many were acknowledged and until when they are waited for, once nothing more is sent.
    let mut rest: Option<(u64, Instant)> = None;
    loop {
        if let Some((acknowledged, _)) = rest
            && arrivals.records >= acknowledged
        {
            return Ok(false);
        }
        let patience = rest.map_or_else(Instant::now, |(_, end)| end);
        tokio::select! {
            biased;
            () = stop.asked() => {
                if rest.is_some() {
                    return Ok(true);
                }
                let is_second = generator.was_told_to_end();
                generator.order(if is_second { Order::Abandon } else { Order::Finish });
            }
            sent = generator.ended(), if rest.is_none() => {
                sent?;
                rest = Some((lock(&generator.tally).acknowledged, Instant::now() + ARRIVAL_MAX));
            }
            () = sleep_until(patience), if rest.is_some() => return Ok(false),
            taken = consumer.next() => match taken {
                Some(records) => {
                    let records = records?;
                    arrivals.take(&records, clock.passed());
                    records.done();
                }
                None => return Err(Error::Closed),
            },
            _ = ticks.tick() => {
                if lock(&generator.tally).error.as_ref().is_some_and(is_final) {
                    generator.order(Order::Finish);
                }
                let seconds = clock.passed().as_secs_f64();
                progress.show(pulse.line(seconds, arrivals.records, arrivals.bytes, &arrivals.delays));
            }
        }
    }
}
