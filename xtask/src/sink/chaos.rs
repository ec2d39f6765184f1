//! `cargo xtask sink-chaos`: three sinks with both lines over one topic, one with positions in PostgreSQL, one in Redis, one beside its
//! table, while everything is killed, paused, filled up or away that they stand on. At the end each record that the producer was
//! told is in each table and in each output topic, once.

use super::fault::{Fault, Kind};
use super::verdict::{self, Court};
use super::world::{Ended, Plan, World};
use crate::arguments::Arguments;
use crate::compat;
use crate::delivery;
use crate::dice::Dice;
use crate::isolation::{self, Isolation};
use crate::shell;
use crate::table::{Side, Table};
use crate::toolbox::{Kit, Toolbox};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

const USAGE: &str = "\
usage: cargo xtask sink-chaos [options]

  --minutes N      for how long faults are made (default 5); what comes behind takes 5 more at most
  --seed S         of the faults (default: from the clock, and printed)
  --rate N         records per second (default 300)
  --binary PATH    an ottla that is already built, instead of building the release profile
  --program PATH   the producer of compat/rust, likewise

Three brokers, PostgreSQL, Redis (appendfsync always), an idempotent producer with acks=all, and three sinks with both lines, of two
instances each. Sinks, brokers and stores are killed, sinks are stopped for longer than their session and go on, tables run
out of room, stores are away for longer than they are waited for. It wants root on Linux; processes and mounts are in namespaces that
end with the command. Ends with 0 only if nothing is missing and nothing double.
";

/// For everything behind the faults.
const END_MAX: Duration = Duration::from_secs(290);
const PAUSE: Duration = Duration::from_millis(200);

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let Some(mut arguments) = Arguments::new(args, USAGE) else { return Ok(()) };
    let inside = arguments.flag(isolation::INSIDE);
    let minutes = arguments.number("--minutes", 5)?;
    let seed = arguments.number("--seed", shell::unix_ms())?;
    let rate = arguments.number("--rate", 300)?.clamp(1, 10_000);
    let binary = arguments.value("--binary")?.map(PathBuf::from);
    let producer = arguments.value("--program")?.map(PathBuf::from);
    arguments.finish()?;

    let toolbox = Toolbox::install(&[Kit::Python, Kit::Stores])?;
    let binary = compat::ottla(binary)?;
    let producer = delivery::program(producer)?;
    if !inside {
        let decided = [
            ("--seed", seed.to_string()),
            ("--binary", binary.display().to_string()),
            ("--program", producer.display().to_string()),
        ];
        return isolation::enter("sink-chaos", Isolation::Local, args, &decided);
    }
    let home = shell::scratch("sink-chaos")?;
    println!("seed {seed}, {minutes} minutes, logs in {}", home.display());
    let plan = Plan { binary: &binary, producer: &producer, minutes, rate, home: &home };
    let outcome = play(&plan, seed, &toolbox);
    outcome.map_err(|reason| format!("seed {seed}: {reason}\nsee {}", home.display()))
}

fn play(plan: &Plan<'_>, seed: u64, toolbox: &Toolbox) -> Result<(), String> {
    let mut world = World::start(plan)?;
    if !world.program.has_instances {
        println!("this ottla knows no --instance: each sink is one process");
    }
    let faults = break_things(plan, seed, &mut world)?;
    let deadline = shell::now() + END_MAX;
    println!("faults end; everything comes back, and what is left is brought to the end");
    let acknowledged = world.calm_down(deadline)?;
    world.cluster.check()?;
    let court = Court {
        toolbox,
        program: &world.program,
        bootstrap: world.cluster.bootstrap(),
        acknowledged: &world.acknowledged,
        home: plan.home,
        deadline,
    };
    println!();
    print_faults(&faults);
    let unexplained = print_ends(&world);
    println!();
    let mut wrong = verdict::judge(&court, &world.sinks, acknowledged)?;
    // What is compared is what was written down.
    let written = world.acknowledged();
    if written == 0 || u64::try_from(written) != Ok(acknowledged) {
        wrong.push(format!("{written} acknowledgements are written down of {acknowledged}"));
    }
    wrong.extend(unexplained);
    wrong.append(&mut world.findings);
    wrong.extend(panics(plan.home)?);
    if !wrong.is_empty() {
        return Err(wrong.join("\n"));
    }
    println!(
        "\n{acknowledged} records acknowledged, each in three tables and three topics, once (seed {seed})"
    );
    Ok(())
}

/// By kind: how many were made, and how many found nothing to break.
type Faults = BTreeMap<Kind, (u64, u64)>;

fn break_things(plan: &Plan<'_>, seed: u64, world: &mut World<'_>) -> Result<Faults, String> {
    let mut dice = Dice::new(seed);
    let mut faults = Faults::new();
    let begin = shell::now();
    let end = begin + Duration::from_secs(60 * plan.minutes);
    loop {
        let fault = Fault::draw(&mut dice);
        let due = shell::now() + fault.pause;
        while shell::now() < due.min(end) {
            world.tick()?;
            std::thread::sleep(PAUSE);
        }
        if shell::now() >= end {
            return Ok(faults);
        }
        let is_made = world.strike(&fault)?;
        let (made, idle) = faults.entry(fault.kind).or_default();
        *(if is_made { made } else { idle }) += 1;
        println!(
            "{:>6.1} s: {}{}; {} acknowledged, {} sinks ended by themselves",
            begin.elapsed().as_secs_f64(),
            told(world, &fault),
            if is_made { "" } else { " (down already)" },
            world.acknowledged(),
            world.ended.len()
        );
    }
}

fn told(world: &World<'_>, fault: &Fault) -> String {
    let name = fault.kind.name();
    let seconds = fault.lasts.as_secs_f64();
    let sink = world.sinks[fault.sink].name;
    match fault.kind {
        Kind::KillSink | Kind::StopSink | Kind::PauseSink | Kind::FullDisk => {
            format!("{name}: {sink}, {seconds:.1} s")
        }
        Kind::KillBroker => format!("{name}: {}", fault.broker),
        Kind::StoreAway => {
            format!("{name}: {}, {seconds:.1} s", if fault.is_redis { "Redis" } else { "PostgreSQL" })
        }
        Kind::KillRedis | Kind::KillPostgres | Kind::KillAll => format!("{name}, {seconds:.1} s"),
    }
}

fn print_faults(faults: &Faults) {
    let mut table = Table::new(&[("fault", Side::Left), ("made", Side::Right), ("idle", Side::Right)]);
    for (kind, (made, idle)) in faults {
        table.row(vec![kind.name().to_owned(), made.to_string(), idle.to_string()]);
    }
    table.print();
}

/// How sinks have ended by themselves, and which of them had no reason that we know.
fn print_ends(world: &World<'_>) -> Vec<String> {
    let mut table =
        Table::new(&[("times", Side::Right), ("excused", Side::Right), ("last words", Side::Left)]);
    let mut ends: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for ended in &world.ended {
        let (times, excused) = ends.entry(shape(&ended.end.said)).or_default();
        *times += 1;
        *excused += u64::from(ended.is_excused);
    }
    for (words, (times, excused)) in ends {
        table.row(vec![times.to_string(), excused.to_string(), words]);
    }
    println!("\n{} sinks ended by themselves and were started again", world.ended.len());
    table.print();
    let unexplained = world.ended.iter().filter(|ended| !ended.is_excused);
    let told = |ended: &Ended| {
        let Ended { process, end, .. } = ended;
        format!("{process} ended by itself ({}), and no disk or store was a reason: {}", end.status, end.said)
    };
    unexplained.map(told).collect()
}

/// What is the same of two errors of one kind: without paths and numbers.
fn shape(said: &str) -> String {
    let words = said.split_whitespace().map(|word| match word.contains('/') {
        true => "PATH".to_owned(),
        false => word.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).collect(),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// What no process has a reason to say.
fn panics(home: &Path) -> Result<Vec<String>, String> {
    let entries = std::fs::read_dir(home).map_err(|error| format!("{}: {error}", home.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| format!("{}: {error}", home.display()))?.path();
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let text = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let text = String::from_utf8_lossy(&text);
        let said = text.lines().find(|line| line.contains("panicked"));
        found.extend(said.map(|line| format!("{}: {line}", path.display())));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::shape;

    #[test]
    fn errors_of_one_kind_have_one_shape() {
        assert_eq!(shape("error: chaos-5 in /tmp/a/b1: full (28)"), "error: chaos-# in PATH full (##)");
    }
}
