//! ShareAcknowledge: a member of a share group says what has become of records, outside of a fetch. Each partition is answered
//! by itself, when what was said of it is written.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use state::share::partition::AcknowledgedBatch;
use state::share::state::SharePartitionKey;
use tokio::time::{Instant, timeout_at};
use wire::messages::share_acknowledge::{
    LeaderIdAndEpoch, NodeEndpoint, PartitionData, ShareAcknowledgeRequest, ShareAcknowledgeResponse,
    ShareAcknowledgeTopicResponse,
};
use wire::{ErrorCode, Offset, PartitionId, Str};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::leader_hints::LeaderHints;
use crate::settings::group::ShareGroupSettings;
use crate::share_coordinator::Failure;
use crate::share_sessions::Place;

/// Kafka's number of an acknowledgement that renews a lock.
const RENEW: i8 = 4;
/// How long a member waits until what it said is written.
const SAY_MAX: Duration = Duration::from_secs(15);

/// Acknowledges partition by partition.
pub(crate) async fn handle(
    broker: Arc<Broker>,
    context: RequestContext,
    request: ShareAcknowledgeRequest,
) -> ShareAcknowledgeResponse {
    match acknowledge(&broker, &context, request).await {
        Ok(response) => response,
        Err(Failure { error, message }) => {
            ShareAcknowledgeResponse { error_code: error, error_message: message, ..Default::default() }
        }
    }
}

/// The group and the member that a request is about.
pub(super) fn owner(group: Option<Str>, member: Option<Str>) -> Result<(Str, Str), Failure> {
    let group = group.filter(|group| !group.is_empty());
    let group = group.ok_or_else(|| invalid("a share group has a name: the group id is empty"))?;
    let member = member.filter(|member| !member.is_empty());
    let member =
        member.ok_or_else(|| invalid("a member of a share group has an id: the member id is empty"))?;
    Ok((group, member))
}

pub(super) fn invalid(message: &'static str) -> Failure {
    Failure { error: ErrorCode::INVALID_REQUEST, message: Some(Str::from(message)) }
}

async fn acknowledge(
    broker: &Arc<Broker>,
    context: &RequestContext,
    request: ShareAcknowledgeRequest,
) -> Result<ShareAcknowledgeResponse, Failure> {
    let (group, member) = owner(request.group_id, request.member_id)?;
    let is_final = broker.share_sessions.acknowledge(
        (&group, &member),
        request.share_session_epoch,
        &context.connection,
    )?;
    let settings = broker.share_group_settings(&group);
    let mut said = Vec::new();
    let mut seen = HashSet::new();
    for topic in request.topics {
        for asked in topic.partitions {
            let place = (topic.topic_id, PartitionId(asked.partition_index));
            if !seen.insert(place) {
                continue;
            }
            let batches = asked.acknowledgement_batches.into_iter().map(|batch| AcknowledgedBatch {
                first: Offset(batch.first_offset),
                last: Offset(batch.last_offset),
                types: batch.acknowledge_types,
            });
            said.push(Said { place, batches: batches.collect(), is_renew: request.is_renew_ack });
        }
    }
    let mut leaders = LeaderHints::new(broker);
    let mut responses: Vec<ShareAcknowledgeTopicResponse> = Vec::new();
    for ((topic_id, partition), said) in say(broker, (&group, &member), &settings, said).await {
        let (error_code, error_message) = match said {
            Ok(()) => (ErrorCode::NONE, None),
            Err(failure) => (failure.error, failure.message),
        };
        let mut data =
            PartitionData { partition_index: partition.0, error_code, error_message, ..Default::default() };
        if let Some((leader, epoch)) = leaders.hint(error_code, &Str::default(), topic_id, partition) {
            data.current_leader = LeaderIdAndEpoch { leader_id: leader.0, leader_epoch: epoch.0 };
        }
        match responses.last_mut().filter(|last| last.topic_id == topic_id) {
            Some(last) => last.partitions.push(data),
            None => responses.push(ShareAcknowledgeTopicResponse { topic_id, partitions: vec![data] }),
        }
    }
    if is_final {
        broker.share_session_ended(&group, &member).await;
    }
    let endpoint = |(node_id, host, port, rack)| NodeEndpoint { node_id, host, port, rack };
    Ok(ShareAcknowledgeResponse {
        acquisition_lock_timeout_ms: i32::try_from(settings.lock_ms).unwrap_or(i32::MAX),
        responses,
        node_endpoints: leaders.endpoints(context).map(endpoint).collect(),
        ..Default::default()
    })
}

/// What a member says of one partition's records.
pub(super) struct Said {
    pub(super) place: Place,
    pub(super) batches: Vec<AcknowledgedBatch>,
    /// Whether locks may be renewed with it.
    pub(super) is_renew: bool,
}

/// Takes over what a member says, of all partitions at the same time, and waits until it is written: no longer for many than for
/// one. The answers are in the order of the partitions.
pub(super) async fn say(
    broker: &Arc<Broker>,
    (group, member): (&Str, &Str),
    settings: &ShareGroupSettings,
    said: Vec<Said>,
) -> BTreeMap<Place, Result<(), Failure>> {
    let deadline = Instant::now() + SAY_MAX;
    let held = |said: &Said| {
        check(settings, said)?;
        let (topic, partition) = said.place;
        let key = SharePartitionKey { group: Str::copy_from(group), topic, partition };
        broker.share_partition(&key, settings)
    };
    let mut said: Vec<_> = said.into_iter().map(|said| (held(&said), said)).collect();
    // Locks end while others are loaded.
    said.sort_by_key(|(held, _)| held.as_ref().is_ok_and(|held| held.is_loading()));
    let mut taken = Vec::with_capacity(said.len());
    for (held, Said { place, batches, .. }) in said {
        let held = match held {
            Ok(held) => within(deadline, held.loaded()).await.map(|()| held),
            Err(failure) => Err(failure),
        };
        taken.push((place, held.and_then(|held| held.acknowledge(broker, member, &batches).map(|()| held))));
    }
    let mut written = BTreeMap::new();
    for (place, taken) in taken {
        let outcome = match taken {
            Ok(held) => within(deadline, held.written()).await,
            Err(failure) => Err(failure),
        };
        written.insert(place, outcome);
    }
    written
}

async fn within(deadline: Instant, done: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    timeout_at(deadline, done).await.unwrap_or(Err(ErrorCode::REQUEST_TIMED_OUT.into()))
}

fn check(settings: &ShareGroupSettings, said: &Said) -> Result<(), Failure> {
    let renews = said.batches.iter().any(|batch| batch.types.contains(&RENEW));
    if renews && !said.is_renew {
        return Err(invalid("locks are renewed by requests that say so (IsRenewAck)"));
    }
    if renews && !settings.renew_enabled {
        return Err(invalid("share.renew.acknowledge.enable is false for the group"));
    }
    Ok(())
}
