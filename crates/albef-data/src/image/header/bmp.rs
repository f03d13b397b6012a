//! The header of a BMP. Its pixels have no end marker: the decoder finds out whether they are all there.

use std::borrow::Cow;

use super::{Header, array, corrupt, le16, le32, truncated};
use crate::error::ImageError;

/// Bytes before the header of the bitmap.
const FILE_HEADER: u64 = 14;
/// Those of the oldest header, whose sizes have two bytes and whose colors three.
const OS2: u64 = 12;
/// The value of compression that says that masks tell the channels.
const MASKS: u64 = 3;
/// Pillow takes no larger palette.
const MOST_COLORS: u64 = 65536;

/// How the pixels of a BMP are stored.
#[derive(Debug)]
pub(in crate::image) struct Bitmap {
    /// Of a pixel.
    pub bits: u64,
    /// 1 for runs of bytes, 2 for runs of half bytes.
    pub compression: u64,
    /// Of red, green, blue and alpha, if the file says.
    pub masks: Option<[u32; 4]>,
    pub palette: Vec<[u8; 3]>,
    /// Where the pixels begin.
    pub start: usize,
    pub top_down: bool,
}

pub(super) fn read(bytes: &[u8]) -> Result<Header<'_>, ImageError> {
    let end = || truncated("the BMP ends in its header");
    let size = le32(bytes, 14).ok_or_else(end)?;
    let half = |at| le16(bytes, at).ok_or_else(end);
    let full = |at| le32(bytes, at).ok_or_else(end);
    let side = |at| array(bytes, at).map(i32::from_le_bytes).ok_or_else(end);
    let (width, height, bits, compression, colors) = match size {
        OS2 => (half(18)? as i32, half(20)? as i32, half(24)?, 0, 0),
        40 | 52 | 56 | 64 | 108 | 124 => (side(18)?, side(22)?, half(28)?, full(30)?, full(46)?),
        _ => return Err(corrupt(format!("a BMP header of {size} bytes"))),
    };
    let width = u64::try_from(width).map_err(|_| corrupt("a BMP of a negative width"))?;
    let mut behind = FILE_HEADER + size;
    let mut masks = None;
    if compression == MASKS {
        let mask = |i: usize| full(54 + 4 * i).map(|mask| mask as u32);
        // As in Pillow, only longer headers have one of alpha.
        let alpha = if size >= 56 { mask(3)? } else { 0 };
        masks = Some([mask(0)?, mask(1)?, mask(2)?, alpha]);
        if size == 40 {
            behind += 12;
        }
    }
    let mut start = full(10)?;
    let mut palette = Vec::new();
    if bits <= 8 {
        let entry = if size == OS2 { 3 } else { 4 };
        let colors = if colors == 0 { 1 << bits } else { colors };
        if colors > MOST_COLORS {
            return Err(corrupt(format!("a BMP with a palette of {colors} colors")));
        }
        let table = bytes.get(behind as usize..).unwrap_or_default();
        let all = table.chunks_exact(entry).take(colors as usize);
        palette = all.map(|color| [color[2], color[1], color[0]]).collect();
        // Some writers count no palette before the pixels.
        if start == FILE_HEADER + size {
            start += entry as u64 * colors;
        }
        behind += entry as u64 * colors;
    }
    if start == 0 {
        start = behind;
    }
    let start = usize::try_from(start).map_err(|_| end())?;
    let bitmap = Bitmap { bits, compression, masks, palette, start, top_down: height < 0 };
    Ok(Header {
        width,
        height: height.unsigned_abs().into(),
        bitmap: Some(bitmap),
        bytes: Cow::Borrowed(bytes),
        ..Header::default()
    })
}
