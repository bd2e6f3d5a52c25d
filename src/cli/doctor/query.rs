//! Runs queries with a time limit and reads their cells. The type of a column may differ between
//! server versions, so reading a cell returns an error instead of panicking.

use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, ToSql};

use crate::error::Result;
use crate::pg::connect::{Session, within};
use crate::pg::control::explained;
use crate::pg::pools::CONTROL_LIMIT;
use crate::pg::row::Columns;

pub(super) async fn one(session: &Session, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Row> {
    within(CONTROL_LIMIT, session.client.query_one(sql, parameters)).await.map_err(explained)
}

pub(super) async fn all(session: &Session, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
    within(CONTROL_LIMIT, session.client.query(sql, parameters)).await.map_err(explained)
}

pub(super) fn cell<'a, T: FromSql<'a>>(row: &'a Row, name: &str) -> Result<T> {
    row.read(name)
}
