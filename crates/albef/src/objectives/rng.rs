//! The random draws of a step: seeded, or given for comparison with another implementation.

use albef_random::derive_seed;

use super::masking::MaskDraw;
use crate::model::DropoutRng;

/// The random draws of a forward pass.
#[derive(Clone, Debug)]
pub enum StepRng {
    /// A pure function of this seed.
    Seeded(u64),
    /// Given draws.
    Replay(Replay),
}

/// Given draws. Dropout has none: it is off.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    /// For each text, the image that is its negative.
    pub negative_image: Vec<usize>,
    /// For each image, the text that is its negative.
    pub negative_text: Vec<usize>,
    /// For each token row, its masking draws; a row without is not masked.
    pub masks: Vec<MaskDraw>,
    /// For each text, the draws of text assignment.
    pub assignments: Vec<AssignmentDraw>,
}

// One salt for each purpose; they decide about the results of a seed.
const DROPOUT: u64 = 1;
const MOMENTUM_DROPOUT: u64 = 2;
const NEGATIVE_IMAGE: u64 = 7;
const NEGATIVE_TEXT: u64 = 8;
const PATCHES: u64 = 9;

impl StepRng {
    /// Dropout of the online text and fusion layers.
    #[must_use]
    pub fn dropout(&self, p: f32) -> DropoutRng {
        self.dropout_of(p, DROPOUT)
    }

    /// Dropout of the momentum model's (quirk Q9).
    #[must_use]
    pub fn momentum_dropout(&self, p: f32) -> DropoutRng {
        self.dropout_of(p, MOMENTUM_DROPOUT)
    }

    fn dropout_of(&self, p: f32, salt: u64) -> DropoutRng {
        match self {
            Self::Seeded(seed) => DropoutRng::new(p, derive_seed(*seed, salt)),
            Self::Replay(_) => DropoutRng::none(),
        }
    }

    /// The masking draws of a token row; random words come from all `vocab_size` of them.
    #[must_use]
    pub fn mask(&self, row: usize, vocab_size: usize) -> MaskDraw {
        match self {
            Self::Seeded(seed) => MaskDraw::seeded(*seed, row, vocab_size),
            Self::Replay(given) => given.masks.get(row).copied().unwrap_or(MaskDraw::NONE),
        }
    }

    /// The patches of each of `images` images that a step looks at, `kept` of `patches` in ascending order;
    /// all of them beside given draws.
    #[must_use]
    pub fn patches(&self, images: usize, patches: usize, kept: usize) -> Vec<usize> {
        let Self::Seeded(seed) = self else {
            return (0..patches).collect::<Vec<_>>().repeat(images);
        };
        let mut draws = albef_random::SplitMix64::new(derive_seed(*seed, PATCHES));
        let of_image = |_| {
            let mut order: Vec<(u64, usize)> =
                (0..patches).map(|p| (draws.next_u64(), p)).collect();
            order.sort_unstable();
            let mut chosen: Vec<usize> = order[..kept].iter().map(|(_, p)| *p).collect();
            chosen.sort_unstable();
            chosen
        };
        (0..images).flat_map(of_image).collect()
    }

    /// The negative image of each text: given, or a draw in `[0, 1)` for each text.
    #[must_use]
    pub fn negative_images(&self) -> NegativeDraws<'_> {
        match self {
            Self::Seeded(seed) => NegativeDraws::Seeded(derive_seed(*seed, NEGATIVE_IMAGE)),
            Self::Replay(given) => NegativeDraws::Given(&given.negative_image),
        }
    }

    /// The negative text of each image: given, or a draw in `[0, 1)` for each image.
    #[must_use]
    pub fn negative_texts(&self) -> NegativeDraws<'_> {
        match self {
            Self::Seeded(seed) => NegativeDraws::Seeded(derive_seed(*seed, NEGATIVE_TEXT)),
            Self::Replay(given) => NegativeDraws::Given(&given.negative_text),
        }
    }

    /// The draws of text assignment for a text; `None` if they are given for fewer texts.
    #[must_use]
    pub fn assignment(&self, row: usize) -> Option<AssignmentDraw> {
        match self {
            Self::Seeded(seed) => Some(AssignmentDraw::seeded(*seed, row)),
            Self::Replay(given) => given.assignments.get(row).copied(),
        }
    }
}

/// Uniform draws of one text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AssignmentDraw {
    /// Above one third: the own image and another one. Else two others.
    pub other: f64,
    /// Above one half: the own image first.
    pub order: f64,
    /// Which other images, by the inverse of the cumulative weights.
    pub index: [f64; 2],
    /// The other images, if they are given.
    pub given: Option<[usize; 2]>,
}

impl AssignmentDraw {
    /// The draws of a text, a pure function of `seed`.
    #[must_use]
    pub fn seeded(seed: u64, row: usize) -> Self {
        let u = |salt: u64| f64::from(albef_kernels::uniform(derive_seed(seed, salt), row as u64));
        Self { other: u(3), order: u(4), index: [u(5), u(6)], given: None }
    }
}

/// Where negatives for matching come from.
#[derive(Clone, Copy, Debug)]
pub enum NegativeDraws<'a> {
    /// Uniform draws by row, a pure function of this seed.
    Seeded(u64),
    /// The negatives themselves.
    Given(&'a [usize]),
}
