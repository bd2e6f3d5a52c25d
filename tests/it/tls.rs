//! Tests of encrypted connections and of passwords, with real servers. The tests' own CAs issue the
//! certificates.

use std::path::Path;

use backfilld::config::secret::{Login, Password, SecretUrl};
use backfilld::error::{Error, Kind};
use backfilld::pg::cancel::Cancelled;
use backfilld::pg::connect::{self, Session};
use backfilld::pg::conninfo;
use backfilld_testbed::cluster::{Cluster, Mode, Options};
use backfilld_testbed::daemon::Daemon;
use backfilld_testbed::standby::Standby;
use backfilld_testbed::tls::{self, Authority, Order};
use backfilld_testbed::wait;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::support::{BACKFILLD, SOON, make_roles, migrate, not_before, sql, until_state, until_true, value};

/// The tests themselves connect as `postgres`. `owner` may connect only with TLS, `open` only
/// without TLS, `certified` only with a client certificate, and `secret` only with TLS and a
/// password. On the Unix socket, every role except `postgres` needs a password.
const HBA: &str = "
local all postgres trust
local all all scram-sha-256
host all postgres 127.0.0.1/32 trust
hostnossl all open 127.0.0.1/32 trust
hostssl all certified 127.0.0.1/32 cert
hostssl all secret 127.0.0.1/32 scram-sha-256
hostssl all owner 127.0.0.1/32 trust
";

fn local_names() -> Order {
    Order::server(&["localhost", "127.0.0.1"])
}

/// Opens a session that uses only the values of `login`. The environment is empty, so backfilld
/// finds no files in a home directory.
async fn open(login: &Login) -> Result<Session, Error> {
    let info = conninfo::read(login, "tls test", &|_| None)?;
    connect::open(&info, |_| {}).await
}

async fn open_url(url: &str) -> Result<Session, Error> {
    open(&SecretUrl::new(url).into()).await
}

fn url(cluster: &Cluster, user: &str, host: &str, parameters: &str) -> String {
    format!("postgres://{user}@{host}:{}/app?{parameters}", cluster.port())
}

async fn encrypted(session: &Session) -> bool {
    value(&session.client, "select ssl from pg_stat_ssl where pid = pg_backend_pid()").await
}

/// Returns the error of a connection attempt that must fail.
async fn refusal(url: &str) -> Error {
    match open_url(url).await {
        Ok(_) => panic!("connected: {url}"),
        Err(error) => {
            assert!(error.hint.is_some(), "{url}: {error}");
            error
        }
    }
}

async fn with_tls(authority: &Authority) -> Cluster {
    let cluster = tls::cluster(Options::default(), &authority.issue(&local_names()), authority).await;
    cluster.create_role("open", "login").await;
    cluster.create_role("certified", "login").await;
    cluster.create_role("secret", "login password 'opensesame'").await;
    cluster.set_hba(HBA).await;
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sslmode_means_what_it_means_in_libpq() {
    let authority = Authority::new("backfilld test CA");
    let root = authority.root_file().display().to_string();
    let (secured, bare) = tokio::join!(with_tls(&authority), Cluster::with_owner(Options::default()));
    // Each entry has a mode, and tells which of these can connect in this mode:
    // - a role that may connect only with TLS,
    // - a role that may connect only without TLS,
    // - any role, if the server has no TLS.
    for (mode, only_tls, only_plain, without) in [
        ("disable", false, true, true),
        ("allow", true, true, true),
        ("prefer", true, true, true),
        ("require", true, false, false),
        ("verify-ca", true, false, false),
        ("verify-full", true, false, false),
    ] {
        let parameters = if mode.starts_with("verify") {
            format!("sslmode={mode}&sslrootcert={root}")
        } else {
            format!("sslmode={mode}")
        };
        for (url, reached, by_tls) in [
            (url(&secured, "owner", "localhost", &parameters), only_tls, true),
            (url(&secured, "open", "localhost", &parameters), only_plain, false),
            (url(&bare, "owner", "localhost", &parameters), without, false),
        ] {
            match open_url(&url).await {
                Ok(session) => {
                    assert!(reached, "connected: {url}");
                    assert_eq!(encrypted(&session).await, by_tls, "{url}");
                }
                Err(error) => assert!(!reached, "{url}: {error}"),
            }
        }
    }
    let error = refusal(&url(&bare, "owner", "localhost", "sslmode=require")).await;
    assert_eq!((error.kind, error.exit_code()), (Kind::Tls, 69));
    let place = format!("localhost:{}", bare.port());
    assert_eq!(error.message, format!("the server {place} does not offer TLS, but sslmode=require is set"));
    // PostgreSQL never uses TLS on a Unix socket, so `sslmode=verify-full` has no effect there, as
    // in libpq.
    let socket = secured.dir().display().to_string();
    let by_socket = format!(
        "host={socket} port={} user=postgres dbname=app sslmode=verify-full sslrootcert={root}",
        secured.port()
    );
    assert!(!encrypted(&open_url(&by_socket).await.unwrap()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_certificate_is_refused_with_its_name_the_reason_and_the_remedy() {
    let (authority, other) = (Authority::new("right CA"), Authority::new("other CA"));
    let cluster = with_tls(&authority).await;
    let (root, wrong) = (authority.root_file().display().to_string(), other.root_file().display().to_string());
    // In each of these modes, the connection fails if no CA in the root file issued the server's
    // certificate. With `prefer`, backfilld then tries again without TLS, and the server refuses
    // this attempt, too.
    for mode in ["require", "verify-ca", "verify-full"] {
        let error = refusal(&url(&cluster, "owner", "localhost", &format!("sslmode={mode}&sslrootcert={wrong}"))).await;
        let said = format!("the certificate of the server \"localhost\" was not issued by a CA in sslrootcert {wrong}");
        assert_eq!((error.kind, error.message), (Kind::Tls, said), "{mode}");
    }
    let error = refusal(&url(&cluster, "owner", "localhost", &format!("sslmode=prefer&sslrootcert={wrong}"))).await;
    assert!(
        error.detail.is_some_and(|detail| detail.starts_with("The attempt without TLS also failed: ")),
        "{}",
        error.message
    );

    // The certificate is for `localhost` and 127.0.0.1. `verify-full` refuses any other name.
    // `verify-ca` does not check the name.
    for host in ["localhost", "127.0.0.1"] {
        open_url(&url(&cluster, "owner", host, &format!("sslmode=verify-full&sslrootcert={root}"))).await.unwrap();
    }
    let elsewhere = |mode: &str| {
        url(&cluster, "owner", "db.example.com", &format!("hostaddr=127.0.0.1&sslmode={mode}&sslrootcert={root}"))
    };
    open_url(&elsewhere("verify-ca")).await.unwrap();
    let error = refusal(&elsewhere("verify-full")).await;
    assert_eq!(error.message, "the certificate of the server \"db.example.com\" is for localhost, 127.0.0.1");
    assert_eq!(error.kind, Kind::Tls);

    let install = async |issued| {
        tls::install(&cluster, &issued, &authority).unwrap();
        cluster.reload().await;
    };
    install(authority.issue(&local_names().expired())).await;
    let full = url(&cluster, "owner", "localhost", &format!("sslmode=verify-full&sslrootcert={root}"));
    let error = refusal(&full).await;
    assert_eq!(error.message, "the certificate of the server \"localhost\" expired on 2021-01-01");
    // Without a root file, `require` does not check the certificate.
    open_url(&url(&cluster, "owner", "localhost", "sslmode=require")).await.unwrap();

    // The certificate names the server only in its common name, as in the examples of PostgreSQL's
    // manual.
    install(authority.issue(&Order::server(&[]))).await;
    open_url(&full).await.unwrap();
    let error = refusal(&url(&cluster, "owner", "127.0.0.1", &format!("sslmode=verify-full&sslrootcert={root}"))).await;
    assert_eq!(error.message, "the certificate of the server \"127.0.0.1\" is for localhost");

    // The certificate has an alternative name, but of a different type from the host (an IP
    // address, not a DNS name).
    install(authority.issue(&Order::server(&["127.0.0.1"]))).await;
    open_url(&full).await.unwrap();

    // A self-signed certificate is its own root.
    let own = tls::self_signed(&["localhost"]);
    let own_file = authority.write("own.crt", &own.certificate, 0o644);
    install(own).await;
    open_url(&url(&cluster, "owner", "localhost", &format!("sslmode=verify-full&sslrootcert={}", own_file.display())))
        .await
        .unwrap();
    refusal(&full).await;
    let error =
        refusal(&url(&cluster, "owner", "localhost", "sslrootcert=/nowhere/root.crt&sslmode=verify-full")).await;
    assert!(error.kind == Kind::Config && error.message.contains("sslrootcert /nowhere/root.crt"), "{error}");
}

/// With `sslnegotiation=direct`, the server confirms in the handshake that it speaks the protocol
/// of PostgreSQL. Without this confirmation, backfilld could send its messages to a server that
/// speaks another protocol.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_confirm_the_protocol_is_refused() {
    let authority = Authority::new("right CA");
    let root = authority.root_file().display().to_string();
    let cluster = with_tls(&authority).await;
    let direct = format!("sslmode=verify-full&sslrootcert={root}&sslnegotiation=direct");
    if !not_before(17, &cluster, "direct TLS") {
        open_url(&url(&cluster, "owner", "localhost", &direct)).await.unwrap();
    }
    let issued = authority.issue(&local_names());
    let certificates = vec![CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(certificates, key).unwrap();
    let listener = tokio::net::TcpListener::bind("localhost:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config)).accept(stream).await.unwrap();
        let mut sent = Vec::new();
        let _ = stream.read_to_end(&mut sent).await;
        sent
    });
    let error = refusal(&format!("postgres://owner:hunter2@localhost:{port}/app?{direct}")).await;
    let said = "the server \"localhost\" does not confirm the protocol of PostgreSQL in the TLS handshake (ALPN)";
    assert_eq!((error.kind, error.message.as_str()), (Kind::Tls, said));
    assert!(server.await.unwrap().is_empty(), "backfilld sent data to the server");
}

#[tokio::test(flavor = "multi_thread")]
async fn client_certificates_are_accepted_or_refused_with_the_reason() {
    let (authority, other) = (Authority::new("right CA"), Authority::new("other CA"));
    let cluster = with_tls(&authority).await;
    let (certificate, key) = authority.client_files("certified", &authority.issue(&Order::client("certified")));
    let with = |certificate: &Path, key: &Path, more: &str| {
        let files = format!("sslcert={}&sslkey={}{more}", certificate.display(), key.display());
        url(&cluster, "certified", "localhost", &format!("sslmode=require&{files}"))
    };
    assert!(encrypted(&open_url(&with(&certificate, &key, "")).await.unwrap()).await);
    let error = refusal(&url(&cluster, "certified", "localhost", "sslmode=require")).await;
    assert_eq!(
        (error.kind, error.message.as_str()),
        (Kind::Authentication, "connection requires a valid client certificate")
    );

    // With TLS 1.3, the client completes the handshake before the server has checked the client
    // certificate. With TLS 1.2, the server checks the certificate first.
    for more in ["", "&ssl_max_protocol_version=TLSv1.2"] {
        let (foreign, foreign_key) = other.client_files("foreign", &other.issue(&Order::client("certified")));
        let error = refusal(&with(&foreign, &foreign_key, more)).await;
        assert_eq!(error.kind, Kind::Tls, "{more}: {error}");
        // The third message appears if the connection is closed before the server's alert arrives.
        let ways = [
            "rejected the client certificate",
            "asked for a client certificate",
            "may have refused the client certificate",
        ];
        assert!(ways.iter().any(|way| error.to_string().contains(way)), "{more}: {error}");
        let late = authority.issue(&Order::client("certified").expired());
        let (late, late_key) = authority.client_files("late", &late);
        let error = refusal(&with(&late, &late_key, more)).await;
        assert_eq!(error.kind, Kind::Tls, "{more}: {error}");
    }

    let open_key = authority.write("open.key", &std::fs::read_to_string(&key).unwrap(), 0o644);
    let error = refusal(&with(&certificate, &open_key, "")).await;
    assert!(error.kind == Kind::Config && error.message.contains("accessible to other users"), "{error}");
    let (_, other_key) = authority.client_files("second", &authority.issue(&Order::client("certified")));
    let error = refusal(&with(&certificate, &other_key, "")).await;
    assert!(error.message.contains("is not the key of sslcert"), "{error}");
    let error = refusal(&with(&key, &key, "")).await;
    assert!(error.message.contains("contains no readable certificate"), "{error}");
    let error = refusal(&url(&cluster, "certified", "localhost", &format!("sslcert={}", certificate.display()))).await;
    assert!(error.message.contains("has no sslkey"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_are_found_as_libpq_does_and_bound_to_the_channel() {
    let authority = Authority::new("backfilld test CA");
    let cluster = with_tls(&authority).await;
    let passfile = authority.write("pgpass", "localhost:*:app:secret:opensesame\n", 0o600);
    let bound = url(&cluster, "secret", "localhost", "sslmode=require&channel_binding=require");
    open_url(&format!("{bound}&passfile={}", passfile.display())).await.unwrap();
    open_url(&bound.replace("secret@", "secret:opensesame@")).await.unwrap();
    open(&Login { url: SecretUrl::new(&bound), password: Some(Password::new("opensesame")) }).await.unwrap();
    let error = refusal(&bound).await;
    assert_eq!((error.kind, error.exit_code()), (Kind::Authentication, 77), "{error}");
    let error = refusal(&url(&cluster, "owner", "localhost", "sslmode=require&channel_binding=require")).await;
    assert_eq!(error.kind, Kind::Tls, "{error}");
    let open_file = authority.write("open.pgpass", "*:*:*:*:opensesame", 0o644);
    let error = refusal(&format!("{bound}&passfile={}", open_file.display())).await;
    assert!(error.message.contains("accessible to other users"), "{error}");
    // No server listens on the port of the first host. The cancel request must go to the host of
    // the session.
    let unused = backfilld_testbed::port::Port::reserve().unwrap();
    let several =
        format!("postgres://owner@localhost:{},localhost:{}/app?sslmode=require", unused.number(), cluster.port());
    let session = open_url(&several).await.unwrap();
    assert_eq!(session.cancel().await, Cancelled::Settled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_request_uses_tls_if_the_session_does() {
    let authority = Authority::new("backfilld test CA");
    let cluster = with_tls(&authority).await;
    let root = authority.root_file().display().to_string();
    for parameters in [format!("sslmode=verify-full&sslrootcert={root}"), "sslmode=prefer".to_owned()] {
        let session = open_url(&url(&cluster, "owner", "localhost", &parameters)).await.unwrap();
        for _ in 0..50 {
            session.client.query("select 1", &[]).await.unwrap();
            assert_eq!(session.cancel().await, Cancelled::Settled);
            session.client.query("select pg_sleep(0.001)", &[]).await.unwrap();
        }
        let mut sleeping = std::pin::pin!(session.client.query("select pg_sleep(60)", &[]));
        let superuser = cluster.superuser("app").await;
        let runs = "select exists (select from pg_stat_activity where query like '%sleep(60)%' and state = 'active' and usename = 'owner')";
        tokio::select! {
            answer = &mut sleeping => panic!("the statement was not cancelled: {answer:?}"),
            () = until_true(&superuser, SOON, runs) => {}
        }
        assert_eq!(session.cancel().await, Cancelled::Settled);
        let error = sleeping.await.unwrap_err();
        assert_eq!(error.code().map(|code| code.code()), Some("57014"), "{parameters}");
    }
    // A server with the wrong certificate must not receive the cancel key of the session.
    let session = open_url(&url(&cluster, "owner", "localhost", &format!("sslmode=verify-full&sslrootcert={root}")))
        .await
        .unwrap();
    tls::install(&cluster, &Authority::new("other CA").issue(&local_names()), &authority).unwrap();
    cluster.reload().await;
    assert_eq!(session.cancel().await, Cancelled::Unsettled);
}

/// The passwords that must not appear in any output. In one test, the second password replaces the
/// first.
const SENTINEL: &str = "s3ntinel-Pa55word";
const SECOND: &str = "s3ntinel-2nd-Pa55";

async fn counting(cluster: &Cluster) {
    make_roles(cluster).await;
    sql(cluster, "create table few (id int primary key, n int not null default 0); insert into few select generate_series(1, 3000)").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_password_and_certificate_are_used_during_a_run_and_shown_nowhere() {
    let authority = Authority::new("backfilld test CA");
    let issued = authority.issue(&local_names());
    let cluster = tls::cluster(Options::default(), &issued, &authority).await;
    counting(&cluster).await;
    assert!(migrate(&cluster, "owner", "app").await.status.success());
    cluster.sql("postgres", "postgres", &format!("alter role owner password '{SENTINEL}'")).await;
    cluster.set_hba("host all postgres 127.0.0.1/32 trust\nhostssl all owner 127.0.0.1/32 scram-sha-256").await;
    let password = authority.write("password", &format!("{SENTINEL}\n"), 0o600);
    let root = authority.root_file().display().to_string();
    let owner_url = url(&cluster, "owner", "localhost", &format!("sslmode=verify-full&sslrootcert={root}"));
    let config = format!(
        "log: {{level: trace}}\nlease: {{ttl_seconds: 2, heartbeat_seconds: 0.4, poll_ms: 100}}\n\
         databases: [{{name: main, url: '{owner_url}', password_file: '{}'}}]",
        password.display()
    );
    let daemon = Daemon::builder(BACKFILLD, &owner_url).config(config).env("BACKFILLD_LOG", "trace").start();
    daemon.wait_ready(SOON).await;
    let admin = cluster.superuser("app").await;
    let enqueue = r#"set role owner; select backfill.enqueue('few', 'few', 'n = n + 1', options => '{"max_rows_per_second": 300, "max_batch_rows": 10}')"#;
    admin.batch_execute(enqueue).await.unwrap();
    until_true(&admin, SOON, "select exists (select from few where n = 1)").await;

    // The password, the server's certificate and the CA change on the server first. The files that
    // the daemon reads change afterwards.
    cluster.sql("postgres", "postgres", &format!("alter role owner password '{SECOND}'")).await;
    let next = Authority::new("next CA");
    tls::install(&cluster, &next.issue(&local_names()), &next).unwrap();
    cluster.restart(Mode::Fast).await;
    let says = async |text: &str| {
        wait::until(SOON, format!("the log contains: {text}"), async || daemon.output().contains(text)).await;
    };
    says("was not issued by a CA in sslrootcert").await;
    authority.write("root.crt", &next.root(), 0o644);
    says("password authentication failed").await;
    authority.write("password", SECOND, 0o600);
    let admin = cluster.superuser("app").await;
    admin
        .batch_execute(r#"set role owner; select backfill.tune('few', '{"max_rows_per_second": 100000}')"#)
        .await
        .unwrap();
    wait::until(SOON, "the job has succeeded", async || {
        value::<bool>(&admin, "select state = 'succeeded' from backfill.jobs").await
    })
    .await;
    assert_eq!(value::<i64>(&admin, "select count(*) from few where n = 1").await, 3000);
    assert!(daemon.ended().is_none());

    // Collect what the daemon shows: its output, its pages and four views.
    let mut seen = vec![("output", daemon.output())];
    for page in ["/metrics", "/livez", "/readyz", "/", "/status.json"] {
        seen.push((page, daemon.get(page).await.unwrap().1));
    }
    let all_rows = "select coalesce(string_agg(t::text, ' '), '') from";
    for table in ["backfill.events", "backfill.jobs", "backfill.workers", "backfill.slices"] {
        seen.push((table, value::<String>(&admin, &format!("{all_rows} {table} t")).await));
    }
    for (place, text) in &seen {
        assert!(!text.contains(SENTINEL) && !text.contains(SECOND), "{place} shows the password:\n{text}");
    }
    assert!(seen[0].1.len() > 200 && seen[1].1.contains("backfilld_"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_command_shows_a_password_in_any_error() {
    let cluster = Cluster::with_owner(Options::default()).await;
    make_roles(&cluster).await;
    let unused = backfilld_testbed::port::Port::reserve().unwrap();
    for (url, code) in [
        (format!("postgres://owner:{SENTINEL}@127.0.0.1:{}/app", cluster.port()), 0),
        (format!("postgres://owner:{SENTINEL}@127.0.0.1:{}/nowhere", cluster.port()), 69),
        (format!("postgres://owner:{SENTINEL}@127.0.0.1:{}/app", unused.number()), 69),
        (format!("postgres://owner:{SENTINEL}@127.0.0.1:{}/app?sslmode=require", cluster.port()), 69),
        (format!("postgres://owner:a/{SENTINEL}@127.0.0.1/app"), 78),
        (format!("host=127.0.0.1 user=owner password=a {SENTINEL}"), 78),
        (format!("host=127.0.0.1 user=owner password={SENTINEL} sslmode=maybe"), 78),
    ] {
        for verb in [
            ["migrate"].as_slice(),
            &["status", "--json"],
            &["doctor"],
            &["run", "--until-idle", "--listen", "127.0.0.1:0"],
        ] {
            let output = Command::new(BACKFILLD)
                .args(verb)
                .env("BACKFILLD_DATABASE_URL", &url)
                .env("BACKFILLD_LOG", "trace")
                .env("RUST_BACKTRACE", "1")
                .output()
                .await
                .unwrap();
            let text =
                format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(!text.contains(SENTINEL), "{verb:?}:\n{text}");
            if verb == ["migrate"] {
                assert_eq!(output.status.code(), Some(code), "{text}");
            }
        }
    }
}

/// The worker waits while the certificate is expired ([`Kind::Tls`]), and no job fails.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_waits_while_the_servers_certificate_is_expired() {
    let authority = Authority::new("backfilld test CA");
    let cluster = tls::cluster(Options::default(), &authority.issue(&local_names()), &authority).await;
    counting(&cluster).await;
    assert!(migrate(&cluster, "owner", "app").await.status.success());
    let root = authority.root_file().display().to_string();
    let owner_url = url(&cluster, "owner", "localhost", &format!("sslmode=verify-full&sslrootcert={root}"));
    let daemon = Daemon::builder(BACKFILLD, &owner_url).start();
    daemon.wait_ready(SOON).await;
    sql(&cluster, r#"select backfill.enqueue('few', 'few', 'n = n + 1', options => '{"max_rows_per_second": 1000, "max_batch_rows": 10}')"#).await;
    until_true(&cluster.owner().await, SOON, "select exists (select from few where n = 1)").await;
    tls::install(&cluster, &authority.issue(&local_names().expired()), &authority).unwrap();
    cluster.restart(Mode::Fast).await;
    wait::until(SOON, "/readyz shows the reason", async || {
        daemon.get("/readyz").await.is_ok_and(|(status, body)| status == 503 && body.contains("expired on 2021-01-01"))
    })
    .await;
    tls::install(&cluster, &authority.issue(&local_names()), &authority).unwrap();
    cluster.reload().await;
    until_state(&cluster, "few", "succeeded", SOON).await;
    assert_eq!(cluster.value::<i64>("owner", "app", "select count(*) from few where n = 1").await, 3000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_polled_over_tls_and_holds_jobs_while_it_is_not_trusted() {
    let authority = Authority::new("backfilld test CA");
    let cluster = tls::cluster(Options::default(), &authority.issue(&local_names()), &authority).await;
    counting(&cluster).await;
    assert!(migrate(&cluster, "owner", "app").await.status.success());
    cluster.create_role("watcher", "login password 'opensesame'").await;
    let standby = Standby::named(&cluster, "far").await;
    standby.wait_caught_up(SOON).await;
    standby.set_hba("local all all trust\nhost all postgres 127.0.0.1/32 trust\nhostssl all watcher 127.0.0.1/32 scram-sha-256\n").await;
    let root = authority.root_file().display().to_string();
    let asked = format!("postgres://watcher@localhost:{}/app?sslmode=verify-full&sslrootcert={root}", standby.port());
    let password = authority.write("watcher-password", "opensesame\n", 0o600);
    let config = format!(
        "databases:\n  - name: main\n    replicas: [{{match: far, url_env: FAR_URL, password_file: {}}}]\n",
        password.display()
    );
    let daemon = Daemon::builder(BACKFILLD, &cluster.owner_url()).config(&config).env("FAR_URL", &asked).start();
    daemon.wait_ready(SOON).await;
    let owner = cluster.owner().await;
    until_true(
        &owner,
        SOON,
        "select count(*) = 2 and bool_and(value is not null and not holding) from backfill.signals where source = 'far'",
    )
    .await;
    let encrypted = "select bool_and(ssl) and count(*) > 0 from pg_stat_ssl join pg_stat_activity using (pid) where application_name = 'backfilld replica' and usename = 'watcher'";
    assert!(standby.value::<bool>("postgres", "postgres", encrypted).await);
    let doctor = doctor(&cluster, &config, &asked).await;
    assert!(
        doctor.contains("its lag is read from the replica itself") && doctor.contains("replica far: TLSv1.3"),
        "{doctor}"
    );

    assert!(!daemon.output().contains("holding"), "{}", daemon.output());

    // The standby receives WAL but does not replay it.
    standby.pause_replay().await;
    sql(&cluster, r#"select backfill.enqueue('few', 'few', 'n = n + 1', options => '{"max_rows_per_second": 200, "max_batch_rows": 10}')"#).await;
    let waits = "select coalesce(waiting_reason = 'replica_lag' and waiting_text like '%far is % behind%', false) from backfill.jobs";
    until_true(&owner, SOON, waits).await;
    standby.resume_replay().await;
    until_true(&owner, SOON, "select rows_changed > 0 from backfill.jobs").await;

    tls::install(&standby, &authority.issue(&local_names().expired()), &authority).unwrap();
    standby.restart(Mode::Fast).await;
    let distrusted = "select coalesce(waiting_reason = 'replica_lag' and waiting_text like '%could not read the lag of replica far%expired on%', false) from backfill.jobs";
    until_true(&owner, SOON, distrusted).await;
    assert!(daemon.output().contains("could not read the lag of a replica"), "{}", daemon.output());
    tls::install(&standby, &authority.issue(&local_names()), &authority).unwrap();
    standby.reload().await;
    until_state(&cluster, "few", "succeeded", SOON).await;
    assert_eq!(cluster.value::<i64>("owner", "app", "select count(*) from few where n = 1").await, 3000);
    assert!(daemon.output().contains("the lag of the replica can be read again"));

    // After its promotion, the server is no longer a replica.
    standby.promote().await;
    sql(&cluster, "update few set n = 0; select backfill.rerun('few')").await;
    let promoted = "select coalesce(waiting_text like '%far%this server is not a standby%', false) from backfill.jobs";
    until_true(&owner, SOON, promoted).await;
    let doctor = self::doctor(&cluster, &config, &asked).await;
    assert!(
        doctor.contains(
            "could not read its lag, so all jobs except those with throttle off are held: this server is not a standby"
        ),
        "{doctor}"
    );
    assert!(!(daemon.output() + &doctor).contains("opensesame"));
}

/// Returns all output of doctor.
async fn doctor(cluster: &Cluster, config: &str, far: &str) -> String {
    let file = cluster.dir().join("doctor.yaml");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(BACKFILLD);
    command.arg("doctor").arg("--config").arg(&file);
    let output = command.env("BACKFILLD_DATABASE_URL", cluster.owner_url()).env("FAR_URL", far).output().await.unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
