//! Ids for idempotent producers, handed out from blocks that the metadata log reserves.
//! Invariant: no id is handed out twice, also not after a crash: a block is durable before its first id leaves, and
//! what is left of it when the broker stops is never used.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::Mutex;
use wire::messages::allocate_producer_ids::AllocateProducerIdsRequest;
use wire::{ErrorCode, ProducerId};

use crate::broker::Broker;
use crate::controller_link::Unanswered;

/// The block that is being used up.
#[derive(Debug, Default)]
pub(crate) struct ProducerIds {
    block: Mutex<Range<i64>>,
}

/// No id can be given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProducerIdError {
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
    #[error("the controller refuses with {0:?}")]
    Refused(ErrorCode),
}

impl ProducerIds {
    /// An id that no producer had before.
    pub(crate) async fn next(&self, broker: &Arc<Broker>) -> Result<ProducerId, ProducerIdError> {
        let mut block = self.block.lock().await;
        if block.is_empty() {
            let request = AllocateProducerIdsRequest {
                broker_id: broker.node_id.0,
                broker_epoch: broker.epoch.load(Ordering::Acquire),
            };
            let answer = broker.ask_controller(request).await?;
            if !answer.error_code.is_ok() {
                return Err(ProducerIdError::Refused(answer.error_code));
            }
            let start = answer.producer_id_start;
            *block = start..start.saturating_add(i64::from(answer.producer_id_len));
        }
        block.next().map(ProducerId).ok_or(ProducerIdError::Refused(ErrorCode::UNKNOWN_SERVER_ERROR))
    }
}

impl Broker {
    /// An id that no producer had before, or what a client is told.
    pub(crate) async fn next_producer_id(self: &Arc<Self>) -> Result<ProducerId, ErrorCode> {
        // On a task of its own: a client that hangs up must not leave half a reservation behind.
        let broker = Arc::clone(self);
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
}
