//! `ottla bench`: how many records a cluster takes and gives through this client, and how long each of them takes.
//!
//! A record's time counts from when it was to be sent, not from when the producer got round to it: a cluster that stalls
//! cannot hide the records that it kept from being sent (coordinated omission). What is shown while it runs and at the end,
//! also after an interruption, are records that were acknowledged or read, never records that were only handed over.

pub(crate) mod amount;
mod latency;
mod report;
mod generator;
mod produce;
mod consume;
mod end_to_end;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clap::{Args, Subcommand};
use tokio::time::Instant;

use crate::connect::ConnectArgs;
use crate::failure::Failure;
use crate::output::OutputArgs;

/// How often the line on the terminal changes.
const SHOW_EVERY: Duration = Duration::from_millis(200);

/// Measure how many records a cluster takes and gives, and how long they take
#[derive(Debug, Args)]
#[command(after_help = "\
Latency counts from the time at which a record was to be sent at the given rate. A cluster that
stalls delays all records that were due meanwhile, and each of them counts with its whole delay;
a bench that only timed what it got round to sending would leave them out (coordinated omission).
Without --rate records go as fast as the cluster takes them, and the latency is that of a full
buffer: to see what an application sees, give its rate.

A line on the terminal shows how it goes. Ctrl-C ends early: what is under way is waited for, and
the figures are those until then; a second one does not wait.")]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    Produce(produce::ProduceArgs),
    Consume(consume::ConsumeArgs),
    EndToEnd(end_to_end::EndToEndArgs),
}

pub(crate) async fn run(args: BenchArgs) -> Result<(), Failure> {
    let BenchArgs { command, output, connect } = args;
    match command {
        BenchCommand::Produce(args) => produce::run(args, output, &connect).await,
        BenchCommand::Consume(args) => consume::run(args, output, &connect).await,
        BenchCommand::EndToEnd(args) => end_to_end::run(args, output, &connect).await,
    }
}

/// Time since the bench began.
#[derive(Debug, Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn begin() -> Self {
        Self(Instant::now())
    }

    fn passed(self) -> Duration {
        self.0.elapsed()
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

type Shared<T> = Arc<Mutex<T>>;

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
