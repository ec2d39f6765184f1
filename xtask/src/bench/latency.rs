//! End-to-end latency at a rate that both sides hold: 12 partitions, 1 KiB, one producer, one consumer, no lingering.
//! Each run has a fresh topic on a broker that was warmed at the same rate. A side that does not hold the rate is named in
//! the figures, since a latency with a backlog behind it measures the backlog.

use super::broker::{Broker, start_all};
use super::figure::{Figure, Findings, Goal, Kind, Series};
use super::options::{Durability, Options, Peer};
use super::process;
use super::service::Service;
use super::tools::{Workshop, figure, figures};

const PARTITIONS: u32 = 12;
const RECORD_BYTES: u32 = 1024;
const WARM_UP_SECONDS: u64 = 5;
const PERCENTILES: [(&str, &str); 3] = [("p50", "p50_ms"), ("p99", "p99_ms"), ("p99.9", "p999_ms")];

/// Records per second; Kafka with a flush per append holds no more than a few hundred on a small disk.
fn rate(durability: Durability) -> u32 {
    match durability {
        Durability::PageCache => 2_000,
        Durability::Flush => 200,
    }
}

pub(crate) fn measure(workshop: &Workshop, options: &Options, findings: &mut Findings) -> Result<(), String> {
    for durability in Durability::BOTH {
        let outcome = measure_one(workshop, options, durability);
        findings.add(&format!("latency, {durability}"), outcome);
    }
    Ok(())
}

fn measure_one(
    workshop: &Workshop,
    options: &Options,
    durability: Durability,
) -> Result<Vec<Figure>, String> {
    let (_sites, brokers) = start_all(workshop, &options.peers, durability)?;
    let services: Vec<Service> = brokers.iter().map(Broker::service).collect();
    compare(workshop, options, durability, &services)
}

/// Warms all services and has them take turns.
pub(super) fn compare(
    workshop: &Workshop,
    options: &Options,
    durability: Durability,
    services: &[Service],
) -> Result<Vec<Figure>, String> {
    for service in services {
        run(workshop, service, durability, WARM_UP_SECONDS)?;
    }
    let is_replicated = services.iter().any(|service| service.replication > 1);
    let mut latencies = PERCENTILES.map(|(percentile, _)| Figure {
        kind: if is_replicated { Kind::ClusterLatency } else { Kind::Latency },
        name: format!("{percentile} at {}/s, {durability}", rate(durability)),
        ours: Series::default(),
        theirs: Series::default(),
        // With replication p99 is what was promised; the others are shown beside it.
        goal: if is_replicated && percentile != "p99" { Goal::Shown } else { Goal::ShareAtMost(0.5) },
    });
    for _ in 0..options.pairs {
        for service in services {
            let peer = service.peer;
            let measured = run(workshop, service, durability, options.latency_seconds)?;
            let [p50, p99, p999] = measured.percentiles_ms;
            println!("latency {durability} {peer}: p50 {p50:.2} p99 {p99:.2} p99.9 {p999:.2} ms");
            for (latency, ms) in latencies.iter_mut().zip(measured.percentiles_ms) {
                latency.side(peer).0.push(ms);
                if !measured.held && !latency.name.contains(&not_held(peer)) {
                    latency.name.push_str(&not_held(peer));
                }
            }
        }
    }
    Ok(latencies.to_vec())
}

/// At the page cache's rate, on one service.
pub(super) fn p99_ms(workshop: &Workshop, service: &Service, seconds: u64) -> Result<f64, String> {
    let [_, p99, _] = run(workshop, service, Durability::PageCache, seconds)?.percentiles_ms;
    Ok(p99)
}

fn not_held(peer: Peer) -> String {
    format!(", not held by {peer}")
}

struct Measured {
    percentiles_ms: [f64; PERCENTILES.len()],
    held: bool,
}

fn run(
    workshop: &Workshop,
    service: &Service,
    durability: Durability,
    seconds: u64,
) -> Result<Measured, String> {
    let target = service.target("latency", PARTITIONS);
    workshop.create(target)?;
    process::sync()?;
    let mut load = workshop.on("latency", target);
    load.args(["--size", &RECORD_BYTES.to_string(), "--rate", &rate(durability).to_string()]);
    load.args(["--seconds", &seconds.to_string()]);
    let printed = figures(&mut load)?;
    workshop.delete(target)?;
    let mut percentiles_ms = [0.0; PERCENTILES.len()];
    for (ms, (_, name)) in percentiles_ms.iter_mut().zip(PERCENTILES) {
        *ms = figure(&printed, name)?;
    }
    Ok(Measured { percentiles_ms, held: figure(&printed, "held")? == 1.0 })
}
