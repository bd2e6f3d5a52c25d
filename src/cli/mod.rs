//! The command line: one file per verb. A verb prints its result to standard output and what a person should know
//! beside it to standard error, and returns the exit code.

mod approve;
mod cancel;
mod completions;
mod doctor;
mod duration;
mod enqueue;
mod forget;
mod jobs;
mod man;
mod migrate;
mod options;
mod pause;
mod preview;
mod probe;
mod rerun;
mod resume;
mod retry;
mod run;
mod session;
mod show;
mod spec;
mod status;
mod tune;
mod uninstall;
mod usage;
mod wait;
mod watch;

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::Config;
use crate::config::args::LoadArgs;
use crate::error::Result;

/// Fills columns of live PostgreSQL tables without anyone noticing.
#[derive(Debug, Parser)]
#[command(
    name = "backfilld",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "Exit codes: 0 fine, 1 the work failed, 2 usage, 3 something still waits,\n            \
                  69 database not reachable, 75 timeout, 77 permission, 78 config."
)]
pub struct Cli {
    #[command(flatten)]
    pub connection: Connection,
    #[command(subcommand)]
    pub command: Command,
}

/// Which database. `Config::load` reads the variables itself, so that no help text can show a password.
#[derive(Args)]
#[command(next_help_heading = "Which database")]
pub struct Connection {
    /// The configuration file [env: BACKFILLD_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The database [env: BACKFILLD_DATABASE_URL; DATABASE_URL if there is no config]
    ///
    /// In place of the url of the selected, or sole, database of the configuration. A variable is better: flags are
    /// seen in the process list.
    #[arg(long, global = true, value_name = "URL")]
    database_url: Option<String>,
    /// Which of the databases in the configuration
    #[arg(long, global = true, value_name = "NAME")]
    database: Option<String>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { config, database_url, database } = self;
        let shown = LoadArgs {
            config: config.clone(),
            database_url: database_url.clone(),
            database: database.clone(),
            listen: None,
        };
        shown.fmt(f)
    }
}

impl From<Connection> for LoadArgs {
    fn from(Connection { config, database_url, database }: Connection) -> Self {
        Self { config, database_url, database, listen: None }
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    #[command(flatten)]
    OnDatabase(OnDatabase),
    #[command(flatten)]
    Alone(Alone),
}

/// The verbs that need a configured database.
#[derive(Debug, Subcommand)]
pub enum OnDatabase {
    /// Run the daemon
    Run(run::RunArgs),
    /// Install or upgrade schema backfill
    Migrate(migrate::MigrateArgs),
    /// Remove schema backfill from the database
    Uninstall(uninstall::UninstallArgs),
    /// Ask for a column of a table to be filled, or for rows to be deleted
    Enqueue(enqueue::EnqueueArgs),
    /// Show what a job would do: rows, time, WAL, growth, some rows before and after; changes nothing
    Preview(preview::PreviewArgs),
    /// Show the jobs, or one of them in full
    Status(status::StatusArgs),
    /// Follow the jobs live until they have ended
    Watch(watch::WatchArgs),
    /// Wait until a job has ended
    Wait(wait::WaitArgs),
    /// Pause a job, or all of them
    Pause(pause::PauseArgs),
    /// Let a paused job go on, or lift the pause of all
    Resume(resume::ResumeArgs),
    /// End a job where it is
    Cancel(cancel::CancelArgs),
    /// Let a job start that waits for approval
    Approve(approve::ApproveArgs),
    /// Go on with a failed or cancelled job from where it stopped
    Retry(retry::RetryArgs),
    /// Start an ended job again from the beginning
    Rerun(rerun::RerunArgs),
    /// Change the options of a job, also while it runs
    Tune(tune::TuneArgs),
    /// Remove an ended job and free its name
    Forget(forget::ForgetArgs),
    /// Say what is missing, and how to mend it
    Doctor(doctor::DoctorArgs),
}

/// The verbs that can do without.
#[derive(Debug, Subcommand)]
pub enum Alone {
    /// Ask the running daemon whether it lives, or is ready
    Probe(probe::ProbeArgs),
    /// Print the completions for a shell
    Completions(completions::CompletionsArgs),
    /// Write the manual's pages into a folder
    #[command(hide = true)]
    Man(man::ManArgs),
    /// `migrate --print`
    #[command(skip)]
    PrintMigrations,
}

impl OnDatabase {
    /// Returns the exit code.
    pub async fn run(self, config: Config) -> Result<u8> {
        match self {
            Self::Run(args) => Box::pin(run::run(config, args)).await,
            Self::Migrate(args) => Box::pin(migrate::run(&config, args)).await,
            Self::Uninstall(args) => Box::pin(uninstall::run(&config, args)).await,
            Self::Preview(args) => Box::pin(preview::run(&config, args)).await,
            Self::Enqueue(args) => Box::pin(enqueue::run(&config, args)).await,
            Self::Status(args) => Box::pin(status::run(&config, args)).await,
            Self::Watch(args) => Box::pin(watch::run(&config, args)).await,
            Self::Wait(args) => Box::pin(wait::run(&config, args)).await,
            Self::Pause(args) => Box::pin(pause::run(&config, args)).await,
            Self::Resume(args) => Box::pin(resume::run(&config, args)).await,
            Self::Cancel(args) => Box::pin(cancel::run(&config, args)).await,
            Self::Approve(args) => Box::pin(approve::run(&config, args)).await,
            Self::Retry(args) => Box::pin(retry::run(&config, args)).await,
            Self::Rerun(args) => Box::pin(rerun::run(&config, args)).await,
            Self::Tune(args) => Box::pin(tune::run(&config, args)).await,
            Self::Forget(args) => Box::pin(forget::run(&config, args)).await,
            Self::Doctor(args) => Box::pin(doctor::run(&config, args)).await,
        }
    }
}

impl Alone {
    /// Returns the exit code.
    pub async fn run(self, connection: Connection) -> Result<u8> {
        match self {
            Self::Probe(args) => probe::run(connection.into(), args).await,
            Self::Completions(args) => completions::run(&args, Cli::command()),
            Self::Man(args) => man::run(&args, Cli::command()),
            Self::PrintMigrations => migrate::print(),
        }
    }
}
