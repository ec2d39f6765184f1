//! Which records are dead letters is decided once, whoever repeats the range by whatever declaration; and what a letter looks like.

use std::sync::Arc;

use sink::{Extra, Format, PartitionError};

use crate::BESIDE;
use crate::support::Fate;
use crate::support::instances::World;
use crate::support::line::{FIRST, Habits, SECOND};

#[test]
fn a_range_whose_verdicts_are_gone_is_not_taken_as_one_without_letters() {
    let (mut named, steps) = (0, BESIDE.steps(12, FIRST));
    for at in 1..=steps {
        let world = BESIDE.world(12);
        world.run(FIRST, Some((at, Fate::Dies))).unwrap_err();
        let dir = world.beside("_letters");
        let mut disk = world.disk.lock().unwrap();
        let left = disk.list(&dir).unwrap_or_default();
        left.iter().for_each(|entry| disk.remove(&dir.join(&entry.name)).unwrap());
        drop(disk);
        // To it, all of them could be rows.
        let raw = Habits { format: || Format::Bytes, ..SECOND };
        match world.run(raw, None) {
            Ok(()) => world.assert_each_somewhere_once(&format!("killed at {at}, without verdicts")),
            Err(error) => {
                let told = error.to_string();
                assert!(told.contains(".json is gone, which says what"), "{at}: {told}");
                named += 1;
            }
        }
    }
    assert!(named > 0 && named < steps, "some had frozen letters: {named} of {steps}");
}

#[test]
fn by_another_declaration_a_frozen_range_has_the_letters_and_rows_that_it_was_frozen_with() {
    // To the first, bytes that are no text are letters; to the others, they are not.
    let raw = Habits { format: || Format::Bytes, extras: &[Extra::Offset, Extra::Timestamp], ..SECOND };
    let (mut as_letters, mut points) = (0, 0);
    for at in 1..=BESIDE.steps(30, FIRST) {
        let world = BESIDE.world(30);
        world.run(FIRST, Some((at, Fate::Dies))).unwrap_err();
        if at % 2 == 0 {
            world.disk.lock().unwrap().cut_power();
        }
        world.run(raw, None).unwrap();
        world.assert_each_somewhere_once(&format!("killed at {at}, and declared otherwise"));
        as_letters += u64::from(!world.letters().is_empty());
        points += 1;
    }
    assert!(as_letters > 0 && as_letters < points, "some were frozen by the first: {as_letters} of {points}");
    BESIDE.report("declared otherwise", points);
}

#[test]
fn a_record_that_became_no_row_within_a_frozen_range_stops_it() {
    // The other way round: what was frozen as rows is not sent as letters.
    let raw = Habits { format: || Format::Bytes, ..FIRST };
    let (mut refused, mut points) = (0, 0);
    for at in 1..=BESIDE.world(30).steps(raw) {
        let world = BESIDE.world(30);
        world.run(raw, Some((at, Fate::Dies))).unwrap_err();
        if let Err(error) = world.run(SECOND, None) {
            let told = error.to_string();
            assert!(told.contains("its range was frozen as one in which this is a row"), "{at}: {told}");
            refused += 1;
            world.run(raw, None).unwrap();
        }
        world.assert_each_somewhere_once(&format!("killed at {at}, and declared otherwise"));
        points += 1;
    }
    assert!(refused > 0, "some were frozen by the first");
    BESIDE.report("declared more strictly", points);
}

#[test]
fn a_frozen_range_with_letters_waits_for_them_to_go_somewhere() {
    let world = BESIDE.world(12);
    // Behind the first freeze of a range with letters.
    let at = (1..)
        .find(|&at| {
            let world = BESIDE.world(12);
            let _ = world.run(FIRST, Some((at, Fate::Dies)));
            !world.letters().is_empty()
        })
        .unwrap();
    world.run(FIRST, Some((at, Fate::Dies))).unwrap_err();
    let refused = world.run(Habits { is_sending: false, ..SECOND }, None).unwrap_err();
    assert!(matches!(refused, PartitionError::NoLetters { .. }), "{refused}");
    world.run(SECOND, None).unwrap();
    world.assert_exactly_once("declared again");
}

#[test]
fn letters_of_a_table_that_is_made_anew_under_its_name_are_not_sent_twice() {
    let world = BESIDE.world(12);
    world.run(FIRST, None).unwrap();
    let anew = World { topic: Arc::clone(&world.topic), ..BESIDE.world(12) };
    let refused = anew.run(FIRST, None).unwrap_err();
    assert!(matches!(refused, PartitionError::LettersAhead { .. }), "{refused}");
}

#[test]
fn a_letter_is_its_record_and_says_what_was_wrong_where() {
    let world = BESIDE.world(5);
    world.run(FIRST, None).unwrap();
    let topic = world.topic.lock().unwrap();
    let [letter] = &topic.committed[..] else { panic!("one of five is a letter") };
    assert_eq!((letter.key.as_deref(), letter.value.as_deref()), (None, Some(&[0xff, 4][..])));
    assert_eq!(letter.timestamp, Some(world.log[4].timestamp));
    let headers = letter.headers.iter().map(|header| {
        format!("{}: {}\n", header.key, std::str::from_utf8(header.value.as_deref().unwrap()).unwrap())
    });
    expect_test::expect![[r#"
        __connect.errors.topic: orders
        __connect.errors.partition: 0
        __connect.errors.offset: 6
        __connect.errors.connector.name: orders.offline
        __connect.errors.task.id: 0
        __connect.errors.stage: VALUE_CONVERTER
        __connect.errors.class.name: ottla.sink
        __connect.errors.exception.class.name: org.apache.kafka.connect.errors.DataException
        __connect.errors.exception.message: the value is not UTF-8: invalid utf-8 sequence of 1 bytes from index 0
        __connect.errors.exception.stacktrace: org.apache.kafka.connect.errors.DataException: the value is not UTF-8: invalid utf-8 sequence of 1 bytes from index 0
        	at orders-0 at offset 6
        __connect.errors.topic.id: BwcHBwcHBwcHBwcHBwcHBw
    "#]].assert_eq(&headers.collect::<String>());
}
