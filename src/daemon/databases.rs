//! Starts the services of all databases, replaces services when the configuration changes, and
//! collects the results of the services.

use std::collections::BTreeMap;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::database::{Ended, Service, Settings, Since, Started, Surroundings};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::shutdown::Shutdown;

pub(super) struct Databases {
    surroundings: Surroundings,
    shutdown: Shutdown,
    known: BTreeMap<String, Known>,
    tasks: JoinSet<(String, Result<Ended>)>,
}

struct Known {
    settings: Settings,
    since: Since,
    /// Cancelling this token drains the running service. None after the service has ended.
    running: Option<CancellationToken>,
    /// The service that starts as soon as the running service has ended.
    next: Option<Proven>,
    /// Whether the database is no longer in the configuration.
    leaving: bool,
}

/// A service whose start has succeeded, and the result of the start. Boxed because the type is
/// large.
type Proven = Box<(Service, Started)>;

/// A verified change to the databases. Each step that can fail has already succeeded.
pub(super) struct Change {
    settings: Vec<Settings>,
    proven: BTreeMap<String, (Since, Proven)>,
}

impl Change {
    /// Returns the names of the databases that are new, changed or removed.
    pub fn names(&self, databases: &Databases) -> Vec<String> {
        self.proven.keys().cloned().chain(self.gone(databases)).collect()
    }

    fn gone(&self, databases: &Databases) -> Vec<String> {
        let stays = |name: &str| self.settings.iter().any(|settings| settings.name() == name);
        let all = databases.known.iter().filter(|(name, known)| !known.leaving && !stays(name));
        all.map(|(name, _)| name.clone()).collect()
    }
}

impl Databases {
    pub fn start(config: &Config, surroundings: Surroundings, shutdown: Shutdown) -> Result<Self> {
        let mut databases = Self { surroundings, shutdown, known: BTreeMap::new(), tasks: JoinSet::new() };
        for settings in settings(config)? {
            let since = Since::default();
            let service = databases.service(&settings, &since);
            databases.spawn(settings, since, service, None);
        }
        Ok(databases)
    }

    /// Waits until a service ends, and returns its result. Returns none if no service is running.
    /// If the ended service succeeded and the daemon is not draining, starts the next service for
    /// the same database before returning.
    pub async fn next_end(&mut self) -> Option<Result<Ended>> {
        let (name, ended) = match self.tasks.join_next().await? {
            Ok(ended) => ended,
            Err(panic) => return Some(Err(Error::new(Kind::Internal, format!("task panicked: {panic}")))),
        };
        if let Some(mut known) = self.known.remove(&name) {
            known.running = None;
            match known.next.take() {
                Some(next) if ended.is_ok() && !self.shutdown.drain.is_cancelled() => {
                    let (service, started) = *next;
                    self.spawn(known.settings, known.since, service, Some(started));
                }
                _ if known.leaving => self.surroundings.health.forget(&name),
                _ => drop(self.known.insert(name, known)),
            }
        }
        Some(ended)
    }

    /// Starts a service for each database that is new or changed in this configuration. The start
    /// checks the settings of the database against its server. The current services continue to
    /// run.
    ///
    /// # Errors
    /// Any problem that prevents the daemon from serving one of the databases. The current services
    /// then stay unchanged.
    pub async fn prove(&self, config: &Config) -> Result<Change> {
        let settings = settings(config)?;
        let mut proven = BTreeMap::new();
        for changed in &settings {
            let known = self.known.get(changed.name());
            if known.is_some_and(|known| known.settings == *changed && !known.leaving) {
                continue;
            }
            let since = known.map_or_else(Since::default, |known| Since::clone(&known.since));
            let service = self.service(changed, &since);
            let span = tracing::error_span!("database", database.name = %changed.name());
            let started = Box::pin(service.try_start(true))
                .instrument(span)
                .await
                .map_err(|error| error.context(format!("database \"{}\"", changed.name())))?;
            proven.insert(changed.name().to_owned(), (since, Box::new((service, started))));
        }
        Ok(Change { settings, proven })
    }

    /// Drains the services of the changed and removed databases, and starts the new services. If
    /// the old service of a database is still running, its new service starts as soon as the old
    /// one has ended.
    pub fn replace(&mut self, mut change: Change) {
        for name in change.gone(self) {
            match self.known.get_mut(&name) {
                Some(Known { running: Some(drain), leaving, next, .. }) => {
                    drain.cancel();
                    (*leaving, *next) = (true, None);
                }
                // The service was idle and has already ended.
                _ => {
                    self.known.remove(&name);
                    self.surroundings.health.forget(&name);
                }
            }
        }
        for settings in change.settings {
            let Some((since, proven)) = change.proven.remove(settings.name()) else { continue };
            match self.known.get_mut(settings.name()) {
                Some(known) if known.running.is_some() => {
                    known.running.iter().for_each(CancellationToken::cancel);
                    (known.settings, known.since) = (settings, since);
                    (known.next, known.leaving) = (Some(proven), false);
                }
                _ => {
                    let (service, started) = *proven;
                    self.spawn(settings, since, service, Some(started));
                }
            }
        }
    }

    fn service(&self, settings: &Settings, since: &Since) -> Service {
        Service::new(settings.clone(), Since::clone(since), self.surroundings.clone())
    }

    fn spawn(&mut self, settings: Settings, since: Since, service: Service, started: Option<Started>) {
        let drain = self.shutdown.drain.child_token();
        let shutdown = Shutdown { drain: drain.clone(), hard: self.shutdown.hard.clone() };
        let name = settings.name().to_owned();
        self.known.insert(name.clone(), Known { settings, since, running: Some(drain), next: None, leaving: false });
        // The span has the error level. At a lower level, a log filter could drop the span, and the
        // database's name would be missing from the lines that pass the filter.
        let span = tracing::error_span!("database", database.name = %name);
        self.tasks.spawn(async move { (name, service.run(started, shutdown).await) }.instrument(span));
    }
}

fn settings(config: &Config) -> Result<Vec<Settings>> {
    Ok(config.databases_to_run()?.into_iter().map(|database| Settings::of(config, database)).collect())
}
