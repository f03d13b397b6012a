//! A BMP, as Pillow shows it.

use image::{DynamicImage, RgbImage, RgbaImage};

use super::header::Header;
use super::header::bmp::Bitmap;
use crate::error::{ImageError, ImageErrorKind as Kind};

fn truncated() -> ImageError {
    ImageError::new(Kind::Truncated, "the BMP ends before its last pixel")
}

fn unsupported(detail: &str) -> ImageError {
    let detail = format!("a BMP of a kind that is not read ({detail}); convert it to JPEG or PNG");
    ImageError::new(Kind::Unsupported("BMP"), detail)
}

/// The image; its size was checked.
pub(super) fn decode(header: &Header<'_>) -> Result<DynamicImage, ImageError> {
    let bitmap = header.bitmap.as_ref().ok_or_else(truncated)?;
    let (width, height) = (header.width as usize, header.height as usize);
    let pixels = header.bytes.get(bitmap.start..).ok_or_else(truncated)?;
    let rows = Rows { bitmap, pixels, width, height };
    match (bitmap.bits, bitmap.compression) {
        (1 | 4 | 8, 0) => rows.indexed(),
        (1 | 4 | 8, 1 | 2) => rows.packed(),
        (16 | 24 | 32, 0 | 3) => rows.direct(),
        (bits, compression) => {
            Err(unsupported(&format!("{bits} bits a pixel, compression {compression}")))
        }
    }
}

struct Rows<'a> {
    bitmap: &'a Bitmap,
    pixels: &'a [u8],
    width: usize,
    height: usize,
}

impl Rows<'_> {
    /// The rows of pixels that are not packed, from the top.
    fn rows(&self) -> Result<impl Iterator<Item = &[u8]>, ImageError> {
        let bits = self.width * self.bitmap.bits as usize;
        let (stride, row) = (bits.div_ceil(32) * 4, bits.div_ceil(8));
        // The last row may lack its padding.
        if self.pixels.len() < stride * (self.height - 1) + row {
            return Err(truncated());
        }
        let start = move |y: usize| stride * self.stored(y);
        Ok((0..self.height).map(move |y| &self.pixels[start(y)..start(y) + row]))
    }

    /// Where row `y` is among those of the file, which begin at the bottom if it does not say otherwise.
    fn stored(&self, y: usize) -> usize {
        if self.bitmap.top_down { y } else { self.height - 1 - y }
    }

    fn image(&self, pixels: Vec<u8>) -> Result<DynamicImage, ImageError> {
        RgbImage::from_raw(self.width as u32, self.height as u32, pixels)
            .map(DynamicImage::ImageRgb8)
            .ok_or_else(truncated)
    }

    /// Beyond the end of a palette there is black, or, if it is a ramp of grays, the ramp goes on.
    fn color(&self, index: u8) -> [u8; 3] {
        let palette = &self.bitmap.palette;
        let beyond = || {
            let ramp = palette.len() > 2 && palette.iter().zip(0..=255).all(|(c, v)| *c == [v; 3]);
            [if ramp && self.bitmap.bits == 8 { index } else { 0 }; 3]
        };
        palette.get(usize::from(index)).copied().unwrap_or_else(beyond)
    }

    fn colors(&self) -> Vec<[u8; 3]> {
        (0..=255).map(|index| self.color(index)).collect()
    }

    fn indexed(&self) -> Result<DynamicImage, ImageError> {
        let (bits, colors) = (self.bitmap.bits as usize, self.colors());
        let most = (0xff_u16 >> (8 - bits)) as u8;
        let mut out = Vec::with_capacity(self.width * self.height * 3);
        for row in self.rows()? {
            for x in 0..self.width {
                let at = x * bits;
                let index = row[at / 8] >> (8 - bits - at % 8) & most;
                out.extend(colors[usize::from(index)]);
            }
        }
        self.image(out)
    }

    fn packed(&self) -> Result<DynamicImage, ImageError> {
        let (colors, indices) = (self.colors(), self.unpacked()?);
        let mut out = Vec::with_capacity(indices.len() * 3);
        for y in 0..self.height {
            let start = self.stored(y) * self.width;
            let row = &indices[start..start + self.width];
            out.extend(row.iter().flat_map(|index| colors[usize::from(*index)]));
        }
        self.image(out)
    }

    /// Runs and other bytes, in the order of the file. What comes behind the end of a row is passed over.
    fn unpacked(&self) -> Result<Vec<u8>, ImageError> {
        let (halves, size) = (self.bitmap.compression == 2, self.width * self.height);
        let mut out = Vec::with_capacity(size);
        let (mut at, mut x, mut lost) = (0, 0, false);
        let mut ended = false;
        while out.len() < size {
            let Some([count, value]) = self.pixels.get(at..at + 2) else { break };
            at += 2;
            match (*count, *value) {
                (0, 0) => {
                    out.resize(out.len().next_multiple_of(self.width), 0);
                    x = 0;
                }
                (0, 1) => {
                    ended = true;
                    break;
                }
                (0, 2) => {
                    let Some([right, up]) = self.pixels.get(at..at + 2) else { break };
                    at += 2;
                    let skipped = usize::from(*right) + usize::from(*up) * self.width;
                    out.resize(size.min(out.len() + skipped), 0);
                    x = out.len() % self.width;
                }
                (0, given) => {
                    let count = usize::from(given).min(size - out.len());
                    let length = if halves { count.div_ceil(2) } else { count };
                    let Some(bytes) = self.pixels.get(at..at + length) else { break };
                    match halves {
                        true => out.extend((0..count).map(|i| half(bytes[i / 2], i))),
                        false => out.extend_from_slice(bytes),
                    }
                    at += length;
                    // To an even place in the file.
                    at += (self.bitmap.start + at) % 2;
                    x += usize::from(given);
                }
                (count, value) => {
                    let count = usize::from(count).min(self.width.saturating_sub(x));
                    lost |= count == 0;
                    let count = count.min(size - out.len());
                    match halves {
                        true => out.extend((0..count).map(|i| half(value, i))),
                        false => out.resize(out.len() + count, value),
                    }
                    x += count;
                }
            }
        }
        match (out.len() < size, ended, lost) {
            (true, false, _) => return Err(truncated()),
            (true, _, true) => {
                return Err(ImageError::new(Kind::Corrupt, "rows of a BMP are too long"));
            }
            _ => {}
        }
        // An early end leaves the first color.
        out.resize(size, 0);
        Ok(out)
    }

    fn direct(&self) -> Result<DynamicImage, ImageError> {
        let bytes = (self.bitmap.bits / 8) as usize;
        let [red, green, blue, alpha] = self.channels()?;
        let pixels = self.rows()?.flat_map(|row| row.chunks_exact(bytes)).map(|pixel| {
            pixel.iter().rev().fold(0, |value: u32, byte| value << 8 | u32::from(*byte))
        });
        if alpha.mask == 0 {
            let mut out = Vec::with_capacity(self.width * self.height * 3);
            pixels.for_each(|pixel| out.extend([red, green, blue].map(|c| c.value(pixel))));
            return self.image(out);
        }
        let mut out = Vec::with_capacity(self.width * self.height * 4);
        pixels.for_each(|pixel| out.extend([red, green, blue, alpha].map(|c| c.value(pixel))));
        RgbaImage::from_raw(self.width as u32, self.height as u32, out)
            .map(DynamicImage::ImageRgba8)
            .ok_or_else(truncated)
    }

    /// As in Pillow, alpha counts only if there are masks, and 32 bits.
    fn channels(&self) -> Result<[Channel; 4], ImageError> {
        let masks = match (self.bitmap.bits, self.bitmap.masks) {
            (16, None) => [0x7c00, 0x3e0, 0x1f, 0],
            (_, None) => [0xff_0000, 0xff00, 0xff, 0],
            (32, Some([0, 0, 0, 0])) => [0xff_0000, 0xff00, 0xff, 0xff00_0000],
            (32, Some(masks)) => masks,
            (_, Some([red, green, blue, _])) => [red, green, blue, 0],
        };
        if masks[..3].contains(&0) {
            return Err(unsupported("masks without bits"));
        }
        Ok(masks.map(Channel::new))
    }
}

/// Half a byte, the high one at even places.
fn half(byte: u8, i: usize) -> u8 {
    if i.is_multiple_of(2) { byte >> 4 } else { byte & 15 }
}

/// The bits of a channel.
#[derive(Clone, Copy)]
struct Channel {
    mask: u32,
    shift: u32,
    most: u64,
}

impl Channel {
    fn new(mask: u32) -> Self {
        let shift = mask.trailing_zeros() % 32;
        Self { mask, shift, most: u64::from(mask >> shift).max(1) }
    }

    fn value(self, pixel: u32) -> u8 {
        (u64::from((pixel & self.mask) >> self.shift) * 255 / self.most) as u8
    }
}
