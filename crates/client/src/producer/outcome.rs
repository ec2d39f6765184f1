//! What becomes of a batch, and who waits to hear it.
//!
//! All records of a batch share one [`Outcome`]; a [`DeliveryHandle`] is a place in it, so a record that is sent
//! costs no allocation of its own. An outcome is settled once; a [`Promise`] that is dropped settles it, so nobody
//! waits for ever.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::Semaphore;
use wire::{Millis, Offset, TopicPartition};

use super::Delivery;
use crate::error::Error;

/// What became of a batch.
#[derive(Debug)]
pub(super) struct Outcome {
    partition: TopicPartition,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Pending(Vec<Waker>),
    Settled(Result<Appended, Error>),
    /// It went on as two, the first with so many of its records.
    Split(u32, [Arc<Outcome>; 2]),
}

/// Where a batch was appended.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Appended {
    /// The offset of its first record, if the broker said so.
    pub(super) base: Option<Offset>,
    /// The time of arrival, where the topic counts that.
    pub(super) time: Option<Millis>,
}

impl Outcome {
    /// Registers whoever polls as `slot`, unless there is something to see.
    fn poll(&self, context: &mut Context<'_>, slot: &mut Option<usize>) -> Poll<Seen> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            State::Settled(result) => Poll::Ready(Seen::Settled(result.clone())),
            State::Split(first, halves) => Poll::Ready(Seen::Split(*first, halves.clone())),
            State::Pending(wakers) => {
                match slot.and_then(|slot| wakers.get_mut(slot)) {
                    Some(waker) => waker.clone_from(context.waker()),
                    None => {
                        *slot = Some(wakers.len());
                        wakers.push(context.waker().clone());
                    }
                }
                Poll::Pending
            }
        }
    }

    /// Tells those who wait. Only the first telling counts.
    pub(super) fn settle(&self, result: Result<Appended, Error>) {
        self.set(State::Settled(result));
    }

    /// Sets the state, if nothing was settled before, and wakes who waits.
    fn set(&self, next: State) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State::Pending(wakers) = &mut *state else { return };
        let wakers = std::mem::take(wakers);
        *state = next;
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(super) fn is_settled(&self) -> bool {
        !matches!(*self.state.lock().unwrap_or_else(PoisonError::into_inner), State::Pending(_))
    }
}

enum Seen {
    Settled(Result<Appended, Error>),
    Split(u32, [Arc<Outcome>; 2]),
}

/// Waits until all of these are settled, however.
pub(super) async fn settled(mut outcomes: Vec<Arc<Outcome>>) {
    while let Some(outcome) = outcomes.pop() {
        let mut slot = None;
        if let Seen::Split(_, halves) = poll_fn(|context| outcome.poll(context, &mut slot)).await {
            outcomes.extend(halves);
        }
    }
}

/// The duty to settle an outcome, and what its records hold of the buffer until then.
pub(super) struct Promise {
    outcome: Arc<Outcome>,
    memory: Arc<Semaphore>,
    bytes: usize,
}

impl Promise {
    pub(super) fn new(partition: TopicPartition, memory: Arc<Semaphore>) -> Self {
        let outcome = Outcome { partition, state: Mutex::new(State::Pending(Vec::new())) };
        Self { outcome: Arc::new(outcome), memory, bytes: 0 }
    }

    /// Takes over so many bytes of the buffer.
    pub(super) fn hold(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn outcome(&self) -> Arc<Outcome> {
        Arc::clone(&self.outcome)
    }

    pub(super) fn is_settled(&self) -> bool {
        self.outcome.is_settled()
    }

    /// Tells those who wait. Only the first telling counts.
    pub(super) fn settle(&self, result: Result<Appended, Error>) {
        self.outcome.settle(result);
    }

    /// Two promises in the place of this one, the first for so many of its records.
    pub(super) fn split(mut self, first: u32) -> [Promise; 2] {
        let half = |bytes| {
            let mut half = Promise::new(self.outcome.partition.clone(), Arc::clone(&self.memory));
            half.hold(bytes);
            half
        };
        let halves = [half(self.bytes / 2), half(self.bytes - self.bytes / 2)];
        self.bytes = 0;
        self.outcome.set(State::Split(first, [halves[0].outcome(), halves[1].outcome()]));
        halves
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.settle(Err(Error::Closed));
        self.memory.add_permits(self.bytes);
    }
}

/// Resolves when the record is delivered or given up. Dropping it does not take the record back.
#[must_use = "a record that nobody asks about may fail unnoticed"]
#[derive(Debug)]
pub struct DeliveryHandle {
    outcome: Arc<Outcome>,
    /// The record's place in the batch.
    index: u32,
    timestamp: Millis,
    slot: Option<usize>,
}

impl DeliveryHandle {
    pub(super) fn new(outcome: Arc<Outcome>, index: u32, timestamp: Millis) -> Self {
        Self { outcome, index, timestamp, slot: None }
    }
}

impl Future for DeliveryHandle {
    type Output = Result<Delivery, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            match std::task::ready!(this.outcome.poll(context, &mut this.slot)) {
                Seen::Settled(result) => {
                    return Poll::Ready(result.map(|appended| Delivery {
                        partition: this.outcome.partition.clone(),
                        offset: appended.base.map(|base| base.plus(i64::from(this.index))),
                        timestamp: appended.time.unwrap_or(this.timestamp),
                    }));
                }
                Seen::Split(first, [left, right]) => {
                    this.slot = None;
                    if this.index < first {
                        this.outcome = left;
                    } else {
                        this.index -= first;
                        this.outcome = right;
                    }
                }
            }
        }
    }
}
