//! What a leader lets be seen, and whom it counts.

use wire::{BrokerId, LeaderEpoch, Millis, Offset};

use super::{Assignment, Fetched, Leader, LeaderStart};

const LAG_MAX_MS: i64 = 1_000;

fn assignment(isr: &[i32], partition_epoch: i32) -> Assignment {
    Assignment {
        leader_epoch: LeaderEpoch(3),
        partition_epoch,
        replicas: [1, 2, 3].map(BrokerId).to_vec(),
        isr: isr.iter().copied().map(BrokerId).collect(),
        isr_min: 2,
    }
}

/// Broker 1 leads 1, 2 and 3; its log ends at 100, all of it durable.
fn leader(isr: &[i32]) -> Leader {
    Leader::new(LeaderStart {
        this: BrokerId(1),
        assignment: assignment(isr, 0),
        high_watermark: Offset(90),
        log_end: Offset(100),
        durable_end: Offset(100),
        now: Millis(0),
    })
}

fn fetch(leader: &mut Leader, replica: i32, offset: i64, durable_end: i64, now: i64) -> Option<i64> {
    let fetched = Fetched {
        replica: BrokerId(replica),
        broker_epoch: 7,
        offset: Offset(offset),
        durable_end: Offset(durable_end),
        now: Millis(now),
    };
    leader.fetched(fetched).map(|offset| offset.0)
}

fn propose(leader: &mut Leader, now: i64) -> Option<Vec<i32>> {
    let proposal = leader.propose(Millis(now), LAG_MAX_MS, |_| true)?;
    Some(proposal.isr.iter().map(|(id, _)| id.0).collect())
}

#[test]
fn what_is_received_and_not_durable_is_no_vote() {
    let mut leader = leader(&[1, 2]);
    assert_eq!(fetch(&mut leader, 2, 100, 92, 1), Some(92));
    assert_eq!(fetch(&mut leader, 2, 100, 100, 2), Some(100));
    assert_eq!(leader.local_progress(Offset(110), Offset(100)), None);
    assert_eq!(fetch(&mut leader, 2, 110, 110, 3), None, "the leader's own flush counts too");
    assert_eq!(leader.local_progress(Offset(110), Offset(110)), Some(Offset(110)));
}

#[test]
fn a_member_that_is_being_added_already_counts() {
    let mut leader = leader(&[1, 2]);
    fetch(&mut leader, 2, 100, 100, 1);
    fetch(&mut leader, 3, 100, 100, 1);
    assert_eq!(propose(&mut leader, 2), Some(vec![1, 2, 3]));
    leader.local_progress(Offset(120), Offset(120));
    assert_eq!(fetch(&mut leader, 2, 120, 120, 3), None, "3 may be in the set by now, and has only 100");
    assert_eq!(leader.proposal_refused(), Some(Offset(120)));
}

#[test]
fn below_the_minimum_nothing_becomes_safe() {
    let mut leader = leader(&[1]);
    leader.local_progress(Offset(110), Offset(110));
    assert_eq!(leader.high_watermark(), Offset(90));
    assert!(!leader.has_enough_in_sync());
    fetch(&mut leader, 2, 110, 110, 1);
    assert_eq!(propose(&mut leader, 2), Some(vec![1, 2]));
    assert_eq!(leader.high_watermark(), Offset(90), "asked for is not given");
    assert_eq!(leader.update(assignment(&[1, 2], 1), Millis(3)), Some(Offset(110)));
}

#[test]
fn a_follower_joins_after_the_start_of_the_epoch_and_not_before() {
    let mut leader = leader(&[1, 2]);
    fetch(&mut leader, 2, 95, 95, 1);
    fetch(&mut leader, 3, 99, 99, 1);
    assert_eq!(leader.high_watermark(), Offset(95));
    assert_eq!(propose(&mut leader, 2), None, "an earlier leader may have acknowledged up to 100");
    fetch(&mut leader, 3, 100, 100, 3);
    assert_eq!(propose(&mut leader, 4), Some(vec![1, 2, 3]));
}

#[test]
fn who_falls_behind_is_taken_out_and_holds_the_watermark_until_that_is_committed() {
    let mut leader = leader(&[1, 2, 3]);
    fetch(&mut leader, 2, 100, 100, 10);
    fetch(&mut leader, 3, 100, 100, 10);
    leader.local_progress(Offset(200), Offset(200));
    fetch(&mut leader, 2, 200, 200, 900);
    fetch(&mut leader, 3, 200, 100, 900);
    assert_eq!(propose(&mut leader, 1_000), None);
    fetch(&mut leader, 2, 200, 200, 1_100);
    assert_eq!(propose(&mut leader, 1_100), Some(vec![1, 2]), "a stuck disk is as bad as a stuck network");
    assert_eq!(leader.high_watermark(), Offset(100));
    assert_eq!(leader.update(assignment(&[1, 2], 1), Millis(1_101)), Some(Offset(200)));
}

#[test]
fn a_follower_that_is_always_a_flush_behind_stays_in_sync() {
    let mut leader = leader(&[1, 2]);
    let mut end = 100;
    for now in (0..10_000).step_by(10) {
        end += 5;
        leader.local_progress(Offset(end), Offset(end));
        // Its flushes are three fetches behind.
        fetch(&mut leader, 2, end, end - 15, now);
        assert_eq!(propose(&mut leader, now), None);
    }
}

#[test]
fn a_former_start_of_a_follower_is_not_heard() {
    let mut leader = leader(&[1, 2]);
    fetch(&mut leader, 2, 100, 95, 1);
    let late = Fetched {
        replica: BrokerId(2),
        broker_epoch: 6,
        offset: Offset(100),
        durable_end: Offset(100),
        now: Millis(2),
    };
    assert_eq!(leader.fetched(late), None);
    assert_eq!(leader.high_watermark(), Offset(95));
}

#[test]
fn an_overtaken_proposal_is_forgotten_and_an_old_change_is_not_heard() {
    let mut leader = leader(&[1, 2]);
    fetch(&mut leader, 2, 100, 100, 1);
    fetch(&mut leader, 3, 100, 100, 1);
    assert!(propose(&mut leader, 2).is_some());
    leader.update(assignment(&[1, 2, 3], 2), Millis(3));
    assert!(!leader.is_proposing());
    leader.update(assignment(&[1, 2], 1), Millis(4));
    assert_eq!(leader.assignment().isr.len(), 3);
}
