//! Text assignment: pre-training for natural language for visual reasoning (paper section 5).
//!
//! Letters: `B` pairs, `E` joint width.

use albef_data::dataset::Batch;
use burn::tensor::{Tensor, activation};

use super::labels::label_cross_entropy;
use super::negatives::sample_negatives;
use super::rng::AssignmentDraw;
use super::{Forward, Losses, Objective, StepContext};
use crate::error::{Error, Result};
use crate::fault::{Fault, injected};
use crate::model::{AssignmentModel, Weights};
use crate::params::to_vec;

/// The temperature of the image-to-image similarities, fixed by the official code.
pub const TEMPERATURE: f64 = 0.07;

/// Which of two images a text belongs to, or neither. There is no momentum model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TextAssignmentObjective {
    /// Dropout of text and fusion layers.
    pub dropout: f32,
}

/// The intermediates of a forward pass.
#[derive(Clone, Debug)]
pub struct TextAssignmentTrace {
    /// Logits `[B, 3]`.
    pub logits: Tensor<2>,
    /// 0 first image, 1 second, 2 neither.
    pub labels: Vec<usize>,
    /// Weights of the draws `[B, B]`, zero on the diagonal.
    pub weights: Vec<f32>,
}

/// The images of each text and the label, by the similarities `[B, B]` of images with images.
fn assign(
    sims: &[f32],
    draw: impl Fn(usize) -> Option<AssignmentDraw>,
    n: usize,
) -> Option<(Vec<[usize; 2]>, Vec<usize>)> {
    let pick = |skip: &[usize], row: usize, u: f64| {
        let rows = &sims[row * n..(row + 1) * n];
        let found = sample_negatives(rows, n, |_, j| j != row && !skip.contains(&j), |_| u);
        found.first().copied().flatten().unwrap_or(row)
    };
    let one = |row: usize| {
        let d = draw(row)?;
        let first = d.given.map_or_else(|| pick(&[], row, d.index[0]), |g| g[0]);
        let second = || d.given.map_or_else(|| pick(&[first], row, d.index[1]), |g| g[1]);
        let own_first = (d.order > 0.5) != injected(Fault::AssignmentLabelsSwapped);
        Some(if d.other <= 1.0 / 3.0 {
            ([first, second()], 2)
        } else if own_first {
            ([row, first], 0)
        } else {
            ([first, row], 1)
        })
    };
    Some((0..n).map(one).collect::<Option<Vec<_>>>()?.into_iter().unzip())
}

impl Objective for TextAssignmentObjective {
    fn losses(&self) -> &'static [&'static str] {
        &["train_loss"]
    }

    fn uses_momentum(&self) -> bool {
        false
    }

    /// The mean cross-entropy of three classes: the text belongs to the first image, to the second, or
    /// to neither. Other images are drawn like the own one, by the soft-max of `f f^T / 0.07` with image
    /// features `f` `[B, E]`; the draw gets no gradient.
    fn forward(&self, cx: &StepContext<'_>, weights: &Weights, batch: &Batch) -> Result<Forward> {
        let n = batch.text.len();
        if n < 3 {
            return Err(Error::Config(format!(
                "text assignment chooses among the images of a batch and needs 3 or more, not {n}"
            )));
        }
        let model = AssignmentModel::new(cx.model, weights)?;
        let (states, feat) = model.encode_images(Tensor::from_inner(cx.images(batch)?))?;
        let feat = feat.inner();
        let sims = feat.clone().matmul(feat.transpose()) / TEMPERATURE;
        let mut draw_weights = to_vec(activation::softmax(sims.clone(), 1));
        (0..n).for_each(|i| draw_weights[i * n + i] = 0.0);
        let (pairs, labels) = assign(&to_vec(sims), |row| cx.rng.assignment(row), n)
            .ok_or_else(|| Error::Config(format!("draws are given for fewer than {n} texts")))?;
        let mut dropout = cx.rng.dropout(self.dropout);
        let logits = model.logits(&states, &pairs, &batch.text, &mut dropout)?;
        let loss = label_cross_entropy(logits.clone(), &labels);
        let trace = cx.trace.then(|| -> Box<dyn std::any::Any> {
            Box::new(TextAssignmentTrace { logits, labels, weights: draw_weights })
        });
        let losses = Losses::of("train_loss", loss);
        Ok(Forward { losses, metrics: Vec::new(), features: None, trace })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of each image, one other is so near that it is always drawn, and of the rest another.
    const SIMS: [f32; 16] =
        [9e3, 0., 800., 400., 800., 9e3, 400., 0., 0., 400., 9e3, 800., 400., 800., 0., 9e3];

    fn drawn(draw: AssignmentDraw) -> (Vec<[usize; 2]>, Vec<usize>) {
        assign(&SIMS, |_| Some(draw), 4).unwrap()
    }

    #[test]
    fn other_images_are_drawn_by_their_similarity_and_never_the_own_one() {
        let usual = AssignmentDraw { other: 0.5, order: 0.7, index: [0.3, 0.6], given: None };
        let first = [2, 0, 3, 1];
        assert_eq!(drawn(usual), ((0..4).map(|row| [row, first[row]]).collect(), vec![0; 4]));
        let behind = AssignmentDraw { order: 0.5, ..usual };
        assert_eq!(drawn(behind), ((0..4).map(|row| [first[row], row]).collect(), vec![1; 4]));
        let neither = AssignmentDraw { other: 1.0 / 3.0, ..usual };
        assert_eq!(drawn(neither), (vec![[2, 3], [0, 2], [3, 1], [1, 0]], vec![2; 4]));
        let given = AssignmentDraw { given: Some([3, 1]), ..neither };
        assert_eq!(drawn(given), (vec![[3, 1]; 4], vec![2; 4]));
    }
}
