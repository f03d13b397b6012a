//! The chunks of a PNG.

use std::borrow::Cow;

use super::{Header, array, be32, corrupt, exif, truncated};
use crate::error::ImageError;

/// Walks from chunk to chunk. As in Pillow 13, a wrong checksum of a chunk before the pixels is an error, one
/// of the pixels themselves, whose compressed stream has its own, or behind them is not. With `fill`, a file that
/// ends among its pixels or behind them will do.
pub(super) fn read(bytes: &[u8], fill: bool) -> Result<Header<'_>, ImageError> {
    let mut header = Header { bytes: Cow::Borrowed(bytes), ..Header::default() };
    let (mut pixels, mut xmp) = (false, None);
    let mut at = 8;
    loop {
        let Some((kind, body, found)) = chunk(bytes, at) else {
            let kind = array(bytes, at.saturating_add(4));
            if fill && (pixels || kind == Some(*b"IDAT")) {
                header.filled = true;
                break;
            }
            return Err(truncated("the PNG has no end chunk"));
        };
        let stop = at + 8 + body.len();
        if &kind == b"IEND" {
            break;
        }
        pixels |= &kind == b"IDAT";
        if !pixels && u64::from(crc32fast::hash(&bytes[at + 4..stop])) != found {
            let name = kind.escape_ascii();
            return Err(corrupt(format!("wrong checksum of PNG chunk {name} at byte {at}")));
        }
        match &kind {
            b"IHDR" => {
                (header.width, header.height) =
                    (be32(body, 0).unwrap_or(0), be32(body, 4).unwrap_or(0));
                header.gray_alpha16 = body.get(8..10) == Some(&[16, 4]);
            }
            b"acTL" if !pixels => header.animated = be32(body, 0).is_some_and(|frames| frames > 1),
            b"eXIf" => header.orientation = header.orientation.or_else(|| exif::orientation(body)),
            b"iTXt" if body.starts_with(b"XML:com.adobe.xmp\0") => {
                xmp = xmp.or_else(|| exif::xmp_orientation(body));
            }
            _ => {}
        }
        at = stop + 4;
    }
    header.orientation = header.orientation.or(xmp);
    Ok(header)
}

/// Kind, body and checksum of a chunk that is there as a whole.
fn chunk(bytes: &[u8], at: usize) -> Option<([u8; 4], &[u8], u64)> {
    let length = usize::try_from(be32(bytes, at)?).ok()?;
    let stop = (at + 8).checked_add(length)?;
    Some((array(bytes, at + 4)?, bytes.get(at + 8..stop)?, be32(bytes, stop)?))
}
