//! Topics for a run: created, seen to be served, deleted.
//! A topic counts as created only once every partition has a leader, so that a measured window never holds that wait.
//! It never looks at records.

use crate::arguments::Arguments;
use futures_executor::block_on;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::metadata::MetadataPartition;
use rdkafka::{Offset, TopicPartitionList};
use std::thread::sleep;
use std::time::{Duration, Instant};

const SERVED_WAIT_MAX: Duration = Duration::from_secs(120);
const CALL_WAIT_MAX: Duration = Duration::from_secs(60);
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(5);
const POLL_PAUSE: Duration = Duration::from_millis(5);

pub fn create(arguments: &Arguments) -> Result<String, String> {
    let names = arguments.topics()?;
    let partitions: i32 = arguments.number("partitions")?;
    let replication = arguments.number_or("replication", 1)?;
    let settings = arguments.settings("config")?;
    let admin = admin(arguments)?;
    for name in &names {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(replication));
        for (key, value) in &settings {
            topic = topic.set(key, value);
        }
        create_one(&admin, &topic)?;
    }
    wait_until_served(arguments)
}

/// Once more where the controller has just gone to another broker.
fn create_one(admin: &AdminClient<DefaultClientContext>, topic: &NewTopic<'_>) -> Result<(), String> {
    let begin = Instant::now();
    let mut tries = 0;
    loop {
        tries += 1;
        let answers = block_on(admin.create_topics([topic], &options())).map_err(|e| e.to_string())?;
        match answers.into_iter().next() {
            Some(Ok(_)) => return Ok(()),
            // The answer to an earlier try was lost.
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) if tries > 1 => return Ok(()),
            Some(Err((_, code))) if is_passing(code) && begin.elapsed() < SERVED_WAIT_MAX => {
                sleep(POLL_PAUSE);
            }
            Some(Err((name, code))) => return Err(format!("create {name}: {code}")),
            None => return Err("create: no answer".to_owned()),
        }
    }
}

fn is_passing(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::NotController | RDKafkaErrorCode::RequestTimedOut)
}

pub fn delete(arguments: &Arguments) -> Result<String, String> {
    let names = arguments.topics()?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let answers = block_on(admin(arguments)?.delete_topics(&names, &options())).map_err(|e| e.to_string())?;
    for answer in answers {
        match answer {
            Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
            Err((topic, code)) => return Err(format!("delete {topic}: {code}")),
        }
    }
    Ok(format!("topics={}", names.len()))
}

/// Waits until metadata shows a leader for every partition and the last partition of each topic answers its offsets.
/// `records` is the sum of the end offsets of those last partitions: what a restart must not have lost.
pub fn wait_until_served(arguments: &Arguments) -> Result<String, String> {
    let names = arguments.topics()?;
    let partitions: i32 = arguments.number("partitions")?;
    let consumer = observer(arguments)?;
    let begin = Instant::now();
    let mut records = 0;
    for name in &names {
        loop {
            if has_leaders(&consumer, name, partitions)
                && let Ok((start, end)) =
                    consumer.fetch_watermarks(name, partitions - 1, Duration::from_secs(5))
            {
                records += end - start;
                break;
            }
            if begin.elapsed() > SERVED_WAIT_MAX {
                return Err(format!("{name}: not served after {SERVED_WAIT_MAX:?}"));
            }
            sleep(POLL_PAUSE);
        }
    }
    Ok(format!("topics={} seconds={:.4} records={records}", names.len(), begin.elapsed().as_secs_f64()))
}

/// Waits until the leader of every partition of every topic has answered its end offset. `records` is their sum.
pub fn wait_until_all_served(arguments: &Arguments) -> Result<String, String> {
    let names = arguments.topics()?;
    let partitions: i32 = arguments.number("partitions")?;
    let wait_max = Duration::from_secs(arguments.number_or("wait", SERVED_WAIT_MAX.as_secs())?);
    let begin = Instant::now();
    let mut consumer = observer(arguments)?;
    let is_over = || begin.elapsed() > wait_max;
    for name in &names {
        while !has_leaders(&consumer, name, partitions) {
            if is_over() {
                return Err(format!("{name}: not led after {wait_max:?}"));
            }
            sleep(POLL_PAUSE);
        }
    }
    let mut records = 0;
    let mut left: Vec<(String, i32)> =
        names.iter().flat_map(|name| (0..partitions).map(|partition| (name.clone(), partition))).collect();
    let asked = left.len();
    loop {
        let mut question = TopicPartitionList::with_capacity(left.len());
        for (name, partition) in &left {
            question.add_partition_offset(name, *partition, Offset::End).map_err(|e| e.to_string())?;
        }
        if let Ok(answers) = consumer.offsets_for_times(question, ANSWER_WAIT_MAX) {
            left.clear();
            for answer in answers.elements() {
                match (answer.error(), answer.offset()) {
                    (Ok(()), Offset::Offset(end)) => records += end,
                    _ => left.push((answer.topic().to_owned(), answer.partition())),
                }
            }
        }
        if left.is_empty() {
            break;
        }
        if is_over() {
            return Err(format!("{} of {asked} partitions not served after {wait_max:?}", left.len()));
        }
        sleep(POLL_PAUSE);
        // A client that has once learned who leads does not ask again for minutes.
        consumer = observer(arguments)?;
    }
    Ok(format!("partitions={asked} seconds={:.4} records={records}", begin.elapsed().as_secs_f64()))
}

/// Waits until metadata shows so many replicas in sync for every partition.
pub fn wait_until_in_sync(arguments: &Arguments) -> Result<String, String> {
    let name = arguments.text("topic")?;
    let partitions: usize = arguments.number("partitions")?;
    let replicas: usize = arguments.number("replication")?;
    let consumer = observer(arguments)?;
    let begin = Instant::now();
    let is_in_sync = || {
        let metadata = consumer.fetch_metadata(Some(name), ANSWER_WAIT_MAX).ok()?;
        let topic = metadata.topics().first()?;
        let is_whole = |p: &MetadataPartition| p.leader() >= 0 && p.isr().len() >= replicas;
        Some(topic.partitions().len() == partitions && topic.partitions().iter().all(is_whole))
    };
    while is_in_sync() != Some(true) {
        if begin.elapsed() > SERVED_WAIT_MAX {
            return Err(format!("{name}: not {replicas} replicas in sync after {SERVED_WAIT_MAX:?}"));
        }
        sleep(POLL_PAUSE);
    }
    Ok(format!("seconds={:.4}", begin.elapsed().as_secs_f64()))
}

/// Who leads what, as whichever broker answers knows it.
pub fn leaders(arguments: &Arguments) -> Result<String, String> {
    let name = arguments.text("topic")?;
    let metadata =
        observer(arguments)?.fetch_metadata(Some(name), ANSWER_WAIT_MAX).map_err(|e| e.to_string())?;
    let topic = metadata.topics().first().ok_or_else(|| format!("{name} is not there"))?;
    let leader = |p: &MetadataPartition| format!("p{}={}", p.id(), p.leader());
    Ok(topic.partitions().iter().map(leader).collect::<Vec<_>>().join(" "))
}

/// A consumer that only asks. A broker that is still starting refuses connections: the wait must not be librdkafka's back-off.
fn observer(arguments: &Arguments) -> Result<BaseConsumer, String> {
    let mut config = arguments.client()?;
    config.set("reconnect.backoff.ms", "5");
    config.set("reconnect.backoff.max.ms", "20");
    config.set("group.id", "bench").create().map_err(|e| e.to_string())
}

fn has_leaders(consumer: &BaseConsumer, topic: &str, partitions: i32) -> bool {
    let Ok(metadata) = consumer.fetch_metadata(Some(topic), Duration::from_secs(2)) else {
        return false;
    };
    metadata.topics().iter().any(|found| {
        found.partitions().len() as i32 == partitions && found.partitions().iter().all(|p| p.leader() >= 0)
    })
}

fn admin(arguments: &Arguments) -> Result<AdminClient<DefaultClientContext>, String> {
    let config: ClientConfig = arguments.client()?;
    config.create().map_err(|e| e.to_string())
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(CALL_WAIT_MAX)).operation_timeout(Some(CALL_WAIT_MAX))
}
