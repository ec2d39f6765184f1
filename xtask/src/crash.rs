//! `cargo xtask crash`: three idempotent producers with acks=all, and a broker that is killed (SIGKILL) at random moments.
//! At the end every acknowledged record lies at its offset with its value and no value lies twice; after each restart
//! Apache Kafka's own dump tool must read every segment and index to the end. With `--brokers` it is one of several.

mod cluster;

use crate::arguments::Arguments;
use crate::compat;
use crate::dice::Dice;
use crate::peer::{Kind, Peer};
use crate::producers::{Load, Producers, Programs};
use crate::shell;
use crate::toolbox::{Kit, Toolbox};
use crate::verdict::{self, Told};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;

const USAGE: &str = "\
usage: cargo xtask crash [options]

  --rounds N       how often a broker is killed (default 20)
  --brokers N      one of these is, of `ottla dev --brokers N`; clients must go on and its health must be told (default 1)
  --seed S         of the moments at which it is (default: from the clock, and printed)
  --rate N         records per second and producer (default 400)
  --peer NAME      ottla (default) or kafka, the reference
  --binary PATH    an ottla that is already built, instead of building the release profile
";

const TOPIC: &str = "crash";
const PARTITIONS: usize = 6;
/// Segments roll within a run, so that closed ones are looked at too.
const SEGMENT_BYTES: u32 = 1 << 20;

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let Some(mut arguments) = Arguments::new(args, USAGE) else { return Ok(()) };
    let rounds = arguments.number("--rounds", 20)?;
    let seed = arguments.number("--seed", shell::unix_ms())?;
    let rate = arguments.number("--rate", 400)?;
    let brokers = arguments.number("--brokers", 1)?;
    let brokers = u16::try_from(brokers).ok().filter(|count| (1..=9).contains(count));
    let brokers = brokers.ok_or("--brokers is 1 to 9")?;
    let kafka = match arguments.value("--peer")?.as_deref() {
        None | Some("ottla") => false,
        Some("kafka") => true,
        Some(other) => return Err(format!("--peer is ottla or kafka, not {other}")),
    };
    let binary = arguments.value("--binary")?.map(PathBuf::from);
    arguments.finish()?;

    let toolbox = Toolbox::install(&[Kit::Java, Kit::Python, Kit::Go])?;
    if brokers > 1 {
        if kafka {
            return Err("--brokers is for ottla alone".to_owned());
        }
        let plan = cluster::Plan { brokers, rounds, seed, rate };
        return cluster::run(&plan, &toolbox, &compat::ottla(binary)?);
    }
    let kind = if kafka { Kind::Kafka } else { Kind::Ottla { binary: compat::ottla(binary)? } };
    let home = shell::scratch("crash")?;
    let mut peer = Peer::new(kind, &home.join("broker"), &[])?;
    peer.start(&toolbox)?;
    create_topic(&toolbox, &peer, &home)?;

    println!("seed {seed}, {rounds} rounds, logs in {}", home.display());
    let load = Load { programs: Programs::Idempotent, bootstrap: peer.bootstrap(), topic: TOPIC, rate };
    let mut producers = Producers::start(&toolbox, &load, &home)?;
    let mut dice = Dice::new(seed);
    for round in 1..=rounds {
        std::thread::sleep(dice.millis(500, 4000));
        producers.check()?;
        peer.check_alive()?;
        peer.kill()?;
        std::thread::sleep(dice.millis(0, 500));
        let ready = peer.start(&toolbox)?;
        let dumped = peer.frozen(|| dump(&toolbox, &peer.data(), &home))?;
        println!(
            "round {round:>2}: killed, ready again after {:>4} ms, {dumped} files read by kafka-dump-log, {} acknowledged",
            ready.as_millis(),
            producers.acknowledged()
        );
    }
    let logs = producers.stop()?;
    peer.check_alive()?;
    let dumped = peer.frozen(|| dump(&toolbox, &peer.data(), &home))?;

    let told = Told { producers: logs, ..Told::default() };
    verdict::verify(&toolbox, &peer.bootstrap(), TOPIC, &told, &home)?;
    println!(
        "{rounds} crashes, nothing acknowledged is lost, nothing is there twice; {dumped} files readable at the end"
    );
    Ok(())
}

fn create_topic(toolbox: &Toolbox, peer: &Peer, home: &Path) -> Result<(), String> {
    let mut create = toolbox.console_tool("org.apache.kafka.tools.TopicCommand");
    create
        .args(["--bootstrap-server", &peer.bootstrap(), "--create"])
        .args(["--topic", TOPIC, "--partitions", &PARTITIONS.to_string()])
        .args(["--config", &format!("segment.bytes={SEGMENT_BYTES}")]);
    shell::pipe(&mut create, "", &home.join("topic.log")).map(|_| ())
}

/// What the dump tool prints on standard output, in whatever case, when it is not content. Most of what it has to say it
/// says on standard error, and exits with 0 all the same.
const COMPLAINTS: [&str; 2] = ["isvalid: false", "invalid bytes"];

const COMPLAINTS_KEPT_MAX: usize = 100;

/// Dumps every segment and index of the topic and of the metadata with `--deep-iteration`; the number of files.
fn dump(toolbox: &Toolbox, data: &Path, home: &Path) -> Result<usize, String> {
    let mut files = Vec::new();
    let partitions = (0..PARTITIONS).map(|partition| format!("{TOPIC}-{partition}"));
    for partition in partitions.chain(["__cluster_metadata-0".to_owned()]) {
        let folder = data.join(partition);
        let entries = fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        for entry in entries {
            let path = entry.map_err(|error| format!("{}: {error}", folder.display()))?.path();
            let extension = path.extension().and_then(|extension| extension.to_str());
            // An index of zero bytes is legal for a segment without entries, but no dump tool takes it.
            let empty = fs::metadata(&path).is_ok_and(|metadata| metadata.len() == 0);
            if matches!(extension, Some("log" | "index" | "timeindex" | "snapshot")) && !empty {
                files.push(path.display().to_string());
            }
        }
    }
    if files.is_empty() {
        // Killed before the first record.
        return Ok(0);
    }
    files.sort();
    let log = home.join("dump.log");
    let mut command = toolbox.console_tool("org.apache.kafka.tools.DumpLogSegments");
    command.args(["--deep-iteration", "--files", &files.join(",")]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot run kafka-dump-log: {error}"))?;
    let stderr = child.stderr.take().expect("standard error was piped");
    let said = std::thread::spawn(move || complaints_in(stderr, is_complaint_on_stderr));
    // It prints a line per record, which is too much to keep.
    let stdout = child.stdout.take().expect("standard output was piped");
    let mut complaints = complaints_in(stdout, |line| {
        let lower = line.to_lowercase();
        COMPLAINTS.iter().any(|complaint| lower.contains(complaint))
    })?;
    complaints.extend(said.join().map_err(|_| "the reader of standard error panicked")??);
    for line in &complaints {
        shell::note(&log, &format!("{line}\n"))?;
    }
    let status = child.wait().map_err(|error| format!("kafka-dump-log: {error}"))?;
    match complaints.first() {
        None if status.success() => Ok(files.len()),
        None => Err(format!("kafka-dump-log: {status}, see {}", log.display())),
        Some(complaint) => Err(format!("kafka-dump-log is not content: {complaint}; see {}", log.display())),
    }
}

/// Of a segment that does not begin at offset 0 the tool says that -1 is followed by its base offset. That is nothing; any
/// other gap has a line of its own under the same heading.
fn is_complaint_on_stderr(line: &str) -> bool {
    !line.starts_with("Non-consecutive offsets in ") && !line.trim_start().starts_with("-1 is followed by ")
}

/// The first lines that are complaints; the rest is read and forgotten.
fn complaints_in(output: impl Read, is_complaint: impl Fn(&str) -> bool) -> Result<Vec<String>, String> {
    let mut complaints = Vec::new();
    for line in BufReader::new(output).lines() {
        let line = line.map_err(|error| format!("kafka-dump-log: {error}"))?;
        if complaints.len() < COMPLAINTS_KEPT_MAX && is_complaint(&line) {
            complaints.push(line);
        }
    }
    Ok(complaints)
}
