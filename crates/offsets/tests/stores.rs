//! What every store of offsets promises, asked of each: a real Redis, a real PostgreSQL, and memory.

mod support;

use std::sync::Arc;

use client::TokioEnvironment;
use offsets::{
    Claim, Expected, Fence, Held, Key, MemoryStore, OffsetStore, Position, PostgresStore, RedisStore,
    StoreError,
};
use support::{Postgres, Redis};
use wire::{LeaderEpoch, Offset, PartitionId, TopicPartition, Uuid};

const TOPIC_ID: Uuid = Uuid([7; 16]);

fn key(partition: i32) -> Key {
    Key {
        reader: "billing".parse().unwrap(),
        cluster_id: "cluster-a".to_owned(),
        partition: TopicPartition::new("new-orders", PartitionId(partition)),
        topic_id: TOPIC_ID,
    }
}

fn claim(key: &Key, held: Fence, expected: Expected, next: i64) -> Claim {
    let position = Position { next: Offset(next), leader_epoch: LeaderEpoch(3) };
    Claim { key: key.clone(), fence: held, expected, position, over: None }
}

fn next(held: &Held) -> Option<i64> {
    held.stored.map(|stored| stored.position.next.0)
}

fn refused(outcome: Result<(), StoreError>) -> String {
    outcome.expect_err("it is to be refused").to_string()
}

/// The story that every store tells alike.
async fn keeps_its_promises(store: &dyn OffsetStore) {
    let key = key(3);
    let first = store.acquire(&key).await.unwrap();
    assert_eq!(next(&first), None);
    store.commit(&claim(&key, first.fence, Expected::Nothing, 10)).await.unwrap();
    store.commit(&claim(&key, first.fence, Expected::At(Offset(10)), 25)).await.unwrap();

    // Said again, because the answer was lost: nothing moves, and it is known that it was done.
    let again = store.commit(&claim(&key, first.fence, Expected::At(Offset(10)), 25)).await;
    assert!(matches!(again, Err(StoreError::AlreadyThere { at: Offset(25), .. })), "{again:?}");
    // From where it is not.
    let moved = store.commit(&claim(&key, first.fence, Expected::At(Offset(20)), 30)).await;
    assert_eq!(
        refused(moved),
        "new-orders-3 of reader billing is at 25 in the store, where 20 was expected: the store was rolled back or changed by hand"
    );

    // Another one takes over; the first wakes up and moves nothing, whatever it expects.
    let second = store.acquire(&key).await.unwrap();
    assert_eq!(next(&second), Some(25));
    assert_eq!(second.stored.unwrap().position.leader_epoch, LeaderEpoch(3));
    assert_eq!(second.fence.number, first.fence.number + 1);
    for expected in [Expected::At(Offset(25)), Expected::Anything, Expected::Nothing] {
        let zombie = store.commit(&claim(&key, first.fence, expected, 26)).await;
        assert!(matches!(zombie, Err(StoreError::Fenced { .. })), "{zombie:?}");
    }
    // Nor if it has the right number, as after a store that lost the last holder.
    let same_number = Fence { number: second.fence.number, ..first.fence };
    let zombie = store.commit(&claim(&key, same_number, Expected::At(Offset(25)), 26)).await;
    assert!(matches!(zombie, Err(StoreError::Fenced { .. })), "{zombie:?}");
    store.commit(&claim(&key, second.fence, Expected::At(Offset(25)), 26)).await.unwrap();

    // A topic that was created again is another one, until somebody decides to begin in it.
    let recreated = Key { topic_id: Uuid([8; 16]), ..key.clone() };
    let third = store.acquire(&recreated).await.unwrap();
    assert_eq!(third.stored.unwrap().topic_id, TOPIC_ID);
    let other = store.commit(&claim(&recreated, third.fence, Expected::At(Offset(26)), 27)).await;
    assert!(matches!(other, Err(StoreError::OtherTopic { .. })), "{other:?}");
    store.commit(&claim(&recreated, third.fence, Expected::Anything, 0)).await.unwrap();

    // What was passed over when a place was chosen is kept until the position moves from there by itself.
    let passed = Claim { over: Some(Offset(40)), ..claim(&recreated, third.fence, Expected::Anything, 7) };
    store.commit(&passed).await.unwrap();
    let fourth = store.acquire(&recreated).await.unwrap();
    assert_eq!((next(&fourth), fourth.stored.unwrap().over), (Some(7), Some(Offset(40))));
    store.commit(&claim(&recreated, fourth.fence, Expected::At(Offset(7)), 0)).await.unwrap();

    // Several at once, in their order, each by itself.
    let several =
        [Key { partition: TopicPartition::new("a", PartitionId(9)), ..recreated.clone() }, recreated.clone()];
    let all: Vec<Held> = store.acquire_all(&several).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(all.iter().map(next).collect::<Vec<_>>(), [None, Some(0)]);
    assert_eq!(all.iter().map(|held| held.fence.number).collect::<Vec<_>>(), [1, fourth.fence.number + 1]);
    assert_eq!(all[1].stored.unwrap().over, None);

    // Each partition, cluster and reader by itself.
    let elsewhere = Key { cluster_id: "cluster-b".to_owned(), ..key.clone() };
    assert_eq!(next(&store.acquire(&elsewhere).await.unwrap()), None);
    let of_another = Key { reader: "billing-2".parse().unwrap(), ..key.clone() };
    let held = store.acquire(&of_another).await.unwrap();
    store.commit(&claim(&of_another, held.fence, Expected::Nothing, 5)).await.unwrap();
    let listed = store.list(&key.reader).await.unwrap();
    let listed: Vec<_> = listed.iter().map(|(key, stored)| (key.clone(), stored.position.next.0)).collect();
    assert_eq!(listed, [(recreated.clone(), 0)]);
    // People see as well what is held and has no position.
    let seen = store.survey(&key.reader).await.unwrap();
    let seen: Vec<_> = seen.into_iter().map(Result::unwrap).collect();
    let shown = seen.iter().map(|seen| {
        let at = seen.stored.map(|stored| stored.position.next.0);
        (
            seen.key.cluster_id.as_str(),
            seen.key.partition.to_string(),
            seen.fence.map(|fence| fence.number),
            at,
        )
    });
    let fence = all[1].fence.number;
    let wanted = [
        ("cluster-a", "a-9".to_owned(), Some(1), None),
        ("cluster-a", "new-orders-3".to_owned(), Some(fence), Some(0)),
        ("cluster-b", "new-orders-3".to_owned(), Some(1), None),
    ];
    assert_eq!(shown.collect::<Vec<_>>(), wanted);
}

#[tokio::test]
async fn memory_keeps_its_promises() {
    keeps_its_promises(&MemoryStore::new(Arc::new(TokioEnvironment))).await;
}

#[tokio::test]
async fn redis_keeps_its_promises_and_does_not_overwrite_what_it_cannot_read() {
    let mut redis = Redis::start().await;
    let store = redis.store().await;
    keeps_its_promises(&store).await;

    redis.kill_and_restart().await;
    let key = key(3);
    let error = store.acquire(&key).await.expect_err("the connection is gone");
    assert!(error.is_retriable(), "{error}");
    let store = redis.store().await;
    let held = store.acquire(&key).await.unwrap();
    assert_eq!(next(&held), Some(0), "what was confirmed survives kill -9");

    let place = "ottla:offsets:billing:cluster-a:new-orders-3";
    redis.command(&["HSET", place, "offset", "twelve"]).await;
    let garbage = store.acquire(&key).await.unwrap_err().to_string();
    assert_eq!(garbage, format!("{place} holds \"twelve\", which is no offset: it is left as it is"));
    redis.command(&["SET", place, "something else"]).await;
    assert!(matches!(store.acquire(&key).await, Err(StoreError::Garbage { .. })));
    // The others are listed, and the one that cannot be read is told.
    redis.command(&["SET", "ottla:offsets:billing:nothing", "1"]).await;
    let other = self::key(7);
    let held_there = store.acquire(&other).await.unwrap();
    store.commit(&claim(&other, held_there.fence, Expected::Nothing, 4)).await.unwrap();
    let listed = store.list(&key.reader).await.unwrap();
    assert_eq!(listed.iter().map(|(key, _)| key.partition.partition.0).collect::<Vec<_>>(), [7]);
    let seen = store.survey(&key.reader).await.unwrap();
    let told: Vec<_> = seen.iter().filter_map(|seen| seen.as_ref().err()).map(ToString::to_string).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with(&format!("{place} holds \"WRONGTYPE")), "{told:?}");
    assert_eq!(
        told[1],
        "ottla:offsets:billing:nothing holds \"ottla:offsets:billing:nothing\", which is no key of a partition: it is left as it is"
    );
    redis.command(&["FLUSHALL"]).await;
    let lost = store.commit(&claim(&key, held.fence, Expected::At(Offset(0)), 1)).await;
    assert_eq!(
        refused(lost),
        "new-orders-3 of reader billing is not in the store any more: the store has lost its data"
    );
}

#[tokio::test]
async fn a_field_that_somebody_has_changed_in_redis_is_told_and_brings_nothing_down() {
    let redis = Redis::start().await;
    let store = redis.store().await;
    let key = key(3);
    let place = "ottla:offsets:billing:cluster-a:new-orders-3";
    let first = store.acquire(&key).await.unwrap();
    store.commit(&claim(&key, first.fence, Expected::Nothing, 40)).await.unwrap();

    // Only the offset is gone: there is no position, whatever else is left of it.
    redis.command(&["HDEL", place, "offset"]).await;
    let held = store.acquire(&key).await.unwrap();
    assert_eq!(held.stored, None);
    store.commit(&claim(&key, held.fence, Expected::Nothing, 40)).await.unwrap();

    // A number has one way to be written, as the commit compares it by its text.
    for (field, was, text, what) in [
        ("offset", "40", "0040", "offset"),
        ("offset", "40", "+40", "offset"),
        ("offset", "40", "", "offset"),
        ("fence", "2", "02", "fence"),
    ] {
        redis.command(&["HSET", place, field, text]).await;
        let told = format!("{place} holds \"{text}\", which is no {what}: it is left as it is");
        for expected in [Expected::At(Offset(40)), Expected::Nothing] {
            assert_eq!(refused(store.commit(&claim(&key, held.fence, expected, 41)).await), told);
        }
        if field == "offset" {
            assert_eq!(refused(store.acquire(&key).await.map(drop)), told);
            // Who asks takes hold all the same, so that whoever held it before moves nothing.
            redis.command(&["HSET", place, "fence", "2", "holder", &held.fence.token.to_string()]).await;
        }
        redis.command(&["HSET", place, field, was]).await;
    }
    store.commit(&claim(&key, held.fence, Expected::At(Offset(40)), 41)).await.unwrap();
}

#[tokio::test]
async fn postgres_keeps_its_promises_and_moves_results_and_position_together() {
    let mut postgres = Postgres::start().await;
    let store = postgres.store().await;
    keeps_its_promises(&store).await;

    postgres.kill_and_restart().await;
    let key = key(4);
    let held = store.acquire(&key).await.expect("the connection comes back by itself");
    let mut results = postgres.client().await;
    results.batch_execute("CREATE TABLE results (value bigint)").await.unwrap();
    let count = "SELECT count(*) FROM results";

    // The transaction takes both back, or leaves both.
    for ends_well in [false, true] {
        let transaction = results.transaction().await.unwrap();
        transaction.execute("INSERT INTO results VALUES (1)", &[]).await.unwrap();
        store.commit_in(&transaction, &claim(&key, held.fence, Expected::Nothing, 1)).await.unwrap();
        match ends_well {
            true => transaction.commit().await.unwrap(),
            false => transaction.rollback().await.unwrap(),
        }
    }
    let rows: i64 = results.query_one(count, &[]).await.unwrap().get(0);
    assert_eq!(rows, 1);

    // The answer to the commit was lost, so it is tried again: the position says that the results are there.
    let transaction = results.transaction().await.unwrap();
    transaction.execute("INSERT INTO results VALUES (1)", &[]).await.unwrap();
    let again = store.commit_in(&transaction, &claim(&key, held.fence, Expected::Nothing, 1)).await;
    assert!(matches!(again, Err(StoreError::AlreadyThere { .. })), "{again:?}");
    transaction.rollback().await.unwrap();

    // Who takes hold while a transaction of the holder's is open waits for its end, and sees what it did.
    let transaction = results.transaction().await.unwrap();
    transaction.execute("INSERT INTO results VALUES (2)", &[]).await.unwrap();
    store.commit_in(&transaction, &claim(&key, held.fence, Expected::At(Offset(1)), 2)).await.unwrap();
    let taking = tokio::spawn({
        let (store, key) = (postgres.store().await, key.clone());
        async move { store.acquire(&key).await }
    });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    let watcher = postgres.client().await;
    while watcher.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        tokio::task::yield_now().await;
    }
    transaction.commit().await.unwrap();
    let taken = taking.await.unwrap().unwrap();
    assert_eq!(next(&taken), Some(2));
    let transaction = results.transaction().await.unwrap();
    let zombie = store.commit_in(&transaction, &claim(&key, held.fence, Expected::At(Offset(2)), 3)).await;
    assert!(matches!(zombie, Err(StoreError::Fenced { .. })), "{zombie:?}");
}

#[tokio::test]
async fn a_table_has_a_name_that_needs_no_quotes() {
    let told = PostgresStore::connect_table("host=127.0.0.1", "x; DROP TABLE y").await;
    assert_eq!(
        refused(told.map(|_| ())),
        "the setting holds \"x; DROP TABLE y\", which is no table name (lower case letters, digits and '_', at most 63): it \
         is left as it is"
    );
}

#[tokio::test]
async fn many_take_hold_at_once_and_one_of_them_holds() {
    let postgres = Postgres::start().await;
    let redis = Redis::start().await;
    let stores: [Arc<dyn OffsetStore>; 2] = [Arc::new(postgres.store().await), Arc::new(redis.store().await)];
    for store in stores {
        let key = key(0);
        let taking: Vec<_> = (0..16)
            .map(|_| {
                let (store, key) = (Arc::clone(&store), key.clone());
                tokio::spawn(async move {
                    let held = store.acquire(&key).await.unwrap();
                    (
                        held.fence.number,
                        store.commit(&claim(&key, held.fence, Expected::Anything, held.fence.number)).await,
                    )
                })
            })
            .collect();
        let mut numbers = Vec::new();
        let mut last = 0;
        for taking in taking {
            let (number, committed) = taking.await.unwrap();
            numbers.push(number);
            match committed {
                Ok(()) => last = last.max(number),
                Err(error) => assert!(matches!(error, StoreError::Fenced { .. }), "{error}"),
            }
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=16).collect::<Vec<_>>());
        assert_eq!(last, 16, "the last holder's commit went through");
        assert_eq!(next(&store.acquire(&key).await.unwrap()), Some(16));
    }
}

#[tokio::test]
async fn what_takes_hold_late_takes_nothing_from_whoever_came_meanwhile() {
    let postgres = Postgres::start().await;
    let store = postgres.store().await;
    let key = key(0);
    let held = store.acquire(&key).await.unwrap();
    // The holder's transaction is open, so that whoever takes hold waits in PostgreSQL.
    let mut results = postgres.client().await;
    let transaction = results.transaction().await.unwrap();
    store.commit_in(&transaction, &claim(&key, held.fence, Expected::Nothing, 1)).await.unwrap();
    let watcher = postgres.client().await;
    let waiting = async |count: i64| {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        while watcher.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) < count {
            tokio::task::yield_now().await;
        }
    };
    let take = |store: PostgresStore| {
        let key = key.clone();
        tokio::spawn(async move { store.acquire(&key).await })
    };
    let late = take(postgres.store().await);
    waiting(1).await;
    // It has lost the partition and does not wait any more, but what it asked is on its way.
    late.abort();
    let after = take(postgres.store().await);
    waiting(2).await;
    transaction.commit().await.unwrap();
    let taken = after.await.unwrap().unwrap();
    assert_eq!(next(&taken), Some(1));
    store.commit(&claim(&key, taken.fence, Expected::At(Offset(1)), 2)).await.expect("it still holds it");
}

#[tokio::test]
async fn a_row_that_stays_locked_is_not_waited_for_for_ever_and_keeps_no_other_waiting() {
    let postgres = Postgres::start().await;
    let store = postgres.store().await;
    let (stuck, free) = (key(0), key(1));
    let held = store.acquire(&stuck).await.unwrap();
    let mut results = postgres.client().await;
    let transaction = results.transaction().await.unwrap();
    store.commit_in(&transaction, &claim(&stuck, held.fence, Expected::Nothing, 1)).await.unwrap();

    let address = format!("{} options='-c lock_timeout=100'", postgres.address());
    let other = PostgresStore::connect(&address).await.unwrap();
    let taken = other.acquire_all(&[stuck.clone(), free.clone()]).await;
    let error = taken[0].as_ref().expect_err("it is locked");
    assert!(error.is_retriable(), "{error}");
    assert_eq!(
        error.to_string(),
        "PostgreSQL does not do it: ERROR: canceling statement due to lock timeout"
    );
    assert_eq!(taken[1].as_ref().map(|held| held.fence.number).unwrap(), 1);
    transaction.rollback().await.unwrap();
    other.acquire(&stuck).await.expect("it is free");
}

#[tokio::test]
async fn many_rows_that_stay_locked_are_waited_for_together() {
    let postgres = Postgres::start().await;
    let store = postgres.store().await;
    let keys: Vec<Key> = (0..20).map(key).collect();
    let held = store.acquire_all(&keys[..15]).await;
    let mut results = postgres.client().await;
    let transaction = results.transaction().await.unwrap();
    for (key, held) in keys.iter().zip(held).take(12) {
        let claim = claim(key, held.unwrap().fence, Expected::Nothing, 1);
        store.commit_in(&transaction, &claim).await.unwrap();
    }

    let address = format!("{} options='-c lock_timeout=2000'", postgres.address());
    let other = PostgresStore::connect(&address).await.unwrap();
    let patience = std::time::Duration::from_secs(12);
    let taken = tokio::time::timeout(patience, other.acquire_all(&keys)).await;
    let taken = taken.expect("they are not waited for one after the other");
    let fences: Vec<_> = taken.iter().map(|held| held.as_ref().ok().map(|held| held.fence.number)).collect();
    assert_eq!(fences, [vec![None; 12], vec![Some(2); 3], vec![Some(1); 5]].concat());
    assert!(taken.iter().filter_map(|held| held.as_ref().err()).all(StoreError::is_retriable));
    transaction.rollback().await.unwrap();
    assert!(other.acquire_all(&keys).await.iter().all(Result::is_ok), "they are free");
}

#[tokio::test]
async fn what_somebody_has_to_change_is_said_and_not_tried_again() {
    let postgres = Postgres::start().await;
    let (store, key) = (postgres.store().await, key(0));
    let admin = postgres.client().await;
    let setup = "CREATE ROLE weak LOGIN;
        CREATE TABLE foreigners (reader text, cluster_id text, topic text, partition integer, topic_id text,
            next_offset bigint, leader_epoch integer, fence text, holder bigint, updated_at timestamptz, chosen_over bigint);
        INSERT INTO foreigners VALUES ('billing', 'c', 'orders', 0, '', 1, 1, 'x', 1, now(), NULL);
        CREATE TABLE other_things (name text)";
    admin.batch_execute(setup).await.unwrap();
    let told = |outcome: Result<(), StoreError>| {
        let error = outcome.expect_err("it is to be refused");
        assert!(!error.is_retriable(), "{error}");
        error.to_string()
    };
    // The table is there, and this user may not touch it.
    let weak = PostgresStore::connect(&postgres.address().replace("user=reader", "user=weak")).await.unwrap();
    assert_eq!(
        told(weak.acquire(&key).await.map(drop)),
        "PostgreSQL refuses: ERROR: permission denied for table ottla_offsets; give the store's user SELECT, INSERT and \
         UPDATE on its table, or CREATE on the schema"
    );
    let nobody = PostgresStore::connect(&postgres.address().replace("user=reader", "user=nobody")).await;
    assert_eq!(
        told(nobody.map(drop)),
        "PostgreSQL refuses: FATAL: role \"nobody\" does not exist; set the user and the password in the store's address right"
    );
    let nowhere = PostgresStore::connect(&postgres.address().replace("dbname=postgres", "dbname=none")).await;
    assert_eq!(
        told(nowhere.map(drop)),
        "PostgreSQL refuses: FATAL: database \"none\" does not exist; create the database, or set it right in the store's address"
    );
    let no_address = PostgresStore::connect("postgresql//x").await;
    assert!(told(no_address.map(drop)).starts_with("PostgreSQL refuses: "));
    // Tables of other people's that have the name.
    let other = PostgresStore::connect_table(&postgres.address(), "other_things").await.unwrap();
    assert_eq!(
        told(other.acquire(&key).await.map(drop)),
        "PostgreSQL refuses: ERROR: column had.reader does not exist; another table has the name: the store wants one of \
         its own"
    );
    let foreign = PostgresStore::connect_table(&postgres.address(), "foreigners").await.unwrap();
    let seen = foreign.survey(&key.reader).await.unwrap();
    assert_eq!(
        told(seen.into_iter().next().unwrap().map(drop)),
        "table foreigners holds cannot convert between the Rust type `i64` and the Postgres type `text`, which is no table of \
         positions (another table has its name: choose another name): it is left as it is"
    );
    drop(store);

    let redis = Redis::start().await;
    redis.command(&["ACL", "SETUSER", "weak", "on", ">word", "~mine:*", "+@all"]).await;
    let weak = RedisStore::connect(&redis.address().replace("://", "://weak:word@")).await.unwrap();
    let refusals = [
        (weak.acquire(&key).await.map(drop), "NOPERM", "allow the user ~ottla:offsets:* and +@hash"),
        (
            RedisStore::connect(&redis.address().replace("://", "://weak:wrong@")).await.map(drop),
            "AUTHENTICATIONFAILED",
            "set the user and the password in the store's address right",
        ),
        {
            redis.command(&["CONFIG", "SET", "requirepass", "secret"]).await;
            let nobody = RedisStore::connect(&redis.address()).await;
            let nobody = async { nobody?.acquire(&key).await.map(drop) };
            (nobody.await, "NOAUTH", "set the user and the password in the store's address right")
        },
    ];
    for (refusal, code, advice) in refusals {
        let said = told(refusal);
        let is_told = said.starts_with("Redis refuses: ")
            && said.to_uppercase().contains(code)
            && said.contains(advice);
        assert!(is_told, "{code}: {said}");
    }
}
