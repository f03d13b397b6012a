//! The image encoder: a pre-norm ViT (paper section 3.1).
//!
//! Letters: `B` images, `P` tokens of an image (class token and `g * g` patches), `W` width.

use std::sync::Arc;

use burn::tensor::Tensor;

use super::weights::{LayerNorm, Linear, Scope};
use crate::config::VisionConfig;
use crate::error::{Error, Result};
use crate::ops::{AttentionSpec, Ops, Segment, index, plain};

/// The image encoder.
#[derive(Clone, Debug)]
pub struct VisionEncoder {
    patch_embed: Linear,
    cls_token: Tensor<3>,
    pos_embed: Tensor<3>,
    blocks: Vec<Block>,
    norm: LayerNorm,
    config: VisionConfig,
}

#[derive(Clone, Debug)]
struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    ops: Ops,
}

/// The states of a batch of images after the final layer norm.
#[derive(Clone, Debug)]
pub struct ImageStates {
    /// `[B * P, W]`, the tokens of image `b` in rows `b * P ..`, the class token first.
    pub tokens: Tensor<2>,
    /// `B`.
    pub batch: usize,
    /// `P`.
    pub length: usize,
}

impl ImageStates {
    /// The class tokens `[B, W]`.
    #[must_use]
    pub fn class_tokens(&self) -> Tensor<2> {
        let width = self.tokens.dims()[1];
        self.tokens
            .clone()
            .reshape([self.batch, self.length, width])
            .narrow(1, 0, 1)
            .reshape([self.batch, width])
    }
}

/// What a traced pass records.
#[derive(Debug, Default)]
pub struct VisionTrace {
    /// Block whose attention map is kept.
    pub attention_block: Option<usize>,
    /// Whether that map becomes a leaf of the gradient computation (Grad-CAM); the model must then
    /// be built on [`crate::params::Params::constant`] weights.
    pub probe: bool,
    /// Patches with class token and positions, `[B * P, W]`.
    pub embedding: Option<Tensor<2>>,
    /// The output of each block, `[B * P, W]`.
    pub blocks: Vec<Tensor<2>>,
    /// `[B, heads, P, P]`.
    pub attention: Option<Tensor<4>>,
}

impl VisionEncoder {
    /// Reads the encoder below `scope` (`visual_encoder` or `visual_encoder_m`).
    ///
    /// # Errors
    /// If a weight is absent or of another size.
    pub fn new(config: &VisionConfig, scope: &Scope<'_>) -> Result<Self> {
        let c = config;
        let w = c.width;
        let patch = 3 * c.patch * c.patch;
        let proj = scope.at("patch_embed").at("proj");
        let patch_embed = Linear::from_parts(
            proj.tensor("weight", [w, patch])?,
            proj.tensor("bias", [w])?,
            scope.ops(),
        );
        let blocks = (0..c.depth)
            .map(|i| {
                let s = scope.at(&format!("blocks.{i}"));
                Ok(Block {
                    norm1: LayerNorm::new(&s.at("norm1"), w, c.layer_norm_eps)?,
                    qkv: Linear::new(&s.at("attn.qkv"), w, 3 * w)?,
                    proj: Linear::new(&s.at("attn.proj"), w, w)?,
                    norm2: LayerNorm::new(&s.at("norm2"), w, c.layer_norm_eps)?,
                    fc1: Linear::new(&s.at("mlp.fc1"), w, c.mlp_width)?,
                    fc2: Linear::new(&s.at("mlp.fc2"), c.mlp_width, w)?,
                    ops: s.ops(),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            patch_embed,
            cls_token: scope.tensor("cls_token", [1, 1, w])?,
            pos_embed: scope.tensor("pos_embed", [1, c.tokens(), w])?,
            blocks,
            norm: LayerNorm::new(&scope.at("norm"), w, c.layer_norm_eps)?,
            config: c.clone(),
        })
    }

    /// Encodes normalised images `[B, 3, image_res, image_res]`.
    ///
    /// # Errors
    /// If the images are not of the resolution that the position table is made for.
    pub fn forward(&self, images: Tensor<4>) -> Result<ImageStates> {
        self.run(images, None, None)
    }

    /// The states of some patches of each image, as if there were no others (FLIP, Li et al. 2023): of
    /// image `b` those numbered `kept[b * k .. (b + 1) * k]` with `k = kept.len() / B`, behind the
    /// class token.
    ///
    /// # Errors
    /// As [`VisionEncoder::forward`].
    pub fn forward_some(&self, images: Tensor<4>, kept: &[usize]) -> Result<ImageStates> {
        self.run(images, Some(kept), None)
    }

    /// The same, recording what happens on the way.
    ///
    /// # Errors
    /// As [`VisionEncoder::forward`].
    pub fn forward_traced(
        &self,
        images: Tensor<4>,
        trace: &mut VisionTrace,
    ) -> Result<ImageStates> {
        self.run(images, None, Some(trace))
    }

    fn run(
        &self,
        images: Tensor<4>,
        kept: Option<&[usize]>,
        mut trace: Option<&mut VisionTrace>,
    ) -> Result<ImageStates> {
        let [batch, channels, height, width] = images.dims();
        let res = self.config.image_res;
        if (channels, height, width) != (3, res, res) {
            return Err(Error::ImageShape { expected: res, found: [channels, height, width] });
        }
        let mut length = self.config.tokens();
        let w = self.config.width;
        let x = self.patch_embed.forward(self.patches(images)).reshape([batch, length - 1, w]);
        let cls = self.cls_token.clone().expand([batch, 1, w]);
        let x = Tensor::cat(vec![cls, x], 1) + self.pos_embed.clone();
        let mut x = x.reshape([batch * length, w]);
        if let Some(kept) = kept {
            let of_each = kept.len() / batch.max(1);
            let rows: Vec<usize> = (0..batch)
                .flat_map(|b| {
                    let patches = kept[b * of_each..(b + 1) * of_each].iter().map(|p| p + 1);
                    std::iter::once(0).chain(patches).map(move |token| b * length + token)
                })
                .collect();
            let rows = index(&rows, &x.device());
            x = x.select(0, rows);
            length = of_each + 1;
        }
        if let Some(trace) = trace.as_deref_mut() {
            trace.embedding = Some(x.clone());
        }
        let spec = Arc::new(AttentionSpec {
            segments: (0..batch)
                .map(|b| Segment {
                    q_start: b * length,
                    q_len: length,
                    k_start: b * length,
                    k_len: length,
                })
                .collect(),
            heads: self.config.heads,
            head_dim: w / self.config.heads,
            causal: false,
            dropout: None,
        });
        for (i, block) in self.blocks.iter().enumerate() {
            let qkv = block.qkv.forward(block.norm1.forward(x.clone()));
            let part = |j: usize| qkv.clone().narrow(1, j * w, w);
            let attended = match trace.as_deref_mut().filter(|t| t.attention_block == Some(i)) {
                Some(trace) if trace.probe => {
                    let p = plain::attention_probabilities(part(0), part(1), &spec).inner();
                    let leaf = Tensor::from_inner(p).require_grad();
                    trace.attention = Some(leaf.clone());
                    plain::attend(leaf, part(2), batch * length, &spec)
                }
                Some(trace) => {
                    trace.attention = Some(plain::attention_probabilities(part(0), part(1), &spec));
                    block.ops.attention_packed(qkv, &spec)
                }
                None => block.ops.attention_packed(qkv, &spec),
            };
            x = x + block.proj.forward(attended);
            let hidden = block.fc1.forward_gelu(block.norm2.forward(x.clone()));
            x = x + block.fc2.forward(hidden);
            if let Some(trace) = trace.as_deref_mut() {
                trace.blocks.push(x.clone());
            }
        }
        Ok(ImageStates { tokens: self.norm.forward(x), batch, length })
    }

    /// Cuts `[B, 3, H, W]` into rows of patches `[B * g * g, 3 * patch * patch]`, so that the
    /// patch convolution is one product.
    fn patches(&self, images: Tensor<4>) -> Tensor<2> {
        let [batch, ..] = images.dims();
        let (g, p) = (self.config.grid(), self.config.patch);
        images
            .reshape([batch, 3, g, p, g, p])
            .permute([0, 2, 4, 1, 3, 5])
            .reshape([batch * g * g, 3 * p * p])
    }
}
