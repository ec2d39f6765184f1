//! `ottla-sim`: tells many stories, or one with its trace.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sim::{Story, tell};

const USAGE: &str = "usage: ottla-sim [--seeds N] [--first SEED] [--seed SEED] [--seconds N] [--threads N]";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut seeds, mut first, mut only, mut seconds, mut threads) = (100, 1, None, 12, 2);
    while let Some(argument) = arguments.next() {
        let number = arguments.next().and_then(|value| value.parse::<u64>().ok());
        match (argument.as_str(), number) {
            ("--seeds", Some(number)) => seeds = number,
            ("--first", Some(number)) => first = number,
            ("--seed", Some(number)) => only = Some(number),
            ("--seconds", Some(number)) => seconds = number,
            ("--threads", Some(number)) => threads = number.max(1),
            _ => {
                eprintln!("{USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    let faults = Duration::from_secs(seconds);
    if let Some(seed) = only {
        if let Ok(filter) = std::env::var("OTTLA_LOG") {
            let _ = broker::logging::init(broker::logging::LogFormat::Text, &filter);
        }
        let outcome = tell(Story { seed, faults });
        print!("{}", outcome.trace);
        outcome.anomalies.iter().for_each(|anomaly| println!("ANOMALY {anomaly}"));
        println!("seed {seed}: {} acknowledged, {} anomalies", outcome.acknowledged, outcome.anomalies.len());
        return if outcome.anomalies.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let next = AtomicU64::new(first);
    let (failed, acknowledged) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds {
                        return;
                    }
                    let outcome = tell(Story { seed, faults });
                    acknowledged.fetch_add(outcome.acknowledged as u64, Ordering::Relaxed);
                    if let Some(anomaly) = outcome.anomalies.first() {
                        failed.fetch_add(1, Ordering::Relaxed);
                        println!("seed {seed}: {} anomalies, the first: {anomaly}", outcome.anomalies.len());
                    }
                }
            });
        }
    });
    let (failed, acknowledged) = (failed.into_inner(), acknowledged.into_inner());
    println!("{seeds} seeds from {first} on: {acknowledged} acknowledged, {failed} seeds with anomalies");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
