//! `cargo xtask sink-mutations`: the bugs of `crates/sink/MUTATIONS.md`, each of which a test of the sink's crash points must find.

use crate::arguments::Arguments;
use crate::mutations::{self, Mutation, SWITCH, first_words};
use crate::shell;
use crate::table::{Side, Table};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const USAGE: &str = "\
usage: cargo xtask sink-mutations [--only NAME]

Makes every bug of crates/sink/MUTATIONS.md in one copy of the sources, each in a switch's reach, and runs the test that has to find
it with the switch on. A bug that its test does not find is an error.

  --only NAME     this bug alone
";

/// The page, from the root.
pub(crate) const PAGE: &str = "crates/sink/MUTATIONS.md";
/// For one test. A bug that has it wait for ever is none that it finds.
const TEST_MAX: Duration = Duration::from_secs(120);

/// Makes all bugs in one copy of the sources, and has each found.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let Some(mut arguments) = Arguments::new(args, USAGE) else { return Ok(()) };
    let only = arguments.value("--only")?;
    arguments.finish()?;
    let mutations = mutations::of_page(PAGE)?;
    if let Some(only) = only.as_ref().filter(|only| mutations.iter().all(|mutation| mutation.name != **only))
    {
        return Err(format!("{PAGE} has no bug {only}"));
    }
    println!("building the sink with {} bugs in it", mutations.len());
    let start = shell::now();
    let tests = mutations::build()?.tests;
    println!("built in {:.0} s", start.elapsed().as_secs_f64());
    let logs = shell::scratch("sink-mutations-logs")?;
    let mut table = Table::new(&[("bug", Side::Left), ("s", Side::Right), ("what went wrong", Side::Left)]);
    let mut escaped = Vec::new();
    for mutation in mutations.iter().filter(|one| only.as_ref().is_none_or(|only| one.name == *only)) {
        let start = shell::now();
        let found = find(mutation, &tests, &logs.join(&mutation.name))?;
        let seconds = format!("{:.1}", start.elapsed().as_secs_f64());
        let told = found.as_deref().unwrap_or("nothing: the test passed");
        table.row(vec![mutation.name.clone(), seconds, first_words(told)]);
        if found.is_none() {
            escaped.push(mutation.name.as_str());
        }
    }
    println!();
    table.print();
    if escaped.is_empty() { Ok(()) } else { Err(format!("not found: {}", escaped.join(", "))) }
}

/// What the test says that has to find a bug; nothing if it passes.
fn find(mutation: &Mutation, tests: &Path, log: &Path) -> Result<Option<String>, String> {
    let test = mutation.note.as_deref().ok_or_else(|| {
        format!("{PAGE}: behind {} the test that has to find it is to stand in parentheses", mutation.name)
    })?;
    let mut command = Command::new(tests);
    command
        .args(["--exact", test])
        .env(SWITCH, &mutation.name)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(shell::append(log)?)
        .stderr(Stdio::null());
    let mut child =
        command.spawn().map_err(|error| format!("cannot run {}: {error}", shell::words(&command)))?;
    let status = super::ended(&mut child, shell::now() + TEST_MAX, test)?;
    let said = std::fs::read_to_string(log).map_err(|error| format!("{}: {error}", log.display()))?;
    if !said.contains("running 1 test") {
        return Err(format!("{PAGE}: {}: there is no test {test}", mutation.name));
    }
    Ok((!status.success()).then(|| panic_of(&said)))
}

/// The first panic in what a test printed.
fn panic_of(said: &str) -> String {
    let mut lines = said.lines().skip_while(|line| !line.contains(" panicked at "));
    lines.nth(1).unwrap_or("it failed and said nothing").to_owned()
}

#[cfg(test)]
mod tests {
    use super::panic_of;

    #[test]
    fn what_went_wrong_is_behind_the_place_of_the_panic() {
        let said = "running 1 test\n---- x stdout ----\n\nthread 'x' (3) panicked at a.rs:1:2:\nkilled at 7\nnote: y\n";
        assert_eq!(panic_of(said), "killed at 7");
    }
}
