//! Text assignment: pre-training for statements about two images (paper section 5, spec `losses`
//! 6).

use burn::tensor::{Tensor, activation};

use super::classify::label_cross_entropy;
use super::negatives::sample_negatives;
use crate::error::{Error, Result};
use crate::model::{AssignmentModel, DropoutRng, TokenBatch};
use crate::params::to_vec;

/// The temperature of the image-to-image similarities, fixed by the official code.
pub const TEMPERATURE: f64 = 0.07;

/// Uniform draws of one text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AssignmentDraw {
    /// Above one third: the own image and another one. Else two others.
    pub other: f64,
    /// Above one half: the own image first.
    pub order: f64,
    /// Which other images, by the inverse of the cumulative weights.
    pub index: [f64; 2],
    /// The other images, if they are given.
    pub given: Option<[usize; 2]>,
}

/// What a step computes.
#[derive(Clone, Debug)]
pub struct AssignmentStep {
    /// Mean cross-entropy `[1]`.
    pub loss: Tensor<1>,
    /// Logits `[B, 3]`.
    pub logits: Tensor<2>,
    /// 0 first image, 1 second, 2 neither.
    pub labels: Vec<usize>,
    /// Weights of the draws `[B, B]`, zero on the diagonal.
    pub weights: Vec<f32>,
}

/// The forward pass of images `[B, 3, S, S]` (untracked) with a caption each.
///
/// # Errors
/// If there are fewer than three images, or the batch does not fit the model.
pub fn forward(
    model: &AssignmentModel,
    images: &Tensor<4>,
    texts: &TokenBatch,
    draw: impl Fn(usize) -> AssignmentDraw,
    dropout: &mut DropoutRng,
) -> Result<AssignmentStep> {
    let n = texts.len();
    if n < 3 {
        return Err(Error::Config(format!(
            "text assignment chooses among the images of a batch and needs 3 or more, not {n}"
        )));
    }
    let (states, feat) = model.encode_images(Tensor::from_inner(images.clone()))?;
    let feat = feat.inner();
    let sims = feat.clone().matmul(feat.transpose()) / TEMPERATURE;
    let mut weights = to_vec(activation::softmax(sims.clone(), 1));
    (0..n).for_each(|i| weights[i * n + i] = 0.0);
    let logits = to_vec(sims);
    let pick = |skip: &[usize], row: usize, u: f64| {
        let rows = &logits[row * n..(row + 1) * n];
        let found = sample_negatives(rows, n, |_, j| j != row && !skip.contains(&j), |_| u);
        found.first().copied().flatten().unwrap_or(row)
    };
    let mut pairs = Vec::with_capacity(n);
    let mut labels = Vec::with_capacity(n);
    for row in 0..n {
        let d = draw(row);
        let first = d.given.map_or_else(|| pick(&[], row, d.index[0]), |g| g[0]);
        let second = || d.given.map_or_else(|| pick(&[first], row, d.index[1]), |g| g[1]);
        let (pair, label) = if d.other <= 1.0 / 3.0 {
            ([first, second()], 2)
        } else if d.order > 0.5 {
            ([row, first], 0)
        } else {
            ([first, row], 1)
        };
        pairs.push(pair);
        labels.push(label);
    }
    let logits = model.logits(&states, &pairs, texts, dropout)?;
    let loss = label_cross_entropy(activation::log_softmax(logits.clone(), 1), &labels);
    Ok(AssignmentStep { loss, logits, labels, weights })
}
