//! The encoder of an index: the image side of a model.

use std::sync::{Arc, Mutex, PoisonError};

use albef_data::image::{ImageReader, Normalization, RgbImage, resize_bicubic};
use albef_index::{ContentHash, Encoder, Identity, KeptStates};
use burn::tensor::Tensor;

use crate::error::{Error, Result};
use crate::fingerprint::fingerprint;
use crate::model::ImageStates;
use crate::params::{from_vec, outputs, to_vec};
use crate::pipeline::Pipeline;

/// A model as the encoder of an index. Making one reads all weights once, for their hash.
pub struct IndexEncoder<'a> {
    model: &'a Pipeline,
    identity: Identity,
    kept: Mutex<Option<Arc<KeptStates>>>,
}

impl std::fmt::Debug for IndexEncoder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IndexEncoder").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl<'a> IndexEncoder<'a> {
    /// The encoder of a model with its way to read images.
    #[must_use]
    pub fn new(model: &'a Pipeline) -> Self {
        let vision = &model.config().vision;
        let identity = Identity {
            fingerprint: fingerprint(model),
            model: format!(
                "ViT of {} layers, {} wide, images of {} pixels",
                vision.depth, vision.width, vision.image_res
            ),
            width: model.embed_dim(),
        };
        Self { model, identity, kept: Mutex::new(None) }
    }

    /// Keeps the states of images that are encoded from now on, and re-ranks by those that are kept; `None` ends it.
    pub fn keep_states(&self, states: Option<KeptStates>) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = states.map(Arc::new);
    }

    /// The states that are kept.
    #[must_use]
    pub fn kept_states(&self) -> Option<Arc<KeptStates>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tokens of an image, and their width.
    pub(super) fn size_of_states(&self) -> [usize; 2] {
        let vision = &self.model.config().vision;
        [vision.tokens(), vision.width]
    }

    fn pixels(&self, prepared: &[Vec<f32>]) -> Tensor<4> {
        let size = self.model.image_res();
        from_vec(prepared.concat(), [prepared.len(), 3, size, size], self.model.device())
    }

    /// The states of prepared images, which are kept where that is wanted.
    pub(super) fn states(
        &self,
        prepared: &[Vec<f32>],
        contents: &[ContentHash],
    ) -> Result<ImageStates> {
        let encoder = &self.model.model().encoders.visual_encoder;
        let states = encoder.forward(self.pixels(prepared))?;
        if let Some(kept) = self.kept_states() {
            let values = to_vec(states.tokens.clone());
            let of_image = values.len() / contents.len().max(1);
            let mut saved = contents.iter().zip(values.chunks(of_image.max(1)));
            // They are made again when they are needed; the index itself is not affected.
            if let Err(error) = saved.try_for_each(|(content, values)| kept.save(content, values)) {
                tracing::warn!("image states are not kept: {error}");
                self.keep_states(None);
            }
        }
        Ok(states)
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &'a Pipeline {
        self.model
    }
}

impl Encoder for IndexEncoder<'_> {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn reader(&self) -> &ImageReader {
        self.model.reader()
    }

    fn prepare(&self, image: &RgbImage) -> Vec<f32> {
        let size = self.model.image_res();
        let mut pixels = vec![0.0; 3 * size * size];
        let image = resize_bicubic(image, size, size, self.model.reader().options.resize_order);
        Normalization::default().to_chw(&image, &mut pixels);
        pixels
    }

    fn encode(
        &self,
        prepared: &[Vec<f32>],
        contents: &[ContentHash],
    ) -> std::result::Result<Vec<f32>, String> {
        let features = || {
            self.model.needs_contrast()?;
            let states = self.states(prepared, contents)?;
            outputs(self.model.model().encoders.image_feat(&states), "image features")
        };
        features().map_err(|e: Error| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use albef_data::image::{Background, DecodeOptions};

    use super::*;
    use crate::pipeline::tests::nano;

    #[test]
    fn vectors_are_those_of_the_model() {
        let model = nano();
        let encoder = IndexEncoder::new(&model);
        let images: Vec<RgbImage> =
            (0..3).map(|i| RgbImage::filled(20 + i, 24, [40, 200, 30 * i as u8])).collect();
        let prepared: Vec<Vec<f32>> = images.iter().map(|image| encoder.prepare(image)).collect();
        let expected = model.embed_images(&images).unwrap().concat();
        assert_eq!(encoder.encode(&prepared, &[[0; 32]; 3]).unwrap(), expected);
        assert_eq!(expected.len(), 3 * encoder.identity().width);
    }

    #[test]
    fn the_fingerprint_is_of_weights_and_preprocessing() {
        let fingerprint = |model: &Pipeline| IndexEncoder::new(model).identity().fingerprint;
        let of =
            |options: DecodeOptions| fingerprint(&nano().with_reader(ImageReader::new(options)));
        let plain = fingerprint(&nano());
        assert_eq!((plain.len(), of(DecodeOptions::default())), (64, plain.clone()));
        // It does not change what an image becomes.
        let limit = DecodeOptions { max_pixels: 5, ..DecodeOptions::default() };
        assert_eq!(of(limit), plain);
        let white = DecodeOptions { background: Background::WHITE, ..DecodeOptions::default() };
        assert_ne!(of(white), plain);
        assert_ne!(of(DecodeOptions::own_images()), plain);
    }
}
