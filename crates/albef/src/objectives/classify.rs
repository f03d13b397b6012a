//! Classification of a text about one image or two, with momentum distillation: visual entailment and
//! natural language for visual reasoning (paper section 5).
//!
//! Letters: `B` texts, `C` classes, `S` image side.

use albef_data::dataset::Batch;
use burn::tensor::{Int, Tensor, TensorData};

use super::distill::distilled;
use super::{Forward, Losses, Objective, StepContext};
use crate::error::{Error, Result};
pub use crate::model::ImagesPerText;
use crate::model::{Branch, ClassificationModel, DropoutRng, TokenBatch, Weights};
use crate::params::to_vec;

/// Classes of texts about one image or two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassificationObjective {
    /// How many images a text is about.
    pub images: ImagesPerText,
    /// Number of classes.
    pub classes: usize,
    /// Whether the momentum model gives pseudo-targets.
    pub distill: bool,
    /// Dropout of text and fusion layers.
    pub dropout: f32,
    /// Dropout of the momentum model's.
    pub momentum_dropout: f32,
}

/// The intermediates of a forward pass.
#[derive(Clone, Debug)]
pub struct ClassificationTrace {
    /// Logits `[B, C]`.
    pub logits: Tensor<2>,
    /// Those of the momentum model.
    pub logits_m: Option<Tensor<2>>,
}

impl ClassificationObjective {
    fn logits(
        &self,
        cx: &StepContext<'_>,
        (weights, branch): (&Weights, Branch),
        images: Tensor<4>,
        texts: &TokenBatch,
        mut dropout: DropoutRng,
    ) -> Result<Tensor<2>> {
        let model = ClassificationModel::new(cx.model, weights, branch, self.images, self.classes)?;
        model.logits(images, texts, &mut dropout)
    }
}

impl Objective for ClassificationObjective {
    fn losses(&self) -> &'static [&'static str] {
        &["train_loss"]
    }

    fn uses_momentum(&self) -> bool {
        self.distill
    }

    /// The mean over texts of `(1 - alpha)` cross-entropy with the label plus `alpha` cross-entropy with
    /// the momentum model's prediction (the form of paper equation 7), which gets no gradient.
    fn forward(&self, cx: &StepContext<'_>, weights: &Weights, batch: &Batch) -> Result<Forward> {
        let labels = batch.labels()?;
        if let Some(label) = labels.iter().find(|label| **label >= self.classes) {
            let classes = self.classes;
            return Err(Error::Config(format!("a label is {label}, of {classes} classes from 0")));
        }
        let (images, texts) = (cx.images(batch)?, &batch.text);
        let tracked = Tensor::from_inner(images.clone());
        let dropout = cx.rng.dropout(self.dropout);
        let logits = self.logits(cx, (weights, Branch::Online), tracked, texts, dropout)?;
        let mut logits_m = None;
        if self.distill {
            let momentum = (&cx.momentum_weights(), Branch::Momentum);
            let dropout = cx.rng.momentum_dropout(self.momentum_dropout);
            logits_m = Some(self.logits(cx, momentum, images, texts, dropout)?);
        }
        let out = distilled(logits.clone(), logits_m.clone(), None, &labels, cx.alpha).mean();
        let names = ["cls_hard", "cls_soft", "cls_kl"];
        let metrics = out.terms.map_or_else(Vec::new, |terms| terms.named(names));
        let trace = cx.trace.then(|| -> Box<dyn std::any::Any> {
            Box::new(ClassificationTrace { logits, logits_m })
        });
        Ok(Forward { losses: Losses::of("train_loss", out.loss), metrics, features: None, trace })
    }
}

/// Mean over rows of `-log_p[row, label]`.
#[must_use]
pub fn label_cross_entropy(log_p: Tensor<2>, labels: &[usize]) -> Tensor<1> {
    gather_labels(log_p, labels).mean().neg()
}

/// `log_p[row, label]`, `[rows]`.
#[must_use]
pub fn gather_labels(log_p: Tensor<2>, labels: &[usize]) -> Tensor<1> {
    let device = log_p.device();
    let labels: Vec<i32> = labels.iter().map(|l| *l as i32).collect();
    let n = labels.len();
    let labels = Tensor::<2, Int>::from_data(TensorData::new(labels, [n, 1]), &device);
    log_p.gather(1, labels).reshape([n])
}

/// The share of rows of `logits` whose largest entry, the first of equal ones, is the label's; `None`
/// without rows.
#[must_use]
pub fn label_accuracy(logits: Tensor<2>, labels: &[usize]) -> Option<f64> {
    let classes = logits.dims()[1].max(1);
    let rows = to_vec(logits);
    let first_best = |row: &[f32]| (0..row.len()).rev().max_by(|a, b| row[*a].total_cmp(&row[*b]));
    let right = rows.chunks(classes).zip(labels).filter(|(row, l)| first_best(row) == Some(**l));
    (!labels.is_empty()).then(|| right.count() as f64 / labels.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::{cpu, from_vec};

    #[test]
    fn of_equal_entries_the_first_is_chosen() {
        let logits = from_vec(vec![1.0, 1.0, 0.0, 2.0, 3.0, -3.0], [3, 2], &cpu());
        assert_eq!(label_accuracy(logits.clone(), &[0, 1, 0]), Some(1.0));
        assert_eq!(label_accuracy(logits, &[1, 1, 1]), Some(1.0 / 3.0));
        assert_eq!(label_accuracy(from_vec(Vec::new(), [0, 2], &cpu()), &[]), None);
    }
}
