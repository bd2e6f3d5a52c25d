//! Reads the few fields of a certificate that webpki does not expose. If a certificate cannot be
//! parsed, [`read`] returns `None`. Depending on the check, the caller then rejects the
//! certificate, leaves the check to webpki, or offers no channel binding.

use ring::digest;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// A DER value: its tag, its content, and all of its bytes.
#[derive(Clone, Copy)]
struct Value<'a> {
    tag: u8,
    content: &'a [u8],
    whole: &'a [u8],
}

/// Returns the first value and the bytes after it.
fn value(bytes: &[u8]) -> Option<(Value<'_>, &[u8])> {
    let (tag, length) = (*bytes.first()?, *bytes.get(1)?);
    let (start, length) = match length {
        short @ 0..=0x7f => (2, usize::from(short)),
        long @ 0x81..=0x83 => {
            let count = usize::from(long & 0x7f);
            let digits = bytes.get(2..2 + count)?;
            (2 + count, digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)))
        }
        _ => return None,
    };
    let end = start.checked_add(length)?;
    let whole = bytes.get(..end)?;
    Some((Value { tag, content: &whole[start..], whole }, &bytes[end..]))
}

fn values(mut bytes: &[u8]) -> Vec<Value<'_>> {
    let mut found = Vec::new();
    while let Some((next, rest)) = value(bytes) {
        found.push(next);
        bytes = rest;
    }
    found
}

/// The fields of a certificate that [`read`] returns.
pub(super) struct Fields<'a> {
    /// The content of the OID of the signature algorithm.
    signed_with: &'a [u8],
    /// The `SubjectPublicKeyInfo`, byte for byte.
    pub public_key: &'a [u8],
    /// Start and end of the validity, in seconds since 1970.
    pub not_before: i64,
    pub not_after: i64,
    /// The last common name of the subject, if it is text.
    pub common_name: Option<&'a str>,
    pub has_alternative_names: bool,
}

pub(super) fn read(der: &[u8]) -> Option<Fields<'_>> {
    const COMMON_NAME: &[u8] = &[0x55, 4, 3];
    const ALTERNATIVE_NAMES: &[u8] = &[OID, 3, 0x55, 0x1d, 0x11];
    let [body, algorithm, _signature] = values(value(der)?.0.content)[..] else { return None };
    let signed_with = value(algorithm.content)?.0.content;
    let mut fields = values(body.content);
    if fields.first()?.tag == VERSION {
        fields.remove(0);
    }
    let [_serial, _algorithm, _issuer, validity, subject, key, ..] = fields[..] else { return None };
    let [from, to] = values(validity.content)[..] else { return None };
    let mut common_name = None;
    for attribute in values(subject.content).iter().filter(|set| set.tag == SET).flat_map(|set| values(set.content)) {
        if let [name, text] = values(attribute.content)[..]
            && name.content == COMMON_NAME
        {
            common_name = std::str::from_utf8(text.content).ok();
        }
    }
    let extensions = fields.iter().find(|field| field.tag == EXTENSIONS).and_then(|field| value(field.content));
    let has_alternative_names = extensions
        .is_some_and(|(list, _)| values(list.content).iter().any(|one| one.content.starts_with(ALTERNATIVE_NAMES)));
    (key.tag == SEQUENCE).then_some(())?;
    Some(Fields {
        signed_with,
        public_key: key.whole,
        not_before: seconds(from)?,
        not_after: seconds(to)?,
        common_name,
        has_alternative_names,
    })
}

/// Converts `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` to seconds since 1970. Source: RFC 5280, 4.1.2.5.
fn seconds(time: Value<'_>) -> Option<i64> {
    let text = std::str::from_utf8(time.content).ok()?.strip_suffix('Z')?;
    let (year, rest) = match time.tag {
        UTC_TIME => {
            let year: i64 = text.get(..2)?.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, text.get(2..)?)
        }
        GENERALIZED_TIME => (text.get(..4)?.parse().ok()?, text.get(4..)?),
        _ => return None,
    };
    let part = |at: usize| rest.get(at..at + 2)?.parse::<i64>().ok();
    let days = days_since_1970(year, part(0)?, part(2)?);
    Some(((days * 24 + part(4)?) * 60 + part(6)?) * 60 + part(8)?)
}

/// Returns the days since 1970. A year is counted from March, so that the leap day is its last day.
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Returns the date of a time in seconds since 1970, in the form `2026-01-31`.
pub(super) fn date(seconds: u64) -> String {
    let days = i64::try_from(seconds / 86_400).unwrap_or(0) + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    format!("{:04}-{month:02}-{day:02}", year + era * 400 + i64::from(month <= 2))
}

/// Returns the certificate's hash for channel binding. The hash algorithm is that of the
/// certificate's signature, or SHA-256 if that algorithm is MD5 or SHA-1. Source: RFC 5929, 4.1.
/// Returns `None` if the signature algorithm has no separate hash (for example Ed25519) or is not
/// supported here.
pub(super) fn end_point(der: &[u8]) -> Option<Vec<u8>> {
    // 1.2.840.113549.1.1 is RSA, 1.2.840.10045.4 is ECDSA.
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1];
    const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4];
    let signed_with = read(der)?.signed_with;
    let hash = match (signed_with.strip_prefix(RSA), signed_with.strip_prefix(ECDSA)) {
        (Some([4 | 5 | 11]), _) | (_, Some([1] | [3, 2])) => &digest::SHA256,
        (Some([12]), _) | (_, Some([3, 3])) => &digest::SHA384,
        (Some([13]), _) | (_, Some([3, 4])) => &digest::SHA512,
        _ => return None,
    };
    Some(digest::digest(hash, der).as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_of_both_kinds_are_read() {
        for (tag, text, shown) in [
            (UTC_TIME, "700101000000Z", "1970-01-01"),
            (UTC_TIME, "491231235959Z", "2049-12-31"),
            (GENERALIZED_TIME, "20240229120000Z", "2024-02-29"),
            (GENERALIZED_TIME, "21000301000000Z", "2100-03-01"),
        ] {
            let content = text.as_bytes();
            let read = seconds(Value { tag, content, whole: content }).unwrap();
            assert_eq!(date(u64::try_from(read).unwrap()), shown);
        }
        assert_eq!(days_since_1970(2000, 3, 1), 11_017);
    }

    proptest! {
        #[test]
        fn no_input_makes_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (read(&bytes).is_some(), end_point(&bytes));
        }

        #[test]
        fn dates_survive_a_round_trip(days in 0..60_000_i64) {
            let shown = date(u64::try_from(days * 86_400).unwrap());
            let part = |range: std::ops::Range<usize>| shown[range].parse::<i64>().unwrap();
            prop_assert_eq!(days_since_1970(part(0..4), part(5..7), part(8..10)), days);
        }
    }
}
