//! Groups whose members are of three kinds: our client, Java's and librdkafka's share the partitions of a topic, one of
//! them computes the assignment for all, and the work of a member that goes is taken over. No record may be missing.

use super::{Run, StepFn, StepOutcome};
use crate::shell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub(super) const STEPS: &[(&str, StepFn)] = &[
    ("range, java leads", |run, log| share(run, log, Kind::Java, RANGE)),
    ("range, ours leads", |run, log| share(run, log, Kind::Ours, RANGE)),
    ("sticky, java leads", |run, log| share(run, log, Kind::Java, STICKY)),
    ("sticky, ours leads", |run, log| share(run, log, Kind::Ours, STICKY)),
    ("sticky, librdkafka leads", |run, log| share(run, log, Kind::Librdkafka, STICKY)),
    ("consumer protocol", |run, log| share(run, log, Kind::Ours, Protocol::Consumer)),
];

const PARTITIONS: usize = 7;
/// Records of one wave.
const WAVE: usize = 140;
/// For members to find one another, or to read a wave.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// How a group distributes its partitions.
#[derive(Clone, Copy)]
enum Protocol {
    /// The name of the assignor, and of its class.
    Classic(&'static str, &'static str),
    Consumer,
}

const RANGE: Protocol = Protocol::Classic("range", "RangeAssignor");
const STICKY: Protocol = Protocol::Classic("cooperative-sticky", "CooperativeStickyAssignor");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ours,
    Java,
    Librdkafka,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Ours, Kind::Java, Kind::Librdkafka];

    fn speaks(self, protocol: Protocol) -> bool {
        // kcat's librdkafka is older than the consumer protocol.
        self != Kind::Librdkafka || matches!(protocol, Protocol::Classic(..))
    }

    /// A process that reads the topic as a member of the group and prints the values.
    fn command(self, run: &Run<'_>, protocol: Protocol, topic: &str) -> Command {
        let strategy = match protocol {
            Protocol::Consumer => "group.protocol=consumer".to_owned(),
            Protocol::Classic(_, class) if self == Kind::Java => {
                format!("partition.assignment.strategy=org.apache.kafka.clients.consumer.{class}")
            }
            Protocol::Classic(name, _) => format!("partition.assignment.strategy={name}"),
        };
        match self {
            Kind::Ours => {
                let mut command = Command::new(&run.binary);
                command.args(["consume", topic, "-g", topic, "-b", &run.bootstrap, "-X", &strategy]);
                command
            }
            Kind::Java => {
                let mut command = run.toolbox.console_tool("org.apache.kafka.tools.consumer.ConsoleConsumer");
                command.args(["--bootstrap-server", &run.bootstrap, "--topic", topic, "--group", topic]);
                command.args(["--from-beginning", "--command-property", &strategy]);
                command
            }
            Kind::Librdkafka => {
                let mut command = Command::new("kcat");
                command.args(["-b", &run.bootstrap, "-u", "-q", "-X", "auto.offset.reset=earliest"]);
                command.args(["-X", &strategy, "-G", topic, topic]);
                command
            }
        }
    }
}

struct Member {
    kind: Kind,
    child: Child,
    /// Where it prints the values.
    seen: PathBuf,
}

impl Member {
    fn start(run: &Run<'_>, log: &Path, kind: Kind, protocol: Protocol, topic: &str) -> Result<Self, String> {
        let mut command = kind.command(run, protocol, topic);
        let seen = run.logs.join(format!("{topic}-{kind:?}.seen"));
        shell::note(log, &format!("$ {}\n", shell::words(&command)))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(shell::append(&seen)?)
            .stderr(shell::append(log)?)
            .spawn()
            .map_err(|error| format!("cannot run {}: {error}", shell::words(&command)))?;
        Ok(Self { kind, child, seen })
    }

    /// The values it has printed so far; a line that is not whole yet does not count.
    fn values(&self) -> Result<Vec<String>, String> {
        let text =
            fs::read_to_string(&self.seen).map_err(|error| format!("{}: {error}", self.seen.display()))?;
        Ok(text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::to_owned).collect())
    }

    /// Asks it to leave, and waits until it has.
    fn leave(&mut self) -> Result<(), String> {
        shell::signal(self.child.id(), "TERM")?;
        let deadline = shell::now() + PATIENCE;
        while self.child.try_wait().map_err(|error| error.to_string())?.is_none() {
            if shell::now() > deadline {
                return Err(format!("{:?} does not end", self.kind));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The member of `first` kind founds the group and leads it, the others join, and then it leaves.
fn share(run: &Run<'_>, log: &Path, first: Kind, protocol: Protocol) -> StepOutcome {
    let name = match protocol {
        Protocol::Classic(name, _) => name,
        Protocol::Consumer => "consumer",
    };
    let topic = format!("mixed-{name}-{first:?}-{}", run.id).to_lowercase();
    ours(run, log, &["topic", "create", &topic, "-p", &PARTITIONS.to_string()], "")?;

    let mut waves = Waves { run, log, topic: &topic, sent: 0 };
    let mut members = vec![Member::start(run, log, first, protocol, &topic)?];
    waves.until_all_read(&members)?;
    for kind in Kind::ALL.into_iter().filter(|&kind| kind != first && kind.speaks(protocol)) {
        members.push(Member::start(run, log, kind, protocol, &topic)?);
    }
    waves.until_all_read(&members)?;
    members[0].leave()?;
    waves.until_all_read(&members[1..])?;

    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for member in &members {
        for value in member.values()? {
            *times.entry(value).or_default() += 1;
        }
    }
    let foreign = times.keys().filter(|value| !waves.has(value)).count();
    if foreign > 0 || times.len() != waves.sent {
        return Err(format!("{} of {} records came, and {foreign} others", times.len(), waves.sent));
    }
    let again = times.values().filter(|&&times| times > 1).count();
    Ok((waves.sent as u64, 0, format!("{again} read again")))
}

/// What is written meanwhile: numbers, spread over the partitions.
struct Waves<'a> {
    run: &'a Run<'a>,
    log: &'a Path,
    topic: &'a str,
    sent: usize,
}

impl Waves<'_> {
    fn has(&self, value: &str) -> bool {
        value.parse::<usize>().is_ok_and(|number| number < self.sent)
    }

    fn send(&mut self) -> Result<BTreeSet<String>, String> {
        let wave: Vec<String> = (self.sent..self.sent + WAVE).map(|number| number.to_string()).collect();
        let lines: String = wave.iter().map(|number| format!("{number}\t{number}\n")).collect();
        ours(self.run, self.log, &["produce", self.topic, "-f", "%k\t%v\n"], &lines)?;
        self.sent += WAVE;
        Ok(wave.into_iter().collect())
    }

    /// Sends waves until there is one of which each member has read a part, and all of it was read.
    fn until_all_read(&mut self, members: &[Member]) -> Result<(), String> {
        let deadline = shell::now() + PATIENCE;
        let mut parts = Vec::new();
        while shell::now() < deadline {
            let wave = self.send()?;
            // Long enough for a settled group; one that is not settled gets another wave.
            let settled = shell::now() + Duration::from_secs(2);
            while shell::now() < settled {
                parts.clear();
                let mut all = BTreeSet::new();
                for member in members {
                    let part: BTreeSet<String> =
                        member.values()?.into_iter().filter(|value| wave.contains(value)).collect();
                    parts.push((member.kind, part.len()));
                    all.extend(part);
                }
                if all == wave && parts.iter().all(|&(_, read)| read > 0) {
                    return Ok(());
                }
                std::thread::sleep(POLL);
            }
        }
        Err(format!("of the last wave of {WAVE} the members read {parts:?}, see {}", self.log.display()))
    }
}

fn ours(run: &Run<'_>, log: &Path, args: &[&str], input: &str) -> Result<String, String> {
    shell::pipe(Command::new(&run.binary).args(args).args(["-b", &run.bootstrap]), input, log)
}
