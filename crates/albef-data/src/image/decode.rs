//! Decoding by content, with Pillow's conversion to RGB.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError as Fault, ImageFormat, ImageReader, RgbaImage};

use super::RgbImage;
use crate::error::{DataError, ImageError, ImageErrorKind as Kind};

/// What becomes of 16-bit grey.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gray16 {
    /// Values above 255 become 255, as Pillow's `convert("RGB")` does.
    #[default]
    Clip,
    /// The high byte is kept.
    Scale,
}

/// How to decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Whether the EXIF orientation is applied. The official code does not.
    pub apply_exif: bool,
    /// Pixels above which a picture is refused, checked before anything is allocated.
    pub max_pixels: u64,
    /// What becomes of 16-bit grey.
    pub gray16: Gray16,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self { apply_exif: false, max_pixels: 178_956_970, gray16: Gray16::Clip }
    }
}

fn error(kind: Kind, detail: impl Into<String>) -> ImageError {
    ImageError { kind, detail: detail.into() }
}

fn classify(fault: &Fault) -> ImageError {
    let text = fault.to_string();
    let lower = text.to_lowercase();
    let cut = ["unexpected eof", "end of file", "failed to fill", "unexpected end", "truncated"];
    let kind = match fault {
        Fault::Limits(_) => Kind::TooLarge,
        Fault::Unsupported(_) => Kind::UnknownFormat,
        _ if cut.iter().any(|c| lower.contains(c)) => Kind::Truncated,
        Fault::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Kind::Truncated,
        _ => Kind::Corrupt,
    };
    error(kind, text)
}

/// Decodes JPEG, PNG, WebP, GIF (first frame) or BMP, told apart by content.
///
/// # Errors
/// Says which class of error it is; never panics, whatever the bytes.
pub fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<RgbImage, ImageError> {
    picture(bytes, options).map(|picture| to_rgb(picture, options.gray16))
}

/// The same with transparency kept, for cut-outs.
///
/// # Errors
/// As [`decode`].
pub fn decode_rgba(bytes: &[u8], options: &DecodeOptions) -> Result<RgbaImage, ImageError> {
    picture(bytes, options).map(DynamicImage::into_rgba8)
}

fn picture(bytes: &[u8], options: &DecodeOptions) -> Result<DynamicImage, ImageError> {
    if bytes.is_empty() {
        return Err(error(Kind::Empty, "the file has no bytes"));
    }
    // Decoders are other people's code and see hostile bytes: a panic there is a broken picture.
    catch_unwind(AssertUnwindSafe(|| known_picture(bytes, options)))
        .unwrap_or_else(|_| Err(error(Kind::Corrupt, "the decoder gave up")))
}

fn known_picture(bytes: &[u8], options: &DecodeOptions) -> Result<DynamicImage, ImageError> {
    let format = image::guess_format(bytes)
        .map_err(|_| error(Kind::UnknownFormat, "not JPEG, PNG, WebP, GIF or BMP"))?;
    if !format.reading_enabled() {
        return Err(error(Kind::UnknownFormat, format!("{format:?} is not supported")));
    }
    if format == ImageFormat::Jpeg && !bytes.windows(2).rev().any(|w| w == [0xff, 0xd9]) {
        return Err(error(Kind::Truncated, "a JPEG without its end"));
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.no_limits();
    let mut decoder = reader.into_decoder().map_err(|e| classify(&e))?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 {
        return Err(error(Kind::Corrupt, format!("{width} x {height} pixels")));
    }
    if pixels > options.max_pixels {
        let limit = options.max_pixels;
        return Err(error(Kind::TooLarge, format!("{width} x {height} pixels, limit {limit}")));
    }
    let orientation = if options.apply_exif {
        decoder.orientation().unwrap_or(Orientation::NoTransforms)
    } else {
        Orientation::NoTransforms
    };
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|e| classify(&e))?;
    picture.apply_orientation(orientation);
    Ok(picture)
}

/// Alpha is dropped, not blended; wide channels keep their high byte, wide grey as asked.
fn to_rgb(picture: DynamicImage, gray16: Gray16) -> RgbImage {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let grey = |v: u16| match gray16 {
        Gray16::Clip => v.min(255) as u8,
        Gray16::Scale => (v >> 8) as u8,
    };
    let pixels = match picture {
        DynamicImage::ImageRgb8(p) => p.into_raw(),
        DynamicImage::ImageLuma8(p) => p.into_raw().iter().flat_map(|v| [*v; 3]).collect(),
        DynamicImage::ImageLumaA8(p) => p.pixels().flat_map(|v| [v.0[0]; 3]).collect(),
        DynamicImage::ImageRgba8(p) => p.pixels().flat_map(|v| [v.0[0], v.0[1], v.0[2]]).collect(),
        DynamicImage::ImageLuma16(p) => p.pixels().flat_map(|v| [grey(v.0[0]); 3]).collect(),
        DynamicImage::ImageLumaA16(p) => p.pixels().flat_map(|v| [grey(v.0[0]); 3]).collect(),
        DynamicImage::ImageRgb16(p) => {
            p.pixels().flat_map(|v| v.0.map(|c| (c >> 8) as u8)).collect()
        }
        DynamicImage::ImageRgba16(p) => {
            p.pixels().flat_map(|v| [v.0[0], v.0[1], v.0[2]].map(|c| (c >> 8) as u8)).collect()
        }
        other => other.to_rgb8().into_raw(),
    };
    RgbImage { width, height, pixels }
}

/// Reads and decodes a file.
///
/// # Errors
/// Names the file and the class of the error.
pub fn open(path: &Path, options: &DecodeOptions) -> Result<RgbImage, DataError> {
    let named = |error| DataError::Image { name: path.display().to_string(), error };
    let bytes = std::fs::read(path).map_err(|e| {
        let missing = e.kind() == std::io::ErrorKind::NotFound;
        named(error(if missing { Kind::NotFound } else { Kind::Io }, e.to_string()))
    })?;
    decode(&bytes, options).map_err(named)
}
