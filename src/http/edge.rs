//! The socket: who may connect, how often, and for how long. Whoever reaches the port, with nothing to show for it, must
//! not keep Prometheus and the probes from it, nor fill the memory.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Connections at once, of everybody and of one address: a probe comes from another than a flood.
const CONNECTIONS: usize = 128;
const CONNECTIONS_OF_ONE: usize = 32;
/// For the head of the request, and for all of it, answer included. One request a connection: a page is some kilobytes.
const HEAD: Duration = Duration::from_secs(3);
const WHOLE: Duration = Duration::from_secs(10);
/// Of the head, lines and names included.
const HEAD_BYTES: usize = 16 * 1024;
const HEADERS: usize = 64;
/// When the process has no file descriptor left, asking again at once would only burn a processor.
const OUT_OF_FILES: Duration = Duration::from_millis(200);

/// Answers until `shutdown`, and then as long as `linger` what is under way.
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
                // Dropped: the other side sees the connection closed.
                None => debug!(http.client = %from, "too many connections"),
                Some(place) => {
                    let router = router.clone();
                    connections.spawn(async move {
                        if tokio::time::timeout(WHOLE, answer(stream, router)).await.is_err() {
                            debug!(http.client = %from, "a connection took too long");
                        }
                        drop(place);
                    });
                }
            },
            Err(error) => {
                if is_ours(&error) {
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(OUT_OF_FILES).await;
                }
            }
        }
    }
    let _ = tokio::time::timeout(linger, async { while connections.join_next().await.is_some() {} }).await;
}

/// Errors of the client, who is gone before it was let in, are none of ours.
fn is_ours(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn answer(stream: TcpStream, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = connection.await {
        debug!(%error, "a request could not be answered");
    }
}

/// Who is connected now, by address.
#[derive(Debug, Clone, Default)]
struct Guests(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// Leaves when dropped.
#[derive(Debug)]
struct Place {
    guests: Guests,
    address: IpAddr,
}

impl Guests {
    fn enter(&self, from: SocketAddr) -> Option<Place> {
        let address = from.ip();
        let mut inside = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_one = inside.get(&address).copied().unwrap_or(0);
        if of_one >= CONNECTIONS_OF_ONE || inside.values().sum::<usize>() >= CONNECTIONS {
            return None;
        }
        inside.insert(address, of_one + 1);
        Some(Place { guests: self.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.guests.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_one) = inside.get_mut(&self.address) {
            *of_one -= 1;
            if *of_one == 0 {
                inside.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_does_not_take_the_places_of_the_others() {
        let guests = Guests::default();
        let from = |n: u8| SocketAddr::from(([10, 0, 0, n], 4000));
        let mut inside: Vec<Place> = (0..CONNECTIONS_OF_ONE).map(|_| guests.enter(from(1)).unwrap()).collect();
        assert!(guests.enter(from(1)).is_none());
        inside.extend(
            (2..=4).flat_map(|n| (0..CONNECTIONS_OF_ONE).map(move |_| n)).map(|n| guests.enter(from(n)).unwrap()),
        );
        assert!(guests.enter(from(9)).is_none(), "of everybody together there is a limit too");
        inside.remove(0);
        assert!(guests.enter(from(9)).is_some());
        drop(inside);
        assert!(guests.0.lock().unwrap().is_empty());
    }
}
