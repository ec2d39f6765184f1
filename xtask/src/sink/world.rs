//! All that runs: three brokers, two stores, a producer, and for each sink its processes. Faults are made here and end here; what ends by
//! itself is written down and started again, as a supervisor would.

use super::fault::{Fault, Kind, SESSION_MS};
use super::instance::{End, Instance, Program};
use super::room::Room;
use crate::dev_cluster::DevCluster;
use crate::program;
use crate::shell;
use crate::stores::{self, Store};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

pub(super) const BROKERS: u16 = 3;
pub(super) const PARTITIONS: u64 = 6;
/// One for each kind of store.
pub(super) const SINKS: usize = NAMES.len();
/// Processes of each, where they can share its partitions.
pub(super) const INSTANCES: usize = 2;

const NAMES: [&str; 3] = ["postgres", "redis", "beside"];
const POSTGRES: usize = 0;
const REDIS: usize = 1;
const TOPIC: &str = "chaos";
/// So that many ranges are committed; a table's file system has room for all of them.
const ROLL_AGE: &str = "2s";
const ROOM_MB: u64 = 64;
const ROOM_MB_PER_MINUTE: u64 = 16;
const VALUE_BYTES: u64 = 120;
/// Before one that has ended by itself is started again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// For one that is asked to end, and for one that another has taken over from.
const END_MAX: Duration = Duration::from_secs(60);
/// What was broken may show for so long after it was mended.
const EXCUSED_AFTER: Duration = Duration::from_secs(60);

/// What the caller has drawn up.
pub(super) struct Plan<'a> {
    pub(super) binary: &'a Path,
    /// Of compat/rust.
    pub(super) producer: &'a Path,
    pub(super) minutes: u64,
    /// Records per second.
    pub(super) rate: u64,
    pub(super) home: &'a Path,
}

/// A sink with its places.
pub(super) struct Sink {
    pub(super) name: &'static str,
    pub(super) config: PathBuf,
    pub(super) table: PathBuf,
    pub(super) output: String,
    room: Room,
    /// Until when its disk is full.
    full: Option<Instant>,
    /// Until when its store or its disk is a reason to end.
    excused: Instant,
    slots: Vec<Slot>,
    /// Stopped or going on, with another in their place.
    zombies: Vec<Zombie>,
}

/// A place for a process.
#[derive(Default)]
struct Slot {
    process: Option<Instance>,
    /// When the next one is started, where there is none.
    back: Option<Instant>,
    /// Until when it stands still.
    paused: Option<Instant>,
    /// Until when it has to have ended, and for how long there is none then.
    ending: Option<(Instant, Duration)>,
    /// Until when what others did while it stood still is a reason to end.
    excused: Option<Instant>,
}

struct Zombie {
    process: Instance,
    paused: Option<Instant>,
    /// Until when it has to have ended.
    ends: Instant,
}

/// A store, and when it comes back.
struct Server {
    store: Store,
    back: Option<Instant>,
}

/// How one has ended by itself.
pub(super) struct Ended {
    pub(super) process: String,
    pub(super) end: End,
    /// Whether its disk, its store, a process in its place or its own long pause is a reason.
    pub(super) is_excused: bool,
}

pub(super) struct World<'a> {
    pub(super) cluster: DevCluster<'a>,
    pub(super) program: Program,
    pub(super) sinks: Vec<Sink>,
    /// A line for each acknowledgement.
    pub(super) acknowledged: PathBuf,
    pub(super) ended: Vec<Ended>,
    /// What nobody should see.
    pub(super) findings: Vec<String>,
    postgres: Server,
    redis: Server,
    producer: Option<program::Program>,
    home: &'a Path,
    started: u64,
}

impl<'a> World<'a> {
    pub(super) fn start(plan: &Plan<'a>) -> Result<Self, String> {
        let home = plan.home;
        let program = Program::new(plan.binary)?;
        let cluster = DevCluster::start(plan.binary, BROKERS, home)?;
        let server = |kind| Ok::<_, String>(Server { store: Store::start(kind, home)?, back: None });
        let (postgres, redis) = (server(stores::Kind::Postgres)?, server(stores::Kind::Redis)?);
        let bootstrap = cluster.bootstrap();
        let mut sinks = Vec::new();
        for (at, name) in NAMES.into_iter().enumerate() {
            let positions = match at {
                POSTGRES => postgres.store.url(),
                REDIS => redis.store.url(),
                _ => "beside".to_owned(),
            };
            let megabytes = ROOM_MB + ROOM_MB_PER_MINUTE * plan.minutes;
            let room = Room::mount(&home.join("disks").join(name), megabytes, &home.join("mounts.log"))?;
            let (table, output) = (room.place().join("table"), format!("{name}.out"));
            let config = home.join(format!("{name}.toml"));
            let text = declaration(name, &bootstrap, &table, &positions, &output);
            fs::write(&config, text).map_err(|error| format!("{}: {error}", config.display()))?;
            let slots = if program.has_instances { INSTANCES } else { 1 };
            sinks.push(Sink {
                name,
                config,
                table,
                output,
                room,
                full: None,
                excused: shell::now(),
                slots: (0..slots).map(|_| Slot::default()).collect(),
                zombies: Vec::new(),
            });
        }
        let outputs = sinks.iter().map(|sink| sink.output.as_str());
        let mut create = Command::new(plan.binary);
        create.args(["topic", "create", "--brokers", &bootstrap, "-p", &PARTITIONS.to_string(), TOPIC]);
        shell::pipe(create.args(outputs), "", &home.join("topics.log"))?;
        let acknowledged = home.join("acknowledged");
        let producer = produce(plan, &bootstrap, &acknowledged)?;
        let mut world = Self {
            cluster,
            program,
            sinks,
            acknowledged,
            ended: Vec::new(),
            findings: Vec::new(),
            postgres,
            redis,
            producer: Some(producer),
            home,
            started: 0,
        };
        for sink in 0..SINKS {
            for slot in 0..world.sinks[sink].slots.len() {
                world.start_process(sink, slot)?;
            }
        }
        Ok(world)
    }

    /// How many records are acknowledged.
    pub(super) fn acknowledged(&self) -> usize {
        fs::read(&self.acknowledged).map_or(0, |text| text.iter().filter(|&&byte| byte == b'\n').count())
    }

    fn start_process(&mut self, sink: usize, slot: usize) -> Result<(), String> {
        self.started += 1;
        let Sink { name, config, slots, .. } = &mut self.sinks[sink];
        let instance = ["a", "b"][slot];
        let command = self.program.run(config, instance);
        // Each has a log of its own, so that the last line is its own.
        let name = format!("{name}-{instance}-{}", self.started);
        slots[slot] = Slot { process: Some(Instance::start(command, &name, self.home)?), ..Slot::default() };
        Ok(())
    }

    /// Breaks something; whether it was there to be broken.
    pub(super) fn strike(&mut self, fault: &Fault) -> Result<bool, String> {
        let now = shell::now();
        let until = now + fault.lasts;
        let slot = fault.instance % self.sinks[fault.sink].slots.len();
        match fault.kind {
            Kind::KillSink => self.kill_sink(fault.sink, slot, until),
            Kind::StopSink => {
                let slot = &mut self.sinks[fault.sink].slots[slot];
                let Some(process) = slot.process.as_ref().filter(|_| slot.paused.is_none()) else {
                    return Ok(false);
                };
                process.signal("TERM")?;
                slot.ending = Some((now + END_MAX, fault.lasts));
                Ok(true)
            }
            Kind::PauseSink => self.pause_sink(fault, slot, until),
            // One that is down already is started again by the process above it.
            Kind::KillBroker => Ok(self.cluster.kill(fault.broker).is_ok()),
            Kind::KillRedis => self.kill_store(REDIS, until),
            Kind::KillPostgres => self.kill_store(POSTGRES, until),
            Kind::StoreAway => self.kill_store(if fault.is_redis { REDIS } else { POSTGRES }, until),
            Kind::FullDisk => {
                let sink = &mut self.sinks[fault.sink];
                if sink.full.is_some() {
                    return Ok(false);
                }
                sink.full = Some(until);
                sink.excused = sink.excused.max(until + EXCUSED_AFTER);
                sink.room.fill().map(|()| true)
            }
            Kind::KillAll => {
                for sink in 0..SINKS {
                    for slot in 0..self.sinks[sink].slots.len() {
                        self.kill_sink(sink, slot, until)?;
                    }
                }
                self.kill_store(REDIS, until)?;
                self.kill_store(POSTGRES, until)?;
                Ok(true)
            }
        }
    }

    fn kill_sink(&mut self, sink: usize, slot: usize, back: Instant) -> Result<bool, String> {
        let slot = &mut self.sinks[sink].slots[slot];
        let Some(mut process) = slot.process.take() else { return Ok(false) };
        process.kill()?;
        *slot = Slot { back: Some(back), ..Slot::default() };
        Ok(true)
    }

    /// Stops one for longer than its session. Where partitions are not shared, or every other time, one is started in its place, as by
    /// somebody who takes it for dead.
    fn pause_sink(&mut self, fault: &Fault, slot: usize, until: Instant) -> Result<bool, String> {
        let sink = &mut self.sinks[fault.sink];
        let place = &mut sink.slots[slot];
        if place.process.is_none() || place.paused.is_some() || place.ending.is_some() {
            return Ok(false);
        }
        let process = place.process.take().expect("it was just there");
        process.signal("STOP")?;
        if self.program.has_instances && fault.is_redis {
            place.process = Some(process);
            place.paused = Some(until);
            return Ok(true);
        }
        sink.zombies.push(Zombie { process, paused: Some(until), ends: until + END_MAX });
        self.start_process(fault.sink, slot)?;
        Ok(true)
    }

    fn kill_store(&mut self, at: usize, back: Instant) -> Result<bool, String> {
        let server = if at == REDIS { &mut self.redis } else { &mut self.postgres };
        if server.back.is_some() {
            return Ok(false);
        }
        server.store.kill()?;
        server.back = Some(back);
        let sink = &mut self.sinks[at];
        sink.excused = sink.excused.max(back + EXCUSED_AFTER);
        Ok(true)
    }

    /// Ends what is to end by now, and starts again what has ended.
    pub(super) fn tick(&mut self) -> Result<(), String> {
        let now = shell::now();
        self.cluster.check()?;
        if let Some(producer) = &mut self.producer {
            producer.check()?;
        }
        for server in [&mut self.postgres, &mut self.redis] {
            if server.back.is_some_and(|back| back <= now) {
                server.back = None;
                server.store.start_again()?;
            }
        }
        for sink in 0..SINKS {
            if self.sinks[sink].full.is_some_and(|until| until <= now) {
                self.sinks[sink].full = None;
                self.sinks[sink].room.drain()?;
            }
            self.look_after_zombies(sink, now)?;
            for slot in 0..self.sinks[sink].slots.len() {
                self.look_after_slot(sink, slot, now)?;
                if self.sinks[sink].slots[slot].back.is_some_and(|back| back <= now) {
                    self.start_process(sink, slot)?;
                }
            }
        }
        Ok(())
    }

    fn look_after_slot(&mut self, sink: usize, slot: usize, now: Instant) -> Result<(), String> {
        let Sink { slots, excused, .. } = &mut self.sinks[sink];
        let slot = &mut slots[slot];
        let Some(process) = &mut slot.process else { return Ok(()) };
        if slot.paused.is_some_and(|until| until <= now) {
            slot.paused = None;
            slot.excused = Some(now + EXCUSED_AFTER);
            process.signal("CONT")?;
        }
        if let Some(end) = process.ended()? {
            let name = process.name.clone();
            let rest = slot.ending.map(|(_, rest)| rest);
            let is_excused = now < (*excused).max(slot.excused.unwrap_or(now));
            *slot = Slot { back: Some(now + rest.unwrap_or(AGAIN_AFTER)), ..Slot::default() };
            if rest.is_none() || !end.status.success() {
                self.ended.push(Ended { process: name, end, is_excused });
            }
        } else if slot.ending.is_some_and(|(until, _)| until <= now) {
            let (name, seconds) = (process.name.clone(), END_MAX.as_secs());
            process.kill()?;
            *slot = Slot { back: Some(now), ..Slot::default() };
            self.findings.push(format!("{name} was asked to end and had not after {seconds} s"));
        }
        Ok(())
    }

    /// One that another has taken over from ends by itself, once it goes on.
    fn look_after_zombies(&mut self, sink: usize, now: Instant) -> Result<(), String> {
        for mut zombie in std::mem::take(&mut self.sinks[sink].zombies) {
            if zombie.paused.is_some_and(|until| until <= now) {
                zombie.paused = None;
                zombie.process.signal("CONT")?;
            }
            let process = zombie.process.name.clone();
            if let Some(end) = zombie.process.ended()? {
                self.ended.push(Ended { process, end, is_excused: true });
            } else if zombie.ends <= now {
                zombie.process.kill()?;
                let seconds = END_MAX.as_secs();
                self.findings
                    .push(format!("{process} was taken over from and had not ended after {seconds} s"));
            } else {
                self.sinks[sink].zombies.push(zombie);
            }
        }
        Ok(())
    }

    /// Mends everything, ends the producer and then the sinks. How many records were acknowledged, by the producer's own word.
    pub(super) fn calm_down(&mut self, deadline: Instant) -> Result<u64, String> {
        let now = shell::now();
        for server in [&mut self.postgres, &mut self.redis] {
            if server.back.take().is_some() {
                server.store.start_again()?;
            }
        }
        for sink in &mut self.sinks {
            sink.full = None;
            sink.room.drain()?;
            let paused = sink.slots.iter_mut().map(|slot| (&slot.process, &mut slot.paused));
            for (process, paused) in paused {
                if let (Some(_), Some(process)) = (paused.take(), process) {
                    process.signal("CONT")?;
                }
            }
            for zombie in &mut sink.zombies {
                zombie.ends = zombie.ends.min(now + END_MAX);
                if zombie.paused.take().is_some() {
                    zombie.process.signal("CONT")?;
                }
            }
        }
        self.cluster.wait_until_healthy(shell::now())?;
        let producer = self.producer.take().expect("it runs until now");
        let said = producer.stop()?;
        let acknowledged = said.iter().find_map(|line| line.strip_prefix("acknowledged ")?.parse().ok());
        self.stop_all(deadline)?;
        acknowledged.ok_or_else(|| "the producer has not said how many it produced".to_owned())
    }

    fn stop_all(&mut self, deadline: Instant) -> Result<(), String> {
        let deadline = deadline.min(shell::now() + END_MAX);
        let mut processes = Vec::new();
        for sink in &mut self.sinks {
            let running = sink.slots.iter_mut().filter_map(|slot| slot.process.take());
            processes.extend(running.chain(sink.zombies.drain(..).map(|zombie| zombie.process)));
        }
        for process in &mut processes {
            if process.ended()?.is_none() {
                process.signal("TERM")?;
            }
        }
        for process in &mut processes {
            let name = process.name.clone();
            if let Err(reason) = super::ended(process.child(), deadline, &name) {
                self.findings.push(reason);
            }
        }
        Ok(())
    }
}

fn produce(plan: &Plan<'_>, bootstrap: &str, acknowledged: &Path) -> Result<program::Program, String> {
    let mut produce = Command::new(plan.producer);
    produce
        .args(["produce", "--json", "--bootstrap", bootstrap, "--topic", TOPIC])
        .args(["--partitions", &PARTITIONS.to_string(), "--bytes", &VALUE_BYTES.to_string()])
        .arg("--acknowledged")
        .arg(acknowledged)
        .args(["--set", &format!("producer.rate.records={}", plan.rate)])
        // Brokers are down for seconds at a time, and others the next moment.
        .args(["--set", "delivery.timeout.ms=600000", "--set", "linger.ms=20"]);
    program::Program::start(produce, "producer", plan.home)
}

fn declaration(name: &str, bootstrap: &str, table: &Path, positions: &str, output: &str) -> String {
    format!(
        "name = \"{name}\"\n\
         topics = [\"{TOPIC}\"]\n\n\
         [client]\n\
         bootstrap.servers = \"{bootstrap}\"\n\
         session.timeout.ms = {SESSION_MS}\n\n\
         [value]\n\
         format = \"json\"\n\
         fields = [\n  \
           {{ name = \"number\", type = \"int64\", required = true }},\n  \
           {{ name = \"sequence\", type = \"int64\", required = true }},\n  \
           {{ name = \"text\", type = \"string\" }},\n\
         ]\n\n\
         [offline]\n\
         table = \"{}\"\n\
         positions = \"{positions}\"\n\
         roll_age = \"{ROLL_AGE}\"\n\n\
         [nearline]\n\
         topic = \"{output}\"\n",
        table.display()
    )
}
