//! MixGen: new pairs out of two by mixing pixels and joining captions (arXiv 2206.08358).

use serde::{Deserialize, Serialize};

use super::batch::Batch;
use crate::random::Stream;

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

/// The weight of the first image: a number, or `beta(A)` for a draw of its own for each mixed row.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Given", into = "Given")]
pub enum Lambda {
    /// The same for all.
    Fixed(f64),
    /// Drawn from the beta distribution with both parameters `A`.
    Beta(f64),
}

/// How a weight is written.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Given {
    Number(f64),
    Text(String),
}

impl TryFrom<Given> for Lambda {
    type Error = String;

    fn try_from(given: Given) -> Result<Self, String> {
        match given {
            Given::Number(weight) => Ok(Self::Fixed(weight)),
            Given::Text(text) => text
                .strip_prefix("beta(")
                .and_then(|rest| rest.strip_suffix(')')?.trim().parse().ok())
                .map(Self::Beta)
                .ok_or_else(|| format!("`{text}` is neither a number nor `beta(A)`")),
        }
    }
}

impl From<Lambda> for Given {
    fn from(lambda: Lambda) -> Self {
        match lambda {
            Lambda::Fixed(weight) => Self::Number(weight),
            Lambda::Beta(a) => Self::Text(format!("beta({a})")),
        }
    }
}

impl Lambda {
    fn draw(self, stream: &mut Stream) -> f64 {
        match self {
            Self::Fixed(weight) => weight,
            // Two powers of uniform draws whose sum is at most 1, by Johnk.
            Self::Beta(a) => loop {
                let [x, y] = [(); 2].map(|()| stream.uniform().powf(1.0 / a));
                if x + y <= 1.0 && x + y > 0.0 {
                    break x / (x + y);
                }
            },
        }
    }
}

/// Ids of mixed images begin here, beyond those of a data set.
const MIXED: i64 = 1 << 40;

/// A row to mix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mixed {
    /// The row that changes.
    pub row: usize,
    /// The row that is mixed in.
    pub partner: usize,
    /// Weight of the first.
    pub weight: f64,
}

/// The configuration key `mixgen`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MixGen {
    /// Which rows are mixed.
    pub mode: MixMode,
    /// Share of the batch that `fixed` mixes, at most one half.
    pub ratio: f64,
    /// Weight of the first image.
    pub lambda: Lambda,
    /// Tokens that are kept of captions, joined or not.
    pub max_tokens: usize,
    /// Whether a mixed row and its partner are never negatives of each other in matching.
    pub mask_partners: bool,
    /// Whether `batch` reads rows that are mixed already, and doubles the caption of a row that the
    /// permutation leaves in place, as its authors' code does (arXiv 2206.08358).
    pub in_place: bool,
}

impl Default for MixGen {
    fn default() -> Self {
        Self {
            mode: MixMode::Off,
            ratio: 0.25,
            lambda: Lambda::Fixed(0.5),
            max_tokens: 25,
            mask_partners: false,
            in_place: false,
        }
    }
}

impl MixGen {
    /// Whether pairs are mixed.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.mode != MixMode::Off
    }

    /// Checks the values against each other.
    ///
    /// # Errors
    /// Names what cannot work.
    pub fn check(&self) -> Result<(), String> {
        let fail = |m: String| Err(m);
        if self.mode == MixMode::Fixed && !(0.0..=0.5).contains(&self.ratio) {
            return fail(format!("`mixgen.ratio` is {}; it must lie within 0 to 0.5", self.ratio));
        }
        match self.lambda {
            Lambda::Fixed(weight) if !(0.0..=1.0).contains(&weight) => {
                return fail(format!("`mixgen.lambda` is {weight}; it must lie within 0 to 1"));
            }
            Lambda::Beta(a) if !(0.01..=4.0).contains(&a) => {
                return fail(format!(
                    "`mixgen.lambda` is beta({a}); its parameter must lie within 0.01 to 4"
                ));
            }
            _ => {}
        }
        if self.max_tokens == 0 {
            return fail("`mixgen.max_tokens` must be at least 1".into());
        }
        Ok(())
    }

    /// Rows to mix with their partners. A row that the permutation leaves in place stays unmixed, but
    /// for `in_place`.
    #[must_use]
    pub fn pairs(&self, batch: usize, stream: &mut Stream) -> Vec<Mixed> {
        let pairs: Vec<(usize, usize)> = match self.mode {
            MixMode::Off => Vec::new(),
            MixMode::Fixed => {
                let count = (self.ratio * batch as f64) as usize;
                (0..count).map(|i| (i, i + count)).collect()
            }
            MixMode::Batch => {
                let mut order: Vec<u32> = (0..batch as u32).collect();
                stream.shuffle(&mut order);
                let pairs = order.iter().enumerate().map(|(i, p)| (i, *p as usize));
                pairs.filter(|(i, p)| i != p || self.in_place).collect()
            }
        };
        let mixed = |(row, partner)| Mixed { row, partner, weight: self.lambda.draw(stream) };
        pairs.into_iter().map(mixed).collect()
    }

    /// Mixes the rows of `images` (`plane` values each) and joins their token sequences, `[CLS]` of
    /// the second left out. Partners are read as they were before any mixing, but for `in_place`.
    pub fn mix(&self, pairs: &[Mixed], images: &mut [f32], plane: usize, texts: &mut [Vec<u32>]) {
        let before = (!self.in_place).then(|| (images.to_vec(), texts.to_vec()));
        for Mixed { row, partner, weight } in pairs {
            let (first, second) = (*weight as f32, (1.0 - weight) as f32);
            let pixels = partner * plane..(partner + 1) * plane;
            let read = |images: &[f32], texts: &[Vec<u32>]| {
                (images[pixels.clone()].to_vec(), texts[*partner].clone())
            };
            let (other, words) = match &before {
                Some((images, texts)) => read(images, texts),
                None => read(images, texts),
            };
            for (v, o) in images[row * plane..(row + 1) * plane].iter_mut().zip(other) {
                *v = first * *v + second * o;
            }
            texts[*row].extend_from_slice(words.get(1..).unwrap_or_default());
        }
        for Mixed { row, .. } in pairs {
            texts[*row].truncate(self.max_tokens);
        }
    }
}

impl MixGen {
    /// Mixes the images of a batch, whose texts are still apart, and notes the rows that share content:
    /// with `mask_partners`, or where ids decide which pairs are positives (`image_index`), a mixed row
    /// and its partner. With ids a mixed image is nobody's second view either: it gets an id that no
    /// other batch has, `place` being the batch's number in the run, and no row of one of its two
    /// images is a negative.
    pub(super) fn apply(
        &self,
        batch: &mut Batch,
        texts: &mut [Vec<u32>],
        stream: &mut Stream,
        place: u64,
        image_index: bool,
    ) {
        let size = texts.len();
        let pairs = self.pairs(size, stream);
        let plane = batch.images.len() / size.max(1);
        self.mix(&pairs, &mut batch.images, plane, texts);
        let ids = batch.image_ids.clone();
        for Mixed { row, partner, .. } in pairs {
            if self.mask_partners || image_index {
                batch.related.push((row, partner));
            }
            if image_index {
                let sources = [ids[row], ids[partner]];
                let same = (0..size).filter(|i| sources.contains(&ids[*i]));
                batch.related.extend(same.map(|i| (row, i)));
                batch.image_ids[row] = MIXED + (place * size as u64) as i64 + row as i64;
            }
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
        assert_eq!(pairs, [Mixed { row: 0, partner: 1, weight: 0.5 }]);
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
        let order = [(0, 2), (1, 0), (2, 1)];
        let pairs = order.map(|(row, partner)| Mixed { row, partner, weight: 0.5 });
        let mixed = |batch: MixGen| {
            let mut images = vec![1.0, 2.0, 4.0];
            let mut texts = vec![vec![2, 1], vec![2, 2], vec![2, 3]];
            batch.mix(&pairs, &mut images, 1, &mut texts);
            (images, texts)
        };
        let (images, texts) = mixed(of(MixMode::Batch));
        assert_eq!(images, [2.5, 1.5, 3.0]);
        assert_eq!(texts, [vec![2, 1, 3], vec![2, 2, 1], vec![2, 3, 2]]);
        let (images, texts) = mixed(MixGen { in_place: true, ..of(MixMode::Batch) });
        assert_eq!(images, [2.5, 2.25, 3.125]);
        assert_eq!(texts, [vec![2, 1, 3], vec![2, 2, 1, 3], vec![2, 3, 2, 1, 3]]);
        let quarter = MixGen { lambda: Lambda::Fixed(0.25), ..of(MixMode::Fixed) };
        let mut images = vec![0.0, 4.0];
        let pairs = quarter.pairs(2, &mut Stream::new(1, "mix", &[]));
        assert_eq!(pairs.len(), 0, "a quarter of two rows is none");
        let pairs = quarter.pairs(4, &mut Stream::new(1, "mix", &[]));
        quarter.mix(&pairs, &mut images, 1, &mut [vec![2, 5], vec![2, 6]]);
        assert_eq!(images[0], 3.0);
    }

    #[test]
    fn mixed_rows_are_related_to_what_they_are_made_of_and_have_ids_of_their_own() {
        let collated = |mixgen: &MixGen, place: u64, image_index: bool| {
            let mut batch =
                Batch { images: vec![0.0; 4], image_ids: vec![3, 4, 3, 5], ..Batch::default() };
            let mut texts = vec![vec![2, 9]; 4];
            let mut stream = Stream::new(1, "mix", &[]);
            mixgen.apply(&mut batch, &mut texts, &mut stream, place, image_index);
            batch
        };
        // The first row with the second.
        let plain = collated(&of(MixMode::Fixed), 0, false);
        assert_eq!((plain.related, plain.image_ids), (vec![], vec![3, 4, 3, 5]));
        let masked = MixGen { mask_partners: true, ..of(MixMode::Fixed) };
        let plain = collated(&masked, 0, false);
        assert_eq!((plain.related, plain.image_ids), (vec![(0, 1)], vec![3, 4, 3, 5]));
        let by_id = collated(&of(MixMode::Fixed), 0, true);
        assert_eq!(by_id.related, [(0, 1), (0, 0), (0, 1), (0, 2)]);
        assert_eq!(by_id.image_ids[1..], [4, 3, 5]);
        let ids = (0..5).flat_map(|place| collated(&of(MixMode::Batch), place, true).image_ids);
        let mixed: Vec<i64> = ids.filter(|id| *id >= MIXED).collect();
        let mut distinct = mixed.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert!(mixed.len() > 5 && distinct.len() == mixed.len(), "{mixed:?}");
    }

    #[test]
    fn only_the_authors_way_mixes_a_row_with_itself() {
        let pairs = |in_place| {
            let batch = MixGen { in_place, ..of(MixMode::Batch) };
            (0..20).map(|i| batch.pairs(4, &mut Stream::new(i, "mix", &[]))).collect::<Vec<_>>()
        };
        assert!(pairs(false).iter().flatten().all(|m| m.row != m.partner));
        assert!(pairs(true).iter().all(|p| p.len() == 4));
        assert!(pairs(true).iter().flatten().any(|m| m.row == m.partner));
    }

    #[test]
    fn weights_can_be_drawn_from_a_beta_distribution() {
        let parse = |text: &str| serde_json::from_str::<Lambda>(text);
        assert_eq!(parse("0.3").unwrap(), Lambda::Fixed(0.3));
        assert_eq!(parse("\"beta(0.1)\"").unwrap(), Lambda::Beta(0.1));
        assert!(parse("\"gamma(1)\"").is_err());
        assert_eq!(serde_json::to_string(&Lambda::Beta(0.1)).unwrap(), "\"beta(0.1)\"");
        assert!(MixGen { lambda: Lambda::Beta(0.0), ..MixGen::default() }.check().is_err());
        for a in [0.1, 1.0, 3.0] {
            let mut stream = Stream::new(1, "beta", &[]);
            let drawn: Vec<f64> = (0..4000).map(|_| Lambda::Beta(a).draw(&mut stream)).collect();
            let mean = drawn.iter().sum::<f64>() / 4000.0;
            let spread = drawn.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 4000.0;
            assert!((mean - 0.5).abs() < 0.03, "{a}: {mean}");
            // The variance of the distribution is 1 / (4 (2 a + 1)).
            assert!((spread * 4.0 * (2.0 * a + 1.0) - 1.0).abs() < 0.1, "{a}: {spread}");
        }
    }

    #[test]
    fn ratios_beyond_half_are_refused() {
        assert!(MixGen { ratio: 0.6, ..of(MixMode::Fixed) }.check().is_err());
        assert!(of(MixMode::Fixed).check().is_ok());
    }
}
