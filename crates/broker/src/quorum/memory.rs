//! What raft's core reads of its log: entries since the last snapshot, and where that snapshot stands.
//!
//! All of it is in memory: the metadata log between two snapshots is small and bounded. Invariant: entries follow the
//! snapshot without a gap, and each knows the offset at which it lies in `__cluster_metadata`.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Snapshot, SnapshotMetadata};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};
use wire::Offset;

use super::entry::record_count;

/// A point of the log that a snapshot stands for.
#[derive(Clone, Debug, Default)]
pub(super) struct SnapshotPoint {
    pub(super) index: u64,
    pub(super) term: u64,
    /// Where the log goes on.
    pub(super) end: Offset,
    pub(super) conf: ConfState,
    /// The snapshot as a file; empty where a quorum begins.
    pub(super) data: Bytes,
}

/// The log as the core sees it.
#[derive(Debug, Default)]
pub(super) struct MemoryLog {
    pub(super) hard_state: HardState,
    pub(super) snapshot: Arc<SnapshotPoint>,
    entries: VecDeque<Entry>,
    /// Where each entry begins.
    starts: VecDeque<Offset>,
    end: Offset,
    /// A node asked for a snapshot that knows of it, and this one does not.
    snapshot_wanted: Cell<bool>,
}

impl MemoryLog {
    pub(super) fn new(hard_state: HardState, snapshot: SnapshotPoint) -> Self {
        let end = snapshot.end;
        MemoryLog {
            hard_state,
            snapshot: Arc::new(snapshot),
            entries: VecDeque::new(),
            starts: VecDeque::new(),
            end,
            snapshot_wanted: Cell::new(false),
        }
    }

    /// The offset after an entry.
    pub(super) fn offset_after(&self, index: u64) -> Offset {
        match index.checked_sub(self.snapshot.index) {
            Some(0) | None => self.snapshot.end,
            Some(beyond) => self.starts.get(beyond as usize).copied().unwrap_or(self.end),
        }
    }

    /// Up to where the log is committed, by what it holds itself. A change of the members is proposed only once the one before
    /// is applied, so all changes but the last are committed. A node that forgot that would act as one of an older quorum,
    /// which need not have anybody in common with the present one.
    pub(super) fn settled(&self) -> u64 {
        let changes_members = |entry: &&Entry| entry.get_entry_type() != EntryType::EntryNormal;
        let before_last = self.entries.iter().rev().filter(changes_members).nth(1);
        before_last.map_or(self.snapshot.index, |entry| entry.index)
    }

    /// Whether a newer snapshot was asked for since this was last asked.
    pub(super) fn take_snapshot_wanted(&self) -> bool {
        self.snapshot_wanted.take()
    }

    pub(super) fn last(&self) -> u64 {
        self.snapshot.index + self.entries.len() as u64
    }

    /// Puts entries behind those before them; what was there from the first one's index on gives way. Returns where each
    /// begins.
    pub(super) fn append(&mut self, entries: &[Entry]) -> Vec<Offset> {
        let Some(first) = entries.first() else { return Vec::new() };
        assert!(first.index > self.snapshot.index, "what is in a snapshot is committed");
        let kept = (first.index - self.snapshot.index - 1) as usize;
        assert!(kept <= self.entries.len(), "entries follow each other");
        if kept < self.entries.len() {
            self.end = self.starts[kept];
            self.entries.truncate(kept);
            self.starts.truncate(kept);
        }
        let mut starts = Vec::with_capacity(entries.len());
        for entry in entries {
            starts.push(self.end);
            self.starts.push_back(self.end);
            self.end = self.end.plus(record_count(entry));
            self.entries.push_back(entry.clone());
        }
        starts
    }

    /// Entries up to the snapshot are no longer needed one by one.
    pub(super) fn compact(&mut self, snapshot: Arc<SnapshotPoint>) {
        assert!(snapshot.index >= self.snapshot.index);
        let gone = ((snapshot.index - self.snapshot.index) as usize).min(self.entries.len());
        self.entries.drain(..gone);
        self.starts.drain(..gone);
        if self.entries.is_empty() {
            self.end = snapshot.end;
        }
        self.snapshot = snapshot;
    }

    /// A leader's snapshot takes the place of everything.
    pub(super) fn restore(&mut self, snapshot: Arc<SnapshotPoint>) {
        self.entries.clear();
        self.starts.clear();
        self.end = snapshot.end;
        self.hard_state.commit = self.hard_state.commit.max(snapshot.index);
        self.snapshot = snapshot;
    }
}

impl Storage for MemoryLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.snapshot.conf.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let first = self.snapshot.index + 1;
        if low < first {
            return Err(Error::Store(StorageError::Compacted));
        }
        assert!(high <= self.last() + 1, "nobody asks for entries that are not there");
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        let mut bytes = 0;
        let range = self.entries.range((low - first) as usize..(high - first) as usize);
        let fit = range.take_while(|entry| {
            let is_first = bytes == 0;
            bytes += entry.data.len() as u64 + 32;
            is_first || bytes <= bytes_max
        });
        Ok(fit.cloned().collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        match index.checked_sub(self.snapshot.index) {
            None => Err(Error::Store(StorageError::Compacted)),
            Some(0) => Ok(self.snapshot.term),
            Some(beyond) => {
                let entry = self.entries.get(beyond as usize - 1);
                entry.map(|entry| entry.term).ok_or(Error::Store(StorageError::Unavailable))
            }
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.snapshot.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let conf = &self.snapshot.conf;
        // Nobody takes a snapshot of a quorum that it is not a member of.
        let is_member = conf.voters.contains(&to) || conf.learners.contains(&to);
        if self.snapshot.index < request_index || !is_member {
            self.snapshot_wanted.set(true);
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut metadata = SnapshotMetadata {
            index: self.snapshot.index,
            term: self.snapshot.term,
            ..SnapshotMetadata::default()
        };
        metadata.set_conf_state(self.snapshot.conf.clone());
        let mut snapshot = Snapshot { data: self.snapshot.data.clone(), ..Snapshot::default() };
        snapshot.set_metadata(metadata);
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, ..Entry::default() }
    }

    #[test]
    fn all_changes_of_the_members_but_the_last_are_committed() {
        let mut log = MemoryLog::default();
        let change = |index| {
            let mut change = entry(index, 1);
            change.set_entry_type(EntryType::EntryConfChangeV2);
            change
        };
        log.append(&[entry(1, 1), change(2), entry(3, 1)]);
        assert_eq!(log.settled(), 0);
        log.append(&[change(4), entry(5, 1)]);
        assert_eq!(log.settled(), 2);
    }

    #[test]
    fn a_conflict_takes_the_tail_and_a_snapshot_the_front() {
        let mut log =
            MemoryLog::new(HardState::default(), SnapshotPoint { index: 1, term: 1, ..Default::default() });
        log.append(&[entry(2, 2), entry(3, 2), entry(4, 2)]);
        assert_eq!((log.last(), log.end), (4, Offset(3)));
        assert_eq!(log.append(&[entry(3, 3)]), [Offset(1)]);
        assert_eq!((log.last(), log.end, log.term(3).unwrap()), (3, Offset(2), 3));
        let point = SnapshotPoint { index: 2, term: 2, end: Offset(1), ..Default::default() };
        log.compact(Arc::new(point));
        assert_eq!((log.first_index().unwrap(), log.term(2).unwrap()), (3, 2));
        assert!(log.term(1).is_err());
        assert_eq!((log.offset_after(2), log.offset_after(3)), (Offset(1), Offset(2)));
    }
}
