//! The way to the right broker: bootstrap, the map, and a connection per broker and kind of traffic.
//!
//! Whoever asks gets an open connection or an error that says which address failed; trying again is the
//! operation's business ([`Cluster::retrying`]), because only it knows whether that is safe. A connection is
//! opened when it is needed and replaced when it broke, not before `reconnect.backoff.ms` has passed; there is at
//! most one per broker and [`Lane`]. What is known of topics in use is asked for anew before it is too old.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use wire::messages::find_coordinator::FindCoordinatorRequest;
use wire::messages::metadata::{MetadataRequest, MetadataRequestTopic, MetadataResponse};
use wire::{BrokerId, ErrorCode, Str, TopicPartition, Uuid};

use crate::api::Call;
use crate::backoff::Retry;
use crate::connection::Connection;
use crate::dial::Dials;
use crate::environment::{Address, Environment};
use crate::error::Error;
use crate::metadata::{Leader, Metadata, Topic};
use crate::options::{MetadataRecovery, Options};

/// A Kafka cluster as seen from a client. Clones share connections and what is known.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    environment: Arc<dyn Environment>,
    metadata: Mutex<Metadata>,
    /// Counts the changes to it, so that who keeps a part of it sees when to look again.
    metadata_version: AtomicU64,
    is_kept_fresh: AtomicBool,
    coordinators: Mutex<HashMap<(Coordinates, Str), BrokerId>>,
    slots: Mutex<HashMap<(Target, Lane), Slot>>,
    dials: Mutex<Dials>,
}

/// What a coordinator coordinates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Coordinates {
    Group = 0,
    Transactions = 1,
}

/// The lock is held while connecting, so that a broker is dialled once however many want it.
type Slot = Arc<tokio::sync::Mutex<Option<Connection>>>;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Target {
    Bootstrap(Address),
    /// With its address, so that a broker that moved is dialled anew.
    Broker(BrokerId, Address),
}

impl Target {
    fn address(&self) -> &Address {
        let (Target::Bootstrap(address) | Target::Broker(_, address)) = self;
        address
    }
}

/// Kinds of traffic that must not wait for each other: brokers answer a connection's requests in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// What is answered at once.
    Requests,
    /// Fetch: answered when there is something.
    Fetches,
    /// Joining a group: answered when all members have come.
    Joins,
}

/// How long a topic that nobody knows is asked for. A topic that was just created takes a moment to be known by
/// all brokers; one that is still unknown then is misspelt.
pub(crate) const UNKNOWN_TOPIC_GRACE: Duration = Duration::from_secs(1);

/// Into how many looks `metadata.max.age.ms` is divided, and after how many of them what is in use is asked for.
const AGE_LOOKS: u32 = 10;
const AGE_LOOKS_MAX: u32 = 8;

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
    ///
    /// # Errors
    /// [`Error::Option`] when options contradict each other.
    pub fn new(options: Options, environment: Arc<dyn Environment>) -> Result<Self, Error> {
        options.check()?;
        let inner = Inner {
            options,
            environment,
            metadata: Mutex::default(),
            metadata_version: AtomicU64::new(0),
            is_kept_fresh: AtomicBool::new(false),
            coordinators: Mutex::default(),
            slots: Mutex::default(),
            dials: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The same cluster by other options, with connections of its own.
    pub fn with_options(&self, options: Options) -> Result<Self, Error> {
        Self::new(options, Arc::clone(&self.inner.environment))
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
    ///
    /// # Errors
    /// [`Error::Connect`] or [`Error::Unreachable`], which say what was tried and why it failed, within
    /// `default.api.timeout.ms`.
    pub async fn reach(&self) -> Result<(), Error> {
        self.refresh(Topics::None).await.map(drop)
    }

    /// The cluster's id, which its brokers keep as long as it lives.
    ///
    /// # Errors
    /// [`Error::Timeout`] with the last error when no broker answers for `default.api.timeout.ms`, and
    /// [`Error::Protocol`] when one answers and names none.
    pub async fn id(&self) -> Result<Str, Error> {
        let known = self.lock_metadata().cluster_id.clone();
        if let Some(id) = known {
            return Ok(id);
        }
        const DOING: &str = "asking for the cluster's id";
        let answer = self.retrying(DOING, || self.refresh(Topics::None)).await?;
        let unnamed =
            || Error::Protocol { doing: DOING.to_owned(), problem: "it names no cluster".to_owned() };
        answer.cluster_id.ok_or_else(unnamed)
    }

    /// The id of a topic: one that was deleted and made anew has another.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`], or what the last try within `default.api.timeout.ms` ended with.
    pub async fn topic_id(&self, name: &Str) -> Result<Uuid, Error> {
        self.topic(name).await.map(|topic| topic.id)
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
        let mut last = None;
        loop {
            let error = match tokio::time::timeout_at(retry.deadline(), operation()).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) => error,
                Err(_) => {
                    let after = self.inner.options.default_api_timeout;
                    return Err(Error::Timeout { doing: doing.to_owned(), after, last });
                }
            };
            last = Some(Box::new(error.clone()));
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
        let mut answer = self.call_any(request.clone()).await;
        if matches!(&answer, Ok(answer) if answer.error_code == ErrorCode::REBOOTSTRAP_REQUIRED)
            && self.inner.options.metadata_recovery == MetadataRecovery::Rebootstrap
        {
            self.rebootstrap("a broker asked for it");
            answer = self.call_any(request).await;
        }
        match answer {
            Ok(response) if !response.error_code.is_ok() => {
                self.missed();
                Err(Error::kafka(response.error_code, "asking for the cluster's map", None))
            }
            Ok(response) => {
                self.lock_metadata().update(response.clone(), Instant::now());
                self.inner.metadata_version.fetch_add(1, Ordering::Release);
                self.keep_fresh();
                Ok(response)
            }
            Err(error) => {
                self.missed();
                Err(error)
            }
        }
    }

    /// No broker gave the map: after a while the known ones are given up (KIP-1102).
    fn missed(&self) {
        let options = &self.inner.options;
        let now = Instant::now();
        let since = self.lock_metadata().missed(now);
        if options.metadata_recovery == MetadataRecovery::Rebootstrap
            && now.duration_since(since) >= options.rebootstrap_trigger
        {
            self.rebootstrap("no known broker gave the cluster's map");
        }
    }

    /// Forgets the brokers, so that the next who asks begins with `bootstrap.servers`.
    fn rebootstrap(&self, why: &str) {
        tracing::info!(why, "asking the bootstrap servers for the brokers again");
        self.lock_metadata().forget_brokers();
        self.lock_coordinators().clear();
        self.lock_slots().clear();
    }

    /// From now on and as long as anybody holds this cluster, asks for what is in use before it is too old.
    fn keep_fresh(&self) {
        let age_max = self.inner.options.metadata_max_age;
        if age_max.is_zero() || self.inner.is_kept_fresh.swap(true, Ordering::Relaxed) {
            return;
        }
        let inner = Arc::downgrade(&self.inner);
        tokio::spawn(keep_fresh(inner, age_max));
    }

    /// Changes whenever the map does.
    pub(crate) fn metadata_version(&self) -> u64 {
        self.inner.metadata_version.load(Ordering::Acquire)
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

    /// A broker that does not lead the partition said who does, and where the brokers it names are (KIP-951). Tells
    /// whether that was news.
    pub(crate) fn learn_leader<'a>(
        &self,
        partition: &TopicPartition,
        leader: Leader,
        endpoints: impl IntoIterator<Item = (BrokerId, &'a str, i32)>,
    ) -> bool {
        if leader.broker.0 < 0 {
            return false;
        }
        let mut metadata = self.lock_metadata();
        let is_news = metadata.learn_leader(partition, leader);
        if is_news {
            endpoints.into_iter().for_each(|(id, host, port)| metadata.learn_broker(id, host, port));
            drop(metadata);
            self.inner.metadata_version.fetch_add(1, Ordering::Release);
        }
        is_news
    }

    /// What is known of the topic turned out to be wrong: the next who asks hears it from a broker.
    pub(crate) fn forget(&self, topic: &str) {
        self.lock_metadata().forget(topic);
    }

    /// The broker that coordinates a group, from memory or asked for once.
    pub(crate) async fn coordinator(&self, group: &Str) -> Result<BrokerId, Error> {
        self.find_coordinator(Coordinates::Group, group).await
    }

    async fn find_coordinator(&self, coordinates: Coordinates, key: &Str) -> Result<BrokerId, Error> {
        let known = self.lock_coordinators().get(&(coordinates, key.clone())).copied();
        if let Some(known) = known {
            return Ok(known);
        }
        let doing = match coordinates {
            Coordinates::Group => format!("finding the coordinator of group {key}"),
            Coordinates::Transactions => format!("finding the coordinator of transactional id {key}"),
        };
        // Versions from 4 on take several keys and answer with several; both forms are filled in.
        let request = FindCoordinatorRequest {
            key: key.clone(),
            key_type: coordinates as i8,
            coordinator_keys: vec![key.clone()],
        };
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
        self.lock_coordinators().insert((coordinates, key.clone()), id);
        Ok(id)
    }

    fn lock_coordinators(&self) -> MutexGuard<'_, HashMap<(Coordinates, Str), BrokerId>> {
        self.inner.coordinators.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The broker no longer coordinates the group.
    pub(crate) fn forget_coordinator(&self, group: &str) {
        self.forget_coordinator_of(Coordinates::Group, group);
    }

    /// The broker no longer coordinates the transactions of this id.
    pub(crate) fn forget_transaction_coordinator(&self, id: &str) {
        self.forget_coordinator_of(Coordinates::Transactions, id);
    }

    fn forget_coordinator_of(&self, coordinates: Coordinates, key: &str) {
        self.lock_coordinators().remove(&(coordinates, Str::copy_from(key)));
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
        let options = &self.inner.options;
        let mut tried = Vec::new();
        let mut targets = self.targets();
        // Each has its turn before an operation gives up.
        let dialling_max = options.default_api_timeout / (targets.len() as u32 + 1);
        while !targets.is_empty() {
            let now = Instant::now();
            let rests = |target: &Target| self.lock_dials().not_before(target.address(), now);
            let next = match targets.iter().position(|target| rests(target).is_none()) {
                Some(next) => next,
                // Who failed a moment ago is not asked again in the same breath, if anybody else was.
                None if !tried.is_empty() => break,
                None => (0..targets.len()).min_by_key(|&at| rests(&targets[at])).expect("there are some"),
            };
            let target = targets.remove(next);
            let outcome = async {
                let connection = self.open(target, Lane::Requests, dialling_max).await?;
                connection.call(request.clone(), Instant::now() + wait).await
            };
            match outcome.await {
                Err(error @ (Error::Connect { .. } | Error::Disconnected { .. })) => tried.push(error),
                outcome => return outcome,
            }
        }
        match tried.len() {
            1 => Err(tried.remove(0)),
            _ => Err(Error::Unreachable { tried }),
        }
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

    /// Asks the coordinator of a group; forgets it when it does not answer.
    pub(crate) async fn call_coordinator<C: Call>(
        &self,
        group: &Str,
        lane: Lane,
        request: C,
    ) -> Result<C::Response, Error> {
        let broker = self.coordinator(group).await?;
        let outcome = self.call(broker, lane, request).await;
        if outcome.as_ref().is_err_and(is_out_of_reach) {
            self.forget_coordinator(group);
        }
        outcome.map_err(coordinator_gone)
    }

    /// The same in one of these versions, where others speak of another protocol.
    pub(crate) async fn call_group_coordinator<C: Call>(
        &self,
        group: &Str,
        request: C,
        versions: RangeInclusive<i16>,
    ) -> Result<C::Response, Error> {
        self.call_coordinator_of(Coordinates::Group, group, request, versions).await
    }

    /// Asks the coordinator of a transactional id, in one of these versions; forgets it when it does not answer.
    pub(crate) async fn call_transaction_coordinator<C: Call>(
        &self,
        id: &Str,
        request: C,
        versions: RangeInclusive<i16>,
    ) -> Result<C::Response, Error> {
        self.call_coordinator_of(Coordinates::Transactions, id, request, versions).await
    }

    async fn call_coordinator_of<C: Call>(
        &self,
        coordinates: Coordinates,
        key: &Str,
        request: C,
        versions: RangeInclusive<i16>,
    ) -> Result<C::Response, Error> {
        let outcome = async {
            let broker = self.find_coordinator(coordinates, key).await?;
            let connection = self.connection(broker, Lane::Requests).await?;
            let version = connection.version_up_to::<C>(*versions.end())?;
            if version < *versions.start() {
                let address = connection.address().clone();
                return Err(Error::Unsupported { address, api: C::API.name() });
            }
            connection.call_version(request, version, self.request_deadline()).await
        };
        let outcome = outcome.await;
        if outcome.as_ref().is_err_and(is_out_of_reach) {
            self.forget_coordinator_of(coordinates, key);
        }
        outcome.map_err(coordinator_gone)
    }

    /// A connection to the coordinator of a transactional id.
    pub(crate) async fn transaction_coordinator(&self, id: &Str) -> Result<Connection, Error> {
        let broker = self.find_coordinator(Coordinates::Transactions, id).await?;
        let outcome = self.connection(broker, Lane::Requests).await;
        if outcome.as_ref().is_err_and(is_out_of_reach) {
            self.forget_transaction_coordinator(id);
        }
        outcome.map_err(coordinator_gone)
    }

    /// An open connection to a broker.
    pub(crate) async fn connection(&self, broker: BrokerId, lane: Lane) -> Result<Connection, Error> {
        self.open(self.target(broker)?, lane, Duration::MAX).await
    }

    /// A connection to a broker that nobody else uses, so that what is sent over it stays in order.
    pub(crate) async fn dial(&self, broker: BrokerId) -> Result<Connection, Error> {
        let target = self.target(broker)?;
        self.connect(target.address(), Duration::MAX).await
    }

    /// A connection from [`Cluster::dial`] broke.
    pub(crate) fn broke(&self, connection: &Connection) {
        if let Some(when) = connection.broken() {
            let random = self.environment().random();
            self.lock_dials().failed(connection.address(), &self.inner.options, when, random);
        }
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
            let mut brokers: Vec<_> = metadata.brokers.iter().collect();
            // The dice decide, not the order in which a map keeps them.
            brokers.sort_unstable_by_key(|(id, _)| **id);
            brokers.into_iter().map(|(&id, address)| Target::Broker(id, address.clone())).collect()
        };
        let random = self.environment().random() as usize;
        if !targets.is_empty() {
            let first = random % targets.len();
            targets.rotate_left(first);
        }
        if targets.is_empty() || self.inner.options.metadata_recovery == MetadataRecovery::Rebootstrap {
            let bootstrap = &self.inner.options.bootstrap_servers;
            let first = random % bootstrap.len();
            let in_turn = bootstrap[first..].iter().chain(&bootstrap[..first]);
            targets.extend(in_turn.cloned().map(Target::Bootstrap));
        }
        let slots = self.lock_slots();
        let is_open = |target: &Target| {
            slots
                .get(&(target.clone(), Lane::Requests))
                .and_then(|slot| slot.try_lock().ok())
                .is_some_and(|slot| slot.as_ref().is_some_and(|connection| !connection.is_closed()))
        };
        targets.sort_by_key(|target| !is_open(target));
        let mut seen = HashSet::new();
        targets.retain(|target| seen.insert(target.address().clone()));
        targets
    }

    fn lock_dials(&self) -> MutexGuard<'_, Dials> {
        self.inner.dials.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_slots(&self) -> MutexGuard<'_, HashMap<(Target, Lane), Slot>> {
        self.inner.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn open(&self, target: Target, lane: Lane, dialling_max: Duration) -> Result<Connection, Error> {
        let slot = {
            let mut slots = self.lock_slots();
            Arc::clone(slots.entry((target.clone(), lane)).or_default())
        };
        let mut slot = slot.lock().await;
        if let Some(connection) = slot.as_ref() {
            if !connection.is_closed() {
                return Ok(connection.clone());
            }
            self.broke(connection);
            *slot = None;
        }
        let connection = self.connect(target.address(), dialling_max).await?;
        *slot = Some(connection.clone());
        Ok(connection)
    }

    /// Dials, not before the pause since the last failure is over.
    async fn connect(&self, address: &Address, dialling_max: Duration) -> Result<Connection, Error> {
        let options = &self.inner.options;
        loop {
            let not_before = self.lock_dials().not_before(address, Instant::now());
            let Some(not_before) = not_before else { break };
            sleep_until(not_before).await;
        }
        let timeout = self.lock_dials().timeout(address, options, self.environment().random());
        let timeout = timeout.min(dialling_max);
        let outcome = Connection::open_within(self.environment(), address, options, timeout).await;
        match &outcome {
            Ok(_) => self.lock_dials().connected(address),
            Err(_) => {
                let random = self.environment().random();
                self.lock_dials().failed(address, options, Instant::now(), random);
            }
        }
        outcome
    }

    async fn call_target<C: Call>(
        &self,
        target: Target,
        lane: Lane,
        request: C,
    ) -> Result<C::Response, Error> {
        let connection = self.open(target, lane, Duration::MAX).await?;
        let waits = match lane {
            // A group waits for its members up to the rebalance timeout, longer than a request may take.
            Lane::Joins => self.inner.options.poll_interval_max,
            _ => Duration::ZERO,
        };
        connection.call(request, self.request_deadline() + waits).await
    }
}

async fn keep_fresh(cluster: Weak<Inner>, age_max: Duration) {
    loop {
        sleep((age_max / AGE_LOOKS).max(Duration::from_millis(1))).await;
        let Some(inner) = cluster.upgrade() else { return };
        let cluster = Cluster { inner };
        let aged = cluster.lock_metadata().aged(Instant::now(), age_max / AGE_LOOKS * AGE_LOOKS_MAX);
        if aged.is_empty() {
            continue;
        }
        if let Err(error) = cluster.look_at(Topics::Named(&aged)).await {
            tracing::debug!(%error, "what is known of the topics in use grows old");
        }
    }
}

/// Whether another broker may be what the asked one no longer is.
fn is_out_of_reach(error: &Error) -> bool {
    let is_unknown = error.code() == Some(ErrorCode::BROKER_NOT_AVAILABLE);
    is_unknown || matches!(error, Error::Connect { .. } | Error::Disconnected { .. } | Error::Timeout { .. })
}

/// A coordinator that has left the cluster is looked for again.
fn coordinator_gone(error: Error) -> Error {
    gone(error, ErrorCode::COORDINATOR_NOT_AVAILABLE)
}

/// A leader that has left the cluster has a successor: what is known of its topic is older than what is known of the brokers.
pub(crate) fn leader_gone(error: Error) -> Error {
    gone(error, ErrorCode::LEADER_NOT_AVAILABLE)
}

fn gone(error: Error, code: ErrorCode) -> Error {
    match error {
        Error::Kafka { code: ErrorCode::BROKER_NOT_AVAILABLE, doing, message } => {
            Error::Kafka { code, doing, message }
        }
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use wire::ErrorCode;

    use super::{Error, coordinator_gone, leader_gone};
    use crate::error::ErrorKind;

    #[test]
    fn whoever_has_left_the_cluster_is_looked_for_again() {
        let left = || Error::kafka(ErrorCode::BROKER_NOT_AVAILABLE, "looking up broker 1", None);
        // Who asks for this very broker is told.
        assert_eq!(left().kind(), ErrorKind::Fatal);
        assert_eq!(leader_gone(left()).kind(), ErrorKind::Retriable);
        assert_eq!(coordinator_gone(left()).kind(), ErrorKind::Retriable);
        let refused = Error::kafka(ErrorCode::INVALID_FETCH_SIZE, "fetching", None);
        assert_eq!(leader_gone(refused).kind(), ErrorKind::Fatal);
    }
}
