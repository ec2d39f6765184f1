//! Small clusters and a small settings table for the tests of the decisions.

use std::collections::BTreeMap;

use bytes::Bytes;
use wire::{BrokerId, ErrorCode, PartitionId, Str, Uuid};

use super::{
    ConfigResource, ConfigRules, CreateTopic, Decision, Endpoint, FeatureRange, Image, MetadataRecord, Mode,
    QuotaFilter, Refusal, RegisterBroker, ResourceKind, TopicDefaults, TopicRule, TopicRules,
};

/// Two keys: a number and a list.
pub(super) struct Rules;

impl ConfigRules for Rules {
    fn check(&self, _: &ConfigResource, values: &BTreeMap<Str, Str>) -> Result<(), String> {
        for (key, value) in values {
            match &**key {
                "cleanup.policy"
                | "unclean.leader.election.enable"
                | "flush.before.ack"
                | "min.insync.replicas" => {}
                "retention.ms" if value.parse::<i64>().is_ok() => {}
                "retention.ms" => {
                    return Err(format!("Invalid value {value} for configuration {key}: not a number"));
                }
                _ => return Err(format!("Unknown topic config name: {key}")),
            }
        }
        Ok(())
    }

    fn is_list(&self, _: ResourceKind, key: &str) -> bool {
        key == "cleanup.policy"
    }

    fn list_default(&self, _: ResourceKind, key: &str) -> Option<Str> {
        (key == "cleanup.policy").then(|| Str::from("delete"))
    }
}

impl TopicRules for Rules {
    fn rule(&self, image: &Image, topic: &Str) -> TopicRule {
        let resource = ConfigResource::topic(topic.clone());
        let is_set = |key: &str| image.config(&resource, key).is_some();
        TopicRule {
            min_insync_replicas: image
                .config(&resource, "min.insync.replicas")
                .and_then(|value| value.parse().ok())
                .unwrap_or(2),
            unclean_election: is_set("unclean.leader.election.enable"),
            flush_before_ack: !is_set("flush.before.ack"),
        }
    }
}

/// A cluster of brokers 1 up to `count`.
pub(super) fn cluster(count: i32) -> Image {
    let mut image = Image::default();
    for id in 1..=count {
        register(&mut image, &broker(id));
    }
    image
}

/// A cluster of so many brokers with topic `t`, whose one partition is on brokers 1, 2 and 3 and led by 1.
pub(super) fn replicated(brokers: i32) -> Image {
    let mut image = cluster(brokers);
    let topic = CreateTopic {
        name: Str::from("t"),
        num_partitions: -1,
        replication_factor: -1,
        assignments: vec![(PartitionId(0), [1, 2, 3].map(BrokerId).to_vec())],
        ..CreateTopic::default()
    };
    let defaults = TopicDefaults { num_partitions: 1, replication_factor: 1 };
    let decision = image.create_topics(&[topic], Mode::Apply, defaults, &Rules, 0, &mut ids());
    commit(&mut image, decision);
    image
}

/// Registers a broker in the next epoch, and gives that.
pub(super) fn register(image: &mut Image, command: &RegisterBroker) -> i64 {
    let epoch = image.brokers().map(|broker| broker.epoch).max().unwrap_or(0) + 1;
    let decision = image.register_broker(command, epoch, false, &Rules).unwrap();
    commit(image, decision).epoch
}

pub(super) fn broker(id: i32) -> RegisterBroker {
    RegisterBroker {
        id: BrokerId(id),
        incarnation_id: Uuid::from_u128(id as u128),
        endpoints: vec![Endpoint {
            listener: Str::from("PLAINTEXT"),
            host: Str::from("localhost"),
            port: 9_092,
            security_protocol: 0,
        }],
        features: vec![FeatureRange { name: Str::from("metadata.version"), min: 7, max: 29 }],
        rack: None,
        log_dirs: vec![Uuid::from_u128(1_000 + id as u128)],
        has_offline_dirs: false,
        held: Default::default(),
        fenced: false,
        previous_epoch: -1,
    }
}

/// Commits a decision the way a broker does, through bytes, and gives its answer.
pub(super) fn commit<R>(image: &mut Image, decision: Decision<R>) -> R {
    for record in &decision.records {
        let value: Bytes = record.encode();
        let decoded = MetadataRecord::decode(&value).unwrap();
        assert_eq!(&decoded, record, "what was written is read back");
        image.apply(&decoded);
    }
    decision.reply
}

/// Ids in order: 1, 2, 3 and so on.
pub(super) fn ids() -> impl FnMut() -> Uuid {
    let mut next = 0;
    move || {
        next += 1;
        Uuid::from_u128(next)
    }
}

pub(super) fn tell_refusal(refusal: &Refusal) -> String {
    format!("{}: {refusal}", ErrorCode::from(refusal).name())
}

/// Topics with the replicas of each partition, and all that is configured.
pub(super) fn tell(image: &Image) -> String {
    let mut told = String::new();
    for topic in image.topics() {
        let partitions = topic.partitions().map(|(id, partition)| {
            let replicas: Vec<String> = partition.replicas.iter().map(ToString::to_string).collect();
            let leader = partition.leader.map_or("none".to_owned(), |leader| leader.to_string());
            format!(" {id}:{}@{leader}", replicas.join(","))
        });
        told += &format!("{}{}\n", topic.name, partitions.collect::<String>());
    }
    for (resource, values) in &image.configs {
        let values: Vec<String> = values.iter().map(|(key, value)| format!("{key}={value}")).collect();
        told += &format!("{:?} {:?} {}\n", resource.kind, &*resource.name, values.join(" "));
    }
    for (entity, quotas) in image.quotas(&QuotaFilter::default()) {
        let parts = entity.parts().map(|(kind, name)| match name.to_wire() {
            Some(name) => format!("{kind}={name}"),
            None => format!("{kind}=(default)"),
        });
        let quotas = quotas.into_iter().map(|(key, limit)| format!("{key}={limit}"));
        let words = parts.chain(quotas).collect::<Vec<_>>().join(" ");
        told += &format!("quota {words}\n");
    }
    told
}
