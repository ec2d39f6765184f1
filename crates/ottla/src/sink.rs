//! `ottla sink`: topics into tables and topics, each record exactly once, and the proof of it.
//!
//! The declaration is read here and its problems are told with their place in the file; everything else is done by the `sink`
//! crate.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum};
use client::{Execution, Isolation, Options, TokioEnvironment};
use jiff::SignedDuration;
use serde_json::{Value, json};
use sink::{
    Compaction, Expiries, Expiry, Finding, Hold, Line, LocalFiles, Merges, Pace, RepairAction, Replayed,
    RunError, Settings, Verified, Which,
};
use wire::Offset;

use crate::connect::ConnectArgs;
use crate::failure::Failure;
use crate::output::{OutputArgs, Report, Style, print_json};
use crate::sink_reset::{self, ResetArgs};
use crate::sink_running::{self, BackfillArgs, HowArgs, PauseArgs, ResumeArgs};
use crate::stop::Stop;

/// Move topics into tables and topics, each record exactly once
#[derive(Debug, Args)]
#[command(after_help = "\
A declaration, sink.toml:
  name = \"orders\"                     # positions are kept under this name
  topics = [\"orders\"]
  [client]
  bootstrap.servers = \"127.0.0.1:9092\"
  [value]
  format = \"json\"                     # or text, or bytes
  fields = [{ name = \"id\", type = \"int64\", required = true }, { name = \"city\", type = \"string\" }]
  [offline]
  table = \"/data/orders\"              # Parquet files come under dt=YYYY-MM-DD/hour=HH
  roll_bytes = \"128MiB\"
  roll_age = \"10m\"
  [nearline]                          # one line or both
  topic = \"orders.out\"
  flush_age = \"500ms\"")]
pub(crate) struct SinkArgs {
    #[command(subcommand)]
    command: SinkCommand,
    /// The declaration
    #[arg(long, global = true, value_name = "FILE", default_value = "sink.toml")]
    config: PathBuf,
    /// This line alone, of those that are declared
    #[arg(long, global = true, value_enum)]
    line: Option<LineArg>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LineArg {
    /// Into the table
    Offline,
    /// Into the topic
    Nearline,
}

impl From<LineArg> for Line {
    fn from(line: LineArg) -> Self {
        match line {
            LineArg::Offline => Self::Offline,
            LineArg::Nearline => Self::Nearline,
        }
    }
}

#[derive(Debug, Subcommand)]
enum SinkCommand {
    Run(RunArgs),
    Backfill(BackfillArgs),
    Pause(PauseArgs),
    Resume(ResumeArgs),
    Reset(ResetArgs),
    Status(StatusArgs),
    Verify(VerifyArgs),
    Repair(RepairArgs),
    Compact(CompactArgs),
    Expire(ExpireArgs),
    #[command(subcommand)]
    Dlq(DlqCommand),
}

/// Look at the dead letters, and send them back
#[derive(Debug, Subcommand)]
enum DlqCommand {
    List(DlqListArgs),
    Replay(DlqReplayArgs),
}

/// Show the records that could not be converted, and why
#[derive(Debug, Args)]
struct DlqListArgs {}

/// Send the dead letters back to the topics and partitions that they came from
#[derive(Debug, Args)]
#[command(after_help = "\
Each is sent once, as it was before it became a letter, whatever is stopped when. They come behind
what is in their topics by now, and the sink takes them anew: correct the declaration before.")]
struct DlqReplayArgs {
    /// Show what would be sent, and send nothing
    #[arg(long)]
    dry_run: bool,
}

/// Read the topics into the table, the output topic or both, until told to stop
#[derive(Debug, Args)]
#[command(after_help = "\
Ctrl-C and SIGTERM commit what is in hand and end. Whatever else ends it, and wherever: the next run
goes on from what is durable, and the output has each record once. An error of one line ends the
other in order.

Several runs of one declaration share the partitions, each under a name of its own: `--instance a` and
`--instance b`, or one on each machine. What one leaves behind that dies, the others take over after
session.timeout.ms, 10 s unless [client] says otherwise. A second run under the same instance's name
takes over from the first at once, and the first one ends.

A record that cannot be converted ends it, with its place named and what came before it committed.
With [dead_letters] in the declaration it goes to the topic that is named there, once.")]
struct RunArgs {
    #[command(flatten)]
    how: HowArgs,
}

/// Show what is read, committed and in the output, and how far it is behind
#[derive(Debug, Args)]
#[command(after_help = "\
lag is in offsets from the committed position on, bytes about what they take on a broker's disk (their part
of the whole log), and seconds tells how long the first record of them has waited, where the brokers can tell. ahead is how many offsets this line has committed more than the other.
state says of a line that it is paused.")]
struct StatusArgs {}

/// Compare the table and the output topic with the log and each other: each record is there, once
#[derive(Debug, Args)]
#[command(after_help = "\
Reads the footers of all files, the offsets of all rows where the table has the column kafka_offset, and
the log; of the output topic all records, with their keys, values, headers and timestamps. What retention
has removed from the log or from the output topic is counted as passed, and rows that `ottla sink expire`
has removed from the table as expired. Where both lines have been, their offsets are compared, and the
values of a table whose format is bytes (common says where).

Exit code 0 when each record is there, once; 1 otherwise.")]
struct VerifyArgs {}

/// Rebuild positions that the store has lost from the table's own files
#[derive(Debug, Args)]
#[command(after_help = "\
The footer of each file says which range it belongs to, and how many files and rows that range has.
Where all ranges are there whole, one behind the other, the store is given their end. Gaps and
overlaps, ranges that are not whole, files of another cluster or topic, and a store that is ahead of
the table are refused with the file named, and nothing is changed then. An instance that runs ends
when one of its partitions is repaired.

Exit code 0 when nothing is refused; 1 otherwise.")]
struct RepairArgs {
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
}

/// Make larger files of a table's small ones, while lines go on writing
#[derive(Debug, Args)]
#[command(after_help = "\
In one directory, files of one partition that stand one behind the other become one, if all that is in
them is committed and their columns are the same. Who lists the directory finds the ones or the other; a
query that has listed it before may not find a file any more, and is to be asked again. A directory that
late records come into meanwhile stays as it is (disturbed), for the next time.

It may be killed at any moment: the next one removes what it has left. Files of another line, cluster or
topic are left alone and told, with exit code 1.")]
struct CompactArgs {
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
    /// How large files together may be that become one
    #[arg(long, value_name = "SIZE", default_value = "128MiB", value_parser = sink::parse_size)]
    target_bytes: u64,
    /// How long ago the hour or day of a directory must have ended
    #[arg(long, value_name = "AGE", default_value = "1h", value_parser = age)]
    older_than: i64,
}

/// Remove the hours or days of a table that are old enough, while lines go on writing
#[derive(Debug, Args)]
#[command(after_help = "\
A directory goes whole: who lists it finds all of its files or none. What goes is written down before,
in _sink beside the table, so that `ottla sink verify` and `ottla sink repair` take it for expired and
not for missing. A record that comes after that goes to its own hour and stays, until this is run again.

It may be killed at any moment: the next one goes on. A directory with something in it that is not the
line's is left alone and told, with exit code 1; so is one without a time.")]
struct ExpireArgs {
    /// How long ago the hour or day of a directory must have ended
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: i64,
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
}

/// Parses an age such as `1h` or `90d`, to milliseconds.
fn age(text: &str) -> Result<i64, String> {
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u32>().ok());
    let millis = match days {
        Some(days) => Some(i64::from(days) * 86_400_000),
        None => text.parse::<SignedDuration>().ok().and_then(|age| i64::try_from(age.as_millis()).ok()),
    };
    millis.filter(|&age| age >= 0).ok_or_else(|| format!("{text:?} is no age; 30m, 1h and 90d are"))
}

/// Reads a declaration.
pub(crate) fn read(config: &Path) -> Result<Settings, Failure> {
    let text = fs::read_to_string(config)
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}", config.display())))?;
    Settings::parse(&text).map_err(|error| Failure::usage(format!("{}: {error}", config.display())))
}

pub(crate) async fn run(args: SinkArgs) -> Result<(), Failure> {
    let SinkArgs { command, config, line, output, connect } = args;
    let settings = read(&config)?;
    let settings = match line.map(Line::from) {
        None => settings,
        Some(line) => settings
            .only(line)
            .ok_or_else(|| Failure::usage(format!("{} declares no [{line}]", config.display())))?,
    };
    match command {
        SinkCommand::Run(args) => work(&settings, &args.how, Pace::Live, output, &connect).await,
        SinkCommand::Backfill(args) => work(&settings, &args.how, Pace::Backfill, output, &connect).await,
        SinkCommand::Pause(PauseArgs {}) => hold(&settings, Hold::Pause, output, &connect).await,
        SinkCommand::Resume(ResumeArgs {}) => hold(&settings, Hold::Resume, output, &connect).await,
        SinkCommand::Reset(args) => reset(&settings, args, output, &connect).await,
        SinkCommand::Status(StatusArgs {}) => status(&settings, output, &connect).await,
        SinkCommand::Verify(VerifyArgs {}) => verify(&settings, output, &connect).await,
        SinkCommand::Repair(args) => repair(&settings, &args, output, &connect).await,
        SinkCommand::Compact(args) => compact(&settings, &args, output).await,
        SinkCommand::Expire(args) => expire(&settings, &args, output).await,
        SinkCommand::Dlq(command) => dlq(&settings, &command, output, &connect).await,
    }
}

/// The declaration's client settings, under what the command line says.
pub(crate) fn declared(settings: &Settings, options: &mut Options) {
    options.isolation_level = Isolation::ReadCommitted;
    for (key, value) in [
        // What an instance has in hand is soon written by another if it dies, and moves only if it has to.
        ("session.timeout.ms", "10000"),
        ("partition.assignment.strategy", "cooperative-sticky"),
    ] {
        options.set(key, value).expect("it is allowed");
    }
    for (key, value) in &settings.client {
        options.set(key, value).expect("the declaration was read with them");
    }
}

async fn work(
    settings: &Settings,
    how: &HowArgs,
    pace: Pace,
    output: OutputArgs,
    connect: &ConnectArgs,
) -> Result<(), Failure> {
    let mut stop = Stop::listen(false)?;
    let cluster = connect.cluster(|options| declared(settings, options)).await?;
    let done = sink_running::work(settings, cluster, how, pace, stop.asked()).await?;
    sink_running::report(done, output)
}

async fn hold(
    settings: &Settings,
    hold: Hold,
    output: OutputArgs,
    connect: &ConnectArgs,
) -> Result<(), Failure> {
    let cluster = connect.cluster(|options| declared(settings, options)).await?;
    sink_running::hold(settings, &cluster, hold, output).await
}

async fn reset(
    settings: &Settings,
    args: ResetArgs,
    output: OutputArgs,
    connect: &ConnectArgs,
) -> Result<(), Failure> {
    let cluster = connect.cluster(|options| declared(settings, options)).await?;
    sink_reset::run(settings, &cluster, args, output).await
}

async fn status(settings: &Settings, output: OutputArgs, connect: &ConnectArgs) -> Result<(), Failure> {
    let cluster = connect.cluster(|options| declared(settings, options)).await?;
    let offset = |offset: Option<Offset>| offset.map_or(Value::Null, |offset| offset.0.into());
    let seconds = |ms: Option<i64>| ms.map_or(Value::Null, |ms| (ms as f64 / 1000.0).into());
    let mut report = Report::new(&[
        "line",
        "topic",
        "partition",
        "read",
        "committed",
        "output",
        "log_end",
        "lag",
        "bytes",
        "seconds",
        "ahead",
        "frozen",
        "state",
    ]);
    for status in sink::status(settings, &cluster, Arc::new(LocalFiles)).await? {
        report.row(vec![
            status.line.name().into(),
            status.partition.topic.as_str().into(),
            status.partition.partition.0.into(),
            offset(status.read),
            offset(status.committed),
            offset(status.output),
            status.log_end.0.into(),
            status.lag.into(),
            status.lag_bytes.into(),
            seconds(status.lag_ms),
            status.ahead.into(),
            status.frozen.map_or(Value::Null, |range| range.to_string().into()),
            if status.is_paused { "paused".into() } else { Value::Null },
        ]);
    }
    output.print(&report.without_empty(&["bytes", "seconds", "ahead", "frozen", "state"]))
}

async fn verify(settings: &Settings, output: OutputArgs, connect: &ConnectArgs) -> Result<(), Failure> {
    let cluster = connect.cluster(|options| declared(settings, options)).await?;
    let all = sink::verify(settings, &cluster, Arc::new(LocalFiles)).await?;
    let is_clean = all.iter().all(Verified::is_clean);
    match output.style() {
        Style::Table => {
            output.print(&verified(&all))?;
            for finding in all.iter().flat_map(|verified| &verified.findings) {
                crate::output::print(&format!("{finding}\n"))?;
            }
            let sum = |of: fn(&Verified) -> u64| all.iter().map(of).sum::<u64>();
            let (missing, double) = (sum(|verified| verified.missing), sum(|verified| verified.double));
            crate::output::print(&format!("{missing} missing, {double} double\n"))?;
        }
        Style::Json => {
            let findings = all.iter().flat_map(|verified| &verified.findings);
            let findings: Vec<_> = findings
                .map(|finding| json!({ "place": finding.place, "problem": finding.problem }))
                .collect();
            let partitions = verified(&all).json();
            print_json(&json!({ "clean": is_clean, "partitions": partitions, "findings": findings }))?;
        }
    }
    if is_clean { Ok(()) } else { Err(Failure::Reported) }
}

async fn dlq(
    settings: &Settings,
    command: &DlqCommand,
    output: OutputArgs,
    connect: &ConnectArgs,
) -> Result<(), Failure> {
    if settings.dead_letters.is_none() {
        let problem = "the declaration has no dead letters: [dead_letters] with topic = \"TOPIC\" names them";
        return Err(Failure::usage(problem.to_owned()));
    }
    let cluster = connect.cluster(|options| declared(settings, options)).await?;
    let which = match command {
        DlqCommand::List(DlqListArgs {}) => Which::All,
        DlqCommand::Replay(DlqReplayArgs { dry_run: true }) => Which::Waiting,
        DlqCommand::Replay(DlqReplayArgs { dry_run: false }) => {
            let options = cluster.options().clone();
            let Replayed { sent, passed } =
                sink::replay(settings, options, Arc::new(TokioEnvironment)).await?;
            let mut report = Report::new(&["sent", "passed"]);
            report.row(vec![sent.into(), passed.into()]);
            return output.print(&report);
        }
    };
    let mut report = Report::new(&["topic", "partition", "offset", "message"]);
    for letter in sink::dead_letters(settings, &cluster, which).await? {
        report.row(vec![
            letter.partition.topic.as_str().into(),
            letter.partition.partition.0.into(),
            letter.offset.0.into(),
            letter.message.into(),
        ]);
    }
    output.print(&report)
}

fn verified(all: &[Verified]) -> Report {
    let mut report = Report::new(&[
        "line",
        "topic",
        "partition",
        "from",
        "to",
        "files",
        "rows",
        "letters",
        "records",
        "passed",
        "expired",
        "expired_to",
        "missing",
        "double",
        "common",
        "findings",
    ]);
    for one in all {
        report.row(vec![
            one.line.name().into(),
            one.partition.topic.as_str().into(),
            one.partition.partition.0.into(),
            one.committed.map_or(Value::Null, |range| range.start.0.into()),
            one.committed.map_or(Value::Null, |range| range.end.0.into()),
            one.files.into(),
            one.rows.into(),
            one.letters.into(),
            one.records.into(),
            one.passed.into(),
            if one.expired > 0 { one.expired.into() } else { Value::Null },
            one.expired_to.as_ref().map_or(Value::Null, |directory| directory.display().to_string().into()),
            one.missing.into(),
            one.double.into(),
            one.common.map_or(Value::Null, |range| range.to_string().into()),
            one.findings.len().into(),
        ]);
    }
    report.without_empty(&["expired", "expired_to", "common"])
}

async fn repair(
    settings: &Settings,
    args: &RepairArgs,
    output: OutputArgs,
    connect: &ConnectArgs,
) -> Result<(), Failure> {
    let cluster = connect.cluster(|options| declared(settings, options)).await?;
    let execution = if args.dry_run { Execution::Validate } else { Execution::Apply };
    let all = sink::repair(settings, &cluster, &TokioEnvironment, Arc::new(LocalFiles), execution).await?;
    let mut report = Report::new(&["topic", "partition", "stored", "frozen", "table", "action"]);
    let shown = |range: Option<String>| range.map_or(Value::Null, Value::from);
    for one in &all {
        let action = match one.action {
            RepairAction::Keep => "keep".to_owned(),
            RepairAction::Refuse => "refuse".to_owned(),
            RepairAction::Rebuild(range, frozen) => {
                let done = if one.is_done { "became" } else { "would become" };
                let last = frozen.map(|frozen| format!(", with {} frozen", frozen.range));
                format!("{done} {range}{}", last.unwrap_or_default())
            }
        };
        let stored = one.stored.map(|stored| format!("[{}, {})", stored.begun, stored.committed.next));
        let frozen = one.stored.and_then(|stored| stored.frozen).map(|frozen| frozen.range.to_string());
        report.row(vec![
            one.partition.topic.as_str().into(),
            one.partition.partition.0.into(),
            shown(stored),
            shown(frozen),
            shown(one.table.map(|range| range.to_string())),
            action.into(),
        ]);
    }
    let findings: Vec<_> = all.iter().flat_map(|one| &one.findings).collect();
    match output.style() {
        Style::Table => {
            output.print(&report.without_empty(&["frozen"]))?;
            for finding in &findings {
                crate::output::print(&format!("{finding}\n"))?;
            }
        }
        Style::Json => {
            let findings: Vec<_> = findings
                .iter()
                .map(|finding| json!({ "place": finding.place, "problem": finding.problem }))
                .collect();
            let is_refused = !findings.is_empty();
            print_json(&json!({ "refused": is_refused, "partitions": report.json(), "findings": findings }))?;
        }
    }
    if findings.is_empty() { Ok(()) } else { Err(Failure::Reported) }
}

async fn compact(settings: &Settings, args: &CompactArgs, output: OutputArgs) -> Result<(), Failure> {
    let execution = if args.dry_run { Execution::Validate } else { Execution::Apply };
    let compaction =
        Compaction { target_bytes: args.target_bytes, older_than_ms: args.older_than, execution };
    let Merges { merges, findings } =
        sink::compact(settings, &TokioEnvironment, Arc::new(LocalFiles), compaction).await?;
    let mut report = Report::new(&["directory", "file", "files", "rows", "bytes", "outcome"]);
    for merge in merges {
        report.row(vec![
            merge.directory.display().to_string().into(),
            merge.into.to_string().into(),
            merge.files.into(),
            merge.rows.into(),
            merge.bytes.into(),
            merge.outcome.name().into(),
        ]);
    }
    with_findings(&report, "merges", &findings, output)
}

async fn expire(settings: &Settings, args: &ExpireArgs, output: OutputArgs) -> Result<(), Failure> {
    let execution = if args.dry_run { Execution::Validate } else { Execution::Apply };
    let expiry = Expiry { older_than_ms: args.older_than, execution };
    let Expiries { directories, findings } =
        sink::expire(settings, &TokioEnvironment, Arc::new(LocalFiles), expiry).await?;
    let mut report = Report::new(&["directory", "files", "rows", "outcome"]);
    for one in directories {
        report.row(vec![
            one.directory.display().to_string().into(),
            one.files.into(),
            one.rows.into(),
            one.outcome.name().into(),
        ]);
    }
    with_findings(&report, "directories", &findings, output)
}

/// Shows what was done, and what was left alone.
fn with_findings(
    report: &Report,
    name: &str,
    findings: &[Finding],
    output: OutputArgs,
) -> Result<(), Failure> {
    match output.style() {
        Style::Table => {
            output.print(report)?;
            for finding in findings {
                crate::output::print(&format!("{finding}\n"))?;
            }
        }
        Style::Json => {
            let findings: Vec<_> = findings
                .iter()
                .map(|finding| json!({ "place": finding.place, "problem": finding.problem }))
                .collect();
            print_json(&json!({ name: report.json(), "findings": findings }))?;
        }
    }
    if findings.is_empty() { Ok(()) } else { Err(Failure::Reported) }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Client(error) => error.into(),
            error => Failure::failed(error.to_string()),
        }
    }
}
