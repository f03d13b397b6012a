//! Rounding to bf16 and laying out pairs.

use std::arch::x86_64::*;

use super::SIDE;
use super::product::BLOCK;
use crate::operands::Strided;
use crate::transpose::transposed;

/// Lines `i0 .. i0 + 32` of the left matrix `[m, k]` as blocks `[k / 32][32 lines][16 pairs]`.
///
/// # Safety
/// The processor must have AVX-512 and AVX512-BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn rows(a: Strided<'_>, i0: usize, m: usize, k: usize, out: &mut [u32]) {
    let lines = SIDE.min(m - i0);
    for (block, out) in out.chunks_exact_mut(BLOCK).enumerate() {
        let p0 = block * SIDE;
        let length = SIDE.min(k - p0);
        if a.column == 1 {
            along(a.data, i0 * a.row + p0, a.row, lines, length, out);
        } else {
            across(a, [p0, i0], [length, lines], out, true);
        }
    }
}

/// Columns `j0 .. j0 + 32` of the right matrix `[k, n]` as a panel `[k / 2][32 columns]` of pairs.
///
/// # Safety
/// The processor must have AVX-512 and AVX512-BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn panel(b: Strided<'_>, j0: usize, k: usize, n: usize, out: &mut [u32]) {
    let columns = SIDE.min(n - j0);
    for (block, out) in out.chunks_exact_mut(BLOCK).enumerate() {
        let p0 = block * SIDE;
        let length = SIDE.min(k - p0);
        if b.row == 1 {
            // Columns lie as lines: pairs stand side by side, columns apart.
            let mut lines = [0_u32; BLOCK];
            along(b.data, j0 * b.column + p0, b.column, columns, length, &mut lines);
            for half in 0..2 {
                let part = transposed(loaded(&lines[half * 256..half * 256 + 256]));
                for (pair, line) in part.iter().enumerate() {
                    // SAFETY: the block has 16 lines of 32 words.
                    unsafe { store(out.as_mut_ptr().add(pair * SIDE + half * 16), *line) };
                }
            }
        } else {
            let flipped = Strided { data: b.data, row: b.column, column: b.row };
            across(flipped, [p0, j0], [length, columns], out, false);
        }
    }
}

/// 32 lines whose values along the inner dimension are neighbours: `[32 lines][16 pairs]`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn along(
    data: &[f32],
    start: usize,
    distance: usize,
    lines: usize,
    length: usize,
    out: &mut [u32],
) {
    let low = mask(length);
    let high = mask(length.saturating_sub(16));
    for (i, line) in out.chunks_exact_mut(16).enumerate() {
        if i >= lines {
            line.fill(0);
            continue;
        }
        let values = &data[start + i * distance..start + i * distance + length];
        // SAFETY: masked loads read `length` values, and a line holds 16 words.
        unsafe {
            let a = _mm512_maskz_loadu_ps(low, values.as_ptr());
            let b = _mm512_maskz_loadu_ps(high, values.as_ptr().wrapping_add(16));
            let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(b, a));
            store(line.as_mut_ptr(), both);
        }
    }
}

/// 32 lines whose values across lines are neighbours: element (line `i`, inner `p`) lies at
/// `i + p * column`. Gives `[32 lines][16 pairs]` if `by_line`, else `[16 pairs][32 lines]`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn across(
    a: Strided<'_>,
    [p0, i0]: [usize; 2],
    [length, lines]: [usize; 2],
    out: &mut [u32],
    by_line: bool,
) {
    let mut half_block = [0_u32; 256];
    for half in 0..2 {
        let count = lines.saturating_sub(half * 16).min(16);
        let keep = mask(count);
        for pair in 0..16 {
            let value = |p: usize| {
                if count == 0 || p >= length {
                    return _mm256_setzero_si256();
                }
                let start = i0 + half * 16 + (p0 + p) * a.column;
                let line = &a.data[start..start + count];
                // SAFETY: the masked load reads `count` values.
                unsafe {
                    let v = _mm512_maskz_loadu_ps(keep, line.as_ptr());
                    std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v))
                }
            };
            let first = _mm512_cvtepu16_epi32(value(2 * pair));
            let second = _mm512_slli_epi32(_mm512_cvtepu16_epi32(value(2 * pair + 1)), 16);
            let both = _mm512_or_si512(first, second);
            // SAFETY: both targets have room for 16 words there.
            unsafe {
                if by_line {
                    store(half_block.as_mut_ptr().add(pair * 16), both);
                } else {
                    store(out.as_mut_ptr().add(pair * SIDE + half * 16), both);
                }
            }
        }
        if by_line {
            for (i, line) in transposed(loaded(&half_block)).iter().enumerate() {
                // SAFETY: the block has 32 lines of 16 words.
                unsafe { store(out.as_mut_ptr().add((half * 16 + i) * 16), *line) };
            }
        }
    }
}

fn mask(count: usize) -> u16 {
    if count >= 16 { 0xffff } else { (1 << count) - 1 }
}

/// # Safety
/// There must be room for 16 words.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store(to: *mut u32, words: __m512i) {
    // SAFETY: the caller vouches for the room.
    unsafe { _mm512_storeu_si512(to.cast(), words) };
}

#[target_feature(enable = "avx512f")]
fn loaded(words: &[u32]) -> [__m512i; 16] {
    assert!(words.len() >= 256, "16 lines of 16 words");
    // SAFETY: there are 16 words from `i * 16`.
    std::array::from_fn(|i| unsafe { _mm512_loadu_si512(words.as_ptr().add(i * 16).cast()) })
}
