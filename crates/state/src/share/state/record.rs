//! Records of `__share_group_state` in Kafka's own schema: snapshots of a share-partition, and updates since.

use bytes::Bytes;
use wire::messages::share_snapshot_key::ShareSnapshotKey;
use wire::messages::share_snapshot_value::{ShareSnapshotValue, StateBatch as SnapshotBatch};
use wire::messages::share_update_key::ShareUpdateKey;
use wire::messages::share_update_value::{ShareUpdateValue, StateBatch as UpdateBatch};
use wire::{Decoder, LeaderEpoch, Message, Millis, Offset, PartitionId, Str};

use super::{Delivery, DeliveryState, Runs, SharePartitionKey, ShareState};
use crate::coordinator::{CoordinatorRecord, RecordError, prefixed, versioned};

/// The types of records; keys have one version.
const SNAPSHOT: i16 = 0;
const UPDATE: i16 = 1;
const KEY_VERSION: i16 = 0;
const VALUE_VERSION: i16 = 0;

/// "Not settled", and "as before".
const NO_OFFSET: i64 = -1;

/// What a record says.
pub(super) enum Change {
    Snapshot(SharePartitionKey, ShareState),
    Update(SharePartitionKey, Update),
    Deleted(SharePartitionKey),
    /// Of an update nothing is left.
    Nothing,
}

/// What has changed since a snapshot.
pub(super) struct Update {
    pub(super) snapshot_epoch: i32,
    pub(super) leader_epoch: LeaderEpoch,
    pub(super) start: Option<Offset>,
    pub(super) delivery_complete_count: i32,
    pub(super) deliveries: Runs<Delivery>,
}

impl DeliveryState {
    /// Kafka's number of the state.
    pub fn number(self) -> i8 {
        match self {
            DeliveryState::Available => 0,
            DeliveryState::Acknowledged => 2,
            DeliveryState::Archiving => 3,
            DeliveryState::Archived => 4,
        }
    }

    /// The state with this number, if it is one that is stored.
    pub fn from_number(number: i8) -> Option<DeliveryState> {
        match number {
            0 => Some(DeliveryState::Available),
            2 => Some(DeliveryState::Acknowledged),
            3 => Some(DeliveryState::Archiving),
            4 => Some(DeliveryState::Archived),
            _ => None,
        }
    }
}

fn snapshot_key(key: &SharePartitionKey) -> Bytes {
    let key =
        ShareSnapshotKey { group_id: key.group.clone(), topic_id: key.topic, partition: key.partition.0 };
    prefixed(SNAPSHOT, |e| key.encode(e, KEY_VERSION))
}

pub(super) fn snapshot(key: &SharePartitionKey, state: &ShareState, now: Millis) -> CoordinatorRecord {
    let value = ShareSnapshotValue {
        snapshot_epoch: state.snapshot_epoch,
        state_epoch: state.state_epoch,
        leader_epoch: state.leader_epoch.0,
        start_offset: state.start.map_or(NO_OFFSET, |start| start.0),
        delivery_complete_count: state.delivery_complete_count,
        create_timestamp: state.created_at.0,
        write_timestamp: now.0,
        state_batches: state
            .deliveries
            .iter()
            .map(|run| SnapshotBatch {
                first_offset: run.first.0,
                last_offset: run.last.0,
                delivery_state: run.value.state.number(),
                delivery_count: run.value.count,
            })
            .collect(),
    };
    let value = prefixed(VALUE_VERSION, |e| value.encode(e, VALUE_VERSION));
    CoordinatorRecord { key: snapshot_key(key), value: Some(value) }
}

pub(super) fn update(key: &SharePartitionKey, update: &Update) -> CoordinatorRecord {
    let key = ShareUpdateKey { group_id: key.group.clone(), topic_id: key.topic, partition: key.partition.0 };
    let value = ShareUpdateValue {
        snapshot_epoch: update.snapshot_epoch,
        leader_epoch: update.leader_epoch.0,
        start_offset: update.start.map_or(NO_OFFSET, |start| start.0),
        delivery_complete_count: update.delivery_complete_count,
        state_batches: update
            .deliveries
            .iter()
            .map(|run| UpdateBatch {
                first_offset: run.first.0,
                last_offset: run.last.0,
                delivery_state: run.value.state.number(),
                delivery_count: run.value.count,
            })
            .collect(),
    };
    CoordinatorRecord {
        key: prefixed(UPDATE, |e| key.encode(e, KEY_VERSION)),
        value: Some(prefixed(VALUE_VERSION, |e| value.encode(e, VALUE_VERSION))),
    }
}

pub(super) fn tombstone(key: &SharePartitionKey) -> CoordinatorRecord {
    CoordinatorRecord { key: snapshot_key(key), value: None }
}

/// Of which type a record is, and of which share-partition.
pub(super) fn key_of(key: &[u8]) -> Result<(i16, SharePartitionKey), RecordError> {
    let mut decoder = Decoder::new(Bytes::copy_from_slice(key));
    let record_type = decoder.int16()?;
    let (group, topic, partition) = match record_type {
        SNAPSHOT => {
            let key = ShareSnapshotKey::decode(&mut decoder, KEY_VERSION)?;
            (key.group_id, key.topic_id, key.partition)
        }
        UPDATE => {
            let key = ShareUpdateKey::decode(&mut decoder, KEY_VERSION)?;
            (key.group_id, key.topic_id, key.partition)
        }
        unknown => return Err(RecordError::UnknownType(unknown)),
    };
    let (group, partition) = (Str::copy_from(&group), PartitionId(partition));
    Ok((record_type, SharePartitionKey { group, topic, partition }))
}

pub(super) fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Change, RecordError> {
    let (record_type, key) = key_of(key)?;
    Ok(match (record_type, value) {
        (SNAPSHOT, Some(value)) => Change::Snapshot(key, snapshot_of(versioned(value)?)?),
        (SNAPSHOT, None) => Change::Deleted(key),
        (_, Some(value)) => Change::Update(key, update_of(versioned(value)?)?),
        (_, None) => Change::Nothing,
    })
}

fn snapshot_of(value: ShareSnapshotValue) -> Result<ShareState, RecordError> {
    let batches = value.state_batches.iter();
    let batches = batches.map(|b| (b.first_offset, b.last_offset, b.delivery_state, b.delivery_count));
    Ok(ShareState {
        snapshot_epoch: value.snapshot_epoch,
        state_epoch: value.state_epoch,
        leader_epoch: LeaderEpoch(value.leader_epoch),
        start: start_of(value.start_offset),
        delivery_complete_count: value.delivery_complete_count,
        created_at: Millis(value.create_timestamp),
        deliveries: deliveries_of(batches)?,
        updates: 0,
    })
}

fn update_of(value: ShareUpdateValue) -> Result<Update, RecordError> {
    let batches = value.state_batches.iter();
    let batches = batches.map(|b| (b.first_offset, b.last_offset, b.delivery_state, b.delivery_count));
    Ok(Update {
        snapshot_epoch: value.snapshot_epoch,
        leader_epoch: LeaderEpoch(value.leader_epoch),
        start: start_of(value.start_offset),
        delivery_complete_count: value.delivery_complete_count,
        deliveries: deliveries_of(batches)?,
    })
}

fn start_of(offset: i64) -> Option<Offset> {
    (offset >= 0).then_some(Offset(offset))
}

/// Batches as they came; later ones say more than earlier ones.
fn deliveries_of(batches: impl Iterator<Item = (i64, i64, i8, i16)>) -> Result<Runs<Delivery>, RecordError> {
    let mut deliveries = Runs::default();
    for (first, last, state, count) in batches {
        let state = DeliveryState::from_number(state).ok_or(RecordError::UnknownDeliveryState(state))?;
        if first < 0 || last < first {
            return Err(RecordError::NotARange { first, last });
        }
        deliveries.set(Offset(first), Offset(last), Delivery { state, count });
    }
    Ok(deliveries)
}
