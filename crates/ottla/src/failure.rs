//! How a command fails: what is said and which exit code it has.
//!
//! Said once, here, on the standard error; nothing below prints an error itself.

use std::io;
use std::process::ExitCode;

use client::Error;

/// A command's failure.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Used or configured wrongly: exit code 2.
    Usage { message: String, advice: Option<String> },
    /// It could not be done: exit code 1.
    Failed { message: String, advice: Option<String> },
    /// Some of it could not be done, and the output says what: exit code 1.
    Reported,
    /// Whoever read the output has gone, as `head` does: nothing to say.
    NobodyReads,
}

impl Failure {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), advice: None }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::Failed { message: message.into(), advice: None }
    }

    /// The same with another next step, which knows more about what was tried.
    pub(crate) fn with_advice(self, advice: impl Into<String>) -> Self {
        let advice = Some(advice.into());
        match self {
            Self::Usage { message, .. } => Self::Usage { message, advice },
            Self::Failed { message, .. } => Self::Failed { message, advice },
            other @ (Self::Reported | Self::NobodyReads) => other,
        }
    }

    /// Says it, and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        let (code, message, advice) = match self {
            Self::Usage { message, advice } => (2, message, advice),
            Self::Failed { message, advice } => (1, message, advice),
            Self::Reported => return ExitCode::from(1),
            Self::NobodyReads => return ExitCode::SUCCESS,
        };
        eprintln!("error: {message}");
        if let Some(advice) = advice {
            eprintln!("  tip: {advice}");
        }
        ExitCode::from(code)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (message, advice) = (error.to_string(), error.advice().map(str::to_owned));
        match error {
            Error::Option { .. } => Self::Usage { message, advice },
            _ => Self::Failed { message, advice },
        }
    }
}

/// For writing to the standard output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::NobodyReads,
            _ => Self::failed(format!("cannot write the output: {error}")),
        }
    }
}
