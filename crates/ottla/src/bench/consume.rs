//! `ottla bench consume`: how many records the cluster gives.

use std::collections::HashMap;
use std::time::Duration;

use clap::Args;
use client::{Admin, Consumer, Environment, OffsetReset, Records, Start, TokioEnvironment};
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use wire::{Millis, Offset, Str, TopicPartition};

use super::latency::Latencies;
use super::report::{Figures, Pulse};
use super::{Clock, SHOW_EVERY};
use crate::cluster::progress::Progress;
use crate::connect::ConnectArgs;
use crate::consume;
use crate::failure::Failure;
use crate::output::OutputArgs;
use crate::range::Range;
use crate::stop::Stop;

/// For the end of the consumer.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// Measure how many records a cluster gives
#[derive(Debug, Args)]
#[command(after_help = "\
Every partition is read by this one consumer, without a group, and nothing is committed. Age is
from a record's timestamp until it was read: what a reader lags behind where records are written
meanwhile, and how old the topic is otherwise. Settings of the consumer are given with -X:
fetch.min.bytes, fetch.max.bytes, max.partition.fetch.bytes, max.poll.records, isolation.level.

Examples:
  ottla bench consume orders                              # all there is
  ottla bench consume orders --records 1000000
  ottla bench consume orders -o end --duration 1m         # what is written meanwhile
  ottla bench consume orders -p 0,1 -X fetch.min.bytes=100000 --format json")]
pub(crate) struct ConsumeArgs {
    /// The topic
    topic: String,
    /// End after so many records
    #[arg(short, long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    records: Option<u64>,
    /// End after this long
    #[arg(short, long, value_parser = crate::audit::duration)]
    duration: Option<Duration>,
    /// Where to begin and, behind a colon, to end [default: start:end, or start with --records or --duration]
    #[arg(short, long, allow_hyphen_values = true, value_parser = Range::parse)]
    offset: Option<Range>,
    /// Read these partitions alone
    #[arg(short, long, value_delimiter = ',', value_parser = clap::value_parser!(i32).range(0..))]
    partitions: Vec<i32>,
}

pub(super) async fn run(args: ConsumeArgs, output: OutputArgs, connect: &ConnectArgs) -> Result<(), Failure> {
    let cluster = connect.cluster(|options| options.auto_offset_reset = OffsetReset::Earliest).await?;
    let admin = Admin::new(cluster.clone());
    let topic = Str::copy_from(&args.topic);
    let partitions = consume::partitions(&admin, &[topic], &args.partitions).await?;
    let now = TokioEnvironment.now();
    let from = args.offset.map_or(Start::Earliest, |range| range.from.at(now));
    let to = match args.offset {
        Some(range) => range.to.map(|to| to.at(now)),
        None if args.records.is_none() && args.duration.is_none() => Some(Start::Latest),
        None => None,
    };
    let mut reading = Reading {
        ends: match to {
            Some(to) => Some(consume::ends(&admin, &cluster, &partitions, to).await?),
            None => None,
        },
        left: args.records,
        records: 0,
        bytes: 0,
        ages: Latencies::new(),
    };
    let consumer = Consumer::new(cluster);
    let mut stop = Stop::listen(false)?;
    let progress = Progress::new();
    let clock = Clock::begin();
    consumer.assign(partitions.into_iter().map(|partition| (partition, Some(from))))?;
    let (consumer, last, outcome) = reading.run(consumer, &mut stop, &progress, clock, args.duration).await;
    drop(progress);
    // Nothing was to be committed.
    let _ = consumer.close(CLOSE_MAX).await;
    let figures = Figures {
        records: reading.records,
        bytes: reading.bytes,
        seconds: last.as_secs_f64(),
        times: vec![("age", &reading.ages)],
        more: Vec::new(),
    };
    if outcome.is_ok() || reading.records > 0 {
        figures.print(output)?;
    }
    outcome
}

/// The reading, until its end if there is one.
struct Reading {
    /// Partitions that have not reached their ends.
    ends: Option<HashMap<TopicPartition, Offset>>,
    /// Records still to be read, if they are counted.
    left: Option<u64>,
    records: u64,
    bytes: u64,
    ages: Latencies,
}

impl Reading {
    /// Gives the consumer back, when the last record came, and what ended the reading.
    async fn run(
        &mut self,
        mut consumer: Consumer,
        stop: &mut Stop,
        progress: &Progress,
        clock: Clock,
        lasts: Option<Duration>,
    ) -> (Consumer, Duration, Result<(), Failure>) {
        let mut last = Duration::ZERO;
        let mut pulse = Pulse::new();
        let mut ticks = interval(SHOW_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let over = async move {
            match lasts.and_then(|lasts| clock.0.checked_add(lasts)) {
                Some(end) => sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(over);
        let outcome = loop {
            tokio::select! {
                biased;
                () = stop.asked() => break Ok(()),
                () = &mut over => break Ok(()),
                _ = ticks.tick() => {
                    let seconds = clock.passed().as_secs_f64();
                    progress.show(pulse.line(seconds, self.records, self.bytes, &self.ages));
                    // Positions also pass what is not to be seen.
                    if self.is_at_the_end(&consumer) {
                        break Ok(());
                    }
                }
                taken = consumer.next() => match taken {
                    Some(Ok(records)) => {
                        let is_over = self.take(&records);
                        let reached = self.reaches_an_end(&records);
                        records.done();
                        last = clock.passed();
                        if is_over || reached && self.is_at_the_end(&consumer) {
                            break Ok(());
                        }
                    }
                    Some(Err(error)) => break Err(error.into()),
                    None => break Ok(()),
                },
            }
        };
        (consumer, last, outcome)
    }

    /// Counts records; says whether these were enough.
    fn take(&mut self, records: &Records) -> bool {
        let end = match &self.ends {
            Some(ends) => ends.get(records.partition()).copied().unwrap_or(Offset::ZERO),
            None => Offset(i64::MAX),
        };
        let now = TokioEnvironment.now();
        for record in records {
            if self.left == Some(0) || record.offset >= end {
                break;
            }
            let length = |part: &Option<bytes::Bytes>| part.as_ref().map_or(0, |bytes| bytes.len() as u64);
            self.records += 1;
            self.bytes += length(&record.key) + length(&record.value);
            self.ages.record(age_micros(record.timestamp, now));
            self.left = self.left.map(|left| left - 1);
        }
        self.left == Some(0)
    }

    fn reaches_an_end(&self, records: &Records) -> bool {
        let end = self.ends.as_ref().and_then(|ends| ends.get(records.partition()));
        end.is_some_and(|end| records.next_offset() >= *end)
    }

    fn is_at_the_end(&mut self, consumer: &Consumer) -> bool {
        let Some(ends) = &mut self.ends else { return false };
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

/// Clocks differ: what is from the future has no age.
fn age_micros(timestamp: Millis, now: Millis) -> u64 {
    u64::try_from(now.0.saturating_sub(timestamp.0)).unwrap_or(0).saturating_mul(1_000)
}
