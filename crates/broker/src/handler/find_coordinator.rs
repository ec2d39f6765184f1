//! FindCoordinator: which broker looks after a group, a transactional id, or a share-partition.
//! On the first question the coordinator's topic is made.

use std::sync::Arc;

use state::share::state::SharePartitionKey;
use wire::messages::find_coordinator::{Coordinator, FindCoordinatorRequest, FindCoordinatorResponse};
use wire::{ErrorCode, Str};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::coordinator::partition_for;
use crate::groups::OFFSETS_TOPIC;
use crate::handler::metadata::address_of;
use crate::share_coordinator::SHARE_STATE_TOPIC;
use crate::transactions::TRANSACTIONS_TOPIC;

/// Requests ask for several keys from this version on (KIP-699).
const BATCH_VERSION_MIN: i16 = 4;

const KEY_TYPE_GROUP: i8 = 0;
const KEY_TYPE_TRANSACTION: i8 = 1;
const KEY_TYPE_SHARE: i8 = 2;
/// Share-partitions are looked for from this version on (KIP-932).
const SHARE_VERSION_MIN: i16 = 6;

/// Answers with the broker that looks after each key.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    context: RequestContext,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let is_batch = context.version >= BATCH_VERSION_MIN;
    let keys = if is_batch { request.coordinator_keys } else { vec![request.key] };
    let found = find(&broker, &context, request.key_type).await;
    let mut coordinators: Vec<_> =
        keys.into_iter().map(|key| answer(&broker, &context, key, found.clone())).collect();
    if is_batch {
        return FindCoordinatorResponse { coordinators, ..Default::default() };
    }
    let only = coordinators.pop().expect("one key, one answer");
    let is_found = only.error_code == ErrorCode::NONE;
    FindCoordinatorResponse {
        error_code: only.error_code,
        // Kafka's word where nothing is wrong; clients' tests know it.
        error_message: if is_found { Some("NONE".into()) } else { only.error_message },
        node_id: only.node_id,
        host: only.host,
        port: only.port,
        ..Default::default()
    }
}

/// The topic whose partitions' leaders look after keys of the type.
async fn find(
    broker: &Arc<Broker>,
    context: &RequestContext,
    key_type: i8,
) -> Result<&'static str, (ErrorCode, Str)> {
    let topic = match key_type {
        KEY_TYPE_GROUP => OFFSETS_TOPIC,
        KEY_TYPE_TRANSACTION => TRANSACTIONS_TOPIC,
        KEY_TYPE_SHARE if context.version >= SHARE_VERSION_MIN => SHARE_STATE_TOPIC,
        _ => {
            let message = "this broker coordinates groups (0), transactional ids (1) and, from version 6 on, share-partitions (2)";
            return Err((ErrorCode::INVALID_REQUEST, Str::from(message)));
        }
    };
    let made = broker.ensure_internal_topic(topic).await;
    made.map_err(|error| (ErrorCode::COORDINATOR_NOT_AVAILABLE, Str::from(error.to_string())))?;
    Ok(topic)
}

/// Whoever leads the key's partition of the topic looks after the key.
fn answer(
    broker: &Broker,
    context: &RequestContext,
    key: Str,
    found: Result<&'static str, (ErrorCode, Str)>,
) -> Coordinator {
    let unavailable = |key, error_code, message| Coordinator {
        key,
        node_id: -1,
        port: -1,
        error_code,
        error_message: Some(message),
        ..Default::default()
    };
    let topic = match found {
        Ok(topic) => topic,
        Err((error_code, message)) => return unavailable(key, error_code, message),
    };
    if topic == TRANSACTIONS_TOPIC && key.is_empty() {
        return unavailable(key, ErrorCode::INVALID_REQUEST, Str::from("a transactional id is not empty"));
    }
    if topic == SHARE_STATE_TOPIC && SharePartitionKey::parse(&key).is_none() {
        let message =
            "a share-partition is named by its group, topic id and partition: \"groupId:topicId:partition\"";
        return unavailable(key, ErrorCode::INVALID_REQUEST, Str::from(message));
    }
    let serves = |key: &str| match topic {
        TRANSACTIONS_TOPIC => broker.transactions.serves(key),
        SHARE_STATE_TOPIC => broker.share_states.serves(key),
        _ => broker.groups.serves(key),
    };
    let image = broker.metadata.image();
    let leader = image.topic(topic).and_then(|topic| {
        let partition = partition_for(&key, topic.partition_count());
        image.broker(topic.partition(partition)?.leader?)
    });
    match leader.and_then(|leader| Some((leader.id, address_of(broker, context, leader)?))) {
        Some((leader, _)) if leader == broker.node_id && !serves(&key) => {
            let message = Str::from(format!("the key's partition of {topic} cannot be served"));
            unavailable(key, ErrorCode::COORDINATOR_NOT_AVAILABLE, message)
        }
        Some((leader, (host, port))) => {
            Coordinator { key, node_id: leader.0, host, port, ..Default::default() }
        }
        None => {
            let message = Str::from(format!("nobody leads the key's partition of {topic}"));
            unavailable(key, ErrorCode::COORDINATOR_NOT_AVAILABLE, message)
        }
    }
}
