//! The programs a bench needs, built or fetched before anything is measured, and the way to run one and read its figures.
//! Scratch data lies under the target directory, on a real disk, for both sides alike. It never installs anything outside
//! the repository: Apache Kafka is the one that the suites of real clients have in `.tools`.

use super::options::{Generator, Options, Part, Peer};
use super::service::Service;
use crate::shell;
use crate::toolbox::{Kit, Toolbox};
use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A client that runs for seconds: without the optimising compiler, which would compete with the broker for the cores.
const JAVA_CLIENT_JVM: [&str; 2] = ["-Xmx512M", "-XX:TieredStopAtLevel=1"];

/// Where things are; made once.
pub(crate) struct Workshop {
    root: PathBuf,
    scratch: PathBuf,
    load: PathBuf,
    receiver: PathBuf,
    ottla: PathBuf,
    toolbox: Toolbox,
    kafka_classpath: String,
    /// Held as long as the scratch data is in use.
    _lock: File,
}

impl Workshop {
    pub(crate) fn open(options: &Options) -> Result<Self, String> {
        let (root, target) = (shell::root(), shell::target());
        let lock = alone(&target)?;
        let scratch = shell::scratch("bench")?;
        let tools = target.join("bench-tools");
        for program in ["librdkafka", "receiver"] {
            let manifest = root.join("bench").join(program).join("Cargo.toml");
            cargo_build(Command::new("cargo").arg("build").arg("--manifest-path").arg(manifest), &tools)?;
        }
        let ottla = match &options.binary {
            Some(binary) => binary.clone(),
            // `ottla cluster elect` moves Kafka's leaders too.
            None if options.peers.contains(&Peer::Ottla) || options.parts.contains(&Part::Failover) => {
                cargo_build(
                    Command::new("cargo").current_dir(&root).args(["build", "-p", "ottla"]),
                    &target,
                )?;
                target.join("release/ottla")
            }
            None => PathBuf::new(),
        };
        let mut kits = vec![Kit::Java];
        if options.parts.contains(&Part::Sink) {
            kits.push(Kit::Python);
        }
        let toolbox = Toolbox::install(&kits)?;
        Ok(Self {
            root,
            scratch,
            load: tools.join("release/load"),
            receiver: tools.join("release/receiver"),
            ottla,
            kafka_classpath: format!("{}/*", toolbox.jars().display()),
            toolbox,
            _lock: lock,
        })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn scratch(&self) -> &Path {
        &self.scratch
    }

    pub(crate) fn ottla(&self) -> Command {
        Command::new(&self.ottla)
    }

    pub(crate) fn receiver(&self) -> Command {
        Command::new(&self.receiver)
    }

    pub(crate) fn load(&self, command: &str) -> Command {
        let mut load = Command::new(&self.load);
        load.arg(command);
        load
    }

    /// One of the Java programs of compat/java.
    pub(crate) fn java_program(&self, name: &str) -> Command {
        let mut java = self.toolbox.java();
        java.args(["compat.Main", name]);
        java
    }

    /// A program of compat/python.
    pub(crate) fn python_program(&self, name: &str) -> Command {
        self.toolbox.python_program(name)
    }

    /// A main class of Apache Kafka: broker or tool.
    pub(crate) fn kafka(&self, class: &str, jvm: &[&str]) -> Command {
        let mut java = Command::new("java");
        java.args(jvm).args(["-Dlog4j2.level=ERROR", "-cp", &self.kafka_classpath, class]);
        java
    }

    /// An empty directory under scratch, whatever was there before.
    pub(crate) fn fresh_dir(&self, name: &str) -> Result<PathBuf, String> {
        let path = self.scratch.join(name);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("{}: {error}", path.display()));
            }
            _ => {}
        }
        fs::create_dir_all(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(path)
    }
}

/// What a client measured about itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub(crate) mb_per_s: f64,
}

/// One topic, as a client is told about it.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) bootstrap: &'a str,
    pub(crate) topic: &'a str,
    pub(crate) partitions: u32,
    pub(crate) replication: u32,
}

impl Workshop {
    pub(crate) fn create(&self, target: Target<'_>) -> Result<(), String> {
        // Deleted topics give their disk and page cache back before the next run needs them.
        output(self.creation(target).args(["--config", "file.delete.delay.ms=1000"])).map(drop)
    }

    /// The command that creates topics. Two of three replicas acknowledge.
    pub(crate) fn creation(&self, target: Target<'_>) -> Command {
        let mut create = self.on("create", target);
        create.args(["--replication", &target.replication.to_string()]);
        if target.replication > 1 {
            create.args(["--config", "min.insync.replicas=2"]);
        }
        create
    }

    /// Changes the configuration of a topic, a group or a client with Kafka's own tool.
    pub(crate) fn configure(
        &self,
        service: &Service,
        (entities, name): (&str, &str),
        (change, setting): (&str, &str),
    ) -> Result<(), String> {
        let mut configs = self.kafka("kafka.admin.ConfigCommand", &[]);
        configs.args(["--bootstrap-server", &service.bootstrap, "--alter", change, setting]);
        output(configs.args(["--entity-type", entities, "--entity-name", name])).map(drop)
    }

    pub(crate) fn delete(&self, target: Target<'_>) -> Result<(), String> {
        output(&mut self.on("delete", target)).map(drop)
    }

    /// A `load` command on one topic.
    pub(crate) fn on(&self, command: &str, target: Target<'_>) -> Command {
        let mut load = self.load(command);
        load.args(["--bootstrap", target.bootstrap, "--topic", target.topic]);
        load.args(["--partitions", &target.partitions.to_string()]);
        load
    }

    pub(crate) fn produce(
        &self,
        generator: Generator,
        target: Target<'_>,
        load: Load,
    ) -> Result<Rate, String> {
        let (size, records) = (load.record_bytes.to_string(), load.records.to_string());
        match generator {
            Generator::Librdkafka => {
                rate(&figures(self.on("produce", target).args(["--size", &size, "--records", &records]))?)
            }
            Generator::Java => {
                let printed = output(
                    self.kafka("org.apache.kafka.tools.ProducerPerformance", &JAVA_CLIENT_JVM)
                        .args(["--bootstrap-server", target.bootstrap, "--topic", target.topic])
                        .args(["--record-size", &size, "--num-records", &records, "--throughput", "-1"])
                        .args(["--command-property", "acks=all"]),
                )?;
                java_produce_rate(&printed, load.record_bytes)
            }
        }
    }

    pub(crate) fn consume(
        &self,
        generator: Generator,
        target: Target<'_>,
        load: Load,
    ) -> Result<Rate, String> {
        let records = load.records.to_string();
        match generator {
            Generator::Librdkafka => {
                rate(&figures(self.on("consume", target).args(["--records", &records]))?)
            }
            Generator::Java => {
                let printed = output(
                    self.kafka("org.apache.kafka.tools.ConsumerPerformance", &JAVA_CLIENT_JVM)
                        .args(["--bootstrap-server", target.bootstrap, "--topic", target.topic])
                        .args(["--num-records", &records, "--timeout", "30000"]),
                )?;
                java_consume_rate(&printed, load.record_bytes)
            }
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) record_bytes: u64,
    pub(crate) records: u64,
}

impl Load {
    pub(crate) fn bytes(self) -> u64 {
        self.record_bytes * self.records
    }

    pub(crate) fn gib(self) -> f64 {
        self.bytes() as f64 / (1_u64 << 30) as f64
    }
}

/// "1000 records sent, 1234.5 records/sec (1.2 MB/sec), …": the last such line is the whole run's.
fn java_produce_rate(printed: &str, record_bytes: u64) -> Result<Rate, String> {
    let per_second = printed.lines().rev().find_map(|line| {
        let (before, _) = line.split_once(" records/sec")?;
        before.rsplit(' ').next()?.parse::<f64>().ok()
    });
    let per_second = per_second.ok_or_else(|| format!("ProducerPerformance printed no rate:\n{printed}"))?;
    Ok(Rate { mb_per_s: per_second * record_bytes as f64 / 1e6 })
}

/// A line of comma-separated figures whose last is the records per second of fetching alone, without the rebalance.
fn java_consume_rate(printed: &str, record_bytes: u64) -> Result<Rate, String> {
    let per_second = printed.lines().rev().find_map(|line| {
        let fields: Vec<&str> = line.split(", ").collect();
        (fields.len() >= 10).then(|| fields[fields.len() - 1].trim().parse::<f64>().ok())?
    });
    let per_second = per_second.ok_or_else(|| format!("ConsumerPerformance printed no rate:\n{printed}"))?;
    Ok(Rate { mb_per_s: per_second * record_bytes as f64 / 1e6 })
}

fn rate(figures: &HashMap<String, f64>) -> Result<Rate, String> {
    Ok(Rate { mb_per_s: figure(figures, "mb_per_s")? })
}

/// The `name=value` words that our own programs print.
pub(crate) fn figures(command: &mut Command) -> Result<HashMap<String, f64>, String> {
    Ok(parse_figures(&output(command)?))
}

pub(crate) fn parse_figures(printed: &str) -> HashMap<String, f64> {
    let words = printed.split_whitespace().filter_map(|word| word.split_once('='));
    words.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
}

pub(crate) fn figure(figures: &HashMap<String, f64>, name: &str) -> Result<f64, String> {
    figures.get(name).copied().ok_or_else(|| format!("no {name} among the figures"))
}

/// Runs a program to its end and returns what it printed; a failure carries what it complained about.
pub(crate) fn output(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{program}: {e}"))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(printed);
    }
    let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {} failed: {}\n{complaint}{printed}", arguments.join(" "), output.status))
}

/// Keeps a second bench away, which would empty the directories of the first one's brokers.
fn alone(target: &Path) -> Result<File, String> {
    let path = target.join("bench.lock");
    let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    fs::create_dir_all(target).map_err(|e| failed(&e))?;
    let lock = shell::append(&path)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(failed(&"another bench runs in this target directory")),
        Err(TryLockError::Error(error)) => Err(failed(&error)),
    }
}

fn cargo_build(command: &mut Command, target: &Path) -> Result<(), String> {
    let status = command.args(["--release", "--locked", "--quiet", "--target-dir"]).arg(target).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command:?}: {status}")),
        Err(error) => Err(format!("cargo: {error}")),
    }
}
