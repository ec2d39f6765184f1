//! The near-real-time line into a table of small files, beside the one that is read later: each with positions, dead letters and files
//! of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::support::world::World;
use client::{Execution, ProducerRecord, TokioEnvironment};
use sink::{Compaction, Expiry, Line, LocalFiles, RepairAction, Replayed, Until, Verified, Which};
use wire::{Millis, Offset, PartitionId};

/// Both lines into tables. What is in hand is written after two seconds in the one, and when the other ends.
fn tables(world: &World) -> String {
    let (offline, nearline) = (world.path("orders"), world.path("now"));
    format!(
        "[offline]\ntable = {offline:?}\nroll_rows = 100\n[nearline]\ntable = {nearline:?}\nroll_age = \"2s\"\nroll_rows = 50\n"
    )
}

const WITH_LETTERS: &str = "[dead_letters]\ntopic = \"dead\"\n\
     [value]\nformat = \"json\"\nfields = [{ name = \"id\", type = \"int64\", required = true }]\n";

/// Every fifth is no row.
fn row(number: i32) -> ProducerRecord {
    let value = if number % 5 == 0 { "no JSON".to_owned() } else { format!("{{\"id\":{number}}}") };
    let mut record = ProducerRecord::new("orders", value);
    record.partition = Some(PartitionId(0));
    record.timestamp = Some(Millis(1_700_000_000_000));
    record
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        match path.is_dir() {
            true if name.starts_with('_') => {}
            true => found.extend(files(&path)),
            false if name.ends_with(".parquet") => found.push(path),
            false => {}
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn both_tables_of_lines_that_are_dropped_again_and_again_have_each_record_once() {
    let world = World::new(2).await;
    let both = tables(&world);
    for round in 0..5 {
        world.send(0, 0..300).await;
        world.send(1, 0..130).await;
        let running = world.start(Until::Stopped, &both);
        let line = if round % 2 == 0 { Line::Nearline } else { Line::Offline };
        world.until_committed(&both, line, i64::from(round) * 430 + 200).await;
        running.abort();
        let _ = running.await;
    }
    let done = world.run_to_end(&both).await.unwrap();
    let lines: Vec<_> = done.iter().map(|done| (done.line, done.partition.partition.0, done.to.0)).collect();
    let expected = [
        (Line::Offline, 0, 1500),
        (Line::Offline, 1, 650),
        (Line::Nearline, 0, 1500),
        (Line::Nearline, 1, 650),
    ];
    assert_eq!(lines, expected);
    world.assert_whole(&both, 5 * 430).await;
    let common: Vec<_> =
        world.verified(&both).await.iter().map(|one| one.common.map(|range| range.end.0)).collect();
    assert_eq!(common, [None, None, Some(1500), Some(650)]);
    let status = world.status(&both).await.unwrap();
    assert!(status.iter().all(|one| (one.lag, one.ahead) == (0, Some(0))), "{status:?}");
    assert!(status.iter().all(|one| one.output == one.committed && one.read == one.committed), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_slowly_is_in_the_table_when_it_is_old_enough() {
    let world = World::new(1).await;
    let table = world.path("now");
    let lines = format!("[nearline]\ntable = {table:?}\nroll_age = \"300ms\"\n");
    let running = world.start(Until::Stopped, &lines);
    for round in 1..=3 {
        world.send(0, 0..7).await;
        world.until_committed(&lines, Line::Nearline, 7 * round).await;
    }
    assert!(files(&table).len() >= 3, "{:?}", files(&table));
    running.abort();
    let _ = running.await;
    world.assert_whole(&lines, 21).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_paused_adds_nothing_once_it_is_taken_over() {
    let world = World::new(1).await;
    let table = world.path("now");
    let lines = format!("[nearline]\ntable = {table:?}\nroll_rows = 100\n");
    world.send(0, 0..150).await;
    let first = world.start_that_can_pause("one", &lines);
    world.until_committed(&lines, Line::Nearline, 100).await;
    first.pause();
    let second = world.start(Until::Stopped, &lines);
    world.send(0, 150..400).await;
    world.until_committed(&lines, Line::Nearline, 400).await;
    first.go_on();
    let refused = first.ended().await.unwrap_err().to_string();
    assert!(refused.contains("another instance"), "{refused}");
    second.abort();
    let _ = second.await;
    world.run_to_end(&lines).await.unwrap();
    world.assert_whole(&lines, 400).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_do_not_hold_the_same_are_found() {
    let world = World::new(1).await;
    let both = tables(&world);
    world.send(0, 0..220).await;
    world.run_to_end(&both).await.unwrap();
    world.assert_whole(&both, 220).await;
    // The last range of one of the tables.
    std::fs::remove_file(files(&world.path("now")).pop().unwrap()).unwrap();
    let verified = world.verified(&both).await;
    assert!(verified[0].is_clean(), "{verified:?}");
    assert!(verified[1].missing > 0, "{verified:?}");
    let rows = verified[1].rows;
    let expected = format!(
        "orders-0 [0, 220): the lines do not hold the same records: their numbers differ, with 220 in the table and {rows} in \
         the near-real-time one"
    );
    assert!(verified[1].findings.iter().any(|finding| finding.to_string() == expected), "{verified:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_line_has_letters_of_its_own_and_a_record_goes_back_once() {
    let world = World::new(1).await;
    world.create("dead", 1).await;
    let both = format!("{WITH_LETTERS}{}", tables(&world));
    world.send_all((0..200).map(row)).await;
    let done = world.run_to_end(&both).await.unwrap();
    let counts: Vec<_> = done.iter().map(|done| (done.line, done.records, done.letters)).collect();
    assert_eq!(counts, [(Line::Offline, 200, 40), (Line::Nearline, 200, 40)]);
    world.assert_whole(&both, 200).await;
    let verified = world.verified(&both).await;
    let counts: Vec<_> = verified.iter().map(|one| (one.rows, one.letters)).collect();
    assert_eq!(counts, [(160, 40), (160, 40)]);
    assert_eq!(verified[1].common.map(|range| range.end), Some(Offset(200)));

    let (settings, cluster) = (world.settings(&both), world.cluster());
    let letters = sink::dead_letters(&settings, &cluster, Which::All).await.unwrap();
    let of = |line| letters.iter().filter(|letter| letter.line == line).count();
    assert_eq!((of(Line::Offline), of(Line::Nearline)), (40, 40));
    // Both have a letter of each record, and it goes back once.
    let waiting = sink::dead_letters(&settings, &cluster, Which::Waiting).await.unwrap();
    assert!(waiting.len() == 40 && waiting.iter().all(|letter| letter.line == Line::Offline));
    let replayed = sink::replay(&settings, world.options(), Arc::new(TokioEnvironment)).await.unwrap();
    assert_eq!(replayed, Replayed { sent: 40, passed: 40 });
    let again = sink::replay(&settings, world.options(), Arc::new(TokioEnvironment)).await.unwrap();
    assert_eq!(again, Replayed::default());
    let text = format!("[dead_letters]\ntopic = \"dead\"\n[value]\nformat = \"text\"\n{}", tables(&world));
    world.run_to_end(&text).await.unwrap();
    world.assert_whole(&text, 240).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_kept_in_order_whichever_lines_it_is() {
    let world = World::new(1).await;
    let both = tables(&world);
    world.send(0, 0..220).await;
    world.run_to_end(&both).await.unwrap();
    let now = &TokioEnvironment;
    let (settings, local) = (world.settings(&both), Arc::new(LocalFiles));
    let nearline = settings.only(Line::Nearline).unwrap();

    let compaction = Compaction { target_bytes: 1 << 20, older_than_ms: 0, execution: Execution::Apply };
    let merges = sink::compact(&nearline, now, local.clone(), compaction).await.unwrap().merges;
    assert!(merges.iter().all(|merge| merge.line == Line::Nearline) && merges.len() == 1, "{merges:?}");
    assert_eq!(files(&world.path("now")).len(), 1);
    assert!(files(&world.path("orders")).len() > 1, "the other one is left alone");
    let merges = sink::compact(&settings, now, local.clone(), compaction).await.unwrap().merges;
    assert!(merges.iter().all(|merge| merge.line == Line::Offline) && merges.len() == 1, "{merges:?}");
    world.assert_whole(&both, 220).await;

    // The store of one has lost its positions, and its table gives them back.
    std::fs::remove_dir_all(world.path("now/_sink/orders.nearline")).unwrap();
    let cluster = world.cluster();
    let repairs = sink::repair(&settings, &cluster, now, local.clone(), Execution::Apply).await.unwrap();
    let told: Vec<_> = repairs.iter().map(|one| (one.line, one.is_done)).collect();
    assert_eq!(told, [(Line::Offline, false), (Line::Nearline, true)]);
    assert!(matches!(repairs[1].action, RepairAction::Rebuild(range, None) if range.end == Offset(220)));
    world.send(0, 220..300).await;
    world.run_to_end(&both).await.unwrap();
    world.assert_whole(&both, 300).await;

    let expiry = Expiry { older_than_ms: 0, execution: Execution::Apply };
    let expired = sink::expire(&nearline, now, local, expiry).await.unwrap().directories;
    assert!(expired.iter().all(|one| one.line == Line::Nearline) && expired.len() == 1, "{expired:?}");
    assert_eq!(files(&world.path("now")), [] as [PathBuf; 0]);
    let verified = world.verified(&both).await;
    assert!(verified.iter().all(Verified::is_clean), "{verified:?}");
    let rows: Vec<_> = verified.iter().map(|one| (one.rows, one.expired)).collect();
    assert_eq!(rows, [(300, 0), (0, 300)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_stops_it_and_another_lines_table_is_refused() {
    let world = World::new(1).await;
    let table = world.path("now");
    let lines = format!("[nearline]\ntable = {table:?}\n");
    world.send(0, 0..50).await;
    world.run_to_end(&lines).await.unwrap();
    // Under another name of the same directory.
    let link = world.path("link");
    std::os::unix::fs::symlink(&table, &link).unwrap();
    let shared = format!("[offline]\ntable = {link:?}\n");
    let refused = world.refused(&shared).await;
    assert!(refused.contains("another line writes it into this table"), "{refused}");
    world.delete("orders").await;
    world.create("orders", 1).await;
    world.send(0, 0..80).await;
    let refused = world.refused(&lines).await;
    assert!(refused.contains("was deleted and created again"), "{refused}");
}
