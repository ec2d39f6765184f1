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
    /// What the request says cannot be.
    #[error("{0}")]
    InvalidRequest(&'static str),
    /// There is no such assignor.
    #[error("there is no such assignor: uniform and range are here")]
    UnsupportedAssignor,
    /// The expression does not compile, or takes too much memory when it does.
    #[error("the expression is not valid in RE2's syntax, or too large")]
    InvalidRegex,
    /// The member is in another epoch: it has to give up its partitions and join again (KIP-848).
    #[error("the member is not in this epoch: it has to give up its partitions and join again")]
    FencedMemberEpoch,
    /// A commit or a question of a member comes from another epoch than the one it is in.
    #[error("the member is in another epoch")]
    StaleMemberEpoch,
    /// Another member has the instance id, and did not leave.
    #[error("the instance id belongs to a member that has not left")]
    UnreleasedInstance,
    /// Members of the consumer protocol commit in newer versions.
    #[error("a member of the consumer protocol commits with version 9 or newer")]
    UnsupportedVersion,
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
            Refusal::InvalidRequest(_) => ErrorCode::INVALID_REQUEST,
            Refusal::UnsupportedAssignor => ErrorCode::UNSUPPORTED_ASSIGNOR,
            Refusal::InvalidRegex => ErrorCode::INVALID_REGULAR_EXPRESSION,
            Refusal::FencedMemberEpoch => ErrorCode::FENCED_MEMBER_EPOCH,
            Refusal::StaleMemberEpoch => ErrorCode::STALE_MEMBER_EPOCH,
            Refusal::UnreleasedInstance => ErrorCode::UNRELEASED_INSTANCE_ID,
            Refusal::UnsupportedVersion => ErrorCode::UNSUPPORTED_VERSION,
            Refusal::NotCoordinator => ErrorCode::NOT_COORDINATOR,
        }
    }
}
