//! kcat as Debian packages it: an old librdkafka (2.0.2 in Debian 12), which skips unknown tagged fields wrongly and
//! expects topics to appear when they are first written to.

use super::{Run, StepFn, StepOutcome};
use crate::shell;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

const LINES: usize = 1000;

pub(super) const STEPS: &[(&str, StepFn)] =
    &[("produce", produce), ("metadata", metadata), ("consume", consume), ("group", group), ("query", query)];

fn kcat(run: &Run<'_>, log: &Path, args: &[&str], input: &str) -> Result<String, String> {
    shell::pipe(Command::new("kcat").args(["-b", &run.bootstrap]).args(args), input, log)
}

fn topic(run: &Run<'_>) -> String {
    format!("kcat-{}", run.id)
}

fn lines(codec: &str) -> impl Iterator<Item = String> {
    (0..LINES).map(move |i| format!("{codec}-{i}:value {i} äöü {}", "x".repeat(i % 300)))
}

const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

fn produced() -> BTreeSet<String> {
    CODECS.iter().flat_map(|codec| lines(codec)).collect()
}

/// The topic does not exist yet: the first write creates it.
fn produce(run: &Run<'_>, log: &Path) -> StepOutcome {
    let mut bytes = 0;
    for codec in CODECS {
        let text: String = lines(codec).map(|line| line + "\n").collect();
        bytes += text.len() as u64;
        kcat(run, log, &["-P", "-t", &topic(run), "-K", ":", "-z", codec], &text)?;
    }
    Ok(((CODECS.len() * LINES) as u64, bytes, String::new()))
}

fn metadata(run: &Run<'_>, log: &Path) -> StepOutcome {
    let topic = topic(run);
    let text = kcat(run, log, &["-L", "-t", &topic], "")?;
    let named = text.contains(&format!("topic \"{topic}\" with")) && text.contains("partition 0, leader");
    let same_address = run.bootstrap.split(',').all(|address| text.contains(&format!("at {address}")));
    if named && same_address { Ok((0, 0, String::new())) } else { Err(format!("-L says: {text}")) }
}

fn compare(text: &str) -> StepOutcome {
    let got: BTreeSet<String> = text.lines().map(str::to_owned).collect();
    let want = produced();
    if got == want && text.lines().count() == want.len() {
        Ok((want.len() as u64, text.len() as u64, String::new()))
    } else {
        Err(format!(
            "{} lines came, {} of {} are right",
            text.lines().count(),
            got.intersection(&want).count(),
            want.len()
        ))
    }
}

fn consume(run: &Run<'_>, log: &Path) -> StepOutcome {
    compare(&kcat(run, log, &["-C", "-t", &topic(run), "-K", ":", "-o", "beginning", "-e", "-q"], "")?)
}

fn group(run: &Run<'_>, log: &Path) -> StepOutcome {
    let (topic, group) = (topic(run), format!("kcat-group-{}", run.id));
    let args = ["-G", &group, &topic, "-K", ":", "-X", "auto.offset.reset=earliest", "-e", "-q"];
    compare(&kcat(run, log, &args, "")?)
}

fn query(run: &Run<'_>, log: &Path) -> StepOutcome {
    let topic = topic(run);
    let text = kcat(run, log, &["-Q", "-t", &format!("{topic}:0:-2")], "")?;
    // topic [0] offset 0
    if text.trim().ends_with("offset 0") {
        Ok((0, 0, String::new()))
    } else {
        Err(format!("-Q says: {text}"))
    }
}
