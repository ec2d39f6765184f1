//! AddRaftVoter and RemoveRaftVoter: who carries the metadata (KIP-853).
//! A voter is a broker that follows the metadata already; one that is taken out goes on following it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use wire::messages::add_raft_voter::{AddRaftVoterRequest, AddRaftVoterResponse};
use wire::messages::remove_raft_voter::{RemoveRaftVoterRequest, RemoveRaftVoterResponse};
use wire::{BrokerId, ErrorCode, Str};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::quorum::MembersChange;

/// Entries that a new voter may lack: with more, the quorum could wait for it.
const LAG_MAX: u64 = 100;
/// Between two looks at how far a new voter has come.
const LOOK: Duration = Duration::from_millis(50);

type Refused = (ErrorCode, String);

/// Lets a broker vote, once it has caught up.
pub(crate) async fn add(broker: Arc<Broker>, request: AddRaftVoterRequest) -> AddRaftVoterResponse {
    match try_add(&broker, &request).await {
        Ok(()) => AddRaftVoterResponse::default(),
        Err((error_code, message)) => {
            AddRaftVoterResponse { error_code, error_message: Some(Str::from(message)), ..Default::default() }
        }
    }
}

/// AddRaftVoter.
pub(crate) async fn handle_add(
    broker: Arc<Broker>,
    _: RequestContext,
    request: AddRaftVoterRequest,
) -> AddRaftVoterResponse {
    add(broker, request).await
}

async fn try_add(broker: &Arc<Broker>, request: &AddRaftVoterRequest) -> Result<(), Refused> {
    check_cluster(broker, request.cluster_id.as_deref())?;
    let node = BrokerId(request.voter_id);
    let deadline = Instant::now() + Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let quorum = broker.metadata.quorum();
    loop {
        let description = quorum.describe().await.ok_or_else(offline)?;
        if description.voters.iter().any(|voter| voter.node == node) {
            return Err((ErrorCode::DUPLICATE_VOTER, format!("node {node} is a voter already")));
        }
        let Some(learner) = description.learners.iter().find(|learner| learner.node == node) else {
            let message = format!(
                "node {node} does not follow the metadata: start it as a broker of this cluster first"
            );
            return Err((ErrorCode::VOTER_NOT_FOUND, message));
        };
        if learner.lag <= LAG_MAX && learner.is_recently_active {
            break;
        }
        if Instant::now() + LOOK > deadline {
            let message = format!(
                "node {node} lacks {} entries of the metadata: ask again when it has caught up",
                learner.lag
            );
            return Err((ErrorCode::REQUEST_TIMED_OUT, message));
        }
        sleep(LOOK).await;
    }
    tracing::info!(%node, "a node becomes a voter of the metadata quorum");
    change(broker, MembersChange::AddVoter(node)).await
}

/// RemoveRaftVoter.
pub(crate) async fn handle_remove(
    broker: Arc<Broker>,
    _: RequestContext,
    request: RemoveRaftVoterRequest,
) -> RemoveRaftVoterResponse {
    match try_remove(&broker, &request).await {
        Ok(()) => RemoveRaftVoterResponse::default(),
        Err((error_code, message)) => RemoveRaftVoterResponse {
            error_code,
            error_message: Some(Str::from(message)),
            ..Default::default()
        },
    }
}

async fn try_remove(broker: &Arc<Broker>, request: &RemoveRaftVoterRequest) -> Result<(), Refused> {
    check_cluster(broker, request.cluster_id.as_deref())?;
    let node = BrokerId(request.voter_id);
    let voters = broker.metadata.quorum().status().voters;
    if !voters.contains(&node) {
        return Err((ErrorCode::VOTER_NOT_FOUND, format!("node {node} is no voter")));
    }
    if voters.len() == 1 {
        let message = format!("node {node} is the only voter: add another first");
        return Err((ErrorCode::INVALID_REQUEST, message));
    }
    let description = broker.metadata.quorum().describe().await.ok_or_else(offline)?;
    let stay: Vec<_> = description.voters.iter().filter(|voter| voter.node != node).collect();
    let silent: Vec<String> =
        stay.iter().filter(|voter| !voter.is_recently_active).map(|voter| voter.node.to_string()).collect();
    if (stay.len() - silent.len()) * 2 <= stay.len() {
        let message = format!(
            "without node {node} the quorum would have no majority, since node {} is not heard: bring it back, or take \
             its vote away first",
            silent.join(", ")
        );
        return Err((ErrorCode::INVALID_REQUEST, message));
    }
    tracing::info!(%node, "a node stops being a voter of the metadata quorum");
    change(broker, MembersChange::AddLearner(node)).await
}

/// Whether a request is for the controller to take its own vote away: another has to lead first.
pub(crate) fn is_about(broker: &Broker, request: &RemoveRaftVoterRequest) -> bool {
    request.voter_id == broker.node_id.0 && broker.metadata.quorum().status().voters.len() > 1
}

fn check_cluster(broker: &Broker, asked: Option<&str>) -> Result<(), Refused> {
    match asked.filter(|asked| *asked != &*broker.cluster_id) {
        None => Ok(()),
        Some(other) => {
            let message = format!("this is cluster {}, not {other}", broker.cluster_id);
            Err((ErrorCode::INCONSISTENT_CLUSTER_ID, message))
        }
    }
}

async fn change(broker: &Broker, change: MembersChange) -> Result<(), Refused> {
    match broker.metadata.quorum().change_members(change).await {
        Ok(_) => Ok(()),
        Err(error) => Err((ErrorCode::from(error), error.to_string())),
    }
}

fn offline() -> Refused {
    (ErrorCode::KAFKA_STORAGE_ERROR, "the metadata log is offline".to_owned())
}
