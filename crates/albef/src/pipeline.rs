//! A trained model with its words: all that a program needs which searches pictures by text or says
//! whether a text fits a picture.
//!
//! ```
//! use albef::pipeline::Pipeline;
//! use albef_data::image::{DecodeOptions, open};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # std::env::set_current_dir("../..")?;
//! let model = Pipeline::open("models/mini".as_ref(), &albef::device::open("cpu")?)?;
//! let files = ["1f415.png", "1f697.png"]; // a dog and a car
//! let folder = std::path::Path::new("data/drawings/drawings-val-style/fxemoji");
//! let pictures = files
//!     .iter()
//!     .map(|file| open(&folder.join(file), &DecodeOptions::default()))
//!     .collect::<Result<Vec<_>, _>>()?;
//!
//! // Align: unit-length features, one a picture, to be kept and searched by cosine.
//! let features = model.embed_images(&pictures)?;
//! let (best, cosine) = model.nearest("a dog", &features, 1)?[0];
//!
//! // Fuse: does the text fit the picture?
//! let found = &model.match_text(&pictures[best..=best], "a dog")?[0];
//! println!("picture {best}: cosine {cosine:.2}, match probability {:.2}", found.probability);
//! # assert!((found.cosine - cosine).abs() < 1e-5);
//! # assert!((0.0..=1.0).contains(&found.probability));
//! # Ok(())
//! # }
//! ```

use std::path::Path;

use albef_data::image::{Normalization, RgbImage, resize_bicubic};
use albef_data::text::{Encoded, Tokenizer, Truncation, Vocabulary};
use burn::tensor::{Device, Tensor};

use crate::checkpoint::{Checkpoint, Parts};
use crate::error::Result;
use crate::eval::retrieval::{embed_texts, score_pairs, similarities, top_k};
use crate::model::Albef;
use crate::params::{Params, from_vec, to_vec};
use crate::task::TaskRef;

/// Pictures that are encoded at a time.
const BATCH: usize = 32;

/// A model ready for use. Cheap to share between threads by reference; nothing in it changes.
pub struct Pipeline {
    /// The model on untracked weights.
    pub model: Albef,
    /// Its weights, for derivatives ([`crate::gradcam`]).
    pub params: Params,
    /// Its word pieces.
    pub tokenizer: Tokenizer,
    /// Patches along the side of an image, in the file and in the model, where position tables were
    /// interpolated on opening.
    pub interpolated: Option<(usize, usize)>,
    vocabulary: String,
}

/// How well a text fits a picture.
#[derive(Clone, Copy, Debug, PartialEq)]
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
    /// Up to where captions are read, as in the official evaluation of retrieval.
    pub const TRUNCATION: Truncation = Truncation { words: 30, ids: 30 };

    /// Opens a model folder or a checkpoint file of pre-training or retrieval.
    ///
    /// # Errors
    /// If a file is missing or damaged, or belongs to another task.
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        Self::open_at(path, None, device)
    }

    /// The same for pictures of `image_res` pixels along a side, a multiple of the patch size, if not
    /// those of the model. Its position table is interpolated as for fine-tuning.
    ///
    /// # Errors
    /// As [`Pipeline::open`], or if the resolution does not fit the model.
    pub fn open_at(path: &Path, image_res: Option<usize>, device: &Device) -> Result<Self> {
        let accepted = [TaskRef::pretrain(), TaskRef::named("retrieval")?];
        let loaded =
            Checkpoint::open(path)?.at(image_res)?.load(&accepted, device, Parts::Inference)?;
        let mut out = Self::of(loaded.albef()?, loaded.online, &loaded.vocabulary)?;
        out.interpolated = loaded.report.resized;
        Ok(out)
    }

    /// A model at hand with its weights and word pieces, one per line.
    ///
    /// # Errors
    /// If the word pieces lack a special one.
    pub fn of(model: Albef, params: Params, vocabulary: &str) -> Result<Self> {
        let tokenizer = Tokenizer::new(Vocabulary::from_text(vocabulary)?);
        let vocabulary = vocabulary.to_owned();
        Ok(Self { model, params, tokenizer, interpolated: None, vocabulary })
    }

    /// A caption as retrieval cleans and cuts it ([`Pipeline::TRUNCATION`]).
    #[must_use]
    pub fn caption(&self, text: &str) -> Encoded {
        self.tokenizer.caption(text, Self::TRUNCATION)
    }

    /// The ids of [`Pipeline::caption`], at most 30.
    #[must_use]
    pub fn tokens(&self, text: &str) -> Vec<u32> {
        self.caption(text).ids
    }

    /// Up to where a phrase to ground is read: it is not cut short of the model's own limit.
    #[must_use]
    pub fn phrase_limits(&self) -> Truncation {
        Truncation { ids: self.model.config.text.max_positions, ..Self::TRUNCATION }
    }

    /// A phrase to ground ([`Pipeline::phrase_limits`]).
    #[must_use]
    pub fn phrase(&self, text: &str) -> Encoded {
        self.tokenizer.caption(text, self.phrase_limits())
    }

    /// A word piece as text; empty beyond the list.
    #[must_use]
    pub fn piece(&self, id: u32) -> &str {
        self.vocabulary.lines().nth(id as usize).unwrap_or_default()
    }

    /// The unit-length feature of a text, `embed_dim` values.
    ///
    /// # Errors
    /// Never for a consistent model.
    pub fn embed_text(&self, text: &str) -> Result<Vec<f32>> {
        embed_texts(&self.model, &[self.tokens(text)], 1)
    }

    /// Unit-length features of pictures of any size, `embed_dim` values each.
    ///
    /// # Errors
    /// Never for a consistent model.
    pub fn embed_images(&self, images: &[RgbImage]) -> Result<Vec<Vec<f32>>> {
        let mut features = Vec::with_capacity(images.len());
        for part in images.chunks(BATCH) {
            let states = self.model.encoders.visual_encoder.forward(self.pixels(part))?;
            let rows = to_vec(self.model.encoders.image_feat(&states));
            features.extend(rows.chunks(self.model.config.embed_dim).map(<[f32]>::to_vec));
        }
        Ok(features)
    }

    /// The `k` features with the largest cosine to a text, best first, ties to the lower index.
    ///
    /// # Errors
    /// Never for features of this model.
    pub fn nearest(
        &self,
        text: &str,
        features: &[Vec<f32>],
        k: usize,
    ) -> Result<Vec<(usize, f32)>> {
        let query = self.embed_text(text)?;
        let cosines: Vec<f32> =
            features.iter().map(|f| query.iter().zip(f).map(|(a, b)| a * b).sum()).collect();
        Ok(top_k(&cosines, k).into_iter().map(|i| (i, cosines[i])).collect())
    }

    /// How well a text fits each picture, by both stages.
    ///
    /// # Errors
    /// Never for a consistent model.
    pub fn match_text(&self, images: &[RgbImage], text: &str) -> Result<Vec<Match>> {
        let (tokens, query) = ([self.tokens(text)], self.embed_text(text)?);
        let mut found = Vec::with_capacity(images.len());
        for part in images.chunks(BATCH) {
            let states = self.model.encoders.visual_encoder.forward(self.pixels(part))?;
            let cosines = similarities(&query, &to_vec(self.model.encoders.image_feat(&states)));
            let pairs: Vec<(usize, usize)> = (0..part.len()).map(|i| (i, 0)).collect();
            let logits = score_pairs(&self.model, &tokens, &pairs, 1, &states)?;
            found.extend(cosines.into_iter().zip(logits).map(|(cosine, logits)| Match {
                cosine,
                itm_logit: logits[1],
                probability: match_probability(logits),
            }));
        }
        Ok(found)
    }

    /// Normalised pixels `[n, 3, S, S]`, each picture squeezed to the model's square as in evaluation.
    fn pixels(&self, images: &[RgbImage]) -> Tensor<4> {
        let size = self.model.config.vision.image_res;
        let plane = 3 * size * size;
        let mut pixels = vec![0.0; images.len() * plane];
        for (image, out) in images.iter().zip(pixels.chunks_mut(plane.max(1))) {
            Normalization::default().to_chw(&resize_bicubic(image, size, size), out);
        }
        from_vec(pixels, [images.len(), 3, size, size], self.params.device())
    }
}
