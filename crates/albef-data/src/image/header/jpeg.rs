//! The markers of a JPEG.

use std::borrow::Cow;

use super::{Header, be16, corrupt, exif, truncated};
use crate::error::{ImageError, ImageErrorKind as Kind};

const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";

/// Walks from marker to marker to the end marker of the image itself: thumbnails in segments and images that
/// follow do not count. As in libjpeg, bytes between segments are passed over, and data of a scan that stop
/// early are no error as long as the markers go on. With `fill`, a file that ends in or behind a scan gets its end
/// marker, in place of an unfinished scan if it is progressive.
pub(super) fn read(bytes: &[u8], fill: bool) -> Result<Header<'_>, ImageError> {
    let mut header = Header::default();
    let (mut frame, mut jfif) = (None, false);
    let mut sampling = (1, 1);
    // Places of the color transform in Adobe markers.
    let mut adobe = Vec::new();
    let (mut exif, mut xmp) = (None, None);
    let (mut whole_scan, mut progressive) = (false, false);
    // Places of the markers of scans.
    let mut scans = Vec::new();
    let mut at = 2;
    let end_at = loop {
        let Some((marker, after)) = next_marker(bytes, at) else { break None };
        at = after;
        match marker {
            0xd9 => break Some(at),
            0xd8 => return Err(truncated("another JPEG begins before the end of this one")),
            // Without a length: TEM, and restarts of a scan.
            0x01 | 0xd0..=0xd7 => continue,
            0x02..=0xbf => {
                return Err(corrupt(format!(
                    "unknown JPEG marker FF {marker:02X} at byte {}",
                    at - 2
                )));
            }
            0xda if whole_scan => {
                return Err(corrupt(format!(
                    "a second scan of a finished JPEG at byte {}",
                    at - 2
                )));
            }
            _ => {}
        }
        let Some(length) = be16(bytes, at) else { break None };
        let length = length as usize;
        // What a reader need not know may have no length at all.
        if length < 2 && !matches!(marker, 0xe0..=0xef | 0xfe) {
            return Err(corrupt(format!("JPEG segment FF {marker:02X} of length {length}")));
        }
        let length = length.max(2);
        let Some(body) = bytes.get(at + 2..at + length) else { break None };
        match marker {
            0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => {
                let (Some(height), Some(width), Some(components)) =
                    (be16(body, 1), be16(body, 3), body.get(5))
                else {
                    return Err(corrupt("a JPEG frame header without size"));
                };
                if frame.replace((marker, *components)).is_some() {
                    return Err(corrupt("a JPEG with two frame headers"));
                }
                sampling = check_kind(marker, body)?;
                (header.width, header.height) = (width, height);
            }
            0xda => {
                let Some((kind, components)) = frame else {
                    return Err(corrupt("a JPEG scan before the frame header"));
                };
                progressive = matches!(kind, 0xc2 | 0xc6 | 0xca | 0xce);
                if progressive && !progressive_scan(body) {
                    let place = at - 2;
                    return Err(corrupt(format!(
                        "impossible progression of the JPEG scan at byte {place}"
                    )));
                }
                let partial = body.first().copied().filter(|n| !progressive && *n < components);
                // The decoder would mix up the blocks.
                if partial.is_some_and(|n| sampling != (1, 1) && (n, sampling) != (1, (2, 1))) {
                    return Err(unsupported("subsampled colors in scans of their own"));
                }
                whole_scan = !progressive && body.first().is_some_and(|n| *n >= components);
                scans.push(at - 2);
            }
            0xe0 if body.starts_with(b"JFIF\0") && body.len() >= 14 => jfif = true,
            0xe1 if body.starts_with(b"Exif\0\0") => {
                exif = exif.or_else(|| exif::orientation(body))
            }
            0xe1 if body.starts_with(XMP) => xmp = xmp.or_else(|| exif::xmp_orientation(body)),
            0xee if body.starts_with(b"Adobe") && body.len() >= 12 => adobe.push(at + 2 + 11),
            _ => {}
        }
        at += length;
    };
    header.orientation = exif.or(xmp);
    header.bytes = match (end_at, &scans[..]) {
        (Some(end), _) => Cow::Borrowed(&bytes[..end]),
        (None, [_, .., unfinished]) if fill && progressive => with_end(&bytes[..*unfinished]),
        (None, [_]) if fill && whole_scan => with_end(bytes),
        _ => return Err(truncated("the JPEG has no end marker")),
    };
    header.filled = end_at.is_none();
    // The decoder takes fewer color transforms than libjpeg, and the marker against JFIF.
    let transform = |given: u8, components: u8| match components {
        3 => u8::from(jfif || given != 0),
        4 if given != 0 => 2,
        4 => 0,
        _ => given.min(2),
    };
    if let Some((_, components)) = frame {
        for place in adobe {
            let given = bytes[place];
            let meant = transform(given, components);
            if meant != given {
                header.bytes.to_mut()[place] = meant;
            }
        }
    }
    Ok(header)
}

fn unsupported(detail: &str) -> ImageError {
    let detail =
        format!("a JPEG of a kind that is not read ({detail}); convert it to a plain JPEG or PNG");
    ImageError { kind: Kind::Unsupported("JPEG"), detail }
}

/// Columns and rows of blocks of brightness in a unit. Refuses what the decoder does not know, or would show in wrong
/// colors.
fn check_kind(marker: u8, body: &[u8]) -> Result<(u8, u8), ImageError> {
    match (marker, body.first()) {
        (0xc9..=0xcf, _) => return Err(unsupported("arithmetic coding")),
        (0xc3, _) => return Err(unsupported("lossless")),
        (0xc5..=0xc7, _) => return Err(unsupported("hierarchical")),
        (_, Some(bits)) if *bits != 8 => return Err(unsupported(&format!("{bits} bits"))),
        _ => {}
    }
    let factors = body.get(6..).unwrap_or_default().chunks_exact(3).map(|c| (c[1] >> 4, c[1] & 15));
    let factors: Vec<_> = factors.collect();
    let across = factors.iter().map(|f| f.0).max().unwrap_or(1);
    let down = factors.iter().map(|f| f.1).max().unwrap_or(1);
    if factors.len() == 3 && factors[0] != (across, down) {
        return Err(unsupported("colors of more pixels than brightness"));
    }
    if factors.len() > 1 && across == 3 {
        return Err(unsupported("colors of a third of the columns"));
    }
    Ok((across, down))
}

fn with_end(bytes: &[u8]) -> Cow<'_, [u8]> {
    Cow::Owned([bytes, &[0xff, 0xd9]].concat())
}

/// Whether coefficients and bits of a progressive scan are possible ones.
fn progressive_scan(body: &[u8]) -> bool {
    let components = body.first().map_or(0, |n| usize::from(*n));
    let Some(&[first, last, bits]) = body.get(1 + 2 * components..4 + 2 * components) else {
        return false;
    };
    let (high, low) = (bits >> 4, bits & 15);
    let range = match first {
        0 => last == 0,
        _ => first <= last && last < 64 && components == 1,
    };
    range && (high == 0 || low == high - 1) && low <= 13
}

/// The next marker from `at` on, and the place behind it. In a scan `FF 00` is data.
fn next_marker(bytes: &[u8], mut at: usize) -> Option<(u8, usize)> {
    loop {
        at += bytes.get(at..)?.iter().position(|b| *b == 0xff)?;
        at += bytes[at..].iter().position(|b| *b != 0xff)?;
        if bytes[at] != 0 {
            return Some((bytes[at], at + 1));
        }
    }
}
