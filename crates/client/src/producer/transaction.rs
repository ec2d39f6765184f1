//! Transactions: all records and offsets of one, or none.
//!
//! [`Transactions`] is the state that the sending task and the owner share; what is said to the coordinators is
//! below it. Both protocols are spoken (KIP-890): in the first one, partitions are named to the coordinator before
//! they are written to; in the second, writing names them and every end gives the next epoch.
//!
//! A transaction that failed writes nothing more and is aborted before the next begins. One whose commit was asked
//! for but not confirmed is decided by nobody but the coordinator: it is asked to commit again before the next
//! begins. A producer that was fenced does nothing any more.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use wire::messages::add_offsets_to_txn::AddOffsetsToTxnRequest;
use wire::messages::add_partitions_to_txn::{AddPartitionsToTxnRequest, AddPartitionsToTxnTopic};
use wire::messages::end_txn::EndTxnRequest;
use wire::messages::init_producer_id::InitProducerIdRequest;
use wire::messages::txn_offset_commit::{
    TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use wire::{ErrorCode, LeaderEpoch, Offset, ProducerEpoch, ProducerId, Str, TopicPartition};

use super::accumulator::Accumulator;
use super::queue::Identity;
use super::{Delivery, DeliveryHandle, Producer};
use crate::admin::CommittedOffset;
use crate::cluster::Cluster;
use crate::error::{Error, ErrorKind};
use crate::record::ProducerRecord;

/// The feature whose level tells the protocol, and the level of the second.
const FEATURE: &str = "transaction.version";
const SECOND_PROTOCOL_LEVEL: i16 = 2;
/// The last versions of EndTxn and TxnOffsetCommit that belong to the first protocol.
const FIRST_PROTOCOL_END_VERSION_MAX: i16 = 4;
const FIRST_PROTOCOL_OFFSETS_VERSION_MAX: i16 = 4;
/// InitProducerId names the epoch that is to be followed from this version on (KIP-360). Before, it takes the
/// transactional id over from whoever has it.
const NEXT_EPOCH_VERSION_MIN: i16 = 3;
const SENDING_OFFSETS: &str = "sending offsets";
/// TxnOffsetCommit names the group's member from this version on (KIP-447).
const GROUP_METADATA_VERSION_MIN: i16 = 3;

/// How transactions are spoken about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    First,
    Second,
}

/// What the owner and the sending task know of the transactions of a producer.
pub(super) struct Transactions {
    pub(super) id: Str,
    pub(super) protocol: Protocol,
    phase: Phase,
    /// Which transaction it is about, counted from 1: who holds an earlier one has no say in it.
    serial: u64,
    /// Calls that make offsets part of it and are not over yet.
    offering: usize,
    /// Whether the coordinator may have something to end: it was asked to begin, or is by the first batch.
    pub(super) has_begun: bool,
    /// Whether the next transaction needs another epoch, for a batch was numbered and given up, something of this one
    /// may still be on its way, or the coordinator has forgotten the producer.
    needs_epoch: bool,
    /// Queues whose partitions belong to the transaction, are being added to it, and are to be.
    added: BTreeSet<usize>,
    adding: BTreeSet<usize>,
    wanted: BTreeSet<usize>,
}

#[derive(Debug, Clone)]
enum Phase {
    /// No identity yet.
    New,
    /// Between transactions.
    Ready,
    Open,
    /// It can only be aborted; why, unless its owner wants that.
    Failed(Option<Error>),
    /// Nothing joins any more; what there is, is written and then committed.
    Committing,
    /// Another producer has taken over, or the coordinator refuses for good.
    Dead(Error),
}

/// Whether a queue may send.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Gate {
    Open,
    Closed,
}

impl Transactions {
    pub(super) fn new(id: &str) -> Self {
        Self {
            id: Str::copy_from(id),
            protocol: Protocol::First,
            phase: Phase::New,
            serial: 0,
            offering: 0,
            has_begun: false,
            needs_epoch: false,
            added: BTreeSet::new(),
            adding: BTreeSet::new(),
            wanted: BTreeSet::new(),
        }
    }

    /// Whether a record may join, as part of this transaction if one is named.
    pub(super) fn check_open(&self, serial: Option<u64>) -> Result<(), Error> {
        const DOING: &str = "sending a record";
        if let Some(serial) = serial {
            self.check_current(serial, DOING)?;
        }
        match &self.phase {
            Phase::Open => Ok(()),
            Phase::New => Err(Error::State { doing: DOING, problem: "call init_transactions first" }),
            Phase::Ready | Phase::Committing => {
                Err(Error::State { doing: DOING, problem: "no transaction is open; call begin" })
            }
            Phase::Failed(cause) => Err(Error::Aborted { cause: cause.clone().map(Box::new) }),
            Phase::Dead(error) => Err(error.clone()),
        }
    }

    /// Whether nothing was begun since the transaction of this serial. One that was followed by another had failed or was
    /// let go of, and was aborted.
    fn check_current(&self, serial: u64, doing: &'static str) -> Result<(), Error> {
        if self.serial == serial {
            return Ok(());
        }
        let cause = Error::State { doing, problem: "another transaction was begun since" };
        Err(Error::Aborted { cause: Some(Box::new(cause)) })
    }

    /// Whether batches are still on their way out.
    pub(super) fn is_sending(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Committing)
    }

    /// Whether the queue may send now; in the first protocol it first has to be added.
    pub(super) fn gate(&mut self, at: usize) -> Gate {
        if !self.is_sending() {
            return Gate::Closed;
        }
        if self.protocol == Protocol::Second || self.added.contains(&at) {
            return Gate::Open;
        }
        if !self.adding.contains(&at) {
            self.wanted.insert(at);
        }
        Gate::Closed
    }

    /// The queues to be added now, if there are any and none are being added.
    pub(super) fn begin_adding(&mut self) -> Option<Vec<usize>> {
        if !self.is_sending() || !self.adding.is_empty() || self.wanted.is_empty() {
            return None;
        }
        // Whether the answer arrives or not.
        self.has_begun = true;
        self.adding = std::mem::take(&mut self.wanted);
        Some(self.adding.iter().copied().collect())
    }

    /// What was being added is, or is not; tells what that was.
    pub(super) fn end_adding(&mut self, is_added: bool) -> BTreeSet<usize> {
        let tried = std::mem::take(&mut self.adding);
        if is_added {
            self.added.extend(&tried);
        }
        tried
    }

    fn is_quiet(&self) -> bool {
        self.adding.is_empty()
    }

    /// A number is missing: the next transaction starts again under another epoch, which the second protocol gives it
    /// anyway.
    pub(super) fn miss_number(&mut self) {
        self.needs_epoch |= self.protocol == Protocol::First;
    }

    fn end(&mut self) {
        self.phase = Phase::Ready;
        self.has_begun = false;
        self.added.clear();
        self.wanted.clear();
    }
}

impl Accumulator {
    /// A record, a partition or an offset could not become part of the transaction: nothing more does.
    pub(super) fn fail_transaction(&mut self, error: Error, now: Instant) {
        let Some(transactions) = &mut self.transactions else { return };
        transactions.miss_number();
        if !transactions.is_sending() {
            return;
        }
        tracing::debug!(%error, id = %transactions.id, "the transaction failed");
        let is_dead = error.code() == Some(ErrorCode::PRODUCER_FENCED)
            || error.code() == Some(ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED);
        transactions.phase =
            if is_dead { Phase::Dead(error.clone()) } else { Phase::Failed(Some(error.clone())) };
        self.drop_unsent(&Error::Aborted { cause: Some(Box::new(error)) }, now);
    }

    /// The owner let go of a transaction, of that serial or whichever is open.
    fn abandon_transaction(&mut self, serial: Option<u64>, now: Instant) {
        let Some(transactions) = &mut self.transactions else { return };
        if matches!(transactions.phase, Phase::Open)
            && serial.is_none_or(|serial| serial == transactions.serial)
        {
            transactions.phase = Phase::Failed(None);
            if self.drop_unsent(&Error::Aborted { cause: None }, now)
                && let Some(transactions) = &mut self.transactions
            {
                transactions.miss_number();
            }
        }
    }
}

/// A consumer's membership, with which its offsets are committed in a transaction (KIP-447): a member that its
/// group has thrown out cannot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerGroupMetadata {
    /// The group.
    pub group_id: Str,
    /// The generation, or with KIP-848 the member epoch; -1 outside of a membership.
    pub generation_id: i32,
    /// The member's id; empty outside of a membership.
    pub member_id: Str,
    /// The name that makes the member static.
    pub group_instance_id: Option<Str>,
}

impl ConsumerGroupMetadata {
    /// A group of which the caller is no member, as one that assigns partitions itself.
    pub fn of_group(group_id: impl Into<Str>) -> Self {
        let group_id = group_id.into();
        Self { group_id, generation_id: -1, member_id: Str::default(), group_instance_id: None }
    }
}

/// An open transaction. Dropped without [`Transaction::commit`] it is aborted before the next one begins, or when the
/// producer is closed.
#[must_use = "a transaction that is dropped is aborted"]
pub struct Transaction<'a> {
    producer: &'a Producer,
    serial: u64,
    is_over: bool,
}

impl Transaction<'_> {
    /// Sends a record as part of the transaction and waits until the replicas have it; readers of committed records
    /// see it after the commit.
    ///
    /// # Errors
    /// As [`Transaction::enqueue`]; and what ended the record's last try, after which the transaction can only be
    /// aborted.
    pub async fn send(&self, record: ProducerRecord) -> Result<Delivery, Error> {
        self.enqueue(record).await?.await
    }

    /// Takes a record over as part of the transaction. The commit waits for it, so the handle may be dropped.
    ///
    /// # Errors
    /// [`Error::Aborted`] when an earlier part of the transaction failed, the error that says so when the producer was
    /// fenced, and those of [`Producer::enqueue`].
    pub async fn enqueue(&self, record: ProducerRecord) -> Result<DeliveryHandle, Error> {
        self.producer.enqueue_in(record, Some(self.serial)).await
    }

    /// Makes a group's offsets part of the transaction: they are committed if and when it is. Each is the offset of
    /// the next record to be read.
    ///
    /// # Errors
    /// [`Error::Aborted`] with the cause when the group or the coordinator refuses, for example because the member was
    /// thrown out of the group; the transaction can only be aborted then. [`Error::Timeout`] after
    /// `default.api.timeout.ms`, with the same consequence. Dropping this before it is answered has it, too: whether the
    /// offsets became part of the transaction is unknown then.
    pub async fn send_offsets(
        &self,
        offsets: impl IntoIterator<Item = (TopicPartition, Offset)>,
        group: &ConsumerGroupMetadata,
    ) -> Result<(), Error> {
        let of = |offset| CommittedOffset { offset, leader_epoch: LeaderEpoch::NONE, metadata: None };
        self.send_positions(offsets.into_iter().map(|(partition, offset)| (partition, of(offset))), group)
            .await
    }

    /// As [`Transaction::send_offsets`], each with the leader epoch of the last record that was read and with what is to be
    /// remembered beside it, up to `offset.metadata.max.bytes`.
    ///
    /// # Errors
    /// As [`Transaction::send_offsets`].
    pub async fn send_positions(
        &self,
        positions: impl IntoIterator<Item = (TopicPartition, CommittedOffset)>,
        group: &ConsumerGroupMetadata,
    ) -> Result<(), Error> {
        self.producer.send_offsets(self.serial, positions.into_iter().collect(), group).await
    }

    /// Waits until every record is written, and commits.
    ///
    /// # Errors
    /// [`Error::Aborted`] with the cause when a part of it failed: it is aborted then and may be done again from its
    /// beginning. An error of kind [`ErrorKind::Fenced`] when another producer has taken over. [`Error::Timeout`] when
    /// the coordinator does not confirm within `default.api.timeout.ms`: the commit may have happened, and is asked for
    /// again before the next transaction begins.
    pub async fn commit(mut self) -> Result<(), Error> {
        let _turn = self.producer.turn.lock().await;
        // From here on it is being committed, also by whoever comes next if this future is dropped.
        self.is_over = true;
        self.producer.commit(self.serial).await
    }

    /// Aborts: nothing of it is ever seen by readers of committed records.
    ///
    /// # Errors
    /// [`Error::Aborted`] when another one was begun since, which aborted this one. Of kind [`ErrorKind::Fenced`] when another producer has taken over. [`Error::Timeout`] when the coordinator does
    /// not confirm: it is asked again before the next transaction begins.
    pub async fn abort(mut self) -> Result<(), Error> {
        self.is_over = true;
        self.producer.check_current(self.serial, "aborting a transaction")?;
        self.producer.shared.lock().abandon_transaction(Some(self.serial), Instant::now());
        let _turn = self.producer.turn.lock().await;
        match self.producer.check_current(self.serial, "aborting a transaction") {
            Ok(()) => self.producer.finish().await,
            // Whoever began the next one has aborted this one before.
            Err(_) => Ok(()),
        }
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.producer.shared.lock().abandon_transaction(Some(self.serial), Instant::now());
        }
    }
}

/// Offsets that are being made part of a transaction. Let go of before it is known that they are, they leave one that
/// can only be aborted.
struct Offering<'a> {
    producer: &'a Producer,
    serial: u64,
    is_answered: bool,
}

impl Offering<'_> {
    fn failed(&mut self, error: Error) {
        self.is_answered = true;
        let mut accumulator = self.producer.shared.lock();
        if accumulator.transactions.as_ref().is_some_and(|transactions| transactions.serial == self.serial) {
            accumulator.fail_transaction(error, Instant::now());
        }
    }
}

impl Drop for Offering<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            const PROBLEM: &str = "it was dropped before it was answered";
            self.failed(Error::State { doing: SENDING_OFFSETS, problem: PROBLEM });
        }
        if let Some(transactions) = &mut self.producer.shared.lock().transactions {
            transactions.offering -= 1;
        }
    }
}

impl Producer {
    /// Takes the transactional id over: an earlier producer with it is fenced, and what it left open is aborted. To
    /// be called once, before the first transaction.
    ///
    /// # Errors
    /// [`Error::State`] without a `transactional.id` or when it was called before; [`Error::Timeout`] after
    /// `default.api.timeout.ms`; what the coordinator refuses with, for example when `transaction.timeout.ms` is above
    /// the broker's maximum.
    pub async fn init_transactions(&self) -> Result<(), Error> {
        const DOING: &str = "initialising transactions";
        let _turn = self.turn.lock().await;
        let id = {
            let accumulator = self.shared.lock();
            match &accumulator.transactions {
                None => {
                    return Err(Error::State { doing: DOING, problem: "transactional.id is not set" });
                }
                Some(Transactions { phase: Phase::New, id, .. }) => id.clone(),
                Some(Transactions { phase: Phase::Dead(error), .. }) => return Err(error.clone()),
                Some(_) => return Err(Error::State { doing: DOING, problem: "that was done before" }),
            }
        };
        let cluster = &self.shared.cluster;
        let level = cluster
            .retrying(DOING, || async { Ok(cluster.transaction_coordinator(&id).await?.feature(FEATURE)) })
            .await?;
        let identity = self.ask_epoch(&id, None).await?;
        let mut accumulator = self.shared.lock();
        accumulator.identity = Some(identity);
        if let Some(transactions) = &mut accumulator.transactions {
            transactions.protocol =
                if level >= SECOND_PROTOCOL_LEVEL { Protocol::Second } else { Protocol::First };
            transactions.phase = Phase::Ready;
        }
        Ok(())
    }

    /// Begins a transaction. One that was dropped is aborted first, and one whose commit was not confirmed committed.
    ///
    /// # Errors
    /// [`Error::State`] before [`Producer::init_transactions`] and while another one is open; of kind
    /// [`ErrorKind::Fenced`] when another producer has taken over; [`Error::Unsupported`] when records of the last one
    /// were given up and the coordinator is older than Kafka 2.5: only another producer can go on then.
    pub async fn begin(&self) -> Result<Transaction<'_>, Error> {
        const DOING: &str = "beginning a transaction";
        let _turn = self.turn.lock().await;
        let phase =
            self.phase().ok_or(Error::State { doing: DOING, problem: "transactional.id is not set" })?;
        match phase {
            Phase::New => {
                return Err(Error::State { doing: DOING, problem: "call init_transactions first" });
            }
            Phase::Open => return Err(Error::State { doing: DOING, problem: "another one is open" }),
            Phase::Dead(error) => return Err(error),
            Phase::Ready => {}
            Phase::Failed(_) | Phase::Committing => self.finish().await?,
        }
        self.renew_epoch().await?;
        let mut accumulator = self.shared.lock();
        let transactions = accumulator.transactions.as_mut().expect("it has a phase");
        transactions.phase = Phase::Open;
        transactions.serial += 1;
        Ok(Transaction { producer: self, serial: transactions.serial, is_over: false })
    }

    fn check_current(&self, serial: u64, doing: &'static str) -> Result<(), Error> {
        let accumulator = self.shared.lock();
        accumulator.transactions.as_ref().map_or(Ok(()), |known| known.check_current(serial, doing))
    }

    fn phase(&self) -> Option<Phase> {
        self.shared.lock().transactions.as_ref().map(|transactions| transactions.phase.clone())
    }

    fn set_phase(&self, phase: Phase) {
        if let Some(transactions) = &mut self.shared.lock().transactions {
            transactions.phase = phase;
        }
    }

    /// Aborts what is open, for a producer that is closed.
    pub(super) async fn abort_open(&self) -> Result<(), Error> {
        self.shared.lock().abandon_transaction(None, Instant::now());
        let _turn = self.turn.lock().await;
        match self.phase() {
            Some(Phase::Failed(_) | Phase::Committing) => self.finish().await,
            _ => Ok(()),
        }
    }

    /// Whoever calls it has the turn.
    async fn commit(&self, serial: u64) -> Result<(), Error> {
        self.check_current(serial, "committing a transaction")?;
        if let Some(transactions) = &mut self.shared.lock().transactions
            && matches!(transactions.phase, Phase::Open)
        {
            transactions.phase = Phase::Committing;
        }
        self.flush().await;
        match self.phase() {
            Some(Phase::Failed(cause)) => {
                // Who was fenced hears of that, whatever it met first.
                let aborted = self.finish().await;
                match aborted {
                    Err(error) if error.kind() == ErrorKind::Fenced => Err(error),
                    _ => Err(Error::Aborted { cause: cause.map(Box::new) }),
                }
            }
            Some(Phase::Dead(error)) => Err(error),
            _ => self.finish().await,
        }
    }

    /// Ends what is open, as was decided: commits what is to be committed and aborts anything else.
    async fn finish(&self) -> Result<(), Error> {
        if matches!(self.phase(), Some(Phase::Committing)) {
            // Its commit may have been dropped before all its records were written.
            self.flush().await;
        }
        self.quiet().await;
        let (is_commit, id, has_begun, protocol, identity) = {
            let mut accumulator = self.shared.lock();
            let identity = accumulator.identity;
            let (Some(transactions), Some(identity)) = (&mut accumulator.transactions, identity) else {
                return Ok(());
            };
            let is_commit = match &transactions.phase {
                Phase::Committing => true,
                Phase::Failed(_) => false,
                Phase::Dead(error) => return Err(error.clone()),
                Phase::New | Phase::Ready | Phase::Open => return Ok(()),
            };
            if transactions.offering > 0 {
                // What is still on its way comes too late for the next one.
                transactions.miss_number();
            }
            (is_commit, transactions.id.clone(), transactions.has_begun, transactions.protocol, identity)
        };
        let ended = match has_begun {
            true => match self.end(&id, identity, protocol, is_commit).await {
                Err(error) if !is_commit && had_nothing(&error, protocol) => Ok(None),
                ended => ended.map(Some),
            },
            false => Ok(Some(identity)),
        };
        match ended {
            Ok(next) => {
                let mut accumulator = self.shared.lock();
                accumulator.identity = Some(next.unwrap_or(identity));
                if let Some(transactions) = &mut accumulator.transactions {
                    // What the coordinator has not heard of may still be on its way to it.
                    transactions.needs_epoch |= next.is_none();
                    transactions.end();
                }
                Ok(())
            }
            Err(error) => {
                match error.kind() {
                    // The next who begins asks again.
                    ErrorKind::Retriable => {}
                    ErrorKind::Abortable => {
                        self.set_phase(Phase::Failed(Some(error.clone())));
                    }
                    ErrorKind::Fenced | ErrorKind::Fatal => self.set_phase(Phase::Dead(error.clone())),
                }
                Err(error)
            }
        }
    }

    /// Asks for the next epoch, if the next transaction needs one. Not heard of, it is asked for again by whoever begins
    /// next, under the same epoch: the coordinator knows that it has given the next one out.
    async fn renew_epoch(&self) -> Result<(), Error> {
        let (id, identity) = {
            let accumulator = self.shared.lock();
            match (&accumulator.transactions, accumulator.identity) {
                (Some(transactions), Some(identity)) if transactions.needs_epoch => {
                    (transactions.id.clone(), identity)
                }
                _ => return Ok(()),
            }
        };
        match self.ask_epoch(&id, Some(identity)).await {
            Ok(next) => {
                let mut accumulator = self.shared.lock();
                accumulator.identity = Some(next);
                if let Some(transactions) = &mut accumulator.transactions {
                    transactions.needs_epoch = false;
                }
                Ok(())
            }
            Err(error) => {
                if matches!(error.kind(), ErrorKind::Fenced | ErrorKind::Fatal) {
                    self.set_phase(Phase::Dead(error.clone()));
                }
                Err(error)
            }
        }
    }

    /// Waits until nothing of the transaction is on its way any more.
    async fn quiet(&self) {
        loop {
            let landed = self.shared.landed.notified();
            tokio::pin!(landed);
            landed.as_mut().enable();
            {
                let accumulator = self.shared.lock();
                let is_quiet = accumulator.transactions.as_ref().is_none_or(Transactions::is_quiet);
                if is_quiet && !accumulator.is_in_flight() {
                    return;
                }
            }
            landed.await;
        }
    }

    /// Asks the coordinator to end the transaction; who writes the next one.
    async fn end(
        &self,
        id: &Str,
        identity: Identity,
        protocol: Protocol,
        committed: bool,
    ) -> Result<Identity, Error> {
        let doing = if committed { "committing a transaction" } else { "aborting a transaction" };
        let version_max = match protocol {
            Protocol::First => FIRST_PROTOCOL_END_VERSION_MAX,
            Protocol::Second => i16::MAX,
        };
        let request = EndTxnRequest {
            transactional_id: id.clone(),
            producer_id: identity.id.0,
            producer_epoch: identity.epoch.0,
            committed,
        };
        let cluster = &self.shared.cluster;
        cluster
            .retrying(doing, || async {
                let versions = 0..=version_max;
                let answer = cluster.call_transaction_coordinator(id, request.clone(), versions).await?;
                answered(cluster, id, answer.error_code, doing)?;
                Ok(match answer.producer_id {
                    -1 => identity,
                    next => Identity { id: ProducerId(next), epoch: ProducerEpoch(answer.producer_epoch) },
                })
            })
            .await
    }

    /// Asks for an identity, or for the next epoch of the one there is.
    async fn ask_epoch(&self, id: &Str, current: Option<Identity>) -> Result<Identity, Error> {
        const DOING: &str = "getting a producer id";
        let cluster = &self.shared.cluster;
        let timeout = cluster.options().transaction_timeout.as_millis();
        let request = InitProducerIdRequest {
            transactional_id: Some(id.clone()),
            transaction_timeout_ms: i32::try_from(timeout).unwrap_or(i32::MAX),
            producer_id: current.map_or(-1, |current| current.id.0),
            producer_epoch: current.map_or(-1, |current| current.epoch.0),
        };
        let version_min = current.map_or(0, |_| NEXT_EPOCH_VERSION_MIN);
        cluster
            .retrying(DOING, || async {
                let versions = version_min..=i16::MAX;
                let answer = cluster.call_transaction_coordinator(id, request.clone(), versions).await?;
                answered(cluster, id, answer.error_code, DOING)?;
                Ok(Identity {
                    id: ProducerId(answer.producer_id),
                    epoch: ProducerEpoch(answer.producer_epoch),
                })
            })
            .await
    }

    async fn send_offsets(
        &self,
        serial: u64,
        offsets: BTreeMap<TopicPartition, CommittedOffset>,
        group: &ConsumerGroupMetadata,
    ) -> Result<(), Error> {
        let (id, protocol, identity) = {
            let mut accumulator = self.shared.lock();
            let identity = accumulator.identity;
            let (Some(transactions), Some(identity)) = (&mut accumulator.transactions, identity) else {
                return Err(Error::State { doing: SENDING_OFFSETS, problem: "call init_transactions first" });
            };
            transactions.check_open(Some(serial))?;
            if offsets.is_empty() {
                return Ok(());
            }
            transactions.offering += 1;
            // Whether an answer arrives or not.
            transactions.has_begun = true;
            (transactions.id.clone(), transactions.protocol, identity)
        };
        let mut offering = Offering { producer: self, serial, is_answered: false };
        let sent = async {
            if protocol == Protocol::First {
                add_offsets(&self.shared.cluster, &id, identity, &group.group_id).await?;
            }
            let check = || {
                let accumulator = self.shared.lock();
                accumulator.transactions.as_ref().map_or(Ok(()), |known| known.check_open(Some(serial)))
            };
            commit_offsets(&self.shared.cluster, &id, identity, protocol, &offsets, group, check).await
        };
        let sent = sent.await;
        offering.is_answered = true;
        sent.map_err(|error| {
            offering.failed(error.clone());
            match error.kind() {
                ErrorKind::Fenced => error,
                _ => Error::Aborted { cause: Some(Box::new(error)) },
            }
        })
    }

    /// Waits for what is under way, for so long at most; aborts an open transaction.
    pub(super) async fn wind_up(&self, within: Duration) -> Result<(), Error> {
        let wind_up = async {
            self.abort_open().await?;
            self.flush().await;
            Ok(())
        };
        let late = Error::Timeout { doing: "closing the producer".to_owned(), after: within, last: None };
        timeout(within, wind_up).await.unwrap_or(Err(late))
    }
}

/// Names partitions to the coordinator, before they are written to.
pub(super) fn add_partitions(
    cluster: Cluster,
    id: Str,
    identity: Identity,
    partitions: Vec<TopicPartition>,
) -> impl Future<Output = Result<(), Error>> + Send + 'static {
    const DOING: &str = "adding partitions to a transaction";
    let mut topics: BTreeMap<Str, Vec<i32>> = BTreeMap::new();
    for TopicPartition { topic, partition } in partitions {
        topics.entry(topic).or_default().push(partition.0);
    }
    let topic = |(name, partitions)| AddPartitionsToTxnTopic { name, partitions };
    let request = AddPartitionsToTxnRequest {
        v3_and_below_transactional_id: id.clone(),
        v3_and_below_producer_id: identity.id.0,
        v3_and_below_producer_epoch: identity.epoch.0,
        v3_and_below_topics: topics.into_iter().map(topic).collect(),
        ..Default::default()
    };
    async move {
        let ask = || async {
            let answer = cluster.call_transaction_coordinator(&id, request.clone(), 0..=i16::MAX).await?;
            let topics = answer.results_by_topic_v3_and_below.iter();
            let results = topics.flat_map(|topic| &topic.results_by_partition);
            let codes = results.map(|result| result.partition_error_code);
            // Of those that were not even tried another one's error tells why.
            let refused = codes.filter(|code| !code.is_ok());
            let code = refused.min_by_key(|&code| code == ErrorCode::OPERATION_NOT_ATTEMPTED);
            answered(&cluster, &id, code.unwrap_or(ErrorCode::NONE), DOING)
        };
        cluster.retrying(DOING, ask).await
    }
}

/// Names a group to the coordinator, before its offsets are committed.
async fn add_offsets(cluster: &Cluster, id: &Str, identity: Identity, group_id: &Str) -> Result<(), Error> {
    const DOING: &str = "adding offsets to a transaction";
    let request = AddOffsetsToTxnRequest {
        transactional_id: id.clone(),
        producer_id: identity.id.0,
        producer_epoch: identity.epoch.0,
        group_id: group_id.clone(),
    };
    let ask = || async {
        let answer = cluster.call_transaction_coordinator(id, request.clone(), 0..=i16::MAX).await?;
        answered(cluster, id, answer.error_code, DOING)
    };
    cluster.retrying(DOING, ask).await
}

async fn commit_offsets(
    cluster: &Cluster,
    id: &Str,
    identity: Identity,
    protocol: Protocol,
    offsets: &BTreeMap<TopicPartition, CommittedOffset>,
    group: &ConsumerGroupMetadata,
    // Before each try: whether the transaction is still there to be part of.
    check: impl Fn() -> Result<(), Error>,
) -> Result<(), Error> {
    let doing = format!("committing offsets of group {} in a transaction", group.group_id);
    let version_max = match protocol {
        Protocol::First => FIRST_PROTOCOL_OFFSETS_VERSION_MAX,
        Protocol::Second => i16::MAX,
    };
    let mut topics: BTreeMap<&Str, Vec<TxnOffsetCommitRequestPartition>> = BTreeMap::new();
    for (TopicPartition { topic, partition }, committed) in offsets {
        topics.entry(topic).or_default().push(TxnOffsetCommitRequestPartition {
            partition_index: partition.0,
            committed_offset: committed.offset.0,
            committed_leader_epoch: committed.leader_epoch.0,
            committed_metadata: Some(committed.metadata.clone().unwrap_or_default()),
        });
    }
    let topic =
        |(name, partitions): (&Str, _)| TxnOffsetCommitRequestTopic { name: name.clone(), partitions };
    let request = TxnOffsetCommitRequest {
        transactional_id: id.clone(),
        group_id: group.group_id.clone(),
        producer_id: identity.id.0,
        producer_epoch: identity.epoch.0,
        generation_id: group.generation_id,
        member_id: group.member_id.clone(),
        group_instance_id: group.group_instance_id.clone(),
        topics: topics.into_iter().map(topic).collect(),
    };
    let ask = || async {
        check()?;
        let versions = GROUP_METADATA_VERSION_MIN..=version_max;
        let answer = cluster.call_group_coordinator(&group.group_id, request.clone(), versions).await?;
        let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
        let mut codes = partitions.map(|partition| partition.error_code);
        let Some(code) = codes.find(|code| !code.is_ok()) else { return Ok(()) };
        if matches!(code, ErrorCode::NOT_COORDINATOR | ErrorCode::COORDINATOR_NOT_AVAILABLE) {
            cluster.forget_coordinator(&group.group_id);
        }
        Err(Error::kafka(as_fenced(code), doing.clone(), None))
    };
    cluster.retrying(&doing, ask).await
}

/// What a transaction coordinator's error code means; who is no coordinator is forgotten.
fn answered(cluster: &Cluster, id: &Str, code: ErrorCode, doing: &str) -> Result<(), Error> {
    if code.is_ok() {
        return Ok(());
    }
    if matches!(code, ErrorCode::NOT_COORDINATOR | ErrorCode::COORDINATOR_NOT_AVAILABLE) {
        cluster.forget_transaction_coordinator(id);
    }
    Err(Error::kafka(as_fenced(code), format!("{doing} of {id}"), None))
}

/// Brokers before Kafka 2.7 have no other word for a producer that was fenced, and coordinators mean nothing else by it.
/// Only a partition's leader may.
fn as_fenced(code: ErrorCode) -> ErrorCode {
    if code == ErrorCode::INVALID_PRODUCER_EPOCH { ErrorCode::PRODUCER_FENCED } else { code }
}

/// Whether a coordinator that was to abort has nothing to abort: nothing was begun, or the transactional id has not been
/// used for so long that it is forgotten (`transactional.id.expiration.ms`).
fn had_nothing(error: &Error, protocol: Protocol) -> bool {
    match error.code() {
        Some(ErrorCode::INVALID_PRODUCER_ID_MAPPING) => true,
        Some(ErrorCode::INVALID_TXN_STATE) => protocol == Protocol::First,
        _ => false,
    }
}
