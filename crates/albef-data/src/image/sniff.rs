//! What a file is, by its first bytes.

use albef_weights::FileKind;

use crate::error::{ImageError, ImageErrorKind as Kind};

/// Formats that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// JPEG.
    Jpeg,
    /// PNG and APNG.
    Png,
    /// WebP.
    WebP,
    /// GIF.
    Gif,
    /// BMP.
    Bmp,
    /// TIFF.
    Tiff,
    /// HEIC.
    #[cfg(feature = "heic")]
    Heic,
    /// AVIF.
    #[cfg(feature = "avif")]
    Avif,
}

impl Format {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
            #[cfg(feature = "heic")]
            Self::Heic => "HEIC",
            #[cfg(feature = "avif")]
            Self::Avif => "AVIF",
        }
    }
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// An image of a format that is read.
    Image(Format),
    /// An image of a format that is not read, by its name.
    Unread(&'static str),
    /// Anything else.
    Other,
}

/// How the names of images end that are not read, and what they are.
const UNREAD: [(&str, &[&str]); 21] = [
    ("HEIC", &["heic", "heif", "hif"]),
    ("AVIF", &["avif", "avifs"]),
    ("JPEG XL", &["jxl"]),
    ("JPEG 2000", &["jp2", "j2k", "jpx", "jpf"]),
    (
        "RAW",
        &[
            "cr2", "cr3", "crw", "nef", "nrw", "arw", "srf", "sr2", "dng", "orf", "rw2", "raf",
            "pef", "srw", "3fr", "erf", "kdc", "mrw", "x3f",
        ],
    ),
    ("PSD", &["psd", "psb"]),
    ("SVG", &["svg", "svgz"]),
    ("ICO", &["ico", "cur"]),
    ("TGA", &["tga"]),
    ("PNM", &["ppm", "pgm", "pbm", "pnm", "pam"]),
    ("PCX", &["pcx"]),
    ("ICNS", &["icns"]),
    ("DICOM", &["dcm", "dicom"]),
    ("EMF", &["emf"]),
    ("FITS", &["fits", "fit"]),
    ("EPS", &["eps"]),
    ("XPM", &["xpm"]),
    ("QOI", &["qoi"]),
    ("OpenEXR", &["exr"]),
    ("HDR", &["hdr"]),
    ("DDS", &["dds"]),
];

/// Bytes that tell what a file is.
pub(crate) const HEAD: usize = 512;

/// What begins with these bytes.
pub(crate) fn content(head: &[u8]) -> Content {
    use Content::{Image, Unread};
    let at = |place: usize, bytes: &[u8]| head.get(place..).is_some_and(|h| h.starts_with(bytes));
    let starts = |bytes: &[u8]| at(0, bytes);
    match () {
        () if starts(&[0xff, 0xd8, 0xff]) => Image(Format::Jpeg),
        () if starts(b"\x89PNG\r\n\x1a\n") => Image(Format::Png),
        () if starts(b"RIFF") && at(8, b"WEBP") => Image(Format::WebP),
        () if starts(b"GIF87a") || starts(b"GIF89a") => Image(Format::Gif),
        // The header that follows has one of a few sizes: two letters alone begin many a text.
        () if starts(b"BM") && at(15, &[0, 0, 0]) => Image(Format::Bmp),
        () if at(4, b"ftyp") => media(head).unwrap_or(Content::Other),
        () if starts(b"II*\0") && at(8, b"CR") => Unread("RAW"),
        () if [b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"].iter().any(|m| starts(*m)) => {
            Image(Format::Tiff)
        }
        () if starts(&[0xff, 0x0a]) || at(4, b"JXL \r\n\x87\n") => Unread("JPEG XL"),
        () if at(4, b"jP  \r\n\x87\n") || starts(&[0xff, 0x4f, 0xff, 0x51]) => Unread("JPEG 2000"),
        () if starts(b"FUJIFILMCCD-RAW") || starts(b"IIRO") || starts(b"IIU\0") => Unread("RAW"),
        () if starts(b"8BPS") => Unread("PSD"),
        () if starts(b"qoif") => Unread("QOI"),
        () if starts(b"\x76\x2f\x31\x01") => Unread("OpenEXR"),
        () if starts(b"DDS ") => Unread("DDS"),
        () if starts(b"#?RADIANCE") => Unread("HDR"),
        // The number of images follows, which is not 0.
        () if (starts(&[0, 0, 1, 0]) || starts(&[0, 0, 2, 0])) && at(5, &[0]) && !at(4, &[0]) => {
            Unread("ICO")
        }
        () if is_pnm(head) => Unread("PNM"),
        () if starts(&[10]) && at(2, &[1, 8]) => Unread("PCX"),
        () if starts(b"icns") => Unread("ICNS"),
        () if at(128, b"DICM") => Unread("DICOM"),
        () if starts(&[1, 0, 0, 0]) && at(40, b" EMF") => Unread("EMF"),
        () if starts(b"SIMPLE  = ") => Unread("FITS"),
        () if starts(b"%!PS") || starts(&[0xc5, 0xd0, 0xd3, 0xc6]) => Unread("EPS"),
        () if starts(b"/* XPM */") => Unread("XPM"),
        () if is_svg(head) => Unread("SVG"),
        () => Content::Other,
    }
}

#[cfg(feature = "heic")]
const HEIC: Content = Content::Image(Format::Heic);
#[cfg(not(feature = "heic"))]
const HEIC: Content = Content::Unread("HEIC");
#[cfg(feature = "avif")]
const AVIF: Content = Content::Image(Format::Avif);
#[cfg(not(feature = "avif"))]
const AVIF: Content = Content::Unread("AVIF");

/// The image format of an ISO media file; `None` for videos and others.
fn media(head: &[u8]) -> Option<Content> {
    let size = u32::from_be_bytes(head.get(..4)?.try_into().ok()?) as usize;
    let brands = head.get(8..size.clamp(12, head.len().max(12)))?;
    let has = |brand: &[u8]| brands.chunks(4).any(|b| b == brand);
    match &brands[..4] {
        b"avif" | b"avis" => Some(AVIF),
        b"crx " => Some(Content::Unread("RAW")),
        b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" => Some(HEIC),
        b"mif1" | b"msf1" if has(b"avif") => Some(AVIF),
        b"mif1" | b"msf1" => Some(HEIC),
        _ => None,
    }
}

/// `P1` to `P7`, then a blank, then a number, a comment or the first field of a header.
fn is_pnm(head: &[u8]) -> bool {
    let [b'P', b'1'..=b'7', blank, rest @ ..] = head else { return false };
    let next = rest.iter().find(|b| !b.is_ascii_whitespace());
    blank.is_ascii_whitespace()
        && (next.is_some_and(|b| b.is_ascii_digit() || *b == b'#') || rest.starts_with(b"WIDTH"))
}

fn is_svg(head: &[u8]) -> bool {
    let text = String::from_utf8_lossy(head).to_lowercase();
    let text = text.trim_start_matches('\u{feff}').trim_start();
    text.starts_with("<svg") || (text.starts_with("<?xml") && text.contains("<svg"))
}

/// The format of images whose names end so, if it is not read.
pub(crate) fn unread(extension: &str) -> Option<&'static str> {
    let has = |names: &[&str]| names.iter().any(|e| extension.eq_ignore_ascii_case(e));
    UNREAD.iter().find(|(_, names)| has(names)).map(|(name, _)| *name)
}

/// The format of a file that is read, or what the file is instead.
pub(super) fn format(bytes: &[u8]) -> Result<Format, ImageError> {
    let error = |kind, detail| Err(ImageError { kind, detail });
    if bytes.is_empty() {
        return error(Kind::Empty, "the file has no bytes".into());
    }
    match content(&bytes[..bytes.len().min(HEAD)]) {
        Content::Image(format) => Ok(format),
        Content::Unread("SVG") => {
            error(Kind::UnknownFormat, "an SVG drawing; only images of pixels are read".into())
        }
        Content::Unread(name) => error(Kind::Unsupported(name), not_supported(name)),
        Content::Other => error(Kind::UnknownFormat, other(bytes)),
    }
}

/// What to do with an image of a format that is not read.
pub(crate) fn not_supported(format: &str) -> String {
    match format {
        "HEIC" if !cfg!(feature = "heic") => not_built("HEIC", "heic"),
        "AVIF" if !cfg!(feature = "avif") => not_built("AVIF", "avif"),
        _ => format!("{format} is not supported; convert it to JPEG or PNG"),
    }
}

/// What to do with an image of a format that another build reads.
fn not_built(format: &str, feature: &str) -> String {
    format!(
        "{format} is not supported in this program; build it with `--features {feature}`, or convert the image to JPEG \
         or PNG"
    )
}

/// What a file is that is no image.
fn other(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(HEAD)];
    if bytes.ends_with(b"TRUEVISION-XFILE.\0") {
        return not_supported("TGA");
    }
    if head.get(4..).is_some_and(|h| h.starts_with(b"ftyp")) {
        return "a video or another media file, not an image".into();
    }
    FileKind::of(head, bytes.len() as u64).map_or_else(
        || "not JPEG, PNG, WebP, GIF, BMP or TIFF".into(),
        |kind| kind.instead_of("an image"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_that_are_not_read_are_named() {
        for (head, name) in [
            #[cfg(not(feature = "heic"))]
            (&b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"[..], "HEIC"),
            #[cfg(not(feature = "heic"))]
            (&b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic"[..], "HEIC"),
            #[cfg(not(feature = "avif"))]
            (&b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf"[..], "AVIF"),
            #[cfg(not(feature = "avif"))]
            (&b"\0\0\0\x18ftypavif\0\0\0\0mif1avif"[..], "AVIF"),
            (&b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom"[..], "RAW"),
            (&b"II*\0\x10\0\0\0CR\x02\0"[..], "RAW"),
            (&b"\xff\x0a\xfa\x1f"[..], "JPEG XL"),
            (&b"\0\0\0\x0cJXL \r\n\x87\n"[..], "JPEG XL"),
            (&b"\0\0\0\x0cjP  \r\n\x87\n"[..], "JPEG 2000"),
            (&b"8BPS\0\x01"[..], "PSD"),
            (&b"\0\0\x01\0\x02\0\x10\x10"[..], "ICO"),
            (&b"\0\0\x02\0\x01\0\x10\x10"[..], "ICO"),
            (&b"P3\n# made by hand\n2 2\n255\n"[..], "PNM"),
            (&b"P6 2 2 255 "[..], "PNM"),
            (&b"P7\nWIDTH 2\n"[..], "PNM"),
            (&b"\x0a\x05\x01\x08\0\0"[..], "PCX"),
            (&b"icns\0\0\x10\0"[..], "ICNS"),
            (&b"SIMPLE  =                    T"[..], "FITS"),
            (&b"%!PS-Adobe-3.0 EPSF-3.0"[..], "EPS"),
        ] {
            assert_eq!(content(head), Content::Unread(name));
            let refused = format(head).unwrap_err();
            assert_eq!(refused.kind, Kind::Unsupported(name));
            assert!(refused.detail.starts_with(&format!("{name} is not supported")), "{refused}");
        }
        for head in [
            &b"\0\0\0\x18ftypisom\0\0\0\0"[..],
            b"\0\0\0\x08ftyp",
            b"BMW drives",
            b"",
            b"\xff",
            b"P3 is a road",
            b"P2P",
        ] {
            assert_eq!(content(head), Content::Other, "{}", head.escape_ascii());
        }
        assert_eq!(
            (unread("HEIC"), unread("NEF"), unread("tif")),
            (Some("HEIC"), Some("RAW"), None)
        );
    }

    #[test]
    fn what_was_downloaded_in_place_of_an_image_is_named() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
        for (bytes, kind, part) in [
            (&pointer[..], Kind::UnknownFormat, "a Git LFS pointer to a file of 12345 bytes"),
            (b"\n<!DOCTYPE html><title>404", Kind::UnknownFormat, "an HTML page"),
            (b"<?xml version=\"1.0\"?><html xmlns=\"x\">", Kind::UnknownFormat, "an HTML page"),
            (b"<?xml version=\"1.0\"?><Error>AccessDenied", Kind::UnknownFormat, "an XML document"),
            (b"<svg xmlns=\"x\">", Kind::UnknownFormat, "an SVG drawing"),
            (b"", Kind::Empty, "no bytes"),
            (&[0; 64], Kind::UnknownFormat, "begins with zeros alone"),
            (b"\0\0\0\x18ftypisom\0\0\0\0", Kind::UnknownFormat, "a video"),
            (b"pixelsTRUEVISION-XFILE.\0", Kind::UnknownFormat, "TGA is not supported"),
        ] {
            let refused = format(bytes).unwrap_err();
            assert_eq!(refused.kind, kind, "{refused}");
            assert!(refused.detail.contains(part), "{refused}");
        }
    }
}
