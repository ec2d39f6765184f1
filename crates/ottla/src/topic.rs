//! `ottla topic`: create, list, describe, delete and change topics.

use std::collections::HashMap;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};
use client::{
    Admin, AlterOperation, ConfigEntry, Execution, Isolation, NewTopic, OffsetSpec, ResourceKind, TopicInfo,
};
use regex::Regex;
use serde_json::{Map, Value};
use wire::{Offset, PartitionId, Str, TopicPartition};

use crate::connect::{ConnectArgs, key_value};
use crate::failure::Failure;
use crate::output::{self, OutputArgs, Report, Style, cell};

/// How long a command waits for its change to show.
const SETTLE_WAIT_MAX: Duration = Duration::from_secs(5);

/// Create, list, describe, delete and change topics
#[derive(Debug, Args)]
pub(crate) struct TopicArgs {
    #[command(subcommand)]
    command: TopicCommand,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Subcommand)]
enum TopicCommand {
    /// Create topics
    #[command(after_help = "\
Examples:
  ottla topic create orders
  ottla topic create -p 12 -c retention.ms=86400000 orders returns
  ottla topic create -p 3 -c cleanup.policy=compact accounts
  ottla topic create --dry -r 3 orders            # could it be created?")]
    Create {
        /// The topics; all get the same partitions, replicas and settings
        #[arg(required = true)]
        topics: Vec<String>,
        /// Partitions of each topic; -1, the default, is the broker's num.partitions
        #[arg(short, long, allow_negative_numbers = true, value_parser = count::<i32>)]
        partitions: Option<i32>,
        /// Replicas of each partition; -1, the default, is the broker's default.replication.factor
        #[arg(short, long, allow_negative_numbers = true, value_parser = count::<i16>)]
        replicas: Option<i16>,
        /// Setting of the topics (repeatable)
        #[arg(short = 'c', long = "topic-config", value_name = "KEY=VALUE", value_parser = key_value)]
        configs: Vec<(String, String)>,
        /// Only say whether they could be created
        #[arg(short, long)]
        dry: bool,
        /// A topic that exists already is no failure
        #[arg(long)]
        if_not_exists: bool,
    },
    /// List topics
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  ottla topic list
  ottla topic list -r '^orders\\.' 'returns$'
  ottla topic list --internal --format json"
    )]
    List {
        /// Only these topics
        topics: Vec<String>,
        /// Take the names as regular expressions
        #[arg(short, long)]
        regex: bool,
        /// Also the brokers' own topics
        #[arg(short, long)]
        internal: bool,
    },
    /// Show a topic's partitions, settings and offsets
    #[command(
        visible_alias = "info",
        after_help = "\
Without -s, -c or -p, the summary and the settings are shown.

Examples:
  ottla topic describe orders
  ottla topic describe -p orders                  # leaders, replicas, offsets
  ottla topic describe -a orders --format json"
    )]
    Describe {
        /// The topics
        #[arg(required = true)]
        topics: Vec<String>,
        /// Show the summary
        #[arg(short = 's', long)]
        print_summary: bool,
        /// Show the settings
        #[arg(short = 'c', long)]
        print_configs: bool,
        /// Show the partitions
        #[arg(short = 'p', long)]
        print_partitions: bool,
        /// Show everything
        #[arg(short = 'a', long)]
        print_all: bool,
    },
    /// Delete topics and all their records
    #[command(after_help = "\
Examples:
  ottla topic delete orders
  ottla topic delete -r '^test-.*$'")]
    Delete {
        /// The topics
        #[arg(required = true)]
        topics: Vec<String>,
        /// Take the names as regular expressions, which must match whole names
        #[arg(short, long)]
        regex: bool,
    },
    /// Set, delete, append to and subtract from settings of topics
    #[command(after_help = "\
Examples:
  ottla topic alter-config orders --set retention.ms=3600000
  ottla topic alter-config orders returns --set cleanup.policy=compact --delete retention.ms
  ottla topic alter-config orders --append cleanup.policy=delete")]
    AlterConfig {
        /// The topics
        #[arg(required = true)]
        topics: Vec<String>,
        /// Give a setting this value (repeatable)
        #[arg(short, long, value_name = "KEY=VALUE", value_parser = key_value)]
        set: Vec<(String, String)>,
        /// Take a setting back to its default (repeatable)
        #[arg(short, long, value_name = "KEY")]
        delete: Vec<String>,
        /// Add to a setting that is a list (repeatable)
        #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
        append: Vec<(String, String)>,
        /// Take from a setting that is a list (repeatable)
        #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
        subtract: Vec<(String, String)>,
    },
    /// Add partitions to topics
    #[command(after_help = "\
Records of a key may go to another partition afterwards: order by key holds only among records written after.

Examples:
  ottla topic add-partitions orders -n 3          # three more than there are")]
    AddPartitions {
        /// The topics
        #[arg(required = true)]
        topics: Vec<String>,
        /// How many partitions to add to each
        #[arg(short, long, value_parser = clap::value_parser!(i32).range(1..))]
        num: i32,
    },
}

pub(crate) async fn run(args: TopicArgs) -> Result<(), Failure> {
    let TopicArgs { command, output, connect } = args;
    let admin = Admin::new(connect.cluster(|_| {}).await?);
    match command {
        TopicCommand::Create { topics, partitions, replicas, configs, dry, if_not_exists } => {
            let configs: Vec<_> =
                configs.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
            let topics: Vec<_> = topics
                .into_iter()
                .map(|name| NewTopic { name: name.into(), partitions, replicas, configs: configs.clone() })
                .collect();
            let execution = if dry { Execution::Validate } else { Execution::Apply };
            create(&admin, output, &topics, execution, if_not_exists).await
        }
        TopicCommand::List { topics, regex, internal } => {
            list(&admin, output, &Filter::new(topics, regex)?, internal).await
        }
        TopicCommand::Describe { topics, print_summary, print_configs, print_partitions, print_all } => {
            let none = !(print_summary || print_configs || print_partitions);
            let sections = Sections {
                summary: print_summary || print_all || none,
                configs: print_configs || print_all || none,
                partitions: print_partitions || print_all,
            };
            describe(&admin, output, &names(topics), sections).await
        }
        TopicCommand::Delete { topics, regex } => delete(&admin, output, topics, regex).await,
        TopicCommand::AlterConfig { topics, set, delete, append, subtract } => {
            let mut changes: Vec<(Str, AlterOperation)> = Vec::new();
            changes.extend(set.into_iter().map(|(key, to)| (key.into(), AlterOperation::Set(to.into()))));
            changes.extend(delete.into_iter().map(|key| (key.into(), AlterOperation::Delete)));
            changes
                .extend(append.into_iter().map(|(key, to)| (key.into(), AlterOperation::Append(to.into()))));
            changes.extend(
                subtract.into_iter().map(|(key, of)| (key.into(), AlterOperation::Subtract(of.into()))),
            );
            if changes.is_empty() {
                return Err(Failure::usage(
                    "nothing to change: give --set, --delete, --append or --subtract",
                ));
            }
            alter_config(&admin, output, names(topics), &changes).await
        }
        TopicCommand::AddPartitions { topics, num } => {
            add_partitions(&admin, output, &names(topics), num).await
        }
    }
}

/// A number of things, or -1 for as many as the broker has by default.
fn count<Number>(text: &str) -> Result<Number, String>
where
    Number: FromStr + PartialOrd + From<i8>,
{
    match text.parse::<Number>() {
        Ok(number) if number >= Number::from(1) || number == Number::from(-1) => Ok(number),
        _ => Err("allowed: 1 and more, or -1 for the broker's default".to_owned()),
    }
}

fn names(topics: Vec<String>) -> Vec<Str> {
    topics.into_iter().map(Str::from).collect()
}

/// Which names are meant: these, or those that an expression matches. Nothing at all means all.
pub(crate) enum Filter {
    Names(Vec<String>),
    Expressions(Vec<Regex>),
}

impl Filter {
    pub(crate) fn new(names: Vec<String>, is_regex: bool) -> Result<Self, Failure> {
        if !is_regex {
            return Ok(Self::Names(names));
        }
        let compiled: Result<Vec<_>, _> = names.iter().map(|name| Regex::new(name)).collect();
        compiled.map(Self::Expressions).map_err(|error| Failure::usage(error.to_string()))
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::Names(names) if names.is_empty())
    }

    pub(crate) fn matches(&self, name: &str) -> bool {
        match self {
            Self::Names(names) => names.is_empty() || names.iter().any(|wanted| wanted == name),
            Self::Expressions(expressions) => expressions.iter().any(|regex| regex.is_match(name)),
        }
    }
}

async fn create(
    admin: &Admin,
    output: OutputArgs,
    topics: &[NewTopic],
    execution: Execution,
    if_not_exists: bool,
) -> Result<(), Failure> {
    let mut outcomes = Vec::new();
    for (name, outcome) in admin.create_topics(topics, execution).await? {
        let exists =
            matches!(&outcome, Err(error) if error.code() == Some(wire::ErrorCode::TOPIC_ALREADY_EXISTS));
        outcomes.push(match exists && if_not_exists {
            true => (name, Ok("EXISTS")),
            false => (name, outcome.map(|_| "OK")),
        });
    }
    if execution == Execution::Apply {
        let is_led = |topic: Option<&TopicInfo>| {
            topic.is_some_and(|topic| topic.partitions.iter().all(|partition| partition.leader.is_some()))
        };
        settle(admin, &outcomes, is_led).await?;
    }
    let (report, overall) = output::outcomes("topic", outcomes, str::to_owned);
    output.print(&report)?;
    overall
}

/// Waits until what was done shows, so that the next command finds it done.
async fn settle<T>(
    admin: &Admin,
    outcomes: &[(Str, Result<T, client::Error>)],
    is_expected: impl Fn(Option<&TopicInfo>) -> bool,
) -> Result<(), Failure> {
    let done: Vec<_> =
        outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).map(|(name, _)| name.clone()).collect();
    if !done.is_empty() && !admin.await_topics(&done, SETTLE_WAIT_MAX, is_expected).await? {
        eprintln!("done, but not every broker shows it yet");
    }
    Ok(())
}

async fn list(admin: &Admin, output: OutputArgs, filter: &Filter, internal: bool) -> Result<(), Failure> {
    let mut report = Report::new(&["name", "partitions", "replicas"]);
    for topic in admin.list_topics().await? {
        let is_named =
            matches!(filter, Filter::Names(names) if names.iter().any(|name| *name == *topic.name));
        if filter.matches(&topic.name) && (internal || is_named || !topic.is_internal) {
            report.row(vec![
                topic.name.as_ref().into(),
                topic.partitions.len().into(),
                replicas(&topic).into(),
            ]);
        }
    }
    if report.is_empty() && output.style() == Style::Table {
        let advice = match filter.is_empty() {
            true => "no topics; `ottla topic create TOPIC` creates one",
            false => "no topic has such a name; `ottla topic list` shows all",
        };
        eprintln!("{advice}");
        return Ok(());
    }
    output.print(&report)
}

fn replicas(topic: &TopicInfo) -> usize {
    topic.partitions.iter().map(|partition| partition.replicas.len()).max().unwrap_or(0)
}

#[derive(Clone, Copy)]
struct Sections {
    summary: bool,
    configs: bool,
    partitions: bool,
}

async fn describe(
    admin: &Admin,
    output: OutputArgs,
    topics: &[Str],
    sections: Sections,
) -> Result<(), Failure> {
    let mut descriptions = Vec::new();
    for (_, outcome) in admin.describe_topics(topics).await? {
        let topic = outcome?;
        let configs = match sections.configs {
            true => Some(configs(admin.describe_configs(ResourceKind::Topic, &topic.name).await?)),
            false => None,
        };
        let partitions = match sections.partitions {
            true => Some(partitions(admin, &topic).await?),
            false => None,
        };
        descriptions.push((topic, configs, partitions));
    }
    match output.style() {
        Style::Json => {
            let object = |(topic, configs, partitions): (TopicInfo, Option<Report>, Option<Report>)| {
                let mut object = Map::from_iter(summary(&topic));
                object.extend(configs.map(|configs| ("configs".to_owned(), configs.json())));
                object.extend(partitions.map(|partitions| ("partitions".to_owned(), partitions.json())));
                Value::Object(object)
            };
            output::print_json(&descriptions.into_iter().map(object).collect())
        }
        Style::Table => {
            let text: Vec<_> = descriptions
                .into_iter()
                .map(|(topic, configs, partitions)| {
                    let summary = sections.summary.then(|| summary_table(&topic));
                    let parts = [
                        ("SUMMARY", summary),
                        ("CONFIGS", configs.map(|configs| configs.table())),
                        ("PARTITIONS", partitions.map(|partitions| partitions.table())),
                    ];
                    section_text(parts.into_iter().filter_map(|(title, text)| Some((title, text?))).collect())
                })
                .collect();
            output::print(&text.join("\n"))
        }
    }
}

/// Titles stand above sections when there are several.
pub(crate) fn section_text(sections: Vec<(&str, String)>) -> String {
    if let [(_, only)] = sections.as_slice() {
        return only.clone();
    }
    let titled = |(title, text): (&str, String)| format!("{title}\n{}\n{text}", "=".repeat(title.len()));
    sections.into_iter().map(titled).collect::<Vec<_>>().join("\n")
}

fn summary(topic: &TopicInfo) -> Vec<(String, Value)> {
    vec![
        ("name".to_owned(), topic.name.as_ref().into()),
        ("id".to_owned(), topic.id.to_string().into()),
        ("internal".to_owned(), topic.is_internal.into()),
        ("partition_count".to_owned(), topic.partitions.len().into()),
        ("replicas".to_owned(), replicas(topic).into()),
    ]
}

fn summary_table(topic: &TopicInfo) -> String {
    key_value_table(&summary(topic))
}

/// Names in capitals, then values.
pub(crate) fn key_value_table(fields: &[(String, Value)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |(name, value): &(String, Value)| {
        format!("{:width$}  {}\n", name.to_uppercase().replace('_', "-"), cell(value))
    };
    fields.iter().map(line).collect()
}

fn configs(entries: Vec<ConfigEntry>) -> Report {
    let mut report = Report::new(&["key", "value", "source"]);
    for entry in entries {
        let value = match (entry.is_sensitive, entry.value) {
            (true, _) => "(sensitive)".into(),
            (false, Some(value)) => value.as_ref().into(),
            (false, None) => Value::Null,
        };
        report.row(vec![entry.name.as_ref().into(), value, entry.source.name().into()]);
    }
    report
}

async fn partitions(admin: &Admin, topic: &TopicInfo) -> Result<Report, Failure> {
    let offsets = async |spec, isolation| -> Result<HashMap<PartitionId, Offset>, Failure> {
        let asked: Vec<_> = topic
            .partitions
            .iter()
            .filter(|partition| partition.leader.is_some())
            .map(|partition| (TopicPartition::new(topic.name.clone(), partition.id), spec))
            .collect();
        let listed = admin.list_offsets(&asked, isolation).await?;
        let known = listed
            .into_iter()
            .filter_map(|(partition, listed)| Some((partition.partition, listed.ok()?.offset?)));
        Ok(known.collect())
    };
    let starts = offsets(OffsetSpec::Earliest, Isolation::ReadUncommitted).await?;
    let ends = offsets(OffsetSpec::Latest, Isolation::ReadUncommitted).await?;
    let stable = offsets(OffsetSpec::Latest, Isolation::ReadCommitted).await?;
    let columns = [
        "partition",
        "leader",
        "epoch",
        "replicas",
        "in_sync",
        "offline",
        "error",
        "log_start_offset",
        "last_stable_offset",
        "high_watermark",
    ];
    let mut report = Report::new(&columns);
    let offset = |offset: Option<&Offset>| offset.map_or(Value::Null, |offset| offset.0.into());
    let ids = |ids: &[wire::BrokerId]| Value::from_iter(ids.iter().map(|id| id.0));
    for partition in &topic.partitions {
        let end = ends.get(&partition.id);
        let is_ok = partition.error.is_ok();
        report.row(vec![
            partition.id.0.into(),
            partition.leader.map_or(Value::Null, |leader| leader.0.into()),
            partition.leader_epoch.0.into(),
            ids(&partition.replicas),
            ids(&partition.in_sync),
            if partition.offline.is_empty() { Value::Null } else { ids(&partition.offline) },
            if is_ok { Value::Null } else { partition.error.name().into() },
            offset(starts.get(&partition.id)),
            // Of interest only while a transaction is open.
            offset(stable.get(&partition.id).filter(|stable| Some(*stable) != end)),
            offset(end),
        ]);
    }
    Ok(report.without_empty(&["offline", "error", "last_stable_offset"]))
}

async fn delete(
    admin: &Admin,
    output: OutputArgs,
    topics: Vec<String>,
    is_regex: bool,
) -> Result<(), Failure> {
    let topics = match is_regex {
        false => names(topics),
        true => {
            // A part of a name is too easily part of another one as well.
            let anchored = topics.iter().map(|regex| format!("^(?:{regex})$")).collect();
            let filter = Filter::new(anchored, true)?;
            let all = admin.list_topics().await?.into_iter().filter(|topic| !topic.is_internal);
            all.map(|topic| topic.name).filter(|name| filter.matches(name)).collect()
        }
    };
    if topics.is_empty() {
        return Err(Failure::failed("no topic matches"));
    }
    let outcomes = admin.delete_topics(&topics).await?;
    settle(admin, &outcomes, |topic| topic.is_none()).await?;
    let (report, overall) = output::outcomes("topic", outcomes, |()| "OK".to_owned());
    output.print(&report)?;
    overall
}

async fn alter_config(
    admin: &Admin,
    output: OutputArgs,
    topics: Vec<Str>,
    changes: &[(Str, AlterOperation)],
) -> Result<(), Failure> {
    let mut outcomes = Vec::new();
    for topic in topics {
        let outcome = admin.alter_configs(ResourceKind::Topic, &topic, changes).await;
        outcomes.push((topic, outcome));
    }
    let (report, overall) = output::outcomes("topic", outcomes, |()| "OK".to_owned());
    output.print(&report)?;
    overall
}

async fn add_partitions(
    admin: &Admin,
    output: OutputArgs,
    topics: &[Str],
    added: i32,
) -> Result<(), Failure> {
    let mut totals = Vec::new();
    for (name, topic) in admin.describe_topics(topics).await? {
        let total = i32::try_from(topic?.partitions.len()).unwrap_or(i32::MAX).saturating_add(added);
        totals.push((name, total));
    }
    let outcomes = admin.create_partitions(&totals, Execution::Apply).await?;
    let totals: HashMap<Str, i32> = totals.into_iter().collect();
    let is_grown = |topic: Option<&TopicInfo>| {
        topic.is_some_and(|topic| {
            totals.get(&topic.name).is_some_and(|&total| topic.partitions.len() as i32 >= total)
        })
    };
    settle(admin, &outcomes, is_grown).await?;
    let (report, overall) = output::outcomes("topic", outcomes, |()| "OK".to_owned());
    output.print(&report)?;
    overall
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::{Filter, key_value_table, section_text};

    #[test]
    fn names_match_whole_and_expressions_anywhere() {
        let names = Filter::new(vec!["orders".into()], false).unwrap();
        assert!(names.matches("orders") && !names.matches("orders-2"));
        let expressions = Filter::new(vec!["^ord".into(), "s$".into()], true).unwrap();
        assert!(expressions.matches("orders-2") && expressions.matches("returns"));
        assert!(!expressions.matches("accounts-2"));
        assert!(Filter::new(vec!["(".into()], true).is_err());
    }

    #[test]
    fn sections_have_titles_when_there_are_several() {
        let fields = [("name".to_owned(), json!("orders")), ("partition_count".to_owned(), json!(3))];
        let table = key_value_table(&fields);
        expect![[r#"
            NAME             orders
            PARTITION-COUNT  3
        "#]]
        .assert_eq(&section_text(vec![("SUMMARY", table.clone())]));
        expect![[r#"
            SUMMARY
            =======
            NAME             orders
            PARTITION-COUNT  3

            EMPTY
            =====
        "#]]
        .assert_eq(&section_text(vec![("SUMMARY", table), ("EMPTY", String::new())]));
    }
}
