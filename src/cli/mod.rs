//! The command line: one file per verb. A verb prints its result to standard output, prints remarks
//! for the user to standard error, and returns the exit code.

mod approve;
mod cancel;
mod commands;
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
mod rollout;
mod rollout_wait;
mod run;
mod session;
mod show;
mod spec;
mod statement;
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

/// Backfill columns of live PostgreSQL tables, in small batches that adapt to replica lag, lock
/// waits and load
#[derive(Debug, Parser)]
#[command(
    name = "backfilld",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "Exit codes: 0 success, 1 failed, 2 usage error, 3 no job failed, but some wait or are paused,\n            \
                  69 database not reachable, 75 timeout, 77 permission denied, 78 configuration error."
)]
pub struct Cli {
    #[command(flatten)]
    pub connection: Connection,
    #[command(subcommand)]
    pub command: Command,
}

/// The flags that select the database. `Config::load`, not clap, reads the environment variables,
/// because clap would show the value of a variable, which may contain a password, in the help text.
#[derive(Args)]
#[command(next_help_heading = "Database")]
pub struct Connection {
    /// Configuration file [env: BACKFILLD_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Connection string of the database [env: BACKFILLD_DATABASE_URL; DATABASE_URL if there is no
    /// config]
    ///
    /// Overrides the configured url of the selected database, or of the only database. An
    /// environment variable is safer, because flags are visible in the process list.
    #[arg(long, global = true, value_name = "URL")]
    database_url: Option<String>,
    /// Name of one of the databases in the configuration
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

/// Commands that need a configured database.
#[derive(Debug, Subcommand)]
pub enum OnDatabase {
    /// Run the daemon
    Run(run::RunArgs),
    /// Install or upgrade schema backfill
    Migrate(migrate::MigrateArgs),
    /// Remove schema backfill and all jobs from the database
    Uninstall(uninstall::UninstallArgs),
    /// Create a backfill job that updates or deletes rows
    Enqueue(enqueue::EnqueueArgs),
    /// Show what a job would do (rows, time, WAL, growth, sample rows) without changing anything
    Preview(preview::PreviewArgs),
    /// List jobs, or show one job in full
    Status(status::StatusArgs),
    /// Follow jobs until they finish
    Watch(watch::WatchArgs),
    /// Wait until a job finishes
    Wait(wait::WaitArgs),
    /// Pause a job, or all jobs
    Pause(pause::PauseArgs),
    /// Resume a paused job, or end the pause of all jobs
    Resume(resume::ResumeArgs),
    /// Cancel a job; changes already committed are kept
    Cancel(cancel::CancelArgs),
    /// Approve a job that waits for approval
    Approve(approve::ApproveArgs),
    /// Continue a failed or cancelled job where it stopped
    Retry(retry::RetryArgs),
    /// Run a finished job again from the beginning
    Rerun(rerun::RerunArgs),
    /// Change the options of a job, even while it is running
    Tune(tune::TuneArgs),
    /// Delete a finished job and free its name
    Forget(forget::ForgetArgs),
    /// Plan, start and control a rollout, which adds a new column in stages
    Rollout(rollout::RolloutArgs),
    /// Check the setup and print how to fix each problem
    Doctor(doctor::DoctorArgs),
}

/// Commands that need no database.
#[derive(Debug, Subcommand)]
pub enum Alone {
    /// Check the liveness or readiness of the running daemon
    Probe(probe::ProbeArgs),
    /// Print a shell completion script
    Completions(completions::CompletionsArgs),
    /// Write the manual pages to a directory
    #[command(hide = true)]
    Man(man::ManArgs),
    /// Print the SQL of the migrations, for `migrate --print`
    #[command(skip)]
    PrintMigrations,
}

impl OnDatabase {
    /// Runs the verb and returns the exit code.
    pub async fn run(self, config: Config) -> Result<u8> {
        let commands = commands::Commands::of(&config);
        let result = match self {
            Self::Run(args) => return Box::pin(run::run(config, args)).await,
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
            Self::Rollout(args) => Box::pin(rollout::run(&config, args)).await,
            Self::Doctor(args) => Box::pin(doctor::run(&config, args)).await,
        };
        result.map_err(|error| commands.explain(error))
    }
}

impl Alone {
    /// Runs the verb and returns the exit code.
    pub async fn run(self, connection: Connection) -> Result<u8> {
        match self {
            Self::Probe(args) => probe::run(connection.into(), args).await,
            Self::Completions(args) => completions::run(&args, Cli::command()),
            Self::Man(args) => man::run(&args, Cli::command()),
            Self::PrintMigrations => migrate::print(),
        }
    }
}
