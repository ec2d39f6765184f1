//! Log lines: text for people, JSON for machines, one event per line on standard error.
//! Standard output belongs to what a command prints. Nothing else in the workspace configures logging.

use std::io::IsTerminal;
use std::str::FromStr;

use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// How an event is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Time, level, message and fields for people, coloured on a terminal.
    #[default]
    Text,
    /// One JSON object per event: `timestamp`, `level`, `target`, `message` and the event's fields.
    Json,
}

impl LogFormat {
    /// As it is written on a command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
    }
}

impl FromStr for LogFormat {
    type Err = LoggingError;

    fn from_str(text: &str) -> Result<LogFormat, LoggingError> {
        match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            other => Err(LoggingError::Format(other.to_owned())),
        }
    }
}

/// Why logging could not be set up.
#[derive(Debug, Error)]
pub enum LoggingError {
    /// Not a format.
    #[error("{0:?} is not a log format; allowed: text, json")]
    Format(String),
    /// Not a filter.
    #[error("{filter:?} is not a log filter, such as info or broker=debug,info: {reason}")]
    Filter {
        /// As it was given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Logging is set up already.
    #[error(transparent)]
    Twice(#[from] TryInitError),
}

/// Sends the events that pass `filter` (`info`, or `broker=debug,info`) to standard error.
///
/// # Errors
/// When the filter cannot be read, or logging was set up before.
pub fn init(format: LogFormat, filter: &str) -> Result<(), LoggingError> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| LoggingError::Filter { filter: filter.to_owned(), reason: error.to_string() })?;
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            registry.with(lines.with_target(false).with_ansi(std::io::stderr().is_terminal())).try_init()?
        }
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init()?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_and_filters_are_checked() {
        assert_eq!("json".parse::<LogFormat>().unwrap(), LogFormat::Json);
        assert!("yaml".parse::<LogFormat>().unwrap_err().to_string().contains("allowed: text, json"));
        assert!(init(LogFormat::Text, "broker=loud").is_err());
    }
}
