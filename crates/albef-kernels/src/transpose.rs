//! Turning a square of 16 by 16 words in registers.

use std::arch::x86_64::*;

/// Line `i` of the result holds word `i` of every line.
#[target_feature(enable = "avx512f")]
pub(crate) fn transposed(mut r: [__m512i; 16]) -> [__m512i; 16] {
    let mut t = [_mm512_setzero_si512(); 16];
    // Words within pairs of lines, pairs of words within fours, quarters within all.
    for i in (0..16).step_by(2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for i in (0..16).step_by(4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for i in 0..4 {
        for half in [0, 8] {
            t[half + i] = _mm512_shuffle_i32x4(r[half + i], r[half + i + 4], 0x88);
            t[half + i + 4] = _mm512_shuffle_i32x4(r[half + i], r[half + i + 4], 0xdd);
        }
    }
    for i in 0..8 {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    }
    r
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_square_is_turned() {
        if crate::isa::detected() != crate::isa::Isa::Avx512 {
            return;
        }
        #[target_feature(enable = "avx512f")]
        fn turned(words: &[u32; 256]) -> [u32; 256] {
            // SAFETY: both arrays hold 256 words.
            unsafe {
                let lines =
                    std::array::from_fn(|i| _mm512_loadu_si512(words.as_ptr().add(i * 16).cast()));
                std::mem::transmute(transposed(lines))
            }
        }
        let words = std::array::from_fn(|i| i as u32);
        // SAFETY: AVX-512 was found.
        let result = unsafe { turned(&words) };
        for (i, word) in result.iter().enumerate() {
            assert_eq!(*word as usize, i % 16 * 16 + i / 16);
        }
    }
}
