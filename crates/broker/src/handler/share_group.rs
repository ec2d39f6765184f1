//! Share groups: heartbeats, describing and deleting. Each is a step of the pure state machine of the group's shard; what it wants
//! of the share coordinator is done here. Invariant: share state is not begun while some is deleted, so that what is gone for the
//! group is gone, and what is there stays.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use state::group::share::{Partitions, ShareGroupLimits, ShareHeartbeat, ShareHeartbeatAnswer, ShareRefusal};
use state::share::state::SharePartitionKey;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use wire::messages::share_group_describe::{
    DescribedGroup, ShareGroupDescribeRequest, ShareGroupDescribeResponse,
};
use wire::messages::share_group_heartbeat::{
    Assignment, ShareGroupHeartbeatRequest, ShareGroupHeartbeatResponse, TopicPartitions,
};
use wire::{ErrorCode, PartitionId, Str, Uuid};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::handler::group::{GROUP_OPERATIONS, client_info};
use crate::handler::metadata::operations;
use crate::share_coordinator::Failure;
use crate::share_partitions::insist;

/// Share-partitions that one request has begun, or deleted, at a time.
const AT_A_TIME_MAX: usize = 64;
/// How long a heartbeat waits for share state to be begun.
const BEGIN_MAX: Duration = Duration::from_secs(3);
/// Locks that the groups have between them.
const LOCKS: u64 = 64;
/// How long a deletion waits for share state that is being begun, or for another deletion.
const DELETE_WAIT_MAX: Duration = Duration::from_secs(30);

/// Whoever deletes share state of a group is alone with it; many may begin some at a time. A few groups have a lock together.
pub(crate) struct ShareDeletions {
    locks: Vec<Arc<RwLock<()>>>,
}

impl Default for ShareDeletions {
    fn default() -> Self {
        ShareDeletions { locks: (0..LOCKS).map(|_| Arc::default()).collect() }
    }
}

impl ShareDeletions {
    pub(super) fn of(&self, group: &str) -> Arc<RwLock<()>> {
        let mut hasher = DefaultHasher::new();
        group.hash(&mut hasher);
        Arc::clone(&self.locks[(hasher.finish() % LOCKS) as usize])
    }
}

/// ShareGroupHeartbeat. A member that brings partitions along whose share state is not there waits until it is, or could not be
/// begun: it is asked for again with the next heartbeat then. A deletion of share state that was broken off is finished first.
pub(crate) async fn heartbeat(
    broker: Arc<Broker>,
    context: RequestContext,
    request: ShareGroupHeartbeatRequest,
) -> ShareGroupHeartbeatResponse {
    let settings = broker.share_group_settings(&request.group_id);
    let limits = ShareGroupLimits {
        session_timeout_ms: settings.session_timeout_ms,
        group_size_max: broker.settings().broker().share.group_size_max,
    };
    let beat = ShareHeartbeat {
        group: Str::copy_from(&request.group_id),
        member: Str::copy_from(&request.member_id),
        member_epoch: request.member_epoch,
        rack: request.rack_id,
        topics: request.subscribed_topic_names,
    };
    let client = client_info(&context);
    let image = broker.metadata.image();
    let asked = broker
        .groups
        .ask(&beat.group, |groups, now| groups.share_heartbeat(&beat, &client, limits, &image, now));
    let answer = match asked.await {
        Ok(answer) => answer,
        Err(error_code) => return ShareGroupHeartbeatResponse { error_code, ..Default::default() },
    };
    let answer = match answer {
        Ok(answer) if answer.to_initialize.is_empty() && answer.to_delete.is_empty() => answer,
        Ok(answer) => initialized(&broker, &beat.group, &beat.member, answer).await,
        Err(refusal) => {
            return ShareGroupHeartbeatResponse {
                error_code: ErrorCode::from(&refusal),
                error_message: Some(Str::from(refusal.to_string())),
                ..Default::default()
            };
        }
    };
    let topics = answer.assignment.map(|assignment| {
        let topics = assignment.into_iter().map(|(topic_id, indexes)| TopicPartitions {
            topic_id,
            partitions: indexes.into_iter().collect(),
        });
        Box::new(Assignment { topic_partitions: topics.collect() })
    });
    ShareGroupHeartbeatResponse {
        member_id: Some(beat.member),
        member_epoch: answer.member_epoch,
        heartbeat_interval_ms: settings.heartbeat_interval_ms,
        assignment: topics,
        ..Default::default()
    }
}

/// Has share state begun, and the member told of what it can read by then.
async fn initialized(
    broker: &Arc<Broker>,
    group: &Str,
    member: &Str,
    answer: ShareHeartbeatAnswer,
) -> ShareHeartbeatAnswer {
    let mut to_initialize = answer.to_initialize.clone();
    // While somebody else deletes share state, the next heartbeat is soon enough.
    if !answer.to_delete.is_empty() {
        let Ok(alone) = broker.share_deletions.of(group).try_write_owned() else { return answer };
        let (broker, group, to_delete) = (Arc::clone(broker), group.clone(), answer.to_delete.clone());
        let deleted = to_the_end(async move {
            let _alone = alone;
            delete_topics(&broker, &group, &to_delete).await
        });
        match deleted.await {
            // A topic whose state cannot be deleted yet keeps nobody from the others.
            Ok(deleted) => to_initialize = deleted.to_initialize,
            Err(_) => return answer,
        }
    }
    let Ok(_shared) = broker.share_deletions.of(group).try_read_owned() else { return answer };
    let partitions = begin(broker, group, &to_initialize).await;
    if partitions.is_empty() {
        return answer;
    }
    let image = broker.metadata.image();
    let asked = broker
        .groups
        .ask(group, |groups, now| groups.share_initialized(group, Some(member), &partitions, &image, now));
    match asked.await {
        Ok(Ok(Some(answer))) => answer,
        Ok(_) | Err(_) => answer,
    }
}

/// Has share state begun. Says where it is there by now.
async fn begin(broker: &Arc<Broker>, group: &Str, partitions: &Partitions) -> Partitions {
    let begun = for_each(broker, group, partitions, |broker, key| async move {
        // The first state of a share-partition: it has epoch 0, so that asking twice begins it once.
        let begin = || broker.initialize_share_state(&key, 0, None);
        let begun = insist(&broker, BEGIN_MAX, begin).await;
        begun.map(|()| key)
    });
    let mut partitions = Partitions::new();
    for begun in begun.await {
        match begun {
            Ok(key) => {
                partitions.entry(key.topic).or_default().insert(key.partition.0);
            }
            Err(failure) => {
                tracing::debug!(%group, error = ?failure.error, "share state cannot be begun yet");
            }
        }
    }
    partitions
}

/// Has share state begin again that the group takes for there and that seems to be missing: it was lost, or a deletion that an
/// earlier coordinator of the group had asked for came late. What is there after all stays as it is.
pub(super) async fn begin_again(
    broker: &Arc<Broker>,
    group: &Str,
    mut missing: Partitions,
) -> Result<(), ErrorCode> {
    // What somebody deletes is begun by whoever reads it next.
    let Ok(_shared) = broker.share_deletions.of(group).try_read_owned() else { return Ok(()) };
    let has = broker.groups.ask(group, |groups, _now| (Vec::new(), groups.share_partitions(group))).await?;
    let has = has.unwrap_or_default();
    for (topic, indexes) in &mut missing {
        indexes.retain(|index| has.get(topic).is_some_and(|has| has.contains(index)));
    }
    begin(broker, group, &missing).await;
    Ok(())
}

/// Does something with each share-partition, many at a time.
pub(super) async fn for_each<T, Done>(
    broker: &Arc<Broker>,
    group: &Str,
    partitions: &Partitions,
    todo: impl Fn(Arc<Broker>, SharePartitionKey) -> Done,
) -> Vec<T>
where
    T: Send + 'static,
    Done: Future<Output = T> + Send + 'static,
{
    let keys: Vec<SharePartitionKey> = partitions
        .iter()
        .flat_map(|(topic, indexes)| {
            indexes.iter().map(|index| SharePartitionKey {
                group: group.clone(),
                topic: *topic,
                partition: PartitionId(*index),
            })
        })
        .collect();
    let mut done = Vec::with_capacity(keys.len());
    for some in keys.chunks(AT_A_TIME_MAX) {
        let tasks: Vec<_> =
            some.iter().map(|key| tokio::spawn(todo(Arc::clone(broker), key.clone()))).collect();
        for task in tasks {
            done.push(finished(task).await);
        }
    }
    done
}

/// Does something whole, whether or not the client waits for the answer.
pub(super) async fn to_the_end<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    finished(tokio::spawn(work)).await
}

async fn finished<T>(task: JoinHandle<T>) -> T {
    match task.await {
        Ok(done) => done,
        // The runtime is going down, and whoever waits here with it.
        Err(error) if error.is_cancelled() => std::future::pending().await,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// ShareGroupDescribe.
pub(crate) async fn describe(
    broker: Arc<Broker>,
    request: ShareGroupDescribeRequest,
) -> ShareGroupDescribeResponse {
    let mut groups = Vec::with_capacity(request.group_ids.len());
    // A group named twice is answered once: answers can be large.
    let mut seen = HashSet::new();
    for group_id in request.group_ids.into_iter().filter(|group_id| seen.insert(group_id.clone())) {
        let image = broker.metadata.image();
        let asked = broker
            .groups
            .ask(&group_id, |groups, _now| (Vec::new(), groups.share_describe(&group_id, &image)));
        groups.push(match asked.await {
            Ok(described) => {
                let is_included = request.include_authorized_operations && described.error_code.is_ok();
                DescribedGroup {
                    authorized_operations: operations(is_included, GROUP_OPERATIONS),
                    ..described
                }
            }
            Err(error_code) => DescribedGroup { error_code, group_id, ..Default::default() },
        });
    }
    ShareGroupDescribeResponse { groups, ..Default::default() }
}

/// Deletes a share group with its share state; `None` where it is no share group.
pub(super) async fn delete(broker: &Arc<Broker>, group: &Str) -> Option<ErrorCode> {
    match broker.groups.ask(group, |groups, _now| (Vec::new(), groups.is_share_group(group))).await {
        Ok(true) => {}
        // The group's own kind says what an error means.
        Ok(false) | Err(_) => return None,
    }
    let alone = match alone(broker, group).await {
        Ok(alone) => alone,
        Err(failure) => return Some(failure.error),
    };
    let (broker, group) = (Arc::clone(broker), group.clone());
    to_the_end(async move {
        let _alone = alone;
        delete_alone(&broker, &group).await
    })
    .await
}

async fn delete_alone(broker: &Arc<Broker>, group: &Str) -> Option<ErrorCode> {
    let image = broker.metadata.image();
    let asked = broker.groups.ask(group, |groups, _now| match groups.share_to_delete(group, &image) {
        None => (Vec::new(), None),
        Some((records, answer)) => (records, Some(answer)),
    });
    let partitions = match asked.await {
        Ok(None) | Err(_) => return None,
        Ok(Some(Ok(partitions))) => partitions,
        Ok(Some(Err(refusal))) => return Some(ErrorCode::from(&refusal)),
    };
    // What is left of it then is left as "deleting": whoever asks next, or reads, finishes that.
    if let Some(failure) = delete_state(broker, group, &partitions).await.into_values().next() {
        return Some(failure.error);
    }
    let deleted = broker.groups.ask(group, |groups, _now| groups.share_delete(group)).await;
    Some(match deleted {
        Ok(deleted) => deleted.as_ref().err().map_or(ErrorCode::NONE, ErrorCode::from),
        Err(error) => error,
    })
}

/// What has become of share state that was to be deleted.
pub(super) struct Deleted {
    /// Topics that still have some, and why.
    pub(super) failures: HashMap<Uuid, Failure>,
    /// What members want to be begun by now.
    to_initialize: Partitions,
}

/// Deletes share state of which the group has noted that it goes, and notes that it is gone. The caller is alone with it.
pub(super) async fn delete_topics(
    broker: &Arc<Broker>,
    group: &Str,
    partitions: &Partitions,
) -> Result<Deleted, Failure> {
    let failures = delete_state(broker, group, partitions).await;
    let deleted: BTreeSet<Uuid> =
        partitions.keys().filter(|topic| !failures.contains_key(*topic)).copied().collect();
    let image = broker.metadata.image();
    let told =
        broker.groups.ask(group, |groups, now| groups.share_state_deleted(group, &deleted, &image, now));
    Ok(Deleted { failures, to_initialize: told.await?? })
}

/// Deletes share state; says of which topics it could not be.
async fn delete_state(broker: &Arc<Broker>, group: &Str, partitions: &Partitions) -> HashMap<Uuid, Failure> {
    let deleted = for_each(broker, group, partitions, |broker, key| async move {
        (key.topic, broker.delete_share_state(&key).await)
    });
    let failed = deleted.await.into_iter();
    failed.filter_map(|(topic, deleted)| deleted.err().map(|failure| (topic, failure))).collect()
}

/// Has a deletion of these topics' state that was broken off finished, and waits for one that is under way.
pub(super) async fn finish_deleting(
    broker: &Arc<Broker>,
    group: &Str,
    topics: BTreeSet<Uuid>,
) -> Result<(), Failure> {
    if deleting(broker, group, &topics).await?.is_empty() {
        return Ok(());
    }
    let alone = alone(broker, group).await?;
    let (broker, group) = (Arc::clone(broker), group.clone());
    let deleted = to_the_end(async move {
        let _alone = alone;
        delete_topics(&broker, &group, &deleting(&broker, &group, &topics).await?).await
    });
    deleted.await?.failures.into_values().next().map_or(Ok(()), Err)
}

async fn deleting(broker: &Broker, group: &Str, topics: &BTreeSet<Uuid>) -> Result<Partitions, ErrorCode> {
    let image = broker.metadata.image();
    let deleting =
        broker.groups.ask(group, |groups, _now| (Vec::new(), groups.share_deleting(group, &image))).await?;
    Ok(deleting.into_iter().filter(|(topic, _)| topics.contains(topic)).collect())
}

/// Nobody begins or deletes share state of the group meanwhile.
pub(super) async fn alone(broker: &Broker, group: &Str) -> Result<OwnedRwLockWriteGuard<()>, Failure> {
    let alone = timeout(DELETE_WAIT_MAX, broker.share_deletions.of(group).write_owned()).await;
    alone.map_err(|_| ErrorCode::COORDINATOR_NOT_AVAILABLE.into())
}

impl From<ShareRefusal> for Failure {
    fn from(refusal: ShareRefusal) -> Self {
        Failure { error: ErrorCode::from(&refusal), message: Some(Str::from(refusal.to_string())) }
    }
}
