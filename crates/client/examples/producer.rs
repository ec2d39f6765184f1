//! Sends the lines of the standard input to a topic, and says where each went.
//!
//!     seq 100000 | cargo run -p ottla-client --example producer -- 127.0.0.1:9092 numbers

use std::collections::VecDeque;
use std::error::Error;
use std::io::BufRead;
use std::sync::Arc;
use std::time::Duration;

use client::{Cluster, DeliveryHandle, Options, Producer, ProducerRecord, TokioEnvironment};

/// Records under way, so that the queue of handles has a bound.
const UNDER_WAY_MAX: usize = 10_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next(), arguments.next()) {
        (Some(brokers), Some(topic)) => run(&brokers, &topic, std::io::stdin().lock()).await,
        _ => Err("usage: producer HOST:PORT TOPIC".into()),
    }
}

/// Sends each line of the input.
pub async fn run(brokers: &str, topic: &str, input: impl BufRead) -> Result<(), Box<dyn Error>> {
    let mut options = Options::default();
    options.set("bootstrap.servers", brokers)?;
    options.set("compression.type", "zstd")?;
    options.set("linger.ms", "20")?;
    let producer = Producer::new(Cluster::new(options, Arc::new(TokioEnvironment))?)?;

    let mut under_way = VecDeque::new();
    for line in input.lines() {
        // Waits while the producer's buffer is full; the handle resolves when the replicas have the record.
        under_way.push_back(producer.enqueue(ProducerRecord::new(topic.to_owned(), line?)).await?);
        if under_way.len() > UNDER_WAY_MAX {
            delivered(under_way.pop_front()).await?;
        }
    }
    producer.flush().await;
    while let Some(handle) = under_way.pop_front() {
        delivered(Some(handle)).await?;
    }
    producer.close(Duration::from_secs(30)).await?;
    Ok(())
}

async fn delivered(handle: Option<DeliveryHandle>) -> Result<(), client::Error> {
    if let Some(handle) = handle {
        let delivery = handle.await?;
        let offset = delivery.offset.map_or_else(|| "?".to_owned(), |offset| offset.0.to_string());
        println!("{} {offset}", delivery.partition);
    }
    Ok(())
}
