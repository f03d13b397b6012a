//! Image-text matching with hard negatives (ITM; paper section 3.2, equation 4).
//!
//! Letters: `B` batch, `Q` queue length, `M` pairs to tell apart: the `B` true ones first, then up to
//! `B` texts with a negative image and `B` images with a negative text.

use burn::tensor::Tensor;

use super::labels::{label_accuracy, label_cross_entropy};
use super::negatives::sample_negatives;
use super::rng::{NegativeDraws, StepRng};
use crate::fault::{Fault, injected};
use crate::params::to_vec;

/// The negatives of a batch. A row that no candidate is left for has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Negatives {
    /// For each text, an image.
    pub images: Vec<Option<usize>>,
    /// For each image, a text.
    pub texts: Vec<Option<usize>>,
}

impl Negatives {
    /// Draws a negative for each text and each image by the similarities `[B, B + Q]` of image to text
    /// and text to image, within the batch: with probability `softmax(sims * sharpness)` over the rows
    /// that `allowed` admits; without `sharpness` all of these are equally likely. Nothing gets a
    /// gradient.
    #[must_use]
    pub fn draw(
        sims: &[Tensor<2>; 2],
        sharpness: Option<f64>,
        allowed: impl Fn(usize, usize) -> bool,
        rng: &StepRng,
    ) -> Self {
        let [i2t, t2i] = sims;
        let side = |sims: &Tensor<2>, draws: NegativeDraws<'_>| match draws {
            NegativeDraws::Given(given) => given.iter().copied().map(Some).collect(),
            NegativeDraws::Seeded(seed) => {
                let batch = sims.dims()[0];
                let logits = match sharpness {
                    Some(factor) => to_vec(sims.clone().inner().narrow(1, 0, batch) * factor),
                    None => vec![0.0; batch * batch],
                };
                let uniform = |row| f64::from(albef_kernels::uniform(seed, row as u64));
                sample_negatives(&logits, batch, &allowed, uniform)
            }
        };
        let images = side(t2i, rng.negative_images());
        let texts = side(i2t, rng.negative_texts());
        if injected(Fault::NegativesOfWrongSide) {
            return Self { images: texts, texts: images };
        }
        Self { images, texts }
    }

    /// The pairs (text, image) to tell apart, `M` in all: rows without a negative are left out.
    #[must_use]
    pub fn pairs(&self) -> Vec<(usize, usize)> {
        let mut pairs: Vec<(usize, usize)> = (0..self.images.len()).map(|b| (b, b)).collect();
        pairs.extend(self.images.iter().enumerate().filter_map(|(b, j)| j.map(|j| (b, j))));
        pairs.extend(self.texts.iter().enumerate().filter_map(|(b, k)| k.map(|k| (k, b))));
        pairs
    }

    /// Texts and images without a negative.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.images.iter().chain(&self.texts).filter(|negative| negative.is_none()).count()
    }
}

/// The labels of `pairs` pairs, of which the first `batch` are true: 1 for those, else 0.
#[must_use]
pub fn labels(batch: usize, pairs: usize) -> Vec<usize> {
    let matches = |i| (i < batch) != injected(Fault::MatchingLabelsOfNegatives);
    (0..pairs).map(|i| usize::from(matches(i))).collect()
}

/// The mean cross-entropy `[1]` of logits `[M, 2]` with the labels (paper equation 4). Gradients flow
/// into the logits, so into image and text states also where they are negatives.
#[must_use]
pub fn loss(logits: Tensor<2>, labels: &[usize]) -> Tensor<1> {
    label_cross_entropy(logits, labels)
}

/// The share of pairs that logits `[M, 2]` tell right; `None` without pairs.
#[must_use]
pub fn accuracy(logits: &Tensor<2>, labels: &[usize]) -> Option<f64> {
    label_accuracy(logits.clone().inner(), labels)
}
