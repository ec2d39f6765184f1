//! A segment's `.txnindex`: the aborted transactions whose marker lies in the segment. Small and rare, so it
//! is read whole when it is wanted and appended with one write. Entries ascend by last offset.

use std::io;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use wire::{Offset, ProducerId};

use crate::{
    disk::{Disk, OpenMode, read_small_if_exists, replace_file, write_all_at},
    layout::FileKind,
    segment::Segment,
};

const ENTRY_BYTES: usize = 34;
const INDEX_BYTES_MAX: u64 = 64 << 20;

/// One aborted transaction of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTxn {
    /// Whose transaction.
    pub producer_id: ProducerId,
    /// Its first offset.
    pub first_offset: Offset,
    /// The offset of its abort marker.
    pub last_offset: Offset,
    /// The last stable offset after the marker.
    pub last_stable_offset: Offset,
}

fn encode(txn: &AbortedTxn) -> [u8; ENTRY_BYTES] {
    let mut entry = [0; ENTRY_BYTES]; // the first two bytes are the version, 0
    entry[2..10].copy_from_slice(&txn.producer_id.0.to_be_bytes());
    entry[10..18].copy_from_slice(&txn.first_offset.0.to_be_bytes());
    entry[18..26].copy_from_slice(&txn.last_offset.0.to_be_bytes());
    entry[26..34].copy_from_slice(&txn.last_stable_offset.0.to_be_bytes());
    entry
}

fn decode(entry: &[u8]) -> AbortedTxn {
    let field = |at: usize| entry[at..].first_chunk().map_or(0, |field| i64::from_be_bytes(*field));
    AbortedTxn {
        producer_id: ProducerId(field(2)),
        first_offset: Offset(field(10)),
        last_offset: Offset(field(18)),
        last_stable_offset: Offset(field(26)),
    }
}

/// Every entry of a segment; a ragged or zeroed end is passed over.
pub(crate) fn read(segment: &Segment) -> io::Result<Vec<AbortedTxn>> {
    let content = read_small_if_exists(segment.disk(), &segment.path(FileKind::TxnIndex), INDEX_BYTES_MAX)?;
    let content = content.unwrap_or_default();
    let sound = |txn: &AbortedTxn| txn.first_offset < txn.last_offset && txn.last_offset >= segment.base();
    Ok(content.chunks_exact(ENTRY_BYTES).map(decode).take_while(sound).collect())
}

/// Replaces a file, so that a crash leaves the old entries or the new ones; durable after the directory's sync.
pub(crate) fn replace(disk: &Arc<dyn Disk>, path: &Path, txns: &[AbortedTxn]) -> io::Result<()> {
    let bytes: Vec<u8> = txns.iter().flat_map(encode).collect();
    replace_file(&**disk, path, &bytes)
}

/// Adds an entry at the end. Not synced: recovery finds it again from the marker.
pub(crate) fn append(segment: &Segment, txn: &AbortedTxn) -> io::Result<()> {
    let file = segment.disk().open(&segment.path(FileKind::TxnIndex), OpenMode::Create)?;
    let end = file.len()?;
    let entry = encode(txn);
    let written = write_all_at(&*file, &mut [IoSlice::new(&entry)], end - end % ENTRY_BYTES as u64);
    segment.forget_aborted_transactions();
    written
}

/// Syncs a segment's file if it has one.
pub(crate) fn sync(segment: &Segment) -> io::Result<()> {
    match segment.disk().open(&segment.path(FileKind::TxnIndex), OpenMode::Write) {
        Ok(file) => file.sync_data(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Drops entries whose marker is at `end` or later.
pub(crate) fn truncate(segment: &Segment, end: Offset) -> io::Result<()> {
    let txns = read(segment)?;
    let kept = txns.partition_point(|txn| txn.last_offset < end);
    let cut = match segment.disk().open(&segment.path(FileKind::TxnIndex), OpenMode::Write) {
        Ok(file) => file.truncate((kept * ENTRY_BYTES) as u64),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    };
    segment.forget_aborted_transactions();
    cut
}
