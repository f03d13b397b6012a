//! The kernel for AVX-512: 14 rows by 32 columns in 28 registers.

use std::arch::x86_64::*;

use super::tiles::{Part, TileKernel};
use crate::operands::{Finish, Out};
use crate::transpose::transposed;

const ROWS: usize = 14;
const COLUMNS: usize = 32;

pub(super) struct Kernel;

impl TileKernel for Kernel {
    const ROWS: usize = ROWS;
    const COLUMNS: usize = COLUMNS;
    const LANES: usize = 16;

    unsafe fn turn(from: *const f32, distance: usize, lines: usize, to: *mut f32, step: usize) {
        // SAFETY: the caller vouches for the processor and the places.
        unsafe { turn(from, distance, lines, to, step) }
    }

    unsafe fn tile(part: &Part, finish: Finish<'_>, out: Out) {
        // SAFETY: as above.
        unsafe { tile(part, finish, out) }
    }
}

#[target_feature(enable = "avx512f")]
unsafe fn turn(from: *const f32, distance: usize, lines: usize, to: *mut f32, step: usize) {
    // SAFETY: the caller vouches for the places.
    unsafe {
        let read = std::array::from_fn(|i| {
            _mm512_loadu_si512(from.add(i.min(lines - 1) * distance).cast())
        });
        for (p, line) in transposed(read).into_iter().enumerate() {
            _mm512_storeu_si512(to.add(p * step).cast(), line);
        }
    }
}

/// The product of one packed row panel and one packed column panel.
///
/// # Safety
/// `a` must reach `k * 14` values and `b` `k * 32`.
#[inline(never)]
#[target_feature(enable = "avx512f")]
unsafe fn product(k: usize, mut a: *const f32, mut b: *const f32) -> [[__m512; 2]; ROWS] {
    let mut sum = [[_mm512_setzero_ps(); 2]; ROWS];
    // SAFETY: the caller vouches for both panels.
    unsafe {
        for _ in 0..k {
            let b0 = _mm512_loadu_ps(b);
            let b1 = _mm512_loadu_ps(b.add(16));
            _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(COLUMNS * 8).cast());
            _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(COLUMNS * 8 + 16).cast());
            for (i, sum) in sum.iter_mut().enumerate() {
                let v = _mm512_set1_ps(*a.add(i));
                sum[0] = _mm512_fmadd_ps(v, b0, sum[0]);
                sum[1] = _mm512_fmadd_ps(v, b1, sum[1]);
            }
            a = a.add(ROWS);
            b = b.add(COLUMNS);
        }
    }
    sum
}

#[target_feature(enable = "avx512f")]
unsafe fn tile(part: &Part, finish: Finish<'_>, out: Out) {
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        let sum = product(part.k, part.a, part.b);
        for half in 0..2 {
            let columns = part.columns.saturating_sub(half * 16).min(16);
            if columns == 0 {
                continue;
            }
            let mask = if columns == 16 { 0xffff } else { (1_u16 << columns) - 1 };
            let offset = part.column + half * 16;
            let bias = match finish.bias.filter(|_| part.last) {
                Some(bias) => _mm512_maskz_loadu_ps(mask, bias.as_ptr().add(offset)),
                None => _mm512_setzero_ps(),
            };
            for (i, sum) in sum.iter().enumerate().take(part.rows) {
                let place = part.at + i * part.n + half * 16;
                let c = out.at(place);
                let mut v = sum[half];
                if !part.first {
                    v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(mask, c));
                }
                if part.last {
                    v = _mm512_add_ps(v, bias);
                    if finish.gelu {
                        v = gelu(v);
                    }
                    if let Some(r) = finish.residual {
                        let r = _mm512_maskz_loadu_ps(mask, r.as_ptr().add(place));
                        v = _mm512_add_ps(v, r);
                    }
                }
                _mm512_mask_storeu_ps(c, mask, v);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn gelu(v: __m512) -> __m512 {
    let mut values = [0.0_f32; 16];
    // SAFETY: the array holds 16 values.
    unsafe { _mm512_storeu_ps(values.as_mut_ptr(), v) };
    for value in &mut values {
        *value = crate::elementwise::gelu_of(*value);
    }
    // SAFETY: as above.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}
