//! The text encoder and the fusion encoder: one BERT stack whose upper layers attend to an image
//! (paper section 3.1).
//!
//! Letters: `R` packed rows of all sequences, `D` width. No padding is needed: a sequence is a
//! range of rows (see [`Sequence`]), and an image's keys and values are projected once per layer
//! for all the sequences that look at it.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};

use super::vision::ImageStates;
use super::weights::{LayerNorm, Linear, Scope};
use crate::config::TextConfig;
use crate::error::{Error, Result};
use crate::ops::{AttentionSpec, Dropout, Ops, Segment, index, plain};
use albef_data::text::{Sequence, TokenBatch};

/// Dropout of one forward pass: a probability and a seed from which each layer draws its own.
#[derive(Clone, Debug)]
pub struct DropoutRng {
    p: f32,
    seed: u64,
    used: u64,
}

impl DropoutRng {
    /// No dropout: evaluation, and the comparison with the official code.
    #[must_use]
    pub fn none() -> Self {
        Self { p: 0.0, seed: 0, used: 0 }
    }

    /// Dropout with probability `p`, a pure function of `seed`.
    #[must_use]
    pub fn new(p: f32, seed: u64) -> Self {
        Self { p, seed, used: 0 }
    }

    fn next(&mut self) -> Option<Dropout> {
        self.used += 1;
        let seed = self.seed ^ self.used.wrapping_mul(albef_random::STEP);
        (self.p > 0.0).then_some(Dropout { p: self.p, seed })
    }
}

/// The images that sequences attend to: states and, per sequence, the number of its image.
#[derive(Clone, Copy, Debug)]
pub struct ImageContext<'a> {
    /// States of the images.
    pub states: &'a ImageStates,
    /// `image_of[s]` is the image of sequence `s`.
    pub image_of: &'a [usize],
    /// Visible leading rows per image, if not all are.
    pub visible: Option<&'a [usize]>,
}

/// The states that cross-attention reads: rows, and per sequence the range of them that it sees.
/// Ranges are equal or disjoint.
#[derive(Clone, Debug)]
pub struct Memory {
    /// All rows `[rows, width]`.
    pub states: Tensor<2>,
    /// `ranges[s]` belongs to sequence `s`.
    pub ranges: Vec<Range<usize>>,
}

impl ImageContext<'_> {
    /// The same as rows and ranges.
    ///
    /// # Errors
    /// If a text has no image.
    pub fn memory(&self, texts: usize) -> Result<Memory> {
        let bad = self.image_of.iter().any(|i| *i >= self.states.batch);
        if self.image_of.len() != texts || bad {
            return Err(Error::ImageOfText {
                texts,
                given: self.image_of.len(),
                images: self.states.batch,
            });
        }
        let length = self.states.length;
        let range = |i: &usize| i * length..i * length + self.visible.map_or(length, |v| v[*i]);
        let ranges = self.image_of.iter().map(range).collect();
        Ok(Memory { states: self.states.tokens.clone(), ranges })
    }
}

/// What a traced pass records.
#[derive(Debug, Default)]
pub struct TextTrace {
    /// Layer whose attention maps are kept.
    pub attention_layer: Option<usize>,
    /// Whether that layer's cross-attention becomes a leaf of the gradient computation, so that the
    /// layers above are differentiated with respect to it (Grad-CAM). The model must then be built
    /// on [`crate::params::Params::constant`] weights.
    pub probe: bool,
    /// The input of the first layer run, then the output of each layer, `[R, D]`.
    pub hidden: Vec<Tensor<2>>,
    /// Self-attention `[sequences, heads, query, key]`.
    pub attention: Option<Tensor<4>>,
    /// Cross-attention `[sequences, heads, query, image token]`.
    pub cross_attention: Option<Tensor<4>>,
}

/// Embeddings and layers.
#[derive(Clone, Debug)]
pub struct TextEncoder {
    word: Tensor<2>,
    position: Tensor<2>,
    /// Absent from models of LAVIS.
    token_type: Option<Tensor<2>>,
    norm: LayerNorm,
    layers: Vec<Layer>,
    config: TextConfig,
    ops: Ops,
}

#[derive(Clone, Debug)]
struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    norm: LayerNorm,
}

#[derive(Clone, Debug)]
struct Layer {
    attention: Attention,
    cross_attention: Option<Attention>,
    intermediate: Linear,
    output: Linear,
    norm: LayerNorm,
}

impl Attention {
    /// `keys` is where key and value lie: `scope` itself but for layers that share them.
    fn new(
        scope: &Scope<'_>,
        keys: &Scope<'_>,
        width: usize,
        key_width: usize,
        eps: f32,
    ) -> Result<Self> {
        Ok(Self {
            query: Linear::new(&scope.at("self.query"), width, width)?,
            key: Linear::new(&keys.at("self.key"), key_width, width)?,
            value: Linear::new(&keys.at("self.value"), key_width, width)?,
            output: Linear::new(&scope.at("output.dense"), width, width)?,
            norm: LayerNorm::new(&scope.at("output.LayerNorm"), width, eps)?,
        })
    }
}

/// The rows that a pass computes in its last layer, per sequence and in rising order.
#[derive(Clone, Copy, Debug)]
pub enum OutputRows<'a> {
    /// Every row.
    All,
    /// `rows[s]` are the rows wanted of sequence `s`, counted from its start. The result has these
    /// rows one after another.
    Rows(&'a [Vec<usize>]),
}

impl TextEncoder {
    /// Reads the encoder below `scope` (`text_encoder.bert` in a pre-training checkpoint);
    /// `encoder_width` is the width of the states that cross-attention reads.
    ///
    /// # Errors
    /// If a weight is absent or of another size.
    pub fn new(config: &TextConfig, encoder_width: usize, scope: &Scope<'_>) -> Result<Self> {
        let (d, eps) = (config.hidden, config.layer_norm_eps);
        let e = scope.at("embeddings");
        let layers = (0..config.layers)
            .map(|i| {
                let at = |i: usize| scope.at(&format!("encoder.layer.{i}"));
                let s = at(i);
                let second =
                    config.paired && i > config.fusion_layer && (i - config.fusion_layer) % 2 == 1;
                let cross_attention = (i >= config.fusion_layer)
                    .then(|| {
                        let own = s.at("crossattention");
                        let keys =
                            if second { at(i - 1).at("crossattention") } else { own.clone() };
                        Attention::new(&own, &keys, d, encoder_width, eps)
                    })
                    .transpose()?;
                let own = s.at("attention");
                Ok(Layer {
                    attention: Attention::new(&own, &own, d, d, eps)?,
                    cross_attention,
                    intermediate: Linear::new(&s.at("intermediate.dense"), d, config.intermediate)?,
                    output: Linear::new(&s.at("output.dense"), config.intermediate, d)?,
                    norm: LayerNorm::new(&s.at("output.LayerNorm"), d, eps)?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            word: e.tensor("word_embeddings.weight", [config.vocab_size, d])?,
            position: e.tensor("position_embeddings.weight", [config.max_positions, d])?,
            token_type: match config.type_vocab {
                0 => None,
                rows => Some(e.tensor("token_type_embeddings.weight", [rows, d])?),
            },
            norm: LayerNorm::new(&e.at("LayerNorm"), d, eps)?,
            layers,
            config: config.clone(),
            ops: scope.ops(),
        })
    }

    /// The word embedding `[vocabulary, D]`, which the vocabulary head shares.
    #[must_use]
    pub fn word_embeddings(&self) -> Tensor<2> {
        self.word.clone()
    }

    /// Layers `0 .. fusion_layer` on token ids (mode `text`): `[R, D]`.
    ///
    /// # Errors
    /// If a sequence is longer than the position table or an id lies outside the vocabulary.
    pub fn text(
        &self,
        tokens: &TokenBatch,
        read: OutputRows<'_>,
        dropout: &mut DropoutRng,
        trace: Option<&mut TextTrace>,
    ) -> Result<Tensor<2>> {
        let x = self.embed(tokens, dropout)?;
        let layers = 0..self.config.fusion_layer;
        self.run(x, &tokens.sequences, layers, &[], read, dropout, trace)
    }

    /// Layers `fusion_layer ..` on states of [`TextEncoder::text`] (mode `fusion`).
    ///
    /// # Errors
    /// If a sequence has no image.
    pub fn fusion(
        &self,
        states: Tensor<2>,
        sequences: &[Sequence],
        image: ImageContext<'_>,
        read: OutputRows<'_>,
        dropout: &mut DropoutRng,
        trace: Option<&mut TextTrace>,
    ) -> Result<Tensor<2>> {
        let layers = self.config.fusion_layer..self.config.layers;
        let memory = [image.memory(sequences.len())?];
        self.run(states, sequences, layers, &memory, read, dropout, trace)
    }

    /// All layers on token ids (mode `multi_modal`).
    ///
    /// # Errors
    /// As [`TextEncoder::text`] and [`TextEncoder::fusion`].
    pub fn multi_modal(
        &self,
        tokens: &TokenBatch,
        image: ImageContext<'_>,
        read: OutputRows<'_>,
        dropout: &mut DropoutRng,
        trace: Option<&mut TextTrace>,
    ) -> Result<Tensor<2>> {
        let memory = [image.memory(tokens.len())?];
        self.all_layers(tokens, &memory, read, dropout, trace)
    }

    /// All layers on token ids, fusion layer `n` reading `memories[(n - fusion_layer) % count]`:
    /// the images of a pair in turn, or the question states of an answer decoder.
    ///
    /// # Errors
    /// As [`TextEncoder::text`], or if a memory has not one range per sequence.
    pub fn all_layers(
        &self,
        tokens: &TokenBatch,
        memories: &[Memory],
        read: OutputRows<'_>,
        dropout: &mut DropoutRng,
        trace: Option<&mut TextTrace>,
    ) -> Result<Tensor<2>> {
        if let Some(bad) = memories.iter().find(|m| m.ranges.len() != tokens.len()) {
            let (texts, given) = (tokens.len(), bad.ranges.len());
            return Err(Error::ImageOfText { texts, given, images: given });
        }
        let x = self.embed(tokens, dropout)?;
        let layers = 0..self.config.layers;
        self.run(x, &tokens.sequences, layers, memories, read, dropout, trace)
    }

    fn embed(&self, tokens: &TokenBatch, dropout: &mut DropoutRng) -> Result<Tensor<2>> {
        let device = self.word.device();
        if let Some((i, s)) = tokens
            .sequences
            .iter()
            .enumerate()
            .find(|(_, s)| s.rows > self.config.max_positions || s.rows == 0)
        {
            return Err(Error::TextLength {
                index: i,
                found: s.rows,
                limit: self.config.max_positions,
            });
        }
        if let Some(id) = tokens.ids.iter().find(|id| **id as usize >= self.config.vocab_size) {
            return Err(Error::TokenId { id: *id, vocabulary: self.config.vocab_size });
        }
        let ids: Vec<usize> = tokens.ids.iter().map(|id| *id as usize).collect();
        let word = self.look_up(&ids, &device);
        let position = self.position.clone().select(0, index(&tokens.positions(), &device));
        let word = match &self.token_type {
            Some(table) => word + table.clone().narrow(0, 0, 1),
            None => word,
        };
        let x = self.norm.forward(word + position);
        Ok(self.ops.dropout(x, dropout.next()))
    }

    /// Rows of the word table. The look-up of [PAD] adds nothing to the table's gradient, as in
    /// the official code, where the table is built with a padding index.
    fn look_up(&self, ids: &[usize], device: &Device) -> Tensor<2> {
        let rows = self.word.clone().select(0, index(ids, device));
        let pad = self.config.pad_id as usize;
        if !ids.contains(&pad) {
            return rows;
        }
        let keep: Vec<f32> = ids.iter().map(|id| f32::from(*id != pad)).collect();
        let keep = Tensor::<2>::from_data(TensorData::new(keep, [ids.len(), 1]), device);
        let constant = self.word.clone().detach().select(0, index(ids, device));
        rows * keep.clone() + constant * (keep.neg() + 1.0)
    }

    fn run(
        &self,
        mut x: Tensor<2>,
        sequences: &[Sequence],
        layers: Range<usize>,
        memories: &[Memory],
        read: OutputRows<'_>,
        dropout: &mut DropoutRng,
        mut trace: Option<&mut TextTrace>,
    ) -> Result<Tensor<2>> {
        if let Some(trace) = trace.as_deref_mut() {
            trace.hidden.push(x.clone());
        }
        if layers.is_empty() {
            return Ok(self.queries(&x, sequences, read).0);
        }
        let last = layers.end - 1;
        for i in layers {
            let rows = if i == last { read } else { OutputRows::All };
            let tracing = trace.as_deref_mut().filter(|t| t.attention_layer == Some(i));
            let turn = i.saturating_sub(self.config.fusion_layer) % memories.len().max(1);
            let memory = memories.get(turn);
            x = self.layer(&self.layers[i], x, sequences, memory, rows, dropout, tracing)?;
            if let Some(trace) = trace.as_deref_mut() {
                trace.hidden.push(x.clone());
            }
        }
        Ok(x)
    }

    fn layer(
        &self,
        layer: &Layer,
        x: Tensor<2>,
        sequences: &[Sequence],
        memory: Option<&Memory>,
        read: OutputRows<'_>,
        dropout: &mut DropoutRng,
        mut trace: Option<&mut TextTrace>,
    ) -> Result<Tensor<2>> {
        // Rows that are read: the queries of this layer. Keys and values come from every row.
        let (kept, queries) = self.queries(&x, sequences, read);
        let attention = &layer.attention;
        let q = attention.query.forward(kept.clone());
        let k = attention.key.forward(x.clone());
        let v = attention.value.forward(x);
        let spec = self.spec(
            queries.iter().zip(sequences).map(|(q, s)| Segment {
                q_start: q.start,
                q_len: q.len(),
                k_start: s.start,
                k_len: s.visible,
            }),
            self.config.causal,
            dropout,
        );
        if let Some(trace) = trace.as_deref_mut() {
            let p = plain::attention_probabilities(q.clone(), k.clone(), &spec);
            trace.attention = Some(p);
        }
        let a = attention.output.forward(self.ops.attention(q, k, v, &spec));
        let a = self.ops.dropout(a, dropout.next());
        let mut h = attention.norm.forward_add(a, kept);

        if let Some(cross) = &layer.cross_attention {
            let Some(memory) = memory else { return Err(Error::NoImage) };
            let q = cross.query.forward(h.clone());
            let k = cross.key.forward(memory.states.clone());
            let v = cross.value.forward(memory.states.clone());
            let spec = self.spec(
                queries.iter().zip(&memory.ranges).map(|(q, keys)| Segment {
                    q_start: q.start,
                    q_len: q.len(),
                    k_start: keys.start,
                    k_len: keys.len(),
                }),
                false,
                dropout,
            );
            let attended = match trace {
                Some(trace) if trace.probe => {
                    let p = plain::attention_probabilities(q.clone(), k, &spec).inner();
                    let leaf = Tensor::from_inner(p).require_grad();
                    trace.cross_attention = Some(leaf.clone());
                    plain::attend(leaf, v, q.dims()[0], &spec)
                }
                Some(trace) => {
                    let p = plain::attention_probabilities(q.clone(), k.clone(), &spec);
                    trace.cross_attention = Some(p);
                    self.ops.attention(q, k, v, &spec)
                }
                None => self.ops.attention(q, k, v, &spec),
            };
            let a = cross.output.forward(attended);
            let a = self.ops.dropout(a, dropout.next());
            h = cross.norm.forward_add(a, h);
        }
        let f = layer.output.forward(layer.intermediate.forward_gelu(h.clone()));
        let f = self.ops.dropout(f, dropout.next());
        Ok(layer.norm.forward_add(f, h))
    }

    fn queries(
        &self,
        x: &Tensor<2>,
        sequences: &[Sequence],
        read: OutputRows<'_>,
    ) -> (Tensor<2>, Vec<Range<usize>>) {
        let OutputRows::Rows(rows) = read else {
            return (x.clone(), sequences.iter().map(Sequence::range).collect());
        };
        let mut picked = Vec::new();
        let mut ranges = Vec::with_capacity(sequences.len());
        for (sequence, rows) in sequences.iter().zip(rows) {
            let start = picked.len();
            picked.extend(rows.iter().map(|r| sequence.start + r));
            ranges.push(start..picked.len());
        }
        (x.clone().select(0, index(&picked, &x.device())), ranges)
    }

    fn spec(
        &self,
        segments: impl Iterator<Item = Segment>,
        causal: bool,
        dropout: &mut DropoutRng,
    ) -> Arc<AttentionSpec> {
        Arc::new(AttentionSpec {
            segments: segments.collect(),
            heads: self.config.heads,
            head_dim: self.config.hidden / self.config.heads,
            causal,
            dropout: dropout.next(),
        })
    }
}

/// The vocabulary head (`cls.predictions`), its last matrix tied to the word embedding, as in ALBEF, or one of its
/// own (`decoder.weight`), as in TorchMultimodal.
#[derive(Clone, Debug)]
pub struct MlmHead {
    dense: Linear,
    norm: LayerNorm,
    decoder: Linear,
}

/// The matrix of a head that is not tied.
const OWN_MATRIX: &str = "decoder.weight";

impl MlmHead {
    /// Reads the head below `scope` (`text_encoder.cls.predictions`).
    ///
    /// # Errors
    /// If a weight is absent or of another size.
    pub fn new(config: &TextConfig, word: Tensor<2>, scope: &Scope<'_>) -> Result<Self> {
        let d = config.hidden;
        let bias = scope.tensor("bias", [config.vocab_size])?;
        let matrix = match scope.has(OWN_MATRIX) {
            true => scope.tensor(OWN_MATRIX, [config.vocab_size, d])?,
            false => word,
        };
        Ok(Self {
            dense: Linear::new(&scope.at("transform.dense"), d, d)?,
            norm: LayerNorm::new(&scope.at("transform.LayerNorm"), d, config.layer_norm_eps)?,
            decoder: Linear::from_parts(matrix, bias, scope.ops()),
        })
    }

    /// States `[rows, D]` to word logits `[rows, vocabulary]`.
    #[must_use]
    pub fn forward(&self, states: Tensor<2>) -> Tensor<2> {
        self.decoder.forward(self.norm.forward(self.dense.forward_gelu(states)))
    }
}
