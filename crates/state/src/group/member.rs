//! The members of one group, with what has to be counted over them.
//!
//! [`Members`] keeps its counts equal to what a walk over the members would give: how many support each protocol, how
//! many have a join parked, and which member an instance id stands for. Strings and bytes kept here are copies: a member
//! that stays for weeks must not hold the request frame that brought it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use wire::Str;
use wire::messages::group_metadata_value::{GroupMetadataValue, MemberMetadata};
use wire::messages::join_group::JoinGroupRequest;

use super::Token;

/// One way to distribute partitions that a member supports, with what it wants the leader to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Protocol {
    pub(super) name: Str,
    pub(super) metadata: Bytes,
}

/// A member of a group.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: Str,
    /// Set for static members (KIP-345).
    pub(super) instance_id: Option<Str>,
    pub(super) client_id: Str,
    pub(super) client_host: Str,
    pub(super) rebalance_timeout_ms: i32,
    pub(super) session_timeout_ms: i32,
    pub(super) protocols: Vec<Protocol>,
    pub(super) assignment: Bytes,
    /// Its first join is still parked, so that it does not send heartbeats yet.
    pub(super) is_new: bool,
    pub(super) parked_join: Option<Token>,
    pub(super) parked_sync: Option<Token>,
}

impl Member {
    /// What the member told about itself for a protocol; empty when it does not support it.
    pub(super) fn metadata(&self, protocol: Option<&str>) -> Bytes {
        let named = self.protocols.iter().find(|supported| Some(&*supported.name) == protocol);
        named.map(|supported| supported.metadata.clone()).unwrap_or_default()
    }

    /// A parked request is as good as a heartbeat, but for a new member it is all there is, and it may be long gone.
    pub(super) fn is_excused_from_heartbeats(&self) -> bool {
        !self.is_new && (self.parked_join.is_some() || self.parked_sync.is_some())
    }
}

/// The protocols of a join, each name once, copied out of the request's frame.
pub(super) fn protocols_of(request: &JoinGroupRequest) -> Vec<Protocol> {
    let mut names = BTreeSet::new();
    let first_of_name = request.protocols.iter().filter(|protocol| names.insert(&protocol.name));
    let protocols = first_of_name.map(|protocol| Protocol {
        name: Str::copy_from(&protocol.name),
        metadata: Bytes::copy_from_slice(&protocol.metadata),
    });
    protocols.collect()
}

/// Rebalance timeout of a join; version 0 had none and used the session timeout.
pub(super) fn rebalance_timeout_of(request: &JoinGroupRequest) -> i32 {
    if request.rebalance_timeout_ms < 0 { request.session_timeout_ms } else { request.rebalance_timeout_ms }
}

/// All members of a group.
#[derive(Debug, Default)]
pub(super) struct Members {
    by_id: BTreeMap<Str, Member>,
    /// Instance id to member id.
    statics: BTreeMap<Str, Str>,
    /// Number of members that support each protocol; never zero.
    supporters: BTreeMap<Str, usize>,
    parked_joins: usize,
}

impl Members {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub(super) fn get(&self, member_id: &str) -> Option<&Member> {
        self.by_id.get(member_id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.by_id.values()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &Str> {
        self.by_id.keys()
    }

    /// For assignments and parked syncs, which nothing is counted over. Parked joins go through [`Members::park_join`]
    /// and [`Members::take_join`].
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.by_id.values_mut()
    }

    /// See [`Members::iter_mut`].
    pub(super) fn get_mut(&mut self, member_id: &str) -> Option<&mut Member> {
        self.by_id.get_mut(member_id)
    }

    pub(super) fn static_id(&self, instance_id: &str) -> Option<&Str> {
        self.statics.get(instance_id)
    }

    pub(super) fn parked_joins(&self) -> usize {
        self.parked_joins
    }

    pub(super) fn all_joined(&self) -> bool {
        self.parked_joins == self.by_id.len()
    }

    /// The longest rebalance timeout: the group waits for its slowest member.
    pub(super) fn rebalance_timeout_ms(&self) -> i64 {
        self.iter().map(|member| i64::from(member.rebalance_timeout_ms)).max().unwrap_or(0).max(1)
    }

    /// Whether at least one of these protocols is supported by every member.
    pub(super) fn any_common_protocol<'a>(&self, mut names: impl Iterator<Item = &'a str>) -> bool {
        names.any(|name| self.supporters.get(name).copied().unwrap_or(0) == self.len())
    }

    /// The protocol that most members like best among those that all support. Ties go to the name that sorts first.
    pub(super) fn elect_protocol(&self) -> Option<Str> {
        let mut votes: BTreeMap<&Str, usize> = BTreeMap::new();
        for member in self.iter() {
            let common =
                |protocol: &&Protocol| self.supporters.get(&*protocol.name).copied() == Some(self.len());
            if let Some(favourite) = member.protocols.iter().find(common) {
                *votes.entry(&favourite.name).or_default() += 1;
            }
        }
        let most = votes.values().copied().max()?;
        votes.into_iter().find(|(_, count)| *count == most).map(|(name, _)| name.clone())
    }

    pub(super) fn insert(&mut self, member: Member) {
        assert!(!self.by_id.contains_key(&member.id), "member ids are unique");
        if let Some(instance_id) = &member.instance_id {
            self.statics.insert(instance_id.clone(), member.id.clone());
        }
        self.count_protocols(&member.protocols);
        self.parked_joins += usize::from(member.parked_join.is_some());
        self.by_id.insert(member.id.clone(), member);
    }

    pub(super) fn remove(&mut self, member_id: &str) -> Option<Member> {
        let member = self.by_id.remove(member_id)?;
        if let Some(instance_id) = &member.instance_id
            && self.statics.get(instance_id) == Some(&member.id)
        {
            self.statics.remove(instance_id);
        }
        self.discount_protocols(&member.protocols);
        self.parked_joins -= usize::from(member.parked_join.is_some());
        Some(member)
    }

    /// Takes over what a member says with a new join. Returns the request that was parked before, if there was one.
    pub(super) fn rejoin(
        &mut self,
        member_id: &str,
        request: &JoinGroupRequest,
        token: Token,
    ) -> Option<Token> {
        let mut member = self.remove(member_id)?;
        let superseded = member.parked_join.replace(token);
        member.protocols = protocols_of(request);
        member.rebalance_timeout_ms = rebalance_timeout_of(request);
        member.session_timeout_ms = request.session_timeout_ms;
        self.insert(member);
        superseded
    }

    /// Takes the parked join of a member to answer it.
    pub(super) fn take_join(&mut self, member_id: &str) -> Option<Token> {
        let token = self.by_id.get_mut(member_id)?.parked_join.take()?;
        self.parked_joins -= 1;
        Some(token)
    }

    /// Drops everyone whom a stored group does not list.
    pub(super) fn retain_stored(&mut self, value: &GroupMetadataValue) {
        let stored: BTreeSet<&str> = value.members.iter().map(|m| &*m.member_id).collect();
        let gone: Vec<Str> = self.ids().filter(|id| !stored.contains(&***id)).cloned().collect();
        for member_id in gone {
            self.remove(&member_id);
        }
    }

    /// Takes over one member of a stored group, with the metadata that it had for the group's protocol.
    pub(super) fn put_stored(&mut self, stored: &MemberMetadata, protocol: Option<&str>) {
        let known = self.remove(&stored.member_id);
        let protocols = match &known {
            Some(member) if member.metadata(protocol) == stored.subscription => member.protocols.clone(),
            _ => vec![Protocol {
                name: Str::copy_from(protocol.unwrap_or_default()),
                metadata: Bytes::copy_from_slice(&stored.subscription),
            }],
        };
        let rebalance_timeout_ms =
            if stored.rebalance_timeout < 0 { stored.session_timeout } else { stored.rebalance_timeout };
        self.insert(Member {
            id: Str::copy_from(&stored.member_id),
            instance_id: stored.group_instance_id.as_deref().map(Str::copy_from),
            client_id: Str::copy_from(&stored.client_id),
            client_host: Str::copy_from(&stored.client_host),
            rebalance_timeout_ms,
            session_timeout_ms: stored.session_timeout,
            protocols,
            assignment: Bytes::copy_from_slice(&stored.assignment),
            is_new: known.as_ref().is_some_and(|member| member.is_new),
            parked_join: known.as_ref().and_then(|member| member.parked_join),
            parked_sync: known.as_ref().and_then(|member| member.parked_sync),
        });
    }

    /// What the type promises.
    #[cfg(test)]
    pub(super) fn assert_counts(&self) {
        let parked = self.iter().filter(|member| member.parked_join.is_some()).count();
        assert_eq!(self.parked_joins, parked);
        let mut supporters: BTreeMap<Str, usize> = BTreeMap::new();
        let mut statics = BTreeMap::new();
        for member in self.iter() {
            for protocol in &member.protocols {
                *supporters.entry(protocol.name.clone()).or_default() += 1;
            }
            if let Some(instance_id) = &member.instance_id {
                statics.insert(instance_id.clone(), member.id.clone());
            }
        }
        assert_eq!(self.supporters, supporters);
        assert_eq!(self.statics, statics);
        assert!(self.is_empty() || self.elect_protocol().is_some(), "there is a protocol that all support");
    }

    fn count_protocols(&mut self, protocols: &[Protocol]) {
        for protocol in protocols {
            *self.supporters.entry(protocol.name.clone()).or_default() += 1;
        }
    }

    fn discount_protocols(&mut self, protocols: &[Protocol]) {
        for protocol in protocols {
            let Some(count) = self.supporters.get_mut(&*protocol.name) else { continue };
            *count -= 1;
            if *count == 0 {
                self.supporters.remove(&*protocol.name);
            }
        }
    }
}
