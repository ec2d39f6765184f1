//! `ottla dev` and `ottla start`: one broker in this process, until a signal stops it.
//!
//! The two differ in what they presume and in nothing else: `dev` brings settings for one node on one machine, all
//! of which can be overridden; `start` takes what it is given. Settings that cannot be honoured end the command
//! with exit code 2 before anything is opened.

use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use broker::clock::SystemClock;
use broker::logging::{self, LogFormat};
use broker::network::TcpNetwork;
use broker::settings::{Settings, Sources};
use broker::{Node, NodeOptions, StartError};
use clap::Args;
use storage::RealDisk;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::dev_cluster;
use crate::dev_sink;
use crate::failure::Failure;
use crate::output;
use crate::sink;
use crate::stop::Stop;

pub(crate) const DEV_LISTEN: &str = "127.0.0.1:9092";
pub(crate) const DEV_ADMIN: &str = "127.0.0.1:9644";

pub(crate) const DEV_DATA_DIR: &str = "ottla-data";

/// Run one broker, or a cluster of them, for development, with nothing to configure
#[derive(Debug, Args)]
#[command(after_help = "\
Durable like any other broker: what was acknowledged is still there after kill -9. Logging: OTTLA_LOG=debug.

Examples:
  ottla dev
  ottla dev --data-dir /tmp/ottla --listen 127.0.0.1:19092 --admin 127.0.0.1:19644
  ottla dev --listen 127.0.0.1:0 --admin 127.0.0.1:0      # any free ports; the banner tells which
  ottla dev --brokers 3          # a cluster: ports 9092 to 9094, kill -9 any of them and look
  ottla dev --sink sink.toml     # and a sink; [client] bootstrap.servers is this broker then
  ottla dev --set num.partitions=12 --set auto.create.topics.enable=false")]
pub(crate) struct DevArgs {
    /// Where files are kept [default: ottla-data in this directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Where Kafka clients are answered [default: 127.0.0.1:9092]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Option<String>,
    /// Where /livez, /readyz and /metrics are served [default: 127.0.0.1:9644]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) admin: Option<String>,
    /// Number of brokers, each a process of its own: a cluster on this machine [ports: one after the other]
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(crate) brokers: u16,
    /// The declaration of a sink to run beside it; topics that are not there are made
    #[arg(long, value_name = "FILE", conflicts_with = "brokers")]
    sink: Option<PathBuf>,
    /// Be one of several: no banner, and stop when standard input ends
    #[arg(long, hide = true)]
    child: bool,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// Run a broker with settings from a file, the environment and flags
#[derive(Debug, Args)]
#[command(after_help = "\
Settings have Kafka's names. A flag wins over the environment (KAFKA_LOG_DIRS for log.dirs), the environment over the
file. SIGTERM and SIGINT stop the broker cleanly. Logging: OTTLA_LOG=debug.

Examples:
  ottla start --config server.properties
  ottla start --config server.properties --set log.dirs=/var/lib/ottla --log-format json")]
pub(crate) struct StartArgs {
    /// A server.properties file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CommonArgs {
    /// Broker setting under Kafka's name (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Log lines for people (text) or programs (json)
    #[arg(long, default_value = "text", value_name = "text|json", value_parser = log_format)]
    pub(crate) log_format: LogFormat,
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    text.parse().map_err(|error: logging::LoggingError| error.to_string())
}

impl CommonArgs {
    fn load(&self, sources: Sources) -> Result<Settings, Failure> {
        let sources = sources.environment(
            std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        );
        let sources = self.set.iter().fold(sources, |sources, assignment| sources.set(assignment));
        Settings::load(sources).map_err(|error| Failure::usage(error.to_string()))
    }
}

/// `ottla dev`.
pub(crate) fn dev(args: DevArgs) -> Result<(), Failure> {
    if args.brokers > 1 {
        return dev_cluster::run(&args);
    }
    let sink = args.sink.as_deref().map(sink::read).transpose()?;
    let mut sources = Sources::new()
        .preset("node.id", "1")
        .preset("log.dirs", DEV_DATA_DIR)
        .preset("listeners", format!("PLAINTEXT://{DEV_LISTEN}"))
        .preset("admin.listener", DEV_ADMIN)
        // A group of one program need not wait for others to arrive.
        .preset("group.initial.rebalance.delay.ms", "0");
    let flags = [
        ("log.dirs", args.data_dir.map(|dir| dir.display().to_string())),
        ("listeners", args.listen.map(|listen| format!("PLAINTEXT://{listen}"))),
        ("admin.listener", args.admin),
    ];
    for (key, value) in flags {
        if let Some(value) = value {
            sources = sources.set(&format!("{key}={value}"));
        }
    }
    let settings = args.common.load(sources)?;
    let announce =
        if args.child { |ready: &Ready| output::print(&format!("{}\n", ready.after_ms)) } else { banner };
    run(settings, args.common.log_format, "warn", args.child, sink, announce)
}

/// `ottla start`.
pub(crate) fn start(args: StartArgs) -> Result<(), Failure> {
    let settings = args.common.load(Sources::new().properties_file(&args.config))?;
    run(settings, args.common.log_format, "info", false, None, |ready| {
        let admin = ready.admin.map_or_else(|| "none".to_owned(), |admin| admin.to_string());
        let ready_ms = u64::try_from(ready.after_ms).unwrap_or(u64::MAX);
        tracing::info!(kafka = %ready.kafka, admin, ready_ms, "ready");
        Ok(())
    })
}

/// A node that answers.
struct Ready {
    kafka: SocketAddr,
    admin: Option<SocketAddr>,
    data_dir: PathBuf,
    after_ms: u128,
}

fn run(
    settings: Settings,
    log_format: LogFormat,
    log_filter: &str,
    is_child: bool,
    sink: Option<::sink::Settings>,
    announce: impl FnOnce(&Ready) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let filter = std::env::var("OTTLA_LOG").unwrap_or_else(|_| log_filter.to_owned());
    logging::init(log_format, &filter).map_err(|error| Failure::usage(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start: {error}")))?;
    runtime.block_on(async {
        let begun = Instant::now();
        for notice in settings.notices() {
            tracing::warn!("{notice}");
        }
        let data_dirs: Vec<String> =
            settings.log_dirs().iter().map(|dir| dir.display().to_string()).collect();
        let data_dir = PathBuf::from(data_dirs.join(","));
        // Before the node, so that no signal is missed from the first byte on disk on.
        let mut stop = Stop::listen(is_child)?;
        let options = NodeOptions {
            settings,
            disk: Arc::new(RealDisk),
            clock: Arc::new(SystemClock),
            environment: Arc::new(client::TokioEnvironment),
            network: Arc::new(TcpNetwork),
        };
        let node = tokio::select! {
            started = Node::start(options) => started.map_err(refused)?,
            // It may wait for others, for as long as they are not there.
            () = stop.asked() => return Err(Failure::failed("stopped before it was ready".to_owned())),
        };
        let ready = Ready {
            kafka: node.kafka_addr(),
            admin: node.admin_addr(),
            data_dir,
            after_ms: begun.elapsed().as_millis(),
        };
        let announced = announce(&ready);
        let mut outcome = Ok(());
        if announced.is_ok() {
            let (end_sink, sink_ends) = oneshot::channel::<()>();
            let beside = beside(sink.as_ref(), ready.kafka, async { drop(sink_ends.await) });
            tokio::pin!(beside);
            tokio::select! {
                () = stop.asked() => {
                    tracing::info!("stopping");
                    drop(end_sink);
                    if sink.is_some() {
                        // While there is a broker for it to commit to.
                        outcome = beside.await;
                    }
                }
                message = node.failed() => {
                    tracing::error!("{message}: stopping");
                    outcome = Err(Failure::failed(message.to_owned()));
                }
                ended = &mut beside => outcome = ended,
            }
        }
        let stopped = node.shutdown().await;
        announced?;
        outcome?;
        stopped.map_err(|error| Failure::failed(format!("the broker did not stop cleanly: {error}")))?;
        tracing::info!("stopped in order");
        Ok(())
    })
}

/// A sink beside the broker, if one is wanted.
async fn beside(
    sink: Option<&::sink::Settings>,
    broker: SocketAddr,
    stop: impl Future<Output = ()>,
) -> Result<(), Failure> {
    match sink {
        Some(settings) => dev_sink::run(settings, broker, stop).await,
        None => std::future::pending().await,
    }
}

/// What the operator has to change is exit code 2, what the machine did is 1.
fn refused(error: StartError) -> Failure {
    let message = error.to_string();
    match error {
        StartError::DataDir(_) | StartError::NoMetadata { .. } | StartError::MetadataElsewhere { .. } => {
            Failure::usage(message)
        }
        StartError::Listen { error, .. } => {
            let advice = match error.kind() {
                ErrorKind::AddrInUse => {
                    "another program has the address; listeners and admin.listener choose others"
                }
                _ => {
                    "listeners and admin.listener name addresses of this machine; advertised.listeners is for others"
                }
            };
            Failure::Usage { message, advice: Some(advice.to_owned()) }
        }
        _ => Failure::failed(message),
    }
}

fn banner(ready: &Ready) -> Result<(), Failure> {
    // As it was called: under `cargo run` there is no `ottla` on the path.
    let program = std::env::args().next().filter(|program| program.contains('/'));
    output::print(&banner_text(ready, program.as_deref().unwrap_or("ottla")))
}

fn banner_text(ready: &Ready, program: &str) -> String {
    let Ready { kafka, admin, data_dir, after_ms } = ready;
    let version = env!("CARGO_PKG_VERSION");
    let admin = match admin {
        Some(admin) => format!("  admin    http://{admin}  (/livez, /readyz, /metrics)\n"),
        None => String::new(),
    };
    let brokers = match kafka.to_string() == DEV_LISTEN {
        true => String::new(),
        false => format!(" -b {kafka}"),
    };
    let data_dir = data_dir.display();
    format!(
        "\
ottla {version}, ready after {after_ms} ms

  kafka    {kafka}
{admin}  data     {data_dir}

Try, in another terminal:
  {program} topic create greetings -p 3{brokers}
  echo hello | {program} produce greetings{brokers}
  {program} consume greetings -n 1{brokers}

Ctrl-C stops it.
"
    )
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::{Ready, banner_text};

    #[test]
    fn the_banner_tells_where_it_is_and_what_to_try() {
        let ready = Ready {
            kafka: "127.0.0.1:9092".parse().unwrap(),
            admin: Some("127.0.0.1:9644".parse().unwrap()),
            data_dir: "ottla-data".into(),
            after_ms: 12,
        };
        let text = banner_text(&ready, "ottla").replace(env!("CARGO_PKG_VERSION"), "VERSION");
        expect![[r#"
            ottla VERSION, ready after 12 ms

              kafka    127.0.0.1:9092
              admin    http://127.0.0.1:9644  (/livez, /readyz, /metrics)
              data     ottla-data

            Try, in another terminal:
              ottla topic create greetings -p 3
              echo hello | ottla produce greetings
              ottla consume greetings -n 1

            Ctrl-C stops it.
        "#]]
        .assert_eq(&text);
        let elsewhere = Ready { kafka: "127.0.0.1:19092".parse().unwrap(), admin: None, ..ready };
        assert!(banner_text(&elsewhere, "ottla").contains("produce greetings -b 127.0.0.1:19092\n"));
    }
}
