//! Whether the output topic holds what the log holds, each record once and as it is.
//!
//! Reads one partition of the output and the one of the input that its records say they come from side by side, both forward, and
//! keeps nothing: the line writes in the order of the log, so that whatever comes again or too late is one too many.

use std::collections::VecDeque;

use client::{Admin, Cluster, ConsumedRecord};
use wire::{Offset, Str};

use crate::digest::Digest;
use crate::key::{Key, Range};
use crate::log_reader::LogReader;
use crate::nearline_position::Kept;
use crate::origin;
use crate::output::{self, Output};
use crate::run::RunError;
use crate::settings::{Line, NearlineSettings, Settings};
use crate::source::{Source, sources};
use crate::verify::{Finding, Verified, both};

/// Compares every partition; `others` says for each from where up to where the other line has come, if there is one. With each goes
/// what it holds of that range, as far as both have it.
pub(crate) async fn verify(
    settings: &Settings,
    nearline: &NearlineSettings,
    cluster: &Cluster,
    other: impl Fn(&Key) -> Option<Range>,
) -> Result<Vec<(Verified, Digest)>, RunError> {
    let output = Output::describe(cluster, &nearline.topic).await?;
    let group = Str::copy_from(settings.line_name(Line::Nearline).as_str());
    let admin = Admin::new(cluster.clone());
    // The positions first: what comes into the output meanwhile is behind what is compared.
    let kept = admin.stable_group_offsets(&group).await?.committed;
    let mut all = Vec::new();
    for source in sources(settings, Line::Nearline, cluster).await? {
        let mut verified = Verified::new(Line::Nearline, &source.key.partition);
        let kept = match kept.get(&source.key.partition) {
            Some(committed) => match Kept::read(committed, &source.key, output.id) {
                Ok(kept) => Some(kept),
                Err(error) => {
                    let place = source.key.partition.to_string();
                    verified.findings.push(Finding { place, problem: error.to_string() });
                    None
                }
            },
            None => {
                if let Err(error) =
                    output::check_new(cluster, &output, nearline.if_removed, &source.key, None).await
                {
                    let place = source.key.partition.to_string();
                    verified.findings.push(Finding { place, problem: error.to_string() });
                }
                None
            }
        };
        let mut digest = Digest::new(None);
        if let Some(kept) = kept
            && kept.begun < kept.position.next
        {
            let committed = Range::new(kept.begun, kept.position.next);
            verified.committed = Some(committed);
            digest.within = other(&source.key).and_then(|other| both(committed, other));
            compare(cluster, &output, &source, committed, &mut verified, &mut digest).await?;
        }
        all.push((verified, digest));
    }
    Ok(all)
}

async fn compare(
    cluster: &Cluster,
    output: &Output,
    source: &Source,
    committed: Range,
    verified: &mut Verified,
    digest: &mut Digest,
) -> Result<(), RunError> {
    let partition = output.partition_for(&source.key.partition);
    let output_start = Output::start(cluster, &partition).await?;
    // Up to here it is written; the marker that makes it visible is on its way at most, and is waited for.
    let output_end = Output::written_end(cluster, &partition).await?;
    let log_start = source.log.start;
    let mut log = Log::new(cluster, source, committed)?;
    let mut written = LogReader::new(&output::committed_only(cluster)?, &partition, output_start)?;
    let mut last: Option<Offset> = None;
    // What stood before the output's first record, whoever wrote it, its own retention has removed: no more than that can have been
    // the line's.
    let mut removed_max = output_start.0;
    let mut expected = log.next().await?;
    while let Some(records) = written.next(output_end).await? {
        for record in &records {
            let Some((from, offset, headers)) = origin::of(&record.headers, &source.key.line) else {
                continue;
            };
            if from != source.key.partition || offset >= committed.end {
                continue;
            }
            verified.rows += 1;
            if last.is_none() && output_start > Offset::ZERO {
                // The output's own retention has removed what was before it.
                let has = Range::new(offset, committed.end);
                digest.within = digest.within.and_then(|within| both(within, has));
            }
            digest.add(offset, Some(record.value.as_deref()));
            if offset < committed.start || last.is_some_and(|last| offset <= last) {
                verified.double += 1;
                continue;
            }
            let is_first = last.replace(offset).is_none();
            if offset < log_start {
                verified.passed += 1;
                continue;
            }
            while expected.take_if(|expected| expected.offset < offset).is_some() {
                absent(verified, is_first.then_some(&mut removed_max));
                expected = log.next().await?;
            }
            match expected.take_if(|expected| expected.offset == offset) {
                Some(read) => {
                    verified.records += 1;
                    if !is_same(&read, record, headers) {
                        let place = format!("{partition} at offset {}", record.offset);
                        let problem =
                            format!("it is not what {} at offset {offset} is", source.key.partition);
                        verified.findings.push(Finding { place, problem });
                    }
                    expected = log.next().await?;
                }
                None => verified.double += 1,
            }
        }
        records.done();
    }
    if last.is_none() && output_start > Offset::ZERO {
        digest.within = None;
    }
    while expected.is_some() {
        absent(verified, last.is_none().then_some(&mut removed_max));
        expected = log.next().await?;
    }
    written.close().await;
    log.reader.close().await;
    Ok(())
}

/// Counts a record that the output does not have: it was removed from the output's beginning, as long as that may be, or is missing.
fn absent(verified: &mut Verified, removed_max: Option<&mut i64>) {
    match removed_max {
        Some(left @ 1..) => {
            *left -= 1;
            verified.passed += 1;
        }
        _ => {
            verified.records += 1;
            verified.missing += 1;
        }
    }
}

/// Whether a record is as it was read, but for the headers that say where.
fn is_same(read: &ConsumedRecord, written: &ConsumedRecord, headers: &[client::Header]) -> bool {
    (&read.key, &read.value, &read.headers[..]) == (&written.key, &written.value, headers)
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
