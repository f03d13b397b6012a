//! Soft-max attention over packed rows, forward and backward, self and cross.
//!
//! Scores are formed transposed, keys down and 32 queries across, so the soft-max is vertical and
//! nothing of the size of queries times keys is kept. The backward pass forms the probabilities
//! again, one head at a time.

mod backward;
mod forward;

use std::collections::BTreeMap;

use crate::random::{Dropout, uniform};

pub use backward::{attention_backward, attention_backward_packed};
pub use forward::attention;

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
