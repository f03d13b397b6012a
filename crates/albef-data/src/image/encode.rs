//! Images as files.

use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;

use super::RgbImage;
use crate::error::{ImageError, ImageErrorKind};

/// A JPEG of a quality from 1 to 100.
///
/// # Errors
/// If the image is empty or has a side of more than 65,535 pixels.
pub fn jpeg(image: &RgbImage, quality: u8) -> Result<Vec<u8>, ImageError> {
    let fail = |detail: String| ImageError { kind: ImageErrorKind::Unsupported("JPEG"), detail };
    let side = |pixels: usize| u16::try_from(pixels).map(u32::from);
    let (Ok(width), Ok(height)) = (side(image.width), side(image.height)) else {
        return Err(fail(format!("{} x {} pixels are too many", image.width, image.height)));
    };
    let mut out = Vec::new();
    JpegEncoder::new_with_quality(&mut out, quality.clamp(1, 100))
        .encode(&image.pixels, width, height, ExtendedColorType::Rgb8)
        .map_err(|e| fail(e.to_string()))?;
    Ok(out)
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
