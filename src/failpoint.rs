//! Failpoints: named places where a test can make the daemon crash, hang or fail.
//!
//! Failpoints exist in debug builds and with the feature `failpoint`. In other builds the functions
//! of this module do nothing, and [`active`] returns false.
//! `BACKFILLD_FAILPOINT="name[:nth]=abort|panic|sleep:MS|error|on"` sets a failpoint. Several
//! failpoints are separated by commas. The variable is read once. If `nth` is given (counted from
//! 1), the action happens only at the nth visit to the failpoint. The actions are:
//!
//! - `abort` ends the process without running destructors, as SIGKILL does.
//! - `panic` panics.
//! - `sleep` waits for the given number of milliseconds.
//! - `error` returns the error of a lost connection.
//! - `on` is a switch that code reads with [`active`], for example for a negative control.

#[cfg(any(debug_assertions, feature = "failpoint"))]
mod real {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use crate::error::{Error, Kind, Result};

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) enum Action {
        Abort,
        Panic,
        Sleep(Duration),
        Error,
        On,
    }

    #[derive(Debug)]
    pub(super) struct Failpoint {
        pub(super) name: String,
        pub(super) nth: Option<u64>,
        pub(super) action: Action,
        pub(super) reached: AtomicU64,
    }

    static FAILPOINTS: OnceLock<Result<Vec<Failpoint>>> = OnceLock::new();

    fn failpoints() -> &'static Result<Vec<Failpoint>> {
        FAILPOINTS.get_or_init(|| parse(&std::env::var("BACKFILLD_FAILPOINT").unwrap_or_default()))
    }

    /// Refuses a `BACKFILLD_FAILPOINT` that cannot be parsed. Without this check, a test with a
    /// typo in the variable would pass.
    pub fn init() -> Result<()> {
        let failpoints = failpoints().as_ref().map_err(Clone::clone)?;
        for failpoint in failpoints {
            tracing::warn!(failpoint.name, failpoint.nth, failpoint.action = ?failpoint.action, "failpoint is set");
        }
        Ok(())
    }

    /// Marks a failpoint in synchronous code. `sleep` blocks the thread.
    pub fn point(name: &str) -> Result<()> {
        match due(name) {
            #[allow(clippy::disallowed_methods)] // the purpose is to hang
            Some(Action::Sleep(time)) => std::thread::sleep(time),
            other => act(name, other)?,
        }
        Ok(())
    }

    /// Marks a failpoint in async code. `sleep` blocks only the task.
    pub async fn pause_point(name: &str) -> Result<()> {
        match due(name) {
            Some(Action::Sleep(time)) => tokio::time::sleep(time).await,
            other => act(name, other)?,
        }
        Ok(())
    }

    /// Returns whether a failpoint of this name is set. The call does not count as a visit.
    pub fn active(name: &str) -> bool {
        failpoints().as_ref().is_ok_and(|failpoints| failpoints.iter().any(|failpoint| failpoint.name == name))
    }

    fn act(name: &str, action: Option<Action>) -> Result<()> {
        match action {
            Some(Action::Abort) => std::process::abort(),
            Some(Action::Panic) => panic!("failpoint {name}"),
            Some(Action::Error) => Err(Error::new(Kind::ConnectionLost, format!("failpoint {name}"))),
            Some(Action::Sleep(_) | Action::On) | None => Ok(()),
        }
    }

    fn due(name: &str) -> Option<Action> {
        failpoints().as_ref().ok().and_then(|failpoints| due_of(failpoints, name))
    }

    /// Counts the visit in each entry named `name`, and returns the action of the first entry that
    /// is due.
    pub(super) fn due_of(failpoints: &[Failpoint], name: &str) -> Option<Action> {
        let mut due = None;
        for failpoint in failpoints.iter().filter(|failpoint| failpoint.name == name) {
            let visit = failpoint.reached.fetch_add(1, Ordering::Relaxed) + 1;
            if failpoint.nth.is_none_or(|nth| nth == visit) {
                due = due.or(Some(failpoint.action));
            }
        }
        due
    }

    pub(super) fn parse(text: &str) -> Result<Vec<Failpoint>> {
        text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(parse_one).collect()
    }

    fn parse_one(entry: &str) -> Result<Failpoint> {
        let wrong = || {
            Error::new(Kind::Usage, format!("BACKFILLD_FAILPOINT: could not parse \"{entry}\"")).hint(
                "Write name[:nth]=abort|panic|sleep:MS|error|on. Separate several failpoints by commas. nth counts from 1.",
            )
        };
        let (place, action) = entry.split_once('=').ok_or_else(wrong)?;
        let (name, nth) = match place.split_once(':') {
            Some((name, nth)) => (name, Some(nth.parse().ok().filter(|nth| *nth > 0).ok_or_else(wrong)?)),
            None => (place, None),
        };
        let action = match action.split_once(':') {
            None if action == "abort" => Action::Abort,
            None if action == "panic" => Action::Panic,
            None if action == "error" => Action::Error,
            None if action == "on" => Action::On,
            Some(("sleep", time)) => Action::Sleep(Duration::from_millis(time.parse().map_err(|_| wrong())?)),
            _ => return Err(wrong()),
        };
        if name.is_empty() {
            return Err(wrong());
        }
        Ok(Failpoint { name: name.to_owned(), nth, action, reached: AtomicU64::new(0) })
    }
}

#[cfg(not(any(debug_assertions, feature = "failpoint")))]
mod real {
    use crate::error::Result;

    #[inline(always)]
    pub fn init() -> Result<()> {
        Ok(())
    }

    #[inline(always)]
    pub fn point(_: &str) -> Result<()> {
        Ok(())
    }

    #[inline(always)]
    pub fn pause_point(_: &str) -> std::future::Ready<Result<()>> {
        std::future::ready(Ok(()))
    }

    #[inline(always)]
    pub const fn active(_: &str) -> bool {
        false
    }
}

pub use real::{active, init, pause_point, point};

#[cfg(all(test, any(debug_assertions, feature = "failpoint")))]
mod tests {
    use std::time::Duration;

    use super::real::{Action, due_of, parse};

    #[test]
    fn several_failpoints_are_read() {
        let failpoints =
            parse("before_commit:3=abort, claim=sleep:250,after_commit=error,separate_checkpoint=on").unwrap();
        let read: Vec<_> =
            failpoints.iter().map(|failpoint| (failpoint.name.as_str(), failpoint.nth, failpoint.action)).collect();
        assert_eq!(
            read,
            [
                ("before_commit", Some(3), Action::Abort),
                ("claim", None, Action::Sleep(Duration::from_millis(250))),
                ("after_commit", None, Action::Error),
                ("separate_checkpoint", None, Action::On),
            ]
        );
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn a_typo_is_refused() {
        for text in ["x", "x=", "x=explode", "x:0=abort", "x:y=abort", "=abort", "x=sleep", "x=sleep:soon", "x=abort:1"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn nth_fires_at_that_visit_only() {
        let failpoints = parse("x:2=abort,y=error").unwrap();
        let due: Vec<_> = (0..3).map(|_| due_of(&failpoints, "x")).collect();
        assert_eq!(due, [None, Some(Action::Abort), None]);
        assert_eq!((0..3).filter_map(|_| due_of(&failpoints, "y")).count(), 3);
        assert_eq!(due_of(&failpoints, "z"), None);
    }

    #[tokio::test]
    async fn without_the_variable_nothing_happens() {
        super::init().unwrap();
        super::point("nowhere").unwrap();
        super::pause_point("nowhere").await.unwrap();
        assert!(!super::active("nowhere"));
    }
}
