//! One client program: started with the address, read line by line, and stopped when it says nothing for too long.
//! Its report lines are `STEP`, name, verdict, records, bytes, seconds, note, between tabs (compat/README.md).

use super::{Run, Step};
use crate::shell;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// A program that has not finished a step for so long hangs.
const SILENCE_SECONDS_MAX: u64 = 240;

/// Runs a program to its end; its steps, and what went wrong.
pub(super) fn run(run: &Run<'_>, mut program: Command, log: &Path) -> (Vec<Step>, Result<(), String>) {
    let mut steps = Vec::new();
    let outcome = started(run, &mut program, log).and_then(|child| follow(child, &mut steps, log));
    let outcome = match steps.iter().find(|step| !step.passed) {
        Some(failed) => Err(format!("{}: {}", failed.name, failed.note)),
        None => outcome,
    };
    (steps, outcome)
}

fn started(run: &Run<'_>, program: &mut Command, log: &Path) -> Result<Child, String> {
    // Record timestamps start an hour ago: past ones, but far from any retention.
    let base_ms = shell::unix_ms() - 3_600_000;
    program.args(["--bootstrap", &run.bootstrap, "--records", &run.records.to_string()]).args([
        "--base-ms",
        &base_ms.to_string(),
        "--run",
        &run.id,
    ]);
    shell::note(log, &format!("$ {}\n", shell::words(program)))?;
    let child = program.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(shell::append(log)?).spawn();
    child.map_err(|error| format!("cannot run {}: {error}", shell::words(program)))
}

fn follow(mut child: Child, steps: &mut Vec<Step>, log: &Path) -> Result<(), String> {
    let stdout = child.stdout.take().expect("standard output was piped");
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    loop {
        match lines.recv_timeout(Duration::from_secs(SILENCE_SECONDS_MAX)) {
            Ok(line) => {
                shell::note(log, &format!("{line}\n"))?;
                if let Some(step) = parse(&line) {
                    println!(
                        "  {:<16} {:>7.2} s  {}",
                        step.name,
                        step.seconds,
                        if step.passed { "ok" } else { "FAIL" }
                    );
                    steps.push(step);
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let _ = child.kill();
                let _ = child.wait();
                let after = steps.last().map_or("its start", |step| step.name.as_str());
                return Err(format!("nothing finished for {SILENCE_SECONDS_MAX} s after {after}"));
            }
        }
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    match (status.success(), steps.is_empty()) {
        (true, false) => Ok(()),
        (true, true) => Err("it reported no step".to_owned()),
        (false, _) => Err(status.to_string()),
    }
}

fn parse(line: &str) -> Option<Step> {
    let mut fields = line.strip_prefix("STEP\t")?.splitn(6, '\t');
    Some(Step {
        name: fields.next()?.to_owned(),
        passed: fields.next()? == "ok",
        records: fields.next()?.parse().ok()?,
        bytes: fields.next()?.parse().ok()?,
        seconds: fields.next()?.parse().ok()?,
        note: fields.next().unwrap_or_default().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_report_line_is_told_from_chatter() {
        let step = parse("STEP\tproduce:gzip\tok\t20000\t40668219\t1.25\tsome note").unwrap();
        assert_eq!((step.name.as_str(), step.passed, step.records), ("produce:gzip", true, 20_000));
        assert_eq!((step.bytes, step.seconds, step.note.as_str()), (40_668_219, 1.25, "some note"));
        assert!(parse("STEP\tgroup\tFAIL\t0\t0\t0.00\t").is_some_and(|step| !step.passed));
        assert!(parse("A is assigned [0, 1]").is_none());
        assert!(parse("STEP\tgroup\tok").is_none());
    }
}
