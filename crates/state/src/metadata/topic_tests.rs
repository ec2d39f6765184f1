//! Stories of topics: creating, growing, deleting.

use expect_test::{Expect, expect};
use wire::{BrokerId, PartitionId, Str, Uuid};

use super::testing::{Rules, broker, cluster, commit, ids, register, tell, tell_refusal};
use super::{CreatePartitions, CreateTopic, DeleteTopic, Image, Mode, TopicDefaults};

const DEFAULTS: TopicDefaults = TopicDefaults { num_partitions: 2, replication_factor: 1 };

fn topic(name: &str) -> CreateTopic {
    CreateTopic {
        name: Str::copy_from(name),
        num_partitions: -1,
        replication_factor: -1,
        ..CreateTopic::default()
    }
}

fn sized(name: &str, num_partitions: i32, replication_factor: i16) -> CreateTopic {
    CreateTopic { num_partitions, replication_factor, ..topic(name) }
}

fn assigned(name: &str, assignments: &[(i32, &[i32])]) -> CreateTopic {
    let replicas = |ids: &[i32]| ids.iter().copied().map(BrokerId).collect();
    let assignments = assignments.iter().map(|(id, brokers)| (PartitionId(*id), replicas(brokers))).collect();
    CreateTopic { assignments, ..topic(name) }
}

fn configured(name: &str, configs: &[(&str, Option<&str>)]) -> CreateTopic {
    let configs = configs.iter().map(|(key, value)| (Str::copy_from(key), value.map(Str::copy_from)));
    CreateTopic { configs: configs.collect(), ..topic(name) }
}

fn create(image: &mut Image, topics: &[CreateTopic], mode: Mode) -> String {
    let decision = image.create_topics(topics, mode, DEFAULTS, &Rules, 0, &mut ids());
    let mut told = String::new();
    for (name, created) in commit(image, decision) {
        told += &match created {
            Ok(topic) => format!("{name}: {} x {}\n", topic.num_partitions, topic.replication_factor),
            Err(refusal) => format!("{:.20}: {}\n", &*name, tell_refusal(&refusal)),
        };
    }
    told
}

fn check(brokers: i32, topics: &[CreateTopic], expected: Expect) {
    let mut image = cluster(brokers);
    let told = create(&mut image, topics, Mode::Apply);
    expected.assert_eq(&format!("{told}--\n{}", tell(&image)));
}

#[test]
fn partitions_and_replicas_go_round_the_brokers() {
    check(
        3,
        &[topic("defaults"), sized("a", 4, 2), sized("b", 1, 3)],
        expect![[r#"
            defaults: 2 x 1
            a: 4 x 2
            b: 1 x 3
            --
            a 0:1,2@1 1:2,3@2 2:3,1@3 3:1,3@1
            b 0:1,2,3@1
            defaults 0:1@1 1:2@2
        "#]],
    );
}

#[test]
fn a_topic_needs_a_name_that_is_free() {
    let long = "x".repeat(250);
    let names = ["", ".", "..", &long, "a/b", "ü", "ok", "my.topic", "my_topic", "__cluster_metadata"];
    let topics: Vec<CreateTopic> = names.into_iter().map(topic).collect();
    check(
        1,
        &topics,
        expect![[r#"
        : INVALID_TOPIC_EXCEPTION: Topic name is invalid: the empty string is not allowed
        .: INVALID_TOPIC_EXCEPTION: Topic name is invalid: '.' is not allowed
        ..: INVALID_TOPIC_EXCEPTION: Topic name is invalid: '..' is not allowed
        xxxxxxxxxxxxxxxxxxxx: INVALID_TOPIC_EXCEPTION: Topic name is invalid: its length of 250 is longer than the max allowed length 249
        a/b: INVALID_TOPIC_EXCEPTION: Topic name is invalid: 'a/b' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'
        ü: INVALID_TOPIC_EXCEPTION: Topic name is invalid: 'ü' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'
        ok: 2 x 1
        my.topic: 2 x 1
        my_topic: INVALID_TOPIC_EXCEPTION: Topic 'my_topic' collides with existing topic: my.topic
        __cluster_metadata: INVALID_REQUEST: Creation of internal topic __cluster_metadata is prohibited.
        --
        my.topic 0:1@1 1:1@1
        ok 0:1@1 1:1@1
    "#]],
    );
}

#[test]
fn a_name_is_free_again_once_its_topic_is_deleted() {
    let mut image = cluster(1);
    create(&mut image, &[topic("my.topic")], Mode::Apply);
    let mut told = create(
        &mut image,
        &[topic("my.topic"), topic("my_topic"), topic("twice"), topic("twice")],
        Mode::Apply,
    );
    let deletion = image.delete_topics(&[DeleteTopic::Name(Str::from("my.topic"))]);
    assert_eq!(commit(&mut image, deletion).len(), 1);
    told += &create(&mut image, &[topic("my_topic")], Mode::Apply);
    expect![[r#"
        my.topic: TOPIC_ALREADY_EXISTS: Topic 'my.topic' already exists.
        my_topic: INVALID_TOPIC_EXCEPTION: Topic 'my_topic' collides with existing topic: my.topic
        twice: INVALID_REQUEST: Duplicate topic name.
        my_topic: 2 x 1
    "#]]
    .assert_eq(&told);
}

#[test]
fn numbers_are_checked_before_anything_is_made_of_them() {
    let topics = [
        sized("none", 0, 1),
        sized("less", -2, 1),
        sized("huge", i32::MAX, 1),
        sized("no-replica", 1, 0),
        sized("too-many-replicas", 1, 2),
        sized("fits", 9_999, 1),
        sized("does-not-fit", 2, 1),
    ];
    let mut image = cluster(1);
    let told = create(&mut image, &topics, Mode::Apply);
    expect![[r#"
        none: INVALID_PARTITIONS: Number of partitions was set to an invalid non-positive value.
        less: INVALID_PARTITIONS: Number of partitions was set to an invalid non-positive value.
        huge: POLICY_VIOLATION: Unable to perform excessively large batch operation: 2147483647 partitions, at most 10000 are allowed.
        no-replica: INVALID_REPLICATION_FACTOR: Replication factor must be larger than 0, or -1 to use the default value.
        too-many-replicas: INVALID_REPLICATION_FACTOR: Unable to replicate the partition 2 time(s): The target replication factor of 2 cannot be reached because only 1 broker(s) are registered.
        fits: 9999 x 1
        does-not-fit: POLICY_VIOLATION: Unable to perform excessively large batch operation: 2 partitions, at most 10000 are allowed.
    "#]].assert_eq(&told);
    assert_eq!(image.partition_count(), 9_999);
}

#[test]
fn chosen_replicas_are_taken_as_they_are_if_they_make_sense() {
    let topics = [
        assigned("good", &[(1, &[2, 1]), (0, &[1, 2])]),
        assigned("gap", &[(0, &[1]), (2, &[1])]),
        assigned("repeated", &[(0, &[1]), (0, &[2])]),
        assigned("unknown", &[(0, &[7])]),
        assigned("same", &[(0, &[1, 1])]),
        assigned("uneven", &[(0, &[1]), (1, &[1, 2])]),
        assigned("empty", &[(0, &[])]),
        CreateTopic { num_partitions: 1, ..assigned("both", &[(0, &[1])]) },
        CreateTopic { replication_factor: 1, ..assigned("both-too", &[(0, &[1])]) },
    ];
    check(
        2,
        &topics,
        expect![[r#"
        good: 2 x 2
        gap: INVALID_REPLICA_ASSIGNMENT: partitions should be a consecutive 0-based integer sequence
        repeated: INVALID_REPLICA_ASSIGNMENT: Found multiple manual partition assignments for partition 0
        unknown: INVALID_REPLICA_ASSIGNMENT: The manual partition assignment includes broker 7, but no such broker is registered.
        same: INVALID_REPLICA_ASSIGNMENT: The manual partition assignment includes the broker 1 more than once.
        uneven: INVALID_REPLICA_ASSIGNMENT: The manual partition assignment includes a partition with 2 replica(s), but this is not consistent with previous partitions, which have 1 replica(s).
        empty: INVALID_REPLICA_ASSIGNMENT: The manual partition assignment includes an empty replica list.
        both: INVALID_REQUEST: A manual partition assignment was specified, but numPartitions was not set to -1.
        both-too: INVALID_REQUEST: A manual partition assignment was specified, but replication factor was not set to -1.
        --
        good 0:1,2@1 1:2,1@2
    "#]],
    );
}

#[test]
fn configs_are_checked_and_go_with_the_topic() {
    let topics = [
        configured("kept", &[("retention.ms", Some("5")), ("cleanup.policy", Some("compact"))]),
        configured("null", &[("retention.ms", None)]),
        configured("unknown", &[("retention.mss", Some("5"))]),
        configured("wrong", &[("retention.ms", Some("five"))]),
    ];
    check(
        1,
        &topics,
        expect![[r#"
        kept: 2 x 1
        null: INVALID_CONFIG: Null value not supported for topic configs: retention.ms
        unknown: INVALID_CONFIG: Unknown topic config name: retention.mss
        wrong: INVALID_CONFIG: Invalid value five for configuration retention.ms: not a number
        --
        kept 0:1@1 1:1@1
        Topic "kept" cleanup.policy=compact retention.ms=5
    "#]],
    );
}

#[test]
fn a_fenced_broker_gets_no_replicas_and_leads_nothing() {
    let mut image = cluster(2);
    let mut fenced = broker(3);
    fenced.fenced = true;
    register(&mut image, &fenced);
    let mut told =
        create(&mut image, &[sized("placed", 3, 2), assigned("chosen", &[(0, &[3, 1])])], Mode::Apply);
    told += &create(&mut image, &[assigned("lost", &[(0, &[3])])], Mode::Apply);
    expect![[r#"
        placed: 3 x 2
        chosen: 1 x 2
        lost: INVALID_REPLICA_ASSIGNMENT: All brokers specified in the manual partition assignment for partition 0 are fenced or in controlled shutdown.
        --
        chosen 0:3,1@1
        placed 0:1,2@1 1:2,1@2 2:1,2@1
    "#]].assert_eq(&format!("{told}--\n{}", tell(&image)));
}

#[test]
fn validating_changes_nothing_but_answers_the_same() {
    let mut image = cluster(1);
    let before = image.clone();
    let told = create(&mut image, &[topic("a"), topic("a.b"), topic("a_b")], Mode::ValidateOnly);
    assert_eq!(image, before);
    expect![[r#"
        a: 2 x 1
        a.b: 2 x 1
        a_b: INVALID_TOPIC_EXCEPTION: Topic 'a_b' collides with existing topic: a.b
    "#]]
    .assert_eq(&told);
}

#[test]
fn a_topic_grows_and_never_shrinks() {
    let mut image = cluster(2);
    create(&mut image, &[sized("a", 2, 1)], Mode::Apply);
    let grow = |name: &str, count, assignments: Option<&[i32]>| CreatePartitions {
        name: Str::copy_from(name),
        count,
        assignments: assignments.map(|ids| ids.iter().map(|id| vec![BrokerId(*id)]).collect()),
    };
    let mut told = String::new();
    for command in [
        grow("a", 2, None),
        grow("a", 1, None),
        grow("a", -1, None),
        grow("a", i32::MAX, None),
        grow("b", 2, None),
        grow("a", 4, Some(&[2])),
        grow("a", 3, Some(&[7])),
        grow("a", 3, Some(&[2])),
        grow("a", 4, None),
    ] {
        let decision = image.create_partitions(&[command], Mode::Apply, 0);
        for (name, grown) in commit(&mut image, decision) {
            told += &format!(
                "{name}: {}\n",
                grown.map_or_else(|refusal| tell_refusal(&refusal), |()| "ok".to_owned())
            );
        }
    }
    expect![[r#"
        a: INVALID_PARTITIONS: Topic already has 2 partition(s).
        a: INVALID_PARTITIONS: The topic a currently has 2 partition(s); 1 would not be an increase.
        a: INVALID_PARTITIONS: The topic a currently has 2 partition(s); -1 would not be an increase.
        a: POLICY_VIOLATION: Unable to perform excessively large batch operation: 2147483645 partitions, at most 10000 are allowed.
        b: UNKNOWN_TOPIC_OR_PARTITION: This server does not host this topic-partition.
        a: INVALID_REPLICA_ASSIGNMENT: Attempted to add 2 additional partition(s), but only 1 assignment(s) were specified.
        a: INVALID_REPLICA_ASSIGNMENT: The manual partition assignment includes broker 7, but no such broker is registered.
        a: ok
        a: ok
        --
        a 0:1@1 1:2@2 2:2@2 3:2@2
    "#]].assert_eq(&format!("{told}--\n{}", tell(&image)));
}

#[test]
fn topics_are_deleted_by_name_or_by_id_and_take_their_configs_with_them() {
    let mut image = cluster(1);
    let topics = [configured("a", &[("retention.ms", Some("5"))]), topic("b"), topic("c")];
    create(&mut image, &topics, Mode::Apply);
    let name = |name: &str| DeleteTopic::Name(Str::copy_from(name));
    let (a, b) = (image.topic("a").unwrap().id, image.topic("b").unwrap().id);
    let commands = [
        DeleteTopic::Id(a),
        name("b"),
        DeleteTopic::Id(b),
        name("d"),
        DeleteTopic::Id(Uuid::from_u128(77)),
        name("c"),
        name("c"),
    ];
    let decision = image.delete_topics(&commands);
    let mut told = String::new();
    for (command, deleted) in commit(&mut image, decision) {
        let deleted = deleted
            .map_or_else(|refusal| tell_refusal(&refusal), |deleted| format!("{} is gone", deleted.name));
        told += &format!("{command:?}: {deleted}\n");
    }
    expect![[r#"
        Id(AAAAAAAAAAAAAAAAAAAAAQ): a is gone
        Name("b"): b is gone
        Id(AAAAAAAAAAAAAAAAAAAAAg): UNKNOWN_TOPIC_ID: This server does not host this topic ID.
        Name("d"): UNKNOWN_TOPIC_OR_PARTITION: This server does not host this topic-partition.
        Id(AAAAAAAAAAAAAAAAAAAATQ): UNKNOWN_TOPIC_ID: This server does not host this topic ID.
        Name("c"): INVALID_REQUEST: Duplicate topic name.
        --
        c 0:1@1 1:1@1
    "#]]
    .assert_eq(&format!("{told}--\n{}", tell(&image)));
}
