//! `ottla bench produce`: how many records the cluster takes, and how long it takes to acknowledge each.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use client::{Acks, Admin, Cluster, Producer};
use tokio::time::{MissedTickBehavior, interval};
use wire::{PartitionId, Str};

use super::amount::Rate;
use super::generator::{Generator, Noise, Order, Plan, Values, is_final};
use super::report::{Figures, Pulse};
use super::{Clock, SHOW_EVERY, lock};
use crate::cluster::progress::Progress;
use crate::connect::ConnectArgs;
use crate::consume;
use crate::failure::Failure;
use crate::output::OutputArgs;
use crate::produce::{Codec, acks};
use crate::stop::Stop;

/// How long a bench lasts that nobody has set an end to.
const LASTS_DEFAULT: Duration = Duration::from_secs(10);
/// For the end of the producer, when nothing is under way any more.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// Measure how many records a cluster takes, and how long it takes to acknowledge them
#[derive(Debug, Args)]
#[command(after_help = "\
Latency is from when a record was due at the given rate until it was acknowledged; without --rate,
from when it was handed over. Settings of the producer are given with -X: linger.ms (5),
batch.size (1000000), buffer.memory, max.in.flight.requests.per.connection, enable.idempotence.
Exit code 1 when a record was not acknowledged within delivery.timeout.ms.

Examples:
  ottla bench produce orders                              # as fast as it goes, for ten seconds
  ottla bench produce orders --rate 5000 --duration 1m    # the latency that 5000 records/s see
  ottla bench produce orders --rate 20MB/s --size 1000 -z lz4
  ottla bench produce orders --records 5000000 --size 100 -p all -X linger.ms=20 -X batch.size=262144
  ottla bench produce orders --acks 1 -X enable.idempotence=false --format json")]
pub(crate) struct ProduceArgs {
    #[command(flatten)]
    load: LoadArgs,
    /// Bytes of a record's value: printable noise
    #[arg(short, long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(..=100_000_000))]
    size: u32,
    /// Records a second, such as 5000, or bytes a second, such as 10MB/s [default: as fast as it goes]
    #[arg(long, value_name = "RATE", value_parser = Rate::parse)]
    rate: Option<Rate>,
}

/// What both benches that send are told.
#[derive(Debug, Args)]
pub(super) struct LoadArgs {
    /// The topic
    pub(super) topic: String,
    /// End after so many records
    #[arg(short, long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) records: Option<u64>,
    /// End after this long [default: 10s, without --records]
    #[arg(short, long, value_parser = crate::audit::duration)]
    pub(super) duration: Option<Duration>,
    /// Do not time what is due in the first so long: connections, first batches, caches
    #[arg(long, value_name = "DURATION", value_parser = crate::audit::duration)]
    warm_up: Option<Duration>,
    /// Send to these partitions in turn, such as 0,1,2 or all [default: the partitioner chooses]
    #[arg(short, long, value_name = "LIST", value_parser = Turn::parse)]
    partitions: Option<Turn>,
    /// Replicas that must have a record: all or -1, 1 or 0
    #[arg(long, default_value = "all", allow_hyphen_values = true, value_name = "all|1|0", value_parser = acks)]
    acks: Acks,
    /// Codec of the batches
    #[arg(short = 'z', long, value_enum, default_value_t = Codec::None)]
    compression: Codec,
}

/// Partitions that take turns.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Turn {
    All,
    Named(Vec<i32>),
}

impl Turn {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        let named = text.split(',').map(|id| id.trim().parse().ok().filter(|id: &i32| *id >= 0));
        let named: Option<Vec<i32>> = named.collect();
        named
            .map(Self::Named)
            .ok_or_else(|| format!("{text:?} is no list of partitions; 0, 0,1,2 and all are"))
    }
}

impl LoadArgs {
    pub(super) fn name(&self) -> Str {
        Str::copy_from(&self.topic)
    }

    /// A cluster with the producer's settings.
    pub(super) async fn cluster(
        &self,
        connect: &ConnectArgs,
        adjust: impl FnOnce(&mut client::Options),
    ) -> Result<Cluster, Failure> {
        let set = |options: &mut client::Options| {
            options.acks = self.acks;
            options.compression_type = self.compression.into();
            adjust(options);
        };
        connect.cluster(set).await
    }

    /// What is to be sent; the topic is looked up, so that the first record does not wait for that.
    pub(super) async fn plan(
        &self,
        cluster: &Cluster,
        values: Values,
        record_bytes: usize,
        rate: Option<Rate>,
    ) -> Result<Plan, Failure> {
        let topic = self.name();
        let named = match &self.partitions {
            Some(Turn::Named(named)) => named.as_slice(),
            _ => &[],
        };
        let admin = Admin::new(cluster.clone());
        let all = consume::partitions(&admin, std::slice::from_ref(&topic), named).await?;
        let partitions: Vec<PartitionId> = match &self.partitions {
            None => Vec::new(),
            Some(Turn::All) => all.iter().map(|partition| partition.partition).collect(),
            Some(Turn::Named(named)) => named.iter().copied().map(PartitionId).collect(),
        };
        let lasts = match (self.duration, self.records) {
            (None, None) => Some(LASTS_DEFAULT),
            (duration, _) => duration,
        };
        Ok(Plan {
            topic,
            partitions,
            values,
            interval: rate.map(|rate| rate.interval(record_bytes)),
            records_max: self.records,
            lasts,
            warm_up: self.warm_up.unwrap_or_default(),
        })
    }
}

pub(super) async fn run(args: ProduceArgs, output: OutputArgs, connect: &ConnectArgs) -> Result<(), Failure> {
    let size = args.size as usize;
    let cluster = args.load.cluster(connect, |_| {}).await?;
    let plan = args.load.plan(&cluster, Values::Plain(Noise::new(size)), size, args.rate).await?;
    let producer = Arc::new(Producer::new(cluster)?);
    let mut stop = Stop::listen(false)?;
    let progress = Progress::new();
    let clock = Clock::begin();
    let mut generator = Generator::start(Arc::clone(&producer), plan, clock)?;
    let mut pulse = Pulse::new();
    let mut ticks = interval(SHOW_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let sent = loop {
        tokio::select! {
            biased;
            () = stop.asked() => {
                let is_second = generator.was_told_to_end();
                generator.order(if is_second { Order::Abandon } else { Order::Finish });
            }
            sent = generator.ended() => break sent,
            _ = ticks.tick() => {
                let tally = lock(&generator.tally);
                if tally.error.as_ref().is_some_and(is_final) {
                    generator.order(Order::Finish);
                }
                let seconds = clock.passed().as_secs_f64();
                progress.show(pulse.line(seconds, tally.acknowledged, tally.bytes, &tally.latencies));
            }
        }
    };
    drop(progress);
    let failure = {
        let tally = lock(&generator.tally);
        let figures = Figures {
            records: tally.acknowledged,
            bytes: tally.bytes,
            seconds: tally.last.as_secs_f64(),
            times: vec![("latency", &tally.latencies)],
            more: vec![("failed", tally.failed)],
        };
        // Where nothing was sent the reason is all there is to say.
        if tally.acknowledged + tally.failed > 0 {
            figures.print(output)?;
        }
        tally.error.clone()
    };
    if let Ok(producer) = Arc::try_unwrap(producer).map_err(drop) {
        // What it was given has been heard of, or given up.
        let _ = producer.close(CLOSE_MAX).await;
    }
    sent?;
    failure.map_or(Ok(()), |error| Err(error.into()))
}

#[cfg(test)]
mod tests {
    use super::Turn;

    #[test]
    fn partitions_that_take_turns_are_named_or_all() {
        assert_eq!(Turn::parse("all"), Ok(Turn::All));
        assert_eq!(Turn::parse("2, 0"), Ok(Turn::Named(vec![2, 0])));
        for wrong in ["", "-1", "0,,1", "every"] {
            assert!(Turn::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
