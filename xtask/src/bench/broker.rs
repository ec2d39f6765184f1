//! A broker under test: its directory and ports, its process, its end.
//! Both sides run with what they ship with, apart from addresses, the durability that a cell asks for, and a rebalance
//! delay of zero (as in Kafka's own quick start) so that Java's consumer does not wait. A broker never outlives its value.

use super::options::{Durability, Peer};
use super::probe;
use super::tools::{Workshop, output};
use crate::shell;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

const READY_WAIT_MAX: Duration = Duration::from_secs(120);
/// What kafka-server-start.sh and kafka-run-class.sh give the broker.
const KAFKA_JVM: [&str; 8] = [
    "-Xmx1G",
    "-Xms1G",
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
    "-Djava.awt.headless=true",
];

/// A place where a broker can be started, killed, and started again.
pub(crate) struct Site<'a> {
    workshop: &'a Workshop,
    peer: Peer,
    durability: Durability,
    dir: PathBuf,
    listen: SocketAddr,
    /// Ottla's admin port, Kafka's controller port.
    second: SocketAddr,
}

impl<'a> Site<'a> {
    pub(crate) fn prepare(
        workshop: &'a Workshop,
        peer: Peer,
        durability: Durability,
    ) -> Result<Self, String> {
        let dir = workshop.fresh_dir(&format!("{peer}-{durability}"))?;
        let (listen, second) = two_free_ports()?;
        let site = Self { workshop, peer, durability, dir, listen, second };
        if peer == Peer::Kafka {
            site.format()?;
        }
        Ok(site)
    }

    /// Starts the broker and waits until it answers; the duration is from before the process exists until then.
    pub(crate) fn start(&self) -> Result<(Broker, Duration), String> {
        let log_path = self.dir.join("broker.log");
        let log = shell::append(&log_path)?;
        let mut command = match self.peer {
            Peer::Ottla => self.ottla(),
            Peer::Kafka => {
                let mut kafka = self.workshop.kafka("kafka.Kafka", &KAFKA_JVM);
                kafka.arg(self.dir.join("server.properties"));
                kafka
            }
        };
        command.stdout(log.try_clone().map_err(|e| e.to_string())?).stderr(log);
        let begin = shell::now();
        let process = command.spawn().map_err(|e| format!("{}: {e}", self.peer))?;
        let broker = Broker { peer: self.peer, process, bootstrap: self.listen.to_string() };
        let ready = probe::ready(self.listen, begin, READY_WAIT_MAX)
            .map_err(|reason| format!("{}: {reason} (see {})", self.peer, log_path.display()))?;
        Ok((broker, ready))
    }

    fn ottla(&self) -> Command {
        let mut ottla = self.workshop.ottla();
        ottla.arg("dev").arg("--data-dir").arg(self.dir.join("data"));
        ottla.args(["--listen", &self.listen.to_string(), "--admin", &self.second.to_string()]);
        ottla.args(["--set", "group.initial.rebalance.delay.ms=0"]);
        if self.durability == Durability::PageCache {
            ottla.args(["--set", "log.flush.before.ack=false"]);
        }
        ottla
    }

    fn format(&self) -> Result<(), String> {
        let Self { listen, second, .. } = self;
        let addresses = format!("PLAINTEXT://{listen},CONTROLLER://{second}");
        let flush = match self.durability {
            Durability::PageCache => "",
            Durability::Flush => "log.flush.interval.messages=1\n",
        };
        let properties = format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             listeners={addresses}\n\
             advertised.listeners={addresses}\n\
             inter.broker.listener.name=PLAINTEXT\n\
             controller.listener.names=CONTROLLER\n\
             controller.quorum.bootstrap.servers={second}\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
             log.dirs={}\n\
             offsets.topic.replication.factor=1\n\
             group.initial.rebalance.delay.ms=0\n\
             {flush}",
            self.dir.join("data").display()
        );
        let path = self.dir.join("server.properties");
        fs::write(&path, properties).map_err(|e| format!("{}: {e}", path.display()))?;
        let storage_tool = "kafka.tools.StorageTool";
        let printed = output(self.workshop.kafka(storage_tool, &[]).arg("random-uuid"))?;
        let cluster = printed.lines().last().unwrap_or_default().trim().to_owned();
        let format = ["format", "--standalone", "-t", &cluster, "-c"];
        output(self.workshop.kafka(storage_tool, &[]).args(format).arg(&path)).map(drop)
    }
}

impl Drop for Site<'_> {
    fn drop(&mut self) {
        // The log stays readable if the bench fails; the data would fill the disk.
        let _ = fs::remove_dir_all(self.dir.join("data"));
    }
}

/// A running broker.
pub(crate) struct Broker {
    peer: Peer,
    process: Child,
    bootstrap: String,
}

impl Broker {
    pub(crate) fn peer(&self) -> Peer {
        self.peer
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// SIGKILL, and the wait until it is gone.
    pub(crate) fn kill(mut self) -> Result<(), String> {
        self.end().map_err(|e| format!("{}: {e}", self.peer))
    }

    /// SIGTERM, and how long it takes to stop in order.
    pub(crate) fn stop(mut self) -> Result<Duration, String> {
        let begin = shell::now();
        shell::signal(self.pid(), "TERM")?;
        let status = self.process.wait().map_err(|e| format!("{}: {e}", self.peer))?;
        let stopped = begin.elapsed();
        // A JVM that a signal ends says so by its exit code.
        let is_in_order = status.success() || (self.peer == Peer::Kafka && status.code() == Some(143));
        if is_in_order { Ok(stopped) } else { Err(format!("{}: SIGTERM ended in {status}", self.peer)) }
    }

    fn end(&mut self) -> std::io::Result<()> {
        self.process.kill()?;
        self.process.wait().map(drop)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.end();
    }
}

fn two_free_ports() -> Result<(SocketAddr, SocketAddr), String> {
    // Both are held until both are known, so that they differ.
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| e.to_string());
    let (first, second) = (bind()?, bind()?);
    let address = |listener: &TcpListener| listener.local_addr().map_err(|e| e.to_string());
    Ok((address(&first)?, address(&second)?))
}
