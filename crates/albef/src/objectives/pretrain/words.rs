//! Masked captions: which words are hidden, and what the momentum model says in their place
//! (paper section 3.2, spec `losses` 5).

use burn::tensor::Tensor;

use super::Settings;
use super::draws::RngState;
use crate::error::{Error, Result};
use crate::model::{DropoutRng, Encoders, ImageContext, ImageStates, OutputRows, TokenBatch};
use crate::objectives::distill::DistillAxis;
use crate::objectives::masking::mask_tokens;

/// The captions of a batch after masking.
#[derive(Clone, Debug)]
pub struct MaskedTokens {
    /// Word pieces after masking, a row each, without padding but for that of the batch itself.
    pub ids: Vec<u32>,
    /// Word to predict, per row of `ids`.
    pub labels: Vec<Option<u32>>,
    /// What goes through the model: `ids`, padded where the soft part normalises over positions.
    pub(super) tokens: TokenBatch,
    /// Places of the hidden words, counted from the start of each text.
    pub(super) places: Vec<Vec<usize>>,
    /// Whether the head reads every position ([`DistillAxis::Sequence`]).
    pub(super) over_positions: bool,
}

impl MaskedTokens {
    pub(super) fn new(tokens: &TokenBatch, settings: &Settings, draws: &RngState) -> Self {
        let draw = |row| draws.mask(row, settings.vocab_size);
        let (ids, mut labels) =
            mask_tokens(&tokens.ids, settings.special, settings.mlm_probability, draw);
        if !settings.mlm {
            labels.fill(None);
        }
        let over_positions =
            settings.distills_mlm() && settings.mlm_distill_axis == DistillAxis::Sequence;
        let mut masked = TokenBatch { ids: ids.clone(), sequences: tokens.sequences.clone() };
        if over_positions {
            masked = masked.filled(settings.special.pad);
        }
        let places = tokens
            .sequences
            .iter()
            .map(|s| (0..s.rows).filter(|i| labels[s.start + i].is_some()).collect())
            .collect();
        Self { ids, labels, tokens: masked, places, over_positions }
    }

    /// Whether any word is to be predicted.
    #[must_use]
    pub fn any(&self) -> bool {
        self.places.iter().any(|places| !places.is_empty())
    }

    /// The words to predict, in the order of the rows of logits.
    pub(super) fn wanted(&self) -> Vec<usize> {
        self.labels.iter().flatten().map(|l| *l as usize).collect()
    }

    /// What the head reads of text `b`, counted from the text's start.
    pub(super) fn read(&self, b: usize) -> Vec<usize> {
        // Over positions the head sees every row, as that of the official code does.
        let every = || (0..self.tokens.sequences[b].rows).collect();
        if self.over_positions { every() } else { self.places[b].clone() }
    }

    /// The rows of `tokens` at which the hidden words lie.
    pub(super) fn rows(&self) -> Vec<usize> {
        let texts = self.tokens.sequences.iter().zip(&self.places);
        texts.flat_map(|(s, places)| places.iter().map(|i| s.start + i)).collect()
    }

    /// Logits `[words, V]` of the momentum model at the hidden words, `image` being its own states of
    /// the images `[B]`.
    ///
    /// # Errors
    /// If the momentum model lacks a vocabulary head.
    pub fn teacher(
        &self,
        momentum: &Encoders,
        image: &ImageStates,
        dropout: &mut DropoutRng,
    ) -> Result<Tensor<2>> {
        let head = momentum.mlm_head.as_ref().ok_or(Error::NoMlmHead)?;
        let own: Vec<usize> = (0..self.tokens.len()).collect();
        let context = ImageContext { states: image, image_of: &own, visible: None };
        let read = OutputRows::Rows(&self.places);
        let encoder = &momentum.text_encoder;
        Ok(head.forward(encoder.multi_modal(&self.tokens, context, read, dropout, None)?))
    }
}
