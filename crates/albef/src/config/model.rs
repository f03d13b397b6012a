//! Sizes of the model, the presets, and the `config.json` of a model folder.

use std::path::Path;

use albef_data::input::read_json;
use albef_data::text::TextProcessing;
use albef_weights::Sizes;
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
    /// Rows of the token-type table; 0 for a model without one, as those of LAVIS.
    pub type_vocab: usize,
    /// Added to the variance in layer norms.
    pub layer_norm_eps: f32,
    /// Dropout of states and attention probabilities while training.
    pub dropout: f32,
    /// Layers of the answer decoder, where they are not as many as the fusion layers that it starts from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoder_layers: Option<usize>,
    /// Id of `[PAD]`, whose look-up is not trained.
    #[serde(default)]
    pub pad_id: u32,
    /// How texts are cleaned and ended.
    #[serde(default, skip_serializing_if = "is_official")]
    pub processing: TextProcessing,
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
        let layers = self.decoder_layers.unwrap_or(self.layers - self.fusion_layer);
        Self { layers, decoder_layers: None, fusion_layer: 0, causal: true, ..self.clone() }
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
    /// The task of the model, by name; official files do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The classes of a model that was fine-tuned for labels of one's own, in the order of its logits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Whether several of these labels may hold at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub multi_label: bool,
}

fn is_official(processing: &TextProcessing) -> bool {
    *processing == TextProcessing::Official
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

    /// A preset by name, or the sizes in a file like the `config.json` of a model folder, if the name ends with
    /// `.json`.
    ///
    /// # Errors
    /// If there is no preset of that name; if the file cannot be read or its sizes contradict each other.
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "base" => Ok(Self::base()),
            "mini" => Ok(Self::mini()),
            "nano" => Ok(Self::nano()),
            file if file.ends_with(".json") => Self::sizes_of_file(Path::new(file)),
            _ => Err(Error::Config(format!(
                "no preset `{name}`; there are base, mini and nano, or give a file of sizes (`sizes.json`)"
            ))),
        }
    }

    fn sizes_of_file(path: &Path) -> Result<Self> {
        let found: Self = read_json(path, "sizes of a model (`vision`, `text`, `embed_dim`)")?;
        found.check()?;
        Ok(Self { task: None, labels: Vec::new(), multi_label: false, ..found })
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
                decoder_layers: None,
                pad_id: 0,
                processing: TextProcessing::Official,
                causal: false,
                paired: false,
            },
            embed_dim,
            task: None,
            labels: Vec::new(),
            multi_label: false,
        }
    }

    /// Sizes on which the names and shapes of weights depend.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        let (v, t) = (&self.vision, &self.text);
        Sizes {
            vision_width: v.width,
            vision_depth: v.depth,
            vision_mlp: v.mlp_width,
            patch: v.patch,
            tokens: v.tokens(),
            hidden: t.hidden,
            layers: t.layers,
            intermediate: t.intermediate,
            fusion_layer: t.fusion_layer,
            decoder_layers: t.decoder_layers.unwrap_or(t.layers.saturating_sub(t.fusion_layer)),
            vocab_size: t.vocab_size,
            max_positions: t.max_positions,
            type_vocab: t.type_vocab,
            embed_dim: self.embed_dim,
        }
    }

    /// Checks that the sizes are in range and fit each other.
    ///
    /// # Errors
    /// Names the size that is out of range, with the range, or the sizes that do not fit.
    pub fn check(&self) -> Result<()> {
        self.check_ranges()?;
        let (v, t) = (&self.vision, &self.text);
        if !v.image_res.is_multiple_of(v.patch) {
            return fail(format!(
                "`image_res` {} is no multiple of the patch size {}; choose for instance {}",
                v.image_res,
                v.patch,
                (v.image_res / v.patch).max(1) * v.patch
            ));
        }
        let table = v.tokens() * v.width;
        if table > MAX_POSITION_VALUES {
            return fail(format!(
                "`image_res` {}, `patch` {} and `vision.width` {} make a position table of {table} \
                 values; at most {MAX_POSITION_VALUES} are possible",
                v.image_res, v.patch, v.width
            ));
        }
        if v.grid() > MAX_GRID {
            return fail(format!(
                "`image_res` {} and `patch` {} make {grid} x {grid} patches, and attention takes time and \
                 memory by the square of their number; at most {MAX_GRID} x {MAX_GRID} are possible",
                v.image_res,
                v.patch,
                grid = v.grid()
            ));
        }
        if !v.width.is_multiple_of(v.heads) {
            return fail(format!("vision width {} is no multiple of {} heads", v.width, v.heads));
        }
        if !t.hidden.is_multiple_of(t.heads) {
            return fail(format!("text width {} is no multiple of {} heads", t.hidden, t.heads));
        }
        if t.fusion_layer >= t.layers {
            return fail(format!(
                "`fusion_layer` is {}; it must be below the number of text layers, {}",
                t.fusion_layer, t.layers
            ));
        }
        Ok(())
    }

    /// Ranges are generous; they keep products of sizes from overflowing.
    fn check_ranges(&self) -> Result<()> {
        let (v, t) = (&self.vision, &self.text);
        for (key, value, most) in [
            ("vision.image_res", v.image_res, MAX_IMAGE_RES),
            ("vision.patch", v.patch, MAX_IMAGE_RES),
            ("vision.width", v.width, MAX_WIDTH),
            ("vision.depth", v.depth, MAX_LAYERS),
            ("vision.heads", v.heads, MAX_WIDTH),
            ("vision.mlp_width", v.mlp_width, MAX_WIDTH),
            ("text.hidden", t.hidden, MAX_WIDTH),
            ("text.layers", t.layers, MAX_LAYERS),
            ("text.heads", t.heads, MAX_WIDTH),
            ("text.decoder_layers", t.decoder_layers.unwrap_or(1), MAX_LAYERS),
            ("text.intermediate", t.intermediate, MAX_WIDTH),
            ("text.vocab_size", t.vocab_size, MAX_VOCABULARY),
            ("text.max_positions", t.max_positions, MAX_WIDTH),
            ("text.type_vocab", t.type_vocab.max(1), MAX_WIDTH),
            ("embed_dim", self.embed_dim, MAX_WIDTH),
        ] {
            if !(1..=most).contains(&value) {
                return fail(format!("`{key}` is {value}; it must lie between 1 and {most}"));
            }
        }
        for (key, value) in [
            ("vision.layer_norm_eps", v.layer_norm_eps),
            ("text.layer_norm_eps", t.layer_norm_eps),
            ("text.dropout", t.dropout),
        ] {
            if !(0.0..1.0).contains(&value) {
                return fail(format!("`{key}` is {value}; it must be at least 0 and below 1"));
            }
        }
        if t.pad_id as usize >= t.vocab_size {
            let last = t.vocab_size - 1;
            return fail(format!(
                "`text.pad_id` is {}; it must lie between 0 and {last}",
                t.pad_id
            ));
        }
        Ok(())
    }
}

/// Pixels along the side of an image.
const MAX_IMAGE_RES: usize = 4096;
/// Patches along a side: 1536 pixels in patches of 16.
const MAX_GRID: usize = 96;
/// Blocks of an encoder.
const MAX_LAYERS: usize = 256;
/// Widths, and rows of the smaller tables.
const MAX_WIDTH: usize = 65_536;
/// Word pieces.
const MAX_VOCABULARY: usize = 4_194_304;
/// Values of an image position table: 1 GiB. Small files are interpolated to a table of any size.
const MAX_POSITION_VALUES: usize = 1 << 28;

fn fail(message: String) -> Result<()> {
    Err(Error::Config(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(change: impl Fn(&mut ModelConfig)) -> String {
        let mut config = ModelConfig::base();
        change(&mut config);
        config.check().err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn presets_and_large_models_pass() {
        for config in [ModelConfig::base(), ModelConfig::mini(), ModelConfig::nano()] {
            assert!(config.check().is_ok());
        }
        assert_eq!(problem(|c| c.vision.image_res = 1536), "");
        assert_eq!(problem(|c| c.text.dropout = 0.0), "");
    }

    #[test]
    fn a_size_out_of_range_is_named_with_its_range() {
        type Field = (&'static str, fn(&mut ModelConfig) -> &mut usize, usize);
        let fields: [Field; 14] = [
            ("vision.image_res", |c| &mut c.vision.image_res, 4096),
            ("vision.patch", |c| &mut c.vision.patch, 4096),
            ("vision.width", |c| &mut c.vision.width, 65_536),
            ("vision.depth", |c| &mut c.vision.depth, 256),
            ("vision.heads", |c| &mut c.vision.heads, 65_536),
            ("vision.mlp_width", |c| &mut c.vision.mlp_width, 65_536),
            ("text.hidden", |c| &mut c.text.hidden, 65_536),
            ("text.layers", |c| &mut c.text.layers, 256),
            ("text.heads", |c| &mut c.text.heads, 65_536),
            ("text.intermediate", |c| &mut c.text.intermediate, 65_536),
            ("text.vocab_size", |c| &mut c.text.vocab_size, 4_194_304),
            ("text.max_positions", |c| &mut c.text.max_positions, 65_536),
            ("text.type_vocab", |c| &mut c.text.type_vocab, 65_536),
            ("embed_dim", |c| &mut c.embed_dim, 65_536),
        ];
        for (key, field, most) in fields {
            for value in [0, most + 1, 1_000_000_000_000, usize::MAX] {
                if key == "text.type_vocab" && value == 0 {
                    continue;
                }
                let want = format!("`{key}` is {value}; it must lie between 1 and {most}");
                let got = problem(|c| *field(c) = value);
                assert!(got.ends_with(&want), "{got}");
            }
        }
    }

    #[test]
    fn dropout_and_epsilon_lie_from_0_to_below_1() {
        for value in [-0.1, 1.0, 30.0, f32::NAN, f32::INFINITY] {
            assert!(problem(|c| c.text.dropout = value).contains("`text.dropout` is"), "{value}");
            let epsilon = problem(|c| c.vision.layer_norm_eps = value);
            assert!(epsilon.contains("`vision.layer_norm_eps` is"), "{value}");
        }
    }

    #[test]
    fn sizes_that_do_not_fit_each_other_are_named() {
        assert!(problem(|c| c.vision.image_res = 250).contains("choose for instance 240"));
        assert!(problem(|c| c.vision.heads = 7).contains("768 is no multiple of 7 heads"));
        assert!(
            problem(|c| c.text.fusion_layer = 12).contains("below the number of text layers, 12")
        );
        assert!(problem(|c| c.text.pad_id = 30_522).contains("`text.pad_id` is 30522"));
        let table = problem(|c| (c.vision.image_res, c.vision.patch) = (4096, 1));
        assert!(table.contains("position table"), "{table}");
    }
}
