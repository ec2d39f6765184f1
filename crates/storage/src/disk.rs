//! The seam between the log and the file system: two small traits, so that a simulated disk can stand in.
//! What is written is durable only after `sync_data` of the file *and* `sync_dir` of the directory that
//! names it; nothing above this file may assume more. No method retries, and none hides an error.

use std::{
    any::Any,
    fmt, io,
    io::IoSlice,
    path::{Path, PathBuf},
    sync::Arc,
};

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading alone.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// For reading and writing, made empty when it does not exist.
    Create,
    /// For reading and writing, emptied when it exists.
    Truncate,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name, without the directory.
    pub name: String,
    /// Length of a file in bytes, 0 for a directory.
    pub len: u64,
    /// Whether the name is a directory's.
    pub is_dir: bool,
}

/// An exclusive lock on a file; dropping it releases the lock.
pub type DiskLock = Box<dyn Any + Send + Sync>;

/// A file system as the log needs it.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Opens a file. The name of a file that this makes is durable after `sync_dir` of its directory.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    /// Names in `dir`, in no particular order; names that are not UTF-8 are left out (none of ours are).
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;
    /// Makes a directory and those above it.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Renames a file or directory, replacing a file at `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file, or a directory with everything in it.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Locks `path` (made when absent) for this process, or answers `WouldBlock` when another holds it.
    fn lock(&self, path: &Path) -> io::Result<DiskLock>;
}

/// An open file. Positions are explicit, so one handle serves any number of threads.
// A length that may not be told is no container's.
#[allow(clippy::len_without_is_empty)]
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Reads up to `buf.len()` bytes at `offset`; fewer only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// As `read_at`, but `None` when the bytes are not in memory and the call would wait for the device.
    fn read_cached_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>>;
    /// Writes the buffers one after the other at `offset`; may write fewer bytes than given.
    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Cuts the file, or extends it with zeros.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Makes content and length durable (fdatasync).
    fn sync_data(&self) -> io::Result<()>;
}

/// Writes every buffer at `offset`, in as many calls as the disk needs.
pub(crate) fn write_all_at(file: &dyn DiskFile, bufs: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    let mut bufs = bufs;
    IoSlice::advance_slices(&mut bufs, 0);
    while !bufs.is_empty() {
        let written = file.write_vectored_at(bufs, offset)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        offset += written as u64;
        IoSlice::advance_slices(&mut bufs, written);
    }
    Ok(())
}

/// Reads exactly `buf.len()` bytes, or `UnexpectedEof`.
pub(crate) fn read_exact_at(file: &dyn DiskFile, buf: &mut [u8], offset: u64) -> io::Result<()> {
    if file.read_at(buf, offset)? == buf.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Reads a whole small file; refuses one longer than `len_max` instead of taking memory for it.
pub(crate) fn read_small(disk: &dyn Disk, path: &Path, len_max: u64) -> io::Result<Vec<u8>> {
    let file = disk.open(path, OpenMode::Read)?;
    let len = file.len()?;
    if len > len_max {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} is {len} bytes long", path.display()),
        ));
    }
    let mut content = vec![0; len as usize];
    read_exact_at(&*file, &mut content, 0)?;
    Ok(content)
}

/// As [`read_small`], `None` when the file does not exist.
pub fn read_small_if_exists(disk: &dyn Disk, path: &Path, len_max: u64) -> io::Result<Option<Vec<u8>>> {
    match read_small(disk, path, len_max) {
        Ok(content) => Ok(Some(content)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Replaces a file's content so that a crash leaves the old or the new content: `.tmp`, fsync, rename. The
/// rename is durable after `sync_dir`, which is the caller's, so that several files share one.
pub fn replace_file(disk: &dyn Disk, path: &Path, content: &[u8]) -> io::Result<()> {
    let tmp = with_suffix(path, ".tmp");
    let file = disk.open(&tmp, OpenMode::Truncate)?;
    write_all_at(&*file, &mut [IoSlice::new(content)], 0)?;
    file.sync_data()?;
    disk.rename(&tmp, path)
}

/// Removes a file; one that is already gone is fine.
pub fn remove_if_exists(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// `path` with `suffix` after its last character.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
