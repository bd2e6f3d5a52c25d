//! The job options on the command line: `--options '{"slices": 2}'`, or `--option slices=2 --option
//! verify=none`. The server, not the command line, checks the names and the values.

use clap::Args;
use serde_json::{Map, Value};

use crate::error::{Error, Kind, Result};

#[derive(Debug, Args)]
pub struct OptionArgs {
    /// Job option, for example slices=2; may be repeated
    #[arg(long = "option", value_name = "NAME=VALUE", value_parser = parse)]
    option: Vec<(String, Value)>,
    /// Job options as a JSON object; --option takes precedence
    #[arg(long, value_name = "JSON", value_parser = parse_object)]
    options: Option<Map<String, Value>>,
}

impl OptionArgs {
    pub fn is_empty(&self) -> bool {
        self.option.is_empty() && self.options.is_none()
    }

    /// Merges `--options` with each `--option`. An `--option` takes precedence.
    ///
    /// # Errors
    /// [`Kind::Usage`] if an `--option` is given twice.
    pub fn merged(&self) -> Result<Value> {
        let mut merged = self.options.clone().unwrap_or_default();
        let mut seen = Vec::new();
        for (name, value) in &self.option {
            if seen.contains(&name) {
                return Err(
                    Error::new(Kind::Usage, format!("--option {name} is given twice")).hint("Give each option once.")
                );
            }
            merged.insert(name.clone(), value.clone());
            seen.push(name);
        }
        Ok(Value::Object(merged))
    }
}

/// Splits `NAME=VALUE`. The value is JSON if it parses as JSON, for example a number, null or an
/// object. Otherwise the value is plain text.
fn parse(text: &str) -> Result<(String, Value), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            let value = value.trim();
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
            Ok((name.trim().to_owned(), value))
        }
        _ => Err("write NAME=VALUE, for example slices=2".to_owned()),
    }
}

fn parse_object(text: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("not a JSON object; for example: {\"slices\": 2}".to_owned()),
        Err(error) => Err(format!("not valid JSON ({error}); for example: {{\"slices\": 2}}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_value_is_read_as_json_if_possible_and_as_text_otherwise() {
        for (text, value) in [
            ("slices=2", json!(2)),
            ("verify=none", json!("none")),
            ("max_rows_per_second = 0.5", json!(0.5)),
            ("max_rows_per_second=null", json!(null)),
            ("deadline=2027-01-31 06:00+00", json!("2027-01-31 06:00+00")),
            ("window={\"open\": \"0 22 * * *\", \"hours\": 6}", json!({"open": "0 22 * * *", "hours": 6})),
            ("x=a=b", json!("a=b")),
        ] {
            assert_eq!(parse(text).unwrap().1, value, "{text}");
        }
        assert!(parse("slices").is_err() && parse("=2").is_err());
    }

    #[test]
    fn single_options_take_precedence_over_the_object() {
        let args = OptionArgs {
            option: vec![parse("slices=2").unwrap()],
            options: Some(parse_object("{\"slices\": 1, \"verify\": \"none\"}").unwrap()),
        };
        assert_eq!(args.merged().unwrap(), json!({"slices": 2, "verify": "none"}));
    }

    #[test]
    fn the_same_option_twice_is_refused() {
        let args = OptionArgs { option: vec![parse("slices=2").unwrap(), parse("slices=3").unwrap()], options: None };
        assert_eq!(args.merged().unwrap_err().kind, Kind::Usage);
    }

    #[test]
    fn options_must_be_an_object() {
        assert!(parse_object("[1]").is_err() && parse_object("{slices: 2}").is_err());
    }
}
