//! An instance that ends somewhere, and the one that takes over from it.

use crate::Place;
use crate::support::Fate;
use crate::support::line::{FIRST, SECOND, THIRD};

in_each_store! {
    whoever_is_killed_at_any_step_is_taken_over_from_exactly
    whatever_a_power_cut_takes_is_done_again
    a_step_that_fails_loses_and_doubles_nothing
    a_successor_that_dies_as_well_is_taken_over_from_too
}

fn whoever_is_killed_at_any_step_is_taken_over_from_exactly(place: &Place) {
    let steps = place.steps(30, FIRST);
    for at in 1..=steps {
        let world = place.world(30);
        world.run(FIRST, Some((at, Fate::Dies))).unwrap_err();
        world.run(SECOND, None).unwrap();
        world.assert_whole(&format!("killed at {at}"));
    }
    place.report("killed", steps);
}

fn whatever_a_power_cut_takes_is_done_again(place: &Place) {
    let steps = place.steps(30, FIRST);
    for at in 1..=steps {
        let world = place.world(30);
        world.run(FIRST, Some((at, Fate::Dies))).unwrap_err();
        world.disk.lock().unwrap().cut_power();
        world.run(SECOND, None).unwrap();
        world.assert_whole(&format!("power cut at {at}"));
    }
    place.report("power cut", steps);
}

fn a_step_that_fails_loses_and_doubles_nothing(place: &Place) {
    let (mut ended, steps) = (0, place.steps(30, FIRST));
    for at in 1..=steps {
        let world = place.world(30);
        // A server that does not answer is asked again.
        ended += u64::from(world.run(FIRST, Some((at, Fate::Fails))).is_err());
        world.run(SECOND, None).unwrap();
        world.assert_whole(&format!("failed at {at}"));
    }
    assert!(ended > steps / 2, "of {steps} steps that failed {ended} ended an instance");
    place.report("failed", steps);
}

fn a_successor_that_dies_as_well_is_taken_over_from_too(place: &Place) {
    let mut points = 0;
    for first in 1..=place.steps(12, FIRST) {
        let killed = place.world(12);
        killed.run(FIRST, Some((first, Fate::Dies))).unwrap_err();
        for second in 1.. {
            let world = killed.copy();
            let ended = world.run(SECOND, Some((second, Fate::Dies)));
            if second % 2 == 0 {
                world.disk.lock().unwrap().cut_power();
            }
            world.run(THIRD, None).unwrap();
            world.assert_whole(&format!("killed at {first}, then at {second}"));
            points += 1;
            if ended.is_ok() {
                break;
            }
        }
    }
    place.report("killed twice", points);
}
