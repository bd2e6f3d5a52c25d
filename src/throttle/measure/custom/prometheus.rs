//! The user's own signal: an instant query of Prometheus that gives one number.

use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::Value;

use crate::config::signal::{PrometheusQuery, SignalRule};
use crate::error::{Error, Kind, Result};
use crate::throttle::measure::custom::fetch::{Endpoint, percent_encoded};
use crate::throttle::measure::poll::{PollElsewhere, Sample};

pub struct Query {
    name: String,
    endpoint: Endpoint,
    /// The request's path and query.
    path: String,
}

impl Query {
    pub fn new(rule: &SignalRule, query: &PrometheusQuery) -> Self {
        let prefix = query.url.expose().path().trim_end_matches('/');
        let path = format!("{prefix}/api/v1/query?query={}", percent_encoded(&query.query));
        Self { name: rule.name.clone(), endpoint: Endpoint::new(rule, &query.url), path }
    }
}

impl PollElsewhere for Query {
    fn poll(&mut self) -> BoxFuture<'_, Result<Sample>> {
        Box::pin(async move {
            let (status, body) = self.endpoint.get(Some(&self.path)).await?;
            // Prometheus answers 4xx with the reason in the same form.
            let value = number(&body).map_err(|failure| {
                Error::new(Kind::Data, format!("{} ({}): {failure}", self.endpoint.place(), status.as_u16()))
            })?;
            Ok(Sample { source: self.name.clone(), value, limit: None, says: None })
        })
    }
}

/// Source of the form:
/// <https://prometheus.io/docs/prometheus/latest/querying/api/#instant-queries>.
#[derive(Deserialize)]
struct Answer {
    status: String,
    error: Option<String>,
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    #[serde(rename = "resultType")]
    kind: String,
    result: Value,
}

fn number(body: &[u8]) -> Result<f64, String> {
    let answer: Answer = serde_json::from_slice(body).map_err(|_| "no answer of Prometheus".to_owned())?;
    if answer.status != "success" {
        return Err(answer.error.unwrap_or_else(|| format!("its status is {}", answer.status)));
    }
    let Some(data) = answer.data else { return Err("it has no data".to_owned()) };
    // A sample is its time, and its value as text.
    let sample = match (data.kind.as_str(), data.result.as_array().map(Vec::as_slice)) {
        ("scalar", Some([_, value])) => value,
        ("vector", Some([only])) => &only["value"][1],
        ("vector", Some([])) => return Err("the query gives nothing: has the metric another name?".to_owned()),
        ("vector", Some(series)) => {
            return Err(format!("the query gives {} series: make one of them, with max()", series.len()));
        }
        (kind, _) => return Err(format!("the query gives a {kind}: it must give one number, now")),
    };
    let value = sample.as_str().and_then(|text| text.parse::<f64>().ok()).ok_or("the query gives no number")?;
    if value.is_finite() { Ok(value) } else { Err(format!("the query gives {value}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_is_taken_and_nothing_else() {
        let answer = |data: &str| number(format!("{{\"status\":\"success\",\"data\":{data}}}").as_bytes());
        assert_eq!(
            answer("{\"resultType\":\"vector\",\"result\":[{\"metric\":{\"a\":\"b\"},\"value\":[1.5,\"2.5\"]}]}"),
            Ok(2.5)
        );
        assert_eq!(answer("{\"resultType\":\"scalar\",\"result\":[1,\"3\"]}"), Ok(3.0));
        for (data, failure) in [
            ("{\"resultType\":\"vector\",\"result\":[]}", "gives nothing"),
            ("{\"resultType\":\"vector\",\"result\":[{\"value\":[1,\"1\"]},{\"value\":[1,\"2\"]}]}", "gives 2 series"),
            ("{\"resultType\":\"scalar\",\"result\":[1,\"NaN\"]}", "gives NaN"),
            ("{\"resultType\":\"scalar\",\"result\":[1,\"+Inf\"]}", "gives inf"),
            ("{\"resultType\":\"matrix\",\"result\":[]}", "a matrix"),
            ("null", "no data"),
        ] {
            let got = answer(data).unwrap_err();
            assert!(got.contains(failure), "{got}");
        }
        assert_eq!(number(b"{\"status\":\"error\",\"error\":\"parse error\"}"), Err("parse error".to_owned()));
        assert_eq!(number(b"<html>"), Err("no answer of Prometheus".to_owned()));
    }
}
