//! Files that end early, with what is missing filled as Pillow fills it with `LOAD_TRUNCATED_IMAGES`.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::collections::BTreeMap;
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
