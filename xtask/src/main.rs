//! `cargo xtask`: the project's own commands. CI calls these and nothing else, so what passes here passes there.
//! It drives other programs and checks what they say; it links no crate of the workspace and knows the broker only as a
//! process with an address and a data directory.

mod arguments;
mod dice;
mod shell;
mod toolbox;
mod peer;
mod dev_cluster;
mod isolation;
mod program;
mod stores;
mod producers;
mod replicas;
mod verdict;
mod table;
mod mutations;
mod test;
mod check;
mod licences;
mod compat;
mod crash;
mod delivery;
mod streams;
mod sink;
mod chaos;
mod sim;
mod operations;
mod fuzz;
mod bench;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <command> [options]

  test     everything CI runs, from nothing: check, unit tests, a build, operations, real clients, crashes
  check    format, lints with warnings denied, licences of all dependencies
  compat   real clients, console tools and real input against the broker
  crash    kill -9 under load from three clients, again and again, and nothing acknowledged is lost
  delivery the known ways to doubled and lost records, with stock clients and ours; and a kill loop over everything
  streams  Kafka Streams, exactly once, while brokers and its own instances are killed
  sink     the first table of docs/sink.md, command by command, asked by DuckDB
  sink-chaos
           sinks with both lines while everything that they stand on is killed, paused, full or away; counted at the end
  sink-dataset
           real text through both lines of a sink that is killed on the way; the same text comes out
  sink-mutations
           bugs of the sink, one at a time, each of which a test of its crash points must find
  chaos    three brokers killed, paused, cut off, and without power, in random mixes; nothing acknowledged is lost
  sim      whole clusters in one thread, from seeds; the bugs that they must find
  operations
           every command of docs/operations.md against real processes
  fuzz     fuzz targets, for a while
  bench    side by side with Apache Kafka

`cargo xtask <command> --help` says more about each.
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match args.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", &[][..]),
    };
    let outcome = match command {
        "test" => test::run(rest),
        "check" => check::run(rest),
        "compat" => compat::run(rest),
        "crash" => crash::run(rest),
        "delivery" => delivery::run(rest),
        "streams" => streams::run(rest),
        "sink" => sink::run(rest),
        "sink-chaos" => sink::chaos(rest),
        "sink-dataset" => sink::dataset(rest),
        "sink-mutations" => sink::mutations(rest),
        "chaos" => chaos::run(rest),
        "sim" => sim::run(rest),
        "operations" => operations::run(rest),
        "fuzz" => fuzz::run(rest),
        "bench" => bench::run(rest),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        other => Err(format!("there is no command {other}\n\n{USAGE}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("\nxtask {command}: {reason}");
            ExitCode::FAILURE
        }
    }
}
