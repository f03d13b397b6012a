//! AVIF: images as frames of AV1 in a container of boxes.

mod av1;
mod boxes;
mod color;
mod frame;
mod layout;

use image::{DynamicImage, RgbImage, RgbaImage};

use self::frame::Frame;
pub(super) use self::layout::{Layout, layout};
use self::layout::{Part, Tiles};
use super::header::Header;
use crate::error::{ImageError, ImageErrorKind as Kind};
use crate::image::options::DecodeOptions;

/// The image of a file, not yet turned.
pub(super) fn decode(
    header: &Header<'_>,
    options: &DecodeOptions,
) -> Result<DynamicImage, ImageError> {
    let found = layout(&header.bytes)?;
    let (width, height) = (found.width, found.height);
    let frame = part(&found.color, &found, options)?;
    let alpha = match &found.alpha {
        Some(alpha) => Some(part(alpha, &found, options)?.opacity()),
        None => None,
    };
    let image = match alpha {
        Some(mut alpha) => {
            let mut pixels = color::rgba(&frame, found.colors, &alpha)?;
            alpha.clear();
            if found.premultiplied {
                color::unpremultiply(&mut pixels);
            }
            RgbaImage::from_raw(width, height, pixels).map(DynamicImage::ImageRgba8)
        }
        None => RgbImage::from_raw(width, height, color::rgb(&frame, found.colors)?)
            .map(DynamicImage::ImageRgb8),
    };
    image
        .ok_or_else(|| ImageError::new(Kind::Corrupt, "the decoder gave other pixels than it said"))
}

/// One frame, or the frames of a grid put together, so that colors are interpolated across the borders of its tiles.
fn part(part: &Part<'_>, found: &Layout<'_>, options: &DecodeOptions) -> Result<Frame, ImageError> {
    let Tiles { columns, rows, width, height } = part.tiles;
    let all = u64::from(columns) * u64::from(width) * u64::from(rows) * u64::from(height);
    if all > options.max_pixels {
        let detail = format!("tiles of {all} pixels, limit {}", options.max_pixels);
        return Err(ImageError::new(Kind::TooLarge, detail));
    }
    let mut decoder = av1::Decoder::new(width, height, part.operating_point)?;
    if let [data] = &part.data[..] {
        let frame = decoder.frame(data)?;
        return match (found.width, found.height) == (width, height) {
            true => Ok(frame),
            false => Ok(Frame::like(&frame, found.width, found.height).with(&frame, 0, 0)),
        };
    }
    let mut whole: Option<Frame> = None;
    for (data, at) in part.data.iter().zip(0..) {
        let tile = decoder.frame(data)?;
        let into = match whole.take() {
            Some(into) if into.is_like(&tile) => into,
            Some(_) => return Err(ImageError::new(Kind::Corrupt, "tiles of different kinds")),
            None => Frame::like(&tile, found.width, found.height),
        };
        whole = Some(into.with(&tile, at % columns * width, at / columns * height));
    }
    whole.ok_or_else(|| ImageError::new(Kind::Corrupt, "a grid without tiles"))
}
