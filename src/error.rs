//! Errors of the daemon: an enum that the code decides by, and a text for the operator.
//!
//! [`Kind`] is the class of the error; `worker::error_policy` maps each kind to an action. The text says
//! what failed, why, and what to do. Exit codes are those of the public contract.

use std::error::Error as _;
use std::fmt;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Raised where a job has more quarantined rows than it may; its text names the last. Told to users as BF001.
const TOO_MANY_ROW_ERRORS: &str = "BF008";

/// The class of an error. `worker::error_policy::action` has a row for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The connection broke or could not be made; the answer to the last statement may be lost.
    ConnectionLost,
    /// TLS: the server has none, is not who it should be, or refuses our certificate.
    Tls,
    /// The server is starting up, shutting down, or in recovery.
    ServerUnavailable,
    /// The server is read-only (a standby, or `default_transaction_read_only`).
    ReadOnly,
    /// `max_connections`, or a role's or database's connection limit.
    TooManyConnections,
    /// Another session holds a lock that a statement of ours waited for (`lock_timeout`).
    LockTimeout,
    Deadlock,
    /// REPEATABLE READ met a concurrent update.
    Serialization,
    /// `statement_timeout`, or a cancel request.
    Cancelled,
    /// The statement was cancelled because another session waited too long for its locks.
    Yielded,
    /// A statement ran past its time limit and ignored the cancel request: its session was ended.
    Overrun,
    /// The plan of a prepared statement no longer fits the table: prepare again.
    StalePlan,
    /// The server's disk is full, or it is out of memory. It may pass; only an operator can fix it.
    ServerResources,
    /// The rows, not the statement, are at fault: a failed cast, a check violation, a trigger's exception.
    Data,
    /// BF007, never shown: fewer rows were changed than were found.
    Unmatched,
    /// BF006: another holder has the slice, or the checkpoint moved. Stop at once.
    Fenced,
    /// BF001: a permanent no with its reason (bad spec, drift).
    Refused,
    /// BF002: another spec exists under the name.
    OtherSpec,
    /// BF003: no job of that name.
    NoSuchJob,
    /// BF004: not complete.
    NotComplete,
    /// BF005: not possible in the state that the job is in.
    WrongState,
    /// The role may not do it.
    Permission,
    /// The server does not let the login in: a password was rotated, or pg_hba.conf changed.
    Authentication,
    /// Schema `backfill` is missing, too old or too new for this binary.
    Schema,
    /// Command line misuse.
    Usage,
    /// The configuration is wrong.
    Config,
    /// The time given to `wait` ran out.
    Timeout,
    /// Any other answer of the server: a wrong statement, an undefined column.
    Statement,
    /// A bug of ours.
    Internal,
}

impl Kind {
    pub const ALL: [Self; 29] = [
        Self::ConnectionLost,
        Self::Tls,
        Self::ServerUnavailable,
        Self::ReadOnly,
        Self::TooManyConnections,
        Self::LockTimeout,
        Self::Deadlock,
        Self::Serialization,
        Self::Cancelled,
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
        Self::Internal,
    ];
}

/// An error with its class, the sentence, and where known the server's SQLSTATE, detail and hint.
#[derive(Debug, Clone)]
pub struct Error {
    pub kind: Kind,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// Five characters, from the server.
    pub sqlstate: Option<String>,
    /// What those may read who may not see the job's rows; none: message and hint as they are.
    pub redacted: Option<Box<Redacted>>,
}

/// An error without what it says of a table's rows: no key, no value, and nothing that the server said of one.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Redacted {
    #[serde(rename = "error")]
    pub message: String,
    pub hint: Option<String>,
}

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), detail: None, hint: None, sqlstate: None, redacted: None }
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

    /// The same for those who may not see the job's rows.
    #[must_use]
    pub fn redacted(mut self, message: impl Into<String>, hint: Option<&str>) -> Self {
        self.redacted = Some(Box::new(Redacted { message: message.into(), hint: hint.map(str::to_owned) }));
        self
    }

    /// Put what was being attempted before the message.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// The process exit code of the public contract.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Usage => 2,
            Kind::ConnectionLost | Kind::Tls | Kind::ServerUnavailable | Kind::TooManyConnections => 69,
            Kind::Timeout => 75,
            Kind::Permission | Kind::Authentication => 77,
            Kind::Config => 78,
            Kind::ReadOnly
            | Kind::LockTimeout
            | Kind::Deadlock
            | Kind::Serialization
            | Kind::Cancelled
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
            let kind = kind_of(code, ends_session(db));
            return Self {
                kind,
                message: db.message().to_owned(),
                detail: db.detail().map(str::to_owned),
                hint: db.hint().map(str::to_owned),
                sqlstate: Some(code.to_owned()),
                redacted: redacted_of(code, kind),
            };
        }
        if let Some(own) = own(&error) {
            return own.clone();
        }
        // The driver's own text is only "error communicating with the server": the cause is in the source.
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

/// Whether the server closes the connection with this error. Not by its severity in words, which are translated.
fn ends_session(db: &tokio_postgres::error::DbError) -> bool {
    use tokio_postgres::error::Severity::{Fatal, Panic};
    db.parsed_severity().map_or(db.severity() != "ERROR", |severity| matches!(severity, Fatal | Panic))
}

/// An error of ours that came through the driver: TLS and the pool's connections say what is wrong themselves.
fn own(error: &tokio_postgres::Error) -> Option<&Error> {
    let mut source: Option<&(dyn std::error::Error + 'static)> = error.source();
    while let Some(cause) = source {
        if let Some(own) = cause.downcast_ref() {
            return Some(own);
        }
        // An I/O error shows what its inside is caused by, and not its inside.
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

/// An error whose text is about rows.
fn redacted_of(code: &str, kind: Kind) -> Option<Box<Redacted>> {
    let (message, hint) = match (code, kind) {
        (TOO_MANY_ROW_ERRORS, _) => (
            "more rows can't be changed than max_row_errors allows",
            Some(
                "Mend the rows (backfill.row_errors has them) or the expression, or raise max_row_errors with backfill.tune; then backfill.retry goes on from here.",
            ),
        ),
        (_, Kind::Data) => ("a row can't be changed", None),
        _ => return None,
    };
    Some(Box::new(Redacted { message: message.to_owned(), hint: hint.map(str::to_owned) }))
}

/// Class of a server error. Source: appendix A of the PostgreSQL manual.
fn kind_of(code: &str, ends_session: bool) -> Kind {
    // What else each class of the manual's may mean, raised with a session that goes on it is a function's or a trigger's.
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
        // 72000: the snapshot is older than old_snapshot_threshold lets it be.
        "40001" | "72000" => Kind::Serialization,
        "57014" => Kind::Cancelled,
        "0A000" => Kind::StalePlan,
        "25006" => Kind::ReadOnly,
        "53300" => Kind::TooManyConnections,
        "42501" => Kind::Permission,
        "28000" | "28P01" => Kind::Authentication,
        "57P03" => Kind::ServerUnavailable,
        code if code.starts_with("53") || code.starts_with("58") => Kind::ServerResources,
        // Such as 57P01 admin shutdown, 57P02 crash shutdown, 57P05 idle session timeout, 25P03 idle in transaction
        // timeout.
        _ if ends_session => Kind::ConnectionLost,
        code if OF_A_ROW.iter().any(|class| code.starts_with(class)) => Kind::Data,
        code if OF_A_STATEMENT.iter().any(|class| code.starts_with(class)) => Kind::Statement,
        // A class of nobody's but the user's.
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
    fn a_password_that_was_rotated_is_waited_for_and_the_command_line_calls_it_a_permission() {
        for code in ["28P01", "28000"] {
            assert_eq!(kind_of(code, true), Kind::Authentication);
        }
        assert_eq!(Error::new(Kind::Authentication, "").exit_code(), 77);
    }

    #[test]
    fn a_fatal_error_means_that_the_connection_is_gone() {
        assert_eq!(kind_of("XX000", true), Kind::ConnectionLost);
        assert_eq!(kind_of("57P01", true), Kind::ConnectionLost);
    }

    #[test]
    fn what_a_single_row_may_raise_is_looked_for_row_by_row() {
        for code in ["22012", "23514", "P0001", "44000", "54000", "54001", "38000", "39004", "09000", "20000", "HV000"]
        {
            assert_eq!(kind_of(code, false), Kind::Data, "{code}");
        }
        for code in ["45000", "U0001", "PT400", "ABC01", "77777"] {
            assert_eq!(kind_of(code, false), Kind::Data, "{code}");
        }
        // Of these nobody knows whose fault they are: that is found out.
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
