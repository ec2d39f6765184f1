//! The comparison as a picture: one bar per figure, its length Ottla's share of the other side, with a line at even and a
//! line at the goal.
//! The scale is the same for all bars and linear from zero; a bar that would leave the picture is cut and says its value.
//! It never draws a figure that only one side has; growth has a picture of its own.

use super::figure::{Figure, Goal, Kind, Verdict};
use std::fmt::Write as _;

const WIDTH: f64 = 900.0;
const LABEL_WIDTH: f64 = 350.0;
const VALUE_WIDTH: f64 = 60.0;
const ROW: f64 = 18.0;
const SECTION_GAP: f64 = 34.0;
/// The right end of the scale: twice the other side.
const RATIO_MAX: f64 = 2.0;
const SCALE: f64 = (WIDTH - LABEL_WIDTH - VALUE_WIDTH) / RATIO_MAX;

pub(crate) fn svg(figures: &[Figure]) -> String {
    let mut body = String::new();
    let mut y = 56.0;
    for kind in Kind::ALL.into_iter().filter(|kind| !matches!(kind, Kind::GrowthLatency | Kind::GrowthCpu)) {
        let bars: Vec<(&Figure, f64)> = figures
            .iter()
            .filter(|figure| figure.kind == kind)
            .filter_map(|figure| Some((figure, figure.ratios().median()?)))
            .collect();
        if bars.is_empty() {
            continue;
        }
        let _ =
            writeln!(body, r#"<text x="8" y="{y}" class="head">{} – {}</text>"#, kind.title(), better(kind));
        y += 8.0;
        let (top, bottom) = (y, y + ROW * bars.len() as f64);
        for (figure, ratio) in bars {
            bar(&mut body, figure, ratio, y);
            y += ROW;
        }
        let even = LABEL_WIDTH + SCALE;
        let _ = writeln!(body, r#"<line x1="{even}" x2="{even}" y1="{top}" y2="{bottom}" class="even"/>"#);
        y += SECTION_GAP;
    }
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" font-family="sans-serif" font-size="12">
<style>.head{{font-weight:bold}} .even{{stroke:#333}} .goal{{stroke:#333;stroke-dasharray:2 2}} .ok{{fill:#2a7f62}} .missed{{fill:#c8553d}} .open{{fill:#7d8597}}</style>
<rect width="100%" height="100%" fill="#fff"/>
<text x="8" y="20" font-size="15" class="head">Ottla as a share of the other side</text>
<text x="8" y="36">solid line: even; dashed line: goal; green: goal reached, red: missed, grey: no goal on the ratio</text>
{body}</svg>
"##
    )
}

fn better(kind: Kind) -> &'static str {
    match kind {
        Kind::ProduceRate
        | Kind::ConsumeRate
        | Kind::ClusterProduceRate
        | Kind::ClusterConsumeRate
        | Kind::TransactionRate
        | Kind::TransactionShare
        | Kind::OffsetCommits
        | Kind::ShareRate
        | Kind::CompactionRate
        | Kind::ClientProduceRate
        | Kind::ClientConsumeRate
        | Kind::SinkCpu
        | Kind::SinkRate => "longer is better",
        _ => "shorter is better",
    }
}

fn bar(body: &mut String, figure: &Figure, ratio: f64, y: f64) {
    let length = ratio.min(RATIO_MAX) * SCALE;
    let class = match figure.verdict() {
        Verdict::Ok => "ok",
        Verdict::Missed(_) => "missed",
        Verdict::Open => "open",
    };
    let (text_y, height) = (y + ROW - 5.0, ROW - 4.0);
    let name = figure.name.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(body, r#"<text x="16" y="{text_y}">{name}</text>"#);
    let _ = writeln!(
        body,
        r#"<rect x="{LABEL_WIDTH}" y="{y}" width="{length:.1}" height="{height}" class="{class}"/>"#
    );
    let value_x = LABEL_WIDTH + length + 5.0;
    let _ = writeln!(body, r#"<text x="{value_x:.1}" y="{text_y}">{ratio:.2}</text>"#);
    if let Goal::ShareAtMost(share) = figure.goal {
        let x = LABEL_WIDTH + share.min(RATIO_MAX) * SCALE;
        let end = y + ROW;
        let _ = writeln!(body, r#"<line x1="{x:.1}" x2="{x:.1}" y1="{y}" y2="{end}" class="goal"/>"#);
    }
}
