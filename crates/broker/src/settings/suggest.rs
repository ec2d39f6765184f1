//! Finds the known key that somebody may have meant.

/// The known key nearest to `typed`, if it is near enough to be a slip.
pub(super) fn nearest<'a>(typed: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let slips_max = (typed.chars().count() / 4).clamp(1, 3);
    let near = known.map(|key| (distance(typed, key), key)).filter(|(slips, _)| *slips <= slips_max);
    near.min_by_key(|(slips, _)| *slips).map(|(_, key)| key)
}

/// Characters to insert, delete, replace or swap with their neighbour to turn one text into the other.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().map(fold).collect();
    let b: Vec<char> = b.chars().map(fold).collect();
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

/// Case and the choice of `.`, `_` or `-` are not what a slip is about.
fn fold(c: char) -> char {
    match c {
        '_' | '-' => '.',
        c => c.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_key_and_a_stranger_finds_none() {
        let known = ["num.partitions", "log.dirs", "log.dir", "retention.ms"];
        let nearest = |typed| nearest(typed, known.into_iter());
        assert_eq!(nearest("num.partition"), Some("num.partitions"));
        assert_eq!(nearest("num_partitions"), Some("num.partitions"));
        assert_eq!(nearest("log.drisx"), Some("log.dirs"));
        assert_eq!(nearest("retenton.ms"), Some("retention.ms"));
        assert_eq!(nearest("RETENTION.MS"), Some("retention.ms"));
        assert_eq!(nearest("quantum.flux"), None);
        assert_eq!(nearest(""), None);
    }
}
