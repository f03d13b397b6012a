//! Decoding by content, with Pillow's conversion to RGB.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::metadata::Orientation;
use image::{
    DynamicImage, ImageDecoder, ImageError as Fault, ImageFormat, ImageReader, Limits, RgbaImage,
};

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
    /// Pixels above which a picture is refused, checked before anything of that size is allocated.
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

/// Bytes of a pixel of four channels of 16 bits, the widest there is.
const WIDEST_PIXEL: u64 = 8;
/// Room for what a file holds beside its pixels, such as a colour profile.
const EXTRAS: u64 = 64 << 20;

fn limited_to(bytes: u64) -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(bytes);
    limits
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
    reader
        .limits(limited_to(options.max_pixels.saturating_mul(WIDEST_PIXEL).saturating_add(EXTRAS)));
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
    if format == ImageFormat::Gif {
        // A frame may be larger than the screen that was checked.
        let frame =
            options.max_pixels.saturating_mul(decoder.color_type().bytes_per_pixel().into());
        decoder.set_limits(limited_to(frame)).map_err(|e| classify(&e))?;
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

/// Height and width of an encoded image, from its header.
pub(crate) fn image_size(bytes: &[u8]) -> Result<(usize, usize), ImageError> {
    let format = image::guess_format(bytes)
        .map_err(|_| error(Kind::UnknownFormat, "not JPEG, PNG, WebP, GIF or BMP"))?;
    let read = || ImageReader::with_format(Cursor::new(bytes), format).into_dimensions();
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(size) => size.map(|(w, h)| (h as usize, w as usize)).map_err(|e| classify(&e)),
        Err(_) => Err(error(Kind::Corrupt, "the decoder gave up")),
    }
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

/// Why a picture cannot be read.
pub(crate) fn fail(e: std::io::Error) -> ImageError {
    let kind = match e.kind() {
        std::io::ErrorKind::NotFound => Kind::NotFound,
        std::io::ErrorKind::UnexpectedEof => Kind::Truncated,
        _ => Kind::Io,
    };
    error(kind, e.to_string())
}

/// Reading a pipe or device could wait for ever.
pub(crate) fn plain_file(path: &Path) -> Result<(), ImageError> {
    if std::fs::metadata(path).map_err(fail)?.is_file() {
        return Ok(());
    }
    Err(error(Kind::Io, "not a plain file"))
}

/// The bytes of a picture's file.
pub(crate) fn read_picture(path: &Path) -> Result<Vec<u8>, ImageError> {
    plain_file(path)?;
    std::fs::read(path).map_err(fail)
}

/// Reads and decodes a file.
///
/// # Errors
/// Names the file and the class of the error.
pub fn open(path: &Path, options: &DecodeOptions) -> Result<RgbImage, DataError> {
    read_picture(path)
        .and_then(|bytes| decode(&bytes, options))
        .map_err(|error| DataError::Image { name: path.display().to_string(), error })
}

#[cfg(test)]
mod tests {
    use image::codecs::gif::GifEncoder;

    use super::*;

    /// A GIF whose screen is `screen` wide and high, and its frame `frame`.
    fn gif(screen: u16, frame: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        let picture = vec![200; usize::from(frame).pow(2) * 4];
        GifEncoder::new(&mut bytes)
            .encode(&picture, frame.into(), frame.into(), image::ExtendedColorType::Rgba8)
            .unwrap();
        bytes[6..8].copy_from_slice(&screen.to_le_bytes());
        bytes[8..10].copy_from_slice(&screen.to_le_bytes());
        bytes
    }

    #[test]
    fn a_frame_larger_than_its_screen_counts_against_the_limit() {
        let limited = |max_pixels| DecodeOptions { max_pixels, ..DecodeOptions::default() };
        let decoded = decode(&gif(4, 20), &limited(400)).unwrap();
        assert_eq!((decoded.width, decoded.height, decoded.pixels.len()), (4, 4, 48));
        assert_eq!(decode(&gif(4, 20), &limited(399)).unwrap_err().kind, Kind::TooLarge);
        let mut hostile = gif(4, 20);
        let frame = hostile.windows(5).position(|w| w == [0x2c, 0, 0, 0, 0]).unwrap();
        hostile[frame + 5..frame + 9].fill(0xff);
        let refused = decode(&hostile, &DecodeOptions::default()).unwrap_err();
        assert_eq!(refused.kind, Kind::TooLarge, "{refused}");
    }

    #[test]
    fn a_low_limit_of_pixels_still_takes_small_pictures() {
        let options = DecodeOptions { max_pixels: 12, ..DecodeOptions::default() };
        let png = crate::scenes::png(&RgbImage::filled(4, 3, [1, 2, 3])).unwrap();
        assert_eq!(decode(&png, &options).unwrap(), RgbImage::filled(4, 3, [1, 2, 3]));
        let png = crate::scenes::png(&RgbImage::filled(4, 4, [1, 2, 3])).unwrap();
        assert_eq!(decode(&png, &options).unwrap_err().kind, Kind::TooLarge);
    }
}
