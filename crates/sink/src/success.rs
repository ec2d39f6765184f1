//! `_SUCCESS` in a directory whose time is over in every partition, for those who wait for an hour to be there.
//!
//! It goes by what is durable: the positions that are committed, the table's files and the ends of the logs. So it does not matter which
//! instance has which partition, and after a restart nothing is to be made up for. It decides nothing about records: those that come late go to
//! their own hour as ever, and the mark says how many they are. What goes wrong here is told and tried again, and ends no line.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::{Cluster, Environment, Options};
use parquet::file::statistics::Statistics;
use serde_json::{Value, json};
use tokio::time::sleep;
use wire::{Millis, Offset, PartitionId, Str, TopicPartition};

use crate::bucket::Put;
use crate::columns::Extra;
use crate::files::{Files, make_dirs};
use crate::footer::{Footer, Told, metadata};
use crate::key::{Key, Range};
use crate::layout::Layout;
use crate::partition::words;
use crate::positions::open_store;
use crate::run::RunError;
use crate::settings::{Line, Settings};
use crate::source::{Source, is_anything_left, sources};
use crate::staging::{self, unless_missing};
use crate::store::{PositionStore, Stored};
use crate::table::{Table, TableFile};

/// How the mark is called.
pub(crate) const NAME: &str = "_SUCCESS";
/// Where it is written before it is put into its directory: no line is called so.
const DIRECTORY: &str = ".success";
const FORM: i64 = 1;
/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Up to where records of a partition have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reached {
    /// Everything is committed that there is to be seen.
    End,
    /// The latest time of what is committed.
    Time(Millis),
    /// Nothing is committed, and something is there.
    Nothing,
}

/// The time that every partition has reached: of one that is at its end, nothing is awaited.
fn watermark(reached: impl Iterator<Item = Reached>, now: Millis) -> Option<Millis> {
    let mut watermark = None;
    for reached in reached {
        let time = match reached {
            Reached::End => now,
            Reached::Time(time) => time.min(now),
            Reached::Nothing => return None,
        };
        watermark = Some(watermark.map_or(time, |before: Millis| before.min(time)));
    }
    watermark
}

/// What a mark says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Mark {
    /// When it was set first.
    set: i64,
    /// Rows that the directory had then.
    rows: u64,
    /// Rows that came later.
    late: u64,
    /// Behind what was there of each partition then.
    ends: BTreeMap<TopicPartition, Offset>,
}

impl Mark {
    /// Of what is committed in a directory now, as its files say; of one that was marked before, what is late of it.
    fn of(files: &[Told<'_>], before: Option<&Self>, now: Millis) -> Self {
        let mut mark = before.cloned().unwrap_or(Self { set: now.0, ..Self::default() });
        mark.late = 0;
        for told in files {
            let partition = &told.file.name.partition;
            for part in &told.parts {
                match before {
                    Some(before) if before.is_late(partition, part.range) => mark.late += part.rows,
                    Some(_) => {}
                    None => {
                        mark.rows += part.rows;
                        let end = mark.ends.entry(partition.clone()).or_insert(part.range.end);
                        *end = (*end).max(part.range.end);
                    }
                }
            }
        }
        mark
    }

    fn is_late(&self, partition: &TopicPartition, range: Range) -> bool {
        self.ends.get(partition).is_none_or(|&end| range.start >= end)
    }

    fn encode(&self) -> Value {
        let ends = self.ends.iter().map(|(partition, end)| {
            json!({ "topic": partition.topic.to_string(), "partition": partition.partition.0, "end": end.0 })
        });
        let ends: Vec<_> = ends.collect();
        json!({ "form": FORM, "set": self.set, "rows": self.rows, "late": self.late, "ends": ends })
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        if value["form"].as_i64() != Some(FORM) {
            return None;
        }
        let ends = value["ends"].as_array()?.iter().map(|end| {
            let partition = PartitionId(i32::try_from(end["partition"].as_i64()?).ok()?);
            let partition = TopicPartition::new(Str::copy_from(end["topic"].as_str()?), partition);
            Some((partition, Offset(end["end"].as_i64()?)))
        });
        let (set, rows, late) = (value["set"].as_i64()?, value["rows"].as_u64()?, value["late"].as_u64()?);
        Some(Self { set, rows, late, ends: ends.collect::<Option<_>>()? })
    }
}

/// What sets the marks of a table.
pub(crate) struct Success {
    /// If they are wanted at all.
    inner: Option<Marks>,
}

struct Marks {
    settings: Settings,
    line: Line,
    cluster: Cluster,
    environment: Arc<dyn Environment>,
    store: Arc<dyn PositionStore>,
    table: Table,
    layout: Layout,
    lateness_ms: i64,
    /// Those that were read, by directory; nothing, if it was no mark of ours.
    known: BTreeMap<PathBuf, Option<Mark>>,
    /// What times are in files that were looked at.
    times: BTreeMap<PathBuf, Times>,
    /// Whether something is to be seen from here to there.
    seen: BTreeMap<(TopicPartition, Range), bool>,
    /// Directories of which late records were told.
    warned: BTreeSet<PathBuf>,
    files: u64,
}

impl Success {
    /// Nothing is done before the first look.
    pub(crate) async fn open(
        settings: &Settings,
        line: Line,
        options: &Options,
        environment: &Arc<dyn Environment>,
        files: &Arc<dyn Files>,
    ) -> Result<Self, RunError> {
        let declared = settings.table(line).ok_or(RunError::NoTable)?;
        let Some(lateness_ms) = declared.success_ms else { return Ok(Self { inner: None }) };
        let mut options = options.clone();
        options.group_id = None;
        let inner = Marks {
            settings: settings.clone(),
            line,
            cluster: Cluster::new(options, Arc::clone(environment))?,
            environment: Arc::clone(environment),
            store: open_store(declared, Arc::clone(files)).await?,
            table: Table::new(Arc::clone(files), &declared.table),
            layout: declared.line.layout,
            lateness_ms,
            known: BTreeMap::new(),
            times: BTreeMap::new(),
            seen: BTreeMap::new(),
            warned: BTreeSet::new(),
            files: 0,
        };
        Ok(Self { inner: Some(inner) })
    }

    /// Sets marks from time to time, as long as the line is at work.
    pub(crate) async fn beside<T>(&mut self, work: impl Future<Output = T>) -> T {
        let looks = async {
            loop {
                sleep(LOOK_EVERY).await;
                self.look().await;
            }
        };
        tokio::select! {
            biased;
            done = work => done,
            () = looks => unreachable!("it looks for ever"),
        }
    }

    /// Sets the marks that are due.
    pub(crate) async fn look(&mut self) {
        let Some(marks) = &mut self.inner else { return };
        if let Err(error) = marks.look().await {
            tracing::warn!(%error, "marks of success are not set: it is tried again");
        }
    }
}

impl Marks {
    async fn look(&mut self) -> Result<(), RunError> {
        // In this order: what is committed before it is looked is in the listing, and what comes behind the ends is later than now.
        let now = self.environment.now();
        let sources = sources(&self.settings, self.line, &self.cluster).await?;
        let stored = self.store.list(&self.settings.line_name(self.line)).await?;
        // The line goes on meanwhile: a table in an object store takes a while to be listed.
        let table = self.table.clone();
        let listed = tokio::task::spawn_blocking(move || table.list()).await;
        let listed = listed.unwrap_or_else(|error| Err(io::Error::other(error)));
        let listing = listed.map_err(|source| self.failed("list", source))?;
        let mut by_directory: BTreeMap<&Path, Vec<(&Key, &TableFile)>> = BTreeMap::new();
        for file in &listing.files {
            let of = stored.iter().find(|(key, _)| key.partition == file.name.partition);
            if let Some((key, stored)) = of
                && file.name.range.end <= stored.committed.next
            {
                by_directory.entry(of_time(&file.directory)).or_default().push((key, file));
            }
        }
        let mut reached = Vec::with_capacity(sources.len());
        for source in &sources {
            let stored = stored.iter().find(|(key, _)| *key == source.key).map(|(_, stored)| stored);
            reached.push(self.reached(source, stored, &by_directory, now).await?);
        }
        let there: BTreeSet<_> = by_directory.values().flatten().map(|(_, file)| file.path()).collect();
        self.times.retain(|path, _| there.contains(path));
        let Some(watermark) = watermark(reached.into_iter(), now) else { return Ok(()) };
        let marked = |directory: &Path| listing.marked.contains(directory);
        for (directory, files) in &by_directory {
            // The line reads in the same task, and a table may have thousands of directories.
            tokio::task::yield_now().await;
            let outcome = match Layout::end(directory) {
                _ if marked(directory) => self.count_late(directory, files, now).await,
                Some(end) if end.0.saturating_add(self.lateness_ms) <= watermark.0 => {
                    match self.told(files).await {
                        Some(told) => self.set(directory, Mark::of(&told, None, now), Put::New),
                        None => Ok(()),
                    }
                }
                _ => Ok(()),
            };
            match outcome {
                // The directory was removed meanwhile, or another instance has begun to set marks.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                outcome => outcome.map_err(|source| self.failed("mark", source))?,
            }
        }
        self.known.retain(|directory, _| by_directory.contains_key(&**directory));
        Ok(())
    }

    fn failed(&self, doing: &'static str, source: io::Error) -> RunError {
        RunError::Files { doing, path: self.table.root().to_owned(), source }
    }

    /// What footers say; of files of which one is not there any more, as after a compaction, it is asked at the next look.
    async fn told<'a>(&self, files: &[(&Key, &'a TableFile)]) -> Option<Vec<Told<'a>>> {
        let mut all = Vec::with_capacity(files.len());
        for (key, file) in files {
            tokio::task::yield_now().await;
            let told = Told::read(&self.table, key, file);
            if !told.is_readable {
                return None;
            }
            all.push(told);
        }
        Some(all)
    }

    async fn reached(
        &mut self,
        source: &Source,
        stored: Option<&Stored>,
        by_directory: &BTreeMap<&Path, Vec<(&Key, &TableFile)>>,
        now: Millis,
    ) -> Result<Reached, RunError> {
        let Some(stored) = stored else {
            return Ok(if source.log.start < source.visible_end { Reached::Nothing } else { Reached::End });
        };
        let committed = stored.committed.next;
        if committed >= source.visible_end {
            return Ok(Reached::End);
        }
        let partition = &source.key.partition;
        let left = Range::new(committed, source.visible_end);
        if !self.is_to_be_seen(partition, left).await? {
            return Ok(Reached::End);
        }
        let of_partition = |files: &[(&Key, &TableFile)]| {
            let files = files.iter().filter(|(key, _)| key.partition == *partition);
            files.map(|(_, file)| file.path()).collect::<Vec<_>>()
        };
        // The latest directory has the latest record, but for those that somebody's clock has put ahead of all.
        for (directory, files) in by_directory.iter().rev() {
            let Some(begin) = begin(directory).filter(|begin| *begin <= now) else { continue };
            let mut latest = None;
            for file in of_partition(files) {
                tokio::task::yield_now().await;
                let times = self.times(file);
                // What was laid out by another time does not say how far this one has come.
                if times.are_those {
                    latest = latest.max(Some(times.latest));
                }
            }
            if let Some(latest) = latest {
                return Ok(Reached::Time(latest.map_or(begin, |latest| latest.max(begin))));
            }
        }
        Ok(Reached::Nothing)
    }

    /// Whether anybody gets to see something there: transactions end with what nobody sees.
    async fn is_to_be_seen(&mut self, partition: &TopicPartition, range: Range) -> Result<bool, RunError> {
        let at = (partition.clone(), range);
        if let Some(&seen) = self.seen.get(&at) {
            return Ok(seen);
        }
        let found = is_anything_left(&self.cluster, partition, range.start, range.end).await?;
        self.seen.retain(|(other, _), _| other != partition);
        self.seen.insert(at, found);
        Ok(found)
    }

    /// What times are in a file.
    fn times(&mut self, file: PathBuf) -> Times {
        let (table, field) = (&self.table, self.layout.time_field());
        let read = |file: &Path| {
            let Ok(metadata) = metadata(&*table.files, &table.root.join(file)) else {
                return Times { are_those: field.is_none(), latest: None };
            };
            let footer = Footer::new(metadata.file_metadata());
            let word = footer.words.get(words::LAYOUT).map(|word| word.parse::<Layout>());
            let of_file = word.and_then(Result::ok).and_then(Layout::time_field);
            let name = field.unwrap_or(Extra::Timestamp.column());
            let columns = metadata.row_groups().iter().flat_map(|group| group.columns());
            let of_time = columns.filter(|column| column.column_path().parts() == [name]);
            let latest = of_time.filter_map(|column| match column.statistics()? {
                Statistics::Int64(statistics) => statistics.max_opt().copied(),
                _ => None,
            });
            // A record has milliseconds, and a field microseconds.
            let millis = |time: i64| Millis(if field.is_some() { time.div_euclid(1000) } else { time });
            Times { are_those: of_file == field, latest: latest.max().map(millis) }
        };
        *self.times.entry(file).or_insert_with_key(|file| read(file))
    }

    /// Counts what came behind a mark.
    async fn count_late(
        &mut self,
        directory: &Path,
        files: &[(&Key, &TableFile)],
        now: Millis,
    ) -> io::Result<()> {
        if !self.known.contains_key(directory) {
            let bytes = self.table.files.read(&self.table.root.join(directory).join(NAME))?;
            self.know(directory, &bytes);
        }
        // One that somebody else has set is left alone.
        let Some(Some(mark)) = self.known.get(directory) else { return Ok(()) };
        // By its name a file may be late. A merged one may have been there already in part.
        let may_be = |(_, file): &(&Key, &TableFile)| {
            mark.ends.get(&file.name.partition).is_none_or(|&end| file.name.range.end > end)
        };
        let late: Vec<_> = files.iter().filter(|file| may_be(file)).copied().collect();
        if late.is_empty() {
            return Ok(());
        }
        let Some(told) = self.told(&late).await else { return Ok(()) };
        let counted = Mark::of(&told, Some(mark), now);
        if counted.late == mark.late {
            return Ok(());
        }
        if self.warned.insert(directory.to_owned()) {
            let (directory, late) = (directory.display(), counted.late);
            tracing::warn!(%directory, late, "records came after the directory was marked as complete; they are in it");
        }
        self.set(directory, counted, Put::Over)
    }

    /// Takes what is under the mark's name.
    fn know(&mut self, directory: &Path, bytes: &[u8]) {
        let mark = Mark::decode(bytes);
        if mark.is_none() {
            let directory = directory.display();
            tracing::warn!(%directory, "{NAME} there is not the sink's: it is left alone, and what comes late is not counted");
        }
        self.known.insert(directory.to_owned(), mark);
    }

    fn set(&mut self, directory: &Path, mark: Mark, put: Put) -> io::Result<()> {
        let (files, root) = (Arc::clone(&self.table.files), self.table.root().to_owned());
        if let Some(bucket) = files.bucket() {
            let path = root.join(directory).join(NAME);
            if put == Put::Over && !is_mark(&files.read(&path)?) {
                // Somebody has set another since.
                self.known.insert(directory.to_owned(), None);
                return Ok(());
            }
            match bucket.put(&path, mark.encode().to_string(), put) {
                // By somebody else since it was listed, if it was not this very put.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    self.know(directory, &files.read(&path)?);
                    return Ok(());
                }
                put => put?,
            }
            self.known.insert(directory.to_owned(), Some(mark));
            return Ok(());
        }
        let place = Path::new(staging::DIRECTORY).join(DIRECTORY);
        make_dirs(&*files, &root, &place)?;
        if self.files == 0 {
            // What earlier ones have left.
            for entry in files.list(&root.join(&place))? {
                unless_missing(files.remove(&root.join(&place).join(entry.name)))?;
            }
        }
        self.files += 1;
        let written =
            root.join(&place).join(format!("{:016x}-{}.part", self.environment.random(), self.files));
        let mut file = files.create(&written)?;
        file.write_all(mark.encode().to_string().as_bytes())?;
        file.sync()?;
        self.table.put(&written, directory, NAME)?;
        files.sync_dir(&root.join(directory))?;
        files.remove(&written)?;
        self.known.insert(directory.to_owned(), Some(mark));
        Ok(())
    }
}

/// Whether what is under the name is a mark of the sink's.
pub(crate) fn is_mark(bytes: &[u8]) -> bool {
    Mark::decode(bytes).is_some()
}

/// The times of a file's rows.
#[derive(Debug, Clone, Copy)]
struct Times {
    /// Whether they are those that the table is laid out by.
    are_those: bool,
    /// The latest, if there is a column of them.
    latest: Option<Millis>,
}

/// The directory of time that a directory is in, or is itself: that one is marked.
fn of_time(directory: &Path) -> &Path {
    let above = Layout::time_of(directory).map_or(0, |time| directory.components().count() - time.depth);
    directory.ancestors().nth(above).unwrap_or(directory)
}

/// Where a directory's time begins.
fn begin(directory: &Path) -> Option<Millis> {
    Layout::time_of(directory).map(|time| time.begin)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;
    use std::sync::Arc;

    use client::{Cluster, Environment, Options, TokioEnvironment};
    use wire::{Millis, Offset, PartitionId, TopicPartition};

    use super::{Mark, Marks, Reached, begin, of_time, watermark};
    use crate::bucket::{Bucket, Put};
    use crate::file_store::FileStore;
    use crate::files::Files;
    use crate::key::Range;
    use crate::layout::Layout;
    use crate::settings::{Line, Settings};
    use crate::table::Table;
    use crate::testing::Kept;

    #[tokio::test]
    async fn a_mark_in_a_bucket_is_put_where_there_is_none_and_one_of_somebody_elses_is_left_alone() {
        let kept = Arc::new(Kept::default());
        let files: Arc<dyn Files> = Arc::new(Bucket::new(kept.clone(), "shop", std::env::temp_dir()));
        let text = "name = \"a\"\ntopics = [\"orders\"]\n[offline]\ntable = \"s3://shop/t\"\n";
        let environment: Arc<dyn Environment> = Arc::new(TokioEnvironment);
        let mut options = Options::default();
        options.set("bootstrap.servers", "127.0.0.1:1").unwrap();
        let mut marks = Marks {
            settings: Settings::parse(text).unwrap(),
            line: Line::Offline,
            cluster: Cluster::new(options, Arc::clone(&environment)).unwrap(),
            environment,
            store: Arc::new(FileStore::new(Arc::clone(&files), "s3://shop/t")),
            table: Table::new(files, "s3://shop/t"),
            layout: Layout::Hour,
            lateness_ms: 0,
            known: BTreeMap::new(),
            times: BTreeMap::new(),
            seen: BTreeMap::new(),
            warned: BTreeSet::new(),
            files: 0,
        };
        let found =
            |directory: &str| kept.objects.lock().unwrap()[&format!("t/{directory}/_SUCCESS")].clone();
        let (ours, later) = (Mark { set: 5, ..Mark::default() }, Mark { set: 5, late: 3, ..Mark::default() });
        marks.set(Path::new("dt=1"), ours.clone(), Put::New).unwrap();
        marks.set(Path::new("dt=1"), later.clone(), Put::Over).unwrap();
        assert_eq!(Mark::decode(&found("dt=1")), Some(later.clone()));
        // Another instance's, which was not there when it was listed.
        marks.set(Path::new("dt=1"), ours.clone(), Put::New).unwrap();
        assert_eq!(Mark::decode(&found("dt=1")), Some(later.clone()));
        assert_eq!(marks.known[Path::new("dt=1")], Some(later));
        kept.objects.lock().unwrap().insert("t/dt=2/_SUCCESS".to_owned(), Vec::new());
        marks.set(Path::new("dt=2"), ours, Put::New).unwrap();
        assert!(found("dt=2").is_empty());
        assert_eq!(marks.known[Path::new("dt=2")], None);
    }

    #[test]
    fn the_watermark_is_that_of_the_slowest_partition_and_one_at_its_end_awaits_nothing() {
        let told = |reached: &[Reached]| watermark(reached.iter().copied(), Millis(100)).map(|time| time.0);
        let time = |time| Reached::Time(Millis(time));
        assert_eq!(told(&[time(40), time(30), Reached::End]), Some(30));
        assert_eq!(told(&[Reached::End, Reached::End]), Some(100));
        assert_eq!(told(&[Reached::End, Reached::Nothing]), None);
        // A record of next year is no reason to mark this one.
        assert_eq!(told(&[time(400), Reached::End]), Some(100));
        assert_eq!(told(&[]), None);
    }

    #[test]
    fn a_mark_says_what_it_said() {
        let partition = TopicPartition::new("orders", PartitionId(3));
        let ends = [(partition.clone(), Offset(40))].into();
        let mark = Mark { set: 5, rows: 30, late: 2, ends };
        assert_eq!(Mark::decode(mark.encode().to_string().as_bytes()), Some(mark.clone()));
        assert_eq!(Mark::decode(b""), None, "Hadoop's own is empty");
        let is_late = |partition: &TopicPartition, start| {
            mark.is_late(partition, Range::new(Offset(start), Offset(start + 1)))
        };
        assert!(!is_late(&partition, 39) && is_late(&partition, 40));
        assert!(is_late(&TopicPartition::new("orders", PartitionId(4)), 0));
    }

    #[test]
    fn a_directory_begins_an_hour_or_a_day_before_it_ends() {
        assert_eq!(begin(Path::new("dt=2023-11-14/hour=22")), Some(Millis(1_699_999_200_000)));
        assert_eq!(begin(Path::new("dt=2023-11-14")), Some(Millis(1_699_920_000_000)));
    }

    #[test]
    fn directories_of_fields_are_marked_with_that_of_their_time() {
        let of_time = |directory: &'static str| of_time(Path::new(directory)).to_str();
        assert_eq!(of_time("dt=2023-11-14/hour=22/city=a/shop=1"), Some("dt=2023-11-14/hour=22"));
        assert_eq!(of_time("dt=2023-11-14/city=a"), Some("dt=2023-11-14"));
        assert_eq!(of_time("dt=2023-11-14/hour=22"), Some("dt=2023-11-14/hour=22"));
        for other in ["", "city=a", "dt=__HIVE_DEFAULT_PARTITION__/city=a"] {
            assert_eq!(of_time(other), Some(other));
        }
    }
}
