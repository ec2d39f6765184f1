//! The share-partitions of this broker: those of the partitions that it leads, for the groups that read them here.
//!
//! Each is a pure machine of `state` behind a lock, loaded from the share coordinator when a member first asks and written to it
//! as it changes: one write at a time, each with all that has changed since the last. Invariant: whoever acknowledges is answered
//! when what it said is written. A share-partition that cannot be written, or whose partition another broker leads, is dropped;
//! who waits for it is told, and the next one loads what was written.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use state::metadata::{ConfigResource, ResourceKind};
use state::share::partition::{AcknowledgedBatch, DeadLetters, ShareConfig, SharePartition};
use state::share::state::{SharePartitionKey, ShareState};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};
use wire::{ErrorCode, LeaderEpoch, Millis, Offset, Str};

use crate::blocking;
use crate::broker::{Broker, Named, stopped};
use crate::dead_letters;
use crate::handler::share_group_offsets;
use crate::partition::Partition;
use crate::settings::group::{OffsetReset, ShareGroupSettings};
use crate::share_coordinator::Failure;
use crate::waiting::Waiting;

/// How long the share coordinator is asked again before a share-partition is given up.
const PERSIST_MAX: Duration = Duration::from_secs(15);
/// Between two questions.
const PERSIST_PAUSE: Duration = Duration::from_millis(100);
/// How long the clock sleeps when no lock ends.
const TICK_MAX: Duration = Duration::from_secs(10);

/// All of them.
#[derive(Default)]
pub(crate) struct SharePartitions {
    held: Mutex<HashMap<SharePartitionKey, Arc<Held>>>,
    /// Told when a lock may end earlier than the one slept for.
    earlier_deadline: Notify,
}

/// One share-partition, for as long as this broker leads its partition in one epoch.
pub(crate) struct Held {
    pub(crate) key: SharePartitionKey,
    pub(crate) partition: Arc<Partition>,
    leader_epoch: LeaderEpoch,
    inner: Mutex<Inner>,
    /// Where it stands, for those who wait.
    phase: watch::Sender<Phase>,
    /// Members that wait for records to become available again.
    pub(crate) waiting: Waiting,
}

#[derive(Clone, Debug)]
enum Phase {
    Loading,
    /// Changes up to this one are written.
    Written(u64),
    Failed(Failure),
}

struct Inner {
    machine: Option<SharePartition>,
    /// How many changes there were.
    changes: u64,
    is_writing: bool,
    /// Whether somebody takes what is given up to the dead-letter queue.
    is_burying: bool,
    /// How many records were given up without a dead letter when all attempts were in vain of late.
    buried_in_vain: i64,
}

impl Held {
    /// Looks at the machine, or changes it; what has changed is written.
    pub(crate) fn with<T>(
        self: &Arc<Self>,
        broker: &Arc<Broker>,
        step: impl FnOnce(&mut SharePartition) -> T,
    ) -> Result<T, Failure> {
        self.partition.check_leader(self.leader_epoch)?;
        let mut inner = self.inner.lock();
        if let Phase::Failed(failure) = &*self.phase.borrow() {
            return Err(failure.clone());
        }
        let machine = inner.machine.as_mut().ok_or(ErrorCode::NOT_LEADER_OR_FOLLOWER)?;
        machine.log_start_moved(self.partition.log.log_start());
        let before = machine.next_deadline();
        let stepped = step(machine);
        let deadline = machine.next_deadline();
        if deadline.is_some_and(|deadline| before.is_none_or(|before| deadline < before)) {
            broker.share_partitions.earlier_deadline.notify_one();
        }
        self.begin_write(broker, &mut inner);
        Ok(stepped)
    }

    /// A member says what has become of records. It counts when it is [written](Self::written).
    pub(crate) fn acknowledge(
        self: &Arc<Self>,
        broker: &Arc<Broker>,
        member: &str,
        batches: &[AcknowledgedBatch],
    ) -> Result<(), Failure> {
        let now = broker.ticks();
        let said = self.with(broker, |machine| machine.acknowledge(member, batches, now))?;
        said.map_err(|refusal| Failure {
            error: refusal.into(),
            message: Some(Str::from(refusal.to_string())),
        })?;
        // What was released is for others, and what is done with makes room.
        self.waiting.wake_fetches();
        Ok(())
    }

    /// Whether it is still being loaded. Whoever is parked here is woken when it is not any more.
    pub(crate) fn is_loading(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Loading)
    }

    /// Whether it is given up: the next one loads what was written.
    pub(crate) fn has_failed(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Failed(_))
    }

    /// Waits until it is loaded.
    pub(crate) async fn loaded(&self) -> Result<(), Failure> {
        let mut phase = self.phase.subscribe();
        match phase.wait_for(|phase| !matches!(phase, Phase::Loading)).await.as_deref() {
            Ok(Phase::Failed(failure)) => Err(failure.clone()),
            Ok(_) => Ok(()),
            // The sender lives as long as this does.
            Err(_) => Err(ErrorCode::NOT_LEADER_OR_FOLLOWER.into()),
        }
    }

    /// What a member has is for others: it is gone.
    pub(crate) fn release(self: &Arc<Self>, broker: &Arc<Broker>, member: &str) -> Result<(), Failure> {
        if self.with(broker, |machine| machine.release(member))? {
            self.waiting.wake_fetches();
        }
        Ok(())
    }

    /// Waits until all that has changed is written.
    pub(crate) async fn written(&self) -> Result<(), Failure> {
        let changes = self.inner.lock().changes;
        let mut phase = self.phase.subscribe();
        // The sender lives as long as this does.
        let reached = phase.wait_for(|phase| match phase {
            Phase::Loading => false,
            Phase::Written(written) => *written >= changes,
            Phase::Failed(_) => true,
        });
        match reached.await.as_deref() {
            Ok(Phase::Failed(failure)) => Err(failure.clone()),
            Ok(_) => Ok(()),
            Err(_) => Err(ErrorCode::NOT_LEADER_OR_FOLLOWER.into()),
        }
    }

    /// Begins to write what has changed, and to bury what is given up, if nobody does.
    fn begin_write(self: &Arc<Self>, broker: &Arc<Broker>, inner: &mut Inner) {
        let has_given_up = inner.machine.as_ref().is_some_and(|machine| machine.dead_letters().is_some());
        if has_given_up && !inner.is_burying {
            inner.is_burying = true;
            tokio::spawn(dead_letters::bury(Arc::clone(self), Arc::clone(broker)));
        }
        let has_changed = inner.machine.as_ref().is_some_and(SharePartition::has_changed);
        if !has_changed {
            return;
        }
        inner.changes += 1;
        if !inner.is_writing {
            inner.is_writing = true;
            tokio::spawn(write_on(Arc::clone(self), Arc::clone(broker)));
        }
    }

    /// What goes to the dead-letter queue next. Whoever is told that there is nothing has done with it.
    pub(crate) fn next_dead_letters(&self) -> Option<DeadLetters> {
        let mut inner = self.inner.lock();
        let next = inner.machine.as_ref().and_then(SharePartition::dead_letters);
        inner.is_burying = next.is_some();
        next
    }

    /// Nobody takes anything to the dead-letter queue any more.
    pub(crate) fn stop_burying(&self) {
        self.inner.lock().is_burying = false;
    }

    /// How many records were given up last because dead letters could not be written, for all attempts; zero where they can.
    pub(crate) fn buried_in_vain(&self) -> i64 {
        self.inner.lock().buried_in_vain
    }

    pub(crate) fn set_buried_in_vain(&self, records: i64) {
        self.inner.lock().buried_in_vain = records;
    }

    /// It is given up: what was not written has not happened.
    fn fail(&self, broker: &Broker, failure: Failure) {
        broker.share_partitions.remove(self);
        let mut inner = self.inner.lock();
        inner.machine = None;
        self.phase.send_replace(Phase::Failed(failure));
        drop(inner);
        self.waiting.fail(ErrorCode::NOT_LEADER_OR_FOLLOWER);
    }

    /// It is let go of if its group has no member here, and there is nothing to write, nor with a member: whoever wants it next
    /// loads it.
    pub(crate) fn retire(&self, broker: &Broker) {
        let mut inner = self.inner.lock();
        let is_idle = inner.machine.as_ref().is_some_and(|machine| machine.acquired() == 0);
        let is_busy = inner.is_writing || inner.is_burying;
        if is_idle && !is_busy && !broker.share_sessions.has_group(&self.key.group) {
            inner.machine = None;
            broker.share_partitions.remove(self);
        }
    }
}

/// Writes until nothing is left to write.
async fn write_on(held: Arc<Held>, broker: Arc<Broker>) {
    loop {
        let (write, changes) = {
            let mut inner = held.inner.lock();
            let changes = inner.changes;
            let write = inner.machine.as_mut().and_then(|machine| machine.take_write(held.leader_epoch));
            inner.is_writing = write.is_some();
            match write {
                Some(write) => (write, changes),
                None => break,
            }
        };
        let written = insist(&broker, PERSIST_MAX, || broker.write_share_state(&held.key, &write)).await;
        if let Err(failure) = written {
            tracing::info!(
                share_partition = %held.key, error = ?failure.error,
                "a share-partition cannot be written, and begins anew with what was"
            );
            held.fail(&broker, failure);
            return;
        }
        let was_loading = held.is_loading();
        held.phase.send_if_modified(|phase| match phase {
            Phase::Failed(_) => false,
            phase => {
                *phase = Phase::Written(changes);
                true
            }
        });
        if was_loading {
            held.waiting.wake_fetches();
        }
    }
    held.retire(&broker);
}

/// Asks the share coordinator again while it is not there.
pub(crate) async fn insist<T, Asked>(
    broker: &Broker,
    wait_max: Duration,
    mut ask: impl FnMut() -> Asked,
) -> Result<T, Failure>
where
    Asked: Future<Output = Result<T, Failure>>,
{
    let deadline = Instant::now() + wait_max;
    loop {
        let failure = match ask().await {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        let may_pass = matches!(
            failure.error,
            ErrorCode::COORDINATOR_NOT_AVAILABLE
                | ErrorCode::COORDINATOR_LOAD_IN_PROGRESS
                | ErrorCode::NOT_COORDINATOR
        );
        if !may_pass || Instant::now() >= deadline || broker.is_stopping() {
            return Err(told(failure));
        }
        sleep(PERSIST_PAUSE).await;
    }
}

/// What a member is told of the share coordinator's refusals.
fn told(failure: Failure) -> Failure {
    let error = match failure.error {
        ErrorCode::NOT_COORDINATOR | ErrorCode::COORDINATOR_LOAD_IN_PROGRESS => {
            ErrorCode::COORDINATOR_NOT_AVAILABLE
        }
        ErrorCode::FENCED_LEADER_EPOCH => ErrorCode::NOT_LEADER_OR_FOLLOWER,
        // The request was this broker's, not the member's, which would take it for its own fault and end.
        ErrorCode::INVALID_REQUEST => ErrorCode::UNKNOWN_SERVER_ERROR,
        error => error,
    };
    Failure { error, ..failure }
}

impl SharePartitions {
    /// How many there are, and how many records are with members.
    pub(crate) fn counts(&self) -> (usize, i64) {
        let held: Vec<_> = self.held.lock().values().cloned().collect();
        let acquired =
            held.iter().filter_map(|held| held.inner.lock().machine.as_ref().map(SharePartition::acquired));
        (held.len(), acquired.sum())
    }

    fn remove(&self, held: &Held) {
        let mut all = self.held.lock();
        if all.get(&held.key).is_some_and(|other| std::ptr::eq(&**other, held)) {
            all.remove(&held.key);
        }
    }

    /// Those of a group.
    pub(crate) fn of_group(&self, group: &str) -> Vec<Arc<Held>> {
        self.held.lock().values().filter(|held| *held.key.group == *group).cloned().collect()
    }

    /// Lets go of what a group had here: its last member has gone. What is being written goes when it is.
    pub(crate) fn group_left(&self, broker: &Broker, group: &str) {
        for held in self.of_group(group) {
            held.retire(broker);
        }
    }
}

impl Broker {
    /// What holds for a share group.
    pub(crate) fn share_group_settings(&self, group: &Str) -> ShareGroupSettings {
        let image = self.metadata.image();
        let resource = ConfigResource { kind: ResourceKind::Group, name: group.clone() };
        self.settings().share_group(image.configs(&resource))
    }

    /// The share-partition, which is loaded from now on if it was not before.
    pub(crate) fn share_partition(
        self: &Arc<Self>,
        key: &SharePartitionKey,
        settings: &ShareGroupSettings,
    ) -> Result<Arc<Held>, Failure> {
        let partition = {
            let hosted = self.partitions.load();
            let topic = hosted.topic_by_id(key.topic);
            let topic = match topic {
                Some(topic) => topic,
                None if self.metadata.image().topic_by_id(key.topic).is_some() => {
                    return Err(ErrorCode::NOT_LEADER_OR_FOLLOWER.into());
                }
                None => return Err(ErrorCode::UNKNOWN_TOPIC_ID.into()),
            };
            let here = topic.partition(key.partition).cloned();
            match here {
                Some(partition) => partition,
                None => return Err(self.missing(Named::Id(key.topic), key.partition).into()),
            }
        };
        partition.check_leader(LeaderEpoch::NONE)?;
        let leader_epoch = partition.leader_epoch();
        let (held, is_new) = {
            let mut all = self.share_partitions.held.lock();
            match all.get(key).filter(|held| held.leader_epoch == leader_epoch) {
                Some(held) => (Arc::clone(held), false),
                None => {
                    let held = Arc::new(Held {
                        key: key.clone(),
                        partition,
                        leader_epoch,
                        inner: Mutex::new(Inner {
                            machine: None,
                            changes: 0,
                            is_writing: false,
                            is_burying: false,
                            buried_in_vain: 0,
                        }),
                        phase: watch::Sender::new(Phase::Loading),
                        waiting: Waiting::default(),
                    });
                    let before = all.insert(key.clone(), Arc::clone(&held));
                    drop(all);
                    if let Some(before) = before {
                        before.fail(self, ErrorCode::NOT_LEADER_OR_FOLLOWER.into());
                    }
                    (held, true)
                }
            }
        };
        if is_new {
            tokio::spawn(load(Arc::clone(&held), Arc::clone(self), settings.clone()));
        }
        if let Some(machine) = &mut held.inner.lock().machine {
            machine.set_config(config(settings));
        }
        Ok(held)
    }
}

fn config(settings: &ShareGroupSettings) -> ShareConfig {
    ShareConfig {
        lock_ms: settings.lock_ms,
        delivery_count_max: settings.delivery_count_max,
        in_flight_max: settings.in_flight_max,
        has_dead_letters: settings.dead_letter_topic.is_some(),
    }
}

/// Begins with what the share coordinator knows. Where nobody has settled where to begin, it is settled here and written at
/// once: what is produced from now on is not missed.
async fn load(held: Arc<Held>, broker: Arc<Broker>, settings: ShareGroupSettings) {
    let read = insist(&broker, PERSIST_MAX, || stored(&broker, &held)).await;
    let loaded = match read {
        Ok(state) if state.start.is_some() => Ok((state, Offset::ZERO)),
        Ok(state) => match first_offset(&broker, &held.partition, &settings).await {
            Ok(start) => Ok((state, start)),
            Err(error) => Err(error.into()),
        },
        Err(failure) => Err(failure),
    };
    let (state, start) = match loaded {
        Ok(loaded) => loaded,
        Err(failure) => {
            tracing::debug!(share_partition = %held.key, error = ?failure.error, "a share-partition cannot be loaded");
            held.fail(&broker, failure);
            return;
        }
    };
    let mut inner = held.inner.lock();
    if !matches!(*held.phase.borrow(), Phase::Loading) {
        return;
    }
    inner.machine = Some(SharePartition::new(config(&settings), &state, start));
    held.begin_write(&broker, &mut inner);
    // Where it begins is written before anybody is given a record: another leader must not begin behind what was handed out.
    if !inner.is_writing {
        held.phase.send_replace(Phase::Written(0));
        held.waiting.wake_fetches();
    }
    drop(inner);
    // Whoever wanted it may be gone by now.
    held.retire(&broker);
}

/// What the share coordinator knows. Where that is nothing it is asked again when the group's coordinator has had a look: what the
/// group should have begins again then.
async fn stored(broker: &Arc<Broker>, held: &Held) -> Result<ShareState, Failure> {
    match broker.read_share_state(&held.key, held.leader_epoch).await {
        Err(failure) if failure.error == ErrorCode::INVALID_REQUEST => {
            match share_group_offsets::look_for_state(broker, &held.key).await {
                // Nobody keeps a group of that name: the refusal is the news.
                Err(no_group) if no_group.error == ErrorCode::GROUP_ID_NOT_FOUND => Err(failure),
                Err(failure) => Err(failure),
                Ok(()) => broker.read_share_state(&held.key, held.leader_epoch).await,
            }
        }
        read => read,
    }
}

async fn first_offset(
    broker: &Arc<Broker>,
    partition: &Arc<Partition>,
    settings: &ShareGroupSettings,
) -> Result<Offset, ErrorCode> {
    let ago = match settings.offset_reset {
        OffsetReset::Earliest => return Ok(partition.log.log_start()),
        OffsetReset::ByDuration(ago) => i64::try_from(ago.as_millis()).unwrap_or(i64::MAX),
        OffsetReset::Latest => {
            // An earlier leader may have told readers more (KIP-207).
            return match partition.is_watermark_sure() {
                true => Ok(partition.high_watermark()),
                false => Err(ErrorCode::NOT_LEADER_OR_FOLLOWER),
            };
        }
    };
    let time = Millis(broker.clock.now().0.saturating_sub(ago));
    let (partition, upper) = (Arc::clone(partition), partition.high_watermark());
    let found = blocking::run(move || partition.log.offset_for_time(time, upper)).await;
    match found {
        Ok(found) => Ok(found.map_or(upper, |found| found.offset)),
        Err(error) => {
            tracing::error!(%error, "an offset could not be looked up by time");
            Err(ErrorCode::KAFKA_STORAGE_ERROR)
        }
    }
}

/// Ends locks that have lasted long enough, and lets go of what this broker does not lead any more, until it stops.
pub(crate) async fn run_clock(broker: Arc<Broker>, mut stop: watch::Receiver<bool>) {
    loop {
        let mut earliest: Option<Millis> = None;
        let held: Vec<_> = broker.share_partitions.held.lock().values().cloned().collect();
        let now = broker.ticks();
        for held in held {
            // A topic that is gone, or a replica that was moved away, led to the end.
            let is_gone = {
                let hosted = broker.partitions.load();
                let here =
                    hosted.topic_by_id(held.key.topic).and_then(|topic| topic.partition(held.key.partition));
                !here.is_some_and(|here| Arc::ptr_eq(here, &held.partition))
            };
            let is_led = held.partition.check_leader(held.leader_epoch).is_ok();
            if is_gone || !is_led || held.partition.is_out_of_service() {
                held.fail(&broker, ErrorCode::NOT_LEADER_OR_FOLLOWER.into());
                continue;
            }
            let ticked = held.with(&broker, |machine| (machine.tick(now), machine.next_deadline()));
            // One that is being loaded has no locks.
            let Ok((has_ended, deadline)) = ticked else { continue };
            if has_ended {
                held.waiting.wake_fetches();
            }
            earliest = earliest.into_iter().chain(deadline).min();
        }
        let wait = earliest.map_or(TICK_MAX, |deadline| {
            Duration::from_millis(u64::try_from(deadline.since(broker.ticks())).unwrap_or(0)).min(TICK_MAX)
        });
        tokio::select! {
            biased;
            () = sleep(wait) => {}
            () = broker.share_partitions.earlier_deadline.notified() => {}
            () = stopped(&mut stop) => return,
        }
    }
}
