//! The task that sends what the queues hold.
//!
//! A short loop over events and time; each is handled synchronously, and all waiting happens in the loop's
//! `select`. Requests to different brokers run side by side, up to `max.in.flight.requests.per.connection` to each.
//! Every record is settled exactly once: with its offset, or with the error that ended its last try.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use wire::messages::init_producer_id::InitProducerIdRequest;
use wire::messages::produce::{PartitionProduceResponse, ProduceResponse};
use wire::{
    BrokerId, ErrorCode, LeaderEpoch, Millis, Offset, ProducerEpoch, ProducerId, Str, TopicPartition,
};

use super::Shared;
use super::accumulator::Accumulator;
use super::link::{self, Landing, Outgoing, Part};
use super::outcome::Appended;
use super::queue::{Batch, Identity, Taken, Wish};
use super::transaction::{Gate, Protocol};
use crate::backoff::{CONCURRENT_PAUSE_MAX, exponential, jittered};
use crate::cluster::{Cluster, Topics, UNKNOWN_TOPIC_GRACE};
use crate::error::{Error, ErrorKind};
use crate::metadata::Leader;

/// Bytes of batches in one request, before compression; brokers accept 100 MiB by default.
const REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Events that wait for the task. Whoever reports waits.
const EVENTS_MAX: usize = 64;
/// Before anything is looked at again.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// What the sending task is told.
pub(super) enum Event {
    LinkUp { broker: BrokerId },
    LinkDown { broker: BrokerId, error: Option<Error> },
    Landed { broker: BrokerId, parts: Vec<Part>, landing: Landing },
    Refreshed { topic: Str, outcome: Result<(), Error> },
    Identified(Result<Identity, Error>),
    Added(Result<(), Error>),
}

/// The sending task's state.
pub(super) struct Sender {
    shared: Arc<Shared>,
    cluster: Cluster,
    links: HashMap<BrokerId, Link>,
    /// Topics whose leaders are being asked for, and the queues that wait for that.
    refreshing: HashMap<Str, BTreeSet<usize>>,
    is_identifying: bool,
    events: mpsc::Sender<Event>,
    tasks: JoinSet<()>,
}

/// A link as seen from here.
struct Link {
    requests: mpsc::Sender<Outgoing>,
    is_up: bool,
    /// When it, or a way around it, was last asked for.
    asked: Instant,
    /// Requests that were not heard of yet.
    outstanding: usize,
    /// Queues that wait for room.
    blocked: BTreeSet<usize>,
}

/// Why a batch was not appended.
struct Refused {
    error: Error,
    /// The broker named the leader, and that was news.
    names_leader: bool,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self { error, names_leader: false }
    }
}

/// What follows from a batch's answer.
enum Verdict {
    Delivered(Appended),
    InHalves,
    Again(Option<Instant>),
    OutOfStep,
    GiveUp(Error),
}

impl Sender {
    /// Runs until the producer is gone and every record is settled.
    pub(super) async fn run(shared: Arc<Shared>) {
        let (events, mut received) = mpsc::channel(EVENTS_MAX);
        let mut sender = Self {
            cluster: shared.cluster.clone(),
            shared: Arc::clone(&shared),
            links: HashMap::new(),
            refreshing: HashMap::new(),
            is_identifying: false,
            events,
            tasks: JoinSet::new(),
        };
        loop {
            let Some(wake) = sender.turn(Instant::now()) else { return };
            // What tasks have to say they said as events.
            while sender.tasks.try_join_next().is_some() {}
            tokio::select! {
                event = received.recv() => {
                    sender.event(event.expect("this task holds an end itself"));
                    while let Ok(event) = received.try_recv() {
                        sender.event(event);
                    }
                    shared.landed.notify_waiters();
                }
                () = shared.wake.notified() => {}
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
        }
    }

    /// Sends the batches whose time has come. Returns when to look again, if at a time, or None when all is done.
    fn turn(&mut self, now: Instant) -> Option<Option<Instant>> {
        let shared = Arc::clone(&self.shared);
        let mut accumulator = shared.lock();
        let accumulator = &mut *accumulator;
        loop {
            let mut ready: BTreeMap<BrokerId, Vec<usize>> = BTreeMap::new();
            while let Some(at) = accumulator.next_due(now) {
                if let Some(error) = accumulator.queues[at].expire(now, &accumulator.rules) {
                    accumulator.fail_transaction(error, now);
                    // Nothing of a transaction that has failed leaves any more: they are looked at again.
                    for ready in std::mem::take(&mut ready).into_values().flatten() {
                        accumulator.reschedule(ready, now);
                    }
                }
                if accumulator.queues[at].wish(now, &accumulator.rules) != Wish::Send {
                    accumulator.reschedule(at, now);
                } else if let Some(broker) = self.destination(accumulator, at, now) {
                    ready.entry(broker).or_default().push(at);
                }
            }
            if ready.is_empty() {
                break;
            }
            for (broker, queues) in ready {
                self.send_to(accumulator, broker, queues, now);
            }
        }
        self.add_partitions(accumulator);
        let is_done = accumulator.is_closing && accumulator.is_idle();
        (!is_done).then(|| accumulator.next_time())
    }

    /// Where the queue's next batch goes, if it can go now; otherwise sees to it that it can later.
    fn destination(&mut self, accumulator: &mut Accumulator, at: usize, now: Instant) -> Option<BrokerId> {
        let later = now + self.pause(0);
        if let Some(transactions) = &mut accumulator.transactions {
            if transactions.gate(at) == Gate::Closed {
                // Opened by an event or by the transaction's owner, who reschedules it.
                accumulator.look_at(at, later);
                return None;
            }
        } else if self.cluster.options().is_idempotent() && accumulator.identity.is_none() {
            self.identify();
            accumulator.look_at(at, later);
            return None;
        }
        let queue = &accumulator.queues[at];
        match self.cluster.leader(&queue.partition) {
            // What is on its way to another broker is heard of first.
            Some(leader) if queue.is_in_flight() && queue.broker != Some(leader.broker) => {
                accumulator.look_at(at, later);
                None
            }
            Some(leader) => Some(leader.broker),
            None => {
                let topic = queue.partition.topic.clone();
                self.refresh(&topic).insert(at);
                accumulator.look_at(at, later);
                None
            }
        }
    }

    /// Sends a batch of each queue, in as many requests as their size asks for and the link has room for.
    fn send_to(&mut self, accumulator: &mut Accumulator, broker: BrokerId, queues: Vec<usize>, now: Instant) {
        let in_flight_max = self.cluster.options().in_flight_max;
        let later = now + self.pause(0);
        let mut queues = queues.into_iter().peekable();
        while queues.peek().is_some() {
            let link = self.links.entry(broker).or_insert_with(|| {
                let (requests, received) = mpsc::channel(in_flight_max);
                self.tasks.spawn(link::run(self.cluster.clone(), broker, received, self.events.clone()));
                Link { requests, is_up: false, asked: now, outstanding: 0, blocked: BTreeSet::new() }
            });
            if !link.is_up || link.outstanding >= in_flight_max {
                // A broker that does not let us in may have lost its partitions to another.
                let is_slow = !link.is_up && link.asked + self.cluster.options().retry_backoff_max <= now;
                if is_slow {
                    link.asked = now;
                }
                let blocked: Vec<usize> = queues.collect();
                link.blocked.extend(blocked.iter().copied());
                for at in blocked {
                    accumulator.look_at(at, later);
                    if is_slow {
                        self.look_for_another_leader(accumulator, at);
                    }
                }
                return;
            }
            let outgoing = Self::outgoing(accumulator, &mut queues, &self.cluster);
            for part in &outgoing.parts {
                let queue = &mut accumulator.queues[part.queue];
                queue.gone = None;
                if queue.broker.replace(broker) != Some(broker) {
                    queue.meet();
                }
                accumulator.reschedule(part.queue, now);
            }
            match link.requests.try_send(outgoing) {
                Ok(()) => link.outstanding += 1,
                // It has ended and says so in a moment.
                Err(unsent) => {
                    link.is_up = false;
                    let (mpsc::error::TrySendError::Full(outgoing)
                    | mpsc::error::TrySendError::Closed(outgoing)) = unsent;
                    for part in outgoing.parts {
                        put_back(accumulator, part, now);
                    }
                }
            }
        }
    }

    fn outgoing(
        accumulator: &mut Accumulator,
        queues: &mut impl Iterator<Item = usize>,
        cluster: &Cluster,
    ) -> Outgoing {
        let (transactional_id, version_max) = match &mut accumulator.transactions {
            Some(transactions) => {
                let version_max = match transactions.protocol {
                    Protocol::First => link::FIRST_PROTOCOL_VERSION_MAX,
                    Protocol::Second => {
                        transactions.has_begun = true;
                        link::VERSION_MAX
                    }
                };
                (Some(transactions.id.clone()), version_max)
            }
            None => (None, link::VERSION_MAX),
        };
        let identity = accumulator.identity.filter(|_| cluster.options().is_idempotent());
        let mut parts = Vec::new();
        let mut bytes = 0;
        while bytes < REQUEST_BYTES_MAX
            && let Some(at) = queues.next()
        {
            let taken = accumulator.queues[at].take(identity);
            bytes += taken.batch.bytes();
            if taken.is_fresh {
                accumulator.move_on(at, || cluster.environment().random());
            }
            let partition = accumulator.queues[at].partition.clone();
            parts.push(Part { queue: at, partition, taken });
        }
        Outgoing { parts, transactional_id, version_max }
    }

    /// The pause before trying again after so many tries.
    fn pause(&self, tries: u32) -> Duration {
        let options = self.cluster.options();
        let pause = exponential(options.retry_backoff, options.retry_backoff_max, tries);
        // A queue that is to be looked at again at once is looked at for ever.
        jittered(pause, self.cluster.environment().random()).max(PAUSE_MIN)
    }

    // What is asked for beside.

    /// Asks who leads the topic's partitions, unless that is being asked; who waits for the answer.
    fn refresh(&mut self, topic: &Str) -> &mut BTreeSet<usize> {
        if !self.refreshing.contains_key(topic) {
            let (cluster, events, topic) = (self.cluster.clone(), self.events.clone(), topic.clone());
            self.tasks.spawn(async move {
                let doing = format!("looking up topic {topic}");
                let ask = || cluster.look_at(Topics::Named(std::slice::from_ref(&topic)));
                let outcome = cluster.retrying(&doing, ask).await.map(drop);
                // The task may have ended.
                drop(events.send(Event::Refreshed { topic, outcome }).await);
            });
        }
        self.refreshing.entry(topic.clone()).or_default()
    }

    /// The queue's broker cannot be reached: another may have taken over.
    fn look_for_another_leader(&mut self, accumulator: &Accumulator, at: usize) {
        let topic = accumulator.queues[at].partition.topic.clone();
        self.refresh(&topic);
    }

    fn identify(&mut self) {
        if std::mem::replace(&mut self.is_identifying, true) {
            return;
        }
        let (cluster, events) = (self.cluster.clone(), self.events.clone());
        self.tasks.spawn(async move {
            let outcome = ask_identity(&cluster).await;
            drop(events.send(Event::Identified(outcome)).await);
        });
    }

    /// Tells the coordinator which partitions the transaction is about to write to.
    fn add_partitions(&mut self, accumulator: &mut Accumulator) {
        let Some(transactions) = &mut accumulator.transactions else { return };
        let Some(queues) = transactions.begin_adding() else { return };
        let Some(identity) = accumulator.identity else { return };
        let partitions = queues.iter().map(|&at| accumulator.queues[at].partition.clone()).collect();
        let ask = super::transaction::add_partitions(
            self.cluster.clone(),
            transactions.id.clone(),
            identity,
            partitions,
        );
        let events = self.events.clone();
        self.tasks.spawn(async move {
            let outcome = ask.await;
            drop(events.send(Event::Added(outcome)).await);
        });
    }

    // What is heard.

    fn event(&mut self, event: Event) {
        let shared = Arc::clone(&self.shared);
        let mut accumulator = shared.lock();
        let accumulator = &mut *accumulator;
        let now = Instant::now();
        match event {
            Event::LinkUp { broker } => {
                if let Some(link) = self.links.get_mut(&broker) {
                    link.is_up = true;
                }
                self.unblock(accumulator, broker, now);
            }
            Event::LinkDown { broker, error } => {
                let Some(link) = self.links.remove(&broker) else { return };
                if let Some(error) = &error {
                    tracing::debug!(%broker, %error, "no way to the broker");
                }
                for at in link.blocked {
                    accumulator.queues[at].trouble = error.clone().or(accumulator.queues[at].trouble.take());
                    self.look_for_another_leader(accumulator, at);
                    match error {
                        // The next link waits for reconnect.backoff.ms by itself.
                        Some(_) => accumulator.look_at(at, now + self.pause(0)),
                        None => accumulator.reschedule(at, now),
                    }
                }
            }
            Event::Landed { broker, parts, landing } => {
                if let Some(link) = self.links.get_mut(&broker) {
                    link.outstanding -= 1;
                    if matches!(landing, Landing::Unanswered(_) | Landing::Unsent) {
                        link.is_up = false;
                    }
                }
                self.landed(accumulator, parts, landing, now);
                self.unblock(accumulator, broker, now);
            }
            Event::Refreshed { topic, outcome } => self.refreshed(accumulator, &topic, outcome, now),
            Event::Identified(outcome) => {
                self.is_identifying = false;
                match outcome {
                    Ok(identity) => {
                        accumulator.identity = Some(identity);
                        (0..accumulator.queues.len()).for_each(|at| accumulator.reschedule(at, now));
                    }
                    // Records that wait for it expire by themselves.
                    Err(error) if error.kind() == ErrorKind::Retriable => {
                        tracing::debug!(%error, "no producer id yet");
                        accumulator.queues.iter_mut().for_each(|queue| queue.trouble = Some(error.clone()));
                    }
                    Err(error) => {
                        accumulator.drop_unsent(&error, now);
                    }
                }
            }
            Event::Added(outcome) => {
                if let Some(transactions) = &mut accumulator.transactions {
                    let added = transactions.end_adding(outcome.is_ok());
                    added.into_iter().for_each(|at| accumulator.reschedule(at, now));
                }
                if let Err(error) = outcome {
                    accumulator.fail_transaction(error, now);
                }
            }
        }
    }

    fn unblock(&mut self, accumulator: &mut Accumulator, broker: BrokerId, now: Instant) {
        if let Some(link) = self.links.get_mut(&broker)
            && link.is_up
        {
            std::mem::take(&mut link.blocked).into_iter().for_each(|at| accumulator.reschedule(at, now));
        }
    }

    fn refreshed(
        &mut self,
        accumulator: &mut Accumulator,
        topic: &Str,
        outcome: Result<(), Error>,
        now: Instant,
    ) {
        if outcome.is_ok() {
            accumulator.look_up(&self.cluster, topic);
        }
        for at in self.refreshing.remove(topic).unwrap_or_default() {
            if let Some(error) = accumulator.missing_partition(at) {
                let since = *accumulator.queues[at].gone.get_or_insert(now);
                if now.duration_since(since) > UNKNOWN_TOPIC_GRACE {
                    accumulator.give_up_queue(at, error, now);
                    continue;
                }
            }
            let queue = &mut accumulator.queues[at];
            if self.cluster.leader(&queue.partition).is_some() {
                accumulator.reschedule(at, now);
                continue;
            }
            let doing = || format!("looking up the leader of {}", queue.partition);
            let missing = match &outcome {
                Ok(()) => Error::kafka(ErrorCode::LEADER_NOT_AVAILABLE, doing(), None),
                Err(error) => error.clone(),
            };
            queue.trouble = Some(missing);
            accumulator.look_at(at, now + self.pause(0));
        }
    }

    fn landed(&mut self, accumulator: &mut Accumulator, parts: Vec<Part>, landing: Landing, now: Instant) {
        let mut answers = HashMap::new();
        if let Landing::Answered(response) = &landing {
            for topic in &response.responses {
                for answer in &topic.partition_responses {
                    answers.insert((topic.name.as_str(), answer.index), (answer, response));
                }
            }
        }
        let mut refresh = BTreeSet::new();
        for part in parts {
            let partition = &part.partition;
            let outcome = match &landing {
                Landing::Unsent => {
                    put_back(accumulator, part, now);
                    continue;
                }
                Landing::Written => Ok(Appended::default()),
                Landing::Unanswered(error) => Err(error.clone().into()),
                Landing::Answered(_) => {
                    match answers.get(&(partition.topic.as_str(), partition.partition.0)) {
                        Some((answer, response)) => self.read(partition, answer, response),
                        None => Err(Refused::from(Error::Protocol {
                            doing: format!("producing to {partition}"),
                            problem: "it does not mention the partition".to_owned(),
                        })),
                    }
                }
            };
            if outcome.as_ref().is_err_and(Refused::shows_stale_map) {
                refresh.insert(partition.topic.clone());
            }
            self.settle(accumulator, part, outcome, now);
        }
        for topic in refresh {
            self.refresh(&topic);
        }
    }

    /// What the broker says of one batch. News of another leader are taken in at once (KIP-951).
    fn read(
        &self,
        partition: &TopicPartition,
        answer: &PartitionProduceResponse,
        response: &ProduceResponse,
    ) -> Result<Appended, Refused> {
        let code = answer.error_code;
        match code {
            ErrorCode::NONE => Ok(Appended {
                base: Some(Offset(answer.base_offset)).filter(|offset| offset.0 >= 0),
                time: Some(Millis(answer.log_append_time_ms)).filter(|time| time.0 >= 0),
            }),
            // An earlier try had appended it, so long ago that the broker forgot where.
            ErrorCode::DUPLICATE_SEQUENCE_NUMBER => Ok(Appended::default()),
            _ => {
                let leader = Leader {
                    broker: BrokerId(answer.current_leader.leader_id),
                    epoch: LeaderEpoch(answer.current_leader.leader_epoch),
                };
                let endpoints = response.node_endpoints.iter();
                let endpoints = endpoints.map(|node| (BrokerId(node.node_id), &*node.host, node.port));
                let doing = format!("producing to {partition}");
                let error = Error::kafka(code, doing, answer.error_message.as_deref());
                let names_leader = self.cluster.learn_leader(partition, leader, endpoints);
                Err(Refused { error, names_leader })
            }
        }
    }

    /// Carries out what follows from a batch's outcome.
    fn settle(
        &self,
        accumulator: &mut Accumulator,
        part: Part,
        outcome: Result<Appended, Refused>,
        now: Instant,
    ) {
        let Part { queue: at, partition, taken: Taken { ticket, mut batch, .. } } = part;
        let verdict = match outcome {
            Ok(appended) => Verdict::Delivered(appended),
            Err(refused) => {
                batch.trouble = Some(refused.error.clone());
                if refused.error.code() == Some(ErrorCode::CONCURRENT_TRANSACTIONS) {
                    // The last transaction is being ended, which is no failure of this batch.
                    batch.tries -= 1;
                }
                batch.may_be_appended = match refused.error.code() {
                    // Whatever was appended under its number would have been recognised.
                    Some(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER) => false,
                    code => batch.may_be_appended || !code.is_some_and(rules_out_append),
                };
                self.verdict(accumulator, at, ticket, &batch, refused, now)
            }
        };
        let queue = &mut accumulator.queues[at];
        match verdict {
            Verdict::Delivered(appended) => {
                queue.succeed(ticket, now);
                batch.promise.settle(Ok(appended));
            }
            Verdict::InHalves => queue.retry_in_halves(ticket, batch, &accumulator.making),
            Verdict::Again(not_before) => {
                tracing::debug!(%partition, error = ?batch.trouble, "sending a batch again");
                queue.retry(ticket, batch, not_before);
            }
            Verdict::OutOfStep => {
                tracing::warn!(%partition, "the broker lost count of this producer's batches; numbering them anew");
                queue.lose_step(ticket, batch);
                accumulator.identity = accumulator.identity.and_then(next_epoch);
            }
            Verdict::GiveUp(error) => {
                queue.give_up(ticket);
                batch.promise.settle(Err(error.clone()));
                if error.code() == Some(ErrorCode::INVALID_PRODUCER_EPOCH)
                    && accumulator.transactions.is_none()
                {
                    // Somebody else uses this producer id: the next batches go under another.
                    accumulator.identity = None;
                }
                accumulator.fail_transaction(error, now);
            }
        }
        accumulator.reschedule(at, now);
    }

    fn verdict(
        &self,
        accumulator: &Accumulator,
        at: usize,
        ticket: u64,
        batch: &Batch,
        Refused { error, names_leader }: Refused,
        now: Instant,
    ) -> Verdict {
        let options = self.cluster.options();
        let queue = &accumulator.queues[at];
        let is_numbered = options.is_idempotent();
        let is_first = queue.is_first(ticket);
        let in_transaction = accumulator.transactions.is_some();
        if batch.promise.is_settled() {
            // It took too long, and that has been said.
            return Verdict::GiveUp(error);
        }
        if accumulator.transactions.as_ref().is_some_and(|transactions| !transactions.is_sending()) {
            return Verdict::GiveUp(Error::Aborted { cause: None });
        }
        if error.code() == Some(ErrorCode::CONCURRENT_TRANSACTIONS) {
            return Verdict::Again(Some(now + self.pause(0).min(CONCURRENT_PAUSE_MAX)));
        }
        if batch.tries > options.retries {
            return Verdict::GiveUp(error);
        }
        match error.code() {
            Some(ErrorCode::MESSAGE_TOO_LARGE) if batch.records > 1 => {
                return match batch.may_be_appended {
                    false => Verdict::InHalves,
                    // The limit was lowered in between. The halves would be other batches than the one that may be there.
                    true => Verdict::GiveUp(Error::kafka(
                        ErrorCode::MESSAGE_TOO_LARGE,
                        format!("producing to {}", queue.partition),
                        Some("the batch is too large by now, and an earlier try may have been appended"),
                    )),
                };
            }
            // The broker did not count when it took the one behind: this one can only come after it.
            Some(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER) if is_numbered && queue.is_overtaken(ticket) => {
                return Verdict::GiveUp(error);
            }
            // One before it is to be sent again: then this one is in order.
            Some(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER) if is_numbered && !is_first => {
                return Verdict::Again(None);
            }
            Some(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER | ErrorCode::UNKNOWN_PRODUCER_ID)
                if is_numbered && is_first && !in_transaction =>
            {
                return Verdict::OutOfStep;
            }
            // It is numbered anew when the first in line is.
            Some(ErrorCode::UNKNOWN_PRODUCER_ID) if is_numbered && !is_first && !in_transaction => {
                return Verdict::Again(None);
            }
            _ => {}
        }
        match error.kind() {
            ErrorKind::Retriable if names_leader => Verdict::Again(None),
            ErrorKind::Retriable => Verdict::Again(Some(now + self.pause(batch.tries.saturating_sub(1)))),
            _ => Verdict::GiveUp(error),
        }
    }
}

/// Whether this answer says that nothing was appended by this try. Others may come after the leader has appended, from
/// one that waited for its replicas in vain or lost the leadership meanwhile.
fn rules_out_append(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER
            | ErrorCode::UNKNOWN_PRODUCER_ID
            | ErrorCode::INVALID_PRODUCER_EPOCH
            | ErrorCode::CONCURRENT_TRANSACTIONS
            | ErrorCode::MESSAGE_TOO_LARGE
            | ErrorCode::RECORD_LIST_TOO_LARGE
            | ErrorCode::INVALID_RECORD
            | ErrorCode::CORRUPT_MESSAGE
            | ErrorCode::NOT_ENOUGH_REPLICAS
            | ErrorCode::TOPIC_AUTHORIZATION_FAILED
    )
}

/// A part that was never sent waits in its place, as if it had not been taken.
fn put_back(accumulator: &mut Accumulator, part: Part, now: Instant) {
    let Part { queue: at, taken: Taken { ticket, mut batch, .. }, .. } = part;
    let is_over = batch.promise.is_settled()
        || accumulator.transactions.as_ref().is_some_and(|transactions| !transactions.is_sending());
    if is_over {
        batch.promise.settle(Err(Error::Aborted { cause: None }));
        accumulator.queues[at].give_up(ticket);
    } else {
        batch.tries -= 1;
        accumulator.queues[at].retry(ticket, batch, None);
    }
    accumulator.reschedule(at, now);
}

impl Refused {
    /// Whether the cluster's map seems to be out of date.
    fn shows_stale_map(&self) -> bool {
        let stale = [
            ErrorCode::NOT_LEADER_OR_FOLLOWER,
            ErrorCode::LEADER_NOT_AVAILABLE,
            ErrorCode::FENCED_LEADER_EPOCH,
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
            ErrorCode::KAFKA_STORAGE_ERROR,
        ];
        match self.error.code() {
            Some(code) => !self.names_leader && stale.contains(&code),
            None => matches!(self.error, Error::Disconnected { .. } | Error::Timeout { .. }),
        }
    }
}

/// Brokers accept the next epoch from the producer itself; after the last one it needs another id.
fn next_epoch(identity: Identity) -> Option<Identity> {
    let epoch = identity.epoch.0.checked_add(1).filter(|&epoch| epoch < i16::MAX)?;
    Some(Identity { epoch: ProducerEpoch(epoch), ..identity })
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
