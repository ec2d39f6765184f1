//! Where each line stands in each partition: what is decided to be read, what is committed, what is in the output, how far the log
//! goes, and how far the lines are apart. Looks only; takes hold of nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Admin, Cluster, Lag, OffsetSpec, Unread};
use offsets::Log;
use wire::{Millis, Offset, Str, TopicPartition};

use crate::files::Files;
use crate::key::Range;
use crate::nearline_position::Kept;
use crate::output::Output;
use crate::pause;
use crate::positions::open_store;
use crate::run::RunError;
use crate::settings::{Line, NearlineOutput, NearlineSettings, Settings, TableSettings};
use crate::source::{Source, sources};
use crate::store::StoreError;
use crate::stream_settings::StreamSettings;
use crate::stream_store::StreamStore;
use crate::table::{self, Table};

/// One partition of one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The line.
    pub line: Line,
    /// The partition.
    pub partition: TopicPartition,
    /// Up to where it is durably decided what comes into the output next; none if the line never was here.
    pub read: Option<Offset>,
    /// Up to where everything is in the output, once.
    pub committed: Option<Offset>,
    /// Up to where the table holds files; in a line into a topic or a stream, where both are one, what is committed.
    pub output: Option<Offset>,
    /// A range on its way into the table.
    pub frozen: Option<Range>,
    /// Behind the last record that the line gets to see.
    pub log_end: Offset,
    /// Offsets from the committed position, or the log's start, to that end; 0 when what follows is no record, as far as the broker
    /// tells.
    pub lag: i64,
    /// How long the first record has waited that is not committed; absent where the broker cannot tell, as Apache Kafka's.
    pub lag_ms: Option<i64>,
    /// About how many bytes of the log that lag is, as it lies on the brokers' disks: by the size of the whole log, as if all of its
    /// offsets took the same. Absent where brokers do not tell sizes to whoever asks.
    pub lag_bytes: Option<u64>,
    /// Offsets by which this line's committed position is ahead of the other's; below 0 it is behind.
    pub ahead: Option<i64>,
    /// When the position last moved, if that is kept.
    pub updated: Option<Millis>,
    /// Whether somebody has paused the line.
    pub is_paused: bool,
}

/// Each partition of the topics, in each line that is declared.
pub async fn status(
    settings: &Settings,
    cluster: &Cluster,
    files: Arc<dyn Files>,
) -> Result<Vec<Status>, RunError> {
    let mut all = Vec::new();
    for (line, table) in settings.tables() {
        all.extend(of_table(settings, line, table, cluster, Arc::clone(&files)).await?);
    }
    if let Some(NearlineOutput::Topic(topic)) = &settings.nearline {
        all.extend(of_topic(settings, topic, cluster).await?);
    }
    if let Some(NearlineOutput::Stream(stream)) = &settings.nearline {
        all.extend(of_streams(settings, stream, cluster).await?);
    }
    let admin = Admin::new(cluster.clone());
    let mut paused = BTreeMap::new();
    for line in settings.lines() {
        paused.insert(line, pause::is_paused(&admin, settings, line).await?);
    }
    let committed: BTreeMap<_, _> =
        all.iter().map(|status| ((status.line, status.partition.clone()), status.committed)).collect();
    for status in &mut all {
        let other = match status.line {
            Line::Offline => Line::Nearline,
            Line::Nearline => Line::Offline,
        };
        status.is_paused = paused[&status.line];
        let other = committed.get(&(other, status.partition.clone())).copied().flatten();
        status.ahead = status.committed.zip(other).map(|(this, other)| this.0 - other.0);
    }
    Ok(all)
}

async fn of_table(
    settings: &Settings,
    line: Line,
    declared: &TableSettings,
    cluster: &Cluster,
    files: Arc<dyn Files>,
) -> Result<Vec<Status>, RunError> {
    let root = &declared.table;
    let files = table::files_of(declared, files)?;
    let store = open_store(declared, Arc::clone(&files)).await?;
    let stored = store.list(&settings.line_name(line)).await?;
    let stored: BTreeMap<_, _> =
        stored.into_iter().map(|(key, stored)| (key.partition.clone(), (key, stored))).collect();
    let mut outputs: BTreeMap<TopicPartition, Offset> = BTreeMap::new();
    match Table::new(files, root).list() {
        Ok(listing) => {
            for file in listing.files {
                let output = outputs.entry(file.name.partition).or_insert(file.name.range.end);
                *output = (*output).max(file.name.range.end);
            }
        }
        // It was never run.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(RunError::Files { doing: "list", path: root.clone(), source }),
    }
    let (mut all, mut logs) = (Vec::new(), BTreeMap::new());
    for source in sources(settings, line, cluster).await? {
        let partition = source.key.partition.clone();
        let stored = match stored.get(&partition) {
            Some((key, _)) if key.cluster_id != source.key.cluster_id => {
                let stored = key.cluster_id.clone();
                return Err(StoreError::OtherCluster { key: Box::new(source.key), stored }.into());
            }
            Some((key, _)) if key.topic_id != source.key.topic_id => {
                let stored = key.topic_id;
                return Err(StoreError::OtherTopic { key: Box::new(source.key), stored }.into());
            }
            found => found.map(|(_, stored)| stored),
        };
        let committed = stored.map(|stored| stored.committed.next);
        let frozen = stored.and_then(|stored| stored.frozen).map(|frozen| frozen.range);
        logs.insert(partition.clone(), source.log);
        all.push(Status {
            read: frozen.map(|range| range.end).or(committed),
            output: outputs.get(&partition).copied(),
            frozen,
            updated: stored.map(|stored| stored.updated),
            ..new(line, &source, committed)
        });
    }
    measure(cluster, &mut all).await?;
    weigh(cluster, &logs, &mut all).await;
    Ok(all)
}

async fn of_topic(
    settings: &Settings,
    topic: &NearlineSettings,
    cluster: &Cluster,
) -> Result<Vec<Status>, RunError> {
    let output = Output::describe(cluster, &topic.topic).await?;
    let group = Str::copy_from(settings.line_name(Line::Nearline).as_str());
    let kept = Admin::new(cluster.clone()).group_offsets(&group).await?.committed;
    let (mut all, mut logs) = (Vec::new(), BTreeMap::new());
    for source in sources(settings, Line::Nearline, cluster).await? {
        let kept = kept.get(&source.key.partition);
        let kept = kept.map(|committed| Kept::read(committed, &source.key, output.id)).transpose()?;
        let committed = kept.map(|kept| kept.position.next);
        logs.insert(source.key.partition.clone(), source.log);
        all.push(Status { read: committed, output: committed, ..new(Line::Nearline, &source, committed) });
    }
    measure(cluster, &mut all).await?;
    weigh(cluster, &logs, &mut all).await;
    Ok(all)
}

async fn of_streams(
    settings: &Settings,
    declared: &StreamSettings,
    cluster: &Cluster,
) -> Result<Vec<Status>, RunError> {
    let store = StreamStore::connect(settings, declared).await?;
    let (mut all, mut logs) = (Vec::new(), BTreeMap::new());
    for source in sources(settings, Line::Nearline, cluster).await? {
        let stored = store.kept(&source.key).await?;
        let committed = stored.as_ref().map(|stored| stored.position.next);
        logs.insert(source.key.partition.clone(), source.log);
        all.push(Status {
            read: committed,
            output: committed,
            updated: stored.map(|stored| stored.updated),
            ..new(Line::Nearline, &source, committed)
        });
    }
    measure(cluster, &mut all).await?;
    weigh(cluster, &logs, &mut all).await;
    Ok(all)
}

fn new(line: Line, source: &Source, committed: Option<Offset>) -> Status {
    let begins = committed.unwrap_or(source.log.start);
    Status {
        line,
        partition: source.key.partition.clone(),
        read: None,
        committed,
        output: None,
        frozen: None,
        log_end: source.visible_end,
        lag: Lag::of(begins, source.log.start, source.visible_end, Unread::Unknown).records,
        lag_ms: None,
        lag_bytes: None,
        ahead: None,
        updated: None,
        is_paused: false,
    }
}

/// Asks the brokers how large the logs are. Some tell it only to those who may look at the cluster: then it is left out.
async fn weigh(cluster: &Cluster, logs: &BTreeMap<TopicPartition, Log>, all: &mut [Status]) {
    let names: Vec<_> = logs.keys().cloned().collect();
    let sizes = match Admin::new(cluster.clone()).log_sizes(&names).await {
        Ok(sizes) => sizes,
        Err(error) => {
            tracing::debug!(%error, "the sizes of logs are not to be had");
            return;
        }
    };
    for status in all {
        let found = logs.get(&status.partition).zip(sizes.get(&status.partition));
        status.lag_bytes = found.map(|(log, &size)| share_of(size, status.lag, log));
    }
}

/// What so many offsets of a log of this size take, about.
fn share_of(size: u64, lag: i64, log: &Log) -> u64 {
    let offsets = |count: i64| u128::from(u64::try_from(count).unwrap_or(0));
    let (lag, all) = (offsets(lag), offsets(log.end.0 - log.start.0));
    let share = (u128::from(size) * lag.min(all)).checked_div(all).unwrap_or(0);
    u64::try_from(share).expect("it is a part of the size")
}

/// Asks the brokers how long the first record has waited, in one question for all partitions.
async fn measure(cluster: &Cluster, all: &mut [Status]) -> Result<(), RunError> {
    let behind = all.iter_mut().filter(|status| status.lag > 0);
    let mut behind: BTreeMap<_, _> = behind.map(|status| (status.partition.clone(), status)).collect();
    let unread = |status: &Status| OffsetSpec::Unread(Offset(status.log_end.0 - status.lag));
    let asked: Vec<_> = behind.iter().map(|(name, status)| (name.clone(), unread(status))).collect();
    if asked.is_empty() {
        return Ok(());
    }
    let admin = Admin::new(cluster.clone());
    for (partition, listed) in admin.list_offsets(&asked, cluster.options().isolation_level).await? {
        let Some(status) = behind.get_mut(&partition) else { continue };
        let begins = Offset(status.log_end.0 - status.lag);
        let lag = Lag::of(begins, begins, status.log_end, listed?.unread);
        (status.lag, status.lag_ms) = (lag.records, lag.ms);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use wire::Uuid;

    use super::*;

    #[test]
    fn the_lag_in_bytes_is_a_part_of_the_log() {
        let log = |start, end| Log {
            topic_id: Uuid::ZERO,
            start: Offset(start),
            end: Offset(end),
            epoch_end: None,
            copy: None,
        };
        assert_eq!(share_of(1_000, 25, &log(100, 200)), 250);
        assert_eq!(share_of(u64::MAX, 100, &log(100, 200)), u64::MAX);
        assert_eq!((share_of(1_000, 0, &log(5, 5)), share_of(1_000, 7, &log(5, 5))), (0, 0));
        // The end has moved on since it was looked at.
        assert_eq!(share_of(1_000, 120, &log(100, 200)), 1_000);
    }
}
