//! Throttled replication: filling replicas that have moved leaves room for clients.
//!
//! Topics say which replicas are throttled (`leader.replication.throttled.replicas` and `follower.…`), brokers how fast
//! (`….throttled.rate`), as kafka-reassign-partitions sets them; so it does for moves between data directories. Invariant: only a replica that is not in
//! sync is held back, so that no acknowledgement ever waits for a throttle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use wire::{BrokerId, PartitionId};

use crate::broker::Broker;
use crate::partition::Partition;
use crate::settings::TopicSettings;

/// What was not spent is kept for so long.
const SAVED_MAX: Duration = Duration::from_secs(1);
/// When to look again at a rate of nothing.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The throttles of a broker.
#[derive(Default)]
pub(crate) struct Throttles {
    leading: Arc<Throttle>,
    following: Arc<Throttle>,
    between_dirs: Arc<Throttle>,
}

/// A throttle and its rate of the moment, in bytes per second.
pub(crate) struct Limit<'a> {
    throttle: &'a Arc<Throttle>,
    rate: u64,
}

/// The part of one partition in them.
#[derive(Default)]
pub(crate) struct Throttled {
    leading: AtomicBool,
    following: AtomicBool,
}

/// What one side may still move.
#[derive(Default)]
pub(crate) struct Throttle {
    account: Mutex<Account>,
}

/// Bytes that were moved and are not paid for by time yet; below zero, what is saved.
#[derive(Default)]
struct Account {
    owed: i64,
    settled: Option<Instant>,
}

impl Throttled {
    /// Takes over what the topic's settings say of the replica on this broker.
    pub(crate) fn update(&self, topic: &TopicSettings, partition: PartitionId, this: BrokerId) {
        let replica = format!("{partition}:{this}");
        let names = |list: &[String]| list.iter().any(|item| item == "*" || *item == replica);
        self.leading.store(names(&topic.leader_throttled_replicas), Ordering::Relaxed);
        self.following.store(names(&topic.follower_throttled_replicas), Ordering::Relaxed);
    }
}

impl Throttles {
    /// What limits how fast this broker sends a partition to a follower, if anything does.
    pub(crate) fn leading(
        &self,
        broker: &Broker,
        partition: &Partition,
        follower: BrokerId,
    ) -> Option<Limit<'_>> {
        let is_throttled = partition.throttled.leading.load(Ordering::Relaxed);
        let rate = || broker.settings().broker().replication.leader_throttle;
        (is_throttled && !partition.is_in_sync(follower))
            .then(|| Limit { throttle: &self.leading, rate: rate() })
    }

    /// What limits how fast this broker fetches a partition, if anything does.
    pub(crate) fn following(&self, broker: &Broker, partition: &Partition) -> Option<Limit<'_>> {
        if !partition.throttled.following.load(Ordering::Relaxed) {
            return None;
        }
        let image = broker.metadata.image();
        let known = image.topic_by_id(partition.topic_id);
        let known = known.and_then(|topic| topic.partition(partition.id.partition));
        let rate = || broker.settings().broker().replication.follower_throttle;
        known
            .is_some_and(|known| !known.isr.contains(&broker.node_id))
            .then(|| Limit { throttle: &self.following, rate: rate() })
    }
}

impl Throttles {
    /// What limits how fast replicas are copied from one data directory to another.
    pub(crate) fn between_dirs(&self, broker: &Broker) -> Limit<'_> {
        let rate = broker.settings().broker().replication.dirs_throttle;
        Limit { throttle: &self.between_dirs, rate }
    }
}

impl Limit<'_> {
    /// How long to wait until more may be moved; nothing if it may be now.
    pub(crate) fn wait(&self) -> Option<Duration> {
        self.throttle.wait(self.rate, Instant::now())
    }

    /// The most to move in one go.
    pub(crate) fn bytes_max(&self) -> usize {
        usize::try_from(self.rate).unwrap_or(usize::MAX)
    }

    pub(crate) fn throttle(&self) -> Arc<Throttle> {
        Arc::clone(self.throttle)
    }
}

impl Throttle {
    /// How long it takes until more may be moved at this rate in bytes per second; nothing if it may be now.
    fn wait(&self, rate: u64, now: Instant) -> Option<Duration> {
        let mut account = self.account.lock();
        account.settle(rate, now);
        let owed = u64::try_from(account.owed).ok().filter(|owed| *owed > 0 || rate == 0)?;
        let nanos = (u128::from(owed) * 1_000_000_000).checked_div(u128::from(rate));
        let nanos = nanos.map(|nanos| u64::try_from(nanos).unwrap_or(u64::MAX));
        Some(nanos.map_or(LOOK_AGAIN, Duration::from_nanos))
    }

    /// So much was moved.
    pub(crate) fn spend(&self, bytes: usize) {
        let mut account = self.account.lock();
        account.owed = account.owed.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

impl Account {
    fn settle(&mut self, rate: u64, now: Instant) {
        let elapsed = self.settled.map_or(SAVED_MAX, |settled| now.saturating_duration_since(settled));
        self.settled = Some(now);
        let paid = |time: Duration| {
            i64::try_from(u128::from(rate) * time.as_nanos() / 1_000_000_000).unwrap_or(i64::MAX)
        };
        self.owed = self.owed.saturating_sub(paid(elapsed)).max(-paid(SAVED_MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_spent_is_paid_for_by_time() {
        let throttle = Throttle::default();
        assert_eq!(throttle.wait(1_000, Instant::now()), None);
        throttle.spend(3_000);
        assert_eq!(throttle.wait(1_000, Instant::now()), Some(Duration::from_secs(2)), "a second was saved");
        tokio::time::advance(Duration::from_millis(1_500)).await;
        assert_eq!(throttle.wait(1_000, Instant::now()), Some(Duration::from_millis(500)));
        assert_eq!(throttle.wait(5_000, Instant::now()), Some(Duration::from_millis(100)), "a new rate");
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(throttle.wait(1_000, Instant::now()), None);
        throttle.spend(2_000);
        assert_eq!(throttle.wait(1_000, Instant::now()), Some(Duration::from_secs(1)), "no more is saved");
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_of_nothing_waits_for_another_one() {
        let throttle = Throttle::default();
        assert_eq!(throttle.wait(0, Instant::now()), Some(LOOK_AGAIN));
        throttle.spend(1);
        assert_eq!(throttle.wait(0, Instant::now()), Some(LOOK_AGAIN));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(throttle.wait(u64::MAX, Instant::now()), None);
    }
}
