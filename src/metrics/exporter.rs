//! Builds the Prometheus exporter's recorder, with the buckets of each histogram and the help text
//! of each metric.

use std::time::Duration;

use metrics::Recorder;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use metrics_util::MetricKindMask;

use super::names::{BATCH_DURATION, BATCH_ROWS, HELP, VICTIM_WAIT};

/// Buckets of the duration of a batch. The default target is 10 ms on an otherwise idle server, so
/// the buckets are finest around this value.
const BATCH_SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
/// Histogram buckets for the number of rows that a batch changed. The default of `max_batch_rows`
/// is 5000.
const ROWS: &[f64] = &[1.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0, 50_000.0];
/// Buckets for the time that a batch blocked a session before the batch was cancelled. The default
/// of `max_victim_wait_ms` is 50.
const WAIT_SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5];

fn describe(recorder: &impl Recorder) {
    for &(name, unit, help) in HELP {
        // The exporter keeps the descriptions of gauges, counters and histograms in one table. It
        // prints a description only if the metric exists.
        recorder.describe_gauge(name.into(), Some(unit), help.into());
    }
}

pub(super) fn new_recorder(idle: Option<Duration>) -> PrometheusRecorder {
    use metrics_exporter_prometheus::Matcher::Full;
    let with_buckets = |builder: PrometheusBuilder, name: &str, buckets: &[f64]| {
        builder.set_buckets_for_metric(Full(name.to_owned()), buckets)
    };
    let recorder = with_buckets(PrometheusBuilder::new(), BATCH_DURATION, BATCH_SECONDS)
        .and_then(|builder| with_buckets(builder, BATCH_ROWS, ROWS))
        .and_then(|builder| with_buckets(builder, VICTIM_WAIT, WAIT_SECONDS))
        .expect("bucket lists are not empty")
        .idle_timeout(MetricKindMask::COUNTER, idle)
        .build_recorder();
    describe(&recorder);
    recorder
}
