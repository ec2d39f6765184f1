//! `cargo xtask streams`: an application of Kafka Streams with `exactly_once_v2`, a count and a join, on three brokers. While its
//! input is written, brokers and instances of it are killed (SIGKILL) and started again; then its output has to be what a plain
//! computation of the input gives, each piece once. The programs stand in compat/streams.

use crate::arguments::Arguments;
use crate::compat;
use crate::dev_cluster::DevCluster;
use crate::dice::Dice;
use crate::shell;
use crate::toolbox::{Kit, Toolbox};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const USAGE: &str = "\
usage: cargo xtask streams [options]

  --rounds N       each with topics and an application of its own (default 5)
  --seconds N      for how long a round's input is written and things are killed (default 75)
  --seed S         of the moments and the input (default: from the clock, and printed)
  --rate N         orders and payments per second (default 100)
  --binary PATH    an ottla that is already built, instead of building the release profile

Three brokers with three replicas of everything, of which two must be in sync; two instances with two threads each.
";

const BROKERS: u16 = 3;
const INSTANCES: usize = 2;
const PARTITIONS: u32 = 4;
/// For the output to be complete, once the input is.
const PATIENCE: Duration = Duration::from_secs(120);
/// For a program that was asked to end.
const STOP_MAX: Duration = Duration::from_secs(120);

struct Options {
    rounds: u64,
    round: Duration,
    seed: u64,
    rate: u64,
}

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let Some(mut arguments) = Arguments::new(args, USAGE) else { return Ok(()) };
    let options = Options {
        rounds: arguments.number("--rounds", 5)?,
        round: Duration::from_secs(arguments.number("--seconds", 75)?),
        seed: arguments.number("--seed", shell::unix_ms())?,
        rate: arguments.number("--rate", 100)?.clamp(1, 1_000),
    };
    let binary = arguments.value("--binary")?.map(PathBuf::from);
    arguments.finish()?;

    let toolbox = Toolbox::install(&[Kit::Streams])?;
    let binary = compat::ottla(binary)?;
    let home = shell::scratch("streams")?;
    println!("seed {}, {} rounds, logs and data in {}", options.seed, options.rounds, home.display());
    let mut cluster = DevCluster::start(&binary, BROKERS, &home)?;
    let mut dice = Dice::new(options.seed);
    for number in 1..=options.rounds {
        let round = Round::new(&options, &toolbox, &binary, &home, number)?;
        let context =
            |reason| format!("seed {}, round {number}: {reason}; see {}", options.seed, home.display());
        let report = round.run(&mut cluster, &mut dice).map_err(context)?;
        println!("round {number:>2}: {report}");
    }
    cluster.check()?;
    println!("{} rounds, nothing is missing and nothing is there twice", options.rounds);
    Ok(())
}

/// What is killed at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    Broker,
    Instance,
    Both,
}

/// Blows in an order of chance, but all three before one comes again.
#[derive(Default)]
struct Blows(Vec<Blow>);

impl Blows {
    fn next(&mut self, dice: &mut Dice) -> Blow {
        if self.0.is_empty() {
            self.0 = vec![Blow::Broker, Blow::Instance, Blow::Both];
        }
        let at = dice.below(self.0.len() as u64);
        self.0.swap_remove(usize::try_from(at).expect("an index fits"))
    }
}

/// One application on topics of its own.
struct Round<'a> {
    options: &'a Options,
    toolbox: &'a Toolbox,
    binary: &'a Path,
    home: PathBuf,
    number: u64,
}

impl<'a> Round<'a> {
    fn new(
        options: &'a Options,
        toolbox: &'a Toolbox,
        binary: &'a Path,
        home: &Path,
        number: u64,
    ) -> Result<Self, String> {
        let home = home.join(format!("round{number}"));
        fs::create_dir_all(&home).map_err(|error| format!("{}: {error}", home.display()))?;
        Ok(Self { options, toolbox, binary, home, number })
    }

    fn run(&self, cluster: &mut DevCluster<'_>, dice: &mut Dice) -> Result<String, String> {
        let bootstrap = cluster.bootstrap();
        self.create_topics(&bootstrap)?;
        let mut instances =
            (0..INSTANCES).map(|at| self.start_instance(at, &bootstrap)).collect::<Result<Vec<_>, _>>()?;
        let mut feed = Program::start(self.program("feed", &bootstrap), "feed".to_owned(), &self.home)?;
        let begin = shell::now();
        let (brokers, killed) = self.strike(cluster, &mut instances, &mut feed, dice)?;

        let sent = feed.stop(Stop::EndOfInput)?;
        let sent = sent.trim();
        println!("  {:>5.1} s: {sent} orders and payments are written", begin.elapsed().as_secs_f64());
        let drained = shell::now();
        self.judge(&bootstrap, sent, "judge")?;
        let drained = drained.elapsed().as_secs_f64();
        for instance in instances {
            instance.stop(Stop::Signal)?;
        }
        // Again, of what is there when nobody writes any more.
        let verdict = self.judge(&bootstrap, sent, "judge-again")?;
        cluster.check()?;
        Ok(format!(
            "{brokers} brokers and {killed} instances killed; {}; complete {drained:.1} s after the input",
            verdict.trim()
        ))
    }

    /// Kills and starts again until the time is up; how many brokers and instances.
    fn strike(
        &self,
        cluster: &mut DevCluster<'_>,
        instances: &mut [Program],
        feed: &mut Program,
        dice: &mut Dice,
    ) -> Result<(u64, u64), String> {
        let begin = shell::now();
        let mut blows = Blows::default();
        let (mut brokers, mut killed) = (0, 0);
        let ids: Vec<u16> = (1..=BROKERS).collect();
        let places: Vec<usize> = (0..instances.len()).collect();
        loop {
            let pause = dice.millis(4_000, 9_000);
            if begin.elapsed() + pause > self.options.round {
                std::thread::sleep(self.options.round.saturating_sub(begin.elapsed()));
                return Ok((brokers, killed));
            }
            std::thread::sleep(pause);
            let blow = blows.next(dice);
            let (broker, place, rest) = (dice.pick(&ids), dice.pick(&places), dice.millis(0, 4_000));
            if blow != Blow::Instance {
                // Two at once would stop everything, which proves little.
                cluster.wait_until_healthy(shell::now())?;
                cluster.spread_leaders()?;
                cluster.kill(broker)?;
                brokers += 1;
                println!("  {:>5.1} s: broker {broker} killed", begin.elapsed().as_secs_f64());
            }
            if blow != Blow::Broker {
                let at = begin.elapsed().as_secs_f64();
                instances[place].kill()?;
                std::thread::sleep(rest);
                instances[place] = self.start_instance(place, &cluster.bootstrap())?;
                killed += 1;
                println!(
                    "  {at:>5.1} s: instance {place} killed, started again after {:.1} s",
                    rest.as_secs_f64()
                );
            }
            cluster.check()?;
            feed.check()?;
            for instance in instances.iter_mut() {
                instance.check()?;
            }
        }
    }

    fn create_topics(&self, bootstrap: &str) -> Result<(), String> {
        let mut create = Command::new(self.binary);
        create.args(["topic", "create", "-p", &PARTITIONS.to_string(), "--brokers", bootstrap]);
        create.args(["orders", "payments", "tallies", "pairs"].map(|name| format!("{name}-{}", self.number)));
        shell::pipe(&mut create, "", &self.home.join("topics.log")).map(|_| ())
    }

    fn program(&self, name: &str, bootstrap: &str) -> Command {
        let mut command = self.toolbox.streams_program(name);
        let seed = self.options.seed.wrapping_add(self.number) >> 1;
        command.args(["--bootstrap", bootstrap, "--round", &self.number.to_string()]).args([
            "--rate",
            &self.options.rate.to_string(),
            "--seed",
            &seed.to_string(),
        ]);
        command
    }

    /// Its state stays where it is when it is killed, and is found again.
    fn start_instance(&self, place: usize, bootstrap: &str) -> Result<Program, String> {
        let name = format!("instance{place}");
        let mut command = self.program("application", bootstrap);
        command.arg("--state").arg(self.home.join(format!("{name}.state")));
        Program::start(command, name, &self.home)
    }

    fn judge(&self, bootstrap: &str, sent: &str, name: &str) -> Result<String, String> {
        let mut command = self.program("judge", bootstrap);
        command.args(["--sent", sent, "--patience", &PATIENCE.as_secs().to_string()]);
        let log = self.home.join(format!("{name}.log"));
        shell::pipe(&mut command, "", &log).map_err(|reason| {
            // What the client says on its own is above the command.
            let text = fs::read_to_string(&log).unwrap_or_default();
            let said = text.lines().skip_while(|line| !line.starts_with("$ ")).skip(1);
            format!("the output is not what it should be:\n{}\n{reason}", said.collect::<Vec<_>>().join("\n"))
        })
    }
}

/// A program of compat/streams; it is killed with the value.
struct Program {
    name: String,
    child: Child,
    log: PathBuf,
}

/// How a program is asked to end.
#[derive(Clone, Copy)]
enum Stop {
    EndOfInput,
    Signal,
}

impl Program {
    fn start(mut command: Command, name: String, home: &Path) -> Result<Self, String> {
        let log = home.join(format!("{name}.log"));
        shell::note(&log, "--- started\n")?;
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(shell::append(&log)?)
            .spawn()
            .map_err(|error| format!("cannot run {}: {error}", shell::words(&command)))?;
        Ok(Self { name, child, log })
    }

    /// None has a reason to end by itself.
    fn check(&mut self) -> Result<(), String> {
        match self.child.try_wait().map_err(|error| error.to_string())? {
            None => Ok(()),
            Some(status) => Err(format!("{} ended ({status}), see {}", self.name, self.log.display())),
        }
    }

    /// kill -9, unless it has ended by itself.
    fn kill(&mut self) -> Result<(), String> {
        self.check()?;
        let killed = self.child.kill().and_then(|()| self.child.wait());
        killed.map_err(|error| format!("cannot kill {}: {error}", self.name))?;
        shell::note(&self.log, "--- killed\n")
    }

    /// Asks it to end and waits for that; what it has printed.
    fn stop(mut self, stop: Stop) -> Result<String, String> {
        self.check()?;
        match stop {
            Stop::EndOfInput => drop(self.child.stdin.take()),
            Stop::Signal => shell::signal(self.child.id(), "TERM")?,
        }
        let deadline = shell::now() + STOP_MAX;
        let status = loop {
            if let Some(status) = self.child.try_wait().map_err(|error| error.to_string())? {
                break status;
            }
            if shell::now() > deadline {
                let (seconds, log) = (STOP_MAX.as_secs(), self.log.display());
                return Err(format!("{} has not ended after {seconds} s, see {log}", self.name));
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        if !status.success() {
            return Err(format!("{} failed ({status}), see {}", self.name, self.log.display()));
        }
        let mut printed = String::new();
        let mut stdout = self.child.stdout.take().expect("standard output was piped");
        stdout.read_to_string(&mut printed).map_err(|error| format!("{}: {error}", self.name))?;
        Ok(printed)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
