//! The directories of a TIFF: size, orientation, number of pages, and whether all strips or tiles are there.

use std::borrow::Cow;
use std::collections::HashSet;

use image::metadata::Orientation;

use super::{Header, array, corrupt, truncated};
use crate::error::{ImageError, ImageErrorKind as Kind};

/// Pages that are looked at; what is cut behind these is not found.
const MOST_PAGES: usize = 1000;
/// Strips and tiles of a page: those of the largest image there may be, with planes for four samples.
const MOST_PARTS: u64 = 1 << 22;
/// Samples of a pixel whose kinds are compared; as many are not read.
const MOST_SAMPLES: u64 = 16;
/// Colors of a palette for 8 bits, and more than that.
const MOST_COLORS: u64 = 65536;

mod tag {
    pub const SUBFILE: u64 = 254;
    pub const WIDTH: u64 = 256;
    pub const HEIGHT: u64 = 257;
    pub const BITS: u64 = 258;
    pub const COMPRESSION: u64 = 259;
    pub const PHOTOMETRIC: u64 = 262;
    pub const FILL_ORDER: u64 = 266;
    pub const STRIP_OFFSETS: u64 = 273;
    pub const ORIENTATION: u64 = 274;
    pub const SAMPLES: u64 = 277;
    pub const STRIP_ROWS: u64 = 278;
    pub const STRIP_BYTES: u64 = 279;
    pub const PLANES: u64 = 284;
    pub const GROUP_3: u64 = 292;
    pub const PREDICTOR: u64 = 317;
    pub const COLOR_MAP: u64 = 320;
    pub const TILE_WIDTH: u64 = 322;
    pub const TILE_HEIGHT: u64 = 323;
    pub const TILE_OFFSETS: u64 = 324;
    pub const TILE_BYTES: u64 = 325;
    pub const SUB_IFDS: u64 = 330;
    pub const EXTRA_SAMPLES: u64 = 338;
    pub const SAMPLE_FORMAT: u64 = 339;
    pub const JPEG_TABLES: u64 = 347;
    pub const SUBSAMPLING: u64 = 530;
    pub const DNG_VERSION: u64 = 50706;
}

/// What the directory of a page says of its pixels.
#[derive(Debug)]
pub(in crate::image) struct Page {
    /// Numbers have their low bytes first.
    pub little: bool,
    pub compression: u64,
    pub photometric: u64,
    /// Bits of each sample.
    pub bits: u64,
    /// Samples of a pixel.
    pub samples: u64,
    /// What each sample behind those of the color is.
    pub extra: Vec<u64>,
    /// 1 for numbers without, 2 for such with a sign, 3 for floating point.
    pub format: u64,
    /// Each sample has strips or tiles of its own.
    pub planar: bool,
    pub predictor: u64,
    /// The first pixel of a byte is in its low bits.
    pub reversed: bool,
    /// Bits of options of CCITT Group 3.
    pub group3: u64,
    /// Chroma has fewer columns or rows.
    pub subsampled: bool,
    /// Width and height of a strip or tile.
    pub part: [u64; 2],
    /// Start and end of each strip or tile.
    pub parts: Vec<[usize; 2]>,
    /// Colors of a palette.
    pub palette: Vec<[u8; 3]>,
    /// Start and end of tables that all JPEG strips share.
    pub jpeg_tables: Option<[usize; 2]>,
}

pub(super) fn read(bytes: &[u8]) -> Result<Header<'_>, ImageError> {
    let file = File::new(bytes).ok_or_else(|| truncated("the TIFF ends in its header"))?;
    let (first, next) = file.directory(file.first).ok_or_else(cut)??;
    let number = |tag| first.iter().find(|e| e.tag == tag).and_then(|e| file.value(e, 0));
    let raw = number(tag::DNG_VERSION).is_some()
        || number(tag::SUBFILE) == Some(1) && number(tag::SUB_IFDS).is_some();
    if raw {
        let detail = "RAW is not supported; convert it to JPEG or PNG".into();
        return Err(ImageError { kind: Kind::Unsupported("RAW"), detail });
    }
    let (Some(width), Some(height)) = (number(tag::WIDTH), number(tag::HEIGHT)) else {
        return Err(corrupt("a TIFF without width or height"));
    };
    file.check_parts(&first)?;
    let (mut page, mut pages) = (next, 1);
    let mut seen = HashSet::from([file.first]);
    while page != 0 && pages < MOST_PAGES && seen.insert(page) {
        let (entries, next) = file.directory(page).ok_or_else(cut)??;
        file.check_parts(&entries)?;
        (page, pages) = (next, pages + 1);
    }
    let mut header = Header {
        width,
        height,
        orientation: number(tag::ORIENTATION)
            .and_then(|v| Orientation::from_exif(u8::try_from(v).ok()?)),
        animated: next != 0,
        bytes: Cow::Borrowed(bytes),
        ..Header::default()
    };
    header.page = Some(Box::new(file.page(&first, width, height)?));
    Ok(header)
}

fn cut() -> ImageError {
    truncated("the TIFF ends before its last page")
}

/// An entry of a directory.
struct Entry {
    tag: u64,
    /// Bytes of a value.
    width: u64,
    count: u64,
    /// Where its values are.
    at: usize,
}

/// The bytes of a TIFF, in the order of its machine, with offsets of 4 bytes or, in a BigTIFF, of 8.
struct File<'a> {
    bytes: &'a [u8],
    little: bool,
    big: bool,
    first: u64,
}

impl<'a> File<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let little = bytes.first() == Some(&b'I');
        let mut file = File { bytes, little, big: false, first: 0 };
        file.big = file.number(2, 2)? == 43;
        file.first = if file.big { file.number(8, 8)? } else { file.number(4, 4)? };
        Some(file)
    }

    /// A number of 1, 2, 4 or 8 bytes.
    fn number(&self, at: usize, width: u64) -> Option<u64> {
        let (bytes, little) = (self.bytes, self.little);
        Some(match width {
            1 => u64::from(*bytes.get(at)?),
            2 => {
                let b = array(bytes, at)?;
                u64::from(if little { u16::from_le_bytes(b) } else { u16::from_be_bytes(b) })
            }
            4 => {
                let b = array(bytes, at)?;
                u64::from(if little { u32::from_le_bytes(b) } else { u32::from_be_bytes(b) })
            }
            8 => {
                let b = array(bytes, at)?;
                if little { u64::from_le_bytes(b) } else { u64::from_be_bytes(b) }
            }
            _ => return None,
        })
    }

    /// The entries of a directory, but for those of unknown types, and where the next one is; `None` if the file
    /// ends before.
    #[allow(clippy::type_complexity, reason = "an end and an error are different things")]
    fn directory(&self, at: u64) -> Option<Result<(Vec<Entry>, u64), ImageError>> {
        let at = usize::try_from(at).ok()?;
        let (head, size, offset) = if self.big { (8, 20, 8) } else { (2, 12, 4) };
        let count = self.number(at, head)?;
        let end = at
            .checked_add(head as usize)?
            .checked_add(usize::try_from(count).ok()?.checked_mul(size)?)?;
        let next = self.number(end, offset)?;
        let mut entries = Vec::new();
        for i in 0..count as usize {
            let entry = at + head as usize + i * size;
            let width = match self.number(entry + 2, 2)? {
                1 | 2 | 6 | 7 => 1,
                3 | 8 => 2,
                4 | 9 | 11 | 13 => 4,
                5 | 10 | 12 | 16..=18 => 8,
                _ => continue,
            };
            let count = self.number(entry + 4, offset)?;
            let value = entry + 4 + offset as usize;
            let at = match count.checked_mul(width)? <= offset {
                true => value,
                false => usize::try_from(self.number(value, offset)?).ok()?,
            };
            entries.push(Entry { tag: self.number(entry, 2)?, width, count, at });
        }
        if entries.is_empty() {
            return Some(Err(corrupt("a TIFF with an empty directory")));
        }
        Some(Ok((entries, next)))
    }

    /// Value `i` of an entry.
    fn value(&self, entry: &Entry, i: u64) -> Option<u64> {
        let inside = i < entry.count;
        let at = usize::try_from(i.checked_mul(entry.width)?).ok()?.checked_add(entry.at)?;
        inside.then(|| self.number(at, entry.width))?
    }

    /// What a directory says of its pixels.
    fn page(&self, entries: &[Entry], width: u64, height: u64) -> Result<Page, ImageError> {
        let find = |tag| entries.iter().find(|e| e.tag == tag);
        let all = |tag, most| find(tag).map_or_else(Vec::new, |e| self.values(e, most).collect());
        let first = |tag, other| find(tag).and_then(|e| self.value(e, 0)).unwrap_or(other);
        let samples = first(tag::SAMPLES, 1);
        // As in libtiff, one value may stand for all samples.
        let same = |tag, other| {
            let values = all(tag, samples.min(MOST_SAMPLES));
            let value = values.first().copied().unwrap_or(other);
            let equal = values.iter().all(|v| *v == value);
            equal.then_some(value).ok_or_else(|| corrupt("a TIFF whose samples differ in kind"))
        };
        let planar = first(tag::PLANES, 1) == 2;
        let (places, part) = if find(tag::STRIP_OFFSETS).is_some() {
            let rows = first(tag::STRIP_ROWS, height).min(height);
            ([tag::STRIP_OFFSETS, tag::STRIP_BYTES], [width, rows])
        } else {
            let part = [first(tag::TILE_WIDTH, 0), first(tag::TILE_HEIGHT, 0)];
            ([tag::TILE_OFFSETS, tag::TILE_BYTES], part)
        };
        let across = width.div_ceil(part[0].max(1));
        let down = height.div_ceil(part[1].max(1));
        let planes = if planar { samples } else { 1 };
        let needed = across.saturating_mul(down).saturating_mul(planes);
        Ok(Page {
            little: self.little,
            compression: first(tag::COMPRESSION, 1),
            photometric: first(tag::PHOTOMETRIC, 0),
            bits: same(tag::BITS, 1)?,
            samples,
            extra: all(tag::EXTRA_SAMPLES, MOST_SAMPLES),
            format: same(tag::SAMPLE_FORMAT, 1)?,
            planar,
            predictor: first(tag::PREDICTOR, 1),
            reversed: first(tag::FILL_ORDER, 1) == 2,
            group3: first(tag::GROUP_3, 0),
            subsampled: all(tag::SUBSAMPLING, 2) != [1, 1],
            part,
            parts: self.parts(places.map(find), needed)?,
            palette: Self::palette(&all(tag::COLOR_MAP, 3 * MOST_COLORS)),
            jpeg_tables: find(tag::JPEG_TABLES).and_then(|e| {
                let end = usize::try_from(e.count.checked_mul(e.width)?).ok()?.checked_add(e.at)?;
                (end <= self.bytes.len()).then_some([e.at, end])
            }),
        })
    }

    /// Start and end of as many strips or tiles as are needed.
    fn parts(
        &self,
        [offsets, sizes]: [Option<&Entry>; 2],
        needed: u64,
    ) -> Result<Vec<[usize; 2]>, ImageError> {
        if needed > MOST_PARTS {
            return Err(corrupt(format!("a TIFF of {needed} strips or tiles")));
        }
        let length = self.bytes.len();
        // Without its size a part goes on to the next one at most.
        let next = |i: u64, start: usize| {
            let next = offsets.and_then(|e| self.value(e, i + 1)).unwrap_or(length as u64);
            next.saturating_sub(start as u64)
        };
        let place = |(i, offset)| {
            let start = usize::try_from(offset).ok().filter(|start| *start <= length)?;
            let size = sizes.and_then(|e| self.value(e, i)).unwrap_or_else(|| next(i, start));
            let end = usize::try_from(size).ok().and_then(|size| start.checked_add(size));
            Some([start, end.unwrap_or(length).min(length)])
        };
        let offsets = offsets.into_iter().flat_map(|e| self.values(e, needed));
        let parts = (0..).zip(offsets).map(place).collect::<Option<_>>();
        parts.ok_or_else(|| truncated("the TIFF ends before its pixels do"))
    }

    /// The first values of an entry.
    fn values(&self, entry: &Entry, most: u64) -> impl Iterator<Item = u64> {
        (0..entry.count.min(most)).map_while(|i| self.value(entry, i))
    }

    /// The colors whose values of red, of green and of blue follow each other.
    fn palette(map: &[u64]) -> Vec<[u8; 3]> {
        let colors = map.len() / 3;
        let value = |i: usize| (map[i] >> 8) as u8;
        (0..colors).map(|i| [i, i + colors, i + 2 * colors].map(value)).collect()
    }

    /// Whether all values of a directory, and all strips or tiles, lie within the file.
    fn check_parts(&self, entries: &[Entry]) -> Result<(), ImageError> {
        let length = self.bytes.len() as u64;
        let inside = |at: u64, size: u64| at.checked_add(size).is_some_and(|end| end <= length);
        if entries.iter().any(|e| !inside(e.at as u64, e.count.saturating_mul(e.width))) {
            return Err(cut());
        }
        let find = |tag| entries.iter().find(|e| e.tag == tag);
        let pairs = [(tag::STRIP_OFFSETS, tag::STRIP_BYTES), (tag::TILE_OFFSETS, tag::TILE_BYTES)];
        for (offsets, sizes) in pairs {
            let (Some(offsets), Some(sizes)) = (find(offsets), find(sizes)) else { continue };
            for i in 0..offsets.count.min(sizes.count) {
                let (at, size) = (self.value(offsets, i), self.value(sizes, i));
                if !at.zip(size).is_some_and(|(at, size)| inside(at, size)) {
                    return Err(truncated("the TIFF ends before its pixels do"));
                }
            }
        }
        Ok(())
    }
}
