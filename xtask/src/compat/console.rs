//! Apache Kafka's console tools, each as its own process, as a person would type them.
//! A tool's output is compared with what the commands before it have made true.

use super::{Run, StepFn, StepOutcome};
use crate::shell;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const LINES: usize = 1000;

pub(super) const STEPS: &[(&str, StepFn)] = &[
    ("api-versions", api_versions),
    ("topics", topics),
    ("produce", produce),
    ("get-offsets", get_offsets),
    ("consume", consume),
    ("consumer-groups", consumer_groups),
    ("share-groups", share_groups),
    ("transactions", transactions),
    ("configs", configs),
    ("quotas", quotas),
    ("client-metrics", client_metrics),
    ("log-dirs", log_dirs),
    ("move-log-dir", move_log_dir),
    ("delete-records", delete_records),
    ("delete", delete),
];

const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";
const GROUPS: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
const CONFIGS: &str = "kafka.admin.ConfigCommand";
const OFFSETS: &str = "org.apache.kafka.tools.GetOffsetShell";
const OK: StepOutcome = Ok((0, 0, String::new()));

/// Runs a tool's main class with `--bootstrap-server` and `args`.
fn tool(run: &Run<'_>, log: &Path, class: &str, args: &[&str], input: &str) -> Result<String, String> {
    let mut command = run.toolbox.console_tool(class);
    command.args(["--bootstrap-server", &run.bootstrap]).args(args);
    shell::pipe(&mut command, input, log)
}

/// Repeats a command until its output is as wanted, for changes that Apache Kafka acknowledges before its broker has
/// taken notice of them; gives the last output.
pub(super) fn settled(
    mut command: impl FnMut() -> Result<String, String>,
    as_wanted: impl Fn(&str) -> bool,
) -> Result<String, String> {
    const ATTEMPTS_MAX: usize = 5;
    let mut text = command()?;
    for _ in 1..ATTEMPTS_MAX {
        if as_wanted(&text) {
            break;
        }
        text = command()?;
    }
    Ok(text)
}

pub(super) fn require(condition: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(what()) }
}

fn topic(run: &Run<'_>) -> String {
    format!("console-{}", run.id)
}

fn group(run: &Run<'_>) -> String {
    format!("console-group-{}", run.id)
}

/// `topic:partition:offset` lines as (partition, offset).
fn offsets(run: &Run<'_>, log: &Path, time: &str) -> Result<Vec<(u32, u64)>, String> {
    let text = tool(run, log, OFFSETS, &["--topic", &topic(run), "--time", time], "")?;
    text.lines()
        .map(|line| {
            let mut fields = line.rsplit(':');
            let offset = fields.next().and_then(|field| field.parse().ok());
            let partition = fields.next().and_then(|field| field.parse().ok());
            partition.zip(offset).ok_or_else(|| format!("kafka-get-offsets says {line}"))
        })
        .collect()
}

fn api_versions(run: &Run<'_>, log: &Path) -> StepOutcome {
    let text = tool(run, log, "org.apache.kafka.tools.BrokerApiVersionsCommand", &[], "")?;
    for api in ["Produce(0)", "Fetch(1)", "OffsetCommit(8)", "DescribeTopicPartitions(75)"] {
        require(text.contains(api), || format!("{api} is not listed"))?;
    }
    let usable = text.lines().filter(|line| line.contains("[usable:")).count();
    Ok((0, 0, format!("{usable} APIs")))
}

fn topics(run: &Run<'_>, log: &Path) -> StepOutcome {
    let topic = topic(run);
    let create = ["--create", "--topic", &topic, "--partitions", "3", "--config", "retention.ms=86400000"];
    tool(run, log, TOPICS, &create, "")?;
    require(tool(run, log, TOPICS, &create, "").is_err(), || "a topic could be created twice".to_owned())?;
    let listed = tool(run, log, TOPICS, &["--list"], "")?;
    require(listed.lines().any(|line| line == topic), || "the topic is not listed".to_owned())?;
    tool(run, log, TOPICS, &["--alter", "--topic", &topic, "--partitions", "4"], "")?;
    let described = tool(run, log, TOPICS, &["--describe", "--topic", &topic], "")?;
    for part in ["PartitionCount: 4", "ReplicationFactor: ", "retention.ms=86400000", "Partition: 3"] {
        require(described.contains(part), || format!("--describe does not say {part}"))?;
    }
    OK
}

fn lines() -> Vec<String> {
    (0..LINES).map(|i| format!("key-{i}\tvalue {i} äöü {}", "x".repeat(i % 300))).collect()
}

fn produce(run: &Run<'_>, log: &Path) -> StepOutcome {
    let text = lines().join("\n") + "\n";
    let args = ["--topic", &topic(run), "--compression-codec", "zstd", "--reader-property", "parse.key=true"];
    tool(run, log, "org.apache.kafka.tools.ConsoleProducer", &args, &text)?;
    Ok((LINES as u64, text.len() as u64, String::new()))
}

fn get_offsets(run: &Run<'_>, log: &Path) -> StepOutcome {
    let end = offsets(run, log, "-1")?;
    let total: u64 = end.iter().map(|(_, offset)| offset).sum();
    require(total == LINES as u64, || format!("the ends add up to {total}"))?;
    let start = offsets(run, log, "earliest")?;
    require(start.len() == 4 && start.iter().all(|&(_, offset)| offset == 0), || {
        format!("starts: {start:?}")
    })?;
    OK
}

fn consume(run: &Run<'_>, log: &Path) -> StepOutcome {
    let (topic, group, count) = (topic(run), group(run), LINES.to_string());
    let args = [
        "--topic",
        &topic,
        "--from-beginning",
        "--max-messages",
        &count,
        "--timeout-ms",
        "30000",
        "--group",
        &group,
        "--formatter-property",
        "print.key=true",
    ];
    let text = tool(run, log, "org.apache.kafka.tools.consumer.ConsoleConsumer", &args, "")?;
    let got: BTreeSet<&str> = text.lines().collect();
    let produced = lines();
    let want: BTreeSet<&str> = produced.iter().map(String::as_str).collect();
    require(got == want, || {
        format!("{} lines came, {} of them right", got.len(), got.intersection(&want).count())
    })?;
    Ok((LINES as u64, text.len() as u64, String::new()))
}

fn consumer_groups(run: &Run<'_>, log: &Path) -> StepOutcome {
    let (topic, group) = (topic(run), group(run));
    let listed = tool(run, log, GROUPS, &["--list"], "")?;
    require(listed.lines().any(|line| line.trim() == group), || "the group is not listed".to_owned())?;
    // GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG ...
    let current = |text: &str| -> (u64, u64) {
        let rows = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let rows = rows.filter(|row| row.len() > 5 && row[1] == topic);
        rows.fold((0, 0), |(current, lag), row| {
            (current + row[3].parse::<u64>().unwrap_or(0), lag + row[5].parse::<u64>().unwrap_or(0))
        })
    };
    let described = tool(run, log, GROUPS, &["--describe", "--group", &group], "")?;
    let found = current(&described);
    require(found == (LINES as u64, 0), || {
        format!("offset and lag are {found:?} after everything was read")
    })?;
    let state = tool(run, log, GROUPS, &["--describe", "--group", &group, "--state"], "")?;
    require(state.contains("Empty"), || "the group is not Empty".to_owned())?;

    let reset = ["--reset-offsets", "--group", &group, "--topic", &topic, "--to-earliest", "--execute"];
    tool(run, log, GROUPS, &reset, "")?;
    let described = tool(run, log, GROUPS, &["--describe", "--group", &group], "")?;
    let found = current(&described);
    require(found == (0, LINES as u64), || format!("offset and lag are {found:?} after the reset"))?;
    tool(run, log, GROUPS, &["--delete-offsets", "--group", &group, "--topic", &topic], "")?;
    tool(run, log, GROUPS, &["--delete", "--group", &group], "")?;
    let listed = tool(run, log, GROUPS, &["--list"], "")?;
    require(listed.lines().all(|line| line.trim() != group), || "the group is still listed".to_owned())?;
    OK
}

fn share_groups(run: &Run<'_>, log: &Path) -> StepOutcome {
    const SHARE_GROUPS: &str = "org.apache.kafka.tools.consumer.group.ShareGroupCommand";
    let (topic, group, count) = (topic(run), format!("{}-share", group(run)), LINES.to_string());
    let entity = ["--entity-type", "groups", "--entity-name", &group];
    let set =
        |value| tool(run, log, CONFIGS, &[&entity[..], &["--alter", "--add-config", value]].concat(), "");
    set("share.auto.offset.reset=earliest")?;
    let args = ["--topic", &topic, "--group", &group, "--max-messages", &count, "--timeout-ms", "30000"];
    let text = tool(run, log, "org.apache.kafka.tools.consumer.ConsoleShareConsumer", &args, "")?;
    let came = text.lines().count();
    require(came == LINES, || format!("{came} lines came"))?;

    let listed = tool(run, log, SHARE_GROUPS, &["--list"], "")?;
    require(listed.lines().any(|line| line.trim() == group), || "the group is not listed".to_owned())?;
    let described = tool(run, log, SHARE_GROUPS, &["--describe", "--group", &group], "")?;
    require(described.contains(&topic), || format!("--describe says {described}"))?;
    let reset = ["--reset-offsets", "--group", &group, "--topic", &topic, "--to-earliest", "--execute"];
    tool(run, log, SHARE_GROUPS, &reset, "")?;
    let text = tool(run, log, "org.apache.kafka.tools.consumer.ConsoleShareConsumer", &args, "")?;
    let came = text.lines().count();
    require(came == LINES, || format!("{came} lines came after the reset"))?;
    tool(run, log, SHARE_GROUPS, &["--delete", "--group", &group], "")?;
    let listed = tool(run, log, SHARE_GROUPS, &["--list"], "")?;
    require(listed.lines().all(|line| line.trim() != group), || "the group is still listed".to_owned())?;
    Ok((2 * LINES as u64, 0, String::new()))
}

fn transactions(run: &Run<'_>, log: &Path) -> StepOutcome {
    const TRANSACTIONS: &str = "org.apache.kafka.tools.TransactionsCommand";
    let listed = tool(run, log, TRANSACTIONS, &["list"], "")?;
    require(listed.contains("TransactionalId"), || format!("list says {listed}"))?;
    let of_topic = ["describe-producers", "--topic", &topic(run), "--partition", "0"];
    let described = tool(run, log, TRANSACTIONS, &of_topic, "")?;
    // The console producer is idempotent; whether it wrote to this partition is the partitioner's business.
    require(described.contains("ProducerId"), || format!("describe-producers says {described}"))?;
    let hanging = tool(run, log, TRANSACTIONS, &["find-hanging", "--topic", &topic(run)], "")?;
    require(hanging.lines().count() <= 1, || format!("transactions hang: {hanging}"))?;
    OK
}

fn client_metrics(run: &Run<'_>, log: &Path) -> StepOutcome {
    const METRICS: &str = "org.apache.kafka.tools.ClientMetricsCommand";
    let name = topic(run);
    let alter =
        ["--alter", "--name", &name, "--metrics", "org.apache.kafka.producer.", "--interval", "10000"];
    tool(run, log, METRICS, &alter, "")?;
    let describe = || tool(run, log, METRICS, &["--describe", "--name", &name], "");
    let described = settled(describe, |text| text.contains("10000"))?;
    require(described.contains("org.apache.kafka.producer."), || format!("--describe says {described}"))?;
    let listed = tool(run, log, METRICS, &["--list"], "")?;
    require(listed.lines().any(|line| line.trim() == name), || format!("--list says {listed}"))?;
    tool(run, log, METRICS, &["--delete", "--name", &name], "")?;
    let listed = settled(|| tool(run, log, METRICS, &["--list"], ""), |text| !text.contains(&name))?;
    require(!listed.contains(&name), || "the subscription is still listed".to_owned())?;
    OK
}

fn configs(run: &Run<'_>, log: &Path) -> StepOutcome {
    let topic = topic(run);
    let entity = ["--entity-type", "topics", "--entity-name", &topic];
    let with = |args: &[&'static str]| tool(run, log, CONFIGS, &[&entity[..], args].concat(), "");
    with(&["--alter", "--add-config", "max.message.bytes=5000,cleanup.policy=[compact,delete]"])?;
    let described = settled(|| with(&["--describe"]), |text| text.contains("max.message.bytes=5000"))?;
    for part in ["max.message.bytes=5000", "cleanup.policy=compact,delete", "DYNAMIC_TOPIC_CONFIG"] {
        require(described.contains(part), || format!("--describe does not say {part}"))?;
    }
    with(&["--alter", "--delete-config", "max.message.bytes"])?;
    let described = settled(|| with(&["--describe"]), |text| !text.contains("max.message.bytes=5000"))?;
    require(!described.contains("max.message.bytes=5000"), || "max.message.bytes is still set".to_owned())?;
    let bad = with(&["--alter", "--add-config", "retention.ms=soon"]);
    require(bad.is_err(), || "retention.ms=soon was accepted".to_owned())?;
    let all = with(&["--describe", "--all"])?;
    let settings = all.lines().filter(|line| line.contains("synonyms=")).count();
    require(settings > 20, || format!("--describe --all lists {settings} settings"))?;

    // A dynamic default of all brokers, set and taken back.
    let brokers = |args: &[&str]| {
        let entity = ["--entity-type", "brokers", "--entity-default"];
        tool(run, log, CONFIGS, &[&entity[..], args].concat(), "")
    };
    brokers(&["--alter", "--add-config", "message.max.bytes=2000000"])?;
    let described = settled(|| brokers(&["--describe"]), |text| text.contains("message.max.bytes=2000000"))?;
    require(described.contains("message.max.bytes=2000000"), || {
        "the brokers' default is not described".to_owned()
    })?;
    brokers(&["--alter", "--delete-config", "message.max.bytes"])?;
    Ok((0, 0, format!("{settings} settings")))
}

fn quotas(run: &Run<'_>, log: &Path) -> StepOutcome {
    let client = topic(run);
    let with = |entity: &[&str], args: &[&str]| tool(run, log, CONFIGS, &[entity, args].concat(), "");
    let of_client = ["--entity-type", "clients", "--entity-name", &client];
    let of_both = [&["--entity-type", "users", "--entity-default"], &of_client[..]].concat();
    let of_ip = ["--entity-type", "ips", "--entity-name", "192.0.2.1"];
    let entities: [(&[&str], &str); 3] = [
        (&of_client, "request_percentage=12.5"),
        (&of_both, "producer_byte_rate=1048576"),
        (&of_ip, "connection_creation_rate=20"),
    ];
    for (entity, quota) in entities {
        with(entity, &["--alter", "--add-config", quota])?;
        // Doubles are shown with a fraction.
        let described = settled(|| with(entity, &["--describe"]), |text| text.contains(quota))?;
        require(described.contains(quota), || format!("--describe does not say {quota}: {described}"))?;
        let (key, _) = quota.split_once('=').unwrap_or((quota, ""));
        let bad = with(entity, &["--alter", "--add-config", &format!("{key}=0")]);
        require(bad.is_err(), || format!("{key}=0 was accepted"))?;
        with(entity, &["--alter", "--delete-config", key])?;
        let described = settled(|| with(entity, &["--describe"]), |text| !text.contains(key))?;
        require(!described.contains(key), || format!("{key} is still set"))?;
    }
    OK
}

fn log_dirs(run: &Run<'_>, log: &Path) -> StepOutcome {
    let topic = topic(run);
    let text =
        tool(run, log, "org.apache.kafka.tools.LogDirsCommand", &["--describe", "--topic-list", &topic], "")?;
    for partition in 0..4 {
        let name = format!("\"{topic}-{partition}\"");
        require(text.contains(&name), || format!("{name} is not described"))?;
    }
    require(text.contains("\"error\":null"), || "the log directory has an error".to_owned())?;
    OK
}

/// Moves a partition to another data directory of broker 1 and back, where that has several.
fn move_log_dir(run: &Run<'_>, log: &Path) -> StepOutcome {
    const REASSIGN: &str = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand";
    let topic = format!("{}-moved", topic(run));
    let name = format!("\"{topic}-0\"");
    tool(run, log, TOPICS, &["--create", "--topic", &topic, "--replica-assignment", "1"], "")?;
    let producer = "org.apache.kafka.tools.ConsoleProducer";
    tool(run, log, producer, &["--topic", &topic], &(lines().join("\n") + "\n"))?;
    let describe = || {
        let args = ["--describe", "--broker-list", "1", "--topic-list", &topic];
        tool(run, log, "org.apache.kafka.tools.LogDirsCommand", &args, "")
    };
    // Each directory with whether the partition is in it. The tool's JSON has its fields in any order.
    let homes = |text: &str| -> Vec<(String, bool)> {
        let dirs = objects(text, 3).into_iter();
        let dirs = dirs.filter_map(|dir| {
            let path = dir.split_once("\"logDir\":\"")?.1.split('"').next()?;
            Some((path.to_owned(), dir.contains(&name)))
        });
        dirs.collect()
    };
    for _ in 0..2 {
        let before = homes(&describe()?);
        let Some((to, _)) = before.iter().find(|(_, is_here)| !is_here) else {
            return Ok((0, 0, "it has one directory".to_owned()));
        };
        let file = log.with_file_name("move-log-dir.json");
        let json = format!(
            r#"{{"version":1,"partitions":[{{"topic":"{topic}","partition":0,"replicas":[1],"log_dirs":["{to}"]}}]}}"#
        );
        fs::write(&file, json).map_err(|error| format!("{}: {error}", file.display()))?;
        let path = file.display().to_string();
        let text = tool(run, log, REASSIGN, &["--execute", "--reassignment-json-file", &path], "")?;
        let started =
            format!("Successfully started moving log directory to {to} for replica {topic}-0 with broker 1");
        require(text.contains(&started), || format!("--execute says {text}"))?;
        let verify = || tool(run, log, REASSIGN, &["--verify", "--reassignment-json-file", &path], "");
        let done = format!("Reassignment of replica {topic}-0-1 completed successfully.");
        let text = settled(verify, |text| text.contains(&done))?;
        require(text.contains(&done), || format!("--verify says {text}"))?;
        let after = homes(&describe()?);
        require(after.contains(&(to.clone(), true)), || format!("{name} is not in {to}: {after:?}"))?;
    }
    let end = tool(run, log, OFFSETS, &["--topic", &topic, "--time", "-1"], "")?;
    require(end.trim().ends_with(&format!(":{LINES}")), || format!("its end is {end}"))?;
    Ok((LINES as u64, 0, String::new()))
}

/// The objects in a JSON text that are so deep in others, the outermost being 1. No text in it has braces.
fn objects(json: &str, depth: usize) -> Vec<&str> {
    let (mut now, mut begin, mut found) = (0, 0, Vec::new());
    for (at, byte) in json.bytes().enumerate() {
        match byte {
            b'{' => {
                now += 1;
                if now == depth {
                    begin = at;
                }
            }
            b'}' => {
                if now == depth {
                    found.push(&json[begin..=at]);
                }
                now = usize::saturating_sub(now, 1);
            }
            _ => {}
        }
    }
    found
}

fn delete_records(run: &Run<'_>, log: &Path) -> StepOutcome {
    let topic = topic(run);
    let file = log.with_file_name("delete-records.json");
    let json = format!(r#"{{"partitions":[{{"topic":"{topic}","partition":0,"offset":5}}],"version":1}}"#);
    fs::write(&file, json).map_err(|error| format!("{}: {error}", file.display()))?;
    let path = file.display().to_string();
    let args = ["--offset-json-file", &path];
    let text = tool(run, log, "org.apache.kafka.tools.DeleteRecordsCommand", &args, "")?;
    require(text.contains("low_watermark: 5"), || format!("it says {text}"))?;
    let start = offsets(run, log, "-2")?;
    require(start.contains(&(0, 5)), || format!("starts: {start:?}"))?;
    OK
}

fn delete(run: &Run<'_>, log: &Path) -> StepOutcome {
    let topic = topic(run);
    tool(run, log, TOPICS, &["--delete", "--topic", &topic], "")?;
    let listed = tool(run, log, TOPICS, &["--list"], "")?;
    require(listed.lines().all(|line| line != topic), || "the topic is still listed".to_owned())?;
    OK
}
