//! What durability costs on a directory's file system: one fdatasync after a small write, with the file grown
//! plainly, preallocated (KEEP_SIZE) and filled with zeros; and a flush round over many dirty files against one
//! journal that takes the same bytes. Its figures stand in docs/decisions/003-flush-each-segment.md.
//!
//! `cargo run --release -p ottla-storage --example flush_cost -- DIR`

#![allow(clippy::disallowed_methods, reason = "a measurement owns its clock")]

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use rustix::fs::FallocateFlags;

const WRITE_BYTES: usize = 4096;
const WRITES: usize = 300;
const PREALLOCATED_BYTES: u64 = 16 << 20;

fn main() -> io::Result<()> {
    let dir = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "flush-cost".into()));
    std::fs::create_dir_all(&dir)?;
    println!("one file, {WRITES} times: write {WRITE_BYTES} bytes, fdatasync");
    for way in ["plain", "keep-size", "zero-filled"] {
        let times = one_file(&dir, way)?;
        println!("  {way:12} median {:>8.1?}  p99 {:>8.1?}", at(&times, 50), at(&times, 99));
    }
    println!("a round over dirty files, 1 KiB each; the same bytes in one journal");
    for count in [1, 100, 1000, 4000] {
        let files = open_all(&dir, count)?;
        for threads in [1, 2, 8, 32] {
            let times: Vec<_> =
                (0..5).map(|round| round_over(&files, round, threads)).collect::<Result<_, _>>()?;
            println!("  {count:5} files, {threads:2} threads  median {:>9.1?}", at(&times, 50));
        }
        let journal = OpenOptions::new().write(true).create(true).truncate(true).open(dir.join("journal"))?;
        let mut times = Vec::new();
        for round in 0..5u64 {
            let start = Instant::now();
            let bytes = vec![1; count * 1024];
            journal.write_all_at(&bytes, round * bytes.len() as u64)?;
            journal.sync_data()?;
            times.push(start.elapsed());
        }
        println!("  {count:5} files, journal     median {:>9.1?}", at(&times, 50));
    }
    std::fs::remove_dir_all(&dir)
}

fn one_file(dir: &Path, way: &str) -> io::Result<Vec<Duration>> {
    let path = dir.join(way);
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
    match way {
        "keep-size" => rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, PREALLOCATED_BYTES)?,
        "zero-filled" => {
            file.write_all_at(&vec![0; PREALLOCATED_BYTES as usize], 0)?;
            file.sync_all()?;
        }
        _ => {}
    }
    let bytes = [7; WRITE_BYTES];
    let mut times = Vec::with_capacity(WRITES);
    for at in 0..WRITES {
        let start = Instant::now();
        file.write_all_at(&bytes, (at * WRITE_BYTES) as u64)?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    std::fs::remove_file(path)?;
    Ok(times)
}

fn open_all(dir: &Path, count: usize) -> io::Result<Vec<File>> {
    let open =
        |at| OpenOptions::new().write(true).create(true).truncate(true).open(dir.join(format!("{at}.log")));
    let files: Vec<File> = (0..count).map(open).collect::<Result<_, _>>()?;
    for file in &files {
        file.write_all_at(&[1; 1024], 0)?;
    }
    rustix::fs::sync();
    Ok(files)
}

/// Dirties every file, then times syncing all of them.
fn round_over(files: &[File], round: u64, threads: usize) -> io::Result<Duration> {
    for file in files {
        file.write_all_at(&[2; 1024], (round + 1) * 1024)?;
    }
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads.min(files.len()) {
            scope.spawn(|| {
                while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    file.sync_data().expect("the file syncs");
                }
            });
        }
    });
    Ok(start.elapsed())
}

fn at(times: &[Duration], percentile: usize) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[(times.len() * percentile / 100).min(times.len() - 1)]
}
