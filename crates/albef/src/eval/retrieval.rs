//! Retrieval: rank by cosine, then re-rank the best `k` by the matching head (paper section 5).
//!
//! Pairs are grouped by image, so an image's keys and values are projected once per layer for all
//! the texts that it meets, in either direction; a pair that both directions want is scored once.
//! States live for one group of images only: memory does not grow with gallery times tokens.

mod report;

pub use report::{RetrievalReport, intervals, measure, recall_json};

use std::collections::HashMap;

use burn::tensor::Tensor;

use super::metrics::{RecallReport, best_rank};
use serde::{Deserialize, Serialize};

use crate::Control;
use crate::error::Result;
use crate::model::{
    Albef, DropoutRng, ImageContext, ImageStates, OutputRows, Sequence, TokenBatch,
};
use crate::ops::index;
use crate::params::{outputs, to_vec};

/// Images and texts to be matched.
#[derive(Clone, Copy, Debug)]
pub struct Gallery<'a> {
    /// Number of images.
    pub images: usize,
    /// Token ids of each text.
    pub texts: &'a [Vec<u32>],
    /// The image of each text.
    pub txt2img: &'a [usize],
    /// Concept of each image: images of one concept count as equal.
    pub ids: Option<&'a [u32]>,
}

impl Gallery<'_> {
    /// Whether a text belongs to an image.
    #[must_use]
    pub fn relevant(&self, image: usize, text: usize) -> bool {
        let own = self.txt2img[text];
        own == image || self.ids.is_some_and(|ids| ids[own] == ids[image])
    }
}

/// The score of a pair in re-ranking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Score {
    /// The logit of "match" alone, as the official code; the cosine is not added.
    #[default]
    #[serde(rename = "itm")]
    Itm,
    /// The logit of "match" plus the cosine, as LAVIS.
    #[serde(rename = "itm+itc")]
    ItmItc,
    /// The probability of "match", as its log-odds, which order alike and do not saturate.
    #[serde(rename = "itm-prob")]
    ItmProb,
    /// The log-odds of "match" plus the cosine over the learned temperature. Hard negatives are drawn with
    /// the probabilities of contrast, so matching learns what contrast leaves open, and the product of
    /// both is the posterior over candidates. Neither the paper nor LAVIS has it.
    #[serde(rename = "posterior")]
    Posterior,
}

impl Score {
    /// All scores.
    pub const ALL: [Self; 4] = [Self::Itm, Self::ItmItc, Self::ItmProb, Self::Posterior];

    /// The name in options and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Itm => "itm",
            Self::ItmItc => "itm+itc",
            Self::ItmProb => "itm-prob",
            Self::Posterior => "posterior",
        }
    }

    /// Of the logits (no match, match) and, where it needs it, the cosine; `temp` is the learned temperature.
    pub fn of(self, logits: [f32; 2], temp: f32, cosine: impl Fn() -> f32) -> f32 {
        self.weighted(1.0, logits, temp, cosine)
    }

    /// [`Score::of`], with another weight of the log-odds in [`Score::Posterior`] than 1.
    pub fn weighted(
        self,
        weight: f32,
        [no, yes]: [f32; 2],
        temp: f32,
        cosine: impl Fn() -> f32,
    ) -> f32 {
        match self {
            Self::Itm => yes,
            Self::ItmItc => yes + cosine(),
            Self::ItmProb => yes - no,
            Self::Posterior => weight * (yes - no) + cosine() / temp,
        }
    }
}

/// How to evaluate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Candidates that are re-ranked; 0 for none.
    pub k: usize,
    /// What re-ranking goes by.
    pub score: Score,
    /// Images encoded at a time.
    pub image_batch: usize,
    /// Texts encoded at a time.
    pub text_batch: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { k: 128, score: Score::Itm, image_batch: 16, text_batch: 64 }
    }
}

/// What an evaluation found.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// Unit-length image features `[images, E]`.
    pub image_feats: Vec<f32>,
    /// Unit-length text features `[texts, E]`.
    pub text_feats: Vec<f32>,
    width: usize,
    /// Per image its best texts by falling similarity, with their scores of re-ranking.
    pub i2t: Vec<Vec<(usize, f32)>>,
    /// Per text its best images.
    pub t2i: Vec<Vec<(usize, f32)>>,
    /// Ranks of the first stage: per image, per text.
    pub itc_ranks: [Vec<usize>; 2],
    /// Ranks after re-ranking.
    pub itm_ranks: [Vec<usize>; 2],
    /// Recalls of the first stage.
    pub itc: RecallReport,
    /// Recalls after re-ranking.
    pub itm: RecallReport,
}

impl Evaluation {
    /// Cosines `[images, texts]`.
    #[must_use]
    pub fn sims(&self) -> Vec<f32> {
        let rows = self.image_feats.chunks(self.width.max(1));
        rows.flat_map(|f| similarities(f, &self.text_feats)).collect()
    }
}

/// Dot products of one feature with each row of `rows`.
#[must_use]
pub fn similarities(feature: &[f32], rows: &[f32]) -> Vec<f32> {
    rows.chunks(feature.len().max(1))
        .map(|row| feature.iter().zip(row).map(|(a, b)| a * b).sum())
        .collect()
}

/// The indices of the `k` largest values, by falling value, ties to the lower index.
#[must_use]
pub fn top_k(scores: &[f32], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    let falling = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
    let k = k.min(order.len());
    if k == 0 {
        return Vec::new();
    }
    if k < order.len() {
        order.select_nth_unstable_by(k - 1, falling);
        order.truncate(k);
    }
    order.sort_unstable_by(falling);
    order
}

/// Features `[texts, E]` of token sequences, a batch at a time.
///
/// # Errors
/// If a text does not fit the model.
pub fn embed_texts(model: &Albef, texts: &[Vec<u32>], batch: usize) -> Result<Vec<f32>> {
    let mut feats = Vec::with_capacity(texts.len() * model.config.embed_dim);
    for part in texts.chunks(batch.max(1)) {
        let tokens = TokenBatch::packed(part);
        let found = model.encoders.embed_text(&tokens, &mut DropoutRng::none())?;
        feats.extend(outputs(found, "text features")?);
    }
    Ok(feats)
}

/// Evaluates a gallery. `load` gives normalized images `[n, 3, S, S]` by index.
///
/// # Errors
/// If an image cannot be loaded, an input does not fit the model, or [`crate::Error::Cancelled`].
pub fn evaluate(
    model: &Albef,
    gallery: &Gallery<'_>,
    options: &Options,
    load: &dyn Fn(&[usize]) -> Result<Tensor<4>>,
    control: &Control,
) -> Result<Evaluation> {
    let width = model.config.embed_dim;
    let all: Vec<usize> = (0..gallery.images).collect();
    let mut image_feats = Vec::with_capacity(gallery.images * width);
    for part in all.chunks(options.image_batch.max(1)) {
        control.check()?;
        let states = model.encoders.visual_encoder.forward(load(part)?)?;
        image_feats.extend(outputs(model.encoders.image_feat(&states), "image features")?);
        control.advance("images", image_feats.len() / width, gallery.images);
    }
    let text_feats = embed_texts(model, gallery.texts, options.text_batch)?;

    // First stage: ranks over all candidates, and the best k of each row and column.
    let mut i2t: Vec<Vec<(usize, f32)>> = Vec::with_capacity(gallery.images);
    let mut t2i: Vec<Vec<(usize, f32)>> = Vec::with_capacity(gallery.texts.len());
    let mut itc_ranks = [Vec::new(), Vec::new()];
    let scored = |s: Vec<f32>| s.into_iter().enumerate().collect::<Vec<_>>();
    for (i, feature) in image_feats.chunks(width).enumerate() {
        let sims = similarities(feature, &text_feats);
        i2t.push(top_k(&sims, options.k).into_iter().map(|t| (t, f32::NAN)).collect());
        itc_ranks[0].push(best_rank(&scored(sims), |t| gallery.relevant(i, t)));
    }
    for (t, feature) in text_feats.chunks(width).enumerate() {
        let sims = similarities(feature, &image_feats);
        t2i.push(top_k(&sims, options.k).into_iter().map(|i| (i, f32::NAN)).collect());
        itc_ranks[1].push(best_rank(&scored(sims), |i| gallery.relevant(i, t)));
    }
    let itc = RecallReport::from_ranks(&itc_ranks[0], &itc_ranks[1]);

    let mut out = Evaluation {
        image_feats,
        text_feats,
        width,
        i2t,
        t2i,
        itm_ranks: itc_ranks.clone(),
        itc_ranks,
        itc,
        itm: itc,
    };
    if options.k > 0 {
        rerank(model, gallery, options, load, control, &mut out)?;
        out.itm_ranks = [
            rank_all(&out.i2t, |i, t| gallery.relevant(i, t)),
            rank_all(&out.t2i, |t, i| gallery.relevant(i, t)),
        ];
        out.itm = RecallReport::from_ranks(&out.itm_ranks[0], &out.itm_ranks[1]);
    }
    Ok(out)
}

fn rank_all(lists: &[Vec<(usize, f32)>], relevant: impl Fn(usize, usize) -> bool) -> Vec<usize> {
    lists.iter().enumerate().map(|(q, list)| best_rank(list, |c| relevant(q, c))).collect()
}

fn rerank(
    model: &Albef,
    gallery: &Gallery<'_>,
    options: &Options,
    load: &dyn Fn(&[usize]) -> Result<Tensor<4>>,
    control: &Control,
    out: &mut Evaluation,
) -> Result<()> {
    let mut wanted: Vec<Vec<usize>> =
        out.i2t.iter().map(|list| list.iter().map(|(t, _)| *t).collect()).collect();
    for (t, list) in out.t2i.iter().enumerate() {
        list.iter().for_each(|(i, _)| wanted[*i].push(t));
    }
    for texts in &mut wanted {
        texts.sort_unstable();
        texts.dedup();
    }
    let all: Vec<usize> = (0..gallery.images).collect();
    let temp = to_vec(model.temp.clone().inner())[0];
    let mut done = 0;
    for part in all.chunks(options.image_batch.max(1)) {
        control.check()?;
        let states = model.encoders.visual_encoder.forward(load(part)?)?;
        let pairs: Vec<(usize, usize)> = part
            .iter()
            .enumerate()
            .flat_map(|(slot, i)| wanted[*i].iter().map(move |t| (slot, *t)))
            .collect();
        let logits = score_pairs(model, gallery.texts, &pairs, options.text_batch, &states)?;
        let (images, texts, width) = (&out.image_feats, &out.text_feats, out.width);
        let row = |i: usize| i * width..(i + 1) * width;
        let score = |(slot, t): (usize, usize), logits| {
            let cosine = || similarities(&images[row(part[slot])], &texts[row(t)])[0];
            options.score.of(logits, temp, cosine)
        };
        let place: HashMap<(usize, usize), f32> =
            pairs.into_iter().zip(logits).map(|(p, logits)| (p, score(p, logits))).collect();
        for (slot, i) in part.iter().enumerate() {
            for (t, score) in &mut out.i2t[*i] {
                *score = place[&(slot, *t)];
            }
            for t in &wanted[*i] {
                if let Some(entry) = out.t2i[*t].iter_mut().find(|(j, _)| j == i) {
                    entry.1 = place[&(slot, *t)];
                }
            }
        }
        done += part.len();
        control.advance("re-ranking", done, gallery.images);
    }
    Ok(())
}

/// Pairs that are fused at a time: what bounds the memory where an image meets thousands of texts.
const PAIRS: usize = 2048;

/// Matching logits (no match, match) of `(image, text)` pairs, in their order. Each text is encoded once, and the
/// images' keys and values are projected once per layer.
///
/// # Errors
/// If a text does not fit the model.
pub fn score_pairs(
    model: &Albef,
    texts: &[Vec<u32>],
    pairs: &[(usize, usize)],
    text_batch: usize,
    images: &ImageStates,
) -> Result<Vec<[f32; 2]>> {
    if pairs.is_empty() {
        return Ok(Vec::new());
    }
    let mut used: Vec<usize> = pairs.iter().map(|(_, t)| *t).collect();
    used.sort_unstable();
    used.dedup();
    let mut place = HashMap::new();
    let mut states = Vec::new();
    let mut start = 0;
    for part in used.chunks(text_batch.max(1)) {
        let part_texts: Vec<&[u32]> = part.iter().map(|t| &texts[*t][..]).collect();
        let tokens = TokenBatch::packed(&part_texts);
        let encoder = &model.encoders.text_encoder;
        states.push(encoder.text(&tokens, OutputRows::All, &mut DropoutRng::none(), None)?);
        for (t, s) in part.iter().zip(&tokens.sequences) {
            place.insert(*t, Sequence { start: start + s.start, ..*s });
        }
        start += tokens.ids.len();
    }
    let states = Tensor::cat(states, 0);
    let mut logits = Vec::with_capacity(pairs.len());
    for part in pairs.chunks(PAIRS) {
        let mut rows = Vec::new();
        let mut tokens = TokenBatch::default();
        for (_, text) in part {
            let s = place[text];
            tokens.sequences.push(Sequence { start: rows.len(), ..s });
            rows.extend(s.range());
        }
        let states = states.clone().select(0, index(&rows, &states.device()));
        let image_of: Vec<usize> = part.iter().map(|(i, _)| *i).collect();
        let context = ImageContext { states: images, image_of: &image_of, visible: None };
        let found = outputs(model.match_texts(states, &tokens, context)?, "matching logits")?;
        logits.extend_from_slice(found.as_chunks::<2>().0);
    }
    Ok(logits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ModelConfig;
    use crate::init::fresh_params;
    use crate::params::{cpu, from_vec};

    /// All pairs of two images and three texts, by a score.
    fn scored(score: Score) -> Evaluation {
        let config = ModelConfig::nano();
        let params =
            fresh_params(&crate::task::TaskRef::pretrain().schema(&config), 0.07, 3, &cpu())
                .unwrap();
        let model = Albef::new(&config, &params.frozen(crate::ops::Ops::for_device(&cpu())));
        let side = config.vision.image_res;
        let load = |which: &[usize]| -> Result<Tensor<4>> {
            let pixel = |i: &usize, at: usize| ((i + 1) * (at % 97)) as f32 / 97.0 - 0.5;
            let plane = 3 * side * side;
            let pixels = which.iter().flat_map(|i| (0..plane).map(move |at| pixel(i, at)));
            Ok(from_vec(pixels.collect(), [which.len(), 3, side, side], &cpu()))
        };
        let texts = [vec![2, 9], vec![2, 11, 12], vec![2, 5, 6, 7]];
        let gallery = Gallery { images: 2, texts: &texts, txt2img: &[0, 0, 1], ids: None };
        let options = Options { k: 3, score, ..Options::default() };
        evaluate(&model.unwrap(), &gallery, &options, &load, &Control::new()).unwrap()
    }

    #[test]
    fn the_cosine_is_added_where_asked_for_in_both_directions() {
        let (plain, sum) = (scored(Score::Itm), scored(Score::ItmItc));
        let sims = plain.sims();
        for (image, (was, is)) in plain.i2t.iter().zip(&sum.i2t).enumerate() {
            for ((t, logit), (same, score)) in was.iter().zip(is) {
                assert_eq!((t, logit + sims[image * 3 + t]), (same, *score));
            }
        }
        for (text, (was, is)) in plain.t2i.iter().zip(&sum.t2i).enumerate() {
            for ((i, logit), (same, score)) in was.iter().zip(is) {
                assert_eq!((i, logit + sims[i * 3 + text]), (same, *score));
            }
        }
    }

    #[test]
    fn the_probability_of_a_match_orders_by_both_logits() {
        let of = |logits| Score::ItmProb.of(logits, f32::NAN, || f32::NAN);
        assert!(of([-3.0, 1.0]) > of([0.0, 2.0]));
        let sum = Score::Posterior.of([-3.0, 1.0], 0.05, || 0.4);
        assert!((sum - 12.0).abs() < 1e-5, "log-odds of 4 and a cosine of 0.4 over 0.05: {sum}");
        let half = Score::Posterior.weighted(0.5, [-3.0, 1.0], 0.05, || 0.4);
        assert!((half - 10.0).abs() < 1e-5, "{half}");
        // Far beyond where the probability itself is 1 in f32.
        assert!(of([-60.0, 60.0]) > of([-50.0, 60.0]));
    }
}
