//! Accepts connections, and limits their number, their duration and the size of a request. A client
//! needs no token to open a connection. Without these limits, any client that reaches the port
//! could block Prometheus and the probes, or exhaust the memory.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Maximum number of open connections in total.
const CONNECTIONS: usize = 128;
/// Maximum number of open connections from one address. During a flood from one address, probes
/// from another address can still connect.
const CONNECTIONS_OF_ONE: usize = 32;
/// Time after which a client that has sent no request may be disconnected to make room for a new
/// client. A probe sends its request immediately.
const SILENCE: Duration = Duration::from_millis(100);
/// Maximum time for the head of a request.
const HEAD: Duration = Duration::from_secs(3);
/// Maximum time for a connection, including the response. A connection serves only one request.
const WHOLE: Duration = Duration::from_secs(10);
/// Maximum size of the head of a request in bytes, including the request line.
const HEAD_BYTES: usize = 16 * 1024;
/// Maximum number of headers of a request.
const HEADERS: usize = 64;
/// Time between a failed call of `accept` and the retry. If the process has no file descriptor
/// left, immediate retries would only use CPU time.
const OUT_OF_FILES: Duration = Duration::from_millis(200);

/// Serves connections until `shutdown`. Then waits up to `linger` for the requests in progress.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken, linger: Duration) {
    let guests = Guests::default();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => match guests.enter(from) {
                // Dropping the stream closes the connection.
                None => debug!(http.client = %from, "too many connections"),
                Some(place) => {
                    let router = router.clone();
                    connections.spawn(async move {
                        tokio::select! {
                            () = place.leave.cancelled() => debug!(http.client = %from, "closed an idle connection to accept another one"),
                            () = answer(stream, router, &place, from) => {}
                            () = tokio::time::sleep(WHOLE) => debug!(http.client = %from, "closed a connection that took too long"),
                        }
                    });
                }
            },
            Err(error) => {
                if is_ours(&error) {
                    warn!(%error, "could not accept a connection");
                    tokio::time::sleep(OUT_OF_FILES).await;
                }
            }
        }
    }
    let _ = tokio::time::timeout(linger, async { while connections.join_next().await.is_some() {} }).await;
}

/// Returns whether the server caused the error. All other errors come from a client that
/// disconnected before its connection was accepted.
fn is_ours(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn answer(stream: TcpStream, router: Router, place: &Place, from: SocketAddr) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request| {
        place.spoke();
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        debug!(http.client = %from, %error, "an HTTP connection ended with an error");
    }
}

/// The open connections, the oldest first, and the number of connections accepted so far.
#[derive(Debug, Clone, Default)]
struct Guests(Arc<Mutex<(Vec<Guest>, u64)>>);

#[derive(Debug)]
struct Guest {
    address: IpAddr,
    since: Instant,
    /// Whether the request of the client has arrived.
    spoke: bool,
    leave: CancellationToken,
    number: u64,
}

/// The place that one connection occupies. Dropping this value frees the place.
#[derive(Debug)]
struct Place {
    guests: Guests,
    number: u64,
    /// This token is cancelled if another connection needs this connection's place.
    leave: CancellationToken,
}

impl Guests {
    fn enter(&self, from: SocketAddr) -> Option<Place> {
        let (address, now) = (from.ip(), Instant::now());
        let mut guests = self.lock();
        let (inside, count) = &mut *guests;
        let of_one = inside.iter().filter(|guest| guest.address == address).count();
        if of_one >= CONNECTIONS_OF_ONE || inside.len() >= CONNECTIONS {
            let silent = |guest: &Guest| !guest.spoke && now.saturating_duration_since(guest.since) >= SILENCE;
            let same = |guest: &Guest| of_one < CONNECTIONS_OF_ONE || guest.address == address;
            let at = inside.iter().position(|guest| silent(guest) && same(guest))?;
            inside.remove(at).leave.cancel();
        }
        // A number is never reused, because the place of a disconnected client is dropped late.
        // With a reused number, this drop would free the place of a new client.
        *count += 1;
        let number = *count;
        let leave = CancellationToken::new();
        inside.push(Guest { address, since: now, spoke: false, leave: leave.clone(), number });
        Some(Place { guests: self.clone(), number, leave })
    }

    fn lock(&self) -> MutexGuard<'_, (Vec<Guest>, u64)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    fn spoke(&self) {
        for guest in self.guests.lock().0.iter_mut().filter(|guest| guest.number == self.number) {
            guest.spoke = true;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.guests.lock().0.retain(|guest| guest.number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_address_does_not_take_the_places_of_the_others() {
        let guests = Guests::default();
        let from = |n: u8| SocketAddr::from(([10, 0, 0, n], 4000));
        let mut inside: Vec<Place> = (0..CONNECTIONS_OF_ONE).map(|_| guests.enter(from(1)).unwrap()).collect();
        assert!(guests.enter(from(1)).is_none());
        inside.extend(
            (2..=4).flat_map(|n| (0..CONNECTIONS_OF_ONE).map(move |_| n)).map(|n| guests.enter(from(n)).unwrap()),
        );
        assert!(guests.enter(from(9)).is_none(), "the total is limited too");
        inside.remove(0);
        assert!(guests.enter(from(9)).is_some());
        drop(inside);
        assert!(guests.lock().0.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_makes_room_for_the_next() {
        let guests = Guests::default();
        let from = |n: u8| SocketAddr::from(([10, 0, 0, n], 4000));
        let inside: Vec<Place> = (0..CONNECTIONS_OF_ONE).map(|_| guests.enter(from(1)).unwrap()).collect();
        inside[0].spoke();
        assert!(guests.enter(from(1)).is_none(), "no connection is old enough to be closed");
        tokio::time::advance(SILENCE).await;
        let other = guests.enter(from(2)).unwrap();
        assert!(inside.iter().all(|place| !place.leave.is_cancelled()), "there was room");
        let next = guests.enter(from(1)).unwrap();
        let left: Vec<usize> = (0..inside.len()).filter(|&n| inside[n].leave.is_cancelled()).collect();
        assert_eq!(left, [1], "the oldest connection without a request");
        drop(inside);
        assert_eq!(guests.lock().0.len(), 2);
        drop((other, next));
        assert!(guests.lock().0.is_empty());
    }
}
