//! Quotas, told through a socket: who takes more than it may is held back, and nobody else is.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use support::{TestBroker, TestClient, batch_of, header, wait_until};
use wire::messages::alter_client_quotas::{AlterClientQuotasRequest, EntityData, EntryData, OpData};
use wire::messages::api_versions::ApiVersionsRequest;
use wire::messages::create_partitions::{CreatePartitionsRequest, CreatePartitionsTopic};
use wire::messages::create_topics::{CreatableTopic, CreateTopicsRequest, CreateTopicsResponse};
use wire::messages::delete_topics::{DeleteTopicState, DeleteTopicsRequest};
use wire::messages::describe_client_quotas::{ComponentData, DescribeClientQuotasRequest};
use wire::messages::fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic};
use wire::messages::metadata::MetadataRequest;
use wire::messages::produce::{PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData};
use wire::{ApiKey, ErrorCode, Frame, Request};

type Entity = [(&'static str, Option<&'static str>)];

/// A name is given, or it is the default.
fn entity(parts: &Entity) -> Vec<EntityData> {
    let part = |(kind, name): &(&'static str, Option<&'static str>)| EntityData {
        entity_type: (*kind).into(),
        entity_name: name.map(Into::into),
    };
    parts.iter().map(part).collect()
}

/// Sets a quota, or removes it, and returns error code and message.
fn try_alter(
    client: &mut TestClient,
    parts: &Entity,
    (key, value): (&'static str, Option<f64>),
    validate_only: bool,
) -> (ErrorCode, String) {
    let op = OpData { key: key.into(), value: value.unwrap_or(0.0), remove: value.is_none() };
    let entries = vec![EntryData { entity: entity(parts), ops: vec![op] }];
    let answer = client.ask(AlterClientQuotasRequest { entries, validate_only }).entries.remove(0);
    assert_eq!(answer.entity, entity(parts));
    (answer.error_code, answer.error_message.unwrap_or_default().to_string())
}

fn alter(client: &mut TestClient, parts: &Entity, key: &'static str, value: Option<f64>) {
    assert_eq!(try_alter(client, parts, (key, value), false), (ErrorCode::NONE, String::new()));
}

/// All quotas, in words.
fn described(client: &mut TestClient, components: Vec<ComponentData>) -> Vec<String> {
    let answer = client.ask(DescribeClientQuotasRequest { components, strict: false });
    assert_eq!(answer.error_code, ErrorCode::NONE, "{:?}", answer.error_message);
    let entries = answer.entries.expect("an answer without error has entries").into_iter();
    let words = entries.map(|entry| {
        let parts = entry.entity.iter().map(|part| {
            format!("{}={} ", part.entity_type, part.entity_name.as_deref().unwrap_or("(default)"))
        });
        let values = entry.values.iter().map(|value| format!("{}={}", value.key, value.value));
        parts.collect::<String>() + &values.collect::<Vec<_>>().join(",")
    });
    words.collect()
}

fn produce(client: &mut TestClient, bytes: usize) -> ProduceResponse {
    let data =
        PartitionProduceData { index: 0, records: Some(batch_of(&[(1_700_000_000_000, &vec![7; bytes])])) };
    let topic = TopicProduceData { name: "t".into(), partition_data: vec![data], ..Default::default() };
    let request =
        ProduceRequest { acks: -1, timeout_ms: 10_000, topic_data: vec![topic], ..Default::default() };
    let answer = client.ask_in(12, request);
    assert_eq!(answer.responses[0].partition_responses[0].error_code, ErrorCode::NONE);
    answer
}

fn fetch(client: &mut TestClient, offset: i64) -> FetchResponse {
    let wanted = FetchPartition {
        partition: 0,
        fetch_offset: offset,
        partition_max_bytes: i32::MAX,
        ..Default::default()
    };
    let topic = FetchTopic { topic: "t".into(), partitions: vec![wanted], ..Default::default() };
    client.ask_in(
        12,
        FetchRequest {
            max_wait_ms: 0,
            min_bytes: 1,
            max_bytes: i32::MAX,
            session_epoch: 0,
            topics: vec![topic],
            ..Default::default()
        },
    )
}

/// Bytes of records in an answer, and for how long to hold back.
fn delivered(answer: &FetchResponse) -> (usize, i32) {
    let partitions = answer.responses.iter().flat_map(|topic| &topic.partitions);
    let bytes =
        partitions.map(|partition| partition.records.as_ref().map_or(0, |records| records.len())).sum();
    (bytes, answer.throttle_time_ms)
}

#[test]
fn quotas_are_described_as_they_were_set_and_outlive_a_restart() {
    let mut broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    assert!(described(&mut client, Vec::new()).is_empty());
    alter(&mut client, &[("user", Some("alice"))], "producer_byte_rate", Some(1_000.0));
    alter(&mut client, &[("client-id", None), ("user", Some("alice"))], "request_percentage", Some(12.5));
    alter(&mut client, &[("ip", None)], "connection_creation_rate", Some(100.0));
    let validated = try_alter(&mut client, &[("user", None)], ("consumer_byte_rate", Some(5.0)), true);
    assert_eq!(validated, (ErrorCode::NONE, String::new()));
    let refused = try_alter(&mut client, &[("ip", None)], ("consumer_byte_rate", Some(5.0)), false);
    let why = "Invalid configuration key consumer_byte_rate, allowed are connection_creation_rate";
    assert_eq!(refused, (ErrorCode::INVALID_REQUEST, why.to_owned()));
    let all = [
        "ip=(default) connection_creation_rate=100",
        "user=alice producer_byte_rate=1000",
        "user=alice client-id=(default) request_percentage=12.5",
    ];
    assert_eq!(described(&mut client, Vec::new()), all);

    broker.restart();
    let mut client = TestClient::connect(&broker);
    assert_eq!(described(&mut client, Vec::new()), all);
    let ips = ComponentData { entity_type: "ip".into(), match_type: 1, r#match: None };
    assert_eq!(described(&mut client, vec![ips]), all[..1]);
    alter(&mut client, &[("ip", None)], "connection_creation_rate", None);
    assert_eq!(described(&mut client, Vec::new()), all[1..]);
    let strange = ComponentData { entity_type: "host".into(), match_type: 2, r#match: None };
    let answer = client.ask(DescribeClientQuotasRequest { components: vec![strange], strict: false });
    assert_eq!((answer.error_code, answer.entries), (ErrorCode::UNSUPPORTED_VERSION, None));
}

#[test]
fn a_producer_over_its_quota_is_acknowledged_and_held_back_alone() {
    let broker = TestBroker::start(&[]);
    let mut admin = TestClient::connect(&broker);
    admin.create_topic("t", 1);
    alter(&mut admin, &[("client-id", Some("greedy"))], "producer_byte_rate", Some(1_000.0));
    let mut greedy = TestClient::connect_as(&broker, "greedy");
    assert_eq!(produce(&mut greedy, 5_000).throttle_time_ms, 0, "ten seconds' worth is fine");
    let told = produce(&mut greedy, 40_000).throttle_time_ms;
    assert!((30_000..=40_000).contains(&told), "{told}");
    // It is not read from meanwhile, and whoever else has its id counts with it.
    let request = Request::Metadata(MetadataRequest { topics: None, ..Default::default() });
    let frame = Frame::request(&header(ApiKey::Metadata, 12), &request).to_bytes();
    greedy.socket().write_all(&frame).unwrap();
    greedy.socket().set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let silent = greedy.socket().read(&mut [0]).unwrap_err().kind();
    assert!(matches!(silent, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{silent:?}");
    let told = produce(&mut TestClient::connect_as(&broker, "greedy"), 1).throttle_time_ms;
    assert!(told > 20_000, "{told}");
    // Others are not concerned, and all that was acknowledged is there.
    assert_eq!(produce(&mut TestClient::connect_as(&broker, "modest"), 40_000).throttle_time_ms, 0);
    let (bytes, told) = delivered(&fetch(&mut admin, 0));
    assert!(bytes > 85_000 && told == 0, "{bytes} {told}");
    // A quota that is gone holds nobody back who comes anew.
    alter(&mut admin, &[("client-id", Some("greedy"))], "producer_byte_rate", None);
    assert_eq!(produce(&mut TestClient::connect_as(&broker, "greedy"), 40_000).throttle_time_ms, 0);
}

#[test]
fn a_consumer_over_its_quota_is_answered_empty_and_reads_on_later() {
    let broker = TestBroker::start(&[]);
    let mut admin = TestClient::connect(&broker);
    admin.create_topic("t", 1);
    for _ in 0..8 {
        produce(&mut admin, 4_000);
    }
    produce(&mut admin, 50_000);
    alter(&mut admin, &[("client-id", None)], "consumer_byte_rate", Some(1_000.0));
    let as_client = |client_id, offset| fetch(&mut TestClient::connect_as(&broker, client_id), offset);
    let (bytes, told) = delivered(&as_client("a", 0));
    assert!((8_000..=10_000).contains(&bytes) && told == 0, "as much as all windows allow: {bytes} {told}");
    let over = as_client("a", 2);
    let (bytes, told) = delivered(&over);
    assert!(bytes == 0 && told > 0, "{bytes} {told}");
    assert_eq!((over.error_code, over.session_id, over.responses.len()), (ErrorCode::NONE, 0, 0));
    // A batch that no window takes is delivered to whoever has read nothing else.
    let (bytes, told) = delivered(&as_client("b", 8));
    assert!(bytes > 50_000 && told == 0, "{bytes} {told}");
    assert!(delivered(&as_client("b", 0)).1 > 30_000);
    alter(&mut admin, &[("client-id", None)], "consumer_byte_rate", None);
    assert!(delivered(&as_client("a", 2)).0 > 70_000);
}

fn create(
    client: &mut TestClient,
    version: i16,
    name: &'static str,
    partitions: i32,
) -> CreateTopicsResponse {
    let topic = CreatableTopic {
        name: name.into(),
        num_partitions: partitions,
        replication_factor: 1,
        ..Default::default()
    };
    client.ask_in(
        version,
        CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, validate_only: false },
    )
}

#[test]
fn changes_of_topics_over_the_quota_are_refused_or_slowed_down() {
    let broker = TestBroker::start(&[]);
    let mut admin = TestClient::connect(&broker);
    let limit = |admin: &mut TestClient, rate| {
        alter(
            admin,
            &[("user", Some("ANONYMOUS")), ("client-id", Some("maker"))],
            "controller_mutation_rate",
            rate,
        );
    };
    limit(&mut admin, Some(0.001));
    let maker = || TestClient::connect_as(&broker, "maker");
    let first = create(&mut maker(), 7, "t", 1);
    assert_eq!(
        (first.topics[0].error_code, first.throttle_time_ms),
        (ErrorCode::NONE, 0),
        "a bucket may be overdrawn"
    );
    let second = create(&mut maker(), 7, "u", 1);
    assert_eq!(second.topics[0].error_code, ErrorCode::THROTTLING_QUOTA_EXCEEDED);
    assert_eq!(second.topics[0].error_message.as_deref(), Some("The throttling quota has been exceeded."));
    assert!(second.throttle_time_ms > 100_000);
    let more = CreatePartitionsTopic { name: "t".into(), count: 2, assignments: None };
    let more = CreatePartitionsRequest { topics: vec![more], timeout_ms: 10_000, validate_only: false };
    let refused = maker().ask_in(3, more.clone());
    assert_eq!(refused.results[0].error_code, ErrorCode::THROTTLING_QUOTA_EXCEEDED);
    let topic = DeleteTopicState { name: Some("t".into()), ..Default::default() };
    let delete = DeleteTopicsRequest { topics: vec![topic], timeout_ms: 10_000, ..Default::default() };
    let refused = maker().ask(delete.clone());
    assert_eq!(refused.responses[0].error_code, ErrorCode::THROTTLING_QUOTA_EXCEEDED);
    // Clients that do not understand the refusal are slowed down.
    let older = create(&mut maker(), 5, "u", 1);
    assert_eq!(older.topics[0].error_code, ErrorCode::NONE);
    assert!(older.throttle_time_ms > 100_000);
    // Others are not concerned.
    assert_eq!(admin.ask(more).results[0].error_code, ErrorCode::NONE);
    limit(&mut admin, None);
    assert_eq!(maker().ask(delete).responses[0].error_code, ErrorCode::NONE);
}

#[test]
fn whoever_makes_too_much_work_waits_a_window_at_most() {
    let broker = TestBroker::start(&[]);
    let mut admin = TestClient::connect(&broker);
    alter(&mut admin, &[("client-id", Some("busy"))], "request_percentage", Some(0.000_01));
    let mut busy = TestClient::connect_as(&broker, "busy");
    let mut ask = || busy.ask(MetadataRequest { topics: None, ..Default::default() }).throttle_time_ms;
    let told = (0..1_000).map(|_| ask()).find(|told| *told > 0);
    assert!(told.is_some_and(|told| told <= 1_000), "{told:?}");
    assert_eq!(admin.ask(MetadataRequest::default()).throttle_time_ms, 0);
}

/// Whether a new connection is served.
fn is_served(broker: &TestBroker) -> bool {
    let mut socket = support::connect(broker);
    let request =
        ApiVersionsRequest { client_software_name: "t".into(), client_software_version: "1".into() };
    let frame = Frame::request(&header(ApiKey::ApiVersions, 3), &Request::ApiVersions(request)).to_bytes();
    socket.write_all(&frame).is_ok() && support::read_frame(&mut socket).is_some()
}

#[test]
fn an_address_that_connects_too_often_is_put_off() {
    let broker = TestBroker::start(&[]);
    let mut admin = TestClient::connect(&broker);
    alter(&mut admin, &[("ip", Some("127.0.0.1"))], "connection_creation_rate", Some(1.0));
    let served = (0..30).take_while(|_| is_served(&broker)).count();
    assert!((1..30).contains(&served), "{served}");
    alter(&mut admin, &[("ip", Some("127.0.0.1"))], "connection_creation_rate", None);
    assert!((0..30).all(|_| is_served(&broker)));
}

#[test]
fn an_address_may_have_a_bound_of_its_own() {
    let broker = TestBroker::start(&[
        "max.connections.per.ip=1000",
        "max.connections.per.ip.overrides=10.0.0.1:7,127.0.0.1:3",
    ]);
    let mut clients: Vec<_> = (0..3).map(|_| TestClient::connect(&broker)).collect();
    clients.iter_mut().for_each(|client| drop(client.api_versions()));
    assert!(!is_served(&broker));
    drop(clients.pop());
    wait_until(|| is_served(&broker));
}

#[test]
fn a_listener_may_have_a_bound_of_its_own() {
    let broker = TestBroker::start(&["listener.name.plaintext.max.connections=2"]);
    let mut clients: Vec<_> = (0..2).map(|_| TestClient::connect(&broker)).collect();
    clients.iter_mut().for_each(|client| drop(client.api_versions()));
    assert!(!is_served(&broker));
    drop(clients.pop());
    wait_until(|| is_served(&broker));
}

#[test]
fn more_connections_than_a_listener_accepts_per_second_wait_and_are_served() {
    let broker =
        TestBroker::start(&["listener.name.plaintext.max.connection.creation.rate=20", "quota.window.num=2"]);
    assert!((0..40).all(|_| is_served(&broker)));
}

#[test]
fn more_connections_than_are_accepted_per_second_wait_and_are_served() {
    let broker = TestBroker::start(&["max.connection.creation.rate=20", "quota.window.num=2"]);
    assert!((0..40).all(|_| is_served(&broker)));
}
