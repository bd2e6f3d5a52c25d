//! How we meet the server: sessions with a pinned recipe, two kinds of logins, names quoted in one place, and the
//! schema's migrations.

pub mod assigned;
pub mod cancel;
pub mod connect;
pub mod conninfo;
pub mod ident;
pub mod keyset;
pub mod migrate;
pub mod passfile;
pub mod pools;
pub mod session;
pub mod tls;
