//! The chunks of a PNG.

use std::borrow::Cow;
use std::io::Read;

use flate2::read::ZlibDecoder;

use super::{Header, array, be32, corrupt, exif, truncated};
use crate::error::ImageError;

/// The key of the profile, and what ends it.
const PROFILE: &[u8] = b"Raw profile type exif\0";
/// Bytes of an unpacked text; a longer one is passed over, as in Pillow.
const LONGEST_TEXT: u64 = 1 << 20;

/// Walks from chunk to chunk. As in Pillow 13, a wrong checksum of a chunk before the pixels is an error, one
/// of the pixels themselves, whose compressed stream has its own, or behind them is not. With `fill`, a file that
/// ends among its pixels or behind them will do.
pub(super) fn read(bytes: &[u8], fill: bool) -> Result<Header<'_>, ImageError> {
    let mut header = Header { bytes: Cow::Borrowed(bytes), ..Header::default() };
    let (mut pixels, mut xmp) = (false, None);
    let (mut has_exif, mut profile) = (false, None);
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
        // Pillow takes what it may do without as it is then.
        let unchecked = pixels || fill && kind[0].is_ascii_lowercase();
        if !unchecked && u64::from(crc32fast::hash(&bytes[at + 4..stop])) != found {
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
            b"eXIf" => {
                has_exif = true;
                header.orientation = header.orientation.or_else(|| exif::orientation(body));
            }
            b"tEXt" | b"zTXt" if body.starts_with(PROFILE) => profile = Some((kind, body)),
            b"iTXt" if body.starts_with(b"XML:com.adobe.xmp\0") => {
                xmp = xmp.or_else(|| exif::xmp_orientation(body));
            }
            _ => {}
        }
        at = stop + 4;
    }
    // As in Pillow, the profile counts where there is no chunk of Exif.
    if !has_exif {
        header.orientation = profile.and_then(|(kind, body)| {
            exif::orientation(&exif::raw_profile(&raw_profile(&kind, body)?)?)
        });
    }
    header.orientation = header.orientation.or(xmp);
    Ok(header)
}

/// The text of the Exif profile that a chunk of text holds, as ImageMagick writes it.
fn raw_profile<'a>(kind: &[u8; 4], body: &'a [u8]) -> Option<Cow<'a, [u8]>> {
    let text = body.strip_prefix(PROFILE)?;
    if kind == b"tEXt" {
        return Some(Cow::Borrowed(text));
    }
    // The only method of compression there is.
    let packed = text.strip_prefix(b"\0")?;
    let mut text = Vec::new();
    ZlibDecoder::new(packed).take(LONGEST_TEXT + 1).read_to_end(&mut text).ok()?;
    (text.len() as u64 <= LONGEST_TEXT).then_some(Cow::Owned(text))
}

/// Kind, body and checksum of a chunk that is there as a whole.
pub(in crate::image) fn chunk(bytes: &[u8], at: usize) -> Option<([u8; 4], &[u8], u64)> {
    let length = usize::try_from(be32(bytes, at)?).ok()?;
    let stop = (at + 8).checked_add(length)?;
    Some((array(bytes, at + 4)?, bytes.get(at + 8..stop)?, be32(bytes, stop)?))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use image::metadata::Orientation;

    use super::*;

    fn push(out: &mut Vec<u8>, kind: &[u8; 4], body: &[u8]) {
        out.extend((body.len() as u32).to_be_bytes());
        let summed = [kind, body].concat();
        out.extend(&summed);
        out.extend(crc32fast::hash(&summed).to_be_bytes());
    }

    /// The orientation of a PNG with these chunks.
    fn orientation(chunks: &[(&[u8; 4], Vec<u8>)]) -> Option<Orientation> {
        let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
        push(&mut bytes, b"IHDR", &[0, 0, 0, 1, 0, 0, 0, 1, 8, 0, 0, 0, 0]);
        chunks.iter().for_each(|(kind, body)| push(&mut bytes, kind, body));
        push(&mut bytes, b"IEND", b"");
        read(&bytes, false).unwrap().orientation
    }

    /// A block of Exif with this orientation.
    fn block(value: u8) -> Vec<u8> {
        let entry = [0x12, 1, 4, 0, 1, 0, 0, 0, value, 0, 0, 0];
        [&b"Exif\0\0II*\0\x08\0\0\0\x01\0"[..], &entry, &[0; 4]].concat()
    }

    fn profile(block: &[u8]) -> Vec<u8> {
        let hex: String = block.iter().map(|b| format!("{b:02x}")).collect();
        format!("\nexif\n {:7}\n{hex}\n", block.len()).into_bytes()
    }

    fn packed(text: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(text).unwrap();
        [b"Raw profile type exif\0\0", &out.finish().unwrap()[..]].concat()
    }

    #[test]
    fn the_exif_profile_of_imagemagick_counts_where_there_is_no_chunk_of_exif() {
        let plain = [b"Raw profile type exif\0", &profile(&block(6))[..]].concat();
        let six = Some(Orientation::Rotate90);
        assert_eq!(orientation(&[(b"tEXt", plain.clone())]), six);
        assert_eq!(orientation(&[(b"zTXt", packed(&profile(&block(6))))]), six);
        let both = [(b"tEXt", plain.clone()), (b"eXIf", block(3)[6..].to_vec())];
        assert_eq!(orientation(&both), Some(Orientation::Rotate180));
        let xmp = b"XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation=\"8\"/>".to_vec();
        assert_eq!(orientation(&[(b"iTXt", xmp.clone()), (b"tEXt", plain)]), six);
        // What cannot be read, or is beyond all measure, is passed over.
        let wrong = b"Raw profile type exif\0\0no stream".to_vec();
        for body in [wrong, packed(&[b'\n'; (1 << 20) + 1])] {
            let chunks = [(b"iTXt", xmp.clone()), (b"zTXt", body)];
            assert_eq!(orientation(&chunks), Some(Orientation::Rotate270));
        }
    }
}
