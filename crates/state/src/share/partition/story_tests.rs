//! Stories of a share-partition, as text: what members ask and say, and what is known of the records then.

use std::fmt::Write as _;

use expect_test::{Expect, expect};
use wire::{LeaderEpoch, Millis, Offset, PartitionId, Str, Uuid};

use super::*;
use crate::share::state::{SharePartitionKey, ShareStateConfig, ShareStates};

const CONFIG: ShareConfig =
    ShareConfig { lock_ms: 30, delivery_count_max: 2, in_flight_max: 10, has_dead_letters: false };

const DEAD_LETTERS: ShareConfig = ShareConfig { has_dead_letters: true, ..CONFIG };

/// A log of batches of five records, and a group that works on it.
struct Teller {
    partition: SharePartition,
    states: ShareStates,
    key: SharePartitionKey,
    now: Millis,
    told: String,
}

#[track_caller]
fn check(story: &str, expected: Expect) {
    let key = SharePartitionKey { group: Str::from("g"), topic: Uuid([7; 16]), partition: PartitionId(0) };
    let mut states = ShareStates::new(ShareStateConfig { updates_per_snapshot: 2 });
    states.initialize(&key, 0, None, Millis(0)).1.unwrap();
    let stored = states.read(&key, LeaderEpoch(1), Millis(0)).1.unwrap();
    let partition = SharePartition::new(CONFIG, &stored, Offset(0));
    let mut teller = Teller { partition, states, key, now: Millis(0), told: String::new() };
    for line in story.lines().map(str::trim).filter(|line| !line.is_empty()) {
        writeln!(teller.told, "{line}").unwrap();
        teller.step(line);
    }
    expected.assert_eq(&teller.told);
}

impl Teller {
    fn step(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<i64>().unwrap();
        match words[0] {
            // member, records, batches that are read
            "fetch" | "fetch-exactly" => {
                let Some(from) = self.partition.next_fetch_offset() else {
                    writeln!(self.told, "  no more may be in flight").unwrap();
                    return self.tell();
                };
                let batches = words.get(3).map_or(10, |_| number(3));
                let first = from.0 - from.0 % 5;
                let extents: Vec<Extent> = (0..batches)
                    .map(|index| first + index * 5)
                    .map(|first| Extent { first: Offset(first), last: Offset(first + 4), is_data: true })
                    .collect();
                let wanted = match words[0] {
                    "fetch" => Wanted::WholeBatches(number(2)),
                    _ => Wanted::AtMost(number(2)),
                };
                for run in self.partition.acquire(words[1], from, &extents, wanted, self.now) {
                    writeln!(self.told, "  gets {}-{}, delivery {}", run.first, run.last, run.value).unwrap();
                }
            }
            // member, then first-last:types
            "says" => {
                let batches = words[2..].iter().map(|word| {
                    let (range, types) = word.split_once(':').unwrap();
                    let (first, last) = range.split_once('-').unwrap();
                    AcknowledgedBatch {
                        first: Offset(first.parse().unwrap()),
                        last: Offset(last.parse().unwrap()),
                        types: types.split(',').map(|number| number.parse().unwrap()).collect(),
                    }
                });
                let batches: Vec<_> = batches.collect();
                if let Err(refusal) = self.partition.acknowledge(words[1], &batches, self.now) {
                    writeln!(self.told, "  {:?}: {refusal}", wire::ErrorCode::from(refusal)).unwrap();
                }
            }
            "gone" => {
                self.partition.release(words[1]);
            }
            "wait" => {
                self.now = self.now.plus(number(1));
                self.partition.tick(self.now);
            }
            "dead-letters" => self.partition.set_config(DEAD_LETTERS),
            "buried" => {
                let letters = self.partition.dead_letters().expect("some are given up");
                writeln!(
                    self.told,
                    "  {}-{} after {}: {}",
                    letters.first,
                    letters.last,
                    letters.count,
                    letters.cause.message()
                )
                .unwrap();
                self.partition.buried(letters.first, letters.last);
            }
            "log-start" => self.partition.log_start_moved(Offset(number(1))),
            "save" => {
                let write = self.partition.take_write(LeaderEpoch(1)).expect("something to write");
                self.states.write(&self.key, &write, self.now).1.unwrap();
            }
            "leader" => {
                let epoch = LeaderEpoch(number(1) as i32);
                let stored = self.states.read(&self.key, epoch, self.now).1.unwrap();
                self.partition = SharePartition::new(self.partition.config, &stored, Offset(0));
            }
            unknown => panic!("{unknown}"),
        }
        self.tell();
    }

    fn tell(&mut self) {
        write!(self.told, "    {}..{}", self.partition.start(), self.partition.end()).unwrap();
        for run in self.partition.known.iter() {
            write!(self.told, "  {}-{} ", run.first, run.last).unwrap();
            match run.value {
                Known::Available { count } => write!(self.told, "available/{count}"),
                Known::Acquired { count, member, until } => {
                    write!(self.told, "{member}/{count} until {until}")
                }
                Known::Archiving { count, cause } => write!(self.told, "archiving/{count} {cause:?}"),
                Known::Acknowledged => write!(self.told, "acknowledged"),
                Known::Archived => write!(self.told, "archived"),
            }
            .unwrap();
        }
        writeln!(self.told).unwrap();
    }
}

#[test]
fn two_members_get_different_records_and_the_start_follows_what_is_done() {
    check(
        "fetch a 3
         fetch b 1
         says b 5-9:1
         says a 0-0:1 1-4:1,2,1,1
         fetch b 1
         says b 2-2:1",
        expect![[r#"
            fetch a 3
              gets 0-4, delivery 1
                0..5  0-4 a/1 until 30
            fetch b 1
              gets 5-9, delivery 1
                0..10  0-4 a/1 until 30  5-9 b/1 until 30
            says b 5-9:1
                0..10  0-4 a/1 until 30  5-9 acknowledged
            says a 0-0:1 1-4:1,2,1,1
                2..10  2-2 available/1  3-9 acknowledged
            fetch b 1
              gets 2-2, delivery 2
                2..10  2-2 b/2 until 30  3-9 acknowledged
            says b 2-2:1
                10..10
        "#]],
    );
}

#[test]
fn a_record_whose_lock_ends_is_delivered_again_until_the_limit() {
    check(
        "fetch-exactly a 2
         wait 29
         fetch-exactly b 1
         wait 1
         says a 0-1:1
         fetch-exactly b 9
         wait 30",
        expect![[r#"
            fetch-exactly a 2
              gets 0-1, delivery 1
                0..2  0-1 a/1 until 30
            wait 29
                0..2  0-1 a/1 until 30
            fetch-exactly b 1
              gets 2-2, delivery 1
                0..3  0-1 a/1 until 30  2-2 b/1 until 59
            wait 1
                0..3  0-1 available/1  2-2 b/1 until 59
            says a 0-1:1
              INVALID_RECORD_STATE(121): the record at 0 is not with this member
                0..3  0-1 available/1  2-2 b/1 until 59
            fetch-exactly b 9
              gets 0-1, delivery 2
              gets 3-9, delivery 1
                0..10  0-1 b/2 until 60  2-2 b/1 until 59  3-9 b/1 until 60
            wait 30
                2..10  2-9 available/1
        "#]],
    );
}

#[test]
fn locks_run_out_and_come_back() {
    check(
        "fetch a 20
         fetch b 1
         says a 4-5:1
         fetch b 1 10",
        expect![[r#"
            fetch a 20
              gets 0-9, delivery 1
                0..10  0-9 a/1 until 30
            fetch b 1
              no more may be in flight
                0..10  0-9 a/1 until 30
            says a 4-5:1
                0..10  0-3 a/1 until 30  4-5 acknowledged  6-9 a/1 until 30
            fetch b 1 10
              no more may be in flight
                0..10  0-3 a/1 until 30  4-5 acknowledged  6-9 a/1 until 30
        "#]],
    );
}

#[test]
fn a_member_renews_what_takes_longer() {
    check(
        "fetch-exactly a 3
         wait 20
         says a 1-1:4
         wait 10
         says a 1-1:1",
        expect![[r#"
            fetch-exactly a 3
              gets 0-2, delivery 1
                0..3  0-2 a/1 until 30
            wait 20
                0..3  0-2 a/1 until 30
            says a 1-1:4
                0..3  0-0 a/1 until 30  1-1 a/1 until 50  2-2 a/1 until 30
            wait 10
                0..3  0-0 available/1  1-1 a/1 until 50  2-2 available/1
            says a 1-1:1
                0..3  0-0 available/1  1-1 acknowledged  2-2 available/1
        "#]],
    );
}

#[test]
fn what_makes_no_sense_changes_nothing() {
    check(
        "fetch-exactly a 3
         says b 0-0:1
         says a 0-3:1
         says a 2-1:1
         says a 0-2:1,1
         says a 0-2:7
         says a 0-1:1 1-2:1
         says a 0-2:1,9,1
         says a 0-1:3 2-2:0
         says a 0-2:1",
        expect![[r#"
            fetch-exactly a 3
              gets 0-2, delivery 1
                0..3  0-2 a/1 until 30
            says b 0-0:1
              INVALID_RECORD_STATE(121): the record at 0 is not with this member
                0..3  0-2 a/1 until 30
            says a 0-3:1
              INVALID_RECORD_STATE(121): the record at 3 is not with this member
                0..3  0-2 a/1 until 30
            says a 2-1:1
              INVALID_REQUEST(42): no offsets lie between 2 and 1
                0..3  0-2 a/1 until 30
            says a 0-2:1,1
              INVALID_REQUEST(42): 2 acknowledge types do not fit 3 offsets: one for all, or one for each
                0..3  0-2 a/1 until 30
            says a 0-2:7
              INVALID_REQUEST(42): there is no acknowledge type 7: it is 0 (gap), 1 (accept), 2 (release), 3 (reject) or 4 (renew)
                0..3  0-2 a/1 until 30
            says a 0-1:1 1-2:1
              INVALID_REQUEST(42): the batch at 1 does not come after 1, where the one before it ends
                0..3  0-2 a/1 until 30
            says a 0-2:1,9,1
              INVALID_REQUEST(42): there is no acknowledge type 9: it is 0 (gap), 1 (accept), 2 (release), 3 (reject) or 4 (renew)
                0..3  0-2 a/1 until 30
            says a 0-1:3 2-2:0
                3..3
            says a 0-2:1
                3..3
        "#]],
    );
}

#[test]
fn a_member_that_leaves_gives_back_and_a_log_that_is_cut_takes_away() {
    check(
        "fetch-exactly a 3
         fetch-exactly b 3
         gone a
         log-start 4
         says b 3-5:1
         fetch-exactly a 1",
        expect![[r#"
            fetch-exactly a 3
              gets 0-2, delivery 1
                0..3  0-2 a/1 until 30
            fetch-exactly b 3
              gets 3-5, delivery 1
                0..6  0-2 a/1 until 30  3-5 b/1 until 30
            gone a
                0..6  0-2 available/0  3-5 b/1 until 30
            log-start 4
                4..6  4-5 b/1 until 30
            says b 3-5:1
                6..6
            fetch-exactly a 1
              gets 6-6, delivery 1
                6..7  6-6 a/1 until 30
        "#]],
    );
}

#[test]
fn another_leader_begins_with_what_was_saved() {
    check(
        "fetch-exactly a 8
         says a 2-3:1 6-6:2
         save
         says a 7-7:1
         leader 2
         fetch-exactly b 9",
        expect![[r#"
            fetch-exactly a 8
              gets 0-7, delivery 1
                0..8  0-7 a/1 until 30
            says a 2-3:1 6-6:2
                0..8  0-1 a/1 until 30  2-3 acknowledged  4-5 a/1 until 30  6-6 available/1  7-7 a/1 until 30
            save
                0..8  0-1 a/1 until 30  2-3 acknowledged  4-5 a/1 until 30  6-6 available/1  7-7 a/1 until 30
            says a 7-7:1
                0..8  0-1 a/1 until 30  2-3 acknowledged  4-5 a/1 until 30  6-6 available/1  7-7 acknowledged
            leader 2
                0..7  0-1 available/0  2-3 acknowledged  4-5 available/0  6-6 available/1
            fetch-exactly b 9
              gets 0-1, delivery 1
              gets 4-5, delivery 1
              gets 6-6, delivery 2
              gets 7-9, delivery 1
                0..10  0-1 b/1 until 30  2-3 acknowledged  4-5 b/1 until 30  6-6 b/2 until 30  7-9 b/1 until 30
        "#]],
    );
}

#[test]
fn one_slow_record_holds_up_the_others_when_as_many_lie_behind_it_as_may_be_in_flight() {
    check(
        "fetch-exactly slow 1
         fetch a 9
         says a 1-9:1
         fetch a 9
         says slow 0-0:2
         fetch a 9
         says a 0-0:1
         fetch a 5",
        expect![[r#"
            fetch-exactly slow 1
              gets 0-0, delivery 1
                0..1  0-0 slow/1 until 30
            fetch a 9
              gets 1-9, delivery 1
                0..10  0-0 slow/1 until 30  1-9 a/1 until 30
            says a 1-9:1
                0..10  0-0 slow/1 until 30  1-9 acknowledged
            fetch a 9
              no more may be in flight
                0..10  0-0 slow/1 until 30  1-9 acknowledged
            says slow 0-0:2
                0..10  0-0 available/1  1-9 acknowledged
            fetch a 9
              gets 0-0, delivery 2
                0..10  0-0 a/2 until 30  1-9 acknowledged
            says a 0-0:1
                10..10
            fetch a 5
              gets 10-14, delivery 1
                10..15  10-14 a/1 until 30
        "#]],
    );
}

#[test]
fn what_a_member_has_when_it_is_gone_was_not_delivered() {
    check(
        "fetch-exactly a 1
         gone a
         fetch-exactly a 1
         wait 30
         fetch-exactly b 1
         gone b
         save
         leader 1
         fetch-exactly b 1",
        expect![[r#"
            fetch-exactly a 1
              gets 0-0, delivery 1
                0..1  0-0 a/1 until 30
            gone a
                0..1  0-0 available/0
            fetch-exactly a 1
              gets 0-0, delivery 1
                0..1  0-0 a/1 until 30
            wait 30
                0..1  0-0 available/1
            fetch-exactly b 1
              gets 0-0, delivery 2
                0..1  0-0 b/2 until 60
            gone b
                0..1  0-0 available/1
            save
                0..1  0-0 available/1
            leader 1
                0..1  0-0 available/1
            fetch-exactly b 1
              gets 0-0, delivery 2
                0..1  0-0 b/2 until 60
        "#]],
    );
}

#[test]
fn what_is_given_up_is_not_done_with_before_it_is_in_the_dead_letter_queue() {
    check(
        "dead-letters
         fetch a 5
         says a 0-4:3,2,1,0,2
         says a 0-0:1
         fetch a 1
         save
         leader 1
         wait 30
         fetch a 1
         wait 30
         save
         leader 1
         buried
         save
         leader 1
         buried
         buried",
        expect![[r#"
            dead-letters
                0..0
            fetch a 5
              gets 0-4, delivery 1
                0..5  0-4 a/1 until 30
            says a 0-4:3,2,1,0,2
                0..5  0-0 archiving/1 Rejected  1-1 available/1  2-2 acknowledged  3-3 archived  4-4 available/1
            says a 0-0:1
              INVALID_RECORD_STATE(121): the record at 0 is not with this member
                0..5  0-0 archiving/1 Rejected  1-1 available/1  2-2 acknowledged  3-3 archived  4-4 available/1
            fetch a 1
              gets 1-1, delivery 2
              gets 4-4, delivery 2
                0..5  0-0 archiving/1 Rejected  1-1 a/2 until 30  2-2 acknowledged  3-3 archived  4-4 a/2 until 30
            save
                0..5  0-0 archiving/1 Rejected  1-1 a/2 until 30  2-2 acknowledged  3-3 archived  4-4 a/2 until 30
            leader 1
                0..5  0-0 archiving/1 Rejected  1-1 available/1  2-2 acknowledged  3-3 archived  4-4 available/1
            wait 30
                0..5  0-0 archiving/1 Rejected  1-1 available/1  2-2 acknowledged  3-3 archived  4-4 available/1
            fetch a 1
              gets 1-1, delivery 2
              gets 4-4, delivery 2
                0..5  0-0 archiving/1 Rejected  1-1 a/2 until 60  2-2 acknowledged  3-3 archived  4-4 a/2 until 60
            wait 30
                0..5  0-0 archiving/1 Rejected  1-1 archiving/2 DeliveryLimit  2-2 acknowledged  3-3 archived  4-4 archiving/2 DeliveryLimit
            save
                0..5  0-0 archiving/1 Rejected  1-1 archiving/2 DeliveryLimit  2-2 acknowledged  3-3 archived  4-4 archiving/2 DeliveryLimit
            leader 1
                0..5  0-0 archiving/1 Rejected  1-1 archiving/2 DeliveryLimit  2-2 acknowledged  3-3 archived  4-4 archiving/2 DeliveryLimit
            buried
              0-0 after 1: Offset rejected by client.
                1..5  1-1 archiving/2 DeliveryLimit  2-2 acknowledged  3-3 archived  4-4 archiving/2 DeliveryLimit
            save
                1..5  1-1 archiving/2 DeliveryLimit  2-2 acknowledged  3-3 archived  4-4 archiving/2 DeliveryLimit
            leader 1
                1..5  1-1 archiving/2 DeliveryLimit  2-2 acknowledged  3-3 archived  4-4 archiving/2 DeliveryLimit
            buried
              1-1 after 2: Offset delivery count exceeded the threshold.
                4..5  4-4 archiving/2 DeliveryLimit
            buried
              4-4 after 2: Offset delivery count exceeded the threshold.
                5..5
        "#]],
    );
}
