//! The brokers of the cluster: processes of their own on ports that stay theirs while they are down.
//! None outlives the value.

use crate::shell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub(super) const BROKERS: usize = 3;
pub(super) const CLUSTER_ID: &str = "compat";
/// What no broker has a reason to say.
const COMPLAINT: &str = "panicked";

struct Member {
    port: u16,
    admin_port: u16,
    process: Option<Child>,
}

/// They are numbered from 1.
pub(super) struct Members {
    binary: PathBuf,
    home: PathBuf,
    members: Vec<Member>,
}

impl Members {
    /// Starts all of them, with empty directories below `home`.
    pub(super) fn start(binary: &Path, home: &Path) -> Result<Self, String> {
        fs::create_dir_all(home).map_err(|error| format!("cannot create {}: {error}", home.display()))?;
        let ports = shell::lasting_ports(2 * BROKERS)?;
        let member = |ports: &[u16]| Member { port: ports[0], admin_port: ports[1], process: None };
        let members = ports.chunks(2).map(member).collect();
        let mut members = Self { binary: binary.to_path_buf(), home: home.to_path_buf(), members };
        for id in 1..=BROKERS {
            members.start_one(id)?;
        }
        Ok(members)
    }

    pub(super) fn binary(&self) -> &Path {
        &self.binary
    }

    /// `host:port` for clients and other brokers.
    pub(super) fn address(&self, id: usize) -> String {
        format!("127.0.0.1:{}", self.members[id - 1].port)
    }

    /// The addresses of all, also of those that are down.
    pub(super) fn addresses(&self) -> String {
        (1..=BROKERS).map(|id| self.address(id)).collect::<Vec<_>>().join(",")
    }

    fn log(&self, id: usize) -> PathBuf {
        self.home.join(format!("broker{id}.log"))
    }

    /// Starts the process and does not wait for it.
    pub(super) fn start_one(&mut self, id: usize) -> Result<(), String> {
        let voters: Vec<String> = (1..=BROKERS).map(|id| format!("{id}@{}", self.address(id))).collect();
        let settings = [
            format!("node.id={id}"),
            format!("cluster.id={CLUSTER_ID}"),
            format!("controller.quorum.voters={}", voters.join(",")),
            format!("default.replication.factor={BROKERS}"),
            "min.insync.replicas=2".to_owned(),
            "offsets.topic.num.partitions=6".to_owned(),
            "group.initial.rebalance.delay.ms=0".to_owned(),
            // Virtual machines that start beside it take its processor.
            "broker.session.timeout.ms=4000".to_owned(),
            // Leaders stay where they are until a tool moves them.
            "auto.leader.rebalance.enable=false".to_owned(),
        ];
        let mut command = Command::new(&self.binary);
        command
            .args(["dev", "--listen", &self.address(id)])
            .args(["--admin", &format!("127.0.0.1:{}", self.members[id - 1].admin_port)])
            .arg("--data-dir")
            .arg(self.home.join(format!("data{id}")))
            .args(settings.iter().flat_map(|setting| ["--set", setting]));
        let log = self.log(id);
        let child = command
            .stdin(Stdio::null())
            .stdout(shell::append(&log)?)
            .stderr(shell::append(&log)?)
            .spawn()
            .map_err(|error| format!("cannot run {}: {error}", shell::words(&command)))?;
        let member = &mut self.members[id - 1];
        assert!(member.process.is_none(), "a broker is started while it is down");
        member.process = Some(child);
        Ok(())
    }

    /// kill -9.
    pub(super) fn kill(&mut self, id: usize) -> Result<(), String> {
        let Some(mut process) = self.members[id - 1].process.take() else { return Ok(()) };
        process
            .kill()
            .and_then(|()| process.wait())
            .map_err(|error| format!("cannot kill the broker {id}: {error}"))?;
        Ok(())
    }

    /// An error if one has ended by itself, or has said what no broker should.
    pub(super) fn check(&mut self) -> Result<(), String> {
        for id in 1..=BROKERS {
            let log = self.log(id);
            let process = self.members[id - 1].process.as_mut();
            let ended = process.map_or(Ok(None), Child::try_wait);
            if let Some(status) = ended.map_err(|error| format!("cannot look after a broker: {error}"))? {
                return Err(format!("the broker {id} ended ({status}), see {}", log.display()));
            }
            let text = fs::read(&log).map_err(|error| format!("{}: {error}", log.display()))?;
            if String::from_utf8_lossy(&text).contains(COMPLAINT) {
                return Err(format!("the broker {id} {COMPLAINT}, see {}", log.display()));
            }
        }
        Ok(())
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for id in 1..=BROKERS {
            // Nobody is left to tell; a process that cannot be killed is gone already.
            let _ = self.kill(id);
        }
    }
}
