//! DescribeConfigs: what holds for a topic or a broker, where each value comes from, and what lies under it.
//! The settings table does the describing; here is decided which resource was meant and whether it is there.

use std::collections::HashSet;
use std::sync::Arc;

use state::metadata::{ConfigResource, ResourceKind, check_topic_name};
use wire::messages::describe_configs::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult, DescribeConfigsResponse,
    DescribeConfigsResult,
};
use wire::{BrokerId, ErrorCode, Str};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::settings::DescribeOptions;

/// Kafka's number of a broker's loggers, which are no configs of the metadata.
pub(super) const BROKER_LOGGER: i8 = 8;

/// Answers each resource by itself.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    _context: RequestContext,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    // A resource named twice is answered once: answers can be large.
    let mut seen = HashSet::new();
    let mut resources = request.resources;
    resources.retain(|resource| seen.insert((resource.resource_type, resource.resource_name.clone())));
    let results = resources.into_iter().map(|resource| {
        let options = DescribeOptions {
            keys: resource.configuration_keys.as_deref(),
            include_synonyms: request.include_synonyms,
            include_documentation: request.include_documentation,
        };
        match describe(&broker, &resource, &options) {
            Ok(configs) => DescribeConfigsResult {
                error_message: None,
                resource_type: resource.resource_type,
                resource_name: resource.resource_name,
                configs,
                ..Default::default()
            },
            Err((error_code, message)) => DescribeConfigsResult {
                error_code,
                error_message: Some(Str::from(message)),
                resource_type: resource.resource_type,
                resource_name: resource.resource_name,
                ..Default::default()
            },
        }
    });
    DescribeConfigsResponse { results: results.collect(), ..Default::default() }
}

/// An error code and what it means here.
pub(super) type Refused = (ErrorCode, String);

fn describe(
    broker: &Broker,
    resource: &DescribeConfigsResource,
    options: &DescribeOptions<'_>,
) -> Result<Vec<DescribeConfigsResourceResult>, Refused> {
    let name = &resource.resource_name;
    match kind(resource.resource_type)? {
        ResourceKind::Topic => {
            check_topic_name(name)
                .map_err(|error| (ErrorCode::INVALID_TOPIC_EXCEPTION, error.to_string()))?;
            let image = broker.metadata.image();
            if image.topic(name).is_none() {
                let why = format!("The topic '{name}' does not exist.");
                return Err((ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, why));
            }
            let topic = ConfigResource::topic(name.clone());
            Ok(broker.settings().describe_topic(image.configs(&topic), options))
        }
        ResourceKind::Broker if name.is_empty() => Ok(broker.settings().describe_cluster_default(options)),
        ResourceKind::Broker => {
            check_broker_id(name, broker.node_id)?;
            Ok(broker.settings().describe_broker(options))
        }
        ResourceKind::Group if name.is_empty() => Err(unavailable("Group name must not be empty")),
        ResourceKind::ClientMetrics if name.is_empty() => {
            Err(unavailable("Client metrics subscription name must not be empty"))
        }
        kind @ (ResourceKind::Group | ResourceKind::ClientMetrics) => {
            let image = broker.metadata.image();
            let resource = ConfigResource { kind, name: name.clone() };
            let (settings, own) = (broker.settings(), image.configs(&resource));
            Ok(match kind {
                ResourceKind::Group => settings.describe_group(own, options),
                _ => settings.describe_client_metrics(own, options),
            })
        }
    }
}

/// The kind of resource with this number, if it has settings here.
pub(super) fn kind(code: i8) -> Result<ResourceKind, Refused> {
    match ResourceKind::from_code(code) {
        Some(kind) => Ok(kind),
        None if code == BROKER_LOGGER => {
            Err(unavailable("Log levels cannot be seen or changed over the protocol in this version"))
        }
        None => Err(unavailable(&format!("Unknown resource type {code}"))),
    }
}

/// A broker answers for itself alone.
pub(super) fn check_broker_id(name: &str, own: BrokerId) -> Result<(), Refused> {
    match name.parse::<i32>() {
        Ok(id) if id == own.0 => Ok(()),
        Ok(id) => Err(unavailable(&format!("Unexpected broker id, expected {own}, but received {id}"))),
        Err(_) => Err(unavailable(&format!("Node id must be an integer, but it is: {name}"))),
    }
}

fn unavailable(why: &str) -> Refused {
    (ErrorCode::INVALID_REQUEST, why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_answers_for_itself_alone() {
        assert!(check_broker_id("3", BrokerId(3)).is_ok());
        for other in ["4", "x", " 3", "99999999999"] {
            assert_eq!(check_broker_id(other, BrokerId(3)).unwrap_err().0, ErrorCode::INVALID_REQUEST);
        }
    }

    #[test]
    fn loggers_and_unknown_kinds_are_refused_clearly() {
        assert_eq!(kind(2).unwrap(), ResourceKind::Topic);
        assert!(kind(8).unwrap_err().1.contains("Log levels"));
        assert_eq!(kind(9).unwrap_err().1, "Unknown resource type 9");
    }
}
