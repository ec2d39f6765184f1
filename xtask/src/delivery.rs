//! `cargo xtask delivery`: the known ways in which a reader doubles or loses records, played against three brokers by stock clients
//! and by ours, with `kill -9`, `SIGSTOP` and slow handlers. Each reader's results outlive it and are compared with what was
//! produced; docs/delivery.md is written from that. `--kills` kills everything, again and again, and compares at the end.

mod tally;
mod cell;
mod scenario;
mod page;
mod kills;

use crate::arguments::Arguments;
use crate::compat;
use crate::dev_cluster::DevCluster;
use crate::shell;
use crate::stores::{Kind, Store};
use crate::table::{Side, Table};
use crate::toolbox::{Kit, Toolbox};
use cell::{Outcome, Stage, Who};
use scenario::{SCENARIOS, Scenario};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

const USAGE: &str = "\
usage: cargo xtask delivery [options]

  --quick          only our readers
  --only LETTERS   some of the scenarios, such as a,c
  --docs           write docs/delivery.md from the run
  --kills N        instead: kill readers, brokers, Redis and PostgreSQL N times under load, and compare at the end
  --seed S         of the kills (default: from the clock, and printed)
  --rate N         records per second under the kills (default 200)
  --binary PATH    an ottla that is already built, instead of building the release profile
  --program PATH   the producer and reader of compat/rust, likewise

Ends with 1 if a reader of ours doubles or loses what it must not: with a store neither, in a group nothing is lost.
";

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let Some(mut arguments) = Arguments::new(args, USAGE) else { return Ok(()) };
    let quick = arguments.flag("--quick");
    let docs = arguments.flag("--docs");
    let only = arguments.value("--only")?;
    let kills = arguments.number("--kills", 0)?;
    let seed = arguments.number("--seed", shell::unix_ms())?;
    let rate = arguments.number("--rate", 200)?.clamp(1, 10_000);
    let binary = arguments.value("--binary")?.map(PathBuf::from);
    let program = arguments.value("--program")?.map(PathBuf::from);
    arguments.finish()?;
    if docs && (quick || only.is_some()) {
        return Err("--docs wants all readers in all scenarios".to_owned());
    }
    let scenarios = scenarios(only.as_deref())?;

    let is_ours = quick || kills > 0;
    let kits: &[Kit] = if is_ours { &[Kit::Stores] } else { &[Kit::Stores, Kit::Python, Kit::Java] };
    let toolbox = Toolbox::install(kits)?;
    let binary = compat::ottla(binary)?;
    let program = self::program(program)?;
    if kills > 0 {
        return kills::run(&kills::Plan { kills, seed, rate }, &binary, &program);
    }
    let home = shell::scratch("delivery")?;
    println!("logs in {}", home.display());
    // Retention is looked after while one waits.
    let mut cluster = DevCluster::start_with(&binary, 3, &home, &["log.retention.check.interval.ms=500"])?;
    let redis = Store::start(Kind::Redis, &home)?;
    let postgres = Store::start(Kind::Postgres, &home)?;
    let stage = Stage {
        toolbox: (!is_ours).then_some(&toolbox),
        ottla: &binary,
        program: &program,
        bootstrap: cluster.bootstrap(),
        redis: &redis,
        postgres: &postgres,
        home: &home,
    };
    let readers: &[Who] = if is_ours { &Who::OURS } else { &Who::ALL };
    let begin = shell::now();
    let played = play(&stage, &scenarios, readers)?;
    cluster.check()?;
    print(&scenarios, readers, &played);
    let faults = faults(&played);
    println!(
        "\n{} scenarios, {} readers, {:.0} s",
        scenarios.len(),
        readers.len(),
        begin.elapsed().as_secs_f64()
    );
    if docs {
        page::write(&played)?;
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

/// The program of compat/rust, built if it was not given.
pub(crate) fn program(program: Option<PathBuf>) -> Result<PathBuf, String> {
    if let Some(program) = program {
        return Ok(program);
    }
    let mut command = Command::new("cargo");
    command.current_dir(shell::root()).args(["build", "--release", "--quiet", "-p", "ottla-delivery"]);
    shell::run(&mut command)?;
    Ok(shell::target().join("release/delivery"))
}

fn scenarios(only: Option<&str>) -> Result<Vec<&'static Scenario>, String> {
    let Some(only) = only else { return Ok(SCENARIOS.iter().collect()) };
    only.split(',')
        .map(|letter| {
            let found = SCENARIOS.iter().find(|scenario| scenario.letter == letter);
            found.ok_or_else(|| format!("there is no scenario {letter}"))
        })
        .collect()
}

/// What came of a scenario with a reader.
struct Played {
    scenario: &'static Scenario,
    who: Who,
    outcome: Result<Outcome, String>,
}

/// Plays so many at a time: most of each is waiting for sessions to end.
const PLAYED_AT_ONCE: usize = 6;

fn play(stage: &Stage<'_>, scenarios: &[&'static Scenario], readers: &[Who]) -> Result<Vec<Played>, String> {
    let mut left: Vec<(&'static Scenario, Who)> =
        scenarios.iter().flat_map(|&scenario| readers.iter().map(move |&who| (scenario, who))).collect();
    left.reverse();
    let left = Mutex::new(left);
    let played = Mutex::new(Vec::new());
    let lock = "no player panics";
    std::thread::scope(|scope| {
        for _ in 0..PLAYED_AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some((scenario, who)) = left.lock().expect(lock).pop() else { return };
                    let begin = shell::now();
                    let topic = scenario.letter.replace('\'', "2");
                    let outcome = (scenario.play)(stage, who, &topic);
                    let told = match &outcome {
                        Ok(outcome) => page::told(outcome),
                        Err(reason) => reason.clone(),
                    };
                    println!(
                        "{:<3}{:<20}{told} ({:.0} s)",
                        scenario.letter,
                        who.name(),
                        begin.elapsed().as_secs_f64()
                    );
                    played.lock().expect(lock).push(Played { scenario, who, outcome });
                }
            });
        }
    });
    Ok(played.into_inner().expect(lock))
}

fn print(scenarios: &[&Scenario], readers: &[Who], played: &[Played]) {
    let mut columns = vec![("", Side::Left), ("", Side::Left)];
    columns.extend(readers.iter().map(|who| (who.name(), Side::Left)));
    let mut table = Table::new(&columns);
    for scenario in scenarios {
        let mut row = vec![scenario.letter.to_owned(), scenario.title.to_owned()];
        row.extend(readers.iter().map(|&who| page::cell(played, scenario.letter, who)));
        table.row(row);
    }
    println!();
    table.print();
}

/// What must not be.
fn faults(played: &[Played]) -> Vec<String> {
    let mut faults = Vec::new();
    for Played { scenario, who, outcome } in played {
        let place = format!("{} {}", scenario.letter, who.name());
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(reason) => {
                faults.push(format!("{place}: {reason}"));
                continue;
            }
        };
        if !who.is_ours() {
            continue;
        }
        let tally = &outcome.tally;
        let is_stopped = scenario.may_stop && !outcome.stopped.is_empty();
        let lost = if is_stopped { tally.passed_over } else { tally.lost };
        let doubled = if who.has_store() { tally.duplicates } else { 0 };
        if lost > 0 || doubled > 0 {
            faults.push(format!("{place}: {doubled} doubled, {lost} lost, such as {:?}", tally.examples));
        }
    }
    faults
}
