//! Files that end early, with what is missing filled as Pillow fills it with `LOAD_TRUNCATED_IMAGES`.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use albef_data::error::ImageErrorKind as Kind;
use albef_data::image::{DecodeOptions, RgbImage, TruncatedImages, decode, decode_noted};

const FILL: DecodeOptions = DecodeOptions {
    exif_orientation: false,
    background: albef_data::image::Background::Official,
    max_pixels: DecodeOptions::MAX_PIXELS,
    gray16: albef_data::image::Gray16::Clip,
    truncated: TruncatedImages::Fill,
    resize_order: albef_data::image::ResizeOrder::HorizontalFirst,
};

fn bytes_of(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/truncated").join(name)).unwrap()
}

/// Each file with its lengths for which there is an image by Pillow 13.
fn cuts() -> BTreeMap<String, Vec<usize>> {
    serde_json::from_slice(&bytes_of("cuts.json")).unwrap()
}

fn by_pillow(name: &str, cut: usize) -> RgbImage {
    let name = format!("{}_{cut}.png", name.replace('.', "_"));
    decode(&bytes_of(&name), &DecodeOptions::default()).unwrap()
}

/// The mean difference of channels, and the share of pixels that are off by more than rounding.
fn difference(one: &RgbImage, other: &RgbImage) -> (f64, f64) {
    assert_eq!((one.width, one.height), (other.width, other.height));
    let differences: Vec<u8> =
        one.pixels.iter().zip(&other.pixels).map(|(a, b)| a.abs_diff(*b)).collect();
    let sum: f64 = differences.iter().map(|d| f64::from(*d)).sum();
    let off = differences.chunks(3).filter(|pixel| pixel.iter().any(|d| *d > 6)).count();
    (sum / differences.len() as f64, off as f64 / (differences.len() / 3) as f64)
}

#[test]
fn what_is_missing_is_filled_as_pillow_fills_it() {
    for (name, cuts) in cuts() {
        let whole = bytes_of(&name);
        for cut in cuts {
            let refused = decode(&whole[..cut], &DecodeOptions::default()).unwrap_err();
            assert_eq!(refused.kind, Kind::Truncated, "{name}");
            let (image, notes) = decode_noted(&whole[..cut], &FILL).unwrap();
            assert!(notes.truncated, "{name}");
            let expected = by_pillow(&name, cut);
            let (mean, off) = difference(&image, &expected);
            match (name.as_str(), name.ends_with("png")) {
                (_, true) => assert_eq!(image, expected, "{name} up to {cut}"),
                // Its unfinished scan is left out.
                ("progressive.jpg", _) => assert!(mean < 6.0, "{name} up to {cut}: {mean}"),
                // Chroma of neighbors is mixed where the gray begins.
                _ => assert!(mean < 1.0 && off < 0.05, "{name} up to {cut}: {mean}, {off}"),
            }
        }
    }
}

#[test]
fn an_end_marker_behind_half_a_scan_leaves_gray() {
    for (name, cuts) in cuts().iter().filter(|(name, _)| name.ends_with("jpg")) {
        if name == "progressive.jpg" {
            continue;
        }
        for cut in cuts {
            let bytes = [&bytes_of(name)[..*cut], &[0xff, 0xd9]].concat();
            let (image, notes) = decode_noted(&bytes, &DecodeOptions::default()).unwrap();
            assert!(!notes.truncated);
            let (mean, off) = difference(&image, &by_pillow(name, *cut));
            assert!(mean < 1.0 && off < 0.05, "{name} up to {cut}: {mean}, {off}");
        }
    }
}

#[test]
fn every_beginning_is_an_image_or_truncated() {
    for name in cuts().keys() {
        let whole = bytes_of(name);
        let size = decode(&whole, &FILL).map(|image| (image.width, image.height)).unwrap();
        let mut filled = 0;
        for cut in 26..whole.len() {
            match decode(&whole[..cut], &FILL) {
                Ok(image) => {
                    assert_eq!((image.width, image.height), size, "{name} up to {cut}");
                    filled += 1;
                }
                Err(error) => {
                    assert_eq!(error.kind, Kind::Truncated, "{name} up to {cut}: {error}");
                }
            }
        }
        assert!(filled > whole.len() / 3, "{name}: {filled} of {}", whole.len());
    }
}

#[test]
fn damage_does_not_panic_nor_take_long() {
    for name in cuts().keys() {
        let whole = bytes_of(name);
        for at in (0..whole.len()).step_by(3) {
            let mut bytes = whole[..whole.len() * 4 / 5].to_vec();
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 0x55;
            }
            let _ = decode(&bytes, &FILL);
        }
    }
}

/// A PNG, gray, with these compressed pixels and a wrong checksum of its text if asked.
fn png(size: u32, interlace: u8, pixels: &[u8], wrong_text: bool) -> Vec<u8> {
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    let header = [&[size.to_be_bytes(); 2].concat()[..], &[8, 0, 0, 0, interlace]].concat();
    for (kind, body) in
        [(b"IHDR", &header[..]), (b"tEXt", b"a\0b"), (b"IDAT", pixels), (b"IEND", b"")]
    {
        let typed = [&kind[..], body].concat();
        let wrong = u32::from(wrong_text && kind == b"tEXt");
        out.extend((body.len() as u32).to_be_bytes());
        out.extend(&typed);
        out.extend((crc32fast::hash(&typed) ^ wrong).to_be_bytes());
    }
    out
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::none());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn grays(bytes: &[u8]) -> (Vec<u8>, bool) {
    let (image, notes) = decode_noted(bytes, &FILL).unwrap();
    (image.pixels.iter().step_by(3).copied().collect(), notes.truncated)
}

#[test]
fn a_png_with_a_broken_stream_is_filled_from_there_on() {
    let rows = [0, 1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9];
    let expected = |count| [&[1, 2, 3, 4, 5, 6, 7, 8, 9][..count], &[0; 9][count..]].concat();
    let whole = zlib(&rows);
    let wrong_sum = [&whole[..whole.len() - 1], &[whole[whole.len() - 1] ^ 1]].concat();
    for (pixels, count) in [
        (zlib(&rows[..8]), 6),
        (zlib(&rows[..6]), 3),
        (zlib(&[]), 0),
        (whole[..whole.len() - 6].to_vec(), 6),
        (wrong_sum, 9),
        ([&zlib(&rows[..8])[..], b"more"].concat(), 6),
    ] {
        assert_eq!(grays(&png(3, 0, &pixels, false)), (expected(count), true), "{count}");
    }
    assert_eq!(grays(&png(3, 0, &whole, false)), (expected(9), false));
    // A wrong checksum counts where there is no other way to read a file.
    assert_eq!(grays(&png(3, 0, &whole, true)), (expected(9), false));
    let refused = decode(&png(3, 0, &whole, true), &DecodeOptions::default()).unwrap_err();
    assert_eq!(refused.kind, Kind::Corrupt);
}

#[test]
fn of_an_interlaced_png_the_passes_that_are_there_are_shown() {
    // The first two passes of five columns have a pixel each, the third has two.
    let pixels = zlib(&[0, 10, 0, 20, 0, 30, 40]);
    let png = png(5, 1, &pixels, false);
    let mut expected = [0; 25];
    for (x, y, value) in [(0, 0, 10), (4, 0, 20), (0, 4, 30), (4, 4, 40)] {
        expected[y * 5 + x] = value;
    }
    assert_eq!(grays(&png), (expected.to_vec(), true));
    let cut = png.len() - 16;
    assert_eq!(grays(&png[..cut]), (expected.to_vec(), true));
    assert!(decode(&png, &DecodeOptions::default()).is_err());
}
