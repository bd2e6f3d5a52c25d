//! A user-defined signal that runs an instant query on a Prometheus server. The query must return
//! one number.

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
    /// Path and query of the request.
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
            // Prometheus also returns a body of this form with status 4xx. The body then contains
            // the reason.
            let value = number(&body).map_err(|failure| {
                Error::new(Kind::Data, format!("{} ({}): {failure}", self.endpoint.place(), status.as_u16()))
            })?;
            Ok(Sample { source: self.name.clone(), value, limit: None, says: None })
        })
    }
}

/// Response of Prometheus. The format is documented at
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
    let answer: Answer = serde_json::from_slice(body)
        .map_err(|_| "the response is not from the Prometheus HTTP API; check the url of the signal".to_owned())?;
    if answer.status != "success" {
        return Err(answer.error.unwrap_or_else(|| format!("the status is {}", answer.status)));
    }
    let Some(data) = answer.data else { return Err("the response has no data".to_owned()) };
    // A sample consists of its time and its value. The value is text.
    let sample = match (data.kind.as_str(), data.result.as_array().map(Vec::as_slice)) {
        ("scalar", Some([_, value])) => value,
        ("vector", Some([only])) => &only["value"][1],
        ("vector", Some([])) => {
            return Err("the query returned no sample; check the name and labels of the metric".to_owned());
        }
        ("vector", Some(series)) => {
            return Err(format!(
                "the query returns {} series; reduce them to one, for example with max()",
                series.len()
            ));
        }
        (kind, _) => return Err(format!("the query returns a {kind}; it must return one number")),
    };
    let value = sample.as_str().and_then(|text| text.parse::<f64>().ok()).ok_or("the query returned no number")?;
    if value.is_finite() { Ok(value) } else { Err(format!("the query returned {value}")) }
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
            ("{\"resultType\":\"vector\",\"result\":[]}", "returned no sample"),
            (
                "{\"resultType\":\"vector\",\"result\":[{\"value\":[1,\"1\"]},{\"value\":[1,\"2\"]}]}",
                "returns 2 series",
            ),
            ("{\"resultType\":\"scalar\",\"result\":[1,\"NaN\"]}", "returned NaN"),
            ("{\"resultType\":\"scalar\",\"result\":[1,\"+Inf\"]}", "returned inf"),
            ("{\"resultType\":\"matrix\",\"result\":[]}", "a matrix"),
            ("null", "no data"),
        ] {
            let got = answer(data).unwrap_err();
            assert!(got.contains(failure), "{got}");
        }
        assert_eq!(number(b"{\"status\":\"error\",\"error\":\"parse error\"}"), Err("parse error".to_owned()));
        assert_eq!(
            number(b"<html>"),
            Err("the response is not from the Prometheus HTTP API; check the url of the signal".to_owned())
        );
    }
}
