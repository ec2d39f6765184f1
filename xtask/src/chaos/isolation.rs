//! Everything that a run does to networks and mounts, it does in namespaces of its own: the command starts itself again in
//! them. They end with the last process in them, and all processes in them end with the command, however it ends; so
//! there is nothing to clean up, and nothing of an earlier run to find.

use crate::shell;
use std::path::Path;
use std::process::Command;

/// Tells the command that it is in the namespaces already.
pub(super) const INSIDE: &str = "--inside-namespaces";

/// Runs the command again, inside, with the same options and what was decided here: the seed and the binary.
pub(super) fn enter(args: &[String], seed: u64, binary: &Path) -> Result<(), String> {
    let own = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let mut probe = isolated();
    let answer = probe.arg("true").output();
    let refused = match answer {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(error.to_string()),
    };
    if let Some(reason) = refused {
        return Err(format!("cannot make namespaces here (root on Linux is needed): {reason}"));
    }
    let mut command = isolated();
    command.arg(own).args(["chaos", INSIDE]).args(args);
    // The first of two wins, and one that was given is the same.
    if !args.iter().any(|arg| arg == "--seed") {
        command.args(["--seed", &seed.to_string()]);
    }
    if !args.iter().any(|arg| arg == "--binary") {
        command.arg("--binary").arg(binary);
    }
    let status =
        command.status().map_err(|error| format!("cannot run {}: {error}", shell::words(&command)))?;
    if status.success() { Ok(()) } else { Err("failed, see above".to_owned()) }
}

/// `unshare`, killed with us, which kills the first process inside, which takes all others with it.
fn isolated() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).args([
        "unshare",
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]);
    command
}
