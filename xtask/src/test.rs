//! `cargo xtask test`: everything CI runs, in stages, from nothing.
//! Cheap stages come first; a failed stage does not keep the others from telling what they know. The last line counts.

use crate::arguments::Arguments;
use crate::shell;
use crate::toolbox::{Kit, Toolbox};
use crate::{check, compat, crash, delivery, operations, sim, sink, streams};
use std::process::Command;

const USAGE: &str = "\
usage: cargo xtask test

Format, lints, licences, unit and integration tests, 2,000 simulated clusters and the bugs that such must find, those that the
crash points of the sink must find, a build without debug assertions, every command of docs/operations.md and of docs/sink.md's first table, all real clients (5,000 records each),
Apache Kafka's tools for clusters, two crashes of a broker and three in a cluster, the known ways to doubled and lost
records, and a short round of Kafka Streams.
Client libraries are installed into .tools/ first.
";

type Stage = (&'static str, fn() -> Result<(), String>);

/// What the stages behind the build run: the release's code without the optimisation across crates, in half the time.
const PROFILE: &str = "trial";

const STAGES: [Stage; 18] = [
    ("format", check::format),
    ("licences", check::licences),
    ("tools", tools),
    ("lint", check::lint),
    ("unit", unit),
    ("simulation", || sim::run(&[])),
    ("mutations", || sim::run(&words("--mutations"))),
    ("mutations of the sink", || sink::mutations(&[])),
    ("build", build),
    ("operations", || operations::run(&built(""))),
    ("first table", || sink::run(&built(""))),
    ("clients", || compat::run(&built("--quick"))),
    ("tools of clusters", || compat::run(&built("--client cluster"))),
    ("crash", || crash::run(&built("--rounds 2"))),
    ("crash of a cluster", || crash::run(&built("--brokers 3 --rounds 3"))),
    ("delivery", || delivery::run(&built_both("--quick"))),
    ("delivery, kills", || delivery::run(&built_both("--kills 5"))),
    ("streams", || streams::run(&built("--rounds 1 --seconds 30"))),
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
        summary.push(format!("{name:<21} {verdict} {seconds:>5.0} s"));
    }
    println!("\n{}\n{:.0} s in all", summary.join("\n"), begin.elapsed().as_secs_f64());
    println!("{} passed, {} failed", STAGES.len() - failures.len(), failures.len());
    if failures.is_empty() { Ok(()) } else { Err(format!("failed: {}", failures.join(", "))) }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn build() -> Result<(), String> {
    let mut command = Command::new("cargo");
    command.current_dir(shell::root()).args(["build", "--quiet", "--profile", PROFILE]);
    shell::run(command.args(["-p", "ottla", "-p", "ottla-delivery"]))
}

/// Arguments, and the binary that was built.
fn built(text: &str) -> Vec<String> {
    [words(text), vec!["--binary".to_owned(), program("ottla")]].concat()
}

/// And the program of compat/rust.
fn built_both(text: &str) -> Vec<String> {
    [built(text), vec!["--program".to_owned(), program("delivery")]].concat()
}

fn program(name: &str) -> String {
    shell::target().join(PROFILE).join(name).display().to_string()
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
