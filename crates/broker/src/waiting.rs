//! Requests that wait for a partition: the fetch that is parked until there is enough to read, and the produce
//! that is parked until its records are below the high watermark.
//!
//! Invariant: whoever parks looks at the partition once more *after* parking, so that a watermark that moved in
//! between is never missed. Nothing here holds a thread or a lock while it waits, and a waiter whose request is
//! gone is dropped at the next wake-up of its partition.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;
use wire::{ErrorCode, Offset};

/// A fetch that found too little to answer with. One of these is shared by all partitions that the fetch names;
/// the first of them that has something new wakes it.
#[derive(Debug, Default)]
pub(crate) struct ParkedFetch {
    wake: Notify,
    woken: AtomicBool,
    recalled: AtomicBool,
}

impl ParkedFetch {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Waits until one of the partitions it was parked at has moved since.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Has the fetch answered with what there is: its sender has something else to ask for.
    pub(crate) fn recall(&self) {
        self.recalled.store(true, Ordering::Release);
        self.wake();
    }

    /// Whether the fetch was woken to be answered at once.
    pub(crate) fn is_recalled(&self) -> bool {
        self.recalled.load(Ordering::Acquire)
    }

    fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            self.wake.notify_one();
        }
    }
}

/// A produce with acks=all that waits for several partitions. It is woken once, by the last of them.
#[derive(Debug)]
pub(crate) struct ParkedProduce {
    remaining: AtomicUsize,
    wake: Notify,
    /// One a partition, in the order of the request: an error code, or [`UNDECIDED`].
    outcomes: Box<[AtomicI32]>,
}

/// Outside the range of error codes.
const UNDECIDED: i32 = i32::MIN;

impl ParkedProduce {
    /// A produce that waits for `partitions` partitions.
    pub(crate) fn new(partitions: usize) -> Arc<Self> {
        assert!(partitions > 0, "a produce that waits for nothing is answered at once");
        Arc::new(ParkedProduce {
            remaining: AtomicUsize::new(partitions),
            wake: Notify::new(),
            outcomes: (0..partitions).map(|_| AtomicI32::new(UNDECIDED)).collect(),
        })
    }

    /// Waits until every partition has reached its offset or failed.
    pub(crate) async fn finished(&self) {
        while self.remaining.load(Ordering::Acquire) > 0 {
            self.wake.notified().await;
        }
    }

    /// What the partition at `index` came to; `None` while it has not reached its offset.
    pub(crate) fn outcome(&self, index: usize) -> Option<ErrorCode> {
        match self.outcomes[index].load(Ordering::Acquire) {
            UNDECIDED => None,
            code => Some(ErrorCode(code as i16)),
        }
    }

    /// Answers for the partition at `index`, which has not answered yet.
    pub(crate) fn decide(&self, index: usize, error: ErrorCode) {
        let before = self.outcomes[index].swap(i32::from(error.0), Ordering::AcqRel);
        assert!(before == UNDECIDED, "a partition answered a produce twice");
        if self.remaining.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.wake.notify_one();
        }
    }
}

/// One partition's part of a parked produce: done when the high watermark reaches `required`.
#[derive(Debug)]
struct ProduceWaiter {
    required: Offset,
    produce: Arc<ParkedProduce>,
    index: usize,
}

/// The requests parked at one partition.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    fetches: Mutex<Vec<Arc<ParkedFetch>>>,
    /// Followers read up to the log's end and wait for that to move.
    followers: Mutex<Vec<Arc<ParkedFetch>>>,
    has_followers: AtomicBool,
    produces: Mutex<Vec<ProduceWaiter>>,
}

impl Waiting {
    /// Parks a fetch until the partition changes in a way that a reader can see.
    pub(crate) fn park_fetch(&self, fetch: &Arc<ParkedFetch>) {
        let mut fetches = self.fetches.lock();
        // A fetch that timed out leaves its entry behind; on an idle partition they are swept here, so that the
        // list never grows past twice the number of live readers.
        if fetches.len() == fetches.capacity() {
            fetches.retain(|parked| Arc::strong_count(parked) > 1);
        }
        fetches.push(Arc::clone(fetch));
    }

    /// Parks a follower's fetch until the log grows.
    pub(crate) fn park_follower(&self, fetch: &Arc<ParkedFetch>) {
        let mut followers = self.followers.lock();
        if followers.len() == followers.capacity() {
            followers.retain(|parked| Arc::strong_count(parked) > 1);
        }
        followers.push(Arc::clone(fetch));
        self.has_followers.store(true, Ordering::Release);
    }

    /// Wakes the followers: there is more to fetch.
    pub(crate) fn log_grew(&self) {
        // A follower that parks meanwhile looks at the log once more.
        if self.has_followers.load(Ordering::Acquire) {
            self.wake_followers();
        }
    }

    fn wake_followers(&self) {
        let mut followers = self.followers.lock();
        self.has_followers.store(false, Ordering::Release);
        for fetch in followers.drain(..) {
            fetch.wake();
        }
    }

    /// How many fetches are parked here.
    pub(crate) fn fetches_parked(&self) -> usize {
        // One that nobody else holds has timed out, and is swept later.
        self.fetches.lock().iter().filter(|parked| Arc::strong_count(parked) > 1).count()
    }

    /// Parks the part at `index` of a produce until the high watermark reaches `required`.
    pub(crate) fn park_produce(&self, required: Offset, produce: &Arc<ParkedProduce>, index: usize) {
        self.produces.lock().push(ProduceWaiter { required, produce: Arc::clone(produce), index });
    }

    /// Wakes every parked fetch, and the produces that the new high watermark satisfies.
    pub(crate) fn high_watermark_moved(&self, high_watermark: Offset) {
        self.wake_fetches();
        self.finish_produces(ErrorCode::NONE, |waiter| waiter.required <= high_watermark);
    }

    /// Wakes everything: the partition can no longer serve, for the reason in `error`.
    pub(crate) fn fail(&self, error: ErrorCode) {
        self.wake_fetches();
        self.wake_followers();
        self.finish_produces(error, |_| true);
    }

    /// Answers the produces that wait, for the reason in `error`; readers go on waiting.
    pub(crate) fn fail_produces(&self, error: ErrorCode) {
        self.finish_produces(error, |_| true);
    }

    /// Wakes every parked fetch.
    pub(crate) fn wake_fetches(&self) {
        for fetch in self.fetches.lock().drain(..) {
            fetch.wake();
        }
    }

    fn finish_produces(&self, error: ErrorCode, is_done: impl Fn(&ProduceWaiter) -> bool) {
        let mut produces = self.produces.lock();
        produces.retain(|waiter| {
            let done = is_done(waiter);
            if done {
                waiter.produce.decide(waiter.index, error);
            }
            !done
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_produce_wakes_when_its_last_partition_is_done() {
        let (first, second) = (Waiting::default(), Waiting::default());
        let produce = ParkedProduce::new(2);
        first.park_produce(Offset(10), &produce, 0);
        second.park_produce(Offset(5), &produce, 1);

        first.high_watermark_moved(Offset(9));
        assert_eq!(produce.outcome(0), None);
        first.high_watermark_moved(Offset(10));
        assert_eq!(produce.outcome(0), Some(ErrorCode::NONE));
        second.fail(ErrorCode::KAFKA_STORAGE_ERROR);
        produce.finished().await;
        assert_eq!(produce.outcome(1), Some(ErrorCode::KAFKA_STORAGE_ERROR));
    }

    #[tokio::test]
    async fn a_fetch_parked_at_two_partitions_is_woken_by_either() {
        let (first, second) = (Waiting::default(), Waiting::default());
        let fetch = ParkedFetch::new();
        first.park_fetch(&fetch);
        second.park_fetch(&fetch);
        second.high_watermark_moved(Offset(1));
        fetch.woken().await;
    }

    #[test]
    fn fetches_that_timed_out_do_not_pile_up_on_an_idle_partition() {
        let waiting = Waiting::default();
        for _ in 0..10_000 {
            waiting.park_fetch(&ParkedFetch::new());
        }
        assert!(waiting.fetches.lock().len() <= 8);
    }
}
