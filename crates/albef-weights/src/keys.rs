//! The names and shapes that each task's model has, in the order of the official modules (spec
//! `model` section 6).

use serde_json::Value;

/// A model of the official code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Task {
    /// Pre-training.
    Pretrain,
    /// Retrieval and grounding.
    Retrieval,
    /// Question answering.
    Vqa,
    /// Statements about two images.
    Nlvr,
    /// Text-assignment pre-training.
    Ta,
    /// Visual entailment.
    Ve,
}

impl Task {
    /// The task of an official name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "pretrain" => Self::Pretrain,
            "retrieval" | "grounding" => Self::Retrieval,
            "vqa" => Self::Vqa,
            "nlvr" => Self::Nlvr,
            "ta" => Self::Ta,
            "ve" => Self::Ve,
            _ => return None,
        })
    }
}

/// Sizes that decide about names and shapes.
#[derive(Clone, Debug, PartialEq)]
pub struct Sizes {
    /// Image width.
    pub vision_width: usize,
    /// Image blocks.
    pub vision_depth: usize,
    /// Width inside the image feed-forward.
    pub vision_mlp: usize,
    /// Patch side.
    pub patch: usize,
    /// Image tokens, the class token included.
    pub tokens: usize,
    /// Text width.
    pub hidden: usize,
    /// Text and fusion layers.
    pub layers: usize,
    /// Width inside the text feed-forward.
    pub intermediate: usize,
    /// First fusion layer.
    pub fusion_layer: usize,
    /// Vocabulary.
    pub vocab_size: usize,
    /// Position table.
    pub max_positions: usize,
    /// Token types.
    pub type_vocab: usize,
    /// Joint space.
    pub embed_dim: usize,
    /// Layers of the answer decoder.
    pub decoder_layers: usize,
    /// Layers of the two-image text encoder.
    pub pair_layers: usize,
}

impl Sizes {
    /// Sizes of a golden set's `config.json`; `None` if one is missing.
    #[must_use]
    pub fn from_golden_config(config: &Value) -> Option<Self> {
        let size = |p: &str| config.pointer(p)?.as_u64().map(|v| v as usize);
        let width = size("/vision/width")?;
        let ratio = config.pointer("/vision/mlp_ratio")?.as_f64()?;
        let grid = size("/vision/image_res")?.checked_div(size("/vision/patch")?)?;
        Some(Self {
            vision_width: width,
            vision_depth: size("/vision/depth")?,
            vision_mlp: (ratio * width as f64) as usize,
            patch: size("/vision/patch")?,
            tokens: grid * grid + 1,
            hidden: size("/text/hidden")?,
            layers: size("/text/layers")?,
            intermediate: size("/text/intermediate")?,
            fusion_layer: size("/text/fusion_layer")?,
            vocab_size: size("/text/vocab_size")?,
            max_positions: size("/text/max_position_embeddings")?,
            type_vocab: size("/text/type_vocab_size").unwrap_or(2),
            embed_dim: size("/embed_dim")?,
            decoder_layers: size("/vqa/decoder_layers")?,
            pair_layers: size("/nlvr/layers")?,
        })
    }
}

/// Names with shapes.
pub type Keys = Vec<(String, Vec<usize>)>;

struct Builder<'a> {
    s: &'a Sizes,
    keys: Keys,
}

impl Builder<'_> {
    fn add(&mut self, name: String, shape: &[usize]) {
        self.keys.push((name, shape.to_vec()));
    }
    fn linear(&mut self, name: &str, outputs: usize, inputs: usize) {
        self.add(format!("{name}.weight"), &[outputs, inputs]);
        self.add(format!("{name}.bias"), &[outputs]);
    }
    fn norm(&mut self, name: &str, width: usize) {
        self.add(format!("{name}.weight"), &[width]);
        self.add(format!("{name}.bias"), &[width]);
    }
    fn vision(&mut self, p: &str) {
        let (w, m) = (self.s.vision_width, self.s.vision_mlp);
        self.add(format!("{p}.cls_token"), &[1, 1, w]);
        self.add(format!("{p}.pos_embed"), &[1, self.s.tokens, w]);
        self.add(format!("{p}.patch_embed.proj.weight"), &[w, 3, self.s.patch, self.s.patch]);
        self.add(format!("{p}.patch_embed.proj.bias"), &[w]);
        for i in 0..self.s.vision_depth {
            let b = format!("{p}.blocks.{i}");
            self.norm(&format!("{b}.norm1"), w);
            self.linear(&format!("{b}.attn.qkv"), 3 * w, w);
            self.linear(&format!("{b}.attn.proj"), w, w);
            self.norm(&format!("{b}.norm2"), w);
            self.linear(&format!("{b}.mlp.fc1"), m, w);
            self.linear(&format!("{b}.mlp.fc2"), w, m);
        }
        self.norm(&format!("{p}.norm"), w);
    }
    fn attention(&mut self, p: &str, key_width: usize, shared: bool) {
        let d = self.s.hidden;
        self.linear(&format!("{p}.self.query"), d, d);
        if !shared {
            self.linear(&format!("{p}.self.key"), d, key_width);
            self.linear(&format!("{p}.self.value"), d, key_width);
        }
        self.linear(&format!("{p}.output.dense"), d, d);
        self.norm(&format!("{p}.output.LayerNorm"), d);
    }
    /// `paired`: each second fusion layer uses the keys and values of the one before.
    fn bert(&mut self, p: &str, layers: usize, fusion: usize, key_width: usize, paired: bool) {
        let d = self.s.hidden;
        let e = format!("{p}.embeddings");
        self.add(format!("{e}.word_embeddings.weight"), &[self.s.vocab_size, d]);
        self.add(format!("{e}.position_embeddings.weight"), &[self.s.max_positions, d]);
        self.add(format!("{e}.token_type_embeddings.weight"), &[self.s.type_vocab, d]);
        self.norm(&format!("{e}.LayerNorm"), d);
        for i in 0..layers {
            let l = format!("{p}.encoder.layer.{i}");
            self.attention(&format!("{l}.attention"), d, false);
            if i >= fusion {
                let shared = paired && (i - fusion) % 2 == 1;
                self.attention(&format!("{l}.crossattention"), key_width, shared);
            }
            self.linear(&format!("{l}.intermediate.dense"), self.s.intermediate, d);
            self.linear(&format!("{l}.output.dense"), d, self.s.intermediate);
            self.norm(&format!("{l}.output.LayerNorm"), d);
        }
    }
    fn lm_head(&mut self, p: &str) {
        let d = self.s.hidden;
        self.add(format!("{p}.cls.predictions.bias"), &[self.s.vocab_size]);
        self.linear(&format!("{p}.cls.predictions.transform.dense"), d, d);
        self.norm(&format!("{p}.cls.predictions.transform.LayerNorm"), d);
    }
    fn projections(&mut self, suffix: &str) {
        let (e, w, d) = (self.s.embed_dim, self.s.vision_width, self.s.hidden);
        self.linear(&format!("vision_proj{suffix}"), e, w);
        self.linear(&format!("text_proj{suffix}"), e, d);
    }
    fn class_head(&mut self, classes: usize) {
        let d = self.s.hidden;
        self.linear("cls_head.0", d, d);
        self.linear("cls_head.2", classes, d);
    }
}

/// The trained tensors of a task's model, tied and shared ones once, in module order.
#[must_use]
pub fn expected_keys(task: Task, sizes: &Sizes) -> Keys {
    let mut b = Builder { s: sizes, keys: Vec::new() };
    let s = sizes;
    if matches!(task, Task::Pretrain | Task::Retrieval | Task::Ta) {
        b.add("temp".into(), &[]);
    }
    b.vision("visual_encoder");
    let w = s.vision_width;
    match task {
        Task::Pretrain => {
            b.bert("text_encoder.bert", s.layers, s.fusion_layer, w, false);
            b.lm_head("text_encoder");
            b.projections("");
            b.linear("itm_head", 2, s.hidden);
        }
        Task::Retrieval => {
            b.bert("text_encoder", s.layers, s.fusion_layer, w, false);
            b.projections("");
            b.linear("itm_head", 2, s.hidden);
        }
        Task::Vqa => {
            b.bert("text_encoder", s.layers, s.fusion_layer, w, false);
            b.bert("text_decoder.bert", s.decoder_layers, 0, s.hidden, false);
            b.lm_head("text_decoder");
        }
        Task::Nlvr => {
            b.bert("text_encoder", s.pair_layers, s.fusion_layer, w, true);
            b.class_head(2);
        }
        Task::Ta => {
            b.bert("text_encoder", s.pair_layers, s.fusion_layer, w, true);
            b.projections("");
            b.linear("ta_head", 3, s.hidden);
        }
        Task::Ve => {
            b.bert("text_encoder", s.layers, s.fusion_layer, w, false);
            b.class_head(3);
        }
    }
    b.keys
}

/// The parts that have a momentum copy, by the first component of their names.
const AVERAGED: [&str; 6] =
    ["visual_encoder", "text_encoder", "text_decoder", "cls_head", "vision_proj", "text_proj"];

/// The name of the momentum copy of a weight, if it has one.
#[must_use]
pub fn momentum_name(name: &str) -> Option<String> {
    let (root, rest) = name.split_once('.')?;
    AVERAGED.contains(&root).then(|| format!("{root}_m.{rest}"))
}

/// The two parameter groups of the optimiser: without weight decay (one axis, or named `.bias`),
/// then with.
#[must_use]
pub fn parameter_groups(keys: &Keys) -> (Vec<String>, Vec<String>) {
    let plain = |(n, s): &(String, Vec<usize>)| s.len() == 1 || n.ends_with(".bias");
    let names =
        |decay: bool| keys.iter().filter(|k| plain(k) != decay).map(|(n, _)| n.clone()).collect();
    (names(false), names(true))
}
