//! Why a group request is refused, and which Kafka error says so.
//!
//! A refusal is an answer, not a fault: the group is as it was. The mapping to error codes is this one match.

use wire::ErrorCode;

/// A refused group request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The group id is empty where members need one.
    #[error("the group id is not valid")]
    InvalidGroupId,
    /// The session timeout is outside `group.min.session.timeout.ms` and `group.max.session.timeout.ms`.
    #[error("the session timeout is out of bounds")]
    InvalidSessionTimeout,
    /// No protocol of the member is supported by all members, or the protocol type is another one.
    #[error("the protocols do not fit those of the group")]
    InconsistentProtocol,
    /// `group.max.size` members are there.
    #[error("the group is full")]
    GroupFull,
    /// The member must come back with the id that the answer carries (KIP-394).
    #[error("the member has to join again with its new id")]
    MemberIdRequired,
    /// No such member.
    #[error("the member is not known")]
    UnknownMember,
    /// Another process joined with this instance id since (KIP-345).
    #[error("the instance id belongs to a newer member")]
    FencedInstance,
    /// The member speaks of another generation.
    #[error("the generation is not the current one")]
    IllegalGeneration,
    /// The group is rebalancing: join again.
    #[error("the group is rebalancing")]
    RebalanceInProgress,
    /// No such group.
    #[error("the group does not exist")]
    GroupNotFound,
    /// The group has members.
    #[error("the group has members")]
    NonEmptyGroup,
    /// The commit's metadata exceeds `offset.metadata.max.bytes`.
    #[error("the metadata is too large")]
    OffsetMetadataTooLarge,
    /// The commit's records would exceed [`super::GroupConfig::record_bytes_max`].
    #[error("the commit is too large")]
    CommitTooLarge,
    /// So would the group's, with what its members and its leader say.
    #[error("the group's metadata is too large")]
    GroupTooLarge,
    /// Members of the group read the topic.
    #[error("the group is subscribed to the topic")]
    SubscribedToTopic,
    /// The shard moved away.
    #[error("the coordinator moved")]
    NotCoordinator,
}

impl From<Refusal> for ErrorCode {
    fn from(refusal: Refusal) -> ErrorCode {
        match refusal {
            Refusal::InvalidGroupId => ErrorCode::INVALID_GROUP_ID,
            Refusal::InvalidSessionTimeout => ErrorCode::INVALID_SESSION_TIMEOUT,
            Refusal::InconsistentProtocol => ErrorCode::INCONSISTENT_GROUP_PROTOCOL,
            Refusal::GroupFull => ErrorCode::GROUP_MAX_SIZE_REACHED,
            Refusal::MemberIdRequired => ErrorCode::MEMBER_ID_REQUIRED,
            Refusal::UnknownMember => ErrorCode::UNKNOWN_MEMBER_ID,
            Refusal::FencedInstance => ErrorCode::FENCED_INSTANCE_ID,
            Refusal::IllegalGeneration => ErrorCode::ILLEGAL_GENERATION,
            Refusal::RebalanceInProgress => ErrorCode::REBALANCE_IN_PROGRESS,
            Refusal::GroupNotFound => ErrorCode::GROUP_ID_NOT_FOUND,
            Refusal::NonEmptyGroup => ErrorCode::NON_EMPTY_GROUP,
            Refusal::OffsetMetadataTooLarge => ErrorCode::OFFSET_METADATA_TOO_LARGE,
            Refusal::CommitTooLarge => ErrorCode::INVALID_COMMIT_OFFSET_SIZE,
            // As Kafka answers when the group's record does not fit its topic: nothing that a client can mend.
            Refusal::GroupTooLarge => ErrorCode::UNKNOWN_SERVER_ERROR,
            Refusal::SubscribedToTopic => ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC,
            Refusal::NotCoordinator => ErrorCode::NOT_COORDINATOR,
        }
    }
}
