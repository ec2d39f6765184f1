//! Keeps the newest value of each key in Redis. Setting a value again changes nothing, so a record that comes twice does no harm;
//! the position is in the same Redis, moved after the values.
//!
//! `cargo run -p ottla-offsets --example redis_idempotent -- 127.0.0.1:9092 redis://127.0.0.1/ prices`

use std::error::Error;
use std::sync::Arc;

use client::{Options, TokioEnvironment};
use offsets::{Reader, ReaderError, ReaderOptions, RedisStore};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let mut arg = |default: &str| args.next().unwrap_or_else(|| default.to_owned());
    run(&arg("127.0.0.1:9092"), &arg("redis://127.0.0.1/"), &arg("prices")).await
}

/// Reads until something fails for good.
pub async fn run(brokers: &str, redis: &str, topic: &str) -> Result<(), Box<dyn Error>> {
    let mut results = redis::Client::open(redis)?.get_multiplexed_async_connection().await?;
    let store = Arc::new(RedisStore::connect(redis).await?);
    let mut options = Options::default();
    options.set("bootstrap.servers", brokers)?;
    let name = ReaderOptions::new("newest".parse()?);
    let mut reader = Reader::subscribe(options, Arc::new(TokioEnvironment), store, name, [topic.to_owned()])?;
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
        let mut values = redis::pipe();
        values.atomic();
        for record in batch.iter() {
            let (key, value) = (record.key.as_deref(), record.value.as_deref());
            match value {
                Some(value) => values.hset(topic, key.unwrap_or_default(), value).ignore(),
                None => values.hdel(topic, key.unwrap_or_default()).ignore(),
            };
        }
        values.exec_async(&mut results).await?;
        reader.commit(batch).await?;
    }
    Ok(())
}
