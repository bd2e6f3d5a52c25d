//! Each fault of the proxy, tested with a server that echoes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use backfilld_testbed::proxy::Proxy;
use backfilld_testbed::wait;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

const SOON: Duration = Duration::from_secs(10);
/// Long enough to see that no data arrives.
const A_WHILE: Duration = Duration::from_millis(100);

/// Starts a server that answers with `greeting` and echoes its input, and reports all input.
async fn echo(greeting: &'static str) -> (SocketAddr, mpsc::UnboundedReceiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (heard, report) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let heard = heard.clone();
            tokio::spawn(async move {
                stream.write_all(greeting.as_bytes()).await.unwrap();
                let mut buffer = [0; 1024];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    let _ = heard.send(buffer[..count].to_vec());
                    let _ = stream.write_all(&buffer[..count]).await;
                }
            });
        }
    });
    (addr, report)
}

async fn say(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// Returns the next bytes; none if the connection ended.
async fn hear(stream: &mut TcpStream) -> Option<String> {
    let mut buffer = [0; 1024];
    match timeout(SOON, stream.read(&mut buffer)).await.expect("neither data nor an end") {
        Ok(count @ 1..) => Some(String::from_utf8_lossy(&buffer[..count]).into_owned()),
        _ => None,
    }
}

async fn hears_nothing(stream: &mut TcpStream) -> bool {
    timeout(A_WHILE, stream.read(&mut [0; 1])).await.is_err()
}

#[tokio::test]
async fn everything_passes_without_a_fault() {
    let (server, _heard) = echo("").await;
    let proxy = Proxy::to(server).await;
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    say(&mut client, "hello").await;
    assert_eq!(hear(&mut client).await.as_deref(), Some("hello"));
    assert_eq!(proxy.url("u", "d"), format!("postgres://u@{}/d", proxy.addr()));
}

#[tokio::test]
async fn a_cut_ends_current_connections_and_no_later_ones() {
    let (server, _heard) = echo("").await;
    let proxy = Proxy::to(server).await;
    let mut before = TcpStream::connect(proxy.addr()).await.unwrap();
    say(&mut before, "a").await;
    assert!(hear(&mut before).await.is_some());
    proxy.cut();
    assert_eq!(hear(&mut before).await, None);
    let mut after = TcpStream::connect(proxy.addr()).await.unwrap();
    say(&mut after, "b").await;
    assert_eq!(hear(&mut after).await.as_deref(), Some("b"));
    assert_eq!(proxy.connections(), 2);
}

#[tokio::test]
async fn refused_connections_end_at_once_and_old_ones_stay_open() {
    let (server, _heard) = echo("").await;
    let proxy = Proxy::to(server).await;
    let mut old = TcpStream::connect(proxy.addr()).await.unwrap();
    say(&mut old, "a").await;
    assert!(hear(&mut old).await.is_some());
    proxy.refuse(true);
    let mut refused = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(hear(&mut refused).await, None);
    say(&mut old, "b").await;
    assert_eq!(hear(&mut old).await.as_deref(), Some("b"));
    proxy.refuse(false);
    let mut new = TcpStream::connect(proxy.addr()).await.unwrap();
    say(&mut new, "c").await;
    assert_eq!(hear(&mut new).await.as_deref(), Some("c"));
}

#[tokio::test]
async fn a_delay_counts_in_both_directions_and_does_not_add_up() {
    let (server, _heard) = echo("").await;
    let proxy = Proxy::to(server).await;
    proxy.delay(Duration::from_millis(100));
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    let sent = Instant::now();
    say(&mut client, "a").await;
    assert_eq!(hear(&mut client).await.as_deref(), Some("a"));
    let alone = sent.elapsed();
    assert!(alone >= Duration::from_millis(200), "{alone:?}");
    let sent = Instant::now();
    let mut back = String::new();
    for _ in 0..100 {
        say(&mut client, "b").await;
        tokio::task::yield_now().await;
    }
    while back.len() < 100 {
        back += &hear(&mut client).await.unwrap();
    }
    assert_eq!(back, "b".repeat(100));
    // One after the other they would take a hundred times as long as one, or half of that.
    assert!(sent.elapsed() < alone * 40, "{:?}, and one alone {alone:?}", sent.elapsed());
}

#[tokio::test]
async fn swallowed_answers_are_lost_while_the_server_still_receives() {
    let (server, mut heard) = echo("").await;
    let proxy = Proxy::to(server).await;
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    say(&mut client, "a").await;
    assert!(hear(&mut client).await.is_some());
    heard.recv().await.unwrap();
    proxy.swallow_answers();
    say(&mut client, "commit").await;
    assert_eq!(heard.recv().await.unwrap(), b"commit");
    wait::until(SOON, "the answer is swallowed", async || proxy.swallowed() == 6).await;
    assert!(hears_nothing(&mut client).await);
    proxy.cut();
    assert_eq!(hear(&mut client).await, None);
    proxy.pass();
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    say(&mut client, "again").await;
    assert_eq!(hear(&mut client).await.as_deref(), Some("again"));
}

#[tokio::test]
async fn a_cut_after_some_bytes_comes_in_the_middle_of_a_message() {
    let (server, mut heard) = echo("").await;
    let proxy = Proxy::to(server).await;
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    proxy.cut_after_client_bytes(4);
    say(&mut client, "abcdef").await;
    assert_eq!(heard.recv().await.unwrap(), b"abcd");
    while hear(&mut client).await.is_some() {}
    // The cut happens only once.
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    say(&mut client, "abcdef").await;
    assert_eq!(hear(&mut client).await.as_deref(), Some("abcdef"));
}

#[tokio::test]
async fn a_black_hole_stalls_both_directions_and_keeps_connections_open() {
    let (server, mut heard) = echo("").await;
    let proxy = Proxy::to(server).await;
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    say(&mut client, "a").await;
    assert!(hear(&mut client).await.is_some());
    heard.recv().await.unwrap();
    proxy.black_hole(true);
    say(&mut client, "lost?").await;
    assert!(hears_nothing(&mut client).await);
    assert!(heard.try_recv().is_err());
    proxy.black_hole(false);
    assert_eq!(hear(&mut client).await.as_deref(), Some("lost?"));
}

#[tokio::test]
async fn a_retargeted_proxy_leads_new_connections_to_the_other_server() {
    let ((first, _), (second, _)) = (echo("first").await, echo("second").await);
    let proxy = Proxy::to(first).await;
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(hear(&mut client).await.as_deref(), Some("first"));
    proxy.retarget(second);
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(hear(&mut client).await.as_deref(), Some("second"));
}
