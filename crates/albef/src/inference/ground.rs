//! Grounding: where in an image the model finds a phrase, by Grad-CAM (paper section 6).

use albef_data::image::RgbImage;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::eval::grounding::{AREA_POWER, PixelBox, best_box, box_score, region_box, resize_map};
use crate::gradcam::{AttentionMaps, GroundingMode, contrastive_maps, matching_maps};
use crate::model::TokenBatch;
use crate::pipeline::Pipeline;
use burn::tensor::Tensor;

/// How to ground.
#[derive(Clone, Debug, PartialEq)]
pub struct GroundOptions {
    /// The score that the map explains.
    pub mode: GroundingMode,
    /// Its layer; [`GroundingMode::default_layer`], or with `words`
    /// [`GroundingMode::default_word_layer`], if not given.
    pub layer: Option<usize>,
    /// A map for each word piece as well. They explain the matching score: where the map of the phrase explains the
    /// contrastive one, which has none for words, those of [`GroundingMode::default_word_layer`].
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
    /// How this model grounds where nothing else is asked for: by the mode and layer of its
    /// [`ModelDefaults`](crate::ModelDefaults), if it has some. With `words`, a matching map is of a layer where words
    /// have maps.
    #[must_use]
    pub fn ground_options(&self, words: bool) -> GroundOptions {
        let mut out = GroundOptions::default().words(words);
        if let Some(own) = self.defaults().ground {
            let last = self.config().text.layers.saturating_sub(1);
            let wordless = words && own.mode == GroundingMode::Itm && own.layer == Some(last);
            out = out.mode(own.mode).layer(own.layer.filter(|_| !wordless));
        }
        out
    }

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
        // The contrastive score looks at the phrase as a whole.
        let of_words = match options.words && options.mode == GroundingMode::Itc {
            true => {
                let layer = GroundingMode::Itm.default_word_layer(self.config());
                Some(self.attention_maps(pixels.clone(), &texts, GroundingMode::Itm, layer)?)
            }
            false => None,
        };
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
        let of_words = of_words.as_ref().unwrap_or(&maps);
        let words = match options.words {
            true => (1..of_words.tokens[0])
                .map(|i| WordMap {
                    word: self.piece(text.ids[i]).to_owned(),
                    map: of_words.token(0, i),
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
    use crate::config::ModelConfig;
    use crate::defaults::{GroundDefaults, ModelDefaults};

    #[test]
    fn a_model_grounds_by_its_defaults() {
        let model = |mode, layer| {
            let ground = Some(GroundDefaults { mode, layer: Some(layer) });
            let defaults = ModelDefaults { ground, ..ModelDefaults::default() };
            crate::pipeline::tests::nano().with_defaults(defaults)
        };
        let by_itc = model(GroundingMode::Itc, 0).ground_options(true);
        assert_eq!((by_itc.mode, by_itc.layer), (GroundingMode::Itc, Some(0)));
        let last = ModelConfig::nano().text.layers - 1;
        let by_itm = |words| model(GroundingMode::Itm, last).ground_options(words).layer;
        assert_eq!((by_itm(false), by_itm(true)), (Some(last), None), "words have no maps there");
        let without = crate::pipeline::tests::nano().ground_options(false);
        assert_eq!(without, GroundOptions::default());
    }

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
        // By the contrastive score words have the maps of the matching score.
        let by_itc = options.clone().mode(GroundingMode::Itc);
        let of_both = model.ground(&image, "a dog", &by_itc).unwrap();
        assert_eq!((of_both.mode, &of_both.words), (GroundingMode::Itc, &found.words));
        let alone = model.ground(&image, "a dog", &by_itc.words(false)).unwrap();
        assert_eq!((&of_both.map, &of_both.scores), (&alone.map, &alone.scores));
        let empty = model.ground(&image, " ", &options);
        assert!(matches!(empty, Err(Error::EmptyText)), "{empty:?}");
    }
}
