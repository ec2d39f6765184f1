//! `ottla group seek` and `ottla group offset-delete`: moving what a group has committed.
//!
//! Nothing moves without `--execute`: first the plan is shown, offset by offset, with what it does to the lag. An offset outside of
//! the log is never committed: it is put at the nearer end, and the plan says so. Only a group without members can be moved; the
//! coordinator refuses the others too, should somebody join in between.

use std::collections::BTreeMap;
use std::io::Read;

use clap::Args;
use client::{Admin, GroupInfo, Isolation, OffsetSpec, Start};
use serde_json::Value;
use wire::{ErrorCode, Millis, Offset, PartitionId, Str, TopicPartition};

use super::offsets_file;
use crate::failure::Failure;
use crate::output::{OutputArgs, Report, Style};
use crate::range::Point;

#[derive(Debug, Args)]
pub(super) struct SeekArgs {
    /// The group
    group: String,
    #[command(flatten)]
    target: Target,
    /// Only this topic, or these of its partitions (`orders:0,2`), also where nothing was committed yet
    #[arg(short, long, value_name = "TOPIC[:PARTITION,...]", conflicts_with = "offset")]
    topic: Vec<String>,
    /// Commit what is shown; without this nothing is changed
    #[arg(long)]
    execute: bool,
}

/// Where to; exactly one of them.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// start, end, +N after the start, -N before the end, or a time: @1700000000000, 2026-01-31T12:00:00Z, -1h
    #[arg(long, value_name = "PLACE", allow_hyphen_values = true, value_parser = Point::parse)]
    to: Option<Point>,
    /// What another group has committed
    #[arg(long, value_name = "GROUP")]
    to_group: Option<String>,
    /// What a file says (`-` is the standard input): the JSON of `ottla group describe`, or lines of TOPIC,PARTITION,OFFSET
    #[arg(long, value_name = "FILE")]
    to_file: Option<String>,
    /// One partition's offset; repeat it for more
    #[arg(long, value_name = "TOPIC:PARTITION=OFFSET", value_parser = explicit)]
    offset: Vec<(TopicPartition, Offset)>,
    /// That many records on from what is committed; back, when negative
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    shift: Option<i64>,
}

#[derive(Debug, Args)]
pub(super) struct OffsetDeleteArgs {
    /// The group
    group: String,
    /// The topic, or some of its partitions (`orders:0,2`)
    #[arg(short, long, required = true, value_name = "TOPIC[:PARTITION,...]")]
    topic: Vec<String>,
}

/// What an operator named: topics, with all partitions or some.
#[derive(Debug, Default)]
struct Selection(BTreeMap<Str, Option<Vec<PartitionId>>>);

impl Selection {
    fn parse(topics: &[String]) -> Result<Self, Failure> {
        let mut selected = BTreeMap::new();
        for text in topics {
            let (topic, partitions) = match text.split_once(':') {
                None => (text.as_str(), None),
                Some((topic, list)) => {
                    let ids: Option<Vec<_>> = list.split(',').map(partition_id).collect();
                    let problem =
                        || Failure::usage(format!("{text:?} names no partitions; TOPIC:0,2 does, and TOPIC"));
                    (topic, Some(ids.ok_or_else(problem)?))
                }
            };
            match (
                selected.entry(Str::from(topic.to_owned())).or_insert_with(|| Some(Vec::new())),
                partitions,
            ) {
                (Some(known), Some(more)) => known.extend(more),
                (all, None) => *all = None,
                (None, Some(_)) => {}
            }
        }
        Ok(Self(selected))
    }

    fn holds(&self, partition: &TopicPartition) -> bool {
        self.0.is_empty()
            || self
                .0
                .get(&partition.topic)
                .is_some_and(|ids| ids.as_ref().is_none_or(|ids| ids.contains(&partition.partition)))
    }

    /// Every partition that is named, whether the group knows it or not.
    async fn partitions(&self, admin: &Admin) -> Result<Vec<TopicPartition>, Failure> {
        let mut all = Vec::new();
        for (topic, ids) in &self.0 {
            match ids {
                Some(ids) => all.extend(ids.iter().map(|id| TopicPartition::new(topic.clone(), *id))),
                None => {
                    for (_, described) in admin.describe_topics(std::slice::from_ref(topic)).await? {
                        let ids = described?.partitions.into_iter().map(|partition| partition.id);
                        all.extend(ids.map(|id| TopicPartition::new(topic.clone(), id)));
                    }
                }
            }
        }
        Ok(all)
    }
}

fn partition_id(text: &str) -> Option<PartitionId> {
    text.trim().parse().ok().filter(|id| *id >= 0).map(PartitionId)
}

fn explicit(text: &str) -> Result<(TopicPartition, Offset), String> {
    let parsed = text.split_once('=').and_then(|(partition, offset)| {
        let (topic, partition) = partition.rsplit_once(':')?;
        let offset = offset.parse().ok().filter(|offset| *offset >= 0)?;
        (!topic.is_empty())
            .then_some((TopicPartition::new(topic.to_owned(), partition_id(partition)?), Offset(offset)))
    });
    parsed.ok_or_else(|| format!("{text:?} is not TOPIC:PARTITION=OFFSET, such as orders:0=42"))
}

/// Where one partition is to go.
#[derive(Debug, Clone, Copy)]
enum Aim {
    To(Start),
    Shift(i64),
}

/// What is known of a partition before it is moved.
#[derive(Debug, Clone, Copy)]
struct Known {
    committed: Option<Offset>,
    start: Offset,
    end: Offset,
    /// Of the first record of the time that is aimed at.
    at: Option<Offset>,
}

#[derive(Debug)]
struct Move {
    partition: TopicPartition,
    known: Known,
    to: Offset,
    note: Option<String>,
}

fn plan(partition: TopicPartition, aim: Aim, known: Known) -> Result<Move, Failure> {
    let Known { committed, start, end, at } = known;
    let mut note = None;
    let wanted = match (aim, committed) {
        (Aim::To(aim), _) => {
            if matches!(aim, Start::At(_)) && at.is_none() {
                note = Some("no record is that new: to the end".to_owned());
            }
            aim.resolve(start, end, at)
        }
        (Aim::Shift(by), Some(committed)) => Offset(committed.0.saturating_add(by)),
        (Aim::Shift(_), None) => {
            return Err(Failure::failed(format!(
                "{partition} has no committed offset that could be shifted"
            )));
        }
    };
    let to = Offset(wanted.0.clamp(start.0, end.0));
    if wanted < start {
        note = Some(format!("{wanted} is before the log's start"));
    } else if wanted > end {
        note = Some(format!("{wanted} is past the log's end"));
    }
    Ok(Move { partition, known, to, note })
}

pub(super) async fn seek(
    admin: &Admin,
    output: OutputArgs,
    args: SeekArgs,
    now: Millis,
) -> Result<(), Failure> {
    let SeekArgs { group, target, topic, execute } = args;
    let group = Str::from(group);
    let selection = Selection::parse(&topic)?;
    // What can be told without the cluster is told first.
    let file = target.to_file.as_deref().map(|path| read_file(path, &group)).transpose()?;
    let described = describe(admin, &group).await?;
    let live = described.as_ref().filter(|described| !described.members.is_empty());
    if execute && let Some(live) = live {
        return Err(has_members(live));
    }
    let committed: BTreeMap<_, _> = match &described {
        Some(_) => admin.group_offsets(&group).await?.committed,
        None => BTreeMap::new(),
    }
    .into_iter()
    .map(|(partition, committed)| (partition, committed.offset))
    .collect();

    let known_or_named = async || match selection.0.is_empty() {
        true => Ok(committed.keys().cloned().collect()),
        false => selection.partitions(admin).await,
    };
    let exactly = |offsets: BTreeMap<TopicPartition, Offset>| -> BTreeMap<_, _> {
        let selected = offsets.into_iter().filter(|(partition, _)| selection.holds(partition));
        selected.map(|(partition, offset)| (partition, Aim::To(Start::Offset(offset)))).collect()
    };
    let aims: BTreeMap<TopicPartition, Aim> = match (target.to, target.shift, target.to_group, file) {
        (Some(to), ..) => {
            let aim = Aim::To(to.at(now));
            known_or_named().await?.into_iter().map(|partition| (partition, aim)).collect()
        }
        (_, Some(by), ..) => {
            known_or_named().await?.into_iter().map(|partition| (partition, Aim::Shift(by))).collect()
        }
        (_, _, Some(other), _) => {
            let offsets = admin.group_offsets(&Str::from(other)).await?.committed;
            exactly(offsets.into_iter().map(|(partition, committed)| (partition, committed.offset)).collect())
        }
        (.., Some(offsets)) => exactly(offsets),
        _ => exactly(target.offset.into_iter().collect()),
    };
    if aims.is_empty() {
        let message = format!("there is nothing to seek in group {group}");
        let advice = "it has committed nothing; name topics with --topic".to_owned();
        return Err(Failure::Failed { message, advice: Some(advice) });
    }
    let moves = moves(admin, &committed, aims).await?;
    if !execute {
        output.print(&report(&moves, None))?;
        if output.style() == Style::Table {
            match live {
                Some(live) => eprintln!(
                    "\nnothing was committed, and --execute will be refused while the group has members: {}",
                    names(live)
                ),
                None => eprintln!("\nnothing was committed; --execute commits these offsets"),
            }
        }
        return Ok(());
    }
    let offsets: Vec<_> = moves.iter().map(|moved| (moved.partition.clone(), moved.to)).collect();
    let outcomes = admin.set_group_offsets(&group, &offsets).await?;
    let joined = |outcome: &Result<(), client::Error>| matches!(outcome, Err(error) if error.code() == Some(ErrorCode::UNKNOWN_MEMBER_ID));
    if outcomes.iter().any(|(_, outcome)| joined(outcome))
        && let Some(described) = describe(admin, &group).await?
    {
        return Err(has_members(&described));
    }
    let errors: BTreeMap<_, _> =
        outcomes.into_iter().filter_map(|(partition, outcome)| Some((partition, outcome.err()?))).collect();
    output.print(&report(&moves, Some(&errors)))?;
    if errors.is_empty() { Ok(()) } else { Err(Failure::Reported) }
}

fn read_file(path: &str, group: &str) -> Result<BTreeMap<TopicPartition, Offset>, Failure> {
    let read = match path {
        "-" => {
            let mut text = String::new();
            std::io::stdin().lock().read_to_string(&mut text).map(|_bytes| text)
        }
        path => std::fs::read_to_string(path),
    };
    let text = read.map_err(|error| Failure::usage(format!("cannot read {path}: {error}")))?;
    offsets_file::parse(&text, group).map_err(|problem| Failure::usage(format!("{path}: {problem}")))
}

/// The group, if it is there.
async fn describe(admin: &Admin, group: &Str) -> Result<Option<GroupInfo>, Failure> {
    let described = admin.describe_groups(std::slice::from_ref(group)).await;
    let described: Result<Vec<_>, _> = described.into_iter().map(|(_, outcome)| outcome).collect();
    Ok(described?.into_iter().find(|described| described.state != *"Dead"))
}

fn has_members(group: &GroupInfo) -> Failure {
    let message =
        format!("group {} has members, and only they may move its offsets: {}", group.group_id, names(group));
    Failure::Failed { message, advice: Some("stop them first".to_owned()) }
}

/// Members named in a message, at most.
const NAMED_MAX: usize = 5;

fn names(group: &GroupInfo) -> String {
    let name = |member: &client::GroupMember| {
        let name = member.instance_id.as_ref().unwrap_or(&member.member_id);
        format!("{name} ({} at {})", member.client_id, member.host.trim_start_matches('/'))
    };
    let mut named: Vec<_> = group.members.iter().take(NAMED_MAX).map(name).collect();
    if group.members.len() > NAMED_MAX {
        named.push(format!("and {} more", group.members.len() - NAMED_MAX));
    }
    named.join(", ")
}

async fn moves(
    admin: &Admin,
    committed: &BTreeMap<TopicPartition, Offset>,
    aims: BTreeMap<TopicPartition, Aim>,
) -> Result<Vec<Move>, Failure> {
    let offsets = async |spec: &dyn Fn(Aim) -> Option<OffsetSpec>| -> Result<_, Failure> {
        let asked: Vec<_> =
            aims.iter().filter_map(|(partition, aim)| Some((partition.clone(), spec(*aim)?))).collect();
        let mut found = BTreeMap::new();
        for (partition, listed) in admin.list_offsets(&asked, Isolation::ReadUncommitted).await? {
            found.extend(listed?.offset.map(|offset| (partition, offset)));
        }
        Ok(found)
    };
    let starts = offsets(&|_| Some(OffsetSpec::Earliest)).await?;
    let ends = offsets(&|_| Some(OffsetSpec::Latest)).await?;
    let at = offsets(&|aim| match aim {
        Aim::To(Start::At(time)) => Some(OffsetSpec::At(time)),
        _ => None,
    })
    .await?;
    let of = |offsets: &BTreeMap<_, Offset>, partition| {
        let problem =
            || Failure::failed(format!("the broker does not say where {partition} begins and ends"));
        offsets.get(partition).copied().ok_or_else(problem)
    };
    let mut moves = Vec::with_capacity(aims.len());
    for (partition, aim) in &aims {
        let known = Known {
            committed: committed.get(partition).copied(),
            start: of(&starts, partition)?,
            end: of(&ends, partition)?,
            at: at.get(partition).copied(),
        };
        moves.push(plan(partition.clone(), *aim, known)?);
    }
    Ok(moves)
}

/// The plan, or with the errors there were what came of it.
fn report(moves: &[Move], errors: Option<&BTreeMap<TopicPartition, client::Error>>) -> Report {
    let columns = ["topic", "partition", "from", "to", "lag_before", "lag_after", "note", "error"];
    let mut report = Report::new(&columns);
    for moved in moves {
        let Known { committed, start, end, .. } = moved.known;
        let lag = |offset: Offset| (end.0 - offset.max(start).0).max(0);
        let error = errors.and_then(|errors| errors.get(&moved.partition));
        report.row(vec![
            moved.partition.topic.as_ref().into(),
            moved.partition.partition.0.into(),
            committed.map_or(Value::Null, |offset| offset.0.into()),
            moved.to.0.into(),
            committed.map_or(Value::Null, |offset| lag(offset).into()),
            lag(moved.to).into(),
            moved.note.as_deref().map_or(Value::Null, Value::from),
            error.map_or(Value::Null, |error| error.to_string().into()),
        ]);
    }
    report.without_empty(&["note", "error"])
}

/// Forgets offsets of partitions that no member reads.
pub(super) async fn delete_offsets(
    admin: &Admin,
    output: OutputArgs,
    args: OffsetDeleteArgs,
) -> Result<(), Failure> {
    let group = Str::from(args.group);
    let selection = Selection::parse(&args.topic)?;
    let offsets = admin.group_offsets(&group).await?;
    // What is remembered of an expired offset is forgotten with it.
    let all = offsets.committed.into_keys().chain(offsets.expired.into_keys());
    let there: Vec<_> = all.filter(|partition| selection.holds(partition)).collect();
    if there.is_empty() {
        return Err(Failure::failed(format!(
            "group {group} has committed nothing for {}",
            args.topic.join(", ")
        )));
    }
    let mut report = Report::new(&["topic", "partition", "status", "error"]);
    let mut overall = Ok(());
    for (partition, outcome) in admin.delete_group_offsets(&group, &there).await? {
        let (status, error) = match outcome {
            Ok(()) => ("OK", Value::Null),
            Err(error) => {
                overall = Err(Failure::Reported);
                ("FAILED", error.to_string().into())
            }
        };
        report.row(vec![partition.topic.as_ref().into(), partition.partition.0.into(), status.into(), error]);
    }
    output.print(&report.without_empty(&["error"]))?;
    overall
}

#[cfg(test)]
mod tests {
    use client::Start;
    use expect_test::{Expect, expect};
    use wire::{Millis, Offset, PartitionId, TopicPartition};

    use super::{Aim, Known, Selection, explicit, plan, report};

    /// A log from 10 to 20 in which 15 is committed.
    fn check(aim: Aim, at: Option<i64>, expected: Expect) {
        let known =
            Known { committed: Some(Offset(15)), start: Offset(10), end: Offset(20), at: at.map(Offset) };
        let moved = plan(TopicPartition::new("orders", PartitionId(0)), aim, known).unwrap();
        let table = report(&[moved], None).table();
        expected.assert_eq(table.lines().nth(1).unwrap().strip_prefix("orders  0          15    ").unwrap());
    }

    #[test]
    fn a_plan_never_leaves_the_log_and_says_where_it_would_have() {
        check(Aim::To(Start::Earliest), None, expect!["10  5           10"]);
        check(Aim::To(Start::Latest), None, expect!["20  5           0"]);
        check(Aim::To(Start::At(Millis(1))), Some(12), expect!["12  5           8"]);
        check(
            Aim::To(Start::At(Millis(1))),
            None,
            expect!["20  5           0          no record is that new: to the end"],
        );
        check(
            Aim::To(Start::Offset(Offset(3))),
            None,
            expect!["10  5           10         3 is before the log's start"],
        );
        check(
            Aim::To(Start::Offset(Offset(30))),
            None,
            expect!["20  5           0          30 is past the log's end"],
        );
        check(Aim::Shift(-2), None, expect!["13  5           7"]);
        check(
            Aim::Shift(i64::MAX),
            None,
            expect!["20  5           0          9223372036854775807 is past the log's end"],
        );
        check(
            Aim::Shift(i64::MIN),
            None,
            expect!["10  5           10         -9223372036854775793 is before the log's start"],
        );
    }

    #[test]
    fn what_is_not_committed_cannot_be_shifted() {
        let known = Known { committed: None, start: Offset(10), end: Offset(20), at: None };
        let refused = plan(TopicPartition::new("orders", PartitionId(0)), Aim::Shift(1), known).unwrap_err();
        expect![[
            r#"Failed { message: "orders-0 has no committed offset that could be shifted", advice: None }"#
        ]]
        .assert_eq(&format!("{refused:?}"));
    }

    #[test]
    fn partitions_are_named_by_topic_or_one_by_one() {
        let holds = |topics: &[&str], topic: &str, partition| {
            let topics: Vec<_> = topics.iter().map(|topic| (*topic).to_owned()).collect();
            let selection = Selection::parse(&topics).map_err(|failure| format!("{failure:?}"))?;
            Ok::<_, String>(selection.holds(&TopicPartition::new(topic.to_owned(), PartitionId(partition))))
        };
        assert_eq!(holds(&[], "any", 7), Ok(true));
        assert_eq!(holds(&["a", "b:0,2"], "a", 7), Ok(true));
        assert_eq!(holds(&["a", "b:0,2"], "b", 2), Ok(true));
        assert_eq!(holds(&["a", "b:0,2"], "b", 1), Ok(false));
        assert_eq!(holds(&["b:0", "b:1"], "b", 1), Ok(true));
        assert_eq!(holds(&["b", "b:1"], "b", 3), Ok(true), "all and one is all");
        assert!(holds(&["b:x"], "b", 1).is_err() && holds(&["b:-1"], "b", 1).is_err());
        assert_eq!(explicit("orders:0=42"), Ok((TopicPartition::new("orders", PartitionId(0)), Offset(42))));
        expect![[r#""orders=42" is not TOPIC:PARTITION=OFFSET, such as orders:0=42"#]]
            .assert_eq(&explicit("orders=42").unwrap_err());
        assert!(explicit("orders:0=-1").is_err() && explicit(":0=1").is_err());
    }
}
