//! The active controller: who is alive, and what the brokers ask of it.
//!
//! Liveness is soft state: sessions in memory, begun anew by every controller. Only what follows from it (fenced, unfenced,
//! about to stop) becomes records. Invariant: everything that is answered stands on a committed record, and a node that is not
//! the active controller answers nothing but that, with the name of the one that is.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use client::Address;
use parking_lot::Mutex;
use state::metadata::{
    AlterPartition, Broker as RegisteredBroker, Changes, ConfigResource, Endpoint, FeatureRange, Image,
    MIN_ISR_KEY, OutOfService, Refusal, RegisterBroker,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use wire::messages::allocate_producer_ids::{AllocateProducerIdsRequest, AllocateProducerIdsResponse};
use wire::messages::alter_partition::{
    AlterPartitionRequest, AlterPartitionResponse, PartitionAnswer, TopicAnswer,
};
use wire::messages::broker_heartbeat::{BrokerHeartbeatRequest, BrokerHeartbeatResponse};
use wire::messages::register_broker::{RegisterBrokerRequest, RegisterBrokerResponse};
use wire::{BrokerId, ErrorCode, LeaderEpoch, PartitionId, Str};

use crate::broker::{Broker, stopped};
use crate::quorum::{MembersChange, NotCommitted};

/// How often sessions are looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(50);
/// How often it is looked at whether a broker is still to be watched.
const WATCH_LOOK: Duration = Duration::from_secs(1);
/// How long a broker that registers may take to answer where it says that it is.
const REACH_MAX: Duration = Duration::from_secs(2);
/// Partitions that one message names.
const NAMED_MAX: usize = 20;
/// Leaders that one round of balancing moves.
const BALANCED_MAX: usize = 1_000;

/// The soft state.
#[derive(Debug, Default)]
pub(crate) struct Controller {
    sessions: Mutex<Sessions>,
}

#[derive(Debug, Default)]
struct Sessions {
    /// The term in which these sessions were begun.
    term: u64,
    heard: BTreeMap<BrokerId, Instant>,
    /// Brokers, and their epochs, that were given up because nobody listened at their address. One that is heard all the same
    /// cannot be judged by that.
    refused: BTreeSet<(BrokerId, i64)>,
}

impl From<NotCommitted> for ErrorCode {
    fn from(error: NotCommitted) -> ErrorCode {
        match error {
            NotCommitted::NotController => ErrorCode::NOT_CONTROLLER,
            // Retriable, and it does not claim that nothing was done.
            NotCommitted::Unknown => ErrorCode::REQUEST_TIMED_OUT,
            NotCommitted::Offline => ErrorCode::KAFKA_STORAGE_ERROR,
        }
    }
}

impl Controller {
    fn heard(&self, broker: BrokerId) {
        self.sessions.lock().heard.insert(broker, Instant::now());
    }

    fn forget(&self, broker: BrokerId) {
        self.sessions.lock().heard.remove(&broker);
    }

    fn is_alive(&self, broker: BrokerId, timeout: Duration) -> bool {
        self.sessions.lock().heard.get(&broker).is_some_and(|heard| heard.elapsed() < timeout)
    }

    /// Unfenced brokers that have been silent for too long. A controller that has just begun gives everybody the whole time.
    fn silent(&self, image: &Image, term: u64, timeout: Duration) -> Vec<BrokerId> {
        let mut sessions = self.sessions.lock();
        let unfenced = image.brokers().filter(|broker| !broker.fenced).map(|broker| broker.id);
        if sessions.term != term {
            sessions.term = term;
            sessions.refused.clear();
            sessions.heard = unfenced.map(|id| (id, Instant::now())).collect();
            return Vec::new();
        }
        let now = Instant::now();
        let is_silent =
            |id: &BrokerId| sessions.heard.get(id).is_none_or(|heard| now.duration_since(*heard) >= timeout);
        unfenced.filter(is_silent).collect()
    }
}

impl Broker {
    /// Tells the controller's doings that people should know of.
    pub(crate) fn report(&self, why: &str, id: BrokerId, changes: &Changes) {
        for (topic, partition) in &changes.unclean {
            self.metrics.unclean_election();
            tracing::error!(
                %topic, %partition,
                "an unclean leader was elected (unclean.leader.election.enable): acknowledged records may be lost"
            );
        }
        let leaderless = changes.leaderless.len();
        if leaderless > 0 {
            let names = changes.leaderless.iter().take(NAMED_MAX).map(|(topic, id)| format!("{topic}-{id}"));
            let names = names.collect::<Vec<_>>().join(", ");
            tracing::error!(
                broker = %id, leaderless, %names,
                "partitions are without a leader, as no replica is in sync or eligible: start the brokers that were in sync \
                 last. Only if they are gone for good: ottla cluster elect --unclean TOPIC:PARTITION"
            );
        }
        self.metrics.leaders_elected(changes.leaders_moved);
        tracing::info!(broker = %id, leaders_moved = changes.leaders_moved, leaderless, "{why}");
    }

    fn controller_hint(&self) -> (i32, Str, u16) {
        let Some(leader) = self.metadata.quorum().status().leader else { return (-1, Str::default(), 0) };
        let address = self.metadata.quorum().peers().address_of(leader);
        let (host, port) = address.map_or((String::new(), 0), |address| (address.host, address.port));
        (leader.0, Str::from(host), port)
    }

    fn session_timeout(&self) -> Duration {
        self.settings().broker().replication.session_timeout
    }
}

/// Registers a broker that has just started.
pub(crate) async fn register(broker: Arc<Broker>, request: RegisterBrokerRequest) -> RegisterBrokerResponse {
    match try_register(&broker, request).await {
        Ok(response) => response,
        Err((error_code, message)) => {
            let (controller_id, controller_host, controller_port) = broker.controller_hint();
            RegisterBrokerResponse {
                error_code,
                error_message: Some(Str::from(message)),
                controller_id,
                controller_host,
                controller_port,
                ..RegisterBrokerResponse::default()
            }
        }
    }
}

async fn try_register(
    broker: &Arc<Broker>,
    request: RegisterBrokerRequest,
) -> Result<RegisterBrokerResponse, (ErrorCode, String)> {
    let quorum = Arc::clone(broker.metadata.quorum());
    if !quorum.is_active_controller() {
        return Err((ErrorCode::NOT_CONTROLLER, NotCommitted::NotController.to_string()));
    }
    let not_committed = |error: NotCommitted| (ErrorCode::from(error), error.to_string());
    if request.cluster_id != broker.cluster_id {
        return Err((
            ErrorCode::INCONSISTENT_CLUSTER_ID,
            format!(
                "this is cluster {}, not {}: check cluster.id and controller.quorum.voters",
                broker.cluster_id, request.cluster_id
            ),
        ));
    }
    let id = BrokerId(request.broker_id);
    if id.0 < 0 {
        return Err((ErrorCode::INVALID_REQUEST, "node.id must not be negative".to_owned()));
    }
    let command = command(&request, id);
    let image = broker.metadata.image();
    let known = image.broker(id);
    let is_other_disk =
        known.is_some_and(|known| known.log_dirs.iter().all(|dir| !command.log_dirs.contains(dir)));
    let is_alive = match known {
        // The controller itself lives, or nobody would be asked.
        Some(_) if id == broker.node_id => command.incarnation_id != broker.incarnation_id,
        Some(known) if broker.controller.is_alive(id, broker.session_timeout()) => {
            is_other_disk || still_answers(broker, known, &command).await
        }
        Some(_) | None => false,
    };
    let settings = Arc::clone(&broker.settings());
    let decide = |image: &Image| {
        let epoch = i64::try_from(quorum.applied() + 1).unwrap_or(i64::MAX);
        image.register_broker(&command, epoch, is_alive, &*settings)
    };
    let refused = |refusal: Refusal| (ErrorCode::from(&refusal), refusal.to_string());
    // Nothing is changed for a broker that is not let in.
    decide(&image).map_err(refused)?;
    if id != broker.node_id {
        let reached = reach_back(broker, id, &command).await;
        reached.map_err(|problem| (ErrorCode::BROKER_NOT_AVAILABLE, problem))?;
    }
    let status = quorum.status();
    let is_voter = status.voters.contains(&id);
    let mut is_member = is_voter || status.learners.contains(&id);
    // What the quorum believes it to have is not there.
    if is_voter && request.is_voiceless || is_member && !is_voter && is_other_disk {
        tracing::warn!(node = %id, is_voter, "a node has lost its memory: it leaves the quorum, and joins it anew");
        quorum.change_members(MembersChange::Remove(id)).await.map_err(not_committed)?;
        is_member = false;
    }
    let registered = broker.metadata.try_commit(broker.clock.now(), decide).await.map_err(not_committed)?;
    let registered = registered.map_err(refused)?;
    broker.report("a broker was registered", id, &registered.changes);
    broker.controller.forget(id);
    let metadata_index = if is_member {
        quorum.applied()
    } else {
        quorum.change_members(MembersChange::AddLearner(id)).await.map_err(not_committed)?
    };
    let (controller_id, controller_host, controller_port) = broker.controller_hint();
    Ok(RegisterBrokerResponse {
        broker_epoch: registered.epoch,
        metadata_index: i64::try_from(metadata_index).unwrap_or(i64::MAX),
        controller_id,
        controller_host,
        controller_port,
        may_have_vote_back: is_voter || quorum.peers().configured().contains_key(&id),
        ..RegisterBrokerResponse::default()
    })
}

/// Whether another process than the one that registers runs on its disk. Whoever has the lock of a data directory has outlived
/// the process that had it before, unless the directory is a copy: then both answer, each at its address.
async fn still_answers(broker: &Broker, known: &RegisteredBroker, command: &RegisterBroker) -> bool {
    let is_other_process = known.incarnation_id != command.incarnation_id;
    match known.endpoints.first() {
        Some(before) if is_other_process && command.endpoints.first() != Some(before) => {
            reach(broker, command.id, before).await.is_ok()
        }
        _ => false,
    }
}

/// Finds the broker where it says that it is: the others will follow and lead it there.
async fn reach_back(broker: &Broker, id: BrokerId, command: &RegisterBroker) -> Result<(), String> {
    let Some(endpoint) = command.endpoints.first() else {
        return Err(format!("node {id} registers without a listener"));
    };
    reach(broker, id, endpoint).await.map_err(|problem| {
        format!(
            "the controller, node {}, does not reach node {id} at {}, where its listener {} is said to be: {problem}. \
             Correct advertised.listeners of node {id}, or what is in between (name resolution, firewall)",
            broker.node_id,
            address_of(endpoint),
            endpoint.listener
        )
    })
}

/// Asks whether the node `id` is at this endpoint.
async fn reach(broker: &Broker, id: BrokerId, endpoint: &Endpoint) -> Result<(), String> {
    let peers = broker.metadata.quorum().peers();
    let mut link = peers.reach().link();
    match link.ask(&address_of(endpoint), peers.request(id, &[]), REACH_MAX).await {
        Ok(answer) if answer.error_code.is_ok() => Ok(()),
        Ok(answer) => Err(answer.error_message.unwrap_or_default().to_string()),
        Err(error) => Err(error.to_string()),
    }
}

fn address_of(endpoint: &Endpoint) -> Address {
    Address { host: endpoint.host.to_string(), port: endpoint.port }
}

fn command(request: &RegisterBrokerRequest, id: BrokerId) -> RegisterBroker {
    let endpoints = request.listeners.iter().map(|listener| Endpoint {
        listener: Str::copy_from(&listener.name),
        host: Str::copy_from(&listener.host),
        port: listener.port,
        security_protocol: listener.security_protocol,
    });
    let features = request.features.iter().map(|feature| FeatureRange {
        name: Str::copy_from(&feature.name),
        min: feature.min_supported_version,
        max: feature.max_supported_version,
    });
    let mut held = BTreeMap::new();
    for dir in &request.held {
        for topic in &dir.topics {
            let keys = topic.partitions.iter().map(|index| (topic.topic_id, PartitionId(*index)));
            held.extend(keys.map(|key| (key, dir.directory_id)));
        }
    }
    RegisterBroker {
        id,
        incarnation_id: request.incarnation_id,
        endpoints: endpoints.collect(),
        features: features.collect(),
        rack: request.rack.as_deref().map(Str::copy_from),
        log_dirs: request.log_dirs.clone(),
        has_offline_dirs: request.has_offline_dirs,
        held,
        fenced: true,
        previous_epoch: request.previous_broker_epoch,
    }
}

/// Takes a broker's heartbeat, and tells it where it stands.
pub(crate) async fn heartbeat(
    broker: Arc<Broker>,
    request: BrokerHeartbeatRequest,
) -> BrokerHeartbeatResponse {
    match try_heartbeat(&broker, &request).await {
        Ok(response) => response,
        Err(error_code) => BrokerHeartbeatResponse {
            error_code,
            controller_id: broker.controller_hint().0,
            ..BrokerHeartbeatResponse::default()
        },
    }
}

async fn try_heartbeat(
    broker: &Arc<Broker>,
    request: &BrokerHeartbeatRequest,
) -> Result<BrokerHeartbeatResponse, ErrorCode> {
    if !broker.metadata.quorum().is_active_controller() {
        return Err(ErrorCode::NOT_CONTROLLER);
    }
    let (id, epoch) = (BrokerId(request.broker_id), request.broker_epoch);
    let image = broker.metadata.image();
    let known = image.broker(id).ok_or(ErrorCode::BROKER_ID_NOT_REGISTERED)?;
    if known.epoch != epoch {
        return Err(ErrorCode::STALE_BROKER_EPOCH);
    }
    broker.controller.heard(id);
    let settings = Arc::clone(&broker.settings());
    let now = broker.clock.now();
    if request.want_fence && !known.fenced {
        let fenced = broker.metadata.try_commit(now, |image| image.fence_broker(id, &*settings)).await?;
        let changes = fenced.map_err(|refusal| ErrorCode::from(&refusal))?;
        broker.report("a broker stops", id, &changes);
        return Ok(answered(broker));
    }
    if request.want_shut_down && !known.fenced {
        let decide = |image: &Image| image.begin_controlled_shutdown(id, epoch, &*settings);
        let changes =
            broker.metadata.try_commit(now, decide).await?.map_err(|refusal| ErrorCode::from(&refusal))?;
        if changes.leaders_moved > 0 {
            broker.report("a broker prepares to stop", id, &changes);
        }
        let image = broker.metadata.image();
        let others =
            |leader: &BrokerId| *leader != id && image.broker(*leader).is_some_and(|other| other.is_active());
        let still_needed = image
            .partitions_of(id)
            .any(|(_, _, partition)| partition.leader == Some(id) && partition.isr.iter().any(others));
        return Ok(BrokerHeartbeatResponse {
            is_fenced: false,
            should_shut_down: !still_needed,
            ..answered(broker)
        });
    }
    if request.want_shut_down {
        return Ok(BrokerHeartbeatResponse { should_shut_down: true, ..answered(broker) });
    }
    if known.fenced && !request.want_fence && request.metadata_index >= epoch {
        let decide = |image: &Image| image.unfence_broker(id, epoch, &*settings);
        let changes =
            broker.metadata.try_commit(now, decide).await?.map_err(|refusal| ErrorCode::from(&refusal))?;
        broker.report("a broker is back", id, &changes);
    }
    if !request.out_of_service.is_empty() {
        let replicas: BTreeMap<_, _> = request
            .out_of_service
            .iter()
            .flat_map(|topic| topic.partitions.iter().map(|partition| (topic.topic_id, partition)))
            .map(|(topic, partition)| {
                let known_in = LeaderEpoch(partition.leader_epoch);
                let why = match partition.is_damaged {
                    true => OutOfService::Damaged { known_in },
                    false => OutOfService::Offline,
                };
                ((topic, PartitionId(partition.partition_index)), why)
            })
            .collect();
        let decide = |image: &Image| image.take_out_of_service(id, epoch, &replicas, &*settings);
        let changes =
            broker.metadata.try_commit(now, decide).await?.map_err(|refusal| ErrorCode::from(&refusal))?;
        if changes.leaders_moved > 0 {
            broker.report("a broker has replicas out of service", id, &changes);
        }
    }
    let is_fenced = broker.metadata.image().broker(id).is_none_or(|known| known.fenced);
    Ok(BrokerHeartbeatResponse { is_fenced, ..answered(broker) })
}

fn answered(broker: &Broker) -> BrokerHeartbeatResponse {
    BrokerHeartbeatResponse {
        controller_id: broker.node_id.0,
        controller_time_ms: broker.clock.now().0,
        ..BrokerHeartbeatResponse::default()
    }
}

/// Changes in-sync sets as the partitions' leaders ask for.
pub(crate) async fn alter_partition(
    broker: Arc<Broker>,
    request: AlterPartitionRequest,
) -> AlterPartitionResponse {
    let leader = BrokerId(request.broker_id);
    let wanted: Vec<AlterPartition> = request
        .topics
        .iter()
        .flat_map(|topic| {
            topic.partitions.iter().map(|partition| AlterPartition {
                topic_id: topic.topic_id,
                partition: PartitionId(partition.partition_index),
                leader_epoch: LeaderEpoch(partition.leader_epoch),
                partition_epoch: partition.partition_epoch,
                isr: partition
                    .isr
                    .iter()
                    .map(|state| (BrokerId(state.broker_id), state.broker_epoch))
                    .collect(),
            })
        })
        .collect();
    let settings = Arc::clone(&broker.settings());
    let decide = |image: &Image| image.alter_partitions(leader, request.broker_epoch, &wanted, &*settings);
    let refused = |error_code| AlterPartitionResponse {
        error_code,
        controller_id: broker.controller_hint().0,
        ..AlterPartitionResponse::default()
    };
    let decided = match broker.metadata.try_commit(broker.clock.now(), decide).await {
        Ok(Ok(decided)) => decided,
        Ok(Err(refusal)) => return refused(ErrorCode::from(&refusal)),
        Err(error) => return refused(error.into()),
    };
    let mut topics: Vec<TopicAnswer> = Vec::new();
    for (wanted, decided) in wanted.iter().zip(decided) {
        let partition_index = wanted.partition.0;
        let answer = match decided {
            Ok(partition) => PartitionAnswer {
                partition_index,
                error_code: ErrorCode::NONE,
                leader_id: partition.leader.map_or(-1, |leader| leader.0),
                leader_epoch: partition.leader_epoch.0,
                partition_epoch: partition.partition_epoch,
                isr: partition.isr.iter().map(|id| id.0).collect(),
            },
            Err(refusal) => {
                tracing::debug!(topic = %wanted.topic_id, partition = %wanted.partition, %refusal, "a change of an in-sync set was refused");
                PartitionAnswer {
                    partition_index,
                    error_code: ErrorCode::from(&refusal),
                    ..PartitionAnswer::default()
                }
            }
        };
        match topics.last_mut().filter(|topic| topic.topic_id == wanted.topic_id) {
            Some(topic) => topic.partitions.push(answer),
            None => topics.push(TopicAnswer { topic_id: wanted.topic_id, partitions: vec![answer] }),
        }
    }
    AlterPartitionResponse { topics, controller_id: broker.node_id.0, ..AlterPartitionResponse::default() }
}

/// Gives a broker a block of producer ids.
pub(crate) async fn allocate_producer_ids(
    broker: Arc<Broker>,
    request: AllocateProducerIdsRequest,
) -> AllocateProducerIdsResponse {
    let decide =
        |image: &Image| image.allocate_producer_ids(BrokerId(request.broker_id), request.broker_epoch);
    let error_code = match broker.metadata.try_commit(broker.clock.now(), decide).await {
        Ok(Ok(block)) => {
            return AllocateProducerIdsResponse {
                producer_id_start: block.first.0,
                producer_id_len: block.count,
                controller_id: broker.node_id.0,
                ..AllocateProducerIdsResponse::default()
            };
        }
        Ok(Err(refusal)) => ErrorCode::from(&refusal),
        Err(error) => error.into(),
    };
    let controller_id = broker.controller_hint().0;
    AllocateProducerIdsResponse { error_code, controller_id, ..AllocateProducerIdsResponse::default() }
}

/// Fences brokers that fall silent and balances leaders, for as long as this node is the active controller.
pub(crate) async fn run(broker: Arc<Broker>, mut stop: watch::Receiver<bool>) {
    let mut balanced = Instant::now();
    let mut watched = Watched::default();
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            () = sleep(WATCH_INTERVAL) => {}
        }
        let status = broker.metadata.quorum().status();
        let image = broker.metadata.image();
        if status.voters.contains(&broker.node_id) {
            watched.follow(&broker, &image);
        }
        if !status.is_active {
            balanced = Instant::now();
            continue;
        }
        if image.config(&ConfigResource::cluster_default(), MIN_ISR_KEY).is_none() {
            settle_min_isr(&broker).await;
        }
        for id in broker.controller.silent(&image, status.term, broker.session_timeout()) {
            fence(&broker, id, "a broker fell silent and is fenced").await;
        }
        let interval = balance_interval(&broker);
        if interval.is_some_and(|interval| balanced.elapsed() >= interval) {
            balanced = Instant::now();
            balance(&broker).await;
        }
    }
}

/// Connections that are held to notice at once when a broker's process ends: the kernel closes them then, and refuses the
/// next. A machine that dies says nothing; that is what sessions are for. Nor is it enough that one refuses who was never
/// reached: between it and us may be something that refuses in its name, while it goes on answering for what it led. So each
/// voter holds them, whoever may be the next controller.
#[derive(Default)]
struct Watched {
    tasks: BTreeMap<(BrokerId, i64), JoinHandle<()>>,
}

impl Watched {
    /// Watches every broker that is counted in.
    fn follow(&mut self, broker: &Arc<Broker>, image: &Image) {
        self.tasks.retain(|_, task| !task.is_finished());
        let others = image.brokers().filter(|other| !other.fenced && other.id != broker.node_id);
        for key in others.map(|other| (other.id, other.epoch)) {
            if !self.tasks.contains_key(&key) && !broker.controller.sessions.lock().refused.contains(&key) {
                self.tasks.insert(key, tokio::spawn(watch_process(Arc::clone(broker), key)));
            }
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.tasks.values().for_each(JoinHandle::abort);
    }
}

async fn watch_process(broker: Arc<Broker>, key: (BrokerId, i64)) {
    let (id, epoch) = key;
    let mut link = broker.metadata.quorum().peers().reach().link();
    let is_watched = || {
        let image = broker.metadata.image();
        image.broker(id).is_some_and(|known| known.epoch == epoch && !known.fenced)
    };
    let mut was_reached = false;
    while is_watched() {
        let Some(address) = broker.metadata.quorum().peers().address_of(id) else { return };
        match link.to(&address).await {
            Ok(connection) => {
                was_reached = true;
                let _ = timeout(WATCH_LOOK, connection.closed()).await;
            }
            Err(client::Error::Connect { source, .. })
                if source.kind() == ErrorKind::ConnectionRefused
                    && was_reached
                    && broker.metadata.quorum().is_active_controller() =>
            {
                broker.controller.sessions.lock().refused.insert(key);
                fence(&broker, id, "a broker's process has ended, and it is fenced").await;
                return;
            }
            Err(_) => sleep(WATCH_INTERVAL).await,
        }
    }
}

async fn fence(broker: &Broker, id: BrokerId, why: &str) {
    let settings = Arc::clone(&broker.settings());
    let fenced: Result<Result<Changes, Refusal>, NotCommitted> =
        broker.metadata.try_commit(broker.clock.now(), |image| image.fence_broker(id, &*settings)).await;
    match fenced {
        Ok(Ok(changes)) => broker.report(why, id, &changes),
        Ok(Err(refusal)) => tracing::warn!(broker = %id, %refusal, "a broker could not be fenced"),
        // Another controller will see to it.
        Err(error) => tracing::debug!(broker = %id, %error, "a broker could not be fenced"),
    }
}

/// The cluster goes by what the first controller was started with, until it is changed for all.
async fn settle_min_isr(broker: &Broker) {
    let value = broker.settings().broker().topics.min_insync_replicas.to_string();
    let decide = |image: &Image| image.settle_min_isr(Str::from(value));
    if let Err(error) = broker.metadata.commit(broker.clock.now(), decide).await {
        tracing::debug!(%error, "min.insync.replicas could not be settled");
    }
}

fn balance_interval(broker: &Broker) -> Option<Duration> {
    let settings = broker.settings();
    let replication = &settings.broker().replication;
    replication.auto_leader_rebalance.then(|| Duration::from_secs(replication.leader_imbalance_check_seconds))
}

async fn balance(broker: &Broker) {
    let settings = Arc::clone(&broker.settings());
    let percent = settings.broker().replication.leader_imbalance_percent;
    let decide = |image: &Image| image.balance_leaders(percent, BALANCED_MAX, &*settings);
    match broker.metadata.commit(broker.clock.now(), decide).await {
        Ok(0) => {}
        Ok(moved) => {
            broker.metrics.leaders_elected(moved);
            tracing::info!(moved, "leaders went back to their preferred replicas");
        }
        Err(error) => tracing::debug!(%error, "leaders could not be balanced"),
    }
}

/// Has partitions without a leader led by whoever may: a change of settings may allow what was not allowed before.
pub(crate) async fn elect_where_nobody_leads(broker: &Broker) {
    let settings = Arc::clone(&broker.settings());
    let decide = |image: &Image| image.elect_where_nobody_leads(BALANCED_MAX, &*settings);
    match broker.metadata.commit(broker.clock.now(), decide).await {
        Ok(changes) if changes.leaders_moved > 0 => {
            broker.report("partitions without a leader have one", broker.node_id, &changes);
        }
        Ok(_) => {}
        Err(error) => tracing::debug!(%error, "leaders could not be elected"),
    }
}
