//! Connects to the PostgreSQL server: connection strings, passwords, TLS, the control login and the
//! executors' logins, sessions with fixed settings, and cancel requests. Also quotes names, builds
//! SQL conditions on keys and on assigned columns, and installs schema `backfill`.

pub mod assigned;
pub mod bounded;
pub mod cancel;
pub mod clock;
pub mod connect;
pub mod conninfo;
pub mod control;
pub mod frames;
pub mod ident;
pub mod keyset;
pub mod passfile;
pub mod peer;
pub mod pins;
pub mod pooler;
pub mod pools;
pub mod row;
pub mod schema;
pub mod session;
pub mod tls;
pub mod wire;
