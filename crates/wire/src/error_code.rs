//! Kafka's error codes, all of 4.3, as one table.
//!
//! Invariant: codes, names and retriability are Kafka's; an unknown code from a newer peer is kept as the
//! number it is. It never decides what to do about an error.

use std::fmt;

/// An error code of the protocol.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ErrorCode(pub i16);

/// Whether the same request may succeed later.
#[derive(PartialEq)]
enum Outlook {
    Retriable,
    Final,
}

macro_rules! error_codes {
    ($($code:literal, $name:ident, $outlook:ident, $message:literal;)*) => {
        impl ErrorCode {
            $(
                #[doc = concat!($message, ".")]
                pub const $name: ErrorCode = ErrorCode($code);
            )*

            /// Every code of the table.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$name),*];

            fn row(self) -> Option<(&'static str, Outlook, &'static str)> {
                match self.0 {
                    $($code => Some((stringify!($name), Outlook::$outlook, $message)),)*
                    _ => None,
                }
            }
        }
    };
}

error_codes! {
    -1, UNKNOWN_SERVER_ERROR, Final, "the server met an error it did not expect";
    0, NONE, Final, "no error";
    1, OFFSET_OUT_OF_RANGE, Final, "the offset is outside of what the log holds";
    2, CORRUPT_MESSAGE, Retriable, "the records are corrupt: checksum, size or structure is wrong";
    3, UNKNOWN_TOPIC_OR_PARTITION, Retriable, "this server does not host the topic or partition";
    4, INVALID_FETCH_SIZE, Final, "the fetch size is not valid";
    5, LEADER_NOT_AVAILABLE, Retriable, "the partition has no leader at the moment";
    6, NOT_LEADER_OR_FOLLOWER, Retriable, "this broker is not the partition's leader, or not one of its replicas";
    7, REQUEST_TIMED_OUT, Retriable, "the request timed out";
    8, BROKER_NOT_AVAILABLE, Final, "the broker is not available";
    9, REPLICA_NOT_AVAILABLE, Retriable, "the replica is not available";
    10, MESSAGE_TOO_LARGE, Final, "a record batch is larger than the server accepts";
    11, STALE_CONTROLLER_EPOCH, Final, "the controller has moved";
    12, OFFSET_METADATA_TOO_LARGE, Final, "the metadata of the offset is too large";
    13, NETWORK_EXCEPTION, Retriable, "the connection closed before the response came";
    14, COORDINATOR_LOAD_IN_PROGRESS, Retriable, "the coordinator is loading its state";
    15, COORDINATOR_NOT_AVAILABLE, Retriable, "the coordinator is not available";
    16, NOT_COORDINATOR, Retriable, "this broker is not the coordinator";
    17, INVALID_TOPIC_EXCEPTION, Final, "the topic name is not valid";
    18, RECORD_LIST_TOO_LARGE, Final, "the batch is larger than a log segment may be";
    19, NOT_ENOUGH_REPLICAS, Retriable, "there are fewer in-sync replicas than required";
    20, NOT_ENOUGH_REPLICAS_AFTER_APPEND, Retriable, "the records were appended, but by fewer in-sync replicas than required";
    21, INVALID_REQUIRED_ACKS, Final, "acks must be -1, 0 or 1";
    22, ILLEGAL_GENERATION, Final, "the group has another generation";
    23, INCONSISTENT_GROUP_PROTOCOL, Final, "the member's protocols do not fit the group's";
    24, INVALID_GROUP_ID, Final, "the group id is not valid";
    25, UNKNOWN_MEMBER_ID, Final, "the coordinator does not know this member";
    26, INVALID_SESSION_TIMEOUT, Final, "the session timeout is outside of the broker's bounds";
    27, REBALANCE_IN_PROGRESS, Final, "the group is rebalancing: join again";
    28, INVALID_COMMIT_OFFSET_SIZE, Final, "the size of the committed offset data is not valid";
    29, TOPIC_AUTHORIZATION_FAILED, Final, "not authorized to access the topic";
    30, GROUP_AUTHORIZATION_FAILED, Final, "not authorized to access the group";
    31, CLUSTER_AUTHORIZATION_FAILED, Final, "not authorized on the cluster";
    32, INVALID_TIMESTAMP, Final, "the timestamp is outside of the accepted range";
    33, UNSUPPORTED_SASL_MECHANISM, Final, "the SASL mechanism is not supported";
    34, ILLEGAL_SASL_STATE, Final, "the request is not valid in this state of authentication";
    35, UNSUPPORTED_VERSION, Final, "the version of the api is not supported";
    36, TOPIC_ALREADY_EXISTS, Final, "a topic of this name exists";
    37, INVALID_PARTITIONS, Final, "the number of partitions is not valid";
    38, INVALID_REPLICATION_FACTOR, Final, "the replication factor is not valid";
    39, INVALID_REPLICA_ASSIGNMENT, Final, "the replica assignment is not valid";
    40, INVALID_CONFIG, Final, "the configuration is not valid";
    41, NOT_CONTROLLER, Retriable, "this is not the controller";
    42, INVALID_REQUEST, Final, "the request is malformed, or nothing this broker can act on";
    43, UNSUPPORTED_FOR_MESSAGE_FORMAT, Final, "the message format does not support the request";
    44, POLICY_VIOLATION, Final, "the request violates a policy";
    45, OUT_OF_ORDER_SEQUENCE_NUMBER, Final, "the sequence number is out of order";
    46, DUPLICATE_SEQUENCE_NUMBER, Final, "the sequence number was seen before";
    47, INVALID_PRODUCER_EPOCH, Final, "the producer's epoch is not the current one";
    48, INVALID_TXN_STATE, Final, "the transaction is not in a state for this operation";
    49, INVALID_PRODUCER_ID_MAPPING, Final, "the producer id does not belong to the transactional id";
    50, INVALID_TRANSACTION_TIMEOUT, Final, "the transaction timeout is above the broker's maximum";
    51, CONCURRENT_TRANSACTIONS, Retriable, "another operation on this transaction is in progress";
    52, TRANSACTION_COORDINATOR_FENCED, Final, "the transaction coordinator was fenced";
    53, TRANSACTIONAL_ID_AUTHORIZATION_FAILED, Final, "not authorized to use the transactional id";
    54, SECURITY_DISABLED, Final, "security features are disabled";
    55, OPERATION_NOT_ATTEMPTED, Final, "the operation was not attempted, because another of the request failed";
    56, KAFKA_STORAGE_ERROR, Retriable, "the log's disk failed";
    57, LOG_DIR_NOT_FOUND, Final, "the broker has no such log directory";
    58, SASL_AUTHENTICATION_FAILED, Final, "authentication failed";
    59, UNKNOWN_PRODUCER_ID, Final, "the broker has no state for this producer id";
    60, REASSIGNMENT_IN_PROGRESS, Final, "a partition reassignment is in progress";
    61, DELEGATION_TOKEN_AUTH_DISABLED, Final, "delegation tokens are disabled";
    62, DELEGATION_TOKEN_NOT_FOUND, Final, "the delegation token does not exist";
    63, DELEGATION_TOKEN_OWNER_MISMATCH, Final, "the principal is neither owner nor renewer of the token";
    64, DELEGATION_TOKEN_REQUEST_NOT_ALLOWED, Final, "delegation tokens cannot be requested over this connection";
    65, DELEGATION_TOKEN_AUTHORIZATION_FAILED, Final, "not authorized to use the delegation token";
    66, DELEGATION_TOKEN_EXPIRED, Final, "the delegation token has expired";
    67, INVALID_PRINCIPAL_TYPE, Final, "the principal type is not supported";
    68, NON_EMPTY_GROUP, Final, "the group has members";
    69, GROUP_ID_NOT_FOUND, Final, "the group does not exist";
    70, FETCH_SESSION_ID_NOT_FOUND, Retriable, "the fetch session does not exist";
    71, INVALID_FETCH_SESSION_EPOCH, Retriable, "the fetch session has another epoch";
    72, LISTENER_NOT_FOUND, Retriable, "the leader has no listener of this name";
    73, TOPIC_DELETION_DISABLED, Final, "deleting topics is disabled";
    74, FENCED_LEADER_EPOCH, Retriable, "the leader epoch of the request is older than the broker's";
    75, UNKNOWN_LEADER_EPOCH, Retriable, "the leader epoch of the request is newer than the broker's";
    76, UNSUPPORTED_COMPRESSION_TYPE, Final, "the client does not support the partition's compression type";
    77, STALE_BROKER_EPOCH, Final, "the broker has another epoch by now";
    78, OFFSET_NOT_AVAILABLE, Retriable, "the new leader's high watermark is not known yet";
    79, MEMBER_ID_REQUIRED, Final, "the member needs a member id before it joins";
    80, PREFERRED_LEADER_NOT_AVAILABLE, Retriable, "the preferred leader is not available";
    81, GROUP_MAX_SIZE_REACHED, Final, "the group is full";
    82, FENCED_INSTANCE_ID, Final, "another consumer has registered with this group.instance.id";
    83, ELIGIBLE_LEADERS_NOT_AVAILABLE, Retriable, "no eligible leader is available";
    84, ELECTION_NOT_NEEDED, Retriable, "no election is needed";
    85, NO_REASSIGNMENT_IN_PROGRESS, Final, "no reassignment is in progress";
    86, GROUP_SUBSCRIBED_TO_TOPIC, Final, "the group is subscribed to the topic";
    87, INVALID_RECORD, Final, "the record was refused by the broker";
    88, UNSTABLE_OFFSET_COMMIT, Retriable, "there are offsets of open transactions";
    89, THROTTLING_QUOTA_EXCEEDED, Retriable, "a throttling quota is exceeded";
    90, PRODUCER_FENCED, Final, "a newer producer with this transactional id has taken over";
    91, RESOURCE_NOT_FOUND, Final, "the resource does not exist";
    92, DUPLICATE_RESOURCE, Final, "the request names a resource twice";
    93, UNACCEPTABLE_CREDENTIAL, Final, "the credential is not acceptable";
    94, INCONSISTENT_VOTER_SET, Final, "sender or recipient is not one of the voters";
    95, INVALID_UPDATE_VERSION, Final, "the update version is not valid";
    96, FEATURE_UPDATE_FAILED, Final, "the features could not be updated";
    97, PRINCIPAL_DESERIALIZATION_FAILURE, Final, "the forwarded principal cannot be read";
    98, SNAPSHOT_NOT_FOUND, Final, "the snapshot does not exist";
    99, POSITION_OUT_OF_RANGE, Final, "the position is outside of the snapshot";
    100, UNKNOWN_TOPIC_ID, Retriable, "this server does not host the topic id";
    101, DUPLICATE_BROKER_REGISTRATION, Final, "the broker id is in use";
    102, BROKER_ID_NOT_REGISTERED, Final, "the broker id is not registered";
    103, INCONSISTENT_TOPIC_ID, Retriable, "the log has another topic id";
    104, INCONSISTENT_CLUSTER_ID, Final, "the cluster has another id";
    105, TRANSACTIONAL_ID_NOT_FOUND, Final, "the transactional id does not exist";
    106, FETCH_SESSION_TOPIC_ID_ERROR, Retriable, "the fetch session mixes topic ids";
    107, INELIGIBLE_REPLICA, Final, "a replica is not eligible for the in-sync set";
    108, NEW_LEADER_ELECTED, Final, "a new leader was elected";
    109, OFFSET_MOVED_TO_TIERED_STORAGE, Final, "the offset has moved to tiered storage";
    110, FENCED_MEMBER_EPOCH, Final, "the member's epoch is fenced: give up all partitions and join again";
    111, UNRELEASED_INSTANCE_ID, Final, "the instance id is still in use";
    112, UNSUPPORTED_ASSIGNOR, Final, "the group does not support the assignor";
    113, STALE_MEMBER_EPOCH, Final, "the member's epoch is stale";
    114, MISMATCHED_ENDPOINT_TYPE, Final, "the endpoint is of the wrong type";
    115, UNSUPPORTED_ENDPOINT_TYPE, Final, "the endpoint type is not supported";
    116, UNKNOWN_CONTROLLER_ID, Final, "the controller id is not known";
    117, UNKNOWN_SUBSCRIPTION_ID, Final, "the telemetry subscription is not known";
    118, TELEMETRY_TOO_LARGE, Final, "the telemetry is too large";
    119, INVALID_REGISTRATION, Final, "the broker registration is not valid";
    120, TRANSACTION_ABORTABLE, Final, "the transaction failed and can be aborted";
    121, INVALID_RECORD_STATE, Final, "the record's state does not allow the acknowledgement";
    122, SHARE_SESSION_NOT_FOUND, Retriable, "the share session does not exist";
    123, INVALID_SHARE_SESSION_EPOCH, Retriable, "the share session has another epoch";
    124, FENCED_STATE_EPOCH, Final, "the share group's state epoch does not match";
    125, INVALID_VOTER_KEY, Final, "the voter's key does not match";
    126, DUPLICATE_VOTER, Final, "the voter is already one";
    127, VOTER_NOT_FOUND, Final, "the voter is not one";
    128, INVALID_REGULAR_EXPRESSION, Final, "the regular expression is not valid";
    129, REBOOTSTRAP_REQUIRED, Final, "the client's metadata is stale: bootstrap again";
    130, STREAMS_INVALID_TOPOLOGY, Final, "the topology is not valid";
    131, STREAMS_INVALID_TOPOLOGY_EPOCH, Final, "the topology epoch is not valid";
    132, STREAMS_TOPOLOGY_FENCED, Final, "the topology epoch is outdated";
    133, SHARE_SESSION_LIMIT_REACHED, Retriable, "there are too many share sessions";
}

impl ErrorCode {
    /// Kafka's name, or `UNKNOWN_ERROR_CODE` for a number that is not in the table.
    pub fn name(self) -> &'static str {
        self.row().map_or("UNKNOWN_ERROR_CODE", |(name, ..)| name)
    }

    /// One sentence for people.
    pub fn message(self) -> &'static str {
        self.row().map_or("an error code this version does not know", |(.., message)| message)
    }

    /// Whether a client that meets it does well to try again.
    pub fn is_retriable(self) -> bool {
        self.row().is_some_and(|(_, outlook, _)| outlook == Outlook::Retriable)
    }

    /// Whether this is [`ErrorCode::NONE`].
    pub const fn is_ok(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.row() {
            Some((name, ..)) => f.pad(name),
            None => write!(f, "error code {}", self.0),
        }
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}({})", self.0)
    }
}
