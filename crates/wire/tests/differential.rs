//! This codec against an independent one (`kafka-protocol`), over every API and version that both know.
//!
//! The bytes come from the schema files by a third way that uses neither. Both codecs must read them whole and
//! write the same bytes back.

mod support;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey as TheirKey, RequestKind, ResponseKind};
use support::random::Random;
use support::sample;
use support::schema::{Kind, Schema};
use wire::messages::Message;
use wire::{ApiKey, Decoder, Encoder, Request, Response};

const SAMPLES_PER_VERSION: usize = 200;

/// What the other codec does not know yet: these versions are covered by our own round trip alone.
const UNKNOWN_TO_THEM: &[(ApiKey, i16)] = &[
    (ApiKey::ListOffsets, 11),
    (ApiKey::OffsetCommit, 10),
    (ApiKey::OffsetFetch, 10),
    (ApiKey::DescribeLogDirs, 5),
    (ApiKey::AddRaftVoter, 1),
    (ApiKey::WriteTxnMarkers, 2),
    (ApiKey::ShareFetch, 2),
    (ApiKey::ShareAcknowledge, 2),
    (ApiKey::WriteShareGroupState, 1),
    (ApiKey::ReadShareGroupStateSummary, 1),
    (ApiKey::DescribeShareGroupOffsets, 1),
];

#[test]
fn both_codecs_read_and_write_the_same_bytes() {
    let mut random = Random::new(7);
    for schema in &support::schemas() {
        let Kind::Api { code, request, response, .. } = &schema.kind else { continue };
        let api = ApiKey::from_code(*code).unwrap();
        // What brokers say among themselves nobody else knows.
        let their_key = TheirKey::try_from(*code).ok();
        assert_eq!(their_key.is_none(), api.is_private(), "{api}");
        for version in api.versions() {
            let known = their_key.filter(|_| !UNKNOWN_TO_THEM.contains(&(api, version)));
            for _ in 0..SAMPLES_PER_VERSION {
                let bytes = sample::message(schema, request, version, &mut random);
                assert_eq!(our_request(api, version, &bytes), bytes, "our {api} request v{version}");
                if let Some(their_key) = known {
                    let theirs = their_request(their_key, version, &bytes);
                    assert_eq!(theirs, bytes, "their {api} request v{version}");
                } else if let Some(their_key) = their_key {
                    let theirs = RequestKind::decode(their_key, &mut Bytes::from(bytes), version);
                    assert!(theirs.is_err(), "they have learned {api} v{version}: compare it");
                }
                let bytes = sample::message(schema, response, version, &mut random);
                assert_eq!(our_response(api, version, &bytes), bytes, "our {api} response v{version}");
                if let Some(their_key) = known {
                    let theirs = their_response(their_key, version, &bytes);
                    assert_eq!(theirs, bytes, "their {api} response v{version}");
                }
            }
        }
    }
}

fn our_request(api: ApiKey, version: i16, bytes: &[u8]) -> Bytes {
    let mut d = Decoder::new(Bytes::copy_from_slice(bytes));
    let request = Request::decode_from(api, version, &mut d);
    let request = request.unwrap_or_else(|error| panic!("{api} request v{version}: {error}: {bytes:02x?}"));
    assert_eq!(d.remaining(), 0, "{api} request v{version}");
    let mut e = Encoder::new();
    request.encode(&mut e, version);
    e.into_bytes()
}

fn our_response(api: ApiKey, version: i16, bytes: &[u8]) -> Bytes {
    let mut d = Decoder::new(Bytes::copy_from_slice(bytes));
    let response = Response::decode_from(api, version, &mut d);
    let response =
        response.unwrap_or_else(|error| panic!("{api} response v{version}: {error}: {bytes:02x?}"));
    assert_eq!(d.remaining(), 0, "{api} response v{version}");
    let mut e = Encoder::new();
    response.encode(&mut e, version);
    e.into_bytes()
}

fn their_request(api: TheirKey, version: i16, bytes: &[u8]) -> Bytes {
    let mut frame = Bytes::copy_from_slice(bytes);
    let request =
        RequestKind::decode(api, &mut frame, version).unwrap_or_else(|e| panic!("{api:?} v{version}: {e}"));
    assert!(frame.is_empty());
    let mut out = BytesMut::new();
    request.encode(&mut out, version).unwrap_or_else(|e| panic!("{api:?} v{version}: {e}"));
    out.freeze()
}

fn their_response(api: TheirKey, version: i16, bytes: &[u8]) -> Bytes {
    let mut frame = Bytes::copy_from_slice(bytes);
    let response =
        ResponseKind::decode(api, &mut frame, version).unwrap_or_else(|e| panic!("{api:?} v{version}: {e}"));
    assert!(frame.is_empty());
    let mut out = BytesMut::new();
    response.encode(&mut out, version).unwrap_or_else(|e| panic!("{api:?} v{version}: {e}"));
    out.freeze()
}

/// Records have no counterpart to compare with: they read back what was written, byte for byte.
#[test]
fn records_read_and_write_the_same_bytes() {
    use wire::messages::*;
    let schemas = support::schemas();
    let mut random = Random::new(11);
    let mut checked = 0;
    macro_rules! check {
        ($($module:ident :: $name:ident),* $(,)?) => {$(
            round_trip::<$module::$name>(&schemas, stringify!($module), &mut random);
            checked += 1;
        )*};
    }
    check!(
        broker_registration_change_record::BrokerRegistrationChangeRecord,
        client_quota_record::ClientQuotaRecord,
        config_record::ConfigRecord,
        consumer_group_current_member_assignment_value::ConsumerGroupCurrentMemberAssignmentValue,
        consumer_group_member_metadata_key::ConsumerGroupMemberMetadataKey,
        consumer_group_member_metadata_value::ConsumerGroupMemberMetadataValue,
        consumer_group_metadata_key::ConsumerGroupMetadataKey,
        consumer_group_metadata_value::ConsumerGroupMetadataValue,
        consumer_group_target_assignment_member_value::ConsumerGroupTargetAssignmentMemberValue,
        consumer_group_target_assignment_metadata_value::ConsumerGroupTargetAssignmentMetadataValue,
        consumer_protocol_assignment::ConsumerProtocolAssignment,
        consumer_protocol_subscription::ConsumerProtocolSubscription,
        end_txn_marker::EndTxnMarker,
        feature_level_record::FeatureLevelRecord,
        group_metadata_key::GroupMetadataKey,
        group_metadata_value::GroupMetadataValue,
        no_op_record::NoOpRecord,
        offset_commit_key::OffsetCommitKey,
        offset_commit_value::OffsetCommitValue,
        partition_change_record::PartitionChangeRecord,
        partition_record::PartitionRecord,
        producer_ids_record::ProducerIdsRecord,
        quorum_snapshot_record::QuorumSnapshotRecord,
        register_broker_record::RegisterBrokerRecord,
        remove_topic_record::RemoveTopicRecord,
        share_group_current_member_assignment_key::ShareGroupCurrentMemberAssignmentKey,
        share_group_current_member_assignment_value::ShareGroupCurrentMemberAssignmentValue,
        share_group_member_metadata_key::ShareGroupMemberMetadataKey,
        share_group_member_metadata_value::ShareGroupMemberMetadataValue,
        share_group_metadata_key::ShareGroupMetadataKey,
        share_group_metadata_value::ShareGroupMetadataValue,
        share_group_state_partition_metadata_key::ShareGroupStatePartitionMetadataKey,
        share_group_state_partition_metadata_value::ShareGroupStatePartitionMetadataValue,
        share_group_target_assignment_member_key::ShareGroupTargetAssignmentMemberKey,
        share_group_target_assignment_member_value::ShareGroupTargetAssignmentMemberValue,
        share_group_target_assignment_metadata_key::ShareGroupTargetAssignmentMetadataKey,
        share_group_target_assignment_metadata_value::ShareGroupTargetAssignmentMetadataValue,
        share_snapshot_key::ShareSnapshotKey,
        share_snapshot_value::ShareSnapshotValue,
        share_update_key::ShareUpdateKey,
        share_update_value::ShareUpdateValue,
        topic_record::TopicRecord,
        transaction_log_key::TransactionLogKey,
        transaction_log_value::TransactionLogValue,
        unregister_broker_record::UnregisterBrokerRecord,
    );
    let records = schemas.iter().filter(|schema| matches!(schema.kind, Kind::Record { .. }));
    assert_eq!(checked, records.count(), "a record is missing in this list");
}

fn round_trip<M: Message>(schemas: &[Schema], module: &str, random: &mut Random) {
    let schema = schemas.iter().find(|schema| schema.module == module).unwrap();
    for version in M::VERSIONS {
        for _ in 0..SAMPLES_PER_VERSION {
            let bytes = sample::message(schema, M::NAME, version, random);
            let mut d = Decoder::new(Bytes::copy_from_slice(&bytes));
            let record = M::decode(&mut d, version).unwrap_or_else(|e| panic!("{module} v{version}: {e}"));
            assert_eq!(d.remaining(), 0, "{module} v{version}");
            let mut e = Encoder::new();
            record.encode(&mut e, version);
            assert_eq!(e.into_bytes(), bytes, "{module} v{version}");
        }
    }
}
