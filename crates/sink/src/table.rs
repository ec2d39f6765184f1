//! A table's directory: what is in it, and how files come into it.
//!
//! A file comes whole, by a rename, under a name that says what is in it. In an object store it is put, if no object of its name is
//! there. Whatever else lies there is left alone.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use wire::TopicPartition;

use crate::bucket::{Bucket, OBJECT_BYTES_MAX, Put};
use crate::exchange;
use crate::files::{Entry, Files, make_dirs};
use crate::footer;
use crate::key::{FileName, Range};
use crate::layout::{DEPTH_MAX, Layout, TIME_DEPTH_MAX};
use crate::run::RunError;
use crate::s3::S3;
use crate::settings::TableSettings;
use crate::store::{Frozen, Stored};
use crate::success;

/// How often a file is put into a directory that was exchanged for another meanwhile.
const TRIES_MAX: usize = 100;

/// A table.
#[derive(Clone)]
pub struct Table {
    pub(crate) files: Arc<dyn Files>,
    pub(crate) root: PathBuf,
}

/// A file of a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableFile {
    /// What it holds.
    pub name: FileName,
    /// Where, within the table.
    pub directory: PathBuf,
}

impl TableFile {
    /// Where it is, within the table.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.join(self.name.to_string())
    }

    /// Whether its directory is called as this layout has it.
    pub(crate) fn is_laid_out_as(&self, layout: Layout) -> bool {
        layout.is_of(&self.directory)
    }
}

/// What a table's directory holds.
#[derive(Debug, Default)]
pub struct Listing {
    /// Files of the sink's.
    pub files: BTreeSet<TableFile>,
    /// Others, within the table.
    pub foreign: Vec<PathBuf>,
    /// Directories that are marked as complete.
    pub marked: BTreeSet<PathBuf>,
}

/// A file that is written.
#[derive(Debug)]
pub(crate) struct Staged {
    /// Where it is.
    pub at: At,
    /// Where it belongs, within the table.
    pub directory: String,
}

/// How often files are put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    First,
    /// Some may be there already, as whoever froze the range was putting them.
    Repeat,
}

/// The files that a declared table is made of: those that are given, or a bucket's objects if it is in one and they are a machine's.
pub(crate) fn files_of(declared: &TableSettings, files: Arc<dyn Files>) -> Result<Arc<dyn Files>, RunError> {
    let Some(s3) = declared.s3.as_ref().filter(|_| files.bucket().is_none()) else { return Ok(files) };
    let failed = |source| RunError::Files { doing: "open", path: declared.table.clone(), source };
    let spool = s3.spool.clone().unwrap_or_else(std::env::temp_dir);
    let objects = Arc::new(S3::open(s3).map_err(failed)?);
    Ok(Arc::new(Bucket::new(objects, &s3.bucket, spool)))
}

/// Where a file is that is written and not in the table yet.
#[derive(Debug)]
pub(crate) enum At {
    /// Durable, beside the table.
    Beside(PathBuf),
    /// On this machine, until it is put.
    Spooled(Arc<File>),
}

/// Files in the table that cannot be there, going by what is stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{partition}: the table holds {found} and the store has committed {begun} to {committed} only: the store has lost something, which `ottla sink repair` gives back, or the table is another's: a sink wants a table of its own"
)]
pub struct Ahead {
    /// The partition.
    pub partition: TopicPartition,
    /// What was found.
    pub found: Range,
    /// Where the store says that the line began.
    pub begun: wire::Offset,
    /// The committed end.
    pub committed: wire::Offset,
}

impl Table {
    /// In this directory.
    pub fn new(files: Arc<dyn Files>, root: impl Into<PathBuf>) -> Self {
        Self { files, root: root.into() }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// All files that readers see. What begins with `_` or `.` they do not.
    pub fn list(&self) -> io::Result<Listing> {
        let mut listing = Listing::default();
        if let Some(bucket) = self.files.bucket() {
            for path in bucket.list_all(&self.root)? {
                listing.note_object(path);
            }
            return Ok(listing);
        }
        let mut left = vec![(PathBuf::new(), 0)];
        while let Some((directory, depth)) = left.pop() {
            let entries = match self.files.list(&self.root.join(&directory)) {
                // It was empty and was removed meanwhile.
                Err(error) if depth > 0 && error.kind() == ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                let path = directory.join(&entry.name);
                if entry.is_dir && !is_hidden(&entry.name) && is_looked_into(&path) {
                    left.push((path, depth + 1));
                } else {
                    listing.note(&directory, &entry);
                }
            }
        }
        Ok(listing)
    }

    /// Moves files to where readers see them; durable when this returns. One that is there already, of an attempt before, holds the
    /// same and is replaced.
    pub(crate) fn place(&self, name: &FileName, staged: &[Staged], attempt: Attempt) -> io::Result<()> {
        for Staged { at, directory } in staged {
            match (at, self.files.bucket()) {
                (At::Beside(path), _) => self.put(path, Path::new(directory), &name.to_string())?,
                (At::Spooled(file), Some(bucket)) => {
                    let path = self.root.join(directory).join(name.to_string());
                    self.put_object(bucket, &path, file, attempt)?;
                }
                (At::Spooled(_), None) => unreachable!("files are spooled for a bucket alone"),
            }
        }
        for file in staged {
            self.files.sync_dir(&self.root.join(&file.directory))?;
        }
        for file in staged {
            if let At::Beside(path) = &file.at {
                self.files.remove(path)?;
            }
        }
        Ok(())
    }

    /// Puts a file, unless it is there: by an attempt before this one, or by another's to put the same range. By its footer it is
    /// known; columns may be others, as the declaration of then had them.
    fn put_object(&self, bucket: &Bucket, path: &Path, file: &File, attempt: Attempt) -> io::Result<()> {
        let content = spooled(file)?;
        // All of it would be sent before it is refused.
        let is_there = attempt == Attempt::Repeat
            && match self.files.read_end(path, 1) {
                Err(error) if error.kind() == ErrorKind::NotFound => false,
                read => read.map(|_| true)?,
            };
        if !is_there {
            match bucket.put(path, content.clone(), Put::New) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                put => return put,
            }
        }
        // That it is not to be had now says nothing of what it is.
        let differs = footer::read_metadata(&*self.files, path)?
            .and_then(|found| Ok(footer::difference(&found, &footer::metadata_of(&content)?)));
        let problem = match differs {
            Ok(None) => return Ok(()),
            Ok(Some(problem)) | Err(problem) => problem,
        };
        let problem = format!(
            "{} is there already, and is not of the range that is on its way: {problem}; whoever put it has to take it away, and, of a topic that was compacted since, all files of that range",
            path.display()
        );
        Err(io::Error::new(ErrorKind::InvalidData, problem))
    }

    /// Puts a file into a directory that somebody may be exchanging for another. It keeps its own name as well, as what came into a
    /// directory behind its listing goes with it.
    pub(crate) fn put(&self, from: &Path, directory: &Path, name: &str) -> io::Result<()> {
        let (twin, to) = (from.with_extension("twin"), self.root.join(directory).join(name));
        for _ in 0..TRIES_MAX {
            let put = || {
                make_dirs(&*self.files, &self.root, directory)?;
                match self.files.link(from, &twin) {
                    // By a try before this one.
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                    linked => linked?,
                }
                self.files.rename(&twin, &to)
            };
            match put() {
                // An empty directory was removed meanwhile, unless it is the file that is gone.
                Err(error) if error.kind() == ErrorKind::NotFound && self.is_there(from)? => continue,
                outcome => outcome?,
            }
            exchange::settle(self, directory, None)?;
            if self.is_there(&to)? {
                return Ok(());
            }
        }
        Err(io::Error::other(format!("{} is exchanged all the time", directory.display())))
    }

    fn is_there(&self, path: &Path) -> io::Result<bool> {
        match self.files.read_end(path, 0) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            read => read.map(|_| true),
        }
    }
}

/// All of a file that is to be put.
fn spooled(mut file: &File) -> io::Result<Bytes> {
    let len = file.metadata()?.len();
    if len > OBJECT_BYTES_MAX {
        let problem = format!("the file has {len} bytes, and one put has {OBJECT_BYTES_MAX} at most");
        return Err(io::Error::new(ErrorKind::FileTooLarge, problem));
    }
    file.rewind()?;
    let mut content = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
    file.read_to_end(&mut content)?;
    Ok(content.into())
}

/// Whether a directory may have files of the sink's: those of fields lie deeper, and each is called after one.
fn is_looked_into(directory: &Path) -> bool {
    let is_named = |part: &OsStr| part.to_str().is_some_and(|part| part.contains('='));
    match directory.components().count() {
        0..=TIME_DEPTH_MAX => true,
        depth => depth <= DEPTH_MAX && directory.iter().all(is_named),
    }
}

fn is_hidden(name: &str) -> bool {
    name.starts_with(['_', '.'])
}

impl Listing {
    /// Takes what is in a directory and is none that is looked into.
    fn note(&mut self, directory: &Path, entry: &Entry) {
        if is_hidden(&entry.name) {
            if entry.name == success::NAME {
                self.marked.insert(directory.to_owned());
            }
            return;
        }
        match FileName::parse(&entry.name).filter(|_| !entry.is_dir) {
            Some(name) => {
                self.files.insert(TableFile { name, directory: directory.to_owned() });
            }
            None => self.foreign.push(directory.join(&entry.name)),
        }
    }

    /// Takes an object by its path, as a file in those directories would be.
    fn note_object(&mut self, path: PathBuf) {
        // What a path makes of it says another name, as of `a//b`: no file lies there.
        let is_path = path.components().all(|part| matches!(part, Component::Normal(_)))
            && path.components().collect::<PathBuf>().as_os_str() == path.as_os_str();
        if !is_path {
            self.foreign.push(path);
            return;
        }
        let parts: Vec<_> = path.components().map(Component::as_os_str).collect();
        let Some((name, above)) = parts.split_last() else { return };
        let above: Vec<_> = above.iter().map(|part| part.to_string_lossy()).collect();
        if above.iter().any(|part| is_hidden(part)) {
            return;
        }
        match name.to_str() {
            Some(name) if is_looked_into(path.parent().unwrap_or(Path::new(""))) => {
                let directory = path.parent().unwrap_or(Path::new(""));
                self.note(directory, &Entry { name: name.to_owned(), is_dir: false });
            }
            _ => self.foreign.push(path),
        }
    }
}

/// Whether what the table holds of a partition is no more than what is committed and what is frozen, as it is frozen: only what has
/// the same names is replaced by a repeat. What was removed for its age was in the table, and was committed.
pub(crate) fn check(
    partition: &TopicPartition,
    stored: &Stored,
    listing: &Listing,
    expired: &[Range],
) -> Result<(), Ahead> {
    let is_frozen = |file: &TableFile| {
        let is_it = |frozen: Frozen| frozen.range == file.name.range && file.is_laid_out_as(frozen.layout);
        stored.frozen.is_some_and(is_it)
    };
    let (begun, committed) = (stored.begun, stored.committed.next);
    let ahead = listing
        .files
        .iter()
        .filter(|file| file.name.partition == *partition)
        .find(|file| {
            let Range { start, end } = file.name.range;
            start < begun || end > committed && !is_frozen(file)
        })
        .map(|file| file.name.range);
    let is_ahead = |range: &&Range| range.start < begun || range.end > committed;
    match ahead.or_else(|| expired.iter().find(is_ahead).copied()) {
        Some(found) => Err(Ahead { partition: partition.clone(), found, begun, committed }),
        None => Ok(()),
    }
}

/// Whether the range that was claimed last is committed, or frozen as the next one.
pub(crate) fn check_claim(
    partition: &TopicPartition,
    stored: &Stored,
    claimed: Option<Range>,
) -> Result<(), Ahead> {
    let (begun, committed) = (stored.begun, stored.committed.next);
    let is_frozen = |range| stored.frozen.is_some_and(|frozen| frozen.range == range);
    match claimed.filter(|&range| range.end > committed && !is_frozen(range)) {
        Some(found) => Err(Ahead { partition: partition.clone(), found, begun, committed }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use wire::{LeaderEpoch, Millis, Offset, PartitionId, TopicPartition};

    use super::{Listing, TableFile, check, is_looked_into};
    use crate::key::{FileName, Range};
    use crate::layout::Layout;
    use crate::store::{Frozen, Stored};

    #[test]
    fn a_table_that_holds_more_than_the_store_says_is_another_ones() {
        let partition = TopicPartition::new("orders", PartitionId(3));
        let position = offsets::Position { next: Offset(20), leader_epoch: LeaderEpoch::NONE };
        let stored = Stored { begun: Offset(10), committed: position, frozen: None, updated: Millis(0) };
        let told = |start, end| {
            let range = Range::new(Offset(start), Offset(end));
            let mut listing = Listing::default();
            let name = FileName { partition: partition.clone(), range };
            listing.files.insert(TableFile { name, directory: "dt=2023-11-14".into() });
            check(&partition, &stored, &listing, &[]).map_err(|ahead| ahead.found)
        };
        assert_eq!(told(10, 20), Ok(()));
        // A store that was lost begins where the log is by now.
        for (start, end) in [(0, 10), (5, 15), (20, 25)] {
            assert_eq!(told(start, end), Err(Range::new(Offset(start), Offset(end))), "{start} to {end}");
        }
    }

    #[test]
    fn what_lies_deeper_than_directories_of_time_is_in_one_that_is_called_after_a_field() {
        let looked_into = |directory: &str| is_looked_into(Path::new(directory));
        for directory in ["", "a", "a/b", "dt=2023-11-14/hour=22", "dt=2023-11-14/hour=22/city=x/shop=1"] {
            assert!(looked_into(directory), "{directory}");
        }
        for directory in ["a/b/c", "a/dt=2023-11-14/hour=22", "dt=2023-11-14/hour=22/x", &"a=1/".repeat(11)] {
            assert!(!looked_into(directory), "{directory}");
        }
    }

    #[test]
    fn what_was_removed_for_its_age_was_committed() {
        let partition = TopicPartition::new("orders", PartitionId(3));
        let position = offsets::Position { next: Offset(20), leader_epoch: LeaderEpoch::NONE };
        let stored = Stored { begun: Offset(10), committed: position, frozen: None, updated: Millis(0) };
        let told = |start, end| {
            let expired = [Range::new(Offset(10), Offset(20)), Range::new(Offset(start), Offset(end))];
            check(&partition, &stored, &Listing::default(), &expired).map_err(|ahead| ahead.found)
        };
        assert_eq!(told(10, 15), Ok(()));
        for (start, end) in [(0, 10), (20, 25)] {
            assert_eq!(told(start, end), Err(Range::new(Offset(start), Offset(end))));
        }
    }

    #[test]
    fn only_what_a_repeat_replaces_may_be_there_of_what_is_frozen() {
        let partition = TopicPartition::new("orders", PartitionId(3));
        let position = offsets::Position { next: Offset(10), leader_epoch: LeaderEpoch::NONE };
        let range = Range::new(Offset(10), Offset(20));
        let frozen = Some(Frozen { range, epoch: 1, layout: Layout::Hour, letters: 0 });
        let stored = Stored { begun: Offset(0), committed: position, frozen, updated: Millis(0) };
        let told = |directory: &str| {
            let name = FileName { partition: partition.clone(), range };
            let file = TableFile { name, directory: directory.into() };
            check(&partition, &stored, &Listing { files: [file].into(), ..Listing::default() }, &[]).is_ok()
        };
        assert!(told("dt=2023-11-14/hour=22"));
        // Of one who had it frozen otherwise, in a store that has lost it since.
        assert!(!told("dt=2023-11-14"));
        assert!(!told(""));
    }
}
