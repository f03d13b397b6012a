//! The orientation in Exif and XMP metadata.

use image::metadata::Orientation;

use super::array;

const ORIENTATION: u16 = 0x0112;
/// The type of a number of four bytes.
const LONG: u16 = 4;

/// The orientation of an Exif block, which may begin with `Exif\0\0`.
pub(super) fn orientation(block: &[u8]) -> Option<Orientation> {
    let block = block.strip_prefix(b"Exif\0\0").unwrap_or(block);
    Orientation::from_exif_chunk(block).or_else(|| long_orientation(block))
}

/// The same where it has four bytes and not two, as some programs write it and Pillow reads it.
fn long_orientation(block: &[u8]) -> Option<Orientation> {
    let little = match block.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let short =
        |at| array(block, at).map(if little { u16::from_le_bytes } else { u16::from_be_bytes });
    let long =
        |at| array(block, at).map(if little { u32::from_le_bytes } else { u32::from_be_bytes });
    let first = usize::try_from(long(4)?).ok()?;
    let entry = |i: u16| first.checked_add(2 + 12 * usize::from(i));
    let mut entries = (0..short(first)?).map_while(entry);
    let at = entries.find(|at| {
        short(*at) == Some(ORIENTATION) && short(at + 2) == Some(LONG) && long(at + 4) == Some(1)
    })?;
    Orientation::from_exif(u8::try_from(long(at + 8)?).ok()?)
}

/// The Exif block in the text that ImageMagick puts into PNG files: three lines, the last of which is its length, and
/// its bytes as hexadecimal digits.
pub(super) fn raw_profile(text: &[u8]) -> Option<Vec<u8>> {
    let digits = text.splitn(4, |b| *b == b'\n').nth(3)?;
    let digits: Vec<u8> = digits.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    let byte = |pair: &[u8; 2]| {
        let digit = |b: u8| char::from(b).to_digit(16);
        Some((digit(pair[0])? << 4 | digit(pair[1])?) as u8)
    };
    pairs.iter().map(byte).collect()
}

/// The orientation of an XMP packet: `tiff:Orientation="6"` or `<tiff:Orientation>6<`. It counts where Exif
/// has none.
pub(super) fn xmp_orientation(packet: &[u8]) -> Option<Orientation> {
    const KEY: &[u8] = b"tiff:Orientation";
    let mut rest = packet;
    loop {
        let at = rest.windows(KEY.len()).position(|w| w == KEY)?;
        rest = &rest[at + KEY.len()..];
        let value = rest.strip_prefix(b"=\"").or_else(|| rest.strip_prefix(b">"));
        if let Some(digit) = value.and_then(|v| v.first()).filter(|d| d.is_ascii_digit()) {
            return Orientation::from_exif(digit - b'0');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block with one entry, after one of another tag.
    fn block(little: bool, kind: u16, count: u32, value: u32) -> Vec<u8> {
        let short = |n: u16| if little { n.to_le_bytes() } else { n.to_be_bytes() };
        let long = |n: u32| if little { n.to_le_bytes() } else { n.to_be_bytes() };
        let mut out = if little { b"II*\0".to_vec() } else { b"MM\0*".to_vec() };
        out.extend(long(8));
        out.extend(short(2));
        for (tag, kind, count, value) in [(0x0110, 2, 1, 0), (ORIENTATION, kind, count, value)] {
            out.extend([short(tag), short(kind)].concat());
            out.extend([long(count), long(value)].concat());
        }
        out
    }

    #[test]
    fn an_orientation_of_four_bytes_is_one() {
        let six = Some(Orientation::Rotate90);
        for little in [true, false] {
            let long = block(little, LONG, 1, 6);
            assert_eq!(orientation(&long), six);
            assert_eq!(orientation(&[b"Exif\0\0", &long[..]].concat()), six);
            for (kind, count, value) in [(LONG, 2, 6), (LONG, 1, 9), (LONG, 1, 0x10006), (2, 1, 6)]
            {
                assert_eq!(orientation(&block(little, kind, count, value)), None);
            }
            for end in 0..long.len() {
                assert_eq!(orientation(&long[..end]), None, "{end}");
            }
        }
        let mut far = block(true, LONG, 1, 6);
        far[4..8].fill(0xff);
        assert_eq!(orientation(&far), None);
    }

    #[test]
    fn the_profile_of_imagemagick_is_a_block() {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02X}")).collect::<String>();
        let bytes = block(true, LONG, 1, 6);
        let digits = hex(&bytes);
        let (first, second) = digits.split_at(20);
        let text = format!("\nexif\n    {}\n{first}\n{second}\n", bytes.len());
        assert_eq!(raw_profile(text.as_bytes()), Some(bytes));
        for wrong in ["", "\nexif\n 3", "\nexif\n 3\n4d4", "\nexif\n 3\nxy"] {
            assert_eq!(raw_profile(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn orientation_is_read_from_both_forms_of_xmp() {
        let six = Some(Orientation::Rotate90);
        assert_eq!(xmp_orientation(br#"<rdf tiff:Orientation="6"/>"#), six);
        assert_eq!(xmp_orientation(b"<tiff:Orientation>6</tiff:Orientation>"), six);
        assert_eq!(xmp_orientation(b"tiff:OrientationX tiff:Orientation=\"9\""), None);
        assert_eq!(xmp_orientation(b""), None);
    }
}
