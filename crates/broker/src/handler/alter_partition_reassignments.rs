//! AlterPartitionReassignments: replicas move to other brokers, or stay after all (KIP-455).

use std::sync::Arc;

use state::metadata::{Image, Reassignment};
use wire::messages::alter_partition_reassignments::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, ReassignablePartitionResponse,
    ReassignableTopicResponse,
};
use wire::{BrokerId, ErrorCode, PartitionId, Str};

use crate::broker::Broker;
use crate::context::RequestContext;

/// Begins or cancels reassignments, on the controller. One answer per partition, in the order of the request.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    _: RequestContext,
    request: AlterPartitionReassignmentsRequest,
) -> AlterPartitionReassignmentsResponse {
    let allow_replication_factor_change = request.allow_replication_factor_change;
    let wanted: Vec<Reassignment> = request
        .topics
        .into_iter()
        .flat_map(|topic| {
            let name = topic.name;
            topic.partitions.into_iter().map(move |partition| Reassignment {
                topic: Str::copy_from(&name),
                partition: PartitionId(partition.partition_index),
                replicas: partition.replicas.map(|ids| ids.into_iter().map(BrokerId).collect()),
            })
        })
        .collect();
    let settings = Arc::clone(&broker.settings());
    let decide =
        |image: &Image| image.alter_reassignments(&wanted, allow_replication_factor_change, &*settings);
    let reassigned = match broker.metadata.commit(broker.clock.now(), decide).await {
        Ok(reassigned) => reassigned,
        Err(error) => {
            return AlterPartitionReassignmentsResponse {
                allow_replication_factor_change,
                error_code: error.into(),
                error_message: Some(Str::from(error.to_string())),
                ..Default::default()
            };
        }
    };
    broker.report("replicas are reassigned", broker.node_id, &reassigned.changes);
    let mut responses: Vec<ReassignableTopicResponse> = Vec::new();
    for (wanted, answer) in wanted.into_iter().zip(reassigned.answers) {
        let partition = ReassignablePartitionResponse {
            partition_index: wanted.partition.0,
            error_code: answer.as_ref().err().map_or(ErrorCode::NONE, ErrorCode::from),
            error_message: answer.err().map(|refusal| Str::from(refusal.to_string())),
        };
        match responses.last_mut().filter(|last| last.name == wanted.topic) {
            Some(last) => last.partitions.push(partition),
            None => {
                responses.push(ReassignableTopicResponse { name: wanted.topic, partitions: vec![partition] })
            }
        }
    }
    AlterPartitionReassignmentsResponse { allow_replication_factor_change, responses, ..Default::default() }
}
