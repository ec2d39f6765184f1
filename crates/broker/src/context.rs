//! What the broker knows about a request besides its body.
//! Every request carries one of these from the socket on, so that authentication, quotas and audit are a
//! filling-in of its fields and not a change of every handler.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::time::Instant;
use wire::{ApiKey, Millis, Str};

use crate::quotas::QuotaCache;

/// Facts of a connection, shared by all its requests.
#[derive(Debug)]
pub(crate) struct ConnectionContext {
    /// Name of the listener that accepted the connection, e.g. `PLAINTEXT`.
    pub(crate) listener: Str,
    /// Who is asking. `User:ANONYMOUS` until the listener authenticates.
    pub(crate) principal: Str,
    /// The client's address.
    pub(crate) peer: SocketAddr,
    /// The address that the client dialled: what Metadata advertises unless `advertised.listeners` says otherwise.
    pub(crate) local: SocketAddr,
    /// What its client is measured against.
    pub(crate) quotas: QuotaCache,
    /// Until when nothing is read from it, in ticks; zero where nothing keeps it.
    muted_until: AtomicI64,
    /// Whether it has acted for the cluster: brokers hold each other back by no quota.
    acts_for_cluster: AtomicBool,
    /// What the client says that it is, by name and version.
    software: OnceLock<(String, String)>,
}

impl ConnectionContext {
    pub(crate) fn new(listener: Str, principal: Str, peer: SocketAddr, local: SocketAddr) -> Self {
        ConnectionContext {
            listener,
            principal,
            peer,
            local,
            quotas: QuotaCache::default(),
            muted_until: AtomicI64::new(0),
            acts_for_cluster: AtomicBool::new(false),
            software: OnceLock::new(),
        }
    }

    /// It is a broker's.
    pub(crate) fn set_acts_for_cluster(&self) {
        self.acts_for_cluster.store(true, Ordering::Relaxed);
    }

    /// Whether it is known to be a broker's.
    pub(crate) fn acts_for_cluster(&self) -> bool {
        self.acts_for_cluster.load(Ordering::Relaxed)
    }

    /// The client has said what it is. What it says first counts.
    pub(crate) fn set_software(&self, name: &str, version: &str) {
        let _ = self.software.set((name.to_owned(), version.to_owned()));
    }

    /// Name and version of the client's software, as far as it has said.
    pub(crate) fn software(&self) -> (String, String) {
        self.software.get().cloned().unwrap_or_default()
    }

    /// Starts no further request of this connection before then.
    pub(crate) fn mute_until(&self, tick: Millis) {
        self.muted_until.fetch_max(tick.0, Ordering::Relaxed);
    }

    /// Until when the connection is muted, if it ever was.
    pub(crate) fn muted_until(&self) -> Option<Millis> {
        let tick = self.muted_until.load(Ordering::Relaxed);
        (tick > 0).then_some(Millis(tick))
    }

    /// The mute is over.
    pub(crate) fn unmute(&self, tick: Millis) {
        // Whatever has muted it since counts.
        let _ = self.muted_until.compare_exchange(tick.0, 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// One request's circumstances.
#[derive(Debug, Clone)]
pub(crate) struct RequestContext {
    pub(crate) connection: Arc<ConnectionContext>,
    pub(crate) api: ApiKey,
    pub(crate) version: i16,
    pub(crate) client_id: Option<Str>,
    /// When the request was whole in memory.
    pub(crate) received: Instant,
}

impl RequestContext {
    /// The client's address as Kafka writes it in group descriptions, e.g. `/127.0.0.1`.
    pub(crate) fn client_host(&self) -> String {
        format!("/{}", self.connection.peer.ip())
    }
}
