//! Streams in a Redis, one for each partition, each with its position beside it.
//!
//! The stream is `PREFIX:NAME:TOPIC:PARTITION`, and the position is the hash `{PREFIX:NAME:TOPIC:PARTITION}:position`, which is in the
//! same slot. One script adds entries and moves the position, for the holder alone, from exactly where it is, and only if the stream ends
//! with the entry that the position says: what Redis loses it loses of both, and whatever one of them has lost alone is noticed. The
//! decisions are pure ([`taken`], [`judged`]): a script only says whether what was read is so still.

use std::collections::BTreeMap;
use std::str::FromStr;

use bytes::Bytes;
use client::ConsumedRecord;
use offsets::{Fence, Position, RedisConnection};
use redis::aio::{ConnectionLike, ConnectionManager};
use redis::{RedisError, Script};
use wire::{LeaderEpoch, Millis, Offset, TopicPartition, Uuid};

use crate::key::Key;
use crate::server_store::insist;
use crate::settings::Settings;
use crate::store::StoreError;
use crate::stream_entry::{self, Id};
use crate::stream_settings::StreamSettings;

const PERMISSIONS: &str = "allow the user the streams and the positions beside them, as in ~ottla:stream:* ~{ottla:stream:*, \
     and +@hash +@stream +@scripting +exists (ACL SETUSER)";
/// How often it is tried to take hold where others come before.
const TRIES_MAX: u32 = 100;

/// Says with which entry a stream ends, whether that is there still or not.
const LAST: &str = "
local last = '0-0'
if redis.call('EXISTS', KEYS[1]) == 1 then
    local info = redis.call('XINFO', 'STREAM', KEYS[1])
    for at = 1, #info, 2 do
        if info[at] == 'last-generated-id' then last = info[at + 1] end
    end
end
";

/// KEYS: the stream and the position. Returns the last entry's id, and the position's fields, each with its value behind it.
const LOOK: &str = "
local found = redis.call('HGETALL', KEYS[2])
table.insert(found, 1, last)
return found
";

/// KEYS: the position. ARGV: the fence, the holder, the position and the last entry that were read ('' where nothing was), then
/// fields and their values. Returns whether it was done: whoever holds the partition may be adding entries.
const TAKE: &str = "
local at = redis.call('HMGET', KEYS[1], 'fence', 'holder', 'next', 'last')
for field = 1, 4 do
    if (at[field] or '') ~= ARGV[field] then return 0 end
end
redis.call('HSET', KEYS[1], unpack(ARGV, 5))
return 1
";

/// KEYS: the stream and the position. ARGV: fence, holder, the position as it is, the new one, its leader epoch, the time, how many
/// entries are kept about ('' for all), and of each entry its id, how many words it has, and these. Returns whether it was done.
const APPEND: &str = "
local at = redis.call('HMGET', KEYS[2], 'fence', 'holder', 'next', 'last')
if at[1] ~= ARGV[1] or at[2] ~= ARGV[2] or at[3] ~= ARGV[3] or at[4] ~= last then return 0 end
local arg = 8
while arg < #ARGV do
    last = ARGV[arg]
    local count = tonumber(ARGV[arg + 1])
    redis.call('XADD', KEYS[1], last, unpack(ARGV, arg + 2, arg + 1 + count))
    arg = arg + 2 + count
end
redis.call('HSET', KEYS[2], 'next', ARGV[4], 'leader_epoch', ARGV[5], 'last', last, 'updated_ms', ARGV[6])
if ARGV[7] ~= '' and last ~= '0-0' and redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', ARGV[7]) > 0 then
    local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
    redis.call('HSET', KEYS[2], 'trimmed_to', first and string.match(first[1], '^%d+') or ARGV[4])
end
return 1
";

/// Why a stream is not gone on with.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The server, or what is at the position's key.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The position is of another cluster.
    #[error(
        "{key} was read from cluster {stored} into {place}, and this is cluster {}: another cluster needs a name or a stream_prefix of its own",
        key.cluster_id
    )]
    OtherCluster {
        /// The partition.
        key: Box<Key>,
        /// The stream.
        place: String,
        /// Of the position.
        stored: String,
    },
    /// The position is of another topic of the same name.
    #[error(
        "{key} was read from topic id {stored} into {place}, and the topic is now {}: it was deleted and created again, and needs a name or a stream_prefix of its own",
        key.topic_id
    )]
    OtherTopic {
        /// The partition.
        key: Box<Key>,
        /// The stream.
        place: String,
        /// Of the position.
        stored: Uuid,
    },
    /// The stream is not the one that the position is of.
    #[error("{key}: {}", apart(.place, .wanted, .found))]
    Apart {
        /// The partition.
        key: Box<Key>,
        /// The stream.
        place: String,
        /// The last entry, as the position says.
        wanted: String,
        /// The last entry of the stream.
        found: String,
    },
    /// There is a stream, and no position.
    #[error(
        "{key}: the position of stream {place} is gone, and the stream has had entries up to {last}: put the hash {position} back, or, to begin anew, \
         remove the stream too (DEL {place})"
    )]
    NoPosition {
        /// The partition.
        key: Box<Key>,
        /// The stream.
        place: String,
        /// The hash.
        position: String,
        /// The stream's last entry.
        last: String,
    },
    /// Nothing is there any more of what was held.
    #[error(
        "{key}: stream {place} and its position are both gone while the line was at work: Redis has lost its data; a new run begins anew"
    )]
    Lost {
        /// The partition.
        key: Box<Key>,
        /// The stream.
        place: String,
    },
}

fn apart(place: &str, wanted: &str, found: &str) -> String {
    let what_to_do =
        format!("to begin anew, remove the stream and its position (DEL {place} {})", position_of(place));
    let none = Id::NONE.to_string();
    if found == none {
        return format!(
            "stream {place} is gone, and its position says that it has had entries up to {wanted}: put the stream back, or, {what_to_do}"
        );
    }
    format!(
        "stream {place} has had entries up to {found}, and its position says up to {wanted}: somebody else has written to it, or put another \
         in its place; {what_to_do}"
    )
}

/// Where a line is in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) cluster_id: String,
    pub(crate) topic_id: Uuid,
    pub(crate) fence: Fence,
    pub(crate) begun: Offset,
    pub(crate) position: Position,
    /// The last entry that the line has added.
    pub(crate) last: Id,
    /// What was before this offset, the line itself has trimmed.
    pub(crate) trimmed_to: Offset,
    pub(crate) updated: Millis,
}

/// What there is of a partition at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) stored: Option<Stored>,
    /// The last entry of the stream, be it there still or not.
    pub(crate) last: Id,
}

/// Taking hold of a partition.
pub(crate) struct Acquire<'a> {
    pub(crate) key: &'a Key,
    /// Where to begin if the line was never there, unless it was.
    pub(crate) begin: Option<Offset>,
    /// The fence's number is at least this: Redis may have forgotten who was there last.
    pub(crate) number_min: i64,
    pub(crate) token: i64,
    pub(crate) now: Millis,
}

/// Records that are to be added by the holder, and where they lead.
pub(crate) struct Append<'a> {
    pub(crate) key: &'a Key,
    pub(crate) fence: Fence,
    pub(crate) from: Offset,
    pub(crate) to: Position,
    pub(crate) records: &'a [ConsumedRecord],
    pub(crate) now: Millis,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Appended {
    /// It is there.
    Done,
    /// Redis was set back, stream and position together, to before what the holder had done: it takes hold again.
    SetBack,
}

/// Whether what is there is this key's, with a stream and a position of one another.
pub(crate) fn checked<'a>(seen: &'a Seen, key: &Key, place: &str) -> Result<Option<&'a Stored>, StreamError> {
    let (boxed, place) = (|| Box::new(key.clone()), place.to_owned());
    let Some(stored) = &seen.stored else {
        return match seen.last {
            Id::NONE => Ok(None),
            last => {
                let (position, last) = (position_of(&place), last.to_string());
                Err(StreamError::NoPosition { key: boxed(), place, position, last })
            }
        };
    };
    if stored.cluster_id != key.cluster_id {
        return Err(StreamError::OtherCluster { key: boxed(), place, stored: stored.cluster_id.clone() });
    }
    if stored.topic_id != key.topic_id {
        return Err(StreamError::OtherTopic { key: boxed(), place, stored: stored.topic_id });
    }
    match stored.last == seen.last {
        true => Ok(Some(stored)),
        false => {
            let (wanted, found) = (stored.last.to_string(), seen.last.to_string());
            Err(StreamError::Apart { key: boxed(), place, wanted, found })
        }
    }
}

/// What is stored once somebody has taken hold.
pub(crate) fn taken(seen: &Seen, acquire: &Acquire<'_>, place: &str) -> Result<Stored, StreamError> {
    let Acquire { key, begin, number_min, token, now } = *acquire;
    let found = checked(seen, key, place)?;
    let number = found.map_or(1, |found| found.fence.number.saturating_add(1)).max(number_min);
    let fence = Fence { number, token };
    Ok(match (found, begin) {
        (Some(found), _) => Stored { fence, updated: now, ..found.clone() },
        (None, None) => {
            return Err(StreamError::Lost { key: Box::new(key.clone()), place: place.to_owned() });
        }
        (None, Some(begin)) => Stored {
            cluster_id: key.cluster_id.clone(),
            topic_id: key.topic_id,
            fence,
            begun: begin,
            position: Position { next: begin, leader_epoch: LeaderEpoch::NONE },
            last: Id::NONE,
            trimmed_to: Offset::ZERO,
            updated: now,
        },
    })
}

/// What it means that a script has not added what it was to add.
pub(crate) fn judged(seen: &Seen, append: &Append<'_>, place: &str) -> Result<Appended, StreamError> {
    let boxed = || Box::new(append.key.clone());
    let Some(stored) = checked(seen, append.key, place)? else {
        return Err(StreamError::Lost { key: boxed(), place: place.to_owned() });
    };
    let (held, found) = (append.fence, stored.fence);
    if found == held {
        // Nobody else moves it: by this very holder, who has not heard of it.
        let is_done = stored.position.next == append.to.next;
        return Ok(if is_done { Appended::Done } else { Appended::SetBack });
    }
    match found.number < held.number {
        true => Ok(Appended::SetBack),
        false => Err(StoreError::Fenced { key: boxed(), held: held.number, current: found.number }.into()),
    }
}

/// The streams of a sink.
pub(crate) struct StreamStore<C = ConnectionManager> {
    connection: RedisConnection,
    /// What commands are sent by.
    commands: C,
    /// What the names of all of its streams begin with.
    prefix: String,
    len_max: Option<u64>,
    look: Script,
    take: Script,
    append: Script,
}

pub(crate) fn position_of(place: &str) -> String {
    format!("{{{place}}}:position")
}

/// An entry's id, and its fields with their values.
pub(crate) type Entry = (Id, Vec<Vec<u8>>);

impl StreamStore {
    pub(crate) async fn connect(settings: &Settings, declared: &StreamSettings) -> Result<Self, StoreError> {
        let connection = RedisConnection::connect(&declared.address, PERMISSIONS).await?;
        let commands = connection.commands();
        Ok(Self::over(connection, commands, settings.name.as_str(), declared))
    }
}

impl<C: ConnectionLike + Clone + Send + Sync> StreamStore<C> {
    /// Of the sink of this name, over a connection that there is.
    pub(crate) fn over(
        connection: RedisConnection,
        commands: C,
        name: &str,
        declared: &StreamSettings,
    ) -> Self {
        Self {
            connection,
            commands,
            prefix: format!("{}:{name}", declared.prefix),
            len_max: declared.len_max,
            look: Script::new(&format!("{LAST}{LOOK}")),
            take: Script::new(TAKE),
            append: Script::new(&format!("{LAST}{APPEND}")),
        }
    }

    /// The stream of a partition. Names of sinks and topics have no colons.
    pub(crate) fn place(&self, partition: &TopicPartition) -> String {
        format!("{}:{}:{}", self.prefix, partition.topic, partition.partition)
    }

    /// What there is of partitions, each at a moment of its own.
    pub(crate) async fn look(&self, partitions: &[TopicPartition]) -> Result<Vec<Seen>, StoreError> {
        let mut all = Vec::with_capacity(partitions.len());
        for partition in partitions {
            all.push(self.look_at(partition).await?);
        }
        Ok(all)
    }

    /// What there is of one.
    pub(crate) async fn look_at(&self, partition: &TopicPartition) -> Result<Seen, StoreError> {
        let place = self.place(partition);
        insist(|| self.seen(&place)).await
    }

    /// Where the line is in a partition, for those who only look.
    pub(crate) async fn kept(&self, key: &Key) -> Result<Option<Stored>, StreamError> {
        let seen = self.look_at(&key.partition).await?;
        Ok(checked(&seen, key, &self.place(&key.partition))?.cloned())
    }

    async fn seen(&self, place: &str) -> Result<Seen, StoreError> {
        let position = position_of(place);
        let mut asking = self.look.prepare_invoke();
        asking.key(place).key(&position);
        let found: Result<Vec<Vec<u8>>, RedisError> = asking.invoke_async(&mut self.commands.clone()).await;
        let found = found.map_err(|error| self.connection.refused(&position, error))?;
        let found = found.into_iter().map(String::from_utf8).collect::<Result<Vec<_>, _>>();
        let found = found.map_err(|error| format!("something in it is no text: {error}"));
        let seen = found.and_then(|found| said(&found));
        seen.map_err(|problem| StoreError::Garbage { place: position, problem })
    }

    /// Takes hold of a partition: whoever held it adds nothing any more.
    pub(crate) async fn acquire(&self, acquire: &Acquire<'_>) -> Result<Stored, StreamError> {
        let place = self.place(&acquire.key.partition);
        for _ in 0..TRIES_MAX {
            let seen = insist(|| self.seen(&place)).await?;
            let stored = taken(&seen, acquire, &place)?;
            if insist(|| self.take(&place, seen.stored.as_ref(), &stored)).await? {
                return Ok(stored);
            }
        }
        Err(StoreError::Busy { key: Box::new(acquire.key.clone()) }.into())
    }

    async fn take(&self, place: &str, was: Option<&Stored>, stored: &Stored) -> Result<bool, StoreError> {
        let position = position_of(place);
        let mut asking = self.take.prepare_invoke();
        asking.key(&position);
        for word in ["fence", "holder", "next", "last"] {
            let is_it = |(name, value): (&str, String)| (name == word).then_some(value);
            asking.arg(was.and_then(|was| encode(was).into_iter().find_map(is_it)).unwrap_or_default());
        }
        for (name, value) in encode(stored) {
            asking.arg(name).arg(value);
        }
        let done: Result<i64, RedisError> = asking.invoke_async(&mut self.commands.clone()).await;
        Ok(done.map_err(|error| self.connection.refused(&position, error))? == 1)
    }

    /// Adds entries and moves the position, all of it or nothing. It may be repeated after an error whose outcome is not known.
    pub(crate) async fn append(&self, append: &Append<'_>) -> Result<Appended, StreamError> {
        let place = self.place(&append.key.partition);
        if insist(|| self.try_append(&place, append)).await? {
            return Ok(Appended::Done);
        }
        let seen = insist(|| self.seen(&place)).await?;
        judged(&seen, append, &place)
    }

    async fn try_append(&self, place: &str, append: &Append<'_>) -> Result<bool, StoreError> {
        let position = position_of(place);
        let mut asking = self.append.prepare_invoke();
        asking.key(place).key(&position);
        asking.arg(append.fence.number).arg(append.fence.token).arg(append.from.0);
        asking.arg(append.to.next.0).arg(append.to.leader_epoch.0).arg(append.now.0);
        asking.arg(self.len_max.map(|len| len.to_string()).unwrap_or_default());
        for record in append.records {
            let fields = stream_entry::fields(record);
            asking.arg(Id::of(record.offset).to_string()).arg(2 * fields.len());
            for (name, value) in &fields {
                asking.arg(*name).arg(&value[..]);
            }
        }
        let done: Result<i64, RedisError> = asking.invoke_async(&mut self.commands.clone()).await;
        Ok(done.map_err(|error| self.connection.refused(place, error))? == 1)
    }

    /// Entries of a stream from one to another, so many at most.
    pub(crate) async fn entries(
        &self,
        partition: &TopicPartition,
        from: Id,
        to: Id,
        count: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let place = self.place(partition);
        insist(|| async {
            let mut asking = redis::cmd("XRANGE");
            asking.arg(&place).arg(from.to_string()).arg(to.to_string()).arg("COUNT").arg(count);
            type Found = Vec<(String, Vec<Vec<u8>>)>;
            let found: Result<Found, RedisError> = asking.query_async(&mut self.commands.clone()).await;
            let found = found.map_err(|error| self.connection.refused(&place, error))?;
            let entry = |(id, fields): (String, Vec<Vec<u8>>)| {
                let problem = format!("{id:?} is no id");
                let garbage = |()| StoreError::Garbage { place: place.clone(), problem };
                Ok((id.parse().map_err(garbage)?, fields))
            };
            found.into_iter().map(entry).collect()
        })
        .await
    }
}

/// What a record takes in a script, about.
pub(crate) fn size(record: &ConsumedRecord) -> usize {
    let of = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    // Values of headers are in base64.
    let headers = record.headers.iter().map(|header| header.key.len() + of(&header.value) * 4 / 3 + 8);
    of(&record.key) + of(&record.value) + headers.sum::<usize>() + 64
}

fn encode(stored: &Stored) -> Vec<(&'static str, String)> {
    vec![
        ("cluster_id", stored.cluster_id.clone()),
        ("topic_id", stored.topic_id.to_string()),
        ("fence", stored.fence.number.to_string()),
        ("holder", stored.fence.token.to_string()),
        ("begun", stored.begun.to_string()),
        ("next", stored.position.next.to_string()),
        ("leader_epoch", stored.position.leader_epoch.0.to_string()),
        ("last", stored.last.to_string()),
        ("trimmed_to", stored.trimmed_to.to_string()),
        ("updated_ms", stored.updated.0.to_string()),
    ]
}

/// What a look says.
fn said(found: &[String]) -> Result<Seen, String> {
    let [last, fields @ ..] = found else { return Err("there is no answer".to_owned()) };
    let last = last.parse().map_err(|()| format!("{last:?} is no id of the stream's last entry"))?;
    if fields.is_empty() {
        return Ok(Seen { stored: None, last });
    }
    let fields: BTreeMap<&str, &str> =
        fields.chunks_exact(2).map(|field| (field[0].as_str(), field[1].as_str())).collect();
    let text = |name: &str| fields.get(name).copied().ok_or_else(|| format!("{name} is missing"));
    /// A number has one text, as it is compared by its text.
    fn number<T: FromStr + ToString>(name: &str, text: &str) -> Result<T, String> {
        let said = text.parse().ok().filter(|said: &T| said.to_string() == text);
        said.ok_or_else(|| format!("{name} is {text:?}, which is no number"))
    }
    let long = |name: &str| number::<i64>(name, text(name)?);
    let offset = |name: &str| match long(name)? {
        offset @ 0.. => Ok(Offset(offset)),
        other => Err(format!("{name} is {other}, which is no offset")),
    };
    let fence = Fence { number: long("fence")?, token: long("holder")? };
    if !(1..i64::MAX).contains(&fence.number) {
        return Err(format!("fence {fence} is none that was given"));
    }
    let topic_id = text("topic_id")?;
    let (begun, next, of_position) = (offset("begun")?, offset("next")?, text("last")?);
    if begun > next {
        return Err(format!("next is {next}, which is before {begun}, where it begins"));
    }
    let of_position: Id =
        of_position.parse().map_err(|()| format!("last is {of_position:?}, which is no id"))?;
    if of_position != Id::NONE && of_position.offset().is_none_or(|last| last < begun || last >= next) {
        return Err(format!("last is {of_position}, which is no id of a record from {begun} up to {next}"));
    }
    let leader_epoch = LeaderEpoch(number("leader_epoch", text("leader_epoch")?)?);
    let stored = Stored {
        cluster_id: text("cluster_id")?.to_owned(),
        topic_id: topic_id.parse().map_err(|_| format!("topic_id is {topic_id:?}, which is no id"))?,
        fence,
        begun,
        position: Position { next, leader_epoch },
        last: of_position,
        trimmed_to: offset("trimmed_to")?,
        updated: Millis(long("updated_ms")?),
    };
    Ok(Seen { stored: Some(stored), last })
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use wire::PartitionId;

    use super::*;

    fn key() -> Key {
        Key {
            line: "orders.nearline".parse().unwrap(),
            cluster_id: "c".to_owned(),
            partition: TopicPartition::new("orders", PartitionId(0)),
            topic_id: Uuid([7; 16]),
        }
    }

    fn held(number: i64) -> Fence {
        Fence { number, token: 5 }
    }

    /// Up to offset 10, by the first holder.
    fn seen() -> Seen {
        let key = key();
        let acquire = Acquire { key: &key, begin: Some(Offset(4)), number_min: 0, token: 5, now: Millis(0) };
        let stored = taken(&Seen { stored: None, last: Id::NONE }, &acquire, "s").unwrap();
        let position = Position { next: Offset(10), leader_epoch: LeaderEpoch(3) };
        let last = Id::of(Offset(9));
        Seen { stored: Some(Stored { position, last, ..stored }), last }
    }

    fn check_judged(fence: Fence, (from, to): (i64, i64), seen: &Seen, expected: Expect) {
        let (key, to) = (key(), Position { next: Offset(to), leader_epoch: LeaderEpoch(3) });
        let append = Append { key: &key, fence, from: Offset(from), to, records: &[], now: Millis(0) };
        expected.assert_eq(&match judged(seen, &append, "s") {
            Ok(appended) => format!("{appended:?}"),
            Err(error) => error.to_string(),
        });
    }

    #[test]
    fn what_was_not_heard_of_is_done_and_what_redis_has_lost_is_done_again() {
        check_judged(held(1), (5, 10), &seen(), expect!["Done"]);
        check_judged(held(1), (20, 30), &seen(), expect!["SetBack"]);
        // It has lost that this one took hold as well.
        check_judged(held(2), (10, 30), &seen(), expect!["SetBack"]);
        let none = Seen { stored: None, last: Id::NONE };
        check_judged(
            held(1),
            (10, 30),
            &none,
            expect![
                "orders-0 of line orders.nearline: stream s and its position are both gone while the line was at work: Redis has lost its data; a new run begins anew"
            ],
        );
    }

    #[test]
    fn another_holder_is_another_even_with_the_same_number() {
        let of = |fence| {
            let seen = seen();
            Seen { stored: seen.stored.map(|stored| Stored { fence, ..stored }), ..seen }
        };
        check_judged(
            held(1),
            (10, 30),
            &of(held(2)),
            expect!["orders-0 of line orders.nearline is held by another instance: epoch 1 is behind 2"],
        );
        check_judged(
            held(1),
            (10, 30),
            &of(Fence { number: 1, token: 6 }),
            expect!["orders-0 of line orders.nearline is held by another instance: epoch 1 is behind 1"],
        );
    }

    #[test]
    fn who_takes_hold_goes_on_from_what_is_there_with_a_number_that_nobody_had() {
        let key = key();
        let acquire =
            |number_min| Acquire { key: &key, begin: Some(Offset(0)), number_min, token: 6, now: Millis(1) };
        let stored = taken(&seen(), &acquire(0), "s").unwrap();
        assert_eq!(
            (stored.fence, stored.begun, stored.position.next),
            (Fence { number: 2, token: 6 }, Offset(4), Offset(10))
        );
        assert_eq!(taken(&seen(), &acquire(40), "s").unwrap().fence.number, 40);
        // Whoever was there does not begin anew by itself.
        let nothing = Seen { stored: None, last: Id::NONE };
        let refused = taken(&nothing, &Acquire { begin: None, ..acquire(3) }, "s");
        assert!(matches!(refused, Err(StreamError::Lost { .. })), "{refused:?}");
        let other = Key { topic_id: Uuid([8; 16]), ..key.clone() };
        let refused = taken(&seen(), &Acquire { key: &other, ..acquire(0) }, "s").unwrap_err().to_string();
        expect!["orders-0 of line orders.nearline was read from topic id BwcHBwcHBwcHBwcHBwcHBw into s, and the topic is now CAgICAgICAgICAgICAgICA: it was deleted and created again, and needs a name or a stream_prefix of its own"].assert_eq(&refused);
    }

    #[test]
    fn what_is_stored_is_read_as_it_was_and_what_cannot_be_is_refused() {
        let fields = |change: (&str, &str)| {
            let stored = seen().stored.unwrap();
            let mut flat = vec!["9-1".to_owned()];
            for (name, value) in encode(&stored) {
                let value = if name == change.0 { change.1.to_owned() } else { value };
                flat.extend([name.to_owned(), value]);
            }
            flat
        };
        assert_eq!(said(&fields(("", ""))), Ok(seen()));
        for change in [
            ("next", "010"),
            ("next", "3"),
            ("begun", "-1"),
            ("fence", "0"),
            ("last", "10-1"),
            ("last", "9-0"),
            ("topic_id", "x"),
            ("trimmed_to", "-1"),
        ] {
            assert!(said(&fields(change)).is_err(), "{change:?}");
        }
        assert_eq!(said(&["0-0".to_owned()]), Ok(Seen { stored: None, last: Id::NONE }));
    }
}
