//! Pixels: decoding, resizing, augmentation, normalisation (spec `data` section 5).

mod augment;
mod decode;
mod resize;
mod transform;

pub use augment::{Op, ReferenceQuirks, apply, signed};
pub use decode::{DecodeOptions, Gray16, decode, decode_rgba, open};
pub use resize::resize_bicubic;
pub use transform::{
    CropDraws, Normalization, RandAugment, TrainTransform, crop, flip_horizontal,
    random_resized_crop_box,
};

/// An RGB picture of 8 bits a channel, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `width * height * 3` bytes.
    pub pixels: Vec<u8>,
}

impl RgbImage {
    /// A picture of one colour.
    #[must_use]
    pub fn filled(width: usize, height: usize, colour: [u8; 3]) -> Self {
        Self { width, height, pixels: colour.repeat(width * height) }
    }

    /// The colour of a pixel inside the picture.
    #[must_use]
    pub fn at(&self, x: usize, y: usize) -> [u8; 3] {
        let i = (y * self.width + x) * 3;
        [self.pixels[i], self.pixels[i + 1], self.pixels[i + 2]]
    }
}
