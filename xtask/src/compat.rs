//! `cargo xtask compat`: unmodified clients against a broker over a socket, each record checked by content.
//! The programs (compat/) know nothing but an address, so a check that fails against Apache Kafka is itself wrong; this
//! file starts them, reads their report lines and says which log explains a failure.

mod client;
mod cluster;
mod console;
mod kcat;
mod mixed;
mod real_input;
mod suites;

pub(crate) use real_input::registry as text_sources;

use crate::arguments::Arguments;
use crate::dev_cluster::DevCluster;
use crate::peer::{Kind, Peer};
use crate::shell;
use crate::table::{Side, Table};
use crate::toolbox::{Kit, Toolbox};
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) const USAGE: &str = "\
usage: cargo xtask compat [options]

  --client LIST      some of java,confluent,kafka-python,aiokafka,kafkajs,franz-go,sarama,console,cluster,kcat,
                     mixed,real-input (default: all but cluster)
  --peer NAME        ottla (default) or kafka, the reference
  --brokers N        a cluster of so many of ours, instead of one broker
  --bootstrap LIST   brokers (host:port,...) that already run, instead of starting one
  --binary PATH      an ottla that is already built, instead of building the release profile
  --records N        per client (default 100000)
  --input-mb N       size of the real input (default 300)
  --quick            5000 records, 20 MB of real input
  --suites           instead: the own test suites of the crates rdkafka and rskafka
";

const BROKERS_MAX: u64 = 9;

/// What can be run, in the order in which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Java,
    Confluent,
    KafkaPython,
    Aiokafka,
    Kafkajs,
    FranzGo,
    Sarama,
    Console,
    Cluster,
    Kcat,
    /// Groups of our client, Java's and librdkafka's.
    Mixed,
    RealInput,
}

impl Part {
    const ALL: [Part; 12] = [
        Part::Java,
        Part::Confluent,
        Part::KafkaPython,
        Part::Aiokafka,
        Part::Kafkajs,
        Part::FranzGo,
        Part::Sarama,
        Part::Console,
        Part::Cluster,
        Part::Kcat,
        Part::Mixed,
        Part::RealInput,
    ];

    fn name(self) -> &'static str {
        match self {
            Part::Java => "java",
            Part::Confluent => "confluent",
            Part::KafkaPython => "kafka-python",
            Part::Aiokafka => "aiokafka",
            Part::Kafkajs => "kafkajs",
            Part::FranzGo => "franz-go",
            Part::Sarama => "sarama",
            Part::Console => "console",
            Part::Cluster => "cluster",
            Part::Kcat => "kcat",
            Part::Mixed => "mixed",
            Part::RealInput => "real-input",
        }
    }

    fn kits(self) -> &'static [Kit] {
        match self {
            Part::Java | Part::Console | Part::Cluster => &[Kit::Java],
            Part::Confluent | Part::KafkaPython | Part::Aiokafka => &[Kit::Python],
            Part::Kafkajs => &[Kit::Node],
            Part::FranzGo | Part::Sarama => &[Kit::Go],
            Part::Kcat => &[Kit::Kcat],
            Part::Mixed => &[Kit::Java, Kit::Kcat],
            Part::RealInput => &[Kit::Java, Kit::Python],
        }
    }

    fn program(self, toolbox: &Toolbox) -> Option<Command> {
        match self {
            Part::Java => {
                let mut command = toolbox.java();
                command.arg("compat.Main");
                Some(command)
            }
            Part::Confluent => Some(toolbox.python_program("confluent.py")),
            Part::KafkaPython => Some(toolbox.python_program("kafkapython.py")),
            Part::Aiokafka => Some(toolbox.python_program("aio.py")),
            Part::Kafkajs => Some(toolbox.node_program("kafkajs.js")),
            Part::FranzGo => Some(toolbox.go_program("franz")),
            Part::Sarama => Some(toolbox.go_program("sarama")),
            Part::Console | Part::Cluster | Part::Kcat | Part::Mixed | Part::RealInput => None,
        }
    }
}

/// One line of the report.
#[derive(Clone, Debug)]
struct Step {
    name: String,
    passed: bool,
    records: u64,
    bytes: u64,
    seconds: f64,
    note: String,
}

/// What every part is given.
struct Run<'a> {
    toolbox: &'a Toolbox,
    /// Of ours, where it is ours that runs.
    binary: PathBuf,
    bootstrap: String,
    /// Makes topic names unique, for brokers that live longer than one run.
    id: String,
    records: u64,
    input_mb: u64,
    logs: PathBuf,
}

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let Some(mut arguments) = Arguments::new(args, USAGE) else { return Ok(()) };
    let mut parts = parts(arguments.value("--client")?)?;
    let kafka = match arguments.value("--peer")?.as_deref() {
        None | Some("ottla") => false,
        Some("kafka") => true,
        Some(other) => return Err(format!("--peer is ottla or kafka, not {other}")),
    };
    let brokers = match arguments.number("--brokers", 1)? {
        brokers @ 1..=BROKERS_MAX => brokers as u16,
        other => return Err(format!("--brokers is 1 to {BROKERS_MAX}, not {other}")),
    };
    let bootstrap = arguments.value("--bootstrap")?;
    if brokers > 1 && (kafka || bootstrap.is_some()) {
        return Err(
            "--brokers starts brokers of ours: neither --peer kafka nor --bootstrap goes with it".to_owned()
        );
    }
    let binary = arguments.value("--binary")?.map(PathBuf::from);
    let quick = arguments.flag("--quick");
    let records = arguments.number("--records", if quick { 5_000 } else { 100_000 })?;
    let input_mb = arguments.number("--input-mb", if quick { 20 } else { 300 })?;
    let suites = arguments.flag("--suites");
    arguments.finish()?;
    if kafka || bootstrap.is_some() {
        // It starts three brokers of ours and kills them.
        parts.retain(|&part| part != Part::Cluster);
    }

    let mut kits: Vec<Kit> = Vec::new();
    if kafka {
        kits.push(Kit::Java);
    }
    for kit in parts.iter().filter(|_| !suites).flat_map(|part| part.kits()) {
        if !kits.contains(kit) {
            kits.push(*kit);
        }
    }
    let toolbox = Toolbox::install(&kits)?;
    let logs = shell::scratch(if suites { "suites" } else { "compat" })?;
    // A broker that already runs needs no binary; our client does.
    let needed = (!kafka && bootstrap.is_none()) || parts.contains(&Part::Mixed);
    let binary = if needed { ottla(binary)? } else { PathBuf::new() };
    let kind = if kafka { Kind::Kafka } else { Kind::Ottla { binary: binary.clone() } };
    if suites {
        return suites::run(&toolbox, &kind, bootstrap.as_deref(), &logs);
    }
    let mut under_test = match bootstrap {
        Some(bootstrap) => UnderTest::Foreign(bootstrap),
        None if brokers > 1 => UnderTest::Cluster(DevCluster::start(&binary, brokers, &logs)?),
        None => {
            let mut peer = Peer::new(kind, &logs.join("broker"), &[])?.with_two_disks();
            peer.start(&toolbox)?;
            UnderTest::One(peer)
        }
    };
    let bootstrap = under_test.bootstrap();
    let id = format!("{:x}", shell::unix_ms());
    let run = Run {
        toolbox: &toolbox,
        binary: binary.clone(),
        bootstrap,
        id,
        records,
        input_mb,
        logs: logs.clone(),
    };
    let outcome = run_parts(&run, &parts, &mut under_test);
    under_test.check()?;
    outcome
}

/// What the clients talk to.
enum UnderTest<'a> {
    One(Peer),
    Cluster(DevCluster<'a>),
    /// Brokers that somebody else has started.
    Foreign(String),
}

impl UnderTest<'_> {
    fn bootstrap(&self) -> String {
        match self {
            UnderTest::One(peer) => peer.bootstrap(),
            UnderTest::Cluster(cluster) => cluster.bootstrap(),
            UnderTest::Foreign(bootstrap) => bootstrap.clone(),
        }
    }

    /// An error if it has ended by itself.
    fn check(&mut self) -> Result<(), String> {
        match self {
            UnderTest::One(peer) => peer.check_alive(),
            UnderTest::Cluster(cluster) => cluster.check(),
            UnderTest::Foreign(_) => Ok(()),
        }
    }
}

/// The release binary, built if it was not given.
pub(crate) fn ottla(binary: Option<PathBuf>) -> Result<PathBuf, String> {
    if let Some(binary) = binary {
        return Ok(binary);
    }
    let mut command = Command::new("cargo");
    shell::run(command.current_dir(shell::root()).args(["build", "--release", "--quiet", "-p", "ottla"]))?;
    Ok(shell::target().join("release/ottla"))
}

fn parts(list: Option<String>) -> Result<Vec<Part>, String> {
    let Some(list) = list else {
        // It takes half as long as all others together, and is asked for by name.
        return Ok(Part::ALL.into_iter().filter(|&part| part != Part::Cluster).collect());
    };
    list.split(',')
        .map(|name| {
            let found = Part::ALL.into_iter().find(|part| part.name() == name);
            found.ok_or_else(|| format!("there is no client {name}; see --help"))
        })
        .collect()
}

fn run_parts(run: &Run<'_>, parts: &[Part], under_test: &mut UnderTest<'_>) -> Result<(), String> {
    let mut table = Table::new(&[
        ("client", Side::Left),
        ("step", Side::Left),
        ("records", Side::Right),
        ("MB", Side::Right),
        ("seconds", Side::Right),
        ("", Side::Left),
        ("", Side::Left),
    ]);
    let begin = shell::now();
    let mut failures = Vec::new();
    for &part in parts {
        let log = run.logs.join(format!("{}.log", part.name()));
        println!("{} ...", part.name());
        let (steps, outcome) = run_part(run, part, &log);
        for step in steps {
            table.row(vec![
                part.name().to_owned(),
                step.name,
                if step.records > 0 { step.records.to_string() } else { String::new() },
                if step.bytes > 0 { format!("{:.1}", step.bytes as f64 / 1e6) } else { String::new() },
                format!("{:.2}", step.seconds),
                if step.passed { "ok" } else { "FAIL" }.to_owned(),
                step.note,
            ]);
        }
        if let Err(reason) = outcome.and(under_test.check()) {
            println!("{} failed: {reason}", part.name());
            failures.push(format!("{}: {reason}; log: {}", part.name(), log.display()));
        }
    }
    println!();
    table.print();
    println!(
        "\n{} of {} clients passed in {:.0} s",
        parts.len() - failures.len(),
        parts.len(),
        begin.elapsed().as_secs_f64()
    );
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

fn run_part(run: &Run<'_>, part: Part, log: &Path) -> (Vec<Step>, Result<(), String>) {
    match (part.program(run.toolbox), part) {
        (Some(program), _) => client::run(run, program, log),
        (None, Part::Console) => in_steps(console::STEPS, |step| step(run, log)),
        (None, Part::Cluster) => cluster::run(run, log),
        (None, Part::Kcat) => in_steps(kcat::STEPS, |step| step(run, log)),
        (None, Part::Mixed) => in_steps(mixed::STEPS, |step| step(run, log)),
        (None, _) => in_steps(real_input::STEPS, |step| step(run, log)),
    }
}

/// What a step of ours does: records, bytes and a note, or what is wrong.
type StepOutcome = Result<(u64, u64, String), String>;
type StepFn = fn(&Run<'_>, &Path) -> StepOutcome;

/// Runs named steps in order, up to the first that fails.
fn in_steps<S>(
    steps: &[(&str, S)],
    mut run: impl FnMut(&S) -> StepOutcome,
) -> (Vec<Step>, Result<(), String>) {
    let mut done = Vec::new();
    for (name, step) in steps {
        let begin = shell::now();
        let outcome = run(step);
        let seconds = begin.elapsed().as_secs_f64();
        let passed = outcome.is_ok();
        let (records, bytes, note) = outcome.unwrap_or_else(|reason| (0, 0, reason));
        done.push(Step { name: (*name).to_owned(), passed, records, bytes, seconds, note: note.clone() });
        if !passed {
            return (done, Err(format!("{name}: {note}")));
        }
    }
    (done, Ok(()))
}
