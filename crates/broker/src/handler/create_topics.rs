//! CreateTopics: each topic by itself; one that is refused does not keep the others.
//! From version 5 on the answer tells what the topic has come to be, settings included, so that nobody has to ask again.

use std::sync::Arc;

use state::metadata::{CreateTopic, CreatedTopic, Mode};
use wire::Str;
use wire::messages::create_topics::{
    CreatableTopic, CreatableTopicConfigs, CreatableTopicResult, CreateTopicsRequest, CreateTopicsResponse,
};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::settings::DescribeOptions;
use crate::topics::{TopicError, within};

/// The answer describes the created topic from this version on (KIP-525).
const DESCRIPTION_VERSION_MIN: i16 = 5;

/// Clients understand from this version on that a quota refuses them (KIP-599).
const STRICT_VERSION_MIN: i16 = 6;

/// Creates the topics, or says what would come of it.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    context: RequestContext,
    request: CreateTopicsRequest,
) -> CreateTopicsResponse {
    let mode = if request.validate_only { Mode::ValidateOnly } else { Mode::Apply };
    let topics: Vec<CreateTopic> = request.topics.iter().map(CreateTopic::from).collect();
    let mutations = Arc::new(broker.quotas.mutations(&broker, &context, STRICT_VERSION_MIN));
    let creation = broker.topics.create(&broker, topics, mode, &mutations);
    let topics = match within(&broker, &context, request.timeout_ms, creation).await {
        Ok(answers) => {
            let answer = |(name, answer): (Str, Result<CreatedTopic, TopicError>)| match answer {
                Ok(created) => {
                    let asked = request.topics.iter().find(|topic| topic.name == name);
                    let configs = asked
                        .filter(|_| context.version >= DESCRIPTION_VERSION_MIN)
                        .map(|asked| describe(&broker, asked));
                    CreatableTopicResult {
                        name,
                        topic_id: created.id,
                        error_message: None,
                        num_partitions: created.num_partitions,
                        replication_factor: created.replication_factor,
                        configs: Some(configs.unwrap_or_default()),
                        ..Default::default()
                    }
                }
                Err(error) => refused(name, &error),
            };
            answers.into_iter().map(answer).collect()
        }
        Err(error) => request.topics.into_iter().map(|topic| refused(topic.name, &error)).collect(),
    };
    CreateTopicsResponse { topics, throttle_time_ms: mutations.throttle_time_ms() }
}

fn refused(name: Str, error: &TopicError) -> CreatableTopicResult {
    CreatableTopicResult {
        name,
        error_code: error.error_code(),
        error_message: error.message(),
        configs: Some(Vec::new()),
        ..Default::default()
    }
}

/// The topic's settings, its own and what it inherits.
fn describe(broker: &Broker, topic: &CreatableTopic) -> Vec<CreatableTopicConfigs> {
    let own = topic.configs.iter().filter_map(|config| Some((&config.name, config.value.as_ref()?)));
    let described = broker.settings().describe_topic(own, &DescribeOptions::default());
    let configs = described.into_iter().map(|config| CreatableTopicConfigs {
        name: config.name,
        value: config.value,
        read_only: config.read_only,
        config_source: config.config_source,
        is_sensitive: config.is_sensitive,
    });
    configs.collect()
}
