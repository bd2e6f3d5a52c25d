//! `backfilld uninstall`: prints what will be lost, and removes schema backfill from the database.

use std::io::{IsTerminal, Write};

use clap::Args;

use super::{session, show};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::pg::connect::within;
use crate::pg::pools::CONTROL_LIMIT;
use crate::pg::row::Columns;
use crate::pg::schema::ownership;
use crate::pg::schema::state::{self, Found};
use crate::text;

#[derive(Debug, Args)]
pub struct UninstallArgs {
    /// Do not ask for confirmation; required if standard input is not a terminal
    #[arg(long)]
    yes: bool,
    /// Uninstall even if jobs or rollouts are unfinished, a daemon is running, or other objects
    /// depend on the schema
    #[arg(long)]
    force: bool,
}

/// Reads what the removal deletes and what prevents the removal. The dependents are the views and
/// functions outside the schema that use objects of the schema.
const CENSUS: &str = "
select current_database()::text,
       (select count(*) from backfill.jobs),
       (select count(*) from backfill.jobs where finished_at is null),
       (select string_agg(name, ', ') from (select name from backfill.jobs where finished_at is null order by id limit 5) x),
       (select string_agg(format('%s (pid %s)', host, pid), ', ') from backfill.workers where alive),
       (select string_agg(distinct pg_describe_object(d.classid, d.objid, 0), ', ')
          from pg_depend d
          left join pg_rewrite w on d.classid = 'pg_rewrite'::regclass and w.oid = d.objid
          left join pg_class v on v.oid = w.ev_class
          left join pg_proc p on d.classid = 'pg_proc'::regclass and p.oid = d.objid
         where coalesce(v.relnamespace, p.pronamespace) <> 'backfill'::regnamespace
           and (d.refclassid = 'pg_class'::regclass and d.refobjid in (select oid from pg_class where relnamespace = 'backfill'::regnamespace)
             or d.refclassid = 'pg_proc'::regclass and d.refobjid in (select oid from pg_proc where pronamespace = 'backfill'::regnamespace)))";

/// Reads whether the schema contains the view `rollouts`. A schema of version 16 does not contain
/// it.
const HAS_ROLLOUTS: &str = "select to_regclass('backfill.rollouts') is not null";
const ROLLOUTS: &str = "select string_agg(name, ', ' order by id) from (select name, id from backfill.rollouts where finished_at is null order by id limit 5) x";

/// Takes the lock of the migrations. Without this lock, a daemon that starts at the same time could
/// migrate the schema while it is being dropped.
const LOCK: &str = "set local lock_timeout = '5s'; set local statement_timeout = '60s';
select pg_catalog.pg_advisory_xact_lock(1650551145, 1)";

const DROP: &str = "set local client_min_messages = warning; drop schema backfill cascade";

pub(super) async fn run(config: &Config, args: UninstallArgs) -> Result<u8> {
    let mut session = session::open_direct(config, config.database()?).await?;
    // The check comes first, because the census reads the schema's views, and these views execute
    // the schema's functions.
    ownership::check(&session.client).await.map_err(not_owner)?;
    if state::found(&session.client).await.map_err(not_allowed)? == Found::Absent {
        show::line("schema backfill is not installed in this database: nothing to do")?;
        return Ok(0);
    }
    // The first census runs outside a transaction, because the user's confirmation may take longer
    // than a transaction is allowed to stay open.
    let first = census(&session.client).await?;
    if !args.force {
        first.refuse()?;
    }
    eprintln!("{}", first.told());
    if !args.yes && !agreed(&first.database)? {
        return Err(Error::new(Kind::Usage, "nothing was removed: the answer did not match")
            .hint("Type the database name exactly, or use --yes."));
    }
    let transaction = session.client.transaction().await.map_err(Error::from)?;
    transaction.batch_execute(LOCK).await.map_err(Error::from)?;
    if !args.force {
        census(transaction.client()).await?.refuse()?;
    }
    transaction.batch_execute(DROP).await.map_err(|error| not_allowed(Error::from(error)))?;
    transaction.commit().await.map_err(Error::from)?;
    show::line(&format!("schema backfill removed from database \"{}\"", first.database))?;
    Ok(0)
}

struct Census {
    database: String,
    jobs: i64,
    live: i64,
    live_names: String,
    daemons: Option<String>,
    dependents: Option<String>,
    /// The names of up to five unfinished rollouts.
    rollouts: Option<String>,
}

async fn census(client: &tokio_postgres::Client) -> Result<Census> {
    let row = within(CONTROL_LIMIT, client.query_one(CENSUS, &[])).await.map_err(not_allowed)?;
    let has_rollouts: bool = within(CONTROL_LIMIT, client.query_one(HAS_ROLLOUTS, &[])).await?.read(0)?;
    let rollouts = match has_rollouts {
        true => within(CONTROL_LIMIT, client.query_one(ROLLOUTS, &[])).await.map_err(not_allowed)?.read(0)?,
        false => None,
    };
    Ok(Census {
        database: row.read(0)?,
        jobs: row.read(1)?,
        live: row.read(2)?,
        live_names: row.read::<Option<String>>(3)?.unwrap_or_default(),
        daemons: row.read(4)?,
        dependents: row.read(5)?,
        rollouts,
    })
}

impl Census {
    fn refuse(&self) -> Result<()> {
        let (what, detail, hint) = if self.live > 0 {
            let more = if self.live > 5 { ", ..." } else { "" };
            let what = if self.live == 1 {
                "1 job has not finished".to_owned()
            } else {
                format!("{} jobs have not finished", self.live)
            };
            (
                what,
                format!("{}{more}", self.live_names),
                "Wait until all jobs have finished, or cancel them with: backfilld cancel NAME. With --force, unfinished jobs are deleted.",
            )
        } else if let Some(rollouts) = &self.rollouts {
            (
                "some rollouts have not finished".to_owned(),
                rollouts.clone(),
                "The triggers of the rollouts would stay in the tables. Finish each rollout, or roll it back with: backfilld rollout rollback NAME. --force overrides this check.",
            )
        } else if let Some(daemons) = &self.daemons {
            let what = "a daemon is running on this database".to_owned();
            (
                what,
                daemons.clone(),
                "Stop the daemon first (SIGTERM), and do not let it restart: it installs the schema when it starts. --force overrides this check.",
            )
        } else if let Some(dependents) = &self.dependents {
            (
                "other objects depend on schema backfill".to_owned(),
                dependents.clone(),
                "Drop these objects first, or use --force to drop them with the schema.",
            )
        } else {
            return Ok(());
        };
        Err(Error::new(Kind::WrongState, what).detail(detail).hint(hint))
    }

    fn told(&self) -> String {
        let mut text = format!(
            "This removes schema backfill from database \"{}\": {} with their definitions and results, and all events.\n\
             A migration that enqueues one of these jobs again will run it again. Your tables are not changed.\n\
             The roles backfill_reader, backfill_submitter and backfill_operator are kept: roles belong to the whole server,\n\
             and other databases may use them. To remove them: drop role backfill_reader, backfill_submitter, backfill_operator;",
            self.database,
            if self.jobs == 1 { "1 job".to_owned() } else { format!("{} jobs", text::count(self.jobs)) },
        );
        if let Some(dependents) = &self.dependents {
            text.push_str(&format!("\nThese objects depend on the schema and are dropped too: {dependents}."));
        }
        text
    }
}

/// Asks the user on the terminal to type the database name, and returns whether the user typed it.
///
/// # Errors
/// [`Kind::Usage`] if standard input is not a terminal.
fn agreed(database: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(
            Error::new(Kind::Usage, "cannot ask for confirmation: standard input is not a terminal").hint("Use --yes.")
        );
    }
    eprint!("Type the name of the database ({database}) to continue: ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Error::new(Kind::Internal, format!("could not read standard input: {error}")))?;
    Ok(answer.trim() == database)
}

fn not_owner(error: Error) -> Error {
    match error.kind {
        Kind::Schema => Error { kind: Kind::Permission, ..error }
            .hint("Run uninstall as the owner of schema backfill. As an administrator, run without backfilld: drop schema backfill cascade;"),
        _ => session::explain(error),
    }
}

fn not_allowed(error: Error) -> Error {
    match error.kind {
        Kind::Permission => error.hint("Run uninstall as the owner of schema backfill."),
        _ => session::explain(error),
    }
}
