//! Random histories of one group with crashes, against a model of what its members were promised.
//!
//! [`World`] checks after every step that replay gives the same durable state, that generations rise, and that everybody
//! is either answered or parked. Here the promises are checked: an offset changes by an accepted commit alone, only a
//! present member of the current generation commits, and nobody is given what another member of the generation has.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::testing::{World, short};
use super::{GroupConfig, State};

#[derive(Clone, Debug)]
enum Step {
    Join { client: usize, version: i16, protocols: &'static str },
    JoinStatic { instance: usize, protocols: &'static str },
    Rejoin { who: usize, protocols: &'static str },
    Sync { who: usize, stale: bool },
    Heartbeat { who: usize, stale: bool },
    Leave { who: usize },
    Remove { instance: usize },
    Commit { who: usize, stale: bool, partition: i32, offset: i64 },
    CommitFromOutside { partition: i32, offset: i64 },
    Wait { ms: i64 },
    DeleteOffset { partition: i32 },
    DeleteTopic,
    DeleteGroup,
    Expire,
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let protocols = || prop_oneof![4 => Just("range"), 2 => Just("sticky,range"), 1 => Just("sticky")];
    let stale = || prop::bool::weighted(0.1);
    let step = prop_oneof![
        6 => (0..3usize, prop_oneof![Just(3i16), Just(9)], protocols())
            .prop_map(|(client, version, protocols)| Step::Join { client, version, protocols }),
        3 => (0..2usize, protocols()).prop_map(|(instance, protocols)| Step::JoinStatic { instance, protocols }),
        12 => (0..8usize, protocols()).prop_map(|(who, protocols)| Step::Rejoin { who, protocols }),
        14 => (0..8usize, stale()).prop_map(|(who, stale)| Step::Sync { who, stale }),
        4 => (0..8usize, stale()).prop_map(|(who, stale)| Step::Heartbeat { who, stale }),
        2 => (0..8usize).prop_map(|who| Step::Leave { who }),
        1 => (0..2usize).prop_map(|instance| Step::Remove { instance }),
        8 => (0..8usize, stale(), 0..3i32, 0..100i64)
            .prop_map(|(who, stale, partition, offset)| Step::Commit { who, stale, partition, offset }),
        1 => (0..3i32, 0..100i64).prop_map(|(partition, offset)| Step::CommitFromOutside { partition, offset }),
        6 => prop_oneof![Just(1i64), Just(3_000), Just(10_000), Just(60_000)].prop_map(|ms| Step::Wait { ms }),
        1 => (0..3i32).prop_map(|partition| Step::DeleteOffset { partition }),
        1 => Just(Step::DeleteTopic),
        1 => Just(Step::DeleteGroup),
        1 => Just(Step::Expire),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 1..80)
}

/// The history so far as its members saw it.
struct History {
    world: World,
    /// Every id that was ever handed out, the newest first.
    ids: Vec<String>,
    committed: BTreeMap<String, i64>,
}

impl History {
    fn new() -> Self {
        let config =
            GroupConfig { group_size_max: 4, offsets_retention_ms: 100_000, ..GroupConfig::default() };
        History { world: World::new(config), ids: Vec::new(), committed: BTreeMap::new() }
    }

    fn generation(&self) -> i32 {
        self.world.groups.groups.get("g").map_or(0, |group| group.generation)
    }

    fn state(&self) -> Option<State> {
        self.world.groups.groups.get("g").map(|group| group.state)
    }

    fn members(&self) -> Vec<String> {
        let group = self.world.groups.groups.get("g");
        group.map(|group| group.members.ids().map(|id| short(id)).collect()).unwrap_or_default()
    }

    fn pick(&self, who: usize) -> Option<String> {
        (!self.ids.is_empty()).then(|| self.ids[who % self.ids.len()].clone())
    }

    /// The line that a step stands for now, if it stands for anything.
    fn line(&self, step: &Step) -> Option<String> {
        // -1 would be the generation of one who has none.
        let generation = |stale: &bool| match self.generation() {
            0 if *stale => 1,
            current => current - i32::from(*stale),
        };
        Some(match step {
            Step::Join { client, version, protocols } => {
                format!("join c{client} v={version} protocols={protocols} session=10000 rebalance=20000")
            }
            Step::JoinStatic { instance, protocols } => {
                format!("join s instance=i{instance} protocols={protocols} session=30000 rebalance=20000")
            }
            Step::Rejoin { who, protocols } => {
                let id = self.pick(*who)?;
                format!("join {id} {} protocols={protocols} session=10000 rebalance=20000", instance_of(&id))
            }
            Step::Sync { who, stale } => {
                let (id, generation) = (self.pick(*who)?, generation(stale));
                let assignments =
                    self.members().into_iter().map(|member| format!("{member}={generation}:{member}"));
                let assignments = assignments.collect::<Vec<_>>().join(" ");
                format!("sync {id} gen={generation} {} {assignments}", instance_of(&id))
            }
            Step::Heartbeat { who, stale } => {
                let id = self.pick(*who)?;
                format!("heartbeat {id} gen={} {}", generation(stale), instance_of(&id))
            }
            Step::Leave { who } => format!("leave {}", self.pick(*who)?),
            Step::Remove { instance } => format!("leave instance=i{instance}"),
            Step::Commit { who, stale, partition, offset } => {
                let id = self.pick(*who)?;
                format!("commit {id} gen={} {} t-{partition}={offset}", generation(stale), instance_of(&id))
            }
            Step::CommitFromOutside { partition, offset } => format!("commit gen=-1 t-{partition}={offset}"),
            Step::Wait { ms } => format!("wait {ms}"),
            Step::DeleteOffset { partition } => format!("delete-offsets t-{partition}"),
            Step::DeleteTopic => "topic-deleted t".to_owned(),
            Step::DeleteGroup => "delete".to_owned(),
            Step::Expire => "expire".to_owned(),
            Step::Crash => "crash".to_owned(),
        })
    }

    fn run(&mut self, step: &Step) {
        let Some(line) = self.line(step) else { return };
        let (state, generation, members) = (self.state(), self.generation(), self.members());
        let told = self.world.run(&line);
        for reply in &told {
            if let Some((_, assignment)) = reply.split_once(" -> assigned ") {
                assert_own(reply, assignment.trim_matches('"'));
            }
        }
        let accepted = told.iter().any(|reply| reply.starts_with("commit") && reply.ends_with(" NONE"));
        match step {
            Step::Commit { who, stale, partition, offset } if accepted => {
                let id = self.pick(*who).unwrap();
                assert!(!stale && members.contains(&id), "{id} commits for generation {generation}");
                assert!(matches!(state, Some(State::Stable | State::PreparingRebalance(_))));
                self.committed.insert(format!("t-{partition}"), *offset);
            }
            Step::CommitFromOutside { partition, offset } if accepted => {
                assert!(matches!(state, None | Some(State::Empty)), "a live group is its members'");
                self.committed.insert(format!("t-{partition}"), *offset);
            }
            Step::DeleteOffset { .. } | Step::DeleteTopic | Step::DeleteGroup | Step::Expire => {
                let left = self.fetch();
                self.committed.retain(|partition, _| left.contains_key(partition));
            }
            _ => {}
        }
        assert_eq!(self.fetch(), self.committed);
        self.remember_ids();
    }

    fn fetch(&mut self) -> BTreeMap<String, i64> {
        let fetched = self.world.run("fetch");
        let parse = |line: &String| {
            let mut words = line.split(' ');
            Some((words.next()?.to_owned(), words.nth(1)?.parse().ok()?))
        };
        fetched.iter().filter_map(parse).collect()
    }

    fn remember_ids(&mut self) {
        let Some(group) = self.world.groups.groups.get("g") else { return };
        for id in group.members.ids().chain(&group.pending_joins) {
            let id = short(id);
            if !self.ids.contains(&id) {
                self.ids.insert(0, id);
            }
        }
    }
}

fn instance_of(id: &str) -> String {
    match id.split_once('#') {
        Some((instance, _)) if instance.starts_with('i') => format!("instance={instance}"),
        _ => String::new(),
    }
}

/// What a member is given was meant for it, in the generation that it speaks of. A static member may be given what its
/// former self had.
fn assert_own(reply: &str, assignment: &str) {
    let mut words = reply.split(' ');
    let (id, generation) = (words.nth(1).unwrap(), words.next().unwrap().trim_start_matches("gen="));
    let Some((given_in, given_to)) = assignment.split_once(':') else {
        assert_eq!(assignment, "");
        return;
    };
    assert_eq!(given_in, generation, "{reply}");
    match id.split_once('#') {
        Some((instance, _)) if instance.starts_with('i') => {
            assert!(given_to.starts_with(instance), "{reply}")
        }
        _ => assert_eq!(given_to, id, "{reply}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn promises_hold_in_any_history(steps in steps()) {
        let mut history = History::new();
        for step in &steps {
            history.run(step);
        }
    }
}
