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
    let mut grays = None;
    loop {
        match bytes.get(at).ok_or_else(end)? {
            0x3b => break,
            0x21 => at = skip_blocks(bytes, at + 2).ok_or_else(end)?,
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
                    grays = (global + table(*flags) == 0).then_some(at);
                }
                frames += 1;
                // One byte before the data is the size of their codes.
                at = skip_blocks(bytes, at + 11 + table(*flags)).ok_or_else(end)?;
            }
            // Pillow passes over anything else between blocks.
            _ => at += 1,
        }
    }
    if frames == 0 {
        return Err(corrupt("a GIF without a frame"));
    }
    header.animated = frames > 1;
    header.bytes = Cow::Borrowed(&bytes[..=at]);
    if let Some(frame) = grays {
        header.bytes = Cow::Owned(with_grays(&bytes[..=at], frame));
    }
    Ok(header)
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
fn with_grays(bytes: &[u8], frame: usize) -> Vec<u8> {
    let mut out = bytes[..frame + 10].to_vec();
    out[frame + 9] |= 0x87;
    out.extend((0..=255).flat_map(|v| [v; 3]));
    out.extend_from_slice(&bytes[frame + 10..]);
    out
}
