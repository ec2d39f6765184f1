//! Why a change of the metadata is refused, in Kafka's words, and which error code says so.
//!
//! A refusal leaves the image as it is. The texts reach users through their tools; the mapping to codes is this one match.

use wire::{BrokerId, ErrorCode, LeaderEpoch, PartitionId, Str};

/// A name that no topic may have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing at all.
    #[error("Topic name is invalid: the empty string is not allowed")]
    Empty,
    /// A directory that is always there.
    #[error("Topic name is invalid: '{0}' is not allowed")]
    Dots(String),
    /// Longer than a directory name may be.
    #[error("Topic name is invalid: its length of {length} is longer than the max allowed length {max}")]
    TooLong {
        /// Bytes of the name.
        length: usize,
        /// What is allowed.
        max: usize,
    },
    /// Something else than letters, digits and three marks.
    #[error(
        "Topic name is invalid: '{0}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
    )]
    Characters(String),
}

/// A refused change of the metadata.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The topic cannot have this name.
    #[error(transparent)]
    InvalidName(#[from] NameError),
    /// The name differs from a topic's in '.' and '_' alone.
    #[error("Topic '{name}' collides with existing topic: {existing}")]
    NameCollision {
        /// The name that was asked for.
        name: Str,
        /// The topic that is there.
        existing: Str,
    },
    /// A topic of that name is there.
    #[error("Topic '{0}' already exists.")]
    TopicExists(Str),
    /// No topic of that name.
    #[error("This server does not host this topic-partition.")]
    UnknownTopic,
    /// No topic of that id.
    #[error("This server does not host this topic ID.")]
    UnknownTopicId,
    /// The request contradicts itself.
    #[error("{0}")]
    InvalidRequest(String),
    /// More partitions than one request may make.
    #[error(
        "Unable to perform excessively large batch operation: {partitions} partitions, at most {max} are allowed."
    )]
    TooManyPartitions {
        /// What was asked for.
        partitions: usize,
        /// What is allowed.
        max: usize,
    },
    /// No topic can have this many partitions.
    #[error("{0}")]
    InvalidPartitions(String),
    /// Nobody can keep this many replicas.
    #[error("{0}")]
    InvalidReplicationFactor(String),
    /// Brokers that are not there, or more than once.
    #[error("{0}")]
    InvalidAssignment(String),
    /// None of the replicas may lead.
    #[error(
        "All brokers specified in the manual partition assignment for partition {0} are fenced or in controlled shutdown."
    )]
    NoLiveReplica(PartitionId),
    /// A key that does not exist, or a value that it does not take.
    #[error("{0}")]
    InvalidConfig(String),
    /// A config resource that is not there.
    #[error("The topic '{0}' does not exist.")]
    UnknownResource(Str),
    /// A broker that is not there.
    #[error("No broker with id {0} found.")]
    UnknownBroker(BrokerId),
    /// A broker with an older incarnation's epoch.
    #[error("Expected broker epoch {expected}, but got broker epoch {actual}")]
    StaleBrokerEpoch {
        /// The current epoch.
        expected: i64,
        /// What came.
        actual: i64,
    },
    /// Two processes with one id.
    #[error(
        "Another broker is registered with that broker id: a process with node.id {0} is running. If it is this one's \
         predecessor, wait until its session ends; otherwise give one of the two another node.id."
    )]
    DuplicateBroker(BrokerId),
    /// The leader knows a newer state than this image: it has followed another controller.
    #[error(
        "This is not the correct controller for this cluster: {what} {actual} of the request is newer than {known}."
    )]
    NotController {
        /// Which epoch.
        what: &'static str,
        /// What is known here.
        known: i32,
        /// What came.
        actual: i32,
    },
    /// Somebody has led since.
    #[error("The leader epoch {actual} in the request is older than the epoch {current} of the partition.")]
    FencedLeaderEpoch {
        /// The partition's.
        current: LeaderEpoch,
        /// What came.
        actual: LeaderEpoch,
    },
    /// The partition changed since.
    #[error("The given update version was invalid: the partition epoch is {expected}, not {actual}.")]
    InvalidUpdateVersion {
        /// The partition's epoch.
        expected: i32,
        /// What came.
        actual: i32,
    },
    /// Brokers that must not be in sync; who and why (KIP-841, KIP-903).
    #[error("The new ISR contains at least one ineligible replica: {0}.")]
    IneligibleReplica(String),
    /// What was asked for is done, and with it the leader who asked no longer leads.
    #[error(
        "The AlterPartition request successfully updated the partition state but the leader has changed."
    )]
    NewLeaderElected,
    /// The first of the replicas is not in sync, or not there.
    #[error("The preferred leader was not available.")]
    PreferredLeaderNotAvailable,
    /// None of the replicas is there.
    #[error("Eligible topic partition leaders are not available.")]
    EligibleLeadersNotAvailable,
    /// The leader is already who it should be.
    #[error("Leader election not needed for topic partition.")]
    ElectionNotNeeded,
    /// There is nothing to cancel.
    #[error("No partition reassignment is in progress.")]
    NoReassignmentInProgress,
    /// Nobody has quotas who is called this.
    #[error("Unsupported entity type {0}")]
    UnsupportedEntityType(Str),
    /// There are no producer ids left.
    #[error("Exhausted all producerIds as the next block's end producerId has exceeded the int64 type limit")]
    ProducerIdsExhausted,
}

impl From<&Refusal> for ErrorCode {
    fn from(refusal: &Refusal) -> ErrorCode {
        match refusal {
            Refusal::InvalidName(_) | Refusal::NameCollision { .. } => ErrorCode::INVALID_TOPIC_EXCEPTION,
            Refusal::TopicExists(_) => ErrorCode::TOPIC_ALREADY_EXISTS,
            Refusal::UnknownTopic | Refusal::UnknownResource(_) => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
            Refusal::UnknownTopicId => ErrorCode::UNKNOWN_TOPIC_ID,
            Refusal::InvalidRequest(_) => ErrorCode::INVALID_REQUEST,
            Refusal::TooManyPartitions { .. } => ErrorCode::POLICY_VIOLATION,
            Refusal::InvalidPartitions(_) => ErrorCode::INVALID_PARTITIONS,
            Refusal::InvalidReplicationFactor(_) => ErrorCode::INVALID_REPLICATION_FACTOR,
            Refusal::InvalidAssignment(_) | Refusal::NoLiveReplica(_) => {
                ErrorCode::INVALID_REPLICA_ASSIGNMENT
            }
            Refusal::InvalidConfig(_) => ErrorCode::INVALID_CONFIG,
            Refusal::UnknownBroker(_) => ErrorCode::BROKER_ID_NOT_REGISTERED,
            Refusal::StaleBrokerEpoch { .. } => ErrorCode::STALE_BROKER_EPOCH,
            Refusal::DuplicateBroker(_) => ErrorCode::DUPLICATE_BROKER_REGISTRATION,
            Refusal::NotController { .. } => ErrorCode::NOT_CONTROLLER,
            Refusal::FencedLeaderEpoch { .. } => ErrorCode::FENCED_LEADER_EPOCH,
            Refusal::InvalidUpdateVersion { .. } => ErrorCode::INVALID_UPDATE_VERSION,
            Refusal::IneligibleReplica(_) => ErrorCode::INELIGIBLE_REPLICA,
            Refusal::NewLeaderElected => ErrorCode::NEW_LEADER_ELECTED,
            Refusal::PreferredLeaderNotAvailable => ErrorCode::PREFERRED_LEADER_NOT_AVAILABLE,
            Refusal::EligibleLeadersNotAvailable => ErrorCode::ELIGIBLE_LEADERS_NOT_AVAILABLE,
            Refusal::ElectionNotNeeded => ErrorCode::ELECTION_NOT_NEEDED,
            Refusal::NoReassignmentInProgress => ErrorCode::NO_REASSIGNMENT_IN_PROGRESS,
            Refusal::UnsupportedEntityType(_) => ErrorCode::UNSUPPORTED_VERSION,
            Refusal::ProducerIdsExhausted => ErrorCode::UNKNOWN_SERVER_ERROR,
        }
    }
}
