//! One forward pass of pre-training, or of fine-tuning for retrieval, which is the same without
//! masked words: the losses of a batch (spec `losses` 1 and 7).
//!
//! The work that the official code repeats is done once: masked captions and the three kinds of
//! matching pairs go through the fusion layers as one packed batch, so an image's keys and values
//! are projected once per layer; the last layer computes `[CLS]` of the pairs and the masked
//! tokens, nothing else; the vocabulary head sees masked tokens only.

mod align;
mod draws;
mod fuse;
mod words;

use burn::tensor::{Tensor, activation};

pub use draws::{StepRng, derive_seed};
pub use words::MaskedTokens;

use self::align::{Contrast, contrast, encode};
use self::draws::RngState;
use self::fuse::{fuse, matching_pairs};
use super::classify::{label_accuracy, label_cross_entropy};
use super::distill::{DistillAxis, DistillTerms, Metric, distilled, log_softmax_over_positions};
use super::masking::SpecialIds;
use super::queue::Queues;
use crate::error::{Error, Result};
use crate::model::{Albef, Encoders, ImageStates, TokenBatch};
use crate::ops::index;
use crate::params::to_vec;

/// A batch of pairs.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Normalised images `[B, 3, S, S]`, untracked.
    pub images: Tensor<4>,
    /// Captions, `[CLS]` first.
    pub text: TokenBatch,
    /// Image id of each pair, for [`Settings::image_index`].
    pub image_ids: Vec<i64>,
    /// Rows that share content and are never negatives of each other in matching.
    pub related: Vec<(usize, usize)>,
}

/// What decides about the losses besides weights and data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Weight of the momentum model's pseudo-targets in this step.
    pub alpha: f64,
    /// Whether the contrastive loss takes part.
    pub ita: bool,
    /// Whether matching takes part.
    pub itm: bool,
    /// Whether masked language modelling takes part. Fine-tuning for retrieval has none.
    pub mlm: bool,
    /// Whether masked words learn from the momentum model too; the paper's Table 1 has a row without.
    pub mlm_mod: bool,
    /// Over what their soft part normalises.
    pub mlm_distill_axis: DistillAxis,
    /// Whether negatives for matching are drawn by similarity; else all are equally likely.
    pub hard_negatives: bool,
    /// Temperature of these draws; `None` for the learned one, as in the official code.
    pub negative_temp: Option<f64>,
    /// Share of tokens to mask.
    pub mlm_probability: f32,
    /// Whether pairs of the same image id are positives of each other in ITC and never negatives
    /// in ITM. The official pre-training knows no ids (quirk Q42).
    pub image_index: bool,
    /// Dropout of the online text and fusion layers.
    pub dropout: f32,
    /// Dropout of the momentum text and fusion layers (quirk Q9).
    pub momentum_dropout: f32,
    /// Special ids of the vocabulary.
    pub special: SpecialIds,
    /// Size of the vocabulary, the range of random words.
    pub vocab_size: usize,
}

impl Settings {
    /// Whether masked words learn from the momentum model in this step.
    #[must_use]
    pub fn distills_mlm(&self) -> bool {
        self.mlm && self.mlm_mod && self.alpha != 0.0
    }
}

/// Losses and what a step leaves behind. Tensors of the online side are tracked.
#[derive(Clone, Debug)]
pub struct Step {
    /// Image-text contrastive loss `[1]`, the mean of the two directions.
    pub loss_ita: Tensor<1>,
    /// Image-text matching loss `[1]`.
    pub loss_itm: Tensor<1>,
    /// Masked language modelling loss `[1]`.
    pub loss_mlm: Tensor<1>,
    /// What the losses are made of, and how often matching is right.
    pub parts: Vec<Metric>,
    /// Contrastive loss image to text `[1]`.
    pub loss_i2t: Tensor<1>,
    /// Contrastive loss text to image `[1]`.
    pub loss_t2i: Tensor<1>,
    /// States of the images.
    pub image: ImageStates,
    /// Momentum states of the images.
    pub image_m: ImageStates,
    /// States of the caption tokens.
    pub text_embeds: Tensor<2>,
    /// Features `[B, E]`: image, text, momentum image, momentum text.
    pub feats: [Tensor<2>; 4],
    /// Similarities `[B, B + Q]`: image to text, text to image.
    pub sims: [Tensor<2>; 2],
    /// The momentum model's similarities.
    pub sims_m: [Tensor<2>; 2],
    /// Soft targets of both directions.
    pub targets: [Tensor<2>; 2],
    /// Matching logits: positives, texts with negative images, images with negative texts.
    pub itm_logits: Tensor<2>,
    /// 1 for positives.
    pub itm_labels: Vec<i64>,
    /// Captions after masking.
    pub masked: MaskedTokens,
    /// Word logits at the hidden words.
    pub mlm_logits: Option<Tensor<2>>,
    /// Those of the momentum model, where it teaches.
    pub mlm_logits_m: Option<Tensor<2>>,
}

impl Step {
    /// What is minimised: the plain sum.
    #[must_use]
    pub fn loss(&self) -> Tensor<1> {
        self.loss_mlm.clone() + self.loss_ita.clone() + self.loss_itm.clone()
    }
}

/// The forward pass. `model` has tracked weights, `momentum` untracked ones, already moved
/// towards those of the last optimiser step; the queues are read, not written.
///
/// # Errors
/// If the batch does not fit the model, or the weights lack a vocabulary head.
pub fn forward(
    model: &Albef,
    momentum: &Encoders,
    queues: &Queues,
    batch: &Batch,
    settings: &Settings,
    draws: StepRng,
) -> Result<Step> {
    let size = batch.text.len();
    let images = batch.images.dims()[0];
    if images != size || size == 0 {
        return Err(Error::ImageOfText { texts: size, given: images, images });
    }
    let mut draws = RngState::new(draws, settings);
    let online = &model.encoders;

    let encoded = encode(online, momentum, batch, &mut draws)?;
    let aligned = contrast(&encoded.feats, &model.temp, queues, &batch.image_ids, settings);

    let [negative_image, negative_text] = negatives(model, &aligned, batch, settings, &draws);
    let mut pairs = Vec::new();
    if settings.itm {
        pairs = matching_pairs(&negative_image, &negative_text);
    }
    let masked = MaskedTokens::new(&batch.text, settings, &draws);
    let fused = fuse(online, &batch.text, &encoded, &pairs, &masked, &mut draws)?;

    let device = encoded.text.device();
    let zero = || Tensor::zeros([1], &device);
    let mut loss_ita = zero();
    if settings.ita {
        let [i2t, t2i] = aligned.losses.clone();
        loss_ita = (i2t + t2i) / 2.0;
    }

    let itm_labels: Vec<i64> = (0..pairs.len()).map(|i| i64::from(i < size)).collect();
    let labels: Vec<usize> = itm_labels.iter().map(|l| *l as usize).collect();
    let (mut loss_itm, mut itm_logits) = (zero(), Tensor::zeros([0, 2], &device));
    if let Some(states) = fused.pairs {
        itm_logits = model.itm_logits(states);
        loss_itm = label_cross_entropy(activation::log_softmax(itm_logits.clone(), 1), &labels);
    }

    let (mut loss_mlm, mut mlm_split) = (zero(), None);
    let (mut mlm_logits, mut mlm_logits_m) = (None, None);
    if let Some(states) = fused.words {
        let head = online.mlm_head.as_ref().ok_or(Error::NoMlmHead)?;
        let mut logits = head.forward(states);
        let mut other = None;
        if masked.over_positions {
            let at = index(&masked.rows(), &device);
            let log_p = log_softmax_over_positions(logits.clone(), size);
            other = Some(log_p.select(0, at.clone()));
            logits = logits.select(0, at);
        }
        if settings.distills_mlm() {
            let image = &encoded.image_m;
            mlm_logits_m = Some(masked.teacher(momentum, image, &mut draws.momentum)?);
        }
        let (teacher, wanted) = (mlm_logits_m.clone(), masked.wanted());
        let out = distilled(logits.clone(), teacher, other, &wanted, settings.alpha).mean();
        (loss_mlm, mlm_split) = (out.loss, out.split);
        mlm_logits = Some(logits);
    }

    let mut parts = named([aligned.split, mlm_split]);
    let right = label_accuracy(itm_logits.clone().inner(), &labels);
    parts.extend(right.map(|share| ("itm_accuracy", share)));
    let drawn = negative_image.iter().chain(&negative_text);
    let missing = drawn.filter(|negative| negative.is_none()).count();
    if settings.itm && missing > 0 {
        parts.push(("itm_without_negative", missing as f64));
    }

    let [loss_i2t, loss_t2i] = aligned.losses;
    Ok(Step {
        loss_ita,
        loss_itm,
        loss_mlm,
        parts,
        loss_i2t,
        loss_t2i,
        image: encoded.image,
        image_m: encoded.image_m,
        text_embeds: encoded.text,
        feats: encoded.feats,
        sims: aligned.sims,
        sims_m: aligned.sims_m,
        targets: aligned.targets,
        itm_logits,
        itm_labels,
        masked,
        mlm_logits,
        mlm_logits_m,
    })
}

/// Negatives for matching: an image for each text, then a text for each image.
fn negatives(
    model: &Albef,
    aligned: &Contrast,
    batch: &Batch,
    settings: &Settings,
    draws: &RngState,
) -> [Vec<Option<usize>>; 2] {
    let allowed = |a: usize, b: usize| {
        let related = |(x, y): &(usize, usize)| (*x, *y) == (a, b) || (*y, *x) == (a, b);
        a != b
            && !batch.related.iter().any(related)
            && !(settings.image_index && batch.image_ids[a] == batch.image_ids[b])
    };
    let learned = f64::from(to_vec(model.temp.clone().inner())[0]);
    let sharpness =
        settings.hard_negatives.then(|| settings.negative_temp.map_or(1.0, |own| learned / own));
    [true, false].map(|images| {
        let sims = &aligned.sims[usize::from(images)];
        draws.negatives(images, sharpness, sims, allowed)
    })
}

/// The parts of contrast and of masked words under their names in logs.
fn named(splits: [Option<DistillTerms<1>>; 2]) -> Vec<Metric> {
    let [ita, mlm] = splits;
    let ita = ita.map(|split| split.named(["ita_hard", "ita_soft", "ita_kl"]));
    let mlm = mlm.map(|split| split.named(["mlm_hard", "mlm_soft", "mlm_kl"]));
    ita.into_iter().chain(mlm).flatten().collect()
}
