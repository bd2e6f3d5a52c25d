//! Load signal. The value is the number of this database's sessions that wait for a lock. Sessions
//! of backfilld are not counted. Each role can see the waiting sessions.

use futures_util::future::BoxFuture;
use tokio_postgres::Client;

use crate::error::Result;
use crate::throttle::measure::poll::{Poll, Sample, number};

const WAITING: &str = "
select pg_catalog.count(distinct l.pid)
  from pg_catalog.pg_locks l join pg_catalog.pg_stat_activity a on a.pid = l.pid
 where not l.granted and a.datname = pg_catalog.current_database() and a.application_name not like 'backfilld%'";

pub struct LockWaits {
    pub limit: Option<f64>,
}

impl Poll for LockWaits {
    fn poll<'a>(&'a mut self, client: &'a Client, _working: bool) -> BoxFuture<'a, Result<Vec<Sample>>> {
        Box::pin(async move { Ok(vec![Sample::of_server(number(client, WAITING).await?, self.limit)]) })
    }
}
