//! Describes the server that a session is connected to, and the kind of connection. The session's
//! cancel requests must go to this server.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::pg::conninfo::{Host, Place};
use crate::pg::tls::terms::Terms;

/// The server that a session is connected to.
#[derive(Debug, Clone)]
pub struct Peer {
    pub address: Address,
    /// The host name or address from the connection string; empty for a Unix socket. With
    /// `sslmode=verify-full`, the name in the server's certificate is compared with it.
    pub host: String,
    pub terms: Terms,
    /// Whether the session uses TLS. If it does, its cancel requests use TLS too.
    pub is_encrypted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    /// The path of the socket itself, not of its directory.
    Unix(PathBuf),
}

impl Peer {
    pub(super) fn place(&self) -> Place {
        match &self.address {
            Address::Tcp(address) => {
                Place { host: Host::Tcp { name: self.host.clone(), address: Some(address.ip()) }, port: address.port() }
            }
            Address::Unix(socket) => {
                let port = socket.extension().and_then(|port| port.to_str()?.parse().ok());
                let folder = socket.parent().map_or_else(PathBuf::new, PathBuf::from);
                Place { host: Host::Unix(folder), port: port.unwrap_or(5432) }
            }
        }
    }
}
