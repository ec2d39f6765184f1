//! Settings and directories that a broker must not start with: each is told by its key, its value and what is allowed, and
//! the process ends with exit code 2 before it has listened or written anything.
//!
//! The one broker here that does start says what those it refuses say: whose the directory is.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use expect_test::{Expect, expect};

fn ottla() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ottla"));
    command.env("OTTLA_LOG", "error");
    command
}

/// `ottla dev` on free ports; `arguments` come last and win.
fn dev(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = ottla();
    command.args(["dev", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data-dir"]).arg(dir);
    command.args(arguments);
    command
}

#[track_caller]
fn check(mut command: Command, dir: &Path, expected: Expect) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).replace(&dir.display().to_string(), "DIR");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "it never got as far as its banner");
    expected.assert_eq(&format!("{said}exit code {}\n", output.status.code().unwrap_or(-1)));
}

#[track_caller]
fn check_set(setting: &str, expected: Expect) {
    let dir = tempfile::tempdir().unwrap();
    check(dev(&dir.path().join("data"), &["--set", setting]), dir.path(), expected);
    assert!(!dir.path().join("data").exists(), "nothing was written");
}

#[test]
fn a_key_that_does_not_exist_is_refused_and_a_near_miss_is_suggested() {
    check_set(
        "num.partition=3",
        expect![[r#"
            error: the settings are not valid:
              --set: unknown setting num.partition (value "3"); did you mean num.partitions?
            exit code 2
        "#]],
    );
}

#[test]
fn a_value_out_of_bounds_or_of_another_type_is_refused_with_what_is_allowed() {
    check_set(
        "num.partitions=0",
        expect![[r#"
            error: the settings are not valid:
              --set: num.partitions = "0": Value must be at least 1; allowed: int at least 1
            exit code 2
        "#]],
    );
    check_set(
        "log.retention.ms=soon",
        expect![[r#"
            error: the settings are not valid:
              --set: log.retention.ms = "soon": Not a number of type LONG; allowed: long at least -1
            exit code 2
        "#]],
    );
}

#[test]
fn two_listeners_on_one_port_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let two = "listeners=PLAINTEXT://127.0.0.1:29292,OTHER://127.0.0.1:29292";
    let map = "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,OTHER:PLAINTEXT";
    check(
        dev(dir.path(), &["--set", two, "--set", map]),
        dir.path(),
        expect![[r#"
            error: the settings are not valid:
              listeners = "OTHER://127.0.0.1:29292": listener PLAINTEXT has the same port
            exit code 2
        "#]],
    );
}

#[test]
fn every_problem_of_a_file_is_told_at_once_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("server.properties");
    std::fs::write(&file, "node.id=1\nlog.dirs=data\nnum.partitions=-2\nno.such.thing=1\n").unwrap();
    let mut command = ottla();
    command.args(["start", "--config"]).arg(&file);
    check(
        command,
        dir.path(),
        expect![[r#"
            error: the settings are not valid:
              DIR/server.properties:3: num.partitions = "-2": Value must be at least 1; allowed: int at least 1
              DIR/server.properties:4: unknown setting no.such.thing (value "1")
            exit code 2
        "#]],
    );
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_directory_of_another_process_node_or_cluster_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut first =
        Running(dev(dir.path(), &["--set", "cluster.id=mine"]).stdout(Stdio::piped()).spawn().unwrap());
    let banner = BufReader::new(first.0.stdout.take().unwrap());
    assert!(banner.lines().map(Result::unwrap).any(|line| line.trim().starts_with("kafka")));
    check(
        dev(dir.path(), &[]),
        dir.path(),
        expect![[r#"
            error: data directory DIR is locked by another process
            exit code 2
        "#]],
    );
    drop(first);
    check(
        dev(dir.path(), &["--set", "node.id=2"]),
        dir.path(),
        expect![[r#"
            error: data directory DIR belongs to node.id 1, not 2
            exit code 2
        "#]],
    );
    check(
        dev(dir.path(), &["--set", "cluster.id=theirs"]),
        dir.path(),
        expect![[r#"
            error: data directory DIR belongs to cluster.id mine, not theirs
            exit code 2
        "#]],
    );
}
