//! Replacing a run of segments by one that was cleaned, so that a crash leaves the old ones or the new one.
//! `.cleaned` is being written and means nothing; `.swap` is whole and durable, and stands for every segment
//! whose base lies in its range of offsets. From the moment that `.swap` is durable the replacement happens,
//! if need be at the next start.

use std::{collections::HashSet, io, path::PathBuf, sync::Arc};

use wire::Offset;

use crate::{
    config::LogConfig,
    disk::{DiskFile, OpenMode, remove_if_exists, with_suffix},
    layout::{self, FileKind, segment_file},
    segment::{LogDir, Segment, SegmentLens},
    slice::ReadMode,
    txn_index::{self, AbortedTxn},
    walk::{HeaderWalk, Stop},
};

/// The file that a cleaning writes.
pub(crate) fn cleaned_path(dir: &LogDir, base: Offset) -> PathBuf {
    with_suffix(&segment_file(&dir.path(), base, FileKind::Log), layout::CLEANED_SUFFIX)
}

/// Declares a cleaned file, which has been synced, to be the replacement.
pub(crate) fn commit(dir: &LogDir, base: Offset) -> io::Result<()> {
    let swap = with_suffix(&segment_file(&dir.path(), base, FileKind::Log), layout::SWAP_SUFFIX);
    dir.disk.rename(&cleaned_path(dir, base), &swap)?;
    dir.disk.sync_dir(&dir.path())
}

/// Which of `segments` a `.swap` file stands for.
pub(crate) fn replaced_by(
    dir: &LogDir,
    base: Offset,
    segments: &[Arc<Segment>],
) -> io::Result<Vec<Arc<Segment>>> {
    let swap = with_suffix(&segment_file(&dir.path(), base, FileKind::Log), layout::SWAP_SUFFIX);
    let file = dir.disk.open(&swap, OpenMode::Write)?;
    let size = file.len()?;
    let mut walk = HeaderWalk::new(file, ReadMode::Blocking, 0, size);
    let mut last = base;
    while let Some((_, header)) = walk.next().map_err(Stop::into_io)? {
        last = header.last_offset();
    }
    let stands_for = |segment: &&Arc<Segment>| segment.base() >= base && segment.base() <= last;
    Ok(segments.iter().filter(stands_for).cloned().collect())
}

/// Puts a `.swap` file in the place of `replaced`, with its indexes. Idempotent up to the last step, which is the one
/// that ends the `.swap`: whatever a crash leaves of the others is made again.
pub(crate) fn complete(
    dir: &Arc<LogDir>,
    base: Offset,
    replaced: &[Arc<Segment>],
    config: &LogConfig,
) -> io::Result<Arc<Segment>> {
    let place = segment_file(&dir.path(), base, FileKind::Log);
    for segment in replaced {
        segment.pin()?;
    }
    let swap = with_suffix(&place, layout::SWAP_SUFFIX);
    let file = dir.disk.open(&swap, OpenMode::Write)?;
    // Before the files that say it are removed.
    let aborted = aborted_in(replaced)?;
    if !aborted.is_empty() {
        let path = segment_file(&dir.path(), base, FileKind::TxnIndex);
        let kept = with_markers(&file, aborted)?;
        if kept.is_empty() {
            remove_if_exists(&*dir.disk, &path)?;
        } else {
            txn_index::replace(&dir.disk, &path, &kept)?;
        }
        dir.disk.sync_dir(&dir.path())?;
    }
    // The replaced ones have to be gone before the new one has their place: after a crash in between they
    // would repeat its offsets. The last one goes first, as everywhere.
    for segment in replaced.iter().rev().filter(|segment| segment.base() != base) {
        segment.remove()?;
    }
    for kind in [FileKind::OffsetIndex, FileKind::TimeIndex] {
        remove_if_exists(&*dir.disk, &segment_file(&dir.path(), base, kind))?;
    }
    dir.disk.sync_dir(&dir.path())?;

    let lens = SegmentLens { log: file.len()?, ..SegmentLens::default() };
    let segment = Arc::new(Segment::new(dir.clone(), base, lens));
    let mut walk = HeaderWalk::new(file, ReadMode::Blocking, 0, lens.log);
    while let Some((position, header)) = walk.next().map_err(Stop::into_io)? {
        segment.note_batch(&header, position, config)?;
    }
    segment.seal()?;
    segment.sync_indexes()?;
    dir.disk.sync_dir(&dir.path())?;

    dir.disk.rename(&swap, &place)?;
    dir.disk.sync_dir(&dir.path())?;
    Ok(segment)
}

/// The aborted transactions whose markers are in a cleaned file. The others have nothing left that a reader might see, and without
/// the marker that ends them they would hide what the same producer committed later.
fn with_markers(file: &Arc<dyn DiskFile>, mut aborted: Vec<AbortedTxn>) -> io::Result<Vec<AbortedTxn>> {
    let mut markers = HashSet::new();
    let mut walk = HeaderWalk::new(file.clone(), ReadMode::Blocking, 0, file.len()?);
    while let Some((_, header)) = walk.next().map_err(Stop::into_io)? {
        if header.is_control() && header.record_count > 0 {
            markers.insert(header.base_offset);
        }
    }
    aborted.retain(|txn| markers.contains(&txn.last_offset));
    Ok(aborted)
}

fn aborted_in(segments: &[Arc<Segment>]) -> io::Result<Vec<AbortedTxn>> {
    let mut aborted = Vec::new();
    for segment in segments {
        aborted.extend(txn_index::read(segment)?);
    }
    // A first attempt that a crash ended may have gathered some of them already.
    aborted.sort_by_key(|txn| txn.last_offset);
    aborted.dedup();
    Ok(aborted)
}
