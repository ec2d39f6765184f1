//! What callers and the sending task share: topics, queues, and when each queue wants to be looked at.
//!
//! A record is encoded into its batch where it is sent, under one lock that nobody holds while waiting. The
//! sending task looks at those queues alone whose time has come.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tokio::time::Instant;
use wire::{Millis, PartitionId, Str, TopicPartition, Uuid};

use super::outcome::{DeliveryHandle, Outcome};
use super::queue::{Identity, Making, Pushed, Queue, Rules, Wish};
use super::transaction::Transactions;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::metadata;
use crate::options::{IDEMPOTENT_IN_FLIGHT_MAX, Options, Partitioner};
use crate::partitioner::{Sticky, partition_for_key};
use crate::record::ProducerRecord;

/// The queues, and what is decided about them.
pub(super) struct Accumulator {
    topics: HashMap<Str, Topic>,
    pub(super) queues: Vec<Queue>,
    agenda: Agenda,
    pub(super) rules: Rules,
    pub(super) making: Making,
    pub(super) identity: Option<Identity>,
    /// None for a producer without a transactional id.
    pub(super) transactions: Option<Transactions>,
    /// The producer is gone: the task ends when all is settled.
    pub(super) is_closing: bool,
}

/// What is known of a topic.
struct Topic {
    /// The map's version that this is from.
    version: u64,
    id: Uuid,
    partitions: u32,
    /// Those that have a leader, or all if none has.
    available: Vec<PartitionId>,
    sticky: Sticky,
    /// The queue of each partition that was written to.
    queues: Vec<Option<usize>>,
}

/// A record that is in its batch.
pub(super) struct Queued {
    pub(super) handle: DeliveryHandle,
    /// Whether the sending task has to look again.
    pub(super) wakes: bool,
}

impl Accumulator {
    pub(super) fn new(options: &Options, making: Making) -> Self {
        let rules = Rules {
            linger: options.linger,
            delivery_timeout: options.delivery_timeout(),
            in_flight_max: options.in_flight_max.min(IDEMPOTENT_IN_FLIGHT_MAX),
        };
        Self {
            topics: HashMap::new(),
            queues: Vec::new(),
            agenda: Agenda::default(),
            rules,
            making,
            identity: None,
            transactions: options.transactional_id.as_deref().map(Transactions::new),
            is_closing: false,
        }
    }

    /// Puts a record into its batch; None if its topic is not known yet.
    pub(super) fn append(
        &mut self,
        cluster: &Cluster,
        record: &ProducerRecord,
        bytes: usize,
        timestamp: Millis,
        transaction: Option<u64>,
    ) -> Result<Option<Queued>, Error> {
        if self.is_closing {
            return Err(Error::Closed);
        }
        if let Some(transactions) = &self.transactions {
            transactions.check_open(transaction)?;
        }
        if !self.knows(cluster, &record.topic) {
            return Ok(None);
        }
        let now = Instant::now();
        let random = || cluster.environment().random();
        let topic = self.topics.get_mut(&record.topic).expect("it is known");
        let key = record.key.as_ref().filter(|_| cluster.options().partitioner == Partitioner::Murmur2);
        let id = match (record.partition, key) {
            (Some(id), _) if (0..topic.partitions as i32).contains(&id.0) => id,
            (Some(id), _) => {
                let partition = TopicPartition::new(record.topic.clone(), id);
                return Err(Error::UnknownPartition { partition, partitions: topic.partitions as usize });
            }
            (None, Some(key)) => partition_for_key(key, topic.partitions),
            (None, None) => topic.sticky.choose(&topic.available, random),
        };
        let at = *topic.queues[id.0 as usize].get_or_insert_with(|| {
            // Not a slice of whatever the caller has cut the name from.
            let name = Str::copy_from(&record.topic);
            self.queues.push(Queue::new(TopicPartition::new(name, id)));
            self.queues.len() - 1
        });
        let queue = &mut self.queues[at];
        let (handle, pushed) = queue.push(record, bytes, timestamp, &self.making, now);
        if pushed == Pushed::FilledOne {
            topic.sticky.move_on(id, &topic.available, random);
        }
        let wakes = pushed != Pushed::Joined && {
            let before = self.agenda.next();
            self.reschedule(at, now);
            self.agenda.next().is_some_and(|next| before.is_none_or(|before| next < before))
        };
        Ok(Some(Queued { handle, wakes }))
    }

    /// Whether the topic is known, from here or from the cluster's map, which is looked at when it has changed.
    fn knows(&mut self, cluster: &Cluster, name: &Str) -> bool {
        let version = cluster.metadata_version();
        if self.topics.get(name).is_some_and(|topic| topic.version == version) {
            return true;
        }
        let Some(known) = cluster.known_topic(name) else {
            // What was known before is better than waiting.
            return self.topics.contains_key(name);
        };
        self.learn(name, &known, version);
        true
    }

    /// Takes in what a version of the cluster's map says of a topic.
    pub(super) fn learn(&mut self, name: &Str, known: &metadata::Topic, version: u64) {
        let topic = self.topics.entry(Str::copy_from(name)).or_insert_with(Topic::unknown);
        topic.version = version;
        let count = known.partitions.len() as u32;
        if topic.id == known.id {
            // Topics do not shrink: a broker that says so is behind.
            topic.partitions = topic.partitions.max(count);
        } else {
            // It was deleted and made anew; nobody there knows this producer.
            topic.id = known.id;
            topic.partitions = count;
            topic.queues.iter().flatten().for_each(|&at| self.queues[at].meet());
        }
        // Those of partitions that are no longer there may hold something still.
        topic.queues.resize(topic.queues.len().max(count as usize), None);
        // An answer may leave partitions out, and name some that cannot be.
        let there = |partition: &&metadata::Partition| (0..topic.partitions as i32).contains(&partition.id.0);
        let there: Vec<_> = known.partitions.iter().filter(there).collect();
        let led = there.iter().filter(|partition| partition.leader.is_some());
        topic.available = led.map(|partition| partition.id).collect();
        if topic.available.is_empty() {
            topic.available = there.iter().map(|partition| partition.id).collect();
        }
        if topic.available.is_empty() {
            topic.available = (0..topic.partitions as i32).map(PartitionId).collect();
        }
    }

    /// Looks at what the cluster's map says of a topic by now.
    pub(super) fn look_up(&mut self, cluster: &Cluster, name: &Str) {
        if self.topics.contains_key(name) {
            self.knows(cluster, name);
        }
    }

    /// What is wrong with a queue whose topic was deleted and made anew with fewer partitions.
    pub(super) fn missing_partition(&self, at: usize) -> Option<Error> {
        let partition = &self.queues[at].partition;
        let partitions = self.topics.get(&partition.topic)?.partitions;
        let is_there = (0..partitions as i32).contains(&partition.partition.0);
        let error =
            || Error::UnknownPartition { partition: partition.clone(), partitions: partitions as usize };
        (!is_there).then(error)
    }

    /// Gives up what waits in a queue: it goes nowhere else, where it could come behind what was sent later.
    pub(super) fn give_up_queue(&mut self, at: usize, error: Error, now: Instant) {
        self.queues[at].gone = None;
        self.queues[at].drop_unsent(&error);
        self.reschedule(at, now);
        self.fail_transaction(error, now);
    }

    /// A batch of the partition leaves: the next record without a key goes elsewhere.
    pub(super) fn move_on(&mut self, at: usize, random: impl FnOnce() -> u64) {
        let TopicPartition { topic, partition } = &self.queues[at].partition;
        if let Some(topic) = self.topics.get_mut(topic) {
            topic.sticky.move_on(*partition, &topic.available, random);
        }
    }

    /// Notes when the queue wants to be looked at.
    pub(super) fn reschedule(&mut self, at: usize, now: Instant) {
        let queue = &self.queues[at];
        let wish = match queue.wish(now, &self.rules) {
            Wish::Nothing => None,
            Wish::Later(when) => Some(when),
            Wish::Send => Some(now),
        };
        let when = [wish, queue.expiry(&self.rules)].into_iter().flatten().min();
        self.agenda.set(at, when);
    }

    /// Looks at the queue again at `when`, or earlier if a record expires.
    pub(super) fn look_at(&mut self, at: usize, when: Instant) {
        let when = self.queues[at].expiry(&self.rules).map_or(when, |expiry| expiry.min(when));
        self.agenda.set(at, Some(when));
    }

    /// A queue whose time has come.
    pub(super) fn next_due(&mut self, now: Instant) -> Option<usize> {
        self.agenda.take_due(now)
    }

    /// When the next queue's time comes.
    pub(super) fn next_time(&self) -> Option<Instant> {
        self.agenda.next()
    }

    /// Everything that waits for company goes now; what is to be settled.
    pub(super) fn close_batches(&mut self, now: Instant) -> Vec<Arc<Outcome>> {
        let mut open = Vec::new();
        for at in 0..self.queues.len() {
            if !self.queues[at].is_idle() {
                open.extend(self.queues[at].close_last());
                self.reschedule(at, now);
            }
        }
        open
    }

    /// Gives up what is not on its way; tells whether any of it had a number.
    pub(super) fn drop_unsent(&mut self, error: &Error, now: Instant) -> bool {
        let mut was_numbered = false;
        for at in 0..self.queues.len() {
            if !self.queues[at].is_idle() {
                was_numbered |= self.queues[at].drop_unsent(error);
                self.reschedule(at, now);
            }
        }
        was_numbered
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queues.iter().all(Queue::is_idle)
    }

    pub(super) fn is_in_flight(&self) -> bool {
        self.queues.iter().any(Queue::is_in_flight)
    }
}

impl Topic {
    fn unknown() -> Self {
        Self {
            version: 0,
            id: Uuid::default(),
            partitions: 0,
            available: Vec::new(),
            sticky: Sticky::default(),
            queues: Vec::new(),
        }
    }
}

/// Which queue is looked at when: each at one time at most.
#[derive(Debug, Default)]
struct Agenda {
    by_time: BTreeSet<(Instant, usize)>,
    times: Vec<Option<Instant>>,
}

impl Agenda {
    fn set(&mut self, at: usize, when: Option<Instant>) {
        if self.times.len() <= at {
            self.times.resize(at + 1, None);
        }
        let before = std::mem::replace(&mut self.times[at], when);
        if before == when {
            return;
        }
        if let Some(before) = before {
            self.by_time.remove(&(before, at));
        }
        if let Some(when) = when {
            self.by_time.insert((when, at));
        }
    }

    fn take_due(&mut self, now: Instant) -> Option<usize> {
        let &(when, at) = self.by_time.first()?;
        if when > now {
            return None;
        }
        self.set(at, None);
        Some(at)
    }

    fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|&(when, _)| when)
    }
}
