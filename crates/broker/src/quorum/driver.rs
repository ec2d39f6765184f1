//! The task that drives the consensus: messages, proposals and time go in; entries for the disk, messages for the others and
//! committed records come out.
//!
//! Invariant: everything is persisted in the order in which the core hands it out, one job on the disk at a time, and what a
//! message promises is on disk before it leaves. The task itself never waits for the disk, so that a leader whose disk is
//! slow still beats. Committed entries are applied to the image here and nowhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, Message, MessageType};
use raft::{Config, RawNode, SnapshotStatus, StateRole, Storage};
use state::metadata::Image;
use storage::Log;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::durable::{DurableLog, Found, QuorumLogError, Work, image_of, snapshot_file, snapshot_of};
use super::entry::{self, Content};
use super::handle::{
    Command, NotCommitted, Quorum, QuorumDescription, QuorumOptions, QuorumStatus, ReplicaDescription,
};
use super::memory::{MemoryLog, SnapshotPoint};
use super::{node_id, raft_id};
use crate::blocking;
use crate::broker::stopped;

/// The core's unit of time.
const TICK: Duration = Duration::from_millis(50);
/// Ticks between a leader's heartbeats.
const HEARTBEAT_TICKS: usize = 2;
/// Entries in one message, in bytes.
const MESSAGE_BYTES_MAX: u64 = 1024 * 1024;
/// Messages with entries on their way to one node.
const MESSAGES_IN_FLIGHT_MAX: usize = 64;
/// Proposals that are not committed, in bytes: more are refused.
const UNCOMMITTED_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Entries after which a snapshot is taken.
const SNAPSHOT_ENTRIES: u64 = 10_000;
/// Bytes of entries after which a snapshot is taken.
const SNAPSHOT_BYTES: usize = 16 * 1024 * 1024;
/// Wait between questions to the other nodes while a quorum is formed.
const FORMING_RETRY: Duration = Duration::from_millis(100);
/// How often it is told that the quorum does not form.
const FORMING_TOLD: Duration = Duration::from_secs(5);
const FORMING_ANSWER_MAX: Duration = Duration::from_secs(1);

/// A node of the quorum that is about to run.
pub(crate) struct Driver {
    quorum: Arc<Quorum>,
    commands: mpsc::Receiver<Command>,
    options: QuorumOptions,
    found: Found,
}

impl Driver {
    pub(super) fn new(
        quorum: Arc<Quorum>,
        commands: mpsc::Receiver<Command>,
        options: QuorumOptions,
        found: Found,
    ) -> Self {
        Driver { quorum, commands, options, found }
    }

    /// Finds out whether the quorum is new, and runs until `stop` turns true.
    pub(crate) async fn start(
        self,
        mut stop: watch::Receiver<bool>,
    ) -> Result<JoinHandle<()>, QuorumLogError> {
        let Driver { quorum, commands, options, mut found } = self;
        let voters: Vec<u64> = options.first_voters.iter().map(|node| raft_id(*node)).collect();
        if !found.has_memory && voters.is_empty() {
            // It may have had a vote, given to it later, and have forgotten what it said with it.
            quorum.is_voiceless.store(true, Ordering::Release);
        }
        if !found.has_memory && voters.len() > 1 {
            let is_new = tokio::select! {
                is_new = form(&options, &voters) => is_new,
                () = stopped(&mut stop) => return Ok(tokio::spawn(async {})),
            };
            if !is_new {
                tracing::warn!(
                    node = %options.node,
                    "this voter remembers nothing, and the quorum was formed before: it joins anew and does not vote until it has caught up"
                );
                quorum.is_voiceless.store(true, Ordering::Release);
                found.memory = MemoryLog::default();
            }
        }
        let config = Config {
            id: raft_id(options.node),
            applied: found.memory.snapshot.index,
            election_tick: ticks(options.election_timeout),
            heartbeat_tick: HEARTBEAT_TICKS,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: MESSAGES_IN_FLIGHT_MAX,
            check_quorum: true,
            pre_vote: true,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            ..Config::default()
        };
        let has_alone_voted = found.memory.snapshot.conf.voters == [raft_id(options.node)];
        let conf = found.memory.snapshot.conf.clone();
        quorum.image.store(Arc::new(found.image));
        quorum.applied.send_replace(found.memory.snapshot.index);
        quorum.touched.lock().all = true;
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, found.memory, &logger)
            .map_err(|error| QuorumLogError::Log(error.to_string()))?;
        let dice = options.peers.reach().random();
        let task = Task {
            dice,
            node,
            quorum,
            options,
            conf,
            log: Arc::clone(found.durable.log()),
            durable: Some(found.durable),
            waiting: Vec::new(),
            running: None,
            proposals: BTreeMap::new(),
            elected_term: 0,
            applied_since_snapshot: 0,
            bytes_since_snapshot: 0,
            is_snapshotting: false,
            restoring: None,
        };
        let (driver, alone) = (task.quorum.commands.clone(), has_alone_voted);
        Ok(tokio::spawn(task.run(commands, driver, stop, alone)))
    }
}

fn ticks(duration: Duration) -> usize {
    usize::try_from(duration.as_millis() / TICK.as_millis()).unwrap_or(usize::MAX).max(HEARTBEAT_TICKS + 1)
}

/// Asks the other voters whether the quorum was there before. True when a majority, this node among them, remembers
/// nothing.
async fn form(options: &QuorumOptions, voters: &[u64]) -> bool {
    let peers = &options.peers;
    let majority = voters.len() / 2 + 1;
    let mut fresh = BTreeSet::from([raft_id(options.node)]);
    let mut links = BTreeMap::new();
    let mut told = Instant::now();
    let mut refused = None;
    loop {
        for voter in voters.iter().filter_map(|id| node_id(*id)).filter(|node| *node != options.node) {
            let Some(address) = peers.address_of(voter) else { continue };
            let link = links.entry(voter).or_insert_with(|| peers.reach().link());
            match link.ask(&address, peers.request(voter, &[]), FORMING_ANSWER_MAX).await {
                Ok(answer) if !answer.error_code.is_ok() => {
                    if refused.is_none_or(|refused: Instant| refused.elapsed() > FORMING_TOLD) {
                        refused = Some(Instant::now());
                        let reason = answer.error_message.unwrap_or_default();
                        tracing::error!(node = %voter, error = ?answer.error_code, %reason, "a node of the quorum refuses this one");
                    }
                }
                Ok(answer) if answer.has_memory => return false,
                Ok(_) => drop(fresh.insert(raft_id(voter))),
                Err(error) => {
                    if told.elapsed() > FORMING_TOLD {
                        told = Instant::now();
                        tracing::warn!(
                            node = %voter, %error,
                            "waiting for a majority of controller.quorum.voters to form the quorum"
                        );
                    }
                }
            }
        }
        if fresh.len() >= majority {
            return true;
        }
        sleep(FORMING_RETRY).await;
    }
}

/// What one ready of the core needs on disk, and what may be said afterwards.
struct Pending {
    number: u64,
    work: Work,
    messages: Vec<Message>,
}

/// A job on the disk.
struct Running {
    job: JoinHandle<(DurableLog, Written)>,
    number: u64,
    messages: Vec<Message>,
}

/// What a job on the disk comes to: the snapshot that it took, if it took one.
type Written = Result<Option<Arc<SnapshotPoint>>, QuorumLogError>;

/// A job that has ended.
struct Done {
    durable: DurableLog,
    written: Written,
    number: u64,
    messages: Vec<Message>,
}

/// A snapshot that is to be taken of the image as it is.
struct Snapshotting {
    image: Arc<Image>,
    point: SnapshotPoint,
}

struct Task {
    node: RawNode<MemoryLog>,
    quorum: Arc<Quorum>,
    options: QuorumOptions,
    /// The members as of the last applied entry.
    conf: ConfState,
    /// `None` while a job has it.
    log: Arc<Log>,
    durable: Option<DurableLog>,
    waiting: Vec<Pending>,
    running: Option<Running>,
    /// Who waits for which entry, and the term in which it was proposed. When another node leads, the entry that is applied in
    /// its place tells what became of it.
    proposals: BTreeMap<u64, (u64, oneshot::Sender<Result<u64, NotCommitted>>)>,
    /// The term in which this node applied an entry of its own leadership.
    elected_term: u64,
    applied_since_snapshot: u64,
    bytes_since_snapshot: usize,
    is_snapshotting: bool,
    /// Number of the ready with a leader's snapshot that is not on disk yet: the core counts nothing as applied before.
    restoring: Option<u64>,
    /// What the election timeouts follow from.
    dice: u64,
}

impl Drop for Task {
    fn drop(&mut self) {
        // However it ended: without it this node decides and learns nothing.
        self.quorum.fail();
    }
}

impl Task {
    async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        driver: mpsc::Sender<Command>,
        mut stop: watch::Receiver<bool>,
        is_alone: bool,
    ) {
        if is_alone {
            // Nobody else can be asked.
            let _ = self.node.campaign();
        }
        if self.quorum.is_voiceless() {
            let work = Work { may_vote: Some(false), ..Work::default() };
            self.waiting.push(Pending { number: 0, work, messages: Vec::new() });
        }
        let mut ticker = interval(TICK);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.jitter();
            if let Err(error) = self.advance(&driver) {
                tracing::error!(%error, "the metadata log is offline");
                break;
            }
            tokio::select! {
                biased;
                () = stopped(&mut stop) => {
                    self.finish(&driver).await;
                    self.quorum.peers.stop();
                    return;
                }
                done = persisted(&mut self.running) => {
                    if let Err(error) = self.on_persisted(done, &driver) {
                        tracing::error!(%error, "the metadata log is offline");
                        break;
                    }
                }
                command = commands.recv() => {
                    let Some(command) = command else { break };
                    self.obey(command);
                    while let Ok(command) = commands.try_recv() {
                        self.obey(command);
                    }
                }
                // Not only what is written here meets the disk's errors: checkpoints do, too.
                _ = ticker.tick() => if self.log.is_offline() {
                    tracing::error!("the metadata log is offline");
                    break;
                // Who has no voice does not stand for election either: on its way through the log it meets itself as a
                // voter long before it is let in anew.
                } else if !self.quorum.is_voiceless() {
                    let _ = self.node.tick();
                }
            }
        }
        self.quorum.peers.stop();
        self.refuse_proposals(NotCommitted::Offline);
        self.quorum.status.send_replace(QuorumStatus::default());
        self.quorum.fail();
        // Whoever asks from here on is told at once.
        commands.close();
    }

    /// Waits for the disk, and leaves a hint of how far the log is committed.
    async fn finish(&mut self, driver: &mpsc::Sender<Command>) {
        while self.running.is_some() {
            let done = persisted(&mut self.running).await;
            if self.on_persisted(done, driver).and_then(|()| self.advance(driver)).is_err() {
                return;
            }
        }
        if let Some(mut durable) = self.durable.take() {
            let hard_state = self.node.raft.hard_state();
            let now = self.options.clock.now();
            let written = blocking::run(move || {
                let work = Work { hard_state: Some(hard_state), ..Work::default() };
                durable.persist(&work, now)
            });
            if let Err(error) = written.await {
                tracing::error!(%error, "the quorum's state could not be written");
            }
        }
        self.refuse_proposals(NotCommitted::Unknown);
    }

    /// Voters must not time out together, term after term. The core rolls dice of its own for that, which nobody could roll
    /// again; these follow from one that is the environment's.
    fn jitter(&mut self) {
        let raft = &mut self.node.raft;
        let election = raft.election_timeout() as u64;
        let mixed =
            (self.dice ^ raft.term.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        raft.set_randomized_election_timeout((election + (mixed >> 32) % (election / 2 + 1)) as usize);
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Step(messages) => {
                for message in messages {
                    self.step(message);
                }
            }
            Command::Propose { data, term, reply } => {
                let may_propose = self.is_active() && self.node.raft.term == term;
                let proposed = may_propose.then(|| self.node.propose(Vec::new(), data.to_vec()));
                self.await_commit(proposed, reply);
            }
            Command::ChangeMembers { change, reply } => {
                let (data, change) = (change.encode().to_vec(), change.to_raft());
                let proposed = self.is_active().then(|| self.node.propose_conf_change(data, change));
                self.await_commit(proposed, reply);
            }
            Command::Unreachable { to, snapshot } => {
                self.node.report_unreachable(to);
                if snapshot {
                    self.node.report_snapshot(to, SnapshotStatus::Failure);
                }
            }
            Command::SnapshotTaken { to } => self.node.report_snapshot(to, SnapshotStatus::Finish),
            Command::Describe { reply } => {
                let _ = reply.send(self.describe());
            }
            Command::RegainVoice => {
                if self.quorum.is_voiceless.swap(false, Ordering::AcqRel) {
                    let work = Work { may_vote: Some(true), ..Work::default() };
                    self.waiting.push(Pending { number: 0, work, messages: Vec::new() });
                    tracing::info!(node = %self.options.node, "the quorum has let this node in anew");
                }
            }
            Command::HandOver { reply } => {
                if let Some(next) = self.successor() {
                    self.node.transfer_leader(next);
                    let _ = reply.send(());
                }
            }
        }
    }

    /// The voter that has most of the log.
    fn successor(&self) -> Option<u64> {
        if self.node.raft.state != StateRole::Leader {
            return None;
        }
        let progress = self.node.raft.prs();
        let others = self.conf.voters.iter().filter(|id| **id != self.node.raft.id);
        let matched =
            others.filter_map(|id| Some((progress.get(*id).filter(|p| p.recent_active)?.matched, *id)));
        matched.max().map(|(_, id)| id)
    }

    fn step(&mut self, mut message: Message) {
        let is_vote = matches!(
            message.get_msg_type(),
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote | MessageType::MsgTimeoutNow
        );
        if is_vote && self.quorum.is_voiceless() {
            return;
        }
        // A leader that remembers more of this node than the node itself does speaks of entries that are not here.
        if message.get_msg_type() == MessageType::MsgHeartbeat {
            message.commit = message.commit.min(self.node.raft.raft_log.last_index());
        }
        if let Err(error) = self.node.step(message) {
            tracing::debug!(%error, "a message of the quorum was not taken");
        }
    }

    fn await_commit(
        &mut self,
        proposed: Option<raft::Result<()>>,
        reply: oneshot::Sender<Result<u64, NotCommitted>>,
    ) {
        let Some(Ok(())) = proposed else {
            let _ = reply.send(Err(NotCommitted::NotController));
            return;
        };
        let index = self.node.raft.raft_log.last_index();
        assert!(index > self.quorum.applied(), "what was just proposed is not applied yet");
        if let Some((_, before)) = self.proposals.insert(index, (self.node.raft.term, reply)) {
            // An earlier term's, overwritten here.
            let _ = before.send(Err(NotCommitted::NotController));
        }
    }

    /// Whether this node leads, and has applied everything from before it did. The status that others read is published only
    /// after all commands at hand: a newer leader may have spoken among them, and the core hands a follower's proposals on.
    fn is_active(&self) -> bool {
        let raft = &self.node.raft;
        raft.state == StateRole::Leader && self.elected_term == raft.term
    }

    fn refuse_proposals(&mut self, error: NotCommitted) {
        for (_, (_, reply)) in std::mem::take(&mut self.proposals) {
            let _ = reply.send(Err(error));
        }
    }

    /// Takes what the core has ready, as often as it has.
    fn advance(&mut self, driver: &mpsc::Sender<Command>) -> Result<(), QuorumLogError> {
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            for message in ready.take_messages() {
                self.options.peers.send(message, driver);
            }
            let mut work = Work::default();
            if !ready.snapshot().is_empty() {
                work.restore = Some(self.restore(ready.snapshot())?);
            }
            if let Some(hard_state) = ready.hs() {
                let before = &self.node.store().hard_state;
                if (before.term, before.vote) != (hard_state.term, hard_state.vote) {
                    work.hard_state = Some(hard_state.clone());
                }
                self.node.mut_store().hard_state = hard_state.clone();
            }
            let entries = ready.take_entries();
            if !entries.is_empty() {
                let starts = self.node.mut_store().append(&entries);
                work.entries = entries.into_iter().zip(starts).collect();
            }
            let is_restoring = work.restore.is_some();
            let committed = ready.take_committed_entries();
            let (number, messages) = (ready.number(), ready.take_persisted_messages());
            self.node.advance_append_async(ready);
            self.waiting.push(Pending { number, work, messages });
            self.apply(committed)?;
            if is_restoring {
                self.restoring = Some(number);
            }
            if self.restoring.is_none() {
                self.node.advance_apply();
            }
            self.persist(driver);
        }
        self.publish();
        self.persist(driver);
        Ok(())
    }

    /// Gives the disk what waits for it, all in one job.
    fn persist(&mut self, driver: &mpsc::Sender<Command>) {
        if self.running.is_some() {
            return;
        }
        let (mut work, mut messages, mut number) = (Work::default(), Vec::new(), 0);
        for pending in self.waiting.drain(..) {
            work.join(pending.work);
            messages.extend(pending.messages);
            number = number.max(pending.number);
        }
        let snapshotting = self.snapshotting();
        if work.is_empty() && snapshotting.is_none() {
            self.persisted(number, messages, driver);
            return;
        }
        self.quorum.has_memory.store(true, Ordering::Release);
        let mut durable = self.durable.take().expect("one job at a time");
        let now = self.options.clock.now();
        let job = blocking::start(move || {
            let point = snapshotting.map(|taken| Arc::new(snapshot_file(&taken.image, taken.point, now)));
            work.compact.clone_from(&point);
            let persisted = durable.persist(&work, now);
            (durable, persisted.map(|()| point))
        });
        self.running = Some(Running { job, number, messages });
    }

    fn persisted(&mut self, number: u64, messages: Vec<Message>, driver: &mpsc::Sender<Command>) {
        if number > 0 {
            self.node.on_persist_ready(number);
        }
        if self.restoring.is_some_and(|restoring| restoring <= number) {
            self.restoring = None;
            self.node.advance_apply();
        }
        for message in messages {
            self.options.peers.send(message, driver);
        }
    }

    fn on_persisted(&mut self, done: Done, driver: &mpsc::Sender<Command>) -> Result<(), QuorumLogError> {
        let Done { durable, written, number, messages } = done;
        self.durable = Some(durable);
        if let Some(snapshot) = written? {
            self.is_snapshotting = false;
            if snapshot.index >= self.node.store().snapshot.index {
                tracing::info!(
                    index = snapshot.index,
                    bytes = snapshot.data.len(),
                    "a snapshot of the metadata was taken"
                );
                self.node.mut_store().compact(snapshot);
            }
        }
        self.persisted(number, messages, driver);
        Ok(())
    }

    /// A snapshot of the image, when enough was applied since the last one.
    fn snapshotting(&mut self) -> Option<Snapshotting> {
        if self.is_snapshotting {
            return None;
        }
        let is_due = self.node.store().take_snapshot_wanted()
            || self.applied_since_snapshot >= SNAPSHOT_ENTRIES
            || self.bytes_since_snapshot >= SNAPSHOT_BYTES;
        if !is_due || self.quorum.applied() <= self.node.store().snapshot.index {
            return None;
        }
        let index = self.quorum.applied();
        let term = self.node.store().term(index).ok()?;
        let end = self.node.store().offset_after(index);
        self.is_snapshotting = true;
        (self.applied_since_snapshot, self.bytes_since_snapshot) = (0, 0);
        let point = SnapshotPoint { index, term, end, conf: self.conf.clone(), data: Bytes::new() };
        Some(Snapshotting { image: self.quorum.image(), point })
    }

    /// A leader's snapshot takes the place of what is here.
    fn restore(&mut self, snapshot: &raft::eraftpb::Snapshot) -> Result<Arc<SnapshotPoint>, QuorumLogError> {
        let metadata = snapshot.get_metadata();
        self.conf = metadata.get_conf_state().clone();
        let point = if snapshot.data.is_empty() {
            // Where the quorum began: a node that was not there has no other way to know.
            let (index, term, conf) = (metadata.index, metadata.term, self.conf.clone());
            let point = SnapshotPoint { index, term, conf, ..SnapshotPoint::default() };
            snapshot_file(&Image::default(), point, self.options.clock.now())
        } else {
            snapshot_of(&snapshot.data)?
        };
        let image = image_of(&point.data)?;
        let point = Arc::new(point);
        self.node.mut_store().restore(Arc::clone(&point));
        self.quorum.image.store(Arc::new(image));
        self.quorum.touched.lock().all = true;
        (self.applied_since_snapshot, self.bytes_since_snapshot) = (0, 0);
        self.quorum.applied.send_replace(metadata.index);
        // What a snapshot stands for cannot be told apart any more.
        let later = self.proposals.split_off(&(metadata.index + 1));
        self.refuse_proposals(NotCommitted::Unknown);
        self.proposals = later;
        Ok(point)
    }

    /// Committed entries become part of the image, all of a round at once.
    fn apply(&mut self, committed: Vec<Entry>) -> Result<(), QuorumLogError> {
        let Some(last) = committed.last().map(|entry| entry.index) else { return Ok(()) };
        let mut image = Image::clone(&self.quorum.image.load());
        let mut done = Vec::new();
        for entry in &committed {
            let mut is_in_effect = true;
            match entry::content(entry).map_err(QuorumLogError::Log)? {
                Content::Records(records) => {
                    let mut touched = self.quorum.touched.lock();
                    for record in &records {
                        touched.note(record, &image);
                        image.apply(record);
                    }
                }
                Content::Members(change) => match self.node.apply_conf_change(&change.to_raft()) {
                    Ok(conf) => self.conf = conf,
                    Err(error) => {
                        is_in_effect = false;
                        tracing::error!(%error, ?change, "a change of the quorum's members was not applied");
                    }
                },
                Content::Nothing => {}
            }
            self.applied_since_snapshot += 1;
            self.bytes_since_snapshot += entry.data.len();
            if self.node.raft.state == StateRole::Leader && entry.term == self.node.raft.term {
                self.elected_term = entry.term;
            }
            if let Some((term, reply)) = self.proposals.remove(&entry.index) {
                let outcome = match term == entry.term {
                    true if is_in_effect => Ok(entry.index),
                    true => Err(NotCommitted::Unknown),
                    false => Err(NotCommitted::NotController),
                };
                done.push((reply, outcome));
            }
        }
        self.quorum.image.store(Arc::new(image));
        self.quorum.applied.send_replace(last);
        for (reply, outcome) in done {
            let _ = reply.send(outcome);
        }
        Ok(())
    }

    /// Tells who leads, when that has changed.
    fn publish(&mut self) {
        let raft = &self.node.raft;
        let status = QuorumStatus {
            leader: node_id(raft.leader_id),
            term: raft.term,
            is_active: self.is_active(),
            voters: entry::nodes(&self.conf.voters),
            learners: entry::nodes(&self.conf.learners),
        };
        self.quorum.status.send_if_modified(|before| {
            let changed = *before != status;
            if before.leader != status.leader && status.leader.is_some() {
                tracing::info!(controller = ?status.leader, term = status.term, "the metadata quorum has a leader");
            }
            before.clone_from(&status);
            changed
        });
    }

    fn describe(&self) -> QuorumDescription {
        let raft = &self.node.raft;
        let last = raft.raft_log.last_index();
        let describe = |id: &u64| {
            let (matched, is_recently_active) = if *id == raft.id {
                (last, true)
            } else {
                raft.prs().get(*id).map_or((0, false), |progress| (progress.matched, progress.recent_active))
            };
            Some(ReplicaDescription {
                node: node_id(*id)?,
                log_end: self.node.store().offset_after(matched),
                lag: last - matched,
                is_recently_active,
            })
        };
        QuorumDescription {
            leader: node_id(raft.leader_id),
            term: raft.term,
            high_watermark: self.node.store().offset_after(raft.raft_log.committed),
            voters: self.conf.voters.iter().filter_map(describe).collect(),
            learners: self.conf.learners.iter().filter_map(describe).collect(),
        }
    }
}

async fn persisted(running: &mut Option<Running>) -> Done {
    match running {
        Some(job) => {
            let (durable, written) = (&mut job.job).await.expect("writing the metadata log does not panic");
            let Running { number, messages, .. } = running.take().expect("it has just ended");
            Done { durable, written, number, messages }
        }
        None => std::future::pending().await,
    }
}
