//! A sink's declaration, and the processes that run it: they are killed, stopped and continued, and may end by themselves, which is told
//! with the last that they said. They are killed with the value.

use crate::shell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// What all processes of one run share.
#[derive(Clone)]
pub(super) struct Program {
    pub(super) binary: PathBuf,
    /// Whether several processes can share a sink's partitions.
    pub(super) has_instances: bool,
}

impl Program {
    pub(super) fn new(binary: &Path) -> Result<Self, String> {
        let mut help = Command::new(binary);
        let output = help
            .args(["sink", "run", "--help"])
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("cannot run {}: {error}", binary.display()))?;
        let has_instances = String::from_utf8_lossy(&output.stdout).contains("--instance");
        Ok(Self { binary: binary.to_path_buf(), has_instances })
    }

    /// `ottla sink COMMAND` with this declaration.
    pub(super) fn command(&self, command: &str, config: &Path) -> Command {
        let mut sink = Command::new(&self.binary);
        sink.args(["sink", command, "--config"]).arg(config).stdin(Stdio::null());
        sink
    }

    pub(super) fn run(&self, config: &Path, instance: &str) -> Command {
        let mut run = self.command("run", config);
        if self.has_instances {
            run.args(["--instance", instance]);
        }
        run
    }
}

/// How one ended by itself.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) status: ExitStatus,
    /// The last that it said.
    pub(super) said: String,
}

/// One process of a sink.
pub(super) struct Instance {
    pub(super) name: String,
    child: Child,
    log: PathBuf,
}

impl Instance {
    /// Starts it; what it says goes to a log that all processes of this name share.
    pub(super) fn start(mut command: Command, name: &str, home: &Path) -> Result<Self, String> {
        let log = home.join(format!("{name}.log"));
        shell::note(&log, &format!("--- {}\n", shell::words(&command)))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(shell::append(&log)?)
            .stderr(shell::append(&log)?)
            .spawn()
            .map_err(|error| format!("cannot run {}: {error}", shell::words(&command)))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    pub(super) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// How it has ended by itself, if it has.
    pub(super) fn ended(&mut self) -> Result<Option<End>, String> {
        let ended =
            self.child.try_wait().map_err(|error| format!("cannot look after {}: {error}", self.name))?;
        Ok(ended.map(|status| End { status, said: self.last_line() }))
    }

    fn last_line(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let said = text.lines().rev().find(|line| !line.trim().is_empty());
        said.unwrap_or_default().to_owned()
    }

    pub(super) fn signal(&self, name: &str) -> Result<(), String> {
        shell::signal(self.child.id(), name)
    }

    /// kill -9, which one that is stopped gets too.
    pub(super) fn kill(&mut self) -> Result<(), String> {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        killed.map_err(|error| format!("cannot kill {}: {error}", self.name))?;
        shell::note(&self.log, "--- killed\n")
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
