//! Apache Kafka's tools for clusters, on three brokers of which some are killed on the way.
//! What a tool prints is compared with what was done before; brokers are found through the list of all and through a
//! single one that is not the controller. Only waiting is left to `ottla`, which starts in no time.

mod members;

use super::console::{require, settled};
use super::{Run, Step, StepOutcome};
use crate::shell;
use members::{BROKERS, CLUSTER_ID, Members};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

type ClusterFn = fn(&mut Cluster<'_>) -> StepOutcome;

/// Each goes on where the one before it has stopped.
const STEPS: &[(&str, ClusterFn)] = &[
    ("start", start),
    ("brokers", brokers),
    ("topics", topics),
    ("records", records),
    ("groups", groups),
    ("delete-records", delete_records),
    ("reassign", reassign),
    ("configs", configs),
    ("one-down", one_down),
    ("move-without-leader", move_without_leader),
    ("go-on", go_on),
    ("unclean", unclean),
    ("unregister", unregister),
    ("preferred", preferred),
    ("end", end),
];

const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";
const GROUPS: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
const CONFIGS: &str = "kafka.admin.ConfigCommand";
const OFFSETS: &str = "org.apache.kafka.tools.GetOffsetShell";
const QUORUM: &str = "org.apache.kafka.tools.MetadataQuorumCommand";
const REASSIGN: &str = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand";
const ELECTION: &str = "org.apache.kafka.tools.LeaderElectionCommand";

/// Three copies of each partition; leaders where the controller put them.
const SPREAD: &str = "spread";
/// Two copies each, where the test put them.
const PLACED: &str = "placed";
/// One copy.
const LONELY: &str = "lonely";
const SPREAD_PARTITIONS: u32 = 6;
/// Consecutive hashes, so that all partitions of the offsets topic have some.
const GROUP_NAMES: [&str; 6] = ["group0", "group1", "group2", "group3", "group4", "group5"];
const LINES: usize = 600;
/// Records that kafka-delete-records deletes.
const DELETED: usize = 5;
const WAIT_SECONDS_MAX: u64 = 60;
const OK: StepOutcome = Ok((0, 0, String::new()));

/// What a tool is told to begin with.
#[derive(Clone, Copy)]
enum Through {
    All,
    /// One broker that is up and was not the controller in the beginning.
    One,
}
use Through::{All, One};

struct Cluster<'a> {
    run: &'a Run<'a>,
    log: PathBuf,
    members: Members,
    controller: usize,
    /// The one that is killed first and comes back when `second` is killed.
    first: usize,
    second: usize,
    /// The broker behind [`Through::One`].
    one: usize,
    /// The directory of the one that is killed second, as the quorum knows it.
    directory: String,
    produced: Vec<String>,
}

/// Runs all steps on a cluster of their own.
pub(super) fn run(run: &Run<'_>, log: &Path) -> (Vec<Step>, Result<(), String>) {
    let members = match Members::start(&run.binary, &run.logs.join("cluster")) {
        Ok(members) => members,
        Err(reason) => return (Vec::new(), Err(reason)),
    };
    let log = log.to_path_buf();
    let mut cluster = Cluster {
        run,
        log,
        members,
        controller: 1,
        first: 2,
        second: 3,
        one: 3,
        directory: String::new(),
        produced: Vec::new(),
    };
    super::in_steps(STEPS, |step| {
        let outcome = step(&mut cluster)?;
        cluster.members.check()?;
        Ok(outcome)
    })
}

impl Cluster<'_> {
    fn address(&self, through: Through) -> String {
        match through {
            All => self.members.addresses(),
            One => self.members.address(self.one),
        }
    }

    fn tool(&self, through: Through, class: &str, args: &[&str]) -> Result<String, String> {
        self.tool_reading(through, class, args, "")
    }

    fn tool_reading(
        &self,
        through: Through,
        class: &str,
        args: &[&str],
        input: &str,
    ) -> Result<String, String> {
        let mut command = self.run.toolbox.console_tool(class);
        command.args(["--bootstrap-server", &self.address(through)]).args(args);
        shell::pipe(&mut command, input, &self.log)
    }

    /// kafka-cluster, which takes its options after a word.
    fn cluster_tool(&self, through: Through, word: &str, args: &[&str]) -> Result<String, String> {
        let mut command = self.run.toolbox.console_tool("org.apache.kafka.tools.ClusterTool");
        command.args([word, "--bootstrap-server", &self.address(through)]).args(args);
        shell::pipe(&mut command, "", &self.log)
    }

    fn describe(&self, through: Through, args: &[&str]) -> Result<Vec<Partition>, String> {
        let text = self.tool(through, TOPICS, &[&["--describe", "--exclude-internal"], args].concat())?;
        text.lines().filter(|line| line.contains("\tPartition: ")).map(Partition::parse).collect()
    }

    /// Writes a file for a tool and gives its path.
    fn file(&self, name: &str, text: &str) -> Result<String, String> {
        let path = self.run.logs.join("cluster").join(name);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path.display().to_string())
    }

    /// A file that moves one partition.
    fn file_to_move(&self, topic: &str, partition: u32, replicas: &[usize]) -> Result<String, String> {
        let part =
            format!(r#"{{"topic":"{topic}","partition":{partition},"replicas":{}}}"#, listed(replicas));
        self.file(&format!("{topic}.json"), &format!(r#"{{"version":1,"partitions":[{part}]}}"#))
    }

    /// Asks `ottla` until its answer is as wanted.
    fn wait(&self, args: &[&str], as_wanted: impl Fn(&str) -> bool) -> Result<(), String> {
        const PERIOD: Duration = Duration::from_millis(100);
        let deadline = shell::now() + Duration::from_secs(WAIT_SECONDS_MAX);
        loop {
            let mut command = Command::new(self.members.binary());
            command.args(args).args(["--brokers", &self.address(All)]);
            let output = command.output().map_err(|error| format!("{}: {error}", shell::words(&command)))?;
            let text = String::from_utf8_lossy(&output.stdout);
            if as_wanted(&text) {
                return Ok(());
            }
            if shell::now() > deadline {
                return Err(format!("{} still says after {WAIT_SECONDS_MAX} s: {text}", args.join(" ")));
            }
            std::thread::sleep(PERIOD);
        }
    }

    fn wait_until_healthy(&self) -> Result<(), String> {
        self.wait(&["cluster", "health"], |text| row(text, "HEALTHY") == Some("yes"))
    }

    fn wait_until_fenced(&self, id: usize) -> Result<(), String> {
        let id = id.to_string();
        self.wait(&["cluster", "health"], |text| row(text, "FENCED") == Some(&id))
    }

    /// Produces lines that were not there before, each acknowledged by all replicas in sync.
    fn produce(&mut self) -> Result<usize, String> {
        let begin = self.produced.len();
        let lines: Vec<String> =
            (begin..begin + LINES).map(|i| format!("line {i} {}", "x".repeat(i % 200))).collect();
        let args = ["--topic", SPREAD, "--request-required-acks", "all", "--batch-size", "500"];
        self.tool_reading(All, "org.apache.kafka.tools.ConsoleProducer", &args, &(lines.join("\n") + "\n"))?;
        self.produced.extend(lines);
        Ok(LINES)
    }

    /// Reads everything in a new group and compares.
    fn consume(&self, through: Through, group: &str, deleted: usize) -> Result<usize, String> {
        let count = self.produced.len() - deleted;
        let messages = count.to_string();
        let args = ["--topic", SPREAD, "--from-beginning", "--group", group, "--timeout-ms", "30000"];
        let args = [&args[..], &["--max-messages", &messages]].concat();
        let text = self.tool(through, "org.apache.kafka.tools.consumer.ConsoleConsumer", &args)?;
        let want: BTreeSet<&str> = self.produced.iter().map(String::as_str).collect();
        let got: BTreeSet<&str> = text.lines().collect();
        require(text.lines().count() == count && got.len() == count && got.is_subset(&want), || {
            format!("{count} lines are due, {} came, {} are different", text.lines().count(), got.len())
        })?;
        Ok(count)
    }

    /// The offsets of all partitions of the topic with three copies.
    fn offsets(&self, through: Through, time: &str) -> Result<Vec<usize>, String> {
        let text = self.tool(through, OFFSETS, &["--topic", SPREAD, "--time", time])?;
        let offset = |line: &str| line.rsplit(':').next().and_then(|field| field.parse().ok());
        text.lines()
            .map(|line| offset(line).ok_or_else(|| format!("kafka-get-offsets says {line}")))
            .collect()
    }

    /// The coordinators of the groups, as their states name them.
    fn coordinators(&self, through: Through) -> Result<BTreeMap<String, usize>, String> {
        let text = self.tool(through, GROUPS, &["--describe", "--all-groups", "--state"])?;
        // GROUP COORDINATOR (ID) ASSIGNMENT-STRATEGY STATE #MEMBERS
        let rows = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        rows.filter(|row| row.len() == 6 && row[0] != "GROUP")
            .map(|row| {
                require(row[4] == "Empty", || format!("{} is {}", row[0], row[4]))?;
                let id = row[2].trim_matches(['(', ')']).parse();
                Ok((row[0].to_owned(), id.map_err(|_| format!("{} is no broker", row[2]))?))
            })
            .collect()
    }
}

/// A partition as kafka-topics describes it.
#[derive(Debug)]
struct Partition {
    topic: String,
    partition: u32,
    leader: Option<usize>,
    replicas: Vec<usize>,
    in_sync: BTreeSet<usize>,
}

impl Partition {
    fn parse(line: &str) -> Result<Self, String> {
        let field = |name: &str| {
            let mut fields = line.split('\t').filter_map(|field| field.split_once(": "));
            let found = fields.find(|(key, _)| *key == name).map(|(_, value)| value.trim());
            found.ok_or_else(|| format!("--describe does not say {name}: {line}"))
        };
        let brokers = |text: &str| text.split(',').filter_map(|id| id.parse().ok()).collect::<Vec<_>>();
        Ok(Self {
            topic: field("Topic")?.to_owned(),
            partition: field("Partition")?.parse().map_err(|_| format!("no partition: {line}"))?,
            leader: field("Leader")?.parse().ok(),
            replicas: brokers(field("Replicas")?),
            in_sync: brokers(field("Isr")?).into_iter().collect(),
        })
    }

    fn name(&self) -> String {
        format!("{}-{}", self.topic, self.partition)
    }

    fn is_led_by_preferred(&self) -> bool {
        self.leader == self.replicas.first().copied()
    }

    fn is_all_in_sync(&self) -> bool {
        self.in_sync.len() == self.replicas.len()
    }
}

fn names(partitions: &[Partition]) -> BTreeSet<String> {
    partitions.iter().map(Partition::name).collect()
}

fn spread_and(others: &[&str]) -> BTreeSet<String> {
    let spread = (0..SPREAD_PARTITIONS).map(|partition| format!("{SPREAD}-{partition}"));
    spread.chain(others.iter().map(|&name| name.to_owned())).collect()
}

fn require_partitions(found: &[Partition], wanted: &BTreeSet<String>, what: &str) -> Result<(), String> {
    let found = names(found);
    require(found == *wanted, || format!("{what}: {found:?} instead of {wanted:?}"))
}

fn require_says(text: &str, part: &str) -> Result<(), String> {
    require(text.contains(part), || format!("it does not say {part:?}: {text}"))
}

/// `[1,2]`.
fn listed(ids: &[usize]) -> String {
    format!("[{}]", ids.iter().map(usize::to_string).collect::<Vec<_>>().join(","))
}

/// The value of a line that begins with a word.
fn row<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

fn start(cluster: &mut Cluster<'_>) -> StepOutcome {
    cluster.wait_until_healthy()?;
    OK
}

fn brokers(cluster: &mut Cluster<'_>) -> StepOutcome {
    let status = cluster.tool(All, QUORUM, &["describe", "--status"])?;
    let leader = row(&status, "LeaderId:").and_then(|id| id.parse().ok());
    cluster.controller = leader.ok_or_else(|| format!("there is no controller: {status}"))?;
    cluster.first = cluster.controller % BROKERS + 1;
    cluster.second = cluster.first % BROKERS + 1;
    cluster.one = cluster.second;
    let voters = row(&status, "CurrentVoters:").unwrap_or_default();
    require(voters.matches("\"id\": ").count() == BROKERS, || format!("voters: {voters}"))?;
    require(row(&status, "CurrentObservers:") == Some("[]"), || format!("there are observers: {status}"))?;
    require_says(&status, &format!("ClusterId:              {CLUSTER_ID}\n"))?;

    let replication = cluster.tool(One, QUORUM, &["describe", "--replication"])?;
    let rows: Vec<Vec<&str>> =
        replication.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    for id in 1..=BROKERS {
        let role = if id == cluster.controller { "Leader" } else { "Follower" };
        let found = rows.iter().find(|row| row.first() == Some(&id.to_string().as_str()));
        require(found.is_some_and(|row| row.len() == 7 && row[6] == role), || {
            format!("{id} is no {role}: {replication}")
        })?;
        if id == cluster.second {
            cluster.directory = found.map_or(String::new(), |row| row[1].to_owned());
        }
    }

    let id = cluster.cluster_tool(One, "cluster-id", &[])?;
    require_says(&id, &format!("Cluster ID: {CLUSTER_ID}"))?;
    let versions = cluster.tool(All, "org.apache.kafka.tools.BrokerApiVersionsCommand", &[])?;
    let apis: Vec<Vec<&str>> = versions
        .split(" -> (")
        .skip(1)
        .map(|broker| broker.lines().filter(|line| line.contains("[usable:")).collect())
        .collect();
    require(apis.len() == BROKERS, || format!("{} brokers are listed", apis.len()))?;
    require(apis.iter().all(|of_one| of_one.len() > 20 && *of_one == apis[0]), || {
        "brokers differ in their APIs".to_owned()
    })?;
    Ok((0, 0, format!("controller {}", cluster.controller)))
}

fn topics(cluster: &mut Cluster<'_>) -> StepOutcome {
    let (controller, first, second) = (cluster.controller, cluster.first, cluster.second);
    let partitions = SPREAD_PARTITIONS.to_string();
    let create = ["--create", "--topic", SPREAD, "--partitions", &partitions, "--replication-factor", "3"];
    cluster.tool(All, TOPICS, &create)?;
    let placed = [[second, first], [first, controller], [controller, second]];
    let assignment = placed.map(|[leader, follower]| format!("{leader}:{follower}")).join(",");
    let place = |topic: &str, assignment: &str| {
        let args = ["--create", "--topic", topic, "--replica-assignment", assignment];
        cluster.tool(One, TOPICS, &[&args[..], &["--config", "min.insync.replicas=1"]].concat())
    };
    place(PLACED, &assignment)?;
    place(LONELY, &first.to_string())?;

    let described = cluster.describe(One, &[])?;
    let all = spread_and(&["placed-0", "placed-1", "placed-2", "lonely-0"]);
    require_partitions(&described, &all, "--describe")?;
    for partition in &described {
        let wanted = match partition.topic.as_str() {
            SPREAD => partition.replicas.len() == BROKERS,
            PLACED => partition.replicas == placed[partition.partition as usize],
            _ => partition.replicas == [first],
        };
        let is_well = partition.is_led_by_preferred() && partition.is_all_in_sync();
        require(wanted && is_well, || format!("{partition:?}"))?;
    }
    let leaders = described.iter().filter(|partition| partition.topic == SPREAD);
    let leaders: BTreeSet<usize> = leaders.filter_map(|partition| partition.leader).collect();
    require(leaders.len() == BROKERS, || format!("all leaders are on {leaders:?}"))?;
    OK
}

fn records(cluster: &mut Cluster<'_>) -> StepOutcome {
    let produced = cluster.produce()?;
    cluster.consume(One, GROUP_NAMES[0], 0)?;
    let ends = cluster.offsets(One, "latest")?;
    require(ends.iter().sum::<usize>() == produced, || format!("ends: {ends:?}"))?;
    let class = "org.apache.kafka.tools.LogDirsCommand";
    let text = cluster.tool(All, class, &["--describe", "--topic-list", SPREAD])?;
    for partition in 0..SPREAD_PARTITIONS {
        let name = format!("\"{SPREAD}-{partition}\"");
        require(text.matches(&name).count() == BROKERS, || format!("{name} is not there {BROKERS} times"))?;
    }
    require(text.matches("\"error\":null").count() == BROKERS, || format!("there are errors: {text}"))?;
    Ok((produced as u64, 0, String::new()))
}

fn groups(cluster: &mut Cluster<'_>) -> StepOutcome {
    let named: Vec<&str> = GROUP_NAMES[1..].iter().flat_map(|&name| ["--group", name]).collect();
    let reset = ["--reset-offsets", "--topic", SPREAD, "--to-latest", "--execute"];
    let text = cluster.tool(All, GROUPS, &[&reset[..], &named].concat())?;
    let rows = text.lines().filter(|line| line.starts_with("group")).count();
    require(rows == named.len() / 2 * SPREAD_PARTITIONS as usize, || format!("the reset says {text}"))?;
    let coordinators = cluster.coordinators(One)?;
    require(coordinators.keys().eq(GROUP_NAMES.iter()), || format!("{coordinators:?}"))?;
    let brokers: BTreeSet<&usize> = coordinators.values().collect();
    require(brokers.len() == BROKERS, || format!("coordinators: {coordinators:?}"))?;
    Ok((0, 0, format!("{} groups on {} coordinators", coordinators.len(), brokers.len())))
}

/// Of a partition that the broker that is killed later leads.
fn delete_records(cluster: &mut Cluster<'_>) -> StepOutcome {
    let described = cluster.describe(One, &["--topic", SPREAD])?;
    let of_first = described.iter().find(|partition| partition.leader == Some(cluster.first));
    let partition = of_first.ok_or("a broker leads nothing")?.partition;
    let part = format!(r#"{{"topic":"{SPREAD}","partition":{partition},"offset":{DELETED}}}"#);
    let file = cluster.file("delete-records.json", &format!(r#"{{"partitions":[{part}],"version":1}}"#))?;
    let class = "org.apache.kafka.tools.DeleteRecordsCommand";
    let text = cluster.tool(All, class, &["--offset-json-file", &file])?;
    require_says(&text, &format!("partition: {SPREAD}-{partition}\tlow_watermark: {DELETED}"))?;
    OK
}

fn reassign(cluster: &mut Cluster<'_>) -> StepOutcome {
    let (controller, second) = (cluster.controller, cluster.second);
    let topics =
        cluster.file("topics.json", &format!(r#"{{"version":1,"topics":[{{"topic":"{PLACED}"}}]}}"#))?;
    let brokers = format!("{controller},{second}");
    let generate = ["--generate", "--topics-to-move-json-file", &topics, "--broker-list", &brokers];
    let text = cluster.tool(One, REASSIGN, &generate)?;
    let (current, proposed) = text
        .split_once("Proposed partition reassignment configuration")
        .ok_or_else(|| format!("--generate says {text}"))?;
    require_says(current, &format!(r#""partition":1,"replicas":{}"#, listed(&[cluster.first, controller])))?;
    let allowed = [[controller, second], [second, controller]].map(|ids| listed(&ids));
    let count: usize = allowed.iter().map(|ids| proposed.matches(ids).count()).sum();
    require(count == 3, || format!("--generate proposes {proposed}"))?;

    let file = cluster.file_to_move(PLACED, 1, &[controller, second])?;
    let file = ["--reassignment-json-file", &file];
    let execute = [&["--execute", "--throttle", "10000000"], &file[..]].concat();
    let text = cluster.tool(All, REASSIGN, &execute)?;
    require_says(&text, "The inter-broker throttle limit was set to 10000000 B/s")?;
    require_says(&text, "Successfully started partition reassignment for placed-1")?;
    let verify = [&["--verify"], &file[..]].concat();
    let done = "Reassignment of partition placed-1 is completed.";
    let text = settled(|| cluster.tool(One, REASSIGN, &verify), |text| text.contains(done))?;
    require_says(&text, done)?;
    require_says(&text, "Clearing broker-level throttles on brokers 1,2,3")?;
    require_says(&text, "Clearing topic-level throttles on topic placed")?;
    OK
}

fn configs(cluster: &mut Cluster<'_>) -> StepOutcome {
    let first = cluster.first.to_string();
    let of_first = ["--alter", "--entity-type", "brokers", "--entity-name", &first];
    let setting = "log.retention.ms=123456789";
    cluster.tool(One, CONFIGS, &[&of_first[..], &["--add-config", setting]].concat())?;
    let describe = ["--describe", "--entity-type", "brokers"];
    let described = settled(|| cluster.tool(All, CONFIGS, &describe), |text| text.contains(setting))?;
    require(described.matches(setting).count() > 0, || format!("{setting} is not described: {described}"))?;
    // All that the reassignment has set is gone.
    require(!described.contains("throttled"), || format!("throttles are left: {described}"))?;
    let of_first = described
        .split("Dynamic configs for broker ")
        .find(|part| part.starts_with(&first))
        .ok_or_else(|| format!("the broker {first} is not described: {described}"))?;
    require_says(of_first, setting)?;
    // Of all brokers, the cluster has settled how many must be in sync. Nothing else is set.
    let of_all = described.split("Default configs for brokers").nth(1).unwrap_or_default();
    require_says(of_all, "min.insync.replicas=")?;
    require(described.matches("sensitive=").count() == 2, || format!("too much is set: {described}"))?;

    let of_topic = ["--alter", "--entity-type", "topics", "--entity-name", PLACED];
    cluster.tool(One, CONFIGS, &[&of_topic[..], &["--add-config", "retention.ms=98765432"]].concat())?;
    let describe = ["--describe", "--topic", PLACED];
    let text = settled(|| cluster.tool(All, TOPICS, &describe), |text| text.contains("retention.ms"))?;
    require_says(&text, "\tConfigs: min.insync.replicas=1,retention.ms=98765432\n")?;
    OK
}

fn one_down(cluster: &mut Cluster<'_>) -> StepOutcome {
    let (controller, first, second) = (cluster.controller, cluster.first, cluster.second);
    cluster.members.kill(first)?;
    cluster.wait_until_fenced(first)?;

    let endpoints = cluster.cluster_tool(One, "list-endpoints", &["--include-fenced-brokers"])?;
    for id in 1..=BROKERS {
        let state = if id == first { "fenced" } else { "unfenced" };
        let rows = endpoints.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let mut rows = rows.filter(|row| row.first() == Some(&id.to_string().as_str()));
        require(rows.any(|row| row.get(4) == Some(&state)), || format!("{id} is not {state}: {endpoints}"))?;
    }

    let found = cluster.describe(All, &["--under-replicated-partitions"])?;
    // The last replica of a partition stays eligible to lead it, but counts as in sync no more.
    require_partitions(&found, &spread_and(&["placed-0", "lonely-0"]), "--under-replicated-partitions")?;
    for partition in &found {
        let in_sync = match partition.topic.as_str() {
            SPREAD => vec![controller, second],
            PLACED => vec![second],
            _ => Vec::new(),
        };
        let is_well = partition.in_sync == BTreeSet::from_iter(in_sync)
            && partition.leader.is_none_or(|leader| partition.in_sync.contains(&leader));
        require(is_well, || format!("{partition:?}"))?;
    }
    let found = cluster.describe(One, &["--at-min-isr-partitions"])?;
    require_partitions(&found, &spread_and(&["placed-0"]), "--at-min-isr-partitions")?;
    let found = cluster.describe(All, &["--unavailable-partitions"])?;
    let wanted = BTreeSet::from(["lonely-0".to_owned()]);
    require_partitions(&found, &wanted, "--unavailable-partitions")?;
    require(found.iter().all(|partition| partition.leader.is_none()), || format!("{found:?}"))?;
    Ok((0, 0, format!("broker {first}")))
}

/// A partition whose only replica is down can be told to move; it will, once the replica is back.
fn move_without_leader(cluster: &mut Cluster<'_>) -> StepOutcome {
    let file = cluster.file_to_move(LONELY, 0, &[cluster.controller])?;
    let file = ["--reassignment-json-file", &file];
    let text = cluster.tool(All, REASSIGN, &[&["--execute"], &file[..]].concat())?;
    require_says(&text, "Successfully started partition reassignment for lonely-0")?;
    let text = cluster.tool(One, REASSIGN, &["--list"])?;
    let listed = format!("replicas: {},{}.", cluster.controller, cluster.first);
    require_says(&text, &format!("lonely-0: {listed}"))?;
    let text = cluster.tool(All, REASSIGN, &[&["--cancel"], &file[..]].concat())?;
    require_says(&text, "Successfully cancelled partition reassignment for: lonely-0")?;
    let found = cluster.describe(One, &["--topic", LONELY])?;
    require(found.iter().all(|partition| partition.replicas == [cluster.first]), || {
        format!("after --cancel: {found:?}")
    })?;
    OK
}

/// What clients do goes on without the broker.
fn go_on(cluster: &mut Cluster<'_>) -> StepOutcome {
    let produced = cluster.produce()?;
    let ends = cluster.offsets(One, "latest")?;
    require(ends.iter().sum::<usize>() == cluster.produced.len(), || format!("ends: {ends:?}"))?;
    let starts = cluster.offsets(All, "earliest")?;
    require(starts.iter().sum::<usize>() == DELETED, || format!("starts: {starts:?}"))?;
    let coordinators = cluster.coordinators(One)?;
    require(coordinators.keys().eq(GROUP_NAMES.iter()), || format!("{coordinators:?}"))?;
    require(coordinators.values().all(|&id| id != cluster.first), || format!("{coordinators:?}"))?;
    Ok((produced as u64, 0, String::new()))
}

/// A broker that has missed what came last is made leader, since the one that has it is down.
fn unclean(cluster: &mut Cluster<'_>) -> StepOutcome {
    let (first, second) = (cluster.first, cluster.second);
    cluster.members.kill(second)?;
    cluster.members.start_one(first)?;
    cluster.one = first;
    cluster.wait_until_fenced(second)?;
    let found = cluster.describe(One, &["--unavailable-partitions"])?;
    let wanted = BTreeSet::from(["placed-0".to_owned()]);
    require_partitions(&found, &wanted, "--unavailable-partitions")?;
    let of_one = ["--topic", PLACED, "--partition", "0"];
    let text = cluster.tool(All, ELECTION, &[&["--election-type", "unclean"], &of_one[..]].concat())?;
    require_says(&text, "Successfully completed leader election (UNCLEAN) for partitions placed-0")?;
    let found = cluster.describe(One, &["--topic", PLACED])?;
    let in_sync = BTreeSet::from([first]);
    require(
        found.iter().any(|p| p.partition == 0 && p.leader == Some(first) && p.in_sync == in_sync),
        || format!("{found:?}"),
    )?;
    Ok((0, 0, format!("broker {first} instead of {second}")))
}

/// A broker that is down loses its vote and is forgotten, and is welcome when it comes back.
fn unregister(cluster: &mut Cluster<'_>) -> StepOutcome {
    let second = cluster.second.to_string();
    let unregister = ["--id", &second];
    let refused = cluster.cluster_tool(All, "unregister", &unregister);
    require(refused.is_err(), || "a broker that has a vote could be unregistered".to_owned())?;
    let remove = ["remove-controller", "--controller-id", &second, "--controller-directory-id"];
    cluster.tool(All, QUORUM, &[&remove[..], &[&cluster.directory]].concat())?;
    let text = cluster.cluster_tool(All, "unregister", &unregister)?;
    require_says(&text, &format!("Broker {second} is no longer registered."))?;
    let endpoints = cluster.cluster_tool(One, "list-endpoints", &["--include-fenced-brokers"])?;
    let is_listed = endpoints.lines().any(|line| line.split_whitespace().next() == Some(&second));
    require(!is_listed, || format!("{second} is still listed: {endpoints}"))?;
    cluster.members.start_one(cluster.second)?;
    cluster.wait(&["cluster", "health"], |text| {
        row(text, "HEALTHY") == Some("yes") && row(text, "BROKERS") == Some("1,2,3")
    })?;
    let status = cluster.tool(One, QUORUM, &["describe", "--status"])?;
    let voters = row(&status, "CurrentVoters:").unwrap_or_default();
    Ok((0, 0, format!("{} voters", voters.matches("\"id\": ").count())))
}

fn preferred(cluster: &mut Cluster<'_>) -> StepOutcome {
    let found = cluster.describe(All, &[])?;
    require(found.iter().all(Partition::is_all_in_sync), || format!("not all are in sync: {found:?}"))?;
    let moved: Vec<&Partition> =
        found.iter().filter(|p| p.topic == SPREAD && !p.is_led_by_preferred()).collect();
    require(moved.len() > 1, || format!("preferred replicas lead already: {found:?}"))?;

    let elect = |through: Through, args: &[&str]| {
        cluster.tool(through, ELECTION, &[&["--election-type", "preferred"], args].concat())
    };
    let done = "Successfully completed leader election (PREFERRED) for partitions ";
    let text = elect(One, &["--topic", PLACED, "--partition", "0"])?;
    require_says(&text, &format!("{done}placed-0"))?;
    let part = format!(r#"{{"topic":"{SPREAD}","partition":{}}}"#, moved[0].partition);
    let file = cluster.file("election.json", &format!(r#"{{"partitions":[{part}]}}"#))?;
    let text = elect(All, &["--path-to-json-file", &file])?;
    require_says(&text, &format!("{done}{}", moved[0].name()))?;
    let text = elect(One, &["--all-topic-partitions"])?;
    require_says(&text, done)?;
    require_says(&text, &moved[1].name())?;

    let found = cluster.describe(All, &[])?;
    require(found.iter().all(Partition::is_led_by_preferred), || format!("others still lead: {found:?}"))?;
    Ok((0, 0, format!("{} had moved", moved.len())))
}

fn end(cluster: &mut Cluster<'_>) -> StepOutcome {
    let count = cluster.consume(All, "last", DELETED)?;
    Ok((count as u64, 0, String::new()))
}
