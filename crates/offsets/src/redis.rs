//! Positions in Redis, for output that is in Redis too or that can be rebuilt.
//!
//! Each partition is a hash that people can read: `HGETALL ottla:offsets:READER:CLUSTER:TOPIC-PARTITION` shows `offset`,
//! `leader_epoch`, `topic_id`, `fence`, `holder` and `updated_ms`. One script takes hold and one commits, so that each happens
//! as a whole. What Redis has acknowledged it can still lose: with `appendfsync everysec` the last second when the machine dies,
//! with an asynchronous replica what had not arrived there when it took over. A reader notices, and stops.

use std::sync::Arc;

use client::BoxFuture;
use redis::aio::ConnectionManager;
use redis::{AsyncCommands, Client, RedisError, Script};
use wire::{LeaderEpoch, Millis, Offset, PartitionId, Str, TopicPartition, Uuid};

use crate::key::{Key, ReaderName};
use crate::store::{Claim, Expected, Fence, Found, Held, OffsetStore, Position, StoreError, Stored, judge};

const PREFIX: &str = "ottla:offsets";

/// KEYS: the hash. ARGV: the token. Returns the new fence's number and what is there.
const ACQUIRE: &str = "
local fence = redis.call('HINCRBY', KEYS[1], 'fence', 1)
redis.call('HSET', KEYS[1], 'holder', ARGV[1])
local at = redis.call('HMGET', KEYS[1], 'offset', 'leader_epoch', 'topic_id', 'updated_ms')
return {tostring(fence), ARGV[1], at[1], at[2], at[3], at[4]}
";

/// KEYS: the hash. ARGV: fence, holder, what `offset` and `topic_id` have to be ('' for absent, '*' for anything), then the new
/// offset, leader epoch and topic id. Returns nil when it was done, and else what is there.
const COMMIT: &str = "
local at = redis.call('HMGET', KEYS[1], 'fence', 'holder', 'offset', 'topic_id')
local is_held = at[1] == ARGV[1] and at[2] == ARGV[2]
local is_expected = ARGV[3] == '*' or ((at[3] or '') == ARGV[3] and (at[4] or '') == ARGV[4])
if not (is_held and is_expected) then return {at[1], at[2], at[3], at[4]} end
local time = redis.call('TIME')
local ms = time[1] .. string.format('%03d', math.floor(time[2] / 1000))
redis.call('HSET', KEYS[1], 'offset', ARGV[5], 'leader_epoch', ARGV[6], 'topic_id', ARGV[7], 'updated_ms', ms)
return nil
";

/// Positions in a Redis. Clones share the connection, which comes back by itself.
#[derive(Clone)]
pub struct RedisStore {
    connection: ConnectionManager,
    acquire: Arc<Script>,
    commit: Arc<Script>,
}

impl RedisStore {
    /// Connects to an address such as `redis://127.0.0.1:6379/0`.
    pub async fn connect(address: &str) -> Result<Self, StoreError> {
        let client = Client::open(address).map_err(unavailable)?;
        let connection = client.get_connection_manager().await.map_err(unavailable)?;
        let script = |text| Arc::new(Script::new(text));
        Ok(Self { connection, acquire: script(ACQUIRE), commit: script(COMMIT) })
    }
}

impl OffsetStore for RedisStore {
    fn acquire<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Held, StoreError>> {
        Box::pin(async move {
            let place = place(key);
            let token: i64 = rand::random();
            let mut connection = self.connection.clone();
            let answer: [Option<String>; 6] = self
                .acquire
                .key(&place)
                .arg(token)
                .invoke_async(&mut connection)
                .await
                .map_err(|e| refused(&place, e))?;
            let [number, token, offset, leader_epoch, topic_id, updated] = answer;
            let fence = fence(&place, number, token)?.ok_or_else(|| garbage(&place, "nothing", "fence"))?;
            Ok(Held { fence, stored: stored(&place, offset, leader_epoch, topic_id, updated)? })
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
            let mut connection = self.connection.clone();
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
                .invoke_async(&mut connection)
                .await
                .map_err(|error| refused(&place, error))?;
            let Some([number, token, offset, topic_id]) = answer else { return Ok(()) };
            let found = match fence(&place, number, token)? {
                None => None,
                Some(fence) => Some(Found { fence, at: place_in_topic(&place, offset, topic_id)? }),
            };
            judge(claim, found)?;
            unreachable!("the script refuses what is refused here, and nothing else")
        })
    }

    fn list<'a>(&'a self, reader: &'a ReaderName) -> BoxFuture<'a, Result<Vec<(Key, Stored)>, StoreError>> {
        Box::pin(async move {
            let mut connection = self.connection.clone();
            let prefix = format!("{PREFIX}:{reader}:");
            let mut places = Vec::new();
            let mut found =
                connection.scan_match::<_, String>(format!("{prefix}*")).await.map_err(unavailable)?;
            while let Some(place) = found.next_item().await {
                places.push(place.map_err(unavailable)?);
            }
            drop(found);
            places.sort();
            // A scan may name a key twice.
            places.dedup();
            let mut listed = Vec::new();
            for place in places {
                let fields = ["offset", "leader_epoch", "topic_id", "updated_ms"];
                let [offset, leader_epoch, topic_id, updated]: [Option<String>; 4] =
                    connection.hmget(&place, &fields).await.map_err(|error| refused(&place, error))?;
                let rest = place.strip_prefix(&prefix).and_then(|rest| rest.rsplit_once(':'));
                let named = rest.and_then(|(cluster, partition)| Some((cluster, named(partition)?)));
                let Some((cluster_id, partition)) = named else {
                    return Err(garbage(&place, &place, "key of a partition"));
                };
                let Some(stored) = stored(&place, offset, leader_epoch, topic_id, updated)? else { continue };
                let key = Key {
                    reader: reader.clone(),
                    cluster_id: cluster_id.to_owned(),
                    partition,
                    topic_id: stored.topic_id,
                };
                listed.push((key, stored));
            }
            Ok(listed)
        })
    }
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

fn stored(
    place: &str,
    offset: Option<String>,
    leader_epoch: Option<String>,
    topic_id: Option<String>,
    updated: Option<String>,
) -> Result<Option<Stored>, StoreError> {
    let Some((next, topic_id)) = place_in_topic(place, offset, topic_id)? else { return Ok(None) };
    let leader_epoch = match leader_epoch {
        None => LeaderEpoch::NONE,
        Some(text) => LeaderEpoch(text.parse().map_err(|_| garbage(place, &text, "leader epoch"))?),
    };
    let updated = match updated {
        None => Millis(-1),
        Some(text) => Millis(text.parse().map_err(|_| garbage(place, &text, "time"))?),
    };
    Ok(Some(Stored { position: Position { next, leader_epoch }, topic_id, updated }))
}

fn place_in_topic(
    place: &str,
    offset: Option<String>,
    topic_id: Option<String>,
) -> Result<Option<(Offset, Uuid)>, StoreError> {
    let Some(offset) = offset else { return Ok(None) };
    let next =
        offset.parse().ok().filter(|&next| next >= 0).ok_or_else(|| garbage(place, &offset, "offset"))?;
    let topic_id = topic_id.unwrap_or_default();
    let topic_id = topic_id.parse().map_err(|_| garbage(place, &topic_id, "topic id"))?;
    Ok(Some((Offset(next), topic_id)))
}

fn fence(place: &str, number: Option<String>, token: Option<String>) -> Result<Option<Fence>, StoreError> {
    let (Some(number), Some(token)) = (number, token) else { return Ok(None) };
    let number = number.parse().map_err(|_| garbage(place, &number, "fence"))?;
    let token = token.parse().map_err(|_| garbage(place, &token, "holder"))?;
    Ok(Some(Fence { number, token }))
}

fn garbage(place: &str, found: &str, expected: &'static str) -> StoreError {
    StoreError::Garbage { place: place.to_owned(), found: format!("{found:?}"), expected }
}

/// An answer that is about what is there, and not about Redis.
fn refused(place: &str, error: RedisError) -> StoreError {
    let said = error.to_string();
    match said.contains("WRONGTYPE") || said.contains("not an integer") {
        true => StoreError::Garbage { place: place.to_owned(), found: said, expected: "position" },
        false => unavailable(error),
    }
}

fn unavailable(error: RedisError) -> StoreError {
    StoreError::Unavailable { store: "Redis", source: Arc::new(error) }
}
