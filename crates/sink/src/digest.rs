//! What two outputs hold, compared without regard to order: how many records of which offsets, with which values.
//!
//! Sums of hashes: the same records give the same sums in whatever order they come, and one more, one less or another one does not.
//! Made to be compared in one process, never kept.

use std::hash::{DefaultHasher, Hash, Hasher};

use wire::Offset;

use crate::key::Range;

/// Records of one partition within a range of offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Digest {
    /// Which are counted; none if nothing is to be compared.
    pub(crate) within: Option<Range>,
    pub(crate) records: u64,
    offsets: u64,
    /// Nothing once a record came whose value is not known as it was.
    values: Option<u64>,
}

impl Digest {
    pub(crate) fn new(within: Option<Range>) -> Self {
        Self { within, records: 0, offsets: 0, values: Some(0) }
    }

    /// Values are not compared.
    pub(crate) fn leave_values_out(&mut self) {
        self.values = None;
    }

    /// Adds a record; `value` is nothing where it is not known, and `Some(None)` for a tombstone.
    pub(crate) fn add(&mut self, offset: Offset, value: Option<Option<&[u8]>>) {
        if !self.within.is_some_and(|within| (within.start..within.end).contains(&offset)) {
            return;
        }
        self.records += 1;
        self.offsets = self.offsets.wrapping_add(hash(offset.0));
        self.values = self.values.zip(value).map(|(sum, value)| sum.wrapping_add(hash((offset.0, value))));
    }

    /// What is not the same in both, if anything is.
    pub(crate) fn difference(&self, other: &Self) -> Option<&'static str> {
        if self.records != other.records {
            return Some("their numbers");
        }
        if self.offsets != other.offsets {
            return Some("their offsets");
        }
        match (self.values, other.values) {
            (Some(one), Some(other)) if one != other => Some("their values"),
            _ => None,
        }
    }
}

fn hash(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(records: &[(i64, Option<Option<&[u8]>>)]) -> Digest {
        let mut digest = Digest::new(Some(Range::new(Offset(0), Offset(10))));
        records.iter().for_each(|(offset, value)| digest.add(Offset(*offset), *value));
        digest
    }

    #[test]
    fn the_same_records_in_another_order_are_the_same_and_anything_else_is_not() {
        let (a, b, tombstone) = (Some(Some(&b"a"[..])), Some(Some(&b"b"[..])), Some(None));
        let all = digest(&[(1, a), (2, b), (3, tombstone)]);
        assert_eq!(all.difference(&digest(&[(3, tombstone), (12, a), (1, a), (2, b)])), None);
        assert_eq!(all.difference(&digest(&[(1, a), (2, b)])), Some("their numbers"));
        assert_eq!(all.difference(&digest(&[(1, a), (2, b), (2, b)])), Some("their offsets"));
        assert_eq!(all.difference(&digest(&[(1, b), (2, a), (3, tombstone)])), Some("their values"));
        // Where one does not know its values, offsets are compared.
        assert_eq!(all.difference(&digest(&[(1, None), (2, None), (3, None)])), None);
    }
}
