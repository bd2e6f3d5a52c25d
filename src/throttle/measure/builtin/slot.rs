//! Budget signal without a default limit. It affects jobs only if a rule sets a limit. The value is
//! the number of bytes of WAL that the server keeps for a replication slot, physical or logical.
//!
//! If a subscriber is slow or disconnected, the primary keeps WAL for its slot, and the disk can
//! become full. The server keeps no WAL for a slot with the `wal_status` `lost`. Every role is
//! allowed to see the replication slots.

use futures_util::future::BoxFuture;
use tokio_postgres::Client;

use crate::config::signal::SignalRule;
use crate::error::Result;
use crate::pg::row::Columns;
use crate::throttle::measure::poll::{Poll, Sample};

const KEPT: &str = "
select s.slot_name::pg_catalog.text,
       pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.restart_lsn)::pg_catalog.float8
  from pg_catalog.pg_replication_slots s
 where s.restart_lsn is not null and s.wal_status is distinct from 'lost'
 order by s.slot_name";

pub struct Slots {
    /// Rules for slots. The first rule that matches a slot sets the limit of the slot.
    rules: Vec<SignalRule>,
}

impl Slots {
    pub fn new(rules: Vec<SignalRule>) -> Self {
        Self { rules }
    }

    fn limit(&self, slot: &str) -> Option<f64> {
        self.rules.iter().find(|rule| rule.matches(slot)).and_then(|rule| rule.limit)
    }
}

impl Poll for Slots {
    fn poll<'a>(&'a mut self, client: &'a Client, _working: bool) -> BoxFuture<'a, Result<Vec<Sample>>> {
        Box::pin(async move {
            let mut slots = Vec::new();
            for row in client.query_typed(KEPT, &[]).await? {
                let (source, value): (String, f64) = (row.read(0)?, row.read(1)?);
                slots.push(Sample { limit: self.limit(&source), value: value.max(0.0), source, says: None });
            }
            Ok(slots)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_matches_a_slot_gives_its_limit() {
        let rule = |pattern: Option<&str>, limit| SignalRule {
            name: "slot".to_owned(),
            pattern: pattern.map(str::to_owned),
            limit: Some(limit),
            ..SignalRule::default()
        };
        let slots = Slots::new(vec![rule(Some("cdc_*"), 1.0), rule(Some("eu"), 2.0)]);
        assert_eq!([slots.limit("cdc_a"), slots.limit("eu"), slots.limit("us")], [Some(1.0), Some(2.0), None]);
        assert_eq!(Slots::new(vec![rule(None, 3.0)]).limit("us"), Some(3.0));
    }
}
