//! Random histories of one partition against a model of who holds what was acknowledged.
//!
//! After every step, all that may be acknowledged is: then whoever is not in sync lacks it. A broker also lacks it that lost
//! its disk, or what it had not flushed. Nobody who lacks it may be in sync or eligible, except by an unclean election.

use std::collections::BTreeSet;

use proptest::prelude::*;
use wire::{BrokerId, PartitionId, Str, Uuid};

use super::testing::{Rules, broker, commit, replicated};
use super::{
    AlterConfigs, AlterPartition, ConfigOp, ConfigResource, Decision, Election, Image, MetadataRecord, Mode,
    Partition, Reassignment, RegisterBroker, TopicRules,
};

const BROKERS: i32 = 4;
const KEYS: [&str; 3] = ["min.insync.replicas", "unclean.leader.election.enable", "flush.before.ack"];

#[derive(Clone, Debug)]
enum Step {
    Fence(i32),
    Unfence(i32),
    Stop(i32),
    Unregister(i32),
    Restart {
        id: i32,
        fenced: bool,
        wiped: bool,
        clean: bool,
    },
    /// The leader finds those replicas in sync whose bit is set.
    InSync(u8),
    Elect(Election),
    Balance,
    Reassign(Option<Vec<i32>>),
    Set {
        key: usize,
        value: Option<u8>,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let id = || 1..=BROKERS;
    let brokers: Vec<i32> = id().collect();
    let replicas = prop::sample::subsequence(brokers, 1..=BROKERS as usize).prop_shuffle();
    let election = prop_oneof![4 => Just(Election::Preferred), 1 => Just(Election::Unclean)];
    let step = prop_oneof![
        4 => id().prop_map(Step::Fence),
        4 => id().prop_map(Step::Unfence),
        2 => id().prop_map(Step::Stop),
        1 => id().prop_map(Step::Unregister),
        4 => (id(), any::<bool>(), prop::bool::weighted(0.3), any::<bool>())
            .prop_map(|(id, fenced, wiped, clean)| Step::Restart { id, fenced, wiped, clean }),
        6 => any::<u8>().prop_map(Step::InSync),
        1 => election.prop_map(Step::Elect),
        1 => Just(Step::Balance),
        3 => prop::option::weighted(0.7, replicas).prop_map(Step::Reassign),
        2 => (0..KEYS.len(), prop::option::of(1..=3u8)).prop_map(|(key, value)| Step::Set { key, value }),
    ];
    prop::collection::vec(step, 1..60)
}

struct Model {
    image: Image,
    /// Who lacks records that were acknowledged.
    lacking: BTreeSet<BrokerId>,
    next: u128,
}

impl Model {
    fn new() -> Self {
        let mut model = Model { image: replicated(BROKERS), lacking: BTreeSet::new(), next: 1_000_000 };
        model.acknowledge();
        model
    }

    fn partition(&self) -> &Partition {
        self.image.partition("t", PartitionId(0)).unwrap()
    }

    fn epoch(&self, id: i32) -> i64 {
        self.image.broker(BrokerId(id)).map_or(-1, |broker| broker.epoch)
    }

    /// Whatever the leader may acknowledge it does, and only those in sync have it.
    fn acknowledge(&mut self) {
        let partition = self.partition().clone();
        let rule = Rules.rule(&self.image, &Str::from("t"));
        if partition.leader.is_some() && partition.isr.len() >= rule.isr_min(partition.replicas.len()) {
            self.lacking = (1..=BROKERS).map(BrokerId).filter(|id| !partition.isr.contains(id)).collect();
        }
    }

    fn run(&mut self, step: &Step) {
        let records = self.decide(step).unwrap_or_default();
        let unclean = |record: &MetadataRecord| match record {
            MetadataRecord::PartitionChange(change) => change.leader_recovery_state == 1,
            _ => false,
        };
        let unclean = records.iter().any(unclean);
        commit(&mut self.image, Decision { records, reply: () });
        let partition = self.partition().clone();
        if unclean {
            // What the new leader has is the truth from now on.
            self.lacking = (1..=BROKERS).map(BrokerId).filter(|id| partition.leader != Some(*id)).collect();
        }
        for id in partition.isr.iter().chain(&*partition.elr) {
            assert!(!self.lacking.contains(id), "{id} lacks what was acknowledged: {partition:?}");
        }
        self.acknowledge();
    }

    fn decide(&mut self, step: &Step) -> Option<Vec<MetadataRecord>> {
        let image = self.image.clone();
        match step {
            Step::Fence(id) => Some(image.fence_broker(BrokerId(*id), &Rules).ok()?.records),
            Step::Unfence(id) => {
                Some(image.unfence_broker(BrokerId(*id), self.epoch(*id), &Rules).ok()?.records)
            }
            Step::Stop(id) => {
                Some(image.begin_controlled_shutdown(BrokerId(*id), self.epoch(*id), &Rules).ok()?.records)
            }
            Step::Unregister(id) => {
                let records = image.unregister_broker(BrokerId(*id), &Rules).ok()?.records;
                self.lacking.insert(BrokerId(*id));
                Some(records)
            }
            Step::Restart { id, fenced, wiped, clean } => self.restart(*id, *fenced, *wiped, *clean),
            Step::InSync(mask) => self.in_sync(*mask),
            Step::Elect(election) => Some(image.elect_leaders(*election, None, &Rules).records),
            Step::Balance => Some(image.balance_leaders(0, 9, &Rules).records),
            Step::Reassign(replicas) => {
                let change = Reassignment {
                    topic: Str::from("t"),
                    partition: PartitionId(0),
                    replicas: replicas.as_ref().map(|ids| ids.iter().copied().map(BrokerId).collect()),
                };
                Some(image.alter_reassignments(&[change], true, &Rules).records)
            }
            Step::Set { key, value } => {
                let op = value.map_or(ConfigOp::Delete, |value| ConfigOp::Set(Str::from(value.to_string())));
                let resource = ConfigResource::topic(Str::from("t"));
                let change = AlterConfigs { resource, ops: vec![(Str::from(KEYS[*key]), op)] };
                Some(image.alter_configs(&[change], Mode::Apply, &Rules).records)
            }
        }
    }

    fn restart(&mut self, id: i32, fenced: bool, wiped: bool, clean: bool) -> Option<Vec<MetadataRecord>> {
        self.next += 1;
        let before = self.image.broker(BrokerId(id)).cloned();
        let known = before.as_ref().filter(|_| !wiped);
        let new_disk = || vec![Uuid::from_u128(self.next)];
        let command = RegisterBroker {
            incarnation_id: Uuid::from_u128(self.next),
            log_dirs: known.map_or_else(new_disk, |before| before.log_dirs.clone()),
            previous_epoch: if clean { self.epoch(id) } else { -1 },
            fenced,
            ..broker(id)
        };
        let partition = self.partition();
        let flushed = Rules.rule(&self.image, &Str::from("t")).flush_before_ack;
        // The last one is taken at its word: nobody has more.
        let is_last = partition.isr.iter().chain(&*partition.elr).all(|other| *other == BrokerId(id));
        let loses = wiped || (!clean && !flushed && !is_last);
        let decision = self.image.register_broker(&command, self.next as i64, false, &Rules).unwrap();
        if loses {
            self.lacking.insert(BrokerId(id));
        }
        Some(decision.records)
    }

    fn in_sync(&mut self, mask: u8) -> Option<Vec<MetadataRecord>> {
        let partition = self.partition().clone();
        let leader = partition.leader?;
        let is_in_sync = |(index, id): &(usize, &BrokerId)| **id == leader || mask & (1 << index) != 0;
        let isr = partition.replicas.iter().enumerate().filter(is_in_sync).map(|(_, id)| *id);
        let isr: Vec<BrokerId> = isr.collect();
        let change = AlterPartition {
            topic_id: self.image.topic("t")?.id,
            partition: PartitionId(0),
            leader_epoch: partition.leader_epoch,
            partition_epoch: partition.partition_epoch,
            isr: isr.iter().map(|id| (*id, self.epoch(id.0))).collect(),
        };
        let decision = self.image.alter_partitions(leader, self.epoch(leader.0), &[change], &Rules).unwrap();
        if !decision.records.is_empty() {
            // They have caught up, or the leader would not have named them.
            self.lacking.retain(|id| !isr.contains(id));
        }
        Some(decision.records)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whoever_may_lead_holds_everything_that_was_acknowledged(steps in steps()) {
        let mut model = Model::new();
        for step in &steps {
            model.run(step);
        }
    }
}
