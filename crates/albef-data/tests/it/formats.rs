//! Folders and paths with images of formats that are not read, and images without a telling name.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::fs;
use std::path::Path;

use albef_data::dataset::{CheckOptions, Dataset, SourceSpec, check, read_source, unread_formats};
use albef_data::error::ImageErrorKind as Kind;

const HEIC: &[u8] = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic";
const JPEG_2000: &[u8] = b"\0\0\0\x0cjP  \r\n\x87\n";
const TIFF: &[u8] = b"II*\0\x08\0\0\0\0\0\0\0";

fn png() -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/forms/rgb.png")).unwrap()
}

fn spec(path: &Path) -> SourceSpec {
    SourceSpec::new(path.to_str().unwrap(), None)
}

#[test]
fn images_of_other_formats_in_a_folder_are_counted_by_format() {
    let dir = tempfile::tempdir().unwrap();
    let png = png();
    let files: [(&str, &[u8]); 14] = [
        ("0.png", &png),
        ("0.txt", b"a dog"),
        ("1.txt", b"a cat"),
        ("IMG_0.HEIC", HEIC),
        ("IMG_1.heic", HEIC),
        ("deeper/IMG_2.HEIF", HEIC),
        ("no-extension", &png),
        ("no-extension-heic", HEIC),
        ("png-named.HEIC", &png),
        ("raw.NEF", TIFF),
        ("scan.jp2", JPEG_2000),
        ("broken.avif", b""),
        ("notes.md", b"# notes"),
        ("clip.mp4", b"\0\0\0\x18ftypisom\0\0\0\0isomavc1"),
    ];
    for (name, bytes) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let contents = read_source(&spec(dir.path())).unwrap();
    let names: Vec<&str> = contents.samples.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["0.png", "no-extension", "png-named.HEIC"]);
    assert_eq!(contents.samples[0].captions, ["a dog"]);
    assert_eq!(
        unread_formats(&contents.left_out).unwrap(),
        "7 files that look like images are of a kind that is not read (HEIC 4, AVIF 1, RAW 1, JPEG 2000 1); `cargo install … \
         --features heic,avif` makes a program that reads HEIC and AVIF"
    );
    let report = check(&spec(dir.path()), &CheckOptions::default()).unwrap();
    assert_eq!((report.samples, report.unread, report.left_out), (3, 7, 0));
    assert!(!report.is_clean() && report.unread_formats.is_some());
    assert!(report.problems.iter().any(|p| p.starts_with("IMG_0.HEIC: unsupported image")));
}

#[test]
fn a_folder_of_nothing_but_other_formats_says_so() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.heic"), HEIC).unwrap();
    assert!(read_source(&spec(dir.path())).unwrap().samples.is_empty());
    let error = Dataset::open(&[spec(dir.path())]).unwrap_err().to_string();
    assert!(
        error.contains("1 file that looks like an image is of a kind that is not read (HEIC 1)")
    );
}

#[test]
fn a_path_is_an_image_by_its_content() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    for name in ["no-extension", "odd.dat", "png.heic"] {
        let samples = read_source(&spec(&at(name, &png()))).unwrap().samples;
        assert_eq!(samples[0].name, name);
    }
    let error = read_source(&spec(&dir.path().join("none.heic"))).unwrap_err().to_string();
    assert!(error.contains("not found"), "{error}");
    for (name, bytes, format) in [
        ("x.heic", HEIC, "HEIC"),
        ("no-extension", HEIC, "HEIC"),
        ("y.jp2", JPEG_2000, "JPEG 2000"),
    ] {
        let path = at(name, bytes);
        let error = read_source(&spec(&path)).unwrap_err().to_string();
        assert!(error.contains(&format!("{format} is not supported")), "{error}");
        let refused = albef_data::image::decode(bytes, &Default::default()).unwrap_err();
        assert_eq!(refused.kind, Kind::Unsupported(format));
    }
}
