//! The fence for renames: a directory beside the table for each time that a partition is held.
//!
//! `_staging/LINE/TOPIC-PARTITION/EPOCH-TOKEN` is made once, after its holder got the epoch and before it freezes anything. A
//! successor takes the older ones away before it writes. So whoever is not the holder any more has nothing left that it could
//! rename into the table, however late it wakes; it never makes its directory again. Two lines that begin in one table at once see
//! each other's directories here, as each makes its own before it looks.
//!
//! In an object store nothing is renamed, and an object of the same name says only who is here; what keeps a zombie's files out of the table
//! are claims (`claims`).

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use offsets::Fence;

use crate::bucket::Bucket;
use crate::files::{Files, make_dirs};
use crate::key::Key;
use crate::table::Table;

/// The directory within a table.
pub(crate) const DIRECTORY: &str = "_staging";

/// How a directory ends that was taken from its holder.
pub(crate) const GONE: &str = ".gone";

/// How often a directory is emptied into which something is still being written.
const TRIES_MAX: usize = 100;

/// A holder's own directory.
#[derive(Debug, Clone)]
pub(crate) struct Staging {
    pub(crate) dir: PathBuf,
    /// Files that were begun in it.
    pub(crate) files: u64,
}

/// Why there is no directory.
#[derive(Debug)]
pub(crate) enum NotClaimed {
    /// A later holder has one: its epoch.
    Fenced(i64),
    /// Another line has one of the same partition, here.
    Shared(PathBuf),
    Failed(io::Error),
}

impl From<io::Error> for NotClaimed {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// Where what is about a partition is, within the table.
pub(crate) fn place(key: &Key) -> PathBuf {
    Path::new(DIRECTORY).join(key.line.as_str()).join(key.partition.to_string())
}

/// The epoch in a directory's name.
fn epoch(name: &str) -> Option<i64> {
    name.split_once('-')?.0.parse().ok()
}

/// The highest epoch of which a trace is left.
pub(crate) fn highest(table: &Table, key: &Key) -> io::Result<i64> {
    let entries = match table.files.list(&table.root.join(place(key))) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    Ok(entries.iter().filter_map(|entry| epoch(&entry.name)).max().unwrap_or(0))
}

/// Where another line has, or had, the same partition in this table.
fn other_line(table: &Table, key: &Key) -> io::Result<Option<PathBuf>> {
    let lines = match table.files.list(&table.root.join(DIRECTORY)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        lines => lines?,
    };
    for line in lines.into_iter().filter(|line| line.is_dir && line.name != key.line.as_str()) {
        let place = table.root.join(DIRECTORY).join(line.name).join(key.partition.to_string());
        match table.files.list(&place) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            listed => return listed.map(|_| Some(place)),
        }
    }
    Ok(None)
}

/// Makes the holder's directory, and takes those of earlier holders away. When this returns, none of them renames anything any more.
pub(crate) fn claim(table: &Table, key: &Key, fence: Fence) -> Result<Staging, NotClaimed> {
    let files = &*table.files;
    // Before anything is made, which would be in the way of the line that is here.
    if let Some(other) = other_line(table, key)? {
        return Err(NotClaimed::Shared(other));
    }
    let base = table.root.join(place(key));
    let own = format!("{}-{:016x}", fence.number, fence.token);
    if let Some(bucket) = files.bucket() {
        return sign(bucket, table, key, fence, base.join(own));
    }
    make_dirs(files, &table.root, &place(key))?;
    files.make_dir(&base.join(&own))?;
    // And behind it: of two that begin at once, the one that looks last sees the other.
    if let Some(other) = other_line(table, key)? {
        files.remove(&base.join(&own))?;
        // It may have been there before, with what others left in it.
        let _ = files.remove(&base);
        return Err(NotClaimed::Shared(other));
    }
    let others = || -> io::Result<Vec<String>> {
        let entries = files.list(&base)?;
        Ok(entries.into_iter().map(|entry| entry.name).filter(|name| *name != own).collect())
    };
    for name in others()? {
        match epoch(&name) {
            // Its holder has it from the same store, later.
            Some(epoch) if epoch > fence.number => return Err(NotClaimed::Fenced(epoch)),
            Some(_) if !name.ends_with(GONE) => {
                // From here on its holder finds it under no path.
                let gone = files.rename(&base.join(&name), &base.join(format!("{name}{GONE}")));
                unless_missing(gone)?;
            }
            _ => {}
        }
    }
    for name in others()? {
        if name.ends_with(GONE) {
            empty(table, &base.join(&name))?;
        }
    }
    Ok(Staging { dir: base.join(own), files: 0 })
}

/// Puts the holder's object, and removes those of earlier holders.
fn sign(
    bucket: &Bucket,
    table: &Table,
    key: &Key,
    fence: Fence,
    own: PathBuf,
) -> Result<Staging, NotClaimed> {
    bucket.put_same(&own, &Bytes::from(fence.number.to_string()))?;
    // Behind it: of two that begin at once, the one that looks last sees the other.
    if let Some(other) = other_line(table, key)? {
        bucket.remove(&own)?;
        return Err(NotClaimed::Shared(other));
    }
    let base = table.root.join(place(key));
    for entry in bucket.list(&base)? {
        match epoch(&entry.name) {
            // Its holder has it from the same store, later.
            Some(epoch) if epoch > fence.number => return Err(NotClaimed::Fenced(epoch)),
            Some(_) if base.join(&entry.name) != own => bucket.remove(&base.join(entry.name))?,
            _ => {}
        }
    }
    Ok(Staging { dir: own, files: 0 })
}

/// Removes a directory. A rename or creation that had found it just before it was moved is still carried out in it, and loses to the
/// removal of the file or the directory: the file system does one after the other.
pub(crate) fn empty(table: &Table, dir: &Path) -> io::Result<()> {
    for _ in 0..TRIES_MAX {
        let entries = match table.files.list(dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            unless_missing(table.files.remove(&dir.join(entry.name)))?;
        }
        match table.files.remove(dir) {
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {}
            outcome => return unless_missing(outcome),
        }
    }
    Err(io::Error::other(format!("{} is written to all the time", dir.display())))
}

pub(crate) fn unless_missing(outcome: io::Result<()>) -> io::Result<()> {
    if_there(outcome).map(drop)
}

/// What was found, if it is there.
pub(crate) fn if_there<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        outcome => outcome.map(Some),
    }
}
