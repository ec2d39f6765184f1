//! `ottla-sim`: tells one story with its trace, or many of which only the bad ones are shown.
//!
//! Every story has a process of its own. What a process has only once - counters, the keys of its hash tables, what an
//! earlier story left in memory - is then the same each time, and a story that does not end harms no other.

mod entropy;

use std::io;
use std::ops::Range;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use sim::{Cast, GroupKind, Story, tell};

const USAGE: &str = "\
usage: ottla-sim --seed SEED [--seconds N] [--group KIND | --clients | --sink]
       ottla-sim [--seeds N] [--first SEED] [--seconds N] [--group KIND | --clients | --sink] [--jobs N] [--until-bad]

  --seed SEED     tell one story with its trace; the same seed gives the same trace, byte for byte
  --seeds N       tell so many stories and show those in which something went wrong [100]
  --first SEED    the first of them [1]
  --seconds N     for how long faults come, in the story's time [12]
  --group KIND    the group that every story has: classic, consumer, mixed or share [as the seed says, mostly none]
  --clients       stories of the product's own clients: producers, members of groups, readers with a store of their own
  --sink          stories of a sink's near-real-time line: each record in its output once, and in order
  --until-bad     end with the first story in which something went wrong
  --jobs N        how many are told at a time [as many as there are processors]

OTTLA_LOG=broker=info,sim=info shows what the brokers of one story log, between what happens to them.
";

/// Stories that went wrong and are shown.
const SHOWN_MAX: usize = 20;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut seeds, mut first, mut only, mut seconds) = (100, 1, None, 12);
    let mut jobs = thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let (mut until_bad, mut group, mut cast) = (false, None, Cast::Load);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--until-bad" => {
                until_bad = true;
                continue;
            }
            "--clients" => {
                cast = Cast::Clients;
                continue;
            }
            "--sink" => {
                cast = Cast::Sink;
                continue;
            }
            _ => {}
        }
        let value = arguments.next();
        if argument == "--group" {
            group = value.as_deref().and_then(GroupKind::named);
            if group.is_some() {
                continue;
            }
        }
        let number = value.and_then(|value| value.parse::<u64>().ok());
        match (argument.as_str(), number) {
            ("--seeds", Some(number)) => seeds = number,
            ("--first", Some(number)) => first = number,
            ("--seed", Some(number)) => only = Some(number),
            ("--seconds", Some(number)) => seconds = number,
            ("--jobs", Some(number)) => jobs = number.max(1),
            _ => {
                eprint!("{USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    let how = How { seconds, group, cast };
    let is_clean = match only {
        Some(seed) => tell_one(seed, how),
        None => tell_many(first..first + seeds, how, jobs, until_bad),
    };
    if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What stories have in common.
#[derive(Clone, Copy)]
struct How {
    seconds: u64,
    group: Option<GroupKind>,
    cast: Cast,
}

impl How {
    fn arguments(self) -> Vec<String> {
        let group = self.group.map(|group| ["--group".to_owned(), group.name().to_owned()]);
        let seconds = ["--seconds".to_owned(), self.seconds.to_string()];
        let cast = match self.cast {
            Cast::Load => None,
            Cast::Clients => Some("--clients".to_owned()),
            Cast::Sink => Some("--sink".to_owned()),
        };
        seconds.into_iter().chain(group.into_iter().flatten()).chain(cast).collect()
    }
}

/// Tells one story in this process.
fn tell_one(seed: u64, how: How) -> bool {
    if let Ok(filter) = std::env::var("OTTLA_LOG") {
        let _ = broker::logging::init(broker::logging::LogFormat::Text, &filter);
    }
    let How { seconds, group, cast } = how;
    let story = Story { seed, faults: Duration::from_secs(seconds), group, cast };
    // A thread of its own, whose hash tables have the same keys whether or not there was logging before.
    let outcome = thread::spawn(move || tell(story)).join().expect("a panic ends the story, not the thread");
    print!("{}", outcome.trace);
    outcome.anomalies.iter().for_each(|anomaly| println!("{ANOMALY}{anomaly}"));
    println!("seed {seed}: {} acknowledged, {} anomalies", outcome.acknowledged, outcome.anomalies.len());
    outcome.anomalies.is_empty()
}

/// What a line of a trace begins with that says what must not be.
const ANOMALY: &str = "ANOMALY ";

/// How a story ended, as its process printed it.
struct Ended {
    acknowledged: u64,
    /// The first anomaly.
    anomaly: Option<String>,
}

/// Tells many, some at a time.
fn tell_many(seeds: Range<u64>, how: How, jobs: u64, until_bad: bool) -> bool {
    let next = AtomicU64::new(seeds.start);
    let acknowledged = AtomicU64::new(0);
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || until_bad && !failed.lock().is_empty() {
                        return;
                    }
                    let ended = apart(seed, how).unwrap_or_else(|error| Ended {
                        acknowledged: 0,
                        anomaly: Some(format!("its process could not be run: {error}")),
                    });
                    acknowledged.fetch_add(ended.acknowledged, Ordering::Relaxed);
                    if let Some(anomaly) = ended.anomaly {
                        let mut failed = failed.lock();
                        if failed.len() < SHOWN_MAX {
                            println!("seed {seed}: {anomaly}");
                        }
                        failed.push(seed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    println!(
        "{} seeds from {} on: {} acknowledged, {} seeds with anomalies",
        seeds.end - seeds.start,
        seeds.start,
        acknowledged.into_inner(),
        failed.len()
    );
    if let Some(seed) = failed.first() {
        println!("see one again: ottla-sim --seed {seed} {}", how.arguments().join(" "));
    }
    failed.is_empty()
}

/// Tells one story in a process of its own.
fn apart(seed: u64, how: How) -> io::Result<Ended> {
    let output = Command::new(std::env::current_exe()?)
        .args(["--seed", &seed.to_string()])
        .args(how.arguments())
        .env_remove("OTTLA_LOG")
        .stdin(Stdio::null())
        .output()?;
    let trace = String::from_utf8_lossy(&output.stdout);
    let anomaly = trace.lines().find_map(|line| line.strip_prefix(ANOMALY)).map(str::to_owned);
    let last = trace.lines().next_back().unwrap_or_default();
    let acknowledged = last.split(' ').nth(2).and_then(|count| count.parse().ok());
    let anomaly = match (anomaly, acknowledged) {
        (None, Some(_)) if !output.status.success() => {
            Some(format!("its process ended with {}", output.status))
        }
        (None, None) => {
            let said = String::from_utf8_lossy(&output.stderr).lines().take(3).collect::<Vec<_>>().join(" ");
            Some(format!("its process ended with {}: {said}", output.status))
        }
        (anomaly, _) => anomaly,
    };
    Ok(Ended { acknowledged: acknowledged.unwrap_or(0), anomaly })
}
