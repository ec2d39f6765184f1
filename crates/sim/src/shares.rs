//! Members of a share group (KIP-932): they work on the same partitions together, say of each record that they are given what has
//! become of it, in time or late, and come and go as others do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{sleep, timeout};
use wire::messages::find_coordinator::FindCoordinatorRequest;
use wire::messages::incremental_alter_configs::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};
use wire::messages::share_acknowledge as acknowledge;
use wire::messages::share_fetch as fetch;
use wire::messages::share_group_heartbeat::ShareGroupHeartbeatRequest;
use wire::{ErrorCode, Str, Uuid};

use crate::group_history::Told;
use crate::load::{self, Client, PARTITIONS, RETRY, TOPIC, WHOLE_MAX};
use crate::share_history::{Asked, ShareHistory};
use crate::truth::{Leads, Truth};
use crate::world::{SHARE_LOCK, elapsed};

/// Its members.
pub(crate) const MEMBERS: [&str; 3] = ["s1", "s2", "s3"];

const GROUP: &str = "shares";
const GROUP_RESOURCE: i8 = 32;
const HEARTBEAT: Duration = Duration::from_millis(400);
/// How long a member waits for an answer.
const PATIENCE: Duration = Duration::from_millis(2_500);
const RECORDS_MAX: i32 = 12;

const ACCEPT: i8 = 1;
const RELEASE: i8 = 2;
const REJECT: i8 = 3;

/// What a member says of records of one partition, in their order.
type Said = Vec<(i64, i8)>;

/// A member's session with a broker.
#[derive(Debug, Default)]
struct Session {
    epoch: i32,
    places: BTreeSet<i32>,
}

struct Member {
    client: Client,
    name: &'static str,
    /// How often it was somebody else.
    lives: u32,
    id: Str,
    epoch: i32,
    history: ShareHistory,
    truth: Truth,
    topic_id: Uuid,
    assigned: BTreeSet<i32>,
    coordinator: Option<i32>,
    leaders: BTreeMap<i32, i32>,
    sessions: BTreeMap<i32, Session>,
    /// What it is to say of each partition's records.
    to_say: BTreeMap<i32, Said>,
    /// Records that it takes its time for.
    keeps: BTreeMap<i32, BTreeSet<i64>>,
    heartbeat_at: Duration,
    /// Reads all partitions, whatever the coordinator says: as one that others were assigned to since, too.
    is_greedy: bool,
    /// Accepts whatever it is given.
    is_diligent: bool,
    /// When it was given something last, or something was wrong.
    busy_at: Duration,
}

/// Has the group begin with what is there.
pub(crate) async fn prepare(mut client: Client) {
    loop {
        let config = AlterableConfig {
            name: "share.auto.offset.reset".into(),
            config_operation: 0,
            value: Some("earliest".into()),
        };
        let resource = AlterConfigsResource {
            resource_type: GROUP_RESOURCE,
            resource_name: GROUP.into(),
            configs: vec![config],
        };
        let request = IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
        let broker = client.any();
        let answer = client.ask(broker, request, 1).await;
        // Every broker has heard of it a moment later.
        sleep(RETRY).await;
        if answer.is_some_and(|answer| answer.responses.iter().all(|resource| resource.error_code.is_ok())) {
            return;
        }
    }
}

impl Member {
    async fn new(mut client: Client, name: &'static str, history: ShareHistory, truth: Truth) -> Self {
        client.answer_max = PATIENCE;
        let topic_id = loop {
            match client.topic_id(TOPIC).await {
                Some(id) => break id,
                None => sleep(RETRY).await,
            }
        };
        let mut member = Member {
            client,
            name,
            lives: 0,
            id: Str::default(),
            epoch: 0,
            history,
            truth,
            topic_id,
            assigned: BTreeSet::new(),
            coordinator: None,
            leaders: BTreeMap::new(),
            sessions: BTreeMap::new(),
            to_say: BTreeMap::new(),
            keeps: BTreeMap::new(),
            heartbeat_at: Duration::ZERO,
            is_greedy: false,
            is_diligent: false,
            busy_at: elapsed(),
        };
        member.begin_life();
        member
    }

    fn who(&self) -> String {
        format!("{}/{}", self.name, self.lives)
    }

    fn note(&self, what: &str) {
        self.history.history.note(&format!("{} of {GROUP} {what}", self.who()));
    }

    /// Is another one from now on; what it had is not its own.
    fn begin_life(&mut self) {
        self.history.lets_go(&self.who());
        self.lives += 1;
        self.id = Str::from(Uuid::from_u128(u128::from(self.client.dice.next())).to_string());
        self.epoch = 0;
        self.is_greedy = self.client.dice.percent(50);
        self.assigned.clear();
        self.sessions.clear();
        self.to_say.clear();
        self.keeps.clear();
        self.client.hang_up();
    }

    async fn heartbeat(&mut self) {
        self.heartbeat_at = elapsed() + HEARTBEAT;
        let coordinator = match self.coordinator {
            Some(known) => known,
            None => {
                let request = FindCoordinatorRequest { key: GROUP.into(), ..Default::default() };
                let broker = self.client.any();
                let found = self.client.ask(broker, request, 3).await;
                let Some(found) = found.filter(|found| found.error_code.is_ok()) else { return };
                *self.coordinator.insert(found.node_id)
            }
        };
        let request = ShareGroupHeartbeatRequest {
            group_id: GROUP.into(),
            member_id: self.id.clone(),
            member_epoch: self.epoch,
            subscribed_topic_names: (self.epoch == 0).then(|| vec![TOPIC.into()]),
            ..Default::default()
        };
        let Some(answer) = self.ask(coordinator, request, 1).await else {
            self.coordinator = None;
            return;
        };
        match answer.error_code {
            ErrorCode::NONE => {}
            ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::FENCED_MEMBER_EPOCH | ErrorCode::GROUP_ID_NOT_FOUND => {
                self.epoch = 0;
                self.heartbeat_at = elapsed();
                return;
            }
            _ => {
                self.coordinator = None;
                return;
            }
        }
        self.epoch = answer.member_epoch;
        if let Some(assignment) = answer.assignment {
            let topics = assignment.topic_partitions.into_iter();
            let topics = topics.filter(|topic| topic.topic_id == self.topic_id);
            self.assigned = topics.flat_map(|topic| topic.partitions).collect();
            if self.is_greedy && !self.assigned.is_empty() {
                self.assigned = (0..PARTITIONS).collect();
            }
            self.note(&format!("is to read {:?} in epoch {}", self.assigned, self.epoch));
        }
    }

    /// Asks a broker. Its sessions end with the connection.
    async fn ask<R: wire::ApiRequest>(
        &mut self,
        broker: i32,
        request: R,
        version: i16,
    ) -> Option<R::Response> {
        let answer = self.client.ask(broker, request, version).await;
        if answer.is_none() {
            self.end_session(broker);
        }
        answer
    }

    fn end_session(&mut self, broker: i32) {
        self.busy_at = elapsed();
        let Some(session) = self.sessions.remove(&broker) else { return };
        self.history.lets_go(&self.who());
        for partition in session.places {
            self.leaders.remove(&partition);
            self.to_say.remove(&partition);
            self.keeps.remove(&partition);
        }
    }

    /// Who leads what it reads.
    async fn find_leaders(&mut self) -> BTreeMap<i32, BTreeSet<i32>> {
        let mut led: BTreeMap<i32, BTreeSet<i32>> = BTreeMap::new();
        for partition in self.assigned.clone() {
            if !self.leaders.contains_key(&partition) {
                self.busy_at = elapsed();
                if let Some(leader) = self.client.leader(TOPIC, partition).await {
                    self.leaders.insert(partition, leader);
                }
            }
            if let Some(leader) = self.leaders.get(&partition) {
                led.entry(*leader).or_default().insert(partition);
            }
        }
        led
    }

    /// Takes what is to be said of some partitions' records, with what takes its time, where that is over.
    fn take_said(&mut self, places: &BTreeSet<i32>) -> BTreeMap<i32, Said> {
        let mut said = BTreeMap::new();
        for partition in places {
            let mut here = self.to_say.remove(partition).unwrap_or_default();
            if self.client.dice.percent(20) {
                let kept = self.keeps.remove(partition).unwrap_or_default();
                here.extend(kept.into_iter().map(|offset| (offset, ACCEPT)));
            }
            here.sort_unstable();
            here.dedup_by_key(|(offset, _)| *offset);
            if !here.is_empty() {
                said.insert(*partition, here);
            }
        }
        for (partition, here) in &said {
            for (offset, what) in here {
                self.history.says((*partition, *offset), &self.who(), *what != RELEASE);
            }
        }
        said
    }

    fn heard(&self, said: &BTreeMap<i32, Said>, asked: Asked, told: impl Fn(i32) -> Told) {
        for (partition, here) in said {
            let told = told(*partition);
            for (offset, what) in here {
                let is_done = *what != RELEASE;
                self.history.said((*partition, *offset), &self.who(), is_done, (asked, told));
            }
            self.note(&format!("says {here:?} of {partition}: {told:?}"));
        }
    }

    /// Says what has become of records, and nothing else.
    async fn acknowledge(&mut self, broker: i32, places: &BTreeSet<i32>) {
        let said = self.take_said(places);
        let Some(session) = self.sessions.get_mut(&broker).filter(|_| !said.is_empty()) else { return };
        let epoch = session.epoch;
        session.epoch += 1;
        let partitions = said.iter().map(|(partition, here)| acknowledge::AcknowledgePartition {
            partition_index: *partition,
            acknowledgement_batches: batches(here)
                .map(|(first_offset, last_offset, acknowledge_types)| acknowledge::AcknowledgementBatch {
                    first_offset,
                    last_offset,
                    acknowledge_types,
                })
                .collect(),
        });
        let topic =
            acknowledge::AcknowledgeTopic { topic_id: self.topic_id, partitions: partitions.collect() };
        let request = acknowledge::ShareAcknowledgeRequest {
            group_id: Some(GROUP.into()),
            member_id: Some(self.id.clone()),
            share_session_epoch: epoch,
            topics: vec![topic],
            ..Default::default()
        };
        let asked = self.history.ask();
        let Some(answer) = self.ask(broker, request, 2).await else {
            self.heard(&said, asked, |_| Told::NotKnown);
            return;
        };
        if !answer.error_code.is_ok() {
            self.heard(&said, asked, |_| told(answer.error_code));
            self.end_session(broker);
            return;
        }
        let errors: BTreeMap<i32, ErrorCode> = answer
            .responses
            .iter()
            .flat_map(|topic| &topic.partitions)
            .map(|partition| (partition.partition_index, partition.error_code))
            .collect();
        self.heard(&said, asked, |partition| {
            errors.get(&partition).map_or(Told::NotKnown, |error| told(*error))
        });
    }

    /// Fetches what a broker has for it, and says there what has become of records.
    async fn fetch(&mut self, broker: i32, places: &BTreeSet<i32>) {
        if !self.sessions.contains_key(&broker) {
            // What it has not said by now of records that it had there it cannot say any more.
            for partition in places {
                self.to_say.remove(partition);
                self.keeps.remove(partition);
            }
            self.history.lets_go(&self.who());
        }
        let said = self.take_said(places);
        let session = self.sessions.entry(broker).or_default();
        let forgotten: Vec<i32> = session.places.difference(places).copied().collect();
        let named =
            places.iter().filter(|place| !session.places.contains(*place) || said.contains_key(*place));
        let partitions = named.map(|partition| fetch::FetchPartition {
            partition_index: *partition,
            acknowledgement_batches: batches(said.get(partition).map_or(&[], Vec::as_slice))
                .map(|(first_offset, last_offset, acknowledge_types)| fetch::AcknowledgementBatch {
                    first_offset,
                    last_offset,
                    acknowledge_types,
                })
                .collect(),
        });
        let topic = fetch::FetchTopic { topic_id: self.topic_id, partitions: partitions.collect() };
        let forgotten = fetch::ForgottenTopic { topic_id: self.topic_id, partitions: forgotten };
        let request = fetch::ShareFetchRequest {
            group_id: Some(GROUP.into()),
            member_id: Some(self.id.clone()),
            share_session_epoch: session.epoch,
            max_wait_ms: 200,
            min_bytes: 1,
            max_records: RECORDS_MAX,
            batch_size: RECORDS_MAX,
            share_acquire_mode: i8::from(self.client.dice.percent(50)),
            topics: if topic.partitions.is_empty() { Vec::new() } else { vec![topic] },
            forgotten_topics_data: if forgotten.partitions.is_empty() { Vec::new() } else { vec![forgotten] },
            ..Default::default()
        };
        session.epoch += 1;
        session.places.clone_from(places);
        let asked = self.history.ask();
        let before = self.terms(places);
        let Some(answer) = self.ask(broker, request, 2).await else {
            places.iter().for_each(|partition| self.history.unanswered(*partition));
            self.heard(&said, asked, |_| Told::NotKnown);
            return;
        };
        if !answer.error_code.is_ok() {
            self.heard(&said, asked, |_| told(answer.error_code));
            self.end_session(broker);
            return;
        }
        let after = self.terms(places);
        let mut errors: BTreeMap<i32, ErrorCode> = BTreeMap::new();
        for data in answer.responses.into_iter().flat_map(|topic| topic.partitions) {
            let partition = data.partition_index;
            errors.insert(partition, data.acknowledge_error_code);
            if !data.error_code.is_ok() {
                self.busy_at = elapsed();
                self.leaders.remove(&partition);
            }
            let term = before.get(&partition).filter(|term| after.get(&partition) == Some(*term));
            let term = term.filter(|term| term.broker == broker).copied();
            self.take(data, (asked, term));
        }
        self.heard(&said, asked, |partition| {
            errors.get(&partition).map_or(Told::NotKnown, |error| told(*error))
        });
    }

    fn terms(&self, places: &BTreeSet<i32>) -> BTreeMap<i32, Leads> {
        let leader = |partition: &i32| Some((*partition, self.truth.leader(TOPIC, *partition)?));
        places.iter().filter_map(leader).collect()
    }

    /// Takes records, and decides what becomes of them.
    fn take(&mut self, data: fetch::PartitionData, from: (Asked, Option<Leads>)) {
        let partition = data.partition_index;
        let values: BTreeMap<i64, String> = load::values(data.records, 0).into_iter().collect();
        for run in data.acquired_records {
            self.busy_at = elapsed();
            self.note(&format!(
                "has {partition}/{} to {} for the {}th time",
                run.first_offset, run.last_offset, run.delivery_count
            ));
            for offset in run.first_offset..=run.last_offset {
                let place = (partition, offset);
                match values.get(&offset) {
                    Some(value) => self.history.history.read(place, value),
                    None => {
                        let message = format!("{place:?} is delivered to {}, and no record", self.who());
                        self.history.history.anomaly(message);
                    }
                }
                self.history.delivered(place, run.delivery_count, &self.who(), from);
                let said = match self.client.dice.below(100) {
                    _ if self.is_diligent => ACCEPT,
                    0..75 => ACCEPT,
                    75..84 => RELEASE,
                    84..89 => REJECT,
                    _ => {
                        self.keeps.entry(partition).or_default().insert(offset);
                        continue;
                    }
                };
                self.to_say.entry(partition).or_default().push((offset, said));
            }
        }
    }

    /// One round of a member's work.
    async fn work(&mut self) {
        if elapsed() >= self.heartbeat_at {
            self.heartbeat().await;
        }
        for (broker, places) in self.find_leaders().await {
            self.fetch(broker, &places).await;
            if self.client.dice.percent(50) {
                self.acknowledge(broker, &places).await;
            }
        }
    }

    async fn leave(&mut self) {
        self.history.lets_go(&self.who());
        self.epoch = -1;
        self.heartbeat().await;
    }
}

/// What is certain of what was said.
fn told(error: ErrorCode) -> Told {
    match error {
        ErrorCode::NONE => Told::Done,
        ErrorCode::INVALID_RECORD_STATE
        | ErrorCode::INVALID_REQUEST
        | ErrorCode::SHARE_SESSION_NOT_FOUND
        | ErrorCode::INVALID_SHARE_SESSION_EPOCH => Told::Refused,
        _ => Told::NotKnown,
    }
}

/// Neighbours together.
fn batches(said: &[(i64, i8)]) -> impl Iterator<Item = (i64, i64, Vec<i8>)> {
    said.chunk_by(|a, b| a.0 + 1 == b.0).map(|run| {
        let types = run.iter().map(|(_, what)| *what).collect();
        (run[0].0, run[run.len() - 1].0, types)
    })
}

/// A member, one life after the other, until told to end.
pub(crate) async fn member(
    client: Client,
    name: &'static str,
    (history, truth): (ShareHistory, Truth),
    until: Duration,
) {
    let mut member = Member::new(client, name, history, truth).await;
    while elapsed() < until {
        member.work().await;
        match member.client.dice.below(100) {
            0..4 => {
                let silence = Duration::from_millis(500 + member.client.dice.below(4_500));
                member.note(&format!("is silent for {silence:?}"));
                sleep(silence).await;
            }
            4..6 => {
                member.note("leaves");
                member.leave().await;
                member.begin_life();
                sleep(Duration::from_millis(member.client.dice.below(1_000))).await;
            }
            6..8 => {
                member.note("is killed");
                member.begin_life();
            }
            _ => sleep(Duration::from_millis(20 + member.client.dice.below(100))).await,
        }
    }
    member.begin_life();
}

/// In the healed cluster one more member takes what is left. Nothing is missing then.
pub(crate) async fn verify(client: Client, history: ShareHistory, truth: Truth) {
    let mut member = Member::new(client, "last", history, truth).await;
    member.is_diligent = true;
    let quiet = SHARE_LOCK + Duration::from_millis(1_000);
    let came = timeout(WHOLE_MAX, async {
        while member.assigned.len() < PARTITIONS.unsigned_abs() as usize
            || elapsed() < member.busy_at + quiet
            || !member.to_say.is_empty()
        {
            member.work().await;
            sleep(RETRY).await;
        }
    });
    if came.await.is_err() {
        let (assigned, leaders) = (member.assigned.clone(), member.leaders.clone());
        member.history.history.anomaly(format!(
            "the share group of the healed cluster does not come to rest: its last member is to read {assigned:?}, led by {leaders:?}"
        ));
        return;
    }
    for partition in 0..PARTITIONS {
        member.history.check_all(partition, member.history.history.end_of(partition));
    }
    member.note("is the last, and there is nothing left");
}
