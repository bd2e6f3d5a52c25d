//! A user-defined signal that runs an HTTP check. Status 2xx lets jobs run and status 429 holds
//! them, as in freno. Any other status is a failure.

use futures_util::future::BoxFuture;
use hyper::StatusCode;

use crate::config::signal::{HttpUrl, SignalRule};
use crate::error::{Error, Kind, Result};
use crate::throttle::measure::custom::fetch::Endpoint;
use crate::throttle::measure::poll::{PollElsewhere, Sample};

pub struct Check {
    name: String,
    endpoint: Endpoint,
}

impl Check {
    pub fn new(rule: &SignalRule, url: &HttpUrl) -> Self {
        Self { name: rule.name.clone(), endpoint: Endpoint::new(rule, url) }
    }
}

impl PollElsewhere for Check {
    fn poll(&mut self) -> BoxFuture<'_, Result<Sample>> {
        Box::pin(async move {
            let (status, _body) = self.endpoint.get(None).await?;
            let source = self.name.clone();
            let (value, says) = if status.is_success() {
                (0.0, None)
            } else if status == StatusCode::TOO_MANY_REQUESTS {
                (1.0, Some(format!("signal {source} holds jobs: {} returned status 429", self.endpoint.place())))
            } else {
                let said = format!("{} returned status {}", self.endpoint.place(), status.as_u16());
                return Err(Error::new(Kind::Data, said)
                    .hint("Make the URL return status 2xx to let jobs run, or 429 to hold them. With any other status, the signal cannot be read."));
            };
            Ok(Sample { source, value, limit: None, says })
        })
    }
}
