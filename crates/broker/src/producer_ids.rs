//! Ids for idempotent producers, handed out from blocks that the metadata log reserves.
//! Invariant: no id is handed out twice, also not after a crash: a block is durable before its first id leaves, and
//! what is left of it when the broker stops is never used.

use std::ops::Range;

use state::metadata::Refusal;
use tokio::sync::Mutex;
use wire::{BrokerId, Millis, ProducerId};

use crate::metadata::{CommitError, Metadata};

/// The block that is being used up.
#[derive(Debug, Default)]
pub(crate) struct ProducerIds {
    block: Mutex<Range<i64>>,
}

/// No id can be given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProducerIdError {
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl ProducerIds {
    /// An id that no producer had before.
    pub(crate) async fn next(
        &self,
        metadata: &Metadata,
        broker: BrokerId,
        broker_epoch: i64,
        now: Millis,
    ) -> Result<ProducerId, ProducerIdError> {
        let mut block = self.block.lock().await;
        if block.is_empty() {
            let reserved =
                metadata.try_commit(now, |image| image.allocate_producer_ids(broker, broker_epoch)).await??;
            *block = reserved.first.0..reserved.first.0 + i64::from(reserved.count);
        }
        Ok(ProducerId(block.next().expect("a fresh block is not empty")))
    }
}
