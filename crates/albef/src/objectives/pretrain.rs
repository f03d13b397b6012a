//! One forward pass of pre-training, or of fine-tuning for retrieval, which is the same without
//! masked words: the losses of a batch (spec `losses` 1 and 7).
//!
//! The work that the official code repeats is done once: masked captions and the three kinds of
//! matching pairs go through the fusion layers as one packed batch, so an image's keys and values
//! are projected once per layer; the last layer computes `[CLS]` of the pairs and the masked
//! tokens, nothing else; the vocabulary head sees masked tokens only.

use burn::tensor::{Tensor, activation};

use super::classify::{hard_cross_entropy, share_right};
use super::distill::{DistillAxis, Part, Split, distilled, log_softmax_over_positions};
use super::itc;
use super::masking::{MaskDraw, SpecialIds, mask_tokens};
use super::negatives::sample_negatives;
use super::queue::Queues;
use crate::error::{Error, Result};
use crate::model::{Albef, DropoutDraws, Encoders, ImageContext, Read, Sequence, TokenBatch};
use crate::ops::index;
use crate::params::{tensor, values};

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

/// The random draws of a step.
#[derive(Clone, Debug)]
pub enum Draws {
    /// A pure function of this seed.
    Seeded(u64),
    /// Given draws, for comparison with another implementation.
    Replay {
        /// For each text, the image that serves as its negative.
        negative_image: Vec<usize>,
        /// For each image, the text that serves as its negative.
        negative_text: Vec<usize>,
        /// For each token row, its masking draws.
        masks: Vec<MaskDraw>,
    },
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
    pub parts: Vec<Part>,
    /// Contrastive loss image to text `[1]`.
    pub loss_i2t: Tensor<1>,
    /// Contrastive loss text to image `[1]`.
    pub loss_t2i: Tensor<1>,
    /// States of the images.
    pub image_embeds: Tensor<2>,
    /// Momentum states of the images.
    pub image_embeds_m: Tensor<2>,
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
    pub masked_ids: Vec<u32>,
    /// Word to predict, per token.
    pub mlm_labels: Vec<Option<u32>>,
    /// Word logits at the masked tokens, of the online and the momentum model.
    pub mlm_logits: Option<[Tensor<2>; 2]>,
}

impl Step {
    /// What is minimised: the plain sum.
    #[must_use]
    pub fn loss(&self) -> Tensor<1> {
        self.loss_mlm.clone() + self.loss_ita.clone() + self.loss_itm.clone()
    }
}

struct DrawState {
    draws: Draws,
    text: DropoutDraws,
    momentum: DropoutDraws,
}

impl DrawState {
    fn new(draws: Draws, settings: &Settings) -> Self {
        let dropout = |p: f32, salt: u64| match &draws {
            Draws::Seeded(seed) => DropoutDraws::new(p, mix(*seed, salt)),
            Draws::Replay { .. } => DropoutDraws::none(),
        };
        let text = dropout(settings.dropout, 1);
        let momentum = dropout(settings.momentum_dropout, 2);
        Self { draws, text, momentum }
    }

    fn mask(&self, row: usize, vocab_size: usize) -> MaskDraw {
        match &self.draws {
            Draws::Replay { masks, .. } => masks.get(row).copied().unwrap_or(MaskDraw {
                mask: 1.0,
                replace: 1.0,
                random: 1.0,
                word: 0,
            }),
            Draws::Seeded(seed) => MaskDraw::seeded(*seed, row, vocab_size),
        }
    }

    fn negatives(
        &self,
        images: bool,
        sharpness: Option<f64>,
        sims: &Tensor<2>,
        allowed: impl Fn(usize, usize) -> bool,
    ) -> Vec<Option<usize>> {
        match &self.draws {
            Draws::Replay { negative_image, negative_text, .. } => {
                let given = if images { negative_image } else { negative_text };
                given.iter().copied().map(Some).collect()
            }
            Draws::Seeded(seed) => {
                let batch = sims.dims()[0];
                let logits = match sharpness {
                    Some(factor) => values(sims.clone().inner().narrow(1, 0, batch) * factor),
                    None => vec![0.0; batch * batch],
                };
                let seed = mix(*seed, if images { 7 } else { 8 });
                sample_negatives(&logits, batch, allowed, |row| {
                    f64::from(albef_kernels::uniform(seed, row as u64))
                })
            }
        }
    }
}

/// The rows of a batch at which `wanted[text]`, counted from the text's start, lie.
fn masked_rows(batch: &TokenBatch, wanted: &[Vec<usize>]) -> Vec<usize> {
    let texts = batch.sequences.iter().zip(wanted);
    texts.flat_map(|(s, wanted)| wanted.iter().map(|i| s.start + i)).collect()
}

/// The parts of contrast and of masked words under their names in logs.
fn named(splits: [Option<Split<1>>; 2]) -> Vec<Part> {
    let [ita, mlm] = splits;
    let ita = ita.map(|split| split.named(["ita_hard", "ita_soft", "ita_kl"]));
    let mlm = mlm.map(|split| split.named(["mlm_hard", "mlm_soft", "mlm_kl"]));
    ita.into_iter().chain(mlm).flatten().collect()
}

/// A seed for one purpose out of the seed of a step.
#[must_use]
pub fn mix(seed: u64, salt: u64) -> u64 {
    albef_random::scramble(seed ^ salt.wrapping_mul(albef_random::SPREAD))
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
    draws: Draws,
) -> Result<Step> {
    let size = batch.text.len();
    let images = batch.images.dims()[0];
    if images != size || size == 0 {
        return Err(Error::ImageOfText { texts: size, given: images, images });
    }
    let mut draws = DrawState::new(draws, settings);
    let online = &model.encoders;
    let tokens = &batch.text;
    let class: Vec<Vec<usize>> = vec![vec![0]; size];

    let image = online.visual_encoder.forward(Tensor::from_inner(batch.images.clone()))?;
    let image_feat = online.image_feat(&image);
    let text = online.text_encoder.text(tokens, Read::All, &mut draws.text, None)?;
    let device = text.device();
    let class_states = text.clone().select(0, index(&tokens.class_rows(), &device));
    let text_feat = online.text_feat(class_states);

    let image_m = momentum.visual_encoder.forward(batch.images.clone())?;
    let image_feat_m = momentum.image_feat(&image_m);
    let read = Read::Rows(&class);
    let text_m = momentum.text_encoder.text(tokens, read, &mut draws.momentum, None)?;
    let text_feat_m = momentum.text_feat(text_m);

    // Image-text contrastive loss.
    let plain = image_feat_m.device();
    let temp = model.temp.clone();
    let temp_m = temp.clone().inner();
    let sim = |a: &Tensor<2>, b: &Tensor<2>, queue: Option<Tensor<2>>| {
        let constant = Tensor::from_inner(b.clone());
        let queue = queue.map(Tensor::from_inner);
        itc::similarities(a.clone(), constant, queue, temp.clone())
    };
    let sim_m = |a: &Tensor<2>, b: &Tensor<2>, queue: Option<Tensor<2>>| {
        itc::similarities(a.clone(), b.clone(), queue, temp_m.clone())
    };
    let sims = [
        sim(&image_feat, &text_feat_m, queues.text()),
        sim(&text_feat, &image_feat_m, queues.image()),
    ];
    let sims_m = [
        sim_m(&image_feat_m, &text_feat_m, queues.text()),
        sim_m(&text_feat_m, &image_feat_m, queues.image()),
    ];
    let ids = settings.image_index.then_some((&batch.image_ids[..], queues.ids()));
    let rows = itc::positives(size, ids, queues.len());
    let positives: Tensor<2> = tensor(rows, [size, size + queues.len()], &plain);
    let taught = settings.alpha != 0.0;
    let predicted = sims_m.clone().map(|s| taught.then(|| activation::softmax(s, 1)));
    let targets =
        predicted.clone().map(|q| itc::soft_targets(q, positives.clone(), settings.alpha));
    let log_p = sims.clone().map(|s| activation::log_softmax(s, 1));
    let cross =
        |i: usize| itc::cross_entropy(log_p[i].clone(), Tensor::from_inner(targets[i].clone()));
    let (loss_i2t, loss_t2i) = (cross(0), cross(1));
    let split_of = |i: usize| {
        let q = predicted[i].clone().filter(|_| settings.ita)?;
        Some(itc::split(log_p[i].clone().inner(), q, sims_m[i].clone(), positives.clone()))
    };
    let ita_split = split_of(0).zip(split_of(1)).map(|(a, b)| a.mean_with(b));
    let loss_ita = if settings.ita {
        (loss_i2t.clone() + loss_t2i.clone()) / 2.0
    } else {
        Tensor::zeros([1], &device)
    };

    // Hard negatives, first an image for each text, then a text for each image.
    let allowed = |a: usize, b: usize| {
        let related = |(x, y): &(usize, usize)| (*x, *y) == (a, b) || (*y, *x) == (a, b);
        a != b
            && !batch.related.iter().any(related)
            && !(settings.image_index && batch.image_ids[a] == batch.image_ids[b])
    };
    let learned = f64::from(values(temp_m)[0]);
    let sharpness =
        settings.hard_negatives.then(|| settings.negative_temp.map_or(1.0, |own| learned / own));
    let negative_image = draws.negatives(true, sharpness, &sims[1], allowed);
    let negative_text = draws.negatives(false, sharpness, &sims[0], allowed);

    // Masking.
    let (masked_ids, mut mlm_labels) =
        mask_tokens(&tokens.ids, settings.special, settings.mlm_probability, |row| {
            draws.mask(row, settings.vocab_size)
        });
    if !settings.mlm {
        mlm_labels.fill(None);
    }
    let mut masked = TokenBatch { ids: masked_ids.clone(), sequences: tokens.sequences.clone() };
    let over_positions =
        taught && settings.mlm_mod && settings.mlm_distill_axis == DistillAxis::Sequence;
    if over_positions {
        masked = masked.filled(settings.special.pad);
    }
    let targets_of: Vec<Vec<usize>> = tokens
        .sequences
        .iter()
        .map(|s| (0..s.rows).filter(|i| mlm_labels[s.start + i].is_some()).collect())
        .collect();
    let any_masked = targets_of.iter().any(|t| !t.is_empty());

    // All pairs that go through the fusion layers: (text, image).
    let mut pairs: Vec<(usize, usize)> = (0..size).map(|b| (b, b)).collect();
    pairs.extend(negative_image.iter().enumerate().filter_map(|(b, j)| j.map(|j| (b, j))));
    pairs.extend(negative_text.iter().enumerate().filter_map(|(b, k)| k.map(|k| (k, b))));
    if !settings.itm {
        pairs.clear();
    }
    let itm_labels: Vec<i64> = (0..pairs.len()).map(|i| i64::from(i < size)).collect();
    let mut rows = Vec::new();
    let mut sequences = Vec::new();
    let mut image_of = Vec::new();
    for (t, i) in &pairs {
        let s = tokens.sequences[*t];
        sequences.push(Sequence { start: rows.len(), ..s });
        rows.extend(s.range());
        image_of.push(*i);
    }
    let mut states = text.clone().select(0, index(&rows, &device));
    let mut read: Vec<Vec<usize>> = vec![vec![0]; pairs.len()];
    if any_masked {
        let masked_states = online.text_encoder.text(&masked, Read::All, &mut draws.text, None)?;
        states = if pairs.is_empty() {
            masked_states
        } else {
            Tensor::cat(vec![states, masked_states], 0)
        };
        for (b, s) in masked.sequences.iter().enumerate() {
            sequences.push(Sequence { start: rows.len() + s.start, ..*s });
            image_of.push(b);
            // Over positions the head sees every row, as that of the official code does.
            let wanted = || targets_of[b].clone();
            read.push(if over_positions { (0..s.rows).collect() } else { wanted() });
        }
    }
    // Without matching and masked words no pair is fused.
    let mut fused = Tensor::zeros([0, text.dims()[1]], &device);
    if !sequences.is_empty() {
        let context = ImageContext { states: &image, image_of: &image_of, visible: None };
        let read = Read::Rows(&read);
        let encoder = &online.text_encoder;
        fused = encoder.fusion(states, &sequences, context, read, &mut draws.text, None)?;
    }

    // Image-text matching loss.
    let mut itm_logits = Tensor::zeros([0, 2], &device);
    let mut loss_itm = Tensor::zeros([1], &device);
    if !pairs.is_empty() {
        itm_logits = model.itm_logits(fused.clone().narrow(0, 0, pairs.len()));
        let labels: Vec<usize> = itm_labels.iter().map(|l| *l as usize).collect();
        loss_itm = hard_cross_entropy(activation::log_softmax(itm_logits.clone(), 1), &labels);
    }

    // Masked language modelling.
    let mut mlm_logits = None;
    let mut mlm_split = None;
    let mut loss_mlm = Tensor::zeros([1], &device);
    if any_masked {
        let head = online.mlm_head.as_ref().ok_or(Error::NoMlmHead)?;
        let count = fused.dims()[0] - pairs.len();
        let mut logits = head.forward(fused.narrow(0, pairs.len(), count));
        let own: Vec<usize> = (0..size).collect();
        let context = ImageContext { states: &image_m, image_of: &own, visible: None };
        let read = Read::Rows(&targets_of);
        let states_m =
            momentum.text_encoder.multi_modal(&masked, context, read, &mut draws.momentum, None)?;
        let head_m = momentum.mlm_head.as_ref().ok_or(Error::NoMlmHead)?;
        let logits_m = head_m.forward(states_m);
        let labels: Vec<usize> = mlm_labels.iter().flatten().map(|l| *l as usize).collect();
        let mut other = None;
        if over_positions {
            let at = index(&masked_rows(&masked, &targets_of), &device);
            let log_p = log_softmax_over_positions(logits.clone(), size);
            other = Some(log_p.select(0, at.clone()));
            logits = logits.select(0, at);
        }
        let teacher = (taught && settings.mlm_mod).then(|| logits_m.clone());
        let out = distilled(logits.clone(), teacher, other, &labels, settings.alpha).mean();
        loss_mlm = out.loss;
        mlm_split = out.split;
        mlm_logits = Some([logits, logits_m]);
    }

    let mut parts = named([ita_split, mlm_split]);
    let labels: Vec<usize> = itm_labels.iter().map(|l| *l as usize).collect();
    let right = share_right(itm_logits.clone().inner(), &labels);
    parts.extend(right.map(|share| ("itm_accuracy", share)));
    let drawn = negative_image.iter().chain(&negative_text);
    let missing = drawn.filter(|negative| negative.is_none()).count();
    if settings.itm && missing > 0 {
        parts.push(("itm_without_negative", missing as f64));
    }

    Ok(Step {
        loss_ita,
        loss_itm,
        loss_mlm,
        parts,
        loss_i2t,
        loss_t2i,
        image_embeds: image.tokens,
        image_embeds_m: image_m.tokens,
        text_embeds: text,
        feats: [image_feat, text_feat, image_feat_m, text_feat_m],
        sims,
        sims_m,
        targets,
        itm_logits,
        itm_labels,
        masked_ids,
        mlm_labels,
        mlm_logits,
    })
}
