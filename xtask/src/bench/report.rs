//! Figures as a table for the terminal, as Markdown for docs/benchmarks.md, and as JSON for whoever computes further.
//! Every figure appears in all three with all its runs or their range; nothing is left out for being unfavourable.
//! It never rounds a figure across its goal: verdicts come from the figures, not from what is printed.

use super::chart;
use super::figure::{Chapter, Figure, Kind, Series};
use super::growth_chart;
use super::options::{Docs, Options};
use super::tools::Workshop;
use crate::table::{Side, Table};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// What one chapter of figures fills: the lines around it in docs/benchmarks.md, and its pictures.
struct Place {
    chapter: Chapter,
    begin_mark: &'static str,
    end_mark: &'static str,
    /// None: the other side is so far off that its bars would all be cut.
    chart: Option<&'static str>,
}

const PLACES: [Place; 5] = [
    Place {
        chapter: Chapter::OneBroker,
        begin_mark: "<!-- figures: written by cargo xtask bench --docs -->",
        end_mark: "<!-- end of figures -->",
        chart: Some("benchmarks.svg"),
    },
    Place {
        chapter: Chapter::Cluster,
        begin_mark: "<!-- cluster figures: written by cargo xtask bench --docs -->",
        end_mark: "<!-- end of cluster figures -->",
        chart: Some("benchmarks-cluster.svg"),
    },
    Place {
        chapter: Chapter::Delivery,
        begin_mark: "<!-- delivery figures: written by cargo xtask bench --docs -->",
        end_mark: "<!-- end of delivery figures -->",
        chart: Some("benchmarks-delivery.svg"),
    },
    Place {
        chapter: Chapter::Clients,
        begin_mark: "<!-- client figures: written by cargo xtask bench --docs -->",
        end_mark: "<!-- end of client figures -->",
        chart: Some("benchmarks-clients.svg"),
    },
    Place {
        chapter: Chapter::Sink,
        begin_mark: "<!-- sink figures: written by cargo xtask bench --docs -->",
        end_mark: "<!-- end of sink figures -->",
        chart: None,
    },
];
const GROWTH_CHART: &str = "benchmarks-growth.svg";

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

/// Writes results.json and the pictures beside the scratch data, and with `--docs` the published page: the chapters that this
/// run has figures of, whole.
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
    let mut pictures = Vec::new();
    let mut page = None;
    for place in PLACES {
        let members: Vec<Figure> =
            figures.iter().filter(|figure| figure.kind.chapter() == place.chapter).cloned().collect();
        // A run without the chapter's parts leaves what is published.
        if members.is_empty() {
            continue;
        }
        pictures.extend(place.chart.map(|name| (name, chart::svg(&members))));
        pictures.extend(growth_chart::svg(&members).map(|picture| (GROWTH_CHART, picture)));
        if options.docs == Docs::Rewrite {
            let path = workshop.root().join("docs/benchmarks.md");
            let read = || fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()));
            let old = page.take().map_or_else(read, Ok)?;
            page = Some(between_marks(&old, &place, &markdown(title, &members))?);
        }
    }
    for (name, picture) in &pictures {
        put(&workshop.scratch().join(name), picture)?;
    }
    if let Some(page) = page {
        let docs = workshop.root().join("docs");
        put(&docs.join("benchmarks.md"), &page)?;
        for (name, picture) in &pictures {
            put(&docs.join(name), picture)?;
        }
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
    match kind {
        Kind::AgainstTheMachine => "receiver",
        kind if kind.chapter() == Chapter::Clients => "the other",
        kind if kind.chapter() == Chapter::Sink => "Python",
        _ => "Kafka",
    }
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

fn between_marks(page: &str, place: &Place, figures: &str) -> Result<String, String> {
    let Place { begin_mark, end_mark, .. } = place;
    let parts = || {
        let (head, rest) = page.split_once(begin_mark)?;
        let (_, tail) = rest.split_once(end_mark)?;
        Some(format!("{head}{begin_mark}\n\n{figures}\n{end_mark}{tail}"))
    };
    parts().ok_or_else(|| format!("docs/benchmarks.md lacks the lines {begin_mark} and {end_mark}"))
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
        for place in &PLACES {
            let Place { begin_mark, end_mark, .. } = place;
            let page = format!("before\n{begin_mark}\nold\n{end_mark}\nafter\n");
            let new = between_marks(&page, place, "new").expect("both marks are there");
            assert_eq!(new, format!("before\n{begin_mark}\n\nnew\n{end_mark}\nafter\n"));
            assert!(between_marks("no marks", place, "new").is_err());
        }
    }

    #[test]
    fn json_text_is_escaped() {
        assert_eq!(quoted("a\"b\\c\n"), "\"a\\\"b\\\\c\\u000a\"");
    }
}
