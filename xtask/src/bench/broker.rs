//! A broker under test: its directory and ports, its place in a cluster, its process, its end.
//! Both sides run with what they ship with, apart from addresses, the durability that a cell asks for, and a rebalance
//! delay of zero (as in Kafka's own quick start) so that Java's consumer does not wait. A broker never outlives its value.

use super::options::{Durability, Peer};
use super::probe;
use super::service::Service;
use super::tools::{Workshop, output};
use crate::shell;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
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

/// What a broker runs at: its address for clients and for other brokers, and Ottla's admin port or Kafka's controller port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) listen: SocketAddr,
    pub(crate) second: SocketAddr,
}

/// A broker's place in a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    pub(crate) id: usize,
    /// Who begins the cluster and votes, by id.
    pub(crate) voters: Vec<(usize, Addresses)>,
}

impl Seat {
    fn votes(&self) -> bool {
        self.voters.iter().any(|(id, _)| *id == self.id)
    }

    /// `id@host:port,…`, as `controller.quorum.voters` has it.
    fn voters(&self, address: impl Fn(&Addresses) -> SocketAddr) -> String {
        let voters = self.voters.iter().map(|(id, addresses)| format!("{id}@{}", address(addresses)));
        voters.collect::<Vec<_>>().join(",")
    }
}

/// The id of a cluster, for both sides: 16 bytes in Kafka's alphabet.
const CLUSTER_ID: &str = "b3R0bGEtYmVuY2gtMQ";

/// A place where a broker can be started, killed, and started again.
pub(crate) struct Site<'a> {
    workshop: &'a Workshop,
    peer: Peer,
    durability: Durability,
    dir: PathBuf,
    addresses: Addresses,
    /// None: a cluster of its own.
    seat: Option<Seat>,
}

impl<'a> Site<'a> {
    pub(crate) fn prepare(
        workshop: &'a Workshop,
        peer: Peer,
        durability: Durability,
    ) -> Result<Self, String> {
        let dir = workshop.fresh_dir(&format!("{peer}-{durability}"))?;
        let site = Self { workshop, peer, durability, dir, addresses: two_free_ports()?, seat: None };
        if peer == Peer::Kafka {
            site.format()?;
        }
        Ok(site)
    }

    /// The site of one member of a cluster.
    pub(crate) fn seated(
        workshop: &'a Workshop,
        peer: Peer,
        durability: Durability,
        addresses: Addresses,
        seat: Seat,
    ) -> Result<Self, String> {
        let dir = workshop.fresh_dir(&format!("{peer}-{durability}-{}", seat.id))?;
        assert!(peer == Peer::Ottla || seat.votes(), "every Kafka broker here is a controller too");
        let site = Self { workshop, peer, durability, dir, addresses, seat: Some(seat) };
        if peer == Peer::Kafka {
            site.format()?;
        }
        Ok(site)
    }

    pub(crate) fn listen(&self) -> SocketAddr {
        self.addresses.listen
    }

    /// Starts the broker and waits until it answers; the duration is from before the process exists until then.
    pub(crate) fn start(&self) -> Result<(Broker, Duration), String> {
        let begin = shell::now();
        let broker = self.launch()?;
        let ready = probe::ready(self.listen(), begin, READY_WAIT_MAX)
            .map_err(|reason| format!("{}: {reason} (see {})", self.peer, self.log().display()))?;
        Ok((broker, ready))
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("broker.log")
    }

    /// Where the first partition of a topic lies.
    pub(crate) fn partition_dir(&self, topic: &str) -> PathBuf {
        self.dir.join("data").join(format!("{topic}-0"))
    }

    /// Starts the process and does not wait for it.
    pub(crate) fn launch(&self) -> Result<Broker, String> {
        let log = shell::append(&self.log())?;
        let mut command = match self.peer {
            Peer::Ottla => self.ottla(),
            Peer::Kafka => {
                let mut kafka = self.workshop.kafka("kafka.Kafka", &KAFKA_JVM);
                kafka.arg(self.dir.join("server.properties"));
                kafka
            }
        };
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(|e| e.to_string())?).stderr(log);
        let process = command.spawn().map_err(|e| format!("{}: {e}", self.peer))?;
        Ok(Broker { peer: self.peer, process, bootstrap: self.listen().to_string() })
    }

    fn ottla(&self) -> Command {
        let mut ottla = self.workshop.ottla();
        ottla.arg("dev").arg("--data-dir").arg(self.dir.join("data"));
        let Addresses { listen, second } = self.addresses;
        ottla.args(["--listen", &listen.to_string(), "--admin", &second.to_string()]);
        ottla.args(["--set", "group.initial.rebalance.delay.ms=0"]);
        if let Some(seat) = &self.seat {
            let quorum = if seat.votes() {
                format!("controller.quorum.voters={}", seat.voters(|addresses| addresses.listen))
            } else {
                let known: Vec<String> = seat.voters.iter().map(|(_, at)| at.listen.to_string()).collect();
                format!("controller.quorum.bootstrap.servers={}", known.join(","))
            };
            ottla.args(["--set", &format!("node.id={}", seat.id), "--set", &quorum]);
            ottla.args(["--set", &format!("cluster.id={CLUSTER_ID}")]);
        }
        if self.durability == Durability::PageCache {
            ottla.args(["--set", "log.flush.before.ack=false"]);
        }
        ottla
    }

    fn format(&self) -> Result<(), String> {
        let Addresses { listen, second } = self.addresses;
        let addresses = format!("PLAINTEXT://{listen},CONTROLLER://{second}");
        let id = self.seat.as_ref().map_or(1, |seat| seat.id);
        let cluster = match &self.seat {
            None => {
                format!(
                    "controller.quorum.bootstrap.servers={second}\n\
                     offsets.topic.replication.factor=1\n\
                     share.coordinator.state.topic.replication.factor=1\n\
                     share.coordinator.state.topic.min.isr=1"
                )
            }
            Some(seat) => format!("controller.quorum.voters={}", seat.voters(|addresses| addresses.second)),
        };
        let flush = match self.durability {
            Durability::PageCache => "",
            Durability::Flush => "log.flush.interval.messages=1\n",
        };
        let properties = format!(
            "process.roles=broker,controller\n\
             node.id={id}\n\
             listeners={addresses}\n\
             advertised.listeners={addresses}\n\
             inter.broker.listener.name=PLAINTEXT\n\
             controller.listener.names=CONTROLLER\n\
             {cluster}\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
             log.dirs={}\n\
             group.initial.rebalance.delay.ms=0\n\
             {flush}",
            self.dir.join("data").display()
        );
        let path = self.dir.join("server.properties");
        fs::write(&path, properties).map_err(|e| format!("{}: {e}", path.display()))?;
        let storage_tool = "kafka.tools.StorageTool";
        let mut format = self.workshop.kafka(storage_tool, &[]);
        format.args(["format", "-t", CLUSTER_ID, "-c"]).arg(&path);
        if self.seat.is_none() {
            format.arg("--standalone");
        }
        output(&mut format).map(drop)
    }
}

impl Drop for Site<'_> {
    fn drop(&mut self) {
        // The log stays readable if the bench fails; the data would fill the disk.
        let _ = fs::remove_dir_all(self.dir.join("data"));
    }
}

/// One broker of each side, started and ready.
pub(crate) fn start_all<'a>(
    workshop: &'a Workshop,
    peers: &[Peer],
    durability: Durability,
) -> Result<(Vec<Site<'a>>, Vec<Broker>), String> {
    let mut sites = Vec::new();
    let mut brokers = Vec::new();
    for peer in peers {
        let site = Site::prepare(workshop, *peer, durability)?;
        brokers.push(site.start()?.0);
        sites.push(site);
    }
    Ok((sites, brokers))
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

    pub(crate) fn service(&self) -> Service {
        Service { peer: self.peer, bootstrap: self.bootstrap.clone(), pids: vec![self.pid()], replication: 1 }
    }

    /// An error if it has ended by itself.
    pub(crate) fn check_alive(&mut self) -> Result<(), String> {
        match self.process.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("{} ended by itself: {status}", self.peer)),
            Err(error) => Err(format!("{}: {error}", self.peer)),
        }
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

fn two_free_ports() -> Result<Addresses, String> {
    // Both are held until both are known, so that they differ.
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| e.to_string());
    let (first, second) = (bind()?, bind()?);
    let address = |listener: &TcpListener| listener.local_addr().map_err(|e| e.to_string());
    Ok(Addresses { listen: address(&first)?, second: address(&second)? })
}
