//! A trained model with its vocabulary: searching images by text, matching, zero-shot classification and
//! grounding. The operations are in [`crate::inference`].
//!
//! ```
//! use albef::{Pipeline, device};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # std::env::set_current_dir("../..")?;
//! let model = Pipeline::open("models/mini".as_ref(), &device::open("cpu")?)?;
//! let files = ["1f415.png", "1f697.png"]; // a dog and a car
//! let folder = std::path::Path::new("data/drawings/drawings-val-style/fxemoji");
//! let images = files
//!     .iter()
//!     .map(|file| model.open_image(&folder.join(file)))
//!     .collect::<Result<Vec<_>, _>>()?;
//!
//! // Align: unit-length features, one per image, to be kept and searched by cosine.
//! let features = model.embed_images(&images)?;
//! let (best, cosine) = model.nearest("a dog", &features, 1)?[0];
//!
//! // Fuse: does the text fit the image?
//! let found = &model.match_text(&images[best..=best], "a dog")?[0];
//! println!("image {best}: cosine {cosine:.2}, match probability {:.2}", found.probability);
//! # assert!((found.cosine - cosine).abs() < 1e-5);
//! # assert!((0.0..=1.0).contains(&found.probability));
//! # Ok(())
//! # }
//! ```

use std::path::Path;

use albef_data::image::{ImageReader, Normalization, RgbImage, resize_bicubic};
use albef_data::text::{Encoded, TextProcessing, Tokenizer, Truncation, Vocabulary};
use burn::tensor::{Device, Tensor};

use crate::checkpoint::{Checkpoint, LoadedModel, Parts};
use crate::config::ModelConfig;
use crate::defaults::ModelDefaults;
use crate::error::{Error, Result};
use crate::eval::retrieval::{embed_texts, similarities, top_k};
use crate::model::Albef;
use crate::model_path::note_inferred;
use crate::ops::{Ops, Precision};
use crate::params::{Params, from_vec, outputs, to_vec};
use crate::task::TaskRef;

/// Images that are encoded at a time.
pub(crate) const BATCH: usize = 32;

/// A model ready for use. Nothing in it changes, so threads may share it by reference.
pub struct Pipeline {
    model: Albef,
    params: Params,
    tokenizer: Tokenizer,
    interpolated: Option<(usize, usize)>,
    has_contrast: bool,
    vocabulary: String,
    defaults: ModelDefaults,
    reader: ImageReader,
    precision: Precision,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("config", self.config()).finish_non_exhaustive()
    }
}

impl Pipeline {
    /// How far captions are read, as in the official evaluation of retrieval.
    pub const TRUNCATION: Truncation = Truncation { words: 30, ids: 30 };
    /// How far models of LAVIS read captions, as in its evaluation of retrieval.
    pub const LAVIS_TRUNCATION: Truncation = Truncation { words: 50, ids: 35 };

    /// Opens a model folder or a checkpoint file of pre-training, retrieval or grounding. It reads images as people
    /// expect of their own ones: upright, on the background that the model has by default. [`Pipeline::with_reader`]
    /// with [`ImageReader::default`] reads them as the official code does.
    ///
    /// # Errors
    /// If a file is missing or damaged, or belongs to another task.
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        Self::open_at(path, None, device)
    }

    /// [`Pipeline::open`] for images of `image_res` pixels along a side, a multiple of the patch size, if
    /// not those of the model. The position table is interpolated as for fine-tuning.
    ///
    /// # Errors
    /// As [`Pipeline::open`], or if the resolution does not fit the model.
    pub fn open_at(path: &Path, image_res: Option<usize>, device: &Device) -> Result<Self> {
        note_inferred(path);
        let accepted = [TaskRef::pretrain(), TaskRef::named("retrieval")?];
        let loaded =
            Checkpoint::open(path)?.at(image_res)?.load(&accepted, device, Parts::Inference)?;
        loaded.log_notes();
        let reader = ImageReader::new(loaded.defaults.own_images());
        Ok(Self::from_loaded(&loaded)?.with_reader(reader))
    }

    /// A loaded model of pre-training, retrieval or grounding; it reads images by the loaded reader.
    ///
    /// # Errors
    /// If a weight is absent, or the word pieces lack a special one.
    pub fn from_loaded(loaded: &LoadedModel) -> Result<Self> {
        let mut out = Self::new(loaded.albef()?, loaded.online.clone(), &loaded.vocabulary)?;
        out.interpolated = loaded.report.resized;
        out.has_contrast = loaded.has_contrast;
        out.defaults = loaded.defaults.clone();
        out.precision = loaded.ops().precision();
        Ok(out.with_reader(loaded.reader.clone()))
    }

    /// A model at hand with its weights and word pieces, one per line.
    ///
    /// # Errors
    /// If the vocabulary lacks a special piece.
    pub(crate) fn new(model: Albef, params: Params, vocabulary: &str) -> Result<Self> {
        let tokenizer = Tokenizer::new(Vocabulary::from_text(vocabulary)?)
            .processed(model.config.text.processing);
        let vocabulary = vocabulary.to_owned();
        let reader = ImageReader::default();
        let (interpolated, has_contrast) = (None, true);
        let defaults = ModelDefaults::default();
        Ok(Self {
            model,
            params,
            tokenizer,
            interpolated,
            has_contrast,
            vocabulary,
            defaults,
            reader,
            precision: Precision::F32,
        })
    }

    /// With other defaults than those of its folder. The background of images is the reader's.
    #[must_use]
    pub fn with_defaults(mut self, defaults: ModelDefaults) -> Self {
        self.defaults = defaults;
        self
    }

    /// What the model does where nothing else is asked for.
    #[must_use]
    pub fn defaults(&self) -> &ModelDefaults {
        &self.defaults
    }

    /// Reads images by `reader`. Its order of resizing also holds for images at hand.
    #[must_use]
    pub fn with_reader(mut self, reader: ImageReader) -> Self {
        self.reader = reader;
        self
    }

    /// Rounds the factors of matrix products to `precision`. [`Precision::Bf16`] is faster on processors with a unit for
    /// it ([`crate::device::bf16_unit`]) and moves features, and with them cosines and match probabilities, a little;
    /// elsewhere, on GPUs and in heat maps products stay f32. [`Pipeline::precision`] says what is used.
    #[must_use]
    pub fn with_precision(mut self, precision: Precision) -> Self {
        let ops = Ops::for_device(self.params.device()).with_precision(precision);
        // Parameters of which a model was made make one again.
        if let Ok(model) = Albef::new(&self.model.config, &self.params.frozen(ops)) {
            self.model = model;
            self.precision = ops.precision();
        }
        self
    }

    /// What the factors of matrix products are rounded to: f32 where the processor or device has no unit for another one.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// How images are read, with what was noted of those that were read.
    #[must_use]
    pub fn reader(&self) -> &ImageReader {
        &self.reader
    }

    /// Reads an image as this model reads images.
    ///
    /// # Errors
    /// Names the file and why it cannot be read.
    pub fn open_image(&self, path: &Path) -> Result<RgbImage> {
        Ok(self.reader.open(path)?)
    }

    /// The model on frozen weights.
    #[must_use]
    pub(crate) fn model(&self) -> &Albef {
        &self.model
    }

    /// The weights by their official names.
    #[must_use]
    pub(crate) fn params(&self) -> &Params {
        &self.params
    }

    /// Number of parameters.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.params.count()
    }

    /// Sizes of the model.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.model.config
    }

    /// Pixels along the side of the square that images are resized to.
    #[must_use]
    pub fn image_res(&self) -> usize {
        self.config().vision.image_res
    }

    /// Values of a feature.
    #[must_use]
    pub fn embed_dim(&self) -> usize {
        self.config().embed_dim
    }

    /// Where the model computes.
    #[must_use]
    pub fn device(&self) -> &Device {
        self.params.device()
    }

    /// The tokenizer.
    #[must_use]
    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Patches along a side before and after interpolation, where the position table was resized.
    #[must_use]
    pub fn interpolated(&self) -> Option<(usize, usize)> {
        self.interpolated
    }

    /// The learned temperature of the contrastive loss.
    #[must_use]
    pub fn temperature(&self) -> f32 {
        to_vec(self.model.temp.clone().inner())[0]
    }

    /// How far this model reads captions.
    #[must_use]
    pub fn caption_limits(&self) -> Truncation {
        match self.config().text.processing {
            TextProcessing::Official => Self::TRUNCATION,
            TextProcessing::Lavis => Self::LAVIS_TRUNCATION,
        }
    }

    /// A caption, cleaned and truncated as for retrieval ([`Pipeline::caption_limits`]).
    #[must_use]
    pub fn caption(&self, text: &str) -> Encoded {
        self.tokenizer.caption(text, self.caption_limits())
    }

    /// The ids of [`Pipeline::caption`], at most [`Pipeline::caption_limits`].
    #[must_use]
    pub fn tokens(&self, text: &str) -> Vec<u32> {
        self.caption(text).ids
    }

    /// Limits of a phrase to ground: as many word pieces as the model has positions.
    #[must_use]
    pub fn phrase_limits(&self) -> Truncation {
        Truncation { ids: self.config().text.max_positions, ..self.caption_limits() }
    }

    /// A phrase to ground ([`Pipeline::phrase_limits`]).
    #[must_use]
    pub fn phrase(&self, text: &str) -> Encoded {
        self.tokenizer.caption(text, self.phrase_limits())
    }

    /// A word piece as text; empty beyond the vocabulary.
    #[must_use]
    pub fn piece(&self, id: u32) -> &str {
        self.vocabulary.lines().nth(id as usize).unwrap_or_default()
    }

    /// The unit-length feature of a text, `embed_dim` values.
    ///
    /// # Errors
    /// [`Error::EmptyText`] for a text without words.
    pub fn embed_text(&self, text: &str) -> Result<Vec<f32>> {
        if text.trim().is_empty() {
            return Err(Error::EmptyText);
        }
        self.needs_contrast()?;
        embed_texts(&self.model, &[self.tokens(text)], 1)
    }

    /// The unit-length feature of what is looked for: the mean over the templates of the model
    /// ([`ModelDefaults::templates`]), or [`Pipeline::embed_text`] where it has none.
    ///
    /// # Errors
    /// As [`Pipeline::embed_text`].
    pub fn embed_query(&self, text: &str) -> Result<Vec<f32>> {
        if text.trim().is_empty() {
            return Err(Error::EmptyText);
        }
        self.mean_feature(&self.defaults.filled(text))
    }

    /// What the matching head reads of what is looked for: the first template of the model, filled.
    #[must_use]
    pub fn query_caption(&self, text: &str) -> Encoded {
        let filled = self.defaults.filled(text);
        self.caption(filled.first().map_or(text, String::as_str))
    }

    /// The mean of the features of texts, unit length.
    pub(crate) fn mean_feature(&self, texts: &[String]) -> Result<Vec<f32>> {
        if let [text] = texts {
            return self.embed_text(text);
        }
        let mut mean = vec![0.0_f32; self.embed_dim()];
        for text in texts {
            let feature = self.embed_text(text)?;
            mean.iter_mut().zip(feature).for_each(|(m, f)| *m += f);
        }
        let norm = mean.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-12);
        mean.iter_mut().for_each(|v| *v /= norm);
        Ok(mean)
    }

    /// Whether no word of a text is in the vocabulary: all that the model would read is `[UNK]`, or nothing.
    #[must_use]
    pub fn is_unknown(&self, text: &str) -> bool {
        let pieces = self.tokenizer.vocabulary();
        let known = |id: &u32| ![pieces.cls, pieces.sep, pieces.unk].contains(id);
        !self.tokens(text).iter().any(known)
    }

    /// Unit-length features of images of any size, `embed_dim` values each.
    ///
    /// # Errors
    /// If the device fails.
    pub fn embed_images(&self, images: &[RgbImage]) -> Result<Vec<Vec<f32>>> {
        let mut features = Vec::with_capacity(images.len());
        for part in images.chunks(BATCH) {
            let rows = self.embed_pixels(self.pixels(part))?;
            features.extend(rows.chunks(self.embed_dim()).map(<[f32]>::to_vec));
        }
        Ok(features)
    }

    /// # Errors
    /// [`Error::NoProjections`] for weights without the contrastive side.
    pub(crate) fn needs_contrast(&self) -> Result<()> {
        if self.has_contrast { Ok(()) } else { Err(Error::NoProjections) }
    }

    /// Features `[n, embed_dim]` of normalized pixels `[n, 3, S, S]`.
    pub(crate) fn embed_pixels(&self, pixels: Tensor<4>) -> Result<Vec<f32>> {
        self.needs_contrast()?;
        let states = self.model.encoders.visual_encoder.forward(pixels)?;
        outputs(self.model.encoders.image_feat(&states), "image features")
    }

    /// The `k` features with the largest cosine to a text, best first, ties to the lower index.
    ///
    /// # Errors
    /// [`Error::EmptyText`], or [`Error::FeatureWidth`] for features of another model.
    pub fn nearest(
        &self,
        text: &str,
        features: &[Vec<f32>],
        k: usize,
    ) -> Result<Vec<(usize, f32)>> {
        let query = self.embed_query(text)?;
        let expected = query.len();
        if let Some(index) = features.iter().position(|f| f.len() != expected) {
            return Err(Error::FeatureWidth { index, found: features[index].len(), expected });
        }
        let cosines: Vec<f32> =
            features.iter().map(|feature| similarities(&query, feature)[0]).collect();
        Ok(top_k(&cosines, k).into_iter().map(|i| (i, cosines[i])).collect())
    }

    /// Normalized pixels `[n, 3, S, S]`, each image squeezed to the model's square as in evaluation.
    pub(crate) fn pixels(&self, images: &[RgbImage]) -> Tensor<4> {
        let size = self.image_res();
        let (plane, order) = (3 * size * size, self.reader.options.resize_order);
        let mut pixels = vec![0.0; images.len() * plane];
        for (image, out) in images.iter().zip(pixels.chunks_mut(plane.max(1))) {
            let image = resize_bicubic(image, size, size, order);
            Normalization::default().to_chw(&image, out);
        }
        from_vec(pixels, [images.len(), 3, size, size], self.device())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::init::fresh_params;
    use crate::params::cpu;

    /// The smallest model on fresh weights.
    pub(crate) fn nano() -> Pipeline {
        let config = ModelConfig::nano();
        let schema = TaskRef::pretrain().schema(&config);
        let params = fresh_params(&schema, 0.07, 3, &cpu()).unwrap();
        let model = Albef::new(&config, &params.frozen(Ops::for_device(&cpu()))).unwrap();
        let vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\ndog\n";
        Pipeline::new(model, params, vocabulary).unwrap()
    }

    #[test]
    fn threads_can_share_a_pipeline() {
        fn shared<T: Send + Sync>() {}
        shared::<Pipeline>();
    }

    #[test]
    fn a_text_encoder_may_fuse_from_its_first_layer() {
        let mut config = ModelConfig::nano();
        config.text.fusion_layer = 0;
        config.check().unwrap();
        let params = fresh_params(&TaskRef::pretrain().schema(&config), 0.07, 3, &cpu()).unwrap();
        let model = Albef::new(&config, &params.frozen(Ops::for_device(&cpu()))).unwrap();
        let model =
            Pipeline::new(model, params, "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\ndog\n").unwrap();
        // Its features are of the embedding of [CLS] alone.
        assert_eq!(model.embed_text("a dog").unwrap(), model.embed_text("dog").unwrap());
        let image = [RgbImage::filled(30, 20, [10, 200, 90])];
        let logit = |text| model.match_text(&image, text).unwrap()[0].itm_logit;
        assert_ne!(logit("a dog"), logit("dog"));
    }

    #[test]
    fn outputs_that_are_not_finite_are_errors_everywhere() {
        let config = ModelConfig::nano();
        let schema = TaskRef::pretrain().schema(&config);
        let mut params = fresh_params(&schema, 0.07, 3, &cpu()).unwrap();
        for name in ["text_proj.weight", "vision_proj.weight", "itm_head.weight"] {
            let shape = params.get(name).unwrap().shape.clone();
            params.insert(name, &shape, vec![3e38; shape.iter().product()]).unwrap();
        }
        let model = Albef::new(&config, &params.frozen(Ops::for_device(&cpu()))).unwrap();
        let vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\ndog\n";
        let model = Pipeline::new(model, params, vocabulary).unwrap();
        let image = RgbImage::filled(30, 20, [10, 200, 90]);
        let images = std::slice::from_ref(&image);
        let labels = ["dog".to_owned()];
        let found = [
            model.embed_text("a dog").err(),
            model.embed_images(images).err(),
            model.match_text(images, "a dog").err(),
            model.classify(&image, &labels, &Default::default()).err(),
            model.ground(&image, "a dog", &Default::default()).err(),
        ];
        for (i, error) in found.into_iter().enumerate() {
            assert!(matches!(error, Some(Error::OutputNotFinite { .. })), "{i}: {error:?}");
        }
    }

    #[test]
    fn a_query_is_the_mean_of_its_templates_and_unknown_words_are_told() {
        let plain = nano();
        assert_eq!(plain.embed_query("dog").unwrap(), plain.embed_text("dog").unwrap());
        let templates = vec!["a {}".into(), "{}".into()];
        let model = nano().with_defaults(ModelDefaults { templates, ..ModelDefaults::default() });
        let found = model.embed_query("dog").unwrap();
        let parts = [model.embed_text("a dog").unwrap(), model.embed_text("dog").unwrap()];
        let sum: Vec<f32> = parts[0].iter().zip(&parts[1]).map(|(a, b)| a + b).collect();
        let length = sum.iter().map(|v| v * v).sum::<f32>().sqrt();
        for (f, s) in found.iter().zip(&sum) {
            assert!((f - s / length).abs() < 1e-6, "{f} {s}");
        }
        assert_eq!(model.query_caption("dog").ids, model.tokens("a dog"));
        assert!(matches!(model.embed_query(" "), Err(Error::EmptyText)));
        assert!(model.is_unknown("zebra xylophone") && !model.is_unknown("a zebra"));
        let image = [RgbImage::filled(30, 20, [10, 200, 90])];
        let (with, without) = (model.match_text(&image, "dog"), plain.match_text(&image, "a dog"));
        assert_eq!(with.unwrap()[0].itm_logit, without.unwrap()[0].itm_logit);
    }

    #[test]
    fn an_empty_text_and_features_of_another_model_are_errors() {
        let model = nano();
        for text in ["", "  \n"] {
            assert!(matches!(model.embed_text(text), Err(Error::EmptyText)), "{text:?}");
        }
        let width = model.embed_dim();
        let features = [vec![0.0; width], vec![0.0; width + 1]];
        let error = model.nearest("a dog", &features, 1).unwrap_err();
        assert!(matches!(error, Error::FeatureWidth { index: 1, .. }), "{error}");
        assert_eq!(model.nearest("a dog", &features[..1], 5).unwrap().len(), 1);
    }
}
