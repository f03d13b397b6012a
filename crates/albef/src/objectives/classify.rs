//! Classification of a text about one image or two, with momentum distillation: visual entailment and
//! natural language for visual reasoning (paper section 5).
//!
//! Letters: `B` texts, `C` classes, `S` image side.

use albef_data::dataset::Batch;
use burn::tensor::Tensor;

use super::distill::distilled;
use super::{Forward, Losses, Objective, StepContext};
use crate::error::{Error, Result};
pub use crate::model::ImagesPerText;
use crate::model::{Branch, ClassificationModel, DropoutRng, Weights};

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

/// A classification head and its dropouts.
pub(crate) struct Branches {
    pub images: ImagesPerText,
    pub classes: usize,
    pub dropout: f32,
    /// That of the momentum model; `None` without one.
    pub momentum_dropout: Option<f32>,
}

impl Branches {
    /// The logits `[B, C]` of the model, and those of the momentum model, which are untracked.
    pub fn logits(
        &self,
        cx: &StepContext<'_>,
        weights: &Weights,
        batch: &Batch,
    ) -> Result<(Tensor<2>, Option<Tensor<2>>)> {
        let of = |weights: &Weights, branch, images, mut dropout: DropoutRng| {
            let model =
                ClassificationModel::new(cx.model, weights, branch, self.images, self.classes)?;
            model.logits(images, &batch.text, &mut dropout)
        };
        let images = cx.images(batch)?;
        let tracked = Tensor::from_inner(images.clone());
        let online = of(weights, Branch::Online, tracked, cx.rng.dropout(self.dropout))?;
        let Some(dropout) = self.momentum_dropout else { return Ok((online, None)) };
        let dropout = cx.rng.momentum_dropout(dropout);
        let momentum = of(&cx.momentum_weights(), Branch::Momentum, images, dropout)?;
        Ok((online, Some(momentum)))
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
        let head = Branches {
            images: self.images,
            classes: self.classes,
            dropout: self.dropout,
            momentum_dropout: self.distill.then_some(self.momentum_dropout),
        };
        let (logits, logits_m) = head.logits(cx, weights, batch)?;
        let out = distilled(logits.clone(), logits_m.clone(), None, &labels, cx.alpha).mean();
        let names = ["cls_hard", "cls_soft", "cls_kl"];
        let metrics = out.terms.map_or_else(Vec::new, |terms| terms.named(names));
        let trace = cx.trace.then(|| -> Box<dyn std::any::Any> {
            Box::new(ClassificationTrace { logits, logits_m })
        });
        Ok(Forward { losses: Losses::of("train_loss", out.loss), metrics, features: None, trace })
    }
}
