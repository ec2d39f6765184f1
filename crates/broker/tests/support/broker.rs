//! An embedded broker with a directory of its own, and the names that the tests have for what it does.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use broker::embedded::{EmbeddedBroker, EmbeddedBuilder};
use storage::{Disk, RealDisk};
use tempfile::TempDir;

/// A running broker.
pub struct TestBroker {
    broker: EmbeddedBroker,
    // Behind the broker, which writes to it.
    _dir: TempDir,
}

impl TestBroker {
    /// Starts a broker with `key=value` settings in a fresh directory.
    pub fn start(settings: &[&str]) -> TestBroker {
        TestBroker::start_on(Arc::new(RealDisk), settings)
    }

    /// The same on a disk that the test has in its hands.
    pub fn start_on(disk: Arc<dyn Disk>, settings: &[&str]) -> TestBroker {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let broker = EmbeddedBroker::builder().data_dir(dir.path()).disk(disk);
        let broker = settings.iter().copied().fold(broker, set).start().expect("the broker starts");
        TestBroker { broker, _dir: dir }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.broker.address()
    }

    /// The page of its metrics, if `admin.listener` is set.
    pub fn metrics(&self) -> String {
        super::get_metrics(self.broker.admin_address().expect("it serves its metrics"))
    }

    /// Why it cannot go on, if it finds that out within so long.
    pub fn failed(&self, patience: Duration) -> Option<&'static str> {
        self.broker.failed(patience)
    }

    /// Where it stores.
    pub fn dir(&self) -> &Path {
        self.broker.data_dir()
    }

    /// Stops it in order and starts it again on the same directory.
    pub fn restart(&mut self) {
        self.broker.stop().expect("the broker stops in order");
        self.broker.start_again().expect("the broker starts again");
    }

    /// Ends it without a word, as SIGKILL does: nothing is flushed, nothing is answered. `meanwhile` is what happens to the
    /// machine before the broker starts again.
    pub fn kill(&mut self, meanwhile: impl FnOnce()) {
        self.broker.kill();
        meanwhile();
        self.broker.start_again().expect("the broker starts again");
    }
}

/// Takes over a setting that is written as `key=value`.
pub fn set(broker: EmbeddedBuilder, setting: &str) -> EmbeddedBuilder {
    let (key, value) = setting.split_once('=').expect("a setting is written as key=value");
    broker.set(key, value)
}
