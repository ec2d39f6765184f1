//! The partitions that a line reads, and whether what is read continues what is there.
//!
//! Both lines ask the same questions here: of the log before they read, of the first records behind a hole, and of the log again when
//! a position does not exist in it any more. What does not continue is an error that names the place.

use std::collections::BTreeMap;

use client::{
    Admin, Begin, Cluster, Consumer, Error, ErrorKind, Isolation, OffsetReset, OffsetSpec, Options, Records,
    ResourceKind, Start,
};
use offsets::{Cause, First, Log, Position};
use tokio::sync::mpsc;
use wire::{ErrorCode, Millis, Offset, Str, TopicPartition, Uuid};

use crate::key::{Key, LineName};
use crate::log_reader::LogReader;
use crate::run::{CLOSE_MAX, RunError, Until};
use crate::settings::{Line, Settings};
use crate::shares::Share;

/// A partition of the topics, as the brokers tell it.
pub(crate) struct Source {
    pub(crate) key: Key,
    pub(crate) log: Log,
    /// Behind the last record that this line gets to see: an open transaction holds back those who read what is committed.
    pub(crate) visible_end: Offset,
}

/// The partitions of the topics, and the ends of their logs for readers of committed records.
pub(crate) async fn sources(
    settings: &Settings,
    line: Line,
    cluster: &Cluster,
) -> Result<Vec<Source>, RunError> {
    sources_of(settings, line, cluster, |_| true).await
}

/// Those of them that are wanted; of no other is anything asked.
pub(crate) async fn sources_of(
    settings: &Settings,
    line: Line,
    cluster: &Cluster,
    is_wanted: impl Fn(&TopicPartition) -> bool,
) -> Result<Vec<Source>, RunError> {
    let cluster_id = cluster.id().await?.to_string();
    let admin = Admin::new(cluster.clone());
    let mut partitions = Vec::new();
    let mut ids = BTreeMap::new();
    for (topic, described) in admin.describe_topics(&settings.topics).await? {
        let described = described?;
        if described.id == Uuid::ZERO {
            return Err(RunError::NoTopicId { topic });
        }
        ids.insert(topic.clone(), described.id);
        let of_topic = described.partitions.iter().map(|part| TopicPartition::new(topic.clone(), part.id));
        partitions.extend(of_topic);
    }
    partitions.retain(is_wanted);
    partitions.sort();
    let isolation = cluster.options().isolation_level;
    let of = |spec| partitions.iter().map(|partition| (partition.clone(), spec)).collect::<Vec<_>>();
    let starts = admin.list_offsets(&of(OffsetSpec::Earliest), Isolation::ReadUncommitted).await?;
    let ends = admin.list_offsets(&of(OffsetSpec::Latest), Isolation::ReadUncommitted).await?;
    let visible_ends = admin.list_offsets(&of(OffsetSpec::Latest), isolation).await?;
    let mut sources = Vec::with_capacity(partitions.len());
    for (((partition, start), (_, end)), (_, visible_end)) in starts.into_iter().zip(ends).zip(visible_ends) {
        let none = || Error::Protocol {
            doing: format!("asking for the ends of {partition}"),
            problem: "it has none".to_owned(),
        };
        let (start, end) = (start?.offset.ok_or_else(none)?, end?.offset.ok_or_else(none)?);
        let visible_end = visible_end?.offset.ok_or_else(none)?;
        let topic_id = ids[&partition.topic];
        let log = Log { topic_id, start, end, epoch_end: None, copy: None };
        let line = settings.line_name(line);
        sources.push(Source {
            key: Key { line, cluster_id: cluster_id.clone(), partition, topic_id },
            log,
            visible_end,
        });
    }
    Ok(sources)
}

/// Where the partitions end, if that is where a line is to end.
pub(crate) fn ends(until: Until, sources: &[Source]) -> BTreeMap<TopicPartition, Offset> {
    match until {
        Until::End => {
            sources.iter().map(|source| (source.key.partition.clone(), source.visible_end)).collect()
        }
        Until::Stopped => BTreeMap::new(),
    }
}

/// Where to read on from a position.
pub(crate) fn begin_at(position: Position) -> Begin {
    Begin { start: Start::Offset(position.next), leader_epoch: position.leader_epoch }
}

/// All partitions of the topics.
pub(crate) async fn names(settings: &Settings, cluster: &Cluster) -> Result<Vec<TopicPartition>, RunError> {
    let mut names = Vec::new();
    for (topic, described) in Admin::new(cluster.clone()).describe_topics(&settings.topics).await? {
        let partitions = described?.partitions;
        names.extend(partitions.iter().map(|partition| TopicPartition::new(topic.clone(), partition.id)));
    }
    Ok(names)
}

/// Where a line begins in a partition that it has no position in: in one that came later to a topic that it reads, with everything.
pub(crate) fn begin(settings: &Settings, source: &Source, is_known: bool) -> Offset {
    match is_known {
        true => source.log.start,
        false => settings.start.resolve(source.log.start, source.visible_end, None),
    }
}

/// Whether there is something to be seen in a part of a partition.
pub(crate) async fn is_anything_left(
    cluster: &Cluster,
    partition: &TopicPartition,
    from: Offset,
    to: Offset,
) -> Result<bool, RunError> {
    let mut options = cluster.options().clone();
    (options.group_id, options.group_instance_id) = (None, None);
    let mut reader = LogReader::new(&cluster.with_options(options)?, partition, from)?;
    let records = reader.next(to).await?;
    let is_left = records.is_some_and(|records| records[0].offset < to);
    reader.close().await;
    Ok(is_left)
}

/// Whether what could not be had now may be asked for again.
pub(crate) fn is_for_now(error: &RunError) -> bool {
    matches!(error, RunError::Client(error) if error.kind() == ErrorKind::Retriable)
}

/// The client's options for a member of a line's group. What is read is committed by the line itself, and where to begin is for the line to say.
pub(crate) fn as_member(options: &mut Options, line: &LineName) {
    options.group_id = Some(line.to_string());
    options.enable_auto_commit = false;
    options.auto_offset_reset = OffsetReset::None;
}

/// Leaves the group: what is handed back or out meanwhile has been dealt with.
pub(crate) async fn leave(consumer: Consumer, shares: &mut mpsc::UnboundedReceiver<Share>) {
    let closing = consumer.leave(CLOSE_MAX);
    tokio::pin!(closing);
    loop {
        tokio::select! {
            closed = &mut closing => {
                if let Err(error) = closed {
                    tracing::debug!(%error, "the consumer did not end in order");
                }
                return;
            }
            // Whoever waits for an answer waits no longer.
            Some(share) = shares.recv() => drop(share),
        }
    }
}

/// An error of the client's, or that somebody else is the line now.
pub(crate) fn told(line: &LineName, error: Error) -> RunError {
    let is_fenced = |error: &Error| error.kind() == ErrorKind::Fenced;
    let is_taken = match &error {
        Error::Aborted { cause: Some(cause) } => is_fenced(cause),
        error => is_fenced(error),
    };
    match is_taken {
        true => RunError::TakenOver { line: line.clone(), source: Box::new(error) },
        false => error.into(),
    }
}

/// Whether a log can be read on from the committed position.
pub(crate) fn check(key: &Key, committed: Position, log: &Log) -> Result<(), RunError> {
    let (topic_id, updated) = (log.topic_id, Millis(-1));
    let stored = offsets::Stored { position: committed, topic_id, updated, over: None };
    match offsets::check(&reader_key(key), &stored, log) {
        Ok(_) => Ok(()),
        Err(gap) => Err(gap_of(key, committed.next, *gap)),
    }
}

/// Whether records are of the topic, and continue what was read.
pub(crate) async fn check_records(
    cluster: &Cluster,
    key: &Key,
    committed: Offset,
    log: &Log,
    records: &Records,
) -> Result<(), RunError> {
    let found = records.topic_id();
    if found != Uuid::ZERO && found != key.topic_id {
        return Err(RunError::Recreated { key: Box::new(key.clone()), found });
    }
    // Only where something is missing before these records does it matter whether it may.
    if records.base_offset() <= records.position() {
        return Ok(());
    }
    let is_compacted = is_compacted(cluster, &key.partition.topic).await?;
    let position = Position { next: records.position(), leader_epoch: records.leader_epoch() };
    let first = First {
        base: records.base_offset(),
        offset: records[0].offset,
        log_start: records.watermarks().log_start,
        log_end: records.watermarks().high_watermark,
        is_compacted,
    };
    let checked = offsets::check_first(&reader_key(key), position, first, log);
    checked.map_err(|gap| gap_of(key, committed, *gap))
}

/// The partition that a consumer's error says does not have the position any more.
pub(crate) fn out_of_range(error: &Error) -> Option<&TopicPartition> {
    match error {
        Error::Stopped { partition, reason } if reason.code() == Some(ErrorCode::OFFSET_OUT_OF_RANGE) => {
            Some(partition)
        }
        _ => None,
    }
}

/// What an error of the consumer's means. `at` is where the line is in the partition that is [out of range](out_of_range): committed
/// up to the one, and read up to the other.
pub(crate) async fn stopped(
    settings: &Settings,
    line: Line,
    cluster: &Cluster,
    error: Error,
    at: Option<(Key, Offset, Offset)>,
) -> RunError {
    if out_of_range(&error).is_none() {
        return told(&settings.line_name(line), error);
    }
    let Some((key, committed, read)) = at else { return error.into() };
    let Ok(sources) = sources(settings, line, cluster).await else { return error.into() };
    match sources.iter().find(|source| source.key.partition == key.partition) {
        Some(now) => passed(&key, committed, read, &now.log),
        None => error.into(),
    }
}

/// What it means that a position does not exist any more: where the log is now says which way.
fn passed(key: &Key, committed: Offset, read: Offset, now: &Log) -> RunError {
    let key = Box::new(key.clone());
    if now.topic_id != key.topic_id {
        return RunError::Recreated { key, found: now.topic_id };
    }
    let Log { start, end, .. } = *now;
    let (cause, found) = match read < start {
        true => (Cause::RetentionPassed, start),
        false => (Cause::Truncated, end),
    };
    RunError::Gap { key, cause, committed, found, start, end }
}

async fn is_compacted(cluster: &Cluster, topic: &Str) -> Result<bool, Error> {
    let settings = Admin::new(cluster.clone()).describe_configs(ResourceKind::Topic, topic).await?;
    let policy = settings.iter().find(|setting| &*setting.name == "cleanup.policy");
    Ok(policy.and_then(|policy| policy.value.as_deref()).is_some_and(|value| value.contains("compact")))
}

/// The key in the words of those who only read.
fn reader_key(key: &Key) -> offsets::Key {
    offsets::Key {
        reader: key.line.as_str().parse().expect("what is allowed in a line's name is in a reader's"),
        cluster_id: key.cluster_id.clone(),
        partition: key.partition.clone(),
        topic_id: key.topic_id,
    }
}

fn gap_of(key: &Key, committed: Offset, gap: offsets::Gap) -> RunError {
    let (start, end) = (gap.log.start, gap.log.end);
    let found = gap.found.unwrap_or(start);
    RunError::Gap { key: Box::new(key.clone()), cause: gap.cause, committed, found, start, end }
}
