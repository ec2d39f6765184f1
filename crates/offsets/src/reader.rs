//! Reading from the positions of a store.
//!
//! A [`Reader`] is a consumer whose partitions begin where the store says, and go on only while what comes continues what the store
//! has. It takes hold of a partition when it is assigned, and each [`Batch`] carries the claim that moves the position over it.
//! The position moves in order: a batch cannot be claimed before the one in front of it is stored. Its copy with the group
//! coordinator is written behind the store's, for everybody's tools and to notice a store that has lost something.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use client::{
    Admin, Assigned, Begin, BoxFuture, Cluster, Committed, Consumer, Environment, Error, Isolation,
    OffsetReset, OffsetSpec, Offsets, Options, Reached, Records, Start,
};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use wire::{ErrorCode, LeaderEpoch, Offset, Str, TopicPartition};

use crate::continuity::{self, Cause, First, Gap, Log, Policy};
use crate::key::{Key, ReaderName};
use crate::look::{Looked, is_compacted, look};
use crate::store::{Claim, Expected, Fence, Held, OffsetStore, Position, StoreError, Stored};

/// How a reader reads.
#[derive(Debug, Clone)]
pub struct ReaderOptions {
    /// Under which name its positions are kept. Also its group's, unless the client's options name one.
    pub name: ReaderName,
    /// Where to begin in a partition that was never read under this name.
    pub start: Start,
    /// What to do where the stored position cannot be continued.
    pub at_gap: Policy,
}

impl ReaderOptions {
    /// Begins at the oldest record, and stops at a gap.
    pub fn new(name: ReaderName) -> Self {
        Self { name, start: Start::Earliest, at_gap: Policy::Stop }
    }
}

/// Why a reader has no records to give.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReaderError {
    /// The stored position cannot be continued: that partition stops, and the others go on.
    #[error(transparent)]
    Gap(Box<Gap>),
    /// The store refused, or does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The batch before this one of the partition is not stored yet.
    #[error(
        "{key}: the records before {at} are not stored yet, the position is {stored}: batches are stored in order"
    )]
    OutOfOrder {
        /// The partition.
        key: Box<Key>,
        /// Where this batch begins.
        at: Offset,
        /// The position in the store.
        stored: Offset,
    },
    /// The partition has gone to another reader, or begins elsewhere by now. Roll back what was written of the batch.
    #[error("{partition} is not this reader's any more")]
    Gone {
        /// The partition.
        partition: TopicPartition,
    },
    /// The brokers, or the consumer.
    #[error(transparent)]
    Client(Error),
}

impl From<Error> for ReaderError {
    fn from(error: Error) -> Self {
        let inner = match &error {
            Error::Stopped { reason, .. } => reason,
            other => other,
        };
        if let Error::Store(source) = inner {
            if let Some(gap) = source.downcast_ref::<Gap>() {
                return Self::Gap(Box::new(gap.clone()));
            }
            if let Some(error) = source.downcast_ref::<StoreError>() {
                return Self::Store(error.clone());
            }
        }
        Self::Client(error)
    }
}

impl From<ReaderError> for Error {
    fn from(error: ReaderError) -> Self {
        match error {
            ReaderError::Client(error) => error,
            ReaderError::Gap(gap) => Self::Store(Arc::new(*gap)),
            ReaderError::Store(error) => Self::Store(Arc::new(error)),
            error => Self::Store(Arc::new(error)),
        }
    }
}

/// Reads topics from positions in a store.
pub struct Reader {
    consumer: Consumer,
    keeper: Arc<Keeper>,
    /// Partitions whose position turned out to lie outside of the log, and about which nothing is decided yet.
    passed: VecDeque<TopicPartition>,
    /// When positions are moved over tails in which there is nothing to handle.
    next_pass: Instant,
}

/// Records of one partition, and the right to move its position over them.
///
/// Dropped without [`Batch::stored`], they come again.
pub struct Batch {
    records: Records,
    keeper: Arc<Keeper>,
    /// Which time of holding the partition they came in.
    fence: Fence,
    /// The position that they continue.
    after: Offset,
}

/// Takes hold of partitions and says where they begin.
struct Keeper {
    cluster: Cluster,
    store: Arc<dyn OffsetStore>,
    options: ReaderOptions,
    holdings: Mutex<BTreeMap<TopicPartition, Holding>>,
    /// What is being taken hold of, each time under another number: what is given up meanwhile is not taken.
    taking: Mutex<BTreeMap<TopicPartition, u64>>,
    tickets: AtomicU64,
    /// Something was given up: whoever is taking hold looks whether it still should.
    given_up: Notify,
    resets: AtomicU64,
}

/// A partition that is held.
struct Holding {
    key: Key,
    fence: Fence,
    /// What the store has.
    stored: Position,
    /// Behind what was handed out.
    handed: Offset,
    /// What each batch continues that is not stored yet, by the offset it begins at: it may come again.
    after: BTreeMap<Offset, Offset>,
    /// A position behind the stored one, over nothing that was to be handled, that the store may have or not.
    passing: Option<Position>,
    /// Copies up to here are of before the place was chosen, until this reader's own has been written.
    over: Option<Offset>,
    /// Where the reading began.
    begun: Offset,
    log: Log,
}

impl Reader {
    /// Reads what the group hands out of these topics. Needs a tokio runtime around it.
    ///
    /// The client's options get `auto.offset.reset=none` and, unless they name a group, the reader's name for `group.id`.
    pub fn subscribe<T: Into<Str>>(
        client: Options,
        environment: Arc<dyn Environment>,
        store: Arc<dyn OffsetStore>,
        options: ReaderOptions,
        topics: impl IntoIterator<Item = T>,
    ) -> Result<Self, ReaderError> {
        let reader = Self::new(client, environment, store, options)?;
        reader.consumer.subscribe(topics)?;
        Ok(reader)
    }

    /// Reads these partitions, whoever else does: each is taken from the reader of this name that held it.
    pub fn assign(
        client: Options,
        environment: Arc<dyn Environment>,
        store: Arc<dyn OffsetStore>,
        options: ReaderOptions,
        partitions: impl IntoIterator<Item = TopicPartition>,
    ) -> Result<Self, ReaderError> {
        let reader = Self::new(client, environment, store, options)?;
        reader.consumer.assign(partitions.into_iter().map(|partition| (partition, None)))?;
        Ok(reader)
    }

    fn new(
        mut client: Options,
        environment: Arc<dyn Environment>,
        store: Arc<dyn OffsetStore>,
        options: ReaderOptions,
    ) -> Result<Self, ReaderError> {
        client.group_id.get_or_insert_with(|| options.name.to_string());
        // Where to go on is the store's and the policy's to say, never the consumer's.
        client.auto_offset_reset = OffsetReset::None;
        let cluster = Cluster::new(client, environment)?;
        let next_pass = Instant::now() + cluster.options().auto_commit_interval;
        let keeper = Arc::new(Keeper::new(cluster.clone(), store, options));
        let consumer = Consumer::with_offsets(cluster, Arc::clone(&keeper) as Arc<dyn Offsets>);
        Ok(Self { consumer, keeper, passed: VecDeque::new(), next_pass })
    }

    /// The next records, or an error; `None` when nothing is read. After an error of one partition the others go on.
    ///
    /// The future may be dropped: nothing is lost.
    pub async fn next(&mut self) -> Option<Result<Batch, ReaderError>> {
        loop {
            // Kept until it is decided, as this future may be dropped meanwhile.
            while let Some(partition) = self.passed.front().cloned() {
                let decided = self.keeper.passed(&partition).await;
                self.passed.pop_front();
                match decided {
                    Ok(Some(begin)) => {
                        if self.consumer.seek(&partition, begin).is_err() {
                            tracing::debug!(%partition, "it went to another reader meanwhile");
                        }
                    }
                    Ok(None) => {}
                    Err(error) => return Some(Err(error)),
                }
            }
            let next = tokio::select! {
                next = self.consumer.next() => next?,
                () = sleep_until(self.next_pass) => {
                    self.pass_tails().await;
                    self.next_pass = Instant::now() + self.keeper.cluster.options().auto_commit_interval;
                    continue;
                }
            };
            match next {
                Ok(records) => match self.keeper.hand_out(records).await {
                    Ok(HandOut::Batch(batch)) => return Some(Ok(batch)),
                    Ok(HandOut::Refused(partition, error)) => self.stop(&partition, error),
                    // They go to somebody else.
                    Ok(HandOut::Gone) => {}
                    Ok(HandOut::Gap(gap, fence)) => {
                        let partition = gap.key.partition.clone();
                        // It may have been given up meanwhile, and is not read then either.
                        let _ = match self.keeper.decide(gap, fence).await {
                            Ok(begin) => self.consumer.seek(&partition, begin),
                            Err(error) => self.consumer.stop(&partition, error.into()),
                        };
                    }
                    Err(error) => return Some(Err(error)),
                },
                Err(Error::Stopped { partition, reason })
                    if reason.code() == Some(ErrorCode::OFFSET_OUT_OF_RANGE) =>
                {
                    self.passed.push_back(partition);
                }
                Err(error) => return Some(Err(error.into())),
            }
        }
    }

    /// Moves the position over a batch whose results are where they belong, in a store of their own. Tries again while the store
    /// does not answer, for `default.api.timeout.ms`.
    pub async fn commit(&self, batch: Batch) -> Result<(), ReaderError> {
        let claim = batch.claim()?;
        match self.keeper.commit(&claim).await {
            Ok(()) => {
                batch.stored();
                Ok(())
            }
            Err(error) if error.is_retriable() => Err(error.into()),
            Err(error) => {
                self.stop(batch.partition(), error.clone());
                Err(error.into())
            }
        }
    }

    /// Moves positions over the ends of partitions where all is handled and what follows is not to be seen, as ends of
    /// transactions are. What fails now is done the next time, or ends the reading of its partition.
    async fn pass_tails(&self) {
        for partition in self.keeper.in_order() {
            let Some(reached) = self.consumer.reached(&partition) else { continue };
            let Err(error) = self.keeper.pass(&partition, reached).await else { continue };
            if error.is_retriable() {
                tracing::warn!(%partition, %error, "its position is moved later");
                return;
            }
            self.stop(&partition, error);
        }
    }

    /// Reads nothing more of a partition: the store would refuse its records again and again.
    fn stop(&self, partition: &TopicPartition, error: StoreError) {
        self.keeper.lock().remove(partition);
        if self.consumer.stop(partition, ReaderError::Store(error).into()).is_err() {
            // It has gone to another reader meanwhile.
            tracing::debug!(%partition, "it is not read any more");
        }
    }

    /// The consumer, to pause, resume and look at positions. It is not to be sought in: the store says where to read.
    pub fn consumer(&self) -> &Consumer {
        &self.consumer
    }

    /// How often the policy chose a place to go on at. Each time is logged.
    pub fn resets(&self) -> u64 {
        self.keeper.resets.load(Ordering::Relaxed)
    }

    /// Waits for the batches in hand, within `timeout`, and leaves. Never hangs.
    pub async fn close(self, timeout: Duration) -> Result<Committed, ReaderError> {
        let begun = Instant::now();
        if timeout_at(begun + timeout / 4, self.pass_tails()).await.is_err() {
            tracing::debug!("positions are not moved over what is not to be seen: the store takes too long");
        }
        Ok(self.consumer.close(timeout.saturating_sub(begun.elapsed())).await?)
    }
}

impl Batch {
    /// What moves the position over these records; to be committed together with their results, in order, one batch of a
    /// partition after the other. Then [`Batch::stored`] says that it has been.
    pub fn claim(&self) -> Result<Claim, ReaderError> {
        let holdings = self.keeper.lock();
        let partition = self.records.partition();
        let holding = holdings.get(partition).filter(|holding| holding.fence == self.fence);
        let Some(holding) = holding.filter(|_| self.records.is_wanted()) else {
            return Err(ReaderError::Gone { partition: partition.clone() });
        };
        if holding.stored.next != self.after {
            let (at, stored) = (self.records.position(), holding.stored.next);
            return Err(ReaderError::OutOfOrder { key: Box::new(holding.key.clone()), at, stored });
        }
        Ok(holding.claim(self.position()))
    }

    /// The claim is committed: the next batch of the partition can be claimed.
    pub fn stored(self) {
        let position = self.position();
        let mut holdings = self.keeper.lock();
        if let Some(holding) = holdings.get_mut(self.records.partition())
            && holding.fence == self.fence
        {
            holding.stored = position;
            holding.after = holding.after.split_off(&position.next);
        }
        drop(holdings);
        self.records.done();
    }

    fn position(&self) -> Position {
        Position { next: self.records.next_offset(), leader_epoch: self.records.leader_epoch() }
    }
}

impl Deref for Batch {
    type Target = Records;

    fn deref(&self) -> &Records {
        &self.records
    }
}

impl Keeper {
    fn new(cluster: Cluster, store: Arc<dyn OffsetStore>, options: ReaderOptions) -> Self {
        Self {
            cluster,
            store,
            options,
            holdings: Mutex::default(),
            taking: Mutex::default(),
            tickets: AtomicU64::new(0),
            given_up: Notify::new(),
            resets: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TopicPartition, Holding>> {
        self.holdings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks whether records continue what was handed out before.
    async fn hand_out(self: &Arc<Self>, records: Records) -> Result<HandOut, ReaderError> {
        match self.finish_passing(records.partition()).await {
            Err(error) if !error.is_retriable() => {
                return Ok(HandOut::Refused(records.partition().clone(), error));
            }
            outcome => outcome?,
        }
        let Some(expected) = self.lock().get(records.partition()).map(|holding| holding.expects(&records))
        else {
            return Ok(HandOut::Gone);
        };
        let mut first = First {
            base: records.base_offset(),
            offset: records[0].offset,
            log_start: records.watermarks().log_start,
            is_compacted: false,
        };
        if first.base > expected.position.next {
            first.is_compacted = is_compacted(&self.cluster, &records.partition().topic).await?;
        }
        if records.topic_id() != expected.key.topic_id {
            let next = expected.position.next;
            let gap = Gap {
                key: expected.key,
                cause: Cause::TopicRecreated,
                stored: next,
                expected: next,
                found: Some(first.base),
                log: Log { topic_id: records.topic_id(), start: first.log_start, ..expected.log },
            };
            return Ok(HandOut::Gap(Box::new(gap), expected.fence));
        }
        if let Err(gap) = continuity::check_first(&expected.key, expected.position, first, &expected.log) {
            return Ok(HandOut::Gap(gap, expected.fence));
        }
        let mut holdings = self.lock();
        let Some(holding) =
            holdings.get_mut(records.partition()).filter(|found| found.fence == expected.fence)
        else {
            return Ok(HandOut::Gone);
        };
        let after = holding.hand_out(&records);
        drop(holdings);
        Ok(HandOut::Batch(Batch { records, keeper: Arc::clone(self), fence: expected.fence, after }))
    }

    async fn look(&self, partitions: &[(TopicPartition, Option<Position>)]) -> Result<Looked, Error> {
        look(&self.cluster, self.cluster.options().group_id.as_deref(), partitions).await
    }

    // Over what is not to be seen.

    /// The partitions of which everything that was handed out is stored.
    fn in_order(&self) -> Vec<TopicPartition> {
        let holdings = self.lock();
        let in_order = holdings.iter().filter(|(_, holding)| holding.after.is_empty());
        in_order.map(|(partition, _)| partition.clone()).collect()
    }

    /// Moves a partition's position to where the consumer is, if nothing that was to be handled lies between. Asks the store once.
    async fn pass(&self, partition: &TopicPartition, reached: Reached) -> Result<(), StoreError> {
        if let Some(holding) = self.lock().get_mut(partition) {
            holding.pass(reached);
        }
        let Some(claim) = self.passing(partition) else { return Ok(()) };
        let patience = self.cluster.options().request_timeout;
        match timeout(patience, self.store.commit(&claim)).await {
            Ok(Ok(()) | Err(StoreError::AlreadyThere { .. })) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(StoreError::Silent { after: patience }),
        }
        self.has_passed(&claim);
        Ok(())
    }

    /// What was begun is finished before anything else happens to the position, as nobody knows whether the store has it.
    async fn finish_passing(&self, partition: &TopicPartition) -> Result<(), StoreError> {
        if let Some(claim) = self.passing(partition) {
            self.commit(&claim).await?;
            self.has_passed(&claim);
        }
        Ok(())
    }

    fn passing(&self, partition: &TopicPartition) -> Option<Claim> {
        let holdings = self.lock();
        let holding = holdings.get(partition)?;
        Some(holding.claim(holding.passing?))
    }

    fn has_passed(&self, claim: &Claim) {
        let mut holdings = self.lock();
        let holding = holdings.get_mut(&claim.key.partition).filter(|holding| holding.fence == claim.fence);
        if let Some(holding) = holding {
            holding.passing = None;
            holding.stored = claim.position;
            holding.handed = claim.position.next;
        }
    }

    /// The position lies outside of the log. Where to go on, if the policy says so.
    async fn passed(&self, partition: &TopicPartition) -> Result<Option<Begin>, ReaderError> {
        let held = |held: &Holding| (held.key.clone(), held.fence, held.stored, held.over);
        let Some((key, fence, stored, over)) = self.lock().get(partition).map(held) else {
            return Ok(None);
        };
        let was = Stored { position: stored, topic_id: key.topic_id, updated: wire::Millis(-1), over };
        let log = self.look(&[(partition.clone(), Some(stored))]).await?.log(&key, Some(&was))?;
        let gap = match continuity::check(&key, &was, &log) {
            // The consumer was refused, so that it is a truncation that has been written over since.
            Ok(position) => {
                let found = Some(log.end);
                let (stored, expected) = (position.next, position.next);
                Box::new(Gap { key: key.clone(), cause: Cause::Truncated, stored, expected, found, log })
            }
            Err(gap) => gap,
        };
        let begin = self.decide(gap, fence).await?;
        Ok(Some(begin))
    }

    /// At a gap: where to go on as the policy says, which is stored before anything is read there.
    async fn decide(&self, gap: Box<Gap>, fence: Fence) -> Result<Begin, ReaderError> {
        let Some(next) = gap.resolve(self.options.at_gap) else { return Err(ReaderError::Gap(gap)) };
        let position = Position { next, leader_epoch: LeaderEpoch::NONE };
        let key = Key { topic_id: gap.log.topic_id, ..gap.key.clone() };
        // The group's copy is of before. Should this reader die before it has moved, the next one has to know.
        let over = Some(gap.log.end);
        let claim = Claim { key, fence, expected: Expected::Anything, position, over };
        self.commit(&claim).await?;
        self.resets.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(
            partition = %gap.key.partition, reader = %gap.key.reader, cause = gap.cause.name(), stored = %gap.stored,
            to = %next, log_start = %gap.log.start, log_end = %gap.log.end, policy = ?self.options.at_gap,
            "the stored position cannot be continued, reading on as the policy says"
        );
        // What was done with before may come again from here on.
        self.hold(claim, Log { copy: None, ..gap.log });
        Ok(next.into())
    }

    fn hold(&self, claim: Claim, log: Log) {
        let Claim { key, fence, position, over, .. } = claim;
        let partition = key.partition.clone();
        let holding = Holding {
            key,
            fence,
            stored: position,
            handed: position.next,
            after: BTreeMap::new(),
            passing: None,
            over,
            begun: position.next,
            log,
        };
        self.lock().insert(partition, holding);
    }

    /// Commits, and tries again while the store does not answer. That it is there already is as good.
    async fn commit(&self, claim: &Claim) -> Result<(), StoreError> {
        match self.insisting(|| self.store.commit(claim)).await {
            Err(StoreError::AlreadyThere { .. }) => Ok(()),
            outcome => outcome,
        }
    }

    async fn insisting<'a, T>(
        &'a self,
        mut ask: impl FnMut() -> BoxFuture<'a, Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let options = self.cluster.options();
        let deadline = Instant::now() + options.default_api_timeout;
        let mut pause = options.retry_backoff;
        loop {
            let asked = timeout_at(deadline, ask()).await;
            match asked.unwrap_or_else(|_| Err(StoreError::Silent { after: options.default_api_timeout })) {
                Err(error) if error.is_retriable() && Instant::now() + pause < deadline => {
                    tracing::debug!(%error, "asking the store again");
                    sleep(pause).await;
                    pause = (pause * 2).min(options.retry_backoff_max);
                }
                outcome => return outcome,
            }
        }
    }

    fn taking(&self) -> MutexGuard<'_, BTreeMap<TopicPartition, u64>> {
        self.taking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes hold of partitions that were not given up since the tickets were drawn. Once one is given up, no more is asked of
    /// the store about it; and what is on its way there takes nothing from whoever takes hold after.
    async fn acquire(&self, keys: &[Key], tickets: &[u64]) -> Vec<Result<Held, ReaderError>> {
        let options = self.cluster.options();
        let deadline = Instant::now() + options.default_api_timeout;
        let mut pause = options.retry_backoff;
        let mut held: Vec<Option<Result<Held, ReaderError>>> = keys.iter().map(|_| None).collect();
        loop {
            let given_up = self.given_up.notified();
            tokio::pin!(given_up);
            given_up.as_mut().enable();
            for ((key, ticket), held) in keys.iter().zip(tickets).zip(&mut held) {
                if self.taking().get(&key.partition) != Some(ticket) {
                    *held = Some(Err(ReaderError::Gone { partition: key.partition.clone() }));
                }
            }
            let left: Vec<usize> = (0..keys.len()).filter(|&at| held[at].is_none()).collect();
            if left.is_empty() {
                return held.into_iter().flatten().collect();
            }
            let asked: Vec<Key> = left.iter().map(|&at| keys[at].clone()).collect();
            let taken = tokio::select! {
                biased;
                () = &mut given_up => continue,
                taken = timeout_at(deadline, self.store.acquire_all(&asked)) => taken,
            };
            let silent = StoreError::Silent { after: options.default_api_timeout };
            let taken = taken.unwrap_or_else(|_| left.iter().map(|_| Err(silent.clone())).collect());
            let may_ask_again = Instant::now() + pause < deadline;
            for (at, taken) in left.into_iter().zip(taken) {
                match taken {
                    Err(error) if error.is_retriable() && may_ask_again => {
                        tracing::debug!(%error, "asking the store again");
                    }
                    taken => held[at] = Some(taken.map_err(ReaderError::from)),
                }
            }
            if held.iter().any(Option::is_none) {
                tokio::select! {
                    biased;
                    () = given_up => {}
                    () = sleep(pause) => pause = (pause * 2).min(options.retry_backoff_max),
                }
            }
        }
    }

    /// Looks where a partition that is held goes on. The look is newer than the hold, so that whoever held it before has written
    /// nothing since.
    async fn take(&self, key: Key, held: Held, ticket: u64, looked: &Looked) -> Result<Begin, ReaderError> {
        if self.taking().get(&key.partition) != Some(&ticket) {
            return Err(ReaderError::Gone { partition: key.partition });
        }
        let log = looked.log(&key, held.stored.as_ref())?;
        let Some(stored) = held.stored else { return self.begin(key, held.fence, log).await };
        match continuity::check(&key, &stored, &log) {
            Ok(position) => {
                // A copy that counts was written since the place was chosen.
                let over = stored.over.filter(|_| log.copy.is_none());
                let claim = Claim { key, fence: held.fence, expected: Expected::Anything, position, over };
                self.hold(claim, log);
                Ok(Begin { start: Start::Offset(position.next), leader_epoch: position.leader_epoch })
            }
            Err(gap) => self.decide(gap, held.fence).await,
        }
    }

    /// Begins in a partition that was never read under this name. The place is stored first, so that a crash before the first
    /// commit begins there again, and not at an end that has moved on.
    async fn begin(&self, key: Key, fence: Fence, log: Log) -> Result<Begin, ReaderError> {
        let listed = self.insisting(|| self.store.list(&self.options.name)).await?;
        if let Err(gap) = continuity::check_new(&key, continuity::elsewhere(&key, &listed), &log) {
            return self.decide(gap, fence).await;
        }
        let at = match self.options.start {
            Start::At(time) => {
                let asked = [(key.partition.clone(), OffsetSpec::At(time))];
                let admin = Admin::new(self.cluster.clone());
                let listed = admin.list_offsets(&asked, Isolation::ReadUncommitted).await?;
                listed
                    .into_iter()
                    .next()
                    .map(|(_, listed)| listed)
                    .transpose()?
                    .and_then(|listed| listed.offset)
            }
            _ => None,
        };
        let next = self.options.start.resolve(log.start, log.end, at);
        let position = Position { next, leader_epoch: LeaderEpoch::NONE };
        let claim = Claim { key, fence, expected: Expected::Nothing, position, over: None };
        self.commit(&claim).await?;
        self.hold(claim, log);
        Ok(next.into())
    }
}

/// What becomes of records.
enum HandOut {
    Batch(Batch),
    /// The store refuses to move the position to them.
    Refused(TopicPartition, StoreError),
    /// They do not continue what this holder has.
    Gap(Box<Gap>, Fence),
    /// Their partition is not held.
    Gone,
}

/// What a partition's next records have to continue.
struct Expects {
    key: Key,
    fence: Fence,
    position: Position,
    log: Log,
}

impl Holding {
    fn expects(&self, records: &Records) -> Expects {
        // The consumer's position has no holes: it moves over the ends of transactions, which nobody gets to see.
        let position = Position { next: records.position(), leader_epoch: self.stored.leader_epoch };
        Expects { key: self.key.clone(), fence: self.fence, position, log: self.log }
    }

    /// What moves the position from where it is.
    fn claim(&self, position: Position) -> Claim {
        let expected = Expected::At(self.stored.next);
        Claim { key: self.key.clone(), fence: self.fence, expected, position, over: self.over }
    }

    /// Nothing that was to be handled lies between the position and where the consumer is.
    fn pass(&mut self, reached: Reached) {
        // What is on its way has to be there or not before anything else is.
        if !self.after.is_empty() || self.passing.is_some() {
            return;
        }
        let has_copy_moved = reached.committed.is_some_and(|committed| committed > self.begun);
        let is_forgotten = has_copy_moved && self.over.take().is_some();
        if reached.next > self.stored.next {
            self.passing = Some(Position { next: reached.next, leader_epoch: reached.leader_epoch });
        } else if is_forgotten {
            self.passing = Some(self.stored);
        }
    }

    /// Notes them, and gives the position that they continue.
    fn hand_out(&mut self, records: &Records) -> Offset {
        let at = records.position();
        let after = match self.after.get(&at) {
            Some(&after) => after,
            None if at < self.handed => at,
            None => self.handed,
        };
        self.after.insert(at, after);
        self.handed = records.next_offset();
        after
    }
}

impl Offsets for Keeper {
    fn load<'a>(&'a self, assigned: &'a [Assigned]) -> BoxFuture<'a, Vec<Result<Option<Begin>, Error>>> {
        Box::pin(async move {
            let partitions: Vec<_> = assigned.iter().map(|assigned| assigned.partition.clone()).collect();
            let tickets: Vec<u64> =
                partitions.iter().map(|_| self.tickets.fetch_add(1, Ordering::Relaxed)).collect();
            self.taking().extend(partitions.iter().cloned().zip(tickets.iter().copied()));
            let cluster_id = match self.cluster.id().await {
                Ok(id) => id.to_string(),
                Err(error) => return partitions.iter().map(|_| Err(error.clone())).collect(),
            };
            let keys = assigned.iter().map(|assigned| Key {
                reader: self.options.name.clone(),
                cluster_id: cluster_id.clone(),
                partition: assigned.partition.clone(),
                topic_id: assigned.topic_id,
            });
            let keys: Vec<Key> = keys.collect();
            let held = self.acquire(&keys, &tickets).await;
            let positions = held.iter().map(|held| Some(held.as_ref().ok()?.stored?.position));
            let positions: Vec<_> = partitions.iter().cloned().zip(positions).collect();
            let looked = match self.look(&positions).await {
                Ok(looked) => looked,
                Err(error) => return partitions.iter().map(|_| Err(error.clone())).collect(),
            };
            let mut begins = Vec::with_capacity(assigned.len());
            for ((held, key), &ticket) in held.into_iter().zip(keys).zip(&tickets) {
                let partition = key.partition.clone();
                let begin = match held {
                    Ok(held) => self.take(key, held, ticket, &looked).await,
                    Err(error) => Err(error),
                };
                begins.push(match begin {
                    Ok(begin) => Ok(Some(begin)),
                    // What may go well later is asked again.
                    Err(ReaderError::Store(error)) if error.is_retriable() => Err(Error::Timeout {
                        doing: format!("taking hold of {partition}"),
                        after: self.cluster.options().default_api_timeout,
                        last: Some(Box::new(ReaderError::Store(error).into())),
                    }),
                    Err(error) => Err(error.into()),
                });
            }
            begins
        })
    }

    fn revoked<'a>(&'a self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, ()> {
        self.lost(partitions);
        Box::pin(async {})
    }

    fn lost(&self, partitions: &[TopicPartition]) {
        let (mut taking, mut holdings) = (self.taking(), self.lock());
        for partition in partitions {
            taking.remove(partition);
            holdings.remove(partition);
        }
        drop((taking, holdings));
        self.given_up.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use broker::embedded::EmbeddedBroker;
    use client::{
        Admin, Assigned, BoxFuture, Cluster, Execution, NewTopic, Offsets, Options, TokioEnvironment,
    };
    use tokio::sync::Notify;
    use wire::{PartitionId, TopicPartition, Uuid};

    use super::{Keeper, ReaderOptions};
    use crate::key::{Key, ReaderName};
    use crate::memory::MemoryStore;
    use crate::store::{Claim, Held, OffsetStore, StoreError, Stored};

    /// A store that takes hold only when it is let.
    struct Slow {
        store: MemoryStore,
        is_asked: Notify,
        go_on: Notify,
    }

    impl OffsetStore for Slow {
        fn acquire<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Held, StoreError>> {
            Box::pin(async move {
                let going_on = self.go_on.notified();
                self.is_asked.notify_one();
                going_on.await;
                self.store.acquire(key).await
            })
        }

        fn commit<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<(), StoreError>> {
            self.store.commit(claim)
        }

        fn list<'a>(
            &'a self,
            reader: &'a ReaderName,
        ) -> BoxFuture<'a, Result<Vec<(Key, Stored)>, StoreError>> {
            self.store.list(reader)
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_partition_that_is_lost_while_it_is_taken_is_not_taken() {
        let broker = EmbeddedBroker::start().unwrap();
        let mut options = Options::default();
        options.set("bootstrap.servers", &broker.bootstrap_servers()).unwrap();
        let cluster = Cluster::new(options, Arc::new(TokioEnvironment)).unwrap();
        let topic =
            NewTopic { name: "orders".into(), partitions: Some(2), replicas: Some(1), configs: Vec::new() };
        let created = Admin::new(cluster.clone()).create_topics(&[topic], Execution::Apply).await.unwrap();
        assert!(created.iter().all(|(_, created)| created.is_ok()));

        let memory = MemoryStore::new(Arc::new(TokioEnvironment));
        let slow = Slow { store: memory.clone(), is_asked: Notify::new(), go_on: Notify::new() };
        let slow = Arc::new(slow);
        let name: ReaderName = "billing".parse().unwrap();
        let store = Arc::clone(&slow) as Arc<dyn OffsetStore>;
        let keeper = Arc::new(Keeper::new(cluster.clone(), store, ReaderOptions::new(name.clone())));
        let topic_id = Uuid([7; 16]);
        let partition = |id| TopicPartition::new("orders", PartitionId(id));
        let assigned = [0, 1].map(|id| Assigned { partition: partition(id), topic_id, epoch: 1 });
        let loading = tokio::spawn({
            let keeper = Arc::clone(&keeper);
            async move { keeper.load(&assigned).await }
        });
        slow.is_asked.notified().await;
        keeper.lost(&[partition(0)]);
        // The other one is asked about again, without it.
        slow.is_asked.notified().await;
        slow.go_on.notify_waiters();
        let begins = loading.await.unwrap();
        assert_eq!(
            begins[0].as_ref().map(drop).unwrap_err().to_string(),
            "orders-0 is not this reader's any more"
        );
        assert!(begins[1].is_ok());
        let held = memory.survey(&name).await.unwrap();
        let held: Vec<_> = held.into_iter().map(|seen| seen.unwrap().key.partition).collect();
        assert_eq!(held, [partition(1)], "no fence was taken of what was lost");
    }
}
