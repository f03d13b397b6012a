//! Telling two groups of values apart by a threshold: area under the ROC curve, the best threshold, and its errors.

use serde::Serialize;

/// A threshold with its errors. Values of the positive group should be at or above it, those of the negative group
/// below.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cut {
    /// The threshold.
    pub threshold: f64,
    /// Share of the positive values that are below, 0 to 1.
    pub missed: f64,
    /// Share of the negative values that are not below, 0 to 1.
    pub false_alarms: f64,
}

impl Cut {
    /// A threshold at hand. NaN where a group is empty.
    #[must_use]
    pub fn at(threshold: f64, positive: &[f64], negative: &[f64]) -> Self {
        let below = |values: &[f64]| {
            values.iter().filter(|v| **v < threshold).count() as f64 / values.len() as f64
        };
        Self { threshold, missed: below(positive), false_alarms: 1.0 - below(negative) }
    }

    /// The threshold with the best balanced accuracy, half-way between two values; with several, the one in the
    /// widest gap. `None` if a group is empty or a value is NaN.
    ///
    /// ```
    /// use albef_report::Cut;
    ///
    /// let cut = Cut::best(&[0.75, 0.9, 0.9], &[0.1, 0.25, 0.8]).unwrap();
    /// assert_eq!((cut.threshold, cut.missed), (0.5, 0.0));
    /// assert!((cut.balanced_accuracy() - 5.0 / 6.0).abs() < 1e-12);
    /// ```
    #[must_use]
    pub fn best(positive: &[f64], negative: &[f64]) -> Option<Self> {
        let all = sorted(positive, negative)?;
        let (p, n) = (positive.len() as f64, negative.len() as f64);
        let (mut missed, mut rejected) = (0.0, 0.0);
        // Whatever the value, it is accepted.
        let mut best = (0.5, 0.0, Self { threshold: all[0].0, missed: 0.0, false_alarms: 1.0 });
        for pair in all.windows(2) {
            let [(value, is_positive), (next, _)] = [pair[0], pair[1]];
            match is_positive {
                true => missed += 1.0,
                false => rejected += 1.0,
            }
            let gap = next - value;
            if gap <= 0.0 {
                continue;
            }
            let cut = Self {
                threshold: value + gap / 2.0,
                missed: missed / p,
                false_alarms: 1.0 - rejected / n,
            };
            let balanced = cut.balanced_accuracy();
            let equal = (balanced - best.0).abs() < 1e-12;
            if balanced > best.0 && !equal || equal && gap > best.1 {
                best = (balanced, gap, cut);
            }
        }
        Some(best.2)
    }

    /// The mean of the shares that are on the right side of each group.
    #[must_use]
    pub fn balanced_accuracy(&self) -> f64 {
        1.0 - (self.missed + self.false_alarms) / 2.0
    }
}

/// The area under the ROC curve: how probably a positive value is above a negative one, equal ones counting half.
/// NaN if a group is empty or a value is NaN.
#[must_use]
pub fn roc_area(positive: &[f64], negative: &[f64]) -> f64 {
    let Some(all) = sorted(positive, negative) else { return f64::NAN };
    let (mut below, mut area) = (0.0, 0.0);
    for equal in all.chunk_by(|a, b| a.0 == b.0) {
        let positives = equal.iter().filter(|v| v.1).count() as f64;
        let negatives = equal.len() as f64 - positives;
        area += positives * (below + negatives / 2.0);
        below += negatives;
    }
    area / (positive.len() as f64 * negative.len() as f64)
}

/// All values with their group, rising.
fn sorted(positive: &[f64], negative: &[f64]) -> Option<Vec<(f64, bool)>> {
    let mut all: Vec<(f64, bool)> = positive.iter().map(|v| (*v, true)).collect();
    all.extend(negative.iter().map(|v| (*v, false)));
    if positive.is_empty() || negative.is_empty() || all.iter().any(|v| v.0.is_nan()) {
        return None;
    }
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    Some(all)
}

#[cfg(test)]
mod tests {
    use albef_random::SplitMix64;

    use super::*;

    fn draws(n: usize, seed: u64, shift: f64) -> Vec<f64> {
        let mut draws = SplitMix64::new(seed);
        // Few different values, so that many are equal.
        (0..n).map(|_| (draws.next_u64() % 12) as f64 / 12.0 + shift).collect()
    }

    #[test]
    fn area_and_threshold_are_those_of_trying_everything() {
        for seed in 0..30 {
            let (positive, negative) = (draws(17, seed, 0.25), draws(23, seed + 100, 0.0));
            let mut wins = 0.0;
            for p in &positive {
                for n in &negative {
                    wins += if p > n { 1.0 } else { 0.5 * f64::from(p == n) };
                }
            }
            let area = roc_area(&positive, &negative);
            assert!((area - wins / (17.0 * 23.0)).abs() < 1e-12, "{seed}");
            let best = Cut::best(&positive, &negative).unwrap();
            let tried = positive.iter().chain(&negative);
            let most = tried
                .map(|t| Cut::at(*t, &positive, &negative).balanced_accuracy())
                .fold(0.5, f64::max);
            assert!((best.balanced_accuracy() - most).abs() < 1e-12, "{seed}");
            let again = Cut::at(best.threshold, &positive, &negative);
            assert!((again.missed - best.missed).abs() < 1e-12, "{seed}");
            assert!((again.false_alarms - best.false_alarms).abs() < 1e-12, "{seed}");
        }
    }

    #[test]
    fn groups_that_are_apart_or_empty_or_the_wrong_way_round() {
        let cut = Cut::best(&[0.8, 0.9], &[0.1, 0.2]).unwrap();
        assert_eq!((cut.threshold, cut.missed, cut.false_alarms), (0.5, 0.0, 0.0));
        assert_eq!(roc_area(&[0.8, 0.9], &[0.1, 0.2]), 1.0);
        assert_eq!(roc_area(&[0.1], &[0.1]), 0.5);
        // No threshold is better than none: everything is accepted.
        let cut = Cut::best(&[0.1, 0.2], &[0.8, 0.9]).unwrap();
        assert_eq!((cut.missed, cut.false_alarms), (0.0, 1.0));
        assert!(Cut::best(&[], &[0.1]).is_none() && Cut::best(&[f64::NAN], &[0.1]).is_none());
        assert!(roc_area(&[0.1], &[]).is_nan());
    }
}
