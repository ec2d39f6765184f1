//! UpdateFeatures: there are none that could be raised or lowered in this version.
//! Brokers report no features (see `api_versions.rs`), so every feature that is named is one that they do not have.

use std::sync::Arc;

use wire::messages::update_features::{
    UpdatableFeatureResult, UpdateFeaturesRequest, UpdateFeaturesResponse,
};
use wire::{ErrorCode, Str};

use crate::broker::Broker;
use crate::context::RequestContext;

/// Refuses each feature by itself.
pub(crate) async fn handle(
    _: Arc<Broker>,
    context: RequestContext,
    request: UpdateFeaturesRequest,
) -> UpdateFeaturesResponse {
    let refused = |feature: &Str| format!("the brokers of this cluster have no feature {feature}");
    let message = request.feature_updates.first().map(|update| Str::from(refused(&update.feature)));
    let results = request.feature_updates.into_iter().map(|update| UpdatableFeatureResult {
        error_message: Some(Str::from(refused(&update.feature))),
        error_code: ErrorCode::INVALID_UPDATE_VERSION,
        feature: update.feature,
    });
    let results: Vec<_> = results.collect();
    // From version 2 on there is one answer for all.
    let is_one = context.version >= 2 && !results.is_empty();
    UpdateFeaturesResponse {
        error_code: if is_one { ErrorCode::INVALID_UPDATE_VERSION } else { ErrorCode::NONE },
        error_message: message.filter(|_| is_one),
        results: if is_one { Vec::new() } else { results },
        ..Default::default()
    }
}
