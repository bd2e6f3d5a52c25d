//! The token that guards every page except metrics and probes. A script sends it as a bearer token.
//! In a browser the user enters the token as the password, because a browser cannot prompt for a
//! bearer token.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::error::{Error, Kind, Result};

pub struct Token(Vec<u8>);

impl Token {
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(|error| {
            Error::new(Kind::Config, format!("could not read http.token_file {}: {error}", path.display()))
        })?;
        let token = text.trim();
        if token.is_empty() {
            return Err(Error::new(Kind::Config, format!("http.token_file {} is empty", path.display()))
                .hint("Write a long random token to the file, for example with `openssl rand -hex 32`."));
        }
        Ok(Self(token.as_bytes().to_vec()))
    }

    /// Returns whether the value of an Authorization header contains this token.
    pub fn is_borne_by(&self, header: Option<&str>) -> bool {
        let Some((scheme, given)) = header.and_then(|value| value.split_once(' ')) else { return false };
        let given = given.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return same(&self.0, given.as_bytes());
        }
        let Ok(basic) = BASE64.decode(given) else { return false };
        let Some(colon) = basic.iter().position(|byte| *byte == b':') else { return false };
        // The user name may be any text.
        scheme.eq_ignore_ascii_case("basic") && same(&self.0, &basic[colon + 1..])
    }
}

/// Compares two values in a time that depends only on their lengths. A comparison that stops at the
/// first difference would reveal how many bytes of a guess are right.
fn same(token: &[u8], given: &[u8]) -> bool {
    let differing = token.iter().zip(given).fold(0, |sum, (a, b)| std::hint::black_box(sum | (a ^ b)));
    token.len() == given.len() && differing == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_accepted() {
        let token = Token(b"s3cret".to_vec());
        assert!(token.is_borne_by(Some("Bearer s3cret")) && token.is_borne_by(Some("bearer s3cret")));
        for wrong in [None, Some(""), Some("Bearer"), Some("Bearer "), Some("Bearer s3cre"), Some("Bearer s3crets")] {
            assert!(!token.is_borne_by(wrong), "{wrong:?}");
        }
        for (user, password) in [("", "s3cret"), ("anyone", "s3cret")] {
            let basic = format!("Basic {}", BASE64.encode(format!("{user}:{password}")));
            assert!(token.is_borne_by(Some(&basic)), "{basic}");
        }
        for wrong in ["s3cret", "s3cret:", "a:S3cret", "a:s3cret:", "a:b:s3cret", ":"] {
            let basic = format!("Basic {}", BASE64.encode(wrong));
            assert!(!token.is_borne_by(Some(&basic)), "{wrong}");
        }
        assert!(!token.is_borne_by(Some(&format!("Digest {}", BASE64.encode("a:s3cret")))));
        assert!(!token.is_borne_by(Some("Basic s3cret")) && !token.is_borne_by(Some("Bearer S3cret")));
    }
}
