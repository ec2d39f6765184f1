//! Stories of members: joining, rebalancing, restarting, failing.

use expect_test::expect;

use super::GroupConfig;
use super::testing::{check, check_with};

fn without_delay() -> GroupConfig {
    GroupConfig { initial_rebalance_delay_ms: 0, ..GroupConfig::default() }
}

#[test]
fn a_first_member_waits_for_company_and_no_longer() {
    check(
        "join a
         join a#1
         wait 2999
         wait 1
         sync a#1 gen=1 a#1=all
         heartbeat a#1 gen=1
         describe",
        expect![[r#"
            join a
                record g: empty in generation 0
                join a -> MEMBER_ID_REQUIRED a#1
            join a#1
            wait 2999
            wait 1
                join a#1 -> a#1 in generation 1, range by a#1 [a#1]
            sync a#1 gen=1 a#1=all
                record g: generation 1 [a#1=all]
                sync a#1 gen=1 a#1=all -> assigned "all"
            heartbeat a#1 gen=1
                heartbeat a#1 gen=1 -> NONE
            describe
                NONE Stable consumer range [a#1=all]
        "#]],
    );
}

#[test]
fn members_that_keep_coming_prolong_the_initial_delay() {
    check(
        "join a v=3
         wait 2000
         join b v=3
         wait 1000
         wait 2999
         wait 1",
        expect![[r#"
            join a v=3
                record g: empty in generation 0
            wait 2000
            join b v=3
            wait 1000
            wait 2999
            wait 1
                join a v=3 -> a#1 in generation 1, range by a#1 [a#1 b#2]
                join b v=3 -> b#2 in generation 1, range by a#1 []
        "#]],
    );
}

#[test]
fn the_initial_delay_ends_with_the_rebalance_timeout() {
    check(
        "join a v=3 rebalance=4000
         wait 2000
         join b v=3 rebalance=4000
         wait 1000
         join c v=3 rebalance=4000
         wait 1000",
        expect![[r#"
            join a v=3 rebalance=4000
                record g: empty in generation 0
            wait 2000
            join b v=3 rebalance=4000
            wait 1000
            join c v=3 rebalance=4000
            wait 1000
                join a v=3 rebalance=4000 -> a#1 in generation 1, range by a#1 [a#1 b#2 c#3]
                join b v=3 rebalance=4000 -> b#2 in generation 1, range by a#1 []
                join c v=3 rebalance=4000 -> c#3 in generation 1, range by a#1 []
        "#]],
    );
}

#[test]
fn without_initial_delay_a_join_is_answered_at_once() {
    check_with(
        without_delay(),
        "join a v=3
         sync a#1 gen=1 a#1=all",
        expect![[r#"
            join a v=3
                record g: empty in generation 0
                join a v=3 -> a#1 in generation 1, range by a#1 [a#1]
            sync a#1 gen=1 a#1=all
                record g: generation 1 [a#1=all]
                sync a#1 gen=1 a#1=all -> assigned "all"
        "#]],
    );
}

#[test]
fn a_member_id_that_was_handed_out_expires_unused() {
    check_with(
        without_delay(),
        "join a session=6000
         wait 6000
         join a#1 session=6000",
        expect![[r#"
            join a session=6000
                record g: empty in generation 0
                join a session=6000 -> MEMBER_ID_REQUIRED a#1
            wait 6000
            join a#1 session=6000
                join a#1 session=6000 -> UNKNOWN_MEMBER_ID a#1
        "#]],
    );
}

#[test]
fn a_cooperative_rebalance_of_two_members() {
    check_with(
        without_delay(),
        "join a protocols=cooperative-sticky
         join a#1 protocols=cooperative-sticky
         sync a#1 gen=1 a#1=0,1
         join b protocols=cooperative-sticky
         join b#2 protocols=cooperative-sticky
         heartbeat a#1 gen=1
         commit a#1 gen=1 t-0=5
         join a#1 protocols=cooperative-sticky
         sync b#2 gen=2
         sync a#1 gen=2 a#1=0
         join a#1 protocols=cooperative-sticky
         heartbeat b#2 gen=2
         join b#2 protocols=cooperative-sticky
         sync a#1 gen=3 a#1=0 b#2=1
         sync b#2 gen=3
         describe",
        expect![[r#"
            join a protocols=cooperative-sticky
                record g: empty in generation 0
                join a protocols=cooperative-sticky -> MEMBER_ID_REQUIRED a#1
            join a#1 protocols=cooperative-sticky
                join a#1 protocols=cooperative-sticky -> a#1 in generation 1, cooperative-sticky by a#1 [a#1]
            sync a#1 gen=1 a#1=0,1
                record g: generation 1 [a#1=0,1]
                sync a#1 gen=1 a#1=0,1 -> assigned "0,1"
            join b protocols=cooperative-sticky
                join b protocols=cooperative-sticky -> MEMBER_ID_REQUIRED b#2
            join b#2 protocols=cooperative-sticky
            heartbeat a#1 gen=1
                heartbeat a#1 gen=1 -> REBALANCE_IN_PROGRESS
            commit a#1 gen=1 t-0=5
                record g: t-0 = 5
                commit a#1 gen=1 t-0=5 -> t-0 NONE
            join a#1 protocols=cooperative-sticky
                join a#1 protocols=cooperative-sticky -> a#1 in generation 2, cooperative-sticky by a#1 [a#1 b#2]
                join b#2 protocols=cooperative-sticky -> b#2 in generation 2, cooperative-sticky by a#1 []
            sync b#2 gen=2
            sync a#1 gen=2 a#1=0
                record g: generation 2 [a#1=0 b#2=]
                sync a#1 gen=2 a#1=0 -> assigned "0"
                sync b#2 gen=2 -> assigned ""
            join a#1 protocols=cooperative-sticky
            heartbeat b#2 gen=2
                heartbeat b#2 gen=2 -> REBALANCE_IN_PROGRESS
            join b#2 protocols=cooperative-sticky
                join a#1 protocols=cooperative-sticky -> a#1 in generation 3, cooperative-sticky by a#1 [a#1 b#2]
                join b#2 protocols=cooperative-sticky -> b#2 in generation 3, cooperative-sticky by a#1 []
            sync a#1 gen=3 a#1=0 b#2=1
                record g: generation 3 [a#1=0 b#2=1]
                sync a#1 gen=3 a#1=0 b#2=1 -> assigned "0"
            sync b#2 gen=3
                sync b#2 gen=3 -> assigned "1"
            describe
                NONE Stable consumer cooperative-sticky [a#1=0 b#2=1]
        "#]],
    );
}

#[test]
fn a_static_member_restarts_without_a_rebalance() {
    check_with(
        without_delay(),
        "join a instance=i1 v=5
         sync a#1 gen=1
         sync i1#1 gen=1 instance=i1 i1#1=all
         join a instance=i1 v=9
         sync i1#2 gen=1 instance=i1
         heartbeat i1#1 gen=1 instance=i1
         commit i1#1 gen=1 instance=i1 t-0=5
         commit i1#2 gen=1 instance=i1 t-0=6
         join a instance=i1 v=8
         crash
         heartbeat i1#3 gen=1 instance=i1
         describe",
        expect![[r#"
            join a instance=i1 v=5
                record g: empty in generation 0
                join a instance=i1 v=5 -> i1#1 in generation 1, range by i1#1 [i1#1]
            sync a#1 gen=1
                sync a#1 gen=1 -> UNKNOWN_MEMBER_ID
            sync i1#1 gen=1 instance=i1 i1#1=all
                record g: generation 1 [i1#1=all]
                sync i1#1 gen=1 instance=i1 i1#1=all -> assigned "all"
            join a instance=i1 v=9
                record g: generation 1 [i1#2=all]
                join a instance=i1 v=9 -> i1#2 in generation 1, range by i1#2, assignment stays [i1#2]
            sync i1#2 gen=1 instance=i1
                sync i1#2 gen=1 instance=i1 -> assigned "all"
            heartbeat i1#1 gen=1 instance=i1
                heartbeat i1#1 gen=1 instance=i1 -> FENCED_INSTANCE_ID
            commit i1#1 gen=1 instance=i1 t-0=5
                commit i1#1 gen=1 instance=i1 t-0=5 -> t-0 FENCED_INSTANCE_ID
            commit i1#2 gen=1 instance=i1 t-0=6
                record g: t-0 = 6
                commit i1#2 gen=1 instance=i1 t-0=6 -> t-0 NONE
            join a instance=i1 v=8
                record g: generation 1 [i1#3=all]
                join a instance=i1 v=8 -> i1#3 in generation 1, range by i1#2 []
            crash
            heartbeat i1#3 gen=1 instance=i1
                heartbeat i1#3 gen=1 instance=i1 -> NONE
            describe
                NONE Stable consumer range [i1#3=all]
        "#]],
    );
}

#[test]
fn a_static_member_that_restarts_in_the_middle_of_a_rebalance_fences_its_former_self() {
    check_with(
        without_delay(),
        "join a instance=i1
         join b instance=i2
         join a instance=i1
         wait 300000
         describe",
        expect![[r#"
            join a instance=i1
                record g: empty in generation 0
                join a instance=i1 -> i1#1 in generation 1, range by i1#1 [i1#1]
            join b instance=i2
            join a instance=i1
                join a instance=i1 -> i1#3 in generation 2, range by i1#3 [i1#3 i2#2]
                join b instance=i2 -> i2#2 in generation 2, range by i1#3 []
            wait 300000
                record g: empty in generation 3
            describe
                NONE Empty consumer  []
        "#]],
    );
}

#[test]
fn a_static_member_that_changes_the_protocol_makes_the_group_rebalance() {
    check_with(
        without_delay(),
        "join a instance=i1 protocols=range,sticky
         sync i1#1 gen=1 instance=i1 i1#1=all
         join a instance=i1 protocols=sticky,range
         sync i1#2 gen=2 instance=i1 i1#2=all",
        expect![[r#"
            join a instance=i1 protocols=range,sticky
                record g: empty in generation 0
                join a instance=i1 protocols=range,sticky -> i1#1 in generation 1, range by i1#1 [i1#1]
            sync i1#1 gen=1 instance=i1 i1#1=all
                record g: generation 1 [i1#1=all]
                sync i1#1 gen=1 instance=i1 i1#1=all -> assigned "all"
            join a instance=i1 protocols=sticky,range
                join a instance=i1 protocols=sticky,range -> i1#2 in generation 2, sticky by i1#2 [i1#2]
            sync i1#2 gen=2 instance=i1 i1#2=all
                record g: generation 2 [i1#2=all]
                sync i1#2 gen=2 instance=i1 i1#2=all -> assigned "all"
        "#]],
    );
}

#[test]
fn an_administrator_removes_a_static_member_by_its_instance() {
    check_with(
        without_delay(),
        "join a instance=i1
         sync i1#1 gen=1 i1#1=all
         leave instance=i2
         leave i1#7 instance=i1
         leave instance=i1
         describe",
        expect![[r#"
            join a instance=i1
                record g: empty in generation 0
                join a instance=i1 -> i1#1 in generation 1, range by i1#1 [i1#1]
            sync i1#1 gen=1 i1#1=all
                record g: generation 1 [i1#1=all]
                sync i1#1 gen=1 i1#1=all -> assigned "all"
            leave instance=i2
                leave instance=i2 -> NONE, "" (i2) UNKNOWN_MEMBER_ID
            leave i1#7 instance=i1
                leave i1#7 instance=i1 -> NONE, i1#7 (i1) FENCED_INSTANCE_ID
            leave instance=i1
                record g: empty in generation 2
                leave instance=i1 -> NONE, "" (i1) NONE
            describe
                NONE Empty consumer  []
        "#]],
    );
}

#[test]
fn a_silent_member_is_removed_and_the_others_rebalance() {
    check_with(
        without_delay(),
        "join a v=3 session=10000
         join b v=3 session=10000
         join a#1 session=10000
         sync a#1 gen=2 a#1=0 b#2=1
         sync b#2 gen=2
         wait 9000
         heartbeat a#1 gen=2
         wait 1000
         heartbeat a#1 gen=2
         join a#1 session=10000
         describe",
        expect![[r#"
            join a v=3 session=10000
                record g: empty in generation 0
                join a v=3 session=10000 -> a#1 in generation 1, range by a#1 [a#1]
            join b v=3 session=10000
            join a#1 session=10000
                join a#1 session=10000 -> a#1 in generation 2, range by a#1 [a#1 b#2]
                join b v=3 session=10000 -> b#2 in generation 2, range by a#1 []
            sync a#1 gen=2 a#1=0 b#2=1
                record g: generation 2 [a#1=0 b#2=1]
                sync a#1 gen=2 a#1=0 b#2=1 -> assigned "0"
            sync b#2 gen=2
                sync b#2 gen=2 -> assigned "1"
            wait 9000
            heartbeat a#1 gen=2
                heartbeat a#1 gen=2 -> NONE
            wait 1000
            heartbeat a#1 gen=2
                heartbeat a#1 gen=2 -> REBALANCE_IN_PROGRESS
            join a#1 session=10000
                join a#1 session=10000 -> a#1 in generation 3, range by a#1 [a#1]
            describe
                NONE CompletingRebalance consumer  [a#1=0]
        "#]],
    );
}

#[test]
fn who_does_not_rejoin_in_time_is_left_behind_and_another_leads() {
    check_with(
        without_delay(),
        "join a v=3 rebalance=20000
         join b v=3 rebalance=20000
         join a#1 rebalance=20000
         sync a#1 gen=2 a#1=0 b#2=1
         join b#2 topics=t,u rebalance=20000
         wait 20000
         heartbeat a#1 gen=2
         sync b#2 gen=3 b#2=all",
        expect![[r#"
            join a v=3 rebalance=20000
                record g: empty in generation 0
                join a v=3 rebalance=20000 -> a#1 in generation 1, range by a#1 [a#1]
            join b v=3 rebalance=20000
            join a#1 rebalance=20000
                join a#1 rebalance=20000 -> a#1 in generation 2, range by a#1 [a#1 b#2]
                join b v=3 rebalance=20000 -> b#2 in generation 2, range by a#1 []
            sync a#1 gen=2 a#1=0 b#2=1
                record g: generation 2 [a#1=0 b#2=1]
                sync a#1 gen=2 a#1=0 b#2=1 -> assigned "0"
            join b#2 topics=t,u rebalance=20000
            wait 20000
                join b#2 topics=t,u rebalance=20000 -> b#2 in generation 3, range by b#2 [b#2]
            heartbeat a#1 gen=2
                heartbeat a#1 gen=2 -> UNKNOWN_MEMBER_ID
            sync b#2 gen=3 b#2=all
                record g: generation 3 [b#2=all]
                sync b#2 gen=3 b#2=all -> assigned "all"
        "#]],
    );
}

#[test]
fn a_leader_that_never_assigns_is_removed() {
    check_with(
        without_delay(),
        "join a v=3 rebalance=20000 session=30000
         join b v=3 rebalance=20000 session=30000
         join a#1 rebalance=20000 session=30000
         sync b#2 gen=2
         wait 20000
         join b#2 rebalance=20000 session=30000",
        expect![[r#"
            join a v=3 rebalance=20000 session=30000
                record g: empty in generation 0
                join a v=3 rebalance=20000 session=30000 -> a#1 in generation 1, range by a#1 [a#1]
            join b v=3 rebalance=20000 session=30000
            join a#1 rebalance=20000 session=30000
                join a#1 rebalance=20000 session=30000 -> a#1 in generation 2, range by a#1 [a#1 b#2]
                join b v=3 rebalance=20000 session=30000 -> b#2 in generation 2, range by a#1 []
            sync b#2 gen=2
            wait 20000
                sync b#2 gen=2 -> REBALANCE_IN_PROGRESS
            join b#2 rebalance=20000 session=30000
                join b#2 rebalance=20000 session=30000 -> b#2 in generation 3, range by b#2 [b#2]
        "#]],
    );
}

#[test]
fn an_older_generation_may_neither_commit_nor_sync_nor_live() {
    check_with(
        without_delay(),
        "join a v=3
         sync a#1 gen=1 a#1=all
         join a#1
         commit a#1 gen=1 t-0=5
         commit a#1 gen=2 t-0=5
         sync a#1 gen=1 a#1=all
         heartbeat a#1 gen=1
         sync a#1 gen=2 a#1=all
         commit a#1 gen=2 t-0=5
         commit x#9 gen=2 t-0=6
         commit gen=-1 t-0=7
         fetch t-0",
        expect![[r#"
            join a v=3
                record g: empty in generation 0
                join a v=3 -> a#1 in generation 1, range by a#1 [a#1]
            sync a#1 gen=1 a#1=all
                record g: generation 1 [a#1=all]
                sync a#1 gen=1 a#1=all -> assigned "all"
            join a#1
                join a#1 -> a#1 in generation 2, range by a#1 [a#1]
            commit a#1 gen=1 t-0=5
                commit a#1 gen=1 t-0=5 -> t-0 ILLEGAL_GENERATION
            commit a#1 gen=2 t-0=5
                commit a#1 gen=2 t-0=5 -> t-0 REBALANCE_IN_PROGRESS
            sync a#1 gen=1 a#1=all
                sync a#1 gen=1 a#1=all -> ILLEGAL_GENERATION
            heartbeat a#1 gen=1
                heartbeat a#1 gen=1 -> ILLEGAL_GENERATION
            sync a#1 gen=2 a#1=all
                record g: generation 2 [a#1=all]
                sync a#1 gen=2 a#1=all -> assigned "all"
            commit a#1 gen=2 t-0=5
                record g: t-0 = 5
                commit a#1 gen=2 t-0=5 -> t-0 NONE
            commit x#9 gen=2 t-0=6
                commit x#9 gen=2 t-0=6 -> t-0 UNKNOWN_MEMBER_ID
            commit gen=-1 t-0=7
                commit gen=-1 t-0=7 -> t-0 UNKNOWN_MEMBER_ID
            fetch t-0
                t-0 = 5 epoch -1 ""
        "#]],
    );
}

#[test]
fn the_leader_asks_for_a_rebalance_by_joining_again_and_followers_do_not() {
    check_with(
        without_delay(),
        "join a v=3
         join b v=3
         join a#1
         sync b#2 gen=2
         sync a#1 gen=2 a#1=0 b#2=1
         join b#2
         join a#1
         join b#2",
        expect![[r#"
            join a v=3
                record g: empty in generation 0
                join a v=3 -> a#1 in generation 1, range by a#1 [a#1]
            join b v=3
            join a#1
                join a#1 -> a#1 in generation 2, range by a#1 [a#1 b#2]
                join b v=3 -> b#2 in generation 2, range by a#1 []
            sync b#2 gen=2
            sync a#1 gen=2 a#1=0 b#2=1
                record g: generation 2 [a#1=0 b#2=1]
                sync a#1 gen=2 a#1=0 b#2=1 -> assigned "0"
                sync b#2 gen=2 -> assigned "1"
            join b#2
                join b#2 -> b#2 in generation 2, range by a#1 []
            join a#1
            join b#2
                join a#1 -> a#1 in generation 3, range by a#1 [a#1 b#2]
                join b#2 -> b#2 in generation 3, range by a#1 []
        "#]],
    );
}

#[test]
fn protocols_must_be_shared_and_the_most_wanted_wins() {
    check_with(
        without_delay(),
        "join a v=3 protocols=range,sticky
         join b v=3 protocols=roundrobin
         join b v=3 protocols=range type=connect
         join b v=3 protocols=
         join b v=3 protocols=sticky,range
         join c v=3 protocols=sticky,range
         join a#1 protocols=range,sticky",
        expect![[r#"
            join a v=3 protocols=range,sticky
                record g: empty in generation 0
                join a v=3 protocols=range,sticky -> a#1 in generation 1, range by a#1 [a#1]
            join b v=3 protocols=roundrobin
                join b v=3 protocols=roundrobin -> INCONSISTENT_GROUP_PROTOCOL ""
            join b v=3 protocols=range type=connect
                join b v=3 protocols=range type=connect -> INCONSISTENT_GROUP_PROTOCOL ""
            join b v=3 protocols=
                join b v=3 protocols= -> INCONSISTENT_GROUP_PROTOCOL ""
            join b v=3 protocols=sticky,range
            join c v=3 protocols=sticky,range
            join a#1 protocols=range,sticky
                join a#1 protocols=range,sticky -> a#1 in generation 2, sticky by a#1 [a#1 b#2 c#3]
                join b v=3 protocols=sticky,range -> b#2 in generation 2, sticky by a#1 []
                join c v=3 protocols=sticky,range -> c#3 in generation 2, sticky by a#1 []
        "#]],
    );
}

#[test]
fn a_full_group_turns_the_next_away() {
    let config = GroupConfig { group_size_max: 2, ..without_delay() };
    check_with(
        config,
        "join a v=3
         join b v=3
         join c v=3
         join a#1
         join c v=3
         sync a#1 gen=2 a#1=0 b#2=1
         describe",
        expect![[r#"
            join a v=3
                record g: empty in generation 0
                join a v=3 -> a#1 in generation 1, range by a#1 [a#1]
            join b v=3
            join c v=3
            join a#1
                join a#1 -> GROUP_MAX_SIZE_REACHED ""
                join b v=3 -> b#2 in generation 2, range by b#2 [b#2 c#3]
                join c v=3 -> c#3 in generation 2, range by b#2 []
            join c v=3
                join c v=3 -> GROUP_MAX_SIZE_REACHED ""
            sync a#1 gen=2 a#1=0 b#2=1
                sync a#1 gen=2 a#1=0 b#2=1 -> UNKNOWN_MEMBER_ID
            describe
                NONE CompletingRebalance consumer  [b#2= c#3=]
        "#]],
    );
}

#[test]
fn nonsense_is_refused_and_makes_no_group() {
    check(
        "join a group=
         join a session=5999
         join a session=1800001
         join a#1
         join a protocols=
         join a type=
         sync a#1 gen=1
         heartbeat a#1 gen=1
         leave a#1
         leave a#1 v=2
         leave a#1 group=
         list",
        expect![[r#"
            join a group=
                join a group= -> INVALID_GROUP_ID ""
            join a session=5999
                join a session=5999 -> INVALID_SESSION_TIMEOUT ""
            join a session=1800001
                join a session=1800001 -> INVALID_SESSION_TIMEOUT ""
            join a#1
                join a#1 -> UNKNOWN_MEMBER_ID a#1
            join a protocols=
                join a protocols= -> INCONSISTENT_GROUP_PROTOCOL ""
            join a type=
                join a type= -> INCONSISTENT_GROUP_PROTOCOL ""
            sync a#1 gen=1
                sync a#1 gen=1 -> UNKNOWN_MEMBER_ID
            heartbeat a#1 gen=1
                heartbeat a#1 gen=1 -> UNKNOWN_MEMBER_ID
            leave a#1
                leave a#1 -> NONE, a#1 UNKNOWN_MEMBER_ID
            leave a#1 v=2
                leave a#1 v=2 -> UNKNOWN_MEMBER_ID, a#1 UNKNOWN_MEMBER_ID
            leave a#1 group=
                leave a#1 group= -> INVALID_GROUP_ID
            list
        "#]],
    );
}

#[test]
fn a_repeated_request_supersedes_the_one_that_is_parked() {
    check_with(
        without_delay(),
        "join a v=3
         join b v=3
         join b#2
         join a#1
         sync b#2 gen=2
         sync b#2 gen=2
         sync a#1 gen=2 b#2=1",
        expect![[r#"
            join a v=3
                record g: empty in generation 0
                join a v=3 -> a#1 in generation 1, range by a#1 [a#1]
            join b v=3
            join b#2
                join b v=3 -> REBALANCE_IN_PROGRESS b#2
            join a#1
                join a#1 -> a#1 in generation 2, range by a#1 [a#1 b#2]
                join b#2 -> b#2 in generation 2, range by a#1 []
            sync b#2 gen=2
            sync b#2 gen=2
                sync b#2 gen=2 -> REBALANCE_IN_PROGRESS
            sync a#1 gen=2 b#2=1
                record g: generation 2 [a#1= b#2=1]
                sync a#1 gen=2 b#2=1 -> assigned ""
                sync b#2 gen=2 -> assigned "1"
        "#]],
    );
}

#[test]
fn members_leave_together_and_the_group_rebalances_once() {
    check_with(
        without_delay(),
        "join a v=3
         join b v=3
         join c v=3
         join a#1
         sync a#1 gen=2 a#1=0 b#2=1 c#3=2
         leave b#2 c#3 x#7
         join a#1
         leave a#1 v=2
         describe",
        expect![[r#"
            join a v=3
                record g: empty in generation 0
                join a v=3 -> a#1 in generation 1, range by a#1 [a#1]
            join b v=3
            join c v=3
            join a#1
                join a#1 -> a#1 in generation 2, range by a#1 [a#1 b#2 c#3]
                join b v=3 -> b#2 in generation 2, range by a#1 []
                join c v=3 -> c#3 in generation 2, range by a#1 []
            sync a#1 gen=2 a#1=0 b#2=1 c#3=2
                record g: generation 2 [a#1=0 b#2=1 c#3=2]
                sync a#1 gen=2 a#1=0 b#2=1 c#3=2 -> assigned "0"
            leave b#2 c#3 x#7
                leave b#2 c#3 x#7 -> NONE, b#2 NONE, c#3 NONE, x#7 UNKNOWN_MEMBER_ID
            join a#1
                join a#1 -> a#1 in generation 3, range by a#1 [a#1]
            leave a#1 v=2
                record g: empty in generation 4
                leave a#1 v=2 -> NONE, a#1 NONE
            describe
                NONE Empty consumer  []
        "#]],
    );
}

#[test]
fn after_a_crash_members_go_on_where_they_were() {
    check_with(
        without_delay(),
        "join a v=3 session=10000
         sync a#1 gen=1 a#1=all
         commit a#1 gen=1 t-0=5 epoch=3 note=mine
         crash
         heartbeat a#1 gen=1
         commit a#1 gen=1 t-0=6
         sync a#1 gen=1
         fetch t-0
         wait 10000
         describe",
        expect![[r#"
            join a v=3 session=10000
                record g: empty in generation 0
                join a v=3 session=10000 -> a#1 in generation 1, range by a#1 [a#1]
            sync a#1 gen=1 a#1=all
                record g: generation 1 [a#1=all]
                sync a#1 gen=1 a#1=all -> assigned "all"
            commit a#1 gen=1 t-0=5 epoch=3 note=mine
                record g: t-0 = 5
                commit a#1 gen=1 t-0=5 epoch=3 note=mine -> t-0 NONE
            crash
            heartbeat a#1 gen=1
                heartbeat a#1 gen=1 -> NONE
            commit a#1 gen=1 t-0=6
                record g: t-0 = 6
                commit a#1 gen=1 t-0=6 -> t-0 NONE
            sync a#1 gen=1
                sync a#1 gen=1 -> assigned "all"
            fetch t-0
                t-0 = 6 epoch -1 ""
            wait 10000
                record g: empty in generation 2
            describe
                NONE Empty consumer  []
        "#]],
    );
}

#[test]
fn a_shard_that_moves_away_answers_everybody() {
    check_with(
        without_delay(),
        "join a v=3
         join b v=3
         join a#1 group=h v=3
         join h v=3 group=h
         sync h#3 gen=1 group=h h#3=all
         unload",
        expect![[r#"
            join a v=3
                record g: empty in generation 0
                join a v=3 -> a#1 in generation 1, range by a#1 [a#1]
            join b v=3
            join a#1 group=h v=3
                join a#1 group=h v=3 -> UNKNOWN_MEMBER_ID a#1
            join h v=3 group=h
                record h: empty in generation 0
                join h v=3 group=h -> h#3 in generation 1, range by h#3 [h#3]
            sync h#3 gen=1 group=h h#3=all
                record h: generation 1 [h#3=all]
                sync h#3 gen=1 group=h h#3=all -> assigned "all"
            unload
                join b v=3 -> NOT_COORDINATOR b#2
        "#]],
    );
}
