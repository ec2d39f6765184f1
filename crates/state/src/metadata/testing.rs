//! Small clusters and a small settings table for the tests of the decisions.

use std::collections::BTreeMap;

use bytes::Bytes;
use wire::{BrokerId, ErrorCode, Str, Uuid};

use super::{
    ConfigResource, ConfigRules, Decision, Endpoint, FeatureRange, Image, MetadataRecord, Refusal,
    RegisterBroker, ResourceKind,
};

/// Two keys: a number and a list.
pub(super) struct Rules;

impl ConfigRules for Rules {
    fn check(&self, _: &ConfigResource, values: &BTreeMap<Str, Str>) -> Result<(), String> {
        for (key, value) in values {
            match &**key {
                "cleanup.policy" => {}
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

/// A cluster of brokers 1 up to `count`.
pub(super) fn cluster(count: i32) -> Image {
    let mut image = Image::default();
    for id in 1..=count {
        let decision = image.register_broker(&broker(id)).unwrap();
        commit(&mut image, decision);
    }
    image
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
        fenced: false,
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
    told
}
