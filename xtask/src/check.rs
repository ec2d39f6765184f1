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
    let all = ["--workspace"].as_slice();
    // What is behind a feature.
    let sqlx = ["-p", "ottla-offsets", "--features", "sqlx"].as_slice();
    [all, sqlx].into_iter().try_for_each(|what| {
        let mut command = Command::new("cargo");
        command.current_dir(shell::root()).arg("clippy").args(what);
        shell::run(command.args(["--all-targets", "--quiet", "--", "-D", "warnings"]))
    })
}

pub(crate) fn licences() -> Result<(), String> {
    let count = licences::check()?;
    println!("{count} packages, all under licences that go with Apache-2.0");
    Ok(())
}
