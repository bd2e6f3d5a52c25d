//! Attackers try to gain privileges that they do not have, or to disturb the jobs of other roles.
//! Most of them are roles that may enqueue jobs. In module `http` the attacker is a client without
//! credentials. SECURITY.md states what backfilld promises.

mod answers;
mod binding;
mod caller_settings;
mod crowding;
mod encodings;
mod escape;
mod forgery;
mod fragments;
mod hostile;
mod http;
mod invented;
mod matrix;
mod memory;
mod operators;
mod owners;
mod panics;
mod planted;
mod quota;
mod rollouts;
mod runaway;
mod settings;

use backfilld_testbed::cluster::{Cluster, Options};
use backfilld_testbed::daemon::Daemon;
use tokio_postgres::Client;

use crate::support::{BACKFILLD, SOON, make_roles, migrate, run};

/// A server with the roles that the attacks use. The control login `ctl` owns schemas `backfill`
/// and `vault`, and no object of the application. Role `e` owns tables. The executor of `e` has the
/// login `x_e`, and the submitter `mallory` is a member of `e`. In the same way, role `f` has an
/// executor with the login `x_f`, and the submitter `alice` is a member of `f`. `olga` is an
/// operator, and `eve` is a reader.
pub struct Scene {
    pub cluster: Cluster,
}

impl Scene {
    pub async fn set() -> Self {
        Self::set_in("UTF8").await
    }

    /// Creates the scene, with a database in this encoding.
    pub async fn set_in(encoding: &str) -> Self {
        let cluster = Cluster::start(Options::default().set("track_functions", "all")).await;
        make_roles(&cluster).await;
        cluster.create_database_in("app", "postgres", encoding).await;
        cluster
            .sql(
                "postgres",
                "app",
                "create role e nologin; create role x_e login in role e;
                 create role f nologin; create role x_f login in role f;
                 create role ctl login in role pg_read_all_stats;
                 create role mallory login in role e, backfill_submitter; create role alice login in role f, backfill_submitter;
                 create role olga login in role backfill_operator; create role eve login in role backfill_reader;
                 grant create on database app to ctl; revoke all on schema public from public;
                 grant usage on schema public to public; grant create on schema public to e, f;
                 create schema vault authorization ctl; create table vault.secret (v text); alter table vault.secret owner to ctl;
                 insert into vault.secret values ('the secret')",
            )
            .await;
        assert!(migrate(&cluster, "ctl", "app").await.status.success());
        Self { cluster }
    }

    /// Returns a configuration with an executor for each of the roles `e` and `f`.
    fn config(&self) -> String {
        format!(
            "lease: {{poll_ms: 100}}\ndatabases:\n  - name: main\n    url: {}\n    executors:\n      - {{run_as: e, url: \"{}\"}}\n      - {{run_as: f, url: \"{}\"}}\n",
            self.cluster.url("ctl", "app"),
            self.cluster.url("x_e", "app"),
            self.cluster.url("x_f", "app"),
        )
    }

    pub async fn start_daemon(&self) -> Daemon {
        let daemon = Daemon::builder(BACKFILLD, &self.cluster.url("ctl", "app")).config(self.config()).start();
        daemon.wait_ready(SOON).await;
        daemon
    }

    /// Returns the findings of doctor's executor check. Each string contains the mark, message and
    /// remedy of one finding.
    pub async fn doctor(&self) -> Vec<String> {
        self.doctor_of("executor").await
    }

    /// Returns the findings of the named doctor check, in the form that `doctor` returns.
    pub async fn doctor_of(&self, check: &str) -> Vec<String> {
        self.doctor_with(check, &self.config()).await
    }

    /// Returns the findings of one check of doctor with this configuration, in the same form.
    pub async fn doctor_with(&self, check: &str, config: &str) -> Vec<String> {
        let file = self.cluster.dir().join("doctor.yaml");
        std::fs::write(&file, config).unwrap();
        let mut command = tokio::process::Command::new(BACKFILLD);
        command.arg("doctor").arg("--json").arg("--config").arg(&file);
        for name in ["DATABASE_URL", "BACKFILLD_DATABASE_URL", "BACKFILLD_CONFIG"] {
            command.env_remove(name);
        }
        let output = command.output().await.unwrap();
        let findings: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).expect("doctor prints JSON");
        let reported = findings.iter().filter(|finding| finding["check"] == check);
        reported
            .map(|finding| {
                let text = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
                format!("{} {} -> {}", text("mark"), text("message"), text("remedy"))
            })
            .collect()
    }

    pub async fn client(&self, user: &str) -> Client {
        self.cluster.client(user, "app").await
    }

    /// Connects as mallory and acts as `e`, which owns tables but is not allowed to enqueue jobs.
    pub async fn as_e(&self) -> Client {
        let mallory = self.client("mallory").await;
        run(&mallory, "set role e").await;
        mallory
    }

    /// Creates a table that `e` owns, with the keys 1 to `rows` and one column to fill.
    pub async fn table(&self, name: &str, rows: u32) {
        let made = format!(
            "set role e; create table {name} (id int primary key, a int); insert into {name} select generate_series(1, {rows})"
        );
        self.cluster.sql("mallory", "app", &made).await;
    }
}
