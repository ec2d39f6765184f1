//! The way to the other nodes of the quorum: one task and one connection a node, messages in order, many in one request.
//!
//! Raft repeats what is lost, so nothing here does: a node that cannot be reached, or does not take its messages as fast as
//! they come, loses some and is reported.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use client::Address;
use parking_lot::Mutex;
use raft::eraftpb::{Message, MessageType};
use tokio::sync::mpsc;
use tokio::time::sleep;
use wire::messages::quorum_messages::QuorumMessagesRequest;
use wire::{BrokerId, Str};

use super::handle::Command;
use super::{message, node_id};
use crate::peer::Reach;

/// Messages that wait for one node.
const QUEUE_MAX: usize = 1024;
/// Messages in one request.
const BATCH_MAX: usize = 128;
/// How long a node may take to take messages.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// A snapshot takes its time.
const SNAPSHOT_ANSWER_MAX: Duration = Duration::from_secs(60);
/// Wait before a node that did not answer is dialled again.
const RETRY: Duration = Duration::from_millis(50);

/// Where the nodes are, and the queues to them.
pub(crate) struct Peers {
    node: BrokerId,
    cluster_id: Str,
    /// `controller.quorum.voters` as configured.
    voters_configured: Str,
    reach: Reach,
    /// As configured; these stand.
    configured: BTreeMap<BrokerId, Address>,
    /// As the brokers registered.
    registered: ArcSwap<BTreeMap<BrokerId, Address>>,
    queues: Mutex<BTreeMap<BrokerId, mpsc::Sender<Message>>>,
}

impl Peers {
    pub(crate) fn new(
        node: BrokerId,
        cluster_id: Str,
        configured: BTreeMap<BrokerId, Address>,
        reach: Reach,
    ) -> Arc<Self> {
        let voters: Vec<String> = configured.iter().map(|(id, address)| format!("{id}@{address}")).collect();
        Arc::new(Peers {
            node,
            cluster_id,
            voters_configured: Str::from(voters.join(",")),
            reach,
            configured,
            registered: ArcSwap::default(),
            queues: Mutex::default(),
        })
    }

    /// Where a node is, if anybody said so.
    pub(crate) fn address_of(&self, node: BrokerId) -> Option<Address> {
        self.configured.get(&node).or(self.registered.load().get(&node)).cloned()
    }

    /// The configured nodes.
    pub(crate) fn configured(&self) -> &BTreeMap<BrokerId, Address> {
        &self.configured
    }

    /// The configured nodes as text, the same on every node that is configured the same.
    pub(crate) fn voters_configured(&self) -> &Str {
        &self.voters_configured
    }

    pub(crate) fn cluster_id(&self) -> &Str {
        &self.cluster_id
    }

    pub(crate) fn reach(&self) -> &Reach {
        &self.reach
    }

    /// Takes over where the registered brokers are.
    pub(crate) fn learn(&self, registered: BTreeMap<BrokerId, Address>) {
        self.registered.store(Arc::new(registered));
    }

    /// A request that carries messages, or none to ask a node who it is and whether it remembers anything.
    pub(crate) fn request(&self, to: BrokerId, messages: &[Message]) -> QuorumMessagesRequest {
        QuorumMessagesRequest {
            cluster_id: self.cluster_id.clone(),
            from: self.node.0,
            to: to.0,
            voters_configured: self.voters_configured.clone(),
            messages: messages.iter().map(message::encode).collect(),
        }
    }

    /// Puts a message on its way. One for which there is no room is dropped, and its node reported.
    pub(super) fn send(self: &Arc<Self>, message: Message, driver: &mpsc::Sender<Command>) {
        let Some(to) = node_id(message.to) else { return };
        let mut queues = self.queues.lock();
        let queue = queues.entry(to).or_insert_with(|| {
            let (sender, queue) = mpsc::channel(QUEUE_MAX);
            tokio::spawn(Arc::clone(self).carry(to, queue, driver.clone()));
            sender
        });
        if let Err(error) = queue.try_send(message) {
            let message = error.into_inner();
            let _ = driver.try_send(Command::Unreachable { to: message.to, snapshot: is_snapshot(&message) });
        }
    }

    /// Ends the tasks.
    pub(super) fn stop(&self) {
        self.queues.lock().clear();
    }

    async fn carry(
        self: Arc<Self>,
        to: BrokerId,
        mut queue: mpsc::Receiver<Message>,
        driver: mpsc::Sender<Command>,
    ) {
        let mut link = self.reach.link();
        let mut batch = Vec::with_capacity(BATCH_MAX);
        // Said once, not with every attempt.
        let mut refused = false;
        while queue.recv_many(&mut batch, BATCH_MAX).await > 0 {
            let has_snapshot = batch.iter().any(is_snapshot);
            let wait = if has_snapshot { SNAPSHOT_ANSWER_MAX } else { ANSWER_MAX };
            let answer = match self.address_of(to) {
                Some(address) => Some(link.ask(&address, self.request(to, &batch), wait).await),
                None => None,
            };
            batch.clear();
            match answer {
                Some(Ok(answer)) if answer.error_code.is_ok() => {
                    refused = false;
                    if has_snapshot {
                        let _ = driver.send(Command::SnapshotTaken { to: super::raft_id(to) }).await;
                    }
                    continue;
                }
                Some(Ok(answer)) if !refused => {
                    refused = true;
                    let reason = answer.error_message.unwrap_or_default();
                    tracing::error!(node = %to, error = ?answer.error_code, %reason, "a node of the quorum refuses this one");
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    tracing::debug!(node = %to, %error, "a node of the quorum cannot be reached")
                }
                None => tracing::debug!(node = %to, "nobody says where a node of the quorum is"),
            }
            let raft_id = super::raft_id(to);
            let _ = driver.send(Command::Unreachable { to: raft_id, snapshot: has_snapshot }).await;
            sleep(RETRY).await;
        }
    }
}

fn is_snapshot(message: &Message) -> bool {
    message.get_msg_type() == MessageType::MsgSnapshot
}
