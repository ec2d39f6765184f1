//! What users' own tests can do with a broker in their process: end it, take its power and its disk, keep its answers.

mod support;

use std::io::{ErrorKind, Read};
use std::time::Duration;

use broker::embedded::{EmbeddedBroker, EmbeddedError, FaultDisk};
use support::{TestClient, batch_of, wait_until};
use wire::ErrorCode;
use wire::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};

/// Long enough for a loaded machine; nothing waits for it when all is well.
const PATIENCE: Duration = Duration::from_secs(30);
/// The last version of Produce that names topics.
const VERSION: i16 = 12;

fn client(broker: &EmbeddedBroker) -> TestClient {
    TestClient::connect_to(broker.address())
}

fn record(value: &str) -> bytes::Bytes {
    batch_of(&[(1_700_000_000_000, value.as_bytes())])
}

#[test]
fn a_broker_that_was_killed_is_back_at_its_address_with_every_acknowledged_record() {
    let mut broker = EmbeddedBroker::builder().set("num.partitions", "3").start().unwrap();
    let address = broker.address();
    let mut before = client(&broker);
    before.create_topic("t", 1);
    assert_eq!(before.append("t", 0, record("kept")), 0);
    broker.kill();
    assert!(!broker.is_running());
    assert!(
        matches!(before.socket().try_clone().unwrap().read(&mut [0]), Ok(0) | Err(_)),
        "its clients are cut off"
    );
    assert!(std::net::TcpStream::connect(address).is_err(), "nobody listens");
    broker.start_again().unwrap();
    assert_eq!(broker.address(), address);
    let mut after = client(&broker);
    assert!(!after.fetch("t", 0, 0).unwrap().is_empty());
    assert_eq!(after.append("t", 0, record("next")), 1);
    broker.stop().unwrap();
}

#[test]
fn brokers_live_beside_each_other_inside_a_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut brokers: Vec<_> = (0..3).map(|_| EmbeddedBroker::start().unwrap()).collect();
        for broker in &mut brokers {
            client(broker).create_topic("t", 1);
            broker.stop().unwrap();
            broker.start_again().unwrap();
            assert_eq!(client(broker).append("t", 0, record("mine")), 0);
        }
    });
}

#[test]
fn a_power_cut_takes_what_was_not_flushed() {
    let disk = FaultDisk::new();
    let broker = EmbeddedBroker::builder().memory(&disk).set("log.flush.before.ack", "false");
    let mut broker = broker.start().unwrap();
    client(&broker).create_topic("t", 1);
    client(&broker).append("t", 0, record("in the page cache"));
    broker.kill();
    broker.start_again().unwrap();
    assert!(!client(&broker).fetch("t", 0, 0).unwrap().is_empty(), "the machine went on");
    client(&broker).append("t", 0, record("in the page cache, too"));
    broker.kill();
    disk.crash(&mut |_: u64| 0);
    broker.start_again().unwrap();
    assert_eq!(client(&broker).fetch("t", 0, 1), Err(ErrorCode::OFFSET_OUT_OF_RANGE));
}

#[test]
fn a_full_disk_is_told_to_whoever_writes_and_passes_when_there_is_room_again() {
    let disk = FaultDisk::new();
    let mut broker = EmbeddedBroker::builder().memory(&disk).start().unwrap();
    let mut before = client(&broker);
    before.create_topic("t", 1);
    assert_eq!(before.append("t", 0, record("fits")), 0);
    disk.fill();
    assert_eq!(before.try_append("t", 0, record("does not")).0, ErrorCode::KAFKA_STORAGE_ERROR);
    broker.kill();
    disk.make_room();
    broker.start_again().unwrap();
    assert_eq!(client(&broker).append("t", 0, record("fits again")), 1);
}

#[test]
fn answers_that_are_held_back_leave_clients_in_doubt_of_what_was_done() {
    let broker = EmbeddedBroker::start().unwrap();
    let mut writer = client(&broker);
    writer.create_topic("t", 1);
    broker.hold_answers();
    writer.send_in(VERSION, produce("done"));
    wait_until(|| broker.connections_held() == 1);
    writer.socket().set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let error = writer.socket().read(&mut [0]).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    writer.socket().set_read_timeout(Some(PATIENCE)).unwrap();
    broker.release_answers();
    let answer = writer.receive_in::<ProduceRequest>(VERSION);
    assert_eq!(answer.responses[0].partition_responses[0].base_offset, 0);
    // The next answer is lost with its connection; the record is there all the same.
    broker.hold_answers();
    writer.send_in(VERSION, produce("done, and nobody knows"));
    wait_until(|| broker.connections_held() == 1);
    broker.drop_connections();
    assert!(matches!(writer.socket().read(&mut [0]), Ok(0) | Err(_)));
    broker.release_answers();
    assert!(!client(&broker).fetch("t", 0, 1).unwrap().is_empty());
}

fn produce(value: &str) -> ProduceRequest {
    let data = PartitionProduceData { index: 0, records: Some(record(value)) };
    let topic = TopicProduceData { name: "t".into(), partition_data: vec![data], ..Default::default() };
    ProduceRequest { acks: -1, timeout_ms: 10_000, topic_data: vec![topic], ..Default::default() }
}

#[test]
fn settings_that_are_not_valid_are_named() {
    let refused = EmbeddedBroker::builder().set("num.partitions", "many").start();
    match refused.err() {
        Some(EmbeddedError::Settings(error)) => {
            assert!(error.to_string().contains("num.partitions"), "{error}");
        }
        other => panic!("{:?}", other.map(|error| error.to_string())),
    }
}
