//! The windows in which jobs may run. A cron expression defines when a window opens. `hours`
//! defines how long the window stays open. The expression has the five fields of crontab(5) and
//! applies in a time zone of the IANA database.
//!
//! An hour is skipped when clocks are set forward, and repeated when they are set back:
//!
//! - If minute and hour are single numbers, a window that would open in the skipped hour opens at
//!   the end of this hour. A window that opens in the repeated hour opens only the first time.
//! - If minute or hour is a list, a range, a step or `*`, the window does not open in the skipped
//!   hour, and opens both times in the repeated hour.
//!
//! `hours` are elapsed hours, independent of the local time.

use std::time::SystemTime;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Kind, Result};

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "Raw")]
pub struct Window {
    cron: Cron,
    open_for: SignedDuration,
    zone: TimeZone,
}

/// A window as written in the configuration or in the options of a job. Example:
/// `{open: "0 22 * * *", hours: 6, time_zone: Europe/Berlin}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    open: String,
    hours: f64,
    /// The IANA name of the time zone. Default: UTC.
    #[serde(default)]
    time_zone: Option<String>,
}

/// Whether a window is open, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowState {
    /// The window is open at least until this time. It stays open longer if the cron expression
    /// would open it again before this time.
    Open {
        until: Timestamp,
    },
    Closed {
        until: Timestamp,
    },
}

impl TryFrom<Raw> for Window {
    type Error = String;

    fn try_from(Raw { open, hours, time_zone }: Raw) -> Result<Self, String> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(&open).map_err(|error| {
            let error = error.to_string();
            let reason = error.trim_start_matches("Component error: ").trim_end_matches('.');
            format!("window: open is \"{open}\", which is not a valid cron expression (minute hour day month weekday): {reason}")
        })?;
        if !(0.01..=168.0).contains(&hours) {
            return Err(format!("window: hours is {hours}; it must be between 0.01 and 168"));
        }
        let name = time_zone.as_deref().unwrap_or("UTC");
        let zone = TimeZone::get(name).map_err(|_| {
            format!("window: time_zone is \"{name}\", which is not in the IANA time zone database; a valid name is, for example, Europe/Berlin")
        })?;
        let window = Self { cron, open_for: SignedDuration::from_secs_f64(hours * 3600.0), zone };
        match window.at(Timestamp::now()) {
            Ok(_) => Ok(window),
            Err(_) => Err(format!("window: the field open is \"{open}\", which matches no date")),
        }
    }
}

impl Window {
    /// Parses the JSON value of the option `window`.
    ///
    /// # Errors
    /// [`Kind::Refused`]. The message names the member of the object and the reason.
    pub fn read(value: &Value) -> Result<Self> {
        serde_json::from_value(value.clone()).map_err(|error| {
            Error::new(Kind::Refused, format!("option {error}")).hint(
                "Correct the window, for example: backfill.tune(name, '{\"window\": {\"open\": \"0 22 * * *\", \"hours\": 6, \"time_zone\": \"Europe/Berlin\"}}'). Then run backfill.retry.",
            )
        })
    }

    /// Returns whether the window is open at the given time.
    ///
    /// # Errors
    /// [`Kind::Refused`] if the cron expression matches no date.
    fn at(&self, now: Timestamp) -> Result<WindowState> {
        let here = now.to_zoned(self.zone.clone());
        let never = |error: croner::errors::CronError| Error::new(Kind::Refused, format!("window: {error}"));
        // The search for the most recent opening fails if it reaches the start of the calendar. The
        // window is then closed.
        if let Ok(opened) = self.cron.find_previous_occurrence(&here, true) {
            let until = opened.timestamp() + self.open_for;
            if until > now {
                return Ok(WindowState::Open { until });
            }
        }
        let opens = self.cron.find_next_occurrence(&here, false).map_err(never)?;
        Ok(WindowState::Closed { until: opens.timestamp() })
    }

    /// Returns whether the window is open at the time `now`. If the cron expression matches no
    /// further date, the window is closed for the next 24 hours.
    pub fn state(&self, now: Timestamp) -> WindowState {
        self.at(now).unwrap_or_else(|_| WindowState::Closed { until: now + SignedDuration::from_hours(24) })
    }
}

/// Returns the earliest time at which all windows can be open. None if all windows are open at the
/// time `now`.
pub fn closed_until<'a>(windows: impl IntoIterator<Item = &'a Window>, now: Timestamp) -> Option<SystemTime> {
    let closed = windows.into_iter().filter_map(|window| match window.state(now) {
        WindowState::Open { .. } => None,
        WindowState::Closed { until } => Some(until),
    });
    closed.max().map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn window(open: &str, hours: f64, zone: &str) -> Window {
        Window::read(&json!({"open": open, "hours": hours, "time_zone": zone})).expect("a window")
    }

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time stamp")
    }

    fn state_at(window: &Window, moment: &str) -> WindowState {
        window.at(at(moment)).expect("a state")
    }

    #[test]
    fn a_nightly_window_stays_open_after_midnight_and_is_closed_by_day() {
        let night = window("0 22 * * *", 6.0, "Europe/Berlin");
        let open = WindowState::Open { until: at("2026-07-02T02:00:00Z") };
        assert_eq!(state_at(&night, "2026-07-01T20:00:00Z"), open);
        assert_eq!(state_at(&night, "2026-07-02T01:59:59Z"), open);
        assert_eq!(state_at(&night, "2026-07-02T02:00:00Z"), WindowState::Closed { until: at("2026-07-02T20:00:00Z") });
        assert_eq!(state_at(&night, "2026-07-01T19:59:59Z"), WindowState::Closed { until: at("2026-07-01T20:00:00Z") });
    }

    #[test]
    fn clock_changes_neither_remove_nor_add_an_opening() {
        let early = window("30 2 * * *", 1.0, "Europe/Berlin");
        // 2026-03-29: at 1:00 UTC the clock changes from 2:00 to 3:00. The window opens at 3:00.
        assert_eq!(state_at(&early, "2026-03-29T00:59:59Z"), WindowState::Closed { until: at("2026-03-29T01:00:00Z") });
        assert_eq!(state_at(&early, "2026-03-29T01:30:00Z"), WindowState::Open { until: at("2026-03-29T02:00:00Z") });
        // 2026-10-25: at 1:00 UTC the clock changes from 3:00 to 2:00. The window opens at the
        // first 2:30 (0:30 UTC), but not at the second.
        assert_eq!(state_at(&early, "2026-10-25T00:30:00Z"), WindowState::Open { until: at("2026-10-25T01:30:00Z") });
        assert_eq!(state_at(&early, "2026-10-25T01:30:00Z"), WindowState::Closed { until: at("2026-10-26T01:30:00Z") });
        // `hours` are elapsed hours.
        let night = window("0 22 * * *", 6.0, "Europe/Berlin");
        assert_eq!(state_at(&night, "2026-03-29T00:00:00Z"), WindowState::Open { until: at("2026-03-29T03:00:00Z") });
        assert_eq!(state_at(&night, "2026-10-25T01:59:00Z"), WindowState::Open { until: at("2026-10-25T02:00:00Z") });
    }

    #[test]
    fn days_and_names_mean_what_they_mean_in_a_crontab() {
        let weekend = window("0 0 * * sat", 48.0, "UTC");
        assert_eq!(state_at(&weekend, "2026-11-22T23:59:59Z"), WindowState::Open { until: at("2026-11-23T00:00:00Z") });
        assert_eq!(
            state_at(&weekend, "2026-11-24T00:00:00Z"),
            WindowState::Closed { until: at("2026-11-28T00:00:00Z") }
        );
        assert!(matches!(state_at(&window("* * * * *", 0.5, "UTC"), "2026-11-24T12:00:30Z"), WindowState::Open { .. }));
    }

    #[test]
    fn an_invalid_window_is_refused_with_the_member_and_the_reason() {
        for (value, expected) in [
            (json!({"open": "61 * * * *", "hours": 1}), "open is \"61 * * * *\""),
            (json!({"open": "0 0 * *", "hours": 1}), "open is \"0 0 * *\""),
            (json!({"open": "0 0 22 * * *", "hours": 1}), "open is \"0 0 22 * * *\""),
            (json!({"open": "0 0 30 2 *", "hours": 1}), "matches no date"),
            (json!({"open": "0 0 * * *", "hours": 0}), "hours is 0"),
            (json!({"open": "0 0 * * *", "hours": 1, "time_zone": "Mars/Olympus"}), "Mars/Olympus"),
            (json!({"open": "0 0 * * *"}), "missing field `hours`"),
            (json!({"open": "0 0 * * *", "hours": 1, "close": 2}), "unknown field `close`"),
        ] {
            let error = Window::read(&value).expect_err("no window");
            assert!(error.kind == Kind::Refused && error.message.contains(expected), "{value}: {}", error.message);
        }
    }

    proptest! {
        /// The end that is reported for a window's state (open or closed) is always later than
        /// `now`. If the window is closed at `now`, it is open at that end.
        #[test]
        fn a_window_is_always_open_or_closed_for_a_while(
            minute in 0u32..60, hour in 0u32..24, weekday in 0u32..7, daily in any::<bool>(), hours in 0.02..40.0, second in 0i64..63_000_000
        ) {
            let open = format!("{minute} {hour} * * {}", if daily { "*".to_owned() } else { weekday.to_string() });
            let window = window(&open, hours, "America/New_York");
            let now = at("2026-01-01T00:00:00Z") + SignedDuration::from_secs(second);
            match window.at(now).unwrap() {
                WindowState::Open { until } => {
                    prop_assert!(until > now && until <= now + window.open_for);
                }
                WindowState::Closed { until } => {
                    prop_assert!(until > now && until.duration_since(now) <= SignedDuration::from_hours(8 * 24));
                    let opens = matches!(window.at(until).unwrap(), WindowState::Open { .. });
                    prop_assert!(opens);
                }
            }
        }

        #[test]
        fn no_text_breaks_the_parser(open in "\\PC{0,40}", hours in any::<f64>(), zone in "\\PC{0,20}") {
            let _ = Window::read(&json!({"open": open, "hours": hours, "time_zone": zone}));
        }
    }
}
