//! A client without credentials reaches the daemon's port. The client can neither read a secret nor
//! change anything, and it cannot block the probes or the jobs.

use backfilld_testbed::daemon::Daemon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::Scene;
use crate::support::{BACKFILLD, SOON, run, until_true, value};

/// Sends these bytes and returns the response, or an empty string if the connection fails.
async fn send(stream: std::io::Result<TcpStream>, bytes: &[u8]) -> String {
    let exchange = async {
        let mut stream = stream?;
        stream.write_all(bytes).await?;
        let mut answer = Vec::new();
        // A connection that is reset counts as closed.
        let _ = stream.read_to_end(&mut answer).await;
        std::io::Result::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    match tokio::time::timeout(SOON, exchange).await {
        Ok(answer) => answer.unwrap_or_default(),
        Err(_) => panic!("no end of the response to {:?}", String::from_utf8_lossy(bytes)),
    }
}

async fn ask(daemon: &Daemon, bytes: &[u8]) -> String {
    send(TcpStream::connect(daemon.http_addr()).await, bytes).await
}

fn status(answer: &str) -> Option<u16> {
    answer.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()
}

#[tokio::test]
async fn the_http_port_changes_nothing_and_reveals_no_secret() {
    let scene = Scene::set().await;
    scene.table("rows", 400).await;
    scene
        .cluster
        .sql("postgres", "app", "alter role ctl password 'hunter2-of-ctl'; alter role x_e password 'hunter2-of-e'")
        .await;
    let with_password = |user: &str, password: &str| {
        scene.cluster.url(user, "app").replacen(&format!("{user}@"), &format!("{user}:{password}@"), 1)
    };
    let token = "b8c7-token-of-the-page";
    let file = scene.cluster.dir().join("token");
    std::fs::write(&file, token).unwrap();
    let config = format!(
        "lease: {{poll_ms: 100}}\nhttp: {{token_file: {}}}\ndatabases:\n  - name: main\n    url: '{}'\n    executors: [{{run_as: e, url: '{}'}}]\n",
        file.display(),
        with_password("ctl", "hunter2-of-ctl"),
        with_password("x_e", "hunter2-of-e"),
    );
    let daemon = Daemon::builder(BACKFILLD, "").config(config).start();
    daemon.wait_ready(SOON).await;
    // The error message of one job contains data of a row. The other job is still running when the
    // test ends.
    let mallory = scene.client("mallory").await;
    run(
        &mallory,
        r#"select backfill.enqueue('bad/job', 'rows', 'a = case when id = 7 then (''row data of '' || id)::int else 1 end', run_as => 'e');
           select backfill.enqueue('slow', 'rows', 'a = 2', run_as => 'e', options => '{"max_rows_per_second": 2, "max_batch_rows": 1}')"#,
    )
    .await;
    let olga = scene.client("olga").await;
    until_true(&olga, SOON, "select count(*) > 0 from backfill.jobs where name = 'bad/job' and state = 'failed'").await;
    until_true(&olga, SOON, "select rows_changed > 0 from backfill.jobs where name = 'slow'").await;
    // This query returns everything that a request could change: the parts of a job that an
    // operator can change, and the number of events that commands record. It leaves out other
    // events, because the daemon itself records some of them meanwhile, for example when it slows
    // down.
    let state = "select string_agg(concat_ws(' ', name, desired_state, priority, options), ',' order by name) || (select count(*) from backfill.events where kind in ('enqueued', 'pause', 'resume', 'cancel', 'retry', 'rerun', 'tune', 'approve', 'forget', 'pause_all', 'resume_all')) from backfill.jobs";
    let before: String = value(&olga, state).await;

    let mut seen = daemon.get("/metrics").await.unwrap().1 + &daemon.get("/readyz").await.unwrap().1;
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PAUSE", "get"] {
        for path in [
            "/",
            "/status.json",
            "/?refresh=off",
            "/metrics",
            "/readyz",
            "/livez",
            "/jobs/slow/pause",
            "/../token",
            "/..%2f..%2f..%2fetc/passwd",
            "//etc/passwd",
            "/%00",
            "/backfilld.yaml",
            "/debug/pprof",
            "http://169.254.169.254/latest/meta-data/",
            "*",
            "/metrics?x=%3Cscript%3E",
        ] {
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer wrong\r\nCookie: token={token}\r\nX-Forwarded-For: 127.0.0.1\r\nContent-Length: 24\r\n\r\n{{\"desired_state\":\"paused\"}}"
            );
            let answer = ask(&daemon, request.as_bytes()).await;
            let open = ["GET", "HEAD"].contains(&method)
                && ["/metrics", "/livez", "/readyz"].contains(&path.split('?').next().unwrap());
            let status = status(&answer);
            assert_eq!(status == Some(200), open, "{method} {path}: {answer}");
            assert!(
                status.is_none_or(|status| status == 200 || (400..500).contains(&status)),
                "{method} {path}: {answer}"
            );
            seen += &answer;
        }
    }
    // Request smuggling: each message contains a second request, and two parsers could interpret
    // the headers differently.
    for smuggled in [
        "GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 44\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /livez HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\nGET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ] {
        let answer = ask(&daemon, smuggled.as_bytes()).await;
        assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{answer}");
        seen += &answer;
    }
    let right =
        format!("GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n");
    let page = ask(&daemon, right.as_bytes()).await;
    let json = ask(&daemon, right.replacen("GET / ", "GET /status.json ", 1).as_bytes()).await;
    for page in [&page, &json] {
        assert_eq!(status(page), Some(200), "{page}");
        for header in [
            "content-security-policy: default-src 'none'",
            "x-content-type-options: nosniff",
            "cache-control: no-store",
        ] {
            assert!(page.contains(header), "{page}");
        }
        assert!(page.contains("bad/job") && page.contains("SQLSTATE 22P02") || page.contains("\"22P02\""), "{page}");
    }
    seen += &page;
    seen += &json;
    assert!(!seen.contains("row data of 7"), "a response reveals a row's data");
    seen += &daemon.output();
    for secret in ["hunter2", token, "%3Cscript", "169.254", "root:"] {
        assert!(!seen.contains(secret), "{secret} was revealed");
    }
    assert_eq!(value::<String>(&olga, state).await, before);
}

#[tokio::test]
async fn a_flood_of_connections_blocks_neither_the_probes_nor_the_walk() {
    let scene = Scene::set().await;
    scene.table("rows", 2000).await;
    let daemon = scene.start_daemon().await;
    let mallory = scene.client("mallory").await;
    let enqueue = r#"select backfill.enqueue('j', 'rows', 'a = 1', run_as => 'e', options => '{"max_rows_per_second": 300, "max_batch_rows": 10}')"#;
    run(&mallory, enqueue).await;
    let mut flood = Vec::new();
    for n in 0..400 {
        if let Ok(mut stream) = TcpStream::connect(daemon.http_addr()).await {
            let _ = stream
                .write_all(if n % 2 == 0 { b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" } else { b"GET /me" })
                .await;
            flood.push(stream);
        }
    }
    // The probes and the scrape come from a different address than the flood does.
    for path in ["/livez", "/readyz", "/metrics"] {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 2], 0).into()).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let response = send(socket.connect(daemon.http_addr()).await, request.as_bytes()).await;
        assert_eq!(status(&response), Some(200), "{response}");
    }
    // The daemon responded to the probes while connections of the flood were still open.
    let still_open = |stream: &TcpStream| matches!(stream.try_read(&mut [0; 1]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(flood.iter().any(still_open), "the flood was over before the probes' responses arrived");
    let open = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
    assert!(open < 150, "{open} file descriptors");
    until_true(&mallory, SOON, "select state = 'succeeded' from backfill.jobs").await;
    drop(flood);
}
