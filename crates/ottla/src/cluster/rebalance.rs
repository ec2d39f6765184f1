//! `ottla cluster rebalance`: even shares of replicas and leaders for all brokers that are counted in.

use std::collections::BTreeSet;

use clap::Args;
use client::{Admin, ReplicationFactor};
use serde_json::{Value, json};
use wire::{BrokerId, TopicPartition};

use super::health::plural;
use super::moving;
use super::plan::{Change, Goal, Part, Placement, Plan, PlanBroker, plan};
use super::progress::Patience;
use super::{colon, confirm};
use crate::failure::Failure;
use crate::output::{self, OutputArgs, Report, Style};
use crate::topic::section_text;

/// Move replicas so that all brokers carry even shares
#[derive(Debug, Args)]
#[command(after_help = "\
Plans as few moves as possible after which brokers differ by one replica at most, keeps replicas of a
partition in as many racks as there are, and spreads preferred leaders. Brokers that are not counted in keep
what they have. Moves a few partitions at a time, and has preferred leaders elected in the end. With --dry-run
and --format json, the plan is in the format that `ottla cluster reassign --file` takes.

Examples:
  ottla cluster rebalance --dry-run
  ottla cluster rebalance                         # after a broker was added; asks first
  ottla cluster rebalance --yes --max-moves 50 --wait 600")]
pub(super) struct RebalanceArgs {
    /// Only show the plan
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Move so many replicas at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_moves: Option<u32>,
    /// Stop watching after so many seconds; what was begun goes on
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
}

pub(super) async fn run(args: RebalanceArgs, output: OutputArgs, admin: &Admin) -> Result<(), Failure> {
    let patience = Patience::new(args.wait);
    let (brokers, placements) = survey(admin, None).await?;
    let moves_max = args.max_moves.map_or(usize::MAX, |max| max as usize);
    let plan = plan(&brokers, &placements, Goal::Even { moves_max })
        .expect("no broker leaves, so each has room for what it has");
    let asked = format!("move {}?", summary(&plan));
    if plan.changes.is_empty() {
        show(&plan, output, 0)?;
        if !args.dry_run {
            let elected = moving::prefer_leaders(admin, None).await?;
            say(&format!("shares are even: nothing moves; {} elected", plural(elected, "preferred leader")));
        }
        return Ok(());
    }
    if output.style() == Style::Table || args.dry_run {
        show(&plan, output, 0)?;
    }
    if args.dry_run || !confirm(&asked, args.yes)? {
        return Ok(());
    }
    let moved = moving::apply(admin, targets(&plan), ReplicationFactor::Kept, patience).await?;
    let elected = moving::prefer_leaders(admin, None).await?;
    if output.style() == Style::Json {
        show(&plan, output, moved.done)?;
    }
    let done = plural(moved.done, "partition");
    say(&format!("{done} changed, {} elected", plural(elected, "preferred leader")));
    moved.report()
}

/// What is said beside the answer.
pub(super) fn say(text: &str) {
    eprintln!("{text}");
}

/// `12 replicas and the lead of 3 more partitions`.
pub(super) fn summary(plan: &Plan) -> String {
    let reordered = plan.changes.iter().filter(|change| change.added().count() == 0).count();
    let replicas = plural(plan.moves(), "replica");
    match (plan.moves(), reordered) {
        (0, _) => format!("the lead of {}", plural(reordered, "partition")),
        (_, 0) => replicas,
        _ => format!("{replicas} and the lead of {}", plural(reordered, "more partition")),
    }
}

/// What to ask for.
pub(super) fn targets(plan: &Plan) -> Vec<(TopicPartition, Vec<BrokerId>)> {
    plan.changes.iter().map(|change| (change.partition.clone(), change.after.clone())).collect()
}

/// Who is there and what is where; refuses while replicas move. Partitions without a leader cannot be moved,
/// nor can those that name a broker that nobody knows.
pub(super) async fn survey(
    admin: &Admin,
    leaving: Option<BrokerId>,
) -> Result<(Vec<PlanBroker>, Vec<Placement>), Failure> {
    let ongoing = admin.list_reassignments().await?;
    if !ongoing.is_empty() {
        let message = format!("{} under way already", plural(ongoing.len(), "reassignment"));
        let advice = "wait until `ottla cluster reassign list` is empty, or `ottla cluster reassign cancel`";
        return Err(Failure::failed(message).with_advice(advice));
    }
    let brokers: Vec<_> = admin
        .describe_cluster()
        .await?
        .brokers
        .into_iter()
        .map(|broker| PlanBroker {
            id: broker.id,
            rack: broker.rack,
            part: match broker.is_fenced {
                _ if Some(broker.id) == leaving => Part::Leaves,
                true => Part::Stays,
                false => Part::Shares,
            },
        })
        .collect();
    let known: BTreeSet<BrokerId> = brokers.iter().map(|broker| broker.id).collect();
    let placements = admin.list_topics().await?.into_iter().flat_map(|topic| {
        let known = &known;
        let placement = move |partition: client::PartitionInfo| Placement {
            partition: TopicPartition::new(topic.name.clone(), partition.id),
            is_movable: partition.leader.is_some() && partition.replicas.iter().all(|id| known.contains(id)),
            replicas: partition.replicas,
        };
        topic.partitions.into_iter().map(placement).collect::<Vec<_>>()
    });
    Ok((brokers.clone(), placements.collect()))
}

/// Prints the plan; `moved` partitions of it were carried out.
pub(super) fn show(plan: &Plan, output: OutputArgs, moved: usize) -> Result<(), Failure> {
    match output.style() {
        Style::Json => output::print_json(&json!({
            "version": 1,
            "partitions": plan.changes.iter().map(kafka_json).collect::<Value>(),
            "brokers": shares(plan).json(),
            "replicas_moved": plan.moves(),
            "partitions_done": moved,
        })),
        Style::Table => {
            let mut sections = vec![("BROKERS", shares(plan).table())];
            if !plan.changes.is_empty() {
                sections.insert(0, ("PLAN", changes(plan).table()));
            }
            output::print(&section_text(sections))
        }
    }
}

/// As `kafka-reassign-partitions` has it.
fn kafka_json(change: &Change) -> Value {
    json!({
        "topic": change.partition.topic.as_ref(),
        "partition": change.partition.partition.0,
        "replicas": change.after.iter().map(|id| id.0).collect::<Value>(),
    })
}

fn changes(plan: &Plan) -> Report {
    let mut report = Report::new(&["partition", "from", "to", "replicas_before", "replicas_after"]);
    let ids = |ids: &mut dyn Iterator<Item = BrokerId>| -> Value { ids.map(|id| id.0).collect() };
    for change in &plan.changes {
        report.row(vec![
            colon(&change.partition).into(),
            ids(&mut change.removed()),
            ids(&mut change.added()),
            ids(&mut change.before.iter().copied()),
            ids(&mut change.after.iter().copied()),
        ]);
    }
    report
}

fn shares(plan: &Plan) -> Report {
    let columns = ["broker", "replicas_before", "replicas_after", "leaders_before", "leaders_after"];
    let mut report = Report::new(&columns);
    for share in &plan.shares {
        report.row(vec![
            share.broker.0.into(),
            share.before.replicas.into(),
            share.after.replicas.into(),
            share.before.leaders.into(),
            share.after.leaders.into(),
        ]);
    }
    report
}
