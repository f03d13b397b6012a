//! Every source of samples, and batches that depend on nothing but seed and place.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use albef_data::dataset::{
    Batch, Dataset, LoaderOptions, SkipReport, SourceSpec, TrainLoader, open_source, read_source,
};
use albef_data::image::{
    ImageReader, Normalization, RandAugment, ReferenceQuirks, ResizeOrder, RgbImage, TrainTransform,
};
use albef_data::scenes::png;
use albef_data::text::{Tokenizer, Vocabulary};

fn image_bytes(i: u8) -> Vec<u8> {
    let mut image = RgbImage::filled(20, 16, [i, 255 - i, 90]);
    image.pixels[usize::from(i)] = 7;
    png(&image).unwrap()
}

fn read(path: &Path) -> Vec<(String, Vec<String>)> {
    let samples = open_source(&SourceSpec::new(&path.display().to_string(), None)).unwrap();
    samples.into_iter().map(|s| (s.name, s.captions)).collect()
}

fn tar(path: &Path, first: u8, n: u8) {
    let mut archive = tar::Builder::new(fs::File::create(path).unwrap());
    let mut add = |name: String, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, data).unwrap();
    };
    for i in first..first + n {
        add(format!("{i}.png"), &image_bytes(i));
        add(format!("{i}.json"), format!("{{\"caption\": [\"number {i}\"]}}").as_bytes());
    }
    archive.finish().unwrap();
}

#[test]
fn an_image_folder_of_hugging_face_is_a_folder_with_captions() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..2 {
        fs::write(dir.path().join(format!("{i}.png")), image_bytes(i)).unwrap();
    }
    let list = dir.path().join("metadata.jsonl");
    let lines = "{\"file_name\": \"0.png\", \"text\": \"a cat\"}\n{\"file_name\": \"1.png\", \"caption\": \"a dog\"}\n";
    fs::write(&list, lines).unwrap();
    let expected = [("0.png", "a cat"), ("1.png", "a dog")]
        .map(|(name, caption)| (name.to_owned(), vec![caption.to_owned()]));
    assert_eq!(read(dir.path()), expected);
    fs::remove_file(&list).unwrap();
    fs::write(dir.path().join("metadata.csv"), "file_name,text\n0.png,a cat\n1.png,a dog\n")
        .unwrap();
    assert_eq!(read(dir.path()), expected);
    // A file of that name which is something else is none.
    fs::write(dir.path().join("metadata.csv"), "camera,lens\nx,y\n").unwrap();
    assert_eq!(read(dir.path()).len(), 2);
}

#[test]
fn folders_give_their_captions_in_any_of_three_forms() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("a.png"), image_bytes(1)).unwrap();
    fs::write(at("b.png"), image_bytes(2)).unwrap();
    fs::write(at("a.txt"), "one\n\n two \n").unwrap();
    let got = read(dir.path());
    assert_eq!(got[0], ("a.png".into(), vec!["one".into(), "two".into()]));
    assert_eq!(got[1], ("b.png".into(), vec![]));
    fs::write(at("captions.csv"), "image,caption\na.png,red\na.png,\"a, b\"\nb.png,x\n").unwrap();
    assert_eq!(read(dir.path())[0].1, ["red", "a, b"]);
    fs::write(at("captions.jsonl"), "{\"image\": \"b.png\", \"caption\": \"late\"}\n").unwrap();
    let late = ("b.png".to_owned(), vec!["late".to_owned()]);
    assert_eq!(read(dir.path()), std::slice::from_ref(&late));
    // Who asks for them gets the images that the list does not name, however it writes the names of the others.
    let all = SourceSpec::new(&dir.path().display().to_string(), None).with_unnamed();
    let names = || -> Vec<String> {
        read_source(&all).unwrap().samples.into_iter().map(|s| s.name).collect()
    };
    assert_eq!(names(), ["b.png", "a.png"]);
    let contents = read_source(&all).unwrap();
    assert!(contents.notes[0].contains("does not name 1 image of"), "{:?}", contents.notes);
    fs::create_dir(at("sub")).unwrap();
    for name in [at("b.png").display().to_string(), "./b.png".into(), "sub/../b.png".into()] {
        let line = serde_json::json!({"image": name, "caption": "late"}).to_string();
        fs::write(at("captions.jsonl"), line).unwrap();
        assert_eq!(names().len(), 2, "{name}");
    }
    fs::write(at("captions.jsonl"), "{\"image\": \"b.png\", \"capt\": 1}\n").unwrap();
    let error = Dataset::open(&[SourceSpec::new(&dir.path().display().to_string(), None)]);
    assert!(error.unwrap_err().to_string().contains("line 1"));
    assert_eq!(read(dir.path()), [("b.png".to_owned(), vec![])]);
}

#[cfg(unix)]
#[test]
fn a_folder_that_links_lead_to_is_walked_once() {
    use std::os::unix::fs::symlink;
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let root = dir.path();
    fs::create_dir_all(root.join("a/b")).unwrap();
    for (i, place) in [root.join("a/0.png"), root.join("a/b/1.png")].iter().enumerate() {
        fs::write(place, image_bytes(i as u8)).unwrap();
    }
    fs::write(other.path().join("2.png"), image_bytes(2)).unwrap();
    symlink(root, root.join("a/b/loop")).unwrap();
    symlink(root.join("a"), root.join("0")).unwrap();
    symlink(other.path(), root.join("other")).unwrap();
    symlink(other.path(), root.join("a/other")).unwrap();
    let names: Vec<String> = read(root).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["a/0.png", "a/b/1.png", "a/other/2.png"]);
}

#[test]
fn braces_that_multiply_without_end_are_refused() {
    let refused = |pattern: &str| {
        let error = open_source(&SourceSpec::new(pattern, None)).unwrap_err().to_string();
        assert!(error.contains("more than 1000000 names") && error.contains(pattern), "{error}");
    };
    refused("/nowhere/a-{0..999}{0..999}{0..999}.tar");
    refused("/nowhere/{0..1000000}.tar");
    refused("/nowhere/{a,b}{0..999999}.tar");
    let error = open_source(&SourceSpec::new("/nowhere/{a,b}{0..499999}.tar", None)).unwrap_err();
    assert!(error.to_string().contains("a0.tar"), "{error}");
}

#[test]
fn shards_are_found_by_pattern_and_a_torn_one_says_where() {
    let dir = tempfile::tempdir().unwrap();
    for (i, first) in [(0, 0), (1, 5), (2, 10)] {
        tar(&dir.path().join(format!("s-{i:03}.tar")), first, 5);
    }
    assert_eq!(read(&dir.path().join("s-{000..002}.tar")).len(), 15);
    assert_eq!(read(&dir.path().join("s-{000,002}.tar")).len(), 10);
    let all = read(&dir.path().join("s-*.tar"));
    assert_eq!(all[7], ("7.png".to_owned(), vec!["number 7".to_owned()]));
    let samples =
        open_source(&SourceSpec::new(&dir.path().join("s-001.tar").display().to_string(), None))
            .unwrap();
    assert_eq!(samples[2].bytes().unwrap(), image_bytes(7));
    let whole = fs::read(dir.path().join("s-000.tar")).unwrap();
    let torn = dir.path().join("torn.tar");
    fs::write(&torn, &whole[..700]).unwrap();
    let error = open_source(&SourceSpec::new(&torn.display().to_string(), None)).unwrap_err();
    assert!(error.to_string().contains("byte"), "{error}");
}

fn batches(data: &Arc<Dataset>, workers: usize, start: usize) -> Vec<Batch> {
    let vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nnumber\n";
    let tokenizer = Tokenizer::new(Vocabulary::from_text(vocabulary).unwrap());
    let options = LoaderOptions {
        batch_size: 3,
        seed: 9,
        epoch: 4,
        start_batch: start,
        workers,
        text: Default::default(),
        max_words: 30,
        max_tokens: 25,
        mixgen: Default::default(),
        image_index: false,
        transform: TrainTransform {
            size: 16,
            crop_scale: (0.3, 1.0),
            flip: true,
            rand_augment: Some(RandAugment { n: 2, m: 7.0 }),
            quirks: ReferenceQuirks::default(),
            resize_order: ResizeOrder::default(),
        },
        flip_sided: true,
        normalization: Normalization::default(),
        reader: ImageReader::default(),
        max_skipped: None,
    };
    let report = SkipReport::default();
    let mut loader =
        TrainLoader::new(data.clone(), Arc::new(tokenizer), options, report.clone()).unwrap();
    let mut all = Vec::new();
    while let Some(batch) = loader.next_batch().unwrap() {
        all.push(batch);
    }
    let skipped = report.list();
    assert!(start > 0 || skipped.len() == 1, "{skipped:?}");
    all
}

#[test]
fn batches_do_not_depend_on_workers_and_an_epoch_can_start_in_its_middle() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.tar");
    tar(&path, 0, 20);
    let mut specs = vec![SourceSpec::new(&path.display().to_string(), None)];
    fs::write(dir.path().join("broken.jsonl"), "{\"image\": \"gone.png\", \"caption\": \"x\"}")
        .unwrap();
    specs.push(SourceSpec::new(&dir.path().join("broken.jsonl").display().to_string(), None));
    let data = Arc::new(Dataset::open(&specs).unwrap());
    let whole = batches(&data, 1, 0);
    assert_eq!(whole.len(), 7);
    assert_eq!(whole, batches(&data, 4, 0));
    assert_eq!(whole[3..], batches(&data, 2, 3));
}

#[cfg(unix)]
#[test]
fn a_folder_that_cannot_be_read_is_left_out_and_named() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let locked = dir.path().join("locked");
    fs::create_dir(&locked).unwrap();
    fs::write(dir.path().join("1.png"), image_bytes(1)).unwrap();
    fs::write(locked.join("2.png"), image_bytes(2)).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
    let contents = read_source(&SourceSpec::new(dir.path().to_str().unwrap(), None)).unwrap();
    // The superuser reads everything.
    let hidden = usize::from(fs::read_dir(&locked).is_err());
    assert_eq!((contents.samples.len(), contents.left_out.len()), (2 - hidden, hidden));
    assert!(contents.left_out.iter().all(|s| s.name.ends_with("locked")), "{contents:?}");
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o755)).unwrap();
}
