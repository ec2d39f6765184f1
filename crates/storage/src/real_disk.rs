//! The `Disk` of a real Linux file system: system calls by way of rustix, and `std::fs` where it adds
//! nothing of its own. This is the only place in the crate that touches the operating system. It keeps no
//! state, so that what the kernel says is what the log hears.

use std::{
    fs, io,
    io::{IoSlice, IoSliceMut},
    os::fd::OwnedFd,
    path::Path,
    sync::Arc,
};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags};

use crate::disk::{DirEntry, Disk, DiskFile, DiskLock, OpenMode};

/// The machine's own file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

#[derive(Debug)]
struct RealFile {
    fd: OwnedFd,
}

/// Buffers that one `pwritev` may take (`IOV_MAX` on Linux).
const BUFFERS_PER_WRITE_MAX: usize = 1024;

impl Disk for RealDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let flags = OFlags::CLOEXEC
            | match mode {
                OpenMode::Read => OFlags::RDONLY,
                OpenMode::Write => OFlags::RDWR,
                OpenMode::Create => OFlags::RDWR | OFlags::CREATE,
                OpenMode::Truncate => OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC,
            };
        let fd = rustix::fs::open(path, flags, Mode::from_raw_mode(0o644))?;
        Ok(Arc::new(RealFile { fd }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let is_dir = entry.file_type()?.is_dir();
            // A file can vanish between the two calls: another thread deletes segments.
            let len = match (is_dir, entry.metadata()) {
                (true, _) => 0,
                (false, Ok(metadata)) => metadata.len(),
                (false, Err(e)) if e.kind() == io::ErrorKind::NotFound => continue,
                (false, Err(e)) => return Err(e),
            };
            entries.push(DirEntry { name, len, is_dir });
        }
        Ok(entries)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(e) if e.kind() == io::ErrorKind::IsADirectory => fs::remove_dir_all(path),
            result => result,
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let fd = rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(rustix::fs::fsync(fd)?)
    }

    fn lock(&self, path: &Path) -> io::Result<DiskLock> {
        let fd = rustix::fs::open(
            path,
            OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o644),
        )?;
        rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(fd))
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            match rustix::io::pread(&self.fd, &mut buf[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(filled)
    }

    fn read_cached_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        let mut filled = 0;
        while filled < buf.len() {
            let mut target = [IoSliceMut::new(&mut buf[filled..])];
            match rustix::io::preadv2(&self.fd, &mut target, offset + filled as u64, ReadWriteFlags::NOWAIT) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                // File systems without the flag (some network ones) never promise; read plainly there.
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => return self.read_at(buf, offset).map(Some),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(Some(filled))
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        loop {
            match rustix::io::pwritev(&self.fd, &bufs[..bufs.len().min(BUFFERS_PER_WRITE_MAX)], offset) {
                Err(Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&self.fd)?.st_size as u64)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        Ok(rustix::fs::ftruncate(&self.fd, len)?)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.fd)?)
    }
}
