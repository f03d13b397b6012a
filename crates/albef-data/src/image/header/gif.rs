//! The blocks of a GIF.

use std::borrow::Cow;

use super::{Header, corrupt, le16, truncated};
use crate::error::ImageError;

/// Walks from block to block to the trailer, and finds the size that holds both screen and first frame.
pub(super) fn read(bytes: &[u8]) -> Result<Header<'_>, ImageError> {
    let end = || truncated("the GIF has no trailer");
    let (Some(width), Some(height), Some(flags)) = (le16(bytes, 6), le16(bytes, 8), bytes.get(10))
    else {
        return Err(end());
    };
    let mut header = Header { width, height, ..Header::default() };
    let mut frames = 0;
    let global = table(*flags);
    let mut at = 13 + global;
    let (mut first, mut transparent) = (0..0, None);
    loop {
        match bytes.get(at).ok_or_else(end)? {
            0x3b => break,
            0x21 => {
                let control = bytes.get(at + 1) == Some(&0xf9) && frames == 0;
                if control && bytes.get(at + 3).is_some_and(|flags| flags & 1 != 0) {
                    transparent = bytes.get(at + 6).copied();
                }
                at = skip_blocks(bytes, at + 2).ok_or_else(end)?;
            }
            0x2c => {
                let flags = bytes.get(at + 9).ok_or_else(end)?;
                let side = |place| le16(bytes, at + place).unwrap_or(0);
                if frames == 0 {
                    header.width = width.max(side(1) + side(5));
                    header.height = height.max(side(3) + side(7));
                    if side(5) == 0 || side(7) == 0 {
                        return Err(corrupt(format!(
                            "a first frame of {} x {} pixels",
                            side(5),
                            side(7)
                        )));
                    }
                }
                // One byte before the data is the size of their codes.
                let behind = skip_blocks(bytes, at + 11 + table(*flags)).ok_or_else(end)?;
                if frames == 0 {
                    first = at..behind;
                }
                frames += 1;
                at = behind;
            }
            // Pillow passes over anything else between blocks.
            _ => at += 1,
        }
    }
    if frames == 0 {
        return Err(corrupt("a GIF without a frame"));
    }
    header.animated = frames > 1;
    header.bytes = Cow::Owned(with_frame(&bytes[..13 + global], &bytes[first], transparent));
    Ok(header)
}

/// A file of the first frame alone, since the decoder takes less odd bytes before it than Pillow.
fn with_frame(head: &[u8], frame: &[u8], transparent: Option<u8>) -> Vec<u8> {
    let mut out = head.to_vec();
    if let Some(index) = transparent {
        out.extend([0x21, 0xf9, 4, 1, 0, 0, index, 0]);
    }
    match head.len() == 13 && table(frame[9]) == 0 {
        true => out.extend(with_grays(frame)),
        false => out.extend(frame),
    }
    out.push(0x3b);
    out
}

/// Bytes of the color table that flags announce.
fn table(flags: u8) -> usize {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

/// The place behind a chain of data blocks.
fn skip_blocks(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let size = usize::from(*bytes.get(at)?);
        at += 1 + size;
        if size == 0 {
            return Some(at);
        }
    }
}

/// Gives a frame without any color table that of grays, which its values then are.
fn with_grays(frame: &[u8]) -> Vec<u8> {
    let mut out = frame[..10].to_vec();
    out[9] |= 0x87;
    out.extend((0..=255).flat_map(|v| [v; 3]));
    out.extend_from_slice(&frame[10..]);
    out
}
