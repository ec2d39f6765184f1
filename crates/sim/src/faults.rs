//! What happens to the machines: when, to whom, for how long.

use std::sync::atomic::Ordering;
use std::time::Duration;

use broker::Standing;
use storage::fault::Fault;
use turmoil::Sim;

use crate::dice::Dice;
use crate::history::History;
use crate::world::{Machine, name};

/// Wait before a broker that has given up is started again.
const RESTART: Duration = Duration::from_millis(500);

/// Something that is broken, and is mended at its time.
enum Broken {
    Down(i32),
    Link(i32, i32),
    OneWay(i32, i32),
    Held(i32, i32),
    Slow(i32, i32),
    Disk(i32),
}

/// Breaks and mends things as the dice say.
pub(crate) struct Faults {
    dice: Dice,
    history: History,
    machines: Vec<Machine>,
    broken: Vec<(Duration, Broken)>,
    next: Duration,
    /// A disk may still be lost for good. One only: what it held is on another, and nothing says when on a third.
    may_wipe: bool,
}

impl Faults {
    pub(crate) fn new(
        dice: Dice,
        history: History,
        machines: Vec<Machine>,
        first: Duration,
        may_wipe: bool,
    ) -> Self {
        Faults { dice, history, machines, broken: Vec::new(), next: first, may_wipe }
    }

    /// Mends what was broken for long enough, and does what a supervisor does: it ends a process whose broker has given up,
    /// and starts it again a moment later.
    pub(crate) fn tend(&mut self, sim: &mut Sim<'_>) {
        let now = sim.elapsed();
        self.mend(sim, now);
        for machine in self.machines.clone() {
            if machine.has_ended.swap(false, Ordering::Relaxed) && !self.is_down(machine.id) {
                self.kill(sim, &machine, now + RESTART, false);
            }
        }
    }

    /// Every broker that runs.
    pub(crate) fn standings(&self) -> Vec<Standing> {
        self.machines.iter().filter_map(|machine| machine.inspector.lock().as_ref()?.look()).collect()
    }

    /// Breaks what is due.
    pub(crate) fn step(&mut self, sim: &mut Sim<'_>) {
        let now = sim.elapsed();
        if self.may_wipe {
            self.replace_who_joins(sim, now);
        }
        if now >= self.next {
            self.next = now + Duration::from_millis(200 + self.dice.below(2_500));
            self.strike(sim, now);
        }
    }

    /// Mends everything.
    pub(crate) fn heal(&mut self, sim: &mut Sim<'_>) {
        self.mend(sim, Duration::MAX);
        for machine in &self.machines {
            machine.skew.store(0, Ordering::Relaxed);
        }
        // A disk that failed has taken partitions out of service: only a start of the broker brings them back.
        for id in self.machines.iter().map(|machine| machine.id).collect::<Vec<_>>() {
            self.restart(sim, id);
        }
    }

    fn restart(&mut self, sim: &mut Sim<'_>, id: i32) {
        self.note(sim, &format!("restart {id}"));
        for machine in self.machines.iter().filter(|machine| machine.id == id) {
            machine.end(sim);
            machine.disk.kill();
        }
        sim.bounce(name(id));
    }

    fn mend(&mut self, sim: &mut Sim<'_>, now: Duration) {
        let (due, left) = std::mem::take(&mut self.broken).into_iter().partition(|(until, _)| *until <= now);
        self.broken = left;
        let due: Vec<(Duration, Broken)> = due;
        for (_, broken) in due {
            match broken {
                Broken::Down(id) => {
                    self.note(sim, &format!("start {id}"));
                    sim.bounce(name(id));
                }
                Broken::Link(a, b) => {
                    self.note(sim, &format!("repair {a}-{b}"));
                    sim.repair(name(a), name(b));
                }
                Broken::OneWay(a, b) => {
                    self.note(sim, &format!("repair {a}>{b}"));
                    sim.repair_oneway(name(a), name(b));
                }
                Broken::Held(a, b) => {
                    self.note(sim, &format!("release {a}-{b}"));
                    sim.release(name(a), name(b));
                }
                Broken::Disk(id) if self.is_down(id) => {}
                Broken::Disk(id) => self.restart(sim, id),
                Broken::Slow(a, b) => {
                    self.note(sim, &format!("fast {a}-{b}"));
                    sim.set_link_max_message_latency(name(a), name(b), Duration::from_millis(5));
                }
            }
        }
    }

    fn note(&self, sim: &Sim<'_>, what: &str) {
        self.history.note_at(sim.elapsed().as_millis(), what);
    }

    fn is_down(&self, id: i32) -> bool {
        self.broken.iter().any(|(_, broken)| matches!(broken, Broken::Down(down) if *down == id))
    }

    fn strike(&mut self, sim: &mut Sim<'_>, now: Duration) {
        let count = self.machines.len() as u64;
        let one = self.machines[self.dice.below(count) as usize].clone();
        let other = (one.id + self.dice.below(count - 1) as i32) % count as i32 + 1;
        let until = now + Duration::from_millis(100 + self.dice.below(6_000));
        match self.dice.below(13) {
            12 if self.may_wipe && !self.is_down(one.id) => {
                self.may_wipe = false;
                self.kill(sim, &one, until, false);
                self.note(sim, &format!("disk of {} is lost", one.id));
                one.disk.wipe();
            }
            0 | 1 | 12 => self.kill(sim, &one, until, false),
            2 | 3 => self.kill(sim, &one, until, true),
            4 => {
                // The power of the whole room.
                for machine in self.machines.clone() {
                    let until = now + Duration::from_millis(100 + self.dice.below(1_500));
                    self.kill(sim, &machine, until, true);
                }
            }
            5 => {
                self.note(sim, &format!("cut {}-{other}", one.id));
                sim.partition(name(one.id), name(other));
                self.broken.push((until, Broken::Link(one.id, other)));
            }
            6 => {
                self.note(sim, &format!("cut {}>{other}", one.id));
                sim.partition_oneway(name(one.id), name(other));
                self.broken.push((until, Broken::OneWay(one.id, other)));
            }
            7 => {
                for machine in self.machines.clone().iter().filter(|machine| machine.id != one.id) {
                    self.note(sim, &format!("cut {}-{}", one.id, machine.id));
                    sim.partition(name(one.id), name(machine.id));
                    self.broken.push((until, Broken::Link(one.id, machine.id)));
                }
            }
            8 => {
                self.note(sim, &format!("hold {}-{other}", one.id));
                sim.hold(name(one.id), name(other));
                self.broken.push((until, Broken::Held(one.id, other)));
            }
            9 => {
                let latency = Duration::from_millis(20 + self.dice.below(300));
                self.note(sim, &format!("slow {}-{other} {latency:?}", one.id));
                sim.set_link_max_message_latency(name(one.id), name(other), latency);
                self.broken.push((until, Broken::Slow(one.id, other)));
            }
            10 => {
                let jump = self.dice.below(7_200_000) as i64 - 3_600_000;
                self.note(sim, &format!("clock of {} is off by {jump} ms", one.id));
                one.skew.store(jump, Ordering::Relaxed);
            }
            _ => {
                let fault = match self.dice.below(3) {
                    0 => Fault::SyncFails,
                    1 => Fault::NoSpace,
                    _ => Fault::ShortWrite(self.dice.below(256) as u8),
                };
                self.note(sim, &format!("disk of {}: {fault:?}", one.id));
                one.disk.inject(fault);
                // Whoever looks after the machine starts its broker again some time.
                self.broken.push((until, Broken::Disk(one.id)));
            }
        }
    }

    /// A replica starts anew with an empty disk just as it was to be counted in, and the controller hears late that it was.
    fn replace_who_joins(&mut self, sim: &mut Sim<'_>, now: Duration) {
        let nodes = self.standings();
        let Some(controller) = nodes.iter().find(|node| node.controls_in.is_some()).map(|node| node.node.0)
        else {
            return;
        };
        let asks = nodes.iter().find_map(|node| {
            let joining = node.replicas.iter().flat_map(|replica| &replica.joining).next()?;
            Some((node.node.0, joining.0))
        });
        let Some((leader, joins)) = asks.filter(|(leader, joins)| ![*leader, *joins].contains(&controller))
        else {
            return;
        };
        let machine = self.machines.iter().find(|machine| machine.id == joins).cloned();
        let Some(machine) = machine.filter(|_| !self.is_down(joins) && self.dice.percent(50)) else { return };
        self.may_wipe = false;
        self.note(sim, &format!("hold {leader}-{controller}, slow {joins}-{leader}: {joins} was to join"));
        sim.hold(name(leader), name(controller));
        self.broken.push((now + Duration::from_millis(1_000), Broken::Held(leader, controller)));
        let latency = Duration::from_millis(400);
        sim.set_link_max_message_latency(name(joins), name(leader), latency);
        self.broken.push((now + Duration::from_secs(4), Broken::Slow(joins, leader)));
        self.kill(sim, &machine, now + Duration::from_millis(50), false);
        self.note(sim, &format!("disk of {joins} is lost"));
        machine.disk.wipe();
    }

    fn kill(&mut self, sim: &mut Sim<'_>, machine: &Machine, until: Duration, power: bool) {
        if self.is_down(machine.id) {
            return;
        }
        self.note(sim, &format!("{} {}", if power { "power loss of" } else { "kill" }, machine.id));
        machine.end(sim);
        if power {
            let dice = self.dice.clone();
            machine.disk.crash(&mut move |bound: u64| dice.below(bound.max(1)));
        } else {
            machine.disk.kill();
        }
        self.broken.push((until, Broken::Down(machine.id)));
    }
}
