//! One partition of one line: takes what is read, and carries out what the plan says.
//!
//! It takes hold of the partition in the store, makes its staging directory, and goes on from what is stored. Each step waits for the
//! one before it. Which records of a range are dead letters is decided before it is frozen, and for ever. After an error nothing more is done with the partition here: whoever takes it over finds what is durable and
//! does the rest.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use client::ConsumedRecord;
use offsets::Fence;
use wire::{LeaderEpoch, Millis, Offset};

use crate::claims;
use crate::columns::{self, Shape, Unconvertible};
use crate::expired;
use crate::footer::{self, Footer, Told};
use crate::key::{FileName, Key, Range};
use crate::layout::{Layout, Misplaced};
use crate::letters::{Letter, Letters};
use crate::plan::{Action, Event, Limits, Plan};
use crate::staging::{self, NotClaimed, Staging};
use crate::store::{Acquire, Change, Frozen, PositionStore, Rebuild, StoreError, Stored};
use crate::table::{self, Ahead, Attempt, Listing, Staged, Table, TableFile};
use crate::verdicts::{self, Verdicts};
use crate::writer::{Memory, NotTaken, RangeWriter};

/// Of a record without a timestamp.
const NO_TIME: Millis = Millis(-1);

/// How often the letters of a range are sent while others take the sending over who are not the holder.
const SENDS_MAX: usize = 10;

/// What a line does with every partition.
#[derive(Clone)]
pub struct LineSettings {
    /// When a range is closed.
    pub limits: Limits,
    /// How files are spread over directories.
    pub layout: Layout,
    /// Files of one partition that are written at once; a record that needs one more closes the range.
    pub files_max: usize,
    /// The columns.
    pub shape: Arc<Shape>,
}

/// Why a partition goes no further.
#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    /// The store refused, or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The table has more than the store knows.
    #[error(transparent)]
    Ahead(#[from] Ahead),
    /// Another instance has taken the partition over.
    #[error("{key} was taken over by another instance: {how}")]
    TakenOver {
        /// The partition.
        key: Box<Key>,
        /// How it shows.
        how: String,
    },
    /// Another line writes the partition into this table.
    #[error(
        "{key}: another line writes it into this table, and a sink wants a table of its own; if that one is gone for good, remove {}",
        path.display()
    )]
    Shared {
        /// The partition.
        key: Box<Key>,
        /// What the other line has there.
        path: PathBuf,
    },
    /// A record is no row.
    #[error(
        "{} at offset {offset}{}: {problem}",
        key.partition,
        field.as_deref().map(|field| format!(", field {field:?}")).unwrap_or_default()
    )]
    Unconvertible {
        /// The partition.
        key: Box<Key>,
        /// The record.
        offset: Offset,
        /// The field, if it is about one.
        field: Option<String>,
        /// What is wrong.
        problem: String,
    },
    /// What was read does not continue what is there.
    #[error("{key}: {found} was read where {expected} comes next")]
    Hole {
        /// The partition.
        key: Box<Key>,
        /// What was to come.
        expected: Offset,
        /// What came.
        found: Offset,
    },
    /// A range that was found frozen is to be repeated, and its records are gone.
    #[error(
        "{key}: {range} is on its way into the table, and the log begins at {log_start} by now: if all of it is there, `ottla sink repair` commits it"
    )]
    Unrepeatable {
        /// The partition.
        key: Box<Key>,
        /// The range.
        range: Range,
        /// Where the log begins.
        log_start: Offset,
    },
    /// The columns are not those that the layout goes by.
    #[error("{key}: files cannot be laid out by {}{}: {problem}", layout.name(), as_frozen(*frozen))]
    Layout {
        /// The partition.
        key: Box<Key>,
        /// The range that was frozen with it, if it is not the one that is declared.
        frozen: Option<Range>,
        /// The layout.
        layout: Layout,
        /// What is wrong.
        problem: String,
    },
    /// Files of a range that was found frozen are where no repeat puts one.
    #[error(
        "{key}: rows of {range} were put into {} already, and belong elsewhere by now, as what its fields become has changed: the schemas and the declaration of then finish the range (of a topic that was compacted since, so does removing all of its files)",
        directory.display()
    )]
    Elsewhere {
        /// The partition.
        key: Box<Key>,
        /// The range.
        range: Range,
        /// Where a file of it is.
        directory: PathBuf,
    },
    /// Dead letters could not be sent.
    #[error("{key}: cannot {doing}: {source}")]
    Letters {
        /// The partition.
        key: Box<Key>,
        /// What was done.
        doing: &'static str,
        /// What came of it.
        source: client::Error,
    },
    /// A range that was found frozen has dead letters, and they go nowhere by now.
    #[error(
        "{key}: {range} was frozen with {letters} dead letters and is not committed yet: [dead_letters] has to stay declared until it is"
    )]
    NoLetters {
        /// The partition.
        key: Box<Key>,
        /// The range.
        range: Range,
        /// How many.
        letters: u64,
    },
    /// Dead letters were sent of what is about to be sent.
    #[error(
        "{key}: dead letters were sent up to {position}, and the table has committed {committed} only: the store has lost something, or the table is made anew, and they would be sent twice. A name of its own lets it begin anew; so does deleting the group that keeps the letters' positions"
    )]
    LettersAhead {
        /// The partition.
        key: Box<Key>,
        /// Up to where.
        position: Offset,
        /// What is committed.
        committed: Offset,
    },
    /// Files of the table.
    #[error("{key}: cannot {doing} in {}: {source}", path.display())]
    Files {
        /// The partition.
        key: Box<Key>,
        /// What was done.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
}

fn as_frozen(range: Option<Range>) -> String {
    let told = |range| format!(", by which {range} was frozen and which the declaration of then finishes");
    range.map_or_else(String::new, told)
}

/// What was read at once: everything from `position` up to `next`.
#[derive(Debug, Clone, Copy)]
pub struct Chunk<'a> {
    /// Where reading stood.
    pub position: Offset,
    /// Where it goes on.
    pub next: Offset,
    /// Who wrote it.
    pub leader_epoch: LeaderEpoch,
    /// The records there, in order.
    pub records: &'a [ConsumedRecord],
}

/// What has come into the table since the partition was taken hold of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Placed {
    /// Files.
    pub files: u64,
    /// Ranges that were committed.
    pub ranges: u64,
}

/// What became of a record.
enum Taken {
    /// Of this time, if it has one.
    Row(Option<Millis>),
    Letter,
}

/// A partition that is held.
pub struct Partition {
    key: Key,
    fence: Fence,
    store: Arc<dyn PositionStore>,
    table: Table,
    settings: LineSettings,
    staging: Staging,
    /// As it was found.
    stored: Stored,
    /// The range that was claimed last, in a table that has claims.
    claimed: Option<Range>,
    plan: Plan,
    writer: RangeWriter,
    /// Directories in which files of a range that was found frozen are, by fields.
    found: Vec<PathBuf>,
    /// The range on its way, and its files once they are written.
    frozen: Option<Frozen>,
    staged: Vec<Staged>,
    /// Where dead letters go, if they may go anywhere.
    letters: Option<Box<dyn Letters>>,
    /// Which records of the range in hand are dead letters. Of one that was found frozen, all of them from the beginning.
    verdicts: Verdicts,
    /// Those in hand.
    in_hand: Vec<Letter>,
    in_hand_bytes: usize,
    /// Up to where letters were sent, as of the freeze of a range that has some.
    sent: Option<Offset>,
    /// Verdicts of the range that was committed last. They stay until the next one is committed, should the store forget the commit.
    kept: Vec<PathBuf>,
    letters_taken: u64,
    placed: Placed,
    /// Of the last record that was taken.
    leader_epoch: LeaderEpoch,
    /// What did not happen ends it.
    is_lost: bool,
    now: Millis,
}

impl Partition {
    /// Takes hold of a partition. `begin` is where to begin if the line never was here, `token` a random number.
    ///
    /// [`Partition::compare`] has to be called before anything is taken.
    pub async fn open(
        key: Key,
        store: Arc<dyn PositionStore>,
        table: Table,
        settings: LineSettings,
        begin: Offset,
        token: i64,
        now: Millis,
    ) -> Result<Self, PartitionError> {
        let failed = |source| PartitionError::Files {
            key: Box::new(key.clone()),
            doing: "prepare",
            path: table.root().join(staging::DIRECTORY),
            source,
        };
        let number_min = staging::highest(&table, &key).map_err(failed)?.saturating_add(1);
        let acquire = Acquire { key: key.clone(), begin, number_min, token, now };
        let held = store.acquire(&acquire).await?;
        let staging = staging::claim(&table, &key, held.fence).map_err(|error| match error {
            NotClaimed::Fenced(epoch) => PartitionError::TakenOver {
                key: Box::new(key.clone()),
                how: format!("epoch {} is behind {epoch}", held.fence.number),
            },
            NotClaimed::Shared(path) => PartitionError::Shared { key: Box::new(key.clone()), path },
            NotClaimed::Failed(source) => failed(source),
        })?;
        let mut stored = held.stored;
        // What was claimed is what comes next, also if the store has forgotten that it was frozen. Whoever has frozen another range since
        // has put nothing of it.
        let claim = claims::newest(&table, &key).map_err(failed)?;
        if let Some(claim) = claim.filter(|claim| claim.range.start == stored.committed.next)
            && stored.frozen != Some(claim)
        {
            let (begun, committed, frozen) = (stored.begun, stored.committed.next, Some(claim));
            let rebuild = Rebuild { key: key.clone(), fence: held.fence, begun, committed, frozen, now };
            store.rebuild(&rebuild).await?;
            stored = Stored {
                committed: offsets::Position { next: committed, leader_epoch: LeaderEpoch::NONE },
                frozen,
                updated: now,
                ..stored
            };
        }
        let frozen = stored.frozen;
        let plan = Plan::new(settings.limits, stored.committed.next, frozen.map(|frozen| frozen.range));
        let leader_epoch = stored.committed.leader_epoch;
        let writer = Self::writer(&key, &table, &settings, frozen)?;
        let (fence, staged) = (held.fence, Vec::new());
        Ok(Self {
            key,
            fence,
            store,
            table,
            settings,
            staging,
            stored,
            claimed: claim.map(|claim| claim.range),
            plan,
            writer,
            found: Vec::new(),
            frozen,
            staged,
            letters: None,
            verdicts: Verdicts::new(),
            in_hand: Vec::new(),
            in_hand_bytes: 0,
            sent: None,
            kept: Vec::new(),
            letters_taken: 0,
            placed: Placed::default(),
            leader_epoch,
            is_lost: false,
            now,
        })
    }

    /// Has records that are no rows sent there, instead of being stopped by them.
    #[must_use]
    pub fn with_letters(self, letters: Box<dyn Letters>) -> Self {
        Self { letters: Some(letters), ..self }
    }

    /// A frozen range is laid out as it was meant to be, in as many files as it needs.
    fn writer(
        key: &Key,
        table: &Table,
        settings: &LineSettings,
        frozen: Option<Frozen>,
    ) -> Result<RangeWriter, PartitionError> {
        let layout = frozen.map_or(settings.layout, |frozen| frozen.layout);
        let files_max = frozen.map_or(settings.files_max, |_| usize::MAX);
        let writer = RangeWriter::new(table.clone(), Arc::clone(&settings.shape), layout, files_max);
        writer.map_err(|Misplaced { problem, .. }| {
            let (key, frozen) = (Box::new(key.clone()), frozen.map(|frozen| frozen.range));
            PartitionError::Layout { key, frozen, layout, problem }
        })
    }

    /// Compares what is stored with what the table holds, as listed after [`Partition::open`].
    pub async fn compare(&mut self, listing: &Listing) -> Result<(), PartitionError> {
        if let (Some(Frozen { range, letters: letters @ 1.., .. }), None) = (self.frozen, &self.letters) {
            return Err(PartitionError::NoLetters { key: Box::new(self.key.clone()), range, letters });
        }
        let expired = expired::read(&self.table, &self.key.line).map_err(|source| PartitionError::Files {
            key: Box::new(self.key.clone()),
            doing: "read what is expired",
            path: self.table.root().to_owned(),
            source,
        })?;
        let expired = expired.ranges(&self.key);
        let is_other = self.find_repeated(listing)?;
        let checked = table::check(&self.key.partition, &self.stored, listing, &expired)
            .and_then(|()| self.check_layout(is_other))
            .and_then(|()| table::check_claim(&self.key.partition, &self.stored, self.claimed));
        let Err(ahead) = checked else {
            // Not before it is known that the store has lost nothing: what is there may be all that tells what the letters are.
            let verdicts = self.find_verdicts();
            return verdicts.map_err(|source| self.lose("read which records are dead letters", source));
        };
        // Unless somebody took it over meanwhile and has gone on.
        let stored = self.store.list(&self.key.line).await?;
        let stored = stored.iter().find(|(key, _)| *key == self.key).map(|(_, stored)| *stored);
        match stored == Some(self.stored) {
            true => Err(ahead.into()),
            false => {
                let how = "the position has moved on".to_owned();
                Err(PartitionError::TakenOver { key: Box::new(self.key.clone()), how })
            }
        }
    }

    /// Finds the files of a range that was found frozen. Gives whether they are laid out otherwise than a repeat does: of two layouts by
    /// time, directories are called alike.
    fn find_repeated(&mut self, listing: &Listing) -> Result<bool, PartitionError> {
        let Some(Frozen { range, layout, .. }) = self.frozen else { return Ok(false) };
        let partition = &self.key.partition;
        let is_its = |file: &&TableFile| file.name.partition == *partition && file.name.range == range;
        let files: Vec<_> = listing.files.iter().filter(is_its).collect();
        for &file in &files {
            let path = self.table.root().join(file.path());
            // One that is no Parquet file has no rows, nor has one that a compaction behind a successor has merged meanwhile.
            let told = staging::if_there(footer::read_metadata(&*self.table.files, &path));
            let told = told.map_err(|source| PartitionError::Files {
                key: Box::new(self.key.clone()),
                doing: "read what is there of a range on its way",
                path,
                source,
            })?;
            let told = told.and_then(Result::ok);
            let told = told.map(|metadata| Told::of(&self.key, file, &Footer::new(metadata.file_metadata())));
            if told.is_some_and(|told| !told.is_laid_out_as(layout)) {
                return Ok(true);
            }
        }
        if layout.is_by_fields() {
            self.found = files.iter().map(|file| file.directory.clone()).collect();
        }
        Ok(false)
    }

    fn check_layout(&self, is_other: bool) -> Result<(), Ahead> {
        let (begun, committed) = (self.stored.begun, self.stored.committed.next);
        match self.frozen.filter(|_| is_other) {
            Some(Frozen { range: found, .. }) => {
                Err(Ahead { partition: self.key.partition.clone(), found, begun, committed })
            }
            None => Ok(()),
        }
    }

    /// Whether a range that was found frozen can be read again.
    pub fn check_log(&self, log_start: Offset) -> Result<(), PartitionError> {
        match self.frozen.map(|frozen| frozen.range).filter(|range| range.start < log_start) {
            Some(range) => {
                Err(PartitionError::Unrepeatable { key: Box::new(self.key.clone()), range, log_start })
            }
            None => Ok(()),
        }
    }

    /// Which records of a range that was found frozen are dead letters; and removes what nobody needs of earlier holders.
    fn find_verdicts(&mut self) -> io::Result<()> {
        self.kept = verdicts::clear(&self.table, &self.key, self.fence.number, &self.stored)?;
        if let Some(frozen) = &self.frozen {
            self.verdicts = verdicts::find(&self.table, &self.key, frozen)?;
        }
        Ok(())
    }

    /// Which partition.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// What was stored when it was taken hold of.
    pub fn stored(&self) -> &Stored {
        &self.stored
    }

    /// Where reading goes on.
    pub fn read(&self) -> Offset {
        self.plan.read()
    }

    /// Up to where everything is in the table.
    pub fn committed(&self) -> Offset {
        self.plan.committed()
    }

    /// Whether it repeats a range that was found frozen, up to its very end.
    pub fn is_repeating(&self) -> bool {
        self.plan.until().is_some()
    }

    /// Rows in hand.
    pub fn rows(&self) -> u64 {
        self.plan.rows()
    }

    /// Dead letters among all that was taken.
    pub fn letters(&self) -> u64 {
        self.letters_taken
    }

    /// What has come into the table.
    pub fn placed(&self) -> Placed {
        self.placed
    }

    /// Whether what is read from now on is old: the age of what is in hand closes nothing then.
    pub fn read_old(&mut self, is_old: bool) {
        self.plan.read_old(is_old);
    }

    /// What is in memory, about.
    pub fn memory(&self) -> Memory {
        let Memory { rows, kept } = self.writer.memory();
        Memory { rows, kept: kept + self.in_hand_bytes }
    }

    /// Frees what rows in hand take, by having them in the staging directory.
    pub fn spill(&mut self) -> Result<(), PartitionError> {
        let spilled = self.writer.spill(&mut self.staging);
        spilled.map_err(|source| self.lose("write", source))
    }

    /// When [`Partition::tick`] will have something to do.
    pub fn wake_at(&self) -> Option<Millis> {
        self.plan.wake_at()
    }

    /// Takes what was read. A record that is no row ends it, unless dead letters are sent; those before it stay in hand, for
    /// [`Partition::finish`].
    pub async fn take(&mut self, chunk: Chunk<'_>, now: Millis) -> Result<(), PartitionError> {
        self.now = now;
        let Chunk { position, next: end, mut records, leader_epoch } = chunk;
        if position != self.plan.read() {
            let (key, expected) = (Box::new(self.key.clone()), self.plan.read());
            return Err(PartitionError::Hole { key, expected, found: position });
        }
        while self.plan.read() < end && !self.is_lost {
            let until = self.plan.until().unwrap_or(end).min(end);
            let (mut taken, mut letters, mut bytes) = (0, 0, 0);
            let mut outcome = Ok(());
            for record in records.iter().take_while(|record| record.offset < until) {
                match self.append(record) {
                    Ok(Taken::Row(time)) => self.note(time),
                    Ok(Taken::Letter) => letters += 1,
                    Err(error) => {
                        outcome = Err(error);
                        break;
                    }
                }
                taken += 1;
                bytes += columns::size(record);
            }
            let first_left = records.get(taken);
            let next = match &outcome {
                Err(_) => first_left.map_or(until, |record| record.offset),
                Ok(()) => until,
            };
            // What nobody gets to see was written in an epoch too.
            if taken > 0 || chunk.records.is_empty() {
                self.leader_epoch = leader_epoch;
            }
            let offset = next;
            records = &records[taken..];
            self.letters_taken += letters;
            let rows = taken as u64 - letters;
            let read = Event::Read { next, rows, letters, bytes: bytes as u64, now };
            match outcome {
                Ok(()) => self.act(read).await?,
                Err(NotTaken::Full) => {
                    self.act(read).await?;
                    // Unless the limits have said so already.
                    if self.plan.records() > 0 {
                        self.act(Event::Full).await?;
                    }
                }
                Err(NotTaken::Unconvertible(Unconvertible { field, problem })) => {
                    self.act(read).await?;
                    let key = Box::new(self.key.clone());
                    let problem = match self.is_repeating() {
                        true => format!(
                            "{problem}; its range was frozen as one in which this is a row: the declaration of then commits it"
                        ),
                        false => problem,
                    };
                    return Err(PartitionError::Unconvertible { key, offset, field, problem });
                }
                Err(NotTaken::Failed(source)) => return Err(self.lose("write", source)),
            }
        }
        Ok(())
    }

    /// Notes the time of a row. A range that is repeated by another layout may have times of something else.
    fn note(&mut self, time: Option<Millis>) {
        let LineSettings { layout, limits, .. } = self.settings;
        if limits.late_ms_max.is_some()
            && let Some(time) = time.filter(|_| self.frozen.is_none_or(|frozen| frozen.layout == layout))
            && let Some(end) = layout.end_of(time)
        {
            self.plan.note(time, end, self.now);
        }
    }

    /// Appends a row, or puts a dead letter aside. In a range that was found frozen, both are what they were.
    fn append(&mut self, record: &ConsumedRecord) -> Result<Taken, NotTaken> {
        if !self.is_repeating() || !self.verdicts.contains_key(&record.offset) {
            match self.writer.append(record, &mut self.staging) {
                Ok(time) => return Ok(Taken::Row(time)),
                Err(NotTaken::Unconvertible(problem)) if self.letters.is_some() && !self.is_repeating() => {
                    self.verdicts.insert(record.offset, problem);
                }
                Err(error) => return Err(error),
            }
        }
        let letter = Letter::new(&self.key, record, &self.verdicts[&record.offset]);
        self.in_hand_bytes += letter.size();
        self.in_hand.push(letter);
        Ok(Taken::Letter)
    }

    /// Time has passed.
    pub async fn tick(&mut self, now: Millis) -> Result<(), PartitionError> {
        self.now = now;
        self.act(Event::Tick { now }).await
    }

    /// Commits what is in hand, unless it is the beginning of a range that was found frozen: that one is left to be repeated.
    pub async fn finish(&mut self, now: Millis) -> Result<(), PartitionError> {
        self.now = now;
        self.act(Event::Finish).await
    }

    async fn act(&mut self, event: Event) -> Result<(), PartitionError> {
        let mut event = event;
        while let Some(action) = self.plan.on(event) {
            let carried_out = match action {
                Action::Freeze(range) => self.freeze(range).await,
                Action::Write(range) => self.write(range),
                Action::Place(range) => self.place(range),
                Action::Send(range) => self.send(range).await,
                Action::Commit(range) => self.commit(range).await,
            };
            event = match carried_out {
                Ok(event) => event,
                Err(error) => {
                    self.plan.on(Event::Lost);
                    self.is_lost = true;
                    return Err(error);
                }
            };
        }
        Ok(())
    }

    async fn freeze(&mut self, range: Range) -> Result<Event, PartitionError> {
        let Self { fence, settings, .. } = self;
        let found = self.frozen;
        let letters = self.in_hand.len() as u64;
        let frozen = found.unwrap_or(Frozen { range, epoch: fence.number, layout: settings.layout, letters });
        assert_eq!(frozen.range, range, "what was found frozen is repeated as it is");
        self.frozen = Some(frozen);
        if !self.in_hand.is_empty() {
            // Before the freeze, which shows whether it was the holder that took the sending over: whoever holds the partition later
            // takes it over later.
            self.hold_letters().await?;
            if found.is_none() {
                self.keep_verdicts(&frozen).await?;
            }
        }
        self.store.freeze(&self.change(frozen)).await?;
        Ok(Event::Frozen)
    }

    fn write(&mut self, range: Range) -> Result<Event, PartitionError> {
        let frozen = self.frozen.expect("it is frozen");
        let footer = footer(&self.key, &frozen, self.plan.rows());
        let next = Self::writer(&self.key, &self.table, &self.settings, None)?;
        let first = self.in_hand.first().and_then(|letter| letter.timestamp).unwrap_or(NO_TIME);
        let staged = std::mem::replace(&mut self.writer, next).finish(&footer, first, &mut self.staging);
        self.staged = staged.map_err(|source| self.lose("write", source))?;
        assert_eq!(frozen.range, range);
        Ok(Event::Written)
    }

    fn place(&mut self, range: Range) -> Result<Event, PartitionError> {
        let frozen = self.frozen.expect("it is frozen");
        assert_eq!(frozen.range, range);
        let is_repeated = |found: &PathBuf| self.staged.iter().any(|staged| *found == *staged.directory);
        if let Some(at) = self.found.iter().position(|found| !is_repeated(found)) {
            let (key, directory) = (Box::new(self.key.clone()), self.found.swap_remove(at));
            return Err(PartitionError::Elsewhere { key, range, directory });
        }
        self.found.clear();
        match claims::claim(&self.table, &self.key, &frozen) {
            Ok(()) => {}
            Err(claims::NotClaimed::TakenOver(how)) => {
                return Err(PartitionError::TakenOver { key: Box::new(self.key.clone()), how });
            }
            Err(claims::NotClaimed::Failed(source)) => return Err(self.lose("claim a range", source)),
        }
        let name = FileName { partition: self.key.partition.clone(), range };
        let staged = std::mem::take(&mut self.staged);
        let attempt = if self.stored.frozen == Some(frozen) { Attempt::Repeat } else { Attempt::First };
        match self.table.place(&name, &staged, attempt) {
            Ok(()) => {
                self.placed.files += staged.len() as u64;
                Ok(Event::Placed)
            }
            Err(error) => Err(self.lose("place files", error)),
        }
    }

    async fn send(&mut self, range: Range) -> Result<Event, PartitionError> {
        if self.sent.is_some_and(|sent| sent >= range.end) {
            return Ok(Event::Sent);
        }
        if let [first, ..] = &self.in_hand[..] {
            let (partition, offset) = (&self.key.partition, first.offset);
            let problem = self.verdicts.get(&offset).map_or("", |verdict| &verdict.problem);
            tracing::warn!(
                %partition, letters = self.in_hand.len(), first = %offset, problem,
                "records cannot be converted and go to the dead letters"
            );
        }
        let letters = self.letters.as_ref().expect("there are letters because they may be sent");
        let mut sent = letters.send(&self.in_hand, range.end).await;
        for _ in 1..SENDS_MAX {
            let Err(error) = &sent else { break };
            if error.kind() != client::ErrorKind::Fenced {
                break;
            }
            // By a later holder, or by one before it that woke up late and has not heard yet that it is none: the store knows. Taken
            // over again before the freeze is looked at, nobody else sends, and the position says whether what failed was done.
            self.hold_letters().await?;
            self.store.freeze(&self.change(self.frozen.expect("it is frozen"))).await?;
            if self.sent.is_some_and(|sent| sent >= range.end) {
                return Ok(Event::Sent);
            }
            let letters = self.letters.as_ref().expect("there are letters because they may be sent");
            sent = letters.send(&self.in_hand, range.end).await;
        }
        match sent {
            Ok(()) => Ok(Event::Sent),
            Err(error) => Err(self.unsent("send dead letters", error)),
        }
    }

    /// Takes the sending over, and reads how far it went.
    async fn hold_letters(&mut self) -> Result<(), PartitionError> {
        let letters = self.letters.as_ref().expect("there are letters because they may be sent");
        match letters.hold().await {
            Ok(sent) => self.sent = sent,
            Err(error) => return Err(self.unsent("take the sending of dead letters over", error)),
        }
        Ok(())
    }

    /// Makes durable what a new range's letters are, of which none was ever sent.
    async fn keep_verdicts(&mut self, frozen: &Frozen) -> Result<(), PartitionError> {
        if let Some(position) = self.sent.filter(|&sent| sent > frozen.range.start) {
            let committed = self.plan.committed();
            let stored = self.store.list(&self.key.line).await?;
            let stored = stored.iter().find(|(key, _)| *key == self.key).map(|(_, stored)| stored);
            let key = Box::new(self.key.clone());
            let is_here =
                stored.is_none_or(|stored| stored.committed.next == committed && stored.frozen.is_none());
            return Err(match is_here {
                true => PartitionError::LettersAhead { key, position, committed },
                false => PartitionError::TakenOver { key, how: "the position has moved on".to_owned() },
            });
        }
        let kept = verdicts::keep(&self.table, &self.key, frozen, &self.verdicts);
        kept.map_err(|source| self.lose("keep which records are dead letters", source))
    }

    fn unsent(&self, doing: &'static str, source: client::Error) -> PartitionError {
        let key = Box::new(self.key.clone());
        match source.kind() {
            client::ErrorKind::Fenced => {
                PartitionError::TakenOver { key, how: format!("it sends the dead letters: {source}") }
            }
            _ => PartitionError::Letters { key, doing, source },
        }
    }

    async fn commit(&mut self, range: Range) -> Result<Event, PartitionError> {
        let frozen = self.frozen.take().expect("it is frozen");
        assert_eq!(frozen.range, range);
        self.store.commit(&self.change(frozen), self.leader_epoch).await?;
        self.placed.ranges += 1;
        self.in_hand.clear();
        (self.in_hand_bytes, self.sent) = (0, None);
        self.verdicts.clear();
        let own = (frozen.letters > 0).then(|| verdicts::path(&self.table, &self.key, &frozen));
        for before in std::mem::replace(&mut self.kept, own.into_iter().collect()) {
            let forgotten = verdicts::forget(&self.table, &before);
            forgotten.map_err(|source| self.lose("forget which records were dead letters", source))?;
        }
        Ok(Event::Committed)
    }

    fn change(&self, frozen: Frozen) -> Change {
        Change { key: self.key.clone(), fence: self.fence, frozen, now: self.now }
    }

    /// That the staging directory is gone says that a successor took it away.
    fn lose(&mut self, doing: &'static str, source: io::Error) -> PartitionError {
        self.plan.on(Event::Lost);
        self.is_lost = true;
        let key = Box::new(self.key.clone());
        let is_missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        let is_taken = is_missing(&source)
            && self.table.files.bucket().is_none()
            && self.table.files.list(&self.staging.dir).is_err_and(|error| is_missing(&error));
        match is_taken {
            true => PartitionError::TakenOver { key, how: format!("{} is gone", self.staging.dir.display()) },
            false => PartitionError::Files { key, doing, path: self.table.root().to_owned(), source },
        }
    }
}

/// Words of a file's footer.
pub(crate) mod words {
    use crate::key::{Key, Range};

    pub(crate) const FORM: &str = "ottla.form";
    pub(crate) const LINE: &str = "ottla.line";
    pub(crate) const CLUSTER_ID: &str = "ottla.cluster.id";
    pub(crate) const TOPIC: &str = "ottla.topic";
    pub(crate) const TOPIC_ID: &str = "ottla.topic.id";
    pub(crate) const PARTITION: &str = "ottla.partition";
    pub(crate) const START: &str = "ottla.range.start";
    pub(crate) const END: &str = "ottla.range.end";
    pub(crate) const ROWS: &str = "ottla.range.rows";
    pub(crate) const LETTERS: &str = "ottla.range.letters";
    pub(crate) const EPOCH: &str = "ottla.epoch";
    /// Of a range that is not laid out by records' timestamps alone.
    pub(crate) const LAYOUT: &str = "ottla.layout";

    /// What is said of which range of what it is.
    pub(crate) fn of(key: &Key, range: Range) -> [(&'static str, String); 7] {
        let Key { line, cluster_id, partition, topic_id } = key;
        [
            (LINE, line.to_string()),
            (CLUSTER_ID, cluster_id.clone()),
            (TOPIC, partition.topic.to_string()),
            (TOPIC_ID, topic_id.to_string()),
            (PARTITION, partition.partition.to_string()),
            (START, range.start.to_string()),
            (END, range.end.to_string()),
        ]
    }
}

/// What a footer says, the same for all files of a range: enough to rebuild the store from.
fn footer(key: &Key, frozen: &Frozen, rows: u64) -> Vec<(&'static str, String)> {
    let mut said = vec![(words::FORM, "1".to_owned())];
    said.extend(words::of(key, frozen.range));
    let Frozen { epoch, letters, layout, .. } = frozen;
    said.extend([
        (words::ROWS, rows.to_string()),
        (words::LETTERS, letters.to_string()),
        (words::EPOCH, epoch.to_string()),
    ]);
    if let Layout::Fields(_) = layout {
        said.push((words::LAYOUT, layout.name().to_owned()));
    }
    said
}
