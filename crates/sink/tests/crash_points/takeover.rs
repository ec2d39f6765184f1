//! An instance that is stopped somewhere and wakes when others have its partition: after a pause of any length, and of any number.
//!
//! What it still does is refused or does no harm: the table has each record once, names, footers and the store agree with it, and whoever
//! holds the partition goes on.

use std::thread;

use sink::PartitionError;

use crate::Place;
use crate::support::instances::World;
use crate::support::line::{FIRST, Habits, SECOND, THIRD};
use crate::support::{Fate, Process, Steps};

const FOURTH: Habits = Habits { rows_max: 4, at_once: 2, token: 4, ..FIRST };

in_each_store! {
    a_zombie_that_wakes_at_any_moment_of_its_successor_adds_nothing
    a_zombie_that_wakes_at_any_moment_of_its_dead_successors_successor_adds_nothing
    a_zombie_that_wakes_after_its_file_was_compacted_away_does_not_bring_it_back
    instances_that_step_in_any_order_add_each_record_once
}

/// Of an instance beside which another one woke, that had or had not taken hold of the partition before this one did: it goes on, or
/// is told that the other took the partition over later. Says whether it is over.
fn is_done(ended: Result<(), PartitionError>, was_held: bool, what: &str) -> bool {
    let Err(error) = ended else { return true };
    assert!(!was_held, "{what}: whoever holds the partition is ended by one that held it before: {error}");
    // A zombie takes the sending over before it hears from the store that it is none; that alone ends nobody.
    assert!(!error.to_string().contains("it sends the dead letters"), "{what}: {error}");
    let is_told = matches!(
        error,
        PartitionError::TakenOver { .. } | PartitionError::Store(_) | PartitionError::Files { .. }
    );
    assert!(is_told, "{what}: {error}");
    false
}

/// The first pauses at a step; the second runs up to one of its own, or to its end; the first wakes and does whatever it still
/// can; the second goes on. Says whether the second was over by then.
pub(crate) fn wake_as_zombie(world: &World, first: u64, second: u64, what: &str) -> bool {
    let zombie = world.process(Some((first, Fate::Pauses)));
    let successor = world.process(Some((second, Fate::Pauses)));
    thread::scope(|scope| {
        let old = scope.spawn(|| world.run_as(&zombie, FIRST));
        zombie.steps.until_paused();
        let was_held = world.stored().is_some();
        let new = scope.spawn(|| world.run_as(&successor, SECOND));
        successor.steps.until_paused();
        zombie.steps.resume();
        // It may have been done before anybody took over, or be told that it is not the holder any more.
        let _ = old.join().unwrap();
        successor.steps.resume();
        let ended = new.join().unwrap();
        let is_whole = successor.steps.count() < second;
        if !is_done(ended, was_held, what) {
            world.run(THIRD, None).unwrap();
        }
        is_whole
    })
}

fn a_zombie_that_wakes_at_any_moment_of_its_successor_adds_nothing(place: &Place) {
    let mut points = 0;
    for first in 1..=place.steps(12, FIRST) {
        for second in 1.. {
            let what = format!("woke before step {first}, behind {second}");
            let world = place.world(12);
            let is_whole = wake_as_zombie(&world, first, second, &what);
            world.assert_whole(&what);
            points += 1;
            if is_whole {
                break;
            }
        }
    }
    place.report("zombies", points);
}

/// The first pauses at a step, the second dies at one of its own, the third takes over and runs up to one of its own; then the
/// first wakes. Every pair of the first two is come to, and with each another step of the third.
fn a_zombie_that_wakes_at_any_moment_of_its_dead_successors_successor_adds_nothing(place: &Place) {
    let mut points = 0;
    let longest = place.steps(8, THIRD) + 1;
    for first in 1..=place.steps(8, FIRST) {
        for second in 1.. {
            // One that is no divisor of anything: all triples are met alike.
            let third = 1 + (first * 31 + second * 17) % longest;
            let what = format!("woke before step {first}, with one dead at {second} and one behind {third}");
            let world = place.world(8);
            let zombie = world.process(Some((first, Fate::Pauses)));
            let last = world.process(Some((third, Fate::Pauses)));
            let is_whole = thread::scope(|scope| {
                let old = scope.spawn(|| world.run_as(&zombie, FIRST));
                zombie.steps.until_paused();
                let was_held = world.stored().is_some();
                let is_whole = world.run(SECOND, Some((second, Fate::Dies))).is_ok();
                let new = scope.spawn(|| world.run_as(&last, THIRD));
                last.steps.until_paused();
                zombie.steps.resume();
                let _ = old.join().unwrap();
                last.steps.resume();
                if !is_done(new.join().unwrap(), was_held, &what) {
                    world.run(FOURTH, None).unwrap();
                }
                is_whole
            });
            world.assert_whole(&what);
            points += 1;
            if is_whole {
                break;
            }
        }
    }
    place.report("zombies behind two successors", points);
}

fn a_zombie_that_wakes_after_its_file_was_compacted_away_does_not_bring_it_back(place: &Place) {
    let steps = place.steps(12, FIRST);
    for at in 1..=steps {
        let world = place.world(12);
        let zombie = world.process(Some((at, Fate::Pauses)));
        thread::scope(|scope| {
            let old = scope.spawn(|| world.run_as(&zombie, FIRST));
            zombie.steps.until_paused();
            world.run(SECOND, None).unwrap();
            world.compact();
            zombie.steps.resume();
            let _ = old.join().unwrap();
        });
        world.assert_exactly_once(&format!("woke before step {at}, after a compaction"));
    }
    place.report("zombies after a compaction", steps);
}

/// Numbers that follow from a seed.
struct Dice(u64);

impl Dice {
    /// Below `end`.
    fn below(&mut self, end: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// Three instances, each paused before every step. Some steps of one, some of another, as the seed says; now and then one of them dies.
fn instances_that_step_in_any_order_add_each_record_once(place: &Place) {
    const SEEDS: u64 = 400;
    let mut steps = 0;
    for seed in 1..=SEEDS {
        let mut dice = Dice(seed);
        let world = place.world(12);
        let processes = [(); 3].map(|()| Process { steps: Steps::led(), ..world.process(None) });
        thread::scope(|scope| {
            let habits = [FIRST, SECOND, FOURTH];
            let running: Vec<_> = processes
                .iter()
                .zip(habits)
                .map(|(process, habits)| {
                    let world = &world;
                    (process, scope.spawn(move || world.run_as(process, habits)))
                })
                .collect();
            loop {
                let left: Vec<_> = running.iter().filter(|(one, _)| one.steps.until_paused()).collect();
                if left.is_empty() {
                    break;
                }
                let (one, _) = left[dice.below(left.len() as u64) as usize];
                if dice.below(60) == 0 {
                    one.steps.kill();
                    continue;
                }
                let burst = [1, 3, 10, 100][dice.below(4) as usize];
                for _ in 0..1 + dice.below(burst) {
                    one.steps.resume();
                    steps += 1;
                    if !one.steps.until_paused() {
                        break;
                    }
                }
            }
            running.into_iter().for_each(|(_, running)| drop(running.join().unwrap()));
        });
        world.run(THIRD, None).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        world.assert_whole(&format!("seed {seed}"));
    }
    println!("in any order, {}: {SEEDS} orders, of {steps} steps", place.name);
}
