//! Accepts connections and bounds how many there are.
//! A connection over a limit is closed at once and counted; one that breaks a rule is logged once per address and
//! minute, so that a broken client cannot flood the log either.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use wire::Str;

use crate::broker::{Broker, stopped};
use crate::connection::{self, ConnectionError, ConnectionLimits};
use crate::context::ConnectionContext;
use crate::network::{Accepted, Acceptor};
use crate::outbound::WriteError;

/// How long accepting pauses when the process is out of descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// How long connections may take to end once the broker stops.
const STOP_MAX: Duration = Duration::from_secs(1);
const LOG_EVERY: Duration = Duration::from_secs(60);
/// Addresses whose last complaint is remembered.
const LOGGED_ADDRESSES_MAX: usize = 1024;

/// How many connections a listener takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionCounts {
    pub(crate) connections_max: usize,
    pub(crate) connections_per_ip_max: usize,
}

impl ConnectionCounts {
    fn of(broker: &Broker) -> Self {
        let settings = broker.settings();
        let network = &settings.broker().network;
        ConnectionCounts {
            connections_max: network.connections_max,
            connections_per_ip_max: network.connections_per_ip_max,
        }
    }
}

/// One bound socket.
pub(crate) struct Listener {
    pub(crate) name: Str,
    pub(crate) socket: Box<dyn Acceptor>,
    pub(crate) broker: Arc<Broker>,
    pub(crate) limits: ConnectionLimits,
}

impl Listener {
    /// Accepts until `stop` turns true, then waits for the connections to end.
    pub(crate) async fn run(self, stop: watch::Receiver<bool>) {
        let census = Arc::new(Census::default());
        let mut connections = JoinSet::new();
        let mut stopping = stop.clone();
        loop {
            tokio::select! {
                biased;
                () = stopped(&mut stopping) => break,
                accepted = self.socket.accept() => match accepted {
                    Ok(accepted) => self.admit(accepted, &census, &mut connections, &stop),
                    Err(error) => {
                        if census.may_log(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) {
                            tracing::warn!(listener = %self.name, %error, "connections cannot be accepted");
                        }
                        sleep(ACCEPT_RETRY).await;
                    }
                },
                Some(_ended) = connections.join_next() => {}
            }
        }
        drop(self.socket);
        let ended = async { while connections.join_next().await.is_some() {} };
        if timeout(STOP_MAX, ended).await.is_err() {
            connections.abort_all();
        }
    }

    fn admit(
        &self,
        accepted: Accepted,
        census: &Arc<Census>,
        connections: &mut JoinSet<()>,
        stop: &watch::Receiver<bool>,
    ) {
        // An IPv4 peer of a listener for both protocols is the same peer.
        let Accepted { socket, peer, local, descriptor } = accepted;
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        if descriptor.is_some_and(|descriptor| !self.broker.descriptors.admits(descriptor)) {
            self.broker.metrics.connection_refused();
            if census.may_log(peer.ip()) {
                tracing::warn!(%peer, "a connection was closed: the last file descriptors are for the disk (ulimit -n)");
            }
            return;
        }
        // As of now: these settings change while the broker runs.
        let limits = ConnectionCounts::of(&self.broker);
        let Some(place) = census.enter(peer.ip(), limits) else {
            self.broker.metrics.connection_refused();
            if census.may_log(peer.ip()) {
                tracing::warn!(%peer, ?limits, "a connection over the limit was closed (max.connections, max.connections.per.ip)");
            }
            return;
        };
        let context = ConnectionContext {
            listener: self.name.clone(),
            principal: Str::from("User:ANONYMOUS"),
            peer,
            local,
        };
        let (broker, limits, stop) = (Arc::clone(&self.broker), self.limits, stop.clone());
        connections.spawn(async move {
            broker.metrics.connection_opened();
            let ended = connection::serve(socket, context, Arc::clone(&broker), limits, stop).await;
            broker.metrics.connection_closed();
            if let Err(error) = ended {
                complain(&broker, &place, peer, &error);
            }
        });
    }
}

fn complain(broker: &Broker, place: &Place, peer: SocketAddr, error: &ConnectionError) {
    match error {
        // Peers go away all the time; it is nobody's fault.
        ConnectionError::Socket(error) | ConnectionError::Write(WriteError::Socket(error)) => {
            tracing::debug!(%peer, %error, "a connection broke");
        }
        ConnectionError::Idle(_) => tracing::debug!(%peer, %error, "a connection was closed"),
        _ => {
            broker.metrics.connection_cut();
            if place.census.may_log(peer.ip()) {
                tracing::warn!(%peer, %error, "a connection was closed");
            }
        }
    }
}

/// Who is connected, by address.
#[derive(Debug, Default)]
struct Census {
    state: Mutex<CensusState>,
}

#[derive(Debug, Default)]
struct CensusState {
    total: usize,
    by_ip: HashMap<IpAddr, usize>,
    logged: HashMap<IpAddr, Instant>,
}

/// One counted connection; leaving is dropping it.
struct Place {
    census: Arc<Census>,
    ip: IpAddr,
}

impl Census {
    fn enter(self: &Arc<Self>, ip: IpAddr, counts: ConnectionCounts) -> Option<Place> {
        let mut state = self.state.lock();
        let of_ip = state.by_ip.get(&ip).copied().unwrap_or(0);
        if state.total >= counts.connections_max || of_ip >= counts.connections_per_ip_max {
            return None;
        }
        state.total += 1;
        state.by_ip.insert(ip, of_ip + 1);
        Some(Place { census: Arc::clone(self), ip })
    }

    /// True once per address and minute.
    fn may_log(&self, ip: IpAddr) -> bool {
        let mut state = self.state.lock();
        if state.logged.len() >= LOGGED_ADDRESSES_MAX {
            state.logged.retain(|_, logged| logged.elapsed() < LOG_EVERY);
        }
        let may = state.logged.get(&ip).is_none_or(|logged| logged.elapsed() >= LOG_EVERY);
        if may && state.logged.len() < LOGGED_ADDRESSES_MAX {
            state.logged.insert(ip, Instant::now());
        }
        may
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.census.state.lock();
        state.total -= 1;
        if let Some(of_ip) = state.by_ip.get_mut(&self.ip) {
            *of_ip -= 1;
            if *of_ip == 0 {
                state.by_ip.remove(&self.ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_connection_ends() {
        let census = Arc::new(Census::default());
        let counts = ConnectionCounts { connections_max: 3, connections_per_ip_max: 2 };
        let (here, there) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let first = census.enter(here, counts);
        let second = census.enter(here, counts);
        assert!(first.is_some() && second.is_some());
        assert!(census.enter(here, counts).is_none(), "the address is full");
        let third = census.enter(there, counts);
        assert!(third.is_some());
        drop(first);
        assert!(census.enter(here, counts).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_complained_about_once_a_minute() {
        let census = Census::default();
        let ip = IpAddr::from([127, 0, 0, 1]);
        assert!(census.may_log(ip));
        assert!(!census.may_log(ip));
        tokio::time::advance(LOG_EVERY).await;
        assert!(census.may_log(ip));
    }
}
