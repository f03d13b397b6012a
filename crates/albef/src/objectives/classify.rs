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
use crate::model::{Branch, ClassificationModel, DropoutRng, TokenBatch, Weights};

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
