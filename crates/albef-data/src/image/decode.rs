//! Decoding by content, with Pillow's conversion to RGB.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::metadata::Orientation;
use image::{
    DynamicImage, ImageDecoder, ImageError as Fault, ImageFormat, ImageReader, Limits, RgbaImage,
};

use super::header::{self, Header};
use super::options::{DecodeOptions, ImageNotes, TruncatedImages};
use super::sniff::{self, Format};
use super::to_rgb::Gray16;
use super::{RgbImage, to_rgb};
use crate::error::{DataError, ImageError, ImageErrorKind as Kind};

fn classify(fault: &Fault, format: Format) -> ImageError {
    let text = fault.to_string();
    let lower = text.to_lowercase();
    let cut = ["unexpected eof", "end of file", "failed to fill", "unexpected end", "truncated"];
    let name = format.name();
    let text = match fault {
        Fault::Unsupported(_) => {
            format!("a {name} of a kind that is not read ({text}); convert it to JPEG or PNG")
        }
        Fault::IoError(_) if lower.contains("failed to fill") => {
            "the file ends before the image does".into()
        }
        _ => text,
    };
    let kind = match fault {
        Fault::Limits(_) => Kind::TooLarge,
        Fault::Unsupported(_) => Kind::Unsupported(name),
        _ if cut.iter().any(|c| lower.contains(c)) => Kind::Truncated,
        Fault::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Kind::Truncated,
        _ => Kind::Corrupt,
    };
    ImageError::new(kind, text)
}

/// Decodes JPEG, PNG, WebP, GIF (first frame), BMP or TIFF (first page), told apart by content.
///
/// # Errors
/// Says which class of error it is; never panics, whatever the bytes.
pub fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<RgbImage, ImageError> {
    decode_noted(bytes, options).map(|(image, _)| image)
}

/// [`decode`], with what a user may want to know of the image.
///
/// # Errors
/// As [`decode`].
pub fn decode_noted(
    bytes: &[u8],
    options: &DecodeOptions,
) -> Result<(RgbImage, ImageNotes), ImageError> {
    let (image, mut notes, gray16) = dynamic_image(bytes, options)?;
    let (image, transparent) = to_rgb::to_rgb(image, gray16, options.background);
    notes.transparent = transparent;
    Ok((image, notes))
}

/// The same with transparency kept, for cut-outs.
///
/// # Errors
/// As [`decode`].
pub fn decode_rgba(bytes: &[u8], options: &DecodeOptions) -> Result<RgbaImage, ImageError> {
    dynamic_image(bytes, options).map(|(image, ..)| image.into_rgba8())
}

/// Bytes of a pixel of four channels of 16 bits, the widest there is.
const WIDEST_PIXEL: u64 = 8;
/// Room for what a file holds beside its pixels, such as a colour profile.
const EXTRAS: u64 = 64 << 20;

fn dynamic_image(
    bytes: &[u8],
    options: &DecodeOptions,
) -> Result<(DynamicImage, ImageNotes, Gray16), ImageError> {
    let format = sniff::format(bytes)?;
    // Decoders are other people's code and see hostile bytes: a panic there is a broken image.
    catch_unwind(AssertUnwindSafe(|| of_format(format, bytes, options)))
        .unwrap_or_else(|_| Err(ImageError::new(Kind::Corrupt, "the decoder gave up")))
}

fn of_format(
    format: Format,
    bytes: &[u8],
    options: &DecodeOptions,
) -> Result<(DynamicImage, ImageNotes, Gray16), ImageError> {
    let fill = options.truncated == TruncatedImages::Fill;
    let mut header = header::read(format, bytes, fill)?;
    check_size(header.width, header.height, options)?;
    let mut image = match format {
        Format::Gif => super::gif::first_frame(&header)?,
        Format::Png => {
            let (image, filled) = super::png::decode(&header, decoder_limit(options), fill)?;
            header.filled = filled;
            image
        }
        Format::Jpeg => {
            let mut image = decoded(ImageFormat::Jpeg, format, &header, options)?;
            super::jpeg::gray_what_is_missing(&mut image, &header.bytes, header.filled);
            image
        }
        Format::WebP => decoded(ImageFormat::WebP, format, &header, options)?,
        Format::Bmp => super::bmp::decode(&header)?,
        Format::Tiff => match &header.page {
            Some(page) => super::tiff::decode(&header, page, decoder_limit(options))?,
            None => return Err(ImageError::new(Kind::Corrupt, "a TIFF without a page")),
        },
        #[cfg(feature = "heic")]
        Format::Heic => super::heic::decode(&header, options)?,
        #[cfg(feature = "avif")]
        Format::Avif => super::avif::decode(&header, options)?,
    };
    let orientation = header.orientation.unwrap_or(Orientation::NoTransforms);
    // Pillow turns a TIFF as it loads it; the orientation of other formats is left to the caller.
    if options.exif_orientation || format == Format::Tiff {
        image.apply_orientation(orientation);
    }
    let notes = ImageNotes {
        oriented: orientation != Orientation::NoTransforms && format != Format::Tiff,
        transparent: false,
        animated: header.animated,
        truncated: header.filled,
    };
    // Gray with an alpha channel keeps its high byte in Pillow, whatever becomes of plain gray.
    let gray16 = if header.gray_alpha16 { Gray16::Scale } else { options.gray16 };
    Ok((image, notes, gray16))
}

/// Height and width of an encoded image, from its header.
pub(crate) fn image_size(bytes: &[u8]) -> Result<(usize, usize), ImageError> {
    let format = sniff::format(bytes)?;
    let mut header = header::read(format, bytes, false)?;
    let turned = header.orientation.is_some_and(|o| o.to_exif() >= 5);
    if format == Format::Tiff && turned {
        std::mem::swap(&mut header.width, &mut header.height);
    }
    let side = |pixels: u64| {
        usize::try_from(pixels)
            .map_err(|_| ImageError::new(Kind::TooLarge, format!("{pixels} pixels")))
    };
    Ok((side(header.height)?, side(header.width)?))
}

/// The number of the orientation that an image has in its metadata and that decoding leaves to the caller, if it is
/// not the usual one.
pub(crate) fn orientation(bytes: &[u8], options: &DecodeOptions) -> Result<Option<u8>, ImageError> {
    let format = sniff::format(bytes)?;
    let header = header::read(format, bytes, options.truncated == TruncatedImages::Fill)?;
    let left = |o: &Orientation| *o != Orientation::NoTransforms && format != Format::Tiff;
    Ok(header.orientation.filter(left).map(Orientation::to_exif))
}

/// Refuses images of more pixels than are allowed.
fn check_size(width: u64, height: u64, options: &DecodeOptions) -> Result<(), ImageError> {
    let size = format!("{width} x {height} pixels");
    if width == 0 || height == 0 {
        return Err(ImageError::new(Kind::Corrupt, size));
    }
    if width.saturating_mul(height) > options.max_pixels {
        return Err(ImageError::new(
            Kind::TooLarge,
            format!("{size}, limit {}", options.max_pixels),
        ));
    }
    if width.max(height) > DecodeOptions::MAX_SIDE {
        return Err(ImageError::new(
            Kind::TooLarge,
            format!("{size}, limit of a side {}", DecodeOptions::MAX_SIDE),
        ));
    }
    Ok(())
}

/// Bytes that a decoder may take.
fn decoder_limit(options: &DecodeOptions) -> u64 {
    options.max_pixels.saturating_mul(WIDEST_PIXEL).saturating_add(EXTRAS)
}

fn decoded(
    by: ImageFormat,
    format: Format,
    header: &Header<'_>,
    options: &DecodeOptions,
) -> Result<DynamicImage, ImageError> {
    let mut reader = ImageReader::with_format(Cursor::new(&header.bytes), by);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(decoder_limit(options));
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(|e| classify(&e, format))?;
    let (width, height) = decoder.dimensions();
    check_size(width.into(), height.into(), options)?;
    let image = DynamicImage::from_decoder(decoder).map_err(|e| classify(&e, format))?;
    match header.frame {
        Some([left, top])
            if (u64::from(width), u64::from(height)) != (header.width, header.height) =>
        {
            Ok(on_canvas(image, header, left, top))
        }
        _ => Ok(image),
    }
}

/// A frame on its canvas, which is transparent black.
fn on_canvas(frame: DynamicImage, header: &Header<'_>, left: usize, top: usize) -> DynamicImage {
    let (width, height) = (header.width as u32, header.height as u32);
    let mut canvas = RgbaImage::new(width, height);
    image::imageops::replace(&mut canvas, &frame.into_rgba8(), left as i64, top as i64);
    DynamicImage::ImageRgba8(canvas)
}

/// Why an image cannot be read.
pub(crate) fn fail(e: std::io::Error) -> ImageError {
    let kind = match e.kind() {
        std::io::ErrorKind::NotFound => Kind::NotFound,
        std::io::ErrorKind::UnexpectedEof => Kind::Truncated,
        _ => Kind::Io,
    };
    ImageError::new(kind, e.to_string())
}

/// Reading a pipe or device could wait for ever.
pub(crate) fn plain_file(path: &Path) -> Result<(), ImageError> {
    if std::fs::metadata(path).map_err(fail)?.is_file() {
        return Ok(());
    }
    Err(ImageError::new(Kind::Io, "it is no regular file; name an image"))
}

/// The bytes of an image's file.
pub(crate) fn read_image(path: &Path) -> Result<Vec<u8>, ImageError> {
    plain_file(path)?;
    std::fs::read(path).map_err(fail)
}

/// Reads and decodes a file.
///
/// # Errors
/// Names the file and the class of the error.
pub fn open(path: &Path, options: &DecodeOptions) -> Result<RgbImage, DataError> {
    open_noted(path, options).map(|(image, _)| image)
}

/// [`open`], with what a user may want to know of the image.
///
/// # Errors
/// As [`open`].
pub fn open_noted(
    path: &Path,
    options: &DecodeOptions,
) -> Result<(RgbImage, ImageNotes), DataError> {
    read_image(path)
        .and_then(|bytes| decode_noted(&bytes, options))
        .map_err(|error| DataError::Image { name: path.display().to_string(), error })
}

#[cfg(test)]
mod tests {
    use image::codecs::gif::GifEncoder;

    use super::*;

    /// A GIF whose screen is `screen` wide and high, and its frame `frame`.
    fn gif(screen: u16, frame: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        let image = vec![200; usize::from(frame).pow(2) * 4];
        GifEncoder::new(&mut bytes)
            .encode(&image, frame.into(), frame.into(), image::ExtendedColorType::Rgba8)
            .unwrap();
        bytes[6..8].copy_from_slice(&screen.to_le_bytes());
        bytes[8..10].copy_from_slice(&screen.to_le_bytes());
        bytes
    }

    #[test]
    fn a_frame_larger_than_its_screen_counts_against_the_limit() {
        let limited = |max_pixels| DecodeOptions { max_pixels, ..DecodeOptions::default() };
        // As in Pillow, the screen grows with it.
        let decoded = decode(&gif(4, 20), &limited(400)).unwrap();
        assert_eq!((decoded.width, decoded.height, decoded.pixels.len()), (20, 20, 1200));
        assert_eq!(decode(&gif(4, 20), &limited(399)).unwrap_err().kind, Kind::TooLarge);
        let mut hostile = gif(4, 20);
        let frame = hostile.windows(5).position(|w| w == [0x2c, 0, 0, 0, 0]).unwrap();
        hostile[frame + 5..frame + 9].fill(0xff);
        let refused = decode(&hostile, &DecodeOptions::default()).unwrap_err();
        assert_eq!(refused.kind, Kind::TooLarge, "{refused}");
    }

    #[test]
    fn a_low_limit_of_pixels_still_takes_small_images() {
        let options = DecodeOptions { max_pixels: 12, ..DecodeOptions::default() };
        let png = crate::scenes::png(&RgbImage::filled(4, 3, [1, 2, 3])).unwrap();
        assert_eq!(decode(&png, &options).unwrap(), RgbImage::filled(4, 3, [1, 2, 3]));
        let png = crate::scenes::png(&RgbImage::filled(4, 4, [1, 2, 3])).unwrap();
        assert_eq!(decode(&png, &options).unwrap_err().kind, Kind::TooLarge);
    }
}
