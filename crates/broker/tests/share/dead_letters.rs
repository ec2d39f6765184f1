//! What groups give up, and where that goes.

use broker::clock::{Clock, SystemClock};
use bytes::Bytes;
use wire::messages::create_topics::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig, CreateTopicsRequest,
};
use wire::messages::incremental_alter_configs::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};
use wire::records::{BatchBuilder, BatchOptions, Batches};
use wire::{ErrorCode, Str};

use crate::member::{
    GROUP, Member, acquired, batch_of, broker, broker_with, configure, coordinator, summary, topic_id,
    try_initialize,
};
use crate::support::{TestClient, TestCluster, wait_until};

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
    let (broker, topic) = broker_with(&["admin.listener=127.0.0.1:0", "num.partitions=1"]);
    let mut client = TestClient::connect(&broker);
    // It exists, and does not take dead letters.
    client.create_topic("dlq.closed", 1);
    // It does, and none fits.
    let tiny = [("errors.deadletterqueue.group.enable", "true"), ("max.message.bytes", "100")];
    client.create_topic_with("dlq.tiny", 1, &tiny);
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
    let (broker, topic) = broker_with(&[
        "admin.listener=127.0.0.1:0",
        "errors.deadletterqueue.auto.create.topics.enable=true",
        "num.partitions=1",
        // More than there are brokers: dead-letter topics cannot be created yet.
        "default.replication.factor=2",
    ]);
    let mut client = TestClient::connect(&broker);
    let name = [("errors.deadletterqueue.topic.name", "dlq.jobs")];
    assert_eq!(configure(&mut client, &name), (ErrorCode::NONE, None));
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
