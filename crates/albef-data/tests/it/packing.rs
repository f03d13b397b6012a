//! The index of a shard, compressed archives, packing, manifests, and images that are one.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::fs;
use std::path::Path;

use albef_data::control::Control;
use albef_data::dataset::{
    CheckOptions, Contents, Dataset, PackOptions, Sample, SampleSet as _, SourceSpec, check,
    check_against, gather, pack, read_source, verify_manifest, write_manifest,
};
use albef_data::image::{DecodeOptions, ImageReader, ResizeOrder, RgbImage, jpeg, resize_bicubic};
use albef_data::random::Stream;
use albef_data::scenes::png;
use image::{Rgba, RgbaImage};
use tempfile::{TempDir, tempdir};

use crate::dataset_promises::{image_bytes, put, refusal, spec, tar_of};

/// An image that looks like no other, of about `side * side` bytes.
fn scene(seed: u64, side: usize) -> RgbImage {
    let mut stream = Stream::new(seed, "scene", &[]);
    let pixels = (0..6 * 6 * 3).map(|_| stream.below(256) as u8).collect();
    resize_bicubic(&RgbImage::new(6, 6, pixels).unwrap(), side, side, ResizeOrder::default())
}

/// A shard that is large enough for an index, with members that form no sample and faulty captions.
fn shard() -> Vec<u8> {
    let padding = vec![b' '; 70_000];
    let image = image_bytes(1);
    let members: [(&str, &[u8]); 9] = [
        ("0.png", &image),
        ("0.json", br#"{"caption": ["a", "b"], "image_id": 7}"#),
        ("1.png", &image),
        ("1.txt", b"it\x92s"),
        ("2.seg.png", &image),
        ("3.txt", b"alone"),
        ("4.png", &image),
        ("4.jpg", &image),
        ("5.bin", &padding),
    ];
    tar_of(&members)
}

fn found(path: &Path) -> Contents {
    read_source(&spec(path)).unwrap()
}

fn text(contents: &Contents) -> String {
    let Contents { samples, left_out, faults, .. } = contents;
    format!("{samples:?} {left_out:?} {faults:?}")
}

#[test]
fn a_shard_is_opened_by_its_index_while_that_is_of_it() {
    let dir = tempdir().unwrap();
    put(&dir, "a.tar", shard());
    let (path, index) = (dir.path().join("a.tar"), dir.path().join("a.tar.index"));
    let first = found(&path);
    assert_eq!((first.samples.len(), first.left_out.len(), first.faults.len()), (3, 4, 1));
    let written = fs::read(&index).unwrap();
    assert_eq!(text(&found(&path)), text(&first));
    // It is what is read: the archive itself could not be read any more.
    let changed = fs::metadata(&path).unwrap().modified().unwrap();
    let whole = fs::read(&path).unwrap();
    let set = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(changed).unwrap();
    };
    let mut unreadable = whole.clone();
    unreadable[5000..9000].fill(b'?');
    set(&unreadable);
    assert_eq!(text(&found(&path)), text(&first));
    // Another shard of its size and time is told from it.
    let mut other = whole.clone();
    let at = other.windows(6).position(|w| w == br#""a", ""#).unwrap();
    other[at + 1] = b'z';
    set(&other);
    assert_eq!(found(&path).samples[0].captions, ["z", "b"]);
    set(&whole);
    assert_eq!(text(&found(&path)), text(&first));
    // Cut or changed anywhere it is not read, and written again.
    let mut stream = Stream::new(1, "index", &[]);
    for round in 0..40 {
        let mut broken = written.clone();
        let at = stream.below(broken.len());
        if round % 2 == 0 {
            broken.truncate(at)
        } else {
            broken[at] ^= 1 << stream.below(8)
        }
        fs::write(&index, &broken).unwrap();
        assert_eq!(text(&found(&path)), text(&first), "{at}");
        assert_eq!(fs::read(&index).unwrap(), written);
    }
    // In another folder it serves as well, and of another archive it does not.
    fs::create_dir(dir.path().join("other")).unwrap();
    let moved = dir.path().join("other/a.tar");
    fs::rename(&path, &moved).unwrap();
    fs::rename(&index, dir.path().join("other/a.tar.index")).unwrap();
    let at_new = found(&moved);
    assert_eq!(text(&at_new).replace("/other/", "/"), text(&first));
    let new = tar_of(&[("0.png", &image_bytes(2)), ("0.txt", b"new"), ("x.bin", &[0; 70_000])]);
    fs::write(&moved, new).unwrap();
    assert_eq!(found(&moved).samples[0].captions, ["new"]);
}

#[test]
fn a_folder_that_takes_no_index_is_read_all_the_same() {
    let dir = tempdir().unwrap();
    put(&dir, "a.tar", shard());
    fs::create_dir(dir.path().join("a.tar.index")).unwrap();
    let contents = found(&dir.path().join("a.tar"));
    assert_eq!(contents.samples.len(), 3);
    assert!(contents.notes[0].contains("1 of 1 shards have no index"), "{:?}", contents.notes);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut out, bytes).unwrap();
    out.finish().unwrap()
}

#[test]
fn a_compressed_archive_is_unpacked_once_and_anew_when_it_changes() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("a.tar.gz");
    put(&dir, "plain.tar", shard());
    put(&dir, "a.tar.gz", gzip(&shard()));
    let first = found(&path);
    assert!(first.notes[0].contains("was unpacked to"), "{:?}", first.notes);
    let plain = found(&dir.path().join("plain.tar"));
    assert_eq!(text(&first).replace("a.tar.gz.unpacked", "plain.tar"), text(&plain));
    assert_eq!(first.samples[0].bytes().unwrap(), image_bytes(1));
    let again = found(&path);
    assert!(again.notes.is_empty() && text(&again) == text(&first));
    put(&dir, "a.tar.gz", gzip(&tar_of(&[("0.png", &image_bytes(2)), ("0.txt", b"new")])));
    assert_eq!(found(&path).samples[0].captions, ["new"]);
    let packed = gzip(&shard());
    put(&dir, "a.tar.gz", &packed[..packed.len() / 2]);
    let said = refusal(read_source(&spec(&path)));
    assert!(said.contains("a.tar.gz") && said.contains("cannot be unpacked beyond byte"), "{said}");
    // As one of the archives of a folder, and of a pattern.
    let folder = tempdir().unwrap();
    put(&folder, "b.tgz", gzip(&shard()));
    put(&folder, "c.tar", shard());
    assert_eq!(found(folder.path()).samples.len(), 6);
    assert_eq!(found(&folder.path().join("*.tgz")).samples.len(), 3);
}

/// Two lists whose ids collide, a folder and a shard; `broken` of the images are no images.
fn sources(dir: &TempDir, broken: usize) -> Vec<SourceSpec> {
    let mut specs = Vec::new();
    for list in ["one", "two"] {
        let mut entries = Vec::new();
        for i in 0..20 {
            let name = format!("{list}/{}.png", i / 2);
            put(dir, &name, png(&scene(i / 2 + 100 * list.len() as u64, 40)).unwrap());
            entries.push(serde_json::json!({
                "image": name, "caption": format!("{list} caption\n {i}"), "image_id": i / 2
            }));
        }
        put(dir, &format!("{list}.json"), serde_json::to_vec(&entries).unwrap());
        specs.push(SourceSpec::of(&dir.path().join(format!("{list}.json")), Some(dir.path())));
    }
    for i in 0..broken {
        put(dir, &format!("one/{}.png", i + 3), "<html>");
    }
    put(dir, "folder/x.png", image_bytes(3));
    put(dir, "folder/x.txt", "first\nsecond\n");
    put(dir, "folder/silent.png", image_bytes(4));
    specs.push(spec(dir.path().join("folder")));
    put(dir, "s.tar", shard());
    specs.push(spec(dir.path().join("s.tar")));
    specs
}

fn options(output: &Path) -> PackOptions {
    PackOptions {
        output: output.to_owned(),
        shard_bytes: 1 << 30,
        pairs_per_shard: 7,
        decode: true,
        image_size: None,
        reader: ImageReader::default(),
        workers: 2,
    }
}

/// What a run sees of a data set: which samples have one image number (each by the first that has it),
/// captions and bytes.
pub(crate) fn seen(data: &Dataset) -> Vec<(usize, Vec<String>, Vec<u8>)> {
    let samples = data.samples().iter().map(|s| s.unwrap());
    let first = |id: &u32| data.image_ids().iter().position(|other| other == id).unwrap();
    let one = |(s, id): (Sample, &u32)| s.bytes().ok().map(|bytes| (first(id), s.captions, bytes));
    samples.zip(data.image_ids()).filter_map(one).collect()
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap());
    // The time of change, by which an index is known to be of its shard, differs.
    let mut all: Vec<_> = entries
        .map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap()))
        .filter(|(name, _)| !name.ends_with(".index"))
        .collect();
    all.sort();
    all
}

#[test]
fn packed_pairs_are_those_of_the_sources_in_their_order() {
    let dir = tempdir().unwrap();
    let data = Dataset::open(&sources(&dir, 0)).unwrap();
    let output = dir.path().join("packed");
    let report = pack(&data, &options(&output), &Control::new()).unwrap();
    assert_eq!((report.pairs, report.shards, report.without_captions), (43, 7, 2));
    assert_eq!((report.unusable, report.left_out), (0, data.left_out().len()));
    let packed = Dataset::open(&[spec(&output)]).unwrap();
    assert!(seen(&packed) == seen(&data));
    assert!(data.image_ids()[20] > 9, "ids that collide are told apart");
    assert_eq!(verify_manifest(&output.join("manifest.jsonl"), 2, &Control::new()).unwrap(), 7);
    let by_size = PackOptions {
        pairs_per_shard: usize::MAX,
        shard_bytes: 30_000,
        ..options(&dir.path().join("by-size"))
    };
    let report = pack(&data, &by_size, &Control::new()).unwrap();
    for shard in 0..report.shards {
        let size = fs::metadata(by_size.output.join(format!("{shard:05}.tar"))).unwrap().len();
        assert!(size <= 30_000 + 1024, "{size}");
    }
    assert!(report.shards > 3);
    assert!(seen(&Dataset::open(&[spec(&by_size.output)]).unwrap()) == seen(&data));
}

#[test]
fn broken_pairs_are_left_out_counted_and_named() {
    let dir = tempdir().unwrap();
    let data = Dataset::open(&sources(&dir, 4)).unwrap();
    let output = dir.path().join("packed");
    let report = pack(&data, &options(&output), &Control::new()).unwrap();
    // Four images, of two entries each.
    assert_eq!((report.pairs, report.unusable), (35, 4));
    let named = fs::read_to_string(output.join("left_out.jsonl")).unwrap();
    assert_eq!(named.lines().count(), report.left_out + report.without_captions);
    assert!(named.contains("one/3.png") && named.contains("HTML"), "{named}");
    let usable: Vec<_> =
        seen(&data).into_iter().filter(|(_, _, bytes)| !bytes.starts_with(b"<")).collect();
    let captions =
        |all: &[(usize, Vec<String>, Vec<u8>)]| all.iter().map(|s| s.1.clone()).collect::<Vec<_>>();
    let packed = seen(&Dataset::open(&[spec(&output)]).unwrap());
    assert_eq!(captions(&packed), captions(&usable));
}

#[test]
fn images_that_were_missing_are_looked_for_again() {
    let dir = tempdir().unwrap();
    let lines: String = (0..20)
        .map(|i| format!("{{\"image\": \"{i}.png\", \"caption\": \"number {i}\"}}\n"))
        .collect();
    put(&dir, "list.jsonl", lines);
    let list = spec(dir.path().join("list.jsonl"));
    let pack_to = |name: &str| {
        let data = Dataset::open(std::slice::from_ref(&list)).unwrap();
        pack(&data, &options(&dir.path().join(name)), &Control::new()).unwrap()
    };
    let put_images = |numbers: std::ops::Range<usize>| {
        numbers.for_each(|i| put(&dir, &format!("{i}.png"), image_bytes(i)));
    };
    assert_eq!(pack_to("packed").pairs, 0);
    put_images(9..14);
    let report = pack_to("packed");
    assert_eq!((report.pairs, report.unusable), (5, 15));
    put_images(0..20);
    let report = pack_to("packed");
    assert_eq!((report.pairs, report.unusable, report.shards), (20, 0, 3));
    assert_eq!(pack_to("packed").kept_shards, 3);
    pack_to("fresh");
    assert!(files(&dir.path().join("packed")) == files(&dir.path().join("fresh")));

    // What is packed is never lost: not even if its image is gone, and another one has come.
    put_images(20..21);
    let removed = |i: usize| fs::remove_file(dir.path().join(format!("{i}.png"))).unwrap();
    removed(3);
    pack_to("partly");
    put_images(3..4);
    for i in [1, 15] {
        removed(i);
        let data = Dataset::open(std::slice::from_ref(&list)).unwrap();
        let before = files(&dir.path().join("partly"));
        let options = options(&dir.path().join("partly"));
        let error = pack(&data, &options, &Control::new()).unwrap_err().to_string();
        assert!(error.contains(&format!("{i}.png, which is packed, is not")), "{error}");
        assert!(files(&dir.path().join("partly")) == before);
        put_images(i..i + 1);
    }
    assert_eq!(pack_to("partly").pairs, 20);
}

#[test]
fn entries_of_one_image_share_its_bytes_in_a_shard() {
    let dir = tempdir().unwrap();
    let mut entries = Vec::new();
    for i in 0..20 {
        let image = i % 4;
        let name = format!("{image}.png");
        put(&dir, &name, png(&scene(image, 40)).unwrap());
        let caption = match i {
            7 => serde_json::json!(["two", "captions"]),
            _ => serde_json::json!(format!("caption {i}")),
        };
        entries.push(serde_json::json!({"image": name, "caption": caption, "image_id": image}));
    }
    put(&dir, "list.json", serde_json::to_vec(&entries).unwrap());
    let data = Dataset::open(&[SourceSpec::of(&dir.path().join("list.json"), None)]).unwrap();
    let output = dir.path().join("packed");
    let report = pack(&data, &options(&output), &Control::new()).unwrap();
    assert_eq!((report.images, report.pairs, report.captions), (4, 20, 21));
    assert!(report.to_string().starts_with("20 pairs of 4 images with 21 captions"), "{report}");
    let stored: u64 = (0..4).map(|i| data.sample(i).unwrap().bytes().unwrap().len() as u64).sum();
    assert!(report.bytes < stored + 4 * 8192, "{} for {stored} bytes of images", report.bytes);
    // Each entry is a pair of its own again; those of one image follow each other.
    let packed = Dataset::open(&[spec(&output)]).unwrap();
    let pairs = |data: &Dataset| {
        let pair = |(_, captions, bytes)| (bytes, captions);
        seen(data).into_iter().map(pair).collect::<Vec<(Vec<u8>, Vec<String>)>>()
    };
    let mut expected = pairs(&data);
    expected.sort_by_key(|(bytes, _)| {
        let of = |i: &usize| data.sample(*i).unwrap().bytes().unwrap() == *bytes;
        (0..4).position(|i| of(&i))
    });
    assert!(pairs(&packed) == expected);
    let groups: Vec<u32> = (0..20).map(|i| i / 5).collect();
    assert_eq!(packed.image_ids(), groups);
    // And they are one image with all captions where images are what is measured.
    let joined = read_source(&spec(&output)).unwrap().joined().samples;
    assert_eq!(joined.iter().map(|s| s.captions.len()).collect::<Vec<_>>(), [5, 5, 5, 6]);
    // What is packed again is as it was.
    let again = dir.path().join("again");
    pack(&packed, &options(&again), &Control::new()).unwrap();
    assert!(pairs(&Dataset::open(&[spec(&again)]).unwrap()) == expected);
    // A number that does not fit the captions is none of this program's.
    for wrong in ["[1, 2]", "[0, 1]", "[]", "3", "[1]", "[18446744073709551615, 2]"] {
        let object = format!(r#"{{"caption": "a", "captions_of_entries": {wrong}}}"#);
        let image = image_bytes(1);
        put(&dir, "w.tar", tar_of(&[("0.png", &image), ("0.json", object.as_bytes())]));
        let found = found(&dir.path().join("w.tar"));
        assert_eq!((found.samples.len(), &*found.samples[0].captions[0]), (1, "a"), "{wrong}");
    }
}

#[test]
fn images_without_a_caption_are_named_with_what_is_left_out() {
    let dir = tempdir().unwrap();
    let image = image_bytes(1);
    let members: [(&str, &[u8]); 9] = [
        ("0.png", &image),
        ("0.json", br#"{"caption": ""}"#),
        ("1.png", &image),
        ("1.txt", b" \n"),
        ("2.png", &image),
        ("2.cls", b"4"),
        ("3.png", &image),
        ("3.txt", b"three"),
        ("3.json", br#"{"image_id": 3}"#),
    ];
    put(&dir, "s.tar", tar_of(&members));
    put(&dir, "folder/silent.png", &image);
    put(&dir, "folder/empty.png", &image);
    put(&dir, "folder/empty.txt", "");
    let specs = [spec(dir.path().join("s.tar")), spec(dir.path().join("folder"))];
    let data = Dataset::open(&specs).unwrap();
    let output = dir.path().join("packed");
    let report = pack(&data, &options(&output), &Control::new()).unwrap();
    assert_eq!((report.pairs, report.without_captions), (1, 5));
    let named = fs::read_to_string(output.join("left_out.jsonl")).unwrap();
    let parts = [
        ("s.tar: 0.png\"", "only blank captions"),
        ("s.tar: 1.png\"", "has no caption"),
        ("s.tar: 2.png\"", "has no caption"),
        ("folder/silent.png\"", "has no caption"),
        ("folder/empty.png\"", "has no caption"),
    ];
    for (name, why) in parts {
        let found = named.lines().filter(|line| line.contains(name) && line.contains(why)).count();
        assert_eq!(found, 1, "{name}: {named}");
    }
    assert_eq!(named.lines().count(), report.left_out + report.without_captions);
}

#[test]
fn a_packing_continues_wherever_it_was_stopped() {
    let dir = tempdir().unwrap();
    let data = Dataset::open(&sources(&dir, 4)).unwrap();
    let whole = dir.path().join("whole");
    pack(&data, &options(&whole), &Control::new()).unwrap();
    let expected = files(&whole);
    let output = dir.path().join("packed");
    // Cancelled before the start, and at the first report.
    for reports in [0, 1, 0] {
        let flag = Control::new().cancellation();
        let stop = flag.clone();
        let control = Control::new()
            .cancelled_by(flag)
            .on_progress(move |_| stop.store(true, std::sync::atomic::Ordering::SeqCst));
        if reports == 0 {
            control.cancel();
        }
        let said = refusal(pack(&data, &options(&output), &control));
        assert_eq!(said, "interrupted");
        assert!(files(&output).iter().all(|(name, bytes)| {
            let known = expected.iter().find(|(n, _)| n == name);
            known.is_some_and(|(_, whole)| whole == bytes)
        }));
    }
    pack(&data, &options(&output), &Control::new()).unwrap();
    assert_eq!(files(&output), expected);
    // A shard without its account, and one that is cut, are written anew.
    fs::remove_file(output.join("00002.json")).unwrap();
    fs::write(output.join("00003.tar"), "cut").unwrap();
    let report = pack(&data, &options(&output), &Control::new()).unwrap();
    assert_eq!((report.kept_shards, report.shards), (4, 6));
    assert_eq!(files(&output), expected);
    // The folder is of these data and settings.
    let other = PackOptions { pairs_per_shard: 8, ..options(&output) };
    let said = refusal(pack(&data, &other, &Control::new()));
    assert!(said.contains("other settings"), "{said}");
    let less = Dataset::open(&sources(&dir, 0)[..1]).unwrap();
    let said = refusal(pack(&less, &options(&output), &Control::new()));
    assert!(said.contains("other data"), "{said}");
    let said = refusal(pack(&data, &options(dir.path()), &Control::new()));
    assert!(said.contains("of no packing"), "{said}");
}

#[test]
fn a_manifest_lists_each_file_once_and_finds_what_changed() {
    let dir = tempdir().unwrap();
    let specs = sources(&dir, 0);
    let samples = gather(&specs).unwrap().samples;
    let path = dir.path().join("manifest.jsonl");
    let written = write_manifest(&path, &specs, &samples, 2, &Control::new()).unwrap();
    // Two lists of ten images, two images of a folder, a shard.
    assert_eq!(written, (2 + 20 + 2 + 1, 0));
    assert!(fs::read_to_string(&path).unwrap().contains(r#"{"path":"one/0.png","bytes":"#));
    assert_eq!(verify_manifest(&path, 2, &Control::new()).unwrap(), 25);
    put(&dir, "two/4.png", image_bytes(9));
    let said = refusal(verify_manifest(&path, 2, &Control::new()));
    assert!(said.contains("two/4.png") && said.contains("manifest.jsonl"), "{said}");
}

#[test]
fn images_that_are_one_or_look_alike_are_counted_and_leaks_are_problems() {
    let dir = tempdir().unwrap();
    for i in 0..12 {
        put(&dir, &format!("train/{i}.png"), png(&scene(i, 60)).unwrap());
        put(&dir, &format!("train/{i}.txt"), format!("scene {i}"));
    }
    let smaller = |seed: u64, side| {
        png(&resize_bicubic(&scene(seed, 60), side, side, ResizeOrder::default())).unwrap()
    };
    put(&dir, "train/copy.png", png(&scene(3, 60)).unwrap());
    put(&dir, "train/copy.txt", "a copy");
    put(&dir, "train/small.png", smaller(4, 50));
    put(&dir, "train/small.txt", "small");
    put(&dir, "test/0.png", png(&scene(5, 60)).unwrap());
    put(&dir, "test/1.png", smaller(6, 45));
    put(&dir, "test/2.png", png(&scene(77, 60)).unwrap());
    let train = spec(dir.path().join("train"));
    let options = CheckOptions { workers: 2, ..CheckOptions::default() };
    let report = check(&train, &options).unwrap();
    assert_eq!((report.duplicates, report.near_duplicates), (1, 1), "{report}");
    assert!(report.alike.contains(&"copy.png has the same bytes as 3.png".into()), "{report}");
    assert!(report.alike.contains(&"small.png looks like 4.png".into()), "{report}");
    assert!(report.is_clean());
    let test = gather(&[spec(dir.path().join("test"))]).unwrap().samples;
    let train = gather(&[train]).unwrap();
    let report = check_against(&train, Some(&test), &options, &Control::new()).unwrap();
    assert_eq!((report.leaks, report.near_leaks), (1, 1), "{report}");
    assert!(!report.is_clean());
    assert!(report.alike.contains(&"leak: 5.png has the same bytes as 0.png".into()), "{report}");
}

#[test]
fn images_can_be_stored_smaller_and_no_smaller_ones_change() {
    let dir = tempdir().unwrap();
    for (name, side) in [("large", 90), ("small", 20)] {
        put(&dir, &format!("{name}.png"), png(&scene(3, side)).unwrap());
        put(&dir, &format!("{name}.txt"), name.as_bytes());
    }
    let wide = resize_bicubic(&scene(4, 60), 80, 50, ResizeOrder::default());
    put(&dir, "wide.png", png(&wide).unwrap());
    put(&dir, "wide.txt", b"wide");
    let data = Dataset::open(&[spec(dir.path())]).unwrap();
    let output = dir.path().join("shards");
    let reduced = PackOptions { image_size: Some(30), ..options(&output) };
    assert_eq!(pack(&data, &reduced, &Control::new()).unwrap().pairs, 3);
    let packed = read_source(&spec(output.join("00000.tar"))).unwrap().samples;
    let sizes: Vec<(usize, usize)> = packed.iter().map(|s| s.size().unwrap()).collect();
    // Height and width.
    assert_eq!(sizes, [(30, 30), (20, 20), (30, 48)]);
    let names: Vec<bool> = packed.iter().map(|s| s.name.ends_with(".jpg")).collect();
    assert_eq!(names, [true, false, true]);
    let small = packed[1].bytes().unwrap();
    assert_eq!(small, std::fs::read(dir.path().join("small.png")).unwrap());
    // A packing of another size is not continued.
    let other = PackOptions { image_size: Some(31), ..options(&output) };
    assert!(pack(&data, &other, &Control::new()).is_err());
}

#[test]
fn smaller_images_keep_orientation_and_transparency() {
    let dir = tempdir().unwrap();
    let exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let plain = jpeg(&resize_bicubic(&scene(3, 90), 90, 60, ResizeOrder::default()), 95).unwrap();
    let segment = [&[0xff, 0xe1, 0, exif.len() as u8 + 2][..], exif].concat();
    put(&dir, "a.jpg", [&plain[..2], &segment, &plain[2..]].concat());
    put(&dir, "b.jpg", &plain);
    let clear = RgbaImage::from_pixel(80, 80, Rgba([200, 10, 10, 90]));
    clear.save(dir.path().join("c.png")).unwrap();
    ["a", "b", "c"].iter().for_each(|name| put(&dir, &format!("{name}.txt"), name));
    let data = Dataset::open(&[spec(dir.path())]).unwrap();
    // Whether or not a run turns images.
    for exif_orientation in [false, true] {
        let output = dir.path().join(format!("shards{exif_orientation}"));
        let own = DecodeOptions { exif_orientation, ..DecodeOptions::default() };
        let reader = ImageReader::new(own);
        let reduced = PackOptions { image_size: Some(30), reader, ..options(&output) };
        pack(&data, &reduced, &Control::new()).unwrap();
        let packed = read_source(&spec(output.join("00000.tar"))).unwrap().samples;
        let upright = DecodeOptions { exif_orientation: true, ..DecodeOptions::default() };
        let sizes = |options: &DecodeOptions| -> Vec<(usize, usize)> {
            let image = |s: &Sample| s.decode(options).unwrap();
            packed.iter().map(|s| (image(s).width, image(s).height)).collect()
        };
        assert_eq!(sizes(&DecodeOptions::default()), [(45, 30), (45, 30), (80, 80)]);
        assert_eq!(sizes(&upright), [(30, 45), (45, 30), (80, 80)]);
        assert_eq!(packed[2].bytes().unwrap(), fs::read(dir.path().join("c.png")).unwrap());
    }
}
