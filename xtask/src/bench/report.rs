//! Figures as a table for the terminal, as Markdown for docs/benchmarks.md, and as JSON for whoever computes further.
//! Every figure appears in all three with all its runs or their range; nothing is left out for being unfavourable.
//! It never rounds a figure across its goal: verdicts come from the figures, not from what is printed.

use super::chart;
use super::figure::{Figure, Kind, Series};
use super::options::{Docs, Options};
use super::tools::Workshop;
use crate::table::{Side, Table};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

const BEGIN_MARK: &str = "<!-- figures: written by cargo xtask bench --docs -->";
const END_MARK: &str = "<!-- end of figures -->";

pub(crate) fn print(title: &str, figures: &[Figure]) {
    println!("\n{title}\nmedian (range) of the runs; the ratio is Ottla over the other, pair by pair");
    for (kind, members) in sections(figures) {
        println!("\n{}", kind.title());
        let [side, value] = [Side::Left, Side::Right];
        let mut table = Table::new(&[
            ("", side),
            ("Ottla", value),
            (other(kind), value),
            ("ratio", value),
            ("goal", side),
            ("", side),
        ]);
        for figure in members {
            table.row(row(figure).to_vec());
        }
        table.print();
    }
}

/// Writes results.json and chart.svg beside the scratch data, and with `--docs` the published page.
pub(crate) fn write(
    workshop: &Workshop,
    options: &Options,
    title: &str,
    figures: &[Figure],
) -> Result<(), String> {
    let put = |path: &Path, content: &str| {
        fs::write(path, content).map_err(|e| format!("{}: {e}", path.display()))?;
        println!("wrote {}", path.display());
        Ok::<(), String>(())
    };
    put(&workshop.scratch().join("results.json"), &json(title, figures))?;
    let chart = chart::svg(figures);
    put(&workshop.scratch().join("chart.svg"), &chart)?;
    if options.docs == Docs::Rewrite {
        let docs = workshop.root().join("docs");
        let page = docs.join("benchmarks.md");
        let old = fs::read_to_string(&page).map_err(|e| format!("{}: {e}", page.display()))?;
        put(&page, &between_marks(&old, &markdown(title, figures))?)?;
        put(&docs.join("benchmarks.svg"), &chart)?;
    }
    Ok(())
}

fn sections(figures: &[Figure]) -> impl Iterator<Item = (Kind, Vec<&Figure>)> {
    Kind::ALL
        .into_iter()
        .map(|kind| (kind, figures.iter().filter(|figure| figure.kind == kind).collect::<Vec<_>>()))
        .filter(|(_, members)| !members.is_empty())
}

fn other(kind: Kind) -> &'static str {
    if kind == Kind::AgainstTheMachine { "receiver" } else { "Kafka" }
}

fn row(figure: &Figure) -> [String; 6] {
    [
        figure.name.clone(),
        spread(&figure.ours),
        spread(&figure.theirs),
        spread(&figure.ratios()),
        figure.goal.to_string(),
        figure.verdict().to_string(),
    ]
}

fn spread(series: &Series) -> String {
    match (series.median(), series.min(), series.max()) {
        (Some(median), Some(min), Some(max)) if series.0.len() > 1 => {
            format!("{} ({}–{})", digits(median), digits(min), digits(max))
        }
        (Some(median), ..) => digits(median),
        _ => "–".to_owned(),
    }
}

/// Three digits that matter, whatever the size.
fn digits(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn markdown(title: &str, figures: &[Figure]) -> String {
    let mut page = format!("Measured on {title}. Median (range) of the runs; ratios pair by pair.\n");
    for (kind, members) in sections(figures) {
        let _ = writeln!(page, "\n### {}\n", kind.title());
        let _ = writeln!(page, "| | Ottla | {} | ratio | goal | |", other(kind));
        let _ = writeln!(page, "|---|---|---|---|---|---|");
        for figure in members {
            let _ = writeln!(page, "| {} |", row(figure).join(" | "));
        }
    }
    page
}

fn between_marks(page: &str, figures: &str) -> Result<String, String> {
    let parts = || {
        let (head, rest) = page.split_once(BEGIN_MARK)?;
        let (_, tail) = rest.split_once(END_MARK)?;
        Some(format!("{head}{BEGIN_MARK}\n\n{figures}\n{END_MARK}{tail}"))
    };
    parts().ok_or_else(|| format!("docs/benchmarks.md lacks the lines {BEGIN_MARK} and {END_MARK}"))
}

fn json(title: &str, figures: &[Figure]) -> String {
    let mut text = format!("{{\n  \"machine\": {},\n  \"figures\": [", quoted(title));
    for (n, figure) in figures.iter().enumerate() {
        let _ = write!(
            text,
            "{}\n    {{ \"kind\": {}, \"name\": {}, \"ottla\": {}, {}: {}, \"goal\": {}, \"verdict\": {} }}",
            if n == 0 { "" } else { "," },
            quoted(figure.kind.title()),
            quoted(&figure.name),
            numbers(&figure.ours),
            quoted(&other(figure.kind).to_lowercase()),
            numbers(&figure.theirs),
            quoted(&figure.goal.to_string()),
            quoted(&figure.verdict().to_string())
        );
    }
    text.push_str("\n  ]\n}\n");
    text
}

fn numbers(series: &Series) -> String {
    let numbers: Vec<String> = series.0.iter().map(|value| format!("{value:.6}")).collect();
    format!("[{}]", numbers.join(", "))
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::super::figure::Goal;
    use super::*;

    #[test]
    fn a_row_shows_ranges_ratios_and_verdicts() {
        let figure = Figure {
            kind: Kind::ProduceCpu,
            name: "java/100B/1p/flush".to_owned(),
            ours: Series(vec![1.0, 1.5, 2.0]),
            theirs: Series(vec![3.0, 3.0, 4.0]),
            goal: Goal::ShareAtMost(1.0 / 3.0),
        };
        let wanted = "java/100B/1p/flush | 1.50 (1.00–2.00) | 3.00 (3.00–4.00) | 0.50 (0.33–0.50) | ratio ≤ 0.33 | missed by 50%";
        assert_eq!(row(&figure).join(" | "), wanted);
    }

    #[test]
    fn the_published_page_keeps_what_stands_around_the_figures() {
        let page = format!("before\n{BEGIN_MARK}\nold\n{END_MARK}\nafter\n");
        let new = between_marks(&page, "new").expect("both marks are there");
        assert_eq!(new, format!("before\n{BEGIN_MARK}\n\nnew\n{END_MARK}\nafter\n"));
        assert!(between_marks("no marks", "new").is_err());
    }

    #[test]
    fn json_text_is_escaped() {
        assert_eq!(quoted("a\"b\\c\n"), "\"a\\\"b\\\\c\\u000a\"");
    }
}
