//! What holds whatever the input: readers of foreign bytes end with a value or an error, and text
//! of any kind becomes ids of the vocabulary.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::fs;
use std::path::Path;

use albef_data::dataset::{SourceSpec, open_source};
use albef_data::image::{DecodeOptions, decode};
use albef_data::random::Stream;
use albef_data::text::{Tokenizer, Vocabulary, pre_caption, pre_question};

/// A few edits of the kinds that damaged and hostile files show.
fn mutated(bytes: &[u8], s: &mut Stream) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..=s.below(4) {
        let at = s.below(out.len());
        let end = (at + 1 + s.below(8)).min(out.len());
        let odd = [0, 1, 0x7f, 0x80, 0xff, b'"', b'[', b'\n'][s.below(8)];
        match s.below(8) {
            0 => out.truncate(at),
            1 => drop(out.drain(at..end)),
            2 => out[at..end].fill(odd),
            3 => out.insert(at, odd),
            4 => {
                let piece = out[at..end].to_vec();
                let to = s.below(out.len());
                out.splice(to..to, piece);
            }
            5 if !out.is_empty() => out[at] ^= 1 << s.below(8),
            _ if !out.is_empty() => out[at] = s.below(256) as u8,
            _ => {}
        }
        if out.is_empty() {
            break;
        }
    }
    out
}

/// Gives each chunk of a PNG its checksum, so that edits reach what lies behind the check.
fn with_checksums(png: &mut [u8]) {
    let mut at = 8;
    while let Some(length) = png.get(at..at + 4) {
        let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
        let Some(end) = at.checked_add(8 + length).filter(|end| end + 4 <= png.len()) else {
            return;
        };
        let sum = crc32(&png[at + 4..end]);
        png[end..end + 4].copy_from_slice(&sum.to_be_bytes());
        at = end + 4;
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[test]
fn decoding_gives_a_whole_image_or_an_error() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/broken");
    let options = DecodeOptions { max_pixels: 1 << 17, ..DecodeOptions::default() };
    let mut decoded = 0;
    for (name, rounds) in [
        ("ok_baseline.jpg", 300),
        ("progressive.jpg", 300),
        ("restart_markers.jpg", 200),
        ("cmyk.jpg", 200),
        ("exif_orientation_6.jpg", 200),
        ("one_bit.png", 500),
        ("gray16.png", 500),
        ("palette_transparent.png", 500),
        ("interlaced.png", 300),
        ("rgb16.png", 300),
        ("lossy.webp", 400),
        ("lossless_alpha.webp", 300),
        ("animated.webp", 300),
        ("animated.gif", 500),
        ("bmp24.bmp", 500),
    ] {
        let bytes = fs::read(folder.join(name)).unwrap();
        let mut s = Stream::new(1, name, &[]);
        for round in 0..rounds {
            let mut bytes = mutated(&bytes, &mut s);
            if name.ends_with("png") && round % 4 != 0 {
                with_checksums(&mut bytes);
            }
            let options = DecodeOptions { exif_orientation: round % 2 == 0, ..options };
            let Ok(image) = decode(&bytes, &options) else { continue };
            decoded += 1;
            let pixels = image.width * image.height;
            assert!(pixels > 0 && pixels <= 1 << 17, "{name}, round {round}");
            assert_eq!(image.pixels.len(), pixels * 3, "{name}, round {round}");
        }
    }
    assert!(decoded > 500, "{decoded} edits left an image; the others test little");
}

#[test]
fn every_truncation_of_an_image_gives_a_whole_one_or_an_error() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/broken");
    for name in ["progressive.jpg", "one_bit.png", "lossy.webp", "animated.gif", "bmp24.bmp"] {
        let bytes = fs::read(folder.join(name)).unwrap();
        for end in (0..bytes.len()).step_by(bytes.len() / 300) {
            if let Ok(p) = decode(&bytes[..end], &DecodeOptions::default()) {
                assert_eq!(p.pixels.len(), p.width * p.height * 3, "{name} up to {end}");
            }
        }
    }
}

/// Text with a liking for what cleaners and tokenizers stumble over.
fn text(s: &mut Stream) -> String {
    const ODD: [&str; 40] = [
        " ",
        "  ",
        "\t",
        "\n",
        "\r\n",
        "\u{b}",
        "\u{1c}",
        "\u{85}",
        "\u{a0}",
        "\u{2028}",
        "\u{3000}",
        "\0",
        "\u{fffd}",
        "\u{feff}",
        "\u{200b}",
        "\u{200d}",
        "\u{301}",
        "\u{345}",
        "\u{130}",
        "\u{3a3}",
        "\u{1e9e}",
        "\u{fb03}",
        "\u{1f1e6}",
        "\u{1f468}",
        "\u{e0041}",
        "\u{10ffff}",
        "\u{ac00}",
        "\u{6771}",
        "\u{2f800}",
        "\u{661}",
        "-",
        "/",
        ",",
        "'",
        "<person>",
        "[SEP]",
        "[MASK]",
        "[mask]",
        "##ing",
        "a dog",
    ];
    let word = |s: &mut Stream| match s.below(4) {
        0 => ODD[s.below(ODD.len())].to_owned(),
        1 => char::from_u32(s.below(0x11_0000) as u32).map_or(String::new(), String::from),
        2 => char::from_u32(s.below(0x3000) as u32).map_or(String::new(), String::from),
        _ => char::from(s.below(128) as u8).to_string(),
    };
    let mut out: String = (0..s.below(40)).map(|_| word(s)).collect();
    if s.below(20) == 0 {
        out = out.repeat(1 + s.below(20));
    }
    out
}

fn shipped() -> Tokenizer {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/mini/vocab.txt");
    Tokenizer::new(Vocabulary::from_file(&file).unwrap())
}

#[test]
fn any_text_becomes_ids_of_the_vocabulary() {
    let few = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##a\ndog\n##\n\u{301}\n\u{6771}\n";
    let few = Tokenizer::new(Vocabulary::from_text(few).unwrap());
    for tokenizer in [&shipped(), &few] {
        let vocabulary = tokenizer.vocabulary();
        let mut s = Stream::new(2, "text", &[]);
        for _ in 0..8000 {
            let text = text(&mut s);
            let ids = tokenizer.encode(&text);
            assert_eq!(ids[0], vocabulary.cls, "{text:?}");
            assert!(ids.iter().all(|id| (*id as usize) < vocabulary.len()), "{text:?}");
            let limit = s.below(30);
            let cut = tokenizer.encode_truncated(&text, limit);
            assert_eq!(cut, ids[..ids.len().min(limit.max(1))], "{text:?} up to {limit}");
            let _ = tokenizer.decode(&ids);
        }
    }
    assert_eq!(few.decode(&[u32::MAX, 7, 5]), "dog a");
}

#[test]
fn clean_captions_stay_as_they_are() {
    let mut s = Stream::new(3, "text", &[]);
    for _ in 0..20_000 {
        // Of `<<person>>` the first pass leaves `<person>`, which a second one would change.
        let text = text(&mut s).replace('<', "");
        let words = s.below(12);
        let clean = pre_caption(&text, words);
        assert_eq!(pre_caption(&clean, words), clean, "{text:?}");
        assert!(clean.is_empty() || clean.split(' ').count() <= words, "{text:?}");
        assert!(!clean.contains("  ") && clean.trim_matches(' ') == clean, "{text:?}");
        assert!(!clean.contains(|c| ",.'!?\"()*#:;~-/".contains(c)), "{text:?}");
    }
    assert_eq!(pre_caption("<<person>>", 30), "<person>");
}

#[test]
fn clean_questions_stay_as_they_are_but_for_empty_last_words() {
    let mut s = Stream::new(4, "text", &[]);
    for _ in 0..20_000 {
        let (text, words) = (text(&mut s), s.below(12));
        let whole = pre_question(&text, usize::MAX);
        assert_eq!(pre_question(&whole, usize::MAX), whole, "{text:?}");
        let cut = pre_question(&text, words);
        assert!(cut.is_empty() || cut.split(' ').count() <= words, "{text:?}");
        assert!(whole.starts_with(&cut), "{text:?}");
        // Empty words count, so a cut may fall behind one.
        assert_eq!(pre_question(&cut, words), cut.trim_end_matches(' '), "{text:?}");
    }
}

fn specified(path: &Path) -> SourceSpec {
    SourceSpec::new(path.to_str().unwrap(), None)
}

const LIST: &str = r#"[{"image": "a.png", "caption": "a \u00e9 dog", "image_id": 7},
    {"image": "b.png", "caption": ["two", "cups"], "image_id": "x", "more": {"a": [1, null]}}]"#;
const LINES: &str = "{\"image\": \"a.png\", \"caption\": \"a dog\"}\n\n\
                     {\"image\": \"b.png\", \"caption\": [\"b\", \"c\"], \"image_id\": 1.5}\n";
const ROWS: &str =
    "\u{feff}image,caption,image_id\na.png,\"a dog, wet \"\"so\"\"\",1\r\nb.png,c,\n";

#[test]
fn lists_of_captions_give_samples_or_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for (name, whole) in [("list.json", LIST), ("list.jsonl", LINES), ("list.csv", ROWS)] {
        let path = dir.path().join(name);
        fs::write(&path, whole).unwrap();
        assert_eq!(open_source(&specified(&path)).unwrap().len(), 2);
        let mut s = Stream::new(5, name, &[]);
        let mut read = 0;
        for _ in 0..1000 {
            fs::write(&path, mutated(whole.as_bytes(), &mut s)).unwrap();
            match open_source(&specified(&path)) {
                Ok(_) => read += 1,
                Err(e) => assert!(e.to_string().contains(name), "{e}"),
            }
        }
        assert!(read > 20, "{read} edits left a list; the others test little");
    }
}

fn shard() -> Vec<u8> {
    let long = format!("{}/2.png", "long".repeat(40));
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in [
        ("0.png", &b"no image"[..]),
        ("0.json", br#"{"caption": ["a", "b"], "image_id": 3}"#),
        ("d/1.jpg", &[7; 700]),
        ("d/1.txt", b"one\ntwo\n"),
        (&long, b"x"),
        ("3.jp2", b"y"),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Gives each header its sum, so that edits reach what lies behind the check.
fn with_sums(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(512).filter(|b| &b[257..262] == b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

#[test]
fn shards_give_samples_within_the_file_or_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.tar");
    let whole = shard();
    fs::write(&path, &whole).unwrap();
    assert_eq!(open_source(&specified(&path)).unwrap().len(), 3);
    let mut s = Stream::new(7, "tar", &[]);
    let mut read = 0;
    for round in 0..2500 {
        let mut bytes = mutated(&whole, &mut s);
        // Most of an archive is padding: some edits go to the headers.
        if let Some(header) = bytes.get_mut(..512 * (1 + s.below(2))) {
            header[s.below(160)] = s.below(256) as u8;
        }
        if round % 4 != 0 {
            with_sums(&mut bytes);
        }
        fs::write(&path, &bytes).unwrap();
        match open_source(&specified(&path)) {
            Ok(samples) => {
                read += 1;
                for sample in samples {
                    let image = sample.bytes().unwrap();
                    assert!(image.len() <= bytes.len(), "round {round}");
                }
            }
            Err(e) => assert!(e.to_string().contains("x.tar"), "{e}"),
        }
    }
    assert!(read > 250, "{read} edits left an archive; the others test little");
}
