//! Connections to other brokers, over the same code that clients use.
//! A link is one connection that is opened when it is needed and opened anew after it broke; whoever holds it decides when to
//! try again. Requests between brokers carry their version: nothing of them is advertised.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Address, Connection, Environment, Error, Options};
use parking_lot::Mutex;
use tokio::time::Instant;
use wire::{ApiRequest, BrokerId};

/// How long a broker waits for another to take a connection.
const CONNECT_MAX: &str = "2000";
/// Longest answer between brokers: a fetch with its batches.
const ANSWER_BYTES_MAX: &str = "1000000000";

/// What it takes to reach other brokers.
#[derive(Clone)]
pub(crate) struct Reach {
    environment: Arc<dyn Environment>,
    options: Options,
}

impl Reach {
    pub(crate) fn new(environment: Arc<dyn Environment>, client_id: &str) -> Self {
        let mut options = Options::default();
        let settings = [
            ("client.id", client_id),
            ("socket.connection.setup.timeout.ms", CONNECT_MAX),
            ("receive.message.max.bytes", ANSWER_BYTES_MAX),
            ("max.in.flight.requests.per.connection", "64"),
        ];
        for (key, value) in settings {
            options.set(key, value).expect("the client takes its own settings");
        }
        Reach { environment, options }
    }

    /// A link that is not open yet.
    pub(crate) fn link(&self) -> Link {
        Link { reach: self.clone(), open: None }
    }

    /// A number that nobody can foresee.
    pub(crate) fn random(&self) -> u64 {
        self.environment.random()
    }
}

/// One connection to one broker at a time.
pub(crate) struct Link {
    reach: Reach,
    open: Option<(Address, Connection)>,
}

impl Link {
    /// An open connection to `address`.
    pub(crate) async fn to(&mut self, address: &Address) -> Result<Connection, Error> {
        if let Some((open, connection)) = &self.open
            && open == address
            && !connection.is_closed()
        {
            return Ok(connection.clone());
        }
        let connection = Connection::open(&*self.reach.environment, address, &self.reach.options).await?;
        self.open = Some((address.clone(), connection.clone()));
        Ok(connection)
    }

    /// Asks the broker at `address`, in the newest version that this broker knows.
    pub(crate) async fn ask<C: ApiRequest>(
        &mut self,
        address: &Address,
        request: C,
        wait: Duration,
    ) -> Result<C::Response, Error> {
        let version = *C::API.versions().end();
        let connection = self.to(address).await?;
        connection.call_version(request, version, Instant::now() + wait).await
    }
}

/// One link to each of the other brokers, for questions that do not wait for each other.
pub(crate) struct PeerLinks {
    reach: Reach,
    links: Mutex<HashMap<BrokerId, Arc<tokio::sync::Mutex<Link>>>>,
}

impl PeerLinks {
    pub(crate) fn new(reach: &Reach) -> Self {
        PeerLinks { reach: reach.clone(), links: Mutex::default() }
    }

    /// Asks a broker, in the newest version that this broker knows.
    pub(crate) async fn ask<C: ApiRequest>(
        &self,
        broker: BrokerId,
        address: &Address,
        request: C,
        wait: Duration,
    ) -> Result<C::Response, Error> {
        let new_link = || Arc::new(tokio::sync::Mutex::new(self.reach.link()));
        let link = Arc::clone(self.links.lock().entry(broker).or_insert_with(new_link));
        // Held while connecting, not while waiting for the answer.
        let connection = link.lock().await.to(address).await?;
        connection.call_version(request, *C::API.versions().end(), Instant::now() + wait).await
    }
}
