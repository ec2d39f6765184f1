//! Several data directories: what goes where, what is left when one dies, and moves that power cuts interrupt anywhere.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::{Make, Rng, as_leader, make, read_bytes, topic_id};
use storage::fault::{Fault, FaultDisk};
use storage::{
    Arrival, Clean, Cleanup, DataDirError, DataDirs, DataDirsOptions, Disk, Log, LogConfig, Move,
    StorageError,
};
use wire::{BrokerId, Millis, Offset, PartitionId, Str, TopicPartition, Uuid};

const NOW: Millis = Millis(1_000);

fn options(dirs: &[&str]) -> DataDirsOptions {
    let id = |dir: &str| Uuid::from_u128(dir.bytes().fold(1, |id, byte| id << 8 | u128::from(byte)));
    let with_id = |dir: &&str| (PathBuf::from(dir), id(dir));
    DataDirsOptions {
        node_id: BrokerId(1),
        cluster_id: None,
        new_cluster_id: Str::copy_from("test-cluster"),
        dirs: dirs.iter().map(with_id).collect(),
        metadata_dir: with_id(&dirs[0]),
    }
}

fn try_open(disk: &FaultDisk, dirs: &[&str]) -> Result<DataDirs, DataDirError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    DataDirs::open(&disk, options(dirs))
}

fn open(disk: &FaultDisk, dirs: &[&str]) -> DataDirs {
    try_open(disk, dirs).expect("the data directories open")
}

fn partition(index: i32) -> TopicPartition {
    TopicPartition::new("orders", PartitionId(index))
}

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 2_000,
        retention_ms: None,
        timestamp_after_max_ms: i64::MAX,
        ..LogConfig::default()
    }
}

fn open_log(dirs: &DataDirs, index: i32) -> Arc<Log> {
    dirs.open_log(&partition(index), topic_id(), config(), NOW, Arrival::Later).expect("the log opens")
}

fn append(log: &Log, batch: Make) -> Result<(), storage::AppendError> {
    log.append(batch.bytes(), as_leader(NOW.0)).map(|_| ())
}

fn fill(log: &Log, count: usize) {
    for _ in 0..count {
        append(log, make(&["some value that takes some room"])).expect("it is appended");
    }
    log.flush().expect("it is flushed");
}

fn content(log: &Log) -> Vec<u8> {
    read_bytes(log, log.log_start(), log.log_end(), 1 << 20).expect("the log is read").to_vec()
}

/// Moves until it is done, or the disk does not want to.
fn finish(dirs: &DataDirs, moving: &Move) -> bool {
    for _ in 0..1_000 {
        match moving.copy_on(NOW) {
            Ok(Some(_)) => continue,
            Ok(None) => {}
            Err(_) => return false,
        }
        match dirs.finish_move(moving, NOW, || {}) {
            Ok(Some(superseded)) => return superseded.remove().is_ok(),
            Ok(None) => {}
            Err(_) => return false,
        }
    }
    panic!("the copy does not catch up");
}

fn begin(dirs: &DataDirs, log: &Arc<Log>, to: usize) -> Move {
    dirs.begin_move(log, to, Uuid::from_u128(5), NOW).expect("a copy begins").expect("the name is short")
}

fn names(disk: &FaultDisk, dir: &str) -> Vec<String> {
    let entries = disk.list(Path::new(dir)).expect("the directory is there");
    entries.into_iter().filter(|entry| entry.is_dir).map(|entry| entry.name).collect()
}

fn holders<'a>(disk: &FaultDisk, dirs: &[&'a str], name: &str) -> Vec<&'a str> {
    dirs.iter().copied().filter(|dir| names(disk, dir).iter().any(|other| other == name)).collect()
}

/// Why nobody can tell whether a partition's records are the newest.
fn refusal(dirs: &DataDirs, index: i32) -> String {
    match dirs.open_log(&partition(index), topic_id(), config(), NOW, Arrival::Later) {
        Err(error @ StorageError::Undecided { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Looks at each directory, and takes offline what cannot be used any more.
fn look_after(dirs: &DataDirs) -> Vec<usize> {
    let suspects = (0..dirs.count()).filter(|at| dirs.take_suspect(*at));
    let failed = suspects.filter_map(|at| Some((at, dirs.probe(at).err()?)));
    failed.inspect(|(at, error)| dirs.take_offline(*at, error)).map(|(at, _)| at).collect()
}

#[test]
fn a_new_partition_goes_where_the_fewest_are_and_stays_there() {
    let disk = FaultDisk::new();
    let dirs = open(&disk, &["/a", "/b"]);
    for index in 0..3 {
        open_log(&dirs, index);
    }
    assert_eq!([0, 1, 2].map(|index| dirs.place_of(&partition(index))), [Some(0), Some(1), Some(0)]);
    // A disk that does not answer gets none, unless there is no other one.
    dirs.note_answers(1, false);
    open_log(&dirs, 3);
    assert_eq!((dirs.place_of(&partition(3)), dirs.silent_count()), (Some(0), 1));
    dirs.note_answers(1, true);
    dirs.delete_log(&partition(3)).expect("it is deleted");
    // Where it is wanted, though more are there.
    dirs.prefer(&partition(7), 0);
    open_log(&dirs, 7);
    dirs.close(NOW, 3).expect("everything is closed");
    assert_eq!(names(&disk, "/a"), ["orders-0", "orders-2", "orders-7"]);
    drop(dirs);
    let dirs = open(&disk, &["/b", "/a", "/c"]);
    assert_eq!(
        [1, 2].map(|index| dirs.place_of(&partition(index))),
        [Some(0), Some(1)],
        "in another order of dirs"
    );
    assert_eq!(dirs.last_broker_epoch(), 3, "a directory that is new takes nothing away");
    open_log(&dirs, 8);
    assert_eq!(dirs.place_of(&partition(8)), Some(2));
}

#[test]
fn directories_that_are_not_this_brokers_are_refused() {
    let disk = FaultDisk::new();
    drop(open(&disk, &["/a", "/b"]));
    let mut other = options(&["/a", "/c"]);
    other.node_id = BrokerId(2);
    let disk_of_all: Arc<dyn Disk> = Arc::new(disk.clone());
    assert!(matches!(DataDirs::open(&disk_of_all, other), Err(DataDirError::Foreign { key: "node.id", .. })));
    // A copy of a directory has the same id.
    disk.create_dir(Path::new("/copy")).unwrap();
    let meta = storage::read_small_if_exists(&disk, Path::new("/a/meta.properties"), 1_000).unwrap().unwrap();
    storage::replace_file(&disk, Path::new("/copy/meta.properties"), &meta).unwrap();
    let error = try_open(&disk, &["/a", "/copy"]).expect_err("it is refused").to_string();
    assert!(error.contains("/copy") && error.contains("same directory.id"), "{error}");
    // A new one joins the cluster of those that are there.
    let dirs = open(&disk, &["/new", "/a"]);
    assert_eq!(&**dirs.cluster_id(), "test-cluster");
}

#[test]
fn a_log_moves_while_it_is_written_to() {
    let disk = FaultDisk::new();
    let dirs = open(&disk, &["/a", "/b"]);
    let log = open_log(&dirs, 0);
    fill(&log, 100);
    log.advance_log_start(Offset(10)).expect("the start moves");
    let moving = begin(&dirs, &log, 1);
    assert_eq!(moving.lag(), 100);
    assert!(moving.copy_on(NOW).unwrap().is_some());
    fill(&log, 50);
    // What was copied is cut, and other records follow.
    log.truncate_to(Offset(20), NOW).expect("it is cut");
    fill(&log, 70);
    let before = content(&log);
    assert!(finish(&dirs, &moving));
    assert_eq!(dirs.place_of(&partition(0)), Some(1));
    assert_eq!(log.path(), Path::new("/b/orders-0"));
    assert_eq!((log.log_start(), log.log_end(), content(&log)), (Offset(10), Offset(90), before));
    assert_eq!((names(&disk, "/a"), names(&disk, "/b")), (vec![], vec!["orders-0".to_owned()]));
    fill(&log, 30);
    assert!((0..dirs.count()).all(|at| dirs.checkpoint(at, NOW).is_ok()));
    let before = content(&log);
    drop((moving, log, dirs));
    disk.crash(&mut |_: u64| 0);
    let dirs = open(&disk, &["/a", "/b"]);
    let log = open_log(&dirs, 0);
    assert_eq!((log.log_start(), log.log_end(), content(&log)), (Offset(10), Offset(120), before));
    // And back.
    let moving = begin(&dirs, &log, 0);
    assert!(finish(&dirs, &moving));
    assert_eq!(log.path(), Path::new("/a/orders-0"));
}

#[test]
fn a_move_that_is_given_up_leaves_nothing() {
    let disk = FaultDisk::new();
    let dirs = open(&disk, &["/a", "/b"]);
    let log = open_log(&dirs, 0);
    fill(&log, 100);
    let moving = begin(&dirs, &log, 1);
    assert!(moving.copy_on(NOW).unwrap().is_some());
    moving.cancel();
    assert!(moving.copy_on(NOW).is_err());
    assert_eq!((names(&disk, "/a"), names(&disk, "/b")), (vec!["orders-0".to_owned()], vec![]));
    fill(&log, 1);
    // One that a stop interrupts is told to the next process.
    let moving = begin(&dirs, &log, 1);
    assert!(moving.copy_on(NOW).unwrap().is_some());
    drop((moving, log, dirs));
    disk.kill();
    let dirs = open(&disk, &["/a", "/b"]);
    assert_eq!(dirs.take_unfinished(), [(partition(0), PathBuf::from("/b"))]);
    assert_eq!(names(&disk, "/b"), Vec::<String>::new());
}

#[test]
fn a_log_that_was_compacted_moves_with_its_holes() {
    let disk = FaultDisk::new();
    let dirs = open(&disk, &["/a", "/b"]);
    let compacted = LogConfig {
        cleanup: Cleanup { delete: false, compact: true },
        min_cleanable_dirty_ratio: 0.0,
        segment_bytes: 300,
        ..config()
    };
    let log =
        dirs.open_log(&partition(0), topic_id(), compacted, NOW, Arrival::Later).expect("the log opens");
    for at in 0..60 {
        append(&log, common::make_keyed(&[(["a", "b"][at % 2], Some("value"))]).by(7, 0, at as i32)).unwrap();
    }
    log.flush().unwrap();
    let clean = Clean { now: NOW, high_watermark: log.log_end(), map_bytes_max: 1 << 20 };
    assert!(log.clean(clean).unwrap().is_some());
    let moving = begin(&dirs, &log, 1);
    assert!(log.clean(clean).unwrap().is_none(), "not while it is copied");
    let (before, producers) = (content(&log), log.producers());
    assert!(finish(&dirs, &moving));
    assert_eq!((content(&log), log.producers()), (before.clone(), producers.clone()));
    append(&log, common::make_keyed(&[("c", Some("value"))]).by(7, 0, 60)).unwrap();
    log.flush().unwrap();
    drop((moving, log, dirs));
    disk.crash(&mut |_: u64| 0);
    let dirs = open(&disk, &["/a", "/b"]);
    let log = open_log(&dirs, 0);
    assert_eq!(log.log_end(), Offset(61));
    assert_eq!(content(&log)[..before.len()], before);
}

/// Power goes after each operation of a move, and afterwards there is one log, with everything that was flushed.
#[test]
fn wherever_power_is_cut_one_whole_log_is_left() {
    let mut moved = 0;
    for seed in 0..4 {
        for steps in 0.. {
            let mut rng = Rng::new(seed * 1_000 + steps);
            let disk = FaultDisk::new();
            let dirs = open(&disk, &["/a", "/b"]);
            let log = open_log(&dirs, 0);
            fill(&log, 30);
            assert!((0..dirs.count()).all(|at| dirs.checkpoint(at, NOW).is_ok()));
            fill(&log, 10);
            let mut flushed = content(&log);
            disk.stop_after(disk.operations() + steps);
            let mut is_done = false;
            if let Ok(Some(moving)) = dirs.begin_move(&log, 1, Uuid::from_u128(5), NOW) {
                is_done = finish(&dirs, &moving);
            }
            // Whichever of the two it is now goes on.
            if append(&log, make(&["one more"])).is_ok() && log.flush().is_ok() {
                flushed = content(&log);
            }
            drop((log, dirs));
            disk.crash(&mut |bound: u64| rng.below(bound));
            let dirs = try_open(&disk, &["/a", "/b"]).unwrap_or_else(|e| panic!("seed {seed}, {steps}: {e}"));
            let found = dirs.found().iter().filter(|(_, log)| log.topic_partition == partition(0)).count();
            assert_eq!(found, 1, "seed {seed}, after {steps} operations");
            let log = open_log(&dirs, 0);
            let content = content(&log);
            assert!(content.starts_with(&flushed), "seed {seed}, after {steps} operations something is lost");
            fill(&log, 1);
            if is_done {
                moved += 1;
                break;
            }
        }
    }
    assert_eq!(moved, 4);
}

/// The same with a disk that dies in the middle: the other one goes on, or nothing is acknowledged.
#[test]
fn whichever_disk_dies_in_a_move_nothing_that_was_flushed_is_lost() {
    for (dies, steps) in ["/a", "/b"].into_iter().flat_map(|dies| (0..60).map(move |steps| (dies, steps))) {
        let disk = FaultDisk::new();
        let dirs = open(&disk, &["/a", "/b"]);
        let log = open_log(&dirs, 0);
        fill(&log, 30);
        let (flushed, mut flushed_end) = (content(&log), log.log_end());
        let moving = begin(&dirs, &log, 1);
        for _ in 0..3 {
            assert!(moving.copy_on(NOW).is_ok());
        }
        disk.kill_dir_after(Path::new(dies), disk.operations() + steps);
        finish(&dirs, &moving);
        for _ in 0..2 {
            if append(&log, make(&["one more"])).is_ok() && log.flush().is_ok() {
                flushed_end = log.log_end();
            }
        }
        drop((moving, log, dirs));
        disk.crash(&mut |_: u64| 0);
        disk.revive_dir(Path::new(dies));
        let dirs = open(&disk, &["/a", "/b"]);
        let log = open_log(&dirs, 0);
        let is_there = content(&log).starts_with(&flushed) && log.log_end() >= flushed_end;
        assert!(is_there, "{dies} died after {steps} operations: something is lost");
    }
}

#[test]
fn a_directory_that_dies_takes_only_its_partitions_along() {
    let disk = FaultDisk::new();
    let dirs = open(&disk, &["/a", "/b", "/c"]);
    let logs: Vec<_> = (0..6).map(|index| open_log(&dirs, index)).collect();
    logs.iter().for_each(|log| fill(log, 5));
    assert!(look_after(&dirs).is_empty());
    disk.kill_dir(Path::new("/b"));
    append(&logs[1], make(&["x"])).expect_err("the disk has died");
    assert_eq!(look_after(&dirs), [1]);
    let offline: Vec<_> = logs.iter().map(|log| log.is_offline()).collect();
    assert_eq!(offline, [false, true, false, false, true, false], "the one that nobody wrote to as well");
    assert_eq!((dirs.offline_count(), dirs.is_of_no_use()), (1, false));
    fill(&logs[0], 5);
    assert!((0..dirs.count()).all(|at| dirs.checkpoint(at, NOW).is_ok()));
    // New ones go to the others.
    for index in 6..10 {
        open_log(&dirs, index);
        assert_ne!(dirs.place_of(&partition(index)), Some(1));
    }
    dirs.close(NOW, 3).expect("the others are closed in order");
    drop((logs, dirs));

    // It cannot be read at the next start either.
    let dirs = open(&disk, &["/a", "/b", "/c"]);
    assert_eq!((dirs.offline_count(), dirs.directory_ids().len(), dirs.last_broker_epoch()), (1, 2, -1));
    let at_start = dirs.open_log(&partition(1), topic_id(), config(), NOW, Arrival::AtStart);
    assert!(matches!(at_start, Err(StorageError::DirOffline { .. })), "nobody knows whether it is there");
    let elsewhere = open_log(&dirs, 1);
    fill(&elsewhere, 7);
    drop((elsewhere, dirs));

    // Repaired: nobody knows which of the two is newer, and both are kept. The others are served.
    disk.kill();
    disk.revive_dir(Path::new("/b"));
    let dirs = open(&disk, &["/a", "/b", "/c"]);
    assert_eq!((dirs.offline_count(), open_log(&dirs, 4).log_end()), (0, Offset(5)));
    assert!(refusal(&dirs, 1).contains("neither directory says"));
    assert!(dirs.held().all(|(_, log)| log.topic_partition != partition(1)), "nobody vouches for it");
    assert_eq!(holders(&disk, &["/a", "/b", "/c"], "orders-1").len(), 2);
}

#[test]
fn without_the_metadatas_directory_or_with_none_a_broker_is_of_no_use() {
    let disk = FaultDisk::new();
    drop(open(&disk, &["/a", "/b"]));
    disk.kill_dir(Path::new("/a"));
    assert!(matches!(try_open(&disk, &["/a", "/b"]), Err(DataDirError::Disk { .. })));
    disk.revive_dir(Path::new("/a"));
    disk.kill_dir(Path::new("/b"));
    let mut apart = options(&["/b"]);
    apart.metadata_dir = (PathBuf::from("/a"), Uuid::from_u128(9));
    let disk_of_all: Arc<dyn Disk> = Arc::new(disk.clone());
    assert!(matches!(DataDirs::open(&disk_of_all, apart.clone()), Err(DataDirError::NoneUsable(_))));
    disk.revive_dir(Path::new("/b"));
    let dirs = DataDirs::open(&disk_of_all, apart).expect("both are there");
    assert_eq!(dirs.states().len(), 1, "no partition goes to the metadata's own");
    let log = open_log(&dirs, 0);
    assert_eq!(log.path(), Path::new("/b/orders-0"));
    disk.kill_dir(Path::new("/b"));
    append(&log, make(&["x"])).expect_err("the disk has died");
    assert_eq!((look_after(&dirs).len(), dirs.is_of_no_use()), (1, true));
}

#[test]
fn the_same_partition_twice_without_a_mark_is_refused_and_no_other_one() {
    let disk = FaultDisk::new();
    let dirs = open(&disk, &["/a"]);
    open_log(&dirs, 0);
    fill(&open_log(&dirs, 1), 3);
    dirs.close(NOW, -1).unwrap();
    drop(dirs);
    let dirs = open(&disk, &["/b"]);
    open_log(&dirs, 0);
    drop(dirs);
    let dirs = open(&disk, &["/a", "/b"]);
    let error = refusal(&dirs, 0);
    assert!(error.contains("/a/orders-0: orders-0 is in /b/orders-0 as well"), "{error}");
    assert_eq!(open_log(&dirs, 1).log_end(), Offset(3));
    // As the message says.
    drop(dirs);
    disk.rename(Path::new("/b/orders-0"), Path::new("/b/orders-0-stray")).expect("it is renamed");
    let dirs = open(&disk, &["/a", "/b"]);
    assert_eq!(open_log(&dirs, 0).path(), Path::new("/a/orders-0"));
}

/// A directory to which the partition has moved dies, goes, and comes back after the partition was made anew.
#[test]
fn a_directory_that_was_away_beats_nothing() {
    let disk = FaultDisk::new();
    let dirs = open(&disk, &["/a", "/b"]);
    let log = open_log(&dirs, 0);
    fill(&log, 10);
    let moving = begin(&dirs, &log, 1);
    assert!(finish(&dirs, &moving));
    dirs.close(NOW, -1).unwrap();
    drop((moving, log, dirs));
    let dirs = open(&disk, &["/a"]);
    let log = open_log(&dirs, 0);
    assert_eq!(log.log_end(), Offset(0));
    fill(&log, 30);
    drop((log, dirs));
    for order in [["/a", "/b"], ["/b", "/a"]] {
        let dirs = open(&disk, &order);
        assert!(refusal(&dirs, 0).contains("neither directory says"), "the copy's id is no claim");
        drop(dirs);
        for (dir, end) in [("/a", 30), ("/b", 10)] {
            let alone = open(&disk, &[dir]);
            assert_eq!(open_log(&alone, 0).log_end(), Offset(end), "nothing of {dir} is lost");
        }
    }
}

/// Power goes after each operation of a move, and the directory that it went to is away for a while.
#[test]
fn a_move_that_may_have_ended_is_not_undone_while_its_copy_is_away() {
    let (mut refused, mut went_on) = (0, 0);
    for steps in 0.. {
        let disk = FaultDisk::new();
        let dirs = open(&disk, &["/a", "/b"]);
        let log = open_log(&dirs, 0);
        fill(&log, 30);
        disk.stop_after(disk.operations() + steps);
        let moving = dirs.begin_move(&log, 1, Uuid::from_u128(5), NOW);
        let is_done = matches!(&moving, Ok(Some(moving)) if finish(&dirs, moving));
        drop((moving, log, dirs));
        disk.kill();
        let dirs = open(&disk, &["/a"]);
        match dirs.open_log(&partition(0), topic_id(), config(), NOW, Arrival::Later) {
            Ok(log) if log.log_end() > Offset(0) => {
                went_on += 1;
                fill(&log, 3);
                drop((log, dirs));
                let dirs = open(&disk, &["/a", "/b"]);
                assert_eq!(open_log(&dirs, 0).log_end(), Offset(33), "after {steps} operations");
            }
            Ok(log) => {
                fill(&log, 3);
                drop((log, dirs));
                let dirs = open(&disk, &["/a", "/b"]);
                assert!(refusal(&dirs, 0).contains("neither directory says"), "after {steps} operations");
            }
            Err(error) => {
                refused += 1;
                let error = error.to_string();
                assert!(error.contains("which cannot be read: bring that one back"), "{error}");
                assert_eq!(dirs.held().count(), 0, "nobody vouches for it");
                drop(dirs);
                let dirs = open(&disk, &["/a", "/b"]);
                assert_eq!(open_log(&dirs, 0).log_end(), Offset(30), "after {steps} operations");
                assert_eq!(holders(&disk, &["/a", "/b"], "orders-0").len(), 1);
            }
        }
        if is_done {
            break;
        }
    }
    assert!(refused > 0 && went_on > 0, "{refused} refused, {went_on} went on");
}

#[test]
fn what_is_stale_after_a_move_is_set_aside_and_kept() {
    // The old directory dies when the copy has its name.
    let mut kept = 0;
    for steps in 0..60 {
        let disk = FaultDisk::new();
        let dirs = open(&disk, &["/a", "/b"]);
        let log = open_log(&dirs, 0);
        fill(&log, 30);
        let moving = begin(&dirs, &log, 1);
        while moving.copy_on(NOW).expect("it is copied").is_some() {}
        disk.kill_dir_after(Path::new("/a"), disk.operations() + steps);
        finish(&dirs, &moving);
        let is_moved = dirs.place_of(&partition(0)) == Some(1);
        if is_moved {
            fill(&log, 5);
        }
        drop((moving, log, dirs));
        disk.kill();
        disk.revive_dir(Path::new("/a"));
        let dirs = open(&disk, &["/a", "/b"]);
        let end = open_log(&dirs, 0).log_end();
        assert_eq!(end, Offset(if is_moved { 35 } else { 30 }), "after {steps} operations");
        kept += names(&disk, "/a").iter().filter(|name| name.ends_with("-stray")).count();
    }
    assert!(kept > 0, "no step leaves it in both");
}

#[test]
fn a_directory_whose_marks_cannot_be_read_is_offline_alone() {
    let disk = FaultDisk::new();
    let dirs = open(&disk, &["/a", "/b"]);
    for index in 0..4 {
        fill(&open_log(&dirs, index), 2);
    }
    dirs.close(NOW, -1).unwrap();
    drop(dirs);
    // Longer than any mark.
    storage::replace_file(&disk, Path::new("/b/orders-1/moved-to"), &[b'x'; 100_000]).unwrap();
    let dirs = open(&disk, &["/a", "/b"]);
    assert_eq!((dirs.offline_count(), open_log(&dirs, 0).log_end()), (1, Offset(2)));
    for index in [1, 3] {
        let error = dirs.open_log(&partition(index), topic_id(), config(), NOW, Arrival::AtStart);
        assert!(matches!(error, Err(StorageError::DirOffline { .. })), "{error:?}");
    }
}

#[test]
fn what_a_failed_move_has_left_does_not_block_the_next_one() {
    let disk = FaultDisk::new();
    let dirs = open(&disk, &["/a", "/b"]);
    let log = open_log(&dirs, 0);
    fill(&log, 10);
    for (to, dir) in [(1, "/b"), (0, "/a"), (1, "/b")] {
        let left = Path::new(dir).join("orders-0");
        disk.create_dir(&left).unwrap();
        storage::replace_file(&disk, &left.join("something"), b"x").unwrap();
        let moving = begin(&dirs, &log, to);
        assert!(finish(&dirs, &moving));
        assert_eq!(log.path(), left);
    }
    let strays = |dir| names(&disk, dir).iter().filter(|name| name.ends_with("-stray")).count();
    assert_eq!((strays("/a"), strays("/b")), (1, 2), "each is kept");
    drop((log, dirs));
    disk.crash(&mut |_: u64| 0);
    let dirs = open(&disk, &["/a", "/b"]);
    assert_eq!((open_log(&dirs, 0).log_end(), dirs.found().len()), (Offset(10), 1));
}

/// Does something that no disk may keep from ending.
fn at_once<T: Send + 'static>(what: &str, act: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(act()));
    result
        .recv_timeout(Duration::from_secs(20))
        .unwrap_or_else(|_| panic!("{what} waits for a disk that hangs"))
}

/// A move of partition 0 from /a to /b that ends in a thread of its own, while after so many operations a disk hangs.
struct HungMove {
    disk: FaultDisk,
    dirs: Arc<DataDirs>,
    log: Arc<Log>,
    mover: std::thread::JoinHandle<bool>,
}

impl HungMove {
    fn begin(hangs: &str, steps: u64) -> HungMove {
        let disk = FaultDisk::new();
        let dirs = Arc::new(open(&disk, &["/a", "/b", "/c"]));
        for index in 0..3 {
            fill(&open_log(&dirs, index), 30);
        }
        let log = open_log(&dirs, 0);
        let moving = begin(&dirs, &log, 1);
        while moving.copy_on(NOW).expect("it is copied").is_some() {}
        disk.hang_dir_after(Path::new(hangs), disk.operations() + steps);
        let of_mover = Arc::clone(&dirs);
        let mover = std::thread::spawn(move || finish(&of_mover, &moving));
        disk.wait_for_hang(|| mover.is_finished());
        HungMove { disk, dirs, log, mover }
    }
}

#[test]
fn while_the_disk_that_a_partition_moves_to_hangs_everything_else_goes_on() {
    let mut hung = 0;
    for steps in 0.. {
        let HungMove { disk, dirs, log, mover } = HungMove::begin("/b", steps);
        if mover.is_finished() {
            break;
        }
        hung += 1;
        // The partition itself, for as long as it lies on the other disk, and for whoever runs on the reactor.
        if log.path() == Path::new("/a/orders-0") {
            let log = Arc::clone(&log);
            at_once("an append", move || append(&log, make(&["while it hangs"])).expect("it is appended"));
        }
        let of_reader = Arc::clone(&log);
        at_once("a reader", move || {
            assert!(of_reader.last_stable_offset(of_reader.flushed_end()) >= Offset(30));
            assert!(of_reader.epochs().len() == 1 && of_reader.producers().is_empty());
            assert_eq!(of_reader.advance_log_start(Offset(0)).unwrap(), Offset(0));
        });
        // Partitions on other disks, those that come and those that go.
        let of_others = Arc::clone(&dirs);
        at_once("another partition", move || {
            fill(&open_log(&of_others, 2), 1);
            of_others.prefer(&partition(7), 2);
            fill(&open_log(&of_others, 7), 1);
            of_others.delete_log(&partition(7)).expect("it is deleted");
            assert_eq!(
                (of_others.place_of(&partition(0)).is_some(), of_others.place_of(&partition(7))),
                (true, None)
            );
            for at in [0, 2] {
                of_others.checkpoint(at, NOW).expect("recovery points are written");
                let mark = (partition(at as i32), Offset(1));
                of_others.checkpoint_high_watermarks(at, vec![mark]).expect("high watermarks are written");
            }
        });
        disk.revive_dir(Path::new("/b"));
        assert!(mover.join().unwrap(), "it ends as if nothing had been");
        fill(&log, 1);
        assert_eq!(log.flushed_end(), log.log_end());
        let (before, path) = (content(&log), log.path());
        assert_eq!(path, Path::new("/b/orders-0"));
        drop((log, dirs));
        disk.crash(&mut |_: u64| 0);
        let dirs = open(&disk, &["/a", "/b", "/c"]);
        assert_eq!((content(&open_log(&dirs, 0)), dirs.place_of(&partition(0))), (before, Some(1)));
    }
    assert!(hung > 10, "{hung} operations");
}

#[test]
fn while_the_disk_that_a_partition_leaves_hangs_those_on_others_go_on() {
    let mut hung = 0;
    for steps in 0.. {
        let HungMove { disk, dirs, log, mover } = HungMove::begin("/a", steps);
        if mover.is_finished() {
            break;
        }
        hung += 1;
        let of_others = Arc::clone(&dirs);
        at_once("another partition", move || {
            fill(&open_log(&of_others, 1), 1);
            of_others.prefer(&partition(7), 1);
            fill(&open_log(&of_others, 7), 1);
            of_others.delete_log(&partition(7)).expect("it is deleted");
            of_others.checkpoint(1, NOW).expect("recovery points are written");
        });
        if log.path() == Path::new("/b/orders-0") {
            let log = Arc::clone(&log);
            at_once("one that has left it", move || fill(&log, 1));
        }
        disk.revive_dir(Path::new("/a"));
        assert!(mover.join().unwrap(), "it ends as if nothing had been");
        fill(&log, 1);
    }
    assert!(hung > 3, "{hung} operations");
}

/// Records come in at each step of the end of a move, and then power goes.
#[test]
fn what_was_acknowledged_while_a_move_ends_is_there_whenever_power_is_cut() {
    let mut held_back = 0;
    for (hangs, steps) in ["/a", "/b"].into_iter().flat_map(|hangs| (0..80).map(move |steps| (hangs, steps)))
    {
        let HungMove { disk, dirs, log, mover } = HungMove::begin(hangs, steps);
        if mover.is_finished() {
            continue;
        }
        let mut all = None;
        if hangs == "/b" && log.path() == Path::new("/a/orders-0") {
            append(&log, make(&["while it hangs"])).expect("it is appended");
            held_back += usize::from(log.flush().expect("it is asked for") < log.log_end());
            all = Some(content(&log));
        }
        let acknowledged = log.flushed_end();
        disk.crash(&mut |_: u64| 0);
        disk.revive_dir(Path::new(hangs));
        mover.join().unwrap();
        drop((log, dirs));
        let dirs = open(&disk, &["/a", "/b", "/c"]);
        let log = open_log(&dirs, 0);
        let content = content(&log);
        assert!(log.log_end() >= acknowledged, "{hangs} hung after {steps} operations: something is lost");
        assert!(all.is_none_or(|all| all.starts_with(&content)), "{hangs} hung after {steps} operations");
    }
    assert!(held_back > 0, "at some step an acknowledgement waits");
}

#[test]
fn a_partition_that_is_deleted_while_its_move_hangs_is_gone_when_that_ends() {
    let mut deferred = 0;
    for steps in 0..60 {
        let HungMove { disk, dirs, log, mover } = HungMove::begin("/b", steps);
        if mover.is_finished() {
            break;
        }
        if log.path() == Path::new("/a/orders-0") {
            let of_deleter = Arc::clone(&dirs);
            at_once("a deletion", move || of_deleter.delete_log(&partition(0)).expect("it is deleted"));
            assert!(append(&log, make(&["too late"])).is_err());
            deferred += usize::from(dirs.place_of(&partition(0)).is_some());
        } else {
            disk.revive_dir(Path::new("/b"));
        }
        disk.revive_dir(Path::new("/b"));
        let is_moved = mover.join().unwrap();
        if is_moved {
            dirs.delete_log(&partition(0)).expect("it is deleted");
        }
        assert_eq!(dirs.place_of(&partition(0)), None, "after {steps} operations");
        assert_eq!(holders(&disk, &["/a", "/b"], "orders-0"), Vec::<&str>::new(), "after {steps} operations");
        assert_eq!(open_log(&dirs, 0).log_end(), Offset(0), "the next one of the name begins anew");
    }
    assert!(deferred > 0);
}

#[test]
fn a_checkpoint_that_hangs_keeps_no_log_of_its_directory_from_being_found_or_forgotten() {
    let disk = FaultDisk::new();
    let dirs = Arc::new(open(&disk, &["/a", "/b"]));
    let logs: Vec<_> = (0..4).map(|index| open_log(&dirs, index)).collect();
    logs.iter().for_each(|log| fill(log, 3));
    disk.hang_dir(Path::new("/b"));
    let of_checkpoint = Arc::clone(&dirs);
    let checkpoint = std::thread::spawn(move || of_checkpoint.checkpoint(1, NOW));
    assert!(disk.wait_for_hang(|| checkpoint.is_finished()));
    let of_others = Arc::clone(&dirs);
    at_once("whoever wants an open log", move || {
        open_log(&of_others, 1);
        of_others.stop_cleaning();
        of_others.take_offline(1, &std::io::Error::other("it has failed"));
        of_others.delete_log(&partition(1)).expect_err("its files cannot be reached");
    });
    assert!(!logs[1].is_open() && logs[3].is_offline() && logs[0].is_open());
    disk.revive_dir(Path::new("/b"));
    let _ = checkpoint.join().unwrap();
}

#[test]
fn a_partition_that_is_to_go_is_not_served_from_its_old_files_when_it_comes_back() {
    let disk = FaultDisk::new();
    let dirs = Arc::new(open(&disk, &["/a", "/b"]));
    let logs = [1, 3].map(|index| {
        dirs.prefer(&partition(index), 1);
        open_log(&dirs, index)
    });
    logs.iter().for_each(|log| fill(log, 3));
    // The disk hangs at the first of two that go together.
    disk.hang_dir(Path::new("/b/orders-1"));
    let removals = [1, 3].map(|index| dirs.begin_removal(&partition(index)).expect("nobody else has it"));
    let of_remover = Arc::clone(&dirs);
    let remover = std::thread::spawn(move || {
        removals.into_iter().for_each(|removal| of_remover.finish_removal(removal).expect("it is removed"));
    });
    assert!(disk.wait_for_hang(|| remover.is_finished()));
    let again = dirs.open_log(&partition(3), topic_id(), config(), NOW, Arrival::Later);
    assert!(matches!(again, Err(StorageError::Moving)));
    assert!(dirs.is_busy(&partition(3)) && dirs.begin_removal(&partition(3)).is_none());
    disk.revive_dir(Path::new("/b/orders-1"));
    remover.join().unwrap();
    assert!(!dirs.is_busy(&partition(3)) && logs.iter().all(|log| !log.is_open()));
    assert_eq!(names(&disk, "/b"), Vec::<&str>::new());
    let log = open_log(&dirs, 3);
    assert_eq!(log.log_end(), Offset(0));
    fill(&log, 2);
}

#[test]
fn a_log_that_may_be_the_wrong_one_after_a_move_acknowledges_nothing_more() {
    let mut failed = 0;
    for steps in 0..80 {
        let HungMove { disk, dirs, log, mover } = HungMove::begin("/b", steps);
        let is_held = || log.flush().expect("it is asked for") < log.log_end();
        if mover.is_finished() || log.path() != Path::new("/a/orders-0") {
            disk.revive_dir(Path::new("/b"));
            continue;
        }
        append(&log, make(&["while it hangs"])).expect("it is appended");
        if is_held() {
            let acknowledged = log.written_end();
            assert!(acknowledged < log.log_end());
            // Neither can the move end, nor can the directory that the partition leaves say so.
            disk.kill_dir(Path::new("/a"));
            dirs.take_offline(1, &std::io::Error::other("it has failed"));
            disk.revive_dir(Path::new("/b"));
            assert!(!mover.join().unwrap(), "after {steps} operations");
            assert!(log.is_offline() && log.flush().is_err(), "after {steps} operations");
            assert_eq!(log.written_end(), acknowledged, "after {steps} operations");
            failed += 1;
        } else {
            disk.revive_dir(Path::new("/b"));
            mover.join().unwrap();
        }
    }
    assert!(failed > 0, "at some step nobody knows");
}

#[test]
fn while_retention_hangs_where_a_partition_leaves_the_directory_that_it_goes_to_goes_on() {
    let disk = FaultDisk::new();
    let dirs = Arc::new(open(&disk, &["/a", "/b"]));
    for index in 0..2 {
        fill(&open_log(&dirs, index), 60);
    }
    let log = open_log(&dirs, 0);
    let moving = begin(&dirs, &log, 1);
    while moving.copy_on(NOW).expect("it is copied").is_some() {}
    disk.hang_dir(Path::new("/a/orders-0/00000000000000000000.log"));
    let of_cleaner = Arc::clone(&log);
    let cleaner = std::thread::spawn(move || of_cleaner.advance_log_start(Offset(40)));
    assert!(disk.wait_for_hang(|| cleaner.is_finished()));
    let of_mover = Arc::clone(&dirs);
    let mover = std::thread::spawn(move || finish(&of_mover, &moving));
    while holders(&disk, &["/b"], "orders-0").is_empty() {
        assert!(!mover.is_finished(), "it waits for retention");
        std::thread::yield_now();
    }
    for _ in 0..20 {
        let of_checkpoint = Arc::clone(&dirs);
        at_once("a checkpoint", move || {
            of_checkpoint.checkpoint(1, NOW).expect("recovery points are written")
        });
    }
    disk.revive_dir(Path::new("/a/orders-0/00000000000000000000.log"));
    cleaner.join().unwrap().expect("the log begins later");
    assert!(mover.join().unwrap());
    assert_eq!((log.path().as_path(), log.log_start()), (Path::new("/b/orders-0"), Offset(40)));
    fill(&log, 1);
}

#[test]
fn a_partition_that_a_dying_disk_could_not_make_is_made_on_another_one() {
    let (mut elsewhere, mut half_made) = (0, 0);
    for steps in 0.. {
        let disk = FaultDisk::new();
        let dirs = open(&disk, &["/a", "/b"]);
        dirs.prefer(&partition(7), 1);
        disk.kill_dir_after(Path::new("/b"), disk.operations() + steps);
        if dirs.open_log(&partition(7), topic_id(), config(), NOW, Arrival::Later).is_ok() {
            break;
        }
        let is_nowhere = dirs.place_of(&partition(7)).is_none();
        assert_eq!(look_after(&dirs), [1]);
        let again = dirs.open_log(&partition(7), topic_id(), config(), NOW, Arrival::Later);
        if is_nowhere {
            fill(&again.expect("it is made on the other disk"), 3);
            elsewhere += 1;
        } else {
            // It may lie there.
            assert!(matches!(again, Err(StorageError::DirOffline { .. })), "{again:?}");
            half_made += 1;
        }
        drop(dirs);
        disk.crash(&mut |bound: u64| u64::from(bound > 1));
        disk.revive_dir(Path::new("/b"));
        let dirs = open(&disk, &["/a", "/b"]);
        assert_eq!(open_log(&dirs, 7).log_end(), Offset(if is_nowhere { 3 } else { 0 }), "{steps}");
    }
    assert!(elsewhere > 0 && half_made > 0, "{elsewhere}, {half_made}");
}

#[test]
fn a_partition_that_could_not_be_made_leaves_nothing() {
    let disk = FaultDisk::new();
    let dirs = open(&disk, &["/a", "/b"]);
    dirs.prefer(&partition(7), 1);
    disk.inject(Fault::NoSpace);
    dirs.open_log(&partition(7), topic_id(), config(), NOW, Arrival::Later).expect_err("the disk is full");
    assert_eq!((dirs.place_of(&partition(7)), names(&disk, "/b")), (None, vec![]));
    fill(&open_log(&dirs, 7), 1);
    assert_eq!(dirs.place_of(&partition(7)), Some(0));
    // Nothing unopened is left that would keep the stop from being clean.
    dirs.close(NOW, 3).expect("everything is closed");
    drop(dirs);
    assert_eq!(open(&disk, &["/a", "/b"]).last_broker_epoch(), 3);
}

#[test]
fn the_end_of_a_move_leaves_a_later_partition_of_the_name_alone() {
    let mut met = 0;
    for steps in 0..40 {
        let disk = FaultDisk::new();
        let dirs = Arc::new(open(&disk, &["/a", "/b"]));
        let log = open_log(&dirs, 0);
        fill(&log, 30);
        let moving = begin(&dirs, &log, 1);
        while moving.copy_on(NOW).expect("it is copied").is_some() {}
        let copy = names(&disk, "/b").into_iter().find(|name| name.ends_with("-future")).expect("a copy");
        let copy = Path::new("/b").join(copy);
        disk.hang_dir_after(&copy, disk.operations() + steps);
        let of_mover = Arc::clone(&dirs);
        let mover = std::thread::spawn(move || finish(&of_mover, &moving));
        if !disk.wait_for_hang(|| mover.is_finished()) || dirs.is_busy(&partition(0)) {
            disk.revive_dir(&copy);
            mover.join().unwrap();
            continue;
        }
        // It is deleted and made anew, where the copy would go to.
        dirs.delete_log(&partition(0)).expect("it is deleted");
        dirs.prefer(&partition(0), 1);
        let later = open_log(&dirs, 0);
        fill(&later, 2);
        disk.revive_dir(&copy);
        assert!(!mover.join().unwrap(), "after {steps} operations");
        assert_eq!(holders(&disk, &["/a", "/b"], "orders-0"), ["/b"], "after {steps} operations");
        fill(&later, 1);
        drop((log, later, dirs));
        disk.crash(&mut |_: u64| 0);
        assert_eq!(open_log(&open(&disk, &["/a", "/b"]), 0).log_end(), Offset(3));
        met += 1;
    }
    assert!(met > 0, "at some step it is not busy yet");
}

#[test]
fn a_log_that_moves_to_a_directory_which_is_taken_offline_stays_where_it_is() {
    let mut stays = 0;
    for steps in 0.. {
        let HungMove { disk, dirs, log, mover } = HungMove::begin("/b", steps);
        if mover.is_finished() {
            break;
        }
        dirs.take_offline(1, &std::io::Error::other("it has failed"));
        disk.revive_dir(Path::new("/b"));
        mover.join().unwrap();
        let is_left = log.path() == Path::new("/b/orders-0");
        assert_eq!((log.is_offline(), log.is_open()), (is_left, !is_left), "after {steps} operations");
        assert_eq!(dirs.place_of(&partition(0)), Some(usize::from(is_left)), "after {steps} operations");
        if !is_left {
            fill(&log, 1);
            stays += 1;
        }
    }
    assert!(stays > 0);
}
