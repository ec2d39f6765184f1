//! The broker under test as a process: ours, or Apache Kafka as the reference that tells a wrong check from a wrong
//! broker. It is started, killed and started again on one address and one data directory; whatever happens to the
//! caller, it does not outlive the value.

use crate::shell;
use crate::toolbox::Toolbox;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const READY_SECONDS_MAX: u64 = 60;

/// Which broker.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// The binary of this repository.
    Ottla { binary: PathBuf },
    /// Apache Kafka from the jars in `.tools/`.
    Kafka,
}

/// A broker with its address and its files; it may be down.
#[derive(Debug)]
pub(crate) struct Peer {
    kind: Kind,
    settings: &'static [&'static str],
    home: PathBuf,
    port: u16,
    second_port: u16,
    disks: usize,
    process: Option<Child>,
}

impl Peer {
    /// A broker whose files and log lie in `home`, with `settings` (`key=value`) beside its defaults; it is not started
    /// yet.
    pub(crate) fn new(kind: Kind, home: &Path, settings: &'static [&'static str]) -> Result<Self, String> {
        fs::create_dir_all(home).map_err(|error| format!("cannot create {}: {error}", home.display()))?;
        Ok(Self {
            kind,
            settings,
            home: home.to_path_buf(),
            port: shell::free_port()?,
            second_port: shell::free_port()?,
            disks: 1,
            process: None,
        })
    }

    /// The same with two data directories.
    pub(crate) fn with_two_disks(mut self) -> Self {
        self.disks = 2;
        self
    }

    /// `host:port` for clients.
    pub(crate) fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where its partitions lie.
    pub(crate) fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    /// All that it is given to keep partitions in.
    fn log_dirs(&self) -> String {
        let others = (2..=self.disks).map(|at| self.home.join(format!("data-{at}")));
        let dirs = std::iter::once(self.data()).chain(others).map(|dir| dir.display().to_string());
        dirs.collect::<Vec<_>>().join(",")
    }

    /// What it has printed over all its lives.
    pub(crate) fn log(&self) -> PathBuf {
        self.home.join("broker.log")
    }

    /// Starts it and waits until it listens; the time that this took.
    pub(crate) fn start(&mut self, toolbox: &Toolbox) -> Result<Duration, String> {
        assert!(self.process.is_none(), "a broker is started while it is down");
        let mut command = match &self.kind {
            Kind::Ottla { binary } => self.ottla(binary),
            Kind::Kafka => self.kafka(toolbox)?,
        };
        let log = shell::append(&self.log())?;
        let copy = log.try_clone().map_err(|error| format!("{}: {error}", self.log().display()))?;
        let begin = shell::now();
        let child = command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(copy)
            .spawn()
            .map_err(|error| format!("cannot run {}: {error}", shell::words(&command)))?;
        self.process = Some(child);
        self.wait_until_listening()?;
        Ok(begin.elapsed())
    }

    fn ottla(&self, binary: &Path) -> Command {
        let mut command = Command::new(binary);
        command
            .args([
                "dev",
                "--listen",
                &self.bootstrap(),
                "--admin",
                &format!("127.0.0.1:{}", self.second_port),
            ])
            .arg("--data-dir")
            .arg(self.log_dirs())
            .args(self.settings.iter().flat_map(|setting| ["--set", setting]));
        command
    }

    fn kafka(&self, toolbox: &Toolbox) -> Result<Command, String> {
        let settings = self.home.join("server.properties");
        if !settings.exists() {
            let (port, controller, dirs) = (self.port, self.second_port, self.log_dirs());
            let text = format!(
                "process.roles=broker,controller\n\
                 node.id=1\n\
                 listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
                 advertised.listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
                 inter.broker.listener.name=PLAINTEXT\n\
                 controller.listener.names=CONTROLLER\n\
                 controller.quorum.bootstrap.servers=127.0.0.1:{controller}\n\
                 listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
                 log.dirs={}\n\
                 offsets.topic.replication.factor=1\n\
                 transaction.state.log.replication.factor=1\n\
                 transaction.state.log.min.isr=1\n\
                 group.initial.rebalance.delay.ms=0\n\
                 {}\n",
                dirs,
                self.settings.join("\n")
            );
            fs::write(&settings, text).map_err(|error| format!("{}: {error}", settings.display()))?;
            let mut format = toolbox.java();
            format.args([
                "kafka.tools.StorageTool",
                "format",
                "--standalone",
                "-t",
                "ottla-compat-reference",
                "-c",
            ]);
            shell::run_logged(format.arg(&settings), &self.log())?;
        }
        let mut command = toolbox.java();
        command.arg("kafka.Kafka").arg(settings).current_dir(&self.home);
        Ok(command)
    }

    fn wait_until_listening(&mut self) -> Result<(), String> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let deadline = shell::now() + Duration::from_secs(READY_SECONDS_MAX);
        let process = self.process.as_mut().expect("the broker was just started");
        loop {
            if TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok() {
                return Ok(());
            }
            let ended =
                process.try_wait().map_err(|error| format!("cannot look after the broker: {error}"))?;
            if let Some(status) = ended {
                self.process = None;
                return Err(format!("the broker ended at once ({status}), see {}", self.log().display()));
            }
            if shell::now() > deadline {
                return Err(format!(
                    "the broker does not listen on {address} after {READY_SECONDS_MAX} s, see {}",
                    self.log().display()
                ));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// An error if it has died by itself.
    pub(crate) fn check_alive(&mut self) -> Result<(), String> {
        let Some(process) = &mut self.process else { return Ok(()) };
        match process.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("the broker died ({status}), see {}", self.log().display())),
            Err(error) => Err(format!("cannot look after the broker: {error}")),
        }
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) -> Result<(), String> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process
            .kill()
            .and_then(|()| process.wait())
            .map_err(|error| format!("cannot kill the broker: {error}"))?;
        Ok(())
    }

    /// Runs `work` while the broker stands still (SIGSTOP), so that its files do too.
    pub(crate) fn frozen<T>(&self, work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
        let pid = self.process.as_ref().expect("a running broker is frozen").id();
        shell::signal(pid, "STOP")?;
        let outcome = work();
        shell::signal(pid, "CONT")?;
        outcome
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Nobody is left to tell; a process that cannot be killed is gone already.
        let _ = self.kill();
    }
}
