use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::access::{Access, Guard, is_local};
use super::health::Health;
use super::pages::Pages;
use super::server::{LINGER, serve};
use super::status::board::Board;
use crate::config::Http;
use crate::error::Kind;
use crate::metrics::handle::Handle;

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// A server under test. It stops when `stop` is cancelled, or at the end of the test.
struct Served {
    address: SocketAddr,
    health: Arc<Health>,
    pages: Pages,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Served {
    async fn new(config: &Http) -> Self {
        Self::at(ANY, config).await
    }

    async fn at(listen: SocketAddr, config: &Http) -> Self {
        let health = Health::new(["main"]);
        let pages =
            Pages::new(Access::read(config).unwrap(), Arc::clone(&health), Handle::detached(), Board::default());
        let stop = CancellationToken::new();
        let (address, task) = serve(listen, pages.clone(), stop.clone()).await.unwrap();
        Self { address: SocketAddr::new(ANY.ip(), address.port()), health, pages, stop, task }
    }

    /// Returns the status code and the whole response.
    async fn ask(&self, line: &str, headers: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        (answer[9..12].parse().unwrap(), answer)
    }
}

#[tokio::test]
async fn metrics_and_probes_answer() {
    let served = Served::new(&Http::default()).await;
    let (status, text) = served.ask("GET /metrics", "").await;
    assert_eq!(status, 200);
    assert!(
        text.contains("content-type: text/plain; version=0.0.4") && text.contains("\nbackfilld_build_info{"),
        "{text}"
    );
    assert_eq!(served.ask("GET /livez", "").await.0, 200);
    let (status, text) = served.ask("GET /readyz", "").await;
    assert!(status == 503 && text.ends_with("main: not connected yet\n"), "{text}");
    served.health.ready_now("main");
    assert_eq!(served.ask("GET /readyz", "").await.0, 200);
    let (status, text) = served.ask("GET /", "").await;
    assert!(status == 200 && text.contains("\"readyz\"") && text.contains("nosniff"), "{text}");
}

#[tokio::test]
async fn a_stuck_loop_is_not_alive() {
    let served = Served::new(&Http::default()).await;
    let _pulse = served.health.pulse("queue of main");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    let (status, text) = served.ask("GET /livez", "").await;
    assert!(status == 503 && text.contains("queue of main has made no progress"), "{text}");
}

#[tokio::test]
async fn the_server_is_read_only() {
    let served = Served::new(&Http::default()).await;
    for page in ["/", "/status.json", "/metrics", "/livez", "/readyz"] {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            let (status, text) = served.ask(&format!("{method} {page}"), "Content-Length: 0\r\n").await;
            assert!(status == 405 && text.contains("allow: GET,HEAD"), "{method} {page}: {text}");
        }
    }
    let (status, text) = served.ask("HEAD /metrics", "").await;
    assert!(status == 200 && text.ends_with("\r\n\r\n"), "{text}");
    assert_eq!(served.ask("GET /nope", "").await.0, 404);
    assert_eq!(served.ask("GET /metrics/", "").await.0, 404);
}

#[tokio::test]
async fn a_token_guards_the_page_and_leaves_probes_open() {
    let path = std::env::temp_dir().join(format!("backfilld-token-{}", uuid::Uuid::new_v4()));
    std::fs::write(&path, "s3cret\n").unwrap();
    let served = Served::new(&Http { token_file: Some(path.clone()), ..Http::default() }).await;
    std::fs::remove_file(&path).unwrap();
    let (status, text) = served.ask("GET /", "").await;
    assert!(
        status == 401 && text.contains("www-authenticate: Bearer") && text.contains("www-authenticate: Basic"),
        "{text}"
    );
    assert_eq!(served.ask("GET /status.json", "").await.0, 401);
    // A browser sends this header after the user has entered the token as the password, with any
    // user name.
    assert_eq!(served.ask("GET /", "Authorization: Basic b3BzOnMzY3JldA==\r\n").await.0, 200);
    assert_eq!(served.ask("GET /status.json", "Authorization: Bearer s3cret\r\n").await.0, 200);
    assert_eq!(served.ask("GET /", "Authorization: Bearer wrong!\r\n").await.0, 401);
    assert_eq!(served.ask("GET /", "Authorization: Bearer s3cret\r\n").await.0, 200);
    assert_eq!(served.ask("GET /metrics", "").await.0, 200);
    assert_eq!(served.ask("GET /livez", "").await.0, 200);
    assert_eq!(served.ask("GET /readyz", "").await.0, 503);
}

#[tokio::test]
async fn access_to_the_page_can_change_while_it_is_served() {
    let path = std::env::temp_dir().join(format!("backfilld-token-{}", uuid::Uuid::new_v4()));
    let served = Served::new(&Http::default()).await;
    assert_eq!(served.ask("GET /", "").await.0, 200);
    for token in ["first", "second"] {
        std::fs::write(&path, token).unwrap();
        let access = Access::read(&Http { token_file: Some(path.clone()), ..Http::default() }).unwrap();
        served.pages.set_access(access, served.address);
        for given in ["first", "second"] {
            let (status, _) = served.ask("GET /", &format!("Authorization: Bearer {given}\r\n")).await;
            assert_eq!(status, if given == token { 200 } else { 401 }, "{given} for {token}");
        }
    }
    std::fs::remove_file(&path).unwrap();
    served.pages.set_access(Access::read(&Http { status_page: false, ..Http::default() }).unwrap(), served.address);
    assert_eq!(served.ask("GET /", "Authorization: Bearer second\r\n").await.0, 404);
    assert_eq!(served.ask("GET /metrics", "").await.0, 200);
}

#[tokio::test]
async fn a_missing_or_empty_token_file_is_refused() {
    let empty = std::env::temp_dir().join(format!("backfilld-empty-token-{}", std::process::id()));
    std::fs::write(&empty, " \n").unwrap();
    for file in ["/nowhere/token".into(), empty.clone()] {
        let config = Http { token_file: Some(file.clone()), ..Http::default() };
        let Err(error) = Access::read(&config) else { panic!("{file:?} is accepted") };
        assert!(error.kind == Kind::Config && error.message.contains(&*file.to_string_lossy()), "{error}");
    }
    std::fs::remove_file(empty).unwrap();
}

#[tokio::test]
async fn the_page_can_be_switched_off() {
    let served = Served::new(&Http { status_page: false, ..Http::default() }).await;
    assert_eq!(served.ask("GET /", "").await.0, 404);
    assert_eq!(served.ask("GET /status.json", "").await.0, 404);
    assert_eq!(served.ask("GET /metrics", "").await.0, 200);
}

#[tokio::test]
async fn a_taken_address_is_named_with_the_remedy() {
    let served = Served::new(&Http::default()).await;
    let pages =
        Pages::new(Access::read(&Http::default()).unwrap(), Health::new([]), Handle::detached(), Board::default());
    let error = serve(served.address, pages, CancellationToken::new()).await.unwrap_err();
    let said = error.to_string();
    assert!(
        error.kind == Kind::Config && said.contains(&served.address.to_string()) && said.contains("--listen"),
        "{said}"
    );
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_up_the_shutdown() {
    let served = Served::new(&Http::default()).await;
    let mut half = TcpStream::connect(served.address).await.unwrap();
    half.write_all(b"GET /metrics HTT").await.unwrap();
    served.stop.cancel();
    tokio::time::timeout(LINGER * 3, served.task).await.unwrap().unwrap();
    assert!(TcpStream::connect(served.address).await.is_err());
}

#[tokio::test]
async fn a_page_that_others_could_reach_is_closed_without_a_token() {
    let access = || Access::read(&Http::default()).unwrap();
    let anywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    assert_eq!(access().guard(anywhere), Guard::Closed);
    assert_eq!(access().guard(ANY), Guard::Local);
    let served = Served::at(anywhere, &Http::default()).await;
    let (status, text) = served.ask("GET /", "").await;
    assert!(status == 403 && text.contains("http.token_file"), "{text}");
    assert_eq!(served.ask("GET /metrics", "").await.0, 200);
    served.task.abort();
}

/// Covers DNS rebinding. A web page of another site is open in a browser on this machine. The page
/// sends requests to the host name of its own site, which resolves to this machine.
#[tokio::test]
async fn the_page_on_loopback_is_shown_only_under_a_local_host_name() {
    for local in ["localhost", "LOCALHOST:8432", "127.0.0.1", "127.0.0.1:8432", "[::1]:8432", "[::1]"] {
        assert!(is_local(local), "{local}");
    }
    for other in [
        "",
        "evil.example",
        "evil.example:8432",
        "localhost.evil.example",
        "10.0.0.1",
        "[fe80::1]:8432",
        "127.0.0.1.evil.example",
    ] {
        assert!(!is_local(other), "{other}");
    }
    let served = Served::new(&Http::default()).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
}

#[tokio::test]
async fn slow_or_oversized_requests_are_cut_off_and_others_are_answered() {
    let served = Served::new(&Http::default()).await;
    // Opens as many connections as one address may have. Each connection sends a part of a request
    // and waits.
    let mut slow = Vec::new();
    for _ in 0..32 {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(b"GET /li").await.unwrap();
        slow.push(stream);
    }
    let mut refused = TcpStream::connect(served.address).await.unwrap();
    let mut nothing = Vec::new();
    assert!(refused.read_to_end(&mut nothing).await.map_or(true, |read| read == 0), "one connection above the limit");
    // After 100 ms without a complete request, a client may lose its place to a new client.
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(served.ask("GET /livez", "").await.0, 200);
    let mut rest = Vec::new();
    let cut = tokio::time::timeout(Duration::from_secs(8), slow[0].read_to_end(&mut rest)).await;
    assert!(cut.is_ok(), "the server waits for a head that does not end");
    drop(slow);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(served.ask("GET /livez", "").await.0, 200);

    let long = format!("X-Long: {}\r\n", "x".repeat(40_000));
    assert_eq!(served.ask("GET /livez", &long).await.0, 431);
    let many: String = (0..100).map(|n| format!("X-{n}: 1\r\n")).collect();
    assert_eq!(served.ask("GET /livez", &many).await.0, 431);
    let (status, _) = served.ask(&format!("GET /{}", "x".repeat(40_000)), "").await;
    assert!([414, 431].contains(&status), "{status}");
    // The server does not wait for the body.
    assert_eq!(served.ask("GET /livez", "Content-Length: 1000000000\r\n").await.0, 200);
}

/// For any bytes from a client, the server either sends an HTTP response or closes the connection.
/// Afterwards, the server still serves the next request.
#[tokio::test]
async fn any_input_leaves_the_server_responsive() {
    use proptest::strategy::{Strategy, ValueTree};
    const PIECES: &[&[u8]] = &[
        b"GET ",
        b"HEAD ",
        b"POST ",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"/",
        b"/livez",
        b"/metrics",
        b"/../../etc/passwd",
        b"/%00",
        b"/%2e%2e",
        b"?",
        b" ",
        b" HTTP/1.1",
        b" HTTP/1.0",
        b" HTTP/9.9",
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b"\xff\xfe",
        b"Host: localhost",
        b"Host:",
        b": ",
        b"Content-Length: -1",
        b"Content-Length: 5",
        b"Transfer-Encoding: chunked",
        b"Connection: close",
        b"Connection: upgrade",
        b"Upgrade: h2c",
        b"Expect: 100-continue",
        b"Authorization: Bearer ",
        b"Authorization: Basic ",
        b"/status.json",
        b"?refresh=off",
        b"0\r\n\r\n",
        b"FFFFFFFFFFFFFFFF\r\n",
        b"<script>",
    ];
    let served = Served::new(&Http::default()).await;
    let made = proptest::collection::vec(proptest::sample::select(PIECES), 1..14);
    let mut runner = proptest::test_runner::TestRunner::default();
    for _ in 0..400 {
        let bytes = made.new_tree(&mut runner).unwrap().current().concat();
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "no end: {:?}", String::from_utf8_lossy(&bytes));
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{:?}", String::from_utf8_lossy(&answer));
        assert!(!String::from_utf8_lossy(&answer).contains("<script>"), "a response repeats the request");
    }
    assert_eq!(served.ask("GET /livez", "").await.0, 200);
}
