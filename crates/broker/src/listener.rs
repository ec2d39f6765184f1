//! Accepts connections and bounds how many there are, and how fast they come.
//! A connection over a limit is closed at once and counted, one of an address that comes too often is closed after a while,
//! so that its client tries again later (KIP-612). One that breaks a rule is logged once per address and minute, so that a
//! broken client cannot flood the log either.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use wire::Str;

use crate::broker::{Broker, stopped};
use crate::connection::{self, ConnectionError, ConnectionLimits};
use crate::context::ConnectionContext;
use crate::network::{Accepted, Acceptor};
use crate::outbound::WriteError;
use crate::quotas::Rate;
use crate::settings::{self, per_address};

/// How long accepting pauses when the process is out of descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// How long connections may take to end once the broker stops.
const STOP_MAX: Duration = Duration::from_secs(1);
const LOG_EVERY: Duration = Duration::from_secs(60);
/// Addresses whose last complaint is remembered.
const LOGGED_ADDRESSES_MAX: usize = 1024;

/// Connections of addresses over their quota that a listener keeps until they are closed. Further ones are closed at once.
const PUT_OFF_MAX: usize = 1_000;

/// How many connections there may be.
#[derive(Debug, Clone, Copy)]
struct ConnectionCounts {
    connections_max: usize,
    connections_per_ip_max: usize,
}

/// One bound socket.
pub(crate) struct Listener {
    pub(crate) name: Str,
    pub(crate) socket: Box<dyn Acceptor>,
    pub(crate) broker: Arc<Broker>,
    pub(crate) limits: ConnectionLimits,
    /// Whether brokers have it to themselves: they come in whatever clients do.
    pub(crate) is_for_brokers: bool,
    pub(crate) own: OwnLimits,
}

/// What holds for one listener, beside what holds for all together.
pub(crate) struct OwnLimits {
    /// A place for each connection that it may have.
    places: Arc<Semaphore>,
    accepted: Mutex<Rate>,
    rate_max: Option<i32>,
}

impl OwnLimits {
    pub(crate) fn new(configured: &settings::Listener) -> OwnLimits {
        let places = configured.connections_max.unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        OwnLimits {
            places: Arc::new(Semaphore::new(places)),
            accepted: Mutex::default(),
            rate_max: configured.connection_rate_max,
        }
    }
}

impl Listener {
    /// Accepts until `stop` turns true, then waits for the connections to end.
    pub(crate) async fn run(self, stop: watch::Receiver<bool>) {
        let census = Arc::clone(&self.broker.census);
        let put_off = Arc::new(Semaphore::new(PUT_OFF_MAX));
        let mut connections = JoinSet::new();
        let mut stopping = stop.clone();
        loop {
            tokio::select! {
                biased;
                () = stopped(&mut stopping) => break,
                accepted = self.socket.accept() => match accepted {
                    Ok(accepted) => {
                        let pause = self.pause();
                        if !pause.is_zero() && timeout(pause, stopped(&mut stopping)).await.is_ok() {
                            break;
                        }
                        self.admit(accepted, &census, &put_off, &mut connections, &stop);
                    }
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

    /// How long the connection that was just accepted has to wait.
    fn pause(&self) -> Duration {
        if self.is_for_brokers {
            return Duration::ZERO;
        }
        let rate_max = self.broker.settings().broker().network.connection_rate_max;
        let own = self.own.rate_max.map(|rate_max| (&self.own.accepted, rate_max));
        self.broker.quotas.accept(&self.broker, rate_max, own)
    }

    /// What holds for an address as of now: these settings change while the broker runs.
    fn counts(&self, ip: IpAddr) -> ConnectionCounts {
        let settings = self.broker.settings();
        let network = &settings.broker().network;
        let overrides = per_address(&network.connections_per_ip_overrides).unwrap_or_default();
        ConnectionCounts {
            connections_max: if self.is_for_brokers { usize::MAX } else { network.connections_max },
            connections_per_ip_max: overrides.get(&ip).copied().unwrap_or(network.connections_per_ip_max),
        }
    }

    fn admit(
        &self,
        accepted: Accepted,
        census: &Arc<Census>,
        put_off: &Arc<Semaphore>,
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
        // Brokers are not kept from each other by what clients of their address do.
        let is_limited = !self.is_for_brokers;
        let wait =
            if is_limited { self.broker.quotas.connection(&self.broker, peer.ip()) } else { Duration::ZERO };
        if !wait.is_zero() {
            self.broker.metrics.connection_refused();
            if let Ok(permit) = Arc::clone(put_off).try_acquire_owned() {
                let mut stop = stop.clone();
                connections.spawn(async move {
                    let _ = timeout(wait, stopped(&mut stop)).await;
                    drop((socket, permit));
                });
            }
            return;
        }
        let limits = self.counts(peer.ip());
        let own = Arc::clone(&self.own.places).try_acquire_owned().ok();
        let Some((place, own)) = own.and_then(|own| Some((census.enter(peer.ip(), limits)?, own))) else {
            self.broker.metrics.connection_refused();
            if census.may_log(peer.ip()) {
                tracing::warn!(
                    %peer, listener = %self.name, ?limits,
                    "a connection over the limit was closed (max.connections, also of a single listener, max.connections.per.ip and its overrides)"
                );
            }
            return;
        };
        let principal = Str::from("User:ANONYMOUS");
        let context = ConnectionContext::new(self.name.clone(), principal, peer, local);
        let (broker, limits, stop) = (Arc::clone(&self.broker), self.limits, stop.clone());
        connections.spawn(async move {
            broker.metrics.connection_opened();
            let ended = connection::serve(socket, context, Arc::clone(&broker), limits, stop).await;
            broker.metrics.connection_closed();
            drop(own);
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

/// Who is connected to any listener, by address.
#[derive(Debug, Default)]
pub(crate) struct Census {
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
