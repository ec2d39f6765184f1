//! The matrix: records as fast as one client produces them, then as fast as it reads them, in every cell.
//! Both brokers of a durability run side by side, warmed by the same load, and take turns; the one that waits is idle. Each
//! run has a fresh topic and clean pages. CPU is counted on the broker from before the client starts until it has ended.

use super::broker::{Broker, Site};
use super::figure::{Figure, Findings, Goal, Kind, Series};
use super::options::{Cell, Durability, Generator, Options, Peer};
use super::process::{self, MemoryWatch};
use super::receiver::{self, Recording};
use super::service::Service;
use super::tools::{Load, Rate, Target, Workshop};
use crate::shell;
use std::time::Instant;

/// Produced and consumed three times on each side before anything counts, mostly for the JVM's sake.
const WARM_UP: Load = Load { record_bytes: 1024, records: 200_000 };
const CELL_BYTES_MIN: f64 = 4e6;
const CELL_BYTES_MAX: f64 = 1e9;
const TRIAL_BYTES_MAX: u64 = 256 << 20;
const TRIAL_GROWTH: u64 = 8;
const TRIAL_SECONDS_MIN: f64 = 0.7;
const TOPIC: &str = "bench";

pub(crate) fn measure(workshop: &Workshop, options: &Options, findings: &mut Findings) -> Result<(), String> {
    for durability in Durability::BOTH {
        let is_wanted = |cell: &Cell| cell.durability == durability && cell.replication == 1;
        let cells: Vec<Cell> = options.cells.iter().copied().filter(is_wanted).collect();
        if cells.is_empty() {
            continue;
        }
        let mut sites = Vec::new();
        for peer in &options.peers {
            sites.push(Site::prepare(workshop, *peer, durability)?);
        }
        let mut brokers = Vec::new();
        for site in &sites {
            let (broker, _) = site.start()?;
            warm_up(workshop, &broker.service())?;
            brokers.push(broker);
        }
        let services: Vec<Service> = brokers.iter().map(Broker::service).collect();
        let watches: Vec<MemoryWatch> = brokers.iter().map(|b| MemoryWatch::begin(b.pid())).collect();
        for cell in cells {
            let single = options.cells.iter().filter(|cell| cell.replication == 1).count();
            let deadline = shell::now() + options.throughput_wait_max / single as u32;
            findings.add(&cell, Bench { workshop, options, cell, deadline }.measure(&services));
        }
        findings.figures.extend(memory(durability, &brokers, watches)?);
    }
    Ok(())
}

pub(super) fn warm_up(workshop: &Workshop, service: &Service) -> Result<(), String> {
    let target = service.target("warm-up", 12);
    workshop.create(target)?;
    // Java comes last: its consumer's group makes the broker create its offsets topic.
    for generator in [Generator::Librdkafka, Generator::Librdkafka, Generator::Java] {
        workshop.produce(generator, target, WARM_UP)?;
        workshop.consume(generator, target, WARM_UP)?;
    }
    workshop.delete(target)
}

/// The largest resident memory of each broker while all cells of one durability ran.
fn memory(
    durability: Durability,
    brokers: &[Broker],
    watches: Vec<MemoryWatch>,
) -> Result<[Figure; 2], String> {
    let figure = |what: &str, goal| Figure {
        kind: Kind::Memory,
        name: format!("{what} under load, {durability}"),
        ours: Series::default(),
        theirs: Series::default(),
        goal,
    };
    let mut figures = [figure("own (RssAnon)", Goal::AtMost(100.0)), figure("mapped (RssFile)", Goal::Shown)];
    for (broker, watch) in brokers.iter().zip(watches) {
        let peak = watch.end()?;
        for (figure, mib) in figures.iter_mut().zip([peak.anon_mib, peak.file_mib]) {
            figure.side(broker.peer()).0.push(mib);
        }
    }
    Ok(figures)
}

pub(super) struct Bench<'a> {
    pub(super) workshop: &'a Workshop,
    pub(super) options: &'a Options,
    pub(super) cell: Cell,
    /// No pair begins after this, apart from the first.
    pub(super) deadline: Instant,
}

/// How a trial reaches its broker.
#[derive(Clone, Copy)]
enum Way {
    Direct,
    Recorded,
}

/// What one run of one side gave.
struct Run {
    produce: Rate,
    produce_cpu: f64,
    consume: Rate,
    consume_cpu: f64,
}

impl Bench<'_> {
    pub(super) fn measure(&self, services: &[Service]) -> Result<Vec<Figure>, String> {
        for service in services {
            // Only there if the cell before failed.
            self.workshop.delete(self.target(service))?;
        }
        let (loads, recording) = self.plan(services)?;
        let name = self.cell.to_string();
        let figure = |kind, goal| Figure {
            kind,
            name: name.clone(),
            ours: Series::default(),
            theirs: Series::default(),
            goal,
        };
        let [mut produce_cpu, mut consume_cpu, mut produce_rate, mut consume_rate] =
            match self.cell.replication {
                1 => [
                    figure(Kind::ProduceCpu, Goal::ShareAtMost(1.0 / 3.0)),
                    figure(Kind::ConsumeCpu, Goal::ShareAtMost(1.0 / 3.0)),
                    figure(Kind::ProduceRate, Goal::ShareAtLeast(1.0)),
                    figure(Kind::ConsumeRate, Goal::ShareAtLeast(1.0)),
                ],
                _ => [
                    figure(Kind::ClusterProduceCpu, Goal::ShareAtMost(1.0 / 3.0)),
                    figure(Kind::ClusterConsumeCpu, Goal::Shown),
                    figure(Kind::ClusterProduceRate, Goal::Shown),
                    figure(Kind::ClusterConsumeRate, Goal::Shown),
                ],
            };
        let mut machine = figure(Kind::AgainstTheMachine, Goal::ShareAtMost(1.5));
        for pair in 0..self.options.pairs {
            if pair > 0 && shell::now() > self.deadline {
                break;
            }
            for (service, load) in services.iter().zip(&loads) {
                let run = self.run(service, *load)?;
                let peer = service.peer;
                println!(
                    "{name} {peer}: produce {:.2} CPU s/GiB {:.0} MB/s, consume {:.2} CPU s/GiB {:.0} MB/s",
                    run.produce_cpu, run.produce.mb_per_s, run.consume_cpu, run.consume.mb_per_s
                );
                produce_cpu.side(peer).0.push(run.produce_cpu);
                consume_cpu.side(peer).0.push(run.consume_cpu);
                produce_rate.side(peer).0.push(run.produce.mb_per_s);
                consume_rate.side(peer).0.push(run.consume.mb_per_s);
                if peer == Peer::Ottla {
                    machine.ours.0.push(run.produce_cpu);
                }
            }
            if let (Some(recording), Some(load)) = (&recording, loads.first()) {
                process::sync()?;
                process::touch_memory(self.workshop.scratch(), load.bytes())?;
                let cpu = receiver::receive(self.workshop, recording, self.cell.durability, *load)?;
                println!("{name} receiver: {cpu:.2} CPU s/GiB");
                machine.theirs.0.push(cpu);
            }
        }
        let mut figures = vec![produce_cpu, consume_cpu, produce_rate, consume_rate];
        figures.extend(recording.map(|_| machine));
        Ok(figures)
    }

    /// A trial on each side says how many records keep that side busy for as long as asked: CPU time is counted in steps
    /// of 10 ms, so a fast side must not be given a slow side's few megabytes. librdkafka's trial on the first side is
    /// recorded on the way, for the receiver.
    fn plan(&self, services: &[Service]) -> Result<(Vec<Load>, Option<Recording>), String> {
        let record_bytes = self.cell.record_bytes;
        let mut loads = Vec::with_capacity(services.len());
        let mut recording = None;
        for service in services {
            let way = match (&recording, self.cell.generator, self.cell.replication) {
                (None, Generator::Librdkafka, 1) => Way::Recorded,
                _ => Way::Direct,
            };
            let (rate, recorded) = self.trial(service, way)?;
            recording = recording.or(recorded);
            let bytes = (rate.mb_per_s * 1e6 * self.options.seconds).clamp(CELL_BYTES_MIN, CELL_BYTES_MAX);
            loads.push(Load { record_bytes, records: bytes as u64 / record_bytes });
        }
        Ok((loads, recording))
    }

    /// Starts small and grows until a run lasts long enough for its rate to mean something.
    fn trial(&self, service: &Service, way: Way) -> Result<(Rate, Option<Recording>), String> {
        let target = self.target(service);
        let record_bytes = self.cell.record_bytes;
        // Java's first second is slow whatever the broker does.
        let mut bytes = match (self.cell.generator, self.cell.durability) {
            (Generator::Librdkafka, _) => 4 << 20,
            (Generator::Java, Durability::Flush) => 16 << 20,
            (Generator::Java, Durability::PageCache) => 64 << 20,
        };
        loop {
            let load = Load { record_bytes, records: bytes / record_bytes };
            self.workshop.create(target)?;
            self.touch_memory(load)?;
            let (rate, recording) = match way {
                Way::Direct => (self.workshop.produce(self.cell.generator, target, load)?, None),
                Way::Recorded => {
                    let (rate, recording) = receiver::record(self.workshop, target, load)?;
                    (rate, Some(recording))
                }
            };
            self.workshop.delete(target)?;
            let seconds = load.bytes() as f64 / (rate.mb_per_s * 1e6);
            if seconds >= TRIAL_SECONDS_MIN || bytes >= TRIAL_BYTES_MAX {
                return Ok((rate, recording));
            }
            bytes *= TRIAL_GROWTH;
        }
    }

    fn run(&self, service: &Service, load: Load) -> Result<Run, String> {
        let target = self.target(service);
        let generator = self.cell.generator;
        self.workshop.create(target)?;
        process::sync()?;
        self.touch_memory(load)?;
        let before = service.cpu_seconds()?;
        let produce = self.workshop.produce(generator, target, load)?;
        let between = service.cpu_seconds()?;
        let consume = self.workshop.consume(generator, target, load)?;
        let after = service.cpu_seconds()?;
        self.workshop.delete(target)?;
        Ok(Run {
            produce,
            produce_cpu: (between - before) / load.gib(),
            consume,
            consume_cpu: (after - between) / load.gib(),
        })
    }

    fn touch_memory(&self, load: Load) -> Result<(), String> {
        process::touch_memory(self.workshop.scratch(), load.bytes() * u64::from(self.cell.replication))
    }

    fn target<'s>(&self, service: &'s Service) -> Target<'s> {
        service.target(TOPIC, self.cell.partitions)
    }
}
