//! Limits what a server can make the daemon read.
//!
//! The driver reads a message of the server as a whole, whatever its length. An exception of a
//! job's function can have a text of a gigabyte, and a server that is not PostgreSQL can announce
//! any length. This module reads the server's messages before the driver does:
//!
//! - The fields of errors and notices are clipped, and text that is not valid UTF-8 is replaced.
//!   The encoding can be wrong because the code of a job can change `client_encoding`.
//! - Each other message has a maximum length, and so do all rows of one answer together. A longer
//!   message ends the connection.
//! - Until the login is complete, the limits are much lower, because the server is not yet known.
//!
//! Source: PostgreSQL documentation, "Message Formats".

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Maximum length in bytes of a field of an error or a notice. A job stores the error, and a log
/// line contains it.
const FIELD: usize = 8 * 1024;
/// Maximum number of fields of an error or a notice. PostgreSQL sends fewer than 20.
const FIELDS: usize = 32;
/// Maximum length, in bytes, of a notification or of a message that reports a setting.
const REPORT: usize = 64 * 1024;
/// The server reports the values of settings. At most this number of reports is passed to the
/// driver. The driver stores these reports, but the daemon does not use them.
const REPORTS: usize = 200;
/// Until the login is complete: maximum length in bytes of one message, and of all messages
/// together.
const LOGIN_MESSAGE: usize = 64 * 1024;
const LOGIN: usize = 1024 * 1024;
/// Maximum length in bytes of one message, and of all rows of one answer.
const MESSAGE: usize = 16 * 1024 * 1024;
const ANSWER: usize = 64 * 1024 * 1024;

const CLIPPED: &str = "... (clipped)";

/// Reads the messages of one connection.
#[derive(Debug, Default)]
pub struct Frames {
    step: Step,
    /// Whether the login is complete.
    is_in: bool,
    /// Until the login is complete, the number of bytes in all messages. After that, the number of
    /// bytes in the rows of the current answer.
    total: usize,
    reports: usize,
}

#[derive(Debug)]
enum Step {
    /// Reads the tag and the length of the next message.
    Header { read: [u8; 5], len: usize },
    /// Passes on the rest of a message.
    Pass { left: usize },
    /// Reads the fields of an error or a notice.
    Fields { tag: u8, left: usize, fields: Fields },
    /// Reads a notification, or a message that reports the value of a setting.
    Report { tag: u8, left: usize, body: Vec<u8> },
}

impl Default for Step {
    fn default() -> Self {
        Self::Header { read: [0; 5], len: 0 }
    }
}

/// The fields that were read so far. Each field is a byte for its kind and a text that ends with a
/// zero byte.
#[derive(Debug, Default)]
struct Fields {
    done: Vec<(u8, Vec<u8>)>,
    current: Option<(u8, Vec<u8>)>,
    is_clipped: bool,
}

impl Fields {
    fn read(&mut self, byte: u8) {
        match &mut self.current {
            None if byte == 0 => {}
            None => self.current = Some((byte, Vec::new())),
            Some(_) if byte == 0 => {
                let field = self.current.take();
                if std::mem::take(&mut self.is_clipped)
                    && let Some((kind, text)) = field
                {
                    self.add(kind, clipped(&text));
                } else if let Some((kind, text)) = field {
                    self.add(kind, String::from_utf8_lossy(&text).into_owned().into_bytes());
                }
            }
            Some((_, text)) if text.len() < FIELD => text.push(byte),
            Some(_) => self.is_clipped = true,
        }
    }

    fn add(&mut self, kind: u8, text: Vec<u8>) {
        if self.done.len() < FIELDS {
            self.done.push((kind, text));
        }
    }

    fn write(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for (kind, text) in &self.done {
            body.push(*kind);
            body.extend_from_slice(text);
            body.push(0);
        }
        body.push(0);
        body
    }
}

/// Returns the text, followed by a mark which shows that the text was clipped. If the last
/// character of the text is incomplete, this character is left out.
fn clipped(text: &[u8]) -> Vec<u8> {
    let whole = match std::str::from_utf8(text) {
        Err(error) if error.error_len().is_none() => text.get(..error.valid_up_to()).unwrap_or_default(),
        _ => text,
    };
    let mut text = String::from_utf8_lossy(whole).into_owned();
    text.push_str(CLIPPED);
    text.into_bytes()
}

fn too_long(what: &str, length: usize, limit: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the server sent {what} of {length} bytes; the limit is {limit}"),
    )
}

impl Frames {
    /// Reads bytes from the server, and appends to `out` what the driver may read.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] if a message is longer than its limit, or has an impossible
    /// length.
    pub fn read(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        while let Some((&first, rest)) = bytes.split_first() {
            match &mut self.step {
                Step::Header { read, len } => {
                    if let Some(place) = read.get_mut(*len) {
                        *place = first;
                    }
                    *len += 1;
                    bytes = rest;
                    if *len == 5 {
                        let read = *read;
                        self.begin(read, out)?;
                    }
                }
                Step::Pass { left } => {
                    let (now, later) = bytes.split_at((*left).min(bytes.len()));
                    out.extend_from_slice(now);
                    *left -= now.len();
                    bytes = later;
                }
                Step::Fields { left, fields, .. } => {
                    fields.read(first);
                    *left -= 1;
                    bytes = rest;
                }
                Step::Report { left, body, .. } => {
                    body.push(first);
                    *left -= 1;
                    bytes = rest;
                }
            }
            self.end(out);
        }
        Ok(())
    }

    /// Begins a message.
    fn begin(&mut self, header: [u8; 5], out: &mut Vec<u8>) -> io::Result<()> {
        let [tag, length @ ..] = header;
        let length = u32::from_be_bytes(length) as usize;
        let Some(left) = length.checked_sub(4) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the server sent a message with an impossible length",
            ));
        };
        // An error or a notice is clipped, so its length needs no limit.
        if matches!(tag, b'E' | b'N') {
            self.step = Step::Fields { tag, left, fields: Fields::default() };
            return Ok(());
        }
        if !self.is_in {
            self.total += left;
            if left > LOGIN_MESSAGE || self.total > LOGIN {
                return Err(too_long("a login-phase message", self.total, LOGIN_MESSAGE));
            }
        }
        if left > MESSAGE {
            return Err(too_long("a message", left, MESSAGE));
        }
        match tag {
            b'A' | b'S' if left > REPORT => {
                return Err(too_long("a notification or parameter status message", left, REPORT));
            }
            b'A' | b'S' => {
                self.step = Step::Report { tag, left, body: Vec::new() };
                return Ok(());
            }
            b'D' if self.is_in => {
                self.total += left;
                if self.total > ANSWER {
                    return Err(too_long("an answer", self.total, ANSWER));
                }
            }
            // The server is ready for the next statement.
            b'Z' => (self.is_in, self.total) = (true, 0),
            _ => {}
        }
        out.extend_from_slice(&header);
        self.step = Step::Pass { left };
        Ok(())
    }

    /// Finishes the current message if all of it has been read.
    fn end(&mut self, out: &mut Vec<u8>) {
        let is_read = match &self.step {
            Step::Header { .. } => false,
            Step::Pass { left } | Step::Fields { left, .. } | Step::Report { left, .. } => *left == 0,
        };
        if !is_read {
            return;
        }
        let (tag, body) = match std::mem::take(&mut self.step) {
            // Discard the notice. The driver would keep all notices in memory until the login is
            // complete.
            Step::Fields { tag: b'N', .. } if !self.is_in => return,
            Step::Fields { tag, fields, .. } => (tag, fields.write()),
            Step::Report { tag: b'S', .. } if self.reports >= REPORTS => return,
            Step::Report { tag, body, .. } => {
                self.reports += usize::from(tag == b'S');
                // A notification begins with the process ID of its sender.
                let (number, text) = body.split_at(if tag == b'A' { body.len().min(4) } else { 0 });
                (tag, [number, String::from_utf8_lossy(text).as_bytes()].concat())
            }
            Step::Header { .. } | Step::Pass { .. } => return,
        };
        out.push(tag);
        out.extend_from_slice(&u32::try_from(body.len() + 4).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(&body);
    }
}

/// A connection whose messages pass through [`Frames`].
#[derive(Debug)]
pub struct Framed<S> {
    inner: S,
    frames: Frames,
    ready: Vec<u8>,
    /// Number of bytes of `ready` that were passed on.
    passed: usize,
}

impl<S> Framed<S> {
    pub fn new(inner: S) -> Self {
        Self { inner, frames: Frames::default(), ready: Vec::new(), passed: 0 }
    }

    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Framed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.passed == this.ready.len() {
            this.ready.clear();
            this.passed = 0;
            let mut bytes = [0; 8 * 1024];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.inner).poll_read(context, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.frames.read(read.filled(), &mut this.ready)?;
        }
        let rest = this.ready.get(this.passed..).unwrap_or_default();
        let now = rest.get(..rest.len().min(buffer.remaining())).unwrap_or_default();
        buffer.put_slice(now);
        this.passed += now.len();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Framed<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[tag], &length[..], body].concat()
    }

    fn through(frames: &mut Frames, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        frames.read(bytes, &mut out).map(|()| out)
    }

    fn logged_in() -> Frames {
        let mut frames = Frames::default();
        through(&mut frames, &message(b'Z', b"I")).unwrap();
        frames
    }

    #[test]
    fn a_long_error_keeps_its_fields_and_loses_the_rest_of_its_text() {
        let long = "x".repeat(30 * 1024 * 1024);
        let body = [b"SERROR\0M", long.as_bytes(), b"\0CP0001\0Hdo this\0\0"].concat();
        let out = through(&mut logged_in(), &message(b'E', &body)).unwrap();
        let expected =
            [b"SERROR\0M", "x".repeat(FIELD).as_bytes(), CLIPPED.as_bytes(), b"\0CP0001\0Hdo this\0\0"].concat();
        assert_eq!(out, message(b'E', &expected));
    }

    #[test]
    fn a_text_in_another_encoding_becomes_valid_utf_8() {
        let out = through(&mut logged_in(), &message(b'E', b"SERROR\0Mcaf\xe9\0\0")).unwrap();
        assert_eq!(out, message(b'E', "SERROR\0Mcaf\u{fffd}\0\0".as_bytes()));
        let out = through(&mut logged_in(), &message(b'S', b"client_encoding\0\xff\0")).unwrap();
        assert_eq!(out, message(b'S', "client_encoding\0\u{fffd}\0".as_bytes()));
    }

    #[test]
    fn other_messages_pass_unchanged_up_to_their_limit() {
        let row = message(b'D', &[7; 100]);
        assert_eq!(through(&mut logged_in(), &row).unwrap(), row);
        let [a, b, c, d] = u32::try_from(MESSAGE + 5).unwrap().to_be_bytes();
        assert!(through(&mut logged_in(), &[b'D', a, b, c, d]).is_err());
        assert!(through(&mut Frames::default(), &message(b'R', &[0; LOGIN_MESSAGE + 1])).is_err(), "before the login");
        assert!(through(&mut logged_in(), b"D\0\0\0\x03").is_err(), "an impossible length");
        let mut frames = logged_in();
        let rows = (0..).take_while(|_| through(&mut frames, &message(b'D', &vec![0; 1 << 20])).is_ok()).count();
        assert_eq!(rows, ANSWER >> 20, "rows of one answer");
    }

    #[test]
    fn the_rows_of_an_answer_count_until_the_server_is_ready() {
        let mut frames = logged_in();
        let rows = [message(b'D', &vec![0; 1 << 20]), message(b'C', b"SELECT 1\0")].concat();
        let read = (0..).take_while(|_| through(&mut frames, &rows).is_ok()).count();
        assert_eq!(read, ANSWER >> 20);
    }

    #[test]
    fn notices_before_the_end_of_the_login_are_dropped() {
        let notice = message(b'N', b"SNOTICE\0Mhello\0\0");
        assert!(through(&mut Frames::default(), &notice).unwrap().is_empty());
        assert_eq!(through(&mut logged_in(), &notice).unwrap(), notice);
    }

    #[test]
    fn the_driver_stores_a_limited_number_of_settings() {
        let mut frames = logged_in();
        let passed = (0..1_000)
            .filter(|n| !through(&mut frames, &message(b'S', format!("a{n}\0b\0").as_bytes())).unwrap().is_empty());
        assert_eq!(passed.count(), REPORTS);
    }

    proptest! {
        #[test]
        fn the_result_does_not_depend_on_how_the_bytes_arrive(
            messages in prop::collection::vec((prop::sample::select(b"EANSDCZTR1".to_vec()), prop::collection::vec(any::<u8>(), 0..60)), 0..20),
            pieces in prop::collection::vec(1_usize..40, 1..40),
        ) {
            let bytes: Vec<u8> = messages.iter().flat_map(|(tag, body)| message(*tag, body)).collect();
            let whole = through(&mut Frames::default(), &bytes).unwrap();
            let (mut frames, mut out, mut rest) = (Frames::default(), Vec::new(), bytes.as_slice());
            for piece in pieces.iter().cycle() {
                if rest.is_empty() { break; }
                let (now, later) = rest.split_at((*piece).min(rest.len()));
                frames.read(now, &mut out).unwrap();
                rest = later;
            }
            prop_assert_eq!(out, whole);
        }

        #[test]
        fn no_bytes_make_the_reader_panic_or_keep_much(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
            let (mut frames, mut out) = (Frames::default(), Vec::new());
            let _ = frames.read(&bytes, &mut out);
            prop_assert!(out.len() <= 3 * bytes.len() + 8);
        }
    }
}
