//! What can go wrong, sorted by what the caller can do about it.
//!
//! Every error says what was being done and to whom, knows whether trying again can help ([`Error::kind`]) and,
//! where there is one, which next step helps ([`Error::advice`]). A Kafka error keeps its code and name.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use wire::{DecodeError, ErrorCode, TopicPartition};

use crate::environment::Address;

/// An error of the client.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum Error {
    /// No socket to the broker could be opened.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// The broker.
        address: Address,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// The connection broke; whether requests under way were carried out is unknown.
    #[error("the connection to {address} was lost: {reason}")]
    Disconnected {
        /// The broker.
        address: Address,
        /// Why, as far as this side knows.
        reason: String,
    },
    /// The deadline passed.
    #[error("timed out after {} ms while {doing}{}", .after.as_millis(), because(.last))]
    Timeout {
        /// What was being done.
        doing: String,
        /// How long it was tried.
        after: Duration,
        /// The error that the last try ended with.
        last: Option<Box<Error>>,
    },
    /// The broker refused.
    #[error("{doing}: {} ({})", .message.as_deref().unwrap_or(.code.message()), .code.name())]
    Kafka {
        /// Kafka's error code.
        code: ErrorCode,
        /// What was being done, with the topic, partition or group it was done to.
        doing: String,
        /// The broker's own words, when it sent any.
        message: Option<String>,
    },
    /// The broker does not know a version of this API that the client can use.
    #[error("the broker at {address} does not offer {api} in a version that this client speaks")]
    Unsupported {
        /// The broker.
        address: Address,
        /// The API's name.
        api: &'static str,
    },
    /// The broker's answer cannot be read.
    #[error("the answer of {address} to {api} cannot be read: {source}")]
    Malformed {
        /// The broker.
        address: Address,
        /// The API's name.
        api: &'static str,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// The broker's answer can be read but makes no sense.
    #[error("{doing}: the broker's answer makes no sense: {problem}")]
    Protocol {
        /// What was being done.
        doing: String,
        /// What is wrong.
        problem: String,
    },
    /// A record batch is damaged.
    #[error("the records of {partition} at offset {offset} are damaged: {problem}")]
    CorruptRecords {
        /// Topic and partition.
        partition: String,
        /// The offset that was asked for.
        offset: i64,
        /// What is wrong with the batch.
        problem: String,
    },
    /// An option has a value that cannot be used.
    #[error("{key}={value} cannot be used: {allowed}")]
    Option {
        /// The option's Kafka name.
        key: String,
        /// The value given.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// The record does not fit into one request.
    #[error("a record of {bytes} bytes is larger than max.request.size, {bytes_max}")]
    RecordTooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The topic does not exist, and asking for it does not create it.
    #[error("topic {0} does not exist ({name})", name = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.name())]
    UnknownTopic(String),
    /// The topic has no such partition.
    #[error("{partition} does not exist: the topic's partitions are 0 to {last}", last = partitions.saturating_sub(1))]
    UnknownPartition {
        /// The partition that was named.
        partition: TopicPartition,
        /// How many there are.
        partitions: usize,
    },
    /// The group has committed nothing for the partition, and there is no other place to start at.
    #[error("{partition} has no committed offset and auto.offset.reset is none")]
    NoPosition {
        /// The partition.
        partition: TopicPartition,
    },
    /// The partition is not read on until the application seeks in it; the others go on.
    #[error("{partition} is not read on: {reason}")]
    Stopped {
        /// The partition.
        partition: TopicPartition,
        /// What is in the way.
        reason: Box<Error>,
    },
    /// Records waited for the application, or were in its hands, for longer than its group allows.
    #[error(
        "left the group: nothing was asked for or acknowledged for {} ms, more than max.poll.interval.ms={}",
        .idle.as_millis(),
        .interval.as_millis()
    )]
    PollInterval {
        /// How long.
        idle: Duration,
        /// How long is allowed.
        interval: Duration,
    },
    /// The partition is not among those that are read.
    #[error("{partition} is not assigned to this consumer")]
    NotAssigned {
        /// The partition.
        partition: TopicPartition,
    },
    /// A store of offsets failed, in words of its own.
    #[error("{0}")]
    Store(Arc<dyn std::error::Error + Send + Sync>),
    /// What was called does not fit what was called before.
    #[error("{0}")]
    Usage(String),
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
    /// None of the addresses that were tried answers.
    #[error("no broker can be reached: {}", listed(.tried))]
    Unreachable {
        /// Each address and why it failed.
        tried: Vec<Error>,
    },
    /// The record or its transaction did not come about, because the transaction was aborted.
    #[error("the transaction was aborted{}", because(.cause))]
    Aborted {
        /// What made it impossible, unless its owner wanted it aborted.
        cause: Option<Box<Error>>,
    },
    /// The client is not in a state for what was asked of it.
    #[error("{doing}: {problem}")]
    State {
        /// What was asked.
        doing: &'static str,
        /// Why that cannot be.
        problem: &'static str,
    },
}

fn listed(tried: &[Error]) -> String {
    tried.iter().map(Error::to_string).collect::<Vec<_>>().join("; ")
}

fn because(last: &Option<Box<Error>>) -> String {
    last.as_ref().map(|last| format!(": {last}")).unwrap_or_default()
}

/// What the caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Trying again can help.
    Retriable,
    /// The transaction failed: after it is aborted the work may be tried again.
    Abortable,
    /// Another instance took this one's place: stop.
    Fenced,
    /// Trying the same again cannot help.
    Fatal,
}

impl Error {
    /// What a store of offsets came up against, in its own words. Never tried again.
    pub fn store(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Store(error.into().into())
    }

    pub(crate) fn kafka(code: ErrorCode, doing: impl Into<String>, message: Option<&str>) -> Self {
        let message = message.filter(|message| !message.is_empty()).map(str::to_owned);
        Self::Kafka { code, doing: doing.into(), message }
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Connect { .. }
            | Self::Disconnected { .. }
            | Self::Timeout { .. }
            | Self::Unreachable { .. } => ErrorKind::Retriable,
            Self::Aborted { .. } => ErrorKind::Abortable,
            Self::Kafka { code, .. } => match *code {
                ErrorCode::PRODUCER_FENCED
                | ErrorCode::FENCED_INSTANCE_ID
                | ErrorCode::UNRELEASED_INSTANCE_ID
                | ErrorCode::INVALID_PRODUCER_EPOCH => ErrorKind::Fenced,
                ErrorCode::TRANSACTION_ABORTABLE => ErrorKind::Abortable,
                code if code.is_retriable() => ErrorKind::Retriable,
                _ => ErrorKind::Fatal,
            },
            _ => ErrorKind::Fatal,
        }
    }

    /// Kafka's error code, when a broker gave one.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Kafka { code, .. } => Some(*code),
            Self::UnknownTopic(_) | Self::UnknownPartition { .. } => {
                Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
            }
            Self::Timeout { last, .. } => last.as_ref().and_then(|last| last.code()),
            Self::Stopped { reason, .. } => reason.code(),
            _ => None,
        }
    }

    /// The next step that helps, when there is one to name.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Connect { .. } | Self::Unreachable { .. } => {
                Some("is a broker running there? `ottla dev` starts one")
            }
            Self::Timeout { last: Some(last), .. } => last.advice(),
            Self::PollInterval { .. } => Some(
                "acknowledge records sooner, ask for fewer with max.poll.records, or raise max.poll.interval.ms",
            ),
            Self::Unsupported { .. } => Some("the broker is older than Kafka 2.1 or does not serve this"),
            _ => match self.code()? {
                ErrorCode::UNKNOWN_TOPIC_OR_PARTITION => {
                    Some("see `ottla topic list`; `ottla topic create TOPIC` creates one")
                }
                ErrorCode::TOPIC_ALREADY_EXISTS => Some("`ottla topic describe TOPIC` shows it"),
                ErrorCode::INVALID_REPLICATION_FACTOR => {
                    Some("there are fewer brokers than replicas; see `ottla cluster info`")
                }
                ErrorCode::NON_EMPTY_GROUP => Some("stop the group's members first"),
                ErrorCode::MESSAGE_TOO_LARGE => {
                    Some("raise the topic's max.message.bytes or send smaller records")
                }
                ErrorCode::NOT_ENOUGH_REPLICAS | ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND => Some(
                    "fewer replicas are in sync than min.insync.replicas asks for; see `ottla topic describe -p`",
                ),
                ErrorCode::OFFSET_OUT_OF_RANGE => {
                    Some("`ottla topic describe -p` shows the offsets there are")
                }
                _ => None,
            },
        }
    }
}
