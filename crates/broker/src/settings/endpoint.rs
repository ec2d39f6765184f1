//! Addresses out of settings: `NAME://host:port` lists and `host:port`, and the checks between them.
//! What comes out of here can be bound and advertised as it stands: names are unique, no two share a port, every
//! protocol is one that this version speaks. It resolves no names and opens nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::layers::{CONNECTION_RATE_MAX, CONNECTIONS_MAX, Layers};
use super::problem::{Notice, Problem};
use super::table::NetworkSettings;
use super::value::FieldType;

/// A host name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Name or address, without the brackets of IPv6; empty means every interface.
    pub host: String,
    /// Port; 0 means any free one.
    pub port: u16,
}

impl HostPort {
    /// Reads `host:port`, `[v6]:port` or `:port`.
    pub fn parse(text: &str) -> Result<HostPort, String> {
        let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("{text:?} is not host:port"))?;
        let port = port.parse().map_err(|_| format!("{port:?} is not a port"))?;
        let inner = host.strip_prefix('[').map(|rest| rest.strip_suffix(']'));
        let host = match inner {
            Some(Some(v6)) if v6.parse::<Ipv6Addr>().is_ok() => v6,
            Some(_) => return Err(format!("{host:?} is not an IPv6 address in brackets")),
            None if host.contains([':', '/', '@', ' ']) => return Err(format!("{host:?} is not a host")),
            None => host,
        };
        Ok(HostPort { host: host.to_owned(), port })
    }

    /// Whether it stands for every interface rather than for one address.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        let v4 = self.host.parse().is_ok_and(|ip: Ipv4Addr| ip.is_unspecified());
        let v6 = self.host.parse().is_ok_and(|ip: Ipv6Addr| ip.is_unspecified());
        self.host.is_empty() || v4 || v6
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HostPort { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// A listener for clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Its name in upper case.
    pub name: String,
    /// Where it listens.
    pub bind: HostPort,
    /// What clients are told; `None` advertises the address that the client has dialled.
    pub advertised: Option<HostPort>,
    /// Connections that it may have open, beside what holds for all listeners together.
    pub connections_max: Option<usize>,
    /// Connections that it accepts per second, likewise.
    pub connection_rate_max: Option<i32>,
}

/// Reads the listener settings together.
pub(super) fn listeners(
    network: &NetworkSettings,
    layers: &Layers,
    controller_names: &[String],
    problems: &mut Vec<Problem>,
    notices: &mut Vec<Notice>,
) -> Vec<Listener> {
    let is_controller = |name: &str| controller_names.iter().any(|other| other.eq_ignore_ascii_case(name));
    let mut advertised = advertised(network, problems);
    let mut found: Vec<Listener> = Vec::new();
    for text in &network.listeners {
        let mut refuse = |reason| problems.push(conflict("listeners", text, reason));
        let (name, bind) = match endpoint(text) {
            Ok(parsed) => parsed,
            Err(reason) => {
                refuse(reason);
                continue;
            }
        };
        let advertised = advertised.remove(&name);
        if is_controller(&name) {
            notices.push(Notice::ControllerListener { name });
            continue;
        }
        if let Some(reason) = protocol_refusal(&name, &network.listener_protocols) {
            refuse(reason);
        } else if found.iter().any(|other| other.name == name) {
            refuse(format!("there are two listeners {name}"));
        } else if let Some(other) = found.iter().find(|other| share_port(&other.bind, &bind)) {
            refuse(format!("listener {} has the same port", other.name));
        }
        let own = |key| layers.of_listeners().get(&(name.clone(), key));
        let connections_max = own(CONNECTIONS_MAX).map(|value| FieldType::from_value(Some(value)));
        let connection_rate_max = own(CONNECTION_RATE_MAX).map(|value| FieldType::from_value(Some(value)));
        found.push(Listener { name, bind, advertised, connections_max, connection_rate_max });
    }
    if found.is_empty() && problems.is_empty() {
        let reason = "none of them is for clients".to_owned();
        problems.push(conflict("listeners", &network.listeners.join(","), reason));
    }
    for name in advertised.into_keys().filter(|name| !is_controller(name)) {
        let reason = format!("there is no listener {name}");
        problems.push(conflict("advertised.listeners", &network.advertised_listeners.join(","), reason));
    }
    for (name, key) in layers.of_listeners().keys() {
        if !is_controller(name) && !found.iter().any(|listener| listener.name == *name) {
            let reason = format!(
                "listener.name.{}.{key} is given, and there is no such listener",
                name.to_ascii_lowercase()
            );
            problems.push(conflict("listeners", &network.listeners.join(","), reason));
        }
    }
    let is_open = |name: &str| found.iter().any(|listener| listener.name.eq_ignore_ascii_case(name));
    if let Some(name) = network.inter_broker_listener.as_deref().filter(|name| !is_open(name)) {
        problems.push(conflict("inter.broker.listener.name", name, format!("there is no listener {name}")));
    }
    found
}

/// What clients are to be told, by listener name.
fn advertised(network: &NetworkSettings, problems: &mut Vec<Problem>) -> BTreeMap<String, HostPort> {
    let mut advertised = BTreeMap::new();
    for text in &network.advertised_listeners {
        let reason = match endpoint(text) {
            Err(reason) => reason,
            Ok((_, address)) if address.is_wildcard() => "clients cannot dial a wildcard address".to_owned(),
            Ok((name, address)) => match advertised.insert(name, address) {
                None => continue,
                Some(_) => "a listener can have one advertised address".to_owned(),
            },
        };
        problems.push(conflict("advertised.listeners", text, reason));
    }
    advertised
}

fn conflict(key: &'static str, value: &str, reason: String) -> Problem {
    Problem::Conflict { key, value: value.to_owned(), reason }
}

/// Reads the address of the operations endpoint and sees that no listener has it.
pub(super) fn admin_listener(
    text: &str,
    listeners: &[Listener],
    problems: &mut Vec<Problem>,
) -> Option<HostPort> {
    let mut refuse = |reason| problems.push(conflict("admin.listener", text, reason));
    match HostPort::parse(text) {
        Ok(address) => {
            if let Some(other) = listeners.iter().find(|listener| share_port(&listener.bind, &address)) {
                refuse(format!("listener {} has the same port", other.name));
            }
            Some(address)
        }
        Err(reason) => {
            refuse(reason);
            None
        }
    }
}

fn endpoint(text: &str) -> Result<(String, HostPort), String> {
    let (name, address) = text.split_once("://").ok_or_else(|| "expected NAME://host:port".to_owned())?;
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || !name.chars().all(legal) {
        return Err(format!("{name:?} is not a listener name"));
    }
    Ok((name.to_ascii_uppercase(), HostPort::parse(address)?))
}

/// Two listeners cannot have one port, except on one IPv4 and one IPv6 address (KIP-797).
fn share_port(a: &HostPort, b: &HostPort) -> bool {
    let v4 = |address: &HostPort| address.host.parse::<Ipv4Addr>().is_ok();
    let v6 = |address: &HostPort| address.host.parse::<Ipv6Addr>().is_ok();
    let two_families = (v4(a) && v6(b)) || (v6(a) && v4(b));
    a.port != 0 && a.port == b.port && !two_families
}

/// Why the listener of this name cannot be opened, if so.
fn protocol_refusal(name: &str, map: &str) -> Option<String> {
    let entries = map.split(',').filter_map(|entry| entry.split_once(':'));
    let mut entries = entries.filter(|(listener, _)| listener.trim().eq_ignore_ascii_case(name));
    match entries.next() {
        Some((_, protocol)) if protocol.trim().eq_ignore_ascii_case("PLAINTEXT") => None,
        Some((_, protocol)) => {
            Some(format!("its protocol is {}; only PLAINTEXT is available in this version", protocol.trim()))
        }
        None => Some(format!("listener.security.protocol.map has no protocol for {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port_are_read_and_written_alike() {
        for text in ["localhost:9092", ":9092", "0.0.0.0:0", "[::1]:9092", "broker-1.example.org:65535"] {
            assert_eq!(HostPort::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "9092", "host:", "host:65536", "host:x", "::1:9092", "[x]:1", "a b:1", "http://x:1"]
        {
            assert!(HostPort::parse(text).is_err(), "{text}");
        }
    }
}
