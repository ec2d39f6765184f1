//! This broker as the cluster sees it: registered, fenced or not, alive, about to stop.
//!
//! Invariant: a broker that the controller may have given up serves no writes: once it has heard nothing for as long as the
//! controller waits for it, it counts itself as cut off ([`Broker::is_cut_off`]), whatever it believes to lead.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use client::Address;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use wire::messages::add_raft_voter::AddRaftVoterRequest;
use wire::messages::broker_heartbeat::{BrokerHeartbeatRequest, OutOfService, PartitionOutOfService};
use wire::messages::register_broker::{
    HeldDirectory, HeldTopic, Listener as RegisteredListener, RegisterBrokerRequest, RegisterBrokerResponse,
};
use wire::{BrokerId, ErrorCode, LeaderEpoch, Millis, Str, Uuid};

use crate::broker::{Broker, stopped};
use crate::controller_link::{ControllerRequest, Lane, Unanswered};
use crate::node::StartError;

/// Wait between attempts to register.
const RETRY: Duration = Duration::from_millis(100);
/// The first of these waits; each is twice as long as the one before. A single node has elected itself by then.
const RETRY_FIRST: Duration = Duration::from_millis(5);
/// Wait between two questions for a vote.
const VOTE_RETRY: Duration = Duration::from_millis(500);
/// How long the metadata may take to come as far as the registration, before another controller is looked for.
const FOLLOW_MAX: Duration = Duration::from_secs(10);
/// How long leaders may take to move away before a broker stops all the same.
const SHUTDOWN_MAX: Duration = Duration::from_secs(10);
/// How long a broker that wants to stop waits for a controller where there is none.
const NOBODY_DECIDES: Duration = Duration::from_secs(2);
/// How often a broker that wants to stop asks whether it may.
const SHUTDOWN_INTERVAL: Duration = Duration::from_millis(50);

/// How long a broker that leads nothing any more still answers and is counted in: clients ask around when they are told that
/// another one leads, and one whose question is cut off waits before it asks again. librdkafka has moved on after a quarter of a
/// second, and forgets for a second who leads what it was about to move when the broker is gone from the metadata.
const CLIENTS_LEAVE: Duration = Duration::from_millis(500);
/// How long the controller may take to count a broker out that has stopped in order. It notices by itself, a little later.
const FENCE_MAX: Duration = Duration::from_secs(1);

/// What a broker says of itself when it registers, the same as long as it runs.
pub(crate) struct Registration {
    pub(crate) incarnation_id: Uuid,
    pub(crate) listeners: Vec<RegisteredListener>,
    /// The epoch of its last orderly stop, or -1.
    pub(crate) previous_epoch: i64,
}

impl Registration {
    fn request(&self, broker: &Broker) -> RegisterBrokerRequest {
        let quorum = broker.metadata.quorum();
        RegisterBrokerRequest {
            broker_id: broker.node_id.0,
            cluster_id: broker.cluster_id.clone(),
            incarnation_id: self.incarnation_id,
            listeners: self.listeners.clone(),
            features: Vec::new(),
            rack: broker.settings().broker().node.rack.as_deref().map(Str::copy_from),
            log_dirs: broker.data_dirs.directory_ids(),
            has_offline_dirs: broker.data_dirs.has_unread(),
            held: held(broker),
            previous_broker_epoch: self.previous_epoch,
            voters_configured: quorum.peers().voters_configured().clone(),
            is_voiceless: quorum.is_voiceless(),
        }
    }
}

/// The partitions that were found when the broker started, by directory and topic.
fn held(broker: &Broker) -> Vec<HeldDirectory> {
    let mut dirs: BTreeMap<Uuid, BTreeMap<Uuid, Vec<i32>>> = BTreeMap::new();
    for (dir, log) in broker.data_dirs.held() {
        let topics = dirs.entry(dir).or_default();
        topics.entry(log.topic_id).or_default().push(log.topic_partition.partition.0);
    }
    let of_topic = |(topic_id, partitions)| HeldTopic { topic_id, partitions };
    let of_dir = |(directory_id, topics): (_, BTreeMap<_, _>)| HeldDirectory {
        directory_id,
        topics: topics.into_iter().map(of_topic).collect(),
    };
    dirs.into_iter().map(of_dir).collect()
}

/// Registers, and waits until the metadata has come as far as the registration. Says whether the node may ask for a vote that it
/// lost.
pub(crate) async fn join(broker: &Arc<Broker>, registration: &Registration) -> Result<bool, StartError> {
    let mut may_have_vote_back = false;
    loop {
        let registered = register(broker, registration).await?;
        // The first attempt may have taken the vote that the second one does not find.
        may_have_vote_back |= registered.may_have_vote_back;
        let index = u64::try_from(registered.metadata_index).unwrap_or(0);
        if timeout(FOLLOW_MAX, broker.metadata.quorum().wait_applied(index)).await.is_ok() {
            return Ok(may_have_vote_back);
        }
        tracing::warn!(node = %broker.node_id, "the metadata does not come: this broker registers anew");
    }
}

/// Asks to be registered until it is.
async fn register(
    broker: &Arc<Broker>,
    registration: &Registration,
) -> Result<RegisterBrokerResponse, StartError> {
    let begun = Instant::now();
    let mut told = begun;
    let mut pause = RETRY_FIRST;
    let response = loop {
        let problem = match ask_to_register(broker, registration).await {
            Ok(response) if response.error_code.is_ok() => break response,
            Ok(response) => {
                let message = response.error_message.unwrap_or_default().to_string();
                let is_final = match response.error_code {
                    ErrorCode::NOT_CONTROLLER | ErrorCode::REQUEST_TIMED_OUT => false,
                    // A name or a route that comes late; the message tells what to do if it does not come.
                    ErrorCode::BROKER_NOT_AVAILABLE => false,
                    // The session of a process that is gone runs out.
                    ErrorCode::DUPLICATE_BROKER_REGISTRATION => {
                        begun.elapsed() > 3 * broker.settings().broker().replication.session_timeout
                    }
                    _ => true,
                };
                if is_final {
                    return Err(StartError::Register(message));
                }
                message
            }
            Err(error) => error.to_string(),
        };
        if told.elapsed() > Duration::from_secs(5) {
            told = Instant::now();
            tracing::warn!(node = %broker.node_id, %problem, "this broker waits to be registered");
        }
        sleep(pause).await;
        pause = (pause * 2).min(RETRY);
    };
    broker.epoch.store(response.broker_epoch, Ordering::Release);
    let quorum = broker.metadata.quorum();
    let controller = BrokerId(response.controller_id);
    if quorum.peers().address_of(controller).is_none() && response.controller_port > 0 {
        // Until the metadata tells where everybody is, it has to be answered.
        let address = Address { host: response.controller_host.to_string(), port: response.controller_port };
        quorum.peers().learn([(controller, address)].into());
    }
    Ok(response)
}

/// Asks the controller, if this node knows it and where it is, else whomever the settings name.
async fn ask_to_register(
    broker: &Arc<Broker>,
    registration: &Registration,
) -> Result<RegisterBrokerResponse, Unanswered> {
    let wait = RegisterBrokerRequest::WAIT;
    let mut last = match broker.ask_controller(registration.request(broker)).await {
        Err(unknown @ (Unanswered::NoController | Unanswered::NoAddress(_))) => unknown,
        answered => return answered,
    };
    let quorum = broker.metadata.quorum();
    let configured = quorum.peers().configured();
    let others =
        configured.iter().filter(|(id, _)| **id != broker.node_id).map(|(_, address)| address.clone());
    let bootstrap = broker.bootstrap.iter().cloned();
    for address in others.chain(bootstrap) {
        let asked =
            broker.controller_link.ask_at(Lane::Changes, &address, registration.request(broker), wait).await;
        match asked {
            Ok(response)
                if response.error_code == ErrorCode::NOT_CONTROLLER && response.controller_port > 0 =>
            {
                let host = response.controller_host.to_string();
                let controller = client::Address { host, port: response.controller_port };
                let request = registration.request(broker);
                match broker.controller_link.ask_at(Lane::Changes, &controller, request, wait).await {
                    Ok(response) => return Ok(response),
                    Err(error) => last = error.into(),
                }
            }
            Ok(response) if response.error_code == ErrorCode::NOT_CONTROLLER => {}
            Ok(response) => return Ok(response),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

/// Sends heartbeats until the broker stops, and registers anew where the controller does not know it.
pub(crate) async fn beat(
    broker: Arc<Broker>,
    registration: Arc<Registration>,
    mut stop: watch::Receiver<bool>,
) {
    let mut was_cut_off = false;
    loop {
        let settings = Arc::clone(&broker.settings());
        let replication = &settings.broker().replication;
        let (sent, sent_at) = (Instant::now(), broker.clock.now());
        let next = sent + replication.heartbeat_interval;
        let deadline = sent + replication.session_timeout;
        let answer = tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            answer = timeout_at(deadline, broker.ask_controller(heartbeat(&broker))) => answer,
        };
        let mut wait = next;
        match answer {
            Ok(Ok(response)) if response.error_code.is_ok() => {
                broker.lease_until(sent + replication.session_timeout);
                let (told, received_at) = (Millis(response.controller_time_ms), broker.clock.now());
                broker.clock_skew.learn(sent_at, told, received_at, BrokerId(response.controller_id));
                if response.is_fenced {
                    // The next one may be what lets it in.
                    wait = wait.min(Instant::now() + RETRY);
                }
            }
            Ok(Ok(response)) => match response.error_code {
                ErrorCode::STALE_BROKER_EPOCH | ErrorCode::BROKER_ID_NOT_REGISTERED => {
                    tracing::warn!(node = %broker.node_id, error = ?response.error_code, "the controller does not know this broker: it registers anew");
                    let joined = tokio::select! {
                        biased;
                        () = stopped(&mut stop) => return,
                        joined = join(&broker, &registration) => joined,
                    };
                    if let Err(error) = joined {
                        tracing::error!(%error, "this broker is not taken back");
                    }
                }
                error => {
                    tracing::debug!(?error, "a heartbeat was refused");
                    wait = wait.min(Instant::now() + RETRY);
                }
            },
            Ok(Err(error)) => {
                tracing::debug!(%error, "a heartbeat was not answered");
                wait = wait.min(Instant::now() + RETRY);
            }
            Err(_late) => tracing::debug!("a heartbeat was not answered in time"),
        }
        if broker.is_cut_off() {
            cut_off(&broker, !was_cut_off);
        }
        was_cut_off = broker.is_cut_off();
        tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            () = sleep_until(wait) => {}
            () = broker.metadata_caught_up.notified() => {}
        }
    }
}

/// Others may lead by now what this broker believes to lead: whoever waits here for an acknowledgement is told to ask them.
fn cut_off(broker: &Broker, is_news: bool) {
    if is_news {
        tracing::warn!(node = %broker.node_id, "this broker hears nothing of the controller and acknowledges nothing");
    }
    let hosted = broker.partitions.load_full();
    for partition in hosted.partitions().filter(|partition| partition.has_followers()) {
        partition.waiting.fail_produces(ErrorCode::NOT_LEADER_OR_FOLLOWER);
    }
}

fn heartbeat(broker: &Broker) -> BrokerHeartbeatRequest {
    BrokerHeartbeatRequest {
        broker_id: broker.node_id.0,
        broker_epoch: broker.epoch.load(Ordering::Acquire),
        metadata_index: i64::try_from(broker.replicas.reconciled()).unwrap_or(i64::MAX),
        want_fence: false,
        want_shut_down: broker.is_leaving.load(Ordering::Acquire),
        out_of_service: out_of_service(broker),
    }
}

/// Replicas that cannot be served here, as long as the metadata or a leader counts on them.
fn out_of_service(broker: &Broker) -> Vec<OutOfService> {
    let unopened = broker.replicas.unopened().into_iter();
    let mut replicas: BTreeMap<_, _> =
        unopened.map(|(key, is_damaged)| (key, (is_damaged, LeaderEpoch::NONE))).collect();
    let hosted = broker.partitions.load_full();
    let unfit = hosted.partitions().filter(|partition| partition.is_out_of_service());
    replicas.extend(unfit.map(|partition| {
        let rot = partition.rot_known_in();
        let key = (partition.topic_id, partition.id.partition);
        (key, (rot.is_some(), rot.unwrap_or(LeaderEpoch::NONE)))
    }));
    let image = broker.metadata.image();
    let mut topics: Vec<OutOfService> = Vec::new();
    for ((topic_id, id), (is_damaged, known_in)) in replicas {
        let Some(partition) = image.topic_by_id(topic_id).and_then(|topic| topic.partition(id)) else {
            continue;
        };
        let is_counted_on = partition.is_held_by(broker.node_id)
            || partition.replicas.contains(&broker.node_id) && partition.leader_epoch <= known_in;
        if !is_counted_on {
            continue;
        }
        let partition = PartitionOutOfService { partition_index: id.0, is_damaged, leader_epoch: known_in.0 };
        match topics.last_mut().filter(|topic| topic.topic_id == topic_id) {
            Some(topic) => topic.partitions.push(partition),
            None => topics.push(OutOfService { topic_id, partitions: vec![partition] }),
        }
    }
    topics
}

/// Has others lead what this broker leads, where there are others, has another node lead the quorum, and lets clients find out.
pub(crate) async fn hand_over(broker: &Arc<Broker>) {
    if !broker.settings().broker().replication.controlled_shutdown {
        return;
    }
    broker.is_leaving.store(true, Ordering::Release);
    let deadline = Instant::now() + SHUTDOWN_MAX;
    let mut heard = Instant::now();
    let mut others_lead = false;
    while !is_alone(broker) && Instant::now() < deadline {
        match timeout_at(deadline, broker.ask_controller(heartbeat(broker))).await {
            Ok(Ok(response)) if response.should_shut_down => {
                others_lead = true;
                break;
            }
            Ok(Ok(response)) if response.error_code == ErrorCode::BROKER_ID_NOT_REGISTERED => break,
            Ok(Ok(_)) => heard = Instant::now(),
            // The others may be stopping too, and nobody is left to decide.
            Ok(Err(_)) | Err(_) if heard.elapsed() >= NOBODY_DECIDES => break,
            Ok(Err(_)) | Err(_) => {}
        }
        sleep(SHUTDOWN_INTERVAL).await;
    }
    broker.metadata.quorum().hand_over().await;
    if !others_lead {
        return;
    }
    sleep(CLIENTS_LEAVE).await;
    let counted_out = BrokerHeartbeatRequest { want_fence: true, ..heartbeat(broker) };
    match timeout(FENCE_MAX, broker.ask_controller(counted_out)).await {
        Ok(Ok(response)) if response.error_code.is_ok() => {}
        answer => tracing::debug!(?answer, "this broker stops before it is counted out"),
    }
}

/// Whether nobody else is counted in who could lead.
fn is_alone(broker: &Broker) -> bool {
    let image = broker.metadata.image();
    !image.brokers().any(|other| other.id != broker.node_id && !other.fenced)
}

/// A node that began with nothing does not vote before it was given a vote after it was let in. One that may have had a vote
/// before asks for it; another waits until an operator gives it one.
pub(crate) async fn regain_vote(
    broker: Arc<Broker>,
    may_have_vote_back: bool,
    mut stop: watch::Receiver<bool>,
) {
    let quorum = Arc::clone(broker.metadata.quorum());
    if !quorum.is_voiceless() {
        return;
    }
    if !may_have_vote_back && quorum.peers().configured().contains_key(&broker.node_id) {
        tracing::error!(
            node = %broker.node_id,
            "controller.quorum.voters names this node, and the quorum was formed without it: it follows without a vote. Give \
             it one (ottla cluster quorum add {}), or take it out of the setting", broker.node_id
        );
    }
    tokio::select! {
        biased;
        () = stopped(&mut stop) => {}
        () = quorum.wait_voter() => quorum.regain_voice().await,
        () = ask_for_vote(&broker), if may_have_vote_back => {}
    }
}

/// Asks again and again, whether it has one by then or not.
async fn ask_for_vote(broker: &Arc<Broker>) {
    loop {
        let request = AddRaftVoterRequest {
            cluster_id: None,
            timeout_ms: i32::try_from(AddRaftVoterRequest::WAIT.as_millis()).unwrap_or(i32::MAX),
            voter_id: broker.node_id.0,
            ..AddRaftVoterRequest::default()
        };
        match broker.ask_controller(request).await {
            Ok(answer) if answer.error_code.is_ok() => {}
            Ok(answer) => tracing::info!(reason = ?answer.error_message, "no vote yet"),
            Err(error) => tracing::debug!(%error, "nobody can be asked for a vote"),
        }
        sleep(VOTE_RETRY).await;
    }
}
