//! Leaders that die and leaders that move, under clients with default settings that send all the time.
//! A kill is counted from just before the signal until every partition that the broker led has acknowledged a record that was
//! due after the broker was gone, so that no answer of the dead one counts. A move's price is the longest time between two
//! acknowledgements of a partition that moved. Both sides run as they ship: Ottla flushes before it acknowledges.

use super::cluster::{Cluster, REPLICATION};
use super::figure::{Figure, Findings, Goal, Kind, Series};
use super::options::{Durability, Generator, Options, Peer};
use super::pulse::{self, Pulse};
use super::question;
use super::service::Service;
use super::tools::{Target, Workshop, figures, output};
use crate::shell;
use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Duration;

const TOPIC: &str = "pulse";
const PARTITIONS: u32 = 12;
/// Each partition has a record every 25 ms.
const RATE: u32 = 40 * PARTITIONS;
/// Kafka notices a dead broker after nine seconds, and its JVM takes as long to start again.
const KAFKA_KILLS_SHARE: usize = 6;
/// For each stop in order there are so many kills.
const KILLS_PER_STOP: usize = 3;
const ACKNOWLEDGED_WAIT_MAX: Duration = Duration::from_secs(120);
const QUESTION_WAIT_MAX: Duration = Duration::from_secs(5);
const LOOK_PAUSE: Duration = Duration::from_millis(5);
/// A client waits this long at most before it dials again a broker that was down: `reconnect.backoff.max.ms` of the Java client
/// with its jitter. A move is planned when all are well, which the client has to see too.
const RECONNECT_BACKOFF_MAX: Duration = Duration::from_millis(1_200);
const CLIENTS: [Generator; 2] = [Generator::Librdkafka, Generator::Java];

/// One client's rounds on one side.
#[derive(Default, Debug)]
struct Outcome {
    /// Seconds.
    kills: Series,
    /// Milliseconds.
    elections: Series,
    stops: Series,
    errors_after_kills: usize,
    errors_of_moves: usize,
}

pub(crate) fn measure(workshop: &Workshop, options: &Options, findings: &mut Findings) -> Result<(), String> {
    let mut outcomes = Vec::new();
    for peer in &options.peers {
        let durability = if *peer == Peer::Kafka { Durability::PageCache } else { Durability::Flush };
        let mut cluster = Cluster::start(workshop, *peer, durability)?;
        for client in CLIENTS {
            let mut outcome = Outcome::default();
            let rounds = Rounds { workshop, client, service: cluster.service() };
            let ended = rounds.run(&mut cluster, kills(*peer, options), &mut outcome);
            // What was measured before a failure is kept.
            findings.add(&format!("failover, {client}, {peer}"), ended.map(|()| Vec::new()));
            outcomes.push((*peer, client, outcome));
        }
    }
    findings.figures.extend(figures_of(&outcomes));
    Ok(())
}

fn kills(peer: Peer, options: &Options) -> usize {
    match peer {
        Peer::Ottla => options.kills,
        Peer::Kafka => options.kills.div_ceil(KAFKA_KILLS_SHARE),
    }
}

type Measured = (Peer, Generator, Outcome);
type SeriesOf = fn(&Outcome) -> &Series;
type ErrorsOf = fn(&Outcome) -> usize;

fn figures_of(outcomes: &[Measured]) -> Vec<Figure> {
    let kills: SeriesOf = |outcome| &outcome.kills;
    let of_kills = counts(outcomes, kills);
    let figure = |kind, name: String, goal, value: &dyn Fn(Peer) -> Option<f64>| {
        let mut figure = Figure::new(kind, name, goal);
        for peer in [Peer::Ottla, Peer::Kafka] {
            figure.side(peer).0.extend(value(peer));
        }
        figure
    };
    let mut figures = Vec::new();
    for (quantile, share, goal) in [("p50", 0.5, 1.5), ("p99", 0.99, 3.0)] {
        let value = |peer| all(outcomes, peer, &CLIENTS, kills).quantile(share);
        let name = format!("{quantile} of {of_kills} kills");
        figures.push(figure(Kind::Failover, name, Goal::AtMost(goal), &value));
    }
    for client in CLIENTS {
        for (quantile, share) in [("p50", 0.5), ("p99", 0.99)] {
            let value = |peer| all(outcomes, peer, &[client], kills).quantile(share);
            figures.push(figure(
                Kind::Failover,
                format!("{quantile} of those under {client}"),
                Goal::Shown,
                &value,
            ));
        }
    }
    let moves: [(&str, SeriesOf); 2] =
        [("preferred elections", |outcome| &outcome.elections), ("stops in order", |outcome| &outcome.stops)];
    for (what, series) in moves {
        let of_moves = counts(outcomes, series);
        for (quantile, share, goal) in [("p50", 0.5, Goal::Shown), ("p99", 0.99, Goal::AtMost(300.0))] {
            let value = |peer| all(outcomes, peer, &CLIENTS, series).quantile(share);
            figures.push(figure(Kind::Pause, format!("{quantile} of {of_moves} {what}"), goal, &value));
        }
    }
    let errors: [(&str, ErrorsOf); 2] = [
        ("leaders moved as planned", |outcome| outcome.errors_of_moves),
        ("leaders killed", |outcome| outcome.errors_after_kills),
    ];
    for (when, errors) in errors {
        let value = |peer| {
            let counts: Vec<usize> = of(outcomes, peer, &CLIENTS).map(errors).collect();
            (!counts.is_empty()).then(|| counts.iter().sum::<usize>() as f64)
        };
        figures.push(figure(Kind::Errors, when.to_owned(), Goal::AtMost(0.0), &value));
    }
    figures
}

fn of<'a>(
    outcomes: &'a [Measured],
    peer: Peer,
    clients: &'a [Generator],
) -> impl Iterator<Item = &'a Outcome> {
    let is_wanted = move |(of, client, _): &&Measured| *of == peer && clients.contains(client);
    outcomes.iter().filter(is_wanted).map(|(_, _, outcome)| outcome)
}

fn all(outcomes: &[Measured], peer: Peer, clients: &[Generator], series: SeriesOf) -> Series {
    Series(of(outcomes, peer, clients).flat_map(|outcome| series(outcome).0.iter().copied()).collect())
}

/// How often on each side, for the name of a figure.
fn counts(outcomes: &[Measured], series: SeriesOf) -> String {
    let count = |peer| all(outcomes, peer, &CLIENTS, series).0.len();
    match (count(Peer::Ottla), count(Peer::Kafka)) {
        (ours, 0) => ours.to_string(),
        (0, theirs) => theirs.to_string(),
        (ours, theirs) => format!("{ours} (Kafka: {theirs})"),
    }
}

struct Rounds<'a> {
    workshop: &'a Workshop,
    client: Generator,
    service: Service,
}

impl Rounds<'_> {
    fn run(&self, cluster: &mut Cluster<'_>, kills: usize, outcome: &mut Outcome) -> Result<(), String> {
        let target = self.target();
        self.workshop.delete(target)?;
        self.workshop.create(target)?;
        self.wait_until_in_sync()?;
        let home = self.leaders()?;
        let mut pulse = Pulse::start(self.workshop, self.client, target, RATE)?;
        let everywhere: BTreeSet<u32> = (0..PARTITIONS).collect();
        pulse.wait_for_each(&everywhere, 0, 0, ACKNOWLEDGED_WAIT_MAX)?;
        let victims: Vec<usize> = cluster.ids().cycle().take(kills).collect();
        for (round, victim) in victims.into_iter().enumerate() {
            let here = format!("{} of {kills}, {}, {}", round + 1, self.client, cluster.peer());
            self.killed(cluster, &mut pulse, victim, &here, outcome)?;
            self.moved_back(cluster, &mut pulse, &home, &here, outcome)?;
            if round % KILLS_PER_STOP == 0 {
                self.stopped(cluster, &mut pulse, victim, &here, outcome)?;
                self.moved_back(cluster, &mut pulse, &home, &here, outcome)?;
            }
            cluster.check_alive()?;
        }
        pulse.end()?;
        self.workshop.delete(target)
    }

    fn target(&self) -> Target<'_> {
        self.service.target(TOPIC, PARTITIONS)
    }

    /// kill -9 of a broker that leads some partitions, and its return.
    fn killed(
        &self,
        cluster: &mut Cluster<'_>,
        pulse: &mut Pulse,
        victim: usize,
        here: &str,
        outcome: &mut Outcome,
    ) -> Result<(), String> {
        let led = self.led_by(victim)?;
        let is_controller = active_controller(cluster)? == victim;
        let mark = pulse.mark();
        let begin = shell::unix_micros();
        cluster.kill(victim)?;
        let gone = shell::unix_micros();
        let first = pulse.wait_for_each(&led, mark, gone, ACKNOWLEDGED_WAIT_MAX)?;
        let last = first.values().max().copied().unwrap_or(begin);
        let seconds = (last - begin) as f64 / 1e6;
        outcome.kills.0.push(seconds);
        self.returned(cluster, victim)?;
        let errors = errors(pulse, mark);
        outcome.errors_after_kills += errors;
        let role = if is_controller { ", the controller," } else { "" };
        println!("kill {here}: broker {victim}{role} led {}, {seconds:.2} s, {errors} errors", led.len());
        Ok(())
    }

    /// SIGTERM of a broker that leads some partitions, and its return.
    fn stopped(
        &self,
        cluster: &mut Cluster<'_>,
        pulse: &mut Pulse,
        victim: usize,
        here: &str,
        outcome: &mut Outcome,
    ) -> Result<(), String> {
        let led = self.led_by(victim)?;
        let mark = self.mark_before(pulse, &led)?;
        let stopped = cluster.stop(victim)?;
        pulse.wait_for_each(&led, mark, shell::unix_micros(), ACKNOWLEDGED_WAIT_MAX)?;
        let beats = pulse.since(mark);
        let pause = pulse::longest_pause(&beats, &led).unwrap_or(0.0);
        outcome.stops.0.push(pause);
        self.returned(cluster, victim)?;
        let errors = errors(pulse, mark);
        outcome.errors_of_moves += errors;
        let seconds = stopped.as_secs_f64();
        println!("stop {here}: broker {victim} in {seconds:.2} s, pause {pause:.0} ms, {errors} errors");
        Ok(())
    }

    /// Leaders go back to where they were.
    fn moved_back(
        &self,
        cluster: &Cluster<'_>,
        pulse: &mut Pulse,
        home: &BTreeMap<u32, usize>,
        here: &str,
        outcome: &mut Outcome,
    ) -> Result<(), String> {
        let leaders = self.leaders()?;
        let away: BTreeSet<u32> = home.keys().copied().filter(|p| leaders.get(p) != home.get(p)).collect();
        if away.is_empty() {
            // The controller was faster.
            return Ok(());
        }
        let mark = self.mark_before(pulse, &away)?;
        let mut elect = self.workshop.ottla();
        elect.args(["cluster", "elect", TOPIC, "--brokers", &self.service.bootstrap]);
        output(&mut elect)?;
        let deadline = shell::now() + ACKNOWLEDGED_WAIT_MAX;
        while self.leaders()? != *home {
            if shell::now() > deadline {
                return Err(format!("{}: leaders do not go home: {home:?}", cluster.peer()));
            }
            thread::sleep(LOOK_PAUSE);
        }
        pulse.wait_for_each(&away, mark, shell::unix_micros(), ACKNOWLEDGED_WAIT_MAX)?;
        let beats = pulse.since(mark);
        let pause = pulse::longest_pause(&beats, &away).unwrap_or(0.0);
        outcome.elections.0.push(pause);
        let errors = errors(pulse, mark);
        outcome.errors_of_moves += errors;
        println!("election {here}: {} moved, pause {pause:.0} ms, {errors} errors", away.len());
        Ok(())
    }

    /// A place in the pulse behind which each of these partitions has an acknowledgement from before what comes now.
    fn mark_before(&self, pulse: &mut Pulse, partitions: &BTreeSet<u32>) -> Result<usize, String> {
        let mark = pulse.mark();
        pulse.wait_for_each(partitions, mark, shell::unix_micros(), ACKNOWLEDGED_WAIT_MAX)?;
        Ok(mark)
    }

    fn returned(&self, cluster: &mut Cluster<'_>, id: usize) -> Result<(), String> {
        cluster.launch(id)?;
        cluster.wait_until_ready(id)?;
        self.wait_until_in_sync()?;
        thread::sleep(RECONNECT_BACKOFF_MAX);
        Ok(())
    }

    fn led_by(&self, id: usize) -> Result<BTreeSet<u32>, String> {
        let led: BTreeSet<u32> =
            self.leaders()?.into_iter().filter(|(_, leader)| *leader == id).map(|(p, _)| p).collect();
        if led.is_empty() { Err(format!("the broker {id} leads nothing")) } else { Ok(led) }
    }

    fn leaders(&self) -> Result<BTreeMap<u32, usize>, String> {
        let printed = figures(&mut self.workshop.on("leaders", self.target()))?;
        let leaders = printed.iter().filter_map(|(name, leader)| {
            let partition = name.strip_prefix('p')?.parse().ok()?;
            Some((partition, *leader as usize))
        });
        Ok(leaders.collect())
    }

    fn wait_until_in_sync(&self) -> Result<(), String> {
        let mut wait = self.workshop.on("in-sync", self.target());
        output(wait.args(["--replication", &REPLICATION.to_string()])).map(drop)
    }
}

/// Waits until some broker knows.
fn active_controller(cluster: &Cluster<'_>) -> Result<usize, String> {
    let deadline = shell::now() + ACKNOWLEDGED_WAIT_MAX;
    loop {
        let asked =
            cluster.ids().map(|id| question::active_controller(cluster.address(id), QUESTION_WAIT_MAX));
        let mut last = String::new();
        for answer in asked {
            match answer {
                Ok(id) => return Ok(id),
                Err(error) => last = error.to_string(),
            }
        }
        if shell::now() > deadline {
            return Err(format!("{}: nobody knows the active controller: {last}", cluster.peer()));
        }
        thread::sleep(LOOK_PAUSE);
    }
}

fn errors(pulse: &Pulse, mark: usize) -> usize {
    let errors: Vec<String> = pulse.since(mark).into_iter().filter_map(|beat| beat.error).collect();
    if let Some(first) = errors.first() {
        println!("the application heard of {} errors, the first: {first}", errors.len());
    }
    errors.len()
}
