//! What the clients of a story share: when they begin and end, who of them is asleep, and how they are set up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use client::{Cluster, Options};
use parking_lot::Mutex;
use tokio::time::sleep;

use super::history::ClientHistory;
use crate::dice::Dice;
use crate::world::{MachineEnvironment, PORT, elapsed, name};

/// The topic that producers write and everybody reads.
pub(super) const SOURCE: &str = "orders";
/// Its partitions.
pub(super) const PARTITIONS: i32 = 3;
/// After so long without asking for records a member leaves its group.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(3_000);
/// How long closing may take.
pub(super) const CLOSE_MAX: Duration = Duration::from_millis(4_000);
/// A moment of waiting.
const MOMENT: Duration = Duration::from_millis(20);

/// Clones share it.
#[derive(Clone)]
pub(super) struct Stage {
    pub(super) seen: ClientHistory,
    pub(super) dice: Dice,
    brokers: i32,
    /// When producers end.
    until: Duration,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// The topics are there.
    is_open: bool,
    /// How often each client was started.
    lives: BTreeMap<&'static str, u64>,
    /// Who is asleep, and until when.
    asleep: BTreeMap<&'static str, Duration>,
    /// Producers that have sent everything.
    finished: BTreeSet<&'static str>,
    /// Readers that stopped at a gap, and about which it is to be decided.
    stopped: BTreeSet<&'static str>,
}

/// One process of a client, from its start to its end.
#[derive(Clone)]
pub(super) struct Life {
    pub(super) stage: Stage,
    /// Its machine.
    pub(super) host: &'static str,
    /// The machine and how often it was started.
    pub(super) name: String,
    pub(super) dice: Dice,
}

impl Stage {
    pub(super) fn new(seen: ClientHistory, dice: Dice, brokers: i32, until: Duration) -> Self {
        Stage { seen, dice, brokers, until, state: Arc::default() }
    }

    /// The topics are there.
    pub(super) fn open(&self) {
        self.state.lock().is_open = true;
    }

    pub(super) fn is_ending(&self) -> bool {
        elapsed() >= self.until
    }

    pub(super) fn finish(&self, host: &'static str) {
        self.state.lock().finished.insert(host);
    }

    pub(super) fn has_finished(&self, host: &str) -> bool {
        self.state.lock().finished.contains(host)
    }

    /// A machine does nothing until then.
    pub(super) fn put_to_sleep(&self, host: &'static str, until: Duration) {
        self.state.lock().asleep.insert(host, until);
    }

    pub(super) fn wake_all(&self) {
        self.state.lock().asleep.clear();
    }

    /// Goes on when the machine does.
    pub(super) async fn awake(&self, host: &str) {
        loop {
            let until = self.state.lock().asleep.get(host).copied().unwrap_or_default();
            if until <= elapsed() {
                return;
            }
            sleep((until - elapsed()).min(MOMENT)).await;
        }
    }

    pub(super) fn set_stopped(&self, host: &'static str, is_stopped: bool) {
        let mut state = self.state.lock();
        if is_stopped {
            state.stopped.insert(host);
        } else {
            state.stopped.remove(host);
        }
    }

    pub(super) fn is_stopped(&self, host: &str) -> bool {
        self.state.lock().stopped.contains(host)
    }

    /// The next process of a machine, once there is something to do.
    pub(super) async fn begin_life(&self, host: &'static str) -> Life {
        while !self.state.lock().is_open {
            sleep(MOMENT).await;
        }
        self.awake(host).await;
        let mut state = self.state.lock();
        let count = state.lives.entry(host).or_insert(0);
        *count += 1;
        let name = format!("{host}.{count}");
        drop(state);
        Life { stage: self.clone(), host, name, dice: self.dice.fork() }
    }

    /// The settings of a client in a hurry.
    pub(super) fn options(&self, settings: &[(&str, &str)]) -> Options {
        let servers: Vec<String> = (1..=self.brokers).map(|id| format!("{}:{PORT}", name(id))).collect();
        let poll_interval = POLL_INTERVAL.as_millis().to_string();
        let common = [
            ("bootstrap.servers", &*servers.join(",")),
            ("socket.connection.setup.timeout.ms", "1000"),
            ("socket.connection.setup.timeout.max.ms", "1500"),
            ("request.timeout.ms", "2000"),
            ("default.api.timeout.ms", "6000"),
            ("reconnect.backoff.max.ms", "500"),
            ("retry.backoff.ms", "50"),
            ("retry.backoff.max.ms", "500"),
            ("fetch.max.wait.ms", "300"),
            ("session.timeout.ms", "3000"),
            ("heartbeat.interval.ms", "400"),
            ("max.poll.interval.ms", &poll_interval),
            ("auto.offset.reset", "earliest"),
            ("auto.commit.interval.ms", "300"),
        ];
        let mut options = Options::default();
        for (key, value) in common.iter().chain(settings) {
            options.set(key, value).expect("the client takes its own settings");
        }
        options
    }

    pub(super) fn environment(&self) -> Arc<MachineEnvironment> {
        Arc::new(MachineEnvironment { dice: self.dice.fork() })
    }

    pub(super) fn cluster(&self, options: Options) -> Cluster {
        Cluster::new(options, self.environment()).expect("the settings fit together")
    }
}

impl Life {
    pub(super) fn note(&self, what: &str) {
        self.stage.seen.history.note(&format!("{} {what}", self.name));
    }

    pub(super) fn anomaly(&self, what: &str) {
        self.stage.seen.history.anomaly(format!("{} {what}", self.name));
    }

    pub(super) async fn awake(&self) {
        self.stage.awake(self.host).await;
    }

    /// Works for a while, or for too long, and now and then the machine sleeps meanwhile.
    pub(super) async fn work(&self) {
        let millis = match self.dice.below(100) {
            // Longer than its group waits for it.
            0 if !self.stage.is_ending() => 2_000 + self.dice.below(3_000),
            0..5 => self.dice.below(400),
            _ => self.dice.below(30),
        };
        sleep(Duration::from_millis(millis)).await;
        self.awake().await;
    }
}
