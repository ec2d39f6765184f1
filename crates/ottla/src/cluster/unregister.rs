//! `ottla cluster unregister`: the cluster forgets a broker that does not come back.
//!
//! One that runs would register anew at once, and one that is still a replica of something would be missed
//! there: both are refused here, as the brokers do what they are told.

use clap::Args;
use client::Admin;
use wire::BrokerId;

use super::health::plural;
use super::of_controller;
use super::quorum;
use crate::failure::Failure;
use crate::output::{OutputArgs, Report};

/// Make the cluster forget a broker that does not come back
#[derive(Debug, Args)]
#[command(after_help = "\
The broker has to be stopped, without a vote and without replicas: `ottla cluster decommission` sees to that.

Examples:
  ottla cluster unregister 3")]
pub(super) struct UnregisterArgs {
    /// The broker's id
    id: i32,
}

pub(super) async fn run(args: UnregisterArgs, output: OutputArgs, admin: &Admin) -> Result<(), Failure> {
    let id = BrokerId(args.id);
    unregister(admin, id).await?;
    let mut report = Report::new(&["broker", "status"]);
    report.row(vec![id.0.into(), "OK".into()]);
    output.print(&report)
}

/// Has a broker forgotten, if nothing depends on it.
pub(super) async fn unregister(admin: &Admin, id: BrokerId) -> Result<(), Failure> {
    let info = admin.describe_cluster().await?;
    let Some(broker) = info.brokers.iter().find(|broker| broker.id == id) else {
        let message = format!("there is no broker {id}");
        return Err(Failure::failed(message).with_advice("`ottla cluster info` shows all"));
    };
    if !broker.is_fenced {
        let message = format!("broker {id} runs: it would register anew at once");
        return Err(Failure::failed(message).with_advice("stop it first; it is fenced a few seconds later"));
    }
    let topics = admin.list_topics().await?;
    let partitions = topics.iter().flat_map(|topic| &topic.partitions);
    let kept = partitions.filter(|partition| partition.replicas.contains(&id)).count();
    let advice = format!("`ottla cluster decommission {id} --unregister` moves that to the others first");
    if kept > 0 {
        let message = format!("broker {id} is a replica of {}", plural(kept, "partition"));
        return Err(Failure::failed(message).with_advice(advice));
    }
    if quorum::describe(admin).await?.voters.iter().any(|voter| voter.id == id) {
        let message = format!("broker {id} is a voter of the metadata quorum");
        return Err(Failure::failed(message).with_advice(advice));
    }
    admin.unregister_broker(id).await.map_err(of_controller)
}
