//! Three clients on one broker: Ottla's own (`ottla bench`), librdkafka and Java's, with the same settings, taking turns.
//! What counts is the client's process: records per second, its CPU time from its start to its end, its largest own memory,
//! and how long a record takes to be acknowledged. The broker is the same one for all, idle in between, and each run has a
//! fresh topic. It never gives a client a setting that another one could have too and has not.

use super::broker::Site;
use super::figure::{Figure, Findings, Goal, Kind};
use super::options::{Durability, Options, Peer, Scale};
use super::process::{self, MemoryWatch};
use super::service::Service;
use super::tools::{Target, Workshop, figure, parse_figures};
use std::collections::HashMap;
use std::fmt;
use std::process::{Command, Stdio};

const PARTITIONS: u32 = 12;
/// Bytes of a value, and how many of them.
const LOADS: [(u64, u64); 2] = [(1024, 1_000_000), (100, 5_000_000)];
const QUICK_SHARE: u64 = 4;

/// At a steady rate.
const LATENCY_RATE: u64 = 2_000;
const LATENCY_BYTES: u64 = 1024;
const MANY_PARTITIONS: u32 = 1_000;
const MANY_RATE: u64 = 5_000;
/// Bytes of a value, and how many of them.
const MANY_LOAD: (u64, u64) = (1024, 500_000);
/// What the other programs do before they count.
const WARM_UP_SECONDS: u64 = 2;

/// Kafka's names are librdkafka's as well, as far as these go.
const PRODUCER: [&str; 5] =
    ["acks=all", "enable.idempotence=true", "linger.ms=5", "batch.size=131072", "compression.type=none"];
const STEADY_PRODUCER: [&str; 5] =
    ["acks=all", "enable.idempotence=true", "linger.ms=0", "batch.size=131072", "compression.type=none"];
const CONSUMER: [&str; 4] =
    ["fetch.min.bytes=1", "fetch.max.bytes=52428800", "max.partition.fetch.bytes=1048576", "check.crcs=true"];
/// librdkafka's name for `batch.size` has another one beside it, and its reader pauses for a second when it is ahead of the
/// application unless told otherwise, which no other client does.
const LIBRDKAFKA_PRODUCER: [&str; 1] = ["batch.num.messages=1000000"];
const LIBRDKAFKA_CONSUMER: [&str; 1] = ["fetch.queue.backoff.ms=1"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Client {
    Ottla,
    Librdkafka,
    Java,
}

impl Client {
    const ALL: [Self; 3] = [Self::Ottla, Self::Librdkafka, Self::Java];
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ottla => "Ottla",
            Self::Librdkafka => "librdkafka",
            Self::Java => "java",
        })
    }
}

/// What a client does.
#[derive(Clone, Copy)]
enum Task {
    Produce { bytes: u64, records: u64 },
    Consume { bytes: u64, records: u64 },
    Steady { rate: u64, seconds: u64 },
}

/// What one run of a client gave.
struct Run {
    figures: HashMap<String, f64>,
    cpu_seconds: f64,
    /// The largest, without what is mapped from files: programs differ in more than the client.
    own_mib: f64,
}

pub(crate) fn measure(workshop: &Workshop, options: &Options, findings: &mut Findings) -> Result<(), String> {
    let site = Site::prepare(workshop, Peer::Ottla, Durability::PageCache)?;
    let (broker, _) = site.start()?;
    let bench = Bench { workshop, options, service: broker.service() };
    for (bytes, records) in LOADS {
        let records = if options.scale == Scale::Quick { records / QUICK_SHARE } else { records };
        findings.add(&format!("clients, {bytes} B"), bench.throughput(bytes, records));
    }
    findings.add(&"clients, latency", bench.latency());
    findings.add(&"clients, memory", bench.memory());
    Ok(())
}

struct Bench<'a> {
    workshop: &'a Workshop,
    options: &'a Options,
    service: Service,
}

/// Ours beside each of the others: a figure for each.
struct Comparison {
    figures: [Figure; 2],
}

impl Comparison {
    /// What holds against librdkafka is a goal; Java's is shown beside it.
    fn new(kind: Kind, name: &str, goal: Goal) -> Self {
        let beside = |other: Client, goal| Figure::new(kind, format!("{name}, beside {other}"), goal);
        Self { figures: [beside(Client::Librdkafka, goal), beside(Client::Java, Goal::Shown)] }
    }

    fn push(&mut self, client: Client, value: f64) {
        let [librdkafka, java] = &mut self.figures;
        match client {
            Client::Ottla => {
                librdkafka.ours.0.push(value);
                java.ours.0.push(value);
            }
            Client::Librdkafka => librdkafka.theirs.0.push(value),
            Client::Java => java.theirs.0.push(value),
        }
    }
}

impl Bench<'_> {
    fn throughput(&self, bytes: u64, records: u64) -> Result<Vec<Figure>, String> {
        let name = format!("{bytes} B");
        let gib = (bytes * records) as f64 / (1_u64 << 30) as f64;
        let [mut produce_rate, mut consume_rate, mut produce_cpu, mut consume_cpu] = [
            (Kind::ClientProduceRate, Goal::ShareAtLeast(1.0)),
            (Kind::ClientConsumeRate, Goal::ShareAtLeast(1.0)),
            (Kind::ClientProduceCpu, Goal::ShareAtMost(1.0)),
            (Kind::ClientConsumeCpu, Goal::ShareAtMost(1.0)),
        ]
        .map(|(kind, goal)| Comparison::new(kind, &name, goal));
        for pair in 0..=self.options.pairs {
            for client in Client::ALL {
                let target = self.service.target("clients", PARTITIONS);
                self.workshop.create(target)?;
                process::sync()?;
                process::touch_memory(self.workshop.scratch(), bytes * records)?;
                let produced = self.run(client, target, Task::Produce { bytes, records })?;
                let consumed = self.run(client, target, Task::Consume { bytes, records })?;
                self.workshop.delete(target)?;
                // The broker's first pages and the machine's are nobody's.
                if pair == 0 {
                    continue;
                }
                for (run, rates, cpus, doing) in [
                    (&produced, &mut produce_rate, &mut produce_cpu, "produce"),
                    (&consumed, &mut consume_rate, &mut consume_cpu, "consume"),
                ] {
                    let rate = records as f64 / figure(&run.figures, "seconds")?;
                    let cpu = run.cpu_seconds / gib;
                    println!(
                        "{client} {doing} {name}: {rate:.0} records/s, {cpu:.2} CPU s/GiB, {:.0} MiB",
                        run.own_mib
                    );
                    rates.push(client, rate);
                    cpus.push(client, cpu);
                }
            }
        }
        let all = [produce_rate, consume_rate, produce_cpu, consume_cpu];
        Ok(all.into_iter().flat_map(|comparison| comparison.figures).collect())
    }

    fn latency(&self) -> Result<Vec<Figure>, String> {
        let task = Task::Steady { rate: LATENCY_RATE, seconds: self.options.latency_seconds };
        let kinds = [("ack_p50_ms", "p50", false), ("ack_p99_ms", "p99", true)];
        let mut latencies = kinds.map(|(_, name, is_goal)| {
            let goal = if is_goal { Goal::ShareAtMost(1.0) } else { Goal::Shown };
            Comparison::new(Kind::ClientLatency, &format!("{name} at {LATENCY_RATE}/s"), goal)
        });
        for pair in 0..=self.options.pairs {
            for client in Client::ALL {
                let run = self.fresh(client, PARTITIONS, task)?;
                if pair == 0 {
                    continue;
                }
                for ((key, name, _), latency) in kinds.iter().zip(&mut latencies) {
                    let ms = figure(&run.figures, key)?;
                    println!("{client} {name} at {LATENCY_RATE}/s: {ms:.3} ms");
                    latency.push(client, ms);
                }
            }
        }
        Ok(latencies.into_iter().flat_map(|comparison| comparison.figures).collect())
    }

    /// Of a process that produces and reads at a rate, and of one that produces as fast as it can and one that reads so.
    fn memory(&self) -> Result<Vec<Figure>, String> {
        let steady = Task::Steady { rate: MANY_RATE, seconds: self.options.latency_seconds };
        let names =
            [format!("both at {MANY_RATE}/s"), "producer, flat out".into(), "consumer, flat out".into()];
        let mut memory = names.clone().map(|name| {
            Comparison::new(
                Kind::ClientMemory,
                &format!("{MANY_PARTITIONS} partitions, {name}"),
                Goal::ShareAtMost(0.5),
            )
        });
        for _ in 0..self.options.pairs {
            for client in Client::ALL {
                let both = self.fresh(client, MANY_PARTITIONS, steady)?;
                let target = self.service.target("clients", MANY_PARTITIONS);
                self.workshop.create(target)?;
                let (bytes, records) = MANY_LOAD;
                let produced = self.run(client, target, Task::Produce { bytes, records })?;
                let consumed = self.run(client, target, Task::Consume { bytes, records })?;
                self.workshop.delete(target)?;
                for ((run, name), memory) in [both, produced, consumed].iter().zip(&names).zip(&mut memory) {
                    println!("{client}, {MANY_PARTITIONS} partitions, {name}: {:.1} MiB", run.own_mib);
                    memory.push(client, run.own_mib);
                }
            }
        }
        Ok(memory.into_iter().flat_map(|comparison| comparison.figures).collect())
    }

    fn fresh(&self, client: Client, partitions: u32, task: Task) -> Result<Run, String> {
        let target = self.service.target("clients", partitions);
        self.workshop.create(target)?;
        process::sync()?;
        let run = self.run(client, target, task);
        self.workshop.delete(target)?;
        run
    }

    fn run(&self, client: Client, target: Target<'_>, task: Task) -> Result<Run, String> {
        let mut command = match client {
            Client::Ottla => self.ottla(target, task),
            Client::Librdkafka => self.librdkafka(target, task),
            Client::Java => self.java(target, task),
        };
        let failed = |e: &dyn fmt::Display| format!("{client}: {e}");
        let before = process::children_cpu_seconds()?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(|e| failed(&e))?;
        let watch = MemoryWatch::begin(child.id());
        let output = child.wait_with_output().map_err(|e| failed(&e))?;
        let cpu_seconds = process::children_cpu_seconds()? - before;
        let own_mib = watch.end()?.anon_mib;
        if !output.status.success() {
            return Err(failed(&output.status));
        }
        let printed = String::from_utf8_lossy(&output.stdout);
        let figures = match client {
            Client::Ottla => ottla_figures(&printed)?,
            Client::Librdkafka | Client::Java => parse_figures(&printed),
        };
        Ok(Run { figures, cpu_seconds, own_mib })
    }

    fn ottla(&self, target: Target<'_>, task: Task) -> Command {
        let mut ottla = self.workshop.ottla();
        ottla.args(["bench", "--format", "json", "--brokers", target.bootstrap]);
        match task {
            Task::Produce { bytes, records } => {
                ottla.args(["produce", target.topic, "-p", "all", "--records", &records.to_string()]);
                ottla.args(["--size", &bytes.to_string()]);
                settings(&mut ottla, "-X", &[&PRODUCER]);
            }
            Task::Consume { records, .. } => {
                ottla.args(["consume", target.topic, "--records", &records.to_string()]);
                settings(&mut ottla, "-X", &[&CONSUMER[..3]]);
            }
            Task::Steady { rate, seconds } => {
                ottla.args(["end-to-end", target.topic, "-p", "all", "--rate", &rate.to_string()]);
                ottla.args(["--size", &LATENCY_BYTES.to_string()]);
                ottla.args(["--duration", &format!("{}s", seconds + WARM_UP_SECONDS)]);
                settings(&mut ottla, "-X", &[&STEADY_PRODUCER, &CONSUMER[..3]]);
            }
        }
        ottla
    }

    fn librdkafka(&self, target: Target<'_>, task: Task) -> Command {
        let (doing, sets): (_, &[&[&str]]) = match task {
            Task::Produce { .. } => ("produce", &[&PRODUCER, &LIBRDKAFKA_PRODUCER]),
            Task::Consume { .. } => ("consume", &[&CONSUMER, &LIBRDKAFKA_CONSUMER]),
            Task::Steady { .. } => {
                ("latency", &[&STEADY_PRODUCER, &LIBRDKAFKA_PRODUCER, &CONSUMER, &LIBRDKAFKA_CONSUMER])
            }
        };
        let mut load = self.workshop.on(doing, target);
        amounts(&mut load, task);
        // What the other side of the client does not know it warns of.
        settings(&mut load, "--set", sets);
        load.args(["--set", "log_level=3"]);
        load
    }

    fn java(&self, target: Target<'_>, task: Task) -> Command {
        let (doing, sets): (_, Vec<&str>) = match task {
            Task::Produce { .. } => ("produce", PRODUCER.to_vec()),
            Task::Consume { .. } => ("consume", CONSUMER.to_vec()),
            Task::Steady { .. } => ("latency", [&STEADY_PRODUCER[..], &CONSUMER].concat()),
        };
        let mut java = self.workshop.java_program("load");
        java.args(["--do", doing, "--bootstrap", target.bootstrap, "--topic", target.topic]);
        java.args(["--partitions", &target.partitions.to_string(), "--set", &sets.join(",")]);
        amounts(&mut java, task);
        java
    }
}

fn settings(command: &mut Command, flag: &str, sets: &[&[&str]]) {
    for setting in sets.iter().copied().flatten() {
        command.args([flag, setting]);
    }
}

fn amounts(command: &mut Command, task: Task) {
    match task {
        Task::Produce { bytes, records } | Task::Consume { bytes, records } => {
            command.args(["--size", &bytes.to_string(), "--records", &records.to_string()]);
        }
        Task::Steady { rate, seconds } => {
            command.args(["--size", &LATENCY_BYTES.to_string(), "--rate", &rate.to_string()]);
            command.args(["--seconds", &seconds.to_string()]);
        }
    }
}

/// Of the JSON that `ottla bench` prints, a member a line, the numbers that are compared.
fn ottla_figures(printed: &str) -> Result<HashMap<String, f64>, String> {
    let mut found = HashMap::new();
    let mut object = "";
    for line in printed.lines() {
        let Some((name, value)) = line.trim().trim_end_matches(',').split_once("\": ") else { continue };
        let name = name.trim_start_matches('"');
        match (object, name, value) {
            (_, _, "{") => object = if name == "latency_ms" { "latency_ms" } else { "" },
            ("latency_ms", "p50" | "p99", value) => {
                let value = value.parse().map_err(|_| format!("{line:?} is no figure"))?;
                found.insert(format!("ack_{name}_ms"), value);
            }
            (_, "seconds", value) => {
                found.insert(
                    "seconds".to_owned(),
                    value.parse().map_err(|_| format!("{line:?} is no figure"))?,
                );
            }
            _ => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::ottla_figures;

    #[test]
    fn the_figures_of_a_bench_are_read_from_its_json() {
        let printed = r#"{
  "bytes": 1,
  "delay_ms": {
    "p50": 7.0,
    "p99": 9.0
  },
  "histogram": [
    {
      "from_ms": 0.1,
      "records": 2
    }
  ],
  "latency_ms": {
    "max": 3.0,
    "p50": 1.5,
    "p99": 2.5,
    "p99.9": 2.9
  },
  "seconds": 10.25
}"#;
        let figures = ottla_figures(printed).expect("it is whole");
        assert_eq!(figures.len(), 3);
        assert_eq!((figures["ack_p50_ms"], figures["ack_p99_ms"], figures["seconds"]), (1.5, 2.5, 10.25));
    }
}
