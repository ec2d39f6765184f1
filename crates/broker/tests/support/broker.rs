//! A broker that lives as long as its test, or shorter: it can be stopped and started again on what it has stored.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use broker::clock::SystemClock;
use broker::network::TcpNetwork;
use broker::settings::{Settings, Sources};
use broker::{Node, NodeOptions};
use storage::{Disk, RealDisk};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// How long tasks may take to be dropped.
const SHUTDOWN_MAX: Duration = Duration::from_secs(30);

/// A running broker.
pub struct TestBroker {
    runtime: Option<Runtime>,
    node: Option<Node>,
    settings: Vec<String>,
    disk: Arc<dyn Disk>,
    dir: TempDir,
}

impl TestBroker {
    /// Starts a broker with `key=value` settings over the defaults of a test: a free port, a fresh directory, groups
    /// that wait for nobody.
    pub fn start(settings: &[&str]) -> TestBroker {
        TestBroker::start_on(Arc::new(RealDisk), settings)
    }

    /// The same on a disk that the test has in its hands.
    pub fn start_on(disk: Arc<dyn Disk>, settings: &[&str]) -> TestBroker {
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let dir = tempfile::tempdir().expect("a directory can be made");
        let mut broker = TestBroker { runtime: None, node: None, settings, disk, dir };
        broker.open();
        broker
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.node.as_ref().expect("the broker runs").kafka_addr()
    }

    /// The page of its metrics, if `admin.listener` is set.
    pub fn metrics(&self) -> String {
        let node = self.node.as_ref().expect("the broker runs");
        super::get_metrics(node.admin_addr().expect("it serves its metrics"))
    }

    /// Why it cannot go on, if it finds that out within so long.
    pub fn failed(&self, patience: Duration) -> Option<&'static str> {
        let (runtime, node) = (self.runtime.as_ref().expect("it runs"), self.node.as_ref().expect("it runs"));
        runtime.block_on(async { tokio::time::timeout(patience, node.failed()).await.ok() })
    }

    /// Where it stores.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Stops it in order and starts it again on the same directory; its port is another one then.
    pub fn restart(&mut self) {
        self.close();
        self.open();
    }

    /// Ends it without a word, as SIGKILL does: nothing is flushed, nothing is answered. `meanwhile` is what happens to the
    /// machine before the broker starts again.
    pub fn kill(&mut self, meanwhile: impl FnOnce()) {
        let runtime = self.runtime.take().expect("the broker runs");
        self.node = None;
        // Its tasks are dropped where they stand; with the last of them goes the lock on the directory.
        runtime.shutdown_timeout(SHUTDOWN_MAX);
        meanwhile();
        self.open();
    }

    fn open(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime can be started");
        let dir = self.dir.path().to_str().expect("temporary directories have plain names");
        let mut sources = Sources::new()
            .preset("node.id", "1")
            .preset("log.dirs", dir)
            .preset("listeners", "PLAINTEXT://127.0.0.1:0")
            .preset("group.initial.rebalance.delay.ms", "0")
            .preset("offsets.topic.num.partitions", "4");
        for setting in &self.settings {
            sources = sources.set(setting);
        }
        let settings = Settings::load(sources).expect("the test's settings are valid");
        let options = NodeOptions {
            settings,
            disk: Arc::clone(&self.disk),
            clock: Arc::new(SystemClock),
            environment: Arc::new(client::TokioEnvironment),
            network: Arc::new(TcpNetwork),
        };
        self.node = Some(runtime.block_on(Node::start(options)).expect("the broker starts"));
        self.runtime = Some(runtime);
    }

    fn close(&mut self) {
        if let (Some(node), Some(runtime)) = (self.node.take(), self.runtime.take()) {
            runtime.block_on(node.shutdown()).expect("the broker stops in order");
        }
    }
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        // A test that has failed already must not fail twice.
        if let (Some(node), true) = (self.node.take(), std::thread::panicking()) {
            drop(node);
            return;
        }
        self.close();
    }
}
