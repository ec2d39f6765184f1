//! Kafka's names for directories and files. Everything that is named on disk is named here, and parsed back
//! here, so that a foreign or half-made name is recognised once. Nothing here does I/O.

use std::path::{Path, PathBuf};

use wire::{Offset, PartitionId, Str, TopicPartition, Uuid};

pub(crate) const META_PROPERTIES: &str = "meta.properties";
pub(crate) const LOCK: &str = ".lock";
pub(crate) const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";
pub(crate) const RECOVERY_POINTS: &str = "recovery-point-offset-checkpoint";
pub(crate) const LOG_STARTS: &str = "log-start-offset-checkpoint";
pub(crate) const HIGH_WATERMARKS: &str = "replication-offset-checkpoint";
pub(crate) const CLEANER_OFFSETS: &str = "cleaner-offset-checkpoint";
pub(crate) const LEADER_EPOCHS: &str = "leader-epoch-checkpoint";
pub(crate) const PARTITION_METADATA: &str = "partition.metadata";

pub(crate) const CLEANED_SUFFIX: &str = ".cleaned";
pub(crate) const SWAP_SUFFIX: &str = ".swap";
pub(crate) const DELETED_SUFFIX: &str = ".deleted";
pub(crate) const TMP_SUFFIX: &str = ".tmp";
pub(crate) const DELETE_DIR_SUFFIX: &str = "-delete";
pub(crate) const STRAY_DIR_SUFFIX: &str = "-stray";
pub(crate) const FUTURE_DIR_SUFFIX: &str = "-future";
/// In a partition's directory that a move has made: the copy's id.
pub(crate) const COPY_ID: &str = "copy-id";
/// In a partition's directory that was to move: which copy takes its place, or did not.
pub(crate) const MOVED: &str = "moved-to";
/// Written and removed to see whether a directory can be written to.
pub(crate) const PROBE: &str = ".probe";

/// Longest name that Linux file systems take.
const NAME_BYTES_MAX: usize = 255;

/// What belongs to one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FileKind {
    Log,
    OffsetIndex,
    TimeIndex,
    TxnIndex,
    Snapshot,
}

impl FileKind {
    const ALL: [FileKind; 5] =
        [FileKind::Log, FileKind::OffsetIndex, FileKind::TimeIndex, FileKind::TxnIndex, FileKind::Snapshot];

    fn suffix(self) -> &'static str {
        match self {
            FileKind::Log => ".log",
            FileKind::OffsetIndex => ".index",
            FileKind::TimeIndex => ".timeindex",
            FileKind::TxnIndex => ".txnindex",
            FileKind::Snapshot => ".snapshot",
        }
    }
}

/// `00000000000000000042.log` and its kin.
pub(crate) fn segment_file(dir: &Path, base: Offset, kind: FileKind) -> PathBuf {
    dir.join(format!("{:020}{}", base.0, kind.suffix()))
}

/// The inverse of [`segment_file`], without the directory.
pub(crate) fn parse_segment_file(name: &str) -> Option<(Offset, FileKind)> {
    let (digits, rest) = name.split_at_checked(20)?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let kind = FileKind::ALL.into_iter().find(|kind| kind.suffix() == rest)?;
    Some((Offset(digits.parse().ok()?), kind))
}

/// `topic-3`.
pub(crate) fn partition_dir(root: &Path, partition: &TopicPartition) -> PathBuf {
    root.join(format!("{}-{}", partition.topic, partition.partition.0))
}

/// The inverse of [`partition_dir`]; `None` for directories on their way out and for foreign ones.
pub(crate) fn parse_partition_dir(name: &str) -> Option<TopicPartition> {
    if [DELETE_DIR_SUFFIX, STRAY_DIR_SUFFIX, FUTURE_DIR_SUFFIX].iter().any(|mark| name.ends_with(mark)) {
        return None;
    }
    let (topic, partition) = name.rsplit_once('-')?;
    let digits = !partition.is_empty() && partition.bytes().all(|byte| byte.is_ascii_digit());
    if topic.is_empty() || !digits {
        return None;
    }
    Some(TopicPartition { topic: Str::copy_from(topic), partition: PartitionId(partition.parse().ok()?) })
}

/// Where a partition's directory is renamed to before it is removed.
pub(crate) fn deleted_dir(root: &Path, partition: &TopicPartition, id: Uuid) -> PathBuf {
    marked_dir(root, partition, id, DELETE_DIR_SUFFIX)
}

/// Where a partition's directory is put that the metadata does not know.
pub(crate) fn stray_dir(root: &Path, partition: &TopicPartition, id: Uuid) -> PathBuf {
    marked_dir(root, partition, id, STRAY_DIR_SUFFIX)
}

/// Where a partition is copied to that moves to another data directory; `None` for a topic whose name is too long for it.
pub(crate) fn future_dir(root: &Path, partition: &TopicPartition, id: Uuid) -> Option<PathBuf> {
    let dir = marked_dir(root, partition, id, FUTURE_DIR_SUFFIX);
    let name = dir.file_name()?.to_str()?;
    (parse_future_dir(name).as_ref() == Some(partition)).then_some(dir)
}

/// The inverse of [`future_dir`].
pub(crate) fn parse_future_dir(name: &str) -> Option<TopicPartition> {
    let (partition, id) = name.strip_suffix(FUTURE_DIR_SUFFIX)?.rsplit_once('.')?;
    let is_id = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id { parse_partition_dir(partition) } else { None }
}

/// `<topic>-<partition>.<32 hex digits>-delete`; a long topic is cut so that the name stays legal, as Kafka
/// does.
fn marked_dir(root: &Path, partition: &TopicPartition, id: Uuid, mark: &str) -> PathBuf {
    let hex: String = id.0.iter().map(|byte| format!("{byte:02x}")).collect();
    let tail = format!("-{}.{hex}{mark}", partition.partition.0);
    // What is kept may get a number, where the name is taken.
    let bytes_max = NAME_BYTES_MAX - if mark == STRAY_DIR_SUFFIX { 2 } else { 0 };
    let topic_bytes = partition.topic.len().min(bytes_max - tail.len());
    // Topic names are ASCII; a foreign one is cut at the character before.
    let topic = partition.topic.get(..topic_bytes).unwrap_or("");
    root.join(format!("{topic}{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back() {
        let dir = Path::new("/d");
        let path = segment_file(dir, Offset(42), FileKind::TimeIndex);
        assert_eq!(path, Path::new("/d/00000000000000000042.timeindex"));
        assert_eq!(
            parse_segment_file("00000000000000000042.timeindex"),
            Some((Offset(42), FileKind::TimeIndex))
        );
        for foreign in
            ["", "42.log", "00000000000000000042.log.swap", "0000000000000000004x.log", "äääääääääääääää"]
        {
            assert_eq!(parse_segment_file(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn directories_parse_back_and_marked_ones_are_passed_over() {
        let partition = TopicPartition { topic: Str::copy_from("a-b-7"), partition: PartitionId(12) };
        assert_eq!(partition_dir(Path::new("/d"), &partition), Path::new("/d/a-b-7-12"));
        assert_eq!(parse_partition_dir("a-b-7-12"), Some(partition.clone()));
        let deleted = deleted_dir(Path::new("/d"), &partition, Uuid::from_u128(1));
        assert_eq!(deleted, Path::new("/d/a-b-7-12.00000000000000000000000000000001-delete"));
        assert_eq!(parse_partition_dir(deleted.file_name().unwrap().to_str().unwrap()), None);
        let future = future_dir(Path::new("/d"), &partition, Uuid::from_u128(1)).unwrap();
        assert_eq!(future, Path::new("/d/a-b-7-12.00000000000000000000000000000001-future"));
        let name = future.file_name().unwrap().to_str().unwrap();
        assert_eq!((parse_partition_dir(name), parse_future_dir(name)), (None, Some(partition.clone())));
        assert_eq!(parse_future_dir("a-b-7-12.1-future"), None);
        for foreign in ["lost+found", "-1", "a-", "a-99999999999", "a-+1"] {
            assert_eq!(parse_partition_dir(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn the_longest_topic_still_has_a_legal_deleted_name() {
        let topic = Str::from("x".repeat(249));
        let partition = TopicPartition { topic, partition: PartitionId(i32::MAX) };
        let deleted = deleted_dir(Path::new("/d"), &partition, Uuid::from_u128(u128::MAX));
        assert_eq!(deleted.file_name().unwrap().len(), NAME_BYTES_MAX);
        assert_eq!(future_dir(Path::new("/d"), &partition, Uuid::from_u128(u128::MAX)), None);
    }
}
