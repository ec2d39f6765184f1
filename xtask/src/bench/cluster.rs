//! Several brokers of one side as a cluster: three that vote, and more where a figure needs room for more partitions.
//! Ports stay a broker's own while it is down. It never waits for anything but a broker's first answer: whether partitions
//! are led is for clients to find out.

use super::broker::{Addresses, Broker, Seat, Site};
use super::options::{Durability, Peer};
use super::probe;
use super::service::Service;
use super::tools::Workshop;
use crate::shell;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub(crate) const VOTERS: usize = 3;
/// How many replicas a partition has in every figure about replication.
pub(crate) const REPLICATION: u32 = 3;
/// A JVM that starts beside others on few cores.
const READY_WAIT_MAX: Duration = Duration::from_secs(180);

/// Its brokers are numbered from 1.
pub(crate) struct Cluster<'a> {
    peer: Peer,
    sites: Vec<Site<'a>>,
    brokers: Vec<Option<Broker>>,
}

impl<'a> Cluster<'a> {
    /// Three brokers with empty directories, started and ready.
    pub(crate) fn start(workshop: &'a Workshop, peer: Peer, durability: Durability) -> Result<Self, String> {
        Self::of(workshop, peer, durability, VOTERS)
    }

    /// So many brokers, of which three vote.
    pub(crate) fn of(
        workshop: &'a Workshop,
        peer: Peer,
        durability: Durability,
        brokers: usize,
    ) -> Result<Self, String> {
        let ports = shell::lasting_ports(2 * brokers)?;
        let at = |port: &u16| SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
        let addresses: Vec<Addresses> =
            ports.chunks(2).map(|pair| Addresses { listen: at(&pair[0]), second: at(&pair[1]) }).collect();
        let voters: Vec<(usize, Addresses)> = (1..).zip(addresses.iter().copied()).take(VOTERS).collect();
        let mut sites = Vec::new();
        for (id, addresses) in (1..).zip(addresses) {
            let seat = Seat { id, voters: voters.clone() };
            sites.push(Site::seated(workshop, peer, durability, addresses, seat)?);
        }
        let mut cluster = Self { peer, brokers: sites.iter().map(|_| None).collect(), sites };
        cluster.launch_all()?;
        for id in cluster.ids() {
            cluster.wait_until_ready(id)?;
        }
        Ok(cluster)
    }

    pub(crate) fn peer(&self) -> Peer {
        self.peer
    }

    pub(crate) fn ids(&self) -> std::ops::RangeInclusive<usize> {
        1..=self.sites.len()
    }

    pub(crate) fn address(&self, id: usize) -> SocketAddr {
        self.sites[id - 1].listen()
    }

    /// Those that are up, with replication.
    pub(crate) fn service(&self) -> Service {
        Service {
            peer: self.peer,
            bootstrap: self.addresses(),
            pids: self.brokers.iter().flatten().map(Broker::pid).collect(),
            replication: REPLICATION,
        }
    }

    /// The addresses of all, also of those that are down.
    fn addresses(&self) -> String {
        self.sites.iter().map(|site| site.listen().to_string()).collect::<Vec<_>>().join(",")
    }

    /// The broker's log, for a message.
    pub(crate) fn log(&self, id: usize) -> PathBuf {
        self.sites[id - 1].log()
    }

    pub(crate) fn launch_all(&mut self) -> Result<(), String> {
        self.ids().try_for_each(|id| self.launch(id))
    }

    /// Starts the process and does not wait for it.
    pub(crate) fn launch(&mut self, id: usize) -> Result<(), String> {
        assert!(self.brokers[id - 1].is_none(), "a broker is started while it is down");
        self.brokers[id - 1] = Some(self.sites[id - 1].launch()?);
        Ok(())
    }

    pub(crate) fn wait_until_ready(&self, id: usize) -> Result<Duration, String> {
        probe::ready(self.address(id), shell::now(), READY_WAIT_MAX)
            .map_err(|reason| format!("{} {id}: {reason} (see {})", self.peer, self.log(id).display()))
    }

    /// kill -9, and the wait until it is gone.
    pub(crate) fn kill(&mut self, id: usize) -> Result<(), String> {
        self.taken(id)?.kill()
    }

    /// All at one moment, and the wait until they are gone.
    pub(crate) fn kill_all(&mut self) -> Result<(), String> {
        let pids: Vec<u32> = self.brokers.iter().flatten().map(Broker::pid).collect();
        pids.into_iter().try_for_each(|pid| shell::signal(pid, "STOP"))?;
        self.ids().try_for_each(|id| self.kill(id))
    }

    /// SIGTERM, and the wait until it has stopped in order.
    pub(crate) fn stop(&mut self, id: usize) -> Result<Duration, String> {
        self.taken(id)?.stop().map_err(|reason| format!("{reason}; see {}", self.log(id).display()))
    }

    fn taken(&mut self, id: usize) -> Result<Broker, String> {
        let taken = self.brokers[id - 1].take();
        taken.ok_or_else(|| format!("{} {id} is down already", self.peer))
    }

    /// An error if a broker has ended by itself.
    pub(crate) fn check_alive(&mut self) -> Result<(), String> {
        for (site, broker) in self.sites.iter().zip(&mut self.brokers) {
            if let Some(broker) = broker {
                broker.check_alive().map_err(|reason| format!("{reason}; see {}", site.log().display()))?;
            }
        }
        Ok(())
    }
}
