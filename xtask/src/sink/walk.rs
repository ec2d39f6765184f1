//! `cargo xtask sink`: the commands of docs/sink.md's first table, as they stand there, from a broker to a table that DuckDB reads.
//!
//! They run in an empty directory. All that is put in their place is the port: the broker is told to listen at a free one, and the
//! other commands are told by `OTTLA_BROKERS`. Python is the one of `.tools/`, which has DuckDB.

use super::page::{self, Command, Step};
use crate::arguments::Arguments;
use crate::compat;
use crate::shell;
use crate::toolbox::{Kit, Toolbox};
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Stdio};
use std::time::Duration;

const USAGE: &str = "\
usage: cargo xtask sink [options]

  --binary PATH    an ottla that is already built, instead of building the release profile

Runs every command of the first table in docs/sink.md, and compares all rows of the table with the lines they were made of.
";

const PAGE: &str = "docs/sink.md";
/// More than this and it is no first table any more.
const COMMANDS_MAX: usize = 9;
/// For one command.
const COMMAND_MAX: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);
/// What the page makes, for the comparison at the end.
const LINES: &str = "orders.jsonl";
const TABLE: &str = "orders";

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let Some(mut arguments) = Arguments::new(args, USAGE) else { return Ok(()) };
    let binary = arguments.value("--binary")?.map(PathBuf::from);
    arguments.finish()?;

    let path = shell::root().join(PAGE);
    let text = fs::read_to_string(&path).map_err(|error| format!("{PAGE}: {error}"))?;
    let steps = page::parse(&text).map_err(|reason| format!("{PAGE}: {reason}"))?;
    let commands = steps.iter().filter(|step| matches!(step, Step::Command(_))).count();
    if commands == 0 || commands > COMMANDS_MAX {
        return Err(format!("{PAGE}: a first table takes 1 to {COMMANDS_MAX} commands, and not {commands}"));
    }
    let toolbox = Toolbox::install(&[Kit::Python])?;
    let home = shell::scratch("sink")?;
    let begin = shell::now();
    let mut walk = Walk::new(&toolbox, &compat::ottla(binary)?, &home)?;
    for step in &steps {
        match step {
            Step::File { name, text } => {
                let path = walk.place.join(name);
                fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
            }
            Step::Command(command) => {
                println!("  $ {}", command.text);
                walk.run(command).map_err(|reason| format!("{PAGE}:{}: {reason}", command.line))?;
            }
        }
    }
    let mut compare = toolbox.python_program("sink_rows.py");
    compare.arg("--lines").arg(walk.place.join(LINES)).arg("--table").arg(walk.place.join(TABLE));
    let log = walk.log.clone();
    let figures =
        shell::pipe(&mut compare, "", &log).map_err(|reason| format!("{reason}\n{}", tail(&log)))?;
    let (rows, files) = figures.trim().split_once(' ').ok_or("no figures of the table")?;
    println!(
        "{commands} commands of {PAGE}, in {:.1} s: {rows} rows in {files} files, each line of {LINES} once, with its values",
        begin.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Where the commands run; those that stay end with the value.
struct Walk {
    place: PathBuf,
    log: PathBuf,
    path: String,
    port: u16,
    admin_port: u16,
    staying: Vec<Child>,
}

impl Walk {
    fn new(toolbox: &Toolbox, binary: &Path, home: &Path) -> Result<Self, String> {
        let (bin, place) = (home.join("bin"), home.join("here"));
        let at = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
        for folder in [&bin, &place] {
            fs::create_dir(folder).map_err(|error| at(folder, error))?;
        }
        let binary = fs::canonicalize(binary).map_err(|error| at(binary, error))?;
        std::os::unix::fs::symlink(&binary, bin.join("ottla")).map_err(|error| at(&bin, error))?;
        let path = [bin.display().to_string(), toolbox.python_bin().display().to_string()];
        Ok(Self {
            place,
            log: home.join("commands.log"),
            path: format!("{}:{}", path.join(":"), std::env::var("PATH").unwrap_or_default()),
            port: shell::free_port()?,
            admin_port: shell::free_port()?,
            staying: Vec::new(),
        })
    }

    fn run(&mut self, command: &Command) -> Result<(), String> {
        let (port, admin_port) = (self.port, self.admin_port);
        let text = match command.stays {
            // Its own process, and not a shell's child: it is killed by its id.
            true => format!("exec {} --listen 127.0.0.1:{port} --admin 127.0.0.1:{admin_port}", command.text),
            false => command.text.clone(),
        };
        shell::note(&self.log, &format!("$ {text}\n"))?;
        let mut process = process::Command::new("sh");
        process
            .args(["-c", &text])
            .current_dir(&self.place)
            .env("PATH", &self.path)
            .env("OTTLA_BROKERS", format!("127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stderr(shell::append(&self.log)?);
        let spawned = |process: &mut process::Command| {
            process.spawn().map_err(|error| format!("cannot run {}: {error}", command.text))
        };
        if command.stays {
            self.staying.push(spawned(process.stdout(shell::append(&self.log)?))?);
            return self.wait_until_listening();
        }
        let said = self.place.with_file_name("said");
        let file = fs::File::create(&said).map_err(|error| format!("{}: {error}", said.display()))?;
        let mut child = spawned(process.stdout(file))?;
        let status = super::ended(&mut child, shell::now() + COMMAND_MAX, &command.text);
        let said = fs::read_to_string(&said).map_err(|error| format!("{}: {error}", said.display()))?;
        shell::note(&self.log, &said)?;
        let status = status?;
        if !status.success() {
            return Err(format!("`{}` ended with {status}\n{}", command.text, tail(&self.log)));
        }
        match &command.prints {
            Some(prints) if said.trim_end() != prints => {
                Err(format!("`{}` prints\n{said}and the page says {prints}", command.text))
            }
            _ => Ok(()),
        }
    }

    /// Whoever reads the page sees it.
    fn wait_until_listening(&mut self) -> Result<(), String> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let deadline = shell::now() + COMMAND_MAX;
        let broker = self.staying.last_mut().expect("it was just started");
        while TcpStream::connect_timeout(&address, PAUSE).is_err() {
            let ended = broker.try_wait().map_err(|error| error.to_string())?;
            if ended.is_some() || shell::now() > deadline {
                return Err(format!("nobody listens on {address}\n{}", tail(&self.log)));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        for child in &mut self.staying {
            // Already gone is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The last that was said.
fn tail(log: &Path) -> String {
    const LINES_MAX: usize = 12;
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES_MAX)..].join("\n")
}
