//! What a position is a position of.

use std::fmt;
use std::str::FromStr;

use wire::{TopicPartition, Uuid};

/// The name under which a reader keeps its positions, of letters, digits, `.`, `_` and `-`: it becomes a part of keys.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReaderName(String);

impl ReaderName {
    /// As long as a topic's name may be.
    pub const LEN_MAX: usize = 249;

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ReaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for ReaderName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        match text {
            "" => Err("a reader needs a name".to_owned()),
            _ if text.len() > Self::LEN_MAX => Err(format!(
                "a reader's name has at most {} characters, this one {}",
                Self::LEN_MAX,
                text.len()
            )),
            _ if !text.chars().all(is_allowed) => {
                Err(format!("{text:?} is no name of a reader: letters, digits, '.', '_' and '-' are allowed"))
            }
            _ => Ok(Self(text.to_owned())),
        }
    }
}

/// Whose position it is, in which partition of which cluster.
///
/// The topic's id is a part of it: a topic that was deleted and created again under its name is another one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// Who reads.
    pub reader: ReaderName,
    /// The cluster, as its brokers say.
    pub cluster_id: String,
    /// The partition, by its topic's name.
    pub partition: TopicPartition,
    /// The topic itself.
    pub topic_id: Uuid,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of reader {}", self.partition, self.reader)
    }
}

#[cfg(test)]
mod tests {
    use super::ReaderName;

    #[test]
    fn a_readers_name_is_safe_inside_a_key() {
        let told =
            |text: &str| text.parse::<ReaderName>().map_or_else(|problem| problem, |name| name.to_string());
        assert_eq!(told("billing-v2.eu"), "billing-v2.eu");
        assert_eq!(told(""), "a reader needs a name");
        assert_eq!(
            told("a:b"),
            "\"a:b\" is no name of a reader: letters, digits, '.', '_' and '-' are allowed"
        );
        assert_eq!(told(&"x".repeat(300)), "a reader's name has at most 249 characters, this one 300");
    }
}
