//! A disk in memory that loses what was not synced. It keeps, beside what a running process sees, what the
//! platter holds: files as the last `sync_data` left them plus a list of unsynced writes in sectors, and
//! directories as the last `sync_dir` left them plus unsynced entries. `crash` keeps an arbitrary subset of
//! what was not synced, torn at sector boundaries, in any order; it never invents bytes and never loses
//! what was synced. Faults are scheduled by operation count; nothing here rolls a die of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    io::IoSlice,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::disk::{DirEntry, Disk, DiskFile, DiskLock, OpenMode};

/// Bytes that a device writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// What happens to an operation whose turn has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The next write stores this share (in 1/256) of its bytes and reports it: a short write.
    ShortWrite(u8),
    /// The next write fails with ENOSPC after storing nothing.
    NoSpace,
    /// The next `sync_data` fails with EIO, and the unsynced bytes may be lost.
    SyncFails,
    /// The next `sync_dir` fails with EIO.
    SyncDirFails,
}

/// A source of choices for [`FaultDisk::crash`].
pub trait Choice {
    /// A number below `bound` (at least 1).
    fn below(&mut self, bound: u64) -> u64;
}

impl<F: FnMut(u64) -> u64> Choice for F {
    fn below(&mut self, bound: u64) -> u64 {
        self(bound)
    }
}

/// The disk. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct FaultDisk {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    volume: Mutex<Volume>,
    /// A disk hangs, or does not any more.
    hang_changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Volume> {
        self.volume.lock()
    }

    /// The volume for an operation at `path`, once the disk there answers.
    fn lock_at(&self, path: &Path) -> MutexGuard<'_, Volume> {
        let mut volume = self.volume.lock();
        while volume.hangs(path) {
            volume.waiting += 1;
            self.hang_changed.notify_all();
            self.hang_changed.wait(&mut volume);
            volume.waiting -= 1;
        }
        volume
    }
}

type FileId = u64;

#[derive(Debug, Default)]
struct Volume {
    files: BTreeMap<FileId, FileState>,
    file_id_next: FileId,
    /// Directory to names, as a running process sees them.
    seen: BTreeMap<PathBuf, BTreeMap<String, Node>>,
    /// The same as the platter holds them.
    durable: BTreeMap<PathBuf, BTreeMap<String, Node>>,
    locked: BTreeSet<PathBuf>,
    faults: Vec<Fault>,
    /// Set by `crash`: handles of before the crash answer errors instead of writing into the new life.
    life: u64,
    /// Operations that change something, so that a test can crash after any of them.
    operations: u64,
    /// After this many operations everything fails, as if the machine had stopped.
    stop_after: Option<u64>,
    /// Whether nothing can be written for want of space.
    full: bool,
    /// Everything below these directories fails after so many operations, as on a disk that has died.
    dead: BTreeMap<PathBuf, u64>,
    /// Likewise those below which operations do not come back.
    hung: BTreeMap<PathBuf, u64>,
    /// Operations that wait for that.
    waiting: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    File(FileId),
    Dir,
}

#[derive(Debug, Default)]
struct FileState {
    /// What a running process reads.
    seen: Vec<u8>,
    /// What was there at the last `sync_data`.
    durable: Vec<u8>,
    /// Changes since, oldest first.
    unsynced: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    /// One sector's worth of one write.
    Write {
        offset: usize,
        bytes: Vec<u8>,
    },
    Truncate {
        len: usize,
    },
}

#[derive(Debug)]
struct FaultFile {
    volume: Weak<Shared>,
    id: FileId,
    life: u64,
    /// What it was called when it was opened.
    path: PathBuf,
}

impl FaultDisk {
    /// An empty disk.
    pub fn new() -> FaultDisk {
        FaultDisk { shared: Arc::new(Shared { volume: Mutex::new(Volume::empty()), ..Shared::default() }) }
    }

    /// Schedules a fault for the next operation of its kind.
    pub fn inject(&self, fault: Fault) {
        self.shared.lock().faults.push(fault);
    }

    /// Changing operations so far.
    pub fn operations(&self) -> u64 {
        self.shared.lock().operations
    }

    /// Makes every changing operation after the first `operations` fail, as if power were gone.
    pub fn stop_after(&self, operations: u64) {
        self.shared.lock().stop_after = Some(operations);
    }

    /// Has everything in a directory fail with EIO from now on, as if a disk of its own were mounted there, and had died.
    pub fn kill_dir(&self, dir: &Path) {
        self.kill_dir_after(dir, 0);
    }

    /// The same after so many changing operations of the whole disk.
    pub fn kill_dir_after(&self, dir: &Path, operations: u64) {
        self.shared.lock().dead.insert(dir.to_owned(), operations);
    }

    /// Has operations in a directory not come back from now on, as on a disk of its own that hangs. What is in memory can be read.
    pub fn hang_dir(&self, dir: &Path) {
        self.hang_dir_after(dir, 0);
    }

    /// The same after so many changing operations of the whole disk.
    pub fn hang_dir_after(&self, dir: &Path, operations: u64) {
        self.shared.lock().hung.insert(dir.to_owned(), operations);
    }

    /// Whether an operation hangs.
    pub fn is_hanging(&self) -> bool {
        self.shared.lock().waiting > 0
    }

    /// Waits until an operation hangs, or `is_over` says that there will be none.
    pub fn wait_for_hang(&self, is_over: impl Fn() -> bool) -> bool {
        let mut volume = self.shared.lock();
        while volume.waiting == 0 && !is_over() {
            self.shared.hang_changed.wait_for(&mut volume, std::time::Duration::from_millis(1));
        }
        volume.waiting > 0
    }

    /// Has what died or hung work again; it holds what it held.
    pub fn revive_dir(&self, dir: &Path) {
        let mut volume = self.shared.lock();
        volume.dead.remove(dir);
        volume.hung.remove(dir);
        self.shared.hang_changed.notify_all();
    }

    /// Has every write fail with ENOSPC from now on.
    pub fn fill(&self) {
        self.shared.lock().full = true;
    }

    /// Has writes work again.
    pub fn make_room(&self) {
        self.shared.lock().full = false;
    }

    /// Loses power: unsynced writes and names survive or vanish as `choice` says. Handles and locks of
    /// before are dead; the disk works again afterwards.
    pub fn crash(&self, choice: &mut dyn Choice) {
        let mut volume = self.shared.lock();
        volume.crash(choice);
    }

    /// The process died, the machine did not: everything written is still there.
    pub fn kill(&self) {
        let mut volume = self.shared.lock();
        volume.life += 1;
        volume.locked.clear();
        volume.stop_after = None;
        volume.faults.clear();
    }

    /// Puts an empty disk in its place.
    pub fn wipe(&self) {
        let mut volume = self.shared.lock();
        *volume = Volume { life: volume.life + 1, ..Volume::empty() };
    }

    /// Overwrites one byte of a file where it lies, as rot would, without any trace.
    pub fn rot(&self, path: &Path, offset: usize) {
        let mut volume = self.shared.lock();
        let Some(Node::File(id)) = volume.node(path) else { return };
        let Some(file) = volume.files.get_mut(&id) else { return };
        for content in [&mut file.seen, &mut file.durable] {
            if let Some(byte) = content.get_mut(offset) {
                *byte ^= 0x40;
            }
        }
    }
}

impl Volume {
    fn empty() -> Volume {
        let root = || BTreeMap::from([(PathBuf::from("/"), BTreeMap::new())]);
        Volume { seen: root(), durable: root(), ..Volume::default() }
    }

    fn node(&self, path: &Path) -> Option<Node> {
        let (dir, name) = split(path)?;
        self.seen.get(dir)?.get(name).copied()
    }

    fn check_alive(&self, path: &Path) -> io::Result<()> {
        let has_died = |(dead, after): (&PathBuf, &u64)| path.starts_with(dead) && self.operations >= *after;
        if self.dead.iter().any(has_died) { Err(input_output_error()) } else { Ok(()) }
    }

    fn hangs(&self, path: &Path) -> bool {
        self.hung.iter().any(|(hung, after)| path.starts_with(hung) && self.operations >= *after)
    }

    /// Counts a changing operation, or refuses it because the machine has stopped.
    fn step(&mut self) -> io::Result<()> {
        if self.stop_after.is_some_and(|stop| self.operations >= stop) {
            return Err(io::Error::other("the disk has stopped"));
        }
        self.operations += 1;
        Ok(())
    }

    fn take_fault(&mut self, matches: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let at = self.faults.iter().position(matches)?;
        Some(self.faults.remove(at))
    }

    fn crash(&mut self, choice: &mut dyn Choice) {
        self.life += 1;
        self.locked.clear();
        self.stop_after = None;
        self.faults.clear();
        for file in self.files.values_mut() {
            file.crash(choice);
        }
        let mut dirs = std::mem::take(&mut self.durable);
        for (dir, seen) in &self.seen {
            let Some(names) = dirs.get_mut(dir) else {
                // The directory itself was never synced anywhere; it lives if its parent's entry does.
                let mut names = BTreeMap::new();
                keep_some(&mut names, seen, choice);
                dirs.insert(dir.clone(), names);
                continue;
            };
            keep_some(names, seen, choice);
        }
        // What no surviving entry leads to is gone.
        let mut reachable = BTreeMap::new();
        let mut pending = vec![PathBuf::from("/")];
        while let Some(dir) = pending.pop() {
            let names = dirs.remove(&dir).unwrap_or_default();
            for (name, node) in &names {
                if *node == Node::Dir {
                    pending.push(dir.join(name));
                }
            }
            reachable.insert(dir, names);
        }
        let live: BTreeSet<FileId> = reachable
            .values()
            .flat_map(|names| names.values())
            .filter_map(|node| if let Node::File(id) = node { Some(*id) } else { None })
            .collect();
        self.files.retain(|id, _| live.contains(id));
        self.seen = reachable.clone();
        self.durable = reachable;
    }
}

/// Takes each difference between the durable and the seen names, or leaves it. A file that has another name now has its
/// old one or its new one, as a journal sees to: never neither.
fn keep_some(durable: &mut BTreeMap<String, Node>, seen: &BTreeMap<String, Node>, choice: &mut dyn Choice) {
    let is_moved = |from: &String, node: &Node| {
        matches!(node, Node::File(_)) && !seen.contains_key(from) && seen.values().any(|known| known == node)
    };
    let moved: BTreeMap<FileId, String> = durable
        .iter()
        .filter(|(from, node)| is_moved(from, node))
        .filter_map(|(from, node)| if let Node::File(id) = node { Some((*id, from.clone())) } else { None })
        .collect();
    let names: BTreeSet<String> = durable.keys().chain(seen.keys()).cloned().collect();
    for name in names {
        let goes_with_its_new_name = !seen.contains_key(&name) && moved.values().any(|from| *from == name);
        if durable.get(&name) == seen.get(&name) || goes_with_its_new_name || choice.below(2) == 0 {
            continue;
        }
        if let Some(Node::File(id)) = seen.get(&name)
            && let Some(from) = moved.get(id)
        {
            durable.remove(from);
        }
        match seen.get(&name) {
            Some(node) => durable.insert(name, *node),
            None => durable.remove(&name),
        };
    }
}

impl FileState {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        store(&mut self.seen, bytes, offset);
        let mut at = 0;
        while at < bytes.len() {
            let sector_end = ((offset + at) / SECTOR_BYTES + 1) * SECTOR_BYTES - offset;
            let end = sector_end.min(bytes.len());
            self.unsynced.push(Change::Write { offset: offset + at, bytes: bytes[at..end].to_vec() });
            at = end;
        }
    }

    /// Only what is still unsynced: what a failed sync dropped stays seen, and never becomes durable by itself.
    fn sync(&mut self) {
        for change in std::mem::take(&mut self.unsynced) {
            self.settle(change);
        }
    }

    fn settle(&mut self, change: Change) {
        match change {
            Change::Write { offset, bytes } => store(&mut self.durable, &bytes, offset),
            Change::Truncate { len } => self.durable.resize(len, 0),
        }
    }

    /// Four fates, so that every kind of survivor is common: nothing, everything, a prefix, any subset.
    fn crash(&mut self, choice: &mut dyn Choice) {
        let changes = std::mem::take(&mut self.unsynced);
        let fate = choice.below(4);
        let prefix = choice.below(changes.len() as u64 + 1) as usize;
        for (at, change) in changes.into_iter().enumerate() {
            let kept = match fate {
                0 => false,
                1 => true,
                2 => at < prefix,
                _ => choice.below(2) == 0,
            };
            if kept {
                self.settle(change);
            }
        }
        self.seen.clone_from(&self.durable);
    }
}

fn store(content: &mut Vec<u8>, bytes: &[u8], offset: usize) {
    if content.len() < offset + bytes.len() {
        content.resize(offset + bytes.len(), 0);
    }
    content[offset..offset + bytes.len()].copy_from_slice(bytes);
}

fn split(path: &Path) -> Option<(&Path, &str)> {
    Some((path.parent()?, path.file_name()?.to_str()?))
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", path.display()))
}

fn no_space() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error())
}

fn input_output_error() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())
}

impl Disk for FaultDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut volume = self.shared.lock_at(path);
        volume.check_alive(path)?;
        let (dir, name) = split(path).ok_or_else(|| not_found(path))?;
        let id = match (volume.node(path), mode) {
            (Some(Node::Dir), _) => return Err(io::ErrorKind::IsADirectory.into()),
            (Some(Node::File(id)), OpenMode::Truncate) => {
                volume.step()?;
                let file = volume.files.entry(id).or_default();
                file.seen.clear();
                file.unsynced.push(Change::Truncate { len: 0 });
                id
            }
            (Some(Node::File(id)), _) => id,
            (None, OpenMode::Read | OpenMode::Write) => return Err(not_found(path)),
            (None, OpenMode::Create | OpenMode::Truncate) => {
                volume.step()?;
                let id = volume.file_id_next;
                let names = volume.seen.get_mut(dir).ok_or_else(|| not_found(dir))?;
                names.insert(name.to_owned(), Node::File(id));
                volume.file_id_next += 1;
                volume.files.insert(id, FileState::default());
                id
            }
        };
        Ok(Arc::new(FaultFile {
            volume: Arc::downgrade(&self.shared),
            id,
            life: volume.life,
            path: path.to_owned(),
        }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let volume = self.shared.lock_at(dir);
        volume.check_alive(dir)?;
        let names = volume.seen.get(dir).ok_or_else(|| not_found(dir))?;
        let entry = |(name, node): (&String, &Node)| {
            let (len, is_dir) = match node {
                Node::Dir => (0, true),
                Node::File(id) => (volume.files.get(id).map_or(0, |file| file.seen.len() as u64), false),
            };
            DirEntry { name: name.clone(), len, is_dir }
        };
        Ok(names.iter().map(entry).collect())
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut volume = self.shared.lock_at(dir);
        volume.check_alive(dir)?;
        if volume.seen.contains_key(dir) {
            return Ok(());
        }
        volume.step()?;
        let mut missing: Vec<&Path> =
            dir.ancestors().take_while(|at| !volume.seen.contains_key(*at)).collect();
        missing.reverse();
        for at in missing {
            let (parent, name) = split(at).ok_or_else(|| not_found(at))?;
            volume.seen.entry(parent.to_owned()).or_default().insert(name.to_owned(), Node::Dir);
            volume.seen.insert(at.to_owned(), BTreeMap::new());
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut volume = self.shared.lock_at(from);
        volume.check_alive(from)?;
        volume.check_alive(to)?;
        let node = volume.node(from).ok_or_else(|| not_found(from))?;
        volume.step()?;
        let (from_dir, from_name) = split(from).ok_or_else(|| not_found(from))?;
        let (to_dir, to_name) = split(to).ok_or_else(|| not_found(to))?;
        volume.seen.get_mut(from_dir).ok_or_else(|| not_found(from))?.remove(from_name);
        volume.seen.get_mut(to_dir).ok_or_else(|| not_found(to))?.insert(to_name.to_owned(), node);
        if node == Node::Dir {
            // The platter knows directories by path here, so both views of the content move together; the
            // entry in the parent is what may be lost. A lost rename finds the content under its old name.
            move_tree(&mut volume.seen, from, to);
            let mut copy: BTreeMap<PathBuf, BTreeMap<String, Node>> =
                volume.durable.iter().filter(|(dir, _)| dir.starts_with(from)).map(clone_entry).collect();
            move_tree(&mut copy, from, to);
            volume.durable.extend(copy);
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut volume = self.shared.lock_at(path);
        volume.check_alive(path)?;
        let node = volume.node(path).ok_or_else(|| not_found(path))?;
        volume.step()?;
        let (dir, name) = split(path).ok_or_else(|| not_found(path))?;
        volume.seen.get_mut(dir).ok_or_else(|| not_found(path))?.remove(name);
        if node == Node::Dir {
            volume.seen.retain(|dir, _| !dir.starts_with(path));
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut volume = self.shared.lock_at(dir);
        volume.check_alive(dir)?;
        volume.step()?;
        if volume.take_fault(|fault| *fault == Fault::SyncDirFails).is_some() {
            return Err(input_output_error());
        }
        let names = volume.seen.get(dir).ok_or_else(|| not_found(dir))?.clone();
        volume.durable.insert(dir.to_owned(), names);
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<DiskLock> {
        self.open(path, OpenMode::Create)?;
        let mut volume = self.shared.lock();
        if !volume.locked.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(FaultLock {
            volume: Arc::downgrade(&self.shared),
            path: path.to_owned(),
            life: volume.life,
        }))
    }
}

fn clone_entry(entry: (&PathBuf, &BTreeMap<String, Node>)) -> (PathBuf, BTreeMap<String, Node>) {
    (entry.0.clone(), entry.1.clone())
}

fn move_tree(dirs: &mut BTreeMap<PathBuf, BTreeMap<String, Node>>, from: &Path, to: &Path) {
    let moved: Vec<PathBuf> = dirs.keys().filter(|dir| dir.starts_with(from)).cloned().collect();
    for dir in moved {
        let Some(names) = dirs.remove(&dir) else { continue };
        let rest = dir.strip_prefix(from).unwrap_or(Path::new(""));
        dirs.insert(if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) }, names);
    }
}

struct FaultLock {
    volume: Weak<Shared>,
    path: PathBuf,
    life: u64,
}

impl Drop for FaultLock {
    fn drop(&mut self) {
        if let Some(volume) = self.volume.upgrade() {
            let mut volume = volume.lock();
            if volume.life == self.life {
                volume.locked.remove(&self.path);
            }
        }
    }
}

impl FaultFile {
    fn with<R>(&self, act: impl FnOnce(&mut Volume) -> io::Result<R>) -> io::Result<R> {
        let volume = self.shared()?;
        self.act(volume.lock_at(&self.path), act)
    }

    fn shared(&self) -> io::Result<Arc<Shared>> {
        self.volume.upgrade().ok_or_else(|| io::Error::other("the disk is gone"))
    }

    fn act<R>(
        &self,
        mut volume: MutexGuard<'_, Volume>,
        act: impl FnOnce(&mut Volume) -> io::Result<R>,
    ) -> io::Result<R> {
        if volume.life != self.life {
            return Err(io::Error::other("the file was open when the machine crashed"));
        }
        volume.check_alive(&self.path)?;
        act(&mut volume)
    }
}

impl Volume {
    fn file(&mut self, id: FileId) -> io::Result<&mut FileState> {
        self.files.get_mut(&id).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn read(content: &[u8], buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let start = (offset as usize).min(content.len());
    let end = (start + buf.len()).min(content.len());
    buf[..end - start].copy_from_slice(&content[start..end]);
    Ok(end - start)
}

impl DiskFile for FaultFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|volume| read(&volume.file(self.id)?.seen, buf, offset))
    }

    fn read_cached_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        let shared = self.shared()?;
        self.act(shared.lock(), |volume| read(&volume.file(self.id)?.seen, buf, offset).map(Some))
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        self.with(|volume| {
            volume.step()?;
            if volume.full {
                return Err(no_space());
            }
            let mut bytes: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
            match volume.take_fault(|fault| matches!(fault, Fault::ShortWrite(_) | Fault::NoSpace)) {
                Some(Fault::NoSpace) => return Err(no_space()),
                Some(Fault::ShortWrite(share)) => {
                    let kept = (bytes.len() * usize::from(share) / 256).max(1).min(bytes.len());
                    bytes.truncate(kept);
                }
                _ => {}
            }
            volume.file(self.id)?.write(&bytes, offset as usize);
            Ok(bytes.len())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|volume| Ok(volume.file(self.id)?.seen.len() as u64))
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.with(|volume| {
            volume.step()?;
            let file = volume.file(self.id)?;
            file.seen.resize(len as usize, 0);
            file.unsynced.push(Change::Truncate { len: len as usize });
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|volume| {
            volume.step()?;
            if volume.take_fault(|fault| *fault == Fault::SyncFails).is_some() {
                // As Linux does: the pages are clean afterwards, and the bytes may never have arrived. Lengths are
                // in the journal.
                let file = volume.file(self.id)?;
                file.unsynced.retain(|change| matches!(change, Change::Truncate { .. }));
                return Err(input_output_error());
            }
            volume.file(self.id)?.sync();
            Ok(())
        })
    }
}
