//! The lines of a declaration at work, side by side, until one of them or all of them end.
//!
//! Each has a task, a consumer and positions of its own, so that a slow table does not hold back the topic. An error of one ends the
//! other in order: whatever ends them, what is in hand of both is committed first.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use client::{Environment, Error, Options, Start};
use offsets::Cause;
use tokio::sync::watch;
use tokio::task::JoinSet;
use wire::{Offset, Str, TopicPartition, Uuid};

use crate::encoded::SchemaError;
use crate::files::Files;
use crate::gate::Gate;
use crate::key::{Key, LineName};
use crate::partition::PartitionError;
use crate::registry::RegistryError;
use crate::running::{Orders, Pace, Running};
use crate::settings::{Line, NearlineOutput, Settings};
use crate::store::StoreError;
use crate::stream_store::StreamError;
use crate::throttle::Throttle;
use crate::watch::Watch;
use crate::{nearline, offline, stream};

/// How often it is looked at what comes to pass without a record.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(200);
/// For a consumer or a producer to end.
pub(crate) const CLOSE_MAX: Duration = Duration::from_secs(5);

/// Why a sink does not go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// What is about a table, where none is declared.
    #[error(
        "no line that is declared has a table, and this is about one: [offline] has one, and [nearline] with table = \"DIRECTORY\""
    )]
    NoTable,
    /// The brokers, or the client.
    #[error(transparent)]
    Client(#[from] Error),
    /// One partition.
    #[error(transparent)]
    Partition(#[from] PartitionError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stream of the near-real-time line's.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// There is no schema to read by.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The registry does not give a schema that records were written by.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// What is stored cannot be continued.
    #[error("{key} stops: {cause}; committed {committed}, found {found}, log {start} to {end}")]
    Gap {
        /// The partition.
        key: Box<Key>,
        /// Why.
        cause: Cause,
        /// What is in the table.
        committed: Offset,
        /// What is there instead of what comes next.
        found: Offset,
        /// Where the log begins.
        start: Offset,
        /// Where it ends.
        end: Offset,
    },
    /// The topic was deleted and created again while it was read.
    #[error("{key} was deleted and created again: topic id {found} is read where {} was", key.topic_id)]
    Recreated {
        /// The partition.
        key: Box<Key>,
        /// The topic's id now.
        found: Uuid,
    },
    /// The brokers do not tell topics of one name apart.
    #[error(
        "the brokers give topic {topic} no id, so that one made anew could not be told from it: Kafka 2.8 or newer is needed"
    )]
    NoTopicId {
        /// The topic.
        topic: Str,
    },
    /// Positions of letters that were sent back are of another topic.
    #[error(
        "{partition} ends at {end}, and dead letters were sent back up to {position}: the topic was deleted and created again; delete the group that keeps these positions"
    )]
    LettersGone {
        /// The partition of the topic of dead letters.
        partition: TopicPartition,
        /// Up to where.
        position: Offset,
        /// Where it ends.
        end: Offset,
    },
    /// The table's directory.
    #[error("cannot {doing} {}: {source}", path.display())]
    Files {
        /// What was done.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
    /// What cannot be done to a table in an object store.
    #[error("{} is in an object store, and is not {done} there: {why}", table.display())]
    InObjectStore {
        /// The table.
        table: PathBuf,
        /// What was to be done.
        done: &'static str,
        /// Why not, and what can be done.
        why: &'static str,
    },
    /// The position in the group cannot be gone on from.
    #[error("{key}: the position that group {line} has in it {problem}", line = key.line)]
    Committed {
        /// The partition.
        key: Box<Key>,
        /// What is wrong with it, and what can be done.
        problem: String,
    },
    /// A line is to begin where the log is not.
    #[error("{partition} goes from {start} to {end}, and a line cannot begin at {place} in it")]
    NoPlace {
        /// The partition.
        partition: Box<TopicPartition>,
        /// The place.
        place: Offset,
        /// Where the log begins.
        start: Offset,
        /// Behind what the line gets to see of it.
        end: Offset,
    },
    /// Another instance writes under the same transactional id.
    #[error(
        "line {line} was taken over by another instance, or its transaction ended by transaction.timeout.ms: {source}"
    )]
    TakenOver {
        /// The line.
        line: LineName,
        /// How it shows.
        source: Box<Error>,
    },
    /// The near-real-time line's output cannot take what is read.
    #[error("the output topic {topic} {problem}")]
    Output {
        /// The topic.
        topic: Str,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The output does not take a record.
    #[error("{partition} at offset {offset} cannot be written to {output}: {source}")]
    Refused {
        /// Where it was read.
        partition: Box<TopicPartition>,
        /// And there.
        offset: Offset,
        /// The output topic.
        output: Str,
        /// Why not.
        source: Box<Error>,
    },
    /// A transaction would be open longer than the brokers allow.
    #[error(
        "nearline.flush_age is {} ms: a transaction has to end well before transaction.timeout.ms, {} ms, and at most half of that is allowed",
        age.as_millis(),
        timeout.as_millis()
    )]
    FlushAge {
        /// What is declared.
        age: Duration,
        /// The client's setting.
        timeout: Duration,
    },
}

/// When to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// When asked to.
    Stopped,
    /// When everything is in the output that was there at the start.
    End,
}

/// What a run has done in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// The line.
    pub line: Line,
    /// The partition.
    pub partition: TopicPartition,
    /// Where it stood at the start.
    pub from: Offset,
    /// And at the end: what is committed.
    pub to: Offset,
    /// Records that were taken.
    pub records: u64,
    /// Those of them that are dead letters; the others are in the output.
    pub letters: u64,
}

/// Adds what was done in a partition to what was done there before.
pub(crate) fn note(all: &mut BTreeMap<TopicPartition, Done>, done: Done) {
    match all.get_mut(&done.partition) {
        None => drop(all.insert(done.partition.clone(), done)),
        Some(before) => {
            before.to = done.to;
            before.records += done.records;
            before.letters += done.letters;
        }
    }
}

/// Runs the lines that are declared until `stop` or, if that is wanted, until the end of what is there. Whatever ends one of them,
/// what is in hand of all is committed first; what went wrong first is the error.
///
/// The client's options get `auto.offset.reset=none` and no group: the lines say where to read.
pub async fn run(
    settings: &Settings,
    options: Options,
    environment: Arc<dyn Environment>,
    files: Arc<dyn Files>,
    running: impl Into<Running>,
    stop: impl Future<Output = ()>,
) -> Result<Vec<Done>, RunError> {
    let running = running.into();
    let mut settings = settings.clone();
    if running.pace == Pace::Backfill {
        settings.start = Start::Earliest;
    }
    let throttle = Throttle::new(running.throttle.or(settings.throttle));
    let watched = Watch::begin(&settings, &options, &environment, running.meter.clone()).await?;
    let orders = |line| {
        let gate = Gate::new(throttle.clone(), watched.paused(line), options.poll_interval_max);
        Orders { running: running.clone(), gate }
    };
    let (stopping, stopped) = watch::channel(false);
    let mut lines = JoinSet::new();
    for (line, _) in settings.tables() {
        let (settings, options, environment) = (settings.clone(), options.clone(), environment.clone());
        let (files, orders, stopped) = (Arc::clone(&files), orders(line), stopped.clone());
        lines.spawn(async move {
            offline::run(&settings, line, options, environment, files, orders, stopped).await
        });
    }
    let (declared, stop_nearline) = (settings.clone(), asked(stopped));
    match settings.nearline.clone() {
        Some(NearlineOutput::Topic(topic)) => {
            let orders = orders(Line::Nearline);
            lines.spawn(async move {
                nearline::run(&declared, &topic, options, environment, orders, stop_nearline).await
            });
        }
        Some(NearlineOutput::Stream(stream)) => {
            let orders = orders(Line::Nearline);
            lines.spawn(async move {
                stream::run(&declared, &stream, options, environment, orders, stop_nearline).await
            });
        }
        Some(NearlineOutput::Table(_)) | None => {}
    }
    let looking = watched.look();
    tokio::pin!(stop, looking);
    let mut failure = None;
    let mut all = Vec::new();
    loop {
        let ended = tokio::select! {
            () = &mut stop, if !*stopping.borrow() => {
                stopping.send_replace(true);
                continue;
            }
            never = &mut looking => match never {},
            ended = lines.join_next() => ended,
        };
        let Some(ended) = ended else { break };
        match ended {
            Ok(Ok(done)) => all.extend(done),
            Ok(Err(error)) => {
                stopping.send_replace(true);
                match &failure {
                    None => failure = Some(error),
                    Some(_) => tracing::error!(%error, "the other line did not end in order"),
                }
            }
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime ends, and with it everything.
                Err(_) => failure = failure.or(Some(Error::Closed.into())),
            },
        }
    }
    all.sort_by(|one, other| (one.line, &one.partition).cmp(&(other.line, &other.partition)));
    failure.map_or(Ok(all), Err)
}

/// When everything is to end.
pub(crate) async fn asked(mut stopped: watch::Receiver<bool>) {
    // If nobody is left to ask, nobody waits either.
    let _ = stopped.wait_for(|is_stopped| *is_stopped).await;
}
