//! The errors of the program. An error has a class, which decides the action, and a text for the
//! operator.
//!
//! [`Kind`] is the class. `worker::error_policy` maps each kind to an action. The text names what
//! failed, the reason and the fix. The exit codes are part of the public contract.

use std::error::Error as _;
use std::fmt;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// SQLSTATE for a job that has more quarantined rows than `max_row_errors` allows. It has the same
/// [`Kind`] as BF001, but its message contains the error of the row that exceeded the limit. A role
/// that may not see the rows must not see this message.
const TOO_MANY_ROW_ERRORS: &str = "BF008";

/// The text about an error of a row, for roles that may not see the rows of the job.
const ROW_FAILED: &str = "a row could not be changed";

/// The class of an error. `worker::error_policy::action` has an arm for each class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The connection broke or could not be opened. It may be unknown whether the last statement
    /// committed.
    ConnectionLost,
    /// The answer to a statement did not arrive in time. The server may have been suspended, or the
    /// network may have lost the answer. It is unknown whether the statement committed. Unlike
    /// [`Kind::ConnectionLost`], this says nothing about the rows of the statement.
    Unanswered,
    /// A pooler in transaction or statement mode is between the daemon and the server.
    Pooled,
    /// The TLS handshake failed. For example, the server does not offer TLS, the daemon does not
    /// accept the server's certificate, or the server refuses the client certificate.
    Tls,
    /// The server is starting up, shutting down, or in recovery.
    ServerUnavailable,
    /// The server is read-only (a standby, or `default_transaction_read_only`).
    ReadOnly,
    /// `max_connections`, or the connection limit of a role or a database, is reached.
    TooManyConnections,
    /// Another session held a lock for longer than the statement may wait (`lock_timeout`).
    LockTimeout,
    Deadlock,
    /// A REPEATABLE READ transaction failed because of a concurrent change, or because its snapshot
    /// is too old.
    Serialization,
    /// The statement was cancelled by `statement_timeout` or by a cancel request. If it is known
    /// that a batch reached its time limit, the kind is [`Kind::TimeLimit`] or [`Kind::Stalled`].
    Cancelled,
    /// The batch reached its time limit, and during this time the server answered other statements.
    /// So the cause is the batch and not the server.
    TimeLimit,
    /// The batch reached its time limit, but for most of this time the server did not answer other
    /// statements either. So the timeout says nothing about the rows of the batch.
    Stalled,
    /// The daemon cancelled the statement because another session waited too long for a lock that
    /// the statement held.
    Yielded,
    /// A statement of the job exceeded its time limit, and `statement_timeout` did not stop it. The
    /// daemon cancelled the statement, or terminated the statement's session if the statement
    /// ignored the cancel request.
    Overrun,
    /// The plan of a prepared statement no longer fits the table. The statement must be prepared
    /// again.
    StalePlan,
    /// The server lacks a resource, for example memory or disk space (SQLSTATE class 53), or an I/O
    /// error occurred (class 58). The daemon retries, but an operator may have to act.
    ServerResources,
    /// The cause of the error is a row, not the statement. Examples are a failed cast, a check
    /// violation and an exception of a trigger.
    Data,
    /// BF007, which users never see: the batch changed fewer rows than it found.
    Unmatched,
    /// BF006: the worker no longer holds the slice, or the checkpoint is not at the position at
    /// which the batch begins. The worker must stop at once.
    Fenced,
    /// BF001 or BF008: a permanent refusal with its reason, for example an invalid spec, or a table
    /// that has changed since planning.
    Refused,
    /// BF002: a job with the same name but a different spec exists.
    OtherSpec,
    /// BF003: no job has the given name.
    NoSuchJob,
    /// BF004: the job is not complete.
    NotComplete,
    /// BF005: the request is not possible in the current state of the job.
    WrongState,
    /// The role lacks a privilege.
    Permission,
    /// The server refuses the login, for example because a password was rotated or pg_hba.conf has
    /// changed.
    Authentication,
    /// Schema `backfill` is missing, cannot be installed, or is too old or too new for this binary.
    Schema,
    /// The command line or `BACKFILLD_FAILPOINT` is invalid, or a confirmation was not given.
    Usage,
    /// The configuration is invalid.
    Config,
    /// The time limit of `wait`, or of a query for the throttle, expired.
    Timeout,
    /// Any other error of the server, for example a syntax error or an undefined column.
    Statement,
    /// The server's answer does not have the form that the daemon expects: a wrong type, a wrong
    /// encoding, or a null. It may be unknown whether the statement committed.
    Unreadable,
    /// A bug in this program.
    Internal,
}

impl Kind {
    pub const ALL: [Self; 34] = [
        Self::ConnectionLost,
        Self::Unanswered,
        Self::Pooled,
        Self::Tls,
        Self::ServerUnavailable,
        Self::ReadOnly,
        Self::TooManyConnections,
        Self::LockTimeout,
        Self::Deadlock,
        Self::Serialization,
        Self::Cancelled,
        Self::TimeLimit,
        Self::Stalled,
        Self::Yielded,
        Self::Overrun,
        Self::StalePlan,
        Self::ServerResources,
        Self::Data,
        Self::Unmatched,
        Self::Fenced,
        Self::Refused,
        Self::OtherSpec,
        Self::NoSuchJob,
        Self::NotComplete,
        Self::WrongState,
        Self::Permission,
        Self::Authentication,
        Self::Schema,
        Self::Usage,
        Self::Config,
        Self::Timeout,
        Self::Statement,
        Self::Unreadable,
        Self::Internal,
    ];
}

/// An error: its class and its message, a detail and a hint if there are any, and the SQLSTATE if
/// the server raised it.
#[derive(Debug, Clone)]
pub struct Error {
    pub kind: Kind,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// The SQLSTATE of a server error: five characters.
    pub sqlstate: Option<String>,
    /// Whether a function or trigger outside schema `backfill` raised the error with a statement
    /// such as RAISE. In that case, the author of this function or trigger chose the SQLSTATE.
    pub is_raised: bool,
    /// The text for roles that may not see the rows of the job. None if these roles may see the
    /// message and the hint.
    pub redacted: Option<Box<Redacted>>,
}

/// An error text without data of the table's rows. It contains no key, no value, and no server
/// message about a row.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Redacted {
    #[serde(rename = "error")]
    pub message: String,
    pub hint: Option<String>,
}

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            detail: None,
            hint: None,
            sqlstate: None,
            is_raised: false,
            redacted: None,
        }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Sets the text for roles that may not see the rows of the job.
    #[must_use]
    pub fn redacted(mut self, message: impl Into<String>, hint: Option<&str>) -> Self {
        self.redacted = Some(Box::new(Redacted { message: message.into(), hint: hint.map(str::to_owned) }));
        self
    }

    /// Converts an error into an error of a row, if the code of a job raised it and its class
    /// concerns the server, the claim, the job or a prepared statement. Such code can raise any
    /// SQLSTATE, for example 53100 (disk full), while the server works as usual.
    #[must_use]
    pub fn disbelieved(self) -> Self {
        let is_about_the_server = matches!(
            self.kind,
            Kind::StalePlan
                | Kind::ServerUnavailable
                | Kind::ReadOnly
                | Kind::TooManyConnections
                | Kind::Cancelled
                | Kind::ServerResources
                | Kind::Authentication
                | Kind::Fenced
                | Kind::Unmatched
                | Kind::Refused
                | Kind::OtherSpec
                | Kind::NoSuchJob
                | Kind::NotComplete
                | Kind::WrongState
        );
        if !self.is_raised || !is_about_the_server {
            return self;
        }
        Self { kind: Kind::Data, ..self }.redacted(ROW_FAILED, None)
    }

    /// Adds the attempted action in front of the message.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// Returns the exit code of the process, as the public contract defines it.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Usage => 2,
            Kind::ConnectionLost
            | Kind::Unanswered
            | Kind::Tls
            | Kind::ServerUnavailable
            | Kind::TooManyConnections => 69,
            Kind::Timeout => 75,
            Kind::Permission | Kind::Authentication => 77,
            Kind::Config | Kind::Pooled => 78,
            Kind::ReadOnly
            | Kind::LockTimeout
            | Kind::Deadlock
            | Kind::Serialization
            | Kind::Cancelled
            | Kind::TimeLimit
            | Kind::Stalled
            | Kind::Yielded
            | Kind::Overrun
            | Kind::StalePlan
            | Kind::ServerResources
            | Kind::Data
            | Kind::Unmatched
            | Kind::Fenced
            | Kind::Refused
            | Kind::OtherSpec
            | Kind::NoSuchJob
            | Kind::NotComplete
            | Kind::WrongState
            | Kind::Schema
            | Kind::Statement
            | Kind::Unreadable
            | Kind::Internal => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, "\n  detail: {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(db) = error.as_db_error() {
            let code = db.code().code();
            let kind = match kind_of(code, ends_session(db)) {
                // The server could not load the library of a function. This is not a lack of
                // resources, but an error of the statement that calls the function.
                Kind::ServerResources if !ends_session(db) && db.file() == Some("dfmgr.c") => Kind::Statement,
                kind => kind,
            };
            return Self {
                kind,
                message: db.message().to_owned(),
                detail: db.detail().map(str::to_owned),
                hint: db.hint().map(str::to_owned),
                sqlstate: Some(code.to_owned()),
                is_raised: is_raised(db),
                redacted: redacted_of(code, kind).or_else(|| is_raised(db).then(row_failed)),
            };
        }
        if let Some(own) = own(&error) {
            return own.clone();
        }
        // The driver's own text is only "error communicating with the server". The sources of the
        // error contain the cause.
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            source = cause.source();
        }
        let kind = if error.is_closed() || is_io(&error) { Kind::ConnectionLost } else { Kind::Internal };
        Self::new(kind, message)
    }
}

/// Returns true if a function of schema `backfill` raised the error, and no function outside the
/// schema had called this function. Each line of the context is a function or a statement, the
/// innermost first. The server translates the text of these lines, but not the name of the
/// language, for example `PL/pgSQL`.
fn is_context_of_ours(context: &str) -> bool {
    let names_ours = |line: &str| {
        let before = line.split_once("backfill.").map(|(before, _)| before.chars().next_back());
        !line.contains('"')
            && before.is_some_and(|c| c.is_none_or(|c| !c.is_ascii_alphanumeric() && !"_.$".contains(c)))
    };
    context.lines().next().is_some_and(names_ours)
        && context.lines().filter(|line| line.contains("PL/") || line.starts_with("SQL function")).all(names_ours)
}

/// Returns whether a user's code raised the error itself, with a statement such as RAISE. The
/// server reports the source file in which an error was raised. If a statement such as RAISE raised
/// the error, this file belongs to the implementation of the procedural language. The user's code
/// cannot change this field. If the code catches an error of the server and raises it again, the
/// error keeps its original file. The functions of schema `backfill` are recognized by the context,
/// which the server writes.
fn is_raised(db: &tokio_postgres::error::DbError) -> bool {
    const LANGUAGES: [&str; 5] = ["pl_exec.c", "plpy_elog.c", "plpy_plpymodule.c", "plperl.c", "pltcl.c"];
    db.file().is_some_and(|file| LANGUAGES.contains(&file)) && !db.where_().is_some_and(is_context_of_ours)
}

/// Returns whether the server closes the connection after this error. The text of the severity is
/// only a fallback, because the server translates this text.
fn ends_session(db: &tokio_postgres::error::DbError) -> bool {
    use tokio_postgres::error::Severity::{Fatal, Panic};
    db.parsed_severity().map_or(db.severity() != "ERROR", |severity| matches!(severity, Fatal | Panic))
}

/// Returns this program's own error if the driver error wraps one. The TLS code and the connections
/// of the pool return such wrapped errors through the driver.
fn own(error: &tokio_postgres::Error) -> Option<&Error> {
    let mut source: Option<&(dyn std::error::Error + 'static)> = error.source();
    while let Some(cause) = source {
        if let Some(own) = cause.downcast_ref() {
            return Some(own);
        }
        // The wrapped error is checked first. `source` of an I/O error skips the wrapped error and
        // returns the cause of the wrapped error.
        if let Some(own) = cause.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref()?.downcast_ref()) {
            return Some(own);
        }
        source = cause.source();
    }
    None
}

fn is_io(error: &tokio_postgres::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = error.source();
    while let Some(cause) = source {
        if cause.is::<std::io::Error>() {
            return true;
        }
        source = cause.source();
    }
    let text = error.to_string();
    text.contains("communicating") || text.contains("unexpected message") || text.contains("timeout")
}

/// Returns a text without row data if the message of the error may contain row data.
fn redacted_of(code: &str, kind: Kind) -> Option<Box<Redacted>> {
    let (message, hint) = match (code, kind) {
        (TOO_MANY_ROW_ERRORS, _) => (
            "the number of rows that could not be changed exceeds max_row_errors",
            Some(
                "Fix the rows (see backfill.row_errors) or the expression, or raise max_row_errors with backfill.tune. Then run backfill.retry to continue from the checkpoint.",
            ),
        ),
        (_, Kind::Data) => (ROW_FAILED, None),
        _ => return None,
    };
    Some(Box::new(Redacted { message: message.to_owned(), hint: hint.map(str::to_owned) }))
}

/// Returns the text about an error of a row. Unlike the message of the error, it contains nothing
/// that a user's code wrote.
fn row_failed() -> Box<Redacted> {
    Box::new(Redacted { message: ROW_FAILED.to_owned(), hint: None })
}

/// Returns the class of a server error, according to appendix A of the PostgreSQL manual.
fn kind_of(code: &str, ends_session: bool) -> Kind {
    // These SQLSTATE classes apply to errors that did not end the session. The manual also uses
    // some of these classes for errors that end the session, for example a lost connection (08). If
    // the session stays open after an error of such a class, a function or a trigger of the user
    // raised the error.
    const OF_A_ROW: &[&str] = &["09", "0F", "20", "21", "22", "23", "2F", "34", "38", "39", "44", "54", "HV", "P0"];
    const OF_A_STATEMENT: &[&str] = &[
        "00", "01", "02", "03", "08", "0A", "0B", "0L", "0P", "0Z", "24", "25", "26", "27", "28", "2B", "2D", "3B",
        "3D", "3F", "40", "42", "55", "57", "72", "F0", "XX", "BF",
    ];
    match code {
        "BF001" | TOO_MANY_ROW_ERRORS => Kind::Refused,
        "BF002" => Kind::OtherSpec,
        "BF003" => Kind::NoSuchJob,
        "BF004" => Kind::NotComplete,
        "BF005" => Kind::WrongState,
        "BF006" => Kind::Fenced,
        "BF007" => Kind::Unmatched,
        "55P03" => Kind::LockTimeout,
        "40P01" => Kind::Deadlock,
        // 72000: the snapshot is older than `old_snapshot_threshold` allows.
        "40001" | "72000" => Kind::Serialization,
        "57014" => Kind::Cancelled,
        "0A000" => Kind::StalePlan,
        "25006" => Kind::ReadOnly,
        "53300" => Kind::TooManyConnections,
        "42501" => Kind::Permission,
        "28000" | "28P01" => Kind::Authentication,
        "57P03" => Kind::ServerUnavailable,
        code if code.starts_with("53") || code.starts_with("58") => Kind::ServerResources,
        // For example 57P01 admin shutdown, 57P02 crash shutdown, 57P05 idle session timeout, 25P03
        // idle in transaction timeout.
        _ if ends_session => Kind::ConnectionLost,
        // A prepared statement is missing, exists already, or is another one. The code of the job
        // has removed it, or a pooler has exchanged the server session.
        "26000" | "42P05" | "08P01" => Kind::StalePlan,
        code if OF_A_ROW.iter().any(|class| code.starts_with(class)) => Kind::Data,
        code if OF_A_STATEMENT.iter().any(|class| code.starts_with(class)) => Kind::Statement,
        // PostgreSQL does not use this class, so a function or a trigger of the user raised the
        // error.
        _ => Kind::Data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_sqlstates_keep_their_meaning() {
        assert_eq!(kind_of("BF006", false), Kind::Fenced);
        assert_eq!(kind_of("BF004", false), Kind::NotComplete);
    }

    #[test]
    fn a_rejected_password_is_an_authentication_error_with_exit_code_77() {
        for code in ["28P01", "28000"] {
            assert_eq!(kind_of(code, true), Kind::Authentication);
        }
        assert_eq!(Error::new(Kind::Authentication, "").exit_code(), 77);
    }

    #[test]
    fn a_fatal_error_means_that_the_connection_is_gone() {
        assert_eq!(kind_of("XX000", true), Kind::ConnectionLost);
        assert_eq!(kind_of("57P01", true), Kind::ConnectionLost);
        assert_eq!(kind_of("08P01", true), Kind::ConnectionLost);
    }

    #[test]
    fn a_statement_is_prepared_again_if_the_session_lacks_it() {
        for code in ["26000", "42P05", "08P01", "0A000"] {
            assert_eq!(kind_of(code, false), Kind::StalePlan, "{code}");
        }
    }

    #[test]
    fn errors_that_a_single_row_may_raise_are_isolated_row_by_row() {
        for code in ["22012", "23514", "P0001", "44000", "54000", "54001", "38000", "39004", "09000", "20000", "HV000"]
        {
            assert_eq!(kind_of(code, false), Kind::Data, "{code}");
        }
        for code in ["45000", "U0001", "PT400", "ABC01", "77777"] {
            assert_eq!(kind_of(code, false), Kind::Data, "{code}");
        }
        // Either a row or the statement can cause these errors. The worker determines the cause.
        for code in ["42P01", "42883", "55000", "2BP01", "XX000", "08006", "57P01", "25P03"] {
            assert_eq!(kind_of(code, false), Kind::Statement, "{code}");
        }
    }

    #[test]
    fn exit_codes_are_those_of_the_contract() {
        assert_eq!(Error::new(Kind::Usage, "").exit_code(), 2);
        assert_eq!(Error::new(Kind::ConnectionLost, "").exit_code(), 69);
        assert_eq!(Error::new(Kind::Timeout, "").exit_code(), 75);
        assert_eq!(Error::new(Kind::Permission, "").exit_code(), 77);
        assert_eq!(Error::new(Kind::Config, "").exit_code(), 78);
    }
}
