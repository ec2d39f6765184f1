//! InitProducerId: an id for an idempotent producer, which no other producer had or will have.
//! Transactional producers are refused in a way that no client retries: there is no coordinator for them yet.

use std::sync::Arc;

use wire::messages::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};
use wire::{ErrorCode, ProducerEpoch, ProducerId};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::producer_ids::ProducerIdError;

/// Answers with a fresh id in its first epoch.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    _context: RequestContext,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    let given = (ProducerId(request.producer_id), ProducerEpoch(request.producer_epoch));
    let is_half_given = (given.0 == ProducerId::NONE) != (given.1 == ProducerEpoch::NONE);
    let result = match request.transactional_id {
        Some(id) => {
            tracing::warn!(transactional_id = %id, "a transactional producer was refused: there are no transactions yet");
            Err(ErrorCode::INVALID_REQUEST)
        }
        None if is_half_given => Err(ErrorCode::INVALID_REQUEST),
        // An idempotent producer that had an id gets a new one all the same: nothing ties it to the old.
        None => next(broker).await,
    };
    match result {
        Ok(id) => InitProducerIdResponse { producer_id: id.0, producer_epoch: 0, ..Default::default() },
        Err(error_code) => InitProducerIdResponse {
            error_code,
            producer_id: ProducerId::NONE.0,
            producer_epoch: ProducerEpoch::NONE.0,
            ..Default::default()
        },
    }
}

async fn next(broker: Arc<Broker>) -> Result<ProducerId, ErrorCode> {
    // On a task of its own: a client that hangs up must not leave half a reservation behind.
    let reserved = tokio::spawn(async move { broker.producer_ids.next(&broker).await });
    reserved.await.expect("reserving ids does not panic").map_err(|error| {
        tracing::warn!(%error, "no producer id could be reserved");
        match error {
            ProducerIdError::Refused(refused @ ErrorCode::KAFKA_STORAGE_ERROR) => refused,
            // Clients ask again: the controller is changing.
            ProducerIdError::Refused(_) | ProducerIdError::Unanswered(_) => {
                ErrorCode::COORDINATOR_LOAD_IN_PROGRESS
            }
        }
    })
}
