//! Positions in a server: what is the same whichever it is.
//!
//! An entry is read, decided on, and replaced as a whole, only if it is still the one that was read. A server that does not answer
//! is asked again for a while, from the reading on: what was done and not heard of is found then, and nothing is done twice.

use std::time::Duration;

use client::BoxFuture;
use offsets::Fence;
use tokio::time::{Instant, sleep};

use crate::key::{Key, LineName};
use crate::store::{
    Acquire, Change, Entry, Held, PositionStore, Rebuild, StoreError, Stored, acquired, committed, frozen,
    rebuilt,
};

/// How long one is asked again that does not answer, as while it starts anew.
const ASK_AGAIN_FOR: Duration = Duration::from_secs(30);
/// Between two times.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(250);
/// How often a change is tried that others come before.
const TRIES_MAX: usize = 100;

/// An entry as it was read, to name it when it is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// Counts changes.
    pub number: i64,
    /// A server that was set back counts the same again; whoever changed it is another one then.
    pub fence: Fence,
}

/// A server with an entry for each partition of a line: whatever is asked in this way is a [`PositionStore`].
pub trait Server: Send + Sync + 'static {
    /// Prepares a place for entries, if that is needed. Only who takes hold does.
    fn prepare(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// The entry of a partition.
    fn read<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<(Version, Entry)>, StoreError>>;

    /// Puts an entry in place of the one that was read, or where there was none. Says whether that was so still.
    fn replace<'a>(
        &'a self,
        key: &'a Key,
        read: Option<Version>,
        entry: &'a Entry,
    ) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// All entries of a line.
    fn entries<'a>(&'a self, line: &'a LineName) -> BoxFuture<'a, Result<Vec<(Key, Entry)>, StoreError>>;
}

/// Asks until there is an answer, for a while.
pub(crate) async fn insist<T, F: Future<Output = Result<T, StoreError>>>(
    ask: impl Fn() -> F,
) -> Result<T, StoreError> {
    let until = Instant::now() + ASK_AGAIN_FOR;
    loop {
        match ask().await {
            Err(error) if error.is_retriable() && Instant::now() < until => {
                tracing::warn!(%error, "the store of positions is asked again");
                sleep(ASK_AGAIN_AFTER).await;
            }
            answer => return answer,
        }
    }
}

/// Puts what `decide` makes of an entry in its place, once.
async fn change(
    server: &impl Server,
    key: &Key,
    decide: impl Fn(Option<&Entry>) -> Result<Option<Entry>, StoreError>,
) -> Result<Option<Entry>, StoreError> {
    for _ in 0..TRIES_MAX {
        let (version, found) = server.read(key).await?.unzip();
        let Some(entry) = decide(found.as_ref())? else { return Ok(None) };
        if server.replace(key, version, &entry).await? {
            return Ok(Some(entry));
        }
    }
    Err(StoreError::Busy { key: Box::new(key.clone()) })
}

impl<S: Server> PositionStore for S {
    fn acquire<'a>(&'a self, acquire: &'a Acquire) -> BoxFuture<'a, Result<Held, StoreError>> {
        Box::pin(async move {
            insist(|| self.prepare()).await?;
            let decide = |found: Option<&Entry>| acquired(found, acquire).map(Some);
            let entry = insist(|| change(self, &acquire.key, decide)).await?;
            let entry = entry.expect("taking hold is a change");
            Ok(Held { fence: entry.fence, stored: entry.stored })
        })
    }

    fn freeze<'a>(&'a self, change: &'a Change) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let decide = |found: Option<&Entry>| frozen(found, change);
            insist(|| self::change(self, &change.key, decide)).await.map(drop)
        })
    }

    fn commit<'a>(
        &'a self,
        change: &'a Change,
        leader_epoch: wire::LeaderEpoch,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let decide = |found: Option<&Entry>| committed(found, change, leader_epoch);
            insist(|| self::change(self, &change.key, decide)).await.map(drop)
        })
    }

    fn rebuild<'a>(&'a self, rebuild: &'a Rebuild) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let decide = |found: Option<&Entry>| rebuilt(found, rebuild);
            insist(|| change(self, &rebuild.key, decide)).await.map(drop)
        })
    }

    fn list<'a>(&'a self, line: &'a LineName) -> BoxFuture<'a, Result<Vec<(Key, Stored)>, StoreError>> {
        Box::pin(async move {
            let mut entries = insist(|| self.entries(line)).await?;
            entries.sort_by(|(a, _), (b, _)| a.partition.cmp(&b.partition));
            Ok(entries.into_iter().map(|(key, entry)| (key, entry.stored)).collect())
        })
    }
}
