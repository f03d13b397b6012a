//! HEIC, as phones write it.

use heic_rs::PixelLayout;
use image::{DynamicImage, RgbImage, RgbaImage};

use super::header::Header;
use super::header::heic::fault;
use super::options::DecodeOptions;
use crate::error::{ImageError, ImageErrorKind as Kind};

/// The image of a file, turned as it says.
pub(super) fn decode(
    header: &Header<'_>,
    options: &DecodeOptions,
) -> Result<DynamicImage, ImageError> {
    let info = heic_rs::probe(&header.bytes).map_err(|e| fault(&e))?;
    let layout = if info.has_alpha { PixelLayout::Rgba8 } else { PixelLayout::Rgb8 };
    let mut how = heic_rs::DecodeOptions::default().with_layout(layout);
    how.max_pixels = Some(options.max_pixels);
    how.threads = Some(1);
    let found = heic_rs::decode(&header.bytes, &how).map_err(|e| fault(&e))?;
    let (width, height) = (found.width, found.height);
    let image = match info.has_alpha {
        true => RgbaImage::from_raw(width, height, found.data).map(DynamicImage::ImageRgba8),
        false => RgbImage::from_raw(width, height, found.data).map(DynamicImage::ImageRgb8),
    };
    image
        .ok_or_else(|| ImageError::new(Kind::Corrupt, "the decoder gave other pixels than it said"))
}
