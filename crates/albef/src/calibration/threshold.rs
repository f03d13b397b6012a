//! The probability under which nothing matches.

use std::collections::BTreeMap;

use albef_report::{Cut, Sum, cluster_interval, roc_area, statistic_interval};
use serde::Serialize;

use super::SEED;
use super::candidates::{Candidate, Searched};
use crate::error::{Error, Result};

/// The best match probability of a search, with the right image in the gallery and without it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quartiles {
    /// A quarter of the texts have less.
    pub lower: f64,
    /// Half of the texts have less.
    pub median: f64,
    /// A quarter of the texts have more.
    pub upper: f64,
}

/// How well the best match probability tells whether what is looked for is there.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ThresholdCalibration {
    /// The threshold with the best balanced accuracy, and its errors as shares.
    pub cut: Cut,
    /// Interval of the threshold.
    pub threshold_interval: (f64, f64),
    /// Area under the ROC curve: 0.5 by chance.
    pub area: f64,
    /// Interval of the area.
    pub area_interval: (f64, f64),
    /// Balanced accuracy of the threshold, in percent: 50 by chance.
    pub balanced_accuracy: f64,
    /// The same where the threshold is chosen on one half of the images and measured on the other.
    pub held_out_accuracy: f64,
    /// Interval of the latter.
    pub held_out_interval: (f64, f64),
    /// Best match probabilities with the right image in the gallery.
    pub present: Quartiles,
    /// Best match probabilities without it.
    pub absent: Quartiles,
}

impl ThresholdCalibration {
    /// Whether the threshold is better than chance, beyond its interval.
    #[must_use]
    pub fn is_useful(&self) -> bool {
        self.held_out_interval.0 > 50.0
    }

    pub(super) fn new(texts: &[Searched], resamples: usize) -> Result<Self> {
        let best = |list: &[Candidate]| {
            list.iter().map(Candidate::probability).fold(f64::NEG_INFINITY, f64::max)
        };
        let pairs: Vec<(u32, f64, f64)> =
            texts.iter().map(|t| (t.cluster, best(&t.present), best(&t.absent))).collect();
        let mut clusters: BTreeMap<u32, Vec<(f64, f64)>> = BTreeMap::new();
        for (cluster, present, absent) in &pairs {
            clusters.entry(*cluster).or_default().push((*present, *absent));
        }
        let clusters: Vec<Vec<(f64, f64)>> = clusters.into_values().collect();
        let whole: Vec<usize> = (0..clusters.len()).collect();
        let split = |drawn: &[usize]| -> (Vec<f64>, Vec<f64>) {
            drawn.iter().flat_map(|c| clusters[*c].iter().copied()).unzip()
        };
        let (present, absent) = split(&whole);
        let cut = Cut::best(&present, &absent)
            .ok_or(Error::OutputNotFinite { what: "match probabilities" })?;
        let area = |drawn: &[usize]| {
            let (present, absent) = split(drawn);
            roc_area(&present, &absent)
        };
        let threshold = |drawn: &[usize]| {
            let (present, absent) = split(drawn);
            Cut::best(&present, &absent).map_or(f64::NAN, |cut| cut.threshold)
        };
        let held_out = held_out(&clusters, threshold);
        let sum = |sums: &[Sum]| sums.iter().fold((0.0, 0.0), |a, s| (a.0 + s.0, a.1 + s.1));
        let (right, all) = sum(&held_out);
        Ok(Self {
            threshold_interval: statistic_interval(clusters.len(), resamples, SEED, threshold),
            area: roc_area(&present, &absent),
            area_interval: statistic_interval(clusters.len(), resamples, SEED, area),
            balanced_accuracy: 100.0 * cut.balanced_accuracy(),
            held_out_accuracy: right / all,
            held_out_interval: cluster_interval(&[held_out], resamples, SEED),
            cut,
            present: quartiles(present),
            absent: quartiles(absent),
        })
    }
}

/// Percent of right answers and the number of texts of each cluster, by the threshold of the other half.
fn held_out(clusters: &[Vec<(f64, f64)>], threshold: impl Fn(&[usize]) -> f64) -> Vec<Sum> {
    let half = |odd: usize| (0..clusters.len()).filter(|c| c % 2 == odd).collect::<Vec<_>>();
    let by_other = [threshold(&half(1)), threshold(&half(0))];
    let judged = |(c, texts): (usize, &Vec<(f64, f64)>)| {
        let t = by_other[c % 2];
        let right = |(present, absent): &(f64, f64)| {
            50.0 * (f64::from(*present >= t) + f64::from(*absent < t))
        };
        (texts.iter().map(right).sum(), texts.len() as f64)
    };
    clusters.iter().enumerate().map(judged).collect()
}

fn quartiles(mut values: Vec<f64>) -> Quartiles {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
    Quartiles { lower: at(0.25), median: at(0.5), upper: at(0.75) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A search whose best probability is `p` with the right image and `q` without.
    fn searched(cluster: u32, p: f64, q: f64) -> Searched {
        let of = |p: f64, positive| Candidate {
            image: 0,
            cosine: 0.0,
            logits: [0.0, (p / (1.0 - p)).ln() as f32],
            positive,
        };
        Searched {
            cluster,
            present: vec![of(p / 2.0, false), of(p, true)],
            absent: vec![of(q, false), of(q / 2.0, false)],
        }
    }

    #[test]
    fn searches_that_are_apart_are_told_apart() {
        let texts: Vec<Searched> =
            (0..40).map(|i| searched(i, 0.8 + 0.004 * f64::from(i % 20), 0.2)).collect();
        let found = ThresholdCalibration::new(&texts, 200).unwrap();
        assert_eq!(
            (found.area, found.balanced_accuracy, found.held_out_accuracy),
            (1.0, 100.0, 100.0)
        );
        assert!((found.cut.threshold - 0.5).abs() < 0.01, "{found:?}");
        assert_eq!((found.cut.missed, found.cut.false_alarms), (0.0, 0.0));
        assert!(found.is_useful());
        assert!((found.absent.median - 0.2).abs() < 1e-6 && found.present.lower > 0.79);
    }

    #[test]
    fn without_a_difference_the_held_out_accuracy_is_that_of_chance() {
        let texts: Vec<Searched> = (0..400)
            .map(|i| {
                let p = f64::from((i * 37) % 100 + 1) / 102.0;
                searched(i, p, f64::from((i * 61 + 50) % 100 + 1) / 102.0)
            })
            .collect();
        let found = ThresholdCalibration::new(&texts, 200).unwrap();
        assert!((found.area - 0.5).abs() < 0.05, "{found:?}");
        let (low, high) = found.held_out_interval;
        assert!(low < 50.0 + 3.0 && high > 50.0 - 3.0, "{found:?}");
        assert!(found.held_out_accuracy <= found.balanced_accuracy, "{found:?}");
        assert_eq!(found.is_useful(), low > 50.0);
    }
}
