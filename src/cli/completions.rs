//! `backfilld completions`: prints the completion script for a shell.

use clap::{Args, Command};
use clap_complete::{Shell, generate};

use super::show;
use crate::error::Result;

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs, mut command: Command) -> Result<u8> {
    let mut script = Vec::new();
    generate(args.shell, &mut command, "backfilld", &mut script);
    show::print(&String::from_utf8_lossy(&script))?;
    Ok(0)
}
