//! Pairs of images and texts: contrast, matching and masked language modeling of a batch (paper
//! section 3.2). Pre-training minimizes all three, retrieval fine-tuning the first two.
//!
//! Work that the official code repeats is done once: masked captions and the three kinds of matching
//! pairs go through the fusion layers as one packed batch, so an image's keys and values are projected
//! once per layer; the last layer computes `[CLS]` of the pairs and the masked tokens, nothing else;
//! the vocabulary head sees masked tokens only.
//!
//! Letters: `B` pairs, `S` image side, `R` token rows, `D` text width, `E` joint width, `Q` queue
//! length, `M` matching pairs, `W` masked tokens, `V` vocabulary.

use albef_data::dataset::Batch;
use burn::tensor::Tensor;

use super::distill::{DistillAxis, DistillTerms};
use super::itc::Contrast;
use super::itm::{self, Negatives};
use super::mlm::{self, MaskedTokens};
use super::momentum::momentum_encoders;
use super::queue::Queues;
use super::{Forward, Losses, Metric, Objective, QueueFeatures, StepContext};
use crate::error::{Error, Result};
use crate::fault::{Fault, injected};
use crate::model::{
    Albef, DropoutRng, Encoders, ImageContext, ImageStates, OutputRows, Sequence, TokenBatch,
    Weights,
};
use crate::ops::index;
use crate::params::to_vec;

/// Contrast, matching and masked language modeling. The default is the official pre-training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairsObjective {
    /// Whether the contrastive loss takes part.
    pub ita: bool,
    /// Whether matching takes part.
    pub itm: bool,
    /// Whether masked language modeling takes part. Fine-tuning for retrieval has none.
    pub mlm: bool,
    /// Whether the momentum model gives pseudo-targets. Without, it still fills the queues.
    pub distill: bool,
    /// Whether it does so for masked tokens too; the paper's Table 1 has a row without.
    pub mlm_mod: bool,
    /// Over what the soft part of masked tokens normalizes.
    pub mlm_distill_axis: DistillAxis,
    /// Share of tokens to mask.
    pub mlm_probability: f32,
    /// Optimizer steps at the start in which only the contrastive loss takes part.
    pub itc_only_steps: u64,
    /// Whether negatives for matching are drawn by similarity; else all are equally likely.
    pub hard_negatives: bool,
    /// Optimizer step from which they are.
    pub hard_negatives_start: u64,
    /// Temperature of these draws; `None` for the learned one, as in the official code.
    pub negative_temp: Option<f64>,
    /// Whether pairs of one image id are positives of each other in contrast and never negatives in
    /// matching, as in retrieval. The official pre-training knows no ids (quirk Q42).
    pub image_index: bool,
    /// Whether the contrast is with the momentum model's features. Without, it is within the batch, with
    /// gradients on both sides, as in CLIP; then no queue and no pseudo-target can take part.
    pub momentum_contrast: bool,
    /// Share of the patches of each image that the online model does not see (FLIP).
    pub patch_dropout: f32,
    /// Dropout of the online text and fusion layers.
    pub dropout: f32,
    /// Dropout of the momentum text and fusion layers (quirk Q9).
    pub momentum_dropout: f32,
}

impl Default for PairsObjective {
    fn default() -> Self {
        Self {
            ita: true,
            itm: true,
            mlm: true,
            distill: true,
            mlm_mod: true,
            mlm_distill_axis: DistillAxis::Vocabulary,
            mlm_probability: 0.15,
            itc_only_steps: 0,
            hard_negatives: true,
            hard_negatives_start: 0,
            negative_temp: None,
            image_index: false,
            momentum_contrast: true,
            patch_dropout: 0.0,
            dropout: 0.1,
            momentum_dropout: 0.1,
        }
    }
}

impl PairsObjective {
    /// The official fine-tuning for retrieval.
    #[must_use]
    pub fn retrieval() -> Self {
        Self { mlm: false, image_index: true, ..Self::default() }
    }

    /// Whether negatives are drawn by similarity at a step.
    pub(super) fn draws_hard(&self, step: u64) -> bool {
        self.hard_negatives && step >= self.hard_negatives_start
    }

    /// The factor on similarities before negatives are drawn, at a step and the learned temperature; `None` if all are
    /// equally likely.
    fn sharpness(&self, step: u64, temp: impl FnOnce() -> f64) -> Option<f64> {
        self.draws_hard(step).then(|| self.negative_temp.map_or(1.0, |own| temp() / own))
    }

    /// Whether pairs `a` and `b` may be negatives of each other in matching.
    fn may_be_negatives(&self, batch: &Batch, a: usize, b: usize) -> bool {
        let related = |(x, y): &(usize, usize)| (*x, *y) == (a, b) || (*y, *x) == (a, b);
        let one_image = self.image_index && batch.image_ids[a] == batch.image_ids[b];
        a != b && !one_image && !batch.related.iter().any(related)
    }
}

/// The intermediates of a forward pass. Pairs of tensors are image to text, then text to image.
#[derive(Clone, Debug)]
pub struct PairsTrace {
    /// States of the images.
    pub image: ImageStates,
    /// Momentum states of the images.
    pub image_m: ImageStates,
    /// States of the caption tokens, `[R, D]`.
    pub text_embeds: Tensor<2>,
    /// Features `[B, E]`: image, text, momentum image, momentum text.
    pub feats: [Tensor<2>; 4],
    /// Similarities, targets and the losses of both directions.
    pub contrast: Contrast,
    /// Matching logits `[M, 2]`.
    pub itm_logits: Option<Tensor<2>>,
    /// 1 for true pairs.
    pub itm_labels: Vec<usize>,
    /// Captions after masking.
    pub masked: Option<MaskedTokens>,
    /// Token logits `[W, V]` at the masked tokens.
    pub mlm_logits: Option<Tensor<2>>,
    /// Those of the momentum model, where it teaches.
    pub mlm_logits_m: Option<Tensor<2>>,
}

impl Objective for PairsObjective {
    fn losses(&self) -> &'static [&'static str] {
        if self.mlm {
            &["train_loss_mlm", "train_loss_ita", "train_loss_itm"]
        } else {
            &["train_loss_ita", "train_loss_itm"]
        }
    }

    fn uses_momentum(&self) -> bool {
        true
    }

    /// The sum `L_mlm + L_itc + L_itm` (paper equation 5). Gradients flow into all trained weights; the
    /// momentum model, queues, targets and the choice of negatives get none.
    fn forward(&self, cx: &StepContext<'_>, weights: &Weights, batch: &Batch) -> Result<Forward> {
        let images = cx.images(batch)?;
        let (size, given) = (batch.text.len(), images.dims()[0]);
        if given != size || batch.image_ids.len() != size || size == 0 {
            return Err(Error::ImageOfText {
                texts: size,
                given: batch.image_ids.len(),
                images: given,
            });
        }
        let model = Albef::new(cx.model, weights)?;
        let momentum = momentum_encoders(cx.momentum, cx.model, cx.precision)?;
        let mut dropout = cx.rng.dropout(self.dropout);
        let mut dropout_m = cx.rng.momentum_dropout(self.momentum_dropout);
        let itc_only = cx.step < self.itc_only_steps;
        let (itm, mlm) = (self.itm && !itc_only, self.mlm && !itc_only);
        let alpha = if self.distill { cx.alpha } else { 0.0 };
        let distills_mlm = self.mlm_mod && alpha != 0.0;

        let patches = cx.model.vision.tokens() - 1;
        let kept = (self.patch_dropout > 0.0).then(|| {
            let kept = (patches as f32 * (1.0 - self.patch_dropout)).round().max(1.0) as usize;
            cx.rng.patches(size, patches, kept)
        });
        let teacher = self.momentum_contrast.then_some((&momentum, &mut dropout_m));
        let encoded =
            Encoded::new((&model.encoders, &mut dropout), teacher, images, kept.as_deref(), batch)?;
        let early = queues_with(cx.queues, &encoded, batch);
        // A fine-tuning run starts with those of its checkpoint.
        let none = (!self.momentum_contrast).then(|| Queues::none(cx.model.embed_dim, cx.queues));
        let queues = none.as_ref().or(early.as_ref()).unwrap_or(cx.queues);
        let by_id = self.image_index && !injected(Fault::ImageIdsIgnored);
        let ids = by_id.then_some(&batch.image_ids[..]);
        let contrast =
            Contrast::new(&encoded.feats, &model.temp, queues, ids, alpha, !self.momentum_contrast);

        let mut negatives = Negatives::default();
        if itm {
            let temp = || f64::from(to_vec(model.temp.clone().inner())[0]);
            let sharpness = self.sharpness(cx.step, temp);
            let allowed = |a: usize, b: usize| self.may_be_negatives(batch, a, b);
            negatives = Negatives::draw(&contrast.sims, sharpness, allowed, cx.rng);
        }
        let pairs = negatives.pairs();
        let masked = mlm.then(|| {
            let over_positions = distills_mlm && self.mlm_distill_axis == DistillAxis::Sequence;
            let draw = |row| cx.rng.mask(row, cx.model.text.vocab_size);
            MaskedTokens::new(&batch.text, cx.special, self.mlm_probability, over_positions, draw)
        });
        let fused =
            fuse(&model.encoders, &batch.text, &encoded, &pairs, masked.as_ref(), &mut dropout)?;

        let zero = || Tensor::zeros([1], &encoded.text.device());
        let (mut losses, mut metrics) = (Losses::default(), Vec::new());
        let (mut mlm_logits, mut mlm_logits_m) = (None, None);
        let mut mlm_terms = None;
        if let Some(masked) = &masked {
            let mut loss = zero();
            if let Some(states) = fused.words {
                if distills_mlm {
                    let image = &encoded.image_m;
                    mlm_logits_m =
                        Some(masked.momentum_logits(&momentum, image, &mut dropout_m)?);
                }
                let head = model.encoders.mlm_head.as_ref().ok_or(Error::NoMlmHead)?;
                let out = mlm::predict(head, states, masked, mlm_logits_m.clone(), alpha);
                (loss, mlm_terms, mlm_logits) = (out.loss, out.terms, Some(out.logits));
            }
            losses.push("train_loss_mlm", loss);
        }
        if self.ita {
            losses.push("train_loss_ita", contrast.loss());
            metrics.extend(named(contrast.terms.clone(), ["ita_hard", "ita_soft", "ita_kl"]));
        }
        metrics.extend(named(mlm_terms, ["mlm_hard", "mlm_soft", "mlm_kl"]));
        let itm_labels = itm::labels(size, pairs.len());
        let mut itm_logits = None;
        if itm {
            let mut loss = zero();
            if let Some(states) = fused.pairs {
                let logits = model.itm_logits(states);
                loss = itm::loss(logits.clone(), &itm_labels);
                metrics.extend(itm::accuracy(&logits, &itm_labels).map(|a| ("itm_accuracy", a)));
                itm_logits = Some(logits);
            }
            losses.push("train_loss_itm", loss);
            let missing = negatives.missing();
            if missing > 0 {
                metrics.push(("itm_rows_without_negative", missing as f64));
            }
        }

        let features = encoded.queue_features(&batch.image_ids);
        let trace = cx.trace.then(|| -> Box<dyn std::any::Any> {
            let Encoded { image, text, image_m, feats } = encoded;
            Box::new(PairsTrace {
                image,
                image_m,
                text_embeds: text,
                feats,
                contrast,
                itm_logits,
                itm_labels,
                masked,
                mlm_logits,
                mlm_logits_m,
            })
        });
        Ok(Forward { losses, metrics, features: Some(features), trace })
    }
}

fn named(terms: Option<DistillTerms<1>>, names: [&'static str; 3]) -> Vec<Metric> {
    terms.map_or_else(Vec::new, |terms| terms.named(names))
}

/// The queues with the features of this batch in them already, which is wrong.
fn queues_with(queues: &Queues, encoded: &Encoded, batch: &Batch) -> Option<Queues> {
    injected(Fault::QueueBeforeLoss).then(|| {
        let QueueFeatures { image, text, ids } = encoded.queue_features(&batch.image_ids);
        let mut queues = queues.clone();
        queues.push(image, text, &ids);
        queues
    })
}

/// A batch as the online model (with gradients) and the momentum model (without) encode it.
struct Encoded {
    /// States of the images.
    image: ImageStates,
    /// States of the caption tokens, `[R, D]`.
    text: Tensor<2>,
    /// Momentum states of the images.
    image_m: ImageStates,
    /// Features `[B, E]`: image, text, momentum image, momentum text.
    feats: [Tensor<2>; 4],
}

impl Encoded {
    /// `images` `[B, 3, S, S]`; encoders and dropout of the online and of the momentum model, whose place
    /// the online one takes where there is none. The online model sees the patches `kept`, or all.
    fn new(
        (online, dropout): (&Encoders, &mut DropoutRng),
        momentum: Option<(&Encoders, &mut DropoutRng)>,
        images: Tensor<4>,
        kept: Option<&[usize]>,
        batch: &Batch,
    ) -> Result<Self> {
        let tokens = &batch.text;
        let pixels = Tensor::from_inner(images.clone());
        let image = match kept {
            Some(kept) => online.visual_encoder.forward_some(pixels, kept)?,
            None => online.visual_encoder.forward(pixels)?,
        };
        let text = online.text_encoder.text(tokens, OutputRows::All, dropout, None)?;
        let class_states = text.clone().select(0, index(&tokens.class_rows(), &text.device()));

        let feats = [online.image_feat(&image), online.text_feat(class_states)];
        let Some((momentum, dropout_m)) = momentum else {
            let image_m = ImageStates { tokens: image.tokens.clone().inner(), ..image.clone() };
            let [image_feat, text_feat] = feats.clone().map(Tensor::inner);
            let [a, b] = feats;
            return Ok(Self { image, text, image_m, feats: [a, b, image_feat, text_feat] });
        };
        let image_m = momentum.visual_encoder.forward(images)?;
        let class = vec![vec![0]; tokens.len()];
        let read = OutputRows::Rows(&class);
        let text_m = momentum.text_encoder.text(tokens, read, dropout_m, None)?;
        let [image_feat, text_feat] = feats;
        let feats =
            [image_feat, text_feat, momentum.image_feat(&image_m), momentum.text_feat(text_m)];
        Ok(Self { image, text, image_m, feats })
    }

    /// The momentum features: those of the trained model would make the queues inconsistent.
    fn queue_features(&self, ids: &[i64]) -> QueueFeatures {
        let [image, text, image_m, text_m] = self.feats.clone();
        if injected(Fault::OnlineFeaturesInQueue) {
            return QueueFeatures { image: image.inner(), text: text.inner(), ids: ids.to_vec() };
        }
        QueueFeatures { image: image_m, text: text_m, ids: ids.to_vec() }
    }
}

/// What the heads read of the fused states; `None` where nothing is to be read.
#[derive(Default)]
struct Fused {
    /// `[CLS]` of each matching pair, `[M, D]`.
    pairs: Option<Tensor<2>>,
    /// The rows that [`MaskedTokens::read`] names, text by text.
    words: Option<Tensor<2>>,
}

/// Matching pairs (text, image) and masked captions through the fusion layers, as one packed batch.
fn fuse(
    online: &Encoders,
    captions: &TokenBatch,
    encoded: &Encoded,
    pairs: &[(usize, usize)],
    masked: Option<&MaskedTokens>,
    dropout: &mut DropoutRng,
) -> Result<Fused> {
    let encoder = &online.text_encoder;
    let device = encoded.text.device();
    let mut rows = Vec::new();
    let mut sequences = Vec::new();
    let mut image_of = Vec::new();
    for (text, image) in pairs {
        let s = captions.sequences[*text];
        sequences.push(Sequence { start: rows.len(), ..s });
        rows.extend(s.range());
        image_of.push(*image);
    }
    let mut read: Vec<Vec<usize>> = vec![vec![0]; pairs.len()];
    let mut states = encoded.text.clone().select(0, index(&rows, &device));
    let masked = masked.filter(|masked| !masked.is_empty());
    if let Some(words) = masked {
        let masked = encoder.text(&words.tokens, OutputRows::All, dropout, None)?;
        states = if pairs.is_empty() { masked } else { Tensor::cat(vec![states, masked], 0) };
        for (b, s) in words.tokens.sequences.iter().enumerate() {
            sequences.push(Sequence { start: rows.len() + s.start, ..*s });
            image_of.push(b);
            read.push(words.read(b));
        }
    }
    if sequences.is_empty() {
        return Ok(Fused::default());
    }
    let context = ImageContext { states: &encoded.image, image_of: &image_of, visible: None };
    let fused =
        encoder.fusion(states, &sequences, context, OutputRows::Rows(&read), dropout, None)?;
    let (first, all) = (pairs.len(), fused.dims()[0]);
    Ok(Fused {
        pairs: (!pairs.is_empty()).then(|| fused.clone().narrow(0, 0, first)),
        words: masked.is_some().then(|| fused.narrow(0, first, all - first)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retrieval_is_trained_without_masked_tokens_and_by_image_id() {
        let retrieval = PairsObjective::retrieval();
        assert!(!retrieval.mlm && retrieval.image_index && retrieval.ita && retrieval.itm);
    }

    #[test]
    fn negatives_have_a_temperature_of_their_own() {
        let at = |negative_temp, step| {
            let hard = PairsObjective { hard_negatives_start: 5, ..PairsObjective::default() };
            PairsObjective { negative_temp, ..hard }.sharpness(step, || 0.07)
        };
        assert_eq!(
            (at(None, 5), at(Some(0.14), 5), at(Some(0.14), 4)),
            (Some(1.0), Some(0.5), None)
        );
    }

    #[test]
    fn negatives_are_other_pairs_of_other_images_that_are_not_mixed_from_each_other() {
        let batch =
            Batch { image_ids: vec![5, 5, 6, 7], related: vec![(2, 3)], ..Batch::default() };
        let admitted = |image_index: bool| {
            let objective = PairsObjective { image_index, ..PairsObjective::default() };
            let pairs = (0..4).flat_map(|a| (0..4).map(move |b| (a, b)));
            pairs.filter(|(a, b)| objective.may_be_negatives(&batch, *a, *b)).collect::<Vec<_>>()
        };
        let apart = [(0, 2), (0, 3), (1, 2), (1, 3)];
        let both: Vec<_> = apart.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]).collect();
        let sorted = |mut pairs: Vec<(usize, usize)>| {
            pairs.sort_unstable();
            pairs
        };
        assert_eq!(admitted(true), sorted(both.clone()));
        assert_eq!(admitted(false), sorted([both, vec![(0, 1), (1, 0)]].concat()));
    }
}
