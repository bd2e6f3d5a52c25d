//! `backfilld probe`: the health check of a container. The command writes the HTTP request itself,
//! so that the binary needs no HTTP client for the probe.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::show;
use crate::config::Config;
use crate::config::args::LoadArgs;
use crate::error::{Error, Kind, Result};

#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// livez: the daemon's loops make progress; readyz: its databases are reachable and have a
    /// compatible schema, and the daemon is not draining
    #[arg(value_enum, default_value = "livez")]
    page: Page,
    /// Address that the daemon listens on; overrides http.listen of the configuration
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Page {
    Livez,
    Readyz,
}

/// Maximum time of a probe. It is less than the timeout of the image's HEALTHCHECK (6 s), so that
/// the probe can print its error.
const LIMIT: Duration = Duration::from_secs(5);
/// Maximum size of a response in bytes. The pages have a few lines, so a longer response comes from
/// another server.
const LONGEST_ANSWER: u64 = 64 << 10;

pub(super) async fn run(connection: LoadArgs, args: ProbeArgs) -> Result<u8> {
    let listen = match args.listen {
        Some(listen) => listen,
        None => Config::load_http(connection)?.listen,
    };
    let address = reachable(listen);
    let page = match args.page {
        Page::Livez => "livez",
        Page::Readyz => "readyz",
    };
    let refused = |why: String| {
        Error::new(Kind::NotComplete, format!("no valid response from http://{address}/{page}: {why}"))
            .hint("Check that the daemon is running and listens on the address in --listen or http.listen.")
    };
    let answer = match tokio::time::timeout(LIMIT, ask(address, page)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(refused(error.to_string())),
        Err(_) => return Err(refused(format!("timeout after {} s", LIMIT.as_secs()))),
    };
    let (status, body) = read(&answer).ok_or_else(|| refused("the response is not HTTP".to_owned()))?;
    if status == 200 {
        show::line(body.trim())?;
        Ok(0)
    } else {
        Err(Error::new(Kind::NotComplete, format!("http://{address}/{page} returned {status}")).detail(body.trim()))
    }
}

async fn ask(address: SocketAddr, page: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /{page} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Returns the status code and the body of an HTTP response.
fn read(answer: &str) -> Option<(u16, &str)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some((status, body))
}

/// Replaces an unspecified address (`0.0.0.0`, `::`) with the loopback address. A server can listen
/// on an unspecified address, but a client cannot connect to one.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let host = match listen.ip() {
        IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        host => host,
    };
    SocketAddr::new(host, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_body_are_read() {
        assert_eq!(read("HTTP/1.1 503 Service Unavailable\r\na: b\r\n\r\nmain: gone\n"), Some((503, "main: gone\n")));
        assert_eq!(read("SSH-2.0-OpenSSH\r\n\r\n"), None);
    }

    #[test]
    fn a_daemon_on_all_addresses_is_probed_on_loopback() {
        for (listen, asked) in [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.1:1", "10.0.0.1:1")] {
            assert_eq!(reachable(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
