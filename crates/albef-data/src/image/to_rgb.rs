//! From what decoders give to RGB, as Pillow's `convert("RGB")`.

use image::DynamicImage;

use super::{Background, RgbImage};

/// What becomes of 16-bit grey.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gray16 {
    /// Values above 255 become 255, as Pillow's `convert("RGB")` does.
    #[default]
    Clip,
    /// The high byte is kept.
    Scale,
}

/// Alpha is dropped or laid over a color; wide channels keep their high byte, wide gray as asked. Also
/// whether any pixel is transparent.
pub(super) fn to_rgb(
    image: DynamicImage,
    gray16: Gray16,
    background: Background,
) -> (RgbImage, bool) {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let gray = |v: u16| match gray16 {
        Gray16::Clip => v.min(255) as u8,
        Gray16::Scale => high(v),
    };
    let mut transparent = false;
    let mut over = |[r, g, b, alpha]: [u8; 4]| {
        if alpha == 255 {
            return [r, g, b];
        }
        transparent = true;
        let blend = |channel, value| background.blend(channel, value, alpha);
        [blend(0, r), blend(1, g), blend(2, b)]
    };
    let pixels = match image {
        DynamicImage::ImageRgb8(p) => p.into_raw(),
        DynamicImage::ImageLuma8(p) => p.into_raw().iter().flat_map(|v| [*v; 3]).collect(),
        DynamicImage::ImageLumaA8(p) => {
            p.pixels().flat_map(|v| over([v.0[0], v.0[0], v.0[0], v.0[1]])).collect()
        }
        DynamicImage::ImageRgba8(p) => {
            let mut bytes = p.into_raw();
            // In place, as large images would take twice their memory.
            for i in 0..bytes.len() / 4 {
                let pixel = over([0, 1, 2, 3].map(|c| bytes[4 * i + c]));
                bytes[3 * i..3 * i + 3].copy_from_slice(&pixel);
            }
            bytes.truncate(bytes.len() / 4 * 3);
            bytes
        }
        DynamicImage::ImageLuma16(p) => p.pixels().flat_map(|v| [gray(v.0[0]); 3]).collect(),
        DynamicImage::ImageLumaA16(p) => p
            .pixels()
            .flat_map(|v| {
                let value = gray(v.0[0]);
                over([value, value, value, high(v.0[1])])
            })
            .collect(),
        DynamicImage::ImageRgb16(p) => p.pixels().flat_map(|v| v.0.map(high)).collect(),
        DynamicImage::ImageRgba16(p) => p.pixels().flat_map(|v| over(v.0.map(high))).collect(),
        other => other.to_rgb8().into_raw(),
    };
    (RgbImage { width, height, pixels }, transparent)
}

fn high(value: u16) -> u8 {
    (value >> 8) as u8
}
