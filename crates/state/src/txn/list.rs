//! What operators are told of transactions (KIP-664).

use wire::{Millis, Str, TopicPartition};

use super::{Decision, Heard, Producer, Refusal, State, Transactions, Txn};

/// One transactional id among others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The id.
    pub transactional_id: Str,
    /// Who has it.
    pub producer: Producer,
    /// Where it stands, in Kafka's words.
    pub state: &'static str,
}

/// Which ids are asked for. An empty list, and no bound, ask for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListFilter {
    /// Kafka's words for states.
    pub states: Vec<Str>,
    /// Producer ids.
    pub producer_ids: Vec<i64>,
    /// Only those whose transaction has been open for longer, in milliseconds (KIP-994).
    pub open_for_ms: Option<i64>,
}

/// One transactional id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Who has it.
    pub producer: Producer,
    /// Where it stands, in Kafka's words.
    pub state: &'static str,
    /// `transaction.timeout.ms` of its producer.
    pub timeout_ms: i32,
    /// When the transaction began, -1 before the first.
    pub started_at: Millis,
    /// What belongs to the transaction and has no marker yet.
    pub partitions: Vec<TopicPartition>,
    /// What this coordinator has heard of it, if anything.
    pub heard: Option<Heard>,
}

/// Kafka's words for the states; the last two are never stored.
pub const STATES: [&str; 8] = [
    "Empty",
    "Ongoing",
    "PrepareCommit",
    "PrepareAbort",
    "CompleteCommit",
    "CompleteAbort",
    "Dead",
    "PrepareEpochFence",
];

impl State {
    fn name(self) -> &'static str {
        let [empty, ongoing, prepare_commit, prepare_abort, complete_commit, complete_abort, ..] = STATES;
        match self {
            State::Empty => empty,
            State::Ongoing => ongoing,
            State::Preparing(Decision::Commit) => prepare_commit,
            State::Preparing(Decision::Abort) => prepare_abort,
            State::Complete(Decision::Commit) => complete_commit,
            State::Complete(Decision::Abort) => complete_abort,
        }
    }
}

impl Transactions {
    /// The ids that a filter lets through.
    pub fn list(&self, filter: &ListFilter, now: Millis) -> Vec<Listing> {
        let is_open_for = |txn: &Txn, ms: i64| {
            matches!(txn.state, State::Ongoing | State::Preparing(_)) && now.since(txn.started_at) > ms
        };
        let is_wanted = |txn: &Txn| {
            let by_state =
                filter.states.is_empty() || filter.states.iter().any(|state| **state == *txn.state.name());
            let by_producer =
                filter.producer_ids.is_empty() || filter.producer_ids.contains(&txn.producer.id.0);
            by_state && by_producer && filter.open_for_ms.is_none_or(|ms| is_open_for(txn, ms))
        };
        let listed = self.ids.iter().filter(|(_, txn)| is_wanted(txn)).map(|(id, txn)| Listing {
            transactional_id: id.clone(),
            producer: txn.producer,
            state: txn.state.name(),
        });
        listed.collect()
    }

    /// One id.
    pub fn describe(&self, id: &str) -> Result<Description, Refusal> {
        if id.is_empty() {
            return Err(Refusal::NoTransactionalId);
        }
        let txn = self.ids.get(id).ok_or(Refusal::NotFound)?;
        Ok(Description {
            producer: txn.producer,
            state: txn.state.name(),
            timeout_ms: txn.timeout_ms,
            started_at: txn.started_at,
            partitions: txn.partitions.iter().cloned().collect(),
            heard: txn.heard.as_deref().cloned(),
        })
    }
}
