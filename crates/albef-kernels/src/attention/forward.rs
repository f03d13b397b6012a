//! Attention forward: scores transposed, 32 queries across, nothing of queries times keys kept.

use rayon::prelude::*;

use super::{AttentionSpec, Heads, Out, Segment, covered, draw_index, groups};
use crate::elementwise::exp;
use crate::isa::for_each_isa;
use crate::random::uniform;

/// Queries handled at a time.
const ACROSS: usize = 32;
/// Keys of a register tile.
const DOWN: usize = 12;

/// Keys in tiles `[k / 12][dim][12]`, values in tiles `[dim / 12][k][12]`, the scores of 32 queries.
#[derive(Default)]
struct Scratch {
    keys: Vec<f32>,
    values: Vec<f32>,
    scores: Vec<f32>,
    query: Vec<f32>,
    out: Vec<f32>,
}

/// `R` lines by `C` columns of the sums from line `I` and column `J` on.
#[inline(always)]
fn block<const R: usize, const C: usize, const I: usize, const J: usize>(
    left: &[[f32; DOWN]],
    right: &[[f32; ACROSS]],
    out: &mut [f32],
) {
    let mut sum = [[0.0_f32; C]; R];
    // Nothing in the loop can panic, so the sums stay in registers.
    for (l, r) in left.iter().zip(right) {
        for i in 0..R {
            for j in 0..C {
                sum[i][j] = l[I + i].mul_add(r[J + j], sum[i][j]);
            }
        }
    }
    for (i, line) in out.chunks_mut(ACROSS).skip(I).enumerate().take(R) {
        line[J..J + C].copy_from_slice(&sum[i]);
    }
}

/// `out[12][32] = leftᵀ right` of `left` `[length][12]` and `right` `[length][32]`: both the scores of
/// keys and the sums of values have this form. Every entry is summed in the same order whatever the cut.
fn tile(left: &[f32], right: &[f32], length: usize, out: &mut [f32]) {
    let left = left[..length * DOWN].as_chunks::<DOWN>().0;
    let right = right[..length * ACROSS].as_chunks::<ACROSS>().0;

    #[cfg(target_arch = "x86_64")]
    {
        use crate::isa::{Isa, detected};

        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        fn avx512(left: &[[f32; DOWN]], right: &[[f32; ACROSS]], out: &mut [f32]) {
            block::<DOWN, ACROSS, 0, 0>(left, right, out);
        }
        // 12 of the 16 registers hold sums.
        #[target_feature(enable = "avx2,fma")]
        fn avx2(left: &[[f32; DOWN]], right: &[[f32; ACROSS]], out: &mut [f32]) {
            block::<6, 16, 0, 0>(left, right, out);
            block::<6, 16, 6, 0>(left, right, out);
            block::<6, 16, 0, 16>(left, right, out);
            block::<6, 16, 6, 16>(left, right, out);
        }
        match detected() {
            // SAFETY: the processor has been found to offer these instructions.
            Isa::Avx512 => return unsafe { avx512(left, right, out) },
            // SAFETY: as above.
            Isa::Avx2 => return unsafe { avx2(left, right, out) },
            Isa::Portable => {}
        }
    }
    block::<DOWN, ACROSS, 0, 0>(left, right, out);
}

for_each_isa! {
    /// Exponentials in place; gives the sums per query.
    fn softmax_columns(scores: &mut [f32]) -> [f32; ACROSS] {
        let mut top = [f32::NEG_INFINITY; ACROSS];
        for line in scores.chunks_exact(ACROSS) {
            for l in 0..ACROSS {
                top[l] = top[l].max(line[l]);
            }
        }
        let mut sum = [0.0_f32; ACROSS];
        for line in scores.chunks_exact_mut(ACROSS) {
            for l in 0..ACROSS {
                line[l] = exp(line[l] - top[l]);
                sum[l] += line[l];
            }
        }
        sum
    }
}

/// `softmax(q kᵀ / sqrt(head_dim)) v` into `out` `[q_rows][heads * head_dim]`. Rows that no segment
/// covers, or whose segment has no keys, become zero.
///
/// # Panics
/// If slices are too short or ranges overlap in a forbidden way.
pub fn attention(
    spec: &AttentionSpec<'_>,
    q: Heads<'_>,
    k: Heads<'_>,
    v: Heads<'_>,
    q_rows: usize,
    out: &mut [f32],
) {
    let (heads, dim) = (spec.heads, spec.head_dim);
    let width = heads * dim;
    let k_rows = spec.segments.iter().map(|s| s.k_start + s.k_len).max().unwrap_or(0);
    q.check(q_rows, width, "q");
    k.check(k_rows, width, "k");
    v.check(k_rows, width, "v");
    assert!(out.len() >= q_rows * width, "attention: result");
    let groups = groups(spec, q_rows, k_rows);
    if !covered(spec, q_rows) {
        out[..q_rows * width].fill(0.0);
    }
    let target = Out(out.as_mut_ptr());
    let tasks = groups.len() * heads;
    (0..tasks).into_par_iter().for_each_init(Scratch::default, |scratch, task| {
        let (group, head) = (&groups[task / heads], task % heads);
        let first = spec.segments[group[0]];
        scratch.load_keys(k, v, first, head, dim);
        for index in group {
            scratch.forward(spec, *index, head, q, &target);
        }
    });
}

impl Scratch {
    fn load_keys(&mut self, k: Heads<'_>, v: Heads<'_>, s: Segment, head: usize, dim: usize) {
        self.keys.clear();
        self.keys.resize(s.k_len.next_multiple_of(DOWN) * dim, 0.0);
        self.values.clear();
        self.values.resize(s.k_len * dim.next_multiple_of(DOWN), 0.0);
        for j in 0..s.k_len {
            let tile = j / DOWN * DOWN * dim + j % DOWN;
            for (d, value) in k.row(s.k_start + j, head, dim).iter().enumerate() {
                self.keys[tile + d * DOWN] = *value;
            }
            for (t, part) in v.row(s.k_start + j, head, dim).chunks(DOWN).enumerate() {
                let start = (t * s.k_len + j) * DOWN;
                self.values[start..start + part.len()].copy_from_slice(part);
            }
        }
    }

    fn forward(
        &mut self,
        spec: &AttentionSpec<'_>,
        index: usize,
        head: usize,
        q: Heads<'_>,
        out: &Out,
    ) {
        let s = spec.segments[index];
        let dim = spec.head_dim;
        let width = spec.heads * dim;
        let scale = 1.0 / (dim as f32).sqrt();
        self.query.resize(dim * ACROSS, 0.0);
        self.scores.resize(s.k_len.next_multiple_of(DOWN) * ACROSS, 0.0);
        self.out.resize(dim.next_multiple_of(DOWN) * ACROSS, 0.0);
        for start in (0..s.q_len).step_by(ACROSS) {
            let count = ACROSS.min(s.q_len - start);
            self.query.fill(0.0);
            for i in 0..count {
                let row = q.row(s.q_start + start + i, head, dim);
                for (d, value) in row.iter().enumerate() {
                    self.query[d * ACROSS + i] = value * scale;
                }
            }
            for (keys, scores) in
                self.keys.chunks_exact(DOWN * dim).zip(self.scores.chunks_exact_mut(DOWN * ACROSS))
            {
                tile(keys, &self.query, dim, scores);
            }
            let scores = &mut self.scores[..s.k_len * ACROSS];
            if spec.causal {
                for (j, line) in scores.chunks_mut(ACROSS).enumerate() {
                    for (i, score) in line.iter_mut().enumerate() {
                        if j > start + i {
                            *score = f32::NEG_INFINITY;
                        }
                    }
                }
            }
            let sum = softmax_columns(scores);
            if let Some(dropout) = spec.dropout.filter(|d| d.p > 0.0) {
                let keep = 1.0 / (1.0 - dropout.p);
                for (j, line) in scores.chunks_mut(ACROSS).enumerate() {
                    for (i, score) in line.iter_mut().enumerate().take(count) {
                        let at = draw_index(spec.heads, index, head, start + i, j);
                        let kept = uniform(dropout.seed, at) >= dropout.p;
                        *score *= if kept { keep } else { 0.0 };
                    }
                }
            }
            for (values, out) in self
                .values
                .chunks_exact(s.k_len * DOWN)
                .zip(self.out.chunks_exact_mut(DOWN * ACROSS))
            {
                tile(values, scores, s.k_len, out);
            }
            for (i, sum) in sum.iter().enumerate().take(count) {
                let place = (s.q_start + start + i) * width + head * dim;
                // SAFETY: the row lies inside the checked result, and this head of it is
                // written by this task alone.
                let row = unsafe { out.part(place, dim) };
                for (d, value) in row.iter_mut().enumerate() {
                    *value = self.out[d * ACROSS + i] / sum;
                }
            }
        }
    }
}
