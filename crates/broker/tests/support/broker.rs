//! A broker that lives as long as its test, or shorter: it can be stopped and started again on what it has stored.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use broker::clock::SystemClock;
use broker::settings::{Settings, Sources};
use broker::{Node, NodeOptions};
use storage::RealDisk;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// A running broker.
pub struct TestBroker {
    runtime: Runtime,
    node: Option<Node>,
    settings: Vec<String>,
    dir: TempDir,
}

impl TestBroker {
    /// Starts a broker with `key=value` settings over the defaults of a test: a free port, a fresh directory, groups
    /// that wait for nobody.
    pub fn start(settings: &[&str]) -> TestBroker {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime can be started");
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let dir = tempfile::tempdir().expect("a directory can be made");
        let mut broker = TestBroker { runtime, node: None, settings, dir };
        broker.open();
        broker
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.node.as_ref().expect("the broker runs").kafka_addr()
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

    fn open(&mut self) {
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
        let options = NodeOptions { settings, disk: Arc::new(RealDisk), clock: Arc::new(SystemClock) };
        let node = self.runtime.block_on(Node::start(options)).expect("the broker starts");
        self.node = Some(node);
    }

    fn close(&mut self) {
        if let Some(node) = self.node.take() {
            self.runtime.block_on(node.shutdown()).expect("the broker stops in order");
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
