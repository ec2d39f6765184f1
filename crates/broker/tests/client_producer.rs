//! The client's producer against real brokers, ours and Apache Kafka's: what it says is delivered is there once and in order, whatever happens to its
//! connections, and its transactions are seen whole or not at all, in both protocols.

#[macro_use]
mod support;

// The client's examples, as their documents show them.
#[path = "../../client/examples/producer.rs"]
#[allow(dead_code, unreachable_pub)]
mod producer_example;
#[path = "../../client/examples/transactions.rs"]
#[allow(dead_code, unreachable_pub)]
mod transactions_example;

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use client::{
    Address, Admin, BoxFuture, Cluster, ConsumerGroupMetadata, Environment, Error, ErrorKind, Options,
    Producer, ProducerRecord, Socket, TokioEnvironment,
};
use support::{Place, TestClient, TestCluster, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use wire::messages::api_versions::ApiVersionsResponse;
use wire::messages::create_topics::{CreatableTopic, CreateTopicsRequest};
use wire::messages::fetch::{FetchPartition, FetchRequest, FetchTopic};
use wire::records::Batches;
use wire::{
    ApiKey, Decoder, ErrorCode, Frame, Message, Millis, Offset, PartitionId, Response, ResponseHeader, Str,
    TopicPartition,
};

/// How long a story may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// How the cluster speaks of transactions, as its brokers tell clients.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Protocol {
    /// The feature is not turned on.
    First,
    Second,
}

/// A network whose connections can be cut.
#[derive(Clone)]
struct Wires {
    protocol: Protocol,
    open: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Wires {
    fn new(protocol: Protocol) -> Wires {
        Wires { protocol, open: Arc::default() }
    }

    /// Cuts all connections; tells how many there were.
    fn cut(&self) -> usize {
        let cut = std::mem::take(&mut *self.open.lock().expect("nobody panics with it"));
        cut.iter().for_each(AbortHandle::abort);
        cut.len()
    }

    fn producer(&self, address: SocketAddr, settings: &[(&str, &str)]) -> Producer {
        Producer::new(self.cluster(address, settings)).expect("the settings fit together")
    }

    fn cluster(&self, address: SocketAddr, settings: &[(&str, &str)]) -> Cluster {
        let mut options = Options::default();
        options.set("bootstrap.servers", &address.to_string()).expect("an address");
        for (key, value) in settings {
            options.set(key, value).expect("a setting");
        }
        Cluster::new(options, Arc::new(self.clone())).expect("the settings fit together")
    }
}

impl Environment for Wires {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Socket>>> {
        Box::pin(async move {
            let broker = TcpStream::connect((address.host.as_str(), address.port)).await?;
            broker.set_nodelay(true)?;
            let (ours, theirs) = tokio::io::duplex(256 * 1024);
            let carrying = tokio::spawn(carry(self.protocol, theirs, broker));
            self.open.lock().expect("nobody panics with it").push(carrying.abort_handle());
            Ok(Box::new(ours) as Box<dyn Socket>)
        })
    }

    fn now(&self) -> Millis {
        TokioEnvironment.now()
    }

    fn random(&self) -> u64 {
        TokioEnvironment.random()
    }
}

/// Carries bytes both ways. The first answer tells the versions; a cluster of the first protocol has no features.
async fn carry(protocol: Protocol, mut client: DuplexStream, mut broker: TcpStream) -> io::Result<()> {
    if protocol == Protocol::First {
        let mut request = vec![0; usize::try_from(client.read_i32().await?).expect("a length")];
        client.read_exact(&mut request).await?;
        broker.write_i32(i32::try_from(request.len()).expect("a length")).await?;
        broker.write_all(&request).await?;
        let mut frame = vec![0; usize::try_from(broker.read_i32().await?).expect("a length")];
        broker.read_exact(&mut frame).await?;
        let version = i16::from_be_bytes([request[2], request[3]]);
        let mut decoder = Decoder::new(Bytes::from(frame));
        let header = ResponseHeader::decode(&mut decoder, ApiKey::ApiVersions, version).expect("a header");
        let mut answer = ApiVersionsResponse::decode(&mut decoder, version).expect("an answer");
        answer.finalized_features.clear();
        let response = Response::from(answer);
        let frame = Frame::response(header.correlation_id, ApiKey::ApiVersions, version, &response);
        client.write_all(&frame.expect("it is short").to_bytes()).await?;
    }
    tokio::io::copy_bidirectional(&mut client, &mut broker).await.map(drop)
}

/// Tells a story within its time.
fn story<T>(story: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime can be started");
    runtime.block_on(async { timeout(PATIENCE, story).await }).expect("it ends in time")
}

fn record(topic: &'static str, partition: i32, value: &str) -> ProducerRecord {
    let value = Bytes::copy_from_slice(value.as_bytes());
    ProducerRecord { partition: Some(PartitionId(partition)), ..ProducerRecord::new(topic, value) }
}

/// What a reader of committed records sees of a partition.
fn read_committed(client: &mut TestClient, topic: &'static str, partition: i32) -> Vec<String> {
    let mut values = Vec::new();
    let mut skipped = BTreeSet::new();
    let mut fetch_offset = 0;
    loop {
        let wanted = FetchPartition {
            partition,
            fetch_offset,
            partition_max_bytes: 1024 * 1024,
            ..Default::default()
        };
        let topic = FetchTopic { topic: topic.into(), partitions: vec![wanted], ..Default::default() };
        let request = FetchRequest {
            max_bytes: 1024 * 1024,
            isolation_level: 1,
            topics: vec![topic],
            ..Default::default()
        };
        let data = client.ask_in(12, request).responses.remove(0).partitions.remove(0);
        assert_eq!(data.error_code, ErrorCode::NONE);
        let mut aborted = data.aborted_transactions.unwrap_or_default();
        aborted.sort_by_key(|transaction| transaction.first_offset);
        let before = fetch_offset;
        for batch in Batches::new(data.records.unwrap_or_default().into_bytes()) {
            let batch = batch.expect("a batch");
            let header = batch.header();
            let producer = header.producer_id().0;
            while aborted.first().is_some_and(|aborted| aborted.first_offset <= header.last_offset().0) {
                skipped.insert(aborted.remove(0).producer_id);
            }
            fetch_offset = header.last_offset().0 + 1;
            if header.attributes().is_control() {
                skipped.remove(&producer);
            } else if !(header.attributes().is_transactional() && skipped.contains(&producer)) {
                for record in batch.records(1024 * 1024) {
                    let value = record.expect("a record").value.expect("a value");
                    values.push(String::from_utf8(value.to_vec()).expect("text"));
                }
            }
        }
        if fetch_offset == before {
            return values;
        }
    }
}

/// Waits until a reader of committed records sees this.
fn wait_for(client: &mut TestClient, topic: &'static str, partition: i32, expected: &[&str]) {
    let mut seen = Vec::new();
    wait_until(|| {
        seen = read_committed(client, topic, partition);
        seen == expected || seen.len() > expected.len()
    });
    assert_eq!(seen, expected);
}

on_both! {
    cut_connections_lose_double_and_reorder_nothing,
    transactions_are_seen_whole_or_not_at_all,
    many_short_transactions_follow_each_other_under_cuts,
    a_zombie_is_fenced_and_told_so,
    a_transaction_that_took_too_long_fences_its_producer,
    offsets_are_committed_with_the_transaction_or_not_at_all,
    a_record_that_the_broker_refuses_can_be_left_out_of_the_next_try,
    the_examples_do_what_they_say,
}

fn cut_connections_lose_double_and_reorder_nothing(place: Place) {
    const COUNT: usize = 6000;
    let broker = place.start();
    let t = broker.create_topic("t", 3);
    let wires = Wires::new(Protocol::Second);
    let cuts = story(async {
        let settings = [("linger.ms", "0"), ("batch.size", "200"), ("compression.type", "lz4")];
        let producer = Arc::new(wires.producer(broker.addr(), &settings));
        let cutting = {
            let wires = wires.clone();
            tokio::spawn(async move {
                let mut cuts = 0;
                for _ in 0..40 {
                    sleep(Duration::from_millis(60)).await;
                    cuts += wires.cut();
                }
                cuts
            })
        };
        let mut handles = Vec::new();
        for number in 0..COUNT {
            let record = record(t, (number % 3) as i32, &(number / 3).to_string());
            handles.push((number, producer.enqueue(record).await.expect("there is room")));
            if number % 100 == 0 {
                sleep(Duration::from_millis(30)).await;
            }
        }
        for (number, handle) in handles {
            let delivery = handle.await.expect("it is delivered");
            if let Some(offset) = delivery.offset {
                assert_eq!(offset.0, (number / 3) as i64);
            }
        }
        cutting.await.expect("cutting does not panic")
    });
    assert!(cuts >= 20, "only {cuts} connections were cut");
    let mut client = broker.client();
    let expected: Vec<_> = (0..COUNT / 3).map(|number| number.to_string()).collect();
    for partition in 0..3 {
        assert_eq!(read_committed(&mut client, t, partition), expected, "partition {partition}");
    }
}

#[test]
fn a_leader_that_dies_loses_doubles_and_reorders_nothing() {
    const COUNT: usize = 3000;
    let mut cluster = TestCluster::start(3, &[]);
    let topic =
        CreatableTopic { name: "t".into(), num_partitions: 3, replication_factor: 3, ..Default::default() };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, ..Default::default() };
    assert_eq!(cluster.client(1).ask(request).topics[0].error_code, ErrorCode::NONE);
    let bootstrap: Vec<_> = (1..=3).map(|id| cluster.addr(id).to_string()).collect();
    let first = cluster.addr(1);
    let bootstrap = bootstrap.join(",");
    let sending = std::thread::spawn(move || {
        story(async {
            let settings = [("bootstrap.servers", bootstrap.as_str()), ("batch.size", "300")];
            let producer = Wires::new(Protocol::Second).producer(first, &settings);
            let mut handles = Vec::new();
            for number in 0..COUNT {
                let record = record("t", (number % 3) as i32, &(number / 3).to_string());
                handles.push(producer.enqueue(record).await.expect("there is room"));
                if number % 20 == 0 {
                    sleep(Duration::from_millis(20)).await;
                }
            }
            for handle in handles {
                handle.await.expect("it is delivered");
            }
        });
    });
    std::thread::sleep(Duration::from_millis(500));
    cluster.kill(3);
    std::thread::sleep(Duration::from_millis(1000));
    cluster.open(vec![3]);
    sending.join().expect("everything is delivered");
    let expected: Vec<_> = (0..COUNT / 3).map(|number| number.to_string()).collect();
    for partition in 0..3 {
        let topic = story(async {
            let admin = Admin::new(Wires::new(Protocol::Second).cluster(first, &[]));
            let mut described = admin.describe_topics(&["t".into()]).await.expect("it answers");
            described.remove(0).1.expect("it is there")
        });
        let leader = topic.partitions[partition as usize].leader.expect("it has one");
        assert_eq!(read_committed(&mut cluster.client(leader.0), "t", partition), expected);
    }
}

fn transactions_are_seen_whole_or_not_at_all(place: Place) {
    for protocol in [Protocol::First, Protocol::Second] {
        let broker = place.start();
        let t = broker.create_topic("t", 2);
        let wires = Wires::new(protocol);
        story(async {
            let producer = wires
                .producer(broker.addr(), &[("transactional.id", broker.name("a")), ("batch.size", "100")]);
            let outside = producer.send(record(t, 0, "too early")).await.expect_err("it is not initialised");
            assert!(matches!(outside, Error::State { .. }), "{outside}");
            producer.init_transactions().await.expect("the id is free");

            let txn = producer.begin().await.expect("nothing is open");
            assert!(matches!(producer.begin().await.map(drop), Err(Error::State { .. })));
            for number in 0..20 {
                drop(
                    txn.enqueue(record(t, number % 2, &format!("committed {number}")))
                        .await
                        .expect("it is open"),
                );
            }
            txn.commit().await.expect("it commits");

            let outside = producer.send(record(t, 0, "between")).await.expect_err("none is open");
            assert!(matches!(outside, Error::State { .. }), "{outside}");

            let txn = producer.begin().await.expect("nothing is open");
            txn.send(record(t, 0, "aborted")).await.expect("it is written");
            txn.abort().await.expect("it aborts");

            // Nothing is said of one that has nothing in it.
            producer.begin().await.expect("nothing is open").commit().await.expect("it commits");

            let txn = producer.begin().await.expect("nothing is open");
            txn.send(record(t, 1, "dropped")).await.expect("it is written");
            drop(txn);
            let txn = producer.begin().await.expect("what was dropped is aborted");
            txn.send(record(t, 1, "last")).await.expect("it is written");
            txn.commit().await.expect("it commits");

            let txn = producer.begin().await.expect("nothing is open");
            txn.send(record(t, 1, "open")).await.expect("it is written");
            drop(txn);
            producer.close(Duration::from_secs(30)).await.expect("it aborts");
        });
        let mut client = broker.client();
        let committed = |parity: usize| (0..20).filter(move |number| number % 2 == parity);
        let mut values: Vec<_> = committed(0).map(|number| format!("committed {number}")).collect();
        wait_for(&mut client, t, 0, &values.iter().map(String::as_str).collect::<Vec<_>>());
        values = committed(1).map(|number| format!("committed {number}")).collect();
        values.push("last".to_owned());
        wait_for(&mut client, t, 1, &values.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

fn many_short_transactions_follow_each_other_under_cuts(place: Place) {
    for protocol in [Protocol::First, Protocol::Second] {
        let broker = place.start();
        let t = broker.create_topic("t", 2);
        let wires = Wires::new(protocol);
        let committed = story(async {
            let producer =
                wires.producer(broker.addr(), &[("transactional.id", broker.name("a")), ("linger.ms", "0")]);
            producer.init_transactions().await.expect("the id is free");
            let mut committed = Vec::new();
            for number in 0..60 {
                let txn = producer.begin().await.expect("nothing is open");
                for partition in 0..2 {
                    drop(txn.enqueue(record(t, partition, &number.to_string())).await.expect("it is open"));
                }
                if number % 10 == 5 {
                    wires.cut();
                }
                match number % 3 {
                    0 => txn.abort().await.expect("it aborts"),
                    _ => {
                        txn.commit().await.expect("it commits");
                        committed.push(number.to_string());
                    }
                }
            }
            committed
        });
        let mut client = broker.client();
        let expected: Vec<_> = committed.iter().map(String::as_str).collect();
        for partition in 0..2 {
            wait_for(&mut client, t, partition, &expected);
        }
    }
}

fn a_zombie_is_fenced_and_told_so(place: Place) {
    for protocol in [Protocol::First, Protocol::Second] {
        let broker = place.start();
        let t = broker.create_topic("t", 1);
        let wires = Wires::new(protocol);
        story(async {
            let settings = [("transactional.id", broker.name("a"))];
            let zombie = wires.producer(broker.addr(), &settings);
            zombie.init_transactions().await.expect("the id is free");
            let txn = zombie.begin().await.expect("nothing is open");
            txn.send(record(t, 0, "of the zombie")).await.expect("it is written");

            let heir = wires.producer(broker.addr(), &settings);
            heir.init_transactions().await.expect("it takes over");
            drop(txn.enqueue(record(t, 0, "too late")).await.expect("nobody has said anything yet"));
            let error = txn.commit().await.expect_err("it is fenced");
            assert_eq!(error.kind(), ErrorKind::Fenced, "{protocol:?}: {error}");
            let error = zombie.begin().await.map(drop).expect_err("it stays fenced");
            assert_eq!(error.kind(), ErrorKind::Fenced, "{protocol:?}: {error}");

            let txn = heir.begin().await.expect("nothing is open");
            txn.send(record(t, 0, "of the heir")).await.expect("it is written");
            txn.commit().await.expect("it commits");
        });
        wait_for(&mut broker.client(), t, 0, &["of the heir"]);
    }
}

fn a_transaction_that_took_too_long_fences_its_producer(place: Place) {
    for protocol in [Protocol::First, Protocol::Second] {
        let broker = place.start();
        let t = broker.create_topic("t", 1);
        let wires = Wires::new(protocol);
        // Apache Kafka takes the abort for a second asking and names the next epoch, where transactions have epochs of
        // their own (KIP-890).
        let goes_on = place == Place::Kafka && protocol == Protocol::Second;
        story(async {
            let settings = [("transactional.id", broker.name("a")), ("transaction.timeout.ms", "300")];
            let producer = wires.producer(broker.addr(), &settings);
            producer.init_transactions().await.expect("the id is free");
            let txn = producer.begin().await.expect("nothing is open");
            txn.send(record(t, 0, "slow")).await.expect("it is written");
            let error = loop {
                match txn.send(record(t, 0, "slower")).await {
                    Ok(_) => sleep(Duration::from_millis(50)).await,
                    Err(error) => break error,
                }
            };
            assert_eq!(error.code(), Some(ErrorCode::INVALID_PRODUCER_EPOCH), "{error}");
            let joined = txn.enqueue(record(t, 0, "after")).await.expect_err("it failed");
            assert!(matches!(joined, Error::Aborted { .. }), "{joined}");
            let error = txn.commit().await.expect_err("it is aborted");
            if !goes_on {
                assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
                return;
            }
            assert_eq!(error.kind(), ErrorKind::Abortable, "{error}");
            let txn = producer.begin().await.expect("it was aborted");
            txn.send(record(t, 0, "next")).await.expect("it is written");
            txn.commit().await.expect("it commits");
        });
        wait_for(&mut broker.client(), t, 0, if goes_on { &["next"] } else { &[] });
    }
}

fn offsets_are_committed_with_the_transaction_or_not_at_all(place: Place) {
    for protocol in [Protocol::First, Protocol::Second] {
        let broker = place.start();
        let t = broker.create_topic("t", 1);
        let wires = Wires::new(protocol);
        story(async {
            let cluster = wires.cluster(broker.addr(), &[("transactional.id", broker.name("a"))]);
            let admin = Admin::new(cluster.clone());
            let producer = Producer::new(cluster).expect("the settings fit together");
            producer.init_transactions().await.expect("the id is free");
            let group = ConsumerGroupMetadata::of_group(broker.name("g"));
            let at = |offset| [(TopicPartition::new(t, PartitionId(0)), Offset(offset))];
            let committed = async || {
                let group = admin.group_offsets(&Str::from(broker.name("g"))).await.ok()?;
                group.committed.into_values().next().map(|committed| committed.offset.0)
            };

            let txn = producer.begin().await.expect("nothing is open");
            txn.send(record(t, 0, "one")).await.expect("it is written");
            txn.send_offsets(at(10), &group).await.expect("they are taken");
            txn.commit().await.expect("it commits");
            while committed().await != Some(10) {
                sleep(Duration::from_millis(20)).await;
            }

            let txn = producer.begin().await.expect("nothing is open");
            txn.send_offsets(at(20), &group).await.expect("they are taken");
            txn.abort().await.expect("it aborts");

            let stranger =
                ConsumerGroupMetadata { generation_id: 7, member_id: "nobody".into(), ..group.clone() };
            let txn = producer.begin().await.expect("nothing is open");
            txn.send(record(t, 0, "two")).await.expect("it is written");
            let error = txn.send_offsets(at(30), &stranger).await.expect_err("the group has no such member");
            assert_eq!(error.kind(), ErrorKind::Abortable, "{error}");
            let error = txn.commit().await.expect_err("it failed");
            assert_eq!(error.kind(), ErrorKind::Abortable, "{error}");

            let txn = producer.begin().await.expect("it was aborted");
            txn.send(record(t, 0, "three")).await.expect("it is written");
            txn.commit().await.expect("it commits");
            assert_eq!(committed().await, Some(10));
        });
        wait_for(&mut broker.client(), t, 0, &["one", "three"]);
    }
}

fn a_record_that_the_broker_refuses_can_be_left_out_of_the_next_try(place: Place) {
    for protocol in [Protocol::First, Protocol::Second] {
        let broker = place.start();
        let t = broker.create_topic_with("t", 1, &[("max.message.bytes", "1000")]);
        let wires = Wires::new(protocol);
        story(async {
            let producer = wires.producer(broker.addr(), &[("transactional.id", broker.name("a"))]);
            producer.init_transactions().await.expect("the id is free");
            let txn = producer.begin().await.expect("nothing is open");
            txn.send(record(t, 0, "small")).await.expect("it is written");
            let error = txn.send(record(t, 0, &"x".repeat(2000))).await.expect_err("it is too large");
            assert_eq!(error.code(), Some(ErrorCode::MESSAGE_TOO_LARGE));
            let error = txn.commit().await.expect_err("it failed");
            assert_eq!(error.kind(), ErrorKind::Abortable, "{error}");
            let txn = producer.begin().await.expect("it was aborted");
            txn.send(record(t, 0, "small again")).await.expect("it is written");
            txn.commit().await.expect("it commits");
        });
        wait_for(&mut broker.client(), t, 0, &["small again"]);
    }
}

fn the_examples_do_what_they_say(place: Place) {
    let broker = place.start();
    let t = broker.create_topic("t", 1);
    let address = broker.addr().to_string();
    story(async {
        producer_example::run(&address, t, &b"one\ntwo\nthree\n"[..]).await.expect("the lines are delivered");
        transactions_example::run(&address, t).await.expect("the amounts are moved");
    });
    let moves = (1..=10).flat_map(|amount| [format!("-{amount}"), amount.to_string()]);
    let expected: Vec<_> = ["one", "two", "three"].map(str::to_owned).into_iter().chain(moves).collect();
    wait_for(&mut broker.client(), t, 0, &expected.iter().map(String::as_str).collect::<Vec<_>>());
}
