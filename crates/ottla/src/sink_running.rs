//! A sink at work, for whoever has started it: what it is told with the command, its progress on a terminal, its metrics, and the
//! pause that holds it.
//!
//! What is decided here is how a run is shown and ended; what it does is the `sink` crate's.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use client::{Cluster, TokioEnvironment};
use serde_json::Value;
use sink::{Done, Hold, LineName, LocalFiles, Meter, Pace, Progress, Running, Settings, Until};
use tokio::time::{Instant, interval};

use crate::audit::page;
use crate::cluster::progress::Progress as Shown;
use crate::failure::Failure;
use crate::output::{OutputArgs, Report};

/// How often progress is shown on a terminal.
const SHOW_EVERY: Duration = Duration::from_millis(500);
/// And how often it is logged where there is none.
const LOG_EVERY: Duration = Duration::from_secs(30);

// Not said as a doc comment: it would become that of the commands.
// What `run` and `backfill` take.
#[derive(Debug, Args)]
pub(crate) struct HowArgs {
    /// End when everything is in the output that is there now
    #[arg(long)]
    pub(crate) until_end: bool,
    /// What this instance is called among those that share the partitions [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub(crate) instance: Option<LineName>,
    /// Read no more than this in a second, keys, values and headers of all lines together [default: what is declared]
    #[arg(long, value_name = "SIZE", value_parser = sink::parse_size)]
    pub(crate) throttle: Option<u64>,
    /// Serve metrics for Prometheus here
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) metrics: Option<String>,
}

/// Read the topics from their beginning with large files, and go on with what comes
#[derive(Debug, Args)]
#[command(after_help = "\
The same as run, but for two things. Partitions that the sink has never read are read from their
beginning, whatever `start` says. And up to where each partition ended when it was begun with, files are
closed by their size and not by their age; from there on as declared. There is no seam: it is one run
over one sequence of positions, and may be stopped, killed and followed by either command at any time.

--throttle leaves the brokers time for others: --throttle 10MiB is what is read in a second.")]
pub(crate) struct BackfillArgs {
    #[command(flatten)]
    pub(crate) how: HowArgs,
}

/// Hold the sink: what is in hand is committed, and nothing more is read until resume
#[derive(Debug, Args)]
#[command(after_help = "\
Holds every instance, wherever it runs, within some seconds, and those that are started later. They stay
what they are in the group, and say in their logs that they are paused. It is kept in the cluster, as an
offset of the group NAME.LINE.control, and does not depend on any instance. Twice is once.")]
pub(crate) struct PauseArgs {}

/// Let a sink go on that was paused
#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {}

/// Runs the lines until `stop`, with metrics and progress as they are wanted.
pub(crate) async fn work(
    settings: &Settings,
    cluster: Cluster,
    how: &HowArgs,
    pace: Pace,
    stop: impl Future<Output = ()>,
) -> Result<Vec<Done>, Failure> {
    let until = if how.until_end { Until::End } else { Until::Stopped };
    let (environment, files) = (Arc::new(TokioEnvironment), Arc::new(LocalFiles));
    let mut options = cluster.options().clone();
    drop(cluster);
    if let Some(instance) = &how.instance {
        options.group_instance_id = Some(instance.to_string());
    }
    options.group_instance_id.get_or_insert_with(host_name);
    let meter = Meter::watched();
    let _served = match &how.metrics {
        Some(address) => Some(serve(address, &settings.name, &meter).await?),
        None => None,
    };
    let running = Running { until, throttle: how.throttle, pace, meter: meter.clone() };
    let run = sink::run(settings, options, environment, files, running, stop);
    tokio::select! {
        done = run => Ok(done?),
        never = show(&meter) => match never {},
    }
}

/// What a run has done.
pub(crate) fn report(done: Vec<Done>, output: OutputArgs) -> Result<(), Failure> {
    let mut report = Report::new(&["line", "topic", "partition", "from", "to", "records", "letters"]);
    for done in done {
        report.row(vec![
            done.line.name().into(),
            done.partition.topic.as_str().into(),
            done.partition.partition.0.into(),
            done.from.0.into(),
            done.to.0.into(),
            done.records.into(),
            done.letters.into(),
        ]);
    }
    output.print(&report)
}

async fn serve(address: &str, name: &LineName, meter: &Meter) -> Result<page::Served, Failure> {
    let (name, meter) = (name.clone(), meter.clone());
    let (bound, served) = page::serve(address, move || meter.page(&name)).await?;
    eprintln!("metrics at http://{bound}/metrics");
    Ok(served)
}

/// Shows how far a run is, for ever: on a terminal all the time, and otherwise now and then in the log.
async fn show(meter: &Meter) -> Infallible {
    let (shown, mut progress, begun) = (Shown::new(), Progress::default(), Instant::now());
    let mut ticks = interval(if shown.is_seen() { SHOW_EVERY } else { LOG_EVERY });
    // The first one comes at once, with nothing to show.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let rows = progress.rows(meter, begun.elapsed());
        match shown.is_seen() {
            true => shown.show_rows(&rows),
            false => rows.iter().for_each(|row| tracing::info!("{}", row.trim())),
        }
    }
}

/// Pauses the lines, or lets them go on.
pub(crate) async fn hold(
    settings: &Settings,
    cluster: &Cluster,
    hold: Hold,
    output: OutputArgs,
) -> Result<(), Failure> {
    let said = |is_paused: bool| Value::from(if is_paused { "paused" } else { "going" });
    let mut report = Report::new(&["line", "before", "now"]);
    for held in sink::hold(settings, cluster, hold).await? {
        report.row(vec![held.line.name().into(), said(held.was_paused), said(held.is_paused)]);
    }
    output.print(&report)
}

/// What this machine calls itself, as far as it can be a part of ids.
pub(crate) fn host_name() -> String {
    let system = rustix::system::uname();
    let is_allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name: String = system.nodename().to_string_lossy().chars().filter(is_allowed).collect();
    if name.is_empty() { "host".to_owned() } else { name }
}
