//! Shards as webdataset cuts them, and what is left out of them.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::path::Path;

use albef_data::dataset::{
    CheckOptions, Contents, Dataset, Location, Skipped, SourceSpec, check, open_source, read_source,
};
use albef_data::error::ImageErrorKind;
use albef_data::image::{DecodeOptions, RgbImage};
use albef_data::scenes::png;

#[test]
fn the_shards_of_the_repository_read_as_ever() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/drawings/train");
    let pattern = folder.join("train-{0000..0005}.tar");
    let samples = open_source(&SourceSpec::new(pattern.to_str().unwrap(), None)).unwrap();
    let mut sum = 0_u64;
    let mut add = |bytes: &[u8]| {
        sum = bytes.iter().fold(sum, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(*b) + 1));
    };
    for s in &samples {
        let Location::Member { offset, len, .. } = &s.location else { panic!("{}", s.name) };
        let key = s.key.rsplit("/train/").next().unwrap();
        add(format!("{} {key} {offset} {len} {:?}\n", s.name, s.captions).as_bytes());
    }
    assert_eq!((samples.len(), sum), PINNED);
}

const PINNED: (usize, u64) = (5573, 7_637_529_795_759_462_900);

fn tar_of(members: &[(&str, &[u8])], links: &[&str]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    for name in links {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::hard_link());
        header.set_size(0);
        builder.append_link(&mut header, name, "0.png").unwrap();
    }
    builder.into_inner().unwrap()
}

fn contents(folder: &tempfile::TempDir, members: &[(&str, &[u8])], links: &[&str]) -> Contents {
    let path = folder.path().join("x.tar");
    std::fs::write(&path, tar_of(members, links)).unwrap();
    read_source(&spec(&path)).unwrap()
}

fn spec(path: &Path) -> SourceSpec {
    SourceSpec::new(path.to_str().unwrap(), None)
}

fn named(left_out: &[Skipped]) -> Vec<(&str, ImageErrorKind)> {
    left_out.iter().map(|s| (s.name.rsplit("x.tar: ").next().unwrap(), s.error.kind)).collect()
}

fn image_bytes(shade: u8) -> Vec<u8> {
    png(&RgbImage::filled(4, 4, [shade; 3])).unwrap()
}

#[test]
fn samples_are_cut_as_webdataset_cuts_them() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (image_bytes(1), image_bytes(2));
    let all = contents(
        &dir,
        &[
            ("v1.0/0.seg.png", &b),
            ("v1.0/0.PNG", &a),
            ("v1.0/0.json", br#"{"caption": "a dog", "image_id": 5}"#),
            ("v1.0/1.jfif", &b),
            ("v1.0/1.txt", b"two\nthree\n"),
            ("v1.0/1.cls", b"4"),
        ],
        &[],
    );
    assert!(all.left_out.is_empty(), "{:?}", all.left_out);
    let read: Vec<_> = all.samples.iter().map(|s| (&*s.name, s.captions.clone())).collect();
    let one = ("v1.0/0.PNG", vec!["a dog".to_owned()]);
    let two = ("v1.0/1.jfif", vec!["two".to_owned(), "three".to_owned()]);
    assert_eq!(read, [one, two]);
    assert_eq!(all.samples[0].key, "5");
    assert_eq!(all.samples[0].bytes().unwrap(), a);
    all.samples[1].decode(&DecodeOptions::default()).unwrap();
}

#[test]
fn metadata_and_captions_may_lie_in_two_members() {
    let dir = tempfile::tempdir().unwrap();
    let all = contents(
        &dir,
        &[
            ("0.png", &image_bytes(1)),
            ("0.txt", b"from the text"),
            ("0.json", br#"{"image_id": "x", "width": 4}"#),
            ("1.png", &image_bytes(2)),
            ("1.json", br#"{"caption": "from the json"}"#),
            ("1.txt", b"from the text"),
        ],
        &[],
    );
    let captions: Vec<_> = all.samples.iter().map(|s| s.captions.join("|")).collect();
    assert_eq!(captions, ["from the text", "from the json"]);
    assert_eq!(all.samples[0].key, "x");
    assert!(all.left_out.is_empty());
}

#[test]
fn members_that_macos_adds_are_counted_in_a_note() {
    let dir = tempfile::tempdir().unwrap();
    let (image, large) = (image_bytes(1), vec![7; 70_000]);
    let members: [(&str, &[u8]); 6] = [
        ("._0.png", b"fork"),
        ("0.png", &image),
        ("0.txt", b"a"),
        ("0.bin", &large),
        ("__MACOSX/._0.png", b"fork"),
        ("__MACOSX/._0.txt", b"fork"),
    ];
    std::fs::write(dir.path().join("b.tar"), tar_of(&members, &[])).unwrap();
    // The second time by the index.
    for _ in 0..2 {
        let found = contents(&dir, &members, &[]);
        assert_eq!((found.samples.len(), found.left_out.len()), (1, 0));
        let [note] = &found.notes[..] else { panic!("{:?}", found.notes) };
        assert!(note.starts_with("3 members whose names begin with a dot"), "{note}");
        assert!(note.ends_with("x.tar: ._0.png"), "{note}");
        let both = read_source(&spec(&dir.path().join("*.tar"))).unwrap();
        let [note] = &both.notes[..] else { panic!("{:?}", both.notes) };
        assert!(note.starts_with("6 members") && note.ends_with("b.tar: ._0.png"), "{note}");
    }
    let plain = contents(&dir, &members[1..4], &[]);
    assert!(plain.notes.is_empty(), "{:?}", plain.notes);
}

#[test]
fn what_follows_the_end_mark_is_read_or_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.tar");
    let images: Vec<_> = (0..6).map(image_bytes).collect();
    let large = vec![7; 70_000];
    let first = tar_of(&[("0.png", &images[0]), ("0.txt", b"a"), ("1.png", &images[1])], &[]);
    let second = tar_of(
        &[("2.png", &images[2]), ("2.txt", b"c"), ("3.png", &images[3]), ("3.bin", &large)],
        &[],
    );
    let read = |parts: &[&[u8]]| {
        std::fs::write(&path, parts.concat()).unwrap();
        let whole = std::fs::metadata(&path).unwrap().len();
        // By going through it, and by the index where it is large enough for one.
        let found = read_source(&spec(&path)).unwrap();
        let again = read_source(&spec(&path)).unwrap();
        assert_eq!(format!("{found:?}"), format!("{again:?}"), "{whole}");
        found
    };
    // Archives are padded to blocks of any length.
    for zeros in [0, 512, 9000, 1 << 20] {
        let found = read(&[&first, &vec![0; zeros], &second, &vec![0; zeros]]);
        if zeros % 512 == 0 {
            assert_eq!((found.samples.len(), found.left_out.len()), (4, 0), "{zeros}");
            for (sample, image) in found.samples.iter().zip(&images) {
                assert_eq!(sample.bytes().unwrap(), *image);
            }
            assert_eq!(found.samples[2].captions, ["c"]);
        } else {
            // No member begins within a block.
            assert_eq!((found.samples.len(), found.left_out.len()), (2, 1), "{zeros}");
        }
    }
    // The same names again are of other images.
    let found = read(&[&first, &first]);
    assert_eq!((found.samples.len(), found.left_out.len()), (4, 0));
    assert_ne!(found.samples[0].key, found.samples[2].key);
    let found = read(&[&first, b"more"]);
    assert_eq!((found.samples.len(), named(&found.left_out).len()), (2, 1));
    let said = found.left_out[0].error.to_string();
    assert!(said.contains("4 bytes follow the end mark"), "{said}");
    // A second archive that is cut is as a first one.
    let found = read(&[&first, &second[..second.len() - 1024]]);
    assert!(found.left_out[0].error.to_string().contains("no end mark"), "{:?}", found.left_out);
    std::fs::write(&path, [&first[..], &second[..700]].concat()).unwrap();
    let said = read_source(&spec(&path)).unwrap_err().to_string();
    assert!(said.contains(&format!("byte {}", first.len() + 512)), "{said}");
}

/// The first byte of each image, its captions, and what is left out.
fn gathered(parts: &[&[u8]]) -> (Vec<(u8, String)>, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.tar");
    // Large enough for an index.
    std::fs::write(&path, [&parts.concat()[..], &[0; 70_000]].concat()).unwrap();
    let found = read_source(&spec(&path)).unwrap();
    assert_eq!(format!("{found:?}"), format!("{:?}", read_source(&spec(&path)).unwrap()));
    let samples =
        found.samples.iter().map(|s| (s.bytes().unwrap()[0], s.captions.join("|"))).collect();
    let left_out = named(&found.left_out).iter().map(|(name, _)| (*name).to_owned()).collect();
    (samples, left_out)
}

#[test]
fn captions_never_go_to_another_image_of_their_key() {
    type Case<'a> = (&'a str, &'a [(u8, &'a str)], &'a [&'a str]);
    // Members, with the number of the image or caption before each name; `|` is an end mark.
    let cases: [Case<'_>; 16] = [
        ("1:0.png 1:0.txt | 2:0.jpg 2:0.json", &[(1, "1"), (2, "2")], &[]),
        ("1:0.png 1:0.txt 2:0.jpg 2:0.json", &[(1, "1"), (2, "2")], &[]),
        ("1:0.png 1:0.txt 3:1.png 3:1.txt 2:0.json", &[(1, "1"), (3, "3")], &["0.json"]),
        ("1:0.png 1:0.txt 3:1.png 2:0.jpg 2:0.json", &[(1, "1"), (3, ""), (2, "2")], &[]),
        // A folder in the order of its names, with a mask beside each image.
        (
            "1:0.jpg 1:0.json 2:0.png 3:1.jpg 3:1.json 4:1.png",
            &[(1, "1"), (3, "3")],
            &["0.png", "1.png"],
        ),
        ("1:0.jpg 1:0.json 2:0.png 4:0.txt", &[(1, "1")], &["0.png"]),
        // A JSON of something else is no caption.
        ("1:0.png m:0.json 2:1.png m:1.json 1:0.txt 2:1.txt", &[(1, "1"), (2, "2")], &[]),
        // Images first, captions later, and the other way round.
        ("1:0.png 2:1.png 1:0.txt 2:1.txt", &[(1, "1"), (2, "2")], &[]),
        ("1:0.txt 2:1.txt 1:0.png 2:1.png", &[(1, "1"), (2, "2")], &[]),
        ("1:0.png 2:1.png 1:0.json 2:1.json 1:0.txt 2:1.txt", &[(1, "1"), (2, "2")], &[]),
        // Two such archives in one.
        (
            "1:0.png 2:1.png 1:0.txt 2:1.txt 3:0.jpg 4:1.jpg 3:0.txt 4:1.txt",
            &[(1, "1"), (2, "2"), (3, "3"), (4, "4")],
            &[],
        ),
        ("1:0.png 2:1.png | 3:0.json 4:1.json", &[(1, ""), (2, "")], &["0.json", "1.json"]),
        // Whose the caption is cannot be told.
        ("1:0.png 2:1.png 3:0.jpg 3:0.txt", &[(1, ""), (2, ""), (3, "3")], &[]),
        (
            "1:0.png 2:1.png 3:0.jpg 4:1.jpg 3:0.txt",
            &[(1, ""), (2, ""), (3, ""), (4, "")],
            &["0.txt"],
        ),
        (
            "1:0.png 2:1.png 1:0.txt 2:1.txt 3:0.json 4:1.json 3:0.jpg 4:1.jpg",
            &[(1, ""), (2, ""), (3, ""), (4, "")],
            &["0.txt", "1.txt", "0.json", "1.json"],
        ),
        ("1:0.png 1:0.json 2:1.png 3:0.txt 3:0.jpg", &[(1, "1"), (2, ""), (3, "3")], &[]),
    ];
    for (members, samples, left_out) in cases {
        let archive = |part: &str| {
            let member = |member: &str| {
                let (number, name) = member.split_once(':').unwrap();
                let bytes = match name.rsplit('.').next() {
                    Some("txt") => number.as_bytes().to_vec(),
                    Some("json") if number == "m" => br#"{"width": 5}"#.to_vec(),
                    Some("json") => format!(r#"{{"caption": "{number}"}}"#).into_bytes(),
                    _ => vec![number.parse().unwrap(); 8],
                };
                (name.to_owned(), bytes)
            };
            let all: Vec<_> = part.split_whitespace().map(member).collect();
            let all: Vec<_> = all.iter().map(|(name, bytes)| (&**name, &**bytes)).collect();
            tar_of(&all, &[])
        };
        let archives: Vec<_> = members.split('|').map(archive).collect();
        let archives: Vec<_> = archives.iter().map(|a| &**a).collect();
        let expected: Vec<_> = samples.iter().map(|(n, c)| (*n, (*c).to_owned())).collect();
        let (found, mut left) = gathered(&archives);
        assert_eq!(found, expected, "{members}");
        let mut left_out = left_out.to_vec();
        left.sort_unstable();
        left_out.sort_unstable();
        assert_eq!(left, left_out, "{members}");
    }
}

#[test]
fn what_forms_no_sample_is_counted_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let words: &[u8] = br#"{"caption": "a dog"}"#;
    let (first, second) = (image_bytes(1), image_bytes(2));
    let members: [(&str, &[u8]); 10] = [
        ("0.png", &first),
        ("0.jpg", &second),
        ("0.json", words),
        ("0.json", br#"{"caption": "a cat"}"#),
        ("1.jp2", &first),
        ("1.json", words),
        ("2.json", words),
        ("a.b.png", &first),
        ("README", b"read me"),
        ("._0.png", b"junk"),
    ];
    let all = contents(&dir, &members, &["3.png"]);
    assert_eq!(all.samples.len(), 1);
    assert_eq!(all.samples[0].bytes().unwrap(), first);
    assert_eq!(all.samples[0].captions, ["a dog"]);
    let expected = [
        ("0.jpg", ImageErrorKind::Repeated),
        ("0.json", ImageErrorKind::Repeated),
        ("1.jp2", ImageErrorKind::UnknownFormat),
        ("2.json", ImageErrorKind::Entry),
        ("a.b.png", ImageErrorKind::UnknownFormat),
        ("README", ImageErrorKind::UnknownFormat),
        ("3.png", ImageErrorKind::Entry),
    ];
    assert_eq!(named(&all.left_out), expected);

    let path = dir.path().join("x.tar");
    let report = check(&spec(&path), &CheckOptions::default()).unwrap();
    assert_eq!((report.samples, report.left_out, report.problems.len()), (1, 7, 7));
    assert!(!report.is_clean() && report.problems[2].contains("x.tar: 1.jp2"));
    let folder = check(&spec(dir.path()), &CheckOptions::default()).unwrap();
    assert_eq!(folder.left_out, 7);
    let data = Dataset::open(&[spec(&path)]).unwrap();
    assert_eq!((data.len(), named(data.left_out())), (1, expected.to_vec()));

    std::fs::write(&path, tar_of(&[("a.b.png", &first)], &[])).unwrap();
    let said = Dataset::open(&[spec(&path)]).unwrap_err().to_string();
    assert!(said.contains("1 members were left out") && said.contains("a.b.png"), "{said}");
}
