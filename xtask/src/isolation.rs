//! What a run does to mounts and networks, it does in namespaces of its own: the command starts itself again in
//! them. They end with the last process in them, and all processes in them end with the command, however it ends; so
//! there is nothing to clean up, and nothing of an earlier run to find.

use crate::shell;
use std::process::Command;

/// Tells the command that it is in the namespaces already.
pub(crate) const INSIDE: &str = "--inside-namespaces";

/// What a run has for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// Mounts and processes.
    Local,
    /// The network too.
    WithNetwork,
}

/// Runs the command again, inside, with the same options and what was decided here, as the seed and the binary.
pub(crate) fn enter(
    name: &str,
    isolation: Isolation,
    args: &[String],
    decided: &[(&str, String)],
) -> Result<(), String> {
    let own = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let mut probe = isolated(isolation);
    let answer = probe.arg("true").output();
    let refused = match answer {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(error.to_string()),
    };
    if let Some(reason) = refused {
        return Err(format!("cannot make namespaces here (root on Linux is needed): {reason}"));
    }
    let mut command = isolated(isolation);
    command.arg(own).args([name, INSIDE]).args(args);
    for (option, value) in decided {
        // The first of two wins, and one that was given is the same.
        if !args.iter().any(|arg| arg == option) {
            command.args([option, value.as_str()]);
        }
    }
    let status =
        command.status().map_err(|error| format!("cannot run {}: {error}", shell::words(&command)))?;
    if status.success() { Ok(()) } else { Err("failed, see above".to_owned()) }
}

/// `unshare`, killed with us, which kills the first process inside, which takes all others with it.
fn isolated(isolation: Isolation) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare"]);
    if isolation == Isolation::WithNetwork {
        command.arg("--net");
    }
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command
}
