//! The fence for puts: which range of a partition comes next is said once in the table itself, by whoever is first.
//!
//! `_staging/LINE/TOPIC-PARTITION/range-START.json` is put behind the freeze and before the first file of the range, if none of its name is
//! there. So of all ranges that begin at START one is in the table and no other, whatever the store of positions has forgotten
//! meanwhile and however late somebody wakes: who finds another's there puts no file, and who finds its own has files that are the
//! same whoever puts them. The claim behind stays until the next one is there: a zombie whose place is free again by then sees the higher one when it
//! looks afterwards. Whoever takes a partition over takes the newest claim over, as it does what is frozen. A table in a file system has none of these: there
//! the directory is the fence ([`staging`]).

use std::io::{self, ErrorKind};
use std::path::PathBuf;

use bytes::Bytes;
use serde_json::{Value, json};
use wire::Offset;

use crate::bucket::{Bucket, Put};
use crate::files::Files;
use crate::key::{Key, Range};
use crate::staging;
use crate::store::Frozen;
use crate::table::Table;

const FORM: i64 = 1;

/// How often the newest is read while others come behind it.
const TRIES_MAX: usize = 10;

/// Why a range is not claimed.
#[derive(Debug)]
pub(crate) enum NotClaimed {
    /// Another has this place, or a later one: how it shows.
    TakenOver(String),
    Failed(io::Error),
}

impl From<io::Error> for NotClaimed {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

fn directory(table: &Table, key: &Key) -> PathBuf {
    table.root.join(staging::place(key))
}

fn name(start: Offset) -> String {
    format!("range-{:020}.json", start.0)
}

/// The object that claims the range which begins there.
pub(crate) fn place(table: &Table, key: &Key, start: Offset) -> PathBuf {
    directory(table, key).join(name(start))
}

/// Where the range begins that an object of this name claims.
fn start(name: &str) -> Option<Offset> {
    let digits = name.strip_prefix("range-")?.strip_suffix(".json")?;
    digits.parse().ok().filter(|_| digits.len() == 20).map(Offset)
}

fn starts(bucket: &Bucket, table: &Table, key: &Key) -> io::Result<Vec<Offset>> {
    let entries = match bucket.list(&directory(table, key)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    Ok(entries.iter().filter_map(|entry| start(&entry.name)).collect())
}

/// The range that was claimed last, if the table has claims.
pub(crate) fn newest(table: &Table, key: &Key) -> io::Result<Option<Frozen>> {
    let Some(bucket) = table.files.bucket() else { return Ok(None) };
    for _ in 0..TRIES_MAX {
        let Some(start) = starts(bucket, table, key)?.into_iter().max() else { return Ok(None) };
        match read(bucket, table, key, start) {
            // The next one is there by now.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            claim => return claim.map(Some),
        }
    }
    Err(io::Error::other("the ranges that are claimed change all the time"))
}

fn read(bucket: &Bucket, table: &Table, key: &Key, start: Offset) -> io::Result<Frozen> {
    let path = place(table, key, start);
    let claim = decode(&bucket.read(&path)?, key).and_then(|claim| match claim.range.start == start {
        true => Ok(claim),
        false => Err(format!("it is of {}", claim.range)),
    });
    claim.map_err(|problem| {
        let problem = format!("{} cannot be read: {problem}; it is left as it is", path.display());
        io::Error::new(ErrorKind::InvalidData, problem)
    })
}

/// Claims a range that is frozen, unless it is claimed already. When this returns, no other range begins there, nor does one begin
/// behind it by another's doing.
pub(crate) fn claim(table: &Table, key: &Key, frozen: &Frozen) -> Result<(), NotClaimed> {
    let Some(bucket) = table.files.bucket() else { return Ok(()) };
    let start = frozen.range.start;
    let path = place(table, key, start);
    match bucket.put(&path, encode(key, frozen), Put::New) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => match read(bucket, table, key, start) {
            Ok(found) if found == *frozen => {}
            Ok(found) => return Err(NotClaimed::TakenOver(format!("{} is claimed there", found.range))),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(NotClaimed::TakenOver("a later range is claimed".to_owned()));
            }
            Err(error) => return Err(error.into()),
        },
        put => put?,
    }
    let starts = starts(bucket, table, key)?;
    if let Some(later) = starts.iter().max().filter(|&&later| later > start) {
        return Err(NotClaimed::TakenOver(format!("a range from {later} on is claimed")));
    }
    for before in starts.into_iter().filter(|&before| before < start) {
        bucket.remove(&place(table, key, before))?;
    }
    Ok(())
}

fn encode(key: &Key, Frozen { range: Range { start, end }, epoch, layout, letters }: &Frozen) -> Bytes {
    let layout = layout.name();
    let value = json!({
        "form": FORM, "cluster_id": key.cluster_id, "topic_id": key.topic_id.to_string(),
        "start": start.0, "end": end.0, "epoch": epoch, "layout": layout, "letters": letters,
    });
    value.to_string().into()
}

fn decode(bytes: &[u8], key: &Key) -> Result<Frozen, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if value["form"].as_i64() != Some(FORM) {
        return Err(format!("it has form {}, and this version of ottla reads form {FORM}", value["form"]));
    }
    let (cluster, topic) = (key.cluster_id.as_str(), key.topic_id.to_string());
    if (value["cluster_id"].as_str(), value["topic_id"].as_str()) != (Some(cluster), Some(&topic)) {
        return Err(format!(
            "it is of topic id {} in cluster {}, and {} has {topic} in {cluster}: a topic that was made anew wants a table of its own",
            value["topic_id"], value["cluster_id"], key.partition.topic
        ));
    }
    let number =
        |name: &str| value[name].as_i64().filter(|&number| number >= 0).ok_or(format!("it has no {name}"));
    let (start, end) = (Offset(number("start")?), Offset(number("end")?));
    if start >= end {
        return Err(format!("{start} to {end} is no range"));
    }
    let layout = value["layout"].as_str().ok_or("it has no layout")?.parse()?;
    Ok(Frozen {
        range: Range::new(start, end),
        epoch: number("epoch")?,
        layout,
        letters: number("letters")?.unsigned_abs(),
    })
}

#[cfg(test)]
mod tests {
    use wire::{Offset, PartitionId, TopicPartition, Uuid};

    use super::{decode, encode, name, start};
    use crate::key::{Key, Range};
    use crate::layout::Layout;
    use crate::store::Frozen;

    fn key() -> Key {
        Key {
            line: "orders.offline".parse().unwrap(),
            cluster_id: "c".to_owned(),
            partition: TopicPartition::new("orders", PartitionId(0)),
            topic_id: Uuid([7; 16]),
        }
    }

    #[test]
    fn a_claim_says_what_was_frozen() {
        let range = Range::new(Offset(10), Offset(20));
        let frozen = Frozen { range, epoch: 3, layout: Layout::Day, letters: 2 };
        assert_eq!(decode(&encode(&key(), &frozen), &key()), Ok(frozen));
        let other = Key { topic_id: Uuid([8; 16]), ..key() };
        let refused = decode(&encode(&other, &frozen), &key()).unwrap_err();
        assert!(refused.contains("a topic that was made anew"), "{refused}");
        assert_eq!(start(&name(Offset(10))), Some(Offset(10)));
        for other in ["range-10.json", "1-00000000000000ab", "range-.json"] {
            assert_eq!(start(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_no_claim_is_refused() {
        let empty = r#"{"form":1,"cluster_id":"c","topic_id":"ID","start":2,"end":2,"epoch":1,"layout":"hour","letters":0}"#;
        for text in ["", "{}", &empty.replace("ID", &key().topic_id.to_string())] {
            assert!(decode(text.as_bytes(), &key()).is_err(), "{text}");
        }
    }
}
