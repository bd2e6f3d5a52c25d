//! `backfilld completions`: for the shell's own completion.

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use super::{Cli, show};
use crate::error::Result;

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs) -> Result<u8> {
    let mut script = Vec::new();
    generate(args.shell, &mut Cli::command(), "backfilld", &mut script);
    show::print(&String::from_utf8_lossy(&script))?;
    Ok(0)
}
