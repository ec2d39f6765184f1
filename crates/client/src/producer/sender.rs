//! The task that sends what the queues hold.
//!
//! A short loop over commands, answers and time; each is handled synchronously, and all waiting happens in the
//! loop's `select`. Requests to different brokers run side by side. A record is answered exactly once: with its
//! offset, or with the error that ended its last try.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use wire::messages::init_producer_id::InitProducerIdRequest;
use wire::messages::produce::{PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData};
use wire::records::{BatchBuilder, BatchOptions};
use wire::{
    BrokerId, ErrorCode, Millis, Offset, PartitionId, ProducerEpoch, ProducerId, Str, TopicPartition,
};

use super::Delivery;
use super::queue::{Batch, Entry, Identity, Pushed, Queue, Wish};
use crate::backoff::{exponential, jittered};
use crate::cluster::{Cluster, Lane};
use crate::error::{Error, ErrorKind};
use crate::metadata::Topic;
use crate::options::Acks;
use crate::partitioner::{Sticky, partition_for_key};
use crate::record::ProducerRecord;

/// Bytes of batches in one request; brokers accept 100 MiB by default.
const REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What the producer's handle asks for.
pub(super) enum Command {
    Send(Entry),
    Flush(oneshot::Sender<()>),
}

/// The sending task's state.
pub(super) struct Sender {
    cluster: Cluster,
    topics: HashMap<Str, TopicState>,
    queues: HashMap<TopicPartition, Queue>,
    identity: Option<Identity>,
    is_identifying: bool,
    flushes: Vec<oneshot::Sender<()>>,
    work: JoinSet<Done>,
}

/// What is known of a topic, and the records that wait to know it.
#[derive(Default)]
struct TopicState {
    partitions: u32,
    /// Those that have a leader.
    available: Vec<PartitionId>,
    learnt: Option<Instant>,
    is_looked_up: bool,
    sticky: Sticky,
    waiting: VecDeque<Entry>,
}

/// Work that ended.
enum Done {
    LookedUp { topic: Str, outcome: Result<Topic, Error> },
    Identified(Result<Identity, Error>),
    Produced { sent: Vec<(TopicPartition, Batch)>, outcome: Result<Option<ProduceResponse>, Error> },
}

impl Sender {
    pub(super) fn new(cluster: Cluster) -> Self {
        Self {
            cluster,
            topics: HashMap::new(),
            queues: HashMap::new(),
            identity: None,
            is_identifying: false,
            flushes: Vec::new(),
            work: JoinSet::new(),
        }
    }

    /// Runs until the handle is gone and every record is answered.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut commands = Vec::with_capacity(super::COMMANDS_MAX);
        let mut is_closing = false;
        loop {
            let wake = self.send_what_is_ready(Instant::now(), is_closing);
            let is_idle = self.is_idle();
            if is_idle {
                // Who no longer waits for the flush does not need to hear of it.
                self.flushes.drain(..).for_each(|flush| flush.send(()).unwrap_or_default());
            }
            if is_idle && is_closing {
                return;
            }
            tokio::select! {
                received = queue.recv_many(&mut commands, super::COMMANDS_MAX), if !is_closing => {
                    is_closing = received == 0;
                    commands.drain(..).for_each(|command| self.command(command));
                }
                Some(done) = self.work.join_next() => self.done(done.expect("requests do not panic")),
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.queues.values().all(Queue::is_idle) && self.topics.values().all(|topic| topic.waiting.is_empty())
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Send(entry) => self.enqueue(entry),
            Command::Flush(reply) => self.flushes.push(reply),
        }
    }

    fn enqueue(&mut self, entry: Entry) {
        let options = self.cluster.options();
        let environment = self.cluster.environment();
        let name = entry.record.topic.clone();
        let topic = self.topics.entry(name.clone()).or_default();
        let is_known = topic.learnt.is_some_and(|learnt| learnt.elapsed() < options.metadata_max_age);
        if !is_known {
            topic.waiting.push_back(entry);
            return self.look_up(name);
        }
        let partition = match (entry.record.partition, &entry.record.key) {
            (Some(partition), _) if (0..topic.partitions as i32).contains(&partition.0) => partition,
            (Some(partition), _) => {
                let partition = TopicPartition::new(name, partition);
                let partitions = topic.partitions as usize;
                return answer(entry, Err(Error::UnknownPartition { partition, partitions }));
            }
            (None, Some(key)) => partition_for_key(key, topic.partitions),
            (None, None) => topic.sticky.choose(&topic.available, || environment.random()),
        };
        let queue = self.queues.entry(TopicPartition::new(name, partition)).or_default();
        if queue.push(entry, options.batch_size) == Pushed::FilledOne {
            topic.sticky.move_on(partition, &topic.available, || environment.random());
        }
    }

    fn look_up(&mut self, name: Str) {
        let topic = self.topics.entry(name.clone()).or_default();
        if topic.is_looked_up {
            return;
        }
        topic.is_looked_up = true;
        let cluster = self.cluster.clone();
        self.work.spawn(async move {
            let outcome = cluster.topic(&name).await;
            Done::LookedUp { topic: name, outcome }
        });
    }

    fn identify(&mut self) {
        if self.is_identifying {
            return;
        }
        self.is_identifying = true;
        let cluster = self.cluster.clone();
        self.work.spawn(async move { Done::Identified(ask_identity(&cluster).await) });
    }

    /// Sends the batches whose time has come; returns when to look again.
    fn send_what_is_ready(&mut self, now: Instant, is_closing: bool) -> Option<Instant> {
        let options = self.cluster.options();
        let (delivery_timeout, is_idempotent) = (options.delivery_timeout, options.is_idempotent());
        let is_hurried = is_closing || !self.flushes.is_empty();
        let linger = if is_hurried { Duration::ZERO } else { options.linger };
        let mut wake: Option<Instant> = None;
        let mut ready: HashMap<BrokerId, Vec<TopicPartition>> = HashMap::new();
        let mut unknown: HashSet<Str> = HashSet::new();
        let mut expired = Vec::new();
        let mut needs_identity = false;
        for (partition, queue) in &mut self.queues {
            while let Some(batch) = queue.take_expired(now, delivery_timeout) {
                if batch.is_uncertain {
                    queue.renumber();
                    needs_identity = true;
                }
                expired.push(batch);
            }
            match queue.wish(now, linger) {
                Wish::Nothing => {}
                Wish::Later(at) => wake = Some(wake.map_or(at, |wake| wake.min(at))),
                Wish::Send if is_idempotent && self.identity.is_none() => needs_identity = true,
                Wish::Send => match self.cluster.leader(partition) {
                    Some(leader) => ready.entry(leader.broker).or_default().push(partition.clone()),
                    None => {
                        unknown.insert(partition.topic.clone());
                    }
                },
            }
        }
        if !expired.is_empty() {
            if is_idempotent {
                self.advance_epoch();
            }
            let error = Error::Timeout {
                doing: "delivering a record".to_owned(),
                after: delivery_timeout,
                last: None,
            };
            expired.into_iter().for_each(|batch| answer_all(batch, &error));
        }
        if needs_identity && self.identity.is_none() {
            self.identify();
        }
        unknown.into_iter().for_each(|topic| self.look_up(topic));
        for (broker, partitions) in ready {
            self.send_to(broker, partitions);
        }
        wake
    }

    /// Sends the first batch of each partition, in as many requests as their size asks for.
    fn send_to(&mut self, broker: BrokerId, partitions: Vec<TopicPartition>) {
        let mut sent = Vec::new();
        let mut topics: HashMap<Str, Vec<PartitionProduceData>> = HashMap::new();
        let mut bytes = 0;
        for partition in partitions {
            let Some(queue) = self.queues.get_mut(&partition) else { continue };
            let (batch, number) = queue.take(self.identity);
            if let Some(topic) = self.topics.get_mut(&partition.topic) {
                let environment = self.cluster.environment();
                topic.sticky.move_on(partition.partition, &topic.available, || environment.random());
            }
            let records = encode(&batch, number, &self.cluster);
            bytes += records.len();
            let data = PartitionProduceData { index: partition.partition.0, records: Some(records) };
            topics.entry(partition.topic.clone()).or_default().push(data);
            sent.push((partition, batch));
            if bytes >= REQUEST_BYTES_MAX {
                self.request(broker, std::mem::take(&mut topics), std::mem::take(&mut sent));
                bytes = 0;
            }
        }
        if !sent.is_empty() {
            self.request(broker, topics, sent);
        }
    }

    fn request(
        &mut self,
        broker: BrokerId,
        topics: HashMap<Str, Vec<PartitionProduceData>>,
        sent: Vec<(TopicPartition, Batch)>,
    ) {
        let cluster = self.cluster.clone();
        let topic_data = topics
            .into_iter()
            .map(|(name, partition_data)| TopicProduceData { name, partition_data, ..Default::default() })
            .collect();
        let acks = cluster.options().acks;
        let request = ProduceRequest {
            acks: match acks {
                Acks::All => -1,
                Acks::Leader => 1,
                Acks::None => 0,
            },
            timeout_ms: i32::try_from(cluster.options().request_timeout.as_millis()).unwrap_or(i32::MAX),
            topic_data,
            ..Default::default()
        };
        self.work.spawn(async move {
            let outcome = match acks {
                Acks::None => {
                    let send = async {
                        let connection = cluster.connection(broker, Lane::Produces).await?;
                        connection.send(request, cluster.request_deadline()).await
                    };
                    send.await.map(|()| None)
                }
                _ => cluster.call(broker, Lane::Produces, request).await.map(Some),
            };
            Done::Produced { sent, outcome }
        });
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::LookedUp { topic, outcome } => self.looked_up(topic, outcome),
            Done::Identified(outcome) => {
                self.is_identifying = false;
                match outcome {
                    Ok(identity) => self.identity = Some(identity),
                    Err(error) => self.give_up_all(&error),
                }
            }
            Done::Produced { sent, outcome } => self.produced(sent, outcome),
        }
    }

    fn looked_up(&mut self, name: Str, outcome: Result<Topic, Error>) {
        let topic = self.topics.entry(name.clone()).or_default();
        topic.is_looked_up = false;
        let waiting = std::mem::take(&mut topic.waiting);
        match outcome {
            Ok(known) => {
                topic.partitions = known.partitions.len() as u32;
                topic.learnt = Some(Instant::now());
                let led = |partition: &&crate::metadata::Partition| partition.leader.is_some();
                let ids = |partition: &crate::metadata::Partition| partition.id;
                topic.available = known.partitions.iter().filter(led).map(ids).collect();
                if topic.available.is_empty() {
                    topic.available = known.partitions.iter().map(ids).collect();
                }
                // A partition without a leader is looked up again, after a pause.
                let until = Instant::now() + self.cluster.options().retry_backoff;
                for partition in known.partitions.iter().filter(|partition| partition.leader.is_none()) {
                    let partition = TopicPartition::new(name.clone(), partition.id);
                    self.cluster.forget(&name);
                    if let Some(queue) = self.queues.get_mut(&partition) {
                        queue.postpone(until);
                    }
                }
                waiting.into_iter().for_each(|entry| self.enqueue(entry));
            }
            Err(error) => {
                topic.learnt = None;
                waiting.into_iter().for_each(|entry| answer(entry, Err(error.clone())));
                let until = Instant::now() + self.cluster.options().retry_backoff_max;
                for (partition, queue) in &mut self.queues {
                    if partition.topic == name {
                        queue.postpone(until);
                    }
                }
            }
        }
    }

    fn produced(
        &mut self,
        sent: Vec<(TopicPartition, Batch)>,
        outcome: Result<Option<ProduceResponse>, Error>,
    ) {
        let mut answers = HashMap::new();
        if let Ok(Some(response)) = &outcome {
            for topic in &response.responses {
                for answer in &topic.partition_responses {
                    let partition = TopicPartition::new(topic.name.clone(), PartitionId(answer.index));
                    answers.insert(partition, answer);
                }
            }
        }
        for (partition, mut batch) in sent {
            let error = match (&outcome, answers.get(&partition)) {
                (Ok(None), _) => {
                    self.delivered(partition, batch, None, None);
                    continue;
                }
                (Ok(Some(_)), Some(answer)) => match answer.error_code {
                    ErrorCode::NONE => {
                        let offset = Some(Offset(answer.base_offset)).filter(|offset| offset.0 >= 0);
                        let appended = Some(Millis(answer.log_append_time_ms)).filter(|time| time.0 >= 0);
                        self.delivered(partition, batch, offset, appended);
                        continue;
                    }
                    // An earlier try had appended it, so long ago that the broker forgot where.
                    ErrorCode::DUPLICATE_SEQUENCE_NUMBER => {
                        self.delivered(partition, batch, None, None);
                        continue;
                    }
                    ErrorCode::MESSAGE_TOO_LARGE if batch.entries.len() > 1 => {
                        self.queue(&partition).retry_in_halves(batch);
                        continue;
                    }
                    code => Error::kafka(
                        code,
                        format!("producing to {partition}"),
                        answer.error_message.as_deref(),
                    ),
                },
                (Ok(Some(_)), None) => Error::Protocol {
                    doing: format!("producing to {partition}"),
                    problem: "it does not mention the partition".to_owned(),
                },
                (Err(error), _) => {
                    batch.is_uncertain |= !matches!(error, Error::Connect { .. } | Error::Unsupported { .. });
                    error.clone()
                }
            };
            self.failed(partition, batch, error);
        }
    }

    fn delivered(
        &mut self,
        partition: TopicPartition,
        batch: Batch,
        base: Option<Offset>,
        appended: Option<Millis>,
    ) {
        self.queue(&partition).succeed(batch.entries.len());
        for (delta, entry) in batch.entries.into_iter().enumerate() {
            let delivery = Delivery {
                partition: partition.clone(),
                offset: base.map(|base| base.plus(delta as i64)),
                timestamp: appended.unwrap_or(entry.timestamp),
            };
            answer(entry, Ok(delivery));
        }
    }

    fn failed(&mut self, partition: TopicPartition, batch: Batch, error: Error) {
        let options = self.cluster.options();
        // The broker's memory of this producer expired with the records: nothing can be doubled any more.
        let is_forgotten = error.code() == Some(ErrorCode::UNKNOWN_PRODUCER_ID);
        let is_over = batch.begun() + options.delivery_timeout <= Instant::now();
        if (error.kind() == ErrorKind::Retriable || is_forgotten) && !is_over {
            let (first, max) = (options.retry_backoff, options.retry_backoff_max);
            let random = self.cluster.environment().random();
            if error.code() == Some(ErrorCode::KAFKA_STORAGE_ERROR) {
                tracing::warn!(%partition, %error, "sending a batch again");
            } else {
                tracing::debug!(%partition, %error, "sending a batch again");
            }
            self.cluster.forget(&partition.topic);
            let queue = self.queue(&partition);
            let pause = jittered(exponential(first, max, queue.failures()), random);
            queue.retry(batch, Instant::now() + pause);
            if is_forgotten {
                queue.renumber();
                self.advance_epoch();
            }
            return;
        }
        let queue = self.queue(&partition);
        queue.fail();
        let is_out_of_step = error.code() == Some(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
        if queue.identity().is_some() && (batch.is_uncertain || is_out_of_step) {
            queue.renumber();
            self.advance_epoch();
        }
        answer_all(batch, &error);
    }

    /// The next numbers are given under a newer epoch, which brokers accept from the producer itself.
    fn advance_epoch(&mut self) {
        self.identity = self.identity.and_then(|identity| {
            let epoch = identity.epoch.0.checked_add(1).filter(|&epoch| epoch < i16::MAX)?;
            Some(Identity { epoch: ProducerEpoch(epoch), ..identity })
        });
    }

    /// Without an identity nothing can be sent.
    fn give_up_all(&mut self, error: &Error) {
        let long_ago = Duration::ZERO;
        let now = Instant::now();
        for queue in self.queues.values_mut() {
            while let Some(batch) = queue.take_expired(now, long_ago) {
                answer_all(batch, error);
            }
        }
    }

    fn queue(&mut self, partition: &TopicPartition) -> &mut Queue {
        self.queues.get_mut(partition).expect("queues stay while the producer lives")
    }
}

fn answer(entry: Entry, outcome: Result<Delivery, Error>) {
    // Nobody has to wait for the answer.
    let _ = entry.reply.send(outcome);
}

fn answer_all(batch: Batch, error: &Error) {
    batch.entries.into_iter().for_each(|entry| answer(entry, Err(error.clone())));
}

fn encode(batch: &Batch, number: Option<(Identity, i32)>, cluster: &Cluster) -> Bytes {
    let mut options = BatchOptions { compression: cluster.options().compression_type, ..Default::default() };
    if let Some((identity, sequence)) = number {
        options.producer_id = identity.id;
        options.producer_epoch = identity.epoch;
        options.base_sequence = sequence;
    }
    let mut builder = BatchBuilder::new(options);
    for entry in &batch.entries {
        let ProducerRecord { key, value, headers, .. } = &entry.record;
        builder.append(entry.timestamp, key.as_deref(), value.as_deref(), headers);
    }
    builder.build()
}

async fn ask_identity(cluster: &Cluster) -> Result<Identity, Error> {
    const DOING: &str = "getting a producer id";
    let request = || InitProducerIdRequest {
        // Absent, not empty, which is the schema's default and would be a transactional id.
        transactional_id: None,
        transaction_timeout_ms: i32::MAX,
        ..Default::default()
    };
    cluster
        .retrying(DOING, || async {
            let response = cluster.call_any(request()).await?;
            match response.error_code.is_ok() {
                true => Ok(Identity {
                    id: ProducerId(response.producer_id),
                    epoch: ProducerEpoch(response.producer_epoch),
                }),
                false => Err(Error::kafka(response.error_code, DOING, None)),
            }
        })
        .await
}
