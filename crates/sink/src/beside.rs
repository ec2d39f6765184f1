//! An output that keeps the order of the log, compared with the log record by record.
//!
//! Reads the log forward beside what comes of the output, and keeps nothing: the line writes in the order of the log, so that whatever
//! comes again or too late is one too many.

use std::collections::VecDeque;

use client::{Cluster, ConsumedRecord, Header};
use wire::{Millis, Offset};

use crate::digest::Digest;
use crate::key::Range;
use crate::log_reader::LogReader;
use crate::run::RunError;
use crate::source::Source;
use crate::verify::{Finding, Verified, both};

/// A record as the output has it, and the offset that it says it was made of.
pub(crate) struct Written<'a> {
    pub(crate) offset: Offset,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: &'a [Header],
    pub(crate) timestamp: Millis,
}

/// What the output has lost of its beginning, as it is meant to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removed {
    /// No more than so many records.
    AtMost(i64),
    /// Those before this offset.
    Before(Offset),
}

/// What was compared so far.
pub(crate) struct Beside<'a> {
    source: &'a Source,
    committed: Range,
    log: Log,
    expected: Option<ConsumedRecord>,
    /// Of the output's records.
    last: Option<Offset>,
    removed: Removed,
    /// Whether what is there first says what both lines have.
    begins_with_first: bool,
    verified: &'a mut Verified,
    digest: &'a mut Digest,
}

impl<'a> Beside<'a> {
    pub(crate) async fn new(
        cluster: &Cluster,
        source: &'a Source,
        committed: Range,
        removed: Removed,
        verified: &'a mut Verified,
        digest: &'a mut Digest,
    ) -> Result<Self, RunError> {
        let mut log = Log::new(cluster, source, committed)?;
        let expected = log.next().await?;
        if let Removed::Before(start) = removed {
            digest.within = digest.within.and_then(|within| behind(within, start));
        }
        let begins_with_first = matches!(removed, Removed::AtMost(1..));
        Ok(Self {
            source,
            committed,
            log,
            expected,
            last: None,
            removed,
            begins_with_first,
            verified,
            digest,
        })
    }

    /// The output has lost what was before `start` by now.
    pub(crate) fn removed_before(&mut self, start: Offset) {
        if matches!(self.removed, Removed::Before(before) if before >= start) {
            return;
        }
        self.removed = Removed::Before(start);
        self.digest.within = match self.last {
            None => self.digest.within.and_then(|within| behind(within, start)),
            // Which of what is between has come is not known.
            Some(last) if last.plus(1) < start => None,
            Some(_) => self.digest.within,
        };
    }

    /// The output's next record, which is at `place`.
    pub(crate) async fn take(
        &mut self,
        written: Written<'_>,
        place: impl FnOnce() -> String,
    ) -> Result<(), RunError> {
        let offset = written.offset;
        self.verified.rows += 1;
        if self.last.is_none() && self.begins_with_first {
            // The output's own retention has removed what was before it.
            self.digest.within = self.digest.within.and_then(|within| behind(within, offset));
        }
        self.digest.add(offset, Some(written.value));
        if offset < self.committed.start || self.last.is_some_and(|last| offset <= last) {
            self.verified.double += 1;
            return Ok(());
        }
        while self.expected.as_ref().is_some_and(|expected| expected.offset < offset) {
            self.absent().await?;
        }
        self.last = Some(offset);
        if offset < self.source.log.start {
            self.verified.passed += 1;
            return Ok(());
        }
        match self.expected.take_if(|expected| expected.offset == offset) {
            Some(read) => {
                self.verified.records += 1;
                if !is_same(&read, &written) {
                    let problem =
                        format!("it is not what {} at offset {offset} is", self.source.key.partition);
                    self.verified.findings.push(Finding { place: place(), problem });
                }
                self.expected = self.log.next().await?;
            }
            None => self.verified.double += 1,
        }
        Ok(())
    }

    /// The output has no more.
    pub(crate) async fn end(mut self) -> Result<(), RunError> {
        if self.last.is_none() && self.begins_with_first {
            self.digest.within = None;
        }
        while self.expected.is_some() {
            self.absent().await?;
        }
        self.log.reader.close().await;
        Ok(())
    }

    /// Counts a record that the output does not have: it was removed from the output's beginning, as far as that may be, or is missing.
    async fn absent(&mut self) -> Result<(), RunError> {
        let offset = self.expected.take().map(|expected| expected.offset);
        let is_removed = match &mut self.removed {
            Removed::AtMost(left @ 1..) if self.last.is_none() => {
                *left -= 1;
                true
            }
            Removed::AtMost(_) => false,
            Removed::Before(start) => offset.is_some_and(|offset| offset < *start),
        };
        match is_removed {
            true => self.verified.passed += 1,
            false => {
                self.verified.records += 1;
                self.verified.missing += 1;
            }
        }
        self.expected = self.log.next().await?;
        Ok(())
    }
}

/// What of a range is not before `start`.
fn behind(within: Range, start: Offset) -> Option<Range> {
    if start >= within.end {
        return None;
    }
    both(within, Range::new(start, within.end))
}

/// Whether a record is as it was read.
fn is_same(read: &ConsumedRecord, written: &Written<'_>) -> bool {
    (read.key.as_deref(), read.value.as_deref()) == (written.key, written.value)
        && read.headers == written.headers
        && read.timestamp == written.timestamp
}

/// The input's records of a range, one after the other.
struct Log {
    reader: LogReader,
    end: Offset,
    records: VecDeque<ConsumedRecord>,
}

impl Log {
    fn new(cluster: &Cluster, source: &Source, range: Range) -> Result<Self, RunError> {
        let start = range.start.max(source.log.start);
        let reader = LogReader::new(cluster, &source.key.partition, start)?;
        // What is committed was seen; a log that was cut since ends before.
        let end = range.end.min(source.visible_end);
        Ok(Self { reader, end, records: VecDeque::new() })
    }

    async fn next(&mut self) -> Result<Option<ConsumedRecord>, RunError> {
        while self.records.is_empty() {
            let Some(records) = self.reader.next(self.end).await? else { return Ok(None) };
            self.records.extend(records.iter().cloned());
            records.done();
        }
        let next = self.records.pop_front().filter(|record| record.offset < self.end);
        Ok(next)
    }
}
