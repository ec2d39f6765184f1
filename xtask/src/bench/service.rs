//! What a load runs against: one broker or a cluster, as a client and an accountant see it.
//! CPU time is the sum over all brokers. It never starts or ends one.

use super::options::Peer;
use super::process;
use super::tools::Target;

#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) peer: Peer,
    /// Every broker's address.
    pub(crate) bootstrap: String,
    pub(crate) pids: Vec<u32>,
    /// How many replicas the partitions of a load have.
    pub(crate) replication: u32,
}

impl Service {
    pub(crate) fn target<'s>(&'s self, topic: &'s str, partitions: u32) -> Target<'s> {
        Target { bootstrap: &self.bootstrap, topic, partitions, replication: self.replication }
    }

    /// User and system seconds that all brokers have used so far.
    pub(crate) fn cpu_seconds(&self) -> Result<f64, String> {
        self.pids.iter().map(|pid| process::cpu_seconds(*pid)).sum()
    }
}
