//! Lag of consumer groups on the page. Each broker shows the groups that it coordinates.

use std::collections::BTreeMap;

use client::Lag;
use wire::{Str, TopicPartition};

use super::prometheus::{Label, Page};

/// How far the groups of a broker are behind.
#[derive(Debug, Clone, Default)]
pub struct GroupLag {
    /// Each partition that a group has committed for and whose leader answered.
    pub rows: Vec<LagRow>,
    /// Partitions of each group by what its offset there is.
    pub offsets: BTreeMap<(Str, &'static str), usize>,
    /// Seconds until each group has caught up, if it goes on as it did; infinite while it does not come nearer.
    pub clear_seconds: BTreeMap<Str, f64>,
    /// Partitions that are not shown, for being too many.
    pub omitted: usize,
}

/// A group's lag in one partition.
#[derive(Debug, Clone)]
pub struct LagRow {
    /// The group.
    pub group: Str,
    /// The partition.
    pub partition: TopicPartition,
    /// Its lag.
    pub lag: Lag,
}

fn labels<'a>(row: &'a LagRow, id: &'a str) -> [Label<'a>; 3] {
    [("group", row.group.as_str()), ("topic", row.partition.topic.as_str()), ("partition", id)]
}

pub(super) fn write(page: &mut Page, lag: &GroupLag) {
    let ids: Vec<String> = lag.rows.iter().map(|row| row.partition.partition.to_string()).collect();
    let mut records = page.gauge(
        "ottla_group_lag_records",
        "Offsets from what a group has committed to the end of the partition.",
    );
    for (row, id) in lag.rows.iter().zip(&ids) {
        records.value(&labels(row, id), row.lag.records);
    }
    let mut seconds = page.gauge(
        "ottla_group_lag_seconds",
        "How long the first record waits that a group has not read, by its timestamp; 0 when there is none.",
    );
    for (row, id) in lag.rows.iter().zip(&ids) {
        if let Some(ms) = row.lag.ms {
            seconds.value(&labels(row, id), ms as f64 / 1e3);
        }
    }
    let mut clear = page.gauge(
        "ottla_group_clear_seconds",
        "How long until a group has caught up at the pace of the last looks; +Inf while it does not come nearer.",
    );
    for (group, seconds) in &lag.clear_seconds {
        match seconds.is_finite() {
            true => clear.value(&[("group", group)], seconds),
            false => clear.value(&[("group", group)], "+Inf"),
        }
    }
    let mut offsets =
        page.gauge("ottla_group_offsets", "Partitions of a group by what its committed offset there is.");
    for ((group, state), count) in &lag.offsets {
        offsets.value(&[("group", group), ("state", state)], count);
    }
    page.gauge(
        "ottla_group_lag_omitted",
        "Partitions of groups that are not shown, being more than group.lag.metrics.max.",
    )
    .value(&[], lag.omitted);
}
