//! Compares what the brokers have on disk: once nobody produces any more, all replicas of a partition hold the same batches,
//! byte for byte. Segments may end at different places, so batches are compared and files are not. In each partition the
//! sequences of a producer's epoch begin with 0 and follow each other: a batch that was let in twice, or too early, shows
//! here whatever clients make of it.

use crate::shell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Base offset and the length of what follows.
const PREFIX_BYTES: usize = 12;
/// What follows in an empty batch, and in one larger than any of this load; what claims to be beyond is not a batch.
const LENGTH_MIN: usize = 49;
const LENGTH_MAX: usize = 16 << 20;

/// Of the attributes' low byte.
const CONTROL: u8 = 0x20;

/// What all replicas agree on.
#[derive(Debug, Default)]
pub(crate) struct Agreed {
    pub(crate) batches: usize,
    /// One line per batch of a producer's epoch above 0: partition, first offset, last offset, epoch.
    pub(crate) epochs: String,
}

/// Compares all partitions of a topic on brokers with these data directories; followers have `patience` to fetch what is left.
pub(crate) fn compare(
    brokers: &[Vec<PathBuf>],
    topic: &str,
    partitions: usize,
    patience: Duration,
) -> Result<Agreed, String> {
    let deadline = shell::now() + patience;
    let mut agreed = Agreed::default();
    for partition in 0..partitions {
        let partition = format!("{topic}-{partition}");
        let compared = || {
            let folders = brokers.iter().map(|dirs| folder(dirs, partition.as_ref()));
            compare_logs(&folders.collect::<Result<Vec<_>, _>>()?)
        };
        let producers = loop {
            match compared() {
                Ok(producers) => break producers,
                // A follower has a part of a batch, or none of it yet.
                Err(_) if shell::now() < deadline => std::thread::sleep(Duration::from_millis(200)),
                Err(reason) => return Err(reason),
            }
        };
        agreed.batches += producers.len();
        follow(&partition, &producers, &mut agreed.epochs)?;
    }
    Ok(agreed)
}

/// Where a broker with these data directories has its replica of a partition. It has one.
pub(crate) fn folder(dirs: &[PathBuf], partition: &OsStr) -> Result<PathBuf, String> {
    let mut found = dirs.iter().map(|dir| dir.join(partition)).filter(|folder| folder.is_dir());
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(only),
        (Some(one), Some(other)) => {
            Err(format!("one partition is in {} and in {}", one.display(), other.display()))
        }
        (None, _) => Err(format!("{} is in none of {dirs:?}", partition.display())),
    }
}

/// Who wrote a batch, and as what.
#[derive(Clone, Copy, Debug)]
struct Sent {
    producer: i64,
    epoch: i16,
    sequence: i32,
    records: i32,
    first_offset: i64,
    /// The end of a transaction, which has no sequence.
    is_marker: bool,
}

impl Sent {
    /// Of a whole batch.
    fn of(batch: &[u8]) -> Self {
        let four = |at: usize| i32::from_be_bytes(batch[at..at + 4].try_into().expect("four bytes"));
        Self {
            producer: i64::from_be_bytes(batch[43..51].try_into().expect("eight bytes")),
            epoch: i16::from_be_bytes(batch[51..53].try_into().expect("two bytes")),
            sequence: four(53),
            records: four(57),
            first_offset: base_offset(batch),
            is_marker: batch[22] & CONTROL != 0,
        }
    }
}

/// An error unless each batch follows its producer's last one; notes epochs above 0.
fn follow(partition: &str, batches: &[Sent], epochs: &mut String) -> Result<(), String> {
    let mut expected: HashMap<i64, (i16, i32)> = HashMap::new();
    for sent in batches.iter().filter(|sent| !sent.is_marker) {
        let (epoch, sequence) = expected.get(&sent.producer).copied().unwrap_or_default();
        let follows = match sent.epoch {
            same if same == epoch => sent.sequence == sequence,
            newer => newer > epoch && sent.sequence == 0,
        };
        if !follows {
            return Err(format!(
                "{partition} at offset {}: the producer {} is at sequence {} of epoch {} where {sequence} of \
                 epoch {epoch} is next",
                sent.first_offset, sent.producer, sent.sequence, sent.epoch
            ));
        }
        expected.insert(sent.producer, (sent.epoch, sent.sequence + sent.records));
        if sent.epoch > 0 {
            let last = sent.first_offset + i64::from(sent.records) - 1;
            let (_, number) = partition.rsplit_once('-').expect("a topic and a number");
            let line = writeln!(epochs, "{number} {} {last} {}", sent.first_offset, sent.epoch);
            line.expect("a string takes everything");
        }
    }
    Ok(())
}

fn compare_logs(folders: &[PathBuf]) -> Result<Vec<Sent>, String> {
    let (first, others) = folders.split_first().expect("there are replicas");
    let mut logs = others.iter().map(|folder| Log::open(folder)).collect::<Result<Vec<_>, _>>()?;
    let mut reference = Log::open(first)?;
    let mut batches = Vec::new();
    loop {
        let expected = reference.next_batch()?;
        for (log, folder) in logs.iter_mut().zip(others) {
            let found = log.next_batch()?;
            if found != expected {
                return Err(format!(
                    "replicas differ: behind {} equal batches {} has {}, {} has {}",
                    batches.len(),
                    first.display(),
                    describe(expected.as_deref()),
                    folder.display(),
                    describe(found.as_deref())
                ));
            }
        }
        match expected {
            Some(batch) => batches.push(Sent::of(&batch)),
            None => return Ok(batches),
        }
    }
}

fn describe(batch: Option<&[u8]>) -> String {
    match batch {
        None => "nothing more".to_owned(),
        Some(batch) => {
            let epoch = i32::from_be_bytes(batch[12..16].try_into().expect("four bytes"));
            format!("a batch of {} bytes at offset {} of epoch {epoch}", batch.len(), base_offset(batch))
        }
    }
}

fn base_offset(batch: &[u8]) -> i64 {
    i64::from_be_bytes(batch[..8].try_into().expect("eight bytes"))
}

/// The batches of one partition on one disk, in order.
struct Log {
    /// Those that are not begun yet, the next one last.
    segments: Vec<PathBuf>,
    current: Option<BufReader<File>>,
}

impl Log {
    fn open(folder: &Path) -> Result<Self, String> {
        let mut segments = segments(folder)?;
        segments.reverse();
        Ok(Self { segments, current: None })
    }

    fn next_batch(&mut self) -> Result<Option<Vec<u8>>, String> {
        loop {
            if let Some(file) = &mut self.current
                && let Some(batch) = read_batch(file)?
            {
                return Ok(Some(batch));
            }
            let Some(segment) = self.segments.pop() else { return Ok(None) };
            let file = File::open(&segment).map_err(|error| format!("{}: {error}", segment.display()))?;
            self.current = Some(BufReader::new(file));
        }
    }
}

/// The next batch, or `None` at the end of the file or in front of zeros.
fn read_batch(file: &mut impl Read) -> Result<Option<Vec<u8>>, String> {
    let mut batch = vec![0; PREFIX_BYTES];
    match file.read_exact(&mut batch) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        outcome => outcome.map_err(|error| format!("cannot read a segment: {error}"))?,
    }
    let length = i32::from_be_bytes(batch[8..12].try_into().expect("four bytes"));
    if length == 0 {
        return Ok(None);
    }
    let length = usize::try_from(length).ok().filter(|length| (LENGTH_MIN..=LENGTH_MAX).contains(length));
    let length = length.ok_or_else(|| format!("no batch follows offset {}", base_offset(&batch)))?;
    batch.resize(PREFIX_BYTES + length, 0);
    file.read_exact(&mut batch[PREFIX_BYTES..])
        .map_err(|error| format!("the batch at {} is cut short: {error}", base_offset(&batch)))?;
    Ok(Some(batch))
}

/// A segment that is written to no more, of whichever partition has one.
pub(crate) fn closed_segment(
    dirs: &[PathBuf],
    topic: &str,
    partitions: usize,
) -> Result<Option<PathBuf>, String> {
    for partition in 0..partitions {
        // One that was just moving is put right by the next start.
        let Ok(folder) = folder(dirs, format!("{topic}-{partition}").as_ref()) else { continue };
        let segments = segments(&folder)?;
        if segments.len() > 1 {
            return Ok(segments.into_iter().next());
        }
    }
    Ok(None)
}

/// The segments of one partition; their names sort as their base offsets do.
fn segments(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut segments = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| format!("{}: {error}", folder.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            segments.push(path);
        }
    }
    segments.sort();
    Ok(segments)
}
