//! What the structure of an encoded image says, read without decoding it: format, size, orientation, frames,
//! and whether the file ends before the image does.

#[cfg(feature = "avif")]
mod avif;
pub(super) mod bmp;
mod exif;
mod gif;
#[cfg(feature = "heic")]
pub(super) mod heic;
mod jpeg;
pub(super) mod png;
pub(super) mod tiff;
mod webp;

use std::borrow::Cow;

use image::metadata::Orientation;

use super::sniff::Format;
use crate::error::{ImageError, ImageErrorKind as Kind};

/// What the structure of a file says.
#[derive(Debug, Default)]
pub(super) struct Header<'a> {
    pub width: u64,
    pub height: u64,
    /// How the image must be turned to be upright, if its metadata say so.
    pub orientation: Option<Orientation>,
    /// More than one frame; the first one is read.
    pub animated: bool,
    /// Gray with alpha of 16 bits each.
    pub gray_alpha16: bool,
    /// The file ends before the image, whose rest is to be filled.
    pub filled: bool,
    /// The bytes for the decoder, up to the end of the image.
    pub bytes: Cow<'a, [u8]>,
    /// Where on its canvas the bytes' image belongs, if not at the top left corner or not all of it.
    pub frame: Option<[usize; 2]>,
    /// How the pixels of a BMP are stored.
    pub bitmap: Option<bmp::Bitmap>,
    /// Where and how the pixels of a TIFF are stored.
    pub page: Option<Box<tiff::Page>>,
}

/// Reads the structure of a file. `fill` takes a JPEG or PNG that ends early, if any of its pixels are there.
pub(super) fn read(format: Format, bytes: &[u8], fill: bool) -> Result<Header<'_>, ImageError> {
    match format {
        Format::Jpeg => jpeg::read(bytes, fill),
        Format::Png => png::read(bytes, fill),
        Format::WebP => webp::read(bytes),
        Format::Gif => gif::read(bytes),
        Format::Bmp => bmp::read(bytes),
        Format::Tiff => tiff::read(bytes),
        #[cfg(feature = "heic")]
        Format::Heic => heic::read(bytes),
        #[cfg(feature = "avif")]
        Format::Avif => avif::read(bytes),
    }
}

fn truncated(detail: impl Into<String>) -> ImageError {
    ImageError::new(Kind::Truncated, detail)
}

fn corrupt(detail: impl Into<String>) -> ImageError {
    ImageError::new(Kind::Corrupt, detail)
}

/// `bytes[at..at + N]`.
fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn le16(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(|b| u16::from_le_bytes(b).into())
}

fn le24(bytes: &[u8], at: usize) -> Option<u64> {
    array::<3>(bytes, at).map(|[a, b, c]| u32::from_le_bytes([a, b, c, 0]).into())
}

fn le32(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(|b| u32::from_le_bytes(b).into())
}

fn be16(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(|b| u16::from_be_bytes(b).into())
}

fn be32(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(|b| u32::from_be_bytes(b).into())
}
