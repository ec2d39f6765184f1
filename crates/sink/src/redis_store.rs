//! Positions in Redis: a hash for each partition, `ottla:sink:LINE:TOPIC:PARTITION`, that people can read.
//!
//! One script replaces a hash, if it is the one that was read. What Redis has acknowledged it can still lose: with `appendfsync
//! everysec` the last second when it dies, with an asynchronous replica what had not arrived there when it took over. The table is
//! ahead of it then, which a line notices when it takes hold of a partition, and at the next freeze at the latest.

use std::collections::HashMap;
use std::str::FromStr;

use client::BoxFuture;
use offsets::{Fence, Position, RedisConnection};
use redis::{AsyncCommands, RedisError, Script};
use wire::{LeaderEpoch, Millis, Offset, PartitionId, Str, TopicPartition};

use crate::key::{Key, LineName, Range};
use crate::server_store::{Server, Version};
use crate::store::{Entry, Frozen, StoreError, Stored};

const PREFIX: &str = "ottla:sink";
const PERMISSIONS: &str =
    "allow the user ~ottla:sink:* and +@hash +@scripting +exists +del +scan (ACL SETUSER)";
/// Partitions that are asked about at once.
const TOGETHER_MAX: usize = 100;

/// KEYS: the hash. ARGV: version, epoch and token that were read ('' where nothing was), then the new fields and their values. Returns
/// whether it was done.
const REPLACE: &str = "
if ARGV[1] == '' then
    if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
else
    local at = redis.call('HMGET', KEYS[1], 'version', 'epoch', 'token')
    if at[1] ~= ARGV[1] or at[2] ~= ARGV[2] or at[3] ~= ARGV[3] then return 0 end
    redis.call('DEL', KEYS[1])
end
redis.call('HSET', KEYS[1], unpack(ARGV, 4))
return 1
";

/// A store in a Redis.
pub struct RedisStore {
    connection: RedisConnection,
    replace: Script,
}

/// What a hash holds.
type Fields = HashMap<String, String>;

impl RedisStore {
    /// Connects to an address such as `redis://127.0.0.1:6379/0`.
    pub async fn connect(address: &str) -> Result<Self, StoreError> {
        let connection = RedisConnection::connect(address, PERMISSIONS).await?;
        Ok(Self { connection, replace: Script::new(REPLACE) })
    }
}

impl Server for RedisStore {
    fn prepare(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { Ok(()) })
    }

    fn read<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<(Version, Entry)>, StoreError>> {
        Box::pin(async move {
            let place = place(key);
            let fields: Result<Fields, RedisError> = self.connection.commands().hgetall(&place).await;
            let fields = fields.map_err(|error| self.connection.refused(&place, error))?;
            decode(&place, &fields)
        })
    }

    fn replace<'a>(
        &'a self,
        key: &'a Key,
        read: Option<Version>,
        entry: &'a Entry,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            let place = place(key);
            let mut asking = self.replace.key(&place);
            match read {
                Some(Version { number, fence }) => asking.arg(number).arg(fence.number).arg(fence.token),
                None => asking.arg("").arg("").arg(""),
            };
            let version = read.map_or(1, |read| read.number.saturating_add(1));
            for (name, value) in encode(version, entry) {
                asking.arg(name).arg(value);
            }
            let done: Result<i64, RedisError> = asking.invoke_async(&mut self.connection.commands()).await;
            let done = done.map_err(|error| self.connection.refused(&place, error))?;
            Ok(done == 1)
        })
    }

    fn entries<'a>(&'a self, line: &'a LineName) -> BoxFuture<'a, Result<Vec<(Key, Entry)>, StoreError>> {
        Box::pin(async move {
            let failed = |error| self.connection.failed(error);
            let mut commands = self.connection.commands();
            let prefix = format!("{PREFIX}:{line}:");
            let places = self.connection.places(&prefix).await?;
            let mut all = Vec::with_capacity(places.len());
            for places in places.chunks(TOGETHER_MAX) {
                let mut asking = redis::pipe();
                asking.ignore_errors();
                for place in places {
                    asking.hgetall(place);
                }
                let answers: Vec<Result<Fields, RedisError>> =
                    asking.query_async(&mut commands).await.map_err(failed)?;
                for (place, answer) in places.iter().zip(answers) {
                    let fields = answer.map_err(|error| self.connection.refused(place, error))?;
                    let partition = place.strip_prefix(&prefix).and_then(partition);
                    let partition = partition.ok_or_else(|| garbage(place, "it names no partition"))?;
                    // One that went away meanwhile is none.
                    if let Some((_, entry)) = decode(place, &fields)? {
                        let Entry { cluster_id, topic_id, .. } = &entry;
                        let (cluster_id, topic_id) = (cluster_id.clone(), *topic_id);
                        all.push((Key { line: line.clone(), cluster_id, partition, topic_id }, entry));
                    }
                }
            }
            Ok(all)
        })
    }
}

/// Names of lines and topics have no colons.
fn place(key: &Key) -> String {
    let Key { line, partition: TopicPartition { topic, partition }, .. } = key;
    format!("{PREFIX}:{line}:{topic}:{partition}")
}

/// `orders:3`.
fn partition(text: &str) -> Option<TopicPartition> {
    let (topic, number) = text.split_once(':')?;
    let partition = number.parse::<i32>().ok().filter(|said| *said >= 0 && said.to_string() == number)?;
    Some(TopicPartition::new(Str::copy_from(topic), PartitionId(partition)))
}

fn garbage(place: &str, problem: impl Into<String>) -> StoreError {
    StoreError::Garbage { place: place.to_owned(), problem: problem.into() }
}

fn encode(version: i64, entry: &Entry) -> Vec<(&'static str, String)> {
    let Entry { cluster_id, topic_id, fence, stored } = entry;
    let Stored { begun, committed, frozen, updated } = stored;
    let mut fields = vec![
        ("version", version.to_string()),
        ("cluster_id", cluster_id.clone()),
        ("topic_id", topic_id.to_string()),
        ("epoch", fence.number.to_string()),
        ("token", fence.token.to_string()),
        ("begun", begun.to_string()),
        ("committed", committed.next.to_string()),
        ("leader_epoch", committed.leader_epoch.0.to_string()),
        ("updated_ms", updated.0.to_string()),
    ];
    if let Some(Frozen { range, epoch, layout, letters }) = frozen {
        fields.extend([
            ("frozen_start", range.start.to_string()),
            ("frozen_end", range.end.to_string()),
            ("frozen_epoch", epoch.to_string()),
            ("frozen_layout", layout.name().to_owned()),
            ("frozen_letters", letters.to_string()),
        ]);
    }
    fields
}

/// What the fields say; nothing if there are none.
fn decode(place: &str, fields: &Fields) -> Result<Option<(Version, Entry)>, StoreError> {
    match fields.is_empty() {
        true => Ok(None),
        false => said(fields).map(Some).map_err(|problem| garbage(place, problem)),
    }
}

fn said(fields: &Fields) -> Result<(Version, Entry), String> {
    let text = |name: &str| fields.get(name).ok_or_else(|| format!("{name} is missing"));
    /// A number has one text, as it is compared by its text.
    fn number<T: FromStr + ToString>(name: &str, text: &str) -> Result<T, String> {
        let said = text.parse().ok().filter(|said: &T| said.to_string() == text);
        said.ok_or_else(|| format!("{name} is {text:?}, which is no number"))
    }
    let long = |name: &str| number::<i64>(name, text(name)?);
    let frozen = match fields.keys().any(|name| name.starts_with("frozen_")) {
        false => None,
        true => {
            let range = Range { start: Offset(long("frozen_start")?), end: Offset(long("frozen_end")?) };
            let layout =
                text("frozen_layout")?.parse().map_err(|problem| format!("frozen_layout: {problem}"))?;
            let letters = number("frozen_letters", text("frozen_letters")?)?;
            Some(Frozen { range, epoch: long("frozen_epoch")?, layout, letters })
        }
    };
    let fence = Fence { number: long("epoch")?, token: long("token")? };
    let leader_epoch = LeaderEpoch(number("leader_epoch", text("leader_epoch")?)?);
    let topic_id = text("topic_id")?;
    let entry = Entry {
        cluster_id: text("cluster_id")?.clone(),
        topic_id: topic_id.parse().map_err(|_| format!("topic_id is {topic_id:?}, which is no id"))?,
        fence,
        stored: Stored {
            begun: Offset(long("begun")?),
            committed: Position { next: Offset(long("committed")?), leader_epoch },
            frozen,
            updated: Millis(long("updated_ms")?),
        },
    };
    Ok((Version { number: long("version")?, fence }, entry.check()?))
}
