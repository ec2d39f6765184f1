//! The way to a Redis, for whatever is kept there.
//!
//! One connection that comes back by itself; nothing is waited for without end. Passwords are in addresses, and addresses are in no
//! error.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{AsyncCommands, Client, ErrorKind, RedisError};

use crate::store::StoreError;

const STORE: &str = "Redis";
/// For a connection to be there.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// For any answer; with `appendfsync always` it waits for a disk.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A connection to a Redis. Clones share it.
#[derive(Clone)]
pub struct RedisConnection {
    manager: ConnectionManager,
    permissions: &'static str,
}

impl RedisConnection {
    /// Connects to an address such as `redis://127.0.0.1:6379/0`. `permissions` says what the user has to be allowed, for one who
    /// is not.
    pub async fn connect(address: &str, permissions: &'static str) -> Result<Self, StoreError> {
        let client = Client::open(address).map_err(|error| failed(error, permissions))?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT_MAX))
            .set_response_timeout(Some(ANSWER_MAX))
            // Whoever asks tries again by itself, or has to be told.
            .set_number_of_retries(1);
        let manager = client.get_connection_manager_with_config(config).await;
        Ok(Self { manager: manager.map_err(|error| failed(error, permissions))?, permissions })
    }

    /// To send commands with.
    pub fn commands(&self) -> ConnectionManager {
        self.manager.clone()
    }

    /// The keys that begin with `prefix`, in order.
    pub async fn places(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let failed = |error| self.failed(error);
        let mut commands = self.commands();
        let mut places = Vec::new();
        let mut found = commands.scan_match::<_, String>(format!("{prefix}*")).await.map_err(failed)?;
        while let Some(place) = found.next_item().await {
            places.push(place.map_err(failed)?);
        }
        drop(found);
        places.sort();
        // A scan may name a key twice.
        places.dedup();
        Ok(places)
    }

    /// What an answer means that may be about what is at this key, and not about Redis.
    pub fn refused(&self, place: &str, error: RedisError) -> StoreError {
        let said = error.to_string();
        match said.contains("WRONGTYPE") || said.contains("not an integer") {
            true => StoreError::Garbage { place: place.to_owned(), found: said, expected: "position" },
            false => self.failed(error),
        }
    }

    /// What an error means, for whoever asks again or has to change something.
    pub fn failed(&self, error: RedisError) -> StoreError {
        failed(error, self.permissions)
    }
}

fn failed(error: RedisError, permissions: &'static str) -> StoreError {
    const LOGIN: &str =
        "set the user and the password in the store's address right (redis://USER:PASSWORD@HOST/)";
    let advice = match (error.kind(), error.code()) {
        (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS")) => LOGIN,
        (_, Some("NOPERM")) => permissions,
        (ErrorKind::InvalidClientConfig, _) => "an address is redis://USER:PASSWORD@HOST:PORT/DATABASE",
        _ => return StoreError::Unavailable { store: STORE, source: Arc::new(error) },
    };
    StoreError::Refused { store: STORE, source: Arc::new(error), advice }
}
