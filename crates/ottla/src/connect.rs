//! How commands reach a cluster: the arguments they share, and the runtime they run on.
//!
//! An address that nobody answers at is reported at once; only then do operations try again.

use std::future::Future;
use std::io::IsTerminal;
use std::sync::Arc;

use clap::Args;
use client::{Cluster, Options, TokioEnvironment};
use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// Arguments of every command that talks to a cluster.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectArgs {
    /// Brokers to start from, HOST:PORT,… [default: 127.0.0.1:9092]
    #[arg(
        short,
        long,
        global = true,
        env = "OTTLA_BROKERS",
        value_name = "ADDRESSES",
        hide_env_values = true
    )]
    brokers: Option<String>,
    /// Client setting under Kafka's name, such as brokers=HOST:PORT or request.timeout.ms=5000 (repeatable)
    #[arg(short = 'X', global = true, value_name = "KEY=VALUE", value_parser = key_value)]
    settings: Vec<(String, String)>,
}

impl ConnectArgs {
    /// The client's settings: the commands' defaults, `adjust`, then what the user set.
    pub(crate) fn options(&self, adjust: impl FnOnce(&mut Options)) -> Result<Options, Failure> {
        let mut options = Options::default();
        // A person waits, and a misspelt name must not become a topic.
        options.set("default.api.timeout.ms", "20000")?;
        options.set("socket.connection.setup.timeout.ms", "5000")?;
        options.set("allow.auto.create.topics", "false")?;
        adjust(&mut options);
        if let Some(brokers) = &self.brokers {
            options.set("bootstrap.servers", brokers)?;
        }
        for (key, value) in &self.settings {
            options.set(key, value)?;
        }
        Ok(options)
    }

    /// A cluster that has answered.
    pub(crate) async fn cluster(&self, adjust: impl FnOnce(&mut Options)) -> Result<Cluster, Failure> {
        let cluster = self.unreached_cluster(adjust)?;
        cluster.reach().await?;
        Ok(cluster)
    }

    /// A cluster that nobody has spoken with yet, for commands that have something to say when it does not answer.
    pub(crate) fn unreached_cluster(&self, adjust: impl FnOnce(&mut Options)) -> Result<Cluster, Failure> {
        Ok(Cluster::new(self.options(adjust)?, Arc::new(TokioEnvironment))?)
    }
}

/// Parses `KEY=VALUE`.
pub(crate) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some(("", _)) => Err(format!("{text:?} has no key before the =")),
        Some((key, value)) => Ok((key.trim().to_owned(), value.to_owned())),
        None => Err(format!("{text:?} has no =; write KEY=VALUE")),
    }
}

/// Runs a client command to its end.
pub(crate) fn run(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let filter = EnvFilter::try_from_env("OTTLA_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .finish();
    // Nothing else sets one in this process.
    let _ = tracing::subscriber::set_global_default(subscriber);
    // The second thread keeps heartbeats going while the first one waits to write to a slow reader.
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start: {error}")))?
        .block_on(command)
}
