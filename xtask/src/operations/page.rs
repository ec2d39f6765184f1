//! The page as steps: its fenced blocks and test comments, in their order. What is not understood is an error, so that no
//! command of the page can be left out by a slip of the pen.

use std::collections::BTreeSet;

/// The page.
#[derive(Debug)]
pub(super) struct Page {
    /// Each with the number of its first line.
    pub(super) steps: Vec<(usize, Step)>,
    /// Metrics that are named anywhere.
    pub(super) metrics: BTreeSet<String>,
}

/// One thing to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A file of settings; with a base, those of another machine with these in their place.
    File {
        machine: String,
        path: String,
        base: Option<String>,
        lines: Vec<String>,
    },
    /// Commands, all of them on each machine in turn; `None` is anywhere.
    Commands {
        on: Vec<Option<String>>,
        commands: Vec<Command>,
    },
    Test(Directive),
}

/// A line of a block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) text: String,
    pub(super) exit_code: i32,
}

/// What a reader is not to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Directive {
    /// kill -9.
    Kill(String),
    EmptyDisk(String),
    /// Every metric of the page is to be shown there.
    Metrics(String),
}

const EXIT_CODE: &str = "# exit code ";

impl Page {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut steps = Vec::new();
        let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
        while let Some((number, line)) = lines.next() {
            let at = |reason: String| format!("line {number}: {reason}");
            if let Some(language) = line.strip_prefix("```") {
                let block: Vec<&str> = lines
                    .by_ref()
                    .map(|(_, line)| line)
                    .take_while(|line| !line.starts_with("```"))
                    .collect();
                match language {
                    "properties" => steps.push((number, file(&block).map_err(at)?)),
                    "sh" => steps.push((number, commands(&block).map_err(at)?)),
                    "text" => {}
                    other => return Err(at(format!("a block of {other:?}"))),
                }
            } else if let Some(comment) = line.strip_prefix("<!-- test: ") {
                let directive = comment.strip_suffix(" -->").and_then(directive);
                let directive = directive.ok_or_else(|| at(format!("not understood: {line}")))?;
                steps.push((number, Step::Test(directive)));
            }
        }
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let metrics = words.filter(|word| word.starts_with("ottla_")).map(str::to_owned).collect();
        Ok(Page { steps, metrics })
    }

    /// All machines that have a file.
    pub(super) fn machines(&self) -> BTreeSet<String> {
        let named = |(_, step): &(usize, Step)| match step {
            Step::File { machine, .. } => Some(machine.clone()),
            Step::Commands { .. } | Step::Test(_) => None,
        };
        self.steps.iter().filter_map(named).collect()
    }
}

/// `# PATH on MACHINE`, or `# PATH on MACHINE: as on OTHER, but`, and lines.
fn file(block: &[&str]) -> Result<Step, String> {
    let (heading, lines) = block.split_first().ok_or("an empty block")?;
    let parsed = heading.strip_prefix("# ").and_then(|heading| heading.split_once(" on "));
    let (path, machine) = parsed.ok_or_else(|| format!("no file is named in {heading:?}"))?;
    let (machine, base) = match machine.split_once(": as on ") {
        Some((machine, base)) => {
            let base = base.strip_suffix(", but").ok_or_else(|| format!("no machine in {heading:?}"))?;
            (machine, Some(base.to_owned()))
        }
        None => (machine, None),
    };
    let lines = lines.iter().map(|line| (*line).to_owned()).collect();
    Ok(Step::File { machine: machine.to_owned(), path: path.to_owned(), base, lines })
}

/// `# on MACHINE, MACHINE and MACHINE`, with or without `then`, and commands.
fn commands(block: &[&str]) -> Result<Step, String> {
    let (on, rest) = match block.split_first() {
        Some((heading, rest)) if heading.starts_with("# on ") => {
            let words = heading.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
            let named = words.filter(|word| !matches!(*word, "" | "on" | "and" | "then"));
            (named.map(|machine| Some(machine.to_owned())).collect(), rest)
        }
        _ => (vec![None], block),
    };
    let commands = rest.iter().filter(|line| !line.is_empty()).map(|line| {
        let (text, exit_code) = match line.split_once(EXIT_CODE) {
            Some((text, code)) => (text, code.parse().map_err(|_| format!("no exit code in {line:?}"))?),
            None => (*line, 0),
        };
        Ok(Command { text: text.trim().to_owned(), exit_code })
    });
    Ok(Step::Commands { on, commands: commands.collect::<Result<_, String>>()? })
}

fn directive(text: &str) -> Option<Directive> {
    if let Some(machine) = text.strip_prefix("kill ") {
        return Some(Directive::Kill(machine.to_owned()));
    }
    if let Some(machine) = text.strip_prefix("empty the disk of ") {
        return Some(Directive::EmptyDisk(machine.to_owned()));
    }
    text.strip_prefix("metrics of ").map(|machine| Directive::Metrics(machine.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(text: &str) -> Vec<Step> {
        Page::parse(text).unwrap().steps.into_iter().map(|(_, step)| step).collect()
    }

    #[test]
    fn blocks_name_their_machines() {
        let on = |text: &str| match steps(&format!("```sh\n{text}\ntrue\n```\n")).remove(0) {
            Step::Commands { on, .. } => on.into_iter().flatten().collect::<Vec<_>>(),
            step => panic!("{step:?}"),
        };
        assert_eq!(on("# on kafka-1, kafka-2 and kafka-3"), ["kafka-1", "kafka-2", "kafka-3"]);
        assert_eq!(on("# on kafka-1, then on kafka-2"), ["kafka-1", "kafka-2"]);
        assert_eq!(on("echo"), Vec::<String>::new());
    }

    #[test]
    fn a_file_may_stand_on_another() {
        let text = "```properties\n# /etc/a on two: as on one, but\nnode.id=2\n```\n";
        let expected = Step::File {
            machine: "two".to_owned(),
            path: "/etc/a".to_owned(),
            base: Some("one".to_owned()),
            lines: vec!["node.id=2".to_owned()],
        };
        assert_eq!(steps(text), [expected]);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        assert!(Page::parse("```bash\ntrue\n```\n").is_err());
        assert!(Page::parse("<!-- test: pray -->\n").is_err());
        let failing = "```sh\nfalse # exit code 1\n```\n<!-- test: kill two -->\n";
        let commands = vec![Command { text: "false".to_owned(), exit_code: 1 }];
        let expected =
            [Step::Commands { on: vec![None], commands }, Step::Test(Directive::Kill("two".to_owned()))];
        assert_eq!(steps(failing), expected);
    }
}
