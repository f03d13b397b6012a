//! The kernel for AVX2 with FMA: 6 rows by 16 columns in 12 registers.

use std::arch::x86_64::*;

use super::tiles::{Part, TileKernel};
use crate::operands::{Finish, Out};

const ROWS: usize = 6;
const COLUMNS: usize = 16;
const LANES: usize = 8;

pub(super) struct Kernel;

impl TileKernel for Kernel {
    const ROWS: usize = ROWS;
    const COLUMNS: usize = COLUMNS;
    const LANES: usize = LANES;

    unsafe fn turn(from: *const f32, distance: usize, lines: usize, to: *mut f32, step: usize) {
        // SAFETY: the caller vouches for the processor and the places.
        unsafe { turn(from, distance, lines, to, step) }
    }

    unsafe fn tile(part: &Part, finish: Finish<'_>, out: Out) {
        // SAFETY: as above.
        unsafe { tile(part, finish, out) }
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn turn(from: *const f32, distance: usize, lines: usize, to: *mut f32, step: usize) {
    // SAFETY: the caller vouches for the places.
    unsafe {
        let r: [__m256; LANES] =
            std::array::from_fn(|i| _mm256_loadu_ps(from.add(i.min(lines - 1) * distance)));
        let mut t = r;
        // Words within pairs of lines, pairs of words within fours, halves within all.
        for i in (0..LANES).step_by(2) {
            t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
            t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
        }
        let mut q = t;
        for i in (0..LANES).step_by(4) {
            q[i] = _mm256_shuffle_ps::<0x44>(t[i], t[i + 2]);
            q[i + 1] = _mm256_shuffle_ps::<0xee>(t[i], t[i + 2]);
            q[i + 2] = _mm256_shuffle_ps::<0x44>(t[i + 1], t[i + 3]);
            q[i + 3] = _mm256_shuffle_ps::<0xee>(t[i + 1], t[i + 3]);
        }
        // In this order, since a line may be stored over the end of the one before.
        for i in 0..4 {
            let line = _mm256_permute2f128_ps::<0x20>(q[i], q[i + 4]);
            _mm256_storeu_ps(to.add(i * step), line);
        }
        for i in 0..4 {
            let line = _mm256_permute2f128_ps::<0x31>(q[i], q[i + 4]);
            _mm256_storeu_ps(to.add((i + 4) * step), line);
        }
    }
}

/// The product of one packed row panel and one packed column panel.
///
/// # Safety
/// `a` must reach `k * 6` values and `b` `k * 16`.
#[inline(never)]
#[target_feature(enable = "avx2,fma")]
unsafe fn product(k: usize, mut a: *const f32, mut b: *const f32) -> [[__m256; 2]; ROWS] {
    let mut sum = [[_mm256_setzero_ps(); 2]; ROWS];
    // SAFETY: the caller vouches for both panels.
    unsafe {
        for _ in 0..k {
            let b0 = _mm256_loadu_ps(b);
            let b1 = _mm256_loadu_ps(b.add(LANES));
            _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(COLUMNS * 16).cast());
            for (i, sum) in sum.iter_mut().enumerate() {
                let v = _mm256_broadcast_ss(&*a.add(i));
                sum[0] = _mm256_fmadd_ps(v, b0, sum[0]);
                sum[1] = _mm256_fmadd_ps(v, b1, sum[1]);
            }
            a = a.add(ROWS);
            b = b.add(COLUMNS);
        }
    }
    sum
}

#[target_feature(enable = "avx2,fma")]
unsafe fn tile(part: &Part, finish: Finish<'_>, out: Out) {
    // SAFETY: the caller vouches for the pointers; masked lanes are neither read nor written.
    unsafe {
        let sum = product(part.k, part.a, part.b);
        for half in 0..2 {
            let columns = part.columns.saturating_sub(half * LANES).min(LANES);
            if columns == 0 {
                continue;
            }
            let whole = columns == LANES;
            let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(columns as i32), lanes);
            let load = |from: *const f32| {
                if whole { _mm256_loadu_ps(from) } else { _mm256_maskload_ps(from, mask) }
            };
            let offset = part.column + half * LANES;
            let bias = match finish.bias.filter(|_| part.last) {
                Some(bias) => load(bias.as_ptr().add(offset)),
                None => _mm256_setzero_ps(),
            };
            for (i, sum) in sum.iter().enumerate().take(part.rows) {
                let place = part.at + i * part.n + half * LANES;
                let c = out.at(place);
                let mut v = sum[half];
                if !part.first {
                    v = _mm256_add_ps(v, load(c));
                }
                if part.last {
                    v = _mm256_add_ps(v, bias);
                    if finish.gelu {
                        v = gelu(v);
                    }
                    if let Some(r) = finish.residual {
                        v = _mm256_add_ps(v, load(r.as_ptr().add(place)));
                    }
                }
                if whole {
                    _mm256_storeu_ps(c, v);
                } else {
                    _mm256_maskstore_ps(c, mask, v);
                }
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn gelu(v: __m256) -> __m256 {
    let mut values = [0.0_f32; LANES];
    // SAFETY: the array holds 8 values.
    unsafe { _mm256_storeu_ps(values.as_mut_ptr(), v) };
    for value in &mut values {
        *value = crate::elementwise::gelu_of(*value);
    }
    // SAFETY: as above.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}
