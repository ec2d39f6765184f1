//! `ottla audit` and `ottla canary`: proof of delivery for any pipeline.
//!
//! Records carry a stamp (`stamp`): who wrote them, a key, a number that rises by one for each key, and the time. From the
//! stamps alone the judge (`judge`) says what was lost, doubled and reordered on the way, whoever produced, copied,
//! transformed and stored the records in between.

mod stamp;
mod judge;
mod traffic;
mod report;
pub(crate) mod page;
mod produce;
mod verify;
pub(crate) mod canary;

use std::time::Duration;

use clap::{Args, Subcommand};
use client::{Environment, TokioEnvironment};
use jiff::SignedDuration;
use wire::Millis;

use crate::connect::ConnectArgs;
use crate::failure::Failure;
use crate::output::OutputArgs;

/// Prove that no record of a pipeline is lost, doubled or reordered
#[derive(Debug, Args)]
#[command(after_help = "\
A record that is to be followed carries a stamp,
{\"run\":\"7f3a\",\"key\":\"k1\",\"sequence\":0,\"time\":1700000000123}: as text in its header
ottla-audit, or as a field of its JSON value (--field). Sequences of a key are 0, 1, 2 and so on;
time is when the record was produced, in milliseconds. Only sequence must be there: key is the
record's own key otherwise, time its timestamp, and run, which keeps apart what several producers
number, is empty. Records without a stamp are passed over.")]
pub(crate) struct AuditArgs {
    #[command(subcommand)]
    command: AuditCommand,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    Produce(produce::ProduceArgs),
    Verify(verify::VerifyArgs),
}

pub(crate) async fn run(args: AuditArgs) -> Result<(), Failure> {
    let AuditArgs { command, output, connect } = args;
    match command {
        AuditCommand::Produce(args) => produce::run(args, output, &connect).await,
        AuditCommand::Verify(args) => verify::run(args, output, &connect).await,
    }
}

/// The time of day.
fn now() -> Millis {
    TokioEnvironment.now()
}

/// A name that no other run has.
fn fresh_run() -> String {
    format!("{:016x}", TokioEnvironment.random())
}

/// Parses a span of time, such as `90s` or `1h30m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<SignedDuration>().ok().filter(SignedDuration::is_positive);
    parsed
        .map(SignedDuration::unsigned_abs)
        .ok_or_else(|| format!("{text:?} is no duration; 500ms, 30s, 10m and 1h30m are"))
}

/// Whole milliseconds, at least one.
fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).max(1)
}
