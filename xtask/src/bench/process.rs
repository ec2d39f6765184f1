//! What the kernel says about a process and the machine: CPU time, resident memory, cores.
//! CPU time is user and system time of all threads, dead ones included, as `/proc/PID/stat` counts it (10 ms steps; the sum
//! is exact scheduler time). It leaves out what kernel threads do on a process's behalf, on both sides alike.

use std::fmt;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const TICKS_PER_SECOND: f64 = 100.0;
const MEMORY_LOOK_EVERY: Duration = Duration::from_millis(50);
/// What is touched beyond the records: indexes, sockets, the client.
const TOUCHED_BESIDE_BYTES: u64 = 128 << 20;
const BLOCK_BYTES: usize = 1 << 20;

/// User and system seconds that `pid` has used so far.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64, String> {
    seconds(&format!("/proc/{pid}/stat"), 11)
}

/// The same of all children of this process that have ended and been waited for, and of theirs.
pub(crate) fn children_cpu_seconds() -> Result<f64, String> {
    seconds("/proc/self/stat", 13)
}

/// Two neighbours among the fields behind the program's name.
fn seconds(path: &str, first: usize) -> Result<f64, String> {
    let stat = fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
    let ticks = || -> Option<f64> {
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(first);
        Some(fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?)
    };
    Ok(ticks().ok_or_else(|| format!("{path}: unexpected form"))? / TICKS_PER_SECOND)
}

/// Resident memory in MiB: `anon` is the process's own, `file` is what it maps or runs from.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Resident {
    pub(crate) total_mib: f64,
    pub(crate) anon_mib: f64,
    pub(crate) file_mib: f64,
}

impl Resident {
    pub(crate) fn of(pid: u32) -> Result<Self, String> {
        let path = format!("/proc/{pid}/status");
        let status = fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
        let mib = |name: &str| -> Result<f64, String> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line
                .and_then(|rest| rest.split_whitespace().next())
                .and_then(|word| word.parse::<f64>().ok());
            Ok(kib.ok_or_else(|| format!("{path}: no {name}"))? / 1024.0)
        };
        Ok(Self { total_mib: mib("VmRSS:")?, anon_mib: mib("RssAnon:")?, file_mib: mib("RssFile:")? })
    }

    fn peak(self, other: Self) -> Self {
        Self {
            total_mib: self.total_mib.max(other.total_mib),
            anon_mib: self.anon_mib.max(other.anon_mib),
            file_mib: self.file_mib.max(other.file_mib),
        }
    }
}

/// Looks at a process's memory until stopped and keeps the largest of each kind.
pub(crate) struct MemoryWatch {
    stop: Arc<AtomicBool>,
    watcher: JoinHandle<Resident>,
}

impl MemoryWatch {
    pub(crate) fn begin(pid: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let watcher = thread::spawn(move || {
            let mut peak = Resident::default();
            while !seen.load(Ordering::Relaxed) {
                match Resident::of(pid) {
                    Ok(now) => peak = peak.peak(now),
                    Err(_) => break,
                }
                thread::sleep(MEMORY_LOOK_EVERY);
            }
            peak
        });
        Self { stop, watcher }
    }

    pub(crate) fn end(self) -> Result<Resident, String> {
        self.stop.store(true, Ordering::Relaxed);
        self.watcher.join().map_err(|_| "the memory watch panicked".to_owned())
    }
}

/// One line about where figures come from.
pub(crate) struct Machine {
    cores: usize,
    model: String,
    memory_gib: f64,
    kernel: String,
}

impl Machine {
    pub(crate) fn look() -> Result<Self, String> {
        let read = |path: &str| fs::read_to_string(path).map_err(|e| format!("{path}: {e}"));
        let (cpu, memory) = (read("/proc/cpuinfo")?, read("/proc/meminfo")?);
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':'))
                .map(|(_, value)| value.trim().to_owned())
                .unwrap_or_default()
        };
        let memory_kib: f64 = field(&memory, "MemTotal")
            .split_whitespace()
            .next()
            .and_then(|word| word.parse().ok())
            .unwrap_or(0.0);
        Ok(Self {
            cores: thread::available_parallelism().map_or(1, usize::from),
            model: field(&cpu, "model name"),
            memory_gib: memory_kib / 1024.0 / 1024.0,
            kernel: read("/proc/sys/kernel/osrelease")?
                .trim()
                .split('-')
                .next()
                .unwrap_or_default()
                .to_owned(),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, model, memory_gib, kernel } = self;
        write!(f, "{cores} cores of {model}, {memory_gib:.0} GiB, Linux {kernel}")
    }
}

/// Lets the kernel take as many pages of the page cache as a run is about to use, and give them back. A virtual machine hands
/// free pages back to its host within seconds, and the next touch of each can cost ten times what using it does: a run
/// would be charged for what stood free before it, and both sides for something that is not theirs.
pub(crate) fn touch_memory(scratch: &Path, used_bytes: u64) -> Result<(), String> {
    let path = scratch.join("touched");
    let block = vec![0x5a; BLOCK_BYTES];
    let write = || -> std::io::Result<()> {
        let mut file = fs::File::create(&path)?;
        for _ in 0..(used_bytes + TOUCHED_BESIDE_BYTES) / BLOCK_BYTES as u64 {
            file.write_all(&block)?;
        }
        fs::remove_file(&path)
    };
    write().map_err(|e| format!("{}: {e}", path.display()))
}

/// Writes all dirty pages back, so that a run does not pay for the one before it.
pub(crate) fn sync() -> Result<(), String> {
    let status = Command::new("sync").status().map_err(|e| format!("sync: {e}"))?;
    if status.success() { Ok(()) } else { Err("sync failed".to_owned()) }
}
