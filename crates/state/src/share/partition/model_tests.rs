//! Random lives of a share-partition, next to a model that knows of every offset by itself.

use std::collections::BTreeMap;

use proptest::prelude::*;
use wire::{LeaderEpoch, Millis, Offset, PartitionId, Str, Uuid};

use super::*;
use crate::share::state::{SharePartitionKey, ShareStateConfig, ShareStates};

const CONFIG: ShareConfig =
    ShareConfig { lock_ms: 100, delivery_count_max: 3, in_flight_max: 12, has_dead_letters: true };
const MEMBERS: [&str; 3] = ["a", "b", "c"];

/// What lies in the log: `len` offsets of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data,
    Marker,
    /// Compaction has left nothing.
    Gap,
}

#[derive(Clone, Debug)]
enum Step {
    Acquire {
        member: usize,
        max: i64,
        whole: bool,
        extents: usize,
    },
    Acknowledge {
        member: usize,
        offset: usize,
        len: i64,
        said: Acknowledgement,
    },
    Release {
        member: usize,
    },
    Wait(i64),
    LogStart(i64),
    /// What is given up first is in the dead-letter queue.
    Bury,
    Save,
    /// Another leader begins with what was saved.
    Move,
}

fn step() -> impl Strategy<Value = Step> {
    let said = prop_oneof![
        3 => Just(Acknowledgement::Accept),
        2 => Just(Acknowledgement::Release),
        1 => Just(Acknowledgement::Reject),
        1 => Just(Acknowledgement::Renew),
        1 => Just(Acknowledgement::Gap),
    ];
    prop_oneof![
        6 => (0..3usize, 1..6i64, any::<bool>(), 1..4usize)
            .prop_map(|(member, max, whole, extents)| Step::Acquire { member, max, whole, extents }),
        6 => (0..3usize, 0..20usize, 1..4i64, said)
            .prop_map(|(member, offset, len, said)| Step::Acknowledge { member, offset, len, said }),
        1 => (0..3usize).prop_map(|member| Step::Release { member }),
        2 => (1..120i64).prop_map(Step::Wait),
        1 => (0..30i64).prop_map(Step::LogStart),
        2 => Just(Step::Bury),
        3 => Just(Step::Save),
        1 => Just(Step::Move),
    ]
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Model {
    Available(i16),
    With(i16, usize, i64),
    Archiving(i16),
    Done,
}

struct World {
    log: Vec<(i64, i64, Kind)>,
    partition: SharePartition,
    states: ShareStates,
    key: SharePartitionKey,
    leader_epoch: i32,
    now: i64,
    /// Of all offsets from the start on that were ever looked at.
    model: BTreeMap<i64, Model>,
    start: i64,
    deliveries: BTreeMap<i64, i64>,
}

impl World {
    fn new(kinds: &[(i64, Kind)]) -> World {
        let mut log = Vec::new();
        let mut at = 0;
        for (len, kind) in kinds {
            log.push((at, at + len - 1, *kind));
            at += len;
        }
        let key =
            SharePartitionKey { group: Str::from("g"), topic: Uuid([7; 16]), partition: PartitionId(0) };
        let mut states = ShareStates::new(ShareStateConfig { updates_per_snapshot: 2 });
        states.initialize(&key, 0, None, Millis(0)).1.unwrap();
        let stored = states.read(&key, LeaderEpoch(1), Millis(0)).1.unwrap();
        let partition = SharePartition::new(CONFIG, &stored, Offset(0));
        World {
            log,
            partition,
            states,
            key,
            leader_epoch: 1,
            now: 0,
            model: BTreeMap::new(),
            start: 0,
            deliveries: BTreeMap::new(),
        }
    }

    fn known(&self, offset: i64) -> Option<&Model> {
        self.model.get(&offset)
    }

    fn end(&self) -> i64 {
        self.model.keys().next_back().map_or(self.start, |last| last + 1).max(self.start)
    }

    fn advance(&mut self) {
        while self.known(self.start) == Some(&Model::Done) {
            self.model.remove(&self.start);
            self.start += 1;
        }
    }

    fn released(count: i16) -> Model {
        if count >= CONFIG.delivery_count_max { Model::Archiving(count) } else { Model::Available(count) }
    }

    fn acquire(&mut self, member: usize, max: i64, whole: bool, extents: usize) -> Vec<(i64, i16)> {
        let available = self.model.iter().find(|(_, model)| matches!(model, Model::Available(_)));
        let from = match available {
            Some((offset, _)) => *offset,
            None if self.room() <= 0 => return Vec::new(),
            None => self.end(),
        };
        let found: Vec<(i64, i64, Kind)> = self
            .log
            .iter()
            .copied()
            .filter(|(_, last, kind)| *last >= from && *kind != Kind::Gap)
            .take(extents)
            .collect();
        let mut given = Vec::new();
        let mut at = from;
        'log: for (first, last, kind) in found {
            if given.len() as i64 >= max || (at >= self.end() && self.room() <= 0) {
                break;
            }
            while at < first {
                self.give_up(at);
                at += 1;
            }
            while at <= last {
                if kind == Kind::Marker {
                    self.give_up(at);
                } else {
                    let is_enough = !whole && given.len() as i64 >= max;
                    match self.known(at).cloned() {
                        Some(Model::Available(count)) if !is_enough => {
                            self.model.insert(at, Model::With(count + 1, member, self.now + CONFIG.lock_ms));
                            given.push((at, count + 1));
                        }
                        None if is_enough || self.room() <= 0 => break 'log,
                        None => {
                            self.model.insert(at, Model::With(1, member, self.now + CONFIG.lock_ms));
                            given.push((at, 1));
                        }
                        Some(_) => {}
                    }
                }
                at += 1;
            }
        }
        self.advance();
        given
    }

    fn room(&self) -> i64 {
        CONFIG.in_flight_max - (self.end() - self.start)
    }

    fn give_up(&mut self, at: i64) {
        if matches!(self.known(at), None | Some(Model::Available(_))) {
            self.model.insert(at, Model::Done);
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Acquire { member, max, whole, extents } => {
                let from = self.partition.next_fetch_offset();
                let acquired = from.map_or_else(Vec::new, |from| {
                    let found =
                        self.log.iter().filter(|(_, last, kind)| *last >= from.0 && *kind != Kind::Gap);
                    let extents: Vec<Extent> = found
                        .take(extents)
                        .map(|(first, last, kind)| Extent {
                            first: Offset(*first),
                            last: Offset(*last),
                            is_data: *kind == Kind::Data,
                        })
                        .collect();
                    let wanted = if whole { Wanted::WholeBatches(max) } else { Wanted::AtMost(max) };
                    self.partition.acquire(MEMBERS[member], from, &extents, wanted, Millis(self.now))
                });
                let expected = self.acquire(member, max, whole, extents);
                let acquired: Vec<(i64, i16)> = acquired
                    .iter()
                    .flat_map(|run| (run.first.0..=run.last.0).map(|offset| (offset, run.value)))
                    .collect();
                assert_eq!(acquired, expected);
                for (offset, _) in acquired {
                    *self.deliveries.entry(offset).or_default() += 1;
                }
            }
            Step::Acknowledge { member, offset, len, said } => {
                let first = self.start + offset as i64;
                let number = [
                    Acknowledgement::Gap,
                    Acknowledgement::Accept,
                    Acknowledgement::Release,
                    Acknowledgement::Reject,
                    Acknowledgement::Renew,
                ]
                .iter()
                .position(|other| *other == said)
                .unwrap() as i8;
                let batch = AcknowledgedBatch {
                    first: Offset(first),
                    last: Offset(first + len - 1),
                    types: vec![number; if self.now % 2 == 0 { 1 } else { len as usize }],
                };
                let taken = self.partition.acknowledge(MEMBERS[member], &[batch], Millis(self.now));
                let has = |offset| matches!(self.known(offset), Some(Model::With(_, holder, _)) if *holder == member);
                let may = (first..first + len).all(has);
                assert_eq!(taken.is_ok(), may, "{taken:?}");
                if may {
                    for offset in first..first + len {
                        let Some(Model::With(count, ..)) = self.known(offset).cloned() else {
                            unreachable!()
                        };
                        let model = match said {
                            Acknowledgement::Release => World::released(count),
                            Acknowledgement::Renew => Model::With(count, member, self.now + CONFIG.lock_ms),
                            Acknowledgement::Reject => Model::Archiving(count),
                            Acknowledgement::Gap | Acknowledgement::Accept => Model::Done,
                        };
                        self.model.insert(offset, model);
                    }
                    self.advance();
                }
            }
            Step::Release { member } => {
                self.partition.release(MEMBERS[member]);
                self.end_locks(|holder, _| holder == member, |count| Model::Available(count - 1));
            }
            Step::Wait(ms) => {
                self.now += ms;
                self.partition.tick(Millis(self.now));
                let now = self.now;
                self.end_locks(|_, until| until <= now, World::released);
            }
            Step::LogStart(to) => {
                self.partition.log_start_moved(Offset(to));
                self.start = self.start.max(to);
                self.model = self.model.split_off(&self.start);
                self.advance();
            }
            Step::Bury => {
                let given_up = self
                    .model
                    .iter()
                    .find(|(_, model)| matches!(model, Model::Archiving(_)))
                    .map(|(at, _)| *at);
                let letters = self.partition.dead_letters();
                assert_eq!(letters.map(|letters| letters.first.0), given_up);
                if let Some(letters) = letters {
                    for offset in letters.first.0..=letters.last.0 {
                        let before = self.model.insert(offset, Model::Done);
                        assert_eq!(before, Some(Model::Archiving(letters.count)));
                    }
                    self.partition.buried(letters.first, letters.last);
                    self.advance();
                }
            }
            Step::Save => self.save(),
            Step::Move => {
                self.save();
                self.leader_epoch += 1;
                let stored = self.states.read(&self.key, LeaderEpoch(self.leader_epoch), Millis(self.now));
                self.partition = SharePartition::new(CONFIG, &stored.1.unwrap(), Offset(0));
                // Locks are not stored, and nothing that the log says itself.
                for model in self.model.values_mut() {
                    if let Model::With(count, ..) = *model {
                        *model = Model::Available(count - 1);
                    }
                }
                self.model.retain(|offset, _| *offset < self.partition.end().0);
                for (first, last, _) in self.log.iter().filter(|(.., kind)| *kind != Kind::Data) {
                    for offset in *first..=*last {
                        if let Some(model) = self.model.get_mut(&offset) {
                            *model = if self.partition.known.at(Offset(offset)).unwrap().is_done() {
                                Model::Done
                            } else {
                                Model::Available(0)
                            };
                        }
                    }
                }
            }
        }
        self.check();
    }

    fn end_locks(&mut self, ends: impl Fn(usize, i64) -> bool, becomes: impl Fn(i16) -> Model) {
        for model in self.model.values_mut() {
            if let Model::With(count, holder, until) = *model
                && ends(holder, until)
            {
                *model = becomes(count);
            }
        }
        self.advance();
    }

    fn save(&mut self) {
        if let Some(write) = self.partition.take_write(LeaderEpoch(self.leader_epoch)) {
            self.states.write(&self.key, &write, Millis(self.now)).1.unwrap();
        }
        assert_eq!(self.partition.take_write(LeaderEpoch(self.leader_epoch)), None);
    }

    fn check(&self) {
        assert_eq!(self.partition.start().0, self.start);
        assert_eq!(self.partition.end().0, self.end());
        for offset in self.start..self.end() {
            let known = self.partition.known.at(Offset(offset)).expect("everything is known");
            let model = &self.model[&offset];
            let is_same = match (known, model) {
                (Known::Available { count }, Model::Available(other)) => count == other,
                (Known::Acquired { count, member, until }, Model::With(other, holder, ends)) => {
                    count == other && **member == *MEMBERS[*holder] && until.0 == *ends
                }
                (Known::Archiving { count, .. }, Model::Archiving(other)) => count == other,
                (known, Model::Done) => known.is_done(),
                _ => false,
            };
            assert!(is_same, "{offset} is {known:?}, not {model:?}");
        }
        let locks = self.partition.known.iter().filter_map(|run| match run.value {
            Known::Acquired { until, .. } => Some(*until),
            _ => None,
        });
        if let Some(first) = locks.min() {
            assert!(self.partition.next_deadline().is_some_and(|deadline| deadline <= first));
        }
        assert!(self.partition.acquired() <= CONFIG.in_flight_max);
        // A stretch without data may lie across the bound: it is one run.
        assert!(self.partition.known.iter().count() as i64 <= CONFIG.in_flight_max + 1);
        assert!(self.partition.unsaved.iter().count() as i64 <= CONFIG.in_flight_max + 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_share_partition_does_what_the_model_does(
        kinds in prop::collection::vec(
            (1..5i64, prop_oneof![4 => Just(Kind::Data), 1 => Just(Kind::Marker), 1 => Just(Kind::Gap)]),
            1..20,
        ),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut world = World::new(&kinds);
        for step in &steps {
            world.step(step);
        }
    }
}
