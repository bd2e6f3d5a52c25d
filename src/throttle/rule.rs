//! Which replicas count, and how far each may fall behind.

/// Limits for the replicas that it matches; of several rules the first that matches counts.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplicaRule {
    /// Glob (`*`, `?`) on the standby's `application_name`.
    pub match_: String,
    /// Glob on its `client_addr`, without a netmask. A standby on a Unix socket has none, which only `*` matches.
    pub address: Option<String>,
    /// Its lag does not matter.
    pub ignore: bool,
    pub max_lag_seconds: f64,
    pub max_lag_bytes: u64,
    /// No work without it: holds while no replica matches, and for as long as one that was seen is gone.
    pub required: bool,
}

impl Default for ReplicaRule {
    fn default() -> Self {
        Self {
            match_: "*".to_owned(),
            address: None,
            ignore: false,
            max_lag_seconds: 1.0,
            max_lag_bytes: 64 << 20,
            required: false,
        }
    }
}

impl ReplicaRule {
    pub fn matches(&self, application_name: &str, client_addr: Option<&str>) -> bool {
        glob(&self.match_, application_name)
            && self.address.as_deref().is_none_or(|pattern| glob(pattern, client_addr.unwrap_or_default()))
    }
}

/// `*` is any run of characters, `?` any one; all else is literal.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where to go on if the characters after the last star don't fit: the star takes one more.
    let mut retry = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                p += 1;
                retry = Some((p, t));
            }
            Some(&c) if c == '?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match retry {
                Some((after_star, taken)) => {
                    p = after_star;
                    t = taken + 1;
                    retry = Some((after_star, taken + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn globs_match_whole_names() {
        for (pattern, text, want) in [
            ("*", "", true),
            ("*", "anything", true),
            ("eu-*", "eu-1", true),
            ("eu-*", "us-eu-1", false),
            ("eu-?", "eu-12", false),
            ("*a*b", "xaxxbab", true),
            ("*a*b", "xaxxba", false),
            ("s1", "s1", true),
            ("s1", "s11", false),
            ("", "x", false),
        ] {
            assert_eq!(glob(pattern, text), want, "{pattern} on {text}");
        }
    }

    #[test]
    fn an_address_pattern_needs_an_address() {
        let rule = ReplicaRule { address: Some("10.1.*".to_owned()), ..ReplicaRule::default() };
        assert!(rule.matches("s1", Some("10.1.2.3")));
        assert!(!rule.matches("s1", Some("10.2.2.3")));
        assert!(!rule.matches("s1", None));
    }

    proptest! {
        #[test]
        fn a_text_matches_itself_and_with_any_part_starred(text in "[ab]{0,8}", from in 0usize..9, to in 0usize..9) {
            let from = from.min(text.len());
            let to = to.clamp(from, text.len());
            prop_assert!(glob(&text, &text));
            let starred = format!("{}*{}", &text[..from], &text[to..]);
            prop_assert!(glob(&starred, &text));
        }
    }
}
