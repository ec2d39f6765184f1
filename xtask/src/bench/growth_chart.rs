//! Growth as a picture: partitions to the right, cost upwards, both in powers of ten; one panel for the time of an
//! acknowledgement and one for CPU, one line for each side.
//! A point is a median. It never draws a line through fewer than two points.

use super::figure::{Figure, Kind, Series};
use std::fmt::Write as _;

const PANEL_WIDTH: f64 = 380.0;
const PANEL_HEIGHT: f64 = 260.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 64.0;
const GAP: f64 = 70.0;
const WIDTH: f64 = LEFT + 2.0 * PANEL_WIDTH + GAP + 20.0;
const HEIGHT: f64 = TOP + PANEL_HEIGHT + 50.0;
const PANELS: [Kind; 2] = [Kind::GrowthLatency, Kind::GrowthCpu];
type SeriesOf = fn(&Figure) -> &Series;
const SIDES: [(&str, SeriesOf); 2] = [("ottla", |figure| &figure.ours), ("kafka", |figure| &figure.theirs)];

/// None where there is no line to draw.
pub(crate) fn svg(figures: &[Figure]) -> Option<String> {
    let mut body = String::new();
    for (n, kind) in PANELS.into_iter().enumerate() {
        let members: Vec<&Figure> = figures.iter().filter(|figure| figure.kind == kind).collect();
        if members.len() < 2 {
            return None;
        }
        panel(&mut body, kind, &members, LEFT + n as f64 * (PANEL_WIDTH + GAP));
    }
    Some(format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">
<style>.head{{font-weight:bold}} .grid{{stroke:#ddd}} .line{{fill:none;stroke-width:2}} .ottla{{stroke:#2a7f62;fill:#2a7f62}} .kafka{{stroke:#c8553d;fill:#c8553d}} .line.ottla,.line.kafka{{fill:none}}</style>
<rect width="100%" height="100%" fill="#fff"/>
<text x="8" y="20" font-size="15" class="head">What more partitions cost: three brokers, three replicas, a flush before each acknowledgement</text>
<text x="8" y="38"><tspan fill="#2a7f62">Ottla</tspan>  <tspan fill="#c8553d">Apache Kafka</tspan>, medians; partitions to the right; both scales in powers of ten</text>
{body}</svg>
"##
    ))
}

/// Powers of ten that enclose all values.
struct Scale {
    low: f64,
    high: f64,
    length: f64,
}

impl Scale {
    fn around(values: &[f64], length: f64) -> Self {
        let logs = || values.iter().filter(|value| **value > 0.0).map(|value| value.log10());
        let low = logs().fold(f64::INFINITY, f64::min).floor();
        let high = logs().fold(f64::NEG_INFINITY, f64::max).ceil();
        Self { low, high: high.max(low + 1.0), length }
    }

    fn at(&self, value: f64) -> f64 {
        (value.log10() - self.low) / (self.high - self.low) * self.length
    }

    fn powers(&self) -> impl Iterator<Item = f64> {
        (self.low as i32..=self.high as i32).map(|power| 10_f64.powi(power))
    }
}

fn panel(body: &mut String, kind: Kind, members: &[&Figure], left: f64) {
    let lines: Vec<(&str, Vec<(f64, f64)>)> =
        SIDES.iter().map(|(side, series)| (*side, points(members, *series))).collect();
    let values = |of: fn(&(f64, f64)) -> f64| -> Vec<f64> {
        lines.iter().flat_map(|(_, points)| points.iter().map(of)).collect()
    };
    let across = Scale::around(&values(|point| point.0), PANEL_WIDTH);
    let up = Scale::around(&values(|point| point.1), PANEL_HEIGHT);
    let bottom = TOP + PANEL_HEIGHT;
    let _ = writeln!(body, r#"<text x="{left}" y="{}" class="head">{}</text>"#, TOP - 10.0, kind.title());
    for power in up.powers() {
        let y = bottom - up.at(power);
        let right = left + PANEL_WIDTH;
        let _ = writeln!(body, r#"<line x1="{left}" x2="{right}" y1="{y:.1}" y2="{y:.1}" class="grid"/>"#);
        let (x, y) = (left - 6.0, y + 4.0);
        let _ = writeln!(body, r#"<text x="{x}" y="{y:.1}" text-anchor="end">{power}</text>"#);
    }
    for power in across.powers() {
        let x = left + across.at(power);
        let _ = writeln!(body, r#"<line x1="{x:.1}" x2="{x:.1}" y1="{TOP}" y2="{bottom}" class="grid"/>"#);
        let y = bottom + 16.0;
        let _ = writeln!(body, r#"<text x="{x:.1}" y="{y}" text-anchor="middle">{power}</text>"#);
    }
    for (side, points) in lines {
        let place = |(x, y): &(f64, f64)| (left + across.at(*x), bottom - up.at(*y));
        for point in &points {
            let (x, y) = place(point);
            let _ = writeln!(body, r#"<circle cx="{x:.1}" cy="{y:.1}" r="3.5" class="{side}"/>"#);
        }
        if points.len() > 1 {
            let path: Vec<String> = points.iter().map(place).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let _ = writeln!(body, r#"<polyline points="{}" class="line {side}"/>"#, path.join(" "));
        }
    }
}

/// Partitions and the median of one side.
fn points(members: &[&Figure], series: SeriesOf) -> Vec<(f64, f64)> {
    let point = |figure: &&Figure| {
        let partitions = figure.name.split(' ').next()?.parse().ok()?;
        Some((partitions, series(figure).median()?))
    };
    members.iter().filter_map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::super::figure::Goal;
    use super::*;

    fn figures(kind: Kind, values: &[(u32, f64, Option<f64>)]) -> Vec<Figure> {
        let figure = |(partitions, ours, theirs): &(u32, f64, Option<f64>)| {
            let mut figure = Figure::new(kind, format!("{partitions} partitions"), Goal::Shown);
            figure.ours.0.push(*ours);
            figure.theirs.0.extend(theirs);
            figure
        };
        values.iter().map(figure).collect()
    }

    #[test]
    fn both_panels_have_a_line_for_each_side_with_points() {
        let mut all = figures(Kind::GrowthLatency, &[(10, 1.0, Some(5.0)), (1000, 2.0, Some(50.0))]);
        all.extend(figures(Kind::GrowthCpu, &[(10, 0.5, Some(2.0)), (1000, 1.5, None)]));
        let picture = svg(&all).expect("there is something to draw");
        assert_eq!(picture.matches("class=\"line ottla\"").count(), 2);
        assert_eq!(picture.matches("class=\"line kafka\"").count(), 1);
        assert_eq!(picture.matches("<circle").count(), 7);
    }

    #[test]
    fn one_size_is_no_growth() {
        assert!(svg(&figures(Kind::GrowthLatency, &[(10, 1.0, None)])).is_none());
    }
}
