//! The test suites that the crates rdkafka and rskafka ship, pointed at a running broker.
//! The crates are fetched by cargo itself and copied to `.tools/`, so the workspace's own lock file stays out of it.
//! Each suite gets a broker of its own with the settings that its authors test with.

use crate::peer::{Kind, Peer};
use crate::shell;
use crate::toolbox::Toolbox;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

struct Suite {
    name: &'static str,
    version: &'static str,
    test_args: &'static [&'static str],
    environment: fn(&str) -> Vec<(&'static str, String)>,
    settings: &'static [&'static str],
    /// Tests that say nothing about the broker, or need what it does not have yet, each with the reason.
    excused: &'static [(&'static str, &'static str)],
}

const SUITES: [Suite; 2] = [
    Suite {
        name: "rdkafka",
        version: "0.39.0",
        test_args: &["--no-fail-fast", "--tests"],
        environment: |bootstrap| {
            vec![("KAFKA_HOST", bootstrap.to_owned()), ("KAFKA_VERSION", "4.0".to_owned())]
        },
        settings: &["num.partitions=3", "node.id=0"],
        excused: &[
            ("test_metadata", "expects port 9092"),
            ("test_base_producer_timeout", "expects that a topic cannot be created within 100 ms"),
            ("test_future_producer_send", "times out against Apache Kafka 4.3 as well"),
            ("test_future_producer_send_fail", "times out against Apache Kafka 4.3 as well"),
            ("test_transaction_abort", "transactions do not exist yet"),
            ("test_transaction_commit", "transactions do not exist yet"),
        ],
    },
    Suite {
        name: "rskafka",
        version: "0.6.0",
        test_args: &["--no-fail-fast", "--all-features", "--tests"],
        environment: |bootstrap| {
            vec![
                ("TEST_INTEGRATION", "1".to_owned()),
                ("TEST_BROKER_IMPL", "kafka".to_owned()),
                ("KAFKA_CONNECT", bootstrap.to_owned()),
            ]
        },
        settings: &["auto.create.topics.enable=false"],
        excused: &[],
    },
];

/// Runs both suites, against brokers of the given kind unless one runs already; their verdicts go to the terminal.
pub(super) fn run(toolbox: &Toolbox, kind: &Kind, running: Option<&str>, logs: &Path) -> Result<(), String> {
    let mut failures = Vec::new();
    for suite in &SUITES {
        let mut peer = Peer::new(kind.clone(), &logs.join(format!("broker-{}", suite.name)), suite.settings)?;
        let bootstrap = match running {
            Some(running) => running.to_owned(),
            None => {
                peer.start(toolbox)?;
                peer.bootstrap()
            }
        };
        let source = sources(suite, logs)?;
        let log = logs.join(format!("{}.log", suite.name));
        println!("{} {} ...", suite.name, suite.version);
        let mut command = Command::new("cargo");
        command
            .current_dir(&source)
            .env("CARGO_TARGET_DIR", shell::target().join("suites"))
            .envs((suite.environment)(&bootstrap))
            .arg("test")
            .args(suite.test_args);
        let outcome = shell::run_logged(&mut command, &log);
        let text = fs::read_to_string(&log).unwrap_or_default();
        for line in text.lines().filter(|line| line.starts_with("test result:")) {
            println!("  {line}");
        }
        let mut failed = 0;
        for test in text.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED")) {
            failed += 1;
            match suite.excused.iter().find(|(name, _)| *name == test) {
                Some((_, reason)) => println!("  {test} failed: {reason}"),
                None => failures.push(format!("{}: {test}, see {}", suite.name, log.display())),
            }
        }
        // Without a failed test it is the build that failed.
        if let (Err(reason), 0) = (outcome, failed) {
            failures.push(reason);
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

/// A writable copy of the crate as published, with a lock file of its own.
fn sources(suite: &Suite, logs: &Path) -> Result<PathBuf, String> {
    let folder = shell::root().join(".tools/suites").join(format!("{}-{}", suite.name, suite.version));
    if folder.join("Cargo.toml").exists() {
        return Ok(folder);
    }
    let scratch = logs.join(format!("fetch-{}", suite.name));
    let write = |path: PathBuf, text: &str| {
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    };
    fs::create_dir_all(scratch.join("src")).map_err(|error| format!("{}: {error}", scratch.display()))?;
    let (name, version) = (suite.name, suite.version);
    let manifest = format!(
        "[package]\nname = \"fetch\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
         [dependencies]\n{name} = \"={version}\"\n\n[workspace]\n"
    );
    write(scratch.join("Cargo.toml"), &manifest)?;
    write(scratch.join("src/lib.rs"), "")?;
    let log = logs.join("fetch.log");
    let mut vendor = Command::new("cargo");
    shell::run_logged(vendor.current_dir(&scratch).args(["vendor", "--quiet", "vendor"]), &log)?;
    let parent = folder.parent().ok_or("the suites have no folder")?;
    fs::create_dir_all(parent).map_err(|error| format!("{}: {error}", parent.display()))?;
    let mut copy = Command::new("cp");
    shell::run(copy.arg("-r").arg(scratch.join("vendor").join(name)).arg(&folder))?;
    // A crate below the repository would otherwise be taken for a member of its workspace.
    let path = folder.join("Cargo.toml");
    let manifest = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    write(path, &format!("{manifest}\n[workspace]\n"))?;
    // Versions that were locked at the time of publication may have been withdrawn since.
    let _ = fs::remove_file(folder.join("Cargo.lock"));
    // The suite is built with the compiler that is there.
    let _ = fs::remove_file(folder.join("rust-toolchain.toml"));
    Ok(folder)
}
