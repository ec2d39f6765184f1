//! The examples, as their documents show them, beside a real broker and real stores.

mod support;

#[path = "../examples/postgres_exactly_once.rs"]
#[allow(dead_code, unreachable_pub)]
mod postgres_exactly_once;
#[path = "../examples/redis_idempotent.rs"]
#[allow(dead_code, unreachable_pub)]
mod redis_idempotent;

use std::sync::Arc;
use std::time::Duration;

use broker::embedded::EmbeddedBroker;
use client::{Admin, Cluster, Execution, NewTopic, Options, Producer, ProducerRecord, TokioEnvironment};
use support::{Postgres, Redis};
use tokio::time::timeout;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

async fn broker_with(topic: &str, records: &[(&'static str, Option<&'static str>)]) -> EmbeddedBroker {
    let broker = EmbeddedBroker::start().unwrap();
    let new = NewTopic {
        name: topic.to_owned().into(),
        partitions: Some(2),
        replicas: Some(1),
        configs: Vec::new(),
    };
    let created = Admin::new(cluster(&broker)).create_topics(&[new], Execution::Apply).await.unwrap();
    assert!(created.iter().all(|(_, created)| created.is_ok()));
    send(&broker, topic, records).await;
    broker
}

async fn send(broker: &EmbeddedBroker, topic: &str, records: &[(&'static str, Option<&'static str>)]) {
    let producer = Producer::new(cluster(broker)).unwrap();
    for (key, value) in records {
        let mut record = ProducerRecord::new(topic.to_owned(), value.unwrap_or_default());
        record.key = Some((*key).into());
        record.value = value.map(Into::into);
        producer.send(record).await.unwrap();
    }
    producer.close(PATIENCE).await.unwrap();
}

fn cluster(broker: &EmbeddedBroker) -> Cluster {
    let mut options = Options::default();
    options.set("bootstrap.servers", &broker.bootstrap_servers()).unwrap();
    Cluster::new(options, Arc::new(TokioEnvironment)).unwrap()
}

/// Runs an example until what is waited for is there, and ends it as a kill does.
async fn run_until(
    example: impl Future<Output = Result<(), Box<dyn std::error::Error>>>,
    mut is_there: impl AsyncFnMut() -> bool,
) {
    let waiting = async {
        while !is_there().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        ended = timeout(PATIENCE, example) => panic!("it reads on: {ended:?}"),
        () = waiting => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_payment_is_counted_once_however_often_the_example_is_started() {
    let payments = [("alice", Some("alice 5")), ("bob", Some("bob 7")), ("alice", Some("alice 6"))];
    let broker = broker_with("payments", &payments).await;
    let postgres = Postgres::start().await;
    let (brokers, database) = (broker.bootstrap_servers(), postgres.address());
    let results = postgres.client().await;
    let sums = async || {
        let rows = results.query("SELECT customer, amount FROM sums ORDER BY customer", &[]).await;
        let rows = rows.unwrap_or_default();
        rows.iter().map(|row| (row.get::<_, String>(0), row.get::<_, i64>(1))).collect::<Vec<_>>()
    };
    for round in 1..=3 {
        // What was counted before would be counted again by whoever began anew.
        let wanted = [("alice".to_owned(), 11 * round), ("bob".to_owned(), 7 * round)];
        let example = postgres_exactly_once::run(&brokers, &database, "payments");
        run_until(example, async || sums().await == wanted).await;
        send(&broker, "payments", &payments).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_prices_are_in_redis() {
    let prices = [("tea", Some("3")), ("salt", Some("1")), ("tea", Some("4")), ("salt", None)];
    let broker = broker_with("prices", &prices).await;
    let redis = Redis::start().await;
    let client = redis::Client::open(redis.address()).unwrap();
    let connection = client.get_multiplexed_async_connection().await.unwrap();
    let all = async || {
        let mut connection = connection.clone();
        let all: std::collections::BTreeMap<String, String> =
            redis::cmd("HGETALL").arg("prices").query_async(&mut connection).await.unwrap();
        let positions: Vec<String> =
            redis::cmd("KEYS").arg("ottla:offsets:newest:*").query_async(&mut connection).await.unwrap();
        (all.into_iter().collect::<Vec<_>>(), positions.len())
    };
    let (brokers, store) = (broker.bootstrap_servers(), redis.address());
    let example = redis_idempotent::run(&brokers, &store, "prices");
    run_until(example, async || all().await == (vec![("tea".to_owned(), "4".to_owned())], 2)).await;
}
