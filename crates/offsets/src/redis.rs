//! Positions in Redis, for output that is in Redis too or that can be rebuilt.
//!
//! Each partition is a hash that people can read: `HGETALL ottla:offsets:READER:CLUSTER:TOPIC-PARTITION` shows `offset`,
//! `leader_epoch`, `topic_id`, `fence`, `holder` and `updated_ms`, and `chosen_over` while nothing was read from a place that was
//! chosen. One script takes hold and one commits, so that each happens
//! as a whole. What Redis has acknowledged it can still lose: with `appendfsync everysec` the last second when the machine dies,
//! with an asynchronous replica what had not arrived there when it took over. A reader notices, and stops.

use std::str::FromStr;
use std::sync::Arc;

use client::BoxFuture;
use redis::{AsyncCommands, RedisError, Script};
use tokio::task::JoinSet;
use wire::{LeaderEpoch, Millis, Offset, PartitionId, Str, TopicPartition, Uuid};

use crate::key::{Key, ReaderName};
use crate::redis_connection::RedisConnection;
use crate::store::{
    Claim, Expected, Fence, Found, Held, OffsetStore, Position, Seen, StoreError, Stored, judge, positions,
};

const PREFIX: &str = "ottla:offsets";
const PERMISSIONS: &str = "allow the user ~ottla:offsets:* and +@hash +@scripting +time +scan (ACL SETUSER)";

/// Others that take hold of the same partition in the same moment make it try again.
const TRIES_MAX: u32 = 100;
/// Partitions that are asked about at once.
const TOGETHER_MAX: usize = 100;
/// What there is of a partition.
const FIELDS: [&str; 7] =
    ["fence", "holder", "offset", "leader_epoch", "topic_id", "updated_ms", "chosen_over"];

/// KEYS: the hash. ARGV: the token, and the fence that was seen ('' for none). Returns what is there, with the new fence, or nil if
/// somebody else has taken hold since.
const ACQUIRE: &str = "
if (redis.call('HGET', KEYS[1], 'fence') or '') ~= ARGV[2] then return nil end
redis.call('HINCRBY', KEYS[1], 'fence', 1)
redis.call('HSET', KEYS[1], 'holder', ARGV[1])
return redis.call('HMGET', KEYS[1], 'fence', 'holder', 'offset', 'leader_epoch', 'topic_id', 'updated_ms', 'chosen_over')
";

/// KEYS: the hash. ARGV: fence, holder, what `offset` and `topic_id` have to be (without an offset '' and any topic, '*' for anything), then the new
/// offset, leader epoch and topic id, and the copy that is passed over ('' for none). Returns nil when it was done, and else what is there.
const COMMIT: &str = "
local at = redis.call('HMGET', KEYS[1], 'fence', 'holder', 'offset', 'topic_id')
local is_held = at[1] == ARGV[1] and at[2] == ARGV[2]
local is_expected = ARGV[3] == '*'
    or (ARGV[3] == '' and not at[3])
    or (ARGV[3] ~= '' and at[3] == ARGV[3] and at[4] == ARGV[4])
if not (is_held and is_expected) then return {at[1], at[2], at[3], at[4]} end
local time = redis.call('TIME')
local ms = time[1] .. string.format('%03d', math.floor(time[2] / 1000))
redis.call('HSET', KEYS[1], 'offset', ARGV[5], 'leader_epoch', ARGV[6], 'topic_id', ARGV[7], 'updated_ms', ms)
if ARGV[8] == '' then redis.call('HDEL', KEYS[1], 'chosen_over') else redis.call('HSET', KEYS[1], 'chosen_over', ARGV[8]) end
return nil
";

/// Positions in a Redis. Clones share the connection, which comes back by itself.
#[derive(Clone)]
pub struct RedisStore {
    connection: RedisConnection,
    acquire: Arc<Script>,
    commit: Arc<Script>,
}

impl RedisStore {
    /// Connects to an address such as `redis://127.0.0.1:6379/0`.
    pub async fn connect(address: &str) -> Result<Self, StoreError> {
        let connection = RedisConnection::connect(address, PERMISSIONS).await?;
        let script = |text| Arc::new(Script::new(text));
        Ok(Self { connection, acquire: script(ACQUIRE), commit: script(COMMIT) })
    }

    /// Takes hold if nobody has done so since it was looked: what arrives late takes nothing from whoever came meanwhile.
    async fn take(&self, key: &Key) -> Result<Held, StoreError> {
        let place = place(key);
        let token: i64 = rand::random();
        let mut connection = self.connection.commands();
        for _ in 0..TRIES_MAX {
            let seen: Option<String> = connection
                .hget(&place, "fence")
                .await
                .map_err(|error| self.connection.refused(&place, error))?;
            let answer: Option<Fields> = self
                .acquire
                .key(&place)
                .arg(token)
                .arg(seen.unwrap_or_default())
                .invoke_async(&mut connection)
                .await
                .map_err(|error| self.connection.refused(&place, error))?;
            if let Some(fields) = answer {
                let (fence, stored) = row(&place, fields)?;
                return Ok(Held { fence: fence.ok_or_else(|| garbage(&place, "nothing", "fence"))?, stored });
            }
        }
        Err(StoreError::Busy { key: Box::new(key.clone()) })
    }
}

impl OffsetStore for RedisStore {
    fn acquire<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Held, StoreError>> {
        Box::pin(self.take(key))
    }

    fn acquire_all<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Vec<Result<Held, StoreError>>> {
        Box::pin(async move {
            let mut held = Vec::with_capacity(keys.len());
            for keys in keys.chunks(TOGETHER_MAX) {
                // They share the connection, on which one does not wait for the answer to the other.
                let mut taking = JoinSet::new();
                for (at, key) in keys.iter().enumerate() {
                    let (store, key) = (self.clone(), key.clone());
                    taking.spawn(async move { (at, store.take(&key).await) });
                }
                let mut taken = taking.join_all().await;
                taken.sort_unstable_by_key(|(at, _)| *at);
                held.extend(taken.into_iter().map(|(_, held)| held));
            }
            held
        })
    }

    fn commit<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let place = place(&claim.key);
            let topic_id = claim.key.topic_id.to_string();
            let (offset, topic) = match claim.expected {
                Expected::Nothing => (String::new(), String::new()),
                Expected::At(offset) => (offset.0.to_string(), topic_id.clone()),
                Expected::Anything => ("*".to_owned(), String::new()),
            };
            let mut connection = self.connection.commands();
            let answer: Option<[Option<String>; 4]> = self
                .commit
                .key(&place)
                .arg(claim.fence.number)
                .arg(claim.fence.token)
                .arg(offset)
                .arg(topic)
                .arg(claim.position.next.0)
                .arg(claim.position.leader_epoch.0)
                .arg(topic_id)
                .arg(claim.over.map(|over| over.0.to_string()).unwrap_or_default())
                .invoke_async(&mut connection)
                .await
                .map_err(|error| self.connection.refused(&place, error))?;
            let Some([number, token, offset, topic_id]) = answer else { return Ok(()) };
            let found = match fence(&place, number, token)? {
                None => None,
                Some(fence) => Some(Found { fence, at: place_in_topic(&place, offset, topic_id)? }),
            };
            judge(claim, found)?;
            // The script compares texts, and there is one text of a number.
            Err(StoreError::Busy { key: Box::new(claim.key.clone()) })
        })
    }

    fn list<'a>(&'a self, reader: &'a ReaderName) -> BoxFuture<'a, Result<Vec<(Key, Stored)>, StoreError>> {
        Box::pin(async move { Ok(positions(self.survey(reader).await?)) })
    }

    fn survey<'a>(
        &'a self,
        reader: &'a ReaderName,
    ) -> BoxFuture<'a, Result<Vec<Result<Seen, StoreError>>, StoreError>> {
        Box::pin(async move {
            let mut connection = self.connection.commands();
            let failed = |error| self.connection.failed(error);
            let prefix = format!("{PREFIX}:{reader}:");
            let places = self.connection.places(&prefix).await?;
            let mut all = Vec::with_capacity(places.len());
            for places in places.chunks(TOGETHER_MAX) {
                let mut asking = redis::pipe();
                asking.ignore_errors();
                for place in places {
                    asking.hmget(place, &FIELDS);
                }
                let answers: Vec<Result<Fields, RedisError>> =
                    asking.query_async(&mut connection).await.map_err(failed)?;
                for (place, answer) in places.iter().zip(answers) {
                    let answer = answer.map_err(|error| self.connection.refused(place, error));
                    match seen(reader, &prefix, place, answer) {
                        Ok(Some(seen)) => all.push(Ok(seen)),
                        // It went away meanwhile.
                        Ok(None) => {}
                        Err(error @ StoreError::Garbage { .. }) => all.push(Err(error)),
                        Err(error) => return Err(error),
                    }
                }
            }
            Ok(all)
        })
    }
}

/// What there is of a partition, as [`FIELDS`] say.
type Fields = [Option<String>; 7];

fn seen(
    reader: &ReaderName,
    prefix: &str,
    place: &str,
    answer: Result<Fields, StoreError>,
) -> Result<Option<Seen>, StoreError> {
    let rest = place.strip_prefix(prefix).and_then(|rest| rest.rsplit_once(':'));
    let named = rest.and_then(|(cluster, partition)| Some((cluster, named(partition)?)));
    let (cluster_id, partition) = named.ok_or_else(|| garbage(place, place, "key of a partition"))?;
    let (fence, stored) = row(place, answer?)?;
    let topic_id = stored.map_or(Uuid::ZERO, |stored| stored.topic_id);
    let key = Key { reader: reader.clone(), cluster_id: cluster_id.to_owned(), partition, topic_id };
    Ok((fence.is_some() || stored.is_some()).then_some(Seen { key, fence, stored }))
}

/// Who holds a partition, and where it is.
fn row(place: &str, fields: Fields) -> Result<(Option<Fence>, Option<Stored>), StoreError> {
    let [number, token, offset, leader_epoch, topic_id, updated, over] = fields;
    let fence = fence(place, number, token)?;
    let Some((next, topic_id)) = place_in_topic(place, offset, topic_id)? else { return Ok((fence, None)) };
    let leader_epoch = match leader_epoch {
        None => LeaderEpoch::NONE,
        Some(text) => LeaderEpoch(read(place, &text, "leader epoch")?),
    };
    let updated = match updated {
        None => Millis(-1),
        Some(text) => Millis(read(place, &text, "time")?),
    };
    let over = match over {
        None => None,
        Some(text) => Some(Offset(read(place, &text, "offset of a copy")?)),
    };
    let position = Position { next, leader_epoch };
    Ok((fence, Some(Stored { position, topic_id, updated, over })))
}

fn place(key: &Key) -> String {
    let Key { reader, cluster_id, partition, .. } = key;
    format!("{PREFIX}:{reader}:{cluster_id}:{}-{}", partition.topic, partition.partition)
}

/// `orders-3`; a topic's name may have hyphens, and never a colon.
fn named(text: &str) -> Option<TopicPartition> {
    let (topic, partition) = text.rsplit_once('-')?;
    Some(TopicPartition::new(Str::copy_from(topic), PartitionId(partition.parse().ok()?)))
}

fn place_in_topic(
    place: &str,
    offset: Option<String>,
    topic_id: Option<String>,
) -> Result<Option<(Offset, Uuid)>, StoreError> {
    let Some(offset) = offset else { return Ok(None) };
    let next = read(place, &offset, "offset")?;
    if next < 0 {
        return Err(garbage(place, &offset, "offset"));
    }
    let topic_id = read(place, &topic_id.unwrap_or_default(), "topic id")?;
    Ok(Some((Offset(next), topic_id)))
}

fn fence(place: &str, number: Option<String>, token: Option<String>) -> Result<Option<Fence>, StoreError> {
    let (Some(number), Some(token)) = (number, token) else { return Ok(None) };
    let (number, token) = (read(place, &number, "fence")?, read(place, &token, "holder")?);
    Ok(Some(Fence { number, token }))
}

/// What a text says, if it is the one text that says so: `040` is no other way to write 40, as a commit compares texts.
fn read<T: FromStr + ToString>(place: &str, text: &str, expected: &'static str) -> Result<T, StoreError> {
    let said = text.parse().ok().filter(|said: &T| said.to_string() == text);
    said.ok_or_else(|| garbage(place, text, expected))
}

fn garbage(place: &str, found: &str, expected: &'static str) -> StoreError {
    StoreError::Garbage { place: place.to_owned(), found: format!("{found:?}"), expected }
}
