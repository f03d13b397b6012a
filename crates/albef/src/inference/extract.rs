//! Features of images, texts and pairs, as other programs take them: of `[CLS]` or of all tokens, projected to
//! the common space or not.

use albef_data::dataset::Skipped;
use albef_data::image::RgbImage;
use albef_data::names::{readable, shown};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::Control;
use crate::error::{Error, Result};
use crate::images::ImageSet;
use crate::model::{DropoutRng, ImageContext, OutputRows, TokenBatch};
use crate::ops::index;
use crate::params::outputs;
use crate::pipeline::{BATCH, Pipeline};

/// Which tokens a feature is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FeatureTokens {
    /// `[CLS]`, or the class token of an image.
    #[default]
    Cls,
    /// All, the class token first.
    All,
}

/// What is extracted. The default is what [`Pipeline::embed_images`] and [`Pipeline::embed_text`] give.
///
/// ```
/// use albef::inference::{ExtractOptions, FeatureTokens};
///
/// let states = ExtractOptions::default().tokens(FeatureTokens::All).projected(false);
/// assert_eq!(states.tokens, FeatureTokens::All);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExtractOptions {
    /// The tokens.
    pub tokens: FeatureTokens,
    /// Whether states are projected to the common space of images and texts, `embed_dim` wide, and scaled to unit
    /// length. Pairs have no projection.
    pub projected: bool,
}

impl Default for ExtractOptions {
    fn default() -> Self {
        Self { tokens: FeatureTokens::Cls, projected: true }
    }
}

impl ExtractOptions {
    /// Sets the tokens.
    #[must_use]
    pub fn tokens(mut self, tokens: FeatureTokens) -> Self {
        self.tokens = tokens;
        self
    }

    /// Sets whether states are projected.
    #[must_use]
    pub fn projected(mut self, projected: bool) -> Self {
        self.projected = projected;
        self
    }
}

/// The features of one image, text or pair: rows of `width` values, one for each token.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureRows {
    /// Values of a row.
    pub width: usize,
    /// The rows, one after another.
    pub values: Vec<f32>,
}

impl FeatureRows {
    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len() / self.width.max(1)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

/// What a feature is of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeatureName {
    /// The name of the image, if it is of one.
    pub image: Option<String>,
    /// The text, if it is of one.
    pub text: Option<String>,
}

impl FeatureName {
    /// One line: image, text, or both with a tab between; control characters and backslashes are escaped.
    #[must_use]
    pub fn line(&self) -> String {
        let parts = [&self.image, &self.text].into_iter().flatten();
        parts.map(|name| shown(name)).collect::<Vec<_>>().join("\t")
    }

    /// The feature as a JSON object: `image`, `text`, and `feature`, one row, or `features`, a row for each
    /// token.
    #[must_use]
    pub fn to_json(&self, rows: &FeatureRows, all_tokens: bool) -> Value {
        let mut out = Map::new();
        for (key, name) in [("image", &self.image), ("text", &self.text)] {
            out.extend(name.as_ref().map(|name| (key.to_owned(), json!(readable(name)))));
        }
        match all_tokens {
            true => {
                let rows: Vec<&[f32]> = rows.values.chunks(rows.width.max(1)).collect();
                out.insert("features".into(), json!(rows))
            }
            false => out.insert("feature".into(), json!(rows.values)),
        };
        Value::Object(out)
    }
}

/// Rows of items of these lengths.
fn split(values: Vec<f32>, width: usize, lengths: impl Iterator<Item = usize>) -> Vec<FeatureRows> {
    let mut rest = &values[..];
    let mut out = Vec::new();
    for length in lengths {
        let (own, others) = rest.split_at((length * width).min(rest.len()));
        out.push(FeatureRows { width, values: own.to_vec() });
        rest = others;
    }
    out
}

impl Pipeline {
    /// Features of images of any size.
    ///
    /// # Errors
    /// [`Error::NoProjections`] for weights without the contrastive side, if projections are asked for.
    pub fn extract_images(
        &self,
        images: &[RgbImage],
        options: ExtractOptions,
    ) -> Result<Vec<FeatureRows>> {
        let mut out = Vec::with_capacity(images.len());
        for part in images.chunks(BATCH) {
            out.extend(self.extract_pixels(self.pixels(part), options)?);
        }
        Ok(out)
    }

    /// [`Pipeline::extract_images`] of normalized pixels `[n, 3, S, S]`.
    pub(crate) fn extract_pixels(
        &self,
        pixels: Tensor<4>,
        options: ExtractOptions,
    ) -> Result<Vec<FeatureRows>> {
        let encoders = &self.model().encoders;
        let states = encoders.visual_encoder.forward(pixels)?;
        let (rows, each) = match options.tokens {
            FeatureTokens::Cls => (states.class_tokens(), 1),
            FeatureTokens::All => (states.tokens.clone(), states.length),
        };
        let rows = match options.projected {
            true => {
                self.needs_contrast()?;
                encoders.project_image(rows)
            }
            false => rows,
        };
        let width = rows.dims()[1];
        let lengths = std::iter::repeat_n(each, states.batch);
        Ok(split(outputs(rows, "image features")?, width, lengths))
    }

    /// Features of the usable images of a set, or, with `pairs`, of each of them with each of its captions, one after
    /// another to `each`. Gives the images that cannot be used.
    ///
    /// # Errors
    /// [`Error::Cancelled`], or of `each`.
    pub fn extract_set(
        &self,
        images: &ImageSet,
        pairs: bool,
        options: ExtractOptions,
        control: &Control,
        each: &mut dyn FnMut(&FeatureName, &FeatureRows) -> Result<()>,
    ) -> Result<Vec<Skipped>> {
        let all: Vec<usize> = (0..images.len()).collect();
        let mut skipped = Vec::new();
        for part in all.chunks(BATCH) {
            control.check()?;
            let (pixels, failed) =
                images.load(part, self.image_res(), self.reader(), self.device());
            let unusable = |i: usize| failed.iter().any(|(f, _)| *f == i);
            let named = |i: usize| FeatureName { image: Some(images.full_name(i)), text: None };
            if pairs {
                let usable = part.iter().enumerate().filter(|(_, i)| !unusable(**i));
                let captions = |i: usize| images.samples()[i].captions.iter();
                let found: Vec<(usize, usize, &String)> = usable
                    .flat_map(|(at, i)| captions(*i).map(move |text| (at, *i, text)))
                    .filter(|(_, _, text)| !text.trim().is_empty())
                    .collect();
                for some in found.chunks(BATCH) {
                    let at: Vec<usize> = some.iter().map(|(at, _, _)| *at).collect();
                    let pixels = pixels.clone().select(0, index(&at, self.device()));
                    let texts: Vec<&String> = some.iter().map(|(_, _, text)| *text).collect();
                    let rows = self.extract_pixel_pairs(pixels, &texts, options)?;
                    for ((_, i, text), rows) in some.iter().zip(&rows) {
                        each(&FeatureName { text: Some((*text).clone()), ..named(*i) }, rows)?;
                    }
                }
            } else {
                let rows = self.extract_pixels(pixels, options)?;
                for (i, rows) in part.iter().zip(&rows).filter(|(i, _)| !unusable(**i)) {
                    each(&named(*i), rows)?;
                }
            }
            skipped.extend(failed.into_iter().map(|(i, s)| Skipped { name: images.name(i), ..s }));
            control.advance("images", part.last().map_or(0, |i| i + 1), all.len());
        }
        Ok(skipped)
    }

    /// Features of texts, truncated as for retrieval ([`Pipeline::caption_limits`]).
    ///
    /// # Errors
    /// [`Error::EmptyText`] for a text without words, [`Error::NoProjections`] as for images.
    pub fn extract_texts(
        &self,
        texts: &[impl AsRef<str>],
        options: ExtractOptions,
    ) -> Result<Vec<FeatureRows>> {
        let encoders = &self.model().encoders;
        let mut out = Vec::with_capacity(texts.len());
        for part in texts.chunks(BATCH) {
            let tokens = self.packed(part)?;
            let rows = self.rows_of(&tokens, options, |read| {
                encoders.text_encoder.text(&tokens, read, &mut DropoutRng::none(), None)
            })?;
            let rows = match options.projected {
                true => {
                    self.needs_contrast()?;
                    encoders.text_feat(rows)
                }
                false => rows,
            };
            let width = rows.dims()[1];
            out.extend(split(outputs(rows, "text features")?, width, lengths(&tokens, options)));
        }
        Ok(out)
    }

    /// Fused states of pairs, image `i` with text `i`: rows as wide as the text encoder. Projections are not
    /// asked for: there are none.
    ///
    /// # Errors
    /// [`Error::EmptyText`], or if there are not as many images as texts.
    pub fn extract_pairs(
        &self,
        images: &[RgbImage],
        texts: &[impl AsRef<str>],
        options: ExtractOptions,
    ) -> Result<Vec<FeatureRows>> {
        if images.len() != texts.len() {
            let (images, texts) = (images.len(), texts.len());
            return Err(Error::Argument(format!("{images} images and {texts} texts are no pairs")));
        }
        let mut out = Vec::with_capacity(images.len());
        for (images, texts) in images.chunks(BATCH).zip(texts.chunks(BATCH)) {
            out.extend(self.extract_pixel_pairs(self.pixels(images), texts, options)?);
        }
        Ok(out)
    }

    /// [`Pipeline::extract_pairs`] of normalized pixels `[n, 3, S, S]`.
    pub(crate) fn extract_pixel_pairs(
        &self,
        pixels: Tensor<4>,
        texts: &[impl AsRef<str>],
        options: ExtractOptions,
    ) -> Result<Vec<FeatureRows>> {
        let encoders = &self.model().encoders;
        let tokens = self.packed(texts)?;
        let states = encoders.visual_encoder.forward(pixels)?;
        let image_of: Vec<usize> = (0..texts.len()).collect();
        let context = ImageContext { states: &states, image_of: &image_of, visible: None };
        let rows = self.rows_of(&tokens, options, |read| {
            let none = &mut DropoutRng::none();
            encoders.text_encoder.multi_modal(&tokens, context, read, none, None)
        })?;
        let width = rows.dims()[1];
        Ok(split(outputs(rows, "fused features")?, width, lengths(&tokens, options)))
    }

    fn packed(&self, texts: &[impl AsRef<str>]) -> Result<TokenBatch> {
        let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
        if texts.iter().any(|text| text.trim().is_empty()) {
            return Err(Error::EmptyText);
        }
        let ids: Vec<Vec<u32>> = texts.iter().map(|text| self.tokens(text)).collect();
        Ok(TokenBatch::packed(&ids))
    }

    /// Runs an encoder for the rows that are asked for.
    fn rows_of(
        &self,
        tokens: &TokenBatch,
        options: ExtractOptions,
        run: impl FnOnce(OutputRows<'_>) -> Result<Tensor<2>>,
    ) -> Result<Tensor<2>> {
        match options.tokens {
            FeatureTokens::Cls => run(OutputRows::Rows(&vec![vec![0]; tokens.len()])),
            FeatureTokens::All => run(OutputRows::All),
        }
    }
}

/// Rows of each text.
fn lengths(tokens: &TokenBatch, options: ExtractOptions) -> impl Iterator<Item = usize> {
    let all = options.tokens == FeatureTokens::All;
    tokens.sequences.iter().map(move |s| if all { s.rows } else { 1 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::tests::nano;

    fn image(colour: u8) -> RgbImage {
        RgbImage::filled(20, 30, [colour, 40, 200])
    }

    #[test]
    fn the_default_is_what_search_compares() {
        let model = nano();
        let images = [image(3), image(200)];
        let found = model.extract_images(&images, ExtractOptions::default()).unwrap();
        let features = model.embed_images(&images).unwrap();
        for (rows, feature) in found.iter().zip(&features) {
            assert_eq!((rows.len(), &rows.values), (1, feature));
        }
        let texts = ["a dog", "two cats and a dog"];
        let found = model.extract_texts(&texts, ExtractOptions::default()).unwrap();
        for (rows, text) in found.iter().zip(texts) {
            let feature = model.embed_text(text).unwrap();
            let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-6;
            assert!(rows.values.iter().zip(&feature).all(close));
        }
    }

    #[test]
    fn all_tokens_begin_with_the_class_token_and_texts_keep_their_lengths() {
        let model = nano();
        let (images, texts) = ([image(3), image(200)], ["a dog", "two cats and a dog"]);
        let all =
            |projected| ExtractOptions::default().tokens(FeatureTokens::All).projected(projected);
        let cls = |projected| ExtractOptions::default().projected(projected);
        let begins = |many: &[FeatureRows], one: &[FeatureRows]| {
            assert_eq!(many.len(), one.len());
            for (many, one) in many.iter().zip(one) {
                assert!(many.len() > 1 && one.len() == 1 && many.width == one.width);
                let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5;
                assert!(many.values.iter().zip(&one.values).all(close));
            }
        };
        for projected in [false, true] {
            let found = model.extract_images(&images, all(projected)).unwrap();
            begins(&found, &model.extract_images(&images, cls(projected)).unwrap());
            let found = model.extract_texts(&texts, all(projected)).unwrap();
            begins(&found, &model.extract_texts(&texts, cls(projected)).unwrap());
            let lengths: Vec<usize> = found.iter().map(FeatureRows::len).collect();
            assert_eq!(lengths, texts.map(|text| model.tokens(text).len()));
        }
        let found = model.extract_pairs(&images, &texts, all(false)).unwrap();
        begins(&found, &model.extract_pairs(&images, &texts, cls(false)).unwrap());
        assert!(found[0].width == model.config().text.hidden);
        // The other image, other states.
        let other = [image(200), image(200)];
        assert_ne!(model.extract_pairs(&other, &texts, all(false)).unwrap()[0], found[0]);
        assert_eq!(model.extract_pairs(&other, &texts, all(false)).unwrap()[1], found[1]);
    }

    #[test]
    fn what_is_no_pair_is_refused() {
        let model = nano();
        let none = ExtractOptions::default();
        assert!(model.extract_pairs(&[image(1)], &["a", "b"], none).is_err());
        assert!(matches!(model.extract_texts(&[" "], none), Err(Error::EmptyText)));
    }
}
