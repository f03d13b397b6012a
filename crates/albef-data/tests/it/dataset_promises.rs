//! Every reader on small files, and what the loader promises of order, resuming and broken files.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::collections::BTreeSet;
use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use albef_data::dataset::{
    Batch, CheckOptions, Contents, Dataset, Draw, EntryContext, ImageRoots, LoaderOptions, MixGen,
    MixMode, Sample, SkipReport, Skipped, SourceSpec, Target, TaskFields, TrainLoader, check,
    check_contents, load_images, load_samples, load_views, open_source, read_list, read_source,
    text_field,
};
use albef_data::error::{DataError, ImageErrorKind};
use albef_data::image::{
    DecodeOptions, ImageReader, Normalization, RandAugment, ReferenceQuirks, ResizeOrder, RgbImage,
    TrainTransform,
};
use albef_data::scenes::png;
use albef_data::text::{Tokenizer, Vocabulary};
use tempfile::{TempDir, tempdir};

pub(crate) fn image_bytes(i: usize) -> Vec<u8> {
    let mut image = RgbImage::filled(12, 10, [(i * 37 % 256) as u8, (i * 11 % 256) as u8, 90]);
    image.pixels[0] = 255;
    png(&image).unwrap()
}

pub(crate) fn put(dir: &TempDir, name: &str, bytes: impl AsRef<[u8]>) {
    let path = dir.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

pub(crate) fn tar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn spec(path: impl AsRef<Path>) -> SourceSpec {
    SourceSpec::new(path.as_ref().to_str().unwrap(), None)
}

fn read(path: impl AsRef<Path>) -> Vec<Sample> {
    open_source(&spec(path)).unwrap()
}

pub(crate) fn refusal<T>(result: Result<T, DataError>) -> String {
    match result {
        Ok(_) => panic!("it should have been refused"),
        Err(e) => e.to_string(),
    }
}

fn decodes(samples: &[Sample]) {
    for s in samples {
        s.decode(&DecodeOptions::default()).unwrap_or_else(|e| panic!("{}: {e}", s.name));
    }
}

/// A JSON list of `n` images; those in `broken` hold no image.
fn numbered(n: usize, broken: &[usize]) -> (TempDir, Dataset) {
    let dir = tempdir().unwrap();
    let mut list = Vec::new();
    for i in 0..n {
        let name = format!("{i}.png");
        if broken.contains(&i) {
            put(&dir, &name, "<html>404</html>");
        } else {
            put(&dir, &name, image_bytes(i));
        }
        let captions = [format!("word{i}"), format!("other{i} words")];
        list.push(serde_json::json!({"image": name, "caption": captions}));
    }
    put(&dir, "list.json", serde_json::to_vec(&list).unwrap());
    let path = dir.path().join("list.json");
    let spec = SourceSpec::new(path.to_str().unwrap(), Some(dir.path()));
    let data = Dataset::open(&[spec]).unwrap();
    (dir, data)
}

fn options(batch_size: usize, workers: usize) -> LoaderOptions {
    LoaderOptions {
        batch_size,
        seed: 5,
        epoch: 0,
        start_batch: 0,
        workers,
        text: Default::default(),
        max_words: 30,
        max_tokens: 25,
        mixgen: Default::default(),
        image_index: false,
        transform: TrainTransform {
            size: 8,
            crop_scale: (0.2, 1.0),
            flip: true,
            rand_augment: Some(RandAugment { n: 2, m: 7.0 }),
            quirks: ReferenceQuirks::default(),
            resize_order: ResizeOrder::default(),
        },
        flip_sided: true,
        normalization: Normalization::default(),
        reader: ImageReader::default(),
        max_skipped: None,
    }
}

fn loader(data: &Arc<Dataset>, options: LoaderOptions, report: &SkipReport) -> TrainLoader {
    let pieces = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nwords\n";
    let tokenizer = Arc::new(Tokenizer::new(Vocabulary::from_text(pieces).unwrap()));
    TrainLoader::new(data.clone(), tokenizer, options, report.clone()).unwrap()
}

fn all(mut loader: TrainLoader) -> Vec<Batch> {
    let mut batches = Vec::new();
    while let Some(batch) = loader.next_batch().unwrap() {
        batches.push(batch);
    }
    batches
}

fn epoch(data: &Arc<Dataset>, options: LoaderOptions) -> Vec<Batch> {
    all(loader(data, options, &SkipReport::default()))
}

#[test]
fn annotation_lists_take_one_or_several_captions_and_any_id() {
    let dir = tempdir().unwrap();
    put(&dir, "pics/1.png", image_bytes(1));
    put(&dir, "pics/2.png", image_bytes(2));
    let text = "\u{feff}[
        {\"image\": \"pics/1.png\", \"caption\": \"a dog\", \"image_id\": 7, \"licence\": \"none\"},
        {\"image\": \"pics/2.png\", \"caption\": [\"two cups\", \"cups\"], \"image_id\": \"x\"},
        {\"image\": \"pics/1.png\", \"caption\": \"again\", \"image_id\": 7}]";
    put(&dir, "list.json", text);
    let path = dir.path().join("list.json");
    let spec = SourceSpec::new(path.to_str().unwrap(), Some(dir.path()));
    let data = Dataset::open(&[spec]).unwrap();
    assert_eq!(data.image_ids(), [0, 1, 0]);
    let samples: Vec<Sample> = data.samples().iter().map(Result::unwrap).collect();
    assert_eq!(samples[1].captions, ["two cups", "cups"]);
    decodes(&samples);
}

#[test]
fn equal_names_in_two_folders_are_two_images() {
    let (a, b) = (tempdir().unwrap(), tempdir().unwrap());
    for dir in [&a, &b] {
        put(dir, "1.png", image_bytes(1));
        put(dir, "captions.jsonl", r#"{"image": "1.png", "caption": "one"}"#);
    }
    let data = Dataset::open(&[spec(a.path()), spec(b.path())]).unwrap();
    assert_eq!(data.image_ids(), [0, 1]);
}

#[test]
fn folders_take_lines_rows_or_texts_beside() {
    let lines = tempdir().unwrap();
    put(&lines, "1.png", image_bytes(1));
    put(&lines, "captions.jsonl", "{\"image\": \"1.png\", \"caption\": [\"a\", \"b\"]}\n\n");
    assert_eq!(read(lines.path())[0].captions, ["a", "b"]);
    put(&lines, "captions.jsonl", "{\"image\": \"1.png\", \"caption\": \"a\"}\n{oops\n");
    let found = read_source(&spec(lines.path())).unwrap();
    assert_eq!((found.samples.len(), found.left_out.len()), (1, 1));
    assert!(found.left_out[0].name.ends_with("captions.jsonl, line 2"), "{found:?}");

    let rows = tempdir().unwrap();
    put(&rows, "1.png", image_bytes(1));
    put(&rows, "2.png", image_bytes(2));
    let table = "\u{feff}image,caption,image_id\n1.png,\"a dog, wet\",\n2.png,cup,\n1.png,dog,\n";
    put(&rows, "captions.csv", table);
    let samples = read(rows.path());
    assert_eq!(samples[0].captions, ["a dog, wet", "dog"]);
    assert_ne!(samples[0].key, samples[1].key);
    decodes(&samples);
    put(&rows, "captions.csv", "picture,caption\n1.png,dog\n");
    assert!(refusal(open_source(&spec(rows.path()))).contains("`picture`, `caption`"));

    let beside = tempdir().unwrap();
    put(&beside, "deep/1.png", image_bytes(1));
    put(&beside, "deep/1.txt", "a dog\r\n\r\n  the dog \r\n");
    put(&beside, "2.PNG", image_bytes(2));
    put(&beside, "._2.png", "junk");
    let samples = read(beside.path());
    let captions: Vec<_> = samples.iter().map(|s| (s.name.as_str(), s.captions.len())).collect();
    assert_eq!(captions, [("2.PNG", 0), ("deep/1.png", 2)]);
    decodes(&samples);
    let data = Dataset::open(&[spec(beside.path())]).unwrap();
    assert_eq!((data.len(), data.without_captions()), (1, 1));
}

#[test]
fn empty_and_wordless_folders_cannot_be_trained_on() {
    let dir = tempdir().unwrap();
    assert!(open_source(&spec(dir.path())).unwrap().is_empty());
    assert!(refusal(Dataset::open(&[spec(dir.path())])).contains("no image"));
    put(&dir, "1.png", image_bytes(1));
    assert_eq!(read(dir.path()).len(), 1);
    assert!(refusal(Dataset::open(&[spec(dir.path())])).contains("caption"));
    put(&dir, "1.txt", " \n");
    assert!(refusal(Dataset::open(&[spec(dir.path())])).contains("caption"));
    assert!(refusal(Dataset::open(&[spec(dir.path().join("gone.json"))])).contains("gone.json"));
}

#[test]
fn shards_give_images_at_their_places() {
    let dir = tempdir().unwrap();
    let long = format!("{}/a.png", "long".repeat(40));
    let stem = long.replace(".png", ".json");
    for shard in 0..3 {
        let words = format!(r#"{{"caption": ["s{shard}", "x"], "image_id": {shard}}}"#);
        let members: [(&str, &[u8]); 6] = [
            ("0.png", &image_bytes(shard)),
            ("0.json", words.as_bytes()),
            ("1.txt", b"first\n\nsecond\n"),
            ("1.png", &image_bytes(shard + 10)),
            (&long, &image_bytes(shard + 20)),
            (&stem, br#"{"caption": "far down"}"#),
        ];
        put(&dir, &format!("train-000{shard}.tar"), tar_of(&members));
    }
    let counts = |pattern: &str| read(dir.path().join(pattern)).len();
    assert_eq!(counts("train-{0000..0002}.tar"), 9);
    assert_eq!(counts("train-{0001..0002}.tar"), 6);
    assert_eq!(counts("train-{0000,0002}.tar"), 6);
    assert_eq!(counts("*.tar"), 9);
    assert_eq!(counts("train-0001.tar"), 3);
    assert_eq!(counts(""), 9);
    let samples = read(dir.path().join("*.tar"));
    decodes(&samples);
    assert_eq!(samples[1].captions, ["first", "second"]);
    assert_eq!(samples[3].captions, ["s1", "x"]);
    assert_eq!(samples[3].bytes().unwrap(), image_bytes(1));
    assert_eq!(samples[8].bytes().unwrap(), image_bytes(22));
    let keys: BTreeSet<_> = samples.iter().map(|s| &s.key).collect();
    assert_eq!(keys.len(), 9, "equal names in two shards are two images");
    let missing = refusal(open_source(&spec(dir.path().join("train-{0002..0003}.tar"))));
    assert!(missing.contains("train-0003.tar"), "{missing}");
    assert!(refusal(open_source(&spec(dir.path().join("none-*.tar")))).contains("no file fits"));
    assert!(refusal(open_source(&spec(dir.path().join("a{0..x}.tar")))).contains("`x`"));
}

#[test]
fn damaged_shards_are_refused_with_their_place() {
    let dir = tempdir().unwrap();
    let bytes = tar_of(&[("0.png", &image_bytes(0)), ("0.txt", b"zero"), ("1.png", &[7; 3000])]);
    let refused = |bytes: &[u8]| {
        put(&dir, "x.tar", bytes);
        let said = refusal(open_source(&spec(dir.path().join("x.tar"))));
        assert!(said.contains("x.tar, byte ") && said.contains("damaged"), "{said}");
    };
    let last = bytes.len() - 1024 - 3072;
    refused(&bytes[..last + 1000]);
    refused(&bytes[..last - 100]);
    refused(&bytes[..512 + image_bytes(0).len() + 1]);
    let mut overwritten = bytes.clone();
    overwritten[last - 512..last - 400].fill(b'?');
    refused(&overwritten);
}

#[test]
fn an_epoch_holds_each_sample_once_whatever_the_workers() {
    let (_dir, data) = numbered(23, &[]);
    let data = Arc::new(data);
    let one = epoch(&data, options(5, 1));
    assert_eq!(one.len(), 4);
    for workers in [2, 3, 8] {
        assert_eq!(epoch(&data, options(5, workers)), one, "{workers} workers");
    }
    let seen: BTreeSet<usize> = one.iter().flat_map(|b| b.samples.clone()).collect();
    assert_eq!(seen.len(), 20);
    assert!(one.iter().all(|b| b.images.len() == 5 * 3 * 64 && b.image_ids.len() == 5));
    let next = LoaderOptions { epoch: 1, ..options(5, 2) };
    assert_ne!(epoch(&data, next)[0].samples, one[0].samples);
}

#[test]
fn resuming_gives_what_an_unbroken_run_gives() {
    let (_dir, data) = numbered(40, &[3, 17]);
    let data = Arc::new(data);
    let whole = epoch(&data, options(6, 2));
    for start in 0..=whole.len() {
        let rest = LoaderOptions { start_batch: start, ..options(6, 3) };
        assert_eq!(epoch(&data, rest), whole[start..], "from batch {start}");
    }
}

#[test]
fn unusable_images_are_replaced_counted_and_named() {
    let (dir, data) = numbered(30, &[2, 9]);
    fs::remove_file(dir.path().join("20.png")).unwrap();
    let data = Arc::new(data);
    let report = SkipReport::default();
    let batches = all(loader(&data, options(10, 3), &report));
    assert_eq!(batches.len(), 3);
    let used: Vec<usize> = batches.iter().flat_map(|b| b.samples.clone()).collect();
    assert_eq!(used.len(), 30);
    assert!([2, 9, 20].iter().all(|i| !used.contains(i)));
    let named =
        || -> Vec<_> { report.list().into_iter().map(|s| (s.name, s.error.kind)).collect() };
    let expected = [
        ("2.png".to_owned(), ImageErrorKind::UnknownFormat),
        ("9.png".to_owned(), ImageErrorKind::UnknownFormat),
        ("20.png".to_owned(), ImageErrorKind::NotFound),
    ];
    assert_eq!(named(), expected);
    all(loader(&data, LoaderOptions { epoch: 1, ..options(10, 1) }, &report));
    assert_eq!(named(), expected, "a second epoch names nothing twice");
    assert_eq!(epoch(&data, options(10, 1)), batches);
}

#[test]
fn too_many_unusable_images_end_the_run() {
    let (_dir, data) = numbered(40, &(0..12).collect::<Vec<_>>());
    let data = Arc::new(data);
    let run = |max_skipped| {
        let options = LoaderOptions { max_skipped, ..options(40, 2) };
        loader(&data, options, &SkipReport::default()).next_batch()
    };
    let Err(DataError::TooManySkipped { count, limit, list }) = run(None) else {
        panic!("the limit is ten")
    };
    assert_eq!((count, limit, list.lines().count()), (11, 10, 11));
    assert!(matches!(run(Some(0)), Err(DataError::TooManySkipped { count: 1, .. })));
    assert!(run(Some(12)).unwrap().is_some());
    assert!(run(Some(usize::MAX)).unwrap().is_some());
    let (_dir, none) = numbered(4, &[0, 1, 2, 3]);
    let mut loader = loader(&Arc::new(none), options(2, 1), &SkipReport::default());
    assert!(loader.next_batch().is_err());
}

#[test]
fn an_image_of_many_samples_counts_once() {
    let dir = tempdir().unwrap();
    put(&dir, "ok.png", image_bytes(1));
    let mut lines = String::from("{\"image\": \"ok.png\", \"caption\": \"fine\"}\n");
    for i in 0..15 {
        lines.push_str(&format!("{{\"image\": \"gone.png\", \"caption\": \"c{i}\"}}\n"));
    }
    put(&dir, "captions.jsonl", lines);
    let data = Arc::new(Dataset::open(&[spec(dir.path())]).unwrap());
    let report = SkipReport::default();
    let batches = all(loader(&data, options(16, 2), &report));
    assert_eq!(batches[0].samples, [0; 16]);
    assert_eq!(report.list().len(), 1);
}

#[test]
fn small_data_and_large_batches() {
    let (_dir, one) = numbered(1, &[]);
    let one = Arc::new(one);
    assert_eq!(epoch(&one, options(1, 4)).len(), 1);
    let tokenizer = Vocabulary::from_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n").unwrap();
    let tokenizer = Arc::new(Tokenizer::new(tokenizer));
    let new = |o| TrainLoader::new(one.clone(), tokenizer.clone(), o, SkipReport::default());
    let said = refusal(new(options(1, 100_000)));
    assert!(said.contains("`workers` is 100000") && said.contains("256"), "{said}");
    let said = refusal(new(options(8, 1)));
    assert!(said.contains("1 usable") && said.contains("takes 8") && said.contains("batch_size"));
}

#[test]
fn weights_set_the_shares_of_a_mixture() {
    let (a, _) = numbered(50, &[]);
    let (b, _) = numbered(50, &[]);
    let weighted = |dir: &TempDir, weight| SourceSpec {
        draw: Draw { weight, ..Draw::default() },
        ..SourceSpec::new(dir.path().join("list.json").to_str().unwrap(), Some(dir.path()))
    };
    let data = Arc::new(Dataset::open(&[weighted(&a, 4.0), weighted(&b, 1.0)]).unwrap());
    let batches = epoch(&data, options(10, 2));
    assert_eq!(batches.len(), 10);
    let heavy = batches.iter().flat_map(|b| &b.samples).filter(|i| **i < 50).count();
    assert!((65..=95).contains(&heavy), "{heavy} of 100");
    assert!(refusal(Dataset::open(&[weighted(&a, f64::NAN)])).contains("weight"));
}

#[test]
fn neighbors_that_are_drawn_together_meet_in_a_batch() {
    let (dir, _) = numbered(40, &[]);
    let list = dir.path().join("list.json");
    let together = |n: usize| {
        let together = NonZeroUsize::new(n).unwrap();
        let spec = SourceSpec::new(list.to_str().unwrap(), Some(dir.path()));
        Dataset::open(&[SourceSpec { draw: Draw { together, ..Draw::default() }, ..spec }])
    };
    let batches = epoch(&Arc::new(together(4).unwrap()), options(8, 2));
    for batch in &batches {
        for group in batch.samples.chunks(4) {
            assert_eq!(group[0] % 4, 0);
            assert!(group.windows(2).all(|w| w[1] == w[0] + 1), "{group:?}");
        }
    }
    let seen: BTreeSet<_> = batches.iter().flat_map(|b| &b.samples).copied().collect();
    assert_eq!(seen.len(), 40);
    assert!(refusal(together(3)).contains("its 40 samples are no multiple of that"));
    let entries = fs::read_to_string(&list).unwrap();
    fs::write(&list, entries.replacen("\"image\"", "\"picture\"", 1)).unwrap();
    let said = refusal(together(4));
    assert!(said.contains("`together: 4`") && said.contains("form no sample: 1"), "{said}");
}

#[test]
fn a_loader_dropped_early_ends_its_threads() {
    let (_dir, data) = numbered(60, &[]);
    let data = Arc::new(data);
    for taken in 0..3 {
        let mut loader = loader(&data, options(2, 4), &SkipReport::default());
        for _ in 0..taken {
            loader.next_batch().unwrap();
        }
        drop(loader);
        assert_eq!(Arc::strong_count(&data), 1);
    }
}

#[test]
fn evaluation_keeps_order_and_names_what_it_could_not_read() {
    let (_dir, data) = numbered(7, &[4]);
    let which: Vec<usize> = (0..7).collect();
    let load = |which: &[usize], workers| {
        let reader = ImageReader::default();
        load_images(&data, which, 8, Normalization::default(), &reader, workers)
    };
    let (pixels, failed) = load(&which, 3);
    assert_eq!(failed.iter().map(|(i, s)| (*i, &*s.name)).collect::<Vec<_>>(), [(4, "4.png")]);
    assert!(load(&[], 3).0.is_empty());
    for i in which {
        let plane = 3 * 64;
        assert_eq!(load(&[i], 1).0, pixels[i * plane..(i + 1) * plane]);
    }
}

/// An entry with two images.
fn statement(
    entry: &serde_json::Value,
    context: EntryContext<'_>,
) -> Result<Option<Sample>, String> {
    let image = |i: usize| entry["images"][i].as_str().unwrap_or_default();
    let second = Some(context.location(&context.roots.image_root, image(1)));
    let task = TaskFields { second, target: Target::Label(1), ..TaskFields::default() };
    let text = text_field(entry, "sentence")?;
    Ok(Some(context.sample(&context.roots.image_root, image(0).to_owned(), text, task)))
}

/// Statements about two images; `gone.png` is not there and `bad.png` holds no image.
fn statements(pairs: &[(&str, &str)]) -> (TempDir, Dataset) {
    let dir = tempdir().unwrap();
    put(&dir, "p/bad.png", "<html>");
    for (i, name) in ["a.png", "b.png", "c.png"].into_iter().enumerate() {
        put(&dir, &format!("p/{name}"), image_bytes(i));
    }
    let entry = |(a, b): &(&str, &str)| {
        let images = [format!("p/{a}"), format!("p/{b}")];
        serde_json::json!({"images": images, "sentence": "words", "label": "True"})
    };
    let list: Vec<_> = pairs.iter().map(entry).collect();
    put(&dir, "nlvr.json", serde_json::to_vec(&list).unwrap());
    let roots = ImageRoots { image_root: dir.path().to_owned(), ..ImageRoots::default() };
    let samples = read_list(&dir.path().join("nlvr.json"), &roots, statement).unwrap().samples;
    (dir, Dataset::from_samples(samples))
}

fn names(failed: &[(usize, Skipped)]) -> Vec<(usize, &str)> {
    failed.iter().map(|(i, s)| (*i, &*s.name)).collect()
}

#[test]
fn a_second_image_is_reported_under_its_own_name() {
    let pairs = [("a.png", "gone.png"), ("bad.png", "gone.png"), ("bad.png", "bad.png")];
    let (_dir, data) = statements(&pairs);
    let reader = ImageReader::default();
    let load = |view| load_views(&data, &[0, 1, 2], view, 8, Normalization::default(), &reader, 2);
    assert_eq!(names(&load(0).1), [(1, "p/bad.png"), (2, "p/bad.png")]);
    assert_eq!(names(&load(1).1), [(0, "p/gone.png"), (1, "p/gone.png"), (2, "p/bad.png")]);
    let which = [0, 1, 2, 1];
    let (pixels, failed) = load_samples(&data, &which, 2, 8, Normalization::default(), &reader, 3);
    let expected = [(0, "p/gone.png"), (1, "p/bad.png and p/gone.png"), (2, "p/bad.png")];
    assert_eq!(names(&failed), expected);
    let said = failed[1].1.error.to_string();
    assert!(
        said.contains("unknown-format") && said.contains("p/gone.png: image not found"),
        "{said}"
    );
    let first = load_views(&data, &which, 0, 8, Normalization::default(), &reader, 1).0;
    let second = load_views(&data, &which, 1, 8, Normalization::default(), &reader, 1).0;
    assert_eq!(pixels, [first, second].concat());
}

#[test]
fn a_check_looks_for_the_image_that_is_missing() {
    let (dir, data) =
        statements(&[("a.png", "B.png"), ("gone.png", "C.png"), ("a.png", "gone.png")]);
    let samples: Vec<_> = data.samples().iter().map(|s| s.unwrap()).collect();
    let contents = Contents { samples, ..Contents::default() };
    let report = check_contents(&contents, &CheckOptions::default());
    let there = |name: &str| dir.path().join("p").join(name).display().to_string();
    let [first, second, third, ..] = &report.problems[..] else { panic!("{:?}", report.problems) };
    assert!(first.contains("upper and lower case") && first.ends_with(&there("b.png")), "{first}");
    assert!(second.ends_with(&there("c.png")), "{second}");
    assert!(!third.contains("is there"), "{third}");
}

#[test]
fn training_names_the_image_that_failed_once_for_each_sample() {
    let good = [("a.png", "b.png"); 4];
    let bad = [("a.png", "gone.png"), ("b.png", "gone.png"), ("bad.png", "gone.png")];
    let (_dir, data) = statements(&[&good[..], &bad[..]].concat());
    let data = Arc::new(data);
    let report = SkipReport::default();
    let run = |max_skipped| {
        let options = LoaderOptions { max_skipped, ..options(7, 2) };
        loader(&data, options, &report).next_batch().map(|b| b.unwrap())
    };
    let batch = run(Some(2)).unwrap();
    assert_eq!(batch.images.len(), 2 * 7 * 3 * 64);
    assert!(batch.samples.iter().all(|i| *i < 4));
    let listed: Vec<_> = report.list().into_iter().map(|s| s.name).collect();
    assert_eq!(listed, ["p/gone.png", "p/bad.png and p/gone.png"]);
    assert!(refusal(run(Some(1))).contains("p/gone.png"));
}

/// A question with its answers, alike in weight.
fn question(
    entry: &serde_json::Value,
    context: EntryContext<'_>,
) -> Result<Option<Sample>, String> {
    let answers = entry["answer"].as_array().into_iter().flatten();
    let answers = answers.map(|a| (a.as_str().unwrap_or_default().to_owned(), 0.5)).collect();
    let task = TaskFields { target: Target::Answers(answers), ..TaskFields::default() };
    let (image, text) = (text_field(entry, "image")?, text_field(entry, "question")?);
    Ok(Some(context.sample(&context.roots.image_root, image, text, task)))
}

#[test]
fn answers_are_collated_with_their_questions_and_weights() {
    let dir = tempdir().unwrap();
    put(&dir, "1.png", image_bytes(1));
    let entry = |answers: &str| {
        format!(
            r#"{{"dataset": "vqa", "image": "1.png", "question": "words", "answer": [{answers}]}}"#
        )
    };
    put(&dir, "list.json", format!("[{}, {}]", entry(r#""words", "[MASK]""#), entry(r#""""#)));
    let roots = ImageRoots::default();
    let list = dir.path().join("list.json");
    let samples = read_list(&list, &roots, question).unwrap().samples;
    let data = Arc::new(Dataset::from_samples(samples));
    let batch = epoch(&data, options(2, 1)).remove(0);
    let answers = &batch.answers;
    assert_eq!(answers.tokens.len(), 3);
    assert_eq!(answers.weights.len(), 3);
    for (s, question) in answers.tokens.sequences.iter().zip(&answers.question_of) {
        let ids = &answers.tokens.ids[s.range()];
        assert_eq!((ids[0], ids[ids.len() - 1]), (2, 3), "[CLS] first, [SEP] last");
        let expected: &[&[u32]] =
            if batch.samples[*question] == 0 { &[&[2, 5, 3], &[2, 4, 3]] } else { &[&[2, 3]] };
        assert!(expected.contains(&ids), "{ids:?}");
    }
}

#[test]
fn pairs_are_mixed_alike_whatever_the_workers_and_the_first_batch() {
    let (_dir, data) = numbered(23, &[]);
    let data = Arc::new(data);
    let mixgen = MixGen { mode: MixMode::Batch, ..MixGen::default() };
    let mixed = |workers, start_batch| {
        let mixgen = mixgen.clone();
        let options =
            LoaderOptions { mixgen, image_index: true, start_batch, ..options(5, workers) };
        epoch(&data, options)
    };
    let whole = mixed(1, 0);
    assert_eq!(mixed(3, 0), whole);
    assert_eq!(mixed(2, 2), whole[2..]);
    let plain = epoch(&data, options(5, 1));
    for (mixed, plain) in whole.iter().zip(&plain) {
        assert_eq!(mixed.samples, plain.samples);
        assert_ne!(mixed.images, plain.images);
        assert!(!mixed.related.is_empty() && plain.related.is_empty());
    }
    assert_ne!(whole[0].related, whole[1].related, "each batch has its own draws");
}

#[test]
fn what_an_archive_leaves_out_is_listed_but_does_not_end_a_run() {
    let dir = tempdir().unwrap();
    let members: [(&str, &[u8]); 5] = [
        ("0.png", &image_bytes(0)),
        ("0.txt", b"zero"),
        ("1.txt", b"one"),
        ("2.jp2", b"II*"),
        ("3.txt", b"three"),
    ];
    put(&dir, "x.tar", tar_of(&members));
    let data = Arc::new(Dataset::open(&[spec(dir.path().join("x.tar"))]).unwrap());
    let report = SkipReport::default();
    for epoch in 0..2 {
        let options = LoaderOptions { epoch, max_skipped: Some(0), ..options(1, 2) };
        assert_eq!(all(loader(&data, options, &report)).len(), 1);
    }
    let listed: Vec<_> = report.list().into_iter().map(|s| (s.name, s.error.kind)).collect();
    assert_eq!(listed.len(), 3);
    assert!(listed[1].0.ends_with("x.tar: 2.jp2"));
    assert_eq!(listed[1].1, ImageErrorKind::UnknownFormat);
}

#[test]
fn images_of_no_pixels_are_refused_or_give_nothing() {
    let (_dir, data) = numbered(3, &[1]);
    let reader = ImageReader::default();
    let loaded = load_images(&data, &[0, 1, 2], 0, Normalization::default(), &reader, 2);
    assert_eq!(loaded, (Vec::new(), Vec::new()));
    let (data, mut options) = (Arc::new(data), options(1, 1));
    options.transform.size = 0;
    let tokenizer = Vocabulary::from_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n").unwrap();
    let tokenizer = Arc::new(Tokenizer::new(tokenizer));
    let said = refusal(TrainLoader::new(data, tokenizer, options, SkipReport::default()));
    assert!(said.contains("`transform.size`"), "{said}");
}

#[test]
fn a_check_counts_what_is_wrong() {
    let dir = tempdir().unwrap();
    put(&dir, "1.png", image_bytes(1));
    put(&dir, "bad.png", "<html>");
    let entry = |image: &str, caption: &str| {
        format!("{{\"image\": \"{image}\", \"caption\": {caption}}}\n")
    };
    let lines = [
        entry("1.png", r#"["a dog", "a dog", "dog"]"#),
        entry("1.png", r#"["a dog", "a dog", "dog"]"#),
        entry("bad.png", r#""x""#),
        entry("gone.png", r#"["y", " "]"#),
        entry("1.png", r#""""#),
    ];
    put(&dir, "captions.jsonl", lines.concat());
    let report = check(&spec(dir.path()), &CheckOptions::default()).unwrap();
    assert!(!report.is_clean());
    assert_eq!((report.samples, report.captions, report.distinct_images), (5, 8, 3));
    assert_eq!((report.missing, report.unusable), (1, 1));
    assert_eq!((report.blank_captions, report.without_captions), (2, 1));
    assert_eq!((report.repeated_samples, report.repeated_captions), (1, 2));
    assert_eq!(report.problems.len(), 7, "{:?}", report.problems);
    let quick = CheckOptions { decode: false, max_problems: 2, ..CheckOptions::default() };
    let report = check(&spec(dir.path()), &quick).unwrap();
    assert_eq!((report.missing, report.unusable, report.problems.len()), (1, 0, 2));
    assert!(
        report.hints.iter().any(|hint| hint.contains("at most 2 are named")),
        "{:?}",
        report.hints
    );
}
