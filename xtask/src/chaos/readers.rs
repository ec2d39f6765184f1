//! Two members of one group that read the topic during the run, commit, and write down what they see. What that must look
//! like is for the verifier; here they only have to live. They are killed with the value.

use super::TOPIC;
use crate::shell;
use crate::toolbox::Toolbox;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

const MEMBERS: usize = 2;
/// For them to read what is left and to see that nothing more comes.
const END_SECONDS_MAX: u64 = 120;

struct Reader {
    child: Child,
    seen: PathBuf,
    log: PathBuf,
}

pub(super) struct Readers(Vec<Reader>);

impl Readers {
    pub(super) fn start(toolbox: &Toolbox, bootstrap: &str, home: &Path) -> Result<Self, String> {
        let mut readers = Self(Vec::new());
        for member in 1..=MEMBERS {
            let seen = home.join(format!("reader{member}.seen"));
            let log = home.join(format!("reader{member}.log"));
            let mut program = toolbox.python_program("group_reader.py");
            program
                .args(["--bootstrap", bootstrap, "--topic", TOPIC, "--group", "chaos", "--log"])
                .arg(&seen);
            let child = program
                .stdin(Stdio::piped())
                .stdout(shell::append(&log)?)
                .stderr(shell::append(&log)?)
                .spawn()
                .map_err(|error| format!("cannot run {}: {error}", shell::words(&program)))?;
            readers.0.push(Reader { child, seen, log });
        }
        Ok(readers)
    }

    /// None of them has a reason to end before it is told to.
    pub(super) fn check(&mut self) -> Result<(), String> {
        for reader in &mut self.0 {
            if let Some(status) = reader.child.try_wait().map_err(|error| error.to_string())? {
                return Err(format!("a reader ended ({status}), see {}", reader.log.display()));
            }
        }
        Ok(())
    }

    /// Ends their input, waits until they have read everything, and gives the files of what they saw.
    pub(super) fn stop(mut self) -> Result<Vec<PathBuf>, String> {
        for reader in &mut self.0 {
            drop(reader.child.stdin.take());
        }
        let deadline = shell::now() + Duration::from_secs(END_SECONDS_MAX);
        for Reader { child, log, .. } in &mut self.0 {
            let status = loop {
                if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
                    break status;
                }
                if shell::now() > deadline {
                    return Err(format!(
                        "a reader does not end in {END_SECONDS_MAX} s, see {}",
                        log.display()
                    ));
                }
                std::thread::sleep(Duration::from_millis(20));
            };
            if !status.success() {
                return Err(format!("a reader failed ({status}), see {}", log.display()));
            }
        }
        Ok(self.0.iter().map(|reader| reader.seen.clone()).collect())
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        for reader in &mut self.0 {
            // Already gone is as good.
            let _ = reader.child.kill();
            let _ = reader.child.wait();
        }
    }
}
