//! Tests of rollouts on a real server: a new column from plan to contract, with live traffic, and
//! the rollback from each stage.

mod kills;
mod locks;
mod partitions;
mod recovery;
mod spec;
mod sync;
mod traffic;

use backfilld_testbed::cluster::Cluster;
use backfilld_testbed::daemon::{Builder, Daemon};
use backfilld_testbed::wait;
use tokio_postgres::Client;

use crate::support::{BACKFILLD, SOON, value};

pub const STAGES: [&str; 8] =
    ["planned", "expanded", "syncing", "backfilled", "verified", "constrained", "switched", "contracted"];

pub const TABLE: &str = "
create table customers (id int primary key);
insert into customers select generate_series(0, 9);
create table orders (id bigint generated always as identity primary key, total numeric(10, 2), note text, customer int);
insert into orders (total, note, customer) select g / 100.0, 'n' || g, g % 10 from generate_series(1, 5000) g;
create function touch() returns trigger language plpgsql as $$ begin new.total := round(new.total, 1); return new; end $$;
create trigger a_touch before update of note on orders for each row execute function touch();";

pub fn spec(until: &str) -> String {
    format!(
        r#"{{"rollout": "cents", "table": "public.orders",
            "add_column": {{"name": "total_cents", "type": "bigint", "using": "round(total * 100)::bigint", "not_null": true,
                            "check": "total_cents >= 0", "index": {{"method": "btree"}}}},
            "backfill": {{"slices": 2}}, "until": "{until}"}}"#
    )
}

pub async fn start(owner: &Client, spec: &str) -> i64 {
    owner.query_one("select backfill.rollout_start($1::text::jsonb)", &[&spec]).await.unwrap().get(0)
}

pub fn daemon(cluster: &Cluster) -> Builder {
    daemon_at(&cluster.owner_url())
}

pub fn daemon_at(url: &str) -> Builder {
    Daemon::builder(BACKFILLD, url)
        .config("lease: {ttl_seconds: 2, heartbeat_seconds: 0.5, poll_ms: 50}")
        .arg("--no-migrate")
}

pub async fn until_rollout(owner: &Client, name: &str, condition: &str) {
    wait::until(SOON * 2, format!("rollout {name}: {condition}"), async || {
        let told: String = value(
            owner,
            &format!(
                "select format('%s %s %s %s', stage, state, error, hint) from backfill.rollouts where name = '{name}'"
            ),
        )
        .await;
        assert!(!told.contains(" failed ") || condition.contains("failed"), "{told}");
        value::<bool>(
            owner,
            &format!("select coalesce({condition}, false) from backfill.rollouts where name = '{name}'"),
        )
        .await
    })
    .await;
}

/// Returns the schema of the table without OIDs.
pub async fn fingerprint(owner: &Client) -> String {
    value(owner, "select backfill._rollout_fingerprint('orders'::regclass)").await
}

pub const DIFFERENT: &str = "select count(*) from orders where total_cents is distinct from round(total * 100)::bigint";
