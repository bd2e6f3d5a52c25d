//! A pooler. In transaction mode, each transaction of a client gets the most recently used idle
//! server session, with whatever other clients left in it. The modes are those of PgBouncer.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The idle server sessions for each startup packet. The most recently used session is the last
/// one.
type Idle = Arc<Mutex<HashMap<Vec<u8>, Vec<TcpStream>>>>;

/// Maximum number of idle server sessions for each startup packet.
const MOST_IDLE: usize = 5;

/// For how long a client keeps a server session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Until the client disconnects. The session is then reset with `discard all`.
    Session,
    /// Until the end of a transaction.
    Transaction,
    /// For one statement. A transaction of several messages is refused.
    Statement,
}

/// A pooler in front of a server, on a port of 127.0.0.1. After it is dropped, it accepts no new
/// clients.
#[derive(Debug)]
pub struct Pooler {
    addr: SocketAddr,
    mode: Arc<Mutex<Mode>>,
    accepting: JoinHandle<()>,
}

impl Pooler {
    /// Starts a pooler in front of a server that requires no password.
    pub async fn in_mode(mode: Mode, target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port for the pooler");
        let addr = listener.local_addr().expect("the pooler's address");
        let idle = Idle::default();
        let mode = Arc::new(Mutex::new(mode));
        let current = Arc::clone(&mode);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // The result is ignored: an I/O error means that the client or the server closed
                // its connection.
                tokio::spawn(serve(client, Arc::clone(&current), target, Arc::clone(&idle)));
            }
        });
        Self { addr, mode, accepting }
    }

    /// Changes the mode, as PgBouncer does when its configuration is reloaded: connections stay
    /// open, and each server session follows the new mode after its current transaction (or its
    /// next one, if it is idle).
    pub fn set_mode(&self, mode: Mode) {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns `postgres://user@pooler/db`.
    pub fn url(&self, user: &str, db: &str) -> String {
        format!("postgres://{user}@{}/{db}", self.addr)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(mut client: TcpStream, mode: Arc<Mutex<Mode>>, target: SocketAddr, idle: Idle) -> io::Result<()> {
    const SSL_REQUEST: [u8; 4] = 80_877_103_u32.to_be_bytes();
    const CANCEL_REQUEST: [u8; 4] = 80_877_102_u32.to_be_bytes();
    let mut startup = body(&mut client).await?;
    while startup == SSL_REQUEST {
        client.write_all(b"N").await?;
        startup = body(&mut client).await?;
    }
    // A cancel request is forwarded as it is.
    if startup.starts_with(&CANCEL_REQUEST) {
        let mut server = TcpStream::connect(target).await?;
        server.write_all(&framed(None, &startup)).await?;
        return Ok(());
    }
    let server = connect(target, &startup, &mut client).await?;
    let mut own = keep(&mode, &idle, &startup, server);
    loop {
        let request = match request(&mut client).await {
            Ok(request) => request,
            Err(error) => {
                if let Some(mut server) = own {
                    server.write_all(&framed(Some(b'Q'), b"discard all\0")).await?;
                    until_ready(&mut server, &mut tokio::io::sink()).await?;
                    give_back(&idle, &startup, server);
                }
                return Err(error);
            }
        };
        let last = || idle.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&startup).and_then(Vec::pop);
        let mut server = match own.take().or_else(last) {
            Some(server) => server,
            None => connect(target, &startup, &mut tokio::io::sink()).await?,
        };
        server.write_all(&request).await?;
        // While the transaction is open, the client keeps this server session.
        while until_ready(&mut server, &mut client).await? != b'I' {
            if now(&mode) == Mode::Statement {
                let error = b"SERROR\0VERROR\0C08P01\0Mtransaction blocks not allowed in statement pooling mode\0\0";
                client.write_all(&framed(Some(b'E'), error)).await?;
                return Ok(());
            }
            server.write_all(&self::request(&mut client).await?).await?;
        }
        own = keep(&mode, &idle, &startup, server);
    }
}

/// Returns the server session if the client keeps it outside transactions.
fn keep(mode: &Mutex<Mode>, idle: &Idle, startup: &[u8], server: TcpStream) -> Option<TcpStream> {
    if now(mode) == Mode::Session {
        return Some(server);
    }
    give_back(idle, startup, server);
    None
}

fn now(mode: &Mutex<Mode>) -> Mode {
    *mode.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens a server session and forwards the server's startup messages to the client.
async fn connect(
    target: SocketAddr,
    startup: &[u8],
    client: &mut (impl AsyncWriteExt + Unpin),
) -> io::Result<TcpStream> {
    let mut server = TcpStream::connect(target).await?;
    server.write_all(&framed(None, startup)).await?;
    until_ready(&mut server, client).await?;
    Ok(server)
}

/// Makes a server session idle. If more than [`MOST_IDLE`] sessions are then idle, closes the one
/// that was used least recently.
fn give_back(idle: &Idle, startup: &[u8], server: TcpStream) {
    let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
    let sessions = idle.entry(startup.to_vec()).or_default();
    sessions.push(server);
    if sessions.len() > MOST_IDLE {
        sessions.remove(0);
    }
}

/// Returns the client's messages up to and including the next Query or Sync, to which the server
/// responds with ReadyForQuery.
async fn request(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut request = Vec::new();
    loop {
        let kind = client.read_u8().await?;
        request.extend(framed(Some(kind), &body(client).await?));
        match kind {
            b'Q' | b'S' => return Ok(request),
            b'X' => return Err(io::ErrorKind::ConnectionAborted.into()),
            _ => {}
        }
    }
}

/// Forwards the server's messages up to and including ReadyForQuery. Returns the transaction status
/// that this message contains.
async fn until_ready(server: &mut TcpStream, client: &mut (impl AsyncWriteExt + Unpin)) -> io::Result<u8> {
    loop {
        let kind = server.read_u8().await?;
        let message = body(server).await?;
        client.write_all(&framed(Some(kind), &message)).await?;
        if kind == b'Z' {
            return message.first().copied().ok_or_else(|| io::ErrorKind::InvalidData.into());
        }
    }
}

/// Reads a length field, which includes its own four bytes, and then the rest of the message.
async fn body(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u32().await?.checked_sub(4).ok_or(io::ErrorKind::InvalidData)?;
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

fn framed(kind: Option<u8>, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a message of less than 4 GiB").to_be_bytes();
    kind.into_iter().chain(length).chain(body.iter().copied()).collect()
}
