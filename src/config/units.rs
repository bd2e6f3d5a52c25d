//! Reads quantities. A number has no unit, because the name of its key contains the unit. A size
//! may have a unit.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error as _, Visitor};

/// Reads a section. If all keys of a section are commented out, the section is null in YAML and
/// gets its defaults.
pub fn or_default<'de, D, T>(input: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(input)?.unwrap_or_default())
}

pub fn seconds<'de, D: Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
    let number = input.deserialize_any(Number("a number of seconds without a unit, for example 6 or 1.5"))?;
    Duration::try_from_secs_f64(number).map_err(|_| {
        D::Error::custom(format!("{number} is not a valid number of seconds: it must not be negative or too large"))
    })
}

pub fn milliseconds<'de, D: Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
    let number = input.deserialize_any(Number("a number of milliseconds without a unit, for example 500"))?;
    Duration::try_from_secs_f64(number / 1000.0).map_err(|_| {
        D::Error::custom(format!(
            "{number} is not a valid number of milliseconds: it must not be negative or too large"
        ))
    })
}

pub fn days<'de, D: Deserializer<'de>>(input: D) -> Result<u32, D::Error> {
    let number = input.deserialize_any(Number("a whole number of days without a unit, for example 90"))?;
    whole(number)
        .and_then(|n| u32::try_from(n).ok())
        .ok_or_else(|| D::Error::custom(format!("{number} is not a whole number of days")))
}

pub fn bytes<'de, D: Deserializer<'de>>(input: D) -> Result<u64, D::Error> {
    input.deserialize_any(Size)
}

/// Reads a limit: a plain number in the unit of the signal, or a size.
pub fn limit<'de, D: Deserializer<'de>>(input: D) -> Result<Option<f64>, D::Error> {
    input.deserialize_any(Limit).map(Some)
}

/// Parses a size in bytes: `64MiB` is 67108864, and plain digits are bytes. Refuses decimal units
/// (MB), because many users mistake them for binary units.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let shift = match text[digits..].trim_start() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

/// Formats a number of bytes as a size in the notation of the configuration, for example `64MiB`.
pub fn show_bytes(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(number: f64) -> Option<u64> {
    (number >= 0.0 && number.fract() == 0.0 && number < 1e15).then_some(number as u64)
}

struct Number(&'static str);

impl Visitor<'_> for Number {
    type Value = f64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    #[allow(clippy::cast_precision_loss)]
    fn visit_u64<E>(self, value: u64) -> Result<f64, E> {
        Ok(value as f64)
    }

    #[allow(clippy::cast_precision_loss)]
    fn visit_i64<E>(self, value: i64) -> Result<f64, E> {
        Ok(value as f64)
    }

    fn visit_f64<E>(self, value: f64) -> Result<f64, E> {
        Ok(value)
    }
}

struct Size;

impl Visitor<'_> for Size {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size, for example 64MiB (KiB, MiB, GiB, TiB), or a number of bytes")
    }

    fn visit_u64<E>(self, value: u64) -> Result<u64, E> {
        Ok(value)
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<u64, E> {
        parse_bytes(value).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(value), &self))
    }
}

struct Limit;

impl Visitor<'_> for Limit {
    type Value = f64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, or a size, for example 10GiB (KiB, MiB, GiB, TiB)")
    }

    #[allow(clippy::cast_precision_loss)]
    fn visit_u64<E>(self, value: u64) -> Result<f64, E> {
        Ok(value as f64)
    }

    #[allow(clippy::cast_precision_loss)]
    fn visit_i64<E>(self, value: i64) -> Result<f64, E> {
        Ok(value as f64)
    }

    fn visit_f64<E>(self, value: f64) -> Result<f64, E> {
        Ok(value)
    }

    #[allow(clippy::cast_precision_loss)]
    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<f64, E> {
        let bytes = parse_bytes(value).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(value), &self))?;
        Ok(bytes as f64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_binary_and_nothing_else() {
        assert_eq!(parse_bytes("64MiB"), Some(67_108_864));
        assert_eq!(parse_bytes("1 GiB"), Some(1 << 30));
        assert_eq!(parse_bytes("4096"), Some(4096));
        for wrong in ["64MB", "64M", "", "MiB", "-1", "1.5GiB", "99999999999TiB"] {
            assert_eq!(parse_bytes(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_size_is_shown_as_it_is_written() {
        for text in ["64MiB", "3GiB", "100", "1KiB"] {
            assert_eq!(show_bytes(parse_bytes(text).unwrap()), text);
        }
    }

    proptest! {
        #[test]
        fn a_size_that_is_shown_is_read_back(bytes: u64, shift in 0u32..41) {
            for bytes in [bytes, bytes >> shift << shift, bytes >> 20] {
                prop_assert_eq!(parse_bytes(&show_bytes(bytes)), Some(bytes));
            }
        }

        #[test]
        fn no_size_makes_the_parser_panic(text in "[0-9]{0,25} ?[KMGT]?i?B?|.*") {
            let _ = parse_bytes(&text);
        }
    }
}
