//! `ottla sink reset`: where a sink is to begin that was never run, and what it would mean to move one that was.

use std::sync::Arc;

use clap::Args;
use client::{Cluster, Environment, Execution, TokioEnvironment};
use serde_json::Value;
use sink::{LocalFiles, ResetEffect, ResetWhich, Settings};
use wire::{PartitionId, Str};

use crate::failure::Failure;
use crate::output::{OutputArgs, Report};
use crate::range::Range;

/// Say where a sink begins, before it has read anything
#[derive(Debug, Args)]
#[command(after_help = "\
Shows what would be done, and does it with --yes. A partition that the sink has a position in is never moved,
and nothing at all is done then: forward, the records between would be in no output, and `ottla sink
verify` would miss them; back, they would come twice. A sink under another name, with a table or an
output of its own, begins wherever reset says. An instance that runs has positions in its partitions.

Exit code 1 when it is refused.

Examples:
  ottla sink reset --to 2026-01-31            # what was written since
  ottla sink reset --to -1000 --topic orders --partition 3 --yes")]
pub(crate) struct ResetArgs {
    /// Where: start, end, N, +N, -N or @TIME, as in @2026-01-31 or @-1h
    #[arg(long, value_name = "OFFSET", allow_hyphen_values = true, value_parser = Range::parse)]
    to: Range,
    /// In this topic alone
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// In the partition with this number alone
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// Do it
    #[arg(long)]
    yes: bool,
}

pub(crate) async fn run(
    settings: &Settings,
    cluster: &Cluster,
    args: ResetArgs,
    output: OutputArgs,
) -> Result<(), Failure> {
    if args.to.to.is_some() {
        return Err(Failure::usage("--to is one place and no range"));
    }
    let environment: Arc<dyn Environment> = Arc::new(TokioEnvironment);
    let to = args.to.from.at(environment.now());
    let which = ResetWhich {
        topic: args.topic.as_deref().map(Str::copy_from),
        partition: args.partition.map(PartitionId),
    };
    let execution = if args.yes { Execution::Apply } else { Execution::Validate };
    let files = Arc::new(LocalFiles);
    let resets = sink::reset(settings, cluster, &environment, files, &which, to, execution).await?;
    if resets.is_empty() {
        return Err(Failure::usage("the sink reads no such partition"));
    }
    let is_allowed = resets.iter().all(|reset| reset.effect.is_allowed());
    let mut report = Report::new(&["line", "topic", "partition", "committed", "to", "effect"]);
    for reset in &resets {
        report.row(vec![
            reset.line.name().into(),
            reset.partition.topic.as_str().into(),
            reset.partition.partition.0.into(),
            reset.committed.map_or(Value::Null, |offset| offset.0.into()),
            reset.to.0.into(),
            effect(reset.effect).into(),
        ]);
    }
    output.print(&report)?;
    match (is_allowed, args.yes) {
        (true, true) => Ok(()),
        (true, false) => {
            eprintln!("nothing is changed yet: --yes does it");
            Ok(())
        }
        (false, _) => Err(Failure::failed("a position is not moved, and nothing is changed").with_advice(
            "a sink under another name, with a table or an output of its own, begins wherever reset says; what a store has \
             lost, `ottla sink repair` gives back",
        )),
    }
}

fn effect(effect: ResetEffect) -> String {
    match effect {
        ResetEffect::Begins => "begins there".to_owned(),
        ResetEffect::Stays => "is there".to_owned(),
        ResetEffect::Lost => "refused: the table holds files, and the store has no position".to_owned(),
        ResetEffect::Skips(offsets) => format!("refused: {offsets} offsets would be in no output"),
        ResetEffect::Repeats(offsets) => format!("refused: {offsets} offsets would come again"),
    }
}
