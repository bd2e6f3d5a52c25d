//! Connects to the PostgreSQL server. Contains sessions with pinned settings, the control login and
//! the executors' logins, the quoting of names, and the installation of schema `backfill`.

pub mod assigned;
pub mod cancel;
pub mod connect;
pub mod conninfo;
pub mod ident;
pub mod keyset;
pub mod passfile;
pub mod peer;
pub mod pools;
pub mod schema;
pub mod session;
pub mod tls;
