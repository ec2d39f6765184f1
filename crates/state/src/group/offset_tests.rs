//! Stories of offsets: committing, reading, deleting, expiring.

use expect_test::expect;

use super::GroupConfig;
use super::testing::{check, check_with};

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

fn short_retention() -> GroupConfig {
    GroupConfig { initial_rebalance_delay_ms: 0, offsets_retention_ms: DAY_MS, ..GroupConfig::default() }
}

#[test]
fn a_client_without_membership_commits_and_reads() {
    check(
        "commit t-0=5 epoch=2 note=here t-1=7
         fetch t-0 t-1 t-2 u-0
         fetch
         fetch group=h t-0
         list
         crash
         fetch",
        expect![[r#"
            commit t-0=5 epoch=2 note=here t-1=7
                record g: t-0 = 5
                record g: t-1 = 7
                commit t-0=5 epoch=2 note=here t-1=7 -> t-0 NONE, t-1 NONE
            fetch t-0 t-1 t-2 u-0
                t-0 = 5 epoch 2 "here"
                t-1 = 7 epoch 2 "here"
                t-2 = -1 epoch -1 ""
                u-0 = -1 epoch -1 ""
            fetch
                t-0 = 5 epoch 2 "here"
                t-1 = 7 epoch 2 "here"
            fetch group=h t-0
                t-0 = -1 epoch -1 ""
            list
                g "" Empty classic
            crash
            fetch
                t-0 = 5 epoch 2 "here"
                t-1 = 7 epoch 2 "here"
        "#]],
    );
}

#[test]
fn a_commit_to_a_group_that_is_gone_says_so_in_its_version() {
    check(
        "commit a#1 gen=3 t-0=5 v=9
         commit a#1 gen=3 t-0=5 v=8
         list",
        expect![[r#"
            commit a#1 gen=3 t-0=5 v=9
                commit a#1 gen=3 t-0=5 v=9 -> t-0 GROUP_ID_NOT_FOUND
            commit a#1 gen=3 t-0=5 v=8
                commit a#1 gen=3 t-0=5 v=8 -> t-0 ILLEGAL_GENERATION
            list
        "#]],
    );
}

#[test]
fn metadata_that_is_too_large_refuses_its_partition() {
    let config = GroupConfig { offset_metadata_bytes_max: 4, ..GroupConfig::default() };
    check_with(
        config,
        "commit t-0=5 note=1234
         commit t-0=6 note=12345
         commit t-0=7 note=äöüß
         fetch t-0",
        expect![[r#"
            commit t-0=5 note=1234
                record g: t-0 = 5
                commit t-0=5 note=1234 -> t-0 NONE
            commit t-0=6 note=12345
                commit t-0=6 note=12345 -> t-0 OFFSET_METADATA_TOO_LARGE
            commit t-0=7 note=äöüß
                record g: t-0 = 7
                commit t-0=7 note=äöüß -> t-0 NONE
            fetch t-0
                t-0 = 7 epoch -1 "äöüß"
        "#]],
    );
}

#[test]
fn an_offset_of_a_deleted_topic_is_not_that_of_its_namesake() {
    check(
        "commit t-0=5 topic-id=1
         fetch t-0 topic-id=1
         fetch t-0 topic-id=2
         fetch t-0
         crash
         fetch t-0 topic-id=2",
        expect![[r#"
            commit t-0=5 topic-id=1
                record g: t-0 = 5
                commit t-0=5 topic-id=1 -> t-0 NONE
            fetch t-0 topic-id=1
                t-0 = 5 epoch -1 ""
            fetch t-0 topic-id=2
                t-0 = -1 epoch -1 ""
            fetch t-0
                t-0 = 5 epoch -1 ""
            crash
            fetch t-0 topic-id=2
                t-0 = -1 epoch -1 ""
        "#]],
    );
}

#[test]
fn offsets_of_a_topic_that_members_read_cannot_be_deleted() {
    check_with(
        short_retention(),
        "delete-offsets t-0
         join a v=3 topics=t
         sync a#1 gen=1 a#1=all
         commit a#1 gen=1 t-0=5 u-0=6
         delete-offsets t-0 u-0 u-1
         fetch
         leave a#1
         delete-offsets t-0
         fetch",
        expect![[r#"
            delete-offsets t-0
                delete-offsets t-0 -> GROUP_ID_NOT_FOUND
            join a v=3 topics=t
                record g: empty in generation 0
                join a v=3 topics=t -> a#1 in generation 1, range by a#1 [a#1]
            sync a#1 gen=1 a#1=all
                record g: generation 1 [a#1=all]
                sync a#1 gen=1 a#1=all -> assigned "all"
            commit a#1 gen=1 t-0=5 u-0=6
                record g: t-0 = 5
                record g: u-0 = 6
                commit a#1 gen=1 t-0=5 u-0=6 -> t-0 NONE, u-0 NONE
            delete-offsets t-0 u-0 u-1
                record g: u-0 gone
                delete-offsets t-0 u-0 u-1 -> NONE, t-0 GROUP_SUBSCRIBED_TO_TOPIC, u-0 NONE, u-1 NONE
            fetch
                t-0 = 5 epoch -1 ""
            leave a#1
                record g: empty in generation 2
                leave a#1 -> NONE, a#1 NONE
            delete-offsets t-0
                record g: t-0 gone
                delete-offsets t-0 -> NONE, t-0 NONE
            fetch
        "#]],
    );
}

#[test]
fn a_group_that_does_not_consume_keeps_its_offsets_while_it_lives() {
    check_with(
        short_retention(),
        "join a v=3 type=connect
         sync a#1 gen=1 a#1=all
         commit a#1 gen=1 t-0=5
         delete-offsets t-0
         delete
         leave a#1
         delete
         fetch t-0
         delete
         list",
        expect![[r#"
            join a v=3 type=connect
                record g: empty in generation 0
                join a v=3 type=connect -> a#1 in generation 1, range by a#1 [a#1]
            sync a#1 gen=1 a#1=all
                record g: generation 1 [a#1=all]
                sync a#1 gen=1 a#1=all -> assigned "all"
            commit a#1 gen=1 t-0=5
                record g: t-0 = 5
                commit a#1 gen=1 t-0=5 -> t-0 NONE
            delete-offsets t-0
                delete-offsets t-0 -> NON_EMPTY_GROUP
            delete
                NON_EMPTY_GROUP
            leave a#1
                record g: empty in generation 2
                leave a#1 -> NONE, a#1 NONE
            delete
                NONE
                record g: t-0 gone
                record g: gone
            fetch t-0
                t-0 = -1 epoch -1 ""
            delete
                GROUP_ID_NOT_FOUND
            list
        "#]],
    );
}

#[test]
fn offsets_of_an_empty_group_expire_from_when_it_became_empty() {
    check_with(
        short_retention(),
        "join a v=3 session=1800000
         sync a#1 gen=1 a#1=all
         commit a#1 gen=1 t-0=5
         wait 1700000
         leave a#1
         wait 86399999
         expire
         crash
         expire
         wait 1
         expire
         list",
        expect![[r#"
            join a v=3 session=1800000
                record g: empty in generation 0
                join a v=3 session=1800000 -> a#1 in generation 1, range by a#1 [a#1]
            sync a#1 gen=1 a#1=all
                record g: generation 1 [a#1=all]
                sync a#1 gen=1 a#1=all -> assigned "all"
            commit a#1 gen=1 t-0=5
                record g: t-0 = 5
                commit a#1 gen=1 t-0=5 -> t-0 NONE
            wait 1700000
            leave a#1
                record g: empty in generation 2
                leave a#1 -> NONE, a#1 NONE
            wait 86399999
            expire
            crash
            expire
            wait 1
            expire
                record g: t-0 gone
                record g: gone
            list
        "#]],
    );
}

#[test]
fn a_live_group_loses_only_offsets_of_topics_it_has_left() {
    let config = GroupConfig { offsets_retention_ms: 1_000, ..short_retention() };
    check_with(
        config,
        "join a v=3 topics=t
         sync a#1 gen=1 a#1=all
         commit a#1 gen=1 t-0=5 u-0=6
         wait 1000
         expire
         fetch
         join a#1
         commit a#1 gen=2 u-0=7
         wait 1000
         expire",
        expect![[r#"
            join a v=3 topics=t
                record g: empty in generation 0
                join a v=3 topics=t -> a#1 in generation 1, range by a#1 [a#1]
            sync a#1 gen=1 a#1=all
                record g: generation 1 [a#1=all]
                sync a#1 gen=1 a#1=all -> assigned "all"
            commit a#1 gen=1 t-0=5 u-0=6
                record g: t-0 = 5
                record g: u-0 = 6
                commit a#1 gen=1 t-0=5 u-0=6 -> t-0 NONE, u-0 NONE
            wait 1000
            expire
                record g: u-0 gone
            fetch
                t-0 = 5 epoch -1 ""
            join a#1
                join a#1 -> a#1 in generation 2, range by a#1 [a#1]
            commit a#1 gen=2 u-0=7
                commit a#1 gen=2 u-0=7 -> u-0 REBALANCE_IN_PROGRESS
            wait 1000
            expire
        "#]],
    );
}

#[test]
fn offsets_without_membership_expire_from_their_last_commit() {
    check_with(
        short_retention(),
        "commit t-0=5 t-1=6
         wait 86399999
         commit t-1=7
         wait 1
         expire
         wait 86399999
         expire
         list",
        expect![[r#"
            commit t-0=5 t-1=6
                record g: t-0 = 5
                record g: t-1 = 6
                commit t-0=5 t-1=6 -> t-0 NONE, t-1 NONE
            wait 86399999
            commit t-1=7
                record g: t-1 = 7
                commit t-1=7 -> t-1 NONE
            wait 1
            expire
                record g: t-0 gone
            wait 86399999
            expire
                record g: t-1 gone
                record g: gone
            list
        "#]],
    );
}

#[test]
fn a_retention_of_the_clients_own_is_kept_through_a_crash() {
    check_with(
        short_retention(),
        "commit t-0=5 retention=1000 v=4
         crash
         wait 999
         expire
         wait 1
         expire",
        expect![[r#"
            commit t-0=5 retention=1000 v=4
                record g: t-0 = 5
                commit t-0=5 retention=1000 v=4 -> t-0 NONE
            crash
            wait 999
            expire
            wait 1
            expire
                record g: t-0 gone
                record g: gone
        "#]],
    );
}

#[test]
fn an_expired_offset_is_not_one_that_never_was() {
    let config = GroupConfig { expired_retention_ms: 10 * DAY_MS, ..short_retention() };
    check_with(
        config,
        "commit t-0=5 t-1=6 topic-id=1
         wait 86400000
         expire
         list
         fetch t-0 t-2
         fetch
         traces
         crash
         traces
         traces topic-id=2
         traces group=h
         commit t-0=7
         traces
         wait 863999999
         expire
         traces
         wait 1
         expire
         traces",
        expect![[r#"
            commit t-0=5 t-1=6 topic-id=1
                record g: t-0 = 5
                record g: t-1 = 6
                commit t-0=5 t-1=6 topic-id=1 -> t-0 NONE, t-1 NONE
            wait 86400000
            expire
                record g: t-0 = 5 expired
                record g: t-1 = 6 expired
                record g: gone
            list
            fetch t-0 t-2
                t-0 = -1 epoch -1 ""
                t-2 = -1 epoch -1 ""
            fetch
            traces
                t-0 = 5 until 87400000
                t-1 = 6 until 87400000
            crash
            traces
                t-0 = 5 until 87400000
                t-1 = 6 until 87400000
            traces topic-id=2
            traces group=h
            commit t-0=7
                record g: t-0 = 7
                commit t-0=7 -> t-0 NONE
            traces
                t-1 = 6 until 87400000
            wait 863999999
            expire
                record g: t-0 = 7 expired
                record g: gone
            traces
                t-0 = 7 until 951399999
                t-1 = 6 until 87400000
            wait 1
            expire
                record g: t-1 gone
            traces
                t-0 = 7 until 951399999
        "#]],
    );
}

#[test]
fn who_deletes_an_offset_a_topic_or_a_group_deletes_its_traces() {
    let config = GroupConfig { expired_retention_ms: 10 * DAY_MS, ..short_retention() };
    check_with(
        config,
        "commit t-0=5 u-0=6 v-0=7 w-0=8
         wait 86400000
         expire
         topic-deleted u
         traces
         delete-offsets t-0
         commit x-0=9
         delete-offsets t-0
         traces
         delete
         traces
         list",
        expect![[r#"
            commit t-0=5 u-0=6 v-0=7 w-0=8
                record g: t-0 = 5
                record g: u-0 = 6
                record g: v-0 = 7
                record g: w-0 = 8
                commit t-0=5 u-0=6 v-0=7 w-0=8 -> t-0 NONE, u-0 NONE, v-0 NONE, w-0 NONE
            wait 86400000
            expire
                record g: t-0 = 5 expired
                record g: u-0 = 6 expired
                record g: v-0 = 7 expired
                record g: w-0 = 8 expired
                record g: gone
            topic-deleted u
                record g: u-0 gone
            traces
                t-0 = 5 until 87400000
                v-0 = 7 until 87400000
                w-0 = 8 until 87400000
            delete-offsets t-0
                delete-offsets t-0 -> GROUP_ID_NOT_FOUND
            commit x-0=9
                record g: x-0 = 9
                commit x-0=9 -> x-0 NONE
            delete-offsets t-0
                record g: t-0 gone
                delete-offsets t-0 -> NONE, t-0 NONE
            traces
                v-0 = 7 until 87400000
                w-0 = 8 until 87400000
            delete
                NONE
                record g: x-0 gone
                record g: v-0 gone
                record g: w-0 gone
                record g: gone
            traces
            list
        "#]],
    );
}

#[test]
fn a_commit_of_nothing_leaves_no_trace() {
    let config = GroupConfig { expired_retention_ms: 10 * DAY_MS, ..short_retention() };
    check_with(
        config,
        "commit t-0=5
         wait 86400000
         expire
         commit t-0=-1
         traces
         fetch
         wait 86400000
         expire
         traces",
        expect![[r#"
            commit t-0=5
                record g: t-0 = 5
                commit t-0=5 -> t-0 NONE
            wait 86400000
            expire
                record g: t-0 = 5 expired
                record g: gone
            commit t-0=-1
                record g: t-0 = -1
                commit t-0=-1 -> t-0 NONE
            traces
            fetch
                t-0 = -1 epoch -1 ""
            wait 86400000
            expire
                record g: t-0 gone
                record g: gone
            traces
        "#]],
    );
}

#[test]
fn a_transaction_takes_the_place_of_a_trace_and_outlives_its_end() {
    use super::{CommittedOffset, Replayed, records::Event};
    use wire::{LeaderEpoch, Offset, PartitionId, ProducerId, Str, Uuid};

    let config = GroupConfig { expired_retention_ms: 10, ..short_retention() };
    let mut world = super::testing::World::new(config);
    world.run("commit t-0=5");
    world.now = world.now.plus(DAY_MS);
    world.run("expire");
    assert_eq!(world.run("traces"), ["t-0 = 5 until 87400000"]);
    let committed = CommittedOffset {
        offset: Offset(9),
        leader_epoch: LeaderEpoch::NONE,
        metadata: Str::default(),
        committed_at: world.now,
        expires_at: None,
        topic_id: Uuid::ZERO,
    };
    let (group, topic, partition) = (Str::from("g"), Str::from("t"), PartitionId(0));
    let record = Event::OffsetCommitted { group, topic, partition, committed }.encode();
    let producer = ProducerId(1);
    let in_transaction =
        Replayed::InTransaction { producer, key: &record.key, value: record.value.as_deref() };
    world.groups.load(in_transaction).unwrap();
    let outcome = world.groups.expire_offsets(world.now.plus(10));
    assert!(outcome.records.is_empty(), "a tombstone now would end what the transaction commits");
    world.groups.load(Replayed::Ended { producer, commit: true }).unwrap();
    assert_eq!(world.groups.expired_offsets("g", |_| None), []);
    let now = world.groups.committed_offset("g", "t", partition).map(|committed| committed.offset);
    assert_eq!(now, Some(Offset(9)));
}

/// Every state that a group with members can be in, and every kind of group: however long it lasts, nothing expires that is read.
#[test]
fn offsets_of_a_live_group_never_expire() {
    let ways = [
        // A stable group of consumers.
        "join a v=3 topics=t session=1800000
         sync a#1 gen=1 a#1=all
         commit a#1 gen=1 t-0=5",
        // One that waits for its leader's assignment.
        "commit t-0=5
         join a v=3 topics=t session=1800000",
        // One that waits for a member to join again.
        "join a v=3 topics=t session=1800000
         sync a#1 gen=1 a#1=all
         commit a#1 gen=1 t-0=5
         join b v=3 topics=t",
        // A static member that comes and goes.
        "join a v=5 topics=t instance=i session=1800000
         sync i#1 gen=1 instance=i i#1=all
         commit i#1 gen=1 instance=i t-0=5
         join a v=5 topics=t instance=i session=1800000",
        // Another protocol than the consumers': what it reads is not known, so nothing expires.
        "join a v=3 type=connect session=1800000
         sync a#1 gen=1 a#1=all
         commit a#1 gen=1 t-0=5",
    ];
    for way in ways {
        let mut world =
            super::testing::World::new(GroupConfig { offsets_retention_ms: 1_000, ..short_retention() });
        for line in way.lines().map(str::trim) {
            world.run(line);
        }
        world.now = world.now.plus(1_000_000);
        assert_eq!(world.run("expire"), [""; 0], "{way}");
        assert_eq!(world.run("fetch"), [r#"t-0 = 5 epoch -1 """#], "{way}");
    }
}

#[test]
fn a_member_id_that_was_handed_out_keeps_its_group() {
    check(
        "join a
         expire
         join a#1
         leave a#1
         wait 3000
         expire",
        expect![[r#"
            join a
                record g: empty in generation 0
                join a -> MEMBER_ID_REQUIRED a#1
            expire
            join a#1
            leave a#1
                join a#1 -> UNKNOWN_MEMBER_ID ""
                leave a#1 -> NONE, a#1 NONE
            wait 3000
                record g: empty in generation 1
            expire
                record g: gone
        "#]],
    );
}

#[test]
fn a_deleted_topic_takes_the_offsets_of_all_groups() {
    check(
        "commit t-0=5 u-0=6
         commit t-1=7 group=h
         topic-deleted t
         fetch
         fetch group=h",
        expect![[r#"
            commit t-0=5 u-0=6
                record g: t-0 = 5
                record g: u-0 = 6
                commit t-0=5 u-0=6 -> t-0 NONE, u-0 NONE
            commit t-1=7 group=h
                record h: t-1 = 7
                commit t-1=7 group=h -> t-1 NONE
            topic-deleted t
                record g: t-0 gone
                record h: t-1 gone
            fetch
                u-0 = 6 epoch -1 ""
            fetch group=h
        "#]],
    );
}

#[test]
fn groups_are_listed_by_state_and_type() {
    check_with(
        short_retention(),
        "commit t-0=5
         join a v=3 group=h
         list
         list states=empty
         list states=completingrebalance,stable
         list types=Classic states=Empty
         list types=consumer
         list states=unheard-of
         describe group=nobody
         delete group=nobody
         delete group=h",
        expect![[r#"
            commit t-0=5
                record g: t-0 = 5
                commit t-0=5 -> t-0 NONE
            join a v=3 group=h
                record h: empty in generation 0
                join a v=3 group=h -> a#1 in generation 1, range by a#1 [a#1]
            list
                g "" Empty classic
                h "consumer" CompletingRebalance classic
            list states=empty
                g "" Empty classic
            list states=completingrebalance,stable
                h "consumer" CompletingRebalance classic
            list types=Classic states=Empty
                g "" Empty classic
            list types=consumer
            list states=unheard-of
            describe group=nobody
                GROUP_ID_NOT_FOUND Dead []
            delete group=nobody
                GROUP_ID_NOT_FOUND
            delete group=h
                NON_EMPTY_GROUP
        "#]],
    );
}
