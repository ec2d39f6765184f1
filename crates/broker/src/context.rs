//! What the broker knows about a request besides its body.
//! Every request carries one of these from the socket on, so that authentication, quotas and audit are a
//! filling-in of its fields and not a change of every handler.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::Instant;
use wire::{ApiKey, Str};

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
