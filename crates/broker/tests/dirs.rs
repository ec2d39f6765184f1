//! Several data directories, told through a socket: where partitions go, what a disk that dies takes along, and moves between
//! disks while records come in.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use storage::Disk;
use storage::fault::FaultDisk;
use support::{TestBroker, TestClient, TestCluster, batch_of, wait_until};
use wire::ErrorCode;
use wire::messages::alter_partition_reassignments::{
    AlterPartitionReassignmentsRequest, ReassignablePartition, ReassignableTopic,
};
use wire::messages::alter_replica_log_dirs::{
    AlterReplicaLogDir, AlterReplicaLogDirTopic, AlterReplicaLogDirsRequest,
};
use wire::messages::create_topics::{CreatableReplicaAssignment, CreatableTopic, CreateTopicsRequest};
use wire::messages::describe_log_dirs::{DescribeLogDirsRequest, DescribeLogDirsResult};
use wire::messages::describe_topic_partitions::{
    DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponsePartition, TopicRequest,
};
use wire::records::Batches;

const TWO: &str = "log.dirs=/a,/b";

fn describe(client: &mut TestClient) -> Vec<DescribeLogDirsResult> {
    client.ask(DescribeLogDirsRequest { topics: None }).results
}

/// The partitions of topic `t` in each directory, with those that are on their way there.
fn placement(client: &mut TestClient) -> BTreeMap<String, Vec<(i32, bool)>> {
    let dirs = describe(client).into_iter().map(|dir| {
        let topics = dir.topics.into_iter().filter(|topic| &*topic.name == "t");
        let partitions = topics.flat_map(|topic| topic.partitions);
        let partitions = partitions.map(|partition| (partition.partition_index, partition.is_future_key));
        (dir.log_dir.to_string(), partitions.collect())
    });
    dirs.collect()
}

fn home_of(client: &mut TestClient, index: i32) -> String {
    let dirs = placement(client).into_iter().filter(|(_, held)| held.contains(&(index, false)));
    dirs.map(|(dir, _)| dir).next().expect("the partition is somewhere")
}

fn alter(client: &mut TestClient, dir: &str, topic: &'static str, index: i32) -> ErrorCode {
    let topics = vec![AlterReplicaLogDirTopic { name: topic.into(), partitions: vec![index] }];
    let request =
        AlterReplicaLogDirsRequest { dirs: vec![AlterReplicaLogDir { path: dir.to_owned().into(), topics }] };
    client.ask(request).results.remove(0).partitions.remove(0).error_code
}

fn record(text: &str) -> bytes::Bytes {
    batch_of(&[(1_700_000_000_000, text.as_bytes())])
}

/// The values in a partition, from its first offset on, each with its offset.
fn values(client: &mut TestClient, index: i32) -> Vec<(i64, String)> {
    let mut found = Vec::new();
    loop {
        let from = found.last().map_or(0, |(offset, _): &(i64, String)| offset + 1);
        let records = client.fetch("t", index, from).expect("it is fetched");
        if records.is_empty() {
            return found;
        }
        for batch in Batches::new(records) {
            for record in batch.expect("a batch").records(1 << 20) {
                let record = record.expect("a record");
                let value = String::from_utf8(record.value.expect("a value").to_vec()).expect("text");
                if record.offset.0 >= from {
                    found.push((record.offset.0, value));
                }
            }
        }
    }
}

#[test]
fn partitions_are_spread_over_the_directories_and_stay_where_they_are() {
    let disk = FaultDisk::new();
    let mut broker = TestBroker::start_on(Arc::new(disk.clone()), &[TWO]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 4);
    let spread = placement(&mut client);
    assert_eq!(spread.values().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
    for index in 0..4 {
        assert_eq!(client.append("t", index, record(&format!("{index}"))), 0);
    }
    for _ in 0..2 {
        broker.restart();
        let mut client = TestClient::connect(&broker);
        assert_eq!(placement(&mut client), spread);
        for index in 0..4 {
            assert_eq!(values(&mut client, index), [(0, format!("{index}"))]);
        }
        broker.kill(|| disk.kill());
    }
    assert!(disk.list(Path::new("/a")).unwrap().iter().any(|entry| entry.name == "__cluster_metadata-0"));
}

#[test]
fn a_disk_that_dies_takes_only_its_partitions_along_until_it_is_repaired() {
    let disk = FaultDisk::new();
    let mut broker = TestBroker::start_on(Arc::new(disk.clone()), &[TWO, "admin.listener=127.0.0.1:0"]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 2);
    let [well, ill] = match home_of(&mut client, 0).as_str() {
        "/a" => [0, 1],
        _ => [1, 0],
    };
    assert_eq!(client.append("t", ill, record("before")), 0);
    disk.kill_dir(Path::new("/b"));
    assert_eq!(client.try_append("t", ill, record("lost")).0, ErrorCode::KAFKA_STORAGE_ERROR);
    wait_until(|| describe(&mut client)[1].error_code == ErrorCode::KAFKA_STORAGE_ERROR);
    assert_eq!(describe(&mut client)[0].error_code, ErrorCode::NONE);
    assert!(broker.metrics().contains("ottla_offline_log_directories 1\n"));
    assert_eq!(client.append("t", well, record("goes on")), 0);
    assert_eq!(client.fetch("t", ill, 0), Err(ErrorCode::KAFKA_STORAGE_ERROR));
    assert_eq!(alter(&mut client, "/b", "t", well), ErrorCode::KAFKA_STORAGE_ERROR);
    assert_eq!(alter(&mut client, "/a", "t", ill), ErrorCode::KAFKA_STORAGE_ERROR);

    // Nor can it be read when the broker starts again. What was in it is not made anew, what is new goes elsewhere.
    broker.restart();
    let mut client = TestClient::connect(&broker);
    assert_eq!(describe(&mut client)[1].error_code, ErrorCode::KAFKA_STORAGE_ERROR);
    assert_eq!(client.try_append("t", ill, record("lost")).0, ErrorCode::KAFKA_STORAGE_ERROR);
    assert_eq!(client.fetch("t", ill, 0), Err(ErrorCode::KAFKA_STORAGE_ERROR));
    assert_eq!(alter(&mut client, "/a", "t", ill), ErrorCode::KAFKA_STORAGE_ERROR);
    assert_eq!(client.append("t", well, record("and on")), 1);
    client.create_topic("other", 2);
    client.produce_and_read_back("other");

    broker.kill(|| {
        disk.kill();
        disk.revive_dir(Path::new("/b"));
    });
    let mut client = TestClient::connect(&broker);
    assert!(broker.metrics().contains("ottla_offline_log_directories 0\n"));
    assert_eq!(values(&mut client, ill), [(0, "before".to_owned())]);
    assert_eq!(client.append("t", ill, record("after")), 1);
    client.produce_and_read_back("other");
}

#[test]
fn replicas_on_a_disk_that_died_are_led_by_others_and_catch_up_when_it_is_back() {
    let disks: Vec<FaultDisk> = (0..3).map(|_| FaultDisk::new()).collect();
    let as_disks = disks.iter().map(|disk| Arc::new(disk.clone()) as Arc<dyn Disk>).collect();
    let mut cluster = TestCluster::start_on(as_disks, &[TWO, "broker.heartbeat.interval.ms=300"]);
    let assignments = (0..2)
        .map(|partition_index| CreatableReplicaAssignment { partition_index, broker_ids: vec![1, 2, 3] });
    let topic = CreatableTopic {
        name: "t".into(),
        assignments: assignments.collect(),
        num_partitions: -1,
        replication_factor: -1,
        ..Default::default()
    };
    let created = cluster.client(1).ask(CreateTopicsRequest {
        topics: vec![topic],
        timeout_ms: 10_000,
        ..Default::default()
    });
    assert_eq!(created.topics[0].error_code, ErrorCode::NONE);
    cluster
        .wait_for_partition(1, "t", |partition| partition.leader_id == 1 && partition.isr_nodes.len() == 3);
    // Partition 0 is the one that is told of; it goes to where it dies.
    if home_of(&mut cluster.client(1), 0) == "/a" {
        assert_eq!(alter(&mut cluster.client(1), "/b", "t", 0), ErrorCode::NONE);
        wait_until(|| home_of(&mut cluster.client(1), 0) == "/b");
    }
    assert_eq!(cluster.client(1).append("t", 0, record("one")), 0);
    disks[0].kill_dir(Path::new("/b"));
    assert_eq!(cluster.client(1).try_append("t", 0, record("lost?")).0, ErrorCode::KAFKA_STORAGE_ERROR);
    let led = cluster.wait_for_partition(2, "t", |partition| {
        [2, 3].contains(&partition.leader_id) && !partition.isr_nodes.contains(&1)
    });
    let next = cluster.client(led.leader_id).append("t", 0, record("two"));
    // The broker is there for everything else.
    cluster.wait_for_brokers(3);

    cluster.stop(1);
    cluster.client(led.leader_id).append("t", 0, record("three"));
    disks[0].revive_dir(Path::new("/b"));
    cluster.open(vec![1]);
    cluster.wait_for_partition(2, "t", |partition| partition.isr_nodes.len() == 3);
    let found = values(&mut cluster.client(led.leader_id), 0);
    assert_eq!(found.last(), Some(&(next + 1, "three".to_owned())));
    assert_eq!(found.iter().filter(|(_, value)| value != "lost?").count(), 3);
}

#[test]
fn a_replica_moves_to_another_disk_while_records_come_in() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [a, b] = [0, 1].map(|at: usize| dirs[at].path().to_str().unwrap().to_owned());
    let log_dirs = format!("log.dirs={a},{b}");
    let mut broker = TestBroker::start(&[&log_dirs, "log.segment.bytes=1048576"]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 1);
    let stops = AtomicBool::new(false);
    let mut count = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut client = TestClient::connect(&broker);
            let mut count = 0;
            while !stops.load(Ordering::Relaxed) {
                assert_eq!(client.append("t", 0, record(&format!("value {count}"))), count);
                count += 1;
            }
            count
        });
        for _ in 0..3 {
            let from = home_of(&mut client, 0);
            let to = if from == a { &b } else { &a };
            assert_eq!(alter(&mut client, to, "t", 0), ErrorCode::NONE);
            assert_eq!(alter(&mut client, to, "t", 0), ErrorCode::NONE, "asked again it goes on");
            wait_until(|| home_of(&mut client, 0) == *to);
            assert_eq!(placement(&mut client)[&from], []);
        }
        stops.store(true, Ordering::Relaxed);
        writer.join().expect("every record was acknowledged at its offset")
    });
    let all = |client: &mut TestClient, count: i64| {
        let expected: Vec<_> = (0..count).map(|at| (at, format!("value {at}"))).collect();
        assert!(values(client, 0) == expected, "nothing is lost and nothing is there twice");
    };
    all(&mut client, count);
    let home = home_of(&mut client, 0);
    broker.restart();
    let mut client = TestClient::connect(&broker);
    assert_eq!(home_of(&mut client, 0), home);
    all(&mut client, count);
    assert_eq!(client.append("t", 0, record(&format!("value {count}"))), count);
    count += 1;
    all(&mut client, count);
}

#[test]
fn moves_are_refused_as_in_kafka() {
    let disk = FaultDisk::new();
    let broker = TestBroker::start_on(Arc::new(disk), &[TWO]);
    let mut client = TestClient::connect(&broker);
    assert_eq!(alter(&mut client, "/nowhere", "t", 0), ErrorCode::LOG_DIR_NOT_FOUND);
    // It is remembered where the partition is wanted, though it is not there.
    for index in 0..3 {
        assert_eq!(alter(&mut client, "/b", "t", index), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    }
    client.create_topic("t", 3);
    assert_eq!(placement(&mut client)["/b"], [(0, false), (1, false), (2, false)]);
    assert_eq!(alter(&mut client, "/b", "t", 0), ErrorCode::NONE, "it is there already");
    assert_eq!(alter(&mut client, "/b", "t", 7), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
}

#[test]
fn the_metadata_may_have_a_directory_of_its_own() {
    let disk = FaultDisk::new();
    let mut broker = TestBroker::start_on(Arc::new(disk.clone()), &[TWO, "metadata.log.dir=/meta"]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 2);
    assert_eq!(describe(&mut client).len(), 2);
    let names = |dir: &str| {
        disk.list(Path::new(dir)).unwrap().into_iter().map(|entry| entry.name).collect::<Vec<_>>()
    };
    assert!(names("/meta").contains(&"__cluster_metadata-0".to_owned()));
    assert!(!names("/a").contains(&"__cluster_metadata-0".to_owned()));
    broker.restart();
    assert_eq!(placement(&mut TestClient::connect(&broker)).values().map(Vec::len).sum::<usize>(), 2);
}

#[test]
fn a_metadata_log_that_a_checkpoint_took_offline_ends_the_broker_before_it_is_written_to() {
    let disk = FaultDisk::new();
    let dir = Path::new("/a/__cluster_metadata-0");
    let checkpoints = "log.flush.offset.checkpoint.interval.ms=500";
    let mut broker = TestBroker::start_on(Arc::new(disk.clone()), &["log.dirs=/a", checkpoints]);
    let mut client = TestClient::connect(&broker);
    // A checkpoint that comes just before the disk dies leaves nothing to write to the next one.
    let why = ["t", "u", "v", "w", "x"].into_iter().find_map(|topic| {
        disk.revive_dir(dir);
        client.create_topic(topic, 1);
        disk.kill_dir(dir);
        broker.failed(Duration::from_secs(3))
    });
    assert!(why.is_some_and(|why| why.contains("the metadata log is offline")), "{why:?}");
    broker.kill(|| {
        disk.kill();
        disk.revive_dir(dir);
    });
    client = TestClient::connect(&broker);
    client.produce_and_read_back("t");
}

#[test]
fn a_disk_that_hangs_while_a_replica_moves_to_it_delays_nothing_else() {
    let disk = FaultDisk::new();
    let mut broker = TestBroker::start_on(Arc::new(disk.clone()), &["log.dirs=/a,/b,/c"]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 3);
    let (mut hung, mut count) = (0, 0);
    // Where the last move went to.
    let mut to = home_of(&mut client, 0);
    let names = ["n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7", "n8", "n9"];
    for (new, steps) in names.into_iter().zip((16..).step_by(4)) {
        // Not to where the metadata is.
        to = if to == "/b" { "/c" } else { "/b" }.to_owned();
        let others: Vec<i32> = (1..3).filter(|index| home_of(&mut client, *index) != to).collect();
        disk.hang_dir_after(Path::new(&to), disk.operations() + steps);
        assert_eq!(alter(&mut client, &to, "t", 0), ErrorCode::NONE);
        let is_over = || {
            let mut client = TestClient::connect(&broker);
            home_of(&mut client, 0) == to
        };
        wait_until(|| disk.is_hanging() || is_over());
        hung += i32::from(disk.is_hanging());
        for index in others {
            assert!(client.append("t", index, record("it goes on")) >= 0);
        }
        let away = if to == "/b" { "/c" } else { "/b" };
        assert_eq!(alter(&mut client, away, new, 0), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        client.create_topic(new, 1);
        client.produce_and_read_back(new);
        disk.revive_dir(Path::new(&to));
        wait_until(|| home_of(&mut client, 0) == to);
        assert_eq!(client.append("t", 0, record(&format!("{count}"))), count);
        count += 1;
    }
    assert!(hung > 5, "{hung} times it hung");
    broker.kill(|| disk.crash(&mut |_: u64| 0));
    let expected: Vec<_> = (0..count).map(|at| (at, format!("{at}"))).collect();
    assert_eq!(values(&mut TestClient::connect(&broker), 0), expected);
}

#[test]
fn a_disk_that_does_not_answer_hides_no_other_one_that_dies() {
    let disk = FaultDisk::new();
    let broker = TestBroker::start_on(Arc::new(disk.clone()), &["log.dirs=/a,/b,/c"]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 3);
    let at =
        |client: &mut TestClient, dir: &str| (0..3).find(|index| home_of(client, *index) == dir).unwrap();
    let (slow, dead) = (at(&mut client, "/b"), at(&mut client, "/c"));
    disk.hang_dir(Path::new("/b/.probe.tmp"));
    disk.kill_dir(&Path::new("/b").join(format!("t-{slow}")));
    assert_eq!(client.try_append("t", slow, record("lost")).0, ErrorCode::KAFKA_STORAGE_ERROR);
    wait_until(|| disk.is_hanging());
    disk.kill_dir(Path::new("/c"));
    assert_eq!(client.try_append("t", dead, record("lost")).0, ErrorCode::KAFKA_STORAGE_ERROR);
    wait_until(|| describe(&mut client)[2].error_code == ErrorCode::KAFKA_STORAGE_ERROR);
    assert_eq!(describe(&mut client)[1].error_code, ErrorCode::NONE, "it may yet answer");
    disk.kill_dir(Path::new("/b"));
    disk.revive_dir(Path::new("/b/.probe.tmp"));
    wait_until(|| describe(&mut client)[1].error_code == ErrorCode::KAFKA_STORAGE_ERROR);
    assert_eq!(describe(&mut client)[0].error_code, ErrorCode::NONE);
}

#[test]
fn a_broker_whose_metadata_disk_was_replaced_says_what_to_do_and_touches_nothing() {
    let disk = FaultDisk::new();
    let apart = [TWO, "metadata.log.dir=/meta"];
    let mut cluster = TestCluster::start_on(vec![Arc::new(disk.clone())], &apart);
    cluster.client(1).create_topic("t", 2);
    assert_eq!(cluster.client(1).append("t", 0, record("kept")), 0);
    cluster.stop(1);
    disk.rename(Path::new("/meta"), Path::new("/lost")).expect("it is taken away");
    for _ in 0..2 {
        let error =
            cluster.try_open(1, &apart).expect_err("nobody knows what the partitions are").to_string();
        let expected = "data directory /meta holds no __cluster_metadata-0, and the data directories hold 2 partitions: restore \
                        that directory from a copy";
        assert!(error.starts_with(expected), "{error}");
    }
    // As the message says.
    disk.remove(Path::new("/meta")).expect("what the broker has made there goes");
    disk.rename(Path::new("/lost"), Path::new("/meta")).expect("the copy is put there");
    cluster.open(vec![1]);
    cluster.wait_for_partition(1, "t", |partition| partition.leader_id == 1);
    assert_eq!(values(&mut cluster.client(1), 0), [(0, "kept".to_owned())]);
}

/// A partition of topic `t` as a broker tells of it.
fn state_of(cluster: &TestCluster, id: i32, index: i32) -> Option<DescribeTopicPartitionsResponsePartition> {
    let topics = vec![TopicRequest { name: "t".into() }];
    let request =
        DescribeTopicPartitionsRequest { topics, response_partition_limit: 100, ..Default::default() };
    let topic = cluster.client(id).ask(request).topics.pop()?;
    topic.partitions.into_iter().find(|partition| partition.partition_index == index)
}

/// Has these brokers hold these partitions of topic `t`.
fn reassign(client: &mut TestClient, partitions: &[i32], replicas: &[i32]) {
    let partitions = partitions.iter();
    let partitions = partitions
        .map(|index| ReassignablePartition { partition_index: *index, replicas: Some(replicas.to_vec()) });
    let topic = ReassignableTopic { name: "t".into(), partitions: partitions.collect() };
    let request =
        AlterPartitionReassignmentsRequest { topics: vec![topic], timeout_ms: 10_000, ..Default::default() };
    let answer = client.ask(request);
    assert!(answer.responses[0].partitions.iter().all(|partition| partition.error_code == ErrorCode::NONE));
}

#[test]
fn a_replica_that_comes_back_before_its_files_are_gone_waits_and_is_taken_anew() {
    let disks: Vec<FaultDisk> = (0..3).map(|_| FaultDisk::new()).collect();
    let as_disks = disks.iter().map(|disk| Arc::new(disk.clone()) as Arc<dyn Disk>).collect();
    let settings =
        [TWO, "broker.heartbeat.interval.ms=300", "min.insync.replicas=1", "admin.listener=127.0.0.1:0"];
    let mut cluster = TestCluster::start_on(as_disks, &settings);
    let assignments =
        (0..6).map(|partition_index| CreatableReplicaAssignment { partition_index, broker_ids: vec![1, 2] });
    let topic = CreatableTopic {
        name: "t".into(),
        assignments: assignments.collect(),
        num_partitions: -1,
        replication_factor: -1,
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, ..Default::default() };
    assert_eq!(cluster.client(1).ask(request).topics[0].error_code, ErrorCode::NONE);
    let is_in_sync = |cluster: &TestCluster, index: i32| {
        state_of(cluster, 1, index).is_some_and(|state| state.isr_nodes.contains(&2))
    };
    wait_until(|| (0..6).all(|index| is_in_sync(&cluster, index)));
    let (disk, held) = (&disks[1], placement(&mut cluster.client(2)));
    let [first, second, failing] = [0, 1, 2].map(|at| held["/b"][at].0);
    assert!(first < second, "they are removed in this order");
    assert_eq!(cluster.client(1).append("t", second, record("one")), 0);
    // The disk of broker 2 does not answer, which shows when one log there fails.
    disk.hang_dir(Path::new("/b/.probe.tmp"));
    disk.kill_dir(&Path::new("/b").join(format!("t-{failing}")));
    cluster.client(1).append("t", failing, record("without it"));
    wait_until(|| cluster.metrics(2).contains("\nottla_silent_log_directories 1"));

    // Two replicas leave, and the disk hangs at the first; the second one comes back.
    let hangs = Path::new("/b").join(format!("t-{first}"));
    disk.hang_dir(&hangs);
    reassign(&mut cluster.client(1), &[first, second], &[1]);
    wait_until(|| !placement(&mut cluster.client(2)).values().flatten().any(|(index, _)| *index == second));
    reassign(&mut cluster.client(1), &[second], &[1, 2]);
    wait_until(|| cluster.client(2).fetch("t", second, 0) == Err(ErrorCode::KAFKA_STORAGE_ERROR));
    assert!(!is_in_sync(&cluster, second));
    disk.revive_dir(&hangs);
    disk.revive_dir(Path::new("/b/.probe.tmp"));
    wait_until(|| is_in_sync(&cluster, second));
    cluster.client(1).append("t", second, record("two"));
    cluster.stop(1);
    wait_until(|| state_of(&cluster, 3, second).is_some_and(|state| state.leader_id == 2));
    let expected = [(0, "one".to_owned()), (1, "two".to_owned())];
    assert_eq!(values(&mut cluster.client(2), second), expected);
}
