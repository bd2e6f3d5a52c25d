//! `backfilld man`: writes the manual pages for packagers, from the same text as `--help`.

use std::path::PathBuf;

use clap::{Args, Command};

use super::show;
use crate::error::{Error, Kind, Result};

#[derive(Debug, Args)]
pub struct ManArgs {
    /// Directory for backfilld.1 and a page for each command
    folder: PathBuf,
}

pub(super) fn run(args: &ManArgs, command: Command) -> Result<u8> {
    let failed = |error: std::io::Error| {
        Error::new(Kind::Internal, format!("could not write the manual pages to {}: {error}", args.folder.display()))
    };
    std::fs::create_dir_all(&args.folder).map_err(failed)?;
    clap_mangen::generate_to(command, &args.folder).map_err(failed)?;
    show::line(&format!("manual pages written; view them with: man {}", args.folder.join("backfilld.1").display()))?;
    Ok(0)
}
