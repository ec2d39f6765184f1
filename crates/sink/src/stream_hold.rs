//! A partition of the line into streams that is held, and where it stands.
//!
//! It adds from exactly there. A Redis that was set back it takes hold of again, with a number above its own: somebody may have had
//! that one since of whom Redis has forgotten. If nothing is left, it does not begin anew by itself.

use client::ConsumedRecord;
use offsets::{Fence, Position};
use redis::aio::ConnectionLike;
use wire::{Millis, Offset};

use crate::key::Key;
use crate::stream_store::{Acquire, Append, Appended, Stored, StreamError, StreamStore};

/// What is held.
pub(crate) struct StreamHold {
    pub(crate) key: Key,
    fence: Fence,
    /// Up to where everything is in the stream.
    pub(crate) position: Position,
}

impl StreamHold {
    /// Takes hold. `begin` is where to begin if the line was never there, `token` a random number.
    pub(crate) async fn take<C: ConnectionLike + Clone + Send + Sync>(
        store: &StreamStore<C>,
        key: Key,
        begin: Offset,
        token: i64,
        now: Millis,
    ) -> Result<Self, StreamError> {
        let acquire = Acquire { key: &key, begin: Some(begin), number_min: 0, token, now };
        let Stored { fence, position, .. } = store.acquire(&acquire).await?;
        Ok(Self { key, fence, position })
    }

    /// Adds records and moves the position, unless it has to take hold again first.
    pub(crate) async fn append<C: ConnectionLike + Clone + Send + Sync>(
        &mut self,
        store: &StreamStore<C>,
        records: &[ConsumedRecord],
        to: Position,
        now: Millis,
    ) -> Result<Appended, StreamError> {
        let Self { key, fence, position } = self;
        let append = Append { key, fence: *fence, from: position.next, to, records, now };
        let appended = store.append(&append).await?;
        if appended == Appended::Done {
            *position = to;
        }
        Ok(appended)
    }

    /// Takes hold again, of what Redis has not lost.
    pub(crate) async fn take_again<C: ConnectionLike + Clone + Send + Sync>(
        &mut self,
        store: &StreamStore<C>,
        token: i64,
        now: Millis,
    ) -> Result<(), StreamError> {
        let number_min = self.fence.number.saturating_add(1);
        let acquire = Acquire { key: &self.key, begin: None, number_min, token, now };
        let Stored { fence, position, .. } = store.acquire(&acquire).await?;
        (self.fence, self.position) = (fence, position);
        Ok(())
    }
}
