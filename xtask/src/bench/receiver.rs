//! The machine's price for a produce run: its bytes are recorded once per cell and sent again to the minimal receiver.
//! The price is per GiB of records, like a broker's, although the receiver takes the requests around them too.
//! It never measures the sender.

use super::options::{Durability, Generator};
use super::tools::{Load, Rate, Target, Workshop, figure, output, parse_figures};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

const RECORDED_BYTES_MAX: u64 = 512 << 20;

/// What a client sent while it produced.
pub(crate) struct Recording {
    path: PathBuf,
    wire_bytes_per_payload_byte: f64,
}

impl Drop for Recording {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Produces `load` to `target` through the recorder. The rate is that of a run with a detour: good for planning only.
pub(crate) fn record(
    workshop: &Workshop,
    target: Target<'_>,
    load: Load,
) -> Result<(Rate, Recording), String> {
    let path = workshop.scratch().join("recording");
    let mut command = workshop.receiver();
    command.args(["record", "127.0.0.1:0", target.bootstrap]).arg(&path);
    command.arg(RECORDED_BYTES_MAX.to_string());
    let recorder = Listener::start(&mut command)?;
    let detour = Target { bootstrap: &recorder.address, ..target };
    let rate = workshop.produce(Generator::Librdkafka, detour, load)?;
    let recorded = figure(&parse_figures(&recorder.finish()?), "bytes")?;
    Ok((rate, Recording { path, wire_bytes_per_payload_byte: recorded / load.bytes() as f64 }))
}

/// Sends as much as `load` took to a fresh minimal receiver and returns its CPU seconds per GiB of records.
pub(crate) fn receive(
    workshop: &Workshop,
    recording: &Recording,
    durability: Durability,
    load: Load,
) -> Result<f64, String> {
    let file = workshop.scratch().join("received");
    let outcome = receive_into(workshop, recording, durability, load, &file);
    let _ = fs::remove_file(&file);
    Ok(outcome? / load.gib())
}

fn receive_into(
    workshop: &Workshop,
    recording: &Recording,
    durability: Durability,
    load: Load,
    file: &Path,
) -> Result<f64, String> {
    let mut command = workshop.receiver();
    command.args(["receive", "127.0.0.1:0"]).arg(file).arg(durability.to_string());
    let receiver = Listener::start(&mut command)?;
    let bytes = (load.bytes() as f64 * recording.wire_bytes_per_payload_byte) as u64;
    let mut replay = workshop.receiver();
    replay.args(["replay", &receiver.address]).arg(&recording.path).arg(bytes.to_string());
    output(&mut replay)?;
    figure(&parse_figures(&receiver.finish()?), "cpu_seconds")
}

/// A receiver process that has said where it listens.
struct Listener {
    process: Child,
    printed: BufReader<ChildStdout>,
    address: String,
}

impl Listener {
    fn start(command: &mut Command) -> Result<Self, String> {
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut process = spawned.map_err(|e| format!("receiver: {e}"))?;
        let stdout = process.stdout.take().ok_or("receiver: no output")?;
        let mut listener = Self { process, printed: BufReader::new(stdout), address: String::new() };
        let mut line = String::new();
        listener.printed.read_line(&mut line).map_err(|e| format!("receiver: {e}"))?;
        let address = line.strip_prefix("listening ").ok_or("receiver: did not come up")?;
        listener.address = address.trim().to_owned();
        Ok(listener)
    }

    /// Closes its standard input, which ends a recording, and reads its figures.
    fn finish(mut self) -> Result<String, String> {
        drop(self.process.stdin.take());
        let mut rest = String::new();
        self.printed.read_to_string(&mut rest).map_err(|e| format!("receiver: {e}"))?;
        let status = self.process.wait().map_err(|e| format!("receiver: {e}"))?;
        if status.success() { Ok(rest) } else { Err(format!("receiver: {status}")) }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // After `finish` there is nothing left to end.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
