//! Which requests this client sends, and up to which version.
//!
//! The wire crate knows every version; a client may only use those whose meaning its code handles. That stands in
//! one table here, so that a newer broker changes nothing by itself.

use wire::ApiRequest;
use wire::messages::{
    add_offsets_to_txn::AddOffsetsToTxnRequest, add_partitions_to_txn::AddPartitionsToTxnRequest,
    add_raft_voter::AddRaftVoterRequest, alter_client_quotas::AlterClientQuotasRequest,
    alter_partition_reassignments::AlterPartitionReassignmentsRequest, api_versions::ApiVersionsRequest,
    consumer_group_describe::ConsumerGroupDescribeRequest,
    consumer_group_heartbeat::ConsumerGroupHeartbeatRequest, create_partitions::CreatePartitionsRequest,
    create_topics::CreateTopicsRequest, delete_groups::DeleteGroupsRequest,
    delete_records::DeleteRecordsRequest, delete_topics::DeleteTopicsRequest,
    describe_client_quotas::DescribeClientQuotasRequest, describe_cluster::DescribeClusterRequest,
    describe_configs::DescribeConfigsRequest, describe_groups::DescribeGroupsRequest,
    describe_log_dirs::DescribeLogDirsRequest, describe_producers::DescribeProducersRequest,
    describe_quorum::DescribeQuorumRequest, describe_share_group_offsets::DescribeShareGroupOffsetsRequest,
    describe_transactions::DescribeTransactionsRequest, elect_leaders::ElectLeadersRequest,
    end_txn::EndTxnRequest, fetch::FetchRequest, find_coordinator::FindCoordinatorRequest,
    heartbeat::HeartbeatRequest, incremental_alter_configs::IncrementalAlterConfigsRequest,
    init_producer_id::InitProducerIdRequest, join_group::JoinGroupRequest, leave_group::LeaveGroupRequest,
    list_groups::ListGroupsRequest, list_offsets::ListOffsetsRequest,
    list_partition_reassignments::ListPartitionReassignmentsRequest,
    list_transactions::ListTransactionsRequest, metadata::MetadataRequest,
    offset_commit::OffsetCommitRequest, offset_delete::OffsetDeleteRequest, offset_fetch::OffsetFetchRequest,
    offset_for_leader_epoch::OffsetForLeaderEpochRequest, produce::ProduceRequest,
    remove_raft_voter::RemoveRaftVoterRequest, share_group_describe::ShareGroupDescribeRequest,
    sync_group::SyncGroupRequest, txn_offset_commit::TxnOffsetCommitRequest,
    unregister_broker::UnregisterBrokerRequest, write_txn_markers::WriteTxnMarkersRequest,
};

/// A request that this client sends.
pub(crate) trait Call: ApiRequest<Response: Send> + Send + 'static {
    /// The newest version whose meaning this client handles.
    const VERSION_MAX: i16;
}

macro_rules! calls {
    ($($request:ident: up to $version:literal;)*) => {
        $(impl Call for $request {
            const VERSION_MAX: i16 = $version;
        })*
    };
}

// Produce 13, OffsetCommit 10 and OffsetFetch 10 name topics by id alone; this client names them by name, but for
// Fetch, where an older version is used while an id is not known. AddPartitionsToTxn from 4 on is spoken among brokers.
// OffsetFetch from 8 on asks for several groups at once; OffsetFetch 7 is whole and simpler.
calls! {
    AddOffsetsToTxnRequest: up to 4;
    AddPartitionsToTxnRequest: up to 3;
    AddRaftVoterRequest: up to 1;
    AlterClientQuotasRequest: up to 1;
    AlterPartitionReassignmentsRequest: up to 1;
    ApiVersionsRequest: up to 3;
    CreatePartitionsRequest: up to 3;
    CreateTopicsRequest: up to 7;
    DeleteGroupsRequest: up to 2;
    DeleteRecordsRequest: up to 2;
    DeleteTopicsRequest: up to 6;
    DescribeClientQuotasRequest: up to 1;
    DescribeClusterRequest: up to 2;
    DescribeConfigsRequest: up to 4;
    ConsumerGroupDescribeRequest: up to 1;
    ConsumerGroupHeartbeatRequest: up to 1;
    DescribeGroupsRequest: up to 6;
    DescribeLogDirsRequest: up to 4;
    DescribeProducersRequest: up to 0;
    DescribeQuorumRequest: up to 2;
    DescribeShareGroupOffsetsRequest: up to 1;
    DescribeTransactionsRequest: up to 0;
    ElectLeadersRequest: up to 2;
    EndTxnRequest: up to 5;
    FetchRequest: up to 16;
    FindCoordinatorRequest: up to 4;
    HeartbeatRequest: up to 4;
    IncrementalAlterConfigsRequest: up to 1;
    InitProducerIdRequest: up to 5;
    JoinGroupRequest: up to 9;
    LeaveGroupRequest: up to 5;
    ListGroupsRequest: up to 5;
    ListOffsetsRequest: up to 7;
    ListPartitionReassignmentsRequest: up to 0;
    ListTransactionsRequest: up to 1;
    MetadataRequest: up to 13;
    OffsetCommitRequest: up to 9;
    OffsetDeleteRequest: up to 0;
    OffsetFetchRequest: up to 7;
    OffsetForLeaderEpochRequest: up to 4;
    ProduceRequest: up to 12;
    RemoveRaftVoterRequest: up to 0;
    ShareGroupDescribeRequest: up to 1;
    SyncGroupRequest: up to 5;
    TxnOffsetCommitRequest: up to 5;
    UnregisterBrokerRequest: up to 0;
    WriteTxnMarkersRequest: up to 1;
}
