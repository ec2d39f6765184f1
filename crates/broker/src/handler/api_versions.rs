//! ApiVersions: which APIs this broker speaks with clients, in which versions (KIP-35, KIP-511).
//! The one request that must be answered whatever its version is. Features tell clients what goes beyond versions of APIs
//! (KIP-584): that groups can leave the assignment to the broker (KIP-848), that there are share groups (KIP-932), and that
//! transactions have epochs of their own (KIP-890).

use wire::messages::api_versions::{
    ApiVersion, ApiVersionsRequest, ApiVersionsResponse, FinalizedFeatureKey, SupportedFeatureKey,
};
use wire::{ApiKey, ErrorCode, Str};

use crate::broker::Broker;
use crate::context::RequestContext;

/// Requests tell the client's software from this version on.
const SOFTWARE_VERSION_MIN: i16 = 3;

/// Features, and the levels that this version has, always.
pub(crate) const FEATURES: [(&str, i16); 3] =
    [("group.version", 1), ("share.version", 1), ("transaction.version", 2)];
/// Features do not change while a cluster runs.
const FEATURES_EPOCH: i64 = 0;
/// Clients that ask in an older version take a feature that begins with 0 for a mistake (KAFKA-17011).
const ZERO_VERSION_MIN: i16 = 4;

/// Answers with the table of APIs.
pub(crate) fn handle(
    broker: &Broker,
    context: &RequestContext,
    request: &ApiVersionsRequest,
) -> ApiVersionsResponse {
    let names_software = context.version >= SOFTWARE_VERSION_MIN;
    if names_software
        && !(is_software_word(&request.client_software_name)
            && is_software_word(&request.client_software_version))
    {
        return ApiVersionsResponse { error_code: ErrorCode::INVALID_REQUEST, ..Default::default() };
    }
    if names_software {
        let (name, version) = (&request.client_software_name, &request.client_software_version);
        context.connection.set_software(name, version);
    }
    tracing::debug!(
        node = %broker.node_id,
        peer = %context.connection.peer,
        software = %request.client_software_name,
        version = %request.client_software_version,
        "a client asks for versions"
    );
    with_features(table(ErrorCode::NONE), context.version)
}

/// The answer to a version of ApiVersions itself that is not known; goes out as version 0.
pub(crate) fn unsupported_version() -> ApiVersionsResponse {
    table(ErrorCode::UNSUPPORTED_VERSION)
}

fn table(error_code: ErrorCode) -> ApiVersionsResponse {
    let public = ApiKey::ALL.iter().filter(|api| !api.is_private());
    let api_keys = public.map(|api| ApiVersion {
        api_key: api.code(),
        min_version: match api {
            // Versions 0 to 2 are refused, and told of all the same: librdkafka before 2.4 takes a broker that lacks
            // them for one that cannot decompress, and sends everything uncompressed (KAFKA-18659).
            ApiKey::Produce => 0,
            _ => *api.versions().start(),
        },
        max_version: *api.versions().end(),
    });
    ApiVersionsResponse { error_code, api_keys: api_keys.collect(), ..Default::default() }
}

fn with_features(response: ApiVersionsResponse, version: i16) -> ApiVersionsResponse {
    let supported = FEATURES.iter().filter(|_| version >= ZERO_VERSION_MIN).map(|(name, level)| {
        SupportedFeatureKey { name: Str::from(*name), min_version: 0, max_version: *level }
    });
    let finalized = FEATURES.iter().map(|(name, level)| FinalizedFeatureKey {
        name: Str::from(*name),
        max_version_level: *level,
        min_version_level: *level,
    });
    ApiVersionsResponse {
        supported_features: supported.collect(),
        finalized_features_epoch: FEATURES_EPOCH,
        finalized_features: finalized.collect(),
        ..response
    }
}

/// Letters and digits, with `.` and `-` inside (KIP-511).
fn is_software_word(word: &str) -> bool {
    let bytes = word.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    first.is_ascii_alphanumeric()
        && last.is_ascii_alphanumeric()
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_is_named_in_letters_and_digits() {
        for word in ["apache-kafka-java", "4.3.1", "x", "librdkafka"] {
            assert!(is_software_word(word), "{word}");
        }
        for word in ["", "-x", "x.", "a b", "a_b", "é"] {
            assert!(!is_software_word(word), "{word}");
        }
    }

    #[test]
    fn an_unknown_version_is_told_the_list() {
        let answer = unsupported_version();
        assert_eq!(answer.error_code, ErrorCode::UNSUPPORTED_VERSION);
        let own = answer.api_keys.iter().find(|api| api.api_key == ApiKey::ApiVersions.code());
        assert_eq!(own.map(|api| api.min_version), Some(0));
    }
}
