//! The state from which the pages are rendered.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

use axum::extract::Request;
use axum::response::Response;

use super::access::Access;
use super::health::Health;
use super::status::board::Board;
use crate::metrics::handle::Handle;

/// The shared state of all pages. Cheap to clone.
#[derive(Clone)]
pub struct Pages {
    pub(super) health: Arc<Health>,
    pub(super) metrics: Handle,
    pub(super) board: Board,
    access: Arc<RwLock<Access>>,
}

impl Pages {
    pub fn new(access: Access, health: Arc<Health>, metrics: Handle, board: Board) -> Self {
        Self { health, metrics, board, access: Arc::new(RwLock::new(access)) }
    }

    /// Sets the access rules for the next requests, and logs a warning if the status page is closed
    /// at `address`, the address on which the server listens.
    pub fn set_access(&self, access: Access, address: SocketAddr) {
        access.warn_if_closed(address);
        *self.access.write().unwrap_or_else(PoisonError::into_inner) = access;
    }

    /// Logs a warning if the status page is disabled while the server listens on `address`.
    pub(super) fn warn_if_closed(&self, address: SocketAddr) {
        self.access.read().unwrap_or_else(PoisonError::into_inner).warn_if_closed(address);
    }

    /// Returns the response that refuses the request, or none if the request is allowed.
    pub(super) fn refusal(&self, address: SocketAddr, request: &Request) -> Option<Response> {
        self.access.read().unwrap_or_else(PoisonError::into_inner).refusal(address, request)
    }
}
