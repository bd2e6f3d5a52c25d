//! Reads `pg_service.conf`, which contains named sets of connection parameters.

use std::path::{Path, PathBuf};

use super::words::Pairs;
use crate::config::environment::Environment;
use crate::error::{Error, Kind, Result};

/// Returns the files that libpq reads if no file is named: the user's file, then the system's file.
fn places(environment: Environment) -> Vec<PathBuf> {
    let home = environment("HOME").map(|home| Path::new(&home).join(".pg_service.conf"));
    let system = environment("PGSYSCONFDIR").unwrap_or_else(|| "/etc/postgresql-common".to_owned());
    home.into_iter().chain([Path::new(&system).join("pg_service.conf")]).collect()
}

/// Returns the parameters of a service. `file` is the file that the user named, if any.
///
/// # Errors
/// [`Kind::Config`] if no file contains the service, or if a file cannot be read or parsed.
pub(super) fn read(service: &str, file: Option<&str>, environment: Environment) -> Result<Pairs> {
    let files = file.map_or_else(|| places(environment), |file| vec![PathBuf::from(file)]);
    for path in &files {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && file.is_none() => continue,
            Err(error) => {
                return Err(Error::new(
                    Kind::Config,
                    format!("could not read the service file {}: {error}", path.display()),
                ));
            }
        };
        let found = section(&text, service).map_err(|line| {
            Error::new(Kind::Config, format!("line {line} of {} is not of the form key=value", path.display()))
        })?;
        if let Some(pairs) = found {
            return Ok(pairs);
        }
    }
    let files: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
    Err(Error::new(Kind::Config, format!("service \"{service}\" not found in: {}", files.join(", ")))
        .hint("Add a section with that name, or set servicefile or PGSERVICEFILE to the right file."))
}

/// Returns the parameters in the section of a service.
///
/// # Errors
/// The number of the first line that cannot be parsed.
fn section(text: &str, service: &str) -> Result<Option<Pairs>, usize> {
    let mut found: Option<Pairs> = None;
    let mut inside = false;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            if found.is_some() {
                break;
            }
            inside = name == service;
            if inside {
                found = Some(Pairs::new());
            }
        } else if let (true, Some(pairs)) = (inside, &mut found) {
            let (key, value) = line.split_once('=').ok_or(at + 1)?;
            pairs.push((key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: &str = "# ours\n[other]\nhost=elsewhere\nnonsense\n\n[shop]\nhost = db\n  user=o\n[shop]\nhost=late\n";

    #[test]
    fn a_section_is_found_by_its_name() {
        let pairs = section(FILE, "shop").unwrap().unwrap();
        assert_eq!(pairs, [("host", "db"), ("user", "o")].map(|(k, v)| (k.to_owned(), v.to_owned())));
        assert_eq!(section(FILE, "nope"), Ok(None));
        assert_eq!(section(FILE, "other"), Err(4));
    }

    #[test]
    fn a_missing_service_is_named_with_the_files() {
        let error = read("shop", None, &|name| (name == "HOME").then(|| "/nowhere".to_owned())).unwrap_err();
        assert!(
            error.message.starts_with("service \"shop\" not found in: /nowhere/.pg_service.conf, "),
            "{}",
            error.message
        );
    }

    proptest! {
        #[test]
        fn no_file_makes_the_parser_panic(text in "((\\[|#|)[a-z=]{0,8}(\\]|)\n){0,6}|.*") {
            if let Ok(Some(pairs)) = section(&text, "a") {
                prop_assert!(pairs.iter().all(|(key, value)| key.trim() == key && value.trim() == value));
            }
        }
    }
}
