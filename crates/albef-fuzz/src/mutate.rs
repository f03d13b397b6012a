//! Mutations for tests without a fuzzer: the kinds that find faults in readers most often.

use albef_random::SplitMix64;

/// Values that lengths and counts are replaced by.
const EXTREMES: [u64; 8] =
    [0, 1, 0x7f, 0xff, 0x7fff_ffff, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, u64::MAX];
/// Bytes with a meaning in one of the formats.
const SPECIAL: &[u8] = b"\0\x80{}[]\",:\n\r\\%\xff.}(tRqbsN";
/// Bytes that a mutation may add.
const GROWTH: usize = 1 << 12;

/// `input` with a few changes that depend on `seed` alone: bits, bytes, numbers, ranges removed, repeated, moved
/// or taken from `other`.
#[must_use]
pub fn mutated(input: &[u8], other: &[u8], seed: u64) -> Vec<u8> {
    let mut out = input.to_vec();
    let mut draws = SplitMix64::new(seed);
    let mut draw =
        |below: usize| usize::try_from(draws.next_u64() % below.max(1) as u64).unwrap_or_default();
    for _ in 0..=draw(4) {
        let (at, length) = (draw(out.len()), 1 + draw(16));
        let end = (at + length).min(out.len());
        match draw(9) {
            0 if !out.is_empty() => out[at] ^= 1 << draw(8),
            1 if !out.is_empty() => out[at] = SPECIAL[draw(SPECIAL.len())],
            2 => {
                let bytes = EXTREMES[draw(EXTREMES.len())].to_le_bytes();
                let width = [1, 2, 4, 8][draw(4)].min(out.len() - at.min(out.len()));
                out[at..at + width].copy_from_slice(&bytes[..width]);
            }
            3 => drop(out.drain(at..end)),
            4 => {
                let part = out[at..end].to_vec();
                let times = draw(GROWTH / length);
                out.splice(at..at, part.iter().copied().cycle().take(part.len() * times));
            }
            5 => out.truncate(at),
            6 => {
                let from = draw(other.len());
                let part = &other[from..(from + length * 4).min(other.len())];
                out.splice(at..end, part.iter().copied());
            }
            7 => {
                let to = draw(out.len());
                let part: Vec<u8> = out.drain(at..end).collect();
                let to = to.min(out.len());
                out.splice(to..to, part);
            }
            _ => {
                let digits = ["-1", "1e999", "NaN", "99999999999999999999", "null", "\\ud800"];
                out.splice(at..end, digits[draw(digits.len())].bytes());
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutations_differ_and_repeat() {
        let of = |seed| mutated(b"{\"image\": \"a.png\", \"caption\": \"a dog\"}", b"other", seed);
        assert_eq!(of(7), of(7));
        let different: std::collections::BTreeSet<Vec<u8>> = (0..100).map(of).collect();
        assert!(different.len() > 90, "{}", different.len());
        for seed in 0..10_000 {
            let _ = mutated(b"", b"", seed);
        }
    }
}
