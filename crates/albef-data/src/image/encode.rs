//! Images as files.

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder};

use super::RgbImage;
use crate::error::{ImageError, ImageErrorKind};

/// A JPEG of a quality from 1 to 100.
///
/// # Errors
/// If the image is empty or has a side of more than 65,535 pixels.
pub fn jpeg(image: &RgbImage, quality: u8) -> Result<Vec<u8>, ImageError> {
    jpeg_with_orientation(image, quality, None)
}

/// The same with an orientation in its Exif metadata, from 1 to 8.
///
/// # Errors
/// As [`jpeg`].
pub(crate) fn jpeg_with_orientation(
    image: &RgbImage,
    quality: u8,
    orientation: Option<u8>,
) -> Result<Vec<u8>, ImageError> {
    let fail = |detail: String| ImageError { kind: ImageErrorKind::Unsupported("JPEG"), detail };
    let side = |pixels: usize| u16::try_from(pixels).map(u32::from);
    let (Ok(width), Ok(height)) = (side(image.width), side(image.height)) else {
        return Err(fail(format!("{} x {} pixels are too many", image.width, image.height)));
    };
    let mut out = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut out, quality.clamp(1, 100));
    if let Some(orientation) = orientation {
        encoder.set_exif_metadata(exif(orientation)).map_err(|e| fail(e.to_string()))?;
    }
    encoder
        .encode(&image.pixels, width, height, ExtendedColorType::Rgb8)
        .map_err(|e| fail(e.to_string()))?;
    Ok(out)
}

/// An Exif block with nothing but an orientation.
fn exif(orientation: u8) -> Vec<u8> {
    // The first directory at byte 8, of one entry: the tag, of the kind of short numbers, one, and its value.
    let head = [&b"II*\0"[..], &8_u32.to_le_bytes(), &1_u16.to_le_bytes()].concat();
    let entry =
        [&0x0112_u16.to_le_bytes()[..], &3_u16.to_le_bytes(), &1_u32.to_le_bytes()].concat();
    // No other directory follows.
    [&head[..], &entry, &u32::from(orientation).to_le_bytes(), &[0; 4]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{DecodeOptions, decode};

    #[test]
    fn a_jpeg_is_close_to_its_image() {
        let image = RgbImage::filled(40, 30, [200, 90, 20]);
        let back = decode(&jpeg(&image, 90).unwrap(), &DecodeOptions::default()).unwrap();
        assert_eq!((back.width, back.height), (40, 30));
        assert!(back.pixels.iter().zip(&image.pixels).all(|(a, b)| a.abs_diff(*b) < 8));
        assert!(jpeg(&RgbImage::filled(0, 0, [0; 3]), 90).is_err());
    }
}
