//! Reads values from the server's answers.
//!
//! The driver's `Row::get` panics if a value does not have the type that the caller expects, is
//! null, or is not valid UTF-8. An answer can have such a value: the code of a job can change the
//! settings of its session, and the server itself can be hostile. So `clippy.toml` forbids
//! `Row::get`, and this module returns an error instead.

use std::fmt;
use std::panic::AssertUnwindSafe;

use tokio_postgres::Row;
use tokio_postgres::row::RowIndex;
use tokio_postgres::types::{FromSql, FromSqlOwned};

use crate::error::{Error, Kind, Result};
use crate::key::Key;

/// Reads the columns of a row.
pub trait Columns {
    /// Returns the value of a column, given by its name or by its position (from 0).
    ///
    /// # Errors
    /// [`Kind::Unreadable`] if the row has no such column, or if the value cannot be converted.
    fn read<'a, T: FromSql<'a>>(&'a self, column: impl RowIndex + fmt::Display) -> Result<T>;
}

impl Columns for Row {
    fn read<'a, T: FromSql<'a>>(&'a self, column: impl RowIndex + fmt::Display) -> Result<T> {
        // If a row has fewer values than its description has columns, the driver panics.
        let read = std::panic::catch_unwind(AssertUnwindSafe(|| self.try_get(column)));
        read.map_err(|_| unreadable("a row has too few values"))?.map_err(unreadable)
    }
}

/// Returns the first column of the row, or none if there is no row or the value is null.
///
/// # Errors
/// [`Kind::Unreadable`] as for [`Columns::read`].
pub fn first<T: FromSqlOwned>(row: Option<Row>) -> Result<Option<T>> {
    row.map_or(Ok(None), |row| row.read(0))
}

/// Returns a text that the statement sent as `bytea` in UTF-8. The statement does not send it as
/// text, because the code of a job can change `client_encoding`.
///
/// # Errors
/// [`Kind::Unreadable`] if the value is null or is not valid UTF-8.
pub fn text(row: &Row, column: impl RowIndex + fmt::Display) -> Result<String> {
    let sent: &[u8] = row.read(column)?;
    std::str::from_utf8(sent).map(str::to_owned).map_err(unreadable)
}

/// Maximum size of a key as text. PostgreSQL limits the size of an entry of an index, but the text
/// of a composite value can be much longer.
const KEY_LIMIT: usize = 65_536;

/// Returns a key that the statement sent in the form of [`keyset::sent`](crate::pg::keyset::sent).
/// None stands for null, and for a key with a null in one of its columns.
///
/// # Errors
/// [`Kind::Unreadable`] if the value is not a JSON array of strings. [`Kind::Refused`] if it is
/// longer than `KEY_LIMIT`.
pub fn key(row: &Row, column: impl RowIndex + fmt::Display) -> Result<Option<Key>> {
    let sent: Option<&[u8]> = row.read(column)?;
    let Some(sent) = sent else { return Ok(None) };
    if sent.len() > KEY_LIMIT {
        return Err(Error::new(Kind::Refused, format!("the key of a row has {} bytes as text", sent.len()))
            .detail("The checkpoint of a slice contains the key. A key can have at most 64 KiB.")
            .hint("Enqueue the job with a key whose values are shorter as text, for example a unique key on an integer or uuid column."));
    }
    let values: Vec<Option<String>> = serde_json::from_slice(sent).map_err(unreadable)?;
    Ok(values.into_iter().collect::<Option<Vec<String>>>().map(Key))
}

/// Returns the error for an answer of the server that does not have the form that the daemon
/// expects.
pub fn unreadable(reason: impl fmt::Display) -> Error {
    Error::new(Kind::Unreadable, format!("could not read the server's answer: {reason}"))
        .hint("Look for a function, trigger or operator that the job uses and that changes a session setting, for example client_encoding.")
}
