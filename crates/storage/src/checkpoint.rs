//! The data directory's offset checkpoints: one line per partition, replaced whole by rename so that a crash
//! leaves the old file or the new one. The recovery point of a log may only be raised after everything below
//! it is durable, and is lowered durably before anything below it is cut.

use std::{
    collections::BTreeMap,
    fmt::Write,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use wire::{Offset, PartitionId, Str, TopicPartition};

use crate::{
    disk::{Disk, read_small_if_exists, replace_file},
    error::StorageError,
    layout,
};

/// A checkpoint of a million partitions with the longest names stays below.
const CHECKPOINT_BYTES_MAX: u64 = 512 << 20;

/// Offsets per partition.
pub(crate) type Offsets = BTreeMap<TopicPartition, Offset>;

/// One checkpoint file and its content. The lock is held while the file is written: the file never goes
/// back to an older content.
#[derive(Debug)]
struct CheckpointFile {
    name: &'static str,
    offsets: Mutex<Offsets>,
}

/// The checkpoints of one data directory.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    recovery_points: CheckpointFile,
    log_starts: CheckpointFile,
    high_watermarks: CheckpointFile,
    cleaner_offsets: CheckpointFile,
    /// Whether the disk has failed somewhere in the directory since somebody looked last.
    is_suspect: AtomicBool,
}

impl Checkpoints {
    pub(crate) fn load(disk: Arc<dyn Disk>, root: PathBuf) -> io::Result<Checkpoints> {
        let file = |name| {
            let offsets = Mutex::new(read(&*disk, &root.join(name))?);
            Ok::<_, io::Error>(CheckpointFile { name, offsets })
        };
        Ok(Checkpoints {
            recovery_points: file(layout::RECOVERY_POINTS)?,
            log_starts: file(layout::LOG_STARTS)?,
            high_watermarks: file(layout::HIGH_WATERMARKS)?,
            cleaner_offsets: file(layout::CLEANER_OFFSETS)?,
            is_suspect: AtomicBool::new(false),
            disk,
            root,
        })
    }

    /// The disk has failed in this directory.
    pub(crate) fn suspect(&self) {
        self.is_suspect.store(true, Ordering::Release);
    }

    /// Whether it has since the last time.
    pub(crate) fn take_suspect(&self) -> bool {
        self.is_suspect.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn recovery_point(&self, partition: &TopicPartition) -> Option<Offset> {
        self.recovery_points.offsets.lock().get(partition).copied()
    }

    pub(crate) fn log_start(&self, partition: &TopicPartition) -> Option<Offset> {
        self.log_starts.offsets.lock().get(partition).copied()
    }

    pub(crate) fn high_watermark(&self, partition: &TopicPartition) -> Option<Offset> {
        self.high_watermarks.offsets.lock().get(partition).copied()
    }

    pub(crate) fn cleaner_offset(&self, partition: &TopicPartition) -> Option<Offset> {
        self.cleaner_offsets.offsets.lock().get(partition).copied()
    }

    /// Has the recovery point at most at `at`, durably, before the log is cut there.
    pub(crate) fn lower_recovery_point(
        &self,
        partition: &TopicPartition,
        at: Offset,
    ) -> Result<(), StorageError> {
        self.write(&self.recovery_points, |offsets| lower(offsets, partition, at))
    }

    /// Has the log start at most at `at`, durably, before the log begins anew there: a start left from before
    /// would hide what is written next.
    pub(crate) fn lower_log_start(&self, partition: &TopicPartition, at: Offset) -> Result<(), StorageError> {
        self.write(&self.log_starts, |offsets| lower(offsets, partition, at))
    }

    /// Raises recovery points. What to raise is asked for while the file is locked, so that a point that was just
    /// lowered stays so.
    pub(crate) fn raise_recovery_points(
        &self,
        points: impl FnOnce() -> Vec<(TopicPartition, Offset)>,
    ) -> Result<(), StorageError> {
        self.write(&self.recovery_points, |offsets| raise(offsets, points()))
    }

    /// Raises log starts, likewise.
    pub(crate) fn raise_log_starts(
        &self,
        starts: impl FnOnce() -> Vec<(TopicPartition, Offset)>,
    ) -> Result<(), StorageError> {
        self.write(&self.log_starts, |offsets| raise(offsets, starts()))
    }

    /// Forgets partitions that are no more.
    pub(crate) fn forget_dead(&self, live: Live<'_>) -> Result<(), StorageError> {
        for file in [&self.recovery_points, &self.log_starts] {
            self.write(file, |offsets| keep(offsets, live))?;
        }
        Ok(())
    }

    pub(crate) fn set_high_watermarks(
        &self,
        marks: Vec<(TopicPartition, Offset)>,
    ) -> Result<(), StorageError> {
        self.write(&self.high_watermarks, |offsets| {
            let changed = offsets.len() != marks.len();
            set_all(offsets, marks) | changed
        })
    }

    /// Notes, durably, from where to where a partition reaches that moves here, before it does.
    pub(crate) fn adopt(
        &self,
        partition: &TopicPartition,
        recovery_point: Offset,
        log_start: Offset,
    ) -> Result<(), StorageError> {
        self.write(&self.recovery_points, |offsets| set(offsets, partition, Some(recovery_point)))?;
        let log_start = Some(log_start).filter(|start| *start > Offset::ZERO);
        self.write(&self.log_starts, |offsets| set(offsets, partition, log_start))
    }

    /// Notes what else another directory knew of it.
    pub(crate) fn take_over(
        &self,
        partition: &TopicPartition,
        from: &Checkpoints,
    ) -> Result<(), StorageError> {
        let (high_watermark, cleaner_offset) =
            (from.high_watermark(partition), from.cleaner_offset(partition));
        self.write(&self.high_watermarks, |offsets| set(offsets, partition, high_watermark))?;
        self.write(&self.cleaner_offsets, |offsets| set(offsets, partition, cleaner_offset))
    }

    pub(crate) fn set_cleaner_offset(
        &self,
        partition: &TopicPartition,
        at: Offset,
    ) -> Result<(), StorageError> {
        self.write(&self.cleaner_offsets, |offsets| set_all(offsets, vec![(partition.clone(), at)]))
    }

    /// Durably forgets lines of an earlier partition of this name, before the new one's first byte: they would
    /// have the new log taken for a damaged old one.
    pub(crate) fn forget_before_create(&self, partition: &TopicPartition) -> Result<(), StorageError> {
        for file in [&self.recovery_points, &self.log_starts, &self.high_watermarks, &self.cleaner_offsets] {
            self.write(file, |offsets| offsets.remove(partition).is_some())?;
        }
        Ok(())
    }

    fn write(
        &self,
        file: &CheckpointFile,
        change: impl FnOnce(&mut Offsets) -> bool,
    ) -> Result<(), StorageError> {
        let mut offsets = file.offsets.lock();
        if !change(&mut offsets) {
            return Ok(());
        }
        let path = self.root.join(file.name);
        replace_file(&*self.disk, &path, render(&offsets).as_bytes())
            .and_then(|()| self.disk.sync_dir(&self.root))
            .inspect_err(|_| self.suspect())
            .map_err(StorageError::disk(path))
    }
}

/// Whether a partition still exists.
pub(crate) type Live<'a> = &'a dyn Fn(&TopicPartition) -> bool;

fn keep(offsets: &mut Offsets, live: Live<'_>) -> bool {
    let before = offsets.len();
    offsets.retain(|partition, _| live(partition));
    offsets.len() != before
}

fn lower(offsets: &mut Offsets, partition: &TopicPartition, at: Offset) -> bool {
    match offsets.get_mut(partition) {
        Some(offset) if *offset > at => {
            *offset = at;
            true
        }
        _ => false,
    }
}

fn raise(offsets: &mut Offsets, values: Vec<(TopicPartition, Offset)>) -> bool {
    let mut changed = false;
    for (partition, offset) in values {
        let known = offsets.get(&partition).copied();
        if known.is_none_or(|known| known < offset) {
            offsets.insert(partition, offset);
            changed = true;
        }
    }
    changed
}

fn set(offsets: &mut Offsets, partition: &TopicPartition, value: Option<Offset>) -> bool {
    match value {
        Some(at) => offsets.insert(partition.clone(), at) != Some(at),
        None => offsets.remove(partition).is_some(),
    }
}

fn set_all(offsets: &mut Offsets, values: Vec<(TopicPartition, Offset)>) -> bool {
    let mut changed = false;
    for (partition, offset) in values {
        changed |= offsets.insert(partition, offset) != Some(offset);
    }
    changed
}

fn read(disk: &dyn Disk, path: &Path) -> io::Result<Offsets> {
    let Some(content) = read_small_if_exists(disk, path, CHECKPOINT_BYTES_MAX)? else {
        return Ok(Offsets::new());
    };
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, format!("{} is malformed", path.display()));
    let text = std::str::from_utf8(&content).map_err(|_| malformed())?;
    parse(text).ok_or_else(malformed)
}

fn render(offsets: &Offsets) -> String {
    let mut text = format!("0\n{}\n", offsets.len());
    for (partition, offset) in offsets {
        let _ = writeln!(text, "{} {} {}", partition.topic, partition.partition.0, offset.0);
    }
    text
}

fn parse(text: &str) -> Option<Offsets> {
    let mut lines = text.lines();
    if lines.next()? != "0" {
        return None;
    }
    let count: usize = lines.next()?.parse().ok()?;
    let mut offsets = Offsets::new();
    for line in lines {
        let mut fields = line.split(' ');
        let topic = Str::copy_from(fields.next()?);
        let partition = PartitionId(fields.next()?.parse().ok()?);
        let offset = Offset(fields.next()?.parse().ok()?);
        if fields.next().is_some() {
            return None;
        }
        offsets.insert(TopicPartition { topic, partition }, offset);
    }
    (offsets.len() == count).then_some(offsets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_parses_back_and_a_cut_one_does_not() {
        let text = "0\n2\na 0 12\nb-c 3 0\n";
        assert_eq!(render(&parse(text).unwrap()), text);
        for hostile in ["", "1\n0\n", "0\n2\na 0 12\n", "0\n1\na 0\n", "0\n1\na 0 1 2\n", "0\nx\n"] {
            assert_eq!(parse(hostile), None, "{hostile:?}");
        }
    }
}
