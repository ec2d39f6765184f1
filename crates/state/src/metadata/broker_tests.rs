//! Stories of brokers that come, go and ask, step by step, with the partitions of one topic after each.

use expect_test::expect;
use wire::{BrokerId, LeaderEpoch, PartitionId, Str, Uuid};

use super::testing::{Rules, broker, commit, register, tell, tell_refusal};
use super::{
    AlterPartition, Changes, CreateTopic, Decision, Election, Image, Mode, Partition, Reassignment, Refusal,
    RegisterBroker, TopicDefaults,
};

const UNCLEAN: &str = "unclean.leader.election.enable";

/// A cluster, and what happened to it and its topic `t` so far.
struct Story {
    image: Image,
    told: String,
    next_id: u128,
}

impl Story {
    fn new(brokers: i32, partitions: &[&[i32]], settings: &[&str]) -> Self {
        let mut story = Story::empty();
        for id in 1..=brokers {
            register(&mut story.image, &broker(id));
        }
        story.topic("t", partitions, settings);
        story
    }

    fn empty() -> Self {
        Story { image: Image::default(), told: String::new(), next_id: 0 }
    }

    fn topic(&mut self, name: &str, partitions: &[&[i32]], settings: &[&str]) {
        let replicas = |ids: &[i32]| ids.iter().copied().map(BrokerId).collect();
        self.create(CreateTopic {
            name: Str::copy_from(name),
            num_partitions: -1,
            replication_factor: -1,
            assignments: (0..).map(PartitionId).zip(partitions.iter().map(|ids| replicas(ids))).collect(),
            configs: settings.iter().map(|key| (Str::copy_from(key), Some(Str::from("set")))).collect(),
        });
    }

    fn create(&mut self, topic: CreateTopic) {
        self.next_id += 1;
        let id = Uuid::from_u128(self.next_id);
        let defaults = TopicDefaults { num_partitions: 1, replication_factor: 1 };
        let decision = self.image.create_topics(&[topic], Mode::Apply, defaults, &Rules, 0, &mut || id);
        for (_, created) in commit(&mut self.image, decision) {
            created.unwrap();
        }
    }

    /// One step: what was asked, what was answered, and how the partitions are since.
    fn step<R>(
        &mut self,
        what: &str,
        decided: Result<Decision<R>, Refusal>,
        answer: impl FnOnce(R) -> String,
    ) {
        let before = self.image.clone();
        let answer = match decided {
            Ok(decision) => answer(commit(&mut self.image, decision)),
            Err(refusal) => tell_refusal(&refusal),
        };
        let answer = if answer.is_empty() { answer } else { format!(": {answer}") };
        self.told += &format!("{what}{answer}\n");
        for (topic, id, partition) in self.image.all_partitions() {
            if before.partition(&topic.name, id) != Some(partition) {
                self.told += &format!("    {}-{id} {}\n", topic.name, tell_partition(partition));
            }
        }
    }

    fn fence(&mut self, id: i32) {
        let decided = self.image.fence_broker(BrokerId(id), &Rules);
        self.step(&format!("{id} falls silent"), decided, |changes| tell_changes(&changes));
    }

    fn unfence(&mut self, id: i32) {
        let decided = self.image.unfence_broker(BrokerId(id), self.epoch(id), &Rules);
        self.step(&format!("{id} is back"), decided, |changes| tell_changes(&changes));
    }

    fn stop(&mut self, id: i32) {
        let decided = self.image.begin_controlled_shutdown(BrokerId(id), self.epoch(id), &Rules);
        self.step(&format!("{id} wants to stop"), decided, |changes| tell_changes(&changes));
    }

    fn unregister(&mut self, id: i32) {
        let decided = self.image.unregister_broker(BrokerId(id), &Rules);
        self.step(&format!("{id} is unregistered"), decided, |changes| tell_changes(&changes));
    }

    /// A broker starts again, fenced and after an orderly stop unless said otherwise.
    fn restart(&mut self, what: &str, id: i32, set: impl FnOnce(&mut RegisterBroker)) {
        self.restart_while(what, id, false, set);
    }

    fn restart_while(&mut self, what: &str, id: i32, is_alive: bool, set: impl FnOnce(&mut RegisterBroker)) {
        let epoch = self.image.brokers().map(|broker| broker.epoch).max().unwrap_or(0) + 1;
        let mut command = RegisterBroker {
            incarnation_id: Uuid::from_u128(2_000 + epoch as u128),
            previous_epoch: self.epoch(id),
            fenced: true,
            ..broker(id)
        };
        set(&mut command);
        let decided = self.image.register_broker(&command, epoch, is_alive, &Rules);
        self.step(&format!("{id} {what}"), decided, |registered| tell_changes(&registered.changes));
    }

    /// The leader of a partition asks for a set in sync, with all epochs as they are unless said otherwise.
    fn in_sync(&mut self, id: i32, isr: &[i32]) {
        self.in_sync_but("", id, isr, |_| {});
    }

    fn in_sync_but(&mut self, but: &str, id: i32, isr: &[i32], set: impl FnOnce(&mut AlterPartition)) {
        let topic = self.image.topic("t").unwrap();
        let partition = topic.partition(PartitionId(id)).unwrap();
        let mut change = AlterPartition {
            topic_id: topic.id,
            partition: PartitionId(id),
            leader_epoch: partition.leader_epoch,
            partition_epoch: partition.partition_epoch,
            isr: isr.iter().map(|id| (BrokerId(*id), self.epoch(*id))).collect(),
        };
        set(&mut change);
        let leader = partition.leader.unwrap();
        let decided = self.image.alter_partitions(leader, self.epoch(leader.0), &[change], &Rules);
        self.step(&format!("{leader} sees {isr:?} in sync{but}"), decided, |mut reply| {
            tell_outcome(&reply.remove(0).map(|_| ()))
        });
    }

    fn elect(&mut self, election: Election) {
        let decision = self.image.elect_leaders(election, Some(&[(Str::from("t"), PartitionId(0))]), &Rules);
        self.step(&format!("{election:?} election"), Ok(decision), |mut reply| {
            tell_outcome(&reply.remove(0).1.map(|_| ()))
        });
    }

    fn reassign(&mut self, replicas: Option<&[i32]>, allow_factor_change: bool) {
        let replicas = replicas.map(|ids| ids.iter().copied().map(BrokerId).collect::<Vec<BrokerId>>());
        let what = replicas.as_ref().map_or("cancel".to_owned(), |replicas| format!("move to {replicas:?}"));
        let change = Reassignment { topic: Str::from("t"), partition: PartitionId(0), replicas };
        let decision = self.image.alter_reassignments(&[change], allow_factor_change, &Rules);
        self.step(&what, Ok(decision), |mut reply| {
            let changes = tell_changes(&reply.changes);
            let comma = if changes.is_empty() { "" } else { ", " };
            format!("{}{comma}{changes}", tell_outcome(&reply.answers.remove(0)))
        });
    }

    fn epoch(&self, id: i32) -> i64 {
        self.image.broker(BrokerId(id)).map_or(-1, |broker| broker.epoch)
    }
}

fn tell_partition(partition: &Partition) -> String {
    let numbers = |ids: &[BrokerId]| ids.iter().map(ToString::to_string).collect::<Vec<String>>().join(",");
    let leader = partition.leader.map_or("none".to_owned(), |leader| leader.to_string());
    let (replicas, isr) = (numbers(&partition.replicas), numbers(&partition.isr));
    let mut told = format!("{replicas}: {leader}@{} isr={isr}", partition.leader_epoch);
    let others = [
        ("elr", &partition.elr),
        ("last", &partition.last_known_elr),
        ("adding", &partition.adding),
        ("removing", &partition.removing),
    ];
    for (name, ids) in others.into_iter().filter(|(_, ids)| !ids.is_empty()) {
        told += &format!(" {name}={}", numbers(ids));
    }
    told
}

fn tell_changes(changes: &Changes) -> String {
    let unclean: Vec<String> = changes.unclean.iter().map(|(topic, id)| format!("{topic}-{id}")).collect();
    let mut told = Vec::new();
    if changes.leaders_moved > 0 {
        told.push(format!("moved {}", changes.leaders_moved));
    }
    if !changes.leaderless.is_empty() {
        told.push(format!("leaderless {}", changes.leaderless.len()));
    }
    if !unclean.is_empty() {
        told.push(format!("unclean {}", unclean.join(",")));
    }
    told.join(", ")
}

fn tell_outcome(outcome: &Result<(), Refusal>) -> String {
    outcome.as_ref().map_or_else(tell_refusal, |()| "ok".to_owned())
}

#[test]
fn a_fenced_leaders_partitions_move_to_a_live_one_in_sync_and_begin_an_epoch() {
    let mut story = Story::new(3, &[&[1, 2, 3], &[2, 1, 3], &[1, 3, 2]], &[]);
    story.fence(1);
    story.fence(1);
    story.unfence(1);
    story.in_sync(0, &[2, 3, 1]);
    expect![[r#"
        1 falls silent: moved 2
            t-0 1,2,3: 2@1 isr=2,3
            t-1 2,1,3: 2@0 isr=2,3
            t-2 1,3,2: 3@1 isr=3,2
        1 falls silent
        1 is back
        2 sees [2, 3, 1] in sync: ok
            t-0 1,2,3: 2@1 isr=2,3,1
    "#]]
    .assert_eq(&story.told);
}

#[test]
fn who_leaves_when_too_few_are_in_sync_stays_eligible_and_leads_when_it_comes_back() {
    let mut story = Story::new(3, &[&[1, 2, 3]], &[]);
    story.fence(3);
    story.fence(2);
    story.fence(1);
    story.unfence(3);
    story.unfence(2);
    story.in_sync(0, &[2, 3]);
    expect![[r#"
        3 falls silent
            t-0 1,2,3: 1@0 isr=1,2
        2 falls silent
            t-0 1,2,3: 1@0 isr=1 elr=2
        1 falls silent: leaderless 1
            t-0 1,2,3: none@1 isr= elr=1,2
        3 is back
        2 is back: moved 1
            t-0 1,2,3: 2@2 isr=2 elr=1
        2 sees [2, 3] in sync: ok
            t-0 1,2,3: 2@2 isr=2,3
    "#]]
    .assert_eq(&story.told);
}

#[test]
fn a_leader_that_is_alone_says_itself_who_stays_eligible() {
    let mut story = Story::new(3, &[&[1, 2, 3]], &[]);
    story.in_sync(0, &[1, 2]);
    story.in_sync(0, &[1]);
    story.in_sync(0, &[1, 3]);
    expect![[r#"
        1 sees [1, 2] in sync: ok
            t-0 1,2,3: 1@0 isr=1,2
        1 sees [1] in sync: ok
            t-0 1,2,3: 1@0 isr=1 elr=2
        1 sees [1, 3] in sync: ok
            t-0 1,2,3: 1@0 isr=1,3
    "#]]
    .assert_eq(&story.told);
}

#[test]
fn where_unclean_elections_are_allowed_somebody_leads_and_the_answer_names_the_partition() {
    let mut story = Story::new(3, &[&[1, 2, 3]], &[UNCLEAN]);
    story.fence(3);
    story.fence(2);
    story.fence(1);
    story.unfence(3);
    story.in_sync(0, &[3]);
    story.unfence(2);
    story.in_sync(0, &[3, 2]);
    expect![[r#"
        3 falls silent
            t-0 1,2,3: 1@0 isr=1,2
        2 falls silent
            t-0 1,2,3: 1@0 isr=1 elr=2
        1 falls silent: leaderless 1
            t-0 1,2,3: none@1 isr= elr=1,2
        3 is back: moved 1, unclean t-0
            t-0 1,2,3: 3@2 isr=3
        3 sees [3] in sync: ok
        2 is back
        3 sees [3, 2] in sync: ok
            t-0 1,2,3: 3@2 isr=3,2
    "#]]
    .assert_eq(&story.told);
}

#[test]
fn an_operator_may_ask_for_an_unclean_leader_only_where_nobody_leads() {
    let mut story = Story::new(3, &[&[1, 2, 3]], &[]);
    story.elect(Election::Unclean);
    for id in [3, 2, 1] {
        story.fence(id);
    }
    story.elect(Election::Unclean);
    story.unfence(3);
    story.elect(Election::Unclean);
    expect![[r#"
        Unclean election: ELECTION_NOT_NEEDED: Leader election not needed for topic partition.
        3 falls silent
            t-0 1,2,3: 1@0 isr=1,2
        2 falls silent
            t-0 1,2,3: 1@0 isr=1 elr=2
        1 falls silent: leaderless 1
            t-0 1,2,3: none@1 isr= elr=1,2
        Unclean election: ELIGIBLE_LEADERS_NOT_AVAILABLE: Eligible topic partition leaders are not available.
        3 is back
        Unclean election: ok
            t-0 1,2,3: 3@2 isr=3
    "#]]
    .assert_eq(&story.told);
}

#[test]
fn a_setting_that_allows_unclean_leaders_takes_effect_where_nobody_leads() {
    let mut story = Story::new(3, &[&[1, 2, 3]], &[UNCLEAN]);
    let strict = Story::new(3, &[&[1, 2, 3]], &[]).image;
    let set = std::mem::replace(&mut story.image, strict);
    for id in [3, 2, 1] {
        story.fence(id);
    }
    story.unfence(3);
    let decision = story.image.elect_where_nobody_leads(10, &Rules);
    story.step("nothing is set", Ok(decision), |changes| tell_changes(&changes));
    story.image.configs = set.configs;
    let decision = story.image.elect_where_nobody_leads(0, &Rules);
    story.step("none at once", Ok(decision), |changes| tell_changes(&changes));
    let decision = story.image.elect_where_nobody_leads(10, &Rules);
    story.step("ten at once", Ok(decision), |changes| tell_changes(&changes));
    expect![[r#"
        3 falls silent
            t-0 1,2,3: 1@0 isr=1,2
        2 falls silent
            t-0 1,2,3: 1@0 isr=1 elr=2
        1 falls silent: leaderless 1
            t-0 1,2,3: none@1 isr= elr=1,2
        3 is back
        nothing is set
        none at once
        ten at once: moved 1, unclean t-0
            t-0 1,2,3: 3@2 isr=3
    "#]]
    .assert_eq(&story.told);
}

#[test]
fn a_broker_with_another_disk_is_eligible_nowhere_and_not_elected_where_it_was_the_last() {
    let mut story = Story::new(3, &[&[1, 2, 3]], &[]);
    story.topic("alone", &[&[1]], &[]);
    story.restart("has another disk", 1, |command| command.log_dirs = vec![Uuid::from_u128(78)]);
    story.unfence(1);
    let decision = story.image.elect_where_nobody_leads(10, &Rules);
    story.step("nobody else has it", Ok(decision), |changes| tell_changes(&changes));
    expect![[r#"
        1 has another disk: moved 1, leaderless 1
            alone-0 1: none@1 isr= last=1
            t-0 1,2,3: 2@1 isr=2,3
        1 is back
        nobody else has it
    "#]]
    .assert_eq(&story.told);
}

#[test]
fn an_unclean_stop_costs_eligibility_only_where_records_are_acknowledged_unflushed() {
    let crash = |settings: &[&str]| {
        let mut story = Story::new(3, &[&[1, 2, 3]], settings);
        story.fence(3);
        story.fence(2);
        story.restart("crashed", 2, |command| command.previous_epoch = -1);
        story.restart("stopped in order", 2, |_| {});
        story.restart("crashed", 1, |command| command.previous_epoch = -1);
        story.told
    };
    expect![[r#"
        3 falls silent
            t-0 1,2,3: 1@0 isr=1,2
        2 falls silent
            t-0 1,2,3: 1@0 isr=1 elr=2
        2 crashed
        2 stopped in order
        1 crashed: leaderless 1
            t-0 1,2,3: none@1 isr= elr=1,2
    "#]]
    .assert_eq(&crash(&[]));
    expect![[r#"
        3 falls silent
            t-0 1,2,3: 1@0 isr=1,2
        2 falls silent
            t-0 1,2,3: 1@0 isr=1 elr=2
        2 crashed
            t-0 1,2,3: 1@0 isr=1
        2 stopped in order
        1 crashed: leaderless 1
            t-0 1,2,3: none@1 isr= elr=1
    "#]]
    .assert_eq(&crash(&["flush.before.ack"]));
}

#[test]
fn an_unflushed_copy_is_kept_where_it_is_the_last() {
    let mut story = Story::new(2, &[&[1]], &["flush.before.ack"]);
    story.restart("crashed", 1, |command| command.previous_epoch = -1);
    story.unfence(1);
    expect![[r#"
        1 crashed: leaderless 1
            t-0 1: none@1 isr= elr=1
        1 is back: moved 1
            t-0 1: 1@2 isr=1
    "#]]
    .assert_eq(&story.told);
}

#[test]
fn a_second_process_with_the_id_of_a_live_one_is_refused() {
    let mut story = Story::new(2, &[&[1, 2]], &[]);
    story.restart_while("starts twice", 1, true, |_| {});
    let same = story.image.broker(BrokerId(1)).unwrap().incarnation_id;
    story.restart_while("repeats itself", 1, true, |command| command.incarnation_id = same);
    assert_eq!(story.epoch(1), 1, "a repeated registration keeps its epoch");
    story.restart_while("starts after its session", 1, false, |_| {});
    assert_eq!(story.epoch(1), 3);
    expect![[r#"
        1 starts twice: DUPLICATE_BROKER_REGISTRATION: Another broker is registered with that broker id: a process with node.id 1 is running. If it is this one's predecessor, wait until its session ends; otherwise give one of the two another node.id.
        1 repeats itself
        1 starts after its session: moved 1
            t-0 1,2: 2@1 isr=2 elr=1
    "#]].assert_eq(&story.told);
}

#[test]
fn a_leader_that_starts_anew_without_being_fenced_begins_an_epoch_unless_it_is_alone() {
    let mut story = Story::new(2, &[&[1, 2], &[2, 1]], &[]);
    story.topic("alone", &[&[1]], &[]);
    story.restart("starts unfenced", 1, |command| command.fenced = false);
    expect![[r#"
        1 starts unfenced
            t-0 1,2: 1@1 isr=1,2
    "#]]
    .assert_eq(&story.told);
}

#[test]
fn a_leader_with_old_epochs_or_wrong_members_is_refused() {
    let mut story = Story::new(4, &[&[1, 2, 3]], &[]);
    story.restart("starts unfenced", 3, |command| command.fenced = false);
    story.in_sync(0, &[1, 2]);
    story.in_sync_but(", 3 as it was", 0, &[1, 2, 3], |change| change.isr[2].1 = 3);
    story.in_sync_but(", an epoch ago", 0, &[1], |change| change.leader_epoch = LeaderEpoch(-1));
    story.in_sync_but(", an epoch ahead", 0, &[1], |change| change.leader_epoch = LeaderEpoch(1));
    story.in_sync_but(", a change ago", 0, &[1], |change| change.partition_epoch -= 1);
    story.in_sync_but(", a change ahead", 0, &[1], |change| change.partition_epoch += 1);
    story.in_sync_but(" elsewhere", 0, &[1], |change| change.topic_id = Uuid::from_u128(77));
    story.in_sync_but(" elsewhere", 0, &[1], |change| change.partition = PartitionId(7));
    story.in_sync(0, &[1, 4]);
    story.in_sync(0, &[1, 2, 2]);
    story.in_sync(0, &[2]);
    story.in_sync(0, &[]);
    story.fence(3);
    story.in_sync(0, &[1, 2, 3]);
    story.unfence(3);
    story.stop(3);
    story.in_sync(0, &[1, 2, 3]);
    story.unregister(3);
    story.in_sync(0, &[1, 2, 3]);
    let asked = |leader: i32, epoch: i64| story.image.alter_partitions(BrokerId(leader), epoch, &[], &Rules);
    let former = asked(1, 0).map(|decision| decision.reply.len());
    let unknown = asked(9, 0).map(|decision| decision.reply.len());
    for refused in [former, unknown] {
        story.told += &format!("{}\n", tell_refusal(&refused.unwrap_err()));
    }
    expect![[r#"
        3 starts unfenced
        1 sees [1, 2] in sync: ok
            t-0 1,2,3: 1@0 isr=1,2
        1 sees [1, 2, 3] in sync, 3 as it was: INELIGIBLE_REPLICA: The new ISR contains at least one ineligible replica: 3 (broker epoch mismatch: requested=3 VS expected=5).
        1 sees [1] in sync, an epoch ago: FENCED_LEADER_EPOCH: The leader epoch -1 in the request is older than the epoch 0 of the partition.
        1 sees [1] in sync, an epoch ahead: NOT_CONTROLLER: This is not the correct controller for this cluster: leader epoch 1 of the request is newer than 0.
        1 sees [1] in sync, a change ago: INVALID_UPDATE_VERSION: The given update version was invalid: the partition epoch is 1, not 0.
        1 sees [1] in sync, a change ahead: NOT_CONTROLLER: This is not the correct controller for this cluster: partition epoch 2 of the request is newer than 1.
        1 sees [1] in sync elsewhere: UNKNOWN_TOPIC_ID: This server does not host this topic ID.
        1 sees [1] in sync elsewhere: UNKNOWN_TOPIC_OR_PARTITION: This server does not host this topic-partition.
        1 sees [1, 4] in sync: INVALID_REQUEST: The new ISR [1, 4] includes broker 4, which is not one of the replicas.
        1 sees [1, 2, 2] in sync: INVALID_REQUEST: The new ISR [1, 2, 2] includes broker 2 more than once.
        1 sees [2] in sync: INVALID_REQUEST: The new ISR [2] does not include the leader 1.
        1 sees [] in sync: INVALID_REQUEST: The new ISR [] does not include the leader 1.
        3 falls silent
        1 sees [1, 2, 3] in sync: INELIGIBLE_REPLICA: The new ISR contains at least one ineligible replica: 3 (fenced).
        3 is back
        3 wants to stop
        1 sees [1, 2, 3] in sync: INELIGIBLE_REPLICA: The new ISR contains at least one ineligible replica: 3 (shutting down).
        3 is unregistered
        1 sees [1, 2, 3] in sync: INELIGIBLE_REPLICA: The new ISR contains at least one ineligible replica: 3 (not registered).
        STALE_BROKER_EPOCH: Expected broker epoch 1, but got broker epoch 0
        BROKER_ID_NOT_REGISTERED: No broker with id 9 found.
    "#]].assert_eq(&story.told);
}

#[test]
fn who_does_not_lead_may_not_say_who_is_in_sync() {
    let story = Story::new(2, &[&[1, 2]], &[]);
    let change = AlterPartition {
        topic_id: story.image.topic("t").unwrap().id,
        partition: PartitionId(0),
        leader_epoch: LeaderEpoch(0),
        partition_epoch: 0,
        isr: vec![(BrokerId(2), 2)],
    };
    let decision = story.image.alter_partitions(BrokerId(2), 2, &[change], &Rules).unwrap();
    assert!(decision.records.is_empty());
    let refused = decision.reply.into_iter().map(|reply| tell_refusal(&reply.unwrap_err()));
    expect!["INVALID_REQUEST: Broker 2 does not lead the partition, 1 does."]
        .assert_eq(&refused.collect::<String>());
}

#[test]
fn a_reassignment_is_done_when_all_who_come_are_in_sync() {
    let mut story = Story::new(5, &[&[1, 2, 3]], &[]);
    story.reassign(Some(&[4, 5, 3]), false);
    assert_eq!(story.image.reassignments().count(), 1);
    story.in_sync(0, &[1, 2, 3, 4]);
    story.in_sync(0, &[1, 3, 4, 5]);
    assert_eq!(story.image.reassignments().count(), 0);
    story.reassign(Some(&[3, 4, 5]), false);
    story.elect(Election::Preferred);
    expect![[r#"
        move to [BrokerId(4), BrokerId(5), BrokerId(3)]: ok
            t-0 4,5,3,1,2: 1@0 isr=1,2,3 adding=4,5 removing=1,2
        1 sees [1, 2, 3, 4] in sync: ok
            t-0 4,5,3,1,2: 1@0 isr=1,2,3,4 adding=4,5 removing=1,2
        1 sees [1, 3, 4, 5] in sync: NEW_LEADER_ELECTED: The AlterPartition request successfully updated the partition state but the leader has changed.
            t-0 4,5,3: 4@1 isr=3,4,5
        move to [BrokerId(3), BrokerId(4), BrokerId(5)]: ok
            t-0 3,4,5: 4@1 isr=3,4,5
        Preferred election: ok
            t-0 3,4,5: 3@2 isr=3,4,5
    "#]].assert_eq(&story.told);
}

#[test]
fn a_reassignment_can_be_changed_on_the_way_and_cancelled() {
    let mut story = Story::new(5, &[&[1, 2]], &[]);
    story.reassign(None, false);
    story.reassign(Some(&[1, 2, 3]), false);
    story.reassign(Some(&[9, 2]), false);
    story.reassign(Some(&[3, 2]), false);
    story.in_sync(0, &[1, 2]);
    story.reassign(Some(&[4, 5]), false);
    story.in_sync(0, &[1, 2, 4]);
    story.reassign(None, false);
    story.reassign(None, false);
    story.reassign(Some(&[1]), true);
    expect![[r#"
        cancel: NO_REASSIGNMENT_IN_PROGRESS: No partition reassignment is in progress.
        move to [BrokerId(1), BrokerId(2), BrokerId(3)]: INVALID_REPLICATION_FACTOR: The replication factor is changed from 2 to 3
        move to [BrokerId(9), BrokerId(2)]: INVALID_REPLICA_ASSIGNMENT: The manual partition assignment includes broker 9, but no such broker is registered.
        move to [BrokerId(3), BrokerId(2)]: ok
            t-0 3,2,1: 1@0 isr=1,2 adding=3 removing=1
        1 sees [1, 2] in sync: ok
        move to [BrokerId(4), BrokerId(5)]: ok
            t-0 4,5,1,2: 1@1 isr=1,2 adding=4,5 removing=1,2
        1 sees [1, 2, 4] in sync: ok
            t-0 4,5,1,2: 1@1 isr=1,2,4 adding=4,5 removing=1,2
        cancel: ok
            t-0 1,2: 1@2 isr=1,2
        cancel: NO_REASSIGNMENT_IN_PROGRESS: No partition reassignment is in progress.
        move to [BrokerId(1)]: ok
            t-0 1: 1@3 isr=1
    "#]].assert_eq(&story.told);
}

#[test]
fn cancelling_does_not_give_up_the_last_copies_unless_unclean_leaders_are_allowed() {
    let cancel = |settings: &[&str]| {
        let mut story = Story::new(4, &[&[1, 2]], settings);
        story.reassign(Some(&[3, 4]), false);
        story.in_sync(0, &[1, 2, 3]);
        story.restart("has another disk", 1, |command| command.log_dirs = vec![Uuid::from_u128(78)]);
        story.restart("has another disk", 2, |command| command.log_dirs = vec![Uuid::from_u128(79)]);
        story.unfence(1);
        story.reassign(None, false);
        story.told
    };
    expect![[r#"
        move to [BrokerId(3), BrokerId(4)]: ok
            t-0 3,4,1,2: 1@0 isr=1,2 adding=3,4 removing=1,2
        1 sees [1, 2, 3] in sync: ok
            t-0 3,4,1,2: 1@0 isr=1,2,3 adding=3,4 removing=1,2
        1 has another disk: moved 1
            t-0 3,4,1,2: 3@1 isr=2,3 adding=3,4 removing=1,2
        2 has another disk
            t-0 3,4,1,2: 3@1 isr=3 adding=3,4 removing=1,2
        1 is back
        cancel: INVALID_REPLICA_ASSIGNMENT: Unable to revert partition assignment for t:0 because it would require an unclean leader election: wait until one of the replicas that stay is in sync, or have one elected first.
    "#]].assert_eq(&cancel(&[]));
    expect![[r#"
        move to [BrokerId(3), BrokerId(4)]: ok
            t-0 3,4,1,2: 1@0 isr=1,2 adding=3,4 removing=1,2
        1 sees [1, 2, 3] in sync: ok
            t-0 3,4,1,2: 1@0 isr=1,2,3 adding=3,4 removing=1,2
        1 has another disk: moved 1
            t-0 3,4,1,2: 3@1 isr=2,3 adding=3,4 removing=1,2
        2 has another disk
            t-0 3,4,1,2: 3@1 isr=3 adding=3,4 removing=1,2
        1 is back
        cancel: ok, moved 1, unclean t-0
            t-0 1,2: 1@2 isr=1
    "#]]
    .assert_eq(&cancel(&[UNCLEAN]));
}

#[test]
fn cancelling_never_leaves_a_partition_to_nobody() {
    let mut story = Story::new(3, &[&[1]], &[UNCLEAN]);
    story.reassign(Some(&[3]), true);
    story.fence(1);
    story.reassign(None, true);
    expect![[r#"
        move to [BrokerId(3)]: ok
            t-0 3,1: 1@0 isr=1 adding=3 removing=1
        1 falls silent: moved 1, unclean t-0
            t-0 3,1: 3@1 isr=3 adding=3 removing=1
        cancel: INVALID_REPLICA_ASSIGNMENT: Unable to revert partition assignment for t:0 because it would require an unclean leader election: wait until one of the replicas that stay is in sync, or have one elected first.
    "#]].assert_eq(&story.told);

    let mut story = Story::new(3, &[&[1]], &[]);
    story.reassign(Some(&[3]), true);
    story.fence(1);
    story.elect(Election::Unclean);
    story.restart("has another disk", 3, |command| command.log_dirs = vec![Uuid::from_u128(78)]);
    story.reassign(None, true);
    expect![[r#"
        move to [BrokerId(3)]: ok
            t-0 3,1: 1@0 isr=1 adding=3 removing=1
        1 falls silent: leaderless 1
            t-0 3,1: none@1 isr= elr=1 adding=3 removing=1
        Unclean election: ok
            t-0 3,1: 3@2 isr=3 adding=3 removing=1
        3 has another disk: leaderless 1
            t-0 3,1: none@3 isr= last=3 adding=3 removing=1
        cancel: INVALID_REPLICA_ASSIGNMENT: Unable to revert partition assignment for t:0 because it would require an unclean leader election: wait until one of the replicas that stay is in sync, or have one elected first.
    "#]].assert_eq(&story.told);
}

#[test]
fn the_preferred_leader_is_elected_once_it_is_in_sync() {
    let mut story = Story::new(3, &[&[1, 2, 3]], &[]);
    story.elect(Election::Preferred);
    story.fence(1);
    story.elect(Election::Preferred);
    story.unfence(1);
    story.elect(Election::Preferred);
    story.in_sync(0, &[1, 2, 3]);
    story.elect(Election::Preferred);
    let all = story.image.elect_leaders(Election::Preferred, None, &Rules);
    story.step("of all", Ok(all), |reply| format!("{} answers", reply.len()));
    let unknown =
        story.image.elect_leaders(Election::Preferred, Some(&[(Str::from("u"), PartitionId(0))]), &Rules);
    story.step("of another", Ok(unknown), |mut reply| tell_outcome(&reply.remove(0).1.map(|_| ())));
    expect![[r#"
        Preferred election: ELECTION_NOT_NEEDED: Leader election not needed for topic partition.
        1 falls silent: moved 1
            t-0 1,2,3: 2@1 isr=2,3
        Preferred election: PREFERRED_LEADER_NOT_AVAILABLE: The preferred leader was not available.
        1 is back
        Preferred election: PREFERRED_LEADER_NOT_AVAILABLE: The preferred leader was not available.
        2 sees [1, 2, 3] in sync: ok
            t-0 1,2,3: 2@1 isr=1,2,3
        Preferred election: ok
            t-0 1,2,3: 1@2 isr=1,2,3
        of all: 0 answers
        of another: UNKNOWN_TOPIC_OR_PARTITION: This server does not host this topic-partition.
    "#]]
    .assert_eq(&story.told);
}

#[test]
fn leaders_are_balanced_where_too_many_are_led_by_others_and_few_at_a_time() {
    let mut story = Story::new(3, &[&[1, 2], &[1, 3], &[2, 1], &[1, 2]], &[]);
    story.fence(1);
    story.unfence(1);
    for id in [0, 1, 3] {
        let leader = story.image.partition("t", PartitionId(id)).unwrap().leader.unwrap();
        story.in_sync(id, &[leader.0, 1]);
    }
    for (percent, changes_max) in [(100, 9), (10, 0), (10, 2), (34, 9), (33, 9), (0, 9)] {
        let decision = story.image.balance_leaders(percent, changes_max, &Rules);
        let what = format!("over {percent}%, at most {changes_max}");
        story.step(&what, Ok(decision), |moved| format!("{moved} moved"));
    }
    expect![[r#"
        1 falls silent: moved 3
            t-0 1,2: 2@1 isr=2 elr=1
            t-1 1,3: 3@1 isr=3 elr=1
            t-2 2,1: 2@0 isr=2 elr=1
            t-3 1,2: 2@1 isr=2 elr=1
        1 is back
        2 sees [2, 1] in sync: ok
            t-0 1,2: 2@1 isr=2,1
        3 sees [3, 1] in sync: ok
            t-1 1,3: 3@1 isr=3,1
        2 sees [2, 1] in sync: ok
            t-3 1,2: 2@1 isr=2,1
        over 100%, at most 9: 0 moved
        over 10%, at most 0: 0 moved
        over 10%, at most 2: 2 moved
            t-0 1,2: 1@2 isr=2,1
            t-1 1,3: 1@2 isr=3,1
        over 34%, at most 9: 0 moved
        over 33%, at most 9: 1 moved
            t-3 1,2: 1@2 isr=2,1
        over 0%, at most 9: 0 moved
    "#]]
    .assert_eq(&story.told);
}

#[test]
fn a_broker_that_stops_hands_over_what_it_can_and_leads_on_where_it_is_alone() {
    let mut story = Story::new(3, &[&[1, 2, 3], &[2, 1, 3], &[3, 2, 1]], &[]);
    story.topic("alone", &[&[1]], &[]);
    story.stop(1);
    story.stop(1);
    story.fence(1);
    story.restart("stopped in order", 1, |_| {});
    story.unfence(1);
    expect![[r#"
        1 wants to stop: moved 1
            t-0 1,2,3: 2@1 isr=2,3
            t-1 2,1,3: 2@0 isr=2,3
            t-2 3,2,1: 3@0 isr=3,2
        1 wants to stop
        1 falls silent: leaderless 1
            alone-0 1: none@1 isr= elr=1
        1 stopped in order
        1 is back: moved 1
            alone-0 1: 1@2 isr=1
    "#]]
    .assert_eq(&story.told);
}

#[test]
fn the_last_two_in_sync_may_stop_one_after_the_other() {
    let mut story = Story::new(2, &[&[1, 2]], &[]);
    story.stop(1);
    story.stop(2);
    story.fence(1);
    story.fence(2);
    story.restart("stopped in order", 1, |_| {});
    story.unfence(1);
    expect![[r#"
        1 wants to stop: moved 1
            t-0 1,2: 2@1 isr=2 elr=1
        2 wants to stop
        1 falls silent
        2 falls silent: leaderless 1
            t-0 1,2: none@2 isr= elr=1,2
        1 stopped in order
        1 is back: moved 1
            t-0 1,2: 1@3 isr=1 elr=2
    "#]]
    .assert_eq(&story.told);
}

#[test]
fn an_unregistered_broker_is_no_longer_eligible() {
    let mut story = Story::new(3, &[&[1, 2, 3]], &[]);
    story.fence(3);
    story.fence(2);
    story.unregister(2);
    story.unregister(1);
    story.unregister(1);
    story.restart("starts elsewhere", 1, |_| {});
    story.unfence(1);
    story.unfence(3);
    expect![[r#"
        3 falls silent
            t-0 1,2,3: 1@0 isr=1,2
        2 falls silent
            t-0 1,2,3: 1@0 isr=1 elr=2
        2 is unregistered
            t-0 1,2,3: 1@0 isr=1
        1 is unregistered: leaderless 1
            t-0 1,2,3: none@1 isr= last=1
        1 is unregistered: BROKER_ID_NOT_REGISTERED: No broker with id 1 found.
        1 starts elsewhere
        1 is back
        3 is back
    "#]]
    .assert_eq(&story.told);
}

#[test]
fn replicas_stand_in_different_racks() {
    let mut story = Story::empty();
    for (id, rack) in (1..).zip(["a", "a", "b", "b", "c", "c"]) {
        register(&mut story.image, &RegisterBroker { rack: Some(Str::from(rack)), ..broker(id) });
    }
    for (name, num_partitions, replication_factor) in [("one-other", 7, 2), ("two-others", 3, 3)] {
        let name = Str::from(name);
        story.create(CreateTopic { name, num_partitions, replication_factor, ..CreateTopic::default() });
    }
    expect![[r#"
        one-other 0:1,3@1 1:3,5@3 2:5,2@5 3:2,4@2 4:4,6@4 5:6,1@6 6:1,5@1
        two-others 0:1,3,5@1 1:3,5,2@3 2:5,2,4@5
    "#]]
    .assert_eq(&tell(&story.image));
}

#[test]
fn fenced_brokers_get_replicas_last_and_never_lead() {
    let mut story = Story::new(4, &[&[1]], &[]);
    story.fence(2);
    story.fence(3);
    for replication_factor in [2, 3, 4] {
        story.create(CreateTopic {
            name: Str::from(format!("of-{replication_factor}")),
            num_partitions: 3,
            replication_factor,
            ..CreateTopic::default()
        });
    }
    expect![[r#"
        of-2 0:1,4@1 1:4,1@4 2:1,4@1
        of-3 0:1,4,2@1 1:4,1,3@4 2:1,4,2@1
        of-4 0:1,4,2,3@1 1:4,1,3,2@4 2:1,4,2,3@1
        t 0:1@1
    "#]]
    .assert_eq(&tell(&story.image));
}
