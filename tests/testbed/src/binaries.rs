//! Finds PostgreSQL's binaries on this machine.

use crate::SetupError;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The oldest major version that the daemon supports.
pub const OLDEST_MAJOR: u32 = 14;

/// A directory with a server's binaries, all of the same version.
#[derive(Debug, Clone)]
pub struct Binaries {
    dir: PathBuf,
    version: String,
    major: u32,
}

impl Binaries {
    /// Finds the binaries in `PG_BINDIR`, or in the directories of [`candidates`] if `PG_BINDIR` is
    /// not set. Searches only once per process.
    pub fn find() -> Result<&'static Self, SetupError> {
        static FOUND: OnceLock<Result<Binaries, SetupError>> = OnceLock::new();
        FOUND.get_or_init(search).as_ref().map_err(Clone::clone)
    }

    /// Returns the binaries in `dir` if it contains a server (`initdb` and `postgres`) of a
    /// supported version.
    pub fn at(dir: &Path) -> Result<Self, SetupError> {
        for name in ["initdb", "postgres"] {
            if !dir.join(name).is_file() {
                return Err(SetupError(format!("{} has no {name}", dir.display())));
            }
        }
        let version = output_of(Command::new(dir.join("postgres")).arg("--version"))
            .ok_or_else(|| SetupError(format!("could not run {}/postgres --version", dir.display())))?;
        let major =
            major_of(&version).ok_or_else(|| SetupError(format!("{}: no version in \"{version}\"", dir.display())))?;
        if major < OLDEST_MAJOR {
            return Err(SetupError(format!("{} has PostgreSQL {major}, older than {OLDEST_MAJOR}", dir.display())));
        }
        Ok(Self { dir: dir.to_owned(), version, major })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the whole version line, for example `postgres (PostgreSQL) 17.2`.
    pub fn version(&self) -> &str {
        &self.version
    }

    pub fn major(&self) -> u32 {
        self.major
    }

    /// Returns a command without the `PG*` variables, which could direct the command to another
    /// server. The caller runs the command.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.dir.join(name));
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("PG") {
                command.env_remove(key);
            }
        }
        command
    }

    pub fn has(&self, name: &str) -> bool {
        self.dir.join(name).is_file()
    }
}

fn search() -> Result<Binaries, SetupError> {
    // The user named this directory. Falling back to another version would test the wrong server.
    if let Some(dir) = std::env::var_os("PG_BINDIR").filter(|dir| !dir.is_empty()) {
        return Binaries::at(Path::new(&dir)).map_err(|why| SetupError(format!("PG_BINDIR is set, but {why}")));
    }
    let mut tried = Vec::new();
    for dir in candidates() {
        match Binaries::at(&dir) {
            Ok(found) => return Ok(found),
            Err(why) => tried.push(format!("  {why}")),
        }
    }
    if tried.is_empty() {
        tried.push("  none of these directories exists".to_owned());
    }
    Err(SetupError(format!(
        "no PostgreSQL server (initdb, postgres; {OLDEST_MAJOR} or later) found. Tried: pg_config, \
         /usr/lib/postgresql/*/bin, /usr/pgsql-*/bin, Homebrew, PATH.\n{}\n\
         Run scripts/setup-postgres.sh, or set PG_BINDIR to the directory that holds initdb and postgres.",
        tried.join("\n")
    )))
}

/// Returns the directories to search, the best first.
fn candidates() -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = Vec::new();
    if let Some(dir) = output_of(Command::new("pg_config").arg("--bindir")) {
        dirs.push(dir.into());
    }
    dirs.extend(versioned("/usr/lib/postgresql", "", "bin"));
    dirs.extend(versioned("/usr", "pgsql-", "bin"));
    for opt in ["/opt/homebrew/opt", "/usr/local/opt", "/home/linuxbrew/.linuxbrew/opt"] {
        dirs.extend(versioned(opt, "postgresql@", "bin"));
        dirs.push(format!("{opt}/postgresql/bin").into());
    }
    if let Some(path) = std::env::var_os("PATH") {
        dirs.extend(std::env::split_paths(&path).filter(|dir| dir.join("initdb").is_file()));
    }
    dirs.retain(|dir| dir.is_dir());
    dirs
}

/// Returns `parent/prefixN/leaf` for each N that exists, the highest N first.
fn versioned(parent: &str, prefix: &str, leaf: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    let mut found: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((number, entry.path().join(leaf)))
        })
        .collect();
    found.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    found.into_iter().map(|(_, dir)| dir).collect()
}

fn output_of(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned()).filter(|text| !text.is_empty())
}

fn major_of(version: &str) -> Option<u32> {
    let number = version.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_major_version_is_read_from_any_version_line() {
        assert_eq!(major_of("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)"), Some(15));
        assert_eq!(major_of("postgres (PostgreSQL) 18beta2"), Some(18));
        assert_eq!(major_of("postgres"), None);
    }

    #[test]
    fn a_directory_without_a_server_is_refused_by_name() {
        let error = Binaries::at(Path::new("/nowhere")).unwrap_err();
        assert_eq!(error.to_string(), "/nowhere has no initdb");
    }

    #[test]
    fn the_highest_of_several_versions_comes_first() {
        let dir = std::env::temp_dir().join(format!("versions-{}", uuid::Uuid::new_v4()));
        for number in ["9", "14", "17", "other"] {
            std::fs::create_dir_all(dir.join(number)).unwrap();
        }
        let found = versioned(dir.to_str().unwrap(), "", "bin");
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(found, ["17", "14", "9"].map(|number| dir.join(number).join("bin")));
    }
}
