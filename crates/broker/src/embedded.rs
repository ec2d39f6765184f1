//! A broker inside the process that uses it, for tests of programs that speak to Kafka.
//!
//! It is the node that `ottla start` runs, on threads of its own, at a free port of the loopback interface, with its files in
//! memory unless it is given a directory. A test can end it as `kill -9` does, take its power, fill its disk, hold its answers
//! back and cut its connections, and start it again at the same address on what it has stored.
//!
//! Every method blocks until what it says is so, and may be called inside a tokio runtime as well as outside.
//!
//! ```
//! use broker::embedded::EmbeddedBroker;
//! use std::net::TcpStream;
//!
//! # fn main() -> Result<(), broker::embedded::EmbeddedError> {
//! let mut broker = EmbeddedBroker::builder().set("num.partitions", "3").start()?;
//! // `bootstrap.servers` of the program under test.
//! let bootstrap = broker.bootstrap_servers();
//! assert!(TcpStream::connect(&bootstrap).is_ok());
//!
//! broker.kill();
//! assert!(TcpStream::connect(&bootstrap).is_err());
//!
//! // At the same address, with every acknowledged record.
//! broker.start_again()?;
//! assert!(TcpStream::connect(&bootstrap).is_ok());
//! broker.stop()?;
//! # Ok(())
//! # }
//! ```

mod network;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::TokioEnvironment;
use storage::{Disk, RealDisk, StorageError};
use tokio::runtime::Runtime;

pub use storage::fault::{Fault, FaultDisk};

use crate::clock::SystemClock;
use crate::settings::{Settings, SettingsError, Sources};
use crate::{Node, NodeOptions, StartError};
use network::HeldNetwork;

/// How long the tasks of a broker that is killed may take to be dropped.
const KILL_MAX: Duration = Duration::from_secs(30);
/// Threads of a broker, beside those that flush.
const WORKERS: usize = 2;
/// Where a disk in memory has the broker's files.
const DATA_DIR_IN_MEMORY: &str = "/ottla";
/// Settings that spare a test what it would wait for.
const PRESETS: [(&str, &str); 3] =
    [("node.id", "1"), ("group.initial.rebalance.delay.ms", "0"), ("offsets.topic.num.partitions", "4")];

/// Why a broker could not be started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// The settings are not valid; the message names each that is not.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The broker did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The machine has no threads left.
    #[error("the broker's threads cannot be started: {0}")]
    Threads(io::Error),
    /// The broker ended, but could not put its files in order: the next start recovers.
    #[error("the broker did not stop in order: {0}")]
    Stop(StorageError),
}

/// A broker that lives as long as this value, or shorter. Dropping it kills it.
pub struct EmbeddedBroker {
    settings: Vec<(String, String)>,
    storage: Storage,
    data_dir: PathBuf,
    network: HeldNetwork,
    /// Where it listens, or did when it ran last.
    address: Option<SocketAddr>,
    running: Option<Running>,
}

struct Running {
    runtime: Runtime,
    node: Node,
}

enum Storage {
    Memory(FaultDisk),
    Other(Arc<dyn Disk>),
}

/// What a broker is started with.
#[derive(Default)]
pub struct EmbeddedBuilder {
    settings: Vec<(String, String)>,
    storage: Option<Storage>,
    data_dir: Option<PathBuf>,
}

impl EmbeddedBuilder {
    /// Sets one of the broker's settings, under Kafka's name. Of two values for one key the later one counts.
    #[must_use]
    pub fn set(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((key.into(), value.into()));
        self
    }

    /// Stores in this directory of the machine instead of in memory. It is made if it is not there, and stays when the broker
    /// is gone.
    #[must_use]
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(path.into());
        self
    }

    /// Stores on this disk in memory, which the test keeps a clone of to have it fail: see [`FaultDisk`].
    ///
    /// ```
    /// # use broker::embedded::{EmbeddedBroker, FaultDisk};
    /// # fn main() -> Result<(), broker::embedded::EmbeddedError> {
    /// let disk = FaultDisk::new();
    /// let mut broker = EmbeddedBroker::builder().memory(&disk).start()?;
    /// // A power cut: of what was not flushed nothing is left.
    /// broker.kill();
    /// disk.crash(&mut |_: u64| 0);
    /// broker.start_again()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn memory(mut self, disk: &FaultDisk) -> Self {
        self.storage = Some(Storage::Memory(disk.clone()));
        self
    }

    /// Stores on any other disk.
    #[must_use]
    pub fn disk(mut self, disk: Arc<dyn Disk>) -> Self {
        self.storage = Some(Storage::Other(disk));
        self
    }

    /// Starts the broker. When this returns it answers.
    pub fn start(self) -> Result<EmbeddedBroker, EmbeddedError> {
        let storage = match (self.storage, &self.data_dir) {
            (Some(storage), _) => storage,
            (None, Some(_)) => Storage::Other(Arc::new(RealDisk)),
            (None, None) => Storage::Memory(FaultDisk::new()),
        };
        let mut broker = EmbeddedBroker {
            settings: self.settings,
            storage,
            data_dir: self.data_dir.unwrap_or_else(|| DATA_DIR_IN_MEMORY.into()),
            network: HeldNetwork::default(),
            address: None,
            running: None,
        };
        broker.start_again()?;
        Ok(broker)
    }
}

impl EmbeddedBroker {
    /// Starts a broker with default settings that stores in memory.
    pub fn start() -> Result<EmbeddedBroker, EmbeddedError> {
        EmbeddedBroker::builder().start()
    }

    /// Says first how it is to be.
    #[must_use]
    pub fn builder() -> EmbeddedBuilder {
        EmbeddedBuilder::default()
    }

    /// Where it listens; the same after a restart.
    pub fn address(&self) -> SocketAddr {
        self.address.expect("it has been started once")
    }

    /// The same as the `bootstrap.servers` of a client.
    pub fn bootstrap_servers(&self) -> String {
        self.address().to_string()
    }

    /// Where it serves `/metrics`, `/livez` and `/readyz`, if it runs and `admin.listener` is set.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.running.as_ref()?.node.admin_addr()
    }

    /// Where it stores.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Why it cannot go on, if it finds that out within `patience`: the process of a broker would end now. It has still to be
    /// stopped or killed.
    pub fn failed(&self, patience: Duration) -> Option<&'static str> {
        let Running { runtime, node } = self.running.as_ref()?;
        outside(|| runtime.block_on(async { tokio::time::timeout(patience, node.failed()).await.ok() }))
    }

    /// Starts it again after [`stop`](Self::stop) or [`kill`](Self::kill), at the same address and on what it has stored. Does
    /// nothing when it runs.
    pub fn start_again(&mut self) -> Result<(), EmbeddedError> {
        if self.running.is_some() {
            return Ok(());
        }
        let disk = match &self.storage {
            Storage::Memory(disk) => Arc::new(disk.clone()),
            Storage::Other(disk) => Arc::clone(disk),
        };
        let options = NodeOptions {
            settings: self.load()?,
            disk,
            clock: Arc::new(SystemClock),
            environment: Arc::new(TokioEnvironment),
            network: Arc::new(self.network.clone()),
        };
        let running = outside(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(WORKERS)
                .thread_name("ottla")
                .enable_all()
                .build()
                .map_err(EmbeddedError::Threads)?;
            match runtime.block_on(Node::start(options)) {
                Ok(node) => Ok(Running { runtime, node }),
                Err(error) => {
                    runtime.shutdown_timeout(KILL_MAX);
                    Err(EmbeddedError::from(error))
                }
            }
        })?;
        self.address = Some(running.node.kafka_addr());
        self.running = Some(running);
        Ok(())
    }

    /// Stops it in order: what is in flight is answered, everything is flushed. Does nothing when it does not run.
    pub fn stop(&mut self) -> Result<(), EmbeddedError> {
        let Some(Running { runtime, node }) = self.running.take() else { return Ok(()) };
        // Or it would wait for answers to leave that are held back.
        self.network.release();
        outside(move || {
            let stopped = runtime.block_on(node.shutdown());
            runtime.shutdown_timeout(KILL_MAX);
            stopped.map_err(EmbeddedError::Stop)
        })
    }

    /// Ends it without a word, as SIGKILL does: nothing is flushed, nothing is answered. What was written stays, as in the page
    /// cache of a machine that goes on; see [`EmbeddedBuilder::memory`] for one that does not. Does nothing when it does not run.
    pub fn kill(&mut self) {
        let Some(Running { runtime, node }) = self.running.take() else { return };
        outside(move || {
            drop(node);
            // Its tasks are dropped where they stand; with the last of them goes the lock on the directory.
            runtime.shutdown_timeout(KILL_MAX);
        });
        self.network.release();
        if let Storage::Memory(disk) = &self.storage {
            disk.kill();
        }
    }

    /// From now on requests are carried out and not answered: the clients do not know whether they were. Ends with
    /// [`release_answers`](Self::release_answers) and with the broker. A connection that cannot be written to for long is closed.
    pub fn hold_answers(&self) {
        self.network.hold();
    }

    /// On how many connections an answer is held back: what it answers has been carried out.
    pub fn connections_held(&self) -> usize {
        self.network.waiting()
    }

    /// What was held back is sent, on the connections that are still there.
    pub fn release_answers(&self) {
        self.network.release();
    }

    /// Cuts every connection that is open. New ones are taken at once. After [`hold_answers`](Self::hold_answers) the answers
    /// are lost with the connections, and clients have to ask again what has been done already.
    pub fn drop_connections(&self) {
        self.network.cut();
    }

    fn load(&self) -> Result<Settings, SettingsError> {
        let port = self.address.map_or(0, |address| address.port());
        let mut sources = Sources::new()
            .preset("log.dirs", self.data_dir.display().to_string())
            .preset("listeners", format!("PLAINTEXT://127.0.0.1:{port}"));
        for (key, value) in PRESETS {
            sources = sources.preset(key, value);
        }
        for (key, value) in &self.settings {
            sources = sources.set(&format!("{key}={value}"));
        }
        Settings::load(sources)
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs on a thread of its own: a runtime can neither be waited for nor dropped inside another one.
fn outside<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    let done = std::thread::scope(|scope| scope.spawn(act).join());
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The page for users, whose examples run with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/testing.md")]
struct Page;
