//! Share sessions: a member of a share group names the partitions that it reads here once, then changes only.
//!
//! Invariants: a session's epoch goes up by one a request, and a request with any other epoch changes nothing; there are no more
//! than `group.share.max.share.sessions`. A session ends with its connection: what its member has is for others then.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use wire::{ErrorCode, PartitionId, Str, Uuid};

use crate::broker::Broker;
use crate::context::ConnectionContext;
use crate::share_coordinator::Failure;
use crate::share_partitions::Held;

/// Epochs with a meaning of their own.
const EPOCH_INITIAL: i32 = 0;
const EPOCH_FINAL: i32 = -1;

/// A partition as a member names it.
pub(crate) type Place = (Uuid, PartitionId);

/// Whose session it is: a group, and a member of it.
type Owner = (Str, Str);

/// The sessions of a broker.
#[derive(Debug)]
pub(crate) struct ShareSessions {
    sessions: Mutex<HashMap<Owner, Session>>,
    sessions_max: usize,
}

#[derive(Debug)]
struct Session {
    epoch_next: i32,
    connection: Weak<ConnectionContext>,
    /// In the order in which they are served next.
    places: BTreeMap<u64, Place>,
    turns: HashMap<Place, u64>,
    turn_next: u64,
}

/// What a fetch is about, once its session is taken into account.
#[derive(Debug)]
pub(crate) struct SharePlan {
    /// Partitions to read from, in the order in which they are served.
    pub(crate) places: Vec<Place>,
    /// Whether the session has just begun: every partition is answered.
    pub(crate) is_new: bool,
    /// Whether it ends with this request.
    pub(crate) is_final: bool,
    /// Whether the member had another session, which has ended.
    pub(crate) had_session: bool,
}

impl Session {
    fn add(&mut self, place: Place) {
        if !self.turns.contains_key(&place) {
            self.places.insert(self.turn_next, place);
            self.turns.insert(place, self.turn_next);
            self.turn_next += 1;
        }
    }

    fn remove(&mut self, place: &Place) {
        if let Some(turn) = self.turns.remove(place) {
            self.places.remove(&turn);
        }
    }
}

impl ShareSessions {
    pub(crate) fn new(sessions_max: usize) -> Self {
        ShareSessions { sessions: Mutex::default(), sessions_max }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.sessions.lock().len()
    }

    /// Whether a member of the group has one.
    pub(crate) fn has_group(&self, group: &str) -> bool {
        self.sessions.lock().keys().any(|(of, _)| **of == *group)
    }

    /// Takes a fetch into account: `named` is added to the session, `forgotten` is taken out.
    pub(crate) fn fetch(
        &self,
        owner: (&Str, &Str),
        epoch: i32,
        connection: &Arc<ConnectionContext>,
        named: &[Place],
        forgotten: &[Place],
    ) -> Result<SharePlan, ErrorCode> {
        let owner = (Str::copy_from(owner.0), Str::copy_from(owner.1));
        let mut sessions = self.sessions.lock();
        if epoch == EPOCH_INITIAL {
            let had_session = sessions.remove(&owner).is_some();
            if sessions.len() >= self.sessions_max {
                return Err(ErrorCode::SHARE_SESSION_LIMIT_REACHED);
            }
            let mut session = Session {
                epoch_next: 1,
                connection: Arc::downgrade(connection),
                places: BTreeMap::new(),
                turns: HashMap::new(),
                turn_next: 0,
            };
            named.iter().for_each(|place| session.add(*place));
            let places = session.places.values().copied().collect();
            sessions.insert(owner, session);
            return Ok(SharePlan { places, is_new: true, is_final: false, had_session });
        }
        let session = sessions.get_mut(&owner).ok_or(ErrorCode::SHARE_SESSION_NOT_FOUND)?;
        if epoch == EPOCH_FINAL {
            sessions.remove(&owner);
            return Ok(SharePlan { places: Vec::new(), is_new: false, is_final: true, had_session: false });
        }
        session.advance(epoch, connection)?;
        named.iter().for_each(|place| session.add(*place));
        forgotten.iter().for_each(|place| session.remove(place));
        let places = session.places.values().copied().collect();
        Ok(SharePlan { places, is_new: false, is_final: false, had_session: false })
    }

    /// Takes an acknowledgement into account. Says whether the session ends with it.
    pub(crate) fn acknowledge(
        &self,
        owner: (&Str, &Str),
        epoch: i32,
        connection: &Arc<ConnectionContext>,
    ) -> Result<bool, ErrorCode> {
        let owner = (owner.0.clone(), owner.1.clone());
        let mut sessions = self.sessions.lock();
        if epoch == EPOCH_INITIAL {
            return Err(ErrorCode::INVALID_SHARE_SESSION_EPOCH);
        }
        let session = sessions.get_mut(&owner).ok_or(ErrorCode::SHARE_SESSION_NOT_FOUND)?;
        if epoch == EPOCH_FINAL {
            sessions.remove(&owner);
            return Ok(true);
        }
        session.advance(epoch, connection)?;
        Ok(false)
    }

    /// A partition was served: others come first next time.
    pub(crate) fn served(&self, owner: (&Str, &Str), place: Place) {
        let owner = (owner.0.clone(), owner.1.clone());
        if let Some(session) = self.sessions.lock().get_mut(&owner)
            && session.turns.contains_key(&place)
        {
            session.remove(&place);
            session.add(place);
        }
    }

    fn end_with(&self, connection: &Arc<ConnectionContext>) -> Vec<Owner> {
        let mut sessions = self.sessions.lock();
        let connection = Arc::downgrade(connection);
        let is_its = |session: &Session| session.connection.ptr_eq(&connection);
        let ended: Vec<Owner> =
            sessions.iter().filter(|(_, session)| is_its(session)).map(|(owner, _)| owner.clone()).collect();
        for owner in &ended {
            sessions.remove(owner);
        }
        ended
    }
}

impl Session {
    fn advance(&mut self, epoch: i32, connection: &Arc<ConnectionContext>) -> Result<(), ErrorCode> {
        if epoch != self.epoch_next {
            return Err(ErrorCode::INVALID_SHARE_SESSION_EPOCH);
        }
        self.epoch_next = if epoch == i32::MAX { 1 } else { epoch + 1 };
        self.connection = Arc::downgrade(connection);
        Ok(())
    }
}

impl Broker {
    /// A connection has ended, and with it the sessions of those who spoke over it.
    pub(crate) fn share_connection_ended(self: &Arc<Self>, connection: &Arc<ConnectionContext>) {
        for (group, member) in self.share_sessions.end_with(connection) {
            tokio::spawn(self.share_session_ended(&group, &member));
        }
    }

    /// What a member has is for others: at once, so that nothing is taken from the session that it opens next. The future is over
    /// when that is written.
    pub(crate) fn share_session_ended(
        self: &Arc<Self>,
        group: &Str,
        member: &Str,
    ) -> impl Future<Output = ()> + Send + use<> {
        let mut released = Vec::new();
        for held in self.share_partitions.of_group(group) {
            match held.release(self, member) {
                Ok(()) => released.push(held),
                Err(failure) => could_not_be_released(&held, &failure),
            }
        }
        let (broker, group) = (Arc::clone(self), group.clone());
        async move {
            for held in released {
                if let Err(failure) = held.written().await {
                    could_not_be_released(&held, &failure);
                }
            }
            if !broker.share_sessions.has_group(&group) {
                broker.share_partitions.group_left(&broker, &group);
            }
        }
    }
}

fn could_not_be_released(held: &Held, failure: &Failure) {
    tracing::debug!(share_partition = %held.key, error = ?failure.error, "records could not be released");
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn connection() -> Arc<ConnectionContext> {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        Arc::new(ConnectionContext::new("PLAINTEXT".into(), "User:ANONYMOUS".into(), address, address))
    }

    fn place(partition: i32) -> Place {
        (Uuid([1; 16]), PartitionId(partition))
    }

    #[test]
    fn a_session_is_named_once_and_changed_after() {
        let sessions = ShareSessions::new(1);
        let (group, member, connection) = (Str::from("g"), Str::from("m"), connection());
        let owner = (&group, &member);
        let fetch = |epoch, named: &[Place], forgotten: &[Place]| {
            sessions.fetch(owner, epoch, &connection, named, forgotten).map(|plan| plan.places)
        };
        assert_eq!(fetch(1, &[], &[]).unwrap_err(), ErrorCode::SHARE_SESSION_NOT_FOUND);
        assert_eq!(fetch(0, &[place(0), place(1), place(0)], &[]).unwrap(), [place(0), place(1)]);
        assert_eq!(fetch(2, &[], &[]).unwrap_err(), ErrorCode::INVALID_SHARE_SESSION_EPOCH);
        sessions.served(owner, place(0));
        assert_eq!(fetch(1, &[place(2)], &[]).unwrap(), [place(1), place(0), place(2)]);
        assert_eq!(sessions.acknowledge(owner, 2, &connection), Ok(false));
        assert_eq!(fetch(3, &[], &[place(1)]).unwrap(), [place(0), place(2)]);
        let other = Str::from("n");
        let refused = sessions.fetch((&group, &other), 0, &connection, &[], &[]).map(|plan| plan.is_new);
        assert_eq!(refused, Err(ErrorCode::SHARE_SESSION_LIMIT_REACHED));
        assert!(sessions.has_group("g"));
        assert_eq!(sessions.acknowledge(owner, -1, &connection), Ok(true));
        assert!(!sessions.has_group("g"));
        assert_eq!(sessions.acknowledge(owner, 1, &connection), Err(ErrorCode::SHARE_SESSION_NOT_FOUND));
    }

    #[test]
    fn a_session_ends_with_the_connection_that_spoke_last() {
        let sessions = ShareSessions::new(9);
        let (group, member) = (Str::from("g"), Str::from("m"));
        let (first, second) = (connection(), connection());
        sessions.fetch((&group, &member), 0, &first, &[], &[]).unwrap();
        sessions.fetch((&group, &member), 1, &second, &[], &[]).unwrap();
        assert_eq!(sessions.end_with(&first), []);
        assert_eq!(sessions.end_with(&second), [(group, member)]);
        assert_eq!(sessions.len(), 0);
    }
}
