//! Exact search: the inner product of a query with every vector, at the speed of memory.
//!
//! `N` rows of width `D` in f16, the query in f32, sums in f32. Rows are shared among threads in blocks of a fixed
//! size, each row is summed in one order, and results are ordered by score and number: they do not depend on the
//! number of threads. Between instruction sets they differ by the order of summation only.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use half::f16;
use rayon::prelude::*;

use crate::record::ImageId;
use crate::store::Scored;

/// Rows that a thread takes at a time.
const BLOCK: usize = 8192;
/// Rows of one word of a mask.
const WORD: usize = 64;
/// The number of a row that holds no image any more.
pub const NO_IMAGE: ImageId = -1;

/// How inner products are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Plain Rust.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512F.
    Avx512,
}

impl Kernel {
    /// The fastest that this processor has.
    #[must_use]
    pub fn fastest() -> Self {
        *Self::available().last().unwrap_or(&Self::Portable)
    }

    /// Those that this processor has, the fastest last.
    #[must_use]
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut, reason = "other processors have one only")]
        let mut found = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
            {
                found.push(Self::Avx2);
            }
            if is_x86_feature_detected!("avx512f") {
                found.push(Self::Avx512);
            }
        }
        found
    }
}

/// Vectors to be searched.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// The vectors, `[N, D]`.
    pub values: &'a [f16],
    /// `D`.
    pub width: usize,
    /// The image of each row, [`NO_IMAGE`] for none. `N` is its length.
    pub ids: &'a [ImageId],
    /// A bit for each row, the lowest of a word first: only rows whose bit is set are searched. Empty for all.
    pub mask: &'a [u64],
}

/// The `k` images of the largest inner product with `query` (`D` values), best first, ties to the lower number.
/// Rows whose product is not a number are passed over.
///
/// # Panics
/// If the sizes contradict each other.
#[must_use]
pub fn top_k(rows: Rows<'_>, query: &[f32], k: usize, kernel: Kernel) -> Vec<Scored> {
    let Rows { values, width, ids, mask } = rows;
    assert_eq!(query.len(), width, "the query is as wide as the vectors");
    assert!(values.len() >= ids.len() * width, "each row has its vector");
    assert!(mask.is_empty() || mask.len() * WORD >= ids.len(), "each row has its bit");
    assert!(Kernel::available().contains(&kernel), "the processor has the kernel");
    if k == 0 || width == 0 {
        return Vec::new();
    }
    let blocks = ids.len().div_ceil(BLOCK);
    let best = (0..blocks)
        .into_par_iter()
        .fold(
            || Best::new(k),
            |mut best, block| {
                let end = ids.len().min((block + 1) * BLOCK);
                scan_block(rows, query, block * BLOCK..end, kernel, &mut best);
                best
            },
        )
        .reduce(|| Best::new(k), Best::merged);
    best.sorted()
}

fn scan_block(
    rows: Rows<'_>,
    query: &[f32],
    range: std::ops::Range<usize>,
    kernel: Kernel,
    best: &mut Best,
) {
    let width = rows.width;
    let mut scores = [0.0; WORD];
    for first in range.clone().step_by(WORD) {
        let end = range.end.min(first + WORD);
        let word = if rows.mask.is_empty() { u64::MAX } else { rows.mask[first / WORD] };
        if word == 0 {
            continue;
        }
        let scores = &mut scores[..end - first];
        dots(&rows.values[first * width..end * width], query, scores, kernel);
        for (i, score) in scores.iter().enumerate() {
            let id = rows.ids[first + i];
            if *score >= best.threshold && word >> i & 1 == 1 && id != NO_IMAGE {
                best.push(Scored { id, score: *score });
            }
        }
    }
}

/// A candidate; the greatest is the worst one.
#[derive(Clone, Copy, PartialEq)]
struct Candidate(Scored);

impl Eq for Candidate {}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.score.total_cmp(&self.0.score).then(self.0.id.cmp(&other.0.id))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The best `k` so far.
struct Best {
    k: usize,
    /// What a score must reach to come in.
    threshold: f32,
    heap: BinaryHeap<Candidate>,
}

impl Best {
    fn new(k: usize) -> Self {
        Self { k, threshold: f32::NEG_INFINITY, heap: BinaryHeap::new() }
    }

    fn push(&mut self, found: Scored) {
        if self.heap.len() < self.k {
            self.heap.push(Candidate(found));
        } else if let Some(mut worst) = self.heap.peek_mut()
            && Candidate(found) < *worst
        {
            *worst = Candidate(found);
        }
        if self.heap.len() == self.k
            && let Some(worst) = self.heap.peek()
        {
            self.threshold = worst.0.score;
        }
    }

    fn merged(mut self, other: Self) -> Self {
        other.heap.into_iter().for_each(|c| self.push(c.0));
        self
    }

    fn sorted(self) -> Vec<Scored> {
        self.heap.into_sorted_vec().into_iter().map(|c| c.0).collect()
    }
}

/// Inner products of `query` (`D` values) with the rows of `values` (`[scores.len(), D]`).
pub fn dots(values: &[f16], query: &[f32], scores: &mut [f32], kernel: Kernel) {
    let width = query.len();
    assert!(values.len() >= scores.len() * width, "each score has its row");
    match kernel {
        Kernel::Portable => {
            for (row, score) in values.chunks_exact(width.max(1)).zip(scores) {
                *score = portable(row, query);
            }
        }
        // SAFETY: `top_k` and the tests take kernels that `Kernel::available` found, and there are as many rows as
        // scores.
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx2 => unsafe { x86::avx2(values, query, scores) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx512 => unsafe { x86::avx512(values, query, scores) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => unreachable!("only x86 has other kernels"),
    }
}

/// An `f16` as `f32` by arithmetic that compilers turn into vector instructions, which the conversion of the library is
/// not on processors without one of their own.
fn widened(value: f16) -> f32 {
    let bits = u32::from(value.to_bits());
    // The exponents differ by 112; the product also makes subnormal numbers normal.
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    let magnitude = if bits & 0x7c00 == 0x7c00 { f32::NAN } else { magnitude };
    f32::from_bits(magnitude.to_bits() | (bits & 0x8000) << 16)
}

/// Sixteen sums side by side, so that the compiler can use what vectors it has.
fn portable(row: &[f16], query: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0_f32; LANES];
    let (rows, row_rest) = row.as_chunks::<LANES>();
    let (queries, query_rest) = query.as_chunks::<LANES>();
    for (r, q) in rows.iter().zip(queries) {
        for i in 0..LANES {
            sums[i] += widened(r[i]) * q[i];
        }
    }
    let rest: f32 = row_rest.iter().zip(query_rest).map(|(r, q)| widened(*r) * q).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, __m256i, _MM_HINT_T0, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_loadu_si128,
        _mm_movehl_ps, _mm_prefetch, _mm_shuffle_ps, _mm256_add_ps, _mm256_castps256_ps128,
        _mm256_cvtph_ps, _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_loadu_ps,
        _mm256_loadu_si256, _mm256_setzero_ps, _mm512_cvtph_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
        _mm512_reduce_add_ps, _mm512_setzero_ps,
    };

    use half::f16;

    /// Rows that share the loads of the query.
    const ROWS: usize = 4;

    /// Asks for what is read a little later. Rows side by side are no pattern that the processor foresees.
    #[inline(always)]
    fn prefetch(rows: &[f16], at: usize) {
        /// Values ahead: 4 KiB.
        const AHEAD: usize = 2048;
        let later = rows.as_ptr().wrapping_add(at + AHEAD);
        // SAFETY: asking for an address has no effect but on caches, wherever it is.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(later.cast()) };
    }

    fn rest(row: &[f16], query: &[f32], from: usize) -> f32 {
        row[from..].iter().zip(&query[from..]).map(|(r, q)| super::widened(*r) * q).sum()
    }

    /// # Safety
    /// The processor has AVX-512F; `values` holds `scores.len()` rows of `query.len()` values.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn avx512(values: &[f16], query: &[f32], scores: &mut [f32]) {
        let width = query.len();
        let (groups, single) = scores.as_chunks_mut::<ROWS>();
        let tail = groups.len() * ROWS * width;
        for (out, rows) in groups.iter_mut().zip(values.chunks_exact((ROWS * width).max(1))) {
            avx512_rows(rows, query, out);
        }
        for (out, row) in
            single.as_chunks_mut::<1>().0.iter_mut().zip(values[tail..].chunks_exact(width.max(1)))
        {
            avx512_rows(row, query, out);
        }
    }

    #[target_feature(enable = "avx512f")]
    fn avx512_rows<const N: usize>(rows: &[f16], query: &[f32], out: &mut [f32; N]) {
        let width = query.len();
        let whole = width / 16 * 16;
        assert!(rows.len() >= N * width, "each score has its row");
        let mut sums = [_mm512_setzero_ps(); N];
        for at in (0..whole).step_by(16) {
            // SAFETY: 16 values from `at` on are within the query.
            let q = unsafe { _mm512_loadu_ps(query.as_ptr().add(at)) };
            for (r, sum) in sums.iter_mut().enumerate() {
                prefetch(rows, r * width + at);
                // SAFETY: 16 values from `at` on are within row `r`.
                let v = unsafe {
                    _mm256_loadu_si256(rows.as_ptr().add(r * width + at).cast::<__m256i>())
                };
                *sum = _mm512_fmadd_ps(_mm512_cvtph_ps(v), q, *sum);
            }
        }
        for (r, (score, sum)) in out.iter_mut().zip(sums).enumerate() {
            *score = _mm512_reduce_add_ps(sum);
            if whole < width {
                *score += rest(&rows[r * width..(r + 1) * width], query, whole);
            }
        }
    }

    /// # Safety
    /// The processor has AVX2, FMA and F16C; `values` holds `scores.len()` rows of `query.len()` values.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub unsafe fn avx2(values: &[f16], query: &[f32], scores: &mut [f32]) {
        let width = query.len();
        let (groups, single) = scores.as_chunks_mut::<ROWS>();
        let tail = groups.len() * ROWS * width;
        for (out, rows) in groups.iter_mut().zip(values.chunks_exact((ROWS * width).max(1))) {
            avx2_rows(rows, query, out);
        }
        for (out, row) in
            single.as_chunks_mut::<1>().0.iter_mut().zip(values[tail..].chunks_exact(width.max(1)))
        {
            avx2_rows(row, query, out);
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    fn avx2_rows<const N: usize>(rows: &[f16], query: &[f32], out: &mut [f32; N]) {
        let width = query.len();
        let whole = width / 16 * 16;
        assert!(rows.len() >= N * width, "each score has its row");
        let mut sums = [[_mm256_setzero_ps(); 2]; N];
        for at in (0..whole).step_by(16) {
            // SAFETY: 16 values from `at` on are within the query.
            let q = unsafe {
                [
                    _mm256_loadu_ps(query.as_ptr().add(at)),
                    _mm256_loadu_ps(query.as_ptr().add(at + 8)),
                ]
            };
            for (r, sums) in sums.iter_mut().enumerate() {
                prefetch(rows, r * width + at);
                for (half, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: 16 values from `at` on are within row `r`.
                    let v = unsafe {
                        let from = rows.as_ptr().add(r * width + at + 8 * half);
                        _mm_loadu_si128(from.cast::<__m128i>())
                    };
                    *sum = _mm256_fmadd_ps(_mm256_cvtph_ps(v), q[half], *sum);
                }
            }
        }
        for (r, (score, sums)) in out.iter_mut().zip(sums).enumerate() {
            let sum = _mm256_add_ps(sums[0], sums[1]);
            let four = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            let one = _mm_add_ss(two, _mm_shuffle_ps::<1>(two, two));
            *score = _mm_cvtss_f32(one);
            if whole < width {
                *score += rest(&rows[r * width..(r + 1) * width], query, whole);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    fn halves(n: usize, seed: u64) -> Vec<f16> {
        values(n, seed).into_iter().map(f16::from_f32).collect()
    }

    /// The plain way: all products in double precision, sorted.
    fn sorted(rows: Rows<'_>, query: &[f32]) -> Vec<(ImageId, f64)> {
        let mut all: Vec<(ImageId, f64)> = rows
            .values
            .chunks(rows.width)
            .zip(rows.ids)
            .enumerate()
            .filter(|(i, (_, id))| {
                **id != NO_IMAGE && (rows.mask.is_empty() || rows.mask[i / 64] >> (i % 64) & 1 == 1)
            })
            .map(|(_, (row, id))| {
                let products = row.iter().zip(query).map(|(r, q)| r.to_f64() * f64::from(*q));
                (*id, products.sum())
            })
            .collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        all
    }

    #[test]
    fn every_kernel_finds_what_sorting_finds() {
        for (n, width) in [(0, 8), (1, 1), (5, 3), (130, 16), (9000, 33), (17_000, 256)] {
            let (values, query) = (halves(n * width, 1), values(width, 2));
            // Numbers in another order than rows, and some rows without image.
            let ids: Vec<ImageId> = (0..n as i64)
                .map(|i| if i % 7 == 3 { NO_IMAGE } else { i * 7919 % 20_011 })
                .collect();
            let some: Vec<u64> = (0..n.div_ceil(64) as u64)
                .map(|i| if i % 3 == 0 { 0 } else { 0x5555_0f0f_3333_ffff })
                .collect();
            for mask in [&[][..], &some] {
                let rows = Rows { values: &values, width, ids: &ids, mask };
                let expected = sorted(rows, &query);
                for kernel in Kernel::available() {
                    for k in [0, 1, 10, n + 1] {
                        let found = top_k(rows, &query, k, kernel);
                        assert_eq!(found.len(), k.min(expected.len()), "{kernel:?} {n} {k}");
                        for (f, (_, score)) in found.iter().zip(&expected) {
                            let error = (f64::from(f.score) - score).abs();
                            assert!(error < 1e-4, "{kernel:?} {n} {width}: {f:?} {score}");
                        }
                        let mut ids: Vec<ImageId> = found.iter().map(|f| f.id).collect();
                        ids.sort_unstable();
                        ids.dedup();
                        assert_eq!(ids.len(), found.len());
                    }
                }
            }
        }
    }

    #[test]
    fn results_do_not_depend_on_threads_and_ties_go_to_the_lower_number() {
        let (n, width) = (40_000, 24);
        // Many rows are equal.
        let base = halves(100 * width, 5);
        let values: Vec<f16> =
            (0..n).flat_map(|i| base[i % 100 * width..][..width].to_vec()).collect();
        let ids: Vec<ImageId> = (0..n as i64).rev().collect();
        let query = self::values(width, 9);
        let rows = Rows { values: &values, width, ids: &ids, mask: &[] };
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| top_k(rows, &query, 50, Kernel::fastest()))
        };
        let one = with(1);
        assert!((2..6).all(|threads| with(threads) == one));
        assert!(one.windows(2).all(|w| w[0].score > w[1].score || w[0].id < w[1].id));
        assert!(one[0].id < 100, "the lowest number of 400 equal rows: {:?}", one[0]);
    }

    #[test]
    fn every_number_is_widened_to_itself() {
        for bits in 0..=u16::MAX {
            let value = f16::from_bits(bits);
            let (found, expected) = (widened(value), value.to_f32());
            // Infinity is no value of a vector either.
            let same = if value.is_finite() { found == expected } else { found.is_nan() };
            assert!(same, "{bits:#x}: {found} {expected}");
        }
    }

    #[test]
    fn a_damaged_row_is_passed_over() {
        let values = [f16::NAN, f16::ONE, f16::from_f32(0.5)];
        let rows = Rows { values: &values, width: 1, ids: &[1, 2, 3], mask: &[] };
        for kernel in Kernel::available() {
            let found: Vec<ImageId> = top_k(rows, &[1.0], 3, kernel).iter().map(|f| f.id).collect();
            assert_eq!(found, [2, 3]);
        }
    }
}
