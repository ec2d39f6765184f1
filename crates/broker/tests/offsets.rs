//! Offsets of groups through a socket: each misuse has Kafka's own code, what has expired is not what never was, and lag is told in
//! offsets and in time.

mod support;

use bytes::Bytes;
use support::{TestBroker, TestClient, TestCluster, batch_of, wait_until};
use wire::messages::find_coordinator::FindCoordinatorRequest;
use wire::messages::join_group::{JoinGroupRequest, JoinGroupRequestProtocol};
use wire::messages::list_offsets::{
    ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsTopic,
};
use wire::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use wire::messages::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use wire::messages::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use wire::messages::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment};
use wire::{ErrorCode, Str, Uuid};

/// A commit of one offset, and who makes it.
#[derive(Clone, Debug)]
struct Commit {
    version: i16,
    group: &'static str,
    member: Str,
    instance: Option<&'static str>,
    generation: i32,
    topic: &'static str,
    topic_id: Uuid,
    partition: i32,
    offset: i64,
    metadata: Option<String>,
    retention_ms: i64,
}

impl Commit {
    /// Of a client that manages its own membership.
    fn of(group: &'static str) -> Commit {
        Commit {
            version: 9,
            group,
            member: Str::default(),
            instance: None,
            generation: -1,
            topic: "t",
            topic_id: Uuid::ZERO,
            partition: 0,
            offset: 5,
            metadata: Some(String::new()),
            retention_ms: -1,
        }
    }

    /// Asks until the shard is loaded, as clients do.
    fn make(&self, client: &mut TestClient) -> ErrorCode {
        loop {
            let partition = OffsetCommitRequestPartition {
                partition_index: self.partition,
                committed_offset: self.offset,
                committed_leader_epoch: -1,
                committed_metadata: self.metadata.clone().map(Str::from),
            };
            let topic = OffsetCommitRequestTopic {
                name: self.topic.into(),
                topic_id: self.topic_id,
                partitions: vec![partition],
            };
            let request = OffsetCommitRequest {
                group_id: self.group.into(),
                generation_id_or_member_epoch: self.generation,
                member_id: self.member.clone(),
                group_instance_id: self.instance.map(Str::from),
                retention_time_ms: self.retention_ms,
                topics: vec![topic],
            };
            let answer = client.ask_in(self.version, request).topics.remove(0);
            let [answer] = &answer.partitions[..] else { panic!("one partition was named: {answer:?}") };
            assert_eq!(answer.partition_index, self.partition);
            if answer.error_code != ErrorCode::COORDINATOR_LOAD_IN_PROGRESS {
                return answer.error_code;
            }
        }
    }
}

fn find_coordinator(client: &mut TestClient, group: &'static str) -> i32 {
    let mut found = -1;
    wait_until(|| {
        let request = FindCoordinatorRequest { key: group.into(), ..Default::default() };
        let answer = client.ask_in(3, request);
        found = answer.node_id;
        answer.error_code.is_ok()
    });
    found
}

/// A group with one member that reads `t`, in generation 1; gives the member's id.
fn stable_group(client: &mut TestClient, group: &'static str) -> Str {
    // A consumer's subscription to `t`, in version 0, without data.
    let subscription = Bytes::from_static(b"\0\0\0\0\0\x01\0\x01t\xff\xff\xff\xff");
    let protocol = JoinGroupRequestProtocol { name: "range".into(), metadata: subscription };
    let request = JoinGroupRequest {
        group_id: group.into(),
        session_timeout_ms: 300_000,
        rebalance_timeout_ms: 300_000,
        protocol_type: "consumer".into(),
        protocols: vec![protocol],
        ..Default::default()
    };
    let mut joined = client.ask_in(3, request.clone());
    while joined.error_code == ErrorCode::COORDINATOR_LOAD_IN_PROGRESS {
        joined = client.ask_in(3, request.clone());
    }
    assert_eq!((joined.error_code, joined.generation_id), (ErrorCode::NONE, 1));
    // An assignment of `t`'s partition 1, in version 0.
    let assignment = Bytes::from_static(b"\0\0\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\x01\xff\xff\xff\xff");
    let sync = SyncGroupRequest {
        group_id: group.into(),
        generation_id: 1,
        member_id: joined.member_id.clone(),
        assignments: vec![SyncGroupRequestAssignment { member_id: joined.member_id.clone(), assignment }],
        ..Default::default()
    };
    assert_eq!(client.ask_in(3, sync).error_code, ErrorCode::NONE);
    joined.member_id
}

#[test]
fn each_misuse_of_a_commit_has_kafkas_own_code() {
    let broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 2);
    find_coordinator(&mut client, "live");
    let member = stable_group(&mut client, "live");
    let by_member = Commit { member: member.clone(), generation: 1, ..Commit::of("live") };
    let alone = Commit::of("alone");
    let note = |length: usize| Some("x".repeat(length));
    let as_member = |change: &dyn Fn(&mut Commit)| {
        let mut commit = by_member.clone();
        change(&mut commit);
        commit
    };
    let as_loner = |change: &dyn Fn(&mut Commit)| {
        let mut commit = alone.clone();
        change(&mut commit);
        commit
    };
    use ErrorCode as E;
    let cases = [
        ("its member", by_member.clone(), E::NONE),
        ("an earlier generation", as_member(&|c| c.generation = 0), E::ILLEGAL_GENERATION),
        ("a later generation", as_member(&|c| c.generation = 2), E::ILLEGAL_GENERATION),
        ("no generation", as_member(&|c| c.generation = -1), E::ILLEGAL_GENERATION),
        ("the largest generation", as_member(&|c| c.generation = i32::MAX), E::ILLEGAL_GENERATION),
        ("the smallest generation", as_member(&|c| c.generation = i32::MIN), E::ILLEGAL_GENERATION),
        ("another member", as_member(&|c| c.member = "stranger".into()), E::UNKNOWN_MEMBER_ID),
        (
            "another member of another generation",
            as_member(&|c| (c.member, c.generation) = ("stranger".into(), 7)),
            E::UNKNOWN_MEMBER_ID,
        ),
        ("a generation without a member", as_member(&|c| c.member = Str::default()), E::UNKNOWN_MEMBER_ID),
        ("an instance that nobody is", as_member(&|c| c.instance = Some("i")), E::UNKNOWN_MEMBER_ID),
        ("from outside of a live group", Commit::of("live"), E::UNKNOWN_MEMBER_ID),
        ("a generation of no group", as_loner(&|c| c.generation = 5), E::GROUP_ID_NOT_FOUND),
        (
            "the same before it could be said",
            as_loner(&|c| (c.generation, c.version) = (5, 8)),
            E::ILLEGAL_GENERATION,
        ),
        ("the group without a name", Commit::of(""), E::NONE),
        ("no group yet", alone.clone(), E::NONE),
        ("a member id in an empty group", as_loner(&|c| c.member = "any".into()), E::NONE),
        ("a generation in an empty group", as_loner(&|c| c.generation = 0), E::UNKNOWN_MEMBER_ID),
        ("a note as large as may be", as_loner(&|c| c.metadata = note(4_096)), E::NONE),
        ("a note larger than that", as_loner(&|c| c.metadata = note(4_097)), E::OFFSET_METADATA_TOO_LARGE),
        ("no note", as_loner(&|c| c.metadata = None), E::NONE),
        ("a partition too many", as_loner(&|c| c.partition = 2), E::UNKNOWN_TOPIC_OR_PARTITION),
        ("a negative partition", as_loner(&|c| c.partition = -1), E::UNKNOWN_TOPIC_OR_PARTITION),
        ("the largest partition", as_loner(&|c| c.partition = i32::MAX), E::UNKNOWN_TOPIC_OR_PARTITION),
        ("no such topic", as_loner(&|c| c.topic = "u"), E::UNKNOWN_TOPIC_OR_PARTITION),
        ("a topic without a name", as_loner(&|c| c.topic = ""), E::UNKNOWN_TOPIC_OR_PARTITION),
        (
            "an id that is no topic's",
            as_loner(&|c| (c.version, c.topic_id) = (10, Uuid::from_u128(7))),
            E::UNKNOWN_TOPIC_ID,
        ),
        ("no id", as_loner(&|c| c.version = 10), E::UNKNOWN_TOPIC_ID),
        // Kafka's broker does not look at the offset: clients do.
        ("the offset that says none", as_loner(&|c| c.offset = -1), E::NONE),
        ("the smallest offset", as_loner(&|c| c.offset = i64::MIN), E::NONE),
        ("the largest offset", as_loner(&|c| c.offset = i64::MAX), E::NONE),
        ("a retention without end", as_loner(&|c| (c.version, c.retention_ms) = (4, i64::MAX)), E::NONE),
        ("in the oldest version", as_loner(&|c| c.version = 2), E::NONE),
    ];
    for (what, commit, expected) in cases {
        assert_eq!(commit.make(&mut client), expected, "{what}: {commit:?}");
    }
}

#[test]
fn each_misuse_of_reading_and_deleting_offsets_has_kafkas_own_code() {
    let broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 2);
    client.create_topic("u", 1);
    find_coordinator(&mut client, "alone");
    let member = stable_group(&mut client, "live");
    assert_eq!(Commit::of("alone").make(&mut client), ErrorCode::NONE);
    for topic in ["t", "u"] {
        let commit = Commit { member: member.clone(), generation: 1, topic, ..Commit::of("live") };
        assert_eq!(commit.make(&mut client), ErrorCode::NONE);
    }
    let mut fetch = |version: i16, group: &'static str, topic: &'static str, partition: i32| {
        let topics = OffsetFetchRequestTopics {
            name: topic.into(),
            topic_id: Uuid::ZERO,
            partition_indexes: vec![partition],
        };
        let old = OffsetFetchRequestTopic { name: topic.into(), partition_indexes: vec![partition] };
        let asked = OffsetFetchRequestGroup {
            group_id: group.into(),
            topics: Some(vec![topics]),
            ..Default::default()
        };
        let request = OffsetFetchRequest {
            group_id: group.into(),
            topics: Some(vec![old]),
            groups: vec![asked],
            ..Default::default()
        };
        let mut answer = client.ask_in(version, request);
        match version {
            ..8 => {
                let told = answer.topics.remove(0).partitions.remove(0);
                (answer.error_code, told.error_code, told.committed_offset)
            }
            _ => {
                let mut group = answer.groups.remove(0);
                let told = group.topics.remove(0).partitions.remove(0);
                (group.error_code, told.error_code, told.committed_offset)
            }
        }
    };
    use ErrorCode as E;
    for version in [1, 2, 5, 7, 8, 9] {
        for (group, topic, partition, expected) in [
            ("alone", "t", 0, 5),
            ("alone", "t", 1, -1),
            ("alone", "t", 2, -1),
            ("alone", "t", -1, -1),
            ("alone", "t", i32::MAX, -1),
            ("alone", "nothing", 0, -1),
            ("nobody", "t", 0, -1),
            ("", "t", 0, -1),
        ] {
            let told = fetch(version, group, topic, partition);
            assert_eq!(told, (E::NONE, E::NONE, expected), "{version}: {group} {topic}-{partition}");
        }
    }
    assert_eq!(fetch(10, "alone", "t", 0), (E::NONE, E::UNKNOWN_TOPIC_ID, -1));

    let mut delete = |group: &'static str, topic: &'static str, partition: i32| {
        let partitions = vec![OffsetDeleteRequestPartition { partition_index: partition }];
        let topics = vec![OffsetDeleteRequestTopic { name: topic.into(), partitions }];
        let answer = client.ask(OffsetDeleteRequest { group_id: group.into(), topics });
        let told = answer.topics.first().map(|topic| topic.partitions[0].error_code);
        (answer.error_code, told)
    };
    for (group, topic, partition, expected) in [
        ("", "t", 0, (E::INVALID_GROUP_ID, None)),
        ("nobody", "t", 0, (E::GROUP_ID_NOT_FOUND, None)),
        ("nobody", "nothing", 0, (E::GROUP_ID_NOT_FOUND, None)),
        ("live", "t", 0, (E::NONE, Some(E::GROUP_SUBSCRIBED_TO_TOPIC))),
        ("live", "u", 0, (E::NONE, Some(E::NONE))),
        ("alone", "nothing", 0, (E::NONE, Some(E::UNKNOWN_TOPIC_OR_PARTITION))),
        ("alone", "t", 2, (E::NONE, Some(E::UNKNOWN_TOPIC_OR_PARTITION))),
        ("alone", "t", -1, (E::NONE, Some(E::UNKNOWN_TOPIC_OR_PARTITION))),
        ("alone", "t", 1, (E::NONE, Some(E::NONE))),
        ("alone", "t", 0, (E::NONE, Some(E::NONE))),
    ] {
        assert_eq!(delete(group, topic, partition), expected, "{group} {topic}-{partition}");
    }
}

/// Committed offset, expired offset, whether a time of its end is told.
type Told = (i64, i64, bool);

fn offsets_of(client: &mut TestClient, version: i16, wants_expired: bool, all: bool) -> Vec<Told> {
    let group = OffsetFetchRequestGroup {
        group_id: "g".into(),
        topics: (!all).then(|| {
            let partition_indexes = vec![0, 1];
            vec![OffsetFetchRequestTopics { name: "t".into(), partition_indexes, ..Default::default() }]
        }),
        ..Default::default()
    };
    let topics = vec![OffsetFetchRequestTopic { name: "t".into(), partition_indexes: vec![0, 1] }];
    let request = OffsetFetchRequest {
        group_id: "g".into(),
        topics: (!all).then_some(topics),
        groups: vec![group],
        wants_expired,
        ..Default::default()
    };
    let answer = client.ask_in(version, request);
    let told = |committed, expired, at: i64| (committed, expired, at >= 0);
    match version {
        ..8 => answer
            .topics
            .iter()
            .flat_map(|topic| &topic.partitions)
            .map(|part| told(part.committed_offset, part.expired_offset, part.expired_at))
            .collect(),
        _ => answer.groups[0]
            .topics
            .iter()
            .flat_map(|topic| &topic.partitions)
            .map(|part| told(part.committed_offset, part.expired_offset, part.expired_at))
            .collect(),
    }
}

#[test]
fn what_has_expired_is_told_to_who_asks_and_a_stock_client_sees_what_kafka_shows() {
    let mut broker = TestBroker::start(&["offsets.retention.check.interval.ms=20"]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 2);
    find_coordinator(&mut client, "g");
    let commit = Commit { version: 4, offset: 42, retention_ms: 1, ..Commit::of("g") };
    assert_eq!(commit.make(&mut client), ErrorCode::NONE);
    wait_until(|| offsets_of(&mut client, 7, true, true) == [(-1, 42, true)]);
    for outcome in ["as it runs", "after it started again"] {
        for version in [6, 7, 8, 9] {
            assert_eq!(
                offsets_of(&mut client, version, true, false),
                [(-1, 42, true), (-1, -1, false)],
                "{outcome}: expired and never committed, in version {version}"
            );
            assert_eq!(offsets_of(&mut client, version, false, false), [(-1, -1, false); 2], "{outcome}");
            assert_eq!(offsets_of(&mut client, version, false, true), [], "{outcome}");
        }
        assert_eq!(offsets_of(&mut client, 5, true, false), [(-1, -1, false); 2], "there is no place for it");
        broker.restart();
        client = TestClient::connect(&broker);
        wait_until(|| offsets_of(&mut client, 7, true, true) == [(-1, 42, true)]);
    }
    assert_eq!(Commit { offset: 50, ..Commit::of("g") }.make(&mut client), ErrorCode::NONE);
    assert_eq!(offsets_of(&mut client, 7, true, true), [(50, -1, false)], "a commit takes its place");
}

/// Asks where partition 0 of `t` ends and what these readers have not read.
fn unread(client: &mut TestClient, isolation_level: i8, from: Vec<i64>) -> ListOffsetsPartitionResponse {
    let partition = ListOffsetsPartition {
        timestamp: -1,
        unread_from: from,
        current_leader_epoch: -1,
        ..Default::default()
    };
    let topics = vec![ListOffsetsTopic { name: "t".into(), partitions: vec![partition] }];
    let request = ListOffsetsRequest { replica_id: -1, isolation_level, topics, ..Default::default() };
    let mut answer = client.ask_in(7, request);
    answer.topics.remove(0).partitions.remove(0)
}

#[test]
fn a_leader_tells_since_when_its_readers_wait() {
    let broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 1);
    client.append("t", 0, batch_of(&[(1_000, b"a"), (3_000, b"b"), (2_000, b"c")]));
    let told = unread(&mut client, 0, vec![0, 1, 2, 3, 99, -7]);
    assert_eq!((told.error_code, told.offset), (ErrorCode::NONE, 3));
    let records: Vec<_> = told.unread.iter().map(|record| (record.offset, record.timestamp)).collect();
    assert_eq!(records, [(0, 1_000), (1, 3_000), (2, 2_000), (-1, -1), (-1, -1), (0, 1_000)]);
    assert!(unread(&mut client, 0, Vec::new()).unread.is_empty(), "nobody asked");
    let too_many = unread(&mut client, 0, vec![0; 10_001]);
    assert_eq!(too_many.error_code, ErrorCode::INVALID_REQUEST);
}

#[test]
fn a_coordinator_shows_the_lag_of_its_groups_wherever_their_partitions_are_led() {
    let cluster =
        TestCluster::start(3, &["admin.listener=127.0.0.1:0", "offsets.retention.check.interval.ms=20"]);
    let mut client = cluster.client(1);
    client.create_topic_with("t", 6, &[]);
    let coordinator = find_coordinator(&mut client, "g");
    let mut client = cluster.client(coordinator);
    for partition in 0..6 {
        wait_until(|| {
            // Whoever leads takes it.
            cluster.running().into_iter().any(|id| {
                let batch = batch_of(&[(1_700_000_000_000, b"a"), (1_700_000_000_000, b"b")]);
                cluster.client(id).try_append("t", partition, batch).0.is_ok()
            })
        });
        let commit = Commit { partition, offset: i64::from(partition % 3), ..Commit::of("g") };
        wait_until(|| commit.make(&mut client).is_ok());
    }
    let gone = Commit { version: 4, retention_ms: 1, ..Commit::of("gone") };
    let other = find_coordinator(&mut client, "gone");
    wait_until(|| gone.make(&mut cluster.client(other)).is_ok());
    let lines = |id: i32, metric: &str| {
        let page = cluster.metrics(id);
        let lines = page.lines().filter(|line| line.starts_with(metric) && line.contains("group=\"g\""));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    wait_until(|| lines(coordinator, "ottla_group_lag_records").len() == 6);
    for (partition, line) in lines(coordinator, "ottla_group_lag_records").iter().enumerate() {
        let lag = 2 - partition % 3;
        assert_eq!(
            *line,
            format!("ottla_group_lag_records{{group=\"g\",topic=\"t\",partition=\"{partition}\"}} {lag}")
        );
    }
    for (partition, line) in lines(coordinator, "ottla_group_lag_seconds").iter().enumerate() {
        let seconds: f64 = line.split(' ').next_back().unwrap().parse().unwrap();
        assert_eq!(seconds > 1e6, partition % 3 != 2, "a record of 2023 waits for long: {line}");
    }
    let offsets = lines(coordinator, "ottla_group_offsets");
    assert_eq!(offsets, ["ottla_group_offsets{group=\"g\",state=\"committed\"} 6"]);
    for id in cluster.running().into_iter().filter(|id| *id != coordinator) {
        assert!(lines(id, "ottla_group_lag").is_empty(), "each group is on one page");
    }
    wait_until(|| cluster.metrics(other).contains("ottla_group_offsets{group=\"gone\",state=\"expired\"} 1"));
    wait_until(|| {
        lines(coordinator, "ottla_group_clear_seconds") == ["ottla_group_clear_seconds{group=\"g\"} +Inf"]
    });
}

#[test]
fn what_is_below_the_log_never_committed_or_too_many_is_told_apart_on_the_page() {
    let broker =
        TestBroker::start(&["admin.listener=127.0.0.1:0", "group.lag.metrics.max=3", "num.partitions=2"]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 2);
    client.append("t", 0, batch_of(&[(1_000, b"a"), (1_000, b"b")]));
    find_coordinator(&mut client, "live");
    let member = stable_group(&mut client, "live");
    let by_member = Commit { member, generation: 1, offset: 0, ..Commit::of("live") };
    assert_eq!(by_member.make(&mut client), ErrorCode::NONE);
    let delete = wire::messages::delete_records::DeleteRecordsRequest {
        topics: vec![wire::messages::delete_records::DeleteRecordsTopic {
            name: "t".into(),
            partitions: vec![wire::messages::delete_records::DeleteRecordsPartition {
                partition_index: 0,
                offset: 1,
            }],
        }],
        timeout_ms: 10_000,
    };
    assert_eq!(client.ask(delete).topics[0].partitions[0].error_code, ErrorCode::NONE);
    let states = |group: &str| {
        let page = broker.metrics();
        let group = format!("group=\"{group}\"");
        let lines =
            page.lines().filter(|line| line.starts_with("ottla_group_offsets") && line.contains(&group));
        let states = lines.map(|line| line.rsplit_once("state=\"").unwrap().1.replace("\"}", ""));
        states.collect::<Vec<_>>()
    };
    wait_until(|| states("live") == ["below_log_start 1", "never_committed 1"]);
    for (group, offset) in [("past", 9), ("more", 1), ("yet more", 1)] {
        find_coordinator(&mut client, group);
        assert_eq!(Commit { offset, ..Commit::of(group) }.make(&mut client), ErrorCode::NONE);
    }
    wait_until(|| {
        let page = broker.metrics();
        let rows = page
            .lines()
            .filter(|line| line.starts_with("ottla_group_offsets{"))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap());
        rows.sum::<usize>() == 3 && page.contains("ottla_group_lag_omitted 2")
    });
}
