//! Estimates the part of a batch's time that is spent on the network. During this time, the batch
//! causes no load on the server.

use std::time::Duration;

/// This much of the time outside the server does not count as network time, because the server may
/// be the cause. For example, the session may have waited for a processor.
const USUAL: Duration = Duration::from_millis(25);
/// If the estimate is at least this long, the operator is told that the network is slow.
const WORTH_TELLING: Duration = Duration::from_millis(200);

/// The estimate of one slice. After an answer that is faster than the estimate, the estimate drops
/// to the new value at once. After a slower answer, the estimate rises only by a part of the
/// difference, because a single answer can be late for other reasons.
#[derive(Debug, Default)]
pub struct Network {
    beside_the_server: Option<Duration>,
}

impl Network {
    /// Records a batch. `total` is the time from the start of the batch until its answer arrived,
    /// and `server` is the part of this time that the server needed.
    pub fn measured(&mut self, total: Duration, server: Duration) {
        let now = total.saturating_sub(server);
        self.beside_the_server = Some(match self.beside_the_server {
            Some(before) if now > before => before + (now - before) / 8,
            _ => now,
        });
    }

    /// Returns the part of the time of each batch that is spent on the network. Returns 0 if this
    /// part is unknown or not longer than usual.
    pub fn time(&self) -> Duration {
        self.beside_the_server.unwrap_or_default().saturating_sub(USUAL)
    }

    /// Returns a sentence for the operator if the network slows the job down, otherwise none.
    pub fn tell(&self) -> Option<String> {
        let time = self.time();
        let millis = time.as_millis();
        (time >= WORTH_TELLING).then(|| format!("the network to the server is slow: it adds {millis} ms to each batch"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_estimate_follows_quick_answers_at_once_and_slow_ones_slowly() {
        let mut network = Network::default();
        assert_eq!((network.time(), network.tell()), (Duration::ZERO, None));
        network.measured(MS * 1030, MS * 5);
        assert_eq!(network.time(), MS * 1000);
        assert_eq!(network.tell().as_deref(), Some("the network to the server is slow: it adds 1000 ms to each batch"));
        network.measured(MS * 35, MS * 10);
        assert_eq!((network.time(), network.tell()), (Duration::ZERO, None));
        network.measured(MS * 835, MS * 10);
        assert_eq!(network.time(), MS * 100, "a single late answer");
    }
}
