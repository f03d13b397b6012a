//! The directories of a TIFF: size, orientation, number of pages, and whether all strips or tiles are there.

use std::borrow::Cow;

use image::metadata::Orientation;

use super::{Header, array, corrupt, truncated};
use crate::error::{ImageError, ImageErrorKind as Kind};

/// Pages that are looked at; what is cut behind these is not found.
const MOST_PAGES: usize = 1000;

mod tag {
    pub const SUBFILE: u64 = 254;
    pub const WIDTH: u64 = 256;
    pub const HEIGHT: u64 = 257;
    pub const BITS: u64 = 258;
    pub const PHOTOMETRIC: u64 = 262;
    pub const STRIP_OFFSETS: u64 = 273;
    pub const ORIENTATION: u64 = 274;
    pub const STRIP_BYTES: u64 = 279;
    pub const COLOR_MAP: u64 = 320;
    pub const TILE_OFFSETS: u64 = 324;
    pub const TILE_BYTES: u64 = 325;
    pub const SUB_IFDS: u64 = 330;
    pub const DNG_VERSION: u64 = 50706;
}

const PALETTE: u64 = 3;
const BLACK_IS_ZERO: u16 = 1;

/// A color table: 256 values of red, of green and of blue.
pub(in crate::image) type Palette = Box<[[u8; 3]; 256]>;

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
    while page != 0 && pages < MOST_PAGES {
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
    if number(tag::PHOTOMETRIC) == Some(PALETTE) && number(tag::BITS) == Some(8) {
        let map = first.iter().find(|e| e.tag == tag::COLOR_MAP && e.count == 768);
        let map = map.ok_or_else(|| corrupt("a TIFF with a palette of no 256 colors"))?;
        let value = |i| file.value(map, i).map(|v| (v >> 8) as u8).ok_or_else(cut);
        let mut palette: Palette = Box::new([[0; 3]; 256]);
        for (i, color) in palette.iter_mut().enumerate() {
            let i = i as u64;
            *color = [value(i)?, value(i + 256)?, value(i + 512)?];
        }
        header.palette = Some(palette);
        // The decoder knows gray alone: the indices are read as such.
        let photometric = first.iter().find(|e| e.tag == tag::PHOTOMETRIC);
        if let Some(at) = photometric.map(|e| e.at) {
            let mut patched = bytes.to_vec();
            let gray =
                if file.little { BLACK_IS_ZERO.to_le_bytes() } else { BLACK_IS_ZERO.to_be_bytes() };
            patched[at..at + 2].copy_from_slice(&gray);
            header.bytes = Cow::Owned(patched);
        }
    }
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
