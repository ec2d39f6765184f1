//! A Redis and a PostgreSQL of one's own, from Debian's packages, on private ports and directories. They are killed and come
//! back on what they had written; what is in them is read with their own tools, so that nothing of ours vouches for ours.

use crate::shell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// For a server to answer; a start after a kill replays its log.
const START_MAX: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

/// Which store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Redis,
    Postgres,
}

/// A server; it is killed with the value.
pub(crate) struct Store {
    kind: Kind,
    port: u16,
    dir: PathBuf,
    log: PathBuf,
    process: Child,
}

impl Store {
    pub(crate) fn start(kind: Kind, home: &Path) -> Result<Self, String> {
        let port = shell::lasting_ports(1)?[0];
        let (name, dir) = match kind {
            Kind::Redis => ("redis", home.join("redis")),
            // Its own user, which it wants when we are root, has to get through to its files.
            Kind::Postgres => {
                ("postgres", std::env::temp_dir().join(format!("ottla-store-{}", shell::unix_micros())))
            }
        };
        let log = home.join(format!("{name}.log"));
        fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        if kind == Kind::Postgres {
            init(&dir, &log)?;
        }
        let process = run(kind, port, &dir, &log)?;
        let mut store = Self { kind, port, dir, log, process };
        store.wait_until_there()?;
        Ok(store)
    }

    /// As a reader of ours is told.
    pub(crate) fn address(&self) -> String {
        let port = self.port;
        match self.kind {
            Kind::Redis => format!("redis:redis://127.0.0.1:{port}/"),
            Kind::Postgres => {
                format!("postgres:host=127.0.0.1 port={port} user=reader dbname=postgres connect_timeout=5")
            }
        }
    }

    /// As `ottla sink` is told.
    pub(crate) fn url(&self) -> String {
        let port = self.port;
        match self.kind {
            Kind::Redis => format!("redis://127.0.0.1:{port}/0"),
            Kind::Postgres => format!("postgresql://reader@127.0.0.1:{port}/postgres"),
        }
    }

    /// What it answers to one command: words of Redis, or a statement.
    pub(crate) fn ask(&self, words: &[&str]) -> Result<String, String> {
        let port = self.port.to_string();
        let mut command = match self.kind {
            Kind::Redis => Command::new("redis-cli"),
            Kind::Postgres => Command::new(programs()?.join("psql")),
        };
        match self.kind {
            Kind::Redis => command.args(["-h", "127.0.0.1", "-p", &port]),
            Kind::Postgres => command
                .args(["-h", "127.0.0.1", "-p", &port, "-U", "reader", "-d", "postgres"])
                .args(["-v", "ON_ERROR_STOP=1", "-qAt", "-F", " ", "-c"]),
        };
        let output = command
            .args(words)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("cannot run {}: {error}", shell::words(&command)))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{}: {}", shell::words(&command), said.trim()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) -> Result<(), String> {
        let killed = self.process.kill().and_then(|()| self.process.wait());
        killed.map(|_| ()).map_err(|error| format!("cannot kill {:?}: {error}", self.kind))
    }

    /// A new start on the same directory, until it answers.
    pub(crate) fn start_again(&mut self) -> Result<(), String> {
        self.process = run(self.kind, self.port, &self.dir, &self.log)?;
        self.wait_until_there()
    }

    fn wait_until_there(&mut self) -> Result<(), String> {
        let deadline = shell::now() + START_MAX;
        loop {
            let answer = match self.kind {
                Kind::Redis => self.ask(&["PING"]),
                Kind::Postgres => self.ask(&["SELECT 'PONG'"]),
            };
            if answer.as_deref().is_ok_and(|answer| answer.trim() == "PONG") {
                return Ok(());
            }
            if shell::now() > deadline {
                return Err(format!("{:?} does not answer, see {}", self.kind, self.log.display()));
            }
            // A PostgreSQL does not start while the processes of the one that was killed are still there.
            if self.process.try_wait().map_err(|error| error.to_string())?.is_some() {
                self.process = run(self.kind, self.port, &self.dir, &self.log)?;
            }
            std::thread::sleep(PAUSE);
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.kill();
        if self.kind == Kind::Postgres {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

fn run(kind: Kind, port: u16, dir: &Path, log: &Path) -> Result<Child, String> {
    let port = port.to_string();
    let mut command = match kind {
        Kind::Redis => Command::new("redis-server"),
        Kind::Postgres => of_postgres("postgres")?,
    };
    match kind {
        // Each command is on disk before it is answered.
        Kind::Redis => command
            .args(["--port", &port, "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "yes", "--appendfsync", "always", "--dir"])
            .arg(dir),
        Kind::Postgres => {
            command.args(["-p", &port, "-h", "127.0.0.1", "-c", "unix_socket_directories=", "-D"]).arg(dir)
        }
    };
    command
        .stdin(Stdio::null())
        .stdout(shell::append(log)?)
        .stderr(shell::append(log)?)
        .spawn()
        .map_err(|error| format!("cannot run {}: {error}", shell::words(&command)))
}

fn init(dir: &Path, log: &Path) -> Result<(), String> {
    if is_root() {
        shell::run_logged(Command::new("chown").arg("postgres").arg(dir), log)?;
    }
    let mut init = of_postgres("initdb")?;
    init.args(["--auth=trust", "--username=reader", "--encoding=UTF8", "--no-instructions", "-D"]).arg(dir);
    shell::run_logged(&mut init, log)
}

/// A program that refuses to run as root.
fn of_postgres(name: &str) -> Result<Command, String> {
    let program = programs()?.join(name);
    Ok(match is_root() {
        true => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
            command
        }
        false => Command::new(program),
    })
}

/// Debian does not put them on the path.
fn programs() -> Result<PathBuf, String> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let bins = versions.map(|version| version.path().join("bin")).filter(|bin| bin.join("initdb").exists());
    bins.max().ok_or_else(|| "there is no PostgreSQL in /usr/lib/postgresql".to_owned())
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}
