//! A file system in memory that forgets what was not made durable, and processes that die, fail or pause at a chosen step.

// Each test binary compiles this for itself and uses its own part of it.
#![allow(dead_code, unreachable_pub)]

pub mod letters;
pub mod line;
pub mod parquet_file;
pub mod positions;
pub mod registry;
pub mod world;
pub mod instances;

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write};
use std::path::{Component, Path};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use sink::{Entry, Files, NewFile};

#[derive(Clone)]
enum Node {
    File { bytes: Vec<u8>, durable: Vec<u8> },
    Dir { names: BTreeMap<String, u64>, durable: BTreeMap<String, u64> },
}

/// Files and directories, and what of them is durable.
#[derive(Clone)]
pub struct Disk {
    nodes: BTreeMap<u64, Node>,
    next: u64,
    /// Those that are not durable yet: in which directory which name became which node's.
    exchanges: Vec<[(u64, String, u64); 2]>,
}

const ROOT: u64 = 0;

impl Disk {
    pub fn new() -> Self {
        let root = Node::Dir { names: BTreeMap::new(), durable: BTreeMap::new() };
        Self { nodes: BTreeMap::from([(ROOT, root)]), next: 1, exchanges: Vec::new() }
    }

    /// Everything that was not made durable is gone.
    pub fn cut_power(&mut self) {
        self.exchanges.clear();
        for node in self.nodes.values_mut() {
            match node {
                Node::File { bytes, durable } => bytes.clone_from(durable),
                Node::Dir { names, durable } => names.clone_from(durable),
            }
        }
    }

    fn add(&mut self, node: Node) -> u64 {
        self.next += 1;
        self.nodes.insert(self.next, node);
        self.next
    }

    fn names(&self, dir: u64) -> io::Result<&BTreeMap<String, u64>> {
        match &self.nodes[&dir] {
            Node::Dir { names, .. } => Ok(names),
            Node::File { .. } => Err(ErrorKind::NotADirectory.into()),
        }
    }

    fn names_mut(&mut self, dir: u64) -> &mut BTreeMap<String, u64> {
        match self.nodes.get_mut(&dir) {
            Some(Node::Dir { names, .. }) => names,
            _ => panic!("it was found as a directory"),
        }
    }

    fn find(&self, path: &Path) -> io::Result<u64> {
        let mut at = ROOT;
        for part in path.components().filter(|part| *part != Component::RootDir) {
            let name = part.as_os_str().to_str().expect("names are text");
            at = *self.names(at)?.get(name).ok_or(ErrorKind::NotFound)?;
        }
        Ok(at)
    }

    /// The directory of a path, and the name in it.
    fn place(&self, path: &Path) -> io::Result<(u64, String)> {
        let parent = self.find(path.parent().expect("it is below the root"))?;
        self.names(parent)?;
        Ok((parent, path.file_name().and_then(|name| name.to_str()).expect("names are text").to_owned()))
    }

    /// Adds a name that must not be there.
    fn name(&mut self, path: &Path, node: impl FnOnce(&mut Self) -> u64) -> io::Result<u64> {
        let (parent, name) = self.place(path)?;
        if self.names(parent)?.contains_key(&name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let node = node(self);
        self.names_mut(parent).insert(name, node);
        Ok(node)
    }

    pub fn make_dir(&mut self, path: &Path) -> io::Result<()> {
        let dir = Node::Dir { names: BTreeMap::new(), durable: BTreeMap::new() };
        self.name(path, |disk| disk.add(dir)).map(drop)
    }

    pub fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let is_dir = |node: &u64| matches!(self.nodes[node], Node::Dir { .. });
        let names = self.names(self.find(path)?)?;
        Ok(names.iter().map(|(name, node)| Entry { name: name.clone(), is_dir: is_dir(node) }).collect())
    }

    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match &self.nodes[&self.find(path)?] {
            Node::File { bytes, .. } => Ok(bytes.clone()),
            Node::Dir { .. } => Err(ErrorKind::IsADirectory.into()),
        }
    }

    fn create(&mut self, path: &Path) -> io::Result<u64> {
        let file = Node::File { bytes: Vec::new(), durable: Vec::new() };
        self.name(path, |disk| disk.add(file))
    }

    /// Puts a whole file somewhere, as nobody's process.
    pub fn put(&mut self, path: &Path, content: &[u8]) {
        let file = self.create(path).expect("it is not there yet");
        self.write(file, content);
    }

    fn write(&mut self, file: u64, more: &[u8]) {
        // The file may have lost its name; it is written to all the same.
        if let Some(Node::File { bytes, .. }) = self.nodes.get_mut(&file) {
            bytes.extend_from_slice(more);
        }
    }

    fn link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = self.find(from)?;
        self.name(to, |_| node).map(drop)
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = self.find(from)?;
        let (from_dir, from_name) = self.place(from)?;
        let (to_dir, to_name) = self.place(to)?;
        self.names_mut(from_dir).remove(&from_name);
        self.names_mut(to_dir).insert(to_name, node);
        Ok(())
    }

    /// A journal has both names or neither: what makes one of the two directories durable does the other one too.
    fn exchange(&mut self, one: &Path, other: &Path) -> io::Result<()> {
        let (one_node, other_node) = (self.find(one)?, self.find(other)?);
        let (one_dir, one_name) = self.place(one)?;
        let (other_dir, other_name) = self.place(other)?;
        self.names_mut(one_dir).insert(one_name.clone(), other_node);
        self.names_mut(other_dir).insert(other_name.clone(), one_node);
        self.exchanges.push([(one_dir, one_name, other_node), (other_dir, other_name, one_node)]);
        Ok(())
    }

    pub fn remove(&mut self, path: &Path) -> io::Result<()> {
        let node = self.find(path)?;
        if let Node::Dir { names, .. } = &self.nodes[&node]
            && !names.is_empty()
        {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        let (parent, name) = self.place(path)?;
        self.names_mut(parent).remove(&name);
        Ok(())
    }

    fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        let dir = self.find(path)?;
        // In order, as a journal has them.
        let of_dir = |exchange: &[(u64, String, u64); 2]| exchange.iter().any(|(parent, ..)| *parent == dir);
        let journaled = self.exchanges.iter().rposition(of_dir).map_or(0, |last| last + 1);
        for (parent, name, node) in self.exchanges.drain(..journaled).flatten().collect::<Vec<_>>() {
            if let Some(Node::Dir { durable, .. }) = self.nodes.get_mut(&parent) {
                durable.insert(name, node);
            }
        }
        match self.nodes.get_mut(&dir) {
            Some(Node::Dir { names, durable }) => durable.clone_from(names),
            _ => return Err(ErrorKind::NotADirectory.into()),
        }
        Ok(())
    }

    fn sync(&mut self, file: u64) {
        if let Some(Node::File { bytes, durable }) = self.nodes.get_mut(&file) {
            durable.clone_from(bytes);
        }
    }
}

/// What happens at the chosen step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is not done, nor is anything after it; a write is done by half.
    Dies,
    /// It fails, and what comes after it does not.
    Fails,
    /// It is done after a while.
    Pauses,
}

#[derive(Default)]
struct Gate {
    steps: u64,
    at: Option<(u64, Fate)>,
    /// Whether it pauses before each step.
    is_led: bool,
    is_dead: bool,
    is_paused: bool,
    is_over: bool,
}

/// Counts a process's steps, and has one of them meet its fate.
#[derive(Default)]
pub struct Steps {
    gate: Mutex<Gate>,
    changed: Condvar,
}

impl Steps {
    pub fn new(at: Option<(u64, Fate)>) -> Arc<Self> {
        Arc::new(Self { gate: Mutex::new(Gate { at, ..Gate::default() }), changed: Condvar::new() })
    }

    /// Of a process that pauses before each step until it is told to go on.
    pub fn led() -> Arc<Self> {
        Arc::new(Self { gate: Mutex::new(Gate { is_led: true, ..Gate::default() }), changed: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().expect("nobody panics with it")
    }

    pub fn count(&self) -> u64 {
        self.lock().steps
    }

    pub fn is_dead(&self) -> bool {
        self.lock().is_dead
    }

    pub fn step(&self) -> io::Result<()> {
        let mut gate = self.lock();
        gate.steps += 1;
        let fate = gate.at.filter(|(at, _)| *at == gate.steps).map(|(_, fate)| fate);
        let fate = fate.or(gate.is_led.then_some(Fate::Pauses)).filter(|_| !gate.is_dead);
        match fate {
            Some(Fate::Dies) => gate.is_dead = true,
            Some(Fate::Fails) => return Err(io::Error::other("no space left")),
            Some(Fate::Pauses) => {
                gate.is_paused = true;
                self.changed.notify_all();
                while gate.is_paused {
                    gate = self.changed.wait(gate).expect("nobody panics with it");
                }
            }
            None => {}
        }
        match gate.is_dead {
            true => Err(io::Error::other("killed")),
            false => Ok(()),
        }
    }

    /// Waits until the process has paused, or is over. Says whether it goes on from there.
    pub fn until_paused(&self) -> bool {
        let mut gate = self.lock();
        while !gate.is_paused && !gate.is_over {
            gate = self.changed.wait(gate).expect("nobody panics with it");
        }
        !gate.is_over
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.lock().is_paused = false;
        self.changed.notify_all();
    }

    /// Wherever it has paused, it does nothing any more.
    pub fn kill(&self) {
        self.lock().is_dead = true;
        self.resume();
    }

    /// The process is over.
    pub fn over(&self) {
        self.lock().is_over = true;
        self.changed.notify_all();
    }
}

/// The disk as one process sees it.
#[derive(Clone)]
pub struct Process {
    pub disk: Arc<Mutex<Disk>>,
    pub steps: Arc<Steps>,
}

impl Process {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().expect("nobody panics with it")
    }
}

impl Files for Process {
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.steps.step()?;
        self.disk().make_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.steps.step()?;
        self.disk().list(path)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.steps.step()?;
        self.disk().read(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        self.steps.step()?;
        let file = self.disk().create(path)?;
        Ok(Box::new(Written { process: self.clone(), file }))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.steps.step()?;
        self.disk().link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.steps.step()?;
        self.disk().rename(from, to)
    }

    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        self.steps.step()?;
        self.disk().exchange(one, other)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.steps.step()?;
        self.disk().remove(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.steps.step()?;
        self.disk().sync_dir(path)
    }
}

struct Written {
    process: Process,
    file: u64,
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let was_dead = self.process.steps.lock().is_dead;
        let stepped = self.process.steps.step();
        let written = match &stepped {
            Ok(()) => bytes,
            // It died in the middle of this one.
            Err(_) if !was_dead => &bytes[..bytes.len() / 2],
            Err(_) => &[],
        };
        self.process.disk().write(self.file, written);
        stepped.map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl NewFile for Written {
    fn sync(&mut self) -> io::Result<()> {
        self.process.steps.step()?;
        self.process.disk().sync(self.file);
        Ok(())
    }
}
