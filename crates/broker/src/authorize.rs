//! What each API does to which kind of resource, and whether the principal may.
//!
//! The table is an exhaustive match: an API that names no operation does not compile. Until access control lists
//! exist everything that the table names is allowed; the calls stand where they will be decided.

use wire::ApiKey;

use crate::context::RequestContext;

/// Kafka's ACL operations, as far as the broker's APIs need them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Read,
    Write,
    Create,
    Delete,
    Alter,
    Describe,
    DescribeConfigs,
    AlterConfigs,
    IdempotentWrite,
    /// What brokers do among themselves.
    ClusterAction,
}

/// Kafka's resource types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResourceKind {
    Topic,
    TransactionalId,
    Group,
    Cluster,
    /// Answered to anybody: it is how a client finds out whom it talks to.
    Open,
}

/// The operation and the kind of resource that an API needs. Where an API touches several kinds, the one named is
/// that of its items.
pub(crate) fn required(api: ApiKey) -> (Operation, ResourceKind) {
    use {Operation as Op, ResourceKind as On};
    match api {
        ApiKey::ApiVersions => (Op::Describe, On::Open),
        // What a client says of itself.
        ApiKey::GetTelemetrySubscriptions | ApiKey::PushTelemetry => (Op::Describe, On::Open),
        ApiKey::Produce => (Op::Write, On::Topic),
        ApiKey::Fetch => (Op::Read, On::Topic),
        ApiKey::ListOffsets | ApiKey::Metadata | ApiKey::OffsetForLeaderEpoch => (Op::Describe, On::Topic),
        ApiKey::DescribeTopicPartitions => (Op::Describe, On::Topic),
        ApiKey::DescribeProducers => (Op::Read, On::Topic),
        ApiKey::CreateTopics => (Op::Create, On::Topic),
        ApiKey::DeleteTopics | ApiKey::DeleteRecords => (Op::Delete, On::Topic),
        ApiKey::CreatePartitions => (Op::Alter, On::Topic),
        ApiKey::DescribeConfigs => (Op::DescribeConfigs, On::Topic),
        ApiKey::AlterConfigs | ApiKey::IncrementalAlterConfigs => (Op::AlterConfigs, On::Topic),
        ApiKey::DescribeClientQuotas | ApiKey::ListConfigResources => (Op::DescribeConfigs, On::Cluster),
        ApiKey::AlterClientQuotas => (Op::AlterConfigs, On::Cluster),
        ApiKey::AlterReplicaLogDirs => (Op::Alter, On::Cluster),
        ApiKey::DescribeLogDirs | ApiKey::DescribeCluster => (Op::Describe, On::Cluster),
        ApiKey::DescribeQuorum | ApiKey::ListPartitionReassignments => (Op::Describe, On::Cluster),
        ApiKey::ElectLeaders | ApiKey::AlterPartitionReassignments | ApiKey::UpdateFeatures => {
            (Op::Alter, On::Cluster)
        }
        ApiKey::UnregisterBroker | ApiKey::AddRaftVoter | ApiKey::RemoveRaftVoter => (Op::Alter, On::Cluster),
        ApiKey::QuorumMessages
        | ApiKey::RegisterBroker
        | ApiKey::BrokerHeartbeat
        | ApiKey::AlterPartition
        | ApiKey::Forward
        | ApiKey::AllocateProducerIds
        | ApiKey::AcknowledgeFlushed
        | ApiKey::AutoCreateTopics => (Op::ClusterAction, On::Cluster),
        ApiKey::InitProducerId => (Op::IdempotentWrite, On::Cluster),
        ApiKey::AddPartitionsToTxn | ApiKey::AddOffsetsToTxn | ApiKey::EndTxn => {
            (Op::Write, On::TransactionalId)
        }
        ApiKey::DescribeTransactions | ApiKey::ListTransactions => (Op::Describe, On::TransactionalId),
        ApiKey::WriteTxnMarkers => (Op::ClusterAction, On::Cluster),
        ApiKey::InitializeShareGroupState
        | ApiKey::ReadShareGroupState
        | ApiKey::WriteShareGroupState
        | ApiKey::DeleteShareGroupState
        | ApiKey::ReadShareGroupStateSummary => (Op::ClusterAction, On::Cluster),
        ApiKey::TxnOffsetCommit => (Op::Read, On::Group),
        ApiKey::ShareGroupHeartbeat | ApiKey::ShareFetch | ApiKey::ShareAcknowledge => (Op::Read, On::Group),
        ApiKey::ShareGroupDescribe | ApiKey::DescribeShareGroupOffsets => (Op::Describe, On::Group),
        ApiKey::AlterShareGroupOffsets => (Op::Read, On::Group),
        ApiKey::DeleteShareGroupOffsets => (Op::Delete, On::Group),
        ApiKey::FindCoordinator | ApiKey::DescribeGroups | ApiKey::ListGroups => (Op::Describe, On::Group),
        ApiKey::OffsetFetch => (Op::Describe, On::Group),
        ApiKey::JoinGroup | ApiKey::SyncGroup | ApiKey::Heartbeat | ApiKey::LeaveGroup => {
            (Op::Read, On::Group)
        }
        ApiKey::ConsumerGroupHeartbeat => (Op::Read, On::Group),
        ApiKey::ConsumerGroupDescribe => (Op::Describe, On::Group),
        ApiKey::OffsetCommit => (Op::Read, On::Group),
        ApiKey::DeleteGroups | ApiKey::OffsetDelete => (Op::Delete, On::Group),
    }
}

/// Whether the request's principal may use its API at all.
pub(crate) fn is_allowed(context: &RequestContext) -> bool {
    let (operation, kind) = required(context.api);
    tracing::trace!(principal = %context.connection.principal, ?operation, ?kind, "authorized");
    true
}
