//! What classification learns by: cross-entropy of one label, or of each of several, with momentum distillation
//! (paper section 3.3) where labels are noisy.
//!
//! Letters: `B` samples, `C` labels.

use albef_data::dataset::{Batch, Target};
use burn::tensor::{Tensor, activation};

use crate::error::Result;
use crate::model::{ImagesPerText, Weights};
use crate::objectives::classify::Branches;
use crate::objectives::distill::{Distilled, distilled};
use crate::objectives::{Forward, Losses, Metric, Objective, StepContext};
use crate::params::from_vec;

/// Cross-entropy of one label, or binary cross-entropy of each of several.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LabelsObjective {
    /// Of each label; `None` for all 1. With several labels the weight of a label that is given.
    pub class_weights: Option<Vec<f32>>,
    /// Whether the momentum model gives pseudo-targets.
    pub distill: bool,
    /// Dropout of text and fusion layers.
    pub dropout: f32,
    /// Dropout of the momentum model's.
    pub momentum_dropout: f32,
}

impl LabelsObjective {
    fn weight(&self, label: usize) -> f32 {
        self.class_weights.as_ref().map_or(1.0, |w| w.get(label).copied().unwrap_or(1.0))
    }

    /// `sum_i w[y_i] * l_i / sum_i w[y_i]`, with `l_i = (1 - alpha) * -log p[i, y_i] + alpha * -sum_c q[i, c] log p[i, c]`
    /// and the teacher's probabilities `q`. The logits of the teacher are untracked; without them `alpha` is 0.
    pub(super) fn single(
        &self,
        logits: Tensor<2>,
        teacher: Option<Tensor<2>>,
        labels: &[usize],
        alpha: f64,
    ) -> (Tensor<1>, Vec<Metric>) {
        let weights: Vec<f32> = labels.iter().map(|label| self.weight(*label)).collect();
        let all = f64::from(weights.iter().sum::<f32>().max(1e-12));
        let device = logits.clone().inner().device();
        let Distilled { loss, terms } = distilled(logits, teacher, None, labels, alpha);
        let weights: Tensor<1> = from_vec(weights, [labels.len()], &device);
        let mean = |of_rows: Tensor<1>| (of_rows * weights.clone()).sum() / all;
        let names = ["cls_hard", "cls_soft", "cls_kl"];
        let metrics = terms.map_or_else(Vec::new, |terms| terms.map(mean).named(names));
        ((loss * Tensor::from_inner(weights)).sum() / all, metrics)
    }

    /// The mean over `[B, C]` of `w_c * z * softplus(-x) + (1 - z) * softplus(x)`. With a teacher `z` is
    /// `(1 - alpha)` of the label and `alpha` of the teacher's probability.
    pub(super) fn several(
        &self,
        logits: Tensor<2>,
        teacher: Option<Tensor<2>>,
        labels: &[Vec<usize>],
        alpha: f64,
    ) -> Tensor<1> {
        let [rows, classes] = logits.dims();
        let mut given = vec![0.0; rows * classes];
        for (row, label) in
            labels.iter().enumerate().flat_map(|(i, l)| l.iter().map(move |l| (i, *l)))
        {
            given[row * classes + label] = 1.0;
        }
        let device = logits.clone().inner().device();
        let mut given: Tensor<2> = from_vec(given, [rows, classes], &device);
        if let Some(teacher) = teacher.filter(|_| alpha > 0.0) {
            given = given * (1.0 - alpha) + activation::sigmoid(teacher) * alpha;
        }
        let absent = Tensor::from_inner(given.clone().neg() + 1.0);
        let weights: Vec<f32> = (0..classes).map(|label| self.weight(label)).collect();
        let given = Tensor::from_inner(given * from_vec::<2>(weights, [1, classes], &device));
        let tail = (logits.clone().abs().neg().exp() + 1.0).log();
        let softplus = |x: Tensor<2>| activation::relu(x) + tail.clone();
        (given * softplus(logits.clone().neg()) + absent * softplus(logits)).mean()
    }
}

impl Objective for LabelsObjective {
    fn losses(&self) -> &'static [&'static str] {
        &["train_loss"]
    }

    fn uses_momentum(&self) -> bool {
        self.distill
    }

    fn forward(&self, cx: &StepContext<'_>, weights: &Weights, batch: &Batch) -> Result<Forward> {
        let head = Branches {
            images: ImagesPerText::One,
            classes: cx.model.labels.len(),
            dropout: self.dropout,
            momentum_dropout: self.distill.then_some(self.momentum_dropout),
        };
        let (logits, teacher) = head.logits(cx, weights, batch)?;
        let (loss, metrics) = if cx.model.multi_label {
            let labels = batch.targets.iter().map(|target| match target {
                Target::Labels(labels) => labels.clone(),
                _ => Vec::new(),
            });
            (self.several(logits, teacher, &labels.collect::<Vec<_>>(), cx.alpha), Vec::new())
        } else {
            self.single(logits, teacher, &batch.labels()?, cx.alpha)
        };
        Ok(Forward { losses: Losses::of("train_loss", loss), metrics, features: None, trace: None })
    }
}
