//! A PNG with the checksums that Pillow holds to: that of the compressed stream, not those of its chunks.

use std::io::{Cursor, Read};

use flate2::read::ZlibDecoder;
use image::{DynamicImage, ImageBuffer};
use png::{
    BitDepth, ColorType, DecodeOptions, Decoder, DecodingError, Info, InterlaceInfo, Limits,
    Reader, Transformations, expand_interlaced_row,
};

use super::header::Header;
use super::header::png::chunk;
use crate::error::{ImageError, ImageErrorKind as Kind};

fn fault(e: &DecodingError) -> ImageError {
    let kind = match e {
        DecodingError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            Kind::Truncated
        }
        DecodingError::LimitsExceeded => Kind::TooLarge,
        _ => Kind::Corrupt,
    };
    ImageError::new(kind, e.to_string())
}

/// The image, not a frame of an animation beside it, and whether the rest of it was filled. `max_bytes` limits what the
/// decoder takes beside the pixels; `fill` takes what there is of an image.
pub(super) fn decode(
    header: &Header<'_>,
    max_bytes: u64,
    fill: bool,
) -> Result<(DynamicImage, bool), ImageError> {
    let mut reader = reader(&header.bytes, max_bytes, false)?;
    let size = reader.output_buffer_size().ok_or_else(|| fault(&DecodingError::LimitsExceeded))?;
    let mut bytes = vec![0; size];
    let (color, depth) = reader.output_color_type();
    let mut filled = header.filled;
    if filled {
        rows_that_are_there(&mut reader, &mut bytes)?;
    } else if let Err(e) = reader.next_frame(&mut bytes) {
        if !fill && !is_whole_rows(reader.info(), &header.bytes) {
            return Err(fault(&e));
        }
        filled = fill;
        bytes.fill(0);
        // The decoder keeps its rows to itself where the stream has no end, unless the file has none either.
        let end = if fill { end_of_pixels(&header.bytes) } else { header.bytes.len() };
        let mut again = self::reader(&header.bytes[..end], max_bytes, true)?;
        rows_that_are_there(&mut again, &mut bytes)?;
    }
    let (width, height) = (header.width as u32, header.height as u32);
    let wide = |bytes: &[u8]| -> Vec<u16> {
        bytes.as_chunks::<2>().0.iter().map(|b| u16::from_be_bytes(*b)).collect()
    };
    macro_rules! image {
        ($variant:ident, $values:expr) => {
            ImageBuffer::from_raw(width, height, $values).map(DynamicImage::$variant)
        };
    }
    let image = match (color, depth) {
        (ColorType::Grayscale, BitDepth::Eight) => image!(ImageLuma8, bytes),
        (ColorType::GrayscaleAlpha, BitDepth::Eight) => image!(ImageLumaA8, bytes),
        (ColorType::Rgb, BitDepth::Eight) => image!(ImageRgb8, bytes),
        (ColorType::Rgba, BitDepth::Eight) => image!(ImageRgba8, bytes),
        (ColorType::Grayscale, BitDepth::Sixteen) => image!(ImageLuma16, wide(&bytes)),
        (ColorType::GrayscaleAlpha, BitDepth::Sixteen) => image!(ImageLumaA16, wide(&bytes)),
        (ColorType::Rgb, BitDepth::Sixteen) => image!(ImageRgb16, wide(&bytes)),
        (ColorType::Rgba, BitDepth::Sixteen) => image!(ImageRgba16, wide(&bytes)),
        _ => None,
    };
    let image = image.ok_or_else(|| ImageError {
        kind: Kind::Unsupported("PNG"),
        detail: format!("a PNG of {color:?} with {depth:?} bits a channel"),
    })?;
    Ok((image, filled))
}

type PngReader<'a> = Reader<Cursor<&'a [u8]>>;

fn reader(bytes: &[u8], max_bytes: u64, any_sum: bool) -> Result<PngReader<'_>, ImageError> {
    let mut options = DecodeOptions::default();
    // Those that count were compared with the header.
    options.set_ignore_crc(true);
    options.set_ignore_adler32(any_sum);
    options.set_ignore_text_chunk(true);
    options.set_ignore_iccp_chunk(true);
    let mut decoder = Decoder::new_with_options(Cursor::new(bytes), options);
    decoder.set_limits(Limits { bytes: usize::try_from(max_bytes).unwrap_or(usize::MAX) });
    decoder.set_transformations(Transformations::EXPAND);
    decoder.read_info().map_err(|e| fault(&e))
}

/// Whether the compressed stream is complete, but has fewer rows than the image, none of them in part. Pillow takes
/// that for an image.
fn is_whole_rows(info: &Info<'_>, bytes: &[u8]) -> bool {
    let whole = (info.raw_row_length() as u64).saturating_mul(info.height.into());
    let packed = Pixels { bytes, at: 8, left: &[] };
    let mut rows = ZlibDecoder::new(packed).take(whole);
    let found = std::io::copy(&mut rows, &mut std::io::sink());
    let is_rows = |n: u64| n > 0 && n < whole && n.is_multiple_of(info.raw_row_length() as u64);
    !info.interlaced && found.is_ok_and(is_rows)
}

/// Where the last chunk of pixels ends, but for its checksum.
fn end_of_pixels(bytes: &[u8]) -> usize {
    let (mut at, mut end) = (8, None);
    while let Some((kind, body, _)) = chunk(bytes, at) {
        match (&kind == b"IDAT", end) {
            (true, _) => end = Some(at + 8 + body.len()),
            (false, Some(_)) => break,
            (false, None) => {}
        }
        at += 12 + body.len();
    }
    end.unwrap_or(bytes.len())
}

/// What the chunks of pixels hold, one after the other.
struct Pixels<'a> {
    bytes: &'a [u8],
    /// Where the next chunk begins.
    at: usize,
    left: &'a [u8],
}

impl Read for Pixels<'_> {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        while self.left.is_empty() {
            let Some((kind, body, _)) = chunk(self.bytes, self.at) else { return Ok(0) };
            self.at += 12 + body.len();
            if &kind == b"IDAT" {
                self.left = body;
            }
        }
        self.left.read(to)
    }
}

/// The rows that are there, up to a fault. The others have the first color of the palette if there is one, else zeros,
/// as in Pillow.
fn rows_that_are_there(reader: &mut PngReader<'_>, bytes: &mut [u8]) -> Result<(), ImageError> {
    let info = reader.info();
    let width = info.width;
    let first = info.palette.as_ref().and_then(|palette| palette.get(..3)).map(<[u8]>::to_vec);
    if let (Some(mut first), ColorType::Indexed) = (first, info.color_type) {
        let alpha = info.trns.as_ref().map(|alpha| alpha.first().copied().unwrap_or(255));
        first.extend(alpha);
        bytes.chunks_exact_mut(first.len()).for_each(|pixel| pixel.copy_from_slice(&first));
    }
    let (color, depth) = reader.output_color_type();
    let bits = (color.samples() * depth as usize) as u8;
    let length =
        reader.output_line_size(width).ok_or_else(|| fault(&DecodingError::LimitsExceeded))?;
    let mut top = 0;
    loop {
        match reader.next_interlaced_row() {
            Ok(Some(row)) => match row.interlace() {
                InterlaceInfo::Adam7(place) => {
                    expand_interlaced_row(bytes, length, row.data(), place, bits);
                }
                InterlaceInfo::Null(_) => {
                    let Some(to) = bytes.get_mut(top..top + length) else { return Ok(()) };
                    to.copy_from_slice(row.data());
                    top += length;
                }
            },
            Err(e @ DecodingError::LimitsExceeded) => return Err(fault(&e)),
            Ok(None) | Err(_) => return Ok(()),
        }
    }
}
