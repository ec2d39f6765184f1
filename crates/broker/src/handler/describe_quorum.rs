//! DescribeQuorum: who carries the metadata, and how far each has come (KIP-595).
//! Answered by the active controller, which alone knows how far the others are.

use std::sync::Arc;

use state::metadata::Image;
use wire::messages::describe_quorum::{
    DescribeQuorumRequest, DescribeQuorumResponse, Listener, Node, PartitionQuorum, ReplicaState, TopicQuorum,
};
use wire::{BrokerId, ErrorCode, PartitionId, Str, Uuid};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::metadata::METADATA_TOPIC;
use crate::quorum::{QuorumDescription, ReplicaDescription};

/// Answers for the metadata's one partition; there are no others that a quorum keeps.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    _: RequestContext,
    request: DescribeQuorumRequest,
) -> DescribeQuorumResponse {
    let Some(quorum) = broker.metadata.quorum().describe().await else {
        return DescribeQuorumResponse {
            error_code: ErrorCode::KAFKA_STORAGE_ERROR,
            error_message: Some(Str::from("the metadata log is offline")),
            ..Default::default()
        };
    };
    let image = broker.metadata.image();
    let describe = Describe { quorum: &quorum, image: &image, now: broker.clock.now().0 };
    let topics = request.topics.into_iter().map(|topic| {
        let is_metadata = &*topic.topic_name == METADATA_TOPIC;
        let partitions = topic.partitions.into_iter().map(|partition| {
            let index = PartitionId(partition.partition_index);
            if is_metadata && index == PartitionId(0) { describe.partition() } else { unknown(index) }
        });
        TopicQuorum { topic_name: topic.topic_name, partitions: partitions.collect() }
    });
    DescribeQuorumResponse { topics: topics.collect(), nodes: describe.nodes(), ..Default::default() }
}

fn unknown(index: PartitionId) -> PartitionQuorum {
    PartitionQuorum {
        partition_index: index.0,
        error_code: ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        ..Default::default()
    }
}

struct Describe<'a> {
    quorum: &'a QuorumDescription,
    image: &'a Image,
    now: i64,
}

impl Describe<'_> {
    fn partition(&self) -> PartitionQuorum {
        let states =
            |replicas: &[ReplicaDescription]| replicas.iter().map(|replica| self.replica(replica)).collect();
        PartitionQuorum {
            leader_id: self.quorum.leader.map_or(-1, |leader| leader.0),
            leader_epoch: i32::try_from(self.quorum.term).unwrap_or(i32::MAX),
            high_watermark: self.quorum.high_watermark.0,
            current_voters: states(&self.quorum.voters),
            observers: states(&self.quorum.learners),
            ..Default::default()
        }
    }

    /// Times are those of the question: the leader hears of everybody several times a second, or counts it as silent.
    fn replica(&self, replica: &ReplicaDescription) -> ReplicaState {
        let heard = if replica.is_recently_active { self.now } else { -1 };
        ReplicaState {
            replica_id: replica.node.0,
            replica_directory_id: self.directory_of(replica.node),
            log_end_offset: replica.log_end.0,
            last_fetch_timestamp: heard,
            last_caught_up_timestamp: if replica.lag == 0 { heard } else { -1 },
        }
    }

    fn directory_of(&self, node: BrokerId) -> Uuid {
        let directory = self.image.broker(node).and_then(|broker| broker.log_dirs.first().copied());
        directory.unwrap_or(Uuid::ZERO)
    }

    fn nodes(&self) -> Vec<Node> {
        let members = self.quorum.voters.iter().chain(&self.quorum.learners);
        let known = members.filter_map(|member| self.image.broker(member.node));
        let nodes = known.map(|broker| Node {
            node_id: broker.id.0,
            listeners: broker
                .endpoints
                .iter()
                .map(|endpoint| Listener {
                    name: endpoint.listener.clone(),
                    host: endpoint.host.clone(),
                    port: endpoint.port,
                })
                .collect(),
        });
        nodes.collect()
    }
}
