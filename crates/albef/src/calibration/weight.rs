//! How much the matching head counts in the order of a search.

use std::collections::BTreeMap;

use albef_report::{Sum, cluster_interval};
use serde::Serialize;

use super::SEED;
use super::candidates::Searched;
use crate::eval::retrieval::Score;

/// Weights that are tried, beside 0: powers of two.
const POWERS: std::ops::RangeInclusive<i32> = -6..=3;

/// R@1 of the texts at a weight.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct WeightRecall {
    /// The weight of the log-odds of a match, beside the cosine over the temperature.
    pub weight: f32,
    /// Texts whose best image is right, in percent.
    pub recall: f64,
    /// Its interval.
    pub interval: (f64, f64),
}

/// The weight of the matching head in [`Score::Posterior`] with the highest R@1; of several, the one nearest to 1.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WeightCalibration {
    /// The best weight.
    pub best: WeightRecall,
    /// R@1 where the weight is chosen on one half of the images and measured on the other.
    pub held_out_recall: f64,
    /// Its interval.
    pub held_out_interval: (f64, f64),
    /// Without a weight, as in `evaluate retrieval --score posterior`.
    pub at_one: WeightRecall,
    /// By the cosine alone.
    pub cosine: WeightRecall,
    /// All weights that were tried.
    pub tried: Vec<WeightRecall>,
}

impl WeightCalibration {
    pub(super) fn new(texts: &[Searched], temperature: f32, resamples: usize) -> Self {
        let mut clusters: BTreeMap<u32, Vec<&Searched>> = BTreeMap::new();
        for text in texts {
            clusters.entry(text.cluster).or_default().push(text);
        }
        let clusters: Vec<Vec<&Searched>> = clusters.into_values().collect();
        let mut weights = vec![0.0];
        weights.extend(POWERS.map(|power| 2.0_f32.powi(power)));
        // Hits in percent and texts, by weight and cluster.
        let sums: Vec<Vec<Sum>> = weights
            .iter()
            .map(|weight| {
                let hits = |texts: &Vec<&Searched>| {
                    let hits = texts.iter().filter(|text| is_hit(text, *weight, temperature));
                    (100.0 * hits.count() as f64, texts.len() as f64)
                };
                clusters.iter().map(hits).collect()
            })
            .collect();
        let tried: Vec<WeightRecall> = weights
            .iter()
            .zip(&sums)
            .map(|(weight, sums)| WeightRecall {
                weight: *weight,
                recall: mean(sums.iter()),
                interval: cluster_interval(std::slice::from_ref(sums), resamples, SEED),
            })
            .collect();
        let all: Vec<usize> = (0..clusters.len()).collect();
        let half = |odd: usize| (0..clusters.len()).filter(|c| c % 2 == odd).collect::<Vec<_>>();
        let by_other = [best(&weights, &sums, &half(1)), best(&weights, &sums, &half(0))];
        let held_out: Vec<Sum> = all.iter().map(|c| sums[by_other[c % 2]][*c]).collect();
        let one = weights.iter().position(|w| *w == 1.0).unwrap_or_default();
        Self {
            best: tried[best(&weights, &sums, &all)],
            held_out_recall: mean(held_out.iter()),
            held_out_interval: cluster_interval(&[held_out], resamples, SEED),
            at_one: tried[one],
            cosine: tried[0],
            tried,
        }
    }
}

fn mean<'a>(sums: impl Iterator<Item = &'a Sum>) -> f64 {
    let (hits, texts) = sums.fold((0.0, 0.0), |a, s| (a.0 + s.0, a.1 + s.1));
    if texts > 0.0 { hits / texts } else { 0.0 }
}

/// The number of the weight with the highest recall on some clusters; of several, the one nearest to 1.
fn best(weights: &[f32], sums: &[Vec<Sum>], on: &[usize]) -> usize {
    let recall: Vec<f64> = sums.iter().map(|s| mean(on.iter().map(|c| &s[*c]))).collect();
    let most = recall.iter().copied().fold(f64::MIN, f64::max);
    let off = |at: &usize| if weights[*at] > 0.0 { weights[*at].log2().abs() } else { f32::MAX };
    (0..weights.len())
        .filter(|at| recall[*at] >= most - 1e-9)
        .min_by(|a, b| off(a).total_cmp(&off(b)))
        .unwrap_or_default()
}

/// Whether the best candidate at a weight is right.
fn is_hit(text: &Searched, weight: f32, temperature: f32) -> bool {
    let score = |c: &super::candidates::Candidate| {
        Score::Posterior.weighted(weight, c.logits, temperature, || c.cosine)
    };
    let first = text
        .present
        .iter()
        .max_by(|a, b| score(a).total_cmp(&score(b)).then(a.cosine.total_cmp(&b.cosine)));
    first.is_some_and(|c| c.positive)
}

#[cfg(test)]
mod tests {
    use super::super::candidates::Candidate;
    use super::*;

    fn candidate(cosine: f32, odds: f32, positive: bool) -> Candidate {
        Candidate { image: 0, cosine, logits: [0.0, odds], positive }
    }

    fn texts(of: impl Fn(u32) -> [Candidate; 2]) -> Vec<Searched> {
        let text = |i| Searched { cluster: i, present: of(i).to_vec(), absent: Vec::new() };
        (0..20).map(text).collect()
    }

    #[test]
    fn the_weight_with_the_best_order_is_found() {
        // The head is right in half of the texts and wrong by 10 in the others, where the cosine is right by 1.
        let found = WeightCalibration::new(
            &texts(|i| match i % 4 < 2 {
                true => [candidate(0.1, 40.0, true), candidate(0.2, -40.0, false)],
                false => [candidate(0.2, -5.0, true), candidate(0.1, 5.0, false)],
            }),
            0.1,
            100,
        );
        // The cosines differ by 1 over the temperature: any weight from 1/80 to 1/10 is right about all.
        assert_eq!((found.best.weight, found.best.recall), (0.0625, 100.0), "{found:?}");
        assert_eq!((found.cosine.recall, found.at_one.recall), (50.0, 50.0));
        assert_eq!(found.held_out_recall, 100.0);
        // Where the weight does not matter it stays.
        let all = texts(|_| [candidate(0.2, 1.0, true), candidate(0.1, 0.0, false)]);
        assert_eq!(WeightCalibration::new(&all, 0.1, 100).best.weight, 1.0);
    }
}
