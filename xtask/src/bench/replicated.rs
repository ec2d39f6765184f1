//! Replication 3, two of three replicas acknowledge, three brokers of each side on one machine: what a record costs all three
//! together, and how long it takes from its producer to its consumer.
//! Both clusters run side by side and take turns, as single brokers do in the matrix. It never counts the clients' time.

use super::cluster::Cluster;
use super::figure::Findings;
use super::latency;
use super::options::{Cell, Durability, Options};
use super::service::Service;
use super::throughput::{Bench, warm_up};
use super::tools::Workshop;
use crate::shell;
use std::time::Duration;

/// No further pair of a cell begins after this.
const CELL_WAIT_MAX: Duration = Duration::from_secs(60);

pub(crate) fn measure(workshop: &Workshop, options: &Options, findings: &mut Findings) -> Result<(), String> {
    for durability in Durability::BOTH {
        let is_wanted = |cell: &Cell| cell.durability == durability && cell.replication > 1;
        let cells: Vec<Cell> = options.cells.iter().copied().filter(is_wanted).collect();
        if cells.is_empty() {
            continue;
        }
        let mut clusters = Vec::new();
        for peer in &options.peers {
            clusters.push(Cluster::start(workshop, *peer, durability)?);
        }
        let services: Vec<Service> = clusters.iter().map(Cluster::service).collect();
        for service in &services {
            warm_up(workshop, service)?;
        }
        for cell in cells {
            let deadline = shell::now() + CELL_WAIT_MAX;
            findings.add(&cell, Bench { workshop, options, cell, deadline }.measure(&services));
        }
        let latencies = latency::compare(workshop, options, durability, &services);
        findings.add(&format!("latency with three replicas, {durability}"), latencies);
        clusters.iter_mut().try_for_each(Cluster::check_alive)?;
    }
    Ok(())
}
