//! AVIF images, in the forms that `tests/avif/make.py` writes with libavif, and as Pillow reads them.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};

use albef_data::error::ImageErrorKind as Kind;
use albef_data::image::{DecodeOptions, decode, decode_noted, decode_rgba};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/avif")
}

fn file(name: &str) -> Vec<u8> {
    fs::read(folder().join(name)).unwrap()
}

fn expected() -> Map<String, Value> {
    serde_json::from_slice(&file("expected.json")).unwrap()
}

/// The file with `to` in place of the first `from`.
fn patched(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

#[test]
fn images_are_those_of_pillow() {
    let all = expected();
    assert_eq!(all.len(), 26);
    for (name, form) in all {
        let bytes = file(&name);
        for (options, size, pixels) in [
            (DecodeOptions::default(), "size", "rgba"),
            (DecodeOptions::own_images(), "upright_size", "upright_rgba"),
        ] {
            let image = decode_rgba(&bytes, &options).unwrap();
            assert_eq!(json!([image.width(), image.height()]), form[size], "{name}");
            let hash: String =
                Sha256::digest(image.as_raw()).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(hash, form[pixels], "{name}: {pixels}");
        }
        let (_, notes) = decode_noted(&bytes, &DecodeOptions::default()).unwrap();
        assert_eq!(notes.animated, form["frames"] != 1, "{name}");
        assert_eq!(notes.oriented, name.starts_with("turned"), "{name}");
        assert_eq!(notes.transparent, ["tran", "prem"].contains(&&name[..4]), "{name}");
    }
}

#[test]
fn broken_ones_are_errors_and_never_panics() {
    for name in ["photo.avif", "transparent.avif", "grid.avif", "sequence.avif"] {
        let whole = file(name);
        // Of a sequence, the first frame is enough.
        let end = if name == "sequence.avif" { whole.len() / 2 } else { whole.len() };
        for cut in (12..end).step_by(29) {
            let error = decode(&whole[..cut], &DecodeOptions::default()).unwrap_err();
            assert!(matches!(error.kind, Kind::Truncated | Kind::Corrupt), "{cut}: {error}");
        }
        for at in (0..whole.len()).step_by(13) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x3c;
            // Whatever is found, nothing panics.
            let _ = decode(&bytes, &DecodeOptions::default());
        }
    }
}

#[test]
fn sizes_are_checked_before_anything_is_decoded() {
    let whole = file("photo.avif");
    let limited = |max_pixels| DecodeOptions { max_pixels, ..DecodeOptions::default() };
    assert!(decode(&whole, &limited(53 * 41)).is_ok());
    assert_eq!(decode(&whole, &limited(53 * 41 - 1)).unwrap_err().kind, Kind::TooLarge);
    let size = [0, 0, 0, 53, 0, 0, 0, 41];
    // What the container says is held against the frame, whose memory it limits.
    for (said, kind, part) in [
        ([0, 0, 0, 52, 0, 0, 0, 41], Kind::Corrupt, "AV1 data are broken"),
        ([0, 0, 32, 0, 0, 0, 32, 0], Kind::Corrupt, "a frame of 53 x 41 pixels"),
        ([0, 1, 0, 0, 0, 1, 0, 0], Kind::TooLarge, "65536 x 65536 pixels"),
        ([0, 0, 0, 0, 0, 0, 0, 41], Kind::Corrupt, "0 x 41 pixels"),
    ] {
        let error = decode(&patched(&whole, &size, &said), &DecodeOptions::default()).unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.detail.contains(part), "{error}");
    }
    // The tiles of a grid are larger than the image that is cut from them.
    let grid = file("grid.avif");
    assert!(decode(&grid, &limited(128 * 128)).is_ok());
    assert_eq!(decode(&grid, &limited(128 * 128 - 1)).unwrap_err().kind, Kind::TooLarge);
}

#[test]
fn forms_that_are_not_read_are_named() {
    let (photo, grid) = (file("photo.avif"), file("grid.avif"));
    for (bytes, kind, part) in [
        (
            patched(&photo, b"av01Color", b"hvc1Color"),
            Kind::Unsupported("AVIF"),
            "item of the kind `hvc1`",
        ),
        (
            patched(&photo, b"nclx\0\x01\0\x0d\0\x06", b"nclx\0\x01\0\x0d\0\x0e"),
            Kind::Unsupported("AVIF"),
            "the matrix 14",
        ),
        (
            // An essential property: the configuration of the decoder, under another name.
            patched(&photo, b"av1C", b"newP"),
            Kind::Unsupported("AVIF"),
            "property `newP`",
        ),
        (patched(&photo, b"pitm", b"free"), Kind::Corrupt, "no primary item"),
        (patched(&photo, b"meta", b"free"), Kind::Corrupt, "without a `meta` box"),
        (patched(&photo, b"ispe", b"free"), Kind::Corrupt, "has no size"),
        (
            patched(&file("sequence.avif"), b"meta", b"free"),
            Kind::Unsupported("AVIF"),
            "sequence without a still image",
        ),
        // A tile twice, and tiles that do not cover the image.
        (
            patched(&grid, b"dimg\0\x01\0\x04\0\x02\0\x03", b"dimg\0\x01\0\x04\0\x02\0\x02"),
            Kind::Corrupt,
            "4 tiles for 2 x 2",
        ),
        (
            patched(&grid, b"\0\0\x01\x01\0\x78\0\x64", b"\0\0\x01\x01\0\x40\0\x64"),
            Kind::Corrupt,
            "for 64 x 100",
        ),
    ] {
        let error = decode(&bytes, &DecodeOptions::default()).unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.detail.contains(part), "{error}");
    }
}

#[test]
fn items_cannot_share_the_bytes_of_a_file() {
    let grid = file("grid.avif");
    // All tiles get the place and the length of everything after the boxes.
    let places = grid.windows(4).position(|w| w == b"iloc").unwrap() + 12;
    let data = grid.windows(4).position(|w| w == b"mdat").unwrap() + 4;
    let mut bytes = grid.clone();
    for tile in 1..5 {
        let at = places + 16 * tile + 8;
        bytes[at..at + 4].copy_from_slice(&(data as u32).to_be_bytes());
        bytes[at + 4..at + 8].copy_from_slice(&((grid.len() - data) as u32).to_be_bytes());
    }
    let error = decode(&bytes, &DecodeOptions::default()).unwrap_err();
    assert_eq!(error.kind, Kind::Corrupt);
    assert!(error.detail.contains("share their bytes"), "{error}");
}
