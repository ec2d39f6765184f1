//! Changes of topics and of settings: decided by the active controller, and carried out by every broker that they concern
//! (see `replicas.rs`).
//!
//! Invariant: changes run one at a time and to their end, also when the client that asked is gone. They are answered once they
//! are committed and this broker has carried out its part; a topic whose logs it cannot open is taken back. Requests about
//! existing topics never wait here.

use std::sync::Arc;
use std::time::Duration;

use state::metadata::{
    AlterConfigs, AlterQuotas, CreatePartitions, CreateTopic, CreatedTopic, DeleteTopic, DeletedTopic, Image,
    Mode, Refusal, ReplaceConfigs, TopicDefaults,
};
use tokio::sync::Mutex;
use tokio::time::timeout_at;
use wire::messages::auto_create_topics::{AutoCreateTopicsRequest, AutoCreateTopicsResponse, TopicAnswer};
use wire::{ErrorCode, Str, Uuid};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::descriptors::NoDescriptors;
use crate::groups::OFFSETS_TOPIC;
use crate::node::fresh_id;
use crate::quorum::NotCommitted;
use crate::quotas::Mutations;
use crate::settings::Settings;
use crate::share_coordinator::SHARE_STATE_TOPIC;
use crate::transactions::TRANSACTIONS_TOPIC;

/// Why a change did not happen.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum TopicError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    NotCommitted(#[from] NotCommitted),
    #[error("the topic's logs cannot be opened: {0}")]
    Open(String),
    #[error(transparent)]
    NoDescriptors(#[from] NoDescriptors),
    #[error("{0} belongs to the broker: it is made and kept by the broker alone")]
    Internal(Str),
    #[error("topic deletion is disabled (delete.topic.enable=false)")]
    DeletionDisabled,
    #[error("The throttling quota has been exceeded.")]
    Throttled,
    #[error("the change takes longer than the {} ms that the request allows; it goes on", .0.as_millis())]
    TimedOut(Duration),
    /// The controller, which is another broker, says so.
    #[error("{message}")]
    Elsewhere { error_code: ErrorCode, message: Str },
}

impl TopicError {
    /// What a client is told.
    pub(crate) fn error_code(&self) -> ErrorCode {
        match self {
            TopicError::Refused(refusal) => ErrorCode::from(refusal),
            TopicError::NotCommitted(error) => ErrorCode::from(*error),
            TopicError::Open(_) => ErrorCode::KAFKA_STORAGE_ERROR,
            TopicError::NoDescriptors(_) => ErrorCode::POLICY_VIOLATION,
            TopicError::Internal(_) => ErrorCode::INVALID_REQUEST,
            TopicError::DeletionDisabled => ErrorCode::TOPIC_DELETION_DISABLED,
            TopicError::Throttled => ErrorCode::THROTTLING_QUOTA_EXCEEDED,
            TopicError::TimedOut(_) => ErrorCode::REQUEST_TIMED_OUT,
            TopicError::Elsewhere { error_code, .. } => *error_code,
        }
    }

    /// What a client is told in words.
    pub(crate) fn message(&self) -> Option<Str> {
        Some(Str::from(self.to_string()))
    }
}

/// One answer per item, in the order of the request; the outer error stands for all of them.
type PerItem<K, T> = Result<Vec<(K, Result<T, TopicError>)>, TopicError>;

/// Runs changes one at a time.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    changing: Mutex<()>,
}

impl Topics {
    /// Creates topics that a client asks for. A validated topic is answered as if it had been created.
    pub(crate) async fn create(
        &self,
        broker: &Arc<Broker>,
        topics: Vec<CreateTopic>,
        mode: Mode,
        mutations: &Arc<Mutations>,
    ) -> PerItem<Str, CreatedTopic> {
        let mutations = Arc::clone(mutations);
        let (internal, topics): (Vec<_>, Vec<_>) =
            topics.into_iter().partition(|topic| broker.is_internal_topic(&topic.name));
        let mut answers = to_the_end(broker, move |broker| create(broker, topics, mode, mutations)).await?;
        answers.extend(internal.into_iter().map(|topic| {
            let refused = TopicError::Internal(topic.name.clone());
            (topic.name, Err(refused))
        }));
        Ok(answers)
    }

    /// Has topics created because a client named them, with the controller's defaults, and waits until they are known here.
    /// Returns what was refused; a topic that came to exist meanwhile is fine.
    pub(crate) async fn create_auto(&self, broker: &Arc<Broker>, names: Vec<Str>) -> Vec<(Str, TopicError)> {
        let elsewhere = |error_code, message| TopicError::Elsewhere { error_code, message };
        let response = match broker.ask_controller(AutoCreateTopicsRequest { names: names.clone() }).await {
            Ok(response) => response,
            Err(error) => {
                let error = elsewhere(ErrorCode::LEADER_NOT_AVAILABLE, Str::from(error.to_string()));
                return names.into_iter().map(|name| (name, error.clone())).collect();
            }
        };
        if !response.error_code.is_ok() {
            let message = Str::from("the controller is changing");
            let error = elsewhere(response.error_code, message);
            return names.into_iter().map(|name| (name, error.clone())).collect();
        }
        broker.replicas.wait_reconciled(u64::try_from(response.metadata_index).unwrap_or(0)).await;
        let refused = response.topics.into_iter().filter(|topic| !topic.error_code.is_ok());
        let refused = refused.map(|topic| {
            let message = topic.error_message.unwrap_or_default();
            (topic.name, elsewhere(topic.error_code, message))
        });
        refused.collect()
    }

    /// Makes one of the broker's own topics if it is not there.
    pub(crate) async fn ensure_internal(
        &self,
        broker: &Arc<Broker>,
        name: &'static str,
    ) -> Result<(), TopicError> {
        assert!(broker.is_internal_topic(name), "brokers write their own topics by themselves");
        let refused = self.create_auto(broker, vec![Str::from(name)]).await;
        refused.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Deletes topics, their logs, and the offsets that groups committed for them.
    pub(crate) async fn delete(
        &self,
        broker: &Arc<Broker>,
        topics: Vec<DeleteTopic>,
        mutations: &Arc<Mutations>,
    ) -> PerItem<DeleteTopic, DeletedTopic> {
        let mutations = Arc::clone(mutations);
        if !broker.settings().broker().topics.delete_enabled {
            return Err(TopicError::DeletionDisabled);
        }
        let image = broker.metadata.image();
        let is_internal = |topic: &DeleteTopic| match topic {
            DeleteTopic::Name(name) => broker.is_internal_topic(name),
            DeleteTopic::Id(id) => {
                image.topic_by_id(*id).is_some_and(|topic| broker.is_internal_topic(&topic.name))
            }
        };
        let (internal, topics): (Vec<_>, Vec<_>) = topics.into_iter().partition(is_internal);
        let mut answers = to_the_end(broker, move |broker| delete(broker, topics, mutations)).await?;
        let refused = TopicError::Internal(Str::from(OFFSETS_TOPIC));
        answers.extend(internal.into_iter().map(|topic| (topic, Err(refused.clone()))));
        Ok(answers)
    }

    /// Gives topics more partitions.
    pub(crate) async fn add_partitions(
        &self,
        broker: &Arc<Broker>,
        topics: Vec<CreatePartitions>,
        mode: Mode,
        mutations: &Arc<Mutations>,
    ) -> PerItem<Str, ()> {
        let mutations = Arc::clone(mutations);
        // Groups live in a partition by their name's hash: with another count nobody would find them.
        let (internal, topics): (Vec<_>, Vec<_>) =
            topics.into_iter().partition(|topic| broker.is_internal_topic(&topic.name));
        let mut answers =
            to_the_end(broker, move |broker| add_partitions(broker, topics, mode, mutations)).await?;
        answers.extend(internal.into_iter().map(|topic| {
            let refused = TopicError::Internal(topic.name.clone());
            (topic.name, Err(refused))
        }));
        Ok(answers)
    }

    /// Changes single settings of topics and brokers. One answer per resource, in the order of the request.
    pub(crate) async fn alter_configs(
        &self,
        broker: &Arc<Broker>,
        changes: Vec<AlterConfigs>,
        mode: Mode,
    ) -> Result<Vec<Result<(), Refusal>>, TopicError> {
        to_the_end(broker, move |broker| async move {
            let settings = Arc::clone(&broker.settings());
            let decide = |image: &Image| image.alter_configs(&changes, mode, &*settings);
            let answers = broker.metadata.commit(broker.clock.now(), decide).await?;
            broker.carried_out().await;
            crate::controller::elect_where_nobody_leads(&broker).await;
            Ok(answers)
        })
        .await
    }

    /// Replaces all settings of topics and brokers, likewise.
    pub(crate) async fn replace_configs(
        &self,
        broker: &Arc<Broker>,
        changes: Vec<ReplaceConfigs>,
        mode: Mode,
    ) -> Result<Vec<Result<(), Refusal>>, TopicError> {
        to_the_end(broker, move |broker| async move {
            let settings = Arc::clone(&broker.settings());
            let decide = |image: &Image| image.replace_configs(&changes, mode, &*settings);
            let answers = broker.metadata.commit(broker.clock.now(), decide).await?;
            broker.carried_out().await;
            crate::controller::elect_where_nobody_leads(&broker).await;
            Ok(answers)
        })
        .await
    }
}

impl Topics {
    /// Sets and removes quotas. One answer per entity, in the order of the request.
    pub(crate) async fn alter_quotas(
        &self,
        broker: &Arc<Broker>,
        changes: Vec<AlterQuotas>,
        mode: Mode,
    ) -> Result<Vec<Result<(), Refusal>>, TopicError> {
        to_the_end(broker, move |broker| async move {
            let decide = |image: &Image| image.alter_quotas(&changes, mode);
            let answers = broker.metadata.commit(broker.clock.now(), decide).await?;
            broker.carried_out().await;
            Ok(answers)
        })
        .await
    }
}

impl Broker {
    /// Waits until this broker has carried out what is committed so far.
    async fn carried_out(&self) {
        self.replicas.wait_reconciled(self.metadata.quorum().applied()).await;
    }
}

/// On the controller: creates topics for a broker whose client named them.
pub(crate) async fn auto_create(
    broker: Arc<Broker>,
    request: AutoCreateTopicsRequest,
) -> AutoCreateTopicsResponse {
    let image = broker.metadata.image();
    let missing = request.names.into_iter().filter(|name| image.topic(name).is_none());
    let topics: Vec<CreateTopic> = missing
        .map(|name| match broker.is_internal_topic(&name) {
            true => internal_topic(&broker, &image, &name),
            false => CreateTopic {
                name: Str::copy_from(&name),
                num_partitions: -1,
                replication_factor: -1,
                ..CreateTopic::default()
            },
        })
        .collect();
    let created =
        to_the_end(&broker, move |broker| create(broker, topics, Mode::Apply, Arc::default())).await;
    let answers = match created {
        Ok(answers) => answers,
        Err(error) => {
            return AutoCreateTopicsResponse { error_code: error.error_code(), ..Default::default() };
        }
    };
    let topics = answers.into_iter().map(|(name, answer)| match answer {
        // Another client was first.
        Ok(_) | Err(TopicError::Refused(Refusal::TopicExists(_))) => {
            TopicAnswer { name, ..TopicAnswer::default() }
        }
        Err(error) => TopicAnswer { name, error_code: error.error_code(), error_message: error.message() },
    });
    AutoCreateTopicsResponse {
        topics: topics.collect(),
        metadata_index: i64::try_from(broker.metadata.quorum().applied()).unwrap_or(i64::MAX),
        ..AutoCreateTopicsResponse::default()
    }
}

/// Waits for a change as long as its client does: `timeout_ms` from when the request came, or `request.timeout.ms` where
/// the client names no time.
pub(crate) async fn within<Answer>(
    broker: &Broker,
    context: &RequestContext,
    timeout_ms: i32,
    change: impl Future<Output = Result<Answer, TopicError>>,
) -> Result<Answer, TopicError> {
    let wait = match u64::try_from(timeout_ms) {
        Ok(0) | Err(_) => broker.settings().broker().network.request_timeout,
        Ok(ms) => Duration::from_millis(ms),
    };
    timeout_at(context.received + wait, change).await.unwrap_or(Err(TopicError::TimedOut(wait)))
}

/// Runs a change on a task of its own: a client that hangs up half-way drops its request, not the change.
async fn to_the_end<Answer, Change>(
    broker: &Arc<Broker>,
    change: impl FnOnce(Arc<Broker>) -> Change + Send + 'static,
) -> Answer
where
    Answer: Send + 'static,
    Change: Future<Output = Answer> + Send,
{
    let broker = Arc::clone(broker);
    let task = tokio::spawn(async move {
        let _one_at_a_time = broker.topics.changing.lock().await;
        change(Arc::clone(&broker)).await
    });
    task.await.expect("a change of topics does not panic")
}

async fn create(
    broker: Arc<Broker>,
    mut topics: Vec<CreateTopic>,
    mode: Mode,
    mutations: Arc<Mutations>,
) -> PerItem<Str, CreatedTopic> {
    let settings = Arc::clone(&broker.settings());
    let defaults = TopicDefaults {
        num_partitions: settings.broker().topics.partitions,
        replication_factor: settings.broker().topics.replication_factor,
    };
    let placement_start = broker.environment.random() as u32 as usize;
    let decide = |topics: &[CreateTopic], image: &Image| {
        image.create_topics(topics, mode, defaults, &*settings, placement_start, &mut || {
            fresh_id(&*broker.environment)
        })
    };
    let mut throttled = Vec::new();
    if mode == Mode::Apply {
        let planned = decide(&topics, &broker.metadata.image()).reply;
        let made = planned.iter().filter_map(|(name, created)| {
            let CreatedTopic { num_partitions, replication_factor, .. } = created.as_ref().ok()?;
            Some((name, usize::try_from(*num_partitions).ok()?, usize::try_from(*replication_factor).ok()?))
        });
        let replicas = made.clone().map(|(_, partitions, factor)| partitions.saturating_mul(factor));
        broker.descriptors.check(share_of(&broker, replicas.fold(0, usize::saturating_add)))?;
        throttled = refused_by(&broker, &mutations, made.map(|(name, partitions, _)| (name, partitions)));
        topics.retain(|topic| !throttled.contains(&topic.name));
    }
    let decided = broker.metadata.commit(broker.clock.now(), |image| decide(&topics, image)).await?;
    broker.carried_out().await;
    let mut answers = Vec::with_capacity(decided.len());
    for (name, created) in decided {
        let answer = match created {
            Ok(created) => match broker.replicas.take_failure(created.id) {
                None => Ok(created),
                Some(why) => {
                    take_back(&broker, &name, created.id, &why).await;
                    Err(TopicError::Open(why))
                }
            },
            Err(refusal) => Err(TopicError::from(refusal)),
        };
        answers.push((name, answer));
    }
    answers.extend(throttled.into_iter().map(|name| (name, Err(TopicError::Throttled))));
    Ok(answers)
}

/// Takes what each of these changes as many partitions as is said from the client's quota; returns those for which it does not
/// last.
fn refused_by<'a>(
    broker: &Broker,
    mutations: &Mutations,
    changed: impl Iterator<Item = (&'a Str, usize)>,
) -> Vec<Str> {
    let over = changed.filter(|(_, partitions)| mutations.take(broker, *partitions).is_err());
    over.map(|(name, _)| name.clone()).collect()
}

/// How many of so many new replicas one broker has to expect.
fn share_of(broker: &Broker, replicas: usize) -> usize {
    let brokers = broker.metadata.image().brokers().filter(|other| other.is_active()).count();
    replicas.div_ceil(brokers.max(1))
}

/// A topic that exists and cannot be written to helps nobody: its creator is told why, and may try again.
async fn take_back(broker: &Arc<Broker>, name: &Str, id: Uuid, why: &str) {
    tracing::error!(topic = %name, %why, "a new topic's logs cannot be opened; the topic is taken back");
    let commands = [DeleteTopic::Id(id)];
    let taken_back = broker.metadata.commit(broker.clock.now(), |image| image.delete_topics(&commands)).await;
    if let Err(error) = taken_back {
        tracing::error!(topic = %name, %error, "a topic without logs could not be taken back");
    }
    broker.carried_out().await;
}

async fn delete(
    broker: Arc<Broker>,
    topics: Vec<DeleteTopic>,
    mutations: Arc<Mutations>,
) -> PerItem<DeleteTopic, DeletedTopic> {
    let image = broker.metadata.image();
    let is_over = |topic: &DeleteTopic| {
        let known = match topic {
            DeleteTopic::Name(name) => image.topic(name),
            DeleteTopic::Id(id) => image.topic_by_id(*id),
        };
        known.is_some_and(|known| mutations.take(&broker, known.partition_count()).is_err())
    };
    let (throttled, topics): (Vec<_>, Vec<_>) = topics.into_iter().partition(is_over);
    let decide = |image: &Image| image.delete_topics(&topics);
    let decided = broker.metadata.commit(broker.clock.now(), decide).await?;
    broker.carried_out().await;
    let decided = decided.into_iter().map(|(topic, answer)| (topic, answer.map_err(TopicError::from)));
    let throttled = throttled.into_iter().map(|topic| (topic, Err(TopicError::Throttled)));
    Ok(decided.chain(throttled).collect())
}

async fn add_partitions(
    broker: Arc<Broker>,
    mut topics: Vec<CreatePartitions>,
    mode: Mode,
    mutations: Arc<Mutations>,
) -> PerItem<Str, ()> {
    let before = broker.metadata.image();
    let more = |topic: &CreatePartitions| {
        let count = before.topic(&topic.name).map_or(0, |known| known.partition_count());
        usize::try_from(topic.count).unwrap_or(0).saturating_sub(count)
    };
    let added = topics.iter().map(|topic| {
        let factor = before.topic(&topic.name).map_or(1, |known| known.replication_factor());
        more(topic).saturating_mul(factor)
    });
    broker.descriptors.check(share_of(&broker, added.fold(0, usize::saturating_add)))?;
    let placement_start = broker.environment.random() as u32 as usize;
    let decide =
        |topics: &[CreatePartitions], image: &Image| image.create_partitions(topics, mode, placement_start);
    let mut throttled = Vec::new();
    if mode == Mode::Apply {
        let planned = decide(&topics, &before).reply;
        let is_fine = |topic: &&CreatePartitions| {
            planned.iter().any(|(name, added)| *name == topic.name && added.is_ok())
        };
        let grown = topics.iter().filter(is_fine).map(|topic| (&topic.name, more(topic)));
        throttled = refused_by(&broker, &mutations, grown);
        topics.retain(|topic| !throttled.contains(&topic.name));
    }
    let decided = broker.metadata.commit(broker.clock.now(), |image| decide(&topics, image)).await?;
    broker.carried_out().await;
    let answers = decided.into_iter().map(|(name, added)| {
        let id = before.topic(&name).map(|topic| topic.id);
        let failure = id.and_then(|id| broker.replicas.take_failure(id));
        let answer = match (added, failure) {
            (Ok(()), None) => Ok(()),
            (Ok(()), Some(why)) => Err(TopicError::Open(why)),
            (Err(refusal), _) => Err(TopicError::from(refusal)),
        };
        (name, answer)
    });
    let throttled = throttled.into_iter().map(|name| (name, Err(TopicError::Throttled)));
    Ok(answers.chain(throttled).collect())
}

/// One of the broker's own topics as it is made: replicated as the settings say, as far as there are, or are to be, brokers for
/// it.
fn internal_topic(broker: &Broker, image: &Image, name: &str) -> CreateTopic {
    let settings: &Settings = &broker.settings();
    let (groups, replication) = (&settings.broker().groups, &settings.broker().replication);
    let (name, num_partitions, factor, configs) = match name {
        TRANSACTIONS_TOPIC => (
            TRANSACTIONS_TOPIC,
            replication.transaction_topic_partitions,
            replication.transaction_topic_replication_factor,
            settings.transactions_topic_configs(),
        ),
        SHARE_STATE_TOPIC => {
            let share = &settings.broker().share;
            let configs = settings.share_state_topic_configs();
            (SHARE_STATE_TOPIC, share.topic_partitions, share.topic_replication_factor, configs)
        }
        _ => (
            OFFSETS_TOPIC,
            groups.offsets_topic_partitions,
            groups.offsets_topic_replication_factor,
            settings.offsets_topic_configs(),
        ),
    };
    let registered = image.brokers().count();
    let expected = settings.quorum_voters().len().max(registered).max(1);
    let factor = usize::try_from(factor).unwrap_or(1).min(expected);
    CreateTopic {
        name: Str::from(name),
        num_partitions,
        replication_factor: i16::try_from(factor).expect("the setting is an i16"),
        configs: configs.into_iter().map(|(key, value)| (key, Some(value))).collect(),
        ..CreateTopic::default()
    }
}
