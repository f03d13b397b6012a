//! The random draws of a step: seeded, or given for comparison with another implementation.

use burn::tensor::Tensor;

use super::Settings;
use crate::model::DropoutRng;
use crate::objectives::masking::MaskDraw;
use crate::objectives::negatives::sample_negatives;
use crate::params::to_vec;

/// The random draws of a step.
#[derive(Clone, Debug)]
pub enum StepRng {
    /// A pure function of this seed.
    Seeded(u64),
    /// Given draws, for comparison with another implementation.
    Replay {
        /// For each text, the image that serves as its negative.
        negative_image: Vec<usize>,
        /// For each image, the text that serves as its negative.
        negative_text: Vec<usize>,
        /// For each token row, its masking draws.
        masks: Vec<MaskDraw>,
    },
}

/// The draws of a step as its parts ask for them.
pub(super) struct RngState {
    draws: StepRng,
    /// Dropout of the online text and fusion layers.
    pub text: DropoutRng,
    /// Dropout of the momentum ones.
    pub momentum: DropoutRng,
}

impl RngState {
    pub fn new(draws: StepRng, settings: &Settings) -> Self {
        let dropout = |p: f32, salt: u64| match &draws {
            StepRng::Seeded(seed) => DropoutRng::new(p, derive_seed(*seed, salt)),
            StepRng::Replay { .. } => DropoutRng::none(),
        };
        let text = dropout(settings.dropout, 1);
        let momentum = dropout(settings.momentum_dropout, 2);
        Self { draws, text, momentum }
    }

    /// The masking draws of a token row.
    pub fn mask(&self, row: usize, vocab_size: usize) -> MaskDraw {
        match &self.draws {
            StepRng::Replay { masks, .. } => masks.get(row).copied().unwrap_or(MaskDraw {
                mask: 1.0,
                replace: 1.0,
                random: 1.0,
                word: 0,
            }),
            StepRng::Seeded(seed) => MaskDraw::seeded(*seed, row, vocab_size),
        }
    }

    /// A negative for each row of similarities `[B, B + Q]` among those that are allowed, or none: the
    /// images for texts, else the texts for images. Without a sharpness all are equally likely.
    pub fn negatives(
        &self,
        images: bool,
        sharpness: Option<f64>,
        sims: &Tensor<2>,
        allowed: impl Fn(usize, usize) -> bool,
    ) -> Vec<Option<usize>> {
        match &self.draws {
            StepRng::Replay { negative_image, negative_text, .. } => {
                let given = if images { negative_image } else { negative_text };
                given.iter().copied().map(Some).collect()
            }
            StepRng::Seeded(seed) => {
                let batch = sims.dims()[0];
                let logits = match sharpness {
                    Some(factor) => to_vec(sims.clone().inner().narrow(1, 0, batch) * factor),
                    None => vec![0.0; batch * batch],
                };
                let seed = derive_seed(*seed, if images { 7 } else { 8 });
                sample_negatives(&logits, batch, allowed, |row| {
                    f64::from(albef_kernels::uniform(seed, row as u64))
                })
            }
        }
    }
}

/// A seed for one purpose out of the seed of a step.
#[must_use]
pub fn derive_seed(seed: u64, salt: u64) -> u64 {
    albef_random::scramble(seed ^ salt.wrapping_mul(albef_random::SPREAD))
}
