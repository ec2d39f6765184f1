//! Where a line is to begin, and what it would mean to move it from where it is.
//!
//! A position is what keeps each record from coming twice or never. So it is set only where there is none: before a line has read anything of
//! a partition, and taken from nobody. Of a line that has a position it is told what moving it would skip or repeat, and nothing is changed in
//! any partition then. Who wants that begins under another name, at the place that was wanted.

use std::io::ErrorKind;
use std::sync::Arc;

use client::{Admin, Cluster, Environment, Execution, OffsetSpec, Start};
use offsets::Position;
use wire::{LeaderEpoch, Offset, PartitionId, Str, TopicPartition};

use crate::files::Files;
use crate::nearline_position::Kept;
use crate::output::{self, Output};
use crate::partition::Partition;
use crate::positions::open_store;
use crate::run::RunError;
use crate::settings::{Line, NearlineOutput, NearlineSettings, Settings, TableSettings};
use crate::source::{Source, sources};
use crate::status::status;
use crate::stream_settings::StreamSettings;
use crate::stream_store::{Acquire, StreamStore};
use crate::table::{self, Table};

/// What setting a position does, or would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetEffect {
    /// There is no position: the line begins there.
    Begins,
    /// It is there already.
    Stays,
    /// There is no position, and the table holds files: the store has lost something. Refused.
    Lost,
    /// So many offsets would be in no output. Refused.
    Skips(u64),
    /// So many offsets would come into the output again. Refused.
    Repeats(u64),
}

impl ResetEffect {
    fn of(committed: Option<Offset>, output: Option<Offset>, to: Offset) -> Self {
        let Some(committed) = committed else {
            return if output.is_some() { Self::Lost } else { Self::Begins };
        };
        match to.0 - committed.0 {
            0 => Self::Stays,
            skipped @ 1.. => Self::Skips(skipped.unsigned_abs()),
            repeated => Self::Repeats(repeated.unsigned_abs()),
        }
    }

    /// Whether it is done when it is asked for.
    pub fn is_allowed(self) -> bool {
        matches!(self, Self::Begins | Self::Stays)
    }
}

/// A partition and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    /// The line.
    pub line: Line,
    /// The partition.
    pub partition: TopicPartition,
    /// Its position, if it has one.
    pub committed: Option<Offset>,
    /// The place that was asked for.
    pub to: Offset,
    /// What that means.
    pub effect: ResetEffect,
}

/// Which partitions; all, where nothing is said.
#[derive(Debug, Clone, Default)]
pub struct ResetWhich {
    /// Of this topic.
    pub topic: Option<Str>,
    /// Those with this number.
    pub partition: Option<PartitionId>,
}

/// Tells what setting the positions of the lines that are declared would do; and does it, if that is wanted and no partition has a
/// position yet that would move.
///
/// An instance that runs has taken hold of its partitions, so that they have positions. One that comes to it at the very same
/// moment is fenced off from the table, and of the near-real-time line a group with members is refused by its coordinator.
pub async fn reset(
    settings: &Settings,
    cluster: &Cluster,
    environment: &Arc<dyn Environment>,
    files: Arc<dyn Files>,
    which: &ResetWhich,
    to: Start,
    execution: Execution,
) -> Result<Vec<Reset>, RunError> {
    let mut all = Vec::new();
    let is_wanted = |partition: &TopicPartition| {
        which.topic.as_ref().is_none_or(|topic| *topic == partition.topic)
            && which.partition.is_none_or(|number| number == partition.partition)
    };
    // It refuses positions of another cluster and of a topic that was made anew.
    for status in status(settings, cluster, Arc::clone(&files)).await? {
        if is_wanted(&status.partition) {
            all.push((status.line, status.partition, status.committed, status.output));
        }
    }
    let mut resets = Vec::new();
    let mut found = Vec::new();
    for line in settings.lines() {
        let sources = sources(settings, line, cluster).await?;
        for (_, partition, committed, output) in all.iter().filter(|(of, ..)| *of == line) {
            let Some(source) = sources.iter().find(|source| source.key.partition == *partition) else {
                continue;
            };
            let to = place(cluster, source, to).await?;
            let (partition, committed) = (partition.clone(), *committed);
            let effect = ResetEffect::of(committed, *output, to);
            resets.push(Reset { line, partition, committed, to, effect });
        }
        found.extend(sources.into_iter().map(|source| (line, source)));
    }
    if execution != Execution::Apply || !resets.iter().all(|reset| reset.effect.is_allowed()) {
        return Ok(resets);
    }
    let begins = |line: Line| {
        let mut begins = Vec::new();
        for reset in resets.iter().filter(|reset| reset.line == line && reset.effect == ResetEffect::Begins) {
            let of_reset =
                |(of, source): &&(Line, Source)| *of == line && source.key.partition == reset.partition;
            begins.extend(found.iter().find(of_reset).map(|(_, source)| (source, reset.to)));
        }
        begins
    };
    for (line, table) in settings.tables() {
        begin_table(table, environment, Arc::clone(&files), begins(line)).await?;
    }
    match &settings.nearline {
        Some(NearlineOutput::Topic(topic)) => {
            begin_topic(settings, topic, cluster, begins(Line::Nearline)).await?;
        }
        Some(NearlineOutput::Stream(stream)) => {
            begin_streams(settings, stream, environment, begins(Line::Nearline)).await?;
        }
        Some(NearlineOutput::Table(_)) | None => {}
    }
    Ok(resets)
}

/// The place in a partition, which is within its log.
async fn place(cluster: &Cluster, source: &Source, to: Start) -> Result<Offset, RunError> {
    let (start, end) = (source.log.start, source.visible_end);
    let at = match to {
        Start::At(time) => {
            let asked = [(source.key.partition.clone(), OffsetSpec::At(time))];
            let admin = Admin::new(cluster.clone());
            let listed = admin.list_offsets(&asked, cluster.options().isolation_level).await?;
            let listed = listed.into_iter().next().map(|(_, listed)| listed).transpose()?;
            listed.and_then(|listed| listed.offset)
        }
        _ => None,
    };
    let place = to.resolve(start, end, at);
    match start <= place && place <= end {
        true => Ok(place),
        false => {
            Err(RunError::NoPlace { partition: Box::new(source.key.partition.clone()), place, start, end })
        }
    }
}

/// Takes hold of partitions that nobody has held, which says where they begin, and lets go of them.
async fn begin_table(
    declared: &TableSettings,
    environment: &Arc<dyn Environment>,
    files: Arc<dyn Files>,
    begins: Vec<(&Source, Offset)>,
) -> Result<(), RunError> {
    let failed = |source| RunError::Files {
        doing: "make the table's directory",
        path: declared.table.clone(),
        source,
    };
    let files = table::files_of(declared, files)?;
    match files.make_dir(&declared.table) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => files.sync_dir(crate::offline::above(&declared.table)).map_err(failed)?,
    }
    let store = open_store(declared, Arc::clone(&files)).await?;
    let table = Table::new(files, &declared.table);
    for (source, begin) in begins {
        // Two halves of a random number are one.
        let (token, now) = (environment.random() as i64, environment.now());
        let (key, store) = (source.key.clone(), Arc::clone(&store));
        let opened =
            Partition::open(key, store, table.clone(), declared.line.clone(), begin, token, now).await?;
        let stored = opened.stored();
        if stored.committed.next != begin {
            return Err(came_before(source, stored.committed.next));
        }
    }
    Ok(())
}

async fn begin_topic(
    settings: &Settings,
    topic: &NearlineSettings,
    cluster: &Cluster,
    begins: Vec<(&Source, Offset)>,
) -> Result<(), RunError> {
    let group = Str::copy_from(settings.line_name(Line::Nearline).as_str());
    let admin = Admin::new(cluster.clone());
    let output = Output::describe(cluster, &topic.topic).await?;
    output.check_partitions(begins.iter().map(|(source, _)| &source.key.partition))?;
    let kept = admin.stable_group_offsets(&group).await?;
    let mut committed = Vec::new();
    for (source, begun) in begins {
        let partition = &source.key.partition;
        if let Some(kept) = kept.committed.get(partition) {
            return Err(came_before(source, kept.offset));
        }
        let expired = kept.expired.get(partition);
        output::check_new(cluster, &output, topic.if_removed, &source.key, expired).await?;
        let position = Position { next: begun, leader_epoch: LeaderEpoch::NONE };
        committed.push((partition.clone(), Kept { begun, position }.committed(&source.key, output.id)));
    }
    for (_, set) in admin.commit_group_offsets(&group, &committed).await? {
        set?;
    }
    Ok(())
}

async fn begin_streams(
    settings: &Settings,
    declared: &StreamSettings,
    environment: &Arc<dyn Environment>,
    begins: Vec<(&Source, Offset)>,
) -> Result<(), RunError> {
    let store = StreamStore::connect(settings, declared).await?;
    for (source, begin) in begins {
        let (token, now) = (environment.random() as i64, environment.now());
        let acquire = Acquire { key: &source.key, begin: Some(begin), number_min: 0, token, now };
        let stored = store.acquire(&acquire).await?;
        if stored.position.next != begin {
            return Err(came_before(source, stored.position.next));
        }
    }
    Ok(())
}

fn came_before(source: &Source, found: Offset) -> RunError {
    let problem = format!(
        "is {found} by now: an instance has come before, and it stays there; that instance may end, as it was taken hold of here, and is to be started again"
    );
    RunError::Committed { key: Box::new(source.key.clone()), problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_no_position_is_given_one() {
        let of = |committed: Option<i64>, to| {
            let committed = committed.map(Offset);
            ResetEffect::of(committed, committed, Offset(to))
        };
        assert_eq!(of(None, 7), ResetEffect::Begins);
        assert_eq!(ResetEffect::of(None, Some(Offset(7)), Offset(7)), ResetEffect::Lost);
        assert_eq!(of(Some(7), 7), ResetEffect::Stays);
        assert_eq!(of(Some(7), 10), ResetEffect::Skips(3));
        assert_eq!(of(Some(7), 0), ResetEffect::Repeats(7));
        assert!(of(None, 7).is_allowed() && of(Some(7), 7).is_allowed());
        assert!(!of(Some(7), 8).is_allowed() && !of(Some(7), 6).is_allowed());
    }
}
