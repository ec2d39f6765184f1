//! The metadata log on disk: `__cluster_metadata-0` with one batch an entry, snapshots beside it, and `quorum-state` with
//! the term and the vote.
//!
//! Invariant: when [`DurableLog::persist`] returns, all that it was given survives a power loss. A snapshot file is whole or
//! not there, and entries that it stands for are removed only after it is durable.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, HardState};
use state::metadata::{Image, MetadataRecord, RecordError};
use storage::{
    Append, AppendError, Disk, Log, Origin, ReadError, StorageError, read_small_if_exists, remove_if_exists,
    replace_file,
};
use wire::messages::quorum_snapshot_record::QuorumSnapshotRecord;
use wire::records::{BatchBuilder, BatchError, BatchOptions, Batches};
use wire::{Decoder, Encoder, LeaderEpoch, Message, Millis, Offset};

use super::entry;
use super::memory::{MemoryLog, SnapshotPoint};
use crate::log_reader::{LogReader, LogReaderError};

/// Name of the file with the term and the vote.
const STATE_FILE: &str = "quorum-state";
/// How a snapshot's name ends, as Kafka's do.
const SNAPSHOT_SUFFIX: &str = ".checkpoint";
const SNAPSHOT_BYTES_MAX: u64 = 1024 * 1024 * 1024;
const STATE_BYTES_MAX: u64 = 4096;
/// Size of a snapshot's batches.
const BATCH_BYTES: usize = 1024 * 1024;
const BATCH_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Key of the record that says what a snapshot stands for.
const SNAPSHOT_KEY: &[u8] = b"snapshot";
/// Where every quorum begins, so that a node without memory is always brought up by a snapshot and never takes its own
/// configuration for the quorum's.
const FIRST_INDEX: u64 = 1;
const FIRST_TERM: u64 = 1;

/// The metadata log cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum QuorumLogError {
    /// The log refuses.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The log does not take a batch.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// A part of the log cannot be found.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The log cannot be read.
    #[error("the metadata log cannot be read: {0}")]
    Log(String),
    /// A record is not one that this version knows.
    #[error("a record of the metadata cannot be understood: {0}")]
    Record(#[from] RecordError),
    /// A batch is damaged.
    #[error("a batch of the metadata is damaged: {0}")]
    Batch(#[from] BatchError),
    /// A file beside the log cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file beside the log is not what it should be.
    #[error(
        "{path} is damaged: {problem}; restore it from a copy, or empty the data directory and let the node join anew"
    )]
    Damaged {
        /// Which one.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

impl From<LogReaderError> for QuorumLogError {
    fn from(error: LogReaderError) -> Self {
        QuorumLogError::Log(error.to_string())
    }
}

/// What is to be made durable together.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// A leader's snapshot, which takes the place of the log.
    pub(super) restore: Option<Arc<SnapshotPoint>>,
    /// A snapshot of our own; entries up to it may go.
    pub(super) compact: Option<Arc<SnapshotPoint>>,
    pub(super) hard_state: Option<HardState>,
    /// Whether the node may vote, where that changes.
    pub(super) may_vote: Option<bool>,
    /// Entries and where each begins.
    pub(super) entries: Vec<(Entry, Offset)>,
}

impl Work {
    pub(super) fn is_empty(&self) -> bool {
        self.restore.is_none()
            && self.compact.is_none()
            && self.hard_state.is_none()
            && self.may_vote.is_none()
            && self.entries.is_empty()
    }

    /// Takes what comes later in. Entries that it overwrites need not be written at all.
    pub(super) fn join(&mut self, later: Work) {
        if later.restore.is_some() {
            self.entries.clear();
            self.compact = None;
            self.restore = later.restore;
        }
        if later.compact.is_some() {
            self.compact = later.compact;
        }
        if later.hard_state.is_some() {
            self.hard_state = later.hard_state;
        }
        self.may_vote = later.may_vote.or(self.may_vote);
        if let Some((_, start)) = later.entries.first() {
            let kept = self.entries.partition_point(|(_, before)| before < start);
            self.entries.truncate(kept);
        }
        self.entries.extend(later.entries);
    }
}

/// The files.
pub(super) struct DurableLog {
    log: Arc<Log>,
    disk: Arc<dyn Disk>,
    state: State,
}

/// What `quorum-state` says.
#[derive(Clone, Debug)]
struct State {
    hard_state: HardState,
    /// False for a voter that lost its memory, until it is let in anew.
    may_vote: bool,
}

/// What was found on disk.
pub(super) struct Found {
    pub(super) durable: DurableLog,
    pub(super) memory: MemoryLog,
    /// The metadata as of the snapshot.
    pub(super) image: Image,
    /// Whether the node ever voted or stored anything.
    pub(super) has_memory: bool,
    /// False for a voter that lost its memory and was not let in anew yet.
    pub(super) may_vote: bool,
}

impl DurableLog {
    /// The log itself.
    pub(super) fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Reads what is there. `voters` is whom a quorum begins with that has never been; empty for a node that is none of them.
    /// Blocks.
    pub(super) fn open(
        log: Arc<Log>,
        disk: Arc<dyn Disk>,
        voters: Vec<u64>,
    ) -> Result<Found, QuorumLogError> {
        let state = State { hard_state: HardState::default(), may_vote: true };
        let mut durable = DurableLog { log, disk, state };
        let state = durable.read_state()?;
        let stored = durable.newest_snapshot()?;
        let has_memory = state.is_some() || stored.is_some() || durable.log.log_end() > Offset::ZERO;
        if let Some(state) = state {
            durable.state = state;
        }
        let snapshot = match stored {
            Some(snapshot) => snapshot,
            // A quorum of others: they tell.
            None if voters.is_empty() => SnapshotPoint::default(),
            None => {
                let conf = ConfState { voters, ..ConfState::default() };
                SnapshotPoint { index: FIRST_INDEX, term: FIRST_TERM, conf, ..SnapshotPoint::default() }
            }
        };
        let image = image_of(&snapshot.data)?;
        let mut memory = MemoryLog::new(durable.state.hard_state.clone(), snapshot);
        durable.read_entries(&mut memory)?;
        let hard_state = &mut memory.hard_state;
        if memory.snapshot.index > 0 {
            hard_state.term = hard_state.term.max(FIRST_TERM);
        }
        let last = memory.snapshot.index + memory_len(&memory);
        let last_term = raft::Storage::term(&memory, last).unwrap_or(0);
        memory.hard_state.term = memory.hard_state.term.max(last_term);
        memory.hard_state.commit =
            memory.hard_state.commit.max(memory.settled()).clamp(memory.snapshot.index, last);
        let may_vote = durable.state.may_vote;
        Ok(Found { durable, memory, image, has_memory, may_vote })
    }

    fn read_entries(&self, memory: &mut MemoryLog) -> Result<(), QuorumLogError> {
        let from = memory.snapshot.end.max(self.log.log_start());
        if from > memory.snapshot.end {
            let path = self.log.path();
            let problem =
                format!("it begins at {from}, and the snapshot before ends at {}", memory.snapshot.end);
            return Err(QuorumLogError::Damaged { path, problem });
        }
        let mut index = memory.snapshot.index;
        let mut entries = Vec::new();
        LogReader::new(&self.log, self.log.log_end()).for_each_batch(from, |batch| {
            if batch.header().base_offset() >= from {
                index += 1;
                let term = u64::try_from(batch.header().partition_leader_epoch().0).unwrap_or(0);
                entries.push(entry::from_batch(batch, index, term.max(FIRST_TERM))?);
            }
            Ok(())
        })?;
        memory.append(&entries);
        Ok(())
    }

    /// Makes all of it durable. Blocks.
    pub(super) fn persist(&mut self, work: &Work, now: Millis) -> Result<(), QuorumLogError> {
        if let Some(snapshot) = &work.restore {
            self.write_snapshot(snapshot)?;
            self.log.truncate_fully_at(snapshot.end)?;
            self.remove_snapshots_before(snapshot.end)?;
        }
        if work.hard_state.is_some() || work.may_vote.is_some() {
            let hard_state = work.hard_state.as_ref().unwrap_or(&self.state.hard_state).clone();
            let may_vote = work.may_vote.unwrap_or(self.state.may_vote);
            self.state = State { hard_state, may_vote };
            self.write_state()?;
        }
        if let Some((_, start)) = work.entries.first()
            && *start < self.log.log_end()
        {
            self.log.truncate_to(*start, now)?;
        }
        for (entry, start) in &work.entries {
            let leader_epoch = LeaderEpoch(i32::try_from(entry.term).unwrap_or(i32::MAX));
            let append = Append { leader_epoch, now, origin: Origin::Coordinator };
            let appended = self.log.append(entry::to_batch(entry), append)?;
            assert_eq!(appended.base_offset, *start, "entries lie where every node has them");
        }
        if !work.entries.is_empty() {
            self.log.flush()?;
        }
        if let Some(snapshot) = &work.compact {
            self.write_snapshot(snapshot)?;
            self.log.advance_log_start(snapshot.end)?;
            self.remove_snapshots_before(snapshot.end)?;
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.log.path().join(name)
    }

    fn read_state(&self) -> Result<Option<State>, QuorumLogError> {
        let path = self.path(STATE_FILE);
        let content = read_small_if_exists(&*self.disk, &path, STATE_BYTES_MAX).map_err(file_error(&path))?;
        let Some(content) = content else { return Ok(None) };
        let text = String::from_utf8_lossy(&content);
        let number = |key: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            let parsed = value.and_then(|value| value.trim().parse().ok());
            parsed.ok_or_else(|| QuorumLogError::Damaged {
                path: path.clone(),
                problem: format!("{key} is missing"),
            })
        };
        let hard_state = HardState {
            term: number("term")?,
            vote: number("vote")?,
            commit: number("commit")?,
            ..HardState::default()
        };
        Ok(Some(State { hard_state, may_vote: number("may.vote")? != 0 }))
    }

    fn write_state(&self) -> Result<(), QuorumLogError> {
        let State { hard_state, may_vote } = &self.state;
        let text = format!(
            "version=1\nterm={}\nvote={}\ncommit={}\nmay.vote={}\n",
            hard_state.term,
            hard_state.vote,
            hard_state.commit,
            u8::from(*may_vote)
        );
        self.write_file(&self.path(STATE_FILE), text.as_bytes())
    }

    fn write_file(&self, path: &Path, content: &[u8]) -> Result<(), QuorumLogError> {
        replace_file(&*self.disk, path, content)
            .and_then(|()| self.disk.sync_dir(&self.log.path()))
            .map_err(file_error(path))
    }

    fn write_snapshot(&self, snapshot: &SnapshotPoint) -> Result<(), QuorumLogError> {
        self.write_file(&self.path(&snapshot_name(snapshot.end, snapshot.term)), &snapshot.data)
    }

    /// Snapshots in the directory, the newest last.
    fn snapshots(&self) -> Result<Vec<(Offset, PathBuf)>, QuorumLogError> {
        let dir = self.log.path();
        let entries = self.disk.list(&dir).map_err(file_error(&dir))?;
        let mut found: Vec<(Offset, PathBuf)> = entries
            .iter()
            .filter_map(|entry| {
                let (end, _term) = entry.name.strip_suffix(SNAPSHOT_SUFFIX)?.split_once('-')?;
                Some((Offset(end.parse().ok()?), dir.join(&entry.name)))
            })
            .collect();
        found.sort_unstable();
        Ok(found)
    }

    fn newest_snapshot(&self) -> Result<Option<SnapshotPoint>, QuorumLogError> {
        let Some((_, path)) = self.snapshots()?.pop() else { return Ok(None) };
        let content =
            read_small_if_exists(&*self.disk, &path, SNAPSHOT_BYTES_MAX).map_err(file_error(&path))?;
        let content = Bytes::from(content.unwrap_or_default());
        let snapshot = snapshot_of(&content)
            .map_err(|error| QuorumLogError::Damaged { path, problem: error.to_string() })?;
        Ok(Some(snapshot))
    }

    fn remove_snapshots_before(&self, end: Offset) -> Result<(), QuorumLogError> {
        for (_, path) in self.snapshots()?.into_iter().filter(|(before, _)| *before < end) {
            remove_if_exists(&*self.disk, &path).map_err(file_error(&path))?;
        }
        Ok(())
    }
}

fn memory_len(memory: &MemoryLog) -> u64 {
    memory.last() - memory.snapshot.index
}

fn file_error(path: &Path) -> impl FnOnce(std::io::Error) -> QuorumLogError + '_ {
    move |source| QuorumLogError::File { path: path.to_owned(), source }
}

fn snapshot_name(end: Offset, term: u64) -> String {
    format!("{:020}-{term:010}{SNAPSHOT_SUFFIX}", end.0)
}

/// A snapshot as a file: a batch that says what it stands for, and the metadata as records.
pub(super) fn snapshot_file(image: &Image, point: SnapshotPoint, now: Millis) -> SnapshotPoint {
    let signed = |ids: &[u64]| ids.iter().map(|id| *id as i64).collect();
    let header = QuorumSnapshotRecord {
        index: point.index as i64,
        term: point.term as i64,
        end_offset: point.end.0,
        voters: signed(&point.conf.voters),
        learners: signed(&point.conf.learners),
        voters_outgoing: signed(&point.conf.voters_outgoing),
        learners_next: signed(&point.conf.learners_next),
        auto_leave: point.conf.auto_leave,
    };
    let mut encoder = Encoder::new();
    header.encode(&mut encoder, 0);
    let mut batch = BatchBuilder::new(BatchOptions::default());
    batch.append(now, Some(SNAPSHOT_KEY), Some(&encoder.into_bytes()), &[]);
    let mut data = Vec::new();
    let mut finish = |batch: &mut BatchBuilder| {
        let next = BatchOptions { base_offset: batch.next_offset(), ..BatchOptions::default() };
        data.extend_from_slice(&std::mem::replace(batch, BatchBuilder::new(next)).build());
    };
    finish(&mut batch);
    for record in image.snapshot_records() {
        batch.append(now, None, Some(&record.encode()), &[]);
        if batch.size() >= BATCH_BYTES {
            finish(&mut batch);
        }
    }
    if !batch.is_empty() {
        finish(&mut batch);
    }
    SnapshotPoint { data: data.into(), ..point }
}

/// What a snapshot's file says that it stands for.
pub(super) fn snapshot_of(data: &Bytes) -> Result<SnapshotPoint, QuorumLogError> {
    let damaged = |problem: &str| QuorumLogError::Log(format!("a snapshot without a header: {problem}"));
    let first = Batches::new(data.clone()).next().ok_or_else(|| damaged("it is empty"))??;
    first.verify_crc()?;
    let record =
        first.records(BATCH_BYTES_MAX).next().ok_or_else(|| damaged("its first batch is empty"))??;
    if record.key.as_deref() != Some(SNAPSHOT_KEY) {
        return Err(damaged("its first record is another"));
    }
    let value = record.value.unwrap_or_default();
    let header = QuorumSnapshotRecord::decode(&mut Decoder::new(value), 0)
        .map_err(|error| damaged(&error.to_string()))?;
    let number = |value: i64| u64::try_from(value).map_err(|_| damaged("it holds negative numbers"));
    let ids = |ids: &[i64]| ids.iter().map(|id| number(*id)).collect::<Result<Vec<u64>, _>>();
    Ok(SnapshotPoint {
        index: number(header.index)?,
        term: number(header.term)?,
        end: Offset(header.end_offset),
        conf: ConfState {
            voters: ids(&header.voters)?,
            learners: ids(&header.learners)?,
            voters_outgoing: ids(&header.voters_outgoing)?,
            learners_next: ids(&header.learners_next)?,
            auto_leave: header.auto_leave,
            ..ConfState::default()
        },
        data: data.clone(),
    })
}

/// The metadata that a snapshot holds.
pub(super) fn image_of(data: &Bytes) -> Result<Image, QuorumLogError> {
    let mut image = Image::default();
    for batch in Batches::new(data.clone()) {
        let batch = batch?;
        batch.verify_crc()?;
        for record in batch.records(BATCH_BYTES_MAX) {
            let record = record?;
            if record.key.is_none() {
                image.apply(&MetadataRecord::decode(&record.value.unwrap_or_default())?);
            }
        }
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(entries: &[(u64, i64)]) -> Work {
        let entries = entries
            .iter()
            .map(|(index, start)| (Entry { index: *index, ..Entry::default() }, Offset(*start)));
        Work { entries: entries.collect(), ..Work::default() }
    }

    #[test]
    fn what_is_overwritten_before_it_was_written_is_not_written() {
        let mut all = work(&[(2, 0), (3, 1), (4, 2)]);
        all.join(work(&[(3, 1)]));
        let written: Vec<u64> = all.entries.iter().map(|(entry, _)| entry.index).collect();
        assert_eq!(written, [2, 3]);
    }
}
