//! The operations in ordinary tensor arithmetic, with Burn's own gradients.

use albef_kernels::{Dropout, attention_dropout_keeps};
use burn::tensor::{Bool, Device, Tensor, TensorData, activation};

use super::{AttentionSpec, index};

/// `act(x Wᵀ + b)`.
#[must_use]
pub fn linear(x: Tensor<2>, w: Tensor<2>, b: Tensor<1>, gelu: bool) -> Tensor<2> {
    let z = x.matmul(w.transpose()) + b.unsqueeze();
    if gelu { activation::gelu(z) } else { z }
}

/// `LN(x) * w + b`.
#[must_use]
pub fn layer_norm(x: Tensor<2>, w: Tensor<1>, b: Tensor<1>, eps: f32) -> Tensor<2> {
    let centred = x.clone() - x.mean_dim(1);
    let variance = centred.clone().square().mean_dim(1);
    centred / (variance + eps).sqrt() * w.unsqueeze() + b.unsqueeze()
}

/// The mask that the kernel draws, as a tensor of `0` and `1 / (1 - p)`.
#[must_use]
pub fn dropout(x: Tensor<2>, dropout: Dropout) -> Tensor<2> {
    let [rows, width] = x.dims();
    let mut mask = vec![0.0; rows * width];
    albef_kernels::dropout(&vec![1.0; rows * width], dropout, &mut mask);
    let mask = Tensor::<2>::from_data(TensorData::new(mask, [rows, width]), &x.device());
    x * mask
}

/// Attention by gathering each segment into a padded block.
#[must_use]
pub fn attention(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, spec: &AttentionSpec) -> Tensor<2> {
    let rows = q.dims()[0];
    let blocks = Blocks::new(spec, rows, &q.device());
    let p = probabilities_of(&blocks, q, k, spec);
    attend_blocks(&blocks, p, v, spec)
}

/// The second half of attention: `rows` query rows out of probabilities as
/// [`attention_probabilities`] gives them.
#[must_use]
pub fn attend(p: Tensor<4>, v: Tensor<2>, rows: usize, spec: &AttentionSpec) -> Tensor<2> {
    let blocks = Blocks::new(spec, rows, &v.device());
    attend_blocks(&blocks, p, v, spec)
}

fn attend_blocks(blocks: &Blocks, p: Tensor<4>, v: Tensor<2>, spec: &AttentionSpec) -> Tensor<2> {
    let (rows, width) = (blocks.row_of_query.len(), v.dims()[1]);
    let v = blocks.gather_keys(v, spec);
    let out = p.matmul(v).permute([0, 2, 1, 3]).reshape([blocks.segments * blocks.q_max, width]);
    // Row 0 of the padded block stands in where no segment covers a row; those rows become zero.
    let out = out.select(0, index(&blocks.row_of_query, &blocks.device));
    out.mask_fill(blocks.uncovered.clone().unsqueeze_dim::<2>(1).expand([rows, width]), 0.0)
}

/// The probabilities `[segments, heads, longest query, longest key]`, zero where padded.
#[must_use]
pub fn attention_probabilities(q: Tensor<2>, k: Tensor<2>, spec: &AttentionSpec) -> Tensor<4> {
    let blocks = Blocks::new(spec, q.dims()[0], &q.device());
    probabilities_of(&blocks, q, k, spec)
}

fn probabilities_of(
    blocks: &Blocks,
    q: Tensor<2>,
    k: Tensor<2>,
    spec: &AttentionSpec,
) -> Tensor<4> {
    let q = blocks.gather_queries(q, spec);
    let k = blocks.gather_keys(k, spec);
    let scores = q.matmul(k.transpose()) / (spec.head_dim as f32).sqrt();
    let shape = scores.dims();
    let p = activation::softmax(scores.mask_fill(blocks.hidden.clone().expand(shape), -1e9), 3);
    let p = p.mask_fill(blocks.hidden.clone().expand(shape), 0.0);
    match spec.dropout.filter(|d| d.p > 0.0) {
        None => p,
        Some(dropout) => p * dropout_mask(dropout, shape, &blocks.device),
    }
}

fn dropout_mask(dropout: Dropout, [s, h, q, k]: [usize; 4], device: &Device) -> Tensor<4> {
    let keep = 1.0 / (1.0 - dropout.p);
    let mut mask = Vec::with_capacity(s * h * q * k);
    for si in 0..s {
        for hi in 0..h {
            for qi in 0..q {
                mask.extend((0..k).map(|ki| {
                    if attention_dropout_keeps(&dropout, h, si, hi, qi, ki) { keep } else { 0.0 }
                }));
            }
        }
    }
    Tensor::from_data(TensorData::new(mask, [s, h, q, k]), device)
}

/// Segments as padded blocks.
struct Blocks {
    segments: usize,
    q_max: usize,
    k_max: usize,
    query_rows: Vec<usize>,
    key_rows: Vec<usize>,
    row_of_query: Vec<usize>,
    uncovered: Tensor<1, Bool>,
    /// `[segments, 1, q_max, k_max]`
    hidden: Tensor<4, Bool>,
    device: Device,
}

impl Blocks {
    fn new(spec: &AttentionSpec, rows: usize, device: &Device) -> Self {
        let longest = |f: fn(&super::Segment) -> usize| spec.segments.iter().map(f).max();
        let q_max = longest(|s| s.q_len).unwrap_or(0).max(1);
        let k_max = longest(|s| s.k_len).unwrap_or(0).max(1);
        let n = spec.segments.len();
        let mut query_rows = vec![0; n * q_max];
        let mut key_rows = vec![0; n * k_max];
        let mut hidden = vec![true; n * q_max * k_max];
        let mut row_of_query = vec![0; rows];
        let mut uncovered = vec![true; rows];
        for (s, segment) in spec.segments.iter().enumerate() {
            for i in 0..segment.q_len {
                query_rows[s * q_max + i] = segment.q_start + i;
                row_of_query[segment.q_start + i] = s * q_max + i;
                uncovered[segment.q_start + i] = segment.k_len == 0;
                for j in 0..segment.k_len {
                    hidden[(s * q_max + i) * k_max + j] = spec.causal && j > i;
                }
            }
            for j in 0..segment.k_len {
                key_rows[s * k_max + j] = segment.k_start + j;
            }
        }
        let hidden = TensorData::new(hidden, [n, 1, q_max, k_max]);
        Self {
            segments: n,
            q_max,
            k_max,
            query_rows,
            key_rows,
            row_of_query,
            uncovered: Tensor::from_data(TensorData::new(uncovered, [rows]), device),
            hidden: Tensor::from_data(hidden, device),
            device: device.clone(),
        }
    }

    fn split(&self, x: Tensor<2>, length: usize, spec: &AttentionSpec) -> Tensor<4> {
        x.reshape([self.segments, length, spec.heads, spec.head_dim]).permute([0, 2, 1, 3])
    }

    fn gather_queries(&self, q: Tensor<2>, spec: &AttentionSpec) -> Tensor<4> {
        self.split(q.select(0, index(&self.query_rows, &self.device)), self.q_max, spec)
    }

    fn gather_keys(&self, k: Tensor<2>, spec: &AttentionSpec) -> Tensor<4> {
        self.split(k.select(0, index(&self.key_rows, &self.device)), self.k_max, spec)
    }
}
