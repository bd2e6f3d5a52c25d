//! Draws small charts as inline SVG: a line, its limit, and the times at which jobs were held. For
//! users who cannot see a chart, a text beside it contains its most important values.

use maud::{Markup, html};

const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 64.0;

pub(super) struct Chart<'a> {
    /// The description of the chart for screen readers.
    pub label: &'a str,
    /// The values, the oldest first. None for a value that is not known.
    pub values: &'a [Option<f64>],
    pub limit: Option<f64>,
    /// For each value, the reason why jobs were held, or none if jobs ran. The chart shades the
    /// times at which jobs were held, behind the line.
    pub held: &'a [Option<String>],
    /// The number of values in a full chart. A shorter history is aligned to the right edge.
    pub room: usize,
}

pub(super) fn draw(chart: &Chart<'_>) -> Markup {
    let highest = chart.values.iter().flatten().copied().chain(chart.limit).fold(0.0, f64::max);
    let top = if highest > 0.0 { highest * 1.1 } else { 1.0 };
    let room = chart.room.max(2);
    let step = WIDTH / as_f64(room - 1);
    let offset = as_f64(room.saturating_sub(chart.values.len())) * step;
    let x = |at: usize| offset + as_f64(at) * step;
    let y = |value: f64| HEIGHT - (value / top).clamp(0.0, 1.0) * (HEIGHT - 2.0) - 1.0;
    html! {
        svg.chart viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) preserveAspectRatio="none" role="img" aria-label=(chart.label) {
            @for (from, to) in runs(chart.held.iter().map(Option::is_some)) {
                rect.held x=(figure(x(from) - step / 2.0)) y="0" width=(figure(as_f64(to - from) * step)) height=(HEIGHT) {}
            }
            @if let Some(limit) = chart.limit {
                line.limit x1="0" x2=(WIDTH) y1=(figure(y(limit))) y2=(figure(y(limit))) {}
            }
            @for (from, to) in runs(chart.values.iter().map(Option::is_some)) {
                @let points: Vec<String> = (from..to)
                    .filter_map(|at| chart.values[at].map(|value| format!("{},{}", figure(x(at)), figure(y(value)))))
                    .collect();
                @if let [alone] = points.as_slice() {
                    // Browsers do not draw a polyline that has only one point.
                    polyline.line points=(format!("{alone} {alone}")) {}
                } @else {
                    polyline.line points=(points.join(" ")) {}
                }
            }
        }
    }
}

/// Returns the half-open ranges in which all values are true.
fn runs(all: impl Iterator<Item = bool>) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (at, _) in all.enumerate().filter(|(_, is)| *is) {
        match runs.last_mut() {
            Some((_, end)) if *end == at => *end = at + 1,
            _ => runs.push((at, at + 1)),
        }
    }
    runs
}

fn figure(number: f64) -> String {
    format!("{number:.1}")
}

#[allow(clippy::cast_precision_loss)]
fn as_f64(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_values_leave_a_gap_and_holds_are_drawn_as_a_band() {
        let held = [None, Some("window".to_owned()), Some("window".to_owned()), None];
        let values = [Some(1.0), Some(2.0), None, Some(4.0)];
        let drawn =
            draw(&Chart { label: "rows", values: &values, limit: Some(3.0), held: &held, room: 4 }).into_string();
        assert_eq!(drawn.matches("<polyline").count(), 2, "{drawn}");
        assert_eq!((drawn.matches("<rect").count(), drawn.matches("<line").count()), (1, 1), "{drawn}");
        assert!(drawn.contains("aria-label=\"rows\""), "{drawn}");
    }

    #[test]
    fn missing_and_extreme_values_produce_a_valid_drawing() {
        for values in [&[][..], &[None, None], &[Some(0.0)], &[Some(f64::MAX), Some(1e-300)]] {
            let drawn = draw(&Chart { label: "", values, limit: None, held: &[], room: 180 }).into_string();
            assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
        }
    }
}
