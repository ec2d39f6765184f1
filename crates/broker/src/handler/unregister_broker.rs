//! UnregisterBroker: forgets a broker that does not come back (KIP-631).

use std::sync::Arc;

use state::metadata::Image;
use wire::messages::unregister_broker::{UnregisterBrokerRequest, UnregisterBrokerResponse};
use wire::{BrokerId, ErrorCode, Str};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::quorum::MembersChange;

/// Forgets a broker, on the controller. One that lives registers anew by itself.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    _: RequestContext,
    request: UnregisterBrokerRequest,
) -> UnregisterBrokerResponse {
    match unregister(&broker, BrokerId(request.broker_id)).await {
        Ok(()) => UnregisterBrokerResponse::default(),
        Err((error_code, message)) => UnregisterBrokerResponse {
            error_code,
            error_message: Some(Str::from(message)),
            ..Default::default()
        },
    }
}

async fn unregister(broker: &Arc<Broker>, id: BrokerId) -> Result<(), (ErrorCode, String)> {
    let quorum = broker.metadata.quorum();
    if quorum.status().voters.contains(&id) {
        let message = format!("broker {id} is a voter of the metadata quorum: take its vote away first");
        return Err((ErrorCode::INVALID_REQUEST, message));
    }
    let settings = Arc::clone(&broker.settings());
    let decide = |image: &Image| image.unregister_broker(id, &*settings);
    let changes = broker
        .metadata
        .try_commit(broker.clock.now(), decide)
        .await
        .map_err(|error| (ErrorCode::from(error), error.to_string()))?
        .map_err(|refusal| (ErrorCode::from(&refusal), refusal.to_string()))?;
    broker.report("a broker was unregistered", id, &changes);
    if quorum.status().learners.contains(&id) {
        quorum
            .change_members(MembersChange::Remove(id))
            .await
            .map_err(|error| (ErrorCode::from(error), error.to_string()))?;
    }
    Ok(())
}
