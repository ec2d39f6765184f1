//! The reference page of all commands, `docs/cli.md`, printed from the grammar itself.

use std::fmt::Write;

use clap::{Command, CommandFactory};

use crate::cli::Cli;
use crate::failure::Failure;
use crate::output;

/// Terminal columns that help texts are wrapped to, whatever terminal they are printed from.
const WIDTH: usize = 100;

/// `ottla markdown-help`.
pub(crate) fn run() -> Result<(), Failure> {
    output::print(&page())
}

fn page() -> String {
    let mut root = Cli::command().term_width(WIDTH);
    root.build();
    let mut page = String::from(
        "# Commands\n\nPrinted by `ottla markdown-help` from the same grammar that parses; a test compares.\n",
    );
    section(&root, &mut page);
    page
}

fn section(command: &Command, page: &mut String) {
    let name = command.get_bin_name().unwrap_or(command.get_name());
    let help = command.clone().term_width(WIDTH).render_long_help().to_string();
    let help: String = help.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    // Writing to a string cannot fail.
    let _ = write!(page, "\n## {name}\n\n```text\n{}\n```\n", help.trim_end());
    command.get_subcommands().filter(|sub| !sub.is_hide_set()).for_each(|sub| section(sub, page));
}

#[cfg(test)]
mod tests {
    use expect_test::expect_file;

    #[test]
    fn the_page_in_the_documents_is_what_the_grammar_says() {
        expect_file!["../../../docs/cli.md"].assert_eq(&super::page());
    }
}
