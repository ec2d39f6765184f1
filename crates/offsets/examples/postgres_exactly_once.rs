//! Sums amounts per customer in PostgreSQL, each record exactly once: results and position are in one transaction.
//!
//! `cargo run -p ottla-offsets --example postgres_exactly_once -- 127.0.0.1:9092 'host=127.0.0.1 user=reader' payments`
//! with records such as `alice 5`. Kill it, or the database, or the broker, whenever you like.

use std::error::Error;
use std::sync::Arc;

use client::{Options, TokioEnvironment};
use offsets::{PostgresStore, Reader, ReaderError, ReaderOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let mut arg = |default: &str| args.next().unwrap_or_else(|| default.to_owned());
    run(&arg("127.0.0.1:9092"), &arg("host=127.0.0.1 user=reader"), &arg("payments")).await
}

/// Reads until something fails for good.
pub async fn run(brokers: &str, database: &str, topic: &str) -> Result<(), Box<dyn Error>> {
    let (mut results, connection) = tokio_postgres::connect(database, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    results
        .batch_execute("CREATE TABLE IF NOT EXISTS sums (customer text PRIMARY KEY, amount bigint)")
        .await?;

    let store = PostgresStore::connect(database).await?;
    let mut options = Options::default();
    options.set("bootstrap.servers", brokers)?;
    let name = ReaderOptions::new("sums".parse()?);
    let environment = Arc::new(TokioEnvironment);
    let mut reader =
        Reader::subscribe(options, environment, Arc::new(store.clone()), name, [topic.to_owned()])?;
    while let Some(next) = reader.next().await {
        let batch = match next {
            Ok(batch) => batch,
            // That partition stops, and the message says which command has it go on. The others go on.
            Err(ReaderError::Gap(gap)) => {
                eprintln!("{gap}");
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let transaction = results.transaction().await?;
        for record in batch.iter() {
            let text = std::str::from_utf8(record.value.as_deref().unwrap_or_default())?;
            let (customer, amount) = text.split_once(' ').ok_or("not CUSTOMER AMOUNT")?;
            let add = "INSERT INTO sums AS s VALUES ($1, $2)
                       ON CONFLICT (customer) DO UPDATE SET amount = s.amount + $2";
            transaction.execute(add, &[&customer, &amount.parse::<i64>()?]).await?;
        }
        store.commit_in(&transaction, &batch.claim()?).await?;
        transaction.commit().await?;
        batch.stored();
    }
    Ok(())
}
