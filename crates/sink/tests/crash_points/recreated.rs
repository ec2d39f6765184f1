//! A topic that is deleted and created again, and another cluster at the same address, wherever the line was when it happened: what
//! is stored is refused by name, nothing of the other topic comes into the table, and the line that was there can go on.

use sink::{Key, PartitionError, StoreError};
use wire::Uuid;

use crate::Place;
use crate::support::Fate;
use crate::support::instances::World;
use crate::support::line::{FIRST, SECOND, THIRD, key};

in_each_store! {
    another_topic_of_the_same_name_stops_whoever_takes_over
    another_cluster_stops_whoever_takes_over
    another_topic_beside_a_store_that_has_lost_everything_stops_whoever_takes_over
}

/// The world with another topic or cluster.
fn renewed(world: World, key: Key) -> World {
    World { key, ..world }
}

fn check(place: &Place, what: &str, other: &Key, is_it: fn(&StoreError) -> bool) {
    let (mut refused, steps) = (0, place.steps(12, FIRST));
    for at in 1..=steps {
        let what = format!("{what} at {at}");
        let world = place.world(12);
        world.run(FIRST, Some((at, Fate::Dies))).unwrap_err();
        let (changes, _) = world.kept();
        let rows = world.rows();
        if changes == 0 {
            // Nobody has been here yet.
            continue;
        }
        let world = renewed(world, other.clone());
        match world.run(SECOND, None) {
            Err(PartitionError::Store(error)) if is_it(&error) => refused += 1,
            outcome => panic!("{what}: {outcome:?}"),
        }
        assert_eq!(world.rows(), rows, "{what}: the table is left as it is");
        let world = renewed(world, key());
        world.run(THIRD, None).unwrap();
        world.assert_whole(&what);
    }
    assert!(refused > steps / 2, "{refused} of {steps}");
    place.report(what, refused);
}

fn another_topic_of_the_same_name_stops_whoever_takes_over(place: &Place) {
    let other = Key { topic_id: Uuid([8; 16]), ..key() };
    check(place, "recreated topics", &other, |error| matches!(error, StoreError::OtherTopic { .. }));
}

fn another_cluster_stops_whoever_takes_over(place: &Place) {
    let other = Key { cluster_id: "d".to_owned(), ..key() };
    check(place, "other clusters", &other, |error| matches!(error, StoreError::OtherCluster { .. }));
}

fn another_topic_beside_a_store_that_has_lost_everything_stops_whoever_takes_over(place: &Place) {
    let (_, nothing) = place.world(12).kept();
    let (mut refused, steps) = (0, place.steps(12, FIRST));
    for at in 1..=steps {
        let what = format!("a recreated topic and an empty store at {at}");
        let world = place.world(12);
        world.run(FIRST, Some((at, Fate::Dies))).unwrap_err();
        let rows = world.rows();
        world.put_store(&nothing);
        let world = renewed(world, Key { topic_id: Uuid([8; 16]), ..key() });
        match world.run(SECOND, None) {
            Err(PartitionError::Ahead(_) | PartitionError::LettersAhead { .. }) => {
                assert_eq!(world.rows(), rows, "{what}: the table is left as it is");
                refused += 1;
            }
            // Nothing of the former topic had come into the table.
            Ok(()) if rows.is_empty() && world.letters().windows(2).all(|pair| pair[0] != pair[1]) => {
                world.assert_whole(&what);
            }
            outcome => panic!("{what}: {outcome:?}"),
        }
    }
    assert!(refused > 0 && refused < steps, "{refused} of {steps}");
    place.report("recreated topics with an empty store", steps);
}
