//! Stories of the share coordinator, as text: what is asked, what is answered, and which records come of it.

use std::fmt::Write as _;

use bytes::Bytes;
use expect_test::{Expect, expect};
use wire::{LeaderEpoch, Millis, Offset, PartitionId, Str, Uuid};

use super::*;

struct Teller {
    states: ShareStates,
    log: Vec<CoordinatorRecord>,
    now: Millis,
    told: String,
}

const CONFIG: ShareStateConfig = ShareStateConfig { updates_per_snapshot: 2 };

#[track_caller]
fn check(story: &str, expected: Expect) {
    let mut teller =
        Teller { states: ShareStates::new(CONFIG), log: Vec::new(), now: Millis(1_000), told: String::new() };
    for line in story.lines().map(str::trim).filter(|line| !line.is_empty()) {
        writeln!(teller.told, "{line}").unwrap();
        teller.step(line);
        teller.check_replay();
    }
    expected.assert_eq(&teller.told);
}

fn key(word: &str) -> SharePartitionKey {
    SharePartitionKey { group: Str::copy_from(word), topic: Uuid([1; 16]), partition: PartitionId(0) }
}

fn offset(word: &str) -> Option<Offset> {
    word.parse().ok().map(Offset)
}

impl Teller {
    fn step(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let key = key(words.get(1).copied().unwrap_or_default());
        let (now, epoch) = (self.now, |at: usize| words[at].parse::<i32>().unwrap());
        match words[0] {
            // group, state epoch, start
            "init" => {
                let decided = self.states.initialize(&key, epoch(2), offset(words[3]), now);
                self.decided(decided, |()| "ok".to_owned());
            }
            // group, leader epoch
            "read" => {
                let decided = self.states.read(&key, LeaderEpoch(epoch(2)), now);
                self.decided(decided, |state| tell(&state));
            }
            "summary" => {
                let told = match self.states.summary(&key, LeaderEpoch(epoch(2))) {
                    Ok(state) => state.map_or("nothing".to_owned(), |state| tell(&state)),
                    Err(refusal) => format!("{:?}: {refusal}", wire::ErrorCode::from(refusal)),
                };
                writeln!(self.told, "  {told}").unwrap();
            }
            // group, state epoch, leader epoch, start, then first-last:state/count
            "write" => {
                let mut deliveries = Runs::default();
                for word in &words[5..] {
                    let (range, rest) = word.split_once(':').unwrap();
                    let (first, last) = range.split_once('-').unwrap();
                    let (state, count) = rest.split_once('/').unwrap();
                    let state = match state {
                        "available" => DeliveryState::Available,
                        "acknowledged" => DeliveryState::Acknowledged,
                        "archiving" => DeliveryState::Archiving,
                        _ => DeliveryState::Archived,
                    };
                    let delivery = Delivery { state, count: count.parse().unwrap() };
                    deliveries.set(offset(first).unwrap(), offset(last).unwrap(), delivery);
                }
                let write = Write {
                    state_epoch: epoch(2),
                    leader_epoch: LeaderEpoch(epoch(3)),
                    start: offset(words[4]),
                    delivery_complete_count: 0,
                    deliveries,
                };
                let decided = self.states.write(&key, &write, now);
                self.decided(decided, |()| "ok".to_owned());
            }
            "delete" => {
                let decided = self.states.delete(&key);
                self.decided(decided, |()| "ok".to_owned());
            }
            // group: its last snapshot is in a version that nobody knows, and all is loaded again.
            "garble" => {
                let snapshot = |record: &&mut CoordinatorRecord| {
                    let change = record::decode(&record.key, record.value.as_deref());
                    matches!(change, Ok(record::Change::Snapshot(of, _)) if of == key)
                };
                let record = self.log.iter_mut().rev().find(snapshot).unwrap();
                record.value = Some(Bytes::from_static(&[0, 99]));
                self.states = replay(&self.log);
            }
            "topic-gone" => {
                let records = self.states.forget_topics(|topic| topic != key.topic);
                self.decided((records, Ok(())), |()| "ok".to_owned());
            }
            "snapshot-all" => match self.states.snapshot_all(now) {
                Some(records) => {
                    // What was before is let go of.
                    self.log.clear();
                    self.decided((records, Ok(())), |()| "ok".to_owned());
                }
                None => writeln!(self.told, "  not yet").unwrap(),
            },
            unknown => panic!("{unknown}"),
        }
    }

    fn decided<Answer>(&mut self, (records, answer): Decided<Answer>, tell: impl Fn(Answer) -> String) {
        let told = match answer {
            Ok(answer) => tell(answer),
            Err(refusal) => format!("{:?}: {refusal}", wire::ErrorCode::from(refusal)),
        };
        writeln!(self.told, "  {told}").unwrap();
        for record in &records {
            let told = match record::decode(&record.key, record.value.as_deref()).unwrap() {
                record::Change::Snapshot(key, state) => {
                    format!("snapshot {} of {}: {}", state.snapshot_epoch, key.group, self::tell(&state))
                }
                record::Change::Update(key, update) => {
                    format!("update of {} to snapshot {}", key.group, update.snapshot_epoch)
                }
                record::Change::Deleted(key) => format!("tombstone of {}", key.group),
                record::Change::Nothing => unreachable!(),
            };
            writeln!(self.told, "    {told}").unwrap();
        }
        self.log.extend(records);
    }

    /// What the records say is what is known.
    fn check_replay(&self) {
        let replayed = replay(&self.log);
        assert_eq!(replayed.states, self.states.states);
        let unreadable = |states: &ShareStates, key: &SharePartitionKey| states.is_unreadable(key);
        let all = replayed.unreadable.union(&self.states.unreadable);
        assert!(all.into_iter().all(|key| unreadable(&replayed, key) == unreadable(&self.states, key)));
    }
}

fn replay(log: &[CoordinatorRecord]) -> ShareStates {
    let mut replayed = ShareStates::new(CONFIG);
    for record in log {
        // The shell goes on without what cannot be read.
        let _ = replayed.load(Replayed::Record { key: &record.key, value: record.value.as_deref() });
    }
    replayed
}

fn tell(state: &ShareState) -> String {
    let mut told = format!("state {} leader {}", state.state_epoch, state.leader_epoch);
    match state.start {
        Some(start) => write!(told, " from {start}").unwrap(),
        None => write!(told, " from nowhere").unwrap(),
    }
    for run in state.deliveries.iter() {
        let Delivery { state, count } = run.value;
        write!(told, " {}-{}:{state:?}/{count}", run.first, run.last).unwrap();
    }
    told
}

#[test]
fn updates_add_to_a_snapshot_until_the_next() {
    check(
        "read g 1
         init g 0 none
         read g 1
         write g 0 1 5 7-9:available/1
         write g 0 1 none 8-8:acknowledged/1
         write g 0 1 8 9-9:archived/1
         read g 1
         summary g -1",
        expect![[r#"
            read g 1
              INVALID_REQUEST(42): the share-partition has no state: InitializeShareGroupState begins it
            init g 0 none
              ok
                snapshot 0 of g: state 0 leader -1 from nowhere
            read g 1
              state 0 leader 1 from nowhere
                update of g to snapshot 0
            write g 0 1 5 7-9:available/1
              ok
                update of g to snapshot 0
            write g 0 1 none 8-8:acknowledged/1
              ok
                snapshot 1 of g: state 0 leader 1 from 5 7-7:Available/1 8-8:Acknowledged/1 9-9:Available/1
            write g 0 1 8 9-9:archived/1
              ok
                update of g to snapshot 1
            read g 1
              state 0 leader 1 from 8 8-8:Acknowledged/1 9-9:Archived/1
            summary g -1
              state 0 leader 1 from 8 8-8:Acknowledged/1 9-9:Archived/1
        "#]],
    );
}

#[test]
fn of_two_leaders_the_newer_one_writes() {
    check(
        "init g 0 5
         write g 0 0 6
         read g 3
         read g 2
         write g 0 2 6
         write g 0 4 6
         read g 4
         write g 0 4 6
         write g 0 3 7
         summary g 3
         summary g 4",
        expect![[r#"
            init g 0 5
              ok
                snapshot 0 of g: state 0 leader -1 from 5
            write g 0 0 6
              UNKNOWN_LEADER_EPOCH(75): no leader of the partition in epoch 0 has read the state: ReadShareGroupState comes first
            read g 3
              state 0 leader 3 from 5
                update of g to snapshot 0
            read g 2
              FENCED_LEADER_EPOCH(74): a leader of the partition in epoch 3 has been here
            write g 0 2 6
              FENCED_LEADER_EPOCH(74): a leader of the partition in epoch 3 has been here
            write g 0 4 6
              UNKNOWN_LEADER_EPOCH(75): no leader of the partition in epoch 4 has read the state: ReadShareGroupState comes first
            read g 4
              state 0 leader 4 from 5
                update of g to snapshot 0
            write g 0 4 6
              ok
                snapshot 1 of g: state 0 leader 4 from 6
            write g 0 3 7
              FENCED_LEADER_EPOCH(74): a leader of the partition in epoch 4 has been here
            summary g 3
              FENCED_LEADER_EPOCH(74): a leader of the partition in epoch 4 has been here
            summary g 4
              state 0 leader 4 from 6
        "#]],
    );
}

#[test]
fn a_state_that_begins_anew_knows_nothing_of_before() {
    check(
        "init g 0 5
         read g 1
         write g 0 1 5 5-6:acknowledged/1
         init g 0 none
         init g 2 9
         write g 1 1 6
         write g 3 1 6
         write g 2 1 10
         init g 1 0
         read g 1",
        expect![[r#"
            init g 0 5
              ok
                snapshot 0 of g: state 0 leader -1 from 5
            read g 1
              state 0 leader 1 from 5
                update of g to snapshot 0
            write g 0 1 5 5-6:acknowledged/1
              ok
                update of g to snapshot 0
            init g 0 none
              ok
            init g 2 9
              ok
                snapshot 1 of g: state 2 leader 1 from 9
            write g 1 1 6
              FENCED_STATE_EPOCH(124): the state has begun anew in epoch 2
            write g 3 1 6
              FENCED_STATE_EPOCH(124): the state has begun anew in epoch 2
            write g 2 1 10
              ok
                update of g to snapshot 1
            init g 1 0
              FENCED_STATE_EPOCH(124): the state has begun anew in epoch 2
            read g 1
              state 2 leader 1 from 10
        "#]],
    );
}

#[test]
fn what_is_deleted_is_unknown() {
    check(
        "init g 0 5
         init h 0 6
         delete g
         delete g
         write g 0 1 6
         summary g -1
         topic-gone
         summary h -1",
        expect![[r#"
            init g 0 5
              ok
                snapshot 0 of g: state 0 leader -1 from 5
            init h 0 6
              ok
                snapshot 0 of h: state 0 leader -1 from 6
            delete g
              ok
                tombstone of g
            delete g
              ok
            write g 0 1 6
              INVALID_REQUEST(42): the share-partition has no state: InitializeShareGroupState begins it
            summary g -1
              nothing
            topic-gone
              ok
                tombstone of h
            summary h -1
              nothing
        "#]],
    );
}

#[test]
fn the_log_before_new_snapshots_of_all_is_worth_nothing() {
    check(
        "init g 0 5
         init h 0 6
         snapshot-all
         read g 1
         write g 0 1 6
         write g 0 1 7
         snapshot-all
         write g 0 1 8
         snapshot-all
         delete g
         delete h
         snapshot-all",
        expect![[r#"
            init g 0 5
              ok
                snapshot 0 of g: state 0 leader -1 from 5
            init h 0 6
              ok
                snapshot 0 of h: state 0 leader -1 from 6
            snapshot-all
              not yet
            read g 1
              state 0 leader 1 from 5
                update of g to snapshot 0
            write g 0 1 6
              ok
                update of g to snapshot 0
            write g 0 1 7
              ok
                snapshot 1 of g: state 0 leader 1 from 7
            snapshot-all
              ok
                snapshot 2 of g: state 0 leader 1 from 7
                snapshot 1 of h: state 0 leader -1 from 6
            write g 0 1 8
              ok
                update of g to snapshot 2
            snapshot-all
              not yet
            delete g
              ok
                tombstone of g
            delete h
              ok
                tombstone of h
            snapshot-all
              ok
        "#]],
    );
}

#[test]
fn a_share_partition_has_a_name() {
    let key = SharePartitionKey { group: Str::from("a:b"), topic: Uuid([1; 16]), partition: PartitionId(3) };
    assert_eq!(key.to_string(), "a:b:AQEBAQEBAQEBAQEBAQEBAQ:3");
    assert_eq!(SharePartitionKey::parse(&key.to_string()), Some(key));
    for nonsense in ["", "a:b", "a:b:3", ":AQEBAQEBAQEBAQEBAQEBAQ:3", "a:AQEBAQEBAQEBAQEBAQEBAQ:-3"] {
        assert_eq!(SharePartitionKey::parse(nonsense), None, "{nonsense}");
    }
}

#[test]
fn what_was_lost_under_a_leader_is_not_written_to_before_it_is_read_again() {
    check(
        "init g 0 none
         read g 0
         write g 0 0 100 101-109:acknowledged/0
         delete g
         init g 0 none
         write g 0 0 100 100-100:available/1
         read g 0
         write g 0 0 7
         read g 1",
        expect![[r#"
            init g 0 none
              ok
                snapshot 0 of g: state 0 leader -1 from nowhere
            read g 0
              state 0 leader 0 from nowhere
                update of g to snapshot 0
            write g 0 0 100 101-109:acknowledged/0
              ok
                update of g to snapshot 0
            delete g
              ok
                tombstone of g
            init g 0 none
              ok
                snapshot 0 of g: state 0 leader -1 from nowhere
            write g 0 0 100 100-100:available/1
              UNKNOWN_LEADER_EPOCH(75): no leader of the partition in epoch 0 has read the state: ReadShareGroupState comes first
            read g 0
              state 0 leader 0 from nowhere
                update of g to snapshot 0
            write g 0 0 7
              ok
                update of g to snapshot 0
            read g 1
              state 0 leader 1 from 7
                snapshot 1 of g: state 0 leader 1 from 7
        "#]],
    );
}

#[test]
fn what_was_lost_begins_again_and_what_is_there_stays() {
    check(
        "init g -1 0
         init g -1 0
         read g 1
         init h 0 none
         init h -1 0
         summary h -1",
        expect![[r#"
            init g -1 0
              ok
                snapshot 0 of g: state 0 leader -1 from 0
            init g -1 0
              FENCED_STATE_EPOCH(124): the state has begun anew in epoch 0
            read g 1
              state 0 leader 1 from 0
                update of g to snapshot 0
            init h 0 none
              ok
                snapshot 0 of h: state 0 leader -1 from nowhere
            init h -1 0
              FENCED_STATE_EPOCH(124): the state has begun anew in epoch 0
            summary h -1
              state 0 leader -1 from nowhere
        "#]],
    );
}

#[test]
fn what_cannot_be_read_is_not_taken_for_lost() {
    check(
        "init g 0 5
         init h 0 6
         garble g
         read g 1
         summary g -1
         init g -1 0
         init g 0 none
         write g 0 1 6
         read h 1
         write h 0 1 7
         snapshot-all
         init g 3 9
         snapshot-all
         garble g
         garble h
         delete g
         init g 0 none
         topic-gone
         init h 0 none",
        expect![[r#"
            init g 0 5
              ok
                snapshot 0 of g: state 0 leader -1 from 5
            init h 0 6
              ok
                snapshot 0 of h: state 0 leader -1 from 6
            garble g
            read g 1
              UNKNOWN_SERVER_ERROR(-1): records of the share-partition's state cannot be read: AlterShareGroupOffsets begins another
            summary g -1
              UNKNOWN_SERVER_ERROR(-1): records of the share-partition's state cannot be read: AlterShareGroupOffsets begins another
            init g -1 0
              UNKNOWN_SERVER_ERROR(-1): records of the share-partition's state cannot be read: AlterShareGroupOffsets begins another
            init g 0 none
              UNKNOWN_SERVER_ERROR(-1): records of the share-partition's state cannot be read: AlterShareGroupOffsets begins another
            write g 0 1 6
              UNKNOWN_SERVER_ERROR(-1): records of the share-partition's state cannot be read: AlterShareGroupOffsets begins another
            read h 1
              state 0 leader 1 from 6
                update of h to snapshot 0
            write h 0 1 7
              ok
                update of h to snapshot 0
            snapshot-all
              not yet
            init g 3 9
              ok
                snapshot 0 of g: state 3 leader -1 from 9
            snapshot-all
              ok
                snapshot 1 of g: state 3 leader -1 from 9
                snapshot 1 of h: state 0 leader 1 from 7
            garble g
            garble h
            delete g
              ok
                tombstone of g
            init g 0 none
              ok
                snapshot 0 of g: state 0 leader -1 from nowhere
            topic-gone
              ok
                tombstone of g
                tombstone of h
            init h 0 none
              ok
                snapshot 0 of h: state 0 leader -1 from nowhere
        "#]],
    );
}

#[test]
fn a_write_that_comes_late_undoes_nothing() {
    check(
        "init g 0 5
         read g 1
         write g 0 1 5 5-9:available/1
         write g 0 1 5 6-8:acknowledged/0
         write g 0 1 5 9-9:available/2
         write g 0 1 5 5-9:available/1
         read g 1
         write g 0 1 9
         write g 0 1 5 5-5:available/1 6-8:acknowledged/0
         read g 1
         write g 0 1 9 9-9:archiving/2
         write g 0 1 9 9-9:available/3
         read g 1
         init g 3 2
         write g 0 1 9
         read g 1",
        expect![[r#"
            init g 0 5
              ok
                snapshot 0 of g: state 0 leader -1 from 5
            read g 1
              state 0 leader 1 from 5
                update of g to snapshot 0
            write g 0 1 5 5-9:available/1
              ok
                update of g to snapshot 0
            write g 0 1 5 6-8:acknowledged/0
              ok
                snapshot 1 of g: state 0 leader 1 from 5 5-5:Available/1 6-8:Acknowledged/0 9-9:Available/1
            write g 0 1 5 9-9:available/2
              ok
                update of g to snapshot 1
            write g 0 1 5 5-9:available/1
              ok
                update of g to snapshot 1
            read g 1
              state 0 leader 1 from 5 5-5:Available/1 6-8:Acknowledged/0 9-9:Available/2
            write g 0 1 9
              ok
                snapshot 2 of g: state 0 leader 1 from 9 9-9:Available/2
            write g 0 1 5 5-5:available/1 6-8:acknowledged/0
              ok
                update of g to snapshot 2
            read g 1
              state 0 leader 1 from 9 9-9:Available/2
            write g 0 1 9 9-9:archiving/2
              ok
                update of g to snapshot 2
            write g 0 1 9 9-9:available/3
              ok
                snapshot 3 of g: state 0 leader 1 from 9 9-9:Archiving/2
            read g 1
              state 0 leader 1 from 9 9-9:Archiving/2
            init g 3 2
              ok
                snapshot 4 of g: state 3 leader 1 from 2
            write g 0 1 9
              FENCED_STATE_EPOCH(124): the state has begun anew in epoch 3
            read g 1
              state 3 leader 1 from 2
        "#]],
    );
}
