//! Types for a connection string and a password. Their `Debug` and `Display` output is safe to log.

use std::fmt;

use serde::Deserialize;

/// A libpq connection string, as a URL or as `key=value` words. `Debug` and `Display` show only the
/// user, host, port and database. If the string cannot be parsed with certainty, they show only
/// `(url not shown)`, because any part of the string may belong to a password.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SecretUrl(String);

impl SecretUrl {
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into().trim().to_owned())
    }

    /// Returns the whole string, including the password. Only `pg::conninfo` may use it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether the string contains a password. This is a guess, because only `pg::conninfo`
    /// parses the string exactly.
    pub fn brings_password(&self) -> bool {
        match rest_of_url(&self.0) {
            Some(rest) => {
                let userinfo = rest.split_once('@').map_or("", |(userinfo, _)| userinfo);
                userinfo.split_once(':').is_some_and(|(_, password)| !password.is_empty()) || rest.contains("password=")
            }
            None => self.0.contains("password"),
        }
    }

    /// Returns whether the string can be parsed unambiguously. If the result is false, an error
    /// message must not contain the name of a parameter, because the name may be a part of a
    /// password.
    pub fn is_plain(&self) -> bool {
        parts(&self.0).is_some()
    }

    /// Returns whether the string has the form of a connection string. `pg::conninfo` makes the
    /// final check.
    pub fn looks_right(&self) -> bool {
        rest_of_url(&self.0).is_some() || self.0.contains('=')
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match parts(&self.0) {
            Some(Parts { user, host, database }) => {
                f.write_str("postgres://")?;
                if let Some(user) = user {
                    write!(f, "{user}@")?;
                }
                f.write_str(&host)?;
                database.map_or(Ok(()), |database| write!(f, "/{database}"))
            }
            None => f.write_str("(url not shown)"),
        }
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A password, which only module `pg` may read.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    pub fn new(password: impl Into<String>) -> Self {
        Self(password.into())
    }

    /// Returns the password. Only module `pg` may use it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(password not shown)")
    }
}

/// A connection string, and the password if the configuration contains it separately.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    pub url: SecretUrl,
    /// The password from `password_env` or `password_file`.
    pub password: Option<Password>,
}

impl From<SecretUrl> for Login {
    fn from(url: SecretUrl) -> Self {
        Self { url, password: None }
    }
}

struct Parts {
    user: Option<String>,
    /// The host, followed by the port if one is set.
    host: String,
    database: Option<String>,
}

fn rest_of_url(url: &str) -> Option<&str> {
    url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"))
}

fn parts(url: &str) -> Option<Parts> {
    match rest_of_url(url) {
        Some(rest) => parts_of_url(rest),
        None => parts_of_words(url),
    }
}

fn parts_of_url(rest: &str) -> Option<Parts> {
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // An `@` after the first `/`, `?` or `#`, or a second `@`, may belong to a password that is not
    // percent-encoded. The end of such a password cannot be found.
    if path.contains('@') || authority.matches('@').count() > 1 {
        return None;
    }
    let (userinfo, host) = match authority.split_once('@') {
        Some((userinfo, host)) => (Some(userinfo), host),
        None => (None, authority),
    };
    let user = userinfo.map(|info| info.split(':').next().unwrap_or_default());
    let database = path.split(['?', '#']).next().unwrap_or_default().trim_start_matches('/');
    if !host.split(',').all(is_host) || !user.is_none_or(is_plain) || !is_plain(database) {
        return None;
    }
    Some(Parts {
        user: user.filter(|user| !user.is_empty()).map(str::to_owned),
        host: host.to_owned(),
        database: Some(database).filter(|name| !name.is_empty()).map(str::to_owned),
    })
}

/// Returns whether the text is a host, for example `host`, `host:5432` or `[::1]:5432`. A port must
/// consist of digits, because any other text may be a password in the wrong place.
fn is_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, port)) if name.chars().all(|c| c.is_ascii_hexdigit() || c == ':' || c == '.') => ("", port),
        Some(_) => return false,
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let digits = port.strip_prefix(':').unwrap_or(port);
    is_plain(name) && digits.chars().all(|c| c.is_ascii_digit())
}

/// Returns whether the text certainly contains no password. The result is false for a text with
/// percent-encoded characters, because one of them could be the `:` or `@` before a password.
fn is_plain(text: &str) -> bool {
    text.chars().all(|c| c.is_alphanumeric() || "_.-".contains(c))
}

/// Parses a libpq connection string that consists of `key = value` pairs. A value may be quoted
/// with `'`, and `\` escapes the next character.
fn parts_of_words(text: &str) -> Option<Parts> {
    let (mut user, mut host, mut port, mut database) = (None, None, None, None);
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        let key = key.trim();
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return None;
        }
        let (value, after) = word(after.trim_start())?;
        match key {
            "user" => user = Some(value),
            "host" | "hostaddr" => host = Some(value),
            "port" => port = Some(value),
            "dbname" => database = Some(value),
            _ => {}
        }
        rest = after.trim_start();
    }
    let host = host.unwrap_or_else(|| "localhost".to_owned());
    // The value of `dbname` may be a whole connection string, and the value of `user` may be
    // `user:password`.
    let plain = [&user, &database, &port].into_iter().flatten().all(|text| is_plain(text));
    if !plain || !host.split(',').all(|host| host.starts_with('/') || is_host(host)) {
        return None;
    }
    Some(Parts { user, host: port.map_or_else(|| host.clone(), |port| format!("{host}:{port}")), database })
}

fn word(text: &str) -> Option<(String, &str)> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut chars = text.char_indices().skip(usize::from(quoted));
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.push(chars.next()?.1),
            '\'' if quoted => return Some((value, &text[at + 1..])),
            c if c.is_whitespace() && !quoted => return Some((value, &text[at..])),
            c => value.push(c),
        }
    }
    (!quoted).then_some((value, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_password() {
        for (url, shown) in [
            ("postgres://owner:hunter2@db:5432/app", "postgres://owner@db:5432/app"),
            ("postgresql://owner@db/app?password=hunter2", "postgres://owner@db/app"),
            ("postgres://db/app", "postgres://db/app"),
            ("postgres://o:hunter2@[::1]:5432/app", "postgres://o@[::1]:5432/app"),
            ("postgres://o:hunter2@a:1,b:2/app", "postgres://o@a:1,b:2/app"),
            ("host=db user=owner password=hunter2 dbname=app", "postgres://owner@db/app"),
            ("host = db port=6432 password='hunter2 x\\'y' user=o", "postgres://o@db:6432"),
        ] {
            assert_eq!(SecretUrl::new(url).to_string(), shown);
            assert_eq!(format!("{:?}", SecretUrl::new(url)), format!("\"{shown}\""));
        }
    }

    #[test]
    fn a_url_that_cannot_be_parsed_is_not_shown() {
        for url in [
            "postgres://o:hun/ter2@db/app",
            "postgres://o:hun@ter2@db/app",
            "postgres://o:hun?ter2@db/app",
            "postgres://o:p@hunter2?x@db/app",
            "postgres://o:hunter2",
            "postgres://o:1/hunter2 x",
            "host=db password='hunter2",
            "host=db user=o pass word=hunter2",
            "hunter2",
            "dbname='postgres://o:hunter2@db/app'",
            "host=db user=o:hunter2 dbname=app",
            "host=db user='o hunter2'",
            "host='db hunter2' user=o",
            "host=db user=o dbname=app:hunter2",
            "postgres://o%3Ahunter2@db/app",
            "postgres://o%3ahunter2%40db/app",
            "postgres://o@db/app%3Fpassword=hunter2",
        ] {
            assert_eq!(SecretUrl::new(url).to_string(), "(url not shown)", "{url}");
        }
    }

    #[test]
    fn a_url_that_contains_a_password_is_recognized() {
        for url in
            ["postgres://o:hunter2@db/app", "postgres://db/app?user=o&password=hunter2", "host=db password = hunter2"]
        {
            assert!(SecretUrl::new(url).brings_password(), "{url}");
        }
        for url in ["postgres://o@db/app", "postgres://db:5432/app", "host=db user=o", "postgres://o:@db/app"] {
            assert!(!SecretUrl::new(url).brings_password(), "{url}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        let login = Login { url: SecretUrl::new("postgres://o@db/app"), password: Some(Password::new("hunter2")) };
        assert_eq!(
            format!("{login:?}"),
            "Login { url: \"postgres://o@db/app\", password: Some((password not shown)) }"
        );
    }

    #[test]
    fn the_driver_gets_the_whole_url() {
        assert_eq!(SecretUrl::new(" postgres://o:p@db/app\n").expose(), "postgres://o:p@db/app");
    }
}
