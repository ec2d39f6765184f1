//! Metadata records against bytes that Apache Kafka 4.3.1 wrote.

use bytes::Bytes;
use wire::messages::client_quota_record::{ClientQuotaRecord, EntityData};
use wire::messages::config_record::ConfigRecord;
use wire::messages::feature_level_record::FeatureLevelRecord;
use wire::messages::partition_record::PartitionRecord;
use wire::messages::producer_ids_record::ProducerIdsRecord;
use wire::messages::register_broker_record::RegisterBrokerRecord;
use wire::messages::remove_topic_record::RemoveTopicRecord;
use wire::messages::topic_record::TopicRecord;
use wire::{Str, Uuid};

use super::testing::{Rules, broker};
use super::{ConfigResource, Image, MetadataRecord, QuotaEntity, RecordError};

/// The bytes that these hexadecimal digits stand for.
fn hex(digits: &str) -> Bytes {
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn topic_id() -> Uuid {
    Uuid::from_u128(1 << 64 | 2)
}

fn check(record: MetadataRecord, golden: &str) {
    assert_eq!(record.encode(), hex(golden), "{record:?}");
    assert_eq!(MetadataRecord::decode(&hex(golden)), Ok(record));
}

fn partition() -> PartitionRecord {
    PartitionRecord {
        partition_id: 3,
        topic_id: topic_id(),
        replicas: vec![1, 2],
        isr: vec![1],
        leader: 1,
        leader_epoch: 0,
        partition_epoch: 0,
        ..Default::default()
    }
}

#[test]
fn records_have_kafkas_bytes() {
    let topic = TopicRecord { name: Str::from("t"), topic_id: topic_id() };
    check(MetadataRecord::Topic(topic), "01020002740000000000000001000000000000000200");
    check(
        MetadataRecord::Partition(partition()),
        "01030000000003000000000000000100000000000000020300000001000000020200000001010100000001000000000000000000",
    );
    let removed = RemoveTopicRecord { topic_id: topic_id() };
    check(MetadataRecord::RemoveTopic(removed), "0109000000000000000001000000000000000200");
    let producer_ids = ProducerIdsRecord { broker_id: 1, broker_epoch: 9, next_producer_id: 1_000 };
    check(MetadataRecord::ProducerIds(producer_ids), "010f0000000001000000000000000900000000000003e800");
    let feature = FeatureLevelRecord { name: Str::from("metadata.version"), feature_level: 29 };
    check(MetadataRecord::FeatureLevel(feature), "010c00116d657461646174612e76657273696f6e001d00");
}

#[test]
fn settings_have_kafkas_bytes_set_and_unset() {
    let name = Str::from("retention.ms");
    let set = ConfigRecord {
        resource_type: 2,
        resource_name: Str::from("t"),
        name: name.clone(),
        value: Some(Str::from("5")),
    };
    let resource = ConfigResource::topic(Str::from("t"));
    check(MetadataRecord::Config(resource, set), "0104000202740d726574656e74696f6e2e6d73023500");
    let unset = ConfigRecord { resource_type: 4, resource_name: Str::default(), name, value: None };
    let resource = ConfigResource::cluster_default();
    check(MetadataRecord::Config(resource, unset), "01040004010d726574656e74696f6e2e6d730000");
}

#[test]
fn quotas_have_kafkas_bytes_and_make_sense() {
    let part = |kind: &'static str, name: Option<&'static str>| EntityData {
        entity_type: Str::from(kind),
        entity_name: name.map(Str::from),
    };
    let set = ClientQuotaRecord {
        entity: vec![part("user", Some("a")), part("client-id", None)],
        key: Str::from("producer_byte_rate"),
        value: 1_024.0,
        remove: false,
    };
    let (user, kind) = (Str::from("a"), ["user", "client-id"]);
    let entity = QuotaEntity::new([(kind[0], Some(&user)), (kind[1], None)]).unwrap();
    let golden = "010e00030575736572026100\
                  0a636c69656e742d69640000\
                  1370726f64756365725f627974655f72617465\
                  40900000000000000000";
    check(MetadataRecord::ClientQuota(entity.clone(), set.clone()), golden);
    let nonsense = |record: ClientQuotaRecord| {
        MetadataRecord::decode(&MetadataRecord::ClientQuota(entity.clone(), record).encode())
    };
    let strange = ClientQuotaRecord { entity: vec![part("host", None)], ..set.clone() };
    assert!(matches!(nonsense(strange), Err(RecordError::InvalidQuota(_))));
    let no_number = ClientQuotaRecord { value: f64::NAN, ..set };
    assert!(matches!(nonsense(no_number), Err(RecordError::InvalidQuota(_))));
}

#[test]
fn a_broker_has_kafkas_bytes() {
    let decision = Image::default().register_broker(&broker(1), 1, false, &Rules).unwrap();
    let [MetadataRecord::RegisterBroker(record)] = &decision.records[..] else { panic!("one record") };
    let record: RegisterBrokerRecord = record.clone();
    check(
        MetadataRecord::RegisterBroker(record),
        "0100030000000100000000000000000000000000000000010000000000000001020a504c41494e544558540a6c6f63616c686f7374\
         238400000002116d657461646174612e76657273696f6e0007001d0000000001001102000000000000000000000000000003e9",
    );
}

#[test]
fn a_partition_with_directories_is_read_too() {
    let golden = "0103010000000300000000000000010000000000000002030000000100000002020000000101010000000100000000000000\
                  0003000000000000000300000000000000040000000000000005000000000000000600";
    let directories = [3 << 64 | 4, 5 << 64 | 6].map(Uuid::from_u128).to_vec();
    let expected = MetadataRecord::Partition(PartitionRecord { directories, ..partition() });
    assert_eq!(MetadataRecord::decode(&hex(golden)), Ok(expected));
}

#[test]
fn bytes_that_are_no_record_are_refused() {
    let decode = |bytes: &'static [u8]| MetadataRecord::decode(&Bytes::from_static(bytes)).unwrap_err();
    assert_eq!(decode(b"\x02\x0c\x00"), RecordError::UnknownFrame(2));
    assert_eq!(decode(b"\x01\x7f\x00"), RecordError::UnknownType(127));
    assert_eq!(decode(b"\x01\x0c\x00\x02a\x00\x01\x00\x00"), RecordError::TrailingBytes(1));
    assert_eq!(decode(b"\x01\x04\x00\x05\x01\x02a\x02b\x00"), RecordError::UnknownResource(5));
    assert!(matches!(decode(b"\x01\x0c\x09\x02a\x00\x01\x00"), RecordError::Malformed(_)));
    assert!(matches!(decode(b""), RecordError::Malformed(_)));
}
