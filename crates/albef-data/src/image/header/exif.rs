//! The orientation in Exif and XMP metadata.

use image::metadata::Orientation;

/// The orientation of an Exif block, which may begin with `Exif\0\0`.
pub(super) fn orientation(block: &[u8]) -> Option<Orientation> {
    Orientation::from_exif_chunk(block.strip_prefix(b"Exif\0\0").unwrap_or(block))
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

    #[test]
    fn orientation_is_read_from_both_forms_of_xmp() {
        let six = Some(Orientation::Rotate90);
        assert_eq!(xmp_orientation(br#"<rdf tiff:Orientation="6"/>"#), six);
        assert_eq!(xmp_orientation(b"<tiff:Orientation>6</tiff:Orientation>"), six);
        assert_eq!(xmp_orientation(b"tiff:OrientationX tiff:Orientation=\"9\""), None);
        assert_eq!(xmp_orientation(b""), None);
    }
}
