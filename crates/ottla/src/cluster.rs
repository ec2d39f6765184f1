//! `ottla cluster`: what the cluster is made of.

use clap::{Args, Subcommand};
use client::{Admin, ClusterInfo};
use serde_json::{Value, json};

use crate::connect::ConnectArgs;
use crate::failure::Failure;
use crate::output::{self, OutputArgs, Report, Style};
use crate::topic::{key_value_table, section_text};

/// Show what the cluster is made of
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
}

pub(crate) async fn run(args: ClusterArgs) -> Result<(), Failure> {
    let ClusterCommand::Info = args.command;
    let admin = Admin::new(args.connect.cluster(|_| {}).await?);
    let info = admin.describe_cluster().await?;
    match args.output.style() {
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
    let mut report = Report::new(&["id", "host", "port", "rack"]);
    for broker in &info.brokers {
        report.row(vec![
            broker.id.0.into(),
            broker.host.as_ref().into(),
            broker.port.into(),
            broker.rack.as_deref().map_or(Value::Null, Value::from),
        ]);
    }
    report.without_empty(&["rack"])
}
