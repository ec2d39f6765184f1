//! A broker's life around its work: from process start to the first answer, what it then weighs, and how long after a
//! kill -9 2,000 partitions are served again.
//! "Ready" is an answer to ApiVersions; "served" is a leader for every partition and end offsets that lost nothing. The
//! records were acknowledged, on both sides with the flush that the side's default durability has.

use super::broker::Site;
use super::figure::{Figure, Findings, Goal, Kind, Series};
use super::options::{Durability, Options, Peer};
use super::process::Resident;
use super::tools::{Target, Workshop, figure, figures, output};
use crate::shell;
use std::thread;
use std::time::Duration;

const TOPICS: u32 = 20;
const PARTITIONS_PER_TOPIC: u32 = 100;
const RECORDS_PER_PARTITION: u32 = 10;
/// A started broker finishes its start-up work before its memory is read.
const SETTLE: Duration = Duration::from_millis(500);

pub(crate) fn measure(workshop: &Workshop, options: &Options, findings: &mut Findings) -> Result<(), String> {
    let figure = |kind, name: &str, goal| Figure {
        kind,
        name: name.to_owned(),
        ours: Series::default(),
        theirs: Series::default(),
        goal,
    };
    let mut ready = figure(Kind::Time, "start to ready, empty", Goal::AtMost(0.1));
    let mut resident = figure(Kind::Memory, "after start", Goal::AtMost(20.0));
    let mut restart_ready = figure(Kind::Time, "kill -9 to ready, 2,000 partitions", Goal::Shown);
    let mut restart_served = figure(Kind::Time, "kill -9 to served, 2,000 partitions", Goal::AtMost(5.0));

    for _ in 0..options.pairs {
        for peer in &options.peers {
            let (started, weight) = start_once(workshop, *peer)?;
            println!("start {peer}: ready in {started:.3} s, {weight:.1} MiB resident");
            ready.side(*peer).0.push(started);
            resident.side(*peer).0.push(weight);
        }
    }
    // Kept even if the restarts fail.
    findings.figures.extend([ready, resident]);
    for _ in 0..options.restarts {
        for peer in &options.peers {
            let (answered, served) = restart_once(workshop, *peer)?;
            println!("restart {peer}: ready in {answered:.2} s, 2,000 partitions served in {served:.2} s");
            restart_ready.side(*peer).0.push(answered);
            restart_served.side(*peer).0.push(served);
        }
    }
    findings.figures.extend([restart_ready, restart_served]);
    Ok(())
}

fn start_once(workshop: &Workshop, peer: Peer) -> Result<(f64, f64), String> {
    let site = Site::prepare(workshop, peer, Durability::Flush)?;
    let (broker, ready) = site.start()?;
    thread::sleep(SETTLE);
    let resident = Resident::of(broker.pid())?;
    Ok((ready.as_secs_f64(), resident.total_mib))
}

fn restart_once(workshop: &Workshop, peer: Peer) -> Result<(f64, f64), String> {
    // Kafka's default durability, for it would need minutes to fill 2,000 partitions with a flush each.
    let durability = if peer == Peer::Kafka { Durability::PageCache } else { Durability::Flush };
    let site = Site::prepare(workshop, peer, durability)?;
    let (broker, _) = site.start()?;
    let topics = TOPICS.to_string();
    let bootstrap = broker.bootstrap().to_owned();
    let target = Target { bootstrap: &bootstrap, topic: "restart", partitions: PARTITIONS_PER_TOPIC };
    output(workshop.on("create", target).args(["--topics", &topics]))?;
    let records = RECORDS_PER_PARTITION.to_string();
    output(workshop.on("fill", target).args(["--topics", &topics, "--size", "1024", "--records", &records]))?;
    broker.kill()?;

    let begin = shell::now();
    let (broker, ready) = site.start()?;
    let printed = figures(workshop.on("await", target).args(["--topics", &topics]))?;
    let served = begin.elapsed();
    // One partition of each topic is looked at.
    let expected = f64::from(TOPICS * RECORDS_PER_PARTITION);
    let found = figure(&printed, "records")?;
    if found != expected {
        return Err(format!("{peer}: {found} of {expected} acknowledged records after kill -9"));
    }
    broker.kill()?;
    Ok((ready.as_secs_f64(), served.as_secs_f64()))
}
