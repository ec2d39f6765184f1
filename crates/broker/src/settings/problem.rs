//! What can be wrong with the settings a broker is started with, and what is only worth a notice.
//! A refusal names key, value, origin and what is allowed; all of them are reported at once, because nobody wants to
//! learn of the second mistake after mending the first. Secrets never appear.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

use super::row::Setting;
use super::sources::Origin;
use super::value::Violation;

/// Exit code of a start that the settings refuse.
pub const EXIT_CODE: u8 = 2;

/// One reason why a broker does not start.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum Problem {
    /// A file could not be read or is not properties syntax.
    #[error("{}: {reason}", path.display())]
    #[allow(missing_docs)]
    Unreadable { path: PathBuf, reason: String },
    /// `--set` without key or value.
    #[error("--set {0}: expected key=value")]
    NotAnAssignment(String),
    /// No such key in Ottla or Kafka.
    #[error("{origin}: unknown setting {key} (value {value:?}){}", suggestion(*.nearest))]
    #[allow(missing_docs)]
    Unknown { key: String, value: String, origin: Origin, nearest: Option<&'static str> },
    /// Not a value of the setting.
    #[error("{origin}: {key} = {value:?}: {violation}; allowed: {allowed}")]
    #[allow(missing_docs)]
    Invalid { key: &'static str, value: String, origin: Origin, violation: Violation, allowed: String },
    /// A key of Kafka whose loss would change what its writer relies on.
    #[error("{origin}: {key} = {value:?} cannot be honoured: {reason}; allowed: {allowed}")]
    #[allow(missing_docs)]
    Refused { key: String, value: String, origin: Origin, reason: &'static str, allowed: String },
    /// Values that are fine alone and not together, or a value whose inner form is wrong.
    #[error("{key} = {value:?}: {reason}")]
    #[allow(missing_docs)]
    Conflict { key: &'static str, value: String, reason: String },
    /// A setting without which there is no broker.
    #[error("{key} is missing: {reason}")]
    #[allow(missing_docs)]
    Missing { key: &'static str, reason: &'static str },
}

impl Problem {
    pub(super) fn invalid(
        row: &'static Setting,
        value: &str,
        origin: &Origin,
        violation: Violation,
    ) -> Problem {
        Problem::Invalid {
            key: row.key,
            value: shown(row, value),
            origin: origin.clone(),
            violation,
            allowed: allowed(row),
        }
    }
}

/// Everything that is wrong, at least one problem.
#[derive(Debug, Clone, PartialEq, Error)]
pub struct SettingsError {
    /// In the order of the sources, then the checks between settings.
    pub problems: Vec<Problem>,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the settings are not valid:")?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

/// Something that was given and does not do what its writer may expect; logged at start, refuses nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A key of Kafka that Ottla has no use for.
    #[allow(missing_docs)]
    NoEffect { key: String, origin: Origin, reason: &'static str },
    /// A setting that is checked and described, but belongs to a part that does not exist yet.
    #[allow(missing_docs)]
    Awaits { key: &'static str, origin: Origin, part: &'static str },
    /// A variable that looks like a setting and is none (Kubernetes makes some of these by itself).
    #[allow(missing_docs)]
    UnknownVariable { variable: String, nearest: Option<&'static str> },
    /// A key that one source gives twice.
    #[allow(missing_docs)]
    Overridden { key: &'static str, origin: Origin, by: Origin },
    /// A dynamic value in the cluster's metadata that this version cannot read; the value below it is used.
    #[allow(missing_docs)]
    Unreadable { key: String, reason: String },
    /// A listener that is named in `controller.listener.names`.
    #[allow(missing_docs)]
    ControllerListener { name: String },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::NoEffect { key, origin, reason } => {
                write!(f, "{origin}: {key} has no effect here: {reason}")
            }
            Notice::Awaits { key, origin, part } => {
                write!(f, "{origin}: {key} has no effect yet: {part} is not available in this version")
            }
            Notice::UnknownVariable { variable, nearest } => {
                write!(f, "environment {variable} names no setting{}", suggestion(*nearest))
            }
            Notice::Overridden { key, origin, by } => {
                write!(f, "{origin}: {key} is given again at {by}, which wins")
            }
            Notice::Unreadable { key, reason } => write!(f, "stored value of {key} is ignored: {reason}"),
            Notice::ControllerListener { name } => {
                write!(f, "listener {name} is not opened: the controller uses the broker listener")
            }
        }
    }
}

/// A value as messages may show it.
pub(super) fn shown(row: &Setting, value: &str) -> String {
    if row.is_sensitive() { "[hidden]".to_owned() } else { value.to_owned() }
}

/// What is allowed, in words.
pub(super) fn allowed(row: &Setting) -> String {
    match (row.kind, row.allowed) {
        (super::row::Kind::Boolean, _) => "true, false".to_owned(),
        (kind, super::row::Allowed::Any) => format!("any {}", kind.name().to_lowercase()),
        (kind, bounds) => format!("{} {bounds}", kind.name().to_lowercase()),
    }
}

fn suggestion(nearest: Option<&'static str>) -> String {
    nearest.map(|key| format!("; did you mean {key}?")).unwrap_or_default()
}
