//! Budget signal without a default limit. It affects jobs only if a rule sets a limit. The value is
//! the time in seconds for which the oldest WAL file has been ready to be archived.
//!
//! The time since the last file was archived is not used, because this time grows on an idle
//! primary although no file waits. The time of the file and the present time are both read from the
//! server, so the daemon's clock does not matter. If `archive_mode` is off, no file waits.

use futures_util::future::BoxFuture;
use tokio_postgres::Client;

use crate::error::{Error, Kind, Result};
use crate::pg::row::Columns;
use crate::throttle::measure::poll::{Poll, Sample};

const RIGHTS: &str = "
select pg_catalog.current_setting('archive_mode') <> 'off',
       pg_catalog.has_function_privilege('pg_catalog.pg_ls_archive_statusdir()', 'execute'), pg_catalog.quote_ident(current_user)";

const WAITED: &str = "
select coalesce(extract(epoch from pg_catalog.clock_timestamp() - pg_catalog.min(f.modification)), 0)::pg_catalog.float8
  from pg_catalog.pg_ls_archive_statusdir() f where f.name like '%.ready'";

pub struct Archiver {
    pub limit: Option<f64>,
}

impl Poll for Archiver {
    fn poll<'a>(&'a mut self, client: &'a Client, _working: bool) -> BoxFuture<'a, Result<Vec<Sample>>> {
        Box::pin(async move {
            let rights = client.query_typed(RIGHTS, &[]).await?;
            let Some(row) = rights.first() else { return Ok(Vec::new()) };
            let (archives, may): (bool, bool) = (row.read(0)?, row.read(1)?);
            if !archives {
                return Ok(self.limit.map(|_| Sample::of_server(0.0, self.limit)).into_iter().collect());
            }
            if !may {
                let login: String = row.read(2)?;
                return Err(Error::new(Kind::Permission, "permission denied to list the WAL files to be archived")
                    .hint(format!(
                        "As an administrator, run: grant execute on function pg_catalog.pg_ls_archive_statusdir() to {login};"
                    )));
            }
            let waited = client.query_typed(WAITED, &[]).await?;
            let waited = waited.first().map(|row| row.read::<f64>(0)).transpose()?;
            Ok(waited.map(|seconds| Sample::of_server(seconds.max(0.0), self.limit)).into_iter().collect())
        })
    }
}
