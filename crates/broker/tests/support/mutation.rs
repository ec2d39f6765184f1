//! Requests as clients send them, and what is left of them when bytes are flipped, cut, repeated or overwritten.

use bytes::Bytes;
use wire::compression::Compression;
use wire::messages::acknowledge_flushed::{
    AcknowledgeFlushedRequest, PartitionData as FlushedPartition, TopicData as FlushedTopic,
};
use wire::messages::add_offsets_to_txn::AddOffsetsToTxnRequest;
use wire::messages::add_partitions_to_txn::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnTopic as TxnTopic, AddPartitionsToTxnTransaction,
};
use wire::messages::add_raft_voter::AddRaftVoterRequest;
use wire::messages::allocate_producer_ids::AllocateProducerIdsRequest;
use wire::messages::alter_client_quotas::{
    AlterClientQuotasRequest, EntityData as QuotaEntity, EntryData as QuotaEntry, OpData as QuotaOp,
};
use wire::messages::alter_configs::{AlterConfigsRequest, AlterConfigsResource};
use wire::messages::alter_partition::{
    AlterPartitionRequest, BrokerState, PartitionData as AlteredPartition, TopicData as AlteredTopic,
};
use wire::messages::alter_partition_reassignments::{
    AlterPartitionReassignmentsRequest, ReassignablePartition, ReassignableTopic,
};
use wire::messages::alter_replica_log_dirs::{
    AlterReplicaLogDir, AlterReplicaLogDirTopic, AlterReplicaLogDirsRequest,
};
use wire::messages::alter_share_group_offsets::{
    AlterShareGroupOffsetsRequest, AlterShareGroupOffsetsRequestPartition, AlterShareGroupOffsetsRequestTopic,
};
use wire::messages::api_versions::ApiVersionsRequest;
use wire::messages::auto_create_topics::AutoCreateTopicsRequest;
use wire::messages::broker_heartbeat::BrokerHeartbeatRequest;
use wire::messages::consumer_group_describe::ConsumerGroupDescribeRequest;
use wire::messages::consumer_group_heartbeat::ConsumerGroupHeartbeatRequest;
use wire::messages::create_partitions::{CreatePartitionsRequest, CreatePartitionsTopic};
use wire::messages::create_topics::{CreatableTopic, CreateTopicsRequest};
use wire::messages::delete_groups::DeleteGroupsRequest;
use wire::messages::delete_records::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic};
use wire::messages::delete_share_group_offsets::{
    DeleteShareGroupOffsetsRequest, DeleteShareGroupOffsetsRequestTopic,
};
use wire::messages::delete_share_group_state::{
    DeleteShareGroupStateRequest, DeleteStateData, PartitionData as DeletedPartition,
};
use wire::messages::delete_topics::{DeleteTopicState, DeleteTopicsRequest};
use wire::messages::describe_client_quotas::{ComponentData as QuotaComponent, DescribeClientQuotasRequest};
use wire::messages::describe_cluster::DescribeClusterRequest;
use wire::messages::describe_configs::{DescribeConfigsRequest, DescribeConfigsResource};
use wire::messages::describe_groups::DescribeGroupsRequest;
use wire::messages::describe_log_dirs::DescribeLogDirsRequest;
use wire::messages::describe_producers::{DescribeProducersRequest, TopicRequest as ProducersTopic};
use wire::messages::describe_quorum::{
    DescribeQuorumRequest, PartitionData as QuorumPartition, TopicData as QuorumTopic,
};
use wire::messages::describe_share_group_offsets::{
    DescribeShareGroupOffsetsRequest, DescribeShareGroupOffsetsRequestGroup,
};
use wire::messages::describe_topic_partitions::{
    DescribeTopicPartitionsRequest, TopicRequest as PartitionsTopic,
};
use wire::messages::describe_transactions::DescribeTransactionsRequest;
use wire::messages::elect_leaders::ElectLeadersRequest;
use wire::messages::end_txn::EndTxnRequest;
use wire::messages::fetch::{FetchPartition, FetchRequest, FetchTopic};
use wire::messages::find_coordinator::FindCoordinatorRequest;
use wire::messages::forward::ForwardRequest;
use wire::messages::get_telemetry_subscriptions::GetTelemetrySubscriptionsRequest;
use wire::messages::heartbeat::HeartbeatRequest;
use wire::messages::incremental_alter_configs::{
    AlterConfigsResource as IncrementalResource, IncrementalAlterConfigsRequest,
};
use wire::messages::init_producer_id::InitProducerIdRequest;
use wire::messages::initialize_share_group_state::{
    InitializeShareGroupStateRequest, InitializeStateData, PartitionData as InitializedPartition,
};
use wire::messages::join_group::{JoinGroupRequest, JoinGroupRequestProtocol};
use wire::messages::leave_group::LeaveGroupRequest;
use wire::messages::list_config_resources::ListConfigResourcesRequest;
use wire::messages::list_groups::ListGroupsRequest;
use wire::messages::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use wire::messages::list_partition_reassignments::ListPartitionReassignmentsRequest;
use wire::messages::list_transactions::ListTransactionsRequest;
use wire::messages::metadata::{MetadataRequest, MetadataRequestTopic};
use wire::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use wire::messages::offset_delete::OffsetDeleteRequest;
use wire::messages::offset_fetch::OffsetFetchRequest;
use wire::messages::offset_for_leader_epoch::{
    OffsetForLeaderEpochRequest, OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use wire::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use wire::messages::push_telemetry::PushTelemetryRequest;
use wire::messages::quorum_messages::{QuorumEntry, QuorumMessage, QuorumMessagesRequest};
use wire::messages::read_share_group_state::{
    PartitionData as ReadPartition, ReadShareGroupStateRequest, ReadStateData,
};
use wire::messages::read_share_group_state_summary::{
    PartitionData as SummaryPartition, ReadShareGroupStateSummaryRequest, ReadStateSummaryData,
};
use wire::messages::register_broker::RegisterBrokerRequest;
use wire::messages::remove_raft_voter::RemoveRaftVoterRequest;
use wire::messages::share_acknowledge::{
    AcknowledgePartition, AcknowledgeTopic, AcknowledgementBatch, ShareAcknowledgeRequest,
};
use wire::messages::share_fetch::{
    AcknowledgementBatch as FetchedBatch, FetchPartition as ShareFetchPartition,
    FetchTopic as ShareFetchTopic, ShareFetchRequest,
};
use wire::messages::share_group_describe::ShareGroupDescribeRequest;
use wire::messages::share_group_heartbeat::ShareGroupHeartbeatRequest;
use wire::messages::sync_group::SyncGroupRequest;
use wire::messages::txn_offset_commit::{
    TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use wire::messages::unregister_broker::UnregisterBrokerRequest;
use wire::messages::update_features::{FeatureUpdateKey, UpdateFeaturesRequest};
use wire::messages::write_share_group_state::{
    PartitionData as WrittenPartition, StateBatch, WriteShareGroupStateRequest, WriteStateData,
};
use wire::messages::write_txn_markers::{WritableTxnMarker, WritableTxnMarkerTopic, WriteTxnMarkersRequest};
use wire::records::{BatchBuilder, BatchOptions};
use wire::{ApiKey, Decoder, Frame, Millis, Request, RequestHeader, Uuid};

use super::batch_of;

/// A small generator of pseudo-random numbers: the same seed, the same test.
pub struct Xorshift(u64);

impl Xorshift {
    /// Any seed but 0.
    pub fn new(seed: u64) -> Xorshift {
        assert!(seed != 0);
        Xorshift(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }
}

/// Requests of every API, each in every version that can carry it.
pub fn sample_frames() -> Vec<Bytes> {
    let samples = samples();
    let missing: Vec<_> =
        ApiKey::ALL.iter().filter(|api| samples.iter().all(|(known, _)| known != *api)).collect();
    assert!(missing.is_empty(), "no sample of {missing:?}");
    let mut frames = Vec::new();
    for (api, request) in samples {
        for version in api.versions() {
            let header = RequestHeader {
                api_key: api.code(),
                api_version: version,
                correlation_id: 7,
                client_id: Some("mutant".into()),
            };
            frames.push(Frame::request(&header, &request).to_bytes());
        }
    }
    frames
}

fn samples() -> Vec<(ApiKey, Request)> {
    let records = batch_of(&[(1_700_000_000_000, b"value"), (1_700_000_000_001, b"another")]);
    let produced = PartitionProduceData { index: 0, records: Some(records) };
    let produce = ProduceRequest {
        acks: -1,
        timeout_ms: 100,
        topic_data: vec![TopicProduceData {
            name: "t".into(),
            partition_data: vec![produced],
            ..Default::default()
        }],
        ..Default::default()
    };
    let fetch = FetchRequest {
        max_wait_ms: 0,
        topics: vec![FetchTopic {
            topic: "t".into(),
            partitions: vec![FetchPartition { partition_max_bytes: 1024, ..Default::default() }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let create = CreateTopicsRequest {
        topics: vec![CreatableTopic {
            name: "x".into(),
            num_partitions: 1,
            // More than there are brokers: what a mutation leaves whole is refused.
            replication_factor: 3,
            ..Default::default()
        }],
        timeout_ms: 100,
        ..Default::default()
    };
    let join = JoinGroupRequest {
        group_id: "g".into(),
        session_timeout_ms: 6_000,
        rebalance_timeout_ms: 6_000,
        protocol_type: "consumer".into(),
        protocols: vec![JoinGroupRequestProtocol {
            name: "range".into(),
            metadata: Bytes::from_static(b"\0\0\0\0\0\0\0\0\0\0"),
        }],
        ..Default::default()
    };
    let commit = OffsetCommitRequest {
        group_id: "simple".into(),
        topics: vec![OffsetCommitRequestTopic {
            name: "t".into(),
            partitions: vec![OffsetCommitRequestPartition { committed_offset: 1, ..Default::default() }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let offsets = ListOffsetsRequest {
        replica_id: -1,
        topics: vec![ListOffsetsTopic {
            name: "t".into(),
            partitions: vec![ListOffsetsPartition { timestamp: -1, ..Default::default() }],
        }],
        ..Default::default()
    };
    let metadata = MetadataRequest {
        topics: Some(vec![MetadataRequestTopic { name: Some("t".into()), ..Default::default() }]),
        ..Default::default()
    };
    let configs = DescribeConfigsRequest {
        resources: vec![DescribeConfigsResource {
            resource_type: 2,
            resource_name: "t".into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    vec![
        (ApiKey::Produce, produce.into()),
        (ApiKey::Fetch, fetch.into()),
        (ApiKey::CreateTopics, create.into()),
        (ApiKey::JoinGroup, join.into()),
        (ApiKey::OffsetCommit, commit.into()),
        (ApiKey::ListOffsets, offsets.into()),
        (ApiKey::Metadata, metadata.into()),
        (ApiKey::DescribeConfigs, configs.into()),
        (ApiKey::Heartbeat, HeartbeatRequest { group_id: "g".into(), ..Default::default() }.into()),
        (
            ApiKey::DescribeGroups,
            DescribeGroupsRequest { groups: vec!["g".into()], ..Default::default() }.into(),
        ),
        (ApiKey::FindCoordinator, FindCoordinatorRequest { key: "g".into(), ..Default::default() }.into()),
        (ApiKey::InitProducerId, InitProducerIdRequest::default().into()),
        (ApiKey::ApiVersions, ApiVersionsRequest::default().into()),
        (ApiKey::Produce, compressed_produce().into()),
        (ApiKey::SyncGroup, SyncGroupRequest { group_id: "g".into(), ..Default::default() }.into()),
        (ApiKey::LeaveGroup, LeaveGroupRequest { group_id: "g".into(), ..Default::default() }.into()),
        (ApiKey::OffsetFetch, OffsetFetchRequest { group_id: "g".into(), ..Default::default() }.into()),
        (ApiKey::OffsetDelete, OffsetDeleteRequest { group_id: "g".into(), ..Default::default() }.into()),
        (ApiKey::ConsumerGroupHeartbeat, consumer_heartbeat().into()),
        (
            ApiKey::ConsumerGroupDescribe,
            ConsumerGroupDescribeRequest { group_ids: vec!["k".into()], ..Default::default() }.into(),
        ),
        (ApiKey::ListGroups, ListGroupsRequest::default().into()),
        (ApiKey::DeleteGroups, DeleteGroupsRequest { groups_names: vec!["g".into()] }.into()),
        (
            ApiKey::DeleteTopics,
            DeleteTopicsRequest {
                topics: vec![DeleteTopicState { name: Some("none".into()), ..Default::default() }],
                topic_names: vec!["none".into()],
                timeout_ms: 100,
            }
            .into(),
        ),
        (
            ApiKey::DeleteRecords,
            DeleteRecordsRequest {
                topics: vec![DeleteRecordsTopic {
                    name: "t".into(),
                    partitions: vec![DeleteRecordsPartition { partition_index: 0, offset: 0 }],
                }],
                timeout_ms: 100,
            }
            .into(),
        ),
        (
            ApiKey::CreatePartitions,
            CreatePartitionsRequest {
                topics: vec![CreatePartitionsTopic { name: "none".into(), count: 2, ..Default::default() }],
                timeout_ms: 100,
                ..Default::default()
            }
            .into(),
        ),
        (
            ApiKey::AlterConfigs,
            AlterConfigsRequest {
                resources: vec![AlterConfigsResource {
                    resource_type: 2,
                    resource_name: "t".into(),
                    ..Default::default()
                }],
                validate_only: true,
            }
            .into(),
        ),
        (
            ApiKey::IncrementalAlterConfigs,
            IncrementalAlterConfigsRequest {
                resources: vec![IncrementalResource {
                    resource_type: 2,
                    resource_name: "t".into(),
                    ..Default::default()
                }],
                validate_only: true,
            }
            .into(),
        ),
        (ApiKey::ListConfigResources, ListConfigResourcesRequest { resource_types: vec![16, 32] }.into()),
        (
            ApiKey::GetTelemetrySubscriptions,
            GetTelemetrySubscriptionsRequest { client_instance_id: Uuid::from_u128(1) }.into(),
        ),
        (
            ApiKey::PushTelemetry,
            PushTelemetryRequest {
                client_instance_id: Uuid::from_u128(1),
                subscription_id: 1,
                metrics: Bytes::from_static(b"\x0a\x04\x12\x02\x12\x00"),
                ..Default::default()
            }
            .into(),
        ),
        (
            ApiKey::DescribeClientQuotas,
            DescribeClientQuotasRequest {
                components: vec![QuotaComponent {
                    entity_type: "user".into(),
                    match_type: 0,
                    r#match: Some("a".into()),
                }],
                strict: true,
            }
            .into(),
        ),
        (
            ApiKey::AlterClientQuotas,
            AlterClientQuotasRequest {
                entries: vec![QuotaEntry {
                    entity: vec![QuotaEntity { entity_type: "user".into(), entity_name: None }],
                    ops: vec![QuotaOp {
                        key: "producer_byte_rate".into(),
                        value: 1_000_000.0,
                        remove: false,
                    }],
                }],
                validate_only: true,
            }
            .into(),
        ),
        (
            ApiKey::AlterReplicaLogDirs,
            AlterReplicaLogDirsRequest {
                dirs: vec![AlterReplicaLogDir {
                    path: "/nowhere".into(),
                    topics: vec![AlterReplicaLogDirTopic { name: "t".into(), partitions: vec![0] }],
                }],
            }
            .into(),
        ),
        (ApiKey::DescribeLogDirs, DescribeLogDirsRequest::default().into()),
        (ApiKey::DescribeCluster, DescribeClusterRequest::default().into()),
        (
            ApiKey::DescribeProducers,
            DescribeProducersRequest {
                topics: vec![ProducersTopic { name: "t".into(), partition_indexes: vec![0] }],
            }
            .into(),
        ),
        (
            ApiKey::DescribeTopicPartitions,
            DescribeTopicPartitionsRequest {
                topics: vec![PartitionsTopic { name: "t".into() }],
                ..Default::default()
            }
            .into(),
        ),
        (
            ApiKey::OffsetForLeaderEpoch,
            OffsetForLeaderEpochRequest {
                replica_id: -1,
                topics: vec![OffsetForLeaderTopic {
                    topic: "t".into(),
                    partitions: vec![OffsetForLeaderPartition::default()],
                }],
            }
            .into(),
        ),
        (
            ApiKey::ElectLeaders,
            ElectLeadersRequest { topic_partitions: Some(vec![]), ..Default::default() }.into(),
        ),
        (
            ApiKey::AlterPartitionReassignments,
            AlterPartitionReassignmentsRequest {
                topics: vec![ReassignableTopic {
                    name: "none".into(),
                    partitions: vec![ReassignablePartition {
                        partition_index: 0,
                        replicas: Some(vec![2, 3]),
                    }],
                }],
                ..Default::default()
            }
            .into(),
        ),
        (ApiKey::ListPartitionReassignments, ListPartitionReassignmentsRequest::default().into()),
        (
            ApiKey::DescribeQuorum,
            DescribeQuorumRequest {
                topics: vec![QuorumTopic {
                    topic_name: "__cluster_metadata".into(),
                    partitions: vec![QuorumPartition { partition_index: 0 }],
                }],
            }
            .into(),
        ),
        (
            ApiKey::UpdateFeatures,
            UpdateFeaturesRequest {
                feature_updates: vec![FeatureUpdateKey { feature: "f".into(), ..Default::default() }],
                ..Default::default()
            }
            .into(),
        ),
        (ApiKey::UnregisterBroker, UnregisterBrokerRequest { broker_id: 77 }.into()),
        (ApiKey::AddRaftVoter, AddRaftVoterRequest { voter_id: 77, ..Default::default() }.into()),
        (ApiKey::RemoveRaftVoter, RemoveRaftVoterRequest { voter_id: 77, ..Default::default() }.into()),
        (
            ApiKey::QuorumMessages,
            QuorumMessagesRequest {
                cluster_id: "another".into(),
                from: 2,
                to: 1,
                messages: vec![QuorumMessage {
                    entries: vec![QuorumEntry { data: Bytes::from_static(b"x"), ..Default::default() }],
                    ..Default::default()
                }],
                ..Default::default()
            }
            .into(),
        ),
        (
            ApiKey::RegisterBroker,
            RegisterBrokerRequest { broker_id: 2, cluster_id: "another".into(), ..Default::default() }.into(),
        ),
        (
            ApiKey::BrokerHeartbeat,
            BrokerHeartbeatRequest { broker_id: 1, broker_epoch: FAR_EPOCH, ..Default::default() }.into(),
        ),
        (
            ApiKey::AlterPartition,
            AlterPartitionRequest {
                broker_id: 1,
                broker_epoch: FAR_EPOCH,
                topics: vec![AlteredTopic {
                    partitions: vec![AlteredPartition {
                        isr: vec![BrokerState { broker_id: 1, broker_epoch: FAR_EPOCH }],
                        ..Default::default()
                    }],
                    ..Default::default()
                }],
            }
            .into(),
        ),
        (
            ApiKey::Forward,
            ForwardRequest {
                frame: Bytes::from_static(&[0, 19, 0, 7, 0, 0, 0, 7, 0xff, 0xff, 0, 1, 0]),
                client_host: "::1".into(),
                ..Default::default()
            }
            .into(),
        ),
        (
            ApiKey::AllocateProducerIds,
            AllocateProducerIdsRequest { broker_id: 1, broker_epoch: FAR_EPOCH }.into(),
        ),
        (
            ApiKey::AcknowledgeFlushed,
            AcknowledgeFlushedRequest {
                broker_id: 2,
                topics: vec![FlushedTopic {
                    partitions: vec![FlushedPartition::default()],
                    ..Default::default()
                }],
                wake: true,
                ..Default::default()
            }
            .into(),
        ),
        (
            ApiKey::AddPartitionsToTxn,
            AddPartitionsToTxnRequest {
                transactions: vec![AddPartitionsToTxnTransaction {
                    transactional_id: "tx".into(),
                    producer_id: 5,
                    topics: vec![TxnTopic { name: "t".into(), partitions: vec![0, 1] }],
                    ..Default::default()
                }],
                v3_and_below_transactional_id: "tx".into(),
                v3_and_below_topics: vec![TxnTopic { name: "t".into(), partitions: vec![0] }],
                ..Default::default()
            }
            .into(),
        ),
        (
            ApiKey::AddOffsetsToTxn,
            AddOffsetsToTxnRequest {
                transactional_id: "tx".into(),
                group_id: "g".into(),
                ..Default::default()
            }
            .into(),
        ),
        (
            ApiKey::EndTxn,
            EndTxnRequest { transactional_id: "tx".into(), producer_id: 5, ..Default::default() }.into(),
        ),
        (
            ApiKey::ShareGroupHeartbeat,
            ShareGroupHeartbeatRequest {
                group_id: "sg".into(),
                member_id: "m".into(),
                subscribed_topic_names: Some(vec!["t".into()]),
                ..Default::default()
            }
            .into(),
        ),
        (
            ApiKey::ShareGroupDescribe,
            ShareGroupDescribeRequest { group_ids: vec!["sg".into()], include_authorized_operations: true }
                .into(),
        ),
        (
            ApiKey::ShareFetch,
            ShareFetchRequest {
                group_id: Some("sg".into()),
                member_id: Some("m".into()),
                max_bytes: 1024,
                max_records: 10,
                batch_size: 10,
                topics: vec![ShareFetchTopic {
                    topic_id: Uuid([1; 16]),
                    partitions: vec![ShareFetchPartition {
                        partition_index: 0,
                        acknowledgement_batches: vec![FetchedBatch {
                            first_offset: 0,
                            last_offset: 1,
                            acknowledge_types: vec![1, 2],
                        }],
                    }],
                }],
                ..Default::default()
            }
            .into(),
        ),
        (
            ApiKey::ShareAcknowledge,
            ShareAcknowledgeRequest {
                group_id: Some("sg".into()),
                member_id: Some("m".into()),
                share_session_epoch: 1,
                topics: vec![AcknowledgeTopic {
                    topic_id: Uuid([1; 16]),
                    partitions: vec![AcknowledgePartition {
                        partition_index: 0,
                        acknowledgement_batches: vec![AcknowledgementBatch {
                            first_offset: 0,
                            last_offset: 1,
                            acknowledge_types: vec![1],
                        }],
                    }],
                }],
                ..Default::default()
            }
            .into(),
        ),
        (
            ApiKey::InitializeShareGroupState,
            InitializeShareGroupStateRequest {
                group_id: "sg".into(),
                topics: vec![InitializeStateData {
                    topic_id: Uuid([1; 16]),
                    partitions: vec![InitializedPartition { partition: 0, state_epoch: 0, start_offset: 3 }],
                }],
            }
            .into(),
        ),
        (
            ApiKey::ReadShareGroupState,
            ReadShareGroupStateRequest {
                group_id: "sg".into(),
                topics: vec![ReadStateData {
                    topic_id: Uuid([1; 16]),
                    partitions: vec![ReadPartition { partition: 0, leader_epoch: 0 }],
                }],
            }
            .into(),
        ),
        (
            ApiKey::WriteShareGroupState,
            WriteShareGroupStateRequest {
                group_id: "sg".into(),
                topics: vec![WriteStateData {
                    topic_id: Uuid([1; 16]),
                    partitions: vec![WrittenPartition {
                        state_batches: vec![StateBatch {
                            first_offset: 0,
                            last_offset: 1,
                            delivery_state: 2,
                            delivery_count: 1,
                        }],
                        ..Default::default()
                    }],
                }],
            }
            .into(),
        ),
        (
            ApiKey::DeleteShareGroupState,
            DeleteShareGroupStateRequest {
                group_id: "sg".into(),
                topics: vec![DeleteStateData {
                    topic_id: Uuid([1; 16]),
                    partitions: vec![DeletedPartition { partition: 0 }],
                }],
            }
            .into(),
        ),
        (
            ApiKey::ReadShareGroupStateSummary,
            ReadShareGroupStateSummaryRequest {
                group_id: "sg".into(),
                topics: vec![ReadStateSummaryData {
                    topic_id: Uuid([1; 16]),
                    partitions: vec![SummaryPartition { partition: 0, leader_epoch: -1 }],
                }],
            }
            .into(),
        ),
        (
            ApiKey::DescribeShareGroupOffsets,
            DescribeShareGroupOffsetsRequest {
                groups: vec![DescribeShareGroupOffsetsRequestGroup { group_id: "sg".into(), topics: None }],
            }
            .into(),
        ),
        (
            ApiKey::AlterShareGroupOffsets,
            AlterShareGroupOffsetsRequest {
                group_id: "sg".into(),
                topics: vec![AlterShareGroupOffsetsRequestTopic {
                    topic_name: "t".into(),
                    partitions: vec![AlterShareGroupOffsetsRequestPartition {
                        partition_index: 0,
                        start_offset: 1,
                    }],
                }],
            }
            .into(),
        ),
        (
            ApiKey::DeleteShareGroupOffsets,
            DeleteShareGroupOffsetsRequest {
                group_id: "sg".into(),
                topics: vec![DeleteShareGroupOffsetsRequestTopic { topic_name: "t".into() }],
            }
            .into(),
        ),
        (
            ApiKey::WriteTxnMarkers,
            WriteTxnMarkersRequest {
                markers: vec![WritableTxnMarker {
                    producer_id: FAR_EPOCH,
                    topics: vec![WritableTxnMarkerTopic { name: "t".into(), partition_indexes: vec![0] }],
                    ..Default::default()
                }],
            }
            .into(),
        ),
        (
            ApiKey::TxnOffsetCommit,
            TxnOffsetCommitRequest {
                transactional_id: "tx".into(),
                group_id: "g".into(),
                topics: vec![TxnOffsetCommitRequestTopic {
                    name: "t".into(),
                    partitions: vec![TxnOffsetCommitRequestPartition::default()],
                }],
                ..Default::default()
            }
            .into(),
        ),
        (
            ApiKey::DescribeTransactions,
            DescribeTransactionsRequest { transactional_ids: vec!["tx".into()] }.into(),
        ),
        (
            ApiKey::ListTransactions,
            ListTransactionsRequest {
                state_filters: vec!["Ongoing".into()],
                producer_id_filters: vec![5],
                transactional_id_pattern: Some("t.*".into()),
                ..Default::default()
            }
            .into(),
        ),
        // A name that is not allowed: nothing is made of it.
        (ApiKey::AutoCreateTopics, AutoCreateTopicsRequest { names: vec!["..".into()] }.into()),
    ]
}

/// An epoch that no broker is given.
const FAR_EPOCH: i64 = 0x4142_4344_4546_4748;

/// A batch whose records have to be decompressed to be looked at.
fn compressed_produce() -> ProduceRequest {
    let options = BatchOptions { compression: Compression::Gzip, ..Default::default() };
    let mut batch = BatchBuilder::new(options);
    batch.append(Millis(1_700_000_000_000), Some(b"key"), Some(&[7; 300]), &[]);
    let data = PartitionProduceData { index: 0, records: Some(batch.build()) };
    let topic = TopicProduceData { name: "t".into(), partition_data: vec![data], ..Default::default() };
    ProduceRequest { acks: -1, timeout_ms: 100, topic_data: vec![topic], ..Default::default() }
}

/// A frame with a few bytes changed. Its length field is right, except once in a while.
pub fn mutate(frame: &Bytes, rng: &mut Xorshift) -> Vec<u8> {
    let mut body = frame[4..].to_vec();
    for _ in 0..1 + rng.below(4) {
        let at = rng.below(body.len());
        match rng.below(5) {
            0 => body[at] ^= 1 << rng.below(8),
            1 => body[at] = [0x00, 0x7f, 0x80, 0xff][rng.below(4)],
            2 => body.truncate(at.max(1)),
            3 => {
                let end = (at + 1 + rng.below(16)).min(body.len());
                let again = body[at..end].to_vec();
                body.splice(at..at, again);
            }
            _ => {
                let end = (at + 4).min(body.len());
                let value = rng.next().to_be_bytes();
                let len = end - at;
                body[at..end].copy_from_slice(&value[..len]);
            }
        }
    }
    let claimed =
        if rng.below(50) == 0 { rng.next() as i32 } else { i32::try_from(body.len()).expect("short") };
    let mut mutated = claimed.to_be_bytes().to_vec();
    mutated.extend(body);
    mutated
}

/// Whether the broker answers a frame, or closes its connection, without waiting for anything else: more bytes, other
/// members of a group, records to read; or never, as `acks=0` asks.
pub fn is_answered_at_once(frame: &[u8]) -> bool {
    let (length, body) = frame.split_first_chunk::<4>().expect("a length");
    let claimed = i32::from_be_bytes(*length);
    if usize::try_from(claimed).is_ok_and(|claimed| claimed > body.len()) {
        return claimed > 100 * 1024 * 1024;
    }
    let mut decoder = Decoder::new(Bytes::copy_from_slice(&body[..usize::try_from(claimed).unwrap_or(0)]));
    let Ok(header) = RequestHeader::decode(&mut decoder) else { return true };
    let Some(api) = ApiKey::from_code(header.api_key) else { return true };
    match Request::decode(api, header.api_version, decoder.rest()) {
        Ok(Request::Produce(produce)) => produce.acks != 0,
        Ok(Request::Fetch(fetch)) => fetch.max_wait_ms <= 0,
        Ok(Request::JoinGroup(_) | Request::SyncGroup(_)) => false,
        Ok(_) | Err(_) => true,
    }
}

/// Bytes of memory that this process holds.
pub fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux tells it");
    let kib: usize = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
    kib * 1024
}

fn consumer_heartbeat() -> ConsumerGroupHeartbeatRequest {
    ConsumerGroupHeartbeatRequest {
        group_id: "k".into(),
        member_id: "m".into(),
        rebalance_timeout_ms: 1_000,
        subscribed_topic_names: Some(vec!["t".into()]),
        subscribed_topic_regex: Some("t.*".into()),
        server_assignor: Some("range".into()),
        topic_partitions: Some(Vec::new()),
        ..Default::default()
    }
}
