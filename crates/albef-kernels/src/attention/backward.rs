//! Attention backward: the probabilities are formed again, one head of one segment at a time.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::{AttentionSpec, Heads, Out, covered, draw_index, groups};
use crate::elementwise::exp;
use crate::isa::for_each_isa;
use crate::random::uniform;

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

/// Gradients of [`attention`](super::attention): `dq` `[q_rows][width]`, `dk` and `dv` `[k_rows][width]`, all written
/// in full.
///
/// # Panics
/// As [`attention`](super::attention).
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
/// As [`attention`](super::attention).
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
