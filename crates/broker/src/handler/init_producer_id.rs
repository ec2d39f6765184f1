//! InitProducerId: an id for a producer, which no other producer had or will have. With a transactional id the coordinator of
//! that decides, and fences whoever had it before.

use std::sync::Arc;

use wire::messages::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};
use wire::{ErrorCode, ProducerEpoch, ProducerId, Str};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::handler::transactions;

/// Answers with a fresh id in its first epoch.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    context: RequestContext,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    let given = (ProducerId(request.producer_id), ProducerEpoch(request.producer_epoch));
    let is_half_given = (given.0 == ProducerId::NONE) != (given.1 == ProducerEpoch::NONE);
    let result = match &request.transactional_id {
        _ if is_half_given => Err(ErrorCode::INVALID_REQUEST),
        Some(id) => {
            return transactions::init_producer(&broker, &context, &Str::copy_from(id), &request).await;
        }
        // An idempotent producer that had an id gets a new one all the same: nothing ties it to the old.
        None => broker.next_producer_id().await,
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
