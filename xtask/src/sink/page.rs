//! The walk-through of docs/sink.md: its section's indented blocks, from top to bottom. A block behind a line that ends with the name of a
//! file, as `` `sink.toml`: ``, is that file; every other one is commands, a line each, and their comments say what is to be seen.

/// The section's headline.
const HEADLINE: &str = "## A first table";
const INDENT: &str = "    ";
/// Of a command that goes on beside those behind it.
const STAYS: &str = "leave it running";
/// What a command prints, as a whole, if its comment says so.
const PRINTS: &str = "prints ";

/// One step, in the page's order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    File { name: String, text: String },
    Command(Command),
}

/// A line for the shell.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Command {
    /// Its line in the page.
    pub(super) line: usize,
    pub(super) text: String,
    pub(super) stays: bool,
    pub(super) prints: Option<String>,
}

/// The steps of the section.
pub(super) fn parse(page: &str) -> Result<Vec<Step>, String> {
    let mut lines = page.lines().enumerate().map(|(at, line)| (at + 1, line));
    if !lines.any(|(_, line)| line == HEADLINE) {
        return Err(format!("there is no section {HEADLINE:?}"));
    }
    let section: Vec<(usize, &str)> = lines.take_while(|(_, line)| !line.starts_with("## ")).collect();
    let mut steps = Vec::new();
    // The last line of prose, and the file whose block this is.
    let (mut prose, mut file): (&str, Option<(String, String)>) = ("", None);
    for (number, line) in section {
        let Some(text) = line.strip_prefix(INDENT) else {
            match (&mut file, line.is_empty()) {
                (Some((_, text)), true) => text.push('\n'),
                (None, true) => {}
                (_, false) => {
                    steps.extend(file.take().map(step));
                    prose = line;
                }
            }
            continue;
        };
        let named = prose.strip_prefix('`').and_then(|prose| prose.strip_suffix("`:"));
        match named {
            Some(name) => {
                let (_, written) = file.get_or_insert_with(|| (name.to_owned(), String::new()));
                written.push_str(text);
                written.push('\n');
            }
            None => steps.push(Step::Command(command(number, text))),
        }
    }
    steps.extend(file.take().map(step));
    Ok(steps)
}

fn step((name, text): (String, String)) -> Step {
    Step::File { name, text: text.trim_end().to_owned() + "\n" }
}

fn command(line: usize, text: &str) -> Command {
    let (text, comment) = text.rsplit_once(" # ").unwrap_or((text, ""));
    Command {
        line,
        text: text.trim_end().to_owned(),
        stays: comment.contains(STAYS),
        prints: comment.trim_start().strip_prefix(PRINTS).map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::{Command, Step, parse};

    #[test]
    fn blocks_are_commands_and_the_files_that_are_named_before_them() {
        let page = "## Other\n\n    not this\n\n## A first table\n\n    a serve   # leave it running\n\nThen\n\n    echo '#'\n    \
                    echo 1  # prints 1\n\n`a.toml`:\n\n    [a]\n\n    [b]\n\nThen\n\n    b\n\n## Next\n\n    nor this\n";
        let command = |line, text: &str, stays, prints: Option<&str>| {
            Step::Command(Command { line, text: text.to_owned(), stays, prints: prints.map(str::to_owned) })
        };
        let expected = [
            command(7, "a serve", true, None),
            command(11, "echo '#'", false, None),
            command(12, "echo 1", false, Some("1")),
            Step::File { name: "a.toml".to_owned(), text: "[a]\n\n[b]\n".to_owned() },
            command(22, "b", false, None),
        ];
        assert_eq!(parse(page).unwrap(), expected);
        assert!(parse("## Next\n").is_err());
    }
}
