//! Runs the daemon's own vacuum of the table (option `vacuum: run`). A plain vacuum runs repeatedly
//! during the walk, so that new row versions reuse the space of old row versions. Otherwise the
//! backfill of a whole table could double the table's size.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, Kind, Result};
use crate::execute::guard::{Victims, Watched};
use crate::job::options::Vacuum;
use crate::job::plan::Isolation;
use crate::job::waiting::Waiting;
use crate::pg::pools::CONTROL_LIMIT;
use crate::pg::row::Columns;
use crate::pg::session::{self, Plans, Recipe};
use crate::worker::claim_end::Step;
use crate::worker::claim_run::{ClaimRun, POLL};

/// Ignores the settings of the login (`alter role`). Otherwise, the code of a job could use these
/// settings to make the vacuum take hours.
const OF_THE_SERVER: &str = "select pg_catalog.set_config(s.name, s.boot_val, false) from pg_catalog.pg_settings s
where s.name = any (array['vacuum_cost_delay', 'vacuum_cost_limit']) and s.source = any (array['user', 'database user', 'client', 'session'])";

/// Sets the cost delay to autovacuum's default, unless the server's configuration sets another
/// delay.
const SLOWLY: &str = "select pg_catalog.set_config('vacuum_cost_delay', '2', false) where pg_catalog.current_setting('vacuum_cost_delay') operator(pg_catalog.=) '0'";

async fn in_the_way(watched: &mut Option<Watched>) -> Victims {
    match watched {
        Some(watched) => watched.in_the_way().await,
        None => std::future::pending().await,
    }
}

impl ClaimRun<'_> {
    /// If this slice has left enough dead rows, vacuums the walked table. If a signal holds jobs,
    /// postpones this vacuum.
    pub(super) async fn vacuum_if_due(&mut self, changed: u64) -> Result<Step> {
        self.dead_rows.add(changed);
        if self.settings.options.vacuum != Vacuum::Run || self.dead_rows.is_given_up() || changed == 0 {
            return Ok(Step::Continue);
        }
        if !self.dead_rows.is_limit_known() {
            let rows = self.rows_of_table().await?;
            self.dead_rows.set_limit(rows);
        }
        if !self.dead_rows.is_vacuum_due(self.live_slices()) {
            return Ok(Step::Continue);
        }
        if let Some(Waiting { reason, text }) = self.gate.held(self.limits()) {
            self.put_off(&format!("{}: {text}", reason.as_str()));
            return Ok(Step::Continue);
        }
        self.dead_rows.vacuumed();
        self.vacuum().await
    }

    /// Returns the number of active slices. Each slice counts only its own dead rows, so the limit
    /// is divided by this number.
    fn live_slices(&self) -> u32 {
        self.scope.lease.state().map_or(1, |state| state.live).max(1)
    }

    /// Postpones the vacuum until this slice's further dead rows reach half of its share of the
    /// limit.
    fn put_off(&mut self, why: &str) {
        if self.dead_rows.put_off(self.live_slices()) {
            tracing::info!(reason = why, "vacuum postponed; retrying later");
        }
    }

    /// Returns the approximate number of rows of the walked table. If the role may not vacuum the
    /// table, switches off the vacuums of this claim.
    async fn rows_of_table(&mut self) -> Result<f64> {
        const ROWS: &str = "
select greatest(c.reltuples, 0)::pg_catalog.float8, pg_catalog.pg_has_role(c.relowner, 'USAGE')
       or case when pg_catalog.current_setting('server_version_num')::pg_catalog.int4 >= 170000 then pg_catalog.has_table_privilege(c.oid, 'MAINTAIN') else false end
  from pg_catalog.pg_class c where c.oid = $1";
        let session = self.executor.session();
        let row = session.bounded_ours(CONTROL_LIMIT, session.client.query_opt(ROWS, &[&self.plan.relation])).await?;
        let (rows, may): (f64, bool) =
            row.map_or(Ok::<_, Error>((0.0, false)), |row| Ok((row.read(0)?, row.read(1)?)))?;
        if !may {
            self.dead_rows.switch_off();
            tracing::warn!(
                "job continues without vacuum, although the option vacuum=run is set: role {} lacks the privilege to vacuum {}; the role must own the table or, in PostgreSQL 17 and later, have MAINTAIN on it",
                self.scope.claim.run_as,
                self.plan.target
            );
        }
        Ok(rows)
    }

    /// Vacuums the table in a separate session without a time limit, because a vacuum can take
    /// longer than a batch may take. A pause, a cancel, a shutdown, a closed window or a lost lease
    /// ends the vacuum, and so does a job of another role that needs the worker. If another session
    /// waits too long for the vacuum, or if a signal holds jobs, the vacuum is cancelled and
    /// postponed.
    async fn vacuum(&mut self) -> Result<Step> {
        let recipe = Recipe {
            settings: &self.scope.claim.settings,
            isolation: Isolation::ReadCommitted,
            statement_timeout: std::time::Duration::ZERO,
            lock_timeout: std::time::Duration::from_secs(1),
            plans: Plans::Any,
        };
        let session = session::open(&self.scope.context.logins, self.scope.claim, &recipe).await?;
        let started = Instant::now();
        session.bounded_ours(CONTROL_LIMIT, session.client.batch_execute(OF_THE_SERVER)).await?;
        // A running vacuum cannot be slowed down. So the vacuum runs at autovacuum's pace from the
        // start if there is other load, or if a budget or a load gauge slows jobs down.
        if !self.gate.at_full_speed(self.limits()) {
            session.bounded_ours(CONTROL_LIMIT, session.client.batch_execute(SLOWLY)).await?;
        }
        let mut watched =
            session.pid().map(|pid| self.scope.context.guard.watch(pid, self.settings.victim_wait(), Duration::MAX));
        let sql = format!("vacuum (skip_locked, truncate off) {}", self.plan.target);
        let mut running = Box::pin(session.client.batch_execute(&sql));
        let text = format!("vacuum of {} by the daemon", self.plan.target);
        loop {
            tokio::select! {
                biased;
                ended = &mut running => {
                    let ended = ended.map_err(Error::from);
                    if let Err(error) = &ended && error.kind == Kind::ConnectionLost {
                        ended?;
                    } else if let Err(error) = ended {
                        self.dead_rows.switch_off();
                        let table = &self.plan.target;
                        tracing::warn!(error = %error.message, "vacuum of {table} failed; the job continues without vacuum");
                    }
                    tracing::debug!(seconds = started.elapsed().as_secs_f64(), "{text}");
                    return Ok(Step::Continue);
                }
                victims = in_the_way(&mut watched) => {
                    session.cancel().await;
                    self.put_off(&victims.error("the vacuum").message);
                    return Ok(Step::Continue);
                }
                () = tokio::time::sleep(POLL) => {
                    self.report(Some(("vacuum".to_owned(), text.clone())));
                    let mut step = match self.must_end() {
                        Some(end) => Step::End(end),
                        None => self.poll_desired().await?,
                    };
                    if step == Step::Continue {
                        step = self.leave_share().await?;
                    }
                    if let Step::End(_) = step {
                        session.cancel().await;
                        return Ok(step);
                    }
                    if let Some(Waiting { reason, text }) = self.gate.held(self.limits()) {
                        session.cancel().await;
                        self.put_off(&format!("{}: {text}", reason.as_str()));
                        return Ok(Step::Continue);
                    }
                }
            }
        }
    }
}
