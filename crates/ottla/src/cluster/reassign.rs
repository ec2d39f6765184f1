//! `ottla cluster reassign`: replicas go where a file says, or stay after all.
//!
//! The file is what `kafka-reassign-partitions` takes and `ottla cluster rebalance --dry-run --format json`
//! prints.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use client::{Admin, OngoingReassignment, Reassignment, ReplicationFactor};
use serde_json::{Value, json};
use wire::{BrokerId, PartitionId, TopicPartition};

use super::health::plural;
use super::progress::Patience;
use super::{Named, colon, moving, of_controller, resolve};
use crate::failure::Failure;
use crate::output::{self, OutputArgs, Report, Style};

/// Move replicas as a file says; list and cancel what is under way
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    arg_required_else_help = true,
    after_help = r#"The file, the preferred leader first:
  {"version": 1, "partitions": [{"topic": "orders", "partition": 0, "replicas": [2, 3, 4]}]}

What was before is printed in the same format, to go back to. A partition may get more or fewer replicas.

Examples:
  ottla cluster reassign --file plan.json > before.json
  ottla cluster reassign --file before.json
  ottla cluster reassign list
  ottla cluster reassign cancel orders:0"#
)]
pub(super) struct ReassignArgs {
    #[command(subcommand)]
    command: Option<ReassignCommand>,
    /// What to move, in the format of kafka-reassign-partitions; - reads the standard input
    #[arg(long, value_name = "FILE", required = true)]
    file: Option<PathBuf>,
    /// Stop watching after so many seconds; what was begun goes on
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
}

#[derive(Debug, Subcommand)]
enum ReassignCommand {
    /// Show what is under way
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  ottla cluster reassign list
  ottla cluster reassign list --format json"
    )]
    List,
    /// Cancel what is under way: replicas stay where they were
    #[command(after_help = "\
Examples:
  ottla cluster reassign cancel                   # all
  ottla cluster reassign cancel orders returns:3")]
    Cancel {
        /// Topics or partitions, as TOPIC or TOPIC:PARTITION [default: all that are under way]
        #[arg(value_name = "TOPIC[:PARTITION]")]
        partitions: Vec<Named>,
    },
}

pub(super) async fn run(args: ReassignArgs, output: OutputArgs, admin: &Admin) -> Result<(), Failure> {
    match (args.command, args.file) {
        (Some(ReassignCommand::List), _) => list(admin, output).await,
        (Some(ReassignCommand::Cancel { partitions }), _) => cancel(admin, output, &partitions).await,
        (None, Some(file)) => apply(admin, &file, Patience::new(args.wait)).await,
        (None, None) => unreachable!("the grammar demands one of the two"),
    }
}

async fn list(admin: &Admin, output: OutputArgs) -> Result<(), Failure> {
    let ongoing = admin.list_reassignments().await?;
    if ongoing.is_empty() && output.style() == Style::Table {
        eprintln!("nothing is reassigned");
        return Ok(());
    }
    let mut report = Report::new(&["topic", "partition", "replicas", "adding", "removing"]);
    let ids = |ids: &[BrokerId]| -> Value { ids.iter().map(|id| id.0).collect() };
    for OngoingReassignment { partition, replicas, adding, removing } in &ongoing {
        report.row(vec![
            partition.topic.as_ref().into(),
            partition.partition.0.into(),
            ids(replicas),
            ids(adding),
            ids(removing),
        ]);
    }
    output.print(&report)
}

async fn cancel(admin: &Admin, output: OutputArgs, named: &[Named]) -> Result<(), Failure> {
    let ongoing = admin.list_reassignments().await?.into_iter().map(|ongoing| ongoing.partition);
    let is_named =
        |partition: &TopicPartition| named.is_empty() || named.iter().any(|name| name.is(partition));
    let meant: Vec<_> = ongoing.filter(is_named).collect();
    if meant.is_empty() {
        // A misspelt name is an error; that nothing is left to cancel is not.
        resolve(admin, named).await?;
        eprintln!("nothing of that is reassigned");
        return Ok(());
    }
    let cancelled: Vec<_> =
        meant.into_iter().map(|partition| Reassignment { partition, replicas: None }).collect();
    let outcomes =
        admin.alter_reassignments(&cancelled, ReplicationFactor::Kept).await.map_err(of_controller)?;
    let outcomes = outcomes.into_iter().map(|(partition, outcome)| (colon(&partition).into(), outcome));
    let (report, overall) = output::outcomes("partition", outcomes.collect(), |()| "CANCELLED".to_owned());
    output.print(&report)?;
    overall
}

async fn apply(admin: &Admin, file: &Path, patience: Patience) -> Result<(), Failure> {
    let wanted = read(file).and_then(|text| parse(&text)).map_err(|problem| {
        Failure::usage(format!("{}: {problem}", file.display()))
            .with_advice("`ottla cluster reassign --help` shows the format")
    })?;
    output::print_json(&before(admin, &wanted).await?)?;
    let moved = moving::apply(admin, wanted, ReplicationFactor::Free, patience).await?;
    eprintln!("{} moved", plural(moved.done, "partition"));
    moved.report()
}

fn read(file: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = match file == Path::new("-") {
        true => std::io::stdin().read_to_string(&mut text),
        false => std::fs::File::open(file).and_then(|mut file| file.read_to_string(&mut text)),
    };
    read.map(|_| text).map_err(|error| error.to_string())
}

/// What the file asks for; each partition once.
fn parse(text: &str) -> Result<Vec<(TopicPartition, Vec<BrokerId>)>, String> {
    let file: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if file.get("version").is_some_and(|version| *version != json!(1)) {
        return Err("its version is not 1".to_owned());
    }
    let partitions = file.get("partitions").and_then(Value::as_array).ok_or("it has no partitions")?;
    let mut wanted: Vec<(TopicPartition, Vec<BrokerId>)> = Vec::new();
    for entry in partitions {
        let number = |value: &Value| value.as_i64().and_then(|number| i32::try_from(number).ok());
        let topic = entry.get("topic").and_then(Value::as_str);
        let partition = entry.get("partition").and_then(number);
        let replicas = entry.get("replicas").and_then(Value::as_array);
        let replicas = replicas.and_then(|ids| ids.iter().map(number).collect::<Option<Vec<_>>>());
        let (Some(topic), Some(partition), Some(replicas)) = (topic, partition, replicas) else {
            return Err(format!("{entry} has no topic, no partition or no replicas"));
        };
        let partition = TopicPartition::new(topic.to_owned(), PartitionId(partition));
        if wanted.iter().any(|(other, _)| *other == partition) {
            return Err(format!("{} is there twice", colon(&partition)));
        }
        wanted.push((partition, replicas.into_iter().map(BrokerId).collect()));
    }
    if wanted.is_empty() { Err("it names no partition".to_owned()) } else { Ok(wanted) }
}

/// Where these partitions are now, in the format of the file.
async fn before(admin: &Admin, wanted: &[(TopicPartition, Vec<BrokerId>)]) -> Result<Value, Failure> {
    let mut names: Vec<_> = wanted.iter().map(|(partition, _)| partition.topic.clone()).collect();
    names.sort();
    names.dedup();
    let mut partitions = Vec::new();
    for (_, topic) in admin.describe_topics(&names).await? {
        let topic = topic?;
        for partition in topic.partitions {
            let name = TopicPartition::new(topic.name.clone(), partition.id);
            if wanted.iter().any(|(wanted, _)| *wanted == name) {
                partitions.push(json!({
                    "topic": topic.name.as_ref(),
                    "partition": partition.id.0,
                    "replicas": partition.replicas.iter().map(|id| id.0).collect::<Value>(),
                }));
            }
        }
    }
    Ok(json!({ "version": 1, "partitions": partitions }))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::parse;

    #[track_caller]
    fn check(text: &str, expected: Expect) {
        let shown = match parse(text) {
            Ok(wanted) => wanted
                .into_iter()
                .map(|(partition, ids)| {
                    format!("{partition} {:?}\n", ids.iter().map(|id| id.0).collect::<Vec<_>>())
                })
                .collect(),
            Err(problem) => problem,
        };
        expected.assert_eq(&shown);
    }

    #[test]
    fn files_of_kafkas_tool_are_understood() {
        check(
            r#"{"version":1,"partitions":[
                {"topic":"orders","partition":0,"replicas":[2,3],"log_dirs":["any","any"]},
                {"topic":"orders","partition":1,"replicas":[1]}]}"#,
            expect![[r#"
                orders-0 [2, 3]
                orders-1 [1]
            "#]],
        );
    }

    #[test]
    fn what_is_no_plan_is_refused_with_what_is_wrong() {
        check("{", expect!["EOF while parsing an object at line 1 column 1"]);
        check(r#"{"version":2,"partitions":[]}"#, expect!["its version is not 1"]);
        check(r#"{"topics":[]}"#, expect!["it has no partitions"]);
        check(r#"{"partitions":[]}"#, expect!["it names no partition"]);
        check(
            r#"{"partitions":[{"topic":"t","partition":0,"replicas":["a"]}]}"#,
            expect![[
                r#"{"partition":0,"replicas":["a"],"topic":"t"} has no topic, no partition or no replicas"#
            ]],
        );
        check(
            r#"{"partitions":[{"topic":"t","partition":0,"replicas":[1]},
                {"topic":"t","partition":0,"replicas":[2]}]}"#,
            expect!["t:0 is there twice"],
        );
    }
}
