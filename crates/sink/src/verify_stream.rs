//! Whether the streams of a Redis hold what the log holds, each record once and as it is.
//!
//! Reads the entries of a stream from its first to its last beside the log. What the line itself has trimmed is passed; what is gone
//! otherwise is missing, and an entry that is no record's is one too many.

use client::Cluster;

use crate::beside::{Beside, Removed, Written};
use crate::digest::Digest;
use crate::key::{Key, Range};
use crate::run::RunError;
use crate::settings::{Line, Settings};
use crate::source::{Source, sources};
use crate::stream_entry::{self, Id};
use crate::stream_settings::StreamSettings;
use crate::stream_store::{Seen, StreamStore, checked};
use crate::verify::{Finding, Verified, both};

/// What is read at once, about; and how many entries at most, as small ones may be followed by large ones.
const PAGE_BYTES: usize = 4 << 20;
const PAGE_ENTRIES_MAX: usize = 64;

/// Compares every partition; `others` says for each from where up to where the other line has come, if there is one. With each goes
/// what it holds of that range, as far as both have it.
pub(crate) async fn verify(
    settings: &Settings,
    declared: &StreamSettings,
    cluster: &Cluster,
    other: impl Fn(&Key) -> Option<Range>,
) -> Result<Vec<(Verified, Digest)>, RunError> {
    let store = StreamStore::connect(settings, declared).await?;
    // The positions first: what comes into the log meanwhile is behind what is compared.
    let names = sources(settings, Line::Nearline, cluster).await?;
    let names: Vec<_> = names.into_iter().map(|source| source.key.partition).collect();
    let seen = store.look(&names).await?;
    let mut all = Vec::new();
    for source in sources(settings, Line::Nearline, cluster).await? {
        let partition = &source.key.partition;
        // One that was added meanwhile is for the next time.
        let Some(at) = names.iter().position(|name| name == partition) else { continue };
        let mut verified = Verified::new(Line::Nearline, partition);
        let mut digest = Digest::new(None);
        compare(cluster, &store, &source, &seen[at], &other, (&mut verified, &mut digest)).await?;
        all.push((verified, digest));
    }
    Ok(all)
}

async fn compare(
    cluster: &Cluster,
    store: &StreamStore,
    source: &Source,
    seen: &Seen,
    other: &impl Fn(&Key) -> Option<Range>,
    (verified, digest): (&mut Verified, &mut Digest),
) -> Result<(), RunError> {
    let place = store.place(&source.key.partition);
    if let Err(error) = checked(seen, &source.key, &place) {
        verified.findings.push(Finding { place: place.clone(), problem: error.to_string() });
    }
    let is_this =
        |(cluster_id, topic_id)| (cluster_id, topic_id) == (&source.key.cluster_id, source.key.topic_id);
    let stored = seen.stored.as_ref().filter(|stored| is_this((&stored.cluster_id, stored.topic_id)));
    let Some(stored) = stored.filter(|stored| stored.begun < stored.position.next) else { return Ok(()) };
    let committed = Range::new(stored.begun, stored.position.next);
    verified.committed = Some(committed);
    digest.within = other(&source.key).and_then(|other| both(committed, other));
    let removed = Removed::Before(stored.trimmed_to);
    let mut foreign = Vec::new();
    let mut beside = Beside::new(cluster, source, committed, removed, verified, digest).await?;
    let (mut from, mut count) = (Some(Id::NONE), 10);
    while let Some(begin) = from {
        let entries = store.entries(&source.key.partition, begin, seen.last, count).await?;
        // Behind the entries: what a line that runs has trimmed meanwhile is known then, and it may be all that was left.
        let now = store.look_at(&source.key.partition).await?;
        if let Some(now) = now.stored.filter(|now| now.topic_id == stored.topic_id) {
            beside.removed_before(now.trimmed_to);
        }
        let Some((last, _)) = entries.last() else { break };
        from = last.next();
        let bytes: usize = entries.iter().flat_map(|(_, fields)| fields).map(Vec::len).sum();
        count = (PAGE_BYTES / (bytes / entries.len()).max(1)).clamp(1, PAGE_ENTRIES_MAX);
        for (id, fields) in entries {
            let offset = id.offset().filter(|_| id <= stored.last);
            let (Some(offset), Some(said)) = (offset, stream_entry::read(fields)) else {
                foreign.push(id);
                continue;
            };
            let (key, value) = (said.key.as_deref(), said.value.as_deref());
            let (headers, timestamp) = (&said.headers[..], said.timestamp);
            beside
                .take(Written { offset, key, value, headers, timestamp }, || format!("{place} {id}"))
                .await?;
        }
    }
    beside.end().await?;
    for id in foreign {
        verified.rows += 1;
        verified.double += 1;
        let problem = "it is no entry of the line's, and readers of the stream get it".to_owned();
        verified.findings.push(Finding { place: format!("{place} {id}"), problem });
    }
    Ok(())
}
