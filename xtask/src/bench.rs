//! `cargo xtask bench`: Ottla beside Apache Kafka on this machine, under the same clients, in alternating runs.
//! A figure is the median of its runs with their range, and a comparison is made pair by pair, so that a machine that
//! slows down during the bench slows both down. It never tunes one side: both run with the settings they ship with.

mod options;
mod process;
mod tools;
mod service;
mod broker;
mod cluster;
mod probe;
mod question;
mod throughput;
mod receiver;
mod latency;
mod flood;
mod groups;
mod clients;
mod sink;
mod compaction;
mod lifecycle;
mod replicated;
mod transactions;
mod pulse;
mod failover;
mod scale;
mod growth;
mod figure;
mod report;
mod chart;
mod growth_chart;

use crate::arguments::Arguments;
use crate::shell;
use figure::Findings;
use options::{Options, Part};
use tools::Workshop;

const USAGE: &str = "\
usage: cargo xtask bench [options]

  --quick              a few cells, one or two pairs, two kills: about three minutes, and ten with clusters
  --parts LIST         of throughput, latency, lifecycle; cluster, which is replicated, failover, scale, growth; delivery,
                       which is transactions, groups, flood, compaction; clients; sink (default: all)
  --cells LIST         only cells whose name contains one of these, such as 1024B, 200p, java, librdkafka/100B/12p/flush
  --peer LIST          of ottla,kafka (default: both)
  --pairs N            how often both sides run, at most, if the time allows (default 3)
  --seconds N          how long a produce run should last (default 2)
  --kills N            how often a broker of a cluster is killed under each client (default 25; Kafka: a sixth)
  --minutes N          how long the throughput cells may take in all (default 13); each has at least one pair
  --binary PATH        an ottla that is already built (default: the release profile is built)
  --docs               put tables and charts into docs/benchmarks.md, of the chapters that were run
";

/// Runs what `args` ask for; an error is a bench that could not be carried out, not a missed target.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let Some(arguments) = Arguments::new(args, USAGE) else { return Ok(()) };
    let options = Options::read(arguments)?;
    let begin = shell::now();
    let workshop = Workshop::open(&options)?;
    let machine = process::Machine::look()?;
    println!("{machine}");

    let mut findings = Findings::default();
    for part in &options.parts {
        let outcome = match part {
            Part::Throughput => throughput::measure(&workshop, &options, &mut findings),
            Part::Latency => latency::measure(&workshop, &options, &mut findings),
            Part::Flood => flood::measure(&workshop, &options, &mut findings),
            Part::Lifecycle => lifecycle::measure(&workshop, &options, &mut findings),
            Part::Replicated => replicated::measure(&workshop, &options, &mut findings),
            Part::Transactions => transactions::measure(&workshop, &options, &mut findings),
            Part::Groups => groups::measure(&workshop, &options, &mut findings),
            Part::Compaction => compaction::measure(&workshop, &options, &mut findings),
            Part::Failover => failover::measure(&workshop, &options, &mut findings),
            Part::Scale => scale::measure(&workshop, &options, &mut findings),
            Part::Growth => growth::measure(&workshop, &options, &mut findings),
            Part::Clients => clients::measure(&workshop, &options, &mut findings),
            Part::Sink => sink::measure(&workshop, &options, &mut findings),
        };
        findings.add(part, outcome.map(|()| Vec::new()));
    }

    let title = format!(
        "{machine}, at most {} pairs, {:.0} minutes in all",
        options.pairs,
        begin.elapsed().as_secs_f64() / 60.0
    );
    report::print(&title, &findings.figures);
    report::write(&workshop, &options, &title, &findings.figures)?;
    if findings.failures.is_empty() {
        Ok(())
    } else {
        Err(format!("could not be measured:\n{}", findings.failures.join("\n")))
    }
}
