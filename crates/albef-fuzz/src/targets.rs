//! One function for each kind of file that comes from others.

use std::io::{Cursor, Write};
use std::path::{Component, Path};

use albef_data::dataset::{SourceSpec, first_entry, open_source, read_entries};
use albef_data::image::{DecodeOptions, TruncatedImages, decode_noted};
use albef_data::input::decode_text;
use albef_data::text::{Tokenizer, Truncation, Vocabulary};
use albef_report::{Comparison, Draw, Named, Outcomes};
use albef_weights::{FileKind, StateDict};
use serde_json::Value;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// A reader of bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, also that of its folder in the corpus.
    pub name: &'static str,
    /// Reads the bytes.
    pub run: fn(&[u8]),
}

/// The target of that name.
#[must_use]
pub fn named(name: &str) -> Option<Target> {
    TARGETS.iter().find(|target| target.name == name).copied()
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "pickle", run: pickle },
    Target { name: "legacy_pickle", run: |b| weights("model.pth", b) },
    Target { name: "plain_pickle", run: plain_pickle },
    Target { name: "zip", run: |b| weights("model.pth", b) },
    Target { name: "safetensors", run: |b| weights("model.safetensors", b) },
    Target { name: "safetensors_index", run: |b| weights("model.safetensors.index.json", b) },
    Target { name: "tar", run: |b| source("shard.tar", b) },
    Target { name: "captions_json", run: |b| source("list.json", b) },
    Target { name: "captions_csv", run: |b| source("list.csv", b) },
    Target { name: "captions_jsonl", run: |b| source("list.jsonl", b) },
    Target { name: "vocabulary", run: vocabulary },
    Target { name: "tokenizer", run: tokenizer },
    Target { name: "image", run: image },
    Target { name: "outcomes", run: outcomes },
    Target { name: "golden", run: golden },
    #[cfg(feature = "library")]
    Target { name: "annotations", run: library::annotations },
    #[cfg(feature = "library")]
    Target { name: "configuration", run: library::configuration },
    #[cfg(feature = "library")]
    Target { name: "model_config", run: library::model_config },
];

/// Values of a tensor that are converted: more than small inputs store only by sharing.
const VALUES: usize = 1 << 16;
/// Pixels of an image that are decoded, so that a run is a matter of milliseconds.
const PIXELS: u64 = 1 << 16;

/// Gives `run` a file of that name with the bytes. Nothing is tested where the system has no room for it.
fn with_file(name: &str, bytes: &[u8], run: impl FnOnce(&Path)) {
    let memory = Path::new("/dev/shm");
    let folder = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    let Ok(folder) = folder else { return };
    let path = folder.path().join(name);
    if std::fs::write(&path, bytes).is_ok() {
        run(&path);
    }
}

fn touch(tensors: &StateDict) {
    for (_, tensor) in tensors.iter().filter(|(_, tensor)| tensor.len() < VALUES) {
        let _ = (tensor.to_f32(), tensor.to_i64());
    }
}

fn weights(name: &str, bytes: &[u8]) {
    let _ = FileKind::of(bytes, bytes.len() as u64);
    with_file(name, bytes, |path| {
        if let Ok(found) = albef_weights::read(path) {
            touch(&found.tensors);
        }
        let _ = albef_weights::read_model(path);
    });
}

/// The bytes as the pickle of an otherwise sound archive with two storages.
fn pickle(bytes: &[u8]) {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, content) in [
        ("archive/data.pkl", bytes),
        ("archive/version", b"3\n"),
        ("archive/data/0", &[0x3f; 64]),
        ("archive/data/1", &[0x01; 64]),
    ] {
        if archive.start_file(name, stored).is_err() || archive.write_all(content).is_err() {
            return;
        }
    }
    if let Ok(archive) = archive.finish() {
        weights("model.pth", archive.get_ref());
    }
}

fn plain_pickle(bytes: &[u8]) {
    with_file("refs.p", bytes, |path| drop(albef_weights::read_plain_pickle(path)));
}

fn source(name: &str, bytes: &[u8]) {
    with_file(name, bytes, |path| {
        let _ = (first_entry(path), read_entries(path));
        let Ok(samples) = open_source(&SourceSpec::of(path, path.parent())) else { return };
        for sample in samples.iter().take(8) {
            let options = DecodeOptions { max_pixels: PIXELS, ..DecodeOptions::default() };
            let _ = (sample.size(), sample.decode(&options));
        }
    });
}

fn vocabulary(bytes: &[u8]) {
    with_file("vocab.txt", bytes, |path| drop(Vocabulary::read(path)));
}

/// A text, cleaned, split by a small vocabulary and put together again.
fn tokenizer(bytes: &[u8]) {
    const PIECES: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n##a\n##b\n,\n.\n";
    let Ok(vocabulary) = Vocabulary::from_text(PIECES) else { return };
    let tokenizer = Tokenizer::new(vocabulary);
    let Some((text, _)) = decode_text(bytes) else { return };
    let ids = tokenizer.encode(&text);
    let _ = tokenizer.decode(&ids);
    let _ = tokenizer.caption(&text, Truncation { words: 30, ids: 30 });
}

fn image(bytes: &[u8]) {
    for (exif_orientation, truncated) in
        [(false, TruncatedImages::Refuse), (true, TruncatedImages::Fill)]
    {
        let options = DecodeOptions {
            max_pixels: PIXELS,
            exif_orientation,
            truncated,
            ..DecodeOptions::default()
        };
        let _ = decode_noted(bytes, &options);
    }
}

fn outcomes(bytes: &[u8]) {
    with_file("outcomes.json", bytes, |path| {
        let Ok(outcomes) = Outcomes::read(path) else { return };
        let named = || vec![Named { name: "x".to_owned(), outcomes: outcomes.clone() }];
        if let Ok(found) = Comparison::of(named(), named(), Draw { resamples: 2, seed: 1 }) {
            let _ = (found.to_json(), found.to_string());
        }
    });
}

/// A fixture that needs no model, and the text of its files by their paths.
fn golden(bytes: &[u8]) {
    let Ok(Value::Object(mut parts)) = serde_json::from_slice(bytes) else { return };
    let fixture = parts.remove("fixture").unwrap_or_default();
    with_file("manifest.json", b"", |path| {
        let Some(root) = path.parent() else { return };
        for (name, text) in parts.get("files").and_then(Value::as_object).into_iter().flatten() {
            // Nothing is written outside of the folder.
            let inside = Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
            if inside && !name.is_empty() {
                let place = root.join(name);
                let _ = place.parent().map(std::fs::create_dir_all);
                let _ = std::fs::write(place, text.to_string());
            }
        }
        let kind = fixture["kind"].as_str().unwrap_or_default();
        let _ = albef_data::golden::replay(kind, root, &fixture);
        let _ = albef_weights::golden::replay(kind, root, &fixture);
    });
}

#[cfg(feature = "library")]
mod library {
    use albef::config::Source;
    use albef::task::{TASKS, read_annotations};
    use albef_data::dataset::ImageRoots;

    use super::with_file;

    /// The list of each task.
    pub fn annotations(bytes: &[u8]) {
        with_file("list.json", bytes, |path| {
            let root = || path.parent().map(Into::into).unwrap_or_default();
            let roots = ImageRoots { image_root: root(), vqa_root: root(), vg_root: root() };
            for task in TASKS.iter().filter(|task| task.annotations().is_some()) {
                if let Ok(found) = read_annotations(*task, path, &roots) {
                    let _ = task.list_faults(path, &found.samples, false);
                }
            }
        });
    }

    /// The configuration of each task.
    pub fn configuration(bytes: &[u8]) {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        for task in TASKS {
            let _ = task.configure(Source { text, settings: &[], file: None });
        }
    }

    /// The sizes of a model beside its weights.
    pub fn model_config(bytes: &[u8]) {
        with_file("config.json", bytes, |path| {
            let Some(folder) = path.parent() else { return };
            let weights = folder.join("model.safetensors");
            if std::fs::write(&weights, b"\x02\0\0\0\0\0\0\0{}").is_ok() {
                let _ = albef::checkpoint::Checkpoint::open(folder);
            }
        });
    }
}
