//! ElectLeaders: the preferred leader (KIP-183), or anybody (KIP-460).

use std::sync::Arc;

use state::metadata::{Election, Image};
use wire::messages::elect_leaders::{
    ElectLeadersRequest, ElectLeadersResponse, PartitionResult, ReplicaElectionResult,
};
use wire::{ErrorCode, PartitionId, Str};

use crate::broker::Broker;
use crate::context::RequestContext;

/// Requests name the kind of election from this version on.
const TYPE_VERSION_MIN: i16 = 1;

/// Has leaders elected, on the controller.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    context: RequestContext,
    request: ElectLeadersRequest,
) -> ElectLeadersResponse {
    let election = match request.election_type {
        _ if context.version < TYPE_VERSION_MIN => Election::Preferred,
        0 => Election::Preferred,
        1 => Election::Unclean,
        _ => return ElectLeadersResponse { error_code: ErrorCode::INVALID_REQUEST, ..Default::default() },
    };
    let named: Option<Vec<(Str, PartitionId)>> = request.topic_partitions.map(|topics| {
        let partitions = topics.into_iter().flat_map(|topic| {
            let name = topic.topic;
            topic.partitions.into_iter().map(move |partition| (name.clone(), PartitionId(partition)))
        });
        partitions.collect()
    });
    let settings = Arc::clone(&broker.settings());
    let before = broker.metadata.image();
    let decide = |image: &Image| image.elect_leaders(election, named.as_deref(), &*settings);
    let elected = match broker.metadata.commit(broker.clock.now(), decide).await {
        Ok(elected) => elected,
        Err(error) => return ElectLeadersResponse { error_code: error.into(), ..Default::default() },
    };
    let mut results: Vec<ReplicaElectionResult> = Vec::new();
    for ((topic, partition), elected) in elected {
        if election == Election::Unclean
            && let Ok(now) = &elected
        {
            let was_held = before.partition(&topic, partition).is_some_and(|before| {
                now.leader.is_some_and(|leader| before.isr.contains(&leader) || before.elr.contains(&leader))
            });
            if !was_held {
                broker.metrics.unclean_election();
                tracing::error!(
                    %topic, %partition, leader = ?now.leader,
                    "an unclean leader was elected on demand: acknowledged records may be lost"
                );
            }
        }
        broker.metrics.leaders_elected(usize::from(elected.is_ok()));
        let result = PartitionResult {
            partition_id: partition.0,
            error_code: elected.as_ref().err().map_or(ErrorCode::NONE, ErrorCode::from),
            error_message: elected.err().map(|refusal| Str::from(refusal.to_string())),
        };
        match results.last_mut().filter(|last| last.topic == topic) {
            Some(last) => last.partition_result.push(result),
            None => results.push(ReplicaElectionResult { topic, partition_result: vec![result] }),
        }
    }
    ElectLeadersResponse { replica_election_results: results, ..Default::default() }
}
