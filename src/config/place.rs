//! The host and the port of a server.

/// Reads `host` or `host:port`. An IPv6 address is in brackets, and a path names the directory of a
/// Unix socket. Returns the host without brackets, and the port (default: 5432). Returns none if
/// the text has another form.
pub fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port.parse().ok()?),
        _ => (text, 5432),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let is_name = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || "/@,[]".contains(c));
    (port > 0 && (host.starts_with('/') || is_name)).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_may_have_a_port() {
        for (text, read) in [
            ("replica1", Some(("replica1", 5432))),
            ("replica1:5433", Some(("replica1", 5433))),
            ("10.0.0.5:5433", Some(("10.0.0.5", 5433))),
            ("[::1]:5433", Some(("::1", 5433))),
            ("::1", Some(("::1", 5432))),
            ("/run/postgresql:5433", Some(("/run/postgresql", 5433))),
            ("", None),
            ("replica1:", None),
            ("replica1:0", None),
            ("replica1:70000", None),
            ("postgres://replica1/app", None),
            ("replica1,replica2", None),
            ("replica 1", None),
        ] {
            assert_eq!(host_and_port(text), read, "{text}");
        }
    }
}
