//! Formats numbers, durations and untrusted text for a terminal, a log or the status page.

use std::borrow::Cow;
use std::time::Duration;

/// Formats a count, for example `1,234,567`.
pub fn count(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

/// Formats a number of rows, for example `1 row` or `1,234 rows`.
pub fn rows(number: i64) -> String {
    if number == 1 { "1 row".to_owned() } else { format!("{} rows", count(number)) }
}

/// Formats a rate (a number per second), for example `1,234`. A number below 10 has one decimal
/// digit, or more if it would otherwise be shown as 0.
pub fn rate(per_second: f64) -> String {
    #[allow(clippy::cast_possible_truncation)]
    let whole = per_second.round() as i64;
    if per_second < 10.0 { fixed(per_second, 1) } else { count(whole) }
}

/// Formats a number with the given number of decimal digits. A number other than 0 that would be
/// shown as 0 has as many digits as necessary.
pub fn fixed(value: f64, digits: usize) -> String {
    let shown = format!("{value:.digits$}");
    let is_zero = shown.bytes().all(|byte| matches!(byte, b'0' | b'.' | b'-'));
    if is_zero && value != 0.0 { figure_of(value, 2) } else { shown }
}

/// Formats a duration in at most two units, for example `1h 30m`, `2m 10s` or `0.4s`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1}s", duration.as_secs_f64()).replace(".0s", "s"),
        10..60 => format!("{seconds}s"),
        60..3600 => pair(seconds / 60, "m", seconds % 60, "s"),
        3600..86_400 => pair(seconds / 3600, "h", seconds % 3600 / 60, "m"),
        _ => pair(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// Formats a number of seconds. A negative number counts as 0. Clocks that differ can cause
/// negative numbers.
pub fn seconds(seconds: f64) -> String {
    duration(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX))
}

/// Escapes untrusted text for one line of a log or a terminal. Characters that would start a new
/// line, move the cursor or change the direction of the text become escapes, in Rust's notation.
pub fn printable(text: &str) -> Cow<'_, str> {
    let unsafe_here = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !text.contains(unsafe_here) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().fold(String::with_capacity(text.len() + 16), |mut shown, c| {
        if unsafe_here(c) {
            shown.extend(c.escape_default())
        } else {
            shown.push(c)
        }
        shown
    }))
}

/// Escapes untrusted text in the same way as [`printable`], but keeps line breaks and tabs.
pub fn printable_lines(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for part in text.split_inclusive(['\n', '\t']) {
        let end = part.trim_end_matches(['\n', '\t']).len();
        shown.push_str(&printable(&part[..end]));
        shown.push_str(&part[end..]);
    }
    shown
}

fn pair(large: u64, unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 { format!("{large}{unit}") } else { format!("{large}{unit} {small}{small_unit}") }
}

/// Rounds a value below 1,000 to three significant digits, and a larger value to a whole number. So
/// 0.003 is not shown as 0, and 1/3 is not shown with sixteen digits.
pub fn figure(value: f64) -> String {
    figure_of(value, 3)
}

fn figure_of(value: f64, digits: u32) -> String {
    let magnitude = if value == 0.0 || !value.is_finite() { 0.0 } else { value.abs().log10().floor() };
    let scale = 10_f64.powf((f64::from(digits) - 1.0 - magnitude).clamp(0.0, 300.0));
    format!("{}", (value * scale).round() / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_number_is_not_shown_as_zero() {
        for (value, digits, shown) in [
            (0.0, 1, "0.0"),
            (0.5, 1, "0.5"),
            (0.03094, 1, "0.031"),
            (0.004, 0, "0.004"),
            (2.6, 0, "3"),
            (-0.01, 1, "-0.01"),
        ] {
            assert_eq!(fixed(value, digits), shown);
        }
        assert_eq!([rate(0.0309), rate(0.1), rate(12.4)], ["0.031", "0.1", "12"]);
    }

    #[test]
    fn figures_have_three_significant_digits() {
        for (value, shown) in [
            (0.0, "0"),
            (20.0, "20"),
            (1.0 / 3.0, "0.333"),
            (0.0004, "0.0004"),
            (2.0 / 3000.0, "0.000667"),
            (484.4, "484"),
            (123_456.7, "123457"),
            (2e12, "2000000000000"),
            (-0.0001, "-0.0001"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(figure(value), shown);
        }
    }

    #[test]
    fn untrusted_text_stays_on_its_line() {
        assert_eq!(printable("an error, \u{e4}\u{4e2d}"), "an error, \u{e4}\u{4e2d}");
        assert_eq!(printable("a\nb\t\u{1b}[31m\u{7f}\u{202e}c"), r"a\nb\t\u{1b}[31m\u{7f}\u{202e}c");
        assert_eq!(printable_lines("a\n\n\tb\u{1b}c\r\nd"), "a\n\n\tb\\u{1b}c\\r\nd");
    }

    #[test]
    fn large_numbers_have_commas() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567"), (-1000, "-1,000")] {
            assert_eq!(count(number), text);
        }
    }

    #[test]
    fn durations_are_shown_short() {
        for (millis, text) in [
            (400, "0.4s"),
            (2000, "2s"),
            (59_400, "59s"),
            (130_000, "2m 10s"),
            (5_400_000, "1h 30m"),
            (90_000_000, "1d 1h"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
    }
}
