//! `ottla`: the broker and the command line in one binary.
//!
//! This file only starts things and turns the outcome into an exit code: 0 done, 1 failed, 2 used or configured
//! wrongly. What each command takes stands beside what it does, in the module of its name.

mod cli;
mod connect;
mod failure;
mod stop;
mod output;
mod format;
mod range;
mod node;
mod dev_cluster;
mod dev_sink;
mod topic;
mod produce;
mod consume;
mod audit;
mod bench;
mod group;
mod offsets;
mod txn;
mod quota;
mod sink;
mod sink_running;
mod sink_reset;
mod cluster;
mod completions;
mod reference;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Dev(args) => node::dev(args),
        Command::Start(args) => node::start(args),
        Command::Topic(args) => connect::run(topic::run(args)),
        Command::Produce(args) => connect::run(produce::run(args)),
        Command::Consume(args) => connect::run(consume::run(args)),
        Command::Audit(args) => connect::run(audit::run(args)),
        Command::Canary(args) => connect::run(audit::canary::run(args)),
        Command::Bench(args) => connect::run(bench::run(args)),
        Command::Group(args) => connect::run(group::run(args)),
        Command::Offsets(args) => connect::run(offsets::run(args)),
        Command::Txn(args) => connect::run(txn::run(args)),
        Command::Quota(args) => connect::run(quota::run(args)),
        Command::Sink(args) => connect::run(sink::run(args)),
        Command::Cluster(args) => connect::run(cluster::run(args)),
        Command::Completions(args) => completions::run(&args),
        Command::MarkdownHelp => reference::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
