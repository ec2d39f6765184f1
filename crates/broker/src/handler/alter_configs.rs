//! AlterConfigs: replaces all settings of a resource at once, the older way.
//! What is shared with IncrementalAlterConfigs is here too: which resource is meant, and how a refusal is worded. A
//! resource changes as a whole or not at all, and does not keep the others.

use std::sync::Arc;

use state::metadata::{ConfigResource, Mode, Refusal, ReplaceConfigs, ResourceKind, check_topic_name};
use wire::messages::alter_configs::{
    AlterConfigsRequest, AlterConfigsResource, AlterConfigsResourceResponse, AlterConfigsResponse,
};
use wire::{BrokerId, ErrorCode, Str};

use super::describe_configs::{Refused, kind};
use crate::broker::Broker;
use crate::context::RequestContext;
use crate::topics::TopicError;

/// Replaces the settings, or says what would come of it.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    _context: RequestContext,
    request: AlterConfigsRequest,
) -> AlterConfigsResponse {
    let mode = if request.validate_only { Mode::ValidateOnly } else { Mode::Apply };
    let read: Vec<_> = request.resources.iter().map(|resource| read(&broker, resource)).collect();
    let changes = read.iter().filter_map(|read| read.as_ref().ok().cloned()).collect();
    let answers = broker.topics.replace_configs(&broker, changes, mode).await;
    let resources = read.into_iter().map(|read| read.map(|change| change.resource)).collect();
    let outcomes = outcomes(resources, answers);
    let responses = request.resources.into_iter().zip(outcomes).map(|(resource, (error_code, message))| {
        AlterConfigsResourceResponse {
            error_code,
            error_message: message,
            resource_type: resource.resource_type,
            resource_name: resource.resource_name,
        }
    });
    AlterConfigsResponse { responses: responses.collect(), ..Default::default() }
}

fn read(broker: &Broker, resource: &AlterConfigsResource) -> Result<ReplaceConfigs, Refused> {
    let target = target(broker, resource.resource_type, &resource.resource_name)?;
    let values = resource.configs.iter().map(|config| match &config.value {
        Some(value) => Ok((config.name.clone(), value.clone())),
        None => Err((ErrorCode::INVALID_REQUEST, format!("Null value not supported for : {}", config.name))),
    });
    Ok(ReplaceConfigs { resource: target, values: values.collect::<Result<_, _>>()? })
}

/// The resource that a request means, as far as that can be known without the metadata.
pub(super) fn target(broker: &Broker, code: i8, name: &Str) -> Result<ConfigResource, Refused> {
    let kind = kind(code)?;
    match kind {
        ResourceKind::Topic if name.is_empty() => {
            let why = "Default topic resources are not allowed.".to_owned();
            return Err((ErrorCode::INVALID_REQUEST, why));
        }
        ResourceKind::Topic => {
            check_topic_name(name).map_err(|error| (ErrorCode::INVALID_TOPIC_EXCEPTION, error.to_string()))?
        }
        ResourceKind::Group | ResourceKind::ClientMetrics if name.is_empty() => {
            let what = if kind == ResourceKind::Group { "group" } else { "client-metrics" };
            return Err((ErrorCode::INVALID_REQUEST, format!("Default {what} resources are not allowed.")));
        }
        ResourceKind::Broker if !name.is_empty() => check_broker(broker, name)?,
        ResourceKind::Broker | ResourceKind::Group | ResourceKind::ClientMetrics => {}
    }
    Ok(ConfigResource { kind, name: name.clone() })
}

/// Any broker takes the settings of any other, as the controller decides.
fn check_broker(broker: &Broker, name: &Str) -> Result<(), Refused> {
    let image = broker.metadata.image();
    match name.parse().map(BrokerId) {
        Ok(id) if image.broker(id).is_some() => Ok(()),
        Ok(id) => Err((ErrorCode::INVALID_REQUEST, format!("Broker {id} is not registered"))),
        Err(_) => {
            let why = format!("Node id must be an integer, but it is: {name}");
            Err((ErrorCode::INVALID_REQUEST, why))
        }
    }
}

/// One error code and message per resource of the request: of those that were not understood, and of the others as the
/// metadata has decided.
pub(super) fn outcomes(
    resources: Vec<Result<ConfigResource, Refused>>,
    answers: Result<Vec<Result<(), Refusal>>, TopicError>,
) -> Vec<(ErrorCode, Option<Str>)> {
    let mut decided = match &answers {
        Ok(answers) => answers.iter(),
        Err(_) => [].iter(),
    };
    let outcome = |resource: Result<ConfigResource, Refused>| {
        let kind = match resource {
            Ok(resource) => resource.kind,
            Err((code, why)) => return (code, Some(Str::from(why))),
        };
        if let Err(error) = &answers {
            return (error.error_code(), error.message());
        }
        match decided.next().expect("one answer per change") {
            Ok(()) => (ErrorCode::NONE, None),
            Err(refusal) => (refusal_code(kind, refusal), Some(Str::from(refusal.to_string()))),
        }
    };
    resources.into_iter().map(outcome).collect()
}

/// Kafka calls a broker's wrong value a wrong request, a topic's a wrong config.
fn refusal_code(kind: ResourceKind, refusal: &Refusal) -> ErrorCode {
    match (kind, refusal) {
        (ResourceKind::Broker, Refusal::InvalidConfig(_)) => ErrorCode::INVALID_REQUEST,
        (_, refusal) => ErrorCode::from(refusal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resource_gets_its_own_answer_in_the_order_of_the_request() {
        let topic = |name: &'static str| Ok(ConfigResource::topic(name.into()));
        let refused = Err((ErrorCode::INVALID_REQUEST, "what?".to_owned()));
        let resources = vec![topic("a"), refused, topic("b"), Ok(ConfigResource::cluster_default())];
        let invalid = || Err(Refusal::InvalidConfig("no".to_owned()));
        let answers = Ok(vec![Ok(()), invalid(), invalid()]);
        let codes: Vec<_> = outcomes(resources, answers).into_iter().map(|(code, _)| code).collect();
        let expected = [
            ErrorCode::NONE,
            ErrorCode::INVALID_REQUEST,
            ErrorCode::INVALID_CONFIG,
            ErrorCode::INVALID_REQUEST,
        ];
        assert_eq!(codes, expected);
    }
}
