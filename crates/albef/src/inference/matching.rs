//! Does a text fit an image? The probability of the matching head (ITM), with the cosine beside it.

use albef_data::image::RgbImage;
use burn::tensor::Tensor;
use serde::Serialize;

use crate::error::Result;
use crate::eval::retrieval::{score_pairs, similarities};
use crate::params::outputs;
use crate::pipeline::{BATCH, Pipeline};

/// How well a text fits an image.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Match {
    /// Cosine of the unit-length features, -1 to 1.
    pub cosine: f32,
    /// Logit of "match" of the matching head.
    pub itm_logit: f32,
    /// Probability of "match", 0 to 1.
    pub probability: f64,
}

/// The probability of "match" of the two logits (no match, match).
#[must_use]
pub fn match_probability(logits: [f32; 2]) -> f64 {
    1.0 / (1.0 + f64::from(logits[0] - logits[1]).exp())
}

impl Pipeline {
    /// How well a text fits each image, by both stages.
    ///
    /// # Errors
    /// [`crate::Error::EmptyText`] for a text without words.
    pub fn match_text(&self, images: &[RgbImage], text: &str) -> Result<Vec<Match>> {
        let (tokens, query) = ([self.tokens(text)], self.embed_text(text)?);
        let mut found = Vec::with_capacity(images.len());
        for part in images.chunks(BATCH) {
            let (features, logits) = self.match_pixels(self.pixels(part), &tokens)?;
            let cosines = similarities(&query, &features);
            found.extend(cosines.into_iter().zip(logits).map(|(cosine, logits)| Match {
                cosine,
                itm_logit: logits[1],
                probability: match_probability(logits),
            }));
        }
        Ok(found)
    }

    /// Features `[n, E]` of images `[n, 3, S, S]`, and the logits (no match, match) of each image with each
    /// text, texts varying fastest.
    pub(crate) fn match_pixels(
        &self,
        pixels: Tensor<4>,
        texts: &[Vec<u32>],
    ) -> Result<(Vec<f32>, Vec<[f32; 2]>)> {
        let images = pixels.dims()[0];
        let states = self.model().encoders.visual_encoder.forward(pixels)?;
        let features = outputs(self.model().encoders.image_feat(&states), "image features")?;
        let pairs: Vec<(usize, usize)> =
            (0..images).flat_map(|i| (0..texts.len()).map(move |t| (i, t))).collect();
        Ok((features, score_pairs(self.model(), texts, &pairs, 1, &states)?))
    }
}
