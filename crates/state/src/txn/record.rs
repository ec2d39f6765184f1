//! Records of `__transaction_state` in Kafka's own schema: one per transactional id, the whole of what is stored of it.

use std::collections::BTreeSet;

use bytes::Bytes;
use wire::messages::transaction_log_key::TransactionLogKey;
use wire::messages::transaction_log_value::{PartitionsSchema, TransactionLogValue};
use wire::{Decoder, Message, Millis, PartitionId, ProducerEpoch, ProducerId, Str, TopicPartition};

use super::{Decision, Producer, Protocol, State, Txn};
use crate::coordinator::{CoordinatorRecord, RecordError, prefixed, versioned};

/// The only type of record there is; its key has one version.
const TRANSACTION: i16 = 0;
const VALUE_VERSION: i16 = 1;

/// Kafka's numbers of the states.
const EMPTY: i8 = 0;
const ONGOING: i8 = 1;
const PREPARE_COMMIT: i8 = 2;
const PREPARE_ABORT: i8 = 3;
const COMPLETE_COMMIT: i8 = 4;
const COMPLETE_ABORT: i8 = 5;

pub(super) fn encode(id: &Str, txn: Option<&Txn>) -> CoordinatorRecord {
    let key = TransactionLogKey { transactional_id: id.clone() };
    CoordinatorRecord {
        key: prefixed(TRANSACTION, |e| key.encode(e, TRANSACTION)),
        value: txn.map(|txn| {
            let value = value(txn);
            prefixed(VALUE_VERSION, |e| value.encode(e, VALUE_VERSION))
        }),
    }
}

fn value(txn: &Txn) -> TransactionLogValue {
    TransactionLogValue {
        producer_id: txn.producer.id.0,
        previous_producer_id: txn.previous_id.0,
        next_producer_id: txn.next_id.0,
        producer_epoch: txn.producer.epoch.0,
        transaction_timeout_ms: txn.timeout_ms,
        transaction_status: number(txn.state),
        transaction_partitions: (txn.state != State::Empty).then(|| by_topic(&txn.partitions)),
        transaction_last_update_timestamp_ms: txn.updated_at.0,
        transaction_start_timestamp_ms: txn.started_at.0,
        client_transaction_version: txn.protocol.level(),
        ..Default::default()
    }
}

fn by_topic(partitions: &BTreeSet<TopicPartition>) -> Vec<PartitionsSchema> {
    let mut topics: Vec<PartitionsSchema> = Vec::new();
    for TopicPartition { topic, partition } in partitions {
        match topics.last_mut().filter(|last| last.topic == *topic) {
            Some(last) => last.partition_ids.push(partition.0),
            None => topics.push(PartitionsSchema { topic: topic.clone(), partition_ids: vec![partition.0] }),
        }
    }
    topics
}

fn number(state: State) -> i8 {
    match state {
        State::Empty => EMPTY,
        State::Ongoing => ONGOING,
        State::Preparing(Decision::Commit) => PREPARE_COMMIT,
        State::Preparing(Decision::Abort) => PREPARE_ABORT,
        State::Complete(Decision::Commit) => COMPLETE_COMMIT,
        State::Complete(Decision::Abort) => COMPLETE_ABORT,
    }
}

fn state(number: i8) -> Result<State, RecordError> {
    Ok(match number {
        EMPTY => State::Empty,
        ONGOING => State::Ongoing,
        PREPARE_COMMIT => State::Preparing(Decision::Commit),
        PREPARE_ABORT => State::Preparing(Decision::Abort),
        COMPLETE_COMMIT => State::Complete(Decision::Commit),
        COMPLETE_ABORT => State::Complete(Decision::Abort),
        unknown => return Err(RecordError::UnknownState(unknown)),
    })
}

pub(super) fn decode(key: &[u8], value: Option<&[u8]>) -> Result<(Str, Option<Txn>), RecordError> {
    let mut key = Decoder::new(Bytes::copy_from_slice(key));
    match key.int16()? {
        TRANSACTION => {}
        unknown => return Err(RecordError::UnknownType(unknown)),
    }
    let id = Str::copy_from(&TransactionLogKey::decode(&mut key, TRANSACTION)?.transactional_id);
    let Some(value) = value else { return Ok((id, None)) };
    let value: TransactionLogValue = versioned(value)?;
    let partitions = value.transaction_partitions.iter().flatten().flat_map(|topic| {
        let name = Str::copy_from(&topic.topic);
        topic.partition_ids.iter().map(move |index| TopicPartition::new(name.clone(), PartitionId(*index)))
    });
    let txn = Txn {
        producer: Producer { id: ProducerId(value.producer_id), epoch: ProducerEpoch(value.producer_epoch) },
        previous_id: ProducerId(value.previous_producer_id),
        next_id: ProducerId(value.next_producer_id),
        last_epoch: ProducerEpoch::NONE,
        timeout_ms: value.transaction_timeout_ms,
        state: state(value.transaction_status)?,
        partitions: partitions.collect(),
        started_at: Millis(value.transaction_start_timestamp_ms),
        updated_at: Millis(value.transaction_last_update_timestamp_ms),
        protocol: if value.client_transaction_version >= Protocol::Second.level() {
            Protocol::Second
        } else {
            Protocol::First
        },
        deadline: None,
        marking: None,
        heard: None,
    };
    Ok((id, Some(txn)))
}
