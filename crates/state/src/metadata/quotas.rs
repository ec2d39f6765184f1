//! Client quotas: how much a user, a client id or an address may take (KIP-13, KIP-124, KIP-546, KIP-599, KIP-612).
//!
//! A quota is a number under one of five keys, and belongs to an entity: a user, a client id, both together, or an address;
//! each of them by name or as the default of all that have no quota of their own. Invariant: every entity in an image makes
//! sense, and every number is above zero. What is taken, and how it is held back, is not known here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rpds::RedBlackTreeMapSync;
use wire::Str;
use wire::messages::client_quota_record::{ClientQuotaRecord, EntityData};

use super::{Decision, Image, MetadataRecord, Mode, Refusal};

const USER: &str = "user";
const CLIENT_ID: &str = "client-id";
const IP: &str = "ip";

/// What can be limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QuotaKey {
    /// Bytes per second that are produced.
    ProducerByteRate,
    /// Bytes per second that are fetched.
    ConsumerByteRate,
    /// Time spent on requests, in percent of one thread.
    RequestPercentage,
    /// Partitions created and deleted per second.
    ControllerMutationRate,
    /// Connections per second.
    ConnectionCreationRate,
}

impl QuotaKey {
    /// All of them.
    pub const ALL: [QuotaKey; 5] = [
        QuotaKey::ProducerByteRate,
        QuotaKey::ConsumerByteRate,
        QuotaKey::RequestPercentage,
        QuotaKey::ControllerMutationRate,
        QuotaKey::ConnectionCreationRate,
    ];

    /// Kafka's name.
    pub fn name(self) -> &'static str {
        match self {
            QuotaKey::ProducerByteRate => "producer_byte_rate",
            QuotaKey::ConsumerByteRate => "consumer_byte_rate",
            QuotaKey::RequestPercentage => "request_percentage",
            QuotaKey::ControllerMutationRate => "controller_mutation_rate",
            QuotaKey::ConnectionCreationRate => "connection_creation_rate",
        }
    }

    fn is_of_ips(self) -> bool {
        self == QuotaKey::ConnectionCreationRate
    }

    /// The largest whole number that it takes; none where it takes fractions too.
    fn whole_max(self) -> Option<(f64, &'static str)> {
        match self {
            QuotaKey::ProducerByteRate | QuotaKey::ConsumerByteRate => Some((i64::MAX as f64, "a LONG")),
            QuotaKey::ConnectionCreationRate => Some((f64::from(i32::MAX), "an INT")),
            QuotaKey::RequestPercentage | QuotaKey::ControllerMutationRate => None,
        }
    }

    fn check(self, value: f64) -> Result<(), String> {
        let name = self.name();
        // Not a number is not greater either.
        if value.is_nan() || value <= 0.0 {
            return Err(format!("Quota {name} must be greater than 0"));
        }
        match self.whole_max() {
            Some((max, kind)) if value > max => {
                Err(format!("Proposed value for {name} is too large for {kind}."))
            }
            Some(_) if value.fract() > 1e-6 => Err(format!("{name} cannot be a fractional value.")),
            None if value.is_infinite() => Err(format!("Quota {name} must be finite")),
            _ => Ok(()),
        }
    }
}

/// One of those who are meant: all that have no quota of their own, or the one of this name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QuotaName {
    /// Whoever has none of their own.
    Default,
    /// This one.
    Named(Str),
}

impl QuotaName {
    fn new(name: Option<&Str>) -> Self {
        name.map_or(QuotaName::Default, |name| QuotaName::Named(Str::copy_from(name)))
    }

    /// The name in the protocol, where the default is null.
    pub fn to_wire(&self) -> Option<Str> {
        match self {
            QuotaName::Default => None,
            QuotaName::Named(name) => Some(name.clone()),
        }
    }
}

/// Whose quota it is: an address, or a user, a client id, or both together.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QuotaEntity {
    user: Option<QuotaName>,
    client_id: Option<QuotaName>,
    ip: Option<QuotaName>,
}

impl QuotaEntity {
    /// The entity with these types and names, in the protocol's words.
    pub fn new<'a>(parts: impl IntoIterator<Item = (&'a str, Option<&'a Str>)>) -> Result<Self, String> {
        let mut entity = QuotaEntity::default();
        for (kind, name) in parts {
            let part = match kind {
                USER => &mut entity.user,
                CLIENT_ID => &mut entity.client_id,
                IP => &mut entity.ip,
                _ => return Err(format!("Unhandled client quota entity type: {kind}")),
            };
            if part.is_some() {
                return Err(format!("Invalid client quota entity, duplicate entity entry {kind}"));
            }
            if name.is_some_and(|name| name.is_empty()) {
                return Err(format!("Empty {kind} not supported"));
            }
            *part = Some(QuotaName::new(name));
        }
        match &entity {
            QuotaEntity { user: None, client_id: None, ip: None } => {
                Err("Invalid empty client quota entity".to_owned())
            }
            QuotaEntity { ip: Some(_), user, client_id } if user.is_some() || client_id.is_some() => Err(
                "Invalid quota entity combination, IP entity should not be combined with User or ClientId"
                    .to_owned(),
            ),
            QuotaEntity { ip: Some(QuotaName::Named(ip)), .. } if ip.parse::<IpAddr>().is_err() => {
                Err(format!("{ip} is not a valid IP address."))
            }
            _ => Ok(entity),
        }
    }

    /// Its types and names, as the protocol has them.
    pub fn parts(&self) -> impl Iterator<Item = (&'static str, &QuotaName)> {
        let parts = [(USER, &self.user), (CLIENT_ID, &self.client_id), (IP, &self.ip)];
        parts.into_iter().filter_map(|(kind, name)| Some((kind, name.as_ref()?)))
    }

    fn part(&self, kind: &str) -> Option<&QuotaName> {
        self.parts().find(|(of, _)| *of == kind).map(|(_, name)| name)
    }

    fn key(&self, key: &str) -> Result<QuotaKey, String> {
        let known = QuotaKey::ALL.into_iter().find(|known| known.name() == key);
        known.filter(|known| known.is_of_ips() == self.ip.is_some()).ok_or_else(|| {
            let is_allowed = |known: &QuotaKey| known.is_of_ips() == self.ip.is_some();
            let allowed = QuotaKey::ALL.into_iter().filter(is_allowed).map(QuotaKey::name);
            let allowed = allowed.collect::<Vec<_>>().join(", ");
            format!("Invalid configuration key {key}, allowed are {allowed}")
        })
    }
}

/// The entity that a record speaks of, if it makes sense.
pub(super) fn entity_of(record: &ClientQuotaRecord) -> Result<QuotaEntity, String> {
    if record.value.is_nan() && !record.remove {
        return Err(format!("{} is not a number", record.key));
    }
    QuotaEntity::new(record.entity.iter().map(|part| (&*part.entity_type, part.entity_name.as_ref())))
}

/// A number that is one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Limit(f64);

impl Eq for Limit {}

/// What an image keeps of quotas.
pub(super) type Quotas = RedBlackTreeMapSync<QuotaEntity, RedBlackTreeMapSync<Str, Limit>>;

/// A change of one entity's quotas.
#[derive(Clone, Debug, PartialEq)]
pub struct AlterQuotas {
    /// The entity, as the protocol has it: types and names.
    pub entity: Vec<(Str, Option<Str>)>,
    /// Key by key; nothing removes the quota.
    pub ops: Vec<(Str, Option<f64>)>,
}

/// Who shares a quota: requests that differ in nothing else count together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuotaSharing {
    /// Each client id of each user has its own.
    UserAndClientId,
    /// All clients of a user share one.
    User,
    /// All users of a client id share one.
    ClientId,
}

/// What holds for some requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClientQuota {
    /// The quota.
    pub limit: f64,
    /// With whom it is shared.
    pub sharing: QuotaSharing,
}

/// Which quotas are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuotaFilter {
    /// By type: the one that is meant, or none where any will do.
    wanted: BTreeMap<Str, Option<QuotaName>>,
    is_strict: bool,
}

impl QuotaFilter {
    /// Reads a filter as the protocol has it: types, kinds of match, names. A strict one leaves out entities that have
    /// other types, too.
    pub fn new<'a>(
        components: impl IntoIterator<Item = (&'a Str, i8, Option<&'a Str>)>,
        is_strict: bool,
    ) -> Result<Self, Refusal> {
        let invalid = |why: String| Err(Refusal::InvalidRequest(why));
        let mut wanted = BTreeMap::new();
        for (kind, match_type, name) in components {
            if kind.is_empty() {
                return invalid("Invalid empty entity type.".to_owned());
            }
            if ![USER, CLIENT_ID, IP].contains(&&**kind) {
                return Err(Refusal::UnsupportedEntityType(Str::copy_from(kind)));
            }
            let meant = match (match_type, name) {
                (0, Some(name)) => Some(QuotaName::new(Some(name))),
                (0, None) => {
                    return invalid(
                        "Request specified MATCH_TYPE_EXACT, but set match string to null.".into(),
                    );
                }
                (1, None) => Some(QuotaName::Default),
                (2, None) => None,
                (1 | 2, Some(_)) => {
                    let asked = if match_type == 1 { "DEFAULT" } else { "SPECIFIED" };
                    return invalid(format!(
                        "Request specified MATCH_TYPE_{asked}, but also specified a match string."
                    ));
                }
                _ => return invalid(format!("Unknown match type {match_type}")),
            };
            if wanted.insert(Str::copy_from(kind), meant).is_some() {
                return invalid(format!("Entity type {kind} cannot appear more than once in the filter."));
            }
        }
        if wanted.contains_key(IP) && wanted.len() > 1 {
            return invalid(
                "Invalid entity filter component combination. IP filter component should not be used with user or \
                 clientId filter component."
                    .to_owned(),
            );
        }
        Ok(QuotaFilter { wanted, is_strict })
    }

    fn selects(&self, entity: &QuotaEntity) -> bool {
        let has_others = entity.parts().count() != self.wanted.len();
        let is_wanted = |(kind, meant): (&Str, &Option<QuotaName>)| {
            let name = entity.part(kind);
            name.is_some() && (meant.is_none() || name == meant.as_ref())
        };
        !(self.is_strict && has_others) && self.wanted.iter().all(is_wanted)
    }
}

impl Image {
    /// Decides an AlterClientQuotas request. One answer per entity, in the order of the request; an entity changes as a
    /// whole or not at all.
    pub fn alter_quotas(&self, changes: &[AlterQuotas], mode: Mode) -> Decision<Vec<Result<(), Refusal>>> {
        let entities = changes.iter().map(|change| {
            QuotaEntity::new(change.entity.iter().map(|(kind, name)| (&**kind, name.as_ref())))
        });
        let entities: Vec<Result<QuotaEntity, String>> = entities.collect();
        let mut times: BTreeMap<&QuotaEntity, usize> = BTreeMap::new();
        for entity in entities.iter().flatten() {
            *times.entry(entity).or_default() += 1;
        }
        let mut records = Vec::new();
        let mut reply = Vec::with_capacity(changes.len());
        for (change, entity) in changes.iter().zip(&entities) {
            let decided = match entity {
                Ok(entity) if times[entity] > 1 => Err("Each entity must appear at most once.".to_owned()),
                Ok(entity) => self.quota_records(entity, &change.ops),
                Err(why) => Err(why.clone()),
            };
            reply.push(decided.map(|decided| records.extend(decided)).map_err(Refusal::InvalidRequest));
        }
        match mode {
            Mode::Apply => Decision { records, reply },
            Mode::ValidateOnly => Decision { records: Vec::new(), reply },
        }
    }

    fn quota_records(
        &self,
        entity: &QuotaEntity,
        ops: &[(Str, Option<f64>)],
    ) -> Result<Vec<MetadataRecord>, String> {
        let mut seen = BTreeSet::new();
        let mut records = Vec::new();
        for (key, value) in ops {
            if !seen.insert(key) {
                return Err(format!("Duplicate quota key {key} not updating quota for this entity"));
            }
            let before = self.quotas.get(entity).and_then(|quotas| quotas.get(key)).map(|limit| limit.0);
            match value {
                Some(value) => entity.key(key)?.check(*value)?,
                // Whatever is there can be taken away.
                None if before.is_none() => drop(entity.key(key)?),
                None => {}
            }
            if before != *value {
                records.push(quota_record(entity, key, *value));
            }
        }
        Ok(records)
    }

    /// Quotas that a filter selects, by entity and key.
    pub fn quotas<'a>(
        &'a self,
        filter: &'a QuotaFilter,
    ) -> impl Iterator<Item = (&'a QuotaEntity, Vec<(&'a Str, f64)>)> {
        let selected = self.quotas.iter().filter(|(entity, _)| filter.selects(entity));
        selected.map(|(entity, quotas)| {
            (entity, quotas.iter().map(|(key, limit)| (key, limit.0)).collect::<Vec<_>>())
        })
    }

    /// Whether any user or client id has a quota.
    pub fn has_client_quotas(&self) -> bool {
        self.quotas.keys().any(|entity| entity.ip.is_none())
    }

    /// The quota of a user's client that is the most specific one. A user counts for more than a client id, a name for
    /// more than the default.
    pub fn client_quota(&self, key: QuotaKey, user: &str, client_id: &str) -> Option<ClientQuota> {
        let names = |name: &str| [QuotaName::Named(Str::copy_from(name)), QuotaName::Default];
        let (users, clients) = (names(user), names(client_id));
        let limit = |user: Option<&QuotaName>, client_id: Option<&QuotaName>| {
            let entity = QuotaEntity { user: user.cloned(), client_id: client_id.cloned(), ip: None };
            Some(self.quotas.get(&entity)?.get(key.name())?.0)
        };
        for user in &users {
            for client in &clients {
                if let Some(limit) = limit(Some(user), Some(client)) {
                    return Some(ClientQuota { limit, sharing: QuotaSharing::UserAndClientId });
                }
            }
            if let Some(limit) = limit(Some(user), None) {
                return Some(ClientQuota { limit, sharing: QuotaSharing::User });
            }
        }
        let of_client = clients.iter().find_map(|client| limit(None, Some(client)));
        of_client.map(|limit| ClientQuota { limit, sharing: QuotaSharing::ClientId })
    }

    /// Quotas of addresses: the default, and those that have one of their own. An address counts however it is written.
    pub fn ip_quotas(&self) -> (Option<f64>, BTreeMap<IpAddr, f64>) {
        let (mut default, mut named) = (None, BTreeMap::new());
        for (entity, quotas) in self.quotas.iter() {
            let limit = quotas.get(QuotaKey::ConnectionCreationRate.name()).map(|limit| limit.0);
            match (&entity.ip, limit) {
                (Some(QuotaName::Default), limit) => default = limit,
                (Some(QuotaName::Named(ip)), Some(limit)) => {
                    named.extend(ip.parse::<IpAddr>().ok().map(|ip| (ip.to_canonical(), limit)));
                }
                _ => {}
            }
        }
        (default, named)
    }

    pub(super) fn apply_quota(&mut self, entity: &QuotaEntity, record: &ClientQuotaRecord) {
        let mut quotas = self.quotas.get(entity).cloned().unwrap_or_else(RedBlackTreeMapSync::new_sync);
        if record.remove {
            quotas.remove_mut(&record.key);
        } else {
            assert!(!record.value.is_nan(), "a quota is a number");
            quotas.insert_mut(Str::copy_from(&record.key), Limit(record.value));
        }
        if quotas.is_empty() {
            self.quotas.remove_mut(entity);
        } else {
            self.quotas.insert_mut(entity.clone(), quotas);
        }
    }

    pub(super) fn push_quotas(&self, records: &mut Vec<MetadataRecord>) {
        for (entity, quotas) in self.quotas.iter() {
            records.extend(quotas.iter().map(|(key, limit)| quota_record(entity, key, Some(limit.0))));
        }
    }
}

/// A record that sets a quota, or removes it.
fn quota_record(entity: &QuotaEntity, key: &Str, value: Option<f64>) -> MetadataRecord {
    let parts = entity
        .parts()
        .map(|(kind, name)| EntityData { entity_type: Str::from(kind), entity_name: name.to_wire() });
    let record = ClientQuotaRecord {
        entity: parts.collect(),
        key: Str::copy_from(key),
        value: value.unwrap_or_default(),
        remove: value.is_none(),
    };
    MetadataRecord::ClientQuota(entity.clone(), record)
}
