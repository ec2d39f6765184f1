//! Where a group stands in each partition, and how that is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use client::{
    Admin, ExpiredOffset, GroupInfo, GroupMember, Isolation, Lag, ListedOffset, OffsetSpec, Progress, Unread,
};
use jiff::Timestamp;
use serde_json::Value;
use wire::{Offset, Str, TopicPartition};

use crate::failure::Failure;
use crate::output::Report;

/// One partition that a group reads or read.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) partition: TopicPartition,
    pub(super) committed: Option<Offset>,
    pub(super) expired: Option<ExpiredOffset>,
    pub(super) start: Option<Offset>,
    pub(super) end: Option<Offset>,
    /// What is left, where that is known.
    pub(super) lag: Option<Lag>,
    pub(super) member: Option<GroupMember>,
    /// Where it stood, that long ago.
    pub(super) pace: Option<(Duration, Progress)>,
}

/// Where groups stood in partitions.
pub(super) type Positions = BTreeMap<(Str, TopicPartition), Progress>;

/// What an offset is that is neither gone nor outside of the log.
pub(super) const COMMITTED: &str = "committed";
/// The same of a share group's start offset.
const STARTED: &str = "started";

impl Commit {
    pub(super) fn progress(&self) -> Option<Progress> {
        Some(Progress { committed: self.committed?, end: self.end? })
    }

    fn state(&self) -> &'static str {
        match (self.committed, self.expired) {
            (Some(committed), _) if self.start.is_some_and(|start| committed < start) => "below_log_start",
            (Some(committed), _) if self.end.is_some_and(|end| committed > end) => "past_log_end",
            (Some(_), _) => COMMITTED,
            (None, Some(_)) => "expired",
            (None, None) => "never_committed",
        }
    }

    /// How long until the lag is gone, if it goes on as it did; `None` inside when it does not shrink.
    fn clear_in(&self) -> Option<Option<Duration>> {
        let (elapsed, earlier) = self.pace?;
        Some(self.progress()?.time_to_clear(earlier, elapsed, self.lag?.records))
    }
}

/// How long until a whole group has caught up, if that is known and comes.
pub(super) fn clear_in(commits: &[Commit]) -> Option<Duration> {
    let times: Option<Vec<_>> = commits.iter().filter_map(Commit::clear_in).collect();
    times?.into_iter().max()
}

/// Milliseconds as seconds.
pub(super) fn seconds(ms: i64) -> Value {
    (ms as f64 / 1e3).into()
}

/// A time as seconds, to the tenth.
pub(super) fn in_seconds(time: Duration) -> Value {
    ((time.as_secs_f64() * 10.0).round() / 10.0).into()
}

pub(super) async fn commits(
    admin: &Admin,
    group: &GroupInfo,
    isolation: Isolation,
) -> Result<Vec<Commit>, Failure> {
    let offsets = match group.protocol_type.as_str() {
        client::SHARE => admin.share_group_offsets(&group.group_id).await?,
        _ => admin.group_offsets(&group.group_id).await?,
    };
    let mut owners = BTreeMap::new();
    for member in &group.members {
        owners.extend(member.assignment.iter().map(|partition| (partition.clone(), member.clone())));
    }
    let names: BTreeSet<_> =
        offsets.committed.keys().chain(offsets.expired.keys()).chain(owners.keys()).cloned().collect();
    let listed = async |spec: &dyn Fn(&TopicPartition) -> OffsetSpec| -> Result<BTreeMap<_, _>, Failure> {
        let asked: Vec<_> = names.iter().map(|partition| (partition.clone(), spec(partition))).collect();
        let listed = admin.list_offsets(&asked, isolation).await?;
        // A topic may be gone that the group still has offsets for.
        Ok(listed.into_iter().filter_map(|(name, listed)| Some((name, listed.ok()?))).collect())
    };
    let starts = listed(&|_| OffsetSpec::Earliest).await?;
    let ends = listed(&|partition| match offsets.committed.get(partition) {
        Some(committed) => OffsetSpec::Unread(committed.offset),
        None => OffsetSpec::Latest,
    })
    .await?;
    let offset = |listed: Option<&ListedOffset>| listed.and_then(|listed| listed.offset);
    let commit = |partition: &TopicPartition| {
        let committed = offsets.committed.get(partition).map(|committed| committed.offset);
        let (start, end) = (offset(starts.get(partition)), offset(ends.get(partition)));
        let unread = ends.get(partition).map_or(Unread::Unknown, |listed| listed.unread);
        let lag = committed.zip(start).zip(end);
        let lag = lag.map(|((committed, start), end)| Lag::of(committed, start, end, unread));
        Commit {
            partition: partition.clone(),
            committed,
            expired: offsets.expired.get(partition).copied(),
            start,
            end,
            lag: match group.protocol_type.as_str() {
                client::SHARE => lag.and_then(|lag| Some(lag.at_most(*offsets.lags.get(partition)?))),
                _ => lag,
            },
            member: owners.get(partition).cloned(),
            pace: None,
        }
    };
    Ok(names.iter().map(commit).collect())
}

/// Where a group stands in its partitions: at what it has committed, or, if it is a share group, at a start offset, before which
/// all is done with.
pub(super) fn position_report(group: &GroupInfo, commits: &[Commit]) -> Report {
    match group.protocol_type.as_str() {
        client::SHARE => share_report(commits),
        _ => commit_report(commits),
    }
}

fn commit_report(commits: &[Commit]) -> Report {
    report(commits, "current_offset", Commit::state)
}

fn share_report(commits: &[Commit]) -> Report {
    let state = |commit: &Commit| match commit.state() {
        COMMITTED => STARTED,
        "never_committed" => "not_started",
        other => other,
    };
    report(commits, "start_offset", state).without_same("offset_state", &STARTED.into())
}

fn report(commits: &[Commit], position: &'static str, state: impl Fn(&Commit) -> &'static str) -> Report {
    let columns = [
        "topic",
        "partition",
        position,
        "log_start_offset",
        "log_end_offset",
        "lag",
        "lag_seconds",
        "clear_in_seconds",
        "offset_state",
        "expired_offset",
        "expired_at",
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
        let expired_at = |expired: ExpiredOffset| {
            let at = Timestamp::from_millisecond(expired.expired_at.0).ok()?;
            Some(Value::from(at.to_string()))
        };
        let lag = commit.lag;
        report.row(vec![
            commit.partition.topic.as_ref().into(),
            commit.partition.partition.0.into(),
            offset(commit.committed),
            offset(commit.start),
            offset(commit.end),
            lag.map_or(Value::Null, |lag| lag.records.into()),
            lag.and_then(|lag| lag.ms).map_or(Value::Null, seconds),
            commit.clear_in().flatten().map_or(Value::Null, in_seconds),
            state(commit).into(),
            offset(commit.expired.map(|expired| expired.offset)),
            commit.expired.and_then(expired_at).unwrap_or(Value::Null),
            member(|member| Some(&member.member_id)),
            member(|member| member.instance_id.as_ref()),
            member(|member| Some(&member.client_id)),
            member(|member| Some(&member.host)),
        ]);
    }
    report.without_empty(&[
        "lag_seconds",
        "clear_in_seconds",
        "expired_offset",
        "expired_at",
        "member_id",
        "instance_id",
        "client_id",
        "host",
    ])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use client::{ExpiredOffset, Lag, Progress, Unread};
    use expect_test::expect;
    use wire::{Millis, Offset, PartitionId, TopicPartition};

    use super::super::topic_report;
    use super::{COMMITTED, Commit, clear_in, commit_report, share_report};

    fn commit(partition: i32, committed: Option<i64>, start: i64, end: i64) -> Commit {
        Commit {
            partition: TopicPartition::new("orders", PartitionId(partition)),
            committed: committed.map(Offset),
            expired: None,
            start: Some(Offset(start)),
            end: Some(Offset(end)),
            lag: committed.map(|committed| {
                let unread = Unread::Waiting { offset: Offset(committed), age_ms: Some(2_500) };
                Lag::of(Offset(committed), Offset(start), Offset(end), unread)
            }),
            member: None,
            pace: None,
        }
    }

    #[test]
    fn no_offset_is_taken_for_another_kind() {
        let commits = [
            commit(0, Some(7), 0, 10),
            commit(1, None, 0, 10),
            commit(2, Some(10), 0, 10),
            commit(3, Some(2), 5, 10),
            commit(4, Some(20), 0, 10),
            Commit {
                expired: Some(ExpiredOffset { offset: Offset(4), expired_at: Millis(1_700_000_000_000) }),
                ..commit(5, None, 0, 10)
            },
            Commit { lag: Some(Lag { records: 0, ms: Some(0) }), ..commit(6, Some(9), 0, 10) },
        ];
        expect![[r#"
            TOPIC   PARTITION  CURRENT-OFFSET  LOG-START-OFFSET  LOG-END-OFFSET  LAG  LAG-SECONDS  OFFSET-STATE     EXPIRED-OFFSET  EXPIRED-AT
            orders  0          7               0                 10              3    2.5          committed        -               -
            orders  1          -               0                 10              -    -            never_committed  -               -
            orders  2          10              0                 10              0    0.0          committed        -               -
            orders  3          2               5                 10              5    2.5          below_log_start  -               -
            orders  4          20              0                 10              0    0.0          past_log_end     -               -
            orders  5          -               0                 10              -    -            expired          4               2023-11-14T22:13:20Z
            orders  6          9               0                 10              0    0.0          committed        -               -
        "#]].assert_eq(&commit_report(&commits).table());
        expect![[r#"
            TOPIC   LAG
            orders  8
        "#]]
        .assert_eq(&topic_report(&commits).table());
        let plain = commit_report(&commits[..1]).without_same("offset_state", &COMMITTED.into());
        expect![[r#"
            TOPIC   PARTITION  CURRENT-OFFSET  LOG-START-OFFSET  LOG-END-OFFSET  LAG  LAG-SECONDS
            orders  0          7               0                 10              3    2.5
        "#]]
        .assert_eq(&plain.table());
    }

    #[test]
    fn where_a_share_group_starts_is_not_called_committed() {
        let commits = [commit(0, Some(7), 0, 10), commit(1, None, 0, 10)];
        expect![[r#"
            TOPIC   PARTITION  START-OFFSET  LOG-START-OFFSET  LOG-END-OFFSET  LAG  LAG-SECONDS  OFFSET-STATE
            orders  0          7             0                 10              3    2.5          started
            orders  1          -             0                 10              -    -            not_started
        "#]]
        .assert_eq(&share_report(&commits).table());
        expect![[r#"
            TOPIC   PARTITION  START-OFFSET  LOG-START-OFFSET  LOG-END-OFFSET  LAG  LAG-SECONDS
            orders  0          7             0                 10              3    2.5
        "#]]
        .assert_eq(&share_report(&commits[..1]).table());
    }

    #[test]
    fn a_group_has_caught_up_when_its_last_partition_has() {
        let paced = |partition, committed, before| Commit {
            pace: Some((Duration::from_secs(10), Progress { committed: Offset(before), end: Offset(100) })),
            ..commit(partition, Some(committed), 0, 100)
        };
        let commits = [paced(0, 50, 0), paced(1, 100, 90), paced(2, 20, 0)];
        expect![[r#"
            TOPIC   PARTITION  CURRENT-OFFSET  LOG-START-OFFSET  LOG-END-OFFSET  LAG  LAG-SECONDS  CLEAR-IN-SECONDS  OFFSET-STATE
            orders  0          50              0                 100             50   2.5          10.0              committed
            orders  1          100             0                 100             0    0.0          0.0               committed
            orders  2          20              0                 100             80   2.5          40.0              committed
        "#]].assert_eq(&commit_report(&commits).table());
        assert_eq!(clear_in(&commits), Some(Duration::from_secs(40)));
        assert_eq!(clear_in(&[paced(0, 50, 0), paced(1, 50, 50)]), None, "one stands still");
        assert_eq!(clear_in(&[commit(0, Some(7), 0, 10)]), None);
    }
}
