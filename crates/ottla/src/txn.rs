//! `ottla txn`: who writes in transactions, what they hold up, and the abort of what nobody ends.

use std::time::Duration;

use broker::clock::{Clock, SystemClock};
use clap::{Args, Subcommand};
use client::{
    Admin, Isolation, OffsetSpec, ProducerInfo, TransactionFilter, TransactionInfo, TransactionListing,
    holding,
};
use serde_json::{Value, json};
use wire::{Millis, Offset, ProducerId, Str, TopicPartition};

use crate::cluster::Named;
use crate::connect::ConnectArgs;
use crate::failure::Failure;
use crate::output::{self, OutputArgs, Report, Style};

/// List, describe and abort transactions, and say what holds up readers of committed records
#[derive(Debug, Args)]
pub(crate) struct TxnArgs {
    #[command(subcommand)]
    command: TxnCommand,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Subcommand)]
enum TxnCommand {
    /// List transactional ids
    #[command(
        visible_alias = "ls",
        after_help = "\
States: Empty, Ongoing, PrepareCommit, PrepareAbort, CompleteCommit, CompleteAbort

Examples:
  ottla txn list
  ottla txn list --states Ongoing --open-for 60        # transactions that are open for more than a minute"
    )]
    List {
        /// Only ids in these states
        #[arg(short, long, value_delimiter = ',')]
        states: Vec<String>,
        /// Only ids whose transaction has been open for more than so many seconds
        #[arg(long, value_name = "SECONDS")]
        open_for: Option<u64>,
    },
    /// Show a transactional id: its producer, its transaction, and what that has written to
    #[command(after_help = "\
Examples:
  ottla txn describe payments-1")]
    Describe {
        /// The transactional ids
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Say which transactions hold back readers of committed records of a topic
    #[command(after_help = "\
Readers with isolation.level=read_committed get no further than the last stable offset: where the oldest
transaction that is not ended began. For each partition in which that is behind, this names the transaction,
how long it has been open, the client that writes it and how long ago anything was heard of it. A coordinator
that has just taken over does not know the client before it hears of it.

Examples:
  ottla txn why-stuck orders")]
    WhyStuck {
        /// The topic
        topic: String,
    },
    /// Abort what a producer has open in one partition
    #[command(after_help = "\
A last resort: a transaction with a living coordinator ends by itself, at the latest after its
transaction.timeout.ms. This is for one that `ottla txn why-stuck` finds and no coordinator knows.

Examples:
  ottla txn abort orders:3 --producer 4711")]
    Abort {
        /// Topic and partition, with a colon between them
        partition: Named,
        /// The producer id, as `ottla txn why-stuck` shows it
        #[arg(long)]
        producer: i64,
    },
}

pub(crate) async fn run(args: TxnArgs) -> Result<(), Failure> {
    let TxnArgs { command, output, connect } = args;
    let admin = Admin::new(connect.cluster(|_| {}).await?);
    match command {
        TxnCommand::List { states, open_for } => list(&admin, output, states, open_for).await,
        TxnCommand::Describe { ids } => describe(&admin, output, &ids).await,
        TxnCommand::WhyStuck { topic } => why_stuck(&admin, output, &Str::from(topic)).await,
        TxnCommand::Abort { partition, producer } => {
            let partition =
                partition.partition().ok_or_else(|| Failure::usage("name a partition: TOPIC:PARTITION"))?;
            abort(&admin, &partition, ProducerId(producer)).await
        }
    }
}

async fn list(
    admin: &Admin,
    output: OutputArgs,
    states: Vec<String>,
    open_for: Option<u64>,
) -> Result<(), Failure> {
    let filter = TransactionFilter {
        states: states.into_iter().map(Str::from).collect(),
        open_for_ms: open_for.map(|seconds| i64::try_from(seconds.saturating_mul(1_000)).unwrap_or(i64::MAX)),
        ..TransactionFilter::default()
    };
    let mut report = Report::new(&["transactional_id", "coordinator", "producer_id", "state"]);
    for listing in admin.list_transactions(&filter).await? {
        report.row(vec![
            listing.transactional_id.as_ref().into(),
            listing.coordinator.0.into(),
            listing.producer_id.0.into(),
            listing.state.as_ref().into(),
        ]);
    }
    if report.is_empty() && output.style() == Style::Table {
        eprintln!("no transactional ids");
        return Ok(());
    }
    output.print(&report)
}

async fn describe(admin: &Admin, output: OutputArgs, ids: &[String]) -> Result<(), Failure> {
    let mut all = admin.list_transactions(&TransactionFilter::default()).await?;
    if let Some(unknown) = ids.iter().find(|id| !all.iter().any(|listing| *listing.transactional_id == ***id))
    {
        let message = format!("transactional id {unknown} does not exist");
        return Err(Failure::Failed { message, advice: Some("see `ottla txn list`".to_owned()) });
    }
    all.retain(|listing| ids.iter().any(|id| *listing.transactional_id == **id));
    let mut report = Report::new(&[
        "transactional_id",
        "coordinator",
        "producer_id",
        "producer_epoch",
        "state",
        "timeout_ms",
        "open_for",
        "client_id",
        "host",
        "last_request",
        "partitions",
    ]);
    for (_, described) in admin.describe_transactions(&all).await {
        let info = described?;
        let partitions = info.partitions.iter().map(ToString::to_string).collect::<Vec<_>>();
        report.row(vec![
            info.transactional_id.as_ref().into(),
            info.coordinator.0.into(),
            info.producer_id.0.into(),
            info.producer_epoch.0.into(),
            info.state.as_ref().into(),
            info.timeout_ms.into(),
            info.started_at.filter(|_| is_open(&info)).map_or(Value::Null, |at| since(at).into()),
            known(info.client_id.as_ref(), output),
            known(info.client_host.as_ref(), output),
            info.last_request.map_or(Value::Null, ago),
            if partitions.is_empty() { Value::Null } else { json!(partitions) },
        ]);
    }
    output.print(&report)
}

fn is_open(info: &TransactionInfo) -> bool {
    matches!(&*info.state, "Ongoing" | "PrepareCommit" | "PrepareAbort")
}

/// What only a coordinator that has heard it can say.
fn known(text: Option<&Str>, output: OutputArgs) -> Value {
    match (text, output.style()) {
        (Some(text), _) => text.as_ref().into(),
        (None, Style::Table) => "unknown".into(),
        (None, Style::Json) => Value::Null,
    }
}

fn ago(at: Millis) -> Value {
    format!("{} ago", since(at)).into()
}

/// How long ago something was.
fn since(at: Millis) -> String {
    let ms = u64::try_from(SystemClock.now().since(at)).unwrap_or(0);
    format!("{:.1}s", Duration::from_millis(ms).as_secs_f64())
}

/// A partition whose last stable offset is held back.
struct Stuck {
    partition: TopicPartition,
    last_stable: Offset,
    high_watermark: Offset,
    by: ProducerInfo,
}

async fn why_stuck(admin: &Admin, output: OutputArgs, topic: &Str) -> Result<(), Failure> {
    let stuck = stuck(admin, topic).await?;
    let producers = stuck.iter().map(|stuck| stuck.by.producer_id).collect();
    let filter = TransactionFilter { producers, ..TransactionFilter::default() };
    let listed = if stuck.is_empty() { Vec::new() } else { admin.list_transactions(&filter).await? };
    let mut report = Report::new(&[
        "partition",
        "last_stable_offset",
        "high_watermark",
        "producer_id",
        "transactional_id",
        "state",
        "open_for",
        "client_id",
        "host",
        "last_activity",
    ]);
    for Stuck { partition, last_stable, high_watermark, by } in &stuck {
        let info = transaction_of(admin, &listed, by).await?;
        // A record here, or a word to the coordinator.
        let last_record = Some(by.last_timestamp).filter(|at| at.0 >= 0);
        let last_activity = last_record.max(info.as_ref().and_then(|info| info.last_request));
        let text = |text: Option<&Str>| text.map_or(Value::Null, |text| text.as_ref().into());
        report.row(vec![
            partition.partition.0.into(),
            last_stable.0.into(),
            high_watermark.0.into(),
            by.producer_id.0.into(),
            text(info.as_ref().map(|info| &info.transactional_id)),
            text(info.as_ref().map(|info| &info.state)),
            info.as_ref().and_then(|info| info.started_at).map_or(Value::Null, |at| since(at).into()),
            known(info.as_ref().and_then(|info| info.client_id.as_ref()), output),
            known(info.as_ref().and_then(|info| info.client_host.as_ref()), output),
            last_activity.map_or(Value::Null, ago),
        ]);
    }
    if report.is_empty() && output.style() == Style::Table {
        return output::print(&format!("nothing holds back readers of committed records of {topic}\n"));
    }
    output.print(&report)?;
    if output.style() == Style::Table {
        let orphan = stuck
            .iter()
            .find(|stuck| !listed.iter().any(|listing| listing.producer_id == stuck.by.producer_id));
        if let Some(Stuck { partition, by, .. }) = orphan {
            eprintln!(
                "no coordinator knows producer {}: `ottla txn abort {}:{} --producer {}` ends what it has open",
                by.producer_id.0, partition.topic, partition.partition, by.producer_id.0
            );
        }
    }
    Ok(())
}

async fn stuck(admin: &Admin, topic: &Str) -> Result<Vec<Stuck>, Failure> {
    let (_, described) = admin
        .describe_topics(std::slice::from_ref(topic))
        .await?
        .into_iter()
        .next()
        .ok_or_else(|| Failure::failed(format!("nothing is said about topic {topic}")))?;
    let partitions: Vec<_> = described?
        .partitions
        .iter()
        .map(|partition| TopicPartition::new(topic.clone(), partition.id))
        .collect();
    let asked: Vec<_> = partitions.iter().map(|id| (id.clone(), OffsetSpec::Latest)).collect();
    let stable = admin.list_offsets(&asked, Isolation::ReadCommitted).await?;
    let ends = admin.list_offsets(&asked, Isolation::ReadUncommitted).await?;
    let producers = admin.describe_producers(&partitions).await?;
    let mut stuck = Vec::new();
    for (((partition, stable), (_, end)), (_, producers)) in stable.into_iter().zip(ends).zip(producers) {
        let (Some(last_stable), Some(high_watermark)) = (stable?.offset, end?.offset) else { continue };
        let producers = producers?;
        let oldest = holding(&producers).first().copied().cloned();
        if let Some(by) = oldest.filter(|_| last_stable < high_watermark) {
            stuck.push(Stuck { partition, last_stable, high_watermark, by });
        }
    }
    Ok(stuck)
}

async fn transaction_of(
    admin: &Admin,
    listed: &[TransactionListing],
    producer: &ProducerInfo,
) -> Result<Option<TransactionInfo>, Failure> {
    let its: Vec<_> =
        listed.iter().filter(|listing| listing.producer_id == producer.producer_id).cloned().collect();
    match admin.describe_transactions(&its).await.into_iter().next() {
        Some((_, described)) => Ok(Some(described?)),
        None => Ok(None),
    }
}

async fn abort(admin: &Admin, partition: &TopicPartition, producer: ProducerId) -> Result<(), Failure> {
    let described = admin.describe_producers(std::slice::from_ref(partition)).await?;
    let (_, producers) = described.into_iter().next().expect("one partition, one outcome");
    let open = producers?
        .into_iter()
        .find(|known| known.producer_id == producer && known.open_since.is_some())
        .ok_or_else(|| Failure::Failed {
            message: format!("producer {} has no transaction open in {partition}", producer.0),
            advice: Some(format!("see `ottla txn why-stuck {}`", partition.topic)),
        })?;
    admin.abort_transaction(partition, &open).await?;
    output::print(&format!("aborted what producer {} had open in {partition}\n", producer.0))
}
