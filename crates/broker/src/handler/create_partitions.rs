//! CreatePartitions: gives topics more partitions; they never get fewer.

use std::sync::Arc;

use state::metadata::{CreatePartitions, Mode};
use wire::messages::create_partitions::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreatePartitionsTopic, CreatePartitionsTopicResult,
};
use wire::{BrokerId, Str};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::topics::{TopicError, within};

/// Clients understand from this version on that a quota refuses them (KIP-599).
const STRICT_VERSION_MIN: i16 = 3;

/// Adds the partitions, or says what would come of it.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    context: RequestContext,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let mode = if request.validate_only { Mode::ValidateOnly } else { Mode::Apply };
    let topics: Vec<CreatePartitions> = request.topics.iter().map(read).collect();
    let mutations = Arc::new(broker.quotas.mutations(&broker, &context, STRICT_VERSION_MIN));
    let addition = broker.topics.add_partitions(&broker, topics, mode, &mutations);
    let results = match within(&broker, &context, request.timeout_ms, addition).await {
        Ok(answers) => answers.into_iter().map(|(name, answer)| answered(name, answer)).collect(),
        Err(error) => {
            request.topics.into_iter().map(|topic| answered(topic.name, Err(error.clone()))).collect()
        }
    };
    CreatePartitionsResponse { results, throttle_time_ms: mutations.throttle_time_ms() }
}

fn read(topic: &CreatePartitionsTopic) -> CreatePartitions {
    let assignments = topic.assignments.as_ref().map(|assignments| {
        let replicas = assignments.iter().map(|one| one.broker_ids.iter().copied().map(BrokerId).collect());
        replicas.collect()
    });
    CreatePartitions { name: topic.name.clone(), count: topic.count, assignments }
}

fn answered(name: Str, answer: Result<(), TopicError>) -> CreatePartitionsTopicResult {
    match answer {
        Ok(()) => CreatePartitionsTopicResult { name, ..Default::default() },
        Err(error) => CreatePartitionsTopicResult {
            name,
            error_code: error.error_code(),
            error_message: error.message(),
        },
    }
}
