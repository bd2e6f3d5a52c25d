//! Keeps the replicas that disconnected and did not return within their grace period, except
//! required replicas. Lost replicas hold no jobs, but the metric `backfilld_replica_up` reports
//! them, so that an alert can fire.

use std::time::Duration;

use tokio::time::Instant;

/// Time for which a lost replica is reported, counted from its disconnection. The report ends
/// earlier if the replica returns, or if the configuration is reloaded. Operators reload the
/// configuration after they have removed a replica on purpose.
pub const REPORTED: Duration = Duration::from_secs(3600);

#[derive(Debug, Default)]
pub struct LostReplicas(Vec<Lost>);

#[derive(Debug)]
struct Lost {
    source: String,
    application_name: String,
    client_addr: Option<String>,
    since: Instant,
}

impl LostReplicas {
    pub fn add(&mut self, source: &str, application_name: &str, client_addr: Option<&str>, since: Instant) {
        self.0.retain(|lost| lost.source != source);
        self.0.push(Lost {
            source: source.to_owned(),
            application_name: application_name.to_owned(),
            client_addr: client_addr.map(str::to_owned),
            since,
        });
    }

    /// Forgets the lost replica that a new connection replaces. This is the lost replica with the
    /// same application name and address. If there is none, any lost replica with the same
    /// application name is forgotten, because a replica whose pod moved to another node connects
    /// from another address.
    pub fn replaced_by(&mut self, application_name: &str, client_addr: Option<&str>) {
        let named = |lost: &Lost| lost.application_name == application_name;
        let same = self.0.iter().position(|lost| named(lost) && lost.client_addr.as_deref() == client_addr);
        let index = same.or_else(|| self.0.iter().position(named));
        if let Some(index) = index {
            self.0.remove(index);
        }
    }

    /// Returns the names of the replicas that are reported as lost at `now`.
    pub fn sources(&mut self, now: Instant) -> Vec<String> {
        self.0.retain(|lost| now.saturating_duration_since(lost.since) < REPORTED);
        self.0.iter().map(|lost| lost.source.clone()).collect()
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lost_replica_is_reported_for_an_hour_or_until_it_is_replaced() {
        let mut lost = LostReplicas::default();
        let start = Instant::now();
        lost.add("eu-1", "eu-1", None, start);
        lost.add("walreceiver@10.0.0.1", "walreceiver", Some("10.0.0.1"), start);
        lost.add("walreceiver@10.0.0.2", "walreceiver", Some("10.0.0.2"), start + Duration::from_secs(60));
        // The replica at 10.0.0.2 returns. The replica at 10.0.0.1 is still lost.
        lost.replaced_by("walreceiver", Some("10.0.0.2"));
        assert_eq!(lost.sources(start), ["eu-1", "walreceiver@10.0.0.1"]);
        // A replica at a new address replaces the replica that is still lost.
        lost.replaced_by("walreceiver", Some("10.0.0.3"));
        lost.replaced_by("us-1", None);
        assert_eq!(lost.sources(start + REPORTED - Duration::from_secs(1)), ["eu-1"]);
        assert!(lost.sources(start + REPORTED).is_empty());
    }
}
