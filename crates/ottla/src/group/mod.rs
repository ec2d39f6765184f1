//! `ottla group`: list, describe, seek and delete consumer groups.
//!
//! Each partition's offset is one of five, and none is taken for another: committed, committed and below the log's start or past its
//! end, committed until it expired, or never committed. The last two have no lag; they show a dash, which is not zero.

mod commit;
mod offsets_file;
mod seek;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use broker::clock::{Clock, SystemClock};
use clap::{Args, Subcommand};
use client::{Admin, GroupInfo, Isolation};
use serde_json::{Map, Value};
use tokio::time::Instant;
use wire::Str;

use self::commit::{COMMITTED, Commit, Positions, clear_in, commits, in_seconds, position_report, seconds};
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
  ottla group describe -r '^billing-'
  ottla group describe readers --watch 10s        # and when the lag is gone, if it goes on so")]
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
        /// Lag of readers that are not given what was aborted, up to the first open transaction
        #[arg(long)]
        read_committed: bool,
        /// Describe again and again, this often, and tell how long until the lag is gone
        #[arg(short, long, value_name = "INTERVAL", value_parser = interval)]
        watch: Option<Duration>,
        /// Stop watching after that many times
        #[arg(long, requires = "watch", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
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
        GroupCommand::Describe {
            groups,
            regex,
            print_summary,
            print_commits,
            print_lag_per_topic,
            read_committed,
            watch,
            count,
        } => {
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
            let isolation =
                if read_committed { Isolation::ReadCommitted } else { Isolation::ReadUncommitted };
            let watch = watch.map(|every| Watch { every, count });
            describe(&admin, output, &names, shown, isolation, watch).await
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

/// An interval such as `5s`, or a number of seconds.
fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().map(jiff::SignedDuration::from_secs);
    let parsed = seconds.or_else(|| text.parse().ok()).and_then(|every| Duration::try_from(every).ok());
    parsed
        .filter(|every| !every.is_zero())
        .ok_or_else(|| format!("{text:?} is no interval, such as 5s or 1m"))
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

#[derive(Clone, Copy)]
struct Shown {
    summary: bool,
    commits: bool,
    topics: bool,
}

/// How often to describe, and how many times; without an end when that is not said.
#[derive(Clone, Copy)]
struct Watch {
    every: Duration,
    count: Option<u64>,
}

/// Samples that rates are taken over, at most.
const SAMPLES_MAX: usize = 6;

async fn describe(
    admin: &Admin,
    output: OutputArgs,
    names: &[Str],
    shown: Shown,
    isolation: Isolation,
    watch: Option<Watch>,
) -> Result<(), Failure> {
    let mut earlier: VecDeque<(Instant, Positions)> = VecDeque::new();
    let mut described = 0;
    loop {
        let at = Instant::now();
        let since = earlier.front().map(|(then, positions)| (at.duration_since(*then), positions));
        let positions = describe_once(admin, output, names, shown, isolation, since).await?;
        described += 1;
        let Some(Watch { every, count }) = watch else { return Ok(()) };
        if count == Some(described) {
            return Ok(());
        }
        if earlier.len() == SAMPLES_MAX {
            earlier.pop_front();
        }
        earlier.push_back((at, positions));
        tokio::time::sleep_until(at + every).await;
        if output.style() == Style::Table {
            output::print("\n")?;
        }
    }
}

async fn describe_once(
    admin: &Admin,
    output: OutputArgs,
    names: &[Str],
    shown: Shown,
    isolation: Isolation,
    since: Option<(Duration, &Positions)>,
) -> Result<Positions, Failure> {
    let mut texts = Vec::new();
    let mut objects = Vec::new();
    let mut positions = Positions::new();
    for (_, outcome) in admin.describe_groups(names).await {
        let group = outcome?;
        let mut commits = commits(admin, &group, isolation).await?;
        if group.state == *"Dead" && commits.is_empty() {
            let advice = "see `ottla group list`".to_owned();
            let message = format!("group {} does not exist", group.group_id);
            return Err(Failure::Failed { message, advice: Some(advice) });
        }
        for commit in &mut commits {
            let key = (group.group_id.clone(), commit.partition.clone());
            if let Some(now) = commit.progress() {
                commit.pace = since.and_then(|(elapsed, earlier)| Some((elapsed, *earlier.get(&key)?)));
                positions.insert(key, now);
            }
        }
        match output.style() {
            Style::Json => {
                let mut object = Map::from_iter(summary(&group, &commits));
                object.insert("partitions".to_owned(), position_report(&group, &commits).json());
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
                    let report = position_report(&group, &commits);
                    parts.push(report.without_same("offset_state", &COMMITTED.into()).table());
                }
                texts.push(parts.join("\n"));
            }
        }
    }
    match output.style() {
        Style::Json => output::print_json(&Value::Array(objects))?,
        Style::Table => output::print(&texts.join("\n"))?,
    }
    Ok(positions)
}

fn summary(group: &GroupInfo, commits: &[Commit]) -> Vec<(String, Value)> {
    let text = |text: &Str| if text.is_empty() { Value::Null } else { text.as_ref().into() };
    let longest = commits.iter().filter_map(|commit| commit.lag?.ms).max();
    let mut fields = vec![
        ("group".to_owned(), group.group_id.as_ref().into()),
        ("coordinator".to_owned(), group.coordinator.0.into()),
        ("state".to_owned(), text(&group.state)),
        ("balancer".to_owned(), text(&group.assignor)),
        ("members".to_owned(), group.members.len().into()),
        (
            "total_lag".to_owned(),
            commits.iter().filter_map(|commit| Some(commit.lag?.records)).sum::<i64>().into(),
        ),
        ("max_lag_seconds".to_owned(), longest.map_or(Value::Null, seconds)),
    ];
    if commits.iter().any(|commit| commit.pace.is_some()) {
        fields.push(("clear_in_seconds".to_owned(), clear_in(commits).map_or(Value::Null, in_seconds)));
    }
    fields
}

fn topic_report(commits: &[Commit]) -> Report {
    let mut lags: BTreeMap<&Str, i64> = BTreeMap::new();
    for commit in commits {
        *lags.entry(&commit.partition.topic).or_default() += commit.lag.map_or(0, |lag| lag.records);
    }
    let mut report = Report::new(&["topic", "lag"]);
    lags.into_iter().for_each(|(topic, lag)| report.row(vec![topic.as_ref().into(), lag.into()]));
    report
}
