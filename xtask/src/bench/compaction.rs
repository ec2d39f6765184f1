//! What compaction costs: a partition of which a twentieth is worth keeping, cleaned as soon as it may be.
//! The records are written first and held back by `min.compaction.lag.ms`; then the cleaner alone is at work, so that the broker's
//! CPU is its own. A second partition is cleaned while others are written and read at a steady rate. The end is seen on the disk,
//! on both sides alike; both keep their own cleaner's settings.

use super::broker::{Broker, Site};
use super::figure::{Figure, Findings, Goal, Kind};
use super::latency;
use super::options::{Durability, Options};
use super::process::{self, MemoryWatch, Resident};
use super::tools::{Target, Workshop, figures, output};
use crate::shell;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

const TOPIC: &str = "compacted";
const RECORD_BYTES: u64 = 1024;
const RECORDS: u64 = 1 << 20;
const KEYS: u64 = RECORDS / 20;
const SEGMENT_BYTES: u64 = 64 << 20;
/// Whatever is not the newest of its key is gone: what is left is that, and what the cleaner does not touch.
const CLEAN_BYTES_MAX: u64 = KEYS * 2 * RECORD_BYTES + 2 * SEGMENT_BYTES;
const CLEAN_WAIT_MAX: Duration = Duration::from_secs(180);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const HELD_BACK: &str = "min.compaction.lag.ms=86400000";
const LET_GO: &str = "min.compaction.lag.ms=0";
/// `log.cleaner.dedupe.buffer.size` as both sides have it.
const MEMORY_MIB_MAX: f64 = 128.0;

pub(crate) fn measure(workshop: &Workshop, options: &Options, findings: &mut Findings) -> Result<(), String> {
    let mut rate = Figure::new(Kind::CompactionRate, "1 KiB, one of 20 kept", Goal::AtLeast(200.0));
    let mut memory = Figure::new(Kind::CompactionMemory, "anonymous", Goal::AtMost(MEMORY_MIB_MAX));
    let mut calm = Figure::new(Kind::CompactionLatency, "p99 before", Goal::Shown);
    let mut busy = Figure::new(Kind::CompactionLatency, "p99 while cleaning", Goal::Shown);
    let mut share = Figure::new(Kind::CompactionLatencyShare, "p99", Goal::AtMost(1.2));
    for peer in &options.peers {
        let site = Site::prepare(workshop, *peer, Durability::PageCache)?;
        let (broker, _) = site.start()?;
        latency::p99_ms(workshop, &broker.service(), options.latency_seconds)?;
        for _ in 0..options.pairs {
            let cleaned = clean(workshop, &site, &broker)?;
            rate.side(*peer).0.push(cleaned.mb_per_cpu_second);
            memory.side(*peer).0.push(cleaned.memory_mib);
            let before = latency::p99_ms(workshop, &broker.service(), options.latency_seconds)?;
            let during = p99_while_cleaning(workshop, &site, &broker, options.latency_seconds)?;
            println!(
                "compaction {peer}: {:.0} MB per second of CPU, {:.1} MiB; p99 {before:.2} ms before, {during:.2} ms meanwhile",
                cleaned.mb_per_cpu_second, cleaned.memory_mib
            );
            calm.side(*peer).0.push(before);
            busy.side(*peer).0.push(during);
            share.side(*peer).0.push(during / before);
        }
    }
    findings.figures.extend([rate, memory, calm, busy, share]);
    Ok(())
}

struct Cleaned {
    mb_per_cpu_second: f64,
    /// What the process has grown by at most.
    memory_mib: f64,
}

fn clean(workshop: &Workshop, site: &Site<'_>, broker: &Broker) -> Result<Cleaned, String> {
    let service = broker.service();
    let target = service.target(TOPIC, 1);
    fill(workshop, target)?;
    let dirty = log_bytes(&site.partition_dir(TOPIC))?;
    let weight = Resident::of(broker.pid())?.anon_mib;
    let watch = MemoryWatch::begin(broker.pid());
    workshop.configure(&service, ("topics", TOPIC), ("--add-config", LET_GO))?;
    let before = service.cpu_seconds()?;
    wait_until_clean(site)?;
    let cpu_seconds = service.cpu_seconds()? - before;
    let memory_mib = (watch.end()?.anon_mib - weight).max(0.0);
    workshop.delete(target)?;
    Ok(Cleaned { mb_per_cpu_second: dirty as f64 / 1e6 / cpu_seconds, memory_mib })
}

fn p99_while_cleaning(
    workshop: &Workshop,
    site: &Site<'_>,
    broker: &Broker,
    seconds: u64,
) -> Result<f64, String> {
    let service = broker.service();
    let target = service.target(TOPIC, 1);
    fill(workshop, target)?;
    workshop.configure(&service, ("topics", TOPIC), ("--add-config", LET_GO))?;
    let full = log_bytes(&site.partition_dir(TOPIC))?;
    // The first segments that are written anew are there beside the old ones.
    wait_until(site, |bytes| bytes != full)?;
    let p99 = latency::p99_ms(workshop, &service, seconds)?;
    wait_until_clean(site)?;
    workshop.delete(target)?;
    Ok(p99)
}

/// One partition, full of keys that were written many times, that the cleaner may not touch yet.
fn fill(workshop: &Workshop, target: Target<'_>) -> Result<(), String> {
    process::touch_memory(workshop.scratch(), 2 * RECORDS * RECORD_BYTES)?;
    let mut create = workshop.creation(target);
    let segments = format!("segment.bytes={SEGMENT_BYTES}");
    for setting in ["cleanup.policy=compact", HELD_BACK, &segments, "file.delete.delay.ms=100"] {
        create.args(["--config", setting]);
    }
    output(&mut create)?;
    let mut produce = workshop.on("produce", target);
    produce.args(["--size", &RECORD_BYTES.to_string(), "--records", &RECORDS.to_string()]);
    figures(produce.args(["--keys", &KEYS.to_string()]))?;
    process::sync()
}

fn wait_until_clean(site: &Site<'_>) -> Result<(), String> {
    wait_until(site, |bytes| bytes <= CLEAN_BYTES_MAX)
}

fn wait_until(site: &Site<'_>, is_so: impl Fn(u64) -> bool) -> Result<(), String> {
    let begin = shell::now();
    while !is_so(log_bytes(&site.partition_dir(TOPIC))?) {
        if begin.elapsed() > CLEAN_WAIT_MAX {
            return Err(format!(
                "not cleaned after {} s, see {}",
                CLEAN_WAIT_MAX.as_secs(),
                site.log().display()
            ));
        }
        thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Of the segments in a partition's directory, however they are called while they are replaced.
fn log_bytes(dir: &Path) -> Result<u64, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", dir.display());
    let mut bytes = 0;
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_string_lossy().contains(".log") {
            // It may have been removed since it was listed.
            bytes += entry.metadata().map_or(0, |metadata| metadata.len());
        }
    }
    Ok(bytes)
}
