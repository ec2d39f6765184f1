//! The network of a run: a bridge where the clients are, and a namespace per broker behind a pair of virtual interfaces.
//!
//! A broken direction is silent, as a broken switch is: in the sender's namespace the receiver's hardware address becomes
//! one that nobody has, so packets leave and never arrive, no error comes back, and the other direction works. Hardware
//! addresses are written down everywhere and never asked for, so that healing is immediate and no fault is hidden by a
//! resolution that failed.

use super::BROKERS;
use crate::shell;
use std::process::Command;

/// Nobody's.
const VOID: &str = "02:77:00:00:00:ff";
const CLIENTS: usize = 254;
/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";

/// The namespace of the broker `id`.
fn namespace(id: usize) -> String {
    format!("ottla-chaos-{id}")
}

/// The begin of a command that runs in the namespace of the broker `id`. (`ip netns exec` would copy all mounts too, and a
/// disk that one broker's copy holds cannot be taken from another.)
pub(super) fn inside(id: usize) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={NAMES}/{}", namespace(id)));
    command
}

/// The address of the broker `id`.
pub(super) fn address(id: usize) -> String {
    format!("10.77.0.{id}")
}

fn hardware(id: usize) -> String {
    format!("02:77:00:00:00:{id:02x}")
}

/// The end of a broker's pair that is at the bridge.
fn port(id: usize) -> String {
    format!("broker{id}")
}

/// Builds it; the namespaces of brokers are 1 to `BROKERS`.
pub(super) fn build() -> Result<(), String> {
    build_all().map_err(|error| format!("cannot build a network of namespaces here: {error}"))
}

fn build_all() -> Result<(), String> {
    // Ours, not the machine's.
    run(&format!("mkdir -p {NAMES}"))?;
    run(&format!("mount -t tmpfs netns {NAMES}"))?;
    run("ip link set lo up")?;
    run(&format!("ip link add clients address {} type bridge", hardware(CLIENTS)))?;
    run(&format!("ip addr add {}/24 dev clients", address(CLIENTS)))?;
    run("ip link set clients up")?;
    for id in 1..=BROKERS {
        let (space, port, hardware) = (namespace(id), port(id), hardware(id));
        run(&format!("ip netns add {space}"))?;
        run(&format!("ip link add {port} type veth peer name net address {hardware} netns {space}"))?;
        run(&format!("ip link set {port} master clients up"))?;
        run(&format!("ip -n {space} link set lo up"))?;
        run(&format!("ip -n {space} addr add {}/24 dev net", address(id)))?;
        run(&format!("ip -n {space} link set net up"))?;
    }
    for id in 1..=BROKERS {
        run(&format!("ip neigh replace {} lladdr {} nud permanent dev clients", address(id), hardware(id)))?;
        for to in (1..=BROKERS).chain([CLIENTS]).filter(|&to| to != id) {
            connect(id, to)?;
        }
    }
    Ok(())
}

/// Nothing that `from` sends reaches `to` any more.
pub(super) fn cut(from: usize, to: usize) -> Result<(), String> {
    aim(from, to, VOID)
}

/// What `from` sends reaches `to` again.
pub(super) fn connect(from: usize, to: usize) -> Result<(), String> {
    aim(from, to, &hardware(to))
}

fn aim(from: usize, to: usize, hardware: &str) -> Result<(), String> {
    let (space, to) = (namespace(from), address(to));
    run(&format!("ip -n {space} neigh replace {to} lladdr {hardware} nud permanent dev net"))
}

/// Pulls the broker's cable: from brokers and clients.
pub(super) fn unplug(id: usize) -> Result<(), String> {
    run(&format!("ip link set {} down", port(id)))
}

/// Plugs it in again.
pub(super) fn plug(id: usize) -> Result<(), String> {
    run(&format!("ip link set {} up", port(id)))
}

/// Everything from and to the broker goes through a pipe of so many kilobits per second with a queue of 200 ms; what does
/// not fit is lost. So packets are late, and late by more when there are more.
pub(super) fn slow_down(id: usize, kilobits: u64) -> Result<(), String> {
    let pipe = format!("root tbf rate {kilobits}kbit burst 8kb latency 200ms");
    run(&format!("tc qdisc add dev {} {pipe}", port(id)))?;
    run(&format!("tc -n {} qdisc add dev net {pipe}", namespace(id)))
}

/// Takes the pipes away.
pub(super) fn speed_up(id: usize) -> Result<(), String> {
    run(&format!("tc qdisc del dev {} root", port(id)))?;
    run(&format!("tc -n {} qdisc del dev net root", namespace(id)))
}

fn run(words: &str) -> Result<(), String> {
    let mut words = words.split(' ');
    let mut command = Command::new(words.next().expect("a command has a name"));
    shell::run(command.args(words))
}
