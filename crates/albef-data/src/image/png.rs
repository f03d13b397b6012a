//! A PNG with the checksums that Pillow holds to: that of the compressed stream, not those of its chunks.

use std::borrow::Cow;
use std::io::Cursor;

use image::{DynamicImage, ImageBuffer};
use png::{
    BitDepth, ColorType, DecodeOptions, Decoder, DecodingError, Limits, Reader, Transformations,
};

use super::header::Header;
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

/// The image, not a frame of an animation beside it. `max_bytes` limits what the decoder takes beside the pixels.
pub(super) fn decode(header: &Header<'_>, max_bytes: u64) -> Result<DynamicImage, ImageError> {
    let mut options = DecodeOptions::default();
    // Those that count were compared with the header.
    options.set_ignore_crc(true);
    options.set_ignore_adler32(false);
    options.set_ignore_text_chunk(true);
    options.set_ignore_iccp_chunk(true);
    let mut decoder = Decoder::new_with_options(Cursor::new(&header.bytes), options);
    decoder.set_limits(Limits { bytes: usize::try_from(max_bytes).unwrap_or(usize::MAX) });
    decoder.set_transformations(Transformations::EXPAND);
    let mut reader = decoder.read_info().map_err(|e| fault(&e))?;
    let size = reader.output_buffer_size().ok_or_else(|| fault(&DecodingError::LimitsExceeded))?;
    let mut bytes = vec![0; size];
    let (color, depth) = reader.output_color_type();
    if header.filled {
        whole_rows(&mut reader, &mut bytes)?;
    } else {
        reader.next_frame(&mut bytes).map_err(|e| fault(&e))?;
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
    image.ok_or_else(|| ImageError {
        kind: Kind::Unsupported("PNG"),
        detail: format!("a PNG of {color:?} with {depth:?} bits a channel"),
    })
}

/// The rows that are there. The others have the first color of the palette if there is one, else zeros, as in Pillow.
fn whole_rows(
    reader: &mut Reader<Cursor<&Cow<'_, [u8]>>>,
    bytes: &mut [u8],
) -> Result<(), ImageError> {
    let info = reader.info();
    if info.interlaced {
        return Err(ImageError::new(Kind::Truncated, "an interlaced PNG that ends early"));
    }
    let first = info.palette.as_ref().and_then(|palette| palette.get(..3)).map(<[u8]>::to_vec);
    if let Some(mut first) = first {
        let alpha = info.trns.as_ref().map(|alpha| alpha.first().copied().unwrap_or(255));
        first.extend(alpha);
        bytes.chunks_exact_mut(first.len()).for_each(|pixel| pixel.copy_from_slice(&first));
    }
    let row =
        reader.output_line_size(info.width).ok_or_else(|| fault(&DecodingError::LimitsExceeded))?;
    let mut there = vec![0; row];
    for to in bytes.chunks_exact_mut(row) {
        match reader.read_row(&mut there) {
            Ok(Some(_)) => to.copy_from_slice(&there),
            Ok(None) => break,
            Err(e) => match fault(&e) {
                ImageError { kind: Kind::Truncated, .. } => break,
                other => return Err(other),
            },
        }
    }
    Ok(())
}
