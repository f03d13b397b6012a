//! Masked language modeling: which tokens are hidden, and what the momentum model predicts in their
//! place (MLM; paper section 3.2, equations 3 and 7).
//!
//! Letters: `W` masked tokens of a batch, `V` vocabulary, `D` width.

use burn::tensor::Tensor;

use super::distill::{DistillTerms, distilled, log_softmax_over_positions};
use super::masking::{MaskDraw, SpecialIds, mask_tokens};
use crate::error::{Error, Result};
use crate::fault::{Fault, injected};
use crate::model::{
    DropoutRng, Encoders, ImageContext, ImageStates, MlmHead, OutputRows, TokenBatch,
};
use crate::ops::index;

/// The captions of a batch after masking.
#[derive(Clone, Debug)]
pub struct MaskedTokens {
    /// Token ids after masking, a row each, without padding but for that of the batch itself.
    pub ids: Vec<u32>,
    /// Token to predict, per row of `ids`.
    pub labels: Vec<Option<u32>>,
    /// What goes through the model: `ids`, padded where the soft part normalizes over positions.
    pub tokens: TokenBatch,
    /// Positions of the masked tokens, counted from the start of each text.
    pub positions: Vec<Vec<usize>>,
    /// Whether the head reads every position
    /// ([`DistillAxis::Sequence`](super::distill::DistillAxis::Sequence)).
    pub over_positions: bool,
}

impl MaskedTokens {
    /// Masks captions with the draws of each token row.
    #[must_use]
    pub fn new(
        captions: &TokenBatch,
        special: SpecialIds,
        probability: f32,
        over_positions: bool,
        draw: impl FnMut(usize) -> MaskDraw,
    ) -> Self {
        let (ids, labels) = mask_tokens(&captions.ids, special, probability, draw);
        let mut tokens = TokenBatch { ids: ids.clone(), sequences: captions.sequences.clone() };
        if over_positions {
            tokens = tokens.filled(special.pad);
        }
        let positions = captions
            .sequences
            .iter()
            .map(|s| (0..s.rows).filter(|i| labels[s.start + i].is_some()).collect())
            .collect();
        Self { ids, labels, tokens, positions, over_positions }
    }

    /// Whether no token is to be predicted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.positions.iter().all(Vec::is_empty)
    }

    /// The tokens to predict, `W` of them, in the order of the rows of logits.
    #[must_use]
    pub fn targets(&self) -> Vec<usize> {
        let mut targets: Vec<usize> = self.labels.iter().flatten().map(|l| *l as usize).collect();
        if injected(Fault::MaskedLabelsShifted) && !targets.is_empty() {
            targets.rotate_left(1);
        }
        targets
    }

    /// What the head reads of text `b`, counted from the text's start.
    #[must_use]
    pub fn read(&self, b: usize) -> Vec<usize> {
        // Over positions the head sees every row, as that of the official code does.
        let every = || (0..self.tokens.sequences[b].rows).collect();
        if self.over_positions { every() } else { self.positions[b].clone() }
    }

    /// The rows of `tokens` that are masked.
    fn rows(&self) -> Vec<usize> {
        let texts = self.tokens.sequences.iter().zip(&self.positions);
        texts.flat_map(|(s, positions)| positions.iter().map(|i| s.start + i)).collect()
    }

    /// Logits `[W, V]` of the momentum model at the masked tokens, `image` being its own states of the
    /// images `[B]`. Without gradient.
    ///
    /// # Errors
    /// If the momentum model lacks a vocabulary head.
    pub fn momentum_logits(
        &self,
        momentum: &Encoders,
        image: &ImageStates,
        dropout: &mut DropoutRng,
    ) -> Result<Tensor<2>> {
        let head = momentum.mlm_head.as_ref().ok_or(Error::NoMlmHead)?;
        let own: Vec<usize> = (0..self.tokens.len()).collect();
        let context = ImageContext { states: image, image_of: &own, visible: None };
        let read = OutputRows::Rows(&self.positions);
        let encoder = &momentum.text_encoder;
        Ok(head.forward(encoder.multi_modal(&self.tokens, context, read, dropout, None)?))
    }
}

/// The loss of masked tokens.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// `[1]`.
    pub loss: Tensor<1>,
    /// What it is made of, where the momentum model teaches.
    pub terms: Option<DistillTerms<1>>,
    /// Logits at the masked tokens, `[W, V]`.
    pub logits: Tensor<2>,
}

/// The mean over masked tokens of `(1 - alpha)` cross-entropy with the token plus `alpha` cross-entropy
/// with the momentum model's prediction `logits_m` `[W, V]` (paper equations 3 and 7). `states` `[R, D]`
/// are those that [`MaskedTokens::read`] names, text by text. `logits_m` gets no gradient.
#[must_use]
pub fn predict(
    head: &MlmHead,
    states: Tensor<2>,
    masked: &MaskedTokens,
    logits_m: Option<Tensor<2>>,
    alpha: f64,
) -> Prediction {
    let mut logits = head.forward(states);
    let mut over_positions = None;
    if masked.over_positions {
        let at = index(&masked.rows(), &logits.device());
        let log_p = log_softmax_over_positions(logits.clone(), masked.tokens.len());
        over_positions = Some(log_p.select(0, at.clone()));
        logits = logits.select(0, at);
    }
    let out = distilled(logits.clone(), logits_m, over_positions, &masked.targets(), alpha).mean();
    Prediction { loss: out.loss, terms: out.terms, logits }
}
