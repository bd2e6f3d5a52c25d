//! Tests the faults of the proxy that affect all of its connections. The tests use a server that
//! echoes its input.

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
/// Long enough to be sure that no data arrives.
const A_WHILE: Duration = Duration::from_millis(100);

/// Starts a server that sends `greeting`, echoes its input, and reports its input on the channel.
async fn echo(greeting: &'static str) -> (SocketAddr, mpsc::UnboundedReceiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (received, report) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let received = received.clone();
            tokio::spawn(async move {
                stream.write_all(greeting.as_bytes()).await.unwrap();
                let mut buffer = [0; 1024];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    let _ = received.send(buffer[..count].to_vec());
                    let _ = stream.write_all(&buffer[..count]).await;
                }
            });
        }
    });
    (addr, report)
}

async fn send(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// Returns the next bytes; none if the connection is closed.
async fn receive(stream: &mut TcpStream) -> Option<String> {
    let mut buffer = [0; 1024];
    match timeout(SOON, stream.read(&mut buffer)).await.expect("the connection neither sent data nor closed") {
        Ok(count @ 1..) => Some(String::from_utf8_lossy(&buffer[..count]).into_owned()),
        _ => None,
    }
}

async fn receives_nothing(stream: &mut TcpStream) -> bool {
    timeout(A_WHILE, stream.read(&mut [0; 1])).await.is_err()
}

#[tokio::test]
async fn everything_passes_without_a_fault() {
    let (server, _received) = echo("").await;
    let proxy = Proxy::to(server).await;
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    send(&mut client, "hello").await;
    assert_eq!(receive(&mut client).await.as_deref(), Some("hello"));
    assert_eq!(proxy.url("u", "d"), format!("postgres://u@{}/d", proxy.addr()));
}

#[tokio::test]
async fn a_cut_ends_current_connections_and_no_later_ones() {
    let (server, _received) = echo("").await;
    let proxy = Proxy::to(server).await;
    let mut before = TcpStream::connect(proxy.addr()).await.unwrap();
    send(&mut before, "a").await;
    assert!(receive(&mut before).await.is_some());
    proxy.cut();
    assert_eq!(receive(&mut before).await, None);
    let mut after = TcpStream::connect(proxy.addr()).await.unwrap();
    send(&mut after, "b").await;
    assert_eq!(receive(&mut after).await.as_deref(), Some("b"));
    assert_eq!(proxy.connections(), 2);
}

#[tokio::test]
async fn refused_connections_end_at_once_and_old_ones_stay_open() {
    let (server, _received) = echo("").await;
    let proxy = Proxy::to(server).await;
    let mut old = TcpStream::connect(proxy.addr()).await.unwrap();
    send(&mut old, "a").await;
    assert!(receive(&mut old).await.is_some());
    proxy.refuse(true);
    let mut refused = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(receive(&mut refused).await, None);
    send(&mut old, "b").await;
    assert_eq!(receive(&mut old).await.as_deref(), Some("b"));
    proxy.refuse(false);
    let mut new = TcpStream::connect(proxy.addr()).await.unwrap();
    send(&mut new, "c").await;
    assert_eq!(receive(&mut new).await.as_deref(), Some("c"));
}

#[tokio::test]
async fn a_delay_counts_in_both_directions_and_does_not_add_up() {
    let (server, _received) = echo("").await;
    let proxy = Proxy::to(server).await;
    proxy.delay(Duration::from_millis(100));
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    let sent = Instant::now();
    send(&mut client, "a").await;
    assert_eq!(receive(&mut client).await.as_deref(), Some("a"));
    let alone = sent.elapsed();
    assert!(alone >= Duration::from_millis(200), "{alone:?}");
    let sent = Instant::now();
    let mut back = String::new();
    for _ in 0..100 {
        send(&mut client, "b").await;
        tokio::task::yield_now().await;
    }
    while back.len() < 100 {
        back += &receive(&mut client).await.unwrap();
    }
    assert_eq!(back, "b".repeat(100));
    // If the messages were delayed one after the other, they would take 50 to 100 times as long as
    // one message.
    assert!(sent.elapsed() < alone * 40, "{:?}, and one alone {alone:?}", sent.elapsed());
}

#[tokio::test]
async fn dropped_responses_are_lost_while_the_server_still_receives() {
    let (server, mut received) = echo("").await;
    let proxy = Proxy::to(server).await;
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    send(&mut client, "a").await;
    assert!(receive(&mut client).await.is_some());
    received.recv().await.unwrap();
    proxy.swallow_answers();
    send(&mut client, "commit").await;
    assert_eq!(received.recv().await.unwrap(), b"commit");
    wait::until(SOON, "the response is dropped", async || proxy.swallowed() == 6).await;
    assert!(receives_nothing(&mut client).await);
    proxy.cut();
    assert_eq!(receive(&mut client).await, None);
    proxy.pass();
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    send(&mut client, "again").await;
    assert_eq!(receive(&mut client).await.as_deref(), Some("again"));
}

#[tokio::test]
async fn a_cut_after_some_bytes_comes_in_the_middle_of_a_message() {
    let (server, mut received) = echo("").await;
    let proxy = Proxy::to(server).await;
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    proxy.cut_after_client_bytes(4);
    send(&mut client, "abcdef").await;
    assert_eq!(received.recv().await.unwrap(), b"abcd");
    while receive(&mut client).await.is_some() {}
    // The cut happens only once.
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    send(&mut client, "abcdef").await;
    assert_eq!(receive(&mut client).await.as_deref(), Some("abcdef"));
}

#[tokio::test]
async fn a_black_hole_stalls_both_directions_and_keeps_connections_open() {
    let (server, mut received) = echo("").await;
    let proxy = Proxy::to(server).await;
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    send(&mut client, "a").await;
    assert!(receive(&mut client).await.is_some());
    received.recv().await.unwrap();
    proxy.black_hole(true);
    send(&mut client, "lost?").await;
    assert!(receives_nothing(&mut client).await);
    assert!(received.try_recv().is_err());
    proxy.black_hole(false);
    assert_eq!(receive(&mut client).await.as_deref(), Some("lost?"));
}

#[tokio::test]
async fn a_retargeted_proxy_leads_new_connections_to_the_other_server() {
    let ((first, _), (second, _)) = (echo("first").await, echo("second").await);
    let proxy = Proxy::to(first).await;
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(receive(&mut client).await.as_deref(), Some("first"));
    proxy.retarget(second);
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(receive(&mut client).await.as_deref(), Some("second"));
}
