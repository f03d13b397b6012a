//! The parameters of a model: names, shapes and initialization, stated once, in the order of the
//! official modules (paper section 3.1).

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Normal draws with deviation 0.02, as both encoders.
    Normal,
    /// Zeros.
    Zeros,
    /// Ones.
    Ones,
    /// Uniform draws within `1 / sqrt(fan_in)`, the framework's default of linear layers.
    Uniform {
        /// Inputs of the layer.
        fan_in: usize,
    },
    /// The configured temperature.
    Temperature,
}

/// A parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Official name.
    pub name: String,
    /// Shape in checkpoints.
    pub shape: Vec<usize>,
    /// How it starts.
    pub init: Init,
}

/// Sizes on which names and shapes depend.
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
    /// Layers of the answer decoder.
    pub decoder_layers: usize,
    /// Vocabulary.
    pub vocab_size: usize,
    /// Position table.
    pub max_positions: usize,
    /// Token types; 0 for a model without a table of them.
    pub type_vocab: usize,
    /// Joint space.
    pub embed_dim: usize,
}

/// Text and fusion layers below a prefix.
#[derive(Clone, Copy, Debug)]
pub struct Bert {
    /// Number of layers.
    pub layers: usize,
    /// First layer with cross-attention.
    pub fusion_layer: usize,
    /// Width of the states that cross-attention reads.
    pub encoder_width: usize,
    /// Whether each second fusion layer shares the keys and values of the layer before it.
    pub paired: bool,
}

/// The trained parameters of a model, tied and shared ones once, in module order; and what a
/// checkpoint of it may have or lack.
#[derive(Clone, Debug)]
pub struct Schema {
    sizes: Sizes,
    parameters: Vec<Parameter>,
    /// First layer of a text encoder whose fusion layers come in pairs.
    pub paired_from: Option<usize>,
    /// The head that no checkpoint of another task has, by the beginning of its names.
    pub own_head: Option<&'static str>,
    /// Parameters that start anew, since those of the checkpoint are of another shape.
    pub fresh: Vec<String>,
    /// A part that a checkpoint may lack, by the beginning of its names.
    pub optional: Option<&'static str>,
    /// Whether queues of a checkpoint are used.
    pub queues: bool,
    /// Whether the official model has momentum copies.
    pub momentum: bool,
}

impl Schema {
    /// An empty schema.
    #[must_use]
    pub fn new(sizes: Sizes) -> Self {
        Self {
            sizes,
            parameters: Vec::new(),
            paired_from: None,
            own_head: None,
            fresh: Vec::new(),
            optional: None,
            queues: false,
            momentum: true,
        }
    }

    /// The parameters in order.
    #[must_use]
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The sizes that it was made for.
    #[must_use]
    pub fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    fn add(&mut self, name: String, shape: &[usize], init: Init) {
        self.parameters.push(Parameter { name, shape: shape.to_vec(), init });
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize) {
        self.add(format!("{name}.weight"), &[outputs, inputs], Init::Normal);
        self.add(format!("{name}.bias"), &[outputs], Init::Zeros);
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.add(format!("{name}.weight"), &[width], Init::Ones);
        self.add(format!("{name}.bias"), &[width], Init::Zeros);
    }

    /// The temperature, a scalar.
    #[must_use]
    pub fn temp(mut self) -> Self {
        self.add("temp".into(), &[], Init::Temperature);
        self
    }

    /// A linear layer that starts by the framework's default, as heads and projections do.
    #[must_use]
    pub fn head(mut self, name: &str, outputs: usize, inputs: usize) -> Self {
        let init = Init::Uniform { fan_in: inputs };
        self.add(format!("{name}.weight"), &[outputs, inputs], init);
        self.add(format!("{name}.bias"), &[outputs], init);
        self
    }

    /// Projections of both sides to the joint space.
    #[must_use]
    pub fn projections(self) -> Self {
        let Sizes { embed_dim, vision_width, hidden, .. } = self.sizes;
        self.head("vision_proj", embed_dim, vision_width).head("text_proj", embed_dim, hidden)
    }

    /// Two layers on the state of `[CLS]`, ending in `classes` logits: `cls_head`.
    #[must_use]
    pub fn cls_head(self, classes: usize) -> Self {
        let d = self.sizes.hidden;
        let mut out = self.head("cls_head.0", d, d).head("cls_head.2", classes, d);
        out.own_head = Some("cls_head.");
        out
    }

    /// The image encoder below `visual_encoder`.
    #[must_use]
    pub fn vision(mut self) -> Self {
        let p = "visual_encoder";
        let (w, m, patch) = (self.sizes.vision_width, self.sizes.vision_mlp, self.sizes.patch);
        let tokens = self.sizes.tokens;
        let projection = Init::Uniform { fan_in: 3 * patch * patch };
        self.add(format!("{p}.cls_token"), &[1, 1, w], Init::Normal);
        self.add(format!("{p}.pos_embed"), &[1, tokens, w], Init::Normal);
        self.add(format!("{p}.patch_embed.proj.weight"), &[w, 3, patch, patch], projection);
        self.add(format!("{p}.patch_embed.proj.bias"), &[w], projection);
        for i in 0..self.sizes.vision_depth {
            let b = format!("{p}.blocks.{i}");
            self.norm(&format!("{b}.norm1"), w);
            self.linear(&format!("{b}.attn.qkv"), 3 * w, w);
            self.linear(&format!("{b}.attn.proj"), w, w);
            self.norm(&format!("{b}.norm2"), w);
            self.linear(&format!("{b}.mlp.fc1"), m, w);
            self.linear(&format!("{b}.mlp.fc2"), w, m);
        }
        self.norm(&format!("{p}.norm"), w);
        self
    }

    fn attention(&mut self, p: &str, key_width: usize, shared: bool) {
        let d = self.sizes.hidden;
        self.linear(&format!("{p}.self.query"), d, d);
        if !shared {
            self.linear(&format!("{p}.self.key"), d, key_width);
            self.linear(&format!("{p}.self.value"), d, key_width);
        }
        self.linear(&format!("{p}.output.dense"), d, d);
        self.norm(&format!("{p}.output.LayerNorm"), d);
    }

    /// Embeddings and layers below `p`.
    #[must_use]
    pub fn bert(mut self, p: &str, bert: Bert) -> Self {
        let Sizes { hidden: d, intermediate, vocab_size, max_positions, type_vocab, .. } =
            self.sizes;
        let e = format!("{p}.embeddings");
        self.add(format!("{e}.word_embeddings.weight"), &[vocab_size, d], Init::Normal);
        self.add(format!("{e}.position_embeddings.weight"), &[max_positions, d], Init::Normal);
        if type_vocab > 0 {
            self.add(format!("{e}.token_type_embeddings.weight"), &[type_vocab, d], Init::Normal);
        }
        self.norm(&format!("{e}.LayerNorm"), d);
        for i in 0..bert.layers {
            let l = format!("{p}.encoder.layer.{i}");
            self.attention(&format!("{l}.attention"), d, false);
            if i >= bert.fusion_layer {
                let shared = bert.paired && (i - bert.fusion_layer) % 2 == 1;
                self.attention(&format!("{l}.crossattention"), bert.encoder_width, shared);
            }
            self.linear(&format!("{l}.intermediate.dense"), intermediate, d);
            self.linear(&format!("{l}.output.dense"), d, intermediate);
            self.norm(&format!("{l}.output.LayerNorm"), d);
        }
        if bert.paired {
            self.paired_from = Some(bert.fusion_layer);
        }
        self
    }

    /// The text and fusion layers of the paper below `p`.
    #[must_use]
    pub fn text_encoder(self, p: &str) -> Self {
        let Sizes { layers, fusion_layer, vision_width: encoder_width, .. } = self.sizes;
        self.bert(p, Bert { layers, fusion_layer, encoder_width, paired: false })
    }

    /// The two-image encoder: every fusion layer twice, in pairs that share keys and values.
    #[must_use]
    pub fn paired_text_encoder(self, p: &str) -> Self {
        let Sizes { layers, fusion_layer, vision_width: encoder_width, .. } = self.sizes;
        let layers = 2 * layers - fusion_layer;
        self.bert(p, Bert { layers, fusion_layer, encoder_width, paired: true })
    }

    /// The vocabulary head below `p`, its last matrix tied to the word embedding.
    #[must_use]
    pub fn lm_head(mut self, p: &str) -> Self {
        let (d, vocab_size) = (self.sizes.hidden, self.sizes.vocab_size);
        let p = format!("{p}.cls.predictions");
        self.add(format!("{p}.bias"), &[vocab_size], Init::Zeros);
        self.linear(&format!("{p}.transform.dense"), d, d);
        self.norm(&format!("{p}.transform.LayerNorm"), d);
        self
    }

    /// The name under which the upper layer of a pair lists a shared key or value.
    #[must_use]
    pub fn upper_twin(&self, name: &str) -> Option<String> {
        let first = self.paired_from?;
        let (before, layer, after) = layer_of(name)?;
        let shared = ["crossattention.self.key.", "crossattention.self.value."];
        (layer >= first && shared.iter().any(|s| after.starts_with(s)))
            .then(|| format!("{before}encoder.layer.{}.{after}", layer + 1))
    }

    /// The two parameter groups of the optimizer: without weight decay (one axis, or named `.bias`),
    /// then with.
    #[must_use]
    pub fn parameter_groups(&self) -> (Vec<String>, Vec<String>) {
        let plain = |p: &&Parameter| p.shape.len() == 1 || p.name.ends_with(".bias");
        let (plain, decayed): (Vec<&Parameter>, Vec<&Parameter>) =
            self.parameters.iter().partition(plain);
        let names = |of: Vec<&Parameter>| of.into_iter().map(|p| p.name.clone()).collect();
        (names(plain), names(decayed))
    }
}

/// The number of the layer in a BERT key, with what is before and after it.
#[must_use]
pub fn layer_of(name: &str) -> Option<(&str, usize, &str)> {
    let (before, rest) = name.split_once("encoder.layer.")?;
    let (number, after) = rest.split_once('.')?;
    Some((before, number.parse().ok()?, after))
}

/// The parts that have a momentum copy, by the first component of their names.
pub const AVERAGED: [&str; 6] =
    ["visual_encoder", "text_encoder", "text_decoder", "cls_head", "vision_proj", "text_proj"];

/// The name of the momentum copy of a weight, if it has one.
#[must_use]
pub fn momentum_name(name: &str) -> Option<String> {
    let (root, rest) = name.split_once('.')?;
    AVERAGED.contains(&root).then(|| format!("{root}_m.{rest}"))
}
