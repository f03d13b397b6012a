//! MixGen: new pairs out of two by mixing pixels and joining captions (spec `relatives` 1).

use albef_data::random::Stream;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Which rows of a batch are mixed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MixMode {
    /// None.
    #[default]
    Off,
    /// The first `ratio * B` rows, each with the row as many places further on.
    Fixed,
    /// Every row with that of a random permutation.
    Batch,
}

/// The configuration key `mixgen`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MixGen {
    /// Which rows are mixed.
    pub mode: MixMode,
    /// Share of the batch that `fixed` mixes, at most one half.
    pub ratio: f64,
    /// Weight of the first picture.
    pub lambda: f64,
    /// Tokens that are kept of captions, joined or not.
    pub max_tokens: usize,
    /// Whether a mixed row and its partner are never negatives of each other in matching.
    pub mask_partners: bool,
}

impl Default for MixGen {
    fn default() -> Self {
        Self { mode: MixMode::Off, ratio: 0.25, lambda: 0.5, max_tokens: 25, mask_partners: false }
    }
}

impl MixGen {
    /// Checks the values against each other.
    ///
    /// # Errors
    /// Names what cannot work.
    pub fn check(&self) -> Result<()> {
        let fail = |m: String| Err(Error::Config(m));
        if self.mode == MixMode::Fixed && !(0.0..=0.5).contains(&self.ratio) {
            return fail(format!("`mixgen.ratio` is {}; it must lie within 0 to 0.5", self.ratio));
        }
        if !(0.0..=1.0).contains(&self.lambda) {
            return fail(format!("`mixgen.lambda` is {}; it must lie within 0 to 1", self.lambda));
        }
        if self.max_tokens == 0 {
            return fail("`mixgen.max_tokens` must be at least 1".into());
        }
        Ok(())
    }

    /// Rows to mix with their partners. A row that the permutation leaves in place stays unmixed.
    #[must_use]
    pub fn pairs(&self, batch: usize, stream: &mut Stream) -> Vec<(usize, usize)> {
        match self.mode {
            MixMode::Off => Vec::new(),
            MixMode::Fixed => {
                let count = (self.ratio * batch as f64) as usize;
                (0..count).map(|i| (i, i + count)).collect()
            }
            MixMode::Batch => {
                let mut order: Vec<u32> = (0..batch as u32).collect();
                stream.shuffle(&mut order);
                let pairs = order.iter().enumerate().map(|(i, p)| (i, *p as usize));
                pairs.filter(|(i, p)| i != p).collect()
            }
        }
    }

    /// Mixes the rows of `images` (`plane` values each) and joins their token sequences, `[CLS]` of
    /// the second left out. Partners are read as they were before any mixing.
    pub fn mix(
        &self,
        pairs: &[(usize, usize)],
        images: &mut [f32],
        plane: usize,
        texts: &mut [Vec<u32>],
    ) {
        let before = images.to_vec();
        let words = texts.to_vec();
        let (first, second) = (self.lambda as f32, (1.0 - self.lambda) as f32);
        for (row, partner) in pairs {
            let other = &before[partner * plane..(partner + 1) * plane];
            for (v, o) in images[row * plane..(row + 1) * plane].iter_mut().zip(other) {
                *v = first * *v + second * o;
            }
            texts[*row].extend_from_slice(words[*partner].get(1..).unwrap_or_default());
            texts[*row].truncate(self.max_tokens);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(mode: MixMode) -> MixGen {
        MixGen { mode, ..MixGen::default() }
    }

    #[test]
    fn a_mixed_row_holds_both_and_the_others_stay() {
        let fixed = of(MixMode::Fixed);
        let pairs = fixed.pairs(4, &mut Stream::new(1, "mix", &[]));
        assert_eq!(pairs, [(0, 1)]);
        let mut images = vec![0.0, 1.0, 2.0, 3.0, 4.0, 4.0, 0.0, -1.0, 7.0, 7.0, 7.0, 7.0];
        images.extend([9.0; 4]);
        let mut texts = vec![vec![2, 10, 11], vec![2, 20, 21], vec![2, 30], vec![2, 40]];
        fixed.mix(&pairs, &mut images, 4, &mut texts);
        assert_eq!(&images[..8], [2.0, 2.5, 1.0, 1.0, 4.0, 4.0, 0.0, -1.0]);
        assert_eq!(texts[0], [2, 10, 11, 20, 21]);
        assert_eq!(texts[1], [2, 20, 21]);
    }

    #[test]
    fn partners_are_read_before_they_are_mixed() {
        let batch = of(MixMode::Batch);
        let mut images = vec![1.0, 2.0, 4.0];
        let mut texts = vec![vec![2, 1], vec![2, 2], vec![2, 3]];
        batch.mix(&[(0, 2), (1, 0), (2, 1)], &mut images, 1, &mut texts);
        assert_eq!(images, [2.5, 1.5, 3.0]);
        assert_eq!(texts, [vec![2, 1, 3], vec![2, 2, 1], vec![2, 3, 2]]);
        let quarter = MixGen { lambda: 0.25, ..of(MixMode::Fixed) };
        let mut images = vec![0.0, 4.0];
        quarter.mix(&[(0, 1)], &mut images, 1, &mut [vec![2, 5], vec![2, 6]]);
        assert_eq!(images[0], 3.0);
    }

    #[test]
    fn ratios_beyond_half_are_refused() {
        assert!(MixGen { ratio: 0.6, ..of(MixMode::Fixed) }.check().is_err());
        assert!(of(MixMode::Fixed).check().is_ok());
    }
}
