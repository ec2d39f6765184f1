//! Many partitions on three brokers: how long after kill -9 of all three every partition is led again, and what so many
//! partitions in the metadata cost: the time without a controller after kill -9 of the active one, and memory.
//! Led is a partition whose leader has answered its end offset, and the ends must add up to all that was acknowledged. The
//! controller is back when a topic asked for through a broker that lives has been created: an answer that only it can give.

use super::cluster::{Cluster, REPLICATION, VOTERS};
use super::figure::{Figure, Findings, Goal, Kind};
use super::options::{Durability, Options, Peer, Scale};
use super::process::Resident;
use super::question;
use super::tools::{Target, Workshop, figure, figures, output};
use crate::shell;
use std::fs;
use std::thread;
use std::time::Duration;

const RECORDS_PER_PARTITION: u32 = 10;
const TOPIC: &str = "many";
/// A sum of 4,020 replicas on three brokers, and 4,000 of them on each.
const COLD_STARTS: [Layout; 2] =
    [Layout { topics: 10, partitions: 134 }, Layout { topics: 40, partitions: 100 }];
const COLD_START_SECONDS_MAX: f64 = 20.0;
const COLD_START_WAIT_SECONDS_MAX: &str = "600";

const METADATA_PARTITIONS: u32 = 100_000;
const METADATA_PARTITIONS_QUICK: u32 = 2_000;
const METADATA_TOPIC_PARTITIONS: u32 = 1_000;
/// What a log keeps open: the segment and two indexes.
const DESCRIPTORS_PER_LOG: u64 = 3;
/// Where three brokers may not open so many files, more of them share the logs; three of them vote all the same.
const BROKERS_MAX: usize = 24;
/// A JVM maps two indexes of each log, and the kernel allows 65,530 maps.
const KAFKA_PARTITIONS_MAX: u32 = 12_000;
const CONTROLLER_KILLS: usize = 9;
const CONTROLLER_KILLS_QUICK: usize = 2;
const CONTROLLER_SECONDS_MAX: f64 = 2.0;
const CONTROLLER_WAIT_MAX: Duration = Duration::from_secs(120);
const QUESTION_WAIT_MAX: Duration = Duration::from_secs(30);
const RETRY_PAUSE: Duration = Duration::from_millis(2);

#[derive(Clone, Copy)]
struct Layout {
    topics: u32,
    partitions: u32,
}

impl Layout {
    fn total(self) -> u32 {
        self.topics * self.partitions
    }
}

pub(crate) fn measure(workshop: &Workshop, options: &Options, findings: &mut Findings) -> Result<(), String> {
    let (layouts, metadata, kills) = match options.scale {
        Scale::Whole => (&COLD_STARTS[..], METADATA_PARTITIONS, CONTROLLER_KILLS),
        Scale::Quick => (&COLD_STARTS[..1], METADATA_PARTITIONS_QUICK, CONTROLLER_KILLS_QUICK),
    };
    for layout in layouts {
        let replicas = layout.total() * REPLICATION;
        let name = format!(
            "kill -9 of all three to all led, {} × {REPLICATION} = {replicas} replicas",
            layout.total()
        );
        let mut led = Figure::new(Kind::ManyTime, name, Goal::AtMost(COLD_START_SECONDS_MAX));
        for peer in &options.peers {
            match cold_start(workshop, *peer, *layout) {
                Ok(seconds) => {
                    println!("cold start {peer}: {replicas} replicas, all led after {seconds:.2} s");
                    led.side(*peer).0.push(seconds);
                }
                failed => findings.add(&led.name, failed.map(|_| Vec::new())),
            }
        }
        findings.figures.push(led);
    }
    let mut figures: Vec<Figure> = Vec::new();
    for peer in &options.peers {
        let mut clusters = vec![(VOTERS, feasible(*peer, metadata, VOTERS)?)];
        if *peer == Peer::Ottla && clusters[0].1 < metadata {
            clusters.extend((VOTERS + 1..=BROKERS_MAX).find_map(|brokers| {
                let room = feasible(*peer, metadata, brokers).ok()?;
                (room == metadata).then_some((brokers, room))
            }));
        }
        for (brokers, partitions) in clusters {
            let outcome = metadata_of(workshop, *peer, brokers, partitions, kills, &mut figures);
            let what = format!("{partitions} partitions on {brokers} brokers, {peer}");
            findings.add(&what, outcome.map(|()| Vec::new()));
        }
    }
    findings.figures.extend(figures);
    Ok(())
}

/// The figure of this name; both sides share it where they are of one size.
fn named(figures: &mut Vec<Figure>, kind: Kind, name: String, goal: Goal) -> &mut Figure {
    let is_it = |figure: &Figure| figure.kind == kind && figure.name == name;
    let at = figures.iter().position(is_it).unwrap_or_else(|| {
        figures.push(Figure::new(kind, name, goal));
        figures.len() - 1
    });
    &mut figures[at]
}

/// Seconds from the start of the first process until every partition is served.
fn cold_start(workshop: &Workshop, peer: Peer, layout: Layout) -> Result<f64, String> {
    // Kafka in its default durability: it would need minutes to fill so many partitions with a flush each.
    let durability = if peer == Peer::Kafka { Durability::PageCache } else { Durability::Flush };
    let mut cluster = Cluster::start(workshop, peer, durability)?;
    let service = cluster.service();
    let target = service.target(TOPIC, layout.partitions);
    let topics = layout.topics.to_string();
    output(workshop.creation(target).args(["--topics", &topics]))?;
    let records = RECORDS_PER_PARTITION.to_string();
    output(workshop.on("fill", target).args(["--topics", &topics, "--size", "1024", "--records", &records]))?;
    cluster.kill_all()?;

    let begin = shell::now();
    cluster.launch_all()?;
    let mut served = workshop.on("served", target);
    served.args(["--topics", &topics, "--wait", COLD_START_WAIT_SECONDS_MAX]);
    let printed = figures(&mut served)?;
    let seconds = begin.elapsed().as_secs_f64();
    let expected = f64::from(layout.total() * RECORDS_PER_PARTITION);
    let found = figure(&printed, "records")?;
    if found != expected {
        return Err(format!("{peer}: {found} of {expected} acknowledged records after a cold start"));
    }
    cluster.check_alive()?;
    Ok(seconds)
}

fn metadata_of(
    workshop: &Workshop,
    peer: Peer,
    brokers: usize,
    partitions: u32,
    kills: usize,
    figures: &mut Vec<Figure>,
) -> Result<(), String> {
    let size = format!("{partitions} partitions on {brokers} brokers");
    let mut cluster = Cluster::of(workshop, peer, Durability::Flush, brokers)?;
    let service = cluster.service();
    let before = own_kib(&service.pids)?;
    // One replica each: the controller's work is the same for each, and the logs are fewer.
    let target = Target { replication: 1, ..service.target(TOPIC, METADATA_TOPIC_PARTITIONS) };
    let topics = (partitions / METADATA_TOPIC_PARTITIONS).to_string();
    let begin = shell::now();
    output(workshop.creation(target).args(["--topics", &topics]))?;
    let created = begin.elapsed().as_secs_f64();
    named(figures, Kind::ManyTime, format!("to create {size}"), Goal::Shown).side(peer).0.push(created);
    let each = (own_kib(&service.pids)? - before) / f64::from(partitions) / service.pids.len() as f64;
    named(figures, Kind::ManyMemory, size.clone(), Goal::Shown).side(peer).0.push(each);
    println!("{peer}: {partitions} partitions created in {created:.1} s, {each:.2} KiB each on each broker");

    let name = format!("kill -9 of the active controller to the next change, {size}");
    for round in 0..kills {
        let seconds = controller_killed(&mut cluster, round)?;
        println!("controller of {peer} killed, {} of {kills}: {seconds:.2} s", round + 1);
        let goal = Goal::AtMost(CONTROLLER_SECONDS_MAX);
        named(figures, Kind::ManyTime, name.clone(), goal).side(peer).0.push(seconds);
    }
    cluster.check_alive()
}

/// Seconds from just before the signal until a broker that lives has had a topic created.
fn controller_killed(cluster: &mut Cluster<'_>, round: usize) -> Result<f64, String> {
    let victim = agreed_controller(cluster)?;
    let through = cluster.address(victim % VOTERS + 1);
    let begin = shell::now();
    cluster.kill(victim)?;
    loop {
        match question::create_topic(through, &format!("after-{round}"), QUESTION_WAIT_MAX) {
            Ok(()) => break,
            Err(error) if begin.elapsed() > CONTROLLER_WAIT_MAX => {
                return Err(format!("no controller after {CONTROLLER_WAIT_MAX:?}: {error}"));
            }
            Err(_) => thread::sleep(RETRY_PAUSE),
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    cluster.launch(victim)?;
    cluster.wait_until_ready(victim)?;
    Ok(seconds)
}

/// Waits until all who vote name the same one: who has just come back has caught up so far.
fn agreed_controller(cluster: &Cluster<'_>) -> Result<usize, String> {
    let deadline = shell::now() + CONTROLLER_WAIT_MAX;
    loop {
        let named: Vec<Option<usize>> = (1..=VOTERS)
            .map(|id| question::active_controller(cluster.address(id), QUESTION_WAIT_MAX).ok())
            .collect();
        match named[0] {
            Some(id) if named.iter().all(|other| *other == Some(id)) => return Ok(id),
            _ if shell::now() > deadline => return Err(format!("who is the controller: {named:?}")),
            _ => thread::sleep(RETRY_PAUSE),
        }
    }
}

fn own_kib(pids: &[u32]) -> Result<f64, String> {
    let each: Result<Vec<f64>, String> =
        pids.iter().map(|pid| Ok(Resident::of(*pid)?.anon_mib * 1024.0)).collect();
    Ok(each?.iter().sum())
}

/// As many partitions as so many brokers can have open, up to those wanted, in whole topics.
fn feasible(peer: Peer, wanted: u32, brokers: usize) -> Result<u32, String> {
    let logs = descriptors()? / 8 * 7 / DESCRIPTORS_PER_LOG * brokers as u64;
    let room = u32::try_from(logs).unwrap_or(u32::MAX).min(wanted);
    let room = if peer == Peer::Kafka { room.min(KAFKA_PARTITIONS_MAX) } else { room };
    Ok((room / METADATA_TOPIC_PARTITIONS * METADATA_TOPIC_PARTITIONS).max(METADATA_TOPIC_PARTITIONS))
}

/// Files that a process may have open at most; brokers raise their limit as far.
fn descriptors() -> Result<u64, String> {
    let path = "/proc/self/limits";
    let limits = fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let hard = line.and_then(|line| line.split_whitespace().nth(1)).ok_or("no limit of open files")?;
    Ok(hard.parse().unwrap_or(u64::MAX))
}
