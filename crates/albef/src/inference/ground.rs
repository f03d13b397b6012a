//! Grounding: where in an image the model finds a phrase, by Grad-CAM (paper section 6).

use albef_data::image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::eval::grounding::{AREA_POWER, PixelBox, best_box, box_score, region_box, resize_map};
use crate::gradcam::{AttentionMaps, contrastive_maps, matching_maps};
use crate::model::TokenBatch;
use crate::pipeline::Pipeline;
use burn::tensor::Tensor;

/// The score that a map explains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroundingMode {
    /// The matching score, at the cross-attention of a fusion layer.
    #[default]
    Itm,
    /// The contrastive score, at the self-attention of an image block.
    Itc,
}

impl GroundingMode {
    /// The layer of the paper: the third fusion layer, or the last one of fewer; for `itc` the last image block.
    #[must_use]
    pub fn default_layer(self, config: &ModelConfig) -> usize {
        match self {
            Self::Itm => fusion_layer(config, false),
            Self::Itc => config.vision.depth.saturating_sub(1),
        }
    }

    /// [`GroundingMode::default_layer`], but one where single words have maps, if there is one: in the last
    /// fusion layer only `[CLS]` is read.
    #[must_use]
    pub fn default_word_layer(self, config: &ModelConfig) -> usize {
        match self {
            Self::Itm => fusion_layer(config, true),
            Self::Itc => self.default_layer(config),
        }
    }
}

fn fusion_layer(config: &ModelConfig, words: bool) -> usize {
    let first = config.text.fusion_layer;
    let last = config.text.layers.saturating_sub(1 + usize::from(words));
    (first + 2).min(last.max(first))
}

/// How to ground.
#[derive(Clone, Debug, PartialEq)]
pub struct GroundOptions {
    /// The score that the map explains.
    pub mode: GroundingMode,
    /// Its layer; [`GroundingMode::default_layer`], or with `words`
    /// [`GroundingMode::default_word_layer`], if not given.
    pub layer: Option<usize>,
    /// A map for each word piece as well (only [`GroundingMode::Itm`] has some).
    pub words: bool,
    /// Boxes inside the image to choose from; without them the region around the peak is the box.
    pub boxes: Option<Vec<PixelBox>>,
    /// Where between the lowest value (0) and the peak (1) of the map the region ends.
    pub threshold: f32,
}

impl Default for GroundOptions {
    fn default() -> Self {
        let mode = GroundingMode::Itm;
        Self { mode, layer: None, words: false, boxes: None, threshold: 0.5 }
    }
}

impl GroundOptions {
    /// The score that the map explains.
    #[must_use]
    pub fn mode(mut self, mode: GroundingMode) -> Self {
        self.mode = mode;
        self
    }

    /// The layer of the map.
    #[must_use]
    pub fn layer(mut self, layer: Option<usize>) -> Self {
        self.layer = layer;
        self
    }

    /// Whether each word piece gets a map.
    #[must_use]
    pub fn words(mut self, words: bool) -> Self {
        self.words = words;
        self
    }

    /// Boxes to choose from.
    #[must_use]
    pub fn boxes(mut self, boxes: Option<Vec<PixelBox>>) -> Self {
        self.boxes = boxes;
        self
    }

    /// Where the region ends, 0 to 1.
    #[must_use]
    pub fn threshold(mut self, threshold: f32) -> Self {
        self.threshold = threshold;
        self
    }
}

/// The map of a word piece.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WordMap {
    /// The word piece.
    pub word: String,
    /// Its map `[grid, grid]`.
    pub map: Vec<f32>,
}

/// Where a phrase is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Grounding {
    /// The phrase.
    pub phrase: String,
    /// The score that the map explains.
    pub mode: GroundingMode,
    /// The layer of the map.
    pub layer: usize,
    /// Patches along a side of a map.
    pub grid: usize,
    /// The map of the phrase `[grid, grid]`.
    pub map: Vec<f32>,
    /// Maps of its word pieces in order, `[CLS]` left out.
    pub words: Vec<WordMap>,
    /// The box in pixels of the image; `None` if the map is positive nowhere.
    #[serde(rename = "box")]
    pub region: Option<PixelBox>,
    /// The boxes that were chosen from, or the one box of the region.
    pub boxes: Vec<PixelBox>,
    /// Scores of the boxes that were chosen from.
    pub box_scores: Vec<f64>,
    /// Matching logits (no match, match), or the similarity over the temperature.
    pub scores: Vec<f32>,
    /// Whether the phrase is longer than the model reads.
    #[serde(skip)]
    pub truncated: bool,
}

impl Pipeline {
    /// Finds a phrase in an image.
    ///
    /// # Errors
    /// [`Error::EmptyText`], or if there is no such layer.
    pub fn ground(
        &self,
        image: &RgbImage,
        phrase: &str,
        options: &GroundOptions,
    ) -> Result<Grounding> {
        if phrase.trim().is_empty() {
            return Err(Error::EmptyText);
        }
        if options.mode == GroundingMode::Itc {
            self.needs_contrast()?;
        }
        let text = self.phrase(phrase);
        let layer = options.layer.unwrap_or(match options.words {
            true => options.mode.default_word_layer(self.config()),
            false => options.mode.default_layer(self.config()),
        });
        let texts = TokenBatch::packed(std::slice::from_ref(&text.ids));
        let pixels = self.pixels(std::slice::from_ref(image));
        let maps = self.attention_maps(pixels, &texts, options.mode, layer)?;
        let map = maps.sentence(0, maps.tokens[0]);
        let size = (image.height, image.width);
        let wide = resize_map(&map, (maps.grid, maps.grid), size);
        let (boxes, region, box_scores) = match &options.boxes {
            None => {
                let found = region_box(&wide, size, options.threshold);
                (found.into_iter().collect(), found, Vec::new())
            }
            Some(boxes) => {
                let scores: Vec<f64> =
                    boxes.iter().map(|b| box_score(&wide, size, *b, AREA_POWER)).collect();
                (boxes.clone(), best_box(&scores).map(|i| boxes[i]), scores)
            }
        };
        let words = match options.words && options.mode == GroundingMode::Itm {
            true => (1..maps.tokens[0])
                .map(|i| WordMap {
                    word: self.piece(text.ids[i]).to_owned(),
                    map: maps.token(0, i),
                })
                .collect(),
            false => Vec::new(),
        };
        Ok(Grounding {
            phrase: phrase.to_owned(),
            mode: options.mode,
            layer,
            grid: maps.grid,
            map,
            words,
            region,
            boxes,
            box_scores,
            scores: maps.scores,
            truncated: text.truncated,
        })
    }

    /// Grad-CAM maps of pairs of images `[n, 3, S, S]` and texts.
    pub(crate) fn attention_maps(
        &self,
        pixels: Tensor<4>,
        texts: &TokenBatch,
        mode: GroundingMode,
        layer: usize,
    ) -> Result<AttentionMaps> {
        let maps = match mode {
            GroundingMode::Itm => matching_maps(self.config(), self.params(), pixels, texts, layer),
            GroundingMode::Itc => {
                contrastive_maps(self.config(), self.params(), pixels, texts, layer)
            }
        }?;
        let all = [&maps.scores, &maps.attention, &maps.gradient];
        if all.into_iter().flatten().any(|v| !v.is_finite()) {
            return Err(Error::OutputNotFinite { what: "attention maps" });
        }
        Ok(maps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_a_layer_of_their_own_where_the_paper_s_is_the_last() {
        let mut config = ModelConfig::base();
        assert_eq!(GroundingMode::Itm.default_layer(&config), 8);
        assert_eq!(GroundingMode::Itm.default_word_layer(&config), 8);
        config.text.layers = 9;
        assert_eq!(GroundingMode::Itm.default_layer(&config), 8);
        assert_eq!(GroundingMode::Itm.default_word_layer(&config), 7);
        assert_eq!(GroundingMode::Itc.default_layer(&config), config.vision.depth - 1);
    }

    #[test]
    fn every_word_has_a_map_and_the_chosen_box_is_one_of_those_given() {
        let model = crate::pipeline::tests::nano();
        let image = RgbImage::filled(30, 20, [10, 200, 90]);
        let boxes = vec![[0.0, 0.0, 10.0, 20.0], [10.0, 0.0, 20.0, 20.0]];
        let options = GroundOptions::default().words(true).boxes(Some(boxes.clone()));
        let found = model.ground(&image, "a dog", &options).unwrap();
        assert_eq!(found.words.iter().map(|w| w.word.as_str()).collect::<Vec<_>>(), ["a", "dog"]);
        assert!(found.words.iter().all(|w| w.map.len() == found.grid * found.grid));
        assert!(found.region.is_none_or(|b| boxes.contains(&b)), "{found:?}");
        assert!(found.render(&image).unwrap().starts_with(b"\x89PNG"));
        let empty = model.ground(&image, " ", &options);
        assert!(matches!(empty, Err(Error::EmptyText)), "{empty:?}");
    }
}
