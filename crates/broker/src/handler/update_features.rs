//! UpdateFeatures: features have one level in this version, the one that ApiVersions tells of (see `api_versions.rs`).
//! To ask for that level changes nothing and is granted; any other level, and any other feature, is refused. Updates are
//! granted together or not at all, so a refusal is one answer for the whole request, in every version.

use std::sync::Arc;

use wire::messages::update_features::{
    FeatureUpdateKey, UpdatableFeatureResult, UpdateFeaturesRequest, UpdateFeaturesResponse,
};
use wire::{ErrorCode, Str};

use super::api_versions::FEATURES;
use crate::broker::Broker;
use crate::context::RequestContext;

/// Upgrade, safe downgrade, unsafe downgrade.
const UPGRADE_TYPES: std::ops::RangeInclusive<i8> = 1..=3;
/// Each feature has a result of its own up to this version.
const RESULTS_VERSION_MAX: i16 = 1;

/// Grants what is so already.
pub(crate) async fn handle(
    _: Arc<Broker>,
    context: RequestContext,
    request: UpdateFeaturesRequest,
) -> UpdateFeaturesResponse {
    if let Some(reason) = request.feature_updates.iter().find_map(refusal) {
        return UpdateFeaturesResponse {
            error_code: ErrorCode::INVALID_UPDATE_VERSION,
            error_message: Some(Str::from(format!("no feature is updated: {reason}"))),
            ..Default::default()
        };
    }
    let has_results = context.version <= RESULTS_VERSION_MAX;
    let granted = request.feature_updates.into_iter().filter(|_| has_results);
    let results =
        granted.map(|update| UpdatableFeatureResult { feature: update.feature, ..Default::default() });
    UpdateFeaturesResponse { results: results.collect(), ..Default::default() }
}

/// Why an update is refused; none if it asks for what is so already.
fn refusal(update: &FeatureUpdateKey) -> Option<String> {
    let FeatureUpdateKey { feature, max_version_level: asked, upgrade_type, .. } = update;
    let Some((_, level)) = FEATURES.iter().find(|(name, _)| *feature == **name) else {
        return Some(format!("the brokers of this cluster have no feature {feature}"));
    };
    if !UPGRADE_TYPES.contains(upgrade_type) {
        return Some(format!(
            "upgrade type {upgrade_type} of feature {feature} is none of 1 (upgrade), 2 (safe downgrade), 3 (unsafe \
             downgrade)"
        ));
    }
    (asked != level).then(|| format!("feature {feature} has level {level} in this version, never {asked}"))
}
