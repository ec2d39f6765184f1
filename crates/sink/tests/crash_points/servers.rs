//! What is done at every step with a store in memory, done at some with real ones: an instance that dies and one that wakes, with
//! positions in Redis and in PostgreSQL.

#[path = "../../../offsets/tests/support/mod.rs"]
mod real;

use std::sync::Arc;

use real::{Postgres, Redis};
use sink::{Key, PositionStore, PostgresStore, RedisStore};
use tokio::runtime::Runtime;

use crate::support::Fate;
use crate::support::instances::{Connect, Positions, World};
use crate::support::line::{FIRST, SECOND, key};
use crate::takeover::wake_as_zombie;

/// Of the steps of the first and of the second, each so-many-th is a point.
const EVERY: (u64, u64) = (9, 23);

#[test]
fn with_positions_in_redis() {
    let server = Runtime::new().unwrap().block_on(Redis::start());
    let address = server.address();
    let connect = move || {
        let address = address.clone();
        async move { Arc::new(RedisStore::connect(&address).await.unwrap()) as Arc<dyn PositionStore> }
    };
    check("Redis", Arc::new(move || Box::pin(connect())));
}

#[test]
fn with_positions_in_postgresql() {
    let server = Runtime::new().unwrap().block_on(Postgres::start());
    let address = server.address();
    let connect = move || {
        let address = address.clone();
        async move { Arc::new(PostgresStore::connect(&address).await.unwrap()) as Arc<dyn PositionStore> }
    };
    check("PostgreSQL", Arc::new(move || Box::pin(connect())));
}

fn check(server: &str, connect: Arc<Connect>) {
    let mut points = 0;
    // Each world has a line of its own in the one server.
    let mut world = || {
        points += 1;
        let line = format!("w{points}.offline").parse().unwrap();
        let world = World::new(12, Positions::Real(Arc::clone(&connect)));
        World { key: Key { line, ..key() }, ..world }
    };
    let steps = world().steps(FIRST);
    for first in (1..=steps).step_by(EVERY.0 as usize) {
        let what = format!("{server}, killed at {first}");
        let killed = world();
        killed.run(FIRST, Some((first, Fate::Dies))).unwrap_err();
        killed.run(SECOND, None).unwrap();
        killed.assert_whole(&what);
        // Another second step each time.
        for second in (1 + first % EVERY.1..).step_by(EVERY.1 as usize) {
            let what = format!("{server}, woke before step {first}, behind {second}");
            let woken = world();
            let is_whole = wake_as_zombie(&woken, first, second, &what);
            woken.assert_whole(&what);
            if is_whole {
                break;
            }
        }
    }
    println!("killed and woken with positions in {server}: {points} crash points of {steps} steps");
}
