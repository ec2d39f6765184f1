//! `ottla dev --brokers N` as a process: its brokers are killed one by one, and it starts each again after a while. Whether
//! all is well again is what `ottla cluster health` says.

use crate::shell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// For a cluster to be well again.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);
/// What no broker has a reason to say.
const COMPLAINT: &str = "panicked";

/// What `ottla cluster health` says.
pub(crate) struct Health {
    pub(crate) is_healthy: bool,
    pub(crate) text: String,
}

/// The process with its brokers; they do not outlive the value.
pub(crate) struct DevCluster<'a> {
    binary: &'a Path,
    home: &'a Path,
    brokers: u16,
    port: u16,
    process: Child,
}

impl<'a> DevCluster<'a> {
    pub(crate) fn start(binary: &'a Path, brokers: u16, home: &'a Path) -> Result<Self, String> {
        Self::start_with(binary, brokers, home, &[])
    }

    /// With these settings, `key=value`, in each broker.
    pub(crate) fn start_with(
        binary: &'a Path,
        brokers: u16,
        home: &'a Path,
        settings: &[&str],
    ) -> Result<Self, String> {
        let ports = shell::lasting_ports(2 * usize::from(brokers))?;
        let (port, admin_port) = (ports[0], ports[usize::from(brokers)]);
        let log = home.join("brokers.log");
        let mut command = Command::new(binary);
        command.args(["dev", "--brokers", &brokers.to_string(), "--data-dir"]).arg(home.join("data")).args([
            "--listen",
            &format!("127.0.0.1:{port}"),
            "--admin",
            &format!("127.0.0.1:{admin_port}"),
        ]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        let process = command
            .stdin(Stdio::null())
            .stdout(shell::append(&log)?)
            .stderr(shell::append(&log)?)
            .spawn()
            .map_err(|error| format!("cannot run {}: {error}", shell::words(&command)))?;
        let cluster = Self { binary, home, brokers, port, process };
        cluster.wait_until_healthy(shell::now())?;
        Ok(cluster)
    }

    pub(crate) fn bootstrap(&self) -> String {
        let addresses: Vec<String> =
            (self.port..self.port + self.brokers).map(|port| format!("127.0.0.1:{port}")).collect();
        addresses.join(",")
    }

    fn log(&self) -> PathBuf {
        self.home.join("brokers.log")
    }

    /// The data directories of each broker.
    pub(crate) fn dirs(&self) -> Vec<Vec<PathBuf>> {
        (1..=self.brokers).map(|id| vec![self.home.join("data").join(format!("broker-{id}"))]).collect()
    }

    /// A broker that came back leads nothing until the cluster balances its leaders, which takes minutes.
    pub(crate) fn spread_leaders(&self) -> Result<(), String> {
        let mut elect = Command::new(self.binary);
        elect.args(["cluster", "elect", "--brokers", &self.bootstrap()]);
        shell::pipe(&mut elect, "", &self.home.join("elect.log")).map(|_| ())
    }

    /// kill -9 of one broker; the process above starts it again after a while.
    pub(crate) fn kill(&self, id: u16) -> Result<(), String> {
        let pid = self.pid(id)?;
        shell::signal(pid, "KILL")
    }

    /// Of the broker that is the `id`th child by what it was started with.
    fn pid(&self, id: u16) -> Result<u32, String> {
        let parent = self.process.id();
        let path = format!("/proc/{parent}/task/{parent}/children");
        let children =
            fs::read_to_string(&path).map_err(|error| format!("{path}: {error} (this wants Linux)"))?;
        let mark = format!("\0node.id={id}\0");
        let is_it = |child: &u32| {
            fs::read_to_string(format!("/proc/{child}/cmdline")).is_ok_and(|words| words.contains(&mark))
        };
        let mut children = children.split_whitespace().filter_map(|child| child.parse().ok());
        children.find(is_it).ok_or_else(|| format!("broker {id} does not run, see {}", self.log().display()))
    }

    pub(crate) fn health(&self) -> Result<Health, String> {
        let mut command = Command::new(self.binary);
        command.args(["cluster", "health", "--brokers", &self.bootstrap()]).stdin(Stdio::null());
        let output =
            command.output().map_err(|error| format!("cannot run {}: {error}", shell::words(&command)))?;
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        shell::note(&self.home.join("health.log"), &format!("{}\n{text}\n", output.status))?;
        match output.status.code() {
            Some(0) => Ok(Health { is_healthy: true, text }),
            Some(1) => Ok(Health { is_healthy: false, text }),
            _ => Err(format!("{}: {}\n{text}", shell::words(&command), output.status)),
        }
    }

    /// The first look at a cluster whose broker was killed already tells which; how long that took.
    pub(crate) fn wait_until_told_of(&self, id: u16) -> Result<Duration, String> {
        let begin = shell::now();
        let health = self.health()?;
        let named = format!("broker {id} ");
        if health.is_healthy || !health.text.contains(&named) {
            return Err(format!("broker {id} is down, and the health is said to be\n{}", health.text));
        }
        Ok(begin.elapsed())
    }

    /// How long after `since` all was well.
    pub(crate) fn wait_until_healthy(&self, since: Instant) -> Result<Duration, String> {
        loop {
            let health = self.health()?;
            if health.is_healthy {
                return Ok(since.elapsed());
            }
            if since.elapsed() > PATIENCE {
                return Err(format!("not healthy after {} s:\n{}", PATIENCE.as_secs(), health.text));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// An error if it has ended, or has said what no broker should.
    pub(crate) fn check(&mut self) -> Result<(), String> {
        let log = self.log();
        let ended =
            self.process.try_wait().map_err(|error| format!("cannot look after the cluster: {error}"))?;
        if let Some(status) = ended {
            return Err(format!("the cluster ended ({status}), see {}", log.display()));
        }
        let text = fs::read(&log).map_err(|error| format!("{}: {error}", log.display()))?;
        if String::from_utf8_lossy(&text).contains(COMPLAINT) {
            return Err(format!("a broker {COMPLAINT}, see {}", log.display()));
        }
        Ok(())
    }
}

impl Drop for DevCluster<'_> {
    fn drop(&mut self) {
        // The brokers' standard input ends with it, and they with that. Already gone is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
