//! A broker's life around its work: from process start to the first answer, what it then weighs, how long after a kill -9
//! 2,000 partitions are served again, and how long they take to stop in order and to start after that.
//! "Ready" is an answer to ApiVersions; "served" is a leader for every partition and end offsets that lost nothing. The
//! records were acknowledged, on both sides with the flush that the side's default durability has.

use super::broker::Site;
use super::figure::{Figure, Findings, Goal, Kind, Series};
use super::options::{Durability, Options, Peer};
use super::process::Resident;
use super::tools::{Workshop, figure, figures, output};
use crate::shell;
use std::fmt;
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

    let mut stopped = figure(Kind::Time, "SIGTERM to gone, 2,000 partitions", Goal::AtMost(2.0));
    let mut clean_served = figure(Kind::Time, "start to served after that", Goal::Shown);

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
    // Their data stays until the end: ext4 makes files slowly where many have just been removed.
    let mut sites = Vec::new();
    for _ in 0..options.restarts {
        for peer in &options.peers {
            let (restart, site) = restart_once(workshop, *peer)?;
            sites.push(site);
            println!("restart {peer}: {restart}");
            restart_ready.side(*peer).0.push(restart.killed_ready);
            restart_served.side(*peer).0.push(restart.killed_served);
            stopped.side(*peer).0.push(restart.stopped);
            clean_served.side(*peer).0.push(restart.clean_served);
        }
    }
    findings.figures.extend([restart_ready, restart_served, stopped, clean_served]);
    Ok(())
}

fn start_once(workshop: &Workshop, peer: Peer) -> Result<(f64, f64), String> {
    let site = Site::prepare(workshop, peer, Durability::Flush)?;
    let (broker, ready) = site.start()?;
    thread::sleep(SETTLE);
    let resident = Resident::of(broker.pid())?;
    Ok((ready.as_secs_f64(), resident.total_mib))
}

/// Seconds of one broker's restarts.
struct Restart {
    killed_ready: f64,
    killed_served: f64,
    stopped: f64,
    clean_served: f64,
}

impl fmt::Display for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { killed_ready, killed_served, stopped, clean_served } = self;
        write!(
            f,
            "after kill -9 ready in {killed_ready:.2} s, 2,000 partitions served in {killed_served:.2} s; \
             stopped in {stopped:.2} s, served again in {clean_served:.2} s"
        )
    }
}

fn restart_once(workshop: &Workshop, peer: Peer) -> Result<(Restart, Site<'_>), String> {
    // Kafka in its default durability: it would need minutes to fill 2,000 partitions with a flush each.
    let durability = if peer == Peer::Kafka { Durability::PageCache } else { Durability::Flush };
    let site = Site::prepare(workshop, peer, durability)?;
    let (broker, _) = site.start()?;
    let topics = TOPICS.to_string();
    let service = broker.service();
    let target = service.target("restart", PARTITIONS_PER_TOPIC);
    output(workshop.on("create", target).args(["--topics", &topics]))?;
    let records = RECORDS_PER_PARTITION.to_string();
    output(workshop.on("fill", target).args(["--topics", &topics, "--size", "1024", "--records", &records]))?;
    broker.kill()?;

    let serve = || {
        let begin = shell::now();
        let (broker, ready) = site.start()?;
        let printed = figures(workshop.on("await", target).args(["--topics", &topics]))?;
        let served = begin.elapsed();
        // One partition of each topic is looked at.
        let expected = f64::from(TOPICS * RECORDS_PER_PARTITION);
        let found = figure(&printed, "records")?;
        if found != expected {
            return Err(format!("{peer}: {found} of {expected} acknowledged records after a restart"));
        }
        Ok((broker, ready.as_secs_f64(), served.as_secs_f64()))
    };
    let (broker, killed_ready, killed_served) = serve()?;
    let stopped = broker.stop()?.as_secs_f64();
    let (broker, _, clean_served) = serve()?;
    broker.kill()?;
    Ok((Restart { killed_ready, killed_served, stopped, clean_served }, site))
}
