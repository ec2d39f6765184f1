//! Each step of every I/O as a place to die at: at the end each record is in the table or among the dead letters, exactly once.
//!
//! Instances run over a file system in memory that forgets what was not made durable, and over each kind of store: files beside
//! the table, and a server in memory that is asked as a real one is. One of them dies, fails or pauses at its n-th step, for every n
//! there is; another takes over. Its limits differ, so that nothing but the frozen range can make the two agree. Each test prints how many
//! points it came to.

#[path = "../support/mod.rs"]
mod support;

use support::instances::{Positions, World};
use support::line::Habits;

/// A kind of store, of which each world has one of its own.
struct Place {
    name: &'static str,
    positions: fn() -> Positions,
}

const BESIDE: Place = Place { name: "positions beside the table", positions: || Positions::Beside };
const SERVED: Place = Place { name: "positions in a server", positions: Positions::served };

impl Place {
    fn world(&self, records: i64) -> World {
        World::new(records, (self.positions)())
    }

    /// How many steps an instance takes alone.
    fn steps(&self, records: i64, habits: Habits) -> u64 {
        let world = self.world(records);
        let steps = world.steps(habits);
        world.assert_whole("undisturbed");
        steps
    }

    fn report(&self, what: &str, points: u64) {
        println!("{what}, {}: {points} crash points", self.name);
    }
}

/// Tests that are run with each kind of store.
macro_rules! in_each_store {
    ($($story:ident)*) => {
        mod beside {
            $(#[test]
            fn $story() {
                super::$story(&crate::BESIDE);
            })*
        }
        mod served {
            $(#[test]
            fn $story() {
                super::$story(&crate::SERVED);
            })*
        }
    };
}

mod ends;
mod takeover;
mod servers;
mod set_back;
mod recreated;
mod letters;
