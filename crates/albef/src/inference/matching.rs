//! Does a text fit an image? The probability of the matching head (ITM), with the cosine beside it.

use albef_data::dataset::Skipped;
use albef_data::image::RgbImage;
use burn::tensor::Tensor;
use serde::Serialize;

use crate::Control;
use crate::error::Result;
use crate::eval::retrieval::{score_pairs, similarities};
use crate::images::ImageSet;
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

/// What was found for each usable image of a set.
#[derive(Clone, Debug)]
pub struct ForImages<T> {
    /// Images, by their numbers in the set, with what was found for them.
    pub found: Vec<(usize, T)>,
    /// Images that cannot be used.
    pub skipped: Vec<Skipped>,
}

/// The probability of "match" of the two logits (no match, match).
#[must_use]
pub fn match_probability(logits: [f32; 2]) -> f64 {
    1.0 / (1.0 + f64::from(logits[0] - logits[1]).exp())
}

impl Pipeline {
    /// How well a text fits each image, by both stages: the cosine to [`Pipeline::embed_query`], and the matching
    /// head on [`Pipeline::query_caption`].
    ///
    /// # Errors
    /// [`crate::Error::EmptyText`] for a text without words.
    pub fn match_text(&self, images: &[RgbImage], text: &str) -> Result<Vec<Match>> {
        let (tokens, query) = ([self.query_caption(text).ids], self.embed_query(text)?);
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

    /// [`Pipeline::match_text`] for the usable images of a set.
    ///
    /// # Errors
    /// As [`Pipeline::match_text`], or [`crate::Error::Cancelled`].
    pub fn match_set(
        &self,
        images: &ImageSet,
        text: &str,
        control: &Control,
    ) -> Result<ForImages<Match>> {
        let (tokens, query) = ([self.query_caption(text).ids], self.embed_query(text)?);
        let all: Vec<usize> = (0..images.len()).collect();
        let (mut found, mut skipped) = (Vec::with_capacity(all.len()), Vec::new());
        for part in all.chunks(BATCH) {
            control.check()?;
            let (pixels, failed) =
                images.load(part, self.image_res(), self.reader(), self.device());
            let (features, logits) = self.match_pixels(pixels, &tokens)?;
            let cosines = similarities(&query, &features);
            for ((i, cosine), logits) in part.iter().zip(cosines).zip(logits) {
                if !failed.iter().any(|(f, _)| f == i) {
                    let probability = match_probability(logits);
                    found.push((*i, Match { cosine, itm_logit: logits[1], probability }));
                }
            }
            skipped.extend(failed.into_iter().map(|(i, s)| Skipped { name: images.name(i), ..s }));
            control.advance("images", part.last().map_or(0, |i| i + 1), all.len());
        }
        Ok(ForImages { found, skipped })
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
