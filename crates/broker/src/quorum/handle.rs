//! What the rest of the broker holds of the quorum: the image, what has changed in it, and the ways to ask the task that drives
//! the consensus.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use raft::eraftpb::Message;
use state::metadata::{ConfigResource, Image, MetadataRecord};
use storage::{Disk, Log};
use tokio::sync::{mpsc, oneshot, watch};
use wire::messages::quorum_messages::{QuorumMessage, QuorumMessagesRequest, QuorumMessagesResponse};
use wire::{BrokerId, ErrorCode, Millis, Offset, Str, Uuid};

use super::driver::Driver;
use super::durable::{DurableLog, QuorumLogError};
use super::entry::{self, MembersChange};
use super::transport::Peers;
use super::{message, raft_id};
use crate::blocking;
use crate::clock::Clock;

/// Commands that wait for the task.
const COMMANDS_MAX: usize = 4096;
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
    pub(crate) quotas: bool,
}

impl Touched {
    /// Notes a record that is about to be applied.
    pub(super) fn note(&mut self, record: &MetadataRecord, image: &Image) {
        match record {
            MetadataRecord::Topic(record) => drop(self.topics.insert(record.topic_id)),
            MetadataRecord::Partition(record) => drop(self.topics.insert(record.topic_id)),
            MetadataRecord::PartitionChange(record) => drop(self.topics.insert(record.topic_id)),
            MetadataRecord::RemoveTopic(record) => {
                self.topics.insert(record.topic_id);
                self.deleted.extend(image.topic_by_id(record.topic_id).map(|topic| topic.name.clone()));
            }
            MetadataRecord::Config(resource, _) => drop(self.configs.insert(resource.clone())),
            MetadataRecord::ClientQuota(..) => self.quotas = true,
            MetadataRecord::RegisterBroker(_)
            | MetadataRecord::BrokerRegistrationChange(_)
            | MetadataRecord::UnregisterBroker(_) => self.brokers = true,
            MetadataRecord::ProducerIds(_) | MetadataRecord::FeatureLevel(_) | MetadataRecord::NoOp(_) => {}
        }
    }
}

/// The handle to the task, and what it publishes.
pub(crate) struct Quorum {
    pub(super) node: BrokerId,
    pub(super) peers: Arc<Peers>,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) image: ArcSwap<Image>,
    /// Index of the last entry in the image.
    pub(super) applied: watch::Sender<u64>,
    pub(super) status: watch::Sender<QuorumStatus>,
    pub(super) failed: watch::Sender<bool>,
    pub(super) touched: Mutex<Touched>,
    pub(super) has_memory: AtomicBool,
    pub(super) is_voiceless: AtomicBool,
    /// Held through a change of the members, by the task that carries it out.
    pub(super) member_changes: Arc<tokio::sync::Mutex<()>>,
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
        let driver = Driver::new(Arc::clone(&quorum), commands, options, found);
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
