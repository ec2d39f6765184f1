//! An entry of the metadata log as a batch of records: one entry, one batch, there as a whole or not at all.
//!
//! Metadata records have no key. A change of the quorum's members is a record with a key of its own, and the empty entry
//! with which a leader begins is Kafka's NoOpRecord, so that entries and batches stay one to one on every node.

use bytes::{Bytes, BytesMut};
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, Entry, EntryType};
use state::metadata::MetadataRecord;
use wire::messages::no_op_record::NoOpRecord;
use wire::records::{Batch, BatchBuilder, BatchError, BatchOptions};
use wire::{BrokerId, Millis};

use super::{node_id, raft_id};

/// A batch of the metadata log may not decompress to more; ours are not compressed.
const BATCH_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Key of a record that changes the members.
const MEMBERS_KEY: &[u8] = b"members";

/// A change of the quorum's members, one node at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MembersChange {
    /// The node votes from now on.
    AddVoter(BrokerId),
    /// The node follows the log and does not vote; a voter no longer does.
    AddLearner(BrokerId),
    /// The node is not told of the log any more.
    Remove(BrokerId),
}

impl MembersChange {
    pub(super) fn encode(self) -> Bytes {
        let (kind, node) = match self {
            MembersChange::AddVoter(node) => (0_u8, node),
            MembersChange::AddLearner(node) => (1, node),
            MembersChange::Remove(node) => (2, node),
        };
        let mut bytes = BytesMut::with_capacity(5);
        bytes.extend_from_slice(&[kind]);
        bytes.extend_from_slice(&node.0.to_be_bytes());
        bytes.freeze()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, node) = bytes.split_first()?;
        let node = BrokerId(i32::from_be_bytes(node.try_into().ok()?));
        match kind {
            0 => Some(MembersChange::AddVoter(node)),
            1 => Some(MembersChange::AddLearner(node)),
            2 => Some(MembersChange::Remove(node)),
            _ => None,
        }
    }

    /// As raft calls it.
    pub(super) fn to_raft(self) -> ConfChangeV2 {
        let (kind, node) = match self {
            MembersChange::AddVoter(node) => (ConfChangeType::AddNode, node),
            MembersChange::AddLearner(node) => (ConfChangeType::AddLearnerNode, node),
            MembersChange::Remove(node) => (ConfChangeType::RemoveNode, node),
        };
        let mut single = ConfChangeSingle::default();
        single.set_change_type(kind);
        single.node_id = raft_id(node);
        ConfChangeV2 { changes: vec![single].into(), ..ConfChangeV2::default() }
    }
}

/// What an entry does when it is applied.
#[derive(Debug)]
pub(super) enum Content {
    Records(Vec<MetadataRecord>),
    Members(MembersChange),
    Nothing,
}

/// The batch of a decision.
pub(super) fn batch_of(records: &[MetadataRecord], now: Millis) -> Bytes {
    let mut batch = BatchBuilder::new(BatchOptions::default());
    for record in records {
        batch.append(now, None, Some(&record.encode()), &[]);
    }
    batch.build()
}

/// The batch that stands for an entry on disk.
pub(super) fn to_batch(entry: &Entry) -> Bytes {
    match entry.get_entry_type() {
        EntryType::EntryNormal if !entry.data.is_empty() => entry.data.clone(),
        EntryType::EntryNormal => batch_of(&[MetadataRecord::NoOp(NoOpRecord::default())], Millis(0)),
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
            let mut batch = BatchBuilder::new(BatchOptions::default());
            batch.append(Millis(0), Some(MEMBERS_KEY), Some(&entry.context), &[]);
            batch.build()
        }
    }
}

/// Records in an entry's batch: how far its offsets reach.
pub(super) fn record_count(entry: &Entry) -> i64 {
    match entry.get_entry_type() {
        EntryType::EntryNormal if !entry.data.is_empty() => {
            Batch::parse(&entry.data).map_or(1, |batch| i64::from(batch.header().last_offset_delta()) + 1)
        }
        _ => 1,
    }
}

/// The entry that a batch on disk stands for.
pub(super) fn from_batch(batch: &Batch, index: u64, term: u64) -> Result<Entry, BatchError> {
    let mut entry = Entry { index, term, ..Entry::default() };
    let first = batch.records(BATCH_BYTES_MAX).next().transpose()?;
    match first {
        Some(record) if record.key.as_deref() == Some(MEMBERS_KEY) => {
            entry.set_entry_type(EntryType::EntryConfChangeV2);
            entry.context = Bytes::copy_from_slice(record.value.as_deref().unwrap_or_default());
        }
        _ => entry.data = Bytes::copy_from_slice(batch.bytes()),
    }
    Ok(entry)
}

/// What a committed entry does. It was checked when it was proposed, and written and read under a checksum.
pub(super) fn content(entry: &Entry) -> Result<Content, String> {
    if entry.get_entry_type() != EntryType::EntryNormal {
        let change = MembersChange::decode(&entry.context);
        return Ok(change.map_or(Content::Nothing, Content::Members));
    }
    if entry.data.is_empty() {
        return Ok(Content::Nothing);
    }
    let batch = Batch::parse(&entry.data).map_err(|error| error.to_string())?;
    let records = batch.records(BATCH_BYTES_MAX).map(|record| {
        let record = record.map_err(|error| error.to_string())?;
        MetadataRecord::decode(&record.value.unwrap_or_default()).map_err(|error| error.to_string())
    });
    Ok(Content::Records(records.collect::<Result<_, _>>()?))
}

/// The members that a change speaks of, for messages.
pub(super) fn nodes(ids: &[u64]) -> Vec<BrokerId> {
    ids.iter().filter_map(|id| node_id(*id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_from_their_batches() {
        let change = MembersChange::AddLearner(BrokerId(4));
        let mut members = Entry { index: 7, term: 3, context: change.encode(), ..Entry::default() };
        members.set_entry_type(EntryType::EntryConfChangeV2);
        let nothing = Entry { index: 8, term: 3, ..Entry::default() };
        for (entry, expected) in
            [(members, "Members(AddLearner(BrokerId(4)))"), (nothing, "Records([NoOp(NoOpRecord)])")]
        {
            let batch = Batch::parse(&to_batch(&entry)).unwrap();
            let back = from_batch(&batch, entry.index, entry.term).unwrap();
            assert_eq!(format!("{:?}", content(&back).unwrap()), expected);
            assert_eq!(record_count(&back), record_count(&entry));
        }
    }
}
