//! What came of it: each sink is brought to the end, asked by `ottla sink verify`, and counted by DuckDB and librdkafka against what the
//! producer was told.

use super::instance::Program;
use super::world::Sink;
use crate::shell;
use crate::table::{Side, Table};
use crate::toolbox::Toolbox;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// What judging takes.
pub(super) struct Court<'a> {
    pub(super) toolbox: &'a Toolbox,
    pub(super) program: &'a Program,
    pub(super) bootstrap: String,
    pub(super) acknowledged: &'a Path,
    pub(super) home: &'a Path,
    /// All has to be done by then.
    pub(super) deadline: Instant,
}

/// What one who has counted says.
#[derive(Clone, Debug)]
struct Count {
    by: &'static str,
    /// Everything that is there, and what of it nobody has acknowledged; `verify` does not tell.
    held: Option<(u64, u64)>,
    missing: u64,
    double: u64,
    /// Some of what is wrong.
    examples: Vec<String>,
}

/// Judges all sinks side by side, prints what was counted, and says what is wrong.
pub(super) fn judge(court: &Court<'_>, sinks: &[Sink], acknowledged: u64) -> Result<Vec<String>, String> {
    let judged: Vec<Result<Vec<Count>, String>> = std::thread::scope(|scope| {
        let judges: Vec<_> = sinks.iter().map(|sink| scope.spawn(|| court.counts(sink))).collect();
        judges.into_iter().map(|judge| judge.join().expect("no judge panics")).collect()
    });
    let mut table = Table::new(&[
        ("sink", Side::Left),
        ("counted by", Side::Left),
        ("acknowledged", Side::Right),
        ("there", Side::Right),
        ("unknown", Side::Right),
        ("missing", Side::Right),
        ("double", Side::Right),
    ]);
    let mut wrong = Vec::new();
    for (sink, counts) in sinks.iter().zip(judged) {
        let counts = match counts {
            Ok(counts) => counts,
            Err(reason) => {
                wrong.push(format!("{}: {reason}", sink.name));
                continue;
            }
        };
        for count in counts {
            let (there, unknown) = match count.held {
                Some((there, unknown)) => (there.to_string(), unknown.to_string()),
                None => ("-".to_owned(), "-".to_owned()),
            };
            if count.missing > 0 || count.double > 0 {
                let Count { by, missing, double, examples, .. } = &count;
                wrong.push(format!(
                    "{}, {by}: {missing} missing, {double} double\n{}",
                    sink.name,
                    examples.join("\n")
                ));
            }
            table.row(vec![
                sink.name.to_owned(),
                count.by.to_owned(),
                acknowledged.to_string(),
                there,
                unknown,
                count.missing.to_string(),
                count.double.to_string(),
            ]);
        }
    }
    table.print();
    Ok(wrong)
}

impl Court<'_> {
    fn counts(&self, sink: &Sink) -> Result<Vec<Count>, String> {
        let mut run = self.program.run(&sink.config, "a");
        self.said(run.arg("--until-end"), sink, "until-end", &[0])?;
        let verified =
            self.said(&mut self.program.command("verify", &sink.config), sink, "verify", &[0, 1])?;
        let mut table = self.count();
        table.arg("--table").arg(&sink.table);
        let mut topic = self.count();
        topic.args(["--bootstrap", &self.bootstrap, "--topic", &sink.output]);
        topic.args(["--line", &format!("{}.nearline", sink.name)]);
        Ok(vec![
            counted("the table, by DuckDB", &self.said(&mut table, sink, "table", &[0])?)?,
            counted("the topic, by librdkafka", &self.said(&mut topic, sink, "topic", &[0])?)?,
            verdict(&verified)?,
        ])
    }

    fn count(&self) -> Command {
        let mut count = self.toolbox.python_program("sink_count.py");
        count.arg("--acknowledged").arg(self.acknowledged);
        count
    }

    /// Runs it to its end, which has to come in time and with one of these codes; what it has said.
    fn said(&self, command: &mut Command, sink: &Sink, what: &str, codes: &[i32]) -> Result<String, String> {
        let name = format!("{}-{what}", sink.name);
        let (path, log) = (self.home.join(format!("{name}.said")), self.home.join(format!("{name}.log")));
        let said = File::create(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(said)
            .stderr(shell::append(&log)?)
            .spawn()
            .map_err(|error| format!("cannot run {}: {error}", shell::words(command)))?;
        let status = super::ended(&mut child, self.deadline, &name)?;
        if !status.code().is_some_and(|code| codes.contains(&code)) {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let last = text.lines().last().unwrap_or_default();
            return Err(format!("{}: {status}: {last}; see {}", shell::words(command), log.display()));
        }
        fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// The figures of sink_count.py: `read places numbers unacknowledged missing double`, behind its examples.
fn counted(by: &'static str, said: &str) -> Result<Count, String> {
    let mut lines: Vec<&str> = said.lines().collect();
    let figures = lines.pop().unwrap_or_default();
    let numbers: Result<Vec<u64>, _> = figures.split_whitespace().map(str::parse).collect();
    match numbers.as_deref() {
        Ok(&[there, _places, _numbers, unknown, missing, double]) => Ok(Count {
            by,
            held: Some((there, unknown)),
            missing,
            double,
            examples: lines.iter().map(|line| format!("    {line}")).collect(),
        }),
        _ => Err(format!("{by}: six figures were expected, and not {figures:?}")),
    }
}

/// The last line of `ottla sink verify`: `0 missing, 0 double`.
fn verdict(said: &str) -> Result<Count, String> {
    let last = said.lines().last().unwrap_or_default();
    let figures = last.strip_suffix(" double").and_then(|last| last.split_once(" missing, "));
    let figures = figures.and_then(|(missing, double)| Some((missing.parse().ok()?, double.parse().ok()?)));
    let (missing, double) = figures.ok_or_else(|| format!("ottla sink verify said {last:?}"))?;
    let examples = said.lines().map(|line| format!("    {line}")).collect();
    Ok(Count { by: "ottla sink verify", held: None, missing, double, examples })
}

#[cfg(test)]
mod tests {
    use super::{counted, verdict};

    #[test]
    fn figures_are_the_last_line_and_what_is_before_them_says_why() {
        let count = counted("x", "missing: a\n5 5 5 1 2 0\n").unwrap();
        assert_eq!((count.held, count.missing, count.double), (Some((5, 1)), 2, 0));
        assert_eq!(count.examples, ["    missing: a"]);
        assert!(counted("x", "Traceback\n").is_err());
        let count = verdict("LINE\nx\n3 missing, 4 double\n").unwrap();
        assert_eq!((count.missing, count.double), (3, 4));
        assert!(verdict("").is_err());
    }
}
