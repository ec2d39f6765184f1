//! Finding offsets by time, and times by offset: exact to the record, inside compressed batches too. The time index narrows the
//! search, headers narrow it to a batch, and only that batch is opened. A largest timestamp that a producer
//! invented costs a look, never a wrong answer.

use std::io;

use wire::{LeaderEpoch, Millis, Offset};

use super::{Log, segment_at};
use crate::{
    cleaner::Transactions,
    codec,
    disk::read_exact_at,
    error::StorageError,
    header::{HEADER_BYTES, Header},
    raw::RawRecords,
    segment::Segment,
    slice::{self, ReadMode},
    walk::{HeaderWalk, Stop},
};

/// A record's place in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampOffset {
    /// Its timestamp.
    pub timestamp: Millis,
    /// Its offset.
    pub offset: Offset,
    /// The leader epoch that wrote it.
    pub leader_epoch: LeaderEpoch,
}

/// Which records a reader is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visible {
    /// All that are below its bound.
    Uncommitted,
    /// Not those of aborted transactions.
    Committed,
}

/// What a record must be to be found.
type Wanted<'a> = &'a dyn Fn(Millis) -> bool;

impl Log {
    /// The first record in `log_start..upper` whose timestamp is at least `timestamp`.
    pub fn offset_for_time(
        &self,
        timestamp: Millis,
        upper: Offset,
    ) -> Result<Option<TimestampOffset>, StorageError> {
        self.check_open()?;
        let (segments, log_start) = {
            let view = self.view.read();
            (view.segments.clone(), view.log_start)
        };
        let disk = || StorageError::disk(self.path());
        for (at, segment) in segments.iter().enumerate() {
            let ends_before_start = segments.get(at + 1).is_some_and(|next| next.base() <= log_start);
            if ends_before_start
                || segment.max_timestamp().map_err(disk())?.is_none_or(|max| max.timestamp < timestamp)
            {
                continue;
            }
            let from = segment.offset_before(timestamp).map_err(disk())?.max(log_start);
            let found = find_in(segment, from..upper, &|found| found >= timestamp).map_err(disk())?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The first record in `from..upper` that a reader is given: markers, holes and, if wanted, what was aborted are passed over.
    /// Usually one header and one batch are read; a batch that the log stamped is not opened.
    pub fn first_record(
        &self,
        from: Offset,
        upper: Offset,
        visible: Visible,
    ) -> Result<Option<TimestampOffset>, StorageError> {
        self.check_open()?;
        let (segments, log_start) = {
            let view = self.view.read();
            (view.segments.clone(), view.log_start)
        };
        let range = from.max(log_start)..upper;
        if range.is_empty() {
            return Ok(None);
        }
        let disk = || StorageError::disk(self.path());
        let segments = &segments[segment_at(&segments, range.start)..];
        let mut aborted = match visible {
            Visible::Uncommitted => Vec::new(),
            Visible::Committed => slice::aborted_transactions(segments, range.clone()).map_err(disk())?,
        };
        aborted.sort_by_key(|txn| txn.first_offset);
        let mut transactions = Transactions::new(&aborted);
        for segment in segments {
            if segment.base() >= range.end {
                break;
            }
            let found = for_batches(segment, range.clone(), &mut |position, header| {
                if transactions.meet(header) || header.is_control() {
                    return Ok(None);
                }
                first_of(segment, position, header, &range)
            });
            if let Some(found) = found.map_err(disk())? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The first record in `log_start..upper` with the largest timestamp there is.
    pub fn max_timestamp_offset(&self, upper: Offset) -> Result<Option<TimestampOffset>, StorageError> {
        self.check_open()?;
        let (segments, log_start) = {
            let view = self.view.read();
            (view.segments.clone(), view.log_start)
        };
        let disk = || StorageError::disk(self.path());
        let mut best: Option<(Millis, &Segment)> = None;
        for (at, segment) in segments.iter().enumerate() {
            let end = segments.get(at + 1).map_or(upper, |next| next.base());
            if end <= log_start || segment.base() >= upper {
                continue;
            }
            let max = if segment.base() >= log_start && end <= upper && at + 1 < segments.len() {
                segment.max_timestamp().map_err(disk())?.map(|max| max.timestamp)
            } else {
                // Only part of the segment counts, so its headers are asked.
                max_in(segment, log_start..upper).map_err(disk())?
            };
            if let Some(max) = max.filter(|max| best.is_none_or(|(known, _)| *max > known)) {
                best = Some((max, segment));
            }
        }
        let Some((max, segment)) = best else { return Ok(None) };
        find_in(segment, log_start..upper, &|found| found >= max).map_err(disk())
    }
}

/// The first record of a batch within `range`.
fn first_of(
    segment: &Segment,
    position: u64,
    header: &Header,
    range: &std::ops::Range<Offset>,
) -> io::Result<Option<TimestampOffset>> {
    let found = |offset, timestamp| {
        Ok(Some(TimestampOffset { timestamp, offset, leader_epoch: header.leader_epoch }))
    };
    let is_whole = header.record_count == header.last_offset_delta.saturating_add(1);
    if is_whole && header.is_log_append_time() {
        return found(header.base_offset.max(range.start), header.max_timestamp);
    }
    let mut batch = vec![0; header.size as usize];
    read_exact_at(&*segment.file()?, &mut batch, position)?;
    // A batch that cannot be opened (from a log that another broker wrote) has records all the same.
    let opened = codec::payload(header, &batch[HEADER_BYTES..], codec::STORED_BYTES_MAX);
    let Ok(payload) = opened else {
        return found(header.base_offset.max(range.start), header.base_timestamp);
    };
    for record in RawRecords::new(&payload).map_while(Result::ok) {
        let offset = header.base_offset.plus(i64::from(record.offset_delta));
        if range.contains(&offset) {
            return found(offset, record_timestamp(header, record.timestamp_delta));
        }
    }
    Ok(None)
}

fn max_in(segment: &Segment, range: std::ops::Range<Offset>) -> io::Result<Option<Millis>> {
    let mut max = None;
    for_batches(segment, range, &mut |_, header| {
        max = max.max(Some(header.max_timestamp).filter(|timestamp| timestamp.0 >= 0));
        Ok(None::<()>)
    })?;
    Ok(max)
}

/// The first record of `segment` within `range` that is wanted.
fn find_in(
    segment: &Segment,
    range: std::ops::Range<Offset>,
    wanted: Wanted<'_>,
) -> io::Result<Option<TimestampOffset>> {
    for_batches(segment, range.clone(), &mut |position, header| {
        if !wanted(header.max_timestamp) || header.is_control() {
            return Ok(None);
        }
        let mut batch = vec![0; header.size as usize];
        read_exact_at(&*segment.file()?, &mut batch, position)?;
        // A batch that cannot be opened (from a log that another broker wrote) has no time; those behind it have.
        let opened = codec::payload(header, &batch[HEADER_BYTES..], codec::STORED_BYTES_MAX);
        let Ok(payload) = opened else { return Ok(None) };
        for record in RawRecords::new(&payload).map_while(Result::ok) {
            let offset = header.base_offset.plus(i64::from(record.offset_delta));
            let timestamp = record_timestamp(header, record.timestamp_delta);
            if wanted(timestamp) && range.contains(&offset) {
                return Ok(Some(TimestampOffset { timestamp, offset, leader_epoch: header.leader_epoch }));
            }
        }
        Ok(None)
    })
}

/// A record's timestamp: the batch's, where the log stamped it.
pub(crate) fn record_timestamp(header: &Header, delta: i64) -> Millis {
    if header.is_log_append_time() {
        header.max_timestamp
    } else {
        Millis(header.base_timestamp.0.saturating_add(delta))
    }
}

/// Visits the batches that hold something of `range`, until one gives an answer.
fn for_batches<R>(
    segment: &Segment,
    range: std::ops::Range<Offset>,
    visit: &mut dyn FnMut(u64, &Header) -> io::Result<Option<R>>,
) -> io::Result<Option<R>> {
    let position = segment.position_before(range.start, ReadMode::Blocking)?.unwrap_or(0);
    let mut walk = HeaderWalk::new(segment.file()?, ReadMode::Blocking, position, segment.size());
    while let Some((position, header)) = walk.next().map_err(Stop::into_io)? {
        if header.base_offset >= range.end {
            break;
        }
        if header.last_offset() < range.start {
            continue;
        }
        if let Some(answer) = visit(position, &header)? {
            return Ok(Some(answer));
        }
    }
    Ok(None)
}
