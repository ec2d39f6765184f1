//! What transactions cost a producer: three brokers, three replicas, 12 partitions, 1 KiB, a commit every 100 ms. As fast as
//! librdkafka sends, beside the same producer without transactions; and the time of a commit at a rate that both sides hold.
//! Both clusters run side by side and take turns. It never counts what was not committed.

use super::cluster::Cluster;
use super::figure::{Figure, Findings, Goal, Kind};
use super::options::{Durability, Options};
use super::process;
use super::service::Service;
use super::tools::{Workshop, figure, figures};
use std::collections::HashMap;

const PARTITIONS: u32 = 12;
const RECORD_BYTES: u64 = 1024;
const COMMIT_MS: u64 = 100;
/// Ten a second, so that the 99th of a hundred is one of several.
const COMMITS_SECONDS_MIN: u64 = 20;
/// What a run stores at most, for the pages that it is about to use.
const BYTES_PER_SECOND_MAX: f64 = 300e6;

/// Records per second while commits are timed; Kafka with a flush per append holds no more than a few hundred on a small disk.
fn rate(durability: Durability) -> u64 {
    match durability {
        Durability::PageCache => 2_000,
        Durability::Flush => 200,
    }
}

pub(crate) fn measure(workshop: &Workshop, options: &Options, findings: &mut Findings) -> Result<(), String> {
    for durability in Durability::BOTH {
        let mut clusters = Vec::new();
        for peer in &options.peers {
            clusters.push(Cluster::start(workshop, *peer, durability)?);
        }
        let services: Vec<Service> = clusters.iter().map(Cluster::service).collect();
        let outcome = compare(workshop, options, durability, &services);
        findings.add(&format!("transactions, {durability}"), outcome);
        clusters.iter_mut().try_for_each(Cluster::check_alive)?;
    }
    Ok(())
}

/// How a run goes.
#[derive(Clone, Copy)]
struct Plan {
    commit_ms: u64,
    /// 0 is as fast as goes.
    rate: u64,
    seconds: f64,
}

fn compare(
    workshop: &Workshop,
    options: &Options,
    durability: Durability,
    services: &[Service],
) -> Result<Vec<Figure>, String> {
    let seconds = options.seconds;
    let idempotent = Plan { commit_ms: 0, rate: 0, seconds };
    let transactional = Plan { commit_ms: COMMIT_MS, ..idempotent };
    let commits_seconds = options.latency_seconds.max(COMMITS_SECONDS_MIN) as f64;
    let rate = rate(durability);
    let timed = Plan { rate, seconds: commits_seconds, ..transactional };
    for service in services {
        run(workshop, service, transactional)?;
    }
    let mut throughput = Figure::new(Kind::TransactionRate, durability.to_string(), Goal::Shown);
    let mut share = Figure::new(Kind::TransactionShare, durability.to_string(), Goal::AtLeast(90.0));
    let mut p50 = Figure::new(Kind::CommitLatency, format!("p50 at {rate}/s, {durability}"), Goal::Shown);
    let mut p99 =
        Figure::new(Kind::CommitLatency, format!("p99 at {rate}/s, {durability}"), Goal::ShareAtMost(0.5));
    for _ in 0..options.pairs {
        for service in services {
            let peer = service.peer;
            let whole = figure(&run(workshop, service, idempotent)?, "mb_per_s")?;
            let part = figure(&run(workshop, service, transactional)?, "mb_per_s")?;
            let commits = run(workshop, service, timed)?;
            let [middle, late] = [figure(&commits, "commit_p50_ms")?, figure(&commits, "commit_p99_ms")?];
            println!(
                "transactions {durability} {peer}: {part:.1} of {whole:.1} MB/s; a commit p50 {middle:.2} p99 {late:.2} ms"
            );
            throughput.side(peer).0.push(part);
            share.side(peer).0.push(100.0 * part / whole);
            p50.side(peer).0.push(middle);
            p99.side(peer).0.push(late);
        }
    }
    Ok(vec![throughput, share, p50, p99])
}

fn run(workshop: &Workshop, service: &Service, plan: Plan) -> Result<HashMap<String, f64>, String> {
    let target = service.target("transactions", PARTITIONS);
    workshop.create(target)?;
    process::sync()?;
    if plan.rate == 0 {
        let bytes = plan.seconds * BYTES_PER_SECOND_MAX * f64::from(service.replication);
        process::touch_memory(workshop.scratch(), bytes as u64)?;
    }
    let mut load = workshop.on("commits", target);
    load.args(["--size", &RECORD_BYTES.to_string(), "--commit-ms", &plan.commit_ms.to_string()]);
    load.args(["--rate", &plan.rate.to_string(), "--seconds", &plan.seconds.to_string()]);
    let printed = figures(&mut load);
    workshop.delete(target)?;
    printed
}
