//! AlterClientQuotas: sets and removes quotas of users, client ids and addresses (KIP-546).
//! The controller decides; an entity changes as a whole or not at all, and does not keep the others.

use std::sync::Arc;

use state::metadata::{AlterQuotas, Mode, Refusal};
use wire::messages::alter_client_quotas::{
    AlterClientQuotasRequest, AlterClientQuotasResponse, AlteredEntry, EntryData,
};
use wire::{ErrorCode, Str};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::topics::TopicError;

/// Changes the quotas, or says what would come of it.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    _context: RequestContext,
    request: AlterClientQuotasRequest,
) -> AlterClientQuotasResponse {
    let mode = if request.validate_only { Mode::ValidateOnly } else { Mode::Apply };
    let changes = request.entries.iter().map(read).collect();
    let answers = broker.topics.alter_quotas(&broker, changes, mode).await;
    let outcome = |at: usize| match &answers {
        Ok(answers) => answers[at].as_ref().err().map(told),
        Err(error) => Some((TopicError::error_code(error), error.message())),
    };
    let entries = request.entries.into_iter().enumerate().map(|(at, entry)| {
        let (error_code, error_message) = outcome(at).unwrap_or((ErrorCode::NONE, None));
        AlteredEntry { error_code, error_message, entity: entry.entity }
    });
    AlterClientQuotasResponse { entries: entries.collect(), ..Default::default() }
}

fn read(entry: &EntryData) -> AlterQuotas {
    let parts = entry.entity.iter().map(|part| (part.entity_type.clone(), part.entity_name.clone()));
    let ops = entry.ops.iter().map(|op| (op.key.clone(), (!op.remove).then_some(op.value)));
    AlterQuotas { entity: parts.collect(), ops: ops.collect() }
}

fn told(refusal: &Refusal) -> (ErrorCode, Option<Str>) {
    (ErrorCode::from(refusal), Some(Str::from(refusal.to_string())))
}
