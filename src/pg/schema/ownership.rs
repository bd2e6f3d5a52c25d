//! Checks that everything in schema `backfill` belongs to the login, before any code of the schema
//! is executed. Each role with the privilege CREATE on the database can create a schema of this
//! name before `migrate` runs. Without this check, the login would then execute that role's
//! functions and triggers.

use tokio_postgres::{Client, SimpleQueryMessage};

use crate::error::{Error, Kind, Result};

/// The query for objects of other roles. It returns a message, a detail and a hint, or no row.
pub(super) const FOREIGN: &str = include_str!("ownership.sql");

/// Returns the login and the current role of the session if they differ. In that case, functions of
/// the schema's owner could switch back to the login's role with `reset role`.
const OTHER_ROLE: &str = "select session_user::text, current_user::text where session_user <> current_user";

/// Settings that change what SQL text means, with the values for which the SQL of this release was
/// written. `search_path` comes first: under another path, the views and functions could be bound
/// to a planted operator.
pub(super) const SETTINGS: &str = "\
set local search_path = pg_catalog, pg_temp;
set local standard_conforming_strings = on;
set local transform_null_equals = off;
set local array_nulls = on;
set local backslash_quote = safe_encoding;
set local quote_all_identifiers = off;
set local \"DateStyle\" = 'ISO, MDY';
set local \"IntervalStyle\" = 'postgres';
set local check_function_bodies = off;
set local row_security = on;
set local client_min_messages = warning;
";

/// Checks the schema in a transaction of its own. The client must not be in a transaction.
///
/// # Errors
/// [`Kind::Schema`] if the schema, or an object in it, does not belong to the login, or if the
/// session does not run as its login.
pub async fn check(client: &Client) -> Result<()> {
    client.batch_execute(&format!("begin read only;\n{SETTINGS}")).await.map_err(Error::from)?;
    let checked = check_in_transaction(client).await;
    client.batch_execute("rollback").await.map_err(Error::from)?;
    checked
}

/// Checks the schema in a transaction that has the settings [`SETTINGS`].
///
/// # Errors
/// The errors of [`check`].
pub(super) async fn check_in_transaction(client: &Client) -> Result<()> {
    if let [login, role] = first(client, OTHER_ROLE).await?.as_slice() {
        let what = format!("the session runs as role \"{role}\" instead of its login \"{login}\"");
        return Err(Error::new(Kind::Schema, what)
            .detail("Functions of schema backfill could switch back to the login's role and use its privileges.")
            .hint(format!("Connect as \"{role}\", and remove the setting \"role\" from the url and from the login (alter role ... reset role).")));
    }
    match first(client, FOREIGN).await?.as_slice() {
        [message, detail, hint] => {
            Err(Error::new(Kind::Schema, message.clone()).detail(detail.clone()).hint(hint.clone()))
        }
        _ => Ok(()),
    }
}

/// Returns the values of the first row, or nothing if the query returns no row.
async fn first(client: &Client, query: &str) -> Result<Vec<String>> {
    let messages = client.simple_query(query).await.map_err(Error::from)?;
    Ok(messages
        .iter()
        .find_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|n| row.try_get(n).ok().flatten().unwrap_or_default().to_owned()).collect())
            }
            _ => None,
        })
        .unwrap_or_default())
}
