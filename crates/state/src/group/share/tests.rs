//! Stories of share groups, as text: heartbeats, what members are told, and what is to be begun.

use std::fmt::Write as _;

use expect_test::{Expect, expect};
use wire::messages::partition_record::PartitionRecord;
use wire::messages::topic_record::TopicRecord;

use super::*;
use crate::group::{GroupConfig, Replayed};
use crate::metadata::MetadataRecord;

const LIMITS: ShareGroupLimits = ShareGroupLimits { session_timeout_ms: 45, group_size_max: 3 };

struct Teller {
    groups: Groups,
    image: Image,
    log: Vec<CoordinatorRecord>,
    now: Now,
    told: String,
}

#[track_caller]
fn check(story: &str, expected: Expect) {
    let mut teller = Teller {
        groups: Groups::new(GroupConfig::default()),
        image: Image::default(),
        log: Vec::new(),
        now: Now::from(Millis(1_000)),
        told: String::new(),
    };
    for line in story.lines().map(str::trim).filter(|line| !line.is_empty()) {
        writeln!(teller.told, "{line}").unwrap();
        teller.step(line);
        teller.check_replay();
    }
    expected.assert_eq(&teller.told);
}

fn id(topic: &str) -> Uuid {
    Uuid([topic.as_bytes()[0]; 16])
}

fn tell(partitions: &Partitions) -> String {
    let topics = partitions.iter().map(|(id, indexes)| {
        let indexes: Vec<String> = indexes.iter().map(ToString::to_string).collect();
        format!("{}:{}", char::from(id.0[0]), indexes.join(","))
    });
    let told: Vec<String> = topics.collect();
    if told.is_empty() { "nothing".to_owned() } else { told.join(" ") }
}

impl Teller {
    fn step(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let group = Str::copy_from(words.get(1).copied().unwrap_or_default());
        let now = self.now;
        match words[0] {
            // name, partitions
            "topic" => {
                let partitions: i32 = words[2].parse().unwrap();
                let topic = TopicRecord { name: group.clone(), topic_id: id(&group) };
                if self.image.topic(&group).is_none() {
                    self.image.apply(&MetadataRecord::Topic(topic));
                }
                for partition_id in 0..partitions {
                    if self.image.partition(&group, wire::PartitionId(partition_id)).is_some() {
                        continue;
                    }
                    self.image.apply(&MetadataRecord::Partition(PartitionRecord {
                        partition_id,
                        topic_id: id(&group),
                        replicas: vec![1],
                        isr: vec![1],
                        leader: 1,
                        ..Default::default()
                    }));
                }
            }
            // group, member, epoch, topics
            "beat" => {
                let topics = words.get(4).map(|topics| topics.split(',').map(Str::copy_from).collect());
                let beat = ShareHeartbeat {
                    group,
                    member: Str::copy_from(words[2]),
                    member_epoch: words[3].parse().unwrap(),
                    rack: None,
                    topics,
                };
                let client = ClientInfo {
                    client_id: Str::from("c"),
                    client_host: Str::from("/127.0.0.1"),
                    api_version: 1,
                };
                let decided = self.groups.share_heartbeat(&beat, &client, LIMITS, &self.image, now);
                self.decided(decided, |answer| {
                    let mut told = format!("epoch {}", answer.member_epoch);
                    if let Some(assignment) = &answer.assignment {
                        write!(told, ", has {}", tell(assignment)).unwrap();
                    }
                    if !answer.to_initialize.is_empty() {
                        write!(told, ", to begin {}", tell(&answer.to_initialize)).unwrap();
                    }
                    if !answer.to_delete.is_empty() {
                        write!(told, ", to delete first {}", tell(&answer.to_delete)).unwrap();
                    }
                    told
                });
            }
            // group, member, topic, partitions
            "begun" => {
                let member = Str::copy_from(words[2]);
                let indexes = words[4].split(',').map(|index| index.parse().unwrap()).collect();
                let partitions = [(id(words[3]), indexes)].into();
                let decided =
                    self.groups.share_initialized(&group, Some(&member), &partitions, &self.image, now);
                self.decided(decided, |answer| {
                    let answer = answer.unwrap();
                    format!("epoch {}, has {}", answer.member_epoch, tell(&answer.assignment.unwrap()))
                });
            }
            "wait" => {
                self.now.ticks = self.now.ticks.plus(words[1].parse().unwrap());
                let outcome = self.groups.tick(self.now);
                self.log.extend(outcome.records);
            }
            "alter" => {
                let partitions = [(id(words[2]), [0].into())].into();
                let decided = self.groups.share_alter_offsets(&group, &partitions, &self.image, now);
                self.decided(decided, |epoch| format!("state epoch {epoch}"));
            }
            // group, topic
            "forget" => {
                let topics = [id(words[2])].into();
                let decided = self.groups.share_offsets_to_delete(&group, &topics, &self.image);
                self.decided(decided, |partitions| format!("to delete {}", tell(&partitions)));
            }
            // group, topic
            "forgotten" => {
                let topics = [id(words[2])].into();
                let decided = self.groups.share_state_deleted(&group, &topics, &self.image, now);
                self.decided(decided, |partitions| format!("to begin {}", tell(&partitions)));
            }
            "to-delete" => {
                let decided = self.groups.share_to_delete(&group, &self.image);
                match decided {
                    Some(decided) => {
                        self.decided(decided, |partitions| format!("to delete {}", tell(&partitions)))
                    }
                    None => writeln!(self.told, "  no share group").unwrap(),
                }
            }
            "delete" => {
                let decided = self.groups.share_delete(&group);
                self.decided(decided, |()| "ok".to_owned());
            }
            // Another broker coordinates the group.
            "move" => {
                self.groups = Groups::new(GroupConfig::default());
                for record in &self.log {
                    let record = Replayed::Record { key: &record.key, value: record.value.as_deref() };
                    self.groups.load(record).unwrap();
                }
                self.groups.loaded(now);
            }
            "describe" => {
                let described = self.groups.share_describe(&group, &self.image);
                let members: Vec<String> =
                    described.members.iter().map(|member| member.member_id.to_string()).collect();
                writeln!(
                    self.told,
                    "  {} {}/{} {}",
                    described.group_state,
                    described.group_epoch,
                    described.assignment_epoch,
                    members.join(",")
                )
                .unwrap();
            }
            unknown => panic!("{unknown}"),
        }
    }

    fn decided<Answer>(&mut self, (records, answer): ShareDecided<Answer>, tell: impl Fn(Answer) -> String) {
        let told = match answer {
            Ok(answer) => tell(answer),
            Err(refusal) => format!("{:?}: {refusal}", ErrorCode::from(&refusal)),
        };
        writeln!(self.told, "  {told}").unwrap();
        self.log.extend(records);
    }

    /// What the records say is what is known, but for the sessions.
    fn check_replay(&self) {
        let mut replayed = Groups::new(GroupConfig::default());
        for record in &self.log {
            let record = Replayed::Record { key: &record.key, value: record.value.as_deref() };
            replayed.load(record).unwrap();
        }
        let mut known = self.groups.share.groups.clone();
        for group in known.values_mut() {
            group.members.values_mut().for_each(|member| member.session = None);
            group.topics.retain(|_, topic| {
                topic.is_deleting || !(topic.initialized.is_empty() && topic.initializing.is_empty())
            });
        }
        assert_eq!(replayed.share.groups, known);
    }
}

#[test]
fn a_member_gets_partitions_when_their_share_state_has_begun() {
    check(
        "topic t 2
         beat g a 0 t
         begun g a t 0,1
         beat g a 2
         beat g b 0 t
         beat g a 2
         beat g a 3
         describe g",
        expect![[r#"
            topic t 2
            beat g a 0 t
              epoch 1, has nothing, to begin t:0,1
            begun g a t 0,1
              epoch 2, has t:0,1
            beat g a 2
              epoch 2
            beat g b 0 t
              epoch 3, has t:1
            beat g a 2
              epoch 3, has t:0
            beat g a 3
              epoch 3
            describe g
              Stable 3/3 a,b
        "#]],
    );
}

#[test]
fn topics_come_and_grow() {
    check(
        "beat g a 0 t
         topic t 1
         beat g a 1
         begun g a t 0
         topic t 2
         beat g a 3
         begun g a t 1
         beat g a 5 t,u",
        expect![[r#"
            beat g a 0 t
              epoch 1, has nothing
            topic t 1
            beat g a 1
              epoch 2, to begin t:0
            begun g a t 0
              epoch 3, has t:0
            topic t 2
            beat g a 3
              epoch 4, to begin t:1
            begun g a t 1
              epoch 5, has t:0,1
            beat g a 5 t,u
              epoch 6, has t:0,1
        "#]],
    );
}

#[test]
fn a_member_that_is_not_heard_of_is_gone_and_one_that_leaves_too() {
    check(
        "topic t 2
         beat g a 0 t
         begun g a t 0,1
         beat g b 0 t
         wait 44
         beat g a 2
         wait 1
         describe g
         beat g a 3
         beat g b 3
         beat g a -1
         describe g",
        expect![[r#"
            topic t 2
            beat g a 0 t
              epoch 1, has nothing, to begin t:0,1
            begun g a t 0,1
              epoch 2, has t:0,1
            beat g b 0 t
              epoch 3, has t:1
            wait 44
            beat g a 2
              epoch 3, has t:0
            wait 1
            describe g
              Stable 4/3 a
            beat g a 3
              epoch 4, has t:0,1
            beat g b 3
              UNKNOWN_MEMBER_ID(25): member b is not a member of group g
            beat g a -1
              epoch -1
            describe g
              Empty 5/4 
        "#]],
    );
}

#[test]
fn heartbeats_that_make_no_sense_change_nothing() {
    check(
        "topic t 1
         beat g a 5
         beat g a -1
         beat g a 0
         beat g a -2 t
         beat g a 0 t
         beat g a 7
         beat g b 3
         beat g b 0 t
         beat g c 0 t
         beat g d 0 t
         delete g
         alter g t
         forget g t
         delete h
         alter h t",
        expect![[r#"
            topic t 1
            beat g a 5
              GROUP_ID_NOT_FOUND(69): group g is not a share group
            beat g a -1
              GROUP_ID_NOT_FOUND(69): group g is not a share group
            beat g a 0
              INVALID_REQUEST(42): a member that joins names topics to subscribe to
            beat g a -2 t
              INVALID_REQUEST(42): a member's epoch is 0 to join, -1 to leave, or the one it is in
            beat g a 0 t
              epoch 1, has nothing, to begin t:0
            beat g a 7
              FENCED_MEMBER_EPOCH(110): the member is in epoch 1, not 7: it has to join again
            beat g b 3
              UNKNOWN_MEMBER_ID(25): member b is not a member of group g
            beat g b 0 t
              epoch 2, has nothing, to begin t:0
            beat g c 0 t
              epoch 3, has nothing, to begin t:0
            beat g d 0 t
              GROUP_MAX_SIZE_REACHED(81): the group has 3 members, as many as it may have (group.share.max.size)
            delete g
              NON_EMPTY_GROUP(68): the group has members
            alter g t
              NON_EMPTY_GROUP(68): the group has members
            forget g t
              NON_EMPTY_GROUP(68): the group has members
            delete h
              GROUP_ID_NOT_FOUND(69): group h is not a share group
            alter h t
              state epoch 1
        "#]],
    );
}

#[test]
fn a_group_without_members_is_moved_and_forgotten() {
    check(
        "topic t 1
         beat g a 0 t
         begun g a t 0
         beat g a -1
         alter g t
         forget g t
         forgotten g t
         beat g a 0 t
         beat g a -1
         to-delete g
         delete g
         describe g",
        expect![[r#"
            topic t 1
            beat g a 0 t
              epoch 1, has nothing, to begin t:0
            begun g a t 0
              epoch 2, has t:0
            beat g a -1
              epoch -1
            alter g t
              state epoch 4
            forget g t
              to delete t:0
            forgotten g t
              to begin nothing
            beat g a 0 t
              epoch 5, has nothing, to begin t:0
            beat g a -1
              epoch -1
            to-delete g
              to delete t:0
            delete g
              ok
            describe g
              Dead 0/0 
        "#]],
    );
}

#[test]
fn share_state_whose_deletion_was_broken_off_goes_before_it_begins_anew() {
    check(
        "topic t 2
         beat g a 0 t
         begun g a t 0,1
         beat g a -1
         forget g t
         move
         alter g t
         forget g t
         beat g a 0 t
         begun g a t 0,1
         forget g t
         forgotten g t
         begun g a t 0,1
         forgotten g t
         beat g a -1
         to-delete g
         move
         beat g a 0 t
         delete g
         beat g a -1
         to-delete g
         delete g
         to-delete g",
        expect![[r#"
            topic t 2
            beat g a 0 t
              epoch 1, has nothing, to begin t:0,1
            begun g a t 0,1
              epoch 2, has t:0,1
            beat g a -1
              epoch -1
            forget g t
              to delete t:0,1
            move
            alter g t
              COORDINATOR_NOT_AVAILABLE(15): share state of the group is being deleted
            forget g t
              to delete t:0,1
            beat g a 0 t
              epoch 4, has nothing, to delete first t:0,1
            begun g a t 0,1
              epoch 4, has nothing
            forget g t
              NON_EMPTY_GROUP(68): the group has members
            forgotten g t
              to begin t:0,1
            begun g a t 0,1
              epoch 5, has t:0,1
            forgotten g t
              to begin nothing
            beat g a -1
              epoch -1
            to-delete g
              to delete t:0,1
            move
            beat g a 0 t
              epoch 7, has nothing, to delete first t:0,1
            delete g
              NON_EMPTY_GROUP(68): the group has members
            beat g a -1
              epoch -1
            to-delete g
              to delete t:0,1
            delete g
              ok
            to-delete g
              no share group
        "#]],
    );
}

#[test]
fn a_group_that_has_share_state_again_is_not_deleted() {
    check(
        "topic t 1
         beat g a 0 t
         begun g a t 0
         beat g a -1
         to-delete g
         beat g b 0 t
         forgotten g t
         begun g b t 0
         beat g b -1
         delete g
         describe g",
        expect![[r#"
            topic t 1
            beat g a 0 t
              epoch 1, has nothing, to begin t:0
            begun g a t 0
              epoch 2, has t:0
            beat g a -1
              epoch -1
            to-delete g
              to delete t:0
            beat g b 0 t
              epoch 4, has nothing, to delete first t:0
            forgotten g t
              to begin t:0
            begun g b t 0
              epoch 5, has t:0
            beat g b -1
              epoch -1
            delete g
              NON_EMPTY_GROUP(68): the group has members
            describe g
              Empty 6/5 
        "#]],
    );
}

#[test]
fn offsets_are_not_committed_to_a_share_group() {
    use wire::messages::offset_commit::{
        OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
    };
    use wire::{ProducerEpoch, ProducerId, Response};

    use crate::group::Token;

    let mut groups = Groups::new(GroupConfig::default());
    let now = Now::from(Millis(1_000));
    let client =
        ClientInfo { client_id: Str::from("c"), client_host: Str::from("/127.0.0.1"), api_version: 1 };
    let beat = ShareHeartbeat {
        group: Str::from("g"),
        member: Str::from("a"),
        member_epoch: 0,
        rack: None,
        topics: Some(vec![Str::from("t")]),
    };
    groups.share_heartbeat(&beat, &client, LIMITS, &Image::default(), now).1.unwrap();
    let partition = OffsetCommitRequestPartition { committed_offset: 7, ..Default::default() };
    let topic =
        OffsetCommitRequestTopic { name: "t".into(), partitions: vec![partition], ..Default::default() };
    let request = OffsetCommitRequest {
        group_id: "g".into(),
        generation_id_or_member_epoch: -1,
        topics: vec![topic],
        ..Default::default()
    };
    let committed = groups.commit_offsets(Token(1), 9, &request, now);
    let in_transaction =
        groups.commit_in_transaction(Token(2), &request, (ProducerId(1), ProducerEpoch(0)), now);
    for outcome in [committed, in_transaction] {
        let [(_, Response::OffsetCommit(answer))] = &outcome.replies[..] else { panic!("{outcome:?}") };
        assert_eq!(answer.topics[0].partitions[0].error_code, ErrorCode::GROUP_ID_NOT_FOUND);
        assert!(outcome.records.is_empty());
    }
}
