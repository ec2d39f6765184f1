//! What happens to the machines of clients, and to stores: when, to whom, for how long.

use std::time::Duration;

use turmoil::Sim;

use super::stage::Stage;
use super::store::Store;
use crate::dice::Dice;
use crate::history::History;
use crate::world::name;

/// Something that is mended at its time.
enum Broken {
    Down(&'static str),
    Cut(&'static str, i32),
    Asleep(&'static str),
    Slow(&'static str, i32),
}

impl Broken {
    fn host(&self) -> &'static str {
        match self {
            Broken::Down(host) | Broken::Cut(host, _) | Broken::Asleep(host) | Broken::Slow(host, _) => host,
        }
    }
}

/// Breaks and mends things as the dice say.
pub(crate) struct Mishaps {
    dice: Dice,
    history: History,
    stage: Stage,
    hosts: Vec<&'static str>,
    stores: Vec<Store>,
    brokers: i32,
    broken: Vec<(Duration, Broken)>,
    next: Duration,
}

impl Mishaps {
    pub(super) fn new(
        dice: Dice,
        stage: Stage,
        (hosts, stores): (Vec<&'static str>, Vec<Store>),
        brokers: i32,
        first: Duration,
    ) -> Self {
        let history = stage.seen.history.clone();
        Mishaps { dice, history, stage, hosts, stores, brokers, broken: Vec::new(), next: first }
    }

    fn note(&self, sim: &Sim<'_>, what: &str) {
        self.history.note_at(sim.elapsed().as_millis(), what);
    }

    /// Mends what was broken for long enough.
    pub(crate) fn tend(&mut self, sim: &mut Sim<'_>) {
        self.mend(sim, sim.elapsed());
    }

    /// Mends everything.
    pub(crate) fn heal(&mut self, sim: &mut Sim<'_>) {
        self.mend(sim, Duration::MAX);
        self.stage.wake_all();
        self.stores.iter().for_each(|store| store.trouble(Duration::ZERO));
    }

    fn mend(&mut self, sim: &mut Sim<'_>, now: Duration) {
        let (due, left): (Vec<_>, _) =
            std::mem::take(&mut self.broken).into_iter().partition(|(until, _)| *until <= now);
        self.broken = left;
        for (_, broken) in due {
            match broken {
                Broken::Down(host) => {
                    self.note(sim, &format!("start {host}"));
                    sim.bounce(host);
                }
                Broken::Cut(host, broker) => {
                    self.note(sim, &format!("repair {host}-{broker}"));
                    sim.repair(host, name(broker));
                }
                Broken::Asleep(host) => {
                    self.note(sim, &format!("wake {host}"));
                    for broker in 1..=self.brokers {
                        sim.release(host, name(broker));
                    }
                }
                Broken::Slow(host, broker) => {
                    self.note(sim, &format!("fast {host}-{broker}"));
                    sim.set_link_max_message_latency(host, name(broker), Duration::from_millis(5));
                }
            }
        }
    }

    /// Breaks what is due.
    pub(crate) fn step(&mut self, sim: &mut Sim<'_>) {
        let now = sim.elapsed();
        if now >= self.next {
            self.next = now + Duration::from_millis(100 + self.dice.below(1_200));
            self.strike(sim, now);
        }
    }

    fn strike(&mut self, sim: &mut Sim<'_>, now: Duration) {
        let host = self.hosts[self.dice.below(self.hosts.len() as u64) as usize];
        let broker = 1 + i32::try_from(self.dice.below(self.brokers.unsigned_abs().into())).expect("a few");
        let until = now + Duration::from_millis(300 + self.dice.below(5_000));
        // One thing at a time for a machine: what mends one would mend the other.
        let is_broken = self.broken.iter().any(|(_, broken)| broken.host() == host);
        match self.dice.below(12) {
            0..4 if !is_broken => {
                self.note(sim, &format!("kill {host}"));
                sim.crash(host);
                let until = now + Duration::from_millis(100 + self.dice.below(2_500));
                self.broken.push((until, Broken::Down(host)));
            }
            4..6 if !is_broken => {
                // Its timers go on, as they do in a process whose packets are held up; its work does not.
                self.note(sim, &format!("{host} falls asleep"));
                self.stage.put_to_sleep(host, until);
                for broker in 1..=self.brokers {
                    sim.hold(host, name(broker));
                }
                self.broken.push((until, Broken::Asleep(host)));
            }
            6 if !is_broken => {
                self.note(sim, &format!("cut {host}-{broker}"));
                sim.partition(host, name(broker));
                self.broken.push((until, Broken::Cut(host, broker)));
            }
            7 if !is_broken => {
                self.note(sim, &format!("cut {host} off"));
                for broker in 1..=self.brokers {
                    sim.partition(host, name(broker));
                    self.broken.push((until, Broken::Cut(host, broker)));
                }
            }
            8 if !is_broken => {
                let latency = Duration::from_millis(20 + self.dice.below(600));
                self.note(sim, &format!("slow {host}-{broker} {latency:?}"));
                sim.set_link_max_message_latency(host, name(broker), latency);
                self.broken.push((until, Broken::Slow(host, broker)));
            }
            9 | 10 => {
                let Some(store) = self.any_store() else { return };
                let (lost, away) = (self.dice.below(1_000), self.dice.below(1_500));
                self.note(sim, &format!("the store of {} fails over: {lost} ms are lost", store.role));
                store.fail_over(now, Duration::from_millis(lost), Duration::from_millis(away));
            }
            11 => {
                let Some(store) = self.any_store() else { return };
                self.note(sim, &format!("the store of {} is in trouble", store.role));
                store.trouble(until);
            }
            _ => {}
        }
    }

    fn any_store(&self) -> Option<Store> {
        let count = self.stores.len() as u64;
        (count > 0).then(|| self.stores[self.dice.below(count) as usize].clone())
    }
}
