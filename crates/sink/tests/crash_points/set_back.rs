//! A store that has lost what it had acknowledged last, as one that did not flush it or a replica that had not heard of it.
//!
//! Whatever it has lost, by as many changes as there were: who takes hold of the partition then stops and says so, or the table has each
//! record once all the same. Nothing is there twice, and with what was lost put back an instance goes on from there.

use std::collections::BTreeMap;
use std::thread;

use sink::{PartitionError, StoreError};

use crate::support::Fate;
use crate::support::instances::{Kept, World};
use crate::support::line::{FIRST, SECOND, THIRD};
use crate::{BESIDE, Place};

in_each_store! {
    a_store_that_was_set_back_by_any_number_of_changes_doubles_nothing_and_knows_what_its_letters_are
    a_line_under_which_the_store_is_set_back_notices_at_its_next_change
    a_zombie_that_wakes_when_the_store_was_set_back_doubles_nothing
}

const RECORDS: i64 = 18;

/// The store behind each change, as every run does the same.
fn versions(place: &Place) -> BTreeMap<usize, Kept> {
    let mut versions = BTreeMap::new();
    for at in 1..=place.steps(RECORDS, FIRST) {
        let world = place.world(RECORDS);
        world.run(FIRST, Some((at, Fate::Dies))).unwrap_err();
        let (version, kept) = world.kept();
        versions.insert(version, kept);
    }
    versions
}

/// Another instance takes over what is left: the table is whole then, or it says what is wrong. Says whether it stopped.
fn is_stopped(world: &World, what: &str) -> bool {
    match world.run(SECOND, None) {
        Ok(()) => {
            world.assert_whole(what);
            false
        }
        Err(error) => {
            let is_ahead = matches!(error, PartitionError::Ahead(_) | PartitionError::LettersAhead { .. });
            assert!(is_ahead, "{what}: {error}");
            world.assert_nothing_twice(what);
            true
        }
    }
}

fn a_store_that_was_set_back_by_any_number_of_changes_doubles_nothing_and_knows_what_its_letters_are(
    place: &Place,
) {
    let versions = versions(place);
    let (mut stopped, mut points) = (0, 0);
    for at in 1..=place.steps(RECORDS, FIRST) {
        let killed = place.world(RECORDS);
        killed.run(FIRST, Some((at, Fate::Dies))).unwrap_err();
        let (changes, before) = killed.kept();
        for lost in 1..=changes {
            let what = format!("{lost} of {changes} changes lost at {at}");
            let world = killed.copy();
            world.put_store(&versions[&(changes - lost)]);
            points += 1;
            if is_stopped(&world, &what) {
                stopped += 1;
                world.put_store(&before);
                world.run(THIRD, None).unwrap_or_else(|error| panic!("{what}, and put back: {error}"));
                world.assert_whole(&format!("{what}, and put back"));
            }
        }
    }
    assert!(stopped > 0 && stopped < points, "both happen: {stopped} of {points} stopped");
    place.report(&format!("store set back, of which {stopped} stop an instance"), points);
}

/// What whoever holds a partition is told when the store does not know what it did.
fn is_told(error: &PartitionError) -> bool {
    matches!(
        error,
        PartitionError::Ahead(_)
            | PartitionError::LettersAhead { .. }
            | PartitionError::TakenOver { .. }
            | PartitionError::Store(
                StoreError::Lost { .. }
                    | StoreError::Fenced { .. }
                    | StoreError::Apart { .. }
                    | StoreError::NotFrozen { .. }
            )
    )
}

fn a_line_under_which_the_store_is_set_back_notices_at_its_next_change(place: &Place) {
    let versions = versions(place);
    let (mut stopped, mut points) = (0, 0);
    for at in 1..=place.steps(RECORDS, FIRST) {
        for lost in 1.. {
            let what = format!("{lost} changes lost at {at}");
            let world = place.world(RECORDS);
            let line = world.process(Some((at, Fate::Pauses)));
            let ended = thread::scope(|scope| {
                let running = scope.spawn(|| world.run_as(&line, FIRST));
                line.steps.until_paused();
                let (changes, _) = world.kept();
                let before = changes.checked_sub(lost);
                before.inspect(|version| world.put_store(&versions[version]));
                line.steps.resume();
                let ended = running.join().unwrap();
                before.map(|version| (version, ended))
            });
            let Some((version, ended)) = ended else { break };
            points += 1;
            match ended {
                Err(error) => assert!(is_told(&error), "{what}: {error}"),
                Ok(()) => {
                    world.assert_exactly_once(&what);
                    // Beside the table a change that was on its way is put behind what it was made of, wherever that is by then.
                    let is_unchanged = world.kept().0 == version;
                    assert!(
                        is_unchanged || place.name == BESIDE.name,
                        "{what}: and it was changed after that"
                    );
                }
            }
            stopped += u64::from(is_stopped(&world, &what));
        }
    }
    assert!(stopped > 0 && stopped < points, "both happen: {stopped} of {points} stopped");
    place.report(&format!("store set back under a line, of which {stopped} stop the next one"), points);
}

fn a_zombie_that_wakes_when_the_store_was_set_back_doubles_nothing(place: &Place) {
    let versions = versions(place);
    let mut points = 0;
    for at in 1..=place.steps(RECORDS, FIRST) {
        for lost in 1.. {
            let what = format!("{lost} changes lost at {at}, beside a zombie");
            let world = place.world(RECORDS);
            let zombie = world.process(Some((at, Fate::Pauses)));
            let is_stopped = thread::scope(|scope| {
                let running = scope.spawn(|| world.run_as(&zombie, FIRST));
                zombie.steps.until_paused();
                let (changes, _) = world.kept();
                let before = changes.checked_sub(lost).map(|version| &versions[&version]);
                let is_stopped = before.map(|kept| {
                    world.put_store(kept);
                    is_stopped(&world, &what)
                });
                zombie.steps.resume();
                let _ = running.join().unwrap();
                is_stopped
            });
            match is_stopped {
                None => break,
                Some(true) => world.assert_nothing_twice(&what),
                // Unless it had not begun, and has taken the partition over now.
                Some(false) => world.assert_exactly_once(&what),
            }
            points += 1;
        }
    }
    place.report("store set back beside a zombie", points);
}
