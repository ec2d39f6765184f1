//! Programs that produce with acks=all while brokers are broken: idempotent producers, one per client library that others are
//! built on, or transactional ones. Each writes a line per acknowledgement, at once, into a file of its own; a watch reads along
//! and knows who is silent since when. They are killed with the value.

use crate::shell;
use crate::toolbox::Toolbox;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long they may take to deliver what is left after they were told to end.
const DELIVERY_SECONDS_MAX: u64 = 180;

/// Where they produce to and how fast.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) programs: Programs,
    /// `host:port`, several with commas between them.
    pub(crate) bootstrap: String,
    pub(crate) topic: &'static str,
    /// Records per second and producer.
    pub(crate) rate: u64,
}

/// Which programs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Programs {
    Idempotent,
    /// Acknowledged is a record with its transaction.
    Transactional,
    /// What is committed in the topic goes to `<topic>-copied`, which is what is acknowledged.
    Copying,
}

impl Programs {
    /// Each with the name that its files and values have.
    fn commands(self, toolbox: &Toolbox) -> Vec<(&'static str, Command)> {
        let java = |program: &str| {
            let mut command = toolbox.java();
            command.args(["compat.Main", program]);
            command
        };
        match self {
            Programs::Idempotent => vec![
                ("java", java("crash-producer")),
                ("librdkafka", toolbox.python_program("crash_producer.py")),
                ("franz", toolbox.go_program("crash")),
            ],
            Programs::Transactional => vec![
                ("java-transactional", java("transactional-producer")),
                ("librdkafka-transactional", toolbox.python_program("transactional_producer.py")),
            ],
            Programs::Copying => vec![("copy", java("transactional-copy"))],
        }
    }
}

#[derive(Debug)]
struct Producer {
    name: &'static str,
    child: Child,
    acknowledged: PathBuf,
    log: PathBuf,
}

/// The programs under load.
pub(crate) struct Producers {
    running: Vec<Producer>,
}

impl Producers {
    pub(crate) fn start(toolbox: &Toolbox, load: &Load, home: &Path) -> Result<Self, String> {
        let mut producers = Self { running: Vec::new() };
        for (name, mut program) in load.programs.commands(toolbox) {
            let log = home.join(format!("{name}.log"));
            let acknowledged = home.join(format!("{name}.acknowledged"));
            let child = program
                .args(["--bootstrap", &load.bootstrap, "--topic", load.topic, "--name", name])
                .args(["--rate", &load.rate.to_string(), "--log"])
                .arg(&acknowledged)
                .stdin(Stdio::piped())
                .stdout(shell::append(&log)?)
                .stderr(shell::append(&log)?)
                .spawn()
                .map_err(|error| format!("cannot run {}: {error}", shell::words(&program)))?;
            producers.running.push(Producer { name, child, acknowledged, log });
        }
        Ok(producers)
    }

    /// None has a reason to end before it is told to.
    pub(crate) fn check(&mut self) -> Result<(), String> {
        for producer in &mut self.running {
            if let Some(status) = producer.child.try_wait().map_err(|error| error.to_string())? {
                let log = producer.log.display();
                return Err(format!("the producer {} ended ({status}), see {log}", producer.name));
            }
        }
        Ok(())
    }

    /// What they have written down so far, in whole lines.
    pub(crate) fn acknowledged(&self) -> usize {
        let count = |path: &PathBuf| {
            fs::read(path).map_or(0, |text| text.iter().filter(|&&byte| byte == b'\n').count())
        };
        self.running.iter().map(|producer| count(&producer.acknowledged)).sum()
    }

    /// Starts to read along, with all of these.
    pub(crate) fn watch(producers: &[&Self], partitions: usize) -> Watch {
        let running = producers.iter().flat_map(|producers| &producers.running);
        Watch::start(running.map(|p| (p.name, p.acknowledged.clone())).collect(), partitions)
    }

    /// Ends their input, waits until they have delivered everything, and gives the files of acknowledgements.
    pub(crate) fn stop(self) -> Result<Vec<PathBuf>, String> {
        Ok(self.stop_named()?.into_iter().map(|(_, acknowledged)| acknowledged).collect())
    }

    /// The same, each file with the producer's name.
    pub(crate) fn stop_named(mut self) -> Result<Vec<(&'static str, PathBuf)>, String> {
        for producer in &mut self.running {
            drop(producer.child.stdin.take());
        }
        let deadline = shell::now() + Duration::from_secs(DELIVERY_SECONDS_MAX);
        for Producer { name, child, log, .. } in &mut self.running {
            let status = loop {
                if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
                    break status;
                }
                if shell::now() > deadline {
                    return Err(format!(
                        "the producer {name} cannot deliver what is left in {DELIVERY_SECONDS_MAX} s, see {}",
                        log.display()
                    ));
                }
                std::thread::sleep(Duration::from_millis(20));
            };
            if !status.success() {
                return Err(format!("the producer {name} failed ({status}), see {}", log.display()));
            }
        }
        Ok(self.running.iter().map(|producer| (producer.name, producer.acknowledged.clone())).collect())
    }
}

impl Drop for Producers {
    fn drop(&mut self) {
        for producer in &mut self.running {
            // Already gone is as good.
            let _ = producer.child.kill();
            let _ = producer.child.wait();
        }
    }
}

/// Reads the acknowledgements while they are written.
pub(crate) struct Watch {
    clients: Arc<Mutex<Vec<Client>>>,
    ended: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

/// What one producer was told, and when.
struct Client {
    name: &'static str,
    path: PathBuf,
    file: Option<File>,
    /// The begin of a line whose end is not there yet.
    partial: Vec<u8>,
    acknowledged: u64,
    whole: Silence,
    partitions: Vec<Silence>,
}

/// The longest time without an acknowledgement since the last mark.
#[derive(Clone, Copy)]
struct Silence {
    since: Instant,
    longest: Duration,
    /// Of the latest acknowledgement.
    heard: Option<Instant>,
}

impl Silence {
    fn new(now: Instant) -> Self {
        Self { since: now, longest: Duration::ZERO, heard: None }
    }

    fn hear(&mut self, now: Instant) {
        self.longest = self.longest.max(now - self.since);
        self.since = now;
        self.heard = Some(now);
    }
}

/// One producer's longest silences since the last mark.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stall {
    pub(crate) name: &'static str,
    /// No acknowledgement at all.
    pub(crate) whole: Duration,
    /// None of the partition that was silent for longest.
    pub(crate) partition: Duration,
}

impl Watch {
    const PERIOD: Duration = Duration::from_millis(5);

    fn start(files: Vec<(&'static str, PathBuf)>, partitions: usize) -> Self {
        let now = shell::now();
        let client = |(name, path)| Client {
            name,
            path,
            file: None,
            partial: Vec::new(),
            acknowledged: 0,
            whole: Silence::new(now),
            partitions: vec![Silence::new(now); partitions],
        };
        let clients = Arc::new(Mutex::new(files.into_iter().map(client).collect::<Vec<_>>()));
        let ended = Arc::new(AtomicBool::new(false));
        let (shared, stop) = (Arc::clone(&clients), Arc::clone(&ended));
        let reader = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                shared.lock().expect("nobody panics with it").iter_mut().for_each(Client::read_along);
                std::thread::sleep(Self::PERIOD);
            }
        });
        Self { clients, ended, reader: Some(reader) }
    }

    /// Counts silences from now on.
    pub(crate) fn mark(&self) {
        let now = shell::now();
        for client in self.clients.lock().expect("nobody panics with it").iter_mut() {
            for silence in client.partitions.iter_mut().chain([&mut client.whole]) {
                silence.since = now;
                silence.longest = Duration::ZERO;
            }
        }
    }

    /// The longest silences since the mark.
    pub(crate) fn stalls(&self) -> Vec<Stall> {
        let clients = self.clients.lock().expect("nobody panics with it");
        let stall = |client: &Client| Stall {
            name: client.name,
            whole: client.whole.longest,
            partition: client.partitions.iter().map(|p| p.longest).max().unwrap_or_default(),
        };
        clients.iter().map(stall).collect()
    }

    /// Who has not heard of which partitions since `begin`; empty if everybody has of all.
    pub(crate) fn silent_since(&self, begin: Instant) -> Vec<String> {
        let clients = self.clients.lock().expect("nobody panics with it");
        let silent = |client: &Client| {
            let partitions: Vec<String> = (0..client.partitions.len())
                .filter(|&p| client.partitions[p].heard.is_none_or(|heard| heard <= begin))
                .map(|p| p.to_string())
                .collect();
            (!partitions.is_empty())
                .then(|| format!("{} in partitions {}", client.name, partitions.join(" ")))
        };
        clients.iter().filter_map(silent).collect()
    }

    /// Acknowledgements of all producers.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.clients.lock().expect("nobody panics with it").iter().map(|client| client.acknowledged).sum()
    }
}

impl Client {
    fn read_along(&mut self) {
        if self.file.is_none() {
            // The program makes it when it starts.
            self.file = File::open(&self.path).ok();
        }
        let Some(file) = &mut self.file else { return };
        // What cannot be read now is read next time, or the client counts as silent.
        let _ = file.read_to_end(&mut self.partial);
        let now = shell::now();
        let Some(end) = self.partial.iter().rposition(|&byte| byte == b'\n') else { return };
        for line in self.partial[..end].split(|&byte| byte == b'\n') {
            let digits = line.split(|&byte| byte == b' ').next().unwrap_or_default();
            let partition: Option<usize> =
                std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok());
            if let Some(silence) = partition.and_then(|partition| self.partitions.get_mut(partition)) {
                silence.hear(now);
                self.whole.hear(now);
                self.acknowledged += 1;
            }
        }
        self.partial.drain(..=end);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            // A panic of the reader was printed when it happened.
            let _ = reader.join();
        }
    }
}
