//! From what the metadata says to what this broker has on disk and does: logs opened and removed, partitions led and followed,
//! settings in force.
//!
//! One task follows the image; nobody else opens or removes a partition's log. Invariant: it acts on the image as of one entry
//! at a time, in their order, and what it tells as reconciled has been carried out. A log of a topic that the image does not
//! know is set aside when the broker starts, and removed when the topic goes while it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use client::Address;
use parking_lot::Mutex;
use state::metadata::{ConfigResource, Image, ResourceKind, Topic, TopicRules};
use state::partition::Assignment;
use storage::{Arrival, Removal, StorageError};
use tokio::sync::watch;
use tokio::time::timeout;
use wire::{BrokerId, ErrorCode, PartitionId, TopicPartition, Uuid};

use crate::blocking;
use crate::broker::{Broker, stopped};
use crate::groups::OFFSETS_TOPIC;
use crate::opening::for_each_parallel;
use crate::partition::Partition;
use crate::quorum::Touched;
use crate::share_coordinator::SHARE_STATE_TOPIC;
use crate::transactions::TRANSACTIONS_TOPIC;

/// Failures that are remembered for whoever made the topic.
const FAILURES_MAX: usize = 1_000;

/// How long everything else waits for files of partitions that go. A name that comes back before they are gone is refused, and a
/// replica that comes back waits.
const REMOVED_MAX: Duration = Duration::from_secs(60);
/// The same where it is known that the disk does not answer.
const REMOVED_FROM_SILENT_MAX: Duration = Duration::from_secs(1);

/// How far the broker has followed the image.
#[derive(Debug, Default)]
pub(crate) struct Replicas {
    reconciled: watch::Sender<u64>,
    /// Why a topic's logs could not be opened here.
    failures: Mutex<BTreeMap<Uuid, String>>,
    /// Replicas of this broker whose logs could not be opened.
    unopened: Mutex<BTreeMap<(Uuid, PartitionId), Unopened>>,
}

/// A replica whose log could not be opened.
#[derive(Debug)]
struct Unopened {
    partition: TopicPartition,
    /// Whether what was flushed is not what it was.
    is_damaged: bool,
    /// Whether it may lie in a data directory that cannot be read, or lies in two: it is not tried again before the next start.
    is_out_of_reach: bool,
    /// Whether somebody looked after its files: it is tried again when that ends.
    is_busy: bool,
}

impl Replicas {
    /// Index of the entry that the broker has followed last.
    pub(crate) fn reconciled(&self) -> u64 {
        *self.reconciled.borrow()
    }

    /// Waits until the broker has followed the entry at `index`.
    pub(crate) async fn wait_reconciled(&self, index: u64) {
        let mut reconciled = self.reconciled.subscribe();
        // The sender lives as long as this does.
        let _ = reconciled.wait_for(|reconciled| *reconciled >= index).await;
    }

    /// Why a topic's logs could not be opened here, if they could not.
    pub(crate) fn take_failure(&self, topic: Uuid) -> Option<String> {
        self.failures.lock().remove(&topic)
    }

    /// Replicas of this broker whose logs could not be opened, and whether they are damaged.
    pub(crate) fn unopened(&self) -> BTreeMap<(Uuid, PartitionId), bool> {
        self.unopened.lock().iter().map(|(key, unopened)| (*key, unopened.is_damaged)).collect()
    }

    /// Whether a replica of this broker could not be opened.
    pub(crate) fn is_unopened(&self, topic: Uuid, partition: PartitionId) -> bool {
        self.unopened.lock().contains_key(&(topic, partition))
    }

    /// Forgets those of them that are damaged and may go, and returns them.
    pub(crate) fn take_damaged(
        &self,
        may_go: impl Fn(Uuid, PartitionId) -> bool,
    ) -> Vec<(Uuid, TopicPartition)> {
        let mut damaged = Vec::new();
        self.unopened.lock().retain(|(topic, id), unopened| {
            let goes = unopened.is_damaged && may_go(*topic, *id);
            if goes {
                damaged.push((*topic, unopened.partition.clone()));
            }
            !goes
        });
        damaged
    }

    /// The topics of those with a name that wait for whoever looks after files of that name.
    fn waiting_for(&self, partition: &TopicPartition) -> Vec<Uuid> {
        let unopened = self.unopened.lock();
        let waiting =
            unopened.iter().filter(|(_, unopened)| unopened.is_busy && unopened.partition == *partition);
        waiting.map(|((topic, _), _)| *topic).collect()
    }

    /// The topics of those that are in no directory yet.
    fn unplaced(&self, broker: &Broker) -> BTreeSet<Uuid> {
        let unopened = self.unopened.lock();
        let is_unplaced = |unopened: &&Unopened| broker.data_dirs.place_of(&unopened.partition).is_none();
        let unplaced = unopened.iter().filter(|(_, unopened)| is_unplaced(unopened));
        unplaced.map(|((topic, _), _)| *topic).collect()
    }

    /// A replica is in service that may not have been before.
    fn note_opened(&self, topic: Uuid, partition: PartitionId) {
        let mut unopened = self.unopened.lock();
        let was_unopened = unopened.remove(&(topic, partition)).is_some();
        if was_unopened && !unopened.keys().any(|(other, _)| *other == topic) {
            // Nobody who changes the topic later is to be told.
            self.failures.lock().remove(&topic);
        }
    }

    fn is_out_of_reach(&self, topic: Uuid, partition: PartitionId) -> bool {
        self.unopened.lock().get(&(topic, partition)).is_some_and(|unopened| unopened.is_out_of_reach)
    }

    /// Forgets those of the topics that are no longer this broker's.
    fn forget_unopened(&self, this: BrokerId, image: &Image, topics: &BTreeSet<Uuid>) {
        self.unopened.lock().retain(|(topic, id), _| {
            let known = image.topic_by_id(*topic).and_then(|topic| topic.partition(*id));
            !topics.contains(topic) || known.is_some_and(|known| known.replicas.contains(&this))
        });
    }

    fn note_failure(&self, topic: Uuid, unopened: Unopened, why: String) {
        self.unopened.lock().insert((topic, unopened.partition.partition), unopened);
        let mut failures = self.failures.lock();
        if failures.len() < FAILURES_MAX {
            failures.insert(topic, why);
        }
    }
}

/// Follows the image until the broker stops.
pub(crate) async fn run(broker: Arc<Broker>, mut stop: watch::Receiver<bool>) {
    let mut applied = broker.metadata.quorum().watch_applied();
    loop {
        reconcile(&broker).await;
        tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            changed = applied.changed() => if changed.is_err() { return },
        }
    }
}

/// Sets aside what is on disk and in no topic. The image must be as new as the cluster's: a topic that an old one does not
/// know may well be there. Blocks.
pub(crate) fn set_aside_strays(broker: &Broker) {
    let image = broker.metadata.image();
    for (at, log) in broker.data_dirs.found() {
        let partition = &log.topic_partition;
        let is_known = &*partition.topic == crate::metadata::METADATA_TOPIC
            || image.topic(&partition.topic).is_some_and(|topic| {
                topic.id == log.topic_id
                    && topic
                        .partition(partition.partition)
                        .is_some_and(|known| known.replicas.contains(&broker.node_id))
            });
        if !is_known {
            tracing::warn!(%partition, "a log of no topic is set aside");
            if let Err(error) = broker.data_dirs.set_aside_stray(partition, Some(*at)) {
                // It is not served, and the next start tries again.
                tracing::error!(%partition, %error, "a log of no topic could not be set aside");
            }
            files_are_free(broker, partition);
        }
    }
}

/// Carries out what has changed since the last time.
pub(crate) async fn reconcile(broker: &Arc<Broker>) {
    // The index first: what comes in between is carried out now and told with the next.
    let index = broker.metadata.quorum().applied();
    let touched = broker.metadata.quorum().take_touched();
    let image = broker.metadata.image();
    if touched.all || touched.brokers {
        broker.metadata.quorum().peers().learn(addresses(&image));
    }
    if touched.all || !touched.configs.is_empty() {
        apply_configs(broker, &touched).await;
    }
    if touched.all || touched.configs.iter().any(|resource| resource.kind == ResourceKind::ClientMetrics) {
        broker.telemetry.update(&image, &broker.settings());
    }
    if touched.all || touched.quotas {
        broker.quotas.update(&image);
    }
    let topics = changed_topics(broker, &image, &touched);
    remove_gone(broker, &image, &topics).await;
    if !touched.deleted.is_empty() {
        broker.groups.topics_deleted(&touched.deleted);
        broker.share_states.forget_topics(broker);
    }
    open_new(broker, &image, &topics).await;
    take_roles(broker, &image, &topics);
    broker.replicas.reconciled.send_replace(index);
    let epoch = broker.epoch.load(Ordering::Acquire);
    let is_counted_in = |known: &state::metadata::Broker| !known.fenced && known.epoch == epoch;
    broker.fenced.send_replace(!image.broker(broker.node_id).is_some_and(is_counted_in));
    broker.metadata_caught_up.notify_one();
}

/// Where brokers listen for each other: their first listener.
fn addresses(image: &Image) -> BTreeMap<BrokerId, Address> {
    let addresses = image.brokers().filter_map(|broker| {
        let endpoint = broker.endpoints.first()?;
        Some((broker.id, Address { host: endpoint.host.to_string(), port: endpoint.port }))
    });
    addresses.collect()
}

fn changed_topics(broker: &Broker, image: &Image, touched: &Touched) -> BTreeSet<Uuid> {
    let mut topics = touched.topics.clone();
    if touched.all {
        topics.extend(image.topics().map(|topic| topic.id));
        topics.extend(broker.partitions.load().topics().map(|topic| topic.id));
    }
    // `min.insync.replicas` is part of what a leader acts on, whoever it is inherited from.
    let is_broker_wide = touched.configs.iter().any(|resource| resource.kind == ResourceKind::Broker);
    if is_broker_wide {
        topics.extend(broker.partitions.load().topics().map(|topic| topic.id));
    }
    for resource in touched.configs.iter().filter(|resource| resource.kind == ResourceKind::Topic) {
        topics.extend(image.topic(&resource.name).map(|topic| topic.id));
    }
    topics
}

/// A partition that is out of service, and its files, unless whoever looks after them removes them.
type Gone = (Arc<Partition>, Option<Removal>);

/// Takes partitions out of service that are no longer this broker's, and removes their logs.
async fn remove_gone(broker: &Arc<Broker>, image: &Image, topics: &BTreeSet<Uuid>) {
    let hosted = broker.partitions.load_full();
    let mut gone: Vec<Arc<Partition>> = Vec::new();
    for id in topics {
        let Some(here) = hosted.topic_by_id(*id) else { continue };
        let known = image.topic_by_id(*id);
        let is_gone = |partition: &&Arc<Partition>| {
            let known = known.and_then(|topic| topic.partition(partition.id.partition));
            known.is_none_or(|known| !known.replicas.contains(&broker.node_id))
        };
        gone.extend(here.partitions().filter(is_gone).cloned());
    }
    if !gone.is_empty() {
        broker.partitions.remove(&gone);
        for partition in &gone {
            broker.replication.assign(broker, partition, None);
            partition.waiting.fail(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
            match &*partition.id.topic {
                OFFSETS_TOPIC => broker.groups.resign(partition.id.partition),
                TRANSACTIONS_TOPIC => broker.transactions.resign(partition.id.partition),
                SHARE_STATE_TOPIC => broker.share_states.resign(partition.id.partition),
                _ => {}
            }
        }
        // By data directory: a disk that hangs delays no other.
        let mut by_dir: BTreeMap<usize, Vec<Gone>> = BTreeMap::new();
        for partition in gone {
            broker.moves.give_up(&partition.id);
            // All of them before the first disk is asked: one that comes back meanwhile is not served from files that are still
            // to go.
            let removal = broker.data_dirs.begin_removal(&partition.id);
            by_dir.entry(partition.lane()).or_default().push((partition, removal));
        }
        let removing = by_dir.into_iter().map(|(at, gone)| {
            let deleter = Arc::clone(broker);
            (at, blocking::start(move || remove_logs(&deleter, gone)))
        });
        for (at, removing) in removing.collect::<Vec<_>>() {
            let wait = if broker.data_dirs.is_silent(at) { REMOVED_FROM_SILENT_MAX } else { REMOVED_MAX };
            match timeout(wait, removing).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "partitions could not be removed"),
                Err(_elapsed) => tracing::warn!(
                    waits = ?wait,
                    "files of partitions are not removed yet: a disk does not answer. They are when it does"
                ),
            }
        }
    }
}

/// Removes the files of partitions that are out of service. Blocks.
fn remove_logs(broker: &Broker, gone: Vec<Gone>) {
    for (partition, removal) in gone {
        let removed = removal.map_or(Ok(()), |removal| broker.data_dirs.finish_removal(removal));
        if let Err(error) = removed {
            // It is out of service all the same: the next start finds a log of no topic and sets it aside.
            tracing::error!(partition = %partition.id, %error, "a partition's files could not be removed");
        }
        partition.waiting.fail(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        files_are_free(broker, &partition.id);
    }
}

/// Nobody looks after the files of a partition's name any more: a replica that waits for that is opened.
pub(crate) fn files_are_free(broker: &Broker, partition: &TopicPartition) {
    for topic in broker.replicas.waiting_for(partition) {
        broker.metadata.quorum().touch(topic);
    }
}

/// A directory is offline: what could not be made there is made in another one.
pub(crate) fn make_elsewhere(broker: &Broker) {
    for topic in broker.replicas.unplaced(broker) {
        broker.metadata.quorum().touch(topic);
    }
}

/// Opens the logs of partitions that are this broker's and not in service yet, many at a time.
async fn open_new(broker: &Arc<Broker>, image: &Arc<Image>, topics: &BTreeSet<Uuid>) {
    let hosted = broker.partitions.load_full();
    // A directory that cannot be read may hold what is not found at the start; what comes later is new.
    let arrival = if broker.replicas.reconciled() == 0 { Arrival::AtStart } else { Arrival::Later };
    broker.replicas.forget_unopened(broker.node_id, image, topics);
    let mut wanted: Vec<(TopicPartition, Uuid)> = Vec::new();
    for topic in topics.iter().filter_map(|id| image.topic_by_id(*id)) {
        let here = hosted.topic_by_id(topic.id);
        for (id, partition) in topic.partitions() {
            let is_new = here.is_none_or(|here| here.partition(id).is_none());
            let is_out_of_reach = || broker.replicas.is_out_of_reach(topic.id, id);
            if is_new && partition.replicas.contains(&broker.node_id) && !is_out_of_reach() {
                wanted.push((TopicPartition { topic: topic.name.clone(), partition: id }, topic.id));
            }
        }
    }
    if wanted.is_empty() {
        return;
    }
    let (opener, image) = (Arc::clone(broker), Arc::clone(image));
    let opened = blocking::run(move || {
        let threads = crate::opening::open_threads(&opener.settings());
        let opened = for_each_parallel(&wanted, threads, |(partition, topic_id)| {
            let refused = opener.descriptors.check(1).err();
            let opened = match refused {
                Some(why) => Err((why.to_string(), None)),
                None => opener
                    .open_partition(&image, partition.clone(), *topic_id, arrival)
                    .map_err(|error| (error.to_string(), Some(error))),
            };
            // One rotten file must not keep all other partitions from being served.
            Ok::<_, std::convert::Infallible>(match opened {
                Ok(opened) => {
                    opener.replicas.note_opened(*topic_id, partition.partition);
                    Some(opened)
                }
                Err((error, cause)) => {
                    let is_damaged = matches!(cause, Some(StorageError::Damaged { .. }));
                    // Whatever kept it from being looked for: a later try would make it anew.
                    let may_be_unread = arrival == Arrival::AtStart
                        && opener.data_dirs.has_unread()
                        && opener.data_dirs.place_of(partition).is_none();
                    let is_out_of_reach = may_be_unread
                        || matches!(
                            cause,
                            Some(StorageError::DirOffline { .. } | StorageError::Undecided { .. })
                        );
                    let is_busy = matches!(cause, Some(StorageError::Moving));
                    if is_busy {
                        tracing::warn!(%partition, "the partition is not served here before the files of its last one are gone");
                    } else {
                        tracing::error!(
                            %partition, %error,
                            "the partition is not served here: restore its directory from a copy, or move its replica away"
                        );
                    }
                    let unopened =
                        Unopened { partition: partition.clone(), is_damaged, is_out_of_reach, is_busy };
                    opener.replicas.note_failure(*topic_id, unopened, error);
                    if is_busy && !opener.data_dirs.is_busy(partition) {
                        // It has ended before this was noted.
                        files_are_free(&opener, partition);
                    }
                    None
                }
            })
        });
        match opened {
            Ok(opened) => opened,
            Err(never) => match never {},
        }
    });
    let opened = opened.await;
    broker.partitions.insert(opened.into_iter().flatten());
}

/// What the leader of a partition looks after besides its records.
#[derive(Clone, Copy)]
enum Coordinates {
    Groups,
    Transactions,
    ShareStates,
}

impl Coordinates {
    fn lead(self, broker: &Broker, partition: &Arc<Partition>) {
        match self {
            Coordinates::Groups => broker.groups.lead(Arc::clone(partition)),
            Coordinates::Transactions => broker.transactions.lead(Arc::clone(partition)),
            Coordinates::ShareStates => broker.share_states.lead(Arc::clone(partition)),
        }
    }

    fn resign(self, broker: &Broker, index: PartitionId) {
        match self {
            Coordinates::Groups => broker.groups.resign(index),
            Coordinates::Transactions => broker.transactions.resign(index),
            Coordinates::ShareStates => broker.share_states.resign(index),
        }
    }
}

/// Leads what the image says that this broker leads, and follows the others.
fn take_roles(broker: &Arc<Broker>, image: &Image, topics: &BTreeSet<Uuid>) {
    let settings = Arc::clone(&broker.settings());
    let hosted = broker.partitions.load_full();
    for topic in topics.iter().filter_map(|id| image.topic_by_id(*id)) {
        let rule = settings.rule(image, &topic.name);
        let coordinates = match &*topic.name {
            OFFSETS_TOPIC => Some(Coordinates::Groups),
            TRANSACTIONS_TOPIC => Some(Coordinates::Transactions),
            SHARE_STATE_TOPIC => Some(Coordinates::ShareStates),
            _ => None,
        };
        match coordinates {
            Some(Coordinates::Groups) => broker.groups.set_partition_count(topic.partition_count()),
            Some(Coordinates::Transactions) => {
                broker.transactions.set_partition_count(topic.partition_count());
            }
            Some(Coordinates::ShareStates) => {
                broker.share_states.set_partition_count(topic.partition_count());
            }
            None => {}
        }
        let Some(here) = hosted.topic_by_id(topic.id) else { continue };
        for partition in here.partitions() {
            take_role(broker, topic, partition, rule.min_insync_replicas, coordinates);
        }
    }
}

fn take_role(
    broker: &Arc<Broker>,
    topic: &Topic,
    partition: &Arc<Partition>,
    isr_min: usize,
    coordinates: Option<Coordinates>,
) {
    let Some(known) = topic.partition(partition.id.partition) else { return };
    let index: PartitionId = partition.id.partition;
    let (leader_before, epoch_before) = partition.leader();
    if known.leader == Some(broker.node_id) {
        let assignment = Assignment {
            leader_epoch: known.leader_epoch,
            partition_epoch: known.partition_epoch,
            replicas: known.replicas.to_vec(),
            isr: known.isr.to_vec(),
            isr_min: isr_min.min(known.replicas.len()).max(1),
        };
        broker.replication.assign(broker, partition, None);
        let is_new = (leader_before, epoch_before) != (known.leader, known.leader_epoch);
        if let Some(coordinates) = coordinates.filter(|_| is_new) {
            // What an earlier epoch of this broker believes must not be written in this one.
            coordinates.resign(broker, index);
        }
        if let Some(before) = partition.in_sync().filter(|_| !is_new) {
            broker.metrics.in_sync_changed(before.in_sync, assignment.isr.len());
        }
        partition.lead(broker.node_id, assignment, broker.ticks());
        if let Some(coordinates) = coordinates.filter(|_| is_new) {
            coordinates.lead(broker, partition);
        }
    } else {
        if let Some(coordinates) = coordinates.filter(|_| leader_before == Some(broker.node_id)) {
            coordinates.resign(broker, index);
        }
        broker.replication.assign(broker, partition, Some((known.leader, known.leader_epoch)));
    }
}

/// Makes the running broker follow settings that may have changed. Setting a log's settings to what they are does
/// nothing.
async fn apply_configs(broker: &Arc<Broker>, touched: &Touched) {
    let is_broker_wide =
        touched.all || touched.configs.iter().any(|resource| resource.kind == ResourceKind::Broker);
    let topics: Vec<ConfigResource> =
        touched.configs.iter().filter(|resource| resource.kind == ResourceKind::Topic).cloned().collect();
    let broker = Arc::clone(broker);
    let applied = blocking::run(move || {
        let image = broker.metadata.image();
        let hosted = broker.partitions.load_full();
        if is_broker_wide {
            broker.apply_dynamic_settings();
            // Every topic inherits from the broker's settings.
            for topic in hosted.topics() {
                update_logs(&broker, &image, topic);
            }
            return;
        }
        for topic in topics.iter().filter_map(|resource| hosted.topic(&resource.name)) {
            update_logs(&broker, &image, topic);
        }
    });
    applied.await;
}

fn update_logs(broker: &Broker, image: &Image, topic: &crate::partitions::HostedTopic) {
    let settings = broker.topic_settings(image, &topic.name);
    let config = broker.settings().log_config(&settings);
    for partition in topic.partitions() {
        partition.throttled.update(&settings, partition.id.partition, broker.node_id);
        partition.log.update_config(config.clone());
    }
}
