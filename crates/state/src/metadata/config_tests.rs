//! Stories of settings, brokers and producer ids.

use expect_test::{Expect, expect};
use wire::{BrokerId, ProducerId, Str, Uuid};

use super::testing::{Rules, broker, cluster, commit, ids, register, tell, tell_refusal};
use super::{
    AlterConfigs, ConfigOp, ConfigResource, CreateTopic, Image, Mode, Refusal, ReplaceConfigs, TopicDefaults,
};

/// A broker and a topic `t` that keeps records for five milliseconds.
fn image() -> Image {
    let mut image = cluster(1);
    let topic = CreateTopic {
        name: Str::from("t"),
        num_partitions: 1,
        replication_factor: 1,
        configs: vec![(Str::from("retention.ms"), Some(Str::from("5")))],
        ..CreateTopic::default()
    };
    let defaults = TopicDefaults { num_partitions: 1, replication_factor: 1 };
    let decision = image.create_topics(&[topic], Mode::Apply, defaults, &Rules, 0, &mut ids());
    commit(&mut image, decision);
    image
}

fn topic() -> ConfigResource {
    ConfigResource::topic(Str::from("t"))
}

fn alter(resource: ConfigResource, ops: &[(&str, ConfigOp)]) -> AlterConfigs {
    AlterConfigs { resource, ops: ops.iter().map(|(key, op)| (Str::copy_from(key), op.clone())).collect() }
}

fn set(value: &str) -> ConfigOp {
    ConfigOp::Set(Str::copy_from(value))
}

fn check(changes: &[AlterConfigs], expected: Expect) {
    let mut image = image();
    let decision = image.alter_configs(changes, Mode::Apply, &Rules);
    expected.assert_eq(&answers(&mut image, decision));
}

fn answers(image: &mut Image, decision: super::Decision<Vec<Result<(), Refusal>>>) -> String {
    let records = decision.records.len();
    let answers = commit(image, decision).into_iter();
    let answers = answers
        .map(|answer| answer.map_or_else(|refusal| tell_refusal(&refusal), |()| "ok".to_owned()) + "\n");
    format!("{}{records} records\n{}", answers.collect::<String>(), tell(image))
}

#[test]
fn keys_change_one_by_one_and_only_when_they_differ() {
    check(
        &[
            alter(topic(), &[("retention.ms", set("5")), ("cleanup.policy", set("compact"))]),
            alter(ConfigResource::cluster_default(), &[("retention.ms", set("7"))]),
            alter(ConfigResource::broker(BrokerId(1)), &[("retention.ms", ConfigOp::Delete)]),
        ],
        expect![[r#"
            ok
            ok
            ok
            2 records
            t 0:1@1
            Topic "t" cleanup.policy=compact retention.ms=5
            Broker "" retention.ms=7
        "#]],
    );
}

#[test]
fn lists_are_added_to_and_taken_from_starting_at_their_default() {
    let append = |value: &str| ConfigOp::Append(Str::copy_from(value));
    check(
        &[alter(topic(), &[("cleanup.policy", append("compact,delete"))])],
        expect![[r#"
        ok
        1 records
        t 0:1@1
        Topic "t" cleanup.policy=delete,compact retention.ms=5
    "#]],
    );
    check(
        &[alter(topic(), &[("cleanup.policy", ConfigOp::Subtract(Str::from("delete")))])],
        expect![[r#"
        ok
        1 records
        t 0:1@1
        Topic "t" cleanup.policy= retention.ms=5
    "#]],
    );
    check(
        &[alter(topic(), &[("retention.ms", append("6"))])],
        expect![[r#"
        INVALID_CONFIG: Can't APPEND to key retention.ms because its type is not LIST.
        0 records
        t 0:1@1
        Topic "t" retention.ms=5
    "#]],
    );
}

#[test]
fn a_resource_changes_as_a_whole_or_not_at_all() {
    check(
        &[
            alter(topic(), &[("cleanup.policy", set("compact")), ("retention.ms", set("five"))]),
            alter(ConfigResource::topic(Str::from("nothing")), &[("retention.ms", set("5"))]),
            alter(ConfigResource::broker(BrokerId(7)), &[("retention.ms", set("5"))]),
            alter(
                ConfigResource { name: Str::from("seven"), ..ConfigResource::cluster_default() },
                &[("retention.ms", set("5"))],
            ),
            alter(
                ConfigResource::cluster_default(),
                &[("retention.ms", set("5")), ("retention.ms", set("6"))],
            ),
        ],
        expect![[r#"
            INVALID_CONFIG: Invalid value five for configuration retention.ms: not a number
            UNKNOWN_TOPIC_OR_PARTITION: The topic 'nothing' does not exist.
            BROKER_ID_NOT_REGISTERED: No broker with id 7 found.
            INVALID_REQUEST: Node id must be an integer, but it is: seven
            INVALID_REQUEST: Error due to duplicate config keys
            0 records
            t 0:1@1
            Topic "t" retention.ms=5
        "#]],
    );
    check(
        &[alter(topic(), &[]), alter(topic(), &[])],
        expect![[r#"
        INVALID_REQUEST: Each resource must appear at most once.
        INVALID_REQUEST: Each resource must appear at most once.
        0 records
        t 0:1@1
        Topic "t" retention.ms=5
    "#]],
    );
}

#[test]
fn the_older_request_unsets_what_it_does_not_name() {
    let mut image = image();
    let change = ReplaceConfigs {
        resource: topic(),
        values: vec![(Str::from("cleanup.policy"), Str::from("compact"))],
    };
    let decision = image.replace_configs(std::slice::from_ref(&change), Mode::ValidateOnly, &Rules);
    assert_eq!(decision.records, []);
    let decision = image.replace_configs(&[change], Mode::Apply, &Rules);
    expect![[r#"
        ok
        2 records
        t 0:1@1
        Topic "t" cleanup.policy=compact
    "#]]
    .assert_eq(&answers(&mut image, decision));
}

#[test]
fn operations_come_as_numbers() {
    let value = || Some(Str::from("v"));
    assert_eq!(ConfigOp::from_wire(0, "k", value()), Ok(set("v")));
    assert_eq!(ConfigOp::from_wire(1, "k", None), Ok(ConfigOp::Delete));
    let refused = [ConfigOp::from_wire(2, "k", None), ConfigOp::from_wire(9, "k", value())];
    let refused: Vec<String> = refused.into_iter().map(|op| tell_refusal(&op.unwrap_err())).collect();
    expect![[r#"
        INVALID_REQUEST: Null value not supported for : k
        INVALID_REQUEST: Unknown operation type 9"#]]
    .assert_eq(&refused.join("\n"));
}

#[test]
fn a_broker_that_starts_again_gets_a_new_epoch_and_its_former_self_is_refused() {
    let mut image = cluster(2);
    let first = image.broker(BrokerId(1)).unwrap().epoch;
    let again = image.register_broker(&broker(1), 3, true, &Rules).unwrap();
    assert_eq!((again.reply.epoch, again.records.len()), (first, 0), "the same incarnation repeats itself");
    let mut restarted = broker(1);
    restarted.incarnation_id = Uuid::from_u128(99);
    let second = register(&mut image, &restarted);
    assert!(second > first);

    let stale = image.allocate_producer_ids(BrokerId(1), first).unwrap_err();
    let unknown = image.allocate_producer_ids(BrokerId(9), second).unwrap_err();
    expect![[r#"
        STALE_BROKER_EPOCH: Expected broker epoch 3, but got broker epoch 1
        BROKER_ID_NOT_REGISTERED: No broker with id 9 found."#]]
    .assert_eq(&[stale, unknown].map(|refusal| tell_refusal(&refusal)).join("\n"));

    let block = image.allocate_producer_ids(BrokerId(1), second).unwrap();
    let block = commit(&mut image, block);
    assert_eq!((block.first, block.count), (ProducerId(0), 1_000));
    assert_eq!(image.next_producer_id(), ProducerId(1_000));
}

#[test]
fn a_broker_must_know_the_finalized_features() {
    let mut image = cluster(1);
    let decision = image.set_feature("metadata.version", 29);
    commit(&mut image, decision);
    assert_eq!(image.set_feature("metadata.version", 29).records, []);
    assert!(image.register_broker(&broker(2), 2, false, &Rules).is_ok());
    let mut old = broker(2);
    old.features[0].max = 28;
    expect!["INVALID_REQUEST: Unable to register because the broker does not support finalized version 29 of metadata.version."].assert_eq(&tell_refusal(&image.register_broker(&old, 2, false, &Rules).unwrap_err()));
}
