//! ListConfigResources: the names of what settings can belong to (KIP-1142). Its version 0 lists subscriptions to client
//! metrics alone.

use std::sync::Arc;

use state::metadata::ResourceKind;
use wire::messages::list_config_resources::{
    ConfigResource, ListConfigResourcesRequest, ListConfigResourcesResponse,
};
use wire::{ErrorCode, Str};

use super::describe_configs::BROKER_LOGGER;
use crate::broker::Broker;
use crate::context::RequestContext;

/// Clients say which types they mean from this version on.
const TYPES_VERSION_MIN: i16 = 1;

/// Lists resources of the types that are asked for, or of all.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    context: RequestContext,
    request: ListConfigResourcesRequest,
) -> ListConfigResourcesResponse {
    let of_groups = [ResourceKind::Topic, ResourceKind::Broker, ResourceKind::Group].map(ResourceKind::code);
    let mut types = vec![ResourceKind::ClientMetrics.code()];
    if context.version >= TYPES_VERSION_MIN {
        types.extend(of_groups);
        types.push(BROKER_LOGGER);
        if request.resource_types.iter().any(|asked| !types.contains(asked)) {
            let error_code = ErrorCode::UNSUPPORTED_VERSION;
            return ListConfigResourcesResponse { error_code, ..Default::default() };
        }
        types.retain(|known| request.resource_types.is_empty() || request.resource_types.contains(known));
    }
    let image = broker.metadata.image();
    let mut config_resources = Vec::new();
    for code in types {
        let names: Vec<Str> = match ResourceKind::from_code(code) {
            Some(ResourceKind::Topic) => image.topics().map(|topic| topic.name.clone()).collect(),
            Some(kind @ (ResourceKind::Group | ResourceKind::ClientMetrics)) => {
                image.configured(kind).map(|resource| resource.name.clone()).collect()
            }
            // Each broker has its settings and its loggers.
            Some(ResourceKind::Broker) | None => {
                image.brokers().map(|broker| Str::from(broker.id.to_string())).collect()
            }
        };
        let named = |resource_name| ConfigResource { resource_name, resource_type: code };
        config_resources.extend(names.into_iter().map(named));
    }
    ListConfigResourcesResponse { config_resources, ..Default::default() }
}
