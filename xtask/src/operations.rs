//! `cargo xtask operations`: docs/operations.md, played from top to bottom against real processes on loopback.
//!
//! `properties` blocks become the files that they name, `sh` blocks run line by line on the machines of their first line, and
//! comments of the page (`<!-- test: … -->`) break what the page then repairs. A line must end with the exit code that its
//! comment names, else with 0. Nothing waits by sleeping: the page's own commands wait, and each line has a deadline.

mod machines;
mod page;

use crate::arguments::Arguments;
use crate::compat;
use crate::shell;
use machines::Machines;
use page::{Directive, Page, Step};
use std::fs;
use std::path::PathBuf;

const USAGE: &str = "\
usage: cargo xtask operations [options]

  --binary PATH    an ottla that is already built, instead of building the release profile
";

const PAGE: &str = "docs/operations.md";
/// What the page writes and never loses.
const RECORDS: [&str; 3] = ["first", "second", "third"];

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let Some(mut arguments) = Arguments::new(args, USAGE) else { return Ok(()) };
    let binary = arguments.value("--binary")?.map(PathBuf::from);
    arguments.finish()?;

    let path = shell::root().join(PAGE);
    let text = fs::read_to_string(&path).map_err(|error| format!("{PAGE}: {error}"))?;
    let page = Page::parse(&text)?;
    let home = shell::scratch("operations")?;
    let mut machines = Machines::new(&home, &page.machines(), &compat::ottla(binary)?)?;
    println!("{} steps, logs in {}", page.steps.len(), home.display());
    let begin = shell::now();
    for (line, step) in &page.steps {
        play(&mut machines, &page, step).map_err(|reason| format!("{PAGE}:{line}: {reason}"))?;
    }
    let records = machines.output("ottla consume orders -o :end")?;
    let mut records: Vec<&str> = records.lines().collect();
    records.sort_unstable();
    if records != RECORDS {
        return Err(format!("at the end the topic holds {records:?} and not {RECORDS:?}"));
    }
    println!("every command of {PAGE} did what it says, in {:.0} s", begin.elapsed().as_secs_f64());
    Ok(())
}

fn play(machines: &mut Machines, page: &Page, step: &Step) -> Result<(), String> {
    match step {
        Step::File { machine, path, base, lines } => machines.write(machine, path, base.as_deref(), lines),
        Step::Commands { on, commands } => {
            for machine in on {
                for command in commands {
                    machines.run(machine.as_deref(), command)?;
                }
            }
            Ok(())
        }
        Step::Test(Directive::Kill(machine)) => machines.kill(machine),
        Step::Test(Directive::EmptyDisk(machine)) => machines.empty_disk(machine),
        Step::Test(Directive::Metrics(machine)) => {
            let shown = machines.output(&format!("curl -fsS http://{machine}:9644/metrics"))?;
            let is_shown = |name: &&String| shown.contains(&format!("# TYPE {name} "));
            let missing: Vec<&String> = page.metrics.iter().filter(|name| !is_shown(name)).collect();
            match missing.as_slice() {
                [] => Ok(()),
                missing => Err(format!("metrics that do not exist: {missing:?}")),
            }
        }
    }
}
