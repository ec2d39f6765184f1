//! `cargo xtask check`: format, lints with warnings denied, and the licences of everything that is linked.

use crate::arguments::Arguments;
use crate::licences;
use crate::shell;
use std::process::Command;

const USAGE: &str = "\
usage: cargo xtask check

Runs cargo fmt --check and clippy with warnings denied over the whole workspace, and checks that every dependency has a
licence that goes with Apache-2.0.
";

/// What is off where nobody asks for it, and is checked and tested with the rest.
pub(crate) const FEATURES: &str = "ottla-offsets/sqlx";

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let Some(arguments) = Arguments::new(args, USAGE) else { return Ok(()) };
    arguments.finish()?;
    format()?;
    lint()?;
    licences()
}

pub(crate) fn format() -> Result<(), String> {
    shell::run(Command::new("cargo").current_dir(shell::root()).args(["fmt", "--all", "--check"]))
}

pub(crate) fn lint() -> Result<(), String> {
    let args =
        ["clippy", "--workspace", "--features", FEATURES, "--all-targets", "--quiet", "--", "-D", "warnings"];
    shell::run(Command::new("cargo").current_dir(shell::root()).args(args))
}

pub(crate) fn licences() -> Result<(), String> {
    let count = licences::check()?;
    println!("{count} packages, all under licences that go with Apache-2.0");
    Ok(())
}
