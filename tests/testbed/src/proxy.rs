//! A faulty network: a TCP proxy with faults that tests switch on and off at run time.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

#[derive(Debug, Clone)]
struct Faults {
    target: SocketAddr,
    refuse: bool,
    swallow: bool,
    black_hole: bool,
    delay: Duration,
    /// Connections that were opened in an earlier generation are closed.
    generation: u64,
    of_flows: Option<FlowFault>,
}

/// A fault that affects some of the open connections.
#[derive(Debug, Clone, Copy)]
pub struct FlowFault {
    /// The fault affects the connections whose startup message contains this text, usually an
    /// application name.
    pub startup: &'static str,
    pub direction: Direction,
    pub harm: Harm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// The data is lost. After the fault, the connection continues in the middle of a message.
    Lose,
    /// The data waits until the fault ends.
    Stall,
    /// Each piece of data is delayed by this time.
    Delay(Duration),
}

#[derive(Debug)]
struct Shared {
    faults: watch::Sender<Faults>,
    /// Number of bytes that clients may still send before all connections are cut. A negative
    /// number means no limit.
    client_bytes_left: AtomicI64,
    swallowed: AtomicU64,
    connections: AtomicU64,
    harmed: AtomicU64,
    /// The number of the first connection that was opened after [`Proxy::harm_open_flows`] was
    /// called. That fault does not affect this connection or any later one.
    first_sound: AtomicU64,
    /// If true, the proxy makes errors that plpgsql code raises look like errors of the server
    /// itself.
    disguises: AtomicBool,
    /// A message from the client, and the message that the proxy sends in its place.
    exchange: Mutex<Option<(Vec<u8>, Vec<u8>)>>,
}

/// A proxy in front of a server, on a port of 127.0.0.1. On drop it closes all its connections.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Starts a proxy without any fault.
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port for the proxy");
        let addr = listener.local_addr().expect("the proxy's address");
        let no_faults = Faults {
            target,
            refuse: false,
            swallow: false,
            black_hole: false,
            delay: Duration::ZERO,
            generation: 0,
            of_flows: None,
        };
        let shared = Arc::new(Shared {
            faults: watch::Sender::new(no_faults),
            client_bytes_left: AtomicI64::new(-1),
            swallowed: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            harmed: AtomicU64::new(0),
            first_sound: AtomicU64::new(0),
            disguises: AtomicBool::new(false),
            exchange: Mutex::new(None),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { addr, shared, accepting }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns `postgres://user@proxy/db`.
    pub fn url(&self, user: &str, db: &str) -> String {
        format!("postgres://{user}@{}/{db}", self.addr)
    }

    /// Ends every fault of the network. Connections that were cut stay closed.
    /// [`Proxy::exchange_query`], [`Proxy::disguise_raised_errors`] and [`Proxy::retarget`] stay in
    /// effect.
    pub fn pass(&self) {
        self.shared.client_bytes_left.store(-1, Ordering::SeqCst);
        self.shared.faults.send_modify(|faults| {
            *faults = Faults {
                refuse: false,
                swallow: false,
                black_hole: false,
                delay: Duration::ZERO,
                of_flows: None,
                ..*faults
            };
        });
    }

    /// Closes all current connections on both sides.
    pub fn cut(&self) {
        self.shared.cut();
    }

    /// While `refuse` is true, closes new connections as soon as they are opened.
    pub fn refuse(&self, refuse: bool) {
        self.shared.faults.send_modify(|faults| faults.refuse = refuse);
    }

    /// Delays the data by this time in both directions.
    pub fn delay(&self, delay: Duration) {
        self.shared.faults.send_modify(|faults| faults.delay = delay);
    }

    /// From now on, forwards the client's data to the server, and drops the server's responses. The
    /// server then commits, but the client does not receive the result. Wait for
    /// [`Proxy::swallowed`] to grow, then call [`Proxy::cut`].
    pub fn swallow_answers(&self) {
        self.shared.faults.send_modify(|faults| faults.swallow = true);
    }

    /// Returns how many bytes of the server's responses have been dropped so far.
    pub fn swallowed(&self) -> u64 {
        self.shared.swallowed.load(Ordering::SeqCst)
    }

    /// Lets clients send `bytes` more bytes in total over all connections. Then cuts all
    /// connections, usually in the middle of a message.
    pub fn cut_after_client_bytes(&self, bytes: u32) {
        self.shared.client_bytes_left.store(i64::from(bytes), Ordering::SeqCst);
    }

    /// Replaces the next simple query whose text is `from` with the query `to`, in whichever
    /// session it is sent. All other queries pass unchanged.
    pub fn exchange_query(&self, from: &str, to: &str) {
        *self.shared.exchange() = Some((simple_query(from), simple_query(to)));
    }

    /// From now on, errors that plpgsql code raises look like errors of the server itself, because
    /// the source file in the error is replaced. A test can then simulate server errors that it
    /// could not cause otherwise.
    pub fn disguise_raised_errors(&self) {
        self.shared.disguises.store(true, Ordering::SeqCst);
    }

    /// Returns whether the query that was given to the last call of [`Proxy::exchange_query`] has
    /// been replaced.
    pub fn exchanged(&self) -> bool {
        self.shared.exchange().is_none()
    }

    /// While `on` is true, stalls both directions. All connections, including new ones, stay open.
    pub fn black_hole(&self, on: bool) {
        self.shared.faults.send_modify(|faults| faults.black_hole = on);
    }

    /// From now on, the fault affects those of the open connections that it selects. It does not
    /// affect connections that are opened later.
    pub fn harm_open_flows(&self, fault: FlowFault) {
        self.shared.first_sound.store(self.connections(), Ordering::SeqCst);
        self.shared.faults.send_modify(|faults| faults.of_flows = Some(fault));
    }

    /// Returns how many pieces of data a fault of [`Proxy::harm_open_flows`] has affected so far.
    pub fn harmed(&self) -> u64 {
        self.shared.harmed.load(Ordering::SeqCst)
    }

    /// Directs new connections to another server, as a failover does.
    pub fn retarget(&self, target: SocketAddr) {
        self.shared.faults.send_modify(|faults| faults.target = target);
    }

    /// Returns the number of connections that have been forwarded to the server so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

impl Shared {
    fn cut(&self) {
        self.faults.send_modify(|faults| faults.generation += 1);
    }

    fn exchange(&self) -> MutexGuard<'_, Option<(Vec<u8>, Vec<u8>)>> {
        self.exchange.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the message if the piece contains the whole message.
    fn exchange_in(&self, piece: &mut Vec<u8>) {
        let mut exchange = self.exchange();
        let Some((from, to)) = exchange.as_ref() else { return };
        if let Some(at) = piece.windows(from.len()).position(|bytes| bytes == from) {
            piece.splice(at..at + from.len(), to.iter().copied());
            *exchange = None;
        }
    }
}

/// Encodes a simple query as a message of the protocol.
fn simple_query(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len() + 5).expect("a short query");
    [b"Q", &length.to_be_bytes()[..], text.as_bytes(), b"\0"].concat()
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let faults = shared.faults.borrow().clone();
        if !faults.refuse {
            tokio::spawn(relay(client, faults, Arc::clone(&shared)));
        }
    }
}

async fn relay(client: TcpStream, initial: Faults, shared: Arc<Shared>) {
    let mut faults = shared.faults.subscribe();
    let both_ways = async {
        let Ok(server) = TcpStream::connect(initial.target).await else { return };
        // Nagle's algorithm would add delays.
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let flow = Flow { number: shared.connections.fetch_add(1, Ordering::SeqCst), startup: OnceLock::new() };
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        tokio::join!(
            pump(from_client, to_server, Direction::ToServer, &flow, &shared),
            pump(from_server, to_client, Direction::ToClient, &flow, &shared)
        );
    };
    tokio::select! {
        biased;
        _ = faults.wait_for(|now| now.generation != initial.generation) => {}
        () = both_ways => {}
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    ToServer,
    ToClient,
}

/// One connection through the proxy.
struct Flow {
    /// The number of connections that were opened before this one.
    number: u64,
    /// The startup message of the client.
    startup: OnceLock<Vec<u8>>,
}

impl Flow {
    /// Returns the harm that currently affects this connection in one direction.
    fn harm(&self, faults: &Faults, direction: Direction, shared: &Shared) -> Option<Harm> {
        let fault = faults.of_flows.filter(|fault| fault.direction == direction)?;
        let startup = self.startup.get()?;
        let is_named = startup.windows(fault.startup.len()).any(|bytes| bytes == fault.startup.as_bytes());
        (is_named && self.number < shared.first_sound.load(Ordering::SeqCst)).then_some(fault.harm)
    }
}

/// Forwards bytes in one direction until the sender closes its side. Then closes the same direction
/// of the other connection (half close).
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    direction: Direction,
    flow: &Flow,
    shared: &Shared,
) {
    // Because of the queue between reading and writing, [`Proxy::delay`] does not reduce the
    // throughput. [`Harm::Delay`] does.
    let (pieces, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(256);
    let read = async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let arrives = Instant::now() + shared.faults.borrow().delay;
            if pieces.send((arrives, buffer[..count].to_vec())).await.is_err() {
                break;
            }
        }
    };
    let write = async move {
        let mut faults = shared.faults.subscribe();
        while let Some((arrives, mut piece)) = due.recv().await {
            tokio::time::sleep_until(arrives).await;
            let Ok(now) = faults.wait_for(|now| !now.black_hole).await.map(|now| now.clone()) else { break };
            // A request for TLS has 8 bytes and comes before the startup message.
            if direction == Direction::ToServer && piece.len() > 8 {
                flow.startup.get_or_init(|| piece.clone());
            }
            let harm = flow.harm(&now, direction, shared);
            shared.harmed.fetch_add(u64::from(harm.is_some()), Ordering::SeqCst);
            match harm {
                Some(Harm::Lose) => continue,
                Some(Harm::Stall) => {
                    let sound = faults.wait_for(|now| flow.harm(now, direction, shared).is_none());
                    if sound.await.is_err() {
                        break;
                    }
                }
                Some(Harm::Delay(time)) => tokio::time::sleep(time).await,
                None => {}
            }
            if direction == Direction::ToClient && now.swallow {
                shared.swallowed.fetch_add(piece.len() as u64, Ordering::SeqCst);
                continue;
            }
            if direction == Direction::ToServer {
                shared.exchange_in(&mut piece);
            } else if shared.disguises.load(Ordering::SeqCst) {
                disguise(&mut piece);
            }
            let cut_here = direction == Direction::ToServer && spend(&shared.client_bytes_left, &mut piece);
            if to.write_all(&piece).await.is_err() {
                break;
            }
            if cut_here {
                let _ = to.flush().await;
                shared.cut();
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}

/// Replaces the name of the source file in errors that plpgsql code raised. The new name has the
/// same length.
fn disguise(piece: &mut [u8]) {
    const RAISED: &[u8] = b"\0Fpl_exec.c\0";
    while let Some(at) = piece.windows(RAISED.len()).position(|bytes| bytes == RAISED) {
        piece[at..at + RAISED.len()].copy_from_slice(b"\0Fanother.c\0");
    }
}

/// Subtracts the length of a piece from the number of bytes that are left. If the piece has at
/// least that many bytes, shortens the piece to that number of bytes and returns true.
fn spend(budget: &AtomicI64, piece: &mut Vec<u8>) -> bool {
    let wanted = piece.len() as i64;
    let before = budget
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            (left >= 0).then(|| if wanted >= left { -1 } else { left - wanted })
        })
        .unwrap_or(i64::MAX);
    if wanted >= before {
        piece.truncate(before as usize);
        return true;
    }
    false
}
