//! One story: a cluster, its load, its faults, and how it ended.

use std::cell::RefCell;
use std::panic;
use std::sync::Once;
use std::time::Duration;

use turmoil::Builder;

use crate::clients;
use crate::dice::Dice;
use crate::faults::Faults;
use crate::group_history::GroupHistory;
use crate::groups::{self, Group};
use crate::history::History;
use crate::invariants::Invariants;
use crate::load::{self, Client};
use crate::share_history::ShareHistory;
use crate::shares;
use crate::transactions::{self, Protocol, Who};
use crate::truth::Truth;
use crate::world::Machine;

/// What a story is told from.
#[derive(Debug, Clone, Copy)]
pub struct Story {
    /// Everything follows from it.
    pub seed: u64,
    /// For how long faults come.
    pub faults: Duration,
    /// The kind of group whose members are there, where the seed is not to decide.
    pub group: Option<GroupKind>,
    /// Whose story it is.
    pub cast: Cast,
}

/// Who reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cast {
    /// A load that speaks the protocol by itself.
    Load,
    /// The product's own clients.
    Clients,
    /// Producers, and instances of a sink's near-real-time line.
    Sink,
}

/// A kind of group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupKind {
    /// Its members speak the classic protocol.
    Classic,
    /// They speak the consumer protocol (KIP-848).
    Consumer,
    /// Some speak the one, some the other.
    Mixed,
    /// A share group (KIP-932).
    Share,
}

impl GroupKind {
    const ALL: [GroupKind; 4] = [GroupKind::Classic, GroupKind::Consumer, GroupKind::Mixed, GroupKind::Share];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            GroupKind::Classic => "classic",
            GroupKind::Consumer => "consumer",
            GroupKind::Mixed => "mixed",
            GroupKind::Share => "share",
        }
    }

    /// The kind that is called so.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    fn group(self) -> Option<Group> {
        match self {
            GroupKind::Classic => Some(groups::CLASSIC),
            GroupKind::Consumer => Some(groups::CONSUMER),
            GroupKind::Mixed => Some(groups::MIXED),
            GroupKind::Share => None,
        }
    }
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
    let truth = Truth::default();
    // Dice of their own: a story without groups is the same as ever.
    let kind = story.group.or_else(|| which_group(&Dice::new(story.seed ^ 0x6772_6f75_7073)));
    let (group, has_shares) = (kind.and_then(GroupKind::group), kind == Some(GroupKind::Share));
    let mut mishaps = None;
    if story.cast != Cast::Load {
        mishaps =
            Some(clients::enter(&mut sim, &history, (&dice.fork(), story.cast), brokers, (CALM, until)));
    } else {
        let (history, dice, truth) = (history.clone(), dice.fork(), truth.clone());
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
            let groups = GroupHistory::new(history.clone());
            let shares = ShareHistory::new(history.clone());
            if let Some(group) = group {
                for name in groups::MEMBERS {
                    let seen = (groups.clone(), truth.clone());
                    clients.spawn(groups::member(client(), (group, name), seen, until));
                }
            }
            if has_shares {
                shares::prepare(client()).await;
                for name in shares::MEMBERS {
                    let seen = (shares.clone(), truth.clone());
                    clients.spawn(shares::member(client(), name, seen, until));
                }
            }
            while clients.join_next().await.is_some() {}
            load::verify(client(), history.clone()).await;
            if let Some(group) = group {
                groups::verify(client(), group, groups, truth.clone()).await;
            }
            if has_shares {
                shares::verify(client(), shares, truth).await;
            }
            transactions::verify(client(), history).await;
            Ok(())
        });
    }
    let mut faults = Faults::new(dice.fork(), history.clone(), machines, CALM, loses_a_disk && !administers);
    let mut invariants = Invariants::default();
    let mut healed = false;
    loop {
        faults.tend(&mut sim);
        mishaps.iter_mut().for_each(|mishaps| mishaps.tend(&mut sim));
        if !healed && sim.elapsed() >= CALM {
            if sim.elapsed() < until {
                faults.step(&mut sim);
                mishaps.iter_mut().for_each(|mishaps| mishaps.step(&mut sim));
            } else {
                healed = true;
                faults.heal(&mut sim);
                mishaps.iter_mut().for_each(|mishaps| mishaps.heal(&mut sim));
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
        let standings = faults.standings();
        truth.learn(&standings);
        if let Some(broken) = invariants.check(&standings) {
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

/// The kind of group that a story has by its seed. Most have none: they take longer.
fn which_group(dice: &Dice) -> Option<GroupKind> {
    match dice.below(100) {
        0..6 => Some(GroupKind::Classic),
        6..14 => Some(GroupKind::Consumer),
        14..20 => Some(GroupKind::Mixed),
        20..28 => Some(GroupKind::Share),
        _ => None,
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
