//! The task that owns what a consumer does: membership, positions, fetching, commits.
//!
//! Whatever takes time runs beside it and comes back as [`Done`]; the loop itself handles one thing after the other
//! and never waits for the application. It ends when the consumer is closed or dropped.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Duration, Instant, sleep_until, timeout_at};
use wire::messages::fetch::FetchResponse;
use wire::{BrokerId, LeaderEpoch, Offset, Str, TopicPartition, Uuid};

use super::commit::{Committed, Committer, Within};
use super::group::{Group, Reply, Seen};
use super::membership::Action;
use super::offsets::Offsets;
use super::positions::Begin;
use super::shared::{Shared, Wish};
use crate::cluster::Cluster;
use crate::error::Error;

/// What the application asks of the driver and waits for.
pub(super) struct Command {
    pub(super) end: End,
    pub(super) within: Within,
    /// Leaving the group takes no longer.
    pub(super) left: Instant,
    pub(super) reply: oneshot::Sender<Result<Committed, Error>>,
}

/// What is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Reading, for now.
    Reading,
    /// Everything.
    All,
    /// Everything, and nobody is expected back in the group.
    Membership,
}

pub(super) struct Driver {
    pub(super) shared: Arc<Shared>,
    pub(super) cluster: Cluster,
    pub(super) offsets: Arc<dyn Offsets>,
    pub(super) work: JoinSet<Done>,
    /// Brokers with a fetch under way.
    pub(super) fetching: HashSet<BrokerId>,
    /// The last partition of which a broker's last fetch brought something.
    pub(super) last_brought: HashMap<BrokerId, TopicPartition>,
    /// Topics that are being looked up.
    pub(super) looking: BTreeSet<Str>,
    committer: Committer,
    commands: mpsc::Receiver<Command>,
    group: Option<Group>,
    /// The wish that the group knows of.
    wishes: u64,
    /// Partitions that are being given up.
    release: Option<Release>,
    ending: Option<Ending>,
    /// It left the group because the application did not ask for records.
    is_out: bool,
    is_committing: bool,
    next_commit: Instant,
    is_watching: bool,
    next_watch: Instant,
}

struct Release {
    id: u64,
    partitions: BTreeSet<TopicPartition>,
    task: AbortHandle,
}

/// An end that is under way.
struct Ending {
    end: End,
    left: Instant,
    /// Nobody waits when the consumer was dropped.
    reply: Option<oneshot::Sender<Result<Committed, Error>>>,
    outcome: Result<Committed, Error>,
}

/// What came of something that took time.
pub(super) enum Done {
    Fetched {
        broker: BrokerId,
        asked: HashMap<TopicPartition, Asked>,
        outcome: Result<FetchResponse, Error>,
    },
    /// A topic was looked up.
    Looked {
        topic: Str,
        outcome: Result<(), Error>,
    },
    Loaded(Vec<Found<(Uuid, Option<Begin>)>>),
    Listed(Vec<Found<Ends>>),
    /// How far the log goes in the epoch of the last record that was read.
    Validated {
        leader: LeaderEpoch,
        found: Vec<Found<(LeaderEpoch, Offset)>>,
    },
    Told(Reply),
    Watched(Result<(u64, Seen), Error>),
    Committed(Result<Committed, Error>),
    Released {
        id: u64,
        outcome: Result<Committed, Error>,
    },
    Left,
}

/// What was asked of a partition.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) topic_id: Uuid,
    pub(super) offset: Offset,
}

/// What was found out about a partition in one of its lives.
pub(super) struct Found<T> {
    pub(super) partition: TopicPartition,
    pub(super) life: u64,
    pub(super) outcome: Result<T, Error>,
}

/// The ends of a partition's log, and the offset of a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) earliest: Offset,
    pub(super) latest: Offset,
    pub(super) at: Option<Offset>,
}

/// However the driver ends, whoever waits for records learns that there are none.
struct LastWord(Arc<Shared>);

impl Drop for LastWord {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.wish = Wish::Nothing;
        if std::thread::panicking() {
            state.tell(Error::Closed);
        }
        state.wake();
    }
}

impl Driver {
    pub(super) fn new(
        shared: Arc<Shared>,
        cluster: Cluster,
        offsets: Arc<dyn Offsets>,
        committer: Committer,
        commands: mpsc::Receiver<Command>,
    ) -> Self {
        let now = Instant::now();
        Self {
            next_commit: now + cluster.options().auto_commit_interval,
            next_watch: now + cluster.options().metadata_max_age,
            shared,
            cluster,
            offsets,
            work: JoinSet::new(),
            fetching: HashSet::new(),
            last_brought: HashMap::new(),
            looking: BTreeSet::new(),
            committer,
            commands,
            group: None,
            wishes: 0,
            release: None,
            ending: None,
            is_out: false,
            is_committing: false,
            is_watching: false,
        }
    }

    pub(super) async fn run(mut self) {
        let _last_word = LastWord(Arc::clone(&self.shared));
        let shared = Arc::clone(&self.shared);
        loop {
            self.step();
            let wake = self.wake();
            tokio::select! {
                Some(done) = self.work.join_next() => match done {
                    Ok(Done::Left) => {
                        if self.ended() != End::Reading {
                            return;
                        }
                    }
                    Ok(done) => self.take(done),
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    // It was not wanted any more.
                    Err(_) => {}
                },
                Some(command) = self.commands.recv(), if self.ending.is_none() => self.end(command),
                () = shared.driver.notified() => {}
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Starts whatever is due.
    fn step(&mut self) {
        self.notice_drop();
        self.follow_wish();
        self.watch_application();
        self.keep_membership();
        self.watch_topics();
        self.commit_by_itself();
        self.load();
        self.find_places();
        self.send_fetches();
    }

    /// When to look again if nothing happens.
    fn wake(&self) -> Instant {
        let options = self.cluster.options();
        let now = Instant::now();
        let mut wake = now + options.heartbeat_interval;
        let mut sooner = |at: Option<Instant>| wake = at.map_or(wake, |at| at.min(wake));
        if self.ending.is_none() {
            sooner(self.group.as_ref().and_then(Group::due));
            let commits = options.enable_auto_commit && options.group_id.is_some() && !self.is_committing;
            sooner(commits.then_some(self.next_commit));
        }
        let mut state = self.shared.lock();
        // Those that are over were looked at.
        let pauses = state.slots.values().filter_map(|slot| slot.not_before);
        sooner(pauses.filter(|not_before| *not_before > now).min());
        if self.group.is_some() && !self.is_out {
            let idle = state.idle();
            sooner((idle > Duration::ZERO).then(|| now + options.poll_interval_max.saturating_sub(idle)));
        }
        // Never at once: what is due now was started.
        wake.max(now + Duration::from_millis(1))
    }

    fn take(&mut self, done: Done) {
        match done {
            Done::Fetched { broker, asked, outcome } => self.take_fetched(broker, asked, outcome),
            Done::Looked { topic, outcome } => self.take_looked(&topic, outcome),
            Done::Loaded(found) => self.take_loaded(found),
            Done::Listed(found) => self.take_listed(found),
            Done::Validated { leader, found } => self.take_validated(leader, found),
            Done::Told(reply) => {
                let owned = self.shared.lock().owned();
                let taken = self.group.as_mut().map(|group| group.take(reply, &owned));
                match taken {
                    Some(Ok(actions)) => self.perform(actions),
                    Some(Err(error)) => self.fail(error),
                    None => {}
                }
            }
            Done::Watched(seen) => {
                self.is_watching = false;
                let owned = self.shared.lock().owned();
                match (seen, &mut self.group) {
                    (Ok(seen), Some(group)) => {
                        let actions = group.take_seen(seen, &owned);
                        self.perform(actions);
                    }
                    (Err(error), _) => tracing::debug!(%error, "the topics are looked at later"),
                    _ => {}
                }
            }
            Done::Committed(outcome) => {
                self.is_committing = false;
                if let Err(error) = outcome {
                    tracing::warn!(%error, "offsets were not committed, the next commit includes them");
                }
            }
            Done::Released { id, outcome } => self.take_released(id, outcome),
            Done::Left => {}
        }
    }

    // The application.

    /// A consumer that was dropped is closed without waiting for anything.
    fn notice_drop(&mut self) {
        if self.ending.is_none() && self.shared.lock().is_dropped {
            let now = Instant::now();
            let end = now + self.cluster.options().request_timeout;
            self.begin_end(End::All, Within { hands: now, end }, end, None);
        }
    }

    fn end(&mut self, command: Command) {
        self.begin_end(command.end, command.within, command.left, Some(command.reply));
    }

    fn begin_end(
        &mut self,
        end: End,
        within: Within,
        left: Instant,
        reply: Option<oneshot::Sender<Result<Committed, Error>>>,
    ) {
        self.ending = Some(Ending { end, left, reply, outcome: Ok(Committed::default()) });
        let mut state = self.shared.lock();
        (state.wish, self.wishes) = (Wish::Nothing, state.wishes);
        let owned = state.owned();
        drop(state);
        self.release(owned, within);
    }

    /// Everything was given up and the group was left.
    fn ended(&mut self) -> End {
        let Some(ending) = self.ending.take() else { return End::Reading };
        self.group = None;
        self.is_out = false;
        let mut state = self.shared.lock();
        state.identity = None;
        state.is_expelled = false;
        state.wake();
        drop(state);
        if let Some(reply) = ending.reply {
            let void = self.shared.lock().take_void();
            // Who does not wait any more does not want to know.
            let _ = reply.send(ending.outcome.map(|outcome| Committed { void, ..outcome }));
        }
        ending.end
    }

    fn follow_wish(&mut self) {
        let (wish, wishes, owned) = {
            let state = self.shared.lock();
            if state.wishes == self.wishes || self.ending.is_some() {
                return;
            }
            (state.wish.clone(), state.wishes, state.owned())
        };
        self.wishes = wishes;
        if matches!(wish, Wish::Nothing | Wish::Assigned) {
            return;
        }
        if let Some(group) = &mut self.group {
            let actions = group.change(wish, &owned);
            self.perform(actions);
        } else if let Some(group_id) = self.cluster.options().group_id.as_deref() {
            let (id, group_id) = (self.shared.lock().id(), Str::copy_from(group_id));
            self.group = Some(Group::new(id, self.cluster.clone(), group_id, wish));
        }
    }

    /// Leaves the group when what waits for the application has waited for `max.poll.interval.ms`, and comes back when it does.
    fn watch_application(&mut self) {
        let Some(group) = self.group.as_mut().filter(|_| self.ending.is_none()) else { return };
        let interval = self.cluster.options().poll_interval_max;
        let mut state = self.shared.lock();
        if self.is_out {
            if !state.is_expelled {
                self.is_out = false;
                group.enter();
            }
            return;
        }
        let idle = state.idle();
        if idle <= interval {
            return;
        }
        tracing::warn!(idle_ms = idle.as_millis(), "leaving the group: max.poll.interval.ms is over");
        self.is_out = true;
        state.is_expelled = true;
        state.tell(Error::PollInterval { idle, interval });
        drop(state);
        if let Some(leaving) = group.leave(false) {
            // If it does not arrive, the silence that follows says the same.
            let bound = Instant::now() + self.cluster.options().request_timeout;
            tokio::spawn(timeout_at(bound, leaving));
        }
        self.perform(vec![Action::Lose]);
    }

    // Membership.

    fn keep_membership(&mut self) {
        let Some(group) = &mut self.group else { return };
        let actions = group.if_silent(&self.shared.lock().owned());
        // What was lost is not owned any more when the coordinator is asked.
        self.perform(actions);
        let Some(group) = &mut self.group else { return };
        let owned = self.shared.lock().owned();
        if group.due().is_some_and(|due| due <= Instant::now())
            // Who is about to leave does not join, and stays until everything is given up.
            && (self.ending.is_none() || group.identity().is_settled)
            && let Some(asking) = group.ask(&owned)
        {
            self.work.spawn(async move { Done::Told(asking.await) });
        }
    }

    fn watch_topics(&mut self) {
        let now = Instant::now();
        if self.is_watching || now < self.next_watch {
            return;
        }
        self.next_watch = now + self.cluster.options().metadata_max_age;
        if let Some(watching) = self.group.as_ref().and_then(Group::watch) {
            self.is_watching = true;
            self.work.spawn(async move { Done::Watched(watching.await) });
        }
    }

    /// Does with partitions what the membership says. Whoever commits sees either all of it or nothing.
    fn perform(&mut self, actions: Vec<Action>) {
        let mut state = self.shared.lock();
        if let Some(group) = &self.group {
            state.identity = Some(group.identity());
        }
        let mut releasing = BTreeSet::new();
        let mut lost = BTreeSet::new();
        for action in actions {
            match action {
                // Who is about to leave begins nothing.
                Action::Begin(_) if self.ending.is_some() => {}
                Action::Begin(partitions) => {
                    tracing::info!(partitions = %listed(&partitions), "assigned");
                    for partition in partitions {
                        let group = self.group.as_ref();
                        let topic_id = group.map_or(Uuid::ZERO, |group| group.topic_id(&partition.topic));
                        state.begin(partition, topic_id, None);
                    }
                }
                Action::Release(partitions) => releasing = partitions,
                Action::Lose => {
                    lost = state.owned();
                    state.lose(&lost);
                }
                Action::Fail(_) => {}
            }
        }
        drop(state);
        if !lost.is_empty() {
            tracing::warn!(partitions = %listed(&lost), "lost");
            // What was being given up is gone with the rest, unless all of this consumer ends.
            if self.ending.is_none()
                && let Some(release) = self.release.take()
            {
                release.task.abort();
            }
            let lost: Vec<_> = lost.into_iter().collect();
            self.offsets.lost(&lost);
            self.shared.hands.notify_waiters();
        }
        if !releasing.is_empty() && self.ending.is_none() {
            tracing::info!(partitions = %listed(&releasing), "giving up");
            let within = self.hand_back();
            self.release(releasing, within);
        }
    }

    /// The group waits for a member up to the rebalance timeout, which is `max.poll.interval.ms`, and began to do so up to a
    /// heartbeat ago. What is left after the hands are empty is for committing.
    fn hand_back(&self) -> Within {
        let options = self.cluster.options();
        let now = Instant::now();
        let all = options.poll_interval_max;
        let margin = options.heartbeat_interval.min(all / 4);
        let end = now + all.saturating_sub(margin);
        let committing = (all / 4).min(options.request_timeout);
        Within { hands: end - committing, end }
    }

    fn release(&mut self, partitions: BTreeSet<TopicPartition>, within: Within) {
        let mut state = self.shared.lock();
        let id = state.id();
        state.leave(&partitions);
        drop(state);
        if let Some(before) = self.release.take() {
            before.task.abort();
        }
        let (committer, offsets) = (self.committer.clone(), Arc::clone(&self.offsets));
        let releasing = partitions.clone();
        let task = self.work.spawn(async move {
            let outcome = committer.release(&*offsets, releasing, within).await;
            Done::Released { id, outcome }
        });
        self.release = Some(Release { id, partitions, task });
    }

    fn take_released(&mut self, id: u64, outcome: Result<Committed, Error>) {
        let Some(release) = self.release.take_if(|release| release.id == id) else { return };
        let mut state = self.shared.lock();
        state.lose(&release.partitions);
        let owned = state.owned();
        drop(state);
        let Some(ending) = &mut self.ending else {
            if let Err(error) = outcome {
                tracing::warn!(%error, "records will be read again by whoever gets their partitions");
            }
            let actions = self.group.as_mut().map(|group| group.released(&owned)).unwrap_or_default();
            self.perform(actions);
            return;
        };
        ending.outcome = outcome;
        let (left, is_for_good) = (ending.left, ending.end == End::Membership);
        let leaving = self.group.as_mut().and_then(|group| group.leave(is_for_good));
        self.work.spawn(async move {
            if let Some(leaving) = leaving
                && let Ok(Err(error)) = timeout_at(left, leaving).await
            {
                tracing::debug!(%error, "the group will notice by itself that this member left");
            }
            Done::Left
        });
    }

    /// There is no way on with the group.
    fn fail(&mut self, error: Error) {
        self.perform(vec![Action::Lose]);
        self.group = None;
        let mut state = self.shared.lock();
        (state.wish, self.wishes, state.identity) = (Wish::Nothing, state.wishes, None);
        state.tell(error);
    }

    // Commits.

    fn commit_by_itself(&mut self) {
        let options = self.cluster.options();
        let now = Instant::now();
        let is_due = options.enable_auto_commit && options.group_id.is_some() && now >= self.next_commit;
        if self.is_committing || !is_due || self.ending.is_some() {
            return;
        }
        self.next_commit = now + options.auto_commit_interval;
        if self.shared.lock().uncommitted(None).is_empty() {
            return;
        }
        self.is_committing = true;
        let committer = self.committer.clone();
        let deadline = now + options.default_api_timeout;
        self.work.spawn(async move { Done::Committed(committer.commit(None, deadline).await) });
    }
}

fn listed(partitions: &BTreeSet<TopicPartition>) -> String {
    let mut topics: BTreeMap<&Str, Vec<String>> = BTreeMap::new();
    for partition in partitions {
        topics.entry(&partition.topic).or_default().push(partition.partition.to_string());
    }
    let topics: Vec<_> = topics.iter().map(|(topic, ids)| format!("{topic}[{}]", ids.join(","))).collect();
    topics.join(" ")
}
