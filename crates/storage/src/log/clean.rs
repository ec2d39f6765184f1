//! One round of compaction: which segments are worth it, the map of their keys, and the replacement of groups of
//! segments by what stays of them. Readers and appenders go on meanwhile. Only what is flushed, below the high
//! watermark and not in the active segment is touched, and a round that has to give way leaves the log as the
//! groups already replaced left it.

use std::{
    collections::HashMap,
    io::{self, IoSlice},
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use wire::{Millis, Offset, ProducerId};

use super::Log;
use crate::{
    cleaner::{Filter, Transactions},
    codec,
    config::LogConfig,
    disk::{DiskFile, OpenMode, remove_if_exists, write_all_at},
    error::StorageError,
    header::{HEADER_BYTES, Header, crc_matches},
    layout::FileKind,
    offset_map::OffsetMap,
    raw::RawRecords,
    segment::Segment,
    slice::Segments,
    swap,
    txn_index::AbortedTxn,
    walk::{BatchWalk, Stop},
};

/// Bytes that wait before they are written to a cleaned segment.
const OUT_BYTES: usize = 1 << 20;

/// How to clean a log.
#[derive(Clone, Copy, Debug)]
pub struct Clean {
    /// The broker's clock.
    pub now: Millis,
    /// Nothing at or above is touched.
    pub high_watermark: Offset,
    /// Memory for the map of keys (`log.cleaner.dedupe.buffer.size`).
    pub map_bytes_max: usize,
}

/// What a cleaning did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CleanStats {
    /// Records read.
    pub records_read: u64,
    /// Records that stayed.
    pub records_kept: u64,
    /// Bytes of the segments before.
    pub bytes_before: u64,
    /// Bytes of the segments after.
    pub bytes_after: u64,
    /// Everything below is clean.
    pub cleaned_to: Offset,
}

/// What a round would do.
struct Plan {
    segments: Segments,
    /// Offsets that no round has seen.
    dirty: Range<Offset>,
    /// Bytes of them over the bytes of all that could be cleaned.
    dirty_ratio: f64,
    /// Whether some of it has waited for `max.compaction.lag.ms`.
    overdue: bool,
}

/// What ends a round early.
enum Halt {
    /// Someone wants to truncate.
    Asked,
    Disk(io::Error),
    Damaged(StorageError),
}

impl From<io::Error> for Halt {
    fn from(error: io::Error) -> Halt {
        Halt::Disk(error)
    }
}

impl Log {
    /// How much of what could be cleaned is dirty, 0 when nothing is due: what a cleaner picks its next log by.
    pub fn dirty_ratio(&self, now: Millis, high_watermark: Offset) -> Result<f64, StorageError> {
        self.check_open()?;
        let config = self.config();
        if !config.cleanup.compact {
            return Ok(0.0);
        }
        let plan = self.plan(now, high_watermark, &config).map_err(StorageError::disk(self.path()))?;
        Ok(plan.filter(|plan| plan.is_due(&config)).map_or(0.0, |plan| plan.dirty_ratio))
    }

    /// Cleans the log if enough of it is dirty; `None` when it is not, or when a truncation came in between.
    pub fn clean(&self, clean: Clean) -> Result<Option<CleanStats>, StorageError> {
        let _maintenance = self.maintenance.lock();
        self.check_open()?;
        let config = self.config();
        if !config.cleanup.compact || self.is_moving.load(Ordering::Acquire) {
            return Ok(None);
        }
        self.roll_overdue(clean.now, &config)?;
        let plan = self.plan(clean.now, clean.high_watermark, &config).map_err(|e| self.fail(e))?;
        let Some(plan) = plan.filter(|plan| plan.is_due(&config)) else { return Ok(None) };
        // Cleaning leaves gaps between segments. Behind the recovery point a gap would be taken for a loss, so
        // everything that is cleaned has to lie below it, durably, before the first segment is replaced.
        let noted = self.checkpoint(clean.now)?;
        self.checkpoints().raise_recovery_points(|| vec![(self.partition.clone(), noted.recovery_point)])?;
        match self.clean_round(&plan, clean, &config) {
            Ok(stats) => {
                self.checkpoints().set_cleaner_offset(&self.partition, stats.cleaned_to)?;
                Ok(Some(stats))
            }
            Err(Halt::Asked) => Ok(None),
            Err(Halt::Disk(e)) => Err(self.fail(e)),
            Err(Halt::Damaged(e)) => Err(e),
        }
    }

    /// Closes an active segment whose records have waited for `max.compaction.lag.ms`.
    fn roll_overdue(&self, now: Millis, config: &LogConfig) -> Result<(), StorageError> {
        if config.max_compaction_lag_ms == i64::MAX {
            return Ok(());
        }
        let mut appender = self.appender.lock();
        let (active, log_end) = {
            let view = self.view.read();
            (view.active().clone(), view.log_end)
        };
        let first = active.first_timestamp().map_err(|e| self.fail(e))?;
        if first.is_some_and(|first| now.0.saturating_sub(first.0) > config.max_compaction_lag_ms) {
            self.roll(&mut appender, log_end, now)?;
        }
        Ok(())
    }

    fn plan(&self, now: Millis, high_watermark: Offset, config: &LogConfig) -> io::Result<Option<Plan>> {
        // What readers of committed records wait for is decided by markers that are there to stay.
        let last_stable_offset = self.last_stable_offset(high_watermark);
        let (segments, log_start, flushed_end, log_end) = {
            let view = self.view.read();
            (view.segments.clone(), view.log_start, view.flushed_end, view.log_end)
        };
        let Some((active, closed)) = segments.split_last() else { return Ok(None) };
        let start = match self.checkpoints().cleaner_offset(&self.partition) {
            Some(offset) if offset <= log_end => offset.max(log_start),
            _ => log_start,
        };
        let mut end = last_stable_offset.min(flushed_end).min(active.base());
        if config.min_compaction_lag_ms > 0 {
            for segment in closed.iter().filter(|segment| segment.base() >= start) {
                let newest = segment.max_timestamp()?;
                if newest.is_some_and(|newest| {
                    now.0.saturating_sub(newest.timestamp.0) < config.min_compaction_lag_ms
                }) {
                    end = end.min(segment.base());
                    break;
                }
            }
        }
        // Only whole segments: the last one that reaches past the end is left for another round.
        let whole = (1..segments.len()).take_while(|at| segments[*at].base() <= end).count();
        end = segments[whole].base().min(end);
        if start >= end {
            return Ok(None);
        }
        let (mut clean_bytes, mut dirty_bytes, mut overdue) = (0, 0, false);
        for (at, segment) in segments[..whole].iter().enumerate() {
            if segments[at + 1].base() <= start {
                clean_bytes += segment.size();
            } else {
                dirty_bytes += segment.size();
                let first = segment.first_timestamp()?;
                overdue |=
                    first.is_some_and(|first| now.0.saturating_sub(first.0) > config.max_compaction_lag_ms);
            }
        }
        let all = clean_bytes + dirty_bytes;
        let dirty_ratio = if all == 0 { 0.0 } else { dirty_bytes as f64 / all as f64 };
        Ok(Some(Plan {
            segments: Arc::new(segments[..whole].to_vec()),
            dirty: start..end,
            dirty_ratio,
            overdue,
        }))
    }

    fn clean_round(&self, plan: &Plan, clean: Clean, config: &LogConfig) -> Result<CleanStats, Halt> {
        // A transaction that began in what is cleaned may have been aborted by a marker far behind it.
        let mut aborted: Vec<AbortedTxn> = Vec::new();
        for segment in self.segments().iter() {
            let began_before = |txn: &AbortedTxn| txn.first_offset < plan.dirty.end;
            aborted.extend(segment.aborted_transactions()?.iter().filter(|txn| began_before(txn)));
        }
        aborted.sort_unstable_by_key(|txn| txn.first_offset);
        let mut map = OffsetMap::new(clean.map_bytes_max);
        let map_end = self.map_keys(plan, &aborted, &mut map)?;
        let producers: HashMap<ProducerId, Offset> = self.appender.lock().producers.last_offsets();
        let mut filter = Filter {
            transactions: Transactions::new(&aborted),
            map: &map,
            map_end,
            round_end: plan.dirty.end,
            producers: &producers,
            now: clean.now,
            delete_retention_ms: config.delete_retention_ms,
        };
        let mut stats = CleanStats { cleaned_to: map_end, ..CleanStats::default() };
        for group in groups(&plan.segments, map_end, plan.dirty.end, config) {
            self.clean_group(group, &mut filter, config, &mut stats)?;
        }
        Ok(stats)
    }

    /// Maps the keys of the dirty offsets, as many as fit. Answers the offset behind the last one mapped.
    fn map_keys(&self, plan: &Plan, aborted: &[AbortedTxn], map: &mut OffsetMap) -> Result<Offset, Halt> {
        let mut transactions = Transactions::new(aborted);
        for segment in plan.segments.iter() {
            let from = segment.position_before(plan.dirty.start, crate::ReadMode::Blocking)?.unwrap_or(0);
            let mut batches = self.batches(segment, from)?;
            while let Some((header, batch)) = batches.next()? {
                let is_aborted = transactions.meet(&header);
                if header.last_offset() < plan.dirty.start || header.is_control() || is_aborted {
                    continue;
                }
                // At least one batch is mapped, so that every round gets somewhere.
                if !map.is_empty() && map.is_full_for(header.record_count as usize) {
                    return Ok(header.base_offset);
                }
                // What cannot be opened stays as it is, and supersedes nothing.
                let opened = codec::payload(&header, &batch[HEADER_BYTES..], codec::STORED_BYTES_MAX);
                let Ok(payload) = opened else { continue };
                for record in RawRecords::new(&payload).map_while(Result::ok) {
                    if let Some(key) = record.key {
                        map.put(key, header.base_offset.plus(i64::from(record.offset_delta)));
                    }
                }
            }
        }
        Ok(plan.dirty.end)
    }

    fn clean_group(
        &self,
        group: &[Arc<Segment>],
        filter: &mut Filter<'_>,
        config: &LogConfig,
        stats: &mut CleanStats,
    ) -> Result<(), Halt> {
        let base = group[0].base();
        let path = swap::cleaned_path(&self.dir(), base);
        let file = self.dir().disk.open(&path, OpenMode::Truncate)?;
        let written = self.write_cleaned(group, filter, &*file, stats);
        if let Err(halt) = written {
            remove_if_exists(&*self.dir().disk, &path)?;
            return Err(halt);
        }
        file.sync_data()?;
        swap::commit(&self.dir(), base)?;
        let replacement = swap::complete(&self.dir(), base, group, config)?;
        stats.bytes_before += group.iter().map(|segment| segment.size()).sum::<u64>();
        stats.bytes_after += replacement.size();
        let mut view = self.view.write();
        let mut segments = view.segments.as_ref().clone();
        let at = segments.partition_point(|segment| segment.base() < base);
        assert!(Arc::ptr_eq(&segments[at], &group[0]), "segments only change under the maintenance lock");
        segments.splice(at..at + group.len(), [replacement]);
        view.segments = Arc::new(segments);
        Ok(())
    }

    fn write_cleaned(
        &self,
        group: &[Arc<Segment>],
        filter: &mut Filter<'_>,
        file: &dyn DiskFile,
        stats: &mut CleanStats,
    ) -> Result<(), Halt> {
        let mut out = Vec::with_capacity(OUT_BYTES);
        let mut position = 0;
        for segment in group {
            let mut batches = self.batches(segment, 0)?;
            while let Some((header, batch)) = batches.next()? {
                let counts = filter.pass(&header, batch, &mut out);
                stats.records_read += counts.read;
                stats.records_kept += counts.kept;
                if out.len() >= OUT_BYTES {
                    write_all_at(file, &mut [IoSlice::new(&out)], position)?;
                    position += out.len() as u64;
                    out.clear();
                }
            }
        }
        Ok(write_all_at(file, &mut [IoSlice::new(&out)], position)?)
    }

    fn batches<'a>(&'a self, segment: &'a Segment, from: u64) -> io::Result<Batches<'a>> {
        Ok(Batches { log: self, segment, walk: BatchWalk::new(segment.file()?, from, segment.size()) })
    }
}

impl Plan {
    fn is_due(&self, config: &LogConfig) -> bool {
        self.overdue || self.dirty_ratio > config.min_cleanable_dirty_ratio
    }
}

/// The batches of a segment, checked: what is wrong is not copied into a new file under a new checksum.
struct Batches<'a> {
    log: &'a Log,
    segment: &'a Segment,
    walk: BatchWalk,
}

impl Batches<'_> {
    fn next(&mut self) -> Result<Option<(Header, &[u8])>, Halt> {
        if self.log.clean_abort.load(Ordering::Acquire) {
            return Err(Halt::Asked);
        }
        let segment = self.segment;
        match self.walk.next() {
            Ok(Some((header, batch))) if crc_matches(batch) => Ok(Some((header, batch))),
            Ok(Some((header, _))) => Err(batches_damaged(segment, &header, &"checksum")),
            Ok(None) => Ok(None),
            Err(Stop::Broken { position, reason }) => Err(Halt::Damaged(StorageError::Damaged {
                path: segment.path(FileKind::Log),
                at: segment.base(),
                reason: format!("position {position}: {reason}"),
            })),
            Err(stop) => Err(Halt::Disk(stop.into_io())),
        }
    }
}

fn batches_damaged(segment: &Segment, header: &Header, reason: &dyn std::fmt::Display) -> Halt {
    Halt::Damaged(StorageError::Damaged {
        path: segment.path(FileKind::Log),
        at: header.base_offset,
        reason: reason.to_string(),
    })
}

/// Runs of segments that fit into one, so that cleaned segments do not stay small for ever.
fn groups<'a>(
    segments: &'a [Arc<Segment>],
    map_end: Offset,
    round_end: Offset,
    config: &LogConfig,
) -> Vec<&'a [Arc<Segment>]> {
    let end = segments.partition_point(|segment| segment.base() < map_end);
    let mut groups = Vec::new();
    let mut start = 0;
    while start < end {
        let mut stop = start + 1;
        let (mut bytes, mut entries) = (segments[start].size(), segments[start].index_entries());
        while stop < end {
            let next = &segments[stop];
            let last = segments.get(stop + 1).map_or(round_end, |after| after.base());
            bytes += next.size();
            entries += next.index_entries() + 1;
            let fits = bytes <= u64::from(config.segment_bytes)
                && entries < config.time_index_entries_max()
                && last.since(segments[start].base()) <= i64::from(i32::MAX);
            if !fits {
                break;
            }
            stop += 1;
        }
        groups.push(&segments[start..stop]);
        start = stop;
    }
    groups
}
