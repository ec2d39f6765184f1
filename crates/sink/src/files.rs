//! The file system as the sink sees it: each method is one step that may fail, or never return.
//!
//! Tables and positions are written through this alone, so that a test can enumerate every step as a place to die at. Nothing here
//! knows what is in a file.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::bucket::Bucket;

/// A file that is being written.
pub trait NewFile: Write + Send {
    /// Makes what was written durable. Its name is made durable by [`Files::sync_dir`].
    fn sync(&mut self) -> io::Result<()>;
}

/// Files and directories.
pub trait Files: Send + Sync + 'static {
    /// The bucket that these are objects of, where there are no directories that a file could be renamed into.
    fn bucket(&self) -> Option<&Bucket> {
        None
    }

    /// Makes one directory; that it is there is [`io::ErrorKind::AlreadyExists`].
    fn make_dir(&self, path: &Path) -> io::Result<()>;

    /// Names in a directory, in order.
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>>;

    /// All of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// The end of a file, as much of it as is asked for, and how long the whole is.
    fn read_end(&self, path: &Path, bytes_max: usize) -> io::Result<(u64, Vec<u8>)> {
        let mut bytes = self.read(path)?;
        let len = bytes.len();
        Ok((len as u64, bytes.split_off(len - len.min(bytes_max))))
    }

    /// Begins a file that must not be there yet.
    fn create(&self, path: &Path) -> io::Result<Box<dyn NewFile>>;

    /// Gives a file a second name that must not be there yet, in one step.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Moves a file or directory in one step; a file that is in its place goes.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Puts two directories each in the place of the other, in one step.
    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()>;

    /// Removes a file or an empty directory.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The name.
    pub name: String,
    /// Whether it is a directory itself.
    pub is_dir: bool,
}

/// The machine's own.
#[derive(Debug, Clone, Copy, Default)]
pub struct LocalFiles;

impl NewFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

impl Files for LocalFiles {
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            // What is not text was not named by us.
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(Entry { name, is_dir: entry.file_type()?.is_dir() });
            }
        }
        entries.sort();
        Ok(entries)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn read_end(&self, path: &Path, bytes_max: usize) -> io::Result<(u64, Vec<u8>)> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        let wanted = len.min(bytes_max as u64);
        file.seek(SeekFrom::Start(len - wanted))?;
        let mut bytes = Vec::new();
        file.take(wanted).read_to_end(&mut bytes)?;
        Ok((len, bytes))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        Ok(Box::new(File::options().write(true).create_new(true).open(path)?))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        match renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this file system cannot exchange two directories in one step, as ext4, XFS and Btrfs can",
            )),
            exchanged => Ok(exchanged?),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match fs::symlink_metadata(path)?.is_dir() {
            true => fs::remove_dir(path),
            false => fs::remove_file(path),
        }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

/// Makes a directory and those above it, below `root`, which must be there; durable when this returns.
pub(crate) fn make_dirs(files: &dyn Files, root: &Path, below: &Path) -> io::Result<()> {
    let mut path = root.to_owned();
    for part in below.components() {
        let parent = path.clone();
        path.push(part);
        match files.make_dir(&path) {
            // Whoever made it may not have come to make it durable.
            Ok(()) => files.sync_dir(&parent)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => files.sync_dir(&parent)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
