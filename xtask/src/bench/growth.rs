//! What more partitions cost: the same load on a topic of 10 to 4,000 partitions with three replicas, on both sides with a
//! flush before each acknowledgement.
//! p99 is of the acknowledgements at a fixed rate, counted from when a record was due; CPU is all three brokers' while
//! records come as fast as they are taken. Each side has its topic for all runs of one size. It never shares a run's load
//! with the other side: the one that waits is idle.

use super::cluster::{Cluster, REPLICATION};
use super::figure::{Figure, Findings, Goal, Kind};
use super::options::{Durability, Generator, Options};
use super::process;
use super::pulse::{self, Pulse};
use super::service::Service;
use super::throughput::warm_up;
use super::tools::{Load, Target, Workshop};
use crate::shell;
use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

const TOPIC: &str = "growth";
const RATE: u32 = 200;
const RECORD_BYTES: u64 = 1024;
const TRIAL: Load = Load { record_bytes: RECORD_BYTES, records: 16 << 10 };
const LOAD_BYTES_MIN: f64 = 8e6;
const LOAD_BYTES_MAX: f64 = 512e6;
const PULSE_WAIT_MAX: Duration = Duration::from_secs(120);
/// No further pair of a size begins after this.
const PAIRS_WAIT_MAX: Duration = Duration::from_secs(60);
const WARM_UP: Duration = Duration::from_secs(2);

pub(crate) fn measure(workshop: &Workshop, options: &Options, findings: &mut Findings) -> Result<(), String> {
    let mut clusters = Vec::new();
    for peer in &options.peers {
        clusters.push(Cluster::start(workshop, *peer, Durability::Flush)?);
    }
    let services: Vec<Service> = clusters.iter().map(Cluster::service).collect();
    for service in &services {
        warm_up(workshop, service)?;
    }
    for partitions in options.growth {
        let outcome = at(workshop, options, &services, *partitions);
        findings.add(&format!("growth, {partitions} partitions"), outcome);
    }
    clusters.iter_mut().try_for_each(Cluster::check_alive)
}

fn at(
    workshop: &Workshop,
    options: &Options,
    services: &[Service],
    partitions: u32,
) -> Result<Vec<Figure>, String> {
    let name = format!("{partitions} partitions");
    let mut latency = Figure::new(Kind::GrowthLatency, &name, Goal::Shown);
    let mut cpu = Figure::new(Kind::GrowthCpu, &name, Goal::Shown);
    let mut loads = Vec::new();
    for service in services {
        let target = service.target(TOPIC, partitions);
        workshop.delete(target)?;
        workshop.create(target)?;
        loads.push(plan(workshop, options, target)?);
    }
    let deadline = shell::now() + PAIRS_WAIT_MAX;
    for pair in 0..options.pairs {
        if pair > 0 && shell::now() > deadline {
            break;
        }
        for (service, load) in services.iter().zip(&loads) {
            let target = service.target(TOPIC, partitions);
            process::sync()?;
            process::touch_memory(workshop.scratch(), load.bytes() * u64::from(REPLICATION))?;
            let before = service.cpu_seconds()?;
            workshop.produce(Generator::Librdkafka, target, *load)?;
            let per_gib = (service.cpu_seconds()? - before) / load.gib();
            process::sync()?;
            let p99 = p99(workshop, options, target)?;
            println!("{name}, {}: p99 {p99:.2} ms, {per_gib:.2} CPU s/GiB", service.peer);
            cpu.side(service.peer).0.push(per_gib);
            latency.side(service.peer).0.push(p99);
        }
    }
    for service in services {
        workshop.delete(service.target(TOPIC, partitions))?;
    }
    Ok(vec![latency, cpu])
}

/// How much keeps this side busy for as long as asked. The trial also opens the partitions' files.
fn plan(workshop: &Workshop, options: &Options, target: Target<'_>) -> Result<Load, String> {
    let rate = workshop.produce(Generator::Librdkafka, target, TRIAL)?;
    let bytes = (rate.mb_per_s * 1e6 * options.seconds).clamp(LOAD_BYTES_MIN, LOAD_BYTES_MAX);
    Ok(Load { record_bytes: RECORD_BYTES, records: bytes as u64 / RECORD_BYTES })
}

fn p99(workshop: &Workshop, options: &Options, target: Target<'_>) -> Result<f64, String> {
    let mut pulse = Pulse::start(workshop, Generator::Librdkafka, target, RATE)?;
    pulse.wait_for_each(&BTreeSet::from([0]), 0, 0, PULSE_WAIT_MAX)?;
    let measured = Duration::from_secs(options.latency_seconds);
    let from = shell::unix_micros() + WARM_UP.as_micros() as u64;
    // The length of the run, not a wait for something.
    thread::sleep(WARM_UP + measured);
    let beats = pulse.end()?;
    if let Some(error) = beats.iter().find_map(|beat| beat.error.as_deref()) {
        return Err(format!("a record was given up: {error}"));
    }
    pulse::latencies(&beats, from).quantile(0.99).ok_or_else(|| "no record was acknowledged".to_owned())
}
