//! `cargo xtask fuzz`: every fuzz target of the workspace for a while, on the stable toolchain; or damaged frames in bulk,
//! through the decoder and through a live broker.
//! cargo-fuzz is installed into `.tools/` if it is missing; what a target finds is left where cargo-fuzz puts it.

use crate::arguments::Arguments;
use crate::shell;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

const USAGE: &str = "\
usage: cargo xtask fuzz [options]

  --target NAME    only this one (default: all)
  --seconds N      per target (default 60)
  --frames N       instead: N damaged requests and N damaged responses through the decoder, and N / 100 damaged requests
                   through a broker that serves a well-behaved client meanwhile
";

/// What a decoder may hold at any time, in MB: the frames are small, so a target that needs more is believing a length.
const RSS_MB_MAX: u64 = 1024;

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let Some(mut arguments) = Arguments::new(args, USAGE) else { return Ok(()) };
    let only = arguments.value("--target")?;
    let seconds = arguments.number("--seconds", 60)?;
    let frames = arguments.number("--frames", 0)?;
    arguments.finish()?;
    if frames > 0 {
        return damaged_frames(frames);
    }

    let tool = cargo_fuzz()?;
    let mut count = 0;
    for (package, target) in targets()? {
        if only.as_ref().is_some_and(|only| *only != target) {
            continue;
        }
        println!("fuzzing {target} for {seconds} s");
        let mut command = Command::new(&tool);
        command
            .current_dir(&package)
            // The sanitizers are nightly options that the stable compiler has, too.
            .env("RUSTC_BOOTSTRAP", "1")
            .args(["fuzz", "run", &target, "--"])
            .args([format!("-max_total_time={seconds}"), format!("-rss_limit_mb={RSS_MB_MAX}")]);
        shell::run(&mut command)?;
        count += 1;
    }
    if count == 0 { Err("there is no such fuzz target".to_owned()) } else { Ok(()) }
}

fn damaged_frames(count: u64) -> Result<(), String> {
    let mut decode = Command::new("cargo");
    decode
        .current_dir(shell::root())
        .args(["run", "--release", "--quiet", "-p", "ottla-wire", "--example", "mutate", "--"])
        // Half of the frames are responses.
        .arg((2 * count).to_string());
    shell::run(&mut decode)?;
    let mut serve = Command::new("cargo");
    serve
        .current_dir(shell::root())
        .args([
            "test",
            "--quiet",
            "-p",
            "ottla-broker",
            "--test",
            "bad_input",
            "mutated_requests_harm_nobody",
        ])
        .env("OTTLA_MUTATIONS", (count / 100).max(1).to_string());
    shell::run(&mut serve)
}

fn cargo_fuzz() -> Result<PathBuf, String> {
    if shell::on_path("cargo-fuzz") {
        return Ok(PathBuf::from("cargo-fuzz"));
    }
    let home = shell::root().join(".tools/cargo");
    let binary = home.join("bin/cargo-fuzz");
    if !binary.exists() {
        println!("installing cargo-fuzz into .tools/");
        let mut command = Command::new("cargo");
        shell::run(command.args(["install", "--quiet", "--locked", "cargo-fuzz", "--root"]).arg(home))?;
    }
    Ok(binary)
}

/// (package folder, target) of each `crates/*/fuzz/fuzz_targets/*.rs`.
fn targets() -> Result<Vec<(PathBuf, String)>, String> {
    let crates = shell::root().join("crates");
    let mut found = Vec::new();
    let packages = fs::read_dir(&crates).map_err(|error| format!("{}: {error}", crates.display()))?;
    for package in packages.flatten().map(|entry| entry.path()) {
        let Ok(files) = fs::read_dir(package.join("fuzz/fuzz_targets")) else { continue };
        for file in files.flatten().map(|entry| entry.path()) {
            if file.extension().is_some_and(|extension| extension == "rs") {
                let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                found.push((package.clone(), name));
            }
        }
    }
    found.sort();
    Ok(found)
}
