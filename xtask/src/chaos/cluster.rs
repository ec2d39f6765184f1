//! The three brokers together, and what is done to several of them at one moment.

use super::broker::Broker;
use super::disk::{self, Disk};
use super::{BROKERS, network};
use crate::shell;
use crate::toolbox::Toolbox;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub(super) struct Cluster<'a> {
    toolbox: &'a Toolbox,
    brokers: Vec<Broker>,
}

impl<'a> Cluster<'a> {
    /// Builds networks and disks, starts all brokers, and waits until they are ready.
    pub(super) fn start(
        toolbox: &'a Toolbox,
        binary: &Path,
        patience: Duration,
        home: &Path,
    ) -> Result<Self, String> {
        network::build()?;
        let brokers: Result<Vec<Broker>, String> =
            (1..=BROKERS).map(|id| Broker::new(id, binary, home)).collect();
        let mut cluster = Self { toolbox, brokers: brokers? };
        for broker in &mut cluster.brokers {
            broker.start()?;
        }
        let deadline = shell::now() + patience;
        while !cluster.not_ready().is_empty() {
            cluster.check_alive()?;
            if shell::now() > deadline {
                return Err(format!(
                    "{} at the start; see {}",
                    cluster.not_ready().join("; "),
                    cluster.logs()
                ));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(cluster)
    }

    pub(super) fn broker(&mut self, id: usize) -> &mut Broker {
        &mut self.brokers[id - 1]
    }

    pub(super) fn bootstrap(&self) -> String {
        let addresses: Vec<String> = self.brokers.iter().map(Broker::address).collect();
        addresses.join(",")
    }

    /// The data directories of each broker.
    pub(super) fn dirs(&self) -> Vec<Vec<PathBuf>> {
        self.brokers.iter().map(Broker::dirs).collect()
    }

    /// The brokers' logs, for a message.
    pub(super) fn logs(&self) -> String {
        let logs: Vec<String> =
            self.brokers.iter().map(|broker| broker.log().display().to_string()).collect();
        logs.join(", ")
    }

    /// Stops and continues processes by name of the signal, all with one command.
    pub(super) fn signal(&self, ids: &[usize], name: &str) -> Result<(), String> {
        let pids: Vec<String> =
            ids.iter().filter_map(|id| self.brokers[id - 1].pid()).map(|pid| pid.to_string()).collect();
        if pids.is_empty() {
            return Ok(());
        }
        shell::run(Command::new("sh").arg("-c").arg(format!("kill -{name} {}", pids.join(" "))))
    }

    /// Takes the power of these brokers at one moment: they stand still before their disks go, so nothing is acknowledged in
    /// between.
    pub(super) fn power_off(&mut self, ids: &[usize]) -> Result<(), String> {
        self.signal(ids, "STOP")?;
        self.disks_off(ids)?;
        for &id in ids {
            self.broker(id).kill()?;
        }
        Ok(())
    }

    /// Takes the power of these brokers' disks, and not of the brokers.
    pub(super) fn disks_off(&self, ids: &[usize]) -> Result<(), String> {
        let disks: Vec<&Disk> = ids.iter().map(|id| &self.brokers[id - 1].disk).collect();
        disk::power_off(self.toolbox, &disks)
    }

    /// Asks a broker to move a partition to its other directory, and waits for no answer: there may be none.
    pub(super) fn begin_move(&self, id: usize, topic: &str, partition: usize) {
        let Some(dir) = self.brokers[id - 1].other_dir(&format!("{topic}-{partition}")) else { return };
        let mut program = self.toolbox.go_program("move");
        program.args(["-bootstrap", &self.bootstrap(), "-broker", &id.to_string(), "-topic", topic]);
        program.args(["-partition", &partition.to_string(), "-dir"]).arg(dir);
        std::thread::spawn(move || program.output());
    }

    /// How many replicas have come to another directory, as the brokers say.
    pub(super) fn moved(&self) -> Result<usize, String> {
        self.brokers.iter().map(Broker::moved).sum()
    }

    /// An error if a broker has ended that nobody has killed.
    pub(super) fn check_alive(&mut self) -> Result<(), String> {
        self.brokers.iter_mut().try_for_each(Broker::check_alive)
    }

    /// All is well: no broker has an excuse any more.
    pub(super) fn expect_life(&mut self) {
        self.brokers.iter_mut().for_each(Broker::expect_life);
    }

    /// Who does not answer that it is ready.
    pub(super) fn not_ready(&self) -> Vec<String> {
        let waiting = self.brokers.iter().filter(|broker| !broker.is_ready());
        let waiting = waiting.map(|broker| format!("the broker {} is not ready", broker.id));
        let rotten = self.brokers.iter().filter(|broker| broker.is_rotten());
        waiting.chain(rotten.map(|broker| format!("rot on broker {} is not repaired", broker.id))).collect()
    }

    /// Keeps what the brokers say of themselves beside their logs, for who looks into a failure.
    pub(super) fn keep_metrics(&self) {
        self.brokers.iter().for_each(Broker::keep_metrics);
    }

    /// An error if a broker has said what no broker should.
    pub(super) fn check_logs(&self) -> Result<(), String> {
        self.brokers.iter().try_for_each(Broker::check_log)
    }
}
