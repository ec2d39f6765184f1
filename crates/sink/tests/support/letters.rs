//! A topic of dead letters in memory, with transactions that fence: each request is a step that may fail, or never be answered.

use std::sync::{Arc, Mutex, MutexGuard};

use client::{BoxFuture, Error};
use sink::{Letter, Letters};
use wire::{ErrorCode, Offset};

use super::Process;

/// The topic, its coordinator, and the position that goes with it.
#[derive(Clone, Default)]
pub struct DeadTopic {
    epoch: u64,
    /// Of the transaction that is open.
    open: Vec<Letter>,
    open_position: Option<Offset>,
    pub committed: Vec<Letter>,
    pub position: Option<Offset>,
}

/// The sending of one process.
pub struct Sending {
    process: Process,
    topic: Arc<Mutex<DeadTopic>>,
    epoch: Mutex<Option<u64>>,
}

impl Sending {
    pub fn new(process: Process, topic: Arc<Mutex<DeadTopic>>) -> Self {
        Self { process, topic, epoch: Mutex::new(None) }
    }

    fn topic(&self) -> MutexGuard<'_, DeadTopic> {
        self.topic.lock().expect("nobody panics with it")
    }

    /// A request, and its answer.
    fn request<T>(&self, carry_out: impl FnOnce(&mut DeadTopic) -> Result<T, Error>) -> Result<T, Error> {
        let lost = |_| Error::Closed;
        self.process.steps.step().map_err(lost)?;
        let answer = carry_out(&mut self.topic());
        self.process.steps.step().map_err(lost)?;
        answer
    }

    fn fenced<T>(
        &self,
        carry_out: impl FnOnce(&mut DeadTopic) -> T,
    ) -> impl FnOnce(&mut DeadTopic) -> Result<T, Error> {
        let epoch = *self.epoch.lock().expect("nobody panics with it");
        move |topic| match epoch == Some(topic.epoch) {
            true => Ok(carry_out(topic)),
            false => Err(Error::Kafka {
                code: ErrorCode::PRODUCER_FENCED,
                doing: "sending".to_owned(),
                message: None,
            }),
        }
    }
}

impl Letters for Sending {
    fn hold(&self) -> BoxFuture<'_, Result<Option<Offset>, Error>> {
        let held = self.request(|topic| {
            topic.epoch += 1;
            topic.open.clear();
            topic.open_position = None;
            Ok(topic.epoch)
        });
        let position = held.and_then(|epoch| {
            *self.epoch.lock().expect("nobody panics with it") = Some(epoch);
            self.request(|topic| Ok(topic.position))
        });
        Box::pin(async move { position })
    }

    fn send<'a>(&'a self, letters: &'a [Letter], next: Offset) -> BoxFuture<'a, Result<(), Error>> {
        let send = || {
            for letter in letters {
                self.request(self.fenced(|topic| topic.open.push(letter.clone())))?;
            }
            self.request(self.fenced(|topic| topic.open_position = Some(next)))?;
            self.request(self.fenced(|topic| {
                let open = std::mem::take(&mut topic.open);
                topic.committed.extend(open);
                topic.position = topic.open_position.take();
            }))
        };
        let sent = send();
        Box::pin(async move { sent })
    }
}
