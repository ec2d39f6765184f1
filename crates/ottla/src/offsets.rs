//! `ottla offsets`: positions that readers keep in stores of their own, Redis or PostgreSQL.
//!
//! What a reader would find is looked at with its own code. Only `set` changes anything.

use std::sync::Arc;
use std::time::Duration;

use broker::clock::{Clock, SystemClock};
use clap::{Args, Subcommand};
use client::{Cluster, Error, Isolation, OffsetReset, Start};
use jiff::Timestamp;
use offsets::{
    Inspected, Inspector, OffsetStore, PostgresStore, ReaderError, ReaderName, RedisStore, State, StoreError,
};
use serde_json::{Value, json};
use wire::{ErrorCode, Millis, PartitionId, Str, TopicPartition};

use crate::cluster::confirm;
use crate::connect::ConnectArgs;
use crate::failure::Failure;
use crate::output::{OutputArgs, Report};
use crate::range::Range;

/// Show, verify and move the positions that a reader keeps in its own store
#[derive(Debug, Args)]
pub(crate) struct OffsetsArgs {
    #[command(subcommand)]
    command: OffsetsCommand,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Store")]
struct StoreArgs {
    /// Where the reader keeps its positions: redis://HOST:PORT/DATABASE or postgres://USER@HOST/DATABASE
    #[arg(long, global = true, env = "OTTLA_OFFSETS_STORE", value_name = "ADDRESS", hide_env_values = true)]
    store: Option<String>,
    /// The reader's table in PostgreSQL, if wanted behind SCHEMA.
    #[arg(long, global = true, env = "OTTLA_OFFSETS_TABLE", default_value = PostgresStore::TABLE)]
    table: String,
    /// The reader's group [default: its name]
    #[arg(long, global = true)]
    group: Option<String>,
}

#[derive(Debug, Subcommand)]
enum OffsetsCommand {
    /// Show where a reader is, who holds its partitions, and whether it could go on
    #[command(after_help = "\
Examples:
  ottla offsets show billing --store redis://127.0.0.1:6379/0
  ottla offsets show billing --store postgres://reader@127.0.0.1/results --format json
  export OTTLA_OFFSETS_STORE=redis://127.0.0.1:6379/0")]
    Show {
        /// The reader's name
        reader: ReaderName,
    },
    /// Check each position against its log, as the reader does when it starts; fails at a gap
    #[command(after_help = "\
Reads the first record behind each position as well. What was aborted is left out unless -X isolation.level=read_uncommitted.

Examples:
  ottla offsets verify billing --store redis://127.0.0.1:6379/0
  ottla offsets verify billing --format json | jq '.[] | select(.command) | .command'")]
    Verify {
        /// The reader's name
        reader: ReaderName,
        /// For how long to wait for first records, in seconds
        #[arg(long, default_value_t = 10, value_name = "SECONDS")]
        wait: u64,
    },
    /// Move one position; whoever reads the partition under this name is refused from then on
    #[command(after_help = "\
A reader that runs stops reading the partition with its next commit: start it again. Where the group has no members, its copy of
the position is moved as well; else the copy is told to be of before.

Examples:
  ottla offsets set billing orders:3 --to 120
  ottla offsets set billing orders:3 --to earliest --dry-run
  ottla offsets set billing orders:3 --to @2026-01-31T12:00 --yes")]
    Set {
        /// The reader's name
        reader: ReaderName,
        /// The partition
        #[arg(value_name = "TOPIC:PARTITION", value_parser = partition)]
        partition: TopicPartition,
        /// Where to go on: OFFSET, earliest, latest, +N, -N or @TIME
        #[arg(long, value_name = "PLACE", value_parser = Range::parse, allow_hyphen_values = true)]
        to: Range,
        /// Show what would change and change nothing
        #[arg(long)]
        dry_run: bool,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

fn partition(text: &str) -> Result<TopicPartition, String> {
    let problem = || format!("{text:?} is no partition; TOPIC:PARTITION is, as orders:3");
    let (topic, number) = text.rsplit_once(':').ok_or_else(problem)?;
    let number = number.parse().ok().filter(|number| *number >= 0).ok_or_else(problem)?;
    match topic {
        "" => Err(problem()),
        topic => Ok(TopicPartition::new(Str::copy_from(topic), PartitionId(number))),
    }
}

pub(crate) async fn run(args: OffsetsArgs) -> Result<(), Failure> {
    let OffsetsArgs { command, store, output, connect } = args;
    let opened = store.open().await?;
    let cluster = connect
        .cluster(|options| {
            options.isolation_level = Isolation::ReadCommitted;
            // A position outside of the log is to be told, and not to be another one.
            options.auto_offset_reset = OffsetReset::None;
        })
        .await?;
    let inspector =
        |cluster: &Cluster, reader| Inspector::new(cluster.clone(), opened, reader, store.group.clone());
    match command {
        OffsetsCommand::Show { reader } => show(output, inspector(&cluster, reader)).await,
        OffsetsCommand::Verify { reader, wait } => {
            verify(output, inspector(&cluster, reader), Duration::from_secs(wait)).await
        }
        OffsetsCommand::Set { reader, partition, to, dry_run, yes } => {
            let to = place(to, SystemClock.now())?;
            set(output, inspector(&cluster, reader), &partition, to, dry_run, yes).await
        }
    }
}

impl StoreArgs {
    async fn open(&self) -> Result<Arc<dyn OffsetStore>, Failure> {
        let Some(address) = &self.store else {
            return Err(Failure::usage("where does the reader keep its positions?")
                .with_advice("give --store redis://… or postgres://…, or set OTTLA_OFFSETS_STORE"));
        };
        let scheme = address.split_once("://").map(|(scheme, _)| scheme);
        match scheme {
            Some("redis") => Ok(Arc::new(RedisStore::connect(address).await?)),
            Some("postgres" | "postgresql") => {
                Ok(Arc::new(PostgresStore::connect_table(address, &self.table).await?))
            }
            _ => Err(Failure::usage("a store's address begins with redis:// or postgres://")),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::failed(error.to_string())
    }
}

impl From<ReaderError> for Failure {
    fn from(error: ReaderError) -> Self {
        match error {
            ReaderError::Client(error) => error.into(),
            other => Self::failed(other.to_string()),
        }
    }
}

fn place(to: Range, now: Millis) -> Result<Start, Failure> {
    match to.to {
        None => Ok(to.from.at(now)),
        Some(_) => Err(Failure::usage("a position is one place, and no range")),
    }
}

async fn show(output: OutputArgs, inspector: Inspector) -> Result<(), Failure> {
    let all = inspector.show().await?;
    if all.is_empty() {
        eprintln!("nothing is stored under this name");
    }
    let mut report = Report::new(&[
        "topic",
        "partition",
        "cluster",
        "stored",
        "fence",
        "holder",
        "updated",
        "log_start",
        "log_end",
        "lag",
        "state",
        "topic_id",
        "topic_id_now",
    ]);
    let mut outcome = Ok(());
    for inspected in &all {
        match inspected {
            Ok(inspected) => report.row(row(inspected)),
            Err(error) => {
                outcome = Err(Failure::Reported);
                let mut row = vec![Value::Null; 13];
                row[10] = error.to_string().into();
                report.row(row);
            }
        }
    }
    let elsewhere = all.iter().flatten().any(|inspected| matches!(inspected.state, State::Elsewhere));
    if !elsewhere && let Some(Ok(first)) = all.first() {
        report = report.without_same("cluster", &first.seen.key.cluster_id.as_str().into());
    }
    output.print(&report.without_empty(&["topic_id", "topic_id_now"]))?;
    outcome
}

fn row(inspected: &Inspected) -> Vec<Value> {
    let Inspected { seen, log, state, .. } = inspected;
    let (key, stored) = (&seen.key, seen.stored);
    let is_recreated = stored.zip(*log).is_some_and(|(stored, log)| stored.topic_id != log.topic_id);
    let lag = stored.zip(*log).filter(|_| !is_recreated).map(|(stored, log)| {
        let next = stored.position.next;
        (log.end.0 - next.0.max(log.start.0)).max(0)
    });
    let id = |id: Option<wire::Uuid>| id.filter(|_| is_recreated).map(|id| id.to_string());
    vec![
        key.partition.topic.as_ref().into(),
        key.partition.partition.0.into(),
        key.cluster_id.as_str().into(),
        json!(stored.map(|stored| stored.position.next.0)),
        json!(seen.fence.map(|fence| fence.number)),
        json!(seen.fence.map(|fence| format!("{:016x}", fence.token))),
        json!(stored.and_then(|stored| time(stored.updated))),
        json!(log.map(|log| log.start.0)),
        json!(log.map(|log| log.end.0)),
        json!(lag),
        words(state).into(),
        json!(id(stored.map(|stored| stored.topic_id))),
        json!(id(log.map(|log| log.topic_id))),
    ]
}

fn time(at: Millis) -> Option<String> {
    let at = Timestamp::from_millisecond(at.0).ok().filter(|_| at.0 >= 0)?;
    Some(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

fn words(state: &State) -> String {
    match state {
        State::Continues => "continues".to_owned(),
        State::Begins => "begins".to_owned(),
        State::Gap(gap) => format!("gap: {}", gap.cause),
        State::Elsewhere => "in another cluster".to_owned(),
        State::Unknown(error) => error.to_string(),
    }
}

async fn verify(output: OutputArgs, inspector: Inspector, patience: Duration) -> Result<(), Failure> {
    const COLUMNS: [&str; 10] = [
        "topic",
        "partition",
        "state",
        "stored",
        "expected",
        "found",
        "log_start",
        "log_end",
        "cause",
        "command",
    ];
    let all = inspector.verify(patience).await?;
    if all.is_empty() {
        eprintln!("nothing is stored under this name");
    }
    let mut report = Report::new(&COLUMNS);
    let mut outcome = Ok(());
    for inspected in all {
        let inspected = match inspected {
            Ok(inspected) => inspected,
            Err(error) => {
                outcome = Err(Failure::Reported);
                let mut row = vec![Value::Null; COLUMNS.len()];
                row[2] = error.to_string().into();
                report.row(row);
                continue;
            }
        };
        let Inspected { seen, log, state, .. } = inspected;
        let gap = match &state {
            State::Gap(gap) => Some(gap),
            _ => None,
        };
        if !matches!(state, State::Continues | State::Begins | State::Elsewhere) {
            outcome = Err(Failure::Reported);
        }
        report.row(vec![
            seen.key.partition.topic.as_ref().into(),
            seen.key.partition.partition.0.into(),
            words(&state).into(),
            json!(seen.stored.map(|stored| stored.position.next.0)),
            json!(gap.map(|gap| gap.expected.0)),
            json!(gap.and_then(|gap| gap.found).map(|found| found.0)),
            json!(log.map(|log| log.start.0)),
            json!(log.map(|log| log.end.0)),
            json!(gap.map(|gap| gap.cause.name())),
            json!(gap.map(|gap| gap.command())),
        ]);
    }
    output.print(&report.without_empty(&["expected", "found", "cause", "command"]))?;
    outcome
}

async fn set(
    output: OutputArgs,
    inspector: Inspector,
    partition: &TopicPartition,
    to: Start,
    dry_run: bool,
    yes: bool,
) -> Result<(), Failure> {
    let inspected = inspector.one(partition).await?;
    let Some(log) = inspected.log else { return Err(Failure::failed("its log cannot be looked at")) };
    let next = inspector.resolve(partition, to, &log).await?;
    if !(log.start..=log.end).contains(&next) {
        return Err(Failure::usage(format!(
            "{next} is not in the log of {partition}, which goes from {} to {}",
            log.start, log.end
        )));
    }
    let from = inspected.seen.stored.map(|stored| stored.position.next);
    let report = |status: &str| {
        let mut report = Report::new(&["topic", "partition", "from", "to", "log_start", "log_end", "status"]);
        report.row(vec![
            partition.topic.as_ref().into(),
            partition.partition.0.into(),
            json!(from.map(|from| from.0)),
            next.0.into(),
            log.start.0.into(),
            log.end.0.into(),
            status.into(),
        ]);
        report
    };
    if dry_run {
        return output.print(&report("would be moved"));
    }
    let was = from.map_or_else(|| "nothing".to_owned(), |from| from.to_string());
    if !confirm(&format!("move {partition} of {} from {was} to {next}?", inspected.seen.key.reader), yes)? {
        return Ok(());
    }
    inspector.set(&inspected, next).await?;
    if inspected.copy.is_some() {
        match inspector.set_copy(partition, next).await {
            Ok(()) => {}
            Err(Error::Kafka { code: ErrorCode::UNKNOWN_MEMBER_ID, .. }) => {
                eprintln!("its group has members: start them again, they are refused from now on");
            }
            // The store says that the copy is of before.
            Err(error) => eprintln!("the group's copy is where it was: {error}"),
        }
    }
    output.print(&report("moved"))
}

#[cfg(test)]
mod tests {
    use super::partition;

    #[test]
    fn a_partition_is_a_topic_and_a_number() {
        let told =
            |text: &str| partition(text).map_or_else(|problem| problem, |partition| partition.to_string());
        assert_eq!(told("new-orders:3"), "new-orders-3");
        for text in ["orders", "orders:", ":3", "orders:-1", "orders:x"] {
            assert_eq!(told(text), format!("{text:?} is no partition; TOPIC:PARTITION is, as orders:3"));
        }
    }
}
