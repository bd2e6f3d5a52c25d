//! Load signal without a default limit. It affects jobs only if a rule sets a limit. The value is
//! the age, in transactions, of the oldest snapshot that is held on this database.
//!
//! While this snapshot is held, no vacuum removes the dead rows that batches leave. Sessions,
//! prepared transactions, replication slots and standbys with `hot_standby_feedback` can hold a
//! snapshot.

use futures_util::future::BoxFuture;
use tokio_postgres::Client;

use crate::error::{Error, Kind, Result};
use crate::pg::row::Columns;
use crate::throttle::measure::poll::{Poll, Sample};

const AGE: &str = "
select pg_catalog.pg_has_role('pg_read_all_stats', 'usage'), pg_catalog.quote_ident(current_user),
       greatest(
         (select pg_catalog.max(pg_catalog.age(a.backend_xmin)) from pg_catalog.pg_stat_activity a
           where a.pid <> pg_catalog.pg_backend_pid() and (a.datname = pg_catalog.current_database() or a.datname is null)),
         (select pg_catalog.max(pg_catalog.age(p.transaction)) from pg_catalog.pg_prepared_xacts p
           where p.database = pg_catalog.current_database()),
         (select pg_catalog.max(pg_catalog.age(s.xmin)) from pg_catalog.pg_replication_slots s), 0)::pg_catalog.float8";

pub struct OldestXmin {
    pub limit: Option<f64>,
}

impl Poll for OldestXmin {
    fn poll<'a>(&'a mut self, client: &'a Client, _working: bool) -> BoxFuture<'a, Result<Vec<Sample>>> {
        Box::pin(async move {
            let rows = client.query_typed(AGE, &[]).await?;
            let Some(row) = rows.first() else { return Ok(Vec::new()) };
            let (may, login): (bool, String) = (row.read(0)?, row.read(1)?);
            if !may {
                return Err(Error::new(
                    Kind::Permission,
                    "permission denied to read backend_xmin of other sessions in pg_stat_activity",
                )
                .hint(format!("As an administrator, run: grant pg_read_all_stats to {login};")));
            }
            Ok(vec![Sample::of_server(row.read(2)?, self.limit)])
        })
    }
}
