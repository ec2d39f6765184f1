//! Whether a topic is what its producers and readers were told, after whatever was done to the brokers in between.

use crate::shell;
use crate::toolbox::Toolbox;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What clients have written down, each into a file of its own.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) producers: Vec<PathBuf>,
    pub(crate) readers: Vec<PathBuf>,
    /// Which offsets were written in which producer epoch: one line per batch of an epoch above 0.
    pub(crate) epochs: String,
}

/// What transactional producers have written down, and those that copied what they wrote.
#[derive(Debug)]
pub(crate) struct Transacted {
    pub(crate) producers: Vec<(&'static str, PathBuf)>,
    pub(crate) copying: Vec<PathBuf>,
}

/// Reads the topic as a client, compares it with what clients have written down, and prints the figures.
pub(crate) fn verify(
    toolbox: &Toolbox,
    bootstrap: &str,
    topic: &str,
    told: &Told,
    home: &Path,
) -> Result<(), String> {
    let epochs = home.join("epochs");
    fs::write(&epochs, &told.epochs).map_err(|error| format!("{}: {error}", epochs.display()))?;
    let mut verify = toolbox.python_program("crash_verify.py");
    verify.args(["--bootstrap", bootstrap, "--topic", topic]).arg("--epochs").arg(epochs);
    verify.arg("--readers").args(&told.readers).arg("--").args(&told.producers);
    judge(verify, &home.join("verify.log"))
}

/// The same for a topic of transactions and its copy.
pub(crate) fn verify_transactions(
    toolbox: &Toolbox,
    bootstrap: &str,
    topic: &str,
    transacted: &Transacted,
    home: &Path,
) -> Result<(), String> {
    let mut verify = toolbox.python_program("transactional_verify.py");
    verify.args(["--bootstrap", bootstrap, "--topic", topic]);
    verify.arg("--copied").args(&transacted.copying).arg("--");
    verify.args(transacted.producers.iter().map(|(name, log)| format!("{name}={}", log.display())));
    judge(verify, &home.join("verify-transactions.log"))
}

fn judge(mut verify: Command, log: &Path) -> Result<(), String> {
    let verdict = shell::pipe(&mut verify, "", log);
    let text = fs::read_to_string(log).unwrap_or_default();
    print!("{}", text.lines().skip(1).map(|line| line.to_owned() + "\n").collect::<String>());
    verdict.map(|_| ())
}
