//! A broker's data directory: whose it is, which partitions it holds, and what of them is checkpointed. One
//! process has it at a time. The mark of a clean stop is removed, durably, before anything else is written,
//! so it never vouches for more than it should.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use wire::{BrokerId, Millis, Offset, Str, TopicPartition, Uuid};

use crate::{
    checkpoint::Checkpoints,
    config::LogConfig,
    disk::{Disk, DiskLock, read_small_if_exists, remove_if_exists, replace_file},
    error::{DataDirError, StorageError},
    layout,
    log::{self, Log, LogCheckpoint, Opening},
};

/// Directories of one partition that are set aside at a time.
const STRAYS_MAX: usize = 10;
const META_BYTES_MAX: u64 = 64 * 1024;
/// Threads that checkpoint and close logs. They wait for fsync, and ext4 commits for all who wait at once
/// (docs/decisions/003-flush-each-segment.md): the more wait, the fewer commits, each of which takes what the disk takes.
const SYNC_THREADS: usize = 128;

/// Who opens a data directory.
#[derive(Clone, Debug)]
pub struct DataDirOptions {
    /// `node.id`
    pub node_id: BrokerId,
    /// The cluster, when it is known; otherwise what the directory says, or `new_cluster_id`.
    pub cluster_id: Option<Str>,
    /// The cluster id of a directory that is made now.
    pub new_cluster_id: Str,
    /// The directory id of a directory that is made now.
    pub new_directory_id: Uuid,
}

/// A partition found in a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundLog {
    /// Topic and partition.
    pub topic_partition: TopicPartition,
    /// The topic's id, zero when the directory names none.
    pub topic_id: Uuid,
}

/// An open, locked data directory.
pub struct DataDir {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    meta: Meta,
    clean: bool,
    /// Whether it was made now.
    is_new: bool,
    /// The epoch of the broker that stopped in order, as its mark says; -1 where it says nothing.
    last_broker_epoch: i64,
    checkpoints: Arc<Checkpoints>,
    logs: Mutex<BTreeMap<TopicPartition, Arc<Log>>>,
    /// Partitions whose logs could not be opened. While there is one, no stop is clean: the mark would have the next
    /// start believe a log that nobody has checked.
    refused: Mutex<BTreeSet<TopicPartition>>,
    _lock: DiskLock,
}

impl fmt::Debug for DataDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataDir").field("path", &self.path).field("meta", &self.meta).finish_non_exhaustive()
    }
}

/// What `meta.properties` says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Meta {
    cluster_id: Str,
    node_id: BrokerId,
    directory_id: Uuid,
}

impl DataDir {
    /// Opens a data directory, making it when it is not there. Refuses one that another process has, or that
    /// belongs to another cluster or node.
    pub fn open(disk: Arc<dyn Disk>, path: &Path, options: DataDirOptions) -> Result<DataDir, DataDirError> {
        create_durably(&*disk, path).map_err(DataDirError::disk(path))?;
        let lock = match disk.lock(&path.join(layout::LOCK)) {
            Ok(lock) => lock,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                return Err(DataDirError::Locked { path: path.to_owned() });
            }
            Err(e) => return Err(DataDirError::disk(path.join(layout::LOCK))(e)),
        };
        let (meta, is_new) = settle_meta(&*disk, path, &options)?;
        let checkpoints =
            Checkpoints::load(disk.clone(), path.to_owned()).map_err(DataDirError::disk(path))?;
        let clean_path = path.join(layout::CLEAN_SHUTDOWN);
        let mark = read_small_if_exists(&*disk, &clean_path, META_BYTES_MAX)
            .map_err(DataDirError::disk(&clean_path))?;
        let last_broker_epoch = mark.as_deref().map_or(-1, broker_epoch_of);
        remove_if_exists(&*disk, &clean_path).map_err(DataDirError::disk(&clean_path))?;
        remove_deleted(&*disk, path).map_err(DataDirError::disk(path))?;
        disk.sync_dir(path).map_err(DataDirError::disk(path))?;
        let checkpoints = Arc::new(checkpoints);
        Ok(DataDir {
            disk,
            path: path.to_owned(),
            meta,
            clean: mark.is_some(),
            is_new,
            last_broker_epoch,
            checkpoints,
            logs: Mutex::new(BTreeMap::new()),
            refused: Mutex::new(BTreeSet::new()),
            _lock: lock,
        })
    }

    /// The cluster that the directory belongs to.
    pub fn cluster_id(&self) -> &Str {
        &self.meta.cluster_id
    }

    /// The directory's own id.
    pub fn directory_id(&self) -> Uuid {
        self.meta.directory_id
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the last process that had it stopped in order.
    pub fn was_clean(&self) -> bool {
        self.clean
    }

    /// Whether it was made when it was opened.
    pub(crate) fn is_new(&self) -> bool {
        self.is_new
    }

    /// The epoch of the broker that had it last, if that stopped in order and said so, else -1.
    pub fn last_broker_epoch(&self) -> i64 {
        self.last_broker_epoch
    }

    /// The partitions on disk, opened or not.
    pub fn partitions(&self) -> Result<Vec<FoundLog>, DataDirError> {
        let entries = self.disk.list(&self.path).map_err(DataDirError::disk(&self.path))?;
        let mut found = Vec::new();
        for entry in entries.into_iter().filter(|entry| entry.is_dir) {
            let Some(topic_partition) = layout::parse_partition_dir(&entry.name) else { continue };
            let dir = self.path.join(&entry.name);
            let topic_id = log::read_topic_id(&*self.disk, &dir).map_err(DataDirError::disk(dir))?;
            found.push(FoundLog { topic_partition, topic_id });
        }
        found.sort_unstable_by(|a, b| a.topic_partition.cmp(&b.topic_partition));
        Ok(found)
    }

    /// Opens, recovers or creates a partition's log; the one that is open already, if it is. Callers may open
    /// different partitions from many threads at once. A zero `topic_id` takes what the directory says; another one
    /// than that of the log which is there is refused.
    pub fn open_log(
        &self,
        partition: &TopicPartition,
        topic_id: Uuid,
        config: LogConfig,
        now: Millis,
    ) -> Result<Arc<Log>, StorageError> {
        if let Some(log) = self.log(partition) {
            if !topic_id.is_zero() && log.topic_id() != topic_id {
                let (path, found) = (log.path().to_owned(), log.topic_id());
                return Err(StorageError::ForeignTopic { path, found, expected: topic_id });
            }
            return Ok(log);
        }
        let opened = Log::open(Opening {
            disk: self.disk.clone(),
            root: self.path.clone(),
            partition,
            topic_id,
            config,
            checkpoints: self.checkpoints.clone(),
            clean: self.clean,
            now,
        });
        match opened {
            Ok(log) => {
                self.refused.lock().remove(partition);
                Ok(self.logs.lock().entry(partition.clone()).or_insert(Arc::new(log)).clone())
            }
            Err(error) => {
                if matches!(error, StorageError::Disk { .. } | StorageError::HalfMade(_)) {
                    self.checkpoints.suspect();
                }
                self.refused.lock().insert(partition.clone());
                Err(error)
            }
        }
    }

    /// The open log of a partition.
    pub fn log(&self, partition: &TopicPartition) -> Option<Arc<Log>> {
        self.logs.lock().get(partition).cloned()
    }

    /// Takes a partition out of service and removes it. Slices that are being read stay readable.
    pub fn delete_log(&self, partition: &TopicPartition) -> Result<(), StorageError> {
        if let Some(aside) = self.set_aside_deleted(partition)? {
            self.disk.remove(&aside).map_err(StorageError::disk(aside))?;
        }
        Ok(())
    }

    /// The first half of [`DataDir::delete_log`]: says what is to be removed.
    pub(crate) fn set_aside_deleted(
        &self,
        partition: &TopicPartition,
    ) -> Result<Option<PathBuf>, StorageError> {
        self.move_aside(partition, layout::deleted_dir)
    }

    /// Takes a partition out of service that the metadata does not know, and keeps its files under a name
    /// that ends in `-stray`.
    pub fn set_aside_stray(&self, partition: &TopicPartition) -> Result<(), StorageError> {
        let aside = self.move_aside(partition, layout::stray_dir);
        aside.inspect_err(|_| self.checkpoints.suspect()).map(|_| ())
    }

    fn move_aside(
        &self,
        partition: &TopicPartition,
        name: fn(&Path, &TopicPartition, Uuid) -> PathBuf,
    ) -> Result<Option<PathBuf>, StorageError> {
        let log = self.logs.lock().remove(partition);
        self.refused.lock().remove(partition);
        if let Some(log) = &log {
            log.abandon();
        }
        let topic_id = log.map(|log| log.topic_id());
        self.rename_aside(partition, topic_id, name)
    }

    fn rename_aside(
        &self,
        partition: &TopicPartition,
        topic_id: Option<Uuid>,
        name: fn(&Path, &TopicPartition, Uuid) -> PathBuf,
    ) -> Result<Option<PathBuf>, StorageError> {
        let dir = layout::partition_dir(&self.path, partition);
        let topic_id = match topic_id {
            Some(topic_id) => topic_id,
            None => log::read_topic_id(&*self.disk, &dir).map_err(StorageError::disk(&dir))?,
        };
        let aside =
            self.free_aside(name(&self.path, partition, topic_id)).map_err(StorageError::disk(&dir))?;
        match self.disk.rename(&dir, &aside) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StorageError::disk(dir)(e)),
        }
        self.disk.sync_dir(&self.path).map_err(StorageError::disk(&self.path))?;
        Ok(Some(aside))
    }

    /// A name that is free: what was to be removed under it is, what is kept under it stays.
    fn free_aside(&self, aside: PathBuf) -> io::Result<PathBuf> {
        let name = aside.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(kept) = name.strip_suffix(layout::STRAY_DIR_SUFFIX) else {
            return remove_if_exists(&*self.disk, &aside).map(|()| aside);
        };
        let numbered = |at| aside.with_file_name(format!("{kept}.{at}{}", layout::STRAY_DIR_SUFFIX));
        let others = (1..STRAYS_MAX).map(numbered);
        for path in std::iter::once(aside.clone()).chain(others) {
            match self.disk.list(&path) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path),
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(io::ErrorKind::AlreadyExists, "too many directories are set aside, remove some"))
    }

    /// Flushes every log that changed and notes where each restart may begin. A log that is offline keeps
    /// what was noted before.
    pub fn checkpoint(&self, now: Millis) -> Result<(), StorageError> {
        let mut noted = Vec::new();
        for (log, result) in self.for_each_log(&|log| log.checkpoint(now)) {
            match result {
                Ok(checkpoint) => noted.push((log, checkpoint)),
                // Each log has said why; the others are noted all the same.
                Err(
                    StorageError::Offline
                    | StorageError::Closed
                    | StorageError::Moving
                    | StorageError::Disk { .. },
                ) => {}
                Err(e) => return Err(e),
            }
        }
        self.note(noted)
    }

    /// Writes down what checkpoints said, as far as it still holds: since then a log may have been deleted, made
    /// again under its name, or truncated.
    fn note(&self, noted: Vec<(Arc<Log>, LogCheckpoint)>) -> Result<(), StorageError> {
        // Looked up while the file is locked: whoever deletes a log and makes another one forgets afterwards what is written
        // here. Not held while it is written, as the disk may take its time.
        let still_true = |value: fn(&LogCheckpoint) -> Offset| {
            let logs = self.logs.lock();
            let holds = |(log, noted): &&(Arc<Log>, LogCheckpoint)| {
                let is_here =
                    logs.get(log.topic_partition()).is_some_and(|current| Arc::ptr_eq(current, log));
                is_here && log.generation() == noted.generation
            };
            let values = noted.iter().filter(holds);
            values.map(|(log, noted)| (log.topic_partition().clone(), value(noted))).collect()
        };
        self.checkpoints.raise_recovery_points(|| still_true(|noted| noted.recovery_point))?;
        self.checkpoints.raise_log_starts(|| still_true(|noted| noted.log_start))?;
        self.checkpoints
            .forget_dead(&|partition| self.logs.lock().contains_key(partition) || self.holds(partition))
    }

    /// Asks every cleaning that runs to give way soon, for a broker that is about to stop.
    pub fn stop_cleaning(&self) {
        self.logs.lock().values().for_each(|log| log.stop_cleaning());
    }

    /// Notes high watermarks in Kafka's `replication-offset-checkpoint`, all of them.
    pub fn checkpoint_high_watermarks(
        &self,
        marks: Vec<(TopicPartition, Offset)>,
    ) -> Result<(), StorageError> {
        self.checkpoints.set_high_watermarks(marks)
    }

    /// The high watermark noted last.
    pub fn high_watermark(&self, partition: &TopicPartition) -> Option<Offset> {
        self.checkpoints.high_watermark(partition)
    }

    /// Does the same with every log, many at a time.
    fn for_each_log(
        &self,
        act: &(dyn Fn(&Log) -> Result<LogCheckpoint, StorageError> + Sync),
    ) -> Vec<(Arc<Log>, Result<LogCheckpoint, StorageError>)> {
        let logs: Vec<Arc<Log>> = self.logs.lock().values().cloned().collect();
        let next = AtomicUsize::new(0);
        let done = Mutex::new(Vec::with_capacity(logs.len()));
        std::thread::scope(|scope| {
            for _ in 0..SYNC_THREADS.min(logs.len()) {
                scope.spawn(|| {
                    while let Some(log) = logs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let result = act(log);
                        done.lock().push((Arc::clone(log), result));
                    }
                });
            }
        });
        done.into_inner()
    }

    /// Closes every log and leaves the mark of a clean stop, unless one could not be closed, or opened before. The
    /// directory takes no more; the lock goes with the value. `broker_epoch` is what the broker was registered with, or -1.
    pub fn close(&self, now: Millis, broker_epoch: i64) -> Result<(), StorageError> {
        let mut noted = Vec::new();
        let mut failed = None;
        for (log, result) in self.for_each_log(&|log| log.finish(now)) {
            match result {
                Ok(checkpoint) => noted.push((log, checkpoint)),
                Err(e) => failed = Some(e),
            }
        }
        self.note(noted)?;
        if let Some(e) = failed {
            return Err(e);
        }
        if !self.refused.lock().is_empty() {
            return Ok(());
        }
        let path = self.path.join(layout::CLEAN_SHUTDOWN);
        let mark = format!("{{\"version\":0,{BROKER_EPOCH}{broker_epoch}}}");
        replace_file(&*self.disk, &path, mark.as_bytes())
            .and_then(|()| self.disk.sync_dir(&self.path))
            .map_err(StorageError::disk(path))
    }
}

/// What a partition's directory says of moves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MovesOf {
    /// Which copy it is, where a move has made it.
    pub(crate) copy_id: Option<Uuid>,
    /// The last move from there to another data directory that came to its end.
    pub(crate) moved: Option<Moved>,
}

/// How a move came to its end, as the directory says that the partition was to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    /// Where the copy went.
    pub(crate) directory: Uuid,
    /// Which it is.
    pub(crate) copy: Uuid,
    /// Whether the move failed: the copy is wrong, if there is one. Otherwise it is right, if there is one.
    pub(crate) stays: bool,
}

impl Moved {
    /// A mark that cannot be read.
    const UNKNOWN: Moved = Moved { directory: Uuid::ZERO, copy: Uuid::ZERO, stays: false };

    fn parse(text: &str) -> Option<Moved> {
        let mut words = text.split_whitespace();
        let stays = match words.next()? {
            "moved" => false,
            "stays" => true,
            _ => return None,
        };
        Some(Moved { stays, directory: words.next()?.parse().ok()?, copy: words.next()?.parse().ok()? })
    }
}

impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.stays { "stays" } else { "moved" };
        write!(f, "{word} {} {}", self.directory, self.copy)
    }
}

impl MovesOf {
    /// Whether a directory is known to be right where another one holds the partition too.
    pub(crate) fn beats(&self, other: &MovesOf) -> bool {
        let says = |this: &MovesOf, that: &MovesOf, stays: bool| {
            this.moved.is_some_and(|moved| moved.stays == stays && Some(moved.copy) == that.copy_id)
        };
        says(other, self, false) || says(self, other, true)
    }
}

/// What a set of directories does with each of them (see `data_dirs.rs`).
impl DataDir {
    /// The cluster that a directory belongs to, if it says so. Nothing is locked or changed.
    pub(crate) fn peek_cluster_id(disk: &dyn Disk, path: &Path) -> Option<Str> {
        let content = read_small_if_exists(disk, &path.join(layout::META_PROPERTIES), META_BYTES_MAX);
        content.ok().flatten().and_then(|content| parse_meta(&content).ok()).map(|meta| meta.cluster_id)
    }

    /// Whether the disk has failed in it since the last time.
    pub(crate) fn take_suspect(&self) -> bool {
        self.checkpoints.take_suspect()
    }

    /// Finds out whether the directory can still be written to and read. A disk that is full can.
    pub(crate) fn probe(&self) -> io::Result<()> {
        let path = self.path.join(layout::PROBE);
        let written = replace_file(&*self.disk, &path, b"ok\n")
            .and_then(|()| self.disk.sync_dir(&self.path))
            .and_then(|()| read_small_if_exists(&*self.disk, &path, META_BYTES_MAX).map(|_| ()))
            .and_then(|()| self.disk.list(&self.path).map(|_| ()))
            .and_then(|()| remove_if_exists(&*self.disk, &path));
        match written {
            Err(error) if is_of_the_disk(&error) => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Takes every log out of service.
    pub(crate) fn take_offline(&self) {
        self.logs.lock().values().for_each(|log| log.take_offline());
    }

    /// Forgets a partition whose files can no longer be reached.
    pub(crate) fn forget(&self, partition: &TopicPartition) {
        let log = self.logs.lock().remove(partition);
        if let Some(log) = log {
            log.leave();
        }
        self.refused.lock().remove(partition);
    }

    /// What a partition's directory says of moves.
    pub(crate) fn moves_of(&self, partition: &TopicPartition) -> io::Result<MovesOf> {
        let dir = layout::partition_dir(&self.path, partition);
        let read = |name: &str| {
            let content = read_small_if_exists(&*self.disk, &dir.join(name), META_BYTES_MAX)?;
            Ok::<_, io::Error>(content.map(|content| String::from_utf8_lossy(&content).into_owned()))
        };
        let copy_id = read(layout::COPY_ID)?.and_then(|text| text.trim().parse().ok());
        let moved = read(layout::MOVED)?.map(|text| Moved::parse(&text).unwrap_or(Moved::UNKNOWN));
        Ok(MovesOf { copy_id: copy_id.filter(|id: &Uuid| !id.is_zero()), moved })
    }

    /// Says in a partition's directory what becomes of it, durably.
    pub(crate) fn mark_moved(&self, partition: &TopicPartition, moved: Moved) -> Result<(), StorageError> {
        self.write_mark(&layout::partition_dir(&self.path, partition), layout::MOVED, &moved.to_string())
    }

    fn write_mark(&self, dir: &Path, name: &str, text: &str) -> Result<(), StorageError> {
        replace_file(&*self.disk, &dir.join(name), format!("{text}\n").as_bytes())
            .and_then(|()| self.disk.sync_dir(dir))
            .inspect_err(|_| self.checkpoints.suspect())
            .map_err(StorageError::disk(dir))
    }

    /// Whether a partition's directory is there.
    pub(crate) fn holds(&self, partition: &TopicPartition) -> bool {
        self.disk.list(&layout::partition_dir(&self.path, partition)).is_ok()
    }

    /// Copies of partitions that a move did not finish. They are removed; what they were made for is told.
    pub(crate) fn remove_futures(&self) -> io::Result<Vec<TopicPartition>> {
        let mut found = Vec::new();
        for entry in self.disk.list(&self.path)?.into_iter().filter(|entry| entry.is_dir) {
            if entry.name.ends_with(layout::FUTURE_DIR_SUFFIX) {
                self.disk.remove(&self.path.join(&entry.name))?;
                found.extend(layout::parse_future_dir(&entry.name));
            }
        }
        Ok(found)
    }

    /// Begins a copy of a partition that is in another directory. `id` is only this copy's.
    pub(crate) fn open_future(&self, log: &Log, id: Uuid, now: Millis) -> Result<Option<Log>, StorageError> {
        let partition = log.topic_partition();
        let Some(path) = layout::future_dir(&self.path, partition, id) else { return Ok(None) };
        let opening = Opening {
            disk: self.disk.clone(),
            root: self.path.clone(),
            partition,
            topic_id: log.topic_id(),
            config: LogConfig::clone(&log.config()),
            checkpoints: self.checkpoints.clone(),
            clean: true,
            now,
        };
        let copy = Log::open_at(opening, path.clone()).inspect_err(|_| self.checkpoints.suspect())?;
        self.write_mark(&path, layout::COPY_ID, &id.to_string())?;
        Ok(Some(copy))
    }

    /// Gives up a copy that has not got the partition's name.
    pub(crate) fn discard_future(&self, copy: &Log) -> io::Result<()> {
        copy.abandon();
        remove_if_exists(&*self.disk, &copy.path())
    }

    /// Makes room for a copy that is durable to `log_end`.
    pub(crate) fn make_room(
        &self,
        partition: &TopicPartition,
        log_end: Offset,
        log_start: Offset,
    ) -> Result<(), StorageError> {
        // What a move has left here that failed. Nobody uses it: the partition is in another directory.
        self.rename_aside(partition, None, layout::stray_dir).inspect_err(|_| self.checkpoints.suspect())?;
        self.checkpoints.adopt(partition, log_end, log_start)
    }

    /// Gives a copy that is durable to `log_end` the partition's own name. `from` says before that it is right, and where this
    /// fails it may say so still: see [`DataDir::take_back`].
    pub(crate) fn install_future(
        &self,
        (copy, id): (&Arc<Log>, Uuid),
        from: &DataDir,
        (log_end, log_start): (Offset, Offset),
    ) -> Result<(), StorageError> {
        let partition = copy.topic_partition();
        // The old one says which copy is right before there is that copy.
        from.mark_moved(partition, Moved { directory: self.meta.directory_id, copy: id, stays: false })?;
        let (future, path) = (copy.path(), layout::partition_dir(&self.path, partition));
        let renamed = self.disk.rename(&future, &path).and_then(|()| {
            copy.log_dir().renamed(path);
            self.disk.sync_dir(&self.path)
        });
        renamed.inspect_err(|_| self.checkpoints.suspect()).map_err(StorageError::disk(future))?;
        // From here on nobody takes the lines of its checkpoints for a partition's that is no more, as somebody may have before.
        self.put(copy.clone());
        self.checkpoints.adopt(partition, log_end, log_start)
    }

    /// Has `from` say that a copy here is not the right one after all, before the log there goes on, and removes it. False when
    /// `from` could not: the copy stays then, as nobody knows which one is right.
    pub(crate) fn take_back(&self, (copy, id): (&Arc<Log>, Uuid), from: &DataDir) -> bool {
        self.remove(copy);
        let stays = Moved { directory: self.meta.directory_id, copy: id, stays: true };
        if from.mark_moved(copy.topic_partition(), stays).is_err() {
            copy.leave();
            return false;
        }
        if let Err(error) = self.discard_future(copy) {
            tracing::warn!(path = %copy.path().display(), %error, "a copy that nobody needs could not be removed");
        }
        true
    }

    /// A log lies here from now on, instead of another one of its partition.
    pub(crate) fn put(&self, log: Arc<Log>) {
        self.logs.lock().insert(log.topic_partition().clone(), log);
    }

    /// A log lies here no more.
    pub(crate) fn remove(&self, log: &Arc<Log>) {
        let mut logs = self.logs.lock();
        if logs.get(log.topic_partition()).is_some_and(|known| Arc::ptr_eq(known, log)) {
            logs.remove(log.topic_partition());
        }
    }

    /// Sets the files aside that a log had here before it moved. Where this fails their mark tells that they are stale.
    pub(crate) fn set_aside_moved(&self, log: &Log) -> Option<PathBuf> {
        let aside = self.rename_aside(log.topic_partition(), Some(log.topic_id()), layout::deleted_dir);
        aside.inspect_err(|_| self.checkpoints.suspect()).ok().flatten()
    }

    /// Takes over what else `from` knew of a partition that has moved here.
    pub(crate) fn take_over(&self, partition: &TopicPartition, from: &DataDir) -> Result<(), StorageError> {
        self.checkpoints.take_over(partition, &from.checkpoints)?;
        // A later partition of this name has its own.
        from.checkpoints.forget_before_create(partition)
    }

    /// Removes files that a move has left behind.
    pub(crate) fn remove_superseded(&self, path: &Path) -> Result<(), StorageError> {
        remove_if_exists(&*self.disk, path).map_err(StorageError::disk(path))
    }
}

/// Whether an error says that the disk has failed, and not that there was no room, or that the process has too much open.
fn is_of_the_disk(error: &io::Error) -> bool {
    use io::ErrorKind::{OutOfMemory, QuotaExceeded, StorageFull};
    let too_many_open = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE].map(|no| no.raw_os_error());
    let is_elsewhere = error.raw_os_error().is_some_and(|no| too_many_open.contains(&no));
    !is_elsewhere && !matches!(error.kind(), OutOfMemory | QuotaExceeded | StorageFull)
}

/// How the mark of a clean stop names the epoch, as Kafka's does.
const BROKER_EPOCH: &str = "\"brokerEpoch\":";

/// The epoch in a mark of a clean stop; -1 where there is none.
fn broker_epoch_of(mark: &[u8]) -> i64 {
    let text = String::from_utf8_lossy(mark);
    let rest = text.split_once(BROKER_EPOCH).map(|(_, rest)| rest.trim_start());
    let digits = rest.and_then(|rest| rest.split([',', '}']).next());
    digits.and_then(|digits| digits.trim().parse().ok()).unwrap_or(-1)
}

/// Makes the directory and those above it, and their names durable: without them nothing in it would be.
fn create_durably(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|dir| !dir.as_os_str().is_empty())
        .take_while(|dir| disk.list(dir).is_err_and(|e| e.kind() == io::ErrorKind::NotFound))
        .collect();
    disk.create_dir(path)?;
    for dir in missing {
        match dir.parent() {
            Some(parent) if parent.as_os_str().is_empty() => disk.sync_dir(Path::new("."))?,
            Some(parent) => disk.sync_dir(parent)?,
            None => {}
        }
    }
    Ok(())
}

/// Removes what deletions left that a crash interrupted.
fn remove_deleted(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    for entry in disk.list(path)? {
        if entry.is_dir && entry.name.ends_with(layout::DELETE_DIR_SUFFIX) {
            disk.remove(&path.join(entry.name))?;
        }
    }
    Ok(())
}

fn settle_meta(disk: &dyn Disk, dir: &Path, options: &DataDirOptions) -> Result<(Meta, bool), DataDirError> {
    let path = dir.join(layout::META_PROPERTIES);
    let content = read_small_if_exists(disk, &path, META_BYTES_MAX).map_err(DataDirError::disk(&path))?;
    let Some(content) = content else {
        let meta = Meta {
            cluster_id: options.cluster_id.clone().unwrap_or_else(|| options.new_cluster_id.clone()),
            node_id: options.node_id,
            directory_id: options.new_directory_id,
        };
        let text = format!(
            "version=1\ncluster.id={}\nnode.id={}\ndirectory.id={}\n",
            meta.cluster_id, meta.node_id, meta.directory_id
        );
        replace_file(disk, &path, text.as_bytes())
            .and_then(|()| disk.sync_dir(dir))
            .map_err(DataDirError::disk(&path))?;
        return Ok((meta, true));
    };
    let meta = parse_meta(&content).map_err(|reason| DataDirError::Malformed { path, reason })?;
    let foreign = |key, found: String, expected: String| DataDirError::Foreign {
        path: dir.to_owned(),
        key,
        found,
        expected,
    };
    if let Some(expected) = options.cluster_id.as_ref().filter(|expected| **expected != meta.cluster_id) {
        return Err(foreign("cluster.id", meta.cluster_id.to_string(), expected.to_string()));
    }
    if meta.node_id != options.node_id {
        return Err(foreign("node.id", meta.node_id.to_string(), options.node_id.to_string()));
    }
    Ok((meta, false))
}

fn parse_meta(content: &[u8]) -> Result<Meta, String> {
    let text = std::str::from_utf8(content).map_err(|e| e.to_string())?;
    let mut values = BTreeMap::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (key, value) = line.split_once('=').ok_or_else(|| format!("no value in {line:?}"))?;
        values.insert(key.trim(), value.trim());
    }
    let get = |key: &str| values.get(key).copied().ok_or_else(|| format!("{key} is missing"));
    if get("version")? != "1" {
        return Err(format!("version {} is not known", get("version")?));
    }
    Ok(Meta {
        cluster_id: Str::copy_from(get("cluster.id")?),
        node_id: BrokerId(get("node.id")?.parse().map_err(|_| "node.id is not a number".to_owned())?),
        directory_id: match values.get("directory.id") {
            Some(id) => id.parse().map_err(|_| "directory.id is not an id".to_owned())?,
            None => Uuid::ZERO,
        },
    })
}
