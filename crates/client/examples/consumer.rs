//! Reads a topic as a member of a group, at least once: a record is committed after it was handled, and not before.
//!
//! `cargo run -p ottla-client --example consumer -- 127.0.0.1:9092 readers greetings`

use std::error::Error;
use std::future::Future;
use std::io::{self, Write};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use client::{Cluster, Consumer, Options, Records, TokioEnvironment};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let mut arg = |default: &str| args.next().unwrap_or_else(|| default.to_owned());
    let (brokers, group, topic) = (arg("127.0.0.1:9092"), arg("readers"), arg("greetings"));
    run(&brokers, &group, &topic, &mut io::stdout(), tokio::signal::ctrl_c()).await
}

/// Writes down what there is and what comes, until `stop`.
pub async fn run(
    brokers: &str,
    group: &str,
    topic: &str,
    output: &mut impl Write,
    stop: impl Future,
) -> Result<(), Box<dyn Error>> {
    let mut options = Options::default();
    options.set("bootstrap.servers", brokers)?;
    options.set("group.id", group)?;
    options.set("auto.offset.reset", "earliest")?;

    let mut consumer = Consumer::new(Cluster::new(options, Arc::new(TokioEnvironment))?);
    consumer.subscribe([topic.to_owned()])?;
    let mut stop = pin!(stop);
    loop {
        let records = tokio::select! {
            records = consumer.next() => records,
            // Nothing is lost by not waiting any longer.
            _ = &mut stop => break,
        };
        match records {
            // Dropped instead of done, after an error or by a panic, they would come again.
            Some(Ok(records)) if handle(&records, output).is_ok() => records.done(),
            Some(Ok(_)) => {}
            Some(Err(error)) => eprintln!("{error}"),
            None => break,
        }
    }
    // Commits what is done and leaves the group, so that others go on at once.
    consumer.close(Duration::from_secs(30)).await?;
    Ok(())
}

fn handle(records: &Records, output: &mut impl Write) -> io::Result<()> {
    for record in records {
        let value = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default());
        writeln!(output, "{} {}: {value}", records.partition(), record.offset)?;
    }
    Ok(())
}
