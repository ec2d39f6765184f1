//! A cluster through its sockets: what survives a broker, who leads next, and who is let in.

mod support;

use support::{TestClient, TestCluster, batch_of, wait_until};
use wire::ErrorCode;
use wire::messages::add_raft_voter::AddRaftVoterRequest;
use wire::messages::alter_partition_reassignments::{
    AlterPartitionReassignmentsRequest, ReassignablePartition, ReassignableTopic,
};
use wire::messages::create_topics::{CreatableReplicaAssignment, CreatableTopic, CreateTopicsRequest};
use wire::messages::describe_quorum::{DescribeQuorumRequest, PartitionData, PartitionQuorum, TopicData};
use wire::messages::elect_leaders::ElectLeadersRequest;
use wire::messages::fetch::{FetchPartition, FetchRequest, FetchTopic};
use wire::messages::find_coordinator::FindCoordinatorRequest;
use wire::messages::incremental_alter_configs::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};
use wire::messages::list_partition_reassignments::ListPartitionReassignmentsRequest;
use wire::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use wire::messages::offset_fetch::{OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use wire::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use wire::messages::register_broker::{Listener, RegisterBrokerRequest};
use wire::messages::remove_raft_voter::RemoveRaftVoterRequest;
use wire::messages::unregister_broker::UnregisterBrokerRequest;

/// Creates a topic of one partition on these brokers, the first of them its preferred leader.
fn create(client: &mut TestClient, name: &'static str, replicas: &[i32]) {
    let assignment = CreatableReplicaAssignment { partition_index: 0, broker_ids: replicas.to_vec() };
    let topic = CreatableTopic {
        name: name.into(),
        num_partitions: -1,
        replication_factor: -1,
        assignments: vec![assignment],
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, ..Default::default() };
    let answer = client.ask(request).topics.remove(0);
    assert_eq!((answer.error_code, answer.error_message), (ErrorCode::NONE, None));
}

fn produce(client: &mut TestClient, topic: &'static str, value: &[u8]) -> (ErrorCode, i64) {
    let data = PartitionProduceData { index: 0, records: Some(batch_of(&[(1_700_000_000_000, value)])) };
    let topic = TopicProduceData { name: topic.into(), partition_data: vec![data], ..Default::default() };
    client.produce(ProduceRequest {
        acks: -1,
        timeout_ms: 5_000,
        topic_data: vec![topic],
        ..Default::default()
    })
}

/// Produces to whoever leads, as a client does: again where the answer may be another soon.
fn produce_to_leader(cluster: &TestCluster, topic: &'static str, value: &[u8]) -> i64 {
    let mut offset = None;
    wait_until(|| {
        let any = cluster.running()[0];
        let leader = cluster.wait_for_partition(any, topic, |partition| partition.leader_id >= 0).leader_id;
        if !cluster.running().contains(&leader) {
            return false;
        }
        let (error, at) = produce(&mut cluster.client(leader), topic, value);
        offset = error.is_ok().then_some(at);
        offset.is_some()
    });
    offset.expect("it was waited for")
}

#[test]
fn what_was_acknowledged_outlives_each_broker_in_turn() {
    let mut cluster = TestCluster::start(3, &[]);
    create(&mut cluster.client(3), "t", &[1, 2, 3]);
    for round in 0..3_u8 {
        let leader = cluster.wait_for_partition(2, "t", |partition| partition.isr_nodes.len() == 3).leader_id;
        for at in 0..10 {
            let value = [round, at];
            assert_eq!(produce_to_leader(&cluster, "t", &value), i64::from(round) * 20 + i64::from(at));
        }
        cluster.kill(leader);
        for at in 10..20 {
            let value = [round, at];
            assert_eq!(produce_to_leader(&cluster, "t", &value), i64::from(round) * 20 + i64::from(at));
        }
        cluster.open(vec![leader]);
        cluster.wait_for_brokers(3);
    }
    let leader = cluster.wait_for_partition(1, "t", |partition| partition.isr_nodes.len() == 3).leader_id;
    let mut client = cluster.client(leader);
    for offset in 0..60_i64 {
        let read = client.fetch("t", 0, offset).expect("an acknowledged offset is readable");
        assert_eq!(read[..8], offset.to_be_bytes());
    }
}

#[test]
fn without_enough_in_sync_nothing_is_acknowledged_and_without_a_majority_nothing_is_led() {
    let mut cluster =
        TestCluster::start(3, &["broker.session.timeout.ms=1000", "broker.heartbeat.interval.ms=200"]);
    create(&mut cluster.client(1), "t", &[1, 2, 3]);
    assert_eq!(produce(&mut cluster.client(1), "t", b"a").0, ErrorCode::NONE);
    cluster.kill(3);
    cluster.wait_for_partition(1, "t", |partition| partition.isr_nodes == [1, 2]);
    assert_eq!(produce(&mut cluster.client(1), "t", b"b").0, ErrorCode::NONE);
    cluster.kill(2);
    // Alone it cannot be told of another leader: it stops.
    wait_until(|| {
        let refused = produce(&mut cluster.client(1), "t", b"c").0;
        assert_ne!(refused, ErrorCode::NONE, "one of three has no say");
        refused == ErrorCode::NOT_LEADER_OR_FOLLOWER
    });
    cluster.open(vec![2, 3]);
    cluster.wait_for_brokers(3);
    let leader = cluster.wait_for_partition(1, "t", |partition| partition.isr_nodes.len() == 3).leader_id;
    assert_eq!(produce(&mut cluster.client(leader), "t", b"d").0, ErrorCode::NONE);
}

/// Kafka's clients look for the leader then, where an unknown topic may have them give up.
#[test]
fn who_asks_a_broker_that_has_no_replica_is_sent_to_the_leader() {
    let cluster = TestCluster::start(2, &[]);
    create(&mut cluster.client(1), "t", &[1]);
    cluster.wait_for_partition(2, "t", |partition| partition.leader_id == 1);
    let mut client = cluster.client(2);
    let told = |client: &mut TestClient, index| {
        let records = || batch_of(&[(1, b"a")]);
        [client.try_append("t", index, records()).0, client.fetch("t", index, 0).unwrap_err()]
    };
    assert_eq!(told(&mut client, 0), [ErrorCode::NOT_LEADER_OR_FOLLOWER; 2]);
    assert_eq!(told(&mut client, 1), [ErrorCode::UNKNOWN_TOPIC_OR_PARTITION; 2]);
}

#[test]
fn what_rots_on_one_disk_is_taken_anew_from_another() {
    let mut cluster = TestCluster::start(3, &[]);
    create(&mut cluster.client(1), "t", &[1, 2, 3]);
    for at in 0..20 {
        assert_eq!(produce_to_leader(&cluster, "t", &[at; 100]), i64::from(at));
    }
    cluster.stop(1);
    let segment = cluster.segment(1, "t");
    let mut content = std::fs::read(&segment).expect("the segment is there");
    let middle = content.len() / 2;
    content[middle] ^= 1;
    std::fs::write(&segment, content).expect("the segment can be written");
    cluster.open(vec![1]);
    wait_until(|| {
        // While the rotten one is set aside, it is not there.
        let [taken_anew, sound] = [1, 2].map(|id| std::fs::read(cluster.segment(id, "t")).ok());
        taken_anew.is_some() && taken_anew == sound
    });
    cluster.wait_for_partition(1, "t", |partition| partition.isr_nodes.len() == 3);
    assert_eq!(produce_to_leader(&cluster, "t", b"on it goes"), 20);
}

fn commit(client: &mut TestClient, group: &str, offset: i64) -> ErrorCode {
    let partition = OffsetCommitRequestPartition { committed_offset: offset, ..Default::default() };
    let topic =
        OffsetCommitRequestTopic { name: "t".into(), partitions: vec![partition], ..Default::default() };
    let request = OffsetCommitRequest {
        group_id: group.to_owned().into(),
        generation_id_or_member_epoch: -1,
        topics: vec![topic],
        ..Default::default()
    };
    client.ask_in(9, request).topics[0].partitions[0].error_code
}

fn committed(client: &mut TestClient, group: &str) -> (ErrorCode, i64) {
    let topic =
        OffsetFetchRequestTopics { name: "t".into(), partition_indexes: vec![0], ..Default::default() };
    let group = OffsetFetchRequestGroup {
        group_id: group.to_owned().into(),
        topics: Some(vec![topic]),
        ..Default::default()
    };
    let request = OffsetFetchRequest { groups: vec![group], ..Default::default() };
    let mut answer = client.ask_in(9, request).groups.remove(0);
    match answer.topics.pop() {
        Some(mut topic) => (answer.error_code, topic.partitions.remove(0).committed_offset),
        None => (answer.error_code, -1),
    }
}

fn coordinator(client: &mut TestClient, group: &str) -> Option<i32> {
    let request =
        FindCoordinatorRequest { coordinator_keys: vec![group.to_owned().into()], ..Default::default() };
    let found = client.ask(request).coordinators.remove(0);
    found.error_code.is_ok().then_some(found.node_id)
}

#[test]
fn groups_are_spread_over_brokers_and_move_with_their_partitions() {
    let mut cluster = TestCluster::start(3, &["offsets.topic.num.partitions=6"]);
    create(&mut cluster.client(2), "t", &[1, 2, 3]);
    let groups: Vec<String> = (0..12).map(|at| format!("group-{at}")).collect();
    let coordinator_of = |cluster: &TestCluster, group: &str| {
        let mut found = None;
        wait_until(|| {
            found = coordinator(&mut cluster.client(cluster.running()[0]), group);
            found.is_some_and(|id| cluster.running().contains(&id))
        });
        found.expect("it was waited for")
    };
    let mut coordinators = Vec::new();
    for (offset, group) in (0..).zip(&groups) {
        wait_until(|| {
            let id = coordinator_of(&cluster, group);
            commit(&mut cluster.client(id), group, offset).is_ok()
        });
        coordinators.push(coordinator_of(&cluster, group));
    }
    assert!((1..=3).all(|id| coordinators.contains(&id)), "{coordinators:?}");
    cluster.kill(2);
    for (offset, group) in (0..).zip(&groups) {
        let mut answer = (ErrorCode::NONE, -1);
        wait_until(|| {
            let id = coordinator_of(&cluster, group);
            answer = committed(&mut cluster.client(id), group);
            answer.0.is_ok()
        });
        assert_eq!(answer.1, offset, "{group}");
    }
}

fn quorum(client: &mut TestClient) -> PartitionQuorum {
    let topic = TopicData {
        topic_name: "__cluster_metadata".into(),
        partitions: vec![PartitionData { partition_index: 0 }],
    };
    client.ask(DescribeQuorumRequest { topics: vec![topic] }).topics.remove(0).partitions.remove(0)
}

fn nodes(replicas: &[wire::messages::describe_quorum::ReplicaState]) -> Vec<i32> {
    let mut nodes: Vec<i32> = replicas.iter().map(|replica| replica.replica_id).collect();
    nodes.sort_unstable();
    nodes
}

fn add_voter(client: &mut TestClient, id: i32) -> ErrorCode {
    let request = AddRaftVoterRequest { voter_id: id, timeout_ms: 10_000, ..Default::default() };
    client.ask(AddRaftVoterRequest { cluster_id: None, ..request }).error_code
}

#[test]
fn who_loses_its_memory_is_a_learner_first_whoever_gave_it_its_vote() {
    let mut cluster = TestCluster::start(3, &[]);
    create(&mut cluster.client(1), "t", &[1, 2, 3]);
    // Two at once: the quorum takes in one after the other.
    let (fourth, fifth) = (cluster.prepare(), cluster.prepare());
    cluster.open(vec![fourth, fifth]);
    cluster.wait_for_brokers(5);
    let described = quorum(&mut cluster.client(fourth));
    assert_eq!((nodes(&described.current_voters), nodes(&described.observers)), (vec![1, 2, 3], vec![4, 5]));
    assert_eq!(add_voter(&mut cluster.client(2), fourth), ErrorCode::NONE);

    for id in [fourth, fifth] {
        cluster.kill(id);
        cluster.wipe(id);
        cluster.open(vec![id]);
        cluster.wait_for_brokers(5);
    }
    // Not a word of anybody: it asks for its vote, and the one that had none does not.
    wait_until(|| nodes(&quorum(&mut cluster.client(fifth)).current_voters) == [1, 2, 3, 4]);
    assert_eq!(nodes(&quorum(&mut cluster.client(fourth)).observers), [5]);
    // It votes again: without it, two of four are no majority.
    cluster.kill(1);
    wait_until(|| cluster.describe(fourth).controller_id > 1);
    let led = cluster.wait_for_partition(fourth, "t", |partition| partition.leader_id > 1);
    wait_until(|| produce(&mut cluster.client(led.leader_id), "t", b"a").0 == ErrorCode::NONE);
}

#[test]
fn a_broker_joins_takes_over_a_replica_becomes_a_voter_and_leaves() {
    let mut cluster = TestCluster::start(3, &[]);
    create(&mut cluster.client(1), "t", &[1, 2, 3]);
    for at in 0..20 {
        assert_eq!(produce(&mut cluster.client(1), "t", &[at]).0, ErrorCode::NONE);
    }
    let fourth = cluster.add();
    cluster.wait_for_brokers(4);
    let described = quorum(&mut cluster.client(fourth));
    assert_eq!((nodes(&described.current_voters), nodes(&described.observers)), (vec![1, 2, 3], vec![4]));

    move_to(&mut cluster.client(fourth), "t", &[4, 2, 3]);
    let moved = cluster.wait_for_partition(2, "t", |partition| partition.replica_nodes.len() == 3);
    assert_eq!(moved.replica_nodes, [4, 2, 3]);
    let listed = cluster.client(2).ask(ListPartitionReassignmentsRequest::default());
    assert!(listed.topics.is_empty(), "it is complete");
    cluster
        .wait_for_partition(3, "t", |partition| partition.isr_nodes.contains(&4) && partition.leader_id >= 0);
    cluster.client(3).ask(ElectLeadersRequest {
        topic_partitions: None,
        timeout_ms: 10_000,
        ..Default::default()
    });
    cluster.wait_for_partition(fourth, "t", |partition| partition.leader_id == 4);
    wait_until(|| cluster.client(fourth).fetch("t", 0, 19).is_ok());

    assert_eq!(add_voter(&mut cluster.client(2), fourth), ErrorCode::NONE);
    assert_eq!(nodes(&quorum(&mut cluster.client(1)).current_voters), [1, 2, 3, 4]);
    // Whoever leads the quorum: it hands over before it loses its vote.
    let leader = quorum(&mut cluster.client(1)).leader_id;
    let remove = RemoveRaftVoterRequest { cluster_id: None, voter_id: leader, ..Default::default() };
    assert_eq!(cluster.client(fourth).ask(remove).error_code, ErrorCode::NONE);
    let described = quorum(&mut cluster.client(2));
    assert_eq!((described.current_voters.len(), nodes(&described.observers)), (3, vec![leader]));
    assert_ne!(described.leader_id, leader);

    cluster.stop(leader);
    wait_until(|| {
        let any = cluster.running()[0];
        cluster.client(any).ask(UnregisterBrokerRequest { broker_id: leader }).error_code.is_ok()
    });
    cluster.wait_for_brokers(3);
    assert_eq!(quorum(&mut cluster.client(cluster.running()[0])).observers.len(), 0);
}

#[test]
fn a_stop_in_order_moves_leaders_first() {
    let mut cluster = TestCluster::start(3, &[]);
    create(&mut cluster.client(1), "t", &[1, 2, 3]);
    cluster.wait_for_partition(1, "t", |partition| partition.isr_nodes.len() == 3);
    cluster.stop(1);
    // It was gone only when another led.
    let after = cluster.wait_for_partition(2, "t", |_| true);
    assert!(after.leader_id == 2 || after.leader_id == 3, "{after:?}");
    assert_eq!(produce(&mut cluster.client(after.leader_id), "t", b"a").0, ErrorCode::NONE);
    cluster.open(vec![1]);
    cluster.wait_for_partition(1, "t", |partition| partition.isr_nodes.len() == 3);
}

/// What a controller says to a broker that would be found at this port.
fn register_at(controller: &mut TestClient, id: i32, port: u16) -> (ErrorCode, String) {
    let answer = controller.ask(RegisterBrokerRequest {
        broker_id: id,
        cluster_id: "test".into(),
        incarnation_id: wire::Uuid::from_u128(9),
        listeners: vec![Listener {
            name: "PLAINTEXT".into(),
            host: "127.0.0.1".into(),
            port,
            security_protocol: 0,
        }],
        log_dirs: vec![wire::Uuid::from_u128(99)],
        ..RegisterBrokerRequest::default()
    });
    (answer.error_code, answer.error_message.unwrap_or_default().to_string())
}

#[test]
fn who_does_not_belong_is_told_why() {
    let mut cluster =
        TestCluster::start(3, &["broker.session.timeout.ms=1000", "broker.heartbeat.interval.ms=300"]);
    create(&mut cluster.client(1), "t", &[1, 2, 3]);
    let refused = |cluster: &TestCluster, id, settings: &[&str]| {
        cluster.try_open(id, settings).expect_err("it is refused").to_string()
    };
    cluster.stop(3);
    let text = refused(&cluster, 3, &["cluster.id=other"]);
    assert!(text.contains("other") && text.contains("test"), "{text}");
    // The id of a broker that lives, on another disk.
    cluster.prepare();
    let text = refused(&cluster, 4, &["node.id=2"]);
    assert!(text.contains("Another broker is registered with that broker id"), "{text}");
    // And on a copy of its own disk, which both would take for theirs.
    let copy = cluster.copy_of(2);
    let log_dirs = format!("log.dirs={}", copy.path().display());
    let text = refused(&cluster, 4, &["node.id=2", &log_dirs]);
    assert!(text.contains("Another broker is registered with that broker id"), "{text}");
    // Where nobody listens, and where another one does.
    let controller = cluster.describe(1).controller_id;
    for (port, problem) in
        [(1, "connect"), (cluster.addr(controller).port(), "takes this for node 9, and it is")]
    {
        let (error, text) = register_at(&mut cluster.client(controller), 9, port);
        assert_eq!(error, ErrorCode::BROKER_NOT_AVAILABLE, "{text}");
        assert!(text.contains("does not reach node 9") && text.contains("advertised.listeners"), "{text}");
        assert!(text.contains(&format!("127.0.0.1:{port}")) && text.contains(problem), "{text}");
    }

    // A new disk: the node joins anew, and everything is copied to it.
    cluster.wipe(3);
    cluster.open(vec![3]);
    cluster.wait_for_brokers(3);
    assert_eq!(
        produce(&mut cluster.client(cluster.wait_for_partition(1, "t", |_| true).leader_id), "t", b"a").0,
        ErrorCode::NONE
    );
    cluster.wait_for_partition(3, "t", |partition| partition.isr_nodes.len() == 3);
    wait_until(|| nodes(&quorum(&mut cluster.client(3)).current_voters) == [1, 2, 3]);
}

#[test]
fn a_consumer_reads_from_a_replica_in_its_rack() {
    let selector = "replica.selector.class=org.apache.kafka.common.replica.RackAwareReplicaSelector";
    let mut cluster = TestCluster::start(3, &[selector, "broker.rack=near"]);
    create(&mut cluster.client(1), "t", &[1, 2, 3]);
    assert_eq!(produce(&mut cluster.client(1), "t", b"a").0, ErrorCode::NONE);
    let read = |cluster: &TestCluster, id: i32, rack: &str| {
        let wanted = FetchPartition { partition_max_bytes: 1024, ..Default::default() };
        let topic = FetchTopic { topic: "t".into(), partitions: vec![wanted], ..Default::default() };
        let request = FetchRequest {
            max_bytes: 1024,
            topics: vec![topic],
            rack_id: rack.to_owned().into(),
            ..Default::default()
        };
        let mut answer = cluster.client(id).ask_in(12, request);
        answer.responses.remove(0).partitions.remove(0)
    };
    // All stand in the same rack, the leader too: nobody is sent away.
    assert_eq!(read(&cluster, 1, "near").preferred_read_replica, -1);
    assert_eq!(read(&cluster, 1, "far").preferred_read_replica, -1);
    wait_until(|| {
        let from_follower = read(&cluster, 2, "near");
        assert_eq!(from_follower.error_code, ErrorCode::NONE);
        from_follower.records.is_some_and(|records| !records.into_bytes().is_empty())
    });
    cluster.kill(3);
}

/// Has these brokers hold the only partition of a topic.
fn move_to(client: &mut TestClient, name: &'static str, replicas: &[i32]) {
    let moved = ReassignablePartition { partition_index: 0, replicas: Some(replicas.to_vec()) };
    let topic = ReassignableTopic { name: name.into(), partitions: vec![moved] };
    let request =
        AlterPartitionReassignmentsRequest { topics: vec![topic], timeout_ms: 10_000, ..Default::default() };
    let answer = client.ask(request);
    assert_eq!(answer.responses[0].partitions[0].error_code, ErrorCode::NONE);
}

/// Sets one value of a topic or a broker.
fn configure(client: &mut TestClient, kind: i8, name: &'static str, key: &'static str, value: &'static str) {
    let config = AlterableConfig { name: key.into(), config_operation: 0, value: Some(value.into()) };
    let resource =
        AlterConfigsResource { resource_type: kind, resource_name: name.into(), configs: vec![config] };
    let request = IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
    let answer = client.ask(request).responses.remove(0);
    assert_eq!((answer.error_code, answer.error_message), (ErrorCode::NONE, None));
}

#[test]
fn a_replica_that_is_throttled_is_filled_at_that_rate_and_others_are_not_held_back() {
    const TOPIC: i8 = 2;
    const BROKER: i8 = 4;
    // One batch goes through, and pays for a day.
    // A follower that waits for more of one partition does not let the other wait with it.
    let patient = "replica.fetch.wait.max.ms=60000";
    let sides = [
        ("leader.replication.throttled.replicas", "0:1", "leader.replication.throttled.rate", "1", None),
        (
            "follower.replication.throttled.replicas",
            "0:2",
            "follower.replication.throttled.rate",
            "2",
            Some(patient),
        ),
    ];
    for (replicas, replica, rate, broker, waits) in sides {
        let settings: Vec<&str> = std::iter::once("min.insync.replicas=1").chain(waits).collect();
        let cluster = TestCluster::start(2, &settings);
        let mut client = cluster.client(1);
        for name in ["slow", "fast"] {
            create(&mut client, name, &[1]);
            for _ in 0..3 {
                assert_eq!(produce(&mut client, name, &[b'x'; 100_000]).0, ErrorCode::NONE);
            }
        }
        configure(&mut client, TOPIC, "slow", replicas, replica);
        configure(&mut client, BROKER, broker, rate, "1");
        move_to(&mut client, "slow", &[1, 2]);
        move_to(&mut client, "fast", &[1, 2]);
        cluster.wait_for_partition(1, "fast", |partition| partition.isr_nodes.len() == 2);
        let slow = cluster.wait_for_partition(1, "slow", |_| true);
        assert_eq!(slow.isr_nodes, [1], "{rate}");
        assert_eq!(produce(&mut client, "slow", b"x").0, ErrorCode::NONE, "who writes does not wait for it");
        configure(&mut client, BROKER, broker, rate, "1000000000");
        cluster.wait_for_partition(1, "slow", |partition| partition.isr_nodes.len() == 2);
    }
}
