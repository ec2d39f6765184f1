//! Where positions are kept, and the store there.
//!
//! An address may have a password in it: it is shown by nothing here.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::file_store::FileStore;
use crate::files::Files;
use crate::postgres_store::PostgresStore;
use crate::redis_store::RedisStore;
use crate::settings::TableSettings;
use crate::store::{PositionStore, StoreError};

/// Where positions are kept.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Positions {
    /// In files beside the table.
    #[default]
    Beside,
    /// In the PostgreSQL at this address.
    Postgres(String),
    /// In the Redis at this address.
    Redis(String),
}

impl fmt::Debug for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Beside => "Beside",
            Self::Postgres(_) => "Postgres",
            Self::Redis(_) => "Redis",
        })
    }
}

const POSTGRES: &str = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE";
pub(crate) const REDIS: &str = "redis://USER:PASSWORD@HOST:PORT/NUMBER";

impl FromStr for Positions {
    type Err = String;

    /// What is refused is not repeated: it may have a password in it.
    fn from_str(text: &str) -> Result<Self, String> {
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        let is_address = match scheme {
            _ if text == "beside" => return Ok(Self::Beside),
            Some("postgresql" | "postgres") => {
                let config = text.parse::<tokio_postgres::Config>();
                config.is_ok_and(|config| !config.get_hosts().is_empty() && config.get_dbname().is_some())
            }
            Some("redis") => redis::Client::open(text).is_ok(),
            _ => return Err(format!("it is none of beside, {POSTGRES} and {REDIS}")),
        };
        match (scheme, is_address) {
            (Some("redis"), true) => Ok(Self::Redis(text.to_owned())),
            (Some("redis"), false) => Err(format!("it is no address of a Redis; {REDIS} is one")),
            (_, true) => Ok(Self::Postgres(text.to_owned())),
            (_, false) => Err(format!("it is no address of a PostgreSQL; {POSTGRES} is one")),
        }
    }
}

/// The store that is declared. `files` are the table's.
pub async fn open_store(
    table: &TableSettings,
    files: Arc<dyn Files>,
) -> Result<Arc<dyn PositionStore>, StoreError> {
    Ok(match &table.positions {
        Positions::Beside => Arc::new(FileStore::new(files, &table.table)),
        Positions::Postgres(address) => Arc::new(PostgresStore::connect(address).await?),
        Positions::Redis(address) => Arc::new(RedisStore::connect(address).await?),
    })
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use crate::settings::Settings;

    fn check(declared: &str, expected: Expect) {
        let text = format!("name = \"a\"\ntopics = [\"a\"]\n[offline]\ntable = \"t\"\n{declared}\n");
        expected.assert_eq(&match Settings::parse(&text) {
            Ok(settings) => format!("{:?}", settings.offline.expect("it is declared").positions),
            Err(problem) => problem.to_string(),
        });
    }

    #[test]
    fn where_positions_are_is_declared_and_a_password_in_it_is_not_shown() {
        check("", expect!["Beside"]);
        check("positions = \"beside\"", expect!["Beside"]);
        check("positions = \"postgresql://sink:secret@host:5433/db\"", expect!["Postgres"]);
        check("positions = \"redis://:secret@host:6380/3\"", expect!["Redis"]);
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_is_one_and_not_repeated() {
        check(
            "positions = \"besides\"",
            expect![
                "line 5, column 13: positions: it is none of beside, postgresql://USER:PASSWORD@HOST:PORT/DATABASE and redis://USER:PASSWORD@HOST:PORT/NUMBER"
            ],
        );
        check(
            "positions = \"mysql://sink:secret@host/db\"",
            expect![
                "line 5, column 13: positions: it is none of beside, postgresql://USER:PASSWORD@HOST:PORT/DATABASE and redis://USER:PASSWORD@HOST:PORT/NUMBER"
            ],
        );
        check(
            "positions = \"postgresql://sink:secret@host\"",
            expect![
                "line 5, column 13: positions: it is no address of a PostgreSQL; postgresql://USER:PASSWORD@HOST:PORT/DATABASE is one"
            ],
        );
        check(
            "positions = \"postgresql://sink:secret@host/db?secret=x\"",
            expect![
                "line 5, column 13: positions: it is no address of a PostgreSQL; postgresql://USER:PASSWORD@HOST:PORT/DATABASE is one"
            ],
        );
        check(
            "positions = \"redis://:secret@host:port/0\"",
            expect![
                "line 5, column 13: positions: it is no address of a Redis; redis://USER:PASSWORD@HOST:PORT/NUMBER is one"
            ],
        );
    }
}
