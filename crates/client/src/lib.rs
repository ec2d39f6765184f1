//! The other end of the protocol: connections, routing, administration, producing and consuming.
//!
//! The modules stand in the order in which a request leaves: what the outside world is ([`Environment`]), one
//! socket ([`Connection`]), the cluster's map and the way to the right broker ([`Cluster`]), and on top of them
//! [`Admin`], [`Producer`] and [`Consumer`]. Time, dice and sockets come in through the environment, so that a
//! simulator can drive everything here; options carry Kafka's names; whatever queues has a bound.

mod environment;
mod error;
mod options;
mod backoff;
mod api;
mod connection;
mod dial;
mod metadata;
mod cluster;
mod record;
mod admin;
mod partitioner;
mod producer;
mod consumer;

pub use admin::{
    Admin, AlterOperation, BrokerInfo, ClusterInfo, CommittedOffset, ConfigEntry, ConfigSource, CreatedTopic,
    Election, EntityQuotas, Execution, ExpiredOffset, GroupInfo, GroupListing, GroupMember, GroupOffsets,
    Lag, ListedOffset, NewTopic, OffsetSpec, OngoingReassignment, Outcomes, PartitionInfo, ProducerInfo,
    Progress, QuorumInfo, QuorumMember, QuotaEntity, QuotaMatch, Reassignment, ReplicationFactor,
    ResourceKind, SHARE, TopicInfo, TransactionFilter, TransactionInfo, TransactionListing, Unread, holding,
};
pub use cluster::Cluster;
pub use connection::{Connection, SOFTWARE_NAME};
pub use consumer::{
    Assigned, Begin, Committed, CommittedOffsets, Consumer, Offsets, Reached, Record, Records, SingleStream,
    Singles, Start, Watermarks,
};
pub use environment::{Address, BoxFuture, Environment, Socket, TokioEnvironment};
pub use error::{Error, ErrorKind};
pub use options::{
    Acks, AssignmentStrategy, GroupProtocol, Isolation, MetadataRecovery, OffsetReset, Options, Partitioner,
    SETTINGS, Setting,
};
pub use partitioner::{murmur2, partition_for_key};
pub use producer::{ConsumerGroupMetadata, Delivery, DeliveryHandle, Producer, Transaction};
pub use record::{ConsumedRecord, Header, ProducerRecord, TimestampType};

// The page for those who come from another client, whose code is compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/from-rdkafka.md")]
struct FromRdkafka;
