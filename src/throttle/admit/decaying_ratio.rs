//! Computes the ratio of two sums in which older samples have less weight. Row rates, and the
//! number of scanned rows for each changed row, are smoothed in this way.

#[derive(Debug, Clone)]
pub struct DecayingRatio {
    /// Before a sample is added, each sum is multiplied by this factor.
    kept: f64,
    numerator: f64,
    denominator: f64,
}

impl DecayingRatio {
    pub fn new(kept: f64) -> Self {
        Self { kept, numerator: 0.0, denominator: 0.0 }
    }

    pub fn add(&mut self, numerator: f64, denominator: f64) {
        self.numerator = self.numerator * self.kept + numerator;
        self.denominator = self.denominator * self.kept + denominator;
    }

    /// Returns the ratio, with a denominator of at least `least`. Returns none if this denominator
    /// is 0.
    pub fn ratio(&self, least: f64) -> Option<f64> {
        let denominator = self.denominator.max(least);
        (denominator > 0.0).then(|| self.numerator / denominator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_sample_counts_more_than_old_ones() {
        let mut ratio = DecayingRatio::new(0.5);
        assert_eq!((ratio.ratio(0.0), ratio.ratio(1.0)), (None, Some(0.0)));
        for _ in 0..60 {
            ratio.add(10.0, 1.0);
        }
        assert!((ratio.ratio(0.0).unwrap() - 10.0).abs() < 1e-9);
        ratio.add(30.0, 1.0);
        assert!((ratio.ratio(0.0).unwrap() - 20.0).abs() < 1e-9, "the last sample has half of the weight");
    }
}
