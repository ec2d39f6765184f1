//! Reading records, of partitions that are named or that a group hands out.
//!
//! A task of its own ([`driver`]) keeps the membership, finds positions, fetches and commits, so that none of this waits
//! for the application. The application takes [`Records`] and says when it is done with them: only that is ever
//! committed, and what it drops undone comes again. What is fetched and not taken is bounded by `fetch.max.bytes` per
//! broker.

mod positions;
mod ledger;
mod fetched;
mod shared;
mod records;
mod protocol;
mod assignor;
mod sticky;
mod membership;
mod group;
mod offsets;
mod commit;
mod driver;
mod fetching;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use wire::{Offset, Str, TopicPartition, Uuid};

use crate::cluster::Cluster;
use crate::error::Error;
use crate::producer::ConsumerGroupMetadata;
use commit::{Committer, Within};
use driver::{Command, Driver, End};
use shared::{Shared, Taken, Wish};

pub use commit::Committed;
pub use offsets::{Assigned, CommittedOffsets, Offsets};
pub use positions::{Begin, Reached, Start, Watermarks};
pub(crate) use protocol::decode_assignment;
pub use records::{Record, Records, Singles};

/// Commands under way at most.
const COMMANDS_MAX: usize = 4;

/// Reads records.
///
/// It is a [`Stream`] of [`Records`]; [`Consumer::next`] is the same without a trait. A record counts as dealt with when
/// its records were told to be [done](Records::done), and only then is it committed: every `auto.commit.interval.ms`, before
/// its partition goes to another member, on [`Consumer::close`], and by [`Consumer::commit`]. So a crash repeats records
/// and never leaves one out.
///
/// Heartbeats and rebalances go on however long the application takes. If something waits for it for
/// `max.poll.interval.ms`, the consumer leaves its group so that others get the partitions, says so with
/// [`Error::PollInterval`], and joins again when it is asked for records.
///
/// An error of one partition ([`Error::Stopped`]) stops that partition until [`Consumer::seek`]; the others go on. After an
/// error that ends everything, the next item is `None`.
///
/// Dropped without being closed, it commits what is done in the background and leaves, without waiting for anything.
pub struct Consumer {
    shared: Arc<Shared>,
    cluster: Cluster,
    committer: Committer,
    commands: mpsc::Sender<Command>,
}

impl Consumer {
    /// Reads nothing yet. Where the group's committed offsets say where to begin. Needs a tokio runtime around it.
    pub fn new(cluster: Cluster) -> Self {
        let offsets = CommittedOffsets::new(cluster.clone());
        Self::with_offsets(cluster, Arc::new(offsets))
    }

    /// Reads nothing yet. A store of the reader's own says where to begin.
    pub fn with_offsets(cluster: Cluster, offsets: Arc<dyn Offsets>) -> Self {
        let shared = Arc::new(Shared::new());
        let committer = Committer::new(Arc::clone(&shared), cluster.clone());
        let (commands, queue) = mpsc::channel(COMMANDS_MAX);
        let driver = Driver::new(Arc::clone(&shared), cluster.clone(), offsets, committer.clone(), queue);
        tokio::spawn(driver.run());
        Self { shared, cluster, committer, commands }
    }

    // What to read.

    /// Reads what the group `group.id` hands out of these topics, instead of what it read of the group before.
    ///
    /// Refused without `group.id`, and while partitions are [assigned](Consumer::assign) by name.
    pub fn subscribe<T: Into<Str>>(&self, topics: impl IntoIterator<Item = T>) -> Result<(), Error> {
        let mut topics: Vec<Str> = topics.into_iter().map(Into::into).collect();
        topics.sort();
        topics.dedup();
        self.wish(Wish::Topics(topics))
    }

    /// Reads what the group `group.id` hands out of the topics whose whole names match, now or later.
    ///
    /// In the classic protocol the expression is Rust's [`regex`], and topics are looked at every `metadata.max.age.ms`; in the
    /// consumer protocol it is the broker's (RE2), which looks by itself. Refused as [`Consumer::subscribe`] is, and if it
    /// is no expression.
    pub fn subscribe_pattern(&self, pattern: &str) -> Result<(), Error> {
        group::compile(pattern)?;
        self.wish(Wish::Pattern(pattern.to_owned()))
    }

    fn wish(&self, wish: Wish) -> Result<(), Error> {
        if self.cluster.options().group_id.is_none() {
            return Err(Error::Option {
                key: "group.id".to_owned(),
                value: String::new(),
                allowed: "a name, to read as a member of a group".to_owned(),
            });
        }
        let mut state = self.shared.lock();
        if state.wish == Wish::Assigned {
            return Err(Error::Usage("partitions are assigned by name: unsubscribe first".to_owned()));
        }
        state.wish = wish;
        state.wishes += 1;
        drop(state);
        self.shared.driver.notify_one();
        Ok(())
    }

    /// Reads these partitions, besides those assigned before, from these places on; without a place, from where the store
    /// of offsets or else `auto.offset.reset` says. Refused while subscribed.
    pub fn assign(
        &self,
        partitions: impl IntoIterator<Item = (TopicPartition, Option<Start>)>,
    ) -> Result<(), Error> {
        let mut state = self.shared.lock();
        if !matches!(state.wish, Wish::Nothing | Wish::Assigned) {
            return Err(Error::Usage("topics are subscribed to: unsubscribe first".to_owned()));
        }
        state.wish = Wish::Assigned;
        state.wishes += 1;
        for (partition, start) in partitions {
            state.begin(partition, Uuid::ZERO, start.map(Begin::from));
        }
        drop(state);
        self.shared.driver.notify_one();
        Ok(())
    }

    /// Reads nothing any more: waits for what is in hand, for at most `default.api.timeout.ms`, commits what is done
    /// (unless `enable.auto.commit` is off), and leaves the group. Does nothing when nothing is read.
    pub async fn unsubscribe(&self) -> Result<Committed, Error> {
        self.end(End::Reading, self.cluster.options().default_api_timeout).await
    }

    /// As [`Consumer::unsubscribe`], within `timeout`, and for good. Three quarters of it are for what is in hand; what
    /// is still in hand then is not committed, but named.
    pub async fn close(self, timeout: Duration) -> Result<Committed, Error> {
        self.end(End::All, timeout).await
    }

    /// As [`Consumer::close`], and gone from the group at once also with `group.instance.id`: what [`Consumer::close`] leaves to such a
    /// member until `session.timeout.ms` is over, as it is expected back, goes to the others now (KIP-1092).
    pub async fn leave(self, timeout: Duration) -> Result<Committed, Error> {
        self.end(End::Membership, timeout).await
    }

    async fn end(&self, end: End, timeout: Duration) -> Result<Committed, Error> {
        let now = Instant::now();
        let (reply, ended) = oneshot::channel();
        let within = Within { hands: now + timeout * 3 / 4, end: now + timeout * 7 / 8 };
        let left = now + timeout;
        let command = Command { end, within, left, reply };
        let ending = async {
            match self.commands.send(command).await {
                Ok(()) => ended.await.unwrap_or(Err(Error::Closed)),
                Err(_) => Err(Error::Closed),
            }
        };
        // The driver keeps its time; should it be busy with an end before this one, it is waited for no longer either.
        match tokio::time::timeout_at(left + Duration::from_millis(100), ending).await {
            Ok(ended) => ended,
            Err(_) => {
                Err(Error::Timeout { doing: "closing the consumer".to_owned(), after: timeout, last: None })
            }
        }
    }

    /// What is read now.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        self.shared
            .lock()
            .slots
            .iter()
            .filter(|(_, slot)| !slot.is_leaving)
            .map(|(name, _)| name.clone())
            .collect()
    }

    // Where in it.

    /// Goes on elsewhere in a partition that is read, also in one that an error stopped. What is in hand of it no longer
    /// counts. Refused if the partition is not read.
    pub fn seek(&self, partition: &TopicPartition, begin: impl Into<Begin>) -> Result<(), Error> {
        let is_read = self.shared.lock().seek(partition, begin.into());
        self.shared.driver.notify_one();
        if is_read { Ok(()) } else { Err(Error::NotAssigned { partition: partition.clone() }) }
    }

    /// Reads nothing more of a partition until [`Consumer::seek`], for a reason that comes as [`Error::Stopped`] with the next
    /// items: what a reader does that finds something else there than it expected. What is in hand of it still counts.
    /// Refused if the partition is not read.
    pub fn stop(&self, partition: &TopicPartition, reason: Error) -> Result<(), Error> {
        let mut state = self.shared.lock();
        match state.slots.contains_key(partition) {
            true => state.stop(partition, reason),
            false => return Err(Error::NotAssigned { partition: partition.clone() }),
        }
        Ok(())
    }

    /// Hands out nothing of these partitions until [`Consumer::resume`], and fetches nothing for them. A partition that is
    /// assigned anew is not paused. Refused if one is not read; the others are paused then all the same.
    pub fn pause<'a>(&self, partitions: impl IntoIterator<Item = &'a TopicPartition>) -> Result<(), Error> {
        self.set_paused(partitions, true)
    }

    /// The opposite of [`Consumer::pause`].
    pub fn resume<'a>(&self, partitions: impl IntoIterator<Item = &'a TopicPartition>) -> Result<(), Error> {
        self.set_paused(partitions, false)
    }

    fn set_paused<'a>(
        &self,
        partitions: impl IntoIterator<Item = &'a TopicPartition>,
        is_paused: bool,
    ) -> Result<(), Error> {
        let mut outcome = Ok(());
        for partition in partitions {
            if !self.shared.lock().pause(partition, is_paused) {
                outcome = Err(Error::NotAssigned { partition: partition.clone() });
            }
        }
        self.shared.driver.notify_one();
        outcome
    }

    /// The partitions that are paused.
    pub fn paused(&self) -> Vec<TopicPartition> {
        self.shared
            .lock()
            .slots
            .iter()
            .filter(|(_, slot)| slot.is_paused)
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// The next offset to be handed out, once it is known.
    pub fn position(&self, partition: &TopicPartition) -> Option<Offset> {
        let state = self.shared.lock();
        let slot = state.slots.get(partition)?;
        slot.ledger.as_ref().map(|_| slot.position)
    }

    /// How far a partition is dealt with, once its position is known. Moves over what is not to be seen, as the ends of
    /// transactions are, when all before it is dealt with.
    pub fn reached(&self, partition: &TopicPartition) -> Option<Reached> {
        let state = self.shared.lock();
        let slot = state.slots.get(partition)?;
        let handled = slot.ledger.as_ref()?.handled();
        Some(Reached { next: handled.next, leader_epoch: handled.leader_epoch, committed: slot.committed })
    }

    /// The ends of a partition, as of the last fetch.
    pub fn watermarks(&self, partition: &TopicPartition) -> Option<Watermarks> {
        self.shared.lock().slots.get(partition)?.watermarks
    }

    /// How often a position turned out not to exist any more and reading went on where `auto.offset.reset` says, since this
    /// consumer was made. Each time is logged with the partition, the positions and the ends of the log.
    pub fn resets(&self) -> u64 {
        self.shared.lock().resets
    }

    /// What the group has committed for these partitions, read from its coordinator.
    pub async fn committed(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, Option<Offset>>, Error> {
        let found = CommittedOffsets::new(self.cluster.clone()).fetch(partitions).await?;
        let mut committed = BTreeMap::new();
        for (partition, begin) in found {
            let offset = begin?.and_then(|begin| match begin.start {
                Start::Offset(offset) => Some(offset),
                _ => None,
            });
            committed.insert(partition, offset);
        }
        Ok(committed)
    }

    /// Who this consumer is in its group, for a transaction that commits the offsets of these records
    /// ([`Transaction`](crate::Transaction)). Nobody as soon as one of them is not this consumer's any more:
    /// whoever reads its partition now does that work, and the transaction is to be aborted. Ask when all
    /// else of the transaction is sent; what happens to the group from then on, its coordinator notices.
    pub fn group_metadata<'a>(
        &self,
        records: impl IntoIterator<Item = &'a Records>,
    ) -> Option<ConsumerGroupMetadata> {
        let options = self.cluster.options();
        let group_id = options.group_id.as_deref().map(Str::copy_from)?;
        let state = self.shared.lock();
        // Both at once: who came back as another member may not speak for what it had before.
        let identity = state.identity.clone().filter(|identity| identity.epoch >= 0)?;
        if !records.into_iter().all(|records| records.counts_in(&state)) {
            return None;
        }
        drop(state);
        Some(ConsumerGroupMetadata {
            group_id,
            generation_id: identity.epoch,
            member_id: identity.member_id,
            group_instance_id: options.group_instance_id.as_deref().map(Str::copy_from),
        })
    }

    // Records.

    /// The next records, or an error; `None` when nothing is read, so that nothing can come.
    ///
    /// The future may be dropped: nothing is lost, the next call goes on.
    pub async fn next(&mut self) -> Option<Result<Records, Error>> {
        poll_fn(|context| self.poll_records(context)).await
    }

    /// Hands out records one by one, each with an acknowledgement of its own.
    pub fn singles(self) -> SingleStream {
        SingleStream { consumer: self, current: None }
    }

    /// Commits what is done with so far, trying for at most `default.api.timeout.ms`. Tells what moved, and how many
    /// acknowledgements came too late to count.
    pub async fn commit(&self) -> Result<Committed, Error> {
        let deadline = Instant::now() + self.cluster.options().default_api_timeout;
        let committed = self.committer.commit(None, deadline).await?;
        Ok(Committed { void: self.shared.lock().take_void(), ..committed })
    }

    fn poll_records(&self, context: &mut Context<'_>) -> Poll<Option<Result<Records, Error>>> {
        let records_max = self.cluster.options().poll_records_max;
        loop {
            let (mut receipt, packed, about) = match self.shared.take(records_max, context.waker()) {
                Taken::Nothing => return Poll::Pending,
                Taken::End => return Poll::Ready(None),
                Taken::Error(error) => return Poll::Ready(Some(Err(error))),
                Taken::Records { receipt, records, about } => {
                    return Poll::Ready(Some(Ok(Records::new(records, about, receipt))));
                }
                Taken::Packed { receipt, packed, about } => (receipt, packed, about),
            };
            match packed.unpack(receipt.partition(), receipt.first()) {
                // What is not to be seen is done with by passing it.
                Ok(records) if records.is_empty() => receipt.done(),
                Ok(mut records) => {
                    if records.len() > records_max {
                        self.shared.lock().put_back(&mut receipt, &mut records, about, records_max);
                    }
                    return Poll::Ready(Some(Ok(Records::new(records, about, receipt))));
                }
                Err(error) => {
                    let (partition, first) = (receipt.partition().clone(), receipt.first());
                    drop(receipt);
                    self.shared.lock().damaged(&partition, first, &error);
                }
            }
        }
    }
}

impl Stream for Consumer {
    type Item = Result<Records, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_records(context)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.shared.lock().is_dropped = true;
        self.shared.driver.notify_one();
    }
}

/// Records of a [`Consumer`] one by one. Those of a batch that were not taken yet go back when their partition is wanted
/// elsewhere.
pub struct SingleStream {
    consumer: Consumer,
    current: Option<Singles>,
}

impl SingleStream {
    /// The consumer, for all but taking records and [unsubscribing](SingleStream::unsubscribe): what is in hand there is in this
    /// stream's, too.
    pub fn consumer(&self) -> &Consumer {
        &self.consumer
    }

    /// Reads nothing any more, see [`Consumer::unsubscribe`]. Records that were not taken yet go back.
    pub async fn unsubscribe(&mut self) -> Result<Committed, Error> {
        self.current = None;
        self.consumer.unsubscribe().await
    }

    /// The next record, as [`Consumer::next`].
    pub async fn next(&mut self) -> Option<Result<Record, Error>> {
        poll_fn(|context| self.poll_record(context)).await
    }

    /// Closes the consumer, see [`Consumer::close`]. Records that were not taken yet go back.
    pub async fn close(mut self, timeout: Duration) -> Result<Committed, Error> {
        self.current = None;
        self.consumer.close(timeout).await
    }

    fn poll_record(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Record, Error>>> {
        loop {
            if self.current.as_ref().is_some_and(|current| !current.is_wanted()) {
                self.current = None;
            }
            if let Some(record) = self.current.as_mut().and_then(Iterator::next) {
                return Poll::Ready(Some(Ok(record)));
            }
            self.current = match std::task::ready!(self.consumer.poll_records(context)) {
                Some(Ok(records)) => Some(records.into_iter()),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            };
        }
    }
}

impl Stream for SingleStream {
    type Item = Result<Record, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_record(context)
    }
}
