//! Renders elements that several parts of the page use: a statement to copy, and a time.

use maud::{Markup, html};

/// Renders a statement that the user can copy.
pub(super) fn offer(id: &str, what: &str, sql: &str) -> Markup {
    html! {
        div.offer {
            p id=(format!("{id}-what")) { (what) }
            // Focusable, so that a user can scroll a wide statement with the keyboard.
            pre id=(id) tabindex="0" role="group" aria-labelledby=(format!("{id}-what")) { code { (sql) } }
        }
    }
}

/// Renders `2026-11-27T17:38:51Z` as `17:38:51 UTC`. The text also contains the day if the day
/// differs from `today`, the day of the page.
pub(super) fn time(at: &str, today: &str) -> Markup {
    html! {
        @match at.split_once('T') {
            Some((day, clock)) => {
                @let clock = clock.trim_end_matches('Z');
                time datetime=(at) title=(format!("{day} {clock} UTC")) {
                    @if !today.starts_with(day) { (day) " " }
                    (clock) " UTC"
                }
            }
            None => (at),
        }
    }
}
