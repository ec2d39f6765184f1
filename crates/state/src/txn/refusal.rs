//! Why a request about a transaction is refused, and which Kafka error says so.

use wire::ErrorCode;

/// A refused request: the transaction is as it was, unless it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Without a transactional id there is no transaction.
    #[error("the transactional id is empty")]
    NoTransactionalId,
    /// The producer wants more time than anybody gets.
    #[error("transaction.timeout.ms must lie between 1 and the broker's transaction.max.timeout.ms, {max}")]
    InvalidTimeout {
        /// `transaction.max.timeout.ms`
        max: i32,
    },
    /// Not a refusal to the client: the shell has to bring a producer id that nobody has.
    #[error("a new producer id is needed")]
    NeedsProducerId,
    /// The transactional id does not exist, or belongs to another producer.
    #[error("the producer id is not that of the transactional id")]
    InvalidProducerIdMapping,
    /// A newer producer has the transactional id.
    #[error("a newer producer has the transactional id")]
    ProducerFenced,
    /// The last transaction is still being ended: ask again.
    #[error("the last transaction of the transactional id is still being ended")]
    ConcurrentTransactions,
    /// The transaction cannot end so where it stands.
    #[error("the transaction is not in a state in which it can end so")]
    InvalidTxnState,
    /// Nothing is known of the transactional id.
    #[error("the transactional id does not exist")]
    NotFound,
}

impl From<Refusal> for ErrorCode {
    fn from(refusal: Refusal) -> ErrorCode {
        match refusal {
            Refusal::NoTransactionalId => ErrorCode::INVALID_REQUEST,
            Refusal::InvalidTimeout { .. } => ErrorCode::INVALID_TRANSACTION_TIMEOUT,
            Refusal::NeedsProducerId => ErrorCode::COORDINATOR_NOT_AVAILABLE,
            Refusal::InvalidProducerIdMapping => ErrorCode::INVALID_PRODUCER_ID_MAPPING,
            Refusal::ProducerFenced => ErrorCode::PRODUCER_FENCED,
            Refusal::ConcurrentTransactions => ErrorCode::CONCURRENT_TRANSACTIONS,
            Refusal::InvalidTxnState => ErrorCode::INVALID_TXN_STATE,
            Refusal::NotFound => ErrorCode::TRANSACTIONAL_ID_NOT_FOUND,
        }
    }
}
