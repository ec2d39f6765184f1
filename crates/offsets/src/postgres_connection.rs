//! The way to a PostgreSQL and a table in it, for whatever is kept there.
//!
//! One connection that is opened anew when it broke; nothing is waited for without end. Passwords are in addresses, and addresses
//! are in no error.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_postgres::types::FromSql;
use tokio_postgres::{Client, Config, Error as PostgresError, NoTls, Row};

use crate::store::StoreError;

/// PostgreSQL truncates longer names silently.
const NAME_LEN_MAX: usize = 63;
/// For a connection to be there, unless the address says otherwise (`connect_timeout`, in seconds).
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// For a row that somebody's transaction has locked, unless the address says otherwise (`options='-c lock_timeout=MS'`).
const LOCK_MS_MAX: u64 = 10_000;
/// For any answer. Behind it the connection is taken for dead.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A table in a PostgreSQL, over one connection that is opened when it is needed.
pub struct PostgresConnection {
    config: Config,
    table: String,
    client: Mutex<Option<Arc<Client>>>,
}

impl PostgresConnection {
    /// To the database at an address such as `postgresql://reader@127.0.0.1/results`, for a table that is named in it, if wanted
    /// behind `schema.`. Nothing is dialled yet.
    pub fn new(address: &str, table: &str) -> Result<Self, StoreError> {
        let is_name = |name: &str| {
            let mut chars = name.chars();
            name.len() <= NAME_LEN_MAX
                && chars.next().is_some_and(|first| first.is_ascii_lowercase() || first == '_')
                && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        let is_allowed = match table.split_once('.') {
            Some((schema, name)) => is_name(schema) && is_name(name),
            None => is_name(table),
        };
        if !is_allowed {
            return Err(StoreError::Garbage {
                place: "the setting".to_owned(),
                found: format!("{table:?}"),
                expected: "table name (lower case letters, digits and '_', at most 63)",
            });
        }
        let mut config: Config = address.parse().map_err(|error| StoreError::Refused {
            store: STORE,
            source: Arc::new(error),
            advice: "an address is postgresql://USER@HOST/DATABASE",
        })?;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_MAX);
        }
        Ok(Self { config, table: table.to_owned(), client: Mutex::default() })
    }

    /// The table's name.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Creates the table with these columns if it is not there.
    pub async fn create_table(&self, columns: &str) -> Result<(), StoreError> {
        let table = &self.table;
        let client = self.client().await?;
        // Who may only use the table has to be told that it is there, and not to create it.
        let there = self.asking(client.query_one("SELECT to_regclass($1) IS NOT NULL", &[table])).await?;
        if self.column(&there, 0)? {
            return Ok(());
        }
        // Several may start at once; IF NOT EXISTS alone lets one of them fail.
        let statement = format!(
            "BEGIN;
             SELECT pg_advisory_xact_lock(hashtext('{table}'));
             CREATE TABLE IF NOT EXISTS {table} ({columns});
             COMMIT"
        );
        let created = self.asking(client.batch_execute(&statement)).await;
        if created.is_err() {
            // It may have failed half way.
            self.hang_up().await;
        }
        created
    }

    /// The connection, which is a new one if there was none or it broke.
    pub async fn client(&self) -> Result<Arc<Client>, StoreError> {
        let mut slot = self.client.lock().await;
        if let Some(client) = slot.as_ref().filter(|client| !client.is_closed()) {
            return Ok(Arc::clone(client));
        }
        let config = &self.config;
        let opening = async {
            let (client, connection) = config.connect(NoTls).await.map_err(|error| self.failed(error))?;
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "the connection to PostgreSQL is over");
                }
            });
            if !config.get_options().is_some_and(|options| options.contains("lock_timeout")) {
                let set = format!("SET lock_timeout = {LOCK_MS_MAX}");
                client.batch_execute(&set).await.map_err(|error| self.failed(error))?;
            }
            Ok(Arc::new(client))
        };
        let opened = timeout(ANSWER_MAX, opening).await;
        let client = opened.unwrap_or(Err(StoreError::Silent { after: ANSWER_MAX }))?;
        *slot = Some(Arc::clone(&client));
        Ok(client)
    }

    /// The next question goes over a new connection.
    pub async fn hang_up(&self) {
        *self.client.lock().await = None;
    }

    /// Waits for an answer on the connection; without one, the next question goes over a new one.
    pub async fn asking<T>(
        &self,
        ask: impl Future<Output = Result<T, PostgresError>>,
    ) -> Result<T, StoreError> {
        match timeout(ANSWER_MAX, ask).await {
            Ok(answer) => answer.map_err(|error| self.failed(error)),
            Err(_) => {
                self.hang_up().await;
                Err(StoreError::Silent { after: ANSWER_MAX })
            }
        }
    }

    /// A column of a row, which may be of a table that is somebody else's.
    pub fn column<'a, T: FromSql<'a>>(&self, row: &'a Row, at: usize) -> Result<T, StoreError> {
        row.try_get(at).map_err(|error| self.failed(error))
    }

    /// What an error means, for whoever asks again or has to change something.
    pub fn failed(&self, error: PostgresError) -> StoreError {
        let said = error.to_string();
        if said.starts_with("error deserializing") || said.starts_with("error serializing") {
            let cause = std::error::Error::source(&error).map_or(said, ToString::to_string);
            return StoreError::Garbage {
                place: format!("table {}", self.table),
                found: cause,
                expected: "table of positions (another table has its name: choose another name)",
            };
        }
        let code = error.code().map(|code| code.code().to_owned());
        let is_login = said.starts_with("authentication error") || said.starts_with("invalid configuration");
        // The cause is what the database said; the error around it only says that there is one.
        let has_cause = std::error::Error::source(&error).is_some();
        let source: Arc<dyn std::error::Error + Send + Sync> = match has_cause {
            true => error.into_source().map_or_else(|| unreachable!("it has a cause"), Arc::from),
            false => Arc::new(error),
        };
        match code.as_deref().and_then(advice).or(is_login.then_some(LOGIN)) {
            Some(advice) => StoreError::Refused { store: STORE, source, advice },
            None => StoreError::Unavailable { store: STORE, source },
        }
    }
}

pub(crate) const STORE: &str = "PostgreSQL";
const LOGIN: &str = "set the user and the password in the store's address right";

/// What to change when PostgreSQL says this (SQLSTATE); nothing where asking again may help.
pub(crate) fn advice(code: &str) -> Option<&'static str> {
    Some(match code {
        "42501" => "give the store's user SELECT, INSERT and UPDATE on its table, or CREATE on the schema",
        "42P01" => "the table is gone: it is created again at the next start",
        "3D000" => "create the database, or set it right in the store's address",
        "3F000" => "create the schema, or leave it out of the table's name",
        _ if code.starts_with("42") => "another table has the name: the store wants one of its own",
        _ if code.starts_with("28") => LOGIN,
        _ => return None,
    })
}
