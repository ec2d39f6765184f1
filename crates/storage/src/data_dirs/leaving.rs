//! Partitions that leave a directory: they are removed, set aside, or moved to another one. From its beginning to its end such
//! a thing has the partition's files for itself.

use std::{
    collections::btree_map::Entry,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use wire::{Millis, TopicPartition, Uuid};

use super::{DataDirs, Place};
use crate::{
    data_dir::DataDir,
    error::{AppendError, StorageError},
    log::{Copied, Log},
};

impl DataDirs {
    /// Has nobody else look after a partition's files. False when somebody does already.
    fn begin(&self, partition: &TopicPartition) -> bool {
        let mut busy = self.busy.lock();
        let is_free = !busy.contains_key(partition);
        if is_free {
            busy.insert(partition.clone(), false);
        }
        is_free
    }

    /// Nobody looks after a partition's files any more. One that was to go meanwhile goes.
    fn end(&self, partition: &TopicPartition) {
        loop {
            {
                let mut busy = self.busy.lock();
                match busy.get_mut(partition) {
                    Some(goes) if *goes => *goes = false,
                    _ => {
                        busy.remove(partition);
                        return;
                    }
                }
            }
            if let Err(error) = self.remove(partition) {
                // It is out of service all the same: the next start finds a log of no topic and sets it aside.
                tracing::error!(%partition, %error, "a partition's files could not be removed");
            }
        }
    }

    /// Whether somebody looks after a partition's files: until that ends it is not opened.
    pub fn is_busy(&self, partition: &TopicPartition) -> bool {
        self.busy.lock().contains_key(partition)
    }

    /// Takes a partition out of service and removes it: at once, or when the move ends in which it is.
    pub fn delete_log(&self, partition: &TopicPartition) -> Result<(), StorageError> {
        self.begin_removal(partition).map_or(Ok(()), |removal| self.finish_removal(removal))
    }

    /// The first half of it, in memory alone: from here on the partition is not opened until its files are gone. `None` where
    /// whoever looks after them already removes them afterwards.
    pub fn begin_removal(&self, partition: &TopicPartition) -> Option<Removal> {
        match self.busy.lock().entry(partition.clone()) {
            Entry::Occupied(mut busy) => {
                *busy.get_mut() = true;
                // While it is busy: afterwards there may be another one of its name.
                let dir = self.place_of(partition).and_then(|at| self.places[at].dir.as_ref());
                dir.and_then(|dir| dir.log(partition)).inspect(|log| log.leave());
                None
            }
            Entry::Vacant(free) => {
                free.insert(false);
                Some(Removal(partition.clone()))
            }
        }
    }

    /// The second half. Blocks, for as long as the disk wants to.
    pub fn finish_removal(&self, Removal(partition): Removal) -> Result<(), StorageError> {
        let removed = self.remove(&partition);
        self.end(&partition);
        removed
    }

    fn remove(&self, partition: &TopicPartition) -> Result<(), StorageError> {
        let Some(at) = self.place_of(partition) else { return Ok(()) };
        let aside = match &self.places[at] {
            Place { dir: Some(dir), path, .. } if self.is_offline(at) => {
                dir.forget(partition);
                Err(StorageError::DirOffline { path: path.clone() })
            }
            Place { dir: Some(dir), .. } => {
                dir.set_aside_deleted(partition).map(|aside| aside.map(|path| (dir, path)))
            }
            Place { dir: None, .. } => Ok(None),
        };
        self.placed.lock().remove(partition);
        aside?.map_or(Ok(()), |(dir, path)| dir.remove_superseded(&path))
    }

    /// Takes a partition out of service that the metadata does not know, and keeps its files under a name that ends in
    /// `-stray`. `at` says in which directory, where it is known.
    pub fn set_aside_stray(&self, partition: &TopicPartition, at: Option<usize>) -> Result<(), StorageError> {
        if !self.begin(partition) {
            return Err(StorageError::Moving);
        }
        let is_aside = self.set_aside(partition, at);
        self.end(partition);
        is_aside
    }

    fn set_aside(&self, partition: &TopicPartition, at: Option<usize>) -> Result<(), StorageError> {
        let placed_at = self.place_of(partition);
        let Some(at) = at.or(placed_at) else { return Ok(()) };
        let place = &self.places[at];
        let Some(dir) = place.online() else {
            return Err(StorageError::DirOffline { path: place.path.clone() });
        };
        dir.set_aside_stray(partition)?;
        if placed_at != Some(at) {
            return Ok(());
        }
        // Another topic of this name may have been found in another directory.
        let found =
            self.found.iter().filter(|(other, log)| *other != at && log.topic_partition == *partition);
        let holds = |at: &usize| self.places[*at].online().is_some_and(|dir| dir.holds(partition));
        let other = found.map(|(at, _)| *at).find(holds);
        let mut placed = self.placed.lock();
        match other {
            Some(other) => placed.insert(partition.clone(), other),
            None => placed.remove(partition),
        };
        Ok(())
    }

    /// Moves that the last process has begun and not finished, each with the directory that the partition was to go to.
    pub fn take_unfinished(&self) -> Vec<(TopicPartition, PathBuf)> {
        std::mem::take(&mut *self.unfinished.lock())
    }

    /// Begins to move a partition to another directory. `id` names the copy. `None` where the topic's name is too long.
    pub fn begin_move(
        &self,
        log: &Arc<Log>,
        to: usize,
        id: Uuid,
        now: Millis,
    ) -> Result<Option<Move>, StorageError> {
        let place = &self.places[to];
        let Some(dir) = place.online() else {
            return Err(StorageError::DirOffline { path: place.path.clone() });
        };
        let Some(copy) = dir.open_future(log, id, now)? else { return Ok(None) };
        log.begin_move();
        let (log, copy, dir) = (log.clone(), Arc::new(copy), dir.clone());
        Ok(Some(Move { log, copy, id, to, dir, is_taken_back: AtomicBool::new(false) }))
    }

    /// Has the copy take the log's place, if it has nearly caught up. `None` when it has not. `switched` is called when it has,
    /// before what is left to do where it was. Blocks, for as long as the disks of both directories want to; appends to the
    /// partition do not, but what was appended at the end of this is not acknowledged before, and wants a flush afterwards
    /// however it ends.
    pub fn finish_move(
        &self,
        moving: &Move,
        now: Millis,
        switched: impl FnOnce(),
    ) -> Result<Option<Superseded>, AppendError> {
        let partition = moving.log.topic_partition();
        if !moving.log.prepare(&moving.copy, now)? || !self.begin(partition) {
            return Ok(None);
        }
        let ended = self.end_move(moving, now, switched);
        self.end(partition);
        ended
    }

    /// The partition's files are this move's alone.
    fn end_move(
        &self,
        moving: &Move,
        now: Millis,
        switched: impl FnOnce(),
    ) -> Result<Option<Superseded>, AppendError> {
        let (partition, log) = (moving.log.topic_partition(), &moving.log);
        let from = self.place_of(partition).and_then(|at| self.places[at].online());
        let Some(from) = from.filter(|_| !self.is_offline(moving.to)).cloned() else {
            return Err(StorageError::Offline.into());
        };
        // It may have gone, and another one come by its name, before its files were this move's alone.
        if from.log(partition).is_none_or(|placed| !Arc::ptr_eq(&placed, log)) {
            return Err(StorageError::Closed.into());
        }
        let durable_end = moving.copy.flushed_end();
        moving.dir.make_room(partition, durable_end, log.log_start())?;
        let left = log.log_dir();
        let Some((held, log_end, log_start)) = log.hold(&moving.copy, now)? else { return Ok(None) };
        let copy = (&moving.copy, moving.id);
        let installed = moving.dir.install_future(copy, &from, (durable_end.min(log_end), log_start));
        let is_moved = installed.map_err(AppendError::from).and_then(|()| {
            // It may have been taken offline meanwhile, before the copy was there to go with it.
            let path = &self.places[moving.to].path;
            match self.is_offline(moving.to) {
                true => Err(StorageError::DirOffline { path: path.clone() }.into()),
                false => log.take_place(&moving.copy, now),
            }
        });
        if let Err(error) = is_moved {
            moving.is_taken_back.store(true, Ordering::Release);
            if !moving.dir.take_back(copy, &from) {
                log.fail_over(held);
            }
            return Err(error);
        }
        from.remove(log);
        moving.dir.put(log.clone());
        if self.is_offline(moving.to) {
            // Whoever took it offline may have found the copy there.
            log.take_offline();
        }
        self.placed.lock().insert(partition.clone(), moving.to);
        drop(held);
        switched();

        let superseded = from.set_aside_moved(log);
        if let Some(path) = &superseded {
            // For whoever still reads the files of before.
            left.renamed(path.clone());
        }
        if let Err(error) = moving.dir.take_over(partition, &from) {
            // What is missing is found again, by and by.
            tracing::warn!(%partition, %error, "checkpoints of a partition that has moved could not be written");
        }
        Ok(Some(Superseded { dir: from, path: superseded }))
    }
}

/// A partition whose files are about to go. It is not opened before they are gone.
#[derive(Debug)]
#[must_use]
pub struct Removal(TopicPartition);

/// A partition on its way to another directory.
#[derive(Debug)]
pub struct Move {
    log: Arc<Log>,
    copy: Arc<Log>,
    id: Uuid,
    to: usize,
    dir: Arc<DataDir>,
    /// Whether its end has failed, and everything is as it was before.
    is_taken_back: AtomicBool,
}

impl Move {
    /// The directory that it goes to.
    pub fn to(&self) -> usize {
        self.to
    }

    /// The log that moves.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// How many offsets the copy is behind.
    pub fn lag(&self) -> i64 {
        (self.log.log_end().0 - self.copy.log_end().0).max(0)
    }

    /// Bytes that the copy has.
    pub fn size_bytes(&self) -> u64 {
        self.copy.size_bytes()
    }

    /// Copies a piece. `None` when the copy was equal to the log for a moment, otherwise how many bytes. Blocks.
    pub fn copy_on(&self, now: Millis) -> Result<Option<u64>, AppendError> {
        match self.log.copy_to(&self.copy, now)? {
            Copied::All => Ok(None),
            Copied::Bytes(bytes) => Ok(Some(bytes)),
        }
    }

    /// Gives up: the copy goes, the log stays where it is.
    pub fn cancel(&self) {
        self.log.end_move();
        if self.is_taken_back.load(Ordering::Acquire) {
            return;
        }
        if let Err(error) = self.dir.discard_future(&self.copy) {
            tracing::warn!(path = %self.copy.path().display(), %error, "a copy that nobody needs could not be removed");
        }
    }
}

/// Files of a log that has moved, which may still be read.
#[derive(Debug)]
pub struct Superseded {
    dir: Arc<DataDir>,
    path: Option<PathBuf>,
}

impl Superseded {
    /// Removes them. Blocks.
    pub fn remove(&self) -> Result<(), StorageError> {
        self.path.as_deref().map_or(Ok(()), |path| self.dir.remove_superseded(path))
    }
}
