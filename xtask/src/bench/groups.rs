//! What groups cost: one more member of ten with 900 partitions, offsets committed, and records acknowledged by a share group.
//! Both brokers run side by side and take turns, one broker each, writes in the page cache. The clients are Java's, with their
//! defaults, but for the commits, which are librdkafka's. It never counts what a client refuses to call settled.

use super::broker::{Broker, start_all};
use super::figure::{Figure, Findings, Goal, Kind};
use super::options::{Durability, Options};
use super::process;
use super::service::Service;
use super::tools::{Workshop, figure, figures, output};
use crate::shell;

const MEMBERS: &str = "10";
const PARTITIONS: u32 = 900;
const PROTOCOLS: [&str; 2] = ["consumer", "classic"];
/// Each run's figure is the median of so many.
const JOINS: &str = "5";

/// As many at once as keep one core busy on either side.
const COMMITTING_GROUPS: &str = "8";

const SHARED_PARTITIONS: u32 = 12;
const SHARED_RECORD_BYTES: &str = "100";
const SHARED_RECORDS: u64 = 400_000;
/// Once around for the JVMs.
const SHARED_WARM_UP_RECORDS: u64 = 50_000;
const SHARERS: &str = "4";
const SHARE_TOOL: &str = "org.apache.kafka.tools.ShareConsumerPerformance";
/// Of its comma-separated fields.
const SHARE_TOOL_RATE: usize = 4;

pub(crate) fn measure(workshop: &Workshop, options: &Options, findings: &mut Findings) -> Result<(), String> {
    let (_sites, brokers) = start_all(workshop, &options.peers, Durability::PageCache)?;
    let services: Vec<Service> = brokers.iter().map(Broker::service).collect();
    findings.add(&"rebalances", rebalances(workshop, options, &services));
    findings.add(&"offset commits", commits(workshop, options, &services));
    findings.add(&"a share group", shares(workshop, options, &services));
    Ok(())
}

fn rebalances(workshop: &Workshop, options: &Options, services: &[Service]) -> Result<Vec<Figure>, String> {
    let goals = [Goal::AtMost(1.0), Goal::ShareAtMost(0.5)];
    let mut took: Vec<Figure> = PROTOCOLS
        .iter()
        .zip(goals)
        .map(|(protocol, goal)| Figure::new(Kind::GroupJoin, format!("{protocol} protocol"), goal))
        .collect();
    for _ in 0..options.pairs {
        for service in services {
            for (protocol, took) in PROTOCOLS.iter().zip(&mut took) {
                let target = service.target("rebalance", PARTITIONS);
                workshop.create(target)?;
                let mut group = workshop.java_program("rebalance");
                group.args(["--bootstrap", &service.bootstrap, "--topic", target.topic]);
                group.args(["--partitions", &PARTITIONS.to_string(), "--members", MEMBERS]);
                group.args(["--joins", JOINS, "--protocol", protocol]);
                let printed = figures(&mut group)?;
                workshop.delete(target)?;
                let seconds = figure(&printed, "join_ms")? / 1e3;
                println!("one more member, {protocol} protocol, {}: {seconds:.3} s", service.peer);
                took.side(service.peer).0.push(seconds);
            }
        }
    }
    Ok(took)
}

fn commits(workshop: &Workshop, options: &Options, services: &[Service]) -> Result<Vec<Figure>, String> {
    let mut commits = Figure::new(Kind::OffsetCommits, "one partition each", Goal::ShareAtLeast(3.0));
    // The first of all is the JVM's to compile.
    for pair in 0..=options.pairs {
        for service in services {
            let target = service.target("committed", 1);
            workshop.create(target)?;
            let mut load = workshop.on("offsets", target);
            load.args(["--groups", COMMITTING_GROUPS, "--seconds", &options.seconds.to_string()]);
            let before = service.cpu_seconds()?;
            let printed = figures(&mut load)?;
            let cpu_seconds = service.cpu_seconds()? - before;
            workshop.delete(target)?;
            if pair > 0 {
                let per_core = figure(&printed, "commits")? / cpu_seconds;
                println!("offset commits {}: {per_core:.0} per second of CPU", service.peer);
                commits.side(service.peer).0.push(per_core);
            }
        }
    }
    Ok(vec![commits])
}

fn shares(workshop: &Workshop, options: &Options, services: &[Service]) -> Result<Vec<Figure>, String> {
    let name = format!("{SHARERS} consumers, {SHARED_RECORD_BYTES} B");
    let mut rate = Figure::new(Kind::ShareRate, name.clone(), Goal::ShareAtLeast(1.0));
    let mut cpu = Figure::new(Kind::ShareCpu, name, Goal::Shown);
    for pair in 0..=options.pairs {
        for service in services {
            let records = if pair == 0 { SHARED_WARM_UP_RECORDS } else { SHARED_RECORDS };
            let (per_second, cpu_seconds) = share(workshop, service, records)?;
            if pair > 0 {
                println!(
                    "share group {}: {per_second:.0} records/s, {cpu_seconds:.2} s of CPU",
                    service.peer
                );
                rate.side(service.peer).0.push(per_second);
                cpu.side(service.peer).0.push(cpu_seconds * 1e6 / records as f64);
            }
        }
    }
    Ok(vec![rate, cpu])
}

/// A fresh topic and a fresh group: records per second as Kafka's own tool counts them, and the broker's CPU seconds.
fn share(workshop: &Workshop, service: &Service, records: u64) -> Result<(f64, f64), String> {
    let target = service.target("shared", SHARED_PARTITIONS);
    workshop.create(target)?;
    let mut produce = workshop.on("produce", target);
    figures(produce.args(["--size", SHARED_RECORD_BYTES, "--records", &records.to_string()]))?;
    let group = format!("shared-{:x}", shell::unix_ms());
    workshop.configure(service, ("groups", &group), ("--add-config", "share.auto.offset.reset=earliest"))?;
    process::sync()?;
    let before = service.cpu_seconds()?;
    let mut tool = workshop.kafka(SHARE_TOOL, &["-Xmx512M"]);
    tool.args(["--bootstrap-server", &service.bootstrap, "--topic", target.topic, "--group", &group]);
    tool.args([
        "--num-records",
        &records.to_string(),
        "--threads",
        SHARERS,
        "--timeout",
        "30000",
        "--hide-header",
    ]);
    let printed = output(&mut tool)?;
    let cpu_seconds = service.cpu_seconds()? - before;
    workshop.delete(target)?;
    let rate =
        printed.lines().rev().find_map(|line| line.split(", ").nth(SHARE_TOOL_RATE)?.trim().parse().ok());
    Ok((rate.ok_or_else(|| format!("{SHARE_TOOL} printed no rate:\n{printed}"))?, cpu_seconds))
}
