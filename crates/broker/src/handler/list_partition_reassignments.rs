//! ListPartitionReassignments: what is under way, as far as this broker follows the metadata.

use std::collections::BTreeSet;
use std::sync::Arc;

use wire::messages::list_partition_reassignments::{
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse, OngoingPartitionReassignment,
    OngoingTopicReassignment,
};
use wire::{PartitionId, Str};

use super::metadata::ids;
use crate::broker::Broker;
use crate::context::RequestContext;

/// Answers for the partitions that are asked for, or for all.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    _: RequestContext,
    request: ListPartitionReassignmentsRequest,
) -> ListPartitionReassignmentsResponse {
    let asked: Option<BTreeSet<(Str, PartitionId)>> = request.topics.map(|topics| {
        let partitions = topics.into_iter().flat_map(|topic| {
            let name = topic.name;
            topic.partition_indexes.into_iter().map(move |index| (name.clone(), PartitionId(index)))
        });
        partitions.collect()
    });
    let image = broker.metadata.image();
    let mut topics: Vec<OngoingTopicReassignment> = Vec::new();
    for (topic, id, partition) in image.reassignments() {
        if asked.as_ref().is_some_and(|asked| !asked.contains(&(topic.name.clone(), id))) {
            continue;
        }
        let ongoing = OngoingPartitionReassignment {
            partition_index: id.0,
            replicas: ids(&partition.replicas),
            adding_replicas: ids(&partition.adding),
            removing_replicas: ids(&partition.removing),
        };
        match topics.last_mut().filter(|last| last.name == topic.name) {
            Some(last) => last.partitions.push(ongoing),
            None => {
                topics.push(OngoingTopicReassignment { name: topic.name.clone(), partitions: vec![ongoing] });
            }
        }
    }
    ListPartitionReassignmentsResponse { topics, ..Default::default() }
}
