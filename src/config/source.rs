//! Reads a login from its source: the configuration itself, an environment variable, or a separate
//! file.

use std::fs;
use std::path::Path;

use super::environment::Environment;
use super::secret::{Login, Password, SecretUrl};
use crate::error::{Error, Kind, Result};

/// The configuration keys of one login.
#[derive(Clone, Copy)]
pub(super) struct Sources<'a> {
    pub url: Option<&'a SecretUrl>,
    pub url_env: Option<&'a str>,
    pub url_file: Option<&'a Path>,
    pub password_env: Option<&'a str>,
    pub password_file: Option<&'a Path>,
}

const ONE_SOURCE: &str = "Set exactly one of url, url_env and url_file.";
const ONE_PASSWORD: &str = "Keep only one of: the password in the url, password_env, password_file.";

/// Checks that exactly one URL is set, that a URL in the configuration has the form of a connection
/// string, and that at most one password is set.
pub(super) fn check(sources: Sources) -> Result<()> {
    let Sources { url, url_env, url_file, password_env, password_file } = sources;
    let set: Vec<&str> = [(url.is_some(), "url"), (url_env.is_some(), "url_env"), (url_file.is_some(), "url_file")]
        .into_iter()
        .filter_map(|(is_set, name)| is_set.then_some(name))
        .collect();
    match set.as_slice() {
        [] => return Err(Error::new(Kind::Config, "no url is set").hint(ONE_SOURCE)),
        [_] => url.map_or(Ok(()), |url| check_shape(url, "url"))?,
        several => {
            let how = if several.len() == 2 { "both" } else { "all" };
            return Err(Error::new(Kind::Config, format!("{} are {how} set", several.join(" and "))).hint(ONE_SOURCE));
        }
    }
    if password_env.is_some() && password_file.is_some() {
        return Err(Error::new(Kind::Config, "password_env and password_file are both set").hint(ONE_PASSWORD));
    }
    url.map_or(Ok(()), |url| check_one_password(url, sources))
}

/// Returns the name of an environment variable for a message. Hides any text that is not an
/// upper-case name, because the text may be the secret itself, set under the wrong key.
fn shown(name: &str) -> &str {
    let is_name = !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    if is_name { name } else { "(not shown, because it is not an upper-case name)" }
}

/// Returns the text that a message shows for a path. Hides a URL and any text without a `/`,
/// because the text may be the secret itself.
fn shown_path(path: &std::path::Path) -> String {
    let text = path.display().to_string();
    if text.contains('/') && !text.contains("://") { text } else { "(not shown, because it is not a path)".to_owned() }
}

/// Returns the current connection string.
pub(super) fn resolve_url(sources: Sources, environment: Environment) -> Result<SecretUrl> {
    let (found, place) = match (sources.url, sources.url_env, sources.url_file) {
        (Some(url), _, _) => (url.clone(), "url".to_owned()),
        (None, Some(name), _) => {
            let value = environment(name).ok_or_else(|| {
                Error::new(Kind::Config, format!("the environment variable {} (url_env) is not set", shown(name)))
                    .hint("In the environment of backfilld, set this variable to the connection string.")
            })?;
            (SecretUrl::new(value), format!("the environment variable {}", shown(name)))
        }
        (None, None, Some(path)) => {
            let place = format!("the file {}", shown_path(path));
            let text = fs::read_to_string(path)
                .map_err(|error| Error::new(Kind::Config, format!("could not read {place} (url_file): {error}")))?;
            (SecretUrl::new(text), place)
        }
        (None, None, None) => return Err(Error::new(Kind::Config, "no url is set").hint(ONE_SOURCE)),
    };
    check_shape(&found, &place)?;
    Ok(found)
}

/// Returns the current connection string and password.
pub(super) fn resolve(sources: Sources, environment: Environment) -> Result<Login> {
    let url = resolve_url(sources, environment)?;
    check_one_password(&url, sources)?;
    Ok(Login { url, password: resolve_password(sources, environment)? })
}

fn resolve_password(sources: Sources, environment: Environment) -> Result<Option<Password>> {
    let (text, place) = match (sources.password_env, sources.password_file) {
        (None, None) => return Ok(None),
        (Some(name), _) => {
            let place = format!("the environment variable {} (password_env)", shown(name));
            let text = environment(name).ok_or_else(|| {
                Error::new(Kind::Config, format!("{place} is not set"))
                    .hint("Set this variable to the password, in the environment of backfilld.")
            })?;
            (text, place)
        }
        (None, Some(path)) => {
            let place = format!("the file {} (password_file)", shown_path(path));
            let text = fs::read_to_string(path)
                .map_err(|error| Error::new(Kind::Config, format!("could not read {place}: {error}")))?;
            (text, place)
        }
    };
    // Editors and `echo` end a file with a line break, which is not part of the password. Blanks
    // may be part of the password.
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(
            Error::new(Kind::Config, format!("{place} is empty")).hint("Store the password there, and nothing else.")
        );
    }
    Ok(Some(Password::new(password)))
}

fn check_one_password(url: &SecretUrl, sources: Sources) -> Result<()> {
    let apart = sources.password_env.map(|_| "password_env").or(sources.password_file.map(|_| "password_file"));
    match apart {
        Some(key) if url.brings_password() => {
            Err(Error::new(Kind::Config, format!("the url contains a password, but {key} is set too"))
                .hint(ONE_PASSWORD))
        }
        _ => Ok(()),
    }
}

fn check_shape(url: &SecretUrl, place: &str) -> Result<()> {
    if url.looks_right() {
        return Ok(());
    }
    let what = if url.is_empty() { "is empty" } else { "is not a connection string" };
    Err(Error::new(Kind::Config, format!("{place} {what}"))
        .hint("Write postgres://user:password@host:5432/database, or host=... user=... dbname=..."))
}
