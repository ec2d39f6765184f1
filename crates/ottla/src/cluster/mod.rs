//! `ottla cluster`: what the cluster is made of, how it is, and how that changes.
//!
//! Each command stands in the file of its name. They share how partitions are named on the command line, how
//! a person is asked before something is done, and what is said while something goes on.

pub(crate) mod progress;
mod health;
mod quorum;
mod unregister;
mod elect;
mod reassign;
mod plan;
mod moving;
mod rebalance;
mod decommission;

use std::io::{IsTerminal, Write};
use std::str::FromStr;

use clap::{Args, Subcommand};
use client::{Admin, ClusterInfo, Error};
use serde_json::{Value, json};
use wire::{PartitionId, Str, TopicPartition};

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
    Elect(elect::ElectArgs),
    Rebalance(rebalance::RebalanceArgs),
    Reassign(reassign::ReassignArgs),
    Decommission(decommission::DecommissionArgs),
    Unregister(unregister::UnregisterArgs),
}

pub(crate) async fn run(args: ClusterArgs) -> Result<(), Failure> {
    let ClusterArgs { command, output, connect } = args;
    if let ClusterCommand::Health(args) = command {
        return health::run(args, output, &connect).await;
    }
    let admin = Admin::new(connect.cluster(|_| {}).await?);
    match command {
        ClusterCommand::Info => info(&admin, output).await,
        ClusterCommand::Health(_) => unreachable!("it has returned above"),
        ClusterCommand::Quorum(args) => quorum::run(args, output, &admin).await,
        ClusterCommand::Elect(args) => elect::run(args, output, &admin).await,
        ClusterCommand::Rebalance(args) => rebalance::run(args, output, &admin).await,
        ClusterCommand::Reassign(args) => reassign::run(args, output, &admin).await,
        ClusterCommand::Decommission(args) => decommission::run(args, output, &admin).await,
        ClusterCommand::Unregister(args) => unregister::run(args, output, &admin).await,
    }
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

/// An error of something that only the active controller does. Where nobody answered, that is the likely
/// reason.
fn of_controller(error: Error) -> Failure {
    let is_unanswered = matches!(&error, Error::Timeout { last, .. }
        if matches!(last.as_deref(), None | Some(Error::Disconnected { .. } | Error::Timeout { .. })));
    match is_unanswered {
        true => Failure::from(error)
            .with_advice("perhaps no controller is active; `ottla cluster health` tells what is wrong"),
        false => Failure::from(error),
    }
}

/// A topic or one of its partitions, as the command line names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    topic: Str,
    partition: Option<PartitionId>,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // No topic has a colon in its name.
        let Some((topic, partition)) = text.split_once(':') else {
            return Ok(Self { topic: Str::copy_from(text), partition: None });
        };
        match partition.parse() {
            Ok(number) if number >= 0 => {
                Ok(Self { topic: Str::copy_from(topic), partition: Some(PartitionId(number)) })
            }
            _ => Err(format!("{partition:?} is no partition; write TOPIC or TOPIC:PARTITION")),
        }
    }
}

impl Named {
    /// The partition, if one is named.
    pub(crate) fn partition(&self) -> Option<TopicPartition> {
        Some(TopicPartition::new(self.topic.clone(), self.partition?))
    }

    fn is(&self, partition: &TopicPartition) -> bool {
        self.topic == partition.topic && self.partition.is_none_or(|wanted| wanted == partition.partition)
    }
}

/// The partitions that are meant, each of which exists.
async fn resolve(admin: &Admin, named: &[Named]) -> Result<Vec<TopicPartition>, Failure> {
    let mut names: Vec<Str> = named.iter().map(|named| named.topic.clone()).collect();
    names.sort();
    names.dedup();
    let mut there = Vec::new();
    for (_, topic) in admin.describe_topics(&names).await? {
        let topic = topic?;
        let name = |partition: client::PartitionInfo| TopicPartition::new(topic.name.clone(), partition.id);
        there.extend(topic.partitions.into_iter().map(name));
    }
    for named in named {
        if let Some(partition) = named.partition.filter(|_| !there.iter().any(|there| named.is(there))) {
            let partitions = there.iter().filter(|there| there.topic == named.topic).count();
            let partition = TopicPartition::new(named.topic.clone(), partition);
            return Err(Error::UnknownPartition { partition, partitions }.into());
        }
    }
    Ok(there.into_iter().filter(|there| named.iter().any(|named| named.is(there))).collect())
}

/// `TOPIC:PARTITION`, as commands take it.
fn colon(partition: &TopicPartition) -> String {
    format!("{}:{}", partition.topic, partition.partition)
}

/// Asks a person, unless `--yes` was given. Where nobody can be asked, it has to be.
pub(crate) fn confirm(question: &str, is_given: bool) -> Result<bool, Failure> {
    if is_given {
        return Ok(true);
    }
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Err(Failure::usage("nobody is there to ask").with_advice("give --yes to go ahead"));
    }
    let mut err = std::io::stderr().lock();
    write!(err, "{question} [y/N] ")?;
    err.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    let is_yes = matches!(answer.trim().to_lowercase().as_str(), "y" | "yes");
    if !is_yes {
        eprintln!("nothing was changed");
    }
    Ok(is_yes)
}

#[cfg(test)]
mod tests {
    use wire::{PartitionId, TopicPartition};

    use super::Named;

    #[test]
    fn a_name_is_a_topic_or_one_of_its_partitions() {
        let partition = |id| TopicPartition::new("a.b-c", PartitionId(id));
        let topic: Named = "a.b-c".parse().unwrap();
        assert!(topic.is(&partition(0)) && topic.is(&partition(7)));
        let one: Named = "a.b-c:7".parse().unwrap();
        assert!(!one.is(&partition(0)) && one.is(&partition(7)));
        assert!("a:b".parse::<Named>().is_err() && "a:-1".parse::<Named>().is_err());
    }
}
