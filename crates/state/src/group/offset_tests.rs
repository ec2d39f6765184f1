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
