//! What is wrong with a value, and where in it.
//!
//! The place is put together on the way out, from within: what goes well pays nothing for it. It is written as for JSON:
//! `address.street`, `tags[3]`, `counts["b"]`.

use crate::columns::Unconvertible;

/// A problem within a value, or within a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    at: String,
    problem: String,
}

impl Fault {
    pub(crate) fn new(problem: impl Into<String>) -> Self {
        Self { at: String::new(), problem: problem.into() }
    }

    pub(crate) fn in_field(self, name: &str) -> Self {
        let at = match self.at.as_str() {
            "" => name.to_owned(),
            within if within.starts_with('[') => format!("{name}{within}"),
            within => format!("{name}.{within}"),
        };
        Self { at, ..self }
    }

    pub(crate) fn at_index(self, index: usize) -> Self {
        self.behind(&format!("[{index}]"))
    }

    pub(crate) fn at_key(self, key: &str) -> Self {
        self.behind(&format!("[{key:?}]"))
    }

    /// Of whichever item of a list or value of a map.
    pub(crate) fn in_items(self) -> Self {
        self.behind("[]")
    }

    fn behind(self, part: &str) -> Self {
        let at = match self.at.as_str() {
            within if within.is_empty() || within.starts_with('[') => format!("{part}{within}"),
            within => format!("{part}.{within}"),
        };
        Self { at, ..self }
    }

    /// In a sentence.
    pub(crate) fn told(&self) -> String {
        match self.at.as_str() {
            "" => self.problem.clone(),
            at => format!("field {at}: {}", self.problem),
        }
    }
}

impl From<Fault> for Unconvertible {
    fn from(Fault { at, problem }: Fault) -> Self {
        Self { field: (!at.is_empty()).then_some(at), problem }
    }
}
