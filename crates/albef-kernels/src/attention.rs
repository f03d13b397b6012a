//! Soft-max attention over packed rows, forward and backward, self and cross.
//!
//! Scores are formed transposed, keys down and 32 queries across, so the soft-max is vertical and
//! nothing of the size of queries times keys is kept. The backward pass forms the probabilities
//! again, one head at a time.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::elementwise::exp;
use crate::isa::for_each_isa;
use crate::random::{Dropout, uniform};

/// Queries `q_start .. q_start + q_len` attend to keys `k_start .. k_start + k_len`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First query row.
    pub q_start: usize,
    /// Query rows.
    pub q_len: usize,
    /// First key row.
    pub k_start: usize,
    /// Key rows.
    pub k_len: usize,
}

/// A matrix in which head `h` of row `i` begins at `i * stride + offset + h * head_dim`.
#[derive(Clone, Copy)]
pub struct Heads<'a> {
    /// The values.
    pub data: &'a [f32],
    /// Distance of rows.
    pub stride: usize,
    /// Place of the first head in a row.
    pub offset: usize,
}

/// What attends to what. Query ranges are disjoint; key ranges are equal or disjoint.
#[derive(Clone, Debug)]
pub struct AttentionSpec<'a> {
    /// The sequences.
    pub segments: &'a [Segment],
    /// Number of heads.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Whether key `j` of a segment is hidden from query `i < j`.
    pub causal: bool,
    /// Dropout of the probabilities.
    pub dropout: Option<Dropout>,
}

/// The number under which the dropout draw of a probability is made.
fn draw_index(heads: usize, segment: usize, head: usize, query: usize, key: usize) -> u64 {
    (((segment * heads + head) as u64) << 40) | ((query as u64) << 20) | key as u64
}

/// Whether dropout keeps the probability of `query` and `key` (counted inside the segment).
#[must_use]
pub fn attention_dropout_keeps(
    dropout: &Dropout,
    heads: usize,
    segment: usize,
    head: usize,
    query: usize,
    key: usize,
) -> bool {
    uniform(dropout.seed, draw_index(heads, segment, head, query, key)) >= dropout.p
}

#[derive(Clone, Copy)]
struct Out(*mut f32);
// SAFETY: tasks write disjoint rows and heads.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

impl Out {
    /// `len` values from `start`.
    ///
    /// # Safety
    /// They must lie inside the buffer and belong to this task alone.
    #[expect(clippy::mut_from_ref, reason = "disjoint parts of one buffer")]
    unsafe fn part(&self, start: usize, len: usize) -> &mut [f32] {
        // SAFETY: the caller vouches for the range.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

impl Heads<'_> {
    fn row(&self, row: usize, head: usize, dim: usize) -> &[f32] {
        let start = row * self.stride + self.offset + head * dim;
        &self.data[start..start + dim]
    }

    fn check(&self, rows: usize, width: usize, what: &str) {
        let enough = rows == 0 || (rows - 1) * self.stride + self.offset + width <= self.data.len();
        assert!(enough, "attention: {what} has {} values for {rows} rows", self.data.len());
    }
}

/// Segments with the same keys, by first key row.
fn groups(spec: &AttentionSpec<'_>, q_rows: usize, k_rows: usize) -> Vec<Vec<usize>> {
    let mut by_key: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut last_query = 0;
    let mut ordered: Vec<&Segment> = spec.segments.iter().collect();
    ordered.sort_by_key(|s| s.q_start);
    for s in ordered.iter().filter(|s| s.q_len > 0) {
        assert!(s.q_start >= last_query, "attention: query ranges overlap");
        last_query = s.q_start + s.q_len;
    }
    assert!(last_query <= q_rows, "attention: queries beyond row {q_rows}");
    for (i, s) in spec.segments.iter().enumerate() {
        if s.q_len > 0 && s.k_len > 0 {
            by_key.entry(s.k_start).or_default().push(i);
        }
    }
    let mut last_key = 0;
    for (start, members) in &by_key {
        let len = spec.segments[members[0]].k_len;
        let same = members.iter().all(|i| spec.segments[*i].k_len == len);
        assert!(same && *start >= last_key, "attention: key ranges overlap in part");
        last_key = start + len;
    }
    assert!(last_key <= k_rows, "attention: keys beyond row {k_rows}");
    by_key.into_values().collect()
}

/// Whether the segments cover all rows, so that nothing need be cleared.
fn covered(spec: &AttentionSpec<'_>, q_rows: usize) -> bool {
    let rows = |s: &Segment| if s.k_len > 0 { s.q_len } else { 0 };
    spec.segments.iter().map(rows).sum::<usize>() == q_rows
}

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

for_each_isa! {
    /// `out[12][32] = leftᵀ right` of `left` `[length][12]` and `right` `[length][32]`: both the
    /// scores of keys and the sums of values have this form.
    fn tile(left: &[f32], right: &[f32], length: usize, out: &mut [f32]) {
        let mut sum = [[0.0_f32; ACROSS]; DOWN];
        // Nothing in the loop can panic, so the sums stay in registers.
        let left = left[..length * DOWN].as_chunks::<DOWN>().0;
        let right = right[..length * ACROSS].as_chunks::<ACROSS>().0;
        for (l, r) in left.iter().zip(right) {
            for i in 0..DOWN {
                for j in 0..ACROSS {
                    sum[i][j] = l[i].mul_add(r[j], sum[i][j]);
                }
            }
        }
        for (i, line) in out.chunks_mut(ACROSS).enumerate().take(DOWN) {
            line.copy_from_slice(&sum[i]);
        }
    }
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

/// Rows and columns of a small product.
struct Small<'a> {
    data: &'a [f32],
    row: usize,
    column: usize,
}

/// Where a small product goes: rows `row` values apart, within `len` values.
struct Target {
    data: *mut f32,
    len: usize,
    row: usize,
}

impl Target {
    fn new(data: &mut [f32], row: usize) -> Self {
        Self { data: data.as_mut_ptr(), len: data.len(), row }
    }
}

/// `c = alpha a b` or `c += alpha a b`.
///
/// # Safety
/// `c` must be valid for its length, and this thread alone may touch the `n` columns of its rows.
unsafe fn small_product(
    [m, n, k]: [usize; 3],
    a: &Small<'_>,
    b: &Small<'_>,
    c: &Target,
    alpha: f32,
    add: bool,
) {
    let reach = |rows: usize, columns: usize, row: usize, column: usize| {
        (rows.max(1) - 1) * row + (columns.max(1) - 1) * column
    };
    assert!(
        reach(m, k, a.row, a.column) < a.data.len()
            && reach(k, n, b.row, b.column) < b.data.len()
            && reach(m, n, c.row, 1) < c.len
    );
    // SAFETY: all three matrices lie inside their buffers, as just checked, and the caller
    // vouches for `c`.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.data,
            1,
            c.row as isize,
            add,
            a.data.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.data.as_ptr(),
            b.column as isize,
            b.row as isize,
            if add { 1.0_f32 } else { 0.0_f32 },
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

for_each_isa! {
    fn softmax_row(row: &mut [f32]) {
        let mut top = f32::NEG_INFINITY;
        for v in row.iter() {
            top = top.max(*v);
        }
        let mut lanes = [0.0_f32; 16];
        let mut chunks = row.chunks_exact_mut(16);
        for chunk in &mut chunks {
            for l in 0..16 {
                chunk[l] = exp(chunk[l] - top);
                lanes[l] += chunk[l];
            }
        }
        for (l, v) in chunks.into_remainder().iter_mut().enumerate() {
            *v = exp(*v - top);
            lanes[l] += *v;
        }
        let inverse = 1.0 / lanes.iter().sum::<f32>();
        for v in row.iter_mut() {
            *v *= inverse;
        }
    }
}

for_each_isa! {
    /// `ds = p * (dp - sum(p * dp))` in place of `dp`.
    fn softmax_row_backward(p: &[f32], dp: &mut [f32]) {
        let mut lanes = [0.0_f32; 16];
        for (i, (p, d)) in p.iter().zip(dp.iter()).enumerate() {
            lanes[i % 16] += p * d;
        }
        let sum = lanes.iter().sum::<f32>();
        for (p, d) in p.iter().zip(dp.iter_mut()) {
            *d = p * (*d - sum);
        }
    }
}

/// Where a gradient goes: a column range of a buffer.
struct Gradient {
    out: Out,
    stride: usize,
    offset: usize,
}

struct Backward<'a> {
    spec: &'a AttentionSpec<'a>,
    q: Heads<'a>,
    k: Heads<'a>,
    v: Heads<'a>,
    d_out: &'a [f32],
    gradients: [Gradient; 3],
}

impl Backward<'_> {
    /// Rows `start .. start + len` of one head of a gradient.
    fn rows(&self, which: usize, start: usize, len: usize, head: usize) -> Target {
        let (g, dim) = (&self.gradients[which], self.spec.head_dim);
        let place = start * g.stride + g.offset + head * dim;
        Target { data: g.out.0.wrapping_add(place), len: (len - 1) * g.stride + dim, row: g.stride }
    }

    fn run(&self, group: &[usize], head: usize, scratch: &mut [Vec<f32>; 3]) {
        let spec = self.spec;
        let dim = spec.head_dim;
        let width = spec.heads * dim;
        let scale = 1.0 / (dim as f32).sqrt();
        for (nth, index) in group.iter().enumerate() {
            let s = spec.segments[*index];
            let (nq, nk) = (s.q_len, s.k_len);
            let [p, dp, dropped] = scratch;
            p.resize(nq * nk, 0.0);
            dp.resize(nq * nk, 0.0);
            let of = |h: &Heads<'_>, row: usize| row * h.stride + h.offset + head * dim;
            let q = &self.q.data[of(&self.q, s.q_start)..];
            let k = &self.k.data[of(&self.k, s.k_start)..];
            let v = &self.v.data[of(&self.v, s.k_start)..];
            let d = &self.d_out[s.q_start * width + head * dim..];
            let (q, d) = (small(q, self.q.stride, 1), small(d, width, 1));
            let k_t = small(k, 1, self.k.stride);
            let v_t = small(v, 1, self.v.stride);
            // SAFETY: both targets are this thread's own buffers.
            unsafe {
                small_product([nq, nk, dim], &q, &k_t, &Target::new(p, nk), scale, false);
                small_product([nq, nk, dim], &d, &v_t, &Target::new(dp, nk), 1.0, false);
            }
            for (i, row) in p.chunks_mut(nk).enumerate() {
                if spec.causal {
                    row[(i + 1).min(nk)..].fill(f32::NEG_INFINITY);
                }
                softmax_row(row);
            }
            let kept: &[f32] = match spec.dropout.filter(|d| d.p > 0.0) {
                None => p,
                Some(dropout) => {
                    dropped.clear();
                    dropped.extend_from_slice(p);
                    let keep = 1.0 / (1.0 - dropout.p);
                    for i in 0..nq {
                        for j in 0..nk {
                            let at = draw_index(spec.heads, *index, head, i, j);
                            let kept = uniform(dropout.seed, at) >= dropout.p;
                            let factor = if kept { keep } else { 0.0 };
                            dropped[i * nk + j] *= factor;
                            dp[i * nk + j] *= factor;
                        }
                    }
                    dropped
                }
            };
            let add = nth > 0;
            let kept_t = small(kept, 1, nk);
            let [dq, dk, dv] = [(0, s.q_start, nq), (1, s.k_start, nk), (2, s.k_start, nk)]
                .map(|(which, start, len)| self.rows(which, start, len, head));
            // SAFETY: the ranges lie inside the checked buffers, and a task alone touches its head's
            // columns of its group's rows.
            unsafe { small_product([nk, dim, nq], &kept_t, &d, &dv, 1.0, add) };
            for (p, dp) in p.chunks(nk).zip(dp.chunks_mut(nk)) {
                softmax_row_backward(p, dp);
            }
            let k = small(k, self.k.stride, 1);
            // SAFETY: as above.
            unsafe {
                small_product([nq, dim, nk], &small(dp, nk, 1), &k, &dq, scale, false);
                small_product([nk, dim, nq], &small(dp, 1, nk), &q, &dk, scale, add);
            }
        }
    }
}

fn small(data: &[f32], row: usize, column: usize) -> Small<'_> {
    Small { data, row, column }
}

fn backward(work: &Backward<'_>, q_rows: usize, k_rows: usize) {
    let heads = work.spec.heads;
    let groups = groups(work.spec, q_rows, k_rows);
    (0..groups.len() * heads).into_par_iter().for_each_init(
        || [Vec::new(), Vec::new(), Vec::new()],
        |scratch, task| work.run(&groups[task / heads], task % heads, scratch),
    );
}

/// Whether the segments cover all key rows.
fn keys_covered(spec: &AttentionSpec<'_>, k_rows: usize) -> bool {
    let keys: BTreeMap<usize, usize> =
        spec.segments.iter().filter(|s| s.q_len > 0).map(|s| (s.k_start, s.k_len)).collect();
    keys.values().sum::<usize>() == k_rows
}

/// Gradients of [`attention`]: `dq` `[q_rows][width]`, `dk` and `dv` `[k_rows][width]`, all written
/// in full.
///
/// # Panics
/// As [`attention`].
pub fn attention_backward(
    spec: &AttentionSpec<'_>,
    q: Heads<'_>,
    k: Heads<'_>,
    v: Heads<'_>,
    d_out: &[f32],
    q_rows: usize,
    k_rows: usize,
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    let width = spec.heads * spec.head_dim;
    q.check(q_rows, width, "q");
    k.check(k_rows, width, "k");
    v.check(k_rows, width, "v");
    assert!(d_out.len() >= q_rows * width && dq.len() >= q_rows * width, "attention: gradients");
    assert!(dk.len() >= k_rows * width && dv.len() >= k_rows * width, "attention: gradients");
    if !covered(spec, q_rows) {
        dq.fill(0.0);
    }
    if !keys_covered(spec, k_rows) {
        dk.fill(0.0);
        dv.fill(0.0);
    }
    let gradients =
        [dq, dk, dv].map(|g| Gradient { out: Out(g.as_mut_ptr()), stride: width, offset: 0 });
    backward(&Backward { spec, q, k, v, d_out, gradients }, q_rows, k_rows);
}

/// Gradient of attention on packed rows `qkv` `[rows][3 * width]`, into `d_qkv` of the same shape.
///
/// # Panics
/// As [`attention`].
pub fn attention_backward_packed(
    spec: &AttentionSpec<'_>,
    qkv: &[f32],
    rows: usize,
    d_out: &[f32],
    d_qkv: &mut [f32],
) {
    let width = spec.heads * spec.head_dim;
    assert!(qkv.len() >= rows * 3 * width && d_qkv.len() >= rows * 3 * width, "attention: qkv");
    assert!(d_out.len() >= rows * width, "attention: gradients");
    if !covered(spec, rows) || !keys_covered(spec, rows) {
        d_qkv.fill(0.0);
    }
    let out = Out(d_qkv.as_mut_ptr());
    let gradients = [0, 1, 2].map(|i| Gradient { out, stride: 3 * width, offset: i * width });
    let [q, k, v] = [0, 1, 2].map(|i| Heads { data: qkv, stride: 3 * width, offset: i * width });
    backward(&Backward { spec, q, k, v, d_out, gradients }, rows, rows);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(seed: u64, n: usize) -> Vec<f32> {
        (0..n).map(|i| uniform(seed, i as u64) * 2.0 - 1.0).collect()
    }

    struct Case {
        segments: Vec<Segment>,
        heads: usize,
        dim: usize,
        causal: bool,
        dropout: Option<Dropout>,
        q_rows: usize,
        k_rows: usize,
    }

    fn cases() -> Vec<Case> {
        let seg = |q_start, q_len, k_start, k_len| Segment { q_start, q_len, k_start, k_len };
        vec![
            Case {
                segments: vec![seg(0, 5, 0, 5), seg(5, 40, 5, 40)],
                heads: 2,
                dim: 16,
                causal: false,
                dropout: None,
                q_rows: 45,
                k_rows: 45,
            },
            Case {
                segments: vec![seg(0, 3, 7, 30), seg(3, 1, 7, 30), seg(4, 33, 0, 7)],
                heads: 3,
                dim: 12,
                causal: false,
                dropout: Some(Dropout { p: 0.2, seed: 9 }),
                q_rows: 38,
                k_rows: 40,
            },
            Case {
                segments: vec![seg(2, 9, 0, 9)],
                heads: 1,
                dim: 64,
                causal: true,
                dropout: None,
                q_rows: 11,
                k_rows: 9,
            },
        ]
    }

    /// The definition, in double precision.
    fn reference(c: &Case, q: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
        let w = c.heads * c.dim;
        let mut out = vec![0.0; c.q_rows * w];
        for (si, s) in c.segments.iter().enumerate() {
            for h in 0..c.heads {
                for i in 0..s.q_len {
                    let visible = |j: usize| !c.causal || j <= i;
                    let score = |j: usize| -> f64 {
                        let dot: f64 = (0..c.dim)
                            .map(|d| {
                                q[(s.q_start + i) * w + h * c.dim + d]
                                    * k[(s.k_start + j) * w + h * c.dim + d]
                            })
                            .sum();
                        (dot / (c.dim as f64).sqrt()).exp()
                    };
                    let sum: f64 = (0..s.k_len).filter(|j| visible(*j)).map(score).sum();
                    for j in (0..s.k_len).filter(|j| visible(*j)) {
                        let factor = match &c.dropout {
                            None => 1.0,
                            Some(d) if attention_dropout_keeps(d, c.heads, si, h, i, j) => {
                                1.0 / (1.0 - f64::from(d.p))
                            }
                            Some(_) => 0.0,
                        };
                        let p = score(j) / sum * factor;
                        for d in 0..c.dim {
                            out[(s.q_start + i) * w + h * c.dim + d] +=
                                p * v[(s.k_start + j) * w + h * c.dim + d];
                        }
                    }
                }
            }
        }
        out
    }

    #[test]
    fn forward_and_backward_equal_double_precision() {
        for c in cases() {
            let w = c.heads * c.dim;
            let q = random(1, c.q_rows * w);
            let (k, v) = (random(2, c.k_rows * w), random(3, c.k_rows * w));
            let g = random(4, c.q_rows * w);
            let wide = |x: &[f32]| x.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
            let spec = AttentionSpec {
                segments: &c.segments,
                heads: c.heads,
                head_dim: c.dim,
                causal: c.causal,
                dropout: c.dropout,
            };
            let heads = |data| Heads { data, stride: w, offset: 0 };
            let mut out = vec![f32::NAN; c.q_rows * w];
            attention(&spec, heads(&q), heads(&k), heads(&v), c.q_rows, &mut out);
            let inputs = [wide(&q), wide(&k), wide(&v)];
            let want = reference(&c, &inputs[0], &inputs[1], &inputs[2]);
            for (i, (o, e)) in out.iter().zip(&want).enumerate() {
                assert!((f64::from(*o) - e).abs() < 1e-5, "out[{i}]: {o}, not {e}");
            }
            let mut grads = [&q, &k, &v].map(|x| vec![f32::NAN; x.len()]);
            let [dq, dk, dv] = &mut grads;
            attention_backward(
                &spec,
                heads(&q),
                heads(&k),
                heads(&v),
                &g,
                c.q_rows,
                c.k_rows,
                dq,
                dk,
                dv,
            );
            let loss = |x: &[Vec<f64>; 3]| -> f64 {
                let out = reference(&c, &x[0], &x[1], &x[2]);
                out.iter().zip(&g).map(|(o, g)| o * f64::from(*g)).sum()
            };
            for (which, grad) in grads.iter().enumerate() {
                for i in (0..grad.len()).step_by(97) {
                    let moved = |h: f64| {
                        let mut x = inputs.clone();
                        x[which][i] += h;
                        loss(&x)
                    };
                    let want = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                    let got = f64::from(grad[i]);
                    assert!((got - want).abs() < 1e-4, "d{which}[{i}]: {got}, not {want}");
                }
            }
        }
    }

    #[test]
    fn packed_rows_give_the_same_as_three_matrices() {
        let (rows, heads, dim) = (19, 2, 32);
        let w = heads * dim;
        let qkv = random(5, rows * 3 * w);
        let g = random(6, rows * w);
        let segments = [
            Segment { q_start: 0, q_len: 12, k_start: 0, k_len: 12 },
            Segment { q_start: 12, q_len: 7, k_start: 12, k_len: 7 },
        ];
        let spec = AttentionSpec {
            segments: &segments,
            heads,
            head_dim: dim,
            causal: false,
            dropout: None,
        };
        let part = |i| Heads { data: &qkv[..], stride: 3 * w, offset: i * w };
        let mut packed = vec![f32::NAN; rows * 3 * w];
        attention_backward_packed(&spec, &qkv, rows, &g, &mut packed);
        let mut apart = [(); 3].map(|()| vec![f32::NAN; rows * w]);
        let [dq, dk, dv] = &mut apart;
        attention_backward(&spec, part(0), part(1), part(2), &g, rows, rows, dq, dk, dv);
        for r in 0..rows {
            for (i, grad) in apart.iter().enumerate() {
                let start = r * 3 * w + i * w;
                assert_eq!(&packed[start..start + w], &grad[r * w..(r + 1) * w]);
            }
        }
    }
}
