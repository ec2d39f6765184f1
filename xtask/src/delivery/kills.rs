//! Everything is killed, again and again: readers, brokers, Redis and PostgreSQL, at moments that a seed says, while one producer
//! writes numbers and two readers with each store write down what they read. At the end each number must be in PostgreSQL's table
//! once and in Redis once. A reader of either store that was killed comes back by itself; so does one whose store was. Now and then
//! one is stopped for longer than its session, and goes on as a zombie.

use super::tally::{Results, Row, Tally};
use crate::dev_cluster::DevCluster;
use crate::dice::Dice;
use crate::program::Program;
use crate::shell;
use crate::stores::{Kind, Store};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const BROKERS: u16 = 3;
const PARTITIONS: u64 = 6;
const TOPIC: &str = "kills";
/// A word of the name of each reader's group.
const POSTGRES: &str = "kills-postgres";
const REDIS: &str = "kills-redis";
const TABLE: &str = "kills_results";
/// Of the readers of each store.
const MEMBERS: usize = 2;
/// Of readers that have not read everything, once nothing is killed any more.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(200);
/// How long a member that is silent stays one, in milliseconds.
const SESSION_MS: u64 = 6_000;
/// One kill of so many comes with a reader that is stopped.
const KILLS_PER_STOP: u64 = 8;

/// What the caller has drawn up.
pub(super) struct Plan {
    pub(super) kills: u64,
    pub(super) seed: u64,
    /// Records per second.
    pub(super) rate: u64,
}

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Reader(usize),
    Broker(u16),
    Redis,
    Postgres,
}

impl Victim {
    /// Readers twice as often as anything else.
    fn choose(dice: &mut Dice) -> Self {
        match dice.below(5) {
            0 | 1 => Victim::Reader(usize::try_from(dice.below(2 * MEMBERS as u64)).expect("an index fits")),
            2 => Victim::Broker(1 + u16::try_from(dice.below(BROKERS.into())).expect("a broker's id fits")),
            3 => Victim::Redis,
            _ => Victim::Postgres,
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Victim::Reader(place) if place < MEMBERS => "reader of PostgreSQL",
            Victim::Reader(_) => "reader of Redis",
            Victim::Broker(_) => "broker",
            Victim::Redis => "Redis",
            Victim::Postgres => "PostgreSQL",
        }
    }
}

/// The readers' side of a run.
struct World<'a> {
    cluster: DevCluster<'a>,
    redis: Store,
    postgres: Store,
    readers: Vec<Program>,
    /// A reader that is stopped, and until when.
    stopped: Option<(usize, Instant)>,
    program: &'a Path,
    home: PathBuf,
}

pub(super) fn run(plan: &Plan, binary: &Path, program: &Path) -> Result<(), String> {
    let home = shell::scratch("delivery-kills")?;
    println!("seed {}, {} kills, logs in {}", plan.seed, plan.kills, home.display());
    let context = |reason| format!("seed {}: {reason}; see {}", plan.seed, home.display());
    play(plan, binary, program, &home).map_err(context)
}

fn play(plan: &Plan, binary: &Path, program: &Path, home: &Path) -> Result<(), String> {
    let cluster = DevCluster::start(binary, BROKERS, home)?;
    let bootstrap = cluster.bootstrap();
    let mut create = Command::new(binary);
    create.args(["topic", "create", "--brokers", &bootstrap, "-p", &PARTITIONS.to_string(), TOPIC]);
    shell::pipe(&mut create, "", &home.join("topic.log"))?;
    let (redis, postgres) = (Store::start(Kind::Redis, home)?, Store::start(Kind::Postgres, home)?);
    table(&postgres).create()?;
    let mut world = World {
        cluster,
        redis,
        postgres,
        readers: Vec::new(),
        stopped: None,
        program,
        home: home.to_path_buf(),
    };
    for place in 0..2 * MEMBERS {
        let reader = world.start_reader(place)?;
        world.readers.push(reader);
    }
    let mut produce = Command::new(program);
    produce.args(["produce", "--bootstrap", &bootstrap, "--topic", TOPIC]).args([
        "--partitions",
        &PARTITIONS.to_string(),
        "--set",
        &format!("producer.rate.records={}", plan.rate),
        // A broker is down for seconds at a time, and another one the next moment.
        "--set",
        "delivery.timeout.ms=600000",
        // A batch is a transaction of its reader's, and a flush of a disk that others may use too.
        "--set",
        "linger.ms=100",
    ]);
    let mut producer = Program::start(produce, "producer", home)?;

    let begin = shell::now();
    let mut dice = Dice::new(plan.seed);
    let mut killed: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut stops = 0;
    let is_terminal = std::io::stdout().is_terminal();
    for number in 1..=plan.kills {
        std::thread::sleep(dice.millis(200, 2_500));
        if dice.below(KILLS_PER_STOP) == 0 {
            let place = usize::try_from(dice.below(2 * MEMBERS as u64)).expect("an index fits");
            let rest = dice.millis(SESSION_MS + 1_000, SESSION_MS + 4_000);
            stops += u64::from(world.stop_for(place, rest)?);
        }
        let victim = Victim::choose(&mut dice);
        let rest = dice.millis(0, 1_000);
        world.strike(victim, rest)?;
        world.resume(shell::now())?;
        producer.check()?;
        world.check()?;
        *killed.entry(victim.kind()).or_default() += 1;
        let told = format!(
            "{:>6.1} s: kill {number:>3} of {}, {victim:?}; {} results in PostgreSQL, {} in Redis",
            begin.elapsed().as_secs_f64(),
            plan.kills,
            table(&world.postgres).count()?,
            hashes(&world.redis).count()?,
        );
        match is_terminal {
            true => print!("\r\x1b[K{told}"),
            false => println!("{told}"),
        }
        std::io::stdout().flush().map_err(|error| error.to_string())?;
    }
    if is_terminal {
        println!();
    }

    world.resume_all()?;
    let said = producer.stop()?;
    let produced = said.iter().find_map(|line| line.strip_prefix("acknowledged ")?.parse::<u64>().ok());
    let produced = produced.ok_or("the producer has not said how many it produced")?;
    let ended = shell::now();
    world.wait_until_read(produced)?;
    let drained = ended.elapsed().as_secs_f64();
    for reader in std::mem::take(&mut world.readers) {
        reader.stop()?;
    }
    world.cluster.check()?;
    let list: Vec<String> = killed.iter().map(|(kind, count)| format!("{count} × {kind}")).collect();
    println!(
        "killed: {}; stopped for longer than a session: {stops} × reader; in {:.0} s",
        list.join(", "),
        begin.elapsed().as_secs_f64()
    );
    let in_table = judge("PostgreSQL", &table(&world.postgres), produced);
    let in_hashes = judge("Redis", &hashes(&world.redis), produced);
    let again = hashes(&world.redis).again()?.unwrap_or(0);
    in_table.and(in_hashes)?;
    println!(
        "{produced} records, each in PostgreSQL once and in Redis once, in order, {drained:.1} s after the last; {again} came to \
         Redis again and changed nothing (seed {})",
        plan.seed
    );
    Ok(())
}

fn table(store: &Store) -> Results<'_> {
    Results::Table { store, name: TABLE.to_owned() }
}

fn hashes(store: &Store) -> Results<'_> {
    Results::Hashes { store, name: REDIS.to_owned(), partitions: PARTITIONS }
}

impl World<'_> {
    fn start_reader(&self, place: usize) -> Result<Program, String> {
        let (name, into) = match place < MEMBERS {
            true => (POSTGRES, self.postgres.address()),
            false => (REDIS, self.redis.address()),
        };
        let mut read = Command::new(self.program);
        read.args(["read", "--bootstrap", &self.cluster.bootstrap(), "--topic", TOPIC, "--name", name])
            .args(["--into", &into, "--table", TABLE, "--set", "session.timeout.ms=6000"]);
        Program::start(read, &format!("reader{place}"), &self.home)
    }

    fn strike(&mut self, victim: Victim, rest: Duration) -> Result<(), String> {
        match victim {
            Victim::Reader(place) => {
                self.readers[place].kill()?;
                self.stopped = self.stopped.filter(|(stopped, _)| *stopped != place);
                std::thread::sleep(rest);
                self.readers[place] = self.start_reader(place)?;
                Ok(())
            }
            Victim::Broker(id) => {
                // Two at once would stop everything, which proves little. The process above starts it again after a while.
                self.cluster.wait_until_healthy(shell::now())?;
                self.cluster.kill(id)
            }
            Victim::Redis => strike_store(&mut self.redis, rest),
            Victim::Postgres => strike_store(&mut self.postgres, rest),
        }
    }

    /// Stops a reader, unless one is stopped already.
    fn stop_for(&mut self, place: usize, rest: Duration) -> Result<bool, String> {
        if self.stopped.is_some() {
            return Ok(false);
        }
        self.readers[place].signal("STOP")?;
        self.stopped = Some((place, shell::now() + rest));
        Ok(true)
    }

    /// Lets the one that is stopped go on when its time has come.
    fn resume(&mut self, now: Instant) -> Result<(), String> {
        match self.stopped {
            Some((_, until)) if until <= now => self.resume_all(),
            _ => Ok(()),
        }
    }

    fn resume_all(&mut self) -> Result<(), String> {
        match self.stopped.take() {
            Some((place, _)) => self.readers[place].signal("CONT"),
            None => Ok(()),
        }
    }

    fn check(&mut self) -> Result<(), String> {
        self.cluster.check()?;
        self.readers.iter_mut().try_for_each(Program::check)
    }

    fn wait_until_read(&mut self, produced: u64) -> Result<(), String> {
        let (mut had, mut since) = ((0, 0), shell::now());
        loop {
            let has = (table(&self.postgres).count()?, hashes(&self.redis).count()?);
            if has.0 >= produced && has.1 >= produced {
                return Ok(());
            }
            self.check()?;
            if has != had {
                (had, since) = (has, shell::now());
            }
            if since.elapsed() > SILENCE_MAX {
                let told = judge("PostgreSQL", &table(&self.postgres), produced).and(judge(
                    "Redis",
                    &hashes(&self.redis),
                    produced,
                ));
                let seconds = SILENCE_MAX.as_secs();
                return Err(format!("nothing is read for {seconds} s: {}", told.err().unwrap_or_default()));
            }
            std::thread::sleep(PAUSE);
        }
    }
}

fn strike_store(store: &mut Store, rest: Duration) -> Result<(), String> {
    store.kill()?;
    std::thread::sleep(rest);
    store.start_again()
}

/// Each number once and in order, each offset once.
fn judge(name: &str, results: &Results<'_>, produced: u64) -> Result<(), String> {
    let rows: Vec<Row> = results.rows()?;
    let tally = Tally::of(&rows, produced, PARTITIONS);
    println!(
        "{name}: {} results of {produced} records, {} doubled, {} lost, {} reordered",
        rows.len(),
        tally.duplicates,
        tally.lost,
        tally.reordered
    );
    let unknown = rows.iter().filter(|row| row.number >= produced).count();
    if tally == Tally::default() && unknown == 0 {
        return Ok(());
    }
    Err(format!("{name} is not what was produced: {tally:?}, {unknown} that were never produced"))
}
