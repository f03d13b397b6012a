//! Masking of captions for masked language modelling (paper equation 3).

use albef_random::derive_seed;

/// Ids that masking treats in a special way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialIds {
    /// Padding: never masked.
    pub pad: u32,
    /// First token of every text: never masked.
    pub cls: u32,
    /// What a masked token becomes.
    pub mask: u32,
}

/// The four draws that decide about one token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaskDraw {
    /// Chosen as a target if below the masking probability.
    pub mask: f32,
    /// Replaced by `[MASK]` if below 0.8.
    pub replace: f32,
    /// Otherwise replaced by `word` if below 0.5.
    pub random: f32,
    /// The random word.
    pub word: u32,
}

impl MaskDraw {
    /// The draws of a token that is not masked.
    pub const NONE: Self = Self { mask: 1.0, replace: 1.0, random: 1.0, word: 0 };

    /// The draws of a token row, a pure function of `seed`; random words come from all
    /// `vocab_size` of them.
    #[must_use]
    pub fn seeded(seed: u64, row: usize, vocab_size: usize) -> Self {
        let u = |salt: u64| albef_kernels::uniform(derive_seed(seed, salt), row as u64);
        let word = (f64::from(u(6)) * vocab_size as f64) as u32;
        Self { mask: u(3), replace: u(4), random: u(5), word }
    }
}

/// The masked tokens and, for each token, the word to predict, if it is a target.
#[must_use]
pub fn mask_tokens(
    ids: &[u32],
    special: SpecialIds,
    probability: f32,
    mut draw: impl FnMut(usize) -> MaskDraw,
) -> (Vec<u32>, Vec<Option<u32>>) {
    ids.iter()
        .enumerate()
        .map(|(i, id)| {
            let d = draw(i);
            if d.mask >= probability || *id == special.pad || *id == special.cls {
                (*id, None)
            } else if d.replace < 0.8 {
                (special.mask, Some(*id))
            } else if d.random < 0.5 {
                (d.word, Some(*id))
            } else {
                (*id, Some(*id))
            }
        })
        .unzip()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_words_come_from_the_whole_vocabulary() {
        let words = (0..400).map(|row| MaskDraw::seeded(7, row, 40).word);
        let mut counts = [0; 40];
        words.for_each(|word| counts[word as usize] += 1);
        assert!(counts.iter().all(|n| (1..=30).contains(n)), "{counts:?}");
    }
}
