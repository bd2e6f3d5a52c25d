//! Repeated measurements of one value.

use std::fmt;

/// The measured values in ascending order. Displayed as the median, with the lowest and the highest
/// value.
#[derive(Debug, Default)]
pub struct Sample(Vec<f64>);

impl Sample {
    pub fn add(&mut self, value: f64) {
        let place = self.0.partition_point(|other| *other < value);
        self.0.insert(place, value);
    }

    pub fn median(&self) -> f64 {
        let (low, high) = ((self.0.len() - 1) / 2, self.0.len() / 2);
        f64::midpoint(self.0[low], self.0[high])
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        let (low, high) = (self.0[0], self.0[self.0.len() - 1]);
        write!(f, "{:.digits$} ({low:.digits$} to {high:.digits$})", self.median())
    }
}
