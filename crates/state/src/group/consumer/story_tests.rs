//! Stories of groups of the consumer protocol.

use expect_test::expect;

use crate::group::testing::check;

#[test]
fn a_second_member_gets_its_part_when_the_first_has_let_go() {
    check(
        "beat a
         beat b
         beat a epoch=1
         beat b epoch=2
         beat a epoch=1 owned=t-0
         beat b epoch=2
         beat a epoch=2
         describe-consumer
         list",
        expect![[r#"
            beat a
                record g: a reads [t]
                record g: epoch 1
                record g: target a [t-0 t-1]
                record g: target epoch 1
                record g: a epoch 1 [t-0 t-1]
                beat a -> epoch 1, has [t-0 t-1]
            beat b
                record g: b reads [t]
                record g: epoch 2
                record g: target a [t-0]
                record g: target b [t-1]
                record g: target epoch 2
                record g: b epoch 2 []
                beat b -> epoch 2, has []
            beat a epoch=1
                record g: a epoch 1 [t-0] gives up [t-1]
                beat a epoch=1 -> epoch 1, has [t-0]
            beat b epoch=2
                beat b epoch=2 -> epoch 2
            beat a epoch=1 owned=t-0
                record g: a epoch 2 [t-0]
                beat a epoch=1 owned=t-0 -> epoch 2
            beat b epoch=2
                record g: b epoch 2 [t-1]
                beat b epoch=2 -> epoch 2, has [t-1]
            beat a epoch=2
                beat a epoch=2 -> epoch 2
            describe-consumer
                NONE Stable epoch 2 target 2 uniform
                a epoch 2 [t-0] of [t-0] type 1
                b epoch 2 [t-1] of [t-1] type 1
            list
                g "consumer" Stable consumer
        "#]],
    );
}

#[test]
fn a_member_that_lost_its_answer_asks_again_in_the_epoch_before() {
    check(
        "beat a
         beat a
         beat b
         beat a epoch=1 owned=t-0,t-1
         beat a epoch=1 owned=t-0
         beat a epoch=1 owned=t-0
         beat a epoch=1
         beat a epoch=7
         beat c epoch=1",
        expect![[r#"
            beat a
                record g: a reads [t]
                record g: epoch 1
                record g: target a [t-0 t-1]
                record g: target epoch 1
                record g: a epoch 1 [t-0 t-1]
                beat a -> epoch 1, has [t-0 t-1]
            beat a
                record g: a epoch 0 [t-0 t-1]
                record g: a epoch 1 [t-0 t-1]
                beat a -> epoch 1, has [t-0 t-1]
            beat b
                record g: b reads [t]
                record g: epoch 2
                record g: target a [t-0]
                record g: target b [t-1]
                record g: target epoch 2
                record g: b epoch 2 []
                beat b -> epoch 2, has []
            beat a epoch=1 owned=t-0,t-1
                record g: a epoch 1 [t-0] gives up [t-1]
                beat a epoch=1 owned=t-0,t-1 -> epoch 1, has [t-0]
            beat a epoch=1 owned=t-0
                record g: a epoch 2 [t-0]
                beat a epoch=1 owned=t-0 -> epoch 2
            beat a epoch=1 owned=t-0
                beat a epoch=1 owned=t-0 -> epoch 2
            beat a epoch=1
                beat a epoch=1 -> FENCED_MEMBER_EPOCH: the member is not in this epoch: it has to give up its partitions and join again
            beat a epoch=7
                beat a epoch=7 -> FENCED_MEMBER_EPOCH: the member is not in this epoch: it has to give up its partitions and join again
            beat c epoch=1
                beat c epoch=1 -> UNKNOWN_MEMBER_ID: the member is not known
        "#]],
    );
}

#[test]
fn a_member_that_was_fenced_joins_again_with_its_id() {
    check(
        "beat a
         beat b
         beat a epoch=1 owned=t-0
         beat a epoch=9
         beat a
         describe-consumer",
        expect![[r#"
            beat a
                record g: a reads [t]
                record g: epoch 1
                record g: target a [t-0 t-1]
                record g: target epoch 1
                record g: a epoch 1 [t-0 t-1]
                beat a -> epoch 1, has [t-0 t-1]
            beat b
                record g: b reads [t]
                record g: epoch 2
                record g: target a [t-0]
                record g: target b [t-1]
                record g: target epoch 2
                record g: b epoch 2 []
                beat b -> epoch 2, has []
            beat a epoch=1 owned=t-0
                record g: a epoch 2 [t-0]
                beat a epoch=1 owned=t-0 -> epoch 2, has [t-0]
            beat a epoch=9
                beat a epoch=9 -> FENCED_MEMBER_EPOCH: the member is not in this epoch: it has to give up its partitions and join again
            beat a
                record g: a epoch 0 [t-0]
                record g: a epoch 2 [t-0]
                beat a -> epoch 2, has [t-0]
            describe-consumer
                NONE Reconciling epoch 2 target 2 uniform
                a epoch 2 [t-0] of [t-0] type 1
                b epoch 2 [] of [t-1] type 1
        "#]],
    );
}

#[test]
fn a_silent_member_is_sent_away_and_its_partitions_are_free() {
    check(
        "beat a
         beat b
         beat a epoch=1 owned=t-0
         beat b epoch=2
         wait 40000
         beat b epoch=2
         wait 5000
         describe-consumer
         beat b epoch=2
         beat a epoch=2",
        expect![[r#"
            beat a
                record g: a reads [t]
                record g: epoch 1
                record g: target a [t-0 t-1]
                record g: target epoch 1
                record g: a epoch 1 [t-0 t-1]
                beat a -> epoch 1, has [t-0 t-1]
            beat b
                record g: b reads [t]
                record g: epoch 2
                record g: target a [t-0]
                record g: target b [t-1]
                record g: target epoch 2
                record g: b epoch 2 []
                beat b -> epoch 2, has []
            beat a epoch=1 owned=t-0
                record g: a epoch 2 [t-0]
                beat a epoch=1 owned=t-0 -> epoch 2, has [t-0]
            beat b epoch=2
                record g: b epoch 2 [t-1]
                beat b epoch=2 -> epoch 2, has [t-1]
            wait 40000
            beat b epoch=2
                beat b epoch=2 -> epoch 2
            wait 5000
                record g: epoch 3
                record g: a has nothing
                record g: target a gone
                record g: a gone
            describe-consumer
                NONE Assigning epoch 3 target 2 uniform
                b epoch 2 [t-1] of [t-1] type 1
            beat b epoch=2
                record g: target b [t-0 t-1]
                record g: target epoch 3
                record g: b epoch 3 [t-0 t-1]
                beat b epoch=2 -> epoch 3, has [t-0 t-1]
            beat a epoch=2
                beat a epoch=2 -> UNKNOWN_MEMBER_ID: the member is not known
        "#]],
    );
}

#[test]
fn a_member_that_does_not_let_go_is_sent_away() {
    check(
        "beat a rebalance=10000
         beat b
         beat a epoch=1 owned=t-0,t-1
         wait 9999
         beat a epoch=1 owned=t-0,t-1
         wait 1
         beat b epoch=2",
        expect![[r#"
            beat a rebalance=10000
                record g: a reads [t]
                record g: epoch 1
                record g: target a [t-0 t-1]
                record g: target epoch 1
                record g: a epoch 1 [t-0 t-1]
                beat a rebalance=10000 -> epoch 1, has [t-0 t-1]
            beat b
                record g: b reads [t]
                record g: epoch 2
                record g: target a [t-0]
                record g: target b [t-1]
                record g: target epoch 2
                record g: b epoch 2 []
                beat b -> epoch 2, has []
            beat a epoch=1 owned=t-0,t-1
                record g: a epoch 1 [t-0] gives up [t-1]
                beat a epoch=1 owned=t-0,t-1 -> epoch 1, has [t-0]
            wait 9999
            beat a epoch=1 owned=t-0,t-1
                beat a epoch=1 owned=t-0,t-1 -> epoch 1
            wait 1
                record g: epoch 3
                record g: a has nothing
                record g: target a gone
                record g: a gone
            beat b epoch=2
                record g: target b [t-0 t-1]
                record g: target epoch 3
                record g: b epoch 3 [t-0 t-1]
                beat b epoch=2 -> epoch 3, has [t-0 t-1]
        "#]],
    );
}

#[test]
fn a_static_member_comes_back_to_what_it_had() {
    check(
        "beat a instance=i
         beat b
         beat a epoch=1 owned=t-0 instance=i
         beat b epoch=2
         beat c instance=i
         beat a epoch=-2 instance=i
         beat c instance=i
         beat a epoch=2 instance=i
         beat c epoch=2 instance=i
         beat c epoch=-1 instance=i
         describe-consumer",
        expect![[r#"
            beat a instance=i
                record g: a reads [t]
                record g: epoch 1
                record g: target a [t-0 t-1]
                record g: target epoch 1
                record g: a epoch 1 [t-0 t-1]
                beat a instance=i -> epoch 1, has [t-0 t-1]
            beat b
                record g: b reads [t]
                record g: epoch 2
                record g: target a [t-0]
                record g: target b [t-1]
                record g: target epoch 2
                record g: b epoch 2 []
                beat b -> epoch 2, has []
            beat a epoch=1 owned=t-0 instance=i
                record g: a epoch 2 [t-0]
                beat a epoch=1 owned=t-0 instance=i -> epoch 2, has [t-0]
            beat b epoch=2
                record g: b epoch 2 [t-1]
                beat b epoch=2 -> epoch 2, has [t-1]
            beat c instance=i
                beat c instance=i -> UNRELEASED_INSTANCE_ID: the instance id belongs to a member that has not left
            beat a epoch=-2 instance=i
                record g: a epoch -2 [t-0]
                beat a epoch=-2 instance=i -> epoch -2
            beat c instance=i
                record g: a has nothing
                record g: target a gone
                record g: a gone
                record g: c reads [t]
                record g: target c [t-0]
                record g: c epoch 0 [t-0]
                record g: c epoch 2 [t-0]
                beat c instance=i -> epoch 2, has [t-0]
            beat a epoch=2 instance=i
                beat a epoch=2 instance=i -> FENCED_INSTANCE_ID: the instance id belongs to a newer member
            beat c epoch=2 instance=i
                beat c epoch=2 instance=i -> epoch 2
            beat c epoch=-1 instance=i
                record g: epoch 3
                record g: c has nothing
                record g: target c gone
                record g: c gone
                beat c epoch=-1 instance=i -> epoch -1
            describe-consumer
                NONE Assigning epoch 3 target 2 uniform
                b epoch 2 [t-1] of [t-1] type 1
        "#]],
    );
}

#[test]
fn a_static_member_that_does_not_come_back_is_gone_when_its_session_ends() {
    check(
        "beat a instance=i
         beat a epoch=-2 instance=i
         wait 45000
         describe-consumer",
        expect![[r#"
            beat a instance=i
                record g: a reads [t]
                record g: epoch 1
                record g: target a [t-0 t-1]
                record g: target epoch 1
                record g: a epoch 1 [t-0 t-1]
                beat a instance=i -> epoch 1, has [t-0 t-1]
            beat a epoch=-2 instance=i
                record g: a epoch -2 [t-0 t-1]
                beat a epoch=-2 instance=i -> epoch -2
            wait 45000
                record g: epoch 2
                record g: a has nothing
                record g: target a gone
                record g: a gone
            describe-consumer
                NONE Empty epoch 2 target 1 uniform
        "#]],
    );
}

#[test]
fn an_expression_follows_the_topics() {
    check(
        "topics t:1 tea:1 u:1
         beat a regex=t.*
         beat a epoch=1
         topics t:1 tea:2 u:1 tee:1
         beat a epoch=1
         topics t:1 u:1
         beat a epoch=2
         beat a epoch=3 topics=u regex=t
         beat a epoch=3 regex=(
         beat a epoch=3 regex=a)(b
         crash
         beat a epoch=4",
        expect![[r#"
            topics t:1 tea:1 u:1
            beat a regex=t.*
                record g: a reads [] "t.*"
                record g: epoch 1
                record g: target a [t-0 tea-0]
                record g: target epoch 1
                record g: a epoch 1 [t-0 tea-0]
                beat a regex=t.* -> epoch 1, has [t-0 tea-0]
            beat a epoch=1
                beat a epoch=1 -> epoch 1
            topics t:1 tea:2 u:1 tee:1
            beat a epoch=1
                record g: epoch 2
                record g: target a [t-0 tea-0 tea-1 tee-0]
                record g: target epoch 2
                record g: a epoch 2 [t-0 tea-0 tea-1 tee-0]
                beat a epoch=1 -> epoch 2, has [t-0 tea-0 tea-1 tee-0]
            topics t:1 u:1
            beat a epoch=2
                record g: epoch 3
                record g: target a [t-0]
                record g: target epoch 3
                record g: a epoch 2 [t-0] gives up [gone-0 gone-1 gone-0]
                beat a epoch=2 -> epoch 2, has [t-0]
            beat a epoch=3 topics=u regex=t
                beat a epoch=3 topics=u regex=t -> FENCED_MEMBER_EPOCH: the member is not in this epoch: it has to give up its partitions and join again
            beat a epoch=3 regex=(
                beat a epoch=3 regex=( -> INVALID_REGULAR_EXPRESSION: the expression is not valid in RE2's syntax, or too large
            beat a epoch=3 regex=a)(b
                beat a epoch=3 regex=a)(b -> INVALID_REGULAR_EXPRESSION: the expression is not valid in RE2's syntax, or too large
            crash
            beat a epoch=4
                beat a epoch=4 -> FENCED_MEMBER_EPOCH: the member is not in this epoch: it has to give up its partitions and join again
        "#]],
    );
}

#[test]
fn a_topic_that_comes_later_is_assigned_when_it_is_there() {
    check(
        "topics u:1
         beat a topics=t
         topics u:1 t:1
         beat a epoch=1",
        expect![[r#"
            topics u:1
            beat a topics=t
                record g: a reads [t]
                record g: epoch 1
                record g: target a []
                record g: target epoch 1
                record g: a epoch 1 []
                beat a topics=t -> epoch 1, has []
            topics u:1 t:1
            beat a epoch=1
                record g: epoch 2
                record g: target a [t-0]
                record g: target epoch 2
                record g: a epoch 2 [t-0]
                beat a epoch=1 -> epoch 2, has [t-0]
        "#]],
    );
}

#[test]
fn a_group_survives_its_coordinator() {
    check(
        "beat a
         beat b
         beat a epoch=1 owned=t-0
         crash
         beat b epoch=2
         beat a epoch=2
         describe-consumer
         beat a epoch=-1
         beat b epoch=-1
         crash
         describe-consumer
         delete
         describe-consumer",
        expect![[r#"
            beat a
                record g: a reads [t]
                record g: epoch 1
                record g: target a [t-0 t-1]
                record g: target epoch 1
                record g: a epoch 1 [t-0 t-1]
                beat a -> epoch 1, has [t-0 t-1]
            beat b
                record g: b reads [t]
                record g: epoch 2
                record g: target a [t-0]
                record g: target b [t-1]
                record g: target epoch 2
                record g: b epoch 2 []
                beat b -> epoch 2, has []
            beat a epoch=1 owned=t-0
                record g: a epoch 2 [t-0]
                beat a epoch=1 owned=t-0 -> epoch 2, has [t-0]
            crash
            beat b epoch=2
                record g: b epoch 2 [t-1]
                beat b epoch=2 -> epoch 2, has [t-1]
            beat a epoch=2
                beat a epoch=2 -> epoch 2
            describe-consumer
                NONE Stable epoch 2 target 2 uniform
                a epoch 2 [t-0] of [t-0] type 1
                b epoch 2 [t-1] of [t-1] type 1
            beat a epoch=-1
                record g: epoch 3
                record g: a has nothing
                record g: target a gone
                record g: a gone
                beat a epoch=-1 -> epoch -1
            beat b epoch=-1
                record g: epoch 4
                record g: b has nothing
                record g: target b gone
                record g: b gone
                beat b epoch=-1 -> epoch -1
            crash
            describe-consumer
                NONE Empty epoch 4 target 2 uniform
            delete
                NONE
                record g: target epoch gone
                record g: consumers gone
            describe-consumer
                GROUP_ID_NOT_FOUND  epoch 0 target 0 
        "#]],
    );
}

#[test]
fn what_a_heartbeat_may_not_say() {
    check(
        "beat a group=
         beat a instance=
         beat a rack=
         beat v=1
         beat a epoch=-3
         beat a epoch=-2
         beat a rebalance=-1
         beat a owned=t-0
         beat a epoch=5
         beat a assignor=sticky
         beat a regex=((((
         list
         beat v=0
         list",
        expect![[r#"
            beat a group=
                beat a group= -> INVALID_REQUEST: the group id is empty
            beat a instance=
                beat a instance= -> INVALID_REQUEST: the instance id is empty: leave it out, or name one
            beat a rack=
                beat a rack= -> INVALID_REQUEST: the rack id is empty: leave it out, or name one
            beat v=1
                beat v=1 -> INVALID_REQUEST: the member id is empty
            beat a epoch=-3
                beat a epoch=-3 -> INVALID_REQUEST: there is no such member epoch
            beat a epoch=-2
                beat a epoch=-2 -> INVALID_REQUEST: only a member with an instance id can leave for a while
            beat a rebalance=-1
                beat a rebalance=-1 -> INVALID_REQUEST: a member that joins has to tell its rebalance timeout
            beat a owned=t-0
                beat a owned=t-0 -> INVALID_REQUEST: a member that joins owns no partitions, and has to say so
            beat a epoch=5
                beat a epoch=5 -> GROUP_ID_NOT_FOUND: the group does not exist
            beat a assignor=sticky
                beat a assignor=sticky -> UNSUPPORTED_ASSIGNOR: there is no such assignor: uniform and range are here
            beat a regex=((((
                beat a regex=(((( -> INVALID_REGULAR_EXPRESSION: the expression is not valid in RE2's syntax, or too large
            list
            beat v=0
                record g: AAAAAAAAAAAAAAAAAAAABw reads [t]
                record g: epoch 1
                record g: target AAAAAAAAAAAAAAAAAAAABw [t-0 t-1]
                record g: target epoch 1
                record g: AAAAAAAAAAAAAAAAAAAABw epoch 1 [t-0 t-1]
                beat v=0 -> epoch 1, has [t-0 t-1]
            list
                g "consumer" Stable consumer
        "#]],
    );
}

#[test]
fn who_may_commit() {
    check(
        "beat a
         beat b
         beat a epoch=1 owned=t-0
         beat b epoch=2
         beat c topics=u
         beat a epoch=2
         commit member=a t-0=1 gen=3 topic-id=116
         commit member=a t-0=2 gen=2 topic-id=116
         commit member=a t-1=2 gen=2 topic-id=116
         commit member=a t-0=2 gen=4 topic-id=116
         commit member=b t-1=2 gen=1 topic-id=116
         commit member=x t-0=2 gen=3 topic-id=116
         commit t-0=2 topic-id=116
         commit member=a t-0=1 gen=3 v=8 topic-id=116
         fetch topic-id=116
         delete-offsets t-0
         delete
         beat a epoch=-1
         beat b epoch=-1
         beat c epoch=-1
         commit t-0=7 topic-id=116
         delete
         list",
        expect![[r#"
            beat a
                record g: a reads [t]
                record g: epoch 1
                record g: target a [t-0 t-1]
                record g: target epoch 1
                record g: a epoch 1 [t-0 t-1]
                beat a -> epoch 1, has [t-0 t-1]
            beat b
                record g: b reads [t]
                record g: epoch 2
                record g: target a [t-0]
                record g: target b [t-1]
                record g: target epoch 2
                record g: b epoch 2 []
                beat b -> epoch 2, has []
            beat a epoch=1 owned=t-0
                record g: a epoch 2 [t-0]
                beat a epoch=1 owned=t-0 -> epoch 2, has [t-0]
            beat b epoch=2
                record g: b epoch 2 [t-1]
                beat b epoch=2 -> epoch 2, has [t-1]
            beat c topics=u
                record g: c reads [u]
                record g: epoch 3
                record g: target c []
                record g: target epoch 3
                record g: c epoch 3 []
                beat c topics=u -> epoch 3, has []
            beat a epoch=2
                record g: a epoch 3 [t-0]
                beat a epoch=2 -> epoch 3
            commit member=a t-0=1 gen=3 topic-id=116
                record g: t-0 = 1
                commit member=a t-0=1 gen=3 topic-id=116 -> t-0 NONE
            commit member=a t-0=2 gen=2 topic-id=116
                record g: t-0 = 2
                commit member=a t-0=2 gen=2 topic-id=116 -> t-0 NONE
            commit member=a t-1=2 gen=2 topic-id=116
                commit member=a t-1=2 gen=2 topic-id=116 -> t-1 STALE_MEMBER_EPOCH
            commit member=a t-0=2 gen=4 topic-id=116
                commit member=a t-0=2 gen=4 topic-id=116 -> t-0 STALE_MEMBER_EPOCH
            commit member=b t-1=2 gen=1 topic-id=116
                commit member=b t-1=2 gen=1 topic-id=116 -> t-1 STALE_MEMBER_EPOCH
            commit member=x t-0=2 gen=3 topic-id=116
                commit member=x t-0=2 gen=3 topic-id=116 -> t-0 UNKNOWN_MEMBER_ID
            commit t-0=2 topic-id=116
                commit t-0=2 topic-id=116 -> t-0 UNKNOWN_MEMBER_ID
            commit member=a t-0=1 gen=3 v=8 topic-id=116
                commit member=a t-0=1 gen=3 v=8 topic-id=116 -> t-0 UNSUPPORTED_VERSION
            fetch topic-id=116
                t-0 = 2 epoch -1 ""
            delete-offsets t-0
                delete-offsets t-0 -> NONE, t-0 GROUP_SUBSCRIBED_TO_TOPIC
            delete
                NON_EMPTY_GROUP
            beat a epoch=-1
                record g: epoch 4
                record g: a has nothing
                record g: target a gone
                record g: a gone
                beat a epoch=-1 -> epoch -1
            beat b epoch=-1
                record g: epoch 5
                record g: b has nothing
                record g: target b gone
                record g: b gone
                beat b epoch=-1 -> epoch -1
            beat c epoch=-1
                record g: epoch 6
                record g: c has nothing
                record g: target c gone
                record g: c gone
                beat c epoch=-1 -> epoch -1
            commit t-0=7 topic-id=116
                record g: t-0 = 7
                commit t-0=7 topic-id=116 -> t-0 NONE
            delete
                NONE
                record g: t-0 gone
                record g: target epoch gone
                record g: consumers gone
            list
        "#]],
    );
}

#[test]
fn a_group_is_upgraded_and_downgraded_while_its_members_are_up() {
    check(
        "join a session=10000
         join a#1 session=10000
         wait 3000
         join b session=10000
         join b#2 session=10000
         heartbeat a#1 gen=1
         join a#1 session=10000
         sync a#1 gen=2 a#1=@t-0 b#2=@t-1
         sync b#2 gen=2
         commit a#1 t-0=5 gen=2
         topics t:3
         beat c
         heartbeat a#1 gen=2
         join a#1 owned=t-0 session=10000
         sync a#1 gen=3
         heartbeat b#2 gen=2
         join b#2 owned=t-1 session=10000
         sync b#2 gen=3
         beat c epoch=3
         describe-consumer
         describe
         commit a#1 t-0=6 gen=3
         commit a#1 t-0=7 gen=2
         crash
         heartbeat a#1 gen=3
         heartbeat b#2 gen=3
         beat c epoch=3
         beat c epoch=-1
         describe
         heartbeat a#1 gen=3
         heartbeat b#2 gen=3
         join a#1 session=10000
         join b#2 session=10000
         sync a#1 gen=4 a#1=@t-0,t-1 b#2=@t-2
         sync b#2 gen=4
         fetch",
        expect![[r#"
            join a session=10000
                record g: empty in generation 0
                join a session=10000 -> MEMBER_ID_REQUIRED a#1
            join a#1 session=10000
            wait 3000
                join a#1 session=10000 -> a#1 in generation 1, range by a#1 [a#1]
            join b session=10000
                join b session=10000 -> MEMBER_ID_REQUIRED b#2
            join b#2 session=10000
            heartbeat a#1 gen=1
                heartbeat a#1 gen=1 -> REBALANCE_IN_PROGRESS
            join a#1 session=10000
                join a#1 session=10000 -> a#1 in generation 2, range by a#1 [a#1 b#2]
                join b#2 session=10000 -> b#2 in generation 2, range by a#1 []
            sync a#1 gen=2 a#1=@t-0 b#2=@t-1
                record g: generation 2 [a#1=t-0 b#2=t-1]
                sync a#1 gen=2 a#1=@t-0 b#2=@t-1 -> assigned "t-0"
            sync b#2 gen=2
                sync b#2 gen=2 -> assigned "t-1"
            commit a#1 t-0=5 gen=2
                record g: t-0 = 5
                commit a#1 t-0=5 gen=2 -> t-0 NONE
            topics t:3
            beat c
                record g: gone
                record g: a#1 reads [t]
                record g: b#2 reads [t]
                record g: epoch 2
                record g: target a#1 [t-0]
                record g: a#1 epoch 2 [t-0]
                record g: target b#2 [t-1]
                record g: b#2 epoch 2 [t-1]
                record g: target epoch 2
                record g: c reads [t]
                record g: epoch 3
                record g: target c [t-2]
                record g: target epoch 3
                record g: c epoch 3 [t-2]
                beat c -> epoch 3, has [t-2]
            heartbeat a#1 gen=2
                heartbeat a#1 gen=2 -> REBALANCE_IN_PROGRESS
            join a#1 owned=t-0 session=10000
                record g: a#1 reads [t]
                record g: a#1 epoch 3 [t-0]
                join a#1 owned=t-0 session=10000 -> a#1 in generation 3, range by "" []
            sync a#1 gen=3
                sync a#1 gen=3 -> assigned "t-0"
            heartbeat b#2 gen=2
                heartbeat b#2 gen=2 -> REBALANCE_IN_PROGRESS
            join b#2 owned=t-1 session=10000
                record g: b#2 reads [t]
                record g: b#2 epoch 3 [t-1]
                join b#2 owned=t-1 session=10000 -> b#2 in generation 3, range by "" []
            sync b#2 gen=3
                sync b#2 gen=3 -> assigned "t-1"
            beat c epoch=3
                beat c epoch=3 -> epoch 3
            describe-consumer
                NONE Stable epoch 3 target 3 uniform
                a#1 epoch 3 [t-0] of [t-0] type 0
                b#2 epoch 3 [t-1] of [t-1] type 0
                c epoch 3 [t-2] of [t-2] type 1
            describe
                GROUP_ID_NOT_FOUND Dead []
            commit a#1 t-0=6 gen=3
                record g: t-0 = 6
                commit a#1 t-0=6 gen=3 -> t-0 NONE
            commit a#1 t-0=7 gen=2
                commit a#1 t-0=7 gen=2 -> t-0 ILLEGAL_GENERATION
            crash
            heartbeat a#1 gen=3
                heartbeat a#1 gen=3 -> NONE
            heartbeat b#2 gen=3
                heartbeat b#2 gen=3 -> NONE
            beat c epoch=3
                beat c epoch=3 -> epoch 3
            beat c epoch=-1
                record g: c has nothing
                record g: target c gone
                record g: c gone
                record g: a#1 has nothing
                record g: target a#1 gone
                record g: a#1 gone
                record g: b#2 has nothing
                record g: target b#2 gone
                record g: b#2 gone
                record g: target epoch gone
                record g: consumers gone
                record g: generation 3 [a#1=t-0 b#2=t-1]
                beat c epoch=-1 -> epoch -1
            describe
                NONE PreparingRebalance consumer  [a#1=t-0 b#2=t-1]
            heartbeat a#1 gen=3
                heartbeat a#1 gen=3 -> REBALANCE_IN_PROGRESS
            heartbeat b#2 gen=3
                heartbeat b#2 gen=3 -> REBALANCE_IN_PROGRESS
            join a#1 session=10000
            join b#2 session=10000
                join a#1 session=10000 -> a#1 in generation 4, range by a#1 [a#1 b#2]
                join b#2 session=10000 -> b#2 in generation 4, range by a#1 []
            sync a#1 gen=4 a#1=@t-0,t-1 b#2=@t-2
                record g: generation 4 [a#1=t-0 t-1 b#2=t-2]
                sync a#1 gen=4 a#1=@t-0,t-1 b#2=@t-2 -> assigned "t-0 t-1"
            sync b#2 gen=4
                sync b#2 gen=4 -> assigned "t-2"
            fetch
                t-0 = 6 epoch -1 ""
        "#]],
    );
}

#[test]
fn a_classic_member_gives_up_what_it_has_to_before_it_goes_on() {
    check(
        "topics t:4
         beat a
         join b
         join b#1
         sync b#1 gen=2
         beat a epoch=1 owned=t-0,t-1
         heartbeat b#1 gen=2
         join b#1
         sync b#1 gen=2
         beat c
         heartbeat b#1 gen=2
         join b#1 owned=t-2,t-3
         sync b#1 gen=2
         heartbeat b#1 gen=2
         join b#1 owned=t-2
         sync b#1 gen=3
         describe-consumer
         heartbeat a
         leave b#1
         beat c epoch=3
         describe-consumer",
        expect![[r#"
            topics t:4
            beat a
                record g: a reads [t]
                record g: epoch 1
                record g: target a [t-0 t-1 t-2 t-3]
                record g: target epoch 1
                record g: a epoch 1 [t-0 t-1 t-2 t-3]
                beat a -> epoch 1, has [t-0 t-1 t-2 t-3]
            join b
                join b -> MEMBER_ID_REQUIRED b#1
            join b#1
                record g: b#1 reads [t]
                record g: epoch 2
                record g: target a [t-0 t-1]
                record g: target b#1 [t-2 t-3]
                record g: target epoch 2
                record g: b#1 epoch 2 []
                join b#1 -> b#1 in generation 2, range by "" []
            sync b#1 gen=2
                sync b#1 gen=2 -> assigned ""
            beat a epoch=1 owned=t-0,t-1
                record g: a epoch 2 [t-0 t-1]
                beat a epoch=1 owned=t-0,t-1 -> epoch 2, has [t-0 t-1]
            heartbeat b#1 gen=2
                heartbeat b#1 gen=2 -> REBALANCE_IN_PROGRESS
            join b#1
                record g: b#1 epoch 2 [t-2 t-3]
                join b#1 -> b#1 in generation 2, range by "" []
            sync b#1 gen=2
                sync b#1 gen=2 -> assigned "t-2 t-3"
            beat c
                record g: c reads [t]
                record g: epoch 3
                record g: target b#1 [t-2]
                record g: target c [t-3]
                record g: target epoch 3
                record g: c epoch 3 []
                beat c -> epoch 3, has []
            heartbeat b#1 gen=2
                heartbeat b#1 gen=2 -> REBALANCE_IN_PROGRESS
            join b#1 owned=t-2,t-3
                record g: b#1 reads [t]
                record g: b#1 epoch 2 [t-2] gives up [t-3]
                join b#1 owned=t-2,t-3 -> b#1 in generation 2, range by "" []
            sync b#1 gen=2
                sync b#1 gen=2 -> assigned "t-2"
            heartbeat b#1 gen=2
                heartbeat b#1 gen=2 -> REBALANCE_IN_PROGRESS
            join b#1 owned=t-2
                record g: b#1 reads [t]
                record g: b#1 epoch 3 [t-2]
                join b#1 owned=t-2 -> b#1 in generation 3, range by "" []
            sync b#1 gen=3
                sync b#1 gen=3 -> assigned "t-2"
            describe-consumer
                NONE Reconciling epoch 3 target 3 uniform
                a epoch 2 [t-0 t-1] of [t-0 t-1] type 1
                b#1 epoch 3 [t-2] of [t-2] type 0
                c epoch 3 [] of [t-3] type 1
            heartbeat a
                heartbeat a -> UNKNOWN_MEMBER_ID
            leave b#1
                record g: epoch 4
                record g: b#1 has nothing
                record g: target b#1 gone
                record g: b#1 gone
                leave b#1 -> NONE, b#1 NONE
            beat c epoch=3
                record g: target c [t-2 t-3]
                record g: target epoch 4
                record g: c epoch 4 [t-2 t-3]
                beat c epoch=3 -> epoch 4, has [t-2 t-3]
            describe-consumer
                NONE Reconciling epoch 4 target 4 uniform
                a epoch 2 [t-0 t-1] of [t-0 t-1] type 1
                c epoch 4 [t-2 t-3] of [t-2 t-3] type 1
        "#]],
    );
}

#[test]
fn a_group_whose_last_consumer_member_falls_silent_is_a_classic_one_again() {
    check(
        "beat a
         join b session=60000
         join b#1 session=60000
         sync b#1 gen=2
         wait 45000
         heartbeat b#1 gen=2
         describe",
        expect![[r#"
            beat a
                record g: a reads [t]
                record g: epoch 1
                record g: target a [t-0 t-1]
                record g: target epoch 1
                record g: a epoch 1 [t-0 t-1]
                beat a -> epoch 1, has [t-0 t-1]
            join b session=60000
                join b session=60000 -> MEMBER_ID_REQUIRED b#1
            join b#1 session=60000
                record g: b#1 reads [t]
                record g: epoch 2
                record g: target a [t-0]
                record g: target b#1 [t-1]
                record g: target epoch 2
                record g: b#1 epoch 2 []
                join b#1 session=60000 -> b#1 in generation 2, range by "" []
            sync b#1 gen=2
                sync b#1 gen=2 -> assigned ""
            wait 45000
                record g: a has nothing
                record g: target a gone
                record g: a gone
            heartbeat b#1 gen=2
                record g: b#1 has nothing
                record g: target b#1 gone
                record g: b#1 gone
                record g: target epoch gone
                record g: consumers gone
                record g: generation 2 [b#1=]
                heartbeat b#1 gen=2 -> REBALANCE_IN_PROGRESS
            describe
                NONE PreparingRebalance consumer  [b#1=]
        "#]],
    );
}

#[test]
fn an_instance_moves_to_the_other_protocol_and_back() {
    check(
        "beat a instance=i
         join b instance=i
         describe
         sync i#1 gen=1 i#1=@t-0,t-1 instance=i
         beat c instance=i
         beat c epoch=2 instance=i
         describe-consumer",
        expect![[r#"
            beat a instance=i
                record g: a reads [t]
                record g: epoch 1
                record g: target a [t-0 t-1]
                record g: target epoch 1
                record g: a epoch 1 [t-0 t-1]
                beat a instance=i -> epoch 1, has [t-0 t-1]
            join b instance=i
                record g: epoch 2
                record g: a has nothing
                record g: target a gone
                record g: a gone
                record g: target epoch gone
                record g: consumers gone
                record g: empty in generation 0
            describe
                NONE PreparingRebalance consumer  [i#1=]
            sync i#1 gen=1 i#1=@t-0,t-1 instance=i
                sync i#1 gen=1 i#1=@t-0,t-1 instance=i -> ILLEGAL_GENERATION
            beat c instance=i
                record g: gone
                record g: i#1 reads [t]
                record g: epoch 0
                record g: target i#1 []
                record g: i#1 epoch 0 []
                record g: target epoch 0
                record g: i#1 has nothing
                record g: target i#1 gone
                record g: i#1 gone
                record g: c reads [t]
                record g: target c []
                record g: c epoch 0 []
                record g: c reads [t]
                record g: epoch 1
                record g: target c [t-0 t-1]
                record g: target epoch 1
                record g: c epoch 1 [t-0 t-1]
                join b instance=i -> REBALANCE_IN_PROGRESS i#1
                beat c instance=i -> epoch 1, has [t-0 t-1]
            beat c epoch=2 instance=i
                beat c epoch=2 instance=i -> FENCED_MEMBER_EPOCH: the member is not in this epoch: it has to give up its partitions and join again
            describe-consumer
                NONE Stable epoch 1 target 1 uniform
                c epoch 1 [t-0 t-1] of [t-0 t-1] type 1
        "#]],
    );
}

#[test]
fn an_empty_group_takes_whoever_comes() {
    check(
        "beat a
         beat a epoch=-1
         join b
         join b#1
         wait 3000
         leave b#1
         beat c
         describe-consumer",
        expect![[r#"
            beat a
                record g: a reads [t]
                record g: epoch 1
                record g: target a [t-0 t-1]
                record g: target epoch 1
                record g: a epoch 1 [t-0 t-1]
                beat a -> epoch 1, has [t-0 t-1]
            beat a epoch=-1
                record g: epoch 2
                record g: a has nothing
                record g: target a gone
                record g: a gone
                beat a epoch=-1 -> epoch -1
            join b
                record g: target epoch gone
                record g: consumers gone
                record g: empty in generation 0
                join b -> MEMBER_ID_REQUIRED b#1
            join b#1
            wait 3000
                join b#1 -> b#1 in generation 1, range by b#1 [b#1]
            leave b#1
                record g: empty in generation 2
                leave b#1 -> NONE, b#1 NONE
            beat c
                record g: gone
                record g: c reads [t]
                record g: epoch 1
                record g: target c [t-0 t-1]
                record g: target epoch 1
                record g: c epoch 1 [t-0 t-1]
                beat c -> epoch 1, has [t-0 t-1]
            describe-consumer
                NONE Stable epoch 1 target 1 uniform
                c epoch 1 [t-0 t-1] of [t-0 t-1] type 1
        "#]],
    );
}

#[test]
fn an_instance_id_is_free_when_its_member_took_another() {
    check(
        "beat m instance=a
         beat m instance=b
         beat m epoch=-1 instance=b
         beat n instance=a
         crash
         describe-consumer",
        expect![[r#"
            beat m instance=a
                record g: m reads [t]
                record g: epoch 1
                record g: target m [t-0 t-1]
                record g: target epoch 1
                record g: m epoch 1 [t-0 t-1]
                beat m instance=a -> epoch 1, has [t-0 t-1]
            beat m instance=b
                record g: epoch 2
                record g: m has nothing
                record g: target m gone
                record g: m gone
                record g: m reads [t]
                record g: epoch 3
                record g: target m [t-0 t-1]
                record g: target epoch 3
                record g: m epoch 3 [t-0 t-1]
                beat m instance=b -> epoch 3, has [t-0 t-1]
            beat m epoch=-1 instance=b
                record g: epoch 4
                record g: m has nothing
                record g: target m gone
                record g: m gone
                beat m epoch=-1 instance=b -> epoch -1
            beat n instance=a
                record g: n reads [t]
                record g: epoch 5
                record g: target n [t-0 t-1]
                record g: target epoch 5
                record g: n epoch 5 [t-0 t-1]
                beat n instance=a -> epoch 5, has [t-0 t-1]
            crash
            describe-consumer
                NONE Stable epoch 5 target 5 uniform
                n epoch 5 [t-0 t-1] of [t-0 t-1] type 1
        "#]],
    );
}

#[test]
fn an_id_that_was_handed_out_is_good_for_the_group_that_comes() {
    check(
        "commit t-0=5
         join c
         beat d
         join c#1
         sync c#1 gen=2
         beat d epoch=-1
         heartbeat c#1 gen=2
         join c#1
         sync c#1 gen=3 c#1=@t-0,t-1",
        expect![[r#"
            commit t-0=5
                record g: t-0 = 5
                commit t-0=5 -> t-0 NONE
            join c
                join c -> MEMBER_ID_REQUIRED c#1
            beat d
                record g: d reads [t]
                record g: epoch 1
                record g: target d [t-0 t-1]
                record g: target epoch 1
                record g: d epoch 1 [t-0 t-1]
                beat d -> epoch 1, has [t-0 t-1]
            join c#1
                record g: c#1 reads [t]
                record g: epoch 2
                record g: target c#1 [t-1]
                record g: target d [t-0]
                record g: target epoch 2
                record g: c#1 epoch 2 []
                join c#1 -> c#1 in generation 2, range by "" []
            sync c#1 gen=2
                sync c#1 gen=2 -> assigned ""
            beat d epoch=-1
                record g: d has nothing
                record g: target d gone
                record g: d gone
                record g: c#1 has nothing
                record g: target c#1 gone
                record g: c#1 gone
                record g: target epoch gone
                record g: consumers gone
                record g: generation 2 [c#1=]
                beat d epoch=-1 -> epoch -1
            heartbeat c#1 gen=2
                heartbeat c#1 gen=2 -> REBALANCE_IN_PROGRESS
            join c#1
                join c#1 -> c#1 in generation 3, range by c#1 [c#1]
            sync c#1 gen=3 c#1=@t-0,t-1
                record g: generation 3 [c#1=t-0 t-1]
                sync c#1 gen=3 c#1=@t-0,t-1 -> assigned "t-0 t-1"
        "#]],
    );
}

#[test]
fn an_upgrade_in_the_middle_of_a_rebalance_gives_nobody_what_another_reads() {
    check(
        "join a
         join a#1
         wait 3000
         sync a#1 gen=1 a#1=@t-0,t-1
         join b
         join b#2
         join a#1 owned=t-0,t-1
         join c
         join c#3
         join a#1 owned=t-0,t-1
         beat d
         describe-consumer",
        expect![[r#"
            join a
                record g: empty in generation 0
                join a -> MEMBER_ID_REQUIRED a#1
            join a#1
            wait 3000
                join a#1 -> a#1 in generation 1, range by a#1 [a#1]
            sync a#1 gen=1 a#1=@t-0,t-1
                record g: generation 1 [a#1=t-0 t-1]
                sync a#1 gen=1 a#1=@t-0,t-1 -> assigned "t-0 t-1"
            join b
                join b -> MEMBER_ID_REQUIRED b#2
            join b#2
            join a#1 owned=t-0,t-1
                join a#1 owned=t-0,t-1 -> a#1 in generation 2, range by a#1 [a#1 b#2]
                join b#2 -> b#2 in generation 2, range by a#1 []
            join c
                join c -> MEMBER_ID_REQUIRED c#3
            join c#3
            join a#1 owned=t-0,t-1
            beat d
                record g: gone
                record g: a#1 reads [t]
                record g: b#2 reads [t]
                record g: c#3 reads [t]
                record g: epoch 2
                record g: target a#1 [t-0 t-1]
                record g: a#1 epoch 2 [t-0 t-1]
                record g: target b#2 []
                record g: b#2 epoch 2 []
                record g: target c#3 []
                record g: c#3 epoch 2 []
                record g: target epoch 2
                record g: d reads [t]
                record g: epoch 3
                record g: target a#1 [t-0]
                record g: target b#2 [t-1]
                record g: target d []
                record g: target epoch 3
                record g: d epoch 3 []
                join a#1 owned=t-0,t-1 -> REBALANCE_IN_PROGRESS a#1
                join c#3 -> REBALANCE_IN_PROGRESS c#3
                beat d -> epoch 3, has []
            describe-consumer
                NONE Reconciling epoch 3 target 3 uniform
                a#1 epoch 2 [t-0 t-1] of [t-0] type 0
                b#2 epoch 2 [] of [t-1] type 0
                c#3 epoch 2 [] of [] type 0
                d epoch 3 [] of [] type 1
        "#]],
    );
}

#[test]
fn a_classic_join_that_is_refused_changes_nothing() {
    check(
        "beat a
         commit member=a t-0=1 gen=1 topic-id=116
         join b type=connect
         join b protocols=
         beat a epoch=-1
         join b#9
         describe-consumer
         wait 1000
         join b
         describe",
        expect![[r#"
            beat a
                record g: a reads [t]
                record g: epoch 1
                record g: target a [t-0 t-1]
                record g: target epoch 1
                record g: a epoch 1 [t-0 t-1]
                beat a -> epoch 1, has [t-0 t-1]
            commit member=a t-0=1 gen=1 topic-id=116
                record g: t-0 = 1
                commit member=a t-0=1 gen=1 topic-id=116 -> t-0 NONE
            join b type=connect
                join b type=connect -> INCONSISTENT_GROUP_PROTOCOL ""
            join b protocols=
                join b protocols= -> INCONSISTENT_GROUP_PROTOCOL ""
            beat a epoch=-1
                record g: epoch 2
                record g: a has nothing
                record g: target a gone
                record g: a gone
                beat a epoch=-1 -> epoch -1
            join b#9
                join b#9 -> UNKNOWN_MEMBER_ID b#9
            describe-consumer
                NONE Empty epoch 2 target 1 uniform
            wait 1000
            join b
                record g: target epoch gone
                record g: consumers gone
                record g: empty in generation 2
                join b -> MEMBER_ID_REQUIRED b#1
            describe
                NONE Empty consumer  []
        "#]],
    );
}
