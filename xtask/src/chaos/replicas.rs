//! Compares what the brokers have on disk: once nobody produces any more, all replicas of a partition hold the same batches,
//! byte for byte. Segments may end at different places, so batches are compared and files are not.

use super::{PARTITIONS, TOPIC};
use crate::shell;
use std::fs::{self, File};
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// For followers to fetch what is left.
const CATCH_UP_SECONDS_MAX: u64 = 60;
/// Base offset and the length of what follows.
const PREFIX_BYTES: usize = 12;
/// What follows in an empty batch, and in one larger than any of this load; what claims to be beyond is not a batch.
const LENGTH_MIN: usize = 49;
const LENGTH_MAX: usize = 16 << 20;

/// Compares all partitions on these data directories; the number of batches that each of them holds.
pub(super) fn compare(data: &[PathBuf]) -> Result<usize, String> {
    let deadline = shell::now() + Duration::from_secs(CATCH_UP_SECONDS_MAX);
    let mut batches = 0;
    for partition in 0..PARTITIONS {
        let folders: Vec<PathBuf> =
            data.iter().map(|data| data.join(format!("{TOPIC}-{partition}"))).collect();
        batches += loop {
            match compare_logs(&folders) {
                Ok(batches) => break batches,
                // A follower has a part of a batch, or none of it yet.
                Err(_) if shell::now() < deadline => std::thread::sleep(Duration::from_millis(200)),
                Err(reason) => return Err(reason),
            }
        };
    }
    Ok(batches)
}

fn compare_logs(folders: &[PathBuf]) -> Result<usize, String> {
    let (first, others) = folders.split_first().expect("there are replicas");
    let mut logs = others.iter().map(|folder| Log::open(folder)).collect::<Result<Vec<_>, _>>()?;
    let mut reference = Log::open(first)?;
    for count in 0.. {
        let expected = reference.next_batch()?;
        for (log, folder) in logs.iter_mut().zip(others) {
            let found = log.next_batch()?;
            if found != expected {
                return Err(format!(
                    "replicas differ: behind {count} equal batches {} has {}, {} has {}",
                    first.display(),
                    describe(expected.as_deref()),
                    folder.display(),
                    describe(found.as_deref())
                ));
            }
        }
        if expected.is_none() {
            return Ok(count);
        }
    }
    unreachable!("a log ends")
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
pub(super) fn closed_segment(data: &Path) -> Result<Option<PathBuf>, String> {
    for partition in 0..PARTITIONS {
        let segments = segments(&data.join(format!("{TOPIC}-{partition}")))?;
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
