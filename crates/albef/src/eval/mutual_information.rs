//! What the losses say about mutual information (paper section 4).
//!
//! InfoNCE over `c` candidates bounds the mutual information of two views from below:
//! `MI >= log c - loss`, never more than `log c`. The contrastive loss has image and text as views,
//! masked language modelling one word and the image with the rest of the text. The teacher's
//! pseudo-targets `q` are a distribution over further views: `exp H(q)` is how many they amount to.
//!
//! Nothing is recorded for gradients. Letters: `B` batch, `C` candidates (batch and queue), `V`
//! vocabulary, `W` masked words. Logarithms are natural; sums are in double precision.

mod analysis;
mod table;
#[cfg(test)]
mod tests;

pub use analysis::{Analysis, Options, measure, open};

use albef_data::dataset::Batch;
use burn::tensor::Tensor;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::model::{
    Albef, DropoutRng, Encoders, ImageContext, ImageStates, OutputRows, TokenBatch,
};
use crate::objectives::itc;
use crate::objectives::masking::{MaskDraw, SpecialIds, mask_tokens};
use crate::objectives::queue::Queues;
use crate::params::{from_vec, to_vec};

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// The model, on untracked weights.
    pub model: &'a Albef,
    /// The momentum model; without one the model is its own teacher.
    pub teacher: Option<&'a Encoders>,
    /// Further candidates. Their images are taken to be none of the batch.
    pub queues: Option<&'a Queues>,
    /// Special ids of the vocabulary.
    pub special: SpecialIds,
    /// Share of tokens to mask.
    pub mlm_probability: f32,
}

/// A loss and the bound that it gives.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bound {
    /// InfoNCE loss with one-hot targets.
    pub loss: f64,
    /// `log candidates - loss`.
    pub bound: f64,
}

/// The teacher's targets `q` beside the model's prediction `p`, means over rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Agreement {
    /// `H(q)`.
    pub entropy: f64,
    /// `exp` of the mean entropy: the effective number of views.
    pub effective_views: f64,
    /// `KL(q || p)`.
    pub kl: f64,
    /// What the teacher gives to the label.
    pub mass_on_label: f64,
}

/// One direction of the contrastive loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Direction {
    /// Loss and bound, the own pair being the label.
    #[serde(flatten)]
    pub bound: Bound,
    /// Loss where all candidates of the batch with the row's image id share the target.
    pub multi_positive_loss: f64,
    /// The teacher.
    pub teacher: Agreement,
}

/// The contrastive loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Contrastive {
    /// Candidates of a row, `B + Q`.
    pub candidates: usize,
    /// `log candidates`: no bound is higher.
    pub ceiling: f64,
    /// Image to text.
    pub i2t: Direction,
    /// Text to image.
    pub t2i: Direction,
    /// The mean of both directions.
    pub mean: Bound,
    /// Mean number of positives of a row, by image id.
    pub positives: f64,
    /// Mean over rows of `log k` for `k` positives: no loss with these targets is lower.
    pub multi_positive_floor: f64,
}

/// Masked language modelling.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Masked {
    /// Masked words.
    pub words: usize,
    /// `log V`: no bound is higher.
    pub ceiling: f64,
    /// With the text's own image.
    pub own_image: Bound,
    /// With another image of the batch.
    pub other_image: Bound,
    /// Bound with the own image less bound with another: what the image tells about the words.
    pub difference: f64,
    /// The teacher.
    pub teacher: Agreement,
}

/// All of it, over the batches added.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Pairs.
    pub pairs: usize,
    /// The contrastive loss.
    pub itc: Contrastive,
    /// Masked language modelling; `None` if no word was masked or the weights have no vocabulary
    /// head.
    pub mlm: Option<Masked>,
}

/// Sums over rows of `q` and `p`.
#[derive(Clone, Copy, Debug, Default)]
struct Rows {
    rows: usize,
    loss: f64,
    entropy: f64,
    kl: f64,
    mass: f64,
}

/// `log softmax` of a row.
fn log_softmax(row: &[f32]) -> Vec<f64> {
    let top = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = row.iter().map(|v| (f64::from(*v) - top).exp()).sum();
    let norm = top + sum.ln();
    row.iter().map(|v| f64::from(*v) - norm).collect()
}

impl Rows {
    /// Adds a row: logits of the model, log-probabilities of the teacher, and the label.
    fn add(&mut self, log_p: &[f64], log_q: &[f64], label: usize) {
        self.rows += 1;
        self.loss -= log_p[label];
        self.mass += log_q[label].exp();
        for (p, q) in log_p.iter().zip(log_q) {
            // What underflows has no mass.
            let mass = q.exp();
            self.entropy -= mass * q;
            self.kl += mass * (q - p);
        }
    }

    fn mean(&self, sum: f64) -> f64 {
        sum / self.rows.max(1) as f64
    }

    fn bound(&self, ceiling: f64) -> Bound {
        let loss = self.mean(self.loss);
        Bound { loss, bound: ceiling - loss }
    }

    fn agreement(&self) -> Agreement {
        let entropy = self.mean(self.entropy);
        Agreement {
            entropy,
            effective_views: entropy.exp(),
            kl: self.mean(self.kl),
            mass_on_label: self.mean(self.mass),
        }
    }
}

/// What the batches so far add up to.
#[derive(Clone, Debug, Default)]
pub struct MutualInformation {
    candidates: Option<usize>,
    vocabulary: usize,
    /// Image to text, text to image.
    directions: [Rows; 2],
    multi_positive: [f64; 2],
    positives: f64,
    log_positives: f64,
    words: Rows,
    other_image: f64,
    /// Per text: what the own image adds to the log-probability of its masked words, and how many
    /// they are.
    by_text: Vec<(f64, f64)>,
}

impl MutualInformation {
    /// Adds a batch. `masks` gives the draws of a token row; `other[b]` is the image that text `b`
    /// gets in the place of its own.
    ///
    /// # Errors
    /// If the batch does not fit the model, or has not as many candidates as the one before.
    pub fn add(
        &mut self,
        parts: &Parts<'_>,
        batch: &Batch,
        masks: impl FnMut(usize) -> MaskDraw,
        other: &[usize],
    ) -> Result<()> {
        let size = batch.text.len();
        let candidates = size + parts.queues.map_or(0, Queues::len);
        let before = *self.candidates.get_or_insert(candidates);
        if before != candidates {
            return Err(Error::Config(format!(
                "a batch with {candidates} candidates after one with {before}: bounds over \
                 different numbers of candidates have no common mean"
            )));
        }
        let online = &parts.model.encoders;
        let side = parts.model.config.vision.image_res;
        let shape = [batch.images.len() / (3 * side * side).max(1), 3, side, side];
        let pixels = from_vec(batch.images.clone(), shape, &parts.model.temp.device());
        let image = online.visual_encoder.forward(pixels.clone())?;
        let image_m = match parts.teacher {
            Some(teacher) => teacher.visual_encoder.forward(pixels)?,
            None => image.clone(),
        };
        self.contrast(parts, batch, &image, &image_m)?;
        self.mask(parts, batch, (&image, &image_m), masks, other)
    }

    fn contrast(
        &mut self,
        parts: &Parts<'_>,
        batch: &Batch,
        image: &ImageStates,
        image_m: &ImageStates,
    ) -> Result<()> {
        let online = &parts.model.encoders;
        let none = &mut DropoutRng::none();
        let feats = [online.image_feat(image), online.embed_text(&batch.text, none)?];
        let feats_m = match parts.teacher {
            Some(teacher) => [teacher.image_feat(image_m), teacher.embed_text(&batch.text, none)?],
            None => feats.clone(),
        };
        let size = batch.text.len();
        let ids: Vec<Vec<usize>> = (0..size)
            .map(|b| (0..size).filter(|j| batch.image_ids[*j] == batch.image_ids[b]).collect())
            .collect();
        for positives in &ids {
            self.positives += positives.len() as f64;
            self.log_positives += (positives.len() as f64).ln();
        }
        let queues = [parts.queues.and_then(Queues::text), parts.queues.and_then(Queues::image)];
        for (side, queue) in queues.into_iter().enumerate() {
            let similarities = |feat: &Tensor<2>| {
                let (other, temp) = (feats_m[1 - side].clone(), parts.model.temp.clone());
                to_vec(itc::similarities(feat.clone(), other, queue.clone(), temp))
            };
            let (p, q) = (similarities(&feats[side]), similarities(&feats_m[side]));
            let width = p.len() / size.max(1);
            let rows = p.chunks(width.max(1)).zip(q.chunks(width.max(1)));
            for (b, (p, q)) in rows.enumerate() {
                let log_p = log_softmax(p);
                self.directions[side].add(&log_p, &log_softmax(q), b);
                let sum: f64 = ids[b].iter().map(|j| log_p[*j]).sum();
                self.multi_positive[side] -= sum / ids[b].len() as f64;
            }
        }
        Ok(())
    }

    fn mask(
        &mut self,
        parts: &Parts<'_>,
        batch: &Batch,
        (image, image_m): (&ImageStates, &ImageStates),
        masks: impl FnMut(usize) -> MaskDraw,
        other: &[usize],
    ) -> Result<()> {
        let tokens = &batch.text;
        let (ids, labels) = mask_tokens(&tokens.ids, parts.special, parts.mlm_probability, masks);
        let masked = TokenBatch { ids, sequences: tokens.sequences.clone() };
        let read: Vec<Vec<usize>> = tokens
            .sequences
            .iter()
            .map(|s| (0..s.rows).filter(|i| labels[s.start + i].is_some()).collect())
            .collect();
        let labels: Vec<usize> = labels.iter().flatten().map(|l| *l as usize).collect();
        if labels.is_empty() || parts.model.encoders.mlm_head.is_none() {
            return Ok(());
        }
        // Word logits `[W, V]` of one of the copies, text `b` looking at image `image_of[b]`.
        let logits = |encoders: &Encoders, states: &ImageStates, image_of: &[usize]| {
            let head = encoders.mlm_head.as_ref().ok_or(Error::NoMlmHead)?;
            let context = ImageContext { states, image_of, visible: None };
            let none = &mut DropoutRng::none();
            let rows = encoders.text_encoder.multi_modal(
                &masked,
                context,
                OutputRows::Rows(&read),
                none,
                None,
            )?;
            Ok::<_, Error>(to_vec(head.forward(rows)))
        };
        let own: Vec<usize> = (0..tokens.len()).collect();
        let p = logits(&parts.model.encoders, image, &own)?;
        let p_other = logits(&parts.model.encoders, image, other)?;
        let q = match parts.teacher {
            Some(teacher) => logits(teacher, image_m, &own)?,
            None => p.clone(),
        };
        self.vocabulary = p.len() / labels.len();
        let text_of = read.iter().enumerate().flat_map(|(b, rows)| rows.iter().map(move |_| b));
        let first = self.by_text.len();
        self.by_text.resize(first + tokens.len(), (0.0, 0.0));
        let row = |logits: &[f32], w: usize| {
            log_softmax(&logits[w * self.vocabulary..(w + 1) * self.vocabulary])
        };
        for ((w, label), text) in labels.iter().enumerate().zip(text_of) {
            let (log_p, log_other) = (row(&p, w), row(&p_other, w));
            self.words.add(&log_p, &row(&q, w), *label);
            self.other_image -= log_other[*label];
            let sum = &mut self.by_text[first + text];
            sum.0 += log_p[*label] - log_other[*label];
            sum.1 += 1.0;
        }
        Ok(())
    }

    /// Per text: what its own image adds to the summed log-probability of its masked words in the
    /// place of another image, and how many these words are.
    #[must_use]
    pub fn by_text(&self) -> &[(f64, f64)] {
        &self.by_text
    }

    /// The means over all batches.
    #[must_use]
    pub fn report(&self) -> Report {
        let pairs = self.directions[0].rows;
        let ceiling = (self.candidates.unwrap_or(0).max(1) as f64).ln();
        let share = |sum: f64| sum / pairs.max(1) as f64;
        let direction = |side: usize| Direction {
            bound: self.directions[side].bound(ceiling),
            multi_positive_loss: share(self.multi_positive[side]),
            teacher: self.directions[side].agreement(),
        };
        let (i2t, t2i) = (direction(0), direction(1));
        let loss = (i2t.bound.loss + t2i.bound.loss) / 2.0;
        let itc = Contrastive {
            candidates: self.candidates.unwrap_or(0),
            ceiling,
            i2t,
            t2i,
            mean: Bound { loss, bound: ceiling - loss },
            positives: share(self.positives),
            multi_positive_floor: share(self.log_positives),
        };
        let mlm = (self.words.rows > 0).then(|| {
            let ceiling = (self.vocabulary as f64).ln();
            let own_image = self.words.bound(ceiling);
            let loss = self.words.mean(self.other_image);
            let other_image = Bound { loss, bound: ceiling - loss };
            Masked {
                words: self.words.rows,
                ceiling,
                own_image,
                other_image,
                difference: own_image.bound - other_image.bound,
                teacher: self.words.agreement(),
            }
        });
        Report { pairs, itc, mlm }
    }
}

/// For each text an image of the batch with another image id: the first from `1 + shift` places on,
/// round the batch.
///
/// # Errors
/// If all images of the batch have one id.
pub fn other_images(image_ids: &[i64], shift: usize) -> Result<Vec<usize>> {
    let size = image_ids.len();
    (0..size)
        .map(|b| {
            let from = 1 + shift % size.saturating_sub(1).max(1);
            (0..size)
                .map(|step| (b + from + step) % size)
                .find(|j| image_ids[*j] != image_ids[b])
                .ok_or_else(|| {
                    Error::Config(format!(
                        "all {size} images of a batch have one image id, so no text can be shown \
                         another image; hint: a larger batch"
                    ))
                })
        })
        .collect()
}
