//! Momentum distillation (paper section 3.3): the soft part of a loss, over which axis it is taken,
//! and what a loss is made of, for logs.

use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

use super::Metric;
use super::labels::gather_labels;
use crate::fault::{Fault, injected};
use crate::params::to_vec;

/// Over what the soft part of masked words and answers normalises the online model (quirk Q1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DistillAxis {
    /// The words of the vocabulary.
    #[default]
    Vocabulary,
    /// The positions of a text, padding included, as the official code did before March 2022.
    Sequence,
}

/// What a distilled loss `(1 - alpha) hard + alpha soft` is made of, untracked.
#[derive(Clone, Debug)]
pub struct DistillTerms<const N: usize> {
    /// Cross-entropy with the labels.
    pub hard: Tensor<N>,
    /// Cross-entropy with the teacher's distribution.
    pub soft: Tensor<N>,
    /// `KL(teacher || online)`, the soft part less the teacher's entropy; `None` where the soft part is
    /// no cross-entropy of distributions.
    pub kl: Option<Tensor<N>>,
}

impl<const N: usize> DistillTerms<N> {
    /// The same of other numbers, part by part.
    pub fn map<const M: usize>(self, f: impl Fn(Tensor<N>) -> Tensor<M>) -> DistillTerms<M> {
        DistillTerms { hard: f(self.hard), soft: f(self.soft), kl: self.kl.map(f) }
    }
}

impl DistillTerms<1> {
    /// The mean of two, part by part.
    #[must_use]
    pub fn mean_with(self, other: Self) -> Self {
        let mean = |a: Tensor<1>, b: Tensor<1>| (a + b) / 2.0;
        Self {
            hard: mean(self.hard, other.hard),
            soft: mean(self.soft, other.soft),
            kl: self.kl.zip(other.kl).map(|(a, b)| mean(a, b)),
        }
    }

    /// The parts `[1]` under the given names.
    #[must_use]
    pub fn named(self, [hard, soft, kl]: [&'static str; 3]) -> Vec<Metric> {
        let number = |t: Tensor<1>| f64::from(to_vec(t)[0]);
        let mut parts = vec![(hard, number(self.hard)), (soft, number(self.soft))];
        parts.extend(self.kl.map(|t| (kl, number(t))));
        parts
    }
}

/// A loss row by row, and what it is made of where a teacher takes part.
#[derive(Clone, Debug)]
pub struct Distilled {
    /// `[rows]`.
    pub loss: Tensor<1>,
    /// Each `[rows]`.
    pub terms: Option<DistillTerms<1>>,
}

impl Distilled {
    /// The means over rows, each `[1]`.
    #[must_use]
    pub fn mean(self) -> Self {
        Self { loss: self.loss.mean(), terms: self.terms.map(|t| t.map(Tensor::mean)) }
    }
}

/// Entropy of each row of `q = softmax(logits)`, `[rows]`. At the largest entry `j` of a row
/// `log sum exp = logits[j] - log q[j]`, so that no second exponentiation is needed.
#[must_use]
pub fn entropy(q: Tensor<2>, logits: Tensor<2>) -> Tensor<1> {
    let rows = q.dims()[0];
    let total = logits.clone().max_dim(1) - q.clone().max_dim(1).log();
    (total - (q * logits).sum_dim(1)).reshape([rows])
}

/// `log softmax` over the positions of each text: `logits` `[B L, V]` are those of `B` texts of equal
/// length `L`.
#[must_use]
pub fn log_softmax_over_positions(logits: Tensor<2>, texts: usize) -> Tensor<2> {
    let [rows, words] = logits.dims();
    let by_text: Tensor<3> = logits.reshape([texts, rows / texts.max(1), words]);
    activation::log_softmax(by_text, 1).reshape([rows, words])
}

/// Per row: `(1 - alpha)` cross-entropy with the label plus `alpha` cross-entropy with the soft-max of
/// the teacher's logits, which are untracked. Without a teacher `alpha` plays no part. `other` stands
/// for the online log-probabilities in the soft part ([`DistillAxis::Sequence`]).
#[must_use]
pub fn distilled(
    logits: Tensor<2>,
    teacher: Option<Tensor<2>>,
    other: Option<Tensor<2>>,
    labels: &[usize],
    alpha: f64,
) -> Distilled {
    let rows = labels.len();
    let log_p = activation::log_softmax(logits, 1);
    let hard = gather_labels(log_p.clone(), labels).neg();
    let Some(teacher) = teacher.filter(|_| alpha > 0.0) else {
        return Distilled { loss: hard, terms: None };
    };
    let q = activation::softmax(teacher.clone(), 1);
    let is_distribution = other.is_none();
    let soft = (other.unwrap_or(log_p) * Tensor::from_inner(q.clone())).sum_dim(1);
    let soft = soft.reshape([rows]).neg();
    let plain = soft.clone().inner();
    let kl = is_distribution.then(|| plain.clone() - entropy(q, teacher));
    let terms = DistillTerms { hard: hard.clone().inner(), soft: plain, kl };
    let alpha = if injected(Fault::HardLabelsOnly) { 0.0 } else { alpha };
    Distilled { loss: hard * (1.0 - alpha) + soft * alpha, terms: Some(terms) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::{cpu, from_vec};

    fn wave(n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|i| ((i * i) as f32 * 0.37).sin() * scale).collect()
    }

    fn log_softmax(row: &[f32]) -> Vec<f64> {
        let top = row.iter().fold(f64::MIN, |m, v| m.max(f64::from(*v)));
        let sum: f64 = row.iter().map(|v| (f64::from(*v) - top).exp()).sum();
        row.iter().map(|v| f64::from(*v) - top - sum.ln()).collect()
    }

    #[test]
    fn the_parts_make_up_the_loss_and_the_divergence_is_that_of_the_distributions() {
        let (device, labels) = (cpu(), [3, 0, 4]);
        // The middle row of the teacher is sure of a word, the others are not.
        let online = wave(15, 3.0);
        let teacher = [wave(5, 2.0), wave(5, 30.0), wave(5, 1.0)].concat();
        let rows = |v: &[f32]| -> Tensor<2> { from_vec(v.to_vec(), [3, 5], &device) };
        let logits = Tensor::from_inner(rows(&online));
        let alpha = 0.3;
        let out = distilled(logits.clone(), Some(rows(&teacher)), None, &labels, alpha);
        let terms = out.terms.unwrap();
        let [loss, hard, soft, kl] =
            [out.loss.inner(), terms.hard, terms.soft, terms.kl.unwrap()].map(to_vec);
        for r in 0..3 {
            let (p, q) = (log_softmax(&online[r * 5..][..5]), log_softmax(&teacher[r * 5..][..5]));
            let want = [
                -p[labels[r]],
                -(0..5).map(|j| q[j].exp() * p[j]).sum::<f64>(),
                (0..5).map(|j| q[j].exp() * (q[j] - p[j])).sum(),
            ];
            for (got, want) in [hard[r], soft[r], kl[r]].into_iter().zip(want) {
                assert!((f64::from(got) - want).abs() < 1e-5, "row {r}: {got} instead of {want}");
            }
            let whole = (1.0 - alpha) * want[0] + alpha * want[1];
            assert!((f64::from(loss[r]) - whole).abs() < 1e-5);
        }
        for (alpha, teacher) in [(0.0, Some(rows(&teacher))), (alpha, None)] {
            let out = distilled(logits.clone(), teacher, None, &labels, alpha);
            assert!(out.terms.is_none());
            assert_eq!(to_vec(out.loss.inner()), hard);
        }
    }

    #[test]
    fn over_positions_each_word_is_normalised_along_its_text() {
        let (texts, length, words) = (2, 3, 4);
        let given = wave(texts * length * words, 2.0);
        let at = |t: usize, l: usize, w: usize| (t * length + l) * words + w;
        let rows = from_vec(given.clone(), [texts * length, words], &cpu());
        let got = to_vec(log_softmax_over_positions(rows, texts));
        for t in 0..texts {
            for w in 0..words {
                let column: Vec<f32> = (0..length).map(|l| given[at(t, l, w)]).collect();
                for (l, want) in log_softmax(&column).into_iter().enumerate() {
                    assert!((f64::from(got[at(t, l, w)]) - want).abs() < 1e-6);
                }
            }
        }
    }
}
