//! Administration through a socket: topics and their settings from their creation to their end, where records are by
//! offset and time, and who the broker says it is.

mod support;

use support::{TestBroker, TestClient, batch_of};
use wire::messages::alter_configs::{self, AlterConfigsRequest};
use wire::messages::create_partitions::{CreatePartitionsRequest, CreatePartitionsTopic};
use wire::messages::create_topics::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest};
use wire::messages::delete_records::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic};
use wire::messages::delete_topics::{DeleteTopicState, DeleteTopicsRequest};
use wire::messages::describe_cluster::DescribeClusterRequest;
use wire::messages::describe_configs::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult, DescribeConfigsResult,
};
use wire::messages::describe_log_dirs::DescribeLogDirsRequest;
use wire::messages::describe_producers::{self, DescribeProducersRequest};
use wire::messages::describe_topic_partitions::DescribeTopicPartitionsRequest;
use wire::messages::find_coordinator::FindCoordinatorRequest;
use wire::messages::incremental_alter_configs::{self as incremental, IncrementalAlterConfigsRequest};
use wire::messages::init_producer_id::InitProducerIdRequest;
use wire::messages::list_config_resources::{ConfigResource, ListConfigResourcesRequest};
use wire::messages::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use wire::messages::metadata::{MetadataRequest, MetadataRequestTopic, MetadataResponse};
use wire::messages::offset_for_leader_epoch::{
    OffsetForLeaderEpochRequest, OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use wire::messages::update_features::{FeatureUpdateKey, UpdateFeaturesRequest};
use wire::records::{BatchBuilder, BatchOptions};
use wire::{ApiKey, ErrorCode, Millis, ProducerEpoch, ProducerId, Str, Uuid};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const BROKER_LOGGER: i8 = 8;
const SET: i8 = 0;
const APPEND: i8 = 2;

fn metadata_of(client: &mut TestClient, topic: &'static str, create: bool) -> MetadataResponse {
    let named = MetadataRequestTopic { name: Some(topic.into()), ..Default::default() };
    let request = MetadataRequest {
        topics: Some(vec![named]),
        allow_auto_topic_creation: create,
        ..Default::default()
    };
    client.ask(request)
}

/// Creates a topic and returns its error code and message.
fn create(client: &mut TestClient, topic: CreatableTopic, validate_only: bool) -> (ErrorCode, String) {
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, validate_only };
    let answer = client.ask(request).topics.remove(0);
    (answer.error_code, answer.error_message.unwrap_or_default().to_string())
}

fn topic(name: &'static str, partitions: i32, configs: &[(&'static str, &'static str)]) -> CreatableTopic {
    let configs = configs
        .iter()
        .map(|(key, value)| CreatableTopicConfig { name: Str::from(*key), value: Some(Str::from(*value)) });
    CreatableTopic {
        name: name.into(),
        num_partitions: partitions,
        replication_factor: -1,
        configs: configs.collect(),
        ..Default::default()
    }
}

fn delete(client: &mut TestClient, name: &'static str) -> ErrorCode {
    let state = DeleteTopicState { name: Some(name.into()), ..Default::default() };
    let request = DeleteTopicsRequest { topics: vec![state], timeout_ms: 10_000, ..Default::default() };
    client.ask(request).responses.remove(0).error_code
}

fn describe(client: &mut TestClient, kind: i8, name: &'static str) -> DescribeConfigsResult {
    let resource =
        DescribeConfigsResource { resource_type: kind, resource_name: name.into(), ..Default::default() };
    let request = DescribeConfigsRequest {
        resources: vec![DescribeConfigsResource { configuration_keys: None, ..resource }],
        include_synonyms: true,
        ..Default::default()
    };
    client.ask(request).results.remove(0)
}

fn config(client: &mut TestClient, kind: i8, name: &'static str, key: &str) -> DescribeConfigsResourceResult {
    let described = describe(client, kind, name);
    assert_eq!(described.error_code, ErrorCode::NONE);
    let config = described.configs.into_iter().find(|config| config.name == *key);
    config.unwrap_or_else(|| panic!("{key} is described"))
}

/// Changes settings and returns the error code and message.
fn alter(
    client: &mut TestClient,
    (kind, name): (i8, &'static str),
    changes: &[(&'static str, i8, &'static str)],
    validate_only: bool,
) -> (ErrorCode, String) {
    let configs = changes.iter().map(|(key, op, value)| incremental::AlterableConfig {
        name: Str::from(*key),
        config_operation: *op,
        value: Some(Str::from(*value)),
    });
    let resource = incremental::AlterConfigsResource {
        resource_type: kind,
        resource_name: name.into(),
        configs: configs.collect(),
    };
    let request = IncrementalAlterConfigsRequest { resources: vec![resource], validate_only };
    let answer = client.ask(request).responses.remove(0);
    (answer.error_code, answer.error_message.unwrap_or_default().to_string())
}

/// Asks for one offset and returns error, offset and timestamp.
fn list_offset(client: &mut TestClient, topic: &'static str, timestamp: i64) -> (ErrorCode, i64, i64) {
    let partition = ListOffsetsPartition { timestamp, ..Default::default() };
    let topic = ListOffsetsTopic { name: topic.into(), partitions: vec![partition] };
    let request = ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
    let found = client.ask(request).topics.remove(0).partitions.remove(0);
    (found.error_code, found.offset, found.timestamp)
}

fn delete_records(client: &mut TestClient, topic: &'static str, offset: i64) -> (ErrorCode, i64) {
    let partition = DeleteRecordsPartition { offset, ..Default::default() };
    let topic = DeleteRecordsTopic { name: topic.into(), partitions: vec![partition] };
    let request = DeleteRecordsRequest { topics: vec![topic], timeout_ms: 10_000 };
    let deleted = client.ask(request).topics.remove(0).partitions.remove(0);
    (deleted.error_code, deleted.low_watermark)
}

#[test]
fn a_topic_lives_from_its_creation_to_its_deletion_and_through_a_restart() {
    let mut broker = TestBroker::start(&["num.partitions=3"]);
    let mut client = TestClient::connect(&broker);
    assert_eq!(create(&mut client, topic("orders", -1, &[]), false).0, ErrorCode::NONE);
    let (code, why) = create(&mut client, topic("orders", -1, &[]), false);
    assert_eq!((code, &*why), (ErrorCode::TOPIC_ALREADY_EXISTS, "Topic 'orders' already exists."));
    let first = metadata_of(&mut client, "orders", false).topics.remove(0);
    assert_eq!((first.error_code, first.partitions.len()), (ErrorCode::NONE, 3));
    client.produce_and_read_back("orders");

    broker.restart();
    let mut client = TestClient::connect(&broker);
    let again = metadata_of(&mut client, "orders", false).topics.remove(0);
    assert_eq!(again.topic_id, first.topic_id);
    assert_eq!(list_offset(&mut client, "orders", -1), (ErrorCode::NONE, 1, -1));

    assert_eq!(delete(&mut client, "orders"), ErrorCode::NONE);
    assert_eq!(delete(&mut client, "orders"), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    let gone = metadata_of(&mut client, "orders", false).topics.remove(0);
    assert_eq!(gone.error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(client.fetch("orders", 0, 0), Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));

    client.create_topic("orders", 1);
    let new = metadata_of(&mut client, "orders", false).topics.remove(0);
    assert_ne!(new.topic_id, first.topic_id, "another topic of the same name");
    assert_eq!(list_offset(&mut client, "orders", -1), (ErrorCode::NONE, 0, -1));
    broker.restart();
    let mut client = TestClient::connect(&broker);
    let kept = metadata_of(&mut client, "orders", false).topics.remove(0);
    assert_eq!((kept.topic_id, kept.partitions.len()), (new.topic_id, 1));
}

#[test]
fn topics_that_cannot_be_created_say_why_and_do_not_keep_the_others() {
    let broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    let cases = [
        (topic("a b", 1, &[]), ErrorCode::INVALID_TOPIC_EXCEPTION, "contains one or more characters"),
        (topic("none", 0, &[]), ErrorCode::INVALID_PARTITIONS, "non-positive"),
        (topic("many", 1_000_000, &[]), ErrorCode::POLICY_VIOLATION, "excessively large"),
        (
            CreatableTopic { replication_factor: 3, ..topic("copies", 1, &[]) },
            ErrorCode::INVALID_REPLICATION_FACTOR,
            "only 1 broker(s)",
        ),
        (
            topic("odd", 1, &[("retention.msec", "1")]),
            ErrorCode::INVALID_CONFIG,
            "Unknown topic config name: retention.msec (did you mean retention.ms?)",
        ),
        (
            topic("bad", 1, &[("retention.ms", "soon")]),
            ErrorCode::INVALID_CONFIG,
            "Not a number of type LONG",
        ),
        (topic("__consumer_offsets", 1, &[]), ErrorCode::INVALID_REQUEST, "belongs to the broker"),
    ];
    for (topic, expected, message) in cases {
        let name = topic.name.clone();
        let (code, why) = create(&mut client, topic, false);
        assert_eq!(code, expected, "{name}: {why}");
        assert!(why.contains(message), "{name}: {why}");
    }
    let mixed =
        vec![topic("good", 1, &[]), topic("..", 1, &[]), topic("twice", 1, &[]), topic("twice", 1, &[])];
    let answers = client.ask(CreateTopicsRequest { topics: mixed, timeout_ms: 10_000, ..Default::default() });
    let codes: Vec<_> =
        answers.topics.iter().map(|topic| (topic.name.to_string(), topic.error_code)).collect();
    let expected = [
        ("good".to_owned(), ErrorCode::NONE),
        ("..".to_owned(), ErrorCode::INVALID_TOPIC_EXCEPTION),
        ("twice".to_owned(), ErrorCode::INVALID_REQUEST),
    ];
    assert_eq!(codes, expected);
}

#[test]
fn a_validated_topic_is_answered_like_a_created_one_and_is_not_there() {
    let broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    let request = CreateTopicsRequest {
        topics: vec![topic("maybe", 2, &[("retention.ms", "1000")])],
        timeout_ms: 10_000,
        validate_only: true,
    };
    let answer = client.ask(request).topics.remove(0);
    assert_eq!(
        (answer.error_code, answer.num_partitions, answer.replication_factor),
        (ErrorCode::NONE, 2, 1)
    );
    let configs = answer.configs.unwrap_or_default();
    let retention = configs.iter().find(|config| config.name == "retention.ms").expect("it is described");
    assert_eq!((retention.value.as_deref(), retention.config_source), (Some("1000"), 1));
    let gone = metadata_of(&mut client, "maybe", false).topics.remove(0);
    assert_eq!(gone.error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
}

#[test]
fn a_named_topic_is_created_when_client_and_broker_want_it() {
    let broker = TestBroker::start(&["num.partitions=2"]);
    let mut client = TestClient::connect(&broker);
    let absent = metadata_of(&mut client, "auto", false).topics.remove(0);
    assert_eq!(absent.error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    let created = metadata_of(&mut client, "auto", true).topics.remove(0);
    assert_eq!((created.error_code, created.partitions.len()), (ErrorCode::NONE, 2));
    assert!(created.partitions.iter().all(|partition| partition.leader_id == 1));
    let invalid = metadata_of(&mut client, "no/topic", true).topics.remove(0);
    assert_eq!(invalid.error_code, ErrorCode::INVALID_TOPIC_EXCEPTION);
    client.produce_and_read_back("auto");

    let strict = TestBroker::start(&["auto.create.topics.enable=false"]);
    let absent = metadata_of(&mut TestClient::connect(&strict), "auto", true).topics.remove(0);
    assert_eq!(absent.error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
}

#[test]
fn every_version_of_metadata_tells_where_the_client_has_dialled() {
    let broker = TestBroker::start(&["broker.rack=r1"]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 1);
    for version in ApiKey::Metadata.versions() {
        let named = MetadataRequestTopic { name: Some("t".into()), ..Default::default() };
        let answer =
            client.ask_in(version, MetadataRequest { topics: Some(vec![named]), ..Default::default() });
        let this = &answer.brokers[0];
        assert_eq!((this.node_id, &*this.host, this.port), (1, "127.0.0.1", i32::from(broker.addr().port())));
        assert_eq!(answer.topics[0].partitions[0].leader_id, 1);
        if version >= 1 {
            assert_eq!((this.rack.as_deref(), answer.controller_id), (Some("r1"), 1));
        }
    }
    let none = client.ask_in(1, MetadataRequest { topics: Some(Vec::new()), ..Default::default() });
    assert!(none.topics.is_empty(), "an empty list asks for none");
    let all = client.ask_in(1, MetadataRequest { topics: None, ..Default::default() });
    assert_eq!(all.topics.len(), 1);

    let advertised = TestBroker::start(&["advertised.listeners=PLAINTEXT://kafka.example.org:19092"]);
    let answer = TestClient::connect(&advertised).ask(DescribeClusterRequest {
        include_cluster_authorized_operations: true,
        endpoint_type: 1,
        ..Default::default()
    });
    assert_eq!((&*answer.brokers[0].host, answer.brokers[0].port), ("kafka.example.org", 19092));
    assert_eq!(answer.cluster_authorized_operations, 8096);
}

#[test]
fn topics_are_found_by_id_and_by_page() {
    let broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("a", 2);
    client.create_topic("b", 1);
    let id = metadata_of(&mut client, "b", false).topics[0].topic_id;
    let by_id = |topic_id| {
        let named = MetadataRequestTopic { topic_id, name: None };
        MetadataRequest { topics: Some(vec![named]), ..Default::default() }
    };
    let found = client.ask(by_id(id)).topics.remove(0);
    assert_eq!((found.error_code, found.name.as_deref()), (ErrorCode::NONE, Some("b")));
    let unknown = client.ask(by_id(Uuid::from_u128(1))).topics.remove(0);
    assert_eq!((unknown.error_code, unknown.name), (ErrorCode::UNKNOWN_TOPIC_ID, None));

    let request = DescribeTopicPartitionsRequest { response_partition_limit: 2, ..Default::default() };
    let page = client.ask(request.clone());
    assert_eq!(page.topics.len(), 1);
    let next = client.ask(DescribeTopicPartitionsRequest { cursor: page.next_cursor, ..request });
    assert_eq!(next.topics[0].name.as_deref(), Some("b"));
    assert_eq!(next.next_cursor, None);

    let state = DeleteTopicState { name: None, topic_id: id };
    let request = DeleteTopicsRequest { topics: vec![state], timeout_ms: 10_000, ..Default::default() };
    let deleted = client.ask(request).responses.remove(0);
    assert_eq!((deleted.error_code, deleted.name.as_deref()), (ErrorCode::NONE, Some("b")));
}

#[test]
fn a_topic_grows_and_keeps_what_it_has() {
    let mut broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 1);
    client.produce_and_read_back("t");
    let mut grow = |count, validate_only| {
        let topic = CreatePartitionsTopic { name: "t".into(), count, assignments: None };
        let request = CreatePartitionsRequest { topics: vec![topic], timeout_ms: 10_000, validate_only };
        client.ask(request).results.remove(0).error_code
    };
    assert_eq!(grow(1, false), ErrorCode::INVALID_PARTITIONS);
    assert_eq!(grow(3, true), ErrorCode::NONE);
    assert_eq!(grow(3, false), ErrorCode::NONE);
    assert_eq!(grow(2, false), ErrorCode::INVALID_PARTITIONS);
    assert_eq!(client.append("t", 2, batch_of(&[(1, b"new")])), 0);
    broker.restart();
    let mut client = TestClient::connect(&broker);
    assert_eq!(metadata_of(&mut client, "t", false).topics[0].partitions.len(), 3);
    assert_eq!(list_offset(&mut client, "t", -1), (ErrorCode::NONE, 1, -1));
    assert!(!client.fetch("t", 2, 0).unwrap().is_empty());
}

#[test]
fn a_topics_settings_change_while_it_is_written_to() {
    let mut broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 1);
    let inherited = config(&mut client, TOPIC, "t", "max.message.bytes");
    assert_eq!((inherited.value.as_deref(), inherited.config_source), (Some("1048588"), 5));

    let limit = [("max.message.bytes", SET, "200")];
    assert_eq!(alter(&mut client, (TOPIC, "t"), &limit, true).0, ErrorCode::NONE);
    client.append("t", 0, batch_of(&[(1, &[7; 1_000])]));
    assert_eq!(alter(&mut client, (TOPIC, "t"), &limit, false).0, ErrorCode::NONE);
    let large = produce_of(batch_of(&[(1, &[7; 1_000])]));
    assert_eq!(client.produce(large).0, ErrorCode::MESSAGE_TOO_LARGE);
    client.produce_and_read_back("t");

    let both = [("cleanup.policy", APPEND, "compact")];
    assert_eq!(alter(&mut client, (TOPIC, "t"), &both, false).0, ErrorCode::NONE);
    let policy = config(&mut client, TOPIC, "t", "cleanup.policy");
    assert_eq!((policy.value.as_deref(), policy.config_source), (Some("delete,compact"), 1));
    assert_eq!(&*policy.synonyms[1].name, "log.cleanup.policy");

    broker.restart();
    let mut client = TestClient::connect(&broker);
    assert_eq!(config(&mut client, TOPIC, "t", "max.message.bytes").value.as_deref(), Some("200"));
    let large = produce_of(batch_of(&[(1, &[7; 1_000])]));
    assert_eq!(client.produce(large).0, ErrorCode::MESSAGE_TOO_LARGE);

    // The older way replaces them all.
    let resource = alter_configs::AlterConfigsResource {
        resource_type: TOPIC,
        resource_name: "t".into(),
        ..Default::default()
    };
    let answer = client.ask(AlterConfigsRequest { resources: vec![resource], ..Default::default() });
    assert_eq!(answer.responses[0].error_code, ErrorCode::NONE);
    assert_eq!(config(&mut client, TOPIC, "t", "max.message.bytes").config_source, 5);
    client.append("t", 0, batch_of(&[(1, &[7; 1_000])]));
}

fn produce_of(records: bytes::Bytes) -> wire::messages::produce::ProduceRequest {
    use wire::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
    let data = PartitionProduceData { index: 0, records: Some(records) };
    let topic = TopicProduceData { name: "t".into(), partition_data: vec![data], ..Default::default() };
    ProduceRequest { acks: -1, timeout_ms: 10_000, topic_data: vec![topic], ..Default::default() }
}

#[test]
fn a_brokers_dynamic_settings_reach_topics_that_have_none_of_their_own() {
    let mut broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 1);
    let limit = [("message.max.bytes", SET, "200")];
    assert_eq!(alter(&mut client, (BROKER, ""), &limit, false).0, ErrorCode::NONE);
    let inherited = config(&mut client, TOPIC, "t", "max.message.bytes");
    assert_eq!((inherited.value.as_deref(), inherited.config_source), (Some("200"), 3));
    let large = || produce_of(batch_of(&[(1, &[7; 1_000])]));
    assert_eq!(client.produce(large()).0, ErrorCode::MESSAGE_TOO_LARGE);

    let higher = [("message.max.bytes", SET, "100000")];
    assert_eq!(alter(&mut client, (BROKER, "1"), &higher, false).0, ErrorCode::NONE);
    assert_eq!(client.produce(large()).0, ErrorCode::NONE);
    broker.restart();
    let mut client = TestClient::connect(&broker);
    let own = config(&mut client, BROKER, "1", "message.max.bytes");
    assert_eq!((own.value.as_deref(), own.config_source), (Some("100000"), 2));
    assert_eq!(client.produce(large()).0, ErrorCode::NONE);
}

#[test]
fn settings_that_cannot_be_changed_say_why() {
    let broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 1);
    type Case = (i8, &'static str, (&'static str, i8, &'static str), ErrorCode, &'static str);
    let cases: &[Case] = &[
        (TOPIC, "t", ("retention.ms", SET, "x"), ErrorCode::INVALID_CONFIG, "Not a number of type LONG"),
        (TOPIC, "t", ("retention.ms", APPEND, "1"), ErrorCode::INVALID_CONFIG, "Can't APPEND"),
        (TOPIC, "t", ("retention.ms", 9, "1"), ErrorCode::INVALID_REQUEST, "Unknown operation type 9"),
        (TOPIC, "nope", ("retention.ms", SET, "1"), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, "does not exist"),
        (TOPIC, "", ("retention.ms", SET, "1"), ErrorCode::INVALID_REQUEST, "Default topic resources"),
        (
            BROKER,
            "1",
            ("num.partitions", SET, "2"),
            ErrorCode::INVALID_REQUEST,
            "Cannot update these configs",
        ),
        (BROKER, "7", ("log.retention.ms", SET, "1"), ErrorCode::INVALID_REQUEST, "not registered"),
        (BROKER, "x", ("log.retention.ms", SET, "1"), ErrorCode::INVALID_REQUEST, "must be an integer"),
        (BROKER_LOGGER, "1", ("kafka", SET, "INFO"), ErrorCode::INVALID_REQUEST, "Log levels"),
        (9, "1", ("kafka", SET, "INFO"), ErrorCode::INVALID_REQUEST, "Unknown resource type 9"),
    ];
    for (kind, name, change, expected, message) in cases {
        let (code, why) = alter(&mut client, (*kind, *name), &[*change], false);
        assert_eq!(code, *expected, "{change:?}: {why}");
        assert!(why.contains(message), "{change:?}: {why}");
    }
    assert_eq!(describe(&mut client, TOPIC, "nope").error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(describe(&mut client, TOPIC, "a/b").error_code, ErrorCode::INVALID_TOPIC_EXCEPTION);
    assert_eq!(describe(&mut client, BROKER, "7").error_code, ErrorCode::INVALID_REQUEST);
}

#[test]
fn offsets_are_found_by_time_to_the_record() {
    let broker = TestBroker::start(&["log.message.timestamp.after.max.ms=9223372036854775807"]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 1);
    assert_eq!(list_offset(&mut client, "t", 0), (ErrorCode::NONE, -1, -1), "nothing there");
    assert_eq!(list_offset(&mut client, "t", -3), (ErrorCode::NONE, -1, -1));
    client.append("t", 0, batch_of(&[(100, b"a"), (300, b"b"), (200, b"c")]));
    client.append("t", 0, batch_of(&[(400, b"d"), (250, b"e")]));
    for (asked, expected) in [
        (-1, (5, -1)),
        (-2, (0, -1)),
        (-4, (0, -1)),
        (-5, (-1, -1)),
        (-3, (3, 400)),
        (0, (0, 100)),
        (101, (1, 300)),
        (300, (1, 300)),
        (301, (3, 400)),
        (401, (-1, -1)),
    ] {
        let (error, offset, timestamp) = list_offset(&mut client, "t", asked);
        assert_eq!((error, (offset, timestamp)), (ErrorCode::NONE, expected), "{asked}");
    }
    assert_eq!(list_offset(&mut client, "t", -7).0, ErrorCode::UNSUPPORTED_VERSION);
    assert_eq!(list_offset(&mut client, "nope", -1).0, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);

    let asked = |current_leader_epoch| ListOffsetsPartition {
        current_leader_epoch,
        timestamp: -1,
        ..Default::default()
    };
    let mut with = |partitions| {
        let topic = ListOffsetsTopic { name: "t".into(), partitions };
        let request = ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
        client.ask(request).topics.remove(0).partitions
    };
    assert_eq!(with(vec![asked(5)])[0].error_code, ErrorCode::UNKNOWN_LEADER_EPOCH);
    let twice = with(vec![asked(-1), asked(-1)]);
    assert_eq!(twice.iter().map(|p| p.error_code).collect::<Vec<_>>(), [ErrorCode::INVALID_REQUEST]);
}

#[test]
fn deleted_records_are_gone_for_readers() {
    let broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 1);
    for _ in 0..5 {
        client.append("t", 0, batch_of(&[(1, b"x")]));
    }
    assert_eq!(delete_records(&mut client, "t", 6), (ErrorCode::OFFSET_OUT_OF_RANGE, -1));
    assert_eq!(delete_records(&mut client, "t", -2), (ErrorCode::OFFSET_OUT_OF_RANGE, -1));
    assert_eq!(delete_records(&mut client, "t", 3), (ErrorCode::NONE, 3));
    assert_eq!(delete_records(&mut client, "t", 1), (ErrorCode::NONE, 3), "what is gone stays gone");
    assert_eq!(list_offset(&mut client, "t", -2), (ErrorCode::NONE, 3, -1));
    assert_eq!(client.fetch("t", 0, 2), Err(ErrorCode::OFFSET_OUT_OF_RANGE));
    assert_eq!(client.fetch("t", 0, 3).unwrap()[..8], 3_i64.to_be_bytes());
    assert_eq!(delete_records(&mut client, "t", -1), (ErrorCode::NONE, 5));
    assert_eq!(delete_records(&mut client, "nope", 0).0, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(
        create(&mut client, topic("keys", 1, &[("cleanup.policy", "compact")]), false).0,
        ErrorCode::NONE
    );
    assert_eq!(delete_records(&mut client, "keys", -1).0, ErrorCode::POLICY_VIOLATION);
}

#[test]
fn what_one_replica_has_taken_is_seen_by_whoever_asks_next() {
    let broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 1);
    for taken in 1..=50 {
        let produce =
            wire::messages::produce::ProduceRequest { acks: 1, ..produce_of(batch_of(&[(taken, b"x")])) };
        let answer = client.ask_in(12, produce).responses.remove(0).partition_responses.remove(0);
        assert_eq!((answer.error_code, answer.base_offset), (ErrorCode::NONE, taken - 1));
        match taken % 3 {
            0 => assert_eq!(list_offset(&mut client, "t", -1), (ErrorCode::NONE, taken, -1)),
            1 => assert_eq!(list_offset(&mut client, "t", taken).1, taken - 1, "found by its time"),
            _ => assert_eq!(delete_records(&mut client, "t", taken), (ErrorCode::NONE, taken)),
        }
    }
}

#[test]
fn the_data_directory_is_described_with_its_sizes() {
    let broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 2);
    let records = batch_of(&[(1, b"some bytes")]);
    let size = i64::try_from(records.len()).unwrap();
    client.append("t", 1, records);
    let request = DescribeLogDirsRequest { topics: None };
    let dir = client.ask(request).results.remove(0);
    assert_eq!(&*dir.log_dir, broker.dir().to_str().unwrap());
    let sizes: Vec<_> = dir.topics[0].partitions.iter().map(|p| p.partition_size).collect();
    assert_eq!((&*dir.topics[0].name, sizes), ("t", vec![0, size]));
    assert!(dir.total_bytes >= dir.usable_bytes && dir.usable_bytes > 0);
}

#[test]
fn epochs_end_where_the_log_ends_while_they_last() {
    let broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 1);
    client.append("t", 0, batch_of(&[(1, b"x"), (2, b"y")]));
    let mut end = |current_leader_epoch, leader_epoch| {
        let partition = OffsetForLeaderPartition { current_leader_epoch, leader_epoch, ..Default::default() };
        let topic = OffsetForLeaderTopic { topic: "t".into(), partitions: vec![partition] };
        let request = OffsetForLeaderEpochRequest { topics: vec![topic], ..Default::default() };
        let end = client.ask(request).topics.remove(0).partitions.remove(0);
        (end.error_code, end.leader_epoch, end.end_offset)
    };
    assert_eq!(end(-1, 0), (ErrorCode::NONE, 0, 2));
    assert_eq!(end(0, 0), (ErrorCode::NONE, 0, 2));
    assert_eq!(end(-1, 5), (ErrorCode::NONE, -1, -1));
    assert_eq!(end(4, 0), (ErrorCode::UNKNOWN_LEADER_EPOCH, -1, -1));
}

#[test]
fn producers_get_ids_of_their_own_across_restarts_and_are_described() {
    let mut broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 1);
    let fresh = || InitProducerIdRequest { transactional_id: None, ..Default::default() };
    let first = client.ask(fresh());
    assert_eq!((first.error_code, first.producer_epoch), (ErrorCode::NONE, 0));
    let second = client.ask(fresh());
    assert_ne!(first.producer_id, second.producer_id);

    let options = BatchOptions {
        producer_id: ProducerId(second.producer_id),
        producer_epoch: ProducerEpoch(0),
        base_sequence: 0,
        ..Default::default()
    };
    let pair = |base_sequence| {
        let mut batch = BatchBuilder::new(BatchOptions { base_sequence, ..options.clone() });
        batch.append(Millis(1_000), None, Some(b"a"), &[]);
        batch.append(Millis(2_000), None, Some(b"b"), &[]);
        batch.build()
    };
    assert_eq!(client.append("t", 0, pair(0)), 0);
    assert_eq!(client.append("t", 0, pair(0)), 0, "a repeated batch has its first offset");
    let topic = describe_producers::TopicRequest { name: "t".into(), partition_indexes: vec![0, 9] };
    let described = client.ask(DescribeProducersRequest { topics: vec![topic] }).topics.remove(0);
    let active = &described.partitions[0].active_producers[0];
    assert_eq!((active.producer_id, active.producer_epoch), (second.producer_id, 0));
    assert_eq!((active.last_sequence, active.last_timestamp), (1, 2_000));
    assert_eq!((active.coordinator_epoch, active.current_txn_start_offset), (-1, -1));
    assert_eq!(described.partitions[1].error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    for sequence in (2..12).step_by(2) {
        assert_eq!(client.append("t", 0, pair(sequence)), i64::from(sequence));
    }
    let forgotten = (ErrorCode::DUPLICATE_SEQUENCE_NUMBER, -1);
    assert_eq!(client.try_append("t", 0, pair(0)), forgotten, "it is there, five batches ago");
    assert_eq!(client.try_append("t", 0, pair(14)), (ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER, -1));

    broker.restart();
    let mut client = TestClient::connect(&broker);
    let third = client.ask(fresh());
    assert!(third.producer_id > second.producer_id);
    let half = InitProducerIdRequest { producer_id: 5, ..fresh() };
    assert_eq!(client.ask(half).error_code, ErrorCode::INVALID_REQUEST);
}

#[test]
fn the_brokers_own_topic_is_made_on_demand_and_kept() {
    let broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    let request = FindCoordinatorRequest { coordinator_keys: vec!["g".into()], ..Default::default() };
    let found = client.ask(request).coordinators.remove(0);
    assert_eq!((found.error_code, found.node_id), (ErrorCode::NONE, 1));
    for version in 1..=3 {
        let found = client.ask_in(version, FindCoordinatorRequest { key: "g".into(), ..Default::default() });
        assert_eq!((found.node_id, found.error_message.as_deref()), (1, Some("NONE")), "Kafka says so");
    }
    let offsets = metadata_of(&mut client, "__consumer_offsets", false).topics.remove(0);
    assert_eq!((offsets.is_internal, offsets.partitions.len()), (true, 4));
    assert_eq!(
        config(&mut client, TOPIC, "__consumer_offsets", "cleanup.policy").value.as_deref(),
        Some("compact")
    );
    assert_eq!(delete(&mut client, "__consumer_offsets"), ErrorCode::INVALID_REQUEST);
    let topic = CreatePartitionsTopic { name: "__consumer_offsets".into(), count: 9, assignments: None };
    let grown = client.ask(CreatePartitionsRequest { topics: vec![topic], ..Default::default() });
    assert_eq!(grown.results[0].error_code, ErrorCode::INVALID_REQUEST);
}

#[test]
fn deleting_topics_can_be_forbidden() {
    let broker = TestBroker::start(&["delete.topic.enable=false"]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 1);
    assert_eq!(delete(&mut client, "t"), ErrorCode::TOPIC_DELETION_DISABLED);
    client.produce_and_read_back("t");
}

#[test]
fn versions_are_told_to_software_with_a_proper_name() {
    let broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    let versions = client.api_versions();
    assert_eq!(versions.error_code, ErrorCode::NONE);
    assert_eq!(versions.api_keys.len(), ApiKey::ALL.iter().filter(|api| !api.is_private()).count());
    let unnamed = client.ask(wire::messages::api_versions::ApiVersionsRequest::default());
    assert_eq!(unnamed.error_code, ErrorCode::INVALID_REQUEST);
    assert_eq!(client.api_versions().error_code, ErrorCode::NONE, "the connection goes on");
}

#[test]
fn features_stay_at_their_level_and_a_refusal_is_for_all() {
    let broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    let mut update = |version, updates: &[(&'static str, i16)]| {
        let updates = updates.iter().map(|(feature, level)| FeatureUpdateKey {
            feature: Str::from(*feature),
            max_version_level: *level,
            ..Default::default()
        });
        let request = UpdateFeaturesRequest { feature_updates: updates.collect(), ..Default::default() };
        let answer = client.ask_in(version, request);
        let results = answer.results.iter().map(|one| (one.feature.to_string(), one.error_code));
        (answer.error_code, answer.error_message.unwrap_or_default().to_string(), results.collect::<Vec<_>>())
    };
    let granted = ("group.version".to_string(), ErrorCode::NONE);
    for (version, results) in [(0, vec![granted.clone()]), (1, vec![granted]), (2, vec![])] {
        assert_eq!(update(version, &[("group.version", 1)]), (ErrorCode::NONE, String::new(), results));
        for (updates, reason) in [
            (
                vec![("group.version", 1), ("no.such", 1)],
                "the brokers of this cluster have no feature no.such",
            ),
            (vec![("share.version", 2)], "feature share.version has level 1 in this version, never 2"),
            (vec![("share.version", 0)], "feature share.version has level 1 in this version, never 0"),
        ] {
            let why = format!("no feature is updated: {reason}");
            assert_eq!(update(version, &updates), (ErrorCode::INVALID_UPDATE_VERSION, why, vec![]));
        }
    }
}

#[test]
fn groups_and_subscriptions_to_client_metrics_have_settings_of_their_own() {
    const CLIENT_METRICS: i8 = 16;
    const GROUP: i8 = 32;
    let mut broker = TestBroker::start(&[]);
    let mut client = TestClient::connect(&broker);
    client.create_topic("t", 1);
    let set =
        |client: &mut TestClient, resource, key, value| alter(client, resource, &[(key, 0, value)], false);
    let list = |client: &mut TestClient, version, types: &[i8]| -> Vec<(i8, String)> {
        let request = ListConfigResourcesRequest { resource_types: types.to_vec() };
        let listed = client.ask_in(version, request);
        assert_eq!(listed.error_code, ErrorCode::NONE);
        let named = |found: ConfigResource| (found.resource_type, found.resource_name.to_string());
        listed.config_resources.into_iter().map(named).collect()
    };
    let fine = (ErrorCode::NONE, String::new());
    assert_eq!(set(&mut client, (GROUP, "g"), "consumer.session.timeout.ms", "50000"), fine);
    assert_eq!(set(&mut client, (GROUP, "g"), "share.auto.offset.reset", "by_duration:PT1H"), fine);
    assert_eq!(set(&mut client, (CLIENT_METRICS, "all"), "metrics", "*"), fine);
    assert_eq!(set(&mut client, (CLIENT_METRICS, "all"), "match", "client_id=app-.*"), fine);
    let refused = |(code, why): (ErrorCode, String)| {
        assert!(matches!(code, ErrorCode::INVALID_CONFIG | ErrorCode::INVALID_REQUEST), "{code:?} {why}");
        why
    };
    let why = refused(set(&mut client, (GROUP, "g"), "consumer.session.timeout.ms", "1000"));
    assert!(why.contains("Value must be at least 45000"), "{why}");
    let why = refused(set(&mut client, (GROUP, "g"), "consumer.sesion.timeout.ms", "50000"));
    assert_eq!(
        why,
        "Unknown group config name: consumer.sesion.timeout.ms (did you mean consumer.session.timeout.ms?)"
    );
    let why = refused(set(&mut client, (GROUP, "g"), "share.auto.offset.reset", "by_duration:-PT1H"));
    assert!(why.contains("by_duration"), "{why}");
    let why = refused(set(&mut client, (CLIENT_METRICS, "all"), "match", "client_id=("));
    assert!(why.contains("client_id=( is not a selector"), "{why}");
    assert_eq!(refused(set(&mut client, (GROUP, ""), "a", "b")), "Default group resources are not allowed.");

    broker.restart();
    let mut client = TestClient::connect(&broker);
    let timeout = config(&mut client, GROUP, "g", "consumer.session.timeout.ms");
    assert_eq!((timeout.value.as_deref(), timeout.config_source), (Some("50000"), 8));
    let default = config(&mut client, GROUP, "other", "consumer.session.timeout.ms");
    assert_eq!((default.value.as_deref(), default.config_source), (Some("45000"), 5));
    let metrics = config(&mut client, CLIENT_METRICS, "all", "metrics");
    assert_eq!((metrics.value.as_deref(), metrics.config_source), (Some("*"), 7));
    assert_eq!(list(&mut client, 0, &[]), [(CLIENT_METRICS, "all".to_owned())]);
    assert_eq!(list(&mut client, 1, &[GROUP]), [(GROUP, "g".to_owned())]);
    let all = list(&mut client, 1, &[]);
    for expected in [(TOPIC, "t"), (BROKER, "1"), (8, "1"), (CLIENT_METRICS, "all"), (GROUP, "g")] {
        assert!(all.contains(&(expected.0, expected.1.to_owned())), "{expected:?} in {all:?}");
    }
    let unknown = client.ask(ListConfigResourcesRequest { resource_types: vec![3] });
    assert_eq!(unknown.error_code, ErrorCode::UNSUPPORTED_VERSION);
}
