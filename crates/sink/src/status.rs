//! Where a line stands in each partition: what is decided to be read, what is committed, what is in the table, and how far the log
//! goes. Looks only; takes hold of nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::Cluster;
use wire::{Millis, Offset, TopicPartition};

use crate::files::Files;
use crate::key::Range;
use crate::positions::open_store;
use crate::run::{RunError, sources};
use crate::settings::Settings;
use crate::store::StoreError;
use crate::table::Table;

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The partition.
    pub partition: TopicPartition,
    /// Up to where it is durably decided what comes into the table next; none if the line never was here.
    pub read: Option<Offset>,
    /// Up to where everything is in the table, once.
    pub committed: Option<Offset>,
    /// Up to where the table holds files.
    pub output: Option<Offset>,
    /// A range on its way into the table.
    pub frozen: Option<Range>,
    /// Behind the last record that the line gets to see.
    pub log_end: Offset,
    /// Offsets from the committed position, or the log's start, to that end.
    pub lag: i64,
    /// When the position last moved.
    pub updated: Option<Millis>,
}

/// Each partition of the topics.
pub async fn status(
    settings: &Settings,
    cluster: &Cluster,
    files: Arc<dyn Files>,
) -> Result<Vec<Status>, RunError> {
    let table = &settings.offline.table;
    let store = open_store(settings, Arc::clone(&files)).await?;
    let line = settings.offline_name();
    let stored = store.list(&line).await?;
    let stored: BTreeMap<_, _> =
        stored.into_iter().map(|(key, stored)| (key.partition.clone(), (key, stored))).collect();
    let mut outputs: BTreeMap<TopicPartition, Offset> = BTreeMap::new();
    match Table::new(files, table).list() {
        Ok(listing) => {
            for file in listing.files {
                let output = outputs.entry(file.name.partition).or_insert(file.name.range.end);
                *output = (*output).max(file.name.range.end);
            }
        }
        // It was never run.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(RunError::Files { doing: "list", path: table.clone(), source }),
    }
    let mut all = Vec::new();
    for source in sources(settings, cluster).await? {
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
        let begins = committed.unwrap_or(source.log.start).max(source.log.start);
        all.push(Status {
            read: frozen.map(|range| range.end).or(committed),
            committed,
            output: outputs.get(&partition).copied(),
            frozen,
            log_end: source.visible_end,
            lag: (source.visible_end.0 - begins.0).max(0),
            updated: stored.map(|stored| stored.updated),
            partition,
        });
    }
    Ok(all)
}
