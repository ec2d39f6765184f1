//! Transactions through a socket: what the shell adds to the pure machine. Markers reach their partitions, readers of committed
//! records see all of a transaction or nothing, and none of that is undone by a broker that dies.

mod support;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use broker::clock::{Clock, SystemClock};
use bytes::Bytes;
use storage::{DirEntry, Disk, DiskFile, DiskLock, OpenMode, RealDisk};
use support::{TestBroker, TestClient, TestCluster, wait_until};
use wire::messages::add_offsets_to_txn::AddOffsetsToTxnRequest;
use wire::messages::add_partitions_to_txn::{AddPartitionsToTxnRequest, AddPartitionsToTxnTopic};
use wire::messages::create_topics::{CreatableTopic, CreateTopicsRequest};
use wire::messages::describe_producers::{self, DescribeProducersRequest};
use wire::messages::describe_transactions::DescribeTransactionsRequest;
use wire::messages::elect_leaders::ElectLeadersRequest;
use wire::messages::end_txn::EndTxnRequest;
use wire::messages::fetch::{FetchPartition, FetchRequest, FetchTopic};
use wire::messages::find_coordinator::FindCoordinatorRequest;
use wire::messages::init_producer_id::InitProducerIdRequest;
use wire::messages::list_transactions::ListTransactionsRequest;
use wire::messages::offset_fetch::{OffsetFetchRequest, OffsetFetchRequestTopic};
use wire::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use wire::messages::txn_offset_commit::{
    TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use wire::records::{BatchBuilder, BatchOptions, Batches};
use wire::{ErrorCode, ProducerEpoch, ProducerId, Str};

/// The last versions in which a client names its partitions, and the first in which it does not.
const FIRST: Versions = Versions { produce: 11, end: 4, commit: 4 };
const SECOND: Versions = Versions { produce: 12, end: 5, commit: 5 };

#[derive(Clone, Copy)]
struct Versions {
    produce: i16,
    end: i16,
    commit: i16,
}

/// A transactional producer, as a client keeps it.
struct Producer {
    id: Str,
    producer_id: i64,
    epoch: i16,
    versions: Versions,
    /// The next sequence in each partition of the topic.
    sequences: [i32; 2],
}

const NOT_YET: [ErrorCode; 4] = [
    ErrorCode::COORDINATOR_LOAD_IN_PROGRESS,
    ErrorCode::COORDINATOR_NOT_AVAILABLE,
    ErrorCode::CONCURRENT_TRANSACTIONS,
    ErrorCode::NOT_ENOUGH_REPLICAS,
];

/// Asks again for as long as the answer is that it is too early.
fn patiently(mut ask: impl FnMut() -> ErrorCode) -> ErrorCode {
    let mut error = ErrorCode::NONE;
    wait_until(|| {
        error = ask();
        !NOT_YET.contains(&error)
    });
    error
}

fn init(
    client: &mut TestClient,
    id: &str,
    timeout_ms: i32,
    expected: Option<(i64, i16)>,
) -> Result<(i64, i16), ErrorCode> {
    let find = FindCoordinatorRequest { key: Str::copy_from(id), key_type: 1, ..Default::default() };
    assert_eq!(patiently(|| client.ask_in(3, find.clone()).error_code), ErrorCode::NONE);
    let (producer_id, producer_epoch) = expected.unwrap_or((-1, -1));
    let mut given = (-1, -1);
    let error = patiently(|| {
        let answer = client.ask(InitProducerIdRequest {
            transactional_id: Some(Str::copy_from(id)),
            transaction_timeout_ms: timeout_ms,
            producer_id,
            producer_epoch,
        });
        given = (answer.producer_id, answer.producer_epoch);
        answer.error_code
    });
    if error.is_ok() { Ok(given) } else { Err(error) }
}

impl Producer {
    fn begin(client: &mut TestClient, id: &str, versions: Versions) -> Producer {
        let (producer_id, epoch) = init(client, id, 60_000, None).expect("the id is free");
        Producer { id: Str::copy_from(id), producer_id, epoch, versions, sequences: [0; 2] }
    }

    fn batch(&self, partition: usize, value: &str) -> Bytes {
        let mut batch = BatchBuilder::new(BatchOptions {
            producer_id: ProducerId(self.producer_id),
            producer_epoch: ProducerEpoch(self.epoch),
            base_sequence: self.sequences[partition],
            is_transactional: true,
            ..BatchOptions::default()
        });
        batch.append(SystemClock.now(), None, Some(value.as_bytes()), &[]);
        batch.build()
    }

    /// Names a partition, as clients of the first protocol do.
    fn add(&self, client: &mut TestClient, partition: i32) -> ErrorCode {
        let topic = AddPartitionsToTxnTopic { name: "t".into(), partitions: vec![partition] };
        let request = AddPartitionsToTxnRequest {
            v3_and_below_transactional_id: self.id.clone(),
            v3_and_below_producer_id: self.producer_id,
            v3_and_below_producer_epoch: self.epoch,
            v3_and_below_topics: vec![topic],
            ..Default::default()
        };
        patiently(|| {
            let answer = client.ask_in(3, request.clone());
            answer.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code
        })
    }

    fn produce(&self, partition: usize, value: &str) -> ProduceRequest {
        let data = PartitionProduceData {
            index: i32::try_from(partition).expect("a small number"),
            records: Some(self.batch(partition, value)),
        };
        let topic = TopicProduceData { name: "t".into(), partition_data: vec![data], ..Default::default() };
        ProduceRequest {
            transactional_id: Some(self.id.clone()),
            acks: -1,
            timeout_ms: 10_000,
            topic_data: vec![topic],
        }
    }

    fn write(&mut self, client: &mut TestClient, partition: usize, value: &str) -> ErrorCode {
        let request = self.produce(partition, value);
        let version = self.versions.produce;
        let error = patiently(|| {
            client.ask_in(version, request.clone()).responses[0].partition_responses[0].error_code
        });
        if error.is_ok() {
            self.sequences[partition] += 1;
        }
        error
    }

    /// What a client of its protocol does for one record.
    fn send(&mut self, client: &mut TestClient, partition: usize, value: &str) {
        if self.versions.produce < SECOND.produce {
            let index = i32::try_from(partition).expect("a small number");
            assert_eq!(self.add(client, index), ErrorCode::NONE);
        }
        assert_eq!(self.write(client, partition, value), ErrorCode::NONE);
    }

    fn end(&mut self, client: &mut TestClient, committed: bool) -> ErrorCode {
        let request = EndTxnRequest {
            transactional_id: self.id.clone(),
            producer_id: self.producer_id,
            producer_epoch: self.epoch,
            committed,
        };
        let answer = client.ask_in(self.versions.end, request);
        if answer.error_code.is_ok() && answer.producer_epoch >= 0 {
            (self.producer_id, self.epoch) = (answer.producer_id, answer.producer_epoch);
            self.sequences = [0; 2];
        }
        answer.error_code
    }

    fn commit_offset(&self, client: &mut TestClient, offset: i64) -> ErrorCode {
        if self.versions.commit < SECOND.commit {
            let request = AddOffsetsToTxnRequest {
                transactional_id: self.id.clone(),
                producer_id: self.producer_id,
                producer_epoch: self.epoch,
                group_id: "g".into(),
            };
            assert_eq!(patiently(|| client.ask_in(3, request.clone()).error_code), ErrorCode::NONE);
        }
        let partition = TxnOffsetCommitRequestPartition {
            partition_index: 0,
            committed_offset: offset,
            ..Default::default()
        };
        let topic = TxnOffsetCommitRequestTopic { name: "t".into(), partitions: vec![partition] };
        let request = TxnOffsetCommitRequest {
            transactional_id: self.id.clone(),
            group_id: "g".into(),
            producer_id: self.producer_id,
            producer_epoch: self.epoch,
            topics: vec![topic],
            ..Default::default()
        };
        let version = self.versions.commit;
        patiently(|| client.ask_in(version, request.clone()).topics[0].partitions[0].error_code)
    }
}

/// What a reader of committed records makes of a partition: the values, and how far it came.
fn read_committed(client: &mut TestClient, partition: i32) -> (Vec<String>, i64) {
    let wanted =
        FetchPartition { partition, fetch_offset: 0, partition_max_bytes: 1024 * 1024, ..Default::default() };
    let topic = FetchTopic { topic: "t".into(), partitions: vec![wanted], ..Default::default() };
    let request = FetchRequest {
        max_bytes: 1024 * 1024,
        isolation_level: 1,
        topics: vec![topic],
        ..Default::default()
    };
    let mut answer = client.ask_in(12, request);
    let data = answer.responses.remove(0).partitions.remove(0);
    assert_eq!(data.error_code, ErrorCode::NONE);
    let mut aborted: Vec<_> = data.aborted_transactions.expect("who reads committed records is told");
    aborted.sort_by_key(|transaction| transaction.first_offset);
    let mut skipped = BTreeSet::new();
    let mut values = Vec::new();
    for batch in Batches::new(data.records.unwrap_or_default().into_bytes()) {
        let batch = batch.expect("a batch");
        let header = batch.header();
        let producer = header.producer_id().0;
        while aborted.first().is_some_and(|transaction| transaction.first_offset <= header.last_offset().0) {
            skipped.insert(aborted.remove(0).producer_id);
        }
        if header.attributes().is_control() {
            skipped.remove(&producer);
            continue;
        }
        if !(header.attributes().is_transactional() && skipped.contains(&producer)) {
            for record in batch.records(1024) {
                let value = record.expect("a record").value.expect("a value");
                values.push(String::from_utf8(value.to_vec()).expect("text"));
            }
        }
    }
    (values, data.last_stable_offset)
}

/// Waits until a partition's readers of committed records have come so far; a marker may be there twice, sent again by a coordinator
/// that had died before it heard of the first.
fn wait_for_stable(client: &mut TestClient, partition: i32, offset: i64) -> Vec<String> {
    let mut read = Vec::new();
    wait_until(|| {
        let (values, stable) = read_committed(client, partition);
        read = values;
        stable >= offset
    });
    read
}

fn committed_offset(client: &mut TestClient) -> Result<i64, ErrorCode> {
    let topic = OffsetFetchRequestTopic { name: "t".into(), partition_indexes: vec![0] };
    let request = OffsetFetchRequest {
        group_id: "g".into(),
        topics: Some(vec![topic]),
        require_stable: true,
        ..Default::default()
    };
    let mut offset = -1;
    let error = patiently(|| {
        let answer = client.ask_in(7, request.clone());
        if !answer.error_code.is_ok() {
            return answer.error_code;
        }
        offset = answer.topics[0].partitions[0].committed_offset;
        answer.topics[0].partitions[0].error_code
    });
    if error.is_ok() { Ok(offset) } else { Err(error) }
}

#[test]
fn readers_see_all_of_a_transaction_or_nothing() {
    let broker = TestBroker::start(&[]);
    for (versions, id, base) in [(FIRST, "first", 0), (SECOND, "second", 7)] {
        let mut client = TestClient::connect(&broker);
        if base == 0 {
            client.create_topic("t", 2);
        }
        let mut producer = Producer::begin(&mut client, id, versions);
        producer.send(&mut client, 0, "a");
        producer.send(&mut client, 1, "a");
        producer.send(&mut client, 0, "b");
        assert_eq!(read_committed(&mut client, 0).1, base);
        assert_eq!(producer.end(&mut client, true), ErrorCode::NONE);
        // The next one may begin before the markers of the last are everywhere.
        producer.send(&mut client, 0, "aborted");
        assert_eq!(producer.end(&mut client, false), ErrorCode::NONE);
        producer.send(&mut client, 0, "c");
        assert_eq!(read_committed(&mut client, 0).1, base + 5);
        let read = read_committed(&mut client, 0).0;
        assert_eq!(read[read.len() - 2..], ["a", "b"]);
        assert_eq!(producer.end(&mut client, true), ErrorCode::NONE);
        let read = wait_for_stable(&mut client, 0, base + 7);
        assert_eq!(read[read.len() - 3..], ["a", "b", "c"]);
    }
}

#[test]
fn a_reader_is_told_what_was_aborted_in_the_bytes_that_it_gets() {
    let broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 2);
    let mut producer = Producer::begin(&mut client, "a", SECOND);
    for _ in 0..5 {
        producer.send(&mut client, 0, "aborted");
        assert_eq!(producer.end(&mut client, false), ErrorCode::NONE);
    }
    wait_for_stable(&mut client, 0, 10);
    let mut told = |partition_max_bytes| {
        let wanted = FetchPartition { fetch_offset: 2, partition_max_bytes, ..Default::default() };
        let topic = FetchTopic { topic: "t".into(), partitions: vec![wanted], ..Default::default() };
        let request = FetchRequest {
            max_bytes: 1024 * 1024,
            isolation_level: 1,
            topics: vec![topic],
            ..Default::default()
        };
        let data = client.ask_in(12, request).responses.remove(0).partitions.remove(0);
        let aborted = data.aborted_transactions.expect("who reads committed records is told");
        aborted.iter().map(|transaction| transaction.first_offset).collect::<Vec<_>>()
    };
    assert_eq!(told(1), [2]);
    assert_eq!(told(1024 * 1024), [2, 4, 6, 8]);
}

/// A disk that syncs no file of one directory while it is told not to.
#[derive(Clone, Debug)]
struct HeldBack {
    dir: &'static str,
    gate: Arc<Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    is_closed: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn set(&self, is_closed: bool) {
        *self.is_closed.lock().expect("nobody has panicked") = is_closed;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let mut is_closed = self.is_closed.lock().expect("nobody has panicked");
        while *is_closed {
            is_closed = self.opened.wait(is_closed).expect("nobody has panicked");
        }
    }
}

#[derive(Debug)]
struct GatedFile(Arc<dyn DiskFile>, Arc<Gate>);

impl Disk for HeldBack {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = RealDisk.open(path, mode)?;
        let is_held = path.parent().is_some_and(|dir| dir.ends_with(self.dir));
        Ok(if is_held { Arc::new(GatedFile(file, Arc::clone(&self.gate))) } else { file })
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        RealDisk.list(dir)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<DiskLock> {
        RealDisk.lock(path)
    }
}

impl DiskFile for GatedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }
    fn read_cached_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        self.0.read_cached_at(buf, offset)
    }
    fn write_vectored_at(&self, bufs: &[io::IoSlice<'_>], offset: u64) -> io::Result<usize> {
        self.0.write_vectored_at(bufs, offset)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.truncate(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.1.pass();
        self.0.sync_data()
    }
}

/// The last sequence that a partition's log has of a producer, acknowledged or not.
fn last_sequence(client: &mut TestClient, producer_id: i64) -> Option<i32> {
    let topic = describe_producers::TopicRequest { name: "t".into(), partition_indexes: vec![0] };
    let request = DescribeProducersRequest { topics: vec![topic] };
    let partition = client.ask(request).topics.remove(0).partitions.remove(0);
    let producer = partition.active_producers.into_iter().find(|state| state.producer_id == producer_id)?;
    Some(producer.last_sequence)
}

#[test]
fn what_follows_the_first_batch_of_a_transaction_does_not_wait_for_its_acknowledgement() {
    let gate = Arc::new(Gate::default());
    let disk = HeldBack { dir: "t-0", gate: Arc::clone(&gate) };
    let broker = TestBroker::start_on(Arc::new(disk), &[]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 1);
    let mut other = TestClient::connect(&broker);
    let mut producer = Producer::begin(&mut client, "a", SECOND);
    gate.set(true);
    for at in 0..5 {
        client.send_in(SECOND.produce, producer.produce(0, &format!("{at}")));
        producer.sequences[0] += 1;
    }
    wait_until(|| last_sequence(&mut other, producer.producer_id) == Some(4));
    gate.set(false);
    for at in 0..5 {
        let answer = client.receive_in::<ProduceRequest>(SECOND.produce);
        let partition = &answer.responses[0].partition_responses[0];
        assert_eq!((partition.error_code, partition.base_offset), (ErrorCode::NONE, at));
    }
    assert_eq!(producer.end(&mut client, true), ErrorCode::NONE);
    assert_eq!(wait_for_stable(&mut client, 0, 6), ["0", "1", "2", "3", "4"]);
}

#[test]
fn nothing_is_appended_that_no_coordinator_would_end() {
    let broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 2);
    for (produce, expected) in [(10, ErrorCode::INVALID_TXN_STATE), (11, ErrorCode::TRANSACTION_ABORTABLE)] {
        let mut producer = Producer::begin(&mut client, "a", Versions { produce, ..FIRST });
        assert_eq!(producer.add(&mut client, 1), ErrorCode::NONE);
        assert_eq!(producer.write(&mut client, 0, "not named"), expected);
        assert_eq!(producer.write(&mut client, 1, "named"), ErrorCode::NONE);
        assert_eq!(producer.end(&mut client, true), ErrorCode::NONE);
        // It belonged to the transaction that is over.
        wait_until(|| producer.end(&mut client, true).is_ok());
        assert_eq!(producer.write(&mut client, 1, "late"), expected);
    }
    let mut zombie = Producer::begin(&mut client, "b", SECOND);
    zombie.send(&mut client, 0, "left behind");
    let mut successor = Producer::begin(&mut client, "b", SECOND);
    assert_eq!(zombie.write(&mut client, 0, "late"), ErrorCode::INVALID_PRODUCER_EPOCH);
    assert_eq!(zombie.write(&mut client, 1, "elsewhere"), ErrorCode::INVALID_PRODUCER_EPOCH);
    assert_eq!(zombie.end(&mut client, true), ErrorCode::PRODUCER_FENCED);
    successor.send(&mut client, 0, "mine");
    assert_eq!(successor.end(&mut client, true), ErrorCode::NONE);
    assert_eq!(wait_for_stable(&mut client, 0, 4), ["mine"]);
}

/// What a broker finds when it comes to lead a partition while it asks the coordinator about others.
#[test]
fn what_the_coordinator_was_not_asked_about_is_to_be_sent_again() {
    let broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 2);
    let mut producer = Producer::begin(&mut client, "a", SECOND);
    // One word of the coordinator for two batches of one partition; the one that it was given for is refused by itself.
    let batch = producer.batch(0, "one");
    let mut damaged = batch.to_vec();
    *damaged.last_mut().expect("a batch has bytes") ^= 1;
    let data = |records| PartitionProduceData { index: 0, records: Some(records) };
    let topic = TopicProduceData {
        name: "t".into(),
        partition_data: vec![data(damaged.into()), data(batch)],
        ..Default::default()
    };
    let request = ProduceRequest {
        transactional_id: Some(producer.id.clone()),
        acks: -1,
        timeout_ms: 10_000,
        topic_data: vec![topic],
    };
    let answer = client.ask_in(SECOND.produce, request);
    let errors: Vec<_> = answer.responses[0].partition_responses.iter().map(|part| part.error_code).collect();
    assert_eq!(errors, [ErrorCode::CORRUPT_MESSAGE, ErrorCode::NOT_ENOUGH_REPLICAS]);
    producer.send(&mut client, 0, "one");
    assert_eq!(producer.end(&mut client, true), ErrorCode::NONE);
    assert_eq!(wait_for_stable(&mut client, 0, 2), ["one"]);
}

#[test]
fn a_broker_that_dies_forgets_no_transaction() {
    let mut broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 2);
    for versions in [FIRST, SECOND] {
        let mut producer = Producer::begin(&mut client, "a", versions);
        let (_, base) = read_committed(&mut client, 0);
        producer.send(&mut client, 0, "before");
        broker.kill(|| ());
        client = TestClient::connect(&broker);
        assert_eq!(read_committed(&mut client, 0).1, base);
        producer.send(&mut client, 0, "after");
        assert_eq!(producer.commit_offset(&mut client, 7), ErrorCode::NONE);
        broker.kill(|| ());
        client = TestClient::connect(&broker);
        assert_eq!(committed_offset(&mut client), Err(ErrorCode::UNSTABLE_OFFSET_COMMIT));
        wait_until(|| producer.end(&mut client, true).is_ok());
        // The decision is what counts, wherever its markers are.
        broker.kill(|| ());
        client = TestClient::connect(&broker);
        let read = wait_for_stable(&mut client, 0, base + 3);
        assert_eq!(read[read.len() - 2..], ["before", "after"]);
        wait_until(|| committed_offset(&mut client) == Ok(7));
    }
}

#[test]
fn offsets_count_with_their_transaction() {
    let mut broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 2);
    let find = FindCoordinatorRequest { key: "g".into(), ..Default::default() };
    assert_eq!(patiently(|| client.ask_in(3, find.clone()).error_code), ErrorCode::NONE);
    for versions in [FIRST, SECOND] {
        let before = committed_offset(&mut client).expect("nothing is open");
        let mut producer = Producer::begin(&mut client, "a", versions);
        assert_eq!(producer.commit_offset(&mut client, 100), ErrorCode::NONE);
        assert_eq!(committed_offset(&mut client), Err(ErrorCode::UNSTABLE_OFFSET_COMMIT));
        assert_eq!(producer.end(&mut client, false), ErrorCode::NONE);
        wait_until(|| committed_offset(&mut client) == Ok(before));
        assert_eq!(producer.commit_offset(&mut client, before + 10), ErrorCode::NONE);
        assert_eq!(producer.end(&mut client, true), ErrorCode::NONE);
        wait_until(|| committed_offset(&mut client) == Ok(before + 10));
        broker.restart();
        client = TestClient::connect(&broker);
        assert_eq!(committed_offset(&mut client), Ok(before + 10));
    }
}

#[test]
fn what_takes_too_long_is_aborted_and_its_producer_fenced() {
    let broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 2);
    let (producer_id, epoch) = init(&mut client, "a", 300, None).expect("the id is free");
    let mut producer = Producer { id: "a".into(), producer_id, epoch, versions: SECOND, sequences: [0; 2] };
    producer.send(&mut client, 0, "too long");
    let listed = client.ask(ListTransactionsRequest { duration_filter: -1, ..Default::default() });
    assert_eq!(&*listed.transaction_states[0].transaction_state, "Ongoing");
    assert_eq!(wait_for_stable(&mut client, 0, 2), [""; 0]);
    assert_eq!(producer.write(&mut client, 0, "on it goes"), ErrorCode::INVALID_PRODUCER_EPOCH);
    assert_eq!(producer.end(&mut client, true), ErrorCode::PRODUCER_FENCED);
    // Whoever was that producer goes on with a new epoch.
    assert!(init(&mut client, "a", 300, None).expect("the id is free").1 > epoch);
}

#[test]
fn who_asks_for_what_cannot_be_is_told_why() {
    let broker = TestBroker::start(&["transaction.max.timeout.ms=1000"]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 2);
    for (timeout_ms, expected) in [
        (1_001, ErrorCode::INVALID_TRANSACTION_TIMEOUT),
        (0, ErrorCode::INVALID_TRANSACTION_TIMEOUT),
        (-1, ErrorCode::INVALID_TRANSACTION_TIMEOUT),
    ] {
        assert_eq!(init(&mut client, "a", timeout_ms, None), Err(expected));
    }
    let (producer_id, epoch) = init(&mut client, "a", 1_000, None).expect("the id is free");
    assert_eq!(init(&mut client, "a", 1_000, Some((producer_id + 1, 0))), Err(ErrorCode::PRODUCER_FENCED));
    assert_eq!(init(&mut client, "a", 1_000, Some((producer_id, 7))), Err(ErrorCode::PRODUCER_FENCED));
    assert_eq!(init(&mut client, "a", 1_000, Some((producer_id, -1))), Err(ErrorCode::INVALID_REQUEST));
    let with = |producer_id, epoch, versions| Producer {
        id: "a".into(),
        producer_id,
        epoch,
        versions,
        sequences: [0; 2],
    };
    for (mut producer, expected) in [
        (with(producer_id + 1, epoch, FIRST), ErrorCode::INVALID_PRODUCER_ID_MAPPING),
        (with(producer_id, epoch + 1, FIRST), ErrorCode::PRODUCER_FENCED),
        (with(producer_id, epoch, FIRST), ErrorCode::INVALID_TXN_STATE),
        (with(producer_id, epoch, SECOND), ErrorCode::INVALID_TXN_STATE),
    ] {
        assert_eq!(producer.end(&mut client, true), expected);
    }
    assert_eq!(with(producer_id, epoch + 1, FIRST).add(&mut client, 0), ErrorCode::PRODUCER_FENCED);
    assert_eq!(with(producer_id, epoch, FIRST).add(&mut client, 9), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    let nobody = Producer { id: "nobody".into(), ..with(producer_id, epoch, FIRST) };
    assert_eq!(nobody.add(&mut client, 0), ErrorCode::INVALID_PRODUCER_ID_MAPPING);
    let described =
        client.ask(DescribeTransactionsRequest { transactional_ids: vec!["nobody".into(), "".into()] });
    let errors: Vec<_> = described.transaction_states.iter().map(|state| state.error_code).collect();
    assert_eq!(errors, [ErrorCode::TRANSACTIONAL_ID_NOT_FOUND, ErrorCode::INVALID_REQUEST]);
    for (pattern, expected) in [
        ("(", ErrorCode::INVALID_REGULAR_EXPRESSION),
        ("a{1000}{1000}{1000}", ErrorCode::INVALID_REGULAR_EXPRESSION),
        ("[a-z]", ErrorCode::NONE),
    ] {
        let request = ListTransactionsRequest {
            duration_filter: -1,
            transactional_id_pattern: Some(pattern.into()),
            ..Default::default()
        };
        assert_eq!(client.ask(request).error_code, expected, "{pattern}");
    }
}

#[test]
fn an_operator_is_told_who_writes_a_transaction_and_when_it_was_last_heard_of() {
    let mut broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 2);
    let described = |client: &mut TestClient| {
        let request = DescribeTransactionsRequest { transactional_ids: vec!["a".into()] };
        let mut state = client.ask(request.clone()).transaction_states.remove(0);
        wait_until(|| {
            state = client.ask(request.clone()).transaction_states.remove(0);
            !NOT_YET.contains(&state.error_code)
        });
        let host = state.client_host.map(|host| host.to_string());
        (state.client_id.map(|id| id.to_string()), host, state.last_request_time_ms)
    };
    let before = SystemClock.now().0;
    let mut producer = Producer::begin(&mut client, "a", SECOND);
    let (id, host, begun) = described(&mut client);
    assert_eq!((id.as_deref(), host.as_deref()), (Some("test"), Some("/127.0.0.1")));
    assert!(begun >= before, "{begun} is before {before}");
    producer.send(&mut client, 0, "left behind");
    // Whoever names a producer that is not the newest changes nothing.
    let zombie = Producer { id: "a".into(), epoch: producer.epoch + 7, ..producer };
    assert_eq!(zombie.add(&mut client, 0), ErrorCode::PRODUCER_FENCED);
    broker.kill(|| ());
    client = TestClient::connect(&broker);
    assert_eq!(described(&mut client), (None, None, -1), "who takes over has not heard of it");
    producer.send(&mut client, 1, "more");
    let (id, _, heard) = described(&mut client);
    assert_eq!(id, None, "a batch comes by way of its partition's leader");
    assert!(heard >= begun, "{heard} is before {begun}");
    wait_until(|| producer.end(&mut client, true).is_ok());
    assert_eq!(described(&mut client).0.as_deref(), Some("test"));
}

/// Who coordinates a transactional id.
fn coordinator(cluster: &TestCluster, id: &str) -> i32 {
    let mut found = -1;
    wait_until(|| {
        let asked = cluster.running()[0];
        let request = FindCoordinatorRequest { key: Str::copy_from(id), key_type: 1, ..Default::default() };
        let answer = cluster.client(asked).ask_in(3, request);
        found = answer.node_id;
        answer.error_code.is_ok() && cluster.running().contains(&found)
    });
    found
}

/// Who leads the topic's only partition.
fn leader(cluster: &TestCluster) -> i32 {
    let running = cluster.running();
    cluster.wait_for_partition(running[0], "t", |partition| running.contains(&partition.leader_id)).leader_id
}

/// A producer whose coordinator is another broker than the topic's leader. Leaders go back to where they were meant to be first:
/// they have gathered on the brokers that lived.
fn begin_elsewhere(cluster: &TestCluster, versions: Versions) -> (i32, Producer) {
    let mut found = None;
    wait_until(|| {
        let elect = ElectLeadersRequest { topic_partitions: None, timeout_ms: 10_000, ..Default::default() };
        cluster.client(cluster.running()[0]).ask(elect);
        let leader = leader(cluster);
        let ids = (0..16).map(|number| format!("id-{number}"));
        found = ids.map(|id| (coordinator(cluster, &id), id)).find(|(coordinator, _)| *coordinator != leader);
        found.is_some()
    });
    let (coordinator, id) = found.expect("it was waited for");
    (coordinator, Producer::begin(&mut cluster.client(coordinator), &id, versions))
}

/// What the topic's leader shows, once it shows so much.
fn read_from_leader(cluster: &TestCluster, offset: i64) -> Vec<String> {
    let leader = leader(cluster);
    wait_for_stable(&mut cluster.client(leader), 0, offset)
}

fn three_brokers() -> TestCluster {
    let cluster = TestCluster::start(3, &["transaction.state.log.num.partitions=8"]);
    let topic =
        CreatableTopic { name: "t".into(), num_partitions: 1, replication_factor: 3, ..Default::default() };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, ..Default::default() };
    assert_eq!(cluster.client(1).ask(request).topics[0].error_code, ErrorCode::NONE);
    cluster
}

#[test]
fn a_coordinator_that_dies_leaves_nothing_undecided() {
    let mut cluster = three_brokers();
    let mut base = 0;
    for versions in [FIRST, SECOND] {
        for commit in [true, false] {
            let (coordinator, mut producer) = begin_elsewhere(&cluster, versions);
            if versions.produce < SECOND.produce {
                assert_eq!(producer.add(&mut cluster.client(coordinator), 0), ErrorCode::NONE);
            }
            let value = format!("{commit} {}", versions.produce);
            let leader = leader(&cluster);
            assert_eq!(producer.write(&mut cluster.client(leader), 0, &value), ErrorCode::NONE);
            assert_eq!(producer.end(&mut cluster.client(coordinator), commit), ErrorCode::NONE);
            cluster.kill(coordinator);
            let read = read_from_leader(&cluster, base + 2);
            assert_eq!(read.contains(&value), commit, "{read:?}");
            cluster.open(vec![coordinator]);
            cluster.wait_for_brokers(3);
            base = read_committed(&mut cluster.client(self::leader(&cluster)), 0).1;
        }
    }
}

#[test]
fn a_transaction_goes_on_with_the_next_leader() {
    let mut cluster = three_brokers();
    let (coordinator, mut producer) = begin_elsewhere(&cluster, SECOND);
    let first = leader(&cluster);
    assert_eq!(producer.write(&mut cluster.client(first), 0, "one"), ErrorCode::NONE);
    cluster.kill(first);
    let second = leader(&cluster);
    assert_eq!(producer.write(&mut cluster.client(second), 0, "two"), ErrorCode::NONE);
    assert_eq!(read_from_leader(&cluster, 0), [""; 0]);
    wait_until(|| producer.end(&mut cluster.client(coordinator), true).is_ok());
    assert_eq!(read_from_leader(&cluster, 3), ["one", "two"]);
}
