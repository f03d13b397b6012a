//! The fixtures about checkpoint files, and files that someone has tampered with.

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use albef_weights::{HostTensor, KeepAs, StateDict, golden, read, write_safetensors};
use common::{tensor, text};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden")
}

#[test]
fn checkpoint_fixtures_replay() {
    let manifest = fs::read_to_string(root().join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let mut replayed = 0;
    for fixture in manifest["fixtures"].as_array().unwrap() {
        let kind = fixture["kind"].as_str().unwrap();
        if let Some(outcome) = golden::replay(kind, &root(), fixture) {
            let outcome = outcome.unwrap();
            assert!(outcome.passed(), "{kind}: {outcome:?}");
            replayed += 1;
        }
    }
    assert!(replayed >= 3, "only {replayed} fixtures were replayed");
}

#[test]
fn tampered_and_torn_checkpoints_give_errors_and_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pth");
    for name in ["zip.pth", "legacy.pth", "zip_protocol4.pth"] {
        let good = fs::read(root().join("odd_checkpoint").join(name)).unwrap();
        let mut seed = 7_u64;
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize
        };
        for round in 0..300 {
            let mut bytes = good.clone();
            if round % 3 == 0 {
                bytes.truncate(next() % good.len());
            }
            for _ in 0..1 + round % 4 {
                if !bytes.is_empty() {
                    let at = next() % bytes.len();
                    bytes[at] = next() as u8;
                }
            }
            fs::write(&path, bytes).unwrap();
            let _ = read(&path);
        }
    }
}

#[test]
fn safetensors_round_trip_is_exact_and_half_precision_halves_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let model = read(&root().join("model/model.safetensors")).unwrap();
    let (whole, half) = (dir.path().join("a"), dir.path().join("b"));
    write_safetensors(&whole, &model.tensors, &model.metadata, KeepAs::Same).unwrap();
    write_safetensors(&half, &model.tensors, &model.metadata, KeepAs::F16).unwrap();
    assert_eq!(read(&whole).unwrap().tensors, model.tensors);
    let size = |p: &PathBuf| fs::metadata(p).unwrap().len() as f64;
    assert!(size(&half) / size(&whole) < 0.55);
}

#[test]
fn a_value_beyond_half_precision_is_refused_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let mut state = StateDict::default();
    state.insert("wide".into(), HostTensor::from_f32(&[3], &[1.0, -7e4, f32::INFINITY]));
    let error = write_safetensors(&path, &state, &HashMap::new(), KeepAs::F16).unwrap_err();
    let said = error.to_string();
    assert!(said.contains("`wide`, value 1: -70000 is beyond f16"), "{said}");
    assert!(!path.exists());
    write_safetensors(&path, &state, &HashMap::new(), KeepAs::BF16).unwrap();
}

/// A file with the pickle `items` of the dictionary under its top, and the storage `0` of `bytes`.
fn zip_of(path: &Path, items: &[u8], bytes: &[u8]) {
    let value = [b"}(", items, b"u"].concat();
    let all = common::entries("x", &value, &[("0", bytes.to_vec())]);
    fs::write(path, common::archive(&all, common::End::Zip)).expect("the folder takes files");
}

fn problem(path: &Path) -> String {
    read(path).expect_err("a problem").to_string()
}

#[test]
fn small_files_that_ask_for_much_memory_are_refused_and_modest_repeats_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pth");
    let bytes: Vec<u8> = [1.0_f32, 2.0, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    // One value, a gigabyte.
    zip_of(&path, &[text("a"), tensor(&[1 << 28], &[0])].concat(), &bytes);
    assert!(problem(&path).contains("by repeating"), "{}", problem(&path));
    // A tensor that would do alone, under a thousand names.
    let mut entries = [text("a"), tensor(&[1 << 18], &[0]), b"q\x00".to_vec()].concat();
    for i in 0..1000 {
        entries.extend([text(&format!("a{i}")), b"h\x00".to_vec()].concat());
    }
    zip_of(&path, &entries, &bytes);
    assert!(fs::metadata(&path).unwrap().len() < 20_000);
    assert!(problem(&path).contains("by repeating"), "{}", problem(&path));
    let views = [
        (text("repeated"), tensor(&[3, 2], &[0, 1])),
        (text("turned"), tensor(&[2, 2], &[1, 2])),
        (text("rows"), tensor(&[1, 2, 2], &[77, 2, 1])),
        (text("none"), tensor(&[0, 2], &[2, 1])),
    ];
    let entries: Vec<u8> = views.into_iter().flat_map(|(n, t)| [n, t].concat()).collect();
    zip_of(&path, &entries, &bytes);
    let got = read(&path).unwrap().tensors;
    let values = |name: &str| got.get(name).unwrap().to_f32().unwrap();
    assert_eq!(values("repeated"), [1.0, 2.0, 1.0, 2.0, 1.0, 2.0]);
    assert_eq!(values("turned"), [1.0, 3.0, 2.0, 4.0]);
    assert_eq!(values("rows"), [1.0, 2.0, 3.0, 4.0]);
    assert!(values("none").is_empty());
    for (shape, stride) in [([4, 2], [2, 1]), ([2, 3], [2, 1]), ([2, 2], [1 << 30, 1])] {
        zip_of(&path, &[text("a"), tensor(&shape, &stride)].concat(), &bytes);
        assert!(problem(&path).contains("outside its storage"), "{shape:?}");
    }
}

#[test]
fn a_file_without_tensors_names_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pth");
    let entries: Vec<u8> =
        (0..12).flat_map(|i| [text(&format!("k{i}")), b"N".to_vec()].concat()).collect();
    zip_of(&path, &entries, &[]);
    let error = problem(&path);
    assert!(error.contains("its top level holds `k0`, `k1`, `k2`"), "{error}");
    assert!(error.contains("`k7`, … (12 in all)"), "{error}");
    assert!(error.contains("such a dictionary under `model`"), "{error}");
    zip_of(&path, &[text("model"), b"}".to_vec()].concat(), &[]);
    assert!(problem(&path).contains("its `model` holds no key (0 in all)"), "{}", problem(&path));
    fs::write(&path, [&8_u64.to_le_bytes()[..], b"{}      "].concat()).unwrap();
    assert!(problem(&path).contains("no tensor"), "{}", problem(&path));
}
