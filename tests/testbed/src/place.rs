//! Directories that are removed automatically, and the user that runs the servers.

use crate::SetupError;
use crate::watchdog::{self, Watchdog};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

/// The user that runs the servers. If the tests run as root, this is another user, because
/// PostgreSQL refuses to run as root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunAs {
    Ourselves,
    User { uid: u32, gid: u32 },
}

impl RunAs {
    pub(crate) fn of_this_machine() -> Result<Self, SetupError> {
        static FOUND: OnceLock<Result<RunAs, SetupError>> = OnceLock::new();
        FOUND.get_or_init(Self::look_up).clone()
    }

    fn look_up() -> Result<Self, SetupError> {
        if our_uid()? != 0 {
            return Ok(Self::Ourselves);
        }
        for name in ["postgres", "nobody"] {
            if let (Some(uid), Some(gid)) = (id(&["-u", name]), id(&["-g", name])) {
                return Ok(Self::User { uid, gid });
            }
        }
        Err(SetupError(
            "PostgreSQL does not run as root, and there is neither a user postgres nor a user nobody: create the user postgres, or run as a user other than root"
                .to_owned(),
        ))
    }

    pub(crate) fn apply(self, command: &mut Command) -> &mut Command {
        match self {
            Self::Ourselves => command,
            Self::User { uid, gid } => command.uid(uid).gid(gid),
        }
    }

    pub(crate) fn own(self, path: &Path) -> std::io::Result<()> {
        match self {
            Self::Ourselves => Ok(()),
            Self::User { uid, gid } => std::os::unix::fs::chown(path, Some(uid), Some(gid)),
        }
    }
}

fn our_uid() -> Result<u32, SetupError> {
    id(&["-u"]).ok_or_else(|| SetupError("could not run `id -u`".to_owned()))
}

fn id(args: &[&str]) -> Option<u32> {
    let output = Command::new("id").args(args).output().ok().filter(|output| output.status.success())?;
    String::from_utf8_lossy(&output.stdout).trim().parse().ok()
}

/// Returns the parent directory of all places, and creates it if necessary. The directory is
/// `backfilld-testbed-UID` in `BACKFILLD_TESTBED_DIR`, or in the system's temporary directory if
/// that variable is not set.
pub(crate) fn base() -> Result<PathBuf, SetupError> {
    let parent = std::env::var_os("BACKFILLD_TESTBED_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let setup_error = |what: &str, error: std::io::Error| SetupError(format!("{}: {what}: {error}", parent.display()));
    std::fs::create_dir_all(&parent).map_err(|error| setup_error("could not create the directory", error))?;
    // The path must be resolved, because processes are identified by their working directory, and
    // the system reports the resolved working directory.
    let real = std::fs::canonicalize(&parent).map_err(|error| setup_error("could not resolve the path", error))?;
    let uid = our_uid()?;
    let base = real.join(format!("backfilld-testbed-{uid}"));
    match std::fs::DirBuilder::new().mode(0o755).create(&base) {
        // The user that runs the server must be able to enter the directory, whatever the umask is.
        Ok(()) => std::fs::set_permissions(&base, std::fs::Permissions::from_mode(0o755)),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
    .map_err(|error| setup_error("could not create a directory in it", error))?;
    // In a shared temporary directory, any user could have created a directory or a symbolic link
    // of this name.
    let meta = std::fs::symlink_metadata(&base)
        .map_err(|error| setup_error("could not check the owner of a directory in it", error))?;
    if !meta.is_dir() || meta.uid() != uid {
        return Err(SetupError(format!(
            "{} is not a directory of this user: set BACKFILLD_TESTBED_DIR to another directory",
            base.display()
        )));
    }
    Ok(base)
}

/// A directory that is removed on drop. Before the removal, each process with a working directory
/// in it is killed.
#[derive(Debug)]
pub struct Place {
    dir: PathBuf,
    watchdog: Mutex<Watchdog>,
}

impl Place {
    pub(crate) fn new(kind: &str, owner: RunAs) -> Result<Self, SetupError> {
        let name = format!("{kind}-{}-{:.8}", std::process::id(), uuid::Uuid::new_v4().simple().to_string());
        let dir = base()?.join(name);
        let setup_error = |error: std::io::Error| SetupError(format!("{}: {error}", dir.display()));
        // The watchdog starts before the directory is created. The watchdog therefore removes the
        // directory even if the test's process is killed immediately after creating it.
        let watchdog = Watchdog::over(&dir).map_err(setup_error)?;
        std::fs::DirBuilder::new().mode(0o700).create(&dir).map_err(setup_error)?;
        owner.own(&dir).map_err(setup_error)?;
        Ok(Self { dir, watchdog: Mutex::new(watchdog) })
    }

    /// Creates a directory for the files of a test. `kind` is the first part of its name.
    pub fn of_test(kind: &str) -> Result<Self, SetupError> {
        Self::new(kind, RunAs::Ourselves)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Keeps the directory and the processes in it until [`remove_kept`] is called.
    pub fn keep(&self) {
        std::fs::write(self.dir.join(KEPT), "").expect("mark the directory as kept");
        self.watchdog.lock().expect("no panic under this lock").stand_down();
    }
}

const KEPT: &str = "kept";

/// Ends the processes in every kept place, and removes the place. Returns the removed directories.
pub fn remove_kept() -> Result<Vec<PathBuf>, SetupError> {
    let base = base()?;
    let entries = std::fs::read_dir(&base).map_err(|error| SetupError(format!("{}: {error}", base.display())))?;
    let kept: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|dir| dir.join(KEPT).exists()).collect();
    for dir in &kept {
        watchdog::remove(dir).map_err(|error| SetupError(format!("{}: {error}", dir.display())))?;
    }
    Ok(kept)
}
