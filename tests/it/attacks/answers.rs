//! The server in these tests answers a query with arbitrary content: other types, nulls, texts in
//! another encoding, messages in another order, or bytes that are not protocol messages. Such an
//! answer must cause an error and never a panic, and handling it must use little memory.

use std::time::Duration;

use backfilld::config::secret::{Login, SecretUrl};
use backfilld::error::{Kind, Result};
use backfilld::pg::connect::{self, within};
use backfilld::pg::row::{self, Columns};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::types::Json;

use super::memory::peak;

const LIMIT: Duration = Duration::from_secs(2);
const LIMIT_MIB: u64 = 64;

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag], &u32::try_from(body.len() + 4).unwrap().to_be_bytes()[..], body].concat()
}

/// One answer to a request.
#[derive(Debug, Clone)]
enum Answer {
    /// A result with one column, which has this type, and one row, which has this value.
    Row {
        oid: u32,
        value: Option<Vec<u8>>,
    },
    /// An error with these fields.
    Error(Vec<(u8, Vec<u8>)>),
    /// A row without a value, although the description of the result has a column.
    NoValue,
    /// Messages in any order with any content.
    Messages(Vec<(u8, Vec<u8>)>),
    Bytes(Vec<u8>),
    /// A message that announces a length of `mib` MiB. Only 6 MiB are sent.
    Huge {
        tag: u8,
        mib: u32,
    },
}

impl Answer {
    /// Returns the answer to the request that prepares the statement, or to the request that
    /// executes it.
    fn write(&self, prepares: bool) -> Vec<u8> {
        let ready = message(b'Z', b"I");
        match self {
            Self::Row { oid, .. } if prepares => {
                let column =
                    [b"\0\x01c\0\0\0\0\0\0\0", &oid.to_be_bytes()[..], b"\xff\xff\xff\xff\xff\xff\0\0"].concat();
                [message(b'1', b""), message(b't', b"\0\0"), message(b'T', &column), ready].concat()
            }
            Self::Row { value, .. } => {
                let length = value.as_ref().map_or(-1, |value| i32::try_from(value.len()).unwrap());
                let row = [b"\0\x01", &length.to_be_bytes()[..], value.as_deref().unwrap_or_default()].concat();
                [message(b'2', b""), message(b'D', &row), message(b'C', b"SELECT 1\0"), ready].concat()
            }
            Self::NoValue => [message(b'2', b""), message(b'D', b"\0\0"), message(b'C', b"SELECT 1\0"), ready].concat(),
            Self::Error(fields) => {
                let body: Vec<u8> =
                    fields.iter().flat_map(|(kind, text)| [&[*kind], &text[..], b"\0"].concat()).collect();
                [message(b'E', &[body, vec![0]].concat()), ready].concat()
            }
            Self::Messages(all) => all.iter().flat_map(|(tag, body)| message(*tag, body)).collect(),
            Self::Bytes(bytes) => bytes.clone(),
            Self::Huge { tag, mib } => {
                let mut bytes = vec![*tag];
                bytes.extend((mib * 1024 * 1024).to_be_bytes());
                bytes.resize(6 * 1024 * 1024, b'M');
                bytes
            }
        }
    }
}

fn answers() -> impl Strategy<Value = Answer> {
    let oids = prop::sample::select(vec![
        16_u32, 17, 18, 19, 20, 21, 23, 25, 26, 114, 700, 701, 1009, 1016, 1184, 2950, 3802, 705, 99999,
    ]);
    let bytes = || prop::collection::vec(any::<u8>(), 0..80);
    let tags = prop::sample::select(b"123ACDEGHIKNRSTVWZnst".to_vec());
    prop_oneof![
        4 => (oids, prop::option::of(bytes())).prop_map(|(oid, value)| Answer::Row { oid, value }),
        2 => prop::collection::vec((prop::sample::select(b"SVCMDHPpqWstcdnFLR".to_vec()), bytes()), 0..12).prop_map(Answer::Error),
        3 => prop::collection::vec((tags, bytes()), 0..8).prop_map(Answer::Messages),
        1 => Just(Answer::NoValue),
        1 => bytes().prop_map(Answer::Bytes),
        1 => (prop::sample::select(b"EDNTAS".to_vec()), 8_u32..2000).prop_map(|(tag, mib)| Answer::Huge { tag, mib }),
    ]
}

/// Logs a client in, and answers its requests.
async fn serve(mut stream: TcpStream, prepared: Answer, executed: Answer) -> std::io::Result<()> {
    let mut startup = [0; 512];
    let _ = stream.read(&mut startup).await?;
    let login = [message(b'R', &[0; 4]), message(b'K', &[0; 8]), message(b'Z', b"I")].concat();
    stream.write_all(&login).await?;
    let mut number = 0;
    loop {
        let mut header = [0; 5];
        stream.read_exact(&mut header).await?;
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        stream.read_exact(&mut vec![0; length - 4]).await?;
        if header[0] == b'S' {
            number += 1;
            let answer = if number == 1 { prepared.write(true) } else { executed.write(false) };
            stream.write_all(&answer).await?;
        }
    }
}

/// Tries to read the value as each of the types that the daemon reads, one after the other.
fn read_all(row: &tokio_postgres::Row) -> Vec<Result<()>> {
    vec![
        row.read::<Option<String>>(0).map(drop),
        row.read::<bool>(0).map(drop),
        row.read::<i64>(0).map(drop),
        row.read::<i32>(0).map(drop),
        row.read::<Option<f64>>(0).map(drop),
        row.read::<Vec<Option<String>>>(0).map(drop),
        row.read::<Vec<i16>>(0).map(drop),
        row.read::<u32>(0).map(drop),
        row.read::<Option<std::time::SystemTime>>(0).map(drop),
        row.read::<Option<Json<serde_json::Value>>>(0).map(drop),
        row.read::<&str>("c").map(drop),
        row.read::<&str>("missing").map(drop),
        row::key(row, 0).map(drop),
        row::text(row, 0).map(drop),
    ]
}

async fn ask(prepared: Answer, executed: Answer) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://a:b@{}/app?sslmode=disable", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let _ = serve(stream, prepared, executed).await;
    });
    let login = Login { url: SecretUrl::new(url), password: None };
    let session = connect::open(&connect::parse(&login, "test").unwrap(), |_| {}).await.unwrap();
    match within(LIMIT, session.client.query_opt("select c", &[])).await {
        Ok(Some(row)) => {
            for read in read_all(&row) {
                assert!(read.is_ok() || read.is_err_and(|error| error.kind == Kind::Unreadable));
            }
        }
        Ok(None) => {}
        Err(error) => assert!(error.message.len() < 64 * 1024, "{} bytes", error.message.len()),
    }
    server.abort();
}

#[test]
fn no_answer_of_a_server_is_a_panic_or_costs_much_memory() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let rows = answers().prop_map(|answer| match answer {
        // The first answer usually lets the client prepare the statement, so that the client reads
        // the second answer too.
        Answer::Bytes(_) | Answer::Messages(_) | Answer::Error(_) | Answer::NoValue | Answer::Huge { .. } => {
            Answer::Row { oid: 25, value: None }
        }
        row @ Answer::Row { .. } => row,
    });
    let first = prop_oneof![3 => rows, 1 => answers()];
    runner
        .run(&(first, answers()), |(prepared, executed)| {
            let executed = match (&prepared, executed) {
                (Answer::Row { oid, .. }, Answer::Row { value, .. }) => Answer::Row { oid: *oid, value },
                (_, executed) => executed,
            };
            runtime.block_on(ask(prepared, executed));
            Ok(())
        })
        .unwrap();
    let peak = peak(std::process::id());
    assert!(peak < LIMIT_MIB, "{peak} MiB");
}
