//! `delivery`: a producer of known records, and readers of ours that deal with them in the ways that users do.
//!
//! `cargo xtask delivery` starts it, kills it, stops it and compares what it left behind with what was produced. It says what it
//! has come to on standard output, a line at a time, and ends when its standard input does. It is never shipped.

mod handler;
mod produce;
mod group;
mod store;

use std::io::Read as _;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use client::{Cluster, Error, Options, TokioEnvironment};
use tokio::sync::oneshot;

/// What goes wrong ends the program; who started it reads why.
type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Produces the numbers 0, 1, 2 and so on, each to the partition that is its rest.
    Produce(produce::Produce),
    /// Reads them, as one of a group whose offsets are the coordinator's, or with offsets in a store.
    Read(Read),
}

/// Where to, and the client's settings.
#[derive(Args)]
struct Connection {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    topic: String,
    /// A setting of the client under Kafka's name.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

impl Connection {
    fn options(&self) -> Result<Options, Failure> {
        let mut options = Options::default();
        options.set("bootstrap.servers", &self.bootstrap)?;
        for setting in &self.settings {
            let (key, value) = setting.split_once('=').ok_or_else(|| format!("{setting} is no KEY=VALUE"))?;
            options.set(key, value)?;
        }
        Ok(options)
    }
}

fn cluster(options: Options) -> Result<Cluster, Error> {
    Cluster::new(options, Arc::new(TokioEnvironment))
}

#[derive(Args)]
struct Read {
    #[command(flatten)]
    connection: Connection,
    /// Of the reader, and of its group.
    #[arg(long)]
    name: String,
    /// `file:PATH`, `postgres:ADDRESS` or `redis:ADDRESS`.
    #[arg(long)]
    into: String,
    /// Of the results in PostgreSQL.
    #[arg(long)]
    table: Option<String>,
    #[command(flatten)]
    habits: handler::Habits,
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    match Cli::parse().command {
        Command::Produce(produce) => produce.run().await,
        Command::Read(read) => match read.into.split_once(':') {
            Some(("file", path)) => group::run(&read, path).await,
            Some(("postgres", address)) => store::postgres(&read, address).await,
            Some(("redis", address)) => store::redis(&read, address).await,
            _ => Err(format!("{} is none of file:PATH, postgres:ADDRESS, redis:ADDRESS", read.into).into()),
        },
    }
}

/// When whoever started this wants it to end. A thread of its own waits for that, which nothing waits for in turn.
async fn input_ended() {
    let (ended, wait) = oneshot::channel();
    std::thread::spawn(move || {
        // What cannot be read has ended too.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        ended.send(())
    });
    // Whether the thread said so or is gone.
    let _ = wait.await;
}

/// Says what has come to pass.
fn say(what: impl std::fmt::Display) {
    println!("{what}");
}
