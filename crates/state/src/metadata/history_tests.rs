//! Random histories of decisions: the records alone rebuild the image, and the image agrees with itself.

use proptest::prelude::*;
use wire::{BrokerId, PartitionId, Str, Uuid};

use super::testing::{Rules, broker, cluster, commit};
use super::{
    AlterConfigs, AlterPartition, ConfigOp, ConfigResource, CreatePartitions, CreateTopic, DeleteTopic,
    Election, Image, MetadataRecord, Mode, Partition, Reassignment, TopicDefaults,
};

const BROKERS: i32 = 4;

/// Settings, two of which decide who may lead.
const KEYS: [&str; 3] = ["retention.ms", "unclean.leader.election.enable", "flush.before.ack"];

/// Names that collide in some pairs.
const NAMES: [&str; 5] = ["a", "b.c", "b_c", "d", "."];

#[derive(Clone, Debug)]
enum Step {
    Create {
        names: Vec<usize>,
        partitions: i32,
        replicas: i16,
        configs: bool,
    },
    Grow {
        name: usize,
        count: i32,
    },
    Delete {
        names: Vec<usize>,
    },
    Alter {
        name: usize,
        key: usize,
        value: Option<i64>,
    },
    Restart {
        id: i32,
        fenced: bool,
        wiped: bool,
        clean: bool,
    },
    Fence {
        id: i32,
    },
    Unfence {
        id: i32,
    },
    Stop {
        id: i32,
    },
    /// The leader finds those replicas in sync whose bit is set.
    InSync {
        name: usize,
        partition: i32,
        mask: u8,
    },
    /// Of one partition, or of all.
    Elect {
        of: Option<(usize, i32)>,
        unclean: bool,
    },
    Reassign {
        name: usize,
        partition: i32,
        replicas: Option<Vec<i32>>,
        factor_change: bool,
    },
    ProducerIds {
        id: i32,
    },
    Feature {
        level: i16,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let names = || prop::collection::vec(0..NAMES.len(), 1..4);
    let step = prop_oneof![
        4 => (names(), -1..4i32, -1..4i16, any::<bool>()).prop_map(|(names, partitions, replicas, configs)| {
            Step::Create { names, partitions, replicas, configs }
        }),
        2 => (0..NAMES.len(), 0..6i32).prop_map(|(name, count)| Step::Grow { name, count }),
        2 => names().prop_map(|names| Step::Delete { names }),
        2 => (0..NAMES.len(), 0..KEYS.len(), prop::option::of(0..9i64))
            .prop_map(|(name, key, value)| Step::Alter { name, key, value }),
        2 => (1..=BROKERS, any::<bool>(), any::<bool>(), any::<bool>())
            .prop_map(|(id, fenced, wiped, clean)| Step::Restart { id, fenced, wiped, clean }),
        3 => (1..=BROKERS).prop_map(|id| Step::Fence { id }),
        3 => (1..=BROKERS).prop_map(|id| Step::Unfence { id }),
        1 => (1..=BROKERS).prop_map(|id| Step::Stop { id }),
        5 => (0..NAMES.len(), 0..4i32, any::<u8>())
            .prop_map(|(name, partition, mask)| Step::InSync { name, partition, mask }),
        2 => (prop::option::of((0..NAMES.len(), 0..4i32)), any::<bool>())
            .prop_map(|(of, unclean)| Step::Elect { of, unclean }),
        4 => (0..NAMES.len(), 0..4i32, prop::option::weighted(0.7, targets()), any::<bool>()).prop_map(
            |(name, partition, replicas, factor_change)| {
                Step::Reassign { name, partition, replicas, factor_change }
            }
        ),
        1 => (1..=BROKERS + 1).prop_map(|id| Step::ProducerIds { id }),
        1 => (6..9i16).prop_map(|level| Step::Feature { level }),
    ];
    prop::collection::vec(step, 1..80)
}

/// Some of the brokers, in any order.
fn targets() -> impl Strategy<Value = Vec<i32>> {
    let brokers: Vec<i32> = (1..=BROKERS).collect();
    prop::sample::subsequence(brokers, 1..=BROKERS as usize).prop_shuffle()
}

struct History {
    image: Image,
    log: Vec<MetadataRecord>,
    next_id: u128,
    next_epoch: i64,
}

impl History {
    fn run(&mut self, step: &Step) {
        let name = |index: &usize| Str::from(NAMES[*index]);
        let defaults = TopicDefaults { num_partitions: 2, replication_factor: 1 };
        let records = match step {
            Step::Create { names, partitions, replicas, configs } => {
                let topics = names.iter().map(|index| CreateTopic {
                    name: name(index),
                    num_partitions: *partitions,
                    replication_factor: *replicas,
                    assignments: Vec::new(),
                    configs: configs
                        .then(|| (Str::from("retention.ms"), Some(Str::from("5"))))
                        .into_iter()
                        .collect(),
                });
                let topics: Vec<CreateTopic> = topics.collect();
                let next_id = &mut self.next_id;
                let mut ids = || {
                    *next_id += 1;
                    Uuid::from_u128(*next_id)
                };
                self.image.create_topics(&topics, Mode::Apply, defaults, &Rules, 7, &mut ids).records
            }
            Step::Grow { name: index, count } => {
                let grow = CreatePartitions { name: name(index), count: *count, assignments: None };
                self.image.create_partitions(&[grow], Mode::Apply, 7).records
            }
            Step::Delete { names } => {
                let topics: Vec<DeleteTopic> =
                    names.iter().map(|index| DeleteTopic::Name(name(index))).collect();
                self.image.delete_topics(&topics).records
            }
            Step::Alter { name: index, key, value } => {
                let op = value.map_or(ConfigOp::Delete, |value| ConfigOp::Set(Str::from(value.to_string())));
                let ops = vec![(Str::from(KEYS[*key]), op)];
                let change = AlterConfigs { resource: ConfigResource::topic(name(index)), ops };
                self.image.alter_configs(&[change], Mode::Apply, &Rules).records
            }
            Step::Restart { id, fenced, wiped, clean } => {
                let mut command = broker(*id);
                self.next_id += 1;
                command.incarnation_id = Uuid::from_u128(self.next_id);
                command.fenced = *fenced;
                let before = self.image.broker(BrokerId(*id)).unwrap();
                command.log_dirs =
                    if *wiped { vec![Uuid::from_u128(self.next_id)] } else { before.log_dirs.clone() };
                command.previous_epoch = if *clean { before.epoch } else { -1 };
                self.next_epoch += 1;
                let registered = self.image.register_broker(&command, self.next_epoch, false, &Rules);
                registered.map(|decision| decision.records).unwrap_or_default()
            }
            Step::Fence { id } => self.image.fence_broker(BrokerId(*id), &Rules).unwrap().records,
            Step::Unfence { id } => {
                self.image.unfence_broker(BrokerId(*id), self.epoch(BrokerId(*id)), &Rules).unwrap().records
            }
            Step::Stop { id } => {
                let epoch = self.epoch(BrokerId(*id));
                self.image.begin_controlled_shutdown(BrokerId(*id), epoch, &Rules).unwrap().records
            }
            Step::InSync { name: index, partition, mask } => {
                self.in_sync(&name(index), PartitionId(*partition), *mask)
            }
            Step::Elect { of, unclean } => {
                let election = if *unclean { Election::Unclean } else { Election::Preferred };
                let named = of.map(|(index, partition)| [(name(&index), PartitionId(partition))]);
                self.image.elect_leaders(election, named.as_ref().map(|named| &named[..]), &Rules).records
            }
            Step::Reassign { name: index, partition, replicas, factor_change } => {
                let change = Reassignment {
                    topic: name(index),
                    partition: PartitionId(*partition),
                    replicas: replicas.as_ref().map(|ids| ids.iter().copied().map(BrokerId).collect()),
                };
                self.image.alter_reassignments(&[change], *factor_change, &Rules).records
            }
            Step::ProducerIds { id } => {
                let epoch = self.image.broker(BrokerId(*id)).map_or(0, |broker| broker.epoch);
                let block = self.image.allocate_producer_ids(BrokerId(*id), epoch);
                block.map(|decision| decision.records).unwrap_or_default()
            }
            Step::Feature { level } => self.image.set_feature("metadata.version", *level).records,
        };
        let decision = super::Decision { records, reply: () };
        self.log.extend(decision.records.iter().cloned());
        commit(&mut self.image, decision);
        self.assert_invariants();
    }

    fn epoch(&self, id: BrokerId) -> i64 {
        self.image.broker(id).map_or(-1, |broker| broker.epoch)
    }

    fn in_sync(&self, name: &str, id: PartitionId, mask: u8) -> Vec<MetadataRecord> {
        let Some((topic, partition)) = self.image.topic(name).zip(self.image.partition(name, id)) else {
            return Vec::new();
        };
        let Some(leader) = partition.leader else { return Vec::new() };
        let in_sync = |(index, id): (usize, &BrokerId)| {
            (*id == leader || mask & (1 << index) != 0).then(|| (*id, self.epoch(*id)))
        };
        let change = AlterPartition {
            topic_id: topic.id,
            partition: id,
            leader_epoch: partition.leader_epoch,
            partition_epoch: partition.partition_epoch,
            isr: partition.replicas.iter().enumerate().filter_map(in_sync).collect(),
        };
        self.image.alter_partitions(leader, self.epoch(leader), &[change], &Rules).unwrap().records
    }

    fn assert_partition(&self, partition: &Partition) {
        let live = |id: &BrokerId| self.image.broker(*id).is_some_and(|broker| broker.is_active());
        let fenced = |id: &BrokerId| self.image.broker(*id).is_none_or(|broker| broker.fenced);
        assert!(partition.isr.iter().all(|id| partition.replicas.contains(id)));
        assert!(partition.leader.is_none_or(|leader| partition.isr.contains(&leader)));
        assert!(!partition.isr.iter().any(fenced), "who is fenced is in sync nowhere");
        assert!(partition.elr.is_empty() || partition.isr.len() < 2, "enough in sync leave nobody eligible");
        let mut held = partition.isr.iter().chain(&*partition.elr);
        assert!(partition.leader.is_some() || !held.any(live), "who may lead does");
        let is_known =
            !partition.isr.is_empty() || !partition.elr.is_empty() || !partition.last_known_elr.is_empty();
        assert!(is_known, "somebody held it last");
        let mut replicas = partition.replicas.to_vec();
        replicas.sort_unstable();
        assert!(replicas.windows(2).all(|pair| pair[0] != pair[1]), "nobody is a replica twice");
        assert!(partition.removing.len() < partition.replicas.len(), "some replicas stay");
        assert!(!partition.adding.iter().any(|id| partition.removing.contains(id)), "who comes stays");
    }

    fn assert_invariants(&self) {
        let mut partitions = 0;
        for topic in self.image.topics() {
            assert_eq!(self.image.topic_by_id(topic.id), Some(topic));
            assert!(topic.partition_count() > 0);
            for (index, (id, partition)) in topic.partitions().enumerate() {
                assert_eq!(id, PartitionId(index as i32), "ids have no gaps");
                self.assert_partition(partition);
                partitions += 1;
            }
        }
        assert_eq!(self.image.partition_count(), partitions);
        let both = ["b.c", "b_c"].map(|name| self.image.topic(name).is_some());
        assert_ne!(both, [true, true], "names that metrics cannot tell apart are not both taken");
        for resource in self.image.configs.keys() {
            assert!(self.image.topic(&resource.name).is_some(), "settings go with their topic");
        }
        let mut replayed = cluster(BROKERS);
        for record in &self.log {
            replayed.apply(record);
        }
        assert_eq!(replayed, self.image, "the records say it all");
        let mut restored = Image::default();
        self.image.snapshot_records().iter().for_each(|record| restored.apply(record));
        assert_eq!(restored, self.image, "a snapshot says it all");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn records_rebuild_the_image_after_any_history(steps in steps()) {
        let mut history = History { image: cluster(BROKERS), log: Vec::new(), next_id: 1_000, next_epoch: 1_000 };
        for step in &steps {
            history.run(step);
        }
    }
}
