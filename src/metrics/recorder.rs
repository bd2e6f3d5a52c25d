//! Routes each counter and histogram to the recorder that stores it, and replaces the job's name if
//! too many jobs have their own series.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::PrometheusRecorder;
use tokio::time::Instant;

use super::exporter::new_recorder;
use super::footprint::{Footprints, Part};
use super::gauges::JobGauges;
use super::job_label::{JobLabels, OTHERS};

const JOB_NAME: &str = "job_name";

/// The global recorder. It sends the series of jobs to a recorder that drops idle series, and all
/// other series to a recorder that never drops a series. As an exception, the counters of each
/// [`Part`] go to `footprints`.
pub(super) struct Split {
    pub of_jobs: PrometheusRecorder,
    pub lasting: PrometheusRecorder,
    labels: Mutex<JobLabels>,
    pub footprints: Arc<Footprints>,
}

impl Split {
    pub fn new(idle: Duration) -> Self {
        Self {
            of_jobs: new_recorder(Some(idle)),
            lasting: new_recorder(None),
            labels: Mutex::new(JobLabels::new(JobGauges::MOST, idle)),
            footprints: Arc::default(),
        }
    }

    /// Returns the recorder that stores the series, and the key of the series in this recorder.
    fn place<'a>(&self, key: &'a Key) -> (&PrometheusRecorder, Cow<'a, Key>) {
        match (label(key, "database"), label(key, JOB_NAME)) {
            (Some(database), Some(job_name)) => {
                let mut labels = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
                let has_its_own = labels.has_its_own(database, job_name, Instant::now());
                (&self.of_jobs, if has_its_own { Cow::Borrowed(key) } else { Cow::Owned(of_others(key)) })
            }
            _ => (&self.lasting, Cow::Borrowed(key)),
        }
    }
}

fn label<'a>(key: &'a Key, name: &str) -> Option<&'a str> {
    key.labels().find(|label| label.key() == name).map(Label::value)
}

fn of_others(key: &Key) -> Key {
    let shared = |label: &Label| if label.key() == JOB_NAME { Label::new(JOB_NAME, OTHERS) } else { label.clone() };
    Key::from_parts(key.name().to_owned(), key.labels().map(shared).collect::<Vec<_>>())
}

impl Recorder for Split {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        if let Some(part) = Part::read(key.name()) {
            let (database, job_name) = (label(key, "database"), label(key, JOB_NAME));
            return self.footprints.counter(part, database.unwrap_or_default(), job_name.unwrap_or_default());
        }
        let (recorder, key) = self.place(key);
        recorder.register_counter(&key, metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        let (recorder, key) = self.place(key);
        recorder.register_gauge(&key, metadata)
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        let (recorder, key) = self.place(key);
        recorder.register_histogram(&key, metadata)
    }
}
