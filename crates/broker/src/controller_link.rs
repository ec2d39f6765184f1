//! The way to the active controller, wherever it is: on this node without a socket, else over one connection a kind of
//! traffic, so that no heartbeat waits behind a change of the metadata.
//! One question, one attempt: whoever asks decides whether to ask again.

use std::sync::Arc;
use std::time::Duration;

use client::Address;
use tokio::sync::Mutex;
use tokio::time::Instant;
use wire::messages::add_raft_voter::AddRaftVoterRequest;
use wire::messages::allocate_producer_ids::AllocateProducerIdsRequest;
use wire::messages::alter_partition::AlterPartitionRequest;
use wire::messages::auto_create_topics::AutoCreateTopicsRequest;
use wire::messages::broker_heartbeat::BrokerHeartbeatRequest;
use wire::messages::forward::ForwardRequest;
use wire::messages::register_broker::RegisterBrokerRequest;
use wire::{ApiRequest, BrokerId};

use crate::broker::Broker;
use crate::handler::quorum_members;
use crate::peer::{Link, Reach};
use crate::{controller, topics};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    #[error("no controller is known: the metadata quorum has no leader that this node can see")]
    NoController,
    #[error("nobody says where the controller, node {0}, is")]
    NoAddress(BrokerId),
    #[error(transparent)]
    Link(#[from] client::Error),
}

impl Unanswered {
    /// Whether nobody can have acted on the question.
    pub(crate) fn is_before_sending(&self) -> bool {
        match self {
            Unanswered::NoController | Unanswered::NoAddress(_) => true,
            Unanswered::Link(error) => matches!(error, client::Error::Connect { .. }),
        }
    }
}

/// Something that only the active controller answers.
pub(crate) trait ControllerRequest: ApiRequest<Response: Send> + Send + 'static {
    /// Kinds of traffic with a connection of their own.
    const LANE: Lane;
    /// How long the answer may take.
    const WAIT: Duration;

    /// The answer, on the controller itself.
    fn serve(self, broker: Arc<Broker>) -> impl Future<Output = Self::Response> + Send;
}

/// Kinds of traffic that do not wait for each other.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lane {
    Heartbeats,
    Changes,
    Forwarded,
}

macro_rules! controller_requests {
    ($($request:ty: $serve:path, $lane:ident, $wait_ms:literal ms;)*) => {
        $(impl ControllerRequest for $request {
            const LANE: Lane = Lane::$lane;
            const WAIT: Duration = Duration::from_millis($wait_ms);

            fn serve(self, broker: Arc<Broker>) -> impl Future<Output = Self::Response> + Send {
                $serve(broker, self)
            }
        })*
    };
}

controller_requests! {
    RegisterBrokerRequest: controller::register, Changes, 10_000 ms;
    BrokerHeartbeatRequest: controller::heartbeat, Heartbeats, 2_000 ms;
    AlterPartitionRequest: controller::alter_partition, Changes, 10_000 ms;
    AllocateProducerIdsRequest: controller::allocate_producer_ids, Changes, 10_000 ms;
    AddRaftVoterRequest: quorum_members::add, Changes, 10_000 ms;
    AutoCreateTopicsRequest: topics::auto_create, Forwarded, 10_000 ms;
}

/// The connections.
pub(crate) struct ControllerLink {
    heartbeats: Mutex<Link>,
    changes: Mutex<Link>,
    forwarded: Mutex<Link>,
}

impl ControllerLink {
    pub(crate) fn new(reach: &Reach) -> Self {
        ControllerLink {
            heartbeats: Mutex::new(reach.link()),
            changes: Mutex::new(reach.link()),
            forwarded: Mutex::new(reach.link()),
        }
    }

    /// Asks the node at `address`.
    pub(crate) async fn ask_at<R: ApiRequest<Response: Send> + Send + 'static>(
        &self,
        lane: Lane,
        address: &Address,
        request: R,
        wait: Duration,
    ) -> Result<R::Response, client::Error> {
        let lane = match lane {
            Lane::Heartbeats => &self.heartbeats,
            Lane::Changes => &self.changes,
            Lane::Forwarded => &self.forwarded,
        };
        // Held while connecting, not while waiting for the answer.
        let connection = lane.lock().await.to(address).await?;
        connection.call_version(request, *R::API.versions().end(), Instant::now() + wait).await
    }
}

impl Broker {
    /// Asks the active controller.
    pub(crate) async fn ask_controller<R: ControllerRequest>(
        self: &Arc<Self>,
        request: R,
    ) -> Result<R::Response, Unanswered> {
        let status = self.metadata.quorum().status();
        if status.is_active {
            return Ok(request.serve(Arc::clone(self)).await);
        }
        let address = self.controller_address()?;
        Ok(self.controller_link.ask_at(R::LANE, &address, request, R::WAIT).await?)
    }

    /// Hands a client's request to the active controller.
    pub(crate) async fn forward(
        self: &Arc<Self>,
        request: ForwardRequest,
        wait: Duration,
    ) -> Result<wire::messages::forward::ForwardResponse, Unanswered> {
        let address = self.controller_address()?;
        Ok(self.controller_link.ask_at(Lane::Forwarded, &address, request, wait).await?)
    }

    fn controller_address(&self) -> Result<Address, Unanswered> {
        let quorum = self.metadata.quorum();
        let leader = quorum.status().leader.filter(|leader| *leader != self.node_id);
        let leader = leader.ok_or(Unanswered::NoController)?;
        quorum.peers().address_of(leader).ok_or(Unanswered::NoAddress(leader))
    }
}
