//! What an acknowledgement promises, through a socket, on a disk that fails, forgets and loses power when the test says.

mod support;

use std::io;
use std::path::Path;
use std::sync::Arc;

use storage::fault::{Fault, FaultDisk};
use storage::{DirEntry, Disk, DiskFile, DiskLock, OpenMode, RealDisk};
use support::{TestBroker, TestClient, batch_of};
use wire::ErrorCode;
use wire::messages::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use wire::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};

fn produce(value: &[u8], acks: i16) -> ProduceRequest {
    let records = Some(batch_of(&[(1_700_000_000_000, value)]));
    let topic = TopicProduceData {
        name: "t".into(),
        partition_data: vec![PartitionProduceData { index: 0, records }],
        ..Default::default()
    };
    ProduceRequest { acks, timeout_ms: 10_000, topic_data: vec![topic], ..Default::default() }
}

fn latest(client: &mut TestClient) -> i64 {
    let partition = ListOffsetsPartition { timestamp: -1, current_leader_epoch: -1, ..Default::default() };
    let topic = ListOffsetsTopic { name: "t".into(), partitions: vec![partition] };
    let request = ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
    client.ask(request).topics.remove(0).partitions.remove(0).offset
}

/// A disk on which one directory cannot be made.
#[derive(Debug)]
struct Refusing {
    inner: RealDisk,
    dir: &'static str,
}

impl Disk for Refusing {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        self.inner.open(path, mode)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.inner.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        if dir.ends_with(self.dir) {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            self.inner.create_dir(dir)
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<DiskLock> {
        self.inner.lock(path)
    }
}

/// Power fails, and nothing that was not synced survives.
fn lose_power(disk: &FaultDisk) {
    disk.crash(&mut |_: u64| 0);
}

#[test]
fn what_was_acknowledged_survives_a_power_cut() {
    let disk = FaultDisk::new();
    let mut broker = TestBroker::start_on(Arc::new(disk.clone()), &[]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 1);
    for at in 0..20_i64 {
        assert_eq!(client.produce(produce(format!("{at}").as_bytes(), -1)), (ErrorCode::NONE, at));
    }
    broker.kill(|| lose_power(&disk));
    let mut client = TestClient::connect(&broker);
    assert_eq!(latest(&mut client), 20);
    assert!(!client.fetch("t", 0, 19).unwrap().is_empty());
}

#[test]
fn a_failed_sync_is_told_and_ends_the_partitions_service() {
    let disk = FaultDisk::new();
    let broker = TestBroker::start_on(Arc::new(disk.clone()), &[]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 1);
    client.create_topic("neighbour", 1);
    assert_eq!(client.produce(produce(b"safe", -1)), (ErrorCode::NONE, 0));
    disk.inject(Fault::SyncFails);
    assert_eq!(client.produce(produce(b"lost", -1)).0, ErrorCode::KAFKA_STORAGE_ERROR);
    assert_eq!(
        client.produce(produce(b"later", -1)).0,
        ErrorCode::KAFKA_STORAGE_ERROR,
        "it is not tried again"
    );
    assert_eq!(client.fetch("t", 0, 0).unwrap_err(), ErrorCode::KAFKA_STORAGE_ERROR);
    client.produce_and_read_back("neighbour");
}

#[test]
fn in_page_cache_mode_a_killed_process_loses_nothing_and_a_power_cut_may() {
    let disk = FaultDisk::new();
    let mut broker = TestBroker::start_on(Arc::new(disk.clone()), &["log.flush.before.ack=false"]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 1);
    for at in 0..10_i64 {
        assert_eq!(client.produce(produce(b"x", -1)), (ErrorCode::NONE, at));
    }
    broker.kill(|| disk.kill());
    let mut client = TestClient::connect(&broker);
    assert_eq!(latest(&mut client), 10, "the page cache outlives the process");
    assert!(!client.fetch("t", 0, 9).unwrap().is_empty());
    broker.kill(|| lose_power(&disk));
    assert!(latest(&mut TestClient::connect(&broker)) <= 10);
}

#[test]
fn one_topic_may_wait_for_the_disk_where_the_broker_does_not() {
    let disk = FaultDisk::new();
    let mut broker = TestBroker::start_on(Arc::new(disk.clone()), &["log.flush.before.ack=false"]);
    let mut client = TestClient::connect(&broker);
    client.create_topic_with("t", 1, &[("flush.before.ack", "true")]);
    assert_eq!(client.produce(produce(b"safe", -1)), (ErrorCode::NONE, 0));
    broker.kill(|| lose_power(&disk));
    assert_eq!(latest(&mut TestClient::connect(&broker)), 1);
}

#[test]
fn a_topic_that_could_not_be_made_leaves_nothing_for_the_next_of_its_name() {
    let mut broker = TestBroker::start_on(Arc::new(Refusing { inner: RealDisk, dir: "t-3" }), &[]);
    let mut client = TestClient::connect(&broker);
    assert_eq!(client.try_create_topic("t", 8), ErrorCode::KAFKA_STORAGE_ERROR);
    client.create_topic("t", 1);
    assert_eq!(client.produce(produce(b"kept", -1)), (ErrorCode::NONE, 0));
    broker.restart();
    assert_eq!(latest(&mut TestClient::connect(&broker)), 1);
}
