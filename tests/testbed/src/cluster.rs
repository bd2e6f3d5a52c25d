//! A primary server.

use crate::SetupError;
use crate::server::Server;
use crate::template;
use std::ops::Deref;
use tokio_postgres::Client;

pub use crate::server::{Mode, Options};

/// A primary in a temporary directory, on a free port of 127.0.0.1. While the server runs, any user
/// of this machine may connect to it without a password. The server and its directory are removed
/// on drop.
#[derive(Debug)]
pub struct Cluster {
    server: Server,
}

impl Cluster {
    /// Starts a new server, in the state in which `initdb` leaves it. Its only login role is the
    /// superuser `postgres`.
    pub async fn try_start(options: Options) -> Result<Self, SetupError> {
        Self::try_start_with(options, |_| Ok(())).await
    }

    /// Starts a new server, like [`Cluster::try_start`]. Before the server starts, calls `prepare`,
    /// which can write into the data directory.
    pub async fn try_start_with(
        options: Options,
        prepare: impl FnOnce(&Server) -> Result<(), SetupError>,
    ) -> Result<Self, SetupError> {
        let server = Server::new("primary", options)?;
        let (target, binaries, run_as) = (server.data_dir(), server.binaries, server.run_as);
        let copied = tokio::task::spawn_blocking(move || template::copy_to(&target, binaries, run_as)).await;
        copied.map_err(|error| SetupError(error.to_string()))??;
        server.write_conf(&[])?;
        prepare(&server)?;
        server.try_start().await?;
        Ok(Self { server })
    }

    pub async fn start(options: Options) -> Self {
        match Self::try_start(options).await {
            Ok(cluster) => cluster,
            Err(error) => panic!("{error}"),
        }
    }

    /// Starts a server with database `app`. The owner of the database is the login role `owner`,
    /// which is not a superuser but may read statistics.
    pub async fn with_owner(options: Options) -> Self {
        let cluster = Self::start(options).await;
        cluster.make_owner().await;
        cluster
    }

    /// Creates the role `owner` and the database `app` on a cluster that has neither.
    pub async fn make_owner(&self) {
        self.create_role("owner", "login in role pg_read_all_stats").await;
        self.create_database("app", "owner").await;
    }

    pub fn owner_url(&self) -> String {
        self.url("owner", "app")
    }

    /// Connects to `app` as `owner`.
    pub async fn owner(&self) -> Client {
        self.client("owner", "app").await
    }

    /// Creates a role. `options` are those of `create role`: `login`, `login in role x`, ...
    pub async fn create_role(&self, name: &str, options: &str) {
        self.sql("postgres", "postgres", &format!("create role {name} {options}")).await;
    }

    pub async fn create_database(&self, name: &str, owner: &str) {
        self.sql("postgres", "postgres", &format!("create database {name} owner {owner}")).await;
    }

    /// Creates a database in an encoding other than UTF8, for example WIN1252 or SQL_ASCII.
    pub async fn create_database_in(&self, name: &str, owner: &str, encoding: &str) {
        let options = format!("owner {owner} encoding '{encoding}' template template0 lc_collate 'C' lc_ctype 'C'");
        self.sql("postgres", "postgres", &format!("create database {name} {options}")).await;
    }
}

impl Deref for Cluster {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}
