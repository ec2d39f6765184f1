//! Random histories of decisions: the records alone rebuild the image, and the image agrees with itself.

use proptest::prelude::*;
use wire::{BrokerId, PartitionId, Str, Uuid};

use super::testing::{Rules, broker, cluster, commit};
use super::{
    AlterConfigs, ConfigOp, ConfigResource, CreatePartitions, CreateTopic, DeleteTopic, Image,
    MetadataRecord, Mode, TopicDefaults,
};

/// Names that collide in some pairs.
const NAMES: [&str; 5] = ["a", "b.c", "b_c", "d", "."];

#[derive(Clone, Debug)]
enum Step {
    Create { names: Vec<usize>, partitions: i32, replicas: i16, configs: bool },
    Grow { name: usize, count: i32 },
    Delete { names: Vec<usize> },
    Alter { name: usize, value: Option<i64> },
    Restart { id: i32, fenced: bool },
    ProducerIds { id: i32 },
    Feature { level: i16 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let names = || prop::collection::vec(0..NAMES.len(), 1..4);
    let step = prop_oneof![
        4 => (names(), -1..4i32, -1..4i16, any::<bool>()).prop_map(|(names, partitions, replicas, configs)| {
            Step::Create { names, partitions, replicas, configs }
        }),
        2 => (0..NAMES.len(), 0..6i32).prop_map(|(name, count)| Step::Grow { name, count }),
        2 => names().prop_map(|names| Step::Delete { names }),
        2 => (0..NAMES.len(), prop::option::of(0..9i64)).prop_map(|(name, value)| Step::Alter { name, value }),
        1 => (1..4i32, any::<bool>()).prop_map(|(id, fenced)| Step::Restart { id, fenced }),
        1 => (1..5i32).prop_map(|id| Step::ProducerIds { id }),
        1 => (6..9i16).prop_map(|level| Step::Feature { level }),
    ];
    prop::collection::vec(step, 1..40)
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
            Step::Alter { name: index, value } => {
                let op = value.map_or(ConfigOp::Delete, |value| ConfigOp::Set(Str::from(value.to_string())));
                let ops = vec![(Str::from("retention.ms"), op)];
                let change = AlterConfigs { resource: ConfigResource::topic(name(index)), ops };
                self.image.alter_configs(&[change], Mode::Apply, &Rules).records
            }
            Step::Restart { id, fenced } => {
                let mut command = broker(*id);
                self.next_id += 1;
                command.incarnation_id = Uuid::from_u128(self.next_id);
                command.fenced = *fenced;
                self.next_epoch += 1;
                let registered = self.image.register_broker(&command, self.next_epoch, false, &Rules);
                registered.map(|decision| decision.records).unwrap_or_default()
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

    fn assert_invariants(&self) {
        let mut partitions = 0;
        for topic in self.image.topics() {
            assert_eq!(self.image.topic_by_id(topic.id), Some(topic));
            assert!(topic.partition_count() > 0);
            for (index, (id, partition)) in topic.partitions().enumerate() {
                assert_eq!(id, PartitionId(index as i32), "ids have no gaps");
                assert!(partition.isr.iter().all(|id| partition.replicas.contains(id)));
                assert!(partition.leader.is_none_or(|leader| partition.isr.contains(&leader)));
                let is_held = !partition.isr.is_empty() || !partition.elr.is_empty();
                assert!(is_held || !partition.last_known_elr.is_empty(), "somebody held it last");
                assert_eq!(partition.replicas.len(), topic.replication_factor());
                partitions += 1;
            }
        }
        assert_eq!(self.image.partition_count(), partitions);
        let both = ["b.c", "b_c"].map(|name| self.image.topic(name).is_some());
        assert_ne!(both, [true, true], "names that metrics cannot tell apart are not both taken");
        for resource in self.image.configs.keys() {
            assert!(self.image.topic(&resource.name).is_some(), "settings go with their topic");
        }
        let mut replayed = cluster(3);
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
        let mut history = History { image: cluster(3), log: Vec::new(), next_id: 1_000, next_epoch: 1_000 };
        for step in &steps {
            history.run(step);
        }
    }
}
