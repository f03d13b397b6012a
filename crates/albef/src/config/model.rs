//! Sizes of the model, the presets, and the `config.json` of a model folder.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Sizes of the image encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisionConfig {
    /// Width of the states.
    pub width: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width inside the feed-forward part.
    pub mlp_width: usize,
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Side of the image in pixels.
    pub image_res: usize,
    /// Added to the variance in layer norms.
    pub layer_norm_eps: f32,
}

impl VisionConfig {
    /// Patches along one side.
    #[must_use]
    pub fn grid(&self) -> usize {
        self.image_res / self.patch
    }

    /// Tokens of an image: class token and patches.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.grid() * self.grid() + 1
    }
}

/// Sizes of the text and fusion layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextConfig {
    /// Width of the states.
    pub hidden: usize,
    /// All layers, text and fusion.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width inside the feed-forward part.
    pub intermediate: usize,
    /// First layer with cross-attention.
    pub fusion_layer: usize,
    /// Word pieces.
    pub vocab_size: usize,
    /// Length of the position table.
    pub max_positions: usize,
    /// Rows of the token-type table.
    pub type_vocab: usize,
    /// Added to the variance in layer norms.
    pub layer_norm_eps: f32,
    /// Dropout of states and attention probabilities while training.
    pub dropout: f32,
    /// Id of `[PAD]`, whose look-up is not trained.
    #[serde(default)]
    pub pad_id: u32,
    /// Whether a token sees only those before it (the answer decoder).
    #[serde(default)]
    pub causal: bool,
    /// Whether each second fusion layer shares cross-attention keys and values with the one before
    /// (the two-image encoder).
    #[serde(default)]
    pub paired: bool,
}

impl TextConfig {
    /// The answer decoder made of the fusion layers: cross-attention everywhere, causal.
    #[must_use]
    pub fn decoder(&self) -> Self {
        let layers = self.layers - self.fusion_layer;
        Self { layers, fusion_layer: 0, causal: true, ..self.clone() }
    }

    /// The two-image encoder: every fusion layer twice, in pairs that share keys and values.
    #[must_use]
    pub fn pairs(&self) -> Self {
        Self { layers: 2 * self.layers - self.fusion_layer, paired: true, ..self.clone() }
    }
}

/// Sizes of the whole model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Always `albef`.
    #[serde(default = "model_type")]
    pub model_type: String,
    /// Image encoder.
    pub vision: VisionConfig,
    /// Text and fusion layers.
    pub text: TextConfig,
    /// Width of the joint space.
    pub embed_dim: usize,
}

fn model_type() -> String {
    "albef".into()
}

impl ModelConfig {
    /// The sizes of the paper: ViT-B/16 and BERT-base at 256 px.
    #[must_use]
    pub fn base() -> Self {
        Self::preset([768, 12, 12, 3072, 16, 256], [768, 12, 12, 3072, 6], 256)
    }

    /// A model for one machine: 384 wide, 6 layers each, 128 px.
    #[must_use]
    pub fn mini() -> Self {
        Self::preset([384, 6, 6, 1536, 16, 128], [384, 6, 12, 1536, 3], 128)
    }

    /// The model of the demonstration: 128 wide, 3 image and 4 text layers, 64 px in patches of 8.
    #[must_use]
    pub fn nano() -> Self {
        Self::preset([128, 3, 4, 512, 8, 64], [128, 4, 4, 512, 2], 64)
    }

    /// A preset by name.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "base" => Ok(Self::base()),
            "mini" => Ok(Self::mini()),
            "nano" => Ok(Self::nano()),
            _ => Err(Error::Config(format!("no preset `{name}`; there are base, mini and nano"))),
        }
    }

    fn preset(v: [usize; 6], t: [usize; 5], embed_dim: usize) -> Self {
        Self {
            model_type: model_type(),
            vision: VisionConfig {
                width: v[0],
                depth: v[1],
                heads: v[2],
                mlp_width: v[3],
                patch: v[4],
                image_res: v[5],
                layer_norm_eps: 1e-6,
            },
            text: TextConfig {
                hidden: t[0],
                layers: t[1],
                heads: t[2],
                intermediate: t[3],
                fusion_layer: t[4],
                vocab_size: 30_522,
                max_positions: 512,
                type_vocab: 2,
                layer_norm_eps: 1e-12,
                dropout: 0.1,
                pad_id: 0,
                causal: false,
                paired: false,
            },
            embed_dim,
        }
    }

    /// Checks that the sizes fit each other.
    ///
    /// # Errors
    /// Names the sizes that do not.
    pub fn check(&self) -> Result<()> {
        let (v, t) = (&self.vision, &self.text);
        let fail = |m: String| Err(Error::Config(m));
        if v.patch == 0 || v.image_res == 0 || !v.image_res.is_multiple_of(v.patch) {
            return fail(format!(
                "`image_res` {} is no multiple of the patch size {}; choose for instance {}",
                v.image_res,
                v.patch,
                (v.image_res / v.patch.max(1)).max(1) * v.patch.max(1)
            ));
        }
        if v.heads == 0 || !v.width.is_multiple_of(v.heads) {
            return fail(format!("vision width {} is no multiple of {} heads", v.width, v.heads));
        }
        if t.heads == 0 || !t.hidden.is_multiple_of(t.heads) {
            return fail(format!("text width {} is no multiple of {} heads", t.hidden, t.heads));
        }
        if t.fusion_layer == 0 || t.fusion_layer >= t.layers {
            return fail(format!(
                "`fusion_layer` {} must lie between 1 and {} (the last text layer)",
                t.fusion_layer,
                t.layers.saturating_sub(1)
            ));
        }
        if v.depth == 0 || t.vocab_size == 0 || self.embed_dim == 0 || t.max_positions == 0 {
            return fail("a size is 0".into());
        }
        Ok(())
    }
}
