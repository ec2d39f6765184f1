//! Doubles the amounts of one topic into another, each batch with its offsets as one transaction: in the eyes of readers
//! of committed records each is doubled exactly once, also when this is killed and started again.
//!
//!     cargo run -p ottla-client --example consume_transform_produce -- 127.0.0.1:9092 amounts doubled

use std::{error::Error, future::Future, pin::pin, sync::Arc, time::Duration};

use client::{Cluster, Consumer, ErrorKind, Options, Producer, ProducerRecord, Records, TokioEnvironment};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [brokers, from, to] = &arguments[..] else { return Err("usage: … HOST:PORT FROM TO".into()) };
    run(brokers, from, to, tokio::signal::ctrl_c()).await
}

/// Doubles what there is and what comes, until `stop`.
pub async fn run(brokers: &str, from: &str, to: &str, stop: impl Future) -> Result<(), Box<dyn Error>> {
    let mut options = Options::default();
    options.set("bootstrap.servers", brokers)?;
    options.set("group.id", "doublers")?;
    options.set("auto.offset.reset", "earliest")?;
    options.set("isolation.level", "read_committed")?;
    options.set("enable.auto.commit", "false")?; // The transactions do.
    options.set("transactional.id", "doubler")?; // One for each process that runs at the same time.
    let cluster = Cluster::new(options, Arc::new(TokioEnvironment))?;
    let producer = Producer::new(cluster.clone())?;
    producer.init_transactions().await?;
    let mut consumer = Consumer::new(cluster);
    consumer.subscribe([from.to_owned()])?;
    let mut stop = pin!(stop);
    while let Some(records) = tokio::select! { records = consumer.next() => records, _ = &mut stop => None } {
        let records = records?;
        match double(&producer, &consumer, &records, to).await {
            Ok(()) => records.done(),
            // It was aborted. The records are dropped undone, so they come again.
            Err(error) if error.kind() == ErrorKind::Abortable => {}
            Err(error) => return Err(error.into()),
        }
    }
    consumer.close(Duration::from_secs(30)).await?;
    Ok(producer.close(Duration::from_secs(30)).await?)
}

async fn double(from: &Producer, by: &Consumer, records: &Records, to: &str) -> Result<(), client::Error> {
    // Who this is in the group, as long as the records are its own: whoever takes over fences the offsets below.
    let (Some(member), true) = (by.group_metadata(), records.is_wanted()) else { return Ok(()) };
    let transaction = from.begin().await?;
    for record in records {
        let amount =
            String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).parse().unwrap_or(0);
        let doubled = ProducerRecord::new(to.to_owned(), (amount * 2_i64).to_string());
        // The commit waits for it.
        drop(transaction.enqueue(ProducerRecord { key: record.key.clone(), ..doubled }).await?);
    }
    transaction.send_offsets([(records.partition().clone(), records.next_offset())], &member).await?;
    transaction.commit().await
}
