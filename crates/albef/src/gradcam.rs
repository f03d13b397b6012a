//! Where the model looks: Grad-CAM on attention maps (paper section 6).
//!
//! The map of one layer becomes a leaf of the gradient computation, so only what lies above it is
//! differentiated, and no weight gets a gradient.

use std::ops::Range;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::model::{
    Albef, DropoutRng, ImageContext, OutputRows, TextTrace, TokenBatch, VisionTrace,
};
use crate::ops::Ops;
use crate::params::{Params, to_vec};

/// The score that a map explains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroundingMode {
    /// The matching score, at the cross-attention of a fusion layer.
    #[default]
    Itm,
    /// The contrastive score, at the self-attention of an image block.
    Itc,
}

impl GroundingMode {
    /// Both modes.
    pub const ALL: [Self; 2] = [Self::Itm, Self::Itc];

    /// The name in options and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Itm => "itm",
            Self::Itc => "itc",
        }
    }

    /// The layers that have a map: fusion layers, or image blocks.
    #[must_use]
    pub fn layers(self, config: &ModelConfig) -> Range<usize> {
        match self {
            Self::Itm => config.text.fusion_layer..config.text.layers,
            Self::Itc => 0..config.vision.depth,
        }
    }

    /// The layer of the paper: the third fusion layer, or the last one of fewer; for `itc` the last image block.
    #[must_use]
    pub fn default_layer(self, config: &ModelConfig) -> usize {
        match self {
            Self::Itm => fusion_layer(config, false),
            Self::Itc => config.vision.depth.saturating_sub(1),
        }
    }

    /// [`GroundingMode::default_layer`], but one where single words have maps, if there is one: in the last
    /// fusion layer only `[CLS]` is read.
    #[must_use]
    pub fn default_word_layer(self, config: &ModelConfig) -> usize {
        match self {
            Self::Itm => fusion_layer(config, true),
            Self::Itc => self.default_layer(config),
        }
    }
}

fn fusion_layer(config: &ModelConfig, words: bool) -> usize {
    let first = config.text.fusion_layer;
    let last = config.text.layers.saturating_sub(1 + usize::from(words));
    (first + 2).min(last.max(first))
}

/// What the attention map shows of a batch of pairs.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionMaps {
    /// Attention probabilities `[pairs, heads, query, key]`.
    pub attention: Vec<f32>,
    /// Gradient of the score with respect to them.
    pub gradient: Vec<f32>,
    /// Their shape.
    pub shape: [usize; 4],
    /// Matching logits `[pairs, 2]`, or the similarities `[images, texts]` over the temperature.
    pub scores: Vec<f32>,
    /// Side of a map in patches.
    pub grid: usize,
    /// Visible tokens of each text; 1 for maps of the image encoder.
    pub tokens: Vec<usize>,
}

impl AttentionMaps {
    /// The map of one query token of one pair `[grid * grid]`: mean over heads of the probability
    /// times the positive part of its gradient, class token left out.
    #[must_use]
    pub fn token(&self, pair: usize, token: usize) -> Vec<f32> {
        let [_, heads, queries, keys] = self.shape;
        let cells = self.grid * self.grid;
        let mut map = vec![0.0; cells];
        if token >= self.tokens[pair] {
            return map;
        }
        for head in 0..heads {
            let row = ((pair * heads + head) * queries + token) * keys;
            for (j, cell) in map.iter_mut().enumerate() {
                let at = row + 1 + j;
                *cell += self.attention[at] * self.gradient[at].max(0.0) / heads as f32;
            }
        }
        map
    }

    /// The mean over the first `tokens` query tokens of one pair; those beyond the text count as
    /// zeros, as padded ones do in the official code.
    #[must_use]
    pub fn sentence(&self, pair: usize, tokens: usize) -> Vec<f32> {
        let mut map = vec![0.0; self.grid * self.grid];
        for token in 0..tokens {
            for (sum, v) in map.iter_mut().zip(self.token(pair, token)) {
                *sum += v / tokens.max(1) as f32;
            }
        }
        map
    }
}

fn constant(config: &ModelConfig, params: &Params) -> Result<Albef> {
    Albef::new(config, &params.constant(Ops::for_device(params.device())))
}

fn gradient_of(leaf: Option<Tensor<4>>, score: &Tensor<1>) -> Result<(Tensor<4>, Tensor<4>)> {
    let Some(leaf) = leaf else { return Err(Error::NoImage) };
    let mut all = score.backward();
    let gradient = leaf.grad_remove(&mut all).ok_or(Error::NoImage)?;
    Ok((leaf.inner(), gradient))
}

/// Each text is explained on the image of the same number.
fn one_image_each(images: &Tensor<4>, texts: &TokenBatch) -> Result<()> {
    let (images, texts) = (images.dims()[0], texts.len());
    if images == texts && texts > 0 {
        return Ok(());
    }
    Err(Error::ImageOfText { texts, given: images, images })
}

/// Maps of the matching score at the cross-attention of `layer`, one image `[B, 3, S, S]` per text.
/// The paper uses the third fusion layer.
///
/// # Errors
/// If `layer` is no fusion layer, or images and texts do not fit the model.
pub fn matching_maps(
    config: &ModelConfig,
    params: &Params,
    images: Tensor<4>,
    texts: &TokenBatch,
    layer: usize,
) -> Result<AttentionMaps> {
    if !(config.text.fusion_layer..config.text.layers).contains(&layer) {
        return Err(Error::Config(format!(
            "layer {layer} has no cross-attention; choose one from {} to {}",
            config.text.fusion_layer,
            config.text.layers - 1
        )));
    }
    one_image_each(&images, texts)?;
    let model = constant(config, params)?;
    let states = model.encoders.visual_encoder.forward(Tensor::from_inner(images))?;
    let own: Vec<usize> = (0..texts.len()).collect();
    let class = vec![vec![0]; texts.len()];
    let context = ImageContext { states: &states, image_of: &own, visible: None };
    let mut trace = TextTrace { attention_layer: Some(layer), probe: true, ..TextTrace::default() };
    // In the last layer only the rows that are read have queries: there all are read.
    let last = layer + 1 == config.text.layers;
    let read = if last { OutputRows::All } else { OutputRows::Rows(&class) };
    let none = &mut DropoutRng::none();
    let fused =
        model.encoders.text_encoder.multi_modal(texts, context, read, none, Some(&mut trace))?;
    let fused = if last {
        fused.clone().select(0, crate::ops::index(&texts.class_rows(), &fused.device()))
    } else {
        fused
    };
    let logits = model.itm_logits(fused);
    let score = logits.clone().narrow(1, 1, 1).sum();
    let (attention, gradient) = gradient_of(trace.cross_attention, &score)?;
    Ok(AttentionMaps {
        shape: attention.dims(),
        attention: to_vec(attention),
        gradient: to_vec(gradient),
        scores: to_vec(logits.inner()),
        grid: config.vision.grid(),
        tokens: texts.sequences.iter().map(|s| s.visible).collect(),
    })
}

/// Maps of the contrastive score at the self-attention of image block `block`, class token's row.
///
/// # Errors
/// If there is no such block, or images and texts do not fit the model.
pub fn contrastive_maps(
    config: &ModelConfig,
    params: &Params,
    images: Tensor<4>,
    texts: &TokenBatch,
    block: usize,
) -> Result<AttentionMaps> {
    if block >= config.vision.depth {
        return Err(Error::Config(format!(
            "the image encoder has blocks 0 to {}, not {block}",
            config.vision.depth.saturating_sub(1)
        )));
    }
    one_image_each(&images, texts)?;
    let model = constant(config, params)?;
    let mut trace =
        VisionTrace { attention_block: Some(block), probe: true, ..VisionTrace::default() };
    let images = Tensor::from_inner(images);
    let states = model.encoders.visual_encoder.forward_traced(images, &mut trace)?;
    let image_feat = model.encoders.image_feat(&states);
    let text_feat = model.encoders.embed_text(texts, &mut DropoutRng::none())?;
    let sims = image_feat.matmul(text_feat.transpose()) / model.temp.clone().unsqueeze();
    let n = texts.len();
    let diagonal: Vec<f32> = (0..n * n).map(|i| f32::from(i / n == i % n)).collect();
    let diagonal = crate::params::from_vec(diagonal, [n, n], &sims.device());
    let score = (sims.clone() * diagonal).sum();
    let (attention, gradient) = gradient_of(trace.attention, &score)?;
    Ok(AttentionMaps {
        shape: attention.dims(),
        attention: to_vec(attention),
        gradient: to_vec(gradient),
        scores: to_vec(sims.inner()),
        grid: config.vision.grid(),
        tokens: vec![1; n],
    })
}
