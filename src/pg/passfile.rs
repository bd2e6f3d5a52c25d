//! Reads a password file, by default `~/.pgpass`. Each line is `host:port:database:user:password`,
//! and the first line that matches is used. `*` matches any value. A character after `\`, for
//! example a `:` or another `\`, is part of the field. Source: PostgreSQL documentation, libpq,
//! "The Password File".

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::config::secret::Password;
use crate::error::{Error, Kind, Result};

/// The path of a password file, and whether the user named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passfile {
    pub path: PathBuf,
    /// Whether the user specified the path of the file. The default file is ignored if it is
    /// missing, is not a regular file, cannot be read, or is accessible to other users.
    pub named: bool,
}

/// The connection for which a password is needed.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The host name of the connection. For a Unix socket, the directory of the socket, or
    /// `localhost` if this directory is one of the default directories.
    pub host: &'a str,
    pub port: u16,
    pub database: &'a str,
    pub user: &'a str,
}

impl Passfile {
    /// Returns the password for a connection, if the file has one. Each call reads the file again,
    /// so that a rotated password takes effect without a restart.
    ///
    /// # Errors
    /// [`Kind::Config`] if the user named the file, and the file is not a regular file, cannot be
    /// read, or is accessible to other users.
    pub fn find(&self, wanted: Wanted<'_>) -> Result<Option<Password>> {
        match self.read() {
            Ok(text) => Ok(find(&text, wanted)),
            Err(error) if self.named => Err(error),
            Err(_) if !self.path.exists() => Ok(None),
            Err(error) => {
                tracing::debug!(error = %error.message, "ignoring the password file");
                Ok(None)
            }
        }
    }

    fn read(&self) -> Result<String> {
        let place = || format!("the password file {}", self.path.display());
        let unreadable = |error| Error::new(Kind::Config, format!("could not read {}: {error}", place()));
        let meta = std::fs::metadata(&self.path).map_err(unreadable)?;
        if !meta.is_file() {
            return Err(Error::new(Kind::Config, format!("{} is not a regular file", place())));
        }
        if meta.permissions().mode() & 0o077 != 0 {
            return Err(Error::new(Kind::Config, format!("{} is accessible to other users", place()))
                .hint(format!("Run: chmod 0600 {}", Path::display(&self.path))));
        }
        std::fs::read_to_string(&self.path).map_err(unreadable)
    }
}

fn find(text: &str, wanted: Wanted<'_>) -> Option<Password> {
    let port = wanted.port.to_string();
    let line = |line: &str| {
        let mut rest = line;
        for value in [wanted.host, &port, wanted.database, wanted.user] {
            let (field, after) = field(rest);
            // Only an unescaped star is a wildcard. No host, port, database or user is named `*`,
            // so an escaped star matches nothing.
            if field != value && !rest.starts_with("*:") {
                return None;
            }
            rest = after?;
        }
        Some(field(rest).0)
    };
    let found = text.lines().filter(|text| !text.starts_with('#')).find_map(line)?;
    (!found.is_empty()).then(|| Password::new(found))
}

/// Returns the first field without its escapes, and the text after the `:` that ends the field.
fn field(text: &str) -> (String, Option<&str>) {
    let mut field = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ':' => return (field, Some(chars.as_str())),
            '\\' => field.extend(chars.next()),
            plain => field.push(plain),
        }
    }
    (field, None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHOP: Wanted<'_> = Wanted { host: "db", port: 5432, database: "shop", user: "o:x" };

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        for (text, password) in [
            ("db:5432:shop:o\\:x:secret", Some("secret")),
            ("*:*:*:*:any", Some("any")),
            ("# db:5432:shop:o\\:x:no\n\ndb:5433:*:*:no\ndb:*:shop:*:yes\n*:*:*:*:late", Some("yes")),
            ("db:5432:shop:o\\:x:a\\:b\\\\c d ", Some("a:b\\c d ")),
            ("db:5432:shop:o\\:x:ends:here", Some("ends")),
            ("db:5432:shop", None),
            ("db:5432:shop:o\\:x:", None),
            ("dB:5432:shop:o\\:x:case", None),
            ("*db:5432:shop:o\\:x:star", None),
            ("", None),
        ] {
            assert_eq!(find(text, SHOP).as_ref().map(Password::expose), password, "{text}");
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_refused_if_named_and_ignored_otherwise() {
        let path = std::env::temp_dir().join(format!("backfilld-passfile-{}", uuid::Uuid::new_v4()));
        std::fs::write(&path, "*:*:*:*:hunter2").unwrap();
        let with = |mode, named| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            Passfile { path: path.clone(), named }.find(SHOP)
        };
        assert_eq!(with(0o600, true).unwrap(), Some(Password::new("hunter2")));
        for mode in [0o640, 0o604] {
            let error = with(mode, true).unwrap_err();
            assert!(error.message.contains("is accessible to other users") && error.hint.is_some(), "{error}");
            assert_eq!(with(mode, false).unwrap(), None);
        }
        std::fs::remove_file(&path).unwrap();
        assert!(Passfile { path: path.clone(), named: true }.find(SHOP).is_err());
        assert_eq!(Passfile { path, named: false }.find(SHOP).unwrap(), None);
    }

    proptest! {
        #[test]
        fn escaped_values_are_found(host in "[a-z:\\\\.]{1,9}", password in "[^\r\n\0]{1,20}", before in "[^\r\n]{0,20}") {
            let escaped = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
            let text = format!("#{before}\n{}:*:*:*:{}\n", escaped(&host), escaped(&password));
            let wanted = Wanted { host: &host, ..SHOP };
            prop_assert_eq!(find(&text, wanted).map(|found| found.expose().to_owned()), Some(password));
        }

        #[test]
        fn no_file_makes_the_parser_panic(text in "([*:\\\\a-z]{0,12}\n){0,4}|.*") {
            let _ = find(&text, SHOP);
        }
    }
}
