//! Pixels: decoding, resizing, augmentation, normalisation.

mod augment;
#[cfg(feature = "avif")]
mod avif;
mod background;
mod bmp;
mod decode;
mod encode;
mod gif;
mod header;
#[cfg(feature = "heic")]
mod heic;
mod jpeg;
mod look;
mod options;
mod png;
mod reader;
mod resize;
mod sniff;
mod tiff;
mod to_rgb;
mod transform;

pub use augment::{Op, ReferenceQuirks, apply, signed};
pub use background::Background;
pub use decode::{decode, decode_noted, decode_rgba, open, open_noted};
pub(crate) use decode::{fail, image_size, orientation, plain_file, read_image};
pub use encode::jpeg;
pub(crate) use encode::jpeg_with_orientation;
pub use look::{Look, cell_means};
pub use options::{DecodeOptions, ImageNotes, TruncatedImages};
pub use reader::{ImageReader, NoteCounts};
pub use resize::{ResizeOrder, resize_bicubic};
pub(crate) use sniff::{Content, Format, HEAD, content, not_supported, unread};
pub use to_rgb::Gray16;
pub use transform::{
    CropDraws, Normalization, RandAugment, TrainTransform, crop, flip_horizontal,
    random_resized_crop_box,
};

/// An RGB image of 8 bits a channel, row by row. Width and height may be 0: such an image has no
/// pixels, and every function here takes it.
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
    /// An image of these pixels; `None` unless there are `width * height * 3` bytes.
    #[must_use]
    pub fn new(width: usize, height: usize, pixels: Vec<u8>) -> Option<Self> {
        let size = width.checked_mul(height)?.checked_mul(3)?;
        (pixels.len() == size).then_some(Self { width, height, pixels })
    }

    /// Whether there are no pixels.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.width == 0 || self.height == 0
    }

    /// An image of one colour.
    #[must_use]
    pub fn filled(width: usize, height: usize, colour: [u8; 3]) -> Self {
        Self { width, height, pixels: colour.repeat(width * height) }
    }

    /// The colour of a pixel inside the image.
    #[must_use]
    pub fn at(&self, x: usize, y: usize) -> [u8; 3] {
        let i = (y * self.width + x) * 3;
        [self.pixels[i], self.pixels[i + 1], self.pixels[i + 2]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    #[test]
    fn images_without_pixels_pass_through_everything() {
        for (width, height) in [(0, 0), (0, 3), (3, 0)] {
            let empty = RgbImage::filled(width, height, [9; 3]);
            assert!(empty.is_empty());
            assert_eq!(flip_horizontal(&empty), empty);
            for op in Op::OFFICIAL.into_iter().chain([
                Op::Solarize,
                Op::Color,
                Op::Contrast,
                Op::Posterize,
            ]) {
                assert_eq!(apply(op, &empty, 7.0, true, ReferenceQuirks::default()), empty);
            }
            assert_eq!(
                resize_bicubic(&empty, 4, 2, ResizeOrder::default()),
                RgbImage::filled(4, 2, [0; 3])
            );
            assert!(crop(&empty, 1, 1, 2, 2).pixels.is_empty());
            let mut stream = Stream::new(1, "crop", &[]);
            let whole = random_resized_crop_box(width, height, (0.2, 1.0), (0.7, 1.4), &mut stream);
            assert_eq!(whole, [0, 0, height, width]);
            let full = RgbImage::filled(4, 2, [7; 3]);
            assert!(resize_bicubic(&full, width, height, ResizeOrder::default()).pixels.is_empty());
            let transform = TrainTransform {
                size: 4,
                crop_scale: (0.2, 1.0),
                flip: true,
                rand_augment: Some(RandAugment { n: 8, m: 7.0 }),
                quirks: ReferenceQuirks::default(),
                resize_order: ResizeOrder::default(),
            };
            assert_eq!(transform.apply(&empty, &mut stream).pixels.len(), 48);
            let none = TrainTransform { size: 0, ..transform };
            assert!(none.apply(&RgbImage::filled(4, 2, [7; 3]), &mut stream).is_empty());
        }
    }

    #[test]
    fn an_image_has_as_many_bytes_as_its_size_says() {
        assert_eq!(RgbImage::new(2, 1, vec![5; 6]), Some(RgbImage::filled(2, 1, [5; 3])));
        assert!(RgbImage::new(0, 9, Vec::new()).is_some());
        assert_eq!(RgbImage::new(2, 1, vec![5; 5]), None);
        assert_eq!(RgbImage::new(usize::MAX, 2, vec![5; 6]), None);
    }
}
