//! `cargo xtask chaos`: a cluster of three brokers, each in a network namespace of its own and on an ext4 of its own, under
//! load from three kinds of producers and a group of readers, from two kinds of transactional producers and a group that copies their
//! topic in transactions of its own, while brokers are killed, paused, cut off and lose their power. Whatever the mix, at
//! the end every record that was acknowledged lies at its offset, byte for byte, on all three, and every transaction is there as a
//! whole or not at all, as its producer was told; and after each round the cluster takes writes in every partition again by
//! itself. It never repairs anything but what it has broken.

mod network;
mod disk;
mod broker;
mod fault;
mod cluster;
mod readers;

use crate::arguments::Arguments;
use crate::compat;
use crate::dice::Dice;
use crate::isolation::{self, Isolation};
use crate::producers::{Load, Producers, Programs, Watch};
use crate::replicas;
use crate::shell;
use crate::toolbox::{Kit, Toolbox};
use crate::verdict::{self, Told, Transacted};
use cluster::Cluster;
use fault::{Fault, Plan};
use readers::Readers;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const USAGE: &str = "\
usage: cargo xtask chaos [options]

  --minutes N      for how long faults are injected (default 5)
  --rounds N       instead: this many rounds
  --fault NAME     this fault in every round, nothing else (repeatable: one of these)
  --seed S         of the mixes and moments (default: from the clock, and printed)
  --rate N         records per second and producer (default 200)
  --patience N     seconds after which a cluster that is healed and not well counts as stuck (default 60)
  --binary PATH    an ottla that is already built, instead of building the release profile

It wants root on Linux, network namespaces, loop devices and ext4, and fails where it cannot have them. All of it is in
namespaces that end with the command; nothing of the machine's network or mounts is touched. A round is a mix of faults,
their healing, and the time until every broker is ready and every producer has been acknowledged in every partition again.

Faults:
";

/// What all parts of a run agree on.
const TOPIC: &str = "chaos";
/// What transactional producers write to.
const TRANSACTIONS: &str = "transactions";
/// Where what is committed there goes.
const COPIED: &str = "transactions-copied";
const PARTITIONS: usize = 6;
const BROKERS: usize = 3;
/// Segments roll within a run, so that closed ones are compared too, and can rot.
const SEGMENT_MS: u32 = 4_000;

/// The options of one run.
#[derive(Debug)]
struct Options {
    end: End,
    faults: Vec<Fault>,
    seed: u64,
    rate: u64,
    patience: Duration,
    binary: Option<PathBuf>,
}

/// When a run ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Rounds(u64),
    After(Duration),
}

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let usage = format!("{USAGE}{}", fault::table());
    let Some(mut arguments) = Arguments::new(args, &usage) else { return Ok(()) };
    let inside = arguments.flag(isolation::INSIDE);
    let options = options(&mut arguments)?;
    arguments.finish()?;

    // Outside, so that what is missing can still be fetched; inside nothing is left to do.
    let toolbox = Toolbox::install(&[Kit::Java, Kit::Python, Kit::Go])?;
    if inside {
        return break_things(&options, &toolbox);
    }
    let binary = compat::ottla(options.binary)?;
    let decided = [("--seed", options.seed.to_string()), ("--binary", binary.display().to_string())];
    isolation::enter("chaos", Isolation::WithNetwork, args, &decided)
}

fn options(arguments: &mut Arguments) -> Result<Options, String> {
    let mut faults = Vec::new();
    while let Some(name) = arguments.value("--fault")? {
        faults.push(Fault::named(&name)?);
    }
    if faults.is_empty() {
        faults = fault::ALL.to_vec();
    }
    let end = match arguments.number("--rounds", 0)? {
        0 => End::After(Duration::from_secs(60 * arguments.number("--minutes", 5)?)),
        rounds => End::Rounds(rounds),
    };
    Ok(Options {
        end,
        faults,
        seed: arguments.number("--seed", shell::unix_ms())?,
        rate: arguments.number("--rate", 200)?,
        patience: Duration::from_secs(arguments.number("--patience", 60)?),
        binary: arguments.value("--binary")?.map(PathBuf::from),
    })
}

/// The run itself, in namespaces of its own.
fn break_things(options: &Options, toolbox: &Toolbox) -> Result<(), String> {
    let binary = options.binary.as_deref().expect("the outer process names it");
    let home = shell::scratch("chaos")?;
    println!("seed {}, logs in {}", options.seed, home.display());
    let mut run =
        Run { options, toolbox, cluster: Cluster::start(toolbox, binary, options.patience, &home)?, home };
    let outcome = run.drive();
    if outcome.is_err() {
        run.cluster.keep_metrics();
    }
    outcome
}

/// What a run has at hand.
struct Run<'a> {
    options: &'a Options,
    toolbox: &'a Toolbox,
    cluster: Cluster<'a>,
    home: PathBuf,
}

/// The programs under load.
struct Clients {
    producers: Producers,
    transactional: Producers,
    copying: Producers,
    watch: Watch,
    readers: Readers,
}

impl Clients {
    fn start(run: &Run<'_>) -> Result<Self, String> {
        let start = |programs, topic| {
            let load = Load { programs, bootstrap: run.cluster.bootstrap(), topic, rate: run.options.rate };
            Producers::start(run.toolbox, &load, &run.home)
        };
        let producers = start(Programs::Idempotent, TOPIC)?;
        let transactional = start(Programs::Transactional, TRANSACTIONS)?;
        let copying = start(Programs::Copying, TRANSACTIONS)?;
        let watch = Producers::watch(&[&producers, &transactional, &copying], PARTITIONS);
        let readers = Readers::start(run.toolbox, &run.cluster.bootstrap(), &run.home)?;
        Ok(Self { producers, transactional, copying, watch, readers })
    }

    fn check(&mut self) -> Result<(), String> {
        self.producers.check()?;
        self.transactional.check()?;
        self.copying.check()?;
        self.readers.check()
    }

    /// Ends them, and has what they were told.
    fn stop(self) -> Result<(Told, Transacted), String> {
        let transacted =
            Transacted { producers: self.transactional.stop_named()?, copying: self.copying.stop()? };
        let told =
            Told { producers: self.producers.stop()?, readers: self.readers.stop()?, ..Told::default() };
        Ok((told, transacted))
    }
}

impl Run<'_> {
    fn drive(&mut self) -> Result<(), String> {
        for topic in [TOPIC, TRANSACTIONS, COPIED] {
            self.create_topic(topic)?;
        }
        let mut clients = Clients::start(self)?;
        self.wait_until_well(&mut clients, shell::now())?;

        let begin = shell::now();
        let mut dice = Dice::new(self.options.seed);
        let mut round = 0;
        let goes_on = |round| match self.options.end {
            End::Rounds(rounds) => round < rounds,
            End::After(duration) => begin.elapsed() < duration,
        };
        while goes_on(round) {
            round += 1;
            std::thread::sleep(dice.millis(500, 2000));
            let plan = Plan::draw(&mut dice, &self.options.faults);
            let context = format!("round {round} at {:.0} s, {plan}", begin.elapsed().as_secs_f64());
            let report = self.round(&plan, &mut clients);
            println!("{context}\n    {}", report.map_err(|reason| format!("{context}: {reason}"))?);
        }

        let acknowledged = clients.watch.acknowledged();
        let (told, transacted) = clients.stop()?;
        self.cluster.check_alive()?;
        let batches = self.judge(told, &transacted)?;
        println!(
            "{round} rounds, {acknowledged} acknowledged before the last ended, nothing acknowledged is lost, nothing \
             is there twice, the group has read everything in order, no transaction is torn; {batches} batches are the \
             same on {BROKERS} brokers; {} replicas have moved to another directory",
            self.cluster.moved()?
        );
        Ok(())
    }

    fn create_topic(&self, topic: &str) -> Result<(), String> {
        let mut create = self.toolbox.console_tool("org.apache.kafka.tools.TopicCommand");
        create
            .args(["--bootstrap-server", &self.cluster.bootstrap(), "--create", "--topic", topic])
            .args(["--partitions", &PARTITIONS.to_string(), "--replication-factor", &BROKERS.to_string()])
            .args(["--config", "min.insync.replicas=2"])
            .args(["--config", &format!("segment.ms={SEGMENT_MS}")]);
        shell::pipe(&mut create, "", &self.home.join("topic.log")).map(|_| ())
    }

    /// Breaks what the plan says, heals it, and waits until all is well; what that was like.
    fn round(&mut self, plan: &Plan, clients: &mut Clients) -> Result<String, String> {
        clients.watch.mark();
        plan.carry_out(&mut self.cluster)?;
        let healed = shell::now();
        self.wait_until_well(clients, healed)?;
        let well = healed.elapsed();
        let stalls: Vec<String> = clients
            .watch
            .stalls()
            .iter()
            .map(|stall| {
                let (whole, partition) = (stall.whole.as_secs_f64(), stall.partition.as_secs_f64());
                format!("{} {whole:.1} s (a partition {partition:.1} s)", stall.name)
            })
            .collect();
        Ok(format!(
            "well {:.1} s after healing; longest silence: {}; {} acknowledged",
            well.as_secs_f64(),
            stalls.join(", "),
            clients.watch.acknowledged()
        ))
    }

    /// Waits until every broker is ready and every producer was acknowledged in every partition after `since`.
    fn wait_until_well(&mut self, clients: &mut Clients, since: Instant) -> Result<(), String> {
        let deadline = since + self.options.patience;
        loop {
            clients.check()?;
            self.cluster.check_alive()?;
            let mut missing = self.cluster.not_ready();
            missing.extend(clients.watch.silent_since(since));
            if missing.is_empty() {
                self.cluster.expect_life();
                return Ok(());
            }
            if shell::now() > deadline {
                return Err(format!(
                    "not well {} s after healing: {}; see {}",
                    self.options.patience.as_secs(),
                    missing.join("; "),
                    self.cluster.logs()
                ));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Compares what is there with what clients were told, and what is there with itself; the number of batches.
    fn judge(&self, mut told: Told, transacted: &Transacted) -> Result<usize, String> {
        let compare =
            |topic| replicas::compare(&self.cluster.dirs(), topic, PARTITIONS, self.options.patience);
        let mut batches = 0;
        let mut verdicts = Vec::new();
        for topic in [TOPIC, TRANSACTIONS, COPIED] {
            let agreed = compare(topic).map(|agreed| {
                batches += agreed.batches;
                if topic == TOPIC {
                    told.epochs = agreed.epochs;
                }
            });
            verdicts.push(agreed);
        }
        let (toolbox, bootstrap) = (self.toolbox, self.cluster.bootstrap());
        verdicts.push(verdict::verify(toolbox, &bootstrap, TOPIC, &told, &self.home));
        verdicts.push(verdict::verify_transactions(
            toolbox,
            &bootstrap,
            TRANSACTIONS,
            transacted,
            &self.home,
        ));
        verdicts.push(self.cluster.check_logs());
        let reasons: Vec<String> = verdicts.into_iter().filter_map(Result::err).collect();
        if reasons.is_empty() { Ok(batches) } else { Err(reasons.join("; ")) }
    }
}
