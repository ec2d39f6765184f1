//! Where settings come from before a broker runs, in the order in which the later wins: what the program itself sets, the
//! properties file, the environment, `--set`.
//! Every value keeps its origin, so that a refusal can point at the line to change. Nothing is judged here.

use std::fmt;
use std::path::{Path, PathBuf};

use super::Problem;
use super::properties;

/// The origin of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The command that was run implies it (`ottla dev`).
    Program,
    /// A line of a properties file.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// A variable of the environment.
    Environment(String),
    /// `--set key=value`.
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Program => write!(f, "preset"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Environment(variable) => write!(f, "environment {variable}"),
            Origin::CommandLine => write!(f, "--set"),
        }
    }
}

/// A key and value as somebody wrote them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) origin: Origin,
}

/// Everything that was given, lowest precedence first.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    pub(super) program: Vec<Given>,
    pub(super) file: Vec<Given>,
    pub(super) environment: Vec<Given>,
    pub(super) command_line: Vec<Given>,
    pub(super) problems: Vec<Problem>,
}

/// Variables of Kafka's container images that are not settings.
const NOT_SETTINGS: &[&str] = &[
    "KAFKA_ADVERTISED_HOST_NAME",
    "KAFKA_GC_LOG_OPTS",
    "KAFKA_HEAP_OPTS",
    "KAFKA_HOME",
    "KAFKA_JMX_HOSTNAME",
    "KAFKA_JMX_OPTS",
    "KAFKA_JMX_PORT",
    "KAFKA_JVM_PERFORMANCE_OPTS",
    "KAFKA_LOG4J_LOGGERS",
    "KAFKA_LOG4J_OPTS",
    "KAFKA_LOG4J_ROOT_LOGLEVEL",
    "KAFKA_OPTS",
    "KAFKA_TOOLS_LOG4J_LOGLEVEL",
    "KAFKA_VERSION",
];

impl Sources {
    /// No sources: defaults only.
    #[must_use]
    pub fn new() -> Sources {
        Sources::default()
    }

    /// A value that the command being run implies; everything else wins over it.
    #[must_use]
    pub fn preset(mut self, key: &str, value: impl Into<String>) -> Sources {
        self.program.push(Given { key: key.to_owned(), value: value.into(), origin: Origin::Program });
        self
    }

    /// The text of a properties file; `path` only names it in messages.
    #[must_use]
    pub fn properties(mut self, path: &Path, text: &str) -> Sources {
        match properties::parse(text) {
            Ok(all) => self.file.extend(all.into_iter().map(|property| Given {
                key: property.key,
                value: property.value,
                origin: Origin::File { path: path.to_owned(), line: property.line },
            })),
            Err(error) => {
                self.problems.push(Problem::Unreadable { path: path.to_owned(), reason: error.to_string() })
            }
        }
        self
    }

    /// Reads a properties file.
    #[must_use]
    pub fn properties_file(mut self, path: &Path) -> Sources {
        match std::fs::read_to_string(path) {
            Ok(text) => self.properties(path, &text),
            Err(error) => {
                self.problems.push(Problem::Unreadable { path: path.to_owned(), reason: error.to_string() });
                self
            }
        }
    }

    /// Variables as Kafka's container image reads them: `KAFKA_` is cut off, `_` stands for `.`, `__` for `_`, `___` for
    /// `-`, and `CLUSTER_ID` is the cluster's identity.
    #[must_use]
    pub fn environment(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Sources {
        let mut found: Vec<Given> = Vec::new();
        for (variable, value) in variables {
            let Some(key) = key_of_variable(&variable) else { continue };
            found.push(Given { key, value, origin: Origin::Environment(variable) });
        }
        // The environment has no order of its own; messages should have one.
        found.sort_by(|a, b| a.key.cmp(&b.key));
        self.environment.extend(found);
        self
    }

    /// One `key=value` from the command line.
    #[must_use]
    pub fn set(mut self, assignment: &str) -> Sources {
        match assignment.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                let (key, value) = (key.trim().to_owned(), value.to_owned());
                self.command_line.push(Given { key, value, origin: Origin::CommandLine });
            }
            _ => self.problems.push(Problem::NotAnAssignment(assignment.to_owned())),
        }
        self
    }
}

fn key_of_variable(variable: &str) -> Option<String> {
    if variable == "CLUSTER_ID" {
        return Some("cluster.id".to_owned());
    }
    let name = variable.strip_prefix("KAFKA_").filter(|name| !name.is_empty())?;
    if NOT_SETTINGS.contains(&variable) {
        return None;
    }
    // Through a letter that no key has, because the shorter patterns are part of the longer ones.
    let name =
        name.to_lowercase().replace("___", "-").replace("__", "\0").replace('_', ".").replace('\0', "_");
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_map_as_kafkas_container_image_maps_them() {
        let check = |variable: &str, key: Option<&str>| {
            assert_eq!(key_of_variable(variable).as_deref(), key, "{variable}")
        };
        check("KAFKA_LOG_DIRS", Some("log.dirs"));
        check("KAFKA_AUTO_CREATE_TOPICS_ENABLE", Some("auto.create.topics.enable"));
        check("KAFKA_A__B___C_D", Some("a_b-c.d"));
        check("CLUSTER_ID", Some("cluster.id"));
        check("KAFKA_HEAP_OPTS", None);
        check("KAFKA_JMX_PORT", None);
        check("KAFKA_", None);
        check("PATH", None);
        check("kafka_log_dirs", None);
    }
}
