//! All data directories of a broker (`log.dirs`), as one: which partition is where, where a new one goes, which directories
//! have failed, and moves between them (KIP-112, KIP-113).
//!
//! Invariant: a partition is in one directory, and stays there until a copy in another one is its equal. Where a crash leaves
//! it in two, the one that was to move names the copy which takes its place, or that which did not; without such a mark
//! neither is served. Nothing is removed that is not known to be the older one, and that is set aside. A partition that may be
//! in a directory which cannot be read is not made anew in another one.

mod leaving;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use wire::{BrokerId, Millis, Offset, Str, TopicPartition, Uuid};

pub use leaving::{Move, Removal, Superseded};

use crate::{
    config::LogConfig,
    data_dir::{DataDir, DataDirOptions, FoundLog, Moved, MovesOf},
    disk::Disk,
    error::{DataDirError, StorageError},
    log::Log,
};

/// Who opens the data directories, and where they are.
#[derive(Clone, Debug)]
pub struct DataDirsOptions {
    /// `node.id`
    pub node_id: BrokerId,
    /// The cluster, when it is known; otherwise what a directory says, or `new_cluster_id`.
    pub cluster_id: Option<Str>,
    /// The cluster id where none of the directories says one.
    pub new_cluster_id: Str,
    /// `log.dirs`, each with the id that it gets if it is made now.
    pub dirs: Vec<(PathBuf, Uuid)>,
    /// `metadata.log.dir`: one of them, or one that holds nothing else.
    pub metadata_dir: (PathBuf, Uuid),
}

/// When a partition comes to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The broker has just started: the partition may be in a directory that it cannot read.
    AtStart,
    /// The broker runs: the partition is new here, unless it was found.
    Later,
}

/// The state of one directory.
#[derive(Clone, Debug)]
pub struct DirState {
    /// Where it is.
    pub path: PathBuf,
    /// Whether it has failed.
    pub is_offline: bool,
}

/// Where a partition was found.
enum Decided {
    /// In no directory that can be read.
    Nowhere,
    /// In this one.
    Right(usize),
    /// There, but perhaps newer somewhere else, for this reason.
    Not(PathBuf, String),
}

struct Place {
    path: PathBuf,
    /// Nothing where it could not be opened.
    dir: Option<Arc<DataDir>>,
    is_offline: AtomicBool,
    /// Whether the disk does not answer. It may yet.
    is_silent: AtomicBool,
    /// False for a directory of the metadata's own.
    takes_partitions: bool,
}

impl Place {
    fn online(&self) -> Option<&Arc<DataDir>> {
        self.dir.as_ref().filter(|_| !self.is_offline())
    }

    fn is_offline(&self) -> bool {
        self.is_offline.load(Ordering::Acquire)
    }

    fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::Acquire)
    }
}

/// Open, locked data directories.
pub struct DataDirs {
    /// In the order of `log.dirs`.
    places: Vec<Place>,
    metadata_at: usize,
    /// Where each partition is. Never held while a disk has something to do.
    placed: Mutex<BTreeMap<TopicPartition, usize>>,
    /// Those that are just changing their directory or going, each with whether it is to go after that. Nobody else looks
    /// after their files meanwhile. Likewise.
    busy: Mutex<BTreeMap<TopicPartition, bool>>,
    /// Where partitions are to be made that are not there yet.
    preferred: Mutex<BTreeMap<TopicPartition, usize>>,
    /// What was found at the start.
    found: Vec<(usize, FoundLog)>,
    /// Those of them of which nobody knows where the newest records are, each with a directory that has it and the reason.
    undecided: BTreeMap<(TopicPartition, Uuid), (PathBuf, String)>,
    /// Moves that the last process did not finish.
    unfinished: Mutex<Vec<(TopicPartition, PathBuf)>>,
}

/// Preferences that are kept for partitions that never come.
const PREFERRED_MAX: usize = 100_000;

impl DataDirs {
    /// Opens all of them. One that the disk does not let open starts offline, with the error logged, unless it is the
    /// metadata's or nothing else is left; one that is somebody else's is refused.
    pub fn open(disk: &Arc<dyn Disk>, options: DataDirsOptions) -> Result<DataDirs, DataDirError> {
        let mut dirs: Vec<(PathBuf, Uuid, bool)> =
            options.dirs.into_iter().map(|(path, id)| (path, id, true)).collect();
        let metadata_at = dirs.iter().position(|(path, ..)| *path == options.metadata_dir.0);
        let metadata_at = metadata_at.unwrap_or_else(|| {
            dirs.push((options.metadata_dir.0, options.metadata_dir.1, false));
            dirs.len() - 1
        });
        let known = options.cluster_id;
        let known =
            known.or_else(|| dirs.iter().find_map(|(path, ..)| DataDir::peek_cluster_id(&**disk, path)));
        let cluster_id = known.unwrap_or(options.new_cluster_id);
        let mut places: Vec<Place> = Vec::with_capacity(dirs.len());
        let mut last_error = None;
        for (at, (path, new_directory_id, takes_partitions)) in dirs.into_iter().enumerate() {
            let dir_options = DataDirOptions {
                node_id: options.node_id,
                cluster_id: Some(cluster_id.clone()),
                new_cluster_id: cluster_id.clone(),
                new_directory_id,
            };
            let dir = match DataDir::open(disk.clone(), &path, dir_options) {
                Ok(dir) => Some(Arc::new(dir)),
                Err(error @ DataDirError::Disk { .. }) if at != metadata_at => {
                    tell_offline(&path, &error.to_string());
                    last_error = Some(error);
                    None
                }
                Err(error) => return Err(error),
            };
            if let Some(dir) = &dir {
                let same = |place: &&Place| {
                    place.dir.as_ref().is_some_and(|known| {
                        known.directory_id() == dir.directory_id() && !dir.directory_id().is_zero()
                    })
                };
                if let Some(other) = places.iter().find(same) {
                    let (other, id) = (other.path.clone(), dir.directory_id());
                    return Err(DataDirError::SameDirectory { path, other, id });
                }
            }
            let is_offline = AtomicBool::new(dir.is_none());
            let is_silent = AtomicBool::new(false);
            places.push(Place { path, dir, is_offline, is_silent, takes_partitions });
        }
        let mut this = DataDirs {
            places,
            metadata_at,
            placed: Mutex::default(),
            busy: Mutex::default(),
            preferred: Mutex::default(),
            found: Vec::new(),
            undecided: BTreeMap::new(),
            unfinished: Mutex::default(),
        };
        this.find(&mut last_error)?;
        match last_error {
            Some(error) if this.is_of_no_use() => Err(DataDirError::NoneUsable(Box::new(error))),
            Some(_) | None => Ok(this),
        }
    }

    /// Finds what is where. A directory that cannot be read is offline.
    fn find(&mut self, last_error: &mut Option<DataDirError>) -> Result<(), DataDirError> {
        let mut found: BTreeMap<(TopicPartition, Uuid), Vec<usize>> = BTreeMap::new();
        for at in 0..self.places.len() {
            let Place { dir: Some(dir), path, .. } = &self.places[at] else { continue };
            let read = dir.remove_futures().map_err(DataDirError::disk(path));
            let (futures, partitions) = match read.and_then(|futures| Ok((futures, dir.partitions()?))) {
                Ok(read) => read,
                Err(error) => {
                    self.give_up(at, error, last_error)?;
                    continue;
                }
            };
            let path = path.clone();
            self.unfinished.get_mut().extend(futures.into_iter().map(|partition| (partition, path.clone())));
            for FoundLog { topic_partition, topic_id } in partitions {
                found.entry((topic_partition, topic_id)).or_default().push(at);
            }
        }
        for (key, mut all) in found {
            let decided = loop {
                all.retain(|at| self.places[*at].dir.is_some());
                match self.right_one(&key.0, &all) {
                    Ok(decided) => break decided,
                    Err((at, error)) => {
                        self.give_up(at, DataDirError::disk(&self.places[at].path)(error), last_error)?
                    }
                }
            };
            let (topic_partition, topic_id) = key.clone();
            match decided {
                Decided::Nowhere => continue,
                Decided::Right(at) => {
                    // Of two topics of one name the one goes that the metadata does not know.
                    self.placed.get_mut().entry(topic_partition.clone()).or_insert(at);
                    all = vec![at];
                }
                Decided::Not(path, reason) => {
                    tracing::error!(partition = %key.0, path = %path.display(), %reason, "the partition is not served here");
                    self.undecided.insert(key, (path, reason));
                }
            }
            let log = FoundLog { topic_partition, topic_id };
            self.found.extend(all.into_iter().map(|at| (at, log.clone())));
        }
        // What a directory has that failed after it was looked into cannot be reached.
        let places = &self.places;
        self.found.retain(|(at, _)| places[*at].dir.is_some());
        self.placed.get_mut().retain(|_, at| places[*at].dir.is_some());
        Ok(())
    }

    /// Starts without a directory that cannot be read, if that is possible.
    fn give_up(
        &mut self,
        at: usize,
        error: DataDirError,
        last_error: &mut Option<DataDirError>,
    ) -> Result<(), DataDirError> {
        if at == self.metadata_at || !matches!(error, DataDirError::Disk { .. }) {
            return Err(error);
        }
        let place = &mut self.places[at];
        tell_offline(&place.path, &error.to_string());
        place.dir = None;
        place.is_offline.store(true, Ordering::Release);
        *last_error = Some(error);
        Ok(())
    }

    /// Which of the directories that hold a partition is the right one. What the others have is set aside. An error is
    /// that of the directory which is named with it.
    fn right_one(
        &self,
        partition: &TopicPartition,
        all: &[usize],
    ) -> Result<Decided, (usize, std::io::Error)> {
        let path_in = |at: usize| crate::layout::partition_dir(&self.places[at].path, partition);
        let mut known: Vec<(usize, &Arc<DataDir>, MovesOf)> = Vec::with_capacity(all.len());
        for at in all {
            let Some(dir) = &self.places[*at].dir else { continue };
            known.push((*at, dir, dir.moves_of(partition).map_err(|error| (*at, error))?));
        }
        let is_right = |(at, _, moves): &&(usize, &Arc<DataDir>, MovesOf)| {
            known.iter().all(|(other, _, others)| other == at || moves.beats(others))
        };
        let Some((right, dir, moves)) = known.iter().find(is_right) else {
            let [(first, ..), (second, ..), ..] = known.as_slice() else { return Ok(Decided::Nowhere) };
            let reason = format!(
                "{partition} is in {} as well, and neither directory says which one has the newest records: set the stale one \
                 aside, such as that in a directory which was away for a while, and start the broker again",
                path_in(*second).display()
            );
            return Ok(Decided::Not(path_in(*first), reason));
        };
        for (stale, dir, _) in known.iter().filter(|(at, ..)| at != right) {
            tracing::warn!(
                %partition, right = %path_in(*right).display(), stale = %path_in(*stale).display(),
                "a partition is in two data directories after a move: the stale one is set aside"
            );
            dir.set_aside_stray(partition).map_err(|error| (*stale, std::io::Error::other(error)))?;
        }
        // A move that was about to end: the copy may be in a directory that is not here, and may have gone on since.
        let Some(moved) = moves.moved.filter(|moved| !moved.stays) else { return Ok(Decided::Right(*right)) };
        let is_read = |place: &Place| {
            place.dir.as_ref().is_some_and(|dir| dir.directory_id() == moved.directory)
                && !moved.directory.is_zero()
        };
        if !self.places.iter().any(is_read) {
            let reason = format!(
                "{partition} has moved to the data directory with the id {}, which cannot be read: bring that one back, or, if it \
                 is gone for good, remove the file {} here, and start the broker again",
                moved.directory,
                crate::layout::MOVED
            );
            return Ok(Decided::Not(path_in(*right), reason));
        }
        let stays = dir.mark_moved(partition, Moved { stays: true, ..moved });
        stays.map_err(|error| (*right, std::io::Error::other(error)))?;
        Ok(Decided::Right(*right))
    }

    /// The cluster that the directories belong to.
    pub fn cluster_id(&self) -> &Str {
        self.metadata_dir().cluster_id()
    }

    /// The directory of the metadata log.
    pub fn metadata_dir(&self) -> &Arc<DataDir> {
        self.places[self.metadata_at].dir.as_ref().expect("without it the directories are not opened")
    }

    /// Ids of the directories for partitions that were not offline at the start.
    pub fn directory_ids(&self) -> Vec<Uuid> {
        let dirs =
            self.places.iter().filter(|place| place.takes_partitions).filter_map(|place| place.dir.as_ref());
        dirs.map(|dir| dir.directory_id()).collect()
    }

    /// The epoch of the broker that had the directories last, if that stopped in order with all of them, else -1.
    pub fn last_broker_epoch(&self) -> i64 {
        let mut epochs = self.places.iter().map(|place| match &place.dir {
            Some(dir) if dir.is_new() => None,
            Some(dir) => Some(dir.last_broker_epoch()),
            None => Some(-1),
        });
        let mut known = epochs.by_ref().flatten();
        let Some(first) = known.next() else { return -1 };
        if known.all(|epoch| epoch == first) { first } else { -1 }
    }

    /// The partitions that were on disk at the start, each with the directory that it was in.
    pub fn found(&self) -> &[(usize, FoundLog)] {
        &self.found
    }

    /// Those of them that were in a directory which is not new, and whose topic is known, without those of which nobody knows
    /// whether their records are the newest. Each with its directory's id.
    pub fn held(&self) -> impl Iterator<Item = (Uuid, &FoundLog)> {
        let is_undecided = |log: &FoundLog| {
            !self.undecided.is_empty()
                && self.undecided.contains_key(&(log.topic_partition.clone(), log.topic_id))
        };
        self.found.iter().filter_map(move |(at, log)| {
            let dir = self.places[*at].dir.as_ref().filter(|dir| !dir.is_new())?;
            (!log.topic_id.is_zero() && !is_undecided(log)).then(|| (dir.directory_id(), log))
        })
    }

    /// Whether there are directories that could not be read at the start.
    pub fn has_unread(&self) -> bool {
        self.places.iter().any(|place| place.takes_partitions && place.dir.is_none())
    }

    /// The directories for partitions, in the order of `log.dirs`.
    pub fn states(&self) -> Vec<DirState> {
        let places = self.places.iter().filter(|place| place.takes_partitions);
        places.map(|place| DirState { path: place.path.clone(), is_offline: place.is_offline() }).collect()
    }

    /// Number of directories, with one of the metadata's own.
    pub fn count(&self) -> usize {
        self.places.len()
    }

    /// Number of directories that are offline.
    pub fn offline_count(&self) -> usize {
        self.places.iter().filter(|place| place.is_offline()).count()
    }

    /// Where a directory is.
    pub fn path_of(&self, at: usize) -> Option<&Path> {
        self.places.get(at).map(|place| place.path.as_path())
    }

    /// The directory that a partition is in.
    pub fn place_of(&self, partition: &TopicPartition) -> Option<usize> {
        self.placed.lock().get(partition).copied()
    }

    /// The directory for partitions at a path, as it stands in `log.dirs`.
    pub fn at_path(&self, path: &Path) -> Option<usize> {
        self.places.iter().position(|place| place.takes_partitions && place.path == path)
    }

    /// Whether a directory is offline.
    pub fn is_offline(&self, at: usize) -> bool {
        self.places.get(at).is_none_or(Place::is_offline)
    }

    /// Opens, recovers or creates a partition's log, as [`DataDir::open_log`] does: where it is, where it is wanted, or where
    /// the fewest are.
    pub fn open_log(
        &self,
        partition: &TopicPartition,
        topic_id: Uuid,
        config: LogConfig,
        now: Millis,
        arrival: Arrival,
    ) -> Result<Arc<Log>, StorageError> {
        self.check_decided(partition, topic_id)?;
        let (at, is_new) = self.place(partition, arrival)?;
        let place = &self.places[at];
        let opened = match place.online() {
            Some(dir) => dir.open_log(partition, topic_id, config, now),
            None => Err(StorageError::DirOffline { path: place.path.clone() }),
        };
        if let (Err(error), true, Some(dir)) = (&opened, is_new, &place.dir)
            && !matches!(error, StorageError::HalfMade(_))
            && !dir.holds(partition)
        {
            // Nothing of it is there: it may be made somewhere else the next time.
            dir.forget(partition);
            self.placed.lock().remove(partition);
        }
        opened
    }

    fn check_decided(&self, partition: &TopicPartition, topic_id: Uuid) -> Result<(), StorageError> {
        let is_it = |(known, id): &(TopicPartition, Uuid)| {
            known == partition && (topic_id.is_zero() || *id == topic_id)
        };
        match self.undecided.iter().find(|(key, _)| is_it(key)) {
            Some((_, (path, reason))) => {
                Err(StorageError::Undecided { path: path.clone(), reason: reason.clone() })
            }
            None => Ok(()),
        }
    }

    /// Where a partition is or goes, and whether it was nowhere before.
    fn place(&self, partition: &TopicPartition, arrival: Arrival) -> Result<(usize, bool), StorageError> {
        if self.busy.lock().contains_key(partition) {
            return Err(StorageError::Moving);
        }
        let mut placed = self.placed.lock();
        if let Some(at) = placed.get(partition) {
            return Ok((*at, false));
        }
        let unread = self.places.iter().find(|place| place.takes_partitions && place.dir.is_none());
        if let (Arrival::AtStart, Some(unread)) = (arrival, unread) {
            return Err(StorageError::DirOffline { path: unread.path.clone() });
        }
        let wanted = self.preferred.lock().remove(partition).filter(|at| !self.is_offline(*at));
        let at = wanted.or_else(|| {
            let mut counts = vec![0_usize; self.places.len()];
            placed.values().for_each(|at| counts[*at] += 1);
            let online = |at: &usize| self.places[*at].takes_partitions && !self.places[*at].is_offline();
            (0..self.places.len()).filter(online).min_by_key(|at| (self.places[*at].is_silent(), counts[*at]))
        });
        let Some(at) = at else {
            return Err(StorageError::DirOffline { path: self.places[self.metadata_at].path.clone() });
        };
        placed.insert(partition.clone(), at);
        Ok((at, true))
    }

    /// Opens the metadata's log, in the directory that is its own.
    pub fn open_metadata_log(
        &self,
        partition: &TopicPartition,
        topic_id: Uuid,
        config: LogConfig,
        now: Millis,
    ) -> Result<Arc<Log>, StorageError> {
        self.check_decided(partition, topic_id)?;
        // Not counted among the partitions that the directory has.
        self.placed.lock().remove(partition);
        self.metadata_dir().open_log(partition, topic_id, config, now)
    }

    /// Notes where a partition is to be made that is not here yet.
    pub fn prefer(&self, partition: &TopicPartition, at: usize) {
        let mut preferred = self.preferred.lock();
        if preferred.len() < PREFERRED_MAX || preferred.contains_key(partition) {
            preferred.insert(partition.clone(), at);
        }
    }

    /// Flushes every log of a directory that changed and notes where each restart may begin. Blocks, for as long as its disk
    /// wants to.
    pub fn checkpoint(&self, at: usize, now: Millis) -> Result<(), StorageError> {
        self.places.get(at).and_then(Place::online).map_or(Ok(()), |dir| dir.checkpoint(now))
    }

    /// Notes high watermarks of partitions in a directory, all that it has of those that are told.
    pub fn checkpoint_high_watermarks(
        &self,
        at: usize,
        mut marks: Vec<(TopicPartition, Offset)>,
    ) -> Result<(), StorageError> {
        {
            let placed = self.placed.lock();
            marks.retain(|(partition, _)| placed.get(partition) == Some(&at));
        }
        let Some(dir) = self.places.get(at).and_then(Place::online) else { return Ok(()) };
        if marks.is_empty() { Ok(()) } else { dir.checkpoint_high_watermarks(marks) }
    }

    /// The high watermark noted last.
    pub fn high_watermark(&self, partition: &TopicPartition) -> Option<Offset> {
        self.places[self.place_of(partition)?].dir.as_ref()?.high_watermark(partition)
    }

    /// Asks every cleaning that runs to give way soon.
    pub fn stop_cleaning(&self) {
        self.places.iter().filter_map(Place::online).for_each(|dir| dir.stop_cleaning());
    }

    /// Closes every log and leaves the mark of a clean stop in each directory that allows for it.
    pub fn close(&self, now: Millis, broker_epoch: i64) -> Result<(), StorageError> {
        self.each(|dir| dir.close(now, broker_epoch)).into_iter().collect()
    }

    /// Does the same in every directory that is online, at a time: a slow disk delays no other.
    fn each<T: Send>(&self, act: impl Fn(&DataDir) -> T + Sync) -> Vec<T> {
        let online: Vec<_> = self.places.iter().filter_map(Place::online).collect();
        if let [only] = online.as_slice() {
            return vec![act(only)];
        }
        std::thread::scope(|scope| {
            let act = &act;
            let running: Vec<_> = online.iter().map(|dir| scope.spawn(move || act(dir))).collect();
            let done = running.into_iter().map(|thread| thread.join());
            done.map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }

    /// Whether the disk has failed somewhere in a directory since somebody asked last.
    pub fn take_suspect(&self, at: usize) -> bool {
        self.places.get(at).and_then(Place::online).is_some_and(|dir| dir.take_suspect())
    }

    /// Finds out whether a directory can still be used. Blocks, for as long as its disk wants to.
    pub fn probe(&self, at: usize) -> std::io::Result<()> {
        self.places.get(at).and_then(Place::online).map_or(Ok(()), |dir| dir.probe())
    }

    /// Takes a directory offline that cannot be used any more, and all logs in it.
    pub fn take_offline(&self, at: usize, error: &std::io::Error) {
        let Some(place) = self.places.get(at) else { return };
        place.is_offline.store(true, Ordering::Release);
        if let Some(dir) = &place.dir {
            dir.take_offline();
        }
        tell_offline(&place.path, &error.to_string());
    }

    /// Notes whether a directory's disk answers. New partitions go to another one where it does not.
    pub fn note_answers(&self, at: usize, answers: bool) {
        if let Some(place) = self.places.get(at) {
            place.is_silent.store(!answers, Ordering::Release);
        }
    }

    /// Whether a directory's disk does not answer.
    pub fn is_silent(&self, at: usize) -> bool {
        self.places.get(at).is_some_and(Place::is_silent)
    }

    /// Number of directories that are online, as far as anybody knows, and do not answer.
    pub fn silent_count(&self) -> usize {
        self.places.iter().filter(|place| place.online().is_some() && place.is_silent()).count()
    }

    /// Whether the broker cannot go on: the metadata's directory is offline, or all that hold partitions are.
    pub fn is_of_no_use(&self) -> bool {
        let mut partitions = self.places.iter().filter(|place| place.takes_partitions);
        self.places[self.metadata_at].is_offline() || partitions.all(Place::is_offline)
    }
}

impl std::fmt::Debug for DataDirs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.places.iter().map(|place| &place.path)).finish()
    }
}

fn tell_offline(path: &Path, error: &str) {
    tracing::error!(
        path = %path.display(), %error,
        "a data directory is offline, and the partitions in it are not served here: repair or replace the disk and start the \
         broker again, or take the directory out of log.dirs to have its partitions copied from other brokers"
    );
}
