//! Numbers and durations as people read them, on a terminal and on the status page.

use std::time::Duration;

/// `1,234,567`
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

/// `1 row`, `1,234 rows`
pub fn rows(number: i64) -> String {
    if number == 1 { "1 row".to_owned() } else { format!("{} rows", count(number)) }
}

/// Of something a second: `1,234`, and one digit after the point below 10.
pub fn rate(per_second: f64) -> String {
    #[allow(clippy::cast_possible_truncation)]
    let whole = per_second.round() as i64;
    if per_second < 10.0 { format!("{per_second:.1}") } else { count(whole) }
}

/// Two units at most, which is what one reads: `1h 30m`, `2m 10s`, `0.4s`.
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

/// Of seconds from a server, which may be below zero where clocks differ.
pub fn seconds(seconds: f64) -> String {
    duration(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX))
}

fn pair(large: u64, unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 { format!("{large}{unit}") } else { format!("{large}{unit} {small}{small_unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

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
