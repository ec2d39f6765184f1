//! Running other programs: what they print goes to a log file or is taken, and a failure names the log.
//! The one place of xtask that reads the clock and picks ports.

use std::fs::{self, File};
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask lies in the repository").to_path_buf()
}

/// Cargo's target directory, wherever the caller has put it.
pub(crate) fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(path) => root().join(path),
        None => root().join("target"),
    }
}

/// A fresh directory below the target directory for the logs and data of one command.
pub(crate) fn scratch(name: &str) -> Result<PathBuf, String> {
    let path = target().join("xtask").join(name);
    if path.exists() {
        fs::remove_dir_all(&path).map_err(|error| format!("cannot empty {}: {error}", path.display()))?;
    }
    fs::create_dir_all(&path).map_err(|error| format!("cannot create {}: {error}", path.display()))?;
    Ok(path)
}

/// The monotonic clock.
#[allow(clippy::disallowed_methods, reason = "xtask waits for and times other programs")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Milliseconds since 1970, for the timestamps of test records: retention would delete older ones.
pub(crate) fn unix_ms() -> u64 {
    unix_micros() / 1_000
}

/// Microseconds since 1970, for what other processes write down too.
#[allow(clippy::disallowed_methods, reason = "the one clock that several processes share")]
pub(crate) fn unix_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// A port that nothing listens on right now.
pub(crate) fn free_port() -> Result<u16, String> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| format!("no free port: {error}"))?;
    listener.local_addr().map(|address| address.port()).map_err(|error| format!("no free port: {error}"))
}

/// Ports, one after the other, for servers that go down and come back: below those that outgoing connections are given, or one of these could have
/// the port of a server that is down.
pub(crate) fn lasting_ports(count: usize) -> Result<Vec<u16>, String> {
    const FIRST: u16 = 20_000;
    const END: u16 = 32_768;
    // Several sets of one run, and two runs at the same time, begin at different places.
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let begin = FIRST + u16::try_from(std::process::id() % 100).expect("a number below 100") * 100;
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let first = begin + TAKEN.load(Ordering::Relaxed);
    let mut ports = Vec::new();
    for port in first..END {
        if !is_free(&port) {
            ports.clear();
            continue;
        }
        ports.push(port);
        if ports.len() == count {
            TAKEN.store(port + 1 - begin, Ordering::Relaxed);
            return Ok(ports);
        }
    }
    Err(format!("there are no {count} free ports in a row"))
}

/// How a command reads in a message.
pub(crate) fn words(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}

/// Runs to the end with the terminal for output; a non-zero exit is an error.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|error| format!("cannot run {}: {error}", words(command)))?;
    if status.success() { Ok(()) } else { Err(format!("{}: {status}", words(command))) }
}

/// Runs to the end with output appended to `log`; a non-zero exit is an error that names the log.
pub(crate) fn run_logged(command: &mut Command, log: &Path) -> Result<(), String> {
    let file = append(log)?;
    let copy = file.try_clone().map_err(|error| format!("{}: {error}", log.display()))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(copy)
        .status()
        .map_err(|error| format!("cannot run {}: {error}", words(command)))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{}: {status}, see {}", words(command), log.display()))
    }
}

/// Runs to the end with `input` on standard input and gives standard output; standard error goes to `log`.
pub(crate) fn pipe(command: &mut Command, input: &str, log: &Path) -> Result<String, String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(append(log)?)
        .spawn()
        .map_err(|error| format!("cannot run {}: {error}", words(command)))?;
    let mut stdin = child.stdin.take().expect("standard input was piped");
    let input = input.to_owned();
    // A thread, so that a program that writes before it has read everything does not wait for us for ever.
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(|error| format!("{}: {error}", words(command)))?;
    // A program may well end without reading all: its exit status says whether that was right.
    let _ = writer.join();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    note(log, &format!("$ {}\n{text}", words(command)))?;
    if output.status.success() {
        Ok(text)
    } else {
        Err(format!("{}: {}, see {}", words(command), output.status, log.display()))
    }
}

/// Opens a log for appending.
pub(crate) fn append(log: &Path) -> Result<File, String> {
    let file = File::options().create(true).append(true).open(log);
    file.map_err(|error| format!("cannot open {}: {error}", log.display()))
}

/// Appends a text to a log.
pub(crate) fn note(log: &Path, text: &str) -> Result<(), String> {
    append(log)?.write_all(text.as_bytes()).map_err(|error| format!("{}: {error}", log.display()))
}

/// Sends a signal (`STOP`, `CONT`, `TERM`) to a process of ours.
pub(crate) fn signal(pid: u32, name: &str) -> Result<(), String> {
    run(Command::new("sh").arg("-c").arg(format!("kill -{name} {pid}")))
}

/// Whether a program is on the path.
pub(crate) fn on_path(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|folder| folder.join(program).is_file())
}
