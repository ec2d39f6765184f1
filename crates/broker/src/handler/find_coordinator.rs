//! FindCoordinator: which broker looks after a group.
//! On the first question the offsets topic is made. Transactions have no coordinator yet, and are told so in a way
//! that no client retries.

use std::sync::Arc;

use wire::messages::find_coordinator::{Coordinator, FindCoordinatorRequest, FindCoordinatorResponse};
use wire::{ErrorCode, Str};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::coordinator::{OFFSETS_TOPIC, partition_for};
use crate::handler::metadata::address_of;

/// Requests ask for several keys from this version on (KIP-699).
const BATCH_VERSION_MIN: i16 = 4;

const KEY_TYPE_GROUP: i8 = 0;

/// Answers with the broker that looks after each group.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    context: RequestContext,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let is_batch = context.version >= BATCH_VERSION_MIN;
    let keys = if is_batch { request.coordinator_keys } else { vec![request.key] };
    let found = find(&broker, request.key_type).await;
    let mut coordinators: Vec<_> =
        keys.into_iter().map(|key| answer(&broker, &context, key, found.clone())).collect();
    if is_batch {
        return FindCoordinatorResponse { coordinators, ..Default::default() };
    }
    let only = coordinators.pop().expect("one key, one answer");
    FindCoordinatorResponse {
        error_code: only.error_code,
        error_message: only.error_message,
        node_id: only.node_id,
        host: only.host,
        port: only.port,
        ..Default::default()
    }
}

async fn find(broker: &Arc<Broker>, key_type: i8) -> Result<(), (ErrorCode, Str)> {
    if key_type != KEY_TYPE_GROUP {
        let message = "this broker coordinates groups only: transactions are not there yet";
        // librdkafka asks again after every other error, until its own time is up.
        return Err((ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED, Str::from(message)));
    }
    broker
        .ensure_offsets_topic()
        .await
        .map_err(|error| (ErrorCode::COORDINATOR_NOT_AVAILABLE, Str::from(error.to_string())))
}

/// Whoever leads the group's partition of the offsets topic looks after the group.
fn answer(
    broker: &Broker,
    context: &RequestContext,
    key: Str,
    found: Result<(), (ErrorCode, Str)>,
) -> Coordinator {
    let unavailable = |key, error_code, message| Coordinator {
        key,
        node_id: -1,
        port: -1,
        error_code,
        error_message: Some(message),
        ..Default::default()
    };
    if let Err((error_code, message)) = found {
        return unavailable(key, error_code, message);
    }
    let image = broker.metadata.image();
    let leader = image.topic(OFFSETS_TOPIC).and_then(|topic| {
        let partition = partition_for(&key, topic.partition_count());
        image.broker(topic.partition(partition)?.leader?)
    });
    match leader.and_then(|leader| Some((leader.id, address_of(broker, context, leader)?))) {
        Some((leader, _)) if leader == broker.node_id && !broker.groups.serves(&key) => {
            let message = Str::from("the group's partition of __consumer_offsets cannot be served");
            unavailable(key, ErrorCode::COORDINATOR_NOT_AVAILABLE, message)
        }
        Some((leader, (host, port))) => {
            Coordinator { key, node_id: leader.0, host, port, ..Default::default() }
        }
        None => {
            let message = Str::from("nobody leads the group's partition of __consumer_offsets");
            unavailable(key, ErrorCode::COORDINATOR_NOT_AVAILABLE, message)
        }
    }
}
