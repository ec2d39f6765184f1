//! A reader or producer as a process: what it says goes to a file of its own, line by line, and it ends when its standard
//! input does. It is killed with the value.

use crate::shell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const PAUSE: Duration = Duration::from_millis(20);
/// For a program to come to what it will come to.
const EVENT_MAX: Duration = Duration::from_secs(90);
/// For a program that was asked to end.
const STOP_MAX: Duration = Duration::from_secs(60);

pub(crate) struct Program {
    name: String,
    child: Child,
    said: PathBuf,
    log: PathBuf,
}

impl Program {
    pub(crate) fn start(mut command: Command, name: &str, home: &Path) -> Result<Self, String> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let said = home.join(format!("{name}.{number}.said"));
        let log = home.join(format!("{name}.log"));
        shell::note(&log, &format!("--- {}\n", shell::words(&command)))?;
        let child = command
            .stdin(Stdio::piped())
            .stdout(shell::append(&said)?)
            .stderr(shell::append(&log)?)
            .spawn()
            .map_err(|error| format!("cannot run {}: {error}", shell::words(&command)))?;
        Ok(Self { name: name.to_owned(), child, said, log })
    }

    /// The lines that it has said.
    pub(crate) fn said(&self) -> Result<Vec<String>, String> {
        let text = fs::read(&self.said).map_err(|error| format!("{}: {error}", self.said.display()))?;
        Ok(String::from_utf8_lossy(&text).lines().map(str::to_owned).collect())
    }

    /// How often it has said so.
    pub(crate) fn count(&self, what: &str) -> Result<usize, String> {
        Ok(self.said()?.iter().filter(|line| line.as_str() == what).count())
    }

    pub(crate) fn wait_for(&mut self, what: &str) -> Result<(), String> {
        self.wait_for_more(what, 0)
    }

    /// Waits until it has said so more often than this.
    pub(crate) fn wait_for_more(&mut self, what: &str, before: usize) -> Result<(), String> {
        let deadline = shell::now() + EVENT_MAX;
        while self.count(what)? <= before {
            self.check()?;
            if shell::now() > deadline {
                let (seconds, log) = (EVENT_MAX.as_secs(), self.said.display());
                return Err(format!("{} has not said {what:?} after {seconds} s, see {log}", self.name));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// None has a reason to end by itself.
    pub(crate) fn check(&mut self) -> Result<(), String> {
        match self.child.try_wait().map_err(|error| error.to_string())? {
            None => Ok(()),
            Some(status) => Err(format!("{} ended ({status}), see {}", self.name, self.log.display())),
        }
    }

    pub(crate) fn signal(&self, name: &str) -> Result<(), String> {
        shell::signal(self.child.id(), name)
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) -> Result<(), String> {
        self.check()?;
        let killed = self.child.kill().and_then(|()| self.child.wait());
        killed.map(|_| ()).map_err(|error| format!("cannot kill {}: {error}", self.name))
    }

    /// Ends its input and waits until it has ended; what it has said.
    pub(crate) fn stop(mut self) -> Result<Vec<String>, String> {
        drop(self.child.stdin.take());
        self.ended()
    }

    /// Waits until it has ended by itself; what it has said.
    pub(crate) fn ended(mut self) -> Result<Vec<String>, String> {
        let deadline = shell::now() + STOP_MAX;
        loop {
            match self.child.try_wait().map_err(|error| error.to_string())? {
                Some(status) if status.success() => return self.said(),
                Some(status) => {
                    return Err(format!("{} failed ({status}), see {}", self.name, self.log.display()));
                }
                None if shell::now() > deadline => {
                    let (seconds, log) = (STOP_MAX.as_secs(), self.log.display());
                    return Err(format!("{} has not ended after {seconds} s, see {log}", self.name));
                }
                None => std::thread::sleep(PAUSE),
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Already gone is as good; a stopped process is killed too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
