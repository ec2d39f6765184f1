//! One file an API: from its typed request to its typed response.
//! A handler decides nothing that a pure state machine could decide; it looks things up, steps the machine, and
//! words the answer.

pub(crate) mod api_versions;
pub(crate) mod metadata;
pub(crate) mod produce;
pub(crate) mod verification;
pub(crate) mod fetch;
pub(crate) mod list_offsets;
pub(crate) mod offset_for_leader_epoch;
pub(crate) mod init_producer_id;
pub(crate) mod transactions;
pub(crate) mod write_txn_markers;
pub(crate) mod create_topics;
pub(crate) mod delete_topics;
pub(crate) mod consumer_group;
pub(crate) mod create_partitions;
pub(crate) mod delete_records;
pub(crate) mod describe_configs;
pub(crate) mod alter_configs;
pub(crate) mod incremental_alter_configs;
pub(crate) mod list_config_resources;
pub(crate) mod telemetry;
pub(crate) mod describe_client_quotas;
pub(crate) mod alter_client_quotas;
pub(crate) mod describe_log_dirs;
pub(crate) mod alter_replica_log_dirs;
pub(crate) mod describe_cluster;
pub(crate) mod describe_topic_partitions;
pub(crate) mod describe_producers;
pub(crate) mod find_coordinator;
pub(crate) mod group;
pub(crate) mod group_offsets;
pub(crate) mod share_group;
pub(crate) mod share_group_offsets;
pub(crate) mod share_state;
pub(crate) mod share_fetch;
pub(crate) mod share_acknowledge;
pub(crate) mod elect_leaders;
pub(crate) mod alter_partition_reassignments;
pub(crate) mod list_partition_reassignments;
pub(crate) mod describe_quorum;
pub(crate) mod quorum_members;
pub(crate) mod unregister_broker;
pub(crate) mod update_features;
pub(crate) mod acknowledge_flushed;
