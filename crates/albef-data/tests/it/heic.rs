//! HEIC images, in the forms that `tests/heic/make.py` writes with libheif.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};

use albef_data::error::ImageErrorKind as Kind;
use albef_data::image::{DecodeOptions, decode, decode_rgba};
use serde_json::{Map, Value};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/heic")
}

fn expected() -> Map<String, Value> {
    serde_json::from_slice(&fs::read(folder().join("expected.json")).unwrap()).unwrap()
}

#[test]
fn images_are_those_of_libheif_but_for_the_interpolation_of_colors() {
    for (name, form) in expected() {
        let bytes = fs::read(folder().join(&name)).unwrap();
        let image = decode_rgba(&bytes, &DecodeOptions::default()).unwrap();
        let size = serde_json::json!([image.width(), image.height()]);
        assert_eq!(size, form["size"], "{name}");
        let digits = form["rgba"].as_str().unwrap();
        let value = |at: usize| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap();
        let apart: Vec<u8> =
            image.as_raw().iter().enumerate().map(|(at, v)| v.abs_diff(value(at))).collect();
        let mean = apart.iter().map(|v| f64::from(*v)).sum::<f64>() / apart.len() as f64;
        let most = apart.iter().max().unwrap();
        // Colors of half the resolution are interpolated here and repeated by libheif.
        let halved = !["full_color.heic", "gray.heic"].contains(&name.as_str());
        let (limit, limit_mean) = if halved { (24, 3.0) } else { (1, 0.05) };
        assert!(
            *most <= limit && mean <= limit_mean,
            "{name}: off by {most}, {mean:.3} on average"
        );
    }
}

#[test]
fn broken_and_large_ones_are_errors_of_their_kind() {
    let whole = fs::read(folder().join("photo.heic")).unwrap();
    for cut in (12..whole.len()).step_by(11) {
        let error = decode(&whole[..cut], &DecodeOptions::default()).unwrap_err();
        assert!(matches!(error.kind, Kind::Truncated | Kind::Corrupt), "{cut}: {error}");
    }
    for at in (0..whole.len()).step_by(3) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x3c;
        // Whatever is found, nothing panics.
        let _ = decode(&bytes, &DecodeOptions::default());
    }
    let small = DecodeOptions { max_pixels: 53 * 41 - 1, ..DecodeOptions::default() };
    assert_eq!(decode(&whole, &small).unwrap_err().kind, Kind::TooLarge);
}
