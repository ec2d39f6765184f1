//! What becomes of partitions when brokers come and go, and when their leaders and operators ask.

use std::collections::BTreeMap;

use wire::{BrokerId, ErrorCode, LeaderEpoch, PartitionId, Str, Uuid};

use super::testing::{Rules, broker, commit, register, replicated};
use super::{
    AlterConfigs, AlterPartition, ConfigOp, ConfigResource, CreateTopic, EPOCH_UNKNOWN, Image, Mode,
    OutOfService, Partition, Reassignment, Refusal, RegisterBroker, TopicDefaults,
};

fn partition(image: &Image) -> &Partition {
    image.partition("t", PartitionId(0)).unwrap()
}

/// Leader, leader epoch, in sync, eligible.
fn tell(image: &Image) -> String {
    let partition = partition(image);
    let numbers = |ids: &[BrokerId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let leader = partition.leader.map_or("none".to_owned(), |leader| leader.to_string());
    format!(
        "{leader}@{} isr={} elr={}",
        partition.leader_epoch,
        numbers(&partition.isr),
        numbers(&partition.elr)
    )
}

fn fence(image: &mut Image, id: i32) {
    let decision = image.fence_broker(BrokerId(id), &Rules).unwrap();
    commit(image, decision);
}

fn unfence(image: &mut Image, id: i32) {
    let epoch = image.broker(BrokerId(id)).unwrap().epoch;
    let decision = image.unfence_broker(BrokerId(id), epoch, &Rules).unwrap();
    commit(image, decision);
}

/// Asks for a set in sync, with the epochs as they are.
fn alter(image: &mut Image, isr: &[i32], change: impl FnOnce(&mut AlterPartition)) -> Result<(), Refusal> {
    let before = partition(image).clone();
    let leader = before.leader.unwrap();
    let epoch_of = |id: i32| (BrokerId(id), image.broker(BrokerId(id)).map_or(0, |broker| broker.epoch));
    let mut wanted = AlterPartition {
        topic_id: image.topic("t").map_or(Uuid::ZERO, |topic| topic.id),
        partition: PartitionId(0),
        leader_epoch: before.leader_epoch,
        partition_epoch: before.partition_epoch,
        isr: isr.iter().copied().map(epoch_of).collect(),
    };
    change(&mut wanted);
    let epoch = image.broker(leader).unwrap().epoch;
    let decision = image.alter_partitions(leader, epoch, &[wanted], &Rules)?;
    commit(image, decision).remove(0).map(|_| ())
}

#[test]
fn a_fenced_leaders_partitions_are_led_by_another_in_sync() {
    let mut image = replicated(3);
    fence(&mut image, 1);
    assert_eq!(tell(&image), "2@1 isr=2,3 elr=");
    unfence(&mut image, 1);
    assert_eq!(tell(&image), "2@1 isr=2,3 elr=", "it has to catch up first");
}

#[test]
fn who_leaves_below_the_minimum_stays_eligible_and_leads_when_it_comes_back() {
    let mut image = replicated(3);
    for id in [1, 2, 3] {
        fence(&mut image, id);
    }
    assert_eq!(tell(&image), "none@3 isr= elr=2,3");
    unfence(&mut image, 1);
    assert_eq!(tell(&image), "none@3 isr= elr=2,3", "it left while the others went on");
    unfence(&mut image, 2);
    assert_eq!(tell(&image), "2@4 isr=2 elr=3");
}

#[test]
fn a_replaced_disk_is_eligible_nowhere() {
    let mut image = replicated(3);
    let mut wiped = broker(2);
    wiped.incarnation_id = Uuid::from_u128(77);
    wiped.log_dirs = vec![Uuid::from_u128(78)];
    wiped.fenced = true;
    fence(&mut image, 1);
    fence(&mut image, 3);
    assert_eq!(tell(&image), "2@1 isr=2 elr=3");
    register(&mut image, &wiped);
    unfence(&mut image, 2);
    assert_eq!(tell(&image), "none@2 isr= elr=3");
    unfence(&mut image, 3);
    assert_eq!(tell(&image), "3@3 isr=3 elr=");
}

#[test]
fn a_replica_out_of_service_is_relied_on_only_where_there_is_no_other() {
    let mut image = replicated(3);
    let place = (image.topic("t").unwrap().id, PartitionId(0));
    let take_out = |image: &mut Image, id: i32, why: OutOfService| {
        let epoch = image.broker(BrokerId(id)).unwrap().epoch;
        let replicas = BTreeMap::from([(place, why)]);
        let decision = image.take_out_of_service(BrokerId(id), epoch, &replicas, &Rules).unwrap();
        commit(image, decision)
    };
    let damaged = |epoch| OutOfService::Damaged { known_in: LeaderEpoch(epoch) };
    assert_eq!(take_out(&mut image, 1, damaged(0)).leaders_moved, 1);
    assert_eq!(tell(&image), "2@1 isr=2,3 elr=");
    take_out(&mut image, 3, OutOfService::Offline);
    assert_eq!(tell(&image), "2@1 isr=2 elr=3", "its disk has what it acknowledged");
    take_out(&mut image, 2, OutOfService::Offline);
    assert_eq!(tell(&image), "2@1 isr=2 elr=3", "nobody else is in sync");
    take_out(&mut image, 3, damaged(1));
    assert_eq!(tell(&image), "2@2 isr=2 elr=");
    take_out(&mut image, 2, damaged(2));
    assert_eq!(tell(&image), "2@2 isr=2 elr=", "nobody else could lead");
    take_out(&mut image, 1, damaged(1));
    assert_eq!(tell(&image), "2@2 isr=2 elr=", "this epoch's leader does not know it as it was");
    take_out(&mut image, 1, damaged(2));
    assert_eq!(tell(&image), "2@3 isr=2 elr=", "the leader forgets what it knew");
    assert_eq!(alter(&mut image, &[1, 2], |_| {}), Ok(()));
    assert_eq!(tell(&image), "2@3 isr=1,2 elr=");
}

#[test]
fn old_epochs_and_fenced_members_are_refused() {
    let mut image = replicated(3);
    let code = |outcome: Result<(), Refusal>| outcome.map_err(|refusal| ErrorCode::from(&refusal));
    let older = |wanted: &mut AlterPartition| wanted.isr[1].1 -= 1;
    assert_eq!(code(alter(&mut image, &[1, 2], older)), Err(ErrorCode::INELIGIBLE_REPLICA));
    let older = |wanted: &mut AlterPartition| wanted.leader_epoch = LeaderEpoch(-1);
    assert_eq!(code(alter(&mut image, &[1, 2], older)), Err(ErrorCode::FENCED_LEADER_EPOCH));
    let older = |wanted: &mut AlterPartition| wanted.partition_epoch -= 1;
    assert_eq!(code(alter(&mut image, &[1, 2], older)), Err(ErrorCode::INVALID_UPDATE_VERSION));
    fence(&mut image, 3);
    assert_eq!(code(alter(&mut image, &[1, 2, 3], |_| {})), Err(ErrorCode::INELIGIBLE_REPLICA));
    assert_eq!(alter(&mut image, &[1], |_| {}), Ok(()));
    assert_eq!(tell(&image), "1@0 isr=1 elr=2");
    unfence(&mut image, 3);
    assert_eq!(alter(&mut image, &[1, 2, 3], |_| {}), Ok(()));
    assert_eq!(tell(&image), "1@0 isr=1,2,3 elr=");
}

#[test]
fn a_reassignment_is_done_when_those_who_come_are_in_sync() {
    let mut image = replicated(3);
    register(&mut image, &broker(4));
    let move_to = |replicas: Option<&[i32]>| Reassignment {
        topic: Str::from("t"),
        partition: PartitionId(0),
        replicas: replicas.map(|ids| ids.iter().copied().map(BrokerId).collect()),
    };
    let decision = image.alter_reassignments(&[move_to(Some(&[4, 2, 3]))], true, &Rules);
    assert_eq!(commit(&mut image, decision).answers, [Ok(())]);
    assert_eq!(partition(&image).adding[..], [BrokerId(4)]);
    assert_eq!(partition(&image).removing[..], [BrokerId(1)]);
    // As Kafka tells a leader that its own request has taken the leadership from it.
    assert_eq!(alter(&mut image, &[1, 2, 3, 4], |_| {}), Err(Refusal::NewLeaderElected));
    assert_eq!(partition(&image).replicas[..], [4, 2, 3].map(BrokerId));
    assert!(partition(&image).leader.is_some_and(|leader| leader != BrokerId(1)));
    let decision = image.alter_reassignments(&[move_to(None)], true, &Rules);
    let refused = commit(&mut image, decision).answers.remove(0).map_err(|refusal| ErrorCode::from(&refusal));
    assert_eq!(refused, Err(ErrorCode::NO_REASSIGNMENT_IN_PROGRESS));
}

#[test]
fn a_leader_names_as_in_sync_whom_it_has_not_heard_yet_but_adds_nobody_unheard() {
    let mut image = replicated(3);
    fence(&mut image, 3);
    unfence(&mut image, 3);
    let unheard = |wanted: &mut AlterPartition| wanted.isr[1].1 = EPOCH_UNKNOWN;
    assert_eq!(alter(&mut image, &[1, 2, 3], unheard), Ok(()));
    fence(&mut image, 3);
    unfence(&mut image, 3);
    let unheard = |wanted: &mut AlterPartition| wanted.isr[2].1 = EPOCH_UNKNOWN;
    let refused = alter(&mut image, &[1, 2, 3], unheard).map_err(|refusal| ErrorCode::from(&refusal));
    assert_eq!(refused, Err(ErrorCode::INELIGIBLE_REPLICA));
}

#[test]
fn the_first_controllers_min_isr_is_the_clusters_and_nobody_is_eligible_by_another() {
    let mut image = replicated(3);
    fence(&mut image, 3);
    fence(&mut image, 2);
    assert_eq!(tell(&image), "1@0 isr=1 elr=2");
    let decision = image.settle_min_isr(Str::from("1"));
    commit(&mut image, decision);
    assert_eq!(tell(&image), "1@0 isr=1 elr=");
    assert_eq!(image.settle_min_isr(Str::from("3")).records.len(), 0, "it is settled");
}

/// Sets `min.insync.replicas` of topic `t`.
fn require(image: &mut Image, isr_min: &str) {
    let ops = vec![(Str::from("min.insync.replicas"), ConfigOp::Set(Str::copy_from(isr_min)))];
    let change = AlterConfigs { resource: ConfigResource::topic(Str::from("t")), ops };
    let decision = image.alter_configs(&[change], Mode::Apply, &Rules);
    commit(image, decision).remove(0).unwrap();
}

#[test]
fn nobody_stays_eligible_when_fewer_are_to_be_enough() {
    let mut image = replicated(3);
    alter(&mut image, &[1], |_| {}).unwrap();
    assert_eq!(tell(&image), "1@0 isr=1 elr=2,3");
    // From now on 1 acknowledges alone.
    require(&mut image, "1");
    assert_eq!(tell(&image), "1@0 isr=1 elr=");
    fence(&mut image, 1);
    assert_eq!(tell(&image), "none@1 isr= elr=1");
}

#[test]
fn who_was_eligible_while_nobody_was_in_sync_stays_so_whatever_is_enough() {
    let mut image = replicated(3);
    for id in [1, 2, 3] {
        fence(&mut image, id);
    }
    assert_eq!(tell(&image), "none@3 isr= elr=2,3");
    require(&mut image, "1");
    unfence(&mut image, 2);
    assert_eq!(tell(&image), "2@4 isr=2 elr=");
}

/// Broker 3 starts with these directories and the partition in one of them, or in none.
fn start_with(image: &mut Image, log_dirs: &[u128], held_in: Option<u128>, has_offline_dirs: bool) {
    let key = (image.topics().next().unwrap().id, PartitionId(0));
    let epoch = image.broker(BrokerId(3)).unwrap().epoch;
    let command = RegisterBroker {
        incarnation_id: Uuid::from_u128(10_000 + epoch as u128),
        has_offline_dirs,
        held: held_in.map(|dir| (key, Uuid::from_u128(dir))).into_iter().collect(),
        log_dirs: log_dirs.iter().copied().map(Uuid::from_u128).collect(),
        fenced: true,
        previous_epoch: epoch,
        ..broker(3)
    };
    register(image, &command);
}

#[test]
fn a_broker_without_one_of_its_disks_is_not_eligible_for_what_was_on_it() {
    let mut image = replicated(3);
    fence(&mut image, 2);
    fence(&mut image, 3);
    assert_eq!(tell(&image), "1@0 isr=1 elr=3");
    start_with(&mut image, &[1_003, 2_003, 3_003], None, false);
    assert_eq!(tell(&image), "1@0 isr=1 elr=3", "one more disk takes nothing away");
    start_with(&mut image, &[2_003], None, true);
    assert_eq!(tell(&image), "1@0 isr=1 elr=3", "nor does one that cannot be read just now");
    assert_eq!(image.broker(BrokerId(3)).unwrap().log_dirs.len(), 3, "and it is remembered");
    start_with(&mut image, &[2_003, 3_003], Some(3_003), false);
    assert_eq!(tell(&image), "1@0 isr=1 elr=3", "the partition was not on the one that is missing");
    start_with(&mut image, &[2_003], None, false);
    assert_eq!(tell(&image), "1@0 isr=1 elr=", "but on this one");
}

#[test]
fn a_disk_that_was_away_holds_nothing_that_counts() {
    // Another one was made at its mount point, and the replica is filled there.
    let filled_elsewhere = |log_dirs: &[u128]| {
        let mut image = replicated(3);
        start_with(&mut image, &[1_003, 2_003], None, false);
        start_with(&mut image, log_dirs, None, false);
        assert_eq!(tell(&image), "1@0 isr=1,2 elr=", "what was on the missing one is lost");
        fence(&mut image, 2);
        unfence(&mut image, 3);
        alter(&mut image, &[1, 3], |_| {}).unwrap();
        fence(&mut image, 3);
        assert_eq!(tell(&image), "1@0 isr=1 elr=3");
        image
    };
    let elsewhere = filled_elsewhere(&[1_003, 4_003]);
    let back = |log_dirs: &[u128], held_in: u128, has_offline_dirs: bool| {
        let mut image = elsewhere.clone();
        start_with(&mut image, log_dirs, Some(held_in), has_offline_dirs);
        tell(&image)
    };
    assert_eq!(back(&[1_003, 4_003], 4_003, false), "1@0 isr=1 elr=3", "it is still there");
    assert_eq!(back(&[1_003, 2_003, 4_003], 4_003, false), "1@0 isr=1 elr=3", "in the one that is known");
    assert_eq!(back(&[1_003, 2_003], 2_003, false), "1@0 isr=1 elr=", "the one of before is mounted again");
    assert_eq!(back(&[1_003, 2_003, 4_003], 2_003, false), "1@0 isr=1 elr=");
    assert_eq!(back(&[1_003, 2_003], 2_003, true), "1@0 isr=1 elr=", "whatever cannot be read");
}

#[test]
fn replicas_are_in_as_many_racks_as_there_are_on_every_round() {
    let mut image = Image::default();
    let racks = ["a", "a", "a", "b", "c"];
    for (id, rack) in (1..).zip(racks) {
        register(&mut image, &RegisterBroker { rack: Some(Str::from(rack)), ..broker(id) });
    }
    for replication_factor in 1..=5i16 {
        let topic = CreateTopic {
            name: Str::from(format!("of-{replication_factor}")),
            num_partitions: 40,
            replication_factor,
            ..CreateTopic::default()
        };
        let defaults = TopicDefaults { num_partitions: 1, replication_factor: 1 };
        let id = Uuid::from_u128(replication_factor as u128);
        let decision = image.create_topics(&[topic], Mode::Apply, defaults, &Rules, 0, &mut || id);
        commit(&mut image, decision).remove(0).1.unwrap();
        for (_, partition) in image.topic_by_id(id).unwrap().partitions() {
            let mut used: Vec<&str> = partition.replicas.iter().map(|id| racks[id.0 as usize - 1]).collect();
            used.sort_unstable();
            used.dedup();
            assert_eq!(used.len(), partition.replicas.len().min(3), "{:?}", partition.replicas);
        }
    }
}
