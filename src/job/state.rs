//! The states of a job and the transitions between them. The database stores the state. The
//! functions `_settle`, `_end_job`, `_carry_out_command`, `_start_new_run`, `_claim` and
//! `_close_window` change the state. [`transition`] defines the transitions that exist. A test
//! compares these transitions with the diagram in ARCHITECTURE.md.

use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    Queued,
    Running,
    Paused,
    Verifying,
    Succeeded,
    Failed,
    Cancelled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    Claim,
    /// The window closed before the planning of the job began.
    Window,
    Pause,
    Resume,
    Passed,
    Sweep,
    Proven,
    Fail,
    Cancel,
    Retry,
    Rerun,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IllegalTransition(pub State, pub Event);

impl fmt::Display for IllegalTransition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event {:?} is not possible for a job that is {}", self.1, self.0)
    }
}

impl State {
    pub const ALL: [Self; 7] =
        [Self::Queued, Self::Running, Self::Paused, Self::Verifying, Self::Succeeded, Self::Failed, Self::Cancelled];

    pub fn read(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.to_string() == text)
    }

    pub fn has_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Verifying => "verifying",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        })
    }
}

impl Event {
    pub const ALL: [Self; 11] = [
        Self::Claim,
        Self::Window,
        Self::Pause,
        Self::Resume,
        Self::Passed,
        Self::Sweep,
        Self::Proven,
        Self::Fail,
        Self::Cancel,
        Self::Retry,
        Self::Rerun,
    ];
}

/// Returns the states to which an event can lead. `Resume` leads to `queued` for a job without a
/// plan, to `verifying` if its verification has begun, and otherwise to `running`. `Retry` leads to
/// `queued` for a job without a plan, and otherwise to `running`.
pub fn transition(state: State, event: Event) -> Result<&'static [State], IllegalTransition> {
    use Event as E;
    use State as S;
    match (state, event) {
        (S::Queued, E::Claim) | (S::Verifying, E::Sweep) => Ok(&[S::Running]),
        (S::Running, E::Window) => Ok(&[S::Queued]),
        (S::Queued | S::Running | S::Verifying, E::Pause) => Ok(&[S::Paused]),
        (S::Paused, E::Resume) => Ok(&[S::Queued, S::Running, S::Verifying]),
        (S::Running, E::Passed) => Ok(&[S::Verifying]),
        (S::Running | S::Verifying, E::Proven) => Ok(&[S::Succeeded]),
        (S::Running | S::Verifying, E::Fail) => Ok(&[S::Failed]),
        (S::Queued | S::Running | S::Paused | S::Verifying, E::Cancel) => Ok(&[S::Cancelled]),
        (S::Failed | S::Cancelled, E::Retry) => Ok(&[S::Queued, S::Running]),
        (S::Succeeded | S::Failed | S::Cancelled, E::Rerun) => Ok(&[S::Queued]),
        _ => Err(IllegalTransition(state, event)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_finished_job_moves_only_by_a_command() {
        for state in State::ALL.into_iter().filter(|state| state.has_ended()) {
            for event in Event::ALL {
                if transition(state, event).is_ok() {
                    assert!(matches!(event, Event::Retry | Event::Rerun), "{state} on {event:?}");
                }
            }
        }
    }

    #[test]
    fn the_diagram_in_the_architecture_page_shows_exactly_these_transitions() {
        let page = include_str!("../../ARCHITECTURE.md");
        let drawn: BTreeSet<String> = page
            .lines()
            .map(str::trim)
            .filter(|line| line.contains(" --> ") && !line.contains("[*]"))
            .map(str::to_owned)
            .collect();
        let mut known = BTreeSet::new();
        for state in State::ALL {
            for event in Event::ALL {
                for next in transition(state, event).unwrap_or(&[]) {
                    known.insert(format!("{state} --> {next}: {}", format!("{event:?}").to_lowercase()));
                }
            }
        }
        assert_eq!(drawn, known);
    }
}
