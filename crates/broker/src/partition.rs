//! One partition on this broker: its log, the part that this broker plays in it, its high watermark, and the requests that
//! wait for it.
//!
//! Invariants: log start <= last stable offset <= high watermark <= log end; the high watermark never falls while the broker
//! runs; a record is appended by the leader of the current epoch or by its follower, never by both, since whoever appends holds
//! the role still. What counts for the high watermark is decided by the pure machine of `state::partition`.

mod transactions;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use state::partition::{Assignment, EpochEnd, Fetched, IsrProposal, Leader, LeaderStart, truncation};
use state::txn::Producer;
use storage::{Append, AppendError, Appended, Log, Origin, ReadError, ReadLimits, Rot, Slice, StorageError};
use tokio::sync::Notify;
use wire::{BrokerId, ErrorCode, LeaderEpoch, Millis, Offset, TopicPartition, Uuid};

use crate::flush::{FlushState, Flusher};
use crate::metrics::TopicMetrics;
use crate::throttle::Throttled;
use crate::waiting::{ParkedProduce, Waiting};

pub(crate) use self::transactions::{Marker, Verification};

/// A replica that this broker has.
pub(crate) struct Partition {
    pub(crate) id: TopicPartition,
    pub(crate) topic_id: Uuid,
    pub(crate) log: Arc<Log>,
    pub(crate) waiting: Waiting,
    pub(crate) flush_state: FlushState,
    pub(crate) metrics: Arc<TopicMetrics>,
    pub(crate) throttled: Throttled,
    flusher: Arc<Flusher>,
    /// The data directory, for whoever flushes.
    lane: AtomicUsize,
    role: RwLock<Role>,
    high_watermark: AtomicI64,
    /// Producers of whom the coordinator is asked whether the partition belongs to their transaction, each with the number of
    /// the question. An answer counts for as long as its number stands here, and a marker ends that.
    verifying: Mutex<HashMap<Producer, u64>>,
    verification_next: AtomicU64,
    /// When, in ticks, the partition may complain of its disk again.
    complains_at: AtomicI64,
    /// What has rotted, and the epoch in which it was found.
    rot: Mutex<Option<(Rot, LeaderEpoch)>>,
}

/// How often a partition complains of the same, in ticks.
const COMPLAIN_EVERY: i64 = 60_000;

/// What this broker is to the partition. Appending holds it still for a moment; changing it waits for that.
struct Role {
    leader_epoch: LeaderEpoch,
    leader: Option<BrokerId>,
    part: Part,
}

enum Part {
    Leader(Mutex<Leader>),
    Follower(Following),
}

/// What a follower knows of whom it follows.
#[derive(Default)]
struct Following {
    /// Told when more of the log is durable.
    progress: Option<Arc<Notify>>,
    /// Whether the log was found to be the beginning of the leader's.
    is_compared: AtomicBool,
}

/// Replicas of a partition, counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InSyncCount {
    pub(crate) in_sync: usize,
    pub(crate) in_sync_min: usize,
    pub(crate) replicas: usize,
}

/// What was appended, and in which epoch: it is safe only while that lasts.
pub(crate) struct Led {
    pub(crate) appended: Appended,
    pub(crate) leader_epoch: LeaderEpoch,
}

/// An append that did not happen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAppended {
    #[error("this broker does not lead the partition")]
    NotLeader,
    #[error("the partition is not known to belong to the producer's transaction")]
    NotInTransaction,
    #[error("a newer producer has written here")]
    Fenced,
    #[error("the transaction that the marker would end is over")]
    LateMarker,
    #[error(transparent)]
    Log(#[from] AppendError),
}

impl From<NotAppended> for ErrorCode {
    fn from(error: NotAppended) -> ErrorCode {
        match error {
            NotAppended::NotLeader => ErrorCode::NOT_LEADER_OR_FOLLOWER,
            NotAppended::NotInTransaction => ErrorCode::INVALID_TXN_STATE,
            NotAppended::Fenced | NotAppended::LateMarker => ErrorCode::INVALID_PRODUCER_EPOCH,
            NotAppended::Log(error) => append_error(&error),
        }
    }
}

/// What a client is told of an append that the log refused.
pub(crate) fn append_error(error: &AppendError) -> ErrorCode {
    match error {
        // Deleted between its look-up and here.
        AppendError::Storage(StorageError::Closed) => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        AppendError::Storage(_) => ErrorCode::KAFKA_STORAGE_ERROR,
        AppendError::Corrupt(_) => ErrorCode::CORRUPT_MESSAGE,
        AppendError::UnsupportedFormat(_) => ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT,
        AppendError::TooLarge { .. } => ErrorCode::MESSAGE_TOO_LARGE,
        AppendError::LargerThanSegment { .. } => ErrorCode::RECORD_LIST_TOO_LARGE,
        AppendError::InvalidRecord { .. } => ErrorCode::INVALID_RECORD,
        AppendError::InvalidTimestamp { .. } => ErrorCode::INVALID_TIMESTAMP,
        AppendError::OutOfOrderSequence { .. } => ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
        AppendError::InvalidProducerEpoch { .. } => ErrorCode::INVALID_PRODUCER_EPOCH,
        AppendError::InvalidTxnState(_) => ErrorCode::INVALID_TXN_STATE,
        AppendError::CoordinatorFenced(_) => ErrorCode::TRANSACTION_COORDINATOR_FENCED,
        // Clients do not choose offsets.
        AppendError::OffsetsOutOfOrder { .. } => ErrorCode::UNKNOWN_SERVER_ERROR,
    }
}

impl Partition {
    /// A partition over a log that has been opened and recovered, of which nobody has said yet who leads it.
    pub(crate) fn new(
        id: TopicPartition,
        topic_id: Uuid,
        high_watermark: Offset,
        log: Arc<Log>,
        flusher: Arc<Flusher>,
        metrics: Arc<TopicMetrics>,
    ) -> Arc<Self> {
        let high_watermark = high_watermark.min(log.log_end()).max(log.log_start());
        Arc::new(Partition {
            id,
            topic_id,
            log,
            waiting: Waiting::default(),
            flush_state: FlushState::default(),
            metrics,
            throttled: Throttled::default(),
            flusher,
            lane: AtomicUsize::new(0),
            role: RwLock::new(Role {
                leader_epoch: LeaderEpoch::NONE,
                leader: None,
                part: Part::Follower(Following::default()),
            }),
            high_watermark: AtomicI64::new(high_watermark.0),
            verifying: Mutex::default(),
            verification_next: AtomicU64::new(0),
            complains_at: AtomicI64::new(0),
            rot: Mutex::new(None),
        })
    }

    /// Which data directory the log lies in, for whoever flushes. What is queued already may be flushed from another one's lane.
    pub(crate) fn lane(&self) -> usize {
        self.lane.load(Ordering::Relaxed)
    }

    pub(crate) fn set_lane(&self, at: usize) {
        self.lane.store(at, Ordering::Relaxed);
    }

    // Who leads.

    /// The epoch of the partition's leader, as far as this broker knows.
    pub(crate) fn leader_epoch(&self) -> LeaderEpoch {
        self.role.read().leader_epoch
    }

    /// The leader and its epoch, as far as this broker knows.
    pub(crate) fn leader(&self) -> (Option<BrokerId>, LeaderEpoch) {
        let role = self.role.read();
        (role.leader, role.leader_epoch)
    }

    /// Whether this broker leads.
    pub(crate) fn is_leader(&self) -> bool {
        matches!(self.role.read().part, Part::Leader(_))
    }

    /// Refuses a request that only the leader may answer, or that carries another epoch than its (KIP-320).
    /// [`LeaderEpoch::NONE`] carries none.
    pub(crate) fn check_leader(&self, requested: LeaderEpoch) -> Result<(), ErrorCode> {
        let role = self.role.read();
        role.check_epoch(requested)?;
        match role.part {
            Part::Leader(_) => Ok(()),
            Part::Follower(_) => Err(ErrorCode::NOT_LEADER_OR_FOLLOWER),
        }
    }

    /// Refuses a request that carries an epoch of another leader.
    pub(crate) fn check_epoch(&self, requested: LeaderEpoch) -> Result<(), ErrorCode> {
        self.role.read().check_epoch(requested)
    }

    /// This broker leads from now on, or goes on leading with another set in sync.
    pub(crate) fn lead(&self, this: BrokerId, assignment: Assignment, now: Millis) {
        let mut role = self.role.write();
        let is_same_epoch = role.leader_epoch == assignment.leader_epoch;
        match &role.part {
            Part::Leader(leader) if is_same_epoch => {
                let mut leader = leader.lock();
                self.note_progress(&mut leader);
                let moved = leader.update(assignment, now);
                self.moved(moved);
                if !leader.has_enough_in_sync() {
                    self.waiting.fail_produces(ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND);
                }
            }
            Part::Leader(_) | Part::Follower(_) => {
                assert!(role.leader_epoch < assignment.leader_epoch, "epochs of a partition only rise");
                let leader_epoch = assignment.leader_epoch;
                self.waiting.fail(ErrorCode::NOT_LEADER_OR_FOLLOWER);
                self.log.assign_epoch(leader_epoch);
                // What the coordinator said was said to the leader of another epoch.
                self.verifying.lock().clear();
                let leader = Leader::new(LeaderStart {
                    this,
                    assignment,
                    high_watermark: self.high_watermark(),
                    log_end: self.log.log_end(),
                    durable_end: self.durable_end(),
                    now,
                });
                self.moved(Some(leader.high_watermark()));
                *role = Role { leader_epoch, leader: Some(this), part: Part::Leader(Mutex::new(leader)) };
            }
        }
    }

    /// Another broker leads from now on, or nobody. `progress` is told when more of the log is durable. False when nothing
    /// has changed.
    pub(crate) fn follow(
        &self,
        leader: Option<BrokerId>,
        leader_epoch: LeaderEpoch,
        progress: Option<Arc<Notify>>,
    ) -> bool {
        let mut role = self.role.write();
        if role.leader_epoch == leader_epoch
            && role.leader == leader
            && matches!(role.part, Part::Follower(_))
        {
            return false;
        }
        // What the coordinator said was said to the leader of another epoch.
        self.verifying.lock().clear();
        let following = Following { progress, is_compared: AtomicBool::new(false) };
        *role = Role { leader_epoch, leader, part: Part::Follower(following) };
        // Whoever waits here has to ask the other.
        self.waiting.fail(ErrorCode::NOT_LEADER_OR_FOLLOWER);
        true
    }

    // Watermarks.

    /// The end of what readers may see.
    pub(crate) fn high_watermark(&self) -> Offset {
        Offset(self.high_watermark.load(Ordering::Acquire))
    }

    /// The end of what a read_committed reader may see.
    pub(crate) fn last_stable_offset(&self) -> Offset {
        self.log.last_stable_offset(self.high_watermark())
    }

    /// This replica's vote for the high watermark.
    pub(crate) fn durable_end(&self) -> Offset {
        if self.log.config().flush_before_ack { self.log.flushed_end() } else { self.log.written_end() }
    }

    /// Whether enough replicas are in sync for `acks=all`.
    pub(crate) fn has_enough_in_sync(&self) -> bool {
        match &self.role.read().part {
            Part::Leader(leader) => leader.lock().has_enough_in_sync(),
            Part::Follower(_) => false,
        }
    }

    /// How many replicas are in sync, where this broker leads.
    pub(crate) fn in_sync(&self) -> Option<InSyncCount> {
        match &self.role.read().part {
            Part::Leader(leader) => {
                let leader = leader.lock();
                let assignment = leader.assignment();
                Some(InSyncCount {
                    in_sync: assignment.isr.len(),
                    in_sync_min: assignment.isr_min,
                    replicas: assignment.replicas.len(),
                })
            }
            Part::Follower(_) => None,
        }
    }

    /// Whether this broker leads and the replica is in sync with it.
    pub(crate) fn is_in_sync(&self, replica: BrokerId) -> bool {
        match &self.role.read().part {
            Part::Leader(leader) => leader.lock().assignment().isr.contains(&replica),
            Part::Follower(_) => false,
        }
    }

    /// The end of the log, and the epoch, where this broker leads, alone in sync, and its own disk is all that keeps readers from
    /// that end.
    pub(crate) fn unseen_end(&self) -> Option<(Offset, LeaderEpoch)> {
        let role = self.role.read();
        let Part::Leader(leader) = &role.part else { return None };
        let leader = leader.lock();
        let is_alone = leader.assignment().isr.len() == 1 && leader.has_enough_in_sync();
        let log_end = self.log.log_end();
        (is_alone && self.high_watermark() < log_end).then_some((log_end, role.leader_epoch))
    }

    /// Replicas in sync that are known to have everything below `offset`; of a follower, nobody.
    pub(crate) fn holders_of(&self, offset: Offset) -> Vec<BrokerId> {
        match &self.role.read().part {
            Part::Leader(leader) => {
                let leader = leader.lock();
                let has_it = |id: &BrokerId| leader.vote_of(*id).is_some_and(|vote| vote >= offset);
                leader.assignment().isr.iter().copied().filter(has_it).collect()
            }
            Part::Follower(_) => Vec::new(),
        }
    }

    /// Whether the high watermark has reached the leader's epoch: before, it may lie below what was told to readers (KIP-207).
    pub(crate) fn is_watermark_sure(&self) -> bool {
        match &self.role.read().part {
            Part::Leader(leader) => leader.lock().is_watermark_sure(),
            Part::Follower(_) => true,
        }
    }

    fn note_progress(&self, leader: &mut Leader) {
        // In this order: what is durable never lies beyond the end that is read after it.
        let durable = self.durable_end();
        let moved = leader.local_progress(self.log.log_end(), durable);
        self.moved(moved);
    }

    /// Stores where the high watermark has moved to, and wakes those who waited for that. Callers hold the leader's lock, or
    /// are the only fetcher of a follower, so it only rises.
    fn moved(&self, to: Option<Offset>) {
        let Some(to) = to else { return };
        if self.high_watermark.fetch_max(to.0, Ordering::AcqRel) < to.0 {
            self.assert_order();
            self.waiting.high_watermark_moved(to);
        }
    }

    /// The invariant of this module: log start <= last stable offset <= high watermark <= log end. Each may rise meanwhile,
    /// so the lower ones are read first.
    fn assert_order(&self) {
        let log_start = self.log.log_start();
        let last_stable = self.last_stable_offset();
        let high_watermark = self.high_watermark();
        let log_end = self.log.log_end();
        assert!(
            log_start <= last_stable && last_stable <= high_watermark && high_watermark <= log_end,
            "{}: log start {log_start}, last stable offset {last_stable}, high watermark {high_watermark}, log end {log_end}",
            self.id
        );
    }

    // Writing.

    /// Appends a client's or a coordinator's batches. When this returns they have offsets; they are safe once the
    /// high watermark has passed them.
    pub(crate) fn append(
        self: &Arc<Self>,
        records: Bytes,
        now: Millis,
        origin: Origin,
    ) -> Result<Led, NotAppended> {
        let role = self.role.read();
        let Part::Leader(leader) = &role.part else { return Err(NotAppended::NotLeader) };
        let append = Append { leader_epoch: role.leader_epoch, now, origin };
        let appended = self.log.append(records, append)?;
        if self.log.config().flush_before_ack {
            // Not by the flushed end: a checkpoint moves that too, and wakes nobody.
            if self.high_watermark() < self.log.log_end() {
                self.flusher.enqueue(self);
            }
        } else {
            self.note_progress(&mut leader.lock());
        }
        self.waiting.log_grew();
        Ok(Led { appended, leader_epoch: role.leader_epoch })
    }

    /// Whether everything below `required`, appended in `leader_epoch`, is safe.
    pub(crate) fn is_safe(&self, required: Offset, leader_epoch: LeaderEpoch) -> bool {
        self.role.read().leader_epoch == leader_epoch && self.high_watermark() >= required
    }

    /// Parks the part at `index` of a produce until everything below `required` is safe. What was appended in an epoch that is
    /// over may have been cut since, whatever the watermark says.
    pub(crate) fn park_produce(
        &self,
        required: Offset,
        leader_epoch: LeaderEpoch,
        produce: &Arc<ParkedProduce>,
        index: usize,
    ) {
        let role = self.role.read();
        let leader = match &role.part {
            Part::Leader(leader) if role.leader_epoch == leader_epoch => leader,
            Part::Leader(_) | Part::Follower(_) => {
                produce.decide(index, ErrorCode::NOT_LEADER_OR_FOLLOWER);
                return;
            }
        };
        self.waiting.park_produce(required, produce, index);
        if self.log.is_offline() {
            self.waiting.fail(ErrorCode::KAFKA_STORAGE_ERROR);
        } else if !self.log.is_open() {
            // Closed under a living broker: the topic is gone.
            self.waiting.fail(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        } else if self.high_watermark() >= required {
            self.waiting.high_watermark_moved(self.high_watermark());
        } else if !leader.lock().has_enough_in_sync() {
            // The set in sync shrank after the append; whoever waited then has been told.
            self.waiting.fail_produces(ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND);
        }
    }

    /// Flushes what has been appended so far, and answers those who waited for it. Blocks: for flush threads.
    pub(crate) fn flush(&self) -> Result<(), StorageError> {
        match self.log.flush() {
            Ok(_flushed_end) => {
                match &self.role.read().part {
                    Part::Leader(leader) => self.note_progress(&mut leader.lock()),
                    Part::Follower(following) => {
                        following.progress.iter().for_each(|progress| progress.notify_one());
                    }
                }
                Ok(())
            }
            // The topic was deleted meanwhile; who deletes it wakes those who wait.
            Err(StorageError::Closed) => Ok(()),
            Err(error) => {
                tracing::error!(partition = %self.id, %error, "the log goes offline");
                self.waiting.fail(ErrorCode::KAFKA_STORAGE_ERROR);
                Err(error)
            }
        }
    }

    // Reading.

    /// Finds what a reader at `from` gets, without reading it. The log may end before `upper` by now: a follower's is cut.
    pub(crate) fn read(&self, from: Offset, limits: ReadLimits) -> Result<Slice, ReadError> {
        self.log.read(from, limits)
    }

    // Replication, as the leader.

    /// A follower tells what it has, in a fetch whose history was compared with this log. True when the set in sync may want
    /// to change.
    pub(crate) fn follower_fetched(&self, fetched: Fetched) -> Result<bool, ErrorCode> {
        let role = self.role.read();
        let Part::Leader(leader) = &role.part else { return Err(ErrorCode::NOT_LEADER_OR_FOLLOWER) };
        let mut leader = leader.lock();
        if !leader.assignment().replicas.contains(&fetched.replica) {
            return Err(ErrorCode::UNKNOWN_LEADER_EPOCH);
        }
        self.note_progress(&mut leader);
        let moved = leader.fetched(fetched);
        self.moved(moved);
        Ok(may_join(&leader, fetched.replica))
    }

    /// A follower tells between its fetches what it has made durable while this broker led in `leader_epoch`; likewise.
    pub(crate) fn follower_acknowledged(&self, leader_epoch: LeaderEpoch, acknowledged: Fetched) -> bool {
        let role = self.role.read();
        let Part::Leader(leader) = &role.part else { return false };
        if role.leader_epoch != leader_epoch {
            return false;
        }
        let mut leader = leader.lock();
        self.note_progress(&mut leader);
        let moved = leader.acknowledged(acknowledged);
        self.moved(moved);
        may_join(&leader, acknowledged.replica)
    }

    /// The set in sync that the controller should be asked for, if it is time to.
    pub(crate) fn propose_isr(
        &self,
        now: Millis,
        lag_max_ms: i64,
        joins: impl Fn(BrokerId) -> bool,
    ) -> Option<(LeaderEpoch, IsrProposal)> {
        let role = self.role.read();
        let Part::Leader(leader) = &role.part else { return None };
        let mut leader = leader.lock();
        self.note_progress(&mut leader);
        Some((role.leader_epoch, leader.propose(now, lag_max_ms, joins)?))
    }

    /// Whom the controller was asked to take into the in-sync set, where this broker leads.
    pub(crate) fn joining(&self) -> Vec<BrokerId> {
        match &self.role.read().part {
            Part::Leader(leader) => leader.lock().joining(),
            Part::Follower(_) => Vec::new(),
        }
    }

    /// Whether a proposal of this epoch waits for the controller.
    pub(crate) fn is_proposing(&self, leader_epoch: LeaderEpoch) -> bool {
        let role = self.role.read();
        match &role.part {
            Part::Leader(leader) => role.leader_epoch == leader_epoch && leader.lock().is_proposing(),
            Part::Follower(_) => false,
        }
    }

    /// Whether this broker leads and others follow.
    pub(crate) fn has_followers(&self) -> bool {
        self.in_sync().is_some_and(|in_sync| in_sync.replicas > 1)
    }

    /// The controller did not take a proposal of this epoch.
    pub(crate) fn isr_refused(&self, leader_epoch: LeaderEpoch) {
        let role = self.role.read();
        if let Part::Leader(leader) = &role.part
            && role.leader_epoch == leader_epoch
        {
            let mut leader = leader.lock();
            let moved = leader.proposal_refused();
            self.moved(moved);
        }
    }

    // Replication, as a follower.

    /// Whether a complaint that may come many times a second is to be logged now.
    pub(crate) fn may_complain(&self, now: Millis) -> bool {
        let at = self.complains_at.load(Ordering::Relaxed);
        let next = now.0 + COMPLAIN_EVERY;
        let order = Ordering::Relaxed;
        now.0 >= at && self.complains_at.compare_exchange(at, next, order, order).is_ok()
    }

    /// Whether this broker follows a leader of this epoch; what a leader sent in another one is not for it.
    fn follows(role: &Role, leader_epoch: LeaderEpoch) -> bool {
        role.leader_epoch == leader_epoch && matches!(role.part, Part::Follower(_))
    }

    /// Appends what the leader of `leader_epoch` sent. False when it no longer leads.
    pub(crate) fn append_from_leader(
        self: &Arc<Self>,
        leader_epoch: LeaderEpoch,
        records: Bytes,
        now: Millis,
    ) -> Result<bool, AppendError> {
        let role = self.role.read();
        if !Self::follows(&role, leader_epoch) {
            return Ok(false);
        }
        self.log.append_as_follower(records, now)?;
        if self.log.config().flush_before_ack {
            self.flusher.enqueue(self);
        }
        Ok(true)
    }

    /// What the leader of `leader_epoch` may be told to be durable here: nothing before the log was compared with its.
    pub(crate) fn acknowledgeable_end(&self, leader_epoch: LeaderEpoch) -> Option<Offset> {
        let role = self.role.read();
        let Part::Follower(following) = &role.part else { return None };
        let is_compared = role.leader_epoch == leader_epoch && following.is_compared.load(Ordering::Acquire);
        is_compared.then(|| self.durable_end())
    }

    /// The leader of `leader_epoch` took this log for the beginning of its own, and says up to where records are safe, and
    /// where its log begins.
    pub(crate) fn follow_watermarks(
        &self,
        leader_epoch: LeaderEpoch,
        high_watermark: Offset,
        log_start: Offset,
    ) {
        let role = self.role.read();
        let Part::Follower(following) = &role.part else { return };
        if role.leader_epoch != leader_epoch {
            return;
        }
        following.is_compared.store(true, Ordering::Release);
        self.moved(Some(high_watermark.min(self.log.log_end())));
        let has_moved = log_start > self.log.log_start() && log_start <= self.high_watermark();
        if has_moved && let Err(error) = self.log.advance_log_start(log_start) {
            tracing::error!(partition = %self.id, %error, "the log's start could not follow the leader's");
        }
    }

    /// The leader of `leader_epoch` knows `diverging` as the largest epoch up to this log's last, and its end: cuts what is
    /// not the leader's. Blocks.
    pub(crate) fn cut_to_leader(
        &self,
        leader_epoch: LeaderEpoch,
        diverging: EpochEnd,
        now: Millis,
    ) -> Result<(), StorageError> {
        let role = self.role.write();
        if !Self::follows(&role, leader_epoch) {
            return Ok(());
        }
        let local = self.log.epoch_end_offset(diverging.epoch).map(|(epoch, end)| EpochEnd { epoch, end });
        let log_end = self.log.log_end();
        let cut = truncation(diverging, local, self.log.log_start(), log_end);
        if cut >= log_end {
            // An epoch in which this broker led and wrote nothing, and of which the leader has never heard.
            return self.log.truncate_to(log_end, now);
        }
        let high_watermark = self.high_watermark();
        if cut < high_watermark {
            tracing::error!(
                partition = %self.id, %cut, %high_watermark,
                "records that readers could see are cut: the leader does not have them (unclean election)"
            );
            self.high_watermark.store(cut.0, Ordering::Release);
        } else {
            tracing::info!(partition = %self.id, from = %log_end, to = %cut, "cut what the leader does not have");
        }
        self.log.truncate_to(cut, now)?;
        Ok(())
    }

    // Whether it can be relied on.

    /// Whether others should lead, and not count on this replica: its log takes nothing any more, or has rotted.
    pub(crate) fn is_out_of_service(&self) -> bool {
        !self.log.is_open() || self.has_rot()
    }

    /// Whether the log has rotted.
    pub(crate) fn has_rot(&self) -> bool {
        self.rot.lock().is_some()
    }

    /// The epoch in which rot was found that is still there: its leader, and those before it, may count on what was there.
    pub(crate) fn rot_known_in(&self) -> Option<LeaderEpoch> {
        self.rot.lock().map(|(_, epoch)| epoch)
    }

    /// Rot was found. The replica asks nobody for records until it is cut away.
    pub(crate) fn note_rot(&self, rot: Rot) {
        let role = self.role.read();
        *self.rot.lock() = Some((rot, role.leader_epoch));
    }

    /// Cuts what has rotted, for which nobody may count on this replica: what is missing then comes from the leader. False
    /// while this broker leads, or follows one that may remember what was there. Blocks.
    pub(crate) fn cut_rot(&self, now: Millis) -> Result<bool, StorageError> {
        let role = self.role.write();
        let mut rot = self.rot.lock();
        let (Part::Follower(following), Some((found, known_in))) = (&role.part, *rot) else {
            return Ok(false);
        };
        if role.leader_epoch <= known_in {
            return Ok(false);
        }
        following.is_compared.store(false, Ordering::Release);
        self.log.cut_rot(found, now)?;
        self.high_watermark.fetch_min(self.log.log_end().0, Ordering::AcqRel);
        *rot = None;
        Ok(true)
    }

    /// The leader's log begins after this one's end, or this one's lies outside of it: starts over at the leader's. Blocks.
    pub(crate) fn restart_at(
        &self,
        leader_epoch: LeaderEpoch,
        log_start: Offset,
    ) -> Result<(), StorageError> {
        let role = self.role.write();
        if !Self::follows(&role, leader_epoch) {
            return Ok(());
        }
        tracing::warn!(partition = %self.id, log_end = %self.log.log_end(), %log_start, "starting over where the leader's log begins");
        self.log.truncate_fully_at(log_start)?;
        self.high_watermark.store(log_start.0, Ordering::Release);
        Ok(())
    }
}

/// Whether a follower that is not in sync may want to be.
fn may_join(leader: &Leader, replica: BrokerId) -> bool {
    !leader.assignment().isr.contains(&replica) && !leader.is_proposing()
}

impl Role {
    fn check_epoch(&self, requested: LeaderEpoch) -> Result<(), ErrorCode> {
        match requested {
            LeaderEpoch::NONE => Ok(()),
            older if older < self.leader_epoch => Err(ErrorCode::FENCED_LEADER_EPOCH),
            newer if newer > self.leader_epoch => Err(ErrorCode::UNKNOWN_LEADER_EPOCH),
            _current => Ok(()),
        }
    }
}
