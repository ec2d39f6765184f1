//! Records of `__consumer_offsets` against bytes that Apache Kafka 4.3.1 wrote.

use bytes::Bytes;
use wire::messages::group_metadata_value::{GroupMetadataValue, MemberMetadata};
use wire::{LeaderEpoch, Millis, Offset, PartitionId, Str, Uuid};

use super::RecordError;
use super::offsets::CommittedOffset;
use super::records::{Event, empty_group};
use super::traces::ExpiredOffset;

const OFFSET_KEY: &str = "000100016700017400000003";
const GROUP_KEY: &str = "0002000167";

/// The bytes that these hexadecimal digits stand for.
fn hex(digits: &str) -> Bytes {
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn decode(key: &str, value: Option<&str>) -> Result<Event, RecordError> {
    Event::decode(&hex(key), value.map(hex).as_deref())
}

/// The event is written as Kafka writes it, and read back.
fn check(event: Event, key: &str, value: Option<&str>) {
    let record = event.encode();
    assert_eq!((record.key, record.value), (hex(key), value.map(hex)), "{event:?}");
    assert_eq!(decode(key, value), Ok(event));
}

fn committed() -> CommittedOffset {
    CommittedOffset {
        offset: Offset(42),
        leader_epoch: LeaderEpoch(7),
        metadata: Str::from("note"),
        committed_at: Millis(1_000),
        expires_at: None,
        topic_id: Uuid::ZERO,
    }
}

fn offset_event(committed: CommittedOffset) -> Event {
    Event::OffsetCommitted {
        group: Str::from("g"),
        topic: Str::from("t"),
        partition: PartitionId(3),
        committed,
    }
}

fn group_event(value: GroupMetadataValue) -> Event {
    Event::GroupStored { group: Str::from("g"), value }
}

fn group() -> GroupMetadataValue {
    let member = MemberMetadata {
        member_id: Str::from("m-1"),
        group_instance_id: Some(Str::from("i")),
        client_id: Str::from("c"),
        client_host: Str::from("/127.0.0.1"),
        rebalance_timeout: 300_000,
        session_timeout: 45_000,
        subscription: Bytes::from_static(&[1, 2]),
        assignment: Bytes::from_static(&[3]),
    };
    GroupMetadataValue {
        protocol_type: Str::from("consumer"),
        generation: 5,
        protocol: Some(Str::from("range")),
        leader: Some(Str::from("m-1")),
        current_state_timestamp: 1_000,
        members: vec![member],
    }
}

#[test]
fn offsets_have_kafkas_bytes() {
    let plain = "0004000000000000002a00000007056e6f746500000000000003e800";
    check(offset_event(committed()), OFFSET_KEY, Some(plain));

    let with_id = CommittedOffset { topic_id: Uuid::from_u128(1 << 64 | 2), ..committed() };
    let with_id_bytes =
        "0004000000000000002a00000007056e6f746500000000000003e801001000000000000000010000000000000002";
    check(offset_event(with_id), OFFSET_KEY, Some(with_id_bytes));

    let expiring =
        CommittedOffset { leader_epoch: LeaderEpoch::NONE, expires_at: Some(Millis(2_000)), ..committed() };
    let expiring_bytes = "0001000000000000002a00046e6f746500000000000003e800000000000007d0";
    check(offset_event(expiring), OFFSET_KEY, Some(expiring_bytes));

    let (group, topic, partition) = (Str::from("g"), Str::from("t"), PartitionId(3));
    check(Event::OffsetForgotten { group, topic, partition }, OFFSET_KEY, None);
}

#[test]
fn what_is_left_of_an_expired_offset_is_a_commit_of_nothing_to_everybody_else() {
    let (group, topic, partition) = (Str::from("g"), Str::from("t"), PartitionId(3));
    let expired = ExpiredOffset { offset: Offset(42), expired_at: Millis(1_000), topic_id: Uuid::ZERO };
    // Kafka's version 4: offset -1, no epoch, no note, the time, and a tag that it passes over.
    let bytes = "0004ffffffffffffffffffffffff0100000000000003e801904e08000000000000002a";
    check(Event::OffsetExpired { group, topic, partition, expired }, OFFSET_KEY, Some(bytes));
}

#[test]
fn groups_have_kafkas_bytes() {
    let value = "00030008636f6e73756d657200000005000572616e676500036d2d3100000000000003e80000000100036d2d3100016900\
                 0163000a2f3132372e302e302e31000493e00000afc80000000201020000000103";
    check(group_event(group()), GROUP_KEY, Some(value));
    let empty = "0003000000000000ffffffff00000000000003e800000000";
    check(group_event(empty_group(Millis(1_000))), GROUP_KEY, Some(empty));
    check(Event::GroupForgotten { group: Str::from("g") }, GROUP_KEY, None);
}

#[test]
fn older_versions_are_read_too() {
    let no_epoch = CommittedOffset { leader_epoch: LeaderEpoch::NONE, ..committed() };
    let v0 = "0000000000000000002a00046e6f746500000000000003e8";
    assert_eq!(decode(OFFSET_KEY, Some(v0)), Ok(offset_event(no_epoch)));
    let v3 = "0003000000000000002a0000000700046e6f746500000000000003e8";
    assert_eq!(decode(OFFSET_KEY, Some(v3)), Ok(offset_event(committed())));

    let mut group_v0 = group();
    group_v0.current_state_timestamp = -1;
    group_v0.members[0].group_instance_id = None;
    group_v0.members[0].rebalance_timeout = -1;
    let v0 = "00000008636f6e73756d657200000005000572616e676500036d2d310000000100036d2d3100\
              0163000a2f3132372e302e302e310000afc80000000201020000000103";
    assert_eq!(decode(GROUP_KEY, Some(v0)), Ok(group_event(group_v0)));
}

#[test]
fn what_is_no_record_of_ours_is_refused_alone() {
    assert_eq!(decode("0063000167", None), Err(RecordError::UnknownType(99)));
    assert!(matches!(decode("", None), Err(RecordError::Malformed(_))));
    assert!(matches!(decode(GROUP_KEY, Some("0009")), Err(RecordError::Malformed(_))));
    assert!(matches!(decode(GROUP_KEY, Some("0003ff")), Err(RecordError::Malformed(_))));
}
