//! Runs `initdb` once per version, then copies the result.

use crate::SetupError;
use crate::binaries::Binaries;
use crate::place::{self, RunAs};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Version of the recipe below. Increase it when the recipe changes, so that no test uses a
/// template of an older recipe.
const RECIPE: u32 = 1;

/// Copies a new data directory to `target`, which must not exist. Blocks for about 2 s the first
/// time, and for about 50 ms each time after that.
pub(crate) fn copy_to(target: &Path, binaries: &Binaries, run_as: RunAs) -> Result<(), SetupError> {
    let template = ready(binaries, run_as)?;
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(&template).arg(target);
    run(run_as.apply(&mut copy)).map(drop)
}

fn ready(binaries: &Binaries, run_as: RunAs) -> Result<PathBuf, SetupError> {
    let base = place::base()?;
    let version: String = binaries.version().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let template = base.join(format!("template-{RECIPE}-{version}"));
    if template.join("data/PG_VERSION").exists() {
        return Ok(template.join("data"));
    }
    let failed = |error: std::io::Error| SetupError(format!("{}: {error}", template.display()));
    let lock = File::create(base.join("template.lock")).map_err(failed)?;
    lock.lock().map_err(failed)?;
    if template.join("data/PG_VERSION").exists() {
        return Ok(template.join("data"));
    }
    // The template has another name until it is complete. Otherwise the result of a killed initdb
    // would become the template of all tests.
    let unfinished = base.join(format!("unfinished-{RECIPE}-{version}"));
    let _ = std::fs::remove_dir_all(&unfinished);
    std::fs::create_dir(&unfinished).map_err(failed)?;
    run_as.own(&unfinished).map_err(failed)?;
    let mut outcome = Ok(());
    // glibc and musl have C.UTF-8. Other C libraries may lack it.
    for locale in ["C.UTF-8", "C"] {
        outcome = initdb(&unfinished.join("data"), locale, binaries, run_as);
        if outcome.is_ok() {
            break;
        }
    }
    outcome?;
    std::fs::rename(&unfinished, &template).map_err(failed)?;
    Ok(template.join("data"))
}

fn initdb(data: &Path, locale: &str, binaries: &Binaries, run_as: RunAs) -> Result<(), SetupError> {
    let mut command = binaries.command("initdb");
    command.arg("--pgdata").arg(data).arg(format!("--locale={locale}")).current_dir("/");
    command.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync", "--no-instructions"]);
    run(run_as.apply(&mut command)).map(drop)
}

/// Runs a command to its end. The error contains the output of the command.
pub(crate) fn run(command: &mut Command) -> Result<Output, SetupError> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| SetupError(format!("{command:?}: {error}")))?;
    if output.status.success() {
        return Ok(output);
    }
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Err(SetupError(format!("{command:?}: {}\n{out}{err}", output.status)))
}
