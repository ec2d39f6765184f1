//! The task that drives the consensus: messages, proposals and time go in; entries for the disk, messages for the others and
//! committed records come out.
//!
//! Invariant: everything is persisted in the order in which the core hands it out, one job on the disk at a time, and what a
//! message promises is on disk before it leaves. The task itself never waits for the disk, so that a leader whose disk is
//! slow still beats. Committed entries are applied to the image here and nowhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use raft::eraftpb::{ConfState, Entry, Message, MessageType};
use raft::{Config, RawNode, SnapshotStatus, StateRole, Storage};
use state::metadata::{ConfigResource, Image, MetadataRecord};
use storage::{Disk, Log};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use wire::messages::quorum_messages::{QuorumMessage, QuorumMessagesRequest, QuorumMessagesResponse};
use wire::{BrokerId, ErrorCode, Millis, Offset, Str, Uuid};

use super::durable::{DurableLog, Found, QuorumLogError, Work, image_of, snapshot_file, snapshot_of};
use super::entry::{self, Content, MembersChange};
use super::memory::{MemoryLog, SnapshotPoint};
use super::transport::Peers;
use super::{message, node_id, raft_id};
use crate::blocking;
use crate::broker::stopped;
use crate::clock::Clock;

/// Commands that wait for the task.
const COMMANDS_MAX: usize = 4096;
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
/// How long a node that stops waits for another to lead.
const HAND_OVER_MAX: Duration = Duration::from_secs(1);

/// What a quorum's node is started with.
pub(crate) struct QuorumOptions {
    pub(crate) node: BrokerId,
    pub(crate) log: Arc<Log>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) election_timeout: Duration,
    /// With whom a quorum begins that has never been; nobody for a node that is told by others.
    pub(crate) first_voters: Vec<BrokerId>,
}

/// What is asked of the task.
pub(crate) enum Command {
    Step(Vec<Message>),
    Propose { data: Bytes, term: u64, reply: oneshot::Sender<Result<u64, NotCommitted>> },
    ChangeMembers { change: MembersChange, reply: oneshot::Sender<Result<u64, NotCommitted>> },
    Unreachable { to: u64, snapshot: bool },
    SnapshotTaken { to: u64 },
    Describe { reply: oneshot::Sender<QuorumDescription> },
    RegainVoice,
    HandOver { reply: oneshot::Sender<()> },
}

/// Why a proposal did not become part of the log, as far as anybody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotCommitted {
    /// Another node leads; nothing was written.
    #[error("this node is not the active controller")]
    NotController,
    /// Leadership was lost on the way: the change may have been made or not.
    #[error("the controller changed while the change was under way: it may have been made or not")]
    Unknown,
    /// The log is offline.
    #[error("the metadata log is offline")]
    Offline,
}

/// Who leads, as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct QuorumStatus {
    pub(crate) leader: Option<BrokerId>,
    pub(crate) term: u64,
    /// Whether this node leads and has applied everything before its term: it may decide.
    pub(crate) is_active: bool,
    pub(crate) voters: Vec<BrokerId>,
    pub(crate) learners: Vec<BrokerId>,
}

/// One node as its leader sees it.
#[derive(Clone, Debug)]
pub(crate) struct ReplicaDescription {
    pub(crate) node: BrokerId,
    pub(crate) log_end: Offset,
    /// Entries that it lacks.
    pub(crate) lag: u64,
    pub(crate) is_recently_active: bool,
}

/// The quorum as its leader sees it.
#[derive(Clone, Debug)]
pub(crate) struct QuorumDescription {
    pub(crate) leader: Option<BrokerId>,
    pub(crate) term: u64,
    pub(crate) high_watermark: Offset,
    pub(crate) voters: Vec<ReplicaDescription>,
    pub(crate) learners: Vec<ReplicaDescription>,
}

/// What has changed since somebody last asked.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    /// Everything may have: a snapshot was taken over.
    pub(crate) all: bool,
    pub(crate) topics: BTreeSet<Uuid>,
    /// Names of topics that are gone.
    pub(crate) deleted: Vec<Str>,
    pub(crate) configs: BTreeSet<ConfigResource>,
    pub(crate) brokers: bool,
}

impl Touched {
    /// Notes a record that is about to be applied.
    fn note(&mut self, record: &MetadataRecord, image: &Image) {
        match record {
            MetadataRecord::Topic(record) => drop(self.topics.insert(record.topic_id)),
            MetadataRecord::Partition(record) => drop(self.topics.insert(record.topic_id)),
            MetadataRecord::PartitionChange(record) => drop(self.topics.insert(record.topic_id)),
            MetadataRecord::RemoveTopic(record) => {
                self.topics.insert(record.topic_id);
                self.deleted.extend(image.topic_by_id(record.topic_id).map(|topic| topic.name.clone()));
            }
            MetadataRecord::Config(resource, _) => drop(self.configs.insert(resource.clone())),
            MetadataRecord::RegisterBroker(_)
            | MetadataRecord::BrokerRegistrationChange(_)
            | MetadataRecord::UnregisterBroker(_) => self.brokers = true,
            MetadataRecord::ProducerIds(_) | MetadataRecord::FeatureLevel(_) | MetadataRecord::NoOp(_) => {}
        }
    }
}

/// The handle to the task, and what it publishes.
pub(crate) struct Quorum {
    node: BrokerId,
    peers: Arc<Peers>,
    commands: mpsc::Sender<Command>,
    image: ArcSwap<Image>,
    /// Index of the last entry in the image.
    applied: watch::Sender<u64>,
    status: watch::Sender<QuorumStatus>,
    failed: watch::Sender<bool>,
    touched: Mutex<Touched>,
    has_memory: AtomicBool,
    is_voiceless: AtomicBool,
    /// Held through a change of the members, by the task that carries it out.
    member_changes: Arc<tokio::sync::Mutex<()>>,
}

/// A node of the quorum that is about to run.
pub(crate) struct Driver {
    quorum: Arc<Quorum>,
    commands: mpsc::Receiver<Command>,
    options: QuorumOptions,
    found: Found,
}

impl Quorum {
    /// Reads what is on disk. From then on others can be told whether this node remembers anything, and nothing runs before
    /// [`Driver::start`].
    pub(crate) async fn open(options: QuorumOptions) -> Result<(Arc<Quorum>, Driver), QuorumLogError> {
        let (log, disk) = (Arc::clone(&options.log), Arc::clone(&options.disk));
        let first_voters = options.first_voters.iter().map(|node| raft_id(*node)).collect();
        let found = blocking::run(move || DurableLog::open(log, disk, first_voters)).await?;
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        let quorum = Arc::new(Quorum {
            node: options.node,
            peers: Arc::clone(&options.peers),
            commands: sender,
            image: ArcSwap::default(),
            applied: watch::Sender::new(0),
            status: watch::Sender::new(QuorumStatus::default()),
            failed: watch::Sender::new(false),
            touched: Mutex::default(),
            has_memory: AtomicBool::new(found.has_memory),
            is_voiceless: AtomicBool::new(!found.may_vote),
            member_changes: Arc::default(),
        });
        let driver = Driver { quorum: Arc::clone(&quorum), commands, options, found };
        Ok((quorum, driver))
    }

    /// The cluster as of the last entry that was applied here.
    pub(crate) fn image(&self) -> Arc<Image> {
        self.image.load_full()
    }

    /// Index of the last entry in the image.
    pub(crate) fn applied(&self) -> u64 {
        *self.applied.borrow()
    }

    /// Tells of every entry that is applied.
    pub(crate) fn watch_applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Waits until the image holds the entry at `index`.
    pub(crate) async fn wait_applied(&self, index: u64) {
        let mut applied = self.applied.subscribe();
        // The sender lives as long as this does.
        let _ = applied.wait_for(|applied| *applied >= index).await;
    }

    pub(crate) fn status(&self) -> QuorumStatus {
        self.status.borrow().clone()
    }

    pub(crate) fn is_active_controller(&self) -> bool {
        self.status.borrow().is_active
    }

    pub(crate) fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }

    /// What has changed since this was asked last; for one asker.
    pub(crate) fn take_touched(&self) -> Touched {
        std::mem::take(&mut *self.touched.lock())
    }

    /// Has whoever follows the metadata look at a topic again.
    pub(crate) fn touch(&self, topic: Uuid) {
        self.touched.lock().topics.insert(topic);
        self.applied.send_modify(|_| {});
    }

    /// Waits until the members, as applied here, give this node a vote.
    pub(crate) async fn wait_voter(&self) {
        let mut status = self.status.subscribe();
        // The sender lives as long as this does.
        let _ = status.wait_for(|status| status.voters.contains(&self.node)).await;
    }

    /// Whether this node began with nothing and must not vote until the quorum has given it a vote since.
    pub(crate) fn is_voiceless(&self) -> bool {
        self.is_voiceless.load(Ordering::Acquire)
    }

    /// The quorum has given this node a vote after it was let in.
    pub(crate) async fn regain_voice(&self) {
        let _ = self.commands.send(Command::RegainVoice).await;
    }

    /// Waits until the log is offline.
    pub(crate) async fn failed(&self) {
        let mut failed = self.failed.subscribe();
        // The sender lives as long as this does.
        let _ = failed.wait_for(|failed| *failed).await;
    }

    /// The log has gone offline, or the node cannot go on with what is in it.
    pub(crate) fn fail(&self) {
        self.failed.send_replace(true);
    }

    /// Has records committed and applied. Their decision must stand on the last image of the term: nothing is proposed when this
    /// node does not lead in that term any more, though it may lead again in a later one.
    pub(crate) async fn propose(
        &self,
        records: &[MetadataRecord],
        now: Millis,
        term: u64,
    ) -> Result<u64, NotCommitted> {
        let (reply, answer) = oneshot::channel();
        let data = entry::batch_of(records, now);
        self.ask(Command::Propose { data, term, reply }, answer).await
    }

    /// Changes the members of the quorum, one change at a time: the core drops one that is proposed while another is not
    /// applied. A change that was begun is carried out also when nobody waits for it any more.
    pub(crate) async fn change_members(self: &Arc<Self>, change: MembersChange) -> Result<u64, NotCommitted> {
        let one_at_a_time = Arc::clone(&self.member_changes).lock_owned().await;
        let quorum = Arc::clone(self);
        let carried_out = tokio::spawn(async move {
            let _one_at_a_time = one_at_a_time;
            let (reply, answer) = oneshot::channel();
            quorum.ask(Command::ChangeMembers { change, reply }, answer).await
        });
        carried_out.await.expect("a change of the members does not panic")
    }

    async fn ask(
        &self,
        command: Command,
        answer: oneshot::Receiver<Result<u64, NotCommitted>>,
    ) -> Result<u64, NotCommitted> {
        self.commands.send(command).await.map_err(|_| NotCommitted::Offline)?;
        answer.await.unwrap_or(Err(NotCommitted::Unknown))
    }

    /// The quorum as this node sees it.
    pub(crate) async fn describe(&self) -> Option<QuorumDescription> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Describe { reply }).await.ok()?;
        answer.await.ok()
    }

    /// Has another voter lead, if there is one and this node leads.
    pub(crate) async fn hand_over(&self) {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::HandOver { reply }).await.is_err() || answer.await.is_err() {
            return;
        }
        let mut status = self.status.subscribe();
        let is_other = |status: &QuorumStatus| status.leader.is_some_and(|leader| leader != self.node);
        let _ = tokio::time::timeout(HAND_OVER_MAX, status.wait_for(is_other)).await;
    }

    /// Takes what another node sent.
    pub(crate) async fn receive(&self, request: QuorumMessagesRequest) -> QuorumMessagesResponse {
        let refused = |error_code, message: String| QuorumMessagesResponse {
            error_code,
            error_message: Some(Str::from(message)),
            has_memory: true,
        };
        if request.cluster_id != *self.peers.cluster_id() {
            return refused(
                ErrorCode::INCONSISTENT_CLUSTER_ID,
                format!(
                    "node {} is of cluster {}, node {} of cluster {}: check cluster.id and controller.quorum.voters of both",
                    request.from,
                    request.cluster_id,
                    self.node,
                    self.peers.cluster_id()
                ),
            );
        }
        if request.to != self.node.0 {
            return refused(
                ErrorCode::INVALID_REQUEST,
                format!(
                    "node {} takes this for node {}, and it is node {}: check the ids and addresses in controller.quorum.voters and advertised.listeners",
                    request.from, request.to, self.node
                ),
            );
        }
        let ours = self.peers.voters_configured();
        let is_formed = self.has_memory.load(Ordering::Acquire);
        if !is_formed
            && !ours.is_empty()
            && !request.voters_configured.is_empty()
            && request.voters_configured != *ours
        {
            return refused(
                ErrorCode::INCONSISTENT_VOTER_SET,
                format!(
                    "controller.quorum.voters of node {} is {}, and of node {} {ours}: a quorum begins with the same voters on all",
                    request.from, request.voters_configured, self.node
                ),
            );
        }
        let from = raft_id(BrokerId(request.from.max(0)));
        let to = raft_id(self.node);
        let decode = |message: QuorumMessage| message::decode(message, from, to);
        let messages: Option<Vec<Message>> = request.messages.into_iter().map(decode).collect();
        let Some(messages) = messages else {
            return refused(ErrorCode::INVALID_REQUEST, "a message that no node sends".to_owned());
        };
        if !messages.is_empty() {
            // Full: raft sends again what is lost.
            let _ = self.commands.try_send(Command::Step(messages));
        }
        QuorumMessagesResponse { has_memory: is_formed, ..QuorumMessagesResponse::default() }
    }
}

impl Driver {
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
                // Who has no voice does not stand for election either: on its way through the log it meets itself as a
                // voter long before it is let in anew.
                _ = ticker.tick() => if !self.quorum.is_voiceless() {
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
