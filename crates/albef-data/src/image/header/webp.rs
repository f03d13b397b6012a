//! The chunks of a WebP.

use std::borrow::Cow;

use super::{Header, array, corrupt, exif, le16, le24, le32, truncated};
use crate::error::ImageError;

/// Flags of the extended header.
const ALPHA: u8 = 0x10;
const ANIMATION: u8 = 0x02;
const EXIF: u8 = 0x08;
const XMP: u8 = 0x04;

/// Chunks `(name, start of the body, end of the body)` between two places of a file.
fn chunks(
    bytes: &[u8],
    mut at: usize,
    end: usize,
) -> Result<Vec<([u8; 4], usize, usize)>, ImageError> {
    let mut found = Vec::new();
    // A single byte may be left over as padding.
    while at + 8 <= end {
        let (Some(name), Some(size)) = (array(bytes, at), le32(bytes, at + 4)) else { break };
        let stop = (at + 8).saturating_add(size as usize);
        if stop > end {
            let name = name.escape_ascii();
            return Err(truncated(format!(
                "WebP chunk {name} at byte {at} reaches beyond the file"
            )));
        }
        found.push((name, at + 8, stop));
        at = stop + (size & 1) as usize;
    }
    Ok(found)
}

/// The size in a `VP8 ` or `VP8L` chunk.
fn frame_size(name: &[u8; 4], body: &[u8]) -> Option<(u64, u64)> {
    match name {
        b"VP8 " => Some((le16(body, 6)? & 0x3fff, le16(body, 8)? & 0x3fff)),
        b"VP8L" => {
            let bits = le32(body, 1)?;
            Some(((bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1))
        }
        _ => None,
    }
}

/// The file must be as long as its header says. Of an animation the first frame alone goes to the decoder,
/// which would blend it over black and so lose the colors of transparent pixels.
pub(super) fn read(bytes: &[u8]) -> Result<Header<'_>, ImageError> {
    let size = le32(bytes, 4).ok_or_else(|| truncated("the WebP ends in its header"))?;
    let end = (size as usize).saturating_add(8);
    if end > bytes.len() {
        return Err(truncated(format!(
            "a WebP of {end} bytes, of which {} are there",
            bytes.len()
        )));
    }
    let bytes = &bytes[..end];
    let all = chunks(bytes, 12, end)?;
    let mut header = Header { bytes: Cow::Borrowed(bytes), ..Header::default() };
    let Some((first, start, stop)) = all.first() else {
        return Err(truncated("a WebP without an image"));
    };
    let body = &bytes[*start..*stop];
    if first != b"VP8X" {
        (header.width, header.height) = frame_size(first, body).unwrap_or((0, 0));
        return Ok(header);
    }
    let (Some(flags), Some(width), Some(height)) = (body.first(), le24(body, 4), le24(body, 7))
    else {
        return Err(corrupt("a WebP header without size"));
    };
    (header.width, header.height) = (width + 1, height + 1);
    let named = |name: &'static [u8; 4]| {
        let of_name = all.iter().filter(move |(n, ..)| n == name);
        of_name.map(|(_, start, stop)| &bytes[*start..*stop])
    };
    // As in libwebp, metadata count if a flag announces them.
    let announced = |flag, name| named(name).filter(move |_| *flags & flag != 0);
    header.orientation = announced(EXIF, b"EXIF")
        .find_map(exif::orientation)
        .or_else(|| announced(XMP, b"XMP ").find_map(exif::xmp_orientation));
    if flags & ANIMATION != 0 {
        header.animated = named(b"ANMF").nth(1).is_some();
        let frame =
            named(b"ANMF").next().ok_or_else(|| truncated("an animation without frames"))?;
        first_frame(&mut header, frame)?;
        return Ok(header);
    }
    // The decoder wants all that is announced.
    let mut wanted = flags & !(EXIF | XMP);
    if !all.iter().any(|(name, ..)| matches!(name, b"ALPH" | b"VP8L")) {
        wanted &= !ALPHA;
    }
    if wanted != *flags {
        header.bytes.to_mut()[*start] = wanted;
    }
    Ok(header)
}

/// Makes a file of one frame, and keeps its place on the canvas.
fn first_frame(header: &mut Header<'_>, frame: &[u8]) -> Result<(), ImageError> {
    let short = || corrupt("an animation whose first frame has no size");
    let field = |at| le24(frame, at).ok_or_else(short);
    let (left, top) = (field(0)? * 2, field(3)? * 2);
    let (width, height) = (field(6)? + 1, field(9)? + 1);
    if left + width > header.width || top + height > header.height {
        return Err(corrupt("the first frame reaches beyond the animation"));
    }
    let (mut body, mut alpha) = (Vec::new(), 0);
    for (name, start, stop) in chunks(frame, 16, frame.len())? {
        if matches!(&name, b"ALPH" | b"VP8 " | b"VP8L") {
            let content = &frame[start..stop];
            // Bit 28 of the header of lossless data.
            let transparent = &name == b"VP8L" && content.get(4).is_some_and(|b| b & 0x10 != 0);
            if &name == b"ALPH" || transparent {
                alpha = ALPHA;
            }
            if frame_size(&name, content).is_some_and(|size| size != (width, height)) {
                return Err(corrupt("the size of the first frame is not that of its image"));
            }
            put_chunk(&mut body, name, content);
        }
    }
    let mut file = b"RIFF\0\0\0\0WEBP".to_vec();
    let mut extended = vec![alpha, 0, 0, 0];
    for side in [width - 1, height - 1] {
        extended.extend_from_slice(&(side as u32).to_le_bytes()[..3]);
    }
    put_chunk(&mut file, *b"VP8X", &extended);
    file.extend_from_slice(&body);
    let size = (file.len() - 8) as u32;
    file[4..8].copy_from_slice(&size.to_le_bytes());
    header.bytes = Cow::Owned(file);
    header.frame = Some([left as usize, top as usize]);
    Ok(())
}

fn put_chunk(file: &mut Vec<u8>, name: [u8; 4], content: &[u8]) {
    file.extend_from_slice(&name);
    file.extend_from_slice(&(content.len() as u32).to_le_bytes());
    file.extend_from_slice(content);
    if content.len() % 2 == 1 {
        file.push(0);
    }
}
