//! Moves amounts between two accounts, each move as one transaction: readers of committed records see both of its
//! records or none, also when this is killed and started again.
//!
//!     cargo run -p ottla-client --example transactions -- 127.0.0.1:9092 accounts

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use client::{Cluster, ErrorKind, Options, Producer, ProducerRecord, TokioEnvironment};

/// How often a move is tried.
const TRIES_MAX: usize = 5;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next(), arguments.next()) {
        (Some(brokers), Some(topic)) => run(&brokers, &topic).await,
        _ => Err("usage: transactions HOST:PORT TOPIC".into()),
    }
}

/// Moves ten amounts.
pub async fn run(brokers: &str, topic: &str) -> Result<(), Box<dyn Error>> {
    let mut options = Options::default();
    options.set("bootstrap.servers", brokers)?;
    // Whoever starts with this id next fences this process and aborts what it left open.
    options.set("transactional.id", "mover")?;
    let producer = Producer::new(Cluster::new(options, Arc::new(TokioEnvironment))?)?;
    producer.init_transactions().await?;

    for amount in 1..=10 {
        let mut tries = 0;
        while let Err(error) = transfer(&producer, topic, amount).await {
            tries += 1;
            // The transaction was aborted: nothing of it is seen, and it may be done again.
            if error.kind() != ErrorKind::Abortable || tries == TRIES_MAX {
                return Err(error.into());
            }
        }
        println!("moved {amount}");
    }
    producer.close(Duration::from_secs(30)).await?;
    Ok(())
}

async fn transfer(producer: &Producer, topic: &str, amount: i64) -> Result<(), client::Error> {
    // Dropped without commit, as by the `?` below, it is aborted before the next begins.
    let transaction = producer.begin().await?;
    for (account, change) in [("alice", -amount), ("bob", amount)] {
        let key = Some(Bytes::from_static(account.as_bytes()));
        let record = ProducerRecord { key, ..ProducerRecord::new(topic.to_owned(), change.to_string()) };
        transaction.send(record).await?;
    }
    transaction.commit().await
}
