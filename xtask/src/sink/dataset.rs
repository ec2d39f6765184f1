//! `cargo xtask sink-dataset`: real text through both lines of one sink, which is killed on the way, at points of its progress and not of
//! the clock. The text of the input, of the table and of the output topic must be the same, in the order of each partition.

use super::instance::{Instance, Program};
use crate::arguments::Arguments;
use crate::compat;
use crate::peer::{Kind, Peer};
use crate::shell;
use crate::toolbox::{Kit, Toolbox};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const USAGE: &str = "\
usage: cargo xtask sink-dataset [options]

  --megabytes N    of text: the sources that cargo has downloaded, line by line (default 30)
  --kills N        of the sink, evenly over its progress (default 10)
  --binary PATH    an ottla that is already built, instead of building the release profile

Ends with 0 only if the text that comes out of the table and of the output topic is the text that went in.
";

const PARTITIONS: u64 = 6;
const TOPIC: &str = "text";
const OUTPUT: &str = "text.out";
/// So many ranges are made of each partition, about, and so many transactions of all.
const RANGES: u64 = 25;
const TRANSACTIONS: u64 = 150;
/// For a sink that makes no progress, and for a program behind it.
const SILENCE_MAX: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(50);

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let Some(mut arguments) = Arguments::new(args, USAGE) else { return Ok(()) };
    let megabytes = arguments.number("--megabytes", 30)?.clamp(1, 10_000);
    let kills = arguments.number("--kills", 10)?.clamp(1, 100);
    let binary = arguments.value("--binary")?.map(PathBuf::from);
    arguments.finish()?;

    let toolbox = Toolbox::install(&[Kit::Python])?;
    let binary = compat::ottla(binary)?;
    let home = shell::scratch("sink-dataset")?;
    println!("logs in {}", home.display());
    let mut peer = Peer::new(Kind::Ottla { binary: binary.clone() }, &home.join("broker"), &[])?;
    peer.start(&toolbox)?;
    let bootstrap = peer.bootstrap();
    let run = Run { toolbox: &toolbox, program: Program::new(&binary)?, bootstrap, home: &home };
    let outcome = run.play(megabytes, kills);
    peer.check_alive()?;
    outcome.map_err(|reason| format!("{reason}; see {}", home.display()))
}

struct Run<'a> {
    toolbox: &'a Toolbox,
    program: Program,
    bootstrap: String,
    home: &'a Path,
}

impl Run<'_> {
    fn play(&self, megabytes: u64, kills: u64) -> Result<(), String> {
        let begin = shell::now();
        let input = self.produce(megabytes)?;
        let (records, bytes) = totals(&input)?;
        println!(
            "{records} lines of {bytes} bytes are in the topic, after {:.0} s",
            begin.elapsed().as_secs_f64()
        );
        let config = self.declare(records)?;
        let begin = shell::now();
        self.kill_on_the_way(&config, records, kills)?;
        println!("everything is through, after {:.0} s", begin.elapsed().as_secs_f64());

        let mut verify = self.program.command("verify", &config);
        let verdict = shell::pipe(&mut verify, "", &self.home.join("verify.log"))?;
        println!("ottla sink verify: {}", verdict.lines().last().unwrap_or_default());
        let mut table = self.python("table");
        let mut topic = self.python("topic");
        let outputs = [
            ("the table", shell::pipe(table.arg(self.table()), "", &self.log())?),
            (
                "the topic",
                shell::pipe(topic.args(["--bootstrap", &self.bootstrap, OUTPUT]), "", &self.log())?,
            ),
        ];
        for (what, got) in outputs {
            if got != input {
                return Err(format!(
                    "{what} is not what went in: partition, records, bytes, digest\n{got}and not\n{input}"
                ));
            }
        }
        println!(
            "{records} lines of {bytes} bytes went in, and came out of the table and of the topic, the same, {kills} kills later"
        );
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.home.join("digests.log")
    }

    fn table(&self) -> PathBuf {
        self.home.join("table")
    }

    /// A command of sink_dataset.py.
    fn python(&self, command: &str) -> Command {
        let mut python = self.toolbox.python_program("sink_dataset.py");
        python.args(["--partitions", &PARTITIONS.to_string(), command]);
        python
    }

    /// Puts the text into the topic; its digest.
    fn produce(&self, megabytes: u64) -> Result<String, String> {
        let log = self.home.join("produce.log");
        let mut create = Command::new(&self.program.binary);
        create.args(["topic", "create", "--brokers", &self.bootstrap, "-p", &PARTITIONS.to_string()]);
        shell::pipe(create.args([TOPIC, OUTPUT]), "", &log)?;

        let summary = self.home.join("summary");
        let mut lines = self.python("lines");
        lines.args(["--bytes", &(megabytes * 1_000_000).to_string(), "--summary"]).arg(&summary);
        let mut lines = lines
            .arg(compat::text_sources()?)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(shell::append(&log)?)
            .spawn()
            .map_err(|error| format!("cannot run sink_dataset.py: {error}"))?;
        let mut produce = Command::new(&self.program.binary);
        let produced = produce
            .args(["produce", "--brokers", &self.bootstrap, TOPIC, "-f", "%p %v\\n"])
            .stdin(lines.stdout.take().expect("standard output was piped"))
            .stdout(shell::append(&log)?)
            .stderr(shell::append(&log)?)
            .status()
            .map_err(|error| format!("cannot run {}: {error}", shell::words(&produce)))?;
        let made = lines.wait().map_err(|error| error.to_string())?;
        if !produced.success() || !made.success() {
            return Err(format!("ottla produce: {produced}, sink_dataset.py: {made}"));
        }
        fs::read_to_string(&summary).map_err(|error| format!("{}: {error}", summary.display()))
    }

    fn declare(&self, records: u64) -> Result<PathBuf, String> {
        let config = self.home.join("sink.toml");
        let text = format!(
            "name = \"text\"\n\
             topics = [\"{TOPIC}\"]\n\n\
             [client]\n\
             bootstrap.servers = \"{}\"\n\n\
             [value]\n\
             format = \"json\"\n\
             fields = [\n  \
               {{ name = \"line\", type = \"int64\", required = true }},\n  \
               {{ name = \"text\", type = \"string\", required = true }},\n\
             ]\n\n\
             [offline]\n\
             table = \"{}\"\n\
             roll_rows = {}\n\n\
             [nearline]\n\
             topic = \"{OUTPUT}\"\n\
             flush_rows = {}\n",
            self.bootstrap,
            self.table().display(),
            (records / PARTITIONS / RANGES).max(1),
            (records / TRANSACTIONS).clamp(1, 10_000),
        );
        fs::write(&config, text).map_err(|error| format!("{}: {error}", config.display()))?;
        Ok(config)
    }

    /// Runs the sink until everything is through both lines, and kills it so often before.
    fn kill_on_the_way(&self, config: &Path, records: u64, kills: u64) -> Result<(), String> {
        let start = |number: u64| {
            let mut run = self.program.run(config, "a");
            run.arg("--until-end");
            Instance::start(run, &format!("sink-{number}"), self.home)
        };
        let whole = 2 * records;
        let mut killed = 0;
        let mut instance = start(killed)?;
        let (mut had, mut since) = (0, shell::now());
        loop {
            if let Some(end) = instance.ended()? {
                return match end.status.success() && killed == kills {
                    true => Ok(()),
                    false => Err(format!(
                        "{} ended after {killed} kills of {kills} ({}): {}",
                        instance.name, end.status, end.said
                    )),
                };
            }
            let committed = self.committed(config)?;
            if committed != had {
                (had, since) = (committed, shell::now());
            }
            if since.elapsed() > SILENCE_MAX {
                let seconds = SILENCE_MAX.as_secs();
                return Err(format!("nothing is committed for {seconds} s, at {committed} of {whole}"));
            }
            if killed < kills && committed >= whole * (killed + 1) / (kills + 1) {
                instance.kill()?;
                killed += 1;
                println!(
                    "  kill {killed:>2} at {:.1} % of both lines",
                    committed as f64 / whole as f64 * 100.0
                );
                instance = start(killed)?;
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Positions that are committed, of all partitions of both lines together.
    fn committed(&self, config: &Path) -> Result<u64, String> {
        let mut status = self.program.command("status", config);
        let said = shell::pipe(&mut status, "", &self.home.join("status.log"))?;
        committed(&said)
    }
}

/// The sum of the column `COMMITTED`; what was never committed is a dash.
fn committed(status: &str) -> Result<u64, String> {
    let mut lines = status.lines();
    let at = lines.next().and_then(|head| head.split_whitespace().position(|name| name == "COMMITTED"));
    let at = at.ok_or_else(|| format!("ottla sink status has no column COMMITTED:\n{status}"))?;
    let cells = lines.filter_map(|line| line.split_whitespace().nth(at));
    Ok(cells.filter_map(|cell| cell.parse::<u64>().ok()).sum())
}

/// Records and bytes of a digest.
fn totals(digest: &str) -> Result<(u64, u64), String> {
    let mut sums = (0, 0);
    for line in digest.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let figures = match words[..] {
            [_, records, bytes, _] => records.parse::<u64>().ok().zip(bytes.parse::<u64>().ok()),
            _ => None,
        };
        let (records, bytes) = figures.ok_or_else(|| format!("{line:?} is no digest of a partition"))?;
        sums = (sums.0 + records, sums.1 + bytes);
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::{committed, totals};

    #[test]
    fn progress_is_what_both_lines_have_committed() {
        let status = "LINE  TOPIC  PARTITION  READ  COMMITTED  OUTPUT\noffline  t  0  9  7  7\nnearline  t  0  5  5  5\noffline  t  1  -  -  -\n";
        assert_eq!(committed(status), Ok(12));
        assert!(committed("nothing\n").is_err());
    }

    #[test]
    fn a_digest_has_a_line_for_each_partition() {
        assert_eq!(totals("0 2 30 ab\n1 1 5 cd\n"), Ok((3, 35)));
        assert!(totals("0 2\n").is_err());
    }
}
