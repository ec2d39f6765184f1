//! Machines that are directories: each has its own `/etc/ottla`, `/var/lib/ottla` and `/usr/local/bin`, and ports of its own on
//! loopback in the place of its name. The broker is a child of this process and does not outlive it.

use super::page::Command;
use crate::shell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, ExitStatus, Stdio};
use std::time::Duration;

/// Longest time for one line.
const LINE_MAX: Duration = Duration::from_secs(180);
/// Longest time that a broker may take to stop.
const STOP_MAX: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(10);
/// Lines that are shown of what a line said that failed.
const SAID_MAX: usize = 12;
/// Ports as the page has them.
const KAFKA_PORT: u16 = 9092;
const ADMIN_PORT: u16 = 9644;
/// Directories of a machine that the page names.
const DIRECTORIES: [&str; 3] = ["/etc/ottla", "/var/lib/ottla", "/usr/local/bin"];
const SETTINGS: &str = "/etc/ottla/server.properties";
const DATA: &str = "/var/lib/ottla";
const PROGRAM: &str = "/usr/local/bin/ottla";
/// Where commands run that run anywhere.
const DESK: &str = "desk";

/// All machines, and what was exported so far.
#[derive(Debug)]
pub(super) struct Machines {
    home: PathBuf,
    machines: BTreeMap<String, Machine>,
    exported: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Machine {
    root: PathBuf,
    kafka_port: u16,
    admin_port: u16,
    /// Settings by key, as the page has them.
    settings: BTreeMap<String, String>,
    process: Option<Child>,
}

impl Machines {
    pub(super) fn new(home: &Path, names: &BTreeSet<String>, binary: &Path) -> Result<Self, String> {
        let mut machines = BTreeMap::new();
        for name in names {
            let machine = Machine {
                root: home.join(name),
                kafka_port: shell::free_port()?,
                admin_port: shell::free_port()?,
                settings: BTreeMap::new(),
                process: None,
            };
            machines.insert(name.clone(), machine);
        }
        let all = Machines { home: home.to_path_buf(), machines, exported: BTreeMap::new() };
        for root in names.iter().map(String::as_str).chain([DESK]).map(|name| home.join(name)) {
            for directory in DIRECTORIES {
                let path = inside(&root, directory);
                fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            }
            // The one that is installed, and beside it the one that an upgrade installs.
            for program in [inside(&root, PROGRAM), root.join("ottla")] {
                fs::copy(binary, &program).map_err(|error| format!("{}: {error}", program.display()))?;
            }
        }
        Ok(all)
    }

    /// Writes a machine's settings.
    pub(super) fn write(
        &mut self,
        machine: &str,
        path: &str,
        base: Option<&str>,
        lines: &[String],
    ) -> Result<(), String> {
        if path != SETTINGS {
            return Err(format!("{path} is not where the service looks for its settings"));
        }
        let mut settings = match base {
            Some(base) => self.machine(base)?.settings.clone(),
            None => BTreeMap::new(),
        };
        for line in lines {
            let (key, value) = line.split_once('=').ok_or_else(|| format!("no setting: {line}"))?;
            settings.insert(key.to_owned(), value.to_owned());
        }
        let text: String = settings.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
        let (root, kafka, admin) = {
            let machine = self.machine(machine)?;
            machine.settings = settings;
            (machine.root.clone(), machine.kafka_port, machine.admin_port)
        };
        // Every interface is loopback here.
        let text = self
            .localized(&text, &root)
            .replace(&format!("://:{KAFKA_PORT}"), &format!("://127.0.0.1:{kafka}"))
            .replace(&format!("=:{ADMIN_PORT}"), &format!("=127.0.0.1:{admin}"));
        let file = inside(&root, path);
        fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))
    }

    /// Runs one line.
    pub(super) fn run(&mut self, machine: Option<&str>, command: &Command) -> Result<(), String> {
        println!("{:>8} $ {}", machine.unwrap_or(""), command.text);
        if let Some((name, value)) =
            command.text.strip_prefix("export ").and_then(|text| text.split_once('='))
        {
            self.exported.insert(name.to_owned(), value.to_owned());
            return Ok(());
        }
        if let Some(verb) =
            command.text.strip_prefix("systemctl ").and_then(|text| text.strip_suffix(" ottla"))
        {
            let machine = machine.ok_or("systemctl runs on a machine")?;
            return match verb {
                "start" => self.start(machine),
                "stop" => self.stop(machine),
                "restart" => self.stop(machine).and_then(|()| self.start(machine)),
                other => Err(format!("systemctl {other} is not played here")),
            };
        }
        let (status, _) = self.line(machine.unwrap_or(DESK), &command.text)?;
        match status.code() {
            Some(code) if code == command.exit_code => Ok(()),
            _ => Err(self.ended(&command.text, status)),
        }
    }

    /// What a line prints that must succeed.
    pub(super) fn output(&self, text: &str) -> Result<String, String> {
        let (status, output) = self.line(DESK, text)?;
        match status.success() {
            true => Ok(output),
            false => Err(self.ended(text, status)),
        }
    }

    /// A line ended as it must not, and the last that it said.
    fn ended(&self, text: &str, status: ExitStatus) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(SAID_MAX)..].join("\n");
        format!("`{text}` ended with {status}, see {}\n{last}", self.log().display())
    }

    pub(super) fn kill(&mut self, machine: &str) -> Result<(), String> {
        println!("{machine:>8} . is killed");
        let machine = self.machine(machine)?;
        let mut process = machine.process.take().ok_or("it is not running")?;
        process.kill().and_then(|()| process.wait()).map_err(|error| error.to_string())?;
        Ok(())
    }

    pub(super) fn empty_disk(&mut self, machine: &str) -> Result<(), String> {
        println!("{machine:>8} . loses its disk");
        let data = inside(&self.machine(machine)?.root, DATA);
        fs::remove_dir_all(&data)
            .and_then(|()| fs::create_dir_all(&data))
            .map_err(|error| format!("{}: {error}", data.display()))
    }

    fn machine(&mut self, name: &str) -> Result<&mut Machine, String> {
        self.machines.get_mut(name).ok_or_else(|| format!("there is no machine {name}"))
    }

    fn log(&self) -> PathBuf {
        self.home.join("commands.log")
    }

    /// A text with what stands for paths and addresses here.
    fn localized(&self, text: &str, root: &Path) -> String {
        let mut text = text.to_owned();
        for directory in DIRECTORIES {
            text = text.replace(directory, &inside(root, directory).display().to_string());
        }
        for (name, machine) in &self.machines {
            for (port, here) in [(KAFKA_PORT, machine.kafka_port), (ADMIN_PORT, machine.admin_port)] {
                text = text.replace(&format!("{name}:{port}"), &format!("127.0.0.1:{here}"));
            }
        }
        text
    }

    fn line(&self, machine: &str, text: &str) -> Result<(ExitStatus, String), String> {
        let root = self.home.join(machine);
        let text = self.localized(text, &root);
        let paths = std::env::var("PATH").unwrap_or_default();
        let stdout = root.join("stdout");
        let file = fs::File::create(&stdout).map_err(|error| format!("{}: {error}", stdout.display()))?;
        shell::note(&self.log(), &format!("{machine} $ {text}\n"))?;
        let mut process = Process::new("sh");
        process
            .args(["-c", &text])
            .current_dir(&root)
            .env("PATH", format!("{}:{paths}", inside(&root, "/usr/local/bin").display()))
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(shell::append(&self.log())?);
        for (name, value) in &self.exported {
            process.env(name, self.localized(value, &root));
        }
        let mut child = process.spawn().map_err(|error| format!("cannot run sh: {error}"))?;
        let status = wait(&mut child, LINE_MAX)?;
        if status.is_none() {
            let _ = child.kill().and_then(|()| child.wait());
        }
        let output = fs::read_to_string(&stdout).map_err(|error| format!("{}: {error}", stdout.display()))?;
        shell::note(&self.log(), &output)?;
        let status = status.ok_or_else(|| {
            format!("`{text}` goes on after {} s, see {}", LINE_MAX.as_secs(), self.log().display())
        })?;
        Ok((status, output))
    }

    fn start(&mut self, name: &str) -> Result<(), String> {
        let machine = self.machine(name)?;
        if machine.process.is_some() {
            return Err(format!("{name} is running"));
        }
        let log = shell::append(&machine.root.join("broker.log"))?;
        let copy = log.try_clone().map_err(|error| error.to_string())?;
        let child = Process::new(inside(&machine.root, PROGRAM))
            .args(["start", "--config"])
            .arg(inside(&machine.root, SETTINGS))
            // Long enough for a machine with much else to do.
            .env("KAFKA_BROKER_SESSION_TIMEOUT_MS", "6000")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(copy)
            .spawn();
        machine.process = Some(child.map_err(|error| format!("{name} cannot be started: {error}"))?);
        Ok(())
    }

    fn stop(&mut self, name: &str) -> Result<(), String> {
        let machine = self.machine(name)?;
        let process = machine.process.as_mut().ok_or_else(|| format!("{name} is not running"))?;
        shell::signal(process.id(), "TERM")?;
        let status = wait(process, STOP_MAX)?.ok_or_else(|| format!("{name} does not stop"))?;
        machine.process = None;
        match status.success() {
            true => Ok(()),
            false => Err(format!("{name} ended with {status}, see its broker.log")),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Nobody is left to tell; a process that cannot be killed is gone already.
            let _ = process.kill().and_then(|()| process.wait());
        }
    }
}

/// A machine's path below its directory.
fn inside(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// Waits for a process to end; `None` if it has not in time.
fn wait(child: &mut Child, wait_max: Duration) -> Result<Option<ExitStatus>, String> {
    let deadline = shell::now() + wait_max;
    loop {
        match child.try_wait().map_err(|error| format!("cannot look after a process: {error}"))? {
            Some(status) => return Ok(Some(status)),
            None if shell::now() > deadline => return Ok(None),
            None => std::thread::sleep(LOOK),
        }
    }
}
