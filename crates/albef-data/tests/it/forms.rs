//! Every form of the formats that are read, small: each decodes to what Pillow 13 gives, and no part of one
//! counts as an image.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::fs;
use std::io::Write;
use std::path::Path;

use albef_data::error::ImageErrorKind as Kind;
use albef_data::image::{Background, DecodeOptions, ImageNotes, RgbImage, decode, decode_noted};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

fn bytes_of(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/forms").join(name)).unwrap()
}

/// Names and expectations of all files.
fn forms() -> Map<String, Value> {
    serde_json::from_slice(&bytes_of("expected.json")).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// How an image differs from what is expected: the hash of its pixels, or their digits up to `far`.
fn difference(image: &RgbImage, size: &Value, expected: &Value, far: u8) -> Option<String> {
    let (found, expected) = (json!([image.width, image.height]), expected.as_str().unwrap());
    if found != *size {
        return Some(format!("{found}, not {size}"));
    }
    if expected.len() == 64 {
        return (hex(&Sha256::digest(&image.pixels)) != expected).then(|| "other pixels".into());
    }
    let value = |at: usize| u8::from_str_radix(&expected[2 * at..2 * at + 2], 16).unwrap();
    let all = image.pixels.iter().enumerate();
    let most = all.map(|(at, v)| v.abs_diff(value(at))).max().unwrap();
    (most > far || expected.len() != 2 * image.pixels.len()).then(|| format!("off by {most}"))
}

#[test]
fn all_forms_decode_as_pillow_does() {
    let mut problems = Vec::new();
    let forms = forms();
    assert!(forms.len() > 100, "{}", forms.len());
    for (name, form) in &forms {
        let bytes = bytes_of(name);
        let official = DecodeOptions::default();
        let upright = DecodeOptions { exif_orientation: true, ..official };
        let on_white = DecodeOptions { background: Background::WHITE, ..official };
        // JPEG decoders differ by a few values; layers of rounding by one.
        for (options, size, pixels, far) in [
            (official, "size", "rgb", 4),
            (upright, "upright_size", "upright", 4),
            (on_white, "size", "on_white", 1),
        ] {
            if form[pixels].is_null() {
                continue;
            }
            let (image, notes) = match decode_noted(&bytes, &options) {
                Ok(decoded) => decoded,
                Err(e) => {
                    problems.push(format!("{name}: {e}"));
                    continue;
                }
            };
            let expected = ImageNotes {
                oriented: form["oriented"] == true,
                transparent: form["transparent"] == true,
                animated: form["animated"] == true,
                truncated: false,
            };
            if notes != expected {
                problems.push(format!("{name}: {notes:?}"));
            }
            if let Some(difference) = difference(&image, &form[size], &form[pixels], far) {
                problems.push(format!("{name}, {pixels}: {difference}"));
            }
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

/// No proper beginning of a file is an image.
fn all_beginnings_are_refused(name: &str, bytes: &[u8]) {
    let options = DecodeOptions::default();
    decode(bytes, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
    // The last row of a BMP may lack its padding, and runs their end.
    let padding = if name.ends_with("bmp") { 3 } else { 0 };
    for end in 0..bytes.len() - padding {
        let refused = decode(&bytes[..end], &options).err();
        let kind = refused.map(|e| e.kind);
        let early = end < 26 && matches!(kind, Some(Kind::UnknownFormat | Kind::Empty));
        let corrupt = kind == Some(Kind::Corrupt) && name.ends_with("bmp");
        assert!(early || corrupt || kind == Some(Kind::Truncated), "{name} up to {end}: {kind:?}");
    }
}

#[test]
fn an_image_without_its_end_is_truncated() {
    for name in forms().keys() {
        all_beginnings_are_refused(name, &bytes_of(name));
    }
}

fn png_chunk(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let typed = [&kind[..], body].concat();
    let sum = crc32fast::hash(&typed).to_be_bytes();
    [&(body.len() as u32).to_be_bytes()[..], &typed, &sum].concat()
}

fn with(bytes: &[u8], at: usize, inserted: &[u8]) -> Vec<u8> {
    [&bytes[..at], inserted, &bytes[at..]].concat()
}

#[test]
fn the_end_of_an_inner_image_is_not_the_end_of_the_outer_one() {
    let jpeg = bytes_of("baseline.jpg");
    for (marker, head) in [(0xe1_u8, &b"Exif\0\0"[..]), (0xe2, b"MPF\0"), (0xfe, b"")] {
        let length = (jpeg.len() + head.len() + 2) as u16;
        let segment = [&[0xff, marker][..], &length.to_be_bytes(), head, &jpeg].concat();
        all_beginnings_are_refused("thumbnail.jpg", &with(&jpeg, 20, &segment));
    }
    let png = bytes_of("rgb.png");
    all_beginnings_are_refused("inner.png", &with(&png, 33, &png_chunk(b"tEXt", &png)));
    let gif = bytes_of("p.gif");
    let table = 13 + (3 << ((gif[10] & 7) + 1));
    let blocks = gif.chunks(255).flat_map(|b| [&[b.len() as u8][..], b].concat());
    let comment: Vec<u8> = [0x21, 0xfe].into_iter().chain(blocks).chain([0]).collect();
    all_beginnings_are_refused("inner.gif", &with(&gif, table, &comment));

    let options = DecodeOptions::default();
    let cut = &jpeg[..jpeg.len() - 20];
    let two = [cut, &jpeg].concat();
    assert_eq!(decode(&two, &options).unwrap_err().kind, Kind::Truncated);
    // A whole one may be followed by anything.
    let whole = decode(&jpeg, &options).unwrap();
    for after in [cut, &jpeg, b"\xff", b"junk"] {
        assert_eq!(decode(&[&jpeg, after].concat(), &options).unwrap(), whole);
    }
}

#[test]
fn a_jpeg_whose_scan_goes_astray_is_refused() {
    let jpeg = bytes_of("baseline.jpg");
    let scan = jpeg.windows(2).position(|w| w == [0xff, 0xda]).unwrap() + 14;
    let options = DecodeOptions::default();
    for (marker, part) in [(0xbb_u8, "unknown JPEG marker FF BB"), (0xda, "a second scan")] {
        let mut bytes = jpeg.clone();
        bytes[scan + 20..scan + 22].copy_from_slice(&[0xff, marker]);
        let refused = decode(&bytes, &options).unwrap_err();
        assert!(refused.kind == Kind::Corrupt && refused.detail.contains(part), "{refused}");
    }
}

#[test]
fn checksums_before_the_pixels_of_a_png_are_held_to() {
    let png = bytes_of("rgb.png");
    for chunk in [png_chunk(b"tEXt", b"a\0b"), png_chunk(b"prVt", b"")] {
        let mut bytes = with(&png, 33, &chunk);
        decode(&bytes, &DecodeOptions::default()).unwrap();
        bytes[33 + chunk.len() - 1] ^= 1;
        let refused = decode(&bytes, &DecodeOptions::default()).unwrap_err();
        assert_eq!(refused.kind, Kind::Corrupt);
        assert!(refused.detail.contains("wrong checksum of PNG chunk"), "{refused}");
    }
}

#[test]
fn the_checksum_of_the_compressed_pixels_of_a_png_is_held_to() {
    let png = bytes_of("rgb.png");
    let start = png.windows(4).position(|w| w == b"IDAT").unwrap() + 4;
    let length = u32::from_be_bytes(png[start - 8..start - 4].try_into().unwrap()) as usize;
    let with_pixels = |pixels: &[u8]| {
        let rest = &png[start + length + 4..];
        [&png[..start - 8], &png_chunk(b"IDAT", pixels), rest].concat()
    };
    let pixels = &png[start..start + length];
    assert_eq!(with_pixels(pixels), png);
    let mut wrong = pixels.to_vec();
    wrong[length - 1] ^= 1;
    let refused = decode(&with_pixels(&wrong), &DecodeOptions::default()).unwrap_err();
    assert_eq!(refused.kind, Kind::Corrupt, "{refused}");
}

#[test]
fn a_size_beyond_the_limits_is_refused_by_the_header() {
    let png = bytes_of("bilevel.png");
    let mut header = png[16..29].to_vec();
    let mut refused = |width: u32, height: u32, options: &DecodeOptions| {
        header[..4].copy_from_slice(&width.to_be_bytes());
        header[4..8].copy_from_slice(&height.to_be_bytes());
        let bytes = [&png[..8], &png_chunk(b"IHDR", &header), &png[33..]].concat();
        decode(&bytes, options).unwrap_err()
    };
    let options = DecodeOptions::default();
    for (width, height, part) in [
        (1_000_001, 1, "1000001 x 1 pixels, limit of a side 1000000"),
        (1, 178_956_970, "limit of a side 1000000"),
        (20_000, 20_000, "limit 178956970"),
        (u32::MAX >> 1, u32::MAX >> 1, "limit 178956970"),
    ] {
        let refused = refused(width, height, &options);
        assert!(refused.kind == Kind::TooLarge && refused.detail.contains(part), "{refused}");
    }
    let small = DecodeOptions { max_pixels: 100, ..options };
    assert!(refused(11, 10, &small).detail.ends_with("11 x 10 pixels, limit 100"));
    for name in
        ["baseline.jpg", "rgb.png", "p.gif", "lossy.webp", "anim_off.webp", "rgb.bmp", "t_rgb.tif"]
    {
        assert_eq!(decode(&bytes_of(name), &small).unwrap_err().kind, Kind::TooLarge, "{name}");
    }
}

/// A PNG of this header's last five bytes, with these pixels.
fn png_of(size: [u32; 2], kind: [u8; 5], pixels: &[u8]) -> Vec<u8> {
    let header = [&size.map(u32::to_be_bytes).concat()[..], &kind].concat();
    [
        &b"\x89PNG\r\n\x1a\n"[..],
        &png_chunk(b"IHDR", &header),
        &png_chunk(b"IDAT", pixels),
        &png_chunk(b"IEND", b""),
    ]
    .concat()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

#[test]
fn rows_that_a_png_lacks_are_black_if_its_stream_is_complete() {
    let rows = [[0, 10, 20, 30], [0, 40, 50, 60], [0, 70, 80, 90]];
    let png = |pixels: &[u8]| png_of([3, 3], [8, 0, 0, 0, 0], &zlib(pixels));
    let gray = |values: [u8; 9]| values.iter().flat_map(|v| [*v; 3]).collect::<Vec<_>>();
    let official = DecodeOptions::default();
    let two = decode(&png(&rows[..2].concat()), &official).unwrap();
    assert_eq!(two.pixels, gray([10, 20, 30, 40, 50, 60, 0, 0, 0]));
    // Half a row is an error in Pillow, as is none.
    for length in [0, 1, 5, 9] {
        let refused = decode(&png(&rows.concat()[..length]), &official).unwrap_err();
        assert_eq!(refused.kind, Kind::Corrupt, "{length}: {refused}");
    }
    let interlaced = png_of([3, 3], [8, 0, 0, 0, 1], &zlib(&rows.concat()[..8]));
    assert_eq!(decode(&interlaced, &official).unwrap_err().kind, Kind::Corrupt);
}

#[test]
fn jpegs_that_the_decoder_does_not_know_are_refused_by_their_kind() {
    let jpeg = bytes_of("baseline.jpg");
    let frame = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    let with = |at: usize, byte: u8| {
        let mut bytes = jpeg.clone();
        bytes[frame + at] = byte;
        bytes
    };
    let scan = jpeg.windows(2).position(|w| w == [0xff, 0xda]).unwrap();
    let own_scan = [&jpeg[..scan], &[0xff, 0xda, 0, 8, 1, 1, 0, 0, 63, 0], &jpeg[scan + 14..]];
    for (bytes, part) in [
        (with(1, 0xc9), "arithmetic coding"),
        (with(1, 0xca), "arithmetic coding"),
        (with(1, 0xc3), "lossless"),
        (with(1, 0xc5), "hierarchical"),
        (with(4, 12), "12 bits"),
        (with(14, 0x42), "colors of more pixels than brightness"),
        (with(11, 0x31), "colors of a third of the columns"),
        (own_scan.concat(), "subsampled colors in scans of their own"),
    ] {
        let refused = decode(&bytes, &DecodeOptions::default()).unwrap_err();
        assert_eq!(refused.kind, Kind::Unsupported("JPEG"), "{part}: {refused}");
        assert!(refused.detail.contains(part), "{refused}");
    }
}

/// A gray TIFF of one column, whose strips of one row are all the same bytes.
fn tiff_of_one_strip(rows: u32, packed: &[u8], compression: u16) -> Vec<u8> {
    let mut bytes = b"II*\0\0\0\0\0".to_vec();
    let start = bytes.len() as u32;
    bytes.extend(packed);
    let offsets = bytes.len() as u32;
    (0..rows).for_each(|_| bytes.extend(start.to_le_bytes()));
    let sizes = bytes.len() as u32;
    (0..rows).for_each(|_| bytes.extend((packed.len() as u32).to_le_bytes()));
    let directory = bytes.len() as u32;
    bytes[4..8].copy_from_slice(&directory.to_le_bytes());
    let entries: [(u16, u32, u32); 8] = [
        (256, 1, 1),
        (257, 1, rows),
        (258, 1, 8),
        (259, 1, compression.into()),
        (262, 1, 1),
        (273, rows, offsets),
        (278, 1, 1),
        (279, rows, sizes),
    ];
    bytes.extend((entries.len() as u16).to_le_bytes());
    for (tag, count, value) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(4_u16.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend([0; 4]);
    bytes
}

#[test]
fn strips_that_are_the_same_bytes_again_and_again_are_refused_in_time() {
    const PACK_BITS: u16 = 32773;
    let few = tiff_of_one_strip(3, &[0, 77], PACK_BITS);
    let pixels = decode(&few, &DecodeOptions::default()).unwrap().pixels;
    assert_eq!(pixels, [77; 9]);
    // 100,000 rows of 200 kB each: 0x80 packs nothing.
    let hostile = tiff_of_one_strip(100_000, &[0x80; 200_000], PACK_BITS);
    let started = std::time::Instant::now();
    let refused = decode(&hostile, &DecodeOptions::default()).unwrap_err();
    assert!(refused.to_string().contains("the same bytes"), "{refused}");
    assert!(started.elapsed().as_secs() < 2);
}
