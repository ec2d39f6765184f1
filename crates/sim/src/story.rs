//! One story: a cluster, its load, its faults, and how it ended.

use std::cell::RefCell;
use std::panic;
use std::sync::Once;
use std::time::Duration;

use turmoil::Builder;

use crate::dice::Dice;
use crate::faults::Faults;
use crate::history::History;
use crate::invariants::Invariants;
use crate::load::{self, Client};
use crate::transactions::{self, Protocol, Who};
use crate::world::Machine;

/// What a story is told from.
#[derive(Debug, Clone, Copy)]
pub struct Story {
    /// Everything follows from it.
    pub seed: u64,
    /// For how long faults come.
    pub faults: Duration,
}

/// How a story ended.
#[derive(Debug)]
pub struct Outcome {
    /// What must not be. Empty if all is well.
    pub anomalies: Vec<String>,
    /// What was done and told, line by line.
    pub trace: String,
    /// Values that were acknowledged.
    pub acknowledged: usize,
}

/// Time to come up and be written to before the first fault.
const CALM: Duration = Duration::from_secs(4);
/// How long the last look may take.
const END: Duration = Duration::from_secs(600);
/// The simulator's unit of time.
const TICK: Duration = Duration::from_millis(2);

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Tells a story to its end.
pub fn tell(story: Story) -> Outcome {
    watch_panics();
    PANIC.set(None);
    let dice = Dice::new(story.seed);
    let history = History::default();
    let brokers = if dice.percent(25) { 5 } else { 3 };
    let mut sim = Builder::new()
        .simulation_duration(CALM + story.faults + END)
        .tick_duration(TICK)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(5))
        .tcp_capacity(1024 * 1024)
        .rng_seed(dice.next())
        .build();
    let machines: Vec<Machine> = (1..=brokers).map(|id| Machine::new(id, brokers, dice.fork())).collect();
    for machine in machines.clone() {
        sim.host(machine.name(), move || machine.clone().run());
    }
    let until = CALM + story.faults;
    // Who loses a disk must not be the only one who holds something.
    let (administers, loses_a_disk) = (dice.percent(50), dice.percent(50));
    let protocols = if dice.percent(50) {
        (Protocol::First, Protocol::Second)
    } else {
        (Protocol::Second, Protocol::First)
    };
    {
        let (history, dice) = (history.clone(), dice.fork());
        sim.client("load", async move {
            let client = || Client::new(brokers, dice.fork());
            client().create(load::TOPIC, load::PARTITIONS).await;
            client().create(transactions::TOPIC, transactions::PARTITIONS).await;
            history.note("the topics are there");
            let mut clients = tokio::task::JoinSet::new();
            for (name, id, protocol) in
                [("a1", "a", protocols.0), ("a2", "a", protocols.0), ("b", "b", protocols.1)]
            {
                let who = Who { name, id, protocol };
                clients.spawn(transactions::write(client(), who, history.clone(), until));
            }
            for name in ["c1", "c2"] {
                let who = Who { name, id: "c", protocol: protocols.0 };
                clients.spawn(transactions::copy(client(), who, history.clone(), until));
            }
            for partition in 0..transactions::PARTITIONS {
                clients.spawn(transactions::read(client(), partition, history.clone(), until));
            }
            for partition in 0..load::PARTITIONS {
                clients.spawn(load::write(client(), partition, history.clone(), until));
                clients.spawn(load::read(client(), partition, history.clone(), until));
            }
            if administers {
                clients.spawn(load::administer(client(), history.clone(), until));
            }
            clients.spawn(load::commit(client(), history.clone(), until));
            while clients.join_next().await.is_some() {}
            load::verify(client(), history.clone()).await;
            transactions::verify(client(), history).await;
            Ok(())
        });
    }
    let mut faults = Faults::new(dice.fork(), history.clone(), machines, CALM, loses_a_disk && !administers);
    let mut invariants = Invariants::default();
    let mut healed = false;
    loop {
        faults.tend(&mut sim);
        if !healed && sim.elapsed() >= CALM {
            if sim.elapsed() < until {
                faults.step(&mut sim);
            } else {
                healed = true;
                faults.heal(&mut sim);
            }
        }
        match sim.step() {
            Ok(false) => {}
            Ok(true) => break,
            Err(error) => {
                history.anomaly(format!("the simulation ended: {error}"));
                break;
            }
        }
        if let Some(broken) = invariants.check(&faults.standings()) {
            history.anomaly(broken);
            break;
        }
        if let Some(message) = PANIC.take() {
            history.anomaly(message);
            break;
        }
    }
    Outcome {
        anomalies: history.anomalies(),
        trace: history.trace(),
        acknowledged: history.acknowledged_count(),
    }
}

/// Has a panic on whatever task end the story: an invariant was broken.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANIC.set(Some(info.to_string()));
            if std::env::var_os("OTTLA_LOG").is_some() {
                before(info);
            }
        }));
    });
}
