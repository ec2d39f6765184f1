//! What groups have, and where they are: coordinators, share state that begins, moves, is lost and is deleted.

use std::time::Duration;

use wire::messages::alter_share_group_offsets::{
    AlterShareGroupOffsetsRequest, AlterShareGroupOffsetsRequestPartition, AlterShareGroupOffsetsRequestTopic,
};
use wire::messages::create_topics::{CreatableTopic, CreateTopicsRequest};
use wire::messages::delete_groups::DeleteGroupsRequest;
use wire::messages::delete_share_group_offsets::{
    DeleteShareGroupOffsetsRequest, DeleteShareGroupOffsetsRequestTopic,
};
use wire::messages::describe_share_group_offsets::{
    DescribeShareGroupOffsetsRequest, DescribeShareGroupOffsetsRequestGroup,
};
use wire::messages::find_coordinator::FindCoordinatorRequest;
use wire::messages::join_group::{JoinGroupRequest, JoinGroupRequestProtocol};
use wire::messages::list_groups::ListGroupsRequest;
use wire::messages::metadata::{MetadataRequest, MetadataRequestTopic};
use wire::messages::share_fetch::{FetchPartition, FetchTopic, ShareFetchRequest};
use wire::messages::share_group_describe::ShareGroupDescribeRequest;
use wire::messages::share_group_heartbeat::{ShareGroupHeartbeatRequest, ShareGroupHeartbeatResponse};
use wire::messages::{
    delete_share_group_state as delete_state, read_share_group_state as read_state,
    write_share_group_state as write,
};
use wire::{ErrorCode, Str, Uuid};

use crate::member::{
    GROUP, Member, acquired, batch_of, broker, configure, coordinator, initialize, now, topic_id,
    try_initialize,
};
use crate::support::{TestBroker, TestClient, TestCluster, wait_until};

fn try_read(client: &mut TestClient, topic: Uuid) -> ErrorCode {
    let partition = read_state::PartitionData { partition: 0, leader_epoch: -1 };
    let topic = read_state::ReadStateData { topic_id: topic, partitions: vec![partition] };
    let request = read_state::ReadShareGroupStateRequest { group_id: GROUP.into(), topics: vec![topic] };
    client.ask(request).results[0].partitions[0].error_code
}

/// Has the share state of a partition go, as a deletion does that comes late: the group knows nothing of it.
fn lose(client: &mut TestClient, topic: Uuid, partition: i32) -> ErrorCode {
    let partition = delete_state::PartitionData { partition };
    let topic = delete_state::DeleteStateData { topic_id: topic, partitions: vec![partition] };
    let request = delete_state::DeleteShareGroupStateRequest { group_id: GROUP.into(), topics: vec![topic] };
    client.ask(request).results[0].partitions[0].error_code
}

#[test]
fn a_state_that_begins_anew_fences_who_works_on_the_old_one() {
    let (broker, topic) = broker();
    let mut client = TestClient::connect(&broker);
    client.append("jobs", 0, batch_of(5));
    let mut one = Member::new("one", topic, TestClient::connect(&broker));
    assert_eq!(one.takes(1), [(0, 0, 1)]);
    initialize(&mut client, topic, 1, 3);
    assert_eq!(try_initialize(&mut client, topic, 0, 0), ErrorCode::FENCED_STATE_EPOCH);
    assert_eq!(one.says(&[(0, 0, &[1])]), ErrorCode::FENCED_STATE_EPOCH);
    assert_eq!(one.takes(1), [(3, 3, 1)]);
    // And so is another leader, by its epoch.
    let partition = write::PartitionData {
        partition: 0,
        state_epoch: 1,
        leader_epoch: 9,
        start_offset: 4,
        ..Default::default()
    };
    let data = write::WriteStateData { topic_id: topic, partitions: vec![partition] };
    let request = write::WriteShareGroupStateRequest { group_id: GROUP.into(), topics: vec![data] };
    assert_eq!(client.ask(request).results[0].partitions[0].error_code, ErrorCode::NONE);
    assert_eq!(one.says(&[(3, 3, &[1])]), ErrorCode::NOT_LEADER_OR_FOLLOWER);
}

/// A broker with a topic of one partition and three records, and a group whose only member has it.
fn group() -> (TestBroker, TestClient, Member) {
    let broker = TestBroker::start(&["share.coordinator.state.topic.num.partitions=2"]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("jobs", 1);
    assert_eq!(configure(&mut client, &[("share.auto.offset.reset", "earliest")]), (ErrorCode::NONE, None));
    client.append("jobs", 0, batch_of(3));
    let topic = topic_id(&mut client, "jobs");
    let find = || FindCoordinatorRequest { coordinator_keys: vec![GROUP.into()], ..Default::default() };
    wait_until(|| client.ask(find()).coordinators[0].error_code.is_ok());
    wait_until(|| {
        let joined = beat(&mut client, "one", 0, Some(&["jobs"]));
        joined.assignment.is_some_and(|given| !given.topic_partitions.is_empty())
    });
    let one = Member::new("one", topic, TestClient::connect(&broker));
    (broker, client, one)
}

#[test]
fn the_lag_of_a_group_is_what_is_not_done_with() {
    let (_broker, mut client, mut one) = group();
    assert_eq!(offsets(&mut client), Ok(vec![(-1, -1)]));
    assert_eq!(one.takes(3), [(0, 2, 1)]);
    assert_eq!(offsets(&mut client), Ok(vec![(0, 3)]));
    // Wherever it lies; what is given up is done with, and what is released is not.
    assert_eq!(one.says(&[(1, 1, &[1])]), ErrorCode::NONE);
    assert_eq!(offsets(&mut client), Ok(vec![(0, 2)]));
    client.append("jobs", 0, batch_of(3));
    assert_eq!(one.takes(3), [(3, 5, 1)]);
    assert_eq!(one.says(&[(0, 0, &[1]), (3, 5, &[1, 3, 2])]), ErrorCode::NONE);
    assert_eq!(offsets(&mut client), Ok(vec![(2, 2)]));
    client.append("jobs", 0, batch_of(1));
    assert_eq!(offsets(&mut client), Ok(vec![(2, 3)]));
}

#[test]
fn share_state_that_is_lost_begins_again() {
    let (broker, mut client, mut one) = group();
    let topic = one.topic;
    assert_eq!(one.takes(2), [(0, 1, 1)]);
    assert_eq!(one.says(&[(0, 0, &[1])]), ErrorCode::NONE);

    // Who has loaded it hears of it when something is to be written.
    assert_eq!(lose(&mut client, topic, 0), ErrorCode::NONE);
    assert_eq!(one.says(&[(1, 1, &[1])]), ErrorCode::UNKNOWN_SERVER_ERROR);
    assert_eq!(one.takes(3), [(0, 2, 1)]);
    assert_eq!(one.says(&[(0, 1, &[1])]), ErrorCode::NONE);
    assert_eq!(offsets(&mut client), Ok(vec![(2, 1)]));

    // Whoever looks at the group finds it missing as well.
    assert_eq!(lose(&mut client, topic, 0), ErrorCode::NONE);
    assert_eq!(offsets(&mut client), Ok(vec![(-1, -1)]));
    assert_eq!(try_read(&mut client, topic), ErrorCode::NONE);

    // What the group gives up does not come back.
    assert_eq!(beat(&mut client, "one", -1, None).member_epoch, -1);
    drop(one);
    let jobs = DeleteShareGroupOffsetsRequestTopic { topic_name: "jobs".into() };
    let forget = DeleteShareGroupOffsetsRequest { group_id: GROUP.into(), topics: vec![jobs] };
    assert_eq!(client.ask(forget).responses[0].error_code, ErrorCode::NONE);
    assert_eq!(offsets(&mut client), Ok(vec![]));
    let mut one = Member::new("one", topic, TestClient::connect(&broker));
    assert_eq!(one.fetch(1, &[]).error_code, ErrorCode::UNKNOWN_SERVER_ERROR);
    assert_eq!(try_read(&mut client, topic), ErrorCode::INVALID_REQUEST);
}

#[test]
fn share_state_that_is_lost_begins_again_wherever_the_group_is_coordinated() {
    let configs = ["share.coordinator.state.topic.num.partitions=3", "offsets.topic.num.partitions=1"];
    let cluster = TestCluster::start(3, &configs);
    let topic = CreatableTopic {
        name: "jobs".into(),
        num_partitions: 12,
        replication_factor: 3,
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, ..Default::default() };
    let mut client = cluster.client(1);
    assert_eq!(client.ask(request).topics[0].error_code, ErrorCode::NONE);
    assert_eq!(configure(&mut client, &[("share.auto.offset.reset", "earliest")]), (ErrorCode::NONE, None));
    let topic = topic_id(&mut client, "jobs");
    wait_until(|| leaders(&cluster, 1).iter().all(|(_, leader)| *leader > 0));
    for (index, leader) in leaders(&cluster, 1) {
        cluster.client(leader).append("jobs", index, batch_of(1));
    }
    join(&cluster, "one");
    for index in 0..12 {
        let key = Str::from(format!("{GROUP}:{topic}:{index}"));
        let at = coordinator(&mut client, &key).expect("share state has begun");
        assert_eq!(lose(&mut cluster.client(at), topic, index), ErrorCode::NONE);
    }
    assert_eq!(told_of(&cluster, 1, topic, "one"), [ErrorCode::NONE; 12]);
}

#[test]
fn another_broker_goes_on_where_the_last_one_stopped() {
    let mut cluster = TestCluster::start(3, &["share.coordinator.state.topic.num.partitions=3"]);
    let mut client = cluster.client(1);
    let topic = CreatableTopic {
        name: "jobs".into(),
        num_partitions: 1,
        replication_factor: 3,
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, ..Default::default() };
    assert_eq!(client.ask(request).topics[0].error_code, ErrorCode::NONE);
    assert_eq!(configure(&mut client, &[("share.auto.offset.reset", "earliest")]), (ErrorCode::NONE, None));
    let topic = topic_id(&mut client, "jobs");
    let key = Str::from(format!("{GROUP}:{topic}:0"));
    wait_until(|| {
        let coordinator = coordinator(&mut client, &key);
        coordinator.is_some_and(|id| try_initialize(&mut cluster.client(id), topic, 0, -1).is_ok())
    });
    let leader = cluster.wait_for_partition(1, "jobs", |partition| partition.leader_id > 0).leader_id;
    cluster.client(leader).append("jobs", 0, batch_of(4));
    let mut one = Member::new("one", topic, cluster.client(leader));
    assert_eq!(one.takes(3), [(0, 2, 1)]);
    assert_eq!(one.says(&[(0, 1, &[1, 2])]), ErrorCode::NONE);
    cluster.kill(leader);
    let survivor = cluster.running()[0];
    let next = cluster
        .wait_for_partition(survivor, "jobs", |partition| ![-1, leader].contains(&partition.leader_id))
        .leader_id;
    let mut taken = Vec::new();
    wait_until(|| {
        let mut two = Member::new("two", topic, cluster.client(next));
        let data = two.fetch(9, &[]);
        taken = acquired(&data);
        data.error_code.is_ok() && !taken.is_empty()
    });
    assert_eq!(taken, [(1, 1, 2), (2, 3, 1)]);
}

fn beat(
    client: &mut TestClient,
    member: &'static str,
    epoch: i32,
    topics: Option<&[&'static str]>,
) -> ShareGroupHeartbeatResponse {
    let request = ShareGroupHeartbeatRequest {
        group_id: GROUP.into(),
        member_id: member.into(),
        member_epoch: epoch,
        subscribed_topic_names: topics.map(|topics| topics.iter().map(|topic| (*topic).into()).collect()),
        ..Default::default()
    };
    client.ask(request)
}

fn offsets(client: &mut TestClient) -> Result<Vec<(i64, i64)>, ErrorCode> {
    let group = DescribeShareGroupOffsetsRequestGroup { group_id: GROUP.into(), topics: None };
    let mut answer = client.ask(DescribeShareGroupOffsetsRequest { groups: vec![group] }).groups.remove(0);
    if !answer.error_code.is_ok() {
        return Err(answer.error_code);
    }
    let partitions = answer.topics.pop().map(|topic| topic.partitions).unwrap_or_default();
    Ok(partitions.iter().map(|partition| (partition.start_offset, partition.lag)).collect())
}

#[test]
fn a_group_joins_reads_is_moved_and_deleted() {
    let mut broker = TestBroker::start(&["share.coordinator.state.topic.num.partitions=2"]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("jobs", 2);
    assert_eq!(configure(&mut client, &[("share.auto.offset.reset", "earliest")]), (ErrorCode::NONE, None));
    client.append("jobs", 0, batch_of(4));
    let find = || FindCoordinatorRequest { coordinator_keys: vec![GROUP.into()], ..Default::default() };
    wait_until(|| client.ask(find()).coordinators[0].error_code.is_ok());
    let mut joined = ShareGroupHeartbeatResponse::default();
    wait_until(|| {
        joined = beat(&mut client, "one", 0, Some(&["jobs"]));
        joined.error_code.is_ok()
            && joined.assignment.as_ref().is_some_and(|given| !given.topic_partitions.is_empty())
    });
    let given = joined.assignment.expect("it was waited for").topic_partitions;
    assert_eq!(given[0].partitions, [0, 1]);
    let topic = given[0].topic_id;
    let mut one = Member::new("one", topic, TestClient::connect(&broker));
    assert_eq!(one.takes(3), [(0, 2, 1)]);
    assert_eq!(one.says(&[(0, 2, &[1])]), ErrorCode::NONE);
    assert_eq!(offsets(&mut client), Ok(vec![(3, 1), (-1, -1)]));

    // Both kinds of groups share their names.
    let join = JoinGroupRequest {
        group_id: GROUP.into(),
        protocol_type: "consumer".into(),
        session_timeout_ms: 10_000,
        protocols: vec![JoinGroupRequestProtocol { name: "range".into(), ..Default::default() }],
        ..Default::default()
    };
    assert_eq!(client.ask_in(5, join).error_code, ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
    let listed = client.ask(ListGroupsRequest { types_filter: vec!["Share".into()], ..Default::default() });
    assert_eq!(listed.groups[0].group_type, "share");

    // Another coordinator, or the same one anew, knows the members.
    broker.restart();
    let mut client = TestClient::connect(&broker);
    let epoch = joined.member_epoch;
    wait_until(|| beat(&mut client, "one", epoch, None).error_code.is_ok());
    let describe = || ShareGroupDescribeRequest { group_ids: vec![GROUP.into()], ..Default::default() };
    let described = client.ask(describe()).groups.remove(0);
    assert_eq!((described.group_state, described.members.len()), ("Stable".into(), 1));
    assert_eq!(described.members[0].assignment.topic_partitions[0].topic_name, "jobs");

    let alter = |start_offset| AlterShareGroupOffsetsRequest {
        group_id: GROUP.into(),
        topics: vec![AlterShareGroupOffsetsRequestTopic {
            topic_name: "jobs".into(),
            partitions: vec![AlterShareGroupOffsetsRequestPartition { partition_index: 0, start_offset }],
        }],
    };
    let delete = || DeleteGroupsRequest { groups_names: vec![GROUP.into()] };
    assert_eq!(client.ask(alter(1)).error_code, ErrorCode::NON_EMPTY_GROUP);
    assert_eq!(client.ask(delete()).results[0].error_code, ErrorCode::NON_EMPTY_GROUP);
    assert_eq!(beat(&mut client, "one", -1, None).member_epoch, -1);
    let altered = client.ask(alter(1));
    assert_eq!(
        (altered.error_code, altered.responses[0].partitions[0].error_code),
        (ErrorCode::NONE, ErrorCode::NONE)
    );
    assert_eq!(offsets(&mut client).map(|offsets| offsets[0]), Ok((1, 3)));
    let mut two = Member::new("two", topic, TestClient::connect(&broker));
    assert_eq!(two.takes(9), [(1, 3, 1)]);
    drop(two);
    assert_eq!(client.ask(alter(-5)).responses[0].partitions[0].error_code, ErrorCode::INVALID_REQUEST);

    let forget = DeleteShareGroupOffsetsRequest {
        group_id: GROUP.into(),
        topics: vec![
            DeleteShareGroupOffsetsRequestTopic { topic_name: "jobs".into() },
            DeleteShareGroupOffsetsRequestTopic { topic_name: "nothing".into() },
        ],
    };
    let forgotten = client.ask(forget).responses;
    assert_eq!(forgotten[0].error_code, ErrorCode::NONE);
    assert_eq!(forgotten[1].error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(offsets(&mut client), Ok(vec![]));
    assert_eq!(client.ask(delete()).results[0].error_code, ErrorCode::NONE);
    assert_eq!(offsets(&mut client), Err(ErrorCode::GROUP_ID_NOT_FOUND));
    assert_eq!(client.ask(describe()).groups[0].error_code, ErrorCode::GROUP_ID_NOT_FOUND);
    assert_eq!(beat(&mut client, "one", 3, None).error_code, ErrorCode::GROUP_ID_NOT_FOUND);

    // One that is not there comes into being, if it is to be anywhere.
    let mut nowhere = alter(2);
    nowhere.topics[0].topic_name = "nothing".into();
    let answer = client.ask(nowhere);
    assert_eq!(
        (answer.error_code, answer.responses[0].partitions[0].error_code),
        (ErrorCode::NONE, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
    );
    assert_eq!(offsets(&mut client), Err(ErrorCode::GROUP_ID_NOT_FOUND));
    assert_eq!(client.ask(alter(2)).error_code, ErrorCode::NONE);
    assert_eq!(offsets(&mut client).map(|offsets| offsets[0]), Ok((2, 2)));
}

/// The partitions of the topic, and who leads them.
fn leaders(cluster: &TestCluster, id: i32) -> Vec<(i32, i32)> {
    let name = MetadataRequestTopic { name: Some("jobs".into()), ..Default::default() };
    let request = MetadataRequest { topics: Some(vec![name]), ..Default::default() };
    let partitions = cluster.client(id).ask(request).topics.remove(0).partitions;
    partitions.iter().map(|partition| (partition.partition_index, partition.leader_id)).collect()
}

/// A connection to the group's coordinator.
fn group_coordinator(cluster: &TestCluster) -> TestClient {
    let mut found = -1;
    wait_until(|| {
        let find = FindCoordinatorRequest { coordinator_keys: vec![GROUP.into()], ..Default::default() };
        let mut client = cluster.client(cluster.running()[0]);
        found = client.ask(find).coordinators[0].node_id;
        cluster.running().contains(&found)
    });
    cluster.client(found)
}

/// A member that is there until it has all twelve partitions.
fn join(cluster: &TestCluster, member: &'static str) {
    wait_until(|| {
        let joined = beat(&mut group_coordinator(cluster), member, 0, Some(&["jobs"]));
        let given = joined.assignment.map(|given| given.topic_partitions).unwrap_or_default();
        given.first().is_some_and(|given| given.partitions.len() == 12)
    });
}

/// What a member that has not read before is told of each partition, by the partition's leader.
fn told_of(cluster: &TestCluster, id: i32, topic: Uuid, member: &'static str) -> Vec<ErrorCode> {
    let told = leaders(cluster, id).into_iter().map(|(index, leader)| {
        let mut client = cluster.client(leader);
        let answer = client.ask(first_fetch(topic, member, &[index], 10_000));
        assert_eq!(answer.error_code, ErrorCode::NONE);
        let data = &answer.responses[0].partitions[0];
        assert_eq!(data.error_code.is_ok(), !data.acquired_records.is_empty(), "nobody else reads");
        data.error_code
    });
    told.collect()
}

fn first_fetch(topic: Uuid, member: &'static str, indexes: &[i32], max_wait_ms: i32) -> ShareFetchRequest {
    let place = |index: &i32| FetchPartition { partition_index: *index, ..Default::default() };
    ShareFetchRequest {
        group_id: Some(GROUP.into()),
        member_id: Some(member.into()),
        max_wait_ms,
        max_bytes: 1024 * 1024,
        max_records: 1000,
        topics: vec![FetchTopic { topic_id: topic, partitions: indexes.iter().map(place).collect() }],
        ..Default::default()
    }
}

#[test]
fn a_deletion_that_fails_half_way_is_finished_by_whoever_reads_next() {
    // Each partition of the share state has one replica: where a broker is down, some state can be deleted, and some cannot.
    let mut cluster = TestCluster::start(
        3,
        &[
            "share.coordinator.state.topic.num.partitions=3",
            "share.coordinator.state.topic.replication.factor=1",
            "share.coordinator.state.topic.min.isr=1",
            "offsets.topic.num.partitions=1",
        ],
    );
    let topic = |name: &'static str| CreatableTopic {
        name: name.into(),
        num_partitions: 12,
        replication_factor: 3,
        ..Default::default()
    };
    let topics = vec![topic("jobs"), topic("other")];
    let request = CreateTopicsRequest { topics, timeout_ms: 10_000, ..Default::default() };
    for created in cluster.client(1).ask(request).topics {
        assert_eq!(created.error_code, ErrorCode::NONE);
    }
    let topic = topic_id(&mut cluster.client(1), "jobs");
    let earliest = configure(&mut cluster.client(1), &[("share.auto.offset.reset", "earliest")]);
    assert_eq!(earliest, (ErrorCode::NONE, None));
    wait_until(|| leaders(&cluster, 1).iter().all(|(_, leader)| *leader > 0));
    for (index, leader) in leaders(&cluster, 1) {
        cluster.client(leader).append("jobs", index, batch_of(1));
    }
    join(&cluster, "one");
    assert_eq!(told_of(&cluster, 1, topic, "one"), [ErrorCode::NONE; 12]);
    assert_eq!(beat(&mut group_coordinator(&cluster), "one", -1, None).member_epoch, -1);

    cluster.kill(3);
    // Partitions whose state can be had are not kept waiting by those whose cannot.
    wait_until(|| leaders(&cluster, 1).iter().all(|(_, leader)| [1, 2].contains(leader)));
    let led: Vec<i32> =
        leaders(&cluster, 1).iter().filter(|(_, leader)| *leader == 1).map(|(index, _)| *index).collect();
    let mut client = cluster.client(1);
    let began = now();
    let answer = client.ask(first_fetch(topic, "three", &led, 60_000));
    assert!(answer.responses[0].partitions.iter().any(|data| !data.acquired_records.is_empty()));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    drop(client);

    let forget = |cluster: &TestCluster| {
        let topic = DeleteShareGroupOffsetsRequestTopic { topic_name: "jobs".into() };
        let request = DeleteShareGroupOffsetsRequest { group_id: GROUP.into(), topics: vec![topic] };
        let answer = group_coordinator(cluster).ask(request);
        answer.responses.first().map_or(answer.error_code, |topic| topic.error_code)
    };
    wait_until(|| {
        forget(&cluster) == ErrorCode::COORDINATOR_NOT_AVAILABLE
            && offsets(&mut group_coordinator(&cluster)) == Ok(vec![])
    });

    // What is left of one topic does not keep the group from another, as far as that can be had: it is moved there, and reads.
    let partitions = (0..12)
        .map(|partition_index| AlterShareGroupOffsetsRequestPartition { partition_index, start_offset: 0 });
    let moved = group_coordinator(&cluster).ask(AlterShareGroupOffsetsRequest {
        group_id: GROUP.into(),
        topics: vec![AlterShareGroupOffsetsRequestTopic {
            topic_name: "other".into(),
            partitions: partitions.collect(),
        }],
    });
    assert_eq!((moved.error_code, moved.error_message), (ErrorCode::NONE, None));
    let has_moved = moved.responses[0].partitions.iter().filter(|told| told.error_code.is_ok());
    assert!((1..12).contains(&has_moved.count()));
    assert_eq!(
        beat(&mut group_coordinator(&cluster), "four", 0, Some(&["other"])).error_code,
        ErrorCode::NONE
    );
    assert_eq!(beat(&mut group_coordinator(&cluster), "four", -1, None).member_epoch, -1);

    // The group is not given what is not there, and gets it again when it can be had.
    cluster.open(vec![3]);
    join(&cluster, "two");
    wait_until(|| told_of(&cluster, 1, topic, "two") == [ErrorCode::NONE; 12]);
    assert_eq!(beat(&mut group_coordinator(&cluster), "two", -1, None).member_epoch, -1);
    let delete = DeleteGroupsRequest { groups_names: vec![GROUP.into()] };
    assert_eq!(group_coordinator(&cluster).ask(delete).results[0].error_code, ErrorCode::NONE);
}
