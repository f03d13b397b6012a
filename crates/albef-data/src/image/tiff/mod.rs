//! The first page of a TIFF, as Pillow shows it.

mod colors;
mod unpack;

use std::borrow::Cow;
use std::num::NonZeroU32;

use image::{DynamicImage, ImageBuffer};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use self::colors::{cmyk, divided, in_colors, in_colors_with_alpha, replaced, ycbcr};
use self::unpack::{deflate, group_3, group_4, lzw, pack_bits};
use super::header::Header;
use super::header::tiff::Page;
use crate::error::{ImageError, ImageErrorKind as Kind};

/// Values of the tag of compression.
mod compression {
    pub const NONE: u64 = 1;
    pub const GROUP_3: u64 = 3;
    pub const GROUP_4: u64 = 4;
    pub const LZW: u64 = 5;
    pub const JPEG: u64 = 7;
    pub const DEFLATE: u64 = 8;
    pub const PACK_BITS: u64 = 32773;
    pub const OLD_DEFLATE: u64 = 32946;
}

/// How often the bytes of a file may be unpacked on the average.
const OVERLAP: u64 = 4;

/// What the samples of a color are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Colors {
    Gray,
    /// Zero is white.
    InvertedGray,
    Palette,
    Rgb,
    Cmyk,
    YCbCr,
}

/// What the first sample behind those of the color is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Alpha {
    None,
    Plain,
    /// Colors were multiplied by it.
    Multiplied,
}

fn unsupported(detail: &str) -> ImageError {
    let detail = format!("a TIFF of a kind that is not read ({detail}); convert it to JPEG or PNG");
    ImageError::new(Kind::Unsupported("TIFF"), detail)
}

fn truncated() -> ImageError {
    ImageError::new(Kind::Truncated, "the TIFF ends before its pixels do")
}

fn corrupt(detail: impl Into<String>) -> ImageError {
    ImageError::new(Kind::Corrupt, detail)
}

/// The image before it is turned. `limit` is about the bytes of unpacked strips or tiles.
pub(super) fn decode(
    header: &Header<'_>,
    page: &Page,
    limit: u64,
) -> Result<DynamicImage, ImageError> {
    let (mut colors, count) = colors(page)?;
    let alpha = alpha(page, colors, count)?;
    let channels = count + usize::from(alpha != Alpha::None);
    let parts = Parts::new(header, page, channels, limit)?;
    if page.compression == compression::JPEG && colors == Colors::YCbCr && !page.planar {
        colors = Colors::Rgb;
    }
    let (width, height) = (header.width as u32, header.height as u32);
    if let Some(words) = parts.gray_words(colors)? {
        let image = ImageBuffer::from_raw(width, height, words).map(DynamicImage::ImageLuma16);
        return image.ok_or_else(truncated);
    }
    let bytes = parts.bytes(colors)?;
    macro_rules! image {
        ($variant:ident, $values:expr) => {
            ImageBuffer::from_raw(width, height, $values).map(DynamicImage::$variant)
        };
    }
    let image = match (colors, alpha) {
        (Colors::Gray | Colors::InvertedGray, Alpha::None) => image!(ImageLuma8, bytes),
        (Colors::Gray | Colors::InvertedGray, _) => {
            image!(ImageLumaA8, divided::<2>(bytes, alpha))
        }
        (Colors::Palette, Alpha::None) => image!(ImageRgb8, in_colors(&bytes, &page.palette)),
        (Colors::Palette, _) => image!(ImageRgba8, in_colors_with_alpha(&bytes, &page.palette)),
        (Colors::Rgb, Alpha::None) => image!(ImageRgb8, bytes),
        (Colors::Rgb, _) => image!(ImageRgba8, divided::<4>(bytes, alpha)),
        (Colors::Cmyk, _) => image!(ImageRgb8, replaced::<4>(bytes, cmyk)),
        (Colors::YCbCr, _) => image!(ImageRgb8, replaced::<3>(bytes, ycbcr)),
    };
    image.ok_or_else(truncated)
}

/// What the colors are, and of how many samples.
fn colors(page: &Page) -> Result<(Colors, usize), ImageError> {
    let (colors, count) = match page.photometric {
        0 => (Colors::InvertedGray, 1),
        1 => (Colors::Gray, 1),
        2 => (Colors::Rgb, 3),
        3 => (Colors::Palette, 1),
        5 => (Colors::Cmyk, 4),
        6 if page.samples == 1 => (Colors::Gray, 1),
        6 => (Colors::YCbCr, 3),
        other => return Err(unsupported(&format!("photometric interpretation {other}"))),
    };
    let gray = matches!(colors, Colors::Gray | Colors::InvertedGray);
    let known = match (page.bits, page.format) {
        (1 | 2 | 4, 1) => (gray || colors == Colors::Palette) && page.samples == 1,
        (8, 1) => true,
        (8, 2) | (16, 2) | (32, 1 | 2) => colors == Colors::Gray && page.samples == 1,
        (12, 1) | (32, 3) => gray && page.samples == 1,
        (16, 1) => !matches!(colors, Colors::Palette | Colors::YCbCr),
        _ => false,
    };
    if !known {
        let (samples, bits) = (page.samples, page.bits);
        return Err(unsupported(&format!("{samples} samples of {bits} bits a pixel")));
    }
    if colors == Colors::YCbCr && page.compression != compression::JPEG && page.subsampled {
        return Err(unsupported("subsampled chroma without JPEG"));
    }
    Ok((colors, count))
}

fn alpha(page: &Page, colors: Colors, count: usize) -> Result<Alpha, ImageError> {
    let more = page.samples.checked_sub(count as u64).filter(|more| *more <= 3);
    let alpha = match (more, page.extra.first()) {
        (Some(0), _) => Alpha::None,
        (Some(1), None) if colors == Colors::Rgb => Alpha::Plain,
        (Some(more), Some(_)) if more != page.extra.len() as u64 => return Err(extra(page)),
        (Some(_), Some(1)) => Alpha::Multiplied,
        // CorelDRAW writes 999.
        (Some(_), Some(2 | 999)) => Alpha::Plain,
        (Some(_), Some(_)) => Alpha::None,
        _ => return Err(extra(page)),
    };
    match colors {
        Colors::Cmyk | Colors::YCbCr => Ok(Alpha::None),
        Colors::Palette if alpha == Alpha::Multiplied => Err(extra(page)),
        Colors::Gray if alpha != Alpha::None && page.bits != 8 => Err(extra(page)),
        Colors::InvertedGray if alpha != Alpha::None => Err(extra(page)),
        _ => Ok(alpha),
    }
}

fn extra(page: &Page) -> ImageError {
    let (samples, extra) = (page.samples, &page.extra);
    unsupported(&format!("{samples} samples a pixel, of which extra {extra:?}"))
}

/// The strips or tiles of an image.
struct Parts<'a> {
    page: &'a Page,
    bytes: &'a [u8],
    /// Of the image.
    width: usize,
    height: usize,
    /// Of a part.
    part: [usize; 2],
    across: usize,
    down: usize,
    /// Samples of a pixel in a part.
    samples: usize,
    /// Bytes of a row of a part.
    row: usize,
    /// Samples of a pixel that are kept.
    channels: usize,
    /// Bytes of an unpacked part.
    limit: u64,
}

impl<'a> Parts<'a> {
    /// All sizes are checked here, against each other and against the limit.
    fn new(
        header: &'a Header<'_>,
        page: &'a Page,
        channels: usize,
        limit: u64,
    ) -> Result<Self, ImageError> {
        let [part_width, part_height] = page.part;
        if part_width == 0 || part_height == 0 {
            return Err(corrupt("a TIFF with strips or tiles of no size"));
        }
        let samples = if page.planar { 1 } else { page.samples };
        let bits = part_width.saturating_mul(samples).saturating_mul(page.bits);
        let row = bits.div_ceil(8);
        let (across, down) =
            (header.width.div_ceil(part_width), header.height.div_ceil(part_height));
        // Rows of the last parts that are below the image are not unpacked.
        if row.saturating_mul(across).saturating_mul(header.height) > limit {
            return Err(ImageError::new(
                Kind::TooLarge,
                "a TIFF with tiles of more than its pixels",
            ));
        }
        let planes = if page.planar { page.samples } else { 1 };
        let all = across.saturating_mul(down).saturating_mul(planes);
        if all > page.parts.len() as u64 {
            return Err(corrupt(format!("a TIFF with {} of {all} parts", page.parts.len())));
        }
        // Strips may lie over each other, and each would be unpacked as a whole.
        let packed: u64 = page.parts.iter().map(|[start, end]| (end - start) as u64).sum();
        let tables = page.jpeg_tables.map_or(0, |[start, end]| (end - start) as u64);
        let read = packed.saturating_add(tables.saturating_mul(all));
        if page.compression != compression::NONE
            && read > OVERLAP * (header.bytes.len() as u64).saturating_add(1 << 20)
        {
            return Err(corrupt("a TIFF whose strips or tiles are the same bytes"));
        }
        Ok(Self {
            page,
            bytes: &header.bytes,
            width: header.width as usize,
            height: header.height as usize,
            part: [part_width as usize, part_height as usize],
            across: across as usize,
            down: down as usize,
            samples: samples as usize,
            row: row as usize,
            channels,
            limit,
        })
    }

    /// Gray of 12 or 16 bits. As in Pillow, it is not inverted.
    fn gray_words(&self, colors: Colors) -> Result<Option<Vec<u16>>, ImageError> {
        let gray = matches!(colors, Colors::Gray | Colors::InvertedGray);
        match (gray, self.page.bits, self.page.format) {
            (true, 12, 1) => self.values(twelve_bits).map(Some),
            (true, 16, 1) => self.values(|row, i| self.word(row, i)).map(Some),
            _ => Ok(None),
        }
    }

    /// Samples as bytes: few bits are stretched, many are cut at both ends where Pillow does so.
    fn bytes(&self, colors: Colors) -> Result<Vec<u8>, ImageError> {
        let inverted = if colors == Colors::InvertedGray { 0xff } else { 0 };
        let bits = self.page.bits as usize;
        let clipped = |value: i32| value.clamp(0, 255) as u8;
        match (bits, self.page.format) {
            (8, _) => self.values(|row, i| row[i] ^ inverted),
            (16, 2) => self.values(|row, i| clipped(i32::from(self.word(row, i).cast_signed()))),
            (16, _) => self.values(|row, i| (self.word(row, i) >> 8) as u8),
            (32, 3) => self.values(|row, i| f32::from_bits(self.long(row, i)) as u8),
            (32, _) => self.values(|row, i| clipped(self.long(row, i).cast_signed())),
            _ => {
                let most = (1_u8 << bits) - 1;
                let step = if colors == Colors::Palette { 1 } else { 255 / most };
                self.values(|row, i| {
                    let at = i * bits;
                    (((row[at / 8] >> (8 - bits - at % 8)) & most) * step) ^ inverted
                })
            }
        }
    }

    fn word(&self, row: &[u8], i: usize) -> u16 {
        let bytes = [row[2 * i], row[2 * i + 1]];
        if self.page.little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) }
    }

    fn long(&self, row: &[u8], i: usize) -> u32 {
        let bytes = [0, 1, 2, 3].map(|b| row[4 * i + b]);
        if self.page.little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) }
    }

    /// The kept samples of all pixels, each by its row and its place there.
    fn values<T: Copy + Default>(
        &self,
        value: impl Fn(&[u8], usize) -> T,
    ) -> Result<Vec<T>, ImageError> {
        let mut out = vec![T::default(); self.width * self.height * self.channels];
        let (planes, kept) = if self.page.planar { (self.channels, 1) } else { (1, self.channels) };
        for (plane, down) in (0..planes).flat_map(|p| (0..self.down).map(move |d| (p, d))) {
            for across in 0..self.across {
                let (left, top) = (across * self.part[0], down * self.part[1]);
                let columns = self.part[0].min(self.width - left);
                let rows = self.part[1].min(self.height - top);
                let unpacked =
                    self.unpacked((plane * self.down + down) * self.across + across, rows)?;
                for (y, row) in unpacked.chunks_exact(self.row).take(rows).enumerate() {
                    let start = ((top + y) * self.width + left) * self.channels;
                    let to = &mut out[start..start + columns * self.channels];
                    for (x, pixel) in to.chunks_exact_mut(self.channels).enumerate() {
                        for (c, channel) in pixel[plane..plane + kept].iter_mut().enumerate() {
                            *channel = value(row, x * self.samples + c);
                        }
                    }
                }
            }
        }
        Ok(out)
    }

    /// The first rows of a part.
    fn unpacked(&self, index: usize, rows: usize) -> Result<Cow<'a, [u8]>, ImageError> {
        let page = self.page;
        let [start, end] = page.parts[index];
        let size = rows * self.row;
        // As in Pillow, what is not packed is as long as it must be, whatever its size is said to be.
        let end = if page.compression == compression::NONE { start + size } else { end };
        let packed = self.bytes.get(start..end).ok_or_else(truncated)?;
        let packed = match page.reversed && page.compression != compression::JPEG {
            true => Cow::Owned(packed.iter().map(|b| b.reverse_bits()).collect()),
            false => Cow::Borrowed(packed),
        };
        let mut unpacked = match page.compression {
            compression::NONE => packed,
            compression::LZW => lzw(&packed, size)?.into(),
            compression::DEFLATE | compression::OLD_DEFLATE => deflate(&packed, size)?.into(),
            compression::PACK_BITS => pack_bits(&packed, size).into(),
            compression::GROUP_4 => group_4(&packed, self.part[0], rows)?.into(),
            compression::GROUP_3 if page.group3 & 1 == 0 => {
                group_3(&packed, self.part[0], rows)?.into()
            }
            compression::JPEG => self.jpeg(&packed, rows)?.into(),
            2 | compression::GROUP_3 => return Err(unsupported("a kind of CCITT Group 3")),
            6 => return Err(unsupported("JPEG of the old style")),
            other => return Err(unsupported(&format!("compression {other}"))),
        };
        if unpacked.len() < size {
            return Err(truncated());
        }
        // Other compressions know no predictor.
        if matches!(
            page.compression,
            compression::LZW | compression::DEFLATE | compression::OLD_DEFLATE
        ) {
            let rows = unpacked.to_mut().chunks_exact_mut(self.row).take(rows);
            match (page.predictor, page.bits) {
                (0 | 1, _) => {}
                (2, 8) => rows.for_each(|row| add_left(row, self.samples)),
                (2, 16) => rows.for_each(|row| self.add_left_words(row)),
                (2, 32) => rows.for_each(|row| self.add_left_longs(row)),
                (3, 32) if page.format == 3 => rows.for_each(|row| self.join_floats(row)),
                (other, bits) => {
                    return Err(unsupported(&format!("predictor {other} of {bits} bits")));
                }
            }
        }
        Ok(unpacked)
    }

    fn add_left_words(&self, row: &mut [u8]) {
        for i in self.samples..row.len() / 2 {
            let sum = self.word(row, i).wrapping_add(self.word(row, i - self.samples));
            let bytes = if self.page.little { sum.to_le_bytes() } else { sum.to_be_bytes() };
            row[2 * i..2 * i + 2].copy_from_slice(&bytes);
        }
    }

    fn add_left_longs(&self, row: &mut [u8]) {
        for i in self.samples..row.len() / 4 {
            let sum = self.long(row, i).wrapping_add(self.long(row, i - self.samples));
            let bytes = if self.page.little { sum.to_le_bytes() } else { sum.to_be_bytes() };
            row[4 * i..4 * i + 4].copy_from_slice(&bytes);
        }
    }

    /// The high bytes of all numbers of a row come first, as differences.
    fn join_floats(&self, row: &mut [u8]) {
        add_left(row, self.samples);
        let bytes = row.to_vec();
        let count = row.len() / 4;
        for (i, number) in row.chunks_exact_mut(4).enumerate() {
            let high_first = [0, 1, 2, 3].map(|b| bytes[b * count + i]);
            number.copy_from_slice(&high_first);
            if self.page.little {
                number.reverse();
            }
        }
    }

    /// A JPEG of this part alone, whose tables may be elsewhere.
    fn jpeg(&self, packed: &[u8], rows: usize) -> Result<Vec<u8>, ImageError> {
        let tables = self.page.jpeg_tables.and_then(|[start, end]| self.bytes.get(start..end));
        let tables = tables.and_then(|t| t.strip_suffix(&[0xff, 0xd9]));
        let whole = match (tables, packed.strip_prefix(&[0xff, 0xd8])) {
            (Some(tables), Some(rest)) => Cow::Owned([tables, rest].concat()),
            _ => Cow::Borrowed(packed),
        };
        let fault = |e| corrupt(format!("a JPEG in a TIFF: {e}"));
        let options = DecoderOptions::default();
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(&*whole), options);
        decoder.decode_headers().map_err(|e| fault(e.to_string()))?;
        let (width, height) = decoder.dimensions().ok_or_else(truncated)?;
        let components = usize::from(decoder.info().map_or(0, |info| info.components));
        let space = match decoder.input_colorspace().unwrap_or(ColorSpace::Luma) {
            // Gray with alpha, whose two components the decoder takes for colors until it decodes them.
            _ if components == 2 => ColorSpace::MultiBand(NonZeroU32::MIN.saturating_add(1)),
            space => space,
        };
        // Strips are as wide as the image, and the last one may be higher than what is left of it.
        if width != self.part[0] || !(rows..=self.part[1]).contains(&height) {
            return Err(corrupt(format!("a JPEG of {width} x {height} pixels in a TIFF")));
        }
        if (self.row as u64).saturating_mul(height as u64) > self.limit {
            return Err(ImageError::new(
                Kind::TooLarge,
                "a TIFF with tiles of more than its pixels",
            ));
        }
        if space.num_components() != self.samples {
            return Err(corrupt("a JPEG of other colors than those of its TIFF"));
        }
        let out = match self.page.photometric {
            6 if space == ColorSpace::YCbCr => ColorSpace::RGB,
            _ => space,
        };
        decoder.set_options(options.jpeg_set_out_colorspace(out));
        decoder.decode().map_err(|e| fault(e.to_string()))
    }
}

/// The sample of 12 bits at this place.
fn twelve_bits(row: &[u8], i: usize) -> u16 {
    let at = i * 3 / 2;
    let pair = u16::from_be_bytes([row[at], row[at + 1]]);
    if i.is_multiple_of(2) { pair >> 4 } else { pair & 0xfff }
}

fn add_left(row: &mut [u8], samples: usize) {
    for i in samples..row.len() {
        row[i] = row[i].wrapping_add(row[i - samples]);
    }
}
