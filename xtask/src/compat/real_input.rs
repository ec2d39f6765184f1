//! Real text, not a generator's: the lines of the Rust sources that cargo has downloaded go through the Java console
//! producer (gzip) into six partitions, and librdkafka reads them. The count of lines and bytes and an order-independent
//! digest must agree.

use super::{Run, StepFn, StepOutcome};
use crate::shell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

pub(super) const STEPS: &[(&str, StepFn)] = &[("pipe in", pipe_in), ("read back", read_back)];

fn topic(run: &Run<'_>) -> String {
    format!("real-input-{}", run.id)
}

fn summary(run: &Run<'_>) -> PathBuf {
    run.logs.join("real-input.summary")
}

/// Where cargo keeps the sources of dependencies.
pub(crate) fn registry() -> Result<PathBuf, String> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let sources = home.ok_or("neither CARGO_HOME nor HOME is set")?.join("registry/src");
    if sources.is_dir() {
        Ok(sources)
    } else {
        Err(format!("{} does not exist: run cargo fetch", sources.display()))
    }
}

fn pipe_in(run: &Run<'_>, log: &Path) -> StepOutcome {
    let topic = topic(run);
    let mut create = run.toolbox.java();
    create.args(["org.apache.kafka.tools.TopicCommand", "--bootstrap-server", &run.bootstrap]).args([
        "--create",
        "--topic",
        &topic,
        "--partitions",
        "6",
    ]);
    shell::pipe(&mut create, "", log)?;

    let mut lines = run.toolbox.python_program("text_lines.py");
    lines
        .args(["--bytes", &(run.input_mb * 1_000_000).to_string(), "--summary"])
        .arg(summary(run))
        .arg(registry()?);
    let mut lines = lines
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(shell::append(log)?)
        .spawn()
        .map_err(|error| format!("cannot run text_lines.py: {error}"))?;
    let mut producer = run.toolbox.java();
    let produced = producer
        .args(["org.apache.kafka.tools.ConsoleProducer", "--bootstrap-server", &run.bootstrap])
        .args(["--topic", &topic, "--compression-codec", "gzip"])
        .stdin(lines.stdout.take().expect("standard output was piped"))
        .stdout(shell::append(log)?)
        .stderr(shell::append(log)?)
        .status()
        .map_err(|error| format!("cannot run the console producer: {error}"))?;
    let read = lines.wait().map_err(|error| error.to_string())?;
    if !produced.success() || !read.success() {
        return Err(format!("console producer: {produced}, text_lines.py: {read}"));
    }
    figures(&summary_text(run)?)
}

fn summary_text(run: &Run<'_>) -> Result<String, String> {
    fs::read_to_string(summary(run)).map_err(|error| format!("{}: {error}", summary(run).display()))
}

/// `lines bytes digest`.
fn figures(text: &str) -> StepOutcome {
    let fields: Vec<&str> = text.split_whitespace().collect();
    let [lines, bytes, digest] = fields[..] else { return Err(format!("figures were expected, not {text}")) };
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("a number was expected, not {text}"));
    Ok((number(lines)?, number(bytes)?, digest.to_owned()))
}

fn read_back(run: &Run<'_>, log: &Path) -> StepOutcome {
    let mut reader = run.toolbox.python_program("text_digest.py");
    reader.args(["--bootstrap", &run.bootstrap, "--topic", &topic(run)]);
    let got = shell::pipe(&mut reader, "", log)?;
    let want = summary_text(run)?;
    if got == want { figures(&got) } else { Err(format!("read: {}, written: {}", got.trim(), want.trim())) }
}
