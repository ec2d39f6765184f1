//! Share groups through a socket: what the shell adds to the pure machines. Records reach one member at a time, acknowledgements
//! survive the broker, and what a member leaves behind is for the others.

mod support;

use std::time::{Duration, Instant};

use broker::clock::{Clock, SystemClock};
use bytes::Bytes;
use support::{TestBroker, TestClient, TestCluster, wait_until};
use wire::messages::alter_share_group_offsets::{
    AlterShareGroupOffsetsRequest, AlterShareGroupOffsetsRequestPartition, AlterShareGroupOffsetsRequestTopic,
};
use wire::messages::create_topics::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig, CreateTopicsRequest,
};
use wire::messages::delete_groups::DeleteGroupsRequest;
use wire::messages::delete_share_group_offsets::{
    DeleteShareGroupOffsetsRequest, DeleteShareGroupOffsetsRequestTopic,
};
use wire::messages::delete_share_group_state as delete_state;
use wire::messages::describe_share_group_offsets::{
    DescribeShareGroupOffsetsRequest, DescribeShareGroupOffsetsRequestGroup,
};
use wire::messages::find_coordinator::FindCoordinatorRequest;
use wire::messages::incremental_alter_configs::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};
use wire::messages::initialize_share_group_state as initialize;
use wire::messages::join_group::{JoinGroupRequest, JoinGroupRequestProtocol};
use wire::messages::list_groups::ListGroupsRequest;
use wire::messages::metadata::{MetadataRequest, MetadataRequestTopic};
use wire::messages::read_share_group_state as read_state;
use wire::messages::read_share_group_state_summary as summary;
use wire::messages::share_acknowledge::{
    AcknowledgePartition, AcknowledgeTopic, AcknowledgementBatch as SaidBatch, ShareAcknowledgeRequest,
};
use wire::messages::share_fetch::{
    AcknowledgementBatch, FetchPartition, FetchTopic, PartitionData, ShareFetchRequest, ShareFetchResponse,
};
use wire::messages::share_group_describe::ShareGroupDescribeRequest;
use wire::messages::share_group_heartbeat::{ShareGroupHeartbeatRequest, ShareGroupHeartbeatResponse};
use wire::messages::write_share_group_state as write;
use wire::records::{BatchBuilder, BatchOptions, Batches};
use wire::{ErrorCode, Str, Uuid};

const GROUP: &str = "workers";
/// Kafka's number of a group among the resources that have settings.
const GROUP_RESOURCE: i8 = 32;

#[allow(clippy::disallowed_methods, reason = "how long a broker takes is seen from outside")]
fn now() -> Instant {
    Instant::now()
}

fn batch_of(count: usize) -> Bytes {
    let mut batch = BatchBuilder::new(BatchOptions::default());
    for index in 0..count {
        batch.append(SystemClock.now(), None, Some(format!("value {index}").as_bytes()), &[]);
    }
    batch.build()
}

fn topic_id(client: &mut TestClient, topic: &'static str) -> Uuid {
    let topic = MetadataRequestTopic { name: Some(topic.into()), ..Default::default() };
    let answer = client.ask(MetadataRequest { topics: Some(vec![topic]), ..Default::default() });
    answer.topics[0].topic_id
}

fn configure(client: &mut TestClient, configs: &[(&'static str, &'static str)]) -> (ErrorCode, Option<Str>) {
    let configs = configs.iter().map(|(name, value)| AlterableConfig {
        name: (*name).into(),
        value: Some((*value).into()),
        ..Default::default()
    });
    let resource = AlterConfigsResource {
        resource_type: GROUP_RESOURCE,
        resource_name: GROUP.into(),
        configs: configs.collect(),
    };
    let request = IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
    let answer = client.ask(request).responses.remove(0);
    (answer.error_code, answer.error_message)
}

/// Has the share state of partition 0 begin, as the group coordinator does.
fn initialize(client: &mut TestClient, topic: Uuid, state_epoch: i32, start: i64) {
    let key = Str::from(format!("{GROUP}:{topic}:0"));
    wait_until(|| {
        let find =
            FindCoordinatorRequest { key_type: 2, coordinator_keys: vec![key.clone()], ..Default::default() };
        client.ask(find).coordinators[0].error_code.is_ok()
    });
    wait_until(|| try_initialize(client, topic, state_epoch, start) == ErrorCode::NONE);
}

fn try_initialize(client: &mut TestClient, topic: Uuid, state_epoch: i32, start_offset: i64) -> ErrorCode {
    let partition = initialize::PartitionData { partition: 0, state_epoch, start_offset };
    let topic = initialize::InitializeStateData { topic_id: topic, partitions: vec![partition] };
    let request =
        initialize::InitializeShareGroupStateRequest { group_id: GROUP.into(), topics: vec![topic] };
    client.ask(request).results[0].partitions[0].error_code
}

fn summary(client: &mut TestClient, topic: Uuid) -> (i64, i32) {
    let partition = summary::PartitionData { partition: 0, leader_epoch: -1 };
    let topic = summary::ReadStateSummaryData { topic_id: topic, partitions: vec![partition] };
    let request = summary::ReadShareGroupStateSummaryRequest { group_id: GROUP.into(), topics: vec![topic] };
    let answer = client.ask(request).results.remove(0).partitions.remove(0);
    assert_eq!(answer.error_code, ErrorCode::NONE);
    (answer.start_offset, answer.delivery_complete_count)
}

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

/// A member of the group, as a client keeps it.
struct Member {
    id: &'static str,
    topic: Uuid,
    epoch: i32,
    client: TestClient,
}

/// first, last, types
type Said<'a> = (i64, i64, &'a [i8]);

impl Member {
    fn new(id: &'static str, topic: Uuid, client: TestClient) -> Member {
        Member { id, topic, epoch: 0, client }
    }

    fn request(&mut self, records: i32, said: &[Said<'_>], wait_ms: i32) -> ShareFetchRequest {
        let batches = said.iter().map(|(first_offset, last_offset, types)| AcknowledgementBatch {
            first_offset: *first_offset,
            last_offset: *last_offset,
            acknowledge_types: types.to_vec(),
        });
        let partition = FetchPartition { partition_index: 0, acknowledgement_batches: batches.collect() };
        let topic = FetchTopic { topic_id: self.topic, partitions: vec![partition] };
        let request = ShareFetchRequest {
            group_id: Some(GROUP.into()),
            member_id: Some(self.id.into()),
            share_session_epoch: self.epoch,
            max_wait_ms: wait_ms,
            min_bytes: 1,
            max_bytes: 1024 * 1024,
            max_records: records,
            batch_size: records,
            share_acquire_mode: 1,
            topics: vec![topic],
            ..Default::default()
        };
        self.epoch += 1;
        request
    }

    fn ask(&mut self, records: i32, said: &[Said<'_>], wait_ms: i32) -> ShareFetchResponse {
        let request = self.request(records, said, wait_ms);
        self.client.ask(request)
    }

    fn fetch(&mut self, records: i32, said: &[Said<'_>]) -> PartitionData {
        let mut answer = self.ask(records, said, 10_000);
        assert_eq!((answer.error_code, answer.error_message), (ErrorCode::NONE, None));
        answer.responses.pop().map_or_else(PartitionData::default, |mut topic| topic.partitions.remove(0))
    }

    /// What the member gets: first and last offset, and how often these were delivered.
    fn takes(&mut self, records: i32) -> Vec<(i64, i64, i16)> {
        let data = self.fetch(records, &[]);
        assert_eq!((data.error_code, data.error_message.clone()), (ErrorCode::NONE, None));
        let acquired: Vec<_> = acquired(&data);
        let mut offsets = Vec::new();
        for batch in Batches::new(data.records).map(Result::unwrap) {
            offsets.extend(batch.records(1024).map(|record| record.unwrap().offset.0));
        }
        for (first, last, _) in &acquired {
            assert!((*first..=*last).all(|offset| offsets.contains(&offset)), "{offsets:?}");
        }
        acquired
    }

    fn says(&mut self, said: &[Said<'_>]) -> ErrorCode {
        let epoch = self.epoch;
        self.epoch += 1;
        self.says_in(epoch, said)
    }

    fn says_in(&mut self, share_session_epoch: i32, said: &[Said<'_>]) -> ErrorCode {
        let batches = said.iter().map(|(first_offset, last_offset, types)| SaidBatch {
            first_offset: *first_offset,
            last_offset: *last_offset,
            acknowledge_types: types.to_vec(),
        });
        let partition =
            AcknowledgePartition { partition_index: 0, acknowledgement_batches: batches.collect() };
        let topic = AcknowledgeTopic { topic_id: self.topic, partitions: vec![partition] };
        let answer = self.client.ask(ShareAcknowledgeRequest {
            group_id: Some(GROUP.into()),
            member_id: Some(self.id.into()),
            share_session_epoch,
            is_renew_ack: said.iter().any(|(_, _, types)| types.contains(&4)),
            topics: vec![topic],
        });
        if answer.error_code.is_ok() {
            answer.responses[0].partitions[0].error_code
        } else {
            answer.error_code
        }
    }
}

fn acquired(data: &PartitionData) -> Vec<(i64, i64, i16)> {
    data.acquired_records.iter().map(|run| (run.first_offset, run.last_offset, run.delivery_count)).collect()
}

/// A broker with a topic of one partition that the group reads from the beginning.
fn broker() -> (TestBroker, Uuid) {
    let broker = TestBroker::start(&[
        "share.coordinator.state.topic.num.partitions=2",
        "group.share.min.record.lock.duration.ms=1000",
    ]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("jobs", 1);
    assert_eq!(configure(&mut client, &[("share.auto.offset.reset", "earliest")]), (ErrorCode::NONE, None));
    let topic = topic_id(&mut client, "jobs");
    initialize(&mut client, topic, 0, -1);
    (broker, topic)
}

#[test]
fn two_members_share_a_partition_and_what_is_released_goes_to_the_other() {
    let (broker, topic) = broker();
    let mut client = TestClient::connect(&broker);
    client.append("jobs", 0, batch_of(10));
    let mut one = Member::new("one", topic, TestClient::connect(&broker));
    let mut two = Member::new("two", topic, TestClient::connect(&broker));
    assert_eq!(one.takes(3), [(0, 2, 1)]);
    assert_eq!(two.takes(4), [(3, 6, 1)]);
    assert_eq!(one.says(&[(0, 2, &[1, 2, 3])]), ErrorCode::NONE);
    assert_eq!(two.takes(2), [(1, 1, 2), (7, 7, 1)]);
    assert_eq!(one.says(&[(3, 3, &[1])]), ErrorCode::INVALID_RECORD_STATE);
    // What is said with a fetch counts as well.
    let data = two.fetch(1, &[(1, 1, &[1]), (3, 6, &[1]), (7, 7, &[1])]);
    assert_eq!((data.acknowledge_error_code, acquired(&data)), (ErrorCode::NONE, vec![(8, 8, 1)]));
    wait_until(|| summary(&mut client, topic) == (8, 0));
}

#[test]
fn a_fetch_waits_for_records_and_for_those_that_come_back() {
    let (broker, topic) = broker();
    let mut client = TestClient::connect(&broker);
    let mut one = Member::new("one", topic, TestClient::connect(&broker));
    let mut two = Member::new("two", topic, TestClient::connect(&broker));
    assert_eq!(one.ask(1, &[], 0).responses[0].partitions[0].acquired_records, []);
    let given = meanwhile(&mut one, || {
        client.append("jobs", 0, batch_of(1));
    });
    assert_eq!(given, [(0, 0, 1)]);
    let given = meanwhile(&mut two, || assert_eq!(one.says(&[(0, 0, &[2])]), ErrorCode::NONE));
    assert_eq!(given, [(0, 0, 2)]);
    // A member that is gone leaves what it has to others, as if it had not had it.
    assert_eq!(meanwhile(&mut one, || drop(two)), [(0, 0, 2)]);
}

/// What a member gets that waits for a record while something happens.
fn meanwhile(member: &mut Member, happens: impl FnOnce()) -> Vec<(i64, i64, i16)> {
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| member.takes(1));
        happens();
        waiting.join().unwrap()
    })
}

#[test]
fn a_fetch_that_acknowledges_waits_as_any_other() {
    let (broker, topic) = broker();
    let mut client = TestClient::connect(&broker);
    client.append("jobs", 0, batch_of(3));
    let mut one = Member::new("one", topic, TestClient::connect(&broker));
    assert_eq!(one.takes(3), [(0, 2, 1)]);
    let began = now();
    let mut answer = one.ask(3, &[(0, 0, &[1])], 500);
    assert!(began.elapsed() >= Duration::from_millis(500));
    let data = answer.responses.remove(0).partitions.remove(0);
    assert_eq!((data.acknowledge_error_code, acquired(&data)), (ErrorCode::NONE, vec![]));

    // What was said counts meanwhile, and is told with what comes.
    let began = now();
    let data = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| one.fetch(3, &[(1, 1, &[1])]));
        wait_until(|| summary(&mut client, topic) == (2, 0));
        client.append("jobs", 0, batch_of(1));
        waiting.join().unwrap()
    });
    assert_eq!((data.acknowledge_error_code, acquired(&data)), (ErrorCode::NONE, vec![(3, 3, 1)]));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());

    // So is a refusal.
    let began = now();
    let mut answer = one.ask(3, &[(4, 4, &[1])], 500);
    assert!(began.elapsed() >= Duration::from_millis(500));
    let data = answer.responses.remove(0).partitions.remove(0);
    assert_eq!(data.acknowledge_error_code, ErrorCode::INVALID_RECORD_STATE);

    // A session that ends waits for nothing.
    one.epoch = -1;
    let began = now();
    let mut answer = one.ask(0, &[(2, 3, &[1])], 60_000);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let data = answer.responses.remove(0).partitions.remove(0);
    assert_eq!(data.acknowledge_error_code, ErrorCode::NONE);
    assert_eq!(summary(&mut client, topic), (4, 0));
}

#[test]
fn a_lock_ends_and_the_delivery_limit_gives_a_record_up() {
    let (broker, topic) = broker();
    let mut client = TestClient::connect(&broker);
    let configs = [("share.record.lock.duration.ms", "1000"), ("share.delivery.count.limit", "2")];
    assert_eq!(configure(&mut client, &configs), (ErrorCode::NONE, None));
    client.append("jobs", 0, batch_of(2));
    let mut one = Member::new("one", topic, TestClient::connect(&broker));
    let mut two = Member::new("two", topic, TestClient::connect(&broker));
    assert_eq!(one.takes(1), [(0, 0, 1)]);
    assert_eq!(two.takes(2), [(1, 1, 1)]);
    assert_eq!(two.says(&[(1, 1, &[1])]), ErrorCode::NONE);
    assert_eq!(two.takes(2), [(0, 0, 2)]);
    assert_eq!(one.says(&[(0, 0, &[1])]), ErrorCode::INVALID_RECORD_STATE);
    wait_until(|| summary(&mut client, topic) == (2, 0));
    assert_eq!(two.says(&[(0, 0, &[1])]), ErrorCode::NONE, "what is done with anyway can be acknowledged");
}

#[test]
fn what_was_acknowledged_survives_the_broker() {
    let (mut broker, topic) = broker();
    let mut client = TestClient::connect(&broker);
    client.append("jobs", 0, batch_of(6));
    let mut one = Member::new("one", topic, TestClient::connect(&broker));
    assert_eq!(one.takes(5), [(0, 4, 1)]);
    assert_eq!(one.says(&[(0, 0, &[1]), (2, 3, &[1, 2])]), ErrorCode::NONE);
    broker.kill(|| ());
    let mut one = Member::new("one", topic, TestClient::connect(&broker));
    let mut taken = Vec::new();
    wait_until(|| {
        one.epoch = 0;
        let data = one.fetch(9, &[]);
        taken = acquired(&data);
        data.error_code.is_ok() && !taken.is_empty()
    });
    assert_eq!(taken, [(1, 1, 1), (3, 3, 2), (4, 5, 1)]);
}

#[test]
fn a_group_begins_where_it_is_told_to() {
    let (broker, _) = broker();
    let mut client = TestClient::connect(&broker);
    for (topic, reset, expected) in
        [("latest", "latest", 3), ("earliest", "earliest", 0), ("ago", "by_duration:PT1H", 0)]
    {
        assert_eq!(configure(&mut client, &[("share.auto.offset.reset", reset)]), (ErrorCode::NONE, None));
        client.create_topic(topic, 1);
        client.append(topic, 0, batch_of(3));
        let id = topic_id(&mut client, topic);
        initialize(&mut client, id, 0, -1);
        let mut member = Member::new("one", id, TestClient::connect(&broker));
        assert!(member.ask(0, &[], 0).error_code.is_ok());
        let _ = member.ask(1, &[], 0);
        wait_until(|| summary(&mut client, id).0 == expected);
    }
    for (key, value) in [
        ("share.auto.offset.reset", "sometimes"),
        ("share.record.lock.duration.ms", "999"),
        ("share.record.lock.duration.ms", "60001"),
        ("share.isolation.level", "serializable"),
        ("share.nonsense", "1"),
        ("share.session.timeout.ms", "1000"),
    ] {
        let (error, message) = configure(&mut client, &[(key, value)]);
        assert_eq!(error, ErrorCode::INVALID_CONFIG, "{key}={value}");
        assert!(message.is_some_and(|message| message.contains(key)), "{key}={value}");
    }
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let (broker, topic) = broker();
    let mut client = TestClient::connect(&broker);
    client.append("jobs", 0, batch_of(3));
    let mut one = Member::new("one", topic, TestClient::connect(&broker));
    assert_eq!(one.says(&[(0, 0, &[1])]), ErrorCode::INVALID_SHARE_SESSION_EPOCH);
    assert_eq!(one.says(&[(0, 0, &[1])]), ErrorCode::SHARE_SESSION_NOT_FOUND);
    one.epoch = 0;
    assert_eq!(one.ask(1, &[(0, 0, &[1])], 0).error_code, ErrorCode::INVALID_REQUEST);
    one.epoch = 0;
    assert_eq!(one.takes(1), [(0, 0, 1)]);
    assert_eq!(one.says(&[(0, 0, &[9])]), ErrorCode::INVALID_REQUEST);
    assert_eq!(one.says(&[(0, 0, &[1, 1])]), ErrorCode::INVALID_REQUEST);
    assert_eq!(one.says(&[(1, 0, &[1])]), ErrorCode::INVALID_REQUEST);
    assert_eq!(one.says_in(7, &[(0, 0, &[1])]), ErrorCode::INVALID_SHARE_SESSION_EPOCH);
    assert_eq!(one.says(&[(0, 0, &[4])]), ErrorCode::NONE);
    assert_eq!(one.says_in(-1, &[(0, 0, &[1])]), ErrorCode::NONE);
    assert_eq!(one.says(&[(0, 0, &[1])]), ErrorCode::SHARE_SESSION_NOT_FOUND);

    let mut other = Member::new("one", Uuid([9; 16]), TestClient::connect(&broker));
    assert_eq!(other.fetch(1, &[]).error_code, ErrorCode::UNKNOWN_TOPIC_ID);
    for (group, member) in
        [(None, Some("m")), (Some(""), Some("m")), (Some("g"), None), (Some("g"), Some(""))]
    {
        let request = ShareFetchRequest {
            group_id: group.map(Str::from),
            member_id: member.map(Str::from),
            ..Default::default()
        };
        assert_eq!(client.ask(request).error_code, ErrorCode::INVALID_REQUEST);
    }
    // A group whose share state nobody has begun.
    client.create_topic("others", 1);
    let others = topic_id(&mut client, "others");
    let mut stranger = Member::new("one", others, TestClient::connect(&broker));
    assert_eq!(stranger.fetch(1, &[]).error_code, ErrorCode::UNKNOWN_SERVER_ERROR);
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

fn coordinator(client: &mut TestClient, key: &Str) -> Option<i32> {
    let request =
        FindCoordinatorRequest { key_type: 2, coordinator_keys: vec![key.clone()], ..Default::default() };
    let found = client.ask(request).coordinators.remove(0);
    found.error_code.is_ok().then_some(found.node_id)
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

#[test]
fn a_fetch_waits_for_as_much_as_it_wants_and_no_longer_than_it_said() {
    let (broker, topic) = broker();
    let mut client = TestClient::connect(&broker);
    for _ in 0..3 {
        client.append("jobs", 0, batch_of(4));
    }
    let mut one = Member::new("one", topic, TestClient::connect(&broker));
    let mut request = one.request(12, &[], 500);
    (request.min_bytes, request.batch_size, request.share_acquire_mode) = (100_000, 5, 0);
    let began = now();
    let answer = one.client.ask(request);
    assert!(began.elapsed() >= Duration::from_millis(500));
    assert_eq!(acquired(&answer.responses[0].partitions[0]), [(0, 7, 1), (8, 11, 1)]);

    client.append("jobs", 0, batch_of(4));
    let mut request = one.request(12, &[], 60_000);
    request.min_bytes = 50;
    assert_eq!(acquired(&one.client.ask(request).responses[0].partitions[0]), [(12, 15, 1)]);
}

#[test]
fn a_partition_in_error_does_not_keep_a_fetch_from_waiting_for_the_others() {
    let (broker, topic) = broker();
    let mut client = TestClient::connect(&broker);
    let unknown = |mut request: ShareFetchRequest| {
        let place = FetchPartition::default();
        request.topics.push(FetchTopic { topic_id: Uuid([9; 16]), partitions: vec![place] });
        request
    };
    let mut one = Member::new("one", topic, TestClient::connect(&broker));
    let request = unknown(one.request(1, &[], 500));
    let began = now();
    let answer = one.client.ask(request);
    assert!(began.elapsed() >= Duration::from_millis(500));
    let told: Vec<_> = answer.responses.iter().map(|topic| topic.partitions[0].error_code).collect();
    assert_eq!(told.iter().filter(|told| **told == ErrorCode::UNKNOWN_TOPIC_ID).count(), 1, "{told:?}");

    // Records come at once, and the error with them.
    client.append("jobs", 0, batch_of(1));
    let request = unknown(one.request(1, &[], 60_000));
    let answer = one.client.ask(request);
    assert_eq!(answer.responses.len(), 2);
    assert!(answer.responses.iter().any(|topic| !topic.partitions[0].acquired_records.is_empty()));

    // Where there is nothing but errors these are told soon, and not as fast as they are asked for.
    let mut two = Member::new("two", Uuid([9; 16]), TestClient::connect(&broker));
    assert_eq!(two.fetch(1, &[]).error_code, ErrorCode::UNKNOWN_TOPIC_ID);
    let began = now();
    assert_eq!(two.fetch(1, &[]).error_code, ErrorCode::UNKNOWN_TOPIC_ID);
    assert!(began.elapsed() >= Duration::from_millis(100));
}

#[test]
fn what_nobody_reads_is_let_go_of() {
    let broker =
        TestBroker::start(&["admin.listener=127.0.0.1:0", "share.coordinator.state.topic.num.partitions=2"]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("jobs", 1);
    assert_eq!(configure(&mut client, &[("share.auto.offset.reset", "earliest")]), (ErrorCode::NONE, None));
    let topic = topic_id(&mut client, "jobs");
    initialize(&mut client, topic, 0, -1);
    client.append("jobs", 0, batch_of(2));
    let is_let_go_of = || broker.metrics().contains("ottla_share_partitions 0\n");
    let mut one = Member::new("one", topic, TestClient::connect(&broker));
    assert_eq!(one.takes(1), [(0, 0, 1)]);
    let mut two = Member::new("two", topic, TestClient::connect(&broker));
    assert_eq!(two.takes(1), [(1, 1, 1)]);
    drop(one);
    assert_eq!(two.says(&[(1, 1, &[1])]), ErrorCode::NONE);
    assert!(!is_let_go_of());
    drop(two);
    wait_until(is_let_go_of);
    // Nor does it stay when whoever asked for it does not wait until it is loaded.
    let mut one = Member::new("one", topic, TestClient::connect(&broker));
    assert_eq!(one.ask(1, &[], 0).error_code, ErrorCode::NONE);
    drop(one);
    wait_until(is_let_go_of);
    let mut one = Member::new("one", topic, TestClient::connect(&broker));
    assert_eq!(one.takes(2), [(0, 0, 1)]);
}

/// Dead letters in a topic's first partition: of which offset, after how many deliveries, why, and the value.
fn dead_letters(
    client: &mut TestClient,
    topic: &'static str,
) -> Vec<(String, String, String, Option<Bytes>)> {
    let records = client.fetch(topic, 0, 0).unwrap();
    let mut letters = Vec::new();
    for batch in Batches::new(records).map(Result::unwrap) {
        for record in batch.records(1024 * 1024).map(Result::unwrap) {
            let header = |name: &str| {
                let header = record.headers.iter().find(|header| *header.key == *name);
                String::from_utf8(header.unwrap().value.as_ref().unwrap().to_vec()).unwrap()
            };
            assert_eq!(
                [
                    header("__dlq.errors.topic"),
                    header("__dlq.errors.partition"),
                    header("__dlq.errors.group")
                ],
                ["jobs", "0", GROUP]
            );
            letters.push((
                header("__dlq.errors.offset"),
                header("__dlq.errors.delivery.count"),
                header("__dlq.errors.message"),
                record.value,
            ));
        }
    }
    letters
}

const REJECTED: &str = "Offset rejected by client.";
const TOO_OFTEN: &str = "Offset delivery count exceeded the threshold.";

fn letter(
    offset: &str,
    deliveries: &str,
    cause: &str,
    value: Option<&str>,
) -> (String, String, String, Option<Bytes>) {
    let value = value.map(|value| Bytes::copy_from_slice(value.as_bytes()));
    (offset.to_owned(), deliveries.to_owned(), cause.to_owned(), value)
}

#[test]
fn what_a_group_gives_up_goes_to_its_dead_letter_topic() {
    let (mut broker, topic) = broker();
    let mut client = TestClient::connect(&broker);
    client.create_topic_with("dlq.jobs", 1, &[("errors.deadletterqueue.group.enable", "true")]);
    let configs = [
        ("share.delivery.count.limit", "2"),
        ("errors.deadletterqueue.topic.name", "dlq.jobs"),
        ("errors.deadletterqueue.copy.record.enable", "true"),
    ];
    assert_eq!(configure(&mut client, &configs), (ErrorCode::NONE, None));
    client.append("jobs", 0, batch_of(4));
    let mut one = Member::new("one", topic, TestClient::connect(&broker));
    assert_eq!(one.takes(4), [(0, 3, 1)]);
    assert_eq!(one.says(&[(0, 3, &[1, 3, 2, 1])]), ErrorCode::NONE);
    assert_eq!(one.takes(4), [(2, 2, 2)]);
    assert_eq!(one.says(&[(2, 2, &[2])]), ErrorCode::NONE);
    wait_until(|| summary(&mut client, topic) == (4, 0));
    let both = [letter("1", "1", REJECTED, Some("value 1")), letter("2", "2", TOO_OFTEN, Some("value 2"))];
    assert_eq!(dead_letters(&mut client, "dlq.jobs"), both);

    // Without its key and value, unless that is wanted.
    let plain = [("errors.deadletterqueue.copy.record.enable", "false")];
    assert_eq!(configure(&mut client, &plain), (ErrorCode::NONE, None));
    client.append("jobs", 0, batch_of(1));
    assert_eq!(one.takes(1), [(4, 4, 1)]);
    assert_eq!(one.says(&[(4, 4, &[3])]), ErrorCode::NONE);
    wait_until(|| summary(&mut client, topic) == (5, 0));
    assert_eq!(dead_letters(&mut client, "dlq.jobs")[2], letter("4", "1", REJECTED, None));

    // Nothing is delivered again, nor buried again, by a broker that starts anew.
    broker.restart();
    let mut client = TestClient::connect(&broker);
    client.append("jobs", 0, batch_of(1));
    let mut one = Member::new("one", topic, TestClient::connect(&broker));
    wait_until(|| {
        one.epoch = 0;
        acquired(&one.fetch(9, &[])) == [(5, 5, 1)]
    });
    assert_eq!(dead_letters(&mut client, "dlq.jobs").len(), 3);
}

#[test]
fn a_dead_letter_topic_that_cannot_be_written_does_not_hold_up_the_group() {
    let broker = TestBroker::start(&[
        "admin.listener=127.0.0.1:0",
        "share.coordinator.state.topic.num.partitions=2",
        "num.partitions=1",
    ]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("jobs", 1);
    // It exists, and does not take dead letters.
    client.create_topic("dlq.closed", 1);
    // It does, and none fits.
    let tiny = [("errors.deadletterqueue.group.enable", "true"), ("max.message.bytes", "100")];
    client.create_topic_with("dlq.tiny", 1, &tiny);
    let configs =
        [("share.auto.offset.reset", "earliest"), ("errors.deadletterqueue.topic.name", "dlq.closed")];
    assert_eq!(configure(&mut client, &configs), (ErrorCode::NONE, None));
    let topic = topic_id(&mut client, "jobs");
    initialize(&mut client, topic, 0, -1);
    client.append("jobs", 0, batch_of(8));
    let mut one = Member::new("one", topic, TestClient::connect(&broker));
    let mut failed = 0;
    let mut next = 0;
    for name in ["dlq.closed", "dlq.tiny", "dlq.missing", "jobs", "__dlq", "elsewhere"] {
        assert_eq!(
            configure(&mut client, &[("errors.deadletterqueue.topic.name", name)]),
            (ErrorCode::NONE, None)
        );
        assert_eq!(one.takes(1), [(next, next, 1)]);
        assert_eq!(one.says(&[(next, next, &[3])]), ErrorCode::NONE);
        (failed, next) = (failed + 1, next + 1);
        wait_until(|| summary(&mut client, topic) == (next, 0));
        let line = format!("ottla_share_dead_letters_failed_total {failed}\n");
        assert!(broker.metrics().contains(&line), "{name}");
    }

    // One that is not there is made, where that is allowed.
    let resource = AlterConfigsResource {
        resource_type: 4,
        resource_name: "".into(),
        configs: vec![AlterableConfig {
            name: "errors.deadletterqueue.auto.create.topics.enable".into(),
            value: Some("true".into()),
            ..Default::default()
        }],
    };
    let request = IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
    assert_eq!(client.ask(request).responses[0].error_code, ErrorCode::NONE);
    // Unless there can be none of that name.
    for (name, offset) in [("dlq.no/topic", 6), ("dlq.new", 7)] {
        assert_eq!(
            configure(&mut client, &[("errors.deadletterqueue.topic.name", name)]),
            (ErrorCode::NONE, None)
        );
        assert_eq!(one.takes(1), [(offset, offset, 1)]);
        assert_eq!(one.says(&[(offset, offset, &[3])]), ErrorCode::NONE);
        wait_until(|| summary(&mut client, topic) == (offset + 1, 0));
    }
    assert!(broker.metrics().contains("ottla_share_dead_letters_failed_total 7\n"));
    assert_eq!(dead_letters(&mut client, "dlq.new"), [letter("7", "1", REJECTED, None)]);
    assert!(broker.metrics().contains("ottla_share_dead_letters_total 1\n"));
}

#[test]
fn what_cannot_be_written_to_a_dead_letter_topic_yet_is_kept_but_for_a_few() {
    const RECORDS: i64 = 500;
    let broker = TestBroker::start(&[
        "admin.listener=127.0.0.1:0",
        "share.coordinator.state.topic.num.partitions=2",
        "errors.deadletterqueue.auto.create.topics.enable=true",
        "num.partitions=1",
        // More than there are brokers: dead-letter topics cannot be created yet.
        "default.replication.factor=2",
    ]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("jobs", 1);
    let configs =
        [("share.auto.offset.reset", "earliest"), ("errors.deadletterqueue.topic.name", "dlq.jobs")];
    assert_eq!(configure(&mut client, &configs), (ErrorCode::NONE, None));
    let topic = topic_id(&mut client, "jobs");
    initialize(&mut client, topic, 0, -1);
    client.append("jobs", 0, batch_of(RECORDS as usize));
    let mut one = Member::new("one", topic, TestClient::connect(&broker));
    assert_eq!(one.takes(RECORDS as i32), [(0, RECORDS - 1, 1)]);
    assert_eq!(one.says(&[(0, RECORDS - 1, &[3])]), ErrorCode::NONE);
    let failed = || {
        let metrics = broker.metrics();
        let count =
            metrics.lines().find_map(|line| line.strip_prefix("ottla_share_dead_letters_failed_total "));
        count.unwrap().parse::<i64>().unwrap()
    };
    // After all attempts that are made of a dead letter, one of them is given up, and the others are not.
    wait_until(|| failed() > 0);
    let takes_letters = [("errors.deadletterqueue.group.enable", "true")];
    client.create_topic_with("dlq.jobs", 1, &takes_letters);
    wait_until(|| summary(&mut client, topic) == (RECORDS, 0));
    let failed = failed();
    assert!(failed < RECORDS, "{failed}");
    let written: Vec<_> = dead_letters(&mut client, "dlq.jobs").into_iter().map(|letter| letter.0).collect();
    assert_eq!(written, (failed..RECORDS).map(|offset| offset.to_string()).collect::<Vec<_>>());

    // What comes then is tried as often as the first.
    let name = [("errors.deadletterqueue.topic.name", "dlq.late")];
    assert_eq!(configure(&mut client, &name), (ErrorCode::NONE, None));
    client.append("jobs", 0, batch_of(1));
    assert_eq!(one.takes(1), [(RECORDS, RECORDS, 1)]);
    assert_eq!(one.says(&[(RECORDS, RECORDS, &[3])]), ErrorCode::NONE);
    client.create_topic_with("dlq.late", 1, &takes_letters);
    wait_until(|| summary(&mut client, topic) == (RECORDS + 1, 0));
    assert_eq!(dead_letters(&mut client, "dlq.late"), [letter("500", "1", REJECTED, None)]);
}

#[test]
fn a_record_that_the_dead_letter_topic_does_not_take_takes_no_other_along() {
    let (broker, topic) = broker();
    let mut client = TestClient::connect(&broker);
    let takes_letters = ("errors.deadletterqueue.group.enable", "true");
    client.create_topic_with("dlq.small", 1, &[takes_letters, ("max.message.bytes", "2000")]);
    client.create_topic_with("dlq.keyed", 1, &[takes_letters, ("cleanup.policy", "compact")]);
    let copied = ("errors.deadletterqueue.copy.record.enable", "true");
    let large = "x".repeat(5000);
    let mut one = Member::new("one", topic, TestClient::connect(&broker));
    let mut give_up = |client: &mut TestClient, first: i64, name, records: [(Option<&str>, &str); 3]| {
        assert_eq!(
            configure(client, &[copied, ("errors.deadletterqueue.topic.name", name)]),
            (ErrorCode::NONE, None)
        );
        let mut batch = BatchBuilder::new(BatchOptions::default());
        for (key, value) in records {
            batch.append(SystemClock.now(), key.map(str::as_bytes), Some(value.as_bytes()), &[]);
        }
        client.append("jobs", 0, batch.build());
        assert_eq!(one.takes(3), [(first, first + 2, 1)]);
        assert_eq!(one.says(&[(first, first + 2, &[3])]), ErrorCode::NONE);
        wait_until(|| summary(client, topic) == (first + 3, 0));
    };
    // One that is too large goes without its value.
    give_up(&mut client, 0, "dlq.small", [(None, "a"), (None, &large), (None, "c")]);
    let expected = [
        letter("0", "1", REJECTED, Some("a")),
        letter("1", "1", REJECTED, None),
        letter("2", "1", REJECTED, Some("c")),
    ];
    assert_eq!(dead_letters(&mut client, "dlq.small"), expected);

    // One without a key has no place in a compacted topic; those around it have.
    give_up(&mut client, 3, "dlq.keyed", [(Some("k"), "a"), (None, "b"), (Some("l"), "c")]);
    let expected = [letter("3", "1", REJECTED, Some("a")), letter("5", "1", REJECTED, Some("c"))];
    assert_eq!(dead_letters(&mut client, "dlq.keyed"), expected);
}

#[test]
fn dead_letters_reach_a_topic_that_another_broker_leads() {
    let cluster = TestCluster::start(3, &["share.coordinator.state.topic.num.partitions=1"]);
    let mut client = cluster.client(1);
    let placed = |name: &'static str, broker_ids: Vec<i32>| CreatableTopic {
        name: name.into(),
        num_partitions: -1,
        replication_factor: -1,
        assignments: vec![CreatableReplicaAssignment { partition_index: 0, broker_ids }],
        configs: vec![CreatableTopicConfig {
            name: "errors.deadletterqueue.group.enable".into(),
            value: Some((if name == "jobs" { "false" } else { "true" }).into()),
        }],
    };
    let topics = vec![placed("jobs", vec![1]), placed("dlq.jobs", vec![2, 3])];
    let request = CreateTopicsRequest { topics, timeout_ms: 10_000, ..Default::default() };
    for created in client.ask(request).topics {
        assert_eq!(created.error_code, ErrorCode::NONE);
    }
    let configs = [
        ("share.auto.offset.reset", "earliest"),
        ("errors.deadletterqueue.topic.name", "dlq.jobs"),
        ("errors.deadletterqueue.copy.record.enable", "true"),
    ];
    assert_eq!(configure(&mut client, &configs), (ErrorCode::NONE, None));
    let topic = topic_id(&mut client, "jobs");
    let key = Str::from(format!("{GROUP}:{topic}:0"));
    let mut at = -1;
    wait_until(|| {
        at = coordinator(&mut client, &key).unwrap_or(-1);
        at > 0 && try_initialize(&mut cluster.client(at), topic, 0, -1).is_ok()
    });
    cluster.wait_for_partition(1, "jobs", |partition| partition.leader_id == 1);
    cluster.wait_for_partition(1, "dlq.jobs", |partition| partition.leader_id == 2);
    client.append("jobs", 0, batch_of(3));
    let mut one = Member::new("one", topic, cluster.client(1));
    assert_eq!(one.takes(3), [(0, 2, 1)]);
    assert_eq!(one.says(&[(0, 2, &[3])]), ErrorCode::NONE);
    wait_until(|| summary(&mut cluster.client(at), topic) == (3, 0));
    let told: Vec<_> =
        dead_letters(&mut cluster.client(2), "dlq.jobs").into_iter().map(|told| told.0).collect();
    assert_eq!(told, ["0", "1", "2"]);
}
