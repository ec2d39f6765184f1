//! DeleteTopics: by name or, from version 6 on, by id.
//! A topic that is named in both ways, in neither, or twice is refused, since it is not clear what was meant.

use std::sync::Arc;

use state::metadata::{DeleteTopic, DeletedTopic};
use wire::messages::delete_topics::{DeletableTopicResult, DeleteTopicsRequest, DeleteTopicsResponse};
use wire::{ErrorCode, Str, Uuid};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::topics::{TopicError, within};

/// Topics can be named by id from this version on.
const TOPIC_ID_VERSION_MIN: i16 = 6;

/// Clients understand from this version on that a quota refuses them (KIP-599).
const STRICT_VERSION_MIN: i16 = 5;

/// Deletes the topics, their records and what groups committed for them.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    context: RequestContext,
    request: DeleteTopicsRequest,
) -> DeleteTopicsResponse {
    let timeout_ms = request.timeout_ms;
    let (topics, mut responses) = read(request, context.version);
    let mutations = Arc::new(broker.quotas.mutations(&broker, &context, STRICT_VERSION_MIN));
    let deletion = broker.topics.delete(&broker, topics.clone(), &mutations);
    match within(&broker, &context, timeout_ms, deletion).await {
        Ok(answers) => responses.extend(answers.into_iter().map(|(topic, answer)| answered(topic, answer))),
        Err(error) => {
            responses.extend(topics.into_iter().map(|topic| answered(topic, Err(error.clone()))));
        }
    }
    DeleteTopicsResponse { responses, throttle_time_ms: mutations.throttle_time_ms() }
}

/// What is to be deleted, and the answers of what cannot be understood.
fn read(request: DeleteTopicsRequest, version: i16) -> (Vec<DeleteTopic>, Vec<DeletableTopicResult>) {
    if version < TOPIC_ID_VERSION_MIN {
        return (request.topic_names.into_iter().map(DeleteTopic::Name).collect(), Vec::new());
    }
    let mut topics = Vec::with_capacity(request.topics.len());
    let mut refused = Vec::new();
    for topic in request.topics {
        let why = match (topic.name, topic.topic_id) {
            (Some(name), Uuid::ZERO) => {
                topics.push(DeleteTopic::Name(name));
                continue;
            }
            (None, id) if !id.is_zero() => {
                topics.push(DeleteTopic::Id(id));
                continue;
            }
            (None, id) => (None, id, "Neither topic name nor id were specified."),
            (name, id) => (name, id, "You may not specify both topic name and topic id."),
        };
        let (name, topic_id, message) = why;
        refused.push(DeletableTopicResult {
            name,
            topic_id,
            error_code: ErrorCode::INVALID_REQUEST,
            error_message: Some(Str::from(message)),
        });
    }
    (topics, refused)
}

fn answered(topic: DeleteTopic, answer: Result<DeletedTopic, TopicError>) -> DeletableTopicResult {
    let (name, topic_id) = match topic {
        DeleteTopic::Name(name) => (Some(name), Uuid::ZERO),
        DeleteTopic::Id(id) => (None, id),
    };
    match answer {
        Ok(deleted) => {
            DeletableTopicResult { name: Some(deleted.name), topic_id: deleted.id, ..Default::default() }
        }
        Err(error) => DeletableTopicResult {
            name,
            topic_id,
            error_code: error.error_code(),
            error_message: error.message(),
        },
    }
}

#[cfg(test)]
mod tests {
    use wire::messages::delete_topics::DeleteTopicState;

    use super::*;

    fn state(name: Option<&'static str>, id: u128) -> DeleteTopicState {
        DeleteTopicState { name: name.map(Str::from), topic_id: Uuid::from_u128(id) }
    }

    #[test]
    fn a_topic_is_named_in_exactly_one_way() {
        let topics = vec![state(Some("a"), 0), state(None, 7), state(None, 0), state(Some("b"), 8)];
        let request = DeleteTopicsRequest { topics, ..Default::default() };
        let (topics, refused) = read(request, 6);
        assert_eq!(topics, [DeleteTopic::Name("a".into()), DeleteTopic::Id(Uuid::from_u128(7))]);
        let codes: Vec<_> = refused.iter().map(|refused| refused.error_code).collect();
        assert_eq!(codes, [ErrorCode::INVALID_REQUEST; 2]);
    }
}
