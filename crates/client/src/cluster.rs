//! The way to the right broker: bootstrap, the map, and a connection per broker and kind of traffic.
//!
//! Whoever asks gets an open connection or an error that says which address failed; trying again is the
//! operation's business ([`Cluster::retrying`]), because only it knows whether that is safe. A connection is
//! opened when it is needed and replaced when it broke; there is at most one per broker and [`Lane`].

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use wire::messages::find_coordinator::FindCoordinatorRequest;
use wire::messages::metadata::{MetadataRequest, MetadataRequestTopic, MetadataResponse};
use wire::{BrokerId, ErrorCode, Str, TopicPartition, Uuid};

use crate::api::Call;
use crate::backoff::Retry;
use crate::connection::Connection;
use crate::environment::{Address, Environment};
use crate::error::Error;
use crate::metadata::{Leader, Metadata, Topic};
use crate::options::Options;

/// A Kafka cluster as seen from a client. Clones share connections and what is known.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    environment: Arc<dyn Environment>,
    metadata: Mutex<Metadata>,
    coordinators: Mutex<HashMap<Str, BrokerId>>,
    slots: Mutex<HashMap<(Target, Lane), Slot>>,
}

/// The lock is held while connecting, so that a broker is dialled once however many want it.
type Slot = Arc<tokio::sync::Mutex<Option<Connection>>>;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Target {
    Bootstrap(Address),
    /// With its address, so that a broker that moved is dialled anew.
    Broker(BrokerId, Address),
}

/// Kinds of traffic that must not wait for each other: brokers answer a connection's requests in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// What is answered at once.
    Requests,
    /// Produce: answered when the replicas have it.
    Produces,
    /// Fetch: answered when there is something.
    Fetches,
    /// Joining a group: answered when all members have come.
    Joins,
}

/// How long a topic that nobody knows is asked for. A topic that was just created takes a moment to be known by
/// all brokers; one that is still unknown then is misspelt.
const UNKNOWN_TOPIC_GRACE: Duration = Duration::from_secs(1);

/// Which topics to ask for.
pub(crate) enum Topics<'a> {
    All,
    None,
    Named(&'a [Str]),
    /// By their ids, to learn their names; asking so never creates one.
    Ids(&'a [Uuid]),
}

impl Cluster {
    /// Knows the options and nothing else yet; the first operation connects.
    pub fn new(options: Options, environment: Arc<dyn Environment>) -> Result<Self, Error> {
        options.check()?;
        let inner = Inner {
            options,
            environment,
            metadata: Mutex::default(),
            coordinators: Mutex::default(),
            slots: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The options this was made with.
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    pub(crate) fn environment(&self) -> &dyn Environment {
        &*self.inner.environment
    }

    /// Connects to one of the brokers, trying each once. Tells a wrong address at once, where operations would
    /// first try for `default.api.timeout.ms`.
    pub async fn reach(&self) -> Result<(), Error> {
        self.refresh(Topics::None).await.map(drop)
    }

    /// When a request that is sent now has to be answered.
    pub(crate) fn request_deadline(&self) -> Instant {
        Instant::now() + self.inner.options.request_timeout
    }

    /// Tries until it succeeds, cannot, or `default.api.timeout.ms` is over.
    pub(crate) async fn retrying<T, F>(
        &self,
        doing: &str,
        mut operation: impl FnMut() -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut retry = self.retry(doing, self.inner.options.default_api_timeout);
        loop {
            let error = match tokio::time::timeout_at(retry.deadline(), operation()).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) => error,
                Err(_) => {
                    let after = self.inner.options.default_api_timeout;
                    return Err(Error::Timeout { doing: doing.to_owned(), after, last: None });
                }
            };
            retry.again(error).await?;
        }
    }

    pub(crate) fn retry(&self, doing: &str, timeout: Duration) -> Retry<'_> {
        Retry::new(self.environment(), &self.inner.options, timeout, doing)
    }

    // Knowing.

    fn lock_metadata(&self) -> MutexGuard<'_, Metadata> {
        self.inner.metadata.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks a broker for the map and takes it in. May create the topics named, if the options allow it.
    pub(crate) async fn refresh(&self, topics: Topics<'_>) -> Result<MetadataResponse, Error> {
        self.ask_metadata(topics, self.inner.options.allow_auto_create_topics).await
    }

    /// Asks a broker for the map and takes it in. Never creates a topic.
    pub(crate) async fn look_at(&self, topics: Topics<'_>) -> Result<MetadataResponse, Error> {
        self.ask_metadata(topics, false).await
    }

    async fn ask_metadata(
        &self,
        topics: Topics<'_>,
        allow_auto_topic_creation: bool,
    ) -> Result<MetadataResponse, Error> {
        let topics = match topics {
            Topics::All => None,
            Topics::None => Some(Vec::new()),
            Topics::Named(names) => {
                let topic =
                    |name: &Str| MetadataRequestTopic { name: Some(name.clone()), ..Default::default() };
                Some(names.iter().map(topic).collect())
            }
            Topics::Ids(ids) => {
                let topic = |&topic_id: &Uuid| MetadataRequestTopic { topic_id, name: None };
                Some(ids.iter().map(topic).collect())
            }
        };
        let request = MetadataRequest { topics, allow_auto_topic_creation, ..Default::default() };
        let response = self.call_any(request).await?;
        self.lock_metadata().update(response.clone(), Instant::now());
        Ok(response)
    }

    /// The topic, from memory or asked for; tries until it is there and has leaders, or the time is over.
    pub(crate) async fn topic(&self, name: &Str) -> Result<Topic, Error> {
        let doing = format!("looking up topic {name}");
        let begun = Instant::now();
        self.retrying(&doing, || async {
            let topic = self.topic_once(name, &doing).await;
            let is_unknown =
                matches!(&topic, Err(error) if error.code() == Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
            match is_unknown && begun.elapsed() > UNKNOWN_TOPIC_GRACE {
                true => Err(Error::UnknownTopic(name.to_string())),
                false => topic,
            }
        })
        .await
    }

    async fn topic_once(&self, name: &Str, doing: &str) -> Result<Topic, Error> {
        if let Some(topic) = self.known_topic(name) {
            return Ok(topic);
        }
        self.refresh(Topics::Named(std::slice::from_ref(name))).await?;
        let known = self.lock_metadata().topic(name, self.inner.options.metadata_max_age).cloned();
        let refused = |code| Err(Error::kafka(code, doing, None));
        match known {
            // Kafka calls it retriable, as a new topic takes a moment to be known by all. One that may not be
            // created by asking is more likely misspelt.
            None if !self.inner.options.allow_auto_create_topics => {
                Err(Error::UnknownTopic(name.to_string()))
            }
            None => refused(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
            Some(topic) if topic.error.is_ok() && !topic.partitions.is_empty() => Ok(topic),
            Some(topic) => {
                self.forget(name);
                refused(if topic.error.is_ok() { ErrorCode::LEADER_NOT_AVAILABLE } else { topic.error })
            }
        }
    }

    /// The topic from memory, if it is known well.
    pub(crate) fn known_topic(&self, name: &str) -> Option<Topic> {
        let metadata = self.lock_metadata();
        let topic = metadata.topic(name, self.inner.options.metadata_max_age)?;
        (topic.error.is_ok() && !topic.partitions.is_empty()).then(|| topic.clone())
    }

    /// The leader from memory.
    pub(crate) fn leader(&self, partition: &TopicPartition) -> Option<Leader> {
        self.lock_metadata().leader(partition)
    }

    /// The topic's id and the partition's leader from memory.
    pub(crate) fn place(&self, partition: &TopicPartition) -> Option<(Uuid, Leader)> {
        self.lock_metadata().place(partition)
    }

    /// The name of the topic of this id, from memory.
    pub(crate) fn topic_name(&self, id: Uuid) -> Option<Str> {
        self.lock_metadata().topic_name(id)
    }

    /// Whether the map has this broker.
    pub(crate) fn has_broker(&self, broker: BrokerId) -> bool {
        self.lock_metadata().brokers.contains_key(&broker)
    }

    /// What is known of the topic turned out to be wrong: the next who asks hears it from a broker.
    pub(crate) fn forget(&self, topic: &str) {
        self.lock_metadata().forget(topic);
    }

    /// The broker that coordinates a group, from memory or asked for once.
    pub(crate) async fn coordinator(&self, group: &Str) -> Result<BrokerId, Error> {
        let known = self.lock_coordinators().get(group).copied();
        if let Some(known) = known {
            return Ok(known);
        }
        let doing = format!("finding the coordinator of group {group}");
        // Versions from 4 on take several keys and answer with several; both forms are filled in.
        let request =
            FindCoordinatorRequest { key: group.clone(), key_type: 0, coordinator_keys: vec![group.clone()] };
        let response = self.call_any(request).await?;
        let (code, message, id, host, port) = match response.coordinators.first() {
            Some(found) => (found.error_code, &found.error_message, found.node_id, &found.host, found.port),
            None => (
                response.error_code,
                &response.error_message,
                response.node_id,
                &response.host,
                response.port,
            ),
        };
        if !code.is_ok() {
            return Err(Error::kafka(code, doing, message.as_deref()));
        }
        let id = BrokerId(id);
        self.lock_metadata().learn_broker(id, host, port);
        self.lock_coordinators().insert(group.clone(), id);
        Ok(id)
    }

    fn lock_coordinators(&self) -> MutexGuard<'_, HashMap<Str, BrokerId>> {
        self.inner.coordinators.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The broker no longer coordinates the group.
    pub(crate) fn forget_coordinator(&self, group: &str) {
        self.lock_coordinators().remove(group);
    }

    // Asking.

    /// Asks whichever broker answers: one that is connected, else one of the map, else a bootstrap address.
    pub(crate) async fn call_any<C: Call + Clone>(&self, request: C) -> Result<C::Response, Error> {
        self.call_any_within(request, self.inner.options.request_timeout).await
    }

    /// Like [`Cluster::call_any`], for questions that are not worth waiting `request.timeout.ms` for. `wait` is how
    /// long each broker that takes the question may take.
    pub(crate) async fn call_any_within<C: Call + Clone>(
        &self,
        request: C,
        wait: Duration,
    ) -> Result<C::Response, Error> {
        let mut last = None;
        for target in self.targets() {
            let outcome = async {
                let connection = self.open(target, Lane::Requests).await?;
                connection.call(request.clone(), Instant::now() + wait).await
            };
            match outcome.await {
                Err(error @ (Error::Connect { .. } | Error::Disconnected { .. })) => last = Some(error),
                outcome => return outcome,
            }
        }
        Err(last.expect("the options hold at least one bootstrap address"))
    }

    /// Asks the controller, or any broker while none is known: each passes such requests on.
    pub(crate) async fn call_controller<C: Call + Clone>(&self, request: C) -> Result<C::Response, Error> {
        let controller = self.lock_metadata().controller;
        match controller {
            Some(controller) => self.call(controller, Lane::Requests, request).await,
            None => self.call_any(request).await,
        }
    }

    /// Asks one broker.
    pub(crate) async fn call<C: Call>(
        &self,
        broker: BrokerId,
        lane: Lane,
        request: C,
    ) -> Result<C::Response, Error> {
        self.call_target(self.target(broker)?, lane, request).await
    }

    /// Asks the coordinator of a group; forgets it when it says that it is none.
    pub(crate) async fn call_coordinator<C: Call>(
        &self,
        group: &Str,
        lane: Lane,
        request: C,
    ) -> Result<C::Response, Error> {
        let broker = self.coordinator(group).await?;
        let outcome = self.call(broker, lane, request).await;
        if matches!(outcome, Err(Error::Connect { .. } | Error::Disconnected { .. } | Error::Timeout { .. }))
        {
            self.forget_coordinator(group);
        }
        outcome
    }

    /// An open connection to a broker.
    pub(crate) async fn connection(&self, broker: BrokerId, lane: Lane) -> Result<Connection, Error> {
        self.open(self.target(broker)?, lane).await
    }

    fn target(&self, broker: BrokerId) -> Result<Target, Error> {
        let address = self.lock_metadata().brokers.get(&broker).cloned();
        let address = address.ok_or_else(|| {
            Error::kafka(ErrorCode::BROKER_NOT_AVAILABLE, format!("looking up broker {broker}"), None)
        })?;
        Ok(Target::Broker(broker, address))
    }

    /// Everyone worth asking, the ones that are connected first, the others in random order.
    fn targets(&self) -> Vec<Target> {
        let mut targets: Vec<Target> = {
            let metadata = self.lock_metadata();
            metadata.brokers.iter().map(|(&id, address)| Target::Broker(id, address.clone())).collect()
        };
        let random = self.environment().random() as usize;
        if !targets.is_empty() {
            let first = random % targets.len();
            targets.rotate_left(first);
        }
        let bootstrap = &self.inner.options.bootstrap_servers;
        let first = random % bootstrap.len();
        let in_turn = bootstrap[first..].iter().chain(&bootstrap[..first]);
        targets.extend(in_turn.cloned().map(Target::Bootstrap));
        let slots = self.lock_slots();
        let is_open = |target: &Target| {
            slots
                .get(&(target.clone(), Lane::Requests))
                .and_then(|slot| slot.try_lock().ok())
                .is_some_and(|slot| slot.as_ref().is_some_and(|connection| !connection.is_closed()))
        };
        targets.sort_by_key(|target| !is_open(target));
        targets
    }

    fn lock_slots(&self) -> MutexGuard<'_, HashMap<(Target, Lane), Slot>> {
        self.inner.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn open(&self, target: Target, lane: Lane) -> Result<Connection, Error> {
        let slot = {
            let mut slots = self.lock_slots();
            Arc::clone(slots.entry((target.clone(), lane)).or_default())
        };
        let mut slot = slot.lock().await;
        if let Some(connection) = slot.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        let (Target::Bootstrap(address) | Target::Broker(_, address)) = &target;
        let connection = Connection::open(self.environment(), address, &self.inner.options).await?;
        *slot = Some(connection.clone());
        Ok(connection)
    }

    async fn call_target<C: Call>(
        &self,
        target: Target,
        lane: Lane,
        request: C,
    ) -> Result<C::Response, Error> {
        let connection = self.open(target, lane).await?;
        let waits = match lane {
            // A group waits for its members up to the rebalance timeout, longer than a request may take.
            Lane::Joins => self.inner.options.poll_interval_max,
            _ => Duration::ZERO,
        };
        connection.call(request, self.request_deadline() + waits).await
    }
}
