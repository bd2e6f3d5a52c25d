//! Parses the durations of the command line, for example `30s`, `5m` or `1h30m`.

use std::time::Duration;

/// The units, each in milliseconds.
const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Parses a duration for clap. The text of an error continues clap's own text "invalid value '..'
/// for '--timeout'".
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let example = "write a number and a unit, for example 30s, 5m, 2h or 1h30m";
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(example.to_owned());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let Some((_, millis)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(if unit.is_empty() && !number.is_empty() && after.is_empty() {
                format!("the unit is missing: {number}s or {number}m?")
            } else {
                example.to_owned()
            });
        };
        let amount: u64 = number.parse().map_err(|_| example.to_owned())?;
        total = amount.checked_mul(*millis).and_then(|part| total.checked_add(part)).ok_or("too long")?;
        rest = after;
    }
    Ok(Duration::from_millis(total))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_as_they_are_written() {
        for (text, millis) in [
            ("30s", 30_000),
            ("5m", 300_000),
            ("2h", 7_200_000),
            ("500ms", 500),
            ("1h30m", 5_400_000),
            ("0s", 0),
            ("1d", 86_400_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn a_number_without_a_unit_is_refused_and_two_units_are_suggested() {
        assert_eq!(parse("30"), Err("the unit is missing: 30s or 30m?".to_owned()));
    }

    #[test]
    fn an_invalid_duration_is_refused() {
        for text in ["", "s", "-5s", "5 m", "5x", "1.5h", "99999999999999999999s", "9999999999999999d", "5m30"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_duration_is_the_sum_of_its_parts(h in 0u64..1000, m in 0u64..1000, s in 0u64..1000) {
            prop_assert_eq!(parse(&format!("{h}h{m}m{s}s")), Ok(Duration::from_secs(h * 3600 + m * 60 + s)));
        }

        #[test]
        fn no_text_makes_the_duration_parser_panic(text in "([0-9]{0,22}(ms|s|m|h|d|é)?){0,4}|.*") {
            let _ = parse(&text);
        }
    }
}
