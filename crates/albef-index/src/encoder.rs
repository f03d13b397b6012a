//! What makes vectors of images; the index knows no model.

use albef_data::image::{ImageReader, RgbImage};

use crate::embedded::Identity;
use crate::record::ContentHash;

/// What makes vectors of images. Threads share it.
pub trait Encoder: Send + Sync {
    /// What the vectors are of. Encoders of one fingerprint give one vector for one file.
    fn identity(&self) -> Identity;

    /// How files become pixels.
    fn reader(&self) -> &ImageReader;

    /// What [`Encoder::encode`] takes of an image: resized and normalized. Called by several threads.
    fn prepare(&self, image: &RgbImage) -> Vec<f32>;

    /// Unit-length vectors of prepared images, `[images, width]`. `contents`: the hashes of their files, for what
    /// keeps more than vectors.
    ///
    /// # Errors
    /// In words, if encoding fails as a whole.
    fn encode(&self, prepared: &[Vec<f32>], contents: &[ContentHash]) -> Result<Vec<f32>, String>;
}
