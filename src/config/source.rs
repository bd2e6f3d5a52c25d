//! Where a connection string comes from: the file itself, an environment variable, or a file of its own.

use std::fs;
use std::path::Path;

use super::{Environment, SecretUrl};
use crate::error::{Error, Kind, Result};

/// `url`, `url_env`, `url_file`.
pub(super) type Sources<'a> = (Option<&'a SecretUrl>, Option<&'a str>, Option<&'a Path>);

const ONE_SOURCE: &str = "set exactly one of url, url_env and url_file";

/// Exactly one is set, and a url that stands in the file has the shape of one.
pub(super) fn check((url, url_env, url_file): Sources) -> Result<()> {
    let set: Vec<&str> = [(url.is_some(), "url"), (url_env.is_some(), "url_env"), (url_file.is_some(), "url_file")]
        .into_iter()
        .filter_map(|(is_set, name)| is_set.then_some(name))
        .collect();
    match set.as_slice() {
        [] => Err(Error::new(Kind::Config, "no url is set").hint(ONE_SOURCE)),
        [_] => url.map_or(Ok(()), |url| check_shape(url, "url")),
        several => Err(Error::new(Kind::Config, format!("{} are both set", several.join(" and "))).hint(ONE_SOURCE)),
    }
}

/// The connection string as it is now.
pub(super) fn resolve((url, url_env, url_file): Sources, environment: Environment) -> Result<SecretUrl> {
    let (found, place) = match (url, url_env, url_file) {
        (Some(url), _, _) => (url.clone(), "url".to_owned()),
        (None, Some(name), _) => {
            let value = environment(name).ok_or_else(|| {
                Error::new(Kind::Config, format!("the environment variable {name} (url_env) is not set"))
                    .hint("set it to the connection string in the daemon's environment")
            })?;
            (SecretUrl::new(value), format!("the environment variable {name}"))
        }
        (None, None, Some(path)) => {
            let place = format!("the file {}", path.display());
            let text = fs::read_to_string(path)
                .map_err(|error| Error::new(Kind::Config, format!("cannot read {place} (url_file): {error}")))?;
            (SecretUrl::new(text), place)
        }
        (None, None, None) => return Err(Error::new(Kind::Config, "no url is set").hint(ONE_SOURCE)),
    };
    check_shape(&found, &place)?;
    Ok(found)
}

fn check_shape(url: &SecretUrl, place: &str) -> Result<()> {
    if url.looks_right() {
        return Ok(());
    }
    let what = if url.is_empty() { "is empty" } else { "is no connection string" };
    Err(Error::new(Kind::Config, format!("{place} {what}"))
        .hint("write postgres://user:password@host:5432/database, or host=... user=... dbname=..."))
}
