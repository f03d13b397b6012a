//! Products by dot products of pairs.

use std::arch::x86_64::*;

use super::SIDE;
use super::product::{BLOCK, Square};

/// `sums = left right` of one line of blocks.
///
/// # Safety
/// The processor must have AVX-512 and AVX512-BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn product(left: &[u32], right: &[u32], sums: &mut Square) {
    let blocks = left.len() / BLOCK;
    assert!(right.len() >= blocks * BLOCK, "product: factors of different length");
    // SAFETY: 12 + 12 + 8 lines are the 32 of a block, and both factors have `blocks` of these.
    unsafe {
        lines::<12>(0, blocks, left, right, sums);
        lines::<12>(12, blocks, left, right, sums);
        lines::<8>(24, blocks, left, right, sums);
    }
}

/// # Safety
/// As [`product`]; `first + R` must not exceed 32.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn lines<const R: usize>(
    first: usize,
    blocks: usize,
    left: &[u32],
    right: &[u32],
    out: &mut Square,
) {
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    for block in 0..blocks {
        let a = &left[block * BLOCK..(block + 1) * BLOCK];
        let b = &right[block * BLOCK..(block + 1) * BLOCK];
        for pair in 0..16 {
            // SAFETY: a block holds 16 lines of 32 pairs of the right and 32 lines of 16 pairs of
            // the left factor.
            unsafe {
                let b0 = pairs(_mm512_loadu_si512(b.as_ptr().add(pair * SIDE).cast()));
                let b1 = pairs(_mm512_loadu_si512(b.as_ptr().add(pair * SIDE + 16).cast()));
                for (i, sum) in sums.iter_mut().enumerate() {
                    let value = *a.get_unchecked((first + i) * 16 + pair);
                    let value = pairs(_mm512_set1_epi32(value.cast_signed()));
                    sum[0] = _mm512_dpbf16_ps(sum[0], value, b0);
                    sum[1] = _mm512_dpbf16_ps(sum[1], value, b1);
                }
            }
        }
    }
    for (sum, line) in sums.iter().zip(out.0[first * SIDE..].chunks_exact_mut(SIDE)) {
        // SAFETY: a line holds 32 values.
        unsafe {
            _mm512_storeu_ps(line.as_mut_ptr(), sum[0]);
            _mm512_storeu_ps(line.as_mut_ptr().add(16), sum[1]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs(bits: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits without invalid patterns.
    unsafe { std::mem::transmute(bits) }
}
