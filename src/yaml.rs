//! Parses YAML. The YAML library is no longer maintained, so only this module uses it.

use serde::de::DeserializeOwned;

use crate::error::{Error, Kind, Result};

/// Parses one YAML document. `origin` is the name of the document in error messages, for example
/// the path of the file. If the position of an error is known, the message begins with
/// `origin:line:column`, or with `origin:line` for brackets that are nested too deeply. Editors
/// accept both as a position. An empty document counts as an empty mapping.
pub fn parse<T: DeserializeOwned>(text: &str, origin: &str) -> Result<T> {
    let text = if is_empty(text) { "{}" } else { text };
    if let Some(line) = nested_deeply(text) {
        return Err(Error::new(
            Kind::Config,
            format!("{origin}:{line}: brackets are nested deeper than {DEEPEST} levels"),
        ));
    }
    serde_yaml::from_str(text).map_err(|error| {
        let mut message = without_urls(&error.to_string());
        let place = match error.location() {
            Some(at) => {
                // The parser repeats the position at the end of its message.
                let suffix = format!(" at line {} column {}", at.line(), at.column());
                if let Some(at) = message.rfind(&suffix) {
                    message.replace_range(at..at + suffix.len(), "");
                }
                format!("{origin}:{}:{}", at.line(), at.column())
            }
            None => origin.to_owned(),
        };
        Error::new(Kind::Config, format!("{place}: {message}"))
    })
}

/// Maximum depth of brackets. The time that the parser takes grows with the square of the depth,
/// and no configuration needs brackets as deep as this.
const DEEPEST: u32 = 50;

/// Returns the line at which brackets are nested too deeply. Brackets within quotes count too,
/// because no quoted value needs so many nested brackets.
fn nested_deeply(text: &str) -> Option<usize> {
    let mut depth: u32 = 0;
    for (line, content) in text.lines().enumerate() {
        for byte in content.bytes() {
            match byte {
                b'[' | b'{' => depth += 1,
                b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > DEEPEST {
                return Some(line + 1);
            }
        }
    }
    None
}

fn is_empty(text: &str) -> bool {
    text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#') || line == "---")
}

/// If an error message contains a URL or `password=`, removes all text that may contain the
/// password. The parser quotes the invalid value or key, which may be a URL in the wrong place. The
/// list of expected keys is kept, because it contains only names of keys.
fn without_urls(message: &str) -> String {
    let lower = message.to_ascii_lowercase();
    let assigns =
        lower.match_indices("password").any(|(at, word)| lower[at + word.len()..].trim_start().starts_with('='));
    if !assigns && !lower.contains("://") {
        return message.to_owned();
    }
    let Some(opens) = message.find(['"', '`']) else { return "(not shown)".to_owned() };
    let expected = message.rfind(", expected").map_or("", |at| &message[at..]);
    format!("{}(not shown){expected}", &message[..opens])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn an_error_names_file_line_and_column() {
        let error = parse::<BTreeMap<String, u32>>("a: 1\nb: two\n", "x.yaml").unwrap_err();
        assert_eq!(error.kind, Kind::Config);
        assert!(error.message.starts_with("x.yaml:2:4: "), "{}", error.message);
        assert!(!error.message.contains(" at line "), "{}", error.message);
    }

    #[test]
    fn a_url_in_the_wrong_place_is_not_shown() {
        for value in ["postgres://o:hunter2@db/app", "host=db password=hunter2", "postgres://o:hun\"ter2@db"] {
            let text = format!("a: '{value}'\n");
            let error = parse::<BTreeMap<String, u32>>(&text, "x.yaml").unwrap_err();
            assert!(!error.message.contains("ter2") && error.message.contains("expected u32"), "{}", error.message);
        }
    }

    #[test]
    fn a_url_where_a_key_should_be_is_not_shown() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            #[serde(rename = "log")]
            _log: Option<Log>,
        }
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Log {
            #[serde(rename = "level")]
            _level: Option<String>,
        }

        for text in
            ["postgres://o:hunter2@db: 1", "'host=db password = hunter2': 1", "log: {'postgres://o:hunter2@db': 1}"]
        {
            let error = parse::<File>(text, "x.yaml").unwrap_err();
            assert!(!error.message.contains("hunter2") && error.message.contains("expected"), "{}", error.message);
        }
    }

    #[test]
    fn brackets_without_end_are_refused_before_they_are_parsed() {
        for bracket in ["[", "{", "[{"] {
            let text = format!("a: 1\nb: {}", bracket.repeat(100_000));
            let error = parse::<BTreeMap<String, u32>>(&text, "x.yaml").unwrap_err();
            assert_eq!(error.message, "x.yaml:2: brackets are nested deeper than 50 levels");
        }
        assert!(parse::<Vec<Vec<u32>>>(&"- [1]\n".repeat(1000), "x.yaml").is_ok());
    }

    #[test]
    fn a_syntax_error_has_a_position_too() {
        let error = parse::<BTreeMap<String, u32>>("a: [1\n", "x.yaml").unwrap_err();
        assert!(error.message.starts_with("x.yaml:"), "{}", error.message);
    }

    #[test]
    fn a_file_of_comments_is_an_empty_mapping() {
        assert!(parse::<BTreeMap<String, u32>>("# nothing\n\n---\n", "x.yaml").unwrap().is_empty());
        assert!(parse::<BTreeMap<String, u32>>("", "x.yaml").unwrap().is_empty());
    }
}
