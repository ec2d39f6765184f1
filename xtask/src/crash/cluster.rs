//! The same on a cluster as `ottla dev --brokers N` runs it: each round one of its brokers, whichever, is killed under load,
//! when it leads its share of the partitions.
//! `ottla cluster health` must say so while it is down and that all is well before and after, and every producer must be
//! acknowledged in every partition again.

use super::{PARTITIONS, TOPIC};
use crate::dice::Dice;
use crate::producers::{Load, Producers, Watch};
use crate::replicas;
use crate::shell;
use crate::toolbox::Toolbox;
use crate::verdict::{self, Told};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// For a cluster to be well again.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);
/// What no broker has a reason to say.
const COMPLAINT: &str = "panicked";

/// What the caller has drawn up.
pub(super) struct Plan {
    pub(super) brokers: u16,
    pub(super) rounds: u64,
    pub(super) seed: u64,
    pub(super) rate: u64,
}

pub(super) fn run(plan: &Plan, toolbox: &Toolbox, binary: &Path) -> Result<(), String> {
    let home = shell::scratch("crash")?;
    println!(
        "seed {}, {} rounds, {} brokers, logs in {}",
        plan.seed,
        plan.rounds,
        plan.brokers,
        home.display()
    );
    let mut cluster = Cluster::start(binary, plan.brokers, &home)?;
    cluster.create_topic(toolbox)?;
    let load = Load { bootstrap: cluster.bootstrap(), topic: TOPIC, rate: plan.rate };
    let mut producers = Producers::start(toolbox, &load, &home)?;
    let watch = producers.watch(PARTITIONS);
    wait_until_acknowledged(&mut producers, &watch, shell::now())?;

    let mut dice = Dice::new(plan.seed);
    let ids: Vec<u16> = (1..=plan.brokers).collect();
    for round in 1..=plan.rounds {
        cluster.spread_leaders()?;
        std::thread::sleep(dice.millis(500, 2000));
        cluster.check()?;
        let before = cluster.health()?;
        if !before.is_healthy {
            return Err(format!("before a broker is killed the cluster is not healthy:\n{}", before.text));
        }
        let id = dice.pick(&ids);
        watch.mark();
        cluster.kill(id)?;
        let killed = shell::now();
        let told_after = cluster.wait_until_told_of(id)?;
        wait_until_acknowledged(&mut producers, &watch, killed)?;
        let acknowledged_after = killed.elapsed();
        let healthy_after = cluster.wait_until_healthy(killed)?;
        let silences: Vec<String> = watch
            .stalls()
            .iter()
            .map(|stall| format!("{} {:.1} s", stall.name, stall.partition.as_secs_f64()))
            .collect();
        println!(
            "round {round:>2}: broker {id} killed; health told after {:.1} s, all acknowledged again after {:.1} s, healthy \
             after {:.1} s; longest silence of a partition: {}; {} acknowledged",
            told_after.as_secs_f64(),
            acknowledged_after.as_secs_f64(),
            healthy_after.as_secs_f64(),
            silences.join(", "),
            watch.acknowledged()
        );
    }

    let mut told = Told { producers: producers.stop()?, ..Told::default() };
    cluster.check()?;
    let agreed = replicas::compare(&cluster.data(), TOPIC, PARTITIONS, PATIENCE)?;
    told.epochs = agreed.epochs;
    verdict::verify(toolbox, &cluster.bootstrap(), TOPIC, &told, &home)?;
    println!(
        "{} crashes, nothing acknowledged is lost, nothing is there twice; {} batches are the same on {} brokers",
        plan.rounds, agreed.batches, plan.brokers
    );
    Ok(())
}

/// Waits until every producer was acknowledged in every partition after `since`.
fn wait_until_acknowledged(producers: &mut Producers, watch: &Watch, since: Instant) -> Result<(), String> {
    loop {
        producers.check()?;
        let silent = watch.silent_since(since);
        if silent.is_empty() {
            return Ok(());
        }
        if since.elapsed() > PATIENCE {
            return Err(format!(
                "after {} s nothing was acknowledged to {}",
                PATIENCE.as_secs(),
                silent.join("; ")
            ));
        }
        std::thread::sleep(PAUSE);
    }
}

/// What `ottla cluster health` says.
struct Health {
    is_healthy: bool,
    text: String,
}

/// `ottla dev --brokers N`; it and its brokers do not outlive the value.
struct Cluster<'a> {
    binary: &'a Path,
    home: &'a Path,
    brokers: u16,
    port: u16,
    process: Child,
}

impl<'a> Cluster<'a> {
    fn start(binary: &'a Path, brokers: u16, home: &'a Path) -> Result<Self, String> {
        let ports = shell::lasting_ports(2 * usize::from(brokers))?;
        let (port, admin_port) = (ports[0], ports[usize::from(brokers)]);
        let log = home.join("brokers.log");
        let mut command = Command::new(binary);
        command.args(["dev", "--brokers", &brokers.to_string(), "--data-dir"]).arg(home.join("data")).args([
            "--listen",
            &format!("127.0.0.1:{port}"),
            "--admin",
            &format!("127.0.0.1:{admin_port}"),
        ]);
        let process = command
            .stdin(Stdio::null())
            .stdout(shell::append(&log)?)
            .stderr(shell::append(&log)?)
            .spawn()
            .map_err(|error| format!("cannot run {}: {error}", shell::words(&command)))?;
        let cluster = Self { binary, home, brokers, port, process };
        cluster.wait_until_healthy(shell::now())?;
        Ok(cluster)
    }

    fn bootstrap(&self) -> String {
        let addresses: Vec<String> =
            (self.port..self.port + self.brokers).map(|port| format!("127.0.0.1:{port}")).collect();
        addresses.join(",")
    }

    fn log(&self) -> PathBuf {
        self.home.join("brokers.log")
    }

    fn data(&self) -> Vec<PathBuf> {
        (1..=self.brokers).map(|id| self.home.join("data").join(format!("broker-{id}"))).collect()
    }

    fn create_topic(&self, toolbox: &Toolbox) -> Result<(), String> {
        let mut create = toolbox.console_tool("org.apache.kafka.tools.TopicCommand");
        create
            .args(["--bootstrap-server", &self.bootstrap(), "--create", "--topic", TOPIC])
            .args(["--partitions", &PARTITIONS.to_string()]);
        shell::pipe(&mut create, "", &self.home.join("topic.log")).map(|_| ())
    }

    /// A broker that came back leads nothing until the cluster balances its leaders, which takes minutes.
    fn spread_leaders(&self) -> Result<(), String> {
        let mut elect = Command::new(self.binary);
        elect.args(["cluster", "elect", TOPIC, "--brokers", &self.bootstrap()]);
        shell::pipe(&mut elect, "", &self.home.join("elect.log")).map(|_| ())
    }

    /// kill -9 of one broker; the process above starts it again after a while.
    fn kill(&self, id: u16) -> Result<(), String> {
        let pid = self.pid(id)?;
        shell::signal(pid, "KILL")
    }

    /// Of the broker that is the `id`th child by what it was started with.
    fn pid(&self, id: u16) -> Result<u32, String> {
        let parent = self.process.id();
        let path = format!("/proc/{parent}/task/{parent}/children");
        let children =
            fs::read_to_string(&path).map_err(|error| format!("{path}: {error} (this wants Linux)"))?;
        let mark = format!("\0node.id={id}\0");
        let is_it = |child: &u32| {
            fs::read_to_string(format!("/proc/{child}/cmdline")).is_ok_and(|words| words.contains(&mark))
        };
        let mut children = children.split_whitespace().filter_map(|child| child.parse().ok());
        children.find(is_it).ok_or_else(|| format!("broker {id} does not run, see {}", self.log().display()))
    }

    fn health(&self) -> Result<Health, String> {
        let mut command = Command::new(self.binary);
        command.args(["cluster", "health", "--brokers", &self.bootstrap()]).stdin(Stdio::null());
        let output =
            command.output().map_err(|error| format!("cannot run {}: {error}", shell::words(&command)))?;
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        shell::note(&self.home.join("health.log"), &format!("{}\n{text}\n", output.status))?;
        match output.status.code() {
            Some(0) => Ok(Health { is_healthy: true, text }),
            Some(1) => Ok(Health { is_healthy: false, text }),
            _ => Err(format!("{}: {}\n{text}", shell::words(&command), output.status)),
        }
    }

    /// The first look at a cluster whose broker was killed already tells which; how long that took.
    fn wait_until_told_of(&self, id: u16) -> Result<Duration, String> {
        let begin = shell::now();
        let health = self.health()?;
        let named = format!("broker {id} ");
        if health.is_healthy || !health.text.contains(&named) {
            return Err(format!("broker {id} is down, and the health is said to be\n{}", health.text));
        }
        Ok(begin.elapsed())
    }

    /// How long after `since` all was well.
    fn wait_until_healthy(&self, since: Instant) -> Result<Duration, String> {
        loop {
            let health = self.health()?;
            if health.is_healthy {
                return Ok(since.elapsed());
            }
            if since.elapsed() > PATIENCE {
                return Err(format!("not healthy after {} s:\n{}", PATIENCE.as_secs(), health.text));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// An error if it has ended, or has said what no broker should.
    fn check(&mut self) -> Result<(), String> {
        let log = self.log();
        let ended =
            self.process.try_wait().map_err(|error| format!("cannot look after the cluster: {error}"))?;
        if let Some(status) = ended {
            return Err(format!("the cluster ended ({status}), see {}", log.display()));
        }
        let text = fs::read(&log).map_err(|error| format!("{}: {error}", log.display()))?;
        if String::from_utf8_lossy(&text).contains(COMPLAINT) {
            return Err(format!("a broker {COMPLAINT}, see {}", log.display()));
        }
        Ok(())
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        // The brokers' standard input ends with it, and they with that. Already gone is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
