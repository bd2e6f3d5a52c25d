use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// A served daemon; stops when dropped.
struct Served {
    address: SocketAddr,
    health: Arc<Health>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Served {
    async fn new(config: &Http) -> Self {
        let health = Health::new(["main"]);
        let pages = Pages::new(config, Arc::clone(&health), metrics::Handle::detached()).unwrap();
        let stop = CancellationToken::new();
        let (address, task) = serve(ANY, pages, stop.clone()).await.unwrap();
        Self { address, health, stop, task }
    }

    /// Status and the whole answer.
    async fn ask(&self, line: &str, headers: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
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
    assert!(status == 200 && text.contains("/readyz") && text.contains("nosniff"), "{text}");
}

#[tokio::test]
async fn a_stuck_loop_is_not_alive() {
    let served = Served::new(&Http::default()).await;
    let _pulse = served.health.pulse("queue of main");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    let (status, text) = served.ask("GET /livez", "").await;
    assert!(status == 503 && text.contains("queue of main has not turned"), "{text}");
}

#[tokio::test]
async fn it_is_read_only() {
    let served = Served::new(&Http::default()).await;
    for page in ["/", "/metrics", "/livez", "/readyz"] {
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
    assert!(status == 401 && text.contains("www-authenticate: Bearer"), "{text}");
    assert_eq!(served.ask("GET /", "Authorization: Bearer wrong!\r\n").await.0, 401);
    assert_eq!(served.ask("GET /", "Authorization: Bearer s3cret\r\n").await.0, 200);
    assert_eq!(served.ask("GET /metrics", "").await.0, 200);
    assert_eq!(served.ask("GET /livez", "").await.0, 200);
    assert_eq!(served.ask("GET /readyz", "").await.0, 503);
}

#[tokio::test]
async fn a_missing_or_empty_token_file_is_refused() {
    let config = Http { token_file: Some("/nowhere/token".into()), ..Http::default() };
    let Err(error) = Pages::new(&config, Health::new([]), metrics::Handle::detached()) else { panic!("no token") };
    assert!(error.kind == Kind::Config && error.message.contains("/nowhere/token"), "{error}");
}

#[tokio::test]
async fn the_page_can_be_switched_off() {
    let served = Served::new(&Http { status_page: false, ..Http::default() }).await;
    assert_eq!(served.ask("GET /", "").await.0, 404);
    assert_eq!(served.ask("GET /metrics", "").await.0, 200);
}

#[tokio::test]
async fn a_taken_address_is_named_with_the_remedy() {
    let served = Served::new(&Http::default()).await;
    let pages = Pages::new(&Http::default(), Health::new([]), metrics::Handle::detached()).unwrap();
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
