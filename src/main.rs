//! Reads the arguments, runs one command, and returns the exit code. For a command on a database,
//! first reads the configuration and starts the log.

use std::process::ExitCode;

use backfilld::cli::{Cli, Command};
use backfilld::config::Config;
use backfilld::error::Result;
use backfilld::{telemetry, text};

#[tokio::main]
async fn main() -> ExitCode {
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(answer) => return answer.give(),
    };
    match work(cli).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {}", text::printable_lines(&error.to_string()));
            ExitCode::from(error.exit_code())
        }
    }
}

async fn work(Cli { connection, command }: Cli) -> Result<u8> {
    match command {
        Command::Alone(verb) => verb.run(connection).await,
        Command::OnDatabase(verb) => {
            let config = Config::load(connection.into())?;
            telemetry::init(config.log)?;
            verb.run(config).await
        }
    }
}
