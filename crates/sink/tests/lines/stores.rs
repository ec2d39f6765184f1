//! What every store of a line's positions promises, asked of each: files beside a table, a real Redis and a real PostgreSQL that are
//! killed between the steps.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use crate::servers::{Postgres, Redis};
use offsets::Fence;
use sink::{
    Acquire, Change, FileStore, Frozen, Held, Key, Layout, LocalFiles, PositionStore, PostgresStore, Range,
    Rebuild, RedisStore, StoreError, Stored,
};
use tempfile::TempDir;
use wire::{LeaderEpoch, Millis, Offset, PartitionId, TopicPartition, Uuid};

/// Where a store is.
enum Place {
    Beside(TempDir),
    Redis(Redis),
    Postgres(Postgres),
}

impl Place {
    async fn beside() -> Self {
        Self::Beside(TempDir::new().unwrap())
    }

    async fn redis() -> Self {
        Self::Redis(Redis::start().await)
    }

    async fn postgres() -> Self {
        Self::Postgres(Postgres::start().await)
    }

    /// A store as another process opens it.
    async fn store(&self) -> Arc<dyn PositionStore> {
        match self {
            Self::Beside(dir) => Arc::new(FileStore::new(Arc::new(LocalFiles), dir.path())),
            Self::Redis(redis) => Arc::new(RedisStore::connect(&redis.address()).await.unwrap()),
            Self::Postgres(postgres) => Arc::new(PostgresStore::connect(&postgres.address()).await.unwrap()),
        }
    }

    async fn kill_and_restart(&mut self) {
        match self {
            // Nothing runs there.
            Self::Beside(_) => {}
            Self::Redis(redis) => redis.kill_and_restart().await,
            Self::Postgres(postgres) => postgres.kill_and_restart().await,
        }
    }

    /// Changes the committed offset of `orders-0` by hand.
    async fn set_committed(&self, text: &str) {
        match self {
            Self::Beside(_) => {
                let path = self.file();
                let told = fs::read_to_string(&path).unwrap();
                fs::write(path, told.replace("\"committed\": 10", &format!("\"committed\": {text}")))
                    .unwrap();
            }
            Self::Redis(redis) => redis.command(&["HSET", "ottla:sink:l:orders:0", "committed", text]).await,
            Self::Postgres(postgres) => {
                let client = postgres.client().await;
                client
                    .batch_execute(&format!("UPDATE ottla_sink_positions SET committed = {text}"))
                    .await
                    .unwrap();
            }
        }
    }

    /// All that is there of `orders-0`, as text.
    async fn content(&self) -> String {
        match self {
            Self::Beside(_) => fs::read_to_string(self.file()).unwrap(),
            Self::Redis(redis) => {
                let fields: std::collections::BTreeMap<String, String> =
                    redis.ask(&["HGETALL", "ottla:sink:l:orders:0"]).await;
                format!("{fields:?}")
            }
            Self::Postgres(postgres) => {
                let select = "SELECT to_json(at)::text FROM ottla_sink_positions AS at";
                postgres.client().await.query_one(select, &[]).await.unwrap().get(0)
            }
        }
    }

    fn file(&self) -> PathBuf {
        let Self::Beside(dir) = self else { panic!("only there are files") };
        let dir = fs::read_dir(dir.path().join("_sink/l/orders-0")).unwrap();
        dir.map(|file| file.unwrap().path()).max().unwrap()
    }
}

fn key(partition: i32) -> Key {
    Key {
        line: "l".parse().unwrap(),
        cluster_id: "cluster-a".to_owned(),
        partition: TopicPartition::new("orders", PartitionId(partition)),
        topic_id: Uuid([7; 16]),
    }
}

fn acquire(key: &Key, token: i64) -> Acquire {
    let now = Millis(1_700_000_000_123);
    Acquire { key: key.clone(), begin: Offset(10), number_min: 0, token, now }
}

fn change(key: &Key, held: &Held, start: i64, end: i64) -> Change {
    let range = Range::new(Offset(start), Offset(end));
    let frozen = Frozen { range, epoch: held.fence.number, layout: Layout::Day, letters: 3 };
    Change { key: key.clone(), fence: held.fence, frozen, now: Millis(1_700_000_000_456) }
}

fn refused<T: std::fmt::Debug>(outcome: Result<T, StoreError>) -> String {
    outcome.expect_err("it is to be refused").to_string()
}

fn told(stored: &Stored) -> (i64, i64, Option<(i64, i64)>) {
    let frozen = stored.frozen.map(|frozen| (frozen.range.start.0, frozen.range.end.0));
    (stored.begun.0, stored.committed.next.0, frozen)
}

macro_rules! in_every_store {
    ($($story:ident)*) => {
        mod beside {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $story() {
                super::$story(super::Place::beside().await).await;
            })*
        }
        mod redis {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $story() {
                super::$story(super::Place::redis().await).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $story() {
                super::$story(super::Place::postgres().await).await;
            })*
        }
    };
}

in_every_store! {
    what_was_answered_is_there_after_a_kill_and_a_repeat_is_once
    a_gap_an_overlap_and_what_is_not_frozen_are_refused
    who_was_fenced_changes_nothing
    of_many_that_take_hold_at_once_one_holds
    another_cluster_and_another_topic_are_refused_and_nothing_is_replaced
    what_cannot_be_a_position_is_refused_and_left_as_it_is
    what_is_listed_is_the_lines_own
    what_the_table_says_is_put_in_place_by_the_holder_alone
}

async fn what_was_answered_is_there_after_a_kill_and_a_repeat_is_once(mut place: Place) {
    let (store, key) = (place.store().await, key(0));
    let held = store.acquire(&acquire(&key, 5)).await.unwrap();
    assert_eq!((held.fence, told(&held.stored)), (Fence { number: 1, token: 5 }, (10, 10, None)));
    place.kill_and_restart().await;
    let range = change(&key, &held, 10, 20);
    // The same store goes on: its connection comes back.
    store.freeze(&range).await.unwrap();
    place.kill_and_restart().await;
    // Said again, as if it had not been heard of.
    store.freeze(&range).await.unwrap();
    let listed = store.list(&key.line).await.unwrap();
    assert_eq!(listed[0].1.frozen, Some(range.frozen), "as it was frozen, with epoch and layout");
    store.commit(&range, LeaderEpoch(3)).await.unwrap();
    place.kill_and_restart().await;
    store.commit(&range, LeaderEpoch(3)).await.unwrap();
    let listed = store.list(&key.line).await.unwrap();
    assert_eq!(listed.len(), 1);
    let (found, stored) = &listed[0];
    assert_eq!((found, told(stored), stored.committed.leader_epoch), (&key, (10, 20, None), LeaderEpoch(3)));
    assert_eq!(stored.updated, range.now, "to the millisecond");
    // A number that was seen elsewhere counts.
    let later = Acquire { number_min: 40, begin: Offset(0), ..acquire(&key, -6) };
    let held = place.store().await.acquire(&later).await.unwrap();
    assert_eq!((held.fence, told(&held.stored)), (Fence { number: 40, token: -6 }, (10, 20, None)));
}

async fn a_gap_an_overlap_and_what_is_not_frozen_are_refused(place: Place) {
    let (store, key) = (place.store().await, key(0));
    let held = store.acquire(&acquire(&key, 5)).await.unwrap();
    let gap = refused(store.freeze(&change(&key, &held, 11, 20)).await);
    assert_eq!(
        gap,
        "orders-0 of line l: [11, 20) does not continue the committed position 10: there is a gap"
    );
    let overlap = refused(store.freeze(&change(&key, &held, 9, 20)).await);
    assert!(overlap.ends_with("they overlap"), "{overlap}");
    let range = change(&key, &held, 10, 20);
    let early = refused(store.commit(&range, LeaderEpoch(3)).await);
    assert_eq!(early, "orders-0 of line l: [10, 20) is not the range that is frozen, which is none");
    store.freeze(&range).await.unwrap();
    for other in [change(&key, &held, 10, 15), change(&key, &held, 20, 30)] {
        refused(store.freeze(&other).await);
        refused(store.commit(&other, LeaderEpoch(3)).await);
    }
    store.commit(&range, LeaderEpoch(3)).await.unwrap();
    let nothing = self::key(1);
    let lost = refused(store.freeze(&change(&nothing, &held, 10, 20)).await);
    assert!(lost.contains("the store has lost its data"), "{lost}");
    assert_eq!(told(&store.list(&key.line).await.unwrap()[0].1), (10, 20, None));
}

async fn who_was_fenced_changes_nothing(mut place: Place) {
    let (store, key) = (place.store().await, key(0));
    let first = store.acquire(&acquire(&key, 5)).await.unwrap();
    let range = change(&key, &first, 10, 20);
    store.freeze(&range).await.unwrap();
    let second = place.store().await.acquire(&acquire(&key, 6)).await.unwrap();
    assert_eq!(second.stored.frozen, Some(range.frozen), "it goes to the successor as it is");
    place.kill_and_restart().await;
    // Not even what is frozen already is confirmed to it.
    for outcome in [store.freeze(&range).await, store.commit(&range, LeaderEpoch(3)).await] {
        assert_eq!(refused(outcome), "orders-0 of line l is held by another instance: epoch 1 is behind 2");
    }
    // Nor with the right number, as after a store that was set back.
    let same_number = Held { fence: Fence { number: 2, token: 5 }, ..first };
    let stale = Change { frozen: range.frozen, ..change(&key, &same_number, 10, 20) };
    assert!(matches!(store.commit(&stale, LeaderEpoch(3)).await, Err(StoreError::Fenced { .. })));
    let own = Change { frozen: range.frozen, ..change(&key, &second, 10, 20) };
    store.commit(&own, LeaderEpoch(3)).await.unwrap();
}

async fn of_many_that_take_hold_at_once_one_holds(place: Place) {
    let key = key(0);
    let mut taking = Vec::new();
    for token in 0..12 {
        let (store, key) = (place.store().await, key.clone());
        taking.push(tokio::spawn(async move {
            let held = loop {
                match store.acquire(&acquire(&key, token)).await {
                    Err(StoreError::Busy { .. }) => {}
                    held => break held.unwrap(),
                }
            };
            let range = change(&key, &held, 10, 20 + token);
            let frozen = loop {
                match store.freeze(&range).await {
                    Err(StoreError::Busy { .. }) => {}
                    frozen => break frozen,
                }
            };
            (held.fence, frozen)
        }));
    }
    let mut fences = Vec::new();
    let mut holders = Vec::new();
    for taking in taking {
        let (fence, frozen) = taking.await.unwrap();
        fences.push(fence.number);
        match frozen {
            Ok(()) => holders.push(fence.number),
            // A range may have gone on from an earlier holder, too.
            Err(StoreError::Fenced { .. } | StoreError::NotFrozen { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    fences.sort_unstable();
    fences.dedup();
    assert_eq!(fences.len(), 12, "no fence is given twice: {fences:?}");
    // None has heard so if the next one came between its change and its answer.
    assert!(holders.len() <= 1, "one range comes next: {holders:?}");
}

async fn another_cluster_and_another_topic_are_refused_and_nothing_is_replaced(place: Place) {
    let (store, key) = (place.store().await, key(0));
    let held = store.acquire(&acquire(&key, 5)).await.unwrap();
    let elsewhere = Key { cluster_id: "cluster-b".to_owned(), ..key.clone() };
    let other = refused(store.acquire(&acquire(&elsewhere, 6)).await);
    assert!(other.contains("was read from cluster cluster-a, and this is cluster cluster-b"), "{other}");
    let anew = Key { topic_id: Uuid([8; 16]), ..key.clone() };
    let other = refused(store.acquire(&acquire(&anew, 6)).await);
    assert!(other.contains("was deleted and created again"), "{other}");
    for key in [elsewhere, anew] {
        refused(store.freeze(&change(&key, &held, 10, 20)).await);
    }
    store.freeze(&change(&key, &held, 10, 20)).await.expect("it is held as before");
}

async fn what_cannot_be_a_position_is_refused_and_left_as_it_is(place: Place) {
    let (store, key) = (place.store().await, key(0));
    let held = store.acquire(&acquire(&key, 5)).await.unwrap();
    place.set_committed("-4").await;
    let content = place.content().await;
    let outcomes = [
        refused(store.acquire(&acquire(&key, 6)).await),
        refused(store.freeze(&change(&key, &held, 10, 20)).await),
        refused(store.list(&key.line).await),
    ];
    for told in outcomes {
        assert!(told.contains("committed is -4, which is no offset; it is left as it is"), "{told}");
    }
    assert_eq!(place.content().await, content);
    // Of another kind altogether.
    match &place {
        Place::Beside(_) => fs::write(place.file(), "{").unwrap(),
        Place::Redis(redis) => {
            redis.command(&["DEL", "ottla:sink:l:orders:0"]).await;
            redis.command(&["SET", "ottla:sink:l:orders:0", "10"]).await;
        }
        Place::Postgres(postgres) => {
            let alter = "ALTER TABLE ottla_sink_positions ALTER COLUMN committed TYPE text";
            postgres.client().await.batch_execute(alter).await.unwrap();
        }
    }
    for told in [refused(store.acquire(&acquire(&key, 6)).await), refused(store.list(&key.line).await)] {
        assert!(told.contains("it is left as it is"), "{told}");
    }
}

async fn what_is_listed_is_the_lines_own(place: Place) {
    let (store, key) = (place.store().await, key(0));
    assert_eq!(store.list(&key.line).await.unwrap(), []);
    let of_another = Key { line: "l.b".parse().unwrap(), ..key.clone() };
    let dashed = Key { partition: TopicPartition::new("new-orders.eu", PartitionId(11)), ..key.clone() };
    for key in [&self::key(2), &of_another, &dashed, &key] {
        store.acquire(&acquire(key, 5)).await.unwrap();
    }
    let listed = store.list(&key.line).await.unwrap();
    let keys: Vec<_> = listed.into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, [dashed, key, self::key(2)]);
}

async fn what_the_table_says_is_put_in_place_by_the_holder_alone(mut place: Place) {
    let (store, key) = (place.store().await, key(0));
    let first = store.acquire(&acquire(&key, 5)).await.unwrap();
    store.freeze(&change(&key, &first, 10, 20)).await.unwrap();
    let second = store.acquire(&acquire(&key, 6)).await.unwrap();
    let by = |held: &Held, frozen| Rebuild {
        key: key.clone(),
        fence: held.fence,
        begun: Offset(4),
        committed: Offset(30),
        frozen,
        now: Millis(7),
    };
    assert!(matches!(store.rebuild(&by(&first, None)).await, Err(StoreError::Fenced { .. })));
    store.rebuild(&by(&second, None)).await.unwrap();
    place.kill_and_restart().await;
    store.rebuild(&by(&second, None)).await.unwrap();
    let stored = store.list(&key.line).await.unwrap()[0].1;
    assert_eq!((told(&stored), stored.committed.leader_epoch), ((4, 30, None), LeaderEpoch::NONE));
    store.freeze(&change(&key, &second, 30, 40)).await.expect("it goes on from there");
    // A range that has to be repeated is put there as it is.
    let other = change(&key, &first, 30, 50).frozen;
    store.rebuild(&by(&second, Some(other))).await.unwrap();
    assert_eq!(store.list(&key.line).await.unwrap()[0].1.frozen, Some(other));
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_told_without_the_password() {
    let told = [
        RedisStore::connect("redis://sink:secret@127.0.0.1:1/0").await.map(drop),
        PostgresStore::connect("postgresql://sink:secret@127.0.0.1:1/db").await.map(drop),
    ];
    for told in told.map(refused) {
        assert!(told.contains("does not do it: ") && !told.contains("secret"), "{told}");
    }
    let redis = Redis::start().await;
    redis.command(&["CONFIG", "SET", "requirepass", "other"]).await;
    let address = redis.address().replace("://", "://:secret@");
    let told = refused(RedisStore::connect(&address).await.map(drop));
    assert!(told.starts_with("Redis refuses: ") && !told.contains("secret"), "{told}");
    let postgres = Postgres::start().await;
    let address = postgres.url().replace("reader@", "nobody:secret@");
    let told = refused(PostgresStore::connect(&address).await.map(drop));
    assert!(told.starts_with("PostgreSQL refuses: ") && !told.contains("secret"), "{told}");
}

#[tokio::test]
async fn the_user_of_a_store_needs_no_more_than_is_documented() {
    let (redis, postgres) = (Redis::start().await, Postgres::start().await);
    let user = ["ACL", "SETUSER", "sink", "on", ">word", "~ottla:sink:*"];
    let allowed = ["+@hash", "+@scripting", "+exists", "+del", "+scan"];
    redis.command(&[&user[..], &allowed[..]].concat()).await;
    // The table is made by another user.
    PostgresStore::connect(&postgres.address()).await.unwrap().acquire(&acquire(&key(9), 1)).await.unwrap();
    let grant = "CREATE ROLE sink LOGIN; GRANT SELECT, INSERT, UPDATE ON ottla_sink_positions TO sink";
    postgres.client().await.batch_execute(grant).await.unwrap();
    let stores: [Arc<dyn PositionStore>; 2] = [
        Arc::new(RedisStore::connect(&redis.address().replace("://", "://sink:word@")).await.unwrap()),
        Arc::new(PostgresStore::connect(&postgres.url().replace("reader@", "sink@")).await.unwrap()),
    ];
    for store in stores {
        let key = key(0);
        let held = store.acquire(&acquire(&key, 5)).await.unwrap();
        store.freeze(&change(&key, &held, 10, 20)).await.unwrap();
        store.commit(&change(&key, &held, 10, 20), LeaderEpoch(3)).await.unwrap();
        assert_eq!(told(&store.list(&key.line).await.unwrap()[0].1), (10, 20, None));
    }
    redis.command(&["ACL", "SETUSER", "sink", "resetkeys"]).await;
    let weak = RedisStore::connect(&redis.address().replace("://", "://sink:word@")).await.unwrap();
    let told = refused(weak.acquire(&acquire(&key(0), 6)).await);
    assert!(told.contains("; allow the user ~ottla:sink:* and +@hash"), "{told}");
}
