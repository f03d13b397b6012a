//! Odd samples cost themselves only: entries, captions, names and shards as people have them.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::fs;

use albef_data::dataset::{
    CheckOptions, Contents, Dataset, SourceSpec, check, open_source, read_source,
};
use albef_data::image::RgbImage;
use albef_data::scenes::png;
use tempfile::{TempDir, tempdir};

use super::dataset_promises::{image_bytes, put, refusal, spec, tar_of};

/// A list's samples by name and number of captions, and its faults.
fn tolerated(dir: &TempDir, text: &str) -> (Vec<(String, usize)>, String) {
    put(dir, "list.json", text);
    let found = read_source(&spec(dir.path().join("list.json"))).unwrap();
    let samples = found.samples.into_iter().map(|s| (s.name, s.captions.len())).collect();
    let faults = found.left_out.iter().chain(&found.faults);
    let faults: Vec<String> = faults.map(|s| format!("{}: {}", s.name, s.error)).collect();
    (samples, faults.join("\n"))
}

#[test]
fn an_odd_entry_of_a_list_costs_that_entry_and_is_named() {
    let dir = tempdir().unwrap();
    let good = r#"{"image": "g", "caption": "b"}"#;
    for (odd, samples, parts) in [
        (r#"{"image": "a", "captoin": "b"}"#, &[("g", 1), ("a", 0)][..], ["`caption`", "captoin"]),
        (r#"{"imgae": "a", "caption": "b"}"#, &[("g", 1)], ["`image`", "imgae"]),
        ("1", &[("g", 1)], ["entry 1", "no object"]),
        (r#"{"image": "a", "caption": }"#, &[("g", 1)], ["entry 1", "not JSON"]),
        (r#"{"image": "a", "caption": []}"#, &[("g", 1), ("a", 0)], ["entry 1", "empty list"]),
        (r#"{"image": "a", "caption": null}"#, &[("g", 1), ("a", 0)], ["entry 1", "null"]),
        (r#"{"image": "a", "caption": ["b", 3]}"#, &[("g", 1), ("a", 1)], ["1 of 2", "3"]),
        (
            r#"{"image": "a", "caption": "\ud83d!"}"#,
            &[("g", 1), ("a", 1)],
            ["surrogate", "entry 1"],
        ),
    ] {
        let (found, said) = tolerated(&dir, &format!("[{good}, {odd}]"));
        let samples: Vec<_> = samples.iter().map(|(s, n)| ((*s).to_owned(), *n)).collect();
        assert_eq!(found, samples, "{odd}");
        assert!(said.contains("list.json") && parts.iter().all(|p| said.contains(p)), "{said}");
    }
    let nan = r#"[{"image": "a", "caption": "b", "similarity": NaN, "image_id": -Infinity}]"#;
    assert_eq!(tolerated(&dir, nan), (vec![("a".to_owned(), 1)], String::new()));
    for beyond in ["1e999", "-2E+400", &"9".repeat(400)] {
        // The second is read in full, since an escape is in it.
        let list = format!(
            r#"[{{"image": "a", "caption": "b", "score": {beyond}}},
                {{"image": "b", "caption": "\ud83d\ude00", "score": {beyond}, "image_id": {beyond}}}]"#
        );
        let both = ["a", "b"].map(|name| (name.to_owned(), 1));
        assert_eq!(tolerated(&dir, &list), (both.to_vec(), String::new()));
    }
    assert_eq!(tolerated(&dir, good).0, [("g".to_owned(), 1)]);
}

#[test]
fn a_list_of_another_form_is_refused_by_its_first_entry() {
    let dir = tempdir().unwrap();
    for (text, parts) in [
        (r#"[{"imgae": "a", "caption": "b"}]"#, ["entry 0", "`imgae`"]),
        ("[1]", ["entry 0", "no object"]),
        ("[{\"image\": \"a\",\n \"caption\": \"b}]", ["line 2", "cut"]),
        (r#"{"images": "a"}"#, ["line 1", "`images`"]),
        ("<html>", ["an HTML page", "a list of images"]),
        ("error 404", ["not a JSON list", "error 404"]),
    ] {
        put(&dir, "list.json", text);
        let said = refusal(open_source(&spec(dir.path().join("list.json"))));
        assert!(said.contains("list.json") && parts.iter().all(|p| said.contains(p)), "{said}");
    }
}

const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 12\n";
const PAGE: &str = "<!DOCTYPE html>\n<html><title>Sign in</title></html>\n";

#[test]
fn what_stands_in_the_place_of_a_list_or_an_archive_is_named() {
    let dir = tempdir().unwrap();
    let tar = tar_of(&[("0.png", &image_bytes(0)), ("0.txt", b"zero")]);
    let image = image_bytes(0);
    for name in ["x.txt", "x.json", "x.jsonl", "x.csv", "x.tar", "x.tar.gz", "x.parquet"] {
        let cases: [(&[u8], &[&str]); 3] = [
            (POINTER.as_bytes(), &["a Git LFS pointer to a file of 12 bytes", "`git lfs pull`"]),
            (PAGE.as_bytes(), &["an HTML page", "download it again"]),
            (&image, &["a PNG image"]),
        ];
        for (bytes, parts) in cases {
            put(&dir, name, bytes);
            let said = refusal(open_source(&spec(dir.path().join(name))));
            assert!(
                said.contains(name) && parts.iter().all(|p| said.contains(p)),
                "{name}: {said}"
            );
        }
    }
    for (name, bytes, part) in [
        ("x.csv", &b""[..], "the file is empty"),
        ("x.json", b"", "the file is empty"),
        ("x.json", &tar, "a tar archive"),
        ("x.tar.gz", b"", "the file is empty"),
        ("x.tar.gz", &tar, "let its name end in `.tar`"),
        ("x.p", POINTER.as_bytes(), "`git lfs pull`"),
        ("x.tar", b"Entry not found", "begins with \"Entry not found\""),
        ("x.tar.gz", b"Entry not found", "begins with \"Entry not found\""),
        ("x.parquet", b"", "the file is empty"),
        ("x.parquet", &tar, "a tar archive"),
    ] {
        put(&dir, name, bytes);
        let said = refusal(open_source(&spec(dir.path().join(name))));
        assert!(said.contains(name) && said.contains(part), "{name}: {said}");
    }
}

#[test]
fn what_stands_in_the_place_of_a_caption_is_no_caption() {
    let dir = tempdir().unwrap();
    let image = image_bytes(1);
    for (text, part) in [(POINTER, "`git lfs pull`"), (PAGE, "an HTML page")] {
        let members: [(&str, &[u8]); 5] = [
            ("0.png", &image),
            ("0.txt", text.as_bytes()),
            ("1.png", &image),
            ("1.json", text.as_bytes()),
            ("1.txt", b"one"),
        ];
        let found = shard(&dir, &members);
        let captions: Vec<_> = found.samples.iter().map(|s| s.captions.join("|")).collect();
        assert_eq!(captions, ["", "one"]);
        let said = faults(&found);
        assert_eq!(said.lines().filter(|line| line.contains(part)).count(), 2, "{said}");
        assert!(said.contains("x.tar: 0.txt: ") && said.contains("x.tar: 1.json: "), "{said}");
        put(&dir, "folder/0.png", &image);
        put(&dir, "folder/0.txt", text);
        let found = read_source(&spec(dir.path().join("folder"))).unwrap();
        assert!(found.samples[0].captions.is_empty());
        assert!(faults(&found).starts_with("0.txt: ") && faults(&found).contains(part));
    }
    // A caption may begin as no page does.
    let found = shard(&dir, &[("0.png", &image), ("0.txt", b"<3 my dog")]);
    assert_eq!((found.samples[0].captions.len(), found.faults.len()), (1, 0));
}

#[test]
fn downloads_of_coco_and_of_karpathys_splits_are_lists() {
    let dir = tempdir().unwrap();
    let coco = r#"{"info": {}, "images": [{"id": 5, "file_name": "5.jpg", "height": 3},
        {"id": 6, "file_name": "6.jpg", "height": NaN, "width": 1e999}], "annotations": [
        {"id": 1, "image_id": 6, "caption": "six"}, {"id": 2, "image_id": 5, "caption": "five"},
        {"id": 3, "image_id": 6, "caption": "6"}, {"id": 4, "image_id": 9, "caption": "none"}]}"#;
    let (found, said) = tolerated(&dir, coco);
    assert_eq!(found, [("5.jpg".to_owned(), 1), ("6.jpg".to_owned(), 2)]);
    assert!(said.contains("annotation 3"), "{said}");
    let of = |split: &str, n: i64| {
        serde_json::json!({"filepath": "val2014", "filename": format!("{n}.jpg"), "cocoid": n, "imgid": 0,
            "split": split, "sentences": [{"raw": "a dog", "tokens": ["a", "dog"]}, {"raw": "dog"}]})
    };
    let images = [of("train", 1), of("restval", 2), of("test", 3)];
    let splits = serde_json::json!({"images": images, "dataset": "coco"});
    put(&dir, "dataset.json", serde_json::to_string_pretty(&splits).unwrap());
    let path = dir.path().join("dataset.json");
    let read = |split: &str| read_source(&spec(format!("{}{split}", path.display())));
    let names = |split: &str| -> Vec<String> {
        read(split).unwrap().samples.into_iter().map(|s| s.name).collect()
    };
    assert_eq!(names("#train"), ["val2014/1.jpg", "val2014/2.jpg"]);
    assert_eq!(names("#test"), ["val2014/3.jpg"]);
    assert_eq!(names("").len(), 3);
    assert!(read("").unwrap().notes[0].contains("restval, test, train"));
    assert!(refusal(read("#val")).contains("it has restval, test, train"));
}

/// What a shard of these members holds.
fn shard(dir: &TempDir, members: &[(&str, &[u8])]) -> Contents {
    put(dir, "x.tar", tar_of(members));
    read_source(&spec(dir.path().join("x.tar"))).unwrap()
}

fn faults(found: &Contents) -> String {
    found.faults.iter().map(|s| format!("{}: {}\n", s.name, s.error)).collect()
}

#[test]
fn an_odd_caption_of_a_shard_costs_its_sample_the_caption_only() {
    let dir = tempdir().unwrap();
    let (odd, good) = (image_bytes(1), image_bytes(2));
    for (json, captions, part) in [
        (&br#"{"caption": null}"#[..], 0, "`caption` is null"),
        (br#"{"url": "u", "key": "0"}"#, 0, "the entry has `url`, `key`"),
        (br#"{"caption": 7}"#, 0, "`caption` is 7"),
        (br#"{"caption": "it is c"#, 0, "not JSON"),
        (b"{\"caption\": \"it\x81s\"}", 0, "no text"),
        (br#"["caption"]"#, 0, "no object"),
        (br#"{"caption": ["a", null]}"#, 1, "1 of 2 captions"),
        (br#"{"caption": "a \udc00"}"#, 1, "surrogate"),
        (b"{\"caption\": \"it\x92s\"}", 1, "Windows-1252"),
        (br#"{"caption": "a", "similarity": NaN}"#, 1, ""),
        (br#"{"caption": "a", "similarity": 1e999}"#, 1, ""),
    ] {
        let members: [(&str, &[u8]); 4] =
            [("0.png", &odd), ("0.json", json), ("1.png", &good), ("1.txt", b"good")];
        let found = shard(&dir, &members);
        assert_eq!(found.samples.len(), 2, "{part}");
        assert_eq!(found.samples[0].captions.len(), captions, "{part}");
        assert_eq!(found.samples[1].captions, ["good"]);
        let said = faults(&found);
        let named = said.contains("x.tar: 0.") && said.contains(part) && said.lines().count() == 1;
        assert!(if part.is_empty() { said.is_empty() } else { named }, "{part}: {said}");
        let report = check(&spec(dir.path().join("x.tar")), &CheckOptions::default()).unwrap();
        assert_eq!((report.samples, report.is_clean()), (2, part.is_empty()), "{report:?}");
        let data = Dataset::open(&[spec(dir.path().join("x.tar"))]).unwrap();
        assert_eq!((data.len(), data.without_captions()), (1 + captions, 1 - captions));
        assert_eq!(data.left_out().len(), usize::from(!part.is_empty()));
    }
    let members: [(&str, &[u8]); 3] = [("0.png", &odd), ("0.json", b"{"), ("0.txt", b"beside")];
    let found = shard(&dir, &members);
    assert_eq!((&*found.samples[0].captions[0], found.faults.len()), ("beside", 1));
}

#[test]
fn captions_in_another_encoding_are_read_and_named() {
    let dir = tempdir().unwrap();
    let wide: Vec<u8> =
        "\u{feff}it\u{2019}s\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (i, bytes) in
        [&b"it\x92s\n"[..], &wide, "\u{feff}it\u{2019}s".as_bytes(), b"it\x81s"].iter().enumerate()
    {
        put(&dir, &format!("{i}.png"), image_bytes(i));
        put(&dir, &format!("{i}.txt"), bytes);
    }
    let found = read_source(&spec(dir.path())).unwrap();
    let captions: Vec<_> = found.samples.iter().map(|s| s.captions.join("|")).collect();
    assert_eq!(captions, ["it\u{2019}s", "it\u{2019}s", "it\u{2019}s", ""]);
    let said = faults(&found);
    let expected = [
        "0.txt: the caption is no UTF-8 and is read as Windows-1252",
        "1.txt",
        "3.txt: the caption is no text",
    ];
    assert!(expected.iter().all(|p| said.contains(p)) && !said.contains("2.txt"), "{said}");
    let one = read_source(&spec(dir.path().join("0.png"))).unwrap();
    assert_eq!((one.samples.len(), one.faults.len()), (1, 1));
    let members: [(&str, &[u8]); 2] = [("0.png", &image_bytes(0)), ("0.txt", b"it\x92s")];
    let found = shard(&dir, &members);
    assert_eq!(found.samples[0].captions, ["it\u{2019}s"]);
    assert!(faults(&found).contains("x.tar: 0.txt: the caption is no UTF-8"));
}

#[test]
fn tables_of_any_dialect_are_read_by_row() {
    let dir = tempdir().unwrap();
    put(&dir, "1.png", image_bytes(1));
    put(&dir, "captions.csv", b"image;caption\n1.png;a, b\n1.png;it\x92s\n1.png;x;y\n;z\n");
    let found = read_source(&spec(dir.path())).unwrap();
    assert_eq!(found.samples.len(), 1);
    assert_eq!(found.samples[0].captions, ["a, b", "it\u{2019}s"]);
    assert!(faults(&found).contains("captions.csv, line 3: it is no UTF-8"));
    let lines: Vec<_> = found.left_out.iter().map(|s| s.name.rsplit(' ').next().unwrap()).collect();
    assert_eq!(lines, ["4", "5"]);
}

#[test]
fn names_that_are_no_utf8_stay_apart() {
    let dir = tempdir().unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    let (red, blue) = (image_bytes(3), image_bytes(4));
    let members: [(&[u8], &[u8]); 4] = [
        (b"it\x92s.png", &red),
        (b"it\x93s.png", &blue),
        (b"it\x93s.txt", b"a blue picture"),
        (b"it\x92s.txt", b"a red picture"),
    ];
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append(&header, bytes).unwrap();
    }
    put(&dir, "mix.tar", builder.into_inner().unwrap());
    let data = Dataset::open(&[spec(dir.path().join("mix.tar"))]).unwrap();
    let found: Vec<_> = data
        .samples()
        .iter()
        .map(Result::unwrap)
        .map(|s| (s.bytes().unwrap(), s.captions.join("|")))
        .collect();
    assert_eq!(found, [(red, "a red picture".to_owned()), (blue, "a blue picture".to_owned())]);
    assert_eq!((data.image_ids(), data.left_out().len()), (&[0, 1][..], 0));
}

#[cfg(unix)]
#[test]
fn files_and_folders_whose_names_are_no_utf8_stay_apart() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let dir = tempdir().unwrap();
    for (folder, name, shade) in
        [(b"a\xff", b"\x92.png", 3), (b"a\xfe", b"\x92.png", 4), (b"a\xfe", b"\x93.png", 5)]
    {
        let folder = dir.path().join(OsStr::from_bytes(folder));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(OsStr::from_bytes(name)), image_bytes(shade)).unwrap();
        let text = OsStr::from_bytes(name).to_owned();
        fs::write(folder.join(text).with_extension("txt"), format!("{shade}")).unwrap();
    }
    let data = Dataset::open(&[spec(dir.path())]).unwrap();
    assert_eq!(data.image_ids(), [0, 1, 2]);
    for s in data.samples().iter().map(Result::unwrap) {
        assert_eq!(s.bytes().unwrap(), image_bytes(s.captions[0].parse().unwrap()));
    }
    let names: std::collections::BTreeSet<_> =
        data.samples().iter().map(|s| s.unwrap().name).collect();
    assert_eq!(names.len(), 3);
    let odd = albef_data::names::text_of_path(&dir.path().join(OsStr::from_bytes(b"a\xff")));
    assert_eq!(open_source(&SourceSpec::new(&odd, None)).unwrap().len(), 1);
}

#[cfg(unix)]
#[test]
fn lists_name_files_whose_names_are_no_utf8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let dir = tempdir().unwrap();
    fs::write(dir.path().join(OsStr::from_bytes(b"it\x92s.png")), image_bytes(3)).unwrap();
    put(&dir, "caf\u{e9}.png", image_bytes(4));
    let odd = albef_data::names::text_of(b"it\x92s.png");
    let latin: &[u8] = b"{\"image\": \"it\x92s.png\", \"caption\": \"a\"}\n";
    for (name, list, images, said) in [
        // As Python writes names that it listed.
        ("x.json", &br#"[{"image": "it\udc92s.png", "caption": "a"}]"#[..], vec![&*odd], ""),
        // These bytes are UTF-8 together.
        (
            "x.json",
            br#"[{"image": "caf\udcc3\udca9.png", "caption": "a"}]"#,
            vec!["caf\u{e9}.png"],
            "",
        ),
        (
            "x.jsonl",
            br#"{"image": "it\udc92s.png", "caption": "a\udc92"}"#,
            vec![&*odd],
            "a lone surrogate is read as U+FFFD",
        ),
        ("x.jsonl", latin, vec![&*odd], ""),
        ("x.csv", b"image,caption\nit\x92s.png,a\n", vec![&*odd], ""),
        (
            "x.csv",
            b"image,caption\nit\x92s.png,it\x92s\ncaf\xe9.png,a\n",
            vec![&*odd, "caf\u{e9}.png"],
            "is read as Windows-1252",
        ),
    ] {
        put(&dir, name, list);
        let found = read_source(&SourceSpec::of(&dir.path().join(name), Some(dir.path()))).unwrap();
        let names: Vec<_> = found.samples.iter().map(|s| &*s.name).collect();
        assert_eq!(names, images, "{name}");
        found.samples.iter().for_each(|s| assert!(s.bytes().is_ok(), "{}", s.name));
        assert_eq!(faults(&found).contains(said), !found.faults.is_empty() || said.is_empty());
        assert_eq!(found.faults.is_empty(), said.is_empty(), "{name}: {}", faults(&found));
    }
    let captions = read_source(&SourceSpec::of(&dir.path().join("x.csv"), None)).unwrap();
    assert_eq!(captions.samples[0].captions, ["it\u{2019}s"]);
}

#[cfg(unix)]
#[test]
fn a_report_names_different_files_differently_and_each_in_one_line() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let dir = tempdir().unwrap();
    let names: [&[u8]; 4] = [b"it\x92.png", b"it\\x92.png", b"a\nb.png", b"c.png"];
    for name in names {
        fs::write(dir.path().join(OsStr::from_bytes(name)), image_bytes(1)).unwrap();
    }
    let options = CheckOptions::default();
    let report = check(&spec(dir.path()), &options).unwrap();
    let shown = ["it\\x92.png", "it\\\\x92.png", "a\\nb.png", "c.png"];
    for name in shown {
        assert!(report.problems.contains(&format!("{name}: no caption")), "{report}");
    }
    assert_eq!(report.alike.len(), 3, "{report}");
    assert!(report.alike.iter().all(|line| !line.contains('\n')), "{report}");
    fs::write(dir.path().join(OsStr::from_bytes(b"a\nb.txt")), "a caption").unwrap();
    let said = check(&spec(dir.path()), &options).unwrap().to_string();
    assert!(said.contains("9 characters (a\\nb.png)"), "{said}");

    // Members of one name in several archives are told apart by these.
    for (folder, other) in [("a", "d.png"), ("b", "e.png")] {
        let bytes = tar_of(&[("0.png", b"<html>"), (other, &image_bytes(2))]);
        put(&dir, &format!("{folder}/s.tar"), bytes);
    }
    let report = check(&spec(dir.path().join("{a,b}/s.tar")), &options).unwrap();
    for folder in ["a", "b"] {
        let named = format!("{folder}/s.tar: 0.png: unknown-format image");
        assert!(report.problems.iter().any(|line| line.contains(&named)), "{report}");
    }
    assert_eq!(report.alike, ["e.png has the same bytes as d.png"]);
}

#[test]
fn all_faults_of_a_range_of_shards_are_named_at_once() {
    let dir = tempdir().unwrap();
    let whole = tar_of(&[("0.png", &image_bytes(0)), ("0.txt", b"zero"), ("1.png", &[7; 3000])]);
    put(&dir, "s-0.tar", &whole);
    put(&dir, "s-3.tar", &whole[..whole.len() - 3000]);
    put(&dir, "s-4.tar", &whole[..whole.len() - 1024]);
    let cut = read_source(&spec(dir.path().join("s-4.tar"))).unwrap();
    assert_eq!((cut.samples.len(), cut.left_out.len()), (2, 1));
    let said = refusal(open_source(&spec(dir.path().join("s-{0..4}.tar"))));
    let parts = [
        "4 of 5 files",
        "s-1.tar",
        "s-2.tar",
        "s-3.tar, byte",
        "damaged",
        "s-4.tar: the archive has no end mark",
    ];
    assert!(parts.iter().all(|p| said.contains(p)), "{said}");

    put(&dir, "e-0.tar", &whole);
    put(&dir, "e-1.tar", b"");
    put(&dir, "e-2.tar", [0; 1024]);
    let found = read_source(&spec(dir.path().join("e-{0..2}.tar"))).unwrap();
    let empty: Vec<_> = found.left_out.iter().map(|s| s.error.to_string()).collect();
    assert_eq!(
        (found.samples.len(), empty),
        (2, vec!["the archive is empty".into(), "the archive holds no sample".into()])
    );
    let pattern = spec(dir.path().join("e-{0..2}.tar"));
    assert!(
        !check(&pattern, &CheckOptions { decode: false, ..CheckOptions::default() })
            .unwrap()
            .is_clean()
    );

    for (name, bytes) in [
        ("z.tar.gz", &b"\x1f\x8b\x08\0\0"[..]),
        ("z.tar", b"\x1f\x8b\x08\0\0"),
        ("z.json", b"PK\x03\x04"),
    ] {
        put(&dir, name, bytes);
        let said = refusal(open_source(&spec(dir.path().join(name))));
        assert!(said.contains("compressed with") && said.contains("unpack it first"), "{said}");
    }
}

fn list(dir: &TempDir, name: &str, entries: &[(&str, serde_json::Value)]) -> SourceSpec {
    let entry = |(image, id): &(&str, serde_json::Value)| serde_json::json!({"image": image, "caption": "c", "image_id": id});
    let all: Vec<_> = entries.iter().map(entry).collect();
    put(dir, name, serde_json::to_vec(&all).unwrap());
    SourceSpec::new(dir.path().join(name).to_str().unwrap(), Some(dir.path()))
}

#[test]
fn ids_of_several_lists_are_told_apart_where_they_are_of_different_images() {
    let dir = tempdir().unwrap();
    let own =
        |name: &str, image: &str| list(&dir, name, &[(image, 0.into()), ("same.png", 1.into())]);
    let data =
        Dataset::open(&[own("A.json", "a.png"), own("B.json", "b.png"), own("C.json", "a.png")]);
    let data = data.unwrap();
    assert_eq!(data.image_ids(), [0, 1, 2, 1, 0, 1]);
    let [note] = data.notes() else { panic!("{:?}", data.notes()) };
    let parts = ["A.json", "B.json", "`image_id` 0", "1 ids are told apart"];
    assert!(parts.iter().all(|p| note.contains(p)), "{note}");

    // Another spelling of a path is no other image.
    let spelled = list(&dir, "S.json", &[("./a.png", 0.into()), (".//same.png", 1.into())]);
    let spelled = [own("A.json", "a.png"), spelled];
    let data = Dataset::open(&spelled).unwrap();
    assert_eq!(
        (data.image_ids(), data.notes().len()),
        (&[0, 1, 0, 1][..], 0),
        "{:?}",
        data.notes()
    );

    let one =
        [("a.png", 7.into()), ("b.png", "7".into()), ("c.png", 7.0.into()), ("d.png", 7.5.into())];
    let data = Dataset::open(&[list(&dir, "T.json", &one)]).unwrap();
    assert_eq!((data.image_ids(), data.notes().len()), (&[0, 0, 0, 1][..], 0));
}

#[test]
fn entries_of_one_image_are_joined_on_demand() {
    let dir = tempdir().unwrap();
    let ids = |i: i64| [("a.png", i.into()), ("b.png", 2.into()), ("a.png", i.into())];
    let found = read_source(&list(&dir, "A.json", &ids(1))).unwrap();
    assert_eq!(found.samples.len(), 3);
    let joined = found.joined();
    let captions: Vec<_> = joined.samples.iter().map(|s| s.captions.len()).collect();
    assert_eq!(captions, [2, 1]);
    assert!(joined.notes[0].contains("3 entries are of 2 images"), "{:?}", joined.notes);
    let alone = read_source(&list(&dir, "B.json", &[("a.png", 1.into())])).unwrap().joined();
    assert!(alone.notes.is_empty());
}

#[test]
fn one_caption_over_most_images_is_a_fault() {
    let clean = |same: usize, of: usize| {
        let dir = tempdir().unwrap();
        let lines: String = (0..of)
            .map(|i| {
                put(&dir, &format!("{i}.png"), png(&RgbImage::filled(2, 2, [i as u8; 3])).unwrap());
                let caption = if i < same { "a picture".to_owned() } else { format!("number {i}") };
                serde_json::json!({"image": format!("{i}.png"), "caption": caption}).to_string()
                    + "\n"
            })
            .collect();
        put(&dir, "captions.jsonl", lines);
        let report = check(&spec(dir.path()), &CheckOptions::default()).unwrap();
        assert_eq!(report.is_clean(), report.sharing_a_caption == 0);
        (report.sharing_a_caption, report.problems.join("\n"))
    };
    let (n, said) = clean(20, 20);
    assert!(n == 20 && said.contains("20 of 20 images share the caption `a picture`"), "{said}");
    assert_eq!(clean(12, 40).0, 12);
    assert_eq!(clean(3, 40).0, 0);
    assert_eq!(clean(1, 1).0, 0);
}

#[test]
fn downloads_of_vqa_and_refcoco_are_lists_of_tasks() {
    let dir = tempdir().unwrap();
    let questions = r#"{"info": {}, "data_subtype": "val2014", "questions": [
        {"image_id": 42, "question": "Is it?", "question_id": 420001},
        {"question": "Lost?", "question_id": 1}]}"#;
    let annotations = r#"{"annotations": [{"question_id": 420001, "image_id": 42, "question_type": "is it",
        "answers": [{"answer": "yes", "answer_id": 1}, {"answer": "no", "answer_id": 2}]}]}"#;
    let asked = "v2_OpenEnded_mscoco_val2014_questions.json";
    let answered = "v2_mscoco_val2014_annotations.json";
    put(&dir, asked, questions);
    let at = |name: &str| dir.path().join(name);
    let first = |name: &str| albef_data::dataset::first_entry(&at(name)).unwrap();
    assert_eq!(first(asked)["answer"], serde_json::Value::Null);
    put(&dir, answered, annotations);
    for name in [asked, answered] {
        let entry = first(name);
        assert_eq!(entry["image"], "val2014/COCO_val2014_000000000042.jpg");
        assert_eq!(entry["answer"], serde_json::json!(["yes", "no"]));
        let refused = albef_data::dataset::read_entries(&at(name)).unwrap_err().to_string();
        assert!(refused.contains("question 1") && refused.contains("`image_id`"), "{refused}");
    }
    fs::remove_file(at(asked)).unwrap();
    let refused = albef_data::dataset::read_entries(&at(answered)).unwrap_err().to_string();
    assert!(refused.contains("v2_OpenEnded_mscoco_*_questions.json"), "{refused}");

    let refs = b"(lp0\n(dp1\nS'ref_id'\nI42\nsS'image_id'\nI9\nsS'split'\nS'val'\nsS'sentences'\n\
        (l(dS'sent'\nS'man in red'\nsa(dS'sent'\nS'left man'\nsasa.";
    put(&dir, "refs(unc).p", refs);
    let entries = albef_data::dataset::read_entries(&at("refs(unc).p")).unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!((&entries[1]["text"], &entries[1]["ref_id"]), (&"left man".into(), &42.into()));
    assert_eq!(entries[0]["image"], "train2014/COCO_train2014_000000000009.jpg");
}
