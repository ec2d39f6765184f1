//! `cargo xtask test`: everything CI runs, in stages, from nothing.
//! Cheap stages come first; a failed stage does not keep the others from telling what they know. The last line counts.

use crate::arguments::Arguments;
use crate::shell;
use crate::toolbox::{Kit, Toolbox};
use crate::{check, compat, crash, delivery, operations, sim, sink, streams};
use std::process::Command;

const USAGE: &str = "\
usage: cargo xtask test

Format, lints, licences, unit and integration tests, 2,000 simulated clusters and the bugs that such must find, release
build, every command of docs/operations.md and of docs/sink.md's first table, all real clients (5,000 records each),
Apache Kafka's tools for clusters, two crashes of a broker and three in a cluster, the known ways to doubled and lost
records, and a short round of Kafka Streams.
Client libraries are installed into .tools/ first.
";

type Stage = (&'static str, fn() -> Result<(), String>);

const STAGES: [Stage; 17] = [
    ("format", check::format),
    ("licences", check::licences),
    ("tools", tools),
    ("lint", check::lint),
    ("unit", unit),
    ("simulation", || sim::run(&[])),
    ("mutations", || sim::run(&words("--mutations"))),
    ("release build", || compat::ottla(None).map(|_| ())),
    ("operations", || operations::run(&[])),
    ("first table", || sink::run(&[])),
    ("clients", || compat::run(&words("--quick"))),
    ("tools of clusters", || compat::run(&words("--client cluster"))),
    ("crash", || crash::run(&words("--rounds 2"))),
    ("crash of a cluster", || crash::run(&words("--brokers 3 --rounds 3"))),
    ("delivery", || delivery::run(&words("--quick"))),
    ("delivery, kills", || delivery::run(&words("--kills 5"))),
    ("streams", || streams::run(&words("--rounds 1 --seconds 30"))),
];

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let Some(arguments) = Arguments::new(args, USAGE) else { return Ok(()) };
    arguments.finish()?;
    let begin = shell::now();
    let mut failures = Vec::new();
    let mut summary = Vec::new();
    for (name, stage) in STAGES {
        println!("\n=== {name}");
        let start = shell::now();
        let outcome = stage();
        let seconds = start.elapsed().as_secs_f64();
        let verdict = if outcome.is_ok() { "passed" } else { "FAILED" };
        if let Err(reason) = outcome {
            eprintln!("{name}: {reason}");
            failures.push(name);
        }
        println!("=== {name} {verdict} after {seconds:.0} s");
        summary.push(format!("{name:<18} {verdict} {seconds:>5.0} s"));
    }
    println!("\n{}\n{:.0} s in all", summary.join("\n"), begin.elapsed().as_secs_f64());
    println!("{} passed, {} failed", STAGES.len() - failures.len(), failures.len());
    if failures.is_empty() { Ok(()) } else { Err(format!("failed: {}", failures.join(", "))) }
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn tools() -> Result<(), String> {
    const ALL: [Kit; 8] =
        [Kit::Java, Kit::Streams, Kit::Python, Kit::Node, Kit::Go, Kit::Kcat, Kit::Stores, Kit::S3];
    Toolbox::install(&ALL).map(|_| ())
}

/// All tests of the workspace; the one that has Apache Kafka's dump tool read our files is told where its jars are.
fn unit() -> Result<(), String> {
    let toolbox = Toolbox::install(&[Kit::Java, Kit::Stores, Kit::S3])?;
    let mut command = Command::new("cargo");
    command
        .current_dir(shell::root())
        .args(["test", "--workspace", "--features", check::FEATURES, "--quiet", "--no-fail-fast"])
        .env("OTTLA_KAFKA_LIB", toolbox.jars());
    shell::run(&mut command)
}
