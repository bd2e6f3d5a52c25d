//! Splits a connection string into its parameters. The string is a URL, or libpq's `key = value`
//! words. An error message contains no part of the string, because any part may belong to a
//! password.

/// Parameters in the order of the text. If several have the same name, the last one takes
/// precedence in a connection string, and the first one in a service file.
pub(super) type Pairs = Vec<(String, String)>;

const ENCODE: &str = "percent-encode special characters; in a password, write / ? # @ : % as %2F %3F %23 %40 %3A %25";

/// The reason why a string cannot be split.
pub(super) type Malformed = &'static str;

pub(super) fn split(text: &str) -> Result<Pairs, Malformed> {
    match text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")) {
        Some(rest) => split_url(rest),
        None => split_words(text),
    }
}

/// Splits `user:password@host:port,host:port/database?parameter=value&...`.
fn split_url(rest: &str) -> Result<Pairs, Malformed> {
    let mut pairs = Pairs::new();
    let mut add = |name: &str, value: &str| -> Result<(), Malformed> {
        let value = decoded(value)?;
        if !value.is_empty() {
            pairs.push((name.to_owned(), value));
        }
        Ok(())
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if path.contains('@') || authority.matches('@').count() > 1 {
        return Err(ENCODE);
    }
    let (userinfo, hosts) = authority.split_once('@').unwrap_or(("", authority));
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    add("user", user)?;
    add("password", password)?;
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',') {
        let (name, port) = match host.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or("the closing bracket of an address is missing")?,
            None => host.split_at(host.find(':').unwrap_or(host.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port,
            None if port.is_empty() => port,
            None => return Err("unexpected text between an address in brackets and its port"),
        };
        if !port.chars().all(|c| c.is_ascii_digit()) {
            return Err(ENCODE);
        }
        names.push(name);
        ports.push(port);
    }
    add("host", &names.join(","))?;
    if ports.iter().any(|port| !port.is_empty()) {
        add("port", &ports.join(","))?;
    }
    let (database, query) = path.split_once('?').unwrap_or((path, ""));
    add("dbname", database.trim_start_matches('/'))?;
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').ok_or("a parameter after ? has no =")?;
        let (name, value) = (decoded(name)?, decoded(value)?);
        // JDBC writes `sslmode=require` as `ssl=true`.
        if (name.as_str(), value.as_str()) == ("ssl", "true") {
            pairs.push(("sslmode".to_owned(), "require".to_owned()));
        } else {
            pairs.push((name, value));
        }
    }
    Ok(pairs)
}

fn decoded(text: &str) -> Result<String, Malformed> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(ENCODE) };
        match u8::try_from(high * 16 + low) {
            Ok(byte) if byte != 0 => bytes.push(byte),
            _ => return Err("%00 is not allowed"),
        }
    }
    String::from_utf8(bytes).map_err(|_| "not valid UTF-8 after percent-decoding")
}

/// Splits `key = value` words. A value may be quoted with `'`, and `\` escapes the next character.
fn split_words(text: &str) -> Result<Pairs, Malformed> {
    let mut pairs = Pairs::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or("a parameter has no =")?;
        let key = key.trim_end();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err("a parameter has no =; put values with blanks into single quotes");
        }
        let (value, after) = word(after.trim_start())?;
        pairs.push((key.to_owned(), value));
        rest = after.trim_start();
    }
    Ok(pairs)
}

fn word(text: &str) -> Result<(String, &str), Malformed> {
    let (quoted, mut rest) = match text.strip_prefix('\'') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut value = String::new();
    loop {
        let mut chars = rest.chars();
        match chars.next() {
            None if quoted => return Err("a quoted value is not closed"),
            None => return Ok((value, "")),
            Some('\'') if quoted => return Ok((value, chars.as_str())),
            Some(blank) if blank.is_whitespace() && !quoted => return Ok((value, chars.as_str())),
            Some('\\') => value.extend(chars.next()),
            Some(plain) => value.push(plain),
        }
        rest = chars.as_str();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> String {
        let pairs = split(text).unwrap();
        pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn urls_and_keyword_strings_are_equivalent() {
        for (text, parameters) in [
            ("postgres://", ""),
            (
                "postgresql://o:p%40ss@db:6432/app?sslmode=verify-full",
                "user=o password=p@ss host=db port=6432 dbname=app sslmode=verify-full",
            ),
            ("postgres://a:1,b,[::1]:2/app", "host=a,b,::1 port=1,,2 dbname=app"),
            ("postgres:///app?host=/run/pg&ssl=true", "dbname=app host=/run/pg sslmode=require"),
            ("postgres://%2Frun%2Fpg/app", "host=/run/pg dbname=app"),
            ("postgres://db?user=o", "host=db user=o"),
            ("host=db  port = 5432 password='a \\' b\\\\' user=o\\ x", "host=db port=5432 password=a ' b\\ user=o x"),
            ("dbname='' user=o", "dbname= user=o"),
        ] {
            assert_eq!(shown(text), parameters, "{text}");
        }
    }

    #[test]
    fn errors_do_not_quote_the_input() {
        for text in [
            "postgres://o:hun/ter2@db/app",
            "postgres://o:hun@ter2@db/app",
            "postgres://o:hunter2%zz@db/app",
            "postgres://o:hunter2%00@db/app",
            "postgres://o:hunter2",
            "postgres://[::1/app",
            "postgres://[::1]x/app",
            "postgres://db/app?hunter2",
            "host=db password='hunter2",
            "password=hun ter2",
            "hunter2",
        ] {
            let said = split(text).unwrap_err();
            assert!(!said.contains("ter2"), "{text}: {said}");
        }
    }

    proptest! {
        #[test]
        fn any_value_survives_quoting(value in ".*", other in "[a-z]{1,9}") {
            let quoted = value.replace('\\', "\\\\").replace('\'', "\\'");
            let pairs = split(&format!("password='{quoted}' user={other}")).unwrap();
            prop_assert_eq!(pairs, vec![("password".to_owned(), value), ("user".to_owned(), other)]);
        }

        #[test]
        fn any_value_survives_percent_encoding(value in "[^\\x00]+") {
            let encoded: String = value.bytes().map(|byte| format!("%{byte:02x}")).collect();
            let pairs = split(&format!("postgres://o:{encoded}@db/app")).unwrap();
            prop_assert_eq!(&pairs[1], &("password".to_owned(), value));
        }

        #[test]
        fn no_input_makes_the_parser_panic(text in "(postgres://)?.*") {
            let _ = split(&text);
        }
    }
}
