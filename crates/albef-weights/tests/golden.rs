//! The fixtures about checkpoint files, and files that someone has tampered with.

use std::fs;
use std::path::{Path, PathBuf};

use albef_weights::{KeepAs, golden, read, write_safetensors};

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
            assert!(outcome.passed, "{kind}: {outcome:?}");
            replayed += 1;
        }
    }
    assert!(replayed >= 4, "only {replayed} fixtures were replayed");
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
