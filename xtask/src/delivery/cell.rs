//! One reader in one scenario: a topic of its own, a place for its results, and the programs that play it.

use super::tally::{Results, Tally};
use crate::program::Program;
use crate::shell;
use crate::stores::Store;
use crate::toolbox::Toolbox;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// For results to be complete.
const COMPLETE_MAX: Duration = Duration::from_secs(90);
/// Nothing new for so long is all there will be: longer than a session and a rebalance take.
const QUIET: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);
/// A member that died is waited for so long, instead of 45 s.
const SESSION: &str = "session.timeout.ms=6000";

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Librdkafka,
    /// Committing by hand.
    LibrdkafkaByHand,
    Java,
    Group,
    Postgres,
    Redis,
}

impl Who {
    pub(super) const ALL: [Who; 6] =
        [Who::Librdkafka, Who::LibrdkafkaByHand, Who::Java, Who::Group, Who::Postgres, Who::Redis];
    pub(super) const OURS: [Who; 3] = [Who::Group, Who::Postgres, Who::Redis];

    pub(super) fn name(self) -> &'static str {
        match self {
            Who::Librdkafka => "librdkafka",
            Who::LibrdkafkaByHand => "librdkafka-by-hand",
            Who::Java => "java",
            Who::Group => "group",
            Who::Postgres => "postgres",
            Who::Redis => "redis",
        }
    }

    pub(super) fn is_ours(self) -> bool {
        Self::OURS.contains(&self)
    }

    /// Whether offsets are in a store of the reader's.
    pub(super) fn has_store(self) -> bool {
        matches!(self, Who::Postgres | Who::Redis)
    }
}

/// What all cells share.
pub(super) struct Stage<'a> {
    /// Missing where only ours reads.
    pub(super) toolbox: Option<&'a Toolbox>,
    pub(super) ottla: &'a Path,
    pub(super) program: &'a Path,
    pub(super) bootstrap: String,
    pub(super) redis: &'a Store,
    pub(super) postgres: &'a Store,
    pub(super) home: &'a Path,
}

/// How a reader handles records; see `delivery read --help`.
#[derive(Clone, Debug, Default)]
pub(super) struct Habits {
    pub(super) delay_ms: u64,
    pub(super) say_after: Option<u64>,
    /// After so many, for so many milliseconds.
    pub(super) slow: Option<(u64, u64)>,
    pub(super) hang_after: Option<u64>,
    pub(super) close_after: Option<u64>,
    pub(super) queue: bool,
    /// Of the client.
    pub(super) settings: Vec<String>,
}

/// How records are produced.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Produce {
    pub(super) first: u64,
    pub(super) records: u64,
    pub(super) bytes: u64,
    /// A second at most; 0 for any number.
    pub(super) rate: u64,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) tally: Tally,
    /// The partitions that a reader has stopped, in its words.
    pub(super) stopped: Vec<String>,
    /// See [`Results::again`].
    pub(super) again: Option<u64>,
}

pub(super) struct Cell<'a> {
    stage: &'a Stage<'a>,
    pub(super) who: Who,
    /// Of the topic, the reader and its group.
    name: String,
    partitions: u64,
    results: Results<'a>,
}

impl<'a> Cell<'a> {
    pub(super) fn new(
        stage: &'a Stage<'a>,
        who: Who,
        scenario: &str,
        partitions: u64,
        config: &[&str],
    ) -> Result<Self, String> {
        let name = format!("{scenario}-{}", who.name());
        let mut create = Command::new(stage.ottla);
        create.args(["topic", "create", "--brokers", &stage.bootstrap, "-p", &partitions.to_string()]);
        for setting in config {
            create.args(["-c", setting]);
        }
        shell::pipe(create.arg(&name), "", &stage.home.join(format!("{name}.topic.log")))?;
        let results = match who {
            Who::Postgres => {
                Results::Table { store: stage.postgres, name: format!("results_{}", name.replace('-', "_")) }
            }
            Who::Redis => Results::Hashes { store: stage.redis, name: name.clone(), partitions },
            _ => Results::Lines(stage.home.join(format!("{name}.results"))),
        };
        results.create()?;
        Ok(Self { stage, who, name, partitions, results })
    }

    pub(super) fn produce(&self, produce: Produce) -> Result<(), String> {
        self.start_producing(produce)?.ended().map(|_| ())
    }

    pub(super) fn start_producing(&self, produce: Produce) -> Result<Program, String> {
        let Produce { first, records, bytes, rate } = produce;
        let mut command = Command::new(self.stage.program);
        command.args(["produce", "--bootstrap", &self.stage.bootstrap, "--topic", &self.name]).args([
            "--partitions",
            &self.partitions.to_string(),
            "--first",
            &first.to_string(),
            "--records",
            &records.to_string(),
            "--bytes",
            &bytes.to_string(),
            "--set",
            &format!("producer.rate.records={rate}"),
        ]);
        Program::start(command, &format!("{}.producer", self.name), self.stage.home)
    }

    /// A member of the reader's group.
    pub(super) fn read(&self, member: &str, habits: &Habits) -> Result<Program, String> {
        let bootstrap = &self.stage.bootstrap;
        let common = ["--bootstrap", bootstrap, "--topic", &self.name, "--name", &self.name];
        let mut settings = vec![SESSION.to_owned()];
        settings.extend(habits.settings.iter().cloned());
        let into = match (&self.results, self.who) {
            (Results::Lines(path), Who::Group) => format!("file:{}", path.display()),
            (Results::Lines(path), _) => path.display().to_string(),
            (Results::Table { store, .. } | Results::Hashes { store, .. }, _) => store.address(),
        };
        let toolbox = || self.stage.toolbox.ok_or_else(|| format!("nothing to run {:?} with", self.who));
        let mut command = match self.who {
            Who::Librdkafka | Who::LibrdkafkaByHand => toolbox()?.python_program("delivery_reader.py"),
            Who::Java => {
                let mut command = toolbox()?.java();
                command.args(["compat.Main", "delivery-reader"]);
                command
            }
            Who::Group | Who::Postgres | Who::Redis => {
                let mut command = Command::new(self.stage.program);
                command.arg("read");
                command
            }
        };
        command.args(common).args(["--into", &into, "--delay-ms", &habits.delay_ms.to_string()]);
        let slow = habits.slow.map(|(after, _)| after);
        for (option, number) in [
            ("--say-after", habits.say_after),
            ("--slow-after", slow),
            ("--slow-ms", habits.slow.map(|(_, ms)| ms)),
            ("--hang-after", habits.hang_after),
            ("--close-after", habits.close_after),
        ] {
            if let Some(number) = number {
                command.args([option, &number.to_string()]);
            }
        }
        if let Results::Table { name, .. } = &self.results {
            command.args(["--table", name]);
        }
        if self.who == Who::Group {
            settings.insert(0, "auto.offset.reset=earliest".to_owned());
        }
        if self.who == Who::LibrdkafkaByHand {
            command.args(["--commit", "after"]);
        }
        // Our readers with a store hand nothing to a queue: their batches are stored in order.
        let queues = habits.queue && !self.who.has_store() && self.who != Who::LibrdkafkaByHand;
        if self.who == Who::Java {
            command.args(["--settings", &settings.join(",")]);
            if queues {
                command.args(["--queue", "yes"]);
            }
        } else {
            for setting in &settings {
                command.args(["--set", setting]);
            }
            if queues {
                command.arg("--queue");
            }
        }
        Program::start(command, &format!("{}.{member}", self.name), self.stage.home)
    }

    /// The group's offsets are gone, as they are when they have expired.
    pub(super) fn forget_offsets(&self) -> Result<(), String> {
        let mut delete = Command::new(self.stage.ottla);
        delete.args(["group", "delete", "--brokers", &self.stage.bootstrap, &self.name]);
        shell::pipe(&mut delete, "", &self.stage.home.join(format!("{}.group.log", self.name))).map(|_| ())
    }

    /// Waits until every number below has a result, or nothing comes any more; the readers go on meanwhile.
    pub(super) fn wait_until_read(&self, produced: u64, readers: &mut [&mut Program]) -> Result<(), String> {
        let begin = shell::now();
        let (mut had, mut since) = (0, begin);
        loop {
            let rows = self.results.rows()?;
            if Tally::of(&rows, produced, self.partitions).lost == 0 {
                return Ok(());
            }
            if rows.len() != had {
                (had, since) = (rows.len(), shell::now());
            }
            if since.elapsed() > QUIET {
                return Ok(());
            }
            if begin.elapsed() > COMPLETE_MAX {
                return Err(format!("{}: still reading after {} s", self.name, COMPLETE_MAX.as_secs()));
            }
            for reader in readers.iter_mut() {
                reader.check()?;
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Ends the readers and counts.
    pub(super) fn finish(&self, produced: u64, readers: Vec<Program>) -> Result<Outcome, String> {
        let mut stopped = Vec::new();
        for reader in readers {
            stopped.extend(reader.stop()?.into_iter().filter(|line| line.starts_with("stopped: ")));
        }
        Ok(Outcome {
            tally: Tally::of(&self.results.rows()?, produced, self.partitions),
            stopped,
            again: self.results.again()?,
        })
    }
}
