//! What holds a line's reading back, and nothing else of it: the throttle, and a pause that somebody asked for.
//!
//! While the gate is closed no records are taken. All else goes on: the group is answered, what is due is written, an end is an end. Short
//! waits leave what was fetched where it is; over long ones the consumer's partitions are paused, as it leaves its group if what it has
//! fetched is not taken for `max.poll.interval.ms`. Nothing is decided here about what is in hand: the line is told once that it is paused.

use std::time::Duration;

use client::{Consumer, Records};
use tokio::sync::watch;
use tokio::time::sleep;
use wire::TopicPartition;

use crate::throttle::Throttle;

/// What has become of a gate since it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turned {
    /// Nothing that the line has to do something about.
    Same,
    /// Somebody has paused the line: what is in hand is to be committed.
    Paused,
    /// Somebody lets it go on.
    Resumed,
}

/// The gate of one line.
pub(crate) struct Gate {
    throttle: Throttle,
    paused: watch::Receiver<bool>,
    /// From when on a wait is a long one.
    long: Duration,
    was_paused: bool,
    /// Whether the consumer's partitions are paused by this gate.
    is_held: bool,
}

impl Gate {
    /// `poll_interval_max` is for how long the consumer may be left waiting with what it has.
    pub(crate) fn new(
        throttle: Throttle,
        paused: watch::Receiver<bool>,
        poll_interval_max: Duration,
    ) -> Self {
        Self { throttle, paused, long: poll_interval_max / 4, was_paused: false, is_held: false }
    }

    /// So much was read: its size.
    pub(crate) fn took(&self, records: &Records) -> u64 {
        let bytes = records.iter().map(crate::columns::size).sum::<usize>() as u64;
        self.throttle.take(bytes);
        bytes
    }

    /// Whether records may be taken.
    pub(crate) fn is_open(&self) -> bool {
        !self.is_held && !self.is_paused() && self.throttle.wait().is_zero()
    }

    /// Whether the wait that is left is a long one.
    pub(crate) fn is_long(&self) -> bool {
        self.throttle.wait() > self.long
    }

    /// Whether somebody has paused the line.
    pub(crate) fn is_paused(&self) -> bool {
        *self.paused.borrow()
    }

    /// Has the consumer's partitions paused while the gate stays closed for long, those too that were assigned meanwhile. Called
    /// before records are waited for. What `is_let_go` names is paused for reasons of its own, and stays so.
    pub(crate) fn settle(
        &mut self,
        consumer: &Consumer,
        is_let_go: impl Fn(&TopicPartition) -> bool,
    ) -> Turned {
        let is_paused = self.is_paused();
        let is_held = is_paused || self.is_long();
        if is_held || self.is_held {
            let paused = consumer.paused();
            let assigned = consumer.assignment();
            let others = assigned.iter().filter(|name| paused.contains(name) != is_held && !is_let_go(name));
            // What is not assigned any more needs neither.
            let _ = match is_held {
                true => consumer.pause(others),
                false => consumer.resume(others),
            };
        }
        self.is_held = is_held;
        match (std::mem::replace(&mut self.was_paused, is_paused), is_paused) {
            (false, true) => Turned::Paused,
            (true, false) => Turned::Resumed,
            _ => Turned::Same,
        }
    }

    /// Ends when [`Gate::settle`] may find something else than it has.
    pub(crate) async fn turned(&self) {
        let mut paused = self.paused.clone();
        let was_paused = self.was_paused;
        let other = async move {
            // If nobody is left to say so, nobody does.
            if paused.wait_for(|is_paused| *is_paused != was_paused).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        if was_paused || self.is_open() {
            return other.await;
        }
        tokio::select! {
            () = other => {}
            () = sleep(self.throttle.wait().min(self.long)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use client::{Cluster, Options, Start, TokioEnvironment};
    use tokio::time::Instant;
    use wire::{PartitionId, Str};

    use super::*;

    fn partition(number: i32) -> TopicPartition {
        TopicPartition::new(Str::from("orders"), PartitionId(number))
    }

    /// One that reads from a broker that is not there.
    fn consumer() -> Consumer {
        let mut options = Options::default();
        options.set("bootstrap.servers", "127.0.0.1:1").unwrap();
        let consumer = Consumer::new(Cluster::new(options, Arc::new(TokioEnvironment)).unwrap());
        consumer
            .assign([(partition(0), Some(Start::Earliest)), (partition(1), Some(Start::Earliest))])
            .unwrap();
        consumer
    }

    const INTERVAL: Duration = Duration::from_secs(40);

    #[tokio::test(start_paused = true)]
    async fn a_short_wait_takes_nothing_back_and_a_long_one_pauses_what_is_fetched() {
        let consumer = consumer();
        let throttle = Throttle::new(Some(1000));
        let (_paused, receiver) = watch::channel(false);
        let mut gate = Gate::new(throttle.clone(), receiver, INTERVAL);
        throttle.take(5_000);
        assert_eq!(gate.settle(&consumer, |_| false), Turned::Same);
        assert!(!gate.is_open());
        assert!(consumer.paused().is_empty());

        // The other line takes something too.
        throttle.take(20_000);
        gate.settle(&consumer, |_| false);
        assert_eq!(consumer.paused(), [partition(0), partition(1)]);
        let begun = Instant::now();
        while !gate.is_open() {
            gate.turned().await;
            gate.settle(&consumer, |_| false);
        }
        assert_eq!(begun.elapsed().as_secs(), 25);
        assert!(consumer.paused().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_told_once_and_holds_what_is_assigned_later() {
        let consumer = consumer();
        let (paused, receiver) = watch::channel(false);
        let mut gate = Gate::new(Throttle::new(None), receiver, INTERVAL);
        assert_eq!(gate.settle(&consumer, |_| false), Turned::Same);
        assert!(gate.is_open());
        paused.send_replace(true);
        gate.turned().await;
        assert!(!gate.is_open());
        assert_eq!(gate.settle(&consumer, |_| false), Turned::Paused);
        consumer.assign([(partition(2), Some(Start::Earliest))]).unwrap();
        assert_eq!(gate.settle(&consumer, |_| false), Turned::Same);
        assert_eq!(consumer.paused(), [partition(0), partition(1), partition(2)]);
        paused.send_replace(false);
        gate.turned().await;
        // One of them is not to be read for another reason.
        assert_eq!(gate.settle(&consumer, |name| *name == partition(1)), Turned::Resumed);
        assert!(gate.is_open());
        assert_eq!(consumer.paused(), [partition(1)]);
    }
}
