//! Classic groups through a socket: what the coordinator's shell adds to the pure machine. Positions and generations outlive
//! the broker, and a group whose records cannot be read has no coordinator rather than no history.

mod support;

use bytes::Bytes;
use support::{TestBroker, TestClient};
use wire::messages::describe_groups::DescribeGroupsRequest;
use wire::messages::find_coordinator::FindCoordinatorRequest;
use wire::messages::heartbeat::HeartbeatRequest;
use wire::messages::join_group::{JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse};
use wire::messages::list_groups::ListGroupsRequest;
use wire::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use wire::messages::offset_fetch::{OffsetFetchRequest, OffsetFetchRequestTopic};
use wire::messages::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment};
use wire::{ErrorCode, Str};

/// The last versions that speak of one group and of topics by name.
const COMMIT_VERSION: i16 = 8;
const FETCH_VERSION: i16 = 7;
/// The first in which a member founds a group without being told its id first.
const JOIN_VERSION: i16 = 3;

fn find(client: &mut TestClient, group: &str) -> ErrorCode {
    let request = FindCoordinatorRequest { key: Str::copy_from(group), ..Default::default() };
    client.ask_in(3, request).error_code
}

/// Asks until the shards are loaded, as clients do.
fn commit(client: &mut TestClient, group: &str, offset: i64) -> ErrorCode {
    loop {
        let partition = OffsetCommitRequestPartition {
            partition_index: 0,
            committed_offset: offset,
            committed_metadata: Some("note".into()),
            ..Default::default()
        };
        let topic =
            OffsetCommitRequestTopic { name: "t".into(), partitions: vec![partition], ..Default::default() };
        let request = OffsetCommitRequest {
            group_id: Str::copy_from(group),
            generation_id_or_member_epoch: -1,
            topics: vec![topic],
            ..Default::default()
        };
        let error = client.ask_in(COMMIT_VERSION, request).topics[0].partitions[0].error_code;
        if error != ErrorCode::COORDINATOR_LOAD_IN_PROGRESS {
            return error;
        }
    }
}

fn committed(client: &mut TestClient, group: &str) -> Result<i64, ErrorCode> {
    loop {
        let topic = OffsetFetchRequestTopic { name: "t".into(), partition_indexes: vec![0] };
        let request = OffsetFetchRequest {
            group_id: Str::copy_from(group),
            topics: Some(vec![topic]),
            ..Default::default()
        };
        let answer = client.ask_in(FETCH_VERSION, request);
        match answer.error_code {
            ErrorCode::NONE => return Ok(answer.topics[0].partitions[0].committed_offset),
            ErrorCode::COORDINATOR_LOAD_IN_PROGRESS => {}
            error => return Err(error),
        }
    }
}

fn join(client: &mut TestClient, member: &Str) -> JoinGroupResponse {
    let protocol =
        JoinGroupRequestProtocol { name: "range".into(), metadata: Bytes::from_static(&[0, 0, 0, 0, 0, 0]) };
    let request = JoinGroupRequest {
        group_id: "g".into(),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 30_000,
        member_id: member.clone(),
        protocol_type: "consumer".into(),
        protocols: vec![protocol],
        ..Default::default()
    };
    client.ask_in(JOIN_VERSION, request)
}

#[test]
fn members_and_positions_outlive_the_broker() {
    let mut broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 1);
    assert_eq!(find(&mut client, "g"), ErrorCode::NONE);
    assert_eq!(commit(&mut client, "simple", 42), ErrorCode::NONE);
    let joined = join(&mut client, &Str::default());
    assert_eq!((joined.error_code, joined.generation_id), (ErrorCode::NONE, 1));
    let assignment = SyncGroupRequestAssignment {
        member_id: joined.member_id.clone(),
        assignment: Bytes::from_static(b"a"),
    };
    let sync = SyncGroupRequest {
        group_id: "g".into(),
        generation_id: 1,
        member_id: joined.member_id.clone(),
        assignments: vec![assignment],
        ..Default::default()
    };
    assert_eq!(client.ask_in(3, sync).assignment, Bytes::from_static(b"a"));

    broker.restart();
    let mut client = TestClient::connect(&broker);
    let heartbeat = HeartbeatRequest {
        group_id: "g".into(),
        generation_id: 1,
        member_id: joined.member_id,
        ..Default::default()
    };
    assert_eq!(client.ask(heartbeat).error_code, ErrorCode::NONE, "loading or loaded, nobody is late");
    assert_eq!(committed(&mut client, "simple"), Ok(42));
    assert_eq!(committed(&mut client, "nobody"), Ok(-1));
    let describe =
        DescribeGroupsRequest { groups: vec!["g".into(), "g".into()], include_authorized_operations: true };
    let described = client.ask_in(5, describe).groups;
    let [group] = &described[..] else { panic!("named twice, told once") };
    assert_eq!((&*group.group_state, group.members.len()), ("Stable", 1));
    assert_eq!(group.authorized_operations, 3400, "Kafka's bits of what may be done to a group");
}

#[test]
fn a_commit_that_is_too_large_changes_nothing() {
    let broker = TestBroker::start(&["offsets.topic.segment.bytes=1048576"]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 1);
    assert_eq!(find(&mut client, "g"), ErrorCode::NONE);
    assert_eq!(commit(&mut client, "g", 1), ErrorCode::NONE);
    let partition = OffsetCommitRequestPartition { committed_offset: 7, ..Default::default() };
    let topic = OffsetCommitRequestTopic {
        name: "t".into(),
        partitions: vec![partition; 20_000],
        ..Default::default()
    };
    let request = OffsetCommitRequest {
        group_id: "g".into(),
        generation_id_or_member_epoch: -1,
        topics: vec![topic],
        ..Default::default()
    };
    let answer = client.ask_in(COMMIT_VERSION, request);
    assert_eq!(answer.topics[0].partitions[0].error_code, ErrorCode::INVALID_COMMIT_OFFSET_SIZE);
    assert_eq!(committed(&mut client, "g"), Ok(1));
}

#[test]
fn a_group_whose_records_rotted_has_no_coordinator_and_the_others_are_as_they_were() {
    let mut broker = TestBroker::start(&["offsets.topic.num.partitions=4"]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 1);
    assert_eq!(find(&mut client, "g"), ErrorCode::NONE);
    let names: Vec<String> = (0..16).map(|at| format!("group-{at}")).collect();
    for name in &names {
        assert_eq!(commit(&mut client, name, 5), ErrorCode::NONE);
    }
    let dir = broker.dir().to_owned();
    broker.kill(|| {
        // Flushed and half gone, and no mark of a clean stop: this partition cannot be served.
        let log = dir.join("__consumer_offsets-2/00000000000000000000.log");
        let checkpoint = "0\n1\n__consumer_offsets 2 3\n";
        std::fs::write(dir.join("recovery-point-offset-checkpoint"), checkpoint).unwrap();
        std::fs::OpenOptions::new().write(true).open(log).unwrap().set_len(70).unwrap();
    });
    let mut client = TestClient::connect(&broker);
    let answers: Vec<_> = names.iter().map(|name| committed(&mut client, name)).collect();
    let refused = answers.iter().filter(|answer| **answer == Err(ErrorCode::NOT_COORDINATOR)).count();
    let kept = answers.iter().filter(|answer| **answer == Ok(5)).count();
    assert!(refused > 0 && refused + kept == names.len(), "{answers:?}");
    let listed = client.ask(ListGroupsRequest::default());
    assert_eq!((listed.error_code, listed.groups.len()), (ErrorCode::NONE, kept));
    let lost = answers.iter().position(|answer| answer.is_err()).unwrap();
    assert_eq!(find(&mut client, &names[lost]), ErrorCode::COORDINATOR_NOT_AVAILABLE);

    // A stop in order must not vouch for it.
    broker.restart();
    let mut client = TestClient::connect(&broker);
    assert_eq!(committed(&mut client, &names[lost]), Err(ErrorCode::NOT_COORDINATOR));
}
