//! Renders the charts of the last 15 minutes: the rows per second, and the lag of each replica with
//! its limit.

use maud::{Markup, html};

use super::super::chart::{Chart, draw};
use super::super::document::Database;
use crate::text;

/// Number of points in a full chart.
const ROOM: usize = 180;

pub(super) fn charts(at: usize, database: &Database) -> Markup {
    let charts = &database.charts;
    let rates = &charts.rows_per_second;
    let now = rates.iter().rev().find_map(|rate| *rate).unwrap_or(0.0);
    let most = rates.iter().flatten().copied().fold(0.0, f64::max);
    let held = charts.held_by.iter().rev().take(1).find_map(Option::as_deref);
    let minutes = charts.step_seconds * ROOM as u64 / 60;
    let said =
        format!("Now {} rows per second, at most {} in the last {minutes} minutes", text::rate(now), text::rate(most));
    html! {
        div.charts {
            figure id=(format!("db{at}-rate")) {
                figcaption { "Rows per second, all jobs" }
                p.now { b { (text::rate(now)) } span.quiet { " at most " (text::rate(most)) } @if let Some(reason) = held { " " span.badge.held { "held: " (reason) } } }
                (draw(&Chart { label: &said, values: rates, limit: None, held: &charts.held_by, room: ROOM }))
            }
            @for (n, replica) in charts.replicas.iter().enumerate() {
                @let now = replica.lag_seconds.last().copied().flatten();
                @let shown = now.map_or("not known".to_owned(), lag);
                @let limit = replica.limit_seconds.map_or(String::new(), |limit| format!(" of at most {}", lag(limit)));
                figure id=(format!("db{at}-lag{n}")) {
                    figcaption { "Lag of " (replica.replica) }
                    p.now { b { (shown) } span.quiet { (limit) } }
                    (draw(&Chart { label: &format!("Now {shown}{limit}"), values: &replica.lag_seconds, limit: replica.limit_seconds, held: &charts.held_by, room: ROOM }))
                }
            }
        }
        p.quiet.legend { "The last " (minutes) " minutes. " span.key.held {} " held  " span.key.limit {} " limit" }
    }
}

fn lag(seconds: f64) -> String {
    if seconds < 10.0 { format!("{} s", text::fixed(seconds, 2)) } else { text::seconds(seconds) }
}
