//! `ottla cluster health`: whether everything is as it should be, and if not, what and what helps.
//!
//! First the cluster is asked ([`look`]), then what it said is judged ([`judge`]), which is pure. A problem
//! makes the cluster unhealthy and the exit code 1; a note does not. Each names what helps in one line.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::Args;
use client::{
    Admin, BrokerInfo, Cluster, ClusterInfo, Error, Isolation, OffsetSpec, OngoingReassignment,
    PartitionInfo, TopicInfo,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use wire::{BrokerId, Str, TopicPartition};

use super::colon;
use super::progress::{Patience, Progress};
use super::quorum::{self, LAG_MAX, NO_CONTROLLER, REACH_WAIT, is_heard};
use crate::connect::ConnectArgs;
use crate::failure::Failure;
use crate::output::{self, OutputArgs, Style, cell};
use crate::topic::{key_value_table, section_text};

/// Partitions that one finding names; the others are counted.
const NAMED_MAX: usize = 20;
/// Between two looks of `--wait`.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// Who asks whether things are well wants to know soon.
const ANSWER_WAIT_MS: &str = "5000";
/// Voters below which none may fail.
const VOTERS_MIN: usize = 3;

/// Say whether the cluster is healthy and, if it is not, what helps
#[derive(Debug, Args)]
#[command(after_help = "\
Unhealthy is: no active controller, voters that are silent or lag, brokers that are fenced (registered and not
counted in) or do not answer, and partitions that have no leader or one that cannot serve them, lack replicas in
sync, or have fewer in sync than min.insync.replicas. Partitions led by another than their preferred replica and reassignments under way
are noted.

Exit codes: 0 healthy, 1 not.

Examples:
  ottla cluster health
  ottla cluster health --wait 60                  # after a restart: until all is well, for a minute at most
  ottla cluster health --format json")]
pub(super) struct HealthArgs {
    /// Look again until the cluster is healthy or so many seconds have passed
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
}

pub(super) async fn run(args: HealthArgs, output: OutputArgs, connect: &ConnectArgs) -> Result<(), Failure> {
    let cluster = connect.unreached_cluster(|options| {
        for key in ["default.api.timeout.ms", "request.timeout.ms"] {
            options.set(key, ANSWER_WAIT_MS).expect("the client has this option");
        }
    })?;
    let patience = Patience::new(Some(args.wait.unwrap_or(0)));
    let progress = Progress::new();
    let health = loop {
        let health = look(&cluster).await;
        if health.is_healthy() || patience.is_over() {
            break health;
        }
        let problems = health.problems.len();
        progress.show(format_args!("not healthy yet: {}{}", plural(problems, "problem"), patience.left()));
        patience.pause(LOOK_PAUSE).await;
    };
    drop(progress);
    health.print(output)?;
    if health.is_healthy() { Ok(()) } else { Err(Failure::Reported) }
}

/// What the cluster says of itself.
#[derive(Debug)]
struct Facts {
    cluster: ClusterInfo,
    quorum: Quorum,
    /// Brokers that are counted in and do not answer here.
    unreachable: Vec<BrokerId>,
    topics: Vec<TopicInfo>,
    /// The setting of each topic.
    min_in_sync: BTreeMap<Str, usize>,
    ongoing: Vec<OngoingReassignment>,
    /// Partitions whose leader answers, and not for them, and what it says.
    unserved: Vec<(TopicPartition, String)>,
}

#[derive(Debug)]
enum Quorum {
    Known(client::QuorumInfo),
    /// Nobody could answer.
    Leaderless,
    /// A broker that does not tell.
    Untold,
}

/// Something that was found.
#[derive(Debug)]
struct Finding {
    /// For programs.
    kind: &'static str,
    message: String,
    advice: String,
    partitions: Vec<TopicPartition>,
}

/// How the cluster is.
#[derive(Debug, Default)]
struct Health {
    summary: Vec<(String, Value)>,
    problems: Vec<Finding>,
    notes: Vec<Finding>,
}

/// Asks and judges; what could not be asked is a problem as well.
async fn look(cluster: &Cluster) -> Health {
    if let Err(error) = cluster.reach().await {
        let advice = "is a broker running there? `--brokers` names others to start from";
        let problem = Finding::new("no_broker_answers", format!("no broker answers: {error}"), advice);
        return Health { problems: vec![problem], ..Health::default() };
    }
    match facts(&Admin::new(cluster.clone())).await {
        Ok(facts) => judge(&facts),
        Err(error) => {
            let advice = error.advice().unwrap_or("ask again; the brokers' logs may tell more");
            let problem = Finding::new("unanswered", format!("the cluster does not answer: {error}"), advice);
            Health { problems: vec![problem], ..Health::default() }
        }
    }
}

async fn facts(admin: &Admin) -> Result<Facts, Error> {
    let cluster = admin.describe_cluster().await?;
    let topics = admin.list_topics().await?;
    let names: Vec<Str> = topics.iter().map(|topic| topic.name.clone()).collect();
    let min_in_sync = admin.topic_setting(&names, &Str::from("min.insync.replicas")).await?;
    let ongoing = match admin.list_reassignments().await {
        // Older than Kafka 2.4.
        Err(Error::Unsupported { .. }) => Vec::new(),
        ongoing => ongoing?,
    };
    let unreachable = unreachable(admin, &cluster.brokers).await;
    let unserved = unserved(admin, &topics, &unreachable).await?;
    let quorum = match quorum::look(admin).await {
        Ok(quorum) if quorum.leader.is_some() => Quorum::Known(quorum),
        Ok(_) | Err(Error::Timeout { .. } | Error::Disconnected { .. } | Error::Connect { .. }) => {
            Quorum::Leaderless
        }
        Err(Error::Unsupported { .. }) => Quorum::Untold,
        Err(error) => return Err(error),
    };
    let min_in_sync = min_in_sync
        .into_iter()
        // A topic that was just deleted has none.
        .filter_map(|(topic, value)| Some((topic, value.ok()??.parse().ok()?)))
        .collect();
    Ok(Facts { cluster, quorum, unreachable, topics, min_in_sync, ongoing, unserved })
}

async fn unreachable(admin: &Admin, brokers: &[BrokerInfo]) -> Vec<BrokerId> {
    let mut reaching = JoinSet::new();
    for id in brokers.iter().filter(|broker| !broker.is_fenced).map(|broker| broker.id) {
        let admin = admin.clone();
        reaching.spawn(async move { (id, admin.reach(id, REACH_WAIT).await) });
    }
    let mut unreachable: Vec<_> = reaching
        .join_all()
        .await
        .into_iter()
        .filter(|(_, reached)| reached.is_err())
        .map(|(id, _)| id)
        .collect();
    unreachable.sort();
    unreachable
}

/// Asks every leader that answers where its partitions end.
async fn unserved(
    admin: &Admin,
    topics: &[TopicInfo],
    unreachable: &[BrokerId],
) -> Result<Vec<(TopicPartition, String)>, Error> {
    let led = topics.iter().flat_map(|topic| {
        let is_asked = |partition: &&PartitionInfo| {
            partition.leader.is_some_and(|leader| !unreachable.contains(&leader))
        };
        let name = |partition: &PartitionInfo| TopicPartition::new(topic.name.clone(), partition.id);
        topic.partitions.iter().filter(is_asked).map(move |partition| (name(partition), OffsetSpec::Latest))
    });
    let asked: Vec<_> = led.collect();
    let listed = admin.list_offsets(&asked, Isolation::ReadUncommitted).await?;
    let failed = listed.into_iter().filter_map(|(partition, listed)| {
        let why = match listed.err()? {
            // Deleted meanwhile.
            Error::UnknownTopic { .. } | Error::UnknownPartition { .. } => return None,
            Error::Timeout { last: Some(last), .. } => last.to_string(),
            error => error.to_string(),
        };
        Some((partition, why))
    });
    Ok(failed.collect())
}

/// What follows from what the cluster says.
fn judge(facts: &Facts) -> Health {
    let mut health = Health { summary: summary(facts), ..Health::default() };
    judge_quorum(facts, &mut health);
    judge_brokers(facts, &mut health);
    judge_partitions(facts, &mut health);
    health
}

fn summary(facts: &Facts) -> Vec<(String, Value)> {
    let ids = |ids: Vec<BrokerId>| -> Value { ids.into_iter().map(|id| id.0).collect() };
    let brokers = |is_fenced| {
        let brokers = facts.cluster.brokers.iter().filter(|broker| broker.is_fenced == is_fenced);
        ids(brokers.map(|broker| broker.id).collect())
    };
    let (controller, voters) = match &facts.quorum {
        Quorum::Known(quorum) => (quorum.leader, ids(quorum.voters.iter().map(|voter| voter.id).collect())),
        Quorum::Leaderless => (None, Value::Null),
        Quorum::Untold => (facts.cluster.controller, Value::Null),
    };
    let partitions: usize = facts.topics.iter().map(|topic| topic.partitions.len()).sum();
    let fields = [
        ("cluster_id", facts.cluster.cluster_id.as_ref().into()),
        ("controller", controller.map_or(Value::Null, |id| id.0.into())),
        ("voters", voters),
        ("brokers", brokers(false)),
        ("fenced", brokers(true)),
        ("topics", facts.topics.len().into()),
        ("partitions", partitions.into()),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn judge_quorum(facts: &Facts, health: &mut Health) {
    let quorum = match &facts.quorum {
        Quorum::Known(quorum) => quorum,
        Quorum::Untold => return,
        Quorum::Leaderless => {
            let message = format!("{NO_CONTROLLER}; brokers and partitions are shown as last known");
            let advice = "start the brokers that vote; `controller.quorum.voters` names them";
            health.problem("no_active_controller", message, advice);
            return;
        }
    };
    let voters = quorum.voters.len();
    let silent: Vec<_> =
        quorum.voters.iter().filter(|voter| !is_heard(voter)).map(|voter| voter.id).collect();
    for id in &silent {
        let heard = voters - silent.len();
        let message = format!("voter {id} of the metadata quorum is silent: {heard} of {voters} are heard");
        let advice =
            format!("start broker {id} again; if it is gone for good, `ottla cluster quorum remove {id}`");
        health.problem("voter_silent", message, advice);
    }
    for voter in quorum.voters.iter().filter(|voter| is_heard(voter) && quorum.lag(voter) > LAG_MAX) {
        let (id, lag) = (voter.id, quorum.lag(voter));
        let message = format!("voter {id} of the metadata quorum lags by {}", plural(lag as usize, "record"));
        let advice = format!("it catches up by itself, unless disk or network of broker {id} are too slow");
        health.problem("voter_lags", message, advice);
    }
    let is_candidate = |broker: &&BrokerInfo| {
        !broker.is_fenced && quorum.observers.iter().any(|observer| observer.id == broker.id)
    };
    if voters < VOTERS_MIN && facts.cluster.brokers.len() >= VOTERS_MIN {
        let candidate = facts.cluster.brokers.iter().find(is_candidate);
        let id = candidate.map_or("ID".to_owned(), |broker| broker.id.to_string());
        let message = format!("the metadata has {}: none may fail", plural(voters, "voter"));
        health.note("few_voters", message, format!("`ottla cluster quorum add {id}` gives another a vote"));
    }
}

fn judge_brokers(facts: &Facts, health: &mut Health) {
    if facts.cluster.brokers.iter().all(|broker| broker.is_fenced) {
        let advice =
            "they are counted in when they have caught up with the metadata; their logs tell what is missing";
        health.problem("no_brokers", "no broker is counted in", advice);
    }
    if let Quorum::Known(quorum) = &facts.quorum {
        let is_registered = |id| facts.cluster.brokers.iter().any(|broker| broker.id == id);
        let (brokers, others): (Vec<_>, Vec<_>) =
            quorum.voters.iter().map(|voter| voter.id).partition(|id| is_registered(*id));
        // Elsewhere, voters can be controllers and nothing else; then none of them is a broker.
        for id in others.into_iter().filter(|_| !brokers.is_empty()) {
            let message = format!("broker {id} has a vote and is not registered");
            health.problem(
                "broker_not_registered",
                message,
                "it is starting, or its log tells what is missing",
            );
        }
    }
    let keeps = |id: BrokerId| {
        let partitions = facts.topics.iter().flat_map(|topic| &topic.partitions);
        partitions.filter(|partition| partition.replicas.contains(&id)).count()
    };
    for broker in &facts.cluster.brokers {
        let id = broker.id;
        if broker.is_fenced {
            let message = format!("broker {id} is fenced: it is registered and not counted in");
            let gone = match keeps(id) {
                0 => format!("`ottla cluster unregister {id}`"),
                _ => format!("`ottla cluster decommission {id} --unregister`"),
            };
            let advice = format!("start it again; if it is gone for good, {gone}");
            health.problem("broker_fenced", message, advice);
        } else if facts.unreachable.contains(&id) {
            let message = format!(
                "broker {id} is counted in, and does not answer here at {}:{}",
                broker.host, broker.port
            );
            let advice =
                "it has just stopped, or the address is not reachable from here (advertised.listeners)";
            health.problem("broker_unreachable", message, advice);
        }
    }
}

fn judge_partitions(facts: &Facts, health: &mut Health) {
    let adding: BTreeMap<&TopicPartition, &[BrokerId]> =
        facts.ongoing.iter().map(|ongoing| (&ongoing.partition, ongoing.adding.as_slice())).collect();
    let find = |is_found: &dyn Fn(&TopicPartition, &PartitionInfo) -> bool| -> Vec<TopicPartition> {
        let partitions = facts.topics.iter().flat_map(|topic| {
            let name = |partition: &PartitionInfo| TopicPartition::new(topic.name.clone(), partition.id);
            topic.partitions.iter().map(move |partition| (name(partition), partition))
        });
        partitions.filter(|(name, partition)| is_found(name, partition)).map(|(name, _)| name).collect()
    };
    // Those that keep what is missing.
    let absent = |partitions: &[TopicPartition]| {
        let named: BTreeSet<_> = partitions.iter().collect();
        let mut absent = BTreeSet::new();
        for topic in &facts.topics {
            for partition in &topic.partitions {
                if named.contains(&TopicPartition::new(topic.name.clone(), partition.id)) {
                    absent.extend(partition.replicas.iter().filter(|id| !partition.in_sync.contains(id)));
                }
            }
        }
        cell(&absent.into_iter().map(|id: &BrokerId| id.0).collect())
    };

    let leaderless = find(&|_, partition| partition.leader.is_none());
    let message =
        format!("{} without a leader: neither written nor read", plural(leaderless.len(), "partition"));
    let advice = format!(
        "start the brokers that keep them; if those are gone for good, `ottla cluster elect --unclean {}` \
         gives up what only they had",
        leaderless.first().map(colon).unwrap_or_default()
    );
    health.partitions("partitions_without_leader", message, advice, leaderless);

    if let Some((_, why)) = facts.unserved.first() {
        let partitions: Vec<_> = facts.unserved.iter().map(|(partition, _)| partition.clone()).collect();
        let message = format!("{} not served by the leader: {why}", plural(partitions.len(), "partition"));
        let advice =
            "the leader's log names the cause; a failed disk is replaced, then the broker started again";
        health.partitions("partitions_not_served", message, advice.to_owned(), partitions);
    }

    let too_few = find(&|name, partition| {
        let asked = facts.min_in_sync.get(&name.topic).copied().unwrap_or(1);
        // As the brokers do: a topic of fewer replicas asks for all of them.
        partition.in_sync.len() < asked.min(partition.replicas.len()).max(1)
    });
    let message = format!(
        "{} with fewer replicas in sync than min.insync.replicas: producers with acks=all are refused",
        plural(too_few.len(), "partition")
    );
    let advice = format!("start the brokers that keep them, or let them catch up: {}", absent(&too_few));
    health.partitions("partitions_under_min_in_sync", message, advice, too_few);

    let under_replicated = find(&|name, partition| {
        let adding = adding.get(name).copied().unwrap_or(&[]);
        let is_missing = |id: &BrokerId| !adding.contains(id) && !partition.in_sync.contains(id);
        partition.replicas.iter().any(is_missing)
    });
    let message =
        format!("{} with replicas that are not in sync", plural(under_replicated.len(), "partition"));
    let advice =
        format!("start the brokers that keep them, or let them catch up: {}", absent(&under_replicated));
    health.partitions("partitions_under_replicated", message, advice, under_replicated);

    let led_by_others = find(&|_, partition| {
        partition.leader.is_some_and(|leader| partition.replicas.first() != Some(&leader))
    });
    if !led_by_others.is_empty() {
        let count = plural(led_by_others.len(), "partition");
        let message = format!("{count} led by another than the preferred replica");
        let mut note =
            Finding::new("partitions_led_by_others", message, "`ottla cluster elect` changes that");
        note.partitions = led_by_others;
        health.notes.push(note);
    }
    if !facts.ongoing.is_empty() {
        let message = format!("{} under way", plural(facts.ongoing.len(), "reassignment"));
        health.note("reassignments", message, "`ottla cluster reassign list` shows them");
    }
}

/// `1 record`, `2 records`.
pub(super) fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

impl Finding {
    fn new(kind: &'static str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { kind, message: message.into(), advice: advice.into(), partitions: Vec::new() }
    }

    fn json(&self) -> Value {
        let mut object = json!({ "kind": self.kind, "message": self.message, "tip": self.advice });
        if !self.partitions.is_empty() {
            object["partition_count"] = self.partitions.len().into();
            object["partitions"] = self.partitions.iter().take(NAMED_MAX).map(colon).collect();
        }
        object
    }

    fn text(&self) -> String {
        let mut text = format!("{}\n", self.message);
        if !self.partitions.is_empty() {
            let named: Vec<_> = self.partitions.iter().take(NAMED_MAX).map(colon).collect();
            let more = self.partitions.len().saturating_sub(NAMED_MAX);
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            text += &format!("  {}{more}\n", named.join(" "));
        }
        text + &format!("  tip: {}\n", self.advice)
    }
}

impl Health {
    fn is_healthy(&self) -> bool {
        self.problems.is_empty()
    }

    fn problem(&mut self, kind: &'static str, message: impl Into<String>, advice: impl Into<String>) {
        self.problems.push(Finding::new(kind, message, advice));
    }

    fn note(&mut self, kind: &'static str, message: impl Into<String>, advice: impl Into<String>) {
        self.notes.push(Finding::new(kind, message, advice));
    }

    /// A problem of partitions, if there are any.
    fn partitions(
        &mut self,
        kind: &'static str,
        message: String,
        advice: String,
        partitions: Vec<TopicPartition>,
    ) {
        if !partitions.is_empty() {
            self.problems.push(Finding { kind, message, advice, partitions });
        }
    }

    fn print(&self, output: OutputArgs) -> Result<(), Failure> {
        match output.style() {
            Style::Json => {
                let mut object = serde_json::Map::from_iter(self.summary.iter().cloned());
                object.insert("healthy".to_owned(), self.is_healthy().into());
                object.insert("problems".to_owned(), self.problems.iter().map(Finding::json).collect());
                object.insert("notes".to_owned(), self.notes.iter().map(Finding::json).collect());
                output::print_json(&Value::Object(object))
            }
            Style::Table => output::print(&self.text()),
        }
    }

    fn text(&self) -> String {
        let healthy = [("healthy".to_owned(), Value::from(if self.is_healthy() { "yes" } else { "no" }))];
        let summary: Vec<_> = healthy.into_iter().chain(self.summary.iter().cloned()).collect();
        let mut sections = vec![("CLUSTER", key_value_table(&summary))];
        for (title, findings) in [("PROBLEMS", &self.problems), ("NOTES", &self.notes)] {
            if !findings.is_empty() {
                sections.push((title, findings.iter().map(Finding::text).collect()));
            }
        }
        section_text(sections)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use client::{
        BrokerInfo, ClusterInfo, OngoingReassignment, PartitionInfo, QuorumInfo, QuorumMember, TopicInfo,
    };
    use expect_test::{Expect, expect};
    use wire::{BrokerId, ErrorCode, LeaderEpoch, Offset, PartitionId, Str, TopicPartition, Uuid};

    use super::{Facts, Quorum, judge};

    fn ids(ids: &[i32]) -> Vec<BrokerId> {
        ids.iter().copied().map(BrokerId).collect()
    }

    fn partition(id: i32, leader: i32, replicas: &[i32], in_sync: &[i32]) -> PartitionInfo {
        PartitionInfo {
            id: PartitionId(id),
            leader: Some(BrokerId(leader)).filter(|id| id.0 >= 0),
            leader_epoch: LeaderEpoch(0),
            replicas: ids(replicas),
            in_sync: ids(in_sync),
            offline: Vec::new(),
            error: ErrorCode::NONE,
        }
    }

    /// Three brokers that all vote, and a topic of these partitions that wants two replicas in sync.
    fn facts(partitions: Vec<PartitionInfo>) -> Facts {
        let broker = |id| BrokerInfo {
            id: BrokerId(id),
            host: Str::from("host"),
            port: 9092,
            rack: None,
            is_fenced: false,
        };
        let voter =
            |id| QuorumMember { id: BrokerId(id), log_end: Offset(500), silence: Some(Duration::ZERO) };
        Facts {
            cluster: ClusterInfo {
                cluster_id: Str::from("trio"),
                controller: Some(BrokerId(1)),
                brokers: (1..=3).map(broker).collect(),
            },
            quorum: Quorum::Known(QuorumInfo {
                leader: Some(BrokerId(1)),
                term: 1,
                high_watermark: Offset(500),
                voters: (1..=3).map(voter).collect(),
                observers: Vec::new(),
            }),
            unreachable: Vec::new(),
            topics: vec![TopicInfo {
                name: Str::from("orders"),
                id: Uuid::ZERO,
                is_internal: false,
                partitions,
            }],
            min_in_sync: BTreeMap::from([(Str::from("orders"), 2)]),
            ongoing: Vec::new(),
            unserved: Vec::new(),
        }
    }

    #[track_caller]
    fn check(facts: &Facts, expected: Expect) {
        expected.assert_eq(&judge(facts).text());
    }

    #[test]
    fn where_all_is_well_there_is_nothing_to_say() {
        // A topic of one replica cannot have two in sync.
        let facts = facts(vec![partition(0, 1, &[1, 2, 3], &[3, 2, 1]), partition(1, 2, &[2], &[2])]);
        assert!(judge(&facts).is_healthy());
        check(
            &facts,
            expect![[r#"
            HEALTHY     yes
            CLUSTER-ID  trio
            CONTROLLER  1
            VOTERS      1,2,3
            BROKERS     1,2,3
            FENCED      -
            TOPICS      1
            PARTITIONS  2
        "#]],
        );
    }

    #[test]
    fn a_broker_that_is_gone_shows_in_all_that_it_carried() {
        let mut facts = facts(vec![
            partition(0, 2, &[1, 2, 3], &[2, 3]),
            partition(1, 2, &[2, 1], &[2]),
            partition(2, -1, &[1], &[1]),
        ]);
        facts.cluster.brokers[0].is_fenced = true;
        if let Quorum::Known(quorum) = &mut facts.quorum {
            quorum.leader = Some(BrokerId(2));
            quorum.voters[0].silence = None;
            quorum.voters[2].log_end = Offset(100);
        }
        check(
            &facts,
            expect![[r#"
            CLUSTER
            =======
            HEALTHY     no
            CLUSTER-ID  trio
            CONTROLLER  2
            VOTERS      1,2,3
            BROKERS     2,3
            FENCED      1
            TOPICS      1
            PARTITIONS  3

            PROBLEMS
            ========
            voter 1 of the metadata quorum is silent: 2 of 3 are heard
              tip: start broker 1 again; if it is gone for good, `ottla cluster quorum remove 1`
            voter 3 of the metadata quorum lags by 400 records
              tip: it catches up by itself, unless disk or network of broker 3 are too slow
            broker 1 is fenced: it is registered and not counted in
              tip: start it again; if it is gone for good, `ottla cluster decommission 1 --unregister`
            1 partition without a leader: neither written nor read
              orders:2
              tip: start the brokers that keep them; if those are gone for good, `ottla cluster elect --unclean orders:2` gives up what only they had
            1 partition with fewer replicas in sync than min.insync.replicas: producers with acks=all are refused
              orders:1
              tip: start the brokers that keep them, or let them catch up: 1
            2 partitions with replicas that are not in sync
              orders:0 orders:1
              tip: start the brokers that keep them, or let them catch up: 1

            NOTES
            =====
            1 partition led by another than the preferred replica
              orders:0
              tip: `ottla cluster elect` changes that
        "#]],
        );
    }

    #[test]
    fn a_voter_that_has_not_registered_is_still_to_come() {
        let mut facts = facts(Vec::new());
        facts.cluster.brokers.truncate(2);
        check(
            &facts,
            expect![[r#"
            CLUSTER
            =======
            HEALTHY     no
            CLUSTER-ID  trio
            CONTROLLER  1
            VOTERS      1,2,3
            BROKERS     1,2
            FENCED      -
            TOPICS      1
            PARTITIONS  0

            PROBLEMS
            ========
            broker 3 has a vote and is not registered
              tip: it is starting, or its log tells what is missing
        "#]],
        );
        facts.cluster.brokers.clear();
        check(
            &facts,
            expect![[r#"
            CLUSTER
            =======
            HEALTHY     no
            CLUSTER-ID  trio
            CONTROLLER  1
            VOTERS      1,2,3
            BROKERS     -
            FENCED      -
            TOPICS      1
            PARTITIONS  0

            PROBLEMS
            ========
            no broker is counted in
              tip: they are counted in when they have caught up with the metadata; their logs tell what is missing
        "#]],
        );
    }

    #[test]
    fn without_a_controller_the_rest_is_as_last_known() {
        let mut facts = facts(vec![partition(0, 1, &[1, 2, 3], &[1, 2, 3])]);
        facts.quorum = Quorum::Leaderless;
        facts.unreachable = ids(&[2, 3]);
        check(
            &facts,
            expect![[r#"
            CLUSTER
            =======
            HEALTHY     no
            CLUSTER-ID  trio
            CONTROLLER  -
            VOTERS      -
            BROKERS     1,2,3
            FENCED      -
            TOPICS      1
            PARTITIONS  1

            PROBLEMS
            ========
            no active controller: a majority of the voters must be up; brokers and partitions are shown as last known
              tip: start the brokers that vote; `controller.quorum.voters` names them
            broker 2 is counted in, and does not answer here at host:9092
              tip: it has just stopped, or the address is not reachable from here (advertised.listeners)
            broker 3 is counted in, and does not answer here at host:9092
              tip: it has just stopped, or the address is not reachable from here (advertised.listeners)
        "#]],
        );
    }

    #[test]
    fn what_a_reassignment_still_adds_is_not_missing() {
        let mut facts = facts(vec![partition(0, 1, &[2, 3, 1], &[1, 3])]);
        facts.ongoing = vec![OngoingReassignment {
            partition: TopicPartition::new("orders", PartitionId(0)),
            replicas: ids(&[2, 3, 1]),
            adding: ids(&[2]),
            removing: ids(&[1]),
        }];
        assert!(judge(&facts).is_healthy());
        check(
            &facts,
            expect![[r#"
            CLUSTER
            =======
            HEALTHY     yes
            CLUSTER-ID  trio
            CONTROLLER  1
            VOTERS      1,2,3
            BROKERS     1,2,3
            FENCED      -
            TOPICS      1
            PARTITIONS  1

            NOTES
            =====
            1 partition led by another than the preferred replica
              orders:0
              tip: `ottla cluster elect` changes that
            1 reassignment under way
              tip: `ottla cluster reassign list` shows them
        "#]],
        );
    }

    #[test]
    fn of_many_partitions_some_are_named_and_all_are_counted() {
        let partitions = (0..30).map(|id| partition(id, 1, &[1, 2], &[1])).collect();
        check(
            &facts(partitions),
            expect![[r#"
            CLUSTER
            =======
            HEALTHY     no
            CLUSTER-ID  trio
            CONTROLLER  1
            VOTERS      1,2,3
            BROKERS     1,2,3
            FENCED      -
            TOPICS      1
            PARTITIONS  30

            PROBLEMS
            ========
            30 partitions with fewer replicas in sync than min.insync.replicas: producers with acks=all are refused
              orders:0 orders:1 orders:2 orders:3 orders:4 orders:5 orders:6 orders:7 orders:8 orders:9 orders:10 orders:11 orders:12 orders:13 orders:14 orders:15 orders:16 orders:17 orders:18 orders:19 and 10 more
              tip: start the brokers that keep them, or let them catch up: 2
            30 partitions with replicas that are not in sync
              orders:0 orders:1 orders:2 orders:3 orders:4 orders:5 orders:6 orders:7 orders:8 orders:9 orders:10 orders:11 orders:12 orders:13 orders:14 orders:15 orders:16 orders:17 orders:18 orders:19 and 10 more
              tip: start the brokers that keep them, or let them catch up: 2
        "#]],
        );
    }
}
