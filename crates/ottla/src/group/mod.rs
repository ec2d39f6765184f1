//! `ottla group`: list, describe, seek and delete consumer groups.
//!
//! Lag is in records: the high watermark less the committed offset. A partition that a group reads but never
//! committed for has no lag; it shows a dash, which is not zero.

mod offsets_file;
mod seek;

use std::collections::{BTreeMap, BTreeSet};

use broker::clock::{Clock, SystemClock};
use clap::{Args, Subcommand};
use client::{Admin, GroupInfo, GroupMember, Isolation, OffsetSpec};
use serde_json::{Map, Value};
use wire::{Offset, Str, TopicPartition};

use crate::connect::ConnectArgs;
use crate::failure::Failure;
use crate::output::{self, OutputArgs, Report, Style};
use crate::topic::{Filter, key_value_table};

/// List, describe, seek and delete consumer groups
#[derive(Debug, Args)]
pub(crate) struct GroupArgs {
    #[command(subcommand)]
    command: GroupCommand,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Subcommand)]
enum GroupCommand {
    /// List groups
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  ottla group list
  ottla group list --states Stable,Empty --format json"
    )]
    List {
        /// Only groups in these states
        #[arg(short, long, value_delimiter = ',')]
        states: Vec<String>,
    },
    /// Show a group's members, committed offsets and lag
    #[command(after_help = "\
Examples:
  ottla group describe readers
  ottla group describe -s readers                 # the summary alone
  ottla group describe -r '^billing-'")]
    Describe {
        /// The groups
        #[arg(required = true)]
        groups: Vec<String>,
        /// Take the names as regular expressions
        #[arg(short, long)]
        regex: bool,
        /// Show the summary alone
        #[arg(short = 's', long, conflicts_with_all = ["print_commits", "print_lag_per_topic"])]
        print_summary: bool,
        /// Show the commits alone
        #[arg(short = 'c', long, conflicts_with = "print_lag_per_topic")]
        print_commits: bool,
        /// Show the summary and the lag of each topic
        #[arg(short = 't', long)]
        print_lag_per_topic: bool,
    },
    /// Move what a group without members has committed; shows what would change until --execute
    #[command(after_help = "\
Examples:
  ottla group seek readers --to start             # shows the plan alone
  ottla group seek readers --to start --execute
  ottla group seek readers --to -2h --topic orders:0,3
  ottla group seek readers --to 2026-01-31T12:00:00Z
  ottla group seek readers --shift -100
  ottla group seek readers --offset orders:0=42 --offset orders:1=0
  ottla group seek new-readers --to-group readers
  ottla group describe readers --format json >saved.json
  ottla group seek readers --to-file saved.json")]
    Seek(seek::SeekArgs),
    /// Forget what a group has committed for topics that none of its members reads
    #[command(after_help = "\
Examples:
  ottla group offset-delete readers --topic orders
  ottla group offset-delete readers --topic orders:0,3")]
    OffsetDelete(seek::OffsetDeleteArgs),
    /// Delete groups that have no members, with what they committed
    #[command(after_help = "\
Examples:
  ottla group delete readers")]
    Delete {
        /// The groups
        #[arg(required = true)]
        groups: Vec<String>,
    },
}

pub(crate) async fn run(args: GroupArgs) -> Result<(), Failure> {
    let GroupArgs { command, output, connect } = args;
    let admin = Admin::new(connect.cluster(|_| {}).await?);
    match command {
        GroupCommand::List { states } => list(&admin, output, &states).await,
        GroupCommand::Describe { groups, regex, print_summary, print_commits, print_lag_per_topic } => {
            let names = match regex {
                false => groups.into_iter().map(Str::from).collect(),
                true => {
                    let filter = Filter::new(groups, true)?;
                    let all = admin.list_groups().await?.into_iter().map(|group| group.group_id);
                    all.filter(|name| filter.matches(name)).collect::<Vec<_>>()
                }
            };
            if names.is_empty() {
                return Err(Failure::failed("no group matches"));
            }
            let shown = Shown { summary: print_summary, commits: print_commits, topics: print_lag_per_topic };
            describe(&admin, output, &names, shown).await
        }
        GroupCommand::Seek(args) => seek::seek(&admin, output, args, SystemClock.now()).await,
        GroupCommand::OffsetDelete(args) => seek::delete_offsets(&admin, output, args).await,
        GroupCommand::Delete { groups } => {
            let names: Vec<_> = groups.into_iter().map(Str::from).collect();
            let outcomes = admin.delete_groups(&names).await;
            let (report, overall) = output::outcomes("group", outcomes, |()| "OK".to_owned());
            output.print(&report)?;
            overall
        }
    }
}

async fn list(admin: &Admin, output: OutputArgs, states: &[String]) -> Result<(), Failure> {
    let mut report = Report::new(&["broker", "group", "state", "type"]);
    for group in admin.list_groups().await? {
        if states.is_empty() || states.iter().any(|state| state.eq_ignore_ascii_case(&group.state)) {
            let text = |text: &Str| if text.is_empty() { Value::Null } else { text.as_ref().into() };
            report.row(vec![
                group.coordinator.0.into(),
                group.group_id.as_ref().into(),
                text(&group.state),
                text(&group.group_type),
            ]);
        }
    }
    if report.is_empty() && output.style() == Style::Table {
        eprintln!("no groups; `ottla consume TOPIC -g GROUP` makes one");
        return Ok(());
    }
    output.print(&report)
}

/// One partition that a group reads or read.
#[derive(Debug)]
struct Commit {
    partition: TopicPartition,
    committed: Option<Offset>,
    start: Option<Offset>,
    end: Option<Offset>,
    member: Option<GroupMember>,
}

impl Commit {
    fn lag(&self) -> Option<i64> {
        // What was committed may lie behind the start, when records were deleted, or past the end, when the
        // topic was made anew.
        Some((self.end?.0 - self.committed?.0.max(self.start?.0)).max(0))
    }
}

#[derive(Clone, Copy)]
struct Shown {
    summary: bool,
    commits: bool,
    topics: bool,
}

async fn describe(admin: &Admin, output: OutputArgs, names: &[Str], shown: Shown) -> Result<(), Failure> {
    let mut texts = Vec::new();
    let mut objects = Vec::new();
    for (_, outcome) in admin.describe_groups(names).await {
        let group = outcome?;
        let commits = match group.state.as_ref() {
            "Dead" => Vec::new(),
            _ => commits(admin, &group).await?,
        };
        if group.state == *"Dead" && commits.is_empty() {
            let advice = "see `ottla group list`".to_owned();
            let message = format!("group {} does not exist", group.group_id);
            return Err(Failure::Failed { message, advice: Some(advice) });
        }
        match output.style() {
            Style::Json => {
                let mut object = Map::from_iter(summary(&group, &commits));
                object.insert("partitions".to_owned(), commit_report(&commits).json());
                objects.push(Value::Object(object));
            }
            Style::Table => {
                let mut parts = Vec::new();
                if !shown.commits {
                    parts.push(key_value_table(&summary(&group, &commits)));
                }
                if shown.topics {
                    parts.push(topic_report(&commits).table());
                } else if !shown.summary && !commits.is_empty() {
                    parts.push(commit_report(&commits).table());
                }
                texts.push(parts.join("\n"));
            }
        }
    }
    match output.style() {
        Style::Json => output::print_json(&Value::Array(objects)),
        Style::Table => output::print(&texts.join("\n")),
    }
}

async fn commits(admin: &Admin, group: &GroupInfo) -> Result<Vec<Commit>, Failure> {
    let committed = admin.group_offsets(&group.group_id).await?;
    let mut owners = BTreeMap::new();
    for member in &group.members {
        owners.extend(member.assignment.iter().map(|partition| (partition.clone(), member.clone())));
    }
    let names: BTreeSet<_> = committed.keys().chain(owners.keys()).cloned().collect();
    let offsets = async |spec| -> Result<BTreeMap<TopicPartition, Offset>, Failure> {
        let asked: Vec<_> = names.iter().map(|partition| (partition.clone(), spec)).collect();
        let listed = admin.list_offsets(&asked, Isolation::ReadUncommitted).await?;
        // A topic may be gone that the group still has offsets for.
        Ok(listed.into_iter().filter_map(|(name, listed)| Some((name, listed.ok()?.offset?))).collect())
    };
    let starts = offsets(OffsetSpec::Earliest).await?;
    let ends = offsets(OffsetSpec::Latest).await?;
    let commit = |partition: &TopicPartition| Commit {
        partition: partition.clone(),
        committed: committed.get(partition).map(|committed| committed.offset),
        start: starts.get(partition).copied(),
        end: ends.get(partition).copied(),
        member: owners.get(partition).cloned(),
    };
    Ok(names.iter().map(commit).collect())
}

fn summary(group: &GroupInfo, commits: &[Commit]) -> Vec<(String, Value)> {
    let text = |text: &Str| if text.is_empty() { Value::Null } else { text.as_ref().into() };
    vec![
        ("group".to_owned(), group.group_id.as_ref().into()),
        ("coordinator".to_owned(), group.coordinator.0.into()),
        ("state".to_owned(), text(&group.state)),
        ("balancer".to_owned(), text(&group.assignor)),
        ("members".to_owned(), group.members.len().into()),
        ("total_lag".to_owned(), commits.iter().filter_map(Commit::lag).sum::<i64>().into()),
    ]
}

fn commit_report(commits: &[Commit]) -> Report {
    let columns = [
        "topic",
        "partition",
        "current_offset",
        "log_start_offset",
        "log_end_offset",
        "lag",
        "member_id",
        "instance_id",
        "client_id",
        "host",
    ];
    let mut report = Report::new(&columns);
    let offset = |offset: Option<Offset>| offset.map_or(Value::Null, |offset| offset.0.into());
    for commit in commits {
        let member = |field: fn(&GroupMember) -> Option<&Str>| {
            commit.member.as_ref().and_then(field).map_or(Value::Null, |text| text.as_ref().into())
        };
        report.row(vec![
            commit.partition.topic.as_ref().into(),
            commit.partition.partition.0.into(),
            offset(commit.committed),
            offset(commit.start),
            offset(commit.end),
            commit.lag().map_or(Value::Null, Value::from),
            member(|member| Some(&member.member_id)),
            member(|member| member.instance_id.as_ref()),
            member(|member| Some(&member.client_id)),
            member(|member| Some(&member.host)),
        ]);
    }
    report.without_empty(&["member_id", "instance_id", "client_id", "host"])
}

fn topic_report(commits: &[Commit]) -> Report {
    let mut lags: BTreeMap<&Str, i64> = BTreeMap::new();
    for commit in commits {
        *lags.entry(&commit.partition.topic).or_default() += commit.lag().unwrap_or(0);
    }
    let mut report = Report::new(&["topic", "lag"]);
    lags.into_iter().for_each(|(topic, lag)| report.row(vec![topic.as_ref().into(), lag.into()]));
    report
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use wire::{Offset, PartitionId, TopicPartition};

    use super::{Commit, commit_report, topic_report};

    fn commit(partition: i32, committed: Option<i64>, start: i64, end: i64) -> Commit {
        Commit {
            partition: TopicPartition::new("orders", PartitionId(partition)),
            committed: committed.map(Offset),
            start: Some(Offset(start)),
            end: Some(Offset(end)),
            member: None,
        }
    }

    #[test]
    fn never_committed_is_not_the_same_as_no_lag() {
        let commits = [
            commit(0, Some(7), 0, 10),
            commit(1, None, 0, 10),
            commit(2, Some(10), 0, 10),
            commit(3, Some(2), 5, 10),
            commit(4, Some(20), 0, 10),
        ];
        expect![[r#"
            TOPIC   PARTITION  CURRENT-OFFSET  LOG-START-OFFSET  LOG-END-OFFSET  LAG
            orders  0          7               0                 10              3
            orders  1          -               0                 10              -
            orders  2          10              0                 10              0
            orders  3          2               5                 10              5
            orders  4          20              0                 10              0
        "#]]
        .assert_eq(&commit_report(&commits).table());
        expect![[r#"
            TOPIC   LAG
            orders  8
        "#]]
        .assert_eq(&topic_report(&commits).table());
    }
}
