//! The first frame of a GIF on its screen, as Pillow shows it.

use gif::{ColorOutput, DecodeOptions, DecodingError, MemoryLimit};
use image::{DynamicImage, RgbImage, RgbaImage};

use super::header::Header;
use crate::error::{ImageError, ImageErrorKind as Kind};

fn fault(e: &DecodingError) -> ImageError {
    let kind = match e {
        DecodingError::Io(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Kind::Truncated,
        _ => Kind::Corrupt,
    };
    ImageError::new(kind, e.to_string())
}

/// Around a frame smaller than the screen is the transparent color, or the first of the color table.
pub(super) fn first_frame(header: &Header<'_>) -> Result<DynamicImage, ImageError> {
    let (width, height) = (header.width as usize, header.height as usize);
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.allow_unknown_blocks(true);
    // Sizes were checked with the header; this one is about the decoder's own buffers.
    options.set_memory_limit(MemoryLimit::Unlimited);
    let mut decoder = options.read_info(&*header.bytes).map_err(|e| fault(&e))?;
    let frame = decoder.next_frame_info().map_err(|e| fault(&e))?;
    let frame = frame.ok_or_else(|| ImageError {
        kind: Kind::Corrupt,
        detail: "a GIF without a frame".into(),
    })?;
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let (columns, rows) = (usize::from(frame.width), usize::from(frame.height));
    let transparent = frame.transparent;
    let mut inner = vec![0; columns * rows];
    decoder.read_into_buffer(&mut inner).map_err(|e| fault(&e))?;
    let table = decoder.palette().map_err(|e| fault(&e))?;
    // Beyond its end there is black.
    let color = |index: u8| {
        let at = usize::from(index) * 3;
        table.get(at..at + 3).map_or([0; 3], |c| [c[0], c[1], c[2]])
    };
    let size = (width as u32, height as u32);
    let around = transparent.unwrap_or(0);
    if transparent.is_some() {
        let colors: Vec<[u8; 4]> = (0..=255)
            .map(|i| {
                let [r, g, b] = color(i);
                [r, g, b, if Some(i) == transparent { 0 } else { 255 }]
            })
            .collect();
        let mut out =
            RgbaImage::from_pixel(size.0, size.1, image::Rgba(colors[usize::from(around)]));
        put(&mut out, width * 4, left * 4, top, columns, &inner, &colors);
        return Ok(DynamicImage::ImageRgba8(out));
    }
    let colors: Vec<[u8; 3]> = (0..=255).map(color).collect();
    let mut out = RgbImage::from_pixel(size.0, size.1, image::Rgb(colors[usize::from(around)]));
    put(&mut out, width * 3, left * 3, top, columns, &inner, &colors);
    Ok(DynamicImage::ImageRgb8(out))
}

/// Writes indexed rows into a buffer with `stride` bytes a row.
fn put<const N: usize>(
    out: &mut [u8],
    stride: usize,
    left: usize,
    top: usize,
    columns: usize,
    inner: &[u8],
    colors: &[[u8; N]],
) {
    for (from, to) in inner.chunks(columns).zip(out.chunks_mut(stride).skip(top)) {
        for (index, pixel) in from.iter().zip(to[left..].chunks_mut(N)) {
            pixel.copy_from_slice(&colors[usize::from(*index)]);
        }
    }
}
