//! What readers have left behind, compared with what was produced: the numbers 0, 1, 2 and so on, each once.

use crate::shell;
use crate::stores::Store;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// Where results are.
pub(super) enum Results<'a> {
    /// Lines of a file: partition, offset, number.
    Lines(PathBuf),
    /// Rows of a table that would take one twice.
    Table { store: &'a Store, name: String },
    /// Hashes by offset, one for each partition.
    Hashes { store: &'a Store, name: String, partitions: u64 },
}

/// One result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Row {
    pub(super) partition: u64,
    pub(super) offset: u64,
    pub(super) number: u64,
}

impl Results<'_> {
    /// Makes a place for them.
    pub(super) fn create(&self) -> Result<(), String> {
        match self {
            Results::Lines(path) => shell::append(path).map(|_| ()),
            Results::Table { store, name } => {
                let columns = "partition integer, position bigint, value bigint";
                store.ask(&[&format!("CREATE TABLE {name} ({columns})")]).map(|_| ())
            }
            Results::Hashes { .. } => Ok(()),
        }
    }

    pub(super) fn rows(&self) -> Result<Vec<Row>, String> {
        let text = match self {
            Results::Lines(path) => {
                fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?
            }
            Results::Table { store, name } => {
                store.ask(&[&format!("SELECT partition, position, value FROM {name}")])?
            }
            Results::Hashes { store, name, partitions } => {
                let mut text = String::new();
                for partition in 0..*partitions {
                    let all = store.ask(&["HGETALL", &format!("results:{name}:{partition}")])?;
                    let words: Vec<&str> = all.split_whitespace().collect();
                    for pair in words.chunks(2) {
                        text += &format!("{partition} {}\n", pair.join(" "));
                    }
                }
                text
            }
        };
        // A line that is being written is none yet.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(row).collect()
    }

    /// How many results there are, of all partitions.
    pub(super) fn count(&self) -> Result<u64, String> {
        let number = |text: String| text.trim().parse::<u64>().map_err(|_| format!("no number: {text:?}"));
        match self {
            Results::Lines(_) => Ok(self.rows()?.len() as u64),
            Results::Table { store, name } => number(store.ask(&[&format!("SELECT count(*) FROM {name}")])?),
            Results::Hashes { store, name, partitions } => {
                let of = |partition| number(store.ask(&["HLEN", &format!("results:{name}:{partition}")])?);
                (0..*partitions).map(of).sum()
            }
        }
    }

    /// How often a result was written that was there already; only a place that knows offsets can tell.
    pub(super) fn again(&self) -> Result<Option<u64>, String> {
        let Results::Hashes { store, name, .. } = self else { return Ok(None) };
        let text = store.ask(&["GET", &format!("results:{name}:again")])?;
        Ok(Some(text.trim().parse().unwrap_or(0)))
    }
}

fn row(line: &str) -> Result<Row, String> {
    let numbers: Option<Vec<u64>> = line.split_whitespace().map(|word| word.parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[partition, offset, number]) => Ok(Row { partition, offset, number }),
        _ => Err(format!("no result: {line:?}")),
    }
}

/// Counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Results beyond the first of a number.
    pub(super) duplicates: u64,
    /// Numbers without a result.
    pub(super) lost: u64,
    /// Of those, the ones with a later result in their partition: nobody will come back for them.
    pub(super) passed_over: u64,
    /// Numbers whose first result stands at a smaller offset than an earlier number's.
    pub(super) reordered: u64,
    /// The first few that are not as they should be.
    pub(super) examples: Vec<u64>,
}

const EXAMPLES_MAX: usize = 10;

impl Tally {
    /// `produced` numbers, each in the partition that is its rest.
    pub(super) fn of(rows: &[Row], produced: u64, partitions: u64) -> Self {
        let mut tally = Self::default();
        let mut seen: BTreeMap<u64, Vec<Row>> = BTreeMap::new();
        for row in rows {
            seen.entry(row.number).or_default().push(*row);
        }
        let mut newest: BTreeMap<u64, u64> = BTreeMap::new();
        for (&number, rows) in &seen {
            newest.insert(rows[0].partition, number);
        }
        let mut last: BTreeMap<u64, u64> = BTreeMap::new();
        for number in 0..produced {
            let partition = number % partitions;
            let is_wrong = match seen.get(&number) {
                None => {
                    tally.lost += 1;
                    tally.passed_over +=
                        u64::from(newest.get(&partition).is_some_and(|&newest| newest > number));
                    true
                }
                Some(rows) => {
                    tally.duplicates += rows.len() as u64 - 1;
                    let is_behind = last.get(&partition).is_some_and(|&last| last >= rows[0].offset);
                    tally.reordered += u64::from(is_behind);
                    last.insert(partition, rows[0].offset);
                    rows.len() > 1 || is_behind
                }
            };
            if is_wrong && tally.examples.len() < EXAMPLES_MAX {
                tally.examples.push(number);
            }
        }
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::{Row, Tally};

    #[test]
    fn what_is_there_twice_or_not_at_all_is_counted() {
        let at = |number: u64, offset| Row { partition: number % 2, offset, number };
        let rows = [at(0, 0), at(2, 1), at(2, 1), at(6, 3), at(1, 0), at(3, 1)];
        let tally = Tally::of(&rows, 8, 2);
        // 4 is passed over; 5 and 7 have nothing behind them.
        assert_eq!((tally.duplicates, tally.lost, tally.passed_over, tally.reordered), (1, 3, 1, 0));
        assert_eq!(tally.examples, [2, 4, 5, 7]);
        assert_eq!(Tally::of(&[at(0, 1), at(2, 0)], 3, 2).reordered, 1);
    }
}
