//! `ottla cluster`: what the cluster is made of, how it is, and how that changes.
//!
//! Each command stands in the file of its name. They share how partitions are named on the command line, how a
//! person is asked before something is done, and what is said while something goes on.

mod health;
mod progress;
mod quorum;

use clap::{Args, Subcommand};
use client::{Admin, ClusterInfo, Error};
use serde_json::{Value, json};

use crate::connect::ConnectArgs;
use crate::failure::Failure;
use crate::output::{self, OutputArgs, Report, Style};
use crate::topic::{key_value_table, section_text};

/// Show what the cluster is made of and how it is; change where things are kept
#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    #[command(subcommand)]
    command: ClusterCommand,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Show the cluster's id, controller and brokers
    #[command(
        visible_alias = "metadata",
        after_help = "\
Examples:
  ottla cluster info
  ottla cluster info -b broker-1:9092,broker-2:9092 --format json"
    )]
    Info,
    Health(health::HealthArgs),
    Quorum(quorum::QuorumArgs),
}

pub(crate) async fn run(args: ClusterArgs) -> Result<(), Failure> {
    let ClusterArgs { command, output, connect } = args;
    if let ClusterCommand::Health(args) = command {
        return health::run(args, output, &connect).await;
    }
    let admin = Admin::new(connect.cluster(|_| {}).await?);
    let outcome = match command {
        ClusterCommand::Info => info(&admin, output).await,
        ClusterCommand::Health(_) => unreachable!("it has returned above"),
        ClusterCommand::Quorum(args) => quorum::run(args, output, &admin).await,
    };
    outcome
}

async fn info(admin: &Admin, output: OutputArgs) -> Result<(), Failure> {
    let info = admin.describe_cluster().await?;
    match output.style() {
        Style::Json => output::print_json(&json!({
            "cluster_id": info.cluster_id.as_ref(),
            "controller": info.controller.map(|id| id.0),
            "brokers": brokers(&info).json(),
        })),
        Style::Table => {
            let summary = key_value_table(&[
                ("cluster_id".to_owned(), info.cluster_id.as_ref().into()),
                ("controller".to_owned(), info.controller.map_or(Value::Null, |id| id.0.into())),
            ]);
            output::print(&section_text(vec![("CLUSTER", summary), ("BROKERS", brokers(&info).table())]))
        }
    }
}

fn brokers(info: &ClusterInfo) -> Report {
    let mut report = Report::new(&["id", "host", "port", "rack", "state"]);
    for broker in &info.brokers {
        report.row(vec![
            broker.id.0.into(),
            broker.host.as_ref().into(),
            broker.port.into(),
            broker.rack.as_deref().map_or(Value::Null, Value::from),
            if broker.is_fenced { "fenced".into() } else { Value::Null },
        ]);
    }
    report.without_empty(&["rack", "state"])
}

/// An error of something that only the active controller does. Where nobody answered, that is the likely reason.
fn of_controller(error: Error) -> Failure {
    let is_unanswered = matches!(&error, Error::Timeout { last, .. }
        if matches!(last.as_deref(), None | Some(Error::Disconnected { .. } | Error::Timeout { .. })));
    match is_unanswered {
        true => Failure::from(error)
            .with_advice("perhaps no controller is active; `ottla cluster health` tells what is wrong"),
        false => Failure::from(error),
    }
}
