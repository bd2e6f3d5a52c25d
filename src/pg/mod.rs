//! How we meet the server: sessions with a pinned recipe, two kinds of logins, names quoted in one place, and the
//! schema's migrations.

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
