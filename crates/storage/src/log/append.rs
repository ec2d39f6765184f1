//! Writing at the end: as the leader, which assigns offsets, and as a follower, which keeps them. Payloads are
//! never copied: what the log assigns and the rest of the request's frame go to the disk in one vectored
//! write. Nothing becomes visible before it is written, and nothing is written that was not checked.

use std::{
    io::{ErrorKind, IoSlice},
    sync::Arc,
};

use bytes::Bytes;
use wire::{LeaderEpoch, Millis, Offset};

use super::{Appender, Log};
use crate::{
    codec,
    config::{LogConfig, TimestampType},
    disk::{OpenMode, write_all_at},
    error::{AppendError, StorageError},
    header::{HEADER_BYTES, Header, assign, crc_matches},
    layout::{FileKind, segment_file},
    producers::{Known, Marker},
    segment::Segment,
    snapshot, txn_index,
    validate::{self, Checked, Origin, parse_marker, refuse_header},
};

/// How to append.
#[derive(Clone, Copy, Debug)]
pub struct Append {
    /// The epoch in which this broker leads.
    pub leader_epoch: LeaderEpoch,
    /// The broker's clock.
    pub now: Millis,
    /// Who appends.
    pub origin: Origin,
}

/// What was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The first offset; of a duplicate, the one that it got the first time.
    pub base_offset: Offset,
    /// The last offset. An acknowledgement waits for the flushed end to pass it, for duplicates too. Of a
    /// duplicate whose place is forgotten, the last one that it can have.
    pub last_offset: Offset,
    /// The time that the log stamped, `None` under CreateTime.
    pub log_append_time: Option<Millis>,
    /// The first offset that there is.
    pub log_start: Offset,
    /// Whether an idempotent producer sent it before; nothing was written then.
    pub duplicate: bool,
    /// Whether it is not known any more where that duplicate lies: DUPLICATE_SEQUENCE_NUMBER, which clients take
    /// for an acknowledgement without an offset.
    pub forgotten: bool,
}

/// Headers and bytes, ready to be written in one go.
struct Writable<'a> {
    headers: &'a [Header],
    markers: &'a [Option<Marker>],
    now: Millis,
}

impl Log {
    /// Appends a producer's batches and assigns their offsets. Visible to readers at once, durable after the
    /// next `flush`.
    pub fn append(&self, records: Bytes, append: Append) -> Result<Appended, AppendError> {
        self.check_open()?;
        let config = self.config();
        let mut checked = validate::check(&records, append.origin, append.now, &config)?;
        let mut appender = self.appender.lock();
        self.check_open()?;
        for batch in &checked {
            if let Some(known) = check_producer(&appender, batch, append.origin)? {
                return Ok(self.duplicate(known, &config));
            }
        }
        let base_offset = self.view.read().log_end;
        let mut next = base_offset;
        for batch in &mut checked {
            batch.header.base_offset = next;
            batch.header.leader_epoch = append.leader_epoch;
            assign(batch.assigned(), next, append.leader_epoch);
            next = batch.header.next_offset();
        }
        let headers: Vec<Header> = checked.iter().map(|batch| batch.header).collect();
        let markers: Vec<Option<Marker>> = checked.iter().map(|batch| batch.marker).collect();
        let mut bufs: Vec<IoSlice<'_>> = checked
            .iter()
            .flat_map(|batch| [IoSlice::new(&batch.front[..batch.front_len]), IoSlice::new(&batch.rest)])
            .collect();
        let writable = Writable { headers: &headers, markers: &markers, now: append.now };
        self.write(&mut appender, writable, &mut bufs, &config)?;
        let append_time = config.message_timestamp_type == TimestampType::LogAppendTime;
        Ok(Appended {
            base_offset,
            last_offset: next.plus(-1),
            log_append_time: append_time.then_some(append.now),
            log_start: self.log_start(),
            duplicate: false,
            forgotten: false,
        })
    }

    /// Appends batches as a leader sent them, offsets and epochs and all. Checks structure and checksum, not
    /// policy: the leader has decided.
    pub fn append_as_follower(&self, records: Bytes, now: Millis) -> Result<Appended, AppendError> {
        self.check_open()?;
        let config = self.config();
        let (mut headers, mut markers) = (Vec::new(), Vec::new());
        let mut at = 0;
        while at < records.len() {
            let header = Header::parse(&records[at..]).map_err(refuse_header)?;
            let end = usize::try_from(header.size).ok().and_then(|size| at.checked_add(size));
            let batch = end.and_then(|end| records.get(at..end));
            let batch = batch.ok_or_else(|| AppendError::Corrupt("a cut batch".into()))?;
            if !crc_matches(batch) {
                return Err(AppendError::Corrupt("checksum".into()));
            }
            markers.push(marker_of(&header, &batch[HEADER_BYTES..]));
            headers.push(header);
            at += batch.len();
        }
        let mut appender = self.appender.lock();
        self.check_open()?;
        let log_end = self.view.read().log_end;
        let mut expected = log_end;
        for header in &headers {
            if header.base_offset < expected {
                return Err(AppendError::OffsetsOutOfOrder { expected, found: header.base_offset });
            }
            expected = header.next_offset();
        }
        let base_offset = headers.first().map_or(log_end, |header| header.base_offset);
        if !headers.is_empty() {
            let writable = Writable { headers: &headers, markers: &markers, now };
            self.write(&mut appender, writable, &mut [IoSlice::new(&records)], &config)?;
        }
        Ok(Appended {
            base_offset,
            last_offset: expected.plus(-1),
            log_append_time: None,
            log_start: self.log_start(),
            duplicate: false,
            forgotten: false,
        })
    }

    fn duplicate(&self, known: Known, config: &LogConfig) -> Appended {
        let append_time = config.message_timestamp_type == TimestampType::LogAppendTime;
        let (base_offset, last_offset, timestamp) = match known {
            Known::Remembered(batch) => (batch.base_offset(), batch.last_offset, Some(batch.timestamp)),
            Known::Before(offset) => (Offset(-1), offset.plus(-1), None),
        };
        Appended {
            base_offset,
            last_offset,
            log_append_time: timestamp.filter(|_| append_time),
            log_start: self.log_start(),
            duplicate: true,
            forgotten: matches!(known, Known::Before(_)),
        }
    }

    fn write(
        &self,
        appender: &mut Appender,
        writable: Writable<'_>,
        bufs: &mut [IoSlice<'_>],
        config: &LogConfig,
    ) -> Result<(), AppendError> {
        let (Some(first), Some(last)) = (writable.headers.first(), writable.headers.last()) else {
            return Ok(());
        };
        let bytes: u64 = writable.headers.iter().map(|header| header.size).sum();
        if bytes > u64::from(config.segment_bytes) {
            let (size, size_max) = (bytes as usize, config.segment_bytes as usize);
            return Err(AppendError::LargerThanSegment { size, size_max });
        }
        let active = self.view.read().active().clone();
        let max_timestamp =
            writable.headers.iter().map(|header| header.max_timestamp).fold(Millis(-1), Millis::max);
        let due = self.is_roll_due(&active, bytes, last.last_offset(), max_timestamp, config);
        let active = if due.map_err(|e| self.fail(e))? {
            // At the log end even if the batch lies further on, as a follower of a compacted log may see it:
            // recovery takes a gap between two segments of the tail for a loss.
            let log_end = self.view.read().log_end;
            let gap_is_too_wide = first.base_offset.since(log_end) > i64::from(i32::MAX / 2);
            self.roll(appender, if gap_is_too_wide { first.base_offset } else { log_end }, writable.now)?
        } else {
            active
        };
        active.write(bufs).map_err(|e| match e.kind() {
            // Nothing was synced and nothing noted: when there is room again, the log goes on where it was.
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                StorageError::Full { path: self.dir().path(), source: e }
            }
            _ => self.fail(e),
        })?;
        active.note_written(writable.headers, config).map_err(|e| self.fail(e))?;
        if !appender.dirty.last().is_some_and(|dirty| Arc::ptr_eq(dirty, &active)) {
            appender.dirty.push(active.clone());
        }
        for (header, marker) in writable.headers.iter().zip(writable.markers) {
            appender.epochs.assign(header.leader_epoch, header.base_offset);
            if let Some(aborted) = appender.producers.apply(header, *marker, writable.now) {
                txn_index::append(&active, &aborted).map_err(|e| self.fail(e))?;
            }
        }
        let mut view = self.view.write();
        assert!(first.base_offset >= view.log_end, "offsets only grow");
        view.log_end = last.next_offset();
        view.has_undecided = appender.producers.has_undecided();
        Ok(())
    }

    /// Whether the active segment takes `bytes` more.
    fn is_roll_due(
        &self,
        active: &Segment,
        bytes: u64,
        last_offset: Offset,
        max_timestamp: Millis,
        config: &LogConfig,
    ) -> std::io::Result<bool> {
        if active.size() == 0 {
            // Only a hole between its name and its first batch can be too wide.
            return Ok(active.is_index_full(last_offset, config));
        }
        if active.size() + bytes > u64::from(config.segment_bytes)
            || active.is_index_full(last_offset, config)
        {
            return Ok(true);
        }
        let first = active.first_timestamp()?.filter(|first| first.0 >= 0);
        Ok(first.is_some_and(|first| max_timestamp.0.saturating_sub(first.0) > config.segment_ms))
    }

    /// Closes the active segment and begins another one at `base`. Its name is durable after the next flush,
    /// which comes before the first acknowledgement.
    pub(super) fn roll(
        &self,
        appender: &mut Appender,
        base: Offset,
        now: Millis,
    ) -> Result<Arc<Segment>, crate::StorageError> {
        let old = self.view.read().active().clone();
        if old.size() > 0 {
            old.seal().map_err(|e| self.fail(e))?;
            appender.indexes_dirty.push(old.clone());
        }
        let config = self.config();
        appender.producers.expire(now, config.producer_id_expiration_ms, config.producers_max);
        self.write_snapshot(appender, base).map_err(|e| self.fail(e))?;
        let new = Arc::new(Segment::create(self.dir(), base).map_err(|e| self.fail(e))?);
        appender.dir_dirty = true;
        let mut view = self.view.write();
        let mut segments = view.segments.as_ref().clone();
        if old.size() == 0 {
            // It held nothing, and its name would promise offsets that do not come.
            segments.pop();
        }
        segments.push(new.clone());
        view.segments = Arc::new(segments);
        drop(view);
        if old.size() == 0 && old.base() != base {
            old.remove().map_err(|e| self.fail(e))?;
        }
        Ok(new)
    }

    /// Writes the producers as they are into the snapshot of `at`, to be synced by a checkpoint.
    pub(super) fn write_snapshot(&self, appender: &mut Appender, at: Offset) -> std::io::Result<()> {
        let content = snapshot::encode(&appender.producers);
        let path = segment_file(&self.dir().path(), at, FileKind::Snapshot);
        let file = self.dir().disk.open(&path, OpenMode::Truncate)?;
        write_all_at(&*file, &mut [IoSlice::new(&content)], 0)?;
        appender.snapshots_unsynced.push(file);
        if let Err(position) = appender.snapshots.binary_search(&at) {
            appender.snapshots.insert(position, at);
        }
        Ok(())
    }
}

/// Whether the log's producers let a batch in; what they know of it when it is a repetition.
fn check_producer(
    appender: &Appender,
    batch: &Checked,
    origin: Origin,
) -> Result<Option<Known>, AppendError> {
    let header = &batch.header;
    if !header.has_producer() {
        return Ok(None);
    }
    match (origin, batch.marker) {
        (Origin::Client, _) => {
            let known = appender.producers.known(header);
            if known.is_none() {
                appender.producers.check(header)?;
            }
            Ok(known)
        }
        (Origin::Coordinator, Some(marker)) => appender.producers.check_marker(header, marker).map(|()| None),
        (Origin::Coordinator, None) => appender.producers.check_epoch(header).map(|()| None),
    }
}

/// The marker in a control batch, if its body shows one.
pub(super) fn marker_of(header: &Header, body: &[u8]) -> Option<Marker> {
    if !header.is_control() {
        return None;
    }
    parse_marker(&codec::payload(header, body, codec::STORED_BYTES_MAX).ok()?)
}
